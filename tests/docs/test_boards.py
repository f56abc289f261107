"""Alert rules and Grafana's board ask for metrics, labels and phases that a running aggregator has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml  # type: ignore[import-untyped]  # has no types

from cloud_server.api.operator import METRICS
from cloud_server.api.policy import routes
from tests.cloud_server.local import Local
from tests.docs.test_operating import ROOT, documented, metrics_of

DEPLOY: Final = ROOT / "cloud_server" / "deploy"
OF_PROMETHEUS: Final = {"job", "instance", "le"}
SUFFIXES: Final = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}
SELECTOR: Final = re.compile(r"\b(fedloom_\w+)(?:\{([^}]*)\})?")
MATCHER: Final = re.compile(r'(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"')
GROUPED: Final = re.compile(r"\b(?:by|on|without|ignoring) \(([\w, ]*)\)")


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = Local(tmp_path / "data")
    yield made
    made.close()


def rules() -> list[dict[str, str]]:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text("utf-8"))["groups"]
    found: list[dict[str, str]] = group["rules"]
    return found


def targets() -> list[dict[str, str]]:
    return [
        target
        for panel in json.loads((DEPLOY / "grafana.json").read_text("utf-8"))["panels"]
        for target in panel["targets"]
    ]


def asked() -> list[str]:
    return [*(rule["expr"] for rule in rules()), *(target["expr"] for target in targets())]


def wrong_in(expression: str, shown: dict[str, tuple[str, set[str]]]) -> list[str]:
    """Return what an expression asks for that there is not."""
    names = {name + suffix: labels for name, (kind, labels) in shown.items() for suffix in SUFFIXES[kind]}
    used = SELECTOR.findall(expression)
    wrong = [name for name, _ in used if name not in names]
    known = set[str]().union(*(names.get(name, set()) for name, _ in used)) | OF_PROMETHEUS
    grouped = [label.strip() for labels in GROUPED.findall(expression) for label in labels.split(",")]
    wrong += [label for label in grouped if label not in known]
    for name, matchers in used:
        wrong += [
            label for label, _, _ in MATCHER.findall(matchers) if label not in names.get(name, set()) | OF_PROMETHEUS
        ]
    return wrong


def test_boards_and_alerts_ask_for_what_there_is(local: Local) -> None:
    noisy = {
        name: one for name, one in documented().items() if "epsilon" in name
    }  # without rows in a plan without noise
    shown = metrics_of(local) | noisy
    expressions = asked()
    assert len(expressions) > 20
    assert [(expression, wrong) for expression in expressions if (wrong := wrong_in(expression, shown))] == []
    assert all(expression.count("(") == expression.count(")") for expression in expressions)
    text = local.app.test_client().get(METRICS).get_data(as_text=True)
    paths = {route.path for route in routes(local.app)}
    for expression in expressions:
        for name, matchers in SELECTOR.findall(expression):
            for label, _, value in MATCHER.findall(matchers):
                if label == "phase":  # every one that is named occurs, at 0 if need be
                    assert all(re.search(f'^{name}{{phase="{one}",', text, re.MULTILINE) for one in value.split("|")), (
                        expression
                    )
                if label == "route":
                    assert value in paths, expression


@pytest.mark.parametrize(
    "expression",
    [
        "fedloom_cohort > 0",
        "rate(fedloom_request_duration_seconds[5m])",
        'fedloom_devices{phase="failed"}',
        "sum by (device) (fedloom_rounds)",
    ],
)
def test_what_there_is_not_would_be_found(expression: str) -> None:
    assert wrong_in(expression, documented())


def test_legends_and_texts_name_labels_that_are_left() -> None:
    for target in targets():
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            grouped = GROUPED.findall(target["expr"])
            (name, _), *_ = SELECTOR.findall(target["expr"])
            left = {one.strip() for one in grouped[0].split(",")} if grouped else documented()[name][1]
            assert label in left, target
    page = (ROOT / "docs" / "operating.md").read_text("utf-8")
    assert all(f"cloud_server/deploy/{path.name}" in page for path in DEPLOY.iterdir() if path.is_file())
    assert len({rule["alert"] for rule in rules()}) == len(rules())
