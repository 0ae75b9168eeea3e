"""The aggregate fidelity: what a tick brings to a campaign's cell, drawn at once instead of auction by auction.

Its law is that of `sim.exchange`. The auctions of a tick are the very same draw. They fall among audiences, reach a
campaign, show a creative, are won and clicked as binomial counts, with the exact probabilities of `sim.winning`; a few
wins (clicks, where these are charged) are drawn one by one, from auctions given that they are won, and what more than
`sim.tally.FEW` of them cost is one draw with their mean, their variance and their covariance with the clicks.
Conversions, their delays, values and refunds, price levels, troubles and wear are those of the detailed world, by the
same code.

Where it is an approximation:

- *Meeting campaigns*: each campaign meets the modelled competition alone, as if the account's others were absent. What
  it wins too much lies below the share of its wins that another one of the account would have entered and won: below
  the sum of the others' reach.
- *A budget that runs out inside a tick*: the tick's counts are cut in proportion, with the price of an impression (or
  click) kept. Spend never exceeds what remains, and falls short of it by less than one average price where the detailed
  world does by less than one bid.
- *The shape of sums*: more than a few prices together are gamma-distributed, which is right in mean and variance, and
  in the limit.
- *A capped click probability*: of a creative that wears out, the cap is that of the new creative. A machine's click
  costs what one by chance would.
- *People* are reached as expected, by the occupancy law (`sim.people`): their number has no variance of its own.
- Bids and prices are whole micros in the detailed world alone, which shows below a hundred micros or so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.campaigns import ControlState
from engine.events import COUNTS, IMPRESSIONS, PEOPLE, Events, Opportunities, TickCounts
from engine.policy import Batch
from engine.units import Int64
from sim.auction import check_call
from sim.columns import clock, stakes_of
from sim.exchange import CLICK_COLUMNS
from sim.people import ExpectedReach
from sim.tally import Cells, tally
from sim.winning import MOMENTS, Contest, tables_of
from sim.world import World, WorldFactory, WorldState

_RARELY = 4.5  # standard deviations of a value beyond which a predicted CTR above 1 is left alone
_CELL = CLICK_COLUMNS.index("cell")


@dataclass(frozen=True)
class AggregateWorldFactory(WorldFactory):
    """Builds worlds of the aggregate fidelity from the specification of a detailed one; see `sim.world.WorldFactory`.

    What only single events can tell is refused: records, prices of wins, attribution, and slots beside the first.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        slots = max((len(market.exposure) for market in self.markets), default=1)
        detail = "use the fidelity of single opportunities"
        if self.record_events or self.record_opportunities:
            raise ValueError(f"the aggregate fidelity draws counts, and nothing that could be recorded: {detail}")
        if self.tell_prices:
            raise ValueError(f"tell_prices (=True) needs single wins, which the aggregate fidelity sums up: {detail}")
        if self.attribution is not None:
            raise ValueError(f"the aggregate fidelity knows no single clicks to credit conversions to: {detail}")
        if slots > 1:
            raise ValueError(f"exposure (of {slots} slots) must be of one slot in the aggregate fidelity: {detail}")

    def __call__(self, members: Int64) -> AggregateWorld:
        """The world of the campaigns at these ascending positions, which are all those of their markets."""
        return AggregateWorld(self, np.asarray(members, dtype=np.int64))


class AggregateWorld(World):
    """Some campaigns' markets in the aggregate fidelity; contract and parameters are those of `World`."""

    def __init__(self, factory: AggregateWorldFactory, members: Int64) -> None:
        super().__init__(factory, members)
        contests, own = self._contests()
        self._tables = tables_of(contests)
        self._owner = self._set.cell_campaign
        self._lasting = bool((self._buyers.wear > 0).any() or (self._markets.strength != 0).any())
        cells = self._set.cells
        self._cells = Cells(
            market=self._market_of(),
            contest=own,
            capped=np.array([contests[each].cap < math.inf for each in own], dtype=np.bool_),
            rate=np.empty((0, cells)),
            split=np.zeros(self._markets.audience_start[-1], dtype=np.int64),
            ctr=np.zeros(cells),
            level=np.ones(cells),
            height=np.zeros(cells),
            above=np.zeros(cells),
            found=np.zeros((cells, MOMENTS)),
            personal=np.zeros(cells, dtype=np.int64),
            spent=np.zeros(len(self._set), dtype=np.int64),
        )

    def _market_of(self) -> Int64:
        """The market of every campaign, by its place among this world's."""
        markets = self._markets
        market = np.zeros(len(self._set), dtype=np.int64)
        market[markets.seat] = np.repeat(np.arange(markets.key.size), np.diff(markets.start))
        return market

    def _contests(self) -> tuple[list[Contest], Int64]:
        """The kinds of contest there are, and that of every cell."""
        buyers, markets, market = self._buyers, self._markets, self._market_of()
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

    def _count_people(self) -> None:
        """How many the people are, as far as anybody counts them."""
        self._reach = self._bookkeeper = None
        names = [audience.name for audience in self._factory.people]
        owner = self._set.cell_campaign.tolist()
        groups: dict[tuple[int, int], int] = {}
        group = np.full(self._set.cells, -1, dtype=np.int64)
        for cell, (c, segment) in enumerate(zip(owner, self._segments, strict=True)):
            if segment.audience is not None:
                group[cell] = groups.setdefault((c, names.index(segment.audience)), len(groups))
        audiences = [self._factory.people[audience] for _, audience in groups]
        self._expected = ExpectedReach(
            group,
            np.array([audience.people for audience in audiences], dtype=np.float64),
            np.array([audience.activity for audience in audiences], dtype=np.float64),
        )

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
            self._lasting,
        )
        counts[:, :, PEOPLE] = self._expected.update(counts[:, :, IMPRESSIONS])
        self._settle(clicks, np.ones(len(clicks)), counts, from_tick, to_tick)  # of those that convert, all do
        return Batch(
            TickCounts(from_tick, counts), Events.empty(), Opportunities.empty(), int(markets.auctions.sum()), None
        )

    def state(self) -> WorldState:
        """As that of a detailed world, but for people: of these, impressions so far."""
        return super().state()._replace(reach=self._expected.state())

    def restore(self, state: WorldState) -> None:
        """Go back to a state: what follows is then as it was, or would have been."""
        super().restore(state)
        assert state.reach is not None
        self._expected.restore(state.reach)
