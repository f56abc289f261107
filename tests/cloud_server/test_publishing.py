"""What is published: signed, only ever newer, and the int8 twin is the one that devices make themselves."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load
from sqlalchemy.exc import IntegrityError

from cloud_server.publishing import Version, make_version
from cloud_server.tasks import insert_version
from shared.bundle import INFER_FILE, INFER_INT8_FILE, MANIFEST_FILE, Bundle, initial_weights, patch_model
from shared.errors import Refused
from shared.numeric.wire_weights import dequantize_weights, model_hash
from shared.plan import Plan, Stop
from shared.release import PLAN_FILE, WEIGHTS_FILE, verify_release
from shared.wire.canonical import sha256
from shared.wire.signed import SigningKey
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.members import STEPS
from tests.shared.refusals import refused

KEY = SigningKey(sha256(b"release"))
NOW_S = 1_800_000_000.0


def published(bundle: Bundle, number: int, master: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Version:
    files = {**bundle.files, MANIFEST_FILE: bundle.manifest.to_bytes()}
    return make_version(
        number, master, plan=Plan("activity"), manifest=bundle.manifest, bundle=files, key=KEY, now_s=NOW_S
    )


def test_a_device_makes_the_same_int8_twin_from_the_weights_alone(activity_bundle: Bundle) -> None:
    manifest = activity_bundle.manifest
    first = published(activity_bundle, 0, initial_weights(activity_bundle))
    master = np.random.default_rng(5).normal(0, 0.3, manifest.parameters).astype(np.float32)
    second = published(activity_bundle, 1, master)
    start = dequantize_weights(second.files[WEIGHTS_FILE], manifest.tensors, manifest.parameters)
    patches = tuple(patch for patch in manifest.patches if patch.file == INFER_INT8_FILE)
    own = patch_model(first.files[INFER_INT8_FILE], patches, start, manifest.tensors)
    assert own == second.files[INFER_INT8_FILE]
    assert own != first.files[INFER_INT8_FILE]
    assert second.model_sha256 == model_hash(start, second.files[MANIFEST_FILE])
    assert second.files[INFER_FILE] != first.files[INFER_FILE]


def test_the_release_verifies_and_names_every_file(activity_bundle: Bundle) -> None:
    made = published(activity_bundle, 3, initial_weights(activity_bundle))

    def check(body: bytes, key: SigningKey = KEY, task: str = "activity", newest: int = 3) -> None:
        verify_release(body, made.signature, public_key=key.public, task=task, min_version=newest, now_s=NOW_S).files[
            WEIGHTS_FILE
        ].check(made.files[WEIGHTS_FILE], WEIGHTS_FILE)

    check(made.release)
    with refused("bad-signature"):
        check(made.release + b" ")
    with refused("bad-signature"):
        check(made.release, key=SigningKey(bytes(32)))
    with refused("wrong-task"):
        check(made.release, task="other")
    with refused("version-rollback"):
        check(made.release, newest=4)
    release = verify_release(
        made.release, made.signature, public_key=KEY.public, task="activity", min_version=0, now_s=NOW_S
    )
    assert release.files.keys() == made.files.keys()
    for name, entry in release.files.items():
        assert entry.check(made.files[name], name)
    with pytest.raises(Refused):
        release.files[PLAN_FILE].check(made.files[PLAN_FILE] + b" ", PLAN_FILE)


def test_versions_only_grow_and_stay(local: Local) -> None:
    members = local.cohort(small_plan("point", stop=Stop(rounds=3)), 4)
    bodies = []
    for version in range(3):
        if version:
            local.meet(members, version)
        for step in STEPS:
            local.do(members, step)
        bodies.append(local.rows("SELECT number, release FROM version ORDER BY number"))
    assert [[row[0] for row in rows] for rows in bodies] == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert bodies[2][:2] == bodies[0]
    np.testing.assert_allclose(load(members[0].weights(3))["theta"], [3.0] * 4 + [0.0] * 4, atol=1e-5)


def test_a_version_is_never_published_twice(activity_bundle: Bundle, local: Local) -> None:
    local.create(small_plan("point"))
    master = initial_weights(activity_bundle)
    made = published(activity_bundle, 0, master)
    with pytest.raises(IntegrityError), local.parts.database.write() as connection:
        insert_version(connection, "point", made, "0" * 64, NOW_S)
    assert local.rows("SELECT count(*) FROM version") == [(1,)]
