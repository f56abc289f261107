"""What an error tells a person and a program, and the names that things may have."""

from __future__ import annotations

import re

import pytest

from shared import errors
from shared.errors import FedloomError, Refused, TryLater, UsageError
from shared.ids import random_id, require_name
from tests.shared.cohort_simulation import Randomness
from tests.shared.refusals import refused

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FedloomError)]


def test_an_error_says_what_happened_its_code_and_what_to_try() -> None:
    error = UsageError("bad-plan", "The plan names no task.", "begin it with a task")
    assert str(error) == "The plan names no task. [bad-plan] Try: begin it with a task"
    assert error.to_json() == {"code": "bad-plan", "message": "The plan names no task.", "try": "begin it with a task"}


def test_an_error_without_a_remedy_promises_none() -> None:
    assert str(Refused("no", "No.")) == "No. [no]"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_exit_code_and_an_error_status(kind: type[FedloomError]) -> None:
    assert 1 <= kind.exit_code <= 4
    assert 400 <= kind.http_status < 600
    assert kind.__doc__


def test_exit_codes_tell_whose_fault_it_is() -> None:
    assert (FedloomError.exit_code, UsageError.exit_code, Refused.exit_code, TryLater.exit_code) == (1, 2, 3, 4)


@pytest.mark.parametrize("name", ["a", "0", "a-b_c", "x" * 64, "device-001"])
def test_names_are_lower_case_letters_digits_and_dashes(name: str) -> None:
    assert require_name(name, "it") == name


@pytest.mark.parametrize(
    "name", ["", "A", "a.b", "a/b", "..", "-a", "a-", "_a", "a_", "a b", "a\n", "\n", "a\0", "ä", "\u0661", "x" * 65]
)
def test_other_names_are_refused_without_repeating_them(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_name(name, "the task")
    assert caught.value.code == "bad-name"
    assert caught.value.message == "the task is not a valid name."


def test_random_ids_are_names_of_128_bits() -> None:
    source = Randomness("ids")
    first, second = random_id("cohort", source), random_id("cohort", source)
    assert re.fullmatch(r"cohort-[0-9a-f]{32}", first)
    assert first != second
    assert require_name(first, "the cohort") == first


def test_the_refusal_check_itself_fails_on_another_code() -> None:
    with pytest.raises(AssertionError), refused("expected"):
        raise Refused("other", "Other.")
