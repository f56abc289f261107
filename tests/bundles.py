"""Bundles that several tests share, each converted once per test run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.bundle import Bundle, read_bundle


@pytest.fixture(scope="session")
def activity_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the task ``activity``'s bundle."""
    return converted(tmp_path_factory, "activity-bundle", "models.activity:build")


@pytest.fixture(scope="session")
def activity_bundle(activity_folder: Path) -> Bundle:
    """Return the bundle, verified."""
    return read_bundle(activity_folder)


@pytest.fixture(scope="session")
def personal_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a model with batch normalisation, whose head, with a batch normalisation of its own, is local."""
    options = ("--local", "network/head*", "--batch-size", "4")
    return read_bundle(converted(tmp_path_factory, "personal-bundle", "tests.convert.networks:personal", *options))


@pytest.fixture(scope="session")
def dropping_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a model with dropout."""
    source = "tests.convert.matrix:layer_dropout"
    return read_bundle(converted(tmp_path_factory, "dropping-bundle", source, "--batch-size", "4"))


def converted(tmp_path_factory: pytest.TempPathFactory, name: str, source: str, *options: str) -> Path:
    """Return a bundle's folder; workers of one parallel run share it, and writing it is atomic."""
    base = tmp_path_factory.getbasetemp()
    # A worker's folder lies in that of its run; without workers the one above would outlive the run.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    if not folder.exists():
        command = [sys.executable, "-m", "tools.convert", source, "--out", str(folder), *options]
        subprocess.run(command, check=True, capture_output=True)
    return folder
