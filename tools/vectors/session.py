"""A whole session: every message of every device, the masked vectors, and the sum."""

from __future__ import annotations

from dataclasses import asdict

from shared.wire.canonical import encode, octets_to_text
from shared.wire.messages import Agreements, write_answer, write_indexed, write_octets, write_shares
from shared.wire.signed import Signed
from tools.vectors.cohort import (
    AUTHORITY,
    NOW_S,
    RULES,
    Cohort,
    Contribution,
    Form,
    Participant,
    certificate_of,
    identity_of,
)
from tools.vectors.document import Case, Document, hexadecimal, real, words_to_hex


def session(form: Form) -> Document:
    """Return the file's content."""
    cohort = Cohort.run(form)
    decoded = cohort.decoded()
    return {
        "cohort": _form(form),
        "authority_secret": AUTHORITY.secret.hex(),
        "authority_key": AUTHORITY.public.hex(),
        "now_s": NOW_S,
        "rules": asdict(RULES),
        "thresholds": asdict(cohort.limits),
        "devices": [*(_device(cohort, device) for device in cohort.devices)],
        "roster": cohort.roster_text,
        "leaves": hexadecimal([member.leaf for member in cohort.roster.members]),
        "roster_root": cohort.roster.root.hex(),
        "sid": cohort.roster.sid.hex(),
        "survivors": write_octets("bitmap", cohort.bitmap).decode(),
        "agreements": Agreements(cohort.signatures, cohort.inboxes).to_bytes().decode(),
        "masked_sum": words_to_hex(cohort.masked_sum()),
        "sum": words_to_hex(cohort.plain_sum()),
        "decoded": {
            "values": real(decoded.values),
            "statistics": real(decoded.statistics),
            "weight": decoded.weight_sum,
            "loss_sum": decoded.evaluation.loss_sum,
            "correct": decoded.evaluation.correct,
            "evaluated": decoded.evaluation.count,
            "clipped": decoded.clipped,
        },
    }


def _form(form: Form) -> Case:
    binding = asdict(form.binding)
    hashes = {name: binding.pop(name).hex() for name in ("plan_sha256", "model_sha256")}
    return {**binding, **hashes, **asdict(form)}


def _device(cohort: Cohort, device: Participant) -> Case:
    number, certificate = device.number, certificate_of(device.number)
    case: Case = {
        "device": certificate.device,
        "identity_secret": identity_of(number).secret.hex(),
        "certificate": signed_to_json(certificate.signed),
        "random": _random(device, cohort.limits.threshold),
        "contribution": _contribution(device.contribution),
        "join": encode(device.member.to_json()).decode(),
        "shares": write_shares(cohort.shares[number]).decode(),
    }
    if number not in cohort.masked:
        return case
    return {
        **case,
        "inbox": write_indexed("boxes", cohort.inbox(number)).decode(),
        "words": words_to_hex(cohort.words[number]),
        "vector": cohort.masked[number].to_bytes().hex(),
        "signed_inbox": octets_to_text(cohort.inboxes[number]),
        "agreement": write_octets("signature", cohort.signatures[number]).decode(),
        "answer": write_answer(cohort.answers[number]).decode(),
    }


def signed_to_json(signed: Signed) -> Case:
    """Return a signed document with its body as text."""
    return {"body": signed.body.decode(), "signature": signed.signature.hex()}


def _random(device: Participant, threshold: int) -> Case:
    """Return what the device drew, in the order of these names."""
    channel, mask, seed, *later = hexadecimal(device.source.draws)
    coefficients = threshold - 1
    return {
        "channel_secret": channel,
        "mask_secret": mask,
        "self_mask_seed": seed,
        "self_mask_coefficients": later[:coefficients],
        "mask_secret_coefficients": later[coefficients : 2 * coefficients],
        "rounding_keys": later[2 * coefficients :],
    }


def _contribution(contribution: Contribution) -> Case:
    return {
        "update": [float(value) for value in contribution.update.values],
        "statistics": [float(value) for value in contribution.statistics.values],
        "examples": contribution.update.examples,
        "loss_sum": contribution.evaluation.loss_sum,
        "correct": contribution.evaluation.correct,
        "evaluated": contribution.evaluation.count,
    }
