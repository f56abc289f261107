"""The folder in which an agent keeps everything it knows; nobody but its user may look inside."""

from __future__ import annotations

import fcntl
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shared.errors import BrokenState, TryLater, UsageError

PERSONAL_FILE = "infer_int8_personal.tflite"  # beside the release's own, where it does better on this device
_LOCK = "lock"
_LOCK_TRIES, _LOCK_TRY_S = 3, 0.1
_CURRENT = ("current", ".current.new")
_FOLDERS = ("store", "releases")
_LOCAL = "local_tensors.bin"
# The last one comes while the file is made, and stays where the disk failed then.
_JOURNAL = ("journal.sqlite3", "journal.sqlite3-wal", "journal.sqlite3-shm", "journal.sqlite3-journal")
_SETTINGS = "agent.toml"  # the owner's; leaving lets it stay
_PAUSE = "pause.json"
_DEPARTURE = "departure.json"
_SEALING_KEY, _SEALED = "sealed_update.key", "sealed_update.bin"
_FILES = (*_JOURNAL, "enrolment.json", _LOCAL, _PAUSE, _DEPARTURE, _SEALED)
_HALF_WRITTEN = re.compile(
    r"\.((?:next_)?identity\.key|sealed_update\.(?:key|bin)|(?:enrolment|pause|departure)\.json|local_tensors\.bin"
    r"|agent\.toml)\.[0-9]+\.new",
    re.ASCII,
)


@dataclass(frozen=True)
class StateFolder:
    """Where each part of the state lies below ``path``."""

    path: Path

    @property
    def key_file(self) -> Path:
        """The identity's secret key."""
        return self.path / "identity.key"

    @property
    def next_key_file(self) -> Path:
        """The secret key that is to follow, while the identity is renewed."""
        return self.path / "next_identity.key"

    @property
    def enrolment_file(self) -> Path:
        """What enrolment gave: certificate, root document, address."""
        return self.path / "enrolment.json"

    @property
    def journal_file(self) -> Path:
        """The record of every step."""
        return self.path / _JOURNAL[0]

    @property
    def settings_file(self) -> Path:
        """What the owner sets, unless a command is given another file."""
        return self.path / _SETTINGS

    @property
    def pause_file(self) -> Path:
        """Until when the owner lets the agent pause."""
        return self.path / _PAUSE

    @property
    def departure_file(self) -> Path:
        """The request to be revoked, for whoever uninstalls the agent."""
        return self.path / _DEPARTURE

    @property
    def local_tensors(self) -> Path:
        """The values of tensors that stay on this device."""
        return self.path / _LOCAL

    @property
    def sealing_key_file(self) -> Path:
        """The secret key of a trained update that waits for a cohort."""
        return self.path / _SEALING_KEY

    @property
    def sealed_update_file(self) -> Path:
        """A trained update that waits for a cohort, encrypted."""
        return self.path / _SEALED

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
        """Make the folder if it is not there, and close an empty one to other users.

        Raises:
            UsageError: ``state-folder-not-empty`` for a folder with files of somebody else; it stays as it is.
            BrokenState: ``state-not-writable``.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_own():
                raise UsageError(
                    "state-folder-not-empty",
                    f"{self.path} holds files that are not an agent's.",
                    "give --state a new folder, for instance one below it",
                )
            self.path.chmod(0o700)
        except OSError as error:
            raise self._not_writable(error) from error

    def _is_own(self) -> bool:
        """Say whether an agent enrolled here, or began to, or nobody uses the folder."""
        if self.enrolment_file.exists():
            return True
        known = {_LOCK, self.key_file.name, _SETTINGS, _PAUSE, *_JOURNAL}
        rest = {path.name for path in self.path.iterdir()} - known
        return all(_HALF_WRITTEN.fullmatch(name) for name in rest)

    def _not_writable(self, error: OSError) -> BrokenState:
        return BrokenState(
            "state-not-writable", f"Cannot use {self.path}: {error.strerror}.", "choose another --state folder"
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one agent; the operating system lets go when the process ends.

        Raises:
            TryLater: ``agent-running``: two agents would use the same counters twice.
            BrokenState: ``state-not-writable``.
        """
        try:
            opened = (self.path / _LOCK).open("w")
        except OSError as error:
            raise self._not_writable(error) from error
        with opened as file:
            for last in (*[False] * _LOCK_TRIES, True):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if last:
                        raise TryLater(
                            "agent-running",
                            f"Another agent works in {self.path}.",
                            "stop it first, or leave it to its work",
                        ) from error
                    time.sleep(_LOCK_TRY_S)  # it may be somebody who looks whether an agent is at work
            yield

    def is_locked(self) -> bool:
        """Say whether an agent is at work here."""
        try:
            opened = (self.path / _LOCK).open("rb")
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._not_writable(error) from error
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def forget_models(self) -> int:
        """Delete every downloaded model, and return how many bytes that were.

        Raises:
            BrokenState: ``state-not-writable``; what is left can be deleted later.
        """
        try:
            files = [file for name in _FOLDERS for file in (self.path / name).rglob("*") if file.is_file()]
            freed = sum(file.stat().st_size for file in files)
            for name in _CURRENT:
                (self.path / name).unlink(missing_ok=True)
            for name in _FOLDERS:
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
        except OSError as error:
            raise self._not_writable(error) from error
        return freed

    def erase(self) -> None:
        """Delete what an agent makes, the keys first, and the folder if nothing else is in it.

        Raises:
            BrokenState: ``state-not-writable``; what is left can be erased later.
        """
        try:
            for key in (self.key_file, self.next_key_file, self.sealing_key_file):
                key.unlink(missing_ok=True)
            half_written = [path.name for path in self.path.iterdir() if _HALF_WRITTEN.fullmatch(path.name)]
            for name in _FOLDERS:
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
            for name in (*half_written, *_CURRENT, *_FILES, _LOCK):
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._not_writable(error) from error
        with suppress(OSError):  # files of somebody else
            self.path.rmdir()


def current_version(folder: StateFolder) -> int | None:
    """Return the version in use, None before the first."""
    try:
        return int(folder.current.readlink().name)
    except (OSError, ValueError):
        return None
