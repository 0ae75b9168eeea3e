"""Mishaps: what goes wrong with recorded events, while what they record stays as it was.

A share of the events of some ticks becomes known late, is recorded twice, bears a wrong time, or loses the impression
that a click belongs to. The counts that a campaign's machine receives know nothing of this: mishaps are for those who
read the events.

What happens to an event is a pure function of its id and of the way in which it goes wrong: neither the order nor the
cut of the events matters, and a further mishap moves no draw of another. Where two mishaps of one way overlap, the
events of the larger share hold those of the smaller.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.events import Events, Kind
from engine.units import Bool, Int64, TickGrid
from sim.kernel import kernel
from sim.rng import MISHAP, TO_UNIT, philox

_HOUR_US = 3_600_000_000


class Way(IntEnum):
    """How an event goes wrong; the number is part of its draws."""

    LATE = 0
    DUPLICATED = 1
    MISDATED = 2
    ORPHANED = 3


_NEED_HOURS = {
    Way.LATE: "> 0: it is the mean delay",
    Way.DUPLICATED: ">= 0: it is the mean delay of the copy",
    Way.MISDATED: "other than 0: it is added to the time",
    Way.ORPHANED: "0: an impression that is missing has no time",
}


@dataclass(frozen=True)
class Mishap:
    """A share of the events of the ticks [from_tick, to_tick) goes wrong in one way.

    Parameters
    ----------
    way:
        How. LATE: the event becomes known later. DUPLICATED: it is recorded a second time, under the same id.
        MISDATED: its time is wrong. ORPHANED: where it is an impression it is missing, and its click belongs to none.
    from_tick, to_tick:
        By the true time of the event.
    share:
        Probability that an event, or with ORPHANED an impression, is hit.
    hours:
        LATE and DUPLICATED: mean of the exponential delay, of the event or of its copy. MISDATED: what is added to the
        time, negative to date it back.
    """

    way: Way
    from_tick: int
    to_tick: int
    share: float
    hours: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.from_tick < self.to_tick:
            raise ValueError(
                f"ticks (=[{self.from_tick}, {self.to_tick})) of a mishap must begin at 0 or later and not be empty: "
                "give it a length"
            )
        if not 0 <= self.share <= 1:
            raise ValueError(f"share (={self.share}) of a mishap must be in [0, 1]: it is a probability")
        fits = {
            Way.LATE: self.hours > 0,
            Way.DUPLICATED: self.hours >= 0,
            Way.MISDATED: self.hours != 0,
            Way.ORPHANED: self.hours == 0,
        }
        if not (fits[self.way] and math.isfinite(self.hours)):
            raise ValueError(
                f"hours (={self.hours}) of a mishap {self.way.name.lower()} must be finite and {_NEED_HOURS[self.way]}"
            )


def spoil(events: Events, mishaps: Sequence[Mishap], key: int, grid: TickGrid) -> Events:
    """What becomes of events, in order of (event_time, id).

    Parameters
    ----------
    events:
        As they happened, each id once.
    mishaps:
        What goes wrong. Several may hit one event: it is misdated and late by the sums, and copied as it then is.
    key:
        The 64-bit key of the draws, of the seed alone: any event may meet any mishap.
    grid:
        The run's calendar.
    """
    tick = grid.tick_of(events.event_time)
    event_time, ingest_time = events.event_time.copy(), events.ingest_time.copy()
    for hit, mishap, _ in _hits(events, tick, mishaps, Way.MISDATED, key):
        event_time[hit] += round(mishap.hours * _HOUR_US)
    for hit, _, delay in _hits(events, tick, mishaps, Way.LATE, key):
        ingest_time[hit] += delay
    recorded = np.ones(len(events), dtype=np.bool_)
    for hit, _, _ in _hits(events, tick, mishaps, Way.ORPHANED, key):
        recorded[hit & (events.kind == Kind.IMPRESSION)] = False
    known = Events(**{**events.columns(), "event_time": event_time, "ingest_time": ingest_time})
    parts = [known.take(recorded)]
    for hit, _, delay in _hits(events, tick, mishaps, Way.DUPLICATED, key):
        copies = known.take(hit & recorded)
        later = copies.ingest_time + delay[recorded[hit]]
        parts.append(Events(**{**copies.columns(), "ingest_time": later}))
    spoilt = Events.concatenate(parts)
    return spoilt.take(spoilt.order())


def _hits(
    events: Events, tick: Int64, mishaps: Sequence[Mishap], way: Way, key: int
) -> Iterator[tuple[Bool, Mishap, Int64]]:
    """The mishaps of one way: which events each hits, itself, and the delay in µs of those that are hit."""
    chosen = [mishap for mishap in mishaps if mishap.way == way]
    if not chosen:
        return
    words = np.empty((len(events), 2), dtype=np.uint64)
    _draw(events.event_high, events.event_low, way, np.uint64(key), words)
    for mishap in chosen:
        inside = (tick >= mishap.from_tick) & (tick < mishap.to_tick)
        hit = inside & (words[:, 0] * TO_UNIT < mishap.share)
        wait = -np.log((words[hit, 1] + 0.5) * TO_UNIT) * (mishap.hours * _HOUR_US)
        yield hit, mishap, wait.astype(np.int64)


@kernel
def _draw(high: Int64, low: Int64, way: int, key: Any, out: NDArray[Any]) -> None:
    """Two words for every event: an id fills the counter, so one half of it makes the key for the other."""
    word, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for row in range(len(high)):
        upper, lower = np.uint64(high[row]), np.uint64(low[row])
        block = philox(upper & word, upper >> half, np.uint64(MISHAP), np.uint64(way), key)
        own = block[0] | block[1] << half
        drawn = philox(lower & word, lower >> half, np.uint64(MISHAP), np.uint64(way), own)
        out[row, 0], out[row, 1] = drawn[0], drawn[1]
