"""The plan: what an operator may write, and what each mistake is answered with."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import fields

import pytest

from shared.errors import UsageError
from shared.plan import FOREVER_S, Plan
from shared.secagg.parameters import thresholds
from shared.wire.canonical import decode, encode
from tests.shared.refusals import refused

DURATIONS = [
    "deadlines.forming_s",
    "deadlines.sharing_s",
    "deadlines.collecting_s",
    "deadlines.agreeing_s",
    "deadlines.unmasking_s",
    "deadlines.round_s",
    "stop.after_s",
    "release.valid_s",
]


def toml(where: str, value: str) -> str:
    """Return a plan in which one key of one section is set."""
    section, key = where.split(".")
    return f'task = "activity"\n[{section}]\n{key} = {value}\n'


def test_a_task_name_is_enough() -> None:
    plan = Plan.from_toml('task = "activity"')
    assert plan == Plan("activity")
    assert (plan.cohort.min_survivors, plan.cohort.adversary, plan.update.lane_bits) == (10, "semi-malicious", 16)
    assert plan.rules.largest == 64


def test_what_is_written_is_taken_over() -> None:
    plan = Plan.from_toml(
        """
        task = "exercise"
        [training]
        method = "fedsgd"
        learning_rate = 1
        [update]
        lane_bits = 32
        [cohort]
        min_survivors = 4
        largest = 8
        """
    )
    assert (plan.training.method, plan.training.learning_rate) == ("fedsgd", 1.0)
    assert (plan.rules.min_survivors, plan.rules.largest, plan.grid(8).levels) == (4, 8, (2**32 - 1) // 16)


def test_the_cipher_of_the_masks_is_in_the_plans_hash() -> None:
    plan = Plan.from_toml(toml("cohort.cipher", '"chacha20"'))
    assert plan.cohort.cipher == "chacha20"
    assert plan.sha256 != Plan("activity").sha256


def test_the_plan_that_travels_is_the_plan_that_was_written() -> None:
    plan = Plan.from_toml(toml("update.max_l2_norm", "0.3"))
    assert Plan.from_bytes(plan.to_bytes()) == plan


def test_a_whole_number_for_a_real_one_makes_the_same_plan() -> None:
    one, same = (Plan.from_toml(toml("update.max_l2_norm", text)) for text in ("2", "2.0"))
    assert one.sha256 == same.sha256


def test_the_hash_of_the_default_plan_is_stable() -> None:
    """Devices compare this hash; when it changes on purpose, every open cohort of an older version ends."""
    assert Plan("activity").sha256.hex() == "dbcd5a8fbde2dbf74effeccf222b32ed29a6f6e8f4dd00aca14a5cc7f668226c"


def test_how_long_an_update_waits_is_left_out_where_it_is_the_default() -> None:
    """Plans of before had no such key, and keep their hash; there is one text for each plan."""
    plan = Plan.from_toml(toml("deadlines.sealed_update_s", "86400"))
    assert b"sealed_update_s" not in plan.to_bytes()
    assert plan.sha256 == Plan("activity").sha256
    values = decode(plan.to_bytes())
    values["deadlines"]["sealed_update_s"] = 86400.0  # type: ignore[call-overload,index]
    with refused("bad-plan"):
        Plan.from_bytes(encode(values))
    short = Plan.from_toml(toml("deadlines.sealed_update_s", "60"))
    assert Plan.from_bytes(short.to_bytes()).deadlines.sealed_update_s == 60.0
    with refused("bad-plan"):
        Plan.from_toml(toml("deadlines.sealed_update_s", "7776001"))


def test_every_field_is_in_the_hash() -> None:
    base = Plan("activity")
    hashes = {base.sha256, Plan("other").sha256}
    count = 2
    for section in fields(Plan)[1:]:
        values = getattr(base, section.name)
        for item in fields(values):
            value = getattr(values, item.name)
            others: dict[type, object] = {dict: {"a": 1.0}, tuple: ("a",)}
            other = others.get(type(value), value + 1 if isinstance(value, int | float) else f"{value}x")
            changed = dataclasses.replace(values, **{item.name: other})
            hashes.add(dataclasses.replace(base, **{section.name: changed}).sha256)
            count += 1
    assert len(hashes) == count


def test_inputs_of_the_training_program_go_by_name() -> None:
    plan = Plan.from_toml('task = "a"\n[training.inputs]\nmomentum = 0.9\nweight_decay = 1')
    assert plan.training.inputs == {"momentum": 0.9, "weight_decay": 1.0}
    assert Plan.from_bytes(plan.to_bytes()) == plan


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        ("lr = 0.1", "training.learning_rate"),
        ("mu = 0.1", "training.proximal_mu"),
        ("seed = 1", "every device"),
        ("momentum = nan", "momentum"),
        ("momentum = -0.5", "momentum"),
        ("momentum = true", "momentum"),
        ('momentum = "0.9"', "momentum"),
        ('"Mo mentum" = 1', "Mo mentum"),
        ("\n".join(f"a{i} = 1" for i in range(17)), "at most 16"),
    ],
)
def test_inputs_that_cannot_be_are_named(inputs: str, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        Plan.from_toml(f'task = "a"\n[training.inputs]\n{inputs}')
    assert caught.value.code == "bad-plan"
    assert word in f"{caught.value} {caught.value.remedy}"


def test_full_gradients_have_no_optimizer() -> None:
    with pytest.raises(UsageError, match="no optimizer"):
        Plan.from_toml('task = "a"\n[training]\nmethod = "fedsgd"\n[training.inputs]\nmomentum = 0.9')


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ('task = "a"\nversoin = 1', "known keys"),
        ('task = "a"\n[trainig]\nepochs = 1', "training"),
        ('task = "a"\n[training]\nepoch = 1', "epochs"),
        ('task = "a"\n[update]\nmax_l2norm = 1.0', "max_l2_norm"),
        ('task = "a"\n[deadlines]\ncollecting = 60', "collecting_s"),
        ('task = "a"\n[cohort]\nmin_survivor = 60', "min_survivors"),
        ('task = "a"\n[stop]\nzzz = 60', "known keys: rounds, after_s, target_accuracy"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(text: str, near: str) -> None:
    with pytest.raises(UsageError, match="unknown key") as caught:
        Plan.from_toml(text)
    assert caught.value.code == "bad-plan"
    assert near in caught.value.remedy


@pytest.mark.parametrize(
    "value", ["-1", "-0.001", "nan", "inf", "-inf", '"60 s"', "true", "[]", "{}", f"{FOREVER_S * 2}"]
)
@pytest.mark.parametrize("where", DURATIONS)
def test_a_duration_is_a_number_of_seconds_that_is_not_negative(where: str, value: str) -> None:
    with pytest.raises(UsageError, match=re.escape(where)) as caught:
        Plan.from_toml(toml(where, value))
    assert caught.value.code == "bad-plan"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("training.epochs", "0"),
        ("training.epochs", "1.0"),
        ("training.epochs", "true"),
        ("training.epochs", '"1"'),
        ("training.epochs", "1979-05-27"),
        ("training.method", '"sgd"'),
        ("training.method", "1"),
        ("training.method", "[]"),
        ("training.learning_rate", "0"),
        ("training.learning_rate", "-0.1"),
        ("training.learning_rate", "nan"),
        ("training.proximal_mu", "-1"),
        ("training.max_steps", "-1"),
        ("update.max_l2_norm", "0"),
        ("update.max_l2_norm", "inf"),
        ("update.clip_quantile", "-0.1"),
        ("update.clip_quantile", "1.1"),
        ("update.max_weight", "0"),
        ("update.max_weight", "1048577"),
        ("update.lane_bits", "8"),
        ("update.lane_bits", "64"),
        ("cohort.min_survivors", "1"),
        ("cohort.largest", "4097"),
        ("cohort.corrupt_share", "-0.1"),
        ("cohort.dropout_share", "0.6"),
        ("cohort.adversary", '"honest"'),
        ("server.combine", '"median"'),
        ("stop.target_accuracy", "1.1"),
        ("stop.rounds", "-1"),
        ("release.valid_s", "59"),
        ("cohort.cipher", '"rc4"'),
        ("privacy.mechanism", '"laplace"'),
        ("privacy.noise_multiplier", "-1"),
        ("privacy.delta", "0"),
        ("privacy.delta", "0.001"),
        ("privacy.max_participations", "1.5"),
        ("privacy.max_epsilon", "inf"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused_and_its_key_named(where: str, value: str) -> None:
    with pytest.raises(UsageError, match=re.escape(where)) as caught:
        Plan.from_toml(toml(where, value))
    assert caught.value.code == "bad-plan"


NOISE = "noise_multiplier = 1.0\nmax_participations = 10\nmax_epsilon = 8"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[privacy]\nmechanism = "skellam"', "privacy.noise_multiplier is needed"),
        ('[privacy]\nmechanism = "skellam"\nnoise_multiplier = 1', "privacy.max_participations is needed"),
        ('[privacy]\nmechanism = "central-gaussian"\nnoise_multiplier = 1\nmax_participations = 5', "max_epsilon"),
        (f'[privacy]\nmechanism = "skellam"\n{NOISE}\n[update]\nmax_weight = 2', "weigh alike"),
        (
            f'[privacy]\nmechanism = "central-gaussian"\n{NOISE}\n[stop]\ntarget_accuracy = 0.9',
            "accuracy that has no noise",
        ),
    ],
)
def test_privacy_that_would_not_be_is_refused(text: str, word: str) -> None:
    with pytest.raises(UsageError, match=re.escape(word)) as caught:
        Plan.from_toml(f'task = "a"\n{text}')
    assert caught.value.code == "bad-plan"


def test_a_plan_with_noise_travels_and_leaves_room_in_the_lanes() -> None:
    plan = Plan.from_toml(f'task = "a"\n[privacy]\nmechanism = "skellam"\n{NOISE}\n[update]\nlane_bits = 21')
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert plan.rotated
    assert plan.encoding(64, 100_000, 0).words == plan.vector_words(100_000, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "task = 1",
        "task = ",
        "task = 'a'\ntask = 'b'",
        "training = 1\ntask = 'a'",
        "[task]\nname = 'a'",
        "\0",
        f"task = 'a'\n[training]\nepochs = {'9' * 5000}",
        f"task = 'a'\n[training]\nepochs = 0x{'f' * 5000}",
        f"task = {'[' * 10_000}",
    ],
)
def test_what_is_no_plan_is_refused_by_name(text: str) -> None:
    with refused("bad-plan", UsageError):
        Plan.from_toml(text)


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "-a", "a-", "a\n", "é", "x" * 65, "\u202ea"])
def test_a_task_has_a_plain_name(name: str) -> None:
    with refused("bad-name", UsageError):
        Plan.from_bytes(encode({**decode(Plan("activity").to_bytes()), "task": name}))


def test_sizes_contradict_each_other() -> None:
    with refused("bad-plan", UsageError):
        Plan.from_toml(toml("cohort.largest", "9"))


def test_a_cohort_that_cannot_be_safe_is_refused_before_any_device_sees_it() -> None:
    with refused("unsafe-cohort", UsageError):
        Plan.from_toml('task = "a"\n[cohort]\ncorrupt_share = 0.3\ndropout_share = 0.4')


def test_a_lane_width_that_does_not_exist_is_refused() -> None:
    with refused("bad-lane-bits", UsageError):
        Plan.from_toml(toml("update.lane_bits", "24"))


def test_semi_honest_thresholds_are_not_offered_on_the_complete_graph() -> None:
    with refused("bad-plan", UsageError):
        Plan.from_toml(toml("cohort.adversary", '"semi-honest"'))


def test_larger_cohorts_may_choose_it_by_name_and_get_fewer_neighbours() -> None:
    text = 'task = "a"\n[cohort]\nlargest = 500\n'
    plan, weaker = Plan.from_toml(text), Plan.from_toml(text + 'adversary = "semi-honest"')
    assert plan.rules.adversary == "semi-malicious"
    assert thresholds(500, weaker.rules).neighbours < thresholds(500, plan.rules).neighbours
    assert Plan.from_bytes(weaker.to_bytes()) == weaker


@pytest.mark.parametrize(("largest", "code"), [(2000, ""), (4096, "grid-too-coarse"), (4097, "bad-plan")])
def test_cohorts_have_a_largest_size(largest: int, code: str) -> None:
    text = f'task = "a"\n[cohort]\nlargest = {largest}\n'
    if code:
        with refused(code, UsageError):
            Plan.from_toml(text)
    if code != "bad-plan":
        assert Plan.from_toml(text + "[update]\nlane_bits = 21").cohort.largest == largest


CANONICAL = Plan("activity").to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(CANONICAL.replace(b":", b": ", 1), id="white space"),
        pytest.param(CANONICAL + b"\n", id="line break"),
        pytest.param(CANONICAL.replace(b'"max_l2_norm":1.0', b'"max_l2_norm":1'), id="whole number"),
        pytest.param(CANONICAL.replace(b'"max_l2_norm":1.0', b'"max_l2_norm":1.00'), id="more digits"),
        pytest.param(encode({"task": "activity"}), id="defaults left out"),
        pytest.param(b'{"task":"activity",' + CANONICAL[1:].replace(b',"task":"activity"', b""), id="other order"),
    ],
)
def test_only_the_canonical_bytes_are_read(data: bytes) -> None:
    assert data != CANONICAL
    with refused("bad-plan", UsageError):
        Plan.from_bytes(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", CANONICAL[:-1], CANONICAL.replace(b'"task"', b'"stop"')])
def test_damaged_bytes_are_refused_by_name(data: bytes) -> None:
    with refused("bad-json", UsageError):
        Plan.from_bytes(data)


def test_weights_may_not_scale_a_plain_sum() -> None:
    with refused("bad-plan", UsageError):
        Plan.from_toml('task = "t"\nserver = { combine = "sum" }\nupdate = { max_weight = 2 }')
