"""What an operator may do about releases: plain functions for the command line and the web page alike.

Each takes a writing transaction, who acts, and the revision that they looked at: where somebody else was quicker it is
refused (``release-changed``) and nothing has changed. Each returns the new state, and is one entry of the audit log.
The driver then signs what devices are told.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlalchemy import Connection, select

from cloud_server import audit
from cloud_server.releases.gate import Rule
from cloud_server.releases.stages import end_promotion, go_on, reach_of
from cloud_server.releases.state import (
    EVALUATING,
    ROLLED_BACK,
    WAITING,
    Promotion,
    ReleaseState,
    lock_release,
    promotion_of_release,
    save_promotion,
    save_release,
    under_way,
)
from cloud_server.rounds.retention import is_kept
from cloud_server.storage.schema import evaluation, round_
from cloud_server.tasks import Task, load_task, newest_version, release_of
from shared.errors import Conflict, Missing, Refused
from shared.release import parse_release, verify_release
from shared.wire.canonical import Json, decode

_DAY_S: Final = 86_400.0


def hold(
    connection: Connection,
    who: str,
    expected_revision: int | None,
    task_name: str,
    *,
    expected_version: int | None = None,
    now_s: float,
) -> ReleaseState:
    """Let devices stay with the version that is the newest now; later ones are used once they are promoted.

    Args:
        connection: inside a writing transaction.
        who: for the audit log.
        expected_revision: see the module.
        task_name: of the task.
        expected_version: the newest one that whoever acts has looked at, None for any.
        now_s: the time.

    Raises:
        Missing: ``task-unknown``.
        Conflict: ``release-changed``, ``already-held``, or ``version-published`` where a round was quicker.
    """
    state = lock_release(connection, task_name, expected_revision)
    if state is not None:
        raise Conflict("already-held", f"Devices of {task_name!r} use promoted versions already.")
    newest = newest_version(connection, task_name)
    if expected_version not in {None, newest}:
        raise Conflict("version-published", "A round published a version meanwhile.", "run it again")
    return _hold(connection, who, task_name, newest, now_s)


def _hold(connection: Connection, who: str, task_name: str, number: int, now_s: float) -> ReleaseState:
    audit.record(connection, now_s, who, "release-held", task_name, {"version": number})
    return save_release(connection, ReleaseState(task_name, 0, number))


def promote(
    connection: Connection,
    who: str,
    expected_revision: int | None,
    task_name: str,
    version: int,
    rule: Rule,
    *,
    release_key: bytes,
    now_s: float,
) -> ReleaseState:
    """Begin to release a version, to the devices of the first stage.

    Args:
        connection: inside a writing transaction.
        who: for the audit log.
        expected_revision: see the module.
        task_name: of the task.
        version: to be released.
        rule: stages and gate.
        release_key: public, that versions are signed by.
        now_s: the time.

    Raises:
        Missing: ``task-unknown``, ``version-unknown``.
        Conflict: ``release-changed``, ``promotion-under-way``, ``already-released``.
        Refused: ``evaluation-without-noise`` for a plan with noise, ``nothing-to-compare``, or by which rule the
            version is not usable: ``release-expired``, ``wrong-key``, ``bad-signature``.
    """
    state = lock_release(connection, task_name, expected_revision)
    task = load_task(connection, task_name)
    _require_no_noise(task)
    _require_usable(connection, task_name, version, release_key, now_s)
    if (going := under_way(connection, state)) is not None:
        raise Conflict(
            "promotion-under-way",
            f"Version {going.candidate} is being released to stage {going.stage + 1} of {len(going.rule.shares)}.",
            "wait until it has ended, or roll it back first",
        )
    if state is None:
        state = _hold(connection, who, task_name, _baseline(connection, task_name, version), now_s)
    if version == state.released:
        raise Conflict("already-released", f"Version {version} is released already.")
    _require_usable(connection, task_name, state.released, release_key, now_s)
    number = state.promotion + 1
    reach = reach_of(connection, task, version, rule.shares[0], now_s)
    one = Promotion(
        task=task_name,
        number=number,
        candidate=version,
        baseline=state.released,
        rule=rule,
        phase=EVALUATING,
        stage=0,
        limit=reach.limit,
        since_s=now_s,
        promoted_by=who,
        created_s=now_s,
    )
    save_promotion(connection, one)
    detail: dict[str, Json] = {"version": version, "before": state.released, "promotion": number}
    audit.record(connection, now_s, who, "release-promoted", task_name, detail | {"rule": decode(rule.to_bytes())})
    return save_release(connection, replace(state, promotion=number))


def _baseline(connection: Connection, task_name: str, version: int) -> int:
    """Return what devices of a task that follows the newest version used before ``version``."""
    newest = newest_version(connection, task_name)
    if newest == version == 0:
        raise Refused(
            "nothing-to-compare", "Version 0 is where training starts, and there is no other.", "promote a later one"
        )
    return newest if newest != version else version - 1


def _require_no_noise(task: Task) -> None:
    if task.plan.privacy.mechanism != "none":
        raise Refused(
            "evaluation-without-noise",
            f"The plan's privacy.mechanism is {task.plan.privacy.mechanism}, and the counts of an evaluation have no"
            " noise: they would reveal what the budget does not cover.",
            "pin a version that rounds have evaluated, or leave devices with the newest one",
        )


def _require_usable(connection: Connection, task_name: str, version: int, key: bytes, now_s: float) -> None:
    body, signature = release_of(connection, task_name, version)
    verify_release(body, signature, public_key=key, task=task_name, min_version=version, now_s=now_s)
    _require_kept(connection, task_name, version)


def _require_kept(connection: Connection, task_name: str, version: int) -> None:
    if not is_kept(connection, task_name, version):
        raise Refused("version-removed", f"The files of version {version} are not kept any more.", "use a newer one")


def _require_there(connection: Connection, task_name: str, version: int, now_s: float) -> None:
    """Refuse a version that devices could not fetch or would not install; only held ones are signed anew in time."""
    _require_kept(connection, task_name, version)
    body, _ = release_of(connection, task_name, version)
    if (expired_s := now_s - parse_release(body).expires_at_s) > 0:
        days = expired_s / _DAY_S
        raise Refused("release-expired", f"Version {version} expired {days:.0f} days ago.", "promote a newer one")


def proceed(
    connection: Connection, who: str, expected_revision: int | None, task_name: str, *, now_s: float
) -> ReleaseState:
    """Let a promotion that waits for an operator go on: to the next stage, or to everybody for good.

    Raises:
        Missing: ``task-unknown``, ``no-promotion``.
        Conflict: ``release-changed``, ``not-waiting``.
    """
    state = lock_release(connection, task_name, expected_revision)
    going = under_way(connection, state)
    if state is None or going is None:
        raise _no_promotion(task_name)
    if going.phase != WAITING:
        raise Conflict("not-waiting", f"Version {going.candidate} is still being evaluated.", "wait for the stage")
    return go_on(connection, who, state, going, load_task(connection, task_name), now_s)


def roll_back(
    connection: Connection, who: str, expected_revision: int | None, task_name: str, *, reason: str = "", now_s: float
) -> ReleaseState:
    """Tell devices to use the previous release again: of the stage if one is under way, else everybody.

    Raises:
        Missing: ``task-unknown``; ``nothing-released`` where no release came before.
        Conflict: ``release-changed``.
        Refused: ``version-removed`` or ``release-expired`` of the release before.
    """
    state = lock_release(connection, task_name, expected_revision)
    if state is None:
        raise _not_held(task_name)
    if (going := under_way(connection, state)) is not None:
        return end_promotion(connection, who, state, going, reason or "the operator rolled it back", now_s)
    made = promotion_of_release(connection, state)
    if made is None:
        raise Missing(
            "nothing-released",
            f"No release came before version {state.released}.",
            "pin a version with `fedloom-server model pin`",
        )
    _require_there(connection, task_name, made.baseline, now_s)
    detail: dict[str, Json] = {"from": state.released, "version": made.baseline, "reason": reason}
    audit.record(connection, now_s, who, "release-rolled-back", task_name, detail)
    text = reason or "the operator rolled it back"
    save_promotion(connection, replace(made, phase=ROLLED_BACK, reason=text, ended_s=now_s))
    return save_release(connection, replace(state, released=made.baseline))


def pin(
    connection: Connection,
    who: str,
    expected_revision: int | None,
    task_name: str,
    version: int,
    *,
    release_key: bytes,
    reason: str = "",
    now_s: float,
) -> ReleaseState:
    """Let all devices use a version until it is unpinned, whatever is promoted meanwhile.

    Raises:
        Missing: ``task-unknown``, ``version-unknown``.
        Conflict: ``release-changed``, ``already-pinned``.
        Refused: ``not-evaluated`` for a version that no round and no stage evaluated, or as ``promote`` says.
    """
    state = lock_release(connection, task_name, expected_revision)
    _require_usable(connection, task_name, version, release_key, now_s)
    if not is_evaluated(connection, task_name, version) and (state is None or state.released != version):
        raise Refused(
            "not-evaluated",
            f"No devices have evaluated version {version}.",
            "promote it: its first stage evaluates it",
        )
    if state is None:
        state = _hold(connection, who, task_name, newest_version(connection, task_name), now_s)
    if state.pinned == version:
        raise Conflict("already-pinned", f"Version {version} is pinned already.")
    audit.record(connection, now_s, who, "release-pinned", task_name, {"version": version, "reason": reason})
    return save_release(connection, replace(state, pinned=version))


def is_evaluated(connection: Connection, task_name: str, version: int) -> bool:
    """Say whether devices evaluated a version: as the base of a round that was closed, or for a stage it passed."""
    stages = select(evaluation.c.cohort).where(
        evaluation.c.task == task_name, evaluation.c.candidate == version, evaluation.c.passed == 1
    )
    if connection.execute(stages.limit(1)).one_or_none() is not None:
        return True
    rounds = select(round_.c.result).where(
        round_.c.task == task_name, round_.c.base_version == version, round_.c.result.is_not(None)
    )
    return any(decode(result).get("evaluated") for result in connection.execute(rounds).scalars())


def unpin(
    connection: Connection, who: str, expected_revision: int | None, task_name: str, *, now_s: float
) -> ReleaseState:
    """Let devices use what is released again.

    Raises:
        Missing: ``task-unknown``, ``nothing-pinned``.
        Conflict: ``release-changed``.
    """
    state = lock_release(connection, task_name, expected_revision)
    if state is None or state.pinned is None:
        raise Missing("nothing-pinned", f"No version of {task_name!r} is pinned.")
    detail: dict[str, Json] = {"version": state.pinned, "released": state.released}
    audit.record(connection, now_s, who, "release-unpinned", task_name, detail)
    return save_release(connection, replace(state, pinned=None))


def _no_promotion(task_name: str) -> Missing:
    return Missing("no-promotion", f"No version of {task_name!r} is being released.", "begin with `model promote`")


def _not_held(task_name: str) -> Missing:
    return Missing(
        "nothing-released",
        f"Devices of {task_name!r} use the newest version; nothing was released.",
        "`fedloom-server model hold` or `model promote` begins",
    )
