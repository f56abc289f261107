"""What people write on a command line: texts that can be stored and shown, reasons as short as the page's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shared.errors import UsageError
from shared.limits import MAX_REASON_CHARACTERS

_REASON: Final = "reason"


def require_texts(options: Mapping[str, object]) -> None:
    """Refuse words that are no text, and reasons that are a story; paths may be any bytes.

    Raises:
        UsageError: ``not-utf8``, ``long-reason``.
    """
    for name, value in options.items():
        if isinstance(value, str) and not _is_text(value):
            raise UsageError(
                "not-utf8",
                f"The {name.replace('_', ' ')} has bytes that are not UTF-8.",
                "write it in a UTF-8 terminal",
            )
    reason = options.get(_REASON)
    if isinstance(reason, str) and len(reason) > MAX_REASON_CHARACTERS:
        raise UsageError(
            "long-reason",
            f"The reason has {len(reason)} characters, {MAX_REASON_CHARACTERS} are the most.",
            "say it shorter; the audit log keeps it for ever",
        )


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
