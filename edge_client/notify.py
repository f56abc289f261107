"""Tells systemd how the agent does: that it is up, in words, that it goes on, and that it stops; see sd_notify(3).

Nothing here runs by itself. ``breathe`` is called where the agent's work goes on: while it waits, between batches and
between pieces of what is moved. Work that hangs breathes no more, and systemd's watchdog then ends the process.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Final

STATUS_EVERY_S: Final = 5.0  # at most, as it is read from the journal
_SEND_TIMEOUT_S: Final = 1.0
_MAX_STATUS_CHARACTERS: Final = 1000
_BEATS: Final = 4  # in the time after which the watchdog bites


class Notifier:
    """One process's way to what supervises it.

    Args:
        address: of a datagram socket: a path, or ``@`` and an abstract name.
        watchdog_s: seconds without a sign of life after which the process is ended, None for no watchdog.
        elapsed_s: a clock that is never set.
    """

    def __init__(self, address: str, watchdog_s: float | None, elapsed_s: Callable[[], float]) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._every_s = None if watchdog_s is None else watchdog_s / _BEATS
        self._elapsed_s = elapsed_s
        self._words: Callable[[], str] = str
        self._told = ""
        self._beat_s = self._status_s = float("-inf")  # when each was last sent, or looked at

    @property
    def watched(self) -> bool:
        """Whether signs of life are expected."""
        return self._every_s is not None

    def say(self, words: Callable[[], str]) -> None:
        """Ask ``words`` for the status from now on, and tell it at once."""
        self._words, self._status_s = words, float("-inf")
        self.breathe()

    def ready(self) -> None:
        """Say that the process is up."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Say that it is on its way down."""
        self._send("STOPPING=1")

    def breathe(self) -> None:
        """Say that work goes on, where that is due, and the status where it changed."""
        now_s = self._elapsed_s()
        if self._every_s is not None and now_s - self._beat_s >= self._every_s:
            self._beat_s = now_s
            self._send("WATCHDOG=1")
        if now_s - self._status_s >= STATUS_EVERY_S:
            self._status_s = now_s
            told = " ".join(self._words().split())[:_MAX_STATUS_CHARACTERS]
            if told != self._told:
                self._told = told
                self._send(f"STATUS={told}")

    def breathe_again_s(self) -> float:
        """Return in how many seconds there is something to say."""
        status_s = self._status_s + STATUS_EVERY_S
        due_s = status_s if self._every_s is None else min(status_s, self._beat_s + self._every_s)
        return max(0.0, due_s - self._elapsed_s())

    def _send(self, line: str) -> None:
        # Who supervises may be gone, or not read; that is no reason to stop.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.settimeout(_SEND_TIMEOUT_S)
            end.sendto(line.encode(), self._address)


def take_notifier(
    environment: MutableMapping[str, str], process: int, elapsed_s: Callable[[], float]
) -> Notifier | None:
    """Return the way to what supervises this process, None where nothing does.

    Args:
        environment: of the process; the variables are taken out of it, as they are not for its children.
        process: its number.
        elapsed_s: a clock that is never set.
    """
    address = environment.pop("NOTIFY_SOCKET", "")
    watchdog_us, whose = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
    if not address.startswith(("/", "@")):
        return None
    watched = watchdog_us.isascii() and watchdog_us.isdigit() and int(watchdog_us) and whose in {"", str(process)}
    return Notifier(address, int(watchdog_us) / 1e6 if watched else None, elapsed_s)
