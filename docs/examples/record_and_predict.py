"""Record what a sensor sees and recognise it, while ``fedloom-agent run --state STATE`` trains beside.

python docs/examples/record_and_predict.py EXAMPLES STATE SENSOR.npz
"""

import itertools
import sys
import time

import numpy as np

from edge_client.examples import ExampleStore
from edge_client.inference import Model
from shared.errors import TryLater

examples, state, sensor = sys.argv[1:]
seen = np.load(sensor)  # stands for the sensor, and for who says what it was
model = Model(state)
with ExampleStore(examples) as store:
    for x, y in itertools.cycle(zip(seen["x"], seen["y"], strict=True)):
        store.record(x, y)
        try:
            print(f"version {model.version} says {np.argmax(model(x))}, it was {y}", flush=True)
        except TryLater:
            print("no model yet", flush=True)
        time.sleep(0.02)
