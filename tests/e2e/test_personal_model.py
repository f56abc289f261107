"""A Keras model with batch normalisation and a local head on the running system.

Devices' moments become their weighted mean, within what the grid allows. What is local stays: every device goes on
from its own values, through restarts of its agent, and no file of the server holds any of them. What training makes
of weights is known here, because the seed of the shuffling is.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest

from cloud_server.storage.blobs import FolderBlobs
from edge_client.agent import open_agent
from edge_client.enrolment import enrol
from edge_client.identity import load_enrolment
from edge_client.journal import Journal, State
from edge_client.local_tensors import LocalTensors
from edge_client.report import status
from edge_client.state_folder import PERSONAL_FILE, StateFolder
from edge_client.trainer.protocol import Examples, TrainingRecipe
from edge_client.trainer.runtime import InferenceModel
from edge_client.trainer.tflite import TfliteTrainer
from shared.bundle import INFER_INT8_FILE, MANIFEST_FILE, Bundle
from shared.clock import SystemClock
from shared.errors import FedloomError, TryLater
from shared.examples import write_examples
from shared.layout import Layout, Part, outside
from shared.numeric.starting_weights import read_start
from shared.plan import Cohort, Deadlines, Personalisation, Plan, Server, Stop, Training, Update
from shared.release import LOCAL_FILE, WEIGHTS_FILE
from shared.secagg.floors import DeviceFloors
from shared.wire.canonical import decode, sha256
from tests.e2e.servers import Deployment, deployment, wait_for
from tests.e2e.test_no_single_update_on_the_server import everything, needles

pytestmark = pytest.mark.xdist_group("personal-model")
F32 = npt.NDArray[np.float32]
EXAMPLES: Final = (5, 8, 11, 16)  # of the devices
MAX_WEIGHT: Final = 11
WEIGHTS: Final = np.minimum(EXAMPLES, MAX_WEIGHT)
ROUNDS: Final = 3
INPUTS: Final = 12
VARYING: Final = 8  # the other inputs are 0: their variance goes to 0, and rounding below it
SEED: Final = 5
HOUR_S: Final = 3600.0
HEAD: Final = "network/head/*"
F32_ROUNDING: Final = 2.0**-20  # of moments below 8
PLAN: Final = Plan(
    "personal",
    training=Training(epochs=2, learning_rate=0.05),
    update=Update(max_l2_norm=10.0, statistics_max_l2_norm=40.0, max_weight=MAX_WEIGHT),
    cohort=Cohort(min_survivors=len(EXAMPLES), largest=len(EXAMPLES), corrupt_share=0.0, dropout_share=0.0),
    deadlines=Deadlines(HOUR_S, HOUR_S, HOUR_S, HOUR_S, HOUR_S),
    server=Server(learning_rate=0.5),
    stop=Stop(rounds=ROUNDS),
    personalisation=Personalisation(epochs=60, learning_rate=0.03, tensors=HEAD),
)


@dataclass
class Device:
    """A device with data of its own kind.

    Attributes:
        number: of the device.
        folder: where its state and its examples are.
        local: its local tensors' values f32[n]: the planted ones, then those after every round.
        logs: what its agents said.
    """

    number: int
    folder: Path
    local: list[F32] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)

    @property
    def state(self) -> StateFolder:
        """Where it keeps its state."""
        return StateFolder(self.folder / "state")

    @property
    def twin(self) -> bytes:
        """Its inference program."""
        return (self.state.current / INFER_INT8_FILE).read_bytes()

    def examples(self) -> Examples:
        """Return what it trains on; its inputs lie elsewhere and scatter more than other devices'."""
        random = np.random.default_rng(self.number)
        x = np.zeros((EXAMPLES[self.number], INPUTS), np.float32)
        x[:, :VARYING] = random.normal(self.number - 1.5, 0.5 + 0.25 * self.number, (len(x), VARYING))
        return Examples(x, random.integers(0, 3, len(x)).astype(np.int32))

    def enrol(self, code: str) -> None:
        """Enrol it."""
        examples = self.examples()
        write_examples(self.folder / "examples", examples, examples)  # what it trains on does not get worse by chance
        enrol(
            code,
            self.state,
            self.folder / "examples",
            floors=DeviceFloors(min_survivors=2, min_corrupt_share=0.0),
            name="",
            clock=SystemClock(),
            random_bytes=os.urandom,
            jitter=lambda: 0.5,
        )

    @contextmanager
    def kept(self) -> Iterator[LocalTensors]:
        """Open the values of its local tensors while no agent runs."""
        journal = Journal(self.state.journal_file, load_enrolment(self.state).journal_id)
        yield LocalTensors(self.state.local_tensors, journal, self.logs.append)
        journal.close()

    def work(self) -> State | None:
        """Start an agent, take part in one round or learn that there is none any more, and end it."""
        with open_agent(self.state, log=self.logs.append, random_bytes=known_seed) as agent:
            while True:
                try:
                    contribution = agent.once()
                except TryLater as error:
                    if error.code != "no-round-open":
                        raise
                    time.sleep(0.05)
                else:
                    return None if contribution is None else contribution.state


def known_seed(count: int) -> bytes:
    """Draw for an agent: only the seed of the shuffling is eight octets."""
    return SEED.to_bytes(8, "big") if count == 8 else os.urandom(count)


@dataclass
class Run:
    """The task after its last round.

    Attributes:
        bundle: of the model.
        devices: that trained.
        starts: what the versions give devices to start from, f32[d].
        files: all of the server's, by name, as they were after every round.
    """

    bundle: Bundle
    devices: Sequence[Device]
    starts: Sequence[F32]
    files: Sequence[Mapping[str, bytes]]

    @property
    def layout(self) -> Layout:
        """Of the weights."""
        return Layout.of(self.bundle.manifest.tensors)

    def place(self, path: str) -> Part:
        """Return where a tensor is."""
        spec = next(spec for spec in self.bundle.manifest.tensors if spec.path == path)
        return Part((slice(spec.offset, spec.offset + spec.size),))

    def own_start(self, device: Device, version: int) -> F32:
        """Return what a device starts from: the version's weights and its own values."""
        return self.layout.local.replace(self.starts[version], device.local[version])

    def trained(self, device: Device, version: int) -> F32:
        """Return what training makes of that."""
        recipe = TrainingRecipe("fedavg", PLAN.training.epochs, PLAN.training.learning_rate)
        start = self.own_start(device, version)
        return TfliteTrainer(self.bundle).train(start, device.examples(), recipe, SEED).weights


def run_round(devices: Sequence[Device]) -> list[State | None]:
    """Let every device start an agent of its own, and return how each ended."""
    states: dict[int, State | None] = {}
    errors: list[FedloomError] = []

    def work(device: Device) -> None:
        try:
            states[device.number] = device.work()
        except FedloomError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert not any(thread.is_alive() for thread in threads), [device.logs[-3:] for device in devices]
    assert errors == []
    return [states[device.number] for device in devices]


def read_starts(running: Deployment, bundle: Bundle) -> list[F32]:
    """Return what every version gives devices to start from."""
    blobs = FolderBlobs(running.data / "blobs")
    starts = []
    for row in running.rows("SELECT release FROM version WHERE task = ? ORDER BY number", PLAN.task):
        files: dict[str, dict[str, str]] = decode(row[0])["files"]  # type: ignore[assignment]
        wire, local = (blobs.get(files[name]["sha256"]) for name in (WEIGHTS_FILE, LOCAL_FILE))
        starts.append(read_start(wire, local, bundle.manifest.tensors))
    return starts


def local_identity(running: Deployment) -> bytes:
    """Return what names the bundle and the initial values of its local tensors."""
    release = running.rows("SELECT release FROM version WHERE task = ? AND number = 0", PLAN.task)[0][0]
    files: dict[str, dict[str, str]] = decode(release)["files"]  # type: ignore[assignment]
    return sha256(b"".join(bytes.fromhex(files[name]["sha256"]) for name in (MANIFEST_FILE, LOCAL_FILE)))


@pytest.fixture(scope="module")
def run(personal_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run the task on a server of its own."""
    with deployment(tmp_path_factory.mktemp("personal")) as running:
        yield run_task(running, personal_bundle, tmp_path_factory.mktemp("devices"))


def run_task(running: Deployment, bundle: Bundle, folder: Path) -> Run:
    """Plant values in every device's local tensors, run the task with new agents every round, and return it."""
    running.create_task_of(bundle, PLAN)
    devices = [Device(number, folder / str(number)) for number in range(len(EXAMPLES))]
    identity, size = local_identity(running), Layout.of(bundle.manifest.tensors).local.size
    for device, code in zip(devices, running.codes(PLAN.task, len(devices)), strict=True):
        device.folder.mkdir()
        device.enrol(code.to_text())
        device.local.append(np.random.default_rng(100 + device.number).uniform(0.5, 1.5, size).astype(np.float32))
        with device.kept() as kept:
            kept.save(identity, device.local[0])
    files = []
    for _ in range(ROUNDS):
        assert run_round(devices) == [State.COUNTED] * len(devices)
        wait_for(lambda: not any((running.data / "uploads").iterdir()), "uploads to be deleted")
        files.append(everything(running))
        for device in devices:
            with device.kept() as kept:
                device.local.append(kept.load(identity, np.full(size, np.nan, np.float32)))
    assert run_round(devices) == [None] * len(devices)  # they install the last version
    return Run(bundle, devices, read_starts(running, bundle), files)


def test_statistics_become_the_mean_that_is_weighted_by_examples(run: Run) -> None:
    part = run.layout.statistics
    minimum = np.full(run.bundle.manifest.parameters, -np.inf)
    variances = run.place("network/moments/moving_variance")
    minimum = part.take(variances.replace(minimum, np.zeros(variances.size)))
    # Every survivor adds less than one step; the sum is divided by the weights' sum in units of the largest.
    rounding = len(EXAMPLES) * PLAN.statistics_grid(len(EXAMPLES)).step * MAX_WEIGHT / WEIGHTS.sum()
    assert len(run.starts) == ROUNDS + 1
    for version in range(ROUNDS):
        before, published = (part.take(run.starts[number]).astype(np.float64) for number in (version, version + 1))
        moments = np.array([part.take(run.trained(device, version)).astype(np.float64) for device in run.devices])
        assert (np.linalg.norm(moments - before, axis=1) < PLAN.update.statistics_max_l2_norm).all()
        expected = np.maximum(np.average(moments, axis=0, weights=WEIGHTS), minimum)
        np.testing.assert_allclose(published, expected, rtol=0, atol=rounding + F32_ROUNDING)
    assert np.abs(part.take(run.starts[1]) - part.take(run.starts[0])).max() > 100 * rounding


def test_no_published_variance_is_below_zero(run: Run) -> None:
    variances = run.place("network/moments/moving_variance")
    for start in run.starts:
        assert variances.take(start).min() >= 0
    assert variances.take(run.starts[-1])[VARYING:].max() < 0.05  # where rounding alone decides about the sign


def test_local_values_differ_and_go_on_where_the_last_agent_left_them(run: Run) -> None:
    for version in range(ROUNDS):
        for device in run.devices:
            expected = run.layout.local.take(run.trained(device, version))
            np.testing.assert_array_equal(device.local[version + 1], expected)
            assert np.abs(expected - device.local[version]).max() > 1e-3
    for one, other in zip(run.devices, run.devices[1:], strict=False):
        assert np.abs(one.local[-1] - other.local[-1]).max() > 0.1


def test_no_file_of_the_server_holds_local_values(run: Run) -> None:
    for files in run.files:
        for device in run.devices:
            assert [name for values in device.local for name in holders(files, values)] == []


def test_the_same_scan_finds_the_initial_values_and_the_moments(run: Run) -> None:
    assert holders(run.files[-1], run.layout.local.take(run.starts[0]))
    assert holders(run.files[-1], np.tile(run.layout.statistics.take(run.starts[-1]), 2))


def holders(files: Mapping[str, bytes], values: F32) -> list[str]:
    """Return the files with windows of the values, f32 or f64, in any spelling."""
    spellings = [needle for form in (values, values.astype(np.float64)) for needle in needles(form)]
    return [name for name, data in files.items() if any(needle in data for needle in spellings)]


def test_the_last_version_is_trained_further_where_the_plan_says(run: Run) -> None:
    layout = Layout.of(run.bundle.manifest.tensors)
    kept = 0
    for device in run.devices:
        personal = status(device.state)["personal"]
        assert (personal["version"], personal["count"]) == (ROUNDS, EXAMPLES[device.number])
        path = device.state.current / PERSONAL_FILE
        assert path.exists() == personal["kept"]
        start = run.own_start(device, ROUNDS)
        own = PLAN.personalisation
        frozen = outside(run.bundle.manifest.tensors, own.tensors)
        recipe = TrainingRecipe("fedavg", own.epochs, own.learning_rate, frozen=frozen)
        trained = TfliteTrainer(run.bundle).train(start, device.examples(), recipe, SEED).weights
        for part in (layout.shared, layout.statistics):
            np.testing.assert_array_equal(part.take(trained), part.take(start))
        assert np.abs(layout.local.take(trained) - layout.local.take(start)).max() > 1e-3
        if not path.exists():
            continue
        kept += 1
        examples = device.examples()
        expected = TfliteTrainer(run.bundle).predict(trained, examples)
        np.testing.assert_allclose(InferenceModel(path.read_bytes()).predict(examples.x), expected, rtol=0, atol=1e-4)
    assert kept  # examples that were trained on are held out here


def test_every_device_infers_with_its_own_head(run: Run) -> None:
    assert len({device.twin for device in run.devices}) == len(run.devices)
    for device in run.devices:
        examples = device.examples()
        expected = TfliteTrainer(run.bundle).predict(run.own_start(device, ROUNDS), examples)
        np.testing.assert_allclose(InferenceModel(device.twin).predict(examples.x), expected, rtol=0, atol=1e-4)
