"""Expecting a refusal by its code: the code is the contract, the message may change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shared.errors import FedloomError


@contextmanager
def refused(code: str, kind: type[FedloomError] = FedloomError) -> Iterator[pytest.ExceptionInfo[FedloomError]]:
    """Assert that the block raises ``kind`` with ``code``."""
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.code == code, caught.value
