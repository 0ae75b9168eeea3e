from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from engine.campaigns import Charging, Period
from engine.events import CLICKS, CONVERSIONS, IMPRESSIONS, REVENUE, SPEND, Kind, fold
from engine.policy import EventSource
from sim.auction import Market, PriceShock
from sim.traffic import Traffic
from tests.sim.builders import GRID, MARKET, Campaign, everyone, run, same, total, world_of

MARKETS = {
    "clicks": replace(MARKET, first_price=True, reserve_micros=1_500),
    "first": replace(MARKET, traffic=Traffic(300.0, 0.6, 20.0), first_price=True),
    "second": replace(MARKET, traffic=Traffic(700.0, 0.6, 20.0), shocks=(PriceShock(10, 20, 1.7),)),
}
CAMPAIGNS = [
    Campaign("second", bid=5_000, reach=0.6, ctrs=(0.1, 0.02)),
    Campaign("first", bid=4_000, budget=900_000),
    Campaign("second", bid=6_000, reach=0.5, budget=2_000_000, period=Period.FLIGHT),
    Campaign("clicks", bid=5_000, charging=Charging.PER_CLICK, budget=3_000_000, ctrs=(0.1, 0.3, 0.05)),
    Campaign("clicks", bid=5_000, charging=Charging.PER_CLICK, reach=0.7),
    Campaign("second", bid=5_000, value_sigma=0.0),
    Campaign("second", bid=9_000, paused=True),
]
WHOLE = (0, GRID.ticks)
TICK_BY_TICK = tuple(range(GRID.ticks + 1))


def test_a_world_is_an_event_source_and_its_factory_travels() -> None:
    factory, controls = world_of(CAMPAIGNS, MARKETS)
    copy = pickle.loads(pickle.dumps(factory))  # noqa: S301 - our own bytes
    world = copy(everyone(factory))
    assert isinstance(world, EventSource)
    assert not world.factual
    assert total(run(world, controls, WHOLE)) == total(run(factory(everyone(factory)), controls, WHOLE))


def test_every_campaign_of_the_scene_does_something() -> None:
    factory, controls = world_of(CAMPAIGNS, MARKETS)
    by_cell = run(factory(everyone(factory)), controls, WHOLE).counts.values.sum(axis=0)
    assert (by_cell[:9, [IMPRESSIONS, CLICKS, SPEND]] > 0).all()
    assert (by_cell[:9, CONVERSIONS].sum(), by_cell[9, 1:].sum()) > (50, 0)
    assert by_cell[9, 0] > 0  # a paused campaign is still reached


@pytest.mark.parametrize("record", ["", "events opportunities"])
def test_one_span_or_many_give_the_same(record: str) -> None:
    factory, controls = world_of(CAMPAIGNS, MARKETS, record=record)
    whole, ticks, some = (
        run(factory(everyone(factory)), controls, cut) for cut in (WHOLE, TICK_BY_TICK, (0, 7, 29, 48))
    )
    for other in (ticks, some):
        assert np.array_equal(other.counts.values, whole.counts.values)
        assert same(other.events, whole.events)
        assert same(other.opportunities, whole.opportunities)
        assert other.auctions == whole.auctions


def test_grouping_markets_into_worlds_changes_nothing() -> None:
    factory, controls = world_of(CAMPAIGNS, MARKETS, record="events opportunities")
    whole = run(factory(everyone(factory)), controls, WHOLE)
    for groups in ([[0, 2, 5, 6], [1], [3, 4]], [[0, 1, 2, 5, 6], [3, 4]]):
        for members in (np.array(group) for group in groups):
            part = run(factory(members), controls.select(factory.campaigns, members), WHOLE)
            assert np.array_equal(part.counts.values, whole.counts.values[:, factory.campaigns.cells_of(members)])
            assert same(part.events, whole.events.take(np.isin(whole.events.campaign, members)))
            mine = whole.opportunities.take(np.isin(whole.opportunities.campaign, members))
            assert same(part.opportunities, mine)


def test_a_market_is_not_split() -> None:
    factory, _ = world_of(CAMPAIGNS, MARKETS)
    with pytest.raises(ValueError, match="members must hold whole markets: 2 campaigns of theirs are missing"):
        factory(np.array([0, 2]))


def test_a_state_is_where_a_world_can_go_on_from() -> None:
    factory, controls = world_of(CAMPAIGNS, MARKETS, record="events")
    world, other = factory(everyone(factory)), factory(everyone(factory))
    run(world, controls, (0, 20))
    state = pickle.loads(pickle.dumps(world.state()))  # noqa: S301 - our own bytes
    after = run(world, controls, (20, 48))
    for resumed in (world, other):
        resumed.restore(state)
        again = run(resumed, controls, (20, 30, 48))
        assert np.array_equal(again.counts.values, after.counts.values)
        assert same(again.events, after.events)


def test_what_does_not_fit_the_world_is_refused() -> None:
    factory, controls = world_of(CAMPAIGNS, MARKETS)
    world = factory(np.array([1]))
    with pytest.raises(
        ValueError, match=r"controls \(=of \(7, 10, 7\) campaigns, creatives and audiences\) must be those of the mem"
    ):
        world.advance(0, 1, controls)
    mine = controls.select(factory.campaigns, np.array([1]))
    with pytest.raises(ValueError, match=r"ticks \(=\[40, 49\)\) must lie in the run's \[0, 48\)"):
        world.advance(40, 49, mine)
    with pytest.raises(ValueError, match=r"ctr \(of length 6\) must be of length 10, as in the campaign set"):
        replace(factory, response=replace(factory.response, ctr=np.zeros(6)))
    with pytest.raises(ValueError, match=r"reach \(=1.5\) must be in \[0, 1\]"):
        replace(factory.response, reach=np.full(7, 1.5))
    with pytest.raises(ValueError, match=r"rest_hours \(=nan\) must be >= 0.01"):
        replace(factory.response, rest_hours=np.full(10, np.nan))
    with pytest.raises(ValueError, match=r"markets \(=1\) must be 3, as in the campaign set"):
        replace(factory, markets=(MARKET,))


def test_recording_changes_no_draw() -> None:
    outcomes = [
        run(factory(everyone(factory)), controls, WHOLE).counts.values
        for factory, controls in (
            world_of(CAMPAIGNS, MARKETS, record=record) for record in ("", "events", "opportunities")
        )
    ]
    assert np.array_equal(outcomes[0], outcomes[1])
    assert np.array_equal(outcomes[0], outcomes[2])


def test_events_fold_to_the_tick_counts() -> None:
    factory, controls = world_of(CAMPAIGNS, MARKETS, record="events")
    batch = run(factory(everyone(factory)), controls, (0, 5, 48))
    told = [IMPRESSIONS, CLICKS, CONVERSIONS, SPEND, REVENUE]
    folded = fold(batch.events, GRID, 0, GRID.ticks, factory.campaigns.cells)
    assert np.array_equal(folded.values[:, :, told], batch.counts.values[:, :, told])


def test_events_are_ordered_and_named() -> None:
    factory, controls = world_of(CAMPAIGNS, MARKETS, record="events")
    events = run(factory(everyone(factory)), controls, TICK_BY_TICK).events
    order = np.lexsort((events.event_low, events.event_high, events.event_time))
    assert order.tolist() == list(range(len(events)))
    names = list(zip(events.event_high.tolist(), events.event_low.tolist(), strict=True))
    assert len(set(names)) == len(names)
    clicks = events.take(events.kind == Kind.CLICK)
    converted = events.take(events.kind == Kind.CONVERSION)
    clicked = set(zip(clicks.event_high.tolist(), clicks.event_low.tolist(), strict=True))
    assert set(zip(converted.click_high.tolist(), converted.click_low.tolist(), strict=True)) <= clicked
    assert factory.campaigns.cell_campaign[events.cell].tolist() == events.campaign.tolist()


def test_opportunities_tell_what_the_auctions_did() -> None:
    factory, controls = world_of(CAMPAIGNS, MARKETS, record="events opportunities")
    batch = run(factory(everyone(factory)), controls, WHOLE)
    rows = batch.opportunities
    reached = np.zeros(batch.counts.values.shape[:2], dtype=np.int64)
    np.add.at(reached, (rows.tick, rows.cell), 1)
    assert np.array_equal(reached, batch.counts.values[:, :, 0])
    assert (rows.price_micros >= 1).all()
    assert (rows.conversion_if_won <= rows.click_if_won).all()
    assert (rows.conversion_time[rows.conversion_if_won == 1] >= rows.event_time[rows.conversion_if_won == 1]).all()
    assert (GRID.tick_of(rows.event_time) == rows.tick).all()
    auctions = np.unique(np.stack((rows.market, rows.tick, rows.index)), axis=1).shape[1]
    assert auctions <= batch.auctions


def test_the_lower_position_wins_a_tie_and_the_other_would_have_paid_a_micro_more() -> None:
    cheap = {"m": Market(Traffic(50.0), level_micros=10.0, price_sigma=0.1)}
    twins = [Campaign(bid=1_000, value_sigma=0.0), Campaign(bid=1_000, value_sigma=0.0)]
    factory, controls = world_of(twins, cheap, record="opportunities")
    batch = run(factory(everyone(factory)), controls, WHOLE)
    assert batch.counts.values[:, :, IMPRESSIONS].sum(axis=0).tolist() == [batch.auctions, 0]
    assert total(batch)["spend_micros"] == 1_000 * batch.auctions
    prices = batch.opportunities.price_micros.reshape(-1, 2)
    assert np.unique(prices, axis=0).tolist() == [[1_000, 1_001]]


def test_conversions_after_the_run_are_dropped_and_the_memory_does_not_grow() -> None:
    factory, controls = world_of([Campaign(cvr=1.0, ctrs=(1.0,), delay_hours=1e6)])
    world = factory(everyone(factory))
    batch = run(world, controls, WHOLE)
    assert total(batch)["conversions"] < 10 < total(batch)["clicks"]
    assert len(world._pending) == 0


def test_a_creative_of_zero_weight_is_not_shown() -> None:
    factory, controls = world_of([Campaign(ctrs=(0.1, 0.1, 0.1))])
    weights = np.array([0, 250_000, 750_000])
    shown = (
        run(factory(everyone(factory)), replace(controls, weights=weights), WHOLE).counts.values[:, :, 0].sum(axis=0)
    )
    assert shown[0] == 0
    assert shown[1] / shown.sum() == pytest.approx(0.25, abs=4.5 * (0.25 * 0.75 / shown.sum()) ** 0.5)


class TestStreams:
    """Changing one feature moves no other feature's draws; whole columns are compared byte for byte."""

    @staticmethod
    def opportunities(campaigns: list[Campaign], markets: dict[str, Market], seed: int = 7) -> dict[str, np.ndarray]:
        factory, controls = world_of(campaigns, markets, seed=seed, record="opportunities")
        rows = run(factory(everyone(factory)), controls, WHOLE).opportunities
        ids = np.array(factory.campaigns.ids)[rows.campaign]
        return {**rows.columns(), "id": ids}

    BASE = (Campaign("a", id="k"),)

    def changed(self, *names: str, campaign: Campaign | None = None, market: Market = MARKET) -> None:
        base = self.opportunities(list(self.BASE), {"a": MARKET})
        other = self.opportunities([campaign or self.BASE[0]], {"a": market})
        differing = {name for name in base if not np.array_equal(base[name], other[name])}
        assert differing == set(names)

    def test_ctr(self) -> None:
        follows = ("conversion_if_won", "conversion_time", "conversion_value_micros")
        self.changed("predicted_ctr", "click_if_won", *follows, campaign=replace(self.BASE[0], ctrs=(0.2,)))

    def test_cvr(self) -> None:
        follows = ("conversion_if_won", "conversion_time", "conversion_value_micros")
        self.changed(*follows, campaign=replace(self.BASE[0], cvr=0.3))

    def test_delay(self) -> None:
        self.changed("conversion_time", campaign=replace(self.BASE[0], delay_hours=4.0))

    def test_conversion_value(self) -> None:
        self.changed("conversion_value_micros", campaign=replace(self.BASE[0], value_spread=0.1))

    def test_price_sigma(self) -> None:
        self.changed("price_micros", market=replace(MARKET, price_sigma=0.7))

    def test_price_shock(self) -> None:
        self.changed("price_micros", market=replace(MARKET, shocks=(PriceShock(3, 5, 2.0),)))

    def test_bid_and_budget_change_nothing_at_all(self) -> None:
        self.changed(campaign=replace(self.BASE[0], bid=100, budget=50_000))

    def test_reach_only_leaves_rows_out(self) -> None:
        base = self.opportunities(list(self.BASE), {"a": MARKET})
        some = self.opportunities([replace(self.BASE[0], reach=0.4)], {"a": MARKET})
        place = {key: row for row, key in enumerate(zip(base["tick"].tolist(), base["index"].tolist(), strict=True))}
        kept = [place[key] for key in zip(some["tick"].tolist(), some["index"].tolist(), strict=True)]
        assert 0 < len(kept) < len(place)
        assert all(np.array_equal(base[name][kept], some[name]) for name in base)

    @pytest.mark.parametrize("newcomer", ["a-first", "z-last"])
    def test_a_campaign_in_another_market_wherever_it_sorts(self, newcomer: str) -> None:
        base = self.opportunities(list(self.BASE), {"a": MARKET})
        both = sorted([*self.BASE, Campaign("b", id=newcomer)], key=lambda campaign: campaign.id)
        other = self.opportunities(both, {"a": MARKET, "b": MARKET})
        mine = other["id"] == "k"
        values = set(base) - {"campaign", "cell"}  # positions, which the newcomer may shift
        assert all(np.array_equal(base[name], other[name][mine]) for name in values)

    def test_another_seed_is_another_world(self) -> None:
        base = self.opportunities(list(self.BASE), {"a": MARKET})
        other = self.opportunities(list(self.BASE), {"a": MARKET}, seed=8)
        assert not np.array_equal(base["price_micros"][:100], other["price_micros"][:100])


@pytest.mark.parametrize("value_sigma", [0.0, 0.001, 0.5])
def test_of_more_campaigns_than_a_word_has_bits_each_is_judged_as_where_all_bids_are(value_sigma: float) -> None:
    """Seventy who meet, with bids that often come out equal; recording judges every bid, not only those that matter."""
    many = [Campaign(bid=4_990 + place % 7, value_sigma=value_sigma, id=f"c{place:02d}") for place in range(70)]
    few = replace(GRID, ticks=2)
    outcomes = [
        run(factory(everyone(factory)), controls, (0, 2)).counts.values
        for factory, controls in (world_of(many, grid=few, record=record) for record in ("", "opportunities"))
    ]
    assert np.array_equal(*outcomes)
    assert outcomes[0][:, :, IMPRESSIONS].sum() > 300
