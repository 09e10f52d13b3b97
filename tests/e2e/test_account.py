"""The account page, and password resets."""

import json
import re

import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.e2e.conftest import (
    end_sessions,
    expect_error,
    expect_logged_in,
    expect_logged_out,
    expect_success,
    field,
    fill,
    find_violations,
    log_in,
    main,
    navbar,
    open_dialog,
    picture,
    submit,
)
from tests.server import PASSWORD

NEW_PASSWORD = "battery staple"


@pytest.fixture
def account(ada_page: Page) -> Page:
    """Open ada's account page."""
    ada_page.goto("/account")
    expect_logged_in(ada_page, "ada")
    expect(field(main(ada_page), "username")).to_have_value("ada")
    return ada_page


class TestPicture:
    @pytest.fixture
    def form(self, account: Page) -> Locator:
        return account.locator("[data-account-picture]")

    def test_upload(self, server, form, post):
        field(form, "file").set_input_files(picture())
        expect(form.get_by_role("img", name="Preview")).to_be_visible()

        submit(form)
        expect(form.get_by_role("status")).to_have_text("Picture updated.")
        path = server.call("GET", f"/api/users/{post['user_id']}")["image_path"]

        expect(form.locator("img")).to_have_attribute("src", path)
        expect(navbar(form.page).locator("img")).to_have_attribute("src", path)
        form.page.goto(f"/posts/{post['id']}")
        shown = main(form.page).locator("img")
        expect(shown).to_have_attribute("src", path)
        assert shown.evaluate("(image) => image.naturalWidth") == 300

    def test_remove(self, server, ada, form):
        file = {"file": picture()["buffer"]}
        server.call("PATCH", f"/api/users/{ada.id}/picture", ada, files=file)
        form.page.reload()

        form.locator("[data-account-picture-target=remove]").click()

        expect(form.get_by_role("status")).to_have_text("Picture removed.")
        assert server.call("GET", f"/api/users/{ada.id}")["image_file"] is None

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"no picture", "supported image"),
            (b"x" * (5 * 1024 * 1024 + 1), "maximum is 5 MB"),
        ],
        ids=["invalid", "too large"],
    )
    def test_rejected(self, form, content, message):
        file = FilePayload(name="me.png", mimeType="image/png", buffer=content)

        field(form, "file").set_input_files(file)

        expect_error(field(form, "file"), message)


class TestProfile:
    def test_bio(self, account, ada):
        form = account.locator("[data-account-profile]")
        fill(form, bio=" I write about engines. ")
        submit(form)
        expect(form.get_by_role("status")).to_have_text("Profile updated.")
        expect(field(form, "bio")).to_have_value("I write about engines.")

        account.goto(f"/users/{ada.id}/posts")

        expect(main(account)).to_contain_text("I write about engines.")
        assert find_violations(account) == []


class TestPassword:
    def test_change(self, account):
        form = account.locator("[data-account-password]")
        fill(form, current_password=PASSWORD, new_password=NEW_PASSWORD)

        submit(form)

        expect(form.get_by_role("status")).to_contain_text("Password changed.")
        account.reload()
        expect_logged_in(account, "ada")

    def test_wrong_password(self, account):
        form = account.locator("[data-account-password]")
        fill(form, current_password="not this one", new_password=NEW_PASSWORD)

        submit(form)

        expect_error(field(form, "current_password"), "Current password is incorrect")
        assert find_violations(account) == []

    def test_reset(self, page, server, ada):
        page.goto("/login")
        fill(page, email=ada.email)
        page.get_by_role("link", name="Forgot your password?").click()
        expect(field(page, "email")).to_have_value(ada.email)
        submit(main(page))
        expect(page.get_by_role("status")).not_to_be_empty()
        link = server.wait_for_reset_link()

        page.goto(link)
        expect(page).to_have_url(f"{server.url}/reset-password")
        # A reload must not lose the token, which is no longer in the URL.
        page.reload()
        fill(page, new_password=NEW_PASSWORD)
        submit(main(page))
        heading = page.get_by_role("heading", name="Your password was reset")
        expect(heading).to_be_focused()
        assert find_violations(page) == []
        page.goto(link)
        fill(page, new_password=PASSWORD)
        submit(main(page))
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("Invalid or expired reset token")
        page.goto("/login")
        expect(field(page, "email")).to_have_value(ada.email)
        log_in(page, ada.email, NEW_PASSWORD)
        expect_logged_in(page, "ada")

    def test_incomplete_reset_link(self, page):
        page.goto("/reset-password")

        incomplete = page.locator("[data-reset-password-target=incomplete]")
        expect(incomplete).to_be_visible()
        expect(main(page).locator("form")).to_be_hidden()


class TestExport:
    @pytest.fixture
    def form(self, account: Page) -> Locator:
        return account.locator("[data-account-export]")

    def test_download(self, account, form, post):
        with account.expect_download() as download:
            submit(form)

        file = json.loads(download.value.path().read_text())
        expect(form.get_by_role("status")).to_have_text("Data exported.")
        assert download.value.suggested_filename == "export.json"
        assert file["profile"]["email"] == "ada@example.com"
        assert [exported["id"] for exported in file["posts"]] == [post["id"]]

    def test_error(self, account, form):
        account.route("**/me/export", lambda route: route.abort())

        submit(form)

        expect(form.get_by_role("alert")).to_contain_text("Check your connection")


class TestExpiredSession:
    def test_profile(self, account, server):
        form = account.locator("[data-account-profile]")
        fill(form, username="Countess")
        end_sessions(server)
        submit(form)
        expect(field(form, "password")).to_be_focused()
        expect(field(form, "password")).to_have_accessible_description(
            re.compile("Your session has expired.* the password for ada")
        )
        assert find_violations(account) == []

        fill(form, password=PASSWORD)
        submit(form)

        expect(form.get_by_role("status")).to_have_text("Profile updated.")
        expect_logged_in(account, "Countess")

    def test_picture(self, account, server):
        form = account.locator("[data-account-picture]")
        field(form, "file").set_input_files(picture())
        end_sessions(server)
        submit(form)

        fill(form, password=PASSWORD)
        submit(form)

        expect(form.get_by_role("status")).to_have_text("Picture updated.")

    def test_deletion(self, account, server):
        form = open_dialog(account, "account-delete")
        fill(form, password=PASSWORD)
        end_sessions(server)

        submit(form)

        expect_success(account, "Your account has been deleted.")


class TestDeletion:
    def test_password(self, account, server):
        form = open_dialog(account, "account-delete")
        expect(form.locator("[autocomplete=username]")).to_have_value("ada@example.com")
        fill(form, password=PASSWORD)

        submit(form)
        expect_success(account, "Your account has been deleted.")

        expect_logged_out(account)
        assert server.sql("SELECT * FROM users") == []

    def test_login_as_another_user(self, account, server, ada, bob):
        form = open_dialog(account, "account-delete")
        fill(form, password=PASSWORD)
        other_tab = account.context.new_page()
        other_tab.goto("/robots.txt")
        other_tab.evaluate("token => localStorage.access_token = token", bob.token)
        expect_logged_in(account, "bob")

        submit(form)

        expect_success(account, "Your account has been deleted.")
        assert [row["id"] for row in server.sql("SELECT id FROM users")] == [bob.id]

    def test_error(self, account, server, ada):
        form = open_dialog(account, "account-delete")
        fill(form, password="ada")

        submit(form)

        expect_error(field(form, "password"), "Incorrect password")
        assert find_violations(account) == []
        assert server.call("GET", "/api/users/me", ada)["id"] == ada.id
