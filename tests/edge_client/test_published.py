"""The released model for other users' applications: exactly the release, for the group alone, replaced in one step."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_client.examples import ExampleStore
from edge_client.examples.declaration import RECORDED_FILE
from edge_client.inference import Model
from edge_client.published import PublishedModels
from shared.bundle import INFER_INT8_FILE, Bundle
from shared.errors import TryLater
from tests.shared.refusals import refused

NOBODY, GROUP = 65_534, 12_345


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) & 0o777


@pytest.fixture
def closed_umask() -> Iterator[None]:
    """As the service has it."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("closed_umask")
def test_versions_replace_each_other_and_the_group_may_read(tmp_path: Path, activity_bundle: Bundle) -> None:
    twin = activity_bundle.files[INFER_INT8_FILE]
    models = PublishedModels(tmp_path / "models")
    models.put(7, twin)
    model = Model(models.path)
    assert model.version == 7
    models.put(6, twin)
    assert model.version == 6
    place = models.path / "releases" / "6"
    assert {rights(path) for path in (models.path, place.parent, place)} == {0o750}
    assert rights(place / INFER_INT8_FILE) == 0o640
    assert {path.name for path in models.path.rglob("*")} == {"current", "releases", "6", INFER_INT8_FILE}
    models.clear()
    assert list(models.path.iterdir()) == []
    with refused("no-model", TryLater):
        Model(models.path).version  # noqa: B018  # asks for it


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")
@pytest.mark.usefixtures("closed_umask")
def test_members_of_the_group_read_it_and_nobody_else() -> None:
    with tempfile.TemporaryDirectory() as reachable:
        Path(reachable).chmod(0o755)
        folder = Path(reachable) / "models"
        folder.mkdir()
        os.chown(folder, -1, GROUP)
        folder.chmod(0o750)
        PublishedModels(folder).put(3, b"a model")
        command = ["cat", str(folder / "current" / INFER_INT8_FILE)]
        for group, read in ((GROUP, b"a model"), (GROUP + 1, b"")):
            done = subprocess.run(command, user=NOBODY, group=group, extra_groups=[], check=False, capture_output=True)
            assert done.stdout == read, done.stderr


@pytest.mark.usefixtures("closed_umask")
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_bytes(b"a file")
    with refused("disk-write-failed", TryLater):
        PublishedModels(tmp_path / "models").put(1, b"model")


@pytest.mark.usefixtures("closed_umask")
def test_what_an_application_records_is_its_groups_whatever_its_umask(tmp_path: Path) -> None:
    with ExampleStore(tmp_path) as store:
        store.record([1.0, 2.0], 1)
        files = {path.name: rights(path) for path in tmp_path.iterdir()}
    assert files.pop(RECORDED_FILE) == 0o660
    assert set(files.values()) == {0o660}  # SQLite's own beside it
