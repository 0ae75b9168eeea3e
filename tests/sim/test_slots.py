"""Slots by the generalised second-price rule: examples worked by hand, and every other scene by a second reckoning.

Without spread of prices and values nothing in an auction is left to chance: every competitor bids the level, and a
campaign bids its bid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.campaigns import Charging
from engine.events import CLICKS, IMPRESSIONS, SPEND
from engine.units import TickGrid
from sim.auction import Market
from sim.traffic import Traffic
from tests.sim.builders import GRID, Campaign, everyone, run, world_of

SHORT = TickGrid(GRID.start, 30, 3, GRID.zone)
CERTAIN = Campaign(value_sigma=0.0)


def prices(bids: list[int], market: Market, campaign: Campaign = CERTAIN) -> list[int | None]:
    """What each campaign pays in every auction; None where it wins no slot. All auctions must be alike."""
    factory, controls = world_of([replace(campaign, bid=bid) for bid in bids], {"m": market}, SHORT)
    batch = run(factory(everyone(factory)), controls, (0, SHORT.ticks))
    assert batch.auctions > 20
    counts = batch.counts.values.sum(axis=0)
    assert set(counts[:, IMPRESSIONS].tolist()) <= {0, batch.auctions}
    return [int(row[SPEND]) // int(row[IMPRESSIONS]) if row[IMPRESSIONS] else None for row in counts]


def market(slots: int, competitors: int, reserve: int = 0, **more: Any) -> Market:
    return Market(
        Traffic(20.0), 5_000.0, 0.0, reserve_micros=reserve, competitors=competitors, exposure=(1.0,) * slots, **more
    )


@dataclass(frozen=True)
class Scene:
    """Bids by position, and what each pays."""

    slots: int
    competitors: int  # at 5,000 each
    bids: list[int]
    pays: list[int | None]
    reserve: int = 0


SCENES = {
    "each pays the next bid, the last the competitor": Scene(3, 2, [9_000, 6_000], [6_000, 5_000]),
    "whoever comes later has to bid a micro more": Scene(3, 2, [6_000, 9_000], [5_000, 6_001]),
    "a tie goes to the lower position": Scene(3, 2, [6_000, 6_000], [6_000, 5_000]),
    "of three that tie the last wins nothing of two slots": Scene(2, 0, [6_000] * 3, [6_000, 6_000, None]),
    "a competitor loses a tie": Scene(1, 1, [5_000], [5_000]),
    "a micro less loses to it": Scene(1, 1, [4_999], [None]),
    "a competitor takes the slot between": Scene(3, 1, [9_000, 3_000], [5_000, 1]),
    "a reserve is the least that the last slot costs": Scene(3, 1, [9_000, 3_000], [5_000, 2_000], 2_000),
    "nobody below the reserve wins": Scene(3, 1, [9_000, 3_000], [5_000, None], 3_500),
    "a bid at the reserve does": Scene(1, 0, [1_000], [1_000], 1_000),
    "competitors below the reserve make no price": Scene(2, 3, [9_000, 7_000], [7_000, 6_500], 6_500),
    "two competitors between take both slots": Scene(3, 2, [9_000, 3_000, 1_000], [5_000, None, None]),
    "a third comes after them": Scene(4, 2, [9_000, 3_000, 1_000], [5_000, 1_000, None]),
    "and a fourth after that": Scene(5, 2, [9_000, 3_000, 1_000], [5_000, 1_000, 1]),
    "who wins no slot still makes the price": Scene(2, 0, [9_000, 8_000, 7_000], [8_000, 7_000, None], 1_000),
    "without anybody else a slot costs a micro": Scene(1, 0, [9_000], [1]),
    "a crowd takes all": Scene(3, 50, [4_000, 3_000], [None, None]),
    "a crowd is below": Scene(3, 50, [7_000, 9_000, 8_000], [5_000, 8_000, 7_001]),
}


@pytest.mark.parametrize("name", SCENES)
def test_position_by_position(name: str) -> None:
    scene = SCENES[name]
    assert prices(scene.bids, market(scene.slots, scene.competitors, scene.reserve)) == scene.pays


def test_under_first_price_everybody_pays_the_own_bid() -> None:
    assert prices([9_000, 3_000, 6_000], market(3, 1, first_price=True)) == [9_000, None, 6_000]


def test_a_click_costs_the_price_over_the_predicted_ctr() -> None:
    charged_per_click = replace(CERTAIN, charging=Charging.PER_CLICK, ctrs=(0.4,))
    factory, controls = world_of([replace(charged_per_click, bid=bid) for bid in (9_000, 6_000)], {"m": market(2, 1)})
    counts = run(factory(everyone(factory)), controls, (0, GRID.ticks)).counts.values.sum(axis=0)
    assert (counts[:, SPEND] / counts[:, CLICKS]).tolist() == [15_000.0, 12_500.0]


def test_what_is_not_seen_costs_nothing_and_moves_nobody_up() -> None:
    """Exposure is held to 4.5 standard errors: right worlds fail with a probability of 2e-5, all bounds together."""
    seen = (0.8, 0.5, 0.2)
    shown = replace(market(3, 0), exposure=seen, traffic=Traffic(400.0))
    factory, controls = world_of([replace(CERTAIN, bid=bid) for bid in (9_000, 8_000, 7_000, 6_000)], {"m": shown})
    batch = run(factory(everyone(factory)), controls, (0, GRID.ticks))
    counts = batch.counts.values.sum(axis=0)
    for place, (share, price) in enumerate(zip(seen, (8_000, 7_000, 6_000), strict=True)):
        assert counts[place, SPEND] == price * counts[place, IMPRESSIONS]
        error = (share * (1 - share) * batch.auctions) ** 0.5
        assert abs(counts[place, IMPRESSIONS] - share * batch.auctions) < 4.5 * error
    assert counts[3, IMPRESSIONS] == 0


def reckoned(bids: list[int], slots: int, competitors: int, level: int, reserve: int) -> list[int | None]:
    """All who may win in one ranking; each campaign among the first pays the least bid that would keep its rank."""
    floor = max(reserve, 1)
    entrants = [(-bid, 0, place) for place, bid in enumerate(bids) if bid >= floor]
    ranking = sorted(entrants + [(-level, 1, 0)] * (competitors if level >= floor else 0))
    pays: list[int | None] = [None] * len(bids)
    for rank, (_, is_competitor, place) in enumerate(ranking[:slots]):
        if is_competitor:
            continue
        below = ranking[rank + 1] if rank + 1 < len(ranking) else (-floor, 1, 0)
        pays[place] = -below[0] + (1 if not below[1] and below[2] < place else 0)
    return pays


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from([0, 1, 40, 4_999, 5_000, 5_001, 8_000, 8_001]), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(0, 6),
    st.sampled_from([0, 40, 5_000, 8_001]),
)
def test_every_scene_comes_out_as_reckoned(bids: list[int], slots: int, competitors: int, reserve: int) -> None:
    assert prices(bids, market(slots, competitors, reserve)) == reckoned(bids, slots, competitors, 5_000, reserve)
