"""The released model for applications of other users: a folder that its group reads, apart from the agent's own state.

    DIR/current -> releases/7        read it with ``edge_client.inference.Model(DIR)``
    DIR/releases/7/infer_int8.tflite

Only what the server released is ever here, byte for byte: nothing that this device's examples changed.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_client.durable import naming_disk_errors, sync_folder, write_durably
from edge_client.identity import load_enrolment
from edge_client.state_folder import StateFolder
from shared.bundle import INFER_INT8_FILE
from shared.errors import FedloomError

FOLDER_MODE: Final = 0o750
FILE_MODE: Final = 0o640


@dataclass(frozen=True)
class PublishedModels:
    """A folder whose group may read the released model.

    Attributes:
        path: of the folder; whoever makes it chooses its group, and files in it get the same.
    """

    path: Path

    def put(self, version: int, data: bytes) -> None:
        """Let applications use ``data`` from their next call on, in one step; versions before are deleted.

        Raises:
            TryLater: ``disk-write-failed``; the version before stays.
        """
        folder = StateFolder(self.path)
        place = folder.releases / str(version)
        with naming_disk_errors(self.path):
            if not self.path.is_dir():  # an administrator's keeps its rights
                self.path.mkdir(parents=True)
                self.path.chmod(FOLDER_MODE)
            group = self.path.stat().st_gid
            for made in (folder.releases, place):
                made.mkdir(exist_ok=True)
                _open_to(made, group, FOLDER_MODE)
            write_durably(place / INFER_INT8_FILE, data, FILE_MODE)
            _open_to(place / INFER_INT8_FILE, group, FILE_MODE)
            link = self.path / ".current.new"
            link.unlink(missing_ok=True)
            link.symlink_to(place.relative_to(self.path))
            link.replace(folder.current)
            sync_folder(self.path)
            for other in folder.releases.iterdir():
                if other != place:
                    shutil.rmtree(other)

    def clear(self) -> None:
        """Delete every model; the folder stays, with the group that somebody gave it.

        Raises:
            TryLater: ``disk-write-failed``.
        """
        folder = StateFolder(self.path)
        if not self.path.is_dir():
            return
        with naming_disk_errors(self.path):
            for link in (folder.current, self.path / ".current.new"):
                link.unlink(missing_ok=True)
            if folder.releases.is_dir():
                shutil.rmtree(folder.releases)


def clear_published(folder: StateFolder) -> None:
    """Delete the released models that other users read by this device's enrolment, if there are any.

    Raises:
        TryLater: ``disk-write-failed``.
    """
    try:
        models = load_enrolment(folder).models
    except FedloomError:  # a damaged enrolment names none
        return
    if models is not None:
        PublishedModels(models).clear()


def _open_to(path: Path, group: int, mode: int) -> None:
    """Set group and rights, whatever the umask is; what is right already stays, also where it could not be changed."""
    status = path.stat()
    if status.st_gid != group:
        os.chown(path, -1, group)
    if status.st_mode & 0o777 != mode:
        path.chmod(mode)
