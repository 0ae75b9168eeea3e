"""The exchange: holds the auctions of markets, tick by tick, with budgets kept to the auction.

A block of auctions is drawn at once (see `sim.draws`) and compared in logarithms; only bids that may win something are
then judged exactly, auction after auction, in whole micros. Slots are sold by the generalised second-price rule
(Edelman, Ostrovsky and Schwarz, "Internet advertising and the generalized second-price auction", American Economic
Review 97, 2007): bids are ranked, and each winner pays the least that would have kept its slot. With one slot that is
the second-price auction; under first price everyone pays the own bid.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.events import BIDS, CLICKS, IMPRESSIONS, OPPORTUNITIES, SPEND
from engine.units import Float64, Int64
from sim.auction import UNREACHABLE, bid_for, charge, most_charged
from sim.columns import Buyers, Clock, Markets, Past, Room, Stakes
from sim.draws import (
    SEATS_A_WORD,
    Block,
    draw_audiences,
    draw_cells,
    draw_prices,
    draw_reach,
    draw_values,
    surely_below,
)
from sim.kernel import helper, inner, kernel
from sim.prices import Won, count_win
from sim.response import is_click, predicted_ctr
from sim.rng import BOT, CLICK, EXPOSURE, TO_UNIT, fill_words, word

OUT, UNSURE, SURE = 0, 1, 2
"""A campaign enters no auction, some, or every one that reaches it, as far as its budget goes."""

CLICK_COLUMNS = ("market", "campaign", "cell", "tick", "index", "time")
IMPRESSION_COLUMNS = ("market", "campaign", "cell", "tick", "index", "time", "price", "clicked")
OPPORTUNITY_COLUMNS = ("market", "campaign", "cell", "tick", "index", "time", "price", "clicked")
NOT, BY_PERSON, BY_BOT, BY_BOTH = range(4)
"""Who clicked an impression."""

_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_PLACE_OF_BIT = np.array(
    [each for _, each in sorted(((0x03F79D71B4CB0A89 << bit & 0xFFFFFFFFFFFFFFFF) >> 58, bit) for bit in range(64))],
    dtype=np.int64,
)
"""The place of a word's only bit, by the six bits that the product with a de Bruijn sequence begins with (Leiserson,
Prokop and Randall, "Using de Bruijn sequences to index a 1 in a computer word", MIT, 1998)."""


@helper
def _stance_of(remaining: int, least: int, most: int) -> int:
    if remaining < least:
        return OUT
    return SURE if remaining >= most else UNSURE


@inner
def _open_tick(
    room: Room,
    seat: Int64,
    buyers: Buyers,
    stakes: Stakes,
    past: Past,
    new_day: bool,  # noqa: FBT001 - likewise
    at: int,
) -> None:
    """What every campaign of a market may spend, and how its creatives are clicked, when a tick opens."""
    for s in range(seat.size):
        c = seat[s]
        if new_day and buyers.daily[c]:
            past.charged[c] = 0
        worst = 1.0
        for cell in range(buyers.cell_start[c], buyers.cell_start[c + 1]):
            ctr = buyers.ctr[cell]
            if buyers.wear[cell] > 0:
                past.frequency[cell] *= buyers.decay[cell]
                ctr *= (1.0 + past.frequency[cell]) ** -buyers.wear[cell]
            room.ctr[cell] = ctr
            worst = min(worst, ctr)
        room.most[s] = _most(stakes.highest[c], stakes.most[c], worst * buyers.discount[c], buyers.per_click[c])
        remaining = stakes.budget[c] - past.charged[c]
        room.stance[s] = _stance_of(remaining, stakes.least[c], room.most[s])
        if stakes.paused[min(at, stakes.paused.shape[0] - 1), c]:
            room.stance[s] = OUT


@helper
def _most(highest: float, per_opportunity: float, worst_ctr: float, charged_per_click: bool) -> int:  # noqa: FBT001 - likewise
    """The most that winning can cost; beyond reach where no bound is known.

    A click costs bid · value / predicted CTR, in which the value cancels unless the prediction is capped at 1.
    """
    most = max(per_opportunity, highest / worst_ctr) if charged_per_click else per_opportunity
    bound = most * (1 + 1e-9) + 1
    return np.int64(bound) if bound < UNREACHABLE else UNREACHABLE  # type: ignore[return-value]


@inner
def close_tick(seat: Int64, buyers: Buyers, markets: Markets, past: Past, counts: Int64, m: int, auctions: int) -> None:
    """What the tick leaves behind: creatives seen more often, and competitors who felt the account's share."""
    bought = np.int64(0)
    for s in range(seat.size):
        c = seat[s]
        for cell in range(buyers.cell_start[c], buyers.cell_start[c + 1]):
            bought += counts[cell, IMPRESSIONS]
            if buyers.wear[cell] > 0:
                past.frequency[cell] += np.float64(counts[cell, IMPRESSIONS]) / buyers.people[cell]
    if markets.strength[m] != 0 and auctions > 0:
        stays = markets.persistence[m]
        past.pressure[m] = stays * past.pressure[m] + (1.0 - stays) * np.float64(bought) / np.float64(auctions)


@inner
def _find_needed(room: Room, seat: Int64, buyers: Buyers, stakes: Stakes, start: int, size: int, slots: int) -> None:
    """What a bid needs to matter, from the competitors' prices and from the campaigns that surely bid."""
    block = room.block
    for k in range(start, size):
        block.needed[k] = block.bar[k]
    if seat.size <= slots + 1:
        return
    for rank in range(slots + 1):
        for k in range(start, size):
            block.best[rank, k] = -np.inf
    for s in range(seat.size):
        if room.stance[s] != SURE:
            continue
        c = seat[s]
        log_bid = stakes.log_bid[buyers.audience_start[c] : buyers.audience_start[c + 1]]
        _log_bids(block.normals, block.reached[s], block.log_value[s], block.audience, log_bid, start, size)
        _among_best(block.best, block.normals, start, size, slots)
    for k in range(start, size):
        block.needed[k] = max(block.bar[k], surely_below(block.best[slots, k]))


@inner
def _among_two(first: Float64, second: Float64, mine: Float64) -> None:
    """Keep the higher in each of two ranks, and the lowest of the three in `mine`."""
    for k in range(mine.size):
        bid, other, last = mine[k], first[k], second[k]
        first[k] = bid if bid > other else other
        bid = other if bid > other else bid
        second[k] = bid if bid > last else last
        mine[k] = last if bid > last else bid


@inner
def _among_best(best: Float64, mine: Float64, start: int, size: int, slots: int) -> None:
    """Put a campaign's bids among the `slots + 1` best: the higher stays in its rank, the lower goes on to the next.

    The usual numbers of slots have a loop of their own, in which a bid stays in its register.
    """
    if slots == 1:
        _among_two(best[0, start:size], best[1, start:size], mine[start:size])
    elif slots == 3:
        _among_two(best[0, start:size], best[1, start:size], mine[start:size])
        _among_two(best[2, start:size], best[3, start:size], mine[start:size])
    else:
        for rank in range(slots + 1):
            for k in range(start, size):
                bid, other = mine[k], best[rank, k]
                best[rank, k] = bid if bid > other else other
                mine[k] = other if bid > other else bid


@inner
def _log_bids(
    out: Float64, reached: Any, log_value: Float64, audience: Any, log_bid: Float64, start: int, size: int
) -> None:
    """A campaign's bids in logs, `log_bid` being that for each audience; nothing where an auction does not reach it."""
    if log_bid.size == 1:
        for k in range(start, size):
            out[k] = log_bid[0] + log_value[k] if reached[k] > 0 else -np.inf
    else:
        for k in range(start, size):
            out[k] = log_bid[audience[k]] + log_value[k] if reached[k] > 0 else -np.inf


@inner
def _mark(block: Block, s: int, buyers: Buyers, stakes: Stakes, c: int, start: int, size: int) -> None:
    """Set a seat's bit where it surely bids enough to matter."""
    log_bid = stakes.log_bid[buyers.audience_start[c] : buyers.audience_start[c + 1]]
    matters, bit = block.matters[s // SEATS_A_WORD], np.uint64(s % SEATS_A_WORD)
    if log_bid.size == 1:
        _mark_above(matters, block.reached[s], block.log_value[s], block.needed, log_bid[0], bit, start, size)
        return
    _log_bids(block.normals, block.reached[s], block.log_value[s], block.audience, log_bid, start, size)
    for k in range(start, size):
        matters[k] |= np.uint64(block.normals[k] >= block.needed[k]) << bit


@inner
def _mark_above(
    matters: Any, reached: Any, log_value: Float64, needed: Float64, log_bid: float, bit: Any, start: int, size: int
) -> None:
    for k in range(start, size):
        matters[k] |= (np.uint64(log_bid + log_value[k] >= needed[k]) & np.uint64(reached[k])) << bit


@inner
def _list_bidders(
    room: Room,
    seat: Int64,
    buyers: Buyers,
    stakes: Stakes,
    start: int,
    size: int,
    slots: int,
    all_bids: bool,  # noqa: FBT001 - likewise
) -> Any:
    """From auction `start` of the block on, the seats whose bid may matter or whose budget has to be looked at.

    Returns how many auctions have such a seat; they stand in `place`.
    """
    block = room.block
    if not all_bids:
        _find_needed(room, seat, buyers, stakes, start, size, slots)
    words = (seat.size + SEATS_A_WORD - 1) // SEATS_A_WORD
    for w in range(words):
        for k in range(start, size):
            block.matters[w, k] = np.uint64(0)
    for s in range(seat.size):
        if room.stance[s] == OUT:
            continue
        matters, bit = block.matters[s // SEATS_A_WORD], np.uint64(s % SEATS_A_WORD)
        if room.stance[s] == UNSURE or all_bids:
            for k in range(start, size):
                matters[k] |= np.uint64(block.reached[s, k]) << bit
        else:
            _mark(block, s, buyers, stakes, seat[s], start, size)
    return _find_candidates(block, words, start, size)


@inner
def _find_candidates(block: Block, words: int, start: int, size: int) -> Any:
    """Auctions in which some seat matters, into `place`; returns how many."""
    found: Any = 0
    for k in range(start, size):
        some = block.matters[0, k]
        for w in range(1, words):
            some |= block.matters[w, k]
        block.place[found] = k
        found += np.int64(some != 0)
    return found


@inner
def _add_reached(counts: Int64, block: Block, s: int, stop: int, cells: int) -> None:
    """Count the first auctions of the block that reached a campaign, on the cell each would show."""
    if cells == 1:
        if block.everywhere[s]:
            counts[block.cell[s, 0]] += stop
            return
        reached = np.int64(0)
        for k in range(stop):
            reached += block.reached[s, k]
        counts[block.cell[s, 0]] += reached
        return
    for k in range(stop):
        counts[block.cell[s, k]] += block.reached[s, k]


@inner
def with_room(table: Any, rows: int) -> Any:
    """The table, or twice as long a one, with room for another row."""
    if rows < table.shape[0]:
        return table
    larger = np.empty((2 * table.shape[0], table.shape[1]), dtype=table.dtype)
    for row in range(rows):
        for column in range(table.shape[1]):
            larger[row, column] = table[row, column]
    return larger


@helper
def _enter(
    room: Room,
    seat: Int64,
    buyers: Buyers,
    stakes: Stakes,
    charged: Int64,
    counts: Int64,
    k: int,
    slots: int,
    note_bids: bool,  # noqa: FBT001 - likewise
) -> Any:
    """Enter the listed campaigns of a market into one auction, and return how many of the best are known.

    The best `slots + 1`, in falling order of their bids (ties go to the lower position), are in `room.best_*`.
    Campaigns that are unsure of their budget are judged, and counted if they enter.
    """
    block = room.block
    found: Any = np.int64(0)
    for w in range((seat.size + SEATS_A_WORD - 1) // SEATS_A_WORD):
        left = block.matters[w, k]
        while left != 0:
            lowest = left & (~left + np.uint64(1))
            left ^= lowest
            s = w * SEATS_A_WORD + _PLACE_OF_BIT[(lowest * _DE_BRUIJN) >> np.uint64(58)]
            stance = room.stance[s]
            if stance == OUT:
                continue
            c = seat[s]
            value = math.exp(block.log_value[s, k])
            bid = bid_for(stakes.bid[buyers.audience_start[c] + block.audience[k]], value)
            if stance == UNSURE:
                cell = block.cell[s, k]
                most = most_charged(bid, predicted_ctr(room.ctr[cell], value, buyers.discount[c]), buyers.per_click[c])
                if bid < 1 or most > stakes.budget[c] - charged[c]:
                    continue
                counts[cell, BIDS] += 1
            if note_bids:
                room.entered[s] = bid
            found = _insert(room, s, bid, value, found, slots)
    return found


@helper
def _insert(room: Room, s: int, bid: int, value: float, found: int, slots: int) -> int:
    """Put a seat behind all whose bids are as high; returns how many of the best are known then."""
    rank = found
    while rank > 0 and room.best_bid[rank - 1] < bid:
        rank -= 1
    if rank > slots:
        return found
    for below in range(min(found, slots), rank, -1):
        room.best_seat[below] = room.best_seat[below - 1]
        room.best_bid[below] = room.best_bid[below - 1]
        room.best_value[below] = room.best_value[below - 1]
    room.best_seat[rank], room.best_bid[rank], room.best_value[rank] = s, bid, value
    return min(found + 1, slots + 1)


@helper
def _enter_sure(room: Room, seat: Int64, buyers: Buyers, stakes: Stakes, k: int, slots: int) -> Any:
    """As `_enter`, where every campaign that bids does so surely, so that ranks are known from `block.best`.

    Returns -1 where rounding may decide: where it makes bids equal or turns them round, and where one beyond the best
    may equal one of them.
    """
    block = room.block
    unclear = False
    found: Any = np.int64(0)
    for rank in range(slots + 1):
        room.best_seat[rank] = -1
    for w in range((seat.size + SEATS_A_WORD - 1) // SEATS_A_WORD):
        left = block.matters[w, k]
        while left != 0:
            lowest = left & (~left + np.uint64(1))
            left ^= lowest
            s = w * SEATS_A_WORD + _PLACE_OF_BIT[(lowest * _DE_BRUIJN) >> np.uint64(58)]
            place = buyers.audience_start[seat[s]] + block.audience[k]
            log_bid = stakes.log_bid[place] + block.log_value[s, k]
            at: Any = 0
            for above in range(slots + 1):
                at += np.int64(block.best[above, k] > log_bid)
            while at <= slots and room.best_seat[at] >= 0:
                at += 1
            if at <= slots:
                value = math.exp(block.log_value[s, k])
                room.best_seat[at], room.best_value[at] = s, value
                room.best_bid[at] = bid_for(stakes.bid[place], value)
                found += 1
            else:
                unclear = True
    for rank in range(1, found):
        mine, above = room.best_bid[rank], room.best_bid[rank - 1]
        unclear = unclear or mine > above or (mine == above and room.best_seat[rank] < room.best_seat[rank - 1])
    return np.int64(-1) if unclear else found  # one way out: with several, Numba would count references at every call


@helper
def _price_of(log_price: float, reserve: int) -> int:
    return max(np.int64(np.rint(math.exp(log_price))), reserve, 1)  # type: ignore[return-value]


@inner
def _recorded_price(room: Room, seats: int, s: int, floor: int) -> int:
    """The least bid that wins for a campaign, the other entered bids being what they are."""
    price = floor
    for other in range(seats):
        if other != s and room.entered[other] > 0:
            price = max(price, room.entered[other] + (1 if other < s else 0))
    return price


@inner
def _record(
    table: Any, qualities: Any, used: int, m: int, seat: Int64, buyers: Buyers, room: Room, k: int, at: Any, floor: int
) -> Any:
    """Write a row for every campaign that an auction reached, with what would follow if it won."""
    tick, index, event_time = at
    block = room.block
    for s in range(seat.size):
        if not block.reached[s, k]:
            continue
        c, cell = seat[s], block.cell[s, k]
        value = math.exp(block.log_value[s, k])
        ctr = predicted_ctr(room.ctr[cell], value, buyers.discount[c])
        table, qualities = with_room(table, used), with_room(qualities, used)
        row = table[used]
        row[0], row[1], row[2], row[3], row[4], row[5] = m, c, cell, tick, index, event_time
        row[6] = _recorded_price(room, seat.size, s, floor)
        row[7] = is_click(word(index, tick, CLICK, buyers.key[c]), ctr)
        qualities[used, 0], qualities[used, 1] = value, ctr
        used += 1
    return table, qualities, used


@kernel
def hold(  # noqa: C901, PLR0912, PLR0915 - one loop over auctions, cut where it can be
    markets: Markets,
    buyers: Buyers,
    stakes: Stakes,
    clock: Clock,
    past: Past,
    counts: Int64,
    room: Room,
    recording: Any,
    won: Won,
) -> Any:
    """Hold every auction of a span of ticks.

    Adds to `counts` (int64[t, cells, len(COUNTS)], all but what follows a click) and brings `past` up to date.
    `recording` is (impressions, opportunities). Where `won` has room for them, impressions are counted in it by their
    price. Returns tables of people's clicks, impressions and opportunities, their columns as in `*_COLUMNS`, and beside
    the last one value and predicted CTR.
    """
    record_impressions, record_opportunities = recording
    tell_prices = won.counts.shape[0] > 0
    block = room.block
    longest = block.words.size
    clicks = np.empty((64, 6), dtype=np.int64)
    impressions = np.empty((64, 8), dtype=np.int64)
    opportunities = np.empty((64, 8), dtype=np.int64)
    qualities = np.empty((64, 2), dtype=np.float64)
    n_clicks = n_impressions = n_opportunities = 0

    for m in range(markets.key.size):
        seat = markets.seat[markets.start[m] : markets.start[m + 1]]
        exposure = markets.exposure[markets.slot_start[m] : markets.slot_start[m + 1]]
        slots = exposure.size
        shares = markets.audience_share[markets.audience_start[m] : markets.audience_start[m + 1]]
        log_factor = markets.audience_log_price[markets.audience_start[m] : markets.audience_start[m + 1]]
        reserve = markets.reserve[m]
        log_reserve = math.log(np.float64(reserve)) if reserve > 0 else -np.inf
        for t in range(counts.shape[0]):
            tick = clock.from_tick + t
            auctions = markets.auctions[t, m]
            bots = markets.bots[min(t, markets.bots.shape[0] - 1), m]
            log_level = markets.log_level[t, m] + markets.strength[m] * past.pressure[m]
            _open_tick(room, seat, buyers, stakes, past, clock.new_day[t], t)

            for start in range(0, auctions, longest):
                size = min(longest, auctions - start)
                first = start >> 2
                active = record_opportunities
                for s in range(seat.size):
                    active = active or room.stance[s] != OUT
                draw_audiences(block, first, tick, size, markets.key[m], shares)
                if active:
                    draw_prices(
                        block,
                        first,
                        tick,
                        size,
                        markets.key[m],
                        markets.competitors[m],
                        slots,
                        log_level,
                        markets.sigma[m],
                        log_reserve,
                        log_factor,
                    )
                exact = record_opportunities
                for s in range(seat.size):
                    c = seat[s]
                    key = buyers.key[c]
                    share = stakes.share[
                        min(t, stakes.share.shape[0] - 1), buyers.creative_start[c] : buyers.creative_start[c + 1]
                    ]
                    draw_reach(block, s, first, tick, size, key, buyers.reach[c])
                    draw_cells(block, s, first, tick, size, key, buyers.cell_start[c], share, shares.size)
                    _add_reached(
                        counts[t, :, OPPORTUNITIES], block, s, size, buyers.cell_start[c + 1] - buyers.cell_start[c]
                    )
                    exact = exact or room.stance[s] == UNSURE
                    if room.stance[s] != OUT or record_opportunities:
                        draw_values(block, s, first, tick, size, key, buyers.sigma[c], buyers.correlation[c])
                if not active:
                    continue
                candidates = _list_bidders(room, seat, buyers, stakes, 0, size, slots, record_opportunities)
                clicks_drawn = seat.size == 1 and not exact and candidates * 16 > size
                if clicks_drawn:
                    fill_words(block.clicks, (size + 3) >> 2, first, tick, CLICK, buyers.key[seat[0]])

                sure = not exact and seat.size > slots + 1
                k = -1
                candidate = 0
                while True:
                    if record_opportunities:
                        k += 1
                    else:
                        k = block.place[candidate] if candidate < candidates else size
                        candidate += 1
                    if k >= size:
                        break
                    if record_opportunities:
                        for s in range(seat.size):
                            room.entered[s] = 0
                    entered = _enter_sure(room, seat, buyers, stakes, k, slots) if sure else -1
                    if entered < 0:
                        entered = _enter(
                            room, seat, buyers, stakes, past.charged, counts[t], k, slots, record_opportunities
                        )
                    if entered == 0 and not record_opportunities:
                        continue
                    index = start + k
                    event_time = clock.opens + t * clock.tick_us + (index + 1) * clock.tick_us // (auctions + 1)
                    price_below = _price_of(block.log_price[0, k], reserve)
                    if record_opportunities:
                        at = (tick, index, event_time)
                        opportunities, qualities, n_opportunities = _record(
                            opportunities, qualities, n_opportunities, m, seat, buyers, room, k, at, price_below
                        )
                    rank = 0
                    rival = 0
                    changed = False
                    for slot in range(slots):
                        if rank >= entered:
                            break
                        bid = room.best_bid[rank]
                        if bid < price_below:
                            rival += 1
                            if rival < slots:
                                price_below = _price_of(block.log_price[rival, k], reserve)
                            continue
                        s = room.best_seat[rank]
                        price = price_below
                        if rank + 1 < entered:
                            follows = room.best_bid[rank + 1] + (1 if room.best_seat[rank + 1] < s else 0)
                            price = max(price, follows)
                        value = room.best_value[rank]
                        rank += 1
                        c, cell = seat[s], block.cell[s, k]
                        if exposure[slot] < 1:
                            seen = word(index, tick, EXPOSURE, buyers.key[c])
                            if np.float64(np.int64(seen)) * TO_UNIT >= exposure[slot]:
                                continue
                        ctr = predicted_ctr(room.ctr[cell], value, buyers.discount[c])
                        bits = block.clicks[k] if clicks_drawn else word(index, tick, CLICK, buyers.key[c])
                        clicked = np.int64(is_click(bits, ctr))
                        if bots > 0 and is_click(word(index, tick, BOT, markets.key[m]), bots):
                            clicked += BY_BOT
                        cost = charge(bid, price, ctr, markets.first_price[m], buyers.per_click[c], bool(clicked > 0))
                        counts[t, cell, IMPRESSIONS] += 1
                        if tell_prices:
                            count_win(won, c, bid, price, value)
                        counts[t, cell, SPEND] += cost
                        counts[t, cell, CLICKS] += np.int64(clicked > 0)
                        if record_impressions:
                            impressions = with_room(impressions, n_impressions)
                            row = impressions[n_impressions]
                            row[0], row[1], row[2], row[3], row[4] = m, c, cell, tick, index
                            row[5], row[6], row[7] = event_time, cost, clicked
                            n_impressions += 1
                        if clicked & BY_PERSON:
                            clicks = with_room(clicks, n_clicks)
                            row = clicks[n_clicks]
                            row[0], row[1], row[2], row[3], row[4], row[5] = m, c, cell, tick, index, event_time
                            n_clicks += 1
                        if cost > 0:
                            past.charged[c] += cost
                            before = room.stance[s]
                            remaining = stakes.budget[c] - past.charged[c]
                            after = _stance_of(remaining, stakes.least[c], room.most[s])
                            room.stance[s] = after
                            if before == SURE and after != SURE:
                                cells = buyers.cell_start[c + 1] - buyers.cell_start[c]
                                _add_reached(counts[t, :, BIDS], block, s, k + 1, cells)
                                changed = True
                                sure = sure and after == OUT
                    if changed:
                        candidates = _list_bidders(room, seat, buyers, stakes, k + 1, size, slots, record_opportunities)
                        candidate = 0

                for s in range(seat.size):
                    if room.stance[s] == SURE:
                        c = seat[s]
                        cells = buyers.cell_start[c + 1] - buyers.cell_start[c]
                        _add_reached(counts[t, :, BIDS], block, s, size, cells)
            close_tick(seat, buyers, markets, past, counts[t], m, auctions)

    return (
        clicks[:n_clicks],
        impressions[:n_impressions],
        opportunities[:n_opportunities],
        qualities[:n_opportunities],
    )
