"""Cross-origin requests (CORS)."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Response
from httpx import ASGITransport, AsyncClient

from config import Settings, settings
from middleware import add_middleware

ORIGIN = "https://app.example.com"


@pytest.fixture
async def open_client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    """Return a client of an app that is open to `ORIGIN`."""
    monkeypatch.setattr(settings, "cors_origins", (ORIGIN,))
    site = FastAPI()
    add_middleware(site)

    @site.get("/api/posts")
    async def list_posts() -> list[str]:
        return []

    @site.get("/api/bug")
    async def fail() -> Response:
        raise RuntimeError

    async with AsyncClient(
        transport=ASGITransport(site), base_url="https://blog.example.com"
    ) as open_client:
        yield open_client


def preflight(origin: str, method: str) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization, content-type, if-match",
    }


class TestCORS:
    async def test_is_off_by_default(self, client: AsyncClient) -> None:
        response = await client.get("/api/posts", headers={"Origin": ORIGIN})

        assert response.status_code == 200
        assert "access-control-allow-origin" not in response.headers

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def test_preflight(self, open_client: AsyncClient, method: str) -> None:
        headers = preflight(ORIGIN, method)

        response = await open_client.options("/api/posts/1", headers=headers)

        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert method in response.headers["access-control-allow-methods"]
        assert "strict-transport-security" in response.headers
        assert response.headers["x-content-type-options"] == "nosniff"

    async def test_preflight_of_other_origin(self, open_client: AsyncClient) -> None:
        headers = preflight("https://evil.example.com", "POST")

        response = await open_client.options("/api/posts", headers=headers)

        assert response.status_code == 400
        assert "access-control-allow-origin" not in response.headers

    async def test_readable_headers(self, open_client: AsyncClient) -> None:
        response = await open_client.get("/api/posts", headers={"Origin": ORIGIN})

        exposed = response.headers["access-control-expose-headers"].split(", ")
        needed = {"ETag", "Link", "Location", "Retry-After", "WWW-Authenticate"}
        assert needed <= {*exposed}
        assert "Origin" in response.headers["vary"]
        assert "access-control-allow-credentials" not in response.headers

    async def test_errors_are_readable(self, open_client: AsyncClient) -> None:
        response = await open_client.get("/api/bug", headers={"Origin": ORIGIN})

        assert response.status_code == 500
        assert response.headers["access-control-allow-origin"] == ORIGIN


class TestSetting:
    @pytest.mark.parametrize(
        ("text", "origins"),
        [
            ("", ()),
            ("*", ("*",)),
            (
                " https://A.example.com/ , http://localhost:3000,",
                ("https://a.example.com", "http://localhost:3000"),
            ),
        ],
    )
    def test_origins(
        self, monkeypatch: pytest.MonkeyPatch, text: str, origins: tuple[str, ...]
    ) -> None:
        monkeypatch.setenv("CORS_ORIGINS", text)

        assert Settings().cors_origins == origins

    @pytest.mark.parametrize(
        "text", ["app.example.com", "ftp://a.example.com", "https://a.example.com/path"]
    )
    def test_invalid_origin(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("CORS_ORIGINS", text)

        with pytest.raises(ValueError, match="cors_origins"):
            Settings()
