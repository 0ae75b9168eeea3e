"""The simulated world: the markets of a set of campaigns, as an `EventSource`.

Its stages follow each other, each a room of its own: traffic and price level (`sim.traffic`, `sim.drift`), auctions
(`sim.exchange`), what follows clicks (`sim.conversions`), who was reached (`sim.people`), and to whom conversions are
credited (`sim.attribution`). Between them travel tables of whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import CampaignSet, ControlState, places_of
from engine.events import (
    CONVERSIONS,
    CONVERTING_CLICKS,
    COUNTS,
    PEOPLE,
    REFUNDS,
    REVENUE,
    Events,
    Opportunities,
    TickCounts,
)
from engine.policy import Batch
from engine.units import Float64, Int64, TickGrid
from sim.attribution import BOOKING_COLUMNS, Attribution, Bookkeeper, last_click, truth_counts
from sim.auction import Market, check_call
from sim.columns import Markets, Past, buyers_of, clock, markets_of, room_for, segments_of, stakes_of
from sim.conversions import CONVERSION_COLUMNS, Conversions, after_of, conversions_of, refunds_of
from sim.drift import log_levels
from sim.exchange import CLICK_COLUMNS, hold
from sim.mishaps import Mishap, spoil
from sim.people import Audience, People, Reach, people_of, persons_of
from sim.prices import told, won_under
from sim.recording import BOOKED_COLUMNS, Recorder
from sim.response import Response
from sim.rng import key_of
from sim.traffic import Curves
from sim.troubles import NO_TROUBLES, Factors, Troubles, reported

_HOUR_US = 3_600_000_000
_CAMPAIGN, _CELL, _TICK, _TIME = (CLICK_COLUMNS.index(name) for name in ("campaign", "cell", "tick", "time"))
_VALUE, _NUMBER = (CONVERSION_COLUMNS.index(name) for name in ("value", "number"))


@dataclass(frozen=True)
class WorldFactory:
    """Builds the world of some campaigns of a run; picklable, values only.

    Parameters
    ----------
    campaigns, grid, seed:
        Of the whole run.
    markets:
        The specification of every market, aligned with `campaigns.markets`.
    response, conversions:
        Columns over the whole run's campaigns and creatives.
    people:
        The account's audiences, as far as their people are counted.
    attribution:
        How conversions are credited; None: each to the campaign that caused it.
    troubles:
        What goes wrong, and when.
    mishaps:
        What goes wrong with recorded events.
    record_events, record_opportunities:
        What to emit beside the counts. Recording changes no draw.
    tell_prices:
        Whether to tell wins by their price; nor does this.
    """

    campaigns: CampaignSet
    grid: TickGrid
    seed: int
    markets: tuple[Market, ...]
    response: Response
    conversions: Conversions
    people: tuple[Audience, ...] = ()
    attribution: Attribution | None = None
    troubles: Troubles = NO_TROUBLES
    mishaps: tuple[Mishap, ...] = ()
    record_events: bool = False
    record_opportunities: bool = False
    tell_prices: bool = False

    def __post_init__(self) -> None:
        if len(self.markets) != len(self.campaigns.markets):
            raise ValueError(
                f"markets (={len(self.markets)}) must be {len(self.campaigns.markets)}, as in the campaign set"
            )
        self.response.check_size(self.campaigns)
        if len(self.conversions) != len(self.campaigns):
            raise ValueError(f"conversions (of length {len(self.conversions)}) must be of length {len(self.campaigns)}")
        self._check_segments()
        if self.record_events and self.attribution is not None and self.attribution.credit is not last_click:
            raise ValueError(
                "events cannot be recorded where a conversion is credited to several clicks: use last_click"
            )
        if self.record_opportunities:
            self._check_recordable()

    def _check_segments(self) -> None:
        known = [audience.name for audience in self.people]
        told_apart = self.campaigns.audiences or ((),) * len(self.markets)
        for name, market, audiences in zip(self.campaigns.markets, self.markets, told_apart, strict=True):
            if len(market.segments) != max(len(audiences), 1):
                raise ValueError(
                    f"market {name} has {len(market.segments)} segments: they must be its {len(audiences)} audiences"
                )
            for segment in market.segments:
                if segment.audience is not None and segment.audience not in known:
                    raise ValueError(
                        f"audience (={segment.audience}) of market {name} must be among the people: add it"
                    )
        counted = np.array([all(each.audience for each in market.segments) for market in self.markets], dtype=np.bool_)
        wearing = (self.response.wear > 0) & ~counted[self.campaigns.market[self.campaigns.creative_campaign]]
        if wearing.any() or (self.attribution is not None and not counted.all()):
            what = "attribution" if not wearing.any() else "a creative that wears out"
            raise ValueError(f"{what} needs to know the people of its markets: say how many there are")

    def _check_recordable(self) -> None:
        """An opportunity is recorded as the one price that wins it, and as one conversion that would follow."""
        slots = max((len(market.exposure) for market in self.markets), default=1)
        seen = min((market.exposure[0] for market in self.markets), default=1.0)
        several = self.conversions.per_click.max(initial=1) > 1
        refunded = self.conversions.refund_rate.max(initial=0) > 0
        worn = self.response.wear.max(initial=0) > 0
        troubled = self.troubles != NO_TROUBLES or any(market.bots for market in self.markets)
        if slots > 1 or seen < 1 or several or refunded or worn or troubled or self.attribution is not None:
            raise ValueError(
                "opportunities cannot be recorded where one has several slots or a slot that may not be seen, several "
                "conversions or refunds, creatives that wear out, attribution or troubles: record events instead"
            )

    @property
    def joined(self) -> Int64:
        """A number for every market, equal where their campaigns are credited for the same people's conversions."""
        group = np.arange(len(self.markets))
        if self.attribution is None:
            return group
        first: dict[str | None, int] = {}
        for place, market in enumerate(self.markets):
            for segment in market.segments:
                other = first.setdefault(segment.audience, place)
                group[group == group[place]] = group[other]
        return group

    def __call__(self, members: Int64) -> World:
        """The world of the campaigns at these ascending positions, which are all those of their joined markets."""
        return World(self, np.asarray(members, dtype=np.int64))


class WorldState(NamedTuple):
    """What a world remembers between calls: nothing that grows with the run."""

    past: Past
    conversions: Int64  # those still to come
    refunds: Int64  # likewise
    reach: NDArray[Any] | None
    attribution: Any


class World:
    """The markets of some campaigns of a run.

    Every draw belongs to a market's, a campaign's or an audience's id, so neither the grouping of markets into worlds
    nor the span of a call changes a byte of the outcome.

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
        self._set = factory.campaigns.select(members)
        numbers = np.unique(self._set.market)  # global positions of this world's markets
        joined = factory.joined
        ours = np.isin(joined, joined[numbers])
        split = ours[factory.campaigns.market].sum() - len(members)
        if split:
            raise ValueError(f"members must hold whole markets: {split} campaigns of theirs are missing")
        self._specs = [factory.markets[number] for number in numbers]
        self._curves = Curves([spec.traffic for spec in self._specs], factory.grid)
        response = factory.response.select(factory.campaigns, members)
        self._segments = segments_of(self._set, self._specs, numbers)
        self._buyers = buyers_of(self._set, response, self._segments, factory.people, factory.grid, factory.seed)
        self._markets = markets_of(self._set, self._specs, numbers, factory.grid, factory.seed)
        self._log_level = log_levels(self._specs, self._curves.shape, self._markets.key)
        cells = self._set.cells
        most = int(np.diff(self._markets.start).max(initial=0))
        self._room = room_for(most, max((len(spec.exposure) for spec in self._specs), default=1), cells)
        self._past = Past(np.zeros(len(members), dtype=np.int64), np.zeros(cells), np.zeros(len(self._specs)))
        self._follow_clicks(factory.conversions.select(members), members)
        self._recorder = Recorder(numbers, members, factory.campaigns.cells_of(members), self._buyers.per_click)
        self._joined = joined[numbers]
        self._count_people()

    def _follow_clicks(self, conversions: Conversions, members: Int64) -> None:
        """What the stages after a click need, per campaign and cell."""
        campaigns, troubles = self._set, self._factory.troubles
        self._after = after_of(conversions, self._buyers.key)
        owner = campaigns.cell_campaign
        self._rate = conversions.rate[owner] * [each.cvr for each in self._segments]
        self._worth = conversions.value_micros[owner] * [each.value for each in self._segments]
        self._rates = Factors(troubles.rates, members)
        self._reports = Factors(troubles.reports, members)
        self._approvals = Factors(troubles.approvals, places_of(self._factory.campaigns.creative_start, members))
        self._pending = np.empty((0, len(CONVERSION_COLUMNS)), dtype=np.int64)
        self._refunds = np.empty((0, len(BOOKED_COLUMNS)), dtype=np.int64)

    def _count_people(self) -> None:
        """Who the people are, as far as anybody counts them."""
        factory, campaigns = self._factory, self._set
        self._reach: Reach | None = None
        self._bookkeeper: Bookkeeper | None = None
        names = [audience.name for audience in factory.people]
        self._audience = np.array(
            [-1 if each.audience is None else names.index(each.audience) for each in self._segments], dtype=np.int64
        )
        if not (self._audience >= 0).any():
            return
        self._people = _everybody(factory.people, factory.seed)
        everybody = int(self._people.first[-1])
        self._reach = Reach(len(campaigns), everybody)
        if factory.attribution is not None:
            self._bookkeeper = Bookkeeper(
                factory.attribution, self._buyers.key, self._joined, campaigns.cells, everybody
            )

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:
        """Hold the auctions of the ticks [from_tick, to_tick) under the members' controls."""
        grid, factory = self._factory.grid, self._factory
        check_call(grid, from_tick, to_tick, controls, self._set)
        counts = np.zeros((to_tick - from_tick, self._set.cells, len(COUNTS)), dtype=np.int64)
        markets = self._open_markets(from_tick, to_tick)
        won = won_under(controls.bid, asked=factory.tell_prices)
        clicks, impressions, opportunities, qualities = hold(
            markets,
            self._buyers,
            stakes_of(self._buyers, controls, self._approvals.over(from_tick, to_tick) > 0),
            clock(grid, from_tick, to_tick),
            self._past,
            counts,
            self._room,
            (factory.record_events or self._reach is not None, factory.record_opportunities),
            won,
        )
        self._meet(impressions, counts, from_tick)
        rate = self._rate_of(clicks, from_tick, to_tick)
        conversions, refunds, truth = self._settle(clicks, rate, counts, from_tick, to_tick)
        prices = told(won, asked=factory.tell_prices)
        return Batch(
            TickCounts(from_tick, counts),
            self._events(impressions, conversions, refunds),
            self._opportunities(opportunities, qualities),
            int(markets.auctions.sum()),
            truth,
            prices,
        )

    def state(self) -> WorldState:
        """What was charged in the budget period, seen, felt, and is still to come."""
        past = _copied(self._past)
        reach = None if self._reach is None else self._reach.state()
        attribution = None if self._bookkeeper is None else self._bookkeeper.state()
        return WorldState(past, self._pending.copy(), self._refunds.copy(), reach, attribution)

    def restore(self, state: WorldState) -> None:
        """Go back to a state: what follows is then as it was, or would have been."""
        self._past = _copied(state.past)
        self._pending, self._refunds = state.conversions.copy(), state.refunds.copy()
        if self._reach is not None and state.reach is not None:
            self._reach.restore(state.reach)
        if self._bookkeeper is not None:
            self._bookkeeper.restore(state.attribution)

    def _open_markets(self, from_tick: int, to_tick: int) -> Markets:
        auctions = self._curves.arrivals(self._markets.key, from_tick, to_tick)
        bots = self._markets.bots[from_tick:to_tick] if len(self._markets.bots) > 1 else self._markets.bots
        return self._markets._replace(log_level=self._log_level[from_tick:to_tick], auctions=auctions, bots=bots)

    def _meet(self, impressions: Int64, counts: Int64, from_tick: int) -> None:
        """Count the people who are reached for the first time."""
        if self._reach is None:
            return
        counted = impressions[self._audience[impressions[:, _CELL]] >= 0]
        new = counted[self._reach.update(counted, self._persons(counted))]
        np.add.at(counts[:, :, PEOPLE], (new[:, _TICK] - from_tick, new[:, _CELL]), 1)

    def _persons(self, rows: Int64) -> Int64:
        return persons_of(rows, self._markets.key, self._audience[rows[:, _CELL]], self._people)

    def _rate_of(self, clicks: Int64, from_tick: int, to_tick: int) -> Float64:
        """How likely each click converts."""
        rate: Float64 = self._rate[clicks[:, _CELL]]
        if self._rates:
            rate *= self._rates.over(from_tick, to_tick)[clicks[:, _TICK] - from_tick, clicks[:, _CAMPAIGN]]
        return np.minimum(rate, 1.0)

    def _settle(
        self, clicks: Int64, rate: Float64, counts: Int64, from_tick: int, to_tick: int
    ) -> tuple[Int64, Int64, Int64 | None]:
        """Book the conversions and refunds that happen before a tick opens; those after stay pending."""
        grid = self._factory.grid
        ends, closes = grid.opens(grid.ticks), grid.opens(to_tick)
        new = conversions_of(clicks, rate, self._worth[clicks[:, _CELL]], self._after, ends)
        due, self._pending = _due(np.concatenate((self._pending, new)), closes)
        if self._reports:
            share = self._reports.over(from_tick, to_tick)[grid.tick_of(due[:, _TIME]) - from_tick, due[:, _CAMPAIGN]]
            due = reported(due, share, self._buyers.key)
        booked, truth = self._book(clicks, due, closes)
        refunds, self._refunds = _due(np.concatenate((self._refunds, self._refunded(due, booked, ends))), closes)
        first = booked[booked[:, _NUMBER] == 0]
        for column, rows, amount in (
            (CONVERSIONS, booked, _WHOLE),
            (CONVERTING_CLICKS, first, _WHOLE),
            (REVENUE, booked, _VALUE),
            (REFUNDS, refunds, _VALUE),
        ):
            at = grid.tick_of(rows[:, _TIME]) - from_tick, rows[:, _TO_CELL]
            np.add.at(counts[:, :, column], at, rows[:, amount])
        told = None if truth is None else truth_counts(truth, grid, from_tick, to_tick - from_tick, self._set.cells)
        return booked, refunds, told

    def _book(self, clicks: Int64, due: Int64, closes: int) -> tuple[Int64, Int64 | None]:
        """To which clicks conversions are credited, int64[rows, len(BOOKED_COLUMNS)]; and the truth about them."""
        if self._bookkeeper is None:
            return np.column_stack((due, due[:, :_TIME], np.ones(len(due), dtype=np.int64), np.arange(len(due)))), None
        booked = self._bookkeeper.book(clicks, self._persons(clicks), due, self._persons(due), closes)
        row = {name: booked.rows[:, at] for at, name in enumerate(BOOKING_COLUMNS)}
        cause = due[booked.conversion]
        cause[:, _VALUE] = row["revenue"]
        return np.column_stack((cause, booked.rows[:, :_TIME], row["conversions"], booked.conversion)), booked.truth

    def _refunded(self, due: Int64, booked: Int64, ends: int) -> Int64:
        """What is given back of conversions, from those that they were credited to; rows as they were booked."""
        numbered = due.copy()
        numbered[:, _VALUE] = np.arange(len(due))
        refunds = refunds_of(numbered, self._after, ends)
        when = np.full(len(due), -1, dtype=np.int64)
        when[refunds[:, _VALUE]] = refunds[:, _TIME]
        rows = booked[when[booked[:, _ORIGIN]] >= 0]
        rows[:, _TIME] = when[rows[:, _ORIGIN]]
        return rows

    def _events(self, impressions: Int64, conversions: Int64, refunds: Int64) -> Events:
        factory = self._factory
        if not factory.record_events:
            return Events.empty()
        events = self._recorder.events(impressions, conversions, refunds)
        return spoil(events, factory.mishaps, key_of(factory.seed, "mishaps", ""), factory.grid)

    def _opportunities(self, rows: Int64, qualities: NDArray[Any]) -> Opportunities:
        if not self._factory.record_opportunities:
            return Opportunities.empty()
        clicks = rows[rows[:, -1] > 0][:, : len(CLICK_COLUMNS)]
        rate = self._rate_of(clicks, 0, self._factory.grid.ticks)
        would = conversions_of(clicks, rate, self._worth[clicks[:, _CELL]], self._after, np.iinfo(np.int64).max)
        return self._recorder.opportunities(rows, qualities, would)


_TO_CELL, _WHOLE, _ORIGIN = (BOOKED_COLUMNS.index(name) for name in ("to_cell", "whole", "origin"))


@lru_cache(maxsize=2)
def _everybody(audiences: tuple[Audience, ...], seed: int) -> People:
    """Everybody, drawn once for the world and once for its twin: a million people of unequal activity take a second."""
    return people_of(audiences, seed)


def _copied(past: Past) -> Past:
    return Past(past.charged.copy(), past.frequency.copy(), past.pressure.copy())


def _due(rows: Int64, closes: int) -> tuple[Int64, Int64]:
    """Those that happen before an event time, and the others."""
    now = rows[:, _TIME] < closes
    return rows[now], rows[~now]
