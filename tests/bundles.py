"""The bundle of the task ``activity``, converted once per test run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shared.bundle import Bundle, read_bundle


@pytest.fixture(scope="session")
def activity_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle folder; workers of one parallel run share it, and writing it is atomic."""
    folder = tmp_path_factory.getbasetemp().parent / "activity-bundle"
    if not folder.exists():
        command = [sys.executable, "-m", "tools.convert", "models.activity:build", "--out", str(folder)]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def activity_bundle(activity_folder: Path) -> Bundle:
    """Return the bundle, verified."""
    return read_bundle(activity_folder)
