"""``fedloom load``: what an aggregator on this machine accepts of many devices at once, and how fast."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np

from shared.errors import UsageError
from shared.limits import MAX_COHORT_MEMBERS, MIB
from tools.bench.report import Result, to_json, to_text
from tools.load.devices import LOOKS
from tools.load.run import Load, Outcome
from tools.load.run import run as run_load

ACCEPT_S: Final = 1.0  # aim: 99 of 100 requests are accepted within
WEB_MIB: Final = 512.0  # aim: at any number of devices
BESIDE_SLOW: Final = 2.0  # aim: no more times as long beside slow clients
FEWEST: Final = 3


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--devices", type=int, required=True, metavar="N", help="enrolled devices, all in one cohort")
    parser.add_argument("--parameters", type=int, default=1_000_000, help="of the model, 2 bytes each on the way")
    parser.add_argument("--window-s", type=float, default=120.0, help="in which every device sends its vector")
    parser.add_argument(
        "--slow-clients", type=int, default=0, metavar="K", help="at 1 byte/s, beside the second half of the devices"
    )
    parser.add_argument(
        "--processes", type=int, default=min(2, os.cpu_count() or 1), help="processes of devices (default %(default)d)"
    )
    parser.add_argument("--web-processes", type=int, default=1, help="of the aggregator (default %(default)d)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results to FILE too")


def run(arguments: argparse.Namespace) -> int:
    """Put an aggregator under load in a temporary folder, and report.

    Raises:
        UsageError: ``bad-load`` for numbers that make no load.
        FleetFailed: what a process said that did not do what it should.
    """
    load = Load(
        arguments.devices,
        arguments.parameters,
        arguments.window_s,
        arguments.slow_clients,
        arguments.processes,
        arguments.web_processes,
    )
    _check(load)
    with tempfile.TemporaryDirectory(prefix="fedloom-load-") as folder:
        outcome = run_load(load, Path(folder), print)
    results = to_results(load, outcome)
    print(to_text(results))
    for code, count in sorted(sum((Counter(report.errors) for report in outcome.reports), Counter()).items()):
        print(f"{count} requests ended with {code}, and were made again")
    if outcome.ended:
        print(f"{outcome.ended} times the server ended a slow client's connection")
    if arguments.json:
        arguments.json.write_text(to_json(results) + "\n")
    return 0


def _check(load: Load) -> None:
    if not FEWEST <= load.devices <= MAX_COHORT_MEMBERS:
        raise UsageError("bad-load", f"--devices must lie between {FEWEST} and {MAX_COHORT_MEMBERS}.")
    if not 1 <= load.processes <= load.devices or load.web_processes < 1 or load.parameters < 1:
        raise UsageError("bad-load", "--processes, --web-processes and --parameters are 1 or more.")
    if load.window_s <= 0 or load.slow_clients < 0:
        raise UsageError("bad-load", "--window-s is more than 0, --slow-clients not less.")


def to_results(load: Load, outcome: Outcome) -> list[Result]:
    """Return each figure beside what it should be."""
    scale = f"{load.devices} devices, d = {load.parameters}"
    results = []
    for kind in ("upload", "small"):
        quiet = _seconds(outcome, kind, 0)
        half, ninety_nine = (float(np.quantile(quiet, share)) for share in (0.5, 0.99))
        results += [
            Result(f"load/{kind} accepted, p50, {scale}", half, "s", "p99 of the same", ninety_nine),
            Result(f"load/{kind} accepted, p99, {scale}", ninety_nine, "s", "aim", ACCEPT_S),
        ]
        if load.slow_clients:
            beside = float(np.quantile(_seconds(outcome, kind, 1), 0.99))
            name = f"load/{kind} accepted, p99, beside {load.slow_clients} slow clients, {scale}"
            results.append(Result(name, beside, "s", "p99 without them", ninety_nine))
    errors = sum(sum(report.errors.values()) for report in outcome.reports)
    missing = load.devices - sum(report.counted for report in outcome.reports)
    answered = sum(report.answered for report in outcome.reports)
    in_window = (LOOKS + 1) * load.devices / load.window_s
    longest_s = max(report.latest_s for report in outcome.reports)
    peak_bytes = sum(report.peak_bytes for report in outcome.reports)
    return [
        *results,
        Result(f"load/requests in the window, {scale}", in_window, "1/s", "requests of the whole round", answered),
        Result(f"load/latest device behind its time, {scale}", longest_s, "s", "aim", ACCEPT_S),
        Result(f"load/errors, {scale}", errors, "requests", "aim", 0.0),
        Result(f"load/devices that are not in the sum, {scale}", missing, "devices", "aim", 0.0),
        Result(f"load/wrong weights, {scale}", outcome.wrong_weights, "weights", "aim", 0.0),
        Result(f"load/web processes' peak memory, {scale}", outcome.web_bytes / MIB, "MiB", "aim", WEB_MIB),
        Result(f"load/driver's peak memory, {scale}", outcome.driver_bytes / MIB, "MiB", "aim", WEB_MIB),
        Result(
            f"load/peak memory of the devices, {scale}",
            peak_bytes / MIB,
            "MiB",
            "of web processes",
            outcome.web_bytes / MIB,
        ),
    ]


def _seconds(outcome: Outcome, kind: str, part: int) -> list[float]:
    """Return what requests of a part of the window took."""
    found = list(chain.from_iterable(report.seconds.get(f"{kind}/{part}", []) for report in outcome.reports))
    if not found:
        raise UsageError("bad-load", "No device came in a part of the window.", "give more --devices")
    return found
