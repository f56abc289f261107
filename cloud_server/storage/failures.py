"""What to say of a disk or a database that fails."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError


def failure_of(error: OSError | DBAPIError) -> str:
    """Return what failed, without what it failed at."""
    if isinstance(error, OSError):
        return f"the disk or the network failed ({error.strerror or type(error).__name__})"
    return f"the database failed ({type(error.orig).__name__})"
