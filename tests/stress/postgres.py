"""A PostgreSQL server that can be paused and killed."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from sqlalchemy import URL

from embedded_postgres import EmbeddedPostgres

# Not needed to connect, so that tests can look for it in logs.
DATABASE_PASSWORD = "marked-secret-database"


class Postgres:
    """A server of its own. Its commits are written to disk."""

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedPostgres(folder / "data")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        url = URL.create(
            "postgresql",
            username=self.server.user,
            password=DATABASE_PASSWORD,
            database=self.server.database,
            query={"host": str(self.server.start())},
        )
        return url.render_as_string(hide_password=False)

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        """Shut down despite open connections."""
        self.server.release()

    def pids(self) -> list[int]:
        """Return the ids of the main process and its children."""
        main = (self.server.data_dir / "postmaster.pid").read_text().split()[0]
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [int(pid) for pid in (main, *children)]

    def signal(self, how: signal.Signals) -> list[int]:
        """Send a signal to all processes, and return their ids."""
        pids = self.pids()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, how)
        return pids

    def pause(self) -> None:
        """Stop all processes; connections stay open."""
        # Twice, because the main process may start another one before it stops.
        self.signal(signal.SIGSTOP)
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill all processes at once, like a crash of the machine."""
        self.pause()
        pids = self.signal(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(map(is_running, pids)):
            assert time.monotonic() < deadline, "PostgreSQL is still running"
            time.sleep(0.02)
        self.server.release()


def is_running(pid: int) -> bool:
    """Return whether a process exists and isn't a zombie."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False
