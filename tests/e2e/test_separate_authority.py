"""An authority and an aggregator as two real deployments that share no file: who can make what."""

from __future__ import annotations

import argparse
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from cloud_server.authority.registry import Authority
from cloud_server.authority.remote import Description, RemoteAuthority
from cloud_server.authority_cli import serve_authority
from cloud_server.cli import command_line
from cloud_server.serve_cli import serve
from cloud_server.settings import DataFolder
from edge_client.enrolment import enrol
from edge_client.identity import Enrolment, load_identity
from edge_client.state_folder import StateFolder
from edge_client.transport import pinned_pool
from shared.clock import SystemClock
from shared.errors import FedloomError, Missing, Refused, TryLater, Unauthenticated, UsageError
from shared.root import EnrolmentCode
from shared.secagg.floors import DeviceFloors
from shared.secagg.graph_seed import GraphSeed
from shared.wire.canonical import sha256
from shared.wire.messages import Assignment, CheckIn, read_signed, write_signed
from shared.wire.requests import ADMIT, CHECK_IN, ENROL
from shared.wire.signed import Certificate, SigningKey
from tests.cloud_server.local import small_plan
from tests.cloud_server.members import STEPS, Member, new_transport, one_hot, redeem_body
from tests.e2e.pair import Pair
from tests.e2e.servers import run_steps
from tests.edge_client.devices import write_points
from tests.shared.refusals import refused
from tools.fleet import FleetFailed, free_port

ROOT = sha256(b"roster")
WIDE = 66  # more than a complete graph has


def parse(words: list[str]) -> argparse.Namespace:
    """Return the options of a command."""
    return command_line().parse_args(words)


def enrolled(code: str, folder: Path) -> Enrolment:
    write_points(folder / "examples", 0)
    return enrol(
        code,
        StateFolder(folder / "state"),
        folder / "examples",
        floors=DeviceFloors(min_survivors=2),
        name="",
        clock=SystemClock(),
        random_bytes=os.urandom,
        jitter=lambda: 0.5,
    )


def test_a_device_enrols_at_the_authority_and_works_with_the_aggregator(pair: Pair, tmp_path: Path) -> None:
    enrolment = enrolled(pair.codes(1)[0], tmp_path)
    identity = load_identity(StateFolder(tmp_path / "state"))
    pool = pinned_pool(pair.root.tls_root_pem)
    transport = new_transport(pair.url, pool, pair.root, enrolment.certificate, identity.key, SystemClock())
    answer = Assignment.from_bytes(transport.send("POST", CHECK_IN, CheckIn(-1, 0).to_bytes()).body)
    assert answer.version == 0
    pool.clear()


def test_a_sparse_cohort_is_seeded_by_the_authority_and_summed(pair: Pair) -> None:
    small = small_plan("wide", WIDE, dropout_share=0.1)
    plan = replace(small, cohort=replace(small.cohort, corrupt_share=0.05))
    pair.create_task(plan, WIDE)
    root, clock, members = pair.root, SystemClock(), []
    far, near = pinned_pool(root.authority_tls_root_pem), pinned_pool(root.tls_root_pem)
    for number, text in enumerate(pair.codes(WIDE, "wide")):
        key, code = SigningKey.generate(os.urandom), EnrolmentCode.from_text(text)
        answer = new_transport(root.authority_url, far, root, None, key, clock).send(
            "POST", ENROL, redeem_body(code, key)
        )
        certificate = Certificate.verified(read_signed(answer.body, "certificate"), root.authority_key)
        body = write_signed("certificate", certificate.signed)
        new_transport(pair.url, near, root, None, key, clock).send("POST", ADMIT, body)
        transport = new_transport(pair.url, near, root, certificate, key, clock)
        members.append(Member(number, key, certificate, root, plan, transport, clock, one_hot(number, WIDE)))
    model = members[0].release(0).model_sha256
    for member in members:
        member.meet(model)
    run_steps(members, STEPS)
    assert all(member.counted() for member in members)
    np.testing.assert_allclose(load(members[0].weights(1))["theta"], np.ones(WIDE), atol=0.02)
    roster = members[0].session._roster
    assert roster.seed is not None
    assert pair.seeds(pair.release_key).draw_seed(members[0].cohort, roster.root) == roster.seed.signed
    far.clear()
    near.clear()


def test_the_aggregator_holds_no_key_and_no_code_of_the_authority(pair: Pair) -> None:
    key = pair.authority.data / "authority.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    secret = key.read_bytes()
    files = [path for path in pair.aggregator.data.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if secret in path.read_bytes()]
    assert not DataFolder(pair.aggregator.data).authority.exists()
    with pytest.raises(FleetFailed, match="other-authority"):
        pair.aggregator.run("code", "create", "--task", "point", "--url", pair.url)


def test_the_aggregator_takes_no_codes(pair: Pair) -> None:
    code, key = EnrolmentCode.from_text(pair.codes(1)[0]), SigningKey.generate(os.urandom)
    pool = pinned_pool(pair.root.tls_root_pem)
    transport = new_transport(pair.url, pool, pair.root, None, key, SystemClock())
    with refused("other-authority", FedloomError):
        transport.send("POST", ENROL, redeem_body(code, key))
    pool.clear()


def test_a_certificate_of_another_authority_is_not_admitted(pair: Pair) -> None:
    own = SigningKey.generate(os.urandom)
    invented = Certificate.issue(own, task="point", device="sybil", identity_key=own.public, expires_at_s=2**32)
    pool = pinned_pool(pair.root.tls_root_pem)
    transport = new_transport(pair.url, pool, pair.root, None, own, SystemClock())
    with refused("bad-signature", Unauthenticated):
        transport.send("POST", ADMIT, write_signed("certificate", invented.signed))
    pool.clear()


def test_the_authority_draws_seeds_for_its_aggregator_once_per_cohort(pair: Pair) -> None:
    pair.codes(1)  # tells the authority its aggregator
    seeds = pair.seeds(pair.release_key)
    drawn = seeds.draw_seed("cohort-a", ROOT)
    GraphSeed.verified(drawn, pair.root.authority_key, cohort="cohort-a", roster_root=ROOT)
    assert seeds.draw_seed("cohort-a", ROOT) == drawn
    with refused("seed-drawn", Refused):
        seeds.draw_seed("cohort-a", sha256(b"another roster"))
    with refused("bad-signature", Refused):
        pair.seeds(SigningKey.generate(os.urandom)).draw_seed("cohort-b", ROOT)


def test_an_authority_that_is_away_is_asked_again_later(pair: Pair) -> None:
    described = Description(pair.root.authority_key, f"https://127.0.0.1:{free_port()}", pair.root.tls_root_pem)
    with refused("no-authority", TryLater):
        RemoteAuthority(described, pair.release_key.sign).draw_seed("cohort-c", ROOT)


def test_an_impostor_at_the_authoritys_address_is_not_believed(pair: Pair) -> None:
    """TLS must lead to the authority's root; the aggregator's own server has another one."""
    pinned = (pair.authority.data / "tls_root.pem").read_text("ascii")
    described = Description(pair.root.authority_key, pair.url, pinned)
    with refused("no-authority", TryLater):
        RemoteAuthority(described, pair.release_key.sign).draw_seed("cohort-d", ROOT)


def test_another_authority_is_refused_once_devices_are_enrolled(pair: Pair, tmp_path: Path) -> None:
    """They pin this one: a new one would lock them all out, and a code of it would let nobody else in."""
    enrolled(pair.codes(1)[0], tmp_path)
    other = Authority(tmp_path, SystemClock(), os.urandom)
    described = Description.from_bytes((pair.authority.data / "authority.json").read_bytes())
    (tmp_path / "other.json").write_bytes(replace(described, public_key=other.public_key).to_bytes())
    data = tmp_path / "copy"
    shutil.copytree(pair.aggregator.data, data)
    before = (data / "keys" / "authority.json").read_bytes()
    words = ["serve", "--data", str(data), "--authority", str(tmp_path / "other.json"), "--listen", "127.0.0.1:0"]
    with refused("root-changed", UsageError):
        serve(parse(words))
    assert (data / "keys" / "authority.json").read_bytes() == before


def test_a_code_for_a_task_that_the_aggregator_does_not_have_is_named_when_it_is_used(
    pair: Pair, tmp_path: Path
) -> None:
    pair.codes(1)
    with refused("task-unknown", Missing):
        enrolled(pair.codes(1, "piont")[0], tmp_path)


def test_an_authority_stays_where_its_aggregators_devices_look_for_it(pair: Pair, tmp_path: Path) -> None:
    pair.codes(1)
    data = tmp_path / "copy"
    shutil.copytree(pair.authority.data, data)
    with refused("authority-changed", UsageError):
        serve_authority(parse(["authority", "--data", str(data), "--listen", "127.0.0.1:0"]))
