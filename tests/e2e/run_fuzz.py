"""``python -m tests.e2e.run_fuzz``: the requests of ``fuzz.py``, as many as asked for, and what they were answered."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.fuzz import Fuzz, prepare
from tests.e2e.servers import deployment


def main() -> int:
    """Send, count, and print the table; fails at the first answer that the document does not describe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, deployment(Path(folder)) as running:
        fuzz, started_s = Fuzz(prepare(running)), time.monotonic()
        tally = fuzz.run(arguments.requests)
        elapsed_s = time.monotonic() - started_s
    for (label, status, code), count in sorted(tally.items()):
        sys.stdout.write(f"{count:7d}  {label}  {status}  {code}\n")
    sys.stdout.write(f"{fuzz.sent} requests in {elapsed_s:.0f} s, every answer as documented\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
