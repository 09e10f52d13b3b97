"""Dependencies of the routes: conditional requests, and the limit on long pages."""

import pytest
from httpx import AsyncClient, Response

import dependencies
from tests.conftest import Headers, Json

EDIT = {"title": "Coffee", "content": "Was ready."}
OTHER_ETAG = '"other"'
METHODS = ["PUT", "PATCH", "DELETE"]


@pytest.fixture
def path(post: Json) -> str:
    return f"/api/posts/{post['id']}"


async def read_etag(client: AsyncClient, path: str) -> str:
    return str((await client.get(path)).headers["ETag"])


async def change(
    client: AsyncClient,
    method: str,
    path: str,
    headers: Headers,
    etag: str | None = None,
) -> Response:
    condition = {"If-Match": etag} if etag is not None else {}
    return await client.request(method, path, json=EDIT, headers=headers | condition)


class TestIfMatch:
    @pytest.mark.parametrize("condition", ["{}", '"other", {}', " * "])
    @pytest.mark.parametrize("method", METHODS)
    async def test_match(self, client, ada, path, method, condition):
        condition = condition.format(await read_etag(client, path))

        response = await change(client, method, path, ada, condition)

        assert response.is_success

    @pytest.mark.parametrize("condition", [OTHER_ETAG, "W/{}", "", '"*"'])
    @pytest.mark.parametrize("method", METHODS)
    async def test_no_match(self, client, ada, path, method, condition):
        etag = await read_etag(client, path)

        response = await change(client, method, path, ada, condition.format(etag))

        assert response.status_code == 412
        assert response.headers["ETag"] == etag == await read_etag(client, path)
        assert response.json() == {
            "detail": "The post has been modified since you last read it"
        }

    async def test_order_of_checks(self, client, ada, bob, path):
        calls = [({}, "/api/posts/0"), (bob, "/api/posts/0"), (bob, path), (ada, path)]

        responses = [
            await client.patch(
                url, json={"content": 7}, headers={**caller, "If-Match": OTHER_ETAG}
            )
            for caller, url in calls
        ]

        assert [response.status_code for response in responses] == [401, 404, 403, 412]

    async def test_edited_elsewhere(self, client, ada, path):
        etag = await read_etag(client, path)
        edit = await client.patch(path, json={"title": "Edited"}, headers=ada)

        stale = await change(client, "PATCH", path, ada, etag)
        current = await change(client, "PATCH", path, ada, edit.headers["ETag"])

        assert (stale.status_code, current.status_code) == (412, 200)

    async def test_author_renamed(self, client, ada, post, path):
        etag = await read_etag(client, path)
        user = f"/api/users/{post['user_id']}"
        await client.patch(user, json={"username": "lady"}, headers=ada)

        response = await change(client, "DELETE", path, ada, etag)

        assert response.status_code == 412

    async def test_several_headers(self, client, ada, path):
        etags = [OTHER_ETAG, await read_etag(client, path)]
        headers = [*ada.items(), *(("If-Match", etag) for etag in etags)]

        response = await client.patch(path, json=EDIT, headers=headers)

        assert response.status_code == 200

    async def test_too_long(self, client, ada, path):
        response = await change(client, "DELETE", path, ada, f'"{"x" * 8192}"')

        assert response.status_code == 422
        assert (await client.get(path)).status_code == 200

    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    async def test_etag_of_response(self, client, ada, path, method):
        path = "/api/posts" if method == "POST" else path

        response = await change(client, method, path, ada)

        path = f"/api/posts/{response.json()['id']}"
        assert response.headers["ETag"] == await read_etag(client, path)

    async def test_put_returns_no_etag(self, client, ada, path):
        response = await change(client, "PUT", path, ada)

        # RFC 9110, section 9.3.4, forbids one, because the post isn't stored as sent.
        assert "ETag" not in response.headers


@pytest.mark.parametrize("path", ["/api/posts", "/api/users/{user_id}/posts"])
async def test_concurrent_long_pages(client, post, path, monkeypatch):
    monkeypatch.setattr(dependencies, "LONG_PAGE_TIMEOUT", 0.01)
    short = f"{path.format(**post)}?limit={dependencies.MAX_SHORT_LIMIT}"
    long = f"{path.format(**post)}?limit={dependencies.MAX_SHORT_LIMIT + 1}"

    async with dependencies._long_pages, dependencies._long_pages:
        responses = [await client.get(long), await client.get(short)]
    later = [await client.get(long) for _ in range(3)]

    assert [response.status_code for response in responses] == [503, 200]
    assert responses[0].headers["Retry-After"] == "5"
    assert [response.status_code for response in later] == [200] * 3


async def test_failed_long_pages(client):
    path = f"/api/users/0/posts?limit={dependencies.MAX_SHORT_LIMIT + 1}"

    responses = [await client.get(path) for _ in range(3)]

    assert [response.status_code for response in responses] == [404] * 3
