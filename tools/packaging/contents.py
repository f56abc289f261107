"""What is in the package: which wheels, and which of their files an agent never loads."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from edge_client.settings import RULES, Settings, as_values

PYTHON: Final = "3.11"  # Debian 12; wheels with machine code are for one version
_GLIBC_MINOR: Final = 36  # Debian 12
# What wheels declare, and an agent does not load.
_NEVER_LOADED: Final = frozenset(
    {"backports-strenum", "colorama", "flatbuffers", "ml-dtypes", "protobuf", "pycparser", "tqdm", "typing-extensions"}
)
# The interpreter; libLiteRt.so is for the compiled models beside it, and LiteRT loads it only where it is there.
_LITERT_KEPT: Final = frozenset({"_pywrap_litert_interpreter_wrapper.so", "libpywrap_litert_common.so"})
_SPARE: Final = (
    "ai_edge_litert/aot",
    "ai_edge_litert/schema_py_generated.py",
    "ai_edge_litert/tools",
    "ai_edge_litert/vendors",
    "bin",
    "numpy/_pyinstaller",
    "numpy/array_api",
    "numpy/distutils",
    "numpy/f2py",
)
_SPARE_MODULES: Final = ("numpy/core/_simd.*.so",)  # for NumPy's own tests
_SUFFIXES: Final = frozenset({".a", ".c", ".h", ".pyi", ".pxd", ".pyx", ".f", ".f90"})


@dataclass(frozen=True)
class Machine:
    """A Debian architecture.

    Attributes:
        debian: its name.
        python: what ``platform.machine()`` says there.
        runtime: the lock with its TFLite runtime.
    """

    debian: str
    python: str
    runtime: str

    @property
    def emulated(self) -> str:
        """What qemu calls it."""
        return "arm" if self.python.startswith("arm") else self.python

    @property
    def platforms(self) -> list[str]:
        """The platform tags of wheels that run there, the newest first."""
        tags = [f"manylinux_2_{minor}_{self.python}" for minor in range(_GLIBC_MINOR, 16, -1)]
        return [*tags, f"manylinux2014_{self.python}"]


MACHINES: Final = {
    "amd64": Machine("amd64", "x86_64", "edge.txt"),
    "arm64": Machine("arm64", "aarch64", "edge.txt"),
}


def locked(text: str, machine: Machine) -> str:
    """Return the part of a hashed lock that ``machine`` needs, without markers, which pip reads for its own machine."""
    around = {"platform_machine": machine.python, "python_full_version": f"{PYTHON}.2", "python_version": PYTHON}
    kept = []
    for block in text.replace("\\\n", " ").splitlines():
        if not block.strip():
            continue
        line, *hashes = block.split(" --hash=")
        requirement = Requirement(line)
        if requirement.name in _NEVER_LOADED or (requirement.marker and not requirement.marker.evaluate(around)):
            continue
        kept.append(" --hash=".join([f"{requirement.name}{requirement.specifier}", *map(str.strip, hashes)]))
    return "\n".join(kept) + "\n"


def prune(site: Path) -> None:
    """Delete what an agent never loads: tests, headers, sources, stubs, commands, build tools, and most of LiteRT."""
    for folder in [path for path in site.rglob("*") if path.is_dir() and path.name in {"tests", "include"}]:
        shutil.rmtree(folder, ignore_errors=True)
    for path in [*(site / name for name in _SPARE), *(path for name in _SPARE_MODULES for path in site.glob(name))]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    litert = site / "ai_edge_litert"
    for path in [path for path in site.rglob("*") if path.is_file()]:
        spare = path.suffix == ".so" and litert in path.parents and path.name not in _LITERT_KEPT
        if spare or path.suffix in _SUFFIXES:
            path.unlink()


def settings_template() -> str:
    """Return agent.toml with every default as a comment."""
    lines = ["# The owner's settings: docs/agent.md. A running agent follows within 5 s.\n"]
    section = ""
    for (name, rule), value in zip(RULES.items(), as_values(Settings()).values(), strict=True):
        head, _, key = name.partition(".")
        if head != section:
            section = head
            lines.append(f"\n[{section}]\n")
        unit = f" [{rule.unit}]" if rule.unit else ""
        lines.append(f"# {rule.about}{unit}\n#{key} = {_toml(value)}\n")
    return "".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else f'"{value}"'
