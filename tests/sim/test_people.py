from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaincinv

from engine.units import Int64
from sim.people import Audience, Reach, people_of, person_of, persons_of
from sim.rng import ACTIVITY, PERSON, fill_uniforms, key_of, keys_of, philox

AUDIENCES = (Audience("alone", 1), Audience("alike", 1_000), Audience("uneven", 700, 0.3), Audience("one", 1, 0.5))
PEOPLE = people_of(AUDIENCES, seed=3)
KEYS = keys_of(3, "market", ["a", "b"])


def auctions(rows: int, markets: int = 2, ticks: int = 5) -> Int64:
    """Rows of (market, campaign, cell, tick, index), all different."""
    place = np.arange(rows, dtype=np.int64)
    zero = np.zeros_like(place)
    return np.column_stack((place % markets, zero, zero, place // markets % ticks, place // markets // ticks))


def test_audiences_hold_consecutive_persons_and_everybody_is_met_in_the_end() -> None:
    rows = auctions(40_000)
    assert PEOPLE.first.tolist() == [0, 1, 1_001, 1_701, 1_702]
    for audience, each in enumerate(AUDIENCES):
        met = np.unique(persons_of(rows, KEYS, np.full(len(rows), audience), PEOPLE))
        first, end = PEOPLE.first[audience : audience + 2]
        assert first <= met[0]
        assert met[-1] < end
        if each.activity == math.inf:  # 40 draws a person: somebody of a thousand is left out once in 10^14 tables
            assert met.tolist() == list(range(first, end))


def test_a_person_depends_on_the_auction_alone_and_not_on_the_table_it_stands_in() -> None:
    rows = auctions(2_000)
    audience = np.arange(2_000) % 3
    whole = persons_of(rows, KEYS, audience, PEOPLE)
    assert whole.tolist() == [
        person_of(KEYS[row[0]], row[4], row[3], of, PEOPLE) for row, of in zip(rows, audience, strict=True)
    ]
    shuffled = np.random.default_rng(1).permutation(2_000)
    assert persons_of(rows[shuffled], KEYS, audience[shuffled], PEOPLE).tolist() == whole[shuffled].tolist()


def test_the_same_audience_is_the_same_people_whatever_others_there_are() -> None:
    alone = people_of([AUDIENCES[2]], seed=3)
    rows = auctions(2_000)
    inside = persons_of(rows, KEYS, np.full(2_000, 2), PEOPLE) - PEOPLE.first[2]
    assert persons_of(rows, KEYS, np.zeros(2_000, dtype=np.int64), alone).tolist() == inside.tolist()
    assert alone.upto.tolist() == PEOPLE.upto[:700].tolist()
    assert (people_of([AUDIENCES[2]], seed=4).upto[:-1] != alone.upto[:-1]).all()
    assert (people_of([Audience("other", 700, 0.3)], seed=3).upto[:-1] != alone.upto[:-1]).all()


def uniform_of(row: Int64) -> float:
    block = philox(*(np.uint64(word) for word in (row[4], row[3], PERSON, 0)), KEYS[row[0]])
    return (int(block[0] >> np.uint64(5)) * 2**26 + int(block[1] >> np.uint64(6))) / 2**53


def test_people_who_are_alike_are_drawn_by_a_uniform_of_their_own_purpose() -> None:
    rows = auctions(500)
    zero = np.zeros(500, dtype=np.int64)
    people = people_of([Audience("x", 900)], seed=1)
    assert persons_of(rows, KEYS, zero, people).tolist() == [int(900 * uniform_of(row)) for row in rows]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 5_000])
@pytest.mark.parametrize("activity", [0.05, 1.0, 40.0])
def test_a_weighted_person_is_the_one_whose_cumulative_share_the_uniform_falls_in(size: int, activity: float) -> None:
    people = people_of([Audience("x", size, activity)], seed=1)
    key = np.uint64(key_of(1, "audience", "x"))
    uniforms = np.empty((size, 1))
    fill_uniforms(uniforms, np.array([key]), 0, ACTIVITY)
    weights = gammaincinv(activity, uniforms[:, 0])
    np.testing.assert_allclose(people.upto, np.cumsum(weights) / weights.sum(), rtol=1e-12)
    rows = auctions(3_000)
    person = persons_of(rows, KEYS, np.zeros(3_000, dtype=np.int64), people)
    assert person.tolist() == [np.searchsorted(people.upto, uniform_of(row), side="right") for row in rows]


def test_reach_marks_the_first_impression_of_a_campaign_to_a_person() -> None:
    impressions = np.zeros((7, 8), dtype=np.int64)
    impressions[:, 1] = [0, 0, 1, 1, 0, 0, 1]
    person = np.array([9, 9, 9, 0, 8, 9, 0])
    assert Reach(2, 10).update(impressions, person).tolist() == [True, False, True, True, True, False, False]


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_reach_is_the_same_however_its_spans_are_cut(data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 60))
    impressions = np.zeros((rows, 8), dtype=np.int64)
    impressions[:, 1] = data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))
    person = np.array(data.draw(st.lists(st.integers(0, 16), min_size=rows, max_size=rows)), dtype=np.int64)
    cut = data.draw(st.integers(0, rows))
    pairs = list(zip(impressions[:, 1].tolist(), person.tolist(), strict=True))
    expected = [pair not in pairs[:place] for place, pair in enumerate(pairs)]
    assert Reach(3, 17).update(impressions, person).tolist() == expected
    early, late = Reach(3, 17), Reach(3, 17)
    before = early.update(impressions[:cut], person[:cut])
    late.restore(pickle.loads(pickle.dumps(early.state())))  # noqa: S301 - our own bytes
    for reach in (early, late):
        after = reach.update(impressions[cut:], person[cut:])
        assert [*before.tolist(), *after.tolist()] == expected
    assert np.array_equal(early.state(), late.state())


@pytest.mark.parametrize(
    ("people", "activity", "sentence"),
    [
        (
            0,
            1.0,
            "people (=0) of audience x must be in [1, 10000000]: simulate a sample of a larger one, "
            "with as much less traffic",
        ),
        (
            5,
            0.01,
            "activity (=0.01) of audience x must be >= 0.05: the smaller the more unequal, "
            "and without it all are alike",
        ),
        (
            5,
            math.nan,
            "activity (=nan) of audience x must be >= 0.05: the smaller the more unequal, and without it all are alike",
        ),
    ],
)
def test_an_audience_that_cannot_be_is_refused(people: int, activity: float, sentence: str) -> None:
    with pytest.raises(ValueError, match="must be") as refusal:
        Audience("x", people, activity)
    assert str(refusal.value) == sentence
