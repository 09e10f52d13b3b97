"""Cross-origin requests (CORS)."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from starlette.middleware.cors import CORSMiddleware

from config import ConfigurationError, Settings, load_settings, settings
from main import app
from middleware import CORS_OPTIONS, add_middleware
from tests.conftest import PASSWORD

FRIEND = "https://app.example.com"
STRANGER = "https://evil.example.com"


@pytest.fixture
async def open_client(client: AsyncClient) -> AsyncIterator[AsyncClient]:
    """A client of the application as it is with `CORS_ORIGINS` set."""
    opened = CORSMiddleware(app, allow_origins=[FRIEND], **CORS_OPTIONS)
    async with AsyncClient(
        transport=ASGITransport(opened), base_url="http://127.0.0.1:8000"
    ) as open_client:
        yield open_client


def preflight(origin: str, method: str, *headers: str) -> dict[str, str]:
    """Send a preflight request."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": ", ".join(headers),
    }


async def test_no_other_origin_is_allowed_by_default(client: AsyncClient) -> None:
    response = await client.get("/api/posts", headers={"Origin": FRIEND})

    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_allowed_origin_may_send_api_requests(
    open_client: AsyncClient, method: str
) -> None:
    asked = preflight(
        FRIEND,
        method,
        "authorization",
        "content-type",
        "idempotency-key",
        "if-match",
        "if-none-match",
    )

    response = await open_client.options("/api/posts/1", headers=asked)

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == FRIEND
    assert method in response.headers["access-control-allow-methods"]


async def test_other_origins_are_rejected(open_client: AsyncClient) -> None:
    asked = preflight(STRANGER, "POST", "authorization")

    response = await open_client.options("/api/posts", headers=asked)

    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers


async def test_allowed_origin_may_read_api_headers(
    open_client: AsyncClient,
) -> None:
    response = await open_client.get("/api/posts", headers={"Origin": FRIEND})

    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert {"ETag", "Link", "Location", "Retry-After", "WWW-Authenticate"} <= {*exposed}
    assert "Origin" in response.headers["vary"]
    assert "access-control-allow-credentials" not in response.headers


async def test_allowed_origin_may_read_errors(open_client: AsyncClient) -> None:
    form = {"username": "nobody@example.com", "password": PASSWORD}

    response = await open_client.post(
        "/api/users/token", data=form, headers={"Origin": FRIEND}
    )

    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == FRIEND


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        (FRIEND, (FRIEND,)),
        (
            " https://A.example.com/ , http://localhost:3000,",
            ("https://a.example.com", "http://localhost:3000"),
        ),
    ],
)
def test_origins_are_parsed_from_one_string(
    monkeypatch: pytest.MonkeyPatch, text: str, origins: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CORS_ORIGINS", text)

    assert Settings().cors_origins == origins


@pytest.mark.parametrize(
    "text", ["app.example.com", "ftp://a.example.com", "https://a.example.com/path"]
)
def test_invalid_origin_is_rejected(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CORS_ORIGINS", text)

    with pytest.raises((SystemExit, ConfigurationError), match="CORS_ORIGINS"):
        load_settings()


async def test_preflight_response_has_security_headers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "cors_origins", (FRIEND,))
    site = FastAPI()
    add_middleware(site)

    async with AsyncClient(
        transport=ASGITransport(site), base_url="https://blog.example.com"
    ) as client:
        response = await client.options("/", headers=preflight(FRIEND, "GET"))

    assert response.headers["access-control-allow-origin"] == FRIEND
    assert "strict-transport-security" in response.headers
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_other_origin_can_read_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "cors_origins", (FRIEND,))
    site = FastAPI()

    @site.get("/api/bug")
    async def fail() -> None:
        raise RuntimeError

    add_middleware(site)
    async with AsyncClient(
        transport=ASGITransport(site), base_url="https://blog.example.com"
    ) as client:
        response = await client.get("/api/bug", headers={"Origin": FRIEND})

    assert response.status_code == 500
    assert response.headers["access-control-allow-origin"] == FRIEND
