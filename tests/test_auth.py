"""Logins, access tokens, reset tokens and passwords."""

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
    login_user,
    own_id,
    settings,
)

NEW_PASSWORD = "battery staple"


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The keywords of every reset mail that the application wants to send."""
    sent: list[dict[str, str]] = []

    async def note(**mail: str) -> None:
        sent.append(mail)

    monkeypatch.setattr("routers.users.send_password_reset_email", note)
    return sent


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes against which a password is verified."""
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


async def ask_for_token(
    client: AsyncClient, mails: list[dict[str, str]], email: str = "ada@example.com"
) -> str:
    """Forget a password; gives the token from the mail."""
    await client.post("/api/users/forgot-password", json={"email": email})
    return mails[-1]["token"]


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
    """Whether a token is answered as the contract has it for any flaw."""
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
async def test_login_gives_a_bearer_token(client: AsyncClient, email: str) -> None:
    await create_test_user(client, email="Ada@example.com")

    response = await attempt(client, email, PASSWORD)

    assert response.status_code == 200
    assert response.json() == {
        "access_token": response.json()["access_token"],
        "token_type": "bearer",
    }


@pytest.mark.parametrize(
    "email", ["ada@xn--exmple-cua.com", "a\u0308da@example.com", "ada@EX\xc4MPLE.com"]
)
async def test_login_takes_the_address_in_the_form_used_to_sign_up(
    client: AsyncClient, email: str
) -> None:
    await create_test_user(client, email=email)

    response = await attempt(client, email, PASSWORD)

    assert response.status_code == 200


async def test_login_ignores_the_other_fields_of_the_password_grant(
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
async def test_wrong_login_is_refused(
    client: AsyncClient, email: str, password: str
) -> None:
    await create_test_user(client, "ada", "ada@example.com")

    response = await attempt(client, email, password)

    assert response.status_code == 401
    assert response.json() == {"detail": "Incorrect email or password"}
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_wrong_password_and_unknown_email_get_the_same_answer(
    client: AsyncClient,
) -> None:
    await create_test_user(client, "ada", "ada@example.com")

    wrong = await attempt(client, "ada@example.com", "wrong")
    unknown = await attempt(client, "nobody@example.com", "wrong")

    assert wrong.content == unknown.content
    assert wrong.headers.raw == unknown.headers.raw


@pytest.mark.parametrize("email", ["ada@example.com", "nobody@example.com", "ada"])
async def test_wrong_login_verifies_exactly_one_hash_of_equal_cost(
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
async def test_request_without_bearer_is_not_authenticated(
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


async def claims_of(client: AsyncClient) -> dict[str, Any]:
    """The claims that a token of a new user has."""
    await create_test_user(client)
    token = await login_user(client)
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def signed(claims: dict[str, Any]) -> dict[str, str]:
    """Headers with a token that has these claims and the right signature."""
    return auth_header(jwt.encode(claims, settings.signing_key, algorithm="HS256"))


async def test_token_has_the_claims_of_the_contract(client: AsyncClient) -> None:
    claims = await claims_of(client)

    user = (await client.get("/api/users")).json()[0]
    assert claims.keys() >= {"sub", "iat", "exp"}
    assert claims["sub"] == str(user["id"])
    assert claims["exp"] - claims["iat"] == 30 * 60


async def test_token_of_the_right_make_is_accepted(client: AsyncClient) -> None:
    claims = await claims_of(client)

    response = await client.get("/api/users/me", headers=signed(claims))

    assert response.status_code == 200


async def test_token_without_signature_is_rejected(client: AsyncClient) -> None:
    claims = await claims_of(client)

    token = jwt.encode(claims, "", algorithm="none")

    assert await rejected(client, auth_header(token))


# The key is too short for the longer digests, which is nobody's concern here.
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_token_of_another_algorithm_is_rejected(
    client: AsyncClient, algorithm: str
) -> None:
    claims = await claims_of(client)

    token = jwt.encode(claims, settings.signing_key, algorithm=algorithm)

    assert await rejected(client, auth_header(token))


async def test_token_signed_with_another_key_is_rejected(client: AsyncClient) -> None:
    claims = await claims_of(client)

    token = jwt.encode(claims, "another-key-of-thirty-two-bytes-!", algorithm="HS256")

    assert await rejected(client, auth_header(token))


async def test_token_that_was_altered_is_rejected(client: AsyncClient) -> None:
    claims = await claims_of(client)
    header, _, signature = signed(claims)["Authorization"].split(".")
    other = signed({**claims, "sub": "1"})["Authorization"].split(".")[1]

    forged = {"Authorization": f"{header}.{other}.{signature}"}

    assert await rejected(client, forged)


@pytest.mark.parametrize("form", ["0{}", "{} ", "+{}", "{}.0"])
async def test_token_with_another_form_of_the_number_is_rejected(
    client: AsyncClient, form: str
) -> None:
    claims = await claims_of(client)

    assert await rejected(client, signed({**claims, "sub": form.format(claims["sub"])}))


@pytest.mark.parametrize("missing", ["sub", "iat", "exp", "ver"])
async def test_token_that_lacks_a_claim_is_rejected(
    client: AsyncClient, missing: str
) -> None:
    claims = await claims_of(client)
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
async def test_token_with_a_claim_out_of_order_is_rejected(
    client: AsyncClient, claim: str, value: Any
) -> None:
    claims = await claims_of(client)
    # PyJWT does not sign a `sub` that is no text.
    payload = jwt.api_jws.encode(
        json.dumps({**claims, claim: value}).encode(),
        settings.signing_key,
        algorithm="HS256",
    )

    assert await rejected(client, auth_header(payload))


@pytest.mark.parametrize("payload", [b"[]", b"7", b"null", b'"x"', b"\xff", b"[" * 500])
async def test_token_whose_payload_is_no_object_is_rejected(
    client: AsyncClient, payload: bytes
) -> None:
    token = jwt.api_jws.encode(payload, settings.signing_key, algorithm="HS256")

    assert await rejected(client, auth_header(token))


@pytest.mark.parametrize("seconds", [5, -5])
@pytest.mark.parametrize("claim", ["exp", "iat"])
async def test_clocks_may_differ_by_some_seconds(
    client: AsyncClient, claim: str, seconds: int
) -> None:
    claims = await claims_of(client)
    claims[claim] = utcnow() + timedelta(seconds=seconds)

    response = await client.get("/api/users/me", headers=signed(claims))

    assert response.status_code == 200


@pytest.mark.parametrize(("claim", "seconds"), [("exp", -12), ("iat", 15)])
async def test_clocks_may_not_differ_by_more_than_the_leeway(
    client: AsyncClient, claim: str, seconds: int
) -> None:
    claims = await claims_of(client)
    claims[claim] = utcnow() + timedelta(seconds=seconds)

    assert await rejected(client, signed(claims))


async def test_token_of_a_deleted_user_is_rejected(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    await client.delete(f"/api/users/{await own_id(client, ada)}", headers=ada)

    assert await rejected(client, ada)


def test_verify_access_token_gives_the_subject() -> None:
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
def test_verify_access_token_gives_none_for_any_flaw(token: str) -> None:
    assert verify_access_token(token) is None


def test_create_access_token_takes_a_lifetime() -> None:
    token = create_access_token({"sub": "7"}, timedelta(minutes=5))

    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 300


# Passwords


def test_password_matches_its_own_hash_only() -> None:
    stored = hash_password("correct horse")

    assert verify_password("correct horse", stored)
    assert not verify_password("correct horse ", stored)


def test_equal_passwords_have_different_hashes() -> None:
    assert hash_password("correct horse") != hash_password("correct horse")


async def test_passwords_are_hashed_and_verified_off_the_event_loop(
    client: AsyncClient, mails: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
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
    await reset(client, await ask_for_token(client, mails))

    assert len(threads) == 5
    assert threading.main_thread() not in threads


# Changing a password


async def test_change_password_needs_a_login(client: AsyncClient) -> None:
    response = await change_password(client, {})

    assert response.status_code == 401
    assert response.json() == {"detail": "Not authenticated"}
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_change_password_needs_the_current_one(
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
async def test_change_password_refuses_invalid_input(
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


async def test_change_password_ends_all_tokens_but_the_one_it_gives(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    other = auth_header(await login_user(client))

    fresh = (await change_password(client, ada)).json()["access_token"]

    # All of this happens within the second in which the tokens were issued.
    assert await rejected(client, ada)
    assert await rejected(client, other)
    me = await client.get("/api/users/me", headers=auth_header(fresh))
    assert me.status_code == 200


async def test_change_password_leaves_the_tokens_of_others_alone(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    await change_password(client, ada)

    assert (await client.get("/api/users/me", headers=bob)).status_code == 200


# Forgetting a password


async def test_forgot_password_gives_the_same_answer_for_every_address(
    client: AsyncClient, mails: list[dict[str, str]]
) -> None:
    await create_test_user(client, "ada", "ada@example.com")

    known, unknown = [
        await client.post("/api/users/forgot-password", json={"email": email})
        for email in ("ada@example.com", "nobody@example.com")
    ]

    assert known.status_code == unknown.status_code == 202
    assert known.content == unknown.content
    assert known.headers.raw == unknown.headers.raw
    assert len(mails) == 1


async def test_forgot_password_refuses_what_is_no_address(client: AsyncClient) -> None:
    response = await client.post("/api/users/forgot-password", json={"email": "ada"})

    assert response.status_code == 422


async def test_only_the_hash_of_a_reset_token_is_stored(
    client: AsyncClient, mails: list[dict[str, str]], db: AsyncSession
) -> None:
    await create_test_user(client)

    token = await ask_for_token(client, mails)

    row = (await db.scalars(select(PasswordResetToken))).one()
    assert row.token_hash == hash_reset_token(token)
    assert row.expires_at - row.created_at == pytest.approx(
        timedelta(minutes=60), abs=timedelta(seconds=5)
    )


def test_reset_tokens_are_long_and_never_the_same() -> None:
    tokens = {generate_reset_token() for _ in range(100)}

    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43


# Resetting a password


async def assert_no_good(client: AsyncClient, token: str) -> None:
    """Show that a reset token does nothing."""
    response = await reset(client, token)
    assert response.status_code == 400
    assert response.json() == {"detail": "Invalid or expired reset token"}


async def test_reset_password_success(
    client: AsyncClient, mails: list[dict[str, str]]
) -> None:
    await create_test_user(client)
    token = await ask_for_token(client, mails)

    response = await reset(client, token)

    assert response.status_code == 200
    assert response.json() == {
        "message": "Password reset successfully. "
        "You can now log in with your new password."
    }
    assert await login_user(client, "ada@example.com", NEW_PASSWORD)
    assert (await attempt(client, "ada@example.com", PASSWORD)).status_code == 401


async def test_reset_password_ends_access_tokens(
    client: AsyncClient, ada: dict[str, str], mails: list[dict[str, str]]
) -> None:
    await reset(client, await ask_for_token(client, mails))

    assert await rejected(client, ada)


@pytest.mark.parametrize("token", ["", "x", "x" * 100_000, "é", "../../etc"])
async def test_reset_token_that_nobody_was_sent_is_no_good(
    client: AsyncClient, token: str
) -> None:
    await assert_no_good(client, token)


async def test_hash_of_a_reset_token_is_no_good(
    client: AsyncClient, mails: list[dict[str, str]]
) -> None:
    await create_test_user(client)

    token = await ask_for_token(client, mails)

    await assert_no_good(client, hash_reset_token(token))


async def test_reset_token_works_once(
    client: AsyncClient, mails: list[dict[str, str]]
) -> None:
    await create_test_user(client)
    token = await ask_for_token(client, mails)

    await reset(client, token)

    await assert_no_good(client, token)


async def test_reset_token_survives_a_password_that_is_refused(
    client: AsyncClient, mails: list[dict[str, str]]
) -> None:
    await create_test_user(client)
    token = await ask_for_token(client, mails)

    refused = await client.post(
        "/api/users/reset-password", json={"token": token, "new_password": "short"}
    )

    assert refused.status_code == 422
    assert (await reset(client, token)).status_code == 200


async def test_new_reset_token_replaces_the_old_one(
    client: AsyncClient, mails: list[dict[str, str]]
) -> None:
    await create_test_user(client)
    old = await ask_for_token(client, mails)

    new = await ask_for_token(client, mails)

    await assert_no_good(client, old)
    assert (await reset(client, new)).status_code == 200


async def test_reset_token_of_another_user_stays(
    client: AsyncClient, mails: list[dict[str, str]]
) -> None:
    await create_test_user(client, "ada", "ada@example.com")
    await create_test_user(client, "bob", "bob@example.com")
    token = await ask_for_token(client, mails, "bob@example.com")

    await reset(client, await ask_for_token(client, mails, "ada@example.com"))

    assert (await reset(client, token)).status_code == 200


async def test_expired_reset_token_is_no_good(
    client: AsyncClient, mails: list[dict[str, str]], db: AsyncSession
) -> None:
    await create_test_user(client)
    token = await ask_for_token(client, mails)

    past = utcnow() - timedelta(seconds=1)
    await db.execute(update(PasswordResetToken).values(expires_at=past))
    await db.commit()

    await assert_no_good(client, token)


async def test_change_of_password_ends_reset_tokens(
    client: AsyncClient, ada: dict[str, str], mails: list[dict[str, str]]
) -> None:
    token = await ask_for_token(client, mails)

    await change_password(client, ada)

    await assert_no_good(client, token)


async def test_change_of_address_ends_reset_tokens(
    client: AsyncClient, ada: dict[str, str], mails: list[dict[str, str]]
) -> None:
    token = await ask_for_token(client, mails)

    await client.patch(
        f"/api/users/{await own_id(client, ada)}",
        json={"email": "ada@example.org"},
        headers=ada,
    )

    await assert_no_good(client, token)


async def test_deletion_of_the_account_ends_reset_tokens(
    client: AsyncClient, ada: dict[str, str], mails: list[dict[str, str]]
) -> None:
    token = await ask_for_token(client, mails)

    await client.delete(f"/api/users/{await own_id(client, ada)}", headers=ada)

    await assert_no_good(client, token)


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
async def test_reset_password_refuses_invalid_input(
    client: AsyncClient, body: dict[str, Any]
) -> None:
    response = await client.post("/api/users/reset-password", json=body)

    assert response.status_code == 422


async def test_reset_leaves_none_of_the_tokens(
    client: AsyncClient, mails: list[dict[str, str]], db: AsyncSession
) -> None:
    await create_test_user(client)
    await reset(client, await ask_for_token(client, mails))

    assert await db.scalar(select(func.count(PasswordResetToken.id))) == 0
    assert await db.scalar(select(func.count(User.id))) == 1
