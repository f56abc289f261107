"""What secure aggregation costs a device and the aggregator, beside the keystreams that it cannot do without.

The reference is always the same work reduced to its core: generate each keystream and add it, over the same bytes, in
the same run, on one core; divided by the number of cores where several may work. Only public-key steps and memory have
other references.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.limits import MASK_PIECE_BYTES
from shared.numeric.clipping import ClippedUpdate, LocalUpdate, clip
from shared.numeric.contribution_vector import Evaluation
from shared.plan import CohortEncoding, Plan, Update
from shared.secagg.masking import WORD_BYTES, Mask, Words, apply_masks, keystream
from shared.secagg.parameters import CohortRules, Thresholds, thresholds
from tools.bench.child import child
from tools.bench.report import Result
from tools.bench.secagg_scene import key_steps_s, make_scene

DIMENSION: Final = 1_000_000
NEIGHBOURS: Final = 10
_REFERENCE: Final = "keystreams and sums alone"
_TRIES: Final = 25
# Small on purpose, so that drop-outs weigh much; no cohort may run with so few neighbours.
SMALL: Final = (50, 5, Thresholds(NEIGHBOURS, 6, 45, 26))
LARGE_RULES: Final = CohortRules(min_survivors=10, largest=1000, corrupt_share=0.05, dropout_share=0.1)
LARGE: Final = (1000, 100, thresholds(1000, LARGE_RULES))


def measure() -> list[Result]:
    """Measure device and server; raises FedloomError ("bench-failed") if a child process fails."""
    return [*_device(), *(_unmasking(*case) for case in (SMALL, LARGE)), _memory()]


def _device() -> list[Result]:
    update = LocalUpdate(np.random.default_rng(0).normal(scale=1e-3, size=DIMENSION).astype(np.float32), 100)
    nothing = clip(LocalUpdate(np.zeros(0, np.float32), 1), max_l2_norm=1.0, max_weight=1)
    keys = [os.urandom(32) for _ in range(NEIGHBOURS + 1)]
    masks = [Mask(key, negative=bool(number % 2)) for number, key in enumerate(keys)]
    results = []
    rotations: tuple[Literal["off", "on"], ...] = ("off", "on")
    for rotation in rotations:
        encoding = Plan("bench", update=Update(rotation=rotation)).encoding(NEIGHBOURS + 1, DIMENSION, 0)
        contribute = partial(_contribute, update, nothing, encoding, masks)
        words = contribute()
        value, reference = _fastest_ms([contribute, partial(_streams, words, keys)])
        what = f"device: {DIMENSION} coordinates, {NEIGHBOURS} neighbours, rotation {rotation}"
        results.append(Result(f"{what}: clip, quantize, pack and mask", value, "ms", _REFERENCE, reference))
        sent = Result(f"{what}: sent per parameter", words.nbytes / DIMENSION, "B", "16 bits", 2.0)
        results.append(sent)
    steps = NEIGHBOURS + 1
    exchanges = 3 * NEIGHBOURS + 2  # two seals and a mask per neighbour, and two key pairs
    value = min(key_steps_s(steps) for _ in range(_TRIES)) * 1e3
    results.append(
        Result(
            f"device: public-key steps, {steps} members, certificates and signatures included",
            value,
            "ms",
            f"{exchanges} X25519 exchanges",
            _fastest_ms([lambda: _exchanges(exchanges)])[0],
        )
    )
    return results


def _contribute(
    update: LocalUpdate, statistics: ClippedUpdate, encoding: CohortEncoding, masks: Sequence[Mask]
) -> Words:
    clipped = clip(update, max_l2_norm=0.5, max_weight=100)
    words = encoding.encode(clipped, statistics, Evaluation(1.0, 1, 1), sid=bytes(32), random_bytes=os.urandom)
    apply_masks(words, masks, "aes-256-ctr")
    return words


def _unmasking(members: int, dropped: int, limits: Thresholds) -> Result:
    scene, cores = make_scene(members, dropped, limits), os.cpu_count() or 1
    total = np.frombuffer(os.urandom(2 * DIMENSION), dtype=np.uint64).copy()
    keys = [bytes(32)] * scene.masks
    value, reference = _fastest_ms(
        [lambda: scene.unmask(total, cores), lambda: _streams(total, keys)], tries=5 if members < 100 else 2
    )
    name = f"server: unmasking {members} members, {limits.neighbours} neighbours, t = {limits.threshold},"
    name += f" {dropped} drop-outs, {DIMENSION} coordinates, {scene.masks} masks, {cores} cores"
    return Result(name, value, "ms", f"{_REFERENCE}, by cores", reference / cores)


def _memory() -> Result:
    few, many = (int(child("tools.bench.secagg_memory", str(members))) * 2.0**-20 for members in (100, 1000))
    return Result(f"server: memory for 1000 members, {DIMENSION} coordinates", many, "MiB", "for 100 members", few)


def _streams(words: Words, keys: Sequence[bytes]) -> None:
    """Generate and add one keystream per key, written down as plainly as possible."""
    total, zeros = np.zeros_like(words), bytes(MASK_PIECE_BYTES)
    buffer = bytearray(MASK_PIECE_BYTES + 16)
    stream = np.frombuffer(buffer, dtype=np.uint64)
    piece = MASK_PIECE_BYTES // WORD_BYTES
    for key in keys:
        generator = keystream(key, "aes-256-ctr")
        for start in range(0, total.size, piece):
            part = total[start : start + piece]
            generator.update_into(memoryview(zeros)[: part.nbytes], buffer)
            part += stream[: part.size]


def _exchanges(count: int) -> None:
    key = X25519PrivateKey.generate()
    for _ in range(count):
        key.exchange(key.public_key())


def _fastest_ms(works: Sequence[Callable[[], object]], tries: int = _TRIES) -> list[float]:
    """Return the fastest time of each work in milliseconds; they take turns, so that a busy moment hits all."""
    fastest = [float("inf")] * len(works)
    for _ in range(tries):
        for number, work in enumerate(works):
            began = time.perf_counter()
            work()
            fastest[number] = min(fastest[number], (time.perf_counter() - began) * 1e3)
    return fastest
