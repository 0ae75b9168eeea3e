"""The three column schemas: opportunities, events and tick counts.

A source always emits `TickCounts`; it emits `Events` and `Opportunities` when asked to record them. Columns are NumPy
arrays of one length, campaigns and creatives are indices into the id-sorted `CampaignSet`, and an unknown is a value
plus a status column, never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from engine.units import Int64, TickGrid

COUNTS = (
    "opportunities",  # auctions that reached the campaign
    "bids",  # auctions it entered: not paused, budget left for the most it could be charged
    "outside_support",  # bids above the highest price the log can speak for (replays only)
    "impressions",
    "clicks",
    "conversions",  # booked in the tick in which they happen
    "spend_micros",
    "revenue_micros",  # value of the conversions, whatever is refunded later
    "refunds_micros",  # value given back, booked in the tick of the refund; it may be more than that tick's revenue
    "people",  # reached by the campaign for the first time, where people are counted
    "converting_clicks",  # conversions that are the first of their click, so that each click counts once
)
(
    OPPORTUNITIES,
    BIDS,
    OUTSIDE_SUPPORT,
    IMPRESSIONS,
    CLICKS,
    CONVERSIONS,
    SPEND,
    REVENUE,
    REFUNDS,
    PEOPLE,
    CONVERTING_CLICKS,
) = range(len(COUNTS))


class Kind(IntEnum):
    """What an event says; adjustments of a charge come with logs that carry them."""

    IMPRESSION = 0
    CLICK = 1
    CONVERSION = 2
    REFUND = 3  # of a conversion


class Status(IntEnum):
    """Whether the value beside it is known."""

    KNOWN = 0
    UNKNOWN = 1


@dataclass(frozen=True)
class TickCounts:
    """Integer counts per tick and cell, a cell being one creative of one campaign, shown to one audience.

    Parameters
    ----------
    first_tick:
        Tick of `values[0]`.
    values:
        int64 of shape [ticks, cells, len(COUNTS)], non-negative.
    """

    first_tick: int
    values: Int64

    def __post_init__(self) -> None:
        if self.values.dtype != np.int64 or self.values.ndim != 3 or self.values.shape[2] != len(COUNTS):
            raise ValueError(
                f"tick counts (={self.values.dtype}{self.values.shape}) must be int64[ticks, cells, {len(COUNTS)}]"
            )
        if self.values.size and self.values.min() < 0:
            raise ValueError(f"a tick count (={self.values.min()}) must be >= 0: look at the source that emitted it")

    @property
    def ticks(self) -> int:
        """Number of ticks covered."""
        return int(self.values.shape[0])

    def of_campaigns(self, cell_start: Int64) -> Int64:
        """Sum the cells of each campaign: int64[ticks, campaigns, len(COUNTS)]."""
        return sum_cells(self.values, cell_start)


def sum_cells(values: Int64, cell_start: Int64) -> Int64:
    """Sum the cells, which are the second axis, of each campaign."""
    if cell_start.size - 1 == values.shape[1]:
        return values
    return np.add.reduceat(values, cell_start[:-1], axis=1)


class _Columns:
    """A frozen dataclass whose every field is one column of the same length."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        lengths = {column.name: len(getattr(self, column.name)) for column in fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of {type(self).__name__} (={lengths}) must have one length")

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, rows: NDArray[Any]) -> Self:
        """Choose rows by index or by mask."""
        return type(self)(**{name: column[rows] for name, column in self.columns().items()})

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns by name, in the schema's order."""
        return {column.name: getattr(self, column.name) for column in fields(self)}

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """One table of several; no part gives an empty one."""
        if not parts:
            return cls.empty()
        names = [column.name for column in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    @classmethod
    def empty(cls) -> Self:
        """A table without rows, its dtypes as the schema states."""
        return cls(**{column.name: np.empty(0, dtype=column.metadata["dtype"]) for column in fields(cls)})


def _column(dtype: str) -> Any:
    return field(metadata={"dtype": dtype})


@dataclass(frozen=True)
class Events(_Columns):
    """What happened, one row an event, ordered by (tick, event_time, id).

    `event_high` and `event_low` are the 128-bit id; `click_high` and `click_low` name the click that a conversion is
    attributed to, and that of the conversion that a refund takes back (zero for the other kinds). `price_micros` is the
    charge, on the event that is charged for; `value_micros` what a conversion is worth, or a refund gives back.
    `ingest_time` is when the event became known: the event's own time, unless it came late. `number` says which of its
    click's conversions one is, from 0 on, and of which a refund is (zero for the other kinds).
    """

    kind: NDArray[Any] = _column("uint8")
    event_high: Int64 = _column("int64")
    event_low: Int64 = _column("int64")
    campaign: NDArray[Any] = _column("int32")
    cell: NDArray[Any] = _column("int32")  # creative and audience, as an index over the set's cells
    event_time: Int64 = _column("int64")  # µs since the epoch, UTC
    ingest_time: Int64 = _column("int64")  # likewise
    price_micros: Int64 = _column("int64")
    value_micros: Int64 = _column("int64")
    click_high: Int64 = _column("int64")
    click_low: Int64 = _column("int64")
    number: NDArray[Any] = _column("uint16")

    def order(self) -> Int64:
        """The rows in order of (event_time, id), the copies of an event as they became known; int64[rows]."""
        return np.lexsort((self.ingest_time, self.event_low, self.event_high, self.event_time))


@dataclass(frozen=True)
class Opportunities(_Columns):
    """What could have been bought, one row per auction and campaign it reached, with the outcome if won.

    `price_micros` is the least bid that wins (other campaigns of the account and the reserve included), so a row
    replays by `bid >= price`. `predicted_ctr` turns a price per opportunity into one per click.
    """

    market: NDArray[Any] = _column("int32")
    campaign: NDArray[Any] = _column("int32")
    cell: NDArray[Any] = _column("int32")
    tick: NDArray[Any] = _column("int32")
    index: NDArray[Any] = _column("int32")  # position among the market's auctions of the tick
    event_time: Int64 = _column("int64")
    value: NDArray[Any] = _column("float64")  # relative to the reference opportunity, whose value is 1
    predicted_ctr: NDArray[Any] = _column("float64")
    price_micros: Int64 = _column("int64")
    price_status: NDArray[Any] = _column("uint8")
    click_if_won: NDArray[Any] = _column("uint8")
    conversion_if_won: NDArray[Any] = _column("uint8")
    conversion_time: Int64 = _column("int64")  # µs since the epoch; 0 where there is no conversion
    conversion_value_micros: Int64 = _column("int64")


def deduplicated(events: Events) -> Events:
    """One row per (kind, id), whatever the order in which they come.

    Of several, the one of the smallest (event_time, payload) stays, the payload being all other columns in the
    schema's order; of equal ones the one that became known first.
    """
    payload = (
        events.campaign,
        events.cell,
        events.price_micros,
        events.value_micros,
        events.click_high,
        events.click_low,
        events.number,
    )
    smallest_last = (events.ingest_time, *reversed(payload), events.event_time)
    rows = events.take(np.lexsort((*smallest_last, events.event_low, events.event_high, events.kind)))
    key = np.stack((rows.kind.astype(np.int64), rows.event_high, rows.event_low), axis=1)
    first = np.append(True, (key[1:] != key[:-1]).any(axis=1))[: len(rows)]
    unique = rows.take(first)
    return unique.take(unique.order())


def fold(events: Events, grid: TickGrid, first_tick: int, ticks: int, cells: int) -> TickCounts:
    """Count events into ticks and cells, each id once; auctions that are entered and lost leave no event to count.

    Events outside [first_tick, first_tick + ticks) are left out: a conversion may fall after the run.
    """
    events = deduplicated(events)
    values = np.zeros((ticks, cells, len(COUNTS)), dtype=np.int64)
    tick = grid.tick_of(events.event_time) - first_tick
    inside = (tick >= 0) & (tick < ticks)
    rows, at = events.take(inside), tick[inside]
    for kind, count in ((Kind.IMPRESSION, IMPRESSIONS), (Kind.CLICK, CLICKS), (Kind.CONVERSION, CONVERSIONS)):
        of_kind = rows.kind == kind
        np.add.at(values[:, :, count], (at[of_kind], rows.cell[of_kind]), 1)
    first = (rows.kind == Kind.CONVERSION) & (rows.number == 0)
    np.add.at(values[:, :, CONVERTING_CLICKS], (at[first], rows.cell[first]), 1)
    np.add.at(values[:, :, SPEND], (at, rows.cell), rows.price_micros)
    refund = rows.kind == Kind.REFUND
    for chosen, count in ((~refund, REVENUE), (refund, REFUNDS)):
        np.add.at(values[:, :, count], (at[chosen], rows.cell[chosen]), rows.value_micros[chosen])
    return TickCounts(first_tick, values)
