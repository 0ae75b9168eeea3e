"""A tick of every campaign, drawn as counts: the kernel of the aggregate fidelity (see `sim.aggregate`)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from engine.events import BIDS, CLICKS, IMPRESSIONS, OPPORTUNITIES, SPEND
from engine.units import Bool, Float64, Int64
from sim.auction import UNREACHABLE, bid_for, charge
from sim.columns import Buyers, Clock, Markets, Past, Stakes
from sim.counting import amount, binomial
from sim.exchange import CLICK_COLUMNS, close_tick, with_room
from sim.kernel import helper, inner, kernel
from sim.response import is_click, predicted_ctr
from sim.rng import CUT, MOMENT, SEQUEL, SINGLE, SPLIT, TALLY, TO_UNIT, normal, philox, uniform
from sim.winning import (
    APPEAL,
    BY_CHANCE,
    BY_CHANCE_VARIANCE,
    COVARIANCE,
    LOG_WIN,
    PAID,
    PAID_VARIANCE,
    Tables,
    crest,
    heat_of,
    quote,
)

FEW = 8
"""So many wins, or charged clicks, of a cell and tick are drawn one by one."""

_TRIES = 64  # at an auction that is won against the reserve too; then it is won at the reserve
_RAREST = 2e-11  # as far out as `normal` reaches


class Cells(NamedTuple):
    """What the kernel needs of n campaigns and their cells beside `sim.exchange.Buyers`, and scratch for one tick."""

    market: Int64  # int64[n]
    contest: Int64  # int64[cells], of `sim.winning.Tables`
    capped: Bool  # bool[cells], whether the predicted CTR may come to its cap
    rate: Float64  # float64[t, cells], or [1, cells]: probability that a person's click converts
    split: Int64  # int64[audiences of all markets], auctions about each
    ctr: Float64  # float64[cells], at the opening of the tick
    level: Float64  # float64[cells], of the competition's prices, micros
    height: Float64  # float64[cells], log bid - log level
    above: Float64  # float64[cells], log bid - log reserve
    found: Float64  # float64[cells, MOMENTS]
    personal: Int64  # int64[cells], clicks of people
    spent: Int64  # int64[n], as if the budget did not matter; below 0 where a campaign is out


@kernel
def tally(
    markets: Markets,
    buyers: Buyers,
    stakes: Stakes,
    clock: Clock,
    past: Past,
    counts: Int64,
    tables: Tables,
    cells: Cells,
    lasting: bool,  # noqa: FBT001 - a kernel takes columns
) -> Any:
    """Draw every cell's counts of a span of ticks.

    Each stage goes over all campaigns: a call that hands over so many columns costs as much as drawing one of them.
    Adds to `counts` (int64[t, cells, len(COUNTS)], all but what follows a click) and brings `past` up to date;
    `lasting` is whether a tick leaves anything behind but charges. Returns a table of those clicks that convert, its
    columns as in `CLICK_COLUMNS`.
    """
    clicks = np.empty((64, len(CLICK_COLUMNS)), dtype=np.int64)
    used = 0
    for t in range(counts.shape[0]):
        tick = clock.from_tick + t
        _split(cells, markets, t, tick)
        _open_cells(cells, buyers, stakes, past, clock.new_day[t], t)
        _reach(counts, cells, buyers, stakes, markets, t, tick)
        _price(cells, markets, buyers, stakes, past, t)
        quote(tables, cells.contest, cells.height, cells.above, cells.found)
        _play(counts, cells, tables, markets, buyers, stakes, t, tick)
        _pay(counts, cells, buyers, stakes, past, t, tick)
        clicks, used = _converting(clicks, used, cells, buyers, clock, t)
        if lasting:
            for m in range(markets.key.size):
                seat = markets.seat[markets.start[m] : markets.start[m + 1]]
                close_tick(seat, buyers, markets, past, counts[t], m, markets.auctions[t, m])
    return clicks[:used]


@inner
def _split(cells: Cells, markets: Markets, t: int, tick: int) -> None:
    """How many auctions are about each audience."""
    for m in range(markets.key.size):
        left = markets.auctions[t, m]
        before = 0.0
        last = markets.audience_start[m + 1] - 1
        for a in range(markets.audience_start[m], last):
            number = np.uint64(a - markets.audience_start[m])
            bits = philox(number, np.uint64(tick), np.uint64(SPLIT), np.uint64(0), markets.key[m])[0]
            upto = markets.audience_share[a]
            cells.split[a] = binomial(left, (upto - before) / (1.0 - before), uniform(bits))
            left -= cells.split[a]
            before = upto
        cells.split[last] = left


@inner
def _open_cells(
    cells: Cells,
    buyers: Buyers,
    stakes: Stakes,
    past: Past,
    new_day: bool,  # noqa: FBT001 - likewise
    t: int,
) -> None:
    """Who takes part in a tick, and how creatives are clicked."""
    for c in range(buyers.key.size):
        if new_day and buyers.daily[c]:
            past.charged[c] = 0
        idle = stakes.paused[min(t, stakes.paused.shape[0] - 1), c]
        cells.spent[c] = -1 if idle or stakes.budget[c] - past.charged[c] < stakes.least[c] else 0
    for cell in range(buyers.ctr.size):
        ctr = buyers.ctr[cell]
        if buyers.wear[cell] > 0:
            past.frequency[cell] *= buyers.decay[cell]
            ctr *= (1.0 + past.frequency[cell]) ** -buyers.wear[cell]
        cells.ctr[cell] = ctr
        cells.personal[cell] = 0


@inner
def _reach(counts: Int64, cells: Cells, buyers: Buyers, stakes: Stakes, markets: Markets, t: int, tick: int) -> None:
    """How many auctions reach each campaign, on the cell each would show."""
    row = min(t, stakes.share.shape[0] - 1)
    for c in range(buyers.key.size):
        creatives = buyers.creative_start[c]
        last = buyers.creative_start[c + 1] - 1
        audiences = buyers.audience_start[c + 1] - buyers.audience_start[c]
        for a in range(audiences):
            left = cells.split[markets.audience_start[cells.market[c]] + a]
            before = 0.0  # the part of the auctions that is dealt with
            for creative in range(creatives, last + 1):
                place = (creative - creatives) * audiences + a
                upto = stakes.share[row, creative]
                upto = buyers.reach[c] * (upto if creative < last and upto <= 1.0 else 1.0)
                reached = left
                if upto < 1.0:
                    bits = philox(np.uint64(place), np.uint64(tick), np.uint64(TALLY), np.uint64(0), buyers.key[c])[0]
                    reached = binomial(left, (upto - before) / (1.0 - before), uniform(bits))
                counts[t, buyers.cell_start[c] + place, OPPORTUNITIES] = reached
                left -= reached
                before = upto


@inner
def _price(cells: Cells, markets: Markets, buyers: Buyers, stakes: Stakes, past: Past, t: int) -> None:
    """Where every cell's bid stands against the competition and the reserve.

    Where competing prices do not vary, the least of them and of the reserve is the level, in whole micros.
    """
    for c in range(buyers.key.size):
        m = cells.market[c]
        flat = markets.competitors[m] == 0 or markets.sigma[m] == 0
        log_level = markets.log_level[t, m] + markets.strength[m] * past.pressure[m]
        audiences = buyers.audience_start[c + 1] - buyers.audience_start[c]
        for cell in range(buyers.cell_start[c], buyers.cell_start[c + 1]):
            audience = (cell - buyers.cell_start[c]) % audiences
            log_price = log_level + markets.audience_log_price[markets.audience_start[m] + audience]
            log_bid = stakes.log_bid[buyers.audience_start[c] + audience]
            level = math.exp(log_price)
            if flat:
                level = max(np.rint(level) if markets.competitors[m] > 0 else 0.0, markets.reserve[m], 1.0)
                log_price = math.log(level)
            cells.level[cell] = level
            cells.height[cell] = log_bid - log_price
            cells.above[cell] = np.inf
            if markets.reserve[m] > 0:
                cells.above[cell] = log_bid - math.log(np.float64(markets.reserve[m]))


@inner
def _play(  # noqa: C901, PLR0912, PLR0915 - the cases of one cell, side by side
    counts: Int64, cells: Cells, tables: Tables, markets: Markets, buyers: Buyers, stakes: Stakes, t: int, tick: int
) -> None:
    """What every cell wins in a tick, and what it costs, as if the budget did not matter."""
    for c in range(buyers.key.size):
        if cells.spent[c] < 0:
            continue
        m = cells.market[c]
        key, per_click, discount = buyers.key[c], buyers.per_click[c], buyers.discount[c]
        first_price, reserve = markets.first_price[m], max(markets.reserve[m], 1)
        seen = markets.exposure[markets.slot_start[m]]
        bots = markets.bots[min(t, markets.bots.shape[0] - 1), m]
        first = buyers.cell_start[c]
        audiences = buyers.audience_start[c + 1] - buyers.audience_start[c]
        for cell in range(first, buyers.cell_start[c + 1]):
            bid = stakes.bid[buyers.audience_start[c] + (cell - first) % audiences]
            opportunities = counts[t, cell, OPPORTUNITIES]
            if opportunities == 0 or bid < 1:
                continue
            counts[t, cell, BIDS] = opportunities
            chance = min(math.exp(cells.found[cell, LOG_WIN]), 1.0) * seen
            place, when = np.uint64(cell - first), np.uint64(tick)
            words = philox(place, when, np.uint64(TALLY), np.uint64(0), key)
            won = binomial(opportunities, chance, uniform(words[1]))
            if won == 0:
                continue
            contest, ctr, level = cells.contest[cell], cells.ctr[cell], cells.level[cell]
            flat = tables.value_sigma[contest] == 0
            unit = np.float64(bid) if first_price else level
            appeal = min(cells.found[cell, APPEAL] * ctr, 1.0)
            most: Any = UNREACHABLE  # that one click, or impression, may cost
            if per_click and not cells.capped[cell]:
                most = np.int64(np.float64(bid) / (ctr * discount))
            elif flat and not per_click:
                most = bid

            few = not per_click and won <= FEW
            clicked = np.int64(0) if few else binomial(won, appeal, uniform(words[2]))
            if few or (per_click and clicked <= FEW):
                contest_of = (
                    tables.price_sigma[contest],
                    tables.shared[contest],
                    tables.own[contest],
                    (cells.height[cell] - tables.first_bid[contest]) * tables.per_bid[contest],
                    tables.bids[contest],
                    tables.heat_start[contest],
                    tables.competitors[contest],
                )
                lot = (bid, reserve, cells.height[cell], level, ctr, discount, first_price, per_click)
                singles = won if few else clicked
                clicked, cost = _one_by_one(tables.heat, contest_of, lot, singles, (place, when, key))
            elif per_click:
                n = np.float64(clicked)
                mean = n * (unit / ctr * cells.found[cell, PAID] - 0.5)  # rounded down
                variance = n * (unit / ctr) ** 2 * cells.found[cell, PAID_VARIANCE]
                cost = _bounded(mean, variance, words[3], 0, most, clicked)
            else:
                n, uncertain = np.float64(won), appeal * (1.0 - appeal)
                mean = n * (unit * cells.found[cell, PAID] - (0.5 if first_price and not flat else 0.0))
                variance = n * unit * unit * cells.found[cell, PAID_VARIANCE]
                if uncertain > 0.0:
                    slope = unit * ctr * cells.found[cell, COVARIANCE] / uncertain
                    mean += slope * (np.float64(clicked) - n * appeal)
                    variance -= slope * slope * n * uncertain
                cost = _bounded(mean, variance, words[3], reserve, most, won)

            cells.personal[cell] = clicked
            if bots > 0.0:
                words = philox(place, when, np.uint64(SEQUEL), np.uint64(0), key)
                more = binomial(won - clicked, bots, uniform(words[1]))
                if per_click:
                    n = np.float64(more)
                    mean = n * (unit / ctr * cells.found[cell, BY_CHANCE] - 0.5)
                    variance = n * (unit / ctr) ** 2 * cells.found[cell, BY_CHANCE_VARIANCE]
                    cost += _bounded(mean, variance, words[2], 0, most, more)
                clicked += more
            counts[t, cell, IMPRESSIONS] = won
            counts[t, cell, CLICKS] = clicked
            counts[t, cell, SPEND] = cost
            cells.spent[c] += cost


@helper
def _one_by_one(heats: Float64, contest: Any, lot: Any, many: Any, at: Any) -> Any:
    """How many of so many won impressions (or clicks, where these are charged) are clicked, and what they cost.

    Each is drawn as won against the competition, and again where it then fails the reserve or what a cap leaves of its
    click probability: rejection keeps the law.
    """
    sigma, shared, own, grid_place, bids, start, competitors = contest
    bid, reserve, height, level, ctr, discount, first_price, per_click = lot
    place, when, key = at
    clicked, cost = np.int64(0), np.int64(0)
    for number in range(many):
        log_price, log_value, offer, bits = 0.0, 0.0, reserve, np.uint64(0)
        for trial in range(_TRIES):
            draw = philox(place, when, np.uint64(SINGLE), np.uint64(number * _TRIES + trial), key)
            bits = draw[2]
            heat = heat_of(heats, start, grid_place, bids, normal(uniform(draw[0])))
            log_price = sigma * crest(competitors, heat)
            log_value = shared * heat
            if own > 0:
                tilt = own if per_click else 0.0
                log_value += own * _above((log_price - height - log_value) / own, tilt, draw[1])
            offer = bid_for(bid, math.exp(log_value))
            if offer >= reserve and (not per_click or _uncapped(ctr * math.exp(log_value) * discount, draw[3])):
                break
            offer, log_value = reserve, math.log(np.float64(reserve) / np.float64(bid))
        price = min(max(np.int64(np.rint(level * math.exp(log_price))), reserve), offer)
        predicted = predicted_ctr(ctr, math.exp(log_value), discount)
        click = per_click or is_click(bits, predicted)
        clicked += np.int64(click)
        cost += charge(offer, price, predicted, first_price, per_click, click)
    return clicked, cost


@helper
def _above(bound: float, tilt: float, bits: Any) -> float:
    """A normal of mean `tilt` and variance 1, given that it is above a bound."""
    chance = 0.5 * math.erfc((bound - tilt) * math.sqrt(0.5))
    return tilt - normal(min(max(uniform(bits) * chance, _RAREST), 1.0 - _RAREST))


@helper
def _uncapped(likely: float, bits: Any) -> bool:
    """Whether a click that would be as likely as this is one, where no probability is above 1."""
    return bool(np.float64(np.int64(bits)) * TO_UNIT * likely < 1.0)


@helper
def _bounded(mean: float, variance: float, bits: Any, least: int, most: Any, many: Any) -> Any:
    """What so many impressions, or clicks, cost together, each at least and at most so much."""
    if many == 0:
        return np.int64(0)
    cost: Any = np.int64(np.rint(amount(mean, variance, normal(uniform(bits)))))
    cost = max(cost, many * least)
    return min(cost, many * most) if most < UNREACHABLE else cost


@inner
def _pay(counts: Int64, cells: Cells, buyers: Buyers, stakes: Stakes, past: Past, t: int, tick: int) -> None:
    """Charge every campaign for its tick, which is cut to what remains of its budget, in proportion."""
    for c in range(buyers.key.size):
        remaining = stakes.budget[c] - past.charged[c]
        if cells.spent[c] <= remaining:
            past.charged[c] += max(cells.spent[c], 0)
            continue
        part = np.float64(remaining) / np.float64(cells.spent[c])
        left = remaining
        for cell in range(buyers.cell_start[c], buyers.cell_start[c + 1]):
            won, clicked, cost = counts[t, cell, IMPRESSIONS], counts[t, cell, CLICKS], counts[t, cell, SPEND]
            entered = np.int64(np.float64(counts[t, cell, BIDS]) * part)
            place = np.uint64(cell - buyers.cell_start[c])
            words = philox(place, np.uint64(tick), np.uint64(CUT), np.uint64(0), buyers.key[c])
            seen = np.int64(np.float64(won) * part + uniform(words[0]))
            clicks = np.int64(np.float64(clicked) * part + uniform(words[1]))
            sold = clicked if buyers.per_click[c] else won
            if cost > 0:
                affordable = np.int64(np.float64(left) * np.float64(sold) / np.float64(cost))
                kept = min(clicks if buyers.per_click[c] else seen, affordable)
                paid = min(np.int64(np.float64(cost) * np.float64(kept) / np.float64(sold)), left)
                left -= paid
                counts[t, cell, SPEND] = paid
                clicks, seen = (kept, max(seen, kept)) if buyers.per_click[c] else (min(clicks, kept), kept)
            seen = max(seen, clicks)
            counts[t, cell, BIDS] = max(entered, seen)
            counts[t, cell, IMPRESSIONS] = seen
            counts[t, cell, CLICKS] = clicks
            if clicked > 0:
                people = np.float64(cells.personal[cell]) * np.float64(clicks) / np.float64(clicked)
                cells.personal[cell] = min(np.int64(people + uniform(words[2])), clicks)
        past.charged[c] += remaining - left


@inner
def _converting(clicks: Any, used: Any, cells: Cells, buyers: Buyers, clock: Clock, t: int) -> Any:
    """Write down the clicks that convert, each at a time of its own within the tick."""
    when = np.uint64(clock.from_tick + t)
    row = min(t, cells.rate.shape[0] - 1)
    for c in range(buyers.key.size):
        number = 0
        for cell in range(buyers.cell_start[c], buyers.cell_start[c + 1]):
            if cells.personal[cell] == 0:
                continue
            place = np.uint64(cell - buyers.cell_start[c])
            bits = philox(place, when, np.uint64(SEQUEL), np.uint64(0), buyers.key[c])[0]
            for _ in range(binomial(cells.personal[cell], cells.rate[row, cell], uniform(bits))):
                moment = philox(np.uint64(number), when, np.uint64(MOMENT), np.uint64(0), buyers.key[c])[0]
                clicks = with_room(clicks, used)
                clicks[used, 0], clicks[used, 1], clicks[used, 2] = cells.market[c], c, cell
                clicks[used, 3], clicks[used, 4] = clock.from_tick + t, number
                passed = np.int64(uniform(moment) * np.float64(clock.tick_us))
                clicks[used, 5] = clock.opens + t * clock.tick_us + passed
                used += 1
                number += 1
    return clicks, used
