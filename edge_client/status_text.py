"""``status`` for people, one screen, in their language."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Any

from edge_client.conditions.decide import LocalTime
from edge_client.texts import English, Language, again_in, system_local_time, time_text, words_of

Report = dict[str, Any]
_COLUMN = 14  # where answers begin


def status_text(report: Report, language: Language = English, local: LocalTime = system_local_time) -> str:
    """Return ``status`` for people."""
    say, int8 = language, report["int8"]
    why = why_text(say, report["why"], report["at_s"], local)
    lines = [
        ("device", report["device"] + (f" ({report['name']})" if report["name"] else "")),
        ("task", say("status.at", task=report["task"], server=report["server"])),
        ("version", _version(say, report)),
        ("contribution", _outcome(say, report["last"])),
        *([("waiting", _waiting(say, report["waiting"], local))] if report["waiting"] else []),
        ("int8", say("status.judged", **int8) if int8 else say("status.not-judged")),
        *([("own", _personal(say, report["personal"]))] if report["personal"] else []),
        ("key", _key(say, report["key"], report["renew_key_days"])),
        ("wants", _demands(say, report["demands"])),
        ("used", _used(say, report["used_today"])),
        ("training", why or say("status.yes")),
    ]
    return "\n".join(f"{_padded(say(f'status.{name}'))}{text}" for name, text in lines)


def why_text(say: Language, why: Report | None, now_s: float, local: LocalTime) -> str:
    """Return why the device is not training, empty if it is."""
    if why is None:
        return ""
    name = why["why"]
    if name == "condition":
        reason = words_of(say, why["code"], why["values"], local)
        told = say("why.condition", reason=reason, again=again_in(say, why["look_again_s"], now_s, local))
    elif name == "crashed":
        again = time_text(why["again_s"], local)
        told = say("why.crashed", count=why["count"], place=why["place"], number=why["number"], again=again)
    elif name == "wait":
        told = say(f"wait.{why['reason']}" if f"wait.{why['reason']}" in say.texts else "wait.")
    else:
        told = say(f"why.{name}", **{key: value for key, value in why.items() if key != "why"})
    return say("status.no", why=told)


def row_title(say: Language, row: Report) -> str:
    """Return what a contribution was."""
    if row["purpose"] == "evaluation":
        return say("status.evaluation", version=row["version"], baseline=row["baseline"])
    return say("status.round", round=row["round"])


def _outcome(say: Language, last: Report | None) -> str:
    if last is None:
        return say("status.none")
    end = f"end.{last['state']}"
    told = say("status.outcome", what=row_title(say, last), end=say(end) if end in say.texts else last["state"])
    told += f" [{last['reason']}]" if last["reason"] else ""
    return told + (f" [{say('status.zeros', code=last['training_failed'])}]" if last["training_failed"] else "")


def _waiting(say: Language, waiting: Report, local: LocalTime) -> str:
    until = time_text(waiting["expires_at_s"], local)
    told = say("waiting.text", version=waiting["version"], size=f"{waiting['bytes'] / 1e6:.1f}", until=until)
    return told + (f" [{waiting['reason']}]" if waiting["reason"] else "")


def _version(say: Language, report: Report) -> str:
    release, version = report["release"], report["version"]
    if version is None:
        return say("status.none")
    why = say(f"version.{release['why']}")
    if version == release["version"]:
        return say("version.here", version=version, why=why)
    return say("version.until", version=version, next=release["version"], why=why)


def _key(say: Language, key: Report, days: int) -> str:
    when = say("key.days", days=days) if days else say("key.never")
    if key["since_s"] is None:
        return say("key.text", number=key["serial"] + 1, when=when)
    since = f"{datetime.fromtimestamp(key['since_s'], UTC):%Y-%m-%d}"
    return say("key.since", number=key["serial"] + 1, since=since, when=when)


def _demands(say: Language, demands: Report) -> str:
    """Return what the owner asks of every plan, in words."""
    told = [say("wants.cohort", count=demands["min_survivors"]), say("wants.clip", norm=demands["max_l2_norm"])]
    if not demands["semi_honest"]:
        told.append(say("wants.adversary"))
    share = demands["min_corrupt_share"]
    told.append(say("wants.corrupt", share=share) if share else say("wants.no-corrupt"))
    if demands["min_noise_multiplier"]:
        told.append(say("wants.noise", noise=demands["min_noise_multiplier"]))
    if demands["max_participations"]:
        told.append(say("wants.participations", count=demands["max_participations"]))
    if demands["max_epsilon"]:
        told.append(say("wants.epsilon", epsilon=demands["max_epsilon"], delta=demands["delta"]))
    return say("join.list").join(told)


def _personal(say: Language, personal: Report) -> str:
    if "reason" in personal:
        return say("own.failed", version=personal["version"], reason=personal["reason"])
    return say(
        "own.kept" if personal["kept"] else "own.not-kept",
        version=personal["version"],
        correct=personal["correct"],
        count=personal["count"],
        before=personal["correct_before"],
    )


def _used(say: Language, used: Report) -> str:
    return say(
        "status.usage",
        megabytes=f"{used['transferred_bytes'] / 1e6:.1f}",
        seconds=f"{used['training_s']:.0f}",
        written=f"{used['written_bytes'] / 1e6:.1f}",
    )


def _padded(text: str) -> str:
    """Return a name as wide as its column; Chinese signs take two places each."""
    width = sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)
    return text + " " * max(1, _COLUMN - width)
