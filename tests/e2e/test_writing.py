"""Writing posts without ever losing text."""

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.e2e.conftest import (
    Json,
    button,
    dialog,
    edit,
    end_sessions,
    expect_error,
    expect_logged_in,
    expect_success,
    field,
    fill,
    find_violations,
    held,
    main,
    open_dialog,
    opener,
    post_ids,
    start_edit,
    start_post,
    stored,
    submit,
    toast,
)
from tests.server import PASSWORD, LiveServer, Person

TEXT = "Two hours of thought"
STORAGE_FULL = "Storage.prototype.setItem = () => { throw new Error('full'); }"


@pytest.fixture
def form(ada_page: Page) -> Locator:
    """Open the dialog for a new post and type some text."""
    form = start_post(ada_page)
    fill(form, content=TEXT)
    return form


@pytest.fixture
def edit_form(ada_page: Page, post: Json) -> Locator:
    """Open the edit dialog of the post and type other text."""
    form = start_edit(ada_page, post)
    fill(form, content=TEXT)
    return form


def draft_prompt(form: Locator) -> Locator:
    return form.locator("[data-draft-prompt]")


def form_error(form: Locator) -> Locator:
    return form.locator("[data-form-target=error]")


def use_token(page: Page, token: str) -> None:
    """Change the token, as a login in another tab does."""
    page.evaluate("(token) => localStorage.setItem('access_token', token)", token)
    page.evaluate("() => document.dispatchEvent(new Event('session-change'))")


def close_and_keep_draft(form: Locator) -> None:
    """Close a dialog with unsaved text, and keep the text as a draft."""
    button(form, "Cancel").click()
    button(form, "Close and keep draft").click()
    expect(form).to_be_hidden()


class TestDraft:
    def test_closed_tab(self, ada_page, form):
        fill(form, title="Thoughts")
        other = ada_page.context.new_page()
        ada_page.close()

        form = start_post(other)

        expect(draft_prompt(form)).to_contain_text(f"Thoughts {TEXT}")
        expect(field(form, "content")).to_have_value("")
        button(form, "Restore draft").click()
        expect(field(form, "title")).to_have_value("Thoughts")
        expect(field(form, "content")).to_have_value(TEXT)

    def test_offered_for_its_post_only(self, server, ada, post, edit_form):
        close_and_keep_draft(edit_form)
        other = server.write(ada)

        expect(draft_prompt(start_edit(edit_form.page, other))).to_be_hidden()
        start_edit(edit_form.page, post)

        expect(edit_form.locator("[data-draft-prompt-target=outdated]")).to_be_hidden()
        expect(field(edit_form, "content")).to_have_value("Some text")
        button(edit_form, "Restore draft").click()
        expect(field(edit_form, "content")).to_have_value(TEXT)

    def test_not_offered_to_another_user(self, bob, form):
        close_and_keep_draft(form)
        use_token(form.page, bob.token)

        start_post(form.page)

        expect(field(form, "content")).to_be_enabled()
        expect(draft_prompt(form)).to_be_hidden()

    def test_ignored_draft_is_kept(self, ada_page, form):
        close_and_keep_draft(form)
        fill(start_post(ada_page), content="Second thoughts")
        close_and_keep_draft(form)

        start_post(ada_page)
        expect(draft_prompt(form)).to_contain_text("Second thoughts")
        button(form, "Discard draft").click()

        expect(draft_prompt(form)).to_contain_text(TEXT)
        button(form, "Discard draft").click()
        expect(draft_prompt(form)).to_be_hidden()
        assert stored(ada_page, "draft:") == []

    def test_count(self, form):
        count = form.page.locator("[data-draft-count]")
        expect(count).to_be_hidden()

        close_and_keep_draft(form)
        expect(count).to_have_accessible_name("1 draft")
        form.page.reload()
        expect(button(form.page, "New post 1 draft")).to_be_visible()
        open_dialog(form.page, "post-create")
        button(form, "Discard draft").click()
        button(form, "Cancel").click()

        expect(count).to_be_hidden()

    def test_outdated(self, server, ada, post, edit_form):
        close_and_keep_draft(edit_form)
        edit(server, ada, post, content="Two")

        start_edit(edit_form.page, post)

        expect(draft_prompt(edit_form)).to_contain_text(TEXT)
        expect(edit_form.locator("[data-draft-prompt-target=outdated]")).to_be_visible()
        expect(field(edit_form, "content")).to_have_value("Two")
        assert find_violations(edit_form.page) == []

    def test_date(self, new_page, ada):
        page = new_page(ada, timezone_id="Pacific/Kiritimati")
        page.clock.set_fixed_time("2026-03-01T23:50:00Z")
        form = start_post(page)
        fill(form, content=TEXT)
        close_and_keep_draft(form)

        start_post(page)

        expect(draft_prompt(form)).to_contain_text("March 01, 2026, 11:50 PM UTC")

    def test_full_storage(self, new_page, ada):
        form = start_post(new_page(ada, init_script=STORAGE_FULL))
        fill(form, content=TEXT)
        expect(form.get_by_role("alert")).to_contain_text(
            "isn't being saved as a draft"
        )
        assert find_violations(form.page) == []

        button(form, "Cancel").click()
        expect(button(form, "Discard changes")).to_be_visible()
        expect(form.get_by_text("Your draft will stay")).to_be_hidden()
        submit(form)

        form.page.wait_for_url("/posts/*")

    def test_restored_in_two_tabs(self, server, form):
        close_and_keep_draft(form)
        other = start_post(form.page.context.new_page())
        start_post(form.page)
        button(form, "Restore draft").click()
        button(other, "Restore draft").click()
        fill(form, content=f"{TEXT} one")
        fill(other, content=f"{TEXT} two")
        assert len(stored(form.page, "draft:")) == 2

        submit(form)
        expect_success(form.page)
        submit(other)
        expect_success(other.page)

        assert len(post_ids(server)) == 2
        assert stored(form.page, "draft:") == []

    def test_restored_in_another_tab_and_kept_here(self, form):
        other = start_post(form.page.context.new_page())
        button(other, "Restore draft").click()

        close_and_keep_draft(form)

        assert len(stored(form.page, "draft:")) == 2

    def test_deleted_post(self, server, edit_form):
        close_and_keep_draft(edit_form)
        server.sql("DELETE FROM posts")

        form = start_post(edit_form.page)
        button(form, "Restore draft").click()
        submit(form)

        expect_success(form.page)
        assert server.call("GET", "/api/posts")["posts"][0]["content"] == TEXT
        assert stored(form.page, "draft:") == []


class TestExpiredSession:
    def test_asks_for_password(self, server, edit_form):
        end_sessions(server)
        submit(edit_form)
        expect(field(edit_form, "password")).to_be_focused()
        assert find_violations(edit_form.page) == []
        fill(edit_form, password="not this one")
        submit(edit_form)
        expect_error(field(edit_form, "password"), "Incorrect password.")
        expect(field(edit_form, "content")).to_have_value(TEXT)

        fill(edit_form, password=PASSWORD)
        edit_form.page.keyboard.press("Enter")

        expect_success(edit_form.page)
        assert server.call("GET", "/api/posts")["posts"][0]["content"] == TEXT
        assert stored(edit_form.page, "draft:") == []

    def test_other_user(self, server, bob, form):
        use_token(form.page, bob.token)

        submit(form)
        expect(form.locator("[data-reauth-target=username]")).to_have_text("ada")
        fill(form, password=PASSWORD)
        submit(form)
        expect_success(form.page)

        [post] = server.call("GET", "/api/posts")["posts"]
        assert post["author"]["username"] == "ada"


@pytest.fixture
def failed_form(form: Locator) -> Locator:
    """Submit a new post and lose the response after the server publishes the post."""

    def lose_response(route: Route) -> None:
        route.fetch()
        route.abort()

    form.page.route("**/api/posts", lose_response, times=1)
    submit(form)
    expect(form_error(form)).to_contain_text("Can't reach the site")
    expect(field(form, "content")).to_have_value(TEXT)
    return form


class TestRetry:
    @pytest.mark.parametrize(
        ("status", "message"), [(503, "in a moment"), (429, "in 2 minutes")]
    )
    def test_error(self, form, status, message):
        response = {"status": status, "headers": {"Retry-After": "61"}}
        form.page.route(
            "**/api/posts", lambda route: route.fulfill(**response, json={}), times=1
        )
        submit(form)
        expect(form_error(form)).to_contain_text(f"Please try again {message}.")
        expect(field(form, "content")).to_have_value(TEXT)
        assert TEXT in stored(form.page, "draft:")[0]

        button(form, "Try again").click()

        expect_success(form.page)
        assert stored(form.page, "draft:") == []

    def test_no_second_post(self, server, failed_form):
        assert find_violations(failed_form.page) == []

        button(failed_form, "Try again").click()

        expect_success(failed_form.page)
        assert len(post_ids(server)) == 1

    def test_restored_draft(self, server, failed_form):
        other = start_post(failed_form.page.context.new_page())
        button(other, "Restore draft").click()

        submit(other)

        expect_success(other.page)
        assert len(post_ids(server)) == 1

    def test_changed_text(self, server, failed_form):
        fill(failed_form, content=f"{TEXT} more")
        button(failed_form, "Try again").click()
        expect(form_error(failed_form)).to_contain_text("first attempt went through")
        assert f"{TEXT} more" in "".join(stored(failed_form.page, "draft:"))

        button(failed_form, "Try again").click()

        expect_success(failed_form.page)
        assert len(post_ids(server)) == 2

    def test_deleted_post(self, server, failed_form):
        server.sql("DELETE FROM posts")
        button(failed_form, "Try again").click()
        expect(form_error(failed_form)).to_contain_text("has since been deleted")

        button(failed_form, "Try again").click()

        expect_success(failed_form.page)
        assert len(post_ids(server)) == 1


@pytest.fixture
def conflict(
    server: LiveServer, ada: Person, post: Json, edit_form: Locator
) -> Locator:
    """Save an edit of a post that was edited elsewhere, and return the edit dialog."""
    edit(server, ada, post, content="Two")
    submit(edit_form)
    expect(edit_form.locator("[data-edit-conflict]")).to_be_focused()
    return edit_form


class TestDeletedElsewhere:
    def test_publish_as_new_post(self, server, edit_form):
        server.sql("DELETE FROM posts")
        submit(edit_form)
        expect(form_error(edit_form)).to_contain_text("This post was deleted elsewhere")
        assert TEXT in stored(edit_form.page, "draft:")[0]

        button(edit_form, "Publish as new post").click()

        expect_success(edit_form.page)
        assert server.call("GET", "/api/posts")["posts"][0]["content"] == TEXT
        assert stored(edit_form.page, "draft:") == []


class TestConflict:
    def test_keep_own(self, server, post, conflict):
        expect(conflict.get_by_role("blockquote")).to_contain_text("Two")
        expect(field(conflict, "content")).to_have_value(TEXT)
        assert find_violations(conflict.page) == []
        assert server.call("GET", f"/api/posts/{post['id']}")["content"] == "Two"

        button(conflict, "Keep my version").click()

        expect_success(conflict.page, "Changes saved.")
        assert server.call("GET", f"/api/posts/{post['id']}")["content"] == TEXT
        assert stored(conflict.page, "draft:") == []

    def test_use_current(self, server, conflict):
        button(conflict, "Use current version").click()

        expect(field(conflict, "content")).to_have_value("Two")
        expect(field(conflict, "content")).to_be_focused()
        expect(draft_prompt(conflict)).to_contain_text(TEXT)
        fill(conflict, content="Two and a half")
        submit(conflict)
        expect_success(conflict.page, "Changes saved.")
        [post] = server.call("GET", "/api/posts")["posts"]
        assert post["content"] == "Two and a half"
        assert TEXT in stored(conflict.page, "draft:")[0]

    def test_rename(self, server, ada, edit_form):
        server.call("PATCH", f"/api/users/{ada.id}", ada, json={"username": "ada l."})

        submit(edit_form)

        expect_success(edit_form.page, "Changes saved.")


class TestSubmit:
    def test_new_post(self, ada_page, form):
        fill(form, title="News")

        submit(form)

        ada_page.wait_for_url("/posts/*")
        expect_success(ada_page, "Post published.")
        expect(ada_page.get_by_role("heading", level=1)).to_have_text("News")
        assert find_violations(ada_page) == []
        ada_page.reload()
        expect(toast(ada_page)).to_be_empty()

    def test_enter_in_title(self, server, form):
        fill(form, title="News")

        form.page.keyboard.press("Enter")

        expect(field(form, "content")).to_be_focused()
        assert post_ids(server) == []

    @pytest.mark.parametrize("name", ["title", "content"])
    def test_shortcut(self, form, name):
        field(form, name).press("ControlOrMeta+Enter")

        expect_success(form.page, "Post published.")

    def test_saved_edit(self, ada_page, edit_form):
        edited = ada_page.locator("[data-byline-target=edited]")
        expect(edited).to_be_hidden()

        fill(edit_form, title="Another title")
        submit(edit_form)

        expect(ada_page.get_by_role("heading", level=1)).to_have_text("Another title")
        expect(ada_page).to_have_title("Another title – FastAPI Blog")
        expect(ada_page.get_by_role("article")).to_contain_text(TEXT)
        expect(edited).to_be_visible()
        assert stored(ada_page, "draft:") == []
        by_script = edited.inner_text()
        ada_page.reload()
        expect(edited).to_have_text(by_script)

    def test_pressed_twice(self, server, form):
        publish = form.locator("[type=submit]")
        with held(form.page, "**/api/posts") as requests:
            publish.dblclick()
            expect(publish).to_have_accessible_name("Publish please wait")
            form.page.keyboard.press("Enter")
        expect_success(form.page)

        assert len(requests) == 1
        assert len(post_ids(server)) == 1

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("username", "", "This field is required."),
            ("username", "ADA", "already exists"),
            ("username", "a\u200bb", "Must not"),
            ("username", "x" * 51, "at most 50 characters"),
            ("email", "ada@example.com", "already registered"),
            ("email", "müller@example.com", "symbol"),
            ("password", "short", "at least 8 characters"),
        ],
    )
    def test_invalid_field(self, page, ada, name, value, message):
        account = {"username": "eve", "email": "eve@example.com", "password": PASSWORD}
        page.goto("/register")
        fill(page, **(account | {name: value}))

        submit(main(page))

        expect_error(field(main(page), name), message)

    @pytest.mark.parametrize(
        ("length", "text"),
        [(79, ""), (80, "20 characters left."), (101, "1 character over the limit.")],
    )
    def test_character_counter(self, form, length, text):
        fill(form, title="\N{GRINNING FACE}" * length)

        expect(form.locator("[data-character-counter$=title]")).to_have_text(text)


class TestLeaving:
    def test_closing_dialog_asks(self, ada_page, form):
        ada_page.keyboard.press("Escape")
        expect(button(form, "Keep editing")).to_be_focused()
        assert find_violations(ada_page) == []
        ada_page.keyboard.press("Enter")

        expect(field(form, "content")).to_be_focused()
        expect(field(form, "content")).to_have_value(TEXT)

    def test_leaving_page_asks(self, ada_page, form):
        ada_page.on("dialog", lambda question: question.dismiss())

        with ada_page.expect_event("dialog") as asked:
            ada_page.evaluate("() => { location.href = '/login'; }")

        assert asked.value.type == "beforeunload"
        expect(field(form, "content")).to_have_value(TEXT)

    def test_undone_edit(self, ada_page, server, ada):
        form = start_edit(ada_page, server.write(ada, "Line one\r\nline two"))
        fill(form, content="Something else")
        fill(form, content="Line one\nline two")

        button(form, "Cancel").click()

        expect(form).to_be_hidden()


class TestPostPage:
    def test_deletion(self, ada_page, server, post):
        ada_page.goto("/forgot-password")
        ada_page.goto(f"/posts/{post['id']}")
        form = open_dialog(ada_page, "post-delete")
        assert find_violations(ada_page) == []
        submit(form)
        ada_page.wait_for_url("/")

        ada_page.go_back()

        expect(ada_page).to_have_url(f"{server.url}/forgot-password")
        assert post_ids(server) == []

    def test_another_user(self, new_page, bob, post):
        page = new_page(bob)

        page.goto(f"/posts/{post['id']}")
        expect_logged_in(page, "bob")

        expect(opener(page, "post-edit")).to_have_count(0)
        expect(opener(page, "post-delete")).to_have_count(0)

    def test_deletion_after_session_expires(self, ada_page, server, post):
        ada_page.goto(f"/posts/{post['id']}")
        form = open_dialog(ada_page, "post-delete")
        end_sessions(server)
        submit(form)
        expect(field(form, "password")).to_be_focused()

        fill(form, password=PASSWORD)
        submit(form)

        expect_success(ada_page, "Post deleted.")

    def test_unavailable(self, ada_page, post):
        ada_page.route("**/api/posts/*", lambda route: route.abort())
        ada_page.goto(f"/posts/{post['id']}")

        opener(ada_page, "post-edit").click()

        expect(dialog(ada_page, "error-modal")).to_contain_text("Can't reach the site")
        assert find_violations(ada_page) == []
