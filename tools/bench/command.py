"""``fedloom bench``: which benchmarks there are."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from models.registry import get_task
from tools.bench.report import Result, to_json, to_text

# Each module has ``measure() -> list[Result]``, those of OF_A_TASK ``measure(task)``; it is
# loaded when it is asked for.
BENCHES = {
    "accuracy": "tools.bench.accuracy",
    "agent": "tools.bench.agent",
    "aggregate": "tools.bench.aggregate",
    "checkin": "tools.bench.checkin",
    "downloads": "tools.bench.downloads",
    "int8": "tools.bench.int8",
    "page": "tools.bench.page",
    "privacy": "tools.bench.privacy",
    "round": "tools.bench.round",
    "secagg": "tools.bench.secagg",
    "train-step": "tools.bench.train_step",
    "tuning": "tools.bench.tuning",
}
# Asked for by name: agent needs the package and installs Flower, tuning trains 12 to 24 models, privacy needs data that
# do not ship.
ALL = ("accuracy", "aggregate", "checkin", "downloads", "int8", "page", "round", "secagg", "train-step")
OF_A_TASK = ("accuracy", "downloads", "tuning")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "what",
        choices=[*BENCHES, "all"],
        help="what to measure; all leaves out agent, which needs `make deb` and installs Flower to compare with,"
        " tuning, which trains 12 to 24 models, and privacy, which needs the full MNIST in the folder that FEDLOOM_DATA"
        " names",
    )
    parser.add_argument(
        "--task", default="activity", help="whose accuracy, downloads and tuning are measured (activity)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results to FILE too")


def run(arguments: argparse.Namespace) -> int:
    """Measure and report."""
    chosen = ALL if arguments.what == "all" else (arguments.what,)
    task = get_task(arguments.task)
    results: list[Result] = []
    for name in chosen:
        module = importlib.import_module(BENCHES[name])
        results += module.measure(task) if name in OF_A_TASK else module.measure()
    print(to_text(results))
    if arguments.json:
        arguments.json.write_text(to_json(results) + "\n")
    return 0
