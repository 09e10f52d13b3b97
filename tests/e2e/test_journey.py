"""User journeys, from registration to account deletion."""

from io import BytesIO

import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.conftest import PASSWORD
from tests.e2e.conftest import (
    Blog,
    Person,
    button,
    dialog,
    expect_signed_in,
    expect_signed_out,
    fill,
    log_in,
    navigation,
    open_dialog,
    start_post,
)

ADDRESS = "ada@example.com"
NEW_PASSWORD = "battery staple"
FORGOTTEN = "a third password"


def picture(color: str = "teal") -> bytes:
    """Create a PNG of one color."""
    data = BytesIO()
    Image.new("RGB", (600, 400), color).save(data, "PNG")
    return data.getvalue()


def choose_picture(page: Page, content: bytes) -> None:
    """Choose a file on the account page."""
    expect(button(page, "Upload picture")).to_be_enabled()
    file = FilePayload(name="me.png", mimeType="image/png", buffer=content)
    page.get_by_label("Choose a new picture", exact=True).set_input_files(file)


def panel(page: Page, heading: str) -> Locator:
    """Return a form of the account page."""
    return page.locator(
        ".card", has=page.get_by_role("heading", name=heading, exact=True)
    )


def get_status(form: Locator) -> Locator:
    """Return the status message of a form."""
    return form.get_by_role("status")


def register(page: Page) -> None:
    page.goto("/")
    navigation(page).get_by_role("link", name="Register").click()
    fill(page, username="Ada", email=ADDRESS, password=PASSWORD)
    button(page, "Register").click()
    expect_signed_in(page, "Ada")


def publish(page: Page, title: str, content: str) -> None:
    form = start_post(page)
    fill(form, title=title, content=content)
    button(form, "Publish").click()
    expect(dialog(page, "Done")).to_contain_text("published")


def test_registration_to_deleted_account(page: Page, blog: Blog) -> None:
    register(page)

    button(page, "Log out").click()
    expect_signed_out(page)
    navigation(page).get_by_role("link", name="Log in").click()
    log_in(page, ADDRESS)
    expect_signed_in(page, "Ada")

    publish(page, "First", "Hello")
    expect(page.get_by_role("listitem").filter(has_text="Hello").first).to_be_visible()
    dialog(page, "Done").get_by_role("link", name="View post").click()
    form = open_dialog(page, "Edit", "Edit post")
    fill(form, title="First, changed")
    button(form, "Save changes").click()
    button(dialog(page, "Done"), "OK").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("First, changed")

    page.goto("/account")
    choose_picture(page, picture())
    button(page, "Upload picture").click()
    expect(get_status(panel(page, "Profile picture"))).to_have_text("Picture updated.")
    fill(page, current_password=PASSWORD, new_password=NEW_PASSWORD)
    button(page, "Change password").click()
    expect(get_status(panel(page, "Password"))).to_contain_text("Password changed.")

    button(page, "Log out").click()
    navigation(page).get_by_role("link", name="Log in").click()
    page.get_by_role("link", name="Forgot your password?").click()
    fill(page, email=ADDRESS)
    button(page, "Send reset link").click()
    expect(page.get_by_role("status")).not_to_be_empty()
    page.goto(blog.wait_for_emailed_link())
    fill(page, new_password=FORGOTTEN)
    button(page, "Save new password").click()
    expect(page.get_by_role("main")).to_contain_text("Password reset successfully.")
    page.goto("/login")
    log_in(page, ADDRESS, FORGOTTEN)
    expect_signed_in(page, "Ada")

    page.get_by_role("link", name="First, changed").click()
    form = open_dialog(page, "Delete", "Delete this post?")
    button(form, "Delete post").click()
    button(dialog(page, "Done"), "OK").click()
    expect(page.get_by_role("main")).to_contain_text("No posts yet.")

    page.goto("/account")
    expect(page.get_by_label("Username", exact=True)).to_have_value("Ada")
    form = open_dialog(page, "Delete account…", "Delete your account?")
    fill(form, confirmation=FORGOTTEN)
    button(form, "Delete account").click()
    button(dialog(page, "Done"), "OK").click()
    expect_signed_out(page)
    assert blog.client.get("/api/users").status_code == 404


def test_new_post_is_first_on_home_page(
    ada_page: Page, blog: Blog, bob: Person
) -> None:
    blog.write(bob, "An older one")

    publish(ada_page, "News", "Hello")
    by_script = ada_page.locator("[data-post-card]").first.inner_text()
    ada_page.reload()
    by_server = ada_page.locator("[data-post-card]").first.inner_text()

    assert by_script.split()[:2] == ["News", "ada"]
    assert by_script == by_server


def test_uploaded_picture_is_shown_next_to_username(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    post = blog.write(ada)
    ada_page.goto("/account")
    choose_picture(ada_page, picture())
    expect(ada_page.get_by_role("img", name="Preview")).to_be_visible()

    button(ada_page, "Upload picture").click()
    expect(button(ada_page, "Remove picture")).to_be_visible()
    path = blog.call("GET", f"/api/users/{ada.id}")["image_path"]

    expect(panel(ada_page, "Profile picture").locator("img")).to_have_attribute(
        "src", path
    )
    expect(navigation(ada_page).locator("img")).to_have_attribute("src", path)
    ada_page.goto(f"/posts/{post['id']}")
    shown = ada_page.get_by_role("main").locator("img")
    expect(shown).to_have_attribute("src", path)
    assert shown.evaluate("(image) => image.naturalWidth") == 300


def test_removed_picture_is_gone(ada_page: Page, blog: Blog, ada: Person) -> None:
    blog.call(
        "PATCH", f"/api/users/{ada.id}/picture", ada, files={"file": picture("navy")}
    )
    ada_page.goto("/account")

    button(ada_page, "Remove picture").click()

    expect(get_status(panel(ada_page, "Profile picture"))).to_have_text(
        "Picture removed."
    )
    assert blog.call("GET", f"/api/users/{ada.id}")["image_file"] is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"no picture", "supported image"),
        (b"x" * (5 * 1024 * 1024 + 1), "maximum is 5 MB"),
    ],
)
def test_invalid_picture_is_rejected_before_upload(
    ada_page: Page, content: bytes, text: str
) -> None:
    ada_page.goto("/account")

    choose_picture(ada_page, content)

    expect(
        panel(ada_page, "Profile picture").locator("[data-form-error-for]")
    ).to_contain_text(text)


def test_changed_username_is_shown_everywhere(ada_page: Page) -> None:
    ada_page.goto("/account")
    profile = panel(ada_page, "Profile")
    expect(profile.get_by_label("Username")).to_have_value("ada")

    fill(profile, username="Countess")
    button(profile, "Save changes").click()

    expect(get_status(profile)).to_have_text("Profile updated.")
    expect_signed_in(ada_page, "Countess")


def test_password_change_keeps_browser_logged_in(ada_page: Page) -> None:
    ada_page.goto("/account")
    fill(ada_page, current_password=PASSWORD, new_password=NEW_PASSWORD)

    button(ada_page, "Change password").click()

    expect(get_status(panel(ada_page, "Password"))).to_contain_text("Password changed.")
    ada_page.reload()
    expect_signed_in(ada_page, "ada")


def test_reset_link_is_removed_from_url_and_works_once(
    page: Page, blog: Blog, ada: Person
) -> None:
    blog.call("POST", "/api/users/forgot-password", json={"email": ada.email})
    link = blog.wait_for_emailed_link()

    page.goto(link)
    expect(page).to_have_url(f"{blog.url}/reset-password")
    # The page can still be reloaded.
    page.reload()
    fill(page, new_password=NEW_PASSWORD)
    button(page, "Save new password").click()
    expect(page.get_by_role("main")).to_contain_text("Password reset successfully.")
    page.goto(link)
    fill(page, new_password=FORGOTTEN)
    button(page, "Save new password").click()

    expect(page.get_by_role("alert")).to_contain_text("Invalid or expired reset token")


def test_incomplete_reset_link_shows_no_form(page: Page) -> None:
    page.goto("/reset-password")

    expect(page.get_by_text("This link is incomplete.")).to_be_visible()
    expect(page.locator(".card")).to_be_hidden()


@pytest.mark.parametrize("confirmation", ["ada", PASSWORD])
def test_account_is_deleted_by_password_or_username(
    ada_page: Page, blog: Blog, confirmation: str
) -> None:
    ada_page.goto("/account")
    form = open_dialog(ada_page, "Delete account…", "Delete your account?")
    fill(form, confirmation=confirmation)

    button(form, "Delete account").click()
    button(dialog(ada_page, "Done"), "OK").click()

    ada_page.wait_for_url("/")
    expect_signed_out(ada_page)
    assert blog.client.get("/api/users").status_code == 404


def test_wrong_confirmation_deletes_nothing(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    ada_page.goto("/account")
    form = open_dialog(ada_page, "Delete account…", "Delete your account?")
    fill(form, confirmation="something else")

    button(form, "Delete account").click()

    expect(form.get_by_label("Password or username")).to_be_focused()
    expect(form).to_contain_text("doesn't match your password or username")
    assert blog.call("GET", "/api/users/me", ada)["id"] == ada.id


def test_back_button_skips_deleted_post(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    post = blog.write(ada)
    ada_page.goto("/forgot-password")
    ada_page.goto(f"/posts/{post['id']}")
    form = open_dialog(ada_page, "Delete", "Delete this post?")
    button(form, "Delete post").click()
    button(dialog(ada_page, "Done"), "OK").click()
    ada_page.wait_for_url("/")

    ada_page.go_back()

    expect(ada_page).to_have_url(f"{blog.url}/forgot-password")
    assert blog.post_ids() == []


def test_only_author_can_edit_and_delete(
    ada_page: Page, blog: Blog, bob: Person
) -> None:
    post = blog.write(bob)

    ada_page.goto(f"/posts/{post['id']}")
    expect_signed_in(ada_page, "ada")

    expect(button(ada_page, "Edit")).to_be_hidden()
    expect(button(ada_page, "Delete")).to_be_hidden()
