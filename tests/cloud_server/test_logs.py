"""One event is one line, whatever is in it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from cloud_server import logs

HOSTILE: Final = 'a\nb\r\n{"level":"error"}\x1b[2J\u2028\u202e\x00\x85\ud800\''


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    """Forget a request whose answer another test did not read to its end."""
    token = logs.request_id.set("")
    yield
    logs.request_id.reset(token)


def record(message: str, *values: object, **extra: object) -> logging.LogRecord:
    return logging.getLogger("fedloom.test").makeRecord(
        "fedloom.test", logging.INFO, __file__, 1, message, values, None, extra=logs.fields(**extra)
    )


def test_people_read_one_line() -> None:
    line = logs.TextLines().format(record("said %s", HOSTILE))
    assert line.isprintable()
    assert line.endswith("\\x00\\x85\\ud800'")
    assert " fedloom.test INFO said a\\nb" in line


def test_programs_read_one_object() -> None:
    line = logs.JsonLines().format(record("said %s", HOSTILE, code=HOSTILE, status=4))
    assert line.isascii()
    assert line.isprintable()
    read = json.loads(line)
    assert read.pop("time").endswith("Z")
    said = f"said {HOSTILE}"
    assert read == {"level": "info", "logger": "fedloom.test", "message": said, "code": HOSTILE, "status": 4}


def test_the_request_is_named_while_it_is_answered() -> None:
    token = logs.request_id.set("request-0")
    try:
        assert json.loads(logs.JsonLines().format(record("x")))["request_id"] == "request-0"
        assert logs.TextLines().format(record("x")).endswith("x (request-0)")
    finally:
        logs.request_id.reset(token)
    assert "request_id" not in json.loads(logs.JsonLines().format(record("x")))


@pytest.mark.parametrize("form", [logs.JsonLines(), logs.TextLines()])
def test_of_an_error_the_kind_and_the_place_are_logged_and_not_the_text(form: logging.Formatter) -> None:
    entry = record("failed")
    try:
        int("0123456789-secret")
    except ValueError:
        entry.exc_info = sys.exc_info()
    text = form.format(entry)
    assert "test_logs.py" in text
    assert "secret" not in text
    assert ("\n    " in text) == isinstance(form, logs.TextLines)
