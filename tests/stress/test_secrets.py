"""Secrets never appear in the app's log."""

from urllib.parse import urlsplit

import pytest

from tests.server import PASSWORD, LiveServer

MARK = "marked-secret"
QUERY = f"token={MARK}&password={MARK}&access_token={MARK}"
PASSWORDS = {"current_password": MARK, "new_password": f"{MARK}-new"}


def leaks(server: LiveServer, *secrets: str) -> list[str]:
    """Return the lines of the log that contain a secret."""
    # The last two are how access tokens (RFC 7519) and password hashes begin.
    secrets += (MARK, PASSWORD, "eyJhbGciOi", "$argon2")
    lines = server.log.read_text(errors="replace").splitlines()
    return [line for line in lines if any(secret in line for secret in secrets)]


class TestRequests:
    def test_password_reset(self, server_on_postgres):
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
            ("POST", f"/reset-password?{QUERY}", {}),
            ("POST", "/api/users", {"content": MARK}),
            ("POST", "/api/users", {"json": {"username": MARK, "password": MARK}}),
            ("POST", "/api/users/token", {"data": {"username": "a", "password": MARK}}),
            ("POST", "/api/users/reset-password", {"json": {"token": f"\0{MARK}"}}),
            ("PATCH", "/api/users/me/password", {"json": PASSWORDS}),
            ("GET", "/api/users/me", {"headers": {"Authorization": f"Bearer {MARK}"}}),
        ],
        ids=str,
    )
    def test_misplaced_secrets(self, method, path, options, server_on_postgres):
        response = server_on_postgres.client.request(method, path, **options)

        assert response.status_code < 500
        assert leaks(server_on_postgres) == []


def test_database_failure(server_on_postgres, postgres):
    postgres.stop()
    response = server_on_postgres.client.get("/api/posts")
    postgres.start()

    assert response.status_code == 503
    assert "Database unavailable" in server_on_postgres.log.read_text()
    assert leaks(server_on_postgres) == []
