"""Unusual token encodings and pipelined requests."""

import socket
from collections.abc import Iterator

import pytest

from auth import create_access_token, verify_access_token
from tests.conftest import ADMIN_URL
from tests.databases import scratch_database
from tests.server import LiveServer


class TestTokenEncoding:
    @pytest.mark.parametrize("change", ["{}=", "{}\n", " {}", "{}."], ids=repr)
    def test_additional_characters(self, change):
        token = create_access_token({"sub": "1"})

        assert verify_access_token(change.format(token)) is None

    def test_unused_bits_of_signature(self):
        token = create_access_token({"sub": "1"})
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        same_bytes = alphabet[alphabet.index(token[-1]) ^ 1]

        assert verify_access_token(token[:-1] + same_bytes) is None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("edge")
    with scratch_database(ADMIN_URL) as url, LiveServer(folder, database_url=url) as it:
        yield it


@pytest.mark.parametrize("path", ["//", "/login"])
def test_invalid_request_in_pipeline_logs_no_traceback(server, path):
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(request + request.replace(b"GET", b"OPTIONS") + b"}")
        client.shutdown(socket.SHUT_WR)
        response = client.makefile("rb").read()

    assert response.startswith(b"HTTP/1.1 400")
    assert server.client.get("/login").status_code == 200
    assert "Traceback" not in server.log.read_text()
