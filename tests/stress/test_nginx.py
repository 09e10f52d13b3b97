"""Slow clients behind nginx, with the configuration that the README recommends.

"Quiet" is what the same probe saw in the same run before the attack.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from config import BASE_DIR
from tests.conftest import wait_until_healthy
from tests.databases import free_port
from tests.stress.conftest import Figures
from tests.stress.load import LOADED, Probe, probing, slowdown, wait_for
from tests.stress.site import Site, fill, running

CONFIGURATION = BASE_DIR / "deploy" / "nginx.conf"
SLOWER = 2.0
MAX_CONNECTIONS = 100
# The connections to the app that each worker of nginx keeps for later requests.
MAX_IDLE = 32 * (os.cpu_count() or 1)
MAX_BODY_BYTES = 5 * 1024 * 1024 + 64 * 1024
HEAD = "{} {} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
SLOW_HEADERS = HEAD.format("GET", "/").encode() + b"X: "
SLOW_BODY = (
    HEAD.format("POST", "/api/users/token").encode()
    + b"Content-Type: application/x-www-form-urlencoded\r\n"
    + b"Content-Length: 10000\r\n\r\n"
)


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: no picture is stored here, and setup is slow."""


def substituted(replacements: dict[str, str]) -> str:
    """Return the configuration with other listeners, ports and paths."""
    text = CONFIGURATION.read_text()
    for old, new in replacements.items():
        assert old in text, f"{old} is no longer in {CONFIGURATION.name}"
        text = text.replace(old, new)
    return text


def paths_in(folder: Path) -> dict[str, str]:
    """Return where nginx writes: into a folder instead of the system's."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = [f"{kind}_temp_path {folder}/{kind};" for kind in kinds]
    return {
        "/run/nginx.pid": f"{folder}/nginx.pid",
        "/var/log/nginx/": f"{folder}/",
        "\nhttp {": "\n".join(["\nhttp {", *temporary]),
    }


@pytest.fixture(scope="module")
def program() -> str:
    """Return the path of nginx."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop("nginx is missing: apt-get install nginx-light")
    return found


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Make a folder that nginx's workers, which run as another user, can enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@dataclass(frozen=True)
class Proxied:
    """The app behind nginx."""

    site: Site
    port: int
    log: Path

    @property
    def url(self) -> str:
        """The URL of nginx."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self, ip: str = "127.0.0.1") -> socket.socket:
        """Connect from one of this machine's IPs."""
        client = socket.socket()
        # Before the connection, or it has no effect: as little as the kernel allows.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.bind((ip, 0))
        client.connect(("127.0.0.1", self.port))
        return client


@contextmanager
def running_nginx(program: str, configuration: Path, url: str) -> Iterator[None]:
    """Run nginx until the context ends."""
    process = subprocess.Popen([program, "-c", configuration, "-g", "daemon off;"])
    try:
        wait_until_healthy(url, process)
        yield
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture(scope="module")
def proxied(
    program: str,
    folder: Path,
    database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxied]:
    """Run the app behind nginx."""
    site = Site(tmp_path_factory.mktemp("site"), database, TRUSTED_PROXY_HOPS="1")
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        substituted(
            {
                "listen 80;": f"listen 127.0.0.1:{free_port()};",
                "listen [::]:80;": "",
                "listen 443 ssl http2;": f"listen 127.0.0.1:{port};",
                "listen [::]:443 ssl http2;": "",
                "ssl_certificate /etc/ssl/certs/blog.pem;": "",
                "ssl_certificate_key /etc/ssl/private/blog.key;": "",
                "127.0.0.1:8080": f"127.0.0.1:{site.port}",
                **paths_in(folder),
            }
        )
    )
    proxied = Proxied(site, port, folder / "access.log")
    with running(site), running_nginx(program, configuration, proxied.url):
        yield proxied


class TestConfiguration:
    def test_is_valid_with_certificates(
        self, program: str, folder: Path, tmp_path: Path
    ) -> None:
        certificate = trustme.CA().issue_cert("blog.example.com")
        certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "blog.pem")
        configuration = tmp_path / "nginx.conf"
        configuration.write_text(
            substituted(
                {
                    "/etc/ssl/certs/blog.pem": f"{tmp_path}/blog.pem",
                    "/etc/ssl/private/blog.key": f"{tmp_path}/blog.pem",
                    # Only root can change the user and listen on the standard ports.
                    "user www-data;": "user www-data;" if os.geteuid() == 0 else "",
                    "listen 80;": f"listen {free_port()};",
                    "listen [::]:80;": f"listen [::]:{free_port()};",
                    "listen 443 ssl": f"listen {free_port()} ssl",
                    "listen [::]:443 ssl": f"listen [::]:{free_port()} ssl",
                    **paths_in(folder),
                }
            )
        )

        done = subprocess.run(
            [program, "-t", "-c", configuration],
            check=False,
            capture_output=True,
            text=True,
        )

        assert done.returncode == 0, done.stderr
        assert "[warn]" not in done.stderr

    def test_app_receives_client_ip(self, proxied: Proxied) -> None:
        transport = httpx.HTTPTransport(local_address="127.0.0.9")
        with httpx.Client(transport=transport) as client:
            client.get(f"{proxied.url}/login", headers={"X-Forwarded-For": "192.0.2.1"})

        assert re.search(r"127\.0\.0\.9:\d+ - .GET /login", proxied.site.written())

    def test_log_omits_query_strings(self, proxied: Proxied) -> None:
        httpx.get(f"{proxied.url}/reset-password?token=marked-secret-1")
        httpx.get(f"{proxied.url}/reset-password%3Ftoken=marked-secret-2")

        # nginx writes the line after the response.
        wait_for(lambda: proxied.log.read_text().count('"GET /reset-password"') == 2)
        assert "marked-secret" not in proxied.log.read_text()

    @pytest.mark.parametrize(
        ("size", "status", "detail"),
        [
            (MAX_BODY_BYTES, 401, "Not authenticated"),
            (MAX_BODY_BYTES + 1, 413, "Request body too large"),
        ],
    )
    def test_body_limit_matches_app(
        self, proxied: Proxied, size: int, status: int, detail: str
    ) -> None:
        url = f"{proxied.url}/api/users/1/picture"

        response = httpx.patch(url, content=b"x" * size)

        assert response.status_code == status
        assert response.json() == {"detail": detail}

    def test_endless_headers_are_rejected(self, proxied: Proxied) -> None:
        with proxied.connect() as client:
            client.settimeout(10)
            # It closes the connection while the client sends.
            with suppress(OSError):
                client.sendall(SLOW_HEADERS + b"a" * 1_000_000)
            with suppress(ConnectionResetError):
                assert client.recv(4096).startswith(b"HTTP/1.1 400 ")

        assert httpx.get(f"{proxied.url}/health").status_code == 200


def note(figures: Figures, what: str, probe: Probe) -> None:
    """Check what other clients saw against the limit."""
    words, ratio = slowdown(probe)
    name = f"p99 of reads during {what} through nginx, to quiet"
    figures.add(name, words, f"{SLOWER:.0f}", ratio <= SLOWER)


class SlowSenders:
    """Clients that send requests byte by byte, and connect again when cut off."""

    def __init__(self, proxied: Proxied, start: bytes, number: int, ip: str) -> None:
        self.proxied = proxied
        self.start = start
        self.ip = ip
        self.cut_off = 0
        self.statuses: Counter[bytes] = Counter()
        self.clients = [self.connect() for _ in range(number)]

    def connect(self) -> socket.socket:
        """Begin a request."""
        client = self.proxied.connect(self.ip)
        client.sendall(self.start)
        client.setblocking(False)
        return client

    def send_byte_per_second(self, *, seconds: float) -> None:
        """Send a byte a second on each connection."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            due = time.monotonic() + 1
            self.clients = [self.send_byte(client) for client in self.clients]
            time.sleep(max(due - time.monotonic(), 0))

    def send_byte(self, client: socket.socket) -> socket.socket:
        """Send a byte; return the connection, or a new one if nginx has closed it."""
        try:
            received = client.recv(4096)
        except BlockingIOError:
            with suppress(OSError):
                client.send(b"x")
            return client
        except OSError:
            received = b""
        self.cut_off += 1
        self.statuses[received[9:12]] += 1
        client.close()
        return self.connect()

    def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            client.close()


class TestSlowSenders:
    def test_slow_headers_do_not_affect_other_clients(
        self, proxied: Proxied, figures: Figures, full: bool
    ) -> None:
        number, seconds = (500, 30) if full else (100, 3)

        with probing(proxied.port, quiet_seconds=20 if full else 1) as probe:
            senders = SlowSenders(proxied, SLOW_HEADERS, number, "127.0.1.1")
            senders.send_byte_per_second(seconds=seconds)
            senders.close()

        assert probe.statuses() == {200}
        # Each of them once, after 15 seconds.
        assert senders.cut_off == (number if full else 0)
        note(figures, f"{number} slow headers", probe)

    def test_slow_bodies_do_not_affect_other_clients(
        self, proxied: Proxied, figures: Figures, full: bool
    ) -> None:
        number, seconds = (960, 30) if full else (200, 3)
        before = proxied.site.descriptors()

        with probing(proxied.port, quiet_seconds=20 if full else 1) as probe:
            senders = SlowSenders(proxied, SLOW_BODY, number, "127.0.1.1")
            senders.send_byte_per_second(seconds=seconds)
            open_files = proxied.site.descriptors()
            senders.close()

        assert probe.statuses() == {200}
        assert set(senders.statuses) == {b"503"}
        assert senders.statuses[b"503"] >= number - MAX_CONNECTIONS
        # None of them has reached the app.
        assert open_files <= before + 5
        note(figures, f"{number} slow bodies", probe)


ARRIVING = "arriving"


class TestSlowReaders:
    def test_slow_readers_do_not_affect_other_clients(
        self, proxied: Proxied, figures: Figures, full: bool
    ) -> None:
        number, length = (500, 20_000) if full else (50, 2_000)
        site = proxied.site
        path = long_list(site, length=length)
        descriptors, memory = site.descriptors(), site.memory()
        site.forget_peak()

        with ExitStack() as stack:
            probe = stack.enter_context(
                probing(proxied.port, quiet_seconds=20 if full else 1)
            )
            probe.begin(ARRIVING)
            # From ten IPs, for each of which nginx allows a hundred.
            readers = [
                stack.enter_context(read(proxied, path, f"127.0.1.{n % 10}"))
                for n in range(number)
            ]
            wait_for(lambda: all(map(read_a_little, readers)))
            wait_for(lambda: site.descriptors() <= descriptors + MAX_IDLE)
            probe.begin(LOADED)
            for _ in range(40 if full else 3):
                time.sleep(0.5)
                served = sum(map(read_a_little, readers))
            grown = site.memory("VmHWM") - memory

        assert probe.statuses() == {200}
        assert served == number
        what = f"{number} slow readers of 100 posts"
        note(figures, what, probe)
        words, _ = slowdown(probe, ARRIVING)
        figures.add(f"the same while the {number} come", words, "-", True)
        figures.add(f"memory of the app for {what}", f"{grown:+.0f} MiB", "-", True)

    def test_app_does_not_wait_for_slow_reader(self, proxied: Proxied) -> None:
        # 30 MB: more than the kernel keeps between the app, nginx and the client.
        path = long_list(proxied.site, length=100_000, letter="\u6f22")

        with read(proxied, path, "127.0.1.1") as client:
            wait_for(lambda: read_a_little(client))
            # The app sends a megabyte within milliseconds.
            time.sleep(2)
            with paused(proxied.site):
                size = rest_of(client)

        assert size > 100 * 100_000 * 3


@contextmanager
def paused(site: Site) -> Iterator[None]:
    """Stop the app until the context ends."""
    os.kill(site.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(site.pid, signal.SIGCONT)


def rest_of(client: socket.socket) -> int:
    """Read until the connection is closed; return how many bytes came."""
    client.settimeout(10)
    size = 0
    while received := client.recv(65_536):
        size += len(received)
    return size


def long_list(site: Site, *, length: int, letter: str = "x") -> str:
    """Give a new author 100 posts; return the path of their list."""
    author = site.sign_up(f"author-{time.monotonic_ns()}")
    fill(site, author, posts=100, length=length, letter=letter)
    return f"/api/users/{author.id}/posts?limit=100"


def read(proxied: Proxied, path: str, ip: str) -> socket.socket:
    """Request a path, and read nothing yet."""
    client = proxied.connect(ip)
    head = HEAD.format("GET", path).encode()
    client.sendall(head + b"Connection: close\r\n\r\n")
    client.setblocking(False)
    return client


def read_a_little(client: socket.socket) -> bool:
    """Read a few bytes, and return whether there were any."""
    with suppress(BlockingIOError):
        return bool(client.recv(4))
    return False
