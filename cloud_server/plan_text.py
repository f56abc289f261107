"""A plan as its operator would write it."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from shared.plan import Plan


def toml_of(plan: Plan) -> str:
    """Return a plan as an operator would write it: what differs from the defaults."""
    lines = [f'task = "{plan.task}"']
    default = Plan("any")
    for section in fields(Plan):
        if section.name == "task":
            continue
        values, usual = (asdict(getattr(one, section.name)) for one in (plan, default))
        changed = {key: value for key, value in values.items() if value != usual[key] and not isinstance(value, dict)}
        tables = {key: value for key, value in values.items() if isinstance(value, dict) and value != usual[key]}
        if changed:
            lines += ["", f"[{section.name}]", *(f"{key} = {_toml(value)}" for key, value in changed.items())]
        for key, table in tables.items():
            lines += ["", f"[{section.name}.{key}]", *(f"{name} = {_toml(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:  # noqa: ANN401  # whatever a plan holds
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else repr(value)
