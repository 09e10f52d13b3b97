"""Tags of answers: what is not sent again, and changes that do not overwrite others."""

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
    login_user,
    own_id,
    sign_up,
)

CROWD = 20
LONG = "Rain fell. " * 100
WHOLE = {"title": "Another title", "content": "Other content"}
CHANGES = ["PUT", "PATCH", "DELETE"]
OTHER_TAG = '"other"'

# With a post and a user of id {post} and {user}.
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
    "/?page=2",
    "/login",
    "/account",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/sitemap.xml",
    "/sitemaps/posts-0.xml",
    "/robots.txt",
]
CODINGS = ["identity", "gzip", "br"]
PLAIN = {"Accept-Encoding": "identity"}
COMPRESSED = ["/api/posts", "/api/posts/{post}", "/posts/{post}", "/feed.atom"]


@pytest.fixture
async def places(client: AsyncClient, ada: dict[str, str]) -> dict[str, int]:
    """Ids of a post and its author, to fill into paths."""
    post = await create_post(client, ada, content=LONG)
    return {"post": post["id"], "user": post["user_id"]}


@pytest.fixture
def post_path(places: dict[str, int]) -> str:
    return f"/api/posts/{places['post']}"


@pytest.fixture
async def tag(client: AsyncClient, post_path: str) -> str:
    """The tag of the post."""
    return await tag_at(client, post_path)


async def tag_at(client: AsyncClient, path: str, coding: str = "identity") -> str:
    """The tag of what is at a path."""
    response = await client.get(path, headers={"Accept-Encoding": coding})
    assert response.status_code == 200, response.text
    tag: str = response.headers["etag"]
    return tag


# What has a tag


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", TAGGED)
async def test_answer_has_a_strong_tag_and_is_asked_for_again(
    client: AsyncClient, places: dict[str, int], path: str, method: str
) -> None:
    response = await client.request(method, path.format(**places))

    assert response.status_code == 200
    assert response.headers["etag"].startswith('"')
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", TAGGED)
async def test_known_answer_is_not_sent_again(
    client: AsyncClient, places: dict[str, int], path: str, method: str
) -> None:
    path = path.format(**places)
    tag = (await client.get(path)).headers["etag"]

    response = await client.request(method, path, headers={"If-None-Match": tag})

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == tag
    assert response.headers["cache-control"] == "no-cache"
    assert not {"content-type", "content-length", "content-encoding"} & set(
        response.headers
    )


@pytest.mark.parametrize(
    "condition",
    [
        "{tag}",
        "W/{tag}",
        '"other", {tag}',
        '{tag},"other"',
        'W/"other" , W/{tag}',
        ', {tag} ,, "other"',
        '"with, comma", {tag}',
        "*",
        " * ",
    ],
)
async def test_condition_that_names_the_tag_is_answered_with_304(
    client: AsyncClient, post_path: str, tag: str, condition: str
) -> None:
    headers = {"If-None-Match": condition.format(tag=tag)}

    response = await client.get(post_path, headers={**PLAIN, **headers})

    assert response.status_code == 304
    assert response.headers["etag"].removeprefix("W/") == tag


@pytest.mark.parametrize(
    "condition",
    [
        OTHER_TAG,
        f"W/{OTHER_TAG}",
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
async def test_condition_that_names_another_tag_gets_the_answer(
    client: AsyncClient, post_path: str, tag: str, condition: str
) -> None:
    headers = {"If-None-Match": condition.format(bare=tag.strip('"'))}

    response = await client.get(post_path, headers={**PLAIN, **headers})

    assert response.status_code == 200
    assert response.headers["etag"] == tag
    assert response.json()["content"] == LONG


@pytest.mark.parametrize("coding", CODINGS)
async def test_condition_can_come_in_several_lines(
    client: AsyncClient, post_path: str, coding: str
) -> None:
    tag = await tag_at(client, post_path, coding)

    response = await client.get(
        post_path,
        headers=[
            ("Accept-Encoding", coding),
            ("If-None-Match", OTHER_TAG),
            ("If-None-Match", tag),
        ],
    )

    assert response.status_code == 304
    assert response.headers["etag"] == tag


@pytest.mark.parametrize("path", [*POST_LISTS, "/api/users"])
async def test_known_part_of_a_list_still_says_where_the_list_goes_on(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str], path: str
) -> None:
    posts = [await create_post(client, ada) for _ in range(2)]
    path = f"{path.format(user=posts[0]['user_id'])}?limit=1"
    answer = await client.get(path)
    known = {"If-None-Match": answer.headers["etag"]}

    response = await client.get(path, headers=known)

    assert response.status_code == 304
    assert response.headers["link"] == answer.headers["link"]


# When a tag changes

Change = Callable[[AsyncClient, dict[str, str], dict[str, int]], Awaitable[Any]]


async def edit(
    client: AsyncClient, author: dict[str, str], places: dict[str, int]
) -> None:
    # As long as it was, and of the same beginning: no excerpt shows the difference.
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


async def depict(
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
        (depict, [path for path in WITH_THE_USER if path not in FEEDS]),
        (publish, [*POST_LISTS, *POST_LIST_PAGES, *FEEDS, "/sitemaps/posts-0.xml"]),
        (remove, [*POST_LISTS, *POST_LIST_PAGES, *FEEDS, "/sitemaps/posts-0.xml"]),
    ],
)
async def test_tag_changes_with_what_is_there(
    client: AsyncClient,
    ada: dict[str, str],
    places: dict[str, int],
    change: Change,
    paths: list[str],
) -> None:
    # So that something stays when a post goes.
    await create_post(client, ada)
    paths = [path.format(**places) for path in paths]
    before = {path: await tag_at(client, path) for path in paths}

    await change(client, ada, places)

    after = {path: await tag_at(client, path) for path in paths}
    assert [path for path in paths if before[path] == after[path]] == []


async def test_tag_stays_while_nothing_changes(
    client: AsyncClient, ada: dict[str, str], places: dict[str, int]
) -> None:
    paths = [f"/api/posts/{places['post']}", f"/api/users/{places['user']}"]
    before = [await tag_at(client, path) for path in paths]

    await create_post(client, ada)
    await client.patch(paths[0], json={}, headers=ada)

    assert [await tag_at(client, path) for path in paths] == before


# What nobody may store


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
        ("PUT", "/api/posts/{post}", {"json": WHOLE}, 200),
        ("PATCH", "/api/posts/{post}", {"json": WHOLE}, 200),
        ("DELETE", "/api/posts/{post}", {}, 204),
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
async def test_answer_that_nobody_may_store_is_always_sent(
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
async def test_answer_that_nobody_may_store_has_no_tag(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    assert "etag" not in (await client.get(path, headers=ada)).headers


# Compressed forms


@pytest.mark.parametrize("path", COMPRESSED)
async def test_each_coding_has_its_own_strong_tag(
    client: AsyncClient, places: dict[str, int], path: str
) -> None:
    path = path.format(**places)

    plain, gzip, brotli = [await tag_at(client, path, coding) for coding in CODINGS]

    assert gzip == f'{plain[:-1]}-gzip"'
    assert brotli == f'{plain[:-1]}-br"'


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("weak", ["", "W/"])
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("path", COMPRESSED)
async def test_each_coding_is_known_by_the_tag_that_it_came_with(
    client: AsyncClient,
    places: dict[str, int],
    path: str,
    coding: str,
    weak: str,
    method: str,
) -> None:
    path = path.format(**places)
    # Servers in front weaken tags when they change the bytes.
    tag = weak + await tag_at(client, path, coding)

    response = await client.request(
        method, path, headers={"Accept-Encoding": coding, "If-None-Match": tag}
    )

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == tag.removeprefix("W/")
    assert "content-encoding" not in response.headers


@pytest.mark.parametrize("coding", CODINGS)
async def test_304_names_the_form_that_the_client_can_read(
    client: AsyncClient, post_path: str, coding: str
) -> None:
    # A shared cache asks with the tags of all the forms that it has (RFC 9111, 4.1),
    # and hands out the one that the answer names.
    tags = {each: await tag_at(client, post_path, each) for each in CODINGS}

    response = await client.get(
        post_path,
        headers={
            "Accept-Encoding": coding,
            "If-None-Match": ", ".join(sorted(tags.values())),
        },
    )

    assert response.status_code == 304
    assert response.headers["etag"] == tags[coding]


@pytest.mark.parametrize("path", [*COMPRESSED, "/static/css/main.css"])
async def test_304_varies_as_the_answer_itself_does(
    client: AsyncClient, places: dict[str, int], path: str
) -> None:
    # RFC 9110, section 15.4.5: it must have the same `Vary`.
    answer = await client.get(path.format(**places))
    known = {"If-None-Match": answer.headers["etag"]}

    response = await client.get(path.format(**places), headers=known)

    assert answer.headers["vary"] == "Accept-Encoding"
    assert response.headers.get("vary") == "Accept-Encoding"


async def test_answer_too_short_to_be_compressed_has_one_tag(
    client: AsyncClient, places: dict[str, int]
) -> None:
    path = f"/api/users/{places['user']}"

    tags = {await tag_at(client, path, coding) for coding in CODINGS}

    assert len(tags) == 1


# Files keep their own tags


@pytest.mark.parametrize("coding", CODINGS)
async def test_file_is_kept_for_a_year_and_known_by_its_tag(
    client: AsyncClient, coding: str
) -> None:
    path = static_path("css/main.css")
    headers = {"Accept-Encoding": coding}
    first = await client.get(path, headers=headers)

    response = await client.get(
        path, headers={**headers, "If-None-Match": first.headers["etag"]}
    )

    assert first.headers.get("content-encoding", "identity") == coding
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == first.headers["etag"]
    for answer in (first, response):
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_codings_of_a_file_have_different_tags(client: AsyncClient) -> None:
    path = static_path("css/main.css")

    tags = {await tag_at(client, path, coding) for coding in CODINGS}

    assert len(tags) == len(CODINGS)


async def test_part_of_a_file_is_not_joined_to_a_compressed_one(
    client: AsyncClient,
) -> None:
    path = static_path("css/main.css")
    tags = {coding: await tag_at(client, path, coding) for coding in CODINGS}

    answers = {
        coding: await client.get(
            path, headers={"Range": "bytes=5-9", "If-Range": tags[coding]}
        )
        for coding in CODINGS
    }

    statuses = {coding: answer.status_code for coding, answer in answers.items()}
    assert statuses == {"identity": 206, "gzip": 200, "br": 200}


# Changes with a condition


@pytest.mark.parametrize(
    "condition",
    [None, "{tag}", f"{OTHER_TAG}, {{tag}}", f"{{tag}},W/{OTHER_TAG}", "*", " * "],
)
@pytest.mark.parametrize("method", CHANGES)
async def test_change_of_what_is_still_the_same_is_made(
    client: AsyncClient,
    ada: dict[str, str],
    post_path: str,
    tag: str,
    method: str,
    condition: str | None,
) -> None:
    headers = ada if condition is None else {**ada, "If-Match": condition}
    headers = {name: value.format(tag=tag) for name, value in headers.items()}

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
        OTHER_TAG,
        f"{OTHER_TAG}, W/{OTHER_TAG}",
        "W/{tag}",
        "",
        "garbage",
        '"*"',
        "{bare}",
    ],
)
@pytest.mark.parametrize("method", CHANGES)
async def test_change_of_anything_else_is_refused(
    client: AsyncClient,
    ada: dict[str, str],
    post_path: str,
    tag: str,
    method: str,
    condition: str,
) -> None:
    condition = condition.format(tag=tag, bare=tag.strip('"'))
    before = (await client.get(post_path)).json()

    response = await client.request(
        method, post_path, json=WHOLE, headers={**ada, "If-Match": condition}
    )

    assert response.status_code == 412
    assert response.json() == {
        "detail": "The post has been modified since you last read it"
    }
    assert response.headers["etag"] == tag
    assert (await client.get(post_path)).json() == before


@pytest.mark.parametrize("change", [edit, rename])
@pytest.mark.parametrize("method", CHANGES)
async def test_change_of_what_was_changed_meanwhile_needs_the_new_tag(
    client: AsyncClient,
    ada: dict[str, str],
    places: dict[str, int],
    post_path: str,
    tag: str,
    method: str,
    change: Change,
) -> None:
    await change(client, ada, places)

    refused = await client.request(
        method, post_path, json=WHOLE, headers={**ada, "If-Match": tag}
    )
    new_tag = refused.headers["etag"]
    again = await client.request(
        method, post_path, json=WHOLE, headers={**ada, "If-Match": new_tag}
    )

    assert (refused.status_code, again.is_success) == (412, True)
    assert new_tag != tag


@pytest.mark.parametrize("method", CHANGES)
@pytest.mark.parametrize("coding", CODINGS)
async def test_tag_of_each_coding_allows_a_change(
    client: AsyncClient, ada: dict[str, str], post_path: str, coding: str, method: str
) -> None:
    tag = await tag_at(client, post_path, coding)

    response = await client.request(
        method, post_path, json=WHOLE, headers={**ada, "If-Match": tag}
    )

    assert response.is_success


async def test_condition_of_a_change_can_come_in_several_lines(
    client: AsyncClient, ada: dict[str, str], post_path: str, tag: str
) -> None:
    lines = [*ada.items(), ("If-Match", OTHER_TAG), ("If-Match", tag)]

    response = await client.patch(post_path, json=WHOLE, headers=lines)

    assert response.status_code == 200


async def test_condition_of_absurd_length_is_refused(
    client: AsyncClient, ada: dict[str, str], post_path: str
) -> None:
    headers = {**ada, "If-Match": f'"{"x" * 8192}"'}

    response = await client.delete(post_path, headers=headers)

    assert response.status_code == 422
    assert (await client.get(post_path)).status_code == 200


@pytest.mark.parametrize(
    ("who", "which", "condition", "status"),
    [
        (None, "post", OTHER_TAG, 401),
        (None, "missing", OTHER_TAG, 401),
        ("bob", "missing", OTHER_TAG, 404),
        ("bob", "missing", "*", 404),
        ("bob", "post", OTHER_TAG, 403),
        ("bob", "post", "*", 403),
        ("ada", "missing", "*", 404),
        ("ada", "post", OTHER_TAG, 412),
        ("ada", "post", "*", 422),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_order_of_refusals(
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


# Tags that come with the answer to a change


@pytest.mark.parametrize(
    ("method", "body"),
    [("POST", WHOLE), ("PATCH", WHOLE), ("PATCH", {}), ("PATCH", {"title": ""})],
)
async def test_change_answers_with_the_tag_that_a_get_has_next(
    client: AsyncClient,
    ada: dict[str, str],
    post_path: str,
    method: str,
    body: dict[str, str],
) -> None:
    path = "/api/posts" if method == "POST" else post_path

    response = await client.request(method, path, json=body, headers={**ada, **PLAIN})

    path = f"/api/posts/{response.json()['id']}"
    assert response.headers["etag"] == await tag_at(client, path)
    assert response.content == (await client.get(path)).content


async def test_put_answers_without_a_tag(
    client: AsyncClient, ada: dict[str, str], post_path: str
) -> None:
    # RFC 9110, section 9.3.4: what is stored is not what was sent.
    response = await client.put(post_path, json=WHOLE, headers=ada)

    assert response.status_code == 200
    assert "etag" not in response.headers


# At the same instant


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_one_of_many_writers_who_saw_the_same_post_wins(
    concurrent_client: AsyncClient, method: str
) -> None:
    ada = await sign_up(concurrent_client, "ada")
    post = await create_post(concurrent_client, ada)
    path = f"/api/posts/{post['id']}"
    headers = {**ada, "If-Match": await tag_at(concurrent_client, path)}

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
    assert refused == {await tag_at(concurrent_client, path)}


async def test_either_the_change_or_the_deletion_of_the_same_post_wins(
    concurrent_client: AsyncClient,
) -> None:
    ada = await sign_up(concurrent_client, "ada")
    post = await create_post(concurrent_client, ada)
    path = f"/api/posts/{post['id']}"
    headers = {**ada, "If-Match": await tag_at(concurrent_client, path)}

    change, deletion = await asyncio.gather(
        concurrent_client.patch(path, json=WHOLE, headers=headers),
        concurrent_client.delete(path, headers=headers),
    )

    statuses = (change.status_code, deletion.status_code)
    assert statuses in {(200, 412), (404, 204)}


async def test_condition_and_compression_work_for_a_user_of_any_name(
    client: AsyncClient,
) -> None:
    # Tags come from bytes: no letter may stand in their way.
    await create_test_user(client, "Éva 😀")
    eva = auth_header(await login_user(client))
    post = await create_post(client, eva, content="ß\u2028" * 600)
    path = f"/api/posts/{post['id']}"
    tags = [await tag_at(client, path, coding) for coding in CODINGS]

    responses = [
        await client.get(
            path, headers={"Accept-Encoding": coding, "If-None-Match": tag}
        )
        for coding, tag in zip(CODINGS, tags, strict=True)
    ]

    assert [response.status_code for response in responses] == [304] * 3
    assert await own_id(client, eva) == post["user_id"]


@pytest.mark.parametrize("coding", ["identity", "br", "gzip"])
async def test_large_answer_comes_in_parts_and_whole(
    client: AsyncClient, ada: dict[str, str], coding: str
) -> None:
    texts = [f"{n} {'Rain fell. ' * 5000}" for n in range(10)]
    for text in texts:
        await create_post(client, ada, content=text)

    response = await client.get("/api/posts", headers={"Accept-Encoding": coding})

    posts = response.json()["posts"]
    assert [post["content"] for post in posts] == texts[::-1]
    assert response.headers.get("content-encoding", "identity") == coding
