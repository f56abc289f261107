"""A model of one's own is used only where it does better on examples that it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from edge_client.personal import Personal
from edge_client.trainer.protocol import Evaluation

NONE = Evaluation(0.0, 0, 0)


@pytest.mark.parametrize(
    ("before", "after", "better"),
    [
        (Evaluation(9.0, 5, 10), Evaluation(12.0, 6, 10), True),
        (Evaluation(9.0, 5, 10), Evaluation(1.0, 4, 10), False),
        (Evaluation(9.0, 5, 10), Evaluation(8.0, 5, 10), True),
        (Evaluation(9.0, 5, 10), Evaluation(9.0, 5, 10), False),
        (Evaluation(9.0, 5, 10), Evaluation(float("nan"), 5, 10), False),
        (NONE, NONE, False),
    ],
)
def test_more_right_or_as_many_with_less_loss(before: Evaluation, after: Evaluation, better: bool) -> None:  # noqa: FBT001
    assert Personal(np.zeros(1, np.float32), before, after).better is better
