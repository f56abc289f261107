"""Waiting for the disk in a web process, whose requests take turns in one thread, without stopping the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import gevent
from gevent import monkey

R = TypeVar("R")
GATHERING_S: Final = 0.01  # where there is no end of requests


def in_web_process() -> bool:
    """Say whether requests take turns in this process."""
    return bool(monkey.is_module_patched("socket"))


def beside_other_requests(wait: Callable[[], R]) -> R:
    """Return what ``wait``, which waits for the disk, returns; in a web process, requests go on meanwhile."""
    if not in_web_process():
        return wait()
    result: R = gevent.get_hub().threadpool.apply(wait)
    return result


def let_others_come() -> None:
    """In a web process, let the requests that have come already go on to where they wait, which takes little time."""
    if in_web_process():
        with gevent.Timeout(GATHERING_S, exception=False):
            gevent.idle()


def later(work: Callable[[], object]) -> None:
    """Let ``work`` be done, in a web process after the current request had its turn."""
    if in_web_process():
        gevent.spawn(work)
    else:
        work()
