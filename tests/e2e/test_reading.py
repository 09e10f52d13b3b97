"""Reading posts, with and without scripts."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import (
    Blog,
    NewContext,
    Person,
    button,
    expect_signed_in,
    held,
    shown_ids,
)

MIDNIGHT = """
UPDATE posts SET date_posted = CASE WHEN id > (SELECT max(id) - 15 FROM posts)
  THEN timestamptz '2026-03-01 00:10Z' ELSE timestamptz '2026-02-28 23:50Z' END
"""
AROUND_THE_WORLD = ["Pacific/Kiritimati", "UTC", "America/Los_Angeles"]


def load_more(page: Page) -> None:
    """Press the button and wait until the posts are loaded."""
    button(page, "Load more").click()
    expect(page.locator("[data-post-list]")).to_have_attribute("aria-busy", "false")


def load_everything(page: Page) -> None:
    """Press the button until it is gone."""
    # A module of this page shows the button, perhaps after the load event.
    button(page, "Load more").wait_for()
    while button(page, "Load more").is_visible():
        load_more(page)


def dates(page: Page) -> list[str]:
    """Return the days in the list."""
    return page.locator("[data-byline-target=posted]").all_text_contents()


def top_of(card: Locator) -> float:
    top: float = card.evaluate("(card) => card.getBoundingClientRect().top")
    return top


# Without JavaScript


@pytest.mark.parametrize("path", ["/", "/users/{}/posts"], ids=["home", "author"])
def test_links_reach_every_post_without_scripts(
    new_context: NewContext, blog: Blog, ada: Person, path: str
) -> None:
    ids = blog.write_many(ada, 23)
    page = new_context(java_script_enabled=False).new_page()
    page.goto(path.format(ada.id))

    found = shown_ids(page)
    for _ in range(2):
        page.get_by_role("link", name="Older posts").click()
        found += shown_ids(page)

    assert found == ids
    expect(page.get_by_role("link", name="Older posts")).to_have_count(0)


@pytest.mark.parametrize("path", ["/", "/users/{}/posts"], ids=["home", "author"])
def test_list_pages_link_to_adjacent_pages(
    new_context: NewContext, blog: Blog, ada: Person, path: str
) -> None:
    blog.write_many(ada, 23)
    page = new_context(java_script_enabled=False).new_page()
    first = path.format(ada.id)

    page.goto(f"{first}?page=2")

    older, newer = page.locator("link[rel=next]"), page.locator("link[rel=prev]")
    expect(older).to_have_attribute("href", f"{first}?page=3")
    expect(newer).to_have_attribute("href", first)
    expect(page.locator("link[rel=canonical]")).to_have_attribute(
        "href", f"{blog.url}{first}?page=2"
    )


def test_post_is_readable_without_scripts(
    new_context: NewContext, blog: Blog, ada: Person
) -> None:
    post = blog.write(ada, "All of it", "The title")
    page = new_context(java_script_enabled=False).new_page()
    page.goto("/")

    page.get_by_role("link", name="The title").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("The title")
    expect(page.get_by_role("article")).to_contain_text("All of it")
    page.get_by_role("link", name="More posts by ada").click()
    assert shown_ids(page) == [post["id"]]


@pytest.mark.parametrize("path", ["/login", "/register", "/account"])
def test_forms_explain_that_they_need_scripts(
    new_context: NewContext, path: str
) -> None:
    page = new_context(java_script_enabled=False).new_page()

    page.goto(path)

    expect(page.locator("main noscript p")).to_be_visible()
    expect(page.locator("main [type=submit]").first).to_be_disabled()


# With scripts


def test_load_more_shows_every_post_once(page: Page, blog: Blog, ada: Person) -> None:
    ids = blog.write_many(ada, 35)
    page.goto("/")

    load_everything(page)

    assert shown_ids(page) == ids


def test_load_more_is_stable_while_others_post(
    page: Page, blog: Blog, ada: Person
) -> None:
    ids = blog.write_many(ada, 25)
    page.goto("/")

    blog.write_many(ada, 13)
    load_everything(page)

    assert shown_ids(page) == ids


def test_load_more_is_stable_while_others_delete(
    page: Page, blog: Blog, ada: Person
) -> None:
    ids = blog.write_many(ada, 35)
    page.goto("/")

    for post_id in ids[2:9]:
        blog.delete(ada, post_id)
    load_more(page)
    for post_id in [*ids[12:16], *ids[27:29]]:
        blog.delete(ada, post_id)
    load_everything(page)

    assert [post_id for post_id in ids if post_id not in shown_ids(page)] == ids[27:29]
    assert shown_ids(page) == sorted(set(shown_ids(page)), reverse=True)


def test_load_more_focuses_first_new_post(page: Page, blog: Blog, ada: Person) -> None:
    blog.write_many(ada, 15)
    page.goto("/")

    load_more(page)

    link = (
        page.locator("[data-post-card]").nth(10).locator("[data-post-card-target=link]")
    )
    expect(link).to_be_focused()
    expect(page.locator("[data-post-list-target=status]")).to_have_text(
        "Loaded 5 more posts. You've reached the end."
    )


def test_load_more_can_be_retried(page: Page, blog: Blog, ada: Person) -> None:
    ids = blog.write_many(ada, 15)
    page.goto("/")
    page.route("**/api/posts?*", lambda route: route.abort(), times=1)
    load_more(page)
    expect(page.locator("[data-post-list-target=error]")).to_contain_text(
        "Can't reach the site"
    )

    load_more(page)

    assert shown_ids(page) == ids
    expect(page.locator("[data-post-list-target=error]")).to_be_hidden()


def test_double_click_on_load_more_shows_no_duplicates(
    page: Page, blog: Blog, ada: Person
) -> None:
    ids = blog.write_many(ada, 25)
    page.goto("/")

    with held(page, "**/api/posts?*"):
        button(page, "Load more").click()
        button(page, "Load more").click()
    expect(page.locator("[data-post-card]")).to_have_count(20)

    assert shown_ids(page) == ids[:20]


def test_scrolling_loads_all_posts_of_author(
    page: Page, blog: Blog, ada: Person
) -> None:
    ids = blog.write_many(ada, 45)
    page.goto(f"/users/{ada.id}/posts")

    for loaded in (10, 20, 30, 40, 45):
        page.locator("[data-post-card]").nth(loaded - 1).scroll_into_view_if_needed()

    assert shown_ids(page) == ids


@pytest.mark.parametrize("path", ["/", "/users/{}/posts"], ids=["home", "author"])
def test_back_button_restores_list_position(
    page: Page, blog: Blog, ada: Person, path: str
) -> None:
    ids = blog.write_many(ada, 45)
    page.goto(path.format(ada.id))
    card = page.locator(f"[data-post-id='{ids[26]}']")
    for loaded in (20, 30):
        page.evaluate("() => scrollTo({top: 1e6, behavior: 'instant'})")
        expect(page.locator("[data-post-list]")).not_to_have_attribute(
            "aria-busy", "true"
        )
        if button(page, "Load more").is_visible() and path == "/":
            load_more(page)
        page.locator("[data-post-card]").nth(loaded - 1).wait_for()
    card.scroll_into_view_if_needed()
    before = top_of(card)

    card.get_by_role("link").first.click()
    page.wait_for_url("/posts/*")
    page.go_back(wait_until="networkidle")
    card.wait_for()

    assert top_of(card) == pytest.approx(before, abs=8)


# Content


@pytest.mark.parametrize("timezone", AROUND_THE_WORLD)
def test_server_and_script_dates_match(
    new_context: NewContext, blog: Blog, ada: Person, timezone: str
) -> None:
    blog.write_many(ada, 20)
    blog.run_sql(MIDNIGHT)
    page = new_context(timezone_id=timezone, locale="de-DE").new_page()
    page.goto("/?page=2")
    by_server = dates(page)

    page.goto("/")
    load_more(page)

    assert dates(page)[10:] == by_server
    assert set(by_server) == {"February 28, 2026", "March 01, 2026"}


def test_whitespace_is_shown_as_typed(page: Page, blog: Blog, ada: Person) -> None:
    text = "  first line\n\n\n    indented   wide\n\ttab\nlast line"
    post = blog.write(ada, text)

    page.goto(f"/posts/{post['id']}")

    assert page.locator("[data-post-view-target=content]").inner_text() == text


@pytest.mark.parametrize(
    ("title", "direction"), [("שלום עולם", "rtl"), ("Hello world", "ltr")]
)
def test_text_direction_follows_content(
    page: Page, blog: Blog, ada: Person, title: str, direction: str
) -> None:
    post = blog.write(ada, title, title)

    page.goto(f"/posts/{post['id']}")

    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_css("direction", direction)
    expect(page.locator("[data-post-view-target=content]")).to_have_css(
        "direction", direction
    )


def test_untitled_post_is_listed_by_first_words(
    page: Page, blog: Blog, ada: Person
) -> None:
    blog.write(ada, "These words come first")

    page.goto("/")

    expect(page.get_by_role("heading", level=2).first).to_have_text(
        "These words come first"
    )


@pytest.mark.parametrize(
    ("path", "next_step"),
    [
        ("/", "Register to write a post"),
        ("/?page=9", "Back to home"),
        ("/users/{}/posts", "Read latest posts"),
        ("/no-such-page", "Back to home"),
    ],
)
def test_empty_page_offers_next_step(
    page: Page, ada: Person, path: str, next_step: str
) -> None:
    page.goto(path.format(ada.id))

    expect(page.get_by_role("main").get_by_role("link", name=next_step)).to_be_visible()


def test_empty_home_page_invites_to_post(ada_page: Page) -> None:
    ada_page.goto("/")
    expect_signed_in(ada_page, "ada")

    button(ada_page, "Write a post").click()

    expect(ada_page.get_by_role("dialog", name="New post")).to_be_visible()
