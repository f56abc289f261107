"""Measurements in processes of their own: two TFLite runtimes, or one and TensorFlow, cannot share one."""

from __future__ import annotations

import subprocess
import sys

from shared.errors import FedloomError


def child(module: str, *words: str) -> str:
    """Run a module and return what it prints; raises FedloomError ("bench-failed") with its last line."""
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise FedloomError("bench-failed", f"{module} {' '.join(words)}: {reason}")
    return done.stdout
