"""From weights to a version that devices can use: int8 down, twins patched, one signed release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.bundle import INFER_FILE, INFER_INT8_FILE, MANIFEST_FILE, TRAIN_FILE, BundleManifest, patch_model
from shared.numeric.starting_weights import read_start, write_start
from shared.numeric.wire_weights import model_hash
from shared.plan import Plan
from shared.release import LOCAL_FILE, PLAN_FILE, WEIGHTS_FILE, FileEntry, Release, key_id, sign_release
from shared.wire.signed import SigningKey


@dataclass(frozen=True)
class Version:
    """A version ready to be stored and released.

    Attributes:
        number: strictly increasing per task.
        release: exact bytes of release.json.
        signature: 64 octets over them.
        model_sha256: of the weights that devices start from and the bundle's manifest, 32 octets.
        files: contents by name.
    """

    number: int
    release: bytes
    signature: bytes
    model_sha256: bytes
    files: Mapping[str, bytes]


def make_version(
    number: int,
    master: npt.NDArray[np.float32],
    *,
    plan: Plan,
    manifest: BundleManifest,
    bundle: Mapping[str, bytes],
    key: SigningKey,
    now_s: float,
) -> Version:
    """Quantize, patch and sign; TensorFlow is not needed.

    Args:
        number: of the version.
        master: f32[d], the aggregator's own weights; local tensors are at their initial values for ever.
        plan: the task's plan.
        manifest: of the bundle.
        bundle: the bundle's files by name, as the converter made them.
        key: the release key.
        now_s: seconds since the epoch.
    """
    wire, local = write_start(master, manifest.tensors)
    start = read_start(wire, local, manifest.tensors)
    files = {PLAN_FILE: plan.to_bytes(), MANIFEST_FILE: bundle[MANIFEST_FILE], WEIGHTS_FILE: wire}
    if local is not None:
        files[LOCAL_FILE] = local
    if TRAIN_FILE in bundle:
        files[TRAIN_FILE] = bundle[TRAIN_FILE]
    # The float twin holds the master; the int8 twin what a device can compute itself from the wire weights.
    for name, weights in ((INFER_FILE, master), (INFER_INT8_FILE, start)):
        if name in bundle:
            patches = tuple(patch for patch in manifest.patches if patch.file == name)
            files[name] = patch_model(bundle[name], patches, weights, manifest.tensors)
    model_sha256 = model_hash(start, bundle[MANIFEST_FILE])
    release = Release(
        task=plan.task,
        version=number,
        issued_at_s=int(now_s),
        expires_at_s=int(now_s + plan.release.valid_s),
        files={name: FileEntry.of(data) for name, data in files.items()},
        key_id=key_id(key.public),
        model_sha256=model_sha256.hex(),
    )
    body, signature = sign_release(release, key)
    return Version(number, body, signature, model_sha256, files)
