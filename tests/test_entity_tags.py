"""ETags: 304 responses, and updates that do not overwrite others."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

import pytest
from httpx import AsyncClient
from PIL import Image

from main import static_path
from tests.conftest import (
    PASSWORD,
    auth_header,
    create_post,
    create_test_user,
    get_user_id,
    login_user,
    sign_up,
)

CROWD = 20
LONG = "Rain fell. " * 100
WHOLE = {"title": "Another title", "content": "Other content"}
CHANGES = ["PUT", "PATCH", "DELETE"]
OTHER_ETAG = '"other"'

# Filled with the ids of an existing {post} and {user}.
POST_LISTS = ["/api/posts", "/api/users/{user}/posts"]
POST_LIST_PAGES = ["/", "/site/posts", "/users/{user}/posts"]
FEEDS = ["/feed.atom", "/users/{user}/feed.atom"]
WITH_THE_POST = [
    *POST_LISTS,
    *POST_LIST_PAGES,
    *FEEDS,
    "/api/posts/{post}",
    "/posts/{post}",
]
WITH_THE_USER = [*WITH_THE_POST, "/api/users", "/api/users/{user}"]
TAGGED = [
    *WITH_THE_USER,
    "/api/posts?skip=1&limit=1",
    "/?page=1",
    "/login",
    "/account",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/sitemap.xml",
    "/sitemaps/posts-0.xml",
    "/robots.txt",
]
ENCODINGS = ["identity", "gzip", "br"]
PLAIN = {"Accept-Encoding": "identity"}
COMPRESSED = ["/api/posts", "/api/posts/{post}", "/posts/{post}", "/feed.atom"]


@pytest.fixture
async def places(client: AsyncClient, ada: dict[str, str]) -> dict[str, int]:
    """Return the ids of a post and its author, to fill into paths."""
    post = await create_post(client, ada, content=LONG)
    return {"post": post["id"], "user": post["user_id"]}


@pytest.fixture
def post_path(places: dict[str, int]) -> str:
    return f"/api/posts/{places['post']}"


@pytest.fixture
async def etag(client: AsyncClient, post_path: str) -> str:
    """Return the ETag of the post."""
    return await get_etag(client, post_path)


async def get_etag(client: AsyncClient, path: str, encoding: str = "identity") -> str:
    """Return the ETag for a path."""
    response = await client.get(path, headers={"Accept-Encoding": encoding})
    assert response.status_code == 200, response.text
    etag: str = response.headers["etag"]
    return etag


# Reads


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", TAGGED)
async def test_response_has_strong_etag_and_is_revalidated(
    client: AsyncClient, places: dict[str, int], path: str, method: str
) -> None:
    response = await client.request(method, path.format(**places))

    assert response.status_code == 200
    assert response.headers["etag"].startswith('"')
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", TAGGED)
async def test_cached_response_is_not_sent_again(
    client: AsyncClient, places: dict[str, int], path: str, method: str
) -> None:
    path = path.format(**places)
    etag = (await client.get(path)).headers["etag"]

    response = await client.request(method, path, headers={"If-None-Match": etag})

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == etag
    assert response.headers["cache-control"] == "no-cache"
    assert not {"content-type", "content-length", "content-encoding"} & set(
        response.headers
    )


@pytest.mark.parametrize(
    "condition",
    [
        "{etag}",
        "W/{etag}",
        '"other", {etag}',
        '{etag},"other"',
        'W/"other" , W/{etag}',
        ', {etag} ,, "other"',
        '"with, comma", {etag}',
        "*",
        " * ",
    ],
)
async def test_matching_if_none_match_returns_304(
    client: AsyncClient, post_path: str, etag: str, condition: str
) -> None:
    headers = {"If-None-Match": condition.format(etag=etag)}

    response = await client.get(post_path, headers={**PLAIN, **headers})

    assert response.status_code == 304
    assert response.headers["etag"].removeprefix("W/") == etag


@pytest.mark.parametrize(
    "condition",
    [
        OTHER_ETAG,
        f"W/{OTHER_ETAG}",
        "",
        "garbage",
        '"',
        '"*"',
        "{bare}",
        '"{bare}',
        '{bare}"',
        '"{bare}x"',
        '"x{bare}"',
        '"{bare}-zstd"',
        "w/\"other\", '{bare}'",
    ],
)
async def test_other_if_none_match_returns_full_response(
    client: AsyncClient, post_path: str, etag: str, condition: str
) -> None:
    headers = {"If-None-Match": condition.format(bare=etag.strip('"'))}

    response = await client.get(post_path, headers={**PLAIN, **headers})

    assert response.status_code == 200
    assert response.headers["etag"] == etag
    assert response.json()["content"] == LONG


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_if_none_match_can_span_several_headers(
    client: AsyncClient, post_path: str, encoding: str
) -> None:
    etag = await get_etag(client, post_path, encoding)

    response = await client.get(
        post_path,
        headers=[
            ("Accept-Encoding", encoding),
            ("If-None-Match", OTHER_ETAG),
            ("If-None-Match", etag),
        ],
    )

    assert response.status_code == 304
    assert response.headers["etag"] == etag


@pytest.mark.parametrize("path", [*POST_LISTS, "/api/users"])
async def test_not_modified_list_has_next_link(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str], path: str
) -> None:
    posts = [await create_post(client, ada) for _ in range(2)]
    path = f"{path.format(user=posts[0]['user_id'])}?limit=1"
    answer = await client.get(path)
    known = {"If-None-Match": answer.headers["etag"]}

    response = await client.get(path, headers=known)

    assert response.status_code == 304
    assert response.headers["link"] == answer.headers["link"]


# When an ETag changes

Change = Callable[[AsyncClient, dict[str, str], dict[str, int]], Awaitable[Any]]


async def edit(
    client: AsyncClient, author: dict[str, str], places: dict[str, int]
) -> None:
    # The same length and beginning, so that no excerpt shows the difference.
    await client.patch(
        f"/api/posts/{places['post']}",
        json={"content": LONG.replace("fell", "FELL")},
        headers=author,
    )


async def rename(
    client: AsyncClient, author: dict[str, str], places: dict[str, int]
) -> None:
    await client.patch(
        f"/api/users/{places['user']}", json={"username": "lady ada"}, headers=author
    )


async def change_picture(
    client: AsyncClient, author: dict[str, str], places: dict[str, int]
) -> None:
    output = BytesIO()
    Image.new("RGB", (30, 30)).save(output, "PNG")
    response = await client.patch(
        f"/api/users/{places['user']}/picture",
        files={"file": ("me.png", output.getvalue())},
        headers=author,
    )
    assert response.status_code == 200


async def publish(
    client: AsyncClient, author: dict[str, str], places: dict[str, int]
) -> None:
    await create_post(client, author)


async def remove(
    client: AsyncClient, author: dict[str, str], places: dict[str, int]
) -> None:
    await client.delete(f"/api/posts/{places['post']}", headers=author)


@pytest.mark.parametrize(
    ("change", "paths"),
    [
        (edit, WITH_THE_POST),
        (rename, WITH_THE_USER),
        (change_picture, [path for path in WITH_THE_USER if path not in FEEDS]),
        (publish, [*POST_LISTS, *POST_LIST_PAGES, *FEEDS, "/sitemaps/posts-0.xml"]),
        (remove, [*POST_LISTS, *POST_LIST_PAGES, *FEEDS, "/sitemaps/posts-0.xml"]),
    ],
)
async def test_etag_changes_with_content(
    client: AsyncClient,
    ada: dict[str, str],
    places: dict[str, int],
    change: Change,
    paths: list[str],
) -> None:
    # So that something remains when a post is deleted.
    await create_post(client, ada)
    paths = [path.format(**places) for path in paths]
    before = {path: await get_etag(client, path) for path in paths}

    await change(client, ada, places)

    after = {path: await get_etag(client, path) for path in paths}
    assert [path for path in paths if before[path] == after[path]] == []


async def test_etag_is_stable_without_changes(
    client: AsyncClient, ada: dict[str, str], places: dict[str, int]
) -> None:
    paths = [f"/api/posts/{places['post']}", f"/api/users/{places['user']}"]
    before = [await get_etag(client, path) for path in paths]

    await create_post(client, ada)
    await client.patch(paths[0], json={}, headers=ada)

    assert [await get_etag(client, path) for path in paths] == before


# Uncacheable responses


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/users/me", {}, 200),
        ("HEAD", "/api/users/me", {}, 200),
        ("GET", "/health", {}, 200),
        (
            "POST",
            "/api/users/token",
            {"data": {"username": "ada@example.com", "password": PASSWORD}},
            200,
        ),
        ("POST", "/api/users/forgot-password", {"json": {"email": "a@b.example"}}, 202),
        ("POST", "/api/posts", {"json": WHOLE}, 201),
        ("PATCH", "/api/users/{user}", {"json": {}}, 200),
        ("GET", "/api/posts/0", {}, 404),
        ("GET", "/api/nothing", {}, 404),
        ("GET", "/api/posts?skip=x", {}, 422),
        ("PATCH", "/api/users/0", {}, 403),
        ("BREW", "/api/posts", {}, 405),
        ("GET", "/nothing", {}, 404),
        ("GET", "/posts/x", {}, 422),
        ("POST", "/login", {}, 405),
        ("GET", "/login/", {}, 307),
        ("GET", "/static/nothing.css", {}, 404),
    ],
)
async def test_uncacheable_response_is_always_sent(
    client: AsyncClient,
    ada: dict[str, str],
    places: dict[str, int],
    method: str,
    path: str,
    body: dict[str, Any],
    status: int,
) -> None:
    response = await client.request(
        method,
        path.format(**places),
        headers={**ada, "If-None-Match": "*"},
        **body,
    )

    assert response.status_code == status
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/api/users/me", "/health"])
async def test_uncacheable_response_has_no_etag(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    assert "etag" not in (await client.get(path, headers=ada)).headers


# Encodings


@pytest.mark.parametrize("path", COMPRESSED)
async def test_each_encoding_has_its_own_strong_etag(
    client: AsyncClient, places: dict[str, int], path: str
) -> None:
    path = path.format(**places)

    plain, gzip, brotli = [
        await get_etag(client, path, encoding) for encoding in ENCODINGS
    ]

    assert gzip == f'{plain[:-1]}-gzip"'
    assert brotli == f'{plain[:-1]}-br"'


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("weak", ["", "W/"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("path", COMPRESSED)
async def test_each_encoding_is_revalidated_by_its_etag(
    client: AsyncClient,
    places: dict[str, int],
    path: str,
    encoding: str,
    weak: str,
    method: str,
) -> None:
    path = path.format(**places)
    # Proxies that change the bytes weaken the ETag.
    etag = weak + await get_etag(client, path, encoding)

    response = await client.request(
        method, path, headers={"Accept-Encoding": encoding, "If-None-Match": etag}
    )

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == etag.removeprefix("W/")
    assert "content-encoding" not in response.headers


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_not_modified_names_etag_of_accepted_encoding(
    client: AsyncClient, post_path: str, encoding: str
) -> None:
    # A shared cache sends the ETags of all stored encodings (RFC 9111, 4.1) and serves
    # the one that the response names.
    etags = {each: await get_etag(client, post_path, each) for each in ENCODINGS}

    response = await client.get(
        post_path,
        headers={
            "Accept-Encoding": encoding,
            "If-None-Match": ", ".join(sorted(etags.values())),
        },
    )

    assert response.status_code == 304
    assert response.headers["etag"] == etags[encoding]


@pytest.mark.parametrize("path", [*COMPRESSED, "/static/css/main.css"])
async def test_not_modified_has_same_vary(
    client: AsyncClient, places: dict[str, int], path: str
) -> None:
    # RFC 9110, section 15.4.5: a 304 has the same `Vary`.
    answer = await client.get(path.format(**places))
    known = {"If-None-Match": answer.headers["etag"]}

    response = await client.get(path.format(**places), headers=known)

    assert answer.headers["vary"] == "Accept-Encoding"
    assert response.headers.get("vary") == "Accept-Encoding"


async def test_uncompressed_short_response_has_one_etag(
    client: AsyncClient, places: dict[str, int]
) -> None:
    path = f"/api/users/{places['user']}"

    etags = {await get_etag(client, path, encoding) for encoding in ENCODINGS}

    assert len(etags) == 1


# Static files


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_static_file_is_cached_for_a_year_with_etag(
    client: AsyncClient, encoding: str
) -> None:
    path = static_path("css/main.css")
    headers = {"Accept-Encoding": encoding}
    first = await client.get(path, headers=headers)

    response = await client.get(
        path, headers={**headers, "If-None-Match": first.headers["etag"]}
    )

    assert first.headers.get("content-encoding", "identity") == encoding
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == first.headers["etag"]
    for answer in (first, response):
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_encodings_of_static_file_have_different_etags(
    client: AsyncClient,
) -> None:
    path = static_path("css/main.css")

    etags = {await get_etag(client, path, encoding) for encoding in ENCODINGS}

    assert len(etags) == len(ENCODINGS)


async def test_compressed_static_file_has_no_byte_ranges(
    client: AsyncClient,
) -> None:
    path = static_path("css/main.css")
    etags = {encoding: await get_etag(client, path, encoding) for encoding in ENCODINGS}

    responses = {
        encoding: await client.get(
            path, headers={"Range": "bytes=5-9", "If-Range": etags[encoding]}
        )
        for encoding in ENCODINGS
    }

    statuses = {
        encoding: response.status_code for encoding, response in responses.items()
    }
    assert statuses == {"identity": 206, "gzip": 200, "br": 200}


# Conditional updates


@pytest.mark.parametrize(
    "condition",
    [None, "{etag}", f"{OTHER_ETAG}, {{etag}}", f"{{etag}},W/{OTHER_ETAG}", "*", " * "],
)
@pytest.mark.parametrize("method", CHANGES)
async def test_matching_if_match_allows_change(
    client: AsyncClient,
    ada: dict[str, str],
    post_path: str,
    etag: str,
    method: str,
    condition: str | None,
) -> None:
    headers = ada if condition is None else {**ada, "If-Match": condition}
    headers = {name: value.format(etag=etag) for name, value in headers.items()}

    response = await client.request(method, post_path, json=WHOLE, headers=headers)

    assert response.is_success
    after = await client.get(post_path)
    if method == "DELETE":
        assert after.status_code == 404
    else:
        assert after.json()["content"] == WHOLE["content"]


@pytest.mark.parametrize(
    "condition",
    [
        OTHER_ETAG,
        f"{OTHER_ETAG}, W/{OTHER_ETAG}",
        "W/{etag}",
        "",
        "garbage",
        '"*"',
        "{bare}",
    ],
)
@pytest.mark.parametrize("method", CHANGES)
async def test_other_if_match_is_rejected(
    client: AsyncClient,
    ada: dict[str, str],
    post_path: str,
    etag: str,
    method: str,
    condition: str,
) -> None:
    condition = condition.format(etag=etag, bare=etag.strip('"'))
    before = (await client.get(post_path)).json()

    response = await client.request(
        method, post_path, json=WHOLE, headers={**ada, "If-Match": condition}
    )

    assert response.status_code == 412
    assert response.json() == {
        "detail": "The post has been modified since you last read it"
    }
    assert response.headers["etag"] == etag
    assert (await client.get(post_path)).json() == before


@pytest.mark.parametrize("change", [edit, rename])
@pytest.mark.parametrize("method", CHANGES)
async def test_concurrent_edit_requires_new_etag(
    client: AsyncClient,
    ada: dict[str, str],
    places: dict[str, int],
    post_path: str,
    etag: str,
    method: str,
    change: Change,
) -> None:
    await change(client, ada, places)

    refused = await client.request(
        method, post_path, json=WHOLE, headers={**ada, "If-Match": etag}
    )
    new_tag = refused.headers["etag"]
    again = await client.request(
        method, post_path, json=WHOLE, headers={**ada, "If-Match": new_tag}
    )

    assert (refused.status_code, again.is_success) == (412, True)
    assert new_tag != etag


@pytest.mark.parametrize("method", CHANGES)
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_etag_of_any_encoding_allows_change(
    client: AsyncClient, ada: dict[str, str], post_path: str, encoding: str, method: str
) -> None:
    etag = await get_etag(client, post_path, encoding)

    response = await client.request(
        method, post_path, json=WHOLE, headers={**ada, "If-Match": etag}
    )

    assert response.is_success


async def test_if_match_can_span_several_headers(
    client: AsyncClient, ada: dict[str, str], post_path: str, etag: str
) -> None:
    lines = [*ada.items(), ("If-Match", OTHER_ETAG), ("If-Match", etag)]

    response = await client.patch(post_path, json=WHOLE, headers=lines)

    assert response.status_code == 200


async def test_too_long_if_match_is_rejected(
    client: AsyncClient, ada: dict[str, str], post_path: str
) -> None:
    headers = {**ada, "If-Match": f'"{"x" * 8192}"'}

    response = await client.delete(post_path, headers=headers)

    assert response.status_code == 422
    assert (await client.get(post_path)).status_code == 200


@pytest.mark.parametrize(
    ("who", "which", "condition", "status"),
    [
        (None, "post", OTHER_ETAG, 401),
        (None, "missing", OTHER_ETAG, 401),
        ("bob", "missing", OTHER_ETAG, 404),
        ("bob", "missing", "*", 404),
        ("bob", "post", OTHER_ETAG, 403),
        ("bob", "post", "*", 403),
        ("ada", "missing", "*", 404),
        ("ada", "post", OTHER_ETAG, 412),
        ("ada", "post", "*", 422),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_order_of_checks(
    client: AsyncClient,
    ada: dict[str, str],
    bob: dict[str, str],
    places: dict[str, int],
    method: str,
    who: str | None,
    which: str,
    condition: str,
    status: int,
) -> None:
    headers = {None: {}, "ada": ada, "bob": bob}[who]
    post_id = {"post": places["post"], "missing": 0}[which]

    response = await client.request(
        method,
        f"/api/posts/{post_id}",
        json={"content": 7},
        headers={**headers, "If-Match": condition},
    )

    assert response.status_code == status
    assert ("etag" in response.headers) == (status == 412)


# ETags in responses to changes


@pytest.mark.parametrize(
    ("method", "body"),
    [("POST", WHOLE), ("PATCH", WHOLE), ("PATCH", {}), ("PATCH", {"title": ""})],
)
async def test_change_returns_etag_of_next_get(
    client: AsyncClient,
    ada: dict[str, str],
    post_path: str,
    method: str,
    body: dict[str, str],
) -> None:
    path = "/api/posts" if method == "POST" else post_path

    response = await client.request(method, path, json=body, headers={**ada, **PLAIN})

    path = f"/api/posts/{response.json()['id']}"
    assert response.headers["etag"] == await get_etag(client, path)
    assert response.content == (await client.get(path)).content


async def test_put_returns_no_etag(
    client: AsyncClient, ada: dict[str, str], post_path: str
) -> None:
    # RFC 9110, section 9.3.4: the stored content differs from what was sent.
    response = await client.put(post_path, json=WHOLE, headers=ada)

    assert response.status_code == 200
    assert "etag" not in response.headers


# Concurrency


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_one_concurrent_writer_with_same_etag_wins(
    concurrent_client: AsyncClient, method: str
) -> None:
    ada = await sign_up(concurrent_client, "ada")
    post = await create_post(concurrent_client, ada)
    path = f"/api/posts/{post['id']}"
    headers = {**ada, "If-Match": await get_etag(concurrent_client, path)}

    responses = await asyncio.gather(
        *(
            concurrent_client.request(
                method, path, json={"title": "T", "content": str(n)}, headers=headers
            )
            for n in range(CROWD)
        )
    )

    statuses = [response.status_code for response in responses]
    assert Counter(statuses) == {200: 1, 412: CROWD - 1}
    stored = await concurrent_client.get(path)
    assert stored.json()["content"] == str(statuses.index(200))
    refused = {r.headers["etag"] for r in responses if r.status_code == 412}
    assert refused == {await get_etag(concurrent_client, path)}


async def test_either_change_or_deletion_wins(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")
    post = await create_post(concurrent_client, ada)
    path = f"/api/posts/{post['id']}"
    headers = {**ada, "If-Match": await get_etag(concurrent_client, path)}

    change, deletion = await asyncio.gather(
        concurrent_client.patch(path, json=WHOLE, headers=headers),
        concurrent_client.delete(path, headers=headers),
    )

    statuses = (change.status_code, deletion.status_code)
    assert statuses in {(200, 412), (404, 204)}


async def test_etags_and_compression_work_for_any_username(
    client: AsyncClient,
) -> None:
    # ETags are computed from bytes, so no character may cause an error.
    await create_test_user(client, "Éva 😀")
    eva = auth_header(await login_user(client))
    post = await create_post(client, eva, content="ß\u2028" * 600)
    path = f"/api/posts/{post['id']}"
    etags = [await get_etag(client, path, encoding) for encoding in ENCODINGS]

    responses = [
        await client.get(
            path, headers={"Accept-Encoding": encoding, "If-None-Match": etag}
        )
        for encoding, etag in zip(ENCODINGS, etags, strict=True)
    ]

    assert [response.status_code for response in responses] == [304] * 3
    assert await get_user_id(client, eva) == post["user_id"]


@pytest.mark.parametrize("encoding", ["identity", "br", "gzip"])
async def test_large_response_can_be_sent_in_ranges(
    client: AsyncClient, ada: dict[str, str], encoding: str
) -> None:
    texts = [f"{n} {'Rain fell. ' * 5000}" for n in range(10)]
    for text in texts:
        await create_post(client, ada, content=text)

    response = await client.get("/api/posts", headers={"Accept-Encoding": encoding})

    posts = response.json()["posts"]
    assert [post["content"] for post in posts] == texts[::-1]
    assert response.headers.get("content-encoding", "identity") == encoding
