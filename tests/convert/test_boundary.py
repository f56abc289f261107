"""What TensorFlow and a model's own code raise comes out as one error with a name."""

from __future__ import annotations

import pytest

from shared.errors import BundleError
from tools.convert.boundary import naming
from tools.convert.tf import Tensor, tf


def _caught(body: object) -> BundleError:
    with pytest.raises(BundleError) as caught, naming("convert-failed", "it failed", "another model"):
        tf.function(body).get_concrete_function(tf.TensorSpec([2], tf.float32))
    return caught.value


def test_an_error_with_a_name_keeps_it_inside_a_traced_function() -> None:
    def refusing(_x: Tensor) -> Tensor:
        raise BundleError("convert-layout", "layer early has its channels first", "put them last")

    error = _caught(refusing)
    assert error.to_json() == {
        "code": "convert-layout",
        "message": "layer early has its channels first",
        "try": "put them last",
    }


def test_any_other_error_says_what_happened_and_not_where_tensorflow_was() -> None:
    def failing(x: Tensor) -> Tensor:
        return tf.reshape(x, [3])

    error = _caught(failing)
    assert (error.code, error.remedy) == ("convert-failed", "another model")
    assert error.message.startswith("it failed: ValueError: Cannot reshape a tensor with 2 elements")
    assert "\n" not in error.message


@pytest.mark.parametrize(("raised", "said"), [(KeyError("head"), "KeyError 'head'"), (ValueError(), "ValueError")])
def test_an_error_without_a_sentence_gets_its_kind(raised: Exception, said: str) -> None:
    with pytest.raises(BundleError, match=rf"it failed: {said} \["), naming("convert-failed", "it failed", "another"):
        raise raised
