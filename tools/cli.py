"""The ``fedloom`` command: one table of subcommands, each loaded when it is asked for."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.command_line import CommandParser
from shared.errors import FedloomError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Command:
    """A subcommand: its module has ``register(parser)`` and ``run(arguments) -> exit code``."""

    name: str
    help: str
    module: str


COMMANDS = (
    Command("convert", "turn a TensorFlow model into a bundle that trains on devices", "tools.convert.command"),
    Command("task", "make a task from a model and a folder of examples", "tools.task.command"),
    Command("keras", "write a version's weights into the Keras model it was made from", "tools.keras_file.command"),
    Command("inspect", "show what is in a bundle and what a training step costs here", "tools.inspection.command"),
    Command("bench", "measure, each figure beside its reference", "tools.bench.command"),
    Command("load", "put an aggregator under the load of many devices", "tools.load.command"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 2 usage, 3 refused, 4 try later, 1 our fault."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except FedloomError as error:
        if "--json" in words:
            print(json.dumps({"error": error.to_json()}))
        else:
            print(f"fedloom: {error}", file=sys.stderr)
        return error.exit_code


def _run(words: list[str]) -> int:
    parser = CommandParser(prog="fedloom", description="Federated learning for edge devices.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=CommandParser)
    chosen = None
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.help, description=command.help)
        if words[:1] == [command.name]:
            chosen = importlib.import_module(command.module)
            chosen.register(subparser)
    arguments = parser.parse_args(words)
    if chosen is None:
        raise UsageError("usage", f"fedloom: no command before {words[0]}", "fedloom --help")
    return int(chosen.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
