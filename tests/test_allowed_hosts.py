"""Rejection of requests to unknown hosts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from httpx import ASGITransport, AsyncClient

from config import Settings
from main import app
from middleware.allowed_hosts import AllowedHostsMiddleware
from middleware.errors import ServerErrorMiddleware

HOSTS = ("blog.example.com", "*.example.org", "[::1]", "www.example.com")
LOCAL = ("localhost", "127.0.0.1", "[::1]")


@asynccontextmanager
async def serving(*hosts: str) -> AsyncIterator[AsyncClient]:
    """Return a client of the app that allows these hosts."""
    site = ServerErrorMiddleware(AllowedHostsMiddleware(app, hosts))
    async with AsyncClient(
        transport=ASGITransport(site), base_url="http://evil.example"
    ) as client:
        yield client


class TestAllowedHosts:
    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("blog.example.com", 200),
            ("BLOG.example.COM:8443", 200),
            ("a.b.example.org", 200),
            ("[::1]:8000", 200),
            ("", 400),
            ("evil.example", 400),
            ("blog.example.com.evil.example", 400),
            ("evil-blog.example.com", 400),
            ("example.org", 400),
            ("evilexample.org", 400),
            ("blog.example.com:8000@evil.example", 400),
            ("blog.example.com/evil", 400),
            ("[::1", 400),
            # Starlette would redirect to www.example.com.
            ("example.com", 400),
        ],
    )
    async def test_host(self, host: str, status: int) -> None:
        async with serving(*HOSTS) as client:
            response = await client.get("/login", headers={"Host": host})

        assert response.status_code == status

    @pytest.mark.parametrize("second", ["blog.example.com", "evil.example"])
    async def test_two_headers(self, second: str) -> None:
        hosts = [("Host", "blog.example.com"), ("Host", second)]

        async with serving(*HOSTS) as client:
            response = await client.get("/login", headers=hosts)

        assert response.status_code == 400

    async def test_error_is_json_or_page(self) -> None:
        async with serving(*HOSTS) as client:
            api, page = await client.get("/api/posts"), await client.get("/")

        assert api.json() == {"detail": "Invalid host header"}
        assert "<h1" in page.text
        assert "evil.example" not in page.text

    async def test_health_is_exempt(self) -> None:
        async with serving(*HOSTS) as client:
            assert (await client.get("/health")).status_code == 200

    async def test_any(self) -> None:
        async with serving("*") as client:
            assert (await client.get("/login")).status_code == 200


class TestSetting:
    @pytest.mark.parametrize(
        ("frontend_url", "allowed_hosts", "served"),
        [
            ("", "", ("*",)),
            ("https://blog.example.com:8443", "", ("blog.example.com", *LOCAL)),
            ("https://[2001:db8::1]:8443", "", ("[2001:db8::1]", *LOCAL)),
            ("https://blog.example.com", "*", ("*",)),
            (
                "",
                "a.example, *.B.example, [::1]",
                ("a.example", "*.b.example", "[::1]"),
            ),
        ],
    )
    def test_served_hosts(
        self,
        frontend_url: str,
        allowed_hosts: str,
        served: tuple[str, ...],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("ALLOWED_HOSTS", allowed_hosts)
        monkeypatch.setenv("FRONTEND_URL", frontend_url)

        assert Settings().served_hosts == served

    @pytest.mark.parametrize("host", ["a b", "a/b", "*example.com", "a.*.com", "::1"])
    def test_invalid_host(self, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALLOWED_HOSTS", host)

        with pytest.raises(ValueError, match="allowed_hosts"):
            Settings()
