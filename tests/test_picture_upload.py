"""Requests that upload a picture: sizes, malformed forms, and bodies left unread."""

import pytest
from httpx import AsyncClient

from config import settings
from tests.conftest import PHOTO, CountingBody, Headers, get_user_id, upload_picture

MULTIPART = "multipart/form-data; boundary=x"
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
TEXT = FILE.replace(b"; filename", b"; other") + b"\r\n--x--"
OTHER_NAME = FILE.replace(b'"file"', b'"picture"') + b"\r\n--x--"
MAX_OVERHEAD = 64 * 1024


@pytest.fixture
async def path(client: AsyncClient, ada: Headers) -> str:
    return f"/api/users/{await get_user_id(client, ada)}/picture"


@pytest.fixture
def body() -> CountingBody:
    return CountingBody(10_000_000, start=FILE)


class TestSize:
    @pytest.mark.parametrize(
        ("limit", "shown"), [(5 * 1024**2, "5MB"), (1024**2 // 2, "0.5MB")]
    )
    async def test_file_is_too_large(
        self,
        client: AsyncClient,
        ada: Headers,
        monkeypatch: pytest.MonkeyPatch,
        limit: int,
        shown: str,
    ) -> None:
        monkeypatch.setattr(settings, "max_upload_size_bytes", limit)

        response = await upload_picture(client, ada, bytes(limit + 1))

        assert response.status_code == 400
        assert response.json() == {"detail": f"File too large. Maximum size is {shown}"}

    async def test_largest_file(
        self, client: AsyncClient, ada: Headers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settings, "max_upload_size_bytes", len(PHOTO))

        response = await upload_picture(client, ada, PHOTO)

        assert response.status_code == 200

    async def test_body_is_too_large(
        self,
        client: AsyncClient,
        ada: Headers,
        path: str,
        body: CountingBody,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(settings, "max_upload_size_bytes", 10_000)

        response = await client.patch(
            path, content=body, headers={**ada, "Content-Type": MULTIPART}
        )

        assert response.status_code == 413
        assert response.json() == {"detail": "Request body too large"}
        assert body.read_bytes <= 10_000 + MAX_OVERHEAD + 4096

    async def test_declared_size_is_too_large(
        self, client: AsyncClient, ada: Headers, path: str, body: CountingBody
    ) -> None:
        size = settings.max_upload_size_bytes + MAX_OVERHEAD + 1
        headers = {"Content-Type": MULTIPART, "Content-Length": str(size)}

        response = await client.patch(path, content=body, headers={**ada, **headers})

        assert (response.status_code, body.read_bytes) == (413, 0)


class TestUnreadBody:
    async def test_anonymous(self, client: AsyncClient, body: CountingBody) -> None:
        response = await client.patch(
            "/api/users/1/picture", content=body, headers={"Content-Type": MULTIPART}
        )

        assert (response.status_code, body.read_bytes) == (401, 0)

    @pytest.mark.parametrize("declared", [{}, {"Content-Length": "100000000"}])
    async def test_another_user(
        self, client: AsyncClient, ada: Headers, body: CountingBody, declared: Headers
    ) -> None:
        response = await client.patch(
            "/api/users/0/picture",
            content=body,
            headers={**ada, "Content-Type": MULTIPART, **declared},
        )

        assert (response.status_code, body.read_bytes) == (403, 0)


@pytest.mark.parametrize(
    ("content_type", "body", "location"),
    [
        (MULTIPART, TEXT, ["body", "file"]),
        (MULTIPART, OTHER_NAME, ["body", "file"]),
        ("image/jpeg", PHOTO, ["body", "file"]),
        ("multipart/form-data", b"--x--", ["body"]),
        (MULTIPART, b"--x\r\n\r\n\r\n--x--", ["body"]),
        ("application/x-www-form-urlencoded", b"file=1&" * 20, ["body"]),
    ],
    ids=[
        *("text", "other name", "no form"),
        *("no boundary", "part without a name", "too many fields"),
    ],
)
async def test_invalid_form(
    client: AsyncClient,
    ada: Headers,
    path: str,
    content_type: str,
    body: bytes,
    location: list[str],
) -> None:
    headers = {**ada, "Content-Type": content_type}

    response = await client.patch(path, content=body, headers=headers)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == location
