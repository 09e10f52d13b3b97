"""Writing: no text is lost, whatever happens."""

import re

import pytest
from playwright.sync_api import Dialog, Locator, Page, Request, Route, expect

from tests.conftest import PASSWORD
from tests.e2e.conftest import (
    Blog,
    Json,
    NewContext,
    Person,
    button,
    dialog,
    fill,
    held,
    open_dialog,
    shown_ids,
    start_edit,
    start_post,
    stored,
)

TEXT = "Two hours of thought"


def content_of(form: Locator) -> Locator:
    return form.get_by_label("Content", exact=True)


def draft_prompt(form: Locator) -> Locator:
    return form.locator("[data-draft-prompt]")


def abandon(form: Locator) -> None:
    """Close a dialog with unsaved text and confirm."""
    button(form, "Cancel").click()
    button(form, "Close and keep draft").click()
    expect(form).to_be_hidden()


def published(page: Page) -> None:
    expect(dialog(page, "Done")).to_contain_text("Post published.")


def sent_by(page: Page, method: str) -> list[Request]:
    """Collect requests with this method to the posts API from now on."""
    requests: list[Request] = []

    def note(request: Request) -> None:
        if request.method == method and "/api/posts" in request.url:
            requests.append(request)

    page.on("request", note)
    return requests


# Drafts


def test_draft_is_offered_after_tab_was_closed(ada_page: Page) -> None:
    fill(start_post(ada_page), title="Thoughts", content=TEXT)
    again = ada_page.context.new_page()
    ada_page.close()

    form = start_post(again)

    expect(draft_prompt(form)).to_contain_text(f"Thoughts {TEXT}")
    expect(content_of(form)).to_have_value("")
    button(form, "Restore draft").click()
    expect(form.get_by_label("Title")).to_have_value("Thoughts")
    expect(content_of(form)).to_have_value(TEXT)


def test_edit_draft_is_offered_for_its_post_only(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    post, other = blog.write(ada, "One"), blog.write(ada, "Other")
    form = start_edit(ada_page, post)
    fill(form, content=TEXT)
    abandon(form)

    expect(draft_prompt(start_edit(ada_page, other))).to_be_hidden()
    form = start_edit(ada_page, post)

    expect(content_of(form)).to_have_value("One")
    button(form, "Restore draft").click()
    expect(content_of(form)).to_have_value(TEXT)


def test_draft_is_not_offered_to_another_user(
    ada_page: Page, blog: Blog, bob: Person
) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)
    abandon(form)

    ada_page.evaluate("(token) => localStorage.access_token = token", bob.token)
    form = start_post(ada_page)

    expect(content_of(form)).to_be_enabled()
    expect(draft_prompt(form)).to_be_hidden()


def test_writing_keeps_an_ignored_draft(ada_page: Page) -> None:
    form = start_post(ada_page)
    fill(form, content="First thoughts")
    abandon(form)
    form = start_post(ada_page)
    fill(form, content="Second thoughts")
    abandon(form)

    form = start_post(ada_page)
    expect(draft_prompt(form)).to_contain_text("Second thoughts")
    button(form, "Discard draft").click()

    expect(draft_prompt(form)).to_contain_text("First thoughts")
    button(form, "Discard draft").click()
    expect(draft_prompt(form)).to_be_hidden()
    assert stored(ada_page, "draft:") == []


def test_draft_is_cleared_after_successful_save(ada_page: Page) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)

    with held(ada_page, "**/api/posts") as requests:
        button(form, "Publish").click()
        expect(form.locator("form")).to_have_attribute("aria-busy", "true")
        while_sending = stored(ada_page, "draft:")
    published(ada_page)

    assert len(requests) == 1
    assert TEXT in while_sending[0]
    assert stored(ada_page, "draft:") == []


def test_rejected_text_is_kept_as_draft(ada_page: Page) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)
    ada_page.route("**/api/posts", lambda route: route.fulfill(status=422, json={}))

    button(form, "Publish").click()

    expect(form.get_by_role("alert").first).to_be_focused()
    expect(content_of(form)).to_have_value(TEXT)
    assert TEXT in stored(ada_page, "draft:")[0]


def test_outdated_draft_is_marked(ada_page: Page, blog: Blog, ada: Person) -> None:
    post = blog.write(ada, "One")
    form = start_edit(ada_page, post)
    fill(form, content=TEXT)
    abandon(form)
    form = open_dialog(ada_page, "Edit", "Edit post")
    expect(draft_prompt(form)).to_contain_text(TEXT)
    expect(form.get_by_text("The post has been edited since then.")).to_be_hidden()

    blog.change(ada, post, "Two")
    form = start_edit(ada_page, post)

    expect(draft_prompt(form)).to_contain_text(TEXT)
    expect(form.get_by_text("The post has been edited since then.")).to_be_visible()
    expect(content_of(form)).to_have_value("Two")


def test_saved_edit_leaves_no_draft(ada_page: Page, blog: Blog, ada: Person) -> None:
    form = start_edit(ada_page, blog.write(ada, "Before"))
    fill(form, content=TEXT)

    button(form, "Save changes").click()

    expect(dialog(ada_page, "Done")).to_contain_text("Changes saved.")
    expect(ada_page.get_by_role("article")).to_contain_text(TEXT)
    assert stored(ada_page, "draft:") == []


def test_writing_works_without_storage(new_context: NewContext, ada: Person) -> None:
    page = new_context(
        ada,
        init_script="Storage.prototype.setItem = () => { throw new Error('full'); }",
    ).new_page()
    form = start_post(page)
    fill(form, content=TEXT)

    button(form, "Publish").click()

    published(page)


# Expired sessions


def test_expired_session_asks_for_password_and_retries(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    form = start_post(ada_page)
    fill(form, title="Title", content=TEXT)
    blog.end_sessions(ada)
    sent = sent_by(ada_page, "POST")
    button(form, "Publish").click()
    expect(form.get_by_label("Password", exact=True)).to_be_focused()

    ada_page.keyboard.type(PASSWORD)
    ada_page.keyboard.press("Enter")
    published(ada_page)

    refused, accepted = sent
    assert refused.post_data_json == accepted.post_data_json
    assert len(blog.post_ids()) == 1
    assert stored(ada_page, "draft:") == []


def test_expired_session_asks_inside_edit_dialog(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    form = start_edit(ada_page, blog.write(ada, "Before"))
    fill(form, content=TEXT)
    blog.end_sessions(ada)
    button(form, "Save changes").click()

    fill(form, password=PASSWORD)
    button(form, "Save changes").click()

    expect(dialog(ada_page, "Done")).to_contain_text("Changes saved.")
    expect(ada_page.get_by_role("article")).to_contain_text(TEXT)


def test_wrong_password_in_dialog_keeps_text(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)
    blog.end_sessions(ada)
    button(form, "Publish").click()

    fill(form, password="not this one")
    button(form, "Publish").click()

    expect(form.get_by_label("Password", exact=True)).to_be_focused()
    expect(form).to_contain_text("Incorrect password.")
    expect(content_of(form)).to_have_value(TEXT)


def test_text_is_only_sent_as_its_author(
    ada_page: Page, blog: Blog, ada: Person, bob: Person
) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)
    ada_page.context.new_page().goto("/login")
    ada_page.evaluate("(token) => localStorage.access_token = token", bob.token)
    ada_page.evaluate("() => document.dispatchEvent(new Event('session-change'))")

    button(form, "Publish").click()
    expect(form).to_contain_text("enter the password for ada")
    fill(form, password=PASSWORD)
    button(form, "Publish").click()
    published(ada_page)

    posts = blog.call("GET", "/api/posts")["posts"]
    assert [post["author"]["username"] for post in posts] == ["ada"]


# Network errors


def test_retry_publishes_after_network_error(ada_page: Page, blog: Blog) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)
    ada_page.context.set_offline(True)
    button(form, "Publish").click()
    expect(form.get_by_role("alert").first).to_contain_text("Can't reach the site")
    expect(content_of(form)).to_have_value(TEXT)

    ada_page.context.set_offline(False)
    button(form, "Try again").click()

    published(ada_page)
    assert len(blog.post_ids()) == 1


def test_unavailable_server_keeps_text_and_session(ada_page: Page) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)
    ada_page.route(
        "**/api/posts",
        lambda route: route.fulfill(status=503, json={"detail": "away"}),
        times=1,
    )
    button(form, "Publish").click()
    expect(form.get_by_role("alert").first).to_contain_text("try again in a moment")

    button(form, "Try again").click()

    published(ada_page)


def lose_response(page: Page) -> None:
    """Let the next request to publish succeed, but drop its response."""

    def arrive(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route("**/api/posts", arrive, times=1)


def test_lost_response_creates_no_second_post(ada_page: Page, blog: Blog) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)
    lose_response(ada_page)
    button(form, "Publish").click()
    expect(form.get_by_role("alert").first).to_contain_text("Can't reach the site")

    button(form, "Try again").click()

    published(ada_page)
    assert shown_ids(ada_page) == blog.post_ids()
    assert len(blog.post_ids()) == 1


def test_text_changed_after_lost_response_is_kept(ada_page: Page, blog: Blog) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)
    lose_response(ada_page)
    button(form, "Publish").click()
    expect(form.get_by_role("alert").first).to_contain_text("Can't reach the site")
    fill(form, content=f"{TEXT} more")
    button(form, "Try again").click()
    expect(form.get_by_role("alert").first).to_contain_text(
        "Your first attempt went through"
    )
    assert f"{TEXT} more" in "".join(stored(ada_page, "draft:"))

    button(form, "Try again").click()

    published(ada_page)
    assert len(blog.post_ids()) == 2


def test_post_deleted_after_lost_response_is_republished(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)
    lose_response(ada_page)
    button(form, "Publish").click()
    expect(form.get_by_role("alert").first).to_contain_text("Can't reach the site")
    [first_id] = blog.post_ids()
    blog.call("DELETE", f"/api/posts/{first_id}", ada)
    button(form, "Try again").click()
    expect(form.get_by_role("alert").first).to_contain_text("then deleted")

    button(form, "Try again").click()

    published(ada_page)
    assert len(blog.post_ids()) == 1


# Edit conflicts


def save_over_another_edit(page: Page, blog: Blog, ada: Person) -> tuple[Locator, Json]:
    """Save an edit of a post that was edited elsewhere in between."""
    post: Json = blog.write(ada, "One", "A title")
    form = start_edit(page, post)
    fill(form, content=TEXT)
    blog.change(ada, post, "Two")
    button(form, "Save changes").click()
    conflict = form.locator("[data-edit-conflict]")
    expect(conflict).to_be_focused()
    expect(conflict).to_contain_text("edited elsewhere")
    expect(conflict.get_by_role("blockquote")).to_contain_text("Two")
    expect(content_of(form)).to_have_value(TEXT)
    return form, post


def test_conflict_can_keep_own_version(ada_page: Page, blog: Blog, ada: Person) -> None:
    form, post = save_over_another_edit(ada_page, blog, ada)
    assert blog.call("GET", f"/api/posts/{post['id']}")["content"] == "Two"

    button(form, "Keep my version").click()

    expect(dialog(ada_page, "Done")).to_contain_text("Changes saved.")
    assert blog.call("GET", f"/api/posts/{post['id']}")["content"] == TEXT
    assert stored(ada_page, "draft:") == []


def test_conflict_can_use_current_version(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    form, post = save_over_another_edit(ada_page, blog, ada)

    button(form, "Use current version").click()

    expect(content_of(form)).to_have_value("Two")
    expect(content_of(form)).to_be_focused()
    expect(draft_prompt(form)).to_contain_text(TEXT)
    fill(form, content="Two and a half")
    button(form, "Save changes").click()
    expect(dialog(ada_page, "Done")).to_contain_text("Changes saved.")
    assert blog.call("GET", f"/api/posts/{post['id']}")["content"] == "Two and a half"
    assert TEXT in stored(ada_page, "draft:")[0]


def test_renamed_author_causes_no_conflict(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    form = start_edit(ada_page, blog.write(ada, "One"))
    fill(form, content=TEXT)
    blog.call("PATCH", f"/api/users/{ada.id}", ada, json={"username": "ada l."})

    button(form, "Save changes").click()

    expect(dialog(ada_page, "Done")).to_contain_text("Changes saved.")
    expect(ada_page.get_by_role("article")).to_contain_text(TEXT)


def test_edited_post_shows_edit_mark(ada_page: Page, blog: Blog, ada: Person) -> None:
    post: Json = blog.write(ada, "One")
    form = start_edit(ada_page, post)
    edited = ada_page.locator("[data-byline-target=edited]")
    expect(edited).to_be_hidden()

    fill(form, content=TEXT)
    button(form, "Save changes").click()

    expect(edited).to_have_text(re.compile(r"^edited \w+ \d\d, \d{4}$"))
    from_script = edited.inner_text()
    ada_page.reload()
    expect(edited).to_have_text(from_script)
    ada_page.goto("/")
    expect(edited).to_have_text(from_script)


# Submitting


def test_submit_cannot_be_pressed_twice(ada_page: Page, blog: Blog) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)
    sent = sent_by(ada_page, "POST")

    with held(ada_page, "**/api/posts"):
        for _ in range(3):
            button(form, "Publish").dispatch_event("click")
        ada_page.keyboard.press("Enter")
    published(ada_page)

    assert len(sent) == 1
    assert len(blog.post_ids()) == 1


def test_empty_post_is_rejected_at_the_field(ada_page: Page) -> None:
    form = start_post(ada_page)
    sent = sent_by(ada_page, "POST")

    button(form, "Publish").click()

    expect(content_of(form)).to_be_focused()
    expect(content_of(form)).to_have_accessible_description("This field is required.")
    expect(content_of(form)).to_have_attribute("aria-invalid", "true")
    assert sent == []


def test_server_error_is_shown_at_its_field(ada_page: Page, bob: Person) -> None:
    ada_page.goto("/account")
    expect(ada_page.get_by_label("Username", exact=True)).to_have_value("ada")
    fill(ada_page, email=bob.email)

    button(ada_page, "Save changes").click()

    email = ada_page.get_by_label("Email", exact=True)
    expect(email).to_be_focused()
    expect(email).to_have_accessible_description("Email already registered")


@pytest.mark.parametrize(
    ("path", "label", "field", "fields", "text"),
    [
        ("/login", "Log in", "Password", {}, "Incorrect email or password"),
        ("/register", "Register", "Username", {"username": "ADA"}, "already exists"),
        ("/register", "Register", "Password", {"password": "short"}, "at least 8"),
        ("/register", "Register", "Username", {"username": "a\u200bb"}, "It must not"),
        ("/register", "Register", "Email", {"email": "a@b"}, "email"),
    ],
)
def test_validation_error_focuses_its_field(
    page: Page,
    ada: Person,
    path: str,
    label: str,
    field: str,
    fields: dict[str, str],
    text: str,
) -> None:
    page.goto(path)
    known = {"username": "eve", "email": "eve@example.com", "password": "wrong words"}
    names = page.locator("main [name]").evaluate_all("all => all.map((e) => e.name)")
    fill(page, **{name: fields.get(name, known[name]) for name in names})

    button(page.get_by_role("main"), label).click()

    place = page.get_by_role("main").get_by_label(field, exact=True)
    expect(place).to_be_focused()
    expect(place).to_have_accessible_description(re.compile(re.escape(text)))


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (79, ""),
        (80, "20 characters left."),
        (99, "1 character left."),
        (101, "1 character over the limit."),
    ],
)
def test_title_counts_down_near_its_limit(
    ada_page: Page, length: int, text: str
) -> None:
    form = start_post(ada_page)

    fill(form, title="\N{GRINNING FACE}" * length)

    expect(form.locator("[data-character-counter$=title]")).to_have_text(text)


# Leaving


def test_closing_dialog_with_unsaved_text_asks(ada_page: Page) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)

    ada_page.keyboard.press("Escape")
    expect(button(form, "Keep editing")).to_be_focused()
    ada_page.keyboard.press("Enter")

    expect(content_of(form)).to_be_focused()
    expect(content_of(form)).to_have_value(TEXT)


def test_closing_empty_dialog_does_not_ask(ada_page: Page) -> None:
    form = start_post(ada_page)
    expect(form.get_by_label("Title")).to_be_focused()

    ada_page.keyboard.press("Escape")

    expect(form).to_be_hidden()
    expect(button(ada_page, "New post")).to_be_focused()


def leave(page: Page) -> None:
    page.evaluate("() => { location.href = '/login'; }")


def test_leaving_page_with_unsaved_text_asks(ada_page: Page) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)
    ada_page.on("dialog", lambda question: question.dismiss())

    with ada_page.expect_event("dialog") as asked:
        leave(ada_page)

    assert asked.value.type == "beforeunload"
    expect(content_of(form)).to_have_value(TEXT)


def test_leaving_page_after_publishing_does_not_ask(ada_page: Page) -> None:
    form = start_post(ada_page)
    fill(form, content=TEXT)
    button(form, "Publish").click()
    published(ada_page)
    questions: list[Dialog] = []
    ada_page.on("dialog", lambda question: questions.append(question))

    ada_page.goto("/forgot-password")

    assert questions == []


def test_only_changed_edit_counts_as_unsaved(
    ada_page: Page, blog: Blog, ada: Person
) -> None:
    post: Json = blog.write(ada, "Line one\r\nline two")
    form = start_edit(ada_page, post)
    fill(form, content="Something else")
    fill(form, content="Line one\nline two")

    button(form, "Cancel").click()

    expect(form).to_be_hidden()
