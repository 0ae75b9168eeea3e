"""The gallery: its pictures, its page, and the command that makes them."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from experiments.gallery import HEADINGS, paint
from experiments.gallery.drawing import BLUE, Bars, Between, Dots, Line, Panel, Picture, Span, linear
from experiments.gallery.scenes import SCENES
from tests.scenarios import CONFIGS

DOCS = Path(__file__).parents[2] / "docs"
SCENARIOS = sorted(path.stem for path in (CONFIGS / "scenarios").glob("*.yaml"))
SVG = "{http://www.w3.org/2000/svg}"


def test_every_scenario_has_a_scene_a_small_picture_and_a_place_on_the_page() -> None:
    assert sorted(SCENES) == SCENARIOS
    page = (DOCS / "scenarios.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"pictures/(\w+)\.svg", page)) == SCENARIOS
    assert sorted(re.findall(r"simulate configs/scenarios/([a-z0-9_]+)\.yaml", page)) == SCENARIOS
    assert re.findall(r"^\| (\w+) \|", page, re.MULTILINE) == ["scenario", *SCENES]
    sizes = {path.stem: path.stat().st_size for path in (DOCS / "pictures").glob("*.svg")}
    assert sorted(sizes) == SCENARIOS
    assert max(sizes.values()) < 80_000


@pytest.mark.slow
def test_the_command_draws_what_the_page_shows(tmp_path: Path) -> None:
    """The numbers are those of one machine and one set of versions; what is drawn is not."""
    row = paint("ten_clicks_a_day", CONFIGS / "scenarios", tmp_path)
    assert len(row) == len(HEADINGS)
    assert row[0] == "ten_clicks_a_day"
    made, shown = (
        ET.parse(folder / "ten_clicks_a_day.svg").getroot()  # noqa: S314 - our own file
        for folder in (tmp_path, DOCS / "pictures")
    )
    assert [each.tag for each in made.iter()] == [each.tag for each in shown.iter()]


def test_a_picture_places_its_series_by_their_axes() -> None:
    x, y = np.array([0.0, 1.0, 2.0]), np.array([0.0, 5.0, np.nan])
    axis = linear([2.0], lambda value: f"{value:g}", marks=2)
    series = (Line("a", BLUE, x, y), Dots("b", BLUE, x[:2], y[:2]), Bars("c", BLUE, x[:1], y[1:2], 1.0))
    panel = Panel("t", linear([10.0], str), (*series, Between("d", BLUE, x[:2], y[:2], y[:2] + 1)), height=100)
    root = ET.fromstring(Picture("T", "days", axis, (panel,), (Span(0.0, 1.0, "<s>"),)).svg())  # noqa: S314
    dots = [(float(each.get("cx", 0)), float(each.get("cy", 0))) for each in root.iter(f"{SVG}circle")]
    (left, bottom), (middle, half) = dots[-2:]
    assert (bottom - half, middle - left) == (pytest.approx(50), pytest.approx((800 - 62 - 30) / 2))
    assert f"M{left:.1f} {bottom:.1f}L{middle:.1f} {half:.1f}" in {each.get("d") for each in root.iter(f"{SVG}path")}
    assert "<s>" in {each.text for each in root.iter(f"{SVG}text")}


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([0.0, 9.0], (0.0, 2.5, 5.0, 7.5, 10.0)),
        ([-3.0, 7.0], (-5.0, -2.5, 0.0, 2.5, 5.0, 7.5)),
        ([], (0.0, 0.25, 0.5, 0.75, 1.0)),
    ],
)
def test_an_axis_ends_at_round_numbers_around_its_values(values: list[float], marks: tuple[float, ...]) -> None:
    axis = linear(values, str)
    assert axis.marks == pytest.approx(marks)
    assert (axis.low, axis.high) == pytest.approx((marks[0], marks[-1]))
