"""The marks by which weights are found again in a converted file."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from tools.convert.twins import distinctive


def test_no_two_marks_have_the_same_scale() -> None:
    """Of large tensors the largest of uniform values would often be the same number in float32."""
    weights = [SimpleNamespace(value=np.zeros((300, 300)), trainable=True) for _ in range(60)]
    marks = distinctive(SimpleNamespace(weights=weights))  # type: ignore[arg-type] # all that is looked at
    assert len({float(np.abs(mark).max()) for mark in marks}) == len(marks)
    assert min(float(np.abs(mark).min()) for mark in marks) >= 0.1
