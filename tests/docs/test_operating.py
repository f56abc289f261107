"""docs/operating.md names every metric, table, phase and check, and nothing that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from cloud_server import cli
from cloud_server.api.operator import METRICS
from cloud_server.metrics import DriverMetrics, read_metrics
from cloud_server.rounds.machine import Phase
from cloud_server.storage.schema import authority_metadata, metadata
from tests.cloud_server.local import Local, small_plan

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operating.md").read_text("utf-8")
METRIC_ROW = re.compile(r"^\| `(fedloom_\w+)` \| (\w+) \| ([\w, ]*?) ?\|", re.MULTILINE)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = Local(tmp_path / "data")
    yield made
    made.close()


def documented() -> dict[str, tuple[str, set[str]]]:
    return {name: (kind, set(filter(None, labels.split(", ")))) for name, kind, labels in METRIC_ROW.findall(PAGE)}


def families(text: str) -> dict[str, tuple[str, set[str]]]:
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, labels)
    return found


def metrics_of(local: Local) -> dict[str, tuple[str, set[str]]]:
    """Return what an aggregator with a task and a device shows, and a driver's."""
    plan = small_plan("point")
    local.create(plan)
    local.enrol(plan, 1)
    local.settle()
    found = families(local.app.test_client().get(METRICS).get_data(as_text=True))
    driver = CollectorRegistry()
    DriverMetrics(driver)

    class Nothing:
        def collect(self) -> list[object]:
            return []

    return found | families(read_metrics(driver, Nothing()).decode())  # type: ignore[arg-type]  # of the driver alone


def test_every_metric_is_listed_with_its_kind_and_labels(local: Local) -> None:
    found = metrics_of(local)
    listed = documented()
    assert found.keys() == listed.keys()
    noisy = {"fedloom_privacy_epsilon", "fedloom_privacy_epsilon_allowed"}  # have no rows for a plan without noise
    assert {name: found[name] for name in found if name not in noisy} == {
        name: listed[name] for name in listed if name not in noisy
    }


def test_every_table_and_phase_is_explained() -> None:
    tables = {*metadata.tables, *authority_metadata.tables}
    assert {name for name in tables if f"`{name}`" not in PAGE} == set()
    assert {phase.value for phase in Phase if f"| `{phase.value}` |" not in PAGE} == set()


def test_every_folder_of_the_data_is_explained(local: Local) -> None:
    folders = {path.name for path in local.parts.folder.path.iterdir() if path.is_dir()}
    assert {name for name in folders if f"`{name}/`" not in PAGE} == set()


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(?:serve )?(--\w+) (?:public|off|text|json)`", PAGE))))
def test_every_option_exists(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    assert option in capsys.readouterr().out


def test_every_alert_has_a_row_that_says_what_to_do() -> None:
    rules = (ROOT / "cloud_server" / "deploy" / "alerts.yml").read_text("utf-8")
    alerts = re.findall(r"^ *- alert: (\w+)$", rules, re.MULTILINE)
    assert len(alerts) >= 10
    rows = re.findall(r"^\| (Fedloom\w+) \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(alerts)
