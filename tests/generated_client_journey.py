"""Use an account from sign-up to deletion through a generated client.

`tests.test_generated_client` generates the client, has mypy check this file against it,
and calls `journey`.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from io import BytesIO
from typing import Any, TypeVar

from blog_client import AuthenticatedClient, Client
from blog_client.api.health import health
from blog_client.api.posts import (
    create_post,
    delete_post,
    list_posts,
    read_post,
    replace_post,
    update_post,
)
from blog_client.api.users import (
    change_password,
    create_token,
    create_user,
    delete_picture,
    delete_user,
    forgot_password,
    list_user_posts,
    list_users,
    read_current_user,
    read_user,
    reset_password,
    update_user,
    upload_picture,
)
from blog_client.models import (
    ChangePasswordRequest,
    ForgotPasswordRequest,
    HealthResponse,
    LoginForm,
    MessageResponse,
    PaginatedPostsResponse,
    PasswordChangedResponse,
    PostCreate,
    PostReplace,
    PostResponse,
    PostUpdate,
    ResetPasswordRequest,
    Token,
    UploadPictureBody,
    UserCreate,
    UserPrivateResponse,
    UserPublicResponse,
    UserUpdate,
)
from blog_client.types import File, Response

EMAIL = "ada@example.com"
FIRST_PASSWORD = "correct horse"
SECOND_PASSWORD = "battery staple"
THIRD_PASSWORD = "staple battery"

Parsed = TypeVar("Parsed")


def journey(url: str, *, photo: bytes, mailed_token: Callable[[], str]) -> None:
    """Use every operation of the API at least once."""
    # The client raises on a response that the document does not declare.
    with Client(base_url=url, raise_on_unexpected_status=True) as guest:
        parsed_as(health.sync_detailed(client=guest), HealthResponse)
        user = register(guest)
        with log_in(guest, FIRST_PASSWORD) as ada:
            post = write(ada, guest, user)
            decorate(ada, guest, user.id, photo)
            renewed = change(ada)
        with signed_in(guest, renewed) as ada:
            me = parsed_as(
                read_current_user.sync_detailed(client=ada), UserPrivateResponse
            )
            assert me.id == user.id
        reset(guest, mailed_token)
        with log_in(guest, THIRD_PASSWORD) as ada:
            leave(ada, guest, user.id, post.id)


def parsed_as(response: Response[Any], kind: type[Parsed]) -> Parsed:
    """Return the parsed content of a successful response of the declared type."""
    assert response.status_code < HTTPStatus.MULTIPLE_CHOICES, response
    assert isinstance(response.parsed, kind), response
    return response.parsed


def register(guest: Client) -> UserPrivateResponse:
    """Sign up; a second attempt is rejected."""
    account = UserCreate(username="ada", email=EMAIL, password=FIRST_PASSWORD)
    made = create_user.sync_detailed(client=guest, body=account)
    again = create_user.sync_detailed(client=guest, body=account)
    assert made.status_code is HTTPStatus.CREATED
    assert again.status_code is HTTPStatus.BAD_REQUEST
    return parsed_as(made, UserPrivateResponse)


def log_in(guest: Client, password: str) -> AuthenticatedClient:
    """Return a client that is logged in with this password."""
    form = LoginForm(username=EMAIL, password=password)
    token = parsed_as(create_token.sync_detailed(client=guest, body=form), Token)
    return signed_in(guest, token.access_token)


def signed_in(guest: Client, token: str) -> AuthenticatedClient:
    """Return a client with this token."""
    return AuthenticatedClient(
        base_url=str(guest.get_httpx_client().base_url),
        token=token,
        raise_on_unexpected_status=True,
    )


def write(
    ada: AuthenticatedClient, guest: Client, user: UserPrivateResponse
) -> PostResponse:
    """Publish a post, update it twice, and find it in every list."""
    new = PostCreate(content="Hello")
    post = parsed_as(create_post.sync_detailed(client=ada, body=new), PostResponse)
    title = PostUpdate(title="First")
    whole = PostReplace(title="Only", content="Hello again")
    update_post.sync_detailed(post.id, client=ada, body=title)
    replaced = replace_post.sync_detailed(post.id, client=ada, body=whole)
    assert replaced.status_code is HTTPStatus.OK

    post = parsed_as(read_post.sync_detailed(post.id, client=guest), PostResponse)
    everybody = list_posts.sync_detailed(client=guest, limit=5)
    own = list_user_posts.sync_detailed(user.id, client=guest)

    assert (post.title, post.content) == ("Only", "Hello again")
    assert post.author.username == "ada"
    assert datetime.now(UTC) > post.date_posted
    for listed in (everybody, own):
        page = parsed_as(listed, PaginatedPostsResponse)
        assert [entry.id for entry in page.posts] == [post.id]
        assert not page.has_more
    return post


def decorate(
    ada: AuthenticatedClient, guest: Client, user_id: int, photo: bytes
) -> None:
    """Change the username, and upload and delete a picture."""
    name = UserUpdate(username="Ada")
    update_user.sync_detailed(user_id, client=ada, body=name)
    file = File(payload=BytesIO(photo), file_name="photo.jpg", mime_type="image/jpeg")
    body = UploadPictureBody(file=file)
    uploaded = upload_picture.sync_detailed(user_id, client=ada, body=body)
    seen = parsed_as(read_user.sync_detailed(user_id, client=guest), UserPublicResponse)
    assert seen.username == "Ada"
    assert seen.image_file == parsed_as(uploaded, UserPrivateResponse).image_file
    assert seen.image_file is not None

    stripped = delete_picture.sync_detailed(user_id, client=ada)
    assert parsed_as(stripped, UserPrivateResponse).image_file is None
    users = parsed_as(list_users.sync_detailed(client=guest), list)
    assert [user.image_file for user in users] == [None]


def change(ada: AuthenticatedClient) -> str:
    """Change the password, which invalidates the token; return the new one."""
    body = ChangePasswordRequest(
        current_password=FIRST_PASSWORD, new_password=SECOND_PASSWORD
    )
    changed = change_password.sync_detailed(client=ada, body=body)
    ended = read_current_user.sync_detailed(client=ada)
    assert ended.status_code is HTTPStatus.UNAUTHORIZED
    token: str = parsed_as(changed, PasswordChangedResponse).access_token
    return token


def reset(guest: Client, mailed_token: Callable[[], str]) -> None:
    """Reset the password with the token from the email."""
    asked = forgot_password.sync_detailed(
        client=guest, body=ForgotPasswordRequest(email=EMAIL)
    )
    assert asked.status_code is HTTPStatus.ACCEPTED
    body = ResetPasswordRequest(token=mailed_token(), new_password=THIRD_PASSWORD)
    parsed_as(reset_password.sync_detailed(client=guest, body=body), MessageResponse)
    form = LoginForm(username=EMAIL, password=SECOND_PASSWORD)
    refused = create_token.sync_detailed(client=guest, body=form)
    assert refused.status_code is HTTPStatus.UNAUTHORIZED


def leave(ada: AuthenticatedClient, guest: Client, user_id: int, post_id: int) -> None:
    """Delete the post, then the account."""
    deleted = delete_post.sync_detailed(post_id, client=ada)
    lost = read_post.sync_detailed(post_id, client=guest)
    gone = delete_user.sync_detailed(user_id, client=ada)
    unknown = read_user.sync_detailed(user_id, client=guest)
    assert deleted.status_code is HTTPStatus.NO_CONTENT
    assert lost.status_code is HTTPStatus.NOT_FOUND
    assert gone.status_code is HTTPStatus.NO_CONTENT
    assert unknown.status_code is HTTPStatus.NOT_FOUND
