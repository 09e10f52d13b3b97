"""Rejection of requests to unknown hosts."""

import pytest
from httpx import ASGITransport, AsyncClient, Response

from config import Settings
from main import app
from middleware.allowed_hosts import AllowedHostsMiddleware
from middleware.errors import ServerErrorMiddleware

HOST = "blog.example.com"
HOSTS = (HOST, "*.example.org", "[::1]", "www.example.com")
LOCAL = ("localhost", "127.0.0.1", "[::1]")


async def get(path: str, *hosts: str, allowed: tuple[str, ...] = HOSTS) -> Response:
    """Send a GET request with these Host headers to an app that allows some hosts."""
    site = ServerErrorMiddleware(AllowedHostsMiddleware(app, allowed))
    headers = [("Host", host) for host in hosts]
    async with AsyncClient(transport=ASGITransport(site)) as client:
        return await client.get(f"http://evil.example{path}", headers=headers)


class TestAllowedHosts:
    @pytest.mark.parametrize(
        "host", ["BLOG.example.COM:8443", "a.b.example.org", "[::1]:8000"]
    )
    async def test_known_host(self, host):
        response = await get("/login", host)

        assert response.status_code == 200

    @pytest.mark.parametrize(
        "hosts",
        [
            [""],
            ["blog.example.com.evil.example"],
            ["evil-blog.example.com"],
            ["evilexample.org"],
            ["blog.example.com:8000@evil.example"],
            ["[::1"],
            # Starlette's middleware would redirect this host to www.example.com.
            ["example.com"],
            [HOST, HOST],
            [HOST, "evil.example"],
        ],
    )
    async def test_unknown_host(self, hosts):
        response = await get("/login", *hosts)

        assert response.status_code == 400

    async def test_error_is_json_or_page(self):
        api, page = await get("/api/posts"), await get("/")

        assert api.json() == {"detail": "Invalid host header"}
        assert "<h1" in page.text
        assert "evil.example" not in page.text

    async def test_health_is_exempt(self):
        assert (await get("/health")).status_code == 200

    async def test_any(self):
        assert (await get("/login", allowed=("*",))).status_code == 200


class TestSetting:
    @pytest.mark.parametrize(
        ("frontend_url", "allowed_hosts", "served"),
        [
            ("", "", ("*",)),
            ("https://blog.example.com:8443", "", (HOST, *LOCAL)),
            ("https://[2001:db8::1]:8443", "", ("[2001:db8::1]", *LOCAL)),
            ("https://blog.example.com", "*", ("*",)),
            ("", "a.example, *.B.example", ("a.example", "*.b.example")),
        ],
    )
    def test_served_hosts(self, frontend_url, allowed_hosts, served, monkeypatch):
        monkeypatch.setenv("ALLOWED_HOSTS", allowed_hosts)
        monkeypatch.setenv("FRONTEND_URL", frontend_url)

        assert Settings().served_hosts == served

    @pytest.mark.parametrize("host", ["a b", "a/b", "*example.com", "a.*.com", "::1"])
    def test_invalid_host(self, host, monkeypatch):
        monkeypatch.setenv("ALLOWED_HOSTS", host)

        with pytest.raises(ValueError, match="allowed_hosts"):
            Settings()
