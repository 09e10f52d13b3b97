"""Reading a list part by part: nothing repeats, nothing is left out."""

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

import pagination
from database import engine
from models import Post
from pagination import CURSOR_FORMAT, EPOCH, Cursor
from tests.conftest import counted_statements, create_post, create_test_user, own_id

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LISTS = ["/api/posts", "/api/users/{user}/posts"]

# Each gives the path and query of the part after an answer, None at the end.
Way = Callable[[Response], str | None]


def by_cursor(response: Response) -> str | None:
    """Go on as a program that keeps the cursor: with the query that it had."""
    cursor = response.json()["next_cursor"]
    return cursor and str(response.request.url.copy_set_param("cursor", cursor))


def by_link(response: Response) -> str | None:
    """Go on as a program that knows no more than RFC 8288."""
    next_link = response.links.get("next")
    return next_link["url"] if next_link else None


async def parts(client: AsyncClient, path: str, way: Way) -> AsyncIterator[Response]:
    """All parts of a list, one after the other."""
    here: str | None = path
    while here:
        response = await client.get(here)
        assert response.status_code == 200, response.text
        yield response
        here = way(response)


def ids(response: Response) -> list[int]:
    return [post["id"] for post in response.json()["posts"]]


async def add_posts(db: AsyncSession, user_id: int, moments: list[datetime]) -> None:
    """Store posts of given times."""
    for moment in moments:
        db.add(Post(title="", content="-", user_id=user_id, date_posted=moment))
        # One by one, so that the later moment has the higher id.
        await db.flush()
    await db.commit()


@pytest.fixture
async def user_id(client: AsyncClient, ada: dict[str, str]) -> int:
    return await own_id(client, ada)


@pytest.fixture(params=["an hour apart", "at one instant"])
async def seven(
    request: pytest.FixtureRequest, db: AsyncSession, user_id: int
) -> list[int]:
    """Ids of seven posts of ada, the newest first."""
    step = timedelta(hours=request.param == "an hour apart")
    await add_posts(db, user_id, [NOON + n * step for n in range(7)])
    statement = Post.newest_first().with_only_columns(Post.id)
    return list((await db.scalars(statement)).all())


# Walking through


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("way", "query"),
    [(by_cursor, ""), (by_link, ""), (by_link, "&skip=0"), (by_cursor, "&order=x")],
)
@pytest.mark.parametrize("path", LISTS)
async def test_each_post_comes_once_and_in_order(
    client: AsyncClient,
    user_id: int,
    seven: list[int],
    path: str,
    way: Way,
    query: str,
    limit: int,
) -> None:
    first = f"{path.format(user=user_id)}?limit={limit}{query}"

    walked = [ids(part) async for part in parts(client, first, way)]

    assert list(chain.from_iterable(walked)) == seven
    assert [len(part) for part in walked[:-1]] == [limit] * (len(walked) - 1)


@pytest.mark.parametrize("way", [by_cursor, by_link])
@pytest.mark.parametrize("path", LISTS)
async def test_what_others_do_meanwhile_makes_nothing_repeat_or_vanish(
    client: AsyncClient,
    ada: dict[str, str],
    user_id: int,
    seven: list[int],
    path: str,
    way: Way,
) -> None:
    seen: list[int] = []

    async for part in parts(client, f"{path.format(user=user_id)}?limit=2", way):
        seen += ids(part)
        await create_post(client, ada)
        await create_post(client, ada)
        # The very post after which the list goes on.
        await client.delete(f"/api/posts/{ids(part)[-1]}", headers=ada)

    assert seen == seven


async def test_post_that_is_deleted_before_its_turn_does_not_come(
    client: AsyncClient, ada: dict[str, str], seven: list[int]
) -> None:
    seen: list[int] = []

    async for part in parts(client, "/api/posts?limit=2", by_cursor):
        seen += ids(part)
        if len(seen) == 2:
            for post_id in seven[2:4]:
                await client.delete(f"/api/posts/{post_id}", headers=ada)

    assert seen == seven[:2] + seven[4:]


async def test_list_ends_when_all_that_was_left_is_deleted(
    client: AsyncClient, ada: dict[str, str], seven: list[int]
) -> None:
    first = await client.get("/api/posts?limit=5")
    for post_id in seven[4:]:
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


async def test_post_published_at_the_instant_of_the_boundary_does_not_repeat_others(
    client: AsyncClient, db: AsyncSession, user_id: int
) -> None:
    await add_posts(db, user_id, [NOON] * 4)
    first = await client.get("/api/posts?limit=2")
    await add_posts(db, user_id, [NOON, NOON + timedelta(microseconds=1)])

    second = await client.get(by_cursor(first) or "")

    assert ids(second) == [ids(first)[-1] - 1, ids(first)[-1] - 2]


async def test_walk_through_the_posts_of_one_leaves_out_those_of_others(
    client: AsyncClient,
    ada: dict[str, str],
    bob: dict[str, str],
    user_id: int,
) -> None:
    posts = [await create_post(client, author) for author in [ada, bob] * 4]
    path = f"/api/users/{user_id}/posts?limit=3"

    walked = [ids(part) async for part in parts(client, path, by_cursor)]

    assert list(chain.from_iterable(walked)) == [
        post["id"] for post in reversed(posts[::2])
    ]


# What a part says about itself


@pytest.mark.parametrize("query", ["limit=3", "limit=3&skip=0"])
@pytest.mark.parametrize("path", LISTS)
async def test_part_says_where_it_is_and_whether_it_is_the_last(
    client: AsyncClient, user_id: int, seven: list[int], path: str, query: str
) -> None:
    first = f"{path.format(user=user_id)}?{query}"

    answers = [part async for part in parts(client, first, by_link)]

    pages = [answer.json() for answer in answers]
    assert [page["skip"] for page in pages] == [0, 3, 6]
    assert [page["total"] for page in pages] == [7, 7, 7]
    assert [page["limit"] for page in pages] == [3, 3, 3]
    assert [page["has_more"] for page in pages] == [True, True, False]
    assert [page["next_cursor"] is None for page in pages] == [False, False, True]
    assert ["link" in answer.headers for answer in answers] == [True, True, False]


async def test_total_is_that_of_the_present(
    client: AsyncClient, ada: dict[str, str], seven: list[int]
) -> None:
    first = await client.get("/api/posts?limit=3")
    await create_post(client, ada)

    second = (await client.get(by_cursor(first) or "")).json()

    # Three came before the cursor when it was made; one more is there now.
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
async def test_link_goes_on_as_the_list_was_asked_for(
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


async def test_cursor_can_come_with_another_limit(
    client: AsyncClient, seven: list[int]
) -> None:
    first = await client.get("/api/posts?limit=2")

    rest = await client.get(
        "/api/posts", params={"cursor": first.json()["next_cursor"], "limit": 100}
    )

    assert ids(rest) == seven[2:]


@pytest.mark.parametrize("spelling", ["+{id}", "%2B{id}", "000{id}"])
async def test_link_of_an_oddly_written_id_leads_on(
    client: AsyncClient, user_id: int, seven: list[int], spelling: str
) -> None:
    path = f"/api/users/{spelling.format(id=user_id)}/posts?limit=5"

    walked = [ids(part) async for part in parts(client, path, by_link)]

    assert list(chain.from_iterable(walked)) == seven


@pytest.mark.parametrize(
    "spelling", ["%E2%80%83{id}", "{id}%E2%80%A8", "%20{id}", "{id}.0", "1_{id}"]
)
async def test_id_that_is_no_plain_integer_is_refused(
    client: AsyncClient, user_id: int, spelling: str
) -> None:
    path = f"/api/users/{spelling.format(id=user_id)}/posts?limit=5"

    response = await client.get(path)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["path", "user_id"]


# Cursors that lead nowhere


def packed(microseconds: int, post_id: int, position: int) -> str:
    """A cursor with any numbers that fit into its bytes."""
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
    "without its padding": packed(0, 1, 1).rstrip("="),
    "padded once more": packed(0, 1, 1) + "=",
    "twice": packed(0, 1, 1) * 2,
    "with a space before it": " " + packed(0, 1, 1),
    "with a line break behind it": packed(0, 1, 1) + "\n",
    "with a character outside of the alphabet": "!" + packed(0, 1, 1),
    "with NUL": packed(0, 1, 1) + "\0",
    "not in ASCII": "é" + packed(0, 1, 1)[1:],
    "of wide digits": "\uff11" * 24,
    "before the first year": packed(FIRST - 1, 1, 1),
    "after the last year": packed(LAST + 1, 1, 1),
    "of the least time": packed(-(2**63), 1, 1),
    "of the greatest time": packed(2**63 - 1, 1, 1),
    "of the post 0": packed(0, 0, 1),
    "of a negative post": packed(0, -(2**31), 1),
    "at a negative position": packed(0, 1, -1),
}


def refuses_the_cursor(response: Response) -> bool:
    """Whether it is a 422 that names the cursor, and nothing of what was sent."""
    return response.status_code == 422 and [
        (fault["loc"], fault.keys()) for fault in response.json()["detail"]
    ] == [(["query", "cursor"], {"type", "loc", "msg"})]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("path", LISTS)
async def test_bad_cursor_is_refused(
    client: AsyncClient, user_id: int, path: str, bad: str
) -> None:
    response = await client.get(path.format(user=user_id), params={"cursor": bad})

    assert refuses_the_cursor(response), response.text


async def test_surrogate_in_a_cursor_is_refused(client: AsyncClient) -> None:
    assert refuses_the_cursor(await client.get("/api/posts?cursor=%ED%A0%80"))


@pytest.mark.parametrize("post_id", [1, 2**31 - 1])
@pytest.mark.parametrize("position", [0, 2**31 - 1])
@pytest.mark.parametrize(("microseconds", "length"), [(FIRST, 0), (0, 0), (LAST, 2)])
@pytest.mark.parametrize("path", LISTS)
async def test_list_goes_on_after_a_post_that_could_be_there(
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
    cursor = packed(microseconds, post_id, position)

    response = await client.get(
        path.format(user=user_id), params={"cursor": cursor, "limit": 2}
    )

    assert response.status_code == 200
    assert len(ids(response)) == length
    assert response.json()["skip"] == position


async def test_link_behind_the_last_position_leads_on(
    client: AsyncClient, db: AsyncSession, user_id: int
) -> None:
    await add_posts(db, user_id, [NOON] * 3)
    first = packed(LAST, 1, 2**31 - 1)

    walked = [
        ids(part)
        async for part in parts(
            client, f"/api/posts?limit=1&cursor={quote(first)}", by_link
        )
    ]

    assert [len(part) for part in walked] == [1, 1, 1]


async def test_cursor_of_another_list_starts_at_the_same_post(
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
async def test_cursor_goes_not_together_with_skip(
    client: AsyncClient, user_id: int, seven: list[int], path: str, skip: int
) -> None:
    first = await client.get(path.format(user=user_id), params={"limit": 2})

    response = await client.get(f"{by_cursor(first)}&skip={skip}")

    assert refuses_the_cursor(response)


@pytest.mark.parametrize("way", [by_cursor, by_link])
@pytest.mark.parametrize("path", LISTS)
async def test_list_goes_on_after_a_cursor_beside_which_the_default_skip_is_named(
    client: AsyncClient, user_id: int, seven: list[int], path: str, way: Way
) -> None:
    # As generated clients do it, which send all defaults.
    first = await client.get(path.format(user=user_id), params={"limit": 2})
    second = f"{by_cursor(first)}&skip=0"

    walked = [ids(part) async for part in parts(client, second, way)]

    assert list(chain.from_iterable(walked)) == seven[2:]


async def test_cursor_of_a_user_who_is_gone_is_not_found(
    client: AsyncClient, ada: dict[str, str], user_id: int, seven: list[int]
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
async def test_list_goes_on_after_a_post_of_any_time(
    client: AsyncClient, db: AsyncSession, user_id: int, moment: datetime
) -> None:
    await add_posts(db, user_id, [moment] * 3)

    walked = [
        ids(part)[0] async for part in parts(client, "/api/posts?limit=1", by_cursor)
    ]

    assert [len(set(walked)), len(walked)] == [3, 3]


# What it takes


@pytest.mark.parametrize(("path", "number"), [(LISTS[0], 1), (LISTS[1], 2)])
async def test_part_by_cursor_takes_as_many_statements_as_by_number(
    client: AsyncClient, user_id: int, seven: list[int], path: str, number: int
) -> None:
    first = await client.get(path.format(user=user_id), params={"limit": 2})
    counts = []

    for query in ({"skip": 2}, {"cursor": first.json()["next_cursor"]}):
        with counted_statements() as statements:
            await client.get(path.format(user=user_id), params={**query, "limit": 2})
        counts.append(len(statements))

    assert counts == [number, number]


Plan = Callable[[str], Awaitable[str]]


@pytest.fixture
def plan_of(client: AsyncClient, connection: AsyncConnection) -> Plan:
    """How the database finds the posts that the answer at a path shows."""
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
    """So many, of so many, that the database prefers an index where it has one."""
    await db.execute(
        text(
            "INSERT INTO users (username, email, password_hash) "
            "SELECT 'user' || n, n || '@example.com', '' FROM generate_series(1, 99) n"
        )
    )
    await db.execute(
        text(
            # Ids of their own: the sequence is not rolled back after the test.
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
async def test_part_is_found_by_an_index_and_never_sorted(
    user_id: int,
    many_posts: None,
    plan_of: Plan,
    path: str,
    index: str,
    query: str,
) -> None:
    cursor = Cursor(NOON + timedelta(seconds=10_000), 10_000, 10_000).encode()

    plan = await plan_of(
        f"{path.format(user=user_id)}?limit=10{query.format(cursor=cursor)}"
    )

    assert f"Index Scan using {index} " in plan
    assert "Sort" not in plan
    # It begins in the middle instead of passing over all that comes before.
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
async def test_link_leads_through_all_users(
    client: AsyncClient, query: str, sizes: list[int]
) -> None:
    names = ["ada", "bob", "cy", "dot", "eve"]
    [await create_test_user(client, name, f"{name}@example.com") for name in names]

    walked = [
        [user["username"] for user in part.json()]
        async for part in parts(client, f"/api/users{query}", by_link)
    ]

    assert [len(part) for part in walked] == sizes
    assert list(chain.from_iterable(walked)) == names[len(names) - sum(sizes) :]


# Many long ones at once


@pytest.mark.parametrize("path", LISTS)
async def test_long_list_waits_for_its_turn_and_not_for_long(
    client: AsyncClient,
    user_id: int,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pagination, "LONG_PAGE_TIMEOUT", 0.01)
    path = path.format(user=user_id)
    length = pagination.MAX_SHORT_LIMIT
    async with pagination._long_pages, pagination._long_pages:
        long = await client.get(path, params={"limit": length + 1})
        short = await client.get(path, params={"limit": length})
    later = await client.get(path, params={"limit": length + 1})

    assert [long.status_code, short.status_code, later.status_code] == [503, 200, 200]
    assert int(long.headers["Retry-After"]) > 0


async def test_long_list_leaves_room_for_those_after_it(client: AsyncClient) -> None:
    query = {"limit": pagination.MAX_SHORT_LIMIT + 1}

    statuses = [
        (await client.get("/api/posts", params=query)).status_code for _ in range(4)
    ]

    assert statuses == [200] * 4
