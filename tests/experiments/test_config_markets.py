"""What a configuration says of markets, people, creatives and attribution: what is built of it, what is refused."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest

from engine.errors import BadInput
from engine.events import CLICKS, IMPRESSIONS, PEOPLE
from experiments import build
from experiments.config import load_config
from sim.attribution import Attribution, last_click, linear, position_based
from sim.auction import Answer, BotClicks, Market, PriceShock, Segment
from sim.people import Audience
from sim.traffic import Traffic, TrafficChange
from sim.world import WorldFactory
from tests.scenarios import config, full_world

TICKS = 71  # the second day has 23 hours


def world(document: dict[str, Any]) -> WorldFactory:
    factory = build.simulation(load_config(document)).source
    assert isinstance(factory, WorldFactory)
    return factory


def changed(*path: Any, value: Any) -> dict[str, Any]:
    """The full world with one value in another's place, or taken away where it is ..."""
    document = copy.deepcopy(full_world())
    node: Any = document
    for part in path[:-1]:
        node = node[part]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return document


def test_markets_are_built_with_slots_competitors_audiences_and_troubles() -> None:
    everybody = Segment(audience="everybody in display")
    assert dict(zip(("display", "search", "social"), world(full_world()).markets, strict=True)) == {
        "display": Market(
            Traffic(60, 0.4, 14, changes=(TrafficChange(47, 71, 3.0),)),
            level_micros=20_000,
            price_sigma=0.6,
            reserve_micros=5_000,
            first_price=True,
            competitors=3,
            segments=(everybody,),
            shocks=(PriceShock(0, 2, 1.6),),
        ),
        "search": Market(
            Traffic(60, 0.6, 20, changes=(TrafficChange(47, 71, 3.0),)),
            level_micros=24_000,
            price_sigma=0.6,
            reserve_micros=2_000,
            competitors=5,
            exposure=(1.0, 0.7, 0.4),
            segments=(
                Segment(0.6, price=1.1, ctr=1.3, cvr=0.8, audience="young"),
                Segment(0.4, value=1.4, audience="old"),
            ),
            answer=Answer(0.5, 0.9),
            bots=(BotClicks(24, 29, 0.05),),
        ),
        "social": Market(
            Traffic(60, 0.7, 21, changes=(TrafficChange(6, 18, 0.4), TrafficChange(47, 71, 3.0))),
            level_micros=20_000,
            price_sigma=0.5,
            segments=(Segment(0.3, audience="old"), Segment(0.7, ctr=1.2, audience="young")),
            shocks=(PriceShock(24, 30, 1.6),),
        ),
    }


def test_people_response_and_attribution_arrive() -> None:
    factory = world(full_world())
    assert factory.people == (
        Audience("old", 900),
        Audience("young", 500, 0.8),
        Audience("everybody in display", 400),
    )
    assert factory.attribution == Attribution(last_click, 24, 0.05)
    response = factory.response
    assert response.correlation.tolist() == [0, 0.3, 0, 0, 0]
    video = [*factory.campaigns.creatives].index("video")
    assert (response.wear.nonzero()[0].tolist(), response.wear[video]) == ([video], 0.3)
    assert (response.rest_hours[video], set(np.delete(response.rest_hours, video))) == (168, {math.inf})
    assert factory.joined.tolist() == [0, 1, 1]  # search and social share people
    assert world(changed("attribution", value=...)).joined.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("model", "credit"), [("last_click", last_click), ("linear", linear), ("position_based", position_based)]
)
def test_attribution_by_each_model(model: str, credit: Any) -> None:
    document = full_world(record=[], attribution={"model": model}, troubles=[])
    assert world(document).attribution == Attribution(credit, 720, 0)


def test_the_full_world_lives_and_survives_being_echoed() -> None:
    made = load_config(full_world())
    assert load_config(json.loads(made.model_dump_json())) == made
    plan = build.simulation(made)
    batch = plan.source(np.arange(5)).advance(0, TICKS, plan.controls)
    counts = batch.counts.of_campaigns(plan.campaigns.cell_start).sum(axis=0)
    assert (counts[:, [IMPRESSIONS, CLICKS, PEOPLE]] > 0).all()
    assert batch.truth is not None
    assert batch.truth[:, :, 0].sum() > 0


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (
            ("markets", "search", "auction"),
            "second_price",
            "markets.search.auction (='second_price') sells one slot, and slots names 3: write gsp, or give one",
        ),
        (
            ("markets", "search", "auction"),
            "gps",
            "markets.search.auction (='gps') must be 'second_price', 'first_price' or 'gsp': did you mean 'gsp'?",
        ),
        (
            ("markets", "search", "slots"),
            ["50%", "70%"],
            "markets.search.slots[1] (=0.7) must be <= 0.5, as in the slot above: order them",
        ),
        (
            ("markets", "search", "slots"),
            [1, 0],
            "markets.search.slots[1] (=0.0) must be > 0%: leave out a slot that nobody sees",
        ),
        (("markets", "search", "slots"), [], "markets.search.slots (=[]) must hold at least 1: add one"),
        (
            ("markets", "search", "slots"),
            [1] * 21,
            f"markets.search.slots (={str([1] * 21)[:58]} …) must hold at most 20: remove some",
        ),
        (
            ("markets", "search", "price", "competitor"),
            4,
            "markets.search.price.competitor (=4) is not a known key: did you mean 'competitors'?",
        ),
        (
            ("markets", "search", "price", "answers", "persistence"),
            1.0,
            "markets.search.price.answers.persistence (=1.0) must be < 1.0: lower it",
        ),
        (
            ("markets", "search", "people"),
            500,
            "markets.search.people (=500) must be left out beside audiences, which have people of their own: move it "
            "to one of them",
        ),
        (
            ("markets", "display", "people"),
            ...,
            "attribution needs people who click and convert: say how many in markets.display.people",
        ),
        (
            ("audiences", "old", "people"),
            20_000_000,
            "audiences.old.people (=20000000) must be <= 10000000: lower it",
        ),
        (
            ("markets", "search", "activity"),
            0.8,
            "markets.search.activity (=0.8) is that of people, and none are counted here: add people or remove it",
        ),
        (
            ("campaigns", "search-a", "value_sigma"),
            0,
            "campaigns.search-a.value_price_correlation (=0.3) must be 0 where value_sigma is, as all opportunities "
            "are worth the same: remove it",
        ),
        (
            ("attribution", "model"),
            "linear",
            "attribution.model (='linear') must be last_click where events are recorded, as an event names one click: "
            "write it or record none",
        ),
        (
            ("attribution", "model"),
            "last_touch",
            "attribution.model (='last_touch') must be 'last_click', 'linear' or 'position_based': did you mean "
            "'last_click'?",
        ),
        (
            ("record",),
            ["events", "opportunities"],
            "record (=['events', 'opportunities']) cannot hold opportunities beside markets.search.slots, which a "
            "price and an outcome each do not tell: record events instead",
        ),
    ],
)
def test_a_world_that_contradicts_itself(path: tuple[Any, ...], value: Any, sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_config(changed(*path, value=value))
    assert str(refused.value) == f"configuration: {sentence}"


def test_wear_needs_people() -> None:
    document = config()
    document["campaigns"]["social-b"]["creatives"]["still"]["wear"] = {"exponent": 0.2}
    document["record"] = []
    with pytest.raises(BadInput) as refused:
        load_config(document)
    assert str(refused.value) == (
        "configuration: campaigns.social-b.creatives.still.wear needs people who get tired: say how many in "
        "markets.social.people"
    )
    document["markets"]["social"]["people"] = 10_000
    assert world(document).response.wear.tolist().count(0.2) == 1


def test_audiences_of_one_market_are_all_counted_or_none_is() -> None:
    document = full_world(audiences={"old": {}, "young": {"people": 500}}, troubles=[])
    del document["attribution"], document["campaigns"]["social-a"]["creatives"]["video"]["wear"]
    document["markets"]["social"].pop("audiences")
    with pytest.raises(BadInput) as refused:
        load_config(document)
    assert str(refused.value) == (
        "configuration: audiences.old.people must be said, as other audiences of market search have theirs: add it, or "
        "count nobody there"
    )
    document["audiences"] = {"old": {}, "young": {}}
    factory = world(document)
    assert {segment.audience for segment in factory.markets[1].segments} == {None}
    assert factory.people == (Audience("everybody in display", 400),)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("markets", "search", "slots"), ["90%"], "markets.search.slots"),
        (("campaigns", "search-a", "conversions", "per_click"), 1.5, "campaigns.search-a.conversions.per_click"),
        (
            ("campaigns", "search-a", "conversions", "refunds"),
            {"rate": "5%", "delay_hours": 9},
            "campaigns.search-a.conversions.refunds",
        ),
        (("troubles",), [{"day": 1, "hours": 1, "bot_clicks": {"markets": "all", "share": "5%"}}], "troubles[0]"),
    ],
)
def test_opportunities_that_cannot_be_recorded(path: tuple[str, ...], value: Any, named: str) -> None:
    document = config()
    document["markets"]["search"]["auction"] = "gsp"
    node = document
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    with pytest.raises(BadInput) as refused:
        load_config(document)
    assert str(refused.value) == (
        f"configuration: record (=['events', 'opportunities']) cannot hold opportunities beside {named}, which a "
        "price and an outcome each do not tell: record events instead"
    )
