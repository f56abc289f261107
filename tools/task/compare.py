"""``fedloom task try``: what federation would buy, before any server runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_client.trainer.tflite import TfliteTrainer
from models.task import Bounds, Budget
from shared.bundle import initial_weights, read_bundle
from shared.errors import UsageError
from shared.examples import concatenate
from shared.plan import Plan
from tools.baselines import train_federated, train_local_only
from tools.task.own import PLAN_FILE, Owned, OwnTask

if TYPE_CHECKING:
    from shared.examples import Examples


def compare(task: OwnTask, owned: Owned, rounds: int) -> str:
    """Return a table: accuracy on strangers and on the participants' held-out examples, by way of training.

    Raises:
        UsageError: ``task-not-built``; FedloomError as training does.
    """
    folder = task.folder / "bundle"
    if not folder.is_dir():
        raise UsageError("task-not-built", f"There is no {folder}.", f"fedloom task build {task.name}")
    bundle = read_bundle(folder)
    plan = Plan.from_toml((task.folder / PLAN_FILE).read_text("utf-8"))
    trainer, start = TfliteTrainer(bundle), initial_weights(bundle)
    devices = dict(enumerate(owned.devices.values()))
    test = _everything(owned)
    budget = Budget(rounds, plan.training.epochs, plan.training.learning_rate)
    bounds = Bounds(plan.update.max_l2_norm, plan.update.max_weight, plan.server.learning_rate)
    federated = train_federated(trainer, bundle.manifest.tensors, start, devices, test, budget, bounds, seed=1)
    alone = train_local_only(trainer, start, devices, test, budget, seed=1)
    lines = [f"after {rounds} rounds     on {', '.join(task.test_owners)}   on participants' held-out examples"]
    lines += [
        f"{name:<16} {curve.accuracy[-1]:>12.1%} {curve.accuracy_participants[-1]:>24.1%}"
        for name, curve in (("federated", federated), ("each alone, mean", alone))
    ]
    return "\n".join(lines)


def _everything(owned: Owned) -> Examples:
    return concatenate([part for parts in owned.strangers.values() for part in parts])
