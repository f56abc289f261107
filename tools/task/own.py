"""A task of one's own: the folder that ``fedloom task new`` writes, read again."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from shared.errors import UsageError
from shared.examples import EXAMPLES_FILE, Examples, write_examples
from shared.ids import require_name
from tools.task.files import example_files, folders, read_file

TASK_FILE: Final = "task.toml"
PLAN_FILE: Final = "plan.toml"
CARD_FILE: Final = "card.md"
TODO: Final = "TODO"
_TOLD: Final = 5  # files that one error names
_FEWEST_OWNERS: Final = 3  # two devices learn each other's update


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_list_of(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(fits(item) for item in value)


_TEXT: Final = ("a text", _is_text)
_TEXTS: Final = ("a list of texts", _is_list_of(_is_text))
_KEYS: Final[Mapping[str, tuple[str, Callable[[object], bool]]]] = {
    "model": _TEXT,
    "examples": _TEXT,
    "classes": _TEXTS,
    "input_shape": ("a list of whole numbers above 0", _is_list_of(_is_count)),
    "held_out_share": ("a number between 0 and 1", lambda value: isinstance(value, float) and 0 < value < 1),
    "test_owners": _TEXTS,
    "loss": _TEXT,
    "batch_size": ("a whole number above 0", _is_count),
    "licence": _TEXT,
}


@dataclass(frozen=True)
class OwnTask:
    """What ``task.toml`` says; paths are absolute.

    Attributes:
        folder: that it is in.
        model: what ``fedloom convert`` takes.
        examples: folder of examples, ``OWNER/CLASS/FILE``.
        classes: names of folders, in the order of the model's outputs.
        input_shape: of one example.
        held_out_share: of each owner's examples of each class, on which models are judged.
        test_owners: who takes no part; the model is tested on them.
        loss: as ``fedloom convert`` takes it.
        batch_size: examples in a training step.
        licence: whose data these are, and what may be done with them.
    """

    folder: Path
    model: str
    examples: Path
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    held_out_share: float
    test_owners: tuple[str, ...]
    loss: str
    batch_size: int
    licence: str

    @property
    def name(self) -> str:
        """The task's name, which is the folder's."""
        return self.folder.name


@dataclass(frozen=True)
class Owned:
    """Everyone's examples, to train on and held out, by owner."""

    devices: dict[str, tuple[Examples, Examples]]
    strangers: dict[str, tuple[Examples, Examples]]


def read_task(folder: Path) -> OwnTask:
    """Read ``task.toml``.

    Raises:
        UsageError: ``task-missing``, or ``task-file`` naming the key.
    """
    folder = folder.absolute()
    path = folder / TASK_FILE
    require_name(folder.name, "the task's folder")
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(
            "task-missing", f"{path}: {error.strerror}.", "write it with `fedloom task new NAME`"
        ) from error
    except ValueError as error:
        raise UsageError("task-file", f"{path} is not TOML: {error}.") from error
    for key, (kind, fits) in _KEYS.items():
        if not fits(values.get(key)):
            raise UsageError("task-file", f"{path}: {key} is {values.get(key)!r}, {kind} is needed.")
    if unknown := sorted(set(values) - set(_KEYS)):
        raise UsageError("task-file", f"{path} has an unknown key {unknown[0]!r}.", f"known: {', '.join(_KEYS)}")
    _check(values, path)
    model = values["model"]
    return OwnTask(
        folder,
        model if ":" in model else str(folder / model),
        folder / values["examples"],
        tuple(values["classes"]),
        tuple(values["input_shape"]),
        values["held_out_share"],
        tuple(values["test_owners"]),
        values["loss"],
        values["batch_size"],
        values["licence"],
    )


def require_licence(task: OwnTask) -> None:
    """Refuse a task that does not say whose data it uses.

    Raises:
        UsageError: ``task-licence``.
    """
    if not task.licence.strip() or TODO in task.licence:
        raise UsageError(
            "task-licence",
            f"{task.folder / TASK_FILE} says nothing about the licence of the examples.",
            "write into licence whose data they are and what may be done with them",
        )


def _check(values: Mapping[str, Any], path: Path) -> None:
    if len(values["classes"]) < 2 or len(set(values["classes"])) < len(values["classes"]):
        raise UsageError("task-file", f"{path}: classes needs two different names or more.")


def load_task(task: OwnTask) -> Owned:
    """Read every example.

    Raises:
        UsageError: ``examples-missing``, ``task-labels`` for a folder that is no class, ``example-unreadable``,
            ``example-shape``, ``task-owners`` for too few owners or test owners that are not there.
    """
    if not task.examples.is_dir():
        raise UsageError(
            "examples-missing",
            f"There is no folder {task.examples}.",
            f"make it with OWNER/CLASS/FILE inside, or mend `examples` in {task.folder / TASK_FILE}",
        )
    owners = {path.name: _of_owner(task, path) for path in folders(task.examples)}
    absent = [name for name in task.test_owners if name not in owners]
    taking_part = {name: parts for name, parts in owners.items() if name not in task.test_owners}
    if absent or len(taking_part) < _FEWEST_OWNERS:
        what = f"test owner {absent[0]!r} is not there" if absent else f"{len(taking_part)} owners take part"
        raise UsageError(
            "task-owners",
            f"In {task.examples}, {what}; found are {', '.join(owners) or 'none'}.",
            f"{_FEWEST_OWNERS} owners or more have to take part; mend the folders, or test_owners in {TASK_FILE}",
        )
    return Owned(taking_part, {name: owners[name] for name in task.test_owners})


def _of_owner(task: OwnTask, path: Path) -> tuple[Examples, Examples]:
    train: list[tuple[Path, int]] = []
    held: list[tuple[Path, int]] = []
    for folder in folders(path):
        if folder.name not in task.classes:
            raise UsageError(
                "task-labels",
                f"{folder} is no class of the task, which has {', '.join(task.classes)}.",
                f"rename the folder, or add the class to {TASK_FILE} and an output to the model",
            )
        files = [(file, task.classes.index(folder.name)) for file in example_files(folder)]
        # The last ones, because files are often named by the time, and neighbours in time are alike.
        cut = len(files) - max(round(len(files) * task.held_out_share), int(len(files) > 1))
        train, held = train + files[:cut], held + files[cut:]
    if not train:
        raise UsageError("examples-missing", f"{path} holds no example.", "add some, or remove the folder")
    return _read(task, train), _read(task, held)


def _read(task: OwnTask, files: list[tuple[Path, int]]) -> Examples:
    examples, problems = [], []
    for file, _ in files:
        try:
            examples.append(read_file(file, task.input_shape))
        except UsageError as error:
            problems.append(error)
    if problems:
        raise _together(problems)
    x = np.array(examples, np.float32).reshape(len(files), *task.input_shape)
    return Examples(x, np.array([label for _, label in files], np.int32))


def _together(problems: Sequence[UsageError]) -> UsageError:
    """Return one error that names the first files, so that not every mistake takes a run to be found."""
    first = problems[0]
    told = " ".join(problem.message for problem in problems[:_TOLD])
    rest = f" And {len(problems) - _TOLD} files more of this owner." if len(problems) > _TOLD else ""
    return UsageError(first.code, told + rest, first.remedy)


def write_devices(folder: Path, owned: Owned) -> None:
    """Write each device's ``OWNER/examples.npz``; who takes no part any more must not be enrolled by mistake."""
    for left in folder.glob(f"*/{EXAMPLES_FILE}"):
        left.unlink()
        if left.parent.name not in owned.devices and not any(left.parent.iterdir()):
            left.parent.rmdir()
    for name, (train, held) in owned.devices.items():
        write_examples(folder / name, train, held)


def missing_classes(task: OwnTask, owned: Owned) -> list[str]:
    """Return one line per owner who has no example of some class to train on."""
    lines = []
    for name, (train, _) in owned.devices.items():
        absent = [label for index, label in enumerate(task.classes) if index not in train.y]
        if absent:
            lines.append(f"{name} has no example of {', '.join(absent)}")
    return lines
