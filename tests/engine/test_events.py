from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from engine.events import (
    CONVERSIONS,
    CONVERTING_CLICKS,
    COUNTS,
    Events,
    Kind,
    Opportunities,
    TickCounts,
    deduplicated,
    fold,
)
from engine.units import TickGrid

GRID = TickGrid(datetime(2025, 6, 1), 30, 4)


def events(rows: list[tuple[Kind, int, int, int, int]]) -> Events:
    """Events of (kind, cell, µs after the run's opening, price, value)."""
    empty = Events.empty().columns()
    columns: dict[str, Any] = {name: np.zeros(len(rows), dtype=column.dtype) for name, column in empty.items()}
    columns["event_low"] = np.arange(len(rows))
    for place, (kind, cell, at, price, value) in enumerate(rows):
        columns["kind"][place], columns["cell"][place] = kind, cell
        columns["event_time"][place] = GRID.start_us + at
        columns["price_micros"][place], columns["value_micros"][place] = price, value
    return Events(**columns)


def test_fold_counts_kinds_and_money_by_tick_and_cell_and_leaves_out_what_lies_outside() -> None:
    tick = GRID.tick_us
    happened = events(
        [
            (Kind.IMPRESSION, 0, -1, 9, 0),
            (Kind.IMPRESSION, 0, tick - 1, 5, 0),
            (Kind.IMPRESSION, 1, tick, 7, 0),
            (Kind.IMPRESSION, 1, tick, 8, 0),
            (Kind.CLICK, 1, tick + 5, 3, 0),
            (Kind.CONVERSION, 1, 2 * tick, 0, 900),
            (Kind.REFUND, 1, 2 * tick + 7, 0, 950),
            (Kind.CONVERSION, 1, 4 * tick, 0, 800),
        ]
    )
    expected = np.zeros((3, 2, len(COUNTS)), dtype=np.int64)
    expected[0, 0] = [0, 0, 0, 1, 0, 0, 5, 0, 0, 0, 0]
    expected[1, 1] = [0, 0, 0, 2, 1, 0, 18, 0, 0, 0, 0]
    expected[2, 1] = [0, 0, 0, 0, 0, 1, 0, 900, 950, 0, 1]
    folded = fold(happened, GRID, 0, 3, 2)
    assert folded.values.tolist() == expected.tolist()
    assert fold(happened, GRID, 1, 2, 2).values.tolist() == expected[1:].tolist()


def test_fold_counts_a_click_that_converts_several_times_once() -> None:
    columns = events([(Kind.CONVERSION, 0, place, 0, 5) for place in range(4)]).columns()
    columns["number"] = np.array([0, 1, 2, 0], dtype=np.uint16)
    folded = fold(Events(**columns), GRID, 0, 1, 1).values[0, 0]
    assert (folded[CONVERSIONS], folded[CONVERTING_CLICKS]) == (4, 2)


def test_fold_does_not_depend_on_the_order_of_events() -> None:
    rows = [(Kind(place % 4), place % 2, 1_000_000 * place, place, place * place) for place in range(200)]
    happened = events(rows)
    shuffled = happened.take(np.random.default_rng(1).permutation(200))
    assert np.array_equal(fold(happened, GRID, 0, 4, 2).values, fold(shuffled, GRID, 0, 4, 2).values)


def test_a_thousand_duplicates_of_an_event_with_spend_are_counted_once() -> None:
    happened = events([(Kind.CLICK, 0, 5, 70, 0), (Kind.CLICK, 1, 6, 30, 0)])
    told = happened.take(np.array([0] * 1_000 + [1]))
    assert np.array_equal(fold(told, GRID, 0, 4, 2).values, fold(happened, GRID, 0, 4, 2).values)


def test_fold_of_parts_adds_up() -> None:
    happened = events([(Kind.CLICK, place % 2, 60_000_000 * place, 10, 0) for place in range(100)])
    early, late = happened.take(np.arange(40)), happened.take(np.arange(40, 100))
    parts = fold(early, GRID, 0, 4, 2).values + fold(late, GRID, 0, 4, 2).values
    assert np.array_equal(parts, fold(Events.concatenate([early, late]), GRID, 0, 4, 2).values)


def named(rows: list[tuple[Kind, int, int, int, int, int]]) -> Events:
    """Events of (kind, id's halves, µs after the run's opening, price, µs until it was known)."""
    columns = events([(kind, 0, at, price, 0) for kind, _, _, at, price, _ in rows]).columns()
    columns["event_high"], columns["event_low"], known = (
        np.array([row[place] for row in rows], dtype=np.int64) for place in (1, 2, 5)
    )
    columns["ingest_time"] = columns["event_time"] + known
    return Events(**columns)


def test_of_the_rows_of_one_id_the_smallest_time_and_then_payload_stays_and_of_equals_the_first_known() -> None:
    told = named(
        [
            (Kind.CLICK, 1, 2, 50, 3, 9),
            (Kind.CLICK, 1, 2, 40, 8, 9),
            (Kind.CLICK, 1, 2, 40, 7, 30),
            (Kind.CLICK, 1, 2, 40, 7, 20),
            (Kind.IMPRESSION, 1, 2, 60, 0, 0),  # another kind, another event
            (Kind.CLICK, 2, 2, 10, 0, 0),
            (Kind.CLICK, 1, -1, 10, 0, 0),
        ]
    )
    expected = told.take(np.array([6, 5, 3, 4])).columns()
    for seed in range(20):
        shuffled = told.take(np.random.default_rng(seed).integers(0, 7, 60))  # any order, any number of copies
        missing = Events.concatenate([shuffled, told.take(np.random.default_rng(seed).permutation(7))])
        kept = deduplicated(missing).columns()
        assert {name: column.tolist() for name, column in kept.items()} == {
            name: column.tolist() for name, column in expected.items()
        }
    assert len(deduplicated(Events.empty())) == 0


def test_payloads_are_compared_column_by_column_in_the_order_of_the_schema() -> None:
    names = ["campaign", "cell", "price_micros", "value_micros", "click_high", "click_low", "number"]
    for larger, smaller in pairwise(names):
        columns = events([(Kind.CONVERSION, 0, 5, 0, 0)] * 2).columns()
        columns["event_low"][:] = 0
        columns[larger][0], columns[smaller][1] = 1, 1
        told = Events(**columns)
        for rows in ([0, 1], [1, 0]):
            (kept,) = deduplicated(told.take(np.array(rows))).columns()[smaller].tolist()
            assert kept == 1


def test_cells_of_a_campaign_are_summed() -> None:
    values = np.arange(2 * 3 * len(COUNTS), dtype=np.int64).reshape(2, 3, len(COUNTS))
    counts = TickCounts(5, values)
    summed = counts.of_campaigns(np.array([0, 1, 3]))
    assert counts.ticks == 2
    assert np.array_equal(summed, np.stack([values[:, 0], values[:, 1] + values[:, 2]], axis=1))
    assert counts.of_campaigns(np.array([0, 1, 2, 3])) is values


@pytest.mark.parametrize("table", [Events, Opportunities])
def test_a_table_of_no_parts_is_empty_in_its_own_dtypes(table: type[Events] | type[Opportunities]) -> None:
    empty = table.concatenate([])
    assert len(empty) == 0
    assert {name: column.dtype for name, column in table.concatenate([empty, empty]).columns().items()} == {
        name: column.dtype for name, column in empty.columns().items()
    }


def test_columns_of_two_lengths_are_refused() -> None:
    columns = events([(Kind.CLICK, 0, 0, 1, 0)]).columns()
    with pytest.raises(ValueError, match=r"^columns of Events \(=.*'cell': 2.*\) must have one length$"):
        Events(**{**columns, "cell": np.zeros(2, dtype=np.int32)})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.zeros((1, 1, 3), dtype=np.int64), "tick counts (=int64(1, 1, 3)) must be int64[ticks, cells, 11]"),
        (np.zeros((1, 1, 11)), "tick counts (=float64(1, 1, 11)) must be int64[ticks, cells, 11]"),
        (np.full((1, 1, 11), -1), "a tick count (=-1) must be >= 0: look at the source that emitted it"),
    ],
)
def test_counts_that_are_none_are_refused(values: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"tick count") as refusal:
        TickCounts(0, values)
    assert str(refusal.value) == sentence
