"""How `run` lets what supervises it see that it works: a clock and conditions with which the agent breathes.

Each wait, batch, piece and request is a sign that its work goes on, see ``notify``. Nothing is wrapped without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from edge_client.conditions.asked import Conditions
from edge_client.journal import Journal
from edge_client.notify import Notifier
from edge_client.permits import Permits
from edge_client.state_folder import StateFolder
from edge_client.status import status
from edge_client.texts import English
from shared.clock import Clock
from shared.errors import FedloomError

LOOK_FOR_ENROLMENT_S = 2.0

_SHORTEST_PIECE_S = 0.01


class BreathingClock:
    """A clock that waits in pieces.

    Args:
        clock: the time.
        notifier: is told between pieces.
        elapsed_s: a clock that is never set.
    """

    def __init__(self, clock: Clock, notifier: Notifier, elapsed_s: Callable[[], float]) -> None:
        self._clock = clock
        self._notifier = notifier
        self._elapsed_s = elapsed_s

    def now_s(self) -> float:
        """Return seconds since the Unix epoch."""
        return self._clock.now_s()

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``."""
        end_s = self._elapsed_s() + seconds
        self._notifier.breathe()
        while (left_s := end_s - self._elapsed_s()) > 0:
            self._clock.sleep(min(left_s, max(_SHORTEST_PIECE_S, self._notifier.breathe_again_s())))
            self._notifier.breathe()


class BreathingConditions:
    """The conditions of ``inner``; whoever asks them is at work."""

    def __init__(self, inner: Conditions, breathe: Callable[[], None]) -> None:
        self._inner = inner
        self._breathe = breathe

    @property
    def permits(self) -> Permits:
        """What a transport asks."""
        inner = self._inner.permits
        return Permits(
            self._first(inner.transfer), self._first(inner.download), self._first(inner.piece), self._first(inner.up)
        )

    @property
    def sealed_update_s(self) -> float:
        """For how long the owner lets a trained update wait for a cohort."""
        return self._inner.sealed_update_s

    def hold_s(self) -> float | None:
        """Return how long to wait before asking again, None if the agent may go on."""
        self._breathe()
        return self._inner.hold_s()

    def require(self) -> None:
        """Go on only if the agent may; raises ``NotNow``."""
        self._breathe()
        self._inner.require()

    def require_transfer(self, octets: int) -> None:
        """Go on only if so many bytes may still be moved today; raises ``NotNow``."""
        self._breathe()
        self._inner.require_transfer(octets)

    def before_batch(self) -> None:
        """Wait between two batches for as long as this device may not train; raises ``NotNow``."""
        self._breathe()
        self._inner.before_batch()

    def before_joining(self) -> None:
        """Wait before a cohort is asked for, for as long as this device may not work; raises ``NotNow``."""
        self._breathe()
        self._inner.before_joining()

    def goes_on(self) -> None:
        """Be told that work goes on."""
        self._breathe()

    def training(self) -> AbstractContextManager[None]:
        """Count what is trained in the block."""
        return self._inner.training()

    def close(self) -> None:
        """Nothing more is spent."""
        self._inner.close()

    def _first(self, permit: Callable[[int], None]) -> Callable[[int], None]:
        def asked(octets: int) -> None:
            self._breathe()
            permit(octets)

        return asked


class Supervised:
    """One process of `run`.

    Args:
        notifier: the way to what supervises it, None where nothing does.
        clock: the time.
        elapsed_s: a clock that is never set.
    """

    def __init__(self, notifier: Notifier | None, clock: Clock, elapsed_s: Callable[[], float]) -> None:
        self._notifier = notifier
        self.clock = clock if notifier is None else BreathingClock(clock, notifier, elapsed_s)

    def conditions(self, inner: Callable[[Journal], Conditions]) -> Callable[[Journal], Conditions]:
        """Return what makes conditions that breathe."""
        notifier = self._notifier
        if notifier is None:
            return inner
        return lambda journal: BreathingConditions(inner(journal), notifier.breathe)

    def up(self, words: Callable[[], str]) -> None:
        """Say that the process is up, and how it stands from now on."""
        if self._notifier is not None:
            self._notifier.ready()
            self._notifier.say(words)

    def stopping(self) -> None:
        """Say that it ends."""
        if self._notifier is not None:
            self._notifier.stopping()


def wait_for_enrolment(folders: Sequence[StateFolder], supervised: Supervised, log: Callable[[str], None]) -> None:
    """Stay idle until each of ``folders`` has an enrolment."""
    missing = [folder for folder in folders if not folder.enrolment_file.exists()]
    if not missing:
        return
    told = _unenrolled(missing[0])
    log(told)
    supervised.up(lambda: told)
    while missing:
        supervised.clock.sleep(LOOK_FOR_ENROLMENT_S)
        missing = [folder for folder in missing if not folder.enrolment_file.exists()]


def working_words(folders: Sequence[StateFolder]) -> str:
    """Return how agents stand, in the words of ``status``."""
    return "; ".join(_standing(folder) for folder in folders)


def _unenrolled(folder: StateFolder) -> str:
    return English("status.unenrolled", state=folder.path)


def _standing(folder: StateFolder) -> str:
    try:
        told = status(folder)
    except FedloomError as error:
        return str(error)
    return f"{told['task']}: {English('status.training')}: {told['why_not_training'] or English('status.yes')}"
