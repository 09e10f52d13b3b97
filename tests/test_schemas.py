"""Input validation: text, names, email addresses, passwords, and request bodies."""

import json
import unicodedata
from typing import Any

import pytest
from httpx import AsyncClient
from pydantic import ValidationError

import schemas
from schemas import PostCreate, PostReplace, PostUpdate, UserCreate, UserUpdate

ACUTE = "\u0301"


def sign_up_body(**fields: Any) -> dict[str, Any]:
    return {
        "username": "ada",
        "email": "ada@example.com",
        "password": "correct horse",
        **fields,
    }


def find_invalid_fields(schema: Any, **fields: Any) -> list[tuple[Any, ...]]:
    """Return which of these fields a schema rejects."""
    with pytest.raises(ValidationError) as raised:
        schema(**fields)
    return [fault["loc"] for fault in raised.value.errors()]


# Usernames


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a", "a"),
        ("n" * 50, "n" * 50),
        ("  ada\t\n", "ada"),
        ("Ada Lovelace", "Ada Lovelace"),
        (f"e{ACUTE}", "é"),
        (f" {f'e{ACUTE}' * 50} ", "é" * 50),
        ("\u0915\u094d\u200c\u0937", "\u0915\u094d\u200c\u0937"),
        ("\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb"),
        ("李白", "李白"),
        ("O'Brien <b>", "O'Brien <b>"),
    ],
)
def test_username_is_trimmed_and_composed(given: str, kept: str) -> None:
    assert UserCreate(**sign_up_body(username=given)).username == kept


@pytest.mark.parametrize(
    "name",
    [
        "",
        "   ",
        "n" * 51,
        "é" * 51,
        "a\0b",
        "a\x07b",
        "a\nb",
        "a\x7fb",
        "a\x85b",
        "a\u200bb",
        "a\u00adb",
        "a\u202eb",
        "a\u2066b",
        "a\ufeffb",
        "a\u2028b",
        "a\u2029b",
        "a\ue000b",
        "a\U000f0000b",
        "a\U000e0041b",
        "a\ud800b",
    ],
)
def test_invalid_username_is_rejected(
    name: str,
) -> None:
    assert find_invalid_fields(UserCreate, **sign_up_body(username=name)) == [
        ("username",)
    ]
    assert find_invalid_fields(UserUpdate, username=name) == [("username",)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (" \t", "String should have at least 1 character"),
        ("n" * 51, "String should have at most 50 characters"),
    ],
)
def test_username_length_error_speaks_of_characters(name: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        UserCreate(**sign_up_body(username=name))


@pytest.mark.parametrize("name", [7, True, None, ["ada"], {"a": 1}])
def test_username_must_be_a_string(name: Any) -> None:
    assert find_invalid_fields(UserCreate, **sign_up_body(username=name)) == [
        ("username",)
    ]


# Email addresses


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Ada@Example.COM", "ada@example.com"),
        (" ada@example.com ", "ada@example.com"),
        ("ada+blog@mail.example.com", "ada+blog@mail.example.com"),
        ("Ada@BÜCHER.example", "ada@bücher.example"),
        (f"{'a' * 60}@{'b' * 51}.example", f"{'a' * 60}@{'b' * 51}.example"),
    ],
)
def test_email_is_stored_in_lowercase(given: str, kept: str) -> None:
    assert UserCreate(**sign_up_body(email=given)).email == kept


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "ada@example",
        "ada@example..com",
        "ada example@example.com",
        "ada@exam ple.com",
        "ada@example.com, bob@example.com",
        "ada@example.com\nBcc: bob@example.com",
        "Ada <ada@example.com>",
        "a\0da@example.com",
        "a\ud800da@example.com",
        f"{'a' * 60}@{'b' * 52}.example",
        7,
        None,
    ],
)
def test_invalid_or_too_long_email_is_rejected(email: Any) -> None:
    assert find_invalid_fields(UserCreate, **sign_up_body(email=email)) == [("email",)]


# Passwords


@pytest.mark.parametrize(
    "password", ["p" * 8, "p" * 128, "   eight   ", "        ", "пароль-1", "🐎" * 128]
)
def test_password_is_kept_unchanged(password: str) -> None:
    assert UserCreate(**sign_up_body(password=password)).password == password


@pytest.mark.parametrize(
    "password",
    ["", "p" * 7, "p" * 129, "eight\0chars", "eight\ud800chars", None, 12345678],
)
def test_invalid_password_is_rejected(password: Any) -> None:
    assert find_invalid_fields(UserCreate, **sign_up_body(password=password)) == [
        ("password",)
    ]


# Posts


@pytest.mark.parametrize("schema", [PostCreate, PostReplace, PostUpdate])
@pytest.mark.parametrize("title", ["t" * 100, f"  {'t' * 100}  ", "é" * 100])
def test_title_of_100_characters_after_trimming_is_valid(
    schema: Any, title: str
) -> None:
    assert schema(title=title, content="c").title == title.strip()


@pytest.mark.parametrize("schema", [PostCreate, PostReplace, PostUpdate])
@pytest.mark.parametrize("title", ["t" * 101, "a\0b", "a\ud800b", 7, ["t"]])
def test_invalid_title_is_rejected(schema: Any, title: Any) -> None:
    assert find_invalid_fields(schema, title=title, content="c") == [("title",)]


@pytest.mark.parametrize("schema", [PostCreate, PostReplace, PostUpdate])
@pytest.mark.parametrize("content", ["c", "c" * 100_000, "\n c \n", "é" * 100_000])
def test_content_keeps_whitespace(schema: Any, content: str) -> None:
    assert schema(title="t", content=content).content == content


@pytest.mark.parametrize("schema", [PostCreate, PostReplace, PostUpdate])
@pytest.mark.parametrize(
    "content", ["", " \n\t ", "\u3000", "c" * 100_001, "a\0b", "a\udfffb", 7, {}]
)
def test_invalid_content_is_rejected(schema: Any, content: Any) -> None:
    assert find_invalid_fields(schema, title="t", content=content) == [("content",)]


# API requests


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud800", "\\udc00\\ud800"])
@pytest.mark.parametrize("field", ["username", "email", "password"])
async def test_unstorable_characters_are_rejected(
    client: AsyncClient, field: str, escape: str
) -> None:
    body = json.dumps(sign_up_body(**{field: "longtext"})).replace("gt", f"g{escape}t")

    response = await client.post(
        "/api/users", content=body, headers={"Content-Type": "application/json"}
    )

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", field]


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud800"])
@pytest.mark.parametrize(
    ("method", "path", "field", "others"),
    [
        ("POST", "/api/users/forgot-password", "email", {}),
        ("POST", "/api/users/reset-password", "token", {"new_password": "12345678"}),
        ("POST", "/api/users/reset-password", "new_password", {"token": "t"}),
        (
            "PATCH",
            "/api/users/me/password",
            "current_password",
            {"new_password": "12345678"},
        ),
        (
            "PATCH",
            "/api/users/me/password",
            "new_password",
            {"current_password": "12345678"},
        ),
    ],
)
async def test_unstorable_characters_in_secrets_are_rejected(
    client: AsyncClient,
    ada: dict[str, str],
    method: str,
    path: str,
    field: str,
    others: dict[str, str],
    escape: str,
) -> None:
    body = json.dumps({field: "longtext", **others}).replace("gt", f"g{escape}t")

    response = await client.request(
        method, path, content=body, headers={**ada, "Content-Type": "application/json"}
    )

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", field]


@pytest.mark.parametrize("field", ["username", "password"])
async def test_login_rejects_nul(client: AsyncClient, field: str) -> None:
    form = {"username": "ada@example.com", "password": "correct horse", field: "a\0b"}

    response = await client.post("/api/users/token", data=form)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", field]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"NaN",
        b'{"username": Infinity}',
        b'{"username": "\xff\xfe"}',
        b"\xff\xfe\x00\x00",
        b'{"username": ' + b"9" * 5000 + b"}",
        b'{"username": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
    ids=range(14),
)
@pytest.mark.parametrize(
    "path", ["/api/users", "/api/users/forgot-password", "/api/users/reset-password"]
)
async def test_malformed_json_body_is_rejected(
    client: AsyncClient, path: str, body: bytes
) -> None:
    response = await client.post(
        path, content=body, headers={"Content-Type": "application/json"}
    )

    assert response.status_code == 422
    assert response.json()["detail"][0].keys() == {"type", "loc", "msg"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "nonsense"},
    ],
)
async def test_json_with_other_content_type_is_rejected(
    client: AsyncClient, headers: dict[str, str]
) -> None:
    response = await client.post(
        "/api/users", content=json.dumps(sign_up_body()), headers=headers
    )

    assert response.status_code == 422


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/merge-patch+json"]
)
async def test_json_content_type_may_have_suffix(
    client: AsyncClient, content_type: str
) -> None:
    response = await client.post(
        "/api/users",
        content=json.dumps(sign_up_body()),
        headers={"Content-Type": content_type},
    )

    assert response.status_code == 201


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"username": "ada@example.com", "password": "x"}'),
        ("application/x-www-form-urlencoded", b""),
        ("application/x-www-form-urlencoded", b"username=ada"),
        ("application/x-www-form-urlencoded", b"username=a&password=b&grant_type=c"),
        ("application/x-www-form-urlencoded", b"&;=%zz%"),
        ("multipart/form-data", b"username=ada"),
        ("multipart/form-data; boundary=x", b"no multipart at all"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n--x--"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\xff\r\n--x--',
        ),
    ],
)
async def test_malformed_login_form_is_rejected(
    client: AsyncClient, content_type: str, body: bytes
) -> None:
    response = await client.post(
        "/api/users/token", content=body, headers={"Content-Type": content_type}
    )

    assert response.status_code == 422
    assert isinstance(response.json()["detail"], list)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/users", sign_up_body(password="hunt3r")),
        ("POST", "/api/users", sign_up_body(password="hunt3r" * 30)),
        ("POST", "/api/users", sign_up_body(password=["hunt3r"])),
        ("POST", "/api/users", sign_up_body(password="hunt3r hunt3r", email="x")),
        ("POST", "/api/users", {"password": "hunt3r hunt3r"}),
        ("POST", "/api/users", ["hunt3r"]),
        ("POST", "/api/users", "hunt3r"),
        ("POST", "/api/users/reset-password", {"token": "hunt3r"}),
        (
            "POST",
            "/api/users/reset-password",
            {"token": "hunt3r\0", "new_password": "hunt3r"},
        ),
        (
            "PATCH",
            "/api/users/me/password",
            {"current_password": "hunt3r", "new_password": "hunt3r"},
        ),
        ("PATCH", "/api/users/me/password", {"current_password": "hunt3r"}),
    ],
)
async def test_invalid_input_is_not_echoed(
    client: AsyncClient, ada: dict[str, str], method: str, path: str, body: Any
) -> None:
    response = await client.request(method, path, json=body, headers=ada)

    assert response.status_code == 422
    assert "hunt3r" not in response.text


@pytest.mark.parametrize(
    "form", [{"password": "hunt3r"}, {"username": "a", "password": "hunt3r\0"}]
)
async def test_invalid_login_is_not_echoed(
    client: AsyncClient, form: dict[str, str]
) -> None:
    response = await client.post("/api/users/token", data=form)

    assert response.status_code == 422
    assert "hunt3r" not in response.text


async def test_password_in_malformed_json_is_not_echoed(client: AsyncClient) -> None:
    response = await client.post(
        "/api/users",
        content='{"password": "hunt3r',
        headers={"Content-Type": "application/json"},
    )

    assert response.status_code == 422
    assert "hunt3r" not in response.text


def test_far_too_long_username_is_not_normalized() -> None:
    # Sorting these combining marks, the first step of normalization, would take
    # minutes.
    marks = "a" + "\u0315\u0300" * 30_000

    assert schemas.normalize_username(marks) == marks


def test_far_too_long_email_is_not_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("it composes what it is given")

    monkeypatch.setattr(schemas, "validate_email", fail)

    with pytest.raises(ValueError, match="at most 120"):
        schemas.normalize_email("a" * 1000)


def test_longest_decomposed_username_is_normalized() -> None:
    # Each of these letters decomposes into four characters at most.
    name = "\u1fa7" * 50

    assert schemas.normalize_username(unicodedata.normalize("NFD", name)) == name
