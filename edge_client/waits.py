"""Why the server lets a device wait, in words."""

from __future__ import annotations

from typing import Final

from shared.wire.messages import Reason

WAITS_FOR: Final[dict[Reason, str]] = {
    "": "the server has no work for this device",
    "no-round": "the server has no round open for it",
    "joined": "it is in the cohort that forms; with an update that a stopped process lost, it waits for the next one",
    "declined": "it will not take part in this round, see its ledger",
    "round-full": "enough other devices were asked for this round",
    "other-group": "the task is for devices of other groups",
    "too-little-memory": "the task needs more memory than this device has",
    "contributions-used": "it has contributed as often as the plan allows",
    "too-soon": "it contributed not long ago, and the plan keeps a distance",
}
