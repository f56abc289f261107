"""The form of benchmark results, which other programs read."""

from __future__ import annotations

import json

from tools.bench.report import Result, to_json, to_text


def test_results_carry_value_reference_and_ratio() -> None:
    results = [Result("accuracy/federated", 0.8, "share", "local only", 0.4), Result("x", 1.0, "ms", "none", 0.0)]
    document = json.loads(to_json(results))
    assert document["cpu"]
    assert document["results"][0] == {
        "name": "accuracy/federated",
        "value": 0.8,
        "unit": "share",
        "reference": "local only",
        "reference_value": 0.4,
        "ratio": 2.0,
    }
    assert document["results"][1]["ratio"] == 0.0
    assert "local only" in to_text(results)
