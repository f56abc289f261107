"""A second copy of every row of the journal, in the same file: SQLite notices damaged pages, but no damaged value.

A bit that turns in a number would otherwise let a limit be kept from a wrong count. Triggers write both copies in one
transaction, whoever writes; opening the journal compares them. Which of two is right nobody can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Run = Callable[..., list[Any]]
# The columns of each table; the first one is its key.
TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "meta": ("name", "value"),
    "contribution": (
        "id",
        "round",
        "version",
        "cohort",
        "state",
        "reason",
        "vector_sent",
        "seconds_training",
        "traffic",
        "started_at_s",
        "changed_at_s",
    ),
    "privacy_charge": ("contribution", "loss", "delta", "mechanism"),
    "peer": ("device", "serial"),
    "failed_training": ("contribution", "code"),
    "evaluation": ("contribution", "baseline"),
}


def add_copies(run: Run) -> None:
    """Make the copies that are not there yet, within a transaction of the caller."""
    there = {row[0] for row in run("SELECT name FROM sqlite_schema")}
    for table, columns in TABLES.items():
        names, new = ", ".join(columns), ", ".join(f"new.{name}" for name in columns)
        if f"copy_{table}" not in there:
            run(f"CREATE TABLE copy_{table} ({columns[0]} PRIMARY KEY, {', '.join(columns[1:])}) WITHOUT ROWID")
            run(f"INSERT INTO copy_{table} ({names}) SELECT {names} FROM {table}")  # noqa: S608  # constants
        forget = f"DELETE FROM copy_{table} WHERE {columns[0]} = old.{columns[0]}"  # noqa: S608  # constants
        keep = f"INSERT OR REPLACE INTO copy_{table} ({names}) VALUES ({new})"  # noqa: S608  # constants
        for event, does in (("INSERT", keep), ("UPDATE", f"{forget}; {keep}"), ("DELETE", forget)):
            if (name := f"copy_{table}_{event.lower()}") not in there:
                run(f"CREATE TRIGGER {name} AFTER {event} ON {table} BEGIN {does}; END")


def differing(run: Run) -> list[str]:
    """Return the tables whose two copies are not the same."""
    return [table for table, columns in TABLES.items() if run(_difference(table, ", ".join(columns)))]


def _difference(table: str, columns: str) -> str:
    one, other = f"SELECT {columns} FROM {table}", f"SELECT {columns} FROM copy_{table}"  # noqa: S608  # constants
    return f"SELECT * FROM ({one} EXCEPT {other}) UNION ALL SELECT * FROM ({other} EXCEPT {one}) LIMIT 1"  # noqa: S608
