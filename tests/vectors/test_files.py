"""The files in the repository are what the script writes, and small; the README speaks of each."""

from __future__ import annotations

import json

import pytest

from tests.vectors.reading import FOLDER
from tools.vectors.document import to_text
from tools.vectors.files import FILES

KIB = 1024


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_the_script_writes(name: str) -> None:
    written = (FOLDER / name).read_text(encoding="utf-8")
    assert written == to_text(FILES[name]()), "run python -m tools.vectors"


def test_there_are_no_other_files_and_each_is_described() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {*FILES, "README.md"}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert not [name for name in FILES if f"`{name}`" not in readme]


def test_every_list_and_field_is_described() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    names = {name for file in FILES for name in json.loads((FOLDER / file).read_text(encoding="utf-8"))}
    assert not {name for name in names if f"`{name}`" not in readme}


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 320 * KIB
