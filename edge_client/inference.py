"""The model in use, for applications on this device: two lines, and every release is followed by itself.

from edge_client.inference import Model

model = Model("state")
probabilities = model(window)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_client.state_folder import PERSONAL_FILE, StateFolder
from edge_client.trainer.runtime import InferenceModel
from shared.bundle import INFER_INT8_FILE
from shared.errors import FedloomError, TryLater

log = logging.getLogger("fedloom.inference")
_Mark = tuple[str, int, int]  # folder of the version, the file's inode and time of change
_TRIES = 10  # while one version is replaced by the next, and its files go


class Model:
    """The int8 model that the agent has in use; this device's own copy where that does better here.

    Any thread may call it; calls wait for each other, as one interpreter runs one example at a time.

    Args:
        state: the agent's state folder.
        num_threads: of the runtime.
    """

    def __init__(self, state: Path | str, *, num_threads: int = 1) -> None:
        self._folder = StateFolder(Path(state))
        self._num_threads = num_threads
        self._guard = threading.Lock()
        self._mark: _Mark | None = None
        self._refused: _Mark | None = None
        self._model: InferenceModel | None = None

    def __call__(self, x: ArrayLike | Mapping[str, ArrayLike]) -> NDArray[np.float32]:
        """Return the model's output for one example.

        Args:
            x: the input without the batch, or one array per input's name; float64 is taken for float32.

        Raises:
            TryLater: ``no-model`` before the agent's first one.
            FedloomError: ``inference-failed`` for an input of another shape; ``runtime-missing``.
        """
        inputs = {name: _row(values) for name, values in x.items()} if isinstance(x, Mapping) else _row(x)
        with self._guard:
            result: NDArray[np.float32] = self._newest().predict(inputs)[0]
            return result

    @property
    def version(self) -> int:
        """The version that the next call uses; raises ``no-model``."""
        with self._guard:
            self._newest()
            assert self._mark is not None  # noqa: S101  # set with the model
            return int(Path(self._mark[0]).name)

    def _newest(self) -> InferenceModel:
        for _ in range(_TRIES):
            try:
                found = self._look()
                if found is not None and found[0] not in {self._mark, self._refused}:
                    self._take(*found)
                break
            except FileNotFoundError:  # replaced between two looks
                continue
        if self._model is None:
            raise TryLater("no-model", f"There is no model in {self._folder.path} yet.", "let fedloom-agent run")
        return self._model

    def _look(self) -> tuple[_Mark, Path] | None:
        """Return what is in use now."""
        try:
            version = self._folder.current.readlink()
        except OSError:
            return None
        place = self._folder.path / version
        for name in (PERSONAL_FILE, INFER_INT8_FILE):
            try:
                status = (place / name).stat()
            except FileNotFoundError:
                continue
            return (str(version), status.st_ino, status.st_mtime_ns), place / name
        return None

    def _take(self, mark: _Mark, path: Path) -> None:
        data = path.read_bytes()
        try:
            made = InferenceModel(data, self._num_threads)
        except FedloomError as error:
            if self._model is None:
                raise
            log.warning("%s is not used, the model before is: %s", path, error)
            self._refused = mark
            return
        self._model, self._mark = made, mark


def _row(values: ArrayLike) -> NDArray[Any]:
    row = np.asarray(values)
    return (row.astype(np.float32) if row.dtype == np.float64 else row)[None]
