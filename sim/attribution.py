"""Attribution: what the account credits with a conversion, beside what truly caused it.

In the simulation a conversion has one cause, the click it was drawn from. The account sees something else: the clicks
of the same person, on any campaign of the joined markets, in the window before the conversion, as far as their ids were
not lost. A credit model splits each conversion over these touches: last click, linear and position-based are the rules
in common use (for models fitted to data see Shao and Li, "Data-driven multi-touch attribution models", KDD 2011). How
much of the credit goes to the campaign that caused the conversion is the accuracy, which only a world with a known
truth can tell.

Counts are whole numbers, credits are not: each cell gathers its credit in ppm and books a conversion whenever that
passes 1,000,000, carrying the rest, so that at any time it has booked its credit rounded down. Revenue is split at once
and to the micro. A conversion without a visible touch is attributed to nobody and booked nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.units import PPM, Bool, Int64, TickGrid, equal_shares
from sim.kernel import kernel
from sim.rng import LOST, TO_UNIT, word

Credit: TypeAlias = Callable[[int], Int64]
"""From a number of touches, at least one, to the ppm that each gets, the earliest first; they sum to 1,000,000."""

BOOKING_COLUMNS = ("market", "campaign", "cell", "tick", "index", "time", "conversions", "revenue", "credit", "touch")
"""A touch that is credited: its auction; the conversion's time; what is booked; which touch it was, from 0."""

TRUTH_COLUMNS = ("cell", "time", "caused", "credited", "right")
"""A conversion: the cell that caused it; 1; the ppm credited to anybody and to the campaign that caused it."""

_MARKET, _CAMPAIGN, _CELL, _TICK, _INDEX, _TIME, _VALUE, _NUMBER = range(8)  # of clicks, as far as they go: conversions
_WHO = 6  # of touches, whose other columns are those of clicks
_HOUR_US = 3_600_000_000
_ENDS_PPM = 400_000
_ROOM = 64


def last_click(touches: int) -> Int64:
    """Everything to the last touch."""
    shares = np.zeros(touches, dtype=np.int64)
    shares[-1] = PPM
    return shares


def linear(touches: int) -> Int64:
    """The same to every touch; what does not divide goes to the earliest, a millionth each."""
    return equal_shares(touches)


def position_based(touches: int) -> Int64:
    """40 % each to the first and the last touch, 20 % to those between, as `linear`; of two, half each."""
    if touches <= 2:
        return equal_shares(touches)
    between = equal_shares(touches - 2, PPM - 2 * _ENDS_PPM)
    return np.concatenate(([_ENDS_PPM], between, [_ENDS_PPM]))


@dataclass(frozen=True)
class Attribution:
    """How the account attributes conversions.

    Parameters
    ----------
    credit:
        How a conversion is split over its touches, such as `last_click`.
    window_hours:
        How long before a conversion a touch may lie; one exactly that old still counts.
    lost_ids:
        Probability that a click's id is lost, so that no conversion finds it.
    """

    credit: Credit = last_click
    window_hours: float = 720.0
    lost_ids: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.window_hours < math.inf:
            raise ValueError(f"window_hours (={self.window_hours}) must be > 0 and finite: try 720, which is 30 days")
        if not 0 <= self.lost_ids <= 1:
            raise ValueError(f"lost_ids (={self.lost_ids}) must be in [0, 1]: it is a share of the clicks")

    @property
    def window_us(self) -> int:
        """The window in microseconds."""
        return int(self.window_hours * _HOUR_US)

    def shares(self, touches: int) -> Int64:
        """The credit of each touch in ppm; refuses a model whose credits are no split of the whole."""
        shares = np.asarray(self.credit(touches))
        if shares.dtype != np.int64 or shares.shape != (touches,) or shares.min() < 0 or shares.sum() != PPM:
            raise ValueError(
                f"credits of {touches} touches (={shares.tolist()}) must be {touches} int64 >= 0 that sum to {PPM}: "
                "split what is left after rounding too"
            )
        return shares


class Booked(NamedTuple):
    """What a span's conversions bring, in order of their time and then of their cause's auction."""

    rows: Int64  # int64[k, len(BOOKING_COLUMNS)], the credited touches of one conversion in order of time
    conversion: Int64  # int64[k], the row of the given table that each credits
    truth: Int64  # int64[conversions, len(TRUTH_COLUMNS)]


class _Touches:
    """Touches in order of time, each linked to the one before it whose person falls into the same bucket.

    So a conversion costs as much as its person has touches, and a span as much as it brings, however many there are.
    """

    def __init__(self, touches: Int64) -> None:
        room = 2 * len(touches) + _ROOM
        self._table = np.empty((room, _WHO + 1), dtype=np.int64)
        self._before = np.empty(room, dtype=np.int64)
        self._newest = np.full(1 << room.bit_length(), -1, dtype=np.int64)
        self._oldest = self._end = 0  # rows between are there
        self._append(touches)

    def with_later(self, touches: Int64) -> _Touches:
        """These and later ones, in order of time: itself or, where it has no room, another."""
        if self._end + len(touches) > len(self._table):
            return _Touches(np.concatenate((self.table(), touches)))
        self._append(touches)
        return self

    def forget(self, before: int) -> None:
        """Let go of the touches before an event time."""
        self._oldest += int(np.searchsorted(self._table[self._oldest : self._end, _TIME], before))

    def table(self) -> Int64:
        """A copy of what is there."""
        return self._table[self._oldest : self._end].copy()

    def find(self, who: Int64, time: Int64, window: int) -> tuple[Int64, Int64]:
        """The touches that each of some conversions has in its window, one after the other, and how many they are."""
        count = np.empty(len(who), dtype=np.int64)
        columns = (self._table, self._oldest, self._newest, self._before, who, time, window, count)
        rows = np.empty(_walk(*columns, np.empty(0, dtype=np.int64)), dtype=np.int64)
        _walk(*columns, rows)
        return self._table[rows], count

    def _append(self, touches: Int64) -> None:
        start, self._end = self._end, self._end + len(touches)
        self._table[start : self._end] = touches
        _link(self._table, start, self._end, self._newest, self._before)


class Bookkeeper:
    """Books conversions to touches, span after span.

    Between spans it holds the visible clicks that a later conversion can still find, and each cell's rest of credit:
    nothing that grows with the run. Neither the cut of spans nor the grouping of markets changes what it books.

    Parameters
    ----------
    rules:
        How conversions are attributed.
    campaign_key:
        uint64[campaigns], by which a click's id is lost.
    joined:
        int64[markets], equal where markets are joined: touches count together within one number.
    cells, people:
        How many there are; persons are numbered from 0 to people - 1.
    """

    def __init__(self, rules: Attribution, campaign_key: NDArray[Any], joined: Int64, cells: int, people: int) -> None:
        self._rules = rules
        self._key = campaign_key
        self._joined = joined
        self._people = people
        self._touches = _Touches(np.empty((0, _WHO + 1), dtype=np.int64))
        self._rest = np.zeros(cells, dtype=np.int64)  # ppm

    def book(
        self, clicks: Int64, click_person: Int64, conversions: Int64, conversion_person: Int64, ends: int
    ) -> Booked:
        """Take the clicks and the conversions of a span that ends at an event time; persons are one per row.

        Both tables may come in any order. Spans follow on one another.
        """
        self._touches = self._touches.with_later(self._visible(clicks, click_person))
        order = np.lexsort([conversions[:, each] for each in (_NUMBER, _INDEX, _CAMPAIGN, _MARKET, _TICK, _TIME)])
        booked = self._credited(conversions[order], self._who(conversions, conversion_person)[order], order)
        self._touches.forget(ends - self._rules.window_us)
        return booked

    def state(self) -> tuple[Int64, Int64]:
        """The clicks that can still be found, and each cell's rest of credit in ppm."""
        return self._touches.table(), self._rest.copy()

    def restore(self, state: tuple[Int64, Int64]) -> None:
        """Go back to a state."""
        touches, rest = state
        self._touches, self._rest = _Touches(touches), rest.copy()

    def _who(self, rows: Int64, person: Int64) -> Int64:
        return self._joined[rows[:, _MARKET]] * self._people + person

    def _visible(self, clicks: Int64, person: Int64) -> Int64:
        """The touches that clicks leave, in order of time and then of their auction."""
        lost = np.empty(len(clicks), dtype=np.bool_)
        _lose(clicks, self._key, self._rules.lost_ids, lost)
        touches = np.column_stack((clicks[:, :_WHO], self._who(clicks, person)))[~lost]
        return touches[np.lexsort([touches[:, each] for each in (_INDEX, _CAMPAIGN, _MARKET, _TICK, _TIME)])]

    def _credited(self, conversions: Int64, who: Int64, origin: Int64) -> Booked:
        touch, touches = self._touches.find(who, conversions[:, _TIME], self._rules.window_us)
        row = np.repeat(np.arange(len(conversions)), touches)
        place = np.arange(row.size) - np.repeat(np.cumsum(touches) - touches, touches)
        credit, before = self._split(touches[row], place)
        value = conversions[row, _VALUE]
        revenue = _part(value, before + credit) - _part(value, before)
        whole = np.empty(row.size, dtype=np.int64)
        _carry(self._rest, touch[:, _CELL], credit, whole)
        rows = np.column_stack((touch[:, :_TIME], conversions[row, _TIME], whole, revenue, credit, place))
        caused = touch[:, _CAMPAIGN] == conversions[row, _CAMPAIGN]
        truth = _truth(conversions, touches, row[caused], credit[caused])
        return Booked(rows[credit > 0], origin[row[credit > 0]], truth)

    def _split(self, touches: Int64, place: Int64) -> tuple[Int64, Int64]:
        """The credit of every touch, and that of the touches before it; both in ppm."""
        sizes = np.unique(touches)
        shares = [self._rules.shares(int(size)) for size in sizes]
        before = [np.cumsum(each) - each for each in shares]
        at = (np.cumsum(sizes) - sizes)[np.searchsorted(sizes, touches)] + place
        nothing = np.empty(0, dtype=np.int64)
        return np.concatenate([nothing, *shares])[at], np.concatenate([nothing, *before])[at]


@kernel
def _link(table: Int64, start: int, stop: int, newest: Int64, before: Int64) -> None:
    for row in range(start, stop):
        bucket = table[row, _WHO] & (newest.size - 1)
        before[row] = newest[bucket]
        newest[bucket] = row


@kernel
def _walk(
    table: Int64,
    oldest: int,
    newest: Int64,
    before: Int64,
    who: Int64,
    time: Int64,
    window: int,
    count: Int64,
    rows: Int64,
) -> Any:
    """Count each conversion's touches; and if there is room, write down their rows, the earliest first."""
    total: Any = 0
    for conversion in range(who.size):
        count[conversion] = 0
        row = newest[who[conversion] & (newest.size - 1)]
        while row >= oldest and table[row, _TIME] >= time[conversion] - window:
            if table[row, _WHO] == who[conversion] and table[row, _TIME] <= time[conversion]:
                if rows.size > 0:
                    rows[total + count[conversion]] = row
                count[conversion] += 1
            row = before[row]
        if rows.size > 0:
            rows[total : total + count[conversion]] = rows[total : total + count[conversion]][::-1].copy()
        total += count[conversion]
    return total


@kernel
def _lose(clicks: Int64, key: NDArray[Any], probability: float, lost: Bool) -> None:
    for row in range(len(clicks)):
        bits = word(clicks[row, _INDEX], clicks[row, _TICK], LOST, key[clicks[row, _CAMPAIGN]])
        lost[row] = np.float64(np.int64(bits)) * TO_UNIT < probability


@kernel
def _carry(rest: Int64, cell: Int64, credit: Int64, whole: Int64) -> None:
    """Gather credit by cell, and take whole conversions out of it."""
    for row in range(len(cell)):
        gathered = rest[cell[row]] + credit[row]
        whole[row] = gathered // PPM
        rest[cell[row]] = gathered % PPM


def _part(value: Int64, ppm: Int64) -> Int64:
    """⌊value · ppm / 1,000,000⌋, without the product that would not fit."""
    return value // PPM * ppm + value % PPM * ppm // PPM


def _truth(conversions: Int64, touches: Int64, caused: Int64, credit: Int64) -> Int64:
    right = np.zeros(len(conversions), dtype=np.int64)
    np.add.at(right, caused, credit)
    one = np.ones(len(conversions), dtype=np.int64)
    return np.column_stack((conversions[:, _CELL], conversions[:, _TIME], one, np.where(touches > 0, PPM, 0), right))


def truth_counts(truth: Int64, grid: TickGrid, first_tick: int, ticks: int, cells: int) -> Int64:
    """Sum the truth by the tick of the conversion and the cell that caused it; int64[ticks, cells, 3].

    The last axis is conversions caused, ppm credited to anybody, and ppm credited to the campaign that caused them.
    """
    counts = np.zeros((ticks, cells, 3), dtype=np.int64)
    np.add.at(counts, (grid.tick_of(truth[:, 1]) - first_tick, truth[:, 0]), truth[:, 2:])
    return counts


def accuracy(counts: Int64) -> float | None:
    """The share of the credit that went to the campaign that caused the conversion; None where none was given.

    `counts` are of any shape whose last axis is that of `truth_counts`.
    """
    _, credited, right = counts.reshape(-1, 3).sum(axis=0).tolist()
    return right / credited if credited else None
