"""Intervals and means against closed forms, and the coverage that intervals promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from agents.statistics import interquartile_mean, interval, intervals


def test_the_interval_of_many_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 4_000)
    found = interval(values)
    half = 1.96 * values.std() / np.sqrt(4_000)
    assert found.mean == values.mean()
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_interval_of_few_is_as_wide_as_students() -> None:
    values = np.random.default_rng(2).normal(0.0, 1.0, 12)
    found = interval(values)
    half = t.ppf(0.975, 11) * values.std(ddof=1) / np.sqrt(12)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_the_same_values_give_the_same_interval() -> None:
    values = np.random.default_rng(3).random(100)
    assert interval(values) == interval(values.copy())


@pytest.mark.parametrize("n", [2, 7, 600])
def test_intervals_of_many_columns_are_those_of_each(n: int) -> None:
    columns = np.random.default_rng(7).gamma(0.5, size=(n, 5)) - 1
    for level in (0.95, 0.98):
        for found, column in zip(intervals(columns, level=level), columns.T, strict=True):
            alone = interval(column, level=level)
            np.testing.assert_allclose((found.mean, found.low, found.high), (alone.mean, alone.low, alone.high))


def test_nothing_is_known_from_one_campaign() -> None:
    found = interval(np.ones(5), np.zeros(5, dtype=np.int64))
    assert (found.mean, found.low, found.high) == (1.0, -np.inf, np.inf)


def test_copies_of_a_campaign_tell_no_more_than_one_of_it() -> None:
    values = np.random.default_rng(4).normal(size=50)
    copied = interval(np.repeat(values, 20), np.repeat(np.arange(50), 20))
    alone = interval(values)
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))


@pytest.mark.parametrize(("n", "clusters"), [(20, None), (200, None), (60, 20)])
def test_intervals_cover_the_mean_as_often_as_they_say(n: int, clusters: int | None) -> None:
    """Of 1,000 samples of normal values (clusters share a part) 95 % ± 3 cover: 4 standard errors are 2.8 %."""
    generator = np.random.default_rng(5)
    place = None if clusters is None else np.repeat(np.arange(clusters), n // clusters)
    covered = 0
    for _ in range(1_000):
        values = generator.normal(size=n)
        if place is not None and clusters is not None:
            values = values + generator.normal(size=clusters)[place]
        found = interval(values, place)
        covered += found.low <= 0 <= found.high
    assert covered / 1_000 == pytest.approx(0.95, abs=0.03)


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, -50.0])) == 1.5
    assert interquartile_mean(np.arange(8.0)) == 3.5
    # of 5 values the middle 2.5: the third, and 3/4 of its neighbours
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 10.0, 90.0])) == pytest.approx((0.75 + 2 + 7.5) / 2.5)
