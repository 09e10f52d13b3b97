"""Light, dark and auto themes."""

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import STORAGE_BLOCKED, button

LIGHT, DARK = "rgb(251, 249, 244)", "rgb(23, 25, 28)"
# Records the background color in each frame.
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


class TestFirstFrame:
    @pytest.mark.parametrize(
        ("name", "system", "color"),
        [
            ("Light", "dark", LIGHT),
            ("Dark", "light", DARK),
            ("Auto", "light", LIGHT),
            ("Auto", "dark", DARK),
        ],
    )
    def test_color(self, new_page, name, system, color):
        page = new_page(color_scheme=system, init_script=RECORD_FRAMES)
        page.goto("/")
        button(page, name).click()

        page.reload(wait_until="networkidle")

        assert page.evaluate("() => [...frameColors]") == [color]


class TestSelection:
    @pytest.mark.parametrize("script", ["", STORAGE_BLOCKED], ids=["stored", "blocked"])
    def test_auto_follows_system(self, new_page, script):
        page = new_page(color_scheme="light", init_script=script)
        page.goto("/")
        expect_theme(page, "light")

        page.emulate_media(color_scheme="dark")
        expect_theme(page, "dark")
        page.emulate_media(color_scheme="light")

        expect_theme(page, "light")
        expect(button(page, "Auto")).to_have_attribute("aria-pressed", "true")

    @pytest.mark.parametrize("script", ["", STORAGE_BLOCKED], ids=["stored", "blocked"])
    def test_overrides_system(self, new_page, script):
        page = new_page(color_scheme="dark", init_script=script)
        page.goto("/")

        button(page, "Light").click()
        expect_theme(page, "light")
        page.emulate_media(color_scheme="light")
        page.emulate_media(color_scheme="dark")

        expect_theme(page, "light")
        expect(button(page, "Light")).to_have_attribute("aria-pressed", "true")

    def test_other_tab(self, page):
        other = page.context.new_page()
        other.goto("/")
        page.goto("/")

        button(page, "Dark").click()

        expect_theme(other, "dark")
        expect(button(other, "Dark")).to_have_attribute("aria-pressed", "true")

    @pytest.mark.parametrize(
        ("chosen", "color"), [("Dark", "#17191c"), ("Light", "#fbf9f4")]
    )
    def test_browser_color(self, page, chosen, color):
        page.goto("/")

        button(page, chosen).click()

        matching = page.locator("meta[name=theme-color]").evaluate_all(
            "all => all.find((meta) => matchMedia(meta.media).matches).content"
        )
        assert matching == color
