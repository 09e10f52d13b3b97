"""Reading a list page by page: nothing repeats, and nothing is left out."""

import re
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any
from urllib.parse import quote

import pytest
from httpx import AsyncClient, Response
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

import dependencies
from database import engine
from models import EPOCH, Post
from pagination import CURSOR_FORMAT, Cursor
from tests.conftest import capture_queries, create_post, create_test_user, get_user_id

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LISTS = ["/api/posts", "/api/users/{user}/posts"]

# Each returns the path and query of the next page, or None at the end.
Way = Callable[[Response], str | None]


def by_cursor(response: Response) -> str | None:
    """Follow the cursor, like a program that repeats its query with a new cursor."""
    cursor = response.json()["next_cursor"]
    return cursor and str(response.request.url.copy_set_param("cursor", cursor))


def by_link(response: Response) -> str | None:
    """Follow the Link header, like a program that only knows RFC 8288."""
    next_link = response.links.get("next")
    return next_link["url"] if next_link else None


async def walk_pages(
    client: AsyncClient, path: str, way: Way
) -> AsyncIterator[Response]:
    """Yield all pages of a list in order."""
    here: str | None = path
    while here:
        response = await client.get(here)
        assert response.status_code == 200, response.text
        yield response
        here = way(response)


def ids(response: Response) -> list[int]:
    return [post["id"] for post in response.json()["posts"]]


async def add_posts(db: AsyncSession, user_id: int, moments: list[datetime]) -> None:
    """Store posts with these publication times."""
    for moment in moments:
        db.add(Post(title="", content="-", user_id=user_id, date_posted=moment))
        # One at a time, so that a later post has a higher id.
        await db.flush()
    await db.commit()


@pytest.fixture
async def user_id(client: AsyncClient, ada: dict[str, str]) -> int:
    return await get_user_id(client, ada)


@pytest.fixture(params=["an hour apart", "at one instant"])
async def seven_posts(
    request: pytest.FixtureRequest, db: AsyncSession, user_id: int
) -> list[int]:
    """Return the ids of seven posts by ada, newest first."""
    step = timedelta(hours=request.param == "an hour apart")
    await add_posts(db, user_id, [NOON + n * step for n in range(7)])
    statement = Post.newest_first().with_only_columns(Post.id)
    return list((await db.scalars(statement)).all())


# Reading a list


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("way", "query"),
    [(by_cursor, ""), (by_link, ""), (by_link, "&skip=0"), (by_cursor, "&order=x")],
)
@pytest.mark.parametrize("path", LISTS)
async def test_each_post_is_listed_once_in_order(
    client: AsyncClient,
    user_id: int,
    seven_posts: list[int],
    path: str,
    way: Way,
    query: str,
    limit: int,
) -> None:
    first = f"{path.format(user=user_id)}?limit={limit}{query}"

    walked = [ids(page) async for page in walk_pages(client, first, way)]

    assert list(chain.from_iterable(walked)) == seven_posts
    assert [len(page) for page in walked[:-1]] == [limit] * (len(walked) - 1)


@pytest.mark.parametrize("way", [by_cursor, by_link])
@pytest.mark.parametrize("path", LISTS)
async def test_concurrent_changes_cause_no_gaps_or_repeats(
    client: AsyncClient,
    ada: dict[str, str],
    user_id: int,
    seven_posts: list[int],
    path: str,
    way: Way,
) -> None:
    seen: list[int] = []

    async for page in walk_pages(client, f"{path.format(user=user_id)}?limit=2", way):
        seen += ids(page)
        await create_post(client, ada)
        await create_post(client, ada)
        # The post that the cursor points to.
        await client.delete(f"/api/posts/{ids(page)[-1]}", headers=ada)

    assert seen == seven_posts


async def test_post_deleted_before_its_page_is_not_listed(
    client: AsyncClient, ada: dict[str, str], seven_posts: list[int]
) -> None:
    seen: list[int] = []

    async for page in walk_pages(client, "/api/posts?limit=2", by_cursor):
        seen += ids(page)
        if len(seen) == 2:
            for post_id in seven_posts[2:4]:
                await client.delete(f"/api/posts/{post_id}", headers=ada)

    assert seen == seven_posts[:2] + seven_posts[4:]


async def test_list_ends_if_remaining_posts_are_deleted(
    client: AsyncClient, ada: dict[str, str], seven_posts: list[int]
) -> None:
    first = await client.get("/api/posts?limit=5")
    for post_id in seven_posts[4:]:
        await client.delete(f"/api/posts/{post_id}", headers=ada)

    last = await client.get(by_cursor(first) or "")

    assert ids(last) == []
    assert {**last.json(), "posts": ...} == {
        "posts": ...,
        "total": 4,
        "skip": 5,
        "limit": 5,
        "has_more": False,
        "next_cursor": None,
    }
    assert "link" not in last.headers


async def test_new_post_at_cursor_time_repeats_nothing(
    client: AsyncClient, db: AsyncSession, user_id: int
) -> None:
    await add_posts(db, user_id, [NOON] * 4)
    first = await client.get("/api/posts?limit=2")
    await add_posts(db, user_id, [NOON, NOON + timedelta(microseconds=1)])

    second = await client.get(by_cursor(first) or "")

    assert ids(second) == [ids(first)[-1] - 1, ids(first)[-1] - 2]


async def test_user_list_omits_posts_of_others(
    client: AsyncClient,
    ada: dict[str, str],
    bob: dict[str, str],
    user_id: int,
) -> None:
    posts = [await create_post(client, author) for author in [ada, bob] * 4]
    path = f"/api/users/{user_id}/posts?limit=3"

    walked = [ids(page) async for page in walk_pages(client, path, by_cursor)]

    assert list(chain.from_iterable(walked)) == [
        post["id"] for post in reversed(posts[::2])
    ]


# Page fields


@pytest.mark.parametrize("query", ["limit=3", "limit=3&skip=0"])
@pytest.mark.parametrize("path", LISTS)
async def test_page_has_position_and_has_more(
    client: AsyncClient, user_id: int, seven_posts: list[int], path: str, query: str
) -> None:
    first = f"{path.format(user=user_id)}?{query}"

    responses = [page async for page in walk_pages(client, first, by_link)]

    pages = [response.json() for response in responses]
    assert [page["skip"] for page in pages] == [0, 3, 6]
    assert [page["total"] for page in pages] == [7, 7, 7]
    assert [page["limit"] for page in pages] == [3, 3, 3]
    assert [page["has_more"] for page in pages] == [True, True, False]
    assert [page["next_cursor"] is None for page in pages] == [False, False, True]
    assert ["link" in response.headers for response in responses] == [True, True, False]


async def test_total_is_current(
    client: AsyncClient, ada: dict[str, str], seven_posts: list[int]
) -> None:
    first = await client.get("/api/posts?limit=3")
    await create_post(client, ada)

    second = (await client.get(by_cursor(first) or "")).json()

    # Three preceded the cursor when it was created; now there is one more.
    assert (second["skip"], second["total"], second["has_more"]) == (3, 8, True)


@pytest.mark.parametrize(
    ("query", "names", "leaves_out"),
    [
        ("", "cursor", "skip"),
        ("limit=2", "cursor", "skip"),
        ("limit=2&skip=1", "skip=3", "cursor"),
        ("limit=2&skip=0", "skip=2", "cursor"),
    ],
)
async def test_next_link_keeps_kind_of_paging(
    client: AsyncClient,
    db: AsyncSession,
    user_id: int,
    query: str,
    names: str,
    leaves_out: str,
) -> None:
    await add_posts(db, user_id, [NOON] * 11)

    link = by_link(await client.get(f"/api/posts?{query}")) or ""

    assert link.startswith("/api/posts?")
    assert names in link
    assert leaves_out not in link
    assert ("limit=2" if query else "limit=10") in link


async def test_cursor_works_with_another_limit(
    client: AsyncClient, seven_posts: list[int]
) -> None:
    first = await client.get("/api/posts?limit=2")

    rest = await client.get(
        "/api/posts", params={"cursor": first.json()["next_cursor"], "limit": 100}
    )

    assert ids(rest) == seven_posts[2:]


@pytest.mark.parametrize("spelling", ["+{id}", "%2B{id}", "000{id}"])
async def test_next_link_accepts_noncanonical_user_id(
    client: AsyncClient, user_id: int, seven_posts: list[int], spelling: str
) -> None:
    path = f"/api/users/{spelling.format(id=user_id)}/posts?limit=5"

    walked = [ids(page) async for page in walk_pages(client, path, by_link)]

    assert list(chain.from_iterable(walked)) == seven_posts


@pytest.mark.parametrize(
    "spelling", ["%E2%80%83{id}", "{id}%E2%80%A8", "%20{id}", "{id}.0", "1_{id}"]
)
async def test_invalid_user_id_is_rejected(
    client: AsyncClient, user_id: int, spelling: str
) -> None:
    path = f"/api/users/{spelling.format(id=user_id)}/posts?limit=5"

    response = await client.get(path)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["path", "user_id"]


# Invalid cursors


def pack_cursor(microseconds: int, post_id: int, position: int) -> str:
    """Encode a cursor with these values."""
    values = CURSOR_FORMAT.pack(microseconds, post_id, position)
    return urlsafe_b64encode(values).decode()


FIRST = (datetime.min.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
LAST = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
BAD = {
    "empty": "",
    "one character": "x",
    "a number": "1",
    "other words": "next",
    "of fewer bytes": "A" * 20,
    "of more bytes": "A" * 28,
    "too long": "A" * 100,
    "without its padding": pack_cursor(0, 1, 1).rstrip("="),
    "padded once more": pack_cursor(0, 1, 1) + "=",
    "twice": pack_cursor(0, 1, 1) * 2,
    "with a space before it": " " + pack_cursor(0, 1, 1),
    "with a line break behind it": pack_cursor(0, 1, 1) + "\n",
    "with a character outside of the alphabet": "!" + pack_cursor(0, 1, 1),
    "with NUL": pack_cursor(0, 1, 1) + "\0",
    "not in ASCII": "é" + pack_cursor(0, 1, 1)[1:],
    "of wide digits": "\uff11" * 24,
    "before the first year": pack_cursor(FIRST - 1, 1, 1),
    "after the last year": pack_cursor(LAST + 1, 1, 1),
    "of the least time": pack_cursor(-(2**63), 1, 1),
    "of the greatest time": pack_cursor(2**63 - 1, 1, 1),
    "of the post 0": pack_cursor(0, 0, 1),
    "of a negative post": pack_cursor(0, -(2**31), 1),
    "at a negative position": pack_cursor(0, 1, -1),
}


def rejects_cursor(response: Response) -> bool:
    """Return whether the response is a 422 for the cursor without its input."""
    return response.status_code == 422 and [
        (fault["loc"], fault.keys()) for fault in response.json()["detail"]
    ] == [(["query", "cursor"], {"type", "loc", "msg"})]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("path", LISTS)
async def test_invalid_cursor_is_rejected(
    client: AsyncClient, user_id: int, path: str, bad: str
) -> None:
    response = await client.get(path.format(user=user_id), params={"cursor": bad})

    assert rejects_cursor(response), response.text


async def test_surrogate_in_cursor_is_rejected(client: AsyncClient) -> None:
    assert rejects_cursor(await client.get("/api/posts?cursor=%ED%A0%80"))


@pytest.mark.parametrize("post_id", [1, 2**31 - 1])
@pytest.mark.parametrize("position", [0, 2**31 - 1])
@pytest.mark.parametrize(("microseconds", "length"), [(FIRST, 0), (0, 0), (LAST, 2)])
@pytest.mark.parametrize("path", LISTS)
async def test_cursor_of_nonexistent_post_works(
    client: AsyncClient,
    db: AsyncSession,
    user_id: int,
    path: str,
    microseconds: int,
    length: int,
    post_id: int,
    position: int,
) -> None:
    await add_posts(db, user_id, [NOON] * 3)
    cursor = pack_cursor(microseconds, post_id, position)

    response = await client.get(
        path.format(user=user_id), params={"cursor": cursor, "limit": 2}
    )

    assert response.status_code == 200
    assert len(ids(response)) == length
    assert response.json()["skip"] == position


async def test_next_link_after_maximum_position_works(
    client: AsyncClient, db: AsyncSession, user_id: int
) -> None:
    await add_posts(db, user_id, [NOON] * 3)
    first = pack_cursor(LAST, 1, 2**31 - 1)

    walked = [
        ids(page)
        async for page in walk_pages(
            client, f"/api/posts?limit=1&cursor={quote(first)}", by_link
        )
    ]

    assert [len(page) for page in walked] == [1, 1, 1]


async def test_cursor_works_on_another_list(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str], user_id: int
) -> None:
    posts = [await create_post(client, author) for author in [ada, bob] * 2]
    first = await client.get("/api/posts", params={"limit": 1})

    response = await client.get(
        f"/api/users/{user_id}/posts", params={"cursor": first.json()["next_cursor"]}
    )

    assert ids(response) == [posts[2]["id"], posts[0]["id"]]


@pytest.mark.parametrize("skip", [1, 2])
@pytest.mark.parametrize("path", LISTS)
async def test_cursor_and_skip_are_mutually_exclusive(
    client: AsyncClient, user_id: int, seven_posts: list[int], path: str, skip: int
) -> None:
    first = await client.get(path.format(user=user_id), params={"limit": 2})

    response = await client.get(f"{by_cursor(first)}&skip={skip}")

    assert rejects_cursor(response)


@pytest.mark.parametrize("way", [by_cursor, by_link])
@pytest.mark.parametrize("path", LISTS)
async def test_cursor_with_default_skip_is_accepted(
    client: AsyncClient, user_id: int, seven_posts: list[int], path: str, way: Way
) -> None:
    # Generated clients send all default values.
    first = await client.get(path.format(user=user_id), params={"limit": 2})
    second = f"{by_cursor(first)}&skip=0"

    walked = [ids(page) async for page in walk_pages(client, second, way)]

    assert list(chain.from_iterable(walked)) == seven_posts[2:]


async def test_cursor_of_deleted_user_is_not_found(
    client: AsyncClient, ada: dict[str, str], user_id: int, seven_posts: list[int]
) -> None:
    first = await client.get(f"/api/users/{user_id}/posts?limit=2")
    await client.delete(f"/api/users/{user_id}", headers=ada)

    response = await client.get(by_cursor(first) or "")

    assert response.status_code == 404


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
)
async def test_cursor_works_for_posts_of_any_time(
    client: AsyncClient, db: AsyncSession, user_id: int, moment: datetime
) -> None:
    await add_posts(db, user_id, [moment] * 3)

    walked = [
        ids(page)[0]
        async for page in walk_pages(client, "/api/posts?limit=1", by_cursor)
    ]

    assert [len(set(walked)), len(walked)] == [3, 3]


# Queries


@pytest.mark.parametrize(("path", "number"), [(LISTS[0], 1), (LISTS[1], 2)])
async def test_cursor_page_takes_as_many_queries_as_skip(
    client: AsyncClient, user_id: int, seven_posts: list[int], path: str, number: int
) -> None:
    first = await client.get(path.format(user=user_id), params={"limit": 2})
    counts = []

    for query in ({"skip": 2}, {"cursor": first.json()["next_cursor"]}):
        with capture_queries() as statements:
            await client.get(path.format(user=user_id), params={**query, "limit": 2})
        counts.append(len(statements))

    assert counts == [number, number]


Plan = Callable[[str], Awaitable[str]]


@pytest.fixture
def get_plan(client: AsyncClient, connection: AsyncConnection) -> Plan:
    """Return a function that explains the query of a path's list."""
    noted: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> None:
        if "FROM posts" in sql:
            noted.append((sql, values))

    async def plan(path: str) -> str:
        event.listen(engine.sync_engine, "before_cursor_execute", note)
        try:
            await client.get(path)
        finally:
            event.remove(engine.sync_engine, "before_cursor_execute", note)
        ((sql, values),) = noted
        rows = await connection.exec_driver_sql(f"EXPLAIN {sql}", values)
        return "\n".join(row[0] for row in rows)

    return plan


@pytest.fixture
async def many_posts(db: AsyncSession, user_id: int) -> None:
    """Store enough posts that the planner prefers an index."""
    await db.execute(
        text(
            "INSERT INTO users (username, email, password_hash) "
            "SELECT 'user' || n, n || '@example.com', '' FROM generate_series(1, 99) n"
        )
    )
    await db.execute(
        text(
            # Explicit ids, because the sequence is not rolled back after the test.
            "INSERT INTO posts (id, title, content, user_id, date_posted) "
            "SELECT 1000000 + n, '', 'Some content', CAST(:ada AS int) + n % 100, "
            "       CAST(:noon AS timestamptz) + n * interval '1 second' "
            "FROM generate_series(1, 20000) AS n"
        ),
        {"ada": user_id, "noon": NOON},
    )
    await db.execute(text("ANALYZE posts"))
    await db.execute(text("ANALYZE users"))


@pytest.mark.parametrize("query", ["", "&skip=20", "&cursor={cursor}"])
@pytest.mark.parametrize(
    ("path", "index"),
    [
        ("/api/posts", "ix_posts_newest"),
        ("/api/users/{user}/posts", "ix_posts_user_newest"),
    ],
)
async def test_page_is_read_from_index_without_sorting(
    user_id: int,
    many_posts: None,
    get_plan: Plan,
    path: str,
    index: str,
    query: str,
) -> None:
    cursor = Cursor(NOON + timedelta(seconds=10_000), 10_000, 10_000).encode()

    plan = await get_plan(
        f"{path.format(user=user_id)}?limit=10{query.format(cursor=cursor)}"
    )

    assert f"Index Scan using {index} " in plan
    assert "Sort" not in plan
    # The scan starts in the middle instead of skipping all earlier posts.
    begins = re.search(r"Index Cond: .*ROW\(date_posted, id\) < ROW\(", plan)
    assert bool(begins) == ("cursor" in query), plan


# Users


@pytest.mark.parametrize(
    ("query", "sizes"),
    [
        ("", [5]),
        ("?limit=2", [2, 2, 1]),
        ("?limit=2&skip=1", [2, 2]),
        ("?limit=5", [5]),
        ("?limit=4", [4, 1]),
        ("?skip=5", [0]),
    ],
)
async def test_next_link_pages_through_all_users(
    client: AsyncClient, query: str, sizes: list[int]
) -> None:
    names = ["ada", "bob", "cy", "dot", "eve"]
    [await create_test_user(client, name, f"{name}@example.com") for name in names]

    walked = [
        [user["username"] for user in page.json()]
        async for page in walk_pages(client, f"/api/users{query}", by_link)
    ]

    assert [len(page) for page in walked] == sizes
    assert list(chain.from_iterable(walked)) == names[len(names) - sum(sizes) :]


# Concurrent long lists


@pytest.mark.parametrize("path", LISTS)
async def test_long_list_waits_for_limited_time(
    client: AsyncClient,
    user_id: int,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dependencies, "LONG_PAGE_TIMEOUT", 0.01)
    path = path.format(user=user_id)
    length = dependencies.MAX_SHORT_LIMIT
    async with dependencies._long_pages, dependencies._long_pages:
        long = await client.get(path, params={"limit": length + 1})
        short = await client.get(path, params={"limit": length})
    later = await client.get(path, params={"limit": length + 1})

    assert [long.status_code, short.status_code, later.status_code] == [503, 200, 200]
    assert int(long.headers["Retry-After"]) > 0


async def test_long_list_leaves_room_for_those_after_it(client: AsyncClient) -> None:
    query = {"limit": dependencies.MAX_SHORT_LIMIT + 1}

    statuses = [
        (await client.get("/api/posts", params=query)).status_code for _ in range(4)
    ]

    assert statuses == [200] * 4
