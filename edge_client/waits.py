"""Why the server lets a device wait, in words."""

from __future__ import annotations

from typing import Final, get_args

from edge_client.texts import English
from shared.wire.messages import Reason

WAITS_FOR: Final[dict[Reason, str]] = {reason: English(f"wait.{reason}") for reason in get_args(Reason)}
