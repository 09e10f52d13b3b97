"""Usernames that look alike, and invisible text."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx import AsyncClient

from models import User
from tests.conftest import ADMIN_URL, Headers, create_post, create_test_user
from tests.databases import scratch_database
from tests.server import LiveServer

HANGUL_FILLER = "\u3164"
BLANK_BRAILLE = "\u2800"
INSERT_USERS = (
    "INSERT INTO users (username, username_key, email, password_hash) VALUES "
)


class TestUsernames:
    @pytest.mark.parametrize(
        "name", ["\u200d", HANGUL_FILLER, "\u115f", BLANK_BRAILLE], ids=ascii
    )
    async def test_invisible_name(self, client: AsyncClient, name: str) -> None:
        user_in = {"username": name, "email": "a@example.com", "password": "password"}

        response = await client.post("/api/users", json=user_in)

        assert response.status_code == 422

    @pytest.mark.parametrize(
        ("taken", "name"),
        [
            ("Alice", "Al\u200dice"),
            ("Alice", "Alice\ufe0f"),
            ("Alice", "Ａｌｉｃｅ"),
            ("Al ice", "Al  ice"),
            ("Straße", "STRASSE"),
        ],
        ids=ascii,
    )
    async def test_name_that_looks_like_a_taken_one(
        self, client: AsyncClient, taken: str, name: str
    ) -> None:
        await create_test_user(client, taken)
        user_in = {"username": name, "email": "b@example.com", "password": "password"}

        response = await client.post("/api/users", json=user_in)

        assert response.status_code == 400
        assert response.json() == {"detail": "Username already exists"}

    async def test_name_is_displayed_as_typed(self, client: AsyncClient) -> None:
        user = await create_test_user(client, "Ａl  ice")

        assert user["username"] == "Ａl  ice"


class TestInvisibleText:
    @pytest.mark.parametrize("title", ["\u200d", HANGUL_FILLER, "\u200b "], ids=ascii)
    async def test_invisible_title_is_untitled(
        self, client: AsyncClient, ada: Headers, title: str
    ) -> None:
        post = await create_post(client, ada, title=title, content="Hello")

        assert post["title"] == ""
        assert post["display_title"] == "Hello"

    async def test_invisible_content(self, client: AsyncClient, ada: Headers) -> None:
        content = f"{HANGUL_FILLER}\n{BLANK_BRAILLE}"

        response = await client.post(
            "/api/posts", json={"content": content}, headers=ada
        )

        assert response.status_code == 422


class TestMigration:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[LiveServer]:
        with scratch_database(ADMIN_URL) as url:
            yield LiveServer(tmp_path, database_url=url)

    def test_older_user_keeps_the_name(self, server: LiveServer) -> None:
        server.run("-m", "alembic", "upgrade", "0005")
        server.sql(
            INSERT_USERS
            + "('Ａda', 'ａda', 'a@b.example', ''), ('ada', 'ada', 'b@b.example', ''),"
            "('a  b', 'a  b', 'c@b.example', ''), ('old', NULL, 'd@b.example', '')"
        )

        server.migrate()

        keys = server.sql("SELECT username_key FROM users ORDER BY id")
        assert [row["username_key"] for row in keys] == ["ada", "\n2", "a b", "old"]

    def test_downgrade_restores_the_keys(self, server: LiveServer) -> None:
        server.migrate()
        server.sql(
            INSERT_USERS
            + "('Ａda', 'ada', 'a@b.example', ''), ('ada', E'\\n2', 'b@b.example', '')"
        )

        server.run("-m", "alembic", "downgrade", "0005")

        keys = server.sql("SELECT username_key FROM users ORDER BY id")
        assert [row["username_key"] for row in keys] == ["ａda", "ada"]


def test_unchanged_name_keeps_its_key() -> None:
    user = User(username="ada")
    user.username_key = "\n7"

    user.username = "ada"

    assert user.username_key == "\n7"
