"""When a post was last edited, and where that is shown."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from httpx import AsyncClient
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from models import Post
from templating import iso_date
from tests.conftest import create_post

POST = {"title": "Tea", "content": "Is ready."}
LAST_YEAR = datetime(2025, 11, 3, 9, 30, 15, tzinfo=UTC)
WITH_BYLINE = ["/", "/users/{user_id}/posts", "/posts/{id}"]
ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture
async def post(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> dict[str, Any]:
    """Return a post from last year, as the API returns it."""
    created = await create_post(client, ada, **POST)
    await db.execute(update(Post).values(date_posted=LAST_YEAR))
    await db.commit()
    return await read(client, created)


async def read(client: AsyncClient, post: dict[str, Any]) -> dict[str, Any]:
    """Read a post through the API."""
    found: dict[str, Any] = (await client.get(f"/api/posts/{post['id']}")).json()
    return found


async def change(
    client: AsyncClient,
    headers: dict[str, str],
    post: dict[str, Any],
    *,
    method: str = "PATCH",
    **texts: str | None,
) -> dict[str, Any]:
    """Update a post through the API and return the response's JSON."""
    response = await client.request(
        method, f"/api/posts/{post['id']}", json=texts, headers=headers
    )
    assert response.status_code == 200, response.text
    changed: dict[str, Any] = response.json()
    return changed


# In the API


async def test_new_post_has_no_edit_date(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    post = await create_post(client, ada)

    listed = (await client.get("/api/posts")).json()["posts"]

    assert post["date_updated"] is None
    assert [post["date_updated"] for post in listed] == [None]


@pytest.mark.parametrize(
    ("method", "texts"),
    [
        ("PUT", {**POST, "title": "Coffee"}),
        ("PUT", {**POST, "content": "Was ready."}),
        ("PUT", {**POST, "title": None}),
        ("PUT", {**POST, "title": ""}),
        ("PATCH", {"title": "Coffee"}),
        ("PATCH", {"title": "TEA"}),
        ("PATCH", {"title": ""}),
        ("PATCH", {"content": "Was ready."}),
        ("PATCH", {"content": "Is ready. "}),
        ("PATCH", {"title": "Tea", "content": "Was ready."}),
    ],
)
async def test_edited_post_has_edit_date(
    client: AsyncClient,
    ada: dict[str, str],
    post: dict[str, Any],
    method: str,
    texts: dict[str, str | None],
) -> None:
    before = datetime.now(UTC)

    changed = await change(client, ada, post, method=method, **texts)

    edited = datetime.fromisoformat(changed["date_updated"])
    assert before <= edited <= datetime.now(UTC)
    assert edited.utcoffset() == timedelta(0)
    assert changed["date_posted"] == post["date_posted"]
    assert await read(client, post) == changed


@pytest.mark.parametrize(
    ("method", "texts"),
    [
        ("PUT", POST),
        ("PUT", {**POST, "title": "  Tea "}),
        ("PATCH", {}),
        ("PATCH", POST),
        ("PATCH", {"title": "Tea"}),
        ("PATCH", {"title": None, "content": None}),
        ("PATCH", {"likes": 7}),
    ],
)
async def test_saving_same_text_is_no_edit(
    client: AsyncClient,
    ada: dict[str, str],
    post: dict[str, Any],
    method: str,
    texts: dict[str, Any],
) -> None:
    assert await change(client, ada, post, method=method, **texts) == post
    assert await read(client, post) == post


@pytest.mark.parametrize("title", [None, ""])
async def test_untitled_post_that_stays_untitled_is_no_edit(
    client: AsyncClient, ada: dict[str, str], title: str | None
) -> None:
    post = await create_post(client, ada, title=None)

    changed = await change(
        client, ada, post, method="PUT", title=title, content=post["content"]
    )

    assert changed["date_updated"] is None


async def test_saving_same_text_keeps_edit_date(
    client: AsyncClient, ada: dict[str, str], post: dict[str, Any]
) -> None:
    edited = await change(client, ada, post, title="Coffee")

    again = await change(client, ada, post, title="Coffee")

    assert again == edited


async def test_reverting_a_change_is_another_edit(
    client: AsyncClient, ada: dict[str, str], post: dict[str, Any]
) -> None:
    first = await change(client, ada, post, title="Coffee")

    second = await change(client, ada, post, title=post["title"])

    assert first["date_updated"] < second["date_updated"]


@pytest.mark.parametrize("texts", [{"content": " "}, {"title": "x" * 101}])
async def test_rejected_edit_sets_no_date(
    client: AsyncClient, ada: dict[str, str], post: dict[str, Any], texts: Any
) -> None:
    await client.patch(f"/api/posts/{post['id']}", json=texts, headers=ada)

    assert await read(client, post) == post


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
async def test_client_cannot_set_edit_date(
    client: AsyncClient, ada: dict[str, str], post: dict[str, Any], method: str
) -> None:
    path = "/api/posts" if method == "POST" else f"/api/posts/{post['id']}"

    response = await client.request(
        method, path, json={**POST, "date_updated": "2001-01-01T00:00Z"}, headers=ada
    )

    assert response.json()["date_updated"] is None


async def test_renaming_the_author_is_no_edit(
    client: AsyncClient, ada: dict[str, str], post: dict[str, Any]
) -> None:
    await client.patch(
        f"/api/users/{post['user_id']}", json={"username": "lady"}, headers=ada
    )

    assert (await read(client, post))["date_updated"] is None


async def test_edited_post_keeps_its_place_in_lists(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    posts = [await create_post(client, ada) for _ in range(3)]

    await change(client, ada, posts[0], title="Coffee")

    listed = (await client.get("/api/posts")).json()["posts"]
    assert [post["id"] for post in listed] == [post["id"] for post in reversed(posts)]


# Pages


def edited_marks(page: str) -> list[str]:
    """Return the visible edit marks of all posts on a page."""
    # The empty card for scripts is in a template element.
    page = re.sub(r"<template.*?</template>", "", page, flags=re.DOTALL)
    marks = re.findall(r"<span data-byline-target=.edited.([^>]*)>(.*?)</span>", page)
    return [mark for attributes, mark in marks if "hidden" not in attributes]


@pytest.mark.parametrize("path", WITH_BYLINE)
async def test_page_shows_no_edit_of_unedited_post(
    client: AsyncClient, post: dict[str, Any], path: str
) -> None:
    page = (await client.get(path.format(**post))).text

    assert iso_date(LAST_YEAR) in page
    assert edited_marks(page) == []


@pytest.mark.parametrize("path", WITH_BYLINE)
async def test_page_shows_edit_date(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    post: dict[str, Any],
    path: str,
) -> None:
    await change(client, ada, post, title="Coffee")
    edited = datetime(2026, 2, 1, 23, 59, 59, tzinfo=UTC)
    await db.execute(update(Post).values(date_updated=edited))
    await db.commit()

    page = (await client.get(path.format(**post))).text

    (mark,) = edited_marks(page)
    (moment, day) = re.findall(r'<time[^>]* datetime="([^"]+)">([^<]+)</time>', mark)[0]
    assert mark.startswith("edited ")
    assert (moment, day) == ("2026-02-01T23:59:59+00:00", "February 01, 2026")
    assert iso_date(LAST_YEAR) in page


# Metadata and feeds


def parse_head(page: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the meta properties and JSON-LD of a page."""
    properties = dict(re.findall(r'<meta property="([^"]+)" content="([^"]+)">', page))
    (data,) = re.findall(r'<script type="application/ld\+json">(.*?)</script>', page)
    return properties, json.loads(data)


async def test_post_metadata_has_publication_date(
    client: AsyncClient, post: dict[str, Any]
) -> None:
    properties, data = parse_head((await client.get(f"/posts/{post['id']}")).text)

    assert properties["article:published_time"] == iso_date(LAST_YEAR)
    assert "article:modified_time" not in properties
    assert data["datePublished"] == data["dateModified"] == iso_date(LAST_YEAR)


async def test_post_metadata_has_modification_date(
    client: AsyncClient, ada: dict[str, str], post: dict[str, Any]
) -> None:
    changed = await change(client, ada, post, title="Coffee")
    modified = iso_date(datetime.fromisoformat(changed["date_updated"]))

    properties, data = parse_head((await client.get(f"/posts/{post['id']}")).text)

    assert properties["article:published_time"] == iso_date(LAST_YEAR)
    assert properties["article:modified_time"] == modified
    assert data["datePublished"] == iso_date(LAST_YEAR)
    assert data["dateModified"] == modified


async def get_updates(client: AsyncClient, path: str) -> list[str | None]:
    """Return the update times of a feed and its entries."""
    feed = ElementTree.fromstring((await client.get(path)).content)
    return [feed.findtext(f"{ATOM}updated")] + [
        entry.findtext(f"{ATOM}updated") for entry in feed.findall(f"{ATOM}entry")
    ]


@pytest.mark.parametrize("path", ["/feed.atom", "/users/{user_id}/feed.atom"])
async def test_feed_has_edit_date(
    client: AsyncClient, ada: dict[str, str], post: dict[str, Any], path: str
) -> None:
    before = await get_updates(client, path.format(**post))

    changed = await change(client, ada, post, title="Coffee")

    edited = iso_date(datetime.fromisoformat(changed["date_updated"]))
    assert before == [iso_date(LAST_YEAR)] * 2
    assert await get_updates(client, path.format(**post)) == [edited, edited]


async def test_feed_update_time_is_its_latest_edit(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession, post: dict[str, Any]
) -> None:
    newest = await create_post(client, ada)
    edited = datetime.fromisoformat(newest["date_posted"]) + timedelta(hours=1)
    await db.execute(
        update(Post).where(Post.id == post["id"]).values(date_updated=edited)
    )
    await db.commit()

    feed, *entries = await get_updates(client, "/feed.atom")

    posted = iso_date(datetime.fromisoformat(newest["date_posted"]))
    assert entries == [posted, iso_date(edited)]
    assert feed == iso_date(edited)
