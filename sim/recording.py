"""Events and opportunities as the run records them, from the tables of a world's stages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.events import Events, Kind, Opportunities, Status
from engine.units import Bool, Int64
from sim.conversions import CONVERSION_COLUMNS
from sim.exchange import BY_PERSON, CLICK_COLUMNS, IMPRESSION_COLUMNS, OPPORTUNITY_COLUMNS

BOOKED_COLUMNS = (*CONVERSION_COLUMNS, *(f"to_{name}" for name in CLICK_COLUMNS[:-1]), "whole", "origin")
"""A conversion, or what is given back of it; the click it is credited to, how many it counts as, and which it is."""

_MARKET_BITS, _NUMBER_BITS, _INDEX_BITS, _KIND_BITS = 24, 12, 32, 2


@dataclass(frozen=True)
class Recorder:
    """Turns world-local positions into those of the whole run.

    markets, members, cells:
        int64[m], int64[n], int64[cells], positions in the whole run.
    per_click:
        bool[n], whether a campaign pays for clicks rather than for impressions.
    """

    markets: Int64
    members: Int64
    cells: Int64
    per_click: Bool

    def events(self, impressions: Int64, conversions: Int64, refunds: Int64) -> Events:
        """Everything that happened in a span; `conversions` and `refunds` are those that are due in it."""
        seen = self._impressions(impressions)
        clicked = np.flatnonzero(impressions[:, IMPRESSION_COLUMNS.index("clicked")])
        price = impressions[:, IMPRESSION_COLUMNS.index("price")]
        per_click = self.per_click[impressions[:, IMPRESSION_COLUMNS.index("campaign")]]
        clicks = Events(
            **{
                **seen.take(clicked).columns(),
                "kind": np.full(clicked.size, Kind.CLICK, dtype=np.uint8),
                "event_low": seen.event_low[clicked] + Kind.CLICK,
                "price_micros": np.where(per_click, price, 0)[clicked],
            }
        )
        later = [self._after(conversions, Kind.CONVERSION), self._after(refunds, Kind.REFUND)]
        events = Events.concatenate([seen, clicks, *later])
        return events.take(events.order())

    def _impressions(self, impressions: Int64) -> Events:
        row = {name: impressions[:, at] for at, name in enumerate(IMPRESSION_COLUMNS)}
        zero = np.zeros(len(impressions), dtype=np.int64)
        high, low = self._event_id(row["market"], row["campaign"], row["tick"], row["index"], zero)
        return Events(
            kind=np.full(len(impressions), Kind.IMPRESSION, dtype=np.uint8),
            event_high=high,
            event_low=low + Kind.IMPRESSION,
            campaign=self.members[row["campaign"]].astype(np.int32),
            cell=self.cells[row["cell"]].astype(np.int32),
            event_time=row["time"],
            ingest_time=row["time"],
            price_micros=np.where(self.per_click[row["campaign"]], 0, row["price"]),
            value_micros=zero,
            click_high=zero,
            click_low=zero,
            number=zero.astype(np.uint16),
        )

    def _after(self, rows: Int64, kind: Kind) -> Events:
        """An event has the id of its cause, and bears the names of the click that it is credited to."""
        row = {name: rows[:, at] for at, name in enumerate(BOOKED_COLUMNS)}
        zero = np.zeros(len(rows), dtype=np.int64)
        high, low = self._event_id(row["market"], row["campaign"], row["tick"], row["index"], row["number"])
        click_high, click_low = self._event_id(
            row["to_market"], row["to_campaign"], row["to_tick"], row["to_index"], zero
        )
        return Events(
            kind=np.full(len(rows), kind, dtype=np.uint8),
            event_high=high,
            event_low=low + kind,
            campaign=self.members[row["to_campaign"]].astype(np.int32),
            cell=self.cells[row["to_cell"]].astype(np.int32),
            event_time=row["time"],
            ingest_time=row["time"],
            price_micros=zero,
            value_micros=row["value"],
            click_high=click_high,
            click_low=click_low + Kind.CLICK,
            number=row["number"].astype(np.uint16),
        )

    def _event_id(
        self, market: Int64, campaign: Int64, tick: Int64, index: Int64, number: Int64
    ) -> tuple[Int64, Int64]:
        """The two halves of an event's id, but for its kind: (tick, number, market) and (campaign, auction)."""
        high = (((tick << _NUMBER_BITS) | number) << _MARKET_BITS) | self.markets[market]
        low = (self.members[campaign] << (_INDEX_BITS + _KIND_BITS)) | (index << _KIND_BITS)
        return high, low

    def opportunities(self, rows: Int64, qualities: NDArray[np.float64], conversions: Int64) -> Opportunities:
        """What could have been bought; `conversions` are those that the clicks among the rows would have led to."""
        row = {name: rows[:, at] for at, name in enumerate(OPPORTUNITY_COLUMNS)}
        after = {name: conversions[:, at] for at, name in enumerate(CONVERSION_COLUMNS)}
        clicked = np.flatnonzero(row["clicked"] & BY_PERSON)
        names = ("market", "campaign", "tick", "index")
        place = _rows_of([row[name][clicked] for name in names], [after[name] for name in names])
        converted = np.zeros(len(rows), dtype=np.uint8)
        happens, worth = np.zeros((2, len(rows)), dtype=np.int64)
        converted[clicked[place]] = 1
        happens[clicked[place]], worth[clicked[place]] = after["time"], after["value"]
        recorded = Opportunities(
            market=self.markets[row["market"]].astype(np.int32),
            campaign=self.members[row["campaign"]].astype(np.int32),
            cell=self.cells[row["cell"]].astype(np.int32),
            tick=row["tick"].astype(np.int32),
            index=row["index"].astype(np.int32),
            event_time=row["time"],
            value=qualities[:, 0],
            predicted_ctr=qualities[:, 1],
            price_micros=row["price"],
            price_status=np.full(len(rows), Status.KNOWN, dtype=np.uint8),
            click_if_won=row["clicked"].astype(np.uint8),
            conversion_if_won=converted,
            conversion_time=happens,
            conversion_value_micros=worth,
        )
        return recorded.take(np.lexsort((recorded.campaign, recorded.index, recorded.market, recorded.tick)))


def _rows_of(table: list[Int64], rows: list[Int64]) -> Int64:
    """Where each of some rows stands in a table of the same columns, which holds all of them."""
    both = np.stack([np.concatenate(pair) for pair in zip(table, rows, strict=True)], axis=1)
    _, place = np.unique(both, axis=0, return_inverse=True)
    at = np.full(place.max(initial=-1) + 1, -1, dtype=np.int64)
    at[place[: len(table[0])]] = np.arange(len(table[0]))
    return at[place[len(table[0]) :]]
