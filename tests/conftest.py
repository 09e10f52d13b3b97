"""Shared fixtures: a test database, an in-memory S3, and HTTP clients."""

import atexit
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

# Importing the app reads the settings, so set them first. Tests ignore any local .env
# file.
os.environ["ENV_FILE"] = os.devnull

from tests.databases import admin_url, scratch_database

ADMIN_URL = admin_url()
_cleanup = ExitStack()
# Exit handlers run in reverse order, so the server outlives the databases on it.
atexit.register(_cleanup.close)
os.environ |= {
    "VAR_DIR": _cleanup.enter_context(tempfile.TemporaryDirectory()),
    "DATABASE_URL": _cleanup.enter_context(scratch_database(ADMIN_URL)),
    "SECRET_KEY": "test-secret-key-for-testing-only",
    "S3_BUCKET_NAME": "test-bucket",
    "S3_ACCESS_KEY_ID": "testing",
    "S3_SECRET_ACCESS_KEY": "testing",
    "S3_REGION": "us-east-2",
    "FRONTEND_URL": "http://127.0.0.1:8000",
    "RATE_LIMIT_ENABLED": "false",
    # At INFO, HTTPX would log every request that the tests send.
    "LOG_LEVEL": "WARNING",
    # Tests use many hosts. Only tests/test_allowed_hosts.py tests which are allowed.
    "ALLOWED_HOSTS": "*",
    # Use the cheapest Argon2 parameters, because tests don't need slow hashes.
    "ARGON2_TIME_COST": "1",
    "ARGON2_MEMORY_COST": "8",
    "ARGON2_PARALLELISM": "1",
}

import httpx
import pytest
from httpx import ASGITransport, AsyncClient
from moto import mock_aws
from moto.backends import get_backend
from moto.server import ThreadedMotoServer
from sqlalchemy import URL, event, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

import rate_limit
import storage
from config import settings
from database import AsyncSessionLocal, Base, database_outage, engine, get_db
from main import app
from middleware.response_cache import cache
from models import Post
from tests.openapi_coverage import CoveragePlugin, OpenAPISpec

# If the settings were read earlier, tests would run on the development database.
assert settings.is_production, "the settings were read before the tests changed them"

Headers = dict[str, str]
Json = dict[str, Any]

PASSWORD = "correct horse"
REQUEST_ID = "id-of-the-tests"
PHOTO = Path(__file__).with_name("test_image.jpg").read_bytes()

openapi_spec = OpenAPISpec(app.openapi())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stress", action="store_true", help="run race and load tests at full size"
    )


@pytest.fixture(scope="session")
def stress(request: pytest.FixtureRequest) -> bool:
    """Return whether race and load tests run at full size."""
    return bool(request.config.getoption("--stress"))


def pytest_configure(config: pytest.Config) -> None:
    """Check every response that the tests receive against the OpenAPI document."""
    config.pluginmanager.register(CoveragePlugin(openapi_spec))


def database_url() -> URL:
    assert settings.database_url is not None
    return make_url(settings.database_url.get_secret_value())


async def reset_rate_limits() -> None:
    """Clear all counters and trusted clients in memory."""
    await rate_limit._requests.reset()
    for counters in (rate_limit._counters, rate_limit._trusted_clients):
        await counters.memory.storage.reset()
        counters.retry_at = 0.0


@pytest.fixture(scope="session", autouse=True)
async def schema() -> AsyncIterator[None]:
    """Create the tables once for the whole run."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


@pytest.fixture(scope="module")
def mocked_s3() -> Iterator[None]:
    """Mock S3 once per module, because setting it up takes longer than most tests."""
    with mock_aws():
        storage.s3_client.cache_clear()
        yield
        storage.s3_client.cache_clear()


@pytest.fixture(autouse=True)
def bucket(mocked_s3: None) -> Iterator[Any]:
    """Create an empty in-memory bucket, and return the S3 client that the app uses."""
    client = storage.s3_client()
    client.create_bucket(
        Bucket="test-bucket",
        CreateBucketConfiguration={"LocationConstraint": "us-east-2"},
    )
    yield client
    for backend in get_backend("s3").values():
        for region in backend.values():
            region.reset()
    # A test that changed the settings may have made the app create another client.
    if storage.s3_client() is not client:
        storage.s3_client.cache_clear()


@pytest.fixture(autouse=True)
def end_outages() -> None:
    """End outages of earlier tests, because each is logged only once a minute."""
    for outage in (database_outage, rate_limit.redis_outage):
        outage.end()


@pytest.fixture
async def connection(schema: None) -> AsyncIterator[AsyncConnection]:
    """Open a connection whose transaction is rolled back after the test."""
    async with engine.connect() as connection:
        transaction = await connection.begin()
        yield connection
        await transaction.rollback()


@pytest.fixture
def new_session(connection: AsyncConnection) -> Callable[[], AsyncSession]:
    """Return a factory for sessions whose commits don't end the transaction."""
    return lambda: AsyncSession(
        connection, join_transaction_mode="create_savepoint", expire_on_commit=False
    )


@pytest.fixture
async def db(new_session: Callable[[], AsyncSession]) -> AsyncIterator[AsyncSession]:
    """Open a session that sees the changes made by the client's requests."""
    async with new_session() as session:
        yield session


def make_client() -> AsyncClient:
    """Return a client that calls the app in this process, without a server."""
    return AsyncClient(
        transport=ASGITransport(app),
        # Use the URL of the development server.
        base_url="http://127.0.0.1:8000",
        # Use one id for all requests, so that equal responses have equal headers.
        headers={"X-Request-ID": REQUEST_ID},
        event_hooks={"response": [openapi_spec.check]},
    )


@pytest.fixture
async def client(new_session: Callable[[], AsyncSession]) -> AsyncIterator[AsyncClient]:
    """Return a client whose requests run in the test's transaction."""

    async def session_of_test() -> AsyncIterator[AsyncSession]:
        async with new_session() as session:
            yield session

    app.dependency_overrides[get_db] = session_of_test
    async with make_client() as client:
        yield client
    app.dependency_overrides.clear()


@pytest.fixture
async def concurrent_client(schema: None) -> AsyncIterator[AsyncClient]:
    """Return a client whose requests use separate connections and commit."""
    async with make_client() as client:
        yield client
    async with AsyncSessionLocal() as session:
        for table in reversed(Base.metadata.sorted_tables):
            await session.execute(table.delete())
        await session.commit()


@pytest.fixture
def cache_on() -> Iterator[None]:
    """Turn on the response cache. In production, the cache listener does that."""
    cache.turn_on()
    yield
    cache.turn_off()


@contextmanager
def capture_queries() -> Iterator[list[str]]:
    """Record the SQL statements that run in the context, except savepoints."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "SAVEPOINT" not in statement:
            statements.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


async def create_test_user(
    client: AsyncClient,
    username: str = "ada",
    email: str = "ada@example.com",
    password: str = PASSWORD,
) -> Json:
    """Create a user through the API and return the response's JSON."""
    user_in = {"username": username, "email": email, "password": password}
    response = await client.post("/api/users", json=user_in)
    assert response.status_code == 201, response.text
    user: Json = response.json()
    return user


async def login_user(
    client: AsyncClient, email: str = "ada@example.com", password: str = PASSWORD
) -> str:
    """Log in through the API and return the access token."""
    form = {"username": email, "password": password}
    response = await client.post("/api/users/token", data=form)
    assert response.status_code == 200, response.text
    token: str = response.json()["access_token"]
    return token


def auth_header(token: str) -> Headers:
    """Return an `Authorization` header with this access token."""
    return {"Authorization": f"Bearer {token}"}


async def sign_up(client: AsyncClient, name: str) -> Headers:
    """Create a user, log in, and return the `Authorization` header."""
    email = f"{name}@example.com"
    await create_test_user(client, name, email)
    return auth_header(await login_user(client, email))


@pytest.fixture
async def ada(client: AsyncClient) -> Headers:
    """Sign up ada and return her `Authorization` header."""
    return await sign_up(client, "ada")


@pytest.fixture
async def bob(client: AsyncClient) -> Headers:
    """Sign up bob and return his `Authorization` header."""
    return await sign_up(client, "bob")


async def create_post(client: AsyncClient, headers: Headers, **fields: Any) -> Json:
    """Publish a post through the API and return the response's JSON."""
    post_in = {"title": "A title", "content": "Some content", **fields}
    response = await client.post("/api/posts", json=post_in, headers=headers)
    assert response.status_code == 201, response.text
    post: Json = response.json()
    return post


def as_listed(post: Json) -> Json:
    """Return a post as in a list, which doesn't contain the rendered content."""
    return {name: value for name, value in post.items() if name != "content_html"}


async def add_posts(db: AsyncSession, user_id: int, dates: list[datetime]) -> list[int]:
    """Add posts with these dates and ascending ids, and return the ids."""
    ids = []
    for date in dates:
        post = Post(title="", content="-", user_id=user_id, date_posted=date)
        db.add(post)
        await db.flush()
        ids.append(post.id)
    await db.commit()
    return ids


def list_objects(bucket: Any) -> list[str]:
    """List the keys in the test bucket."""
    listing = bucket.list_objects_v2(Bucket="test-bucket")
    return [entry["Key"] for entry in listing.get("Contents", [])]


class CountingBody:
    """A request body without a declared length. It counts the bytes that are read."""

    def __init__(self, size: int, *, start: bytes = b"") -> None:
        self.start = start
        self.size = size
        self.read_bytes = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.start
        while self.read_bytes < self.size:
            self.read_bytes += 4096
            yield b" " * 4096


async def get_current_user(client: AsyncClient, headers: Headers) -> Json:
    """Return the user whom these headers authenticate."""
    user: Json = (await client.get("/api/users/me", headers=headers)).json()
    return user


async def get_user_id(client: AsyncClient, headers: Headers) -> int:
    """Return the id of the user whom these headers authenticate."""
    user_id: int = (await get_current_user(client, headers))["id"]
    return user_id


@pytest.fixture
async def user_id(client: AsyncClient, ada: Headers) -> int:
    return await get_user_id(client, ada)


@pytest.fixture
def user_path(user_id: int) -> str:
    """Return the API path of ada's account."""
    return f"/api/users/{user_id}"


@pytest.fixture
async def post(client: AsyncClient, ada: Headers) -> Json:
    """Publish a post as ada and return it."""
    return await create_post(client, ada)


async def upload_picture(
    client: AsyncClient, headers: Headers, content: bytes = PHOTO
) -> httpx.Response:
    """Upload a profile picture for the user whom these headers authenticate."""
    path = f"/api/users/{await get_user_id(client, headers)}/picture"
    files = {"file": ("photo.jpg", content)}
    return await client.patch(path, files=files, headers=headers)


@pytest.fixture
def s3_server() -> Iterator[str]:
    """Run an S3-compatible server and return its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
