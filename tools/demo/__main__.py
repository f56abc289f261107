"""``python -m tools.demo``: run the main job once, as its users would, and write ``demo-report/``."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from cloud_server.rounds.rounds import list_rounds
from cloud_server.storage.database import Database
from cloud_server.storage.schema import metadata
from cloud_server.tasks import load_task
from models.activity import TaskData
from models.registry import Task, get_task
from shared.bundle import Bundle, read_bundle
from shared.errors import FedloomError, UsageError
from shared.examples import write_examples
from shared.layout import Layout
from shared.plan import Plan
from tools.demo.measure import Published, Score, measure, round_bytes, write_json
from tools.demo.plan_file import for_demo, to_toml
from tools.demo.plot import draw
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
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args(argv)
    try:
        Demo(get_task(arguments.task), arguments.devices, arguments.rounds).run()
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
        devices: how many people take part.
        rounds: how many rounds are planned.
    """

    def __init__(self, task: Task, devices: int, rounds: int) -> None:
        most = len(task.owners) - len(task.test_owners)
        if not 3 <= devices <= most:  # two devices learn each other's update
            raise UsageError("demo-devices", f"DEVICES is {devices}, the data set allows 3 to {most}.")
        if rounds < 1:
            raise UsageError("demo-rounds", f"ROUNDS is {rounds}, at least 1 is needed.")
        self._task = task
        self._rounds = rounds
        self._work = REPORT / "work"
        shutil.rmtree(REPORT, ignore_errors=True)
        self._work.mkdir(parents=True)
        data = task.load(task.test_owners)
        chosen = dict(list(data.devices.items())[:devices])
        self._data = TaskData(chosen, data.test)
        self._plan = for_demo(Plan.from_toml(task.plan.read_text("utf-8")), devices, rounds)
        self._server = Server(self._work / "server", self._work / "server.log")
        runtimes = cycle(device_runtimes().items())
        self._devices = [
            Device(owner, self._work / f"person-{owner:02d}", python, runtime)
            for owner, (runtime, python) in zip(chosen, runtimes, strict=False)
        ]

    def run(self) -> None:
        """Convert, enrol, train, measure, report."""
        started_s = time.monotonic()
        bundle = self._convert()
        try:
            self._server.start()
            self._enrol()
            self._train()
        finally:
            for device in self._devices:
                if device.running:
                    device.kill()
            self._server.stop()
        self._report(bundle, started_s)

    def _convert(self) -> Bundle:
        folder, task = self._work / "bundle", self._task
        say(f"Converting {task.name} with TensorFlow; the only step that needs it ...")
        options = ["--out", str(folder), "--batch-size", str(task.batch_size), "--loss", task.loss]
        call([sys.executable, "-m", "tools.convert", task.factory, *options], "converting")
        bundle = read_bundle(folder)
        say(f"  {bundle.manifest.parameters} parameters, training step proven on the installed TFLite runtimes")
        plan = self._work / "plan.toml"
        plan.write_text(to_toml(self._plan), "utf-8")
        self._server.run("task", "create", "--bundle", str(folder), "--plan", str(plan))
        return bundle

    def _enrol(self) -> None:
        count, smallest = len(self._devices), self._plan.cohort.min_survivors
        created = self._server.run("code", "create", "--task", self._plan.task, "--count", str(count))
        say(f"Enrolling {count} devices, one per person, with one-time codes over TLS pinned by the code ...")
        for device, code in zip(self._devices, created["codes"], strict=True):
            train, held_out = self._data.devices[device.owner]
            write_examples(device.folder / "examples", train, held_out)
            device.enrol(code, smallest)
            sizes = f"{len(train)} windows to train on, {len(held_out)} held out"
            say(f"  person {device.owner:2d}: {sizes}, {device.runtime}")
        say(
            f"Sums of {smallest} devices are allowed here (the default is 10) because the data set is small:"
            f" any {smallest - 1} of them together could compute the last one's update from the sum."
        )

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
        database = Database(self._server.data / "server.db", metadata)
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
        say(
            f"  round {row['round']:2d}: {row['survivors']} of {row['participants']} devices in the sum; their held-out"
            f" windows, summed under masks: {judged} right before this round"
        )

    def _cause_accidents(self, closed_rounds: int) -> None:
        """Kill the two agents once they have stopped; the second one comes back after the round it missed."""
        killed, vanished = self._killed, self._vanished
        if killed.marker.exists() and killed.process is not None and killed not in self._hit:
            self._hit.append(killed)
            killed.kill()
            say(
                f"  person {killed.owner}'s agent: killed (SIGKILL) after it shared its keys in round {KILLED_IN_ROUND}"
            )
            killed.start()
        if vanished.marker.exists() and vanished not in self._hit:
            self._hit.append(vanished)
            vanished.kill()
            say(f"  person {vanished.owner}'s agent: vanished before joining in round {VANISHED_IN_ROUND}")
        if vanished in self._hit and closed_rounds >= VANISHED_IN_ROUND and not vanished.running:
            vanished.start()

    def _report(self, bundle: Bundle, started_s: float) -> None:
        say("Training the two baselines: each device alone, and everyone's data in one place ...")
        published = Published.read(self._server.data, self._plan.task)
        found = measure(
            self._work / "bundle",
            published,
            self._data.devices,
            self._data.test,
            self._rounds,
            self._work / "measure.log",
        )
        scores, local, central = found.scores, found.local, found.central
        rows = self._rows(bundle, published, scores)
        final = {
            "accuracy_federated": scores[-1].accuracy,
            "accuracy_int8": found.int8,
            "accuracy_local_only": local.accuracy[-1],
            "accuracy_centralised": central.accuracy[-1],
            "accuracy_participants_federated": scores[-1].accuracy_participants,
            "accuracy_participants_local_only": local.accuracy_participants[-1],
            "accuracy_participants_centralised": central.accuracy_participants[-1],
        }
        report = {
            "task": self._plan.task,
            "devices": len(self._devices),
            "parameters": bundle.manifest.parameters,
            "rounds": rows,
            "final": final,
        }
        write_json(REPORT / "report.json", report)
        draw(
            REPORT / "accuracy.png",
            [each.accuracy for each in scores],
            [each.accuracy_participants for each in scores],
            local,
            central,
            f"Task {self._plan.task}: {len(self._devices)} devices, {self._rounds} rounds of masked sums",
        )
        self._conclude(rows, final, started_s)

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
        last = rows[-1]
        strangers = ", ".join(str(owner) for owner in self._task.test_owners)
        say(
            f"\n{len(self._devices)} devices taught one model without sharing a window. On people {strangers}, who"
            f" never took part, it is right on {final['accuracy_federated']:.1%} of the windows, its int8 form on"
            f" {final['accuracy_int8']:.1%}; models trained on one device alone on"
            f" {final['accuracy_local_only']:.1%} on average, one trained on everyone's data in one place on"
            f" {final['accuracy_centralised']:.1%}."
            f" Each round, each device sent {last['bytes_up_per_device'] / 1000:.1f} kB: one masked vector and the"
            f" keys, shares and signatures of secure aggregation. Windows, labels, weights and losses of a single"
            f" device never left it; only their masked sums became readable. Without noise (differential privacy),"
            f" the sums and the model may still tell something about the group."
        )
        say(f"{time.monotonic() - started_s:.0f} s. Report: {REPORT}/report.json and {REPORT}/accuracy.png")


if __name__ == "__main__":
    sys.exit(main())
