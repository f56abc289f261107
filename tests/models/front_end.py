"""Run the front end of task ``spoken_digits`` in TensorFlow: ``python -m tests.models.front_end IN.npy OUT.npy``."""

from __future__ import annotations

import sys

import numpy as np

from models.log_mel import log_mel_layer

if __name__ == "__main__":
    np.save(sys.argv[2], np.asarray(log_mel_layer()(np.load(sys.argv[1], allow_pickle=False))))
