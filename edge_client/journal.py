"""The device's own record, written before every action, so that a power cut never makes it do a thing twice.

One row is one contribution: one training and what became of its update, or one evaluation of two versions and what
became of its counts, which goes through the same states. The keys of a session live in memory only. Whatever a process
left unfinished is therefore closed when the next one starts: it can never mask again under those keys, and an update of
which a byte may have left is spent. One that was sealed before, and of which none has left, goes back to ``trained``.

    training -> trained -> joining -> joined -> sharing -> shares-sent -> uploading -> vector-sent
             -> agreeing -> agreed -> answering -> answered -> counted | not-counted

``...ing`` is written before a message is sent, the state after it once the server has acknowledged it. Before
``uploading`` the way may lead back to ``trained`` (another cohort); from everywhere to ``abandoned`` or ``refused``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from edge_client.journal_file import adopt_id, open_journal
from edge_client.journal_sealed import SealedRow
from edge_client.traffic import Traffic
from shared.decision import Decision, parse_decision
from shared.errors import FedloomError, ProtocolAbort
from shared.privacy.floors import Loss
from shared.release_key import ReleaseKey
from shared.wire.signed import Certificate

SIGNED_TIME: Final = "signed-time-s"  # the name of the latest time in anything that the server signed
COUNTER_BLOCK: Final = 1000  # counters reserved by one write


class State(StrEnum):
    """How far a contribution has come."""

    TRAINING = "training"
    TRAINED = "trained"
    JOINING = "joining"
    JOINED = "joined"
    SHARING = "sharing"
    SHARES_SENT = "shares-sent"
    UPLOADING = "uploading"
    VECTOR_SENT = "vector-sent"
    AGREEING = "agreeing"
    AGREED = "agreed"
    ANSWERING = "answering"
    ANSWERED = "answered"
    COUNTED = "counted"
    NOT_COUNTED = "not-counted"
    ABANDONED = "abandoned"
    REFUSED = "refused"


_ORDER: Final = tuple(State)
TERMINAL: Final = frozenset({State.COUNTED, State.NOT_COUNTED, State.ABANDONED, State.REFUSED})


Record = Callable[[State], None]  # puts the contribution in hand into a state


@dataclass(frozen=True)
class Contribution:
    """One row: one training and what became of its update.

    Attributes:
        id: of the row.
        round_number: the round.
        version: that training started from.
        cohort: the last cohort that was joined, empty before.
        state: how far it came.
        reason: the code of what stopped it, empty otherwise.
        vector_sent: whether a byte of the masked vector may have left.
        seconds_training: how long training took.
        traffic: bytes on its behalf.
        training_failed: the code with which training failed, empty if it did not: its part of the sum was zero.
        baseline: the version that ``version`` was compared with, None for a training; ``round_number`` is the
            promotion's then.
    """

    id: int
    round_number: int
    version: int
    cohort: str
    state: State
    reason: str
    vector_sent: bool
    seconds_training: float
    traffic: Traffic
    training_failed: str
    baseline: int | None = None


def may_follow(before: State, after: State) -> bool:
    """Say whether a contribution in state ``before`` may get into state ``after``."""
    if before in TERMINAL:
        return False
    if after in {State.ABANDONED, State.REFUSED}:
        return True
    if after is State.TRAINED:
        return _ORDER.index(before) < _ORDER.index(State.UPLOADING)
    if after is State.NOT_COUNTED:
        return before is State.ANSWERED
    return _ORDER.index(after) == _ORDER.index(before) + 1


class Journal:
    """The record in ``path``, which enrolment made.

    Args:
        path: of the file.
        journal_id: that enrolment gave it, None where it gave none.

    Raises:
        BrokenState: ``journal-damaged``, from every method.
    """

    def __init__(self, path: Path, journal_id: str | None) -> None:
        self._file = open_journal(path, journal_id)
        self._run = self._file.run
        self.sealed = SealedRow(self._file.run)
        self._next_counter = self._last_counter = 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def adopt_id(self, journal_id: str) -> str:
        """Take ``journal_id``, made before journals had one, and return it or the one that there is already."""
        return adopt_id(self._file, journal_id)

    def get(self, name: str) -> str | None:
        """Return a remembered value."""
        rows = self._run("SELECT value FROM meta WHERE name = ?", name)
        return rows[0][0] if rows else None

    def put(self, name: str, value: str) -> None:
        """Remember a value."""
        self._run("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value)

    @property
    def release_key(self) -> ReleaseKey | None:
        """The last key that the authority certified for releases, None for the root document's."""
        kept = json.loads(self.get("release-key") or "null")
        return None if kept is None else ReleaseKey(kept["number"], bytes.fromhex(kept["public_key"]))

    def trust(self, key: ReleaseKey) -> None:
        """Remember a verified release key; those before it are worth nothing from now on."""
        self.put("release-key", json.dumps({"number": key.number, "public_key": key.public_key.hex()}))

    def next_counter(self) -> int:
        """Return a number larger than any before, also before a power cut; a block is reserved at a time."""
        if self._next_counter >= self._last_counter:
            first = int(self.get("counter") or "1")
            self._next_counter, self._last_counter = first, first + COUNTER_BLOCK
            self.put("counter", str(self._last_counter))
        counter = self._next_counter
        self._next_counter += 1
        return counter

    def no_earlier_than_signed(self, now_s: float) -> float:
        """Return ``now_s``, or the latest time that the server signed where a clock is behind that."""
        return max(now_s, float(self.get(SIGNED_TIME) or 0.0))

    @property
    def decision(self) -> Decision | None:
        """The release decision that this device follows, None before the first."""
        kept = self.get("decision")
        return None if kept is None else parse_decision(kept.encode())

    def follow(self, decision: Decision) -> None:
        """Remember a verified decision; older ones are refused from now on."""
        self.put("decision", decision.to_bytes().decode())

    @property
    def highest_version(self) -> int:
        """The newest version that this device ever used; older ones are refused."""
        return int(self.get("highest-version") or "0")

    def use_version(self, version: int) -> None:
        """Remember that ``version`` is about to be used."""
        self.put("highest-version", str(max(version, self.highest_version)))

    def recover(self, now_s: float) -> list[Contribution]:
        """Close what an earlier process left unfinished, or let its update wait, and return it as it was."""
        unfinished = [row for row in self.contributions() if row.state not in TERMINAL]
        waiting = self.sealed.waiting
        for row in unfinished:
            if waiting is None or row.id != waiting.entry:
                self.record(row.id, State.ABANDONED, now_s, reason="process-ended")
            elif row.state is not State.TRAINED or not row.reason:
                self.record(row.id, State.TRAINED, now_s, reason="process-ended")
        return unfinished

    def begin(self, round_number: int, version: int, now_s: float, baseline: int | None = None) -> int:
        """Open a contribution in state ``training`` and return its id; with ``baseline``, an evaluation."""
        rows = self._run(
            "INSERT INTO contribution (round, version, state, started_at_s, changed_at_s) VALUES (?, ?, ?, ?, ?)"
            " RETURNING id",
            round_number,
            version,
            State.TRAINING,
            now_s,
            now_s,
        )
        entry = int(rows[0][0])
        if baseline is not None:
            self._run("INSERT INTO evaluation VALUES (?, ?)", entry, baseline)
        return entry

    def record(
        self,
        entry: int,
        state: State,
        now_s: float,
        *,
        cohort: str | None = None,
        reason: str = "",
        seconds_training: float | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        """Put a contribution into ``state``; on the disk when this returns.

        Raises:
            FedloomError: ``bad-transition``, which only a mistake in this program can cause.
        """
        before = self.contribution(entry)
        if not may_follow(before.state, state):
            raise FedloomError("bad-transition", f"A contribution cannot go from {before.state} to {state}.")
        if traffic is not None:
            before.traffic.add(traffic)
        self._run(
            "UPDATE contribution SET state = ?, cohort = ?, reason = ?, vector_sent = ?, seconds_training = ?,"
            " traffic = ?, changed_at_s = ? WHERE id = ?",
            state,
            before.cohort if cohort is None else cohort,
            reason,
            before.vector_sent or state is State.UPLOADING,
            before.seconds_training if seconds_training is None else seconds_training,
            json.dumps(before.traffic.to_json()),
            now_s,
            entry,
        )

    def contribution(self, entry: int) -> Contribution:
        """Return one contribution."""
        return next(row for row in self.contributions(entry) if row.id == entry)

    def contributions(self, first: int = 0) -> list[Contribution]:
        """Return every contribution from row ``first`` on, oldest first."""
        rows = self._run(
            "SELECT id, round, version, cohort, state, reason, vector_sent, seconds_training, traffic, code, baseline"
            " FROM contribution LEFT JOIN failed_training ON contribution.id = failed_training.contribution"
            " LEFT JOIN evaluation ON contribution.id = evaluation.contribution"
            " WHERE id >= ? ORDER BY id",
            first,
        )
        return [_contribution(*row) for row in rows]

    def vector_left(self, version: int) -> bool:
        """Say whether a byte of a masked update that started from ``version`` may have left."""
        query = (
            "SELECT 1 FROM contribution WHERE version = ? AND vector_sent = 1"
            " AND id NOT IN (SELECT contribution FROM evaluation) LIMIT 1"
        )
        return bool(self._run(query, version))

    def note_failed_training(self, entry: int, code: str) -> None:
        """Write down that a contribution is of zeros, and why."""
        self._run("INSERT OR REPLACE INTO failed_training VALUES (?, ?)", entry, code)

    def see_certificates(self, certificates: Sequence[Certificate]) -> None:
        """Remember the serials of other members' certificates.

        Raises:
            ProtocolAbort: ``old-certificate`` for one that is older than one that was seen before: its key counts no
                more, and an aggregator that shows it may hold it.
        """
        known = dict(self._run("SELECT device, serial FROM peer"))
        for certificate in certificates:
            if certificate.serial < known.get(certificate.device, 0):
                raise ProtocolAbort(
                    "old-certificate",
                    f"The certificate of {certificate.device} is number {certificate.serial + 1}, but number"
                    f" {known[certificate.device] + 1} was seen before.",
                    "tell the operator: a key that was replaced is in use",
                )
        newer = [one for one in certificates if one.serial > known.get(one.device, 0)]
        for certificate in newer:
            self._run("INSERT OR REPLACE INTO peer VALUES (?, ?)", certificate.device, certificate.serial)

    def evaluation_left(self, version: int) -> bool:
        """Say whether a byte of a masked evaluation of this version may have left."""
        query = (
            "SELECT 1 FROM contribution JOIN evaluation ON contribution.id = evaluation.contribution"
            " WHERE version = ? AND vector_sent = 1 LIMIT 1"
        )
        return bool(self._run(query, version))

    def charge(self, entry: int, loss: Loss, delta: float, mechanism: str) -> None:
        """Write down what a contribution will have revealed once its vector left; in the place of an earlier cohort.

        Args:
            entry: of the contribution.
            loss: see ``loss_of``.
            delta: of the plan.
            mechanism: of the plan: it says whose noise limits the loss.
        """
        self._run(
            "INSERT OR REPLACE INTO privacy_charge (contribution, loss, delta, mechanism) VALUES (?, ?, ?, ?)",
            entry,
            json.dumps(loss),
            delta,
            mechanism,
        )

    def spent(self) -> list[Loss]:
        """Return the loss of every contribution of which a byte may have left; empty where it has no bound."""
        rows = self._run(
            "SELECT loss FROM contribution LEFT JOIN privacy_charge ON contribution.id = privacy_charge.contribution"
            " WHERE vector_sent = 1 ORDER BY id"
        )
        return [tuple(json.loads(row[0] or "[]")) for row in rows]

    @property
    def sums_are_noised(self) -> bool:
        """Whether devices themselves put noise into every sum that this one took part in.

        Charges of before said nothing of a mechanism; the aggregator may have added their noise.
        """
        return not self._run(
            "SELECT 1 FROM contribution LEFT JOIN privacy_charge ON contribution.id = privacy_charge.contribution"
            " WHERE vector_sent = 1 AND coalesce(mechanism, '') != 'skellam' LIMIT 1"
        )

    @property
    def delta(self) -> float | None:
        """At which epsilon is stated: the smallest of any plan that charged, None before."""
        return self._run("SELECT min(delta) FROM privacy_charge")[0][0]  # type: ignore[no-any-return]  # sqlite3's

    @property
    def other_traffic(self) -> Traffic:
        """Bytes that belong to no contribution."""
        return Traffic(**json.loads(self.get("other-traffic") or "{}"))

    def add_other_traffic(self, traffic: Traffic) -> None:
        """Add bytes that belong to no contribution."""
        total = self.other_traffic
        total.add(traffic)
        self.put("other-traffic", json.dumps(total.to_json()))


def _contribution(
    entry: int,
    round_number: int,
    version: int,
    cohort: str,
    state: str,
    reason: str,
    vector_sent: int,
    seconds_training: float,
    traffic: str,
    training_failed: str | None,
    baseline: int | None,
) -> Contribution:
    return Contribution(
        entry,
        round_number,
        version,
        cohort,
        State(state),
        reason,
        bool(vector_sent),
        seconds_training,
        Traffic(**json.loads(traffic)),
        training_failed or "",
        baseline,
    )
