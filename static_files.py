"""Files for browsers: their addresses, and how long they may be kept."""

import hashlib
import mimetypes
import posixpath
import re
from functools import lru_cache

from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

from config import BASE_DIR, settings
from image_utils import CACHE_CONTROL

STATIC_DIR = BASE_DIR / "static"
VERSION_BYTES = 6
VERSION = re.compile(rf"([0-9a-f]{{{2 * VERSION_BYTES}}})/(.+)", re.DOTALL)
SHORT_CACHE_CONTROL = "public, max-age=3600"
STATIC_IMPORT = re.compile(r'^(?:import|export) [^"]*"(\.[^"]+)";$', re.MULTILINE)

# Not every system's list knows them, and browsers insist on the right ones.
mimetypes.add_type("application/manifest+json", ".webmanifest")
mimetypes.add_type("text/javascript", ".js")

Signature = tuple[tuple[str, int, int], ...]


def static_version() -> str:
    """The hash of all files under `static/`; it comes first in their paths.

    One for all, because scripts name each other by relative paths.
    """
    # In production the files do not change while the application runs.
    return _content_hash(None if settings.is_production else _signature())


def _signature() -> Signature:
    """Names, times and sizes: what is cheap to look at and changes with the content."""
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
    """Paths under `static/` of these scripts and of all that they import in their turn.

    A page that names them gets them at once; otherwise the browser finds each only
    after it has read the one before.
    """
    return _module_graph(static_version(), names)


@lru_cache(maxsize=32)
def _module_graph(_version: str, names: tuple[str, ...]) -> list[str]:
    found = [f"js/{name}.js" for name in names]
    for script in found:  # it grows meanwhile
        text = (STATIC_DIR / script).read_text(encoding="utf-8")
        folder = posixpath.dirname(script)
        imported = [
            posixpath.normpath(posixpath.join(folder, name))
            for name in STATIC_IMPORT.findall(text)
        ]
        found += [name for name in imported if name not in found]
    return found


class ImmutableStaticFiles(StaticFiles):
    """Files that never change: what is new has a new name."""

    async def check_config(self) -> None:
        """Nothing is wrong without a folder: it comes with the first file."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Serve a file, to be kept for a year."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = CACHE_CONTROL
        return response


class VersionedStaticFiles(StaticFiles):
    """The files under `static/`, with or without a version before their path."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Serve a file; an old version's address gives the newest file, for a while."""
        match = VERSION.fullmatch(path)
        version, file = match.groups() if match else (None, path)
        response = await super().get_response(file, scope)
        is_current = version == static_version()
        response.headers["Cache-Control"] = (
            CACHE_CONTROL if is_current else SHORT_CACHE_CONTROL
        )
        return response
