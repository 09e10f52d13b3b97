"""Keyboard navigation with Tab, Enter, Escape and Space."""

from playwright.sync_api import Locator, Page, expect

from tests.conftest import PASSWORD
from tests.e2e.conftest import (
    PHONE,
    Blog,
    NewContext,
    Person,
    button,
    dialog,
    expect_signed_in,
    expect_signed_out,
    navigation,
)

# More tab stops than any page has.
MOST_STOPS = 60
HAS_FOCUS = "(element) => element === document.activeElement"
SHOWS_FOCUS = """
() => {
  const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
  return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
}
"""


def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until the target has visible focus."""
    target.wait_for()
    for _ in range(MOST_STOPS):
        if target.evaluate(HAS_FOCUS):
            assert page.evaluate(SHOWS_FOCUS)
            return
        page.keyboard.press("Tab")
    expect(target).to_be_focused()


def press(page: Page, target: Locator, key: str = "Enter") -> None:
    """Tab to a target and press a key."""
    tab_to(page, target)
    page.keyboard.press(key)


def type_into(page: Page, label: str, text: str, place: Locator | None = None) -> None:
    """Tab to an input and type."""
    tab_to(page, (place or page.get_by_role("main")).get_by_label(label))
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type(text)


def test_journey_by_keyboard(page: Page, blog: Blog) -> None:
    page.goto("/")
    press(page, navigation(page).get_by_role("link", name="Register"))
    page.wait_for_url("/register?*")
    type_into(page, "Username", "Ada")
    type_into(page, "Email", "ada@example.com")
    tab_to(page, page.locator("main [name=password]"))
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect_signed_in(page, "Ada")

    press(page, button(page, "New post"))
    form = dialog(page, "New post")
    expect(form.locator("[name=title]")).to_be_focused()
    page.keyboard.type("By hand")
    type_into(page, "Content", "Not one click", form)
    press(page, button(form, "Publish"), "Space")
    press(page, dialog(page, "Done").get_by_role("link", name="View post"))

    expect(page.get_by_role("heading", level=1)).to_have_text("By hand")
    press(page, button(page, "Edit"))
    form = dialog(page, "Edit post")
    expect(form.locator("[name=title]")).to_be_focused()
    type_into(page, "Content", "Nor a second one", form)
    press(page, button(form, "Save changes"))
    expect(dialog(page, "Done")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("article")).to_contain_text("Nor a second one")
    expect(button(page, "Edit")).to_be_focused()

    press(page, button(page, "Delete"), "Space")
    form = dialog(page, "Delete this post?")
    press(page, button(form, "Delete post"))
    press(page, button(dialog(page, "Done"), "OK"))
    page.wait_for_url("/")

    press(page, button(page, "Dark"), "Space")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    press(page, button(page, "Log out"))
    expect_signed_out(page)
    assert blog.post_ids() == []


def test_account_management_by_keyboard(ada_page: Page, blog: Blog) -> None:
    ada_page.goto("/account")
    expect(ada_page.get_by_label("Username", exact=True)).to_have_value("ada")

    type_into(ada_page, "Username", "Countess")
    ada_page.keyboard.press("Enter")
    expect(ada_page.get_by_text("Profile updated.")).to_be_visible()
    press(ada_page, button(ada_page, "Delete account…"))
    form = dialog(ada_page, "Delete your account?")
    expect(form.locator("[name=confirmation]")).to_be_focused()
    ada_page.keyboard.type("Countess")
    ada_page.keyboard.press("Enter")
    press(ada_page, button(dialog(ada_page, "Done"), "OK"))

    expect_signed_out(ada_page)
    assert blog.client.get("/api/users").status_code == 404


def test_first_tab_stop_skips_to_content(page: Page, ada: Person, blog: Blog) -> None:
    blog.write(ada)
    page.goto("/")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")

    expect(page.locator("[data-post-card-target=link]").first).to_be_focused()


def test_focus_stays_in_open_dialog(ada_page: Page) -> None:
    ada_page.goto("/")
    press(ada_page, button(ada_page, "New post"))
    form = dialog(ada_page, "New post")
    expect(form.locator("[name=title]")).to_be_focused()

    for _ in range(12):
        ada_page.keyboard.press("Tab")

    expect(form.locator(":focus")).to_have_count(1)


def test_mobile_menu_opens_by_keyboard(new_context: NewContext) -> None:
    page = new_context(viewport=PHONE).new_page()
    page.goto("/")

    press(page, button(page, "Menu"))
    press(page, navigation(page).get_by_role("link", name="Log in"))

    page.wait_for_url("/login?*")


def test_load_more_works_by_keyboard(page: Page, blog: Blog, ada: Person) -> None:
    blog.write_many(ada, 15)
    page.goto("/")

    press(page, button(page, "Load more"))

    expect(page.locator("[data-post-card-target=link]").nth(10)).to_be_focused()
