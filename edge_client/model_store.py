"""The releases on this device: fetched, verified as a whole, and only then put in the place of the one before.

Rules: a release is signed by the pinned key, for this device's task, not expired and never older than the newest one
used, unless the release decision that this device follows names it; every file has the release's hash; the weights have
the release's model hash; the plan keeps the owner's floors. Without a decision the newest version is in use. With one
its version is, and the newest is kept beside it to train from.
The programs, the plan and the initial values of local tensors come once. Later versions bring int8 weights alone, from
which the device makes the server's inference twin, byte for byte, and then its own: with its values of local tensors.
Not handled here: whether a model is any good.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from edge_client.difference import download_difference
from edge_client.download import download
from edge_client.durable import naming_disk_errors, sync_folder, write_durably
from edge_client.identity import Enrolment
from edge_client.journal import SIGNED_TIME, Journal
from edge_client.local_tensors import LocalTensors
from edge_client.problems import VersionClosed
from edge_client.published import PublishedModels
from edge_client.state_folder import PERSONAL_FILE, StateFolder, current_version
from edge_client.traffic import Downward
from edge_client.trainer.protocol import F32
from edge_client.transport import Transport
from shared.bundle import INFER_INT8_FILE, MANIFEST_FILE, TRAIN_FILE, Bundle, BundleManifest, patch_model, verify_bundle
from shared.clock import Clock
from shared.errors import BundleError, FedloomError, Missing, Refused, TryLater
from shared.layout import Layout
from shared.numeric.starting_weights import read_start
from shared.numeric.wire_weights import model_hash
from shared.plan import Plan
from shared.release import (
    LOCAL_FILE,
    PLAN_FILE,
    RELEASE_FILE,
    SIGNATURE_FILE,
    WEIGHTS_FILE,
    FileEntry,
    Release,
    parse_release,
    verify_release,
)
from shared.root import Root
from shared.wire.canonical import sha256
from shared.wire.messages import read_release
from shared.wire.requests import RELEASES

_ONCE = (PLAN_FILE, MANIFEST_FILE, TRAIN_FILE, LOCAL_FILE)


@dataclass(frozen=True)
class Installed:
    """A verified release, ready to train from.

    Attributes:
        version: of the release.
        plan: what to do with it.
        plan_sha256: hash of the plan's exact bytes.
        bundle: the manifest and the training program.
        layout: of the weights.
        weights: f32[d], where training starts on this device: the release's, local tensors at this device's values.
        model_sha256: hash of the release's weights, local tensors at their initial values, and of its manifest.
        local_identity: 32 octets that name the bundle and the initial values of local tensors.
        int8: this device's inference twin, None for engines without one.
        released_int8: the same as the server released it.
    """

    version: int
    plan: Plan
    plan_sha256: bytes
    bundle: Bundle
    layout: Layout
    weights: F32
    model_sha256: bytes
    local_identity: bytes
    int8: bytes | None
    released_int8: bytes | None


class ModelStore:
    """Keeps the release in use; one device, one task."""

    def __init__(
        self,
        folder: StateFolder,
        enrolment: Enrolment,
        transport: Transport,
        journal: Journal,
        clock: Clock,
        log: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._enrolment = enrolment
        self._root = enrolment.root
        self._transport = transport
        self._journal = journal
        self._clock = clock
        self._log = log
        self._local = LocalTensors(folder.local_tensors, journal, log)
        self._installed: Installed | None = None
        self._used: Installed | None = None  # by decision

    def install(self, version: int) -> Installed:
        """Return ``version`` to train from, fetched and verified if it is not the last one.

        It is put in use, too, where no decision says what is. On errors the old one stays in use.

        Raises:
            Unauthenticated, Refused, BundleError, ProtocolAbort, TryLater: by the rule that was broken.
            TryLater: ``disk-write-failed``.
        """
        if self._installed is None or self._installed.version != version:
            self._installed = self.load(version, use=self._journal.decision is None)
        return self._installed

    def use(self, version: int) -> Installed:
        """Return ``version``, which a decision names, put in use if it was not; raises as ``install``."""
        if self._used is None or self._used.version != version or current_version(self._folder) != version:
            self._used = self.load(version, use=True)
        return self._used

    def load(self, version: int, *, use: bool = False) -> Installed:
        """Return ``version``, fetched and verified, and put in use if asked; raises as ``install``."""
        with naming_disk_errors(self._folder.path):
            try:
                return self._fetch(version, use=use)
            except Missing as error:
                if error.code != "blob-unknown":
                    raise
                # The server let go of the version while this device was fetching it.
                raise VersionClosed(error.code, error.message, "the newest version is used") from error

    @property
    def version_in_use(self) -> int | None:
        """The version that applications on this device read, None before the first."""
        return current_version(self._folder)

    def keep_local(self, installed: Installed, values: F32) -> None:
        """Keep what training made of local tensors, f32[n]; the next training starts there.

        The inference twin takes them over with the next version: these values were trained beside that one's.

        Raises:
            TryLater: ``disk-write-failed``.
        """
        if not installed.layout.local.size:
            return
        self._local.save(installed.local_identity, values)
        self._installed = replace(installed, weights=installed.layout.local.replace(installed.weights, values))
        self._used = None  # its twin takes them over, too

    def keep_personal(self, installed: Installed, twin: bytes) -> None:
        """Write an inference twin with this device's own weights into the folder of a release.

        Raises:
            TryLater: ``disk-write-failed``.
        """
        with naming_disk_errors(self._folder.path):
            write_durably(self._folder.releases / str(installed.version) / PERSONAL_FILE, twin)

    def _fetch(self, version: int, *, use: bool) -> Installed:
        body, signature = read_release(self._transport.send("GET", f"{RELEASES}/{version}").body)
        release = self._verified(body, signature, version)
        if release.version != version:
            raise Refused("wrong-version", f"The server sent version {release.version} for version {version}.")
        self._folder.store.mkdir(exist_ok=True)
        files = {name: self._file(release, name, "bundle_down") for name in _ONCE if name in release.files}
        files[WEIGHTS_FILE] = self._file(release, WEIGHTS_FILE, "weights_down")
        installed = self._checked(release, files, with_twin=use)
        self._keep(release, installed, body, signature)
        if use:
            self._activate(version)
            self._publish(installed)
        self._clean(version)
        return installed

    def _verified(self, body: bytes, signature: bytes, version: int) -> Release:
        decision = self._journal.decision
        named = decision is not None and version in decision.versions
        return verify_release(
            body,
            signature,
            public_key=release_key(self._root, self._journal),
            task=self._enrolment.task,
            min_version=0 if named else self._journal.highest_version,
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
        before = self._held_weights() if name == WEIGHTS_FILE else None
        if before is not None and (made := download_difference(self._transport, entry, before)) is not None:
            write_durably(path, made)
            return made
        download(self._transport, entry, path, counts_as=counts_as)
        return entry.check(path.read_bytes(), name)

    def _held_weights(self) -> bytes | None:
        """Return the weights of the newest release here, if they are there and whole."""
        newest = max(kept_versions(self._folder), default=0)
        try:
            release = parse_release((self._folder.releases / str(newest) / RELEASE_FILE).read_bytes())
            entry = _entry(release, WEIGHTS_FILE)
            return entry.check((self._folder.store / entry.sha256).read_bytes(), WEIGHTS_FILE)
        except (OSError, FedloomError):
            return None  # before the first one, or the card is wearing out

    def _checked(self, release: Release, files: Mapping[str, bytes], *, with_twin: bool) -> Installed:
        plan = self._plan(_present(files, PLAN_FILE))
        bundle = _bundle(files)
        tensors, layout = bundle.manifest.tensors, Layout.of(bundle.manifest.tensors)
        local = _present(files, LOCAL_FILE) if layout.local.size else None
        start = read_start(files[WEIGHTS_FILE], local, tensors)
        model_sha256 = model_hash(start, files[MANIFEST_FILE])
        if model_sha256.hex() != release.model_sha256:
            raise Refused("wrong-model-hash", "Weights or program are not the ones that the release names.")
        self._local.admit(tensors)
        identity = sha256(sha256(files[MANIFEST_FILE]) + sha256(local or b""))
        weights = self._own(layout, identity, start)
        wanted = with_twin and INFER_INT8_FILE in release.files
        int8 = released_int8 = self._twin(release, bundle.manifest, start) if wanted else None
        if int8 is not None and layout.local.size:
            int8 = self._own_twin(int8, bundle.manifest, weights, release.version)
        plan_sha256 = sha256(files[PLAN_FILE])
        return Installed(
            release.version, plan, plan_sha256, bundle, layout, weights, model_sha256, identity, int8, released_int8
        )

    def _own(self, layout: Layout, identity: bytes, start: F32) -> F32:
        """Return the release's weights with this device's values of local tensors."""
        if not layout.local.size:
            return start
        return layout.local.replace(start, self._local.load(identity, layout.local.take(start)))

    def _plan(self, data: bytes) -> Plan:
        plan = Plan.from_bytes(data)
        if plan.task != self._enrolment.task:
            raise Refused("wrong-task", f"The release brings the plan of another task, {plan.task!r}.")
        bounds = plan.update
        self._enrolment.floors.check(plan.rules, max(bounds.max_l2_norm, bounds.statistics_max_l2_norm))
        self._enrolment.privacy_floors.check_plan(plan)
        return plan

    def _twin(self, release: Release, manifest: BundleManifest, weights: F32) -> bytes:
        """Return the server's int8 twin: made from the one in use and the release's weights, or else fetched."""
        entry = _entry(release, INFER_INT8_FILE)
        own = self._folder.current / INFER_INT8_FILE
        if own.exists():
            try:
                return entry.check(patched_twin(own.read_bytes(), manifest, weights), INFER_INT8_FILE)
            except (Refused, BundleError):
                pass  # the program itself changed, or the file on the card did
        return self._file(release, INFER_INT8_FILE, "bundle_down")

    def _own_twin(self, twin: bytes, manifest: BundleManifest, weights: F32, version: int) -> bytes:
        """Return an int8 twin with this device's values of local tensors, or as it is where they do not fit int8.

        Not an error: those values come from this device's examples, and whether it takes part must not tell of them.
        """
        try:
            return patched_twin(twin, manifest, weights)
        except BundleError as error:
            self._log(f"version {version}: the int8 model has the release's local tensors: {error}")
            return twin

    def _keep(self, release: Release, installed: Installed, body: bytes, signature: bytes) -> None:
        """Write down what the release is, and its inference twin."""
        self._journal.use_version(release.version)
        if release.issued_at_s > float(self._journal.get(SIGNED_TIME) or 0.0):
            self._journal.put(SIGNED_TIME, str(release.issued_at_s))
        place = self._folder.releases / str(release.version)
        place.mkdir(parents=True, exist_ok=True)
        write_durably(place / RELEASE_FILE, body)
        write_durably(place / SIGNATURE_FILE, signature)
        if installed.int8 is not None:
            write_durably(place / INFER_INT8_FILE, installed.int8)

    def _activate(self, version: int) -> None:
        """Put a release in the place of the one before in one step."""
        place = self._folder.releases / str(version)
        link = self._folder.path / ".current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(place.relative_to(self._folder.path))
        link.replace(self._folder.current)
        sync_folder(self._folder.path)

    def _publish(self, installed: Installed) -> None:
        """Let other users' applications use a release; this device takes part all the same where that fails."""
        if self._enrolment.models is None or installed.released_int8 is None:
            return
        try:
            PublishedModels(self._enrolment.models).put(installed.version, installed.released_int8)
        except TryLater as error:
            self._log(f"version {installed.version} is not published for other users: {error}")

    def _clean(self, version: int) -> None:
        """Delete what nobody needs any more: all but this version, and with a decision those that it names.

        With it the version in use stays, too, and the newest one: training goes on from there.
        """
        decision, kept = self._journal.decision, {version}
        if decision is not None:
            here = kept_versions(self._folder)
            kept |= {max(here), *decision.versions, current_version(self._folder) or 0}
        needed = set[str]()
        for path in self._folder.releases.iterdir():
            if path.name not in {str(number) for number in kept}:
                shutil.rmtree(path)
                continue
            with suppress(OSError, FedloomError):  # half written, or the card is wearing out: it is fetched again
                files = parse_release((path / RELEASE_FILE).read_bytes()).files
                needed |= {files[name].sha256 for name in (*_ONCE, WEIGHTS_FILE) if name in files}
        for path in self._folder.store.iterdir():
            if path.name not in needed:
                path.unlink()


def release_key(root: Root, journal: Journal) -> bytes:
    """Return the public key that releases are signed by, as far as this device knows."""
    later = journal.release_key
    return root.release_key if later is None else later.public_key


def _bundle(files: Mapping[str, bytes]) -> Bundle:
    """Return the part of the bundle that a device trains with."""
    manifest = BundleManifest.from_bytes(_present(files, MANIFEST_FILE))
    if manifest.engine == "quadratic":
        return Bundle(manifest, {})
    program = {TRAIN_FILE: manifest.files[TRAIN_FILE]}
    return replace(verify_bundle(replace(manifest, files=program), files), manifest=manifest)


def patched_twin(twin: bytes, manifest: BundleManifest, weights: F32) -> bytes:
    """Return an int8 twin with other weights, f32[d]."""
    patches = tuple(patch for patch in manifest.patches if patch.file == INFER_INT8_FILE)
    return patch_model(twin, patches, weights, manifest.tensors)


def _entry(release: Release, name: str) -> FileEntry:
    if name not in release.files:
        raise BundleError("release-incomplete", f"The release has no {name}.", "the operator has to publish it again")
    return release.files[name]


def _present(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise BundleError("release-incomplete", f"The release has no {name}.", "the operator has to publish it again")
    return files[name]


def kept_versions(folder: StateFolder) -> list[int]:
    """Return the versions that are on this device."""
    names = (path.name for path in folder.releases.iterdir()) if folder.releases.is_dir() else ()
    return [int(name) for name in names if name.isascii() and name.isdigit()]
