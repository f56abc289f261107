"""The same hypothesis profile as in the tests of ``shared``."""

from __future__ import annotations

from tests.shared import conftest

__all__ = ["conftest"]
