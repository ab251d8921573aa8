import csv
import math

import pytest

from latent_scattering import training_times
from latent_scattering.errors import DataError


def changed(tmp_path, **values):
    """The table with other values in its second row."""
    rows = list(csv.DictReader(training_times.FILE.read_text().splitlines()))
    rows[1].update(values)
    file = tmp_path / "table.csv"
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[1]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_has_the_papers_rows_exactly():
    table = training_times.load().set_index("key")
    paper = table[table.table == "paper"]
    # Ziomek & Farrahi, Table 4, from the top.
    assert paper[["dimensions", "generative", "non_generative"]].values.tolist() == [
        ["128x128x3", "17 min", "27 h 45 min"],
        ["4x80x96x64", "10 h", ""],
        ["400x400", "6 h", ""],
        ["180x240x3", "4 h", ""],
        ["128x128x3", "10 min", "27 h 45 min"],
        ["64x64x3", "10 h", ""],
        ["256x256x3", "73 h", ""],
    ]
    assert paper.hours.tolist() == [17 / 60, 10, 6, 4, 10 / 60, 10, 73]
    assert paper.hours_before["ziomek-vae"] == 27.75
    assert paper.hours_before.notna().sum() == 2
    assert paper["values"]["lee2020"] == 4 * 80 * 96 * 64


def test_every_added_row_has_a_source():
    table = training_times.load()
    added = table[table.table == "added"]
    assert len(added) >= 10
    assert set(added.family) == {"VAE", "GAN", "diffusion", "two stages"}
    assert added.reference.str.startswith("https://").all()
    assert (added.hours > 0).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("17 min", 17 / 60), ("27 h 45 min", 27.75), ("2.5 wk", 420), ("6 d 14 h", 158)],
)
def test_durations(text, expected):
    assert training_times.hours(text) == pytest.approx(expected)


def test_no_duration_is_nan():
    assert math.isnan(training_times.hours(""))


@pytest.mark.parametrize("text", ["17", "1 h30 min", "h", "-1 h", "1 year", " 1 h"])
def test_refuses_other_durations(text):
    with pytest.raises(ValueError, match="are wanted"):
        training_times.hours(text)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("dimensions", "128×128"),
        ("generative", "soon"),
        ("family", "transformer"),
        ("devices", "0"),
        ("peak", "-1"),
        ("seen", "many"),
        ("confirmed", "perhaps"),
        ("reference", ""),
        ("key", "Lee 2020"),
        ("more", "1"),
    ],
)
def test_refuses_a_row_by_name(tmp_path, column, value):
    with pytest.raises(DataError, match=rf"table\.csv: column {column}"):
        training_times.load(changed(tmp_path, **{column: value}))


def test_refuses_what_is_there_twice(tmp_path):
    with pytest.raises(DataError, match="yi2020 twice"):
        training_times.load(changed(tmp_path, key="yi2020"))


def test_refuses_an_empty_or_unreadable_table(tmp_path):
    file = tmp_path / "table.csv"
    with pytest.raises(DataError, match="cannot be read"):
        training_times.load(file)
    file.write_text("")
    with pytest.raises(DataError, match="no row"):
        training_times.load(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        training_times.load(file)


def test_a_changed_table_is_not_taken_for_the_packages(tmp_path, monkeypatch):
    file = changed(tmp_path, generative="11 h")
    assert training_times.load(file).hours[1] == 11
    monkeypatch.setattr(training_times, "FILE", file)
    with pytest.raises(DataError, match="has been changed"):
        training_times.load(file)
