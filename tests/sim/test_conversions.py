"""What follows a click, draw by draw; how often and how late, `tests/statistics/test_conversions.py` tells."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.units import PPM, Int64
from sim import rng
from sim.conversions import CONVERSION_COLUMNS, Conversions, after_of, conversions_of, menus_of, refunds_of
from sim.delays import Delays, Law, Part

HOUR = 3_600_000_000
OPENS = 1_772_406_000_000_000  # an event time of 2026
NEVER = 2**62
TIME, VALUE, NUMBER, CLICKED = (CONVERSION_COLUMNS.index(name) for name in ("time", "value", "number", "clicked"))
KEYS = rng.keys_of(7, "campaign", ["a", "b"])
SIMPLE = ([Part(Law.EXPONENTIAL, 20.0)], [Part(Law.EXPONENTIAL, 3.0)])
MIXED = [Part(Law.EXPONENTIAL, 2.0, share=700_000), Part(Law.LOGNORMAL, 48.0, 0.8, share=300_000)]


def conversions(
    mixtures: Any = SIMPLE,
    per_click: float = 1.0,
    sigma: float = 0.6,
    menu: dict[float, int] | None = None,
    refund_rate: float = 0.0,
) -> Conversions:
    """Two campaigns that differ in what can differ."""
    price, price_share = menus_of([menu or {1: PPM}] * 2)
    return Conversions(
        rate=np.array([0.3, 0.7]),
        delays=Delays.of(mixtures),
        per_click=np.full(2, per_click),
        value_micros=np.array([18_000_000.0, 9_000_000.0]),
        value_sigma=np.full(2, sigma),
        price=price,
        price_share=price_share,
        refund_rate=np.full(2, refund_rate),
        refund_hours=np.array([72.0, 24.0]),
    )


def clicks_of(rows: int) -> Int64:
    """Clicks of both campaigns, one a second, fifty a tick."""
    place = np.arange(rows)
    return np.stack([place * 0, place % 2, place % 2 + 3, place // 50, place % 50 * 17, OPENS + place * 1_000_000], 1)


CLICKS = clicks_of(3_000)


def outcome(what: Conversions, clicks: Int64 = CLICKS, ends: int = NEVER) -> tuple[Int64, Int64]:
    """The conversions and refunds of clicks."""
    after, campaign = after_of(what, KEYS), clicks[:, 1]
    found = conversions_of(clicks, what.rate[campaign], what.value_micros[campaign], after, ends)
    return found, refunds_of(found, after, ends)


def one_each(what: Conversions, clicks: Int64) -> list[list[int]]:
    """One conversion per converting click, exponential, log-normal: lanes 0, 1 and 2 of the click's own block."""
    rows = []
    for market, c, cell, tick, index, clicked in clicks.tolist():
        words = rng.philox(*(np.uint64(word) for word in (index, tick, rng.CONVERSION, 0)), KEYS[c])
        if float(words[0]) * rng.TO_UNIT >= what.rate[c]:
            continue
        sigma, mean_us = what.value_sigma[c], what.delays.hours[c, 0] * HOUR
        time = clicked + int(-math.log(rng.uniform(words[1])) * mean_us)
        value = what.value_micros[c] * math.exp(sigma * rng.normal(rng.uniform(words[2])) - 0.5 * sigma * sigma)
        rows.append([market, c, cell, tick, index, time, int(np.rint(value)), 0, clicked])
    return rows


def test_the_simplest_clicks_follow_draw_by_draw() -> None:
    what = conversions()
    found, refunds = outcome(what)
    assert found.tolist() == one_each(what, CLICKS)
    assert (len(refunds), 1_300 < len(found) < 1_700) == (0, True)


def test_without_any_spread_a_conversion_follows_at_once_and_is_worth_what_it_is_worth() -> None:
    what = replace(conversions([[Part(Law.EXPONENTIAL, 0.0)]] * 2, sigma=0.0), rate=np.ones(2))
    found, _ = outcome(what)
    assert np.array_equal(found[:, : TIME + 1], CLICKS)
    assert found[:, VALUE].tolist() == what.value_micros[CLICKS[:, 1]].tolist()
    assert np.array_equal(found[:, CLICKED], CLICKS[:, TIME])


@pytest.mark.parametrize("cut", [1, 700, 2_999])
def test_how_the_clicks_are_cut_changes_nothing(cut: int) -> None:
    what = conversions([MIXED] * 2, per_click=2.5, refund_rate=0.3)
    whole, parts = outcome(what), (outcome(what, CLICKS[:cut]), outcome(what, CLICKS[cut:]))
    for table, first, second in zip(whole, *parts, strict=True):
        assert np.array_equal(table, np.concatenate([first, second]))
    refunds = [refunds_of(row[np.newaxis], after_of(what, KEYS), NEVER) for row in whole[0]]
    assert np.array_equal(np.concatenate(refunds), whole[1])


def test_some_campaigns_alone_are_as_they_were_among_all() -> None:
    what = conversions([MIXED] * 2, per_click=2.5, refund_rate=0.3)
    own, clicks = what.select(np.array([1])), CLICKS[CLICKS[:, 1] == 1]
    alone = conversions_of(
        clicks - np.array([0, 1, 0, 0, 0, 0]),
        own.rate[clicks[:, 1] - 1],
        own.value_micros[clicks[:, 1] - 1],
        after_of(own, KEYS[1:]),
        NEVER,
    )
    whole, _ = outcome(what)
    alone[:, 1] = 1
    assert np.array_equal(alone, whole[whole[:, 1] == 1])


def test_what_happens_after_the_end_is_left_out_and_moves_nothing() -> None:
    what, ends = conversions([MIXED] * 2, per_click=2.5, refund_rate=0.3), OPENS + 5 * HOUR
    for all_of_it, before in zip(outcome(what), outcome(what, ends=ends), strict=True):
        assert np.array_equal(before, all_of_it[all_of_it[:, TIME] < ends])
        assert 0 < len(before) < len(all_of_it)


def test_conversions_of_a_click_are_numbered_and_all_come_after_it() -> None:
    found, refunds = outcome(conversions([MIXED] * 2, per_click=2.5, refund_rate=0.3))
    begins = np.flatnonzero(found[:, NUMBER] == 0)
    place = np.arange(len(found))
    assert np.array_equal(found[:, NUMBER], place - begins[np.searchsorted(begins, place, side="right") - 1])
    assert (found[:, TIME] >= found[:, CLICKED]).all()
    names = [tuple(row) for row in found[:, [1, 3, 4, NUMBER]].tolist()]
    assert len(set(names)) == len(names)
    places = {name: row for row, name in enumerate(names)}
    refunded = found[[places[tuple(row)] for row in refunds[:, [1, 3, 4, NUMBER]].tolist()]]
    assert (refunds[:, TIME] >= refunded[:, TIME]).all()
    others = [column for column in range(len(CONVERSION_COLUMNS)) if column != TIME]
    assert np.array_equal(refunds[:, others], refunded[:, others])


class TestStreams:
    """Switching one thing on, or changing it, moves only its own column; the others stay byte for byte."""

    BASE = conversions()

    def moved(self, other: Conversions) -> set[str]:
        """Columns in which conversions differ; the same clicks convert as before."""
        base, found = outcome(self.BASE)[0], outcome(other)[0]
        found = found[found[:, NUMBER] == 0]
        assert len(found) == len(base)
        return {name for at, name in enumerate(CONVERSION_COLUMNS) if not np.array_equal(found[:, at], base[:, at])}

    def test_another_delay_moves_times_alone(self) -> None:
        for mixture in ([Part(Law.EXPONENTIAL, 5.0)], [Part(Law.LOGNORMAL, 6.0, 1.2)], MIXED):
            assert self.moved(conversions([mixture] * 2)) == {"time"}

    def test_a_part_without_a_share_is_none(self) -> None:
        parts = [Part(Law.EXPONENTIAL, 20.0), Part(Law.LOGNORMAL, 48.0, 0.8, share=0)]
        assert self.moved(conversions([parts, [Part(Law.EXPONENTIAL, 3.0)]])) == set()

    def test_the_second_part_of_a_mixture_does_not_move_those_who_come_by_the_first(self) -> None:
        other = [MIXED[0], MIXED[1]._replace(hours=96.0)]
        base, found = (outcome(conversions([parts] * 2))[0] for parts in (MIXED, other))
        later = found[:, TIME] != base[:, TIME]
        assert 0.25 < later.mean() < 0.35
        delay, was = (table[later, TIME] - table[later, CLICKED] for table in (found, base))
        assert np.abs(delay - 2 * was).max() <= 1  # both are cut to whole microseconds

    def test_further_conversions_leave_the_first_ones_as_they_were(self) -> None:
        assert self.moved(conversions(per_click=3.0)) == set()

    def test_more_further_conversions_leave_the_fewer_as_they_were(self) -> None:
        few, many = ({tuple(row) for row in outcome(conversions(per_click=mean))[0].tolist()} for mean in (1.5, 4.0))
        assert few < many

    def test_values_move_values_alone(self) -> None:
        assert self.moved(conversions(sigma=0.1)) == {"value"}
        assert self.moved(conversions(sigma=0.0, menu={5.0: 600_000, 10.0: 400_000})) == {"value"}

    def test_refunds_move_no_conversion(self) -> None:
        assert self.moved(conversions(refund_rate=0.5)) == set()

    def test_a_higher_rate_of_refunds_keeps_the_refunds_there_were(self) -> None:
        few, many = ({tuple(row) for row in outcome(conversions(refund_rate=rate))[1].tolist()} for rate in (0.1, 0.4))
        assert few < many

    def test_refunds_have_nothing_to_do_with_delays_and_values(self) -> None:
        base, other = conversions(refund_rate=0.3), conversions([MIXED] * 2, per_click=2.0, sigma=0.1, refund_rate=0.3)
        (before, refunds), (found, others) = outcome(base), outcome(other)
        others, found = others[others[:, NUMBER] == 0], found[found[:, NUMBER] == 0]
        assert np.array_equal(others[:, :TIME], refunds[:, :TIME])
        name, given_back = (table[:, 3] * 10**6 + table[:, 4] for table in (before, refunds))
        rows = np.isin(name, given_back)
        assert np.array_equal(refunds[:, TIME] - before[rows, TIME], others[:, TIME] - found[rows, TIME])


def test_a_menus_prices_are_charged_to_the_micro_and_scale_with_the_clicks_worth() -> None:
    menu = {4_990_000.0: 600_000, 9_990_000.0: 300_000, 24_990_000.0: 100_000}
    what = replace(conversions(sigma=0.0, menu=menu), value_micros=np.full(2, 8_490_000.0))
    found, _ = outcome(what)
    assert sorted(set(found[:, VALUE].tolist())) == [4_990_000, 9_990_000, 24_990_000]
    campaign = CLICKS[:, 1]
    halved = conversions_of(CLICKS, what.rate[campaign], np.full(len(CLICKS), 4_245_000.0), after_of(what, KEYS), NEVER)
    assert np.array_equal(2 * halved[:, VALUE], found[:, VALUE])


def test_a_delay_without_end_stays_a_time() -> None:
    what = conversions([[Part(Law.LOGNORMAL, 8_784.0, 5.0)], [Part(Law.EXPONENTIAL, 1e12)]])
    found, _ = outcome(what, ends=2**63 - 1)
    assert (found[:, TIME] >= found[:, CLICKED]).all()


def test_no_click_brings_more_than_its_number_has_bits_for() -> None:
    most = 1 + math.floor(math.log(rng.uniform(np.uint64(0))) / math.log1p(-1 / 100))
    assert most == 2_276 < 2**12


def test_no_clicks_bring_nothing() -> None:
    found, refunds = outcome(conversions(refund_rate=1.0), CLICKS[:0])
    assert found.shape == refunds.shape == (0, 9)


def test_what_follows_travels() -> None:
    what = conversions([MIXED] * 2, per_click=2.5, refund_rate=0.3)
    copy = pickle.loads(pickle.dumps(what))  # noqa: S301 - our own bytes
    assert np.array_equal(outcome(copy)[1], outcome(what)[1])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rate": np.array([0.5, 1.5])}, "rate (=1.5) must be in [0, 1]"),
        ({"refund_rate": np.array([-0.1, 0])}, "refund_rate (=-0.1) must be in [0, 1]"),
        ({"per_click": np.array([1, 0.9])}, "per_click (=0.9) must be in [1, 100]: 1 is one conversion each"),
        ({"per_click": np.array([101.0, 1])}, "per_click (=101.0) must be in [1, 100]: 1 is one conversion each"),
        ({"value_sigma": np.array([math.nan, 1])}, "value_sigma (=nan) must be >= 0 and finite"),
        ({"value_micros": np.array([math.inf, 1])}, "value_micros (=inf) must be >= 0 and finite"),
        ({"refund_hours": np.array([-1.0, 1])}, "refund_hours (=-1.0) must be >= 0 and finite"),
        ({"price": np.ones((2, 2))}, "price (=(2, 2)) must have the shape of its shares (2, 1)"),
        ({"price": np.full((2, 1), 2.0)}, "mean price (=2.0) must be 1: a menu's prices are relative to their mean"),
        ({"price_share": np.full((2, 1), 1)}, "price_share (=[1]) must be ppm >= 0 that sum to 1000000: scale them"),
        (
            dict(zip(("price", "price_share"), menus_of([{1: 500_000, 3: 500_000}] * 2), strict=True)),
            "value_sigma (=0.6) must be 0 beside a menu of prices",
        ),
    ],
)
def test_what_no_click_can_lead_to_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=r"must") as refusal:
        replace(conversions(), **changes)
    assert str(refusal.value) == sentence


def test_what_a_kernel_would_read_beyond_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^key \(of length 1\) must be of length 2, one of each campaign$"):
        after_of(conversions(), KEYS[:1])
    for wrong in (-1, 2):
        clicks = CLICKS.copy()
        clicks[5, 1] = wrong
        with pytest.raises(ValueError, match=rf"^campaign \(={wrong}\) of a click must be in \[0, 2\)$"):
            conversions_of(clicks, np.ones(3_000), np.ones(3_000), after_of(conversions(), KEYS), NEVER)


def test_columns_of_several_lengths_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^columns of conversions \(=\{'rate': 1, 'delays': 2, .*\) must have one length$"
    ):
        replace(conversions(), rate=np.ones(1))
    with pytest.raises(
        ValueError, match=r"^clicks, rate and worth \(=\(3000, 6\), \(1,\) and \(3000,\)\) must be of the "
    ):
        conversions_of(CLICKS, np.ones(1), np.ones(3_000), after_of(conversions(), KEYS), NEVER)
