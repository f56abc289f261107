"""A bundle arrives over the network: everything that could be wrong with it must be refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

from shared.bundle import (
    INFER_INT8_FILE,
    TRAIN_FILE,
    WEIGHTS_FILE,
    Bundle,
    BundleManifest,
    initial_weights,
    patch_model,
    quantize_symmetric,
    read_bundle,
    verify_bundle,
)
from shared.errors import BundleError
from shared.tflite_file import constants, custom_operators

Document = dict[str, Any]


def test_a_fresh_bundle_reads(activity_bundle: Bundle) -> None:
    manifest = activity_bundle.manifest
    assert initial_weights(activity_bundle).shape == (manifest.parameters,)
    assert BundleManifest.from_bytes(manifest.to_bytes()).to_bytes() == manifest.to_bytes()
    assert {patch.path for patch in manifest.patches} == {spec.path for spec in manifest.tensors}


def test_an_engine_without_programs_needs_only_weights(activity_bundle: Bundle) -> None:
    document = json.loads(activity_bundle.manifest.to_bytes())
    document |= {"engine": "quadratic", "patches": [], "files": {WEIGHTS_FILE: document["files"][WEIGHTS_FILE]}}
    manifest = BundleManifest.from_bytes(json.dumps(document).encode())
    assert verify_bundle(manifest, {WEIGHTS_FILE: activity_bundle.files[WEIGHTS_FILE]}).manifest.patches == ()


def _drop_train(document: Document) -> None:
    del document["files"][TRAIN_FILE]


def _escape(document: Document) -> None:
    document["files"]["../evil"] = "0" * 64


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("format"),
        lambda d: d.update(format=2),
        lambda d: d.update(batch_size=True),
        lambda d: d.update(batch_size=-1),
        lambda d: d.update(engine="flex"),
        lambda d: d.update(name=7),
        lambda d: d["tensors"][1].update(offset=0),
        lambda d: d["tensors"][0].update(size=1),
        lambda d: d["tensors"][0].update(shape=[-1, 6]),
        lambda d: d["tensors"][0].update(role="secret"),
        lambda d: d["tensors"][0].update(minimum=0.0),  # of a shared tensor
        lambda d: d["tensors"][0].update(role="statistic", minimum=float("nan")),
        lambda d: d["tensors"].append(d["tensors"][0]),
        lambda d: d["inputs"][0].update(dtype="object"),
        lambda d: d["train_inputs"][0].update(default=float("nan")),
        lambda d: d["patches"][0].update(order=[0, 0, 0]),
        lambda d: d["patches"][0].update(path="nothing"),
        lambda d: d["patches"][0].update(offset=-4),
        lambda d: d["patches"][0].update(dtype="int8"),
        lambda d: d["patches"][0].update(file=TRAIN_FILE),
        lambda d: d["files"].update({TRAIN_FILE: "abc"}),
        _drop_train,
        _escape,
    ],
)
def test_damaged_manifest_is_refused(activity_bundle: Bundle, damage: Callable[[Document], object]) -> None:
    document = json.loads(activity_bundle.manifest.to_bytes())
    damage(document)
    with pytest.raises(BundleError) as caught:
        BundleManifest.from_bytes(json.dumps(document).encode())
    assert caught.value.code == "bundle-manifest"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="bundle-manifest"):
        BundleManifest.from_bytes(data)


def test_a_flipped_bit_is_found(activity_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(activity_folder, copy)
    damaged = bytearray((copy / TRAIN_FILE).read_bytes())
    damaged[-1] ^= 1
    (copy / TRAIN_FILE).write_bytes(damaged)
    with pytest.raises(BundleError, match="bundle-file-hash"):
        read_bundle(copy)


def test_a_missing_file_is_named(activity_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(activity_folder, copy)
    (copy / INFER_INT8_FILE).unlink()
    with pytest.raises(BundleError, match=INFER_INT8_FILE):
        read_bundle(copy)


def _with_train(bundle: Bundle, model: bytes) -> tuple[BundleManifest, dict[str, bytes]]:
    import hashlib  # noqa: PLC0415 - only to forge

    files = {**bundle.files, TRAIN_FILE: model}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return replace(bundle.manifest, files=digests), files


def flex_model() -> bytes:
    """Return a FlatBuffer with one operator code: CUSTOM, "FlexReluGrad"."""
    name = b"FlexReluGrad"
    code_table = b"\x0a\x00\x0c\x00\x07\x00\x08\x00\x00\x00\x00\x00"  # vtable of the operator code, padded
    # vtable at 36: 10 bytes, table of 12; field 0 (int8) at 7, field 1 (string) at 8
    code = (12).to_bytes(4, "little", signed=True) + b"\x00\x00\x00\x20" + (4).to_bytes(4, "little")
    text = len(name).to_bytes(4, "little") + name + b"\x00"
    vector = (1).to_bytes(4, "little") + (4 + len(code_table)).to_bytes(4, "little")
    root_vtable = b"\x08\x00\x08\x00\x00\x00\x04\x00"
    root = (8).to_bytes(4, "little", signed=True) + (4).to_bytes(4, "little")
    return (16).to_bytes(4, "little") + b"TFL3" + root_vtable + root + vector + code_table + code + text


def test_a_program_with_a_flex_operator_is_refused(activity_bundle: Bundle) -> None:
    assert custom_operators(flex_model()) == ["FlexReluGrad"]
    with pytest.raises(BundleError, match="FlexReluGrad") as caught:
        verify_bundle(*_with_train(activity_bundle, flex_model()))
    assert caught.value.code == "bundle-flex-op"


def test_cut_and_scrambled_programs_never_crash_the_parser(activity_bundle: Bundle) -> None:
    model = activity_bundle.files[INFER_INT8_FILE]
    generator = np.random.default_rng(11)
    for _ in range(200):
        damaged = bytearray(model[: generator.integers(1, len(model))])
        for place in generator.integers(0, len(damaged), 20):
            damaged[place] = int(generator.integers(0, 256))
        try:
            custom_operators(bytes(damaged))
            constants(bytes(damaged))
        except BundleError as error:
            assert error.code in {"bundle-not-tflite", "bundle-damaged-tflite"}  # noqa: PT017 - both ends are fine


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(activity_bundle: Bundle, value: float) -> None:
    arrays = {spec.path: np.full(spec.shape, value, np.float32) for spec in activity_bundle.manifest.tensors}
    forged = replace(activity_bundle, files={WEIGHTS_FILE: save_safetensors(arrays)})
    with pytest.raises(BundleError, match="bundle-weights"):
        initial_weights(forged)


def test_a_patch_outside_the_file_is_refused(activity_bundle: Bundle) -> None:
    manifest = activity_bundle.manifest
    model = activity_bundle.files[INFER_INT8_FILE]
    patch = next(patch for patch in manifest.patches if patch.file == INFER_INT8_FILE)
    with pytest.raises(BundleError, match="bundle-patch"):
        patch_model(model, (replace(patch, offset=len(model) - 4),), initial_weights(activity_bundle), manifest.tensors)


def test_patching_the_same_weights_changes_nothing(activity_bundle: Bundle) -> None:
    manifest = activity_bundle.manifest
    patches = tuple(patch for patch in manifest.patches if patch.file == INFER_INT8_FILE)
    model = activity_bundle.files[INFER_INT8_FILE]
    assert patch_model(model, patches, initial_weights(activity_bundle), manifest.tensors) == model


def test_quantization_keeps_zero_channels_and_the_largest_value() -> None:
    stored = np.array([0.0, 0.0, 1.0, -2.0], np.float32)
    scales, levels = quantize_symmetric(stored, channels=2, inner=2)
    np.testing.assert_array_equal(levels, np.array([0, 0, 64, -127], np.int8))
    np.testing.assert_allclose(levels.reshape(2, 2) * scales[:, None], stored.reshape(2, 2), atol=0.01)
