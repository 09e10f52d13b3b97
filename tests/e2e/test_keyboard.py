"""Everything works without a mouse."""

from playwright.sync_api import Locator, expect

from tests.e2e.conftest import (
    PHONE,
    button,
    dialog,
    expect_logged_in,
    expect_logged_out,
    expect_success,
    field,
    main,
    navbar,
    opener,
    overflow,
    post_cards,
    post_ids,
)
from tests.server import PASSWORD

# More tab stops than any page has.
MAX_STOPS = 60
HAS_FOCUS = "(element) => element === document.activeElement"
SHOWS_FOCUS = """(element) => {
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
}"""


def tab_to(target: Locator) -> None:
    """Press Tab until the target has visible focus."""
    target.wait_for()
    for _ in range(MAX_STOPS):
        if target.evaluate(HAS_FOCUS):
            break
        target.page.keyboard.press("Tab")
    expect(target).to_be_focused()
    assert target.evaluate(SHOWS_FOCUS)


def press(target: Locator, key: str = "Enter") -> None:
    tab_to(target)
    target.page.keyboard.press(key)


def press_submit(form: Locator, key: str = "Enter") -> None:
    press(form.locator("[type=submit]"), key)


def type_into(form: Locator, **texts: str) -> None:
    """Tab to the fields with these names and replace their contents."""
    for name, text in texts.items():
        tab_to(field(form, name))
        form.page.keyboard.press("ControlOrMeta+A")
        form.page.keyboard.type(text)


def test_journey(page, server):
    page.goto("/")
    press(navbar(page).get_by_role("link", name="Register"))
    page.wait_for_url("/register?*")
    type_into(main(page), username="Ada", email="ada@example.com", password=PASSWORD)
    page.keyboard.press("Enter")
    expect_logged_in(page, "Ada")

    press(opener(page, "post-create").first)
    form = dialog(page, "post-create")
    expect(field(form, "title")).to_be_focused()
    type_into(form, title="By hand", content="Not one click")
    press_submit(form, "Tab")
    page.keyboard.press("Tab")
    expect(form.locator(":focus")).to_have_count(1)
    press_submit(form, "Space")
    page.wait_for_url("/posts/*")
    expect_success(page, "Post published.")

    expect(page.get_by_role("heading", level=1)).to_have_text("By hand")
    press(opener(page, "post-edit"))
    form = dialog(page, "post-edit")
    expect(field(form, "title")).to_be_focused()
    type_into(form, content="Nor a second one")
    press_submit(form)
    expect_success(page, "Changes saved.")
    expect(page.get_by_role("article")).to_contain_text("Nor a second one")
    expect(opener(page, "post-edit")).to_be_focused()

    press(opener(page, "post-delete"), "Space")
    press_submit(dialog(page, "post-delete"))
    page.wait_for_url("/")
    expect_success(page, "Post deleted.")

    press(button(page, "Dark"), "Space")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    press(button(page, "Log out"))
    expect_logged_out(page)
    assert post_ids(server) == []


def test_journey_on_a_phone(new_page, server):
    page = new_page(viewport=PHONE)
    page.goto("/register")
    type_into(main(page), username="Ada", email="ada@example.com", password=PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("/")

    press(opener(page, "post-create").first)
    form = dialog(page, "post-create")
    type_into(form, title="Tea", content="*Black*, see https://example.com")
    press(form.get_by_label("Format with Markdown"), "Space")
    press(button(form, "Preview"))
    expect(form.get_by_role("link")).to_have_text("https://example.com")
    press_submit(form)
    page.wait_for_url("/posts/*")
    expect(page.get_by_role("article").get_by_role("emphasis")).to_have_text("Black")

    press(button(page, "Menu"))
    type_into(navbar(page), q="black")
    page.keyboard.press("Enter")
    page.wait_for_url("/search?q=black")
    press(post_cards(page).get_by_role("link", name="Tea"))
    page.wait_for_url("/posts/*")

    press(opener(page, "post-edit"))
    form = dialog(page, "post-edit")
    type_into(form, content="**Green**")
    press_submit(form)
    expect(page.get_by_role("article").get_by_role("strong")).to_have_text("Green")
    press(opener(page, "post-delete"))
    press_submit(dialog(page, "post-delete"))
    page.wait_for_url("/")
    expect_success(page, "Post deleted.")
    assert overflow(page) <= 0


def test_account(ada_page, server):
    ada_page.goto("/account")
    profile = ada_page.locator("[data-account-profile]")
    expect(field(profile, "username")).to_have_value("ada")

    type_into(profile, username="Countess")
    ada_page.keyboard.press("Enter")
    expect(profile.get_by_role("status")).to_have_text("Profile updated.")
    expect_logged_in(ada_page, "Countess")
    press(opener(ada_page, "account-delete"))
    expect(field(dialog(ada_page, "account-delete"), "password")).to_be_focused()
    ada_page.keyboard.type(PASSWORD)
    ada_page.keyboard.press("Enter")

    expect_logged_out(ada_page)
    assert server.sql("SELECT * FROM users") == []


def test_search_on_a_phone(new_page, server, ada):
    for title in ("Tea", "Café"):
        server.write(ada, "In the garden", title)
    page = new_page(viewport=PHONE)
    page.goto("/")

    press(button(page, "Menu"))
    type_into(navbar(page), q="GARDEN cafe")
    page.keyboard.press("Enter")
    page.wait_for_url("/search?q=GARDEN+cafe")

    expect(post_cards(page).locator("mark")).to_have_text(["Café", "garden"])
    expect(main(page).get_by_role("searchbox")).to_have_value("GARDEN cafe")
    assert overflow(page) == 0
    press(post_cards(page).get_by_role("link", name="Café"))
    page.wait_for_url("/posts/*")


def test_skip_link(page, post):
    page.goto("/")
    skip_link = page.get_by_role("link", name="Skip to content")

    page.keyboard.press("Tab")
    expect(skip_link).to_be_focused()
    expect(skip_link).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")

    expect(page.locator("[data-post-card-target=link]")).to_be_focused()
