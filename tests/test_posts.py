"""Posts API."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx import AsyncClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from models import Post
from tests.conftest import create_post, get_user_id

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

# Every request that changes an existing post.
CHANGES = ["PUT", "PATCH", "DELETE"]
WHOLE = {"title": "Another title", "content": "Other content"}


async def add_posts(db: AsyncSession, user_id: int, moments: list[datetime]) -> None:
    """Store posts with these times, titled `0`, `1`, ... in order of their ids."""
    for number, moment in enumerate(moments):
        post = Post(title=str(number), content="-", user_id=user_id, date_posted=moment)
        db.add(post)
        await db.flush()
    await db.commit()


def titles(page: dict[str, Any]) -> list[str]:
    return [post["title"] for post in page["posts"]]


# Lists


async def test_get_posts_empty(client: AsyncClient) -> None:
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


async def test_get_posts_with_pagination(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    hours = [NOON + timedelta(hours=hour) for hour in range(5)]
    await add_posts(db, await get_user_id(client, ada), hours)

    response = await client.get("/api/posts", params={"skip": 1, "limit": 2})

    assert response.status_code == 200
    assert titles(response.json()) == ["3", "2"]
    assert {**response.json(), "posts": ..., "next_cursor": ...} == {
        "posts": ...,
        "total": 5,
        "skip": 1,
        "limit": 2,
        "has_more": True,
        "next_cursor": ...,
    }


@pytest.mark.parametrize(
    ("skip", "limit", "found", "has_more"),
    [
        (0, 2, 2, True),
        (0, 3, 3, False),
        (0, 100, 3, False),
        (1, 2, 2, False),
        (2, 1, 1, False),
        (1, 1, 1, True),
        (3, 1, 0, False),
        (2**31 - 1, 100, 0, False),
    ],
)
async def test_total_and_has_more_are_exact(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    skip: int,
    limit: int,
    found: int,
    has_more: bool,
) -> None:
    await add_posts(db, await get_user_id(client, ada), [NOON] * 3)

    response = await client.get("/api/posts", params={"skip": skip, "limit": limit})

    page = response.json()
    assert (len(page["posts"]), page["total"]) == (found, 3)
    assert page["has_more"] is has_more


async def test_list_has_ten_posts_by_default(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    await add_posts(db, await get_user_id(client, ada), [NOON] * 11)

    page = (await client.get("/api/posts")).json()

    assert (len(page["posts"]), page["limit"]) == (10, 10)


@pytest.mark.parametrize("path", ["/api/posts", "/api/users/{id}/posts"])
async def test_simultaneous_posts_have_stable_order(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession, path: str
) -> None:
    user_id = await get_user_id(client, ada)
    await add_posts(db, user_id, [NOON] * 7)
    # The index would return the right order even without a complete ORDER BY.
    await db.execute(text("SET LOCAL enable_indexscan = off"))
    await db.execute(text("SET LOCAL enable_bitmapscan = off"))

    pages = [
        (await client.get(path.format(id=user_id), params={"skip": skip, "limit": 2}))
        for skip in (0, 2, 4, 6)
    ]

    listed = [title for page in pages for title in titles(page.json())]
    assert listed == ["6", "5", "4", "3", "2", "1", "0"]


async def test_list_is_ordered_by_date_before_id(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    moments = [NOON, NOON + timedelta(days=1), NOON - timedelta(days=1)]
    await add_posts(db, await get_user_id(client, ada), moments)

    response = await client.get("/api/posts")

    assert titles(response.json()) == ["1", "0", "2"]


@pytest.mark.parametrize("path", ["/api/posts", "/api/users/{id}/posts"])
@pytest.mark.parametrize(
    "query",
    ["skip=-1", "skip=x", "skip=2147483648", "limit=0", "limit=-1", "limit=101"],
)
async def test_list_rejects_out_of_range_skip_and_limit(
    client: AsyncClient, ada: dict[str, str], path: str, query: str
) -> None:
    user_id = await get_user_id(client, ada)

    response = await client.get(f"{path.format(id=user_id)}?{query}")

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]


async def test_listed_posts_match_single_posts(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    post = await create_post(client, ada)

    listed = (await client.get("/api/posts")).json()["posts"]

    assert listed == [post]


# Single posts


async def test_get_post_not_found(client: AsyncClient) -> None:
    response = await client.get("/api/posts/1")

    assert response.status_code == 404
    assert response.json() == {"detail": "Post not found"}


async def test_get_post_includes_author(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    post = await create_post(client, ada)

    response = await client.get(f"/api/posts/{post['id']}")

    assert response.status_code == 200
    assert response.json() == post
    assert response.json()["author"] == {
        "id": await get_user_id(client, ada),
        "username": "ada",
        "image_file": None,
        "image_path": "/static/profile_pics/default.jpg",
    }


@pytest.mark.parametrize("post_id", ["0", "-1", "2147483647", "2147483648", "1" * 30])
@pytest.mark.parametrize("method", ["GET", *CHANGES])
async def test_unknown_post_id_is_not_found(
    client: AsyncClient, ada: dict[str, str], method: str, post_id: str
) -> None:
    response = await client.request(
        method, f"/api/posts/{post_id}", json=WHOLE, headers=ada
    )

    assert response.status_code == 404
    assert response.json() == {"detail": "Post not found"}


@pytest.mark.parametrize("post_id", ["x", "1.5", "1e3", "%00", "1%20OR%201=1"])
@pytest.mark.parametrize("method", ["GET", *CHANGES])
async def test_non_integer_post_id_is_rejected(
    client: AsyncClient, ada: dict[str, str], method: str, post_id: str
) -> None:
    response = await client.request(
        method, f"/api/posts/{post_id}", json=WHOLE, headers=ada
    )

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["path", "post_id"]


# Creating


async def test_create_post_success(client: AsyncClient, ada: dict[str, str]) -> None:
    response = await client.post(
        "/api/posts", json={"title": "Tea", "content": "Is ready."}, headers=ada
    )

    post = response.json()
    assert response.status_code == 201
    assert (post["title"], post["content"]) == ("Tea", "Is ready.")
    assert post["user_id"] == post["author"]["id"] == await get_user_id(client, ada)
    assert post.keys() >= {"id", "date_posted"}


async def test_create_post_unauthorized(client: AsyncClient) -> None:
    response = await client.post("/api/posts", json={"title": "T", "content": "C"})

    assert response.status_code == 401
    assert response.json() == {"detail": "Not authenticated"}
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_new_post_has_current_utc_date(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    post = await create_post(client, ada)

    posted = datetime.fromisoformat(post["date_posted"])
    assert posted.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - posted) < timedelta(minutes=1)


@pytest.mark.parametrize("title", [{}, {"title": None}, {"title": ""}, {"title": " "}])
async def test_post_without_title_has_empty_title(
    client: AsyncClient, ada: dict[str, str], title: dict[str, Any]
) -> None:
    response = await client.post(
        "/api/posts", json={"content": "Some content", **title}, headers=ada
    )

    assert response.status_code == 201
    assert response.json()["title"] == ""


async def test_title_is_trimmed_and_content_is_not(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    post = await create_post(client, ada, title="  T \n", content="\n  C  \n")

    assert (post["title"], post["content"]) == ("T", "\n  C  \n")


async def test_unknown_fields_of_new_post_are_ignored(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    bobs_id = await get_user_id(client, bob)

    post = await create_post(
        client, ada, id=77, user_id=bobs_id, likes=9, date_posted="2001-01-01T00:00Z"
    )

    assert post["user_id"] == await get_user_id(client, ada)
    assert post["id"] != 77
    assert not post["date_posted"].startswith("2001")


async def test_markup_is_stored_unchanged(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    markup = "<script>alert('&amp;')</script> 100 % {{ 7 * 7 }} \U0001f600"

    post = await create_post(client, ada, content=markup)

    assert (await client.get(f"/api/posts/{post['id']}")).json()["content"] == markup


# Changing and deleting


@pytest.mark.parametrize("method", CHANGES)
async def test_change_requires_login(
    client: AsyncClient, ada: dict[str, str], method: str
) -> None:
    post = await create_post(client, ada)

    response = await client.request(method, f"/api/posts/{post['id']}", json=WHOLE)

    assert response.status_code == 401
    assert response.json() == {"detail": "Not authenticated"}
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/posts"),
        ("PUT", "/api/posts/1"),
        ("PATCH", "/api/posts/1"),
        ("PUT", "/api/posts/x"),
        ("DELETE", "/api/posts/x"),
    ],
)
async def test_login_is_checked_first(
    client: AsyncClient, method: str, path: str
) -> None:
    response = await client.request(method, path, json={"content": 7})

    assert response.status_code == 401


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_missing_post_is_checked_before_input(
    client: AsyncClient, ada: dict[str, str], method: str
) -> None:
    response = await client.request(
        method, "/api/posts/1", json={"content": 7}, headers=ada
    )

    assert response.status_code == 404


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_author_is_checked_before_input(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str], method: str
) -> None:
    post = await create_post(client, ada)

    response = await client.request(
        method, f"/api/posts/{post['id']}", json={"content": 7}, headers=bob
    )

    assert response.status_code == 403


async def test_update_post_wrong_user(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    post = await create_post(client, ada)

    response = await client.patch(f"/api/posts/{post['id']}", json={}, headers=bob)

    assert response.status_code == 403
    assert response.json() == {"detail": "Not authorized to update this post"}


@pytest.mark.parametrize(
    ("method", "detail"),
    [
        ("PUT", "Not authorized to update this post"),
        ("PATCH", "Not authorized to update this post"),
        ("DELETE", "Not authorized to delete this post"),
    ],
)
async def test_post_of_another_user_is_unchanged(
    client: AsyncClient,
    ada: dict[str, str],
    bob: dict[str, str],
    method: str,
    detail: str,
) -> None:
    post = await create_post(client, ada)

    response = await client.request(
        method, f"/api/posts/{post['id']}", json=WHOLE, headers=bob
    )

    assert (response.status_code, response.json()) == (403, {"detail": detail})
    assert (await client.get(f"/api/posts/{post['id']}")).json() == post


async def test_update_post_success(client: AsyncClient, ada: dict[str, str]) -> None:
    post = await create_post(client, ada)

    response = await client.patch(
        f"/api/posts/{post['id']}", json={"title": "Another title"}, headers=ada
    )

    assert response.status_code == 200
    assert response.json() == {
        **post,
        "title": "Another title",
        "display_title": "Another title",
        "date_updated": response.json()["date_updated"],
    }
    assert (await client.get(f"/api/posts/{post['id']}")).json() == response.json()


@pytest.mark.parametrize(
    "nothing", [{}, {"title": None, "content": None}, {"user_id": 1, "id": 1}]
)
async def test_patch_without_known_fields_changes_nothing(
    client: AsyncClient, ada: dict[str, str], nothing: dict[str, Any]
) -> None:
    post = await create_post(client, ada)

    response = await client.patch(f"/api/posts/{post['id']}", json=nothing, headers=ada)

    assert response.status_code == 200
    assert response.json() == post


async def test_patch_with_empty_title_removes_title(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    post = await create_post(client, ada, title="A title")

    response = await client.patch(
        f"/api/posts/{post['id']}", json={"title": ""}, headers=ada
    )

    assert response.status_code == 200
    assert response.json()["title"] == ""


async def test_put_replaces_title_and_content(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    post = await create_post(client, ada)

    response = await client.put(
        f"/api/posts/{post['id']}", json={**WHOLE, "user_id": 1}, headers=ada
    )

    assert response.status_code == 200
    changed = response.json()
    assert (changed["title"], changed["content"]) == tuple(WHOLE.values())
    assert (changed["id"], changed["user_id"], changed["date_posted"]) == (
        post["id"],
        post["user_id"],
        post["date_posted"],
    )


@pytest.mark.parametrize("missing", ["title", "content"])
async def test_put_requires_both_fields(
    client: AsyncClient, ada: dict[str, str], missing: str
) -> None:
    post = await create_post(client, ada)
    body = {name: text for name, text in WHOLE.items() if name != missing}

    response = await client.put(f"/api/posts/{post['id']}", json=body, headers=ada)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", missing]


@pytest.mark.parametrize("title", ["", None])
async def test_put_with_null_title_removes_title(
    client: AsyncClient, ada: dict[str, str], title: str | None
) -> None:
    post = await create_post(client, ada)

    response = await client.put(
        f"/api/posts/{post['id']}", json={"title": title, "content": "C"}, headers=ada
    )

    assert response.status_code == 200
    assert response.json()["title"] == ""


async def test_put_rejects_null_content(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    post = await create_post(client, ada)

    response = await client.put(
        f"/api/posts/{post['id']}", json={"title": "T", "content": None}, headers=ada
    )

    assert response.status_code == 422


async def test_delete_post_success(client: AsyncClient, ada: dict[str, str]) -> None:
    post = await create_post(client, ada)

    response = await client.delete(f"/api/posts/{post['id']}", headers=ada)

    assert (response.status_code, response.content) == (204, b"")
    assert (await client.get(f"/api/posts/{post['id']}")).status_code == 404
    again = await client.delete(f"/api/posts/{post['id']}", headers=ada)
    assert (again.status_code, again.json()) == (404, {"detail": "Post not found"})


# Untitled posts


async def test_untitled_post_uses_first_words_of_content(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    content = "  Rain\n\nfell " + "and fell " * 50

    post = await create_post(client, ada, title="", content=content)

    assert post["display_title"].startswith("Rain fell and fell")
    assert len(post["display_title"]) <= 60
