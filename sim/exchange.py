"""The exchange: holds the auctions of markets, tick by tick, with budgets kept to the auction.

A block of auctions is drawn at once, in loops that fit vector registers, and compared in logarithms; only auctions that
a campaign may win are then judged exactly, one after the other, in whole micros. Every number drawn is a pure function
of its place (see `sim.rng`), so what is skipped moves nothing.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import ControlState
from engine.events import BIDS, CLICKS, IMPRESSIONS, OPPORTUNITIES, SPEND
from engine.units import MAX_MICROS, PPM, Bool, Float64, Int64
from sim.auction import UNREACHABLE, bid_for, charge, most_charged
from sim.kernel import helper, inner, kernel
from sim.response import conversion_of, is_click, predicted_ctr
from sim.rng import CLICK, CREATIVE, PRICE, REACH, TO_UNIT, VALUE, Z_MAX, fill_words, to_normals, word


class Markets(NamedTuple):
    """The markets of a world over a span of ticks: m markets, t ticks."""

    key: NDArray[Any]  # uint64[m]
    start: Int64  # int64[m + 1], bounds of each market in `seat`
    seat: Int64  # int64[n], campaigns in order of (market, position)
    sigma: Float64  # float64[m]
    reserve: Int64  # int64[m]
    first_price: Bool  # bool[m]
    log_level: Float64  # float64[t, m]
    auctions: Int64  # int64[t, m]


class Buyers(NamedTuple):
    """The campaigns of a world: n campaigns, c cells."""

    key: NDArray[Any]  # uint64[n]
    creative_start: Int64  # int64[n + 1]
    cells: Int64  # int64[n], how many creatives
    reach: Float64  # float64[n]
    sigma: Float64  # float64[n]
    discount: Float64  # float64[n], one over the mean value
    per_click: Bool  # bool[n]
    daily: Bool  # bool[n], whether the budget is a local day's
    ctr: Float64  # float64[c]
    cvr: Float64  # float64[n]
    delay_us: Float64  # float64[n]
    worth: Float64  # float64[n], mean value of a conversion
    worth_sigma: Float64  # float64[n]


class Stakes(NamedTuple):
    """What the controls in force mean for the kernel."""

    bid: Int64  # int64[n]
    budget: Int64  # int64[n]
    paused: Bool  # bool[n]
    share: Float64  # float64[c], a creative's words lie below this and not below the one before it
    log_bid: Float64  # float64[n]
    least: Int64  # int64[n], no entered bid can cost less; with less budget than this a campaign is out
    most: Int64  # int64[n], no bid can cost more; with this much budget every bid is entered


class Clock(NamedTuple):
    """Where a span of ticks lies in event time."""

    from_tick: int
    opens: int  # event time at which `from_tick` opens
    tick_us: int
    new_day: Bool  # bool[t], whether a tick is the first of its local day
    ends: int  # event time at which the run ends


class Scratch(NamedTuple):
    """Room for one block of auctions and the campaigns of one market."""

    words: NDArray[Any]  # uint64[block]
    clicks: NDArray[Any]  # uint64[block]
    normals: Float64  # float64[block]
    tail: Float64  # float64[block]
    place: Int64  # int64[block]
    log_price: Float64  # float64[block]
    bar: Float64  # float64[block]
    top: Float64  # float64[block]
    log_value: Float64  # float64[seats, block]
    reached: NDArray[Any]  # uint8[seats, block]
    cell: NDArray[Any]  # int32[seats, block]
    stance: Int64  # int64[seats]
    entered: Int64  # int64[seats], the bids of one auction


OUT, UNSURE, SURE = 0, 1, 2
"""A campaign enters no auction, some, or every one that reaches it, as far as its budget goes."""

CONVERSION_COLUMNS = ("market", "campaign", "cell", "tick", "index", "time", "value")
IMPRESSION_COLUMNS = ("market", "campaign", "cell", "tick", "index", "time", "price", "clicked")
OPPORTUNITY_COLUMNS = (
    "market",
    "campaign",
    "cell",
    "tick",
    "index",
    "time",
    "price",
    "clicked",
    "converted",
    "conversion_time",
    "conversion_value",
)

_ROOM, _SHORTEST, _LONGEST = 32_768, 64, 512  # auctions · campaigns of a block, auctions of a block
_MARGIN = 1e-3
_LOG_THOUSAND = math.log(1000.0) + _MARGIN
_LOG_MAX = math.log(float(MAX_MICROS))


def stakes_of(buyers: Buyers, controls: ControlState) -> Stakes:
    """Derive from the controls what the kernel needs.

    The bounds `least` and `most` hold for every opportunity a 32-bit normal can bring, so that most auctions are
    judged without computing the bid.
    """
    bid, weights = controls.bid, controls.weights
    high, low = np.exp(Z_MAX * buyers.sigma), np.exp(-Z_MAX * buyers.sigma)
    worst_ctr = np.minimum.reduceat(buyers.ctr, buyers.creative_start[:-1]) if bid.size else buyers.ctr
    with np.errstate(divide="ignore", invalid="ignore"):
        per_opportunity = bid * high
        per_click_bound = np.maximum(per_opportunity, bid / (worst_ctr * buyers.discount))
        log_bid = np.log(bid.astype(np.float64))
    most = np.where(buyers.per_click, per_click_bound, per_opportunity) * (1 + 1e-9) + 1
    most = np.where((bid * low > 1 + 1e-6) & (most < UNREACHABLE), most, UNREACHABLE)
    least = np.where(bid > 0, np.maximum(np.floor(bid * low * (1 - 1e-9)), 1), UNREACHABLE)
    running = np.cumsum(weights)
    before = np.repeat(
        running[buyers.creative_start[:-1]] - weights[buyers.creative_start[:-1]], np.diff(buyers.creative_start)
    )
    return Stakes(
        bid=bid.astype(np.int64),
        budget=controls.budget.astype(np.int64),
        paused=controls.paused,
        share=(running - before) / PPM,
        log_bid=log_bid,
        least=np.minimum(least, UNREACHABLE).astype(np.int64),
        most=most.astype(np.int64),
    )


def scratch_for(seats: int) -> Scratch:
    """Room for markets of at most so many campaigns: blocks as long as the processor's cache likes, a multiple of 4."""
    block = min(max(_ROOM // max(seats, 1) // 4 * 4, _SHORTEST), _LONGEST)
    return Scratch(
        words=np.empty(block, dtype=np.uint64),
        clicks=np.empty(block, dtype=np.uint64),
        normals=np.empty(block),
        tail=np.empty(block),
        place=np.empty(block, dtype=np.int64),
        log_price=np.empty(block),
        bar=np.empty(block),
        top=np.empty(block),
        log_value=np.zeros((seats, block)),
        reached=np.ones((seats, block), dtype=np.uint8),
        cell=np.zeros((seats, block), dtype=np.int32),
        stance=np.zeros(seats, dtype=np.int64),
        entered=np.zeros(seats, dtype=np.int64),
    )


@helper
def _stance(paused: bool, remaining: int, least: int, most: int) -> int:  # noqa: FBT001 - a kernel takes columns
    if paused or remaining < least:
        return OUT
    return SURE if remaining >= most else UNSURE


@inner
def _open_tick(scratch: Scratch, seat: Int64, buyers: Buyers, stakes: Stakes, charged: Int64, new_day: bool) -> None:  # noqa: FBT001 - likewise
    for s in range(seat.size):
        c = seat[s]
        if new_day and buyers.daily[c]:
            charged[c] = 0
        scratch.stance[s] = _stance(stakes.paused[c], stakes.budget[c] - charged[c], stakes.least[c], stakes.most[c])


@inner
def _draw_prices(
    scratch: Scratch, key: Any, block: int, tick: int, size: int, log_level: float, sigma: float, log_reserve: float
) -> None:
    """The competitor's price of every auction of a block, in logs, the reserve included.

    `bar` is a bid, in logs, that surely loses if it lies below: with the margin, a price over a thousand micros stays
    out of reach whichever way either is rounded.
    """
    fill_words(scratch.words, (size + 3) >> 2, block, tick, PRICE, key)
    to_normals(scratch.words, scratch.normals, size, scratch.tail, scratch.place)
    for k in range(size):
        price = min(max(log_level + sigma * scratch.normals[k], log_reserve), _LOG_MAX)
        scratch.log_price[k] = price
        scratch.bar[k] = price - _MARGIN if price > _LOG_THOUSAND else -np.inf
        scratch.top[k] = -np.inf


@inner
def _draw_reach(scratch: Scratch, s: int, block: int, tick: int, size: int, key: Any, reach: float) -> None:
    if reach >= 1:
        for k in range(size):
            scratch.reached[s, k] = 1
        return
    fill_words(scratch.words, (size + 3) >> 2, block, tick, REACH, key)
    for k in range(size):
        scratch.reached[s, k] = np.float64(np.int64(scratch.words[k])) * TO_UNIT < reach


@inner
def _draw_values(scratch: Scratch, s: int, block: int, tick: int, size: int, key: Any, sigma: float) -> None:
    if sigma == 0:
        for k in range(size):
            scratch.log_value[s, k] = 0.0
        return
    fill_words(scratch.words, (size + 3) >> 2, block, tick, VALUE, key)
    to_normals(scratch.words, scratch.normals, size, scratch.tail, scratch.place)
    for k in range(size):
        scratch.log_value[s, k] = sigma * scratch.normals[k]


@inner
def _draw_creatives(
    scratch: Scratch, s: int, block: int, tick: int, size: int, key: Any, first: int, share: Float64
) -> None:
    if share.size == 1:
        for k in range(size):
            scratch.cell[s, k] = first
        return
    fill_words(scratch.words, (size + 3) >> 2, block, tick, CREATIVE, key)
    for k in range(size):
        u = np.float64(np.int64(scratch.words[k])) * TO_UNIT
        creative: Any = 0
        for before in range(share.size - 1):
            creative += np.int64(u >= share[before])
        scratch.cell[s, k] = first + creative


@inner
def _raise_top(scratch: Scratch, s: int, size: int, log_bid: float) -> None:
    """The highest bid of the account on every auction of the block, in logs, as far as budgets are no question."""
    for k in range(size):
        bid = log_bid + scratch.log_value[s, k] if scratch.reached[s, k] else -np.inf
        scratch.top[k] = max(scratch.top[k], bid)


@inner
def _find_candidates(scratch: Scratch, size: int) -> Any:
    """Auctions of the block that the account may win, into `place`; returns how many."""
    found: Any = 0
    for k in range(size):
        scratch.place[found] = k
        found += np.int64(scratch.top[k] >= scratch.bar[k])
    return found


@inner
def _add_reached(counts: Int64, scratch: Scratch, s: int, stop: int, cells: int) -> None:
    """Count the first auctions of the block that reached a campaign, on the creative each would show."""
    if cells == 1:
        reached = np.int64(0)
        for k in range(stop):
            reached += scratch.reached[s, k]
        counts[scratch.cell[s, 0]] += reached
        return
    for k in range(stop):
        counts[scratch.cell[s, k]] += scratch.reached[s, k]


@inner
def _recorded_price(scratch: Scratch, seats: int, s: int, floor: int) -> int:
    """The least bid that wins for a campaign, the other entered bids being what they are."""
    price = floor
    for other in range(seats):
        if other != s and scratch.entered[other] > 0:
            price = max(price, scratch.entered[other] + (1 if other < s else 0))
    return price


@inner
def _with_room(table: Any, rows: int) -> Any:
    if rows < table.shape[0]:
        return table
    larger = np.empty((2 * table.shape[0], table.shape[1]), dtype=table.dtype)
    for row in range(rows):
        for column in range(table.shape[1]):
            larger[row, column] = table[row, column]
    return larger


@inner
def _converts(buyers: Buyers, c: int, index: int, tick: int, clicked: int) -> Any:
    return conversion_of(
        buyers.key[c],
        index,
        tick,
        clicked,
        buyers.cvr[c],
        buyers.delay_us[c],
        buyers.worth[c],
        buyers.worth_sigma[c],
    )


@inner
def _record(
    table: Any,
    qualities: Any,
    used: int,
    m: int,
    seat: Int64,
    buyers: Buyers,
    scratch: Scratch,
    k: int,
    at: Any,
    floor: int,
) -> Any:
    """Write a row for every campaign that an auction reached, with what would follow if it won."""
    tick, index, event_time = at
    for s in range(seat.size):
        if not scratch.reached[s, k]:
            continue
        c, cell = seat[s], scratch.cell[s, k]
        value = math.exp(scratch.log_value[s, k])
        ctr = predicted_ctr(buyers.ctr[cell], value, buyers.discount[c])
        clicked = is_click(word(index, tick, CLICK, buyers.key[c]), ctr)
        converted, happens, worth = False, np.int64(0), np.int64(0)
        if clicked:
            converted, happens, worth = _converts(buyers, c, index, tick, event_time)
        table, qualities = _with_room(table, used), _with_room(qualities, used)
        row = table[used]
        row[0], row[1], row[2], row[3], row[4], row[5] = m, c, cell, tick, index, event_time
        row[6] = _recorded_price(scratch, seat.size, s, floor)
        row[7], row[8], row[9], row[10] = clicked, converted, happens, worth
        qualities[used, 0], qualities[used, 1] = value, ctr
        used += 1
    return table, qualities, used


@helper
def _enter(
    scratch: Scratch,
    seat: Int64,
    buyers: Buyers,
    stakes: Stakes,
    charged: Int64,
    counts: Int64,
    k: int,
    all_bids: bool,  # noqa: FBT001 - likewise
) -> Any:
    """Enter the campaigns of a market into one auction.

    Returns the best seat (-1: nobody entered), its bid and value, and the least bid that beats the others. Campaigns
    that are unsure of their budget are judged, and counted if they enter. A bid that surely loses is left out unless
    all are wanted: nobody pays less for it.
    """
    best, best_value = -1, 1.0
    best_bid: Any = np.int64(0)
    others: Any = np.int64(0)
    for s in range(seat.size):
        scratch.entered[s] = 0
        stance = scratch.stance[s]
        if stance == OUT or not scratch.reached[s, k]:
            continue
        c = seat[s]
        log_value = scratch.log_value[s, k]
        if stance == SURE and not all_bids and stakes.log_bid[c] + log_value < scratch.bar[k]:
            continue
        value = math.exp(log_value)
        bid = bid_for(stakes.bid[c], value)
        if stance == UNSURE:
            cell = scratch.cell[s, k]
            most = most_charged(bid, predicted_ctr(buyers.ctr[cell], value, buyers.discount[c]), buyers.per_click[c])
            if bid < 1 or most > stakes.budget[c] - charged[c]:
                continue
            counts[cell, BIDS] += 1
        scratch.entered[s] = bid
        if bid > best_bid:
            others = best_bid + 1 if best >= 0 else others
            best, best_bid, best_value = s, bid, value
        else:
            others = max(others, bid)
    return best, best_bid, best_value, others


@kernel
def hold(  # noqa: C901, PLR0912, PLR0915 - one loop over auctions, cut where it can be
    markets: Markets,
    buyers: Buyers,
    stakes: Stakes,
    clock: Clock,
    charged: Int64,
    counts: Int64,
    scratch: Scratch,
    recording: Any,
) -> Any:
    """Hold every auction of a span of ticks.

    Adds to `counts` (int64[t, c, len(COUNTS)], all but conversions) and to `charged` (int64[n], this period).
    `recording` is (events, opportunities). Returns tables of conversions, impressions and opportunities, their columns
    as in `*_COLUMNS`, and beside the last one value and predicted CTR.
    """
    record_events, record_opportunities = recording
    longest = scratch.words.size
    conversions = np.empty((64, 7), dtype=np.int64)
    impressions = np.empty((64, 8), dtype=np.int64)
    opportunities = np.empty((64, 11), dtype=np.int64)
    qualities = np.empty((64, 2), dtype=np.float64)
    n_conversions = n_impressions = n_opportunities = 0

    for m in range(markets.key.size):
        seat = markets.seat[markets.start[m] : markets.start[m + 1]]
        reserve = markets.reserve[m]
        log_reserve = math.log(np.float64(reserve)) if reserve > 0 else -np.inf
        for t in range(counts.shape[0]):
            tick = clock.from_tick + t
            auctions = markets.auctions[t, m]
            _open_tick(scratch, seat, buyers, stakes, charged, clock.new_day[t])

            for start in range(0, auctions, longest):
                size = min(longest, auctions - start)
                block = start >> 2
                active = record_opportunities
                for s in range(seat.size):
                    active = active or scratch.stance[s] != OUT
                if active:
                    _draw_prices(
                        scratch,
                        markets.key[m],
                        block,
                        tick,
                        size,
                        markets.log_level[t, m],
                        markets.sigma[m],
                        log_reserve,
                    )
                exact = record_opportunities
                for s in range(seat.size):
                    c = seat[s]
                    key = buyers.key[c]
                    share = stakes.share[buyers.creative_start[c] : buyers.creative_start[c + 1]]
                    _draw_reach(scratch, s, block, tick, size, key, buyers.reach[c])
                    _draw_creatives(scratch, s, block, tick, size, key, buyers.creative_start[c], share)
                    _add_reached(counts[t, :, OPPORTUNITIES], scratch, s, size, buyers.cells[c])
                    exact = exact or scratch.stance[s] == UNSURE
                    if scratch.stance[s] != OUT or record_opportunities:
                        _draw_values(scratch, s, block, tick, size, key, buyers.sigma[c])
                    if scratch.stance[s] != OUT:
                        _raise_top(scratch, s, size, stakes.log_bid[c])
                if not active:
                    continue
                candidates = _find_candidates(scratch, size)
                clicks_drawn = seat.size == 1 and not exact and candidates * 16 > size
                if clicks_drawn:
                    fill_words(scratch.clicks, (size + 3) >> 2, block, tick, CLICK, buyers.key[seat[0]])

                k = -1
                candidate = 0
                while True:
                    if exact:
                        k += 1
                    else:
                        k = scratch.place[candidate] if candidate < candidates else size
                        candidate += 1
                    if k >= size:
                        break
                    best, bid, value, others = _enter(
                        scratch, seat, buyers, stakes, charged, counts[t], k, record_opportunities
                    )
                    if best < 0 and not record_opportunities:
                        continue
                    index = start + k
                    event_time = clock.opens + t * clock.tick_us + (index + 1) * clock.tick_us // (auctions + 1)
                    floor = max(np.int64(np.rint(math.exp(scratch.log_price[k]))), reserve, 1)
                    if record_opportunities:
                        at = (tick, index, event_time)
                        opportunities, qualities, n_opportunities = _record(
                            opportunities, qualities, n_opportunities, m, seat, buyers, scratch, k, at, floor
                        )
                    price = max(floor, others)
                    if best < 0 or bid < price:
                        continue

                    c, cell = seat[best], scratch.cell[best, k]
                    ctr = predicted_ctr(buyers.ctr[cell], value, buyers.discount[c])
                    bits = scratch.clicks[k] if clicks_drawn else word(index, tick, CLICK, buyers.key[c])
                    clicked = is_click(bits, ctr)
                    cost = charge(bid, price, ctr, markets.first_price[m], buyers.per_click[c], clicked)
                    counts[t, cell, IMPRESSIONS] += 1
                    counts[t, cell, SPEND] += cost
                    if record_events:
                        impressions = _with_room(impressions, n_impressions)
                        row = impressions[n_impressions]
                        row[0], row[1], row[2], row[3], row[4] = m, c, cell, tick, index
                        row[5], row[6], row[7] = event_time, cost, clicked
                        n_impressions += 1
                    if clicked:
                        counts[t, cell, CLICKS] += 1
                        converted, happens, worth = _converts(buyers, c, index, tick, event_time)
                        if converted and happens < clock.ends:
                            conversions = _with_room(conversions, n_conversions)
                            row = conversions[n_conversions]
                            row[0], row[1], row[2], row[3], row[4] = m, c, cell, tick, index
                            row[5], row[6] = happens, worth
                            n_conversions += 1
                    if cost > 0:
                        charged[c] += cost
                        before = scratch.stance[best]
                        after = _stance(
                            stakes.paused[c], stakes.budget[c] - charged[c], stakes.least[c], stakes.most[c]
                        )
                        scratch.stance[best] = after
                        if before == SURE and after != SURE:
                            _add_reached(counts[t, :, BIDS], scratch, best, k + 1, buyers.cells[c])
                            exact = exact or after == UNSURE

                for s in range(seat.size):
                    if scratch.stance[s] == SURE:
                        _add_reached(counts[t, :, BIDS], scratch, s, size, buyers.cells[seat[s]])

    return (
        conversions[:n_conversions],
        impressions[:n_impressions],
        opportunities[:n_opportunities],
        qualities[:n_opportunities],
    )
