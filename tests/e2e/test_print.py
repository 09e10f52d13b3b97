"""Pages on paper: light, without navigation, with link targets."""

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Json
from tests.server import Person


@pytest.fixture
def printed_post(page: Page, post: Json) -> Page:
    """Open a post in the dark theme, as it is printed."""
    page.add_init_script("localStorage.setItem('theme', 'dark')")
    page.goto(f"/posts/{post['id']}")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    page.emulate_media(media="print", color_scheme="dark")
    return page


def test_paper_is_white(printed_post: Page) -> None:
    expect(printed_post.locator("body")).to_have_css(
        "background-color", "rgb(255, 255, 255)"
    )
    expect(printed_post.locator("h1")).to_have_css("color", "rgb(0, 0, 0)")
    expect(printed_post.locator(".prose")).to_have_css("color", "rgb(0, 0, 0)")


def test_nothing_to_click(printed_post: Page) -> None:
    for name in ("header.site-header", "footer.site-footer", ".post-footer"):
        expect(printed_post.locator(name)).to_be_hidden()
    expect(printed_post.locator("button:visible")).to_have_count(0)


def test_links_have_targets(printed_post: Page, ada: Person) -> None:
    target = printed_post.evaluate(
        "getComputedStyle(document.querySelector('.byline-author'), '::after').content"
    )

    assert target == f'" (/users/{ada.id}/posts)"'
