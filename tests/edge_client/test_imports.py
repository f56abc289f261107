"""What the agent loads: nothing of TensorFlow, and no network where the data is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "edge_client").rglob("*.py")
    if path.name not in {"__init__.py", "__main__.py"}
)


# tflite-runtime has no wheels beyond Python 3.11, and the Makefile makes no environment for it there.
ENVIRONMENTS = [".venv-edge", ".venv-edge-tflite"] if sys.version_info < (3, 12) else [".venv-edge"]


def run(python: Path, program: str) -> str:
    assert python.exists(), f"{python.parent.parent.name} is not set up; run make"
    result = subprocess.run([str(python), "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_agent_needs_no_tensorflow(environment: str) -> None:
    assert "edge_client.agent" in MODULES
    program = (
        "import importlib, importlib.util, sys\n"
        f"for name in {MODULES}: importlib.import_module(name)\n"
        "assert importlib.util.find_spec('tensorflow') is None, 'TensorFlow is installed'\n"
        "bad = {'tensorflow', 'keras', 'flask', 'sqlalchemy', 'models', 'tools', 'cloud_server'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    run(ROOT / environment / "bin" / "python", program)


@pytest.mark.parametrize(
    ("module", "more"),
    [
        ("edge_client.examples", set()),
        ("edge_client.inference", {"sqlite3"}),
        ("edge_client.contribution", {"sqlite3"}),
    ],
)
def test_data_is_read_and_trained_on_without_a_network_or_the_journal(module: str, more: set[str]) -> None:
    unwanted = {"urllib3", "http.client", "ssl", "edge_client.transport", "edge_client.journal"} | more
    program = f"import sys, {module}; print(sorted({unwanted} & set(sys.modules)))"
    assert run(ROOT / ".venv-edge" / "bin" / "python", program).strip() == "[]"
