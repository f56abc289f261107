"""What a task is: a model, data with owners, the words for them, and how much every method trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from shared.errors import UsageError
from shared.examples import Examples

DATA_FOLDER: Final = Path(__file__).parent / "data"
_NAMED: Final = 8  # classes in one warning
_LICENCE_BYTES: Final = 40  # an empty file is no licence


@dataclass(frozen=True)
class TaskData:
    """Per owner the examples to train on and those held out, and the examples of owners who take no part."""

    devices: dict[int, tuple[Examples, Examples]]
    test: Examples


@dataclass(frozen=True)
class Budget:
    """How much to train: ``rounds`` times ``epochs`` over the data at a constant learning rate."""

    rounds: int
    epochs: int
    learning_rate: float


@dataclass(frozen=True)
class Bounds:
    """What federated averaging bounds: an update's L2 norm and how many examples a device may count for."""

    max_l2_norm: float
    max_weight: int
    server_learning_rate: float = 1.0


@dataclass(frozen=True)
class Budgets:
    """How much each method trains, and federated averaging's bounds: what tuning chose."""

    federated: Budget
    local_only: Budget
    centralised: Budget
    bounds: Bounds


@dataclass(frozen=True)
class Grid:
    """What tuning tries: every combination, and as many of them for each method.

    Attributes:
        epochs: per round, for all methods.
        federated_rates: learning rates of the devices.
        server_rates: factors on the mean update.
        rates: learning rates of the other methods; as many as the two before have combinations.
    """

    epochs: tuple[int, ...]
    federated_rates: tuple[float, ...]
    server_rates: tuple[float, ...]
    rates: tuple[float, ...]


@dataclass(frozen=True)
class Words:
    """How a task's things are called.

    Attributes:
        example: such as "window"; ``examples`` are many of them.
        owner: whose data one device has, such as "person".
        strangers: whom the model is tested on, such as "people 9 and 10, who never took part".
        solved: what the model does with an example that it gets right, such as "recognised".
    """

    example: str
    owner: str
    strangers: str
    solved: str = "recognised"

    @property
    def examples(self) -> str:
        """Many of them."""
        return f"{self.example}s"


@dataclass(frozen=True)
class Task:
    """A model, its data and how they are used.

    Attributes:
        name: of the task, its plan ``models/<name>.toml`` and its card.
        factory: what ``fedloom convert`` takes, with ``batch_size``, ``loss`` and ``optimizer``.
        classes: names of the classes, in the order of the model's outputs.
        input_shape: of one example.
        label_shape: of one example's labels: () for one label.
        owners: everyone who has data.
        test_owners: who takes no part unless told otherwise; nobody where the test set has no owner.
        data_file: in ``models/data``; its licence is beside it.
        plan: the file for ``fedloom-server task create``.
        load: takes the owners who take no part, and returns everyone's examples.
        words: how to speak of it.
        devices: how many take part in the demo.
        budgets: how much each method trains.
        grid: among what the budgets were chosen.
        partitions: other ways to divide the data, by name; each takes the value of FEDLOOM_DATA.
        owner_names: names of owners, where they have one.
        exhibit: what the demo shows beside the figures.
    """

    name: str
    factory: str
    batch_size: int
    loss: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    owners: tuple[int, ...]
    test_owners: tuple[int, ...]
    data_file: str
    plan: Path
    load: Callable[[tuple[int, ...]], TaskData]
    words: Words
    devices: int
    budgets: Budgets
    grid: Grid
    label_shape: tuple[int, ...] = ()
    optimizer: str = "sgd"
    partitions: Mapping[str, Callable[[str | None], TaskData]] = field(default_factory=dict)
    owner_names: Mapping[int, str] = field(default_factory=dict)
    exhibit: Literal["none", "confusion", "strip", "text"] = "none"

    @property
    def card(self) -> Path:
        """The model's card."""
        return self.plan.parent / "cards" / f"{self.name}.md"

    @property
    def rounds(self) -> int:
        """How many rounds the demo has."""
        return self.budgets.federated.rounds

    def convert_options(self) -> list[str]:
        """Return the options of ``fedloom convert``."""
        return ["--batch-size", str(self.batch_size), "--loss", self.loss, "--optimizer", self.optimizer]

    def name_of(self, owner: int) -> str:
        """Return how an owner is called, such as "person 3"."""
        return self.owner_names.get(owner, f"{self.words.owner} {owner}")


def load_data(task: Task, partition: str | None = None, full_size_folder: str | None = None) -> TaskData:
    """Load a task's data, divided in its usual way or in one of its others, and check it.

    Raises:
        UsageError: ``task-partition``, ``task-licence``, ``task-shape``, ``task-labels``, or those of
            ``full_size_file``.
    """
    require_licence(task, DATA_FOLDER)
    if partition is None:
        data = task.load(task.test_owners)
    elif partition in task.partitions:
        data = task.partitions[partition](full_size_folder)
    else:
        known = ", ".join(sorted(task.partitions)) or "leave it out: this task has one way only"
        raise UsageError("task-partition", f"Task {task.name} has no partition {partition!r}.", known)
    for owner, (train, held_out) in data.devices.items():
        require_fit(task, train, task.name_of(owner))
        require_fit(task, held_out, task.name_of(owner))
    require_fit(task, data.test, "the test set")
    return data


def require_licence(task: Task, folder: Path) -> None:
    """Raise UsageError ``task-licence`` unless the data file has a licence note beside it."""
    note = folder / Path(task.data_file).with_suffix(".LICENSE")
    if not note.is_file() or note.stat().st_size < _LICENCE_BYTES:
        raise UsageError(
            "task-licence",
            f"The data of task {task.name} have no licence note {note.name}.",
            "write there whose data they are, the licence's text or name, and what was changed",
        )


def require_fit(task: Task, examples: Examples, whose: str) -> None:
    """Raise UsageError ``task-shape`` or ``task-labels`` unless the examples fit the model."""
    x, y = np.asarray(examples.x), examples.y
    if x.shape[1:] != task.input_shape or y.shape != (len(x), *task.label_shape):
        raise UsageError(
            "task-shape",
            f"Examples of {whose} are {list(x.shape)} with labels {list(y.shape)},"
            f" task {task.name} needs {['n', *task.input_shape]} and {['n', *task.label_shape]}.",
            "cut or pad them as the task's card describes",
        )
    if len(y) and not 0 <= y.min() <= y.max() < len(task.classes):
        raise UsageError(
            "task-labels",
            f"Labels of {whose} are {y.min()} to {y.max()}, task {task.name} has classes 0 to {len(task.classes) - 1}.",
            "number the classes from 0, in the order of the task's class names",
        )


def missing_classes(task: Task, data: TaskData) -> list[str]:
    """Return one line per owner whose training examples lack a class."""
    lines = []
    for owner, (train, _) in data.devices.items():
        absent = sorted(set(range(len(task.classes))) - set(np.unique(train.y).tolist()))
        if absent:
            names = ", ".join(repr(task.classes[label]) for label in absent[:_NAMED])
            more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
            lines.append(f"{task.name_of(owner)} has no example of {names}{more}")
    return lines


def scaled_images(x: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return uint8[n, h, w] as f32[n, h, w, 1] from 0 to 1."""
    return x[..., None].astype(np.float32) / np.float32(255)
