"""Conditional writes, token encodings, requests after which the client is gone."""

import socket
from collections.abc import Iterator

import pytest
from httpx import AsyncClient

from auth import create_access_token, verify_access_token
from tests.conftest import ADMIN_URL, create_post
from tests.databases import scratch_database
from tests.server import LiveServer


class TestIfNoneMatch:
    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    async def test_asterisk(
        self, client: AsyncClient, ada: dict[str, str], method: str
    ) -> None:
        post = await create_post(client, ada)
        path = f"/api/posts/{post['id']}"

        response = await client.request(
            method,
            path,
            json={"title": "New", "content": "New"},
            headers={**ada, "If-None-Match": "*"},
        )

        assert response.status_code == 412
        assert (await client.get(path)).json()["title"] == "A title"

    async def test_current_etag(self, client: AsyncClient, ada: dict[str, str]) -> None:
        path = f"/api/posts/{(await create_post(client, ada))['id']}"
        etag = (await client.get(path)).headers["ETag"]

        response = await client.patch(
            path, json={}, headers={**ada, "If-None-Match": f"W/{etag}"}
        )

        assert response.status_code == 412

    async def test_other_etag(self, client: AsyncClient, ada: dict[str, str]) -> None:
        path = f"/api/posts/{(await create_post(client, ada))['id']}"

        response = await client.patch(
            path, json={}, headers={**ada, "If-None-Match": '"other"'}
        )

        assert response.status_code == 200


class TestTokenEncoding:
    def test_canonical(self) -> None:
        assert verify_access_token(create_access_token({"sub": "1"})) == "1"

    @pytest.mark.parametrize(
        "change", ["{}=", "{}==", "{} ", "{}\n", " {}", "{}."], ids=repr
    )
    def test_additional_characters(self, change: str) -> None:
        token = create_access_token({"sub": "1"})

        assert verify_access_token(change.format(token)) is None

    def test_unused_bits_of_signature(self) -> None:
        token = create_access_token({"sub": "1"})
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        same_bytes = alphabet[alphabet.index(token[-1]) ^ 1]

        assert verify_access_token(token[:-1] + same_bytes) is None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with (
        scratch_database(ADMIN_URL) as url,
        LiveServer(tmp_path_factory.mktemp("edge"), database_url=url) as server,
    ):
        yield server


@pytest.mark.parametrize("path", ["//", "/login", "/posts/1"])
def test_invalid_request_in_pipeline_logs_no_traceback(
    server: LiveServer, path: str
) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(request + request.replace(b"GET", b"OPTIONS") + b"}")
        client.shutdown(socket.SHUT_WR)
        response = client.makefile("rb").read()

    assert response.startswith(b"HTTP/1.1 400")
    assert server.client.get("/login").status_code == 200
    assert "Traceback" not in server.log.read_text()
