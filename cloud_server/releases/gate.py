"""How far a candidate goes and what it must not do on the way: pure functions of counts, without I/O.

The gate looks at each device's change from the version released before to the candidate, on the same held-out
examples, and takes the mean over devices. A candidate fails where its mean drop is larger than the tolerance by more
than chance explains: ``standard_errors`` times the standard error of that mean, which shrinks as more devices measure.
A drop above ``largest_drop`` fails however few they are. Devices differ from each other, so the error is taken between
devices; examples of one device are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

from shared.decision import PLACES
from shared.errors import UsageError
from shared.numeric.evaluation_vector import ComparedSum, Spread
from shared.secagg.parameters import CohortRules, share_of, thresholds
from shared.wire.canonical import Fields, Json, decode, encode

MAX_STAGES: Final = 20
_SMALLEST_LOSS: Final = 1e-9  # nats; a change is told as a share of the baseline's
Metric = Literal["accuracy", "loss"]


@dataclass(frozen=True)
class Rule:
    """How one promotion goes on.

    Attributes:
        shares: of the devices, one per stage; the last is 1.
        automatic: whether a stage that passed leads to the next by itself.
        tolerance: drop that is accepted: of accuracy, or of the loss as a share of the baseline's.
        largest_drop: above which a candidate fails whatever chance explains.
        standard_errors: how many of them are put down to chance.

    Raises:
        UsageError: ``bad-stages`` or ``bad-gate``.
    """

    shares: tuple[float, ...] = (0.01, 0.1, 1.0)
    automatic: bool = True
    tolerance: float = 0.01
    largest_drop: float = 0.1
    standard_errors: float = 3.0

    def __post_init__(self) -> None:
        growing = all(a < b for a, b in zip((0.0, *self.shares), self.shares, strict=False))
        if not (0 < len(self.shares) <= MAX_STAGES and growing and self.shares[-1] == 1):
            raise UsageError(
                "bad-stages",
                f"The stages must grow, be at most {MAX_STAGES}, and end with all devices.",
                "write them like 1%,10%,100%",
            )
        if not (0 <= self.tolerance <= self.largest_drop <= 1 and 0 <= self.standard_errors <= 10):
            raise UsageError(
                "bad-gate",
                "The gate needs 0 <= tolerance <= largest drop <= 1, and at most 10 standard errors.",
                "leave them out for 1 % and 10 %",
            )

    def to_bytes(self) -> bytes:
        """Write."""
        return encode(asdict(self))

    @classmethod
    def from_bytes(cls, body: bytes) -> Rule:
        """Undo ``to_bytes``."""
        fields = Fields(decode(body), "rule")
        shares = tuple(float(str(share)) for share in fields.items("shares", MAX_STAGES))
        automatic = bool(decode(body)["automatic"])
        return cls(
            shares,
            automatic,
            *(fields.number(name, 0, 10) for name in ("tolerance", "largest_drop", "standard_errors")),
        )


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Attributes:
        passed: whether the candidate may go on.
        reason: in words.
        metric: that was compared.
        drop: mean over devices of how much worse the candidate is; negative where it is better.
        standard_error: of that mean.
        allowed: largest drop that would have passed.
    """

    passed: bool
    reason: str
    metric: Metric
    drop: float = 0.0
    standard_error: float = 0.0
    allowed: float = 0.0

    def to_json(self) -> dict[str, Json]:
        """Return it for tables and JSON."""
        return {
            "passed": self.passed,
            "reason": self.reason,
            "metric": self.metric,
            "drop": self.drop,
            "standard_error": self.standard_error,
            "allowed": self.allowed,
        }


def parse_stages(text: str) -> tuple[float, ...]:
    """Return the shares of text such as ``1%,10%,100%``.

    Raises:
        UsageError: ``bad-stages``.
    """
    try:
        return tuple(float(part.strip().removesuffix("%")) / 100 for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            "bad-stages", f"{text[:40]!r} are no stages.", f"write {stages_text(Rule().shares)}, for instance"
        ) from error


def stages_text(shares: Sequence[float]) -> str:
    """Undo ``parse_stages``."""
    return ",".join(f"{100 * share:.12g}%" for share in shares)


def judge(found: ComparedSum, rule: Rule, metric: Metric, fewest: int) -> Verdict:
    """Say whether a candidate may go on.

    Args:
        found: by the stage's devices.
        rule: of the promotion.
        metric: the model's accuracy, or its loss where it has none.
        fewest: devices with held-out examples that are needed, 2 or more.
    """
    devices = found.evaluated
    if devices < max(2, fewest):
        return Verdict(
            passed=False,
            reason=f"{devices} devices had held-out examples, {max(2, fewest)} are needed",
            metric=metric,
        )
    if metric == "accuracy":
        drop, error = _mean(found.gain, devices)
        drop = -drop
    else:
        unit = max(found.baseline.mean_loss or 0.0, _SMALLEST_LOSS)
        drop, error = (value / unit for value in _mean(found.loss_change, devices))
    allowed = min(rule.largest_drop, rule.tolerance + rule.standard_errors * error)
    passed = drop <= allowed
    limit = f"a {'drop' if metric == 'accuracy' else 'rise'} of up to {100 * allowed:.3g} % is allowed"
    words = f"{metric} {_change(drop, metric)} on {devices} devices, {limit}"
    return Verdict(passed, words, metric, drop, error, allowed)


def _mean(spread: Spread, devices: int) -> tuple[float, float]:
    """Return the mean over devices and its standard error."""
    mean = spread.total / devices
    variance = max(0.0, spread.squares - devices * mean**2) / (devices - 1)
    return mean, math.sqrt(variance / devices)


def _change(drop: float, metric: Metric) -> str:
    better = "higher" if metric == "accuracy" else "lower"
    worse = "lower" if metric == "accuracy" else "higher"
    return f"is {100 * abs(drop):.3g} % {better if drop < 0 else worse}" if drop else "is the same"


def smallest_stage(rules: CohortRules) -> int:
    """Return how many devices a stage needs so that the smallest cohort is left when a planned share drops out."""
    for members in range(max(2, rules.min_survivors), rules.largest + 1):
        if members - share_of(rules.dropout_share, members) < rules.min_survivors:
            continue
        try:
            thresholds(members, rules)
        except UsageError:
            continue
        return members
    return rules.largest


def stage_limit(places: Sequence[int], share: float, smallest: int, before: int = 0) -> int:
    """Return below which place devices are in a stage: ``share`` of them, and at least ``smallest``.

    Args:
        places: of the devices that can evaluate, see ``place_of``.
        share: of all devices.
        smallest: devices that the stage needs; where there are fewer, its cohort cannot form.
        before: the limit of the stage before, which this one contains.
    """
    if share >= 1:
        return PLACES
    own = max(before, math.ceil(share * PLACES))
    return own if len(places) < smallest else max(own, sorted(places)[smallest - 1] + 1)
