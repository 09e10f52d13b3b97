"""Commands for operators."""

import asyncio
import logging
from datetime import timedelta

import pytest
from httpx import AsyncClient
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from config import settings
from image_utils import upload_profile_image
from manage import app
from tests.conftest import (
    PASSWORD,
    Headers,
    create_post,
    database_url,
    get_user_id,
    list_objects,
    sign_up,
    upload_picture,
)
from tests.databases import execute

ADA = "ada@example.com"


@pytest.fixture(autouse=True)
def log_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def manage(*arguments: str, stdin: str = "", **environment: str) -> Result:
    """Run a command in a thread, because it starts an event loop."""
    return await asyncio.to_thread(
        CliRunner().invoke, app, arguments, input=stdin, env=environment
    )


@pytest.fixture
async def site(concurrent_client: AsyncClient) -> AsyncClient:
    """Return a client that commits, so that commands see its changes."""
    return concurrent_client


@pytest.fixture
async def ada(site: AsyncClient) -> Headers:
    return await sign_up(site, "ada")


async def log_in(site: AsyncClient, password: str = PASSWORD) -> int:
    form = {"username": ADA, "password": password}
    return (await site.post("/api/users/token", data=form)).status_code


class TestUsers:
    async def test_create(self, site, monkeypatch):
        monkeypatch.setattr(settings, "registration_open", False)
        environment = {"PASSWORD": PASSWORD}

        created = await manage("create-user", "ada", ADA, **environment)
        again = await manage("create-user", "ada", ADA, **environment)
        invalid = await manage("create-user", "bob", "bob", PASSWORD="short")

        assert (created.exit_code, await log_in(site)) == (0, 200)
        assert (again.exit_code, again.stderr) == (1, "Username already exists\n")
        assert "email: " in invalid.stderr
        assert "password: " in invalid.stderr

    async def test_list_and_show(self, site, ada):
        await create_post(site, ada)
        user_id = await get_user_id(site, ada)

        listed = (await manage("list-users")).stdout
        shown = (await manage("show-user", ADA)).stdout

        assert listed == f"{user_id}\t{ADA}\tada\tactive\n"
        assert shown == f"{user_id}\t{ADA}\tada\tactive\t1 posts\n"

    async def test_deactivate_and_reactivate(self, site, ada, caplog):
        user_id = await get_user_id(site, ada)
        await site.post("/api/users/forgot-password", json={"email": ADA})

        await manage("deactivate-user", str(user_id), "--yes")
        me = await site.get("/api/users/me", headers=ada)
        statuses = [await log_in(site), await log_in(site, "wrong")]
        profile = await site.get(f"/api/users/{user_id}")
        await manage("reactivate-user", ADA)

        assert f"User {user_id} deactivated" in caplog.text
        assert (me.status_code, statuses) == (401, [401, 401])
        assert (
            await execute(database_url(), "SELECT * FROM password_reset_tokens") == []
        )
        assert profile.status_code == 200
        assert await log_in(site) == 200
        assert (await site.get("/api/users/me", headers=ada)).status_code == 401

    async def test_delete(self, site, ada, caplog):
        user_id = await get_user_id(site, ada)
        await create_post(site, ada)

        refused = await manage("delete-user", ADA, stdin="n\n")
        await manage("delete-user", ADA, stdin="y\n")

        assert refused.exit_code == 1
        assert f"User {user_id} deleted" in caplog.text
        assert (await site.get("/api/posts")).json()["total"] == 0
        assert (await site.get(f"/api/users/{user_id}")).status_code == 404

    @pytest.mark.parametrize(
        "command", [("log-out-user", ADA), ("log-out-everyone", "--yes")]
    )
    async def test_log_out(self, site, ada, command):
        result = await manage(*command)

        assert result.exit_code == 0
        assert (await site.get("/api/users/me", headers=ada)).status_code == 401

    @pytest.mark.parametrize("name", ["7", "eve@example.com", "9" * 30])
    async def test_unknown_user(self, site, name):
        result = await manage("show-user", name)

        assert (result.exit_code, result.stderr) == (1, f"There is no user {name}\n")


class TestPosts:
    async def test_delete_one(self, site, ada):
        post = await create_post(site, ada)

        deleted = await manage("delete-post", str(post["id"]), "--yes")
        again = await manage("delete-post", str(post["id"]), "--yes")

        assert (deleted.exit_code, again.exit_code) == (0, 1)
        assert (await site.get(f"/api/posts/{post['id']}")).status_code == 404

    @pytest.mark.parametrize(
        ("since", "remaining"),
        [([], 0), (["--since", "2020-01-01"], 0), (["--since", "2100-01-01"], 2)],
    )
    async def test_delete_all(self, site, ada, caplog, since, remaining):
        for _ in range(2):
            await create_post(site, ada)

        await manage("delete-posts", ADA, *since, "--yes")

        assert f"{2 - remaining} posts of user " in caplog.text
        assert (await site.get("/api/posts")).json()["total"] == remaining


@pytest.mark.usefixtures("site")
class TestOthers:
    async def test_recount(self, site, ada):
        post = await create_post(site, ada)
        await execute(database_url(), "UPDATE post_counts SET posts = 7")

        corrected = await manage("recount")
        again = await manage("recount")

        assert corrected.stdout == (
            "Posts of the site: 7, corrected to 1\n"
            f"Posts of user {post['user_id']}: 7, corrected to 1\n"
            "Corrected totals: 2\n"
        )
        assert again.stdout == "Corrected totals: 0\n"

    async def test_remove_orphaned_pictures(self, site, bucket, monkeypatch):
        ada = await sign_up(site, "ada")
        user = (await upload_picture(site, ada)).json()
        upload_profile_image(b"a picture", "unused.jpg")
        monkeypatch.setattr("orphaned_pictures.MIN_AGE", timedelta(0))

        refused = await manage("remove-orphaned-pictures", stdin="n\n")
        stored = list_objects(bucket)
        await manage("remove-orphaned-pictures", "--yes")

        assert "delete 1 of 2 stored pictures" in refused.stdout
        assert len(stored) == 2
        assert list_objects(bucket) == [f"profile_pics/{user['image_file']}"]

    async def test_unavailable_storage(self, bucket):
        bucket.delete_bucket(Bucket="test-bucket")

        result = await manage("remove-orphaned-pictures")

        assert result.exit_code == 1
        assert result.stderr.startswith("Storage unavailable: NoSuchBucket: ")

    async def test_unavailable_database(self, monkeypatch):
        url = SecretStr("postgresql://ada:database-password@127.0.0.1:1/blog")

        # Undone before the fixtures clean up the database.
        with monkeypatch.context() as patch:
            patch.setattr(settings, "database_url", url)
            result = await manage("list-users")

        assert result.exit_code == 1
        assert result.stderr.startswith("Database unavailable: ")
        assert result.stderr.count("\n") == 1
        assert "database-password" not in result.stderr
