"""The folder in which an agent keeps everything it knows; nobody but its user may look inside."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.errors import BrokenState, TryLater


@dataclass(frozen=True)
class StateFolder:
    """Where each part of the state lies below ``path``."""

    path: Path

    @property
    def key_file(self) -> Path:
        """The identity's secret key."""
        return self.path / "identity.key"

    @property
    def enrolment_file(self) -> Path:
        """What enrolment gave: certificate, root document, address."""
        return self.path / "enrolment.json"

    @property
    def journal_file(self) -> Path:
        """The record of every step."""
        return self.path / "journal.sqlite3"

    @property
    def store(self) -> Path:
        """Verified files by their hash."""
        return self.path / "store"

    @property
    def releases(self) -> Path:
        """Installed releases by version."""
        return self.path / "releases"

    @property
    def current(self) -> Path:
        """The release in use: what an application on this device reads its model from."""
        return self.path / "current"

    def create(self) -> None:
        """Make the folder if it is not there.

        Raises:
            BrokenState: ``state-not-writable``.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise BrokenState(
                "state-not-writable", f"Cannot use {self.path}: {error.strerror}.", "choose another --state folder"
            ) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one agent; the operating system lets go when the process ends.

        Raises:
            TryLater: ``agent-running``: two agents would use the same counters twice.
        """
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise TryLater(
                    "agent-running", f"Another agent works in {self.path}.", "stop it first, or leave it to its work"
                ) from error
            yield

    def is_locked(self) -> bool:
        """Say whether an agent is at work here."""
        try:
            with self.lock():
                return False
        except TryLater:
            return True

    def erase(self) -> None:
        """Delete everything in the folder; the key goes first."""
        self.key_file.unlink(missing_ok=True)
        shutil.rmtree(self.path)
