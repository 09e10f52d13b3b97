"""The app as `make run` starts it: default settings, real services, real HTTP."""

import email
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from email.message import EmailMessage
from email.policy import default
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from config import BASE_DIR, Settings
from tests.conftest import PASSWORD, auth_header, wait_until_healthy
from tests.databases import free_port


class Installation:
    """An app with all its data in a separate directory."""

    def __init__(self, var_dir: Path) -> None:
        self.var_dir = var_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        unset = {name.upper() for name in Settings.model_fields}
        self.environment = {
            name: value for name, value in os.environ.items() if name not in unset
        } | {"ENV_FILE": os.devnull, "VAR_DIR": str(var_dir)}
        # Tests write more often than people do.
        self.environment["RATE_LIMIT_ENABLED"] = "false"
        self.server: subprocess.Popen[bytes] | None = None

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a Python command of the project and wait until it ends."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=BASE_DIR,
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        )

    def start(self) -> None:
        """Start the server and wait until it is healthy."""
        command = ["-m", "uvicorn", "main:app", "--port", str(self.port)]
        self.server = subprocess.Popen(
            [sys.executable, *command], cwd=BASE_DIR, env=self.environment
        )
        wait_until_healthy(self.url, self.server)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop the server and wait until it exits."""
        if self.server is not None:
            self.server.send_signal(how)
            self.server.wait(timeout=15)
            self.server = None

    def log_in(self, name: str, password: str = PASSWORD) -> httpx.Response:
        """Log in and return the access token."""
        form = {"username": f"{name}@example.com", "password": password}
        return httpx.post(f"{self.url}/api/users/token", data=form)

    def sign_up(self, name: str) -> dict[str, str]:
        """Create an account, log in, and return the user's headers."""
        account = {
            "username": name,
            "email": f"{name}@example.com",
            "password": PASSWORD,
        }
        httpx.post(f"{self.url}/api/users", json=account).raise_for_status()
        return auth_header(self.log_in(name).json()["access_token"])

    def emails(self, subject: str) -> list[EmailMessage]:
        """Return the outbox emails with a subject, the latest last."""
        files = sorted((self.var_dir / "outbox").glob("*.eml"))
        emails = [
            email.message_from_bytes(file.read_bytes(), policy=default)
            for file in files
        ]
        return [mail for mail in emails if mail["Subject"] == subject]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Run a migrated app whose path contains a space."""
    installation = Installation(tmp_path_factory.mktemp("live") / "a blog")
    installation.run("-m", "alembic", "upgrade", "head")
    installation.start()
    yield installation
    installation.stop()


def test_account_journey(installation: Installation) -> None:
    headers = installation.sign_up("ada")
    with httpx.Client(base_url=installation.url, headers=headers) as client:
        post = client.post("/api/posts", json={"content": "Hello"}).json()
        changed = client.patch(f"/api/posts/{post['id']}", json={"title": "First"})
        listed = client.get("/api/posts").json()
        page = client.get("/").text

    assert changed.status_code == 200
    assert [entry["title"] for entry in listed["posts"]] == ["First"]
    assert "First" in page


def test_picture_is_stored_and_served(installation: Installation) -> None:
    headers = installation.sign_up("bob")
    photo = BytesIO()
    Image.new("RGB", (800, 600), "teal").save(photo, "JPEG")

    me = httpx.get(f"{installation.url}/api/users/me", headers=headers).json()
    user = httpx.patch(
        f"{installation.url}/api/users/{me['id']}/picture",
        files={"file": ("photo.jpg", photo.getvalue())},
        headers=headers,
    ).json()
    picture = httpx.get(installation.url + user["image_path"])

    assert user["image_path"] == f"/media/profile_pics/{user['image_file']}"
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert Image.open(BytesIO(picture.content)).size == (300, 300)


def test_password_is_reset_by_emailed_link(
    installation: Installation,
) -> None:
    installation.sign_up("cleo")
    users = f"{installation.url}/api/users"
    httpx.post(f"{users}/forgot-password", json={"email": "cleo@example.com"})
    # The response is sent before the email; a later health check does not wait for it.
    text = wait_for_email(installation)
    link = re.escape(f"{installation.url}/reset-password?token=") + r"(\S+)"
    token = re.findall(link, text)[0]

    reset = httpx.post(
        f"{users}/reset-password", json={"token": token, "new_password": "new horse 1"}
    )

    assert reset.status_code == 200
    assert installation.log_in("cleo", "new horse 1").status_code == 200
    assert installation.log_in("cleo").status_code == 401


def test_absolute_urls_have_server_port(installation: Installation) -> None:
    page = httpx.get(installation.url, headers={"Host": "evil.example"}).text
    sitemap = httpx.get(f"{installation.url}/sitemap.xml").text

    assert f'<link rel="canonical" href="{installation.url}/">' in page
    assert f"<loc>{installation.url}/sitemaps/pages.xml</loc>" in sitemap


def wait_for_email(
    installation: Installation, subject: str = "Reset your password"
) -> str:
    """Wait for the latest email and return its text; it follows the response."""
    arrived = threading.Event()
    for _ in range(200):
        if installation.emails(subject):
            break
        arrived.wait(0.02)
    body = installation.emails(subject)[-1].get_body(("plain",))
    assert body is not None
    return str(body.get_content())


def test_killed_server_loses_no_acknowledged_post(installation: Installation) -> None:
    headers = installation.sign_up("dora")
    acknowledged: list[int] = []

    def write() -> None:
        with suppress(httpx.TransportError), httpx.Client(headers=headers) as client:
            while True:
                response = client.post(
                    f"{installation.url}/api/posts", json={"content": "Hello"}
                )
                acknowledged.append(response.json()["id"])
                if len(acknowledged) == 40:
                    enough.set()

    enough = threading.Event()
    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    assert enough.wait(timeout=20)

    installation.stop(signal.SIGKILL)
    for writer in writers:
        writer.join()
    installation.start()

    kept = set()
    for skip in range(0, len(acknowledged) + 100, 100):
        query = f"/api/posts?limit=100&skip={skip}"
        posts = httpx.get(installation.url + query).json()["posts"]
        kept |= {post["id"] for post in posts}
    assert set(acknowledged) <= kept


def test_local_key_is_persistent_and_private(installation: Installation) -> None:
    headers = installation.sign_up("eve")
    key = installation.var_dir / "secret_key"

    installation.stop()
    installation.start()
    me = httpx.get(f"{installation.url}/api/users/me", headers=headers)

    assert me.status_code == 200
    assert key.stat().st_mode & 0o777 == 0o600


def test_last_process_stops_shared_database(
    installation: Installation,
) -> None:
    while_serving = installation.run("-m", "alembic", "current").stdout
    pid_file = installation.var_dir / "postgres" / "postmaster.pid"
    running = pid_file.exists()

    installation.stop()
    stopped = not pid_file.exists()
    installation.start()

    assert "(head)" in while_serving
    assert running
    assert stopped
