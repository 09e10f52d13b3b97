"""What holds on each page: its layout, its strictness, its manifest."""

import json
from io import BytesIO
from urllib.parse import urljoin

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.e2e.conftest import (
    DESKTOP,
    PHONE,
    Blog,
    NewContext,
    Person,
    button,
)

# {0} is the id of ada, {1} that of a post of hers.
PUBLIC_PAGES = [
    "/",
    "/posts/{1}",
    "/users/{0}/posts",
    "/login",
    "/register",
    "/forgot-password",
    "/reset-password?token=a",
    "/no-such-page",
]
OWN_PAGES = ["/", "/posts/{1}", "/account"]
LONGEST_NAME = "Wolfeschlegelsteinhausenbergerdorff" + "n" * 15
LONGEST_TITLE = "Rindfleischetikettierungsueberwachungsaufgaben" + "x" * 54
LONG_TEXT = "https://example.com/" + "a" * 300 + "\n" + "W" * 200

MEASURE_SHIFTS = """
window.layoutShift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (!entry.hadRecentInput) layoutShift += entry.value;
  }
}).observe({ type: "layout-shift", buffered: true });
"""
OVERFLOW = "() => document.documentElement.scrollWidth - innerWidth"


@pytest.fixture
def longest(blog: Blog) -> Person:
    """Somebody with the longest name there can be."""
    return blog.sign_up(LONGEST_NAME)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_documentation_works_under_its_strict_policy(page: Page, path: str) -> None:
    page.goto(path, wait_until="networkidle")

    expect(page.get_by_text("/api/posts", exact=True).first).to_be_visible()


# Layout


@pytest.mark.parametrize("path", [*PUBLIC_PAGES, "/account"])
def test_nothing_scrolls_sideways_on_a_phone(
    new_context: NewContext, blog: Blog, longest: Person, path: str
) -> None:
    post = blog.write(longest, LONG_TEXT, LONGEST_TITLE)
    # Login and registration lead away those who are logged in.
    person = longest if path in OWN_PAGES else None
    page = new_context(person, viewport=PHONE).new_page()

    page.goto(path.format(longest.id, post["id"]), wait_until="networkidle")
    closed = page.evaluate(OVERFLOW)
    button(page, "Menu").click()
    expect(button(page, "Dark")).to_be_visible()

    assert closed <= 0
    assert page.evaluate(OVERFLOW) <= 0


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("path", OWN_PAGES)
def test_layout_does_not_shift_for_members(
    new_context: NewContext,
    blog: Blog,
    ada: Person,
    path: str,
    viewport: dict[str, int],
) -> None:
    post = blog.write_many(ada, 12)[0]
    page = new_context(ada, viewport=viewport, init_script=MEASURE_SHIFTS).new_page()

    page.goto(path.format(ada.id, post), wait_until="networkidle")

    assert page.evaluate("() => layoutShift") < 0.02


@pytest.mark.parametrize("path", PUBLIC_PAGES[:6])
def test_layout_does_not_shift_for_visitors(
    new_context: NewContext, blog: Blog, ada: Person, path: str
) -> None:
    post = blog.write_many(ada, 12)[0]
    page = new_context(viewport=PHONE, init_script=MEASURE_SHIFTS).new_page()

    page.goto(path.format(ada.id, post), wait_until="networkidle")

    assert page.evaluate("() => layoutShift") < 0.02


@pytest.mark.parametrize("path", ["/", "/posts/{1}", "/login", "/account"])
def test_what_is_pressed_is_large_enough_for_a_finger(
    new_context: NewContext, blog: Blog, ada: Person, path: str
) -> None:
    post = blog.write(ada)
    person = ada if path in OWN_PAGES else None
    page = new_context(person, viewport=PHONE).new_page()
    page.goto(path.format(ada.id, post["id"]), wait_until="networkidle")
    button(page, "Menu").click()
    expect(button(page, "Dark")).to_be_visible()

    small = page.locator("a:visible, button:visible, input:visible").evaluate_all(
        """all => all.filter((e) => !e.matches(".skip-link"))
             .filter((e) => e.getBoundingClientRect().height < 43.5)
             .map((e) => e.outerHTML)"""
    )

    assert small == []


# Installing


def test_browser_finds_the_site_installable(page: Page) -> None:
    page.goto("/")
    session = page.context.new_cdp_session(page)

    manifest = session.send("Page.getAppManifest")
    errors = session.send("Page.getInstallabilityErrors")["installabilityErrors"]

    assert manifest["errors"] == []
    # A context of its own is what the browser calls incognito.
    assert [error for error in errors if error["errorId"] != "in-incognito"] == []


def test_icons_of_the_manifest_have_the_stated_sizes(page: Page, blog: Blog) -> None:
    page.goto("/")
    address = page.locator("link[rel=manifest]").get_attribute("href")
    assert address is not None
    icons = json.loads(blog.client.get(address).text)["icons"]
    drawn = [icon for icon in icons if icon["type"] == "image/png"]

    answers = [blog.client.get(urljoin(address, icon["src"])) for icon in drawn]

    sizes = [Image.open(BytesIO(answer.content)).size for answer in answers]
    assert [f"{width}x{height}" for width, height in sizes] == [
        icon["sizes"] for icon in drawn
    ]
    assert {"any", "maskable"} == {icon["purpose"] for icon in drawn}
