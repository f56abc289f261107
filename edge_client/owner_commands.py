"""What the owner's commands do; ``status`` and ``pause`` begin at once, without NumPy."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from dataclasses import asdict, replace
from math import inf
from typing import Any

from edge_client.conditions.pause import Pause, lift_pause, read_pause, write_pause
from edge_client.demands import demanded, warning
from edge_client.identity import load_enrolment, save_enrolment
from edge_client.sealed_files import drop_update, withdraw_update
from edge_client.settings_file import SettingsFile
from edge_client.state_folder import StateFolder
from edge_client.status import status as status_of
from edge_client.status_text import status_text
from edge_client.texts import LANGUAGES, Language, language_of, system_local_time, time_text
from shared.clock import SystemClock
from shared.errors import Refused, UsageError

TO_DO_EXIT_CODE = Refused.exit_code


def status(arguments: argparse.Namespace) -> None:
    """Show how this device stands."""
    folder = StateFolder(arguments.state)
    report = status_of(folder)
    file = SettingsFile.of(folder, arguments.config)
    report["settings"] = {"file": str(file.path), "error": _error_of(file)}
    if (waiting := report["waiting"]) and not report["settings"]["error"]:
        at_most_s = file.read().train.sealed_update_at_most_s
        ends_s = inf if at_most_s is None else waiting["made_at_s"] + at_most_s
        waiting["expires_at_s"] = min(waiting["expires_at_s"], ends_s)
    if arguments.json:
        print(json.dumps(report))
        return
    print(status_text(report, language(arguments)))
    if error := report["settings"]["error"]:
        _say(f"{error['message']} [{error['code']}] Try: {error['try']}")


def _error_of(file: SettingsFile) -> dict[str, str] | None:
    try:
        file.read()
    except UsageError as error:
        return error.to_json()
    return None


def pause(arguments: argparse.Namespace) -> None:
    """Pause, or end a pause."""
    folder, now_s = StateFolder(arguments.state), SystemClock().now_s()
    enrolment = load_enrolment(folder)
    if arguments.off:
        lift_pause(folder.pause_file)
        _say("The agent works again.")
    else:
        seconds = inf if arguments.duration_s is None else arguments.duration_s
        write_pause(folder.pause_file, Pause(now_s, seconds))
        until = "until `fedloom-agent pause --off`" if seconds == inf else f"until {_local(now_s + seconds)}"
        _say(f"The agent pauses {until}; a cohort that it is in already is brought to its end.")
    if arguments.drop_update:
        dropped = withdraw_update(folder, enrolment.journal_id, now_s)
        _say("The trained update that waited is destroyed." if dropped else "No trained update waits.")
    if arguments.json:
        kept = read_pause(folder.pause_file)
        until_s = None if kept is None or kept.until_s == inf else kept.until_s
        print(json.dumps({"paused": kept is not None, "until_s": until_s}))


def allow(arguments: argparse.Namespace) -> None:
    """Change what is demanded of plans."""
    folder = StateFolder(arguments.state)
    with folder.lock():  # a running agent has read them
        enrolment = load_enrolment(folder)
        floors, privacy_floors = demanded(arguments, enrolment.floors, enrolment.privacy_floors)
        save_enrolment(folder, replace(enrolment, floors=floors, privacy_floors=privacy_floors))
    if text := warning(floors):
        _say(text)
    demands = {**asdict(floors), **asdict(privacy_floors)}
    if arguments.json:
        print(json.dumps({"demands": demands}))
    else:
        print("\n".join(f"{name.ljust(max(map(len, demands)))}  {value}" for name, value in demands.items()))


def config(arguments: argparse.Namespace) -> None:
    """Show every setting, or set one."""
    folder = StateFolder(arguments.state)
    file = SettingsFile.of(folder, arguments.config)
    if arguments.change:
        words = arguments.change
        if words[0] != "set" or len(words) != 3:
            raise UsageError("usage", f"config {' '.join(words)} is no command.", "fedloom-agent config set KEY VALUE")
        if arguments.config is None:
            folder.create()
        if not file.change(words[1], words[2]):
            _say("Its comments were not kept: the file was written in a form in which single lines cannot be changed.")
        _say(f"{words[1]} is set in {file.path}; a running agent follows within 5 s.")
    rows = file.report()
    if arguments.json:
        print(json.dumps({"file": str(file.path), "settings": rows}))
    elif not arguments.change:
        print("\n".join(_setting(row) for row in rows))


def _setting(row: dict[str, Any]) -> str:
    value, default = _value(row["value"]), _value(row["default"])
    origin = "default" if row["from"] == "default" else f"{row['from']}; default {default}"
    unit = f" {row['unit']}" if row["unit"] and value != "off" else ""
    return f"{row['key']:<46} {value}{unit}  ({origin})\n    {row['about']}: {row['allowed']}"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, int | float) else str(value) or '""'


def reset(arguments: argparse.Namespace) -> None:
    """Forget downloaded models."""
    folder = StateFolder(arguments.state)
    journal_id = load_enrolment(folder).journal_id
    if not arguments.yes:
        raise UsageError(
            "not-confirmed",
            f"This deletes the models in {folder.path}, which are fetched again: applications have none until then."
            " Key, journal, settings and what was trained of local tensors stay.",
            "add --yes to do it",
        )
    with folder.lock():
        drop_update(folder, journal_id, SystemClock().now_s(), "reset-by-owner")
        freed = folder.forget_models()
        importlib.import_module("edge_client.published").clear_published(folder)
    size = f"{freed / 1e6:.1f} megabytes"
    _say(f"The models in {folder.path} are deleted ({size}); the next check-in fetches what is in use.")
    if arguments.json:
        print(json.dumps({"freed_bytes": freed}))


def doctor(arguments: argparse.Namespace) -> int:
    """Check everything, and say what is to be done."""
    checks = importlib.import_module("edge_client.doctor")
    folder, say = StateFolder(arguments.state), language(arguments)
    found = checks.examine(folder, SettingsFile.of(folder, arguments.config), SystemClock())
    print(json.dumps(checks.to_json(found)) if arguments.json else checks.to_text(found, say))
    return TO_DO_EXIT_CODE if any(check.state == "todo" for check in found) else 0


def data(arguments: argparse.Namespace) -> int:
    """Describe the examples."""
    describing = importlib.import_module("edge_client.describing")
    found = describing.describe(load_enrolment(StateFolder(arguments.state)).examples, SystemClock().now_s())
    print(json.dumps(found) if arguments.json else describing.to_text(found))
    return TO_DO_EXIT_CODE if found["wrong"] else 0


def language(arguments: argparse.Namespace) -> Language:
    """Return the language that a command was asked for, or the environment's."""
    return LANGUAGES[arguments.lang] if arguments.lang else language_of(os.environ)


def _local(time_s: float) -> str:
    return time_text(time_s, system_local_time)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
