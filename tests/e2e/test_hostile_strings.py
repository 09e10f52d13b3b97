"""Hostile strings in every field and on every page."""

import json

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import (
    PHONE,
    Json,
    NewPage,
    button,
    edit,
    expect_logged_in,
    expect_success,
    field,
    fill,
    overflow,
    start_edit,
    submit,
)
from tests.server import Person

RUN = "__pwned=1"
STRINGS = [
    f"<script>{RUN}</script>",
    f'"><img src=x onerror={RUN}>',
    f"' autofocus onfocus='{RUN}",
    f"</title></textarea></template><script>{RUN}</script>",
    f"</script><script>{RUN}</script><!--",
    f"]]></content><script xmlns='http://www.w3.org/1999/xhtml'>{RUN}</script>",
    "{{ 7 * 7 }}{% raw %}${7 * 7}",
    "&lt;b&gt;&amp;amp;&#x3c;i&#x3e;",
    f"$& $1 $` \\u003cscript>{RUN}</script>",
    "a  b   c\td\n\n\ne",
    "W" * 3_000,
    "\u0e49" * 60 + "\U0001d173\U000e0041\u202ereversed\u202c \u2067isolated\u2069",
]
each_string = pytest.mark.parametrize(
    "string", STRINGS, ids=lambda string: ascii(string)[1:25]
)
# Lists the names of elements and attributes, which hostile text must not change.
# Paragraphs, line breaks and links in the content are listed separately.
STRUCTURE = """(roots) => roots.map((root) => [...root.querySelectorAll("*")].filter(
  (element) => root.matches(".prose") || !element.closest(".prose *")
).map(
  (element) => [element.localName, ...element.getAttributeNames().sort()].join(" ")
).join("\\n"))"""


def as_name(string: str) -> str:
    """Turn a string into a valid username."""
    return "".join(filter(str.isprintable, string))[:45].strip()


@pytest.fixture
def ada_phone(new_page: NewPage, ada: Person) -> Page:
    return new_page(ada, viewport=PHONE)


def structure(page: Page, selector: str) -> list[str]:
    """Return the names of elements and attributes inside each match of a selector."""
    structures: list[str] = page.locator(selector).evaluate_all(STRUCTURE)
    return structures


def texts(page: Page, *hooks: str) -> list[tuple[str, ...]]:
    """Return the texts of the elements with these data attributes, grouped by post."""
    found = [page.locator(f"[data-{hook}]").all_text_contents() for hook in hooks]
    return list(zip(*found, strict=True))


def page_title(page: Page) -> str | None:
    """Return the title without normalizing its whitespace."""
    return page.locator("title").text_content()


def shown_post(page: Page) -> list[str | None]:
    hooks = ("post-view-target=title", "post-view-target=content")
    [post] = texts(page, *hooks, "byline-target=username")
    return [page_title(page), *post]


def expected_post(post: Json) -> list[str]:
    title, name = post["display_title"], post["author"]["username"]
    content = post["content"].replace("\n", "")
    return [f"{title} – FastAPI Blog", title, content, name]


def shown_cards(page: Page) -> list[tuple[str, ...]]:
    """Return the title, excerpt and author of every listed post."""
    name = "post-card] [data-byline-target=username"
    return texts(page, "post-card-target=link", "post-card-target=excerpt", name)


def expected_card(post: Json) -> tuple[str, ...]:
    return post["display_title"], post["excerpt"], post["author"]["username"]


def expect_whole(page: Page) -> None:
    """Expect the page to have its footer and no horizontal scrolling."""
    expect(page.get_by_role("contentinfo")).to_contain_text("FastAPI Blog")
    assert overflow(page) <= 0


class TestPages:
    @each_string
    def test_post_and_author(self, ada_phone, server, ada, post, string):
        # Both posts have an older one.
        reference = server.write(ada, title="Title")
        ada_phone.goto(f"/posts/{reference['id']}", wait_until="networkidle")
        expect_logged_in(ada_phone, "ada")
        plain = structure(ada_phone, "html")
        account = {"username": f"{as_name(string)} 1".strip()}
        server.call("PATCH", f"/api/users/{ada.id}", ada, json=account)
        hostile = server.write(ada, string, string[:100])
        name = hostile["author"]["username"]

        ada_phone.goto(f"/posts/{hostile['id']}", wait_until="networkidle")
        expect_logged_in(ada_phone, name)
        assert structure(ada_phone, "html") == plain
        [content] = structure(ada_phone, ".post .prose")
        assert set(content.splitlines()) <= {"p dir", "br", "a href rel"}
        assert shown_post(ada_phone) == expected_post(hostile)
        data = ada_phone.locator("script[type='application/ld+json']").inner_text()
        assert json.loads(data)["headline"] == hostile["display_title"]
        assert json.loads(data)["author"]["name"] == name
        expect_whole(ada_phone)

        ada_phone.goto("/")
        assert shown_cards(ada_phone)[0] == expected_card(hostile)
        expect_whole(ada_phone)

        ada_phone.goto(f"/users/{ada.id}/posts")
        assert page_title(ada_phone) == f"{name} – FastAPI Blog"
        assert ada_phone.get_by_role("heading", level=1).text_content() == name
        assert len(set(structure(ada_phone, "[data-post-card]"))) == 1
        expect_whole(ada_phone)


class TestDialogs:
    @each_string
    def test_edit(self, ada_phone, server, ada, string):
        title = string[:90].replace("\n", " ").strip()
        form = start_edit(ada_phone, post := server.write(ada, string, title))
        expect(field(form, "title")).to_have_value(title)
        expect(field(form, "content")).to_have_value(string)
        edit(server, ada, post, title=f"{title} 2", content=f"{string} 2")
        fill(form, title=f"{title} 3", content=f"{string} 3")

        submit(form)
        expect(form.locator("[data-edit-conflict]")).to_be_focused()
        hooks = ("edit-conflict-target=title", "edit-conflict-target=content")
        assert texts(ada_phone, *hooks) == [(f"{title} 2", f"{string} 2")]
        with ada_phone.expect_response("**/preview"):
            button(form, "Keep my version").click()
        expect_success(ada_phone)

        edited = server.call("GET", f"/api/posts/{post['id']}")
        assert shown_post(ada_phone) == expected_post(edited)
        expect_whole(ada_phone)
