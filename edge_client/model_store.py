"""The releases on this device: fetched, verified as a whole, and only then put in the place of the one before.

Rules: a release is signed by the pinned key, for this device's task, not expired and never older than the newest one
used; every file has the release's hash; the weights have the release's model hash; the plan keeps the owner's floors.
The programs and the plan come once. Later versions bring int8 weights alone, from which the device makes its own
inference twin, byte for byte the server's. Not handled here: whether a model is any good.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edge_client.download import download
from edge_client.durable import naming_disk_errors, sync_folder, write_durably
from edge_client.identity import Enrolment
from edge_client.journal import Journal
from edge_client.state_folder import StateFolder
from edge_client.traffic import Downward
from edge_client.trainer.protocol import F32
from edge_client.transport import Transport
from shared.bundle import INFER_INT8_FILE, MANIFEST_FILE, TRAIN_FILE, Bundle, BundleManifest, patch_model, verify_bundle
from shared.clock import Clock
from shared.errors import BundleError, Refused
from shared.numeric.wire_weights import dequantize_weights, model_hash
from shared.plan import Plan
from shared.release import (
    PLAN_FILE,
    RELEASE_FILE,
    SIGNATURE_FILE,
    WEIGHTS_FILE,
    FileEntry,
    Release,
    verify_release,
)
from shared.wire.canonical import sha256
from shared.wire.messages import read_release
from shared.wire.requests import RELEASES

_ONCE = (PLAN_FILE, MANIFEST_FILE, TRAIN_FILE)


@dataclass(frozen=True)
class Installed:
    """A verified release, ready to train from.

    Attributes:
        version: of the release.
        plan: what to do with it.
        plan_sha256: hash of the plan's exact bytes.
        bundle: the manifest and the training program.
        weights: f32[d], where training starts.
        model_sha256: hash of ``weights``.
        int8: the inference twin, None for engines without one.
    """

    version: int
    plan: Plan
    plan_sha256: bytes
    bundle: Bundle
    weights: F32
    model_sha256: bytes
    int8: bytes | None


class ModelStore:
    """Keeps the release in use; one device, one task."""

    def __init__(
        self, folder: StateFolder, enrolment: Enrolment, transport: Transport, journal: Journal, clock: Clock
    ) -> None:
        self._folder = folder
        self._enrolment = enrolment
        self._root = enrolment.root
        self._transport = transport
        self._journal = journal
        self._clock = clock
        self._installed: Installed | None = None

    def install(self, version: int) -> Installed:
        """Return ``version``, fetched and verified if it is not the one in use; the old one stays in use on errors.

        Raises:
            Unauthenticated, Refused, BundleError, ProtocolAbort, TryLater: by the rule that was broken.
            TryLater: ``disk-write-failed``.
        """
        if self._installed is None or self._installed.version != version:
            with naming_disk_errors(self._folder.path):
                self._installed = self._fetch(version)
        return self._installed

    def _fetch(self, version: int) -> Installed:
        body, signature = read_release(self._transport.send("GET", f"{RELEASES}/{version}").body)
        release = self._verified(body, signature)
        if release.version != version:
            raise Refused("wrong-version", f"The server sent version {release.version} for version {version}.")
        self._folder.store.mkdir(exist_ok=True)
        files = {name: self._file(release, name, "bundle_down") for name in _ONCE if name in release.files}
        files[WEIGHTS_FILE] = self._file(release, WEIGHTS_FILE, "weights_down")
        installed = self._checked(release, files)
        self._activate(release, installed, body, signature)
        return installed

    def _verified(self, body: bytes, signature: bytes) -> Release:
        return verify_release(
            body,
            signature,
            public_key=self._root.release_key,
            task=self._enrolment.task,
            min_version=self._journal.highest_version,
            now_s=self._clock.now_s(),
        )

    def _file(self, release: Release, name: str, counts_as: Downward) -> bytes:
        """Return a file of the release, from the store if it is there and whole."""
        entry = _entry(release, name)
        path = self._folder.store / entry.sha256
        if path.exists():
            data = path.read_bytes()
            if FileEntry.of(data) == entry:
                return data
            path.unlink()  # the card is wearing out, or someone changed it
        download(self._transport, entry, path, counts_as=counts_as)
        return entry.check(path.read_bytes(), name)

    def _checked(self, release: Release, files: Mapping[str, bytes]) -> Installed:
        plan = self._plan(_present(files, PLAN_FILE))
        bundle = _bundle(files)
        manifest = bundle.manifest
        weights = dequantize_weights(files[WEIGHTS_FILE], manifest.tensors, manifest.parameters)
        model_sha256 = model_hash(weights)
        if model_sha256.hex() != release.model_sha256:
            raise Refused("wrong-model-hash", "The weights are not the ones that the release names.")
        int8 = self._twin(release, manifest, weights) if INFER_INT8_FILE in release.files else None
        return Installed(release.version, plan, sha256(files[PLAN_FILE]), bundle, weights, model_sha256, int8)

    def _plan(self, data: bytes) -> Plan:
        plan = Plan.from_bytes(data)
        if plan.task != self._enrolment.task:
            raise Refused("wrong-task", f"The release brings the plan of another task, {plan.task!r}.")
        self._enrolment.floors.check(plan.rules, plan.update.max_l2_norm)
        return plan

    def _twin(self, release: Release, manifest: BundleManifest, weights: F32) -> bytes:
        """Return the int8 twin: made from the one in use and the new weights, or else fetched."""
        entry = _entry(release, INFER_INT8_FILE)
        own = self._folder.current / INFER_INT8_FILE
        if own.exists():
            patches = tuple(patch for patch in manifest.patches if patch.file == INFER_INT8_FILE)
            try:
                return entry.check(patch_model(own.read_bytes(), patches, weights, manifest.tensors), INFER_INT8_FILE)
            except (Refused, BundleError):
                pass  # the program itself changed, or the file on the card did
        return self._file(release, INFER_INT8_FILE, "bundle_down")

    def _activate(self, release: Release, installed: Installed, body: bytes, signature: bytes) -> None:
        """Put the release in the place of the one before in one step, and delete what nobody needs any more."""
        self._journal.use_version(release.version)
        place = self._folder.releases / str(release.version)
        place.mkdir(parents=True, exist_ok=True)
        write_durably(place / RELEASE_FILE, body)
        write_durably(place / SIGNATURE_FILE, signature)
        if installed.int8 is not None:
            write_durably(place / INFER_INT8_FILE, installed.int8)
        link = self._folder.path / ".current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(place.relative_to(self._folder.path))
        link.replace(self._folder.current)
        sync_folder(self._folder.path)
        self._clean(release)

    def _clean(self, release: Release) -> None:
        needed = {release.files[name].sha256 for name in (*_ONCE, WEIGHTS_FILE) if name in release.files}
        for path in self._folder.store.iterdir():
            if path.name not in needed:
                path.unlink()
        for path in self._folder.releases.iterdir():
            if path.name != str(release.version):
                shutil.rmtree(path)


def _bundle(files: Mapping[str, bytes]) -> Bundle:
    """Return the part of the bundle that a device trains with."""
    manifest = BundleManifest.from_bytes(_present(files, MANIFEST_FILE))
    if any(tensor.role == "local" for tensor in manifest.tensors):
        raise BundleError(
            "bundle-local-tensors",
            "The model has tensors that must stay on the device, which this agent would upload.",
            "the operator has to convert the model without --local",
        )
    if manifest.engine == "quadratic":
        return Bundle(manifest, {})
    program = {TRAIN_FILE: manifest.files[TRAIN_FILE]}
    return replace(verify_bundle(replace(manifest, files=program), files), manifest=manifest)


def _entry(release: Release, name: str) -> FileEntry:
    if name not in release.files:
        raise BundleError("release-incomplete", f"The release has no {name}.", "the operator has to publish it again")
    return release.files[name]


def _present(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise BundleError("release-incomplete", f"The release has no {name}.", "the operator has to publish it again")
    return files[name]


def current_version(folder: StateFolder) -> int | None:
    """Return the version in use, None before the first."""
    try:
        return int(folder.current.readlink().name)
    except (OSError, ValueError):
        return None
