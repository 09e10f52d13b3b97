"""Static files: versioned paths, caching headers and module preloads."""

import hashlib
import mimetypes
import posixpath
import re
from functools import lru_cache

from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

from config import BASE_DIR, settings

# For files whose content never changes under the same name.
IMMUTABLE = "public, max-age=31536000, immutable"
STATIC_DIR = BASE_DIR / "static"
VERSION_BYTES = 6
VERSION = re.compile(rf"([0-9a-f]{{{2 * VERSION_BYTES}}})/(.+)", re.DOTALL)
SHORT_CACHE_CONTROL = "public, max-age=3600"
STATIC_IMPORT = re.compile(r'^(?:import|export) [^"]*"(\.[^"]+)";$', re.MULTILINE)

# Some systems don't know these types, and browsers reject scripts with a wrong type.
mimetypes.add_type("text/javascript", ".js")
mimetypes.add_type("application/manifest+json", ".webmanifest")

Signature = tuple[tuple[str, int, int], ...]


def static_version() -> str:
    """Return a hash of all files under `static/`, which is part of their URLs.

    All files share one hash, because scripts import each other by relative paths.
    """
    # In production, the files don't change while the app runs.
    return _content_hash(None if settings.is_production else _signature())


def _signature() -> Signature:
    """Return the name, modification time and size of each file, to detect changes."""
    return tuple(
        (str(file), (found := file.stat()).st_mtime_ns, found.st_size)
        for file in sorted(STATIC_DIR.rglob("*"))
    )


@lru_cache(maxsize=1)
def _content_hash(_signature: Signature | None) -> str:
    digest = hashlib.blake2b(digest_size=VERSION_BYTES)
    for file in sorted(STATIC_DIR.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(STATIC_DIR)}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def modulepreloads(*names: str) -> list[str]:
    """Return the paths of these modules, and of all modules that they import.

    The paths are relative to `static/`. A page preloads the modules in parallel.
    Otherwise, a browser would only find a module after loading one that imports it.
    """
    return _module_graph(static_version(), names)


@lru_cache(maxsize=32)
def _module_graph(_version: str, names: tuple[str, ...]) -> list[str]:
    found = [f"js/{name}.js" for name in names]
    for script in found:  # The loop also visits the scripts that it appends.
        text = (STATIC_DIR / script).read_text(encoding="utf-8")
        folder = posixpath.dirname(script)
        imported = [
            posixpath.normpath(posixpath.join(folder, name))
            for name in STATIC_IMPORT.findall(text)
        ]
        found += [name for name in imported if name not in found]
    return found


class ImmutableStaticFiles(StaticFiles):
    """Static files that never change. New content gets a new name."""

    async def check_config(self) -> None:
        """Allow the directory to be missing, because the first upload creates it."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = IMMUTABLE
        return response


class VersionedStaticFiles(StaticFiles):
    """Static files whose paths may begin with a version."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file. Clients may cache it for a year if the version is current."""
        match = VERSION.fullmatch(path)
        version, file = match.groups() if match else (None, path)
        response = await super().get_response(file, scope)
        if version is None:
            cache_control = SHORT_CACHE_CONTROL
        elif version == static_version():
            cache_control = IMMUTABLE
        else:
            # During a deployment, a page from the new version may get a file from the
            # old one. A CDN must not keep that file under the new path.
            cache_control = "no-store"
        response.headers["Cache-Control"] = cache_control
        return response
