"""Login and logout: redirects, other tabs, and expiry."""

from dataclasses import replace

import pytest
from playwright.sync_api import Request, expect

from tests.e2e.conftest import (
    DESKTOP,
    PHONE,
    STORAGE_BLOCKED,
    button,
    end_sessions,
    expect_error,
    expect_logged_in,
    expect_logged_out,
    field,
    fill,
    find_violations,
    held,
    log_in,
    main,
    navbar,
    stored,
    submit,
)


class TestRedirect:
    def test_registration(self, page, bob):
        page.goto(f"/users/{bob.id}/posts?page=1")

        navbar(page).get_by_role("link", name="Log in").click()
        main(page).locator("a[href*='/register']").click()
        fill(page, username="eve", email="eve@example.com", password=" " * 8)
        submit(main(page))

        page.wait_for_url(f"/users/{bob.id}/posts?page=1")
        expect_logged_in(page, "eve")

    @pytest.mark.parametrize("token", ["", "expired"])
    def test_account_page(self, new_page, ada, token):
        page = new_page(replace(ada, token=token))
        page.goto("/account")
        page.wait_for_url("/login?next=%2Faccount")

        log_in(page, ada.email)

        page.wait_for_url("/account")
        expect(field(main(page), "username")).to_have_value("ada")


class TestLogin:
    def test_wrong_password(self, page, ada):
        page.goto("/login")

        main(page).locator("[data-password-toggle]").click()
        expect(field(page, "password")).to_have_attribute("type", "text")
        log_in(page, ada.email, "not this one")

        expect(field(page, "password")).to_have_attribute("type", "password")
        expect_error(field(page, "password"), "Incorrect email or password")
        assert find_violations(page) == []

    def test_blocked_storage(self, new_page, ada):
        page = new_page(init_script=STORAGE_BLOCKED)
        page.goto("/login")

        log_in(page, ada.email)

        expect(page.get_by_role("alert")).to_contain_text("Allow storage for this site")

    def test_legacy_email_address(self, page, server, ada):
        server.sql(f"UPDATE users SET email = 'müller@example.com' WHERE id = {ada.id}")
        page.goto("/login")

        log_in(page, "müller@example.com")

        expect_logged_in(page, "ada")


class TestOtherTab:
    def test_login_and_logout(self, page, ada):
        other = page.context.new_page()
        other.goto("/")
        page.goto("/login")

        log_in(page, ada.email)
        expect_logged_in(other, "ada")
        expect_logged_in(page, "ada")
        button(other, "Log out").click()

        expect_logged_out(other)
        expect_logged_out(page)

    def test_logout_while_page_is_cached(self, ada_page):
        ada_page.goto("/")
        expect_logged_in(ada_page, "ada")
        ada_page.evaluate("localStorage.clear()")

        # Simulate the back/forward cache, which the browser under test doesn't have.
        ada_page.evaluate(
            "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))"
        )

        expect_logged_out(ada_page)


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_navbar_is_stable_while_user_loads(new_page, ada, viewport):
    page = new_page(ada, viewport=viewport)
    visible = page.get_by_role("banner").locator("a:visible, button:visible")
    boxes = "all => all.map((e) => JSON.stringify(e.getBoundingClientRect()))"

    with held(page, "**/api/users/me"):
        page.goto("/")
        before = visible.evaluate_all(boxes)
    expect(page.locator("[data-navbar-target=username]")).to_have_text("ada")

    assert visible.evaluate_all(boxes) == before


class TestExpiry:
    def test_token_is_sent_once(self, ada_page, server):
        end_sessions(server)
        requests: list[Request] = []
        ada_page.on("request", lambda request: requests.append(request))

        ada_page.goto("/")
        expect_logged_out(ada_page)
        ada_page.goto("/register")
        expect(main(ada_page).locator("[type=submit]")).to_be_enabled()

        authorized = [r.url for r in requests if "authorization" in r.headers]
        assert authorized == [f"{server.url}/api/users/me"]
        assert stored(ada_page, "access_token") == []

    @pytest.mark.parametrize("status", [403, 503])
    def test_other_errors(self, ada_page, status):
        ada_page.route(
            "**/api/users/me", lambda route: route.fulfill(status=status, json={})
        )

        ada_page.goto("/account")

        expect(main(ada_page).get_by_role("alert").first).to_be_visible()
        expect(button(ada_page, "Log out")).to_be_visible()
        assert len(stored(ada_page, "access_token")) == 1
