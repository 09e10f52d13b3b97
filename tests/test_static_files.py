"""Static files: versioned URLs, caching, and modules."""

import json
import re
import shutil
from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.routing import Mount

import static_files
from config import BASE_DIR, settings
from main import app, static_path
from static_files import (
    STATIC_DIR,
    ImmutableStaticFiles,
    VersionedStaticFiles,
    modulepreloads,
    static_version,
)
from tests.conftest import create_post

YEAR = "public, max-age=31536000, immutable"
HOUR = "public, max-age=3600"
OTHER_VERSION = "0" * 12
OWN_TEXTS = sorted(
    file
    for folder in ("css", "js")
    for file in (STATIC_DIR / folder).iterdir()
    if file.is_file()
)
TEMPLATES = "\n".join(
    file.read_text(encoding="utf-8")
    for file in (BASE_DIR / "templates").rglob("*.html")
)
SHARED_MODULES = re.findall(
    r'^start\("([^"]+)"',
    (STATIC_DIR / "js" / "main.js").read_text("utf-8"),
    re.MULTILINE,
)
PAGE_MODULES = {
    name
    for names in re.findall(r"{% set modules = (\[.*?\]) %}", TEMPLATES)
    for name in json.loads(names)
}
MODULES = sorted({*SHARED_MODULES, *PAGE_MODULES})
PAGES = [
    "/",
    "/posts/{post}",
    "/users/{user}/posts",
    "/login",
    "/register",
    "/account",
    "/forgot-password",
    "/reset-password",
    "/nothing",
    "/docs",
    "/redoc",
]


def forget_version() -> None:
    static_files._content_hash.cache_clear()
    static_files._module_graph.cache_clear()


@pytest.fixture
def static_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the static files to change them, as if the process had just started."""
    copy = tmp_path / "static"
    shutil.copytree(
        STATIC_DIR, copy, ignore=shutil.ignore_patterns("swagger*", "redoc*")
    )
    monkeypatch.setattr(static_files, "STATIC_DIR", copy)
    (route,) = [route for route in app.routes if getattr(route, "name", "") == "static"]
    monkeypatch.setattr(route, "app", VersionedStaticFiles(directory=copy))
    forget_version()
    return copy


@pytest.fixture(autouse=True)
def real_version_afterwards() -> None:
    forget_version()


# The version


def test_version_changes_with_content(static_copy: Path) -> None:
    before = static_version()
    with (static_copy / "css" / "main.css").open("a") as file:
        file.write("a {}")
    forget_version()

    assert static_version() != before


def test_version_changes_with_names(static_copy: Path) -> None:
    before = static_version()
    (static_copy / "css" / "main.css").rename(static_copy / "css" / "other.css")
    forget_version()

    assert static_version() != before


def test_version_ignores_times_and_locations(static_copy: Path) -> None:
    before = static_version()
    (static_copy / "js" / "main.js").touch()
    shutil.copytree(static_copy, static_copy.with_name("elsewhere"))
    shutil.rmtree(static_copy)
    static_copy.with_name("elsewhere").rename(static_copy)
    forget_version()

    assert static_version() == before


def test_version_is_computed_once_in_production(static_copy: Path) -> None:
    before = static_version()
    (static_copy / "js" / "main.js").unlink()

    assert static_version() == before


def test_version_is_updated_in_development(
    static_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "database_url", None)
    before = static_version()
    (static_copy / "js" / "main.js").write_text("")

    assert static_version() != before


async def test_old_version_serves_latest_file_briefly_cached(
    client: AsyncClient, static_copy: Path
) -> None:
    old = static_path("css/main.css")
    (static_copy / "css" / "main.css").write_text("a {}")
    forget_version()

    response = await client.get(old)

    assert response.text == "a {}"
    assert response.headers["cache-control"] == HOUR


# Caching


@pytest.mark.parametrize("file", ["css/main.css", "js/main.js", "icons/icon.svg"])
async def test_current_version_is_cached_for_a_year(
    client: AsyncClient, file: str
) -> None:
    response = await client.get(static_path(file))

    assert response.headers["cache-control"] == YEAR
    assert response.content == (STATIC_DIR / file).read_bytes()


@pytest.mark.parametrize("version", ["", f"{OTHER_VERSION}/"])
async def test_unversioned_path_is_cached_briefly(
    client: AsyncClient, version: str
) -> None:
    response = await client.get(f"/static/{version}css/main.css")

    assert response.status_code == 200
    assert response.headers["cache-control"] == HOUR


async def test_head_matches_get(client: AsyncClient) -> None:
    got = await client.get(static_path("css/main.css"))

    response = await client.head(static_path("css/main.css"))

    assert (response.status_code, response.headers) == (200, got.headers)
    assert response.content == b""


@pytest.mark.parametrize("version", ["", f"{OTHER_VERSION}/", None])
async def test_unchanged_file_is_not_sent_again(
    client: AsyncClient, version: str | None
) -> None:
    path = (
        static_path("css/main.css")
        if version is None
        else f"/static/{version}css/main.css"
    )
    etag = (await client.get(path)).headers["etag"]

    response = await client.get(path, headers={"If-None-Match": etag})

    assert response.status_code == 304
    assert response.content == b""
    assert response.headers["cache-control"] == (YEAR if version is None else HOUR)


async def test_missing_file_is_not_cached(client: AsyncClient) -> None:
    response = await client.get(static_path("css/nothing.css"))

    assert response.status_code == 404
    assert response.headers["cache-control"] == "no-store"


# Outside the folder


@pytest.mark.parametrize("prefix", ["", f"{OTHER_VERSION}/", "{version}/"])
@pytest.mark.parametrize(
    "path",
    [
        "../main.py",
        "..%2Fmain.py",
        "%2e%2e/main.py",
        "..%5Cmain.py",
        "css/../../main.py",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "css",
        "css/",
        ".",
        "%00",
        "css/main.css%00",
        "css%0Amain.css",
    ],
)
async def test_nothing_else_is_served(
    client: AsyncClient, prefix: str, path: str
) -> None:
    prefix = prefix.format(version=static_version())

    response = await client.get(f"/static/{prefix}{path}", follow_redirects=True)

    assert response.status_code == 404
    assert "FastAPI(" not in response.text
    assert "root:" not in response.text


async def test_symlink_out_of_folder_is_not_followed(
    client: AsyncClient, static_copy: Path
) -> None:
    (static_copy / "link.py").symlink_to(BASE_DIR / "main.py")

    assert (await client.get("/static/link.py")).status_code == 404


# Files


@pytest.mark.parametrize(
    ("file", "media_type"),
    [
        ("js/main.js", "text/javascript; charset=utf-8"),
        ("css/main.css", "text/css; charset=utf-8"),
        ("site.webmanifest", "application/manifest+json"),
        ("icons/icon.svg", "image/svg+xml"),
        ("icons/icon-192.png", "image/png"),
        ("profile_pics/default.jpg", "image/jpeg"),
    ],
)
async def test_file_has_content_type(
    client: AsyncClient, file: str, media_type: str
) -> None:
    response = await client.get(static_path(file))

    assert response.headers["content-type"] == media_type
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PAGES)
async def test_every_file_used_by_pages_exists(
    client: AsyncClient, ada: dict[str, str], path: str
) -> None:
    post = await create_post(client, ada)
    page = await client.get(path.format(post=post["id"], user=post["user_id"]))
    named = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text))

    responses = {file: (await client.get(file)).status_code for file in named}

    assert responses == dict.fromkeys(named, 200)
    assert all(static_version() in file or "default.jpg" in file for file in named)


def test_every_file_used_by_manifest_exists() -> None:
    manifest = json.loads((STATIC_DIR / "site.webmanifest").read_text())

    purposes = {icon["purpose"] for icon in manifest["icons"]}
    missing = [
        icon["src"]
        for icon in manifest["icons"]
        if not (STATIC_DIR / icon["src"]).is_file()
    ]
    assert missing == []
    assert purposes == {"any", "maskable"}
    assert {"192x192", "512x512"} <= {icon["sizes"] for icon in manifest["icons"]}


@pytest.mark.parametrize(
    "sheet",
    [file.relative_to(STATIC_DIR).as_posix() for file in STATIC_DIR.rglob("*.css")],
)
def test_every_file_used_by_stylesheets_exists(sheet: str) -> None:
    css = (STATIC_DIR / sheet).read_text(encoding="utf-8")
    named = re.findall(r"""(?:url\(|@import\s+)["']?([^"')]+)""", css)

    folder = (STATIC_DIR / sheet).parent
    assert [name for name in named if not (folder / name).is_file()] == []


@pytest.mark.parametrize("file", OWN_TEXTS, ids=lambda file: file.name)
def test_own_file_loads_nothing_external(file: Path) -> None:
    text = file.read_text(encoding="utf-8")

    assert not re.search(r"\bdata:\s*[\w/+-]*[;,]|url\(\s*[\"']?data:", text)
    assert not re.search(r"(?:https?|wss?)://|(?:url\(|from|import)[\"' ]*//", text)


# Modules


def test_pages_name_their_modules() -> None:
    assert {"navbar", "login", "load-more", "account-page"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_module_is_initialized_by_its_attribute(name: str) -> None:
    script = (STATIC_DIR / "js" / f"{name}.js").read_text(encoding="utf-8")

    assert re.search(r"^export function init\(", script, re.MULTILINE)
    # Some modal ids are attributes, too: see confirm_delete.
    assert re.search(rf"data-{name}[\s=>{{]|confirm_delete\(\"{name}\"", TEMPLATES)


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"data-(?!bs-)([\w-]+)-target=", TEMPLATES)))
)
def test_targets_are_named_after_a_module(name: str) -> None:
    script = (STATIC_DIR / "js" / f"{name}.js").read_text(encoding="utf-8")

    assert re.search(rf'findTargets\([^"]+, "{name}"\)', script)


def test_every_module_is_used_by_a_page() -> None:
    outside_of_main = {"boot.js", "swagger.js", "redoc.js", "trusted-types.js"}
    modules = {file.name for file in (STATIC_DIR / "js").iterdir()}

    used = {Path(path).name for path in modulepreloads("main", *PAGE_MODULES)}

    assert modules - used == outside_of_main


def test_module_graph_is_complete() -> None:
    graph = modulepreloads("main", *PAGE_MODULES)

    imported = {
        (STATIC_DIR / path).parent.joinpath(name).resolve()
        for path in graph
        for name in re.findall(
            r'\bfrom\s*["\'](\.[^"\']+)["\']', (STATIC_DIR / path).read_text("utf-8")
        )
    }
    assert imported <= {STATIC_DIR / path for path in graph}
    assert len(graph) == len(set(graph))


async def test_page_preloads_its_modules(client: AsyncClient) -> None:
    page = (await client.get("/login")).text

    preloaded = re.findall(r'<link rel="modulepreload" href="([^"]+)"', page)
    assert preloaded == [static_path(path) for path in modulepreloads("main", "login")]
    assert static_path("js/account-page.js") not in page


async def test_missing_folder_has_no_files(tmp_path: Path) -> None:
    files = ImmutableStaticFiles(directory=tmp_path / "later", check_dir=False)

    async with AsyncClient(
        transport=ASGITransport(Starlette(routes=[Mount("/media", files)])),
        base_url="http://test",
    ) as client:
        response = await client.get("/media/profile_pics/missing.jpg")

    assert response.status_code == 404
