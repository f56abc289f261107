"""``fedloom task try``: what federation would buy, before any server runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_client.trainer.tflite import TfliteTrainer
from models.task import Budget
from shared.bundle import initial_weights, read_bundle
from shared.errors import UsageError
from shared.examples import concatenate
from shared.plan import Plan
from tools.baselines import train_federated, train_local_only
from tools.task.own import PLAN_FILE, TASK_FILE, Owned, OwnTask

if TYPE_CHECKING:
    from shared.examples import Examples


def compare(task: OwnTask, owned: Owned, rounds: int) -> str:
    """Return a table: accuracy on strangers and on the participants' held-out examples, by way of training.

    Raises:
        UsageError: ``task-not-built``, ``task-owners`` without anyone to test on, ``task-rounds``; FedloomError as
            training does.
    """
    if rounds < 1:
        raise UsageError("task-rounds", f"{rounds} rounds were asked for, at least 1 is needed.")
    if not task.test_owners:
        raise UsageError(
            "task-owners",
            "Nobody is kept apart to test on.",
            f'write an owner into test_owners in {TASK_FILE}, such as test_owners = ["{min(owned.devices)}"]',
        )
    folder = task.folder / "bundle"
    if not folder.is_dir():
        raise UsageError("task-not-built", f"There is no {folder}.", f"fedloom task build {task.name}")
    bundle = read_bundle(folder)
    plan = Plan.from_toml((task.folder / PLAN_FILE).read_text("utf-8"))
    trainer, start = TfliteTrainer(bundle), initial_weights(bundle)
    devices = dict(enumerate(owned.devices.values()))
    test = _everything(owned)
    budget = Budget(rounds, plan.training.epochs, plan.training.learning_rate)
    federated = train_federated(trainer, bundle.manifest.tensors, start, devices, test, plan, rounds, seed=1)
    alone = train_local_only(trainer, start, devices, test, budget, seed=1)
    lines = [f"after {rounds} rounds     on {', '.join(task.test_owners)}   on participants' held-out examples"]
    lines += [
        f"{name:<16} {curve.accuracy[-1]:>12.1%} {curve.accuracy_participants[-1]:>24.1%}"
        for name, curve in (("federated", federated), ("each alone", alone))
    ]
    return "\n".join(lines)


def _everything(owned: Owned) -> Examples:
    return concatenate([part for parts in owned.strangers.values() for part in parts])
