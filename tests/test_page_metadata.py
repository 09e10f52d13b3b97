"""The metadata, escaping and dates of pages."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from httpx import AsyncClient
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from config import settings
from models import Post
from tests.conftest import Headers, Json, create_post, upload_picture
from tests.test_pages import WITH_POSTS

SUFFIX = " \N{EN DASH} FastAPI Blog"
SITE = "https://blog.example.com"
EVIL = """</title></script><script>alert('1')</script>{{ 7*7 }} "onload="x & é<!--"""
FORGED = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
POSTED = datetime(2025, 11, 3, 23, 30, 15, tzinfo=UTC)
EDITED = datetime(2026, 2, 1, 23, 59, 59, tzinfo=UTC)


class Page(HTMLParser):
    """The metadata in the head of a page, parsed as browsers parse it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.title = ""
        self.meta: Headers = {}
        self.links: Headers = {}
        self.data: Any = None
        self.inline_script = ""
        self._open = ""
        self.feed(html.partition("</head>")[0])
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        is_data = found.get("type") == "application/ld+json"
        self._open = "data" if is_data else tag
        if tag == "meta" and "content" in found:
            self.meta[found.get("property") or found["name"]] = found["content"]
        elif tag == "link":
            self.links[found.get("type") or found["rel"]] = found["href"]

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "title":
            self.title += data
        elif self._open == "data":
            self.data = json.loads(data)
        elif self._open == "script":
            self.inline_script += data


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a site URL that differs from the host in the requests."""
    monkeypatch.setattr(settings, "frontend_url", SITE)


@pytest.fixture
async def post(client: AsyncClient, ada: Headers, db: AsyncSession) -> Json:
    post = await create_post(client, ada, title="A title", content="One\n\n two")
    await set_dates(db, date_posted=POSTED)
    return post


async def set_dates(db: AsyncSession, **dates: datetime) -> None:
    await db.execute(update(Post).values(dates))
    await db.commit()


async def open_page(client: AsyncClient, path: str) -> Page:
    response = await client.get(path, headers=FORGED)
    assert "evil.example" not in response.text
    assert "127.0.0.1" not in response.text
    return Page(response.text)


class TestURLs:
    @pytest.mark.parametrize(
        ("path", "canonical"),
        [
            ("/?page=1", "/"),
            ("/?utm_source=elsewhere", "/"),
            ("/site/posts", "/"),
            ("/posts/{id}?page=2", "/posts/{id}"),
            ("/users/{user_id}/posts", "/users/{user_id}/posts"),
            ("/login?next=/account", "/login"),
            ("/register", "/register"),
            ("/account", "/account"),
            ("/forgot-password", "/forgot-password"),
        ],
    )
    async def test_canonical(self, client, post, path, canonical):
        page = await open_page(client, path.format(**post))

        assert page.links["canonical"] == SITE + canonical.format(**post)
        assert page.meta["og:url"] == page.links["canonical"]
        assert page.meta["description"]
        assert "robots" not in page.meta

    @pytest.mark.parametrize("path", ["/nothing", "/posts/0", "/reset-password?token="])
    async def test_private_page(self, client, path):
        page = await open_page(client, path)

        assert page.meta["robots"] == "noindex"
        assert "canonical" not in page.links

    @pytest.mark.parametrize("path", ["/", "/users/{user_id}/posts"])
    async def test_adjacent_pages(self, client, ada, post, path):
        path = path.format(**post)
        [await create_post(client, ada) for _ in range(2 * settings.posts_per_page)]

        first = await open_page(client, path)
        second = await open_page(client, f"{path}?page=2")
        third = await open_page(client, f"{path}?page=3")

        assert ("prev" in first.links, "next" in third.links) == (False, False)
        assert first.links["next"] == third.links["prev"] == f"{path}?page=2"
        assert second.links["prev"] == path
        assert second.links["next"] == f"{path}?page=3"

    @pytest.mark.parametrize(
        ("path", "feed"),
        [
            ("/", "/feed.atom"),
            ("/posts/{id}", "/feed.atom"),
            ("/users/{user_id}/posts", "/users/{user_id}/feed.atom"),
        ],
    )
    async def test_feed(self, client, post, path, feed):
        page = await open_page(client, path.format(**post))

        feed = feed.format(**post)
        assert page.links["application/atom+xml"] == feed
        assert f'<a href="{feed}">' in page.html


class TestLinkPreview:
    async def test_home_page(self, client):
        page = await open_page(client, "/")

        assert page.meta["og:type"] == "website"
        assert page.meta["og:title"] == page.meta["og:site_name"] == "FastAPI Blog"
        assert page.meta["og:description"] == page.meta["description"]
        assert page.meta["twitter:card"] == "summary"

    async def test_post(self, client, post):
        page = await open_page(client, f"/posts/{post['id']}")

        assert page.title == "A title" + SUFFIX
        assert page.meta["og:type"] == "article"
        assert page.meta["og:title"] == "A title"
        assert page.meta["og:description"] == page.meta["description"] == "One two"
        author = f"{SITE}/users/{post['user_id']}/posts"
        assert page.meta["article:author"] == author

    async def test_long_post(self, client, ada):
        post = await create_post(client, ada, content="word " * 300)

        page = await open_page(client, f"/posts/{post['id']}")

        assert 100 < len(page.meta["description"]) <= 165

    async def test_site_icon(self, client):
        page = await open_page(client, "/")

        image = page.meta["og:image"]
        response = await client.get(image.removeprefix(SITE))
        assert image.startswith(f"{SITE}/static/")
        assert response.headers["Content-Type"] == "image/png"

    @pytest.mark.parametrize("path", ["/posts/{id}", "/users/{user_id}/posts"])
    @pytest.mark.parametrize(
        ("bucket_name", "host"), [("test-bucket", ""), (None, SITE)], ids=str
    )
    async def test_picture(
        self, client, ada, post, monkeypatch, path, bucket_name, host
    ):
        monkeypatch.setattr(settings, "s3_bucket_name", bucket_name)
        user = (await upload_picture(client, ada)).json()

        page = await open_page(client, path.format(**post))

        assert page.meta["og:image"] == host + user["image_path"]


class TestStructuredData:
    async def test_post(self, client, post):
        page = await open_page(client, f"/posts/{post['id']}")

        assert page.data == {
            "@context": "https://schema.org",
            "@type": "BlogPosting",
            "headline": "A title",
            "description": "One two",
            "datePublished": "2025-11-03T23:30:15+00:00",
            "dateModified": "2025-11-03T23:30:15+00:00",
            "mainEntityOfPage": f"{SITE}/posts/{post['id']}",
            "author": {
                "@type": "Person",
                "name": "ada",
                "url": f"{SITE}/users/{post['user_id']}/posts",
                "image": f"{SITE}/static/profile_pics/default.jpg",
            },
            "publisher": {
                "@type": "Organization",
                "name": "FastAPI Blog",
                "url": f"{SITE}/",
            },
        }

    @pytest.mark.parametrize("path", ["/", "/users/{user_id}/posts", "/login"])
    async def test_other_pages(self, client, post, path):
        assert (await open_page(client, path.format(**post))).data is None


class TestEscaping:
    @pytest.fixture
    async def evil(self, client: AsyncClient, ada: Headers, user_path: str) -> Json:
        """Return a post whose title, content and author's name contain markup."""
        await client.patch(user_path, json={"username": EVIL[:50]}, headers=ada)
        return await create_post(client, ada, title=EVIL, content=EVIL)

    async def test_post(self, client, evil):
        page = await open_page(client, f"/posts/{evil['id']}")

        assert page.title == EVIL + SUFFIX
        assert page.meta["description"] == page.meta["og:title"] == EVIL
        assert page.data["headline"] == page.data["description"] == EVIL
        assert page.data["author"]["name"] == EVIL[:50]

    async def test_author(self, client, evil):
        page = await open_page(client, f"/users/{evil['user_id']}/posts")

        assert page.title == page.meta["og:title"] == EVIL[:50] + SUFFIX
        assert page.meta["description"] == f"Posts by {EVIL[:50]} on FastAPI Blog."

    async def test_bio(self, client, ada, post):
        user_in = {"bio": EVIL}
        await client.patch(f"/api/users/{post['user_id']}", json=user_in, headers=ada)

        page = await open_page(client, f"/users/{post['user_id']}/posts")

        assert page.meta["description"].endswith(f" on FastAPI Blog. {EVIL}")
        assert page.inline_script == ""

    @pytest.mark.parametrize("path", WITH_POSTS)
    async def test_markup(self, client, evil, path):
        page = await open_page(client, path.format(**evil))

        assert page.inline_script == ""
        assert "<script>alert" not in page.html
        assert '"onload="' not in page.html


class TestDates:
    @pytest.mark.parametrize("path", WITH_POSTS)
    async def test_never_edited(self, client, post, path):
        page = await open_page(client, path.format(**post))

        time = '<time data-byline-target="posted" datetime="2025-11-03T23:30:15+00:00">'
        assert f"{time}November 03, 2025</time>" in page.html
        assert 'data-byline-target="edited">' not in page.html
        assert "article:modified_time" not in page.meta

    @pytest.mark.parametrize("path", WITH_POSTS)
    async def test_edited(self, client, db, post, path):
        await set_dates(db, date_updated=EDITED)

        page = await open_page(client, path.format(**post))

        (mark,) = re.findall(r'data-byline-target="edited">(.*?)</span>', page.html)
        time = 'datetime="2026-02-01T23:59:59.00:00">February 01, 2026</time>'
        assert re.fullmatch(f"edited <time [^>]*{time}", mark)
        assert "November 03, 2025" in page.html

    async def test_metadata(self, client, db, post):
        await set_dates(db, date_updated=EDITED)

        page = await open_page(client, f"/posts/{post['id']}")

        posted, edited = "2025-11-03T23:30:15+00:00", "2026-02-01T23:59:59+00:00"
        assert page.meta["article:published_time"] == posted
        assert page.meta["article:modified_time"] == edited
        assert page.data["datePublished"] == posted
        assert page.data["dateModified"] == edited
