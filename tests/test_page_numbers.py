"""Pages beyond the last one, and icons that browsers request by default."""

import pytest

from tests.conftest import create_post, get_user_id


class TestBeyondTheLastPage:
    @pytest.mark.parametrize("path", ["/", "/users/{id}/posts"])
    async def test_links_to_last_page(self, client, ada, path):
        path = path.format(id=await get_user_id(client, ada))
        for _ in range(11):
            await create_post(client, ada)

        response = await client.get(path, params={"page": 99_999})

        assert response.status_code == 404
        assert f'href="{path}?page=2"' in response.text
        assert '<meta name="robots" content="noindex">' in response.text

    @pytest.mark.parametrize("number", [0, 1])
    async def test_links_to_first_page(self, client, ada, number):
        [await create_post(client, ada) for _ in range(number)]

        response = await client.get("/?page=2")

        assert response.status_code == 404
        assert 'href="/">Show oldest posts' in response.text

    @pytest.mark.parametrize("path", ["/", "/users/{id}/posts"])
    async def test_first_page_always_exists(self, client, ada, path):
        path = path.format(id=await get_user_id(client, ada))

        response = await client.get(path, params={"page": 1})

        assert response.status_code == 200


@pytest.mark.parametrize(
    ("path", "media_type"),
    [("/favicon.ico", "image/x-icon"), ("/apple-touch-icon.png", "image/png")],
)
async def test_icon(client, path, media_type):
    response = await client.get(path)

    assert response.status_code == 200
    assert response.headers["Content-Type"] == media_type
    assert "ETag" in response.headers
