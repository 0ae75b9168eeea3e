"""Wins by their price: the bins, and that parts and spans add up."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.prices import BINS_AN_OCTAVE, WINDOW, Prices, bin_of, least_in_bin, lowest_bins
from engine.units import MAX_MICROS

CAMPAIGNS = 6
Row: TypeAlias = tuple[int, int, int, int]
ROWS = st.lists(
    st.tuples(st.integers(0, CAMPAIGNS - 1), st.integers(-9, 9), st.integers(1, 10**6), st.integers(0, 10**12)),
    max_size=30,
)

unhurried = settings(deadline=None)


def prices(rows: list[Row]) -> Prices:
    """A row for each campaign and bin, in order, whatever order they are given in."""
    wins, value = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for campaign, at, number, worth in rows:
        wins[campaign, at] += number
        value[campaign, at] += worth
    told = [(*key, wins[key], value[key]) for key in sorted(wins)]
    return Prices(*(np.array([row[column] for row in told], dtype=np.int64) for column in range(4)))


def rows_of(told: Prices) -> list[Row]:
    return list(zip(*(column.tolist() for column in vars(told).values()), strict=True))


@pytest.mark.parametrize(
    ("price", "expected"),
    [(1.0, 0), (1.124, 0), (1.125, 1), (1.99, 7), (2.0, 8), (0.5, -8), (0.999, -1), (1_000.0, 8 * 9 + 7)],
)
def test_a_price_has_its_bin(price: float, expected: int) -> None:
    assert bin_of([price]).tolist() == [expected]


@unhurried
@given(st.integers(-300, 400))
def test_a_bin_begins_with_its_least_price_and_ends_before_the_next_bins(at: int) -> None:
    low, high = least_in_bin([at, at + 1]).tolist()
    exact = (1 + Fraction(at % BINS_AN_OCTAVE, BINS_AN_OCTAVE)) * Fraction(2) ** (at // BINS_AN_OCTAVE)
    assert Fraction(low) == exact
    assert bin_of([low, np.nextafter(low, 0), np.nextafter(high, 0), high]).tolist() == [at, at - 1, at, at + 1]


@unhurried
@given(st.floats(1e-9, float(MAX_MICROS)))
def test_every_price_lies_in_its_bin(price: float) -> None:
    (at,) = bin_of([price])
    low, high = least_in_bin([at, at + 1])
    assert low <= price < high


@unhurried
@given(st.integers(0, MAX_MICROS))
def test_the_window_ends_with_the_bin_of_the_bid(bid: int) -> None:
    (lowest,) = lowest_bins(np.array([bid]))
    assert bin_of([max(bid, 1)]).tolist() == [lowest + WINDOW - 1]


def test_counts_become_rows_where_something_was_won() -> None:
    won = np.zeros((3, WINDOW, 2), dtype=np.int64)
    won[0, 5], won[2, 0], won[2, WINDOW - 1] = (3, 2_500_000), (1, 0), (2, 7)
    told = Prices.of(won, np.array([-10, 0, 40]))
    assert rows_of(told) == [(0, -5, 3, 2_500_000), (2, 40, 1, 0), (2, 40 + WINDOW - 1, 2, 7)]
    assert rows_of(Prices.of(0 * won, np.zeros(3, dtype=np.int64))) == rows_of(Prices.empty()) == []


@unhurried
@given(ROWS, st.lists(st.integers(0, 2), min_size=CAMPAIGNS, max_size=CAMPAIGNS))
def test_parts_of_any_partition_are_the_whole_again(rows: list[Row], group: list[int]) -> None:
    whole = prices(rows)
    members = [np.flatnonzero(np.array(group) == each) for each in range(3)]
    parts = [(mine, whole.select(mine)) for mine in members if len(mine)]
    for mine, part in parts:
        known = mine.tolist()
        assert rows_of(part) == [(known.index(of), *rest) for of, *rest in rows_of(whole) if of in known]
    assert rows_of(Prices.merge(parts)) == rows_of(whole)
    assert rows_of(Prices.merge(parts[::-1])) == rows_of(whole)


@unhurried
@given(ROWS, ROWS, ROWS)
def test_what_was_won_one_after_the_other_adds_up_in_any_order(one: list[Row], two: list[Row], more: list[Row]) -> None:
    first, second, third = prices(one), prices(two), prices(more)
    whole = rows_of(prices(one + two + more))
    assert rows_of(first.plus(second).plus(third)) == whole
    assert rows_of(third.plus(second.plus(first))) == whole
    assert rows_of(first.plus(Prices.empty())) == rows_of(Prices.empty().plus(first)) == rows_of(first)


@unhurried
@given(ROWS, ROWS, st.sets(st.integers(0, CAMPAIGNS - 1)))
def test_choosing_and_adding_may_change_places(one: list[Row], two: list[Row], chosen: set[int]) -> None:
    first, second, members = prices(one), prices(two), np.array(sorted(chosen), dtype=np.int64)
    together = first.plus(second).select(members)
    assert rows_of(first.select(members).plus(second.select(members))) == rows_of(together)
