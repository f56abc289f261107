"""What operators do about releases on the page, over real promotions: stages, gates, conflicts, roles and files."""

from __future__ import annotations

import io
import re
from typing import Any, Final

import numpy as np
import pytest
from safetensors.numpy import load, save
from sqlalchemy import update

from cloud_server.app import RELEASE_KEY_FILE
from cloud_server.cli import main
from cloud_server.releases.keys import newest_key, rotate
from cloud_server.settings import AUTHORITY_KEY_FILE, load_or_create_key
from cloud_server.storage.leases import LEASE_S
from cloud_server.storage.schema import evaluation, version
from cloud_server.tasks import release_of
from shared.errors import Unauthenticated
from shared.release import verify_release
from shared.wire.canonical import decode, encode
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.signed_in import BASE, Browser, SignedIn
from tests.cloud_server.test_pages import HOSTILE
from tests.cloud_server.test_releases import BAD, GOOD, PLAN, TASK, Scene
from tests.shared.refusals import refused

PAGE: Final = f"/console/models?task={TASK}"
TWO_STAGES: Final = "0.1%,100%"


class Desk:
    """An operator at the Models page of a task with two versions and six devices."""

    def __init__(self, local: Local, name: str = "ada", role: str = "operator", scene: Scene | None = None) -> None:
        self.scene = scene or Scene(local)
        self.name = name
        SignedIn(local).account(name, role)
        self.browser = Browser(local)
        self.sign_in()

    def sign_in(self) -> None:
        """Begin a session; hours pass between what stages do."""
        assert self.browser.sign_in(self.name).status_code == 303

    def read(self) -> dict[str, Any]:
        answer = self.browser.get(PAGE, Accept="application/json")
        assert answer.status_code == 200, answer.get_data(as_text=True)
        found: dict[str, Any] = answer.get_json()["release"]
        return found

    def text(self) -> str:
        answer = self.browser.get(PAGE)
        assert answer.status_code == 200
        return answer.get_data(as_text=True)

    def post(self, verb: str, revision: int | None = None, **fields: str) -> tuple[int, str]:
        """Send the form as it is now, or of a revision, and return the status and the page that follows."""
        seen = self.read()["revision"] if revision is None else revision
        answer = self.browser.post(f"/console/models/{TASK}/{verb}", revision=str(seen), **fields)
        self.scene.local.settle()
        if answer.status_code == 303:
            return 303, self.browser.get(answer.headers["Location"]).get_data(as_text=True)
        return answer.status_code, answer.get_data(as_text=True)

    def evaluate(self, found: Any) -> None:  # noqa: ANN401  # as the scene has it
        self.scene.evaluate(found)
        self.sign_in()


@pytest.fixture
def desk(local: Local, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr("cloud_server.api.waiting.MAX_POLL_HOLD_S", 0.0)
    return Desk(local)


def entries(local: Local, action: str) -> list[tuple[str, str]]:
    found = local.rows(f"SELECT actor, subject FROM audit WHERE action = '{action}' ORDER BY number")  # noqa: S608
    return [(str(actor), str(subject)) for actor, subject in found]


def test_a_version_is_promoted_goes_on_when_told_and_is_rolled_back(desk: Desk) -> None:
    assert "New versions wait here until one is promoted" in desk.text()
    status, page = desk.post("promote", version="1", stages=TWO_STAGES, wait="yes")
    assert (status, "The promotion has begun" in page) == (303, True)
    assert [stage["state"] for stage in desk.read()["promotion"]["stages"]] == ["evaluating", "ahead"]
    assert "Continue" not in page
    desk.evaluate(GOOD)
    going = desk.read()["promotion"]
    assert [stage["state"] for stage in going["stages"]] == ["waiting", "ahead"]
    found = going["stages"][0]["found"]
    assert (found["devices"], found["examples"], found["passed"]) == (2, 20, True)
    assert found["candidate"]["loss"] == pytest.approx(0.1)
    assert found["baseline"]["loss"] == pytest.approx(0.5)
    page = desk.text()
    assert "0.1000" in page
    assert "0.5000" in page
    assert "waits for an operator" in page
    assert desk.post("proceed")[0] == 303
    desk.evaluate(GOOD)
    status, page = desk.post("proceed")
    assert (status, desk.scene.state.released, desk.scene.uses()) == (303, 1, [1] * 6)
    assert (desk.read()["previous"], desk.read()["promotion"], desk.read()["ended"][0]["phase"]) == (
        0,
        None,
        "released",
    )
    assert "every stage passed" in page
    status, page = desk.post("roll-back", reason=HOSTILE)
    assert (status, desk.scene.uses()) == (303, [0] * 6)
    assert "<script>alert" not in page
    local = desk.scene.local
    assert entries(local, "release-promoted") == [("operator:ada", TASK)]
    assert entries(local, "release-stage") == entries(local, "release-completed") == [("operator:ada", TASK)]
    assert entries(local, "release-rolled-back") == [("operator:ada", TASK)]


def test_why_a_version_was_rolled_back_is_seen(desk: Desk) -> None:
    desk.post("promote", version="1", stages=TWO_STAGES)
    desk.evaluate(BAD)
    (ended,) = desk.read()["ended"]
    assert (ended["phase"], [stage["state"] for stage in ended["stages"]]) == ("rolled-back", ["failed", "ahead"])
    assert "loss is 400 % higher on 2 devices" in ended["reason"]
    page = desk.text()
    assert "Rolled back: stage 1: loss is 400 % higher on 2 devices" in re.sub(r"\s+", " ", page)
    assert "being evaluated" not in page


def test_a_promotion_is_ended_by_its_operator(desk: Desk) -> None:
    desk.post("promote", version="1", stages=TWO_STAGES)
    assert desk.post("roll-back", reason="it is Friday")[0] == 303
    (ended,) = desk.read()["ended"]
    assert (ended["reason"], ended["stages"][0]["state"]) == ("it is Friday", "stopped")


def test_the_slower_of_two_operators_changes_nothing_and_is_shown_how_it_stands(desk: Desk) -> None:
    ben = Desk(desk.scene.local, "ben", scene=desk.scene)
    seen = ben.read()["revision"]
    assert desk.post("promote", seen, version="1", stages=TWO_STAGES)[0] == 303
    before = desk.scene.state
    for verb, fields in (
        ("promote", {"version": "1", "stages": TWO_STAGES}),
        ("roll-back", {}),
        ("pin", {"version": "0"}),
        ("unpin", {}),
        ("proceed", {}),
        ("hold", {"version": "1"}),
    ):
        status, page = ben.post(verb, seen, **fields)
        assert status == 409, verb
        assert "somebody else or the gate changed what devices use" in page
        assert f'name="revision" value="{before.revision}"' in page  # the form is of now
        assert "being evaluated" in page
        assert f'href="/console/models.json?task={TASK}"' in page  # and its links lead somewhere
        assert f"next=/console/models?task%3D{TASK}" in page
    assert desk.scene.state == before
    assert entries(desk.scene.local, "release-promoted") == [("operator:ada", TASK)]
    status, page = ben.post("promote", version="1", stages=TWO_STAGES)  # not stale, but not possible
    assert (status, "is being released to stage 1 of 2" in page) == (409, True)
    assert "Nothing was changed. Below" in page


def test_who_holds_a_version_holds_the_one_on_the_page(local: Local) -> None:
    """A round is quicker than the form, and its version is not the one that somebody has decided for."""
    local.cohort(small_plan("point"), 4)
    browser = SignedIn(local).browser("ada", "operator")
    answer = browser.post("/console/models/point/hold", revision="0", version="1")
    assert answer.status_code == 409
    assert "A round published a version meanwhile." in answer.get_data(as_text=True)
    assert browser.post("/console/models/point/hold", revision="0", version="0").status_code == 303
    assert local.rows("SELECT released FROM task_release") == [(0,)]


def test_what_the_server_cannot_make_is_no_fault_of_it(desk: Desk) -> None:
    answer = desk.browser.get(f"/console/models/{TASK}/1/keras")
    assert (answer.status_code, "fedloom keras" in answer.get_data(as_text=True)) == (409, True)


def test_a_version_is_pinned_and_unpinned(desk: Desk) -> None:
    status, page = desk.post("pin", version="1")
    assert (status, "No devices have evaluated version 1." in page) == (403, True)
    assert desk.post("pin", version="0", reason="calm")[0] == 303
    assert desk.read()["pinned"] == 0
    assert desk.scene.told(desk.scene.members[0]).pinned == 0
    assert desk.post("pin", version="0")[0] == 409
    assert desk.post("unpin")[0] == 303
    assert desk.read()["pinned"] is None
    assert desk.post("unpin")[0] == 404
    for action in ("release-pinned", "release-unpinned"):
        assert entries(desk.scene.local, action) == [("operator:ada", TASK)]


def test_what_is_unknown_or_expired_is_not_promoted_and_the_page_says_so(desk: Desk) -> None:
    status, page = desk.post("promote", version="7", stages=TWO_STAGES)
    assert (status, "version-unknown" in page) == (404, True)
    desk.scene.publish(2.0)
    desk.scene.local.clock.time_s += PLAN.release.valid_s + 1  # the newest is renewed, version 1 is not
    desk.scene.local.settle()
    desk.sign_in()
    status, page = desk.post("promote", version="1", stages=TWO_STAGES)
    assert status >= 400
    assert "release-expired" in page
    assert desk.scene.state.promotion == 0


def test_a_version_whose_signature_is_wrong_is_released_nowhere(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    before = desk.scene.state
    with desk.scene.local.parts.database.write() as connection:
        connection.execute(update(version).where(version.c.number == 1).values(signature=bytes(64)))
    data = str(desk.scene.local.parts.folder.path)
    for verb in ("promote", "pin"):
        status, page = desk.post(verb, version="1", stages="100%")
        assert (status, "bad-signature" in page) == (401, True), verb
        assert main(["model", verb, TASK, "1", "--data", data]) == 3
        assert "code: bad-signature" in capsys.readouterr().err
    assert desk.scene.state == before


def test_nothing_is_released_before_it_is_evaluated(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither by going on early, nor by pinning, nor because nobody came; and the shell says the same."""
    data = str(desk.scene.local.parts.folder.path)
    desk.post("promote", version="1", stages=TWO_STAGES, wait="yes")
    for verb, code in (("proceed", "not-waiting"), ("pin", "not-evaluated")):
        status, page = desk.post(verb, version="1")
        assert (status >= 400, code in page) == (True, True), verb
        assert main(["model", verb, TASK, *(["1"] if verb == "pin" else []), "--data", data]) == 3
        assert f"code: {code}" in capsys.readouterr().err
    assert desk.scene.state.released == 0
    desk.scene.local.clock.time_s += PLAN.deadlines.round_s + 1
    desk.scene.local.settle()
    desk.sign_in()
    (ended,) = desk.read()["ended"]
    assert (ended["phase"], desk.scene.state.released, desk.scene.uses()) == ("rolled-back", 0, [0] * 6)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"stages": ""}, "bad-stages"),
        ({"stages": "x%"}, "bad-stages"),
        ({"stages": "10%,1%,100%"}, "bad-stages"),
        ({"stages": "nan%,100%"}, "bad-stages"),
        ({"stages": "10%"}, "bad-stages"),
        ({"stages": ",".join(["1%"] * 30)}, "bad-stages"),
        ({"version": ""}, "bad-number"),
        ({"version": "-1"}, "bad-number"),
        ({"version": "9" * 400}, "bad-number"),
        ({"version": "4294967296"}, "bad-number"),
        ({"version": "\u0661"}, "bad-number"),
        ({"revision": ""}, "bad-number"),
        ({"revision": "x"}, "bad-number"),
    ],
)
def test_forms_that_make_no_sense_are_answered_by_name(desk: Desk, fields: dict[str, str], code: str) -> None:
    before = desk.scene.state
    sent = {"revision": str(before.revision), "version": "1", "stages": TWO_STAGES, **fields}
    answer = desk.browser.post(f"/console/models/{TASK}/promote", **sent)
    assert (answer.status_code, code in answer.get_data(as_text=True)) == (400, True)
    assert desk.scene.state == before


def test_what_is_not_there_is_answered_by_name(desk: Desk) -> None:
    assert desk.browser.post("/console/models/nothing/promote", revision="0", version="1").status_code == 404
    assert desk.browser.post(f"/console/models/{TASK}/dance", revision="0").status_code == 404
    for path in ("nothing/0", f"{TASK}/7", f"{TASK}/{'9' * 30}", f"{TASK}/7/safetensors", f"{TASK}/1/zip"):
        assert desk.browser.get(f"/console/models/{path}").status_code == 404, path


def test_viewers_see_everything_and_change_nothing(desk: Desk) -> None:
    viewer = Desk(desk.scene.local, "vi", "viewer", desk.scene)
    before = desk.scene.state
    page = viewer.text()
    assert "needs the role operator" in page
    assert f"/console/models/{TASK}/promote" not in page
    for verb in ("promote", "proceed", "pin", "unpin", "roll-back", "hold"):
        assert viewer.post(verb, version="1", stages=TWO_STAGES)[0] == 403
    assert desk.scene.state == before
    assert viewer.browser.get(f"/console/models/{TASK}/1").status_code == 200
    assert viewer.browser.get(f"/console/models/{TASK}/1/safetensors").status_code == 200


def test_a_program_promotes_with_a_token_and_gets_problems_as_json(desk: Desk) -> None:
    signed_in = SignedIn(desk.scene.local)
    signed_in.account("ci", "operator")
    headers = {"Authorization": f"Bearer {signed_in.token('ci', 'operator')}", "Accept": "application/json"}
    client = desk.scene.local.app.test_client(use_cookies=False)
    sent = {"revision": desk.read()["revision"], "version": "1", "stages": TWO_STAGES}
    where = f"/console/models/{TASK}/promote"
    made = client.post(where, base_url=BASE, data=sent, headers=headers)
    assert (made.status_code, made.get_json()["revision"]) == (200, sent["revision"] + 1)
    again = client.post(where, base_url=BASE, data=sent, headers=headers)
    assert (again.status_code, again.get_json(force=True)["code"]) == (409, "release-changed")
    ((actor, _),) = entries(desk.scene.local, "release-promoted")
    assert actor.startswith("operator:ci")


def test_files_and_cards(desk: Desk) -> None:
    desk.post("promote", version="1", stages="100%")
    desk.evaluate(GOOD)
    answer = desk.browser.get(f"/console/models/{TASK}/1/safetensors")
    assert load(answer.get_data())["theta"].tolist() == [1.0] * 8
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{TASK}-1.safetensors"'
    assert answer.content_type == "application/octet-stream"
    assert f"/console/models/{TASK}/1/safetensors" in desk.text()
    assert f"/console/models/{TASK}/1/int8" not in desk.text()  # the textbook model has no program
    assert desk.browser.get(f"/console/models/{TASK}/1/int8").status_code == 404
    keras = desk.browser.get(f"/console/models/{TASK}/1/keras")
    assert keras.status_code >= 400
    assert "fedloom keras" in keras.get_data(as_text=True)
    card = desk.browser.get(f"/console/models/{TASK}/1.json").get_json()
    assert card["evaluation"] == {"accuracy": 0.0, "loss": pytest.approx(0.1), "examples": 60, "devices": 6}
    page = desk.browser.get(f"/console/models/{TASK}/1").get_data(as_text=True)
    assert f"{TASK}, version 1" in page
    assert "0.1000" in page
    assert "on 6 devices, a rise of up to" in page


def test_of_fewer_devices_than_the_smallest_cohort_no_sum_is_shown(desk: Desk) -> None:
    desk.post("promote", version="1", stages=TWO_STAGES, wait="yes")
    desk.evaluate(GOOD)
    ((body,),) = desk.scene.local.rows("SELECT result FROM evaluation")
    with desk.scene.local.parts.database.write() as connection:
        connection.execute(update(evaluation).values(result=encode({**decode(body), "evaluated": 1})))
    found = desk.read()["promotion"]["stages"][0]["found"]
    assert (found["suppressed"], found["candidate"], found["baseline"], found["examples"]) == (True, None, None, None)
    assert "0.1000" not in desk.text()
    card = desk.browser.get(f"/console/models/{TASK}/1.json").get_json()
    assert (card["evaluation"], card["releases"][0]["candidate"]) == (None, None)
    assert "0.1000" not in desk.browser.get(f"/console/models/{TASK}/1").get_data(as_text=True)


def test_a_task_that_follows_the_newest_is_held(local: Local) -> None:
    local.create(PLAN)
    browser = SignedIn(local).browser("ada", "operator")
    page = browser.get(PAGE).get_data(as_text=True)
    assert "There is only version 0" in page
    answer = browser.post(f"/console/models/{TASK}/hold", revision="0", version="0")
    assert answer.status_code == 303
    page = browser.get(answer.headers["Location"]).get_data(as_text=True)
    assert "Devices stay with this version until one is promoted." in page
    assert "No driver has signed the last change yet" in page
    local.settle()
    assert "No driver has signed" not in browser.get(PAGE).get_data(as_text=True)
    assert entries(local, "release-held") == [("operator:ada", TASK)]


def test_a_task_that_is_made_after_the_keys_replacement_is_signed_by_the_new_key(local: Local) -> None:
    local.create(PLAN)
    browser = SignedIn(local).browser("ada", "operator")
    local.clock.time_s += LEASE_S + 1
    parts = local.parts
    authority = load_or_create_key(parts.folder.authority / AUTHORITY_KEY_FILE)
    rotate(parts.database, parts.folder, authority, "operator", local.clock.now_s())
    plan = "task = 'second'\n[cohort]\nmin_survivors = 3\nlargest = 6\n"
    assert browser.post("/console/new-task", plan=plan, model=TASK).status_code == 303
    with parts.database.read() as connection:
        new, (body, signature) = newest_key(parts.folder, connection), release_of(connection, "second", 0)
    old = load_or_create_key(parts.folder.keys / RELEASE_KEY_FILE)
    now_s = local.clock.now_s()
    verify_release(body, signature, public_key=new.public, task="second", min_version=0, now_s=now_s)
    with refused("bad-signature", Unauthenticated):
        verify_release(body, signature, public_key=old.public, task="second", min_version=0, now_s=now_s)


def test_weights_are_imported_as_the_command_imports_them(desk: Desk) -> None:
    def send(revision: int, data: bytes, name: str = "ones.safetensors") -> tuple[int, str]:
        sent = {"form_token": desk.browser.form_token(), "revision": str(revision), "weights": (io.BytesIO(data), name)}
        answer = desk.browser._client.post(
            f"/console/models/{TASK}/import",
            base_url=BASE,
            data=sent,
            content_type="multipart/form-data",
            headers={"Accept": "text/html"},
        )
        return answer.status_code, answer.headers.get("Location", "") + answer.get_data(as_text=True)

    seen = desk.read()["revision"]
    fits = save({"theta": np.full(8, 3.0, np.float32)})
    for data, name, code in (
        (b"", "", "no-weights"),
        (b"no safetensors", "a.safetensors", "wrong-weights"),
        (save({"other": np.ones(8, np.float32)}), "a.safetensors", "wrong-weights"),
        (save({"theta": np.full(8, np.nan, np.float32)}), "a.safetensors", "wrong-weights"),
    ):
        status, page = send(seen, data, name)
        assert (status, code in page) == (400, True), code
    assert send(seen + 7, fits)[0] == 409
    assert desk.read()["newest"] == 1
    status, where = send(seen, fits)
    assert (status, "done=release-import" in where) == (303, True)
    assert (desk.read()["newest"], desk.read()["released"], desk.scene.uses()) == (2, 0, [0] * 6)
    made = load(desk.browser.get(f"/console/models/{TASK}/2/safetensors").get_data())
    assert made["theta"].tolist() == [3.0] * 8
    assert entries(desk.scene.local, "version-imported")[-1] == ("operator:ada", TASK)
    assert Desk(desk.scene.local, "vi", "viewer", desk.scene).post("import")[0] == 403


def test_the_gate_is_set_on_the_page_and_shown(desk: Desk) -> None:
    assert 'name="tolerance" type="number" min="0" max="1" step="any" value="0.01"' in desk.text()
    for fields, code in (
        ({"tolerance": "0.2"}, "bad-gate"),
        ({"tolerance": "nan"}, "bad-number"),
        ({"largest_drop": "1e9"}, "bad-number"),
        ({"largest_drop": "2"}, "bad-gate"),
        ({"tolerance": "-0.1"}, "bad-number"),
        ({"tolerance": "."}, "bad-number"),
    ):
        status, page = desk.post("promote", None, version="1", stages=TWO_STAGES, **fields)
        assert (status, code in page) == (400, True), fields
        for typed in (TWO_STAGES, *fields.values()):
            assert f'value="{typed}"' in page  # nothing is to be typed again
    assert desk.post("promote", version="1", stages=TWO_STAGES, tolerance="0.025", largest_drop="0.5")[0] == 303
    going = desk.read()["promotion"]
    assert (going["tolerance"], going["largest_drop"]) == (0.025, 0.5)
    assert "accepts a drop of 2.5 % beyond chance, and never more than 50 %" in desk.text()
