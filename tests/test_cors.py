"""Cross-origin requests (CORS)."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from config import Settings, settings
from middleware import add_middleware

ORIGIN = {"Origin": "https://app.example.com"}


@pytest.fixture
async def open_client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    """Return a client for an app that allows requests from `ORIGIN`."""
    monkeypatch.setattr(settings, "cors_origins", (ORIGIN["Origin"],))
    site = FastAPI()
    add_middleware(site)

    @site.get("/api/bug")
    async def fail() -> None:
        raise RuntimeError

    transport = ASGITransport(site)
    async with AsyncClient(transport=transport, base_url="https://blog") as open_client:
        yield open_client


class TestCORS:
    async def test_is_off_by_default(self, client):
        response = await client.get("/api/posts", headers=ORIGIN)

        assert response.status_code == 200
        assert "access-control-allow-origin" not in response.headers

    @pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
    @pytest.mark.parametrize(
        ("origin", "status"), [(ORIGIN["Origin"], 200), ("https://evil.example", 400)]
    )
    async def test_preflight(self, open_client, method, origin, status):
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization, content-type, if-match",
        }

        response = await open_client.options("/api/posts/1", headers=headers)

        assert response.status_code == status
        allowed = response.headers.get("access-control-allow-origin") == origin
        assert allowed == (status == 200)
        assert method in response.headers["access-control-allow-methods"]
        assert "strict-transport-security" in response.headers

    async def test_error_and_headers_are_readable(self, open_client):
        response = await open_client.get("/api/bug", headers=ORIGIN)

        exposed = response.headers["access-control-expose-headers"].split(", ")
        needed = {"ETag", "Link", "Location", "Retry-After", "WWW-Authenticate"}
        assert response.status_code == 500
        assert response.headers["access-control-allow-origin"] == ORIGIN["Origin"]
        assert needed <= {*exposed}
        assert "Origin" in response.headers["vary"]
        assert "access-control-allow-credentials" not in response.headers


class TestSetting:
    @pytest.mark.parametrize(
        ("text", "origins"),
        [
            ("", ()),
            ("*", ("*",)),
            (" https://A.example , http://b:81,", ("https://a.example", "http://b:81")),
        ],
    )
    def test_origins(self, monkeypatch, text, origins):
        monkeypatch.setenv("CORS_ORIGINS", text)

        assert Settings().cors_origins == origins

    @pytest.mark.parametrize("text", ["a.example", "ftp://a", "https://a.example/path"])
    def test_invalid_origin(self, monkeypatch, text):
        monkeypatch.setenv("CORS_ORIGINS", text)

        with pytest.raises(ValueError, match="cors_origins"):
            Settings()
