"""Light, dark and auto themes."""

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import NewContext, button
from tests.e2e.test_session import STORAGE_BLOCKED

# The page's colors in each painted frame.
RECORD_FRAMES = """
window.frameColors = new Set();
const look = () => {
  if (document.body) frameColors.add(getComputedStyle(document.body).backgroundColor);
  requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""


def expect_theme(page: Page, theme: str) -> None:
    expect(page.locator("html")).to_have_attribute("data-bs-theme", theme)


def frame_colors(page: Page) -> list[str]:
    colors: list[str] = page.evaluate("() => [...frameColors]")
    return colors


def background(page: Page) -> str:
    color: str = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    return color


@pytest.mark.parametrize(
    ("chosen", "system", "theme"),
    [
        ("light", "dark", "light"),
        ("dark", "light", "dark"),
        ("auto", "light", "light"),
        ("auto", "dark", "dark"),
    ],
)
def test_theme_is_applied_in_first_frame(
    new_context: NewContext, chosen: str, system: str, theme: str
) -> None:
    page = new_context(color_scheme=system, init_script=RECORD_FRAMES).new_page()
    page.goto("/")
    button(page, chosen.title()).click()

    page.reload(wait_until="networkidle")

    expect_theme(page, theme)
    assert frame_colors(page) == [background(page)]


def test_theme_does_not_wait_for_modules(new_context: NewContext) -> None:
    page = new_context(color_scheme="dark").new_page()
    page.route("**/js/main.js", lambda route: None)

    page.goto("/", wait_until="commit")

    expect_theme(page, "dark")
    expect(page.locator("body")).to_have_css("background-color", "rgb(23, 25, 28)")


def test_auto_theme_follows_system_changes(
    new_context: NewContext,
) -> None:
    page = new_context(color_scheme="light").new_page()
    page.goto("/")
    expect_theme(page, "light")

    page.emulate_media(color_scheme="dark")
    expect_theme(page, "dark")
    page.emulate_media(color_scheme="light")

    expect_theme(page, "light")
    expect(button(page, "Auto")).to_have_attribute("aria-pressed", "true")


def test_selected_theme_overrides_system_and_persists(
    new_context: NewContext,
) -> None:
    page = new_context(color_scheme="light").new_page()
    page.goto("/")

    button(page, "Light").click()
    page.emulate_media(color_scheme="dark")
    expect_theme(page, "light")
    page.goto("/login")

    expect_theme(page, "light")
    expect(button(page, "Light")).to_have_attribute("aria-pressed", "true")


def test_selected_theme_updates_other_tab(page: Page) -> None:
    other = page.context.new_page()
    other.goto("/")
    page.goto("/")

    button(page, "Dark").click()

    expect_theme(other, "dark")
    expect(button(other, "Dark")).to_have_attribute("aria-pressed", "true")


def test_selected_theme_works_without_storage(new_context: NewContext) -> None:
    page = new_context(init_script=STORAGE_BLOCKED, color_scheme="light").new_page()
    page.goto("/")

    button(page, "Dark").click()

    expect_theme(page, "dark")


def test_auto_theme_works_without_storage(new_context: NewContext) -> None:
    page = new_context(init_script=STORAGE_BLOCKED, color_scheme="dark").new_page()
    page.goto("/")
    expect_theme(page, "dark")

    page.emulate_media(color_scheme="light")

    expect_theme(page, "light")


@pytest.mark.parametrize(
    ("chosen", "color"), [("Dark", "#17191c"), ("Light", "#fbf9f4")]
)
def test_browser_ui_color_follows_theme(page: Page, chosen: str, color: str) -> None:
    page.goto("/")

    button(page, chosen).click()

    matching = page.locator("meta[name=theme-color]").evaluate_all(
        "all => all.find((meta) => matchMedia(meta.media).matches).content"
    )
    assert matching == color
