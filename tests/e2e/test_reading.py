"""Reading posts, with and without scripts."""

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import (
    NewPage,
    button,
    held,
    load_more,
    main,
    post_cards,
    post_ids,
    shown_ids,
)

SPINNER = "(button) => getComputedStyle(button, '::before').animationName"
TOP = "(element) => element.getBoundingClientRect().top"


@pytest.fixture
def plain_page(new_page: NewPage) -> Page:
    """Open a page without JavaScript."""
    return new_page(java_script_enabled=False)


def scroll_to_end(page: Page) -> None:
    """Scroll to the last post, which makes an author's list load older posts."""
    post_cards(page).last.scroll_into_view_if_needed()


class TestWithoutScripts:
    def test_pagination(self, plain_page, server, ada):
        server.insert_posts(ada, 11)
        plain_page.goto("/")

        plain_page.get_by_role("link", name="Older posts").click()

        assert shown_ids(plain_page) == post_ids(server)[10:]
        expect(plain_page.get_by_role("link", name="Newer posts")).to_be_visible()

    @pytest.mark.parametrize("path", ["/login", "/register", "/account"])
    def test_form(self, plain_page, path):
        plain_page.goto(path)

        expect(plain_page.locator("main noscript p")).to_be_visible()
        expect(plain_page.locator("main [type=submit]").first).to_be_disabled()


class TestLoadMore:
    def test_new_and_deleted_posts(self, page, server, ada):
        server.insert_posts(ada, 35)
        ids = post_ids(server)
        page.goto("/")
        server.write(ada)
        # Some of these are on the page, including the last one, which the cursor names.
        server.sql(f"DELETE FROM posts WHERE id BETWEEN {ids[2]} AND {ids[9]}")
        load_more(page)
        server.sql(f"DELETE FROM posts WHERE id IN ({ids[12]}, {ids[27]}, {ids[28]})")

        load_more(page)
        load_more(page)

        assert shown_ids(page) == [*ids[:27], *ids[29:]]
        expect(button(page, "Load more")).to_be_hidden()

    def test_focus(self, page, server, ada):
        server.insert_posts(ada, 15)
        page.goto("/")

        load_more(page)

        link = post_cards(page).nth(10).locator("[data-post-card-target=link]")
        expect(link).to_be_focused()
        expect(page.locator("[data-post-list-target=status]")).to_have_text(
            "Loaded 5 more posts. You've reached the end."
        )

    def test_retry(self, page, server, ada):
        server.insert_posts(ada, 15)
        error = page.locator("[data-post-list-target=error]")
        page.goto("/")
        page.route("**/api/posts?*", lambda route: route.abort(), times=1)
        load_more(page)
        expect(error).to_contain_text("Couldn't load more posts. Can't reach the site")
        expect(error).to_have_role("alert")

        load_more(page)

        assert shown_ids(page) == post_ids(server)
        expect(error).to_be_hidden()

    def test_script_and_server_show_the_same(self, page, server, ada):
        server.insert_posts(ada, 11)
        page.goto("/")

        load_more(page)

        by_script = post_cards(page).last.inner_text()
        page.goto("/?page=2")
        assert post_cards(page).last.inner_text() == by_script

    def test_double_click(self, page, server, ada):
        server.insert_posts(ada, 25)
        page.goto("/")

        with held(page, "**/api/posts?*"):
            button(page, "Load more").dblclick()
        expect(post_cards(page)).to_have_count(20)

        assert shown_ids(page) == post_ids(server)[:20]

    def test_busy(self, page, server, ada):
        server.insert_posts(ada, 15)
        page.goto("/")

        with held(page, "**/api/posts?*"):
            button(page, "Load more").click()
            status = page.locator("[data-post-list-target=status]")
            expect(status).to_have_text("Loading more posts…")
            spinner = button(page, "Load more").evaluate(SPINNER)

        assert spinner == "spin"

    def test_long_list(self, page, server, ada):
        server.insert_posts(ada, 45)
        page.goto("/")
        load_more(page)
        load_more(page)

        expect(post_cards(page).nth(29)).to_have_css("content-visibility", "auto")


SEVERAL_ENTRIES = """
const Observer = IntersectionObserver;
window.IntersectionObserver = class extends Observer {
  constructor(notify, options) {
    const outside = { isIntersecting: false };
    super((entries, self) => notify([outside, ...entries], self), options);
  }
};
"""


class TestInfiniteScroll:
    def test_several_entries_at_once(self, new_page, server, ada):
        server.insert_posts(ada, 15)
        page = new_page(init_script=SEVERAL_ENTRIES)
        page.goto(f"/users/{ada.id}/posts")

        scroll_to_end(page)

        expect(post_cards(page)).to_have_count(15)

    def test_all_posts(self, page, server, ada):
        server.insert_posts(ada, 25)
        page.goto(f"/users/{ada.id}/posts")

        post_cards(page).nth(9).scroll_into_view_if_needed()
        post_cards(page).nth(19).scroll_into_view_if_needed()
        post_cards(page).nth(24).scroll_into_view_if_needed()

        assert shown_ids(page) == post_ids(server)


@pytest.mark.parametrize(
    ("path", "load"), [("/", load_more), ("/users/{}/posts", scroll_to_end)]
)
def test_back_button_restores_position(page, server, ada, path, load):
    server.insert_posts(ada, 35)
    page.goto(path.format(ada.id))
    load(page)
    expect(post_cards(page).nth(19)).to_be_attached()
    load(page)
    expect(post_cards(page).nth(29)).to_be_attached()
    card = page.locator(f"[data-post-id='{post_ids(server)[26]}']")
    card.scroll_into_view_if_needed()
    before = card.evaluate(TOP)

    card.get_by_role("link").first.click()
    page.wait_for_url("/posts/*")
    page.go_back(wait_until="networkidle")
    card.wait_for()

    assert card.evaluate(TOP) == pytest.approx(before, abs=8)


class TestContent:
    def test_short_untitled_post(self, page, server, ada):
        post = server.write(ada, "Rain\nagain", "")
        page.goto("/")
        assert post_cards(page).first.inner_text().count("Rain") == 1

        page.goto(f"/posts/{post['id']}")

        assert main(page).inner_text().count("Rain") == 1
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_have_accessible_name("Rain again")

    def test_short_untitled_markdown(self, page, server, ada):
        post = server.write(ada, "Rain **again**", "", format="markdown")

        page.goto(f"/posts/{post['id']}")

        heading = page.get_by_role("heading", level=1)
        expect(heading).to_have_accessible_name("Rain again")
        assert heading.bounding_box()["height"] <= 1
        expect(main(page).get_by_text("again", exact=True)).to_be_visible()

    def test_excerpt_has_no_blank_lines(self, page, server, ada):
        server.write(ada, "One\n\n\n\n\n\n\ntwo " + "x " * 200, "Title")

        page.goto("/")

        excerpt = page.locator("[data-post-card-target=excerpt]")
        assert excerpt.inner_text().startswith("One two x")

    def test_author_page_names_author_once(self, page, server, ada):
        server.insert_posts(ada, 11)
        page.goto(f"/users/{ada.id}/posts")

        scroll_to_end(page)
        expect(post_cards(page)).to_have_count(11)

        assert post_cards(page).locator("img").count() == 0

    @pytest.mark.parametrize(
        ("zone", "time"),
        [("Pacific/Kiritimati", "23:50"), ("America/Los_Angeles", "00:10")],
    )
    def test_dates(self, new_page, server, ada, zone, time):
        server.insert_posts(ada, 11)
        server.sql(f"UPDATE posts SET date_posted = '2026-03-01 {time}Z'")
        page = new_page(timezone_id=zone, locale="de-DE")
        page.goto("/")

        load_more(page)

        dates = page.locator("[data-byline-target=posted]").all_text_contents()
        assert dates == ["March 01, 2026"] * 11

    @pytest.mark.parametrize(
        ("word", "direction"), [("שלום", "rtl"), ("Hello", "ltr")], ids=["rtl", "ltr"]
    )
    def test_whitespace_and_direction(self, page, server, ada, word, direction):
        text = f"{word}\n\n\n    indented   wide\n\ttab\nlast line"
        post = server.write(ada, text, word)

        page.goto(f"/posts/{post['id']}")

        content = page.locator("[data-post-view-target=content]")
        assert content.inner_text() == text.replace("\n\n\n", "\n\n")
        expect(content.locator("p").first).to_have_css("direction", direction)
        expect(page.get_by_role("heading", level=1)).to_have_css("direction", direction)


@pytest.mark.parametrize(
    ("path", "href"),
    [("/", "/register?next=%2F"), ("/users/{}/posts", "/"), ("/no-such-page", "/")],
)
def test_empty_page(page, ada, path, href):
    page.goto(path.format(ada.id))

    expect(main(page).locator(f"a.btn[href$='{href}']:visible")).to_be_visible()
