"""Shared fixtures of the browser tests: a server, a monitored browser, users."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Response,
    Route,
    StorageState,
    expect,
    sync_playwright,
)
from sqlalchemy import make_url

from config import BASE_DIR
from tests.conftest import (
    ADMIN_URL,
    PASSWORD,
    auth_header,
    new_reset_link,
    wait_until_healthy,
)
from tests.databases import execute, free_port, scratch_database

CHROMIUM = shutil.which("chromium")
NO_CHROMIUM = "The browser tests need Chromium: apt-get install chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}

# Turn forbidden actions of a page into console errors, which fail the test.
WATCH = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
window.alert = () => console.error("a stored script called alert");
Object.defineProperty(window, "__pwned", {
  set: () => console.error("a stored script ran"),
});
"""

Json = dict[str, Any]
NewContext = Callable[..., BrowserContext]


# The server


@dataclass(frozen=True)
class Person:
    """A user with a valid access token."""

    id: int
    name: str
    email: str
    token: str


class Blog:
    """The running app, for access without a browser."""

    def __init__(self, url: str, database_url: str, var_dir: Path) -> None:
        self.url = url
        self.database_url = make_url(database_url)
        self.outbox = var_dir / "outbox"
        self.client = httpx.Client(base_url=url, timeout=20)

    def call(
        self, method: str, path: str, person: Person | None = None, **options: Any
    ) -> Any:
        """Call the API, which must succeed, and return the response's JSON."""
        headers = auth_header(person.token) if person else {}
        response = self.client.request(method, path, headers=headers, **options)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def sign_up(self, name: str) -> Person:
        """Create a user with the next free email address."""
        email = f"{re.sub('[^a-z]', '', name.lower())}@example.com"
        account = {"username": name, "email": email, "password": PASSWORD}
        user = self.call("POST", "/api/users", json=account)
        return Person(user["id"], name, email, self.new_token(email))

    def new_token(self, email: str) -> str:
        """Log in and return the token."""
        form = {"username": email, "password": PASSWORD}
        token: str = self.call("POST", "/api/users/token", data=form)["access_token"]
        return token

    def end_sessions(self, person: Person) -> None:
        """Invalidate all tokens of a user; the password stays the same."""
        passwords = {"current_password": PASSWORD, "new_password": PASSWORD}
        self.call("PATCH", "/api/users/me/password", person, json=passwords)

    def write(self, author: Person, content: str = "Some text", title: str = "") -> Any:
        """Publish a post and return the API's JSON."""
        post = {"title": title, "content": content}
        return self.call("POST", "/api/posts", author, json=post)

    def write_many(self, author: Person, number: int) -> list[int]:
        """Publish this many posts and return their ids, newest first."""
        ids = [self.write(author, f"Post number {n}")["id"] for n in range(number)]
        return ids[::-1]

    def change(self, author: Person, post: Json, content: str) -> None:
        """Update a post while a page shows it."""
        path = f"/api/posts/{post['id']}"
        self.call("PATCH", path, author, json={"content": content})

    def delete(self, author: Person, post_id: int) -> None:
        """Delete a post."""
        self.call("DELETE", f"/api/posts/{post_id}", author)

    def post_ids(self) -> list[int]:
        """Return the ids of up to a hundred posts, newest first."""
        posts = self.call("GET", "/api/posts?limit=100")["posts"]
        return [post["id"] for post in posts]

    def run_sql(self, statement: str) -> None:
        """Run SQL for changes that no request can make."""
        in_own_thread(execute(self.database_url, statement))

    def empty(self) -> None:
        """Delete everything that tests have created."""
        self.run_sql("TRUNCATE users CASCADE")
        shutil.rmtree(self.outbox, ignore_errors=True)

    def wait_for_emailed_link(self) -> str:
        """Wait for the reset email, which follows the response, and return its URL."""
        return new_reset_link(self.outbox)


def in_own_thread(work: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine in a new thread, because Playwright has a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


@pytest.fixture(scope="package")
def running_blog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blog]:
    """Run the app in another process with a separate database."""
    var_dir = tmp_path_factory.mktemp("blog")
    url = f"http://127.0.0.1:{free_port()}"
    with scratch_database(ADMIN_URL) as database_url:
        environment = build_environment(url, database_url, var_dir)
        run = [sys.executable, "-m"]
        subprocess.run(
            [*run, "alembic", "upgrade", "head"],
            cwd=BASE_DIR,
            env=environment,
            check=True,
            capture_output=True,
        )
        serve = ["uvicorn", "main:app", "--port", url.rpartition(":")[2]]
        server = subprocess.Popen(
            [*run, *serve, "--log-level", "warning"], cwd=BASE_DIR, env=environment
        )
        try:
            wait_until_healthy(url, server)
            blog = Blog(url, database_url, var_dir)
            yield blog
            blog.client.close()
        finally:
            server.terminate()
            server.wait(timeout=15)


def build_environment(url: str, database_url: str, var_dir: Path) -> dict[str, str]:
    """Return settings for local emails and pictures and for links to this server."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("S3_")
    }
    return inherited | {
        "DATABASE_URL": database_url,
        "VAR_DIR": str(var_dir),
        "FRONTEND_URL": url,
    }


@pytest.fixture
def blog(running_blog: Blog) -> Blog:
    """Return an app without accounts and posts."""
    running_blog.empty()
    return running_blog


@pytest.fixture
def ada(blog: Blog) -> Person:
    """Create a user, ada."""
    return blog.sign_up("ada")


@pytest.fixture
def bob(blog: Blog) -> Person:
    """Create another user, bob."""
    return blog.sign_up("bob")


# The browser


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print once why no browser test ran."""
    if CHROMIUM is None:
        terminalreporter.write_line(NO_CHROMIUM)


# Package scope, because its event loop would conflict with those of other tests. After
# the server, because creating and dropping a database needs a loop, too.
@pytest.fixture(scope="package")
def browser(running_blog: Blog) -> Iterator[Browser]:
    """Start one browser for all tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        expect.set_options(timeout=8000)
        yield browser
        browser.close()


@pytest.fixture(scope="package", autouse=True)
def chromium() -> None:
    """Fail if there is no browser: a build must not pass without one."""
    if CHROMIUM is None:
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop(NO_CHROMIUM)


@pytest.fixture
def new_context(browser: Browser, blog: Blog) -> Iterator[NewContext]:
    """Create browser contexts; fail the test if a page does something forbidden."""
    problems: list[str] = []
    with ExitStack() as contexts:

        def make(
            person: Person | None = None, *, init_script: str = "", **options: Any
        ) -> BrowserContext:
            context = browser.new_context(
                base_url=blog.url,
                storage_state=signed_in(blog, person),
                **{"viewport": DESKTOP, **options},
            )
            contexts.callback(context.close)
            context.set_default_timeout(8000)
            context.add_init_script(WATCH + init_script)
            watch(context, blog.url, problems)
            return context

        yield make
    assert problems == []


def signed_in(blog: Blog, person: Person | None) -> StorageState:
    """Return the browser storage of a logged-in user."""
    if person is None:
        return {}
    return {
        "origins": [
            {
                "origin": blog.url,
                "localStorage": [{"name": "access_token", "value": person.token}],
            }
        ]
    }


def watch(context: BrowserContext, origin: str, problems: list[str]) -> None:
    """Record forbidden actions of all pages in a context."""

    def note_console(message: ConsoleMessage) -> None:
        # The browser's own message about a response or connection error, which a test
        # may cause.
        if message.type == "error" and "Failed to load resource" not in message.text:
            problems.append(f"console: {message.text}")

    def note_request(request: Request) -> None:
        if not request.url.startswith((f"{origin}/", "data:", "blob:")):
            problems.append(f"left the site: {request.url}")

    def note_response(response: Response) -> None:
        kind = response.request.resource_type
        if response.status >= 400 and kind not in {"document", "fetch"}:
            problems.append(f"{response.status}: {response.url}")

    context.on("console", note_console)
    context.on("request", note_request)
    context.on("response", note_response)
    context.on("weberror", lambda error: problems.append(f"script: {error.error}"))


@pytest.fixture
def page(new_context: NewContext) -> Page:
    """Open a page without login."""
    return new_context().new_page()


@pytest.fixture
def ada_page(new_context: NewContext, ada: Person) -> Page:
    """Open a page where ada is logged in."""
    return new_context(ada).new_page()


# Actions


def navigation(page: Page) -> Locator:
    """Return the navigation bar."""
    return page.get_by_role("navigation", name="Main")


def button(place: Page | Locator, name: str) -> Locator:
    """Return the button with exactly this name."""
    return place.get_by_role("button", name=name, exact=True)


def dialog(page: Page, name: str) -> Locator:
    """Return the open dialog with this title."""
    return page.get_by_role("dialog", name=name, exact=True)


def fill(form: Page | Locator, **texts: str) -> None:
    """Fill the inputs with these names."""
    for name, text in texts.items():
        form.locator(f"[name={name}]:visible").fill(text)


def open_dialog(page: Page, opener: str, name: str) -> Locator:
    """Press the button that opens a dialog; return the dialog when it is ready."""
    button(page, opener).click()
    opened = dialog(page, name)
    expect(opened.locator("form")).not_to_have_attribute("aria-busy", "true")
    return opened


def start_post(page: Page, path: str = "/") -> Locator:
    """Go to a page and open the dialog for a new post."""
    page.goto(path)
    return open_dialog(page, "New post", "New post")


def start_edit(page: Page, post: Json) -> Locator:
    """Go to an own post and open its edit dialog."""
    page.goto(f"/posts/{post['id']}")
    return open_dialog(page, "Edit", "Edit post")


def log_in(page: Page, person_email: str, password: str = PASSWORD) -> None:
    """Fill in and submit the login form on this page."""
    fill(page, email=person_email, password=password)
    button(page.get_by_role("main"), "Log in").click()


def expect_signed_in(page: Page, name: str) -> None:
    """Expect the navigation bar to name this user."""
    expect(navigation(page).locator("[data-navbar-target=username]")).to_have_text(name)


def expect_signed_out(page: Page) -> None:
    """Expect the navigation bar to offer login."""
    expect(navigation(page).get_by_role("link", name="Log in")).to_be_visible()


def shown_ids(page: Page) -> list[int]:
    """Return the ids of the listed posts, from top to bottom."""
    ids: list[int] = page.locator("[data-post-card]").evaluate_all(
        "cards => cards.map((card) => Number(card.dataset.postId))"
    )
    return ids


def stored(page: Page, prefix: str) -> list[str]:
    """Return the values that the browser stores under keys with this prefix."""
    values: list[str] = page.evaluate(
        """(prefix) => Object.entries(localStorage)
             .filter(([key]) => key.startsWith(prefix)).map(([, value]) => value)""",
        prefix,
    )
    return values


@contextmanager
def held(page: Page, url: str) -> Iterator[list[Route]]:
    """Hold matching requests until the context ends; yield them."""
    routes: list[Route] = []
    page.route(url, lambda route: routes.append(route))
    try:
        yield routes
    finally:
        for route in routes:
            route.continue_()
        page.unroute(url)
