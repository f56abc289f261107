"""The model card of a version: what it is, where it comes from, how it does and what it cost; as JSON and Markdown."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, select

from cloud_server.plan_text import toml_of
from cloud_server.privacy import privacy_report
from cloud_server.releases.catalogue import is_enough, measurements, shown_evaluations, uses_of
from cloud_server.rounds.releasing import plan_of
from cloud_server.rounds.rounds import list_rounds
from cloud_server.storage.blobs import BlobStore
from cloud_server.storage.schema import version
from cloud_server.tables import plain
from cloud_server.tasks import load_bundle, load_task, release_of
from shared.bundle import PROOF_FILE
from shared.plan import Plan
from shared.release import parse_release
from shared.wire.canonical import decode, encode

Card = dict[str, Any]


def model_card(connection: Connection, blobs: BlobStore, task_name: str, number: int) -> Card:
    """Return what is known of a version; a number that nobody measured is None.

    Raises:
        Missing: ``task-unknown``, ``version-unknown``.
    """
    task = load_task(connection, task_name)
    body, _ = release_of(connection, task_name, number)
    release, (manifest, files) = parse_release(body), load_bundle(blobs, task)
    query = select(version.c.created_s).where(version.c.task == task_name, version.c.number == number)
    plan = plan_of(connection, task_name, number)
    rounds = [one for one in list_rounds(connection, task_name) if int(str(one["base_version"])) < number]
    uses, fewest = uses_of(connection, task_name), plan.cohort.min_survivors
    return {
        "task": task_name,
        "version": number,
        "created_s": connection.execute(query).scalar_one(),
        "use": None if uses is None else uses.get(number),
        "model": {
            "name": manifest.name,
            "parameters": manifest.parameters,
            "inputs": [{"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in manifest.inputs],
            "loss": manifest.loss,
            "metric": manifest.metric,
            "tools": dict(manifest.tools),
            "licence": None,  # bundles have no such field
        },
        "files_bytes": {name: entry.size_bytes for name, entry in sorted(release.files.items())},
        "speed": _speed(files.get(PROOF_FILE)),
        "evaluation": measurements(connection, task_name).get(number),
        "releases": [one for one in shown_evaluations(connection, task_name, fewest) if one["version"] == number],
        "history": [_round(dict(one), fewest) for one in rounds if one["phase"] != "open"],
        "privacy": privacy_report(connection, plan),
        "plan": decode(plan.to_bytes()),
    }


def _speed(proof: bytes | None) -> list[dict[str, Any]]:
    """Return what the conversion measured, on the machine that converted."""
    if proof is None:
        return []
    kept = ("name", "version", "step_ms", "infer_ms", "ram_bytes")
    return [{key: one[key] for key in kept if key in one} for one in json.loads(proof)["runtimes"]]


def _round(one: dict[str, Any], fewest: int) -> dict[str, Any]:
    count = (one.get("evaluated") or 0) if is_enough(one, fewest) else 0
    return {
        "round": one["round"],
        "from_version": one["base_version"],
        "outcome": one["phase"],
        "reason": one["reason"],
        "participants": one.get("participants"),
        "survivors": one.get("survivors"),
        "examples_evaluated": count,
        "accuracy": one["correct"] / count if count else None,
        "loss": one["loss_sum"] / count if count else None,
    }


def card_text(card: Card) -> str:
    """Return a card as Markdown."""
    model, found = card["model"], card["evaluation"]
    lines = [f"# {model['name']}, version {card['version']} of {card['task']}", ""]
    lines += [f"{model['parameters']:,} parameters; loss {model['loss']}, metric {model['metric']}."]
    lines += [f"Licence: {model['licence'] or 'not stated in the bundle'}.", "", "## How it does", ""]
    lines += [_measured(found, model["metric"]), ""]
    for one in card["releases"]:
        word = "passed" if one["passed"] else "failed"
        lines.append(f"- release stage {one['stage']} beside version {one['before']}: {word}, {plain(one['reason'])}")
    lines += ["", "## Size and speed", "", "| file | bytes |", "|---|---|"]
    lines += [f"| {name} | {size:,} |" for name, size in card["files_bytes"].items()]
    lines += ["", *(_runtime(one) for one in card["speed"])]
    if not card["speed"]:
        lines.append("No speed was measured: the bundle has no proof.json.")
    lines += ["", "## Training", "", "| round | from | members | counted | accuracy before | loss before | outcome |"]
    lines += ["|---|---|---|---|---|---|---|", *(_round_row(one) for one in card["history"])]
    privacy = card["privacy"]
    lines += ["", "## Privacy", "", _privacy(privacy), "", "## Plan", "", "What differs from the defaults:"]
    lines += ["", "```toml", toml_of(Plan.from_bytes(encode(card["plan"]))).rstrip("\n"), "```"]
    return "\n".join(lines)


def _measured(found: Card | None, metric: str) -> str:
    if not found:
        return "No devices have evaluated this version yet."
    accuracy = f"accuracy {found['accuracy']:.4f}, " if metric == "accuracy" else ""
    return f"{accuracy}loss {found['loss']:.4f} on {found['examples']} held-out examples of {found['devices']} devices."


def _runtime(one: Card) -> str:
    parts = [
        f"{one[key]:.2f} ms {word}"
        for key, word in (("step_ms", "a training step"), ("infer_ms", "an inference"))
        if key in one
    ]
    return f"- {one['name']} {one['version']}: {', '.join(parts)}, where it was converted"


def _round_row(one: Card) -> str:
    cells = [one["round"], one["from_version"], one["participants"], one["survivors"]]
    cells += [None if one[key] is None else f"{one[key]:.4f}" for key in ("accuracy", "loss")]
    outcome = plain(one["outcome"] + (f": {one['reason']}" if one["reason"] else "")).replace("|", "\\|")
    return "| " + " | ".join("-" if cell is None else str(cell) for cell in [*cells, outcome]) + " |"


def _privacy(privacy: Card) -> str:
    if privacy["mechanism"] == "none":
        return "Secure aggregation alone: no noise, hence no bound on what sums and models reveal."
    return (
        f"{privacy['mechanism']}: epsilon {privacy['epsilon']:.3g} of {privacy['max_epsilon']:g} at delta"
        f" {privacy['delta']:g} was spent by the whole task in {privacy['cohorts_charged']} cohorts."
    )
