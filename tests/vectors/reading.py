"""The files of vectors as they lie in the repository."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import shared
from shared.secagg.parameters import CohortRules

Case = dict[str, Any]
FOLDER = Path(shared.__file__).parent / "spec" / "vectors"


@cache
def read(name: str) -> Case:
    """Return a file's content."""
    content: Case = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return content


def cases(name: str, kind: str) -> list[Case]:
    """Return one list of a file, which is never empty."""
    found: list[Case] = read(name)[kind]
    assert found
    return found


def octets(case: Case, *names: str) -> list[bytes]:
    """Return fields that are in hexadecimal."""
    return [bytes.fromhex(case[name]) for name in names]


def words_of(text: str) -> npt.NDArray[np.uint64]:
    """Return words from the hexadecimal octets that travel."""
    return np.frombuffer(bytes.fromhex(text), "<u8").astype(np.uint64)


def by_point(values: dict[str, str]) -> dict[int, bytes]:
    """Return octets by number."""
    return {int(number): bytes.fromhex(text) for number, text in values.items()}


def rules_of(case: Case) -> CohortRules:
    """Return the plan's rules in a case."""
    names = "min_survivors", "largest", "corrupt_share", "dropout_share", "adversary"
    return CohortRules(**{name: case[name] for name in names})
