"""Mistyped command lines of all three programs: named, with what was meant, and never taken for something else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from cloud_server.cli import main as server
from edge_client.cli import main as agent
from tools.cli import main as tools

Main = Callable[[Sequence[str] | None], int]


@pytest.mark.parametrize(
    ("main", "words", "message", "remedy"),
    [
        (server, "task lst --data x", "fedloom-server task has no 'lst'.", "did you mean list?"),
        (server, "tsk", "fedloom-server has no 'tsk'.", "did you mean task?"),
        (server, "task list --dta x", "fedloom-server task list has no option --dta.", "did you mean --data?"),
        (server, "task list --dat=x", "fedloom-server task list has no option --dat.", "did you mean --data?"),
        (server, "task", "The following arguments are required: VERB.", "fedloom-server task --help"),
        (server, "code list --state opn --data x", "--state cannot be 'opn'.", "did you mean open?"),
        (agent, "stauts --state x", "fedloom-agent has no 'stauts'.", "did you mean status?"),
        (agent, "status --stat x", "fedloom-agent status has no option --stat.", "did you mean --state?"),
        (agent, "run --state x --q", "Unrecognized arguments: --q.", "fedloom-agent run --help"),
        (agent, "status --state x -- --stat", "Unrecognized arguments: -- --stat.", "fedloom-agent status --help"),
        (tools, "bench pge", "fedloom bench has no 'pge'.", "did you mean page?"),
        (tools, "bench page --jsn x", "fedloom bench has no option --jsn.", "did you mean --json?"),
    ],
)
def test_a_slip_is_named_with_what_was_meant(
    main: Main, words: str, message: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.split(), "--json"] if "--" not in words.split() else ["--json", *words.split()]) == 2
    found = json.loads(capsys.readouterr().out)["error"]
    assert found == {"code": "usage", "message": message, "try": remedy}
