"""Stored script injections are shown as text on every page."""

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import PASSWORD
from tests.e2e.conftest import (
    Blog,
    NewContext,
    Person,
    button,
    expect_signed_in,
    fill,
    start_edit,
    start_post,
)

RUN = "__pwned=1"
# Usernames have at most 50 characters.
ATTACKS = [
    f"<img src=x onerror={RUN}>",
    f"<script>{RUN};alert(1)</script>",
    f'"><svg onload={RUN}>',
    f"' autofocus onfocus='{RUN}",
    f"</title></textarea><script>{RUN}</script>",
    f"</script><script>{RUN}</script><!--",
    f"]]><script>{RUN}</script>",
    f"javascript:{RUN}//",
    "{{ 7 * 7 }}{% raw %}${7 * 7}",
    "&lt;b&gt;&amp;amp;&#x3c;i&#x3e;",
    f"$& $1 \\u003cscript>{RUN}</script>",
]


# Usernames may not, but texts may contain bidirectional controls.
TURNED = "\u202edlrow"


@pytest.fixture
def attacker(blog: Blog, request: pytest.FixtureRequest) -> Person:
    """Create a user whose name is the tested attack."""
    attack: str = request.param
    return blog.sign_up(attack)


each_attack = pytest.mark.parametrize("attacker", ATTACKS, indirect=True)
# Scripts always insert text in the same way, whatever it contains.
some_attacks = pytest.mark.parametrize("attacker", ATTACKS[:5:2], indirect=True)


def shown_texts(page: Page) -> list[list[str]]:
    """Return the titles, names and excerpts of all listed posts."""
    hooks = [
        "post-card-target=link",
        "byline-target=username",
        "post-card-target=excerpt",
    ]
    return [
        page.locator(f"[data-post-card] [data-{hook}]").all_text_contents()
        for hook in hooks
    ]


def test_attacks_are_escaped_in_all_lists(page: Page, blog: Blog) -> None:
    for attack in ATTACKS:
        blog.write(blog.sign_up(attack), attack * 3 + TURNED, attack)
    posts = blog.call("GET", "/api/posts?limit=100")["posts"]
    expected = [
        [post["title"] for post in posts],
        [post["author"]["username"] for post in posts],
        [post["excerpt"] for post in posts],
    ]

    page.goto("/?page=1")
    button(page, "Load more").click()
    expect(page.locator("[data-post-card]")).to_have_count(len(ATTACKS))
    partly_by_script = shown_texts(page)
    blog.write_many(blog.sign_up("ada"), 10)
    page.goto("/")
    button(page, "Load more").click()
    expect(page.locator("[data-post-card]")).to_have_count(20)
    all_by_script = [texts[10:] for texts in shown_texts(page)]

    assert expected[0][::-1] == ATTACKS
    assert partly_by_script == expected
    assert all_by_script == [texts[:10] for texts in expected]


@each_attack
def test_attack_is_escaped_on_every_page(
    new_context: NewContext, blog: Blog, attacker: Person
) -> None:
    attack = attacker.name
    text = attack * 3 + TURNED
    post = blog.write(attacker, text, attack)
    page = new_context(attacker).new_page()

    form = start_edit(page, post)

    expect(page).to_have_title(f"{attack} – FastAPI Blog")
    assert page.locator("[data-post-view-target=content]").inner_text() == text
    assert page.locator("[data-post-view-target=title]").inner_text() == attack
    assert page.locator("[data-byline-target=username]").first.inner_text() == attack
    assert form.get_by_label("Title").input_value() == attack
    assert form.get_by_label("Content", exact=True).input_value() == text
    page.goto(f"/users/{attacker.id}/posts")
    expect(page.get_by_role("heading", level=1)).to_have_text(attack)
    expect_signed_in(page, attack)


@some_attacks
def test_attack_is_escaped_in_drafts_and_conflicts(
    new_context: NewContext, blog: Blog, attacker: Person
) -> None:
    attack = attacker.name
    page = new_context(attacker).new_page()
    form = start_post(page)
    fill(form, title=attack, content=attack)
    button(form, "Cancel").click()
    button(form, "Close and keep draft").click()

    form = start_post(page)
    expect(form.locator("[data-draft-prompt-target=excerpt]")).to_contain_text(
        f"{attack} "
    )
    button(form, "Restore draft").click()
    blog.end_sessions(attacker)
    button(form, "Publish").click()
    expect(form.locator("[data-reauth-target=username]")).to_have_text(attack)
    fill(form, password=PASSWORD)
    button(form, "Publish").click()

    expect(page.locator("[data-post-card-target=link]").first).to_have_text(attack)
    expect(page.locator("[data-post-card-target=excerpt]").first).to_have_text(attack)
