"""What the commands of ``fedloom-agent`` do that need the whole agent."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from edge_client import agent, departure, enrolment, report
from edge_client.conditions.asked import Conditions
from edge_client.conditions.keeper import Keeper, Owner
from edge_client.conditions.probes import Probes, run_program
from edge_client.demands import demanded, warning
from edge_client.identity import load_enrolment
from edge_client.journal import Journal
from edge_client.notify import take_notifier
from edge_client.published import clear_published
from edge_client.sealed_files import SealedFiles
from edge_client.settings_file import SettingsFile
from edge_client.state_folder import StateFolder
from edge_client.supervised import Supervised, wait_for_enrolment, working_words
from edge_client.texts import system_local_time
from edge_client.turns import take_turns
from shared.clock import Clock, SystemClock
from shared.errors import FedloomError, UsageError
from shared.privacy.floors import PrivacyFloors
from shared.secagg.floors import DeviceFloors

_SYSTEM = SystemClock()


class Stopped(BaseException):
    """The process was asked to end."""


def enroll(arguments: argparse.Namespace) -> None:
    """Redeem a code."""
    signal.signal(signal.SIGTERM, _stop)
    floors, privacy_floors = demanded(arguments, DeviceFloors(), PrivacyFloors())
    enrolled = enrolment.enrol(
        arguments.code,
        StateFolder(arguments.state),
        arguments.examples,
        floors=floors,
        privacy_floors=privacy_floors,
        name=arguments.name,
        renew_key_days=arguments.renew_key_days,
        models=arguments.models,
        clock=SystemClock(),
        random_bytes=os.urandom,
        jitter=random.random,
    )
    if text := warning(floors):
        say(text)
    say(f"Enrolled in {enrolled.task} as {enrolled.device}.")
    if arguments.json:
        print(json.dumps({"device": enrolled.device, "task": enrolled.task}))


def once(arguments: argparse.Namespace) -> None:
    """Contribute once."""
    signal.signal(signal.SIGTERM, _stop)
    folder = StateFolder(arguments.state)
    with agent.open_agent(folder, log=say, conditions=conditions_of(folder, arguments.config, say)) as working:
        row = working.once()
    if row is None:
        say("The task is done; nothing was contributed.")
    if arguments.json:
        print(json.dumps({"contribution": report.contribution_report(row) if row else None}))


def renew(arguments: argparse.Namespace) -> None:
    """Renew the key."""
    signal.signal(signal.SIGTERM, _stop)
    with agent.open_agent(StateFolder(arguments.state), log=say) as working:
        certificate = working.renew_key(arguments.renew_key_days)
    if arguments.json:
        print(json.dumps({"device": certificate.device, "serial": certificate.serial}))


def run(arguments: argparse.Namespace) -> None:
    """Contribute until it is stopped."""
    signal.signal(signal.SIGTERM, _stop)
    folders = [StateFolder(path) for path in dict.fromkeys(path.resolve() for path in arguments.state)]
    supervised = Supervised(take_notifier(os.environ, os.getpid(), time.monotonic), SystemClock(), time.monotonic)
    with ExitStack() as opened:
        opened.callback(supervised.stopping)
        if arguments.wait_for_enrolment:
            wait_for_enrolment(folders, supervised, say)
        agents = []
        for folder in folders:
            log = _log_of(folder, folders)
            conditions = supervised.conditions(conditions_of(folder, arguments.config, log, clock=supervised.clock))
            working = agent.open_agent(folder, log=log, clock=supervised.clock, conditions=conditions)
            agents.append(opened.enter_context(working))
        supervised.up(lambda: working_words(folders))
        take_turns(agents, supervised.clock, say, exit_when_done=arguments.exit_when_done)
    if arguments.json:
        for folder in folders:
            print(json.dumps(report.status(folder)))


def conditions_of(
    folder: StateFolder,
    config: Path | None,
    log: Callable[[str], None],
    root: Path = Path("/"),
    clock: Clock = _SYSTEM,
) -> Callable[[Journal], Conditions]:
    """Return what makes the conditions of this machine, by the settings of its owner.

    Args:
        folder: the agent's state.
        config: the file of settings that the command was given.
        log: takes one line per event.
        root: below which /proc and /sys are.
        clock: the time, and how to wait.
    """

    def conditions(journal: Journal) -> Conditions:
        owner = Owner(SettingsFile.of(folder, config), folder.pause_file)
        machine = Probes(root, run_program, time.monotonic, os.cpu_count() or 1)
        return Keeper(owner, machine, journal, clock, time.monotonic, system_local_time, log)

    return conditions


def _log_of(folder: StateFolder, folders: Sequence[StateFolder]) -> Callable[[str], None]:
    """Return what tells lines of one of several tasks apart."""
    if len(folders) == 1:
        return say
    task = load_enrolment(folder).task
    return lambda text: say(f"{task}: {text}")


def ledger(arguments: argparse.Namespace) -> None:
    """Show what left this device."""
    result = report.ledger(StateFolder(arguments.state))
    print(json.dumps(result) if arguments.json else report.ledger_text(result))


def leave(arguments: argparse.Namespace) -> None:
    """Tell the server, and delete this device's key and state; or only write down what to tell."""
    folder = StateFolder(arguments.state)
    if not (folder.key_file.exists() or folder.enrolment_file.exists()):
        load_enrolment(folder)
    if arguments.prepare:
        with folder.lock():
            departure.write_departure(folder)
        return
    if not arguments.yes:
        raise UsageError("not-confirmed", f"This deletes the key in {folder.path} for good.", "add --yes to do it")
    with folder.lock():
        SealedFiles(folder).destroy()
        told = _told(folder)
        clear_published(folder)
        folder.erase()
    rest = "; other files in it were left alone" if folder.path.exists() else ""
    say(f"This device's state in {folder.path} is deleted{rest}; the server keeps the contributions that it has.")
    if arguments.json:
        print(json.dumps({"told": told}))


def _told(folder: StateFolder) -> bool:
    """Tell the server that this device leaves, and say what came of it."""
    try:
        departure.tell_server(folder)
    except FedloomError as error:
        say(f"The server was not told ({error.code}): ask the operator to revoke {_name_of(folder)}.")
        return False
    say("The server was told, and takes nothing in this device's name any more.")
    return True


def _name_of(folder: StateFolder) -> str:
    try:
        return load_enrolment(folder).device
    except FedloomError:
        return "this device"


def say(text: str) -> None:
    """Tell a person something."""
    print(text, file=sys.stderr, flush=True)


def _stop(_number: int, _frame: object) -> NoReturn:
    raise Stopped
