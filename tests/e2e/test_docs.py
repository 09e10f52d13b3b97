"""The API documentation pages, as an API user sees them."""

import json
from collections.abc import Iterator
from io import BytesIO

import pytest
from PIL import Image
from playwright.sync_api import Browser, Error, FilePayload, Locator, Page, expect

from tests.conftest import PASSWORD
from tests.e2e.conftest import Blog, Person, button

ACCOUNT = {"username": "grace", "email": "grace@example.com", "password": PASSWORD}


def photo() -> bytes:
    """Create a picture like a camera's."""
    file = BytesIO()
    Image.new("RGB", (400, 300), "teal").save(file, "JPEG")
    return file.getvalue()


def operation(page: Page, name: str) -> Locator:
    """Expand an operation and return its block."""
    block = page.locator(f"[id$='-{name}']")
    if not block.locator(".opblock-body").is_visible():
        block.locator(".opblock-summary-control").click()
    expect(block.locator(".opblock-body")).to_be_visible()
    return block


def execute_request(block: Locator, status: int) -> Locator:
    """Send the filled-in request and return the response."""
    button(block, "Execute").click()
    response = block.locator(".live-responses-table .response")
    expect(response.locator(".response-col_status")).to_have_text(str(status))
    return response


def authorize(page: Page, email: str) -> None:
    """Log in through the dialog."""
    button(page, "Authorize").first.click()
    form = page.locator(".auth-container")
    expect(form).to_contain_text("the username is the email address")
    form.get_by_label("username:").fill(email)
    form.get_by_label("password:").fill(PASSWORD)
    form.get_by_role("button", name="Apply given OAuth2 credentials").click()
    expect(form.get_by_text("Logout")).to_be_visible()
    button(form, "Close").click()


def test_newcomer_publishes_post_and_stays_authorized(page: Page, blog: Blog) -> None:
    page.goto("/docs")
    sign_up = operation(page, "create_user")
    sign_up.locator("textarea.body-param__text").fill(json.dumps(ACCOUNT))
    execute_request(sign_up, 201)
    authorize(page, ACCOUNT["email"])

    execute_request(operation(page, "create_post"), 201)
    page.reload()
    expect(page.locator("[id$='-create_post'] .opblock-body")).to_be_visible()
    me = execute_request(operation(page, "read_current_user"), 200)

    expect(me).to_contain_text(ACCOUNT["email"])
    [post_id] = blog.post_ids()
    page.goto(f"/posts/{post_id}")
    expect(page.get_by_role("article")).to_contain_text("It works.")


def test_picture_can_be_uploaded_from_docs(page: Page, blog: Blog, ada: Person) -> None:
    page.goto("/docs")
    authorize(page, ada.email)
    upload = operation(page, "upload_picture")
    upload.locator("[data-param-name=user_id] input").fill(str(ada.id))
    file = FilePayload(name="me.jpg", mimeType="image/jpeg", buffer=photo())
    upload.locator("input[type=file]").set_input_files(file)

    execute_request(upload, 200)

    assert blog.call("GET", f"/api/users/{ada.id}")["image_file"]


def test_link_to_operation_expands_it(page: Page) -> None:
    page.goto("/docs#/posts/create_post")

    block = page.locator("[id$='-create_post']")
    expect(block.locator(".opblock-body")).to_be_visible()
    expect(block).to_be_in_viewport()


def test_reference_shows_descriptions_and_samples(page: Page) -> None:
    page.goto("/redoc")
    expect(page.get_by_role("link", name="RFC 9457")).to_be_visible()
    sample = page.locator(".redoc-json", has_text="excerpt").first
    excerpt = sample.get_by_text('"excerpt"')
    expect(excerpt).to_be_hidden()

    button(sample, "expand").first.click()

    expect(excerpt).to_be_visible()


# Trusted Types

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


@pytest.fixture(params=["/docs", "/redoc"])
def viewer(
    browser: Browser, blog: Blog, request: pytest.FixtureRequest
) -> Iterator[Page]:
    """Open a viewer without monitoring the violations under test."""
    with browser.new_context(base_url=blog.url) as context:
        page = context.new_page()
        page.goto(request.param, wait_until="networkidle")
        yield page


def test_html_from_strings_is_sanitized(viewer: Page) -> None:
    html, has_run = viewer.evaluate(SET_HTML, HOSTILE)

    assert html == '<img src="/static/icons/icon.svg"><a>a</a>'
    assert not has_run


@pytest.mark.parametrize(
    "script",
    [
        "() => { document.createElement('script').text = '1'; }",
        "() => { document.createElement('script').src = '/static/js/main.js'; }",
        "() => { new Worker('/static/js/main.js'); }",
        "() => { trustedTypes.createPolicy('other', { createHTML: (text) => text }); }",
    ],
    ids=["script", "address", "worker", "policy"],
)
def test_strings_never_become_scripts(viewer: Page, script: str) -> None:
    with pytest.raises(Error, match=r"TrustedScript|disallowed"):
        viewer.evaluate(script)
