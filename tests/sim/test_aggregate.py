from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from engine.campaigns import Charging, ControlState, Period
from engine.events import (
    BIDS,
    CLICKS,
    CONVERSIONS,
    IMPRESSIONS,
    OPPORTUNITIES,
    PEOPLE,
    REFUNDS,
    SPEND,
    Events,
    Opportunities,
)
from engine.policy import EventSource
from sim.aggregate import AggregateWorldFactory
from sim.attribution import Attribution
from sim.auction import Answer, BotClicks, Drift, Market, PriceShock, Segment
from sim.people import Audience, ExpectedReach
from sim.traffic import Traffic, TrafficChange
from sim.troubles import Spell, Troubles
from sim.twin import Twin
from sim.world import WorldFactory
from tests.sim.builders import GRID, MARKET, Campaign, everyone, run, total, world_of
from tests.sim.fidelities import aggregate_of, in_segments

MARKETS = {
    "clicks": replace(MARKET, first_price=True, reserve_micros=1_500, bots=(BotClicks(5, 20, 0.1),)),
    "first": replace(MARKET, traffic=Traffic(300.0, 0.6, 20.0), first_price=True, answer=Answer(0.5, 0.3)),
    "second": replace(
        MARKET,
        traffic=Traffic(700.0, 0.6, 20.0, dispersion=0.1),
        shocks=(PriceShock(10, 20, 1.7),),
        competitors=4,
        drift=Drift(0.9, 0.1),
    ),
}
CAMPAIGNS = [
    Campaign("second", bid=9_000, reach=0.6, ctrs=(0.1, 0.02)),
    Campaign("first", bid=4_000, budget=900_000),
    Campaign("second", bid=9_000, reach=0.5, budget=2_000_000, period=Period.FLIGHT),
    Campaign("clicks", bid=5_000, charging=Charging.PER_CLICK, budget=3_000_000, ctrs=(0.1, 0.3, 0.05)),
    Campaign("clicks", bid=5_000, charging=Charging.PER_CLICK, reach=0.7),
    Campaign("second", bid=8_000, value_sigma=0.0),
    Campaign("second", bid=9_000, paused=True),
]
UNEVEN = (Segment(0.6, price=1.2, audience="all"), Segment(0.4, ctr=1.5, audience="all"))
WHOLE = (0, GRID.ticks)
TICK_BY_TICK = tuple(range(GRID.ticks + 1))


def scene() -> tuple[AggregateWorldFactory, ControlState]:
    """Everything that may be switched on."""
    factory, controls = in_segments(*world_of(CAMPAIGNS, MARKETS), [replace(each, audience=None) for each in UNEVEN])
    markets = tuple(replace(market, segments=UNEVEN) for market in factory.markets)
    n, creatives = len(factory.campaigns), len(factory.campaigns.creatives)
    response = replace(
        factory.response,
        correlation=np.linspace(-0.5, 0.5, n),
        wear=np.full(creatives, 0.3),
        rest_hours=np.full(creatives, 5.0),
    )
    conversions = replace(
        factory.conversions, refund_rate=np.full(n, 0.3), refund_hours=np.full(n, 2.0), per_click=np.full(n, 1.6)
    )
    troubles = Troubles(
        rates=(Spell(10, 20, 0.5, (0, 3)),), reports=(Spell(15, 30, 0.2, (0,)),), approvals=(Spell(3, 9, 0.0, (0,)),)
    )
    detailed = replace(
        factory,
        markets=markets,
        people=(Audience("all", 3_000, 0.8),),
        response=response,
        conversions=conversions,
        troubles=troubles,
    )
    return aggregate_of(detailed), controls


def test_an_aggregate_world_is_an_event_source_and_its_factory_travels() -> None:
    factory, controls = scene()
    copy = pickle.loads(pickle.dumps(factory))  # noqa: S301 - our own bytes
    world = copy(everyone(factory))
    assert isinstance(world, EventSource)
    batch = run(world, controls, WHOLE)
    assert np.array_equal(batch.counts.values, run(factory(everyone(factory)), controls, WHOLE).counts.values)
    assert batch.truth is None
    assert (len(batch.events), len(batch.opportunities)) == (len(Events.empty()), len(Opportunities.empty()))


def test_every_campaign_of_the_scene_does_something() -> None:
    factory, controls = scene()
    cells = factory.campaigns.cells_of(np.arange(6))
    counts = run(factory(everyone(factory)), controls, WHOLE).counts.values.sum(axis=0)
    assert (counts[cells][:, [OPPORTUNITIES, BIDS, IMPRESSIONS, CLICKS, SPEND, PEOPLE]] > 0).all()
    assert counts[:, [CONVERSIONS, REFUNDS]].sum(axis=0).min() > 50
    paused = factory.campaigns.cells_of(np.array([6]))
    assert (counts[paused, OPPORTUNITIES] > 0).all()
    assert not counts[paused, BIDS:].any()


@pytest.mark.parametrize("cut", [TICK_BY_TICK, (0, 7, 29, 48)])
def test_one_span_or_many_give_the_same(cut: tuple[int, ...]) -> None:
    factory, controls = scene()
    whole = run(factory(everyone(factory)), controls, WHOLE)
    other = run(factory(everyone(factory)), controls, cut)
    assert np.array_equal(other.counts.values, whole.counts.values)
    assert other.auctions == whole.auctions


def test_grouping_markets_into_worlds_changes_nothing() -> None:
    factory, controls = scene()
    whole = run(factory(everyone(factory)), controls, WHOLE).counts.values
    for groups in ([[0, 2, 5, 6], [1], [3, 4]], [[0, 1, 2, 5, 6], [3, 4]]):
        for members in (np.array(group) for group in groups):
            part = run(factory(members), controls.select(factory.campaigns, members), WHOLE).counts.values
            assert np.array_equal(part, whole[:, factory.campaigns.cells_of(members)])


def test_a_restored_world_goes_on_as_it_would_have() -> None:
    factory, controls = scene()
    world = factory(everyone(factory))
    world.advance(0, 17, controls)
    state = pickle.loads(pickle.dumps(world.state()))  # noqa: S301 - our own bytes
    rest = world.advance(17, 48, controls).counts.values
    other = factory(everyone(factory))
    for _ in range(2):
        other.restore(state)
        assert np.array_equal(other.advance(17, 48, controls).counts.values, rest)


def test_a_state_does_not_grow_with_the_run() -> None:
    factory, controls = world_of([Campaign(delay_hours=0.0, cvr=1.0)])
    world = aggregate_of(factory)(everyone(factory))
    sizes = []
    for from_tick, to_tick in pairwise(range(0, 49, 12)):
        world.advance(from_tick, to_tick, controls)
        sizes.append(len(pickle.dumps(world.state())))
    assert len(set(sizes)) == 1


def test_the_auctions_are_the_very_ones_of_the_detailed_world() -> None:
    factory, controls = world_of([Campaign(), Campaign(bid=3_000)], {"m": MARKETS["second"]})
    drawn, held = (run(each(everyone(factory)), controls, WHOLE) for each in (aggregate_of(factory), factory))
    assert drawn.auctions == held.auctions
    assert np.array_equal(drawn.counts.values[:, :, OPPORTUNITIES], held.counts.values[:, :, OPPORTUNITIES])


def test_audiences_hold_all_auctions_and_creatives_all_that_reach() -> None:
    factory, controls = scene()
    world = factory(everyone(factory))
    opportunities = run(world, controls, WHOLE).counts.values[:, :, OPPORTUNITIES]
    fully_reached = factory.campaigns.cells_of(np.array([5]))
    assert (
        opportunities[:, fully_reached].sum()
        == factory(np.array([0, 2, 5, 6]))
        .advance(0, 48, controls.select(factory.campaigns, np.array([0, 2, 5, 6])))
        .auctions
    )
    disapproved = factory.campaigns.cells_of(np.array([0]))[:2]
    assert not opportunities[3:9, disapproved].any()
    assert opportunities[9:, disapproved].all(axis=0).any()


@pytest.mark.parametrize("period", [Period.DAY, Period.FLIGHT])
@pytest.mark.parametrize("charging", [Charging.PER_IMPRESSION, Charging.PER_CLICK])
@pytest.mark.parametrize("first_price", [False, True])
def test_physics_hold_and_no_budget_is_exceeded(period: Period, charging: Charging, *, first_price: bool) -> None:
    market = replace(MARKET, first_price=first_price, reserve_micros=2_000, bots=(BotClicks(10, 20, 0.3),))
    campaigns = [
        Campaign(budget=budget, charging=charging, period=period, value_sigma=sigma, ctrs=(0.2, 0.01), bid=6_000)
        for budget in (1, 5_999, 40_001, 1_000_003, 30_000_000)
        for sigma in (0.0, 0.7)
    ]
    factory, controls = world_of(campaigns, {"m": market})
    counts = run(aggregate_of(factory)(everyone(factory)), controls, WHOLE).counts
    by_cell = counts.values
    assert (by_cell >= 0).all()
    for fewer, more in ((CLICKS, IMPRESSIONS), (IMPRESSIONS, BIDS), (BIDS, OPPORTUNITIES)):
        assert (by_cell[..., fewer] <= by_cell[..., more]).all()
    of_campaigns = counts.of_campaigns(factory.campaigns.cell_start).sum(axis=0)
    assert (of_campaigns[:, SPEND] <= controls.budget).all()
    assert (of_campaigns[-2:, SPEND] > 0).all()
    sold = of_campaigns[:, CLICKS if charging == Charging.PER_CLICK else IMPRESSIONS]
    assert ((of_campaigns[:, SPEND] > 0) == (sold > 0)).all()
    if charging == Charging.PER_IMPRESSION:
        assert (of_campaigns[:, SPEND] >= 2_000 * sold).all()
        assert (of_campaigns[::2, SPEND] <= 6_000 * sold[::2]).all()
        if first_price:
            assert (of_campaigns[::2, SPEND] == 6_000 * sold[::2]).all()


def test_a_budget_that_is_spent_is_spent_until_the_day_is_over() -> None:
    factory, controls = world_of([Campaign(value_sigma=0.0, budget=3_000_000)], grid=replace(GRID, ticks=96))
    counts = run(aggregate_of(factory)(everyone(factory)), controls, (0, 96)).counts.values[:, 0]
    for day in (counts[:48], counts[48:]):
        (entered,) = np.nonzero(day[:, BIDS])
        assert entered.tolist() == list(range(entered.size))
        assert 0 < entered.size < 10
        assert 3_000_000 - 5_000 < day[:, SPEND].sum() <= 3_000_000
        assert 0 < day[entered[-1], BIDS] <= day[entered[-1], OPPORTUNITIES]


def test_a_flat_bid_that_equals_the_price_wins_and_one_below_does_not() -> None:
    alone = replace(MARKET, competitors=0, reserve_micros=4_000)
    fixed = replace(MARKET, price_sigma=0.0, level_micros=4_000.2)
    for market in (alone, fixed, replace(fixed, reserve_micros=3_000), replace(alone, first_price=True)):
        for bid in (4_000, 3_999):
            factory, controls = world_of([Campaign(bid=bid, value_sigma=0.0)], {"m": market})
            counts = total(run(aggregate_of(factory)(everyone(factory)), controls, WHOLE))
            assert counts["impressions"] == (counts["opportunities"] if bid == 4_000 else 0)
            assert counts["spend_micros"] == 4_000 * counts["impressions"]


def moved(factory: WorldFactory, controls: ControlState, **changes: object) -> dict[str, int]:
    changed = replace(aggregate_of(factory), **changes)  # type: ignore[arg-type]
    return total(run(changed(everyone(factory)), controls, WHOLE))


def test_switching_something_on_moves_no_other_draw() -> None:
    factory, controls = world_of([Campaign(cvr=0.3)])
    plain = moved(factory, controls)
    (market,) = factory.markets
    before_clicks = ("opportunities", "bids", "impressions", "spend_micros")
    bots = moved(factory, controls, markets=(replace(market, bots=(BotClicks(0, 48, 0.2),)),))
    assert bots == plain | {"clicks": bots["clicks"]}
    assert bots["clicks"] > plain["clicks"]
    rare = moved(factory, controls, conversions=replace(factory.conversions, rate=np.array([0.01])))
    assert {name: rare[name] for name in (*before_clicks, "clicks")} == {
        name: plain[name] for name in (*before_clicks, "clicks")
    }
    refunded = moved(
        factory, controls, conversions=replace(factory.conversions, refund_rate=np.ones(1), refund_hours=np.zeros(1))
    )
    assert refunded == plain | {"refunds_micros": plain["revenue_micros"]}
    out = moved(factory, controls, troubles=Troubles(reports=(Spell(0, 48, 0.0, (0,)),)))
    unreported = {name: 0 for name in plain if name.startswith(("conver", "revenue"))}
    assert len(unreported) >= 2
    assert out == plain | unreported
    lost = replace(market, traffic=replace(market.traffic, changes=(TrafficChange(0, 48, 0.0),)))
    assert set(moved(factory, controls, markets=(lost,)).values()) == {0}


def test_the_twin_of_an_aggregate_world_is_one() -> None:
    factory, controls = world_of([Campaign(), Campaign(bid=4_000)])
    twin = Twin(aggregate_of(factory))
    assert 0 < twin.spend(1, 0, 4, controls) < twin.spend(0, 0, 4, controls)


def test_people_are_reached_as_expected() -> None:
    reach = ExpectedReach(np.array([0, 1, -1, 0, 2]), np.array([1_000.0, 500.0, 1.0]), np.array([np.inf, 0.5, 1.0]))
    shown = np.array([[400, 300, 9, 100, 0], [0, 300, 9, 0, 7], [1_500, 0, 9, 0, 5]])
    state = reach.state()
    new = reach.update(shown)
    alike = [int(1_000 * (1 - 0.999**n)) for n in (400, 500, 2_000)]
    uneven = [int(500 * (1 - (1 + n / 250) ** -0.5)) for n in (300, 600)]
    assert new.tolist() == [
        [alike[0], uneven[0], 0, alike[1] - alike[0], 0],
        [0, uneven[1] - uneven[0], 0, 0, 1],
        [alike[2] - alike[1], 0, 0, 0, 0],
    ]
    assert reach.state().tolist() == [2_000, 600, 12]
    reach.restore(state)
    assert np.array_equal(reach.update(shown), new)


def test_what_only_single_events_can_tell_is_refused() -> None:
    factory, _ = world_of([Campaign()])
    (market,) = factory.markets
    wide = {"markets": (replace(market, exposure=(1.0, 0.5)),)}
    people = {
        "markets": (replace(market, segments=(Segment(audience="all"),)),),
        "people": (Audience("all", 100),),
        "attribution": Attribution(24.0),
    }
    for changes, sentence in (
        ({"record_events": True}, "the aggregate fidelity draws counts, and nothing that could be recorded"),
        ({"record_opportunities": True}, "the aggregate fidelity draws counts, and nothing that could be recorded"),
        ({"tell_prices": True}, "tell_prices (=True) needs single wins, which the aggregate fidelity sums up"),
        (people, "the aggregate fidelity knows no single clicks to credit conversions to"),
        (wide, "exposure (of 2 slots) must be of one slot in the aggregate fidelity"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole sentence is compared
            aggregate_of(replace(factory, **changes))  # type: ignore[arg-type]
        assert str(caught.value) == f"{sentence}: use the fidelity of single opportunities"


def test_a_market_that_never_opens_brings_nothing() -> None:
    empty = Market(Traffic(0.0), level_micros=5_000.0, price_sigma=0.6)
    factory, controls = world_of([Campaign()], {"m": empty})
    assert set(total(run(aggregate_of(factory)(everyone(factory)), controls, WHOLE)).values()) == {0}
