"""Under which names the site is served."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from httpx import ASGITransport, AsyncClient

from config import Settings
from main import HEALTH_PATH, answer_other_host, app
from middleware import RefuseHosts


@asynccontextmanager
async def serving(*hosts: str) -> AsyncIterator[AsyncClient]:
    """A client of the application as it is when it has these names."""
    strict = RefuseHosts(
        app, allowed=hosts, answer=answer_other_host, exempt=(HEALTH_PATH,)
    )
    async with AsyncClient(transport=ASGITransport(strict)) as client:
        yield client


async def status_of(client: AsyncClient, host: str, path: str = "/login") -> int:
    """How a page is answered under a name."""
    response = await client.get(f"http://blog{path}", headers={"Host": host})
    return response.status_code


@pytest.mark.parametrize(
    "host",
    [
        "blog.example.com",
        "blog.example.com:8443",
        "BLOG.example.COM",
        "blog.example.com.",
        "a.example.org",
        "a.b.example.org",
        "[::1]:8000",
    ],
)
async def test_own_name_is_served(host: str) -> None:
    async with serving("blog.example.com", "*.example.org", "::1") as client:
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
async def test_other_name_is_refused(host: str) -> None:
    async with serving("blog.example.com", "*.example.org", "::1") as client:
        assert await status_of(client, host) == 400


async def test_two_names_are_refused() -> None:
    hosts = [("Host", "blog.example.com"), ("Host", "evil.example")]

    async with serving("blog.example.com", "evil.example") as client:
        response = await client.get("http://blog/login", headers=hosts)

    assert response.status_code == 400


async def test_refusal_is_json_for_programs_and_a_page_for_people() -> None:
    async with serving("blog.example.com") as client:
        api = await client.get("http://evil.example/api/posts")
        page = await client.get("http://evil.example/")

    assert api.json() == {"detail": "Invalid host header"}
    assert "<h1" in page.text
    assert "evil.example" not in page.text


async def test_health_is_told_under_any_name() -> None:
    async with serving("blog.example.com") as client:
        assert await status_of(client, "10.0.0.7:8080", HEALTH_PATH) == 200


@pytest.mark.parametrize(
    ("frontend_url", "allowed_hosts", "served"),
    [
        (None, "", ("*",)),
        (
            "https://blog.example.com:8443",
            "",
            ("blog.example.com", "localhost", "127.0.0.1", "::1"),
        ),
        ("https://blog.example.com", "*", ("*",)),
        (None, "a.example, *.B.example", ("a.example", "*.b.example")),
    ],
)
def test_names_come_from_the_settings(
    frontend_url: str | None,
    allowed_hosts: str,
    served: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALLOWED_HOSTS", allowed_hosts)
    monkeypatch.setenv("FRONTEND_URL", frontend_url or "")

    assert Settings().served_hosts == served
