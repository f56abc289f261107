"""Which files there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import shared
from tools.vectors.cohort import PLAIN, ROTATED, Form
from tools.vectors.derivations import derivations, keystreams
from tools.vectors.document import Document, to_text
from tools.vectors.graphs import graphs, threshold_table
from tools.vectors.numbers import grids, rotations
from tools.vectors.refused_sessions import refused_sessions
from tools.vectors.refused_values import refused_values
from tools.vectors.session import session
from tools.vectors.shares import sealed_boxes, shares
from tools.vectors.signatures import signatures
from tools.vectors.sparse_session import sparse_session

FOLDER: Final = Path(shared.__file__).parent / "spec" / "vectors"


def _session(form: Form) -> tuple[str, Callable[[], Document]]:
    return f"session-{form.cipher}.json", partial(session, form)


FILES: Final[Mapping[str, Callable[[], Document]]] = {
    "derivations.json": derivations,
    "keystreams.json": keystreams,
    "thresholds.json": threshold_table,
    "graphs.json": graphs,
    "shares.json": shares,
    "sealed-boxes.json": sealed_boxes,
    "numbers.json": grids,
    "rotations.json": rotations,
    "signatures.json": signatures,
    **dict(map(_session, (PLAIN, ROTATED))),
    "session-sparse.json": sparse_session,
    "refused-sessions.json": refused_sessions,
    "refused-values.json": refused_values,
}


def write(folder: Path) -> None:
    """Write all files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in FILES.items():
        (folder / name).write_text(to_text(make()), encoding="utf-8")
