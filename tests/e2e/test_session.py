"""Login and logout: redirects, other tabs, and expiry."""

import re
import time
from dataclasses import replace
from urllib.parse import quote, urlsplit

import jwt
import pytest
from playwright.sync_api import Request, expect

from tests.e2e.conftest import (
    DESKTOP,
    PHONE,
    STORAGE_BLOCKED,
    button,
    dialog,
    end_sessions,
    expect_error,
    expect_logged_in,
    expect_logged_out,
    expect_success,
    field,
    fill,
    find_violations,
    held,
    log_in,
    main,
    navbar,
    start_post,
    stored,
    submit,
)
from tests.server import PASSWORD, LiveServer, Person

HOSTILE_RETURN_PATHS = [
    "//evil.example",
    "/\\evil.example",
    "/\t/evil.example",
    "/.//evil.example",
    "//[",
    "/login?next=//evil.example",
]


class TestRedirect:
    def test_registration(self, page, bob):
        page.goto(f"/users/{bob.id}/posts?page=1")

        navbar(page).get_by_role("link", name="Log in").click()
        main(page).locator("a[href*='/register']").click()
        fill(page, username="eve", email="eve@example.com", password=" " * 8)
        submit(main(page))

        page.wait_for_url(f"/users/{bob.id}/posts?page=1")
        expect_logged_in(page, "eve")

    def test_registration_without_login(self, page, server):
        page.route("**/api/users/token", lambda route: route.fulfill(status=503))
        page.goto("/register?next=%2Fdocs")
        fill(page, username="eve", email="eve@example.com", password=PASSWORD)

        submit(main(page))

        heading = page.get_by_role("heading", name="Your account was created")
        expect(heading).to_be_focused()
        assert find_violations(page) == []
        main(page).get_by_role("link", name="Log in").click()
        page.wait_for_url("/login?next=%2Fdocs")
        expect(field(page, "email")).to_have_value("eve@example.com")

    @pytest.mark.parametrize(
        ("token", "reason"),
        [("", "Log in to see that page."), ("expired", "Your session has expired.")],
    )
    def test_account_page(self, new_page, ada, token, reason):
        page = new_page(replace(ada, token=token))
        page.goto("/account")
        page.wait_for_url("/login?next=%2Faccount")
        expect(page.get_by_role("status").filter(visible=True)).to_contain_text(reason)

        log_in(page, ada.email)

        page.wait_for_url("/account")
        expect(field(main(page), "username")).to_have_value("ada")

    @pytest.mark.parametrize("path", HOSTILE_RETURN_PATHS)
    def test_stays_on_site(self, ada_page, server, path):
        ada_page.goto(f"/login?next={quote(path, safe='')}")

        ada_page.wait_for_url(lambda url: urlsplit(url).path != "/login")
        assert ada_page.url.startswith(f"{server.url}/")


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

    def test_email_carries_over(self, page):
        page.goto("/login")
        fill(main(page), email="ada@example.com")

        page.get_by_role("link", name="Forgot your password?").click()

        expect(page).to_have_url(re.compile("/forgot-password"))
        expect(field(main(page), "email")).to_have_value("ada@example.com")

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


def expired(person: Person, server: LiveServer) -> Person:
    """Return a user whose access token expired an hour ago."""
    claims = jwt.decode(person.token, options={"verify_signature": False})
    claims |= {"iat": time.time() - 5400, "exp": time.time() - 3600}
    key = server.environment["SECRET_KEY"]
    return replace(person, token=jwt.encode(claims, key, "HS256"))


class TestRenewal:
    # The browser's clock may be wrong.
    @pytest.mark.parametrize("time_ms", ["Date.now()", 0, 4e12])
    def test_expired_token(self, new_page, ada, server, time_ms):
        person = expired(ada, server)
        page = new_page(person, init_script=f"const t = {time_ms}; Date.now = () => t;")
        renewals: list[Request] = []
        page.on("request", lambda r: renewals.append(r) if "me/token" in r.url else 0)

        page.goto("/account")

        expect(field(main(page), "username")).to_have_value("ada")
        assert len(renewals) == 1
        assert stored(page, "access_token") != [person.token]

    def test_publish(self, ada_page, ada, server):
        form = start_post(ada_page)
        token = expired(ada, server).token
        ada_page.evaluate("token => { localStorage.access_token = token }", token)

        fill(form, content="Written for an hour")
        submit(form)

        expect_success(ada_page)

    def test_logout_in_another_tab(self, new_page, ada, server):
        page = new_page(expired(ada, server))
        with held(page, "**/api/users/me/token"):
            page.goto("/login")
            page.evaluate("localStorage.clear()")

        expect(page.get_by_role("banner")).to_be_visible()
        page.wait_for_load_state("networkidle")
        assert stored(page, "access_token") == []

    def test_unavailable_server(self, new_page, ada, server):
        page = new_page(expired(ada, server))
        page.route("**/me/token", lambda route: route.fulfill(status=503, json={}))

        page.goto("/account")

        expect(main(page).get_by_role("alert").first).to_be_visible()
        assert len(stored(page, "access_token")) == 1


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
        me = f"{server.url}/api/users/me"
        assert authorized == [me, f"{me}/token"]
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


class TestSlowScripts:
    @pytest.mark.parametrize("script", ["main", "post-form"])
    def test_clicks_are_replayed(self, ada_page, script):
        with held(ada_page, f"**/js/{script}.js"):
            ada_page.goto("/", wait_until="commit")
            button(navbar(ada_page), "New post").click()
            button(ada_page, "Dark").click()

        form = dialog(ada_page, "post-create")
        expect(field(form, "title")).to_be_focused()
        expect(button(ada_page, "Dark")).to_have_attribute("aria-pressed", "true")

    def test_anonymous_visitors_load_no_scripts_for_writing(self, page, ada, post):
        scripts: list[str] = []
        page.on("request", lambda request: scripts.append(request.url))
        page.goto("/", wait_until="networkidle")

        assert not re.findall(r"post-form\.js|bootstrap\.esm", " ".join(scripts))


class TestMenu:
    def test_escape_closes(self, new_page):
        page = new_page(viewport=PHONE)
        page.goto("/")
        button(page, "Menu").click()
        expect(navbar(page).get_by_role("link", name="Log in")).to_be_visible()

        page.keyboard.press("Escape")

        expect(navbar(page).get_by_role("link", name="Log in")).to_be_hidden()
        expect(button(page, "Menu")).to_be_focused()
        expect(button(page, "Menu")).to_have_attribute("aria-expanded", "false")
