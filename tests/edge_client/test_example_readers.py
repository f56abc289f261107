"""Folders of tables, sounds and pictures: read as declared, and what is wrong is named."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_client.examples import find_examples, read_examples
from edge_client.examples.declaration import Keep, read_declaration
from edge_client.examples.rows import Row, is_held_out, newest
from edge_client.examples.sounds import _samples
from shared.errors import UsageError
from tests.shared.refusals import refused

NOW_S = 1_800_000_000.0
CSV = """
reader = "csv"
classes = ["rest", "walk"]
held_out_percent = 0
[csv]
label = "what"
inputs = ["ax", "ay"]
window = 3
"""
WAV = 'reader = "wav"\nclasses = ["no", "yes"]\nheld_out_percent = 0\n[wav]\nrate_hz = 8000\nseconds = 0.5\n'
IMAGES = 'reader = "images"\nheld_out_percent = 0\n[images]\nheight = 4\nwidth = 6\nchannels = 1\n'


def declare(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "examples.toml").write_text(text, "utf-8")
    return folder


def table(path: Path, rows: list[str], head: str = "t,ax,what,ay") -> None:
    path.write_text("\n".join([head, *rows]) + "\n", "utf-8")


def sound(path: Path, samples: list[int], width: int = 2, channels: int = 1, rate_hz: int = 8000) -> None:
    path.parent.mkdir(exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate_hz)
        file.writeframes(b"".join(value.to_bytes(width, "little", signed=width > 1) for value in samples))


def test_windows_of_a_table_have_one_label_each(tmp_path: Path) -> None:
    declare(tmp_path, CSV)
    table(tmp_path / "a.csv", [f"{t},{t},{'walk' if t >= 6 else 'rest'},{-t}" for t in range(10)])
    train, held_out = read_examples(tmp_path, NOW_S)
    x = train.inputs()["x"]
    assert (x.dtype.str, x.shape, len(held_out)) == ("<f4", (3, 3, 2), 0)
    assert train.y.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(x[2], [[6, -6], [7, -7], [8, -8]])


def test_a_window_over_a_change_of_label_is_no_example(tmp_path: Path) -> None:
    declare(tmp_path, CSV + "step = 1\n")
    table(tmp_path / "a.csv", [f"{t},{t},{'walk' if t >= 4 else 'rest'},0" for t in range(8)])
    train, _ = read_examples(tmp_path, NOW_S)
    assert train.inputs()["x"][:, 0, 0].tolist() == [0, 1, 4, 5]


def test_without_a_window_each_row_is_an_example(tmp_path: Path) -> None:
    declare(tmp_path, CSV.replace("window = 3", ""))
    table(tmp_path / "a.csv", ["0,1,rest,2", "", "1,3,walk,4"])
    train, _ = read_examples(tmp_path, NOW_S)
    np.testing.assert_array_equal(train.inputs()["x"], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("rows", "head", "words"),
    [
        (["0,1,rest,x"], "t,ax,what,ay", "line 2: could not convert"),
        (["0,1,rest,1", "0,nan,rest,2"], "t,ax,what,ay", "line 3 holds an infinite value or NaN"),
        (["0,1,run,2"], "t,ax,what,ay", "line 2, label: 'run' is none of the classes rest, walk"),
        (["0,1"], "t,ax,what,ay", "line 2"),
        (["0,1,rest"], "t,ax,what", "no column 'ay'"),
        (['0,"1'], "t,ax,what,ay", "line 2"),
    ],
)
def test_what_is_wrong_with_a_table_is_named_with_its_line(
    tmp_path: Path, rows: list[str], head: str, words: str
) -> None:
    declare(tmp_path, CSV)
    table(tmp_path / "bad.csv", rows, head)
    with pytest.raises(UsageError) as caught:
        read_examples(tmp_path, NOW_S)
    assert caught.value.code == "examples-unreadable"
    assert "bad.csv: " in caught.value.message
    assert words in caught.value.message


def test_one_bad_file_does_not_hold_up_the_others(tmp_path: Path) -> None:
    declare(tmp_path, CSV)
    table(tmp_path / "good.csv", [f"{t},{t},rest,0" for t in range(3)])
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere")
    lines: list[str] = []
    train, _ = read_examples(tmp_path, NOW_S, lines.append)
    assert len(train) == 1
    assert len(lines) == 1
    assert "bad.csv" in lines[0]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@given(st.data())
def test_samples_of_every_width_lie_between_minus_one_and_one(width: int, data: st.DataObject) -> None:
    least, most = (0, 255) if width == 1 else (-(256**width) // 2, 256**width // 2 - 1)
    values = data.draw(st.lists(st.integers(least, most), min_size=1, max_size=20))
    octets = b"".join(value.to_bytes(width, "little", signed=width > 1) for value in values)
    middle, half = (128, 128) if width == 1 else (0, 256**width // 2)
    np.testing.assert_allclose(_samples(octets, width), [(value - middle) / half for value in values], atol=1e-7)


def test_sounds_are_cut_or_end_in_silence_and_channels_are_mixed(tmp_path: Path) -> None:
    declare(tmp_path, WAV)
    sound(tmp_path / "yes" / "long.wav", [16384] * 5000)
    sound(tmp_path / "no" / "short.wav", [16384, -16384] * 1000, channels=2)
    train, _ = read_examples(tmp_path, NOW_S)
    by_label = dict(zip(train.y.tolist(), train.inputs()["x"], strict=True))
    assert by_label[1].tolist() == [0.5] * 4000
    assert by_label[0].tolist() == [0.0] * 4000


def test_a_sound_of_another_rate_or_none_is_named(tmp_path: Path) -> None:
    declare(tmp_path, WAV)
    sound(tmp_path / "yes" / "slow.wav", [1], rate_hz=4000)
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "cut.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVE")
    sound(tmp_path / "maybe" / "a.wav", [1])
    sound(tmp_path / "yes" / "good.wav", [1])
    found = " ".join(sorted(find_examples(tmp_path, NOW_S).problems))
    assert "slow.wav: it has 4000 samples a second, not 8000" in found
    assert "cut.wav: it is no WAV file" in found
    assert "a.wav: 'maybe' is none of the classes no, yes" in found


def test_pictures_become_the_size_and_colours_that_the_model_takes(tmp_path: Path) -> None:
    declare(tmp_path, IMAGES)
    (tmp_path / "7").mkdir()
    Image.new("RGB", (12, 8), (255, 255, 255)).save(tmp_path / "7" / "white.png")
    train, _ = read_examples(tmp_path, NOW_S)
    x = train.inputs()["x"]
    assert (x.shape, train.y.tolist()) == ((1, 4, 6, 1), [7])
    np.testing.assert_array_equal(x, np.ones_like(x))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n half", b"<svg/>", b"P5 99999 99999 255\n"])
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    declare(tmp_path, IMAGES)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "bad.png").write_bytes(content)
    with refused("examples-unreadable", UsageError):
        read_examples(tmp_path, NOW_S)


def test_hidden_files_and_the_declaration_are_no_examples(tmp_path: Path) -> None:
    declare(tmp_path, IMAGES)
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "a.png").write_bytes(b"x")
    with refused("examples-missing", UsageError):
        read_examples(tmp_path, NOW_S)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('reader = "cvs"', "reader must be one of npz, recorded, csv, images, wav"),
        ("readr = 1", "readr is unknown; did you mean reader?"),
        (CSV.replace("label", "lable"), "csv.lable is unknown; did you mean label?"),
        (CSV.replace("window = 3", 'window = "3"'), "csv.window must be a whole number"),
        (CSV.replace("window = 3", "window = -3"), "csv.window must lie from 0 to 1e+06"),
        (CSV.replace('["ax", "ay"]', "[]"), "csv.inputs must be a list of texts"),
        ('reader = "csv"', "go together"),
        (CSV + WAV.partition("0\n")[2], "go together"),
        (IMAGES.replace("channels = 1", "channels = 2"), "images.channels must be one of 1, 3"),
        (IMAGES.replace("height = 4\n", ""), "images.height is missing"),
        ('reader = "npz"\nkeep = 3', "keep must be a table"),
        ('reader = "npz"\nheld_out_percent = nan', "held_out_percent must lie"),
        ('reader = "npz"\nfiles = "../../etc/*"', "a pattern below the folder"),
        ('reader = "npz"\nclasses = ["a", "a"]', "classes has a name twice"),
        ("reader = \nfiles", "line 1"),
        ("[" * 3000, ":"),
        ("x" * 70000, "more than 65536"),
        ("reader = '\udcff'", "utf-8"),
    ],
)
def test_a_declaration_that_is_wrong_is_named_with_the_nearest_that_is_right(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "examples.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError) as caught:
        read_declaration(tmp_path)
    assert caught.value.code == "bad-examples-toml"
    assert words in caught.value.message


def test_the_newest_files_are_used_and_old_ones_are_not(tmp_path: Path) -> None:
    declare(tmp_path, IMAGES + "[keep]\nnewest = 2\ndays = 30\n")
    for name, days in (("1", 1), ("2", 2), ("3", 3), ("40", 40)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "a.png"
        Image.new("L", (6, 4)).save(path)
        os.utime(path, (NOW_S - days * 86400,) * 2)
    assert find_examples(tmp_path, NOW_S).train.y.tolist() == [2, 1]
    declare(tmp_path, IMAGES + "[keep]\ndays = 30\n")
    assert find_examples(tmp_path, NOW_S).train.y.tolist() == [3, 2, 1]
    assert find_examples(tmp_path, 0.0).train.y.tolist() == [40, 3, 2, 1]  # a clock that was not set knows nothing


ROWS = st.lists(st.integers(0, 50), max_size=30)


@given(ROWS, st.integers(0, 40), st.integers(0, 400), st.integers(0, 5))
def test_no_more_is_used_than_the_owner_wants(ages: list[int], most: int, megabytes: int, days: int) -> None:
    one = np.zeros(250_000, np.float32)  # a megabyte
    rows = [Row({"y": one}, str(age), NOW_S - age * 86400) for age in sorted(ages)]
    used = list(newest(rows, Keep(most, days, megabytes), NOW_S))
    assert used == rows[: len(used)]
    assert not most or len(used) <= most
    assert not megabytes or len(used) <= megabytes
    assert not days or all(row.time_s >= NOW_S - days * 86400 for row in used)
    bounded = (most and len(used) == most) or (megabytes and len(used) == megabytes)
    assert len(used) == len(rows) or bounded or rows[len(used)].time_s < NOW_S - days * 86400


@given(st.integers(1, 98))
def test_what_is_held_out_is_always_the_same_and_as_much_as_wanted(percent: int) -> None:
    units = [f"{number}.png" for number in range(2000)]
    chosen = [is_held_out(unit, percent) for unit in units]
    assert chosen == [is_held_out(unit, percent) for unit in units]
    assert abs(sum(chosen) / 2000 - percent / 100) < 0.06
