"""The journal's row about a trained update that waits for a cohort: one at most, until a byte of it may have left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

# Whether it may still be used is read from its contribution: that is put into ``uploading`` or an end by one write.
_WAITING: Final = (
    "SELECT contribution, round, version, state, reason, made_for, made_at_s, expires_at_s, bytes, withdrawn"
    " FROM sealed_update JOIN contribution ON contribution.id = sealed_update.contribution"
    " WHERE vector_sent = 0 AND state NOT IN ('counted', 'not-counted', 'abandoned', 'refused')"
)


@dataclass(frozen=True)
class Waiting:
    """A trained update that waits.

    Attributes:
        entry: the contribution whose it is.
        round_number: in which it was trained, or tried last.
        version: that training started from.
        state: of the contribution.
        reason: the code of what kept it from its last cohort, empty before or in one.
        made_for: SHA-256 over the hashes of plan and model, in hexadecimal.
        made_at_s: seconds since the epoch.
        expires_at_s: by the plan, and by what the owner had set when it was made.
        octets: on the disk.
        withdrawn: 1 once the owner took it back, else 0.
    """

    entry: int
    round_number: int
    version: int
    state: str
    reason: str
    made_for: str
    made_at_s: float
    expires_at_s: float
    octets: int
    withdrawn: int


class SealedRow:
    """The row; ``run`` executes one statement."""

    def __init__(self, run: Callable[..., list[Any]]) -> None:
        self._run = run

    @property
    def waiting(self) -> Waiting | None:
        """The update that waits, None where none does, or a byte of it may have left."""
        rows = self._run(_WAITING)
        return Waiting(*rows[0]) if rows else None

    def keep(self, entry: int, made_for: str, made_at_s: float, expires_at_s: float, octets: int) -> None:
        """Let the update of a contribution wait, in the place of one before; its files are on the disk already."""
        self._run(
            "INSERT OR REPLACE INTO sealed_update VALUES (0, ?, ?, ?, ?, ?, 0)",
            entry,
            made_for,
            made_at_s,
            expires_at_s,
            octets,
        )

    def resume(self, entry: int, round_number: int) -> None:
        """Let what waits take part in a later round of its version."""
        self._run("UPDATE contribution SET round = ? WHERE id = ? AND vector_sent = 0", round_number, entry)

    def withdraw(self) -> bool:
        """Let nothing of the update that waits be sent any more, and say whether there is one."""
        waiting = self.waiting
        if waiting is not None:
            self._run("UPDATE sealed_update SET withdrawn = 1 WHERE contribution = ?", waiting.entry)
        return waiting is not None
