"""ETags: 304 responses, and updates that don't overwrite others."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from httpx import AsyncClient

from conditional_requests import etag_matches
from main import static_path
from routers.feeds import SITEMAP_LENGTH
from tests.conftest import Headers, Json, create_post, get_user_id, sign_up

# Long enough to be compressed.
LONG = "Rain fell. " * 100
CHANGE = {"title": "Another title", "content": "Other content"}
OTHER_ETAG = '"other"'
ENCODINGS = ["identity", "gzip", "br"]
PLAIN = {"Accept-Encoding": "identity"}

# The placeholders are fields of a post.
LISTS = ["/api/posts", "/api/users/{user_id}/posts", "/", "/users/{user_id}/posts"]
FEEDS = ["/feed.atom", "/users/{user_id}/feed.atom"]
COMPRESSED = ["/api/posts/{id}", "/posts/{id}", "/feed.atom"]
USERS = ["/api/users", "/api/users/{user_id}"]
# These responses link to the next page.
LONG_LISTS = [
    "/api/posts?limit=1",
    "/api/users?limit=1",
    "/api/users/{user_id}/posts?limit=1",
]
SITEMAP = "/sitemaps/posts-{part}.xml"
OTHERS = ["/login", "/docs", "/openapi.json", "/sitemap.xml", "/robots.txt"]

each_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


@pytest.fixture
async def post(client: AsyncClient, ada: Headers) -> Json:
    """Return a post, with the number of its sitemap as `part`."""
    post = await create_post(client, ada, content=LONG)
    return post | {"part": post["id"] // SITEMAP_LENGTH}


@pytest.fixture
def path(post: Json) -> str:
    return f"/api/posts/{post['id']}"


async def get_etag(client: AsyncClient, path: str, encoding: str = "identity") -> str:
    response = await client.get(path, headers={"Accept-Encoding": encoding})
    assert response.status_code == 200, response.text
    return str(response.headers["etag"])


# Changes to the content of responses

Action = Callable[[AsyncClient, Headers, str], Awaitable[None]]


async def edit(client: AsyncClient, ada: Headers, path: str) -> None:
    # Keep the length, because an ETag must not depend on it alone.
    content = {"content": LONG.replace("fell", "FELL")}
    await client.patch(path, json=content, headers=ada)


async def rename(client: AsyncClient, ada: Headers, path: str) -> None:
    user = f"/api/users/{await get_user_id(client, ada)}"
    await client.patch(user, json={"username": "lady ada"}, headers=ada)


async def publish(client: AsyncClient, ada: Headers, path: str) -> None:
    await create_post(client, ada)


async def delete(client: AsyncClient, ada: Headers, path: str) -> None:
    await client.delete(path, headers=ada)


class TestMatching:
    @pytest.mark.parametrize(
        "condition", ['"a"', '"other", "a"', ', "a" ,, "b"', '"b, c", "a"', " * "]
    )
    def test_listed(self, condition):
        assert etag_matches(condition, '"a"')
        assert etag_matches(condition, '"a"', weakly=True)

    @pytest.mark.parametrize("condition", ['"b"', "", "a", '"a', '"*"', '"ax"', '"xa"'])
    def test_not_listed(self, condition):
        assert not etag_matches(condition, '"a"')
        assert not etag_matches(condition, '"a"', weakly=True)

    @pytest.mark.parametrize(
        ("condition", "etag"), [('W/"a"', '"a"'), ('W/"a"', 'W/"a"'), ('"a"', 'W/"a"')]
    )
    def test_weak_etags_match_only_weakly(self, condition, etag):
        assert not etag_matches(condition, etag)
        assert etag_matches(condition, etag, weakly=True)


class TestCacheableResponse:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(
        "path", [*LISTS, *LONG_LISTS, *FEEDS, *COMPRESSED, *USERS, SITEMAP, *OTHERS]
    )
    async def test_is_not_sent_again(self, client, ada, bob, post, path, method):
        await create_post(client, ada)
        path = path.format(**post)
        first = await client.request(method, path)
        headers = {"If-None-Match": first.headers["etag"]}

        response = await client.request(method, path, headers=headers)

        assert first.headers["etag"].startswith('"')
        assert first.headers["cache-control"] == "no-cache"
        assert (response.status_code, response.content) == (304, b"")
        same = ("etag", "cache-control", "vary", "link")
        assert [response.headers.get(name) for name in same] == [
            first.headers.get(name) for name in same
        ]
        body_headers = {"content-type", "content-length", "content-encoding"}
        assert not body_headers & response.headers.keys()

    async def test_outdated_copy_is_replaced(self, client, path):
        response = await client.get(path, headers={"If-None-Match": OTHER_ETAG})

        assert response.status_code == 200
        assert response.json()["content"] == LONG

    async def test_if_none_match_in_several_headers(self, client, path):
        etags = (OTHER_ETAG, await get_etag(client, path))
        headers = [("If-None-Match", etag) for etag in etags]

        response = await client.get(path, headers=[*PLAIN.items(), *headers])

        assert response.status_code == 304


class TestETagChanges:
    @pytest.mark.parametrize(
        ("change", "paths"),
        [
            (edit, [*LISTS, *FEEDS, *COMPRESSED]),
            (rename, [*LISTS, *FEEDS, *COMPRESSED, *USERS]),
            (publish, [*LISTS, *FEEDS, SITEMAP]),
            (delete, [*LISTS, *FEEDS, SITEMAP]),
        ],
    )
    async def test_with_content(self, client, ada, post, path, change, paths):
        # Publish another post, so that a list isn't empty after the deletion.
        await create_post(client, ada)
        paths = [each.format(**post) for each in paths]
        before = {each: await get_etag(client, each) for each in paths}

        await change(client, ada, path)

        after = {each: await get_etag(client, each) for each in paths}
        assert before.items().isdisjoint(after.items())

    async def test_only_with_content(self, client, ada, path):
        etag = await get_etag(client, path)
        await create_post(client, ada)

        response = await client.patch(path, json={}, headers=ada | PLAIN)

        assert response.headers["etag"] == etag == await get_etag(client, path)


class TestUncacheableResponse:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/api/users/me", 200),
            ("HEAD", "/api/users/me", 200),
            ("GET", "/health", 200),
            ("POST", "/api/posts", 201),
            ("GET", "/api/posts/0", 404),
            ("GET", "/posts/x", 422),
            ("BREW", "/api/posts", 405),
            ("GET", "/login/", 307),
            ("GET", "/static/nothing.css", 404),
        ],
    )
    async def test_is_always_sent(self, client, ada, method, path, status):
        headers = ada | {"If-None-Match": "*"}

        response = await client.request(method, path, headers=headers, json=CHANGE)

        assert response.status_code == status
        assert response.headers["cache-control"] == "no-store"


class TestEncoding:
    @pytest.mark.parametrize("path", COMPRESSED)
    async def test_has_its_own_etag(self, client, post, path):
        path = path.format(**post)

        etags = [await get_etag(client, path, encoding) for encoding in ENCODINGS]

        plain = etags[0].strip('"')
        assert etags == [f'"{plain}"', f'"{plain}-gzip"', f'"{plain}-br"']

    # A proxy that changes the bytes weakens the ETag. A shared cache sends the ETags of
    # all encodings that it has stored, and then serves the one that the 304 names
    # (RFC 9111, section 4.1).
    @each_encoding
    @pytest.mark.parametrize("sent", ["{etag}", "W/{etag}", "{all}"])
    async def test_304_names_its_etag(self, client, path, encoding, sent):
        etags = {each: await get_etag(client, path, each) for each in ENCODINGS}
        sent = sent.format(etag=etags[encoding], all=", ".join(etags.values()))
        headers = {"Accept-Encoding": encoding, "If-None-Match": sent}

        response = await client.get(path, headers=headers)

        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etags[encoding]
        assert response.headers["vary"] == "Accept-Encoding"

    async def test_short_response_has_one(self, client, user_path):
        etags = {await get_etag(client, user_path, encoding) for encoding in ENCODINGS}

        assert len(etags) == 1

    @each_encoding
    async def test_response_in_chunks(self, client, ada, encoding):
        texts = [f"{n} {'Rain fell. ' * 5000}" for n in range(10)]
        [await create_post(client, ada, content=text) for text in texts]

        response = await client.get("/api/posts", headers={"Accept-Encoding": encoding})

        posts = response.json()["posts"]
        assert [post["content"] for post in posts] == texts[::-1]
        assert response.headers.get("content-encoding", "identity") == encoding


class TestStaticFile:
    @each_encoding
    async def test_is_revalidated(self, client, encoding):
        path = static_path("css/main.css")
        headers = {"Accept-Encoding": encoding}
        first = await client.get(path, headers=headers)
        headers["If-None-Match"] = first.headers["etag"]

        response = await client.get(path, headers=headers)

        assert first.headers.get("content-encoding", "identity") == encoding
        assert (response.status_code, response.content) == (304, b"")
        for name in ("etag", "cache-control", "vary"):
            assert response.headers[name] == first.headers[name]

    @pytest.mark.parametrize(("encoding", "status"), [("identity", 206), ("gzip", 200)])
    async def test_has_ranges_only_if_uncompressed(self, client, encoding, status):
        path = static_path("css/main.css")
        etag = await get_etag(client, path, encoding)
        headers = {"Range": "bytes=5-9", "If-Range": etag}

        response = await client.get(path, headers=headers)

        assert response.status_code == status


# tests/test_dependencies.py tests other uses of If-Match.
class TestConditionalChange:
    @pytest.mark.parametrize("encoding", ["gzip", "br"])
    async def test_if_match_with_encoded_etag(self, client, ada, path, encoding):
        headers = ada | {"If-Match": await get_etag(client, path, encoding)}

        response = await client.patch(path, json=CHANGE, headers=headers)

        assert response.status_code == 200

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    @pytest.mark.parametrize(
        ("condition", "is_rejected"), [("*", True), ("W/{}", True), (OTHER_ETAG, False)]
    )
    async def test_if_none_match(
        self, client, ada, path, method, condition, is_rejected
    ):
        etag = await get_etag(client, path)
        headers = ada | {"If-None-Match": condition.format(etag)}

        response = await client.request(method, path, json=CHANGE, headers=headers)

        stored = await client.get(path, headers=PLAIN)
        assert (response.status_code == 412) == is_rejected
        assert (stored.headers.get("etag") == etag) == is_rejected

    async def test_edit_or_deletion_wins(self, concurrent_client):
        ada = await sign_up(concurrent_client, "ada")
        path = f"/api/posts/{(await create_post(concurrent_client, ada))['id']}"
        headers = ada | {"If-Match": await get_etag(concurrent_client, path)}

        edit, deletion = await asyncio.gather(
            concurrent_client.patch(path, json=CHANGE, headers=headers),
            concurrent_client.delete(path, headers=headers),
        )

        statuses = (edit.status_code, deletion.status_code)
        assert statuses in {(200, 412), (404, 204)}
