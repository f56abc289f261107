"""Where the converter calls what may raise anything: TensorFlow, Keras, and the model's own code."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shared.errors import BundleError, FedloomError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST = 300  # characters


@contextmanager
def naming(code: str, what: str, remedy: str) -> Iterator[None]:
    """Turn every exception into one BundleError: ``what``, then the reason in a line.

    An error that already has a name stays as it is, also where TensorFlow has wrapped it; so does an interruption.

    Raises:
        BundleError: with ``code`` and ``remedy``.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if own := _own(error):
            raise own from None
        raise BundleError(code, f"{what}: {reason(error)}", remedy) from error


def _own(error: BaseException | None) -> FedloomError | None:
    """Return the error with a name that led to ``error``; AutoGraph replaces errors whose classes it does not know."""
    while error is not None:
        if isinstance(error, FedloomError):
            return error
        error = error.__cause__ or error.__context__
    return None


def reason(error: BaseException) -> str:
    """Return what happened in one line: Keras says first where, then what, in bold; AutoGraph says it last."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    if lines and lines[0].startswith("in user code"):
        named = [index for index, line in enumerate(lines) if re.match(r"\w+(Error|Exception): ", line)]
        lines = lines[named[-1] :] if named else lines[-1:]
    text = " ".join(lines[:2])[:_LONGEST]
    kind = type(error).__name__
    if isinstance(error, (SystemExit, KeyError)) or not text:
        return f"{kind} {text}".strip()
    return text
