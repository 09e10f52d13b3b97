"""`deploy/nginx.conf` keeps slow clients away from the app."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from config import BASE_DIR
from tests.databases import free_port
from tests.server import LiveServer, wait_until_healthy
from tests.stress.load import encoded, open_slow_reader, reads_during, wait_for

MAX_BODY_BYTES = 5 * 1024 * 1024 + 64 * 1024
SLOW_HEADERS = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
SLOW_BODY = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n\r\n"
# No other client uses this IP.
SLOW_IP = "127.0.1.1"


@dataclass(frozen=True)
class Nginx:
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def configure(self, replacements: dict[str, str]) -> list[str | Path]:
        """Write the configuration with these replacements, and return the command."""
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = [f"{kind}_temp_path {self.folder}/{kind};" for kind in kinds]
        replacements |= {
            # Only root can run the workers as another user.
            "user www-data;": "user www-data;" if os.geteuid() == 0 else "",
            "/run/nginx.pid": f"{self.folder}/nginx.pid",
            "/var/log/nginx/": f"{self.folder}/",
            "\nhttp {": "\n".join(["\nhttp {", *temporary]),
        }
        text = (BASE_DIR / "deploy" / "nginx.conf").read_text()
        for old, new in replacements.items():
            assert old in text, f"{old} is no longer in nginx.conf"
            text = text.replace(old, new)
        (self.folder / "nginx.conf").write_text(text)
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            stop("nginx is missing: apt-get install nginx-light")
        return [program, "-c", self.folder / "nginx.conf"]


@pytest.fixture
def stopped_nginx() -> Iterator[Nginx]:
    with tempfile.TemporaryDirectory() as name:
        # The workers run as another user, and must be able to enter the directory.
        Path(name).chmod(0o755)
        yield Nginx(Path(name), free_port())


@pytest.fixture
def nginx(stopped_nginx: Nginx, server: LiveServer) -> Iterator[Nginx]:
    """Run nginx in front of the server, without TLS."""
    command = stopped_nginx.configure(
        {
            "listen 80;": f"listen 127.0.0.1:{free_port()};",
            "listen [::]:80;": "",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{stopped_nginx.port};",
            "listen [::]:443 ssl http2;": "",
            "ssl_certificate /etc/ssl/certs/blog.pem;": "",
            "ssl_certificate_key /etc/ssl/private/blog.key;": "",
            "127.0.0.1:8080": f"127.0.0.1:{server.port}",
        }
    )
    with subprocess.Popen([*command, "-g", "daemon off;"]) as process:
        try:
            wait_until_healthy(stopped_nginx.url, process)
            yield stopped_nginx
        finally:
            process.terminate()


class TestConfiguration:
    def test_is_valid(self, stopped_nginx):
        pem = stopped_nginx.folder / "blog.pem"
        certificate = trustme.CA().issue_cert("blog.example.com")
        certificate.private_key_and_cert_chain_pem.write_to_path(pem)
        replacements = {
            "/etc/ssl/certs/blog.pem": f"{pem}",
            "/etc/ssl/private/blog.key": f"{pem}",
            "listen 80;": f"listen {free_port()};",
            "listen [::]:80;": f"listen [::]:{free_port()};",
            "listen 443 ssl": f"listen {free_port()} ssl",
            "listen [::]:443 ssl": f"listen [::]:{free_port()} ssl",
        }

        done = subprocess.run(
            [*stopped_nginx.configure(replacements), "-t"],
            check=False,
            capture_output=True,
            text=True,
        )

        assert done.returncode == 0, done.stderr
        assert "[warn]" not in done.stderr

    def test_forwards_client_ip(self, nginx, server):
        transport = httpx.HTTPTransport(local_address="127.0.0.9")
        with httpx.Client(transport=transport, timeout=30) as client:
            client.get(f"{nginx.url}/login", headers={"X-Forwarded-For": "192.0.2.1"})

        # The app sends the response before it logs the request.
        wait_for(lambda: '"client_ip": "127.0.0.9"' in server.log.read_text())

    def test_logs_no_query_strings(self, nginx):
        log = nginx.folder / "access.log"

        httpx.get(f"{nginx.url}/reset-password?token=secret-1", timeout=30)
        httpx.get(f"{nginx.url}/reset-password%3Ftoken=secret-2", timeout=30)

        # nginx sends the response before it logs the request.
        wait_for(lambda: log.read_text().count('"GET /reset-password"') == 2)
        assert "secret" not in log.read_text()

    @pytest.mark.parametrize(
        ("size", "status", "detail"),
        [
            (MAX_BODY_BYTES, 401, "Not authenticated"),
            (MAX_BODY_BYTES + 1, 413, "Request body too large"),
        ],
    )
    def test_limits_bodies_like_the_app(self, nginx, size, status, detail):
        url = f"{nginx.url}/api/users/1/picture"

        response = httpx.patch(url, content=b"x" * size, timeout=30)

        assert response.status_code == status
        assert response.json() == {"detail": detail}


def read_status(client: socket.socket) -> bytes:
    """Return the status of the response, or nothing if the connection was closed."""
    with suppress(ConnectionResetError):
        return client.recv(12)[9:]
    return b""


class TestSlowClients:
    @pytest.mark.parametrize(
        ("start", "allowed"), [(SLOW_HEADERS, 1000), (SLOW_BODY, 100)]
    )
    def test_time_out(self, start, allowed, nginx, server, figures):
        number = 960 if figures.stress else 200
        log_size = server.log.stat().st_size

        with (
            reads_during(figures, nginx.url, f"{number} slow clients of nginx"),
            ExitStack() as stack,
        ):
            clients = [
                stack.enter_context(open_slow_reader(nginx.port, start, ip=SLOW_IP))
                for _ in range(number)
            ]
            # After 15 seconds, nginx closes the connections that it hasn't rejected.
            statuses = Counter(map(read_status, clients))

        assert statuses[b"503"] >= number - allowed
        # None of the slow requests has reached the app.
        assert SLOW_IP.encode() not in server.log.read_bytes()[log_size:]

    def test_do_not_occupy_the_app(self, nginx, server):
        author = server.sign_up("author")
        # 30 MB is more than the kernel buffers for nginx and the client.
        server.insert_posts(author, 100, length=300_000)
        path = f"/api/users/{author.id}/posts?limit=100"
        headers = {"Connection": "close"}
        request = server.client.build_request("GET", path, headers=headers)

        with open_slow_reader(nginx.port, encoded(request)) as reader:
            reader.recv(1)
            # This gives the app 5 seconds to send the whole response.
            server.stop()
            size = sum(map(len, iter(lambda: reader.recv(65_536), b"")))
        server.start()

        assert size > 30_000_000
