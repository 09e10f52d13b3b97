"""A server that closes connections, hangs, or responds slowly, as a test chooses."""

import email
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from email.message import EmailMessage
from email.policy import default
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any, Self

Behavior = Callable[[socket.socket], None]


class FaultServer(ThreadingTCPServer):
    """A TCP server whose behavior a test can change while it runs."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 100

    def __init__(self, behavior: Behavior) -> None:
        # The handler class is required but never used, because of `finish_request`.
        super().__init__(("127.0.0.1", 0), BaseRequestHandler)
        self.port: int = self.server_address[1]
        self.behavior = behavior

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, args=[0.05]).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Run the behavior instead of a request handler."""
        # A client may disconnect at any time.
        with suppress(OSError):
            self.behavior(request)


def close(client: socket.socket) -> None:
    """Close the connection at once."""


def hang(client: socket.socket) -> None:
    while client.recv(65_536):
        pass


def drip(client: socket.socket) -> None:
    """Send the start of a response at one byte per second."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: ".ljust(3600, b"x"):
        client.send(bytes([byte]))
        time.sleep(1)


class Mailbox:
    """A behavior: an SMTP server that keeps emails, and repeats every command."""

    def __init__(self) -> None:
        self.emails: list[EmailMessage] = []
        # Status codes of the replies to commands; others get a 250.
        self.codes = {b"AUTH": b"235"}

    def __call__(self, client: socket.socket) -> None:
        lines = client.makefile("rb")
        client.sendall(b"220 mail\r\n")
        for line in lines:
            command = line[:4].upper()
            if command == b"EHLO":
                client.sendall(b"250-mail\r\n250 AUTH PLAIN\r\n")
                continue
            if command == b"DATA":
                client.sendall(b"354 go on\r\n")
                content = b"".join(iter(lines.readline, b".\r\n"))
                self.emails.append(email.message_from_bytes(content, policy=default))
            client.sendall(self.codes.get(command, b"250") + b" " + line)
