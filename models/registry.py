"""The tasks that come with Fedloom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models import activity
from shared.errors import UsageError

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Task:
    """A model, its data and how they are used.

    ``factory`` is what ``fedloom convert`` takes, ``plan`` the file for ``fedloom-server task create``.
    ``load`` takes the owners that do not take part and returns everyone's examples.
    """

    name: str
    factory: str
    batch_size: int
    loss: str
    owners: tuple[int, ...]
    test_owners: tuple[int, ...]
    plan: Path
    card: Path
    load: Callable[[tuple[int, ...]], activity.TaskData]


TASKS = {
    "activity": Task(
        name="activity",
        factory="models.activity:build",
        batch_size=16,
        loss="sparse_categorical_crossentropy",
        owners=activity.OWNERS,
        test_owners=(9, 10),
        plan=_HERE / "activity.toml",
        card=_HERE / "cards" / "activity.md",
        load=activity.load,
    ),
}


def get_task(name: str) -> Task:
    """Return a task by name; raises UsageError ("task-unknown")."""
    if name not in TASKS:
        raise UsageError("task-unknown", f"no task {name!r}", f"one of {', '.join(sorted(TASKS))}")
    return TASKS[name]
