from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from scipy.stats import gamma
from scipy.stats import poisson as reference

from engine.units import TickGrid
from sim.rng import keys_of
from sim.traffic import Curves, Traffic, TrafficChange, bustle, poisson
from tests.sim.builders import GRID, MARKET, Campaign, everyone, run, world_of

WEEK = tuple(float(hour + 1) for hour in range(168))
MEAN = sum(WEEK) / 168
KEYS = keys_of(7, "market", ["a", "b", "c"])


@pytest.mark.parametrize("mean", [0.001, 0.5, 3.0, 10.0, 1_980.0, 1e6])
def test_counts_are_the_quantiles_of_the_poisson_distribution(mean: float) -> None:
    uniforms = np.concatenate((np.random.default_rng(1).random(200), [1e-12, 1e-6, 1 - 1e-6]))
    expected = reference.ppf(uniforms, mean).astype(np.int64)
    assert poisson(uniforms, np.full(uniforms.size, mean)).tolist() == expected.tolist()


def test_a_market_without_traffic_holds_no_auction() -> None:
    assert poisson(np.array([[0.3, 0.9]]), np.array([[0.0, 2.0]])).tolist() == [[0, 4]]


def test_the_curve_is_read_at_mid_tick_in_local_time_also_on_a_day_of_23_hours() -> None:
    grid = TickGrid(datetime(2026, 3, 29), tick_minutes=60, ticks=23, zone="Europe/Berlin")
    mean = Curves([Traffic(100.0, amplitude=0.5, peak_hour=20.0), Traffic(10.0)], grid).mean(0, 23)
    hours = [0, 1, *range(3, 24)]  # two o'clock does not exist
    assert mean[:, 0].tolist() == [
        pytest.approx(100 * (1 + 0.5 * math.cos(2 * math.pi * (hour + 0.5 - 20) / 24))) for hour in hours
    ]
    assert mean[:, 1].tolist() == [10.0] * 23


@pytest.mark.parametrize(("mean", "amplitude"), [(-1.0, 0.0), (math.nan, 0.0), (1.0, 1.5), (1.0, -0.1)])
def test_traffic_out_of_range_is_refused(mean: float, amplitude: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        Traffic(mean, amplitude)


# --- the week ---


def test_a_week_has_a_mean_of_one_and_starts_on_monday_whatever_its_scale() -> None:
    grid = TickGrid(datetime(2026, 3, 2), tick_minutes=60, ticks=168, zone="Europe/Berlin")  # a Monday
    shape = Curves([Traffic(10.0, week=WEEK), Traffic(10.0, week=tuple(1e300 * level for level in WEEK))], grid).shape
    assert shape[:, 0].tolist() == pytest.approx([level / MEAN for level in WEEK], rel=1e-12)
    assert shape[:, 0].mean() == pytest.approx(1, rel=1e-12)
    assert shape[:, 1].tolist() == pytest.approx(shape[:, 0].tolist(), rel=1e-12)


def test_the_ticks_of_an_hour_have_its_level_also_from_the_middle_of_a_week_on() -> None:
    grid = TickGrid(datetime(2026, 3, 8, 22, 30), tick_minutes=30, ticks=7, zone="Europe/Berlin")  # a Sunday
    mean = Curves([Traffic(MEAN, week=WEEK)], grid).mean(0, 7)[:, 0]
    assert mean.tolist() == pytest.approx([167, 168, 168, 1, 1, 2, 2], rel=1e-12)


@pytest.mark.parametrize(
    ("start", "ticks", "hours"),
    [
        (datetime(2026, 3, 29), 23, [0, 1, *range(3, 24)]),  # two o'clock does not exist
        (datetime(2026, 10, 25), 25, [0, 1, 2, 2, *range(3, 24)]),  # and here it comes twice
    ],
)
def test_a_week_follows_the_local_clock_on_days_of_23_and_25_hours(
    start: datetime, ticks: int, hours: list[int]
) -> None:
    grid = TickGrid(start, tick_minutes=60, ticks=ticks, zone="Europe/Berlin")
    mean = Curves([Traffic(MEAN, week=WEEK)], grid).mean(0, ticks)[:, 0]
    assert mean.tolist() == pytest.approx([WEEK[6 * 24 + hour] for hour in hours], rel=1e-12)


@pytest.mark.parametrize(("minutes", "ticks"), [(120, 84), (45, 224), (1440, 7)])
def test_a_tick_over_several_hours_has_their_mean(minutes: int, ticks: int) -> None:
    grid = TickGrid(datetime(2026, 6, 1), tick_minutes=minutes, ticks=ticks, zone="Europe/Berlin")
    mean = Curves([Traffic(MEAN, week=WEEK)], grid).mean(0, ticks)[:, 0]
    by_minute = np.repeat(WEEK, 60).reshape(ticks, minutes).mean(axis=1)
    assert mean.tolist() == pytest.approx(by_minute.tolist(), rel=1e-12)


# --- counts that stray ---


@pytest.mark.parametrize("dispersion", [1e-6, 0.05, 1.0, 4.0])
def test_what_multiplies_a_mean_is_a_quantile_of_the_gamma_distribution(dispersion: float) -> None:
    uniforms = np.concatenate((np.random.default_rng(1).random(200), [1e-12, 1e-6, 1 - 1e-6]))
    expected = gamma.ppf(uniforms, 1 / dispersion, scale=dispersion)
    np.testing.assert_allclose(bustle(uniforms, np.full(uniforms.size, dispersion)), expected, rtol=1e-9)


def test_dispersion_strays_its_own_market_alone_and_is_a_poisson_count_of_the_strayed_mean() -> None:
    plain = Traffic(50.0, 0.5, 20.0)
    base = Curves([plain] * 3, GRID).arrivals(KEYS, 0, GRID.ticks)
    strayed = Curves([plain, replace(plain, dispersion=0.3), plain], GRID).arrivals(KEYS, 0, GRID.ticks)
    assert np.array_equal(strayed[:, [0, 2]], base[:, [0, 2]])
    assert (strayed[:, 1] != base[:, 1]).mean() > 0.8
    hardly = Curves([replace(plain, dispersion=1e-12)] * 3, GRID).arrivals(KEYS, 0, GRID.ticks)
    assert np.array_equal(hardly, base)


def test_arrivals_do_not_depend_on_the_span_of_the_call() -> None:
    traffic = [Traffic(50.0, dispersion=2.0), Traffic(9.0, week=WEEK), Traffic(70.0, 0.5, 20.0)]
    curves = Curves(traffic, GRID)
    whole = curves.arrivals(KEYS, 0, GRID.ticks)
    ticks = [curves.arrivals(KEYS, tick, tick + 1) for tick in range(GRID.ticks)]
    assert np.array_equal(np.concatenate(ticks), whole)
    assert np.array_equal(Curves(traffic[1:2], GRID).arrivals(KEYS[1:2], 5, 9), whole[5:9, [1]])
    assert curves.arrivals(KEYS, 4, 4).shape == (0, 3)
    assert curves.mean(0, GRID.ticks)[:, 0].tolist() == [50.0] * GRID.ticks  # as it was before the draws


# --- changes for a time ---


def test_changes_multiply_while_they_last_and_move_no_draw() -> None:
    plain = Traffic(50.0, 0.5, 20.0)
    changed = replace(plain, changes=(TrafficChange(10, 30, 0.4), TrafficChange(20, 99, 2.0), TrafficChange(40, 42, 0)))
    curves, base = Curves([changed], GRID), Curves([plain], GRID)
    factor = [1.0] * 10 + [0.4] * 10 + [0.8] * 10 + [2.0] * 10 + [0.0] * 2 + [2.0] * 6
    expected = base.mean(0, GRID.ticks)[:, 0] * factor
    assert curves.mean(0, GRID.ticks)[:, 0].tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    mine, theirs = (each.arrivals(KEYS[:1], 0, GRID.ticks)[:, 0] for each in (curves, base))
    assert mine[:10].tolist() == theirs[:10].tolist()
    assert mine[40:42].tolist() == [0, 0]
    assert (mine[20:40] != theirs[20:40]).any()


@pytest.mark.parametrize(
    "changes",
    [{"dispersion": 0.5}, {"week": WEEK, "amplitude": 0.0}, {"changes": (TrafficChange(5, 20, 0.3),)}],
    ids=lambda changes: next(iter(changes)),
)
def test_how_many_auctions_there_are_moves_no_draw_of_an_auction(changes: dict[str, Any]) -> None:
    def drawn(traffic: Traffic) -> dict[tuple[int, int], tuple[float, ...]]:
        """What was drawn for every auction, by its tick and number; its time is no draw."""
        factory, controls = world_of([Campaign()], {"m": replace(MARKET, traffic=traffic)}, record="opportunities")
        rows = run(factory(everyone(factory)), controls, (0, GRID.ticks)).opportunities
        places = zip(rows.tick.tolist(), rows.index.tolist(), strict=True)
        delay = np.where(rows.conversion_if_won == 1, rows.conversion_time - rows.event_time, 0)
        names = ("value", "price_micros", "click_if_won", "conversion_if_won", "conversion_value_micros")
        columns = [getattr(rows, name).tolist() for name in names]
        return dict(zip(places, zip(*columns, delay.tolist(), strict=True), strict=True))

    plain = Traffic(60.0, 0.5, 20.0)
    base, other = drawn(plain), drawn(replace(plain, **changes))
    common = base.keys() & other.keys()
    assert base.keys() != other.keys()
    assert len(common) > 400
    assert all(base[place] == other[place] for place in common)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"week": WEEK[:24]}, r"week \(of 24 numbers\) must be of 168, one for every hour"),
        ({"week": (0.0,) * 168}, "week must hold finite numbers >= 0, and one > 0"),
        ({"week": (*WEEK[1:], -1.0)}, "week must hold finite numbers >= 0, and one > 0"),
        ({"week": (*WEEK[1:], math.nan)}, "week must hold finite numbers >= 0, and one > 0"),
        ({"week": WEEK, "amplitude": 0.5}, r"amplitude \(=0.5\) must be 0 beside week, which has every hour's level"),
        ({"dispersion": -0.1}, r"dispersion \(=-0.1\) must be >= 0 and finite: 0 leaves counts Poisson"),
        ({"dispersion": math.nan}, r"dispersion \(=nan\) must be >= 0 and finite"),
    ],
)
def test_a_curve_that_contradicts_itself_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Traffic(1.0, **values)


@pytest.mark.parametrize("factor", [-0.1, math.inf, math.nan])
def test_a_change_of_traffic_out_of_range_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=r"traffic factor \(=.*\) must be >= 0 and finite: 0.4 leaves 40 % of the"):
        TrafficChange(0, 1, factor)
