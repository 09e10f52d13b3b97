"""Accessibility: axe finds no violation in any page, state, or theme."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import PASSWORD
from tests.e2e.conftest import (
    PHONE,
    Blog,
    NewContext,
    Person,
    button,
    dialog,
    expect_signed_in,
    fill,
    log_in,
    open_dialog,
    start_edit,
    start_post,
)

AXE = Path(__file__).parent.joinpath("vendor/axe-core-4.14.1/axe.min.js").read_text()
RUN_AXE = """
async () => {
  const { violations } = await axe.run(document, {
    resultTypes: ["violations"],
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  });
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`));
}
"""
NONE: dict[str, list[str]] = {"light": [], "dark": []}


def find_violations(page: Page) -> dict[str, list[str]]:
    """Return axe's violations on the current page, in both themes."""
    page.evaluate(AXE)
    return {"light": in_theme(page, "light"), "dark": in_theme(page, "dark")}


def in_theme(page: Page, theme: Literal["light", "dark"]) -> list[str]:
    """Return axe's violations while the system uses this theme."""
    # Reduce motion, so that axe does not measure colors during a transition.
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", theme)
    found: list[str] = page.evaluate(RUN_AXE)
    return found


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?page=9",
        "/posts/{1}",
        "/users/{0}/posts",
        "/users/{2}/posts",
        "/login",
        "/register",
        "/forgot-password",
        "/reset-password",
        "/reset-password?token=a",
        "/no-such-page",
    ],
)
def test_public_page_is_accessible(
    new_context: NewContext, blog: Blog, ada: Person, bob: Person, path: str
) -> None:
    post = blog.write_many(ada, 11)[0]
    page = new_context().new_page()

    page.goto(path.format(ada.id, post, bob.id))

    assert find_violations(page) == NONE


def test_empty_home_page_is_accessible(page: Page) -> None:
    page.goto("/")

    assert find_violations(page) == NONE


@pytest.mark.parametrize("path", ["/", "/posts/{1}", "/account"])
def test_user_page_is_accessible(
    new_context: NewContext, blog: Blog, ada: Person, path: str
) -> None:
    post = blog.write(ada)
    page = new_context(ada).new_page()

    page.goto(path.format(ada.id, post["id"]))
    expect_signed_in(page, "ada")

    assert find_violations(page) == NONE


def empty_post(page: Page, _post_id: int) -> None:
    button(start_post(page), "Publish").click()
    expect(page.get_by_text("This field is required.")).to_be_visible()


def new_post_too_long(page: Page, _post_id: int) -> None:
    fill(start_post(page), title="x" * 101, content="Text")


def unsaved_changes_prompt(page: Page, _post_id: int) -> None:
    form = start_post(page)
    fill(form, content="Text")
    page.keyboard.press("Escape")
    expect(button(form, "Keep editing")).to_be_focused()


def offered_draft(page: Page, post_id: int) -> None:
    unsaved_changes_prompt(page, post_id)
    button(page, "Close and keep draft").click()
    expect(button(start_post(page), "Restore draft")).to_be_visible()


def password_prompt(page: Page, _post_id: int) -> None:
    form = start_post(page)
    fill(form, content="Text")
    page.evaluate("() => { localStorage.access_token = 'worthless'; }")
    button(form, "Publish").click()
    expect(form.get_by_label("Password", exact=True)).to_be_visible()


def failed_network(page: Page, _post_id: int) -> None:
    form = start_post(page)
    fill(form, content="Text")
    page.context.set_offline(True)
    button(form, "Publish").click()
    expect(button(form, "Try again")).to_be_visible()


def published_post(page: Page, _post_id: int) -> None:
    form = start_post(page)
    fill(form, content="Text")
    button(form, "Publish").click()
    expect(dialog(page, "Done")).to_be_visible()


def edited_post(page: Page, post_id: int) -> None:
    start_edit(page, {"id": post_id})


def post_changed_elsewhere(page: Page, post_id: int) -> None:
    form = start_edit(page, {"id": post_id})
    fill(form, content="Two hours of thought")
    page.route(
        "**/api/posts/*",
        lambda route: (
            route.fulfill(status=412, json={"detail": "changed"})
            if route.request.method == "PUT"
            else route.continue_()
        ),
    )
    button(form, "Save changes").click()
    expect(button(form, "Keep my version")).to_be_visible()


def post_that_cannot_be_opened(page: Page, post_id: int) -> None:
    page.route("**/api/posts/*", lambda route: route.abort())
    page.goto(f"/posts/{post_id}")
    button(page, "Edit").click()
    expect(dialog(page, "Something went wrong")).to_be_visible()


def post_to_delete(page: Page, post_id: int) -> None:
    page.goto(f"/posts/{post_id}")
    open_dialog(page, "Delete", "Delete this post?")


def account_to_delete(page: Page, _post_id: int) -> None:
    page.goto("/account")
    form = open_dialog(page, "Delete account…", "Delete your account?")
    button(form, "Delete account").click()
    expect(form.get_by_text("This field is required.")).to_be_visible()


def wrong_profile(page: Page, _post_id: int) -> None:
    page.goto("/account")
    expect(page.get_by_label("Username", exact=True)).to_have_value("ada")
    fill(page, email="nobody")
    button(page, "Save changes").click()
    button(page, "Change password").click()


STATES = [
    empty_post,
    new_post_too_long,
    unsaved_changes_prompt,
    offered_draft,
    password_prompt,
    failed_network,
    published_post,
    edited_post,
    post_changed_elsewhere,
    post_that_cannot_be_opened,
    post_to_delete,
    account_to_delete,
    wrong_profile,
]


@pytest.mark.parametrize("reach", STATES)
def test_page_state_is_accessible(
    new_context: NewContext,
    blog: Blog,
    ada: Person,
    reach: Callable[[Page, int], None],
) -> None:
    post = blog.write(ada)
    page = new_context(ada).new_page()

    reach(page, post["id"])

    assert find_violations(page) == NONE


def test_login_form_with_error_is_accessible(new_context: NewContext) -> None:
    page = new_context().new_page()
    page.goto("/login")

    log_in(page, "nobody@example.com", PASSWORD)
    expect(page.get_by_text("Incorrect email or password")).to_be_visible()

    assert find_violations(page) == NONE


@pytest.mark.parametrize("is_member", [True, False])
def test_open_mobile_menu_is_accessible(
    new_context: NewContext, ada: Person, is_member: bool
) -> None:
    person = ada if is_member else None
    page = new_context(person, viewport=PHONE).new_page()
    page.goto("/")

    button(page, "Menu").click()
    expect(button(page, "Menu")).to_have_attribute("aria-expanded", "true")
    expect(page.locator("#menu.collapsing")).to_have_count(0)

    assert find_violations(page) == NONE


# Zoom and forced colors

# At 200% and 400% zoom, a 1280 x 1024 window has this many CSS pixels.
ZOOMS = {"200": {"width": 640, "height": 512}, "400": {"width": 320, "height": 256}}


@pytest.mark.parametrize("zoom", ZOOMS)
@pytest.mark.parametrize("path", ["/", "/posts/{1}", "/users/{0}/posts", "/account"])
def test_zoomed_page_reflows(
    new_context: NewContext, blog: Blog, ada: Person, path: str, zoom: str
) -> None:
    post = blog.write(ada, "word " * 200, "A title of quite a few words")
    page = new_context(ada, viewport=ZOOMS[zoom]).new_page()

    page.goto(path.format(ada.id, post["id"]))
    expect(page.locator(".navbar-write")).to_be_visible()

    bar = page.locator(".site-header").bounding_box()
    assert bar is not None
    assert bar["height"] < 80
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize("zoom", ZOOMS)
def test_zoomed_dialog_is_usable(
    new_context: NewContext, blog: Blog, ada: Person, zoom: str
) -> None:
    page = new_context(ada, viewport=ZOOMS[zoom]).new_page()
    form = start_post(page)
    fill(form, content="word " * 200)

    button(form, "Publish").click()

    expect(dialog(page, "Done")).to_contain_text("Post published.")


FADED_BUTTONS = """
() => [...document.querySelectorAll(".btn")]
  .filter((button) => button.checkVisibility())
  .filter((button) => {
    const style = getComputedStyle(button);
    return style.borderTopWidth === "0px"
      || style.borderTopColor === style.backgroundColor;
  }).map((button) => button.outerHTML)
"""


@pytest.mark.parametrize("path", ["/", "/posts/{1}", "/account"])
def test_buttons_have_borders_in_forced_colors(
    new_context: NewContext, blog: Blog, ada: Person, path: str
) -> None:
    post = blog.write(ada)
    page = new_context(ada, forced_colors="active").new_page()

    page.goto(path.format(ada.id, post["id"]))
    expect(button(page, "New post")).to_be_visible()

    assert page.evaluate(FADED_BUTTONS) == []


def test_selected_theme_is_visible_in_forced_colors(
    new_context: NewContext, ada: Person
) -> None:
    page = new_context(ada, forced_colors="active").new_page()
    page.goto("/")
    looks = {
        name: button(page, name).evaluate(
            "(button) => getComputedStyle(button).outline + "
            "getComputedStyle(button).border + getComputedStyle(button).boxShadow"
        )
        for name in ("Light", "Dark", "Auto")
    }

    assert looks["Light"] == looks["Dark"]
    assert looks["Auto"] != looks["Dark"]
