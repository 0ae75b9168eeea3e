from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.units import MAX_MICROS, PPM, Int64
from sim.attribution import (
    BOOKING_COLUMNS,
    TRUTH_COLUMNS,
    Attribution,
    Booked,
    Bookkeeper,
    Credit,
    accuracy,
    last_click,
    linear,
    position_based,
    truth_counts,
)
from sim.rng import LOST, keys_of, word
from tests.sim.builders import GRID

MODELS = (last_click, linear, position_based)
HOUR = 3_600_000_000
KEYS = keys_of(1, "campaign", ["a", "b", "c", "d"])
JOINED = np.array([0, 0, 1])
MARKET_OF, CELL_OF = (0, 0, 1, 2), (0, 2, 3, 4)  # of four campaigns; the first has two creatives
CELLS, PEOPLE = 5, 4

Click = tuple[int, int, int, int]  # campaign, second creative, hour, person
Conversion = tuple[int, int, int]  # which click caused it, hours later, value


def tables(clicks: list[Click], conversions: list[Conversion]) -> tuple[Int64, Int64, Int64, Int64]:
    """The exchange's tables of clicks (a tick an hour, the auction's index its number) and conversions; persons."""
    rows = np.array(
        [
            (
                MARKET_OF[campaign],
                campaign,
                CELL_OF[campaign] + (creative if campaign == 0 else 0),
                hour,
                n,
                hour * HOUR,
            )
            for n, (campaign, creative, hour, _) in enumerate(clicks)
        ],
        dtype=np.int64,
    ).reshape(-1, 6)
    person = np.array([click[3] for click in clicks], dtype=np.int64)
    cause = np.array([conversion[0] for conversion in conversions], dtype=np.int64)
    delay = np.array([conversion[1] for conversion in conversions], dtype=np.int64) * HOUR
    value = np.array([conversion[2] for conversion in conversions], dtype=np.int64)
    caused = rows[cause]
    number = np.arange(cause.size)
    table = np.column_stack((caused[:, :5], caused[:, 5] + delay, value, number, caused[:, 5]))
    return rows, person, table, person[cause]


def bookkeeper(credit: Credit = last_click, hours: float = 24.0, lost: float = 0.0) -> Bookkeeper:
    return Bookkeeper(Attribution(credit, hours, lost), KEYS, JOINED, CELLS, PEOPLE)


def book(keeper: Bookkeeper, clicks: list[Click], conversions: list[Conversion], *cuts: int) -> Booked:
    """Book over spans between hours, the state going through a pickle at each cut."""
    rows, person, table, converted = tables(clicks, conversions)
    parts = []
    for start, stop in pairwise((0, *sorted(cuts), 10_000)):
        clicked, due = ((each[:, 5] >= start * HOUR) & (each[:, 5] < stop * HOUR) for each in (rows, table))
        booked = keeper.book(rows[clicked], person[clicked], table[due], converted[due], stop * HOUR)
        parts.append(booked._replace(conversion=np.flatnonzero(due)[booked.conversion]))
        keeper.restore(pickle.loads(pickle.dumps(keeper.state())))  # noqa: S301 - our own bytes
    return Booked(*(np.concatenate(each) for each in zip(*parts, strict=True)))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (last_click, {1: [1_000_000], 2: [0, 1_000_000], 4: [0, 0, 0, 1_000_000]}),
        (
            linear,
            {1: [1_000_000], 2: [500_000, 500_000], 3: [333_334, 333_333, 333_333], 6: [166_667] * 4 + [166_666] * 2},
        ),
        (
            position_based,
            {
                1: [1_000_000],
                2: [500_000, 500_000],
                3: [400_000, 200_000, 400_000],
                5: [400_000, 66_667, 66_667, 66_666, 400_000],
            },
        ),
    ],
)
def test_credits_by_hand(model: Credit, expected: dict[int, list[int]]) -> None:
    assert {touches: model(touches).tolist() for touches in expected} == expected


@pytest.mark.parametrize("model", MODELS)
@given(touches=st.integers(1, 5_000))
@settings(max_examples=50, deadline=None)
def test_credits_sum_to_one(model: Credit, touches: int) -> None:
    assert Attribution(model).shares(touches).sum() == PPM


JOURNEY: list[Click] = [
    (0, 0, 0, 2),  # too old for the conversion at hour 30
    (0, 1, 8, 2),
    (1, 0, 10, 1),  # somebody else
    (3, 0, 11, 2),  # a market that is not joined
    (2, 0, 20, 2),  # another market of the same group
    (1, 0, 25, 2),
    (1, 0, 31, 2),  # after it
]
SALE: list[Conversion] = [(1, 22, 1_000_001)]  # at hour 30, caused by the click of hour 8
TOUCHES = [[0, 0, 1, 8, 1], [1, 2, 3, 20, 4], [0, 1, 2, 25, 5]]  # market, campaign, cell, tick, index


@pytest.mark.parametrize(
    ("model", "credit", "revenue"),
    [
        (last_click, [0, 0, 1_000_000], [0, 0, 1_000_001]),
        (linear, [333_334, 333_333, 333_333], [333_334, 333_333, 333_334]),
        (position_based, [400_000, 200_000, 400_000], [400_000, 200_000, 400_001]),
    ],
)
def test_a_journey_by_hand(model: Credit, credit: list[int], revenue: list[int]) -> None:
    booked = book(bookkeeper(model), JOURNEY, SALE)
    whole = [0, 0, 1] if model is last_click else [0, 0, 0]
    assert booked.rows.tolist() == [
        [*touch, 30 * HOUR, whole[n], revenue[n], credit[n], n] for n, touch in enumerate(TOUCHES) if credit[n]
    ]
    assert booked.conversion.tolist() == [0] * len(booked.rows)
    assert booked.truth.tolist() == [[1, 30 * HOUR, 1, PPM, credit[0]]]
    assert (len(BOOKING_COLUMNS), len(TRUTH_COLUMNS)) == (booked.rows.shape[1], booked.truth.shape[1])


def test_fractions_of_a_cell_gather_until_they_are_a_conversion() -> None:
    clicks: list[Click] = [(0, 0, 1, 0), (1, 0, 2, 0), (2, 0, 3, 0)]
    conversions: list[Conversion] = [(0, hours, 900) for hours in (4, 5, 6, 7)]
    keeper = bookkeeper(linear)
    booked = book(keeper, clicks, conversions)
    # a third each; the first touch has 2 ppm more by the third conversion, the others lack one
    assert booked.rows[:, 6].reshape(4, 3).tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 1]]
    assert keeper.state()[1].tolist() == [4 * 333_334 - PPM, 0, 4 * 333_333 - PPM, 4 * 333_333 - PPM, 0]


def test_the_window_holds_its_own_ends() -> None:
    clicks: list[Click] = [(0, 0, 0, 0), (1, 0, 24, 0), (2, 0, 25, 0)]
    rows = book(bookkeeper(linear), clicks, [(0, 24, 10)]).rows
    assert rows[:, 1].tolist() == [0, 1]  # a day old to the microsecond, and the same moment
    assert len(book(bookkeeper(linear, 23.999), clicks, [(0, 24, 10)]).rows) == 1


def test_a_conversion_that_no_click_is_seen_of_is_attributed_to_nobody() -> None:
    for keeper in (bookkeeper(lost=1.0), bookkeeper(hours=1.0)):
        booked = book(keeper, [(0, 0, 1, 0)], [(0, 5, 10)])
        assert (booked.rows.size, booked.truth.tolist()) == (0, [[0, 6 * HOUR, 1, 0, 0]])
        assert accuracy(booked.truth[:, 2:]) is None


def test_another_creative_of_the_campaign_is_the_right_campaign() -> None:
    booked = book(bookkeeper(), [(0, 0, 1, 0), (0, 1, 2, 0)], [(0, 5, 10)])
    assert booked.rows[:, 2].tolist() == [1]
    assert booked.truth.tolist() == [[0, 6 * HOUR, 1, PPM, PPM]]


def test_a_clicks_id_is_lost_by_a_draw_of_its_own() -> None:
    clicks: list[Click] = [(n % 3, 0, n, 0) for n in range(300)]
    keeper = bookkeeper(hours=10_000.0, lost=0.3)
    book(keeper, clicks, [], 100)
    kept = [n for n in range(300) if word(n, n, LOST, KEYS[n % 3]) * 2.0**-32 >= 0.3]
    assert keeper.state()[0][:, 4].tolist() == kept


def test_the_largest_value_is_split_to_the_micro() -> None:
    clicks: list[Click] = [(0, 0, hour, 0) for hour in range(7)]
    revenue = book(bookkeeper(linear), clicks, [(0, 10, MAX_MICROS)]).rows[:, 7]
    assert revenue.tolist() == [142_858 * 10**9, *[142_857 * 10**9] * 6]


def test_the_truth_is_counted_by_tick_and_cell() -> None:
    truth = np.array(
        [[1, GRID.opens(3), 1, PPM, 0], [1, GRID.opens(3) + 5, 1, PPM, 250_000], [0, GRID.opens(2), 1, 0, 0]]
    )
    counts = truth_counts(truth, GRID, 2, 2, 3)
    assert counts.tolist() == [[[1, 0, 0], [0, 0, 0], [0, 0, 0]], [[0, 0, 0], [2, 2 * PPM, 250_000], [0, 0, 0]]]
    assert accuracy(counts) == 0.125


CLICKS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 60), st.integers(0, 3)), max_size=30)
SALES = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 60), st.integers(0, MAX_MICROS)), max_size=12)
CUTS = st.lists(st.integers(1, 120), max_size=6, unique=True)


@given(clicks=CLICKS, sales=SALES, cuts=CUTS, model=st.sampled_from(MODELS), lost=st.sampled_from([0.0, 0.4]))
@settings(max_examples=150, deadline=None)
def test_spans_cut_anywhere_book_the_same_and_what_is_booked_adds_up(
    clicks: list[Click], sales: list[Conversion], cuts: list[int], model: Credit, lost: float
) -> None:
    sales = [sale for sale in sales if sale[0] < len(clicks)]
    one, many = bookkeeper(model, lost=lost), bookkeeper(model, lost=lost)
    whole, cut = book(one, clicks, sales), book(many, clicks, sales, *cuts)
    assert all(np.array_equal(*both) for both in zip(whole, cut, strict=True))
    assert all(np.array_equal(*both) for both in zip(one.state(), many.state(), strict=True))
    rows, person, table, converted = tables(clicks, sales)
    backwards = bookkeeper(model, lost=lost).book(rows[::-1], person[::-1], table[::-1], converted[::-1], 10_000 * HOUR)
    assert all(np.array_equal(*both) for both in zip(whole[::2], backwards[::2], strict=True))
    assert (len(sales) - 1 - backwards.conversion).tolist() == whole.conversion.tolist()

    credit, revenue = (np.zeros(len(sales), dtype=np.int64) for _ in range(2))
    np.add.at(credit, whole.conversion, whole.rows[:, 8])
    np.add.at(revenue, whole.conversion, whole.rows[:, 7])
    attributed = credit > 0
    assert (credit[attributed] == PPM).all()
    assert revenue[attributed].tolist() == [sale[2] for sale, seen in zip(sales, attributed, strict=True) if seen]
    gathered, booked = (np.zeros(CELLS, dtype=np.int64) for _ in range(2))
    np.add.at(gathered, whole.rows[:, 2], whole.rows[:, 8])
    np.add.at(booked, whole.rows[:, 2], whole.rows[:, 6])
    assert booked.tolist() == (gathered // PPM).tolist()
    assert one.state()[1].tolist() == (gathered % PPM).tolist()
    assert whole.truth.sum(axis=0)[2:4].tolist() == [len(sales), int(attributed.sum()) * PPM]


@given(clicks=CLICKS, sales=SALES, model=st.sampled_from(MODELS))
@settings(max_examples=100, deadline=None)
def test_the_touches_are_those_a_plain_search_finds(
    clicks: list[Click], sales: list[Conversion], model: Credit
) -> None:
    sales = [sale for sale in sales if sale[0] < len(clicks)]
    booked = book(bookkeeper(model), clicks, sales)
    for number, (cause, delay, _) in enumerate(sales):
        campaign, _, hour, person = clicks[cause]
        at, group = hour + delay, JOINED[MARKET_OF[campaign]]
        seen = sorted(
            (then, MARKET_OF[which], which, n)
            for n, (which, _, then, whose) in enumerate(clicks)
            if whose == person and JOINED[MARKET_OF[which]] == group and at - 24 <= then <= at
        )
        shares = model(len(seen)).tolist() if seen else []
        found = booked.rows[booked.conversion == number]
        assert found[:, [4, 8, 9]].tolist() == [
            [seen[touch][-1], credit, touch] for touch, credit in enumerate(shares) if credit
        ]


@given(clicks=CLICKS, sales=SALES, lost=st.sampled_from([0.0, 0.4]))
@settings(max_examples=50, deadline=None)
def test_markets_that_are_not_joined_are_booked_as_if_alone(
    clicks: list[Click], sales: list[Conversion], lost: float
) -> None:
    sales = [sale for sale in sales if sale[0] < len(clicks)]
    rows, person, table, converted = tables(clicks, sales)
    together = bookkeeper(linear, lost=lost).book(rows, person, table, converted, 10_000 * HOUR)
    for group in (0, 1):
        ours, due = (JOINED[each[:, 0]] == group for each in (rows, table))
        alone = bookkeeper(linear, lost=lost).book(rows[ours], person[ours], table[due], converted[due], 10_000 * HOUR)
        assert np.array_equal(alone.rows, together.rows[JOINED[together.rows[:, 0]] == group])


@given(clicks=CLICKS, sales=SALES, model=st.sampled_from(MODELS))
@settings(max_examples=50, deadline=None)
def test_where_nobody_meets_two_campaigns_the_credit_goes_to_the_cause(
    clicks: list[Click], sales: list[Conversion], model: Credit
) -> None:
    clicks = [(campaign, creative, hour, campaign) for campaign, creative, hour, _ in clicks]
    sales = [(cause, delay % 25, value) for cause, delay, value in sales if cause < len(clicks)]
    booked = book(bookkeeper(model), clicks, sales)
    assert accuracy(booked.truth[:, 2:]) == (1.0 if sales else None)
    if model is last_click:
        campaigns, revenue = (np.zeros(4, dtype=np.int64) for _ in range(2))
        np.add.at(campaigns, booked.rows[:, 1], booked.rows[:, 6])
        np.add.at(revenue, booked.rows[:, 1], booked.rows[:, 7])
        causes = [clicks[cause][0] for cause, _, _ in sales]
        assert campaigns.tolist() == [causes.count(campaign) for campaign in range(4)]
        assert revenue.tolist() == [sum(sale[2] for sale in sales if clicks[sale[0]][0] == c) for c in range(4)]


def test_what_is_kept_for_later_does_not_grow_with_the_run() -> None:
    keeper = bookkeeper()
    for hour in range(2_000):
        rows, person, table, converted = tables([(0, 0, hour, 0)], [])
        keeper.book(rows, person, table, converted, (hour + 1) * HOUR)
        assert len(keeper.state()[0]) == min(hour + 1, 24)
        if hour == 200:
            size = len(pickle.dumps(keeper))
    assert len(pickle.dumps(keeper)) == size


def half(touches: int) -> Int64:
    return np.full(touches, PPM // 2, dtype=np.int64)


def test_a_model_that_gives_no_whole_is_refused() -> None:
    with pytest.raises(ValueError, match="credits of 3") as refusal:
        Attribution(half).shares(3)
    assert str(refusal.value) == (
        "credits of 3 touches (=[500000, 500000, 500000]) must be 3 int64 >= 0 that sum to 1000000: "
        "split what is left after rounding too"
    )


@pytest.mark.parametrize(
    ("hours", "lost", "sentence"),
    [
        (0.0, 0.1, "window_hours (=0.0) must be > 0 and finite: try 720, which is 30 days"),
        (1.0, 1.1, "lost_ids (=1.1) must be in [0, 1]: it is a share of the clicks"),
    ],
)
def test_rules_that_cannot_be_are_refused(hours: float, lost: float, sentence: str) -> None:
    with pytest.raises(ValueError, match="must be") as refusal:
        Attribution(last_click, hours, lost)
    assert str(refusal.value) == sentence
