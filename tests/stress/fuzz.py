"""Generate malformed requests: JSON, forms, multipart, URLs, raw HTTP.

A case depends only on a seed and its number.
"""

import json
import zlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from random import Random
from typing import Any
from urllib.parse import quote_from_bytes, urlencode

from PIL import Image

from main import app
from tests.recorder import Json, follow, operations

DOCUMENT = app.openapi()
MULTIPART = "multipart/form-data"
FORM = "application/x-www-form-urlencoded"
DEPTH = 100_000
FIELDS = 10_000
PARTS = 1_000

RawHeaders = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Known:
    """Existing data of the site, for nearly valid requests."""

    token: str
    user_id: int
    post_ids: list[int]
    cursor: str
    tag: str


@dataclass(frozen=True)
class Case:
    """A request as a server passes it to the app."""

    kind: str
    method: str
    target: bytes
    headers: RawHeaders = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    is_cut_off: bool = False

    def __str__(self) -> str:
        """Return enough to recognize the request."""
        body = b"".join(self.chunks)
        length = f"{len(body):,} bytes{', cut off' if self.is_cut_off else ''}"
        parts = (self.kind, self.method, self.target, self.headers, length, body)
        return ", ".join(short(part) for part in parts)


def short(value: object) -> str:
    """Return a shortened repr."""
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."


# Texts

TEXTS = [
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff\ud800",
    "a\ud83d",
    "\ufeff",
    "\ufeffada",
    "\ufffe\uffff",
    "\u202eada\u202c",
    "\u200b\u200d\u2060",
    "\u2028\u2029",
    "a\u0300" + "\u0301" * 500,
    "a" + "\u0315\u0300" * 30_000,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U000e0001\U000e0041",
    "\ufdfa" * 40,
    "İıſß",
    "ǅ" * 50,
    "\r\nSet-Cookie: a=b",
    "ada\r\nBcc: eve@example.com",
    "%0d%0aX-Injected: 1",
    "' OR 1=1 --",
    "'; DROP TABLE users; --",
    "$$; SELECT pg_sleep(10)",
    "{{7*7}}",
    "${jndi:ldap://127.0.0.1/a}",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "=1+1",
    "\x1b[31m",
    "\x7f\x80\x9f",
    "1e999",
    "-1",
    "9" * 5_000,
    "true",
    "null",
    "x" * 49,
    "x" * 50,
    "x" * 51,
    "é" * 128,
    "x" * 100_001,
    "\n" * 1_000,
    "a@b",
    "@example.com",
    "ada@",
    "ada@example..com",
    f"{'a' * 64}@{'b' * 63}.example.com",
    "ada@[127.0.0.1]",
    '"a b"@example.com',
    "ada@xn--.com",
    "ada@\u2024.com",
    "ad\u0430@ex\u0430mple.com",
    "ada@example.com\0",
    "ada@example.com,eve@example.com",
]

# Valid and invalid JSON values.
SCALARS = [
    "null",
    "true",
    "0",
    "-0",
    "-1",
    "1.5",
    "1e5",
    "1e999",
    "-1e999",
    "1e-999",
    "2147483648",
    "9223372036854775808",
    "9" * 400,
    "9" * 5_000,
    "0." + "3" * 5_000,
    "NaN",
    "Infinity",
    "-Infinity",
    "[]",
    "{}",
    '[""]',
    '[["a"]]',
    '{"a": 1}',
    '{"__class__": "x", "__proto__": {}}',
    '{"$ref": "#"}',
    "[" + ",".join(["1"] * 2_000) + "]",
    '"\\ud800"',
    '"\\ud83d\\ude00"',
    '"\\u0000"',
    '"\\x41"',
    '"a\tb"',
    '"unended',
    "'single'",
    "undefined",
    "01",
    "1_000",
    "0x10",
    "+1",
    "1.",
    ".5",
    "tru",
    "",
]


def near_miss(rng: Random, name: str) -> str:
    """Return a text that this field would accept."""
    number = rng.getrandbits(48)
    if "email" in name:
        return f"{number}@example.com"
    if "password" in name or name == "token":
        return f"secret {number}"
    return f"text {number}"


def text(rng: Random) -> str:
    """Return a text with all kinds of characters."""
    if rng.random() < 0.8:
        return rng.choice(TEXTS)
    ranges = [(0, 31), (32, 126), (128, 255), (0x300, 0x36F), (0xD800, 0xDFFF)]
    ranges += [(0x600, 0x6FF), (0xE000, 0xF8FF), (0x1F300, 0x1FAFF), (0, 0x10FFFF)]
    return "".join(
        chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 60))
    )


def random_bytes(rng: Random, most: int = 200) -> bytes:
    """Return random bytes."""
    return rng.randbytes(rng.randint(0, most))


def mutate(rng: Random, body: bytes) -> bytes:
    """Change, drop, double or move a few bytes."""
    content = bytearray(body)
    for _ in range(rng.randint(1, 6)):
        if not content:
            break
        at = rng.randrange(len(content))
        match rng.randrange(4):
            case 0:
                content[at] = rng.randrange(256)
            case 1:
                del content[at : at + rng.randint(1, 9)]
            case 2:
                content[at:at] = content[at : at + rng.randint(1, 30)]
            case _:
                content[at:at] = random_bytes(rng, 9)
    return bytes(content)


def split_into_chunks(rng: Random, body: bytes) -> list[bytes]:
    """Split a body into chunks, some of them empty."""
    if not body or rng.random() < 0.7:
        return [body]
    cuts = sorted(rng.randrange(len(body)) for _ in range(rng.randint(1, 5)))
    ends = zip([0, *cuts], [*cuts, len(body)], strict=True)
    return [body[start:end] for start, end in ends]


# Headers

ODD_VALUES = [
    b"",
    b" ",
    b"*",
    b'"',
    b'""',
    b'W/"x"',
    b'W/"',
    b'"x", "y"',
    b'"' * 4_000,
    b'"x",' * 2_000,
    b"x" * 255,
    b"x" * 256,
    b"x" * 8_192,
    b"x" * 8_193,
    b"," * 5_000,
    b";" * 5_000,
    b"\xff\xfe\x80",
    b"\xc3\xa9",
    b"%00",
    b"%0d%0aX-Injected: 1",
    b"\t",
    b"0",
    b"-1",
    b"1" * 5_000,
    b"1e9",
    b"\xb2",
    b"bytes=0-",
    b"bytes=-0",
    b"bytes=-1",
    b"bytes=9-1",
    b"bytes=0-0,2-2",
    b"bytes=" + b"0-0," * 2_000,
    b"bytes=" + b"9" * 5_000 + b"-",
    b"chars=1-2",
    b"text/html;q=nan",
    b"application/problem+json;q=0",
    b"*/*;q=1e999",
    b"application/json, application/problem+json" * 300,
    b"gzip;q=-1, br;q=abc, *;q=",
    b"gzip, deflate, br, zstd, identity;q=0, *;q=0",
    b"127.0.0.1, evil, [::1]:99999",
    b"1.2.3.4," * 1_000,
    b'for="[::1";proto=javascript',
    b"Bearer",
    b"Bearer ",
    b"Bearer ..",
    b"Bearer a.b.c d",
    b"Bearer " + b"." * 2_000,
    b"Bearer " + b"A" * 20_000,
    b"bearer\teyJ",
    b"Basic " + b64encode(b"ada:\0"),
    b"Basic !!!",
    b"Negotiate \xff",
    b"Sun, 06 Nov 1994 08:49:37 GMT",
    b"Thu, 99 Foo 99999 99:99:99 GMT",
    b"null",
    b"https://evil.example",
    b"//evil.example",
    b"evil.example:99999",
    b"[::1",
    b"[v1.x]",
    b"127.0.0.1:0x50",
    b'a=b; c="; =; ;;',
    b"a" * 4_000 + b"=1",
    b"100-continue",
    b"chunked",
    b"gzip, chunked",
    b"close, keep-alive, upgrade",
    b"websocket",
]
HEADER_NAMES = [
    b"accept",
    b"accept-encoding",
    b"accept-language",
    b"authorization",
    b"cache-control",
    b"connection",
    b"content-encoding",
    b"content-language",
    b"content-md5",
    b"content-range",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"idempotency-key",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"last-event-id",
    b"max-forwards",
    b"origin",
    b"prefer",
    b"range",
    b"referer",
    b"sec-fetch-mode",
    b"access-control-request-method",
    b"access-control-request-headers",
    b"te",
    b"trailer",
    b"upgrade",
    b"user-agent",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-http-method-override",
    b"x-original-url",
    b"x-requested-with",
]


def odd_headers(rng: Random, most: int = 4) -> RawHeaders:
    """Return a few syntactically valid but meaningless headers."""
    return [
        (
            rng.choice(HEADER_NAMES),
            # Servers drop or reject headers with a line break or NUL.
            rng.choice(ODD_VALUES)
            if rng.random() < 0.9
            else random_bytes(rng).translate(None, b"\0\r\n"),
        )
        for _ in range(rng.randint(0, most))
    ]


def make_auth_headers(rng: Random, known: Known) -> RawHeaders:
    """Return mostly valid credentials, so that later checks are reached."""
    if rng.random() < 0.8:
        return [(b"authorization", f"Bearer {known.token}".encode())]
    return []


CONTENT_TYPES = [
    b"application/json",
    b"application/json; charset=utf-8",
    b"application/json; charset=utf-16",
    b"application/json; charset=latin-1",
    b"application/json; charset=no-such",
    b'application/json; charset="',
    b"application/json;;;",
    b"APPLICATION/JSON",
    b"application/merge-patch+json",
    b"application/ld+json",
    b"application/json, text/plain",
    b"application/xml",
    b"text/plain",
    b"text/html",
    b"application/octet-stream",
    FORM.encode(),
    f"{FORM}; charset=utf-16".encode(),
    f"{FORM}; boundary=x".encode(),
    MULTIPART.encode(),
    f"{MULTIPART}; boundary=".encode(),
    f"{MULTIPART}; boundary=x".encode(),
    f'{MULTIPART}; boundary="x'.encode(),
    b"multipart/mixed; boundary=x",
    b"multipart/",
    b"/",
    b"",
    b"json",
    b"\xff\xfe",
    b"a" * 5_000,
]


def content_type(rng: Random, right: str) -> RawHeaders:
    """Return mostly the right content type; otherwise another one, none, or two."""
    if rng.random() < 0.75:
        return [(b"content-type", right.encode())]
    return [
        (b"content-type", rng.choice(CONTENT_TYPES)) for _ in range(rng.randrange(3))
    ]


def content_length(rng: Random, body: bytes) -> RawHeaders:
    """Return mostly the right content length, otherwise a wrong one."""
    if rng.random() < 0.9:
        return [(b"content-length", str(len(body)).encode())]
    lies = [
        b"0",
        b"1",
        b"99999999999999999999",
        b"9" * 5_000,
        b"\xb2",
        b"-1",
        b"x",
        b"",
    ]
    return [(b"content-length", rng.choice(lies)) for _ in range(rng.randrange(3))]


# URLs

SEGMENTS = [
    "",
    "0",
    "-1",
    "1",
    "2147483647",
    "2147483648",
    "9" * 30,
    "9" * 5_000,
    "1.0",
    "1e3",
    "+1",
    "1_0",
    "0x1",
    "%20%31",
    "%D9%A1",
    "%EF%BC%91",
    "%C2%B9",
    "null",
    "me",
    "me%2fpassword",
    "token",
    "{user_id}",
    "%00",
    "1%00",
    "%ff",
    "%ed%a0%80",
    "%zz",
    "%",
    "%u0031",
    "..",
    "%2e%2e",
    "..%2f..%2f..%2fetc%2fpasswd",
    "..%5c..%5c",
    "\\..\\..",
    "//",
    "%2f%2fevil.example%2f..",
    ";x=1",
    "1;x",
    "1%3Fx",
    "1%23x",
    "a" * 300,
    "a" * 8_000,
    "%F0%9F%98%80",
    "'%20OR%201=1--",
    "<script>",
    "con",
    ".env",
    ".git%2fconfig",
    "main.py",
    "*",
]
PLACES = [
    "/",
    "/{id}",
    "/posts/{id}",
    "/users/{id}/posts",
    "/users/{id}/feed.atom",
    "/feed.atom",
    "/sitemap.xml",
    "/sitemaps/posts-{id}.xml",
    "/sitemaps/{id}-{id}.xml",
    "/robots.txt",
    "/site/posts",
    "/login",
    "/register",
    "/account",
    "/forgot-password",
    "/reset-password",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/health",
    "/api",
    "/api/",
    "/api/{id}",
    "/api/users/{id}",
    "/api/users/{id}/posts",
    "/api/users/{id}/picture",
    "/api/users/{id}/{id}",
    "/api/posts/{id}",
    "/api/posts/{id}/",
    "/api/posts",
    "/api/users",
    "/static/{id}",
    "/static/{id}/js/main.js",
    "/static/js/main.js",
    "/static/profile_pics/default.jpg",
    "/media/{id}",
    "/media/profile_pics/{id}",
    "{id}",
]
QUERY_NAMES = ["skip", "limit", "page", "cursor", "next", "token", "q", "search", ""]
METHODS = [
    *["GET"] * 12,
    *["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] * 2,
    *["TRACE", "CONNECT", "PROPFIND", "BREW", "get", "PURGE", "X" * 2_000, "M-SEARCH"],
]


def segment(rng: Random) -> str:
    """Return a path segment."""
    if rng.random() < 0.85:
        return rng.choice(SEGMENTS)
    return quote_from_bytes(
        random_bytes(rng, 40), safe=rng.choice(["", "/", "/%", "%;,"])
    )


def query(rng: Random, known: Known) -> str:
    """Return a query string with its question mark, or nothing."""
    if rng.random() < 0.3:
        return ""
    values = [
        lambda: rng.choice(SEGMENTS),
        lambda: quote_from_bytes(text(rng).encode("utf-8", "surrogatepass")),
        lambda: quote_from_bytes(mutate(rng, known.cursor.encode())),
        lambda: known.cursor,
        lambda: str(rng.randint(-5, 5)),
        lambda: quote_from_bytes(random_bytes(rng, 60)),
    ]
    pairs = [
        f"{rng.choice(QUERY_NAMES)}={rng.choice(values)()}"
        for _ in range(rng.choice([1, 1, 2, 2, 3, 8, 500]))
    ]
    return "?" + rng.choice(["&", "&", "&", ";", "&&", "&="]).join(pairs)


def target(rng: Random, known: Known) -> bytes:
    """Return a path, mostly an existing one, and a query."""
    path = rng.choice(PLACES)
    while "{id}" in path:
        path = path.replace("{id}", segment(rng), 1)
    if rng.random() < 0.05:
        path = rng.choice(["//", "/", "/./", "/x/../"]) + path
    return (path + query(rng, known)).encode("latin-1", "replace")


def url_case(rng: Random, known: Known) -> Case:
    """Return a request with an odd URL; other cases test bodies."""
    method = rng.choice(METHODS)
    headers = [*make_auth_headers(rng, known), *odd_headers(rng, 6)]
    if method == "DELETE":
        # An anonymous client, because the account is still needed.
        headers = odd_headers(rng, 6)
    if rng.random() < 0.2:
        headers += content_length(rng, b"")
    return Case("address", method, target(rng, known), headers)


# JSON

Operation = tuple[str, str, Json]


def operations_with_body(media_type: str) -> list[tuple[str, str, list[str]]]:
    """Return the method, path and fields of operations with this body type."""
    found = []
    for method, template, operation in operations(DOCUMENT):
        content = operation.get("requestBody", {}).get("content", {})
        if media_type in content:
            schema = follow(DOCUMENT, content[media_type]["schema"])
            found.append((method, template, list(schema["properties"])))
    return found


TAKING_JSON = operations_with_body("application/json")
TAKING_FORM = operations_with_body(FORM)


def fill_path(rng: Random, template: str, known: Known) -> str:
    """Fill a path with mostly existing ids."""
    post_id = rng.choice(known.post_ids)
    if rng.random() < 0.1:
        return template.format(user_id=segment(rng), post_id=segment(rng))
    return template.format(user_id=known.user_id, post_id=post_id)


def dump_json(rng: Random, value: Any) -> str:
    """Encode a value as JSON; surrogates may remain unescaped."""
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def nested(rng: Random) -> str:
    """Return deeply nested JSON, partly closed."""
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
    levels = rng.choice([30, 500, 990, 5_000, DEPTH])
    return opening * levels + "1" + closing * (levels if rng.random() < 0.6 else 0)


def json_value(rng: Random, name: str) -> str:
    """Return a value for a name."""
    chance = rng.random()
    if chance < 0.35:
        return dump_json(rng, near_miss(rng, name))
    if chance < 0.65:
        return dump_json(rng, text(rng))
    if chance < 0.98:
        return rng.choice(SCALARS)
    return nested(rng)


def json_object(rng: Random, names: list[str]) -> str:
    """Return an object with most names, some of them twice, and unknown ones."""
    chosen = [name for name in names if rng.random() < 0.9]
    if rng.random() < 0.15:
        chosen += rng.choices(names, k=rng.randint(1, 3))
    if rng.random() < 0.15:
        chosen += rng.choice([["is_admin"], ["id"], ["user_id"], ["__proto__"], [""]])
    rng.shuffle(chosen)
    if rng.random() < 0.01:
        chosen += [f"field{n}" for n in range(FIELDS)]
    members = (f"{dump_json(rng, name)}: {json_value(rng, name)}" for name in chosen)
    return "{" + ", ".join(members) + "}"


def json_text(rng: Random, names: list[str]) -> str:
    """Return a complete body."""
    chance = rng.random()
    if chance < 0.8:
        return json_object(rng, names)
    if chance < 0.9:
        return rng.choice(SCALARS)
    if chance < 0.93:
        return nested(rng)
    return rng.choice(["[", "{} {}", "[{}]", '{"a"}', "{'a': 1}", "//\n{}", "{,}", " "])


def json_bytes(rng: Random, body: str) -> bytes:
    """Encode a body, mostly with the right encoding."""
    chance = rng.random()
    if chance < 0.8:
        return body.encode("utf-8", "surrogatepass")
    if chance < 0.9:
        encoding = rng.choice(["utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-7"])
        return body.encode("utf-8", "replace").decode().encode(encoding, "replace")
    if chance < 0.95:
        return body.encode("latin-1", "replace")
    return zlib.compress(body.encode("utf-8", "replace"))


def json_case(rng: Random, known: Known) -> Case:
    """Return a body for an operation that accepts JSON."""
    method, template, names = rng.choice(TAKING_JSON)
    body = json_bytes(rng, json_text(rng, names))
    if rng.random() < 0.15:
        body = mutate(rng, body)
    if rng.random() < 0.05:
        body = body[: rng.randrange(len(body) + 1)]
    headers = [
        *make_auth_headers(rng, known),
        *content_type(rng, "application/json"),
        *content_length(rng, body),
        *(odd_headers(rng) if rng.random() < 0.3 else []),
    ]
    path = fill_path(rng, template, known)
    return Case(
        "json",
        method,
        path.encode(),
        headers,
        split_into_chunks(rng, body),
        is_cut_off=rng.random() < 0.03,
    )


# Forms


def form_body(rng: Random, names: list[str]) -> bytes:
    """Return form fields and text that only looks like them."""
    chance = rng.random()
    if chance < 0.02:
        return urlencode([(f"field{n}", "1") for n in range(FIELDS)]).encode()
    if chance < 0.04:
        return b"&" * rng.choice([1, FIELDS]) + b"=" * rng.choice([1, FIELDS])
    if chance < 0.1:
        return rng.choice(
            [b"%", b"%zz=%", b"=", b"username", b"\0=\0", b"{}", b"username[]=a", b"&a"]
        )
    pairs = []
    for name in names if rng.random() < 0.8 else rng.choices(names, k=9):
        value = near_miss(rng, name) if rng.random() < 0.4 else text(rng)
        if name == "grant_type" and rng.random() < 0.7:
            value = "password"
        if rng.random() < 0.9:
            pairs.append((name, value.encode("utf-8", "surrogatepass")))
    body = urlencode(pairs).encode()
    return mutate(rng, body) if rng.random() < 0.2 else body


def form_case(rng: Random, known: Known) -> Case:
    """Return an invalid login."""
    method, template, names = rng.choice(TAKING_FORM)
    if rng.random() < 0.15:
        right, body = f"{MULTIPART}; boundary=x", multipart_body(rng, b"x", names)
    else:
        right, body = FORM, form_body(rng, names)
    headers = [
        *content_type(rng, right),
        *content_length(rng, body),
        *(odd_headers(rng) if rng.random() < 0.3 else []),
    ]
    path = fill_path(rng, template, known)
    return Case(
        "form",
        method,
        path.encode(),
        headers,
        split_into_chunks(rng, body),
        is_cut_off=rng.random() < 0.03,
    )


# Multipart


def photo(rng: Random) -> bytes:
    """Return a small picture, valid or damaged; only a few, because they are slow."""
    output = BytesIO()
    Image.new("RGB", (9, 9), "teal").save(output, rng.choice(["PNG", "GIF", "WEBP"]))
    content = output.getvalue()
    return content if rng.random() < 0.1 else mutate(rng, content)


DISPOSITIONS = [
    b'form-data; name="file"; filename="a.png"',
    b'form-data; name="file"; filename="a.png"',
    b'form-data; name="file"; filename="a.png"',
    b'form-data; name="file"',
    b'form-data; name="file"; filename=""',
    b"form-data; name=file; filename=a.png",
    b'form-data; name="file"; filename="../../../etc/passwd"',
    b'form-data; name="file"; filename="a\0.png"',
    b'form-data; name="file"; filename="a%0d%0aX: 1"',
    b"form-data; name=\"file\"; filename*=UTF-8''%ff%00",
    b"form-data; name=\"file\"; filename*=no-such''a",
    b"form-data; name*0=fi; name*1=le; filename=a",
    b'form-data; name="\xff\xfe"; filename="\xff"',
    b'form-data; name=""; filename="a"',
    b"form-data",
    b'attachment; name="file"; filename="a"',
    b'form-data; name="file"; filename="' + b"a" * 9_000 + b'"',
    b'form-data; name="file" filename="a',
    b";" * 2_000,
    b"",
]


def part(rng: Random, disposition: bytes, content: bytes) -> bytes:
    """Return a part's headers and content."""
    lines = [b"Content-Disposition: " + disposition]
    if rng.random() < 0.3:
        lines.append(b"Content-Type: " + rng.choice([b"image/png", b"", b"x" * 300]))
    if rng.random() < 0.1:
        lines.append(
            rng.choice(
                [
                    b"Content-Transfer-Encoding: base64",
                    b"Content-Length: -1",
                    b"no colon",
                    b": no name",
                    b"X-Long: " + b"x" * 50_000,
                    b"X\0: 1",
                    b" folded: 1",
                    b"Content-Disposition: form-data; name=file",
                ]
            )
        )
    if rng.random() < 0.05:
        lines = []
    return b"\r\n".join([*lines, b"", content])


def multipart_body(rng: Random, boundary: bytes, names: list[str]) -> bytes:
    """Return parts, mostly with a file and the right boundary."""
    if rng.random() < 0.01:
        parts = [part(rng, b'form-data; name="x"', b"1")] * PARTS
    else:
        parts = [
            part(
                rng,
                rng.choice(DISPOSITIONS)
                if rng.random() < 0.9
                else f'form-data; name="{rng.choice(names)}"'.encode(),
                photo(rng) if rng.random() < 0.3 else random_bytes(rng),
            )
            for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 3, 12]))
        ]
    line = rng.choice([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"])
    body = b"".join(b"--" + boundary + line + each + line for each in parts)
    if rng.random() < 0.85:
        body += b"--" + boundary + b"--" + line
    if rng.random() < 0.1:
        body = rng.choice([b"preamble\r\n", b"\r\n", b"--", random_bytes(rng)]) + body
    return mutate(rng, body) if rng.random() < 0.25 else body


BOUNDARIES = [
    *[b"x"] * 8,
    b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
    b"",
    b" ",
    b"-",
    b"--",
    b"'()+_,-./:=?",
    b"x" * 70,
    b"x" * 5_000,
    b"\xff\xfe",
    b'"',
    b"a b",
    b"=?utf-8?q?x?=",
]


CHARSETS = [
    b"; charset=utf-8",
    b"; charset=undefined",
    b"; charset=punycode",
    b"; charset=utf-16",
    b"; charset=idna",
    b"; charset=base64",
    b"; charset=none-such",
    b"; charset=",
    b"; charset*=utf-8''punycode",
]


def multipart_case(rng: Random, known: Known) -> Case:
    """Return a mostly invalid upload."""
    boundary = rng.choice(BOUNDARIES)
    body = multipart_body(rng, boundary, ["file", "username", ""])
    named = boundary if rng.random() < 0.9 else rng.choice(BOUNDARIES)
    quoted = b'"%s"' % named if rng.random() < 0.3 else named
    charset = rng.choice(CHARSETS) if rng.random() < 0.2 else b""
    types = [(b"content-type", b"multipart/form-data; boundary=" + quoted + charset)]
    if rng.random() < 0.1:
        types = content_type(rng, MULTIPART)
    headers = [*make_auth_headers(rng, known), *types, *content_length(rng, body)]
    path = fill_path(rng, "/api/users/{user_id}/picture", known)
    return Case(
        "multipart",
        "PATCH",
        path.encode(),
        headers,
        split_into_chunks(rng, body),
        is_cut_off=rng.random() < 0.05,
    )


Maker = Callable[[Random, Known], Case]

# Percentage of each kind of case.
MAKERS: dict[Maker, int] = {
    json_case: 50,
    url_case: 25,
    multipart_case: 15,
    form_case: 10,
}


def make_case(seed: int, number: int, known: Known) -> Case:
    """Return a request for the app in this process."""
    rng = Random(f"{seed} {number}")
    (make,) = rng.choices(list(MAKERS), weights=list(MAKERS.values()))
    return make(rng, known)


# Raw HTTP

GOOD_START_LINES = [
    b"GET / HTTP/1.1",
    b"GET /health HTTP/1.1",
    b"HEAD /login HTTP/1.1",
    b"GET /static/js/main.js HTTP/1.1",
    b"POST /api/users HTTP/1.1",
    b"POST /api/users/token HTTP/1.1",
    b"PATCH /api/users/1/picture HTTP/1.1",
]
START_LINES = [
    b"GET / HTTP/1.0",
    b"GET / HTTP/0.9",
    b"GET / HTTP/2.0",
    b"GET / HTTP/3",
    b"GET / HTTP/11.1",
    b"GET / HTTP/1.x",
    b"GET / http/1.1",
    b"GET / HTTP/1.1 x",
    b"GET /",
    b"GET",
    b"",
    b" GET / HTTP/1.1",
    b"GET  /  HTTP/1.1",
    b"GET\t/\tHTTP/1.1",
    b"GET\x00 / HTTP/1.1",
    b"G\xc9T / HTTP/1.1",
    b"get / HTTP/1.1",
    b"BREW / HTTP/1.1",
    b"M" * 9_000 + b" / HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"OPTIONS * HTTP/1.1",
    b"GET * HTTP/1.1",
    b"CONNECT 127.0.0.1:80 HTTP/1.1",
    b"CONNECT / HTTP/1.1",
    b"GET http://127.0.0.1/health HTTP/1.1",
    b"GET http://evil.example/ HTTP/1.1",
    b"GET https://user:pass@evil.example:99999/ HTTP/1.1",
    b"GET http:// HTTP/1.1",
    b"GET http:///x HTTP/1.1",
    b"GET evil.example:80 HTTP/1.1",
    b"GET //evil.example/.. HTTP/1.1",
    b"GET //evil.example/%2e%2e/ HTTP/1.1",
    b"GET /\\evil.example/ HTTP/1.1",
    b"GET \\\\evil.example\\ HTTP/1.1",
    b"GET /..\\..\\etc HTTP/1.1",
    b"GET /static/../../main.py HTTP/1.1",
    b"GET /static/%2e%2e/%2e%2e/main.py HTTP/1.1",
    b"GET /%zz%%% HTTP/1.1",
    b"GET /%ff%fe HTTP/1.1",
    b"GET /\xff\xfe HTTP/1.1",
    b"GET /\xc3\xa9 HTTP/1.1",
    b"GET /%00 HTTP/1.1",
    b"GET /static/%00 HTTP/1.1",
    b"GET /a\0b HTTP/1.1",
    b"GET /#x HTTP/1.1",
    b"GET /?%%%=&&&=#? HTTP/1.1",
    b"GET ?x HTTP/1.1",
    b"GET x HTTP/1.1",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1",
    b"GET /?" + b"a" * 70_000 + b" HTTP/1.1",
    b"TRACE / HTTP/1.1",
    b"HTTP/1.1 200 OK",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"SSH-2.0-x",
    b"EHLO x",
    b"\x00\x00\x00\x00",
]
HEADER_LINES = [
    b"Host: 127.0.0.1",
    b"Host: evil.example",
    b"Host:",
    b"Host: a b",
    b"Host: [::1",
    b"Host: \xff",
    b"Connection: close",
    b"Connection: keep-alive, Host",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: 2",
    b"Content-Length: -1",
    b"Content-Length: +5",
    b"Content-Length: 5, 5",
    b"Content-Length: 5, 6",
    b"Content-Length: 0x5",
    b"Content-Length: 5 5",
    b"Content-Length: 99999999999999999999999",
    b"Content-Length: 18446744073709551616",
    b"Content-Length: 2000000",
    b"Content-Length:",
    b"Content-Length : 5",
    b"Content-Length: \xb2",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: chunked\r\n ,x",
    b"Expect: 100-continue",
    b"Expect: x",
    b"Upgrade: websocket\r\nConnection: Upgrade",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk",
    b"X: a\0b",
    b"X: a\rb",
    b"X: a\nInjected: b",
    b"X: a\r\n folded",
    b"X: a\r\n\tfolded",
    b" leading: 1",
    b"no colon",
    b": no name",
    b"X Y: 1",
    b"X\xff: 1",
    b"X: \xff\x80",
    b"X\0: 1",
    b"X: " + b"x" * 100_000,
    b"X" * 100_000 + b": 1",
    b"\r\n".join(b"X%d: 1" % n for n in range(2_000)),
    b"Content-Type: application/json",
    b"Content-Type: multipart/form-data",
    b"Accept-Encoding: br",
    b"Range: bytes=0-",
    b"Authorization: Bearer x",
    b"Cookie: " + b"a=b; " * 3_000,
]
RAW_BODIES = [
    b"",
    b"",
    b"hello",
    b"{}",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;a=b;c\r\nhello\r\n0\r\n\r\n",
    b"5;" + b"x" * 70_000 + b"\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nTrailer: 1\r\nContent-Length: 9\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"g\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"\r\n\r\n",
    b"ffffffffffffffff\r\nhello",
    b"10000000000000000\r\nhello",
    b"5\r\nhelloworld\r\n0\r\n\r\n",
    b"5\r\nhel",
    b"2\r\n{}\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n",
    b"x" * 200_000,
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 30,
    b"SM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
]


def raw_case(seed: int, number: int) -> bytes:
    """Return bytes to send over a new connection."""
    rng = Random(f"{seed} raw {number}")
    if rng.random() < 0.04:
        return random_bytes(rng, 5_000)
    # Often, a single detail is wrong: the first error ends most requests.
    start = rng.choice(START_LINES if rng.random() < 0.4 else GOOD_START_LINES)
    lines = rng.choices(HEADER_LINES, k=rng.choice([0, 0, 1, 1, 1, 2, 4]))
    if rng.random() < 0.9:
        lines.insert(0, b"Host: 127.0.0.1")
    line_break = rng.choice([b"\r\n"] * 18 + [b"\n", b"\r"])
    body = b"" if rng.random() < 0.3 else rng.choice(RAW_BODIES)
    match rng.randrange(4):
        case 0:
            lines.append(b"Content-Length: %d" % len(body))
        case 1:
            lines.append(b"Transfer-Encoding: chunked")
        case 2:
            body = b""
    sent = line_break.join([start, *lines, b"", body])
    if rng.random() < 0.1:
        sent = mutate(rng, sent)
    if rng.random() < 0.05:
        # The client disconnects in the middle.
        sent = sent[: rng.randrange(len(sent) + 1)]
    return sent * rng.choice([1, 1, 1, 1, 1, 2])
