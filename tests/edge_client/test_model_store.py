"""Releases: each rule that is broken has its name, and the release in use stays in use."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cloud_server.publishing import make_version
from edge_client.identity import Enrolment, load_identity
from edge_client.int8_check import count_correct
from edge_client.journal import Journal
from edge_client.model_store import ModelStore
from edge_client.problems import VersionClosed
from edge_client.state_folder import StateFolder, current_version
from edge_client.trainer.protocol import F32, Examples
from edge_client.trainer.runtime import InferenceModel
from edge_client.trainer.tflite import TfliteTrainer
from edge_client.transport import Signer, Transport, pinned_pool
from shared.bundle import INFER_INT8_FILE, MANIFEST_FILE, Bundle, Role, initial_weights
from shared.layout import Layout
from shared.plan import Plan
from shared.release import FileEntry, Release, sign_release, verify_release
from shared.wire.canonical import sha256
from shared.wire.messages import read_release, write_release
from shared.wire.requests import OCTETS
from shared.wire.signed import SigningKey
from tests.edge_client.aggregator import DIMENSION, RELEASE_KEY, Aggregator, publish
from tests.edge_client.devices import ManualClock, enrolled
from tests.edge_client.loopback import Answer, Request, refusal, serve
from tests.shared.refusals import refused

Change = Callable[[Request, Answer], Answer]


class Device:
    """An enrolled device's model store, whose traffic a test may change."""

    def __init__(self, path: Path, certificates: Path) -> None:
        self.path = path
        self.folder = StateFolder(path / "state")
        self.aggregator = Aggregator(certificates, 2)
        self.aggregator.versions.append(
            publish(1, np.ones(DIMENSION, np.float32), self.aggregator.plan, self.aggregator.now_s)
        )
        self.change: Change = lambda _request, answer: answer
        self.clock = ManualClock()
        self.lines: list[str] = []

    def answer(self, request: Request) -> Answer:
        return self.change(request, self.aggregator(request))

    @contextmanager
    def opened(self, url: str, enrolment: Enrolment) -> Iterator[ModelStore]:
        journal = Journal(self.folder.journal_file, enrolment.journal_id)
        key = load_identity(self.folder).key
        signer = Signer(enrolment.fingerprint, enrolment.device, key, journal.next_counter)
        pool = pinned_pool(enrolment.root.tls_root_pem)
        transport = Transport(url, pool, signer=signer, clock=self.clock, jitter=lambda: 0.0)
        yield ModelStore(self.folder, enrolment, transport, journal, self.clock, self.lines.append)
        transport.close()
        journal.close()


@pytest.fixture
def device(tmp_path: Path, certificates: Path) -> Device:
    return Device(tmp_path, certificates)


@pytest.fixture
def store(device: Device, certificates: Path) -> Iterator[ModelStore]:
    with serve(certificates, device.answer) as url:
        enrolment = enrolled(device.path, device.aggregator, url)
        with device.opened(url, enrolment) as opened:
            yield opened


def resigned(change: Callable[[Release], Release], key: SigningKey = RELEASE_KEY) -> Change:
    """Return a change that signs an altered release, as an operator could."""

    def apply(request: Request, answer: Answer) -> Answer:
        if "releases" not in request.path:
            return answer
        body, signature = read_release(answer.body)
        release = verify_release(body, signature, public_key=RELEASE_KEY.public, task="point", min_version=0, now_s=0.0)
        return Answer(body=write_release(*sign_release(change(release), key)))

    return apply


def test_versions_are_installed_in_turn(device: Device, store: ModelStore) -> None:
    first, second = store.install(0), store.install(1)
    assert (first.version, second.version) == (0, 1)
    np.testing.assert_array_equal(second.weights, np.ones(DIMENSION, np.float32))
    assert current_version(device.folder) == 1
    assert [path.name for path in device.folder.releases.iterdir()] == ["1"]
    blobs = [request.path for request in device.aggregator.requests if "blobs" in request.path]
    assert len(blobs) == len(set(blobs)) == 4  # plan, manifest and weights, then a difference of weights alone
    assert second.plan == device.aggregator.plan
    assert len(list(device.folder.store.iterdir())) == 3


@pytest.mark.parametrize(
    ("route", "status", "code"), [("releases", 410, "version-removed"), ("blobs", 404, "blob-unknown")]
)
def test_a_version_that_the_server_let_go_is_left_for_the_newest(
    device: Device, store: ModelStore, route: str, status: int, code: str
) -> None:
    store.install(0)
    device.change = lambda request, answer: refusal(status, code) if route in request.path else answer
    with refused(code, VersionClosed):  # an agent checks in again
        store.install(1)
    assert current_version(device.folder) == 0  # it stays in use
    device.change = lambda _request, answer: answer
    assert store.install(1).version == 1


def _spoilt(change: Callable[[bytes], Answer]) -> Change:
    return lambda request, answer: change(answer.body) if "/from/" in request.path else answer


@pytest.mark.parametrize(
    "change",
    [
        _spoilt(lambda body: Answer(body=body[:-1], content_type=OCTETS)),
        _spoilt(lambda body: Answer(body=body[:-1] + bytes([body[-1] ^ 1]), content_type=OCTETS)),
        _spoilt(lambda _body: Answer(body=zlib.compress(bytes(10**7)), content_type=OCTETS)),
        _spoilt(lambda _body: Answer(body=bytes(10**6), content_type=OCTETS)),
        _spoilt(lambda _body: refusal(404, "no-difference")),
        _spoilt(lambda _body: refusal(503, "busy")),
    ],
    ids=["short", "garbled", "bomb", "endless", "missing", "busy"],
)
def test_without_a_good_difference_the_whole_file_is_fetched(device: Device, store: ModelStore, change: Change) -> None:
    store.install(0)
    device.change = change
    np.testing.assert_array_equal(store.install(1).weights, np.ones(DIMENSION, np.float32))


def test_a_broken_difference_is_gone_on_with(device: Device, store: ModelStore) -> None:
    store.install(0)
    ranges: list[str] = []

    def cut(request: Request, answer: Answer) -> Answer:
        if "/from/" not in request.path:
            return answer
        ranges.append(request.headers.get("Range", ""))
        if len(ranges) == 1:
            return Answer(200, answer.body[:10], OCTETS, announced=len(answer.body))
        return Answer(206, answer.body[10:], OCTETS)

    device.change = cut
    np.testing.assert_array_equal(store.install(1).weights, np.ones(DIMENSION, np.float32))
    assert ranges == ["", "bytes=10-"]


def test_a_release_in_use_is_not_fetched_again(device: Device, store: ModelStore) -> None:
    store.install(1)
    before = len(device.aggregator.requests)
    store.install(1)
    assert len(device.aggregator.requests) == before


def test_older_versions_are_refused(device: Device, store: ModelStore) -> None:
    store.install(1)
    with refused("version-rollback"):
        store.install(0)
    assert current_version(device.folder) == 1


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("bad-signature", resigned(lambda release: release, SigningKey(sha256(b"stranger")))),
        ("wrong-key", resigned(lambda release: dataclasses.replace(release, key_id="0" * 64))),
        ("wrong-task", resigned(lambda release: dataclasses.replace(release, task="other"))),
        ("release-expired", resigned(lambda release: dataclasses.replace(release, expires_at_s=1))),
        ("wrong-version", resigned(lambda release: dataclasses.replace(release, version=7))),
        ("wrong-model-hash", resigned(lambda release: dataclasses.replace(release, model_sha256="0" * 64))),
        (
            "release-incomplete",
            resigned(
                lambda release: dataclasses.replace(
                    release, files={k: v for k, v in release.files.items() if k != "weights_int8.safetensors"}
                )
            ),
        ),
    ],
)
def test_bad_releases(device: Device, store: ModelStore, code: str, change: Change) -> None:
    store.install(0)
    device.change = change
    with refused(code):
        store.install(1)
    assert current_version(device.folder) == 0
    device.change = lambda _request, answer: answer
    assert store.install(1).version == 1


def test_changed_files_are_refused(device: Device, store: ModelStore) -> None:
    def swap(request: Request, answer: Answer) -> Answer:
        flipped = bytes([answer.body[0] ^ 1]) + answer.body[1:]
        return dataclasses.replace(answer, body=flipped) if "blobs" in request.path else answer

    device.change = swap
    with refused("wrong-file-hash"):
        store.install(0)
    assert current_version(device.folder) is None


def test_a_worn_file_is_fetched_again(device: Device, store: ModelStore) -> None:
    store.install(0)
    for path in device.folder.store.iterdir():
        path.write_bytes(b"worn")
    assert store.install(1).version == 1


def test_each_version_brings_its_own_clip_norm_and_the_device_its_limit(device: Device, store: ModelStore) -> None:
    aggregator = device.aggregator
    plans = [
        dataclasses.replace(aggregator.plan, update=dataclasses.replace(aggregator.plan.update, max_l2_norm=norm))
        for norm in (600.0, 1200.0)
    ]
    aggregator.versions[1:] = [
        publish(number, np.ones(DIMENSION, np.float32), plan, aggregator.now_s) for number, plan in enumerate(plans, 1)
    ]
    before, after = store.install(0), store.install(1)
    assert (before.plan.update.max_l2_norm, after.plan.update.max_l2_norm) == (500.0, 600.0)
    assert before.plan_sha256 != after.plan_sha256 == plans[0].sha256
    with refused("floor-clip-norm"):
        store.install(2)
    assert current_version(device.folder) == 1


def test_the_plan_must_be_the_tasks(device: Device, store: ModelStore) -> None:
    other = Plan("other").to_bytes()
    first = device.aggregator.versions[0]
    device.aggregator.versions[0] = dataclasses.replace(first, files={**first.files, "other": other})
    device.change = resigned(
        lambda release: dataclasses.replace(release, files={**release.files, "plan.json": FileEntry.of(other)})
    )
    with refused("wrong-task"):
        store.install(0)


def put_online(device: Device, *bundles: Bundle) -> None:
    """Let the server have one version of every bundle, whose shared weights grow."""
    device.aggregator.versions = [
        make_version(
            number,
            grown(bundle, number),
            plan=device.aggregator.plan,
            manifest=bundle.manifest,
            bundle={**bundle.files, MANIFEST_FILE: bundle.manifest.to_bytes()},
            key=RELEASE_KEY,
            now_s=device.aggregator.now_s,
        )
        for number, bundle in enumerate(bundles)
    ]


def grown(bundle: Bundle, number: int) -> F32:
    shared, start = Layout.of(bundle.manifest.tensors).shared, initial_weights(bundle)
    return shared.replace(start, shared.take(start) * np.float32(1 + number))


def test_later_versions_bring_weights_alone_and_the_twin_is_made_here(
    device: Device, store: ModelStore, activity_bundle: Bundle
) -> None:
    put_online(device, activity_bundle, activity_bundle)
    store.install(0)
    before = len(device.aggregator.requests)
    installed = store.install(1)
    twin = device.aggregator.versions[1].files[INFER_INT8_FILE]
    assert len(device.aggregator.requests) == before + 2  # the release and the weights
    assert installed.int8 == (device.folder.current / INFER_INT8_FILE).read_bytes() == twin
    spec = activity_bundle.manifest.inputs[0]
    held_out = Examples(np.zeros((3, *spec.shape[1:]), np.float32), np.zeros(3, np.int32))
    result = count_correct(installed.int8, installed.bundle.manifest, held_out)
    assert result is not None
    assert result[1] == 3


def test_the_twin_gets_this_devices_own_head_after_the_servers_was_verified(
    device: Device, store: ModelStore, personal_bundle: Bundle
) -> None:
    put_online(device, personal_bundle, personal_bundle)
    first = store.install(0)
    assert first.int8 == device.aggregator.versions[0].files[INFER_INT8_FILE]
    own = np.random.default_rng(3).uniform(0.5, 1.5, first.layout.local.size).astype(np.float32)
    store.keep_local(first, own)
    before = len(device.aggregator.requests)
    second = store.install(1)
    assert len(device.aggregator.requests) == before + 2  # the release and the weights; the twin is made here
    assert second.layout.local.take(second.weights).tolist() == own.tolist()
    assert second.int8 == (device.folder.current / INFER_INT8_FILE).read_bytes()
    assert second.int8 != device.aggregator.versions[1].files[INFER_INT8_FILE]
    shape = personal_bundle.manifest.inputs[0].shape[1:]
    x = np.random.default_rng(4).normal(size=(8, *shape)).astype(np.float32)
    expected = TfliteTrainer(personal_bundle).predict(second.weights, Examples(x, np.zeros(8, np.int32)))
    np.testing.assert_allclose(InferenceModel(second.int8 or b"").predict(x), expected, rtol=0, atol=1e-4)


def test_what_is_published_is_the_release_and_nothing_of_this_devices_own(
    device: Device, certificates: Path, personal_bundle: Bundle
) -> None:
    put_online(device, personal_bundle, personal_bundle)
    models = device.path / "models"
    with serve(certificates, device.answer) as url:
        enrolment = dataclasses.replace(enrolled(device.path, device.aggregator, url), models=models)
        with device.opened(url, enrolment) as store:
            first = store.install(0)
            store.keep_local(first, np.ones(first.layout.local.size, np.float32))
            second = store.install(1)
            store.keep_personal(second, b"this device's own")
    released = device.aggregator.versions[1].files[INFER_INT8_FILE]
    assert second.int8 != released
    published = {path.relative_to(models) for path in models.rglob("*") if path.is_file() and not path.is_symlink()}
    assert published == {Path("releases/1") / INFER_INT8_FILE}
    assert (models / "current" / INFER_INT8_FILE).read_bytes() == released


def test_a_model_that_cannot_be_published_does_not_keep_the_device_away(device: Device, certificates: Path) -> None:
    (device.path / "models").write_bytes(b"a file")
    with serve(certificates, device.answer) as url:
        enrolment = dataclasses.replace(enrolled(device.path, device.aggregator, url), models=device.path / "models")
        with device.opened(url, enrolment) as store:
            assert store.install(1).version == 1


def test_own_values_that_no_twin_takes_do_not_keep_the_device_away(
    device: Device, store: ModelStore, personal_bundle: Bundle
) -> None:
    put_online(device, personal_bundle, personal_bundle)
    first = store.install(0)
    store.keep_local(first, np.full(first.layout.local.size, np.nan, np.float32))
    second = store.install(1)
    assert second.int8 == device.aggregator.versions[1].files[INFER_INT8_FILE]
    assert any("has the release's local tensors" in line for line in device.lines)


def test_own_values_outlive_the_process(device: Device, certificates: Path, personal_bundle: Bundle) -> None:
    put_online(device, personal_bundle, personal_bundle)
    with serve(certificates, device.answer) as url:
        enrolment = enrolled(device.path, device.aggregator, url)
        with device.opened(url, enrolment) as store:
            installed = store.install(0)
            own = np.arange(installed.layout.local.size, dtype=np.float32)
            store.keep_local(installed, own)
        for version in (0, 1):
            with device.opened(url, enrolment) as store:
                again = store.install(version)
            assert again.layout.local.take(again.weights).tolist() == own.tolist()
            assert again.model_sha256 == device.aggregator.versions[version].model_sha256


@pytest.mark.parametrize("role", ["shared", "statistic"])
def test_a_release_that_would_upload_what_was_local_is_refused(
    device: Device, store: ModelStore, personal_bundle: Bundle, role: Role
) -> None:
    """The release is signed by the right key, and everything else in it is as it should be."""
    tensors = tuple(
        dataclasses.replace(spec, role=role) if spec.path == "network/head/kernel" else spec
        for spec in personal_bundle.manifest.tensors
    )
    exposing = Bundle(dataclasses.replace(personal_bundle.manifest, tensors=tensors), personal_bundle.files)
    put_online(device, personal_bundle, exposing)
    installed = store.install(0)
    own = np.ones(installed.layout.local.size, np.float32)
    store.keep_local(installed, own)
    kept = device.folder.local_tensors.read_bytes()
    for _ in range(2):
        with refused("local-tensor-exposed"):
            store.install(1)
    assert current_version(device.folder) == 0
    assert device.folder.local_tensors.read_bytes() == kept
