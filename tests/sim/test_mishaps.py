from __future__ import annotations

import math
from collections import Counter
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from engine.events import Events, Kind, deduplicated, fold
from engine.units import TickGrid
from sim.mishaps import Mishap, Way, spoil
from sim.rng import MISHAP, key_of, philox
from tests.sim.builders import same

GRID = TickGrid(datetime(2026, 3, 2), tick_minutes=60, ticks=24)
HOUR = 3_600_000_000
KEY = key_of(5, "mishaps", "")
SIGMAS = 4.5  # a correct share fails with probability 7e-6; seeds are fixed


def happened(rows: int = 24_000) -> Events:
    """Impressions, every third clicked and every sixth converted, a thousand an hour."""
    place = np.arange(rows)
    columns = {name: np.zeros(rows, dtype=column.dtype) for name, column in Events.empty().columns().items()}
    time = GRID.start_us + place * (24 * HOUR // rows)
    columns |= {"event_time": time, "ingest_time": time, "event_high": place % 7 << 40, "event_low": place << 2}
    columns |= {"cell": (place % 3).astype(np.int32), "price_micros": place % 11}
    seen = Events(**columns)
    clicks = Events(
        **{
            **columns,
            "kind": np.full(rows, 1, dtype=np.uint8),
            "event_low": (place << 2) + 1,
            "price_micros": 0 * place,
        }
    ).take(place % 3 == 0)
    sold = clicks.take(np.arange(len(clicks)) % 2 == 0)
    conversions = Events(
        **{
            **sold.columns(),
            "kind": np.full(len(sold), 2, dtype=np.uint8),
            "event_low": sold.event_low + 1,
            "value_micros": sold.event_low,
            "click_high": sold.event_high,
            "click_low": sold.event_low,
        }
    )
    events = Events.concatenate([seen, clicks, conversions])
    return events.take(events.order())


EVENTS = happened()
INSIDE = (GRID.tick_of(EVENTS.event_time) >= 6) & (GRID.tick_of(EVENTS.event_time) < 18)


def mishap(way: Way, share: float = 0.2, hours: float = 0.0) -> Mishap:
    return Mishap(way, 6, 18, share, hours)


ALL = (
    mishap(Way.LATE, 0.3, 5.0),
    mishap(Way.DUPLICATED, 0.2, 1.0),
    mishap(Way.MISDATED, 0.1, -2.0),
    mishap(Way.ORPHANED, 0.25),
)


def assert_share(hits: Any, expected: float) -> None:
    assert abs(hits.mean() - expected) < SIGMAS * math.sqrt(expected * (1 - expected) / hits.size)


def by_id(events: Events) -> dict[str, Any]:
    order = np.lexsort((events.ingest_time, events.event_low, events.event_high))
    return events.take(order).columns()


def test_without_mishaps_events_stay_as_they_are() -> None:
    assert same(spoil(EVENTS, (), KEY, GRID), EVENTS)
    assert same(spoil(EVENTS, [mishap(way, 0.0, float(way != Way.ORPHANED)) for way in Way], KEY, GRID), EVENTS)


def test_a_share_becomes_known_late_after_an_exponential_delay() -> None:
    spoilt = spoil(EVENTS, [mishap(Way.LATE, 0.2, 5.0)], KEY, GRID)
    late = spoilt.ingest_time > spoilt.event_time
    assert same(Events(**{**spoilt.columns(), "ingest_time": EVENTS.ingest_time}), EVENTS)
    assert not late[~INSIDE].any()
    assert_share(late[INSIDE], 0.2)
    delay = (spoilt.ingest_time - spoilt.event_time)[late] / HOUR
    assert abs(delay.mean() - 5.0) < SIGMAS * 5.0 / math.sqrt(delay.size)
    assert_share(delay < 5.0 * math.log(2), 0.5)


def test_a_share_is_recorded_twice_under_the_same_id_the_copy_not_before_the_event() -> None:
    spoilt = spoil(EVENTS, [mishap(Way.DUPLICATED, 0.2, 1.0)], KEY, GRID)
    names, count = np.unique(np.stack((spoilt.event_high, spoilt.event_low)), axis=1, return_counts=True)
    assert names.shape[1] == len(EVENTS)
    assert set(count.tolist()) == {1, 2}
    assert_share(count[_place_by_name()] == 2, 0.2)
    assert (spoilt.ingest_time >= spoilt.event_time).all()
    assert same(deduplicated(spoilt), EVENTS)
    at_once = spoil(EVENTS, [mishap(Way.DUPLICATED, 0.2)], KEY, GRID)
    assert np.array_equal(at_once.ingest_time, at_once.event_time)


def _place_by_name() -> Any:
    """Of events in order of their id, those inside the window."""
    return INSIDE[np.lexsort((EVENTS.event_low, EVENTS.event_high))]


def test_a_share_bears_a_wrong_time_and_becomes_known_as_before() -> None:
    spoilt, plain = by_id(spoil(EVENTS, [mishap(Way.MISDATED, 0.2, -2.5)], KEY, GRID)), by_id(EVENTS)
    shift = spoilt["event_time"] - plain["event_time"]
    assert set(shift.tolist()) == {0, -2.5 * HOUR}
    assert not shift[~_place_by_name()].any()
    assert_share(shift[_place_by_name()] != 0, 0.2)
    assert all(np.array_equal(spoilt[name], plain[name]) for name in plain if name != "event_time")


def test_a_share_of_the_clicks_belongs_to_no_impression() -> None:
    spoilt = spoil(EVENTS, [mishap(Way.ORPHANED)], KEY, GRID)
    seen, clicks = spoilt.take(spoilt.kind == Kind.IMPRESSION), spoilt.take(spoilt.kind == Kind.CLICK)
    assert same(spoilt.take(spoilt.kind != Kind.IMPRESSION), EVENTS.take(EVENTS.kind != Kind.IMPRESSION))
    orphan = ~np.isin(clicks.event_low, seen.event_low + 1)
    inside = (GRID.tick_of(clicks.event_time) >= 6) & (GRID.tick_of(clicks.event_time) < 18)
    assert not orphan[~inside].any()
    assert_share(orphan[inside], 0.2)


def test_what_befalls_an_event_does_not_depend_on_order_or_cut() -> None:
    whole = spoil(EVENTS, ALL, KEY, GRID)
    shuffled = EVENTS.take(np.random.default_rng(3).permutation(len(EVENTS)))
    assert same(spoil(shuffled, ALL, KEY, GRID), whole)
    parts = [spoil(EVENTS.take(rows), ALL, KEY, GRID) for rows in np.array_split(np.arange(len(EVENTS)), 7)]
    together = Events.concatenate(parts)
    assert same(together.take(together.order()), whole)
    assert len(spoil(Events.empty(), ALL, KEY, GRID)) == 0


def first_known(events: Events) -> dict[int, list[int]]:
    """Time and ingest time of every id's first row to become known."""
    columns = by_id(events)
    rows = zip(*(columns[name].tolist() for name in ("event_low", "event_time", "ingest_time")), strict=True)
    return {low: times for low, *times in reversed(list(rows))}


def test_one_mishap_moves_no_draw_of_another() -> None:
    late, copied, misdated, orphaned = (spoil(EVENTS, [each], KEY, GRID) for each in ALL)
    together = spoil(EVENTS, ALL, KEY, GRID)
    assert same(spoil(EVENTS, ALL[::-1], KEY, GRID), together)
    times, ingested, rows = first_known(misdated), first_known(late), first_known(together)
    assert set(rows) == set(orphaned.event_low.tolist())
    assert rows == {low: [times[low][0], ingested[low][1]] for low in rows}
    assert {low for low, copies in Counter(together.event_low.tolist()).items() if copies == 2} == {
        low for low, copies in Counter(copied.event_low.tolist()).items() if copies == 2 and low in rows
    }


def test_draws_are_a_function_of_the_way_and_of_both_halves_of_the_id() -> None:
    def words(value: int) -> list[np.uint64]:
        return [np.uint64(value & 0xFFFFFFFF), np.uint64(value >> 32)]

    for way, share in ((Way.MISDATED, 0.3), (Way.LATE, 0.6)):
        few = EVENTS.take(np.flatnonzero(INSIDE)[:400])
        hit = []
        for high, low in zip(few.event_high.tolist(), few.event_low.tolist(), strict=True):
            first = philox(*words(high), np.uint64(MISHAP), np.uint64(way), np.uint64(KEY))
            second = philox(*words(low), np.uint64(MISHAP), np.uint64(way), first[0] | first[1] << np.uint64(32))
            if second[0] * 2.0**-32 < share:
                hit.append(low)
        spoilt = spoil(few, [mishap(way, share, 1.0)], KEY, GRID)
        changed = ~np.isin(spoilt.ingest_time - spoilt.event_time, 0)
        assert set(spoilt.event_low[changed].tolist()) == set(hit)


def test_of_overlapping_mishaps_of_one_way_the_larger_holds_the_smaller() -> None:
    small, large = (spoil(EVENTS, [mishap(Way.ORPHANED, share)], KEY, GRID).event_low.tolist() for share in (0.1, 0.3))
    both = spoil(EVENTS, [mishap(Way.ORPHANED, 0.1), mishap(Way.ORPHANED, 0.3)], KEY, GRID).event_low.tolist()
    assert set(large) < set(small)
    assert both == large


def test_duplicates_and_lateness_cost_no_count() -> None:
    spoilt = spoil(EVENTS, [mishap(Way.LATE, 0.5, 30.0), mishap(Way.DUPLICATED, 0.5, 3.0)], KEY, GRID)
    assert len(spoilt) > len(EVENTS)
    folded = fold(spoilt, GRID, 0, 24, 3)
    assert np.array_equal(folded.values, fold(EVENTS, GRID, 0, 24, 3).values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            (Way.LATE, 3, 3, 0.1, 1.0),
            "ticks (=[3, 3)) of a mishap must begin at 0 or later and not be empty: give it a length",
        ),
        ((Way.LATE, 0, 3, 1.5, 1.0), "share (=1.5) of a mishap must be in [0, 1]: it is a probability"),
        ((Way.LATE, 0, 3, 0.5, 0.0), "hours (=0.0) of a mishap late must be finite and > 0: it is the mean delay"),
        (
            (Way.DUPLICATED, 0, 3, 0.5, -1.0),
            "hours (=-1.0) of a mishap duplicated must be finite and >= 0: it is the mean delay of the copy",
        ),
        (
            (Way.MISDATED, 0, 3, 0.5, math.inf),
            "hours (=inf) of a mishap misdated must be finite and other than 0: it is added to the time",
        ),
        (
            (Way.ORPHANED, 0, 3, 0.5, 2.0),
            "hours (=2.0) of a mishap orphaned must be finite and 0: an impression that is missing has no time",
        ),
    ],
)
def test_a_mishap_that_cannot_be_is_refused(values: tuple[Way, int, int, float, float], sentence: str) -> None:
    with pytest.raises(ValueError, match="of a mishap") as refusal:
        Mishap(*values)
    assert str(refusal.value) == sentence
