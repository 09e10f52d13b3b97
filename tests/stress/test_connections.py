"""Database URLs in the form that providers issue, and connections through PgBouncer.

The tests need the Debian packages `postgresql` and `pgbouncer`.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
import trustme
from sqlalchemy import make_url

from embedded_postgres import unprivileged
from tests.conftest import ADMIN_URL
from tests.databases import free_port, scratch_database
from tests.server import LiveServer

PROGRAMS = next(Path("/usr/lib/postgresql").glob("*/bin"), Path("missing"))
PASSWORD = "p@ss/word"
BASE = "postgresql://blog:p%40ss%2Fword@localhost:{port}/blog"

pytestmark = pytest.mark.skipif(
    not PROGRAMS.exists() or not shutil.which("pgbouncer"),
    reason="needs apt-get install postgresql pgbouncer",
)


def run_as_nobody(*command: object) -> None:
    done = subprocess.run(
        [*unprivileged(Path("/tmp")), *map(str, command)],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def folder(authority: trustme.CA) -> Iterator[Path]:
    """Return a directory that every user can write to, with CA certificates."""
    # Don't use pytest's directory, which only its owner can enter.
    with TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777)
        authority.cert_pem.write_to_path(path / "ca.pem")
        trustme.CA().cert_pem.write_to_path(path / "other-ca.pem")
        yield path


@pytest.fixture(scope="module")
def tls_port(folder: Path, authority: trustme.CA) -> Iterator[int]:
    """Start a server that accepts only connections with TLS and a password."""
    data, port = folder / "data", free_port()
    run_as_nobody(PROGRAMS / "initdb", "-D", data, "-U", "postgres", "-A", "trust")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(data / "server.key")
    certificate.cert_chain_pems[0].write_to_path(data / "server.crt")
    (data / "server.key").chmod(0o600)
    for file in data.glob("server.*"):
        shutil.chown(file, "nobody")
    (data / "pg_hba.conf").write_text(
        "local all postgres trust\nhostssl all all all scram-sha-256\n"
    )
    options = f"-p {port} -k {folder} -c ssl=on -c listen_addresses=localhost"
    run_as_nobody(
        *(PROGRAMS / "pg_ctl", "start", "-w", "-D", data, "-o", options),
        *("-l", data / "log"),
    )
    psql = (PROGRAMS / "psql", "-h", folder, "-p", port, "-U", "postgres", "-c")
    run_as_nobody(*psql, f"CREATE ROLE blog LOGIN PASSWORD '{PASSWORD}'")
    run_as_nobody(*psql, "CREATE DATABASE blog OWNER blog")
    yield port
    run_as_nobody(PROGRAMS / "pg_ctl", "stop", "-m", "fast", "-D", data)


REFUSED = "refused"
UNHEALTHY = "unhealthy"
# The URL, other settings, and the expected error, or None for success.
URLS: dict[str, tuple[str, dict[str, str], str | None]] = {
    "plain": (BASE, {}, None),
    "postgres": (BASE.replace("postgresql", "postgres"), {}, None),
    "SQLAlchemy": (BASE.replace("postgresql", "postgresql+asyncpg"), {}, None),
    "disable": (BASE + "?sslmode=disable", {}, UNHEALTHY),
    "allow": (BASE + "?sslmode=allow", {}, None),
    "prefer": (BASE + "?sslmode=prefer", {}, None),
    "require": (BASE + "?sslmode=require", {}, None),
    "Neon": (BASE + "?sslmode=require&channel_binding=require", {}, None),
    "ssl=true": (BASE + "?ssl=true", {}, None),
    "ssl=require": (BASE + "?ssl=require", {}, None),
    "verify-ca": (BASE + "?sslmode=verify-ca&sslrootcert={folder}/ca.pem", {}, None),
    "verify-full": (
        BASE + "?sslmode=verify-full&sslrootcert={folder}/ca.pem",
        {},
        None,
    ),
    "other host": (
        BASE.replace("localhost", "127.0.0.1")
        + "?sslmode=verify-full&sslrootcert={folder}/ca.pem",
        {},
        UNHEALTHY,
    ),
    "other authority": (
        BASE + "?sslmode=verify-full&sslrootcert={folder}/other-ca.pem",
        {},
        UNHEALTHY,
    ),
    "missing certificate": (
        BASE + "?sslmode=verify-full&sslrootcert={folder}/missing.pem",
        {},
        UNHEALTHY,
    ),
    "system": (BASE + "?sslmode=verify-full&sslrootcert=system", {}, UNHEALTHY),
    "trusted by the system": (
        BASE + "?sslmode=verify-full&sslrootcert=system",
        {"SSL_CERT_FILE": "{folder}/ca.pem"},
        None,
    ),
    "without file": (
        BASE + "?sslmode=verify-full",
        {"SSL_CERT_FILE": "{folder}/ca.pem"},
        None,
    ),
    "separate password": (
        BASE.replace(":p%40ss%2Fword", ""),
        {"DATABASE_PASSWORD": PASSWORD},
        None,
    ),
    "wrong password": (BASE.replace("word", "wort"), {}, UNHEALTHY),
    "libpq parameters": (
        BASE + "?connect_timeout=5&application_name=blog&keepalives_idle=30",
        {},
        None,
    ),
    "unknown mode": (BASE + "?sslmode=always", {}, REFUSED),
    "unknown parameter": (BASE + "?colour=blue", {}, REFUSED),
    "other database": (BASE.replace("postgresql", "mysql"), {}, REFUSED),
}


@pytest.mark.parametrize("name", URLS)
def test_url(tmp_path, tls_port, folder, name):
    url, extra, error = URLS[name]
    extra = {key: value.format(folder=folder) for key, value in extra.items()}
    url = url.format(port=tls_port, folder=folder)
    server = LiveServer(tmp_path, database_url=url, **extra)

    printed = migration_error(server)
    health = try_health(server)
    server.client.close()

    log = server.log.read_text()
    assert health == {None: 200, UNHEALTHY: 503, REFUSED: None}[error], log
    assert (printed is None) is (error is None)
    assert "Traceback" not in f"{printed} {log}"
    assert PASSWORD not in f"{printed} {log}"
    assert log.count("unavailable: ") == (error == UNHEALTHY)


def migration_error(server: LiveServer) -> str | None:
    """Run the migrations. Return the error output if they fail."""
    try:
        server.migrate()
    except subprocess.CalledProcessError as failed:
        return str(failed.stderr)
    return None


def try_health(server: LiveServer) -> int | None:
    """Start the server. Return the status of a health check, or None if it exits."""
    process = server.launch()
    deadline = time.monotonic() + 30
    try:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                alive = server.client.get("/health/live")
            except httpx.HTTPError:
                time.sleep(0.1)
                continue
            assert alive.status_code == 200
            return server.client.get("/health").status_code
        assert process.returncode == 3
        return None
    finally:
        server.stop()


class TestPgBouncer:
    """A pooler in transaction mode, with three connections for twelve clients."""

    @pytest.fixture
    def pooled(self, tmp_path: Path, folder: Path) -> Iterator[LiveServer]:
        """Return a server that connects to an empty database through PgBouncer."""
        port = free_port()
        with scratch_database(ADMIN_URL) as direct_url:
            direct = make_url(direct_url)
            socket_dir, name = direct.query["host"], direct.database
            (folder / "pgbouncer.ini").write_text(
                f"[databases]\nblog = host={socket_dir} dbname={name} user=postgres\n"
                f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
                "unix_socket_dir =\nauth_type = any\npool_mode = transaction\n"
                "default_pool_size = 3\n"
            )
            server = LiveServer(
                tmp_path,
                database_url=f"postgresql://blog@127.0.0.1:{port}/blog",
                DATABASE_POOL_MODE="transaction",
                DATABASE_DIRECT_URL=direct_url,
                DB_POOL_SIZE="12",
            )
            pooler = subprocess.Popen(
                [
                    *unprivileged(folder),
                    *("pgbouncer", "--quiet", str(folder / "pgbouncer.ini")),
                ]
            )
            try:
                yield server
            finally:
                pooler.terminate()
                pooler.wait()

    def test_clients_share_connections(self, pooled):
        def use(number: int) -> None:
            person = pooled.sign_up(f"user{number}")
            for _ in range(20):
                post = pooled.write(person)
                pooled.call("GET", f"/api/posts/{post['id']}")
                pooled.call("GET", f"/api/posts?skip={number}")
                pooled.call("DELETE", f"/api/posts/{post['id']}", person)

        with pooled, ThreadPoolExecutor(12) as threads:
            list(threads.map(use, range(12)))

            assert "ERROR" not in pooled.log.read_text()

    def test_without_direct_url(self, pooled):
        pooled.migrate()
        del pooled.environment["DATABASE_DIRECT_URL"]

        printed = migration_error(pooled)
        health = try_health(pooled)
        pooled.client.close()

        assert "DATABASE_DIRECT_URL is missing" in str(printed)
        assert health == 200
        assert "DATABASE_DIRECT_URL is not set" in pooled.log.read_text()
