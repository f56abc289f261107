"""The plan: everything about the work that devices and aggregator must agree on, immutable and hashed.

An operator writes it in TOML; it travels as canonical JSON, whose SHA-256 every release and every join message
carries. Durations end in ``_s``, seconds.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal

from shared.errors import UsageError
from shared.ids import require_name
from shared.limits import MAX_COHORT_MEMBERS, MAX_COMPLETE_GRAPH_MEMBERS, MAX_GROUPS, MAX_TRAINING_INPUTS
from shared.nearest import nearest
from shared.numeric.contribution_vector import Group
from shared.numeric.encoding import Encoding
from shared.numeric.noise import NoiseRule, NoisyGroup, noise_for
from shared.numeric.noisy_encoding import NoisyEncoding
from shared.numeric.quantization import Grid
from shared.numeric.rotation import rotated_size, spread
from shared.secagg.masking import CIPHERS, CipherName
from shared.secagg.parameters import Adversary, CohortRules, is_sparse, thresholds
from shared.training_inputs import SET_ELSEWHERE
from shared.wire.canonical import decode, encode, sha256

FOREVER_S: Final = 10.0 * 365 * 86400
LONGEST_SEALED_S: Final = 90 * 86400.0
ROTATED_BELOW_LEVELS: Final = 256
SMALLEST_NORM: Final = 1e-12
LARGEST_NORM: Final = 1e12
CohortEncoding = Encoding | NoisyEncoding


@dataclass(frozen=True)
class Training:
    """What a device computes.

    Attributes:
        method: ``fedavg`` trains locally; ``fedsgd`` sends one full-batch gradient step.
        epochs: passes over the device's examples (fedavg).
        learning_rate: of the device's SGD (fedavg), and of its step on local tensors (fedsgd).
        proximal_mu: FedProx term (Li et al., arXiv 1812.06127), 0 for none.
        max_steps: at most so many optimizer steps per round, 0 for no bound.
        inputs: further inputs of the training program by name, such as ``momentum`` or ``weight_decay``; the bundle's
            defaults otherwise (fedavg).
    """

    method: Literal["fedavg", "fedsgd"] = "fedavg"
    epochs: int = 1
    learning_rate: float = 0.05
    proximal_mu: float = 0.0
    max_steps: int = 0
    inputs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """How a change is bounded and encoded.

    Attributes:
        max_l2_norm: clip norm C, of the first version where ``clip_quantile`` is given.
        clip_quantile: share of the devices whose updates shall be shorter than the clip norm; that of each following
            version is moved towards it. 0 keeps ``max_l2_norm``.
        statistics_max_l2_norm: clip norm of the change of statistics (batch norm's moments), which have a grid of
            their own. Moments of a few hundred normalised channels change by less in one round; a change beyond it
            arrives in the following rounds.
        max_weight: examples that count at most per device; 1 weighs devices alike.
        lane_bits: bits per coordinate of the sum: 16, 21 or 32.
        rotation: spread updates over their coordinates before rounding; ``auto`` does it where the largest cohort
            leaves fewer than 256 levels.
    """

    max_l2_norm: float = 1.0
    clip_quantile: float = 0.0
    statistics_max_l2_norm: float = 10.0
    max_weight: int = 1
    lane_bits: int = 16
    rotation: Literal["auto", "on", "off"] = "auto"


@dataclass(frozen=True)
class Cohort:
    """Sizes and shares of a cohort, and what sparse graphs withstand; see ``CohortRules``.

    ``cipher`` makes masks and seals shares: ``chacha20`` is faster on boards without AES instructions (Raspberry Pi 4
    and older).
    """

    min_survivors: int = 10
    largest: int = MAX_COMPLETE_GRAPH_MEMBERS
    corrupt_share: float = 0.05
    dropout_share: float = 0.1
    adversary: Adversary = "semi-malicious"
    cipher: CipherName = "aes-256-ctr"


@dataclass(frozen=True)
class Eligibility:
    """Which devices are asked to train, and how often.

    Attributes:
        groups: of codes, whose devices take part; none: every device of the task.
        min_memory_mib: that a device must have, in MiB.
        min_interval_s: between two contributions of one device, in seconds.
        max_contributions: of one device to the whole task, 0 for no bound.
    """

    groups: tuple[str, ...] = ()
    min_memory_mib: int = 0
    min_interval_s: float = 0.0
    max_contributions: int = 0


@dataclass(frozen=True)
class Deadlines:
    """How long each phase waits for more members, in seconds.

    Attributes:
        forming_s: quiet time after the last device joined, before a cohort that is large enough starts.
        sharing_s: for shares.
        collecting_s: for masked vectors.
        agreeing_s: for signatures over the survivors.
        unmasking_s: for shares of the survivors.
        round_s: for a whole round; it is abandoned then.
        training_s: for a device that was asked to train; then another one is asked.
        sealed_update_s: how long a device may keep a trained update that could not join a cohort, sealed, for the next
            one of the same version; 0 for not at all. Owners may set less.
    """

    forming_s: float = 30.0
    sharing_s: float = 60.0
    collecting_s: float = 600.0
    agreeing_s: float = 60.0
    unmasking_s: float = 60.0
    round_s: float = 7 * 86400.0
    training_s: float = 3600.0
    sealed_update_s: float = 86400.0


@dataclass(frozen=True)
class Server:
    """What the aggregator does with a cohort's sum.

    Attributes:
        combine: ``mean`` divides by the summed weights, ``sum`` does not.
        learning_rate: factor on the combined update (for fedsgd, alpha).
    """

    combine: Literal["mean", "sum"] = "mean"
    learning_rate: float = 1.0


@dataclass(frozen=True)
class Stop:
    """When a task is done; whichever comes first, 0 for no bound.

    Attributes:
        rounds: after so many closed rounds.
        after_s: seconds after the first round opened.
        target_accuracy: once the summed evaluation of a version reaches it.
    """

    rounds: int = 0
    after_s: float = 0.0
    target_accuracy: float = 0.0


@dataclass(frozen=True)
class Release:
    """How long devices may use a version, in seconds."""

    valid_s: float = 90 * 86400.0


@dataclass(frozen=True)
class Personalisation:
    """How each device makes the last version its own once the task is done; nothing of it leaves the device.

    Attributes:
        epochs: further passes over the device's examples, 0 for none.
        learning_rate: of these.
        tensors: which ones go on training, a glob over their paths, such as ``*`` or ``logits/*``. Where some do not,
            an optimizer with a memory loses it after every step.
    """

    epochs: int = 0
    learning_rate: float = 0.01
    tensors: str = "*"


@dataclass(frozen=True)
class Privacy:
    """How much is known about one device from all that is published, see ``shared/privacy``.

    Attributes:
        mechanism: ``skellam``: every device adds noise to every number that it sends, so nobody needs to be trusted.
            ``central-gaussian``: the aggregator sees the sum and adds noise before it publishes weights. ``none``.
        noise_multiplier: standard deviation of the noise in the sum over one device's largest L2 norm.
        delta: of (epsilon, delta).
        max_participations: how often one device takes part in the whole task.
        max_epsilon: no cohort begins that would spend more.
    """

    mechanism: Literal["none", "skellam", "central-gaussian"] = "none"
    noise_multiplier: float = 0.0
    delta: float = 1e-6
    max_participations: int = 0
    max_epsilon: float = 0.0


_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "training.epochs": (1, 10_000),
    "training.learning_rate": (1e-12, 1e6),
    "training.proximal_mu": (0, 1e6),
    "training.max_steps": (0, 10**9),
    "update.max_l2_norm": (SMALLEST_NORM, LARGEST_NORM),
    "update.clip_quantile": (0, 1),
    "update.statistics_max_l2_norm": (SMALLEST_NORM, LARGEST_NORM),
    "update.max_weight": (1, 2**20),
    "update.lane_bits": (16, 32),
    "cohort.min_survivors": (2, MAX_COHORT_MEMBERS),
    "cohort.largest": (2, MAX_COHORT_MEMBERS),
    "cohort.corrupt_share": (0, 0.5),
    "cohort.dropout_share": (0, 0.5),
    "eligibility.min_memory_mib": (0, 2**20),
    "eligibility.max_contributions": (0, 10**9),
    "deadlines.sealed_update_s": (0, LONGEST_SEALED_S),
    "server.learning_rate": (1e-12, 1e6),
    "stop.rounds": (0, 10**9),
    "stop.target_accuracy": (0, 1),
    "release.valid_s": (60, FOREVER_S),
    "privacy.noise_multiplier": (0, 1000),
    "privacy.delta": (1e-15, 1e-4),
    "privacy.max_participations": (0, 10**6),
    "privacy.max_epsilon": (0, 1000),
    "personalisation.epochs": (0, 10_000),
    "personalisation.learning_rate": (1e-12, 1e6),
}
_DURATION_BOUNDS: Final = (0.0, FOREVER_S)


@dataclass(frozen=True)
class Plan:
    """The whole plan; every section has safe defaults.

    Attributes:
        task: the task's name.
    """

    task: str
    training: Training = field(default_factory=Training)
    update: Update = field(default_factory=Update)
    cohort: Cohort = field(default_factory=Cohort)
    eligibility: Eligibility = field(default_factory=Eligibility)
    deadlines: Deadlines = field(default_factory=Deadlines)
    server: Server = field(default_factory=Server)
    stop: Stop = field(default_factory=Stop)
    release: Release = field(default_factory=Release)
    personalisation: Personalisation = field(default_factory=Personalisation)
    privacy: Privacy = field(default_factory=Privacy)

    @classmethod
    def from_toml(cls, text: str) -> Plan:
        """Read what an operator wrote.

        Raises:
            UsageError: ``bad-plan`` naming the key, what is allowed and the nearest known key.
        """
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # also integers of thousands of digits, and deep nesting
            raise UsageError("bad-plan", f"The plan is not TOML: {error}.") from error
        return cls._from_values(values)

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Read what travels; the same rules as for TOML, and only the canonical form."""
        plan = cls._from_values(dict(decode(data)))
        if plan.to_bytes() != data:
            raise UsageError("bad-plan", "The plan is not in its canonical form.")
        return plan

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> Plan:
        _refuse_unknown(values, ("task", *_SECTIONS), "the plan")
        task = values.get("task")
        if not isinstance(task, str):
            raise UsageError("bad-plan", "The plan names no task.", 'begin it with task = "name"')
        sections = {name: _section(name, kind, values.get(name, {})) for name, kind in _SECTIONS.items()}
        plan = cls(require_name(task, "the task"), **sections)
        plan._check()
        return plan

    def _check(self) -> None:
        if self.cohort.min_survivors > self.cohort.largest:
            raise UsageError("bad-plan", "cohort.min_survivors is larger than cohort.largest.")
        if self.cohort.adversary == "semi-honest" and not is_sparse(self.cohort.largest):
            raise UsageError(
                "bad-plan",
                "cohort.adversary semi-honest gives nothing here: on the complete graph semi-malicious costs the same.",
                'write adversary = "semi-malicious" or leave it out',
            )
        if self.training.method == "fedsgd" and self.training.inputs:
            raise UsageError(
                "bad-plan",
                "training.method is fedsgd, which has no optimizer on the device, and [training.inputs] is given.",
                'leave the section out, or write method = "fedavg"',
            )
        if self.server.combine == "sum" and self.update.max_weight != 1:
            raise UsageError(
                "bad-plan",
                f"server.combine is sum and update.max_weight {self.update.max_weight}: weights would scale the sum.",
                'write max_weight = 1, or combine = "mean"',
            )
        thresholds(self.cohort.largest, self.rules)
        self.grid(self.cohort.largest)
        if self.privacy.mechanism != "none":
            self._check_privacy()

    def _check_privacy(self) -> None:
        privacy = self.privacy
        for name in ("noise_multiplier", "max_participations", "max_epsilon"):
            if not getattr(privacy, name):
                raise UsageError("bad-plan", f"privacy.mechanism is {privacy.mechanism}, privacy.{name} is needed.")
        if self.update.max_weight != 1:
            raise UsageError(
                "bad-plan",
                f"update.max_weight is {self.update.max_weight}: under differential privacy all devices weigh alike.",
                "write max_weight = 1",
            )
        if privacy.mechanism == "central-gaussian" and self.update.clip_quantile:
            raise UsageError(
                "bad-plan",
                "update.clip_quantile would publish something about a count of devices that has no noise.",
                'leave it out, or write mechanism = "skellam"',
            )
        if privacy.mechanism == "central-gaussian" and self.stop.target_accuracy:
            raise UsageError(
                "bad-plan",
                "stop.target_accuracy would publish something about an accuracy that has no noise.",
                'stop after rounds instead, or write mechanism = "skellam"',
            )

    @property
    def rules(self) -> CohortRules:
        """The cohort rules from which k and t follow."""
        cohort = self.cohort
        shares = cohort.corrupt_share, cohort.dropout_share
        return CohortRules(cohort.min_survivors, cohort.largest, *shares, cohort.adversary)

    def grid(self, members: int) -> Grid:
        """Return the quantization grid of a cohort of ``members``, for vectors that are not rotated."""
        return Grid.for_cohort(members, lane_bits=self.update.lane_bits, max_l2_norm=self.update.max_l2_norm)

    def statistics_grid(self, members: int) -> Grid:
        """Return the grid of statistics: as many levels, and a step of its own."""
        return replace(self.grid(members), max_l2_norm=self.update.statistics_max_l2_norm)

    @property
    def rotated(self) -> bool:
        """Whether vectors are rotated before they are rounded; their length depends on it, hence not on a roster."""
        few = self.grid(self.cohort.largest).levels < ROTATED_BELOW_LEVELS or self.privacy.mechanism == "skellam"
        return self.update.rotation == "on" or (self.update.rotation == "auto" and few)

    def encoding(self, members: int, dimension: int, statistics: int) -> CohortEncoding:
        """Return how a cohort of ``members`` writes updates of ``dimension`` coordinates, and its statistics.

        Raises:
            UsageError: ``grid-too-coarse`` if noise leaves too few levels.
        """
        if self.privacy.mechanism == "skellam":
            return self._noisy_encoding(members, (dimension, statistics))
        groups = [
            Group(size, replace(grid, spread=self._spread(size)))
            for size, grid in ((dimension, self.grid(members)), (statistics, self.statistics_grid(members)))
        ]
        return Encoding(groups[0], groups[1], self.update.max_weight, self.rotated)

    def _noisy_encoding(self, members: int, sizes: tuple[int, int]) -> NoisyEncoding:
        norms = (self.update.max_l2_norm, self.update.statistics_max_l2_norm)
        groups = tuple(
            NoisyGroup(rotated_size(size) if self.rotated else size, norm, self._spread(size))
            for size, norm in zip(sizes, norms, strict=True)
        )
        missing = self.cohort.dropout_share + self.cohort.corrupt_share
        rule = NoiseRule(self.privacy.noise_multiplier, missing, self.update.lane_bits)
        return NoisyEncoding(sizes, self.rotated, noise_for(members, groups, rule))

    def _spread(self, size: int) -> float:
        return spread(size) if self.rotated else 1.0

    def vector_words(self, dimension: int, statistics: int) -> int:
        """Return the length of every masked vector, whatever the roster."""
        return self.encoding(self.cohort.largest, dimension, statistics).words

    def to_bytes(self) -> bytes:
        """Return the canonical JSON that is hashed and sent.

        What plans of before did not have is left out where it has its default, so that they keep their hash.
        """
        values = asdict(self)
        for section, key in _LEFT_OUT:
            if values[section][key] == getattr(_SECTIONS[section](), key):
                del values[section][key]
        return encode(values)

    @property
    def sha256(self) -> bytes:
        """Hash of ``to_bytes``, 32 octets."""
        return sha256(self.to_bytes())


_LEFT_OUT: Final = (("deadlines", "sealed_update_s"),)
_LARGEST_INPUT: Final = 1e9
_GLOB: Final = re.compile(r"[ -~]{1,200}")
_INPUT_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SECTIONS: Final[dict[str, type[Any]]] = {
    "training": Training,
    "update": Update,
    "cohort": Cohort,
    "eligibility": Eligibility,
    "deadlines": Deadlines,
    "server": Server,
    "stop": Stop,
    "release": Release,
    "personalisation": Personalisation,
    "privacy": Privacy,
}
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "training.method": ("fedavg", "fedsgd"),
    "update.rotation": ("auto", "on", "off"),
    "cohort.adversary": ("semi-malicious", "semi-honest"),
    "cohort.cipher": CIPHERS,
    "server.combine": ("mean", "sum"),
    "privacy.mechanism": ("none", "skellam", "central-gaussian"),
}


def _section(name: str, kind: type[Any], values: object) -> Any:  # noqa: ANN401  # one of the section classes above
    if not isinstance(values, dict):
        raise UsageError("bad-plan", f"[{name}] should be a section.")
    known = {item.name: item.default for item in fields(kind)}
    _refuse_unknown(values, tuple(known), f"[{name}]")
    return kind(**{key: _value(f"{name}.{key}", value, known[key]) for key, value in values.items()})


def _value(where: str, value: object, default: object) -> object:
    if where in _CHOICES:
        if value not in _CHOICES[where]:
            meant = nearest(str(value), _CHOICES[where])
            raise UsageError(
                "bad-plan",
                f"{where} is {value!r}, it must be one of {', '.join(_CHOICES[where])}.",
                f"did you mean {meant}?" if meant else "",
            )
        return value
    if where == "training.inputs":
        return _inputs(value)
    if where == "personalisation.tensors":
        return _glob(where, value)
    if where == "eligibility.groups":
        return _groups(where, value)
    whole = isinstance(default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise UsageError("bad-plan", f"{where} is {value!r}, {'a whole number' if whole else 'a number'} is needed.")
    low, high = _BOUNDS.get(where, _DURATION_BOUNDS)
    if not low <= value <= high:
        raise UsageError(
            "bad-plan",
            f"{where} is {_short(value)}, it must lie between {low:g} and {high:g}.",
            "" if value != value else f"the nearest is {low if value < low else high:g}",  # noqa: PLR0124  # not NaN
        )
    return value if whole else float(value)


def _glob(where: str, value: object) -> str:
    if not isinstance(value, str) or not _GLOB.fullmatch(value):
        raise UsageError("bad-plan", f"{where} must be a glob over tensor paths.", 'such as "*" or "logits/*"')
    return value


def _groups(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_GROUPS or not all(isinstance(name, str) for name in value):
        raise UsageError("bad-plan", f"{where} must be a list of at most {MAX_GROUPS} names.", 'such as ["kitchen"]')
    return tuple(require_name(name, "a group") for name in value)


def _inputs(values: object) -> dict[str, float]:
    """Check ``[training.inputs]``; which of them there are, only the bundle can say."""
    if not isinstance(values, dict) or len(values) > MAX_TRAINING_INPUTS:
        raise UsageError("bad-plan", f"[training.inputs] should be a section of at most {MAX_TRAINING_INPUTS} numbers.")
    for name, value in values.items():
        if not _INPUT_NAME.fullmatch(name):
            raise UsageError("bad-plan", f"[training.inputs] has {name[:40]!r}, which is no name of an input.")
        if name in SET_ELSEWHERE:
            raise UsageError("bad-plan", f"[training.inputs] sets {name!r}.", f"set {SET_ELSEWHERE[name]} instead")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST_INPUT:
            raise UsageError("bad-plan", f"training.inputs.{name} must be a number from 0 to {_LARGEST_INPUT:g}.")
    return {name: float(value) for name, value in values.items()}


def _short(value: float) -> str:
    # Python does not print integers of thousands of digits, which hexadecimal TOML can hold.
    return "a huge number" if isinstance(value, int) and abs(value) >= 2**64 else f"{value}"


def _refuse_unknown(values: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in known:
            meant = nearest(key, known)
            hint = f"did you mean {meant}?" if meant else "known keys: " + ", ".join(known)
            raise UsageError("bad-plan", f"{where} has an unknown key {key!r}.", hint)
