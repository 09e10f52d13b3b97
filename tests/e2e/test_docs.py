"""The API documentation pages."""

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.conftest import button, post_ids
from tests.server import PASSWORD, LiveServer

ACCOUNT = {"username": "grace", "email": "grace@example.com", "password": PASSWORD}


def operation(page: Page, name: str) -> Locator:
    """Expand an operation in Swagger UI and return its section."""
    block = page.locator(f"[id$='-{name}']")
    block.locator(".opblock-summary-control[aria-expanded=false]").click()
    expect(block.locator(".opblock-body")).to_be_visible()
    return block


def execute_request(block: Locator, status: int) -> Locator:
    """Send the filled-in request and return the response."""
    button(block, "Execute").click()
    response = block.locator(".live-responses-table .response")
    expect(response.locator(".response-col_status")).to_have_text(str(status))
    return response


def authorize(page: Page, email: str) -> None:
    """Log in through Swagger UI's dialog."""
    button(page, "Authorize").first.click()
    form = page.locator(".auth-container")
    expect(form).to_contain_text("The username is the email address")
    form.get_by_label("username:").fill(email)
    form.get_by_label("password:").fill(PASSWORD)
    form.get_by_role("button", name="Apply given OAuth2 credentials").click()
    expect(form.get_by_text("Logout")).to_be_visible()
    button(form, "Close").click()


class TestSwagger:
    def test_first_post(self, page, server):
        page.goto("/docs")
        sign_up = operation(page, "create_user")
        sign_up.locator("textarea.body-param__text").fill(json.dumps(ACCOUNT))
        execute_request(sign_up, 201)
        authorize(page, ACCOUNT["email"])
        execute_request(operation(page, "create_post"), 201)

        page.reload()
        me = execute_request(operation(page, "read_current_user"), 200)

        expect(me).to_contain_text(ACCOUNT["email"])
        assert len(post_ids(server)) == 1

    def test_site_login(self, ada_page):
        ada_page.goto("/docs")

        me = execute_request(operation(ada_page, "read_current_user"), 200)

        expect(me).to_contain_text("ada@example.com")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_dark_theme(new_page, server, path):
    page = new_page(color_scheme="dark")

    page.goto(path, wait_until="networkidle")

    expect(page.locator("body")).to_have_css("background-color", "rgb(23, 25, 28)")
    expect(page.get_by_role("main")).to_have_count(1)
    text = page.locator("h1").first.evaluate("(h1) => getComputedStyle(h1).color")
    assert min(map(int, re.findall(r"\d+", text)[:3])) > 150


def test_redoc(page):
    page.goto("/redoc")
    expect(page.get_by_role("link", name="RFC 9457")).to_be_visible()
    sample = page.locator(".redoc-json", has_text="excerpt").first
    excerpt = sample.get_by_text('"excerpt"')
    expect(excerpt).to_be_hidden()

    button(sample, "expand").first.click()

    expect(excerpt).to_be_visible()


HOSTILE = (
    '<img src="/static/icons/icon.svg" onload="pwned = true">'
    '<a href="javascript:pwned = true">a</a>'
    "<script>pwned = true</script>"
    '<iframe srcdoc="<script>parent.pwned = true</script>"></iframe>'
)
SET_HTML = """async (html) => {
  const box = document.createElement("div");
  box.innerHTML = html;
  document.body.append(box);
  await box.querySelector("img").decode();
  return [box.innerHTML, "pwned" in window];
}"""


class TestTrustedTypes:
    @pytest.fixture(params=["/docs", "/redoc"])
    def viewer(
        self, browser: Browser, server: LiveServer, request: pytest.FixtureRequest
    ) -> Iterator[Page]:
        """Open a documentation page without failing on errors that a test causes."""
        with browser.new_context(base_url=server.url) as context:
            page = context.new_page()
            page.goto(request.param, wait_until="networkidle")
            yield page

    def test_html(self, viewer):
        html, has_run = viewer.evaluate(SET_HTML, HOSTILE)

        assert html == '<img src="/static/icons/icon.svg"><a>a</a>'
        assert not has_run
