"""The price level over time: each part against its definition, and none of them touching another.

The distributions of drift and regimes are held against closed forms in `tests/statistics/test_market_distributions.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim import rng
from sim.auction import Drift, Market, PriceShock, Regimes
from sim.drift import drift, log_demand, log_levels, regimes
from sim.traffic import Curves, Traffic, TrafficChange
from tests.sim.builders import GRID, MARKET, Campaign, everyone, run, same, world_of

KEY = rng.keys_of(7, "market", ["m"])[0]
TICKS = GRID.ticks
DAILY = Traffic(40.0, amplitude=0.5, peak_hour=20.0)
PARTS: dict[str, dict[str, Any]] = {
    "shocks": {"shocks": (PriceShock(3, 9, 1.5),)},
    "follows_demand": {"follows_demand": 0.4},
    "drift": {"drift": Drift(0.9, 0.08)},
    "regimes": {"regimes": Regimes(6.0, 0.5)},
}
EVERYTHING = {name: value for part in PARTS.values() for name, value in part.items()}
PLAIN = replace(MARKET, traffic=DAILY)


def levels(market: Market, ticks: int = TICKS) -> np.ndarray:
    shape = Curves([market.traffic], GRID).shape[:ticks]
    return log_levels([market], shape, np.array([KEY]))[:, 0]


def test_a_market_without_any_of_it_keeps_its_level() -> None:
    assert levels(PLAIN).tolist() == [math.log(MARKET.level_micros)] * TICKS


def test_the_drift_is_the_autoregression_of_its_own_draws() -> None:
    persistence, sigma = 0.8, 0.3
    path = drift(TICKS, persistence, sigma, KEY)
    noise = [rng.normal(rng.uniform(rng.word(0, tick, rng.DRIFT, KEY))) for tick in range(TICKS)]
    assert path[0] == pytest.approx(noise[0] * sigma / math.sqrt(1 - persistence**2), rel=1e-12)
    np.testing.assert_allclose(path[1:] - persistence * path[:-1], sigma * np.array(noise[1:]), atol=1e-12)
    assert drift(TICKS, persistence, 0.0, KEY).tolist() == [0.0] * TICKS
    assert drift(0, persistence, sigma, KEY).tolist() == []


def test_a_regime_begins_without_an_offset_and_is_replaced_as_a_whole() -> None:
    path = regimes(TICKS, 0.2, 0.5, KEY)
    begins = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), TICKS]
    assert path[: begins[1]].tolist() == [0.0] * begins[1]
    assert 3 < len(begins) < 25
    offsets = [0.5 * rng.normal(rng.uniform(rng.word(2, tick, rng.REGIME, KEY))) for tick in begins[1:-1]]
    assert path[begins[1:-1]].tolist() == offsets
    rarer = regimes(TICKS, 0.1, 0.5, KEY)
    kept = np.flatnonzero(np.diff(rarer)) + 1
    assert set(kept) < set(begins)  # a longer mean leaves shifts out, and gives none another offset
    assert rarer[kept].tolist() == path[kept].tolist()
    assert regimes(4, 1.0, 0.5, KEY)[0] == 0.0


def test_the_level_follows_demand_with_its_elasticity() -> None:
    shape = Curves([DAILY], GRID).shape[:, 0]
    np.testing.assert_allclose(
        np.exp(levels(replace(PLAIN, follows_demand=0.3))), MARKET.level_micros * shape**0.3, rtol=1e-12
    )
    flat = replace(MARKET, follows_demand=0.3)
    assert levels(flat).tolist() == levels(MARKET).tolist()


def test_no_demand_moves_no_price() -> None:
    assert log_demand(np.array([0.0, 1.0, math.e])).tolist() == [0.0, 0.0, 1.0]
    night = Traffic(40.0, week=(*[0.0] * 167, 1.0))
    assert np.isfinite(levels(replace(MARKET, traffic=night, follows_demand=-2.0))).all()


def test_a_dated_change_of_traffic_is_no_change_of_demand() -> None:
    lost = replace(PLAIN, follows_demand=0.3, traffic=replace(DAILY, changes=(TrafficChange(0, 20, 0.1),)))
    assert levels(lost).tolist() == levels(replace(PLAIN, follows_demand=0.3)).tolist()


def test_the_parts_add_up() -> None:
    alone = sum(levels(replace(PLAIN, **part)) - levels(PLAIN) for part in PARTS.values())
    np.testing.assert_allclose(levels(replace(PLAIN, **EVERYTHING)), levels(PLAIN) + alone, atol=1e-12)


def test_a_level_does_not_depend_on_how_long_the_run_is() -> None:
    market = replace(PLAIN, **EVERYTHING)
    assert levels(market, 17).tolist() == levels(market)[:17].tolist()


def test_a_level_does_not_depend_on_the_other_markets() -> None:
    markets = [replace(PLAIN, **EVERYTHING), PLAIN, replace(PLAIN, drift=Drift(0.5, 0.1))]
    keys = rng.keys_of(7, "market", ["a", "b", "c"])
    shape = Curves([market.traffic for market in markets], GRID).shape
    together = log_levels(markets, shape, keys)
    for place, market in enumerate(markets):
        alone = log_levels([market], shape[:, [place]], keys[[place]])
        assert together[:, [place]].tolist() == alone.tolist()
    assert log_levels([], shape[:, :0], keys[:0]).shape == (TICKS, 0)


class TestInTheWorld:
    CAMPAIGNS = (Campaign("a"), Campaign("b", bid=6_000))

    def rows(self, record: str = "events opportunities", cut: tuple[int, ...] = (0, TICKS), **changes: Any) -> Any:
        market = replace(MARKET, traffic=Traffic(60.0, 0.5, 20.0), **changes)
        factory, controls = world_of(self.CAMPAIGNS, {"a": market, "b": PLAIN}, record=record)
        return run(factory(everyone(factory)), controls, cut)

    @pytest.mark.parametrize("part", PARTS)
    def test_each_part_moves_prices_and_nothing_else(self, part: str) -> None:
        base, other = self.rows().opportunities, self.rows(**PARTS[part]).opportunities
        columns = zip(base.columns().items(), other.columns().values(), strict=True)
        assert [name for (name, mine), theirs in columns if not np.array_equal(mine, theirs)] == ["price_micros"]
        untouched = base.market == 1
        assert np.array_equal(base.price_micros[untouched], other.price_micros[untouched])

    def test_one_call_or_one_a_tick_give_the_same(self) -> None:
        whole, ticks = (self.rows(cut=cut, **EVERYTHING) for cut in ((0, TICKS), tuple(range(TICKS + 1))))
        assert np.array_equal(whole.counts.values, ticks.counts.values)
        assert same(whole.events, ticks.events)
        assert same(whole.opportunities, ticks.opportunities)

    def test_a_world_of_fewer_markets_is_the_same(self) -> None:
        markets = {"a": replace(PLAIN, **EVERYTHING), "b": replace(PLAIN, **EVERYTHING)}
        factory, controls = world_of(self.CAMPAIGNS, markets)
        whole = run(factory(everyone(factory)), controls, (0, TICKS)).counts.values
        for place in (0, 1):
            members = np.array([place])
            part = run(factory(members), controls.select(factory.campaigns, members), (0, TICKS)).counts.values
            assert np.array_equal(part, whole[:, factory.campaigns.cells_of(members)])


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        (Drift, (1.0, 0.1), r"persistence \(=1.0\) must be in \[0, 1\): at 1 the level would wander away"),
        (Drift, (-0.1, 0.1), r"persistence \(=-0.1\) must be in \[0, 1\)"),
        (Drift, (0.9, -1.0), r"drift sigma \(=-1.0\) must be >= 0 and finite"),
        (Regimes, (0.5, 0.1), r"every_ticks \(=0.5\) must be >= 1: a regime lasts a tick at least"),
        (Regimes, (math.nan, 0.1), r"every_ticks \(=nan\) must be >= 1"),
        (Regimes, (5.0, math.inf), r"regimes sigma \(=inf\) must be >= 0 and finite"),
    ],
)
def test_what_is_out_of_range_is_refused(kind: type, values: tuple[float, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        kind(*values)


def test_an_elasticity_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"follows_demand \(=nan\) must be finite: 0 leaves prices where they are"):
        replace(MARKET, follows_demand=math.nan)
