"""Applications use the model in use: a new one as soon as it is there, never half of one, never none after one."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from edge_client.inference import Model
from edge_client.state_folder import PERSONAL_FILE, StateFolder
from edge_client.trainer.protocol import F32
from edge_client.trainer.runtime import InferenceModel
from shared.bundle import INFER_INT8_FILE, Bundle, patch_model
from shared.errors import FedloomError, TryLater
from tests.shared.refusals import refused


class Releases:
    """A state folder in which versions come into use, as the agent puts them there."""

    def __init__(self, path: Path, bundle: Bundle) -> None:
        self.folder = StateFolder(path)
        self._bundle = bundle
        self._inputs = bundle.manifest.inputs[0].shape[1:]

    def twin(self, scale: float) -> bytes:
        """Return an inference twin with weights of its own."""
        manifest = self._bundle.manifest
        weights = np.full(sum(tensor.size for tensor in manifest.tensors), scale, np.float32)
        patches = tuple(patch for patch in manifest.patches if patch.file == INFER_INT8_FILE)
        return patch_model(self._bundle.files[INFER_INT8_FILE], patches, weights, manifest.tensors)

    def put(self, version: int, data: bytes, name: str = INFER_INT8_FILE) -> None:
        place = self.folder.releases / str(version)
        place.mkdir(parents=True, exist_ok=True)
        new = place / ".new"
        new.write_bytes(data)
        new.replace(place / name)

    def use(self, version: int) -> None:
        link = self.folder.path / ".current.new"
        link.unlink(missing_ok=True)
        link.symlink_to((self.folder.releases / str(version)).relative_to(self.folder.path))
        link.replace(self.folder.current)

    def x(self) -> F32:
        return np.random.default_rng(1).normal(size=self._inputs).astype(np.float32)


@pytest.fixture
def releases(tmp_path: Path, activity_bundle: Bundle) -> Releases:
    return Releases(tmp_path, activity_bundle)


def test_every_release_is_followed(releases: Releases) -> None:
    model, x = Model(releases.folder.path), releases.x()
    with refused("no-model", TryLater):
        model(x)
    for version, scale in ((1, 0.01), (2, 0.02), (1, 0.01)):
        releases.put(version, releases.twin(scale))
        releases.use(version)
        expected = InferenceModel(releases.twin(scale)).predict(x[None])[0]
        np.testing.assert_array_equal(model(x), expected)
        np.testing.assert_array_equal(model(x.astype(np.float64)), expected)
        assert model.version == version


def test_a_copy_that_does_better_on_this_device_is_used(releases: Releases) -> None:
    model, x = Model(releases.folder.path), releases.x()
    releases.put(1, releases.twin(0.01))
    releases.use(1)
    shared = model(x)
    releases.put(1, releases.twin(0.05), PERSONAL_FILE)
    own = model(x)
    assert not np.array_equal(own, shared)
    np.testing.assert_array_equal(own, InferenceModel(releases.twin(0.05)).predict(x[None])[0])


def test_a_model_that_cannot_be_loaded_changes_nothing(releases: Releases) -> None:
    model, x = Model(releases.folder.path), releases.x()
    releases.put(1, b"no model")
    releases.use(1)
    with refused("bundle-not-loadable"):
        model(x)
    releases.put(1, releases.twin(0.01))
    before = model(x)
    releases.put(2, b"no model")
    releases.use(2)
    np.testing.assert_array_equal(model(x), before)
    assert model.version == 1
    releases.put(3, releases.twin(0.02))
    releases.use(3)
    assert not np.array_equal(model(x), before)


def test_an_input_of_another_shape_is_named(releases: Releases) -> None:
    model = Model(releases.folder.path)
    releases.put(1, releases.twin(0.01))
    releases.use(1)
    with refused("inference-failed", FedloomError):
        model(np.zeros((2, 2), np.float32))
    model(releases.x())


def test_threads_may_call_it_while_versions_come_and_go(releases: Releases) -> None:
    model, x = Model(releases.folder.path), releases.x()
    answers = {}
    for version in (1, 2):
        releases.put(version, releases.twin(version / 100))
        answers[version] = InferenceModel(releases.twin(version / 100)).predict(x[None])[0]
    releases.use(1)
    wrong: list[object] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            found = model(x)
            if not any(np.array_equal(found, answer) for answer in answers.values()):
                wrong.append(found)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(60):
        version = 1 + turn % 2
        releases.put(version, releases.twin(version / 100))
        releases.use(version)
        other = releases.folder.releases / str(3 - version) / INFER_INT8_FILE
        other.unlink()
        releases.put(3 - version, releases.twin((3 - version) / 100))
    stop.set()
    for thread in threads:
        thread.join(60)
    assert wrong == []
