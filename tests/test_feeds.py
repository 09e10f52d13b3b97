"""Atom feeds (RFC 4287), sitemaps and robots.txt."""

from datetime import UTC, datetime, timedelta, timezone
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from httpx import AsyncClient, Response
from sqlalchemy.ext.asyncio import AsyncSession

from config import settings
from database import MAX_ID
from models import Post, User
from routers.feeds import FEED_LENGTH, SITEMAP_LENGTH, paragraphs
from tests.conftest import capture_queries, create_post, get_user_id

SITE = "https://blog.example.com/under/a/path"
ATOM = "{http://www.w3.org/2005/Atom}"
SITEMAP = "{http://www.sitemaps.org/schemas/sitemap/0.9}"
FORGED = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
EVIL = """]]></content><script>alert('1')</script> & &amp; "x" {{ 7*7 }}"""
SOME_DAY = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a site URL that differs from the host of the requests."""
    monkeypatch.setattr(settings, "frontend_url", SITE)


def xml(response: Response) -> Element:
    """Parse a response and return its root element."""
    assert response.status_code == 200, response.text
    return ElementTree.fromstring(response.content)


def text(parent: Element, name: str) -> str:
    """Return the text of a required child element, which occurs once."""
    (child,) = parent.findall(ATOM + name)
    return child.text or ""


def links(parent: Element) -> dict[str, str]:
    return {
        link.attrib["rel"]: link.attrib["href"]
        for link in parent.findall(f"{ATOM}link")
    }


async def entries(client: AsyncClient, path: str = "/feed.atom") -> list[Element]:
    return xml(await client.get(path)).findall(f"{ATOM}entry")


async def locations(client: AsyncClient, path: str) -> list[str]:
    """Return the paths in a sitemap or a sitemap index."""
    root = xml(await client.get(path, headers=FORGED))
    found = [element.text or "" for element in root.iter(f"{SITEMAP}loc")]
    assert all(url.startswith(SITE) for url in found)
    return [url.removeprefix(SITE) for url in found]


async def add_user(db: AsyncSession, user_id: int) -> User:
    user = User(
        id=user_id,
        username=f"user {user_id}",
        email=f"{user_id}@example.com",
        password_hash="x",
    )
    db.add(user)
    await db.commit()
    return user


async def add_posts(db: AsyncSession, user: User, *post_ids: int) -> None:
    db.add_all(
        Post(id=post_id, title="T", content="C", user_id=user.id)
        for post_id in post_ids
    )
    await db.commit()


# Feeds


@pytest.mark.parametrize("path", ["/feed.atom", "/users/{user}/feed.atom"])
async def test_feed_has_required_elements(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    post = await create_post(client, ada)
    path = path.format(user=post["user_id"])

    response = await client.get(path)
    feed = xml(response)

    assert response.headers["content-type"].startswith("application/atom+xml")
    assert feed.tag == f"{ATOM}feed"
    assert text(feed, "title").endswith("FastAPI Blog")
    assert text(feed, "updated") == text(feed.findall(f"{ATOM}entry")[0], "updated")
    assert links(feed)["self"] == SITE + path
    assert links(feed)["alternate"] == text(feed, "id")


async def test_entry_has_required_elements(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    post = await create_post(client, ada, title="A title", content="One\n\nTwo")

    (entry,) = await entries(client)

    url = f"{SITE}/posts/{post['id']}"
    posted = datetime.fromisoformat(post["date_posted"]).replace(microsecond=0)
    (author,) = entry.findall(f"{ATOM}author")
    (content,) = entry.findall(f"{ATOM}content")
    assert text(entry, "id") == links(entry)["alternate"] == url
    assert text(entry, "title") == "A title"
    assert text(entry, "published") == text(entry, "updated") == posted.isoformat()
    assert text(author, "name") == "ada"
    assert text(author, "uri") == f"{SITE}/users/{post['user_id']}/posts"
    assert content.attrib == {"type": "html"}
    assert content.text == "<p>One</p><p>Two</p>"


async def test_feed_dates_are_in_utc(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    post = await create_post(client, ada)
    stored = await db.get_one(Post, post["id"])
    stored.date_posted = SOME_DAY.astimezone(timezone(timedelta(hours=5)))
    await db.commit()

    (entry,) = await entries(client)

    assert text(entry, "published") == "2026-02-03T04:05:06+00:00"


async def test_author_feed_has_only_their_posts(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    await create_post(client, ada, title="Of ada")
    await create_post(client, bob, title="Of bob")

    feed = xml(await client.get(f"/users/{await get_user_id(client, ada)}/feed.atom"))

    titles = [text(entry, "title") for entry in feed.findall(f"{ATOM}entry")]
    assert titles == ["Of ada"]
    assert text(feed, "title").startswith("ada ")


async def test_feed_starts_with_newest_post(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    user_id = await get_user_id(client, ada)
    db.add_all(
        Post(
            title=f"{number}",
            content="C",
            user_id=user_id,
            # Two posts per moment: the later one is listed first.
            date_posted=SOME_DAY + timedelta(days=number // 2),
        )
        for number in range(FEED_LENGTH + 3)
    )
    await db.commit()

    found = await entries(client)

    last = FEED_LENGTH + 2
    expected = [str(number) for number in range(last, last - FEED_LENGTH, -1)]
    assert [text(entry, "title") for entry in found] == expected


@pytest.mark.parametrize("path", ["/feed.atom", "/users/{user}/feed.atom"])
async def test_feed_without_posts_is_valid(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    path = path.format(user=await get_user_id(client, ada))

    feed = xml(await client.get(path))

    assert feed.findall(f"{ATOM}entry") == []
    assert text(feed, "updated") == "1970-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("user_id", "status"),
    [("0", 404), ("-1", 404), (str(MAX_ID), 404), ("2147483648", 404), ("x", 422)],
)
async def test_feed_of_unknown_user_is_not_found(
    client: AsyncClient, user_id: str, status: int
) -> None:
    response = await client.get(f"/users/{user_id}/feed.atom")

    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/html")


async def test_untitled_post_is_titled_by_its_first_words(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    await create_post(client, ada, title="", content="Once upon a time " * 20)

    (entry,) = await entries(client)

    assert text(entry, "title").startswith("Once upon a time")


async def test_markup_in_post_is_escaped(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    name = {"username": EVIL[:50]}
    path = f"/api/users/{await get_user_id(client, ada)}"
    await client.patch(path, json=name, headers=ada)
    await create_post(client, ada, title=EVIL, content=EVIL)

    (entry,) = await entries(client)

    (author,) = entry.findall(f"{ATOM}author")
    content = text(entry, "content")
    assert text(entry, "title") == EVIL
    assert text(author, "name") == EVIL[:50]
    assert "<script" not in content
    assert "&lt;script&gt;alert" in content


@pytest.mark.parametrize(
    "character",
    ["\x01", "\x08", "\x0b", "\x0c", "\x0e", "\x1b", "\x1f", "\ufffe", "\uffff"],
)
async def test_characters_invalid_in_xml_are_replaced(
    client: AsyncClient, ada: dict[str, str], character: str
) -> None:
    torn = f"to{character}rn"
    await create_post(client, ada, title=torn, content=torn)

    (entry,) = await entries(client)

    assert text(entry, "title") == "to\ufffdrn"
    assert text(entry, "content") == "<p>to\ufffdrn</p>"


@pytest.mark.parametrize(
    "kept", ["\t", "\x7f", "\x85", "\u2028", "\ud7ff", "\ue000", "\ufffd", "😀", "א"]
)
async def test_characters_valid_in_xml_are_kept(
    client: AsyncClient, ada: dict[str, str], kept: str
) -> None:
    await create_post(client, ada, content=f"a{kept}b")

    (entry,) = await entries(client)

    assert text(entry, "content") == f"<p>a{kept}b</p>"


@pytest.mark.parametrize(
    ("content", "html"),
    [
        ("a", "<p>a</p>"),
        ("a\nb", "<p>a<br>b</p>"),
        ("a\r\nb\r\n\r\nc", "<p>a<br>b</p><p>c</p>"),
        ("a\n \t\n\n\nb\n", "<p>a</p><p>b</p>"),
        ("<b> & \"c\" 'd'", "<p>&lt;b&gt; &amp; &#34;c&#34; &#39;d&#39;</p>"),
    ],
)
def test_paragraphs(content: str, html: str) -> None:
    assert paragraphs(content) == html


@pytest.mark.parametrize("path", ["/feed.atom", "/users/{user}/feed.atom"])
async def test_feed_ignores_host_of_request(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    post = await create_post(client, ada)

    response = await client.get(path.format(user=post["user_id"]), headers=FORGED)

    assert "evil.example" not in response.text
    assert "127.0.0.1" not in response.text


@pytest.mark.parametrize("path", ["/feed.atom", "/robots.txt", "/sitemap.xml"])
async def test_head_matches_get(client: AsyncClient, path: str) -> None:
    got = await client.get(path)

    response = await client.head(path)

    assert (response.status_code, response.headers) == (got.status_code, got.headers)


# Statements


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/feed.atom", 1),
        ("/users/{user}/feed.atom", 2),
        ("/sitemap.xml", 2),
        ("/sitemaps/pages.xml", 0),
        ("/sitemaps/posts-{part}.xml", 1),
        ("/sitemaps/users-{part}.xml", 1),
        ("/robots.txt", 0),
    ],
)
async def test_number_of_statements(
    client: AsyncClient, db: AsyncSession, path: str, number: int
) -> None:
    start = 7 * SITEMAP_LENGTH
    user = await add_user(db, start)
    await add_posts(db, user, *range(start, start + 5))

    with capture_queries() as statements:
        response = await client.get(path.format(user=user.id, part=7))

    assert response.status_code == 200
    assert len(statements) == number, statements


# Sitemaps


async def test_sitemap_of_empty_site(client: AsyncClient) -> None:
    response = await client.get("/sitemap.xml")

    assert response.headers["content-type"].startswith("application/xml")
    assert xml(response).tag == f"{SITEMAP}sitemapindex"
    assert await locations(client, "/sitemap.xml") == ["/sitemaps/pages.xml"]
    assert await locations(client, "/sitemaps/pages.xml") == ["/"]


async def test_sitemap_index_lists_nonempty_sitemaps(
    client: AsyncClient, db: AsyncSession
) -> None:
    first = 30 * SITEMAP_LENGTH
    user = await add_user(db, first - 1)
    await add_posts(db, user, first - 1, first, first + 3 * SITEMAP_LENGTH)

    assert await locations(client, "/sitemap.xml") == [
        "/sitemaps/pages.xml",
        "/sitemaps/posts-29.xml",
        "/sitemaps/posts-30.xml",
        "/sitemaps/posts-33.xml",
        "/sitemaps/users-29.xml",
    ]


async def test_sitemap_lists_its_id_range(
    client: AsyncClient, db: AsyncSession
) -> None:
    first, last = 30 * SITEMAP_LENGTH, 31 * SITEMAP_LENGTH - 1
    user = await add_user(db, first)
    await add_posts(db, user, first - 1, last, first, first + 5, last + 1)

    root = xml(await client.get("/sitemaps/posts-30.xml"))

    assert root.tag == f"{SITEMAP}urlset"
    assert await locations(client, "/sitemaps/posts-30.xml") == [
        f"/posts/{post_id}" for post_id in (first, first + 5, last)
    ]
    assert await locations(client, "/sitemaps/users-30.xml") == [
        f"/users/{first}/posts"
    ]


async def test_sitemap_reaches_last_id(client: AsyncClient, db: AsyncSession) -> None:
    await add_posts(db, await add_user(db, MAX_ID), MAX_ID)

    index = await locations(client, "/sitemap.xml")
    listed = [url for path in index for url in await locations(client, path)]

    assert f"/posts/{MAX_ID}" in listed
    assert f"/users/{MAX_ID}/posts" in listed


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/sitemaps/posts-0.xml", 404),
        (f"/sitemaps/posts-{MAX_ID // SITEMAP_LENGTH}.xml", 404),
        (f"/sitemaps/posts-{MAX_ID // SITEMAP_LENGTH + 1}.xml", 422),
        (f"/sitemaps/posts-{'9' * 30}.xml", 422),
        ("/sitemaps/posts--1.xml", 422),
        ("/sitemaps/posts-x.xml", 422),
        ("/sitemaps/tokens-0.xml", 422),
        ("/sitemaps/nothing.xml", 404),
    ],
)
async def test_empty_or_invalid_sitemap_is_an_error(
    client: AsyncClient, path: str, status: int
) -> None:
    assert (await client.get(path)).status_code == status


def test_sitemap_is_within_protocol_limits() -> None:
    url = f"<url><loc>{SITE}/users/{MAX_ID}/posts</loc></url>"

    assert SITEMAP_LENGTH <= 50_000
    assert SITEMAP_LENGTH * 2 * len(url) < 50 * 1024 * 1024


# Robots


async def test_robots_txt_names_sitemap(client: AsyncClient) -> None:
    response = await client.get("/robots.txt", headers=FORGED)

    assert response.headers["content-type"].startswith("text/plain")
    assert response.text.splitlines() == [
        "User-agent: *",
        "Disallow: /api/",
        "",
        f"Sitemap: {SITE}/sitemap.xml",
    ]
