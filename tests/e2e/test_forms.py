"""What forms accept, which is what the API accepts."""

from playwright.sync_api import Page

from tests.e2e.conftest import (
    expect_error,
    expect_logged_in,
    field,
    fill,
    log_in,
    main,
    submit,
)
from tests.server import LiveServer, Person


def test_password_of_spaces(page: Page) -> None:
    page.goto("/register")
    form = main(page).locator("form")
    fill(form, username="eve", email="eve@example.com", password=" " * 8)

    submit(form)

    expect_logged_in(page, "eve")


def test_login_with_legacy_email_address(
    page: Page, server: LiveServer, ada: Person
) -> None:
    server.sql(f"UPDATE users SET email = 'müller@example.com' WHERE id = {ada.id}")

    page.goto("/login")
    log_in(page, "müller@example.com")

    expect_logged_in(page, "ada")


def test_new_account_with_other_letters_in_email_address(page: Page) -> None:
    page.goto("/register")
    form = main(page).locator("form")
    fill(form, username="eve", email="müller@example.com", password="correct horse")

    submit(form)

    expect_error(field(form, "email"), "symbol")
