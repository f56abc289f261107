"""What an operator may do: a viewer looks, an operator changes devices, codes and tasks, an admin also accounts."""

from __future__ import annotations

from typing import Final, Literal, get_args

from shared.errors import Refused, UsageError

Role = Literal["viewer", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)  # in the order of what they may do


def require_role(text: str) -> Role:
    """Return the role that ``text`` names.

    Raises:
        UsageError: ``bad-role``.
    """
    for role in ROLES:
        if role == text:
            return role
    raise UsageError("bad-role", f"{text!r} is no role.", f"give one of {', '.join(ROLES)}")


def allows(role: Role, needed: Role) -> bool:
    """Say whether who has ``role`` may do what needs ``needed``."""
    return ROLES.index(role) >= ROLES.index(needed)


def lower(first: Role, second: Role) -> Role:
    """Return the role of the two that may do less."""
    return min(first, second, key=ROLES.index)


def require(role: Role, needed: Role) -> None:
    """Refuse who may not do what needs ``needed``.

    Raises:
        Refused: ``role-too-low``.
    """
    if not allows(role, needed):
        raise Refused(
            "role-too-low",
            f"This needs the role {needed}, yours is {role}.",
            "ask an admin to do it, or to run fedloom-server operator set-role",
        )
