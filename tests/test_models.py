"""Titles and excerpts of posts, the number of queries per request, and query plans."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx import AsyncClient
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from database import engine
from models import Post, User
from pagination import Cursor
from tests.conftest import PASSWORD, Headers, capture_queries, create_post

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LOGIN = {"username": "ada@example.com", "password": PASSWORD}
NEW_PASSWORD = {"token": "t", "current_password": PASSWORD, "new_password": "12345678"}
POST = {"title": "T", "content": "C"}


def test_unchanged_name_keeps_its_key():
    user = User(username="ada")
    user.username_key = "\n7"

    user.username = "ada"

    assert user.username_key == "\n7"


class TestPreview:
    @pytest.mark.parametrize(
        ("title", "content", "display_title"),
        [
            ("Tea", "Is ready.", "Tea"),
            ("", " Rain\n\n fell.\n", "Rain fell."),
            ("", "x" * 61, "x" * 59 + "…"),
        ],
    )
    def test_display_title(self, title, content, display_title):
        assert Post(title=title, content=content).display_title == display_title

    def test_excerpt(self):
        assert Post(content=" One\n\ntwo ").excerpt == "One two"
        assert Post(content="x" * 301).excerpt == "x" * 299 + "…"


@pytest.fixture
async def ids(client: AsyncClient, ada: Headers, bob: Headers) -> dict[str, int]:
    """Return the ids of ada and one of her posts, for use in paths."""
    posts = [await create_post(client, author) for author in (bob, bob, ada, ada)]
    return {"post": posts[-1]["id"], "user": posts[-1]["user_id"]}


class TestNumberOfQueries:
    @pytest.mark.parametrize(
        ("path", "number"),
        [
            ("/api/posts", 1),
            ("/api/posts?skip=100", 1),
            ("/api/posts/{post}", 1),
            ("/api/users", 1),
            ("/api/users/me", 1),
            ("/api/users/{user}", 1),
            ("/api/users/{user}/posts", 2),
            ("/", 1),
            ("/posts/{post}", 1),
            ("/users/{user}/posts", 2),
            ("/feed.atom", 1),
            ("/users/{user}/feed.atom", 2),
            ("/sitemap.xml", 2),
            ("/login", 0),
        ],
    )
    async def test_read(self, client, ada, ids, path, number):
        with capture_queries() as queries:
            await client.get(path.format(**ids), headers=ada)

        assert len(queries) == number, queries

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "number"),
        [
            # Most requests load the user, load and lock the row, and change it.
            ("POST", "posts", {"json": POST}, 201, 2),
            ("PUT", "posts/{post}", {"json": POST}, 200, 3),
            ("PATCH", "posts/{post}", {"json": {}}, 200, 2),
            ("DELETE", "posts/{post}", {}, 204, 3),
            ("PATCH", "users/{user}", {"json": {"username": "a"}}, 200, 2),
            ("PATCH", "users/{user}", {"json": {}}, 200, 1),
            # This also deletes reset tokens sent to the old email address.
            ("PATCH", "users/{user}", {"json": {"email": "a@b.example"}}, 200, 3),
            # This deletes the posts before the user.
            ("DELETE", "users/{user}", {}, 204, 3),
            ("DELETE", "users/{user}/picture", {}, 400, 2),
            # This loads and locks the user, changes the password, and deletes tokens.
            ("PATCH", "users/me/password", {"json": NEW_PASSWORD}, 200, 4),
            ("POST", "users/reset-password", {"json": NEW_PASSWORD}, 400, 1),
            ("POST", "users/forgot-password", {"json": {"email": "a@b.co"}}, 202, 4),
            ("POST", "users/token", {"data": LOGIN}, 200, 1),
            ("POST", "users/token", {"data": LOGIN | {"password": "x"}}, 401, 1),
            ("POST", "users", {"json": LOGIN | {"email": "a@b.co"}}, 201, 2),
        ],
    )
    async def test_write(self, client, ada, ids, method, path, body, status, number):
        with capture_queries() as queries:
            response = await client.request(
                method, f"/api/{path.format(**ids)}", headers=ada, **body
            )

        assert response.status_code == status
        assert len(queries) == number, queries


@pytest.fixture
async def many_posts(db: AsyncSession, ids: dict[str, int]) -> None:
    """Add enough posts to make the planner prefer an index."""
    await db.execute(
        text(
            "INSERT INTO users (username, email, password_hash) "
            "SELECT 'user' || n, n || '@example.com', '' FROM generate_series(1, 99) n"
        )
    )
    await db.execute(
        text(
            # Set the ids, because the sequence is not rolled back after the test.
            "INSERT INTO posts (id, title, content, user_id, date_posted) "
            "SELECT 1000000 + 1000 * n + users.id, '', '-', users.id, "
            "       CAST(:noon AS timestamptz) + n * interval '1 second' "
            "FROM users, generate_series(1, 100) AS n"
        ),
        {"noon": NOON},
    )
    await db.execute(text("ANALYZE posts, users"))


async def explain(client: AsyncClient, connection: AsyncConnection, path: str) -> str:
    """Return the plan of the query for a page of posts, or for a post page."""
    queries: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> None:
        if "FROM post_counts" in sql or "LATERAL" in sql:
            queries.append((sql, values))

    event.listen(engine.sync_engine, "before_cursor_execute", record)
    await client.get(path)
    event.remove(engine.sync_engine, "before_cursor_execute", record)
    ((sql, values),) = queries
    rows = await connection.exec_driver_sql(f"EXPLAIN ANALYZE {sql}", values)
    return "\n".join(rows.scalars())


LISTS = pytest.mark.parametrize(
    ("path", "index", "total"),
    [
        ("/api/posts", "ix_posts_newest", 10_001),
        ("/api/users/{user}/posts", "ix_posts_user_newest", 101),
    ],
)


class TestIndex:
    """Lists scan an index from the nearer end, and read only the rows of the page."""

    @LISTS
    async def test_first_page(
        self, client, connection, ids, many_posts, path, index, total
    ):
        plan = await explain(client, connection, path.format(**ids))

        assert re.search(rf"Index Only Scan using {index} .* rows=11", plan)
        assert "Seq Scan on posts" not in plan

    @LISTS
    async def test_last_page(
        self, client, connection, ids, many_posts, path, index, total
    ):
        path = f"{path.format(**ids)}?skip={total - 1}"

        plan = await explain(client, connection, path)

        assert re.search(rf"Index Only Scan Backward using {index} .*actual", plan)

    @LISTS
    async def test_cursor(
        self, client, connection, ids, many_posts, path, index, total
    ):
        cursor = Cursor(NOON + timedelta(seconds=50), 1, 1).encode()
        path = f"{path.format(**ids)}?cursor={cursor}"

        plan = await explain(client, connection, path)

        # The scan starts at the cursor instead of skipping all newer posts.
        assert re.search(rf"Index (Only )?Scan using {index} .* rows=11", plan)
        assert re.search(r"Index Cond: .*ROW\(date_posted, id\) < ROW\(", plan)

    async def test_neighbors(self, client, db, connection, many_posts):
        post_id = await db.scalar(text("SELECT id FROM posts ORDER BY id DESC LIMIT 1"))

        plan = await explain(client, connection, f"/posts/{post_id}")

        scans = re.findall(r"Index Scan (Backward )?using ix_posts_user_newest", plan)
        assert sorted(scans) == ["", "Backward "]
        assert len(re.findall(r"Index Cond: .*ROW\(", plan)) == 2
