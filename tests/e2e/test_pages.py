"""Accessibility and layout of every page when it opens."""

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import (
    DESKTOP,
    PHONE,
    button,
    dialog,
    expect_success,
    field,
    fill,
    find_violations,
    held,
    opener,
    overflow,
    start_edit,
    start_post,
    submit,
    toast,
)

# {0} is a user's id, {1} the id of their post, {2} the id of a user without posts.
OWN_PATHS = ["/", "/posts/{1}", "/account"]
PUBLIC_PATHS = [
    "/",
    "/posts/{1}",
    "/users/{0}/posts",
    "/login",
    "/register",
    "/forgot-password",
    "/users/{2}/posts",
    "/?page=9",
    "/reset-password",
    "/reset-password?token=a",
    "/no-such-page",
    "/search?q=https+a",
]
VIEWS = [(path, True) for path in OWN_PATHS] + [(path, False) for path in PUBLIC_PATHS]
LONGEST_NAME = "Wolfeschlegelsteinhausenbergerdorff" + "n" * 15
LONGEST_TITLE = "Rindfleischetikettierungsueberwachungsaufgaben" + "x" * 54
LONG_TEXT = "https://example.com/" + "a" * 300 + "\n" + "W" * 200
# At 200% and 400% zoom, a 1280 x 1024 window has this many CSS pixels.
ZOOMS = {"200%": {"width": 640, "height": 512}, "400%": {"width": 320, "height": 256}}

MEASURE_SHIFTS = """
window.layoutShift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (!entry.hadRecentInput) layoutShift += entry.value;
  }
}).observe({ type: "layout-shift", buffered: true });
"""
# Finds controls less than 44 pixels high, with a tolerance for rounding.
SMALL_TARGETS = """all => all.filter((e) => !e.matches(".skip-link"))
  .filter((e) => e.getBoundingClientRect().height < 43.5).map((e) => e.outerHTML)"""
FADED_BUTTONS = """all => all.filter((button) => {
  const { borderTopWidth, borderTopColor, backgroundColor } = getComputedStyle(button);
  return borderTopWidth === "0px" || borderTopColor === backgroundColor;
}).map((button) => button.outerHTML)"""
LOOKS = """all => all.map((e) => getComputedStyle(e)).map(
  ({ outline, border, boxShadow }) => outline + border + boxShadow)"""


class TestPage:
    @pytest.mark.parametrize(("path", "is_user"), VIEWS)
    def test_phone(self, new_page, server, bob, path, is_user):
        author = server.sign_up(LONGEST_NAME)
        server.insert_posts(author, 10)
        post = server.write(author, LONG_TEXT, LONGEST_TITLE)
        page = new_page(author if is_user else None, viewport=PHONE)

        page.goto(path.format(author.id, post["id"], bob.id), wait_until="networkidle")

        assert overflow(page) <= 0
        button(page, "Menu").click()
        expect(page.locator("#menu.show")).to_be_visible()
        assert overflow(page) <= 0
        targets = page.locator("a:visible, button:visible, input:visible")
        assert targets.evaluate_all(SMALL_TARGETS) == []
        assert find_violations(page) == []

    @pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
    @pytest.mark.parametrize(("path", "is_user"), VIEWS[:9])
    def test_layout_is_stable(self, new_page, ada, post, path, is_user, viewport):
        person = ada if is_user else None
        page = new_page(person, viewport=viewport, init_script=MEASURE_SHIFTS)

        page.goto(path.format(ada.id, post["id"]), wait_until="networkidle")

        assert page.evaluate("layoutShift") < 0.02

    def test_empty_home_page(self, ada_page):
        ada_page.goto("/")
        expect(opener(ada_page, "post-create")).to_have_count(2)
        assert find_violations(ada_page) == []

        opener(ada_page, "post-create").last.click()

        expect(dialog(ada_page, "post-create")).to_be_visible()


LEFT = "(element) => Math.round(element.getBoundingClientRect().left)"
HEIGHT = "(element) => Math.round(element.getBoundingClientRect().height)"
TOP = "(element) => element.getBoundingClientRect().top"
TEXT_COLOR = "(element) => getComputedStyle(element).color"
BORDER_COLOR = "(element) => getComputedStyle(element).borderLeftColor"
# Returns the distance of each button from the one before it.
GAPS = """all => all.map((button) => {
  const before = button.previousElementSibling.getBoundingClientRect();
  const { left, top } = button.getBoundingClientRect();
  return Math.max(left - before.right, top - before.bottom);
})"""


@pytest.mark.parametrize("path", ["/", "/posts/{1}", "/users/{0}/posts", "/login"])
def test_left_edge(new_page, ada, post, path):
    page = new_page(viewport={"width": 1440, "height": 900})

    page.goto(path.format(ada.id, post["id"]))

    brand = page.locator(".navbar-brand").evaluate(LEFT)
    text = page.locator("main :is(h1, .author-header, .post-card-title, .prose)")
    assert text.first.evaluate(LEFT) == brand
    assert text.last.evaluate(LEFT) == brand


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_header_height(new_page, ada, viewport):
    page, user_page = new_page(viewport=viewport), new_page(ada, viewport=viewport)
    page.goto("/")
    anonymous = page.locator("header").first.evaluate(HEIGHT)
    page.goto("/docs")
    docs = page.locator("header").first.evaluate(HEIGHT)
    user_page.goto("/")

    user = user_page.locator("header").first.evaluate(HEIGHT)
    assert user == anonymous == docs


def test_own_buttons_move_nothing(new_page, ada, post):
    page = new_page(ada, viewport=PHONE)

    with held(page, "**/api/users/me"):
        page.goto(f"/posts/{post['id']}")
        before = page.locator("main .prose").evaluate(TOP)
    expect(button(page, "Edit")).to_be_visible()

    assert page.locator("main .prose").evaluate(TOP) == before


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_gap_between_buttons(new_page, ada, post, viewport):
    form = start_edit(new_page(ada, viewport=viewport), post)
    fill(form, content="Other text")

    form.page.keyboard.press("Escape")

    expect(button(form, "Keep editing")).to_be_visible()
    pairs = form.page.locator(".btn:visible + .btn:visible")
    gaps = pairs.evaluate_all(GAPS)
    assert len(gaps) == 3
    assert min(gaps) >= 8


def test_success_and_errors_have_different_colors(ada_page):
    form = start_post(ada_page)
    submit(form)
    error = form.locator(".field-error:visible").first.evaluate(TEXT_COLOR)

    fill(form, content="Some text")
    submit(form)

    # Each page has an empty toast, so wait for the one on the new page.
    expect_success(ada_page)
    assert toast(ada_page).evaluate(BORDER_COLOR) != error


def test_editor_on_phone(new_page, ada):
    form = start_post(new_page(ada, viewport=PHONE))
    fill(form, content="A line\n" * 60)

    # Like an open keyboard.
    form.page.set_viewport_size({"width": 360, "height": 400})

    expect(button(form, "Publish")).to_be_in_viewport(ratio=1)
    expect(form.locator("[data-character-counter$=content]")).to_be_attached()
    content = field(form, "content")
    assert content.evaluate("(area) => area.scrollHeight - area.clientHeight") < 2
    width = form.locator(".modal-content").evaluate("(content) => content.offsetWidth")
    assert width == 360


@pytest.mark.parametrize("zoom", ZOOMS)
class TestZoom:
    @pytest.mark.parametrize("path", ["/posts/{1}", "/users/{0}/posts", "/account"])
    def test_page(self, new_page, server, ada, path, zoom):
        post = server.write(ada, "word " * 200, "A title of quite a few words")
        page = new_page(ada, viewport=ZOOMS[zoom])

        page.goto(path.format(ada.id, post["id"]))
        expect(opener(page, "post-create")).to_be_visible()

        header = page.get_by_role("banner")
        assert header.evaluate("(header) => header.offsetHeight") < 80
        assert overflow(page) <= 0

    def test_dialog(self, new_page, ada, zoom):
        form = start_post(new_page(ada, viewport=ZOOMS[zoom]))
        fill(form, content="word " * 200)

        submit(form)

        expect_success(form.page)


@pytest.mark.parametrize(("width", "height"), [(320, 160), (740, 150)])
def test_editor_in_low_window(new_page, ada, width, height):
    form = start_post(new_page(ada, viewport={"width": width, "height": height}))

    field(form, "content").focus()

    expect(field(form, "content")).to_be_in_viewport(ratio=0.3)
    expect(form.get_by_role("button", name="Publish")).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("path", ["/", "/posts/{}", "/account"])
def test_forced_colors(new_page, ada, post, path):
    page = new_page(ada, forced_colors="active")

    page.goto(path.format(post["id"]), wait_until="networkidle")

    assert page.locator(".btn:visible").evaluate_all(FADED_BUTTONS) == []
    themes = page.locator("[data-theme-toggle] button")
    light, dark, selected = themes.evaluate_all(LOOKS)
    assert light == dark != selected


def test_site_is_installable(page):
    page.goto("/")
    session = page.context.new_cdp_session(page)

    manifest = session.send("Page.getAppManifest")
    errors = session.send("Page.getInstallabilityErrors")["installabilityErrors"]

    assert manifest["errors"] == []
    # Chromium treats the test's separate context as an incognito window.
    assert {error["errorId"] for error in errors} <= {"in-incognito"}


def test_print(page, ada, post):
    page.add_init_script("localStorage.setItem('theme', 'dark')")
    page.goto(f"/posts/{post['id']}")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")

    page.emulate_media(media="print", color_scheme="dark")

    white, black = "rgb(255, 255, 255)", "rgb(0, 0, 0)"
    expect(page.locator("body")).to_have_css("background-color", white)
    expect(page.locator("h1")).to_have_css("color", black)
    expect(page.locator("main .prose")).to_have_css("color", black)
    removed = page.locator("button, header.site-header, footer, .post-footer")
    expect(removed.filter(visible=True)).to_have_count(0)
    target = page.locator(".byline-author").evaluate(
        "(link) => getComputedStyle(link, '::after').content"
    )
    assert target == f'" (/users/{ada.id}/posts)"'
