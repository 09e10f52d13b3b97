"""An OpenTelemetry collector that keeps what the app exports."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

Exported = dict[str, list[bytes]]


class Handler(BaseHTTPRequestHandler):
    exported: Exported

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.exported.setdefault(self.path, []).append(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def collector() -> Iterator[tuple[str, Exported]]:
    """Run a collector, and yield its URL and the bodies that each path receives."""
    exported: Exported = {}
    handler = type("", (Handler,), {"exported": exported})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", exported
        finally:
            server.shutdown()
