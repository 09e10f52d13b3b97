"""Writing and reading Markdown."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import (
    PHONE,
    NewPage,
    button,
    dialog,
    expect_success,
    field,
    fill,
    find_violations,
    open_dialog,
    overflow,
    start_edit,
    start_post,
    submit,
)
from tests.hostile_markup import MARKUP
from tests.server import LiveServer, Person

TEXT = "# Tea\n\nIs *ready*, see https://a.example"


def switch(form: Locator) -> Locator:
    return form.get_by_role("checkbox", name="Format with Markdown")


def preview(form: Locator) -> Locator:
    return form.get_by_role("region", name="Preview")


@pytest.fixture
def form(ada_page: Page) -> Locator:
    form = start_post(ada_page)
    switch(form).check()
    fill(form, content=TEXT)
    return form


class TestPreview:
    def test_markdown(self, ada_page, form):
        button(form, "Preview").click()

        expect(preview(form)).to_be_focused()
        expect(preview(form).get_by_role("heading", level=2)).to_have_text("Tea")
        expect(preview(form).get_by_role("link")).to_have_attribute(
            "href", "https://a.example"
        )
        assert find_violations(ada_page) == []

    def test_closes(self, form):
        toggle = button(form, "Preview")
        toggle.click()
        expect(toggle).to_have_attribute("aria-expanded", "true")

        fill(form, content="Coffee")
        expect(preview(form)).to_be_hidden()
        toggle.click()
        expect(preview(form)).to_have_text("Coffee")
        toggle.click()

        expect(preview(form)).to_be_hidden()
        expect(toggle).to_have_attribute("aria-expanded", "false")

    def test_blank(self, form):
        fill(form, content=" ")

        button(form, "Preview").click()

        expect(form).to_contain_text("This field is required.")
        expect(field(form, "content")).to_be_focused()

    @pytest.mark.parametrize(
        ("status", "message"),
        [
            (401, "Your session has expired. Please log in again."),
            (429, "Too many attempts. Please try again in 5 seconds."),
            (503, "The site is temporarily unavailable."),
        ],
    )
    def test_error(self, ada_page, form, status, message):
        headers = {"Retry-After": "5"}
        ada_page.route(
            "**/preview", lambda route: route.fulfill(status=status, headers=headers)
        )

        button(form, "Preview").click()

        expect(form.get_by_role("alert")).to_contain_text(message)
        expect(button(form, "Try again")).to_be_hidden()
        expect(field(form, "content")).to_have_value(TEXT)


class TestWriting:
    def test_publish_and_edit(self, ada_page, server, form):
        submit(form)
        expect_success(ada_page, "Post published.")
        [post] = server.call("GET", "/api/posts")["posts"]
        assert post["format"] == "markdown"
        assert post["excerpt"] == "Tea Is ready, see https://a.example"

        edit_form = start_edit(ada_page, post)
        expect(switch(edit_form)).to_be_checked()
        expect(ada_page.locator("article em")).to_have_text("ready")
        switch(edit_form).uncheck()
        submit(edit_form)

        expect(ada_page.locator("article")).to_contain_text("Is *ready*")

    def test_switch_is_remembered(self, ada_page, form):
        ada_page.reload()

        expect(switch(open_dialog(ada_page, "post-create"))).to_be_checked()

    def test_switch_is_part_of_draft(self, ada_page, form):
        ada_page.evaluate("localStorage.removeItem('post-format')")
        ada_page.reload()
        form = open_dialog(ada_page, "post-create")
        expect(switch(form)).not_to_be_checked()

        button(form, "Restore draft").click()

        expect(switch(form)).to_be_checked()
        assert dialog(ada_page, "post-create").is_visible()


@pytest.mark.parametrize("post_format", ["plain", "markdown"])
def test_hostile_markup(
    new_page: NewPage, server: LiveServer, ada: Person, post_format: str
) -> None:
    post = {"content": "\n\n".join(MARKUP), "format": post_format}
    post = server.call("POST", "/api/posts", ada, json=post)
    page = new_page(ada, viewport=PHONE)

    # The fixture fails the test if a script runs or the policy is violated.
    page.goto(f"/posts/{post['id']}", wait_until="networkidle")

    links = page.locator("article .prose a[href]")
    protocols = links.evaluate_all("(links) => links.map((link) => link.protocol)")
    assert set(protocols) == {"https:"}
    assert (
        page.locator(".prose :is(script, img, svg, iframe, form, style)").count() == 0
    )
    assert overflow(page) <= 0
