"""Every error that a person or another program may meet: whose fault it is, and what to do next.

One class per kind of remedy, one stable ``code`` per cause. The code is the contract (it travels in problem
details, in ``--json`` output and in logs); the message is for people and may change.
"""

from __future__ import annotations

from http import HTTPStatus


class FedloomError(Exception):
    """Base of all errors with a name.

    Args:
        code: stable, lower-case, hyphenated name of the cause.
        message: what happened and why, with expected and got values, never a secret.
        remedy: what the reader can do about it.
    """

    exit_code = 1
    http_status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]" + (f" Try: {self.remedy}" if self.remedy else "")

    def to_json(self) -> dict[str, str]:
        """Return the fields of CLI errors under ``--json``: code, message, try."""
        return {"code": self.code, "message": self.message, "try": self.remedy}


class UsageError(FedloomError):
    """The caller's input is wrong: an option, a file, a field of a plan."""

    exit_code = 2
    http_status = HTTPStatus.BAD_REQUEST


class Refused(FedloomError):
    """A rule forbids it, and repeating it will not help."""

    exit_code = 3
    http_status = HTTPStatus.FORBIDDEN


class Unauthenticated(Refused):
    """The request does not prove who sent it."""

    http_status = HTTPStatus.UNAUTHORIZED


class Missing(Refused):
    """What was asked for does not exist, or not for the asker."""

    http_status = HTTPStatus.NOT_FOUND


class Conflict(Refused):
    """It contradicts what is already recorded; the record stays."""

    http_status = HTTPStatus.CONFLICT


class TryLater(FedloomError):
    """Nothing is wrong; the moment is. The same call may succeed later."""

    exit_code = 4
    http_status = HTTPStatus.SERVICE_UNAVAILABLE


class TooManyRequests(TryLater):
    """The asker is to come back later; nothing was done, and the very same request may be sent again.

    Args:
        message: what there is too much of.
        retry_after_ms: the earliest time at which that may have changed.
        remedy: what the reader can do about it.
    """

    http_status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, message: str, retry_after_ms: int, remedy: str = "") -> None:
        super().__init__("too-many-requests", message, remedy)
        self.retry_after_ms = retry_after_ms


class BundleError(UsageError):
    """A model bundle cannot be used, or a model cannot be converted into one."""


class ProtocolAbort(Refused):
    """Secure aggregation stops on this device: going on could reveal its update.

    No message of the abandoned session may be sent after this.
    """


class UnmaskingFailed(FedloomError):
    """The aggregator could not recover a cohort's sum; there is no output."""


class BrokenState(FedloomError):
    """State on this machine is damaged: a journal, a key file, a database row."""
