"""The server's protocol of HTTP, with an end to all that clients may let it wait for.

uvicorn loads it by name: `--http bounded_http:BoundedHttp`. Of its own parsers the one
keeps as many headers as a client sends, for as long as it likes; the other has a limit,
but logs a bug whenever a body turns out to be malformed while it is answered.
"""

import asyncio
import math
import socket
from contextlib import suppress

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# As load balancers have it, and about: what arrives at once is counted together.
MAX_HEAD_BYTES = 64 * 1024
# From the connection, or the first byte of a later request, to the end of its headers.
HEAD_SECONDS = 30.0
# The system takes in some megabytes for a client that takes in nothing. They are lost
# time for all others: enough is what keeps a fast line busy until more is asked for.
UNSENT_BYTES = 128 * 1024
# For some 128 KB of an answer: whoever takes none of it keeps the rest in memory.
TAKING_SECONDS = 60.0


class BoundedHttp(HttpToolsProtocol):
    """Ends connections whose heads are too long or too slow, or answers not taken.

    Those that wait for a request, and are as many as may be, make room for new ones.
    """

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _taking_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        # Not where the system has no such thing, nor for sockets of other families.
        with suppress(AttributeError, OSError):
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES
            )
        self._wait_for_head()
        # At that number uvicorn refuses every request.
        if len(self.connections) >= (self.limit_concurrency or math.inf):
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_waiting()
        self._stop_patience()
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
        # Of several requests in a row the whole ones are answered first. TLS has no
        # half of a connection that could be kept.
        is_whole = is_answering and (bool(self.pipeline) or not cycle.more_body)
        if is_whole and self.scheme == "http":
            cycle.keep_alive = False
            return True
        in_head = self._head_timer is not None and self._head_bytes > 0
        if in_head or (is_answering and not cycle.response_started):
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

    def pause_writing(self) -> None:
        """Wait for the client to take what has been written."""
        super().pause_writing()
        self._taking_timer = self.loop.call_later(TAKING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Write on."""
        self._stop_patience()
        super().resume_writing()

    def _make_room(self) -> None:
        """Hang up a little early on whoever it would be done to next for their silence.

        Otherwise a few hundred connections that ask for nothing would be all there is.
        """
        ends = {
            connection: timer.when()
            for connection in self.connections
            if isinstance(connection, BoundedHttp) and (timer := connection._silence)
        }
        # Whoever has just come has a request on the way.
        ends.pop(self, None)
        if ends:
            min(ends, key=ends.__getitem__).transport.close()

    @property
    def _silence(self) -> asyncio.TimerHandle | None:
        """What ends the wait for a request, while there is one."""
        return self._head_timer or self.timeout_keep_alive_task

    def _stop_patience(self) -> None:
        if self._taking_timer is not None:
            self._taking_timer.cancel()
            self._taking_timer = None

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
