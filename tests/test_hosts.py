"""Allowed hosts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from httpx import ASGITransport, AsyncClient

from config import HEALTH_PATH, Settings
from main import app
from middleware.allowed_hosts import AllowedHostsMiddleware
from middleware.errors import ServerErrorMiddleware

HOSTS = ("blog.example.com", "*.example.org", "[::1]")


@asynccontextmanager
async def serving(*hosts: str) -> AsyncIterator[AsyncClient]:
    """Return a client of the app that allows these hosts."""
    checked = AllowedHostsMiddleware(app, hosts)
    site = ServerErrorMiddleware(checked)
    async with AsyncClient(transport=ASGITransport(site)) as client:
        yield client


async def status_of(client: AsyncClient, host: str, path: str = "/login") -> int:
    """Return the response's status for a request with this Host header."""
    response = await client.get(f"http://blog{path}", headers={"Host": host})
    return response.status_code


class TestAllowedHosts:
    @pytest.mark.parametrize(
        "host",
        [
            "blog.example.com",
            "blog.example.com:8443",
            "BLOG.example.COM",
            "a.example.org",
            "a.b.example.org",
            "[::1]:8000",
        ],
    )
    async def test_allowed_host_is_served(self, host: str) -> None:
        async with serving(*HOSTS) as client:
            assert await status_of(client, host) == 200

    @pytest.mark.parametrize(
        "host",
        [
            "",
            "evil.example",
            "blog.example.com.evil.example",
            "evil-blog.example.com",
            "example.org",
            "evilexample.org",
            "blog.example.com:8000@evil.example",
            "blog.example.com/evil",
            "[",
            "[::1",
            "::1",
        ],
    )
    async def test_other_host_is_rejected(self, host: str) -> None:
        async with serving(*HOSTS) as client:
            assert await status_of(client, host) == 400

    @pytest.mark.parametrize("second", ["blog.example.com", "evil.example"])
    async def test_two_host_headers_are_rejected(self, second: str) -> None:
        hosts = [("Host", "blog.example.com"), ("Host", second)]

        async with serving("blog.example.com") as client:
            response = await client.get("http://blog/login", headers=hosts)

        assert response.status_code == 400

    async def test_www_is_not_redirected_to(self) -> None:
        async with serving("www.example.com") as client:
            assert await status_of(client, "example.com") == 400

    async def test_rejection_is_json_for_api_and_page_elsewhere(self) -> None:
        async with serving("blog.example.com") as client:
            api = await client.get("http://evil.example/api/posts")
            page = await client.get("http://evil.example/")

        assert api.json() == {"detail": "Invalid host header"}
        assert "<h1" in page.text
        assert "evil.example" not in page.text

    async def test_health_is_served_at_any_host(self) -> None:
        async with serving("blog.example.com") as client:
            assert await status_of(client, "10.0.0.7:8080", HEALTH_PATH) == 200

    async def test_any_host_is_served_with_a_wildcard(self) -> None:
        async with serving("*") as client:
            assert await status_of(client, "evil.example") == 200


class TestServedHosts:
    @pytest.mark.parametrize(
        ("frontend_url", "allowed_hosts", "served"),
        [
            (None, "", ("*",)),
            (
                "https://blog.example.com:8443",
                "",
                ("blog.example.com", "localhost", "127.0.0.1", "[::1]"),
            ),
            (
                "https://[2001:db8::1]:8443",
                "",
                ("[2001:db8::1]", "localhost", "127.0.0.1", "[::1]"),
            ),
            ("https://blog.example.com", "*", ("*",)),
            (
                None,
                "a.example, *.B.example, [::1]",
                ("a.example", "*.b.example", "[::1]"),
            ),
        ],
    )
    def test_hosts_follow_the_settings(
        self,
        frontend_url: str | None,
        allowed_hosts: str,
        served: tuple[str, ...],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("ALLOWED_HOSTS", allowed_hosts)
        monkeypatch.setenv("FRONTEND_URL", frontend_url or "")

        assert Settings().served_hosts == served

    @pytest.mark.parametrize("host", ["a b", "a/b", "*example.com", "a.*.com", "::1"])
    def test_invalid_host_is_rejected(
        self, host: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ALLOWED_HOSTS", host)

        with pytest.raises(ValueError, match="allowed_hosts"):
            Settings()
