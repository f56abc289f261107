"""Which weights take part: those that an output depends on, at once or in a later step."""

from __future__ import annotations

from tools.convert.reads import weights_read
from tools.convert.tf import Graph, Tensor, tf


def _graph(training: bool) -> Graph:  # noqa: FBT001
    def call(
        kernel: Tensor, moment: Tensor, counter: Tensor, feeder: Tensor, unread: Tensor, x: Tensor
    ) -> list[Tensor]:
        moved = moment + feeder if training else moment
        return [x * kernel + (0.0 if training else moment), kernel, moved, counter + 1.0, feeder * 2.0, unread]

    return tf.function(call).get_concrete_function(*[tf.TensorSpec([1], tf.float32)] * 6).graph


def test_what_only_moves_itself_takes_no_part_and_what_moves_another_does() -> None:
    assert weights_read([_graph(training=True), _graph(training=False)], 5) == [0, 1, 3]
    assert weights_read([_graph(training=True)], 5) == [0]
