from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from engine.errors import BadInput
from engine.units import PPM, TickGrid, equal_shares, floor_micros, microseconds, moment, nearest_micros


def test_floor_rounds_a_bid_down_and_nearest_rounds_halves_to_even() -> None:
    assert floor_micros([0.0, 0.999, 1.0, 2.5]).tolist() == [0, 0, 1, 2]
    assert nearest_micros([0.5, 1.5, 2.4, 2.6]).tolist() == [0, 2, 2, 3]


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 999_999])
def test_equal_shares_sum_exactly_and_differ_by_at_most_one(parts: int) -> None:
    shares = equal_shares(parts)
    assert (shares.size, shares.sum(), shares.max() - shares.min() <= 1) == (parts, PPM, True)
    assert equal_shares(3, 200_000).tolist() == [66_667, 66_667, 66_666]


def test_event_time_and_back() -> None:
    noon = datetime(2025, 7, 1, 12, tzinfo=UTC)
    assert microseconds(noon) == 1_751_371_200_000_000
    assert moment(1_751_371_200_000_000, "Europe/Berlin").isoformat() == "2025-07-01T14:00:00+02:00"


@pytest.mark.parametrize(
    ("start", "days"),
    [
        (datetime(2025, 3, 29), [48, 46, 48]),  # clocks go forward on the 30th
        (datetime(2025, 10, 25), [48, 50, 48]),  # and back on the 26th
        (datetime(2025, 6, 1), [48, 48, 48]),
    ],
)
def test_days_of_berlin_have_46_48_or_50_half_hours(start: datetime, days: list[int]) -> None:
    grid = TickGrid(start, 30, sum(days), "Europe/Berlin")
    assert np.bincount(grid.day).tolist() == days
    assert np.flatnonzero(grid.closes_day).tolist() == (np.cumsum(days) - 1).tolist()
    assert grid.hour[np.append(0, np.cumsum(days)[:-1])].tolist() == [0.0, 0.0, 0.0]


def test_the_hour_that_comes_twice_has_four_half_hours() -> None:
    grid = TickGrid(datetime(2025, 10, 26), 30, 50, "Europe/Berlin")
    assert grid.hour[2:10].tolist() == [1.0, 1.5, 2.0, 2.5, 2.0, 2.5, 3.0, 3.5]


def test_a_day_of_23_hours_that_begins_at_one() -> None:
    grid = TickGrid(datetime(2025, 9, 6), 60, 24 + 23 + 24, "America/Santiago")
    assert np.bincount(grid.day).tolist() == [24, 23, 24]


def test_the_hour_of_the_week_is_local_and_counts_from_monday() -> None:
    grid = TickGrid(datetime(2026, 3, 28, 23), tick_minutes=30, ticks=10, zone="Europe/Berlin")  # a Saturday
    sunday = 6 * 24
    hours = [sunday - 1, sunday, sunday + 1, sunday + 3, sunday + 4]  # two o'clock does not exist
    assert grid.hour_of_week.tolist() == np.repeat(hours, 2).tolist()
    assert TickGrid(datetime(2026, 3, 30), tick_minutes=30, ticks=1, zone="Europe/Berlin").hour_of_week.tolist() == [0]


def test_ticks_and_event_times() -> None:
    grid = TickGrid(datetime(2025, 6, 1), 30, 48)
    assert grid.opens(0) == grid.start_us == microseconds(datetime(2025, 6, 1, tzinfo=UTC))
    assert grid.tick_us == 1_800_000_000
    times = [grid.opens(0) - 1, grid.opens(0), grid.opens(1) - 1, grid.opens(48)]
    assert grid.tick_of(times).tolist() == [-1, 0, 0, 48]


def test_a_run_may_begin_and_end_within_a_day() -> None:
    grid = TickGrid(datetime(2025, 6, 1, 23), 30, 3)
    assert (grid.day.tolist(), grid.closes_day.tolist()) == ([0, 0, 1], [False, True, True])


@pytest.mark.parametrize(
    ("start", "minutes", "ticks", "zone", "sentence"),
    [
        (datetime(2025, 6, 1), 0, 1, "UTC", "tick_minutes (=0) must divide a day of 1440 minutes: try 5, 30 or 60"),
        (datetime(2025, 6, 1), 7, 1, "UTC", "tick_minutes (=7) must divide a day of 1440 minutes: try 5, 30 or 60"),
        (datetime(2025, 6, 1), 30, 0, "UTC", "ticks (=0) must be >= 1: give the run a length"),
        (
            datetime(2025, 6, 1, 0, 10),
            30,
            1,
            "UTC",
            "start (=2025-06-01T00:10:00) must lie on a tick of the day: round it down",
        ),
        (
            datetime(2025, 6, 1, microsecond=5),
            30,
            1,
            "UTC",
            "start (=2025-06-01T00:00:00.000005) must lie on a tick of the day: round it down",
        ),
        (
            datetime(2025, 6, 1, tzinfo=UTC),
            30,
            1,
            "Europe/Berlin",
            "start (=2025-06-01T00:00:00+00:00) must be local time of zone Europe/Berlin: leave its offset out",
        ),
        (
            datetime(2025, 6, 1),
            30,
            1,
            "Europe/Bärlin",
            "zone (='Europe/Bärlin') must be an IANA time zone: try Europe/Berlin or UTC",
        ),
        (
            datetime(2025, 3, 30, 2, 30),
            30,
            1,
            "Europe/Berlin",
            "start (=2025-03-30T02:30:00) must exist in Europe/Berlin, where clocks leap over it: begin an hour later",
        ),
        (
            datetime(2025, 3, 29),
            120,
            36,
            "Europe/Berlin",
            "tick_minutes (=120) must keep the midnight of 2025-03-31 between ticks, "
            "and the clocks of Europe/Berlin change: try 30",
        ),
    ],
)
def test_a_calendar_that_cannot_be_is_refused(
    start: datetime, minutes: int, ticks: int, zone: str, sentence: str
) -> None:
    with pytest.raises(BadInput) as refusal:
        TickGrid(start, minutes, ticks, zone)
    assert str(refusal.value) == sentence
