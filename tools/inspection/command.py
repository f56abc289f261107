"""``fedloom inspect``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tools.inspection.facts import inspect_bundle
from tools.inspection.text import to_text


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder that fedloom convert wrote")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Show a bundle; a runtime that cannot train it is shown too and does not change the exit code."""
    facts = inspect_bundle(arguments.bundle)
    print(json.dumps(facts) if arguments.json else to_text(facts))
    return 0
