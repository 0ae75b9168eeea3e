"""What the domain needs from the floors above: a source of events, and policies that propose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from engine.actions import Proposals
from engine.campaigns import CampaignSet, ControlState, places_of, scattered
from engine.events import Events, Opportunities, TickCounts
from engine.prices import Prices
from engine.units import Int64, TickGrid


@dataclass(frozen=True)
class View:
    """What is known of n campaigns at the close of a tick; everything a policy may look at.

    tick:
        The tick that just closed; a decision taken on this view acts from `tick + 1`.
    controls:
        The controls in force, with the versions that a proposal has to name.
    recent, period, lifetime:
        int64[n, len(COUNTS)], counts since the last view, since the budget period opened (this tick included), and
        since the run began.
    creatives:
        int64[c, len(COUNTS)], counts since the last view of the creatives of campaigns that have several
        (`CampaignSet.rotating`); None where no campaign has.
    audiences:
        int64[a, len(COUNTS)], likewise of the audiences of campaigns whose market tells several apart
        (`CampaignSet.told_apart`).
    prices:
        Wins since the last view by their price per unit of value; None where no policy looks at them, or nothing can
        tell them.
    """

    tick: int
    controls: ControlState
    recent: Int64
    period: Int64
    lifetime: Int64
    creatives: Int64 | None = None
    audiences: Int64 | None = None
    prices: Prices | None = None

    def select(self, campaigns: CampaignSet, members: Int64) -> View:
        """The view of some campaigns of the set; of all of them, itself."""
        if len(members) == len(campaigns):
            return self
        controls = self.controls.select(campaigns, members)
        counts = self.recent[members], self.period[members], self.lifetime[members]
        creatives = _chosen(self.creatives, campaigns.rotating, campaigns.layout.creative_start, members)
        audiences = _chosen(self.audiences, campaigns.told_apart, campaigns.layout.audience_start, members)
        prices = None if self.prices is None else self.prices.select(members)
        return View(self.tick, controls, *counts, creatives, audiences, prices)

    @classmethod
    def merge(cls, campaigns: CampaignSet, parts: list[tuple[Int64, View]]) -> View:
        """Put the views of shards, each with its members, back into the order of the whole set."""
        if len(parts) == 1:
            return parts[0][1]
        controls = ControlState.merge(campaigns, [(members, view.controls) for members, view in parts])
        recent, period, lifetime = (
            scattered([(members, getattr(view, name)) for members, view in parts])
            for name in ("recent", "period", "lifetime")
        )
        layout = campaigns.layout
        creatives = _merged(
            [(members, view.creatives) for members, view in parts], campaigns.rotating, layout.creative_start
        )
        audiences = _merged(
            [(members, view.audiences) for members, view in parts], campaigns.told_apart, layout.audience_start
        )
        told = [(members, view.prices) for members, view in parts if view.prices is not None]
        prices = Prices.merge(told) if told else None
        return cls(parts[0][1].tick, controls, recent, period, lifetime, creatives, audiences, prices)


def _chosen(rows: Int64 | None, shown: Int64, start: Int64, members: Int64) -> Int64 | None:
    """Of the rows of parts that are shown (creatives or audiences), those of some campaigns."""
    return None if rows is None else rows[_among(shown, start, members)]


def _merged(parts: list[tuple[Int64, Int64 | None]], shown: Int64, start: Int64) -> Int64 | None:
    """The rows of all parts that are shown, from those of each shard's members."""
    known = [(_among(shown, start, members), rows) for members, rows in parts if rows is not None]
    return scattered(known) if known else None


def _among(shown: Int64, start: Int64, members: Int64) -> Int64:
    """Where the parts of some campaigns stand among those shown, as far as they are."""
    chosen = places_of(start, members)
    places = np.searchsorted(shown, chosen)
    found = places < len(shown)
    found[found] = shown[places[found]] == chosen[found]
    return places[found]


@runtime_checkable
class Policy(Protocol):
    """Decides: maps a view and its own memory to proposals and the next memory.

    A policy is deterministic, keeps nothing between calls but the memory it returns (picklable, not modified in place),
    and judges nothing: the guard does. `start` gets the campaigns it is responsible for and the run's calendar; the
    views it is given later are of those campaigns alone, and it names them by their position among them.

    One that looks at `View.prices` says so by a class attribute, `looks_at_prices = True`; without it, it does not.
    Counting them costs time, so that a run's source is asked to tell them only where a policy looks, and such a policy
    is never run without them: whoever looks finds `Prices` in every view, empty where nothing was won.
    """

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Any:
        """The memory before the first view."""
        ...

    def propose(self, view: View, memory: Any) -> tuple[Proposals, Any]:
        """Proposals on this view, and the memory for the next."""
        ...


def looks_at_prices(policy: Policy) -> bool:
    """Whether a policy says that it looks at `View.prices`."""
    return bool(getattr(policy, "looks_at_prices", False))


@runtime_checkable
class Trial(Protocol):
    """The twin, in which a change is tried before anybody decides on it.

    It knows the world's laws and not its dice: its draws are its own, the same for every trial, so that two of them
    differ by the change alone.
    """

    def spend(self, campaign: int, from_tick: int, to_tick: int, controls: ControlState) -> int:
        """What a campaign (by its position) spends over [from_tick, to_tick) under the run's controls, micros."""
        ...


TRUTH = ("caused", "credited_ppm", "credited_right_ppm")
"""Conversions that clicks of a campaign caused; the ppm of credit given for them, and given to that campaign."""


@dataclass(frozen=True)
class Batch:
    """What a source emitted over a span of ticks; records are empty unless it was asked for them.

    `auctions` counts each auction once, however many campaigns met in it. `truth` is what a world knows and nobody in
    it sees: int64[ticks, cells, len(TRUTH)]; None where conversions are credited to their cause. `prices` are the
    span's wins by their price, campaigns as in `counts`; None where it was not asked for them, or cannot tell.
    """

    counts: TickCounts
    events: Events
    opportunities: Opportunities
    auctions: int = 0
    truth: Int64 | None = None
    prices: Prices | None = None


@runtime_checkable
class EventSource(Protocol):
    """A world or a log that feeds a set of campaigns.

    It holds its own physical state (who has been charged what in the period, conversions still to come) and no
    controls: those come with each call. Campaign and cell positions in `counts` are those of the set it was built for;
    in `events` and `opportunities` they are positions in the whole run.
    """

    factual: bool
    """True where outcomes are as logged whatever the controls say, so that proposals are recorded and not applied."""

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:
        """Emit the ticks [from_tick, to_tick) under the given controls; ticks are asked for in order, once."""
        ...

    def state(self) -> Any:
        """The physical state between two calls, picklable: what was charged in the period, what is still to come."""
        ...

    def restore(self, state: Any) -> None:
        """Go back to a state; what follows is then as it was, or would have been."""
        ...
