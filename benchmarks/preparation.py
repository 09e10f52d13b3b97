"""Create the databases, start the servers, and check what they return."""

import httpx
from sqlalchemy import URL

from benchmarks.cases import (
    CACHED_PATHS,
    DEEP_SKIP,
    ENCODINGS,
    LARGE,
    LIST,
    SMALL,
    Known,
)
from benchmarks.databases import create_database, insert_posts, insert_users
from benchmarks.load import Load
from benchmarks.servers import (
    APP,
    APP_LARGE,
    APP_UNCACHED,
    APP_WRITES,
    CONVENTIONAL,
    CONVENTIONAL_LARGE,
    DATABASE_CEILING,
    INSERT_CEILING,
    MEMORY_CEILING,
    ServerError,
    Servers,
)
from tests.server import PASSWORD

PRODUCT = "main:app"
CONVENTIONAL_APP = "benchmarks.conventional:app"
DATABASE_APP = "benchmarks.ceilings:database"
MEMORY_APP = "benchmarks.ceilings:memory"
NO_CACHE = {"RESPONSE_CACHE_BYTES": "0"}
# Headers that differ between otherwise identical responses.
VARYING = (b"date", b"x-request-id")


def create_filled_database(servers: Servers, admin: URL, name: str, posts: int) -> URL:
    url = create_database(admin, name)
    servers.migrate(url)
    insert_users(url)
    insert_posts(url, posts)
    return url


def start_small(servers: Servers, admin: URL) -> None:
    """Start all servers that use the databases with 10,000 posts."""
    posts = create_filled_database(servers, admin, "small", SMALL)
    # Use a separate database, so that new posts don't change the other responses.
    writes = create_database(admin, "writes", template="small")
    servers.start(APP, PRODUCT, posts)
    servers.start(APP_UNCACHED, PRODUCT, posts, **NO_CACHE)
    servers.start(APP_WRITES, PRODUCT, writes)
    servers.start(CONVENTIONAL, CONVENTIONAL_APP, posts)
    servers.start(DATABASE_CEILING, DATABASE_APP, posts, BENCHMARK_POOL_SIZE="10")
    servers.start(INSERT_CEILING, DATABASE_APP, writes, BENCHMARK_POOL_SIZE="16")
    app_url = servers.urls[APP]
    servers.start(MEMORY_CEILING, MEMORY_APP, posts, BENCHMARK_APP_URL=app_url)


def start_large(servers: Servers, admin: URL) -> None:
    """Start both servers that use the database with 1,000,000 posts."""
    posts = create_filled_database(servers, admin, "large", LARGE)
    servers.start(APP_LARGE, PRODUCT, posts, **NO_CACHE)
    servers.start(CONVENTIONAL_LARGE, CONVENTIONAL_APP, posts)


def fetch_known(servers: Servers) -> Known:
    """Fetch the values that later requests contain."""
    cursor = None
    if APP_LARGE in servers.urls:
        path = f"{LIST}?skip={DEEP_SKIP}"
        cursor = servers.request(APP_LARGE, path).json()["next_cursor"]
    etag = send_once(servers, Load(APP, LIST)).headers["ETag"]
    return Known(etag, sign_up(servers), cursor)


def sign_up(servers: Servers) -> str:
    """Create a user and return an access token."""
    email = "ada@example.com"
    user = {"username": "ada", "email": email, "password": PASSWORD}
    form = {"username": email, "password": PASSWORD}
    users = "/api/users"
    servers.request(APP_WRITES, users, method="POST", status=201, json=user)
    login = servers.request(APP_WRITES, f"{users}/token", method="POST", data=form)
    token: str = login.json()["access_token"]
    return token


def send_once(servers: Servers, load: Load) -> httpx.Response:
    """Send a single request of a load, and check the status of the response."""
    post = {"title": "Benchmark", "content": "A line of text."}
    return servers.request(
        load.server,
        load.path.replace("{n}", "1"),
        method=load.method,
        status=load.status,
        headers=load.all_headers,
        json=post if load.method == "POST" else None,
    )


def check_memory_ceiling(servers: Servers) -> None:
    """Raise an error unless the memory ceiling sends the same responses as the app."""
    for path in CACHED_PATHS:
        for encoding in ENCODINGS:
            load = Load(APP, path, encoding=encoding)
            app = send_once(servers, load)
            ceiling = send_once(servers, load.on(MEMORY_CEILING))
            if content(app) != content(ceiling):
                raise ServerError(f"{MEMORY_CEILING} differs from {APP} at {path}")


def content(response: httpx.Response) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the body, and the headers that don't vary."""
    headers = [header for header in response.headers.raw if header[0] not in VARYING]
    return sorted(headers), response.content
