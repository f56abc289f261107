"""The release key is replaced where the authority is another deployment: its operator certifies, nobody else can."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from cloud_server.cli import main
from cloud_server.releases.keys import newest_key, succession
from cloud_server.settings import DataFolder
from cloud_server.storage.opening import open_database
from cloud_server.tasks import release_of
from shared.errors import Refused, Unauthenticated
from shared.release import key_id, verify_release
from shared.release_key import request_release_key, verify_release_key
from shared.secagg.graph_seed import GraphSeed
from shared.wire.canonical import decode, sha256
from shared.wire.messages import read_signed, write_signed
from shared.wire.signed import SigningKey
from tests.e2e.pair import Pair
from tests.shared.refusals import refused

Captured = pytest.CaptureFixture[str]
ROOT: Final = sha256(b"roster")
PATIENCE_S: Final = 120.0


def run(captured: Captured, *words: str | Path) -> Any:  # noqa: ANN401  # whatever JSON the command prints
    main([*map(str, words), "--json"])
    return json.loads(captured.readouterr().out)


def when_stopped(captured: Captured, *words: str | Path) -> Any:  # noqa: ANN401  # as above
    """Run a command once the leases of the drivers that were stopped are over."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        found = run(captured, *words)
        if found.get("error", {}).get("code") != "server-running":
            return found
        assert time.monotonic() < deadline_s
        time.sleep(0.5)


def test_a_key_is_certified_by_the_operator_of_the_authority(pair: Pair, tmp_path: Path, capsys: Captured) -> None:
    data, elsewhere, word = pair.aggregator.data, pair.authority.data, tmp_path / "certified.json"
    pair.codes(1)  # tells the authority its aggregator
    old = pair.release_key
    asked = pair.aggregator.run("model", "rotate-key")
    assert asked["number"] == 1
    assert pair.aggregator.run("model", "rotate-key") == asked  # the same key again
    request = Path(asked["request"])
    assert "PRIVATE" not in request.read_text("utf-8")

    # Nobody is certified by asking: not for another deployment, not without the key, not twice with one number.
    stranger = SigningKey.generate(os.urandom)
    asks = request_release_key(stranger, 1, pair.root.fingerprint)
    for signed, code in (
        (request_release_key(stranger, 1, sha256(b"another deployment")), "other-aggregator"),
        (replace(asks, signature=request_release_key(old, 1, pair.root.fingerprint).signature), "bad-signature"),
    ):
        (tmp_path / "forged.json").write_bytes(write_signed("release_key_request", signed))
        refusal = run(capsys, "certify", tmp_path / "forged.json", "--data", elsewhere, "--out", word)
        assert refusal["error"]["code"] == code
    assert not word.exists()
    certified = run(capsys, "certify", request, "--data", elsewhere, "--out", word)
    assert (certified["number"], certified["key_id"]) == (1, asked["key_id"])
    (tmp_path / "second.json").write_bytes(write_signed("release_key_request", asks))
    refusal = run(capsys, "certify", tmp_path / "second.json", "--data", elsewhere, "--out", tmp_path / "x")
    assert refusal["error"]["code"] == "release-key-certified"
    assert run(capsys, "certify", request, "--data", elsewhere, "--out", word) == certified  # the same word again

    # The aggregator takes the authority's word alone, and once.
    assert run(capsys, "model", "rotate-key", "--certified", word, "--data", data)["error"]["code"] == "server-running"
    pair.aggregator.stop()
    own = read_signed(word.read_bytes(), "release_key")
    (tmp_path / "forged.json").write_bytes(write_signed("release_key", replace(own, signature=old.sign(own.body))))
    refusal = run(capsys, "model", "rotate-key", "--certified", tmp_path / "forged.json", "--data", data)
    assert refusal["error"]["code"] == "bad-signature"
    done = when_stopped(capsys, "model", "rotate-key", "--certified", word, "--data", data)
    assert done == {"number": 1, "key_id": asked["key_id"]}
    again = when_stopped(capsys, "model", "rotate-key", "--certified", word, "--data", data)
    assert again["error"]["code"] == "release-key-replayed"
    pair.aggregator.start()

    # Devices can tell, and the authority answers the new key's requests alone.
    database = open_database(DataFolder(data))
    with database.read() as connection:
        new, (body, signature) = newest_key(DataFolder(data), connection), release_of(connection, "point", 0)
        told = succession(connection)
    database.close()
    assert told is not None
    assert verify_release_key(told, pair.root.authority_key).public_key == new.public
    assert key_id(new.public) == asked["key_id"] == decode(body)["key_id"]
    now_s = time.time()
    verify_release(body, signature, public_key=new.public, task="point", min_version=0, now_s=now_s)
    with refused("bad-signature", Unauthenticated):
        verify_release(body, signature, public_key=old.public, task="point", min_version=0, now_s=now_s)
    drawn = pair.seeds(new).draw_seed("cohort-a", ROOT)
    GraphSeed.verified(drawn, pair.root.authority_key, cohort="cohort-a", roster_root=ROOT)
    with refused("bad-signature", Refused):
        pair.seeds(old).draw_seed("cohort-b", ROOT)
