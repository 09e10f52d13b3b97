"""The server keeps running after malformed and incomplete requests."""

import socket
from collections.abc import Iterator

import pytest

from tests.server import LiveServer

HOST = b"Host: 127.0.0.1\r\n"
HTTP = b" HTTP/1.1\r\n" + HOST
END = b"\r\n\r\n"
GET = b"GET /" + HTTP
JSON = b"POST /api/users" + HTTP + b"Content-Type: application/json\r\n"
FORM = (
    b"POST /api/users/token" + HTTP + b"Content-Type: multipart/form-data; boundary=x"
)
FILE = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
CHUNKED = JSON + b"Transfer-Encoding: chunked" + END
LENGTH = b"Content-Length: "

REQUESTS = {
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "HTTP/2": (400, b"PRI * HTTP/2.0" + END + b"SM" + END),
    "unknown method": (400, b"BREW /" + HTTP + b"\r\n"),
    "asterisk": (404, b"OPTIONS *" + HTTP + b"\r\n"),
    "absolute URL": (200, b"GET http://127.0.0.1/health" + HTTP + b"\r\n"),
    "two slashes": (307, b"GET //evil.example/%2e%2e/" + HTTP + b"\r\n"),
    "backslashes": (307, b"GET /\\evil.example/" + HTTP + b"\r\n"),
    "parent directory": (404, b"GET /static/../../main.py" + HTTP + b"\r\n"),
    "encoded parent": (404, b"GET /static/%2e%2e/%2e%2e/main.py" + HTTP + b"\r\n"),
    "NUL": (404, b"GET /static/%00" + HTTP + b"\r\n"),
    "invalid UTF-8": (404, b"GET /%ff%fe" + HTTP + b"\r\n"),
    "invalid escapes": (404, b"GET /%zz%%%?%%%=&&&=#" + HTTP + b"\r\n"),
    "no Host": (400, b"GET / HTTP/1.1" + END),
    "two Hosts": (400, GET + b"Host: evil.example" + END),
    "NUL in a header": (400, GET + b"X: a\0b" + END),
    "bytes in a header": (200, GET + b"If-None-Match: \xff\xfe" + END),
    "bytes in a token": (
        401,
        b"DELETE /api/users/1" + HTTP + b"Authorization: \xff" + END,
    ),
    "long header": (200, GET + b"X: " + b"x" * 100_000 + END),
    "many headers": (200, GET + b"X: 1\r\n" * 2_000 + b"\r\n"),
    "HTTP/2 upgrade": (200, GET + b"Connection: Upgrade\r\nUpgrade: h2c" + END),
    "body of a page": (200, GET + LENGTH + b"2000000" + END),
    "body of a list": (200, b"GET /api/posts" + HTTP + LENGTH + b"2000000" + END),
    "superscript length": (400, JSON + LENGTH + b"\xb2" + END),
    "huge length": (413, JSON + LENGTH + b"9" * 19 + END),
    "two lengths": (400, JSON + LENGTH + b"2\r\n" + LENGTH + b"3" + END),
    "length and chunks": (400, JSON + LENGTH + b"2\r\nTransfer-Encoding:chunked" + END),
    "negative chunk": (400, CHUNKED + b"-2\r\n{}\r\n0" + END),
    "second request": (422, JSON + LENGTH + b"2" + END + b"{}" + GET + END),
    "nested JSON": (422, JSON + LENGTH + b"100000" + END + b"[" * 100_000),
    "UTF-16": (422, JSON + LENGTH + b"4" + END + b"\xff\xfe{\x00"),
    "charset": (422, FORM + b"; charset=punycode\r\n" + LENGTH + b"49" + END + FILE),
    "part without name": (422, FORM + b"\r\n" + LENGTH + b"7" + END + b"--x\r\n\r\n"),
}


@pytest.fixture(autouse=True)
def no_traceback(server: LiveServer) -> Iterator[None]:
    """Check that the server still responds and has logged no traceback."""
    log_size = server.log.stat().st_size
    yield
    server.call("GET", "/health")
    assert b"Traceback" not in server.log.read_bytes()[log_size:]


@pytest.mark.parametrize(("status", "data"), REQUESTS.values(), ids=REQUESTS)
def test_malformed_request(status, data, server):
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(data)
        response = client.recv(12)

    assert response == b"HTTP/1.1 %d" % status


@pytest.mark.parametrize(
    "data",
    [
        GET,
        JSON + LENGTH + b"9" + END + b"{}",
        CHUNKED + b"ffffffffffffffff\r\n{}",
        FORM + b"\r\n" + LENGTH + b"99" + END + FILE,
    ],
    ids=["headers", "body", "chunk", "form"],
)
def test_incomplete_request(data, server):
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        response = client.recv(12)

    assert response == b""
