"""Use an account from sign-up to deletion through a generated client.

`tests.test_generated_client` generates the client, has mypy check this file against it,
and calls `journey`.
"""

from http import HTTPStatus
from io import BytesIO
from typing import Any, TypeVar

from blog_client import AuthenticatedClient, Client
from blog_client.api.posts import create_post, delete_post, list_posts, update_post
from blog_client.api.users import create_token, create_user, delete_user, upload_picture
from blog_client.models import (
    LoginForm,
    PaginatedPostsResponse,
    PostCreate,
    PostResponse,
    PostUpdate,
    Token,
    UploadPictureBody,
    UserCreate,
    UserPrivateResponse,
)
from blog_client.types import File, Response

EMAIL = "ada@example.com"
PASSWORD = "correct horse"

Parsed = TypeVar("Parsed")


def journey(url: str, photo: bytes) -> None:
    # Raise an error for every response that the document does not declare.
    with Client(base_url=url, raise_on_unexpected_status=True) as client:
        user, token = sign_up(client)
    with AuthenticatedClient(
        base_url=url, token=token, raise_on_unexpected_status=True
    ) as ada:
        publish(ada)
        file = File(BytesIO(photo), file_name="photo.jpg", mime_type="image/jpeg")
        body = UploadPictureBody(file=file)
        uploaded = upload_picture.sync_detailed(user.id, client=ada, body=body)
        assert parsed(uploaded, UserPrivateResponse).image_file is not None
        deleted = delete_user.sync_detailed(user.id, client=ada)
        assert deleted.status_code is HTTPStatus.NO_CONTENT


def parsed(response: Response[Any], kind: type[Parsed]) -> Parsed:
    """Check that a response is successful and of this type, and return its content."""
    assert response.status_code < HTTPStatus.MULTIPLE_CHOICES, response
    assert isinstance(response.parsed, kind), response
    return response.parsed


def sign_up(client: Client) -> tuple[UserPrivateResponse, str]:
    """Create an account, check that a duplicate is rejected, and log in."""
    account = UserCreate(username="ada", email=EMAIL, password=PASSWORD)
    created = create_user.sync_detailed(client=client, body=account)
    again = create_user.sync_detailed(client=client, body=account)
    form = LoginForm(username=EMAIL, password=PASSWORD)
    login = create_token.sync_detailed(client=client, body=form)
    assert again.status_code is HTTPStatus.BAD_REQUEST
    return parsed(created, UserPrivateResponse), parsed(login, Token).access_token


def publish(ada: AuthenticatedClient) -> None:
    """Publish a post, update it, find it in the list, and delete it."""
    body = PostCreate(content="Hello")
    created = create_post.sync_detailed(client=ada, body=body)
    post = parsed(created, PostResponse)
    title = PostUpdate(title="Title")
    update_post.sync_detailed(post.id, client=ada, body=title)
    listed = list_posts.sync_detailed(client=ada, limit=5)
    deleted = delete_post.sync_detailed(post.id, client=ada)
    [found] = parsed(listed, PaginatedPostsResponse).posts
    assert (found.title, found.author.username) == ("Title", "ada")
    assert found.date_posted == post.date_posted
    assert deleted.status_code is HTTPStatus.NO_CONTENT
