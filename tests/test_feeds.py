"""Atom feeds (RFC 4287), sitemaps and robots.txt."""

from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from httpx import AsyncClient
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from config import settings
from database import MAX_ID
from models import Post, User
from routers.feeds import FEED_LENGTH, SITEMAP_LENGTH
from tests.conftest import create_post, get_user_id

SITE = "https://blog.example.com/under/a/path"
ATOM = "{http://www.w3.org/2005/Atom}"
SITEMAP = "{http://www.sitemaps.org/schemas/sitemap/0.9}"
FORGED = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
EVIL = """]]></content><script>alert('1')</script> & &amp; "x" {{ 7*7 }}"""
SOME_DAY = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
FEEDS = ["/feed.atom", "/users/{user_id}/feed.atom"]


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a site URL that differs from the host in the requests."""
    monkeypatch.setattr(settings, "frontend_url", SITE)


async def read_xml(client: AsyncClient, path: str) -> Element:
    response = await client.get(path, headers=FORGED)
    assert response.status_code == 200, response.text
    assert "evil.example" not in response.text
    return ElementTree.fromstring(response.content)


async def read_entries(client: AsyncClient) -> list[Element]:
    return (await read_xml(client, "/feed.atom")).findall(f"{ATOM}entry")


def text(parent: Element, *names: str) -> str:
    """Return the text of the only element with this path."""
    (found,) = parent.findall("/".join(ATOM + name for name in names))
    return found.text or ""


def links(parent: Element) -> dict[str, str]:
    found = parent.findall(f"{ATOM}link")
    return {link.attrib["rel"]: link.attrib["href"] for link in found}


async def set_dates(db: AsyncSession, post: dict[str, Any], **dates: datetime) -> None:
    await db.execute(update(Post).where(Post.id == post["id"]).values(dates))
    await db.commit()


class TestFeed:
    @pytest.mark.parametrize("path", FEEDS)
    async def test_required_elements(self, client, ada, path):
        post = await create_post(client, ada)
        path = path.format(**post)

        response = await client.get(path)

        feed = ElementTree.fromstring(response.content)
        assert response.headers["Content-Type"] == "application/atom+xml; charset=utf-8"
        assert feed.tag == f"{ATOM}feed"
        assert text(feed, "title").endswith("FastAPI Blog")
        assert links(feed)["self"] == SITE + path
        assert links(feed)["alternate"] == text(feed, "id")

    async def test_author(self, client, ada, bob):
        post = await create_post(client, ada, title="Of ada")
        await create_post(client, bob, title="Of bob")

        feed = await read_xml(client, f"/users/{post['user_id']}/feed.atom")

        assert text(feed, "title") == "ada \N{EN DASH} FastAPI Blog"
        assert text(feed, "id") == f"{SITE}/users/{post['user_id']}/posts"
        assert text(feed, "entry", "title") == "Of ada"

    async def test_newest_posts(self, client, ada, db):
        user_id = await get_user_id(client, ada)
        db.add_all(
            Post(title=f"{number}", content="C", user_id=user_id, date_posted=SOME_DAY)
            for number in range(FEED_LENGTH + 1)
        )
        await db.commit()

        entries = await read_entries(client)

        titles = [int(text(entry, "title")) for entry in entries]
        assert titles == list(range(FEED_LENGTH, 0, -1))

    @pytest.mark.parametrize("path", FEEDS)
    async def test_empty(self, client, ada, path):
        user_id = await get_user_id(client, ada)

        feed = await read_xml(client, path.format(user_id=user_id))

        assert feed.findall(f"{ATOM}entry") == []
        assert text(feed, "updated") == "1970-01-01T00:00:00+00:00"

    @pytest.mark.parametrize(
        ("user_id", "status"), [("0", 404), ("2147483648", 404), ("x", 422)]
    )
    async def test_unknown_user(self, client, user_id, status):
        response = await client.get(f"/users/{user_id}/feed.atom")

        assert response.status_code == status
        assert response.headers["Content-Type"].startswith("text/html")

    @pytest.mark.parametrize("path", FEEDS)
    async def test_updated(self, client, ada, db, path):
        edited, newer = [await create_post(client, ada) for _ in range(2)]
        day = timedelta(days=1)
        await set_dates(
            db, edited, date_posted=SOME_DAY, date_updated=SOME_DAY + 2 * day
        )
        await set_dates(db, newer, date_posted=SOME_DAY + day)

        feed = await read_xml(client, path.format(**newer))

        updated = [text(entry, "updated") for entry in feed.findall(f"{ATOM}entry")]
        assert updated == ["2026-02-04T04:05:06+00:00", "2026-02-05T04:05:06+00:00"]
        assert text(feed, "updated") == "2026-02-05T04:05:06+00:00"


class TestEntry:
    async def test_required_elements(self, client, ada, db):
        post = await create_post(client, ada, title="A title", content="One\n\nTwo")
        await set_dates(db, post, date_posted=SOME_DAY)

        (entry,) = await read_entries(client)

        assert text(entry, "id") == f"{SITE}/posts/{post['id']}"
        assert links(entry) == {"alternate": text(entry, "id")}
        assert text(entry, "title") == "A title"
        assert text(entry, "published") == "2026-02-03T04:05:06+00:00"
        assert text(entry, "updated") == text(entry, "published")
        assert text(entry, "author", "name") == "ada"
        author_url = f"{SITE}/users/{post['user_id']}/posts"
        assert text(entry, "author", "uri") == author_url
        assert text(entry, "content") == '<p dir="auto">One</p><p dir="auto">Two</p>'
        assert entry.find(f"{ATOM}content[@type='html']") is not None

    async def test_markup_is_escaped(self, client, ada):
        path = f"/api/users/{await get_user_id(client, ada)}"
        await client.patch(path, json={"username": EVIL[:50]}, headers=ada)
        await create_post(client, ada, title=EVIL, content=EVIL)

        (entry,) = await read_entries(client)

        assert text(entry, "title") == EVIL
        assert text(entry, "author", "name") == EVIL[:50]
        assert "<script" not in text(entry, "content")
        assert "&lt;script&gt;alert" in text(entry, "content")

    @pytest.mark.parametrize(
        "character", ["\x01", "\x08", "\x0b", "\x0c", "\x0e", "\x1f", "\ufffe"]
    )
    async def test_invalid_in_xml(self, client, ada, character):
        await create_post(client, ada, title=f"a{character}b", content=f"{character}c")

        (entry,) = await read_entries(client)

        assert text(entry, "title") == "a\ufffdb"
        assert text(entry, "content") == '<p dir="auto">\ufffdc</p>'

    async def test_valid_in_xml(self, client, ada):
        content = "\t\x20\x7f\x85\u2028\ud7ff\ue000\ufffd\U00010000\U0010ffff"
        await create_post(client, ada, content=f"a{content}b")

        (entry,) = await read_entries(client)

        assert text(entry, "content") == f'<p dir="auto">a{content}b</p>'

    async def test_markdown(self, client, ada):
        await create_post(client, ada, title="", content="*One*", format="markdown")

        (entry,) = await read_entries(client)

        assert text(entry, "title") == "One"
        assert text(entry, "content") == '<p dir="auto"><em>One</em></p>\n'


async def read_paths(client: AsyncClient, path: str) -> list[str]:
    """Return the paths in a sitemap or a sitemap index."""
    urls = [
        loc.text or "" for loc in (await read_xml(client, path)).iter(f"{SITEMAP}loc")
    ]
    assert all(url.startswith(SITE) for url in urls)
    return [url.removeprefix(SITE) for url in urls]


async def add_rows(db: AsyncSession, user_id: int, *post_ids: int) -> None:
    email = f"{user_id}@example.com"
    db.add(User(id=user_id, username=email, email=email, password_hash="x"))
    await db.flush()
    db.add_all(
        Post(id=post_id, title="T", content="C", user_id=user_id)
        for post_id in post_ids
    )
    await db.commit()


class TestSitemap:
    async def test_empty_site(self, client):
        response = await client.get("/sitemap.xml")

        assert response.headers["Content-Type"] == "application/xml; charset=utf-8"
        assert ElementTree.fromstring(response.content).tag == f"{SITEMAP}sitemapindex"
        assert await read_paths(client, "/sitemap.xml") == ["/sitemaps/pages.xml"]
        assert await read_paths(client, "/sitemaps/pages.xml") == ["/"]

    async def test_index(self, client, db):
        first = 30 * SITEMAP_LENGTH
        await add_rows(db, first - 1, first - 1, first, first + 3 * SITEMAP_LENGTH)

        assert await read_paths(client, "/sitemap.xml") == [
            "/sitemaps/pages.xml",
            "/sitemaps/posts-29.xml",
            "/sitemaps/posts-30.xml",
            "/sitemaps/posts-33.xml",
            "/sitemaps/users-29.xml",
        ]

    async def test_range_of_ids(self, client, db):
        first, last = 30 * SITEMAP_LENGTH, 31 * SITEMAP_LENGTH - 1
        await add_rows(db, first, first - 1, last, first, last + 1)

        posts = await read_xml(client, "/sitemaps/posts-30.xml")

        assert posts.tag == f"{SITEMAP}urlset"
        assert await read_paths(client, "/sitemaps/posts-30.xml") == [
            f"/posts/{first}",
            f"/posts/{last}",
        ]
        assert await read_paths(client, "/sitemaps/users-30.xml") == [
            f"/users/{first}/posts"
        ]

    async def test_largest_id(self, client, db):
        await add_rows(db, MAX_ID, MAX_ID)

        paths = await read_paths(client, "/sitemap.xml")

        assert len(paths) == 3
        assert await read_paths(client, paths[1]) == [f"/posts/{MAX_ID}"]
        assert await read_paths(client, paths[2]) == [f"/users/{MAX_ID}/posts"]

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            (f"posts-{MAX_ID // SITEMAP_LENGTH}", 404),
            (f"posts-{MAX_ID // SITEMAP_LENGTH + 1}", 422),
            ("posts--1", 422),
            ("posts-x", 422),
            ("tokens-0", 422),
            ("nothing", 404),
        ],
    )
    async def test_not_found(self, client, path, status):
        response = await client.get(f"/sitemaps/{path}.xml")

        assert response.status_code == status

    def test_limits_of_the_protocol(self):
        url = f"<url><loc>{SITE}/users/{MAX_ID}/posts</loc></url>"

        assert SITEMAP_LENGTH <= 50_000
        assert SITEMAP_LENGTH * 2 * len(url) < 50 * 1024 * 1024


async def test_robots_txt(client):
    response = await client.get("/robots.txt", headers=FORGED)

    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.text.splitlines() == [
        "User-agent: *",
        "Disallow: /api/",
        "",
        f"Sitemap: {SITE}/sitemap.xml",
    ]
