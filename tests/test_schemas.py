"""Input validation."""

import json
import unicodedata
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

import schemas
from schemas import (
    Bio,
    ChangePasswordRequest,
    Content,
    Email,
    ExistingEmail,
    ForgotPasswordRequest,
    LoginForm,
    NewPassword,
    PostCreate,
    PostReplace,
    PostUpdate,
    ResetPasswordRequest,
    Title,
    UserCreate,
    Username,
    UserUpdate,
)

ACUTE = "\u0301"
JSON = {"Content-Type": "application/json"}
FORM = "application/x-www-form-urlencoded"
USER = {"username": "ada", "email": "ada@example.com", "password": "correct horse"}


def validate(field: Any, value: Any) -> Any:
    return TypeAdapter(field).validate_python(value)


class TestUsername:
    @pytest.mark.parametrize(
        ("given", "stored"),
        [
            ("n" * 50, "n" * 50),
            ("  Ada Lovelace\t\n", "Ada Lovelace"),
            (f" {f'e{ACUTE}' * 50} ", "é" * 50),
            # A zero-width non-joiner in Devanagari, and a joiner in an emoji.
            ("\u0915\u094d\u200c\u0937", "\u0915\u094d\u200c\u0937"),
            ("\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb"),
            ("O'Brien <b>", "O'Brien <b>"),
        ],
    )
    def test_valid(self, given, stored):
        assert validate(Username, given) == stored

    @pytest.mark.parametrize(
        "name",
        [
            *("a\0b", "a\u200bb", "a\u2028b", "a\u2029b", "a\ue000b", "a\ud800b"),
            # Invisible characters, and a number.
            *("\u200d", "\u3164", "\u2800", 7),
        ],
        ids=ascii,
    )
    def test_invalid(self, name):
        with pytest.raises(ValidationError):
            validate(Username, name)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (" \t", "at least 1 character"),
            ("n" * 51, "at most 50 characters"),
            ("é" * 51, "at most 50 characters"),
        ],
    )
    def test_length(self, name, message):
        with pytest.raises(ValidationError, match=message):
            validate(Username, name)

    def test_far_too_long(self):
        # Sorting these marks, the first step of normalization, would take minutes.
        marks = "a" + "\u0315\u0300" * 30_000

        assert schemas.normalize_username(marks) == marks

    def test_longest_decomposed(self):
        # This letter decomposes into four characters, which is the maximum.
        name = "\u1fa7" * 50

        assert validate(Username, unicodedata.normalize("NFD", name)) == name


class TestEmail:
    @pytest.mark.parametrize(
        ("given", "stored"),
        [
            (" Ada@Example.COM ", "ada@example.com"),
            ("Ada@BÜCHER.example", "ada@bücher.example"),
            (f"{'a' * 60}@{'b' * 51}.example", f"{'a' * 60}@{'b' * 51}.example"),
        ],
    )
    def test_valid(self, given, stored):
        assert validate(Email, given) == stored

    @pytest.mark.parametrize(
        "email",
        [
            "ada",
            "ada@example.com, bob@example.com",
            "ada@example.com\nBcc: bob@example.com",
            f"{'a' * 60}@{'b' * 52}.example",
            f"{'a' * 65}@example.com",
            "müller@example.com",
            "=?utf-8?q?ada?=@example.com",
        ],
        ids=ascii,
    )
    def test_invalid(self, email):
        with pytest.raises(ValidationError):
            validate(Email, email)

    @pytest.mark.parametrize("email", ["müller@example.com", f"{'a' * 65}@example.com"])
    def test_older_account(self, email):
        assert validate(ExistingEmail, email.upper()) == email

    def test_far_too_long(self, monkeypatch):
        # The library must not be called, because it would normalize the input.
        monkeypatch.delattr(schemas, "validate_email")

        with pytest.raises(ValueError, match="at most 120"):
            schemas.normalize_email("a" * 1000)


class TestNewPassword:
    @pytest.mark.parametrize("password", ["p" * 8, "   eight   ", "🐎" * 128])
    def test_valid(self, password):
        assert validate(NewPassword, password) == password

    @pytest.mark.parametrize(
        "password", ["p" * 7, "p" * 129, "eight\0chars", "eight\ud800chars", 12345678]
    )
    def test_invalid(self, password):
        with pytest.raises(ValidationError):
            validate(NewPassword, password)


class TestTitle:
    @pytest.mark.parametrize(
        ("title", "stored"),
        [(f"  {'é' * 100}  ", "é" * 100), ("", ""), ("\u200d", ""), ("\u200b ", "")],
        ids=ascii,
    )
    def test_valid(self, title, stored):
        assert validate(Title, title) == stored

    @pytest.mark.parametrize("title", ["t" * 101, "a\0b"])
    def test_invalid(self, title):
        with pytest.raises(ValidationError):
            validate(Title, title)


class TestContent:
    @pytest.mark.parametrize("content", ["\n c \n", "é" * 100_000], ids=len)
    def test_valid(self, content):
        assert validate(Content, content) == content

    @pytest.mark.parametrize(
        "content",
        ["", " \n\t ", "\u3164\n\u2800", "c" * 100_001, "a\0b"],
        ids=lambda content: ascii(content)[:10],
    )
    def test_invalid(self, content):
        with pytest.raises(ValidationError):
            validate(Content, content)


class TestBio:
    @pytest.mark.parametrize(
        ("given", "stored"),
        [
            (" I write.\n", "I write."),
            ("b" * 160, "b" * 160),
            ("", ""),
            ("\u200d\u3164 ", ""),
        ],
    )
    def test_valid(self, given, stored):
        assert validate(Bio, given) == stored

    @pytest.mark.parametrize(
        "bio", ["b" * 161, "a\0b", "a\nb", "a\u202eb", 7], ids=ascii
    )
    def test_invalid(self, bio):
        with pytest.raises(ValidationError):
            validate(Bio, bio)


INVALID_POST = {"title": "t" * 101, "content": " "}


@pytest.mark.parametrize(
    ("schema", "invalid"),
    [
        (UserCreate, {"username": "", "email": "ada", "password": "short"}),
        (UserUpdate, {"username": "", "email": "ada", "bio": "a\nb"}),
        (PostCreate, INVALID_POST),
        (PostReplace, INVALID_POST),
        (PostUpdate, INVALID_POST),
        (LoginForm, {"username": "\0", "password": "\0", "scope": "\0"}),
        (ForgotPasswordRequest, {"email": "ada"}),
        (ResetPasswordRequest, {"token": "\0", "new_password": "short"}),
        (ChangePasswordRequest, {"current_password": "\0", "new_password": "short"}),
    ],
)
def test_every_field_is_validated(schema, invalid):
    with pytest.raises(ValidationError) as raised:
        schema(**invalid)

    assert {error["loc"][0] for error in raised.value.errors()} == invalid.keys()


class TestJSON:
    @pytest.mark.parametrize("escape", ["\\u0000", "\\ud800", "\\udc00\\ud800"])
    async def test_unstorable_characters(self, client, escape):
        body = json.dumps(dict.fromkeys(USER, "long..text")).replace("..", escape)

        response = await client.post("/api/users", content=body, headers=JSON)

        errors = response.json()["detail"]
        assert response.status_code == 422
        assert [error["loc"] for error in errors] == [["body", name] for name in USER]

    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"null",
            b'{"username": Infinity}',
            b'{"username": "\xff\xfe"}',
            b"\xff\xfe\x00\x00",
            b'{"username": ' + b"9" * 5000 + b"}",
            b"[" * 100_000,
        ],
        ids=range(7),
    )
    async def test_malformed(self, client, body):
        response = await client.post("/api/users", content=body, headers=JSON)

        assert response.status_code == 422
        assert response.json()["detail"][0].keys() == {"type", "loc", "msg"}

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 422),
            ({"Content-Type": FORM}, 422),
            ({"Content-Type": "application/json; charset=utf-8"}, 201),
            ({"Content-Type": "application/merge-patch+json"}, 201),
        ],
    )
    async def test_content_type(self, client, headers, status):
        response = await client.post(
            "/api/users", content=json.dumps(USER), headers=headers
        )

        assert response.status_code == status


class TestLoginForm:
    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("application/json", json.dumps(USER).encode()),
            (FORM, b""),
            (FORM, b"username=a&password=b&grant_type=c"),
            (FORM, b"username=a%00&password=b"),
            (FORM, b"&;=%zz%"),
            ("multipart/form-data", b"username=ada"),
            ("multipart/form-data; boundary=x", b"no multipart at all"),
            (
                "multipart/form-data; boundary=x",
                b'--x\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\xff\r\n',
            ),
        ],
    )
    async def test_malformed(self, client, content_type, body):
        response = await client.post(
            "/api/users/token", content=body, headers={"Content-Type": content_type}
        )

        assert response.status_code == 422
        assert response.json()["detail"][0].keys() == {"type", "loc", "msg"}


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("POST", "", {"json": {**USER, "password": "hunt3r"}}),
        ("POST", "", {"json": {**USER, "password": ["hunt3r"]}}),
        ("POST", "", {"json": "hunt3r"}),
        ("POST", "", {"content": '{"password": "hunt3r', "headers": JSON}),
        ("POST", "/reset-password", {"json": {"token": "hunt3r"}}),
        ("PATCH", "/me/password", {"json": {"current_password": "hunt3r"}}),
        ("POST", "/token", {"data": {"username": "a\0", "password": "hunt3r\0"}}),
    ],
)
async def test_secret_is_not_echoed(client, ada, method, path, options):
    options = {"headers": ada, **options}

    response = await client.request(method, f"/api/users{path}", **options)

    assert response.status_code == 422
    assert "hunt3r" not in response.text
