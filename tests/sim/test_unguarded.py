# ruff: noqa: ARG002 - the protocol's signature
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from engine.campaigns import CampaignSet, Charging
from engine.errors import BadInput
from engine.events import BIDS, CLICKS, IMPRESSIONS, OUTSIDE_SUPPORT, SPEND, Status
from engine.units import Float64, Int64, TickGrid, floor_micros
from sim.replay import AuctionReplayFactory
from sim.unguarded import Asked, evaluate_unguarded
from tests.sim.builders import GRID, Campaign, everyone, run, world_of
from tests.sim.test_replay import log


class Fixed:
    """Bids what it is given, tick by tick, and remembers what it has learnt."""

    def __init__(self, bids: list[list[float]]) -> None:
        self.bids = bids

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> tuple[Int64, ...]:
        return ()

    def bid(self, asked: Asked, memory: tuple[Int64, ...]) -> Float64:
        return np.array(self.bids[len(memory)] if len(memory) < len(self.bids) else [], dtype=np.float64)

    def learn(self, lifetime: Int64, memory: tuple[Int64, ...]) -> tuple[Int64, ...]:
        return (*memory, lifetime)


class Valued:
    """Bids ⌊bid · value⌋, as a campaign under constant controls does."""

    def __init__(self, bids: Int64) -> None:
        self._bids = bids

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> None:
        return None

    def bid(self, asked: Asked, memory: None) -> Float64:
        return floor_micros(self._bids[asked.campaign] * asked.value).astype(np.float64)

    def learn(self, lifetime: Int64, memory: None) -> None:
        return None


def one_campaign(prices: list[int], ticks: list[int] | None = None, **rules: object) -> AuctionReplayFactory:
    factory, _ = world_of([Campaign()])
    rows = log(prices, [1] * len(prices), [1.0] * len(prices), ticks)
    return AuctionReplayFactory(factory.campaigns, GRID, rows, **rules)  # type: ignore[arg-type]


@pytest.mark.parametrize("ties_win", [True, False])
def test_an_unrounded_bid_wins_exactly_what_it_beats(*, ties_win: bool) -> None:
    bids = [0.0, 0.2, 9.999_999_9, 10.0, 10.000_000_1, 10.5, math.nextafter(11, 0), 11.0, 1e9, 1e300]
    pairs = [(bid, price) for bid in bids for price in (0, 1, 9, 10, 11, 12, 10**9)]
    source = one_campaign([price for _, price in pairs], ties_win=ties_win)
    found = evaluate_unguarded(source, Fixed([[bid for bid, _ in pairs]]))
    won = [price for bid, price in pairs if (bid >= price if ties_win else bid > price) and bid > 0]
    if ties_win:  # less than a micro is no bid, here as in every auction
        won.remove(0)
    assert found.counts[0, 0, [IMPRESSIONS, CLICKS, SPEND]].tolist() == [len(won), len(won), sum(won)]
    assert found.kind == "unguarded evaluation"


@pytest.mark.parametrize("charging", list(Charging))
def test_constant_whole_bids_give_what_the_replay_gives(charging: Charging) -> None:
    members = [Campaign(bid=bid, charging=charging, budget=10**14, ctrs=(0.1, 0.3)) for bid in (3_000, 6_000)]
    factory, controls = world_of(members, record="opportunities")
    recorded = run(factory(everyone(factory)), controls, (0, GRID.ticks))
    source = AuctionReplayFactory(factory.campaigns, GRID, recorded.opportunities, logged_bid_micros=7_000)
    other = replace(controls, scalar=controls.scalar * [[2, 1], [1, 1]])
    replayed = run(source(everyone(source)), other, range(GRID.ticks + 1))
    found = evaluate_unguarded(source, Valued(other.bid))
    assert np.array_equal(found.counts, replayed.counts.of_campaigns(factory.campaigns.cell_start))
    assert np.array_equal(found.lifetime[-1], found.counts.sum(axis=0))
    assert found.counts[..., OUTSIDE_SUPPORT].any()


def test_it_learns_at_the_close_of_every_tick_and_from_what_was_counted_since_the_start() -> None:
    source = one_campaign([10, 20, 30], ticks=[0, 1, 1], ties_win=False)
    learnt: list[Int64] = []

    class Spy(Fixed):
        def learn(self, lifetime: Int64, memory: tuple[Int64, ...]) -> tuple[Int64, ...]:
            learnt.append(lifetime[0, [BIDS, IMPRESSIONS, SPEND]])
            return super().learn(lifetime, memory)

    evaluate_unguarded(source, Spy([[10.5], [20.0, 30.1]]))
    assert [row.tolist() for row in learnt] == [[1, 1, 10]] + [[3, 2, 40]] * (GRID.ticks - 1)


def test_a_bid_above_the_logged_one_or_on_an_unknown_price_is_outside_the_support() -> None:
    source = one_campaign([10, 10, 10], ties_win=False, logged_bid_micros=15)
    status = np.array([Status.KNOWN, Status.KNOWN, Status.UNKNOWN], dtype=np.uint8)
    source = replace(source, opportunities=replace(source.opportunities, price_status=status))
    found = evaluate_unguarded(source, Fixed([[15.0, 15.1, 12.0]]))
    assert found.counts[0, 0, [BIDS, OUTSIDE_SUPPORT, IMPRESSIONS]].tolist() == [3, 2, 2]


def test_it_is_shown_neither_price_nor_outcome() -> None:
    assert Asked._fields == ("campaign", "tick", "value", "predicted_ctr")


@pytest.mark.parametrize("bid", [math.nan, math.inf, -0.5])
def test_what_is_no_bid_is_refused(bid: float) -> None:
    with pytest.raises(BadInput) as refused:
        evaluate_unguarded(one_campaign([10, 10]), Fixed([[1.0, bid]]))
    assert str(refused.value) == f"bid (={bid}) in tick 0 must be finite and >= 0: correct the algorithm"


def test_first_price_is_refused() -> None:
    with pytest.raises(BadInput) as refused:
        evaluate_unguarded(one_campaign([10], first_price=(True,)), Fixed([[11.5]]))
    expected = "auction (=first_price) must be second_price for an unguarded evaluation, whose bids are unrounded"
    assert str(refused.value) == expected
