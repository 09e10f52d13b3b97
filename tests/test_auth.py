"""Access tokens, passwords, and the current user."""

import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from httpx import AsyncClient, Response
from pydantic import SecretStr
from sqlalchemy import update

from auth import (
    create_access_token,
    generate_reset_token,
    hash_password,
    verify_access_token,
    verify_password,
)
from config import settings
from models import User, utcnow
from tests.conftest import PASSWORD, auth_header, get_user_id

OTHER_KEY = "another-key-of-thirty-two-bytes-!"
DAY = 24 * 60 * 60


def from_now(seconds: int) -> float:
    return (utcnow() + timedelta(seconds=seconds)).timestamp()


OLD_KEY = "an earlier key of at least 32 bytes"


def make_claims(**changes: Any) -> dict[str, Any]:
    """Return valid claims with some changes. The value `...` removes a claim."""
    claims = {"sub": "7", "ver": 0, "iat": from_now(0), "exp": from_now(60), **changes}
    return {name: value for name, value in claims.items() if value is not ...}


def make_old_claims(user_id: int, **changes: Any) -> dict[str, Any]:
    """Return the claims of a token that expired an hour ago, with some changes."""
    login_time = int(from_now(-13 * DAY))
    dates = {"iat": from_now(-5400), "exp": from_now(-3600), "auth_time": login_time}
    return make_claims(**{"sub": str(user_id), **dates, **changes})


def sign(claims: Any, key: str = settings.signing_key, algorithm: str = "HS256") -> str:
    """Sign any claims, including those that `jwt.encode` refuses."""
    return jwt.api_jws.encode(json.dumps(claims).encode(), key, algorithm)


@pytest.mark.parametrize(
    ("lifetime", "seconds"), [(None, 1800), (timedelta(minutes=5), 300)]
)
def test_lifetime(lifetime, seconds):
    token = create_access_token({"sub": "7"}, lifetime)

    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == seconds


class TestVerifyAccessToken:
    def test_valid(self):
        assert verify_access_token(sign(make_claims())) == "7"

    @pytest.mark.parametrize(("previous", "sub"), [((OLD_KEY,), "7"), ((), None)])
    def test_previous_key(self, monkeypatch, previous, sub):
        monkeypatch.setattr(
            settings, "secret_key_previous", tuple(map(SecretStr, previous))
        )

        assert verify_access_token(sign(make_claims(), OLD_KEY)) == sub
        assert verify_access_token(create_access_token({"sub": "8"})) == "8"

    def test_previous_key_never_signs(self, monkeypatch):
        monkeypatch.setattr(settings, "secret_key_previous", (SecretStr(OLD_KEY),))

        token = create_access_token({"sub": "7"})

        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(token, OLD_KEY, algorithms=["HS256"])

    @pytest.mark.parametrize(("claim", "seconds"), [("exp", -5), ("iat", 5)])
    def test_clock_skew(self, claim, seconds):
        token = sign(make_claims(**{claim: from_now(seconds)}))

        assert verify_access_token(token) == "7"

    @pytest.mark.parametrize(("claim", "seconds"), [("exp", -11), ("iat", 20)])
    def test_too_much_clock_skew(self, claim, seconds):
        token = sign(make_claims(**{claim: from_now(seconds)}))

        assert verify_access_token(token) is None

    @pytest.mark.parametrize(
        "change",
        [
            {"sub": ...},
            {"ver": ...},
            {"iat": ...},
            {"exp": ...},
            {"sub": 7},
            {"ver": "0"},
            {"ver": False},
            {"iat": "1"},
            {"exp": "4102444800"},
            {"exp": float("inf")},
        ],
        ids=str,
    )
    def test_invalid_claim(self, change):
        token = sign(make_claims(**change))

        assert verify_access_token(token) is None

    # PyJWT warns that these algorithms need a longer key.
    @pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
    @pytest.mark.parametrize(
        ("algorithm", "key"),
        [
            ("HS256", OTHER_KEY),
            ("HS384", settings.signing_key),
            ("HS512", settings.signing_key),
            ("none", ""),
        ],
    )
    def test_other_signature(self, algorithm, key):
        token = sign(make_claims(), key, algorithm)

        assert verify_access_token(token) is None

    @pytest.mark.parametrize("added", ["=", "==", " ", "\n", "\t"], ids=repr)
    def test_other_encoding(self, added):
        assert verify_access_token(sign(make_claims()) + added) is None

    def test_changed_payload(self):
        header, _, signature = sign(make_claims()).split(".")
        payload = sign(make_claims(sub="8")).split(".")[1]

        assert verify_access_token(f"{header}.{payload}.{signature}") is None

    @pytest.mark.parametrize(
        "token",
        ["", "x", "..", "a.b.c", "e30.e30.AAAA", sign([]), sign({"pad": "x" * 1024})],
    )
    def test_malformed(self, token):
        assert verify_access_token(token) is None


class TestCurrentUser:
    @pytest.mark.parametrize("value", ["", "Basic YTpi", "{}", "Token {}", "Bearer,{}"])
    async def test_no_bearer_token(self, client, ada, value):
        token = ada["Authorization"].removeprefix("Bearer ")
        headers = {"Authorization": value.format(token)}

        response = await client.get("/api/users/me", headers=headers)

        assert response.status_code == 401
        assert response.json() == {"detail": "Not authenticated"}
        assert response.headers["WWW-Authenticate"] == "Bearer"

    @pytest.mark.parametrize("value", [b"Bearer", b"bearer x", b"Bearer \xff\xfe"])
    async def test_malformed_token(self, client, value):
        response = await client.get("/api/users/me", headers={b"Authorization": value})

        assert response.status_code == 401
        assert response.json() == {"detail": "Invalid or expired token"}
        assert response.headers["WWW-Authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        "change",
        [
            {"sub": "0{}"},
            {"sub": ""},
            {"sub": "x"},
            {"sub": "\u0661"},
            {"sub": "0"},
            {"sub": "2147483648"},
            {"sub": "9" * 100},
            {"ver": -1},
            {"ver": 1},
        ],
        ids=ascii,
    )
    async def test_other_user_or_version(self, client, ada, change):
        user_id = str(await get_user_id(client, ada))
        claims = make_claims(**{"sub": user_id, **change})
        token = sign({**claims, "sub": claims["sub"].format(user_id)})

        response = await client.get("/api/users/me", headers=auth_header(token))

        assert response.status_code == 401
        assert response.json() == {"detail": "Invalid or expired token"}


async def renew(client: AsyncClient, token: str) -> Response:
    return await client.post("/api/users/me/token", headers=auth_header(token))


class TestRenewToken:
    async def test_expired_token(self, client, ada):
        claims = make_old_claims(await get_user_id(client, ada))

        response = await renew(client, sign(claims))

        token = response.json()["access_token"]
        renewed = jwt.decode(token, options={"verify_signature": False})
        assert response.status_code == 200
        assert response.json() == {"access_token": token, "token_type": "bearer"}
        assert response.headers["Cache-Control"] == "no-store"
        assert renewed["exp"] > from_now(60)
        assert renewed["auth_time"] == claims["auth_time"]

    async def test_new_token(self, client, ada):
        token = ada["Authorization"].removeprefix("Bearer ")

        assert (await renew(client, token)).status_code == 200

    async def test_previous_key(self, client, ada, monkeypatch):
        monkeypatch.setattr(settings, "secret_key_previous", (SecretStr(OLD_KEY),))
        claims = make_old_claims(await get_user_id(client, ada))

        response = await renew(client, sign(claims, OLD_KEY))

        assert verify_access_token(response.json()["access_token"]) == claims["sub"]

    @pytest.mark.parametrize(
        ("change", "key"),
        [
            ({"auth_time": int(from_now(-14 * DAY - 60))}, settings.signing_key),
            ({"auth_time": ...}, settings.signing_key),
            ({"auth_time": str(from_now(0))}, settings.signing_key),
            ({"auth_time": float("nan")}, settings.signing_key),
            ({"exp": ...}, settings.signing_key),
            ({"ver": 1}, settings.signing_key),
            ({"sub": "0"}, settings.signing_key),
            ({}, OTHER_KEY),
        ],
        ids=range(8),
    )
    async def test_invalid(self, client, ada, change, key):
        claims = make_old_claims(await get_user_id(client, ada), **change)

        response = await renew(client, sign(claims, key))

        assert response.status_code == 401
        assert response.json() == {"detail": "Invalid or expired token"}
        assert response.headers["WWW-Authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        "change", [{"token_version": 1}, {"is_active": False}], ids=str
    )
    async def test_ended_session(self, client, ada, db, change):
        claims = make_old_claims(await get_user_id(client, ada))
        await db.execute(update(User).values(change))
        await db.commit()

        response = await renew(client, sign(claims))

        assert response.status_code == 401

    async def test_turned_off(self, client, ada, monkeypatch):
        monkeypatch.setattr(settings, "session_max_days", 0)
        token = ada["Authorization"].removeprefix("Bearer ")

        response = await renew(client, token)

        assert response.status_code == 401

    async def test_expired_token_has_no_other_use(self, client, ada):
        token = sign(make_old_claims(await get_user_id(client, ada)))

        response = await client.get("/api/users/me", headers=auth_header(token))

        assert response.status_code == 401


def test_verify_password():
    stored = hash_password(PASSWORD)

    assert stored.startswith("$argon2id$")
    assert verify_password(PASSWORD, stored)
    assert not verify_password(f"{PASSWORD} ", stored)
    assert verify_password("\u00e9", hash_password("e\u0301"))


def test_reset_tokens_are_long_and_unique():
    tokens = {generate_reset_token() for _ in range(100)}

    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43
