"""Alert rules and the board's expressions in a real Prometheus (Debian's ``prometheus`` has its ``promtool``)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]  # has no types

from tests.docs.test_boards import DEPLOY, rules, targets

SERIES: Final = Path(__file__).parent / "alert_tests.yml"
# What Grafana puts in before Prometheus sees an expression.
VARIABLES: Final = {"$__rate_interval": "5m", "$job": "fedloom"}


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)


def written(folder: Path, **expressions: str) -> Path:
    """Write expressions down as recording rules, the form in which promtool takes them."""
    named = [{"record": name, "expr": expression} for name, expression in expressions.items()]
    file = folder / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": named}]}), "utf-8")
    return file


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def cases() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(SERIES.read_text("utf-8"))["tests"]
    return found


def test_every_alert_fires_when_it_must_and_not_otherwise(tmp_path: Path) -> None:
    for file in (DEPLOY / "alerts.yml", SERIES):
        shutil.copy(file, tmp_path)
    done = promtool("check", "rules", tmp_path / "alerts.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    done = promtool("test", "rules", tmp_path / SERIES.name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_left_out() -> None:
    """Each is asked for at a time when it fires, with its text, and at one when it does not."""
    asked = [(one["alertname"], bool(one.get("exp_alerts"))) for test in cases() for one in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {name for name, fires in asked if fires} == names
    assert {name for name, fires in asked if not fires} == names


@pytest.mark.parametrize("old", ["== 0", "> 0", "> 2", "> 10", "0.9 *"])
def test_a_rule_that_is_wrong_fails(tmp_path: Path, old: str) -> None:
    """Whatever an expression compares with matters to some series."""
    text = (DEPLOY / "alerts.yml").read_text("utf-8")
    assert old in text
    (tmp_path / "alerts.yml").write_text(text.replace(old, {"== 0": "== 7", "0.9 *": "9 *"}.get(old, "> 1000000")))
    shutil.copy(SERIES, tmp_path)
    assert promtool("check", "rules", tmp_path / "alerts.yml").returncode == 0
    assert promtool("test", "rules", tmp_path / SERIES.name).returncode != 0


def test_the_boards_expressions_are_expressions(tmp_path: Path) -> None:
    expressions = {f"board:panel:{number}": filled(target["expr"]) for number, target in enumerate(targets())}
    assert not [expression for expression in expressions.values() if "$" in expression]
    done = promtool("check", "rules", written(tmp_path, **expressions))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(expressions)} rules found" in done.stdout


@pytest.mark.parametrize(
    "expression",
    [
        "sum by (task) (rate(fedloom_requests_total[5m])",  # one bracket too few
        "rate(fedloom_requests_total)",  # of no range
        "histogram_quantile(fedloom_requests_total, 0.95)",
        "max(fedloom_devices) by task",
    ],
)
def test_what_is_no_expression_is_found(tmp_path: Path, expression: str) -> None:
    assert promtool("check", "rules", written(tmp_path, wrong=expression)).returncode != 0


def test_the_board_says_which_variables_it_has() -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))
    own = {f"${one['name']}" for one in board["templating"]["list"]}
    assert {name for name in VARIABLES if not name.startswith("$__")} <= own
