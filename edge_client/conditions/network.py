"""Whether a connection is metered, as NetworkManager says it (nm-device.h, ``NMMetered``)."""

from __future__ import annotations

from typing import Final

from edge_client.conditions.heat import Run

NMCLI: Final = ("nmcli", "-t", "-f", "GENERAL.STATE,GENERAL.METERED", "device", "show")
_ACTIVATED: Final = "100"


def read_metered(run: Run) -> bool | None:
    """Return whether one of the connections in use is metered; None where nobody says.

    ``yes (guessed)`` counts as metered: it is how NetworkManager tells phones that share their connection.
    """
    metered, active, told = False, False, False
    for line in (run(NMCLI) or "").splitlines():
        name, _, value = line.partition(":")
        if name == "GENERAL.STATE":
            active = value.split(" ")[0] == _ACTIVATED
        if name == "GENERAL.METERED" and active and value.split(" ")[0] in {"yes", "no"}:
            told, metered = True, metered or value.startswith("yes")
    return metered if told else None
