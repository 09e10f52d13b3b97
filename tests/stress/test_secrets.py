"""Secrets never appear in what the app writes."""

import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import pytest

from config import BASE_DIR
from tests.server import PASSWORD, LiveServer, clean_environment
from tests.stress.postgres import Postgres

MARK = "marked-secret"
QUERY = f"token={MARK}&password={MARK}&access_token={MARK}"
PASSWORDS = {"current_password": MARK, "new_password": f"{MARK}-new"}


def leaks(server: LiveServer, *secrets: str) -> list[str]:
    """Return the lines of the log that contain a secret."""
    # How access tokens (RFC 7519) and password hashes start.
    secrets += (MARK, PASSWORD, "eyJhbGciOi", "$argon2")
    lines = server.log.read_text(errors="replace").splitlines()
    return [line for line in lines if any(secret in line for secret in secrets)]


class TestRequests:
    def test_password_reset(self, server_on_postgres: LiveServer) -> None:
        server = server_on_postgres
        ada = server.sign_up("resetting")
        server.call("POST", "/api/users/forgot-password", json={"email": ada.email})
        link = urlsplit(server.wait_for_reset_link())
        token = link.query.removeprefix("token=")
        reset = {"token": token, "new_password": MARK}

        server.client.get(f"{link.path}?{link.query}").raise_for_status()
        server.call("POST", "/api/users/reset-password", json=reset)
        server.log_in(ada.email, MARK)

        assert leaks(server, token) == []

    @pytest.mark.parametrize(
        ("method", "path", "options"),
        [
            ("GET", f"/unknown?{QUERY}", {}),
            ("GET", f"//reset-password?{QUERY}", {}),
            ("GET", f"/reset-password%3F{QUERY}", {}),
            ("POST", f"/reset-password?{QUERY}", {}),
            ("GET", f"/api/posts?limit={MARK}", {}),
            ("POST", "/api/users", {"content": MARK}),
            ("POST", "/api/users", {"json": {"username": MARK, "password": MARK}}),
            ("POST", "/api/users/token", {"data": {"username": "a", "password": MARK}}),
            ("POST", "/api/users/reset-password", {"json": {"token": f"\0{MARK}"}}),
            ("PATCH", "/api/users/me/password", {"json": PASSWORDS}),
            ("GET", "/api/users/me", {"headers": {"Authorization": f"Bearer {MARK}"}}),
        ],
        ids=str,
    )
    def test_misplaced_secrets(
        self,
        method: str,
        path: str,
        options: dict[str, Any],
        server_on_postgres: LiveServer,
    ) -> None:
        response = server_on_postgres.client.request(method, path, **options)

        assert response.status_code < 500
        assert leaks(server_on_postgres) == []


class TestDatabase:
    def test_stopped(self, server_on_postgres: LiveServer, postgres: Postgres) -> None:
        postgres.stop()
        response = server_on_postgres.client.get("/api/posts")
        postgres.start()

        assert response.status_code == 503
        assert "Database unavailable" in server_on_postgres.log.read_text()
        assert leaks(server_on_postgres) == []

    def test_unavailable(self) -> None:
        url = f"postgresql://user:{MARK}@127.0.0.1:1/database"

        done = subprocess.run(
            [sys.executable, "-m", "alembic", "current"],
            cwd=BASE_DIR,
            env=clean_environment(DATABASE_URL=url, SECRET_KEY=MARK * 3),
            check=False,
            capture_output=True,
            text=True,
        )

        assert done.returncode != 0
        assert MARK not in done.stdout + done.stderr
