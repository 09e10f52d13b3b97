"""Authorization matrix: every operation with every kind of caller.

A rejected request changes nothing; a successful one changes exactly what it should. An
operation without a row in the matrix fails.
"""

import base64
import hmac
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from httpx import AsyncClient, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from database import MAX_ID, Base
from main import app
from models import User, utcnow
from tests.conftest import (
    ADMIN_URL,
    PASSWORD,
    auth_header,
    create_post,
    create_test_user,
    get_user_id,
    login_user,
    settings,
    sign_up,
)
from tests.databases import scratch_database
from tests.recorder import Json, operations, without_numbers
from tests.server import LiveServer
from tests.test_races import upload

NEW_PASSWORD = "battery staple"
HOUR = 3600

# The smallest possible picture, with one pixel.
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")

Headers = dict[str, str]
Claims = dict[str, Any]
# A list of HTTPX headers, because a name may occur twice.
Bearer = list[tuple[str, str]]
Forge = Callable[[Claims], str]


# Users and data


@dataclass(frozen=True)
class Person:
    """A user and what they own."""

    name: str
    id: int
    post_id: int
    token: str


@dataclass(frozen=True)
class World:
    """Two users who own one of everything, and tokens that were once valid."""

    ada: Person
    bob: Person
    ended: dict[str, str]
    reset_token: str

    def person(self, name: str) -> Person:
        return self.ada if name == "ada" else self.bob

    def name_of(self, user_id: int) -> str:
        """Return the user's name, or "a new user"."""
        return {self.ada.id: "ada", self.bob.id: "bob"}.get(user_id, "a new user")


async def create_person(client: AsyncClient, name: str) -> Person:
    """Create a user with a picture, a post and an idempotency key."""
    headers = await sign_up(client, name)
    user_id = await get_user_id(client, headers)
    await upload(client, headers, user_id)
    post = await create_post(client, headers | {"Idempotency-Key": "a key of old"})
    return Person(name, user_id, post["id"], token_of(headers))


def token_of(headers: Headers) -> str:
    """Return the access token in a header."""
    return headers["Authorization"].removeprefix("Bearer ")


async def forget_password(
    client: AsyncClient, sent_emails: list[dict[str, str]], name: str
) -> str:
    """Request a password reset and return the token."""
    body = {"email": f"{name}@example.com"}
    await client.post("/api/users/forgot-password", json=body)
    return sent_emails[-1]["token"]


async def end_sessions(
    client: AsyncClient, sent_emails: list[dict[str, str]]
) -> dict[str, str]:
    """Revoke ada's tokens in every way; return them by what has revoked them."""
    ended = {"issued before a password change": await login_user(client)}
    change = {"current_password": PASSWORD, "new_password": PASSWORD}
    response = await client.patch(
        "/api/users/me/password",
        json=change,
        headers=auth_header(ended["issued before a password change"]),
    )
    ended["issued before a reset"] = response.json()["access_token"]
    reset = {
        "token": await forget_password(client, sent_emails, "ada"),
        "new_password": PASSWORD,
    }
    await client.post("/api/users/reset-password", json=reset)
    gone = await sign_up(client, "cleo")
    await client.delete(f"/api/users/{await get_user_id(client, gone)}", headers=gone)
    return ended | {"of a deleted user": token_of(gone)}


@pytest.fixture
def sent_emails(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Collect the keyword arguments of every email."""
    sent: list[dict[str, str]] = []

    async def note(**mail: str) -> None:
        sent.append(mail)

    monkeypatch.setattr("routers.users.send_password_reset_email", note)
    return sent


@pytest.fixture
async def world(client: AsyncClient, sent_emails: list[dict[str, str]]) -> World:
    """Create ada, who owns what the requests are about, and bob, who does not."""
    ada, bob = await create_person(client, "ada"), await create_person(client, "bob")
    ended = await end_sessions(client, sent_emails)
    fresh = Person(ada.name, ada.id, ada.post_id, await login_user(client))
    await forget_password(client, sent_emails, "bob")
    return World(fresh, bob, ended, await forget_password(client, sent_emails, "ada"))


# Matrix


NOT_AUTHENTICATED = (401, "Not authenticated", "Bearer")
INVALID_TOKEN = (401, "Invalid or expired token", "Bearer")


@dataclass(frozen=True)
class Row:
    """An operation: how to call it, and what it changes.

    Args:
        status: The status for authorized callers.
        changes: What differs afterwards, named as in `snapshot`; `$` is the caller.
        forbidden: The `detail` of the 403 for other users; None if callers act on
            their own data or on nothing in particular.
    """

    status: int = 200
    changes: tuple[str, ...] = ()
    forbidden: str | None = None
    make: Callable[[World], Json] = field(default=lambda _world: {})


PICTURE = "Not authorized to {} this user's picture"
POST = "Not authorized to {} this post"
TEXT = {"title": "Another title", "content": "Another text"}
# The scheduled deletion of the picture is kept for a while.
PICTURES = ("pictures", "discarded_pictures")
OWN_TABLES = ("posts of $", "password_reset_tokens of $", "idempotency_keys of $")
ENDS_TOKENS = ("users of $", "password_reset_tokens of $")

MATRIX: dict[str, Row] = {
    "POST /api/users": Row(
        201,
        ("users of a new user",),
        make=lambda _: {
            "json": {
                "username": "dora",
                "email": "dora@example.com",
                "password": PASSWORD,
            }
        },
    ),
    "GET /api/users": Row(),
    "POST /api/users/token": Row(
        make=lambda _: {"data": {"username": "ada@example.com", "password": PASSWORD}}
    ),
    "GET /api/users/me": Row(),
    "GET /api/users/{user_id}": Row(),
    "PATCH /api/users/{user_id}": Row(
        200,
        ENDS_TOKENS,
        "Not authorized to update this user",
        lambda _: {"json": {"username": "lady", "email": "lady@example.com"}},
    ),
    "DELETE /api/users/{user_id}": Row(
        204,
        ("users of $", *PICTURES, *OWN_TABLES),
        "Not authorized to delete this user",
    ),
    "GET /api/users/{user_id}/posts": Row(),
    "PATCH /api/users/{user_id}/picture": Row(
        200,
        ("users of $", *PICTURES),
        PICTURE.format("update"),
        lambda _: {"files": {"file": GIF}},
    ),
    "DELETE /api/users/{user_id}/picture": Row(
        200, ("users of $", *PICTURES), PICTURE.format("delete")
    ),
    "POST /api/users/forgot-password": Row(
        202,
        ("password_reset_tokens of ada",),
        make=lambda _: {"json": {"email": "ada@example.com"}},
    ),
    "POST /api/users/reset-password": Row(
        200,
        ("users of ada", "password_reset_tokens of ada"),
        make=lambda world: {
            "json": {"token": world.reset_token, "new_password": NEW_PASSWORD}
        },
    ),
    "PATCH /api/users/me/password": Row(
        200,
        ENDS_TOKENS,
        make=lambda _: {
            "json": {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        },
    ),
    "GET /api/posts": Row(),
    "POST /api/posts": Row(
        201,
        ("posts of $", "idempotency_keys of $"),
        make=lambda _: {"json": TEXT, "headers": {"Idempotency-Key": "a new key"}},
    ),
    "GET /api/posts/{post_id}": Row(),
    "PUT /api/posts/{post_id}": Row(
        200, ("posts of $",), POST.format("update"), lambda _: {"json": TEXT}
    ),
    "PATCH /api/posts/{post_id}": Row(
        200, ("posts of $",), POST.format("update"), lambda _: {"json": TEXT}
    ),
    "DELETE /api/posts/{post_id}": Row(
        204, ("posts of $", "idempotency_keys of $"), POST.format("delete")
    ),
    "GET /health": Row(),
}

OPERATIONS = {
    f"{method} {template}": operation
    for method, template, operation in operations(app.openapi())
}
FOR_USERS = sorted(name for name in MATRIX if "security" in OPERATIONS.get(name, {}))
PUBLIC = sorted(MATRIX.keys() - set(FOR_USERS))
FOR_OWNERS = [name for name in FOR_USERS if MATRIX[name].forbidden]


async def ask(
    client: AsyncClient,
    world: World,
    name: str,
    bearer: Bearer,
    owner: Person | None = None,
    **options: Any,
) -> Response:
    """Call an operation on what a user owns, by default ada."""
    method, template = name.split(" ")
    owner = owner or world.ada
    path = template.format(user_id=owner.id, post_id=owner.post_id)
    options = options or MATRIX[name].make(world)
    headers = as_latin([*options.pop("headers", {}).items(), *bearer])
    return await client.request(method, path, headers=headers, **options)


def bearer_headers(token: str) -> Bearer:
    """Return the headers for a token."""
    return list(auth_header(token).items())


# Stored data


Snapshot = dict[str, Any]


async def snapshot(world: World, connection: AsyncConnection, bucket: Any) -> Snapshot:
    """Return every row and stored object, by table and owner."""
    content: Snapshot = defaultdict(list)
    for table in Base.metadata.sorted_tables:
        owner = "id" if table is User.__table__ else "user_id"
        rows = await connection.execute(select(table).order_by(table.c.id))
        for row in rows.mappings():
            whose = f" of {world.name_of(row[owner])}" if owner in row else ""
            content[f"{table.name}{whose}"].append(dict(row))
    listing = bucket.list_objects_v2(Bucket="test-bucket").get("Contents", [])
    content["pictures"] = {entry["Key"]: entry["ETag"] for entry in listing}
    return dict(content)


def changes(before: Snapshot, after: Snapshot) -> set[str]:
    """Return the names of everything changed, added or deleted."""
    return {
        name
        for name in before.keys() | after.keys()
        if before.get(name) != after.get(name)
    }


@asynccontextmanager
async def rolled_back(connection: AsyncConnection) -> AsyncIterator[None]:
    """Roll back everything that is written in the context."""
    savepoint = await connection.begin_nested()
    try:
        yield
    finally:
        await savepoint.rollback()


# Callers


def sign(claims: Claims, *, algorithm: str = "HS256", key: Any = None) -> str:
    """Sign a token like PyJWT, but with claims that it would refuse to sign."""
    payload = json.dumps(claims).encode()
    return jwt.api_jws.encode(payload, key or settings.signing_key, algorithm=algorithm)


def base64url(content: bytes) -> str:
    """Encode bytes for a token, without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def encoded(part: Any) -> str:
    """Encode a part of a token."""
    return base64url(json.dumps(part).encode())


def with_header(claims: Claims, **header: Any) -> str:
    """Return a correctly signed token with another header."""
    message = f"{encoded({'typ': 'JWT', 'alg': 'HS256'} | header)}.{encoded(claims)}"
    key = settings.signing_key.encode()
    return f"{message}.{base64url(hmac.digest(key, message.encode(), 'sha256'))}"


def unsigned(claims: Claims, algorithm: str) -> str:
    """Return a token whose header declares no signature."""
    return f"{encoded({'typ': 'JWT', 'alg': algorithm})}.{encoded(claims)}."


def with_payload(claims: Claims, **changed: Any) -> str:
    """Return a valid token with its payload changed afterwards."""
    header, _, signature = sign(claims).split(".")
    return f"{header}.{encoded(claims | changed)}.{signature}"


def with_signature(claims: Claims, change: Callable[[str], str]) -> str:
    """Return a valid token with its signature changed afterwards."""
    header, payload, signature = sign(claims).split(".")
    return f"{header}.{payload}.{change(signature)}"


def with_claims(claims: Claims, **changed: Any) -> str:
    """Return a correctly signed token with other claims."""
    return sign(claims | changed)


def without_claim(claims: Claims, name: str) -> str:
    """Return a correctly signed token without a claim."""
    return sign({key: value for key, value in claims.items() if key != name})


@cache
def private_key(kind: str) -> Any:
    """Return a private key that the app does not know."""
    if kind == "ES":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def sign_with_key_pair(claims: Claims, algorithm: str) -> str:
    """Return a token signed with an unknown private key."""
    return sign(claims, algorithm=algorithm, key=private_key(algorithm[:2]))


def moment(seconds: int) -> int:
    """Return a timestamp relative to now, for a claim."""
    return int((utcnow() + timedelta(seconds=seconds)).timestamp())


ODD_SUBJECTS: dict[str, Any] = {
    "negative": "-1",
    "zero": "0",
    "beyond the ids": str(MAX_ID + 1),
    "huge": "9" * 300,
    "a float": "1.0",
    "a number": 1,
    "a fraction": 1.5,
    "with white space": "1 ",
    "with a sign": "+1",
    "with an underscore": "1_0",
    "hexadecimal": "0x1",
    "digits of another script": "\u0661",
    "a superscript": "\u00b9",
    "full-width digits": "\uff11",
    "with NUL": "1\0",
    "with a surrogate": "\ud800",
    "a list": ["1"],
    "an object": {"id": "1"},
    "null": None,
    "a boolean": True,
    "empty": "",
    "a name": "ada",
    "an attack": "1 OR 1=1",
}

FLAWS: dict[str, Forge] = {
    "expired": lambda claims: with_claims(
        claims, iat=moment(-HOUR), exp=moment(-HOUR // 2)
    ),
    "expired for longer than the leeway": lambda claims: with_claims(
        claims, exp=moment(-12)
    ),
    "issued in the future": lambda claims: with_claims(claims, iat=moment(60)),
    "not valid yet": lambda claims: with_claims(claims, nbf=moment(60)),
    **{
        f"unsigned as {algorithm!r}": partial(unsigned, algorithm=algorithm)
        for algorithm in ("none", "None", "NONE", "nOnE", "")
    },
    "unsigned, with a signature of HS256": lambda claims: with_header(
        claims, alg="none"
    ),
    **{
        f"of the algorithm {algorithm}": partial(
            sign, algorithm=algorithm, key="a key that is long enough for all" * 2
        )
        for algorithm in ("HS384", "HS512")
    },
    "of the algorithm HS512, with the right key": lambda claims: with_header(
        claims, alg="HS512"
    ),
    **{
        f"of the algorithm {algorithm}": partial(
            sign_with_key_pair, algorithm=algorithm
        )
        for algorithm in ("RS256", "PS256", "ES256")
    },
    "of RS256, signed with the right key as HS256": lambda claims: with_header(
        claims, alg="RS256"
    ),
    "of an algorithm that is a list": lambda claims: with_header(claims, alg=["HS256"]),
    "of an algorithm that is null": lambda claims: with_header(claims, alg=None),
    "with an extension that is critical": lambda claims: with_header(
        claims, crit=["exp"]
    ),
    "signed with another key": lambda claims: sign(
        claims, key="another-key-of-thirty-two-bytes-!"
    ),
    "signed with a key that it brings": lambda claims: jwt.encode(
        claims,
        "another-key-of-thirty-two-bytes-!",
        "HS256",
        headers={"jwk": {"kty": "oct", "k": "YW5vdGhlcg"}, "kid": "../../dev/null"},
    ),
    "with another subject in it": lambda claims: with_payload(
        claims, sub=str(int(claims["sub"]) + 1)
    ),
    "with a later end in it": lambda claims: with_payload(
        claims, exp=claims["exp"] + HOUR
    ),
    "with another first letter in its signature": lambda claims: with_signature(
        claims, lambda signature: ("B" if signature[0] == "A" else "A") + signature[1:]
    ),
    "with half of its signature": lambda claims: with_signature(
        claims, lambda signature: signature[: len(signature) // 2]
    ),
    "with more after its signature": lambda claims: with_signature(
        claims, lambda signature: signature + "AAAA"
    ),
    "with signs between its signature": lambda claims: with_signature(
        claims, lambda signature: f"{signature[:9]}!${signature[9:]}"
    ),
    "with a fourth part": lambda claims: sign(claims) + ".AAAA",
    **{
        f"without {claim!r}": partial(without_claim, name=claim)
        for claim in ("sub", "iat", "exp", "ver")
    },
    **{
        f"with a subject that is {kind}": partial(with_claims, sub=subject)
        for kind, subject in ODD_SUBJECTS.items()
    },
    "with a subject that begins with a zero": lambda claims: with_claims(
        claims, sub=f"0{claims['sub']}"
    ),
    "with a version that is true or false": lambda claims: with_claims(
        claims, ver=bool(claims["ver"])
    ),
    "of the version before": lambda claims: with_claims(claims, ver=claims["ver"] - 1),
    "of the version to come": lambda claims: with_claims(claims, ver=claims["ver"] + 1),
    "with a version in words": lambda claims: with_claims(
        claims, ver=str(claims["ver"])
    ),
    "with an end that never comes": lambda claims: with_claims(claims, exp=None),
    "with an end beyond all numbers": lambda claims: with_claims(
        claims, exp=float("inf")
    ),
    "no token": lambda _claims: "x",
    "empty": lambda _claims: "",
    "two dots": lambda _claims: "..",
    "very long": lambda claims: sign(claims) + "A" * 10_000,
    "a whole object": lambda claims: encoded(claims),
}


def claims_of(token: str) -> Claims:
    """Return a token's claims."""
    claims: Claims = jwt.decode(token, options={"verify_signature": False})
    return claims


def callers_with_invalid_tokens(world: World) -> Iterator[tuple[str, Bearer]]:
    """Return callers whose tokens are rejected as invalid, by flaw."""
    claims = claims_of(world.ada.token)
    for name, forge in FLAWS.items():
        yield name, bearer_headers(forge(claims))
    for name, token in world.ended.items():
        yield name, bearer_headers(token)
    yield (
        "behind a forged one",
        [*bearer_headers("x"), *bearer_headers(world.ada.token)],
    )
    yield "with letters that no header has", [("Authorization", "Bearer \x85.é.\xff")]


def callers_without_tokens(world: World) -> Iterator[tuple[str, Bearer]]:
    """Return callers who are treated as anonymous."""
    good = world.ada.token
    yield "nothing", []
    for value in ("Basic YWRhOmFkYQ==", f"Token {good}", good, "", f"Bearer,{good}"):
        yield value[:10] or "an empty header", [("Authorization", value)]
    for header in ("X-Authorization", "Proxy-Authorization", "Cookie"):
        yield header, [(header, f"Bearer {good}")]
    yield "behind another way", [("Authorization", "Basic YTpi"), *bearer_headers(good)]


def all_callers(world: World) -> Iterator[tuple[str, Bearer]]:
    """Return all callers."""
    yield "ada", bearer_headers(world.ada.token)
    yield "bob", bearer_headers(world.bob.token)
    yield from callers_without_tokens(world)
    yield from callers_with_invalid_tokens(world)


def as_latin(bearer: Bearer) -> Any:
    """Encode headers as Latin-1, which can represent any byte."""
    return [(name.encode(), value.encode("latin-1")) for name, value in bearer]


Ask = Callable[[Bearer], Awaitable[Response]]
Refusal = tuple[int, str | None, str | None]


def summarize_error(response: Response) -> Refusal:
    """Return an error's status, text and challenge."""
    detail = response.json().get("detail") if response.content else None
    return response.status_code, detail, response.headers.get("WWW-Authenticate")


async def find_unexpected(
    ask: Ask, people: Iterable[tuple[str, Bearer]], expected: Refusal
) -> dict[str, Refusal]:
    """Return the callers whose response differs from the expected one."""
    refusals = {who: summarize_error(await ask(bearer)) for who, bearer in people}
    return {who: refusal for who, refusal in refusals.items() if refusal != expected}


def test_every_operation_has_a_row() -> None:
    assert MATRIX.keys() == OPERATIONS.keys()


def test_protected_operations_are_declared() -> None:
    # Rows with owners require operations that authenticate callers.
    assert {name for name, row in MATRIX.items() if row.forbidden} <= set(FOR_USERS)
    assert len(FOR_USERS) >= 10


@pytest.mark.parametrize("name", FOR_USERS)
async def test_caller_without_valid_token_is_rejected(
    client: AsyncClient,
    world: World,
    connection: AsyncConnection,
    bucket: Any,
    name: str,
) -> None:
    before = await snapshot(world, connection, bucket)
    ask_ada = partial(ask, client, world, name)

    anonymous = await find_unexpected(
        ask_ada, callers_without_tokens(world), NOT_AUTHENTICATED
    )
    forged = await find_unexpected(
        ask_ada, callers_with_invalid_tokens(world), INVALID_TOKEN
    )

    assert (anonymous, forged) == ({}, {})
    assert changes(before, await snapshot(world, connection, bucket)) == set()


@pytest.mark.parametrize("name", FOR_OWNERS)
async def test_other_user_is_forbidden(
    client: AsyncClient,
    world: World,
    connection: AsyncConnection,
    bucket: Any,
    name: str,
) -> None:
    before = await snapshot(world, connection, bucket)

    response = await ask(client, world, name, bearer_headers(world.bob.token))

    assert summarize_error(response) == (403, MATRIX[name].forbidden, None)
    assert changes(before, await snapshot(world, connection, bucket)) == set()


@pytest.mark.parametrize("who", ["ada", "bob"])
@pytest.mark.parametrize("name", FOR_USERS)
async def test_owner_makes_exactly_the_intended_changes(
    client: AsyncClient,
    world: World,
    connection: AsyncConnection,
    bucket: Any,
    name: str,
    who: str,
) -> None:
    person = world.person(who)
    before = await snapshot(world, connection, bucket)

    response = await ask(client, world, name, bearer_headers(person.token), person)

    assert response.status_code == MATRIX[name].status
    changed = changes(before, await snapshot(world, connection, bucket))
    assert changed == {change.replace("$", who) for change in MATRIX[name].changes}


@pytest.mark.parametrize("name", PUBLIC)
async def test_public_operation_is_the_same_for_all_callers(
    client: AsyncClient,
    world: World,
    connection: AsyncConnection,
    bucket: Any,
    name: str,
    stress: bool,
) -> None:
    before = await snapshot(world, connection, bucket)
    responses = {}
    for who, bearer in list(all_callers(world))[:: 1 if stress else 4]:
        async with rolled_back(connection):
            response = await ask(client, world, name, bearer)
            changed = changes(before, await snapshot(world, connection, bucket))
        responses[who] = (*normalize_response(response), changed)

    expected = responses["ada"]
    assert expected[0] == MATRIX[name].status
    assert expected[-1] == set(MATRIX[name].changes)
    assert {
        who: answer for who, answer in responses.items() if answer != expected
    } == {}


def normalize_response(response: Response) -> tuple[int, dict[str, str], str]:
    """Return the parts of a response that do not vary, without numbers and tokens."""
    headers = {
        name: without_numbers(value)
        for name, value in response.headers.items()
        if name not in {"content-length", "etag"}
    }
    text = re.sub(r'"access_token":"[^"]+"', '"access_token":""', response.text)
    return response.status_code, headers, without_numbers(text)


# Order of checks

BODIES = [name for name in FOR_OWNERS if "requestBody" in OPERATIONS[name]]
NOWHERE = [0, -1, MAX_ID, MAX_ID + 1, 10**30]


@pytest.mark.parametrize("name", BODIES)
async def test_caller_is_checked_before_body(
    client: AsyncClient, world: World, name: str
) -> None:
    # Valid JSON that no operation accepts.
    send = partial(ask, client, world, name, json=["no", "such", "body"])

    anonymous, forger, bob, ada = [
        await send(bearer)
        for bearer in (
            [],
            bearer_headers("x"),
            bearer_headers(world.bob.token),
            bearer_headers(world.ada.token),
        )
    ]

    assert summarize_error(anonymous) == NOT_AUTHENTICATED
    assert summarize_error(forger) == INVALID_TOKEN
    assert summarize_error(bob) == (403, MATRIX[name].forbidden, None)
    assert ada.status_code == 422


@pytest.mark.parametrize("name", [name for name in FOR_OWNERS if "post_id" in name])
async def test_missing_post_is_404_only_if_logged_in(
    client: AsyncClient, world: World, name: str
) -> None:
    posts = [Person("nobody", 0, post_id, "") for post_id in NOWHERE]
    known = bearer_headers(world.bob.token)

    found = [summarize_error(await ask(client, world, name, known, at)) for at in posts]
    unknown = [summarize_error(await ask(client, world, name, [], at)) for at in posts]

    assert found == [(404, "Post not found", None)] * len(NOWHERE)
    assert unknown == [NOT_AUTHENTICATED] * len(NOWHERE)


@pytest.mark.parametrize("name", [name for name in FOR_OWNERS if "user_id" in name])
async def test_missing_user_gets_403_like_existing_one(
    client: AsyncClient, world: World, name: str
) -> None:
    users = [Person("nobody", user_id, 0, "") for user_id in NOWHERE]
    bob = bearer_headers(world.bob.token)

    found = [summarize_error(await ask(client, world, name, bob, at)) for at in users]

    assert found == [(403, MATRIX[name].forbidden, None)] * len(NOWHERE)


async def test_deleted_user_is_rejected_everywhere(
    client: AsyncClient, world: World
) -> None:
    bob = world.bob
    token = bearer_headers(bob.token)
    await client.delete(f"/api/users/{bob.id}", headers=auth_header(bob.token))

    responses = {
        name: summarize_error(await ask(client, world, name, token, bob))
        for name in FOR_USERS
    }

    assert responses == dict.fromkeys(FOR_USERS, INVALID_TOKEN)


async def test_new_account_does_not_inherit_old_tokens(
    client: AsyncClient, world: World
) -> None:
    token = auth_header(world.bob.token)
    await client.delete(f"/api/users/{world.bob.id}", headers=token)
    await create_test_user(client, "bob", "bob@example.com")

    response = await client.get("/api/users/me", headers=token)

    assert summarize_error(response) == INVALID_TOKEN


# Two processes


def me(server: LiveServer, token: str) -> int:
    """Return the status of `GET /api/users/me` for a token."""
    return server.client.get("/api/users/me", headers=auth_header(token)).status_code


def test_revoked_token_is_rejected_by_all_processes(tmp_path: Path) -> None:
    change = {"current_password": PASSWORD, "new_password": PASSWORD}
    with (
        scratch_database(ADMIN_URL) as url,
        LiveServer(tmp_path / "first", database_url=url) as first,
        LiveServer(tmp_path / "second", database_url=url) as second,
    ):
        token = first.sign_up("ada").token
        seen = []
        pair = first, second
        for one, other in [pair, pair[::-1]] * 5:
            before = me(other, token)
            response = one.client.patch(
                "/api/users/me/password", json=change, headers=auth_header(token)
            )
            ended, token = token, response.json()["access_token"]
            seen.append((before, me(other, ended), me(one, ended), me(other, token)))

    assert seen == [(200, 401, 401, 200)] * 10
