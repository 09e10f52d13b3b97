"""Login, access tokens, reset tokens and passwords."""

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from httpx import AsyncClient, Response
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

import auth
from auth import (
    create_access_token,
    generate_reset_token,
    hash_password,
    hash_reset_token,
    verify_access_token,
    verify_password,
)
from models import PasswordResetToken, User, utcnow
from tests.conftest import (
    PASSWORD,
    auth_header,
    create_test_user,
    get_user_id,
    login_user,
    settings,
)

NEW_PASSWORD = "battery staple"


@pytest.fixture
def sent_emails(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Collect the keyword arguments of every reset email."""
    sent: list[dict[str, str]] = []

    async def note(**mail: str) -> None:
        sent.append(mail)

    monkeypatch.setattr("routers.users.send_password_reset_email", note)
    return sent


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the hashes that passwords are verified against."""
    hashes: list[str] = []

    def note(plain_password: str, hashed_password: str) -> bool:
        hashes.append(hashed_password)
        return verify_password(plain_password, hashed_password)

    monkeypatch.setattr(auth, "verify_password", note)
    return hashes


async def attempt(client: AsyncClient, email: str, password: str) -> Response:
    """Try to log in."""
    return await client.post(
        "/api/users/token", data={"username": email, "password": password}
    )


async def request_reset_token(
    client: AsyncClient,
    sent_emails: list[dict[str, str]],
    email: str = "ada@example.com",
) -> str:
    """Request a password reset and return the token from the email."""
    await client.post("/api/users/forgot-password", json={"email": email})
    return sent_emails[-1]["token"]


async def reset(client: AsyncClient, token: str) -> Response:
    """Set a new password with a reset token."""
    return await client.post(
        "/api/users/reset-password",
        json={"token": token, "new_password": NEW_PASSWORD},
    )


async def change_password(
    client: AsyncClient, headers: dict[str, str], current: str = PASSWORD
) -> Response:
    return await client.patch(
        "/api/users/me/password",
        json={"current_password": current, "new_password": NEW_PASSWORD},
        headers=headers,
    )


async def rejected(client: AsyncClient, headers: dict[str, str]) -> bool:
    """Return whether a token gets the 401 for invalid tokens."""
    response = await client.get("/api/users/me", headers=headers)
    return (
        response.status_code,
        response.json(),
        response.headers.get("WWW-Authenticate"),
    ) == (401, {"detail": "Invalid or expired token"}, "Bearer")


# Logging in


@pytest.mark.parametrize(
    "email", ["ada@example.com", "ADA@Example.com", " ada@example.com "]
)
async def test_login_returns_bearer_token(client: AsyncClient, email: str) -> None:
    await create_test_user(client, email="Ada@example.com")

    response = await attempt(client, email, PASSWORD)

    assert response.status_code == 200
    assert response.json() == {
        "access_token": response.json()["access_token"],
        "token_type": "bearer",
    }


@pytest.mark.parametrize("email", ["ada@xn--exmple-cua.com", "ada@EX\xc4MPLE.com"])
async def test_login_email_is_case_insensitive(client: AsyncClient, email: str) -> None:
    await create_test_user(client, email=email)

    response = await attempt(client, email, PASSWORD)

    assert response.status_code == 200


async def test_login_ignores_other_oauth2_form_fields(
    client: AsyncClient,
) -> None:
    await create_test_user(client)

    response = await client.post(
        "/api/users/token",
        data={
            "username": "ada@example.com",
            "password": PASSWORD,
            "grant_type": "password",
            "scope": "a b",
            "client_id": "c",
            "client_secret": "d",
        },
    )

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("ada@example.com", "wrong"),
        ("ada@example.com", f" {PASSWORD}"),
        ("ada@example.com", PASSWORD.upper()),
        ("ada@example.com", "x" * 10_000),
        ("nobody@example.com", PASSWORD),
        ("ada", PASSWORD),
        ("%", PASSWORD),
        ("' OR 1=1 --", PASSWORD),
        ("a" * 10_000, PASSWORD),
    ],
)
async def test_login_with_wrong_credentials_is_rejected(
    client: AsyncClient, email: str, password: str
) -> None:
    await create_test_user(client, "ada", "ada@example.com")

    response = await attempt(client, email, password)

    assert response.status_code == 401
    assert response.json() == {"detail": "Incorrect email or password"}
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_wrong_password_and_unknown_email_look_alike(
    client: AsyncClient,
) -> None:
    await create_test_user(client, "ada", "ada@example.com")

    wrong = await attempt(client, "ada@example.com", "wrong")
    unknown = await attempt(client, "nobody@example.com", "wrong")

    assert wrong.content == unknown.content
    assert wrong.headers.raw == unknown.headers.raw


@pytest.mark.parametrize("email", ["ada@example.com", "nobody@example.com", "ada"])
async def test_failed_login_verifies_exactly_one_hash(
    client: AsyncClient, verifications: list[str], email: str
) -> None:
    await create_test_user(client, "ada", "ada@example.com")

    await attempt(client, email, "wrong")

    assert len(verifications) == 1
    parameters = [verifications[0], hash_password("x")]
    assert len({stored.rsplit("$", 2)[0] for stored in parameters}) == 1


# Access tokens


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Token x"},
        {"Authorization": "x"},
    ],
)
async def test_missing_bearer_token_is_unauthenticated(
    client: AsyncClient, header: dict[str, str]
) -> None:
    response = await client.get("/api/users/me", headers=header)

    assert response.status_code == 401
    assert response.json() == {"detail": "Not authenticated"}
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer",
        b"Bearer ",
        b"bearer x",
        b"Bearer a.b.c",
        b"Bearer ...",
        b"Bearer null",
        b"Bearer \xff\xfe",
        b"Bearer e30.e30.",
        b"Bearer " + b"x" * 100_000,
        b"Bearer x y",
    ],
)
async def test_malformed_token_is_rejected(client: AsyncClient, value: bytes) -> None:
    response = await client.get("/api/users/me", headers={b"Authorization": value})

    assert response.status_code == 401
    assert response.json() == {"detail": "Invalid or expired token"}
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def get_claims(client: AsyncClient) -> dict[str, Any]:
    """Return the claims of a new user's token."""
    await create_test_user(client)
    token = await login_user(client)
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def signed(claims: dict[str, Any]) -> dict[str, str]:
    """Return headers with a correctly signed token with these claims."""
    return auth_header(jwt.encode(claims, settings.signing_key, algorithm="HS256"))


async def test_token_has_required_claims(client: AsyncClient) -> None:
    claims = await get_claims(client)

    user = (await client.get("/api/users")).json()[0]
    assert claims.keys() >= {"sub", "iat", "exp"}
    assert claims["sub"] == str(user["id"])
    assert claims["exp"] - claims["iat"] == 30 * 60


async def test_valid_token_is_accepted(client: AsyncClient) -> None:
    claims = await get_claims(client)

    response = await client.get("/api/users/me", headers=signed(claims))

    assert response.status_code == 200


async def test_unsigned_token_is_rejected(client: AsyncClient) -> None:
    claims = await get_claims(client)

    token = jwt.encode(claims, "", algorithm="none")

    assert await rejected(client, auth_header(token))


# PyJWT warns that the key is too short for longer digests, which is irrelevant here.
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_token_with_other_algorithm_is_rejected(
    client: AsyncClient, algorithm: str
) -> None:
    claims = await get_claims(client)

    token = jwt.encode(claims, settings.signing_key, algorithm=algorithm)

    assert await rejected(client, auth_header(token))


async def test_token_signed_with_another_key_is_rejected(client: AsyncClient) -> None:
    claims = await get_claims(client)

    token = jwt.encode(claims, "another-key-of-thirty-two-bytes-!", algorithm="HS256")

    assert await rejected(client, auth_header(token))


async def test_tampered_token_is_rejected(client: AsyncClient) -> None:
    claims = await get_claims(client)
    header, _, signature = signed(claims)["Authorization"].split(".")
    other = signed({**claims, "sub": "1"})["Authorization"].split(".")[1]

    forged = {"Authorization": f"{header}.{other}.{signature}"}

    assert await rejected(client, forged)


@pytest.mark.parametrize("form", ["0{}", "{} ", "+{}", "{}.0"])
async def test_token_with_noncanonical_subject_is_rejected(
    client: AsyncClient, form: str
) -> None:
    claims = await get_claims(client)

    assert await rejected(client, signed({**claims, "sub": form.format(claims["sub"])}))


@pytest.mark.parametrize("missing", ["sub", "iat", "exp", "ver"])
async def test_token_without_required_claim_is_rejected(
    client: AsyncClient, missing: str
) -> None:
    claims = await get_claims(client)
    del claims[missing]

    assert await rejected(client, signed(claims))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("sub", ""),
        ("sub", "0"),
        ("sub", "-1"),
        ("sub", "x"),
        ("sub", "1.0"),
        ("sub", "\u0661"),
        ("sub", "2147483648"),
        ("sub", "9" * 500),
        ("sub", "a\0b"),
        ("sub", None),
        ("sub", 1),
        ("sub", True),
        ("sub", ["1"]),
        ("ver", -1),
        ("ver", 1),
        ("ver", "0"),
        ("ver", None),
        ("ver", False),
        ("ver", 0.0),
        ("exp", True),
        ("exp", "4102444800"),
        ("exp", "soon"),
        ("exp", None),
        ("exp", float("inf")),
        ("iat", "1"),
        ("iat", True),
        ("iat", "once"),
        ("iat", None),
        ("iat", float("inf")),
    ],
)
async def test_token_with_invalid_claim_is_rejected(
    client: AsyncClient, claim: str, value: Any
) -> None:
    claims = await get_claims(client)
    # PyJWT refuses to sign a `sub` that is not a string.
    payload = jwt.api_jws.encode(
        json.dumps({**claims, claim: value}).encode(),
        settings.signing_key,
        algorithm="HS256",
    )

    assert await rejected(client, auth_header(payload))


@pytest.mark.parametrize("payload", [b"[]", b"7", b"null", b'"x"', b"\xff", b"[" * 500])
async def test_token_with_non_object_payload_is_rejected(
    client: AsyncClient, payload: bytes
) -> None:
    token = jwt.api_jws.encode(payload, settings.signing_key, algorithm="HS256")

    assert await rejected(client, auth_header(token))


@pytest.mark.parametrize("seconds", [5, -5])
@pytest.mark.parametrize("claim", ["exp", "iat"])
async def test_clock_skew_within_leeway_is_accepted(
    client: AsyncClient, claim: str, seconds: int
) -> None:
    claims = await get_claims(client)
    claims[claim] = utcnow() + timedelta(seconds=seconds)

    response = await client.get("/api/users/me", headers=signed(claims))

    assert response.status_code == 200


@pytest.mark.parametrize(("claim", "seconds"), [("exp", -12), ("iat", 15)])
async def test_clock_skew_beyond_leeway_is_rejected(
    client: AsyncClient, claim: str, seconds: int
) -> None:
    claims = await get_claims(client)
    claims[claim] = utcnow() + timedelta(seconds=seconds)

    assert await rejected(client, signed(claims))


async def test_token_of_deleted_user_is_rejected(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    await client.delete(f"/api/users/{await get_user_id(client, ada)}", headers=ada)

    assert await rejected(client, ada)


def test_verify_access_token_returns_subject() -> None:
    assert verify_access_token(create_access_token({"sub": "7"})) == "7"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        create_access_token({"sub": "7"}, timedelta(seconds=-11)),
        create_access_token({"sub": "7"})[:-4],
        create_access_token({}),
    ],
    ids=range(6),
)
def test_verify_access_token_returns_none_if_invalid(token: str) -> None:
    assert verify_access_token(token) is None


def test_create_access_token_accepts_lifetime() -> None:
    token = create_access_token({"sub": "7"}, timedelta(minutes=5))

    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 300


# Passwords


def test_password_matches_only_its_own_hash() -> None:
    stored = hash_password("correct horse")

    assert verify_password("correct horse", stored)
    assert not verify_password("correct horse ", stored)


def test_equal_passwords_have_different_hashes() -> None:
    assert hash_password("correct horse") != hash_password("correct horse")


async def test_passwords_are_hashed_off_the_event_loop(
    client: AsyncClient,
    sent_emails: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            threads.append(threading.current_thread())
            return function(*arguments)

        return note

    monkeypatch.setattr(auth, "hash_password", watched(hash_password))
    monkeypatch.setattr(auth, "verify_password", watched(verify_password))

    await create_test_user(client)
    headers = auth_header(await login_user(client))
    await change_password(client, headers)
    await reset(client, await request_reset_token(client, sent_emails))

    assert len(threads) == 5
    assert threading.main_thread() not in threads


# Changing a password


async def test_change_password_requires_login(client: AsyncClient) -> None:
    response = await change_password(client, {})

    assert response.status_code == 401
    assert response.json() == {"detail": "Not authenticated"}
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_change_password_requires_current_password(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    response = await change_password(client, ada, current="wrong")

    assert response.status_code == 400
    assert response.json() == {"detail": "Current password is incorrect"}
    assert await login_user(client, "ada@example.com", PASSWORD)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"current_password": PASSWORD},
        {"new_password": NEW_PASSWORD},
        {"current_password": PASSWORD, "new_password": "short"},
        {"current_password": PASSWORD, "new_password": "x" * 129},
        {"current_password": None, "new_password": NEW_PASSWORD},
    ],
)
async def test_change_password_rejects_invalid_input(
    client: AsyncClient, ada: dict[str, str], body: dict[str, Any]
) -> None:
    response = await client.patch("/api/users/me/password", json=body, headers=ada)

    assert response.status_code == 422


async def test_change_password_success(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    response = await change_password(client, ada)

    assert response.status_code == 200
    assert response.json() == {
        "message": "Password changed successfully",
        "access_token": response.json()["access_token"],
        "token_type": "bearer",
    }
    assert await login_user(client, "ada@example.com", NEW_PASSWORD)
    assert (await attempt(client, "ada@example.com", PASSWORD)).status_code == 401


async def test_change_password_revokes_all_other_tokens(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    other = auth_header(await login_user(client))

    fresh = (await change_password(client, ada)).json()["access_token"]

    # All of this happens within the second in which the tokens were issued.
    assert await rejected(client, ada)
    assert await rejected(client, other)
    me = await client.get("/api/users/me", headers=auth_header(fresh))
    assert me.status_code == 200


async def test_change_password_keeps_tokens_of_other_users(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    await change_password(client, ada)

    assert (await client.get("/api/users/me", headers=bob)).status_code == 200


# Requesting a password reset


async def test_forgot_password_response_reveals_no_account(
    client: AsyncClient, sent_emails: list[dict[str, str]]
) -> None:
    await create_test_user(client, "ada", "ada@example.com")

    known, unknown = [
        await client.post("/api/users/forgot-password", json={"email": email})
        for email in ("ada@example.com", "nobody@example.com")
    ]

    assert known.status_code == unknown.status_code == 202
    assert known.content == unknown.content
    assert known.headers.raw == unknown.headers.raw
    assert len(sent_emails) == 1


async def test_forgot_password_rejects_invalid_email(client: AsyncClient) -> None:
    response = await client.post("/api/users/forgot-password", json={"email": "ada"})

    assert response.status_code == 422


async def test_only_hash_of_reset_token_is_stored(
    client: AsyncClient, sent_emails: list[dict[str, str]], db: AsyncSession
) -> None:
    await create_test_user(client)

    token = await request_reset_token(client, sent_emails)

    row = (await db.scalars(select(PasswordResetToken))).one()
    assert row.token_hash == hash_reset_token(token)
    assert row.expires_at - row.created_at == pytest.approx(
        timedelta(minutes=60), abs=timedelta(seconds=5)
    )


def test_reset_tokens_are_long_and_unique() -> None:
    tokens = {generate_reset_token() for _ in range(100)}

    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43


# Resetting a password


async def assert_reset_rejected(client: AsyncClient, token: str) -> None:
    """Check that a reset token is rejected and changes nothing."""
    response = await reset(client, token)
    assert response.status_code == 400
    assert response.json() == {"detail": "Invalid or expired reset token"}


async def test_reset_password_success(
    client: AsyncClient, sent_emails: list[dict[str, str]]
) -> None:
    await create_test_user(client)
    token = await request_reset_token(client, sent_emails)

    response = await reset(client, token)

    assert response.status_code == 200
    assert response.json() == {
        "message": "Password reset successfully. "
        "You can now log in with your new password."
    }
    assert await login_user(client, "ada@example.com", NEW_PASSWORD)
    assert (await attempt(client, "ada@example.com", PASSWORD)).status_code == 401


async def test_reset_password_revokes_access_tokens(
    client: AsyncClient, ada: dict[str, str], sent_emails: list[dict[str, str]]
) -> None:
    await reset(client, await request_reset_token(client, sent_emails))

    assert await rejected(client, ada)


@pytest.mark.parametrize("token", ["", "x", "x" * 100_000, "é", "../../etc"])
async def test_unknown_reset_token_is_rejected(client: AsyncClient, token: str) -> None:
    await assert_reset_rejected(client, token)


async def test_hash_of_reset_token_is_rejected(
    client: AsyncClient, sent_emails: list[dict[str, str]]
) -> None:
    await create_test_user(client)

    token = await request_reset_token(client, sent_emails)

    await assert_reset_rejected(client, hash_reset_token(token))


async def test_reset_token_works_once(
    client: AsyncClient, sent_emails: list[dict[str, str]]
) -> None:
    await create_test_user(client)
    token = await request_reset_token(client, sent_emails)

    await reset(client, token)

    await assert_reset_rejected(client, token)


async def test_reset_token_survives_rejected_password(
    client: AsyncClient, sent_emails: list[dict[str, str]]
) -> None:
    await create_test_user(client)
    token = await request_reset_token(client, sent_emails)

    refused = await client.post(
        "/api/users/reset-password", json={"token": token, "new_password": "short"}
    )

    assert refused.status_code == 422
    assert (await reset(client, token)).status_code == 200


async def test_new_reset_token_replaces_old_one(
    client: AsyncClient, sent_emails: list[dict[str, str]]
) -> None:
    await create_test_user(client)
    old = await request_reset_token(client, sent_emails)

    new = await request_reset_token(client, sent_emails)

    await assert_reset_rejected(client, old)
    assert (await reset(client, new)).status_code == 200


async def test_reset_token_of_another_user_is_kept(
    client: AsyncClient, sent_emails: list[dict[str, str]]
) -> None:
    await create_test_user(client, "ada", "ada@example.com")
    await create_test_user(client, "bob", "bob@example.com")
    token = await request_reset_token(client, sent_emails, "bob@example.com")

    await reset(
        client, await request_reset_token(client, sent_emails, "ada@example.com")
    )

    assert (await reset(client, token)).status_code == 200


async def test_expired_reset_token_is_rejected(
    client: AsyncClient, sent_emails: list[dict[str, str]], db: AsyncSession
) -> None:
    await create_test_user(client)
    token = await request_reset_token(client, sent_emails)

    past = utcnow() - timedelta(seconds=1)
    await db.execute(update(PasswordResetToken).values(expires_at=past))
    await db.commit()

    await assert_reset_rejected(client, token)


async def test_password_change_revokes_reset_tokens(
    client: AsyncClient, ada: dict[str, str], sent_emails: list[dict[str, str]]
) -> None:
    token = await request_reset_token(client, sent_emails)

    await change_password(client, ada)

    await assert_reset_rejected(client, token)


async def test_email_change_revokes_reset_tokens(
    client: AsyncClient, ada: dict[str, str], sent_emails: list[dict[str, str]]
) -> None:
    token = await request_reset_token(client, sent_emails)

    await client.patch(
        f"/api/users/{await get_user_id(client, ada)}",
        json={"email": "ada@example.org"},
        headers=ada,
    )

    await assert_reset_rejected(client, token)


async def test_account_deletion_removes_reset_tokens(
    client: AsyncClient, ada: dict[str, str], sent_emails: list[dict[str, str]]
) -> None:
    token = await request_reset_token(client, sent_emails)

    await client.delete(f"/api/users/{await get_user_id(client, ada)}", headers=ada)

    await assert_reset_rejected(client, token)


@pytest.mark.parametrize(
    "body",
    [
        {"token": "x"},
        {"new_password": NEW_PASSWORD},
        {"token": None, "new_password": NEW_PASSWORD},
        {"token": "x", "new_password": "x" * 7},
        {"token": "x", "new_password": "x" * 129},
    ],
)
async def test_reset_password_rejects_invalid_input(
    client: AsyncClient, body: dict[str, Any]
) -> None:
    response = await client.post("/api/users/reset-password", json=body)

    assert response.status_code == 422


async def test_reset_password_deletes_all_reset_tokens(
    client: AsyncClient, sent_emails: list[dict[str, str]], db: AsyncSession
) -> None:
    await create_test_user(client)
    await reset(client, await request_reset_token(client, sent_emails))

    assert await db.scalar(select(func.count(PasswordResetToken.id))) == 0
    assert await db.scalar(select(func.count(User.id))) == 1
