"""A world as its kernels read it: campaigns, markets and controls in columns, and what they mean for the auctions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import CampaignSet, Charging, ControlState, Period
from engine.units import MAX_MICROS, PPM, Bool, Float64, Int64, TickGrid
from sim.auction import UNREACHABLE, Market, Segment
from sim.draws import Block, block_for
from sim.people import Audience
from sim.response import Response
from sim.rng import Z_MAX, keys_of

_HOUR_US = 3_600_000_000


class Markets(NamedTuple):
    """The markets of a world over a span of ticks: m markets, t ticks."""

    key: NDArray[Any]  # uint64[m]
    start: Int64  # int64[m + 1], bounds of each market in `seat`
    seat: Int64  # int64[n], campaigns in order of (market, position)
    sigma: Float64  # float64[m]
    reserve: Int64  # int64[m]
    first_price: Bool  # bool[m]
    competitors: Int64  # int64[m]
    slot_start: Int64  # int64[m + 1], bounds of each market in `exposure`
    exposure: Float64  # float64[slots], how likely a slot is seen
    audience_start: Int64  # int64[m + 1], bounds of each market in the next two
    audience_share: Float64  # float64[audiences], thresholds: those before and this one together
    audience_log_price: Float64  # float64[audiences]
    strength: Float64  # float64[m], how the competition's level answers the account's share, in logs
    persistence: Float64  # float64[m], how slowly it does
    bots: Float64  # float64[t, m], or [1, m] if it never changes: share of impressions that machines click
    log_level: Float64  # float64[t, m]
    auctions: Int64  # int64[t, m]


class Buyers(NamedTuple):
    """The campaigns of a world: n campaigns, c creatives, a audiences, cells."""

    key: NDArray[Any]  # uint64[n]
    creative_start: Int64  # int64[n + 1]
    audience_start: Int64  # int64[n + 1]
    cell_start: Int64  # int64[n + 1]
    reach: Float64  # float64[n]
    sigma: Float64  # float64[n]
    correlation: Float64  # float64[n], of value and price
    discount: Float64  # float64[n], one over the mean value
    per_click: Bool  # bool[n]
    daily: Bool  # bool[n], whether the budget is a local day's
    ctr: Float64  # float64[cells], of a creative that nobody has seen yet
    wear: Float64  # float64[cells], exponent; 0 where it does not wear out
    decay: Float64  # float64[cells], what is left of the frequency after a tick of rest
    people: Float64  # float64[cells], how many are in the audience


class Stakes(NamedTuple):
    """What the controls in force mean for the kernel."""

    bid: Int64  # int64[a], the bid for each audience
    log_bid: Float64  # float64[a]
    budget: Int64  # int64[n]
    paused: Bool  # bool[t, n], or [1, n] if it never changes: paused, or without a creative to show
    share: Float64  # float64[t, c], or [1, c]: thresholds of each creative, those before it and this one together
    least: Int64  # int64[n], no entered bid can cost less; with less budget than this a campaign is out
    highest: Float64  # float64[n], the highest bid for any audience
    most: (
        Float64  # float64[n], no bid for an opportunity is more, whatever it is worth; infinite where none may be made
    )


class Clock(NamedTuple):
    """Where a span of ticks lies in event time."""

    from_tick: int
    opens: int  # event time at which `from_tick` opens
    tick_us: int
    new_day: Bool  # bool[t], whether a tick is the first of its local day


class Past(NamedTuple):
    """What a world remembers between ticks; the kernel brings it up to date."""

    charged: Int64  # int64[n], in the budget period
    frequency: Float64  # float64[cells], impressions per person of the audience, as far as not forgotten
    pressure: Float64  # float64[m], the account's share of the auctions, as the competition has felt it


class Room(NamedTuple):
    """Scratch for one block of auctions and the campaigns of one market."""

    block: Block
    stance: Int64  # int64[seats]
    most: Int64  # int64[seats], what winning can cost at most
    entered: Int64  # int64[seats], the bids of one auction, where opportunities are recorded
    ctr: Float64  # float64[cells], at the opening of the tick
    best_seat: Int64  # int64[slots + 1], the best entered seats of one auction
    best_bid: Int64  # int64[slots + 1]
    best_value: Float64  # float64[slots + 1]


def stakes_of(buyers: Buyers, controls: ControlState, eligible: Bool) -> Stakes:
    """Derive from the controls what the kernel needs; `eligible` is bool[t, c], or [1, c] if it never changes.

    The bounds `least` and `most` hold for every opportunity a 32-bit normal can bring, so that most auctions are
    judged without computing the bid. A creative that is not eligible leaves its share to the others.
    """
    sizes = np.diff(buyers.audience_start)
    whole, rest = np.divmod(np.minimum(np.repeat(controls.bid, sizes), MAX_MICROS), PPM)
    bid = np.minimum(whole * controls.modifiers + rest * controls.modifiers // PPM, MAX_MICROS)  # within int64
    with np.errstate(divide="ignore"):
        log_bid = np.log(bid.astype(np.float64))
    starts = buyers.audience_start[:-1]
    highest, lowest = (each.reduceat(bid, starts) if bid.size else bid for each in (np.maximum, np.minimum))
    high, low = np.exp(Z_MAX * buyers.sigma), np.exp(-Z_MAX * buyers.sigma)
    sure = lowest * low > 1 + 1e-6  # every bid is a micro at least
    least = np.where(
        lowest > 0, np.maximum(np.floor(lowest * low * (1 - 1e-9)), 1), np.where(highest > 0, 1, UNREACHABLE)
    )
    share, idle = _shares(buyers, controls.weights, eligible)
    return Stakes(
        bid=bid,
        log_bid=log_bid,
        budget=controls.budget.astype(np.int64),
        paused=controls.paused | idle,
        share=share,
        least=np.minimum(least, UNREACHABLE).astype(np.int64),
        highest=highest.astype(np.float64),
        most=np.where(sure, highest * high, np.inf),
    )


def _shares(buyers: Buyers, weights: Int64, eligible: Bool) -> tuple[Float64, Bool]:
    """Thresholds of the creatives of every campaign, and which campaigns have none to show."""
    start = buyers.creative_start
    shown = np.where(eligible, weights, 0)
    running = np.cumsum(shown, axis=1)
    before = running[:, start[:-1]] - shown[:, start[:-1]]
    total = running[:, start[1:] - 1] - before
    sizes = np.diff(start)
    with np.errstate(invalid="ignore"):
        share = (running - np.repeat(before, sizes, axis=1)) / np.repeat(total, sizes, axis=1)
    return share, total == 0


def room_for(seats: int, slots: int, cells: int) -> Room:
    """Scratch for markets of at most so many campaigns and slots, in a world of so many cells."""
    return Room(
        block=block_for(seats, slots),
        stance=np.zeros(seats, dtype=np.int64),
        most=np.zeros(seats, dtype=np.int64),
        entered=np.zeros(seats, dtype=np.int64),
        ctr=np.zeros(cells),
        best_seat=np.zeros(slots + 1, dtype=np.int64),
        best_bid=np.zeros(slots + 1, dtype=np.int64),
        best_value=np.zeros(slots + 1),
    )


def clock(grid: TickGrid, from_tick: int, to_tick: int) -> Clock:
    """Where a span of ticks lies in event time."""
    return Clock(from_tick, grid.opens(from_tick), grid.tick_us, new_days(grid)[from_tick:to_tick])


def new_days(grid: TickGrid) -> Bool:
    """Whether a tick is the first of its local day; shape [ticks]."""
    return np.append(True, grid.closes_day[:-1])


def segments_of(campaigns: CampaignSet, specs: Sequence[Market], numbers: Int64) -> list[Segment]:
    """The segment that every cell is shown to."""
    place = np.searchsorted(numbers, campaigns.market)[campaigns.cell_campaign].tolist()
    first = campaigns.layout.audience_start[campaigns.cell_campaign]
    segment = (campaigns.cell_audience - first).tolist()
    return [specs[market].segments[each] for market, each in zip(place, segment, strict=True)]


def markets_of(campaigns: CampaignSet, specs: Sequence[Market], numbers: Int64, grid: TickGrid, seed: int) -> Markets:
    """Those at these positions of the run; price level and auctions are for a span to fill in."""
    seat = np.argsort(campaigns.market, kind="stable").astype(np.int64)
    answers = [(0.0, 0.0) if spec.answer is None else (spec.answer.strength, spec.answer.persistence) for spec in specs]
    segments = [segment for spec in specs for segment in spec.segments]

    def column(name: str, kind: str = "float64") -> NDArray[Any]:
        return np.array([getattr(spec, name) for spec in specs], dtype=kind)

    def starts(sizes: list[int]) -> Int64:
        return np.cumsum([0, *sizes], dtype=np.int64)

    return Markets(
        key=keys_of(seed, "market", [campaigns.markets[number] for number in numbers]),
        start=np.append(np.searchsorted(campaigns.market[seat], numbers), seat.size).astype(np.int64),
        seat=seat,
        sigma=column("price_sigma"),
        reserve=column("reserve_micros", "int64"),
        first_price=column("first_price", "bool"),
        competitors=column("competitors", "int64"),
        slot_start=starts([len(spec.exposure) for spec in specs]),
        exposure=np.array([seen for spec in specs for seen in spec.exposure]),
        audience_start=starts([len(spec.segments) for spec in specs]),
        audience_share=np.array(
            [share for spec in specs for share in np.cumsum([each.share for each in spec.segments])]
        ),
        audience_log_price=np.log([segment.price for segment in segments]),
        strength=np.array([strength for strength, _ in answers]),
        persistence=np.array([persistence for _, persistence in answers]),
        bots=_bots(specs, grid),
        log_level=np.empty((0, len(specs))),
        auctions=np.empty((0, len(specs)), dtype=np.int64),
    )


def _bots(specs: Sequence[Market], grid: TickGrid) -> Float64:
    """The share of impressions that machines click, of several the largest; [1, m] where there never are any."""
    shares = np.zeros((grid.ticks if any(spec.bots for spec in specs) else 1, len(specs)))
    for m, spec in enumerate(specs):
        for each in spec.bots:
            shares[each.ticks, m] = np.maximum(shares[each.ticks, m], each.factor)
    return shares


def buyers_of(
    campaigns: CampaignSet,
    response: Response,
    segments: Sequence[Segment],
    people: Sequence[Audience],
    grid: TickGrid,
    seed: int,
) -> Buyers:
    """The campaigns, with the `segments` that their cells are shown to."""
    creative = campaigns.cell_creative
    counted = {audience.name: float(audience.people) for audience in people}
    ticks_of_rest = response.rest_hours * (_HOUR_US / grid.tick_us)
    return Buyers(
        key=keys_of(seed, "campaign", campaigns.ids),
        creative_start=campaigns.creative_start,
        audience_start=campaigns.layout.audience_start,
        cell_start=campaigns.cell_start,
        reach=response.reach,
        sigma=response.value_sigma,
        correlation=response.correlation,
        discount=np.exp(-0.5 * response.value_sigma**2),
        per_click=campaigns.charging == Charging.PER_CLICK,
        daily=campaigns.period == Period.DAY,
        ctr=np.minimum(response.ctr[creative] * [segment.ctr for segment in segments], 1.0),
        wear=response.wear[creative],
        decay=(0.5 ** (1 / ticks_of_rest))[creative],
        people=np.array([counted.get(segment.audience or "", 1.0) for segment in segments], dtype=np.float64),
    )
