"""Keeping to the owner's settings: between batches, before turns and downloads, and while settings change."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from edge_client.conditions.day_count import DayCount
from edge_client.conditions.decide import No, Yes
from edge_client.conditions.keeper import CONDITION, FOLLOW_WITHIN_S, LOOK_EVERY_S, Keeper, Owner
from edge_client.conditions.pause import Pause, lift_pause, read_pause, write_pause
from edge_client.conditions.probes import Probes
from edge_client.conditions.spending import COUNTS
from edge_client.problems import NotNow
from edge_client.settings_file import SettingsFile
from shared.errors import UsageError
from tests.edge_client.devices import ManualClock
from tests.edge_client.machines import PI, heat, programs, write_machine
from tests.edge_client.test_spending import Kept
from tests.shared.refusals import refused

MIDNIGHT_S = 1_800_057_600.0  # 16 January 2027


def utc(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s, UTC)


@dataclass
class Scene:
    """A Pi whose time passes while somebody sleeps, and what happens to it then."""

    folder: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(MIDNIGHT_S - 7200))
    kept: Kept = field(default_factory=Kept)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        write_machine(self.root, PI)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def file(self) -> SettingsFile:
        return SettingsFile(self.folder / "agent.toml")

    @property
    def pause(self) -> Path:
        return self.folder / "pause.json"

    def keeper(self, **settings: str) -> Keeper:
        for name, value in settings.items():
            self.file.change(name.replace("__", "."), value)
        machine = Probes(self.root, programs({}), self.clock.now_s, 4)
        owner = Owner(self.file, self.pause)
        return Keeper(owner, machine, self.kept, self.clock, self.clock.now_s, utc, self.lines.append)

    @property
    def told(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.kept.get(CONDITION) or "{}")
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def at_each_second(scene: Scene, changes: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the temperature change after so many seconds of sleep; return when the agent looked."""
    looked: list[float] = []
    sleep = scene.clock.sleep

    def slept(seconds: float) -> None:
        sleep(seconds)
        looked.append(scene.clock.now_s())
        if (temperature := changes.get(len(looked))) is not None:
            heat(scene.root, temperature)

    monkeypatch.setattr(scene.clock, "sleep", slept)
    return looked


def test_a_training_pauses_while_it_is_too_hot_and_goes_on(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = scene.keeper(train__temperature_below_c="70")
    with keeper.training():
        keeper.before_batch()
        heat(scene.root, 72)
        scene.clock.time_s += LOOK_EVERY_S
        looked = at_each_second(scene, {30: 69.9}, monkeypatch)
        keeper.before_batch()
    assert len(looked) == 30
    assert max(after - before for before, after in pairwise(looked)) <= 5
    assert scene.told == {}
    assert any("72 °C" in line for line in scene.lines)
    assert "goes on" in scene.lines[-1]
    keeper.close()
    assert DayCount.from_text(scene.kept[COUNTS]).used.training_s < 5, "a pause is no training"


def test_a_pause_is_told_while_it_lasts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = scene.keeper(train__temperature_below_c="70")
    heat(scene.root, 72)
    seen: list[dict[str, object]] = []
    looked = at_each_second(scene, {}, monkeypatch)
    sleep = scene.clock.sleep

    def slept(seconds: float) -> None:
        seen.append(scene.told)
        sleep(seconds)
        if len(looked) == 3:
            heat(scene.root, 50)

    monkeypatch.setattr(scene.clock, "sleep", slept)
    keeper.before_batch()
    assert seen[0] == {"code": "too-hot", "values": {"found": 72.0, "limit": 70.0}, "look_again_s": None}


def test_a_training_that_would_pause_for_too_long_is_given_up(scene: Scene) -> None:
    keeper = scene.keeper(train__temperature_below_c="70", train__pause_at_most_s="600")
    heat(scene.root, 72)
    began_s = scene.clock.now_s()
    with refused("paused-too-long", NotNow):
        keeper.before_batch()
    assert 600 - 2 * LOOK_EVERY_S <= scene.clock.now_s() - began_s <= 600
    with refused("outside-hours", NotNow) as caught:
        scene.keeper(train__temperature_below_c="off", train__hours="03:00-04:00").before_batch()
    assert "03:00-04:00" in caught.value.message
    assert scene.clock.now_s() - began_s <= 600, "it is known at once that five hours are too long"


def test_the_day_ends_a_training_at_its_limit(scene: Scene) -> None:
    keeper = scene.keeper(limits__training_seconds_per_day="60")
    batches = 0
    with refused("training-time-used", NotNow), keeper.training():
        for _ in range(1000):
            keeper.before_batch()
            scene.clock.time_s += 2.0
            batches += 1
            assert DayCount.from_text(scene.kept[COUNTS]).used.training_s >= 2 * batches - 1.5
    assert batches == 30
    found = keeper.verdict()
    assert isinstance(found, No)
    assert (found.code, found.look_again_s) == ("training-time-used", MIDNIGHT_S)
    scene.clock.time_s = MIDNIGHT_S
    assert keeper.verdict() == Yes()


def test_energy_is_time_at_the_owners_power(scene: Scene) -> None:
    keeper = scene.keeper(limits__power_w="6", limits__energy_wh_per_day="0.1")
    with refused("energy-used", NotNow):
        for _ in range(100):
            keeper.before_batch()
            scene.clock.time_s += 1.0
    assert keeper._spending.used_today().training_s == 60.0
    found = keeper.verdict()
    assert isinstance(found, No)
    assert found.code == "energy-used"


def test_its_own_load_keeps_it_from_nothing(scene: Scene) -> None:
    keeper = scene.keeper(train__load_below_per_core="0.3")
    keeper.before_batch()
    scene.clock.time_s += 600.0
    write_machine(scene.root, {"proc/loadavg": "1.20 0.42 0.38 2/183 24117\n"})
    keeper.before_batch()  # 0.2 of them are others'
    scene.clock.time_s += 10.0
    write_machine(scene.root, {"proc/loadavg": "2.60 0.42 0.38 3/183 24117\n"})
    with refused("paused-too-long", NotNow):
        keeper.before_batch()


def test_the_owners_pause_is_followed_in_time_and_outlives_processes(scene: Scene) -> None:
    keeper = scene.keeper()
    assert keeper.hold_s() is None
    write_pause(scene.pause, Pause(scene.clock.now_s(), 7200.0))
    for asked in (keeper, scene.keeper()):
        held = asked.hold_s()
        assert held is not None
        assert held <= FOLLOW_WITHIN_S < 5
    with refused("paused", NotNow):
        keeper.require()
    scene.clock.time_s += 7199.0
    assert keeper.hold_s() is not None
    scene.clock.time_s += 1.0
    assert keeper.hold_s() is None
    write_pause(scene.pause, Pause(scene.clock.now_s(), float("inf")))
    scene.clock.time_s += 1e8
    assert keeper.hold_s() is not None
    assert scene.told["look_again_s"] is None
    lift_pause(scene.pause)
    assert keeper.hold_s() is None


def test_a_clock_that_is_set_back_does_not_make_a_pause_longer(scene: Scene) -> None:
    write_pause(scene.pause, Pause(scene.clock.now_s(), 600.0))
    keeper = scene.keeper()
    scene.clock.time_s -= 1e8
    assert keeper.hold_s() is not None
    scene.clock.time_s += 601.0
    assert keeper.hold_s() is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"seconds": "x", "since_s": 0}', b"\xff"])
def test_a_damaged_pause_holds(scene: Scene, data: bytes) -> None:
    scene.pause.write_bytes(data)
    assert read_pause(scene.pause) == Pause(0.0, float("inf"))


def test_settings_are_followed_while_it_runs_and_broken_ones_hold(scene: Scene) -> None:
    keeper = scene.keeper()
    assert keeper.verdict() == Yes()
    scene.file.change("train.temperature_below_c", "40")
    found = keeper.verdict()
    assert isinstance(found, No)
    assert found.code == "too-hot"
    scene.file.path.write_text("[train]\nhuors = 1\n")
    found = keeper.verdict()
    assert isinstance(found, No)
    assert found.code == "settings-broken"
    assert "train.hours" in str(found.values["error"])
    scene.file.path.unlink()
    assert keeper.verdict() == Yes()
    scene.file.path.write_text("[train")
    with pytest.raises(UsageError):
        scene.keeper()


def test_writing_and_moving_bytes_are_counted_once(scene: Scene) -> None:
    keeper = scene.keeper(limits__written_megabytes_per_day="5", limits__download_and_upload_megabytes_per_day="4")
    keeper.permits.download(2_000_000)
    keeper.permits.piece(262_144)
    keeper.permits.transfer(1000)
    io = "write_bytes: {}\ncancelled_write_bytes: 0\n"
    write_machine(scene.root, {"proc/self/io": io.format(323932160 + 2_500_000)})
    keeper.verdict()
    used = keeper._spending.used_today()
    assert (used.written_bytes, used.transferred_bytes) == (2_500_000, 263_144)
    with refused("day-limit-reached", NotNow):
        keeper.permits.download(2_600_000)
    found = keeper.verdict()
    assert isinstance(found, No)
    assert found.code == "writing-used"


def test_a_download_stops_when_it_may_not_go_on(scene: Scene) -> None:
    keeper = scene.keeper()
    keeper.permits.piece(1000)
    write_pause(scene.pause, Pause(scene.clock.now_s(), 60.0))
    scene.clock.time_s += LOOK_EVERY_S
    with refused("paused", NotNow):
        keeper.permits.piece(1000)


def test_the_card_is_written_once_per_reason(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = scene.keeper(train__temperature_below_c="40")
    written: list[str] = []
    put = scene.kept.put

    def counted(name: str, value: str) -> None:
        written.append(name)
        put(name, value)

    monkeypatch.setattr(scene.kept, "put", counted)
    for number in range(100):
        heat(scene.root, 45 + number / 10)
        scene.clock.time_s += 5.0
        assert keeper.hold_s() is not None
    assert written.count(CONDITION) == 1
    assert len(written) <= 2, "the day's counts begin, too"
