"""A driver that kills itself at its n-th commit: ``python -m tests.faults.dying_driver DATA N before|after``.

Commits of leases alone do not count: how many there are depends on the time.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine

from cloud_server import serve
from cloud_server.storage.database import Database

LEASE_S = 1.0
_CHANGES = ("INSERT", "UPDATE", "DELETE")


def main() -> None:
    """Drive until the commit comes."""
    data, number, moment = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    changed = False
    commits = 0

    @event.listens_for(Engine, "before_cursor_execute")
    def notice(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal changed
        words = statement.split()
        changed |= words[0] in _CHANGES and "lease" not in words[:3]

    write = Database.write

    @contextmanager
    def dying_write(self: Database) -> Iterator[Connection]:
        nonlocal changed, commits
        changed = False
        with write(self) as connection:
            yield connection
            last = changed and commits + 1 == number
            if last and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
        commits += changed
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    Database.write = dying_write  # type: ignore[method-assign]
    serve.run_driver(data, os.getppid(), LEASE_S)


if __name__ == "__main__":
    main()
