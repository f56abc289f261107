"""``python -m tools.load.devices``: one process of load devices; ``work.py`` says what goes in and out."""

from __future__ import annotations

import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from shared.numeric.clipping import ClippedUpdate, LocalUpdate, clip
from shared.numeric.contribution_vector import Evaluation
from shared.plan import Plan
from shared.root import EnrolmentCode, Root
from shared.secagg.masking import Words, add_into
from tools.load.device import Alike, LoadDevice, Tally
from tools.load.work import Report, Window, Work

Item = TypeVar("Item")
UPDATES: Final = 8  # that a process's devices share, each masking its own copy
LOOKS: Final = 3  # small requests of a device, before its vector
READY: Final = "ready"
SUM_FILE: Final = "sum.npy"
_NO_EVALUATION: Final = Evaluation(0.0, 0, 0)
_NO_STATISTICS: Final = ClippedUpdate(np.zeros(0), 1.0, 1, 1.0, clipped=False)


class Devices:
    """The devices of one process."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._folder = Path(work.folder)
        self._plan = Plan.from_bytes(Path(work.plan).read_bytes())
        codes = [EnrolmentCode.from_text(text) for text in work.codes]
        root = Root.verified(Path(work.root).read_bytes(), codes[0].fingerprint)
        self._alike = Alike(self._plan, root, bytes.fromhex(work.model_sha256))
        self._pool = ThreadPoolExecutor(work.threads)
        self._random = random.Random(work.seed)
        self.tally = Tally()
        self._devices = [LoadDevice(code, self._alike, self.tally) for code in codes]
        self._sum_lock = threading.Lock()

    def prepare(self) -> None:
        """Come as far as a masked vector each, in a file."""
        self._all(LoadDevice.join)
        self._all(LoadDevice.share)
        updates = self._updates()
        self._total = np.zeros_like(updates[0])

        def mask(numbered: tuple[int, LoadDevice]) -> None:
            number, device = numbered
            words = updates[number % UPDATES]
            (self._folder / str(number)).write_bytes(device.mask(words.copy()).to_bytes())
            with self._sum_lock:
                add_into(self._total, words)

        self._each(mask, list(enumerate(self._devices)))
        np.save(self._folder / SUM_FILE, self._total)

    def _updates(self) -> list[Words]:
        """Return vectors as devices have them before masking."""
        encoding = self._plan.encoding(len(self._devices[0].roster.members), self._work.parameters, 0)
        source = np.random.default_rng(self._work.seed)
        rule, sid = self._plan.update, self._devices[0].roster.sid
        return [
            encoding.encode(
                clip(
                    LocalUpdate(source.standard_normal(self._work.parameters, np.float32), 1),
                    max_l2_norm=rule.max_l2_norm,
                    max_weight=rule.max_weight,
                ),
                _NO_STATISTICS,
                _NO_EVALUATION,
                sid=sid,
                random_bytes=source.bytes,
            )
            for _ in range(UPDATES)
        ]

    def upload(self, window: Window) -> float:
        """Let each device read the release and send its vector at its time; return how late the latest began, s."""
        count = len(self._devices)
        times = [window.time_of((number + self._random.random()) / count) for number in range(count)]
        late_s = [0.0] * count

        def one(number: int) -> None:
            part, at_s = times[number]
            time.sleep(max(0.0, at_s - time.time()))
            late_s[number] = time.time() - at_s
            device, path = self._devices[number], self._folder / str(number)
            for _ in range(LOOKS):
                device.look(part)
            device.upload(path.read_bytes(), part)
            path.unlink()

        self._each(one, range(count))
        return max(late_s)

    def finish(self) -> int:
        """Open the sum, and return how many devices are in it."""
        self._all(LoadDevice.agree)
        self._all(LoadDevice.answer)
        counted = sum(self._pool.map(LoadDevice.counted, self._devices))
        for device in self._devices:
            device.close()
        return counted

    @property
    def sid(self) -> bytes:
        """Of the cohort."""
        return self._devices[0].roster.sid

    def _all(self, step: Callable[[LoadDevice], None]) -> None:
        self._each(step, self._devices)

    def _each(self, function: Callable[[Item], None], items: Sequence[Item]) -> None:
        list(self._pool.map(function, items))


def main() -> int:
    """Read the work, do it in step with the other processes, and report."""
    devices = Devices(Work.from_json(sys.stdin.readline()))
    devices.prepare()
    print(READY, flush=True)
    latest_s = devices.upload(Window.from_json(sys.stdin.readline()))
    counted = devices.finish()
    tally = devices.tally
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report = Report(tally.seconds, tally.errors, tally.answered, counted, latest_s, peak_bytes, devices.sid.hex())
    print(report.to_json(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
