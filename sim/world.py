"""The simulated world: the markets of a set of campaigns, as an `EventSource`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import CampaignSet, Charging, ControlState, Period
from engine.events import CONVERSIONS, COUNTS, REVENUE, Events, Kind, Opportunities, Status, TickCounts
from engine.policy import Batch
from engine.units import Bool, Int64, TickGrid
from sim.auction import Market, check_call
from sim.drift import log_levels
from sim.exchange import (
    CONVERSION_COLUMNS,
    IMPRESSION_COLUMNS,
    OPPORTUNITY_COLUMNS,
    Buyers,
    Clock,
    Markets,
    hold,
    scratch_for,
    stakes_of,
)
from sim.response import Response
from sim.rng import keys_of
from sim.traffic import Curves

_HOUR_US = 3_600_000_000
_INDEX_BITS, _KIND_BITS = 32, 2


@dataclass(frozen=True)
class WorldFactory:
    """Builds the world of some campaigns of a run; picklable, values only.

    Parameters
    ----------
    campaigns, grid, seed:
        Of the whole run.
    markets:
        The specification of every market, aligned with `campaigns.markets`.
    response:
        Columns over the whole run's campaigns and cells.
    record_events, record_opportunities:
        What to emit beside the counts. Recording changes no draw.
    """

    campaigns: CampaignSet
    grid: TickGrid
    seed: int
    markets: tuple[Market, ...]
    response: Response
    record_events: bool = False
    record_opportunities: bool = False

    def __post_init__(self) -> None:
        if len(self.markets) != len(self.campaigns.markets):
            raise ValueError(
                f"markets (={len(self.markets)}) must be {len(self.campaigns.markets)}, as in the campaign set"
            )
        self.response.check_size(self.campaigns)

    def __call__(self, members: Int64) -> World:
        """The world of the campaigns at these ascending positions, which are all those of their markets."""
        return World(self, np.asarray(members, dtype=np.int64))


class World:
    """The markets of some campaigns of a run.

    Between calls it holds what each campaign has been charged in its budget period and the conversions still to come,
    and nothing that grows with the run. Every draw belongs to a market's or a campaign's id, so neither the grouping of
    markets into worlds nor the span of a call changes a byte of the outcome.

    Parameters
    ----------
    factory:
        The whole run's specifications.
    members:
        Ascending positions of this world's campaigns in the whole run.
    """

    factual = False

    def __init__(self, factory: WorldFactory, members: Int64) -> None:
        self._factory = factory
        self._members = members
        self._set = factory.campaigns.select(members)
        self._cells = factory.campaigns.cells_of(members)
        self._numbers = np.unique(self._set.market)  # global positions of this world's markets
        split = np.isin(factory.campaigns.market, self._numbers).sum() - len(members)
        if split:
            raise ValueError(f"members must hold whole markets: {split} campaigns of theirs are missing")
        self._specs = [factory.markets[number] for number in self._numbers]
        self._curves = Curves([spec.traffic for spec in self._specs], factory.grid)
        self._buyers = _buyers(self._set, factory.response.select(factory.campaigns, members), factory.seed)
        self._markets = self._columns()
        self._log_level = log_levels(self._specs, self._curves.shape, self._markets.key)
        self._scratch = scratch_for(int(np.diff(self._markets.start).max(initial=0)))
        self._charged = np.zeros(len(members), dtype=np.int64)
        self._pending = np.empty((0, len(CONVERSION_COLUMNS)), dtype=np.int64)

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:
        """Hold the auctions of the ticks [from_tick, to_tick) under the members' controls."""
        grid = self._factory.grid
        check_call(grid, from_tick, to_tick, controls, self._set)
        counts = np.zeros((to_tick - from_tick, self._set.cells, len(COUNTS)), dtype=np.int64)
        markets = self._open_markets(from_tick, to_tick)
        converted, impressions, opportunities, qualities = hold(
            markets,
            self._buyers,
            stakes_of(self._buyers, controls),
            clock(grid, from_tick, to_tick),
            self._charged,
            counts,
            self._scratch,
            (self._factory.record_events, self._factory.record_opportunities),
        )
        conversions = self._settle(converted, to_tick)
        at = grid.tick_of(conversions[:, _TIME]) - from_tick
        np.add.at(counts[:, :, CONVERSIONS], (at, conversions[:, _CELL]), 1)
        np.add.at(counts[:, :, REVENUE], (at, conversions[:, _CELL]), conversions[:, _VALUE])
        return Batch(
            TickCounts(from_tick, counts),
            self._events(impressions, conversions),
            self._opportunities(opportunities, qualities),
            int(markets.auctions.sum()),
        )

    def state(self) -> tuple[Int64, Int64]:
        """What each campaign has been charged in its budget period, and the conversions still to come."""
        return self._charged.copy(), self._pending.copy()

    def restore(self, state: tuple[Int64, Int64]) -> None:
        """Go back to a state: what follows is then as it was, or would have been."""
        charged, pending = state
        self._charged, self._pending = charged.copy(), pending.copy()

    def _columns(self) -> Markets:
        """What stays as it is over the run; price level and auctions are for a span to fill in."""
        seat = np.argsort(self._set.market, kind="stable").astype(np.int64)
        start = np.append(np.searchsorted(self._set.market[seat], self._numbers), seat.size).astype(np.int64)
        names = [self._factory.campaigns.markets[number] for number in self._numbers]
        return Markets(
            key=keys_of(self._factory.seed, "market", names),
            start=start,
            seat=seat,
            sigma=np.array([spec.price_sigma for spec in self._specs], dtype=np.float64),
            reserve=np.array([spec.reserve_micros for spec in self._specs], dtype=np.int64),
            first_price=np.array([spec.first_price for spec in self._specs], dtype=np.bool_),
            log_level=np.empty((0, len(self._specs))),
            auctions=np.empty((0, len(self._specs)), dtype=np.int64),
        )

    def _open_markets(self, from_tick: int, to_tick: int) -> Markets:
        auctions = self._curves.arrivals(self._markets.key, from_tick, to_tick)
        return self._markets._replace(log_level=self._log_level[from_tick:to_tick], auctions=auctions)

    def _settle(self, converted: Int64, to_tick: int) -> Int64:
        """Take the conversions that happen before a tick opens; those after stay pending."""
        waiting = np.concatenate((self._pending, converted))
        due = self._factory.grid.tick_of(waiting[:, _TIME]) < to_tick
        self._pending = waiting[~due]
        return waiting[due]

    def _events(self, impressions: Int64, conversions: Int64) -> Events:
        if not self._factory.record_events:
            return Events.empty()
        row = {name: impressions[:, at] for at, name in enumerate(IMPRESSION_COLUMNS)}
        per_click = self._buyers.per_click[row["campaign"]]
        price, zero = row["price"], np.zeros(len(impressions), dtype=np.int64)
        high, low = self._event_id(row["market"], row["campaign"], row["tick"], row["index"])
        seen = Events(
            kind=np.full(len(impressions), Kind.IMPRESSION, dtype=np.uint8),
            event_high=high,
            event_low=low + Kind.IMPRESSION,
            campaign=self._members[row["campaign"]].astype(np.int32),
            cell=self._cells[row["cell"]].astype(np.int32),
            event_time=row["time"],
            ingest_time=row["time"],
            price_micros=np.where(per_click, 0, price),
            value_micros=zero,
            click_high=zero,
            click_low=zero,
        )
        clicks = seen.take(row["clicked"] == 1)
        clicked = np.flatnonzero(row["clicked"])
        clicks = Events(
            **{
                **clicks.columns(),
                "kind": np.full(clicked.size, Kind.CLICK, dtype=np.uint8),
                "event_low": low[clicked] + Kind.CLICK,
                "price_micros": np.where(per_click, price, 0)[clicked],
            }
        )
        events = Events.concatenate([seen, clicks, self._conversion_events(conversions)])
        tick = self._factory.grid.tick_of(events.event_time)
        return events.take(np.lexsort((events.event_low, events.event_high, events.event_time, tick)))

    def _conversion_events(self, conversions: Int64) -> Events:
        row = {name: conversions[:, at] for at, name in enumerate(CONVERSION_COLUMNS)}
        high, low = self._event_id(row["market"], row["campaign"], row["tick"], row["index"])
        return Events(
            kind=np.full(len(conversions), Kind.CONVERSION, dtype=np.uint8),
            event_high=high,
            event_low=low + Kind.CONVERSION,
            campaign=self._members[row["campaign"]].astype(np.int32),
            cell=self._cells[row["cell"]].astype(np.int32),
            event_time=row["time"],
            ingest_time=row["time"],
            price_micros=np.zeros(len(conversions), dtype=np.int64),
            value_micros=row["value"],
            click_high=high,
            click_low=low + Kind.CLICK,
        )

    def _event_id(self, market: Int64, campaign: Int64, tick: Int64, index: Int64) -> tuple[Int64, Int64]:
        """The two halves of an event's id, but for its kind: (tick, market) and (campaign, auction)."""
        high = (tick << _INDEX_BITS) | self._numbers[market]
        low = (self._members[campaign] << (_INDEX_BITS + _KIND_BITS)) | (index << _KIND_BITS)
        return high, low

    def _opportunities(self, rows: Int64, qualities: NDArray[Any]) -> Opportunities:
        if not self._factory.record_opportunities:
            return Opportunities.empty()
        row = {name: rows[:, at] for at, name in enumerate(OPPORTUNITY_COLUMNS)}
        recorded = Opportunities(
            market=self._numbers[row["market"]].astype(np.int32),
            campaign=self._members[row["campaign"]].astype(np.int32),
            cell=self._cells[row["cell"]].astype(np.int32),
            tick=row["tick"].astype(np.int32),
            index=row["index"].astype(np.int32),
            event_time=row["time"],
            value=qualities[:, 0],
            predicted_ctr=qualities[:, 1],
            price_micros=row["price"],
            price_status=np.full(len(rows), Status.KNOWN, dtype=np.uint8),
            click_if_won=row["clicked"].astype(np.uint8),
            conversion_if_won=row["converted"].astype(np.uint8),
            conversion_time=row["conversion_time"],
            conversion_value_micros=row["conversion_value"],
        )
        return recorded.take(np.lexsort((recorded.campaign, recorded.index, recorded.market, recorded.tick)))


_CELL, _TIME, _VALUE = (CONVERSION_COLUMNS.index(name) for name in ("cell", "time", "value"))


def clock(grid: TickGrid, from_tick: int, to_tick: int) -> Clock:
    """Where a span of ticks lies in event time."""
    return Clock(
        from_tick, grid.opens(from_tick), grid.tick_us, new_days(grid)[from_tick:to_tick], grid.opens(grid.ticks)
    )


def new_days(grid: TickGrid) -> Bool:
    """Whether a tick is the first of its local day; shape [ticks]."""
    return np.append(True, grid.closes_day[:-1])


def _buyers(campaigns: CampaignSet, response: Response, seed: int) -> Buyers:
    return Buyers(
        key=keys_of(seed, "campaign", campaigns.ids),
        creative_start=campaigns.creative_start,
        cells=np.diff(campaigns.creative_start),
        reach=response.reach,
        sigma=response.value_sigma,
        discount=np.exp(-0.5 * response.value_sigma**2),
        per_click=campaigns.charging == Charging.PER_CLICK,
        daily=campaigns.period == Period.DAY,
        ctr=response.ctr,
        cvr=response.cvr,
        delay_us=response.delay_hours * _HOUR_US,
        worth=response.value_micros,
        worth_sigma=response.conversion_sigma,
    )
