"""Who is in a cohort: signed join messages, their order, and the root that everything later is bound to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

from shared.errors import ProtocolAbort, UsageError
from shared.ids import require_name
from shared.limits import MAX_MEMBERS
from shared.secagg.graph import Graph, make_graph
from shared.secagg.graph_seed import GraphSeed
from shared.secagg.keys import KEY_BYTES, derive, require_public_key
from shared.secagg.parameters import is_sparse
from shared.wire.canonical import Fields, Json, decode, encode, octets_to_text, sha256, transcript
from shared.wire.signed import Certificate, Signed, SigningKey

JOIN_DOMAIN: Final = "fedloom/1/join"
JOIN_FORMAT: Final = "fedloom-join-2"
_FORMATS: Final = (JOIN_FORMAT, "fedloom-join-1")  # a cohort that began before an update may still end
EVALUATION_FORMAT: Final = "fedloom-evaluation-1"
Purpose = Literal["training", "evaluation"]
# What is signed and derived for one purpose is worth nothing for the other.
_JOIN_DOMAINS: Final[dict[Purpose, str]] = {"training": JOIN_DOMAIN, "evaluation": "fedloom/1/evaluation-join"}
_SESSION_DOMAINS: Final[dict[Purpose, str]] = {
    "training": "fedloom/1/session",
    "evaluation": "fedloom/1/evaluation-session",
}
HASH_BYTES: Final = 32
_YEAR_9999_S: Final = 253_402_300_799


@dataclass(frozen=True)
class CohortBinding:
    """What every member of a cohort must have in common, and signs.

    Attributes:
        task: the task.
        cohort: the cohort's id.
        plan_sha256: hash of the plan's exact bytes.
        model_sha256: hash of the weights that training started from; see ``compared_hash`` for an evaluation.
        expires_at_s: after this, seconds since the epoch, no message of the cohort is sent.
        purpose: what the sum is of: updates, or an evaluation of two versions.
    """

    task: str
    cohort: str
    plan_sha256: bytes
    model_sha256: bytes
    expires_at_s: int
    purpose: Purpose = "training"


def compared_hash(candidate_sha256: bytes, baseline_sha256: bytes) -> bytes:
    """Return what stands for the model of a cohort that compares two versions, 32 octets of their model hashes."""
    return sha256(transcript("fedloom/1/compared-models", candidate_sha256, baseline_sha256))


@dataclass(frozen=True)
class Member:
    """One verified entry of the roster.

    Attributes:
        certificate: the authority's word on the identity.
        channel_key: X25519 public key that seals shares.
        mask_key: X25519 public key that makes pair masks.
        join: the exact signed message.
    """

    certificate: Certificate
    channel_key: bytes
    mask_key: bytes
    join: Signed

    @property
    def device(self) -> str:
        """The member's pseudonym."""
        return self.certificate.device

    def require_current(self) -> None:
        """Refuse an agent that does not sign whose boxes it used.

        Raises:
            UsageError: ``old-agent``.
        """
        if Fields(decode(self.join.body), "join message").text("format") not in {JOIN_FORMAT, EVALUATION_FORMAT}:
            raise UsageError(
                "old-agent", "The device's fedloom-agent is older than this aggregator.", "update fedloom-agent there"
            )

    @property
    def leaf(self) -> bytes:
        """The member's leaf in the roster's Merkle tree, over the exact bytes received."""
        signed = self.certificate.signed
        return sha256(
            transcript("fedloom/1/roster-leaf", self.join.body, self.join.signature, signed.body, signed.signature)
        )

    def to_json(self) -> Json:
        """Return the form that travels."""
        return {"join": self.join.to_json(), "certificate": self.certificate.signed.to_json()}


def make_member(
    identity: SigningKey, certificate: Certificate, binding: CohortBinding, *, channel_key: bytes, mask_key: bytes
) -> Member:
    """Sign the message with which a device joins a cohort."""
    body = encode(
        {
            "format": JOIN_FORMAT if binding.purpose == "training" else EVALUATION_FORMAT,
            "task": binding.task,
            "cohort": binding.cohort,
            "device": certificate.device,
            "plan_sha256": octets_to_text(binding.plan_sha256),
            "model_sha256": octets_to_text(binding.model_sha256),
            "expires_at_s": binding.expires_at_s,
            "channel_key": octets_to_text(channel_key),
            "mask_key": octets_to_text(mask_key),
        }
    )
    return Member(certificate, channel_key, mask_key, Signed.make(identity, _JOIN_DOMAINS[binding.purpose], body))


def verify_member(value: Json, binding: CohortBinding, authority_key: bytes, now_s: float) -> Member:
    """Return a roster entry whose certificate, signature and binding hold.

    Raises:
        ProtocolAbort: ``other-cohort``, ``other-plan`` or ``other-model`` if the member signed for another binding,
            ``other-task``, ``expired-certificate``, ``wrong-device``, ``same-keys``, ``bad-public-key``.
        Unauthenticated: ``bad-signature``.
        UsageError: for malformed messages.
    """
    outer = Fields(value, "roster entry")
    join = Signed.from_json(outer.mapping("join", 2), "join message")
    certificate = Certificate.verified(Signed.from_json(outer.mapping("certificate", 2), "certificate"), authority_key)
    outer.end()
    join.verify(certificate.identity_key, _JOIN_DOMAINS[binding.purpose], "a join message")
    fields = Fields(decode(join.body), "join message")
    fields.choice("format", _FORMATS if binding.purpose == "training" else (EVALUATION_FORMAT,))
    device = require_name(fields.text("device"), "the device")
    signed_for = CohortBinding(
        task=fields.text("task"),
        cohort=fields.text("cohort"),
        plan_sha256=fields.octets("plan_sha256", HASH_BYTES),
        model_sha256=fields.octets("model_sha256", HASH_BYTES),
        expires_at_s=fields.integer("expires_at_s", 0, _YEAR_9999_S),
        purpose=binding.purpose,  # by the domain of the signature
    )
    member = Member(certificate, fields.octets("channel_key", KEY_BYTES), fields.octets("mask_key", KEY_BYTES), join)
    fields.end()
    if device != certificate.device:
        raise ProtocolAbort("wrong-device", "A join message names another device than its certificate.")
    _require_same(signed_for, binding, certificate)
    if certificate.expires_at_s < now_s or binding.expires_at_s < now_s:
        raise ProtocolAbort("expired-certificate", "A member's certificate or join message has expired.")
    if member.channel_key == member.mask_key:
        raise ProtocolAbort("same-keys", "A member uses one key for sealing and for masking.")
    require_public_key(member.channel_key)
    require_public_key(member.mask_key)
    return member


def _require_same(signed_for: CohortBinding, binding: CohortBinding, certificate: Certificate) -> None:
    if certificate.task != binding.task:
        raise ProtocolAbort("other-task", "A member is enrolled in another task.")
    if signed_for.plan_sha256 != binding.plan_sha256:
        raise ProtocolAbort("other-plan", "A member joined under another plan.")
    if signed_for.model_sha256 != binding.model_sha256:
        raise ProtocolAbort("other-model", "A member trained from another model.")
    if signed_for != binding:
        raise ProtocolAbort("other-cohort", "A member joined another cohort.")


@dataclass(frozen=True)
class Roster:
    """The members in the order of their pseudonyms; a member's index is its place.

    Attributes:
        binding: what all of them signed.
        members: verified entries.
        seed: the authority's draw for this roster, None where the graph is complete.
    """

    binding: CohortBinding
    members: tuple[Member, ...]
    seed: GraphSeed | None = None

    @classmethod
    def of(cls, binding: CohortBinding, members: Sequence[Member]) -> Roster:
        """Sort and check that identities and keys are all different.

        Raises:
            ProtocolAbort: ``duplicate-member`` if an identity or a key occurs twice.
        """
        ordered = tuple(sorted(members, key=lambda member: member.device))
        keys = [key for member in ordered for key in (member.channel_key, member.mask_key)]
        identities = [member.certificate.identity_key for member in ordered]
        names = [member.device for member in ordered]
        if any(len(set(values)) != len(values) for values in (keys, identities, names)):
            raise ProtocolAbort("duplicate-member", "A device or a key occurs twice in the roster.")
        return cls(binding, ordered)

    @classmethod
    def verified(cls, value: Json, binding: CohortBinding, authority_key: bytes, now_s: float) -> Roster:
        """Read and verify a roster that a server sent; see ``verify_member`` and ``of`` for what is refused.

        Raises:
            ProtocolAbort: also ``no-graph-seed`` for a roster that needs one, and see ``GraphSeed.verified``.
        """
        fields = Fields(value, "roster")
        entries = fields.items("members", MAX_MEMBERS)
        signed = Signed.from_json(fields.mapping("seed", 2), "graph seed") if fields.has("seed") else None
        fields.end()
        roster = cls.of(binding, [verify_member(entry, binding, authority_key, now_s) for entry in entries])
        if is_sparse(len(roster.members)) is (signed is None):
            raise ProtocolAbort("no-graph-seed", "The roster has no seed but needs one, or one that nothing needs.")
        if signed is None:
            return roster
        seed = GraphSeed.verified(signed, authority_key, cohort=binding.cohort, roster_root=roster.root)
        return replace(roster, seed=seed)

    def to_json(self) -> dict[str, Json]:
        """Return the form that travels."""
        seed: dict[str, Json] = {} if self.seed is None else {"seed": self.seed.signed.to_json()}
        return {"members": [member.to_json() for member in self.members], **seed}

    def index_of(self, device: str) -> int:
        """Return the place of ``device``.

        Raises:
            ProtocolAbort: ``not-in-roster``.
        """
        for index, member in enumerate(self.members):
            if member.device == device:
                return index
        raise ProtocolAbort("not-in-roster", "This device joined but is not in the roster.")

    @cached_property
    def root(self) -> bytes:
        """The Merkle root over the members, 32 octets."""
        return merkle_root([member.leaf for member in self.members])

    @cached_property
    def sid(self) -> bytes:
        """The session id, 32 octets, bound into every key, seal and signature of the cohort."""
        binding, seed = self.binding, b"" if self.seed is None else self.seed.seed
        fields = binding.plan_sha256, binding.model_sha256, self.root, seed
        return sha256(transcript(_SESSION_DOMAINS[binding.purpose], *fields))

    def graph(self, neighbours: int) -> Graph:
        """Return who is whose neighbour when each member has ``neighbours``."""
        seed = b"" if self.seed is None else self.seed.seed
        return make_graph(len(self.members), neighbours, derive(seed, self.sid, "fedloom/1/graph"))


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of RFC 9162's tree (section 2.1.1) over ``leaves``, 32 octets."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return sha256(b"\x00", leaves[0])
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\x01", merkle_root(leaves[:split]), merkle_root(leaves[split:]))


def to_bitmap(indices: frozenset[int], members: int) -> bytes:
    """Return the set as octets: member i is bit ``i % 8`` of octet ``i // 8``."""
    octets = bytearray((members + 7) // 8)
    for index in indices:
        octets[index // 8] |= 1 << index % 8
    return bytes(octets)


def from_bitmap(bitmap: bytes, members: int) -> frozenset[int]:
    """Undo ``to_bitmap``.

    Raises:
        ProtocolAbort: ``bad-bitmap`` for a wrong length or bits beyond the roster.
    """
    indices = frozenset(i for i in range(len(bitmap) * 8) if bitmap[i // 8] >> i % 8 & 1)
    if len(bitmap) != (members + 7) // 8 or any(index >= members for index in indices):
        raise ProtocolAbort("bad-bitmap", "The survivor bitmap does not fit the roster.")
    return indices
