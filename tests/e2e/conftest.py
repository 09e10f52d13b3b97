"""Fixtures and actions for the browser tests: server, users, and monitored pages."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    FilePayload,
    Locator,
    Page,
    Route,
    ViewportSize,
    expect,
    sync_playwright,
)

from tests.conftest import ADMIN_URL
from tests.databases import scratch_database
from tests.server import PASSWORD, LiveServer, Person
from tools.demo_site import CHROMIUM_FLAGS

# The headless shell starts and renders about twice as fast as Chromium.
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
TIMEOUT_MS = 30_000
PHONE: ViewportSize = {"width": 360, "height": 740}
DESKTOP: ViewportSize = {"width": 1280, "height": 900}

# Log policy violations and injected scripts as console errors, which fail the test.
WATCH = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
Object.defineProperty(window, "__pwned", {
  set: () => console.error("a stored script ran"),
});
"""
STORAGE_BLOCKED = """
Object.defineProperty(window, "localStorage", {
  get() { throw new DOMException("blocked", "SecurityError"); },
});
"""

AXE = Path(__file__).parent.joinpath("vendor/axe-core-4.14.1/axe.min.js").read_text()
RUN_AXE = """
async () => {
  const { violations } = await axe.run(document, {
    resultTypes: ["violations"],
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  });
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`));
}
"""

Json = dict[str, Any]
NewPage = Callable[..., Page]


@pytest.fixture(scope="package")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    if CHROMIUM is None:
        # CI must not pass without a browser.
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop("The browser tests need Chromium: apt-get install chromium-headless-shell")
    path = tmp_path_factory.mktemp("server")
    with scratch_database(ADMIN_URL) as url, LiveServer(path, database_url=url) as app:
        yield app


@pytest.fixture
def server(running_server: LiveServer) -> LiveServer:
    """Delete all users, posts and emails, and return the server."""
    running_server.sql("TRUNCATE users CASCADE")
    shutil.rmtree(running_server.var_dir / "outbox", ignore_errors=True)
    return running_server


@pytest.fixture
def ada(server: LiveServer) -> Person:
    return server.sign_up("ada")


@pytest.fixture
def bob(server: LiveServer) -> Person:
    return server.sign_up("bob")


@pytest.fixture
def post(server: LiveServer, ada: Person) -> Json:
    post: Json = server.write(ada, "Some text", "A title")
    return post


def post_ids(server: LiveServer) -> list[int]:
    """Return the ids of up to a hundred posts, newest first."""
    posts = server.call("GET", "/api/posts?limit=100")["posts"]
    return [post["id"] for post in posts]


def edit(server: LiveServer, author: Person, post: Json, **texts: str) -> None:
    """Update a post through the API, as if from another browser."""
    server.call("PATCH", f"/api/posts/{post['id']}", author, json=texts)


def end_sessions(server: LiveServer) -> None:
    """Revoke the tokens of all users."""
    server.sql("UPDATE users SET token_version = token_version + 1")


# Playwright's event loop conflicts with those of other tests. Close the browser after
# the last test in this package. Start it after the server, whose database needs a loop.
@pytest.fixture(scope="package")
def browser(running_server: LiveServer) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=TIMEOUT_MS)
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)


@pytest.fixture
def new_page(browser: Browser, server: LiveServer) -> Iterator[NewPage]:
    """Return a function that opens pages. Fail if `watch` has found an error."""
    violations: list[str] = []
    with ExitStack() as contexts:

        def make(
            person: Person | None = None, *, init_script: str = "", **options: Any
        ) -> Page:
            context = browser.new_context(
                base_url=server.url,
                **storage_of(person, server.url),
                **{"viewport": DESKTOP, **options},
            )
            contexts.callback(context.close)
            context.set_default_timeout(TIMEOUT_MS)
            context.add_init_script(WATCH + init_script)
            watch(context, server.url, violations)
            return context.new_page()

        yield make
    assert violations == []


def storage_of(person: Person | None, origin: str) -> Json:
    """Return the browser context option that logs a user in."""
    if person is None:
        return {}
    token = {"name": "access_token", "value": person.token}
    return {"storage_state": {"origins": [{"origin": origin, "localStorage": [token]}]}}


def watch(context: BrowserContext, origin: str, violations: list[str]) -> None:
    """Record errors and external requests of all pages in a browser context."""

    def forbid(is_violation: bool, description: str) -> None:
        if is_violation:
            violations.append(description)

    # Tests may make requests fail, which the browser logs as console errors.
    allowed, own = "Failed to load resource", (f"{origin}/", "data:", "blob:")
    context.on(
        "console", lambda m: forbid(m.type == "error" and allowed not in m.text, m.text)
    )
    context.on("request", lambda r: forbid(not r.url.startswith(own), r.url))
    context.on(
        "response",
        lambda r: forbid(
            r.status >= 400
            and r.request.resource_type not in {"document", "fetch", "xhr"},
            r.url,
        ),
    )
    context.on("weberror", lambda e: forbid(True, f"script: {e.error}"))


@pytest.fixture
def page(new_page: NewPage) -> Page:
    return new_page()


@pytest.fixture
def ada_page(new_page: NewPage, ada: Person) -> Page:
    return new_page(ada)


def navbar(page: Page) -> Locator:
    return page.get_by_role("navigation", name="Main")


def main(page: Page) -> Locator:
    return page.get_by_role("main")


def button(place: Page | Locator, name: str) -> Locator:
    """Return the button with exactly this name."""
    return place.get_by_role("button", name=name, exact=True)


def dialog(page: Page, name: str) -> Locator:
    return page.locator(f"#{name}")


def opener(page: Page, name: str) -> Locator:
    """Return the visible buttons that open a dialog."""
    return page.locator(f"[data-bs-target='#{name}']:visible")


def field(form: Page | Locator, name: str) -> Locator:
    return form.locator(f"[name={name}]:visible")


def post_cards(page: Page) -> Locator:
    return page.locator("[data-post-card]")


def shown_ids(page: Page) -> list[int]:
    """Return the ids of the listed posts, from top to bottom."""
    cards = post_cards(page).all()
    return [int(card.get_attribute("data-post-id") or 0) for card in cards]


def overflow(page: Page) -> int:
    """Return how many pixels wider than the window the page is."""
    width: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return width


def stored(page: Page, prefix: str) -> list[str]:
    """Return the values in local storage whose keys have this prefix."""
    items = page.evaluate("Object.entries(localStorage)")
    return [value for key, value in items if key.startswith(prefix)]


def expect_logged_in(page: Page, name: str) -> None:
    expect(navbar(page).locator("[data-navbar-target=username]")).to_have_text(name)


def expect_logged_out(page: Page) -> None:
    expect(navbar(page).get_by_role("link", name="Log in")).to_be_visible()


def toast(page: Page) -> Locator:
    return page.locator("[data-toast]")


def expect_success(page: Page, message: str = "") -> None:
    """Expect a confirmation that contains this message."""
    expect(toast(page).filter(has_text=message)).to_be_visible()


def expect_error(invalid: Locator, message: str) -> None:
    """Expect a field to be focused, invalid, and described by this error message."""
    expect(invalid).to_be_focused()
    expect(invalid).to_have_attribute("aria-invalid", "true")
    expect(invalid).to_have_accessible_description(re.compile(message))


def find_violations(page: Page) -> list[str]:
    """Return the accessibility errors in both themes, on a phone and on a desktop."""
    page.evaluate(AXE)
    found: list[str] = []
    for viewport in (PHONE, DESKTOP):
        page.set_viewport_size(viewport)
        for theme in ("light", "dark"):
            # Reduce motion, so that axe doesn't measure colors during a transition.
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            expect(page.locator("html")).to_have_attribute("data-bs-theme", theme)
            found += page.evaluate(RUN_AXE)
    return found


def fill(form: Page | Locator, **texts: str) -> None:
    for name, text in texts.items():
        field(form, name).fill(text)


def submit(form: Locator) -> None:
    form.locator("[type=submit]").click()


def open_dialog(page: Page, name: str) -> Locator:
    """Click the button that opens a dialog, and return the dialog once it is ready."""
    opener(page, name).first.click()
    opened = dialog(page, name)
    expect(opened.locator("form")).not_to_have_attribute("aria-busy", "true")
    return opened


def start_post(page: Page) -> Locator:
    """Go to the home page and open the dialog for a new post."""
    page.goto("/")
    return open_dialog(page, "post-create")


def start_edit(page: Page, post: Json) -> Locator:
    """Go to the user's own post and open its edit dialog."""
    page.goto(f"/posts/{post['id']}")
    return open_dialog(page, "post-edit")


def log_in(page: Page, email: str, password: str = PASSWORD) -> None:
    """Fill in and submit the login form on this page."""
    fill(page, email=email, password=password)
    submit(main(page))


def load_more(page: Page) -> None:
    """Click "Load more" and wait until the posts are loaded."""
    button(page, "Load more").click()
    expect(page.locator("[data-post-list]")).to_have_attribute("aria-busy", "false")


def picture() -> FilePayload:
    """Return a JPEG file to upload."""
    file = BytesIO()
    Image.new("RGB", (600, 400), "teal").save(file, "JPEG")
    return FilePayload(name="me.jpg", mimeType="image/jpeg", buffer=file.getvalue())


@contextmanager
def held(page: Page, url: str) -> Iterator[list[Route]]:
    """Hold back matching requests until the context ends, and yield a list of them."""
    routes: list[Route] = []
    page.route(url, lambda route: routes.append(route))
    yield routes
    for route in routes:
        route.continue_()
    page.unroute(url)
