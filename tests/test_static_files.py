"""Static files: versioned paths, caching, modules, and references between files."""

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
from templating import environment, render_fragment
from tests.test_pages import PAGES

YEAR = "public, max-age=31536000, immutable"
HOUR = "public, max-age=3600"
OTHER_VERSION = "0" * 12
SCRIPTS = STATIC_DIR / "js"
TEMPLATES = "\n".join(
    file.read_text() for file in (BASE_DIR / "templates").rglob("*.html")
)
PAGE_MODULES = {
    name
    for names in re.findall(r"{% set (?:user_)?modules = \((.*?)\)", TEMPLATES)
    for name in re.findall(r'"([^"]+)"', names)
}
SHARED_MODULES = re.findall(r'(?m)^start\("([^"]+)"', (SCRIPTS / "main.js").read_text())
MODULES = sorted({*SHARED_MODULES, *PAGE_MODULES})
OWN_FILES = sorted([*SCRIPTS.glob("*.js"), *(STATIC_DIR / "css").glob("*.css")])


def clear_caches() -> None:
    static_files._content_hash.cache_clear()
    static_files._module_graph.cache_clear()


@pytest.fixture
def static_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Serve a copy of the static files, which a test can change."""
    copy = tmp_path / "static"
    ignore = shutil.ignore_patterns("swagger*", "redoc*")
    shutil.copytree(STATIC_DIR, copy, ignore=ignore)
    monkeypatch.setattr(static_files, "STATIC_DIR", copy)
    [route] = [route for route in app.routes if getattr(route, "name", "") == "static"]
    monkeypatch.setattr(route, "app", VersionedStaticFiles(directory=copy))
    # Don't keep fragments, because they contain the paths of the copies.
    monkeypatch.setitem(environment.globals, "fragment", render_fragment)
    clear_caches()
    return copy


@pytest.fixture(autouse=True)
def original_version() -> None:
    """Clear the caches, which may describe another test's copy."""
    clear_caches()


class TestVersion:
    def test_depends_on_content_but_not_on_times(self, static_copy):
        before = static_version()
        (static_copy / "css" / "main.css").touch()
        clear_caches()
        touched = static_version()
        (static_copy / "css" / "main.css").write_text("a {}")
        clear_caches()

        assert touched == before
        assert static_version() != before

    def test_depends_on_names(self, static_copy):
        before = static_version()
        (static_copy / "css" / "main.css").rename(static_copy / "css" / "other.css")
        clear_caches()

        assert static_version() != before

    def test_is_computed_once_in_production(self, static_copy):
        before = static_version()
        (static_copy / "js" / "main.js").unlink()

        assert static_version() == before

    def test_is_updated_in_development(self, static_copy, monkeypatch):
        monkeypatch.setattr(settings, "database_url", None)
        before = static_version()
        (static_copy / "js" / "main.js").write_text("")

        assert static_version() != before


class TestCaching:
    async def test_current_version(self, client):
        response = await client.get(static_path("css/main.css"))

        assert response.content == (STATIC_DIR / "css" / "main.css").read_bytes()
        assert response.headers["cache-control"] == YEAR

    @pytest.mark.parametrize(
        ("version", "cache_control"), [("", HOUR), (f"{OTHER_VERSION}/", "no-store")]
    )
    async def test_other_version(self, client, version, cache_control):
        response = await client.get(f"/static/{version}css/main.css")

        assert response.content == (STATIC_DIR / "css" / "main.css").read_bytes()
        assert response.headers["cache-control"] == cache_control

    async def test_missing_file(self, client):
        response = await client.get(static_path("css/nothing.css"))

        assert response.status_code == 404
        assert response.headers["cache-control"] == "no-store"


class TestFile:
    @pytest.mark.parametrize("prefix", ["", f"{OTHER_VERSION}/"])
    @pytest.mark.parametrize(
        "path",
        ["../main.py", "..%2Fmain.py", "%2Fetc%2Fpasswd", "css/", "css/main.css%00"],
    )
    async def test_outside_is_not_served(self, client, prefix, path):
        response = await client.get(f"/static/{prefix}{path}", follow_redirects=True)

        assert response.status_code == 404

    async def test_behind_symlink_is_not_served(self, client, static_copy):
        (static_copy / "link.py").symlink_to(BASE_DIR / "main.py")

        assert (await client.get("/static/link.py")).status_code == 404

    @pytest.mark.parametrize(
        ("file", "media_type"),
        [
            ("js/main.js", "text/javascript; charset=utf-8"),
            ("css/main.css", "text/css; charset=utf-8"),
            ("icons/icon.svg", "image/svg+xml"),
        ],
    )
    async def test_has_content_type(self, client, file, media_type):
        response = await client.get(static_path(file))

        assert response.headers["content-type"] == media_type

    async def test_in_missing_folder_is_not_found(self, tmp_path):
        files = ImmutableStaticFiles(directory=tmp_path / "later", check_dir=False)
        media = ASGITransport(Starlette(routes=[Mount("/media", files)]))

        async with AsyncClient(transport=media, base_url="http://test") as client:
            response = await client.get("/media/missing.jpg")

        assert response.status_code == 404

    @pytest.mark.parametrize("file", OWN_FILES, ids=lambda file: file.name)
    def test_loads_nothing_external(self, file):
        text = file.read_text()

        assert not re.search(r"\bdata:\s*[\w/+-]*[;,]|url\(\s*[\"']?data:", text)
        assert not re.search(r"(?:https?|wss?)://|(?:url\(|from|import)[\"' ]*//", text)


class TestReferences:
    @pytest.mark.parametrize("path", [*PAGES, "/nothing", "/docs", "/redoc"])
    async def test_page(self, client, post, path):
        page = await client.get(path.format(**post))
        files = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text))

        statuses = {(await client.get(file)).status_code for file in files}

        assert statuses == {200}
        assert all(static_version() in file or "default.jpg" in file for file in files)

    async def test_manifest(self, client, monkeypatch):
        name = '"Ada" & <b>'
        monkeypatch.setattr(settings, "site_name", name)

        response = await client.get("/site.webmanifest")
        file = await client.get("/static/site.webmanifest")

        icons = response.json()["icons"]
        statuses = {(await client.get(icon["src"])).status_code for icon in icons}
        for manifest in (response, file):
            assert manifest.headers["content-type"] == "application/manifest+json"
        assert response.json() == file.json() | {
            "name": name,
            "description": f"Read and write posts on {name}.",
        }
        assert statuses == {200}
        assert {icon["purpose"] for icon in icons} == {"any", "maskable"}
        assert {"192x192", "512x512"} <= {icon["sizes"] for icon in icons}

    @pytest.mark.parametrize(
        "sheet", sorted(STATIC_DIR.rglob("*.css")), ids=lambda sheet: sheet.name
    )
    def test_stylesheet(self, sheet):
        names = re.findall(r"""(?:url\(|@import\s+)["']?([^"')]+)""", sheet.read_text())

        assert [name for name in names if not (sheet.parent / name).is_file()] == []


class TestModules:
    @pytest.mark.parametrize("name", MODULES)
    def test_attribute_activates_module(self, name):
        script = (SCRIPTS / f"{name}.js").read_text()

        assert "\nexport function init(" in script
        # The macro confirm_delete turns the id of its modal into a data attribute.
        assert re.search(rf"data-{name}[\s=>{{]|confirm_delete\(\"{name}\"", TEMPLATES)

    @pytest.mark.parametrize(
        "name", sorted(set(re.findall(r"data-(?!bs-)([\w-]+)-target=", TEMPLATES)))
    )
    def test_target_is_named_after_module(self, name):
        script = (SCRIPTS / f"{name}.js").read_text()

        assert re.search(rf'findTargets\([^"]+, "{name}"\)', script)

    def test_every_script_is_used(self):
        other_scripts = {
            "before-paint.js",
            "swagger.js",
            "redoc.js",
            "trusted-types.js",
        }
        files = {f"js/{file.name}" for file in SCRIPTS.iterdir()}

        preloaded = modulepreloads("main", *PAGE_MODULES)

        assert files - {*preloaded} == {f"js/{name}" for name in other_scripts}
        assert len(preloaded) == len(set(preloaded))

    def test_imports_are_preloaded(self):
        preloaded = {STATIC_DIR / path for path in modulepreloads("main", *MODULES)}

        imported = {
            (script.parent / name).resolve()
            for script in preloaded
            for name in re.findall(
                r'\bfrom\s*["\'](\.[^"\']+)["\']', script.read_text()
            )
        }

        assert imported
        assert imported <= preloaded

    async def test_page_preloads_its_modules(self, client):
        page = (await client.get("/login")).text

        preloaded = re.findall(r'<link rel="modulepreload" href="([^"]+)"', page)
        modules = modulepreloads("main", "login", "login-reason")
        assert preloaded == [static_path(path) for path in modules]
        assert "js/account-page.js" not in page
