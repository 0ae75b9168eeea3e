"""Tables of traffic by the hour of the week: what is read, and the one sentence for what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import BadInput
from sim.logs.traffic_share import read_week
from tests.scenarios import DATA

REAL = DATA / "traffic" / "traffic_share.csv"
ROWS = [(day, hour) for day in range(1, 8) for hour in range(24)]
ONE = ["dow,hour,traffic_share", *(f"{day},{hour},{10 * day + hour / 100}" for day, hour in ROWS)]
TWO = [
    "region_id,dow,hour,traffic_share",
    *(f"north,{day},{hour},{day}" for day, hour in ROWS),
    *(f"south,{day},{hour},{hour}" for day, hour in ROWS),
]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "week.csv"


def test_the_hours_come_out_from_monday_on_whatever_their_order(path: Path) -> None:
    expected = tuple(10 * day + hour / 100 for day, hour in ROWS)
    assert read_week(write(path, ONE)) == expected
    assert read_week(write(path, [ONE[0], *reversed(ONE[1:])])) == expected


def test_columns_are_found_by_name_and_others_ignored(path: Path) -> None:
    lines = [" traffic_share ,note,hour,dow", *(f"{hour},x, {hour} ,{day}" for day, hour in ROWS)]
    path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n\r\n", encoding="utf-8")
    assert read_week(path) == tuple(float(hour) for _, hour in ROWS)


def test_one_of_several_regions_is_chosen(path: Path) -> None:
    write(path, TWO)
    assert read_week(path, "north") == tuple(float(day) for day, _ in ROWS)
    assert read_week(path, "south") == tuple(float(hour) for _, hour in ROWS)
    assert read_week(write(path, TWO[:169]), None) == tuple(float(day) for day, _ in ROWS)


@pytest.mark.parametrize(
    ("lines", "region", "sentence"),
    [
        ([], None, "lacks the columns dow, hour, traffic_share: begin it with a header such as dow,hour,traffic_share"),
        (["dow,hour,share"], None, "lacks the column traffic_share: begin it with a header such as "),
        (["dow,hour,hour,traffic_share"], None, "names a column twice in its header: rename one of the two"),
        (ONE[:1], None, "has no rows below its header: give a share for each of 168 hours"),
        (ONE[:-1], None, "lacks 1 of the 168 hours, the first of them dow 7, hour 23: add them"),
        ([*ONE, "3,4,1"], None, ", line 170 gives dow 3, hour 4 again: remove one of the two"),
        ([*ONE, "8,0,1"], None, ", line 170: dow (='8') must be a whole number from 1 (Monday) to 7 (Sunday): correct"),
        ([*ONE, "1,24,1"], None, ", line 170: hour (='24') must be a whole number from 0 to 23: correct it"),
        ([*ONE, "1,-1,1"], None, ", line 170: hour (='-1') must be a whole number from 0 to 23: correct it"),
        ([ONE[0], "1,0,nan"], None, ", line 2: traffic_share (='nan') must be a number >= 0: correct it"),
        ([ONE[0], "1,0,-0.1"], None, ", line 2: traffic_share (='-0.1') must be a number >= 0: correct it"),
        ([ONE[0], "1,0,much"], None, ", line 2: traffic_share (='much') must be a number >= 0: correct it"),
        ([ONE[0], "1,0"], None, ", line 2 has 2 fields where its header names 3: correct it"),
        (
            [ONE[0], *(f"{day},{hour},0" for day, hour in ROWS)],
            None,
            "has no traffic in any hour: give one hour at least a share > 0",
        ),
        (ONE, "north", "has no region 'north': it has no column region_id, so leave 'region' out"),
        (TWO, None, "holds 2 regions (north, south, …): choose one as 'region'"),
        (TWO, "nroth", "has no region 'nroth': did you mean 'north'?"),
        (TWO, "7", "has no region '7': choose one of its 2, such as 'north'"),
        (TWO[:-2], "south", "lacks 2 of the 168 hours of region south, the first of them dow 7, hour 22: add them"),
        ([*ONE, '"1,0,1'], None, " cannot be read (unexpected end of data): give a CSV in UTF-8"),
    ],
)
def test_what_cannot_be_used(path: Path, lines: list[str], region: str | None, sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_week(write(path, lines) if lines else _empty(path), region)
    said = str(refused.value)
    assert said.removeprefix("week.csv").lstrip(" ").startswith(sentence.lstrip(" "))
    assert "\n" not in said


def _empty(path: Path) -> Path:
    path.touch()
    return path


def test_a_missing_table(path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        read_week(path)
    assert str(refused.value) == (
        f"{path} is not a file: give the path of a table with the columns dow, hour, traffic_share"
    )


def test_a_table_that_is_no_text(path: Path) -> None:
    path.write_bytes(b"dow,hour,traffic_share\n\xff\xfe,1,2\n")
    with pytest.raises(BadInput, match=r"week\.csv cannot be read \('utf-8' codec can't decode byte 0xff"):
        read_week(path)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.exists(), reason=f"the real table is not at {REAL}")
def test_a_region_of_the_real_table_rests_at_the_weekend() -> None:
    regions = {line.split(",")[0] for line in REAL.read_text(encoding="utf-8").splitlines()[1:]}
    assert len(regions) == 114
    region = min(regions)
    week = read_week(REAL, region)
    assert len(week) == 168
    assert sum(week) == pytest.approx(1, abs=1e-4)
    assert min(range(7), key=lambda day: sum(week[24 * day : 24 * day + 24])) in (5, 6)
    with pytest.raises(BadInput, match=r"traffic_share\.csv holds 114 regions .*: choose one as 'region'"):
        read_week(REAL)
