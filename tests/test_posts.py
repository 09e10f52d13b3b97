"""The posts API."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx import AsyncClient, Response
from sqlalchemy import text, update

from models import Post
from tests.conftest import Headers, Json, add_posts, as_listed, create_post, get_user_id

TEA = {"title": "Tea", "content": "Is ready."}
COFFEE = {"title": "Coffee", "content": "Was ready."}
LAST_YEAR = datetime(2025, 11, 3, 9, 30, 15, tzinfo=UTC)


@pytest.fixture
async def post(client: AsyncClient, ada: Headers) -> Json:
    return await create_post(client, ada, **TEA)


async def read(client: AsyncClient, post: Json) -> Any:
    return (await client.get(f"/api/posts/{post['id']}")).json()


async def change(
    client: AsyncClient,
    headers: Headers,
    post: Json,
    method: str = "PATCH",
    **body: Any,
) -> Response:
    path = f"/api/posts/{post['id']}"
    return await client.request(method, path, json=body, headers=headers)


class TestListPosts:
    async def test_empty(self, client):
        response = await client.get("/api/posts")

        assert response.status_code == 200
        assert response.json() == {
            "posts": [],
            "total": 0,
            "skip": 0,
            "limit": 10,
            "has_more": False,
            "next_cursor": None,
        }

    async def test_same_as_single_posts(self, client, post):
        response = await client.get("/api/posts")

        assert response.json()["posts"] == [as_listed(post)]

    @pytest.mark.parametrize("path", ["/api/posts", "/api/users/{id}/posts"])
    @pytest.mark.parametrize(
        ("days", "expected"), [([0, 1, -1], [1, 0, 2]), ([0] * 4, [3, 2, 1, 0])]
    )
    async def test_order(self, client, db, user_id, path, days, expected):
        dates = [LAST_YEAR + timedelta(days=day) for day in days]
        ids = await add_posts(db, user_id, dates)
        # The index would return the right order even without a complete ORDER BY.
        await db.execute(text("SET LOCAL enable_indexscan = off"))
        await db.execute(text("SET LOCAL enable_bitmapscan = off"))

        response = await client.get(path.format(id=user_id))

        listed = [post["id"] for post in response.json()["posts"]]
        assert listed == [ids[position] for position in expected]


class TestReadPost:
    async def test_success(self, client, post):
        response = await client.get(f"/api/posts/{post['id']}")

        assert response.status_code == 200
        assert response.json() == post
        assert response.json()["author"] == {
            "id": post["user_id"],
            "username": "ada",
            "image_file": None,
            "image_path": "/static/profile_pics/default.jpg",
            "bio": "",
        }

    @pytest.mark.parametrize("post_id", ["0", "-1", "2147483647", "2147483648"])
    async def test_not_found(self, client, post_id):
        response = await client.get(f"/api/posts/{post_id}")

        assert response.status_code == 404
        assert response.json() == {"detail": "Post not found"}

    async def test_invalid_id(self, client):
        response = await client.get("/api/posts/1.0")

        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["path", "post_id"]


class TestCreatePost:
    async def test_success(self, client, ada):
        response = await client.post("/api/posts", json=TEA, headers=ada)

        post = response.json()
        assert response.status_code == 201
        assert response.headers["Location"] == f"/api/posts/{post['id']}"
        assert (post["title"], post["content"]) == ("Tea", "Is ready.")
        assert post["author"]["username"] == "ada"
        assert post == await read(client, post)

    async def test_dates(self, client, ada):
        before = datetime.now(UTC)

        post = await create_post(client, ada)

        posted = datetime.fromisoformat(post["date_posted"])
        assert before <= posted <= datetime.now(UTC)
        assert posted.utcoffset() == timedelta(0)
        assert post["date_updated"] is None

    @pytest.mark.parametrize("title", [{}, {"title": None}])
    async def test_untitled(self, client, ada, title):
        response = await client.post(
            "/api/posts", json={"content": "Some content", **title}, headers=ada
        )

        assert response.status_code == 201
        assert response.json()["title"] == ""

    async def test_other_fields_are_ignored(self, client, ada, bob):
        bobs_id = await get_user_id(client, bob)
        past = "2001-01-01T00:00Z"

        post = await create_post(
            client, ada, id=0, user_id=bobs_id, date_posted=past, date_updated=past
        )

        assert post["id"] != 0
        assert post["user_id"] != bobs_id
        assert not post["date_posted"].startswith("2001")
        assert post["date_updated"] is None


class TestEditPost:
    @pytest.mark.parametrize(
        ("method", "body", "stored"),
        [
            ("PUT", {**COFFEE, "id": 0, "user_id": 0}, COFFEE),
            ("PUT", {**TEA, "title": None}, {**TEA, "title": ""}),
            ("PUT", {**TEA, "title": ""}, {**TEA, "title": ""}),
            ("PATCH", {"title": "TEA"}, {**TEA, "title": "TEA"}),
            ("PATCH", {"title": ""}, {**TEA, "title": ""}),
            ("PATCH", {"content": "Is ready. "}, {**TEA, "content": "Is ready. "}),
        ],
    )
    async def test_success(self, client, ada, db, post, method, body, stored):
        await db.execute(update(Post).values(date_posted=LAST_YEAR))
        await db.commit()
        before = datetime.now(UTC)

        response = await change(client, ada, post, method, **body)

        edited = response.json()
        assert response.status_code == 200
        assert {name: edited[name] for name in stored} == stored
        assert (edited["id"], edited["author"]) == (post["id"], post["author"])
        assert datetime.fromisoformat(edited["date_posted"]) == LAST_YEAR
        date_updated = datetime.fromisoformat(edited["date_updated"])
        assert before <= date_updated <= datetime.now(UTC)
        assert await read(client, post) == edited

    @pytest.mark.parametrize(
        ("method", "body"),
        [
            ("PUT", {**TEA, "title": "  Tea "}),
            ("PATCH", {"content": "Is ready."}),
            ("PATCH", {}),
            ("PATCH", {"title": None, "content": None}),
            ("PATCH", {"id": 0, "user_id": 0, "date_updated": "2001-01-01T00:00Z"}),
        ],
    )
    async def test_no_change(self, client, ada, post, method, body):
        response = await change(client, ada, post, method, **body)

        assert response.status_code == 200
        assert response.json() == post

    @pytest.mark.parametrize("content", ["a\n\nb", "a\r\rb"], ids=repr)
    async def test_other_line_endings(self, client, ada, content):
        post = await create_post(client, ada, content="a\r\n\r\nb")

        same = await change(client, ada, post, content=content)
        other = await change(client, ada, post, content=content + "\n")

        assert same.json() == post
        assert other.json()["content"] == content + "\n"

    async def test_untitled_stays_untitled(self, client, ada):
        post = await create_post(client, ada, title=None, content="C")

        response = await change(client, ada, post, "PUT", title=None, content="C")

        assert response.json()["date_updated"] is None

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"content": "C"}, "title"),
            ({"title": "T"}, "content"),
            ({"title": "T", "content": None}, "content"),
        ],
    )
    async def test_put_requires_both(self, client, ada, post, body, field):
        response = await change(client, ada, post, "PUT", **body)

        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", field]

    async def test_repeated_edit(self, client, ada, post):
        first = (await change(client, ada, post, **COFFEE)).json()

        again = (await change(client, ada, post, **COFFEE)).json()
        reverted = (await change(client, ada, post, **TEA)).json()

        assert again == first
        assert reverted["date_updated"] > first["date_updated"]

    async def test_order_is_kept(self, client, ada, post):
        newer = await create_post(client, ada)

        edited = (await change(client, ada, post, **COFFEE)).json()

        listed = (await client.get("/api/posts")).json()["posts"]
        assert listed == [as_listed(newer), as_listed(edited)]


class TestDeletePost:
    async def test_success(self, client, ada, post):
        response = await change(client, ada, post, "DELETE")

        assert (response.status_code, response.content) == (204, b"")
        assert await read(client, post) == {"detail": "Post not found"}


class TestFormat:
    async def test_default(self, client, post):
        assert post["format"] == "plain"
        assert post["content_html"] == '<p dir="auto">Is ready.</p>'

    async def test_markdown(self, client, ada):
        post = await create_post(
            client, ada, title="", content="# *Tea*", format="markdown"
        )

        assert post["content_html"] == '<h2 dir="auto"><em>Tea</em></h2>\n'
        assert post["display_title"] == post["excerpt"] == "Tea"
        assert await read(client, post) == post
        assert (await client.get("/api/posts")).json()["posts"] == [as_listed(post)]

    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    async def test_change(self, client, ada, post, method):
        response = await change(client, ada, post, method, **TEA, format="markdown")

        assert response.json() == await read(client, post)
        assert response.json()["format"] == "markdown"
        assert response.json()["date_updated"] is not None

    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    @pytest.mark.parametrize("fields", [{}, {"format": None}], ids=["absent", "null"])
    async def test_unchanged(self, client, ada, method, fields):
        post = await create_post(client, ada, format="markdown")

        response = await change(client, ada, post, method, **COFFEE, **fields)

        assert response.json()["format"] == "markdown"

    @pytest.mark.parametrize("post_format", ["html", "", "Markdown", 1])
    async def test_invalid(self, client, ada, post_format):
        post = {**TEA, "format": post_format}

        response = await client.post("/api/posts", json=post, headers=ada)

        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", "format"]

    async def test_if_match(self, client, ada):
        post = await create_post(client, ada, content="*a*", format="markdown")
        path = f"/api/posts/{post['id']}"
        etag = (await client.get(path)).headers["ETag"]
        headers = {**ada, "If-Match": etag}

        responses = [
            await client.patch(path, json={"content": "*b*"}, headers=headers)
            for _ in range(2)
        ]

        assert [response.status_code for response in responses] == [200, 412]
        etags = [response.headers["ETag"] for response in responses]
        assert etags == [(await client.get(path)).headers["ETag"]] * 2

    async def test_page(self, client, ada):
        post = await create_post(client, ada, content="*a*", format="markdown")

        page = await client.get(f"/posts/{post['id']}")

        assert post["content_html"] in page.text
        assert '<meta name="description" content="a">' in page.text


class TestPreview:
    async def test_success(self, client, ada):
        preview = {"content": "*a*", "format": "markdown"}

        response = await client.post("/api/preview", json=preview, headers=ada)

        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert response.text == '<p dir="auto"><em>a</em></p>\n'
        assert (await client.get("/api/posts")).json()["total"] == 0

    async def test_anonymous(self, client):
        response = await client.post("/api/preview", json=TEA)

        assert response.status_code == 401
        assert response.json() == {"detail": "Not authenticated"}

    async def test_blank(self, client, ada):
        preview = {"content": " "}

        response = await client.post("/api/preview", json=preview, headers=ada)

        assert response.status_code == 422
