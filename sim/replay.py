"""Replayed logs as event sources: auctions against the bids in force, intervals as they were."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import CampaignSet, Charging, ControlState, Period
from engine.events import (
    BIDS,
    CLICKS,
    CONVERSIONS,
    CONVERTING_CLICKS,
    COUNTS,
    IMPRESSIONS,
    OPPORTUNITIES,
    OUTSIDE_SUPPORT,
    REVENUE,
    SPEND,
    Events,
    Opportunities,
    Status,
    TickCounts,
)
from engine.policy import Batch
from engine.units import Bool, Int64, TickGrid
from sim.auction import bid_for, charge, check_call, most_charged
from sim.kernel import kernel
from sim.prices import Won, count_win, told, won_under

_NO_BID = -1


@dataclass(frozen=True)
class AuctionReplayFactory:
    """Builds the replay of some campaigns of a log; picklable, values only.

    Parameters
    ----------
    campaigns, grid:
        Of the whole run.
    opportunities:
        The log, positions being those of the whole run; any order.
    first_price:
        Per market of the set, whether the winner pays its own bid; empty: none does.
    ties_win:
        Whether a bid that equals the price wins (`>=`, as our own records mean it) or not (`>`).
    logged_bid_micros:
        The highest price the log can speak for, where one is known: bids above it are counted as outside its support.
    tell_prices:
        Whether to tell wins by their price.
    """

    campaigns: CampaignSet
    grid: TickGrid
    opportunities: Opportunities
    first_price: tuple[bool, ...] = ()
    ties_win: bool = True
    logged_bid_micros: int | None = None
    tell_prices: bool = False

    def __call__(self, members: Int64) -> AuctionReplay:
        """The replay of the campaigns at these ascending positions: it keeps their rows and no others."""
        members = np.asarray(members, dtype=np.int64)
        if len(members) == len(self.campaigns):
            return AuctionReplay(self, members, self.opportunities)
        return AuctionReplay(self, members, self.opportunities.take(np.isin(self.opportunities.campaign, members)))


class AuctionReplay:
    """Recorded auctions, entered again with the bids in force, under the world's own rules of charging and budgets.

    A row is won where the bid in force beats the recorded least winning bid; it is then charged as in the world and has
    the recorded outcome. A row whose price is unknown is never won, and a bid on it is outside the log's support.

    Where campaigns of the account met in a recorded auction, each row's price holds the *recorded* bids of the others.
    Under the controls of the recording run the replay gives its very numbers. Under other controls each campaign is
    judged as if the others still bid as recorded: one that gives way frees no auction for another, two may win the
    same, and a price may be that of a bid nobody makes any more. Counterfactuals of campaigns that compete with each
    other belong in the simulated world.

    Parameters
    ----------
    factory:
        The whole run's specifications and rules.
    members:
        Ascending positions of this replay's campaigns in the whole run.
    rows:
        Their opportunities.
    """

    factual = False

    def __init__(self, factory: AuctionReplayFactory, members: Int64, rows: Opportunities) -> None:
        self._grid = factory.grid
        self._ties_win = factory.ties_win
        self._tell_prices = factory.tell_prices
        self._logged_bid = _NO_BID if factory.logged_bid_micros is None else factory.logged_bid_micros
        campaigns = self._campaigns = factory.campaigns.select(members)
        _check_places(rows, factory.campaigns)
        self._cells = campaigns.cells
        self._per_click: Bool = campaigns.charging == Charging.PER_CLICK
        self._daily: Bool = campaigns.period == Period.DAY
        inside = (rows.tick >= 0) & (rows.tick < factory.grid.ticks)
        if not inside.all():
            raise ValueError(f"tick (={rows.tick[~inside][0]}) of an opportunity must be in [0, {factory.grid.ticks})")
        if not _in_order(rows):
            rows = rows.take(np.lexsort((rows.campaign, rows.index, rows.market, rows.tick)))
        first_price = np.array(factory.first_price or [False] * len(factory.campaigns.markets), dtype=np.bool_)
        self.rows = AuctionRows(
            campaign=np.searchsorted(members, rows.campaign).astype(np.int32),
            cell=np.searchsorted(factory.campaigns.cells_of(members), rows.cell).astype(np.int32),
            tick=rows.tick,
            value=rows.value,
            ctr=rows.predicted_ctr,
            price=rows.price_micros,
            known=rows.price_status == Status.KNOWN,
            first_price=first_price[rows.market],
            clicked=rows.click_if_won != 0,
        )
        self._converts: Bool = (rows.conversion_if_won != 0) & (rows.click_if_won != 0)
        self._conversion_time = rows.conversion_time
        self._conversion_value = rows.conversion_value_micros
        place = np.stack((rows.tick, rows.market, rows.index), axis=1)
        new_auction = np.append(True, (place[1:] != place[:-1]).any(axis=1))[: len(rows)]
        self._auctions_before = np.append(0, np.cumsum(new_auction))
        self._charged = np.zeros(len(members), dtype=np.int64)
        self._pending = np.empty((0, 3), dtype=np.int64)  # time, cell, value

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:
        """Replay the auctions of the ticks [from_tick, to_tick) under the members' controls."""
        check_call(self._grid, from_tick, to_tick, controls, self._campaigns)
        stakes = (controls.bid.astype(np.int64), controls.budget.astype(np.int64), controls.paused)
        return self.enter(self.rows, from_tick, to_tick, stakes)

    def enter(self, rows: AuctionRows, from_tick: int, to_tick: int, stakes: tuple[Int64, Int64, Bool]) -> Batch:
        """Enter the auctions of a span of these rows; stakes are the bid, budget and pause of every member."""
        start, stop = np.searchsorted(rows.tick, (from_tick, to_tick))
        counts = np.zeros((to_tick - from_tick, self._cells, len(COUNTS)), dtype=np.int64)
        won = np.zeros(stop - start, dtype=np.bool_)
        by_price = won_under(stakes[0], asked=self._tell_prices)
        rules = (self._ties_win, self._logged_bid)
        buyers = (self._per_click, self._daily)
        new_day = np.append(True, self._grid.closes_day[:-1])[from_tick:to_tick]
        _replay(rows, start, stop, buyers, stakes, rules, from_tick, new_day, self._charged, counts, won, by_price)
        self._book_conversions(start + np.flatnonzero(won & self._converts[start:stop]), from_tick, counts)
        auctions = int(self._auctions_before[stop] - self._auctions_before[start])
        prices = told(by_price, asked=self._tell_prices)
        nothing = Events.empty(), Opportunities.empty()
        return Batch(TickCounts(from_tick, counts), *nothing, auctions, prices=prices)

    def state(self) -> tuple[Int64, Int64]:
        """What was charged in the period, and the conversions still to come."""
        return self._charged.copy(), self._pending

    def restore(self, state: tuple[Int64, Int64]) -> None:
        """Go back to a state."""
        charged, self._pending = state
        self._charged = charged.copy()

    def _book_conversions(self, rows: Int64, from_tick: int, counts: Int64) -> None:
        converted = (self._conversion_time[rows], self.rows.cell[rows], self._conversion_value[rows])
        waiting = np.concatenate((self._pending, np.stack(converted, axis=1).astype(np.int64)))
        tick = np.maximum(self._grid.tick_of(waiting[:, 0]), from_tick)
        due = tick < from_tick + len(counts)
        self._pending = waiting[~due & (tick < self._grid.ticks)]
        for count in (CONVERSIONS, CONVERTING_CLICKS):  # a recorded click leads to one at most
            np.add.at(counts[:, :, count], (tick[due] - from_tick, waiting[due, 1]), 1)
        np.add.at(counts[:, :, REVENUE], (tick[due] - from_tick, waiting[due, 1]), waiting[due, 2])


def _check_places(rows: Opportunities, campaigns: CampaignSet) -> None:
    """Refuse rows whose creative is not one of their campaign's, or whose campaign the run does not have."""
    owner = np.append(campaigns.cell_campaign, -1)
    owns = owner[np.where((rows.cell >= 0) & (rows.cell < campaigns.cells), rows.cell, -1)] == rows.campaign
    if not (owns & (rows.campaign >= 0)).all():
        row = int(np.argmin(owns & (rows.campaign >= 0)))
        raise ValueError(
            f"cell (={rows.cell[row]}) of an opportunity must be one of its campaign (={rows.campaign[row]})"
        )


def _in_order(rows: Opportunities) -> bool:
    """Whether rows are sorted by (tick, market, index, campaign), as records are: cheaper to see than to sort."""
    settled = np.zeros(max(len(rows) - 1, 0), dtype=np.bool_)
    for column in (rows.tick, rows.market, rows.index, rows.campaign):
        if ((column[1:] < column[:-1]) & ~settled).any():
            return False
        settled |= column[1:] > column[:-1]
    return True


class AuctionRows(NamedTuple):
    """Opportunities as the kernel reads them, in order of tick, positions being the replay's own."""

    campaign: NDArray[Any]  # int32
    cell: NDArray[Any]  # int32
    tick: NDArray[Any]  # int32
    value: NDArray[Any]  # float64
    ctr: NDArray[Any]  # float64
    price: Int64
    known: Bool
    first_price: Bool
    clicked: Bool


@kernel
def _replay(
    rows: AuctionRows,
    start: int,
    stop: int,
    buyers: Any,
    stakes: Any,
    rules: Any,
    from_tick: int,
    new_day: Bool,
    charged: Int64,
    counts: Int64,
    won: Bool,
    by_price: Won,
) -> None:
    """Enter rows [start, stop) with the bids in force; adds to `charged` and `counts`, and marks what was won.

    What was won is counted by its price too, where `by_price` has room for it.
    """
    per_click, daily = buyers
    bids, budgets, paused = stakes
    ties_win, logged_bid = rules
    opened = 0  # ticks of the span whose opening has been seen
    for row in range(start, stop + 1):
        t = rows.tick[row] - from_tick if row < stop else len(new_day) - 1
        while opened <= t:
            if new_day[opened]:
                for campaign in range(charged.size):
                    if daily[campaign]:
                        charged[campaign] = 0
            opened += 1
        if row == stop:
            return
        c, cell = rows.campaign[row], rows.cell[row]
        counts[t, cell, OPPORTUNITIES] += 1
        bid = bid_for(bids[c], rows.value[row])
        if paused[c] or bid < 1 or most_charged(bid, rows.ctr[row], per_click[c]) > budgets[c] - charged[c]:
            continue
        counts[t, cell, BIDS] += 1
        price, known = rows.price[row], rows.known[row]
        counts[t, cell, OUTSIDE_SUPPORT] += not known or (logged_bid >= 0 and bid > logged_bid)
        if not known or bid < price or (bid == price and not ties_win):
            continue
        clicked = rows.clicked[row]
        cost = charge(bid, price, rows.ctr[row], rows.first_price[row], per_click[c], clicked)
        counts[t, cell, IMPRESSIONS] += 1
        counts[t, cell, CLICKS] += clicked
        counts[t, cell, SPEND] += cost
        charged[c] += cost
        won[row - start] = True
        if by_price.counts.shape[0] > 0:
            count_win(by_price, c, bid, price, rows.value[row])


@dataclass(frozen=True)
class Intervals:
    """Interval data: what a cell got in a tick, one row each; rows of the same cell and tick add up."""

    cell: Int64
    tick: Int64
    impressions: Int64
    clicks: Int64
    conversions: Int64
    spend_micros: Int64
    revenue_micros: Int64

    def __len__(self) -> int:
        return len(self.cell)

    def take(self, rows: NDArray[Any]) -> Intervals:
        """Choose rows by index or by mask."""
        return Intervals(*(getattr(self, column.name)[rows] for column in fields(self)))


@dataclass(frozen=True)
class IntervalReplayFactory:
    """Builds the replay of some campaigns of an interval log; picklable, values only.

    Parameters
    ----------
    campaigns, grid:
        Of the whole run.
    intervals:
        The log, cells being those of the whole run; any order.
    """

    campaigns: CampaignSet
    grid: TickGrid
    intervals: Intervals

    def __call__(self, members: Int64) -> IntervalReplay:
        """The replay of the campaigns at these ascending positions: it keeps their rows and no others."""
        cells = self.campaigns.cells_of(np.asarray(members, dtype=np.int64))
        return IntervalReplay(self.grid, cells, self.intervals.take(np.isin(self.intervals.cell, cells)))


class IntervalReplay:
    """Interval outcomes as logged, whatever the controls say.

    Such a log tells what was won and not what was bid, so auctions reached and entered stay zero; nor which conversions
    are of one click, so each counts as its click's only one.

    Parameters
    ----------
    grid:
        The run's calendar.
    cells:
        Ascending positions of this replay's cells in the whole run.
    rows:
        Their intervals.
    """

    factual = True

    def __init__(self, grid: TickGrid, cells: Int64, rows: Intervals) -> None:
        inside = (rows.tick >= 0) & (rows.tick < grid.ticks)
        if not inside.all():
            raise ValueError(f"tick (={rows.tick[~inside][0]}) of an interval must be in [0, {grid.ticks})")
        self._cells = cells
        self._rows = rows.take(np.argsort(rows.tick, kind="stable"))

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:  # noqa: ARG002 - factual
        """Emit the ticks [from_tick, to_tick) as logged."""
        start, stop = np.searchsorted(self._rows.tick, (from_tick, to_tick))
        rows = self._rows.take(np.arange(start, stop))
        counts = np.zeros((to_tick - from_tick, self._cells.size, len(COUNTS)), dtype=np.int64)
        at = (rows.tick - from_tick, np.searchsorted(self._cells, rows.cell))
        for count, column in (
            (IMPRESSIONS, rows.impressions),
            (CLICKS, rows.clicks),
            (CONVERSIONS, rows.conversions),
            (CONVERTING_CLICKS, rows.conversions),
            (SPEND, rows.spend_micros),
            (REVENUE, rows.revenue_micros),
        ):
            np.add.at(counts[:, :, count], at, column)
        return Batch(TickCounts(from_tick, counts), Events.empty(), Opportunities.empty())

    def state(self) -> None:
        """A log has none."""

    def restore(self, state: None) -> None:
        """Nothing to go back to."""
