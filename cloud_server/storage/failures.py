"""What to say of a disk or a database that fails."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout


def failure_of(error: OSError | DBAPIError | PoolTimeout | sqlite3.Error) -> str:
    """Return what failed, without what it failed at."""
    if isinstance(error, OSError):
        return f"the disk or the network failed ({error.strerror or type(error).__name__})"
    if isinstance(error, PoolTimeout):
        return "no connection to the database became free"
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"the database failed ({type(cause).__name__})"
