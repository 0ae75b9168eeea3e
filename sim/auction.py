"""The auctions of a market: modelled competition, the account's own campaigns, budgets kept to the auction.

Money is whole micros everywhere. An auction's least winning bid is, for one campaign, the largest of the competitor's
price, the reserve, and every other entered bid of the account (one micro more where that campaign comes first, since
ties go to the lower position and the competitor loses them). Second price pays exactly that, first price the bid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import ControlState
from engine.units import MAX_MICROS, PPM, Bool, Float64, Int64
from sim.kernel import kernel
from sim.response import conversion_of, is_click, predicted_ctr
from sim.rng import CLICK, CREATIVE, PRICE, REACH, TO_UNIT, VALUE, Z_MAX, fill_words, to_normals, word
from sim.traffic import Traffic

UNREACHABLE = 2**62
"""More than any budget: what a click that never comes would have to cost."""


@dataclass(frozen=True)
class PriceShock:
    """The competitor's price level is multiplied by `factor` in the ticks [from_tick, to_tick)."""

    from_tick: int
    to_tick: int
    factor: float


@dataclass(frozen=True)
class Market:
    """One market: its traffic, its modelled competition and the rules of its auction.

    Parameters
    ----------
    traffic:
        How many auctions it holds.
    level_micros, price_sigma:
        Median and log standard deviation of the competitor's log-normal price, micros per opportunity.
    reserve_micros:
        The least price anyone pays.
    first_price:
        Whether the winner pays its own bid rather than the least that wins.
    shocks:
        Changes of the price level; where several overlap their factors multiply.
    """

    traffic: Traffic
    level_micros: float
    price_sigma: float
    reserve_micros: int = 0
    first_price: bool = False
    shocks: tuple[PriceShock, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.level_micros <= MAX_MICROS:
            raise ValueError(f"level_micros (={self.level_micros}) must be > 0 and <= {MAX_MICROS}")
        if not 0 <= self.price_sigma < math.inf:
            raise ValueError(f"price_sigma (={self.price_sigma}) must be >= 0 and finite")
        if not 0 <= self.reserve_micros <= MAX_MICROS:
            raise ValueError(f"reserve_micros (={self.reserve_micros}) must be >= 0 and <= {MAX_MICROS}")
        for shock in self.shocks:
            if not 0 < shock.factor < math.inf:
                raise ValueError(f"shock factor (={shock.factor}) must be > 0: 1.6 makes prices 60 % higher")

    def log_level(self, from_tick: int, to_tick: int) -> Float64:
        """Logarithm of the price level in every tick of a span; shape [ticks]."""
        level = np.full(to_tick - from_tick, math.log(self.level_micros))
        for shock in self.shocks:
            level[max(shock.from_tick - from_tick, 0) : max(shock.to_tick - from_tick, 0)] += math.log(shock.factor)
        return level


# --- the rules of charging, shared by the world and the replay ---


@kernel
def bid_for(bid_micros: int, value: float) -> int:
    """What a campaign bids for an opportunity: ⌊bid · value⌋."""
    return np.int64(min(np.float64(bid_micros) * value, float(MAX_MICROS)))


@kernel
def per_click(amount: int, ctr: float) -> int:
    """A price per opportunity as a price per click: ⌊amount / predicted CTR⌋."""
    if np.float64(amount) >= ctr * float(UNREACHABLE):
        return UNREACHABLE
    return np.int64(np.float64(amount) / ctr)


@kernel
def most_charged(bid: int, ctr: float, charged_per_click: bool) -> int:
    """The most that winning with this bid can cost, which the rest of the budget has to cover before it is entered."""
    return per_click(bid, ctr) if charged_per_click else bid


@kernel
def charge(bid: int, price: int, ctr: float, first_price: bool, charged_per_click: bool, clicked: bool) -> int:  # noqa: FBT001 - a kernel takes columns
    """What a won impression costs."""
    amount = bid if first_price else price
    if not charged_per_click:
        return amount
    return per_click(amount, ctr) if clicked else 0


# --- the columns the kernel reads and writes ---


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
    cell_start: Int64  # int64[n + 1]
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

    words: NDArray[Any]  # uint64[BLOCK]
    clicks: NDArray[Any]  # uint64[BLOCK]
    normals: Float64  # float64[BLOCK]
    tail: Float64  # float64[BLOCK]
    place: Int64  # int64[BLOCK]
    log_price: Float64  # float64[BLOCK]
    bar: Float64  # float64[BLOCK]
    top: Float64  # float64[BLOCK]
    log_value: Float64  # float64[seats, BLOCK]
    reached: NDArray[Any]  # uint8[seats, BLOCK]
    cell: NDArray[Any]  # int32[seats, BLOCK]
    stance: Int64  # int64[seats]
    entered: Int64  # int64[seats], the bids of one auction


BLOCK = 512
"""Auctions worked on at a time: a multiple of 4, small enough for the cache."""

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
    worst_ctr = np.minimum.reduceat(buyers.ctr, buyers.cell_start[:-1]) if bid.size else buyers.ctr
    with np.errstate(divide="ignore", invalid="ignore"):
        per_opportunity = bid * high
        per_click_bound = np.maximum(per_opportunity, bid / (worst_ctr * buyers.discount))
        log_bid = np.log(bid.astype(np.float64))
    most = np.where(buyers.per_click, per_click_bound, per_opportunity) * (1 + 1e-9) + 1
    most = np.where((bid * low > 1 + 1e-6) & (most < UNREACHABLE), most, UNREACHABLE)
    least = np.where(bid > 0, np.maximum(np.floor(bid * low * (1 - 1e-9)), 1), UNREACHABLE)
    running = np.cumsum(weights)
    before = np.repeat(running[buyers.cell_start[:-1]] - weights[buyers.cell_start[:-1]], np.diff(buyers.cell_start))
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
    """Room for markets of at most so many campaigns."""
    return Scratch(
        words=np.empty(BLOCK, dtype=np.uint64),
        clicks=np.empty(BLOCK, dtype=np.uint64),
        normals=np.empty(BLOCK),
        tail=np.empty(BLOCK),
        place=np.empty(BLOCK, dtype=np.int64),
        log_price=np.empty(BLOCK),
        bar=np.empty(BLOCK),
        top=np.empty(BLOCK),
        log_value=np.zeros((seats, BLOCK)),
        reached=np.ones((seats, BLOCK), dtype=np.uint8),
        cell=np.zeros((seats, BLOCK), dtype=np.int32),
        stance=np.zeros(seats, dtype=np.int64),
        entered=np.zeros(seats, dtype=np.int64),
    )


# --- the kernel ---


@kernel
def _stance(paused: bool, remaining: int, least: int, most: int) -> int:
    if paused or remaining < least:
        return OUT
    return SURE if remaining >= most else UNSURE


@kernel
def _with_room(table: Any, rows: int) -> Any:
    if rows < table.shape[0]:
        return table
    larger = np.empty((2 * table.shape[0], table.shape[1]), dtype=table.dtype)
    larger[:rows] = table
    return larger


@kernel
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


@kernel
def _draw_reach(scratch: Scratch, s: int, block: int, tick: int, size: int, key: Any, reach: float) -> None:
    if reach >= 1:
        for k in range(size):
            scratch.reached[s, k] = 1
        return
    fill_words(scratch.words, (size + 3) >> 2, block, tick, REACH, key)
    for k in range(size):
        scratch.reached[s, k] = np.float64(np.int64(scratch.words[k])) * TO_UNIT < reach


@kernel
def _draw_values(scratch: Scratch, s: int, block: int, tick: int, size: int, key: Any, sigma: float) -> None:
    if sigma == 0:
        for k in range(size):
            scratch.log_value[s, k] = 0.0
        return
    fill_words(scratch.words, (size + 3) >> 2, block, tick, VALUE, key)
    to_normals(scratch.words, scratch.normals, size, scratch.tail, scratch.place)
    for k in range(size):
        scratch.log_value[s, k] = sigma * scratch.normals[k]


@kernel
def _draw_creatives(
    scratch: Scratch, s: int, block: int, tick: int, size: int, key: Any, first: int, last: int, share: Float64
) -> None:
    if last - first == 1:
        for k in range(size):
            scratch.cell[s, k] = first
        return
    fill_words(scratch.words, (size + 3) >> 2, block, tick, CREATIVE, key)
    for k in range(size):
        u = np.float64(np.int64(scratch.words[k])) * TO_UNIT
        cell = first
        while u >= share[cell] and cell < last - 1:
            cell += 1
        scratch.cell[s, k] = cell


@kernel
def _add_reached(counts: Int64, scratch: Scratch, s: int, start: int, stop: int, whole: bool) -> None:
    """Count auctions [start, stop) of the block that reached a campaign, on the creative it would show."""
    if whole:
        counts[scratch.cell[s, 0]] += stop - start
        return
    for k in range(start, stop):
        counts[scratch.cell[s, k]] += scratch.reached[s, k]


@kernel
def _recorded_price(scratch: Scratch, seats: int, s: int, floor: int) -> int:
    """The least bid that wins for a campaign, the other entered bids being what they are."""
    price = floor
    for other in range(seats):
        if other != s and scratch.entered[other] > 0:
            price = max(price, scratch.entered[other] + (1 if other < s else 0))
    return price


@kernel
def hold(
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
    `recording` is (events, opportunities). Returns tables of conversions, impressions and opportunities with how many
    rows of each are in use, their columns as in `*_COLUMNS`, and beside the last one value and predicted CTR.
    """
    record_events, record_opportunities = recording
    conversions = np.empty((64, 7), dtype=np.int64)
    impressions = np.empty((64 if record_events else 1, 8), dtype=np.int64)
    opportunities = np.empty((64 if record_opportunities else 1, 11), dtype=np.int64)
    qualities = np.empty((opportunities.shape[0], 2), dtype=np.float64)
    n_conversions = n_impressions = n_opportunities = 0
    stance, reached, cells, entered = scratch.stance, scratch.reached, scratch.cell, scratch.entered

    for m in range(markets.key.size):
        first = markets.start[m]
        seats = markets.start[m + 1] - first
        reserve, first_price = markets.reserve[m], markets.first_price[m]
        log_reserve = math.log(np.float64(reserve)) if reserve > 0 else -np.inf
        for t in range(counts.shape[0]):
            tick = clock.from_tick + t
            opens = clock.opens + t * clock.tick_us
            auctions = markets.auctions[t, m]
            for s in range(seats):
                c = markets.seat[first + s]
                if clock.new_day[t] and buyers.daily[c]:
                    charged[c] = 0
                stance[s] = _stance(stakes.paused[c], stakes.budget[c] - charged[c], stakes.least[c], stakes.most[c])

            for start in range(0, auctions, BLOCK):
                size = min(BLOCK, auctions - start)
                block = start >> 2
                _draw_prices(
                    scratch, markets.key[m], block, tick, size, markets.log_level[t, m], markets.sigma[m], log_reserve
                )
                exact = record_opportunities
                for s in range(seats):
                    c = markets.seat[first + s]
                    key = buyers.key[c]
                    _draw_reach(scratch, s, block, tick, size, key, buyers.reach[c])
                    _draw_values(scratch, s, block, tick, size, key, buyers.sigma[c])
                    low, high = buyers.cell_start[c], buyers.cell_start[c + 1]
                    _draw_creatives(scratch, s, block, tick, size, key, low, high, stakes.share)
                    whole = buyers.reach[c] >= 1 and high - low == 1
                    _add_reached(counts[t, :, 0], scratch, s, 0, size, whole)
                    exact = exact or stance[s] == UNSURE
                    if stance[s] != OUT:
                        log_bid = stakes.log_bid[c]
                        for k in range(size):
                            bid_here = log_bid + scratch.log_value[s, k]
                            if not reached[s, k]:
                                bid_here = -np.inf
                            scratch.top[k] = max(scratch.top[k], bid_here)

                candidates = 0
                for k in range(size):
                    scratch.place[candidates] = k
                    candidates += scratch.top[k] >= scratch.bar[k]
                clicks_drawn = seats == 1 and candidates * 16 > size and not exact
                if clicks_drawn:
                    fill_words(
                        scratch.clicks, (size + 3) >> 2, block, tick, CLICK, buyers.key[markets.seat[first]]
                    )

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
                    index = start + k
                    best, best_bid, others = -1, np.int64(0), np.int64(0)
                    best_value = 1.0
                    for s in range(seats):
                        entered[s] = 0
                        if not reached[s, k] or stance[s] == OUT:
                            continue
                        c = markets.seat[first + s]
                        log_value = scratch.log_value[s, k]
                        if stance[s] == SURE and not record_opportunities and stakes.log_bid[c] + log_value < scratch.bar[k]:
                            continue
                        value = math.exp(log_value)
                        bid = bid_for(stakes.bid[c], value)
                        if stance[s] == UNSURE:
                            ctr = predicted_ctr(buyers.ctr[cells[s, k]], value, buyers.discount[c])
                            most = most_charged(bid, ctr, buyers.per_click[c])
                            if bid < 1 or most > stakes.budget[c] - charged[c]:
                                continue
                            counts[t, cells[s, k], 1] += 1
                        entered[s] = bid
                        if bid > best_bid:
                            others = best_bid + 1 if best >= 0 else others
                            best, best_bid, best_value = s, bid, value
                        else:
                            others = max(others, bid)

                    if best < 0 and not record_opportunities:
                        continue
                    floor = max(np.int64(np.rint(math.exp(scratch.log_price[k]))), reserve, 1)
                    event_time = opens + (index + 1) * clock.tick_us // (auctions + 1)

                    if record_opportunities:
                        for s in range(seats):
                            if not reached[s, k]:
                                continue
                            c, cell = markets.seat[first + s], cells[s, k]
                            value = math.exp(scratch.log_value[s, k])
                            ctr = predicted_ctr(buyers.ctr[cell], value, buyers.discount[c])
                            clicked = is_click(word(index, tick, CLICK, buyers.key[c]), ctr)
                            converted, happens, worth = False, np.int64(0), np.int64(0)
                            if clicked:
                                converted, happens, worth = conversion_of(
                                    buyers.key[c],
                                    index,
                                    tick,
                                    event_time,
                                    buyers.cvr[c],
                                    buyers.delay_us[c],
                                    buyers.worth[c],
                                    buyers.worth_sigma[c],
                                )
                            opportunities = _with_room(opportunities, n_opportunities)
                            qualities = _with_room(qualities, n_opportunities)
                            row = opportunities[n_opportunities]
                            row[0], row[1], row[2], row[3], row[4], row[5] = m, c, cell, tick, index, event_time
                            row[6] = _recorded_price(scratch, seats, s, floor)
                            row[7], row[8], row[9], row[10] = clicked, converted, happens, worth
                            qualities[n_opportunities, 0] = value
                            qualities[n_opportunities, 1] = ctr
                            n_opportunities += 1

                    price = max(floor, others)
                    if best < 0 or best_bid < price:
                        continue
                    c, cell = markets.seat[first + best], cells[best, k]
                    ctr = predicted_ctr(buyers.ctr[cell], best_value, buyers.discount[c])
                    bits = scratch.clicks[k] if clicks_drawn else word(index, tick, CLICK, buyers.key[c])
                    clicked = is_click(bits, ctr)
                    cost = charge(best_bid, price, ctr, first_price, buyers.per_click[c], clicked)
                    counts[t, cell, 3] += 1
                    counts[t, cell, 6] += cost
                    if clicked:
                        counts[t, cell, 4] += 1
                        converted, happens, worth = conversion_of(
                            buyers.key[c],
                            index,
                            tick,
                            event_time,
                            buyers.cvr[c],
                            buyers.delay_us[c],
                            buyers.worth[c],
                            buyers.worth_sigma[c],
                        )
                        if converted and happens < clock.ends:
                            conversions = _with_room(conversions, n_conversions)
                            row = conversions[n_conversions]
                            row[0], row[1], row[2], row[3], row[4] = m, c, cell, tick, index
                            row[5], row[6] = happens, worth
                            n_conversions += 1
                    if record_events:
                        impressions = _with_room(impressions, n_impressions)
                        row = impressions[n_impressions]
                        row[0], row[1], row[2], row[3], row[4] = m, c, cell, tick, index
                        row[5], row[6], row[7] = event_time, cost, clicked
                        n_impressions += 1
                    if cost > 0:
                        charged[c] += cost
                        was = stance[best]
                        stance[best] = _stance(
                            stakes.paused[c], stakes.budget[c] - charged[c], stakes.least[c], stakes.most[c]
                        )
                        if was == SURE and stance[best] != SURE:
                            whole = buyers.reach[c] >= 1 and buyers.cell_start[c + 1] - buyers.cell_start[c] == 1
                            _add_reached(counts[t, :, 1], scratch, best, 0, k + 1, whole)
                            exact = exact or stance[best] == UNSURE

                for s in range(seats):
                    if stance[s] == SURE:
                        c = markets.seat[first + s]
                        whole = buyers.reach[c] >= 1 and buyers.cell_start[c + 1] - buyers.cell_start[c] == 1
                        _add_reached(counts[t, :, 1], scratch, s, 0, size, whole)

    return (
        conversions[:n_conversions],
        impressions[:n_impressions],
        opportunities[:n_opportunities],
        qualities[:n_opportunities],
    )
