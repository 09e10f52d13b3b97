"""Page metadata for search engines, feed readers and other sites."""

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient

from config import settings
from models import EXCERPT_LENGTH
from tests.conftest import (
    auth_header,
    create_post,
    create_test_user,
    get_user_id,
    login_user,
)

SUFFIX = " \N{EN DASH} FastAPI Blog"
SITE = "https://blog.example.com"
EVIL = """</title></script><script>alert('1')</script>{{ 7*7 }} "onload="x & é<!--"""
PHOTO = Path(__file__).with_name("test_image.jpg").read_bytes()
FORGED = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}


class Head(HTMLParser):
    """The head of a page, parsed like a browser does."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.title = ""
        self.meta: dict[str, str] = {}
        self.links: dict[str, str] = {}
        self.data: list[Any] = []
        self.inline_scripts: list[str] = []
        self._open = ""
        head, _, _ = page.partition("</head>")
        self.feed(head)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self._open = tag
        if tag == "meta" and "content" in found:
            name = found.get("property") or found.get("name", "")
            self.meta.setdefault(name, found["content"])
        elif tag == "link":
            kind = found.get("type") or found["rel"]
            self.links.setdefault(kind, found["href"])
        elif tag == "script" and found.get("type") == "application/ld+json":
            self._open = "data"

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "title":
            self.title += data
        elif self._open == "data":
            self.data.append(json.loads(data))
        elif self._open == "script":
            self.inline_scripts.append(data)


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a site URL that differs from the host of the requests."""
    monkeypatch.setattr(settings, "frontend_url", SITE)


async def head_of(client: AsyncClient, path: str, **headers: str) -> Head:
    return Head((await client.get(path, headers=headers)).text)


async def hostile_author(client: AsyncClient) -> dict[str, str]:
    """Return the headers of a user whose name is hostile, too."""
    await create_test_user(client, EVIL[:50], "evil@example.com")
    return auth_header(await login_user(client, "evil@example.com"))


# URLs


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/", "/"),
        ("/?page=1", "/"),
        ("/?utm_source=elsewhere", "/"),
        ("/site/posts", "/"),
        ("/posts/{post}", "/posts/{post}"),
        ("/posts/{post}?page=2", "/posts/{post}"),
        ("/users/{user}/posts", "/users/{user}/posts"),
        ("/login?next=/account", "/login"),
        ("/register", "/register"),
        ("/account", "/account"),
        ("/forgot-password", "/forgot-password"),
    ],
)
async def test_page_has_one_canonical_url(
    client: AsyncClient, ada: dict[str, str], path: str, canonical: str
) -> None:
    post = await create_post(client, ada)
    ids = {"post": post["id"], "user": post["user_id"]}

    head = await head_of(client, path.format(**ids), **FORGED)

    assert head.links["canonical"] == SITE + canonical.format(**ids)
    assert head.meta["og:url"] == SITE + canonical.format(**ids)


@pytest.mark.parametrize("path", ["/", "/users/{user}/posts"])
async def test_list_page_links_to_adjacent_pages(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    number = 2 * settings.posts_per_page + 1
    [await create_post(client, ada) for _ in range(number)]
    path = path.format(user=await get_user_id(client, ada))

    first = await head_of(client, path)
    second = await head_of(client, f"{path}?page=2")
    third = await head_of(client, f"{path}?page=3")

    assert (first.links.get("prev"), first.links["next"]) == (None, f"{path}?page=2")
    assert (second.links["prev"], second.links["next"]) == (path, f"{path}?page=3")
    assert (third.links["prev"], third.links.get("next")) == (f"{path}?page=2", None)


@pytest.mark.parametrize("path", ["/nothing", "/posts/0", "/reset-password?token=x"])
async def test_private_page_is_not_indexed(client: AsyncClient, path: str) -> None:
    head = await head_of(client, path)

    assert head.meta["robots"] == "noindex"
    assert "canonical" not in head.links


@pytest.mark.parametrize("path", ["/", "/login", "/register", "/account", "/docs"])
async def test_public_page_is_indexed(client: AsyncClient, path: str) -> None:
    head = await head_of(client, path)

    assert "robots" not in head.meta
    assert head.title
    assert head.meta["description"]


@pytest.mark.parametrize("path", ["/", "/posts/{post}", "/login"])
async def test_page_links_to_site_feed(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    path = path.format(post=(await create_post(client, ada))["id"])

    response = await client.get(path)

    assert Head(response.text).links["application/atom+xml"] == "/feed.atom"
    assert '<a href="/feed.atom">' in response.text


async def test_author_page_links_to_author_feed(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    user_id = await get_user_id(client, ada)

    response = await client.get(f"/users/{user_id}/posts")

    feed = f"/users/{user_id}/feed.atom"
    assert Head(response.text).links["application/atom+xml"] == feed
    assert f'<a href="{feed}">' in response.text


# Link previews


async def test_home_page_preview(client: AsyncClient) -> None:
    head = await head_of(client, "/")

    assert head.meta["og:type"] == "website"
    assert head.meta["og:title"] == "FastAPI Blog"
    assert head.meta["og:site_name"] == "FastAPI Blog"
    assert head.meta["og:description"] == head.meta["description"]
    assert head.meta["twitter:card"] == "summary"


async def test_site_image_exists(client: AsyncClient) -> None:
    picture = (await head_of(client, "/")).meta["og:image"]

    response = await client.get(picture.removeprefix(SITE))

    assert picture.startswith(f"{SITE}/static/")
    assert response.headers["content-type"] == "image/png"


async def test_post_preview(client: AsyncClient, ada: dict[str, str]) -> None:
    post = await create_post(client, ada, title="A title", content="One\n\n two")

    posted = datetime.fromisoformat(post["date_posted"]).replace(microsecond=0)

    head = await head_of(client, f"/posts/{post['id']}")

    assert posted.tzinfo == UTC
    assert head.title == "A title" + SUFFIX
    assert head.meta["og:type"] == "article"
    assert head.meta["og:title"] == "A title"
    assert head.meta["og:description"] == head.meta["description"] == "One two"
    assert head.meta["article:published_time"] == posted.isoformat()
    assert head.meta["article:author"] == f"{SITE}/users/{post['user_id']}/posts"


async def test_post_description_is_short(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    post = await create_post(client, ada, content="word " * EXCERPT_LENGTH)

    head = await head_of(client, f"/posts/{post['id']}")

    assert 100 < len(head.meta["description"]) <= 165


@pytest.mark.parametrize("path", ["/posts/{post}", "/users/{user}/posts"])
async def test_post_preview_has_author_picture(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    post = await create_post(client, ada)
    user = await client.patch(
        f"/api/users/{post['user_id']}/picture", files={"file": PHOTO}, headers=ada
    )

    head = await head_of(client, path.format(post=post["id"], user=post["user_id"]))

    assert head.meta["og:image"] == user.json()["image_path"]
    assert head.meta["og:image"].startswith("https://test-bucket.s3.")


async def test_stored_picture_url_is_on_the_site(
    client: AsyncClient,
    ada: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "s3_bucket_name", None)
    user_id = await get_user_id(client, ada)
    user = await client.patch(
        f"/api/users/{user_id}/picture", files={"file": PHOTO}, headers=ada
    )

    head = await head_of(client, f"/users/{user_id}/posts")

    assert head.meta["og:image"] == SITE + user.json()["image_path"]


# Structured data


async def test_post_structured_data(client: AsyncClient, ada: dict[str, str]) -> None:
    post = await create_post(client, ada, title="A title", content="Some content")

    head = await head_of(client, f"/posts/{post['id']}", **FORGED)

    user = f"{SITE}/users/{post['user_id']}/posts"
    assert head.data == [
        {
            "@context": "https://schema.org",
            "@type": "BlogPosting",
            "headline": "A title",
            "description": "Some content",
            "datePublished": head.meta["article:published_time"],
            "dateModified": head.meta["article:published_time"],
            "mainEntityOfPage": f"{SITE}/posts/{post['id']}",
            "author": {
                "@type": "Person",
                "name": "ada",
                "url": user,
                "image": f"{SITE}/static/profile_pics/default.jpg",
            },
            "publisher": {
                "@type": "Organization",
                "name": "FastAPI Blog",
                "url": f"{SITE}/",
            },
        }
    ]


@pytest.mark.parametrize("path", ["/", "/users/{user}/posts", "/login"])
async def test_only_posts_have_structured_data(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    path = path.format(user=await get_user_id(client, ada))

    assert (await head_of(client, path)).data == []


# Hostile input


async def test_hostile_post_is_escaped(client: AsyncClient) -> None:
    author = await hostile_author(client)
    post = await create_post(client, author, title=EVIL, content=EVIL)

    head = await head_of(client, f"/posts/{post['id']}")

    assert head.title == EVIL + SUFFIX
    assert head.meta["description"] == EVIL
    assert head.meta["og:title"] == EVIL
    assert head.data[0]["headline"] == EVIL
    assert head.data[0]["author"]["name"] == EVIL[:50]
    assert head.inline_scripts == []


async def test_hostile_username_is_escaped(client: AsyncClient) -> None:
    user_id = await get_user_id(client, await hostile_author(client))

    head = await head_of(client, f"/users/{user_id}/posts")

    assert head.title == EVIL[:50] + SUFFIX
    assert EVIL[:50] in head.meta["og:title"]
    assert head.meta["description"] == f"Posts by {EVIL[:50]} on FastAPI Blog."
    assert head.inline_scripts == []


@pytest.mark.parametrize(
    "path",
    ["/", "/?page=2", "/posts/{post}", "/users/{user}/posts", "/login", "/nothing"],
)
async def test_urls_ignore_host_of_request(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    post = await create_post(client, ada)
    path = path.format(post=post["id"], user=post["user_id"])

    page = (await client.get(path, headers=FORGED)).text

    assert "evil.example" not in page
    assert "127.0.0.1" not in page
