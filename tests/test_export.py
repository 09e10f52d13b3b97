"""Export of a user's profile and posts."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from database import AsyncSessionLocal, connections_in_use
from models import User, utcnow
from routers import export
from tests.conftest import (
    add_posts,
    as_listed,
    create_post,
    get_current_user,
    get_user_id,
    sign_up,
)

URL = "/api/users/me/export"


class TestExport:
    @pytest.mark.parametrize("number", [0, 1, 2, 5])
    async def test_posts_in_batches(self, client, db, ada, monkeypatch, number):
        monkeypatch.setattr(export, "BATCH_SIZE", 2)
        # Some posts have the same date.
        dates = [utcnow() - timedelta(days=n // 2) for n in range(number)]
        ids = await add_posts(db, await get_user_id(client, ada), sorted(dates))

        response = await client.get(URL, headers=ada)

        assert response.json()["profile"] == await get_current_user(client, ada)
        assert [post["id"] for post in response.json()["posts"]] == ids[::-1]

    async def test_same_posts_as_in_lists(self, client, ada, bob):
        post = await create_post(client, ada, content='[é"]\r\n\u2028')
        await create_post(client, bob)

        response = await client.get(URL, headers=ada)

        assert response.json()["posts"] == [as_listed(post)]

    async def test_headers(self, client, ada):
        headers = (await client.get(URL, headers=ada)).headers

        assert headers["Content-Type"] == "application/json"
        assert headers["Content-Disposition"] == 'attachment; filename="export.json"'
        assert headers["Cache-Control"] == "no-store"
        assert "ETag" not in headers

    async def test_slow_client_occupies_no_connection(self, concurrent_client):
        ada = await sign_up(concurrent_client, "ada")
        await create_post(concurrent_client, ada)

        async with AsyncSessionLocal() as db:
            user = (await db.scalars(select(User))).one()
            chunks = export.export_chunks(db, user)
            await anext(chunks)
            await anext(chunks)

            assert connections_in_use() == 0
