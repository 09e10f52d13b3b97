"""The server's parser of HTTP, with an end to what comes before a request is known.

uvicorn loads it by name: `--http bounded_http:BoundedHttp`. Of its own parsers the one
keeps as many headers as a client sends, for as long as it likes; the other has a limit,
but logs a bug whenever a body turns out to be malformed while it is answered.
"""

import asyncio
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# As load balancers have it, and about: what arrives at once is counted together.
MAX_HEAD_BYTES = 64 * 1024
# From the connection, or the first byte of a later request, to the end of its headers.
HEAD_SECONDS = 30.0
# The system takes in some megabytes for a client that takes in nothing. They are lost
# time for all others: enough is what keeps a fast line busy until more is asked for.
UNSENT_BYTES = 128 * 1024


class BoundedHttp(HttpToolsProtocol):
    """Ends connections whose request line and headers are too long, or too slow."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES
            )
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what is not the body, which the application limits."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Request header fields too large")

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's says nothing
        """Answer whoever sends no more but may still listen (RFC 9112, section 9.6)."""
        cycle = self.cycle
        # There is none before the first request, whatever uvicorn's types say.
        is_answering = bool(cycle) and not cycle.response_complete
        if is_answering and not cycle.more_body:
            cycle.keep_alive = False
            return True
        in_head = self._head_timer is not None and self._head_bytes > 0
        in_body = is_answering and not cycle.response_started and not self.pipeline
        if in_head or in_body:
            self.send_400_response("Incomplete HTTP request received.")
        return False

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a head."""
        super().on_message_begin()
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        """Leave the rest to the application."""
        self._stop_waiting()
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count what comes after it anew."""
        self._head_bytes = 0
        super().on_body(body)

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
