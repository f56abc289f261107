"""Verify the release in use once more, as far as its files are on this device."""

from __future__ import annotations

from edge_client.identity import Enrolment
from edge_client.journal import Journal
from edge_client.model_store import release_key
from edge_client.state_folder import StateFolder
from shared.bundle import INFER_INT8_FILE
from shared.errors import BrokenState
from shared.release import LOCAL_FILE, RELEASE_FILE, SIGNATURE_FILE, verify_release


def verified_version(folder: StateFolder, enrolment: Enrolment, journal: Journal, version: int) -> None:
    """Check the release in use: its signature, and the hash of each of its files that is here.

    Not checked: whether it expired meanwhile, which no application can help; and an inference twin that has this
    device's own values of local tensors.

    Raises:
        FedloomError: ``model-damaged``, or what is wrong with the signature.
    """
    place = folder.releases / str(version)
    try:
        body, signature = (place / RELEASE_FILE).read_bytes(), (place / SIGNATURE_FILE).read_bytes()
    except OSError as error:
        raise _damaged(f"{error.filename} cannot be read") from error
    key = release_key(enrolment.root, journal)
    release = verify_release(body, signature, public_key=key, task=enrolment.task, min_version=0, now_s=0.0)
    if release.version != version:
        raise _damaged(f"it holds version {release.version}")
    held = {name: folder.store / entry.sha256 for name, entry in release.files.items()}
    if LOCAL_FILE not in release.files:
        held[INFER_INT8_FILE] = place / INFER_INT8_FILE
    for name, path in held.items():
        if name in release.files and path.exists():
            release.files[name].check(path.read_bytes(), name)
    if INFER_INT8_FILE in release.files and not (place / INFER_INT8_FILE).exists():
        raise _damaged(f"{INFER_INT8_FILE} is not there")


def _damaged(why: str) -> BrokenState:
    return BrokenState("model-damaged", f"{why}.", "`fedloom-agent reset --yes`")
