"""Line endings and direction controls."""

import pytest
from httpx import AsyncClient

from tests.conftest import Headers, create_post

OVERRIDE = "\u202e"


class TestLineEndings:
    @pytest.mark.parametrize("saved", ["a\n\nb", "a\r\rb", "a\r\n\r\nb"], ids=repr)
    async def test_alone_change_nothing(
        self, client: AsyncClient, ada: Headers, saved: str
    ) -> None:
        post = await create_post(client, ada, content="a\r\n\r\nb")

        response = await client.put(
            f"/api/posts/{post['id']}",
            json={"title": post["title"], "content": saved},
            headers=ada,
        )

        assert response.json() == post

    async def test_new_paragraph_is_a_change(
        self, client: AsyncClient, ada: Headers
    ) -> None:
        post = await create_post(client, ada, content="a\r\nb")

        response = await client.patch(
            f"/api/posts/{post['id']}", json={"content": "a\n\nb"}, headers=ada
        )

        assert response.json()["content"] == "a\n\nb"
        assert response.json()["date_updated"] is not None

    async def test_carriage_return_is_a_line_break_in_feeds(
        self, client: AsyncClient, ada: Headers
    ) -> None:
        await create_post(client, ada, content="one\rtwo\r\rthree")

        feed = (await client.get("/feed.atom")).text

        assert "&lt;p&gt;one&lt;br&gt;two&lt;/p&gt;&lt;p&gt;three&lt;/p&gt;" in feed


class TestDirectionControls:
    async def test_title_is_stored_as_typed(
        self, client: AsyncClient, ada: Headers
    ) -> None:
        post = await create_post(client, ada, title=f"a{OVERRIDE}b")

        assert post["title"] == f"a{OVERRIDE}b"
        assert post["display_title"] == "ab"

    @pytest.mark.parametrize("path", ["/", "/posts/{id}", "/feed.atom"])
    async def test_are_not_in_titles(
        self, client: AsyncClient, ada: Headers, path: str
    ) -> None:
        post = await create_post(client, ada, title=f"a{OVERRIDE}b\u2067c", content="x")

        page = (await client.get(path.format(id=post["id"]))).text

        assert "abc" in page
        assert OVERRIDE not in page.partition("data-post-form")[0]

    async def test_are_not_in_description(
        self, client: AsyncClient, ada: Headers
    ) -> None:
        post = await create_post(client, ada, content=f"a{OVERRIDE}b")

        page = (await client.get(f"/posts/{post['id']}")).text

        assert '<meta name="description" content="ab">' in page
