"""Passwords, kept as argon2id hashes."""

from __future__ import annotations

import threading
from functools import partial
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from cloud_server.beside import beside_other_requests
from shared.errors import UsageError
from shared.limits import MAX_PASSWORD_CHARACTERS, MIN_PASSWORD_CHARACTERS

# OWASP's smallest: a web process may hash while a thousand devices upload, and has 512 MiB for everything.
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_NOBODYS: Final = _HASHER.hash("nobody's")  # looked at where there is no account, so that it takes as long
_TURN: Final = threading.Lock()  # one hash at a time in each process: memory, and the other requests' processor


def hash_password(password: str) -> str:
    """Return what is stored of a password.

    Raises:
        UsageError: ``bad-password``.
    """
    if not MIN_PASSWORD_CHARACTERS <= len(password) <= MAX_PASSWORD_CHARACTERS:
        raise UsageError(
            "bad-password",
            f"A password has {MIN_PASSWORD_CHARACTERS} to {MAX_PASSWORD_CHARACTERS} characters.",
            "four or five random words make a good one",
        )
    return _HASHER.hash(password)


def password_fits(stored: str, password: str) -> bool:
    """Say whether ``password`` is the one of which ``stored`` is the hash; an empty hash fits none."""
    if len(password) > MAX_PASSWORD_CHARACTERS:
        return False
    with _TURN:
        fits = beside_other_requests(partial(_verify, stored or _NOBODYS, password))
    return fits and bool(stored)


def _verify(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False
