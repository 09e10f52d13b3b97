"""Secrets and email addresses never appear in output or telemetry."""

import base64
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import make_url

from config import BASE_DIR
from tests.collector import Exported, collector
from tests.conftest import PHOTO
from tests.databases import free_port, scratch_database
from tests.server import PASSWORD, LiveServer, text
from tests.stress.fault_servers import FaultServer, Mailbox
from tests.stress.load import forgotten, login, picture, upload, wait_for
from tests.stress.postgres import Postgres

# All passwords, keys and email addresses contain this text.
MARK = "marked-secret"
EMAIL = f"{MARK}-eve@example.com"
QUERY = f"token={MARK}&password={MARK}&access_token={MARK}"
PASSWORDS = {"current_password": MARK, "new_password": f"{MARK}-new"}
LOGIN = base64.b64encode(f"\0ada\0{MARK}-smtp".encode()).decode()
# Requests with secrets in the wrong place.
MISPLACED: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", f"/unknown?{QUERY}", {}),
    ("POST", f"/reset-password?{QUERY}", {}),
    ("POST", "/api/users", {"content": MARK}),
    ("POST", "/api/users", {"json": {"username": MARK, "password": MARK}}),
    ("POST", "/api/users/token", {"data": {"username": "a", "password": MARK}}),
    ("POST", "/api/users/reset-password", {"json": {"token": f"\0{MARK}"}}),
    ("PATCH", "/api/users/me/password", {"json": PASSWORDS}),
    ("GET", "/api/users/me", {"headers": {"Authorization": f"Bearer {MARK}"}}),
]
# Commands for the user with id 1. Only these two print email addresses on purpose.
SHOWING = (("list-users",), ("show-user", "1"))
MANAGING = (
    ("create-user", f"{MARK}-eve", EMAIL),
    ("deactivate-user", "1", "--yes"),
    ("reactivate-user", "1"),
    ("log-out-user", "1"),
    ("log-out-everyone", "--yes"),
    ("delete-post", "1", "--yes"),
    ("delete-posts", "1", "--yes"),
    ("recount",),
    ("remove-orphaned-pictures", "--yes"),
    ("delete-user", "1", "--yes"),
)


class Site:
    """A server whose secrets are marked, and what it and its commands print."""

    def __init__(self, server: LiveServer, mailbox: Mailbox) -> None:
        self.server, self.mailbox = server, mailbox
        self.printed: list[str] = []

    def run(self, *arguments: str, has_marked_stdout: bool = False) -> int:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=BASE_DIR,
            env=self.server.environment | {"PASSWORD": MARK},
            capture_output=True,
            text=True,
        )
        self.printed.append(done.stderr + ("" if has_marked_stdout else done.stdout))
        return done.returncode

    def reset_token(self, address: str) -> str:
        """Request a password reset, and return the token in the email."""
        self.server.client.send(forgotten(self.server, address)).raise_for_status()
        wait_for(lambda: bool(self.mailed_tokens()))
        return self.mailed_tokens()[-1]

    def mailed_tokens(self) -> list[str]:
        texts = "".join(map(text, self.mailbox.emails))
        return re.findall(r"token=([\w-]+)", texts)

    def leaks(self, exported: Exported) -> list[str]:
        """Return the lines and exported bodies that contain a secret."""
        # The first two are how access tokens (RFC 7519) and password hashes begin.
        secrets = {"eyJhbGciOi", "$argon2", MARK, PASSWORD, LOGIN}
        secrets |= set(self.mailed_tokens())
        lines = [self.server.log.read_text(), *self.printed]
        found = "\n".join(lines).splitlines()
        found += [str(body) for bodies in exported.values() for body in bodies]
        return [each for each in found if any(secret in each for secret in secrets)]


def contains(log: Path, message: str) -> bool:
    return message in log.read_text()


def use_every_flow(site: Site) -> None:
    server, call = site.server, site.server.call
    ada, bob = (server.sign_up(f"{MARK}-{name}") for name in ("ada", "bob"))
    path = f"/api/users/{ada.id}"
    renamed = {"username": f"{MARK}-cleo", "email": f"{MARK}-cleo@example.com"}
    new_password = {"current_password": PASSWORD, "new_password": MARK}

    for _ in range(2):
        call("PATCH", f"{path}/picture", ada, files={"file": ("me.jpg", PHOTO)})
    call("DELETE", f"{path}/picture", ada)
    call("PATCH", f"/api/posts/{server.write(ada)['id']}", ada, json={"title": "New"})
    call("DELETE", f"/api/posts/{server.write(ada)['id']}", ada)
    call("PATCH", path, ada, json=renamed)
    call("PATCH", "/api/users/me/password", ada, json=new_password)
    server.log_in(renamed["email"], MARK)
    token = site.reset_token(bob.email)
    reset = {"token": token, "new_password": MARK}
    call("POST", "/api/users/reset-password", json=reset)
    call(
        "DELETE",
        f"/api/users/{bob.id}",
        replace(bob, token=server.log_in(bob.email, MARK)),
    )
    statuses = [
        server.client.request(method, path, **options).status_code
        for method, path, options in [
            *MISPLACED,
            ("GET", f"/reset-password?token={token}", {}),
            ("POST", "/api/users/reset-password", {"json": reset}),
            ("POST", "/api/users", {"json": renamed | {"password": MARK}}),
        ]
    ]
    assert max(statuses) < 500


def run_commands(site: Site) -> None:
    for arguments in SHOWING:
        site.run("manage.py", *arguments, has_marked_stdout=True)
    statuses = [site.run("manage.py", *arguments) for arguments in MANAGING]
    statuses.append(site.run("-m", "alembic", "upgrade", "head"))
    site.run("check_deploy.py", "--email", EMAIL)
    assert set(statuses) == {0}


def fail_services(site: Site, postgres: Postgres) -> None:
    """Use S3, SMTP, the database and a broken table while they fail."""
    server, mailbox = site.server, site.mailbox
    fay = server.sign_up(f"{MARK}-fay")
    send = server.client.send
    statuses = [send(upload(server, fay, picture())).status_code]
    for command, code in ((b"RCPT", b"550"), (b"AUTH", b"535"), (b"RCPT", b"451")):
        mailbox.codes = {b"AUTH": b"235", command: code}
        statuses.append(send(forgotten(server, fay.email)).status_code)
        error = f" {code.decode()}"
        wait_for(partial(contains, server.log, error))
    # PostgreSQL's error contains the whole row.
    server.sql("ALTER TABLE users ADD CHECK (token_version < 1) NOT VALID")
    change = {"current_password": PASSWORD, "new_password": MARK}
    change_path = "/api/users/me/password"
    statuses.append(
        server.client.patch(change_path, json=change, headers=fay.headers).status_code
    )
    site.run("check_deploy.py", "--email", EMAIL)
    site.run("manage.py", "remove-orphaned-pictures", "--yes")
    postgres.stop()
    statuses.append(send(login(server, fay.email, PASSWORD)).status_code)
    site.run("manage.py", "list-users")
    site.run("check_deploy.py")
    site.run("-m", "alembic", "-x", "wait=1", "upgrade", "head")
    postgres.start()
    assert statuses == [503, 202, 202, 202, 500, 503]


def test_nothing_contains_secrets(postgres, s3_server, tmp_path):
    mailbox = Mailbox()
    unused = free_port()
    httpx.put(f"{s3_server}/pictures", headers={"x-amz-acl": "public-read"})
    with (
        collector() as (endpoint, exported),
        FaultServer(mailbox) as smtp,
        scratch_database(make_url(postgres.url)) as database_url,
        LiveServer(
            tmp_path,
            database_url=database_url,
            SECRET_KEY=f"{MARK}-key-of-at-least-32-bytes",
            SECRET_KEY_PREVIOUS=f"{MARK}-earlier-key-of-32-bytes",
            S3_BUCKET_NAME="pictures",
            S3_ENDPOINT_URL=s3_server,
            S3_ACCESS_KEY_ID=f"{MARK}-id",
            S3_SECRET_ACCESS_KEY=f"{MARK}-s3",
            MAIL_SERVER="127.0.0.1",
            MAIL_PORT=str(smtp.port),
            MAIL_USERNAME="ada",
            MAIL_PASSWORD=f"{MARK}-smtp",
            REDIS_URL=f"redis://:{MARK}@127.0.0.1:{unused}/0",
            RATE_LIMIT_ENABLED="true",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        ) as server,
    ):
        site = Site(server, mailbox)
        use_every_flow(site)
        run_commands(site)
        server.stop()
        server.environment["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{unused}"
        server.start()
        fail_services(site, postgres)
        server.stop()

    log = server.log.read_text()
    for expected in (
        "Redis unavailable",
        "Database unavailable",
        "Picture not stored",
        "SMTPRecipientsRefused 550",
        "SMTPRecipientsRefused 451), retrying",
        "SMTPAuthenticationError 535",
        "CheckViolationError",
    ):
        assert expected in log
    assert set(exported) == {"/v1/traces", "/v1/metrics"}
    assert site.leaks(exported) == []
