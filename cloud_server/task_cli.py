"""``fedloom-server task``, ``audit`` and ``privacy``: what is learned, what was done, and what it cost."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, func, select

from cloud_server import audit
from cloud_server.api.context import Context
from cloud_server.app import open_existing
from cloud_server.audit import ANCHOR_FILE, Anchor
from cloud_server.cautions import cautions
from cloud_server.listening import read_text
from cloud_server.operators.accounts import AT_THE_MACHINE, By
from cloud_server.plan_text import toml_of
from cloud_server.privacy import paid_cohorts, privacy_report
from cloud_server.releases.catalogue import is_enough
from cloud_server.releases.keys import newest_key
from cloud_server.rounds.rounds import list_rounds
from cloud_server.rounds.stopping import stop_task
from cloud_server.settings import DataFolder
from cloud_server.storage.opening import open_blobs, open_database
from cloud_server.storage.schema import device
from cloud_server.storage.schema import task as task_table
from cloud_server.stored_numbers import stored_number
from cloud_server.tables import detail, facts, nothing, plain_lines, rounded, significant, table, took, when, word
from cloud_server.tasks import Task, create_task, load_task, newest_version, prepare_task, task_names
from shared.bundle import read_bundle
from shared.clock import SystemClock
from shared.errors import UsageError
from shared.layout import Layout
from shared.plan import Plan
from shared.wire.canonical import Json, decode

Add = Callable[[str, str, Callable[[argparse.Namespace], Json]], argparse.ArgumentParser]
_ROUNDS_SHOWN = 30
_MEASURED = frozenset({"evaluated", "correct", "loss_sum"})


def add_tasks(add: Add) -> None:
    """Declare the verbs of tasks; ``add`` makes a parser of a name, a sentence and what runs it."""
    create = add("create", "make a task from a bundle and a plan", _create)
    create.add_argument("--bundle", type=Path, required=True)
    create.add_argument("--plan", type=Path, required=True, help="TOML file")
    add("list", "list the tasks", _list)
    add("show", "show a task and its rounds", _show).add_argument("task")
    stop = add("stop", "end a task for good: no further round, what was published stays", _stop)
    stop.add_argument("task")
    stop.add_argument("--reason", default="", metavar="TEXT", help="for the audit log and the pages")


def add_audit(add: Add) -> None:
    """Declare the verb of the audit log."""
    listing = add("list", "list the audit log", _audit_list)
    listing.add_argument("--after", type=stored_number, default=0, metavar="N", help="only entries after number N")
    listing.add_argument("--last", type=stored_number, default=0, metavar="N", help="only the newest N entries")


def add_privacy(add: Add) -> None:
    """Declare the verb of budgets."""
    add("show", "show a task's privacy budget and what was spent of it", _privacy_show).add_argument("task")


def _create(arguments: argparse.Namespace) -> Json:
    if not arguments.plan.is_file():
        raise UsageError("no-plan", f"{arguments.plan} is not a file.", "give the plan's TOML file")
    plan = Plan.from_toml(read_text(arguments.plan, "utf-8", "bad-plan", "the plan as UTF-8 text"))
    bundle = read_bundle(arguments.bundle)
    folder = DataFolder.open(arguments.data)
    # Not the whole context: TLS files are made by the first serve, which knows the host name.
    database = open_database(folder, keep_connections=False)
    now_s = SystemClock().now_s()
    with database.read() as connection:
        key = newest_key(folder, connection)
    new = prepare_task(open_blobs(folder), bundle, plan, key, now_s)
    with database.write() as connection:
        create_task(connection, new, now_s)
    with database.read() as connection:
        Anchor(folder.path / ANCHOR_FILE).extend(connection)
    notes = cautions(plan, paid_cohorts(plan, Layout.of(bundle.manifest.tensors)))
    if not arguments.json:
        for note in notes:
            print(f"note: {plain_lines(note)}", file=sys.stderr)
    return {"task": plan.task, "notes": [*notes]} if arguments.json else facts([("task", plan.task)])


def _list(arguments: argparse.Namespace) -> Json:
    with open_database(DataFolder.existing(arguments.data), keep_connections=False).read() as connection:
        names = task_names(connection)
        if arguments.json:
            return {"tasks": list(names)}
        return _tasks_text(connection, arguments.data)


def _tasks_text(connection: Connection, data: Path) -> str:
    counts = select(device.c.task, func.count()).where(device.c.state == "active").group_by(device.c.task)
    devices = {row[0]: row[1] for row in connection.execute(counts)}
    stored = connection.execute(select(task_table).order_by(task_table.c.name)).all()
    if not stored:
        command = f"fedloom-server task create --bundle BUNDLE --plan PLAN.toml --data {data}"
        return nothing("There is no task yet.", command)
    rows = [
        (
            row.name,
            row.state,
            str(newest_version(connection, row.name)),
            str(devices.get(row.name, 0)),
            when(row.created_s),
            word(row.reason),
        )
        for row in stored
    ]
    return table(("task", "state", "version", "devices", "created", "why"), rows)


def _show(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        task = load_task(connection, arguments.task)
        newest, rounds = newest_version(connection, task.name), list_rounds(connection, task.name)
        if not arguments.json:
            return _task_text(task, newest, rounds)
        return {
            "task": task.name,
            "state": task.state,
            "reason": task.reason,
            "version": newest,
            "plan": decode(task.plan.to_bytes()),
            "rounds": [_suppressed(one, task.plan.cohort.min_survivors) for one in rounds],
        }


def _suppressed(one: dict[str, Json], fewest: int) -> dict[str, Json]:
    """Leave out what so few devices measured that it tells of single ones."""
    return one if is_enough(one, fewest) else {name: value for name, value in one.items() if name not in _MEASURED}


def _stop(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    with parts.recorded() as connection:
        stop_task(connection, arguments.task, arguments.reason.strip(), By(AT_THE_MACHINE, parts.clock.now_s()))
        stored = load_task(connection, arguments.task)
    return {"task": stored.name, "state": stored.state, "reason": stored.reason}


def _task_text(task: Task, newest: int, rounds: list[dict[str, Json]]) -> str:
    state = f"{task.state}: {task.reason}" if task.reason else task.state
    lines = [facts([("task", task.name), ("state", state), ("version", str(newest)), ("rounds", str(len(rounds)))])]
    lines += ["", "plan (what differs from the defaults)"]
    lines += [f"  {line}" if line else "" for line in plain_lines(toml_of(task.plan)).rstrip("\n").split("\n")]
    if not rounds:
        return "\n".join([*lines, "", nothing("No round has begun.", "a round opens once `fedloom-server serve` runs")])
    shown = rounds[-_ROUNDS_SHOWN:]
    if len(shown) < len(rounds):
        lines += ["", f"the last {len(shown)} of {len(rounds)} rounds; --json has all"]
    head = ("round", "state", "from", "invited", "members", "in sum", "accuracy", "loss", "opened", "took", "why")
    fewest = task.plan.cohort.min_survivors
    return "\n".join([*lines, "", table(head, [_round_row(one, fewest) for one in shown])])


def _round_row(one: dict[str, Json], fewest: int) -> list[str]:
    opened, closed = one["opened_s"], one["closed_s"]
    count = float(str(one.get("evaluated") or 0))
    if float(str(one.get("survivors") or 0)) < fewest:
        count = 0.0  # of so few devices pages show nothing either
    seconds = None if closed is None else float(str(closed)) - float(str(opened))
    return [
        str(one["round"]),
        word(one["phase"]),
        str(one["base_version"]),
        word(one["invited"]),
        word(one.get("participants")),
        word(one.get("survivors")),
        rounded(float(str(one["correct"])) / count if count else None),
        rounded(float(str(one["loss_sum"])) / count if count else None),
        when(opened),
        took(seconds),
        word(one["reason"]),
    ]


def _audit_list(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        after: int = arguments.after
        if arguments.last:
            after = max(after, audit.head(connection).number - arguments.last)
        if arguments.json:
            return {"entries": list(audit.entries(connection, after=after))}
        return _audit_text(parts, connection, after)


def _audit_text(parts: Context, connection: Connection, after: int) -> str:
    rows = [
        (
            str(one["number"]),
            when(float(str(one["at_ms"])) / 1000),
            str(one["actor"]),
            str(one["action"]),
            str(one["subject"]),
            detail(one["detail"]),
        )
        for one in audit.entries(connection, after=after)
    ]
    if not rows:
        what = f"There is no entry after number {after}." if after else "Nothing was done yet."
        return nothing(what, f"every change is written here: fedloom-server audit list --data {parts.folder.path}")
    return table(("number", "time", "who", "did", "to", "detail"), rows)


def _privacy_show(arguments: argparse.Namespace) -> Json:
    parts = open_existing(arguments.data)
    with parts.database.read() as connection:
        report = privacy_report(connection, load_task(connection, arguments.task).plan)
    return report if arguments.json else _privacy_text(arguments.task, report)


def _privacy_text(task: str, report: dict[str, Json]) -> str:
    if report["mechanism"] == "none":
        line = "no noise is added: the server sees sums over cohorts only, and claims no epsilon"
        return facts([("task", task), ("mechanism", "none")]) + "\n\n" + line
    spent = f"{significant(report['epsilon'])} of {significant(report['max_epsilon'])}"
    return facts(
        [
            ("task", task),
            ("mechanism", word(report["mechanism"])),
            ("noise multiplier", significant(report["noise_multiplier"])),
            ("epsilon spent", f"{spent}, at delta {significant(report['delta'])}"),
            ("cohorts charged", word(report["cohorts_charged"])),
            ("participations", f"{report['max_participations']} per device at most"),
        ]
    )
