"""A PostgreSQL of tests' and benchmarks' own: a cluster in a temporary folder, reached by its socket, then gone."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

from shared.errors import Missing
from shared.ids import random_id

USER: Final = "postgres"
_INSTALLED: Final = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """Return the folder of the newest installed PostgreSQL's programs, None where there is none."""
    found = sorted(_INSTALLED.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class Cluster:
    """A running PostgreSQL.

    Args:
        folder: for its files; everybody may enter it, since PostgreSQL refuses to run as root.

    Raises:
        Missing: ``no-postgresql``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data = folder / "data"
        installed = programs()
        if installed is None:
            raise Missing("no-postgresql", "PostgreSQL is not installed.", "apt-get install postgresql")
        self._programs = installed
        self._as_root = os.geteuid() == 0
        if self._as_root:
            os.chown(folder, pwd.getpwnam(USER).pw_uid, -1)
        self._run("initdb", "-D", self._data, "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-k {self.folder} -c listen_addresses= -c max_connections=200 -c shared_buffers=32MB"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; ``immediate`` is what a power cut does."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")

    def new_database(self, locale: str = "") -> str:
        """Return the address of an empty database; with ``locale``, such as ``en-US``, it sorts texts as people do."""
        name = random_id("test", os.urandom).replace("-", "_")
        sorting = f" TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE '{locale}'" if locale else ""
        with psycopg.connect(host=str(self.folder), user=USER, dbname="postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"{sorting}'.encode())
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"

    def _run(self, program: str, *words: str | Path) -> None:
        command: Sequence[str | Path] = [self._programs / program, *words]
        if self._as_root:
            command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr or done.stdout}")


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a cluster."""
    folder = Path(tempfile.mkdtemp(prefix="fedloom-postgres-", dir="/tmp"))  # a socket's path must be short
    running = Cluster(folder)
    try:
        running.start()
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
