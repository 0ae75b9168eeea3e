"""Reach, frequency and attribution against closed forms.

Means lie within 4.5 standard errors (a correct model fails one with probability 7e-6), and chi-square tests have a
p-value of at least 1e-6. People's counts share a fixed total, which correlates them negatively: the chi-square test,
which takes them as independent, fails a correct model less often than that. Seeds are fixed, so a test that passes
keeps passing.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import betabinom, binom, chi2, gamma, kstest, nbinom, poisson

from engine.units import PPM, Int64
from sim.attribution import Attribution, Bookkeeper, accuracy, last_click
from sim.people import Audience, Reach, people_of, persons_of
from sim.rng import keys_of

SIGMAS, P_VALUE = 4.5, 1e-6
KEYS = keys_of(11, "market", ["m"])


def shown(impressions: int, audience: Audience) -> tuple[Int64, int]:
    """Impressions per person of n impressions, spread over ticks of a thousand auctions, and people reached."""
    rows = np.zeros((impressions, 8), dtype=np.int64)
    rows[:, 3], rows[:, 4] = np.divmod(np.arange(impressions), 1_000)
    person = persons_of(rows, KEYS, rows[:, 0], people_of([audience], seed=11))
    reached = int(Reach(1, audience.people).update(rows, person).sum())
    return np.bincount(person, minlength=audience.people), reached


def assert_frequencies(per_person: Int64, expected: NDArray[np.float64]) -> None:
    """Compare how many people saw 0, 1, 2 … impressions with expected numbers, tails pooled to 10 people or more."""
    observed = np.bincount(per_person, minlength=expected.size)[: expected.size].astype(np.float64)
    rest = per_person.size - expected.sum()
    observed[-1] += per_person.size - observed.sum()
    expected = np.append(expected[:-1], expected[-1] + rest)
    last = int(np.flatnonzero(np.cumsum(expected[::-1])[::-1] >= 10)[-1])
    first = int(np.flatnonzero(np.cumsum(expected) >= 10)[0])
    observed, expected = (
        np.concatenate(([each[: first + 1].sum()], each[first + 1 : last], [each[last:].sum()]))
        for each in (observed, expected)
    )
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert chi2.sf(statistic, expected.size - 1) > P_VALUE, (statistic, expected.size)


@pytest.mark.parametrize("impressions", [500, 20_000, 90_000])
def test_people_who_are_alike_are_reached_as_in_classical_occupancy(impressions: int) -> None:
    people = 20_000
    per_person, reached = shown(impressions, Audience("x", people))
    assert reached == np.count_nonzero(per_person)
    one, two = (1 - 1 / people) ** impressions, (1 - 2 / people) ** impressions  # nobody reaches one, or a pair
    error = math.sqrt(people * (people - 1) * two + people * one - people**2 * one**2)
    assert abs(reached - people * (1 - one)) < SIGMAS * error


@pytest.mark.parametrize("impressions", [20_000, 90_000])
def test_frequency_among_people_who_are_alike_is_binomial_and_so_nearly_poisson(impressions: int) -> None:
    people = 20_000
    per_person, _ = shown(impressions, Audience("x", people))
    times = np.arange(60)
    assert_frequencies(per_person, people * binom.pmf(times, impressions, 1 / people))
    assert_frequencies(per_person, people * poisson.pmf(times, impressions / people))


@pytest.mark.parametrize("shape", [0.3, 1.0, 4.0])
def test_frequency_among_people_of_gamma_activity_is_negative_binomial(shape: float) -> None:
    people, impressions = 20_000, 60_000
    per_person, reached = shown(impressions, Audience("x", people, shape))
    times, mean = np.arange(600), impressions / people
    exact = betabinom(impressions, shape, shape * (people - 1))
    assert_frequencies(per_person, people * exact.pmf(times))
    assert_frequencies(per_person, people * nbinom.pmf(times, shape, shape / (shape + mean)))
    missed = people * exact.pmf(0)
    assert abs(people - reached - missed) < SIGMAS * math.sqrt(missed)  # wider: counts of zero repel each other


@pytest.mark.parametrize("shape", [0.3, 1.0, 4.0])
def test_activity_is_gamma_distributed(shape: float) -> None:
    people = 20_000
    share = np.diff(people_of([Audience("x", people, shape)], seed=5).upto, prepend=0.0)
    # Kolmogorov-Smirnov, p = 1e-6; scaled to the mean, which alone moves the statistic less than its bound
    assert kstest(share * people * shape, gamma(shape).cdf).pvalue > P_VALUE


def two_touches(persons: int, lost: float) -> tuple[Bookkeeper, Int64, Int64, Int64]:
    """Everybody clicks on campaign 0 and then on campaign 1, which causes a conversion."""
    who = np.arange(persons, dtype=np.int64)
    zero, one = np.zeros_like(who), np.ones_like(who)
    early = np.column_stack((zero, zero, zero, zero, who, who))
    late = np.column_stack((zero, one, one, one, who, persons + who))
    conversions = np.column_stack((late[:, :5], 2 * persons + who, 5 * one, zero, late[:, 5]))
    clicks, clicker = np.concatenate((early, late)), np.concatenate((who, who))
    return (
        Bookkeeper(Attribution(last_click, 1.0, lost), keys_of(2, "campaign", ["a", "b"]), zero[:1], 2, persons),
        clicks,
        clicker,
        conversions,
    )


@pytest.mark.parametrize("lost", [0.1, 0.35, 0.8])
def test_accuracy_of_the_last_click_falls_with_lost_ids_as_one_over_one_plus_their_share(lost: float) -> None:
    persons = 20_000
    bookkeeper, clicks, clicker, conversions = two_touches(persons, lost)
    truth = bookkeeper.book(clicks, clicker, conversions, np.arange(persons), 3 * persons).truth
    _, _, caused, credited, right = truth.sum(axis=0).tolist()
    attributed, seen = credited // PPM, 1 - lost**2  # unless both are lost
    assert caused == persons
    assert abs(attributed / persons - seen) < SIGMAS * math.sqrt(seen * (1 - seen) / persons)
    # right where the cause is seen: (1 - p) / ((1 - p) + p (1 - p))
    expected = 1 / (1 + lost)
    assert abs(right / credited - expected) < SIGMAS * math.sqrt(expected * (1 - expected) / attributed)
    assert accuracy(truth[:, 2:]) == right / credited
