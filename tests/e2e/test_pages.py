"""Layout, content security policy, and manifest of every page."""

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

# {0} is the id of ada, {1} the id of one of her posts.
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
    """Create a user with the longest possible name."""
    return blog.sign_up(LONGEST_NAME)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_docs_work_under_strict_csp(page: Page, path: str) -> None:
    page.goto(path, wait_until="networkidle")

    expect(page.get_by_text("/api/posts", exact=True).first).to_be_visible()


# Layout


@pytest.mark.parametrize("path", [*PUBLIC_PAGES, "/account"])
def test_pages_do_not_scroll_sideways_on_a_phone(
    new_context: NewContext, blog: Blog, longest: Person, path: str
) -> None:
    post = blog.write(longest, LONG_TEXT, LONGEST_TITLE)
    # Login and registration redirect logged-in users.
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
def test_layout_is_stable_for_logged_in_users(
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
def test_layout_is_stable_for_anonymous_users(
    new_context: NewContext, blog: Blog, ada: Person, path: str
) -> None:
    post = blog.write_many(ada, 12)[0]
    page = new_context(viewport=PHONE, init_script=MEASURE_SHIFTS).new_page()

    page.goto(path.format(ada.id, post), wait_until="networkidle")

    assert page.evaluate("() => layoutShift") < 0.02


@pytest.mark.parametrize("path", ["/", "/posts/{1}", "/login", "/account"])
def test_touch_targets_are_large_enough(
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


def test_site_is_installable(page: Page) -> None:
    page.goto("/")
    session = page.context.new_cdp_session(page)

    manifest = session.send("Page.getAppManifest")
    errors = session.send("Page.getInstallabilityErrors")["installabilityErrors"]

    assert manifest["errors"] == []
    # Browsers call a separate context incognito.
    assert [error for error in errors if error["errorId"] != "in-incognito"] == []


def test_manifest_icons_have_declared_sizes(page: Page, blog: Blog) -> None:
    page.goto("/")
    url = page.locator("link[rel=manifest]").get_attribute("href")
    assert url is not None
    icons = json.loads(blog.client.get(url).text)["icons"]
    drawn = [icon for icon in icons if icon["type"] == "image/png"]

    responses = [blog.client.get(urljoin(url, icon["src"])) for icon in drawn]

    sizes = [Image.open(BytesIO(response.content)).size for response in responses]
    assert [f"{width}x{height}" for width, height in sizes] == [
        icon["sizes"] for icon in drawn
    ]
    assert {"any", "maskable"} == {icon["purpose"] for icon in drawn}
