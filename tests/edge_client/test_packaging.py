"""What the builder of the Debian package takes from a lock and leaves out, and the settings that it installs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_client.settings import RULES, Settings
from edge_client.settings_file import SettingsFile
from tools.packaging.contents import MACHINES, locked, prune, settings_template

LOCK = r"""
ai-edge-litert==2.3.0 ; platform_machine != 'armv7l' \
    --hash=sha256:aa \
    --hash=sha256:bb
numpy==1.26.4 ; python_full_version < '3.12' \
    --hash=sha256:cc
numpy==2.5.5 ; python_full_version >= '3.12' \
    --hash=sha256:dd
tflite-runtime==2.14.0 ; python_full_version < '3.12' and platform_machine == 'armv7l' \
    --hash=sha256:ee
tqdm==4.70.1 ; platform_machine != 'armv7l' \
    --hash=sha256:ff
"""


@pytest.mark.parametrize("arch", sorted(MACHINES))
def test_a_lock_is_read_for_the_machine_of_the_package(arch: str) -> None:
    assert locked(LOCK, MACHINES[arch]).splitlines() == [
        "ai-edge-litert==2.3.0 --hash=sha256:aa --hash=sha256:bb",
        "numpy==1.26.4 --hash=sha256:cc",
    ]


def test_pruning_leaves_what_an_agent_loads(tmp_path: Path) -> None:
    keep = ["numpy/core/a.so", "numpy/__init__.py", "ai_edge_litert/interpreter.py"]
    keep += ["ai_edge_litert/_pywrap_litert_interpreter_wrapper.so", "ai_edge_litert/libpywrap_litert_common.so"]
    spare = ["numpy/core/tests/t.py", "numpy/core/include/x.h", "numpy/a.pyi", "ai_edge_litert/gpu.so", "bin/f2py"]
    spare += ["ai_edge_litert/libLiteRt.so", "numpy/core/_simd.cpython-311-aarch64-linux-gnu.so", "numpy/f2py/f.py"]
    for name in (*keep, *spare, "ai_edge_litert/vendors/v.so"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    prune(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(keep)


def test_the_installed_settings_are_the_defaults_and_valid_once_uncommented(tmp_path: Path) -> None:
    file = SettingsFile(tmp_path / "agent.toml")
    text = settings_template()
    file.path.write_text(text, "utf-8")
    assert file.read() == Settings()
    assert file.values() == {"train": {}, "limits": {}}
    file.path.write_text(
        "\n".join(line[1:] if line[:1] == "#" and line[1:2] != " " else line for line in text.split("\n"))
    )
    assert file.read() == Settings()
    assert set(file.values()["train"]) | set(file.values()["limits"]) == {name.partition(".")[2] for name in RULES}
