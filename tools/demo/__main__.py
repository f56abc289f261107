"""``python -m tools.demo``: run the main job once, as its users would, and write ``demo-report/``."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from cloud_server.rounds.rounds import list_rounds
from cloud_server.settings import DataFolder
from cloud_server.storage.opening import open_database
from cloud_server.tasks import load_task
from models.full_size import FOLDER_VARIABLE
from models.registry import get_task
from models.task import Task, TaskData, load_data, missing_classes
from shared.bundle import Bundle, read_bundle
from shared.errors import FedloomError, UsageError
from shared.examples import write_examples
from shared.layout import Layout
from shared.plan import Plan
from tools.baselines import Curve
from tools.demo import exhibits
from tools.demo.measure import Measured, Published, Score, measure, round_bytes, write_json
from tools.demo.own_models import OwnModels, means, of_device, table
from tools.demo.plan_file import for_demo, to_toml
from tools.demo.plot import Panel, draw
from tools.fleet import Device, FleetFailed, Server, call, device_runtimes

REPORT: Final = Path("demo-report")
KILLED_IN_ROUND: Final = 2
VANISHED_IN_ROUND: Final = 3
ROUND_TIMEOUT_S: Final = 180.0
TABLE_HEAD: Final = "round  members  survivors  accuracy  participants    loss   kB up  kB down  seconds"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--task", default="activity")
    parser.add_argument("--devices", type=int, help="how many take part (the task's own number)")
    parser.add_argument("--rounds", type=int, help="how many (the task's own number)")
    parser.add_argument("--partition", help="another way to divide the task's data among devices")
    arguments = parser.parse_args(argv)
    try:
        task = get_task(arguments.task)
        data = load_data(task, arguments.partition, os.environ.get(FOLDER_VARIABLE))
        devices = task.devices if arguments.devices is None else arguments.devices
        Demo(task, data, devices, task.rounds if arguments.rounds is None else arguments.rounds).run()
    except FedloomError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def say(text: str = "") -> None:
    """Print one line at once."""
    print(text, flush=True)


class Demo:
    """One run.

    Args:
        task: what is learned.
        data: everyone's examples.
        devices: how many owners take part, the first ones.
        rounds: how many rounds are planned.
    """

    def __init__(self, task: Task, data: TaskData, devices: int, rounds: int) -> None:
        most = len(data.devices)
        if not 4 <= devices <= most:  # one of them is killed, and a sum of two tells each the other's update
            raise UsageError("demo-devices", f"DEVICES is {devices}, the data set allows 4 to {most}.")
        if rounds < 1:
            raise UsageError("demo-rounds", f"ROUNDS is {rounds}, at least 1 is needed.")
        self._task = task
        self._rounds = rounds
        self._work = REPORT / "work"
        shutil.rmtree(REPORT, ignore_errors=True)
        self._work.mkdir(parents=True)
        chosen = dict(list(data.devices.items())[:devices])
        self._data = TaskData(chosen, data.test)
        self._plan = for_demo(Plan.from_toml(task.plan.read_text("utf-8")), devices, rounds)
        self._authority = Server(self._work / "authority", self._work / "authority.log", command=("authority",))
        serve = ("serve", "--authority", str(self._authority.data / "authority.json"))
        self._server = Server(self._work / "server", self._work / "server.log", command=serve)
        runtimes = cycle(device_runtimes().items())
        self._devices = [
            Device(owner, self._work / f"{task.words.owner}-{owner:02d}", python, runtime)
            for owner, (runtime, python) in zip(chosen, runtimes, strict=False)
        ]

    def run(self) -> None:
        """Convert, enrol, train, measure, report."""
        started_s = time.monotonic()
        bundle = self._convert()
        try:
            self._authority.start()
            self._server.start()
            self._enrol()
            self._train()
        finally:
            for device in self._devices:
                if device.running:
                    device.kill()
            self._server.stop()
            self._authority.stop()
        self._report(bundle, started_s)

    def _convert(self) -> Bundle:
        folder, task = self._work / "bundle", self._task
        say(f"Converting {task.name} with TensorFlow; the only step that needs it ...")
        options = ["--out", str(folder), *task.convert_options()]
        call([sys.executable, "-m", "tools.convert", task.factory, *options], "converting")
        bundle = read_bundle(folder)
        say(f"  {bundle.manifest.parameters} parameters, training step proven on the installed TFLite runtimes")
        plan = self._work / "plan.toml"
        plan.write_text(to_toml(self._plan), "utf-8")
        self._server.run("task", "create", "--bundle", str(folder), "--plan", str(plan))
        return bundle

    def _enrol(self) -> None:
        count, smallest, words = len(self._devices), self._plan.cohort.min_survivors, self._task.words
        aggregator = ("--url", f"https://127.0.0.1:{self._server.port}", "--root", str(self._server.data / "root.json"))
        created = self._authority.run("code", "create", "--task", self._plan.task, "--count", str(count), *aggregator)
        say(
            f"Enrolling {count} devices, one per {words.owner}, at a separate authority over TLS pinned by the code ..."
        )
        for device, code in zip(self._devices, created["codes"], strict=True):
            train, held_out = self._data.devices[device.owner]
            write_examples(device.folder / "examples", train, held_out)
            device.enrol(code, smallest)
            sizes = f"{train.y.size} {words.examples} to train on, {held_out.y.size} held out"
            say(f"  {self._name(device)}: {sizes}, {device.runtime}")
        for line in missing_classes(self._task, self._data):
            say(f"  note: {line}")
        say(
            f"Sums of {smallest} devices are allowed here (the default is 10) because the data set is small:"
            f" any {smallest - 1} of them together could compute the last one's update from the sum."
        )

    def _name(self, device: Device) -> str:
        return self._task.name_of(device.owner)

    def _train(self) -> None:
        self._killed, self._vanished = self._devices[0], self._devices[1]
        self._hit: list[Device] = []
        for device in self._devices:
            if device is self._killed and self._rounds >= KILLED_IN_ROUND:
                device.start(stop_in="shares-sent", in_round=KILLED_IN_ROUND)
            elif device is self._vanished and self._rounds >= VANISHED_IN_ROUND:
                device.start(stop_in="trained", in_round=VANISHED_IN_ROUND)
            else:
                device.start()
        self._watch()
        for device in self._devices:
            device.wait(ROUND_TIMEOUT_S)

    def _watch(self) -> None:
        """Follow the rounds until the task is done, and let the two accidents happen."""
        database = open_database(DataFolder(self._server.data))
        announced, changed_s = 0, time.monotonic()
        while True:
            with database.read() as connection:
                rounds = list_rounds(connection, self._plan.task)
                done = load_task(connection, self._plan.task).state == "done"
            for row in (row for row in rounds[announced:] if row["phase"] != "open"):
                self._announce(row)
                announced, changed_s = announced + 1, time.monotonic()
            # Before the end too: whoever vanished in the last round comes back for the final version.
            self._cause_accidents(announced)
            if done:
                break
            if time.monotonic() - changed_s > ROUND_TIMEOUT_S:
                raise FleetFailed("round-stuck", "No round closed for a long time.", f"read {self._server.log}")
            time.sleep(0.05)
        database.close()

    def _announce(self, row: Any) -> None:  # noqa: ANN401  # one round as the server shows it
        if row["phase"] != "closed":
            say(f"  round {row['round']} was abandoned: {row['reason']}")
            return
        judged = f"{row['correct']} of {row['evaluated']}" if row["evaluated"] else "none"
        if self._task.label_shape and row["evaluated"]:  # an example has several labels
            judged = f"{row['correct'] / row['evaluated']:.1%}"
        say(
            f"  round {row['round']:2d}: {row['survivors']} of {row['participants']} devices in the sum; their held-out"
            f" {self._task.words.examples}, summed under masks: {judged} right before this round"
        )

    def _cause_accidents(self, closed_rounds: int) -> None:
        """Kill the two agents once they have stopped; the second one comes back after the round it missed."""
        killed, vanished = self._killed, self._vanished
        if killed.marker.exists() and killed.process is not None and killed not in self._hit:
            self._hit.append(killed)
            killed.kill()
            say(f"  {self._name(killed)}'s agent: killed (SIGKILL) after it shared its keys in round {KILLED_IN_ROUND}")
            killed.start()
        if vanished.marker.exists() and vanished not in self._hit:
            self._hit.append(vanished)
            vanished.kill()
            say(f"  {self._name(vanished)}'s agent: vanished before joining in round {VANISHED_IN_ROUND}")
        if vanished in self._hit and closed_rounds >= VANISHED_IN_ROUND and not vanished.running:
            vanished.start()

    def _report(self, bundle: Bundle, started_s: float) -> None:
        say("Training the two baselines: each device alone, and everyone's data in one place ...")
        published = Published.read(self._server.data, self._plan.task)
        found = measure(
            self._work / "bundle",
            published,
            self._task,
            self._data,
            self._rounds,
            self._work / "measure.log",
        )
        scores, local, central = found.scores, found.local, found.central
        rows = self._rows(bundle, published, scores)
        final = {
            "accuracy_federated": scores[-1].accuracy,
            "accuracy_int8": found.int8.accuracy,
            "accuracy_local_only": local.accuracy[-1],
            "accuracy_centralised": central.accuracy[-1],
            "accuracy_participants_federated": scores[-1].accuracy_participants,
            "accuracy_participants_local_only": local.accuracy_participants[-1],
            "accuracy_participants_centralised": central.accuracy_participants[-1],
            "loss_federated": scores[-1].loss,
            "loss_int8": found.int8.loss,
            "loss_local_only": local.loss[-1],
            "loss_centralised": central.loss[-1],
            "loss_participants_federated": scores[-1].loss_participants,
            "loss_participants_local_only": local.loss_participants[-1],
            "loss_participants_centralised": central.loss_participants[-1],
        }
        report = {
            "task": self._plan.task,
            "devices": len(self._devices),
            "parameters": bundle.manifest.parameters,
            "rounds": rows,
            "final": final,
        }
        if found.texts:
            before, after = found.texts
            report["text"] = {"prompt": exhibits.PROMPT, "before": before, "after": after}
        own = self._own_models(local)
        if own:
            final |= means(own)
            report["own_models"] = [asdict(row) for row in own]
        write_json(REPORT / "report.json", report)
        self._draw(found)
        self._conclude(rows, final, started_s)
        if own:
            owner, examples = self._task.words.owner, self._task.words.examples
            whose = "the device" if owner == "device" else f"the {owner}'s device"
            say(
                f"\nOn each {owner}'s own held-out {examples}, right are: the federated model; a copy that {whose}"
                f" trained further by itself after the last round; and a model trained on that {owner}'s {examples}"
                f" alone from the start. A model of one's own does well at home; how it does elsewhere is said"
                f" above.\n{table(own)}"
            )
        if found.texts:
            say(
                f"\nAfter {exhibits.PROMPT!r} the int8 model wrote, before: {found.texts[0]!r}\n"
                f"and after: {found.texts[1]!r}"
            )

    def _own_models(self, local: Curve) -> list[OwnModels]:
        """Return what the devices say of the copies that they trained further, nothing if the plan has none."""
        if not self._plan.personalisation.epochs:
            return []
        statuses = [(device, device.status()["personal"]) for device in self._devices]
        return [
            of_device(self._name(device), personal, local.own[device.owner])
            for device, personal in statuses
            if personal and personal["count"]
        ]

    def _draw(self, found: Measured) -> None:
        task, words = self._task, self._task.words
        title = f"Task {task.name}: {len(self._devices)} devices, {self._rounds} rounds of masked sums"
        headings = (words.strangers[:1].upper() + words.strangers[1:], f"Held-out {words.examples} of those who did")

        def panels(name: str) -> tuple[Panel, Panel]:
            strangers, participants = (
                Panel(
                    heading,
                    [getattr(each, key) for each in found.scores],
                    getattr(found.local, key),
                    getattr(found.central, key),
                )
                for heading, key in zip(headings, (name, f"{name}_participants"), strict=True)
            )
            return strangers, participants

        draw(REPORT / "accuracy.png", panels("accuracy"), title, f"share of {words.examples} {words.solved}", 1)
        if task.label_shape:
            unit = f"nats per {words.example}"
            draw(REPORT / "loss.png", panels("loss"), title, unit, math.ceil(math.log(len(task.classes))))
        test, answers = self._data.test, found.int8.answers
        if task.exhibit == "confusion":
            exhibits.draw_confusion(REPORT / "confusion.png", test.y, answers, task.classes, f"Of {words.strangers}")
        elif task.exhibit == "strip":
            exhibits.draw_strip(REPORT / "examples.png", test, answers, task.classes, seed=1)

    def _rows(self, bundle: Bundle, published: Published, scores: Sequence[Score]) -> list[dict[str, Any]]:
        ledgers = [device.ledger() for device in self._devices]
        shown = self._server.run("task", "show", self._plan.task)
        rows, layout = [], Layout.of(bundle.manifest.tensors)
        for row in (row for row in shown["rounds"] if row["phase"] == "closed"):
            version = row["base_version"] + 1
            cost = round_bytes(ledgers, row["round"], self._plan, layout, published.weights_payload_bytes)
            found = scores[version]
            rows.append(
                {
                    "round": row["round"],
                    "version": version,
                    "participants": row["participants"],
                    "survivors": row["survivors"],
                    "accuracy": found.accuracy,
                    "accuracy_participants": found.accuracy_participants,
                    "loss": found.loss,
                    "loss_participants": found.loss_participants,
                    "bytes_up_per_device": cost.up,
                    "bytes_down_per_device": cost.down,
                    "overhead_bytes_up": cost.overhead_up,
                    "overhead_bytes_down": cost.overhead_down,
                    "seconds": row["closed_s"] - row["opened_s"],
                }
            )
        return rows

    def _conclude(self, rows: list[dict[str, Any]], final: dict[str, float], started_s: float) -> None:
        say(f"\n{TABLE_HEAD}")
        for row in rows:
            say(
                f"{row['round']:5d} {row['participants']:8d} {row['survivors']:10d} {row['accuracy']:9.3f}"
                f" {row['accuracy_participants']:13.3f} {row['loss']:7.3f} {row['bytes_up_per_device'] / 1000:7.1f}"
                f" {row['bytes_down_per_device'] / 1000:8.1f} {row['seconds']:8.1f}"
            )
        last, words = rows[-1], self._task.words
        article = "an" if words.example[0] in "aeiou" else "a"
        say(
            f"\n{len(self._devices)} devices taught one model without sharing {article} {words.example}."
            f" On {words.strangers},"
            f" it is right on {final['accuracy_federated']:.1%} of the {words.examples}, its int8 form on"
            f" {final['accuracy_int8']:.1%}; models trained on one device alone on"
            f" {final['accuracy_local_only']:.1%} on average, one trained on everyone's data in one place on"
            f" {final['accuracy_centralised']:.1%}. The losses are {final['loss_federated']:.3f},"
            f" {final['loss_int8']:.3f}, {final['loss_local_only']:.3f} and {final['loss_centralised']:.3f} nats per"
            f" {words.example}."
            f" Each round, each device sent {last['bytes_up_per_device'] / 1000:.1f} kB: one masked vector and the"
            f" keys, shares and signatures of secure aggregation. {words.examples.capitalize()}, labels, weights and"
            f" losses of a single"
            f" device never left it; only their masked sums became readable. Without noise (differential privacy),"
            f" the sums and the model may still tell something about the group."
        )
        say(f"{time.monotonic() - started_s:.0f} s. Report: {REPORT}/report.json and {REPORT}/*.png")


if __name__ == "__main__":
    sys.exit(main())
