"""ETags: 304 responses, and updates that don't overwrite others."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from httpx import AsyncClient

from conditional_requests import etag_matches
from main import static_path
from tests.conftest import create_post, get_user_id, sign_up
from tests.conftest import create_test_user as create_user

# Long enough to be compressed.
LONG = "Rain fell. " * 100
CHANGE = {"title": "Another title", "content": "Other content"}
OTHER_ETAG = '"other"'
ENCODINGS = ["identity", "gzip", "br"]
PLAIN = {"Accept-Encoding": "identity"}

# Filled with the ids of a post and its author.
LISTS = ["/api/posts", "/api/users/{user}/posts", "/", "/users/{user}/posts"]
FEEDS = ["/feed.atom", "/users/{user}/feed.atom"]
COMPRESSED = ["/api/posts/{post}", "/posts/{post}", "/feed.atom"]

each_encoding = pytest.mark.parametrize("encoding", ENCODINGS)
each_change = pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])

Change = Callable[[AsyncClient, dict[str, str], str], Awaitable[Any]]


@pytest.fixture
async def post(client: AsyncClient, ada: dict[str, str]) -> dict[str, Any]:
    return await create_post(client, ada, content=LONG)


@pytest.fixture
def path(post: dict[str, Any]) -> str:
    return f"/api/posts/{post['id']}"


@pytest.fixture
async def etag(client: AsyncClient, path: str) -> str:
    return await get_etag(client, path)


async def get_etag(client: AsyncClient, path: str, encoding: str = "identity") -> str:
    response = await client.get(path, headers={"Accept-Encoding": encoding})
    assert response.status_code == 200, response.text
    etag: str = response.headers["etag"]
    return etag


def fill(path: str, post: dict[str, Any]) -> str:
    return path.format(post=post["id"], user=post["user_id"])


class TestMatching:
    @pytest.mark.parametrize(
        "condition",
        [
            '"a"',
            '"other", "a"',
            '"a","other"',
            ', "a" ,, "b"',
            '"b, c", "a"',
            "*",
            " * ",
        ],
    )
    def test_listed(self, condition: str) -> None:
        assert etag_matches(condition, '"a"')
        assert etag_matches(condition, '"a"', weakly=True)

    @pytest.mark.parametrize(
        "condition",
        ['"other"', "", "garbage", '"', '"*"', "a", '"a', 'a"', '"ax"', '"xa"', "'a'"],
    )
    def test_not_listed(self, condition: str) -> None:
        assert not etag_matches(condition, '"a"')
        assert not etag_matches(condition, '"a"', weakly=True)

    @pytest.mark.parametrize(
        ("condition", "etag"), [('W/"a"', '"a"'), ('W/"a"', 'W/"a"'), ('"a"', 'W/"a"')]
    )
    def test_weak_etags_match_only_weakly(self, condition: str, etag: str) -> None:
        assert not etag_matches(condition, etag)
        assert etag_matches(condition, etag, weakly=True)


class TestCacheableResponse:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(
        "path",
        [
            *LISTS,
            *FEEDS,
            "/api/posts/{post}",
            "/posts/{post}",
            "/api/users",
            "/api/users/{user}",
            "/login",
            "/docs",
            "/openapi.json",
            "/sitemap.xml",
            "/sitemaps/posts-0.xml",
            "/robots.txt",
        ],
    )
    async def test_is_not_sent_again(
        self, client: AsyncClient, post: dict[str, Any], path: str, method: str
    ) -> None:
        first = await client.request(method, fill(path, post))
        headers = {"If-None-Match": first.headers["etag"]}

        response = await client.request(method, fill(path, post), headers=headers)

        assert first.headers["etag"].startswith('"')
        assert first.headers["cache-control"] == "no-cache"
        assert (response.status_code, response.content) == (304, b"")
        same = ("etag", "cache-control", "vary", "link")
        assert [response.headers.get(name) for name in same] == [
            first.headers.get(name) for name in same
        ]
        body_headers = {"content-type", "content-length", "content-encoding"}
        assert not body_headers & response.headers.keys()

    async def test_outdated_copy_is_replaced(
        self, client: AsyncClient, path: str, etag: str
    ) -> None:
        response = await client.get(path, headers=PLAIN | {"If-None-Match": OTHER_ETAG})

        assert response.status_code == 200
        assert response.headers["etag"] == etag
        assert response.json()["content"] == LONG

    async def test_if_none_match_in_several_headers(
        self, client: AsyncClient, path: str, etag: str
    ) -> None:
        headers = [*PLAIN.items(), ("If-None-Match", OTHER_ETAG)]

        response = await client.get(path, headers=[*headers, ("If-None-Match", etag)])

        assert response.status_code == 304

    @pytest.mark.parametrize("path", ["/api/posts?limit=1", "/api/users?limit=1"])
    async def test_304_has_next_link(
        self, client: AsyncClient, ada: dict[str, str], bob: dict[str, str], path: str
    ) -> None:
        await create_post(client, ada)
        await create_post(client, bob)
        first = await client.get(path)

        response = await client.get(
            path, headers={"If-None-Match": first.headers["etag"]}
        )

        assert response.status_code == 304
        assert response.headers["link"] == first.headers["link"]


class TestETagChanges:
    @staticmethod
    async def edit(client: AsyncClient, ada: dict[str, str], path: str) -> None:
        # The same length and beginning, so that no excerpt shows the difference.
        content = {"content": LONG.replace("fell", "FELL")}
        await client.patch(path, json=content, headers=ada)

    @staticmethod
    async def rename(client: AsyncClient, ada: dict[str, str], path: str) -> None:
        user = f"/api/users/{await get_user_id(client, ada)}"
        await client.patch(user, json={"username": "lady ada"}, headers=ada)

    @staticmethod
    async def publish(client: AsyncClient, ada: dict[str, str], path: str) -> None:
        await create_post(client, ada)

    @staticmethod
    async def delete(client: AsyncClient, ada: dict[str, str], path: str) -> None:
        await client.delete(path, headers=ada)

    @pytest.mark.parametrize(
        ("change", "paths"),
        [
            (edit, [*LISTS, *FEEDS, *COMPRESSED]),
            (rename, [*LISTS, *FEEDS, *COMPRESSED, "/api/users", "/api/users/{user}"]),
            (publish, [*LISTS, *FEEDS, "/sitemaps/posts-0.xml"]),
            (delete, [*LISTS, *FEEDS, "/sitemaps/posts-0.xml"]),
        ],
        ids=["edit", "rename", "publish", "delete"],
    )
    async def test_with_content(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        post: dict[str, Any],
        path: str,
        change: Any,
        paths: list[str],
    ) -> None:
        # So that something remains when a post is deleted.
        await create_post(client, ada)
        paths = [fill(each, post) for each in paths]
        before = {each: await get_etag(client, each) for each in paths}

        await change(client, ada, path)

        after = {each: await get_etag(client, each) for each in paths}
        assert before.items().isdisjoint(after.items())

    async def test_only_with_content(
        self, client: AsyncClient, ada: dict[str, str], path: str, etag: str
    ) -> None:
        await create_post(client, ada)
        await client.patch(path, json={}, headers=ada)

        assert await get_etag(client, path) == etag


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
    async def test_is_always_sent(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        post: dict[str, Any],
        method: str,
        path: str,
        status: int,
    ) -> None:
        headers = ada | {"If-None-Match": "*"}

        response = await client.request(
            method, fill(path, post), headers=headers, json=CHANGE
        )

        assert response.status_code == status
        assert response.headers["cache-control"] == "no-store"

    @pytest.mark.parametrize("path", ["/api/users/me", "/health"])
    async def test_has_no_etag(
        self, client: AsyncClient, ada: dict[str, str], path: str
    ) -> None:
        assert "etag" not in (await client.get(path, headers=ada)).headers


class TestEncoding:
    @pytest.mark.parametrize("path", COMPRESSED)
    async def test_has_its_own_etag(
        self, client: AsyncClient, post: dict[str, Any], path: str
    ) -> None:
        path = fill(path, post)

        etags = [await get_etag(client, path, encoding) for encoding in ENCODINGS]

        plain = etags[0].strip('"')
        assert etags == [f'"{plain}"', f'"{plain}-gzip"', f'"{plain}-br"']

    @each_encoding
    @pytest.mark.parametrize("weak", ["", "W/"])
    async def test_is_revalidated_by_its_etag(
        self, client: AsyncClient, path: str, encoding: str, weak: str
    ) -> None:
        # Proxies that change the bytes weaken the ETag.
        etag = await get_etag(client, path, encoding)

        response = await client.get(
            path, headers={"Accept-Encoding": encoding, "If-None-Match": weak + etag}
        )

        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
        assert response.headers["vary"] == "Accept-Encoding"
        assert "content-encoding" not in response.headers

    @each_encoding
    async def test_304_names_etag_of_accepted_encoding(
        self, client: AsyncClient, path: str, encoding: str
    ) -> None:
        # A shared cache sends the ETags of all stored encodings (RFC 9111, section 4.1)
        # and serves the one that the response names.
        etags = {each: await get_etag(client, path, each) for each in ENCODINGS}
        headers = {"If-None-Match": ", ".join(etags.values())}

        response = await client.get(
            path, headers={"Accept-Encoding": encoding} | headers
        )

        assert response.status_code == 304
        assert response.headers["etag"] == etags[encoding]

    async def test_of_short_response(
        self, client: AsyncClient, post: dict[str, Any]
    ) -> None:
        path = fill("/api/users/{user}", post)

        etags = {await get_etag(client, path, encoding) for encoding in ENCODINGS}

        assert len(etags) == 1

    @each_encoding
    async def test_of_response_in_chunks(
        self, client: AsyncClient, ada: dict[str, str], encoding: str
    ) -> None:
        texts = [f"{n} {'Rain fell. ' * 5000}" for n in range(10)]
        for text in texts:
            await create_post(client, ada, content=text)

        response = await client.get("/api/posts", headers={"Accept-Encoding": encoding})

        posts = response.json()["posts"]
        assert [post["content"] for post in posts] == texts[::-1]
        assert response.headers.get("content-encoding", "identity") == encoding

    async def test_of_any_characters(self, client: AsyncClient) -> None:
        # ETags are hashes of bytes, so no character may cause an error.
        user = await create_user(client, "Éva 😀")

        response = await client.get(
            f"/api/users/{user['id']}", headers={"If-None-Match": "*"}
        )

        assert response.status_code == 304


class TestStaticFile:
    @each_encoding
    async def test_is_revalidated(self, client: AsyncClient, encoding: str) -> None:
        path = static_path("css/main.css")
        headers = {"Accept-Encoding": encoding}
        first = await client.get(path, headers=headers)

        response = await client.get(
            path, headers=headers | {"If-None-Match": first.headers["etag"]}
        )

        assert first.headers.get("content-encoding", "identity") == encoding
        assert (response.status_code, response.content) == (304, b"")
        for name in ("etag", "cache-control", "vary"):
            assert response.headers[name] == first.headers[name]

    @pytest.mark.parametrize(
        ("encoding", "status"), [("identity", 206), ("gzip", 200), ("br", 200)]
    )
    async def test_has_ranges_only_if_uncompressed(
        self, client: AsyncClient, encoding: str, status: int
    ) -> None:
        path = static_path("css/main.css")
        headers = {
            "Range": "bytes=5-9",
            "If-Range": await get_etag(client, path, encoding),
        }

        response = await client.get(path, headers=headers)

        assert response.status_code == status


class TestIfMatch:
    @each_change
    @pytest.mark.parametrize("condition", ["{etag}", f"{OTHER_ETAG}, {{etag}}", "*"])
    async def test_current_etag_allows_change(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        path: str,
        etag: str,
        method: str,
        condition: str,
    ) -> None:
        headers = ada | {"If-Match": condition.format(etag=etag)}

        response = await client.request(method, path, json=CHANGE, headers=headers)

        assert response.is_success

    @each_change
    @pytest.mark.parametrize("condition", [OTHER_ETAG, "W/{etag}", ""])
    async def test_other_etag_is_rejected(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        path: str,
        etag: str,
        method: str,
        condition: str,
    ) -> None:
        headers = ada | {"If-Match": condition.format(etag=etag)}

        response = await client.request(method, path, json=CHANGE, headers=headers)

        assert response.status_code == 412
        detail = "The post has been modified since you last read it"
        assert response.json() == {"detail": detail}
        assert response.headers["etag"] == await get_etag(client, path) == etag

    @each_change
    @pytest.mark.parametrize(
        "change", [TestETagChanges.edit, TestETagChanges.rename], ids=["edit", "rename"]
    )
    async def test_newer_version_needs_its_etag(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        path: str,
        etag: str,
        method: str,
        change: Change,
    ) -> None:
        await change(client, ada, path)
        rejected = await client.request(
            method, path, json=CHANGE, headers=ada | {"If-Match": etag}
        )

        accepted = await client.request(
            method,
            path,
            json=CHANGE,
            headers=ada | {"If-Match": rejected.headers["etag"]},
        )

        assert rejected.status_code == 412
        assert accepted.is_success

    @each_encoding
    async def test_etag_of_any_encoding_allows_change(
        self, client: AsyncClient, ada: dict[str, str], path: str, encoding: str
    ) -> None:
        etag = await get_etag(client, path, encoding)

        response = await client.delete(path, headers=ada | {"If-Match": etag})

        assert response.status_code == 204

    async def test_in_several_headers(
        self, client: AsyncClient, ada: dict[str, str], path: str, etag: str
    ) -> None:
        headers = [*ada.items(), ("If-Match", OTHER_ETAG), ("If-Match", etag)]

        response = await client.delete(path, headers=headers)

        assert response.status_code == 204

    async def test_too_long(
        self, client: AsyncClient, ada: dict[str, str], path: str
    ) -> None:
        headers = ada | {"If-Match": f'"{"x" * 8192}"'}

        response = await client.delete(path, headers=headers)

        assert response.status_code == 422

    @pytest.mark.parametrize(
        ("caller", "post_id", "condition", "status"),
        [
            ("anonymous", "{post}", OTHER_ETAG, 401),
            ("anonymous", "0", OTHER_ETAG, 401),
            ("bob", "0", OTHER_ETAG, 404),
            ("bob", "{post}", OTHER_ETAG, 403),
            ("ada", "0", "*", 404),
            ("ada", "{post}", OTHER_ETAG, 412),
            ("ada", "{post}", "*", 422),
        ],
    )
    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    async def test_order_of_checks(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        bob: dict[str, str],
        post: dict[str, Any],
        method: str,
        caller: str,
        post_id: str,
        condition: str,
        status: int,
    ) -> None:
        callers: dict[str, dict[str, str]] = {"anonymous": {}, "ada": ada, "bob": bob}

        response = await client.request(
            method,
            fill(f"/api/posts/{post_id}", post),
            json={"content": 7},
            headers=callers[caller] | {"If-Match": condition},
        )

        assert response.status_code == status
        assert ("etag" in response.headers) == (status == 412)


class TestETagOfChange:
    @pytest.mark.parametrize(
        ("method", "body"), [("POST", CHANGE), ("PATCH", CHANGE), ("PATCH", {})]
    )
    async def test_is_that_of_the_next_get(
        self,
        client: AsyncClient,
        ada: dict[str, str],
        path: str,
        method: str,
        body: dict[str, str],
    ) -> None:
        url = {"POST": "/api/posts", "PATCH": path}[method]

        response = await client.request(method, url, json=body, headers=ada | PLAIN)

        path = f"/api/posts/{response.json()['id']}"
        assert response.headers["etag"] == await get_etag(client, path)
        assert response.content == (await client.get(path)).content

    async def test_is_absent_after_put(
        self, client: AsyncClient, ada: dict[str, str], path: str
    ) -> None:
        # RFC 9110, section 9.3.4: the stored content differs from what was sent.
        response = await client.put(path, json=CHANGE, headers=ada)

        assert "etag" not in response.headers


class TestConcurrentChanges:
    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    async def test_one_wins(self, concurrent_client: AsyncClient, method: str) -> None:
        ada = await sign_up(concurrent_client, "ada")
        path = f"/api/posts/{(await create_post(concurrent_client, ada))['id']}"
        headers = ada | {"If-Match": await get_etag(concurrent_client, path)}
        bodies = [{"title": "T", "content": str(n)} for n in range(20)]

        responses = await asyncio.gather(
            *(
                concurrent_client.request(method, path, json=body, headers=headers)
                for body in bodies
            )
        )

        statuses = [response.status_code for response in responses]
        assert Counter(statuses) == {200: 1, 412: 19}
        stored = (await concurrent_client.get(path)).json()
        assert stored["content"] == str(statuses.index(200))

    async def test_edit_or_deletion_wins(self, concurrent_client: AsyncClient) -> None:
        ada = await sign_up(concurrent_client, "ada")
        path = f"/api/posts/{(await create_post(concurrent_client, ada))['id']}"
        headers = ada | {"If-Match": await get_etag(concurrent_client, path)}

        edit, deletion = await asyncio.gather(
            concurrent_client.patch(path, json=CHANGE, headers=headers),
            concurrent_client.delete(path, headers=headers),
        )

        statuses = (edit.status_code, deletion.status_code)
        assert statuses in {(200, 412), (404, 204)}
