"""A plan written back as TOML, after changing what depends on the number of devices."""

from __future__ import annotations

from dataclasses import asdict, replace

from shared.plan import Plan

FULL_DEMO_SURVIVORS = 5
DROPOUT_SHARE = 0.34
_FEWEST_IN_A_SUM = 3  # of two devices each learns the other's update


def for_demo(plan: Plan, devices: int, rounds: int) -> Plan:
    """Return the plan for a demo: one cohort of all devices, of which a third may vanish."""
    survivors = max(_FEWEST_IN_A_SUM, min(FULL_DEMO_SURVIVORS, devices - 1))
    cohort = replace(plan.cohort, largest=devices, min_survivors=survivors, dropout_share=DROPOUT_SHARE)
    return replace(plan, cohort=cohort, stop=replace(plan.stop, rounds=rounds))


def to_toml(plan: Plan) -> str:
    """Return TOML that reads back as the same plan."""
    values = asdict(plan)
    lines = [f'task = "{values.pop("task")}"']
    for name, section in values.items():
        lines.append(f"[{name}]")
        lines += [
            f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in section.items()
        ]
    return "\n".join(lines) + "\n"
