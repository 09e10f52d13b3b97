"""HTML pages: content, links, escaping, and what they load."""

import re
from datetime import UTC, datetime

import pytest
from httpx import AsyncClient

from tests.conftest import add_posts, create_post, get_user_id

# The placeholders are fields of a post.
WITH_POSTS = ["/", "/posts/{id}", "/users/{user_id}/posts"]
ACCOUNT_PAGES = ["/login", "/register", "/account", "/forgot-password"]
PAGES = [*WITH_POSTS, "/site/posts", *ACCOUNT_PAGES, "/reset-password"]


class TestPage:
    @pytest.mark.parametrize("path", PAGES)
    async def test_is_the_same_for_everyone(self, client, ada, post, path):
        anonymous = await client.get(path.format(**post))

        logged_in = await client.get(path.format(**post), headers=ada)

        assert anonymous.status_code == 200
        assert anonymous.headers["content-type"] == "text/html; charset=utf-8"
        assert "<title>" in anonymous.text
        assert logged_in.content == anonymous.content
        assert "set-cookie" not in logged_in.headers

    @pytest.mark.parametrize("path", [*PAGES, "/nothing", "/docs", "/redoc"])
    async def test_loads_nothing_external_or_inline(self, client, post, path):
        page = (await client.get(path.format(**post))).text

        # A canonical link loads nothing, and JSON-LD is not executed.
        page = re.sub(r'<link rel="canonical"[^>]*>', "", page)
        page = re.sub(r'<script type="application/ld\+json">', "", page)
        external = r"""(?:src|action|srcset)=["']?\s*(?:https?:)?//"""
        assert not re.search(external, page)
        assert not re.search(r"""<link[^>]*href=["']?\s*(?:https?:)?//""", page)
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\s(?:style|on\w+)=", page)

    @pytest.mark.parametrize("path", WITH_POSTS)
    async def test_title_of_untitled_post(self, client, ada, path):
        content = "Once upon a time " * 20
        post = await create_post(client, ada, title="", content=content)

        page = await client.get(path.format(**post))

        link = rf'href="/posts/{post["id"]}"[^>]*>\s*Once upon a time'
        assert re.search(rf"{link}|<h1[^>]*>\s*Once upon a time", page.text)


class TestPostList:
    @pytest.mark.parametrize("path", ["/", "/site/posts", "/users/{user_id}/posts"])
    async def test_links_posts(self, client, post, path):
        page = (await client.get(path.format(**post))).text

        assert post["title"] in page
        assert f'href="/posts/{post["id"]}"' in page

    async def test_links_author(self, client, post):
        author = f'href="/users/{post["user_id"]}/posts"'

        assert author in (await client.get("/")).text
        # The author's own page doesn't repeat the author on each card.
        assert author not in (await client.get(f"/users/{post['user_id']}/posts")).text

    async def test_author_page_omits_other_posts(self, client, post, bob):
        await create_post(client, bob, title="By bob")

        page = (await client.get(f"/users/{post['user_id']}/posts")).text

        assert post["title"] in page
        assert "By bob" not in page

    @pytest.mark.parametrize("path", ["/", "/users/{user_id}/posts"])
    async def test_links_older_posts(self, client, ada, path):
        posts = [await create_post(client, ada, title=f"No. {n}.") for n in range(11)]
        path = path.format(**posts[0])

        first, second = await client.get(path), await client.get(f"{path}?page=2")

        assert f'href="{path}?page=2"' in first.text
        assert "No. 10." in first.text
        assert "No. 0." not in first.text
        assert "No. 0." in second.text
        assert "?page=3" not in second.text


class TestNeighbors:
    @staticmethod
    async def links(client: AsyncClient, post_id: int) -> dict[str, tuple[str, str]]:
        """Return the path and the title of the newer ("prev") and older post."""
        page = (await client.get(f"/posts/{post_id}")).text
        found = r'<a href="(\S+)" rel="(\w+)">\w+ post <bdi>(.*?)</bdi>'
        return {rel: (path, title) for path, rel, title in re.findall(found, page)}

    async def test_same_author(self, client, db, ada, bob):
        noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
        user_id = await get_user_id(client, ada)
        first, second, third = await add_posts(db, user_id, [noon] * 3)
        await add_posts(db, await get_user_id(client, bob), [noon])

        links = [await self.links(client, n) for n in (first, second, third)]

        older, newer = (f"/posts/{first}", "-"), (f"/posts/{third}", "-")
        middle = (f"/posts/{second}", "-")
        assert links == [
            {"prev": middle},
            {"prev": newer, "next": older},
            {"next": middle},
        ]

    async def test_title(self, client, ada):
        content = "\u2063" * 300 + "<b> " + "long text " * 500
        await create_post(client, ada, title="", content=content)
        post = await create_post(client, ada)

        _path, title = (await self.links(client, post["id"]))["next"]

        assert title.startswith("&lt;b&gt; long text")
        assert title.endswith("\u2026")


async def test_post_page(client, ada):
    post = await create_post(client, ada, content="word " * 1000)

    page = (await client.get(f"/posts/{post['id']}")).text

    assert post["title"] in page
    assert post["content"] in page
