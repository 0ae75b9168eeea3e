"""Every feature has draws of its own: what is switched on or changed moves nothing that it has nothing to do with.

A world is run as it is and with one change. What is drawn is compared where it can be seen: whether auctions are there
and whom they reach, and then, for whatever both worlds have of a kind (the same auction won, the same click, the same
conversion), what became of it. Each change must move exactly what is stated, so a stream that moves with another is
found, and so is a feature that does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest

from engine.campaigns import Charging, ControlState
from engine.events import CONVERSIONS, COUNTS, OPPORTUNITIES, PEOPLE, SPEND, Events, Kind
from engine.policy import Batch
from engine.units import PPM
from sim.attribution import Attribution
from sim.auction import Answer, BotClicks, Drift, Market, PriceShock, Regimes, Segment
from sim.delays import Law, Part
from sim.mishaps import Mishap, Way
from sim.people import Audience
from sim.traffic import Traffic, TrafficChange
from sim.troubles import Spell, Troubles
from sim.world import WorldFactory
from tests.sim.builders import GRID, Campaign, everyone, run, world_of

TICKS = GRID.ticks
EARLY = GRID.opens(TICKS // 3)
"""What follows clicks after this is left out: it may lie beyond the run in one world and inside it in the other."""

WEEK = tuple(1.0 + hour % 5 for hour in range(168))

SEGMENTS = (Segment(0.7, audience="many"), Segment(0.3, 1.2, 1.3, 1.2, 1.5, audience="few"))
MARKET = Market(
    Traffic(300.0, 0.3, 20.0, dispersion=0.02, changes=(TrafficChange(40, 44, 0.5),)),
    level_micros=5_000.0,
    price_sigma=0.6,
    reserve_micros=1_500,
    competitors=3,
    exposure=(0.9, 0.6),
    segments=SEGMENTS,
    bots=(BotClicks(18, 40, 0.05),),
    shocks=(PriceShock(12, 18, 1.3),),
    follows_demand=0.2,
    drift=Drift(0.8, 0.05),
    regimes=Regimes(12.0, 0.2),
)
CAMPAIGN = Campaign(
    "a",
    bid=7_000,
    reach=0.8,
    correlation=0.3,
    ctrs=(0.3, 0.4),
    cvr=0.5,
    per_click=1.6,
    delays=(Part(Law.EXPONENTIAL, 0.3, share=700_000), Part(Law.LOGNORMAL, 1.0, 0.4, share=300_000)),
    refund_rate=0.3,
    refund_hours=0.3,
    value_spread=0.4,
    weights=(600_000, 400_000),
)
PEOPLE_HERE = (Audience("few", 600, 1.5), Audience("many", 4_000, 3.0))
TROUBLES = Troubles(rates=(Spell(3, 6, 0.6, (0,)),), reports=(Spell(0, TICKS, 0.7, (0,)),))


@dataclass(frozen=True)
class Setting:
    """A world of two campaigns in markets of their own, of which the first is changed."""

    campaign: Campaign = CAMPAIGN
    market: Market = MARKET
    people: tuple[Audience, ...] = PEOPLE_HERE
    neighbour: Campaign | None = None  # in the same market
    attribution: Attribution | None = None
    troubles: Troubles = TROUBLES
    mishaps: tuple[Mishap, ...] = ()

    def run(self) -> Batch:
        """The whole run, its events recorded."""
        factory, controls = self.build()
        return run(factory(everyone(factory)), controls, (0, TICKS))

    def build(self) -> tuple[WorldFactory, ControlState]:
        """The factory and the controls."""
        neighbours = [] if self.neighbour is None else [self.neighbour]
        return world_of(
            [self.campaign, replace(CAMPAIGN, market="b"), *neighbours],
            {"a": self.market, "b": MARKET},
            record="events",
            people=self.people,
            attribution=self.attribution,
            troubles=self.troubles,
            mishaps=self.mishaps,
        )


def of_market(**changes: Any) -> Setting:
    return Setting(market=replace(MARKET, **changes))


def of_traffic(**changes: Any) -> Setting:
    return of_market(traffic=replace(MARKET.traffic, **changes))


def of_segment(**changes: Any) -> Setting:
    return of_market(segments=(SEGMENTS[0], replace(SEGMENTS[1], **changes)))


def of_campaign(**changes: Any) -> Setting:
    return Setting(campaign=replace(CAMPAIGN, **changes))


def of_kind(events: Events, kind: Kind) -> dict[tuple[int, int], tuple[int, ...]]:
    """Events that campaign 0 caused by their id without its kind: cell, price, value, event time, click credited."""
    rows = events.take((events.kind == kind) & (events.event_low >> 34 == 0))
    columns = (rows.cell, rows.price_micros, rows.value_micros, rows.event_time, rows.click_high, rows.click_low)
    ids = zip(rows.event_high.tolist(), (rows.event_low - kind).tolist(), strict=True)
    return dict(zip(ids, zip(*(column.tolist() for column in columns), strict=True), strict=True))


CELL, PRICE, VALUE, TIME, CLICK = 0, 1, 2, 3, slice(4, 6)
ALL = (
    "arrivals",  # how many auctions each market holds
    "reached",  # which of them reach the campaign
    "shown",  # with which creative and to which audience
    "won",  # which are won
    "paid",  # for how much
    "clicked",  # which of the auctions won by both are clicked
    "converted",  # which of the clicks of both convert, and how often
    "delayed",  # how long after the click
    "valued",  # at what value
    "credited",  # to which click
    "refunded",  # which of the conversions of both are given back
    "given back after",  # how much later
    "people",  # how many are new
)


def moved(one: Batch, other: Batch) -> set[str]:
    """What differs for the first campaign."""
    mine, theirs = ({kind: of_kind(batch.events, kind) for kind in Kind} for batch in (one, other))
    cells = slice(0, 4)
    counts = [batch.counts.values[:, cells] for batch in (one, other)]
    differs = {
        "arrivals": one.auctions != other.auctions,
        "reached": not np.array_equal(*(each[:, :, OPPORTUNITIES].sum(axis=1) for each in counts)),
        "shown": not np.array_equal(*(each[:, :, OPPORTUNITIES] for each in counts)),
        "people": not np.array_equal(*(each[:, :, PEOPLE] for each in counts)),
        "won": mine[Kind.IMPRESSION].keys() != theirs[Kind.IMPRESSION].keys(),
    }
    won = mine[Kind.IMPRESSION].keys() & theirs[Kind.IMPRESSION].keys()
    assert len(won) > 100
    differs["paid"] = any(mine[Kind.IMPRESSION][key][PRICE] != theirs[Kind.IMPRESSION][key][PRICE] for key in won)
    same_cell = {key for key in won if mine[Kind.IMPRESSION][key][CELL] == theirs[Kind.IMPRESSION][key][CELL]}
    differs["clicked"] = any((key in mine[Kind.CLICK]) != (key in theirs[Kind.CLICK]) for key in same_cell)
    clicks = mine[Kind.CLICK].keys() & theirs[Kind.CLICK].keys() & same_cell
    clicks = {key for key in clicks if max(kept[Kind.CLICK][key][TIME] for kept in (mine, theirs)) < EARLY}
    return {name for name, changes in differs.items() if changes} | after_clicks(mine, theirs, clicks)


def after_clicks(mine: Any, theirs: Any, clicks: set[tuple[int, int]]) -> set[str]:
    """What differs in what follows the clicks of both; a conversion's id is its cause's, and its number."""

    def cause(key: tuple[int, int]) -> tuple[int, int]:
        return key[0] & ~(0xFFF << 24), key[1]

    def caused(kept: Any, kind: Kind) -> dict[Any, tuple[int, ...]]:
        return {key: row for key, row in kept[kind].items() if cause(key) in clicks}

    conversions = [caused(kept, Kind.CONVERSION) for kept in (mine, theirs)]
    both = conversions[0].keys() & conversions[1].keys()
    assert len(both) > 30
    differs = {"converted": conversions[0].keys() != conversions[1].keys()}
    waits = [
        [rows[key][TIME] - kept[Kind.CLICK][cause(key)][TIME] for key in sorted(both)]
        for rows, kept in zip(conversions, (mine, theirs), strict=True)
    ]
    differs["delayed"] = waits[0] != waits[1]
    for name, column in (("valued", VALUE), ("credited", CLICK)):
        differs[name] = any(conversions[0][key][column] != conversions[1][key][column] for key in both)
    refunds = [{key: row for key, row in caused(kept, Kind.REFUND).items() if key in both} for kept in (mine, theirs)]
    differs["refunded"] = refunds[0].keys() != refunds[1].keys()
    given_back = refunds[0].keys() & refunds[1].keys()
    assert len(given_back) > 5
    waits = [
        [refund[key][TIME] - rows[key][TIME] for key in sorted(given_back)]
        for refund, rows in zip(refunds, conversions, strict=True)
    ]
    differs["given back after"] = waits[0] != waits[1]
    return {name for name, changes in differs.items() if changes}


AUCTIONS = {"won", "paid", "people"}
FEWER_AUCTIONS = {"arrivals", "reached", "shown", "won", "people"}
OTHER_LAWS = (Part(Law.EXPONENTIAL, 0.3, share=500_000), Part(Law.LOGNORMAL, 1.0, 0.4, share=500_000))
CHANGES: dict[str, tuple[Setting, set[str]]] = {
    "price level": (of_market(level_micros=5_200.0), AUCTIONS),
    "price spread": (of_market(price_sigma=0.7), AUCTIONS),
    "reserve": (of_market(reserve_micros=2_500), AUCTIONS),
    "first price": (of_market(first_price=True), {"paid"}),
    "another competitor": (of_market(competitors=4), AUCTIONS),
    "a single competitor": (of_market(competitors=1), AUCTIONS),
    "no competitor": (of_market(competitors=0), AUCTIONS),
    "exposure": (of_market(exposure=(0.7, 0.6)), {"won", "people"}),
    "exposure of every slot": (of_market(exposure=(1.0, 1.0)), {"won", "people"}),
    "another slot": (of_market(exposure=(0.9, 0.6, 0.3)), {"won", "people"}),
    "a segment's share": (
        of_market(segments=(replace(SEGMENTS[0], share=0.6), replace(SEGMENTS[1], share=0.4))),
        {"shown", *AUCTIONS},
    ),
    "a segment's price": (of_segment(price=1.5), AUCTIONS),
    "a segment's ctr": (of_segment(ctr=1.0), {"clicked"}),
    "a segment's cvr": (of_segment(cvr=1.0), {"converted"}),
    "a segment's value": (of_segment(value=1.0), {"valued"}),
    "a segment's people": (of_segment(audience="many"), {"people"}),
    "an answer": (of_market(answer=Answer(0.5, 0.5)), AUCTIONS),
    "no bots": (of_market(bots=()), {"clicked"}),
    "more bots": (of_market(bots=(BotClicks(18, 40, 0.2),)), {"clicked"}),
    "no price shock": (of_market(shocks=()), AUCTIONS),
    "prices that follow no demand": (of_market(follows_demand=0.0), AUCTIONS),
    "no drift": (of_market(drift=None), AUCTIONS),
    "a slower drift": (of_market(drift=Drift(0.9, 0.05)), AUCTIONS),
    "no regimes": (of_market(regimes=None), AUCTIONS),
    "shorter regimes": (of_market(regimes=Regimes(6.0, 0.2)), AUCTIONS),
    "volume": (of_traffic(opportunities_per_tick=330.0), FEWER_AUCTIONS),
    "amplitude": (of_traffic(amplitude=0.5), {"paid", *FEWER_AUCTIONS}),  # demand moves prices
    "peak hour": (of_traffic(peak_hour=12.0), {"paid", *FEWER_AUCTIONS}),
    "a weekly curve": (of_traffic(amplitude=0.0, week=WEEK), {"paid", *FEWER_AUCTIONS}),
    "no dispersion": (of_traffic(dispersion=0.0), FEWER_AUCTIONS),
    "more dispersion": (of_traffic(dispersion=0.1), FEWER_AUCTIONS),
    "no change of traffic": (of_traffic(changes=()), FEWER_AUCTIONS),
    "less reach": (of_campaign(reach=0.6), {"reached", "shown", "won", "people"}),
    "all reached": (of_campaign(reach=1.0), {"reached", "shown", "won", "people"}),
    "value spread": (of_campaign(value_sigma=0.7), {"clicked", *AUCTIONS}),
    "all of one value": (of_campaign(value_sigma=0.0), {"clicked", *AUCTIONS}),
    "no correlation": (of_campaign(correlation=0.0), {"clicked", *AUCTIONS}),
    "the opposite correlation": (of_campaign(correlation=-0.3), {"clicked", *AUCTIONS}),
    "ctr": (of_campaign(ctrs=(0.2, 0.4)), {"clicked"}),
    "wear": (of_campaign(wear=0.4), {"clicked"}),
    "wear and rest": (of_campaign(wear=0.4, rest_hours=3.0), {"clicked"}),
    "conversion rate": (of_campaign(cvr=0.6), {"converted"}),
    "delay": (of_campaign(delays=(Part(Law.EXPONENTIAL, 0.4, share=700_000), CAMPAIGN.delays[1])), {"delayed"}),
    "shares of a delay": (of_campaign(delays=OTHER_LAWS), {"delayed"}),
    "a delay of one law": (of_campaign(delays=(Part(Law.EXPONENTIAL, 0.3),)), {"delayed"}),
    "more conversions per click": (of_campaign(per_click=2.0), {"converted"}),
    "one conversion per click": (of_campaign(per_click=1.0), {"converted"}),
    "mean value": (of_campaign(value_micros=120_000.0), {"valued"}),
    "spread of values": (of_campaign(value_spread=0.2), {"valued"}),
    "a menu of prices": (of_campaign(value_spread=0.0, menu=((1.0, 700_000), (3.0, 300_000))), {"valued"}),
    "refund rate": (of_campaign(refund_rate=0.4), {"refunded"}),
    "refund delay": (of_campaign(refund_hours=0.5), {"given back after"}),
    "weights": (of_campaign(weights=(500_000, 500_000)), {"shown", "people"}),
    "bid": (of_campaign(bid=8_000), AUCTIONS),
    "budget": (of_campaign(budget=2_000_000), {"won", "people"}),
    "modifier": (of_campaign(modifiers=(PPM, 1_500_000)), AUCTIONS),
    "no bid for an audience": (of_campaign(modifiers=(PPM, 0)), {"won", "people"}),
    "more people": (Setting(people=(Audience("few", 700, 1.5), PEOPLE_HERE[1])), {"people"}),
    "other activity": (Setting(people=(Audience("few", 600, 3.0), PEOPLE_HERE[1])), {"people"}),
    "people who are alike": (Setting(people=(Audience("few", 600), PEOPLE_HERE[1])), {"people"}),
    "no loss of conversions": (Setting(troubles=replace(TROUBLES, rates=())), {"converted"}),
    "no tracking outage": (Setting(troubles=replace(TROUBLES, reports=())), {"converted"}),
    "a disapproved creative": (
        Setting(troubles=replace(TROUBLES, approvals=(Spell(3, 9, 0.0, (0,)),))),
        {"shown", "people"},
    ),
    "attribution": (Setting(attribution=Attribution(window_hours=100.0)), {"credited"}),
    "lost ids": (Setting(attribution=Attribution(window_hours=100.0, lost_ids=0.3)), {"credited", "converted"}),
    "events that are late": (Setting(mishaps=(Mishap(Way.LATE, 0, TICKS, 0.2, 1.0),)), set()),
    "events recorded twice": (Setting(mishaps=(Mishap(Way.DUPLICATED, 0, TICKS, 0.2),)), set()),
}
SHARED = {"more people", "other activity", "people who are alike", "attribution", "lost ids"}
"""What concerns both campaigns: people are the account's."""


@pytest.fixture(scope="module")
def base() -> Batch:
    return Setting().run()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_moves_what_it_is_about_and_nothing_else(change: str, base: Batch) -> None:
    setting, expected = CHANGES[change]
    other = setting.run()
    assert moved(base, other) == expected
    mine, theirs = (batch.counts.values[:, 4:] for batch in (base, other))
    about = [place for place in range(len(COUNTS)) if change not in SHARED or place < CONVERSIONS]
    assert np.array_equal(mine[:, :, about], theirs[:, :, about])


@pytest.mark.parametrize("change", ["people who are alike", "attribution", "lost ids"])
def test_what_concerns_the_whole_account_moves_no_auction_and_no_click(change: str, base: Batch) -> None:
    other = CHANGES[change][0].run()
    assert np.array_equal(base.counts.values[:, :, :CONVERSIONS], other.counts.values[:, :, :CONVERSIONS])
    assert np.array_equal(base.counts.values[:, :, SPEND], other.counts.values[:, :, SPEND])


NEIGHBOUR = replace(CAMPAIGN, bid=6_000)
ABOUT_CLICKS: dict[str, Campaign] = {
    "ctr": replace(NEIGHBOUR, ctrs=(0.1, 0.2)),
    "wear": replace(NEIGHBOUR, wear=0.5),
    "conversion rate": replace(NEIGHBOUR, cvr=0.1),
    "delay": replace(NEIGHBOUR, delays=OTHER_LAWS),
    "conversions per click": replace(NEIGHBOUR, per_click=3.0),
    "value": replace(NEIGHBOUR, value_micros=1.0),
    "refunds": replace(NEIGHBOUR, refund_rate=1.0),
    "weights": replace(NEIGHBOUR, weights=(100_000, 900_000)),
    "creatives": replace(NEIGHBOUR, ctrs=(0.1, 0.2, 0.3), weights=()),
}
ABOUT_AUCTIONS: dict[str, Campaign] = {
    "bid": replace(NEIGHBOUR, bid=9_000),
    "reach": replace(NEIGHBOUR, reach=0.3),
    "value spread": replace(NEIGHBOUR, value_sigma=0.9),
    "correlation": replace(NEIGHBOUR, correlation=-0.6),
    "charging": replace(NEIGHBOUR, charging=Charging.PER_CLICK, budget=100_000),
    "pause": replace(NEIGHBOUR, paused=True),
    "modifiers": replace(NEIGHBOUR, modifiers=(PPM, 3 * PPM)),
}


@pytest.fixture(scope="module")
def beside() -> Batch:
    return Setting(neighbour=NEIGHBOUR).run()


@pytest.mark.parametrize("change", ABOUT_CLICKS)
def test_what_becomes_of_a_neighbours_impressions_concerns_nobody_else(change: str, beside: Batch) -> None:
    assert moved(beside, Setting(neighbour=ABOUT_CLICKS[change]).run()) == set()


@pytest.mark.parametrize("change", ABOUT_AUCTIONS)
def test_a_neighbour_that_bids_otherwise_moves_what_is_won_and_paid_and_nothing_else(
    change: str, beside: Batch
) -> None:
    assert moved(beside, Setting(neighbour=ABOUT_AUCTIONS[change]).run()) == AUCTIONS


def test_a_neighbour_that_comes_moves_what_is_won_and_paid_and_nothing_else(base: Batch, beside: Batch) -> None:
    assert moved(base, beside) == AUCTIONS


def test_recording_moves_nothing(base: Batch) -> None:
    factory, controls = Setting().build()
    silent = replace(factory, record_events=False)
    assert np.array_equal(run(silent(everyone(silent)), controls, (0, TICKS)).counts.values, base.counts.values)
    assert not len(run(silent(everyone(silent)), controls, (0, TICKS)).events)


def parts(factory: WorldFactory) -> Iterator[tuple[str, Any]]:
    """Every field of what a world is made of, by its name."""
    market = factory.markets[0]
    segment = market.segments[-1]
    for made_of in (market, market.traffic, segment, factory.response, factory.conversions, factory.conversions.delays):
        yield from ((f"{type(made_of).__name__}.{each.name}", getattr(made_of, each.name)) for each in fields(made_of))
    for made_of in (factory.troubles, factory.people[0]):
        yield from ((f"{type(made_of).__name__}.{each.name}", getattr(made_of, each.name)) for each in fields(made_of))
    yield from ((f"WorldFactory.{each.name}", getattr(factory, each.name)) for each in fields(factory))


def test_no_feature_is_left_out() -> None:
    base = dict(parts(Setting().build()[0]))
    left = set(base) - {"Audience.name"}
    asked = ("record_events", "record_opportunities", "tell_prices")
    left -= {f"WorldFactory.{name}" for name in ("campaigns", "grid", "seed", *asked)}
    for setting, _ in CHANGES.values():
        left -= {name for name, value in parts(setting.build()[0]) if not same(value, base[name])}
    assert left == set()


def same(one: Any, other: Any) -> bool:
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else repr(one) == repr(other)
