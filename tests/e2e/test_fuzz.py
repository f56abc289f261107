"""No request, well-formed or not, signed or not, gets an answer that the OpenAPI document does not describe.

``make fuzz`` sends ten times as many.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.e2e.fuzz import Fuzz, prepare
from tests.e2e.servers import deployment

pytestmark = [pytest.mark.xdist_group("fuzz"), pytest.mark.timeout(900)]  # on a machine that may be busy
REQUESTS: Final = 2000


def test_every_answer_is_documented(tmp_path: Path) -> None:
    with deployment(tmp_path) as running:
        fuzz = Fuzz(prepare(running))
        tally = fuzz.run(REQUESTS)
    assert fuzz.sent >= REQUESTS
    answered = {label for label, _, _ in tally}
    assert len(answered) >= 20
    # Not only refused at the door: well-formed and signed requests came through.
    assert {label for label, status, _ in tally if status == 200} >= {
        "GET /v1/releases/{number}",
        "GET /v1/blobs/{digest}",
        "POST /v1/check-in",
        "GET /v1/cohorts/{cohort_id}/roster",
    }
    assert {"bad-json", "bad-field", "unsigned-request", "cohort-unknown"} <= {code for _, _, code in tally}
