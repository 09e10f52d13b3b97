"""Login and logout: redirects, multiple tabs, and expiry."""

from urllib.parse import quote

import pytest
from playwright.sync_api import Page, Request, expect

from tests.conftest import PASSWORD
from tests.e2e.conftest import (
    DESKTOP,
    PHONE,
    Blog,
    NewContext,
    Person,
    button,
    expect_signed_in,
    expect_signed_out,
    fill,
    held,
    log_in,
    navigation,
    stored,
)

STORAGE_BLOCKED = """
Object.defineProperty(window, "localStorage", {
  get() { throw new DOMException("blocked", "SecurityError"); },
});
"""


def authorized_by(page: Page) -> list[Request]:
    """Collect requests that send a token from now on."""
    requests: list[Request] = []

    def note(request: Request) -> None:
        if "authorization" in request.headers:
            requests.append(request)

    page.on("request", note)
    return requests


# Redirects


def test_login_returns_to_previous_page(page: Page, blog: Blog, ada: Person) -> None:
    post = blog.write(ada)
    page.goto(f"/posts/{post['id']}")

    navigation(page).get_by_role("link", name="Log in").click()
    log_in(page, ada.email)

    page.wait_for_url(f"/posts/{post['id']}")
    expect_signed_in(page, "ada")


def test_registration_returns_to_previous_page(
    page: Page, blog: Blog, bob: Person
) -> None:
    page.goto(f"/users/{bob.id}/posts?page=1")

    navigation(page).get_by_role("link", name="Log in").click()
    page.get_by_role("link", name="Don't have an account? Register").click()
    fill(page, username="eve", email="eve@example.com", password=PASSWORD)
    button(page, "Register").click()

    page.wait_for_url(f"/users/{bob.id}/posts?page=1")
    expect_signed_in(page, "eve")


def test_account_page_requires_login_and_returns(page: Page, ada: Person) -> None:
    page.goto("/account")
    page.wait_for_url("/login?next=%2Faccount")

    log_in(page, ada.email)

    page.wait_for_url("/account")
    expect(page.get_by_label("Username", exact=True)).to_have_value("ada")


def test_expired_session_returns_to_account_page(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    blog.end_sessions(ada)
    ada_page.goto("/account")
    ada_page.wait_for_url("/login?next=%2Faccount")

    log_in(ada_page, ada.email)

    ada_page.wait_for_url("/account")
    expect_signed_in(ada_page, "ada")


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "/.//evil.example",
        "https://evil.example/",
        "javascript:alert(1)",
        "evil.example",
        "/login",
        "",
    ],
)
def test_login_never_redirects_to_another_site(
    new_context: NewContext, blog: Blog, ada: Person, target: str
) -> None:
    page = new_context(ada).new_page()

    page.goto(f"/login?next={quote(target, safe='')}")

    page.wait_for_url(lambda url: "/login" not in url)
    assert page.url.startswith(f"{blog.url}/")


# Multiple tabs


def test_login_and_logout_update_other_tab(page: Page, ada: Person) -> None:
    other = page.context.new_page()
    other.goto("/")
    page.goto("/login")

    log_in(page, ada.email)
    expect_signed_in(other, "ada")
    expect_signed_in(page, "ada")
    button(other, "Log out").click()

    expect_signed_out(other)
    expect_signed_out(page)


def test_logout_in_another_tab_closes_account_page(ada_page: Page) -> None:
    ada_page.goto("/account")
    other = ada_page.context.new_page()
    other.goto("/")

    button(other, "Log out").click()

    ada_page.wait_for_url("/login?next=%2Faccount")


# Loading


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_navigation_is_stable_while_session_loads(
    new_context: NewContext, ada: Person, viewport: dict[str, int]
) -> None:
    page = new_context(ada, viewport=viewport).new_page()
    visible = page.get_by_role("banner").locator("a:visible, button:visible")
    boxes = "all => all.map((e) => JSON.stringify(e.getBoundingClientRect()))"

    with held(page, "**/api/users/me"):
        page.goto("/")
        before = visible.evaluate_all(boxes)
    expect(page.locator("[data-navbar-target=username]")).to_have_text("ada")

    assert visible.evaluate_all(boxes) == before


# Expiry


def test_expired_token_is_sent_once_and_removed(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    blog.end_sessions(ada)
    authorized = authorized_by(ada_page)

    ada_page.goto("/")
    expect_signed_out(ada_page)
    ada_page.goto("/register")
    expect(button(ada_page, "Register")).to_be_enabled()

    assert [request.url for request in authorized] == [f"{blog.url}/api/users/me"]
    assert stored(ada_page, "access_token") == []


@pytest.mark.parametrize("status", [403, 422, 429, 500, 503])
def test_only_a_401_logs_out(ada_page: Page, status: int) -> None:
    ada_page.route(
        "**/api/users/me",
        lambda route: route.fulfill(status=status, json={"detail": "Not now"}),
    )

    ada_page.goto("/account")

    expect(ada_page.get_by_role("main").get_by_role("alert").first).to_be_visible()
    expect(button(ada_page, "Log out")).to_be_visible()
    assert len(stored(ada_page, "access_token")) == 1


def test_network_error_does_not_log_out(ada_page: Page) -> None:
    ada_page.route("**/api/users/me", lambda route: route.abort())

    ada_page.goto("/account")

    expect(ada_page.get_by_role("main").get_by_role("alert").first).to_contain_text(
        "Can't reach the site"
    )
    expect(button(ada_page, "Log out")).to_be_visible()


def test_blocked_storage_is_explained_at_login(
    new_context: NewContext, ada: Person
) -> None:
    page = new_context(init_script=STORAGE_BLOCKED).new_page()
    page.goto("/login")

    log_in(page, ada.email)

    expect(page.get_by_role("alert")).to_contain_text("Allow storage for this site")
