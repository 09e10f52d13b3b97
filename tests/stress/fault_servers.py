"""An S3 and an SMTP server that hang, fail or drip when a test says so."""

import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from socketserver import ThreadingTCPServer
from threading import Thread
from typing import Any, Self

Behavior = Callable[[socket.socket], None]


class FaultServer(ThreadingTCPServer):
    """A server whose behavior can change; a change closes all connections."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 100

    def __init__(self, behavior: Behavior) -> None:
        super().__init__(("127.0.0.1", 0), None)  # type: ignore[arg-type] # see below
        self.port: int = self.server_address[1]
        self.behavior = behavior
        self.connections: set[socket.socket] = set()

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, args=[0.05]).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.change(close)
        self.shutdown()
        self.server_close()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Run the behavior instead of a request handler class."""
        self.connections.add(request)
        # A client may disconnect at any time, as may `change`.
        with suppress(OSError, ValueError):
            self.behavior(request)
        self.connections.discard(request)

    def change(self, behavior: Behavior) -> None:
        self.behavior = behavior
        for connection in self.connections.copy():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def close(client: socket.socket) -> None:
    """Close the connection at once."""


def hang(client: socket.socket) -> None:
    while client.recv(65_536):
        pass


def drip(client: socket.socket) -> None:
    """Send the start of a response, a byte a second."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: ".ljust(3600, b"x"):
        client.send(bytes([byte]))
        time.sleep(1)


def forward(port: int, client: socket.socket, *, responses: bool = True) -> None:
    """Forward everything to another server, and its responses to the client."""
    with socket.create_connection(("127.0.0.1", port)) as upstream:
        to = {client: upstream, upstream: client}
        while True:
            for source in select.select([*to], [], [], 60)[0]:
                data = source.recv(65_536)
                if not data:
                    return
                if responses or source is client or b" 100 Continue" in data:
                    to[source].sendall(data)


def s3_error(status: str, code: str, client: socket.socket) -> None:
    body = f"<Error><Code>{code}</Code><Message>No</Message></Error>"
    read_until(client, b"\r\n\r\n")
    client.sendall(
        f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
    )
    # Closing while the client sends would reset the connection before it has read this.
    hang(client)


def smtp(client: socket.socket, **replies: str) -> None:
    """Reply to SMTP commands, and accept what `replies` doesn't mention."""
    defaults = {"EHLO": "250-localhost\r\n250 AUTH PLAIN", "AUTH": "235 Welcome"}
    replies = defaults | {"DATA": "354 Go on"} | replies
    client.sendall(b"220 localhost\r\n")
    while command := read_until(client, b"\r\n")[:4].decode().upper():
        client.sendall(f"{replies.get(command, '250 OK')}\r\n".encode())
        if command == "DATA":
            read_until(client, b"\r\n.\r\n")
            client.sendall(b"250 OK\r\n")


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Read until these bytes, or until the client disconnects."""
    received = b""
    while not received.endswith(end) and (data := client.recv(1)):
        received += data
    return received


forbid = partial(s3_error, "403 Forbidden", "AccessDenied")
fail = partial(s3_error, "500 Internal Server Error", "InternalError")
reject_login = partial(smtp, AUTH="535 Wrong password", RCPT="530 Log in")
reject_recipient = partial(smtp, RCPT="550 No such user")
