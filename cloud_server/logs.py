"""What the processes log: one event a line, for people or as JSON, and nothing that a stranger could break it with."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
import traceback
from contextvars import ContextVar
from typing import Final

LOG_VARIABLE: Final = "FEDLOOM_LOG"  # tells child processes of the form; --log of the commands sets it
FORMS: Final = ("text", "json")
request_id: ContextVar[str] = ContextVar("request_id", default="")  # of the request that is answered, if any


def set_up_logging() -> None:
    """Log to standard error, without secrets, in the form that ``LOG_VARIABLE`` names."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if os.environ.get(LOG_VARIABLE) == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    sys.excepthook = _failed


def _failed(kind: type[BaseException], error: BaseException, _frames: object) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        logging.getLogger("fedloom").critical("the process failed: %s", kind.__name__, extra=where(error))


def choose_form(form: str) -> None:
    """Log in a form of ``FORMS`` from now on, in this process and its children."""
    os.environ[LOG_VARIABLE] = form
    set_up_logging()


def where(error: BaseException) -> dict[str, object]:
    """Return ``extra`` for a log call: the kind of an error and where it was raised, never its text.

    The text might quote what a device sent.
    """
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    return fields(error=type(error).__name__, frames=frames)


def fields(**values: object) -> dict[str, object]:
    """Return ``extra`` for a log call whose values become fields of the JSON line."""
    return {"fields": values}


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, request_id, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        return json.dumps(line | _fields_of(record), default=str)


class TextLines(logging.Formatter):
    """Time, logger, level and message; below it, indented, where an error was raised."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(name)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines."""
        stamp = self.formatTime(record)
        line = f"{stamp} {record.name} {record.levelname} {_printable(record.getMessage())}"
        if request_id.get():
            line += f" ({request_id.get()})"
        frames = _fields_of(record).get("frames", [])
        return "\n    ".join([line, *(_printable(str(frame)) for frame in frames)])  # type: ignore[attr-defined]  # a list


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    own: dict[str, object] = getattr(record, "fields", {})
    if record.exc_info and record.exc_info[1] is not None:  # a library's own
        own = own | where(record.exc_info[1])["fields"]  # type: ignore[operator]  # made by fields()
    return own


def _printable(text: str) -> str:
    """Return ``text`` on one line, with what could move a terminal's cursor escaped."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
