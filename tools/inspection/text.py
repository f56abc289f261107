"""The facts of a bundle for a person: short lines, the names in one column."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_COLUMN = 20
_WIDTH = 100

Line = tuple[str, str]


def to_text(facts: Mapping[str, Any]) -> str:
    """Return all lines; what a stranger's bundle says cannot steer the terminal."""
    lines = [*_model(facts), *_programs(facts), *_measured(facts), *_proof(facts), *_origin(facts)]
    return "\n".join(_aligned(name, _printable(value)) for name, value in lines)


def _aligned(name: str, value: str) -> str:
    wrapped = textwrap.wrap(value, _WIDTH - _COLUMN, break_long_words=False, break_on_hyphens=False) or [""]
    return ("\n" + " " * _COLUMN).join([f"{name:{_COLUMN}}{wrapped[0]}", *wrapped[1:]])


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _model(facts: Mapping[str, Any]) -> Iterator[Line]:
    yield "bundle", f"{facts['bundle']}, {size(facts['bytes'])}"
    yield "name", f"{facts['name']} ({facts['engine']})"
    yield "parameters", f"{facts['parameters']:,}"
    for role, part in facts["tensors"].items():
        yield f"  {role}", f"{part['parameters']:,} in {part['count']} tensors, {size(part['bytes'])}"
    yield "batch size", str(facts["batch_size"])
    yield "inputs", ", ".join(f"{spec['name']} {_array(spec)}" for spec in facts["inputs"])
    yield "labels", _array(facts["labels"])
    yield "loss, metric", f"{facts['loss']}, {facts['metric']}"


def _array(spec: Mapping[str, Any]) -> str:
    return f"{spec['dtype']}{spec['shape']}"


def _programs(facts: Mapping[str, Any]) -> Iterator[Line]:
    for program in facts["programs"]:
        yield program["file"], size(program["bytes"])
        for name, ends in program["signatures"].items():
            yield f"  {name}", f"{', '.join(ends['inputs']) or 'nothing'} -> {', '.join(ends['outputs']) or 'nothing'}"
        yield "  operators", ", ".join(f"{kind['name']}@{kind['version']}" for kind in program["operators"])


def _measured(facts: Mapping[str, Any]) -> Iterator[Line]:
    if facts["measured"]:
        yield "measured here", "one training step, peak memory of its process"
    else:
        yield "measured here", "nothing: no training program, or no TFLite runtime installed"
    for runtime in facts["measured"]:
        yield f"  {runtime['name']}", f"{runtime['version']}: {_cost(runtime)}"


def _cost(runtime: Mapping[str, Any]) -> str:
    if runtime["error"]:
        return f"cannot train it: {runtime['error']}"
    return f"{runtime['step_ms']:.2f} ms, {size(runtime['ram_bytes'])}"


def _proof(facts: Mapping[str, Any]) -> Iterator[Line]:
    if facts["proof"] is None:
        yield "proof", "none in this bundle"
        return
    yield "proof", "at conversion, against TensorFlow"
    for runtime in facts["proof"]["runtimes"]:
        verdict = "passed" if runtime["passed"] else "failed"
        error = f"gradients within {runtime['largest_gradient_error']:.1e}"
        yield f"  {_printable(runtime['name'])}", f"{runtime['version']}: {verdict}, {error}"


def _origin(facts: Mapping[str, Any]) -> Iterator[Line]:
    yield "made with", ", ".join(f"{name} {version}" for name, version in facts["tools"].items()) or "not recorded"


def size(count: float) -> str:
    """Return a number of bytes in the unit that keeps it short."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
