"""The tasks that come with Fedloom."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from models import activity, digits, fashion, log_mel, shakespeare, spoken_digits
from models.task import Bounds, Budget, Budgets, Grid, Task, Words
from shared.errors import UsageError

_HERE: Final = Path(__file__).parent
_CROSS_ENTROPY: Final = "sparse_categorical_crossentropy"

# The budgets of `activity` and `shakespeare` were chosen by `fedloom bench tuning --task NAME`: of as many points per
# method the one that does best on the participants' held-out examples (local only: each model on its own owner's). A
# learning rate at which any of the method's points diverged is rejected; of equals the first in the grid's order is
# taken, the lower learning rate. Those of the other tasks are the first points of their grids, not searched yet.
_ACTIVITY: Final = Task(
    name="activity",
    factory="models.activity:build",
    batch_size=16,
    loss=_CROSS_ENTROPY,
    classes=activity.LABELS,
    input_shape=(activity.WINDOW, activity.CHANNELS),
    owners=activity.OWNERS,
    test_owners=(9, 10),
    data_file="watch_exercise.npz",
    plan=_HERE / "activity.toml",
    load=activity.load,
    words=Words("window", "person", "people 9, 10, who never took part"),
    devices=8,
    budgets=Budgets(
        federated=Budget(rounds=15, epochs=4, learning_rate=0.05),
        local_only=Budget(rounds=15, epochs=2, learning_rate=0.1),
        centralised=Budget(rounds=15, epochs=2, learning_rate=0.05),
        bounds=Bounds(max_l2_norm=3.0, max_weight=400, server_learning_rate=1.5),
    ),
    grid=Grid(epochs=(2, 4), federated_rates=(0.05, 0.1), server_rates=(1.0, 1.5), rates=(0.02, 0.05, 0.1, 0.2)),
)
# The first point of this grid for every method, of tasks whose grid was not searched.
_TWELVE: Final = Budget(rounds=12, epochs=2, learning_rate=0.05)
_UNSEARCHED: Final = Budgets(
    _TWELVE, _TWELVE, _TWELVE, Bounds(max_l2_norm=5.0, max_weight=400, server_learning_rate=1.0)
)
_TWO_RATES: Final = Grid(epochs=(2,), federated_rates=(0.05, 0.1), server_rates=(1.0,), rates=(0.05, 0.1))
_SPOKEN_DIGITS: Final = Task(
    name="spoken_digits",
    factory="models.spoken_digits:build",
    batch_size=16,
    loss=_CROSS_ENTROPY,
    classes=spoken_digits.CLASSES,
    input_shape=(log_mel.SAMPLES,),
    owners=tuple(spoken_digits.SPEAKERS),
    test_owners=(6,),
    data_file=spoken_digits.DATA_FILE,
    plan=_HERE / "spoken_digits.toml",
    load=spoken_digits.load,
    words=Words("recording", "speaker", "speaker yweweler, who never took part"),
    devices=5,
    budgets=_UNSEARCHED,
    grid=_TWO_RATES,
    owner_names=spoken_digits.SPEAKERS,
    exhibit="confusion",
)
_FASHION: Final = Task(
    name="fashion",
    factory="models.fashion:build",
    batch_size=16,
    loss=_CROSS_ENTROPY,
    classes=fashion.CLASSES,
    input_shape=(fashion.SIDE, fashion.SIDE, 1),
    owners=tuple(range(1, fashion.DEVICES + 1)),
    test_owners=(),
    data_file=fashion.DATA_FILE,
    plan=_HERE / "fashion.toml",
    load=fashion.load,
    words=Words("image", "device", "test images that no device has"),
    devices=fashion.DEVICES,
    budgets=_UNSEARCHED,
    grid=_TWO_RATES,
    partitions={"iid": fashion.load_iid},
    exhibit="strip",
)
_SHAKESPEARE: Final = Task(
    name="shakespeare",
    factory="models.shakespeare:build",
    batch_size=16,
    loss=_CROSS_ENTROPY,
    classes=tuple(shakespeare.SYMBOLS),
    input_shape=(shakespeare.LENGTH,),
    label_shape=(shakespeare.LENGTH,),
    owners=tuple(shakespeare.ROLES),
    test_owners=(30, 11, 381, 75),
    data_file=shakespeare.DATA_FILE,
    plan=_HERE / "shakespeare.toml",
    load=shakespeare.load,
    words=Words("character", "role", "the roles Rosalind, Antony, Titus and Falstaff, which took no part", "foretold"),
    devices=8,
    budgets=Budgets(
        federated=Budget(rounds=12, epochs=4, learning_rate=0.005),
        local_only=Budget(rounds=12, epochs=4, learning_rate=0.002),
        centralised=Budget(rounds=12, epochs=2, learning_rate=0.002),
        bounds=Bounds(max_l2_norm=10.0, max_weight=400, server_learning_rate=1.5),
    ),
    grid=Grid(epochs=(2, 4), federated_rates=(0.005,), server_rates=(1.0, 1.5), rates=(0.002, 0.005)),
    optimizer="adam",
    owner_names=shakespeare.ROLES,
    exhibit="text",
)
_DIGITS: Final = Task(
    name="digits",
    factory="models.digits:build_small",
    batch_size=16,
    loss=_CROSS_ENTROPY,
    classes=tuple("0123456789"),
    input_shape=(digits.SIDE, digits.SIDE, 1),
    owners=tuple(range(1, digits.DEVICES + 1)),
    test_owners=(),
    data_file=digits.DATA_FILE,
    plan=_HERE / "digits.toml",
    load=digits.load_two_shard,
    words=Words("image", "device", "test images that no device has"),
    devices=digits.DEVICES,
    budgets=_UNSEARCHED,
    grid=_TWO_RATES,
    partitions={"iid": digits.load_iid, "writers": digits.load_by_writer},
    exhibit="strip",
)
TASKS: Final = {task.name: task for task in (_ACTIVITY, _SPOKEN_DIGITS, _FASHION, _SHAKESPEARE, _DIGITS)}


def get_task(name: str) -> Task:
    """Return a task by name; raises UsageError ("task-unknown")."""
    if name not in TASKS:
        raise UsageError("task-unknown", f"no task {name!r}", f"one of {', '.join(sorted(TASKS))}")
    return TASKS[name]
