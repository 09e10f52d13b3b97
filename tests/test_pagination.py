"""Pagination: lists neither repeat nor omit a post."""

from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from httpx import AsyncClient, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models import EPOCH, Post
from pagination import CURSOR_FORMAT
from queries import NEWEST_FIRST
from tests.conftest import add_posts, create_post

# Returns the URL of the next page, or "" at the end.
NextURL = Callable[[Response], str]

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
HOUR = timedelta(hours=1)


def by_cursor(response: Response) -> str:
    """Return the request's URL with the next cursor."""
    cursor = response.json()["next_cursor"]
    return str(response.request.url.copy_set_param("cursor", cursor)) if cursor else ""


def by_link(response: Response) -> str:
    """Return the next URL in the `Link` header (RFC 8288)."""
    return response.links.get("next", {}).get("url", "")


def ids(response: Response) -> list[int]:
    return [post["id"] for post in response.json()["posts"]]


async def all_ids(client: AsyncClient, url: str, next_url: NextURL) -> list[int]:
    """Return the ids of the posts on all pages."""
    listed = []
    while url:
        response = await client.get(url)
        listed += ids(response)
        url = next_url(response)
    return listed


@pytest.fixture(params=["/api/posts", "/api/users/{}/posts"])
def path(request: pytest.FixtureRequest, user_id: int) -> str:
    return str(request.param.format(user_id))


@pytest.fixture(params=[HOUR, 0 * HOUR], ids=["different dates", "equal dates"])
async def posts(
    request: pytest.FixtureRequest, db: AsyncSession, user_id: int
) -> list[int]:
    """Return the ids of seven posts by ada, newest first."""
    await add_posts(db, user_id, [NOON + n * request.param for n in range(7)])
    return list(await db.scalars(select(Post.id).order_by(*NEWEST_FIRST)))


class TestSkipAndLimit:
    @pytest.mark.parametrize(
        ("skip", "limit", "length"),
        [(0, 6, 6), (0, 7, 7), (5, 1, 1), (6, 1, 1), (7, 1, 0), (2**31 - 1, 100, 0)],
    )
    async def test_page(self, client, posts, skip, limit, length):
        response = await client.get("/api/posts", params={"skip": skip, "limit": limit})

        page = response.json()
        assert ids(response) == posts[skip : skip + length]
        assert (page["skip"], page["limit"], page["total"]) == (skip, limit, 7)
        assert page["has_more"] is (skip + limit < 7)

    @pytest.mark.parametrize(
        "query", ["skip=-1", "skip=x", "skip=2147483648", "limit=0", "limit=101"]
    )
    async def test_out_of_range(self, client, path, query):
        response = await client.get(f"{path}?{query}")

        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]


class TestNextPage:
    @pytest.mark.parametrize(
        ("next_url", "query"),
        [(by_cursor, "limit=1"), (by_link, "limit=3"), (by_link, "limit=3&skip=0")],
    )
    async def test_each_post_once(self, client, path, posts, next_url, query):
        assert await all_ids(client, f"{path}?{query}", next_url) == posts

    @pytest.mark.parametrize("query", ["limit=4", "limit=4&skip=0"])
    async def test_last_page(self, client, posts, query):
        first = await client.get(f"/api/posts?{query}")

        last = await client.get(by_link(first))

        page = last.json()
        assert (page["skip"], page["limit"], page["total"]) == (4, 4, 7)
        assert (page["has_more"], page["next_cursor"]) == (False, None)
        assert "Link" not in last.headers

    @pytest.mark.parametrize(
        ("query", "link"),
        [
            ("limit=2", "cursor={cursor}&limit=2"),
            ("limit=2&skip=1", "skip=3&limit=2"),
            ("limit=2&skip=0", "skip=2&limit=2"),
        ],
    )
    async def test_link(self, client, path, posts, query, link):
        response = await client.get(f"{path}?{query}")

        cursor = response.json()["next_cursor"].replace("=", "%3D")
        expected = f'<{path}?{link.format(cursor=cursor)}>; rel="next"'
        assert response.headers["Link"] == expected

    async def test_other_authors(self, client, ada, bob, user_id):
        posts = [await create_post(client, author) for author in [ada, bob] * 4]

        listed = await all_ids(client, f"/api/users/{user_id}/posts?limit=3", by_cursor)

        assert listed == [post["id"] for post in posts[-2::-2]]

    @pytest.mark.parametrize("user", ["+{}", "%2B{}", "000{}"])
    async def test_unusual_user_id(self, client, user_id, posts, user):
        path = f"/api/users/{user.format(user_id)}/posts"

        assert await all_ids(client, f"{path}?limit=5", by_link) == posts


class TestConcurrentChanges:
    @pytest.mark.parametrize("next_url", [by_cursor, by_link])
    async def test_no_gap_or_repetition(self, client, ada, path, posts, next_url):
        first = await client.get(f"{path}?limit=2")
        await create_post(client, ada)
        # The cursor refers to the second post, which is among the deleted ones.
        [await client.delete(f"/api/posts/{i}", headers=ada) for i in posts[1:4]]

        second = await client.get(next_url(first))

        assert ids(second) == posts[4:6]

    async def test_remaining_posts_deleted(self, client, ada, posts):
        first = await client.get("/api/posts?limit=5")
        [await client.delete(f"/api/posts/{i}", headers=ada) for i in posts[4:]]

        last = await client.get(by_cursor(first))

        page = last.json()
        assert (page["posts"], page["total"], page["skip"]) == ([], 4, 5)
        assert (page["has_more"], page["next_cursor"]) == (False, None)

    async def test_new_post_with_date_of_cursor(self, client, db, user_id):
        await add_posts(db, user_id, [NOON] * 4)
        first = await client.get("/api/posts?limit=2")
        await add_posts(db, user_id, [NOON, NOON + MICROSECOND])

        second = await client.get(by_cursor(first))

        assert ids(second) == [ids(first)[-1] - 1, ids(first)[-1] - 2]
        assert (second.json()["skip"], second.json()["total"]) == (2, 6)


def pack_cursor(microseconds: int, post_id: int, position: int) -> str:
    values = CURSOR_FORMAT.pack(microseconds, post_id, position)
    return urlsafe_b64encode(values).decode()


FIRST = (datetime.min.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
LAST = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
VALID = pack_cursor(0, 1, 1)


class TestCursor:
    async def test_another_list(self, client, ada, bob, user_id):
        posts = [await create_post(client, author) for author in [ada, bob] * 2]
        cursor = (await client.get("/api/posts?limit=1")).json()["next_cursor"]

        response = await client.get(f"/api/users/{user_id}/posts?cursor={cursor}")

        assert ids(response) == [posts[2]["id"], posts[0]["id"]]

    async def test_default_skip(self, client, posts):
        # Some generated clients send all default values.
        first = await client.get("/api/posts?limit=2")
        second = f"{by_cursor(first)}&skip=0"

        assert await all_ids(client, second, by_link) == posts[2:]

    async def test_before_first_post(self, client, posts):
        url = f"/api/posts?limit=3&cursor={pack_cursor(LAST, 1, 2**31 - 1)}"

        assert await all_ids(client, url, by_link) == posts

    async def test_after_last_post(self, client, posts):
        cursor = pack_cursor(FIRST, 2**31 - 1, 0)

        response = await client.get(f"/api/posts?cursor={cursor}")

        assert (response.status_code, ids(response)) == (200, [])

    @pytest.mark.parametrize(
        "date",
        [EPOCH - MICROSECOND, datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)],
    )
    async def test_any_date(self, client, db, user_id, date):
        await add_posts(db, user_id, [date] * 3)

        listed = await all_ids(client, "/api/posts?limit=1", by_cursor)

        assert [post_id - listed[0] for post_id in listed] == [0, -1, -2]

    @pytest.mark.parametrize(
        "cursor",
        [
            *("", "A" * 20, "A" * 100, VALID + "=", "!" + VALID, "é" + VALID[1:]),
            *(pack_cursor(FIRST - 1, 1, 1), pack_cursor(LAST + 1, 1, 1)),
            *(pack_cursor(2**63 - 1, 1, 1), pack_cursor(0, 0, 1)),
            *(pack_cursor(0, 1, -1), f"{VALID}&skip=1"),
        ],
    )
    async def test_invalid(self, client, cursor):
        response = await client.get(f"/api/posts?cursor={cursor}")

        (error,) = response.json()["detail"]
        assert response.status_code == 422
        assert error["loc"] == ["query", "cursor"]
        # The response does not repeat the input.
        assert error.keys() == {"type", "loc", "msg"}
