"""The aggregate fidelity: what a tick brings to a campaign's cell, drawn at once instead of auction by auction.

Its law is that of `sim.exchange`. The auctions of a tick are the very same draw. They fall among audiences, reach a
campaign, show a creative, are won and clicked as binomial counts, with the exact probabilities of `sim.winning`; up to
`FEW` wins (clicks, where these are charged) are drawn one by one, from auctions given that they are won, and what more of
them cost is one draw with their mean, their variance and their covariance with the clicks. Conversions, their delays,
values and refunds, price levels, troubles and wear are those of the detailed world, by the same code.

Where it is an approximation:

- *Meeting campaigns*: each campaign meets the modelled competition alone, as if the account's others were absent. What
  it wins too much lies below the share of its wins that another one of the account would have entered and won: below
  the sum of the others' reach.
- *A budget that runs out inside a tick*: the tick's counts are cut in proportion, with the price of an impression (or
  click) kept. Spend never exceeds what remains, and falls short of it by less than one average price where the detailed
  world does by less than one bid.
- *The shape of sums*: more than `FEW` prices together are gamma-distributed, which is right in mean and variance, and
  in the limit.
- *A capped click probability*: of a creative that wears out, the cap is that of the new creative. A machine's click
  costs what one by chance would.
- *People* are reached as expected, by the occupancy law (`sim.people`): their number has no variance of its own.
- Bids and prices are whole micros in the detailed world alone, which shows below a hundred micros or so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import ControlState
from engine.events import BIDS, CLICKS, COUNTS, IMPRESSIONS, OPPORTUNITIES, PEOPLE, SPEND, Events, Opportunities, TickCounts
from engine.policy import Batch
from engine.units import Bool, Float64, Int64
from sim.auction import bid_for, charge, check_call
from sim.conversions import conversions_of
from sim.counting import amount, binomial
from sim.exchange import CLICK_COLUMNS, Buyers, Clock, Markets, Past, Stakes, close_tick, stakes_of, with_room
from sim.kernel import helper, inner, kernel
from sim.response import is_click, predicted_ctr
from sim.rng import CUT, MOMENT, SEQUEL, SINGLE, SPLIT, TALLY, TO_UNIT, normal, philox, uniform
from sim.winning import (
    APPEAL,
    BY_CHANCE,
    BY_CHANCE_VARIANCE,
    COVARIANCE,
    LOG_WIN,
    MOMENTS,
    PAID,
    PAID_VARIANCE,
    Contest,
    Tables,
    heat_of,
    look_up,
    tables_of,
)
from sim.world import World, WorldFactory, WorldState, clock

FEW = 8
"""So many wins, or charged clicks, of a cell and tick are drawn one by one."""

_TRIES = 64  # at an auction that is won against the reserve too; then it is won at the reserve
_RARELY = 4.5  # standard deviations of a value beyond which a predicted CTR above 1 is left alone
_RAREST = 2e-11  # as far out as `normal` reaches


@dataclass(frozen=True)
class AggregateWorldFactory(WorldFactory):
    """Builds worlds of the aggregate fidelity from the specification of a detailed one; see `sim.world.WorldFactory`.

    What only single events can tell is refused: records, attribution, and slots beside the first.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        slots = max((len(market.exposure) for market in self.markets), default=1)
        detail = "use the fidelity of single opportunities"
        if self.record_events or self.record_opportunities:
            raise ValueError(f"the aggregate fidelity draws counts, and nothing that could be recorded: {detail}")
        if self.attribution is not None:
            raise ValueError(f"the aggregate fidelity knows no single clicks to credit conversions to: {detail}")
        if slots > 1:
            raise ValueError(f"exposure (of {slots} slots) must be of one slot in the aggregate fidelity: {detail}")

    def __call__(self, members: Int64) -> AggregateWorld:
        """The world of the campaigns at these ascending positions, which are all those of their markets."""
        return AggregateWorld(self, np.asarray(members, dtype=np.int64))


class Cells(NamedTuple):
    """What the kernel needs of every cell beside `sim.exchange.Buyers`, and scratch for one tick."""

    contest: Int64  # int64[cells], of `sim.winning.Tables`
    capped: Bool  # bool[cells], whether the predicted CTR may come to its cap
    rate: Float64  # float64[t, cells], or [1, cells]: probability that a person's click converts
    ctr: Float64  # float64[cells], at the opening of the tick
    personal: Int64  # int64[cells], clicks of people
    found: Float64  # float64[MOMENTS]
    split: Int64  # int64[audiences], auctions of the tick


class AggregateWorld(World):
    """The markets of some campaigns of a run, in the aggregate fidelity; contract and parameters are those of `World`."""

    def __init__(self, factory: AggregateWorldFactory, members: Int64) -> None:
        super().__init__(factory, members)
        contests, own = self._contests()
        self._tables = tables_of(contests)
        self._owner = self._set.cell_campaign
        audiences = np.diff(self._markets.audience_start).max(initial=1)
        self._cells = Cells(
            contest=own,
            capped=np.array([contests[each].cap < math.inf for each in own], dtype=np.bool_),
            rate=np.empty((0, self._set.cells)),
            ctr=np.zeros(self._set.cells),
            personal=np.zeros(self._set.cells, dtype=np.int64),
            found=np.zeros(MOMENTS),
            split=np.zeros(audiences, dtype=np.int64),
        )

    def _contests(self) -> tuple[list[Contest], Int64]:
        """The kinds of contest there are, and that of every cell."""
        buyers, markets = self._buyers, self._markets
        market = np.zeros(len(self._set), dtype=np.int64)
        market[markets.seat] = np.repeat(np.arange(markets.key.size), np.diff(markets.start))
        known: dict[Contest, int] = {}
        own = []
        for cell, c in enumerate(self._set.cell_campaign):
            m = market[c]
            flat = bool(markets.competitors[m] == 0 or markets.sigma[m] == 0)
            sigma, ctr = float(buyers.sigma[c]), float(buyers.ctr[cell])
            contest = Contest(
                price_sigma=0.0 if flat else float(markets.sigma[m]),
                value_sigma=sigma,
                correlation=0.0 if markets.competitors[m] == 0 else float(buyers.correlation[c]),
                competitors=max(int(markets.competitors[m]), 1),
                reserve=bool(markets.reserve[m] > 0 and not flat),
                first_price=bool(markets.first_price[m]),
                per_click=bool(buyers.per_click[c]),
                cap=1 / ctr if ctr * math.exp((_RARELY - 0.5 * sigma) * sigma) > 1 and sigma > 0 else math.inf,
            )
            own.append(known.setdefault(contest, len(known)))
        return list(known), np.array(own, dtype=np.int64)

    def _count_people(self, joined: Int64) -> None:
        """Groups of cells that show to the same people, as far as anybody counts them."""
        super()._count_people(joined)

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:
        """Draw the ticks [from_tick, to_tick) under the members' controls."""
        grid = self._factory.grid
        check_call(grid, from_tick, to_tick, controls, self._set)
        counts = np.zeros((to_tick - from_tick, self._set.cells, len(COUNTS)), dtype=np.int64)
        markets = self._open_markets(from_tick, to_tick)
        eligible = self._approvals.over(from_tick, to_tick) > 0
        rate = self._rate[np.newaxis] * self._rates.over(from_tick, to_tick)[:, self._owner]
        clicks = tally(
            markets,
            self._buyers,
            stakes_of(self._buyers, controls, eligible),
            clock(grid, from_tick, to_tick),
            self._past,
            counts,
            self._tables,
            self._cells._replace(rate=np.minimum(rate, 1.0)),
        )
        self._settle(clicks, counts, from_tick, to_tick)
        return Batch(
            TickCounts(from_tick, counts), Events.empty(), Opportunities.empty(), int(markets.auctions.sum()), None
        )

    def _convert(self, clicks: Int64, from_tick: int, to_tick: int, ends: int) -> Int64:  # noqa: ARG002 - the rates are drawn
        return conversions_of(clicks, np.ones(len(clicks)), self._worth[clicks[:, _CELL]], self._after, ends)


_CELL = CLICK_COLUMNS.index("cell")


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
) -> Any:
    """Draw every cell's counts of a span of ticks.

    Adds to `counts` (int64[t, cells, len(COUNTS)], all but what follows a click) and brings `past` up to date. Returns
    a table of those clicks that convert, its columns as in `CLICK_COLUMNS`.
    """
    clicks = np.empty((64, len(CLICK_COLUMNS)), dtype=np.int64)
    used = 0
    for m in range(markets.key.size):
        seat = markets.seat[markets.start[m] : markets.start[m + 1]]
        first = markets.audience_start[m]
        shares = markets.audience_share[first : markets.audience_start[m + 1]]
        for t in range(counts.shape[0]):
            tick = clock.from_tick + t
            auctions = markets.auctions[t, m]
            log_level = markets.log_level[t, m] + markets.strength[m] * past.pressure[m]
            bots = markets.bots[min(t, markets.bots.shape[0] - 1), m]
            _split(cells.split, shares, auctions, tick, markets.key[m])
            for s in range(seat.size):
                c = seat[s]
                if clock.new_day[t] and buyers.daily[c]:
                    past.charged[c] = 0
                _open_cells(cells, buyers, past, c)
                _reach(counts[t], cells, buyers, stakes, c, t, tick, shares.size)
                remaining = stakes.budget[c] - past.charged[c]
                if remaining < stakes.least[c] or stakes.paused[min(t, stakes.paused.shape[0] - 1), c]:
                    continue
                spent = _play(
                    counts[t], cells, tables, markets, buyers, stakes, m, c, tick, shares.size, log_level, bots
                )
                if spent > remaining:
                    spent = _cut(counts[t], cells, buyers, c, tick, remaining, spent)
                past.charged[c] += spent
                clicks, used = _converting(clicks, used, counts[t], cells, buyers, clock, m, c, t)
            close_tick(seat, buyers, markets, past, counts[t], m, auctions)
    return clicks[:used]


@inner
def _split(split: Int64, shares: Float64, auctions: int, tick: int, key: Any) -> None:
    """How many auctions are about each audience; `shares` are thresholds, falling places of [0, 1)."""
    left: Any = auctions
    before = 0.0
    for a in range(shares.size - 1):
        bits = philox(np.uint64(a), np.uint64(tick), np.uint64(SPLIT), np.uint64(0), key)[0]
        split[a] = binomial(left, (shares[a] - before) / (1.0 - before), uniform(bits))
        left -= split[a]
        before = shares[a]
    split[shares.size - 1] = left


@helper
def _open_cells(cells: Cells, buyers: Buyers, past: Past, c: int) -> None:
    """How a campaign's creatives are clicked when a tick opens."""
    for cell in range(buyers.cell_start[c], buyers.cell_start[c + 1]):
        ctr = buyers.ctr[cell]
        if buyers.wear[cell] > 0:
            past.frequency[cell] *= buyers.decay[cell]
            ctr *= (1.0 + past.frequency[cell]) ** -buyers.wear[cell]
        cells.ctr[cell] = ctr
        cells.personal[cell] = 0


@inner
def _reach(
    counts: Int64, cells: Cells, buyers: Buyers, stakes: Stakes, c: int, t: int, tick: int, audiences: int
) -> None:
    """How many auctions reach a campaign, on the cell each would show."""
    first, creatives = buyers.cell_start[c], buyers.creative_start[c]
    several = buyers.creative_start[c + 1] - creatives
    share = stakes.share[min(t, stakes.share.shape[0] - 1)]
    for a in range(audiences):
        left = cells.split[a]
        before = 0.0  # the part of the auctions that is dealt with
        for j in range(several):
            upto = share[creatives + j] if j < several - 1 and share[creatives + j] <= 1.0 else 1.0
            upto *= buyers.reach[c]
            place = j * audiences + a
            chance = (upto - before) / (1.0 - before) if before < 1.0 else 0.0
            if chance < 1.0:
                bits = philox(np.uint64(place), np.uint64(tick), np.uint64(TALLY), np.uint64(0), buyers.key[c])[0]
                reached = binomial(left, chance, uniform(bits))
            else:
                reached = left
            counts[first + place, OPPORTUNITIES] = reached
            left -= reached
            before = upto


@inner
def _play(
    counts: Int64,
    cells: Cells,
    tables: Tables,
    markets: Markets,
    buyers: Buyers,
    stakes: Stakes,
    m: int,
    c: int,
    tick: int,
    audiences: int,
    log_level: float,
    bots: float,
) -> Any:
    """What a campaign's cells win in a tick, and what it costs, as if the budget did not matter; returns the cost."""
    spent: Any = np.int64(0)
    first = buyers.cell_start[c]
    reserve = markets.reserve[m]
    for cell in range(first, buyers.cell_start[c + 1]):
        row = counts[cell]
        audience = (cell - first) % audiences
        bid = stakes.bid[buyers.audience_start[c] + audience]
        if row[OPPORTUNITIES] == 0 or bid < 1:
            continue
        row[BIDS] = row[OPPORTUNITIES]
        contest = cells.contest[cell]
        log_bid = stakes.log_bid[buyers.audience_start[c] + audience]
        level = math.exp(log_level + markets.audience_log_price[markets.audience_start[m] + audience])
        if tables.price_sigma[contest] == 0:
            level = max(np.rint(level) if markets.competitors[m] > 0 else 0.0, np.float64(max(reserve, 1)))
        height = log_bid - math.log(level)
        above = log_bid - math.log(np.float64(reserve)) if reserve > 0 else np.inf
        if not look_up(tables, contest, height, above, cells.found):
            continue
        words = philox(np.uint64(cell - first), np.uint64(tick), np.uint64(TALLY), np.uint64(0), buyers.key[c])
        seen = markets.exposure[markets.slot_start[m]]
        won = binomial(row[OPPORTUNITIES], min(math.exp(cells.found[LOG_WIN]), 1.0) * seen, uniform(words[1]))
        if won == 0:
            continue
        row[IMPRESSIONS] = won
        appeal = min(cells.found[APPEAL] * cells.ctr[cell], 1.0)
        lot = (c, cell, cell - first, tick, contest, bid, height, level, reserve)
        if buyers.per_click[c]:
            clicked = binomial(won, appeal, uniform(words[2]))
            cost = _cost_of_clicks(cells, tables, markets.first_price[m], buyers, lot, clicked, words[3])
        elif won <= FEW:
            clicked, cost = _singly(cells, tables, markets.first_price[m], buyers, lot, won)
        else:
            clicked = binomial(won, appeal, uniform(words[2]))
            cost = _cost_of_wins(cells, tables, markets.first_price[m], lot, won, clicked, appeal, words[3])
        cells.personal[cell] = clicked
        if bots > 0:
            more, their_cost = _machines(cells, markets.first_price[m], buyers, lot, won - clicked, bots)
            clicked += more
            cost += their_cost
        row[CLICKS] = clicked
        row[SPEND] = cost
        spent += cost
    return spent


@inner
def _cost_of_wins(
    cells: Cells,
    tables: Tables,
    first_price: bool,  # noqa: FBT001 - a kernel takes columns
    lot: Any,
    won: int,
    clicked: int,
    appeal: float,
    bits: Any,
) -> int:
    """What many impressions cost, given how many of them are clicked."""
    _, cell, _, _, contest, bid, _, level, reserve = lot
    found, n = cells.found, np.float64(won)
    flat = tables.value_sigma[contest] == 0
    unit = np.float64(bid) if first_price else level
    mean, variance = n * unit * found[PAID], n * unit * unit * found[PAID_VARIANCE]
    uncertain = appeal * (1.0 - appeal)
    if uncertain > 0:
        slope = unit * cells.ctr[cell] * found[COVARIANCE] / uncertain
        mean += slope * (np.float64(clicked) - n * appeal)
        variance -= slope * slope * n * uncertain
    if first_price and not flat:
        mean -= 0.5 * n  # bids are rounded down
    cost = np.int64(np.rint(amount(mean, variance, normal(uniform(bits)))))
    cost = max(cost, won * max(reserve, 1))
    return min(cost, won * bid) if flat else cost


@inner
def _cost_of_clicks(
    cells: Cells,
    tables: Tables,
    first_price: bool,  # noqa: FBT001 - likewise
    buyers: Buyers,
    lot: Any,
    clicked: int,
    bits: Any,
) -> int:
    """What clicks cost where these are charged."""
    c, cell, place, tick, contest, bid, height, level, reserve = lot
    if clicked <= FEW:
        cost = np.int64(0)
        for number in range(clicked):
            cost += _single(cells, tables, first_price, buyers, lot, number)[0]
        return cost
    found, n, ctr = cells.found, np.float64(clicked), cells.ctr[cell]
    unit = (np.float64(bid) if first_price else level) / ctr
    mean, variance = n * (unit * found[PAID] - 0.5), n * unit * unit * found[PAID_VARIANCE]
    cost = np.int64(np.rint(amount(mean, variance, normal(uniform(bits)))))
    if cells.capped[cell]:
        return cost
    return min(cost, clicked * np.int64(np.float64(bid) / (ctr * buyers.discount[c])))


@inner
def _machines(
    cells: Cells,
    first_price: bool,  # noqa: FBT001 - likewise
    buyers: Buyers,
    lot: Any,
    unclicked: int,
    bots: float,
) -> Any:
    """How many impressions that no person clicked are clicked by machines, and what these clicks cost."""
    c, cell, place, tick, _, bid, _, level, _ = lot
    words = philox(np.uint64(place), np.uint64(tick), np.uint64(SEQUEL), np.uint64(0), buyers.key[c])
    clicked = binomial(unclicked, bots, uniform(words[1]))
    cost = np.int64(0)
    if buyers.per_click[c] and clicked > 0:
        found, n, ctr = cells.found, np.float64(clicked), cells.ctr[cell]
        unit = (np.float64(bid) if first_price else level) / ctr
        mean, variance = n * unit * found[BY_CHANCE], n * unit * unit * found[BY_CHANCE_VARIANCE]
        cost = np.int64(np.rint(amount(mean, variance, normal(uniform(words[2])))))
        if not cells.capped[cell]:
            cost = min(cost, clicked * np.int64(np.float64(bid) / (ctr * buyers.discount[c])))
    return clicked, cost


@inner
def _singly(
    cells: Cells,
    tables: Tables,
    first_price: bool,  # noqa: FBT001 - likewise
    buyers: Buyers,
    lot: Any,
    won: int,
) -> Any:
    """How many of a few impressions are clicked, and what they cost."""
    clicked, cost = np.int64(0), np.int64(0)
    for number in range(won):
        price, click = _single(cells, tables, first_price, buyers, lot, number)
        cost += price
        clicked += np.int64(click)
    return clicked, cost


@inner
def _single(
    cells: Cells,
    tables: Tables,
    first_price: bool,  # noqa: FBT001 - likewise
    buyers: Buyers,
    lot: Any,
    number: int,
) -> Any:
    """An auction given that it is won (and clicked, where clicks are charged): what it costs, and whether it is clicked.

    It is drawn as won against the competition, and again where it then fails the reserve or what a cap leaves of its
    click probability: rejection keeps the law.
    """
    c, cell, place, tick, contest, bid, height, level, reserve = lot
    per_click = buyers.per_click[c]
    least, ctr = max(reserve, 1), cells.ctr[cell]
    sigma, shared, own = tables.price_sigma[contest], tables.shared[contest], tables.own[contest]
    tilt = own if per_click else 0.0
    for trial in range(_TRIES):
        which = np.uint64(number * _TRIES + trial)
        words = philox(np.uint64(place), np.uint64(tick), np.uint64(SINGLE), which, buyers.key[c])
        heat = heat_of(tables, contest, height, normal(uniform(words[0])))
        log_value = 0.0
        if own > 0:
            bound = (sigma * heat - height - shared * heat) / own
            chance = 0.5 * math.erfc((bound - tilt) * math.sqrt(0.5))
            rank = min(max(uniform(words[1]) * chance, _RAREST), 1.0 - _RAREST)
            log_value = shared * heat + own * (tilt - normal(rank))
        value = math.exp(log_value)
        offer = bid_for(bid, value)
        if offer < least:
            continue
        likely = ctr * value * buyers.discount[c]
        predicted = predicted_ctr(ctr, value, buyers.discount[c])
        if per_click and np.float64(np.int64(words[3])) * TO_UNIT * likely >= predicted:
            continue
        price = min(max(np.int64(np.rint(level * math.exp(sigma * heat))), least), offer)
        clicked = per_click or is_click(words[2], predicted)
        return charge(offer, price, predicted, first_price, per_click, clicked), clicked
    predicted = predicted_ctr(ctr, np.float64(least) / np.float64(bid), buyers.discount[c])
    return charge(least, least, predicted, first_price, per_click, per_click), per_click


@inner
def _cut(counts: Int64, cells: Cells, buyers: Buyers, c: int, tick: int, remaining: int, spent: int) -> Any:
    """Cut a campaign's tick to what remains of its budget, in proportion; returns what it then costs."""
    part = np.float64(remaining) / np.float64(spent)
    left: Any = remaining
    first = buyers.cell_start[c]
    charged_per_click = buyers.per_click[c]
    for cell in range(first, buyers.cell_start[c + 1]):
        row = counts[cell]
        if row[BIDS] == 0:
            continue
        row[BIDS] = np.int64(np.float64(row[BIDS]) * part)
        won, clicked, cost = row[IMPRESSIONS], row[CLICKS], row[SPEND]
        if won == 0:
            continue
        words = philox(np.uint64(cell - first), np.uint64(tick), np.uint64(CUT), np.uint64(0), buyers.key[c])
        sold = clicked if charged_per_click else won
        kept = np.int64(np.float64(sold) * part + uniform(words[0]))
        if cost > 0:
            kept = min(kept, np.int64(np.float64(left) * np.float64(sold) / np.float64(cost)))
            row[SPEND] = min(np.int64(np.float64(cost) * np.float64(kept) / np.float64(sold)), left)
            left -= row[SPEND]
        if charged_per_click:
            row[CLICKS] = kept
            row[IMPRESSIONS] = max(np.int64(np.float64(won) * part + uniform(words[1])), kept)
        else:
            row[IMPRESSIONS] = kept
            row[CLICKS] = min(np.int64(np.float64(clicked) * part + uniform(words[1])), kept)
        if clicked > 0:
            people = np.float64(cells.personal[cell]) * np.float64(row[CLICKS]) / np.float64(clicked)
            cells.personal[cell] = min(np.int64(people + uniform(words[2])), row[CLICKS])
        row[BIDS] = max(row[BIDS], row[IMPRESSIONS])
    return remaining - left


@inner
def _converting(
    clicks: Any, used: Any, counts: Int64, cells: Cells, buyers: Buyers, clock: Clock, m: int, c: int, t: int
) -> Any:
    """Write down a campaign's clicks that convert, each at a time of its own within the tick."""
    tick = clock.from_tick + t
    first = buyers.cell_start[c]
    number = 0
    for cell in range(first, buyers.cell_start[c + 1]):
        if cells.personal[cell] == 0:
            continue
        bits = philox(np.uint64(cell - first), np.uint64(tick), np.uint64(SEQUEL), np.uint64(0), buyers.key[c])[0]
        rate = cells.rate[min(t, cells.rate.shape[0] - 1), cell]
        for _ in range(binomial(cells.personal[cell], rate, uniform(bits))):
            moment = philox(np.uint64(number), np.uint64(tick), np.uint64(MOMENT), np.uint64(0), buyers.key[c])[0]
            clicks = with_room(clicks, used)
            row = clicks[used]
            row[0], row[1], row[2], row[3], row[4] = m, c, cell, tick, number
            row[5] = clock.opens + t * clock.tick_us + np.int64(uniform(moment) * np.float64(clock.tick_us))
            used += 1
            number += 1
    return clicks, used
