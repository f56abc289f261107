"""The implementation gives what is in the files: keys, streams, shares, boxes, graphs, numbers, signatures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from shared.numeric.clipping import ClippedUpdate
from shared.numeric.contribution_vector import Evaluation, Group, from_words, to_words
from shared.numeric.noise import NoiseRule, NoisyGroup, noise_for
from shared.numeric.noisy_encoding import NoisyEncoding
from shared.numeric.packing import pack, pack_noised, unpack_noised_sum, unpack_sum
from shared.numeric.quantization import Grid, QuantizedUpdate, quantize
from shared.numeric.rotation import block_size, rotate, rotate_back, rotated_size, spread
from shared.secagg.graph import make_graph
from shared.secagg.graph_seed import GraphSeed
from shared.secagg.keys import Exchange, KeyPair, agree, derive
from shared.secagg.masking import MaskedUpdate, apply_masks, keystream, pair_mask, self_mask
from shared.secagg.parameters import thresholds
from shared.secagg.roster import from_bitmap, merkle_root, to_bitmap
from shared.secagg.sealing import open_sealed
from shared.secagg.session import agreement_message, commitment
from shared.secagg.shares import interpolate, recover, split
from shared.wire.canonical import decode, encode, octets_from_text, octets_to_text, sha256, transcript
from shared.wire.signed import Certificate, Signed, SigningKey, verify
from tests.shared.refusals import refused
from tests.vectors.reading import Case, by_point, cases, octets, rules_of, words_of


def grid_of(case: Case, norm: str = "max_l2_norm") -> Grid:
    return Grid(case["lane_bits"], case["levels"], case[norm], case["spread"])


class TestDerivations:
    """``derivations.json``."""

    @pytest.mark.parametrize("case", cases("derivations.json", "transcripts"))
    def test_transcripts(self, case: Case) -> None:
        readers: dict[str, Callable[[str], bytes | str | int]] = {"octets": bytes.fromhex, "text": str, "integer": int}
        fields = [readers[kind](value) for field in case["fields"] for kind, value in field.items()]
        assert transcript(case["domain"], *fields).hex() == case["transcript"]

    @pytest.mark.parametrize("case", cases("derivations.json", "canonical_json"))
    def test_canonical_json(self, case: Case) -> None:
        assert encode(decode(case["text"].encode())).decode() == case["text"]
        assert sha256(case["text"].encode()).hex() == case["sha256"]

    @pytest.mark.parametrize("case", cases("derivations.json", "base64url"))
    def test_base64url(self, case: Case) -> None:
        assert octets_to_text(bytes.fromhex(case["octets"])) == case["text"]
        assert octets_from_text(case["text"]).hex() == case["octets"]

    @pytest.mark.parametrize("case", cases("derivations.json", "x25519"))
    def test_x25519(self, case: Case) -> None:
        secret, public, other, shared = octets(case, "secret", "public", "other_public", "shared")
        assert KeyPair.of(secret).public == public
        assert agree(secret, other) == shared

    @pytest.mark.parametrize("case", cases("derivations.json", "hkdf"))
    def test_hkdf(self, case: Case) -> None:
        secret, sid, key = octets(case, "secret", "sid", "key")
        assert derive(secret, sid, case["role"], *case["indices"]) == key

    @pytest.mark.parametrize("case", cases("derivations.json", "merkle_roots"))
    def test_merkle_roots(self, case: Case) -> None:
        assert merkle_root([bytes.fromhex(leaf) for leaf in case["leaves"]]).hex() == case["root"]

    @pytest.mark.parametrize("case", cases("derivations.json", "session_ids"))
    def test_session_ids(self, case: Case) -> None:
        fields = octets(case, "plan_sha256", "model_sha256", "roster_root", "seed")
        assert sha256(transcript("fedloom/1/session", *fields)).hex() == case["sid"]

    @pytest.mark.parametrize("case", cases("derivations.json", "commitments"))
    def test_commitments(self, case: Case) -> None:
        sid, seed, expected = octets(case, "sid", "seed", "commitment")
        assert commitment(sid, case["member"], seed) == expected

    @pytest.mark.parametrize("case", cases("derivations.json", "bitmaps"))
    def test_bitmaps(self, case: Case) -> None:
        bitmap, sid, message = octets(case, "bitmap", "sid", "agreement_message")
        survivors = frozenset(case["survivors"])
        assert to_bitmap(survivors, case["members"]) == bitmap
        assert from_bitmap(bitmap, case["members"]) == survivors
        assert agreement_message(sid, bitmap) == message


class TestMasks:
    """``keystreams.json``."""

    @pytest.mark.parametrize("case", cases("keystreams.json", "streams"))
    def test_streams(self, case: Case) -> None:
        stream = keystream(bytes.fromhex(case["key"]), case["cipher"])
        whole = b"".join(stream.update(bytes(piece)) for piece in (7, 1000, case["octets"] - 1007))
        assert whole.hex().startswith(case["first_octets"])
        assert sha256(whole).hex() == case["sha256"]

    @pytest.mark.parametrize("case", cases("keystreams.json", "masks"))
    def test_masks(self, case: Case) -> None:
        sid, seed, secret, public = octets(case, "sid", "seed", "mask_secret", "mask_key_of_other")
        own = case["own"]
        masks = [self_mask(seed, sid, own), pair_mask(Exchange(secret), public, sid, own=own, other=case["other"])]
        named = [{"key": mask.key.hex(), "sign": "-" if mask.negative else "+"} for mask in masks]
        assert named == case["masks"]
        words = words_of(case["words"])
        apply_masks(words, masks, case["cipher"])
        assert MaskedUpdate(words).to_bytes().hex() == case["masked"]


class TestGraphs:
    """``thresholds.json`` and ``graphs.json``."""

    @pytest.mark.parametrize("case", cases("thresholds.json", "thresholds"))
    def test_thresholds(self, case: Case) -> None:
        if "refused" in case:
            with refused(case["refused"]):
                thresholds(case["members"], rules_of(case))
            return
        limits = dataclasses.asdict(thresholds(case["members"], rules_of(case)))
        assert limits == {name: case[name] for name in limits}

    @pytest.mark.parametrize("case", cases("graphs.json", "graphs"))
    def test_graphs(self, case: Case) -> None:
        seed, sid, key = octets(case, "seed", "sid", "key")
        assert derive(seed, sid, "fedloom/1/graph") == key
        graph = make_graph(case["members"], case["neighbours"], key)
        assert list(graph.ring) == case["ring"]
        assert {member: list(graph.neighbours_of(int(member))) for member in case["neighbours_of"]} == case[
            "neighbours_of"
        ]
        assert {member: list(graph.holders_of(int(member))) for member in case["holders_of"]} == case["holders_of"]


class TestSecrets:
    """``shares.json`` and ``sealed-boxes.json``."""

    @pytest.mark.parametrize("case", cases("shares.json", "sharings"))
    def test_sharings(self, case: Case) -> None:
        drawn = iter([bytes.fromhex(number) for number in case["coefficients"]])
        secret, expected = bytes.fromhex(case["secret"]), by_point(case["shares"])
        made = split(secret, case["threshold"], range(1, len(expected) + 1), lambda _: next(drawn))
        assert made == expected
        last = dict(list(expected.items())[-case["threshold"] :])
        assert interpolate(last) == secret

    @pytest.mark.parametrize("case", cases("shares.json", "recoveries"))
    def test_recoveries(self, case: Case) -> None:
        secret, given = bytes.fromhex(case["secret"]), by_point(case["shares"])
        if "refused" in case:
            with refused(case["refused"]):
                recover(given, case["threshold"], secret.__eq__, "a member")
        else:
            found = recover(given, case["threshold"], secret.__eq__, "a member")
            assert found == (secret, frozenset(case["wrong"]))

    @pytest.mark.parametrize("case", cases("sealed-boxes.json", "boxes"))
    def test_boxes(self, case: Case) -> None:
        box, secret, public, sid = octets(case, "box", "receiver_secret", "sender_key", "sid")
        ends = {"sender": case["sender"], "receiver": case["receiver"]}
        pair = open_sealed(box, secret=secret, public=public, sid=sid, cipher=case["cipher"], **ends)
        assert [pair.self_mask, pair.mask_key] == octets(case, "self_mask_share", "mask_key_share")
        assert derive(agree(secret, public), sid, "fedloom/1/seal", *ends.values()).hex() == case["key"]


class TestNumbers:
    """``numbers.json`` and ``rotations.json``."""

    @pytest.mark.parametrize("case", cases("numbers.json", "grids"))
    def test_grids(self, case: Case) -> None:
        made = Grid.for_cohort(
            case["members"],
            lane_bits=case["lane_bits"],
            max_l2_norm=case["max_l2_norm"],
            spread=case["spread"],
        )
        assert made == grid_of(case)
        assert made.squared_norm_bound(1000) == case["squared_norm_bound_of_1000"]

    @pytest.mark.parametrize("case", cases("numbers.json", "roundings"))
    def test_roundings(self, case: Case) -> None:
        drawn = iter([bytes.fromhex(key) for key in case["keys"]])
        values, grid = np.array(case["values"]), grid_of(case)
        steps = quantize(ClippedUpdate(values, 1.0, 1, 1.0, clipped=False), grid, lambda _: next(drawn)).steps
        assert steps.tolist() == case["steps"]
        assert np.abs(steps - values / grid.step).max() < 1

    @pytest.mark.parametrize("case", cases("numbers.json", "packings"))
    def test_packings(self, case: Case) -> None:
        rows = [np.array(row, dtype=np.int32) for row in case["rows"]]
        form = {"levels": case["levels"], "lane_bits": case["lane_bits"]}
        words = [pack([row], **form) for row in rows]
        assert [MaskedUpdate(one).to_bytes().hex() for one in words] == case["words"]
        total = words_of(case["sum"])
        assert np.array_equal(sum(words), total)
        assert unpack_sum(total, dimension=7, survivors=3, **form).tolist() == case["sums"]

    @pytest.mark.parametrize("case", cases("numbers.json", "noised_packings"))
    def test_noised_packings(self, case: Case) -> None:
        words = [pack_noised(np.array(row, dtype=np.int64), lane_bits=case["lane_bits"]) for row in case["rows"]]
        assert [MaskedUpdate(one).to_bytes().hex() for one in words] == case["words"]
        total = words_of(case["sum"])
        assert np.array_equal(np.sum(words, axis=0, dtype=np.uint64), total)
        sums = unpack_noised_sum(total, dimension=7, lowest=case["lowest"], lane_bits=case["lane_bits"])
        assert sums.tolist() == case["sums"] == np.sum(case["rows"], axis=0).tolist()

    @pytest.mark.parametrize("case", cases("numbers.json", "vectors"))
    def test_vectors(self, case: Case) -> None:
        update = QuantizedUpdate(np.array(case["steps"], np.int32), grid_of(case), case["weight"], clipped=False)
        other = grid_of(case, "statistics_max_l2_norm")
        moved = QuantizedUpdate(np.array(case["statistics_steps"], np.int32), other, case["weight"], case["clipped"])
        for name, loss in (("words", case["loss_sum"]), ("words_with_loss_nan", math.nan)):
            words = to_words(update, Evaluation(loss, case["correct"], case["evaluated"]), moved)
            assert MaskedUpdate(words).to_bytes().hex() == case[name]
        total = from_words(
            words_of(case["words"]) + words_of(case["words_with_loss_nan"]),
            dimension=update.steps.size,
            grid=update.grid,
            survivors=2,
            max_weight=case["max_weight"],
            statistics=Group(moved.steps.size, other),
        )
        expected = case["sum_of_both"]
        assert [total.values.tolist(), total.statistics.tolist()] == [expected["values"], expected["statistics"]]
        judged = total.evaluation
        assert [total.weight_sum, total.clipped, judged.loss_sum, judged.correct, judged.count] == [
            expected[name] for name in ("weight", "clipped", "loss_sum", "correct", "evaluated")
        ]

    @pytest.mark.parametrize("case", cases("numbers.json", "noises"))
    def test_noises(self, case: Case) -> None:
        groups = tuple(NoisyGroup(**group) for group in case["groups"])
        rule = NoiseRule(case["multiplier"], case["missing_share"], case["lane_bits"])
        noise = noise_for(case["members"], groups, rule)
        assert [grid.levels for grid in noise.grids] == case["levels"]
        names = "measure_levels", "offset", "tail", "device_variance"
        assert [getattr(noise, name) for name in names] == [case[name] for name in names]

    @pytest.mark.parametrize("case", cases("numbers.json", "noised_sums"))
    def test_noised_sums(self, case: Case) -> None:
        groups = tuple(NoisyGroup(**group) for group in case["groups"])
        rule = NoiseRule(case["multiplier"], case["missing_share"], case["lane_bits"])
        noise, (first, second) = noise_for(case["members"], groups, rule), [group.dimension for group in groups]
        encoding = NoisyEncoding((first, second), rotated=False, noise=noise)
        total = encoding.decode(words_of(case["sum"]), survivors=case["survivors"], sid=b"")
        assert total.values == pytest.approx(case["values"], abs=1e-8)
        assert total.statistics == pytest.approx(case["statistics"], abs=1e-8)
        judged = total.evaluation
        assert [total.clipped, judged.count, judged.correct] == [
            case[name] for name in ("clipped", "evaluated", "correct")
        ]
        assert judged.loss_sum == pytest.approx(case["loss_sum"], abs=1e-8)

    @pytest.mark.parametrize("case", cases("rotations.json", "sizes"))
    def test_sizes(self, case: Case) -> None:
        dimension = case["dimension"]
        found = block_size(dimension), rotated_size(dimension), spread(dimension)
        assert found == (case["block"], case["padded"], case["spread"])

    @pytest.mark.parametrize("case", cases("rotations.json", "rotations"))
    def test_rotations(self, case: Case) -> None:
        values, sid, group = np.array(case["values"], dtype=np.float64), bytes.fromhex(case["sid"]), case["group"]
        np.testing.assert_allclose(rotate(values, sid, group), case["rotated"], atol=1e-8)
        back = rotate_back(np.array(case["rotated"]), values.size, sid, group)
        np.testing.assert_allclose(back, values, atol=1e-6)


class TestSignatures:
    """``signatures.json``."""

    @pytest.mark.parametrize("case", cases("signatures.json", "documents"))
    def test_documents(self, case: Case) -> None:
        secret, public, signature = octets(case, "secret", "public", "signature")
        key, body = SigningKey(secret), case["body"].encode()
        assert key.public == public
        assert Signed.make(key, case["domain"], body) == Signed(body, signature)
        Signed(body, signature).verify(public, case["domain"], "a document")
        assert encode(decode(body)) == body

    def test_documents_are_read(self) -> None:
        documents = {case["kind"]: case for case in cases("signatures.json", "documents")}
        signed = {
            kind: Signed(case["body"].encode(), bytes.fromhex(case["signature"])) for kind, case in documents.items()
        }
        authority = bytes.fromhex(documents["certificate"]["public"])
        certificate = Certificate.verified(signed["certificate"], authority)
        assert certificate.identity_key.hex() == documents["join"]["public"]
        renewed = Certificate.verified(signed["renewed certificate"], authority)
        assert (renewed.device, certificate.serial, renewed.serial) == (certificate.device, 0, 1)
        messages = {case["kind"]: case for case in cases("signatures.json", "messages")}
        by_old, by_next = messages["renewal by the key so far"], messages["renewal by the next key"]
        assert by_old["message"] == by_next["message"]
        assert by_old["public"] == certificate.identity_key.hex()
        assert by_next["public"] == renewed.identity_key.hex()
        body = decode(signed["graph seed"].body)
        root = octets_from_text(str(body["roster_root"]))
        seed = GraphSeed.verified(signed["graph seed"], authority, cohort=str(body["cohort"]), roster_root=root)
        assert octets_to_text(seed.seed) == body["seed"]

    @pytest.mark.parametrize("case", cases("signatures.json", "messages"))
    def test_messages(self, case: Case) -> None:
        secret, public, message, signature = octets(case, "secret", "public", "message", "signature")
        assert SigningKey(secret).public == public
        assert SigningKey(secret).sign(message) == signature
        verify(public, message, signature, "a message")
