"""The operator's command: exit codes, one shape of errors, and what each command prints."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from cloud_server.authority.remote import Description
from cloud_server.cautions import cautions
from cloud_server.cli import main
from cloud_server.privacy import paid_cohorts
from cloud_server.settings import load_or_create_key
from shared.bundle import TensorSpec
from shared.layout import Layout
from shared.plan import Cohort, Eligibility, Plan, Privacy, Stop
from shared.privacy.charges import epsilon_of, loss_of
from shared.root import EnrolmentCode, Root
from tests.cloud_server.local import Local
from tools.bench.quadratic import write_quadratic_bundle

Captured = pytest.CaptureFixture[str]
PLAN = 'task = "point"\ncohort = { min_survivors = 4, largest = 4, dropout_share = 0.0 }\n'


def run(captured: Captured, *words: str) -> tuple[int, Any]:
    """Run a command under ``--json`` and return its exit code and what it printed."""
    code = main([*words, "--json"])
    return code, json.loads(captured.readouterr().out)


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a bundle, a plan and a data folder that has been served from."""
    monkeypatch.chdir(tmp_path)
    Local(tmp_path / "data").close()
    write_quadratic_bundle(tmp_path / "bundle", 8)
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "typo.toml").write_text('task = "point"\n[cohort]\nmin_survivor = 4\n')
    (tmp_path / "latin.toml").write_bytes(b'task = "caf\xe9"\n')
    return tmp_path


CREATE = ["task", "create", "--data", "data", "--bundle", "bundle"]


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        ([], "usage", 2),
        (["dance"], "usage", 2),
        (["parameters"], "usage", 2),
        (["parameters", "--members", "many"], "usage", 2),
        (["parameters", "--members", "1"], "cohort-size", 2),
        (["parameters", "--members", "10", "--dropout", "0.5"], "unsafe-cohort", 2),
        ([*CREATE, "--plan", "nowhere.toml"], "no-plan", 2),
        ([*CREATE, "--plan", "typo.toml"], "bad-plan", 2),
        ([*CREATE, "--plan", "latin.toml"], "bad-plan", 2),
        (["task", "show", "nothing", "--data", "data"], "task-unknown", 3),
        (["task", "list", "--data", "fresh"], "no-data", 2),
        (["model", "export", "nothing", "--data", "data", "--out", "out"], "task-unknown", 3),
        (["code", "create", "--task", "nothing", "--data", "data"], "task-unknown", 3),
        (["code", "list", "--task", "nothing", "--data", "data"], "task-unknown", 3),
        (["code", "create", "--task", "x", "--expires", "soon", "--data", "data"], "bad-duration", 2),
    ],
)
def test_errors_have_one_shape(operator: Path, capsys: Captured, words: list[str], code: str, exit_code: int) -> None:
    assert operator.is_dir()
    got, document = run(capsys, *words)
    assert document.keys() == {"error"}
    assert document["error"].keys() == {"code", "message", "try"}
    assert (got, document["error"]["code"]) == (exit_code, code)
    assert main(words) == exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert code in captured.err
    assert document["error"]["message"] in captured.err


def test_a_misspelt_key_is_answered_with_the_nearest_one(operator: Path, capsys: Captured) -> None:
    assert operator.is_dir()
    _, document = run(capsys, *CREATE, "--plan", "typo.toml")
    assert "'min_survivor'" in document["error"]["message"]
    assert document["error"]["try"] == "did you mean min_survivors?"


def test_a_task_from_its_creation_to_its_codes(operator: Path, capsys: Captured) -> None:
    assert operator.is_dir()
    code, document = run(capsys, *CREATE, "--plan", "plan.toml")
    assert (code, document["task"]) == (0, "point")
    assert any("--allow-cohorts-of 4" in note for note in document["notes"])
    code, document = run(capsys, *CREATE, "--plan", "plan.toml")
    assert (code, document["error"]["code"]) == (3, "task-exists")
    assert run(capsys, "task", "list", "--data", "data") == (0, {"tasks": ["point"]})
    code, shown = run(capsys, "task", "show", "point", "--data", "data")
    assert (code, shown["state"], shown["version"], shown["rounds"]) == (0, "active", 0, [])
    code, budget = run(capsys, "privacy", "show", "point", "--data", "data")
    assert (code, budget["mechanism"], budget["epsilon"], budget["cohorts_charged"]) == (0, "none", None, 0)
    code, document = run(capsys, "code", "create", "--task", "point", "--data", "data")
    assert (code, document["error"]["code"]) == (2, "no-url")
    words = ["code", "create", "--task", "point", "--count", "3", "--url", "https://a:1", "--data", "data"]
    code, minted = run(capsys, *words)
    assert (code, len(set(minted["codes"]))) == (0, 3)
    code, listed = run(capsys, "code", "list", "--data", "data")
    assert sorted(minted["ids"]) == sorted(one["id"] for one in listed["codes"])
    assert run(capsys, "code", "revoke", minted["ids"][1], "--data", "data")[0] == 0
    assert main(words) == 0
    assert capsys.readouterr().out.count("fedloom1.") == 3


def test_tasks_are_listed_before_a_server_ran(operator: Path, capsys: Captured) -> None:
    create = ["task", "create", "--data", "unserved", "--bundle", "bundle", "--plan", "plan.toml"]
    assert run(capsys, *create)[0] == 0
    assert (operator / "unserved").is_dir()
    assert run(capsys, "task", "list", "--data", "unserved") == (0, {"tasks": ["point"]})


def test_whoever_makes_codes_is_told_where_they_lead(operator: Path, capsys: Captured) -> None:
    assert operator.is_dir()
    assert run(capsys, *CREATE, "--plan", "plan.toml")[0] == 0
    assert main(["code", "create", "--data", "data", "--task", "point", "--url", "https://elsewhere:8443"]) == 0
    printed = capsys.readouterr()
    assert EnrolmentCode.from_text(printed.out.strip()).url == "https://elsewhere:8443"
    assert "https://elsewhere:8443" in printed.err
    assert "enrol with --allow-cohorts-of 4" in printed.err  # else the code is spent on a device that declines


def test_the_newest_version_is_exported_whole(operator: Path, capsys: Captured) -> None:
    assert run(capsys, *CREATE, "--plan", "plan.toml")[0] == 0
    code, document = run(capsys, "model", "export", "point", "--out", "out", "--data", "data")
    assert (code, document["version"]) == (0, 0)
    assert {path.name for path in (operator / "out").iterdir()} == {
        *document["files"],
        "release.json",
        "release.json.sig",
    }
    words = ["model", "export", "point", "--version", "5", "--out", "out", "--data", "data"]
    code, document = run(capsys, *words)
    assert (code, document["error"]["code"]) == (3, "version-unknown")


def test_parameters_are_what_devices_derive(capsys: Captured) -> None:
    code, document = run(capsys, "parameters", "--members", "64", "--corrupt", "0.05", "--dropout", "0.1")
    assert code == 0
    lanes = document.pop("lanes")
    derived = {"members": 64, "neighbours": 63, "threshold": 34, "survivors": 58, "quorum": 34}
    assert document == derived | {"corrupt": 3, "gone": 6}
    assert lanes[0] == {"bits": 16, "levels": 511, "bytes_per_parameter": 2.0}


def test_parameters_of_several_sizes_tell_what_each_costs(capsys: Captured) -> None:
    words = ("parameters", "--members", "1000", "10000", "--dropout-share", "0.2", "--corrupt-share", "0.05")
    code, document = run(capsys, *words)
    assert code == 0
    cohorts = document["cohorts"]
    assert [(cohort["neighbours"], cohort["threshold"]) for cohort in cohorts] == [(148, 90), (202, 123)]
    assert [[lane["bits"] for lane in cohort["lanes"]] for cohort in cohorts] == [[16, 21, 32], [21, 32]]
    code, document = run(capsys, *words, "--adversary", "semi-honest")
    assert [(cohort["neighbours"], cohort["threshold"]) for cohort in document["cohorts"]] == [(50, 21), (60, 25)]


def test_parameters_for_people_are_one_line_per_size(capsys: Captured) -> None:
    assert main(["parameters", "--members", "64", "1000", "10000"]) == 0
    shares, head, first, second, third, *legend = capsys.readouterr().out.splitlines()
    assert "0.05 corrupt, 0.1 gone" in shares
    assert head.split() == ["members", "neighbours", "threshold", "survivors", "quorum", "corrupt", "gone", "lanes"]
    assert first.split()[:7] == ["64", "63", "34", "58", "34", "3", "6"]
    assert "21 (1048 levels, 2.667 B)" in second
    assert "a plan may ask for 4096" in third
    assert "threshold (t)" in " ".join(legend)


def test_parameters_name_an_unsafe_size_among_safe_ones(capsys: Captured) -> None:
    words = ("parameters", "--members", "1", "40")
    code, document = run(capsys, *words)
    assert code == 0
    unsafe, safe = sorted(document["cohorts"], key=lambda cohort: "error" not in cohort)
    assert unsafe["error"]["code"] == "cohort-size"
    assert "threshold" in safe
    assert main([*words]) == 0
    assert unsafe["error"]["message"] in capsys.readouterr().out


def test_parameters_that_cannot_be_safe_are_refused_with_the_reason(capsys: Captured) -> None:
    code, document = run(capsys, "parameters", "--members", "100", "--dropout", "0.5")
    assert (code, document["error"]["code"]) == (2, "unsafe-cohort")
    code, document = run(capsys, "parameters", "--members", "100", "--dropout", "0.6")
    assert (code, document["error"]["code"]) == (2, "bad-share")


def test_an_authority_keeps_out_of_an_aggregators_folder(operator: Path, capsys: Captured) -> None:
    assert (operator / "data" / "server.db").exists()
    assert main(["authority", "--data", "data"]) == 2
    assert "bad-data-folder" in capsys.readouterr().err
    (operator / "file").touch()
    assert main(["authority", "--data", "file/below"]) == 2
    assert "bad-data-folder" in capsys.readouterr().err


def test_an_authority_makes_codes_for_an_aggregator_that_trusts_it(operator: Path, capsys: Captured) -> None:
    folder = operator / "far"
    folder.mkdir()
    key = load_or_create_key(folder / "authority.key").public
    (folder / "authority.json").write_bytes(Description(key, "https://far:8444", "").to_bytes())
    words = ["code", "create", "--task", "point", "--data", "far"]
    assert run(capsys, *words)[1]["error"]["code"] == "no-url"
    words += ["--url", "https://near:8443"]
    code, document = run(capsys, *words)
    assert (code, document["error"]["code"]) == (2, "no-root")
    (operator / "other.json").write_bytes(Root(b"o" * 32, b"r" * 32, "").to_bytes())
    assert run(capsys, *words, "--root", "other.json")[1]["error"]["code"] == "other-authority"
    root = Root(key, b"r" * 32, "", "https://far:8444")
    (operator / "root.json").write_bytes(root.to_bytes())
    code, document = run(capsys, *words, "--root", "root.json", "--count", "2")
    assert (code, len(set(document["codes"]))) == (0, 2)
    made = EnrolmentCode.from_text(document["codes"][0])
    assert (made.url, made.fingerprint) == ("https://near:8443", root.fingerprint)
    assert len(run(capsys, *words)[1]["codes"]) == 1  # the aggregator is known from then on


def test_a_task_with_noise_for_few_devices_is_made_with_a_warning(operator: Path, capsys: Captured) -> None:
    text = 'task = "noisy"\n[update]\nmax_weight = 1\nmax_l2_norm = 3.0\nlane_bits = 32\n[stop]\nrounds = 9\n'
    privacy = '[privacy]\nmechanism = "central-gaussian"\nnoise_multiplier = 4.0\nmax_participations = 3\n'
    (operator / "noisy.toml").write_text(text + privacy + "delta = 1e-5\nmax_epsilon = 50.0\n")
    assert main([*CREATE, "--plan", "noisy.toml"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "task  noisy\n"
    notes = captured.err.splitlines()
    assert any("takes part 3 times and 9 rounds" in note for note in notes)
    assert any("at most 64 it costs much accuracy" in note for note in notes)
    assert not any("--allow-cohorts-of" in note for note in notes)


def test_it_is_said_how_many_rounds_the_budget_pays_for() -> None:
    noise = Privacy("skellam", noise_multiplier=1.0, max_participations=10, max_epsilon=8.0)
    plan = Plan("a", cohort=Cohort(4, 4), privacy=noise, stop=Stop(rounds=6))
    layout = Layout.of((TensorSpec("theta", (20,), 0, 20, "shared"),))
    paid = paid_cohorts(plan, layout)
    assert paid is not None
    assert 1 <= paid < 6
    assert any(f"pays for {paid} rounds, and 6 are planned" in note for note in cautions(plan, paid))
    # One more is what the driver refuses.
    once = loss_of(plan, plan.encoding(4, 20, 0))
    assert epsilon_of([once] * paid, noise.delta) <= noise.max_epsilon < epsilon_of([once] * (paid + 1), noise.delta)
    rich = dataclasses.replace(plan, privacy=dataclasses.replace(noise, max_epsilon=500.0))
    assert paid_cohorts(rich, layout) is None
    assert paid_cohorts(Plan("a"), layout) is None


def test_contributions_and_distances_that_stop_a_task_are_said() -> None:
    few = Plan("a", eligibility=Eligibility(max_contributions=2), stop=Stop(rounds=5))
    assert any("contributes 2 times at most and 5 rounds" in note for note in cautions(few))
    far = Plan("a", eligibility=Eligibility(min_interval_s=8 * 86400.0))
    assert any("min_interval_s" in note for note in cautions(far))
    assert not any("min_interval_s" in note or "at most and" in note for note in cautions(Plan("a")))


def test_a_plan_that_withstands_fewer_colluders_than_devices_want_says_so() -> None:
    told = "--min-corrupt-share 0.01"
    assert any(told in note for note in cautions(Plan("a", cohort=Cohort(corrupt_share=0.01))))
    assert not any("--min-corrupt-share" in note for note in cautions(Plan("a")))


def test_an_aggregator_keeps_out_of_an_authoritys_folder(operator: Path, capsys: Captured) -> None:
    folder = operator / "far"
    folder.mkdir()
    load_or_create_key(folder / "authority.key")
    before = sorted(path.name for path in folder.iterdir())
    for words in (["serve", "--data", "far"], ["task", "create", "--data", "far", "--bundle", "bundle"]):
        plan = ["--plan", "plan.toml"] if "task" in words else ["--listen", "127.0.0.1:0"]
        assert main([*words, *plan]) == 2
        assert "bad-data-folder" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_port_in_use_is_named_at_once(operator: Path, capsys: Captured) -> None:
    assert operator.is_dir()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        for command in (["serve", "--data", "data"], ["authority", "--data", "authority"]):
            assert main([*command, "--listen", listen]) == 2
            printed = capsys.readouterr().err
            assert "address-in-use" in printed
            assert listen in printed


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "No such file"), ("nonsense", "describes no authority"), ("{}", "describes no authority")],
)
def test_a_wrong_description_of_an_authority_is_named_with_its_file(
    operator: Path, capsys: Captured, text: str | None, words: str
) -> None:
    if text is not None:
        (operator / "authority.json").write_text(text)
    assert main(["serve", "--data", "data", "--listen", "127.0.0.1:0", "--authority", "authority.json"]) == 2
    printed = capsys.readouterr().err
    assert "bad-authority" in printed
    assert "authority.json" in printed
    assert words in printed
