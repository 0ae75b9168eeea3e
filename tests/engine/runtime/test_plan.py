from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.campaigns import CampaignSet
from engine.runtime.plan import partition
from experiments import api, build
from tests.engine.builders import campaign_set
from tests.scenarios import config


def in_markets(market: list[int], markets: int) -> CampaignSet:
    """Campaigns of one creative each, in the given markets."""
    return replace(
        campaign_set([1] * len(market)),
        markets=tuple(f"market-{place:02}" for place in range(markets)),
        market=np.array(market, dtype=np.int64),
        ids=tuple(f"campaign-{place:03}" for place in range(len(market))),
    )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 12))
def test_every_campaign_lives_once_with_its_whole_market_and_shards_are_balanced(market: list[int], parts: int) -> None:
    campaigns = in_markets(market, 10)
    shards = partition(campaigns, parts)
    assert sorted(np.concatenate(shards).tolist()) == list(range(len(market)))
    assert len(shards) == min(parts, len(set(market)))
    homes = [set(campaigns.market[members].tolist()) for members in shards]
    assert sum(len(home) for home in homes) == len(set(market))
    assert all((np.diff(members) > 0).all() for members in shards)
    sizes = [len(members) for members in shards]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= np.bincount(market).max()


@pytest.mark.parametrize(
    ("market", "parts", "expected"),
    [
        ([0, 0, 1, 1, 2, 2], 1, [[0, 1, 2, 3, 4, 5]]),
        ([0, 0, 0, 1, 2, 2], 2, [[0, 1, 2], [3, 4, 5]]),
        ([3, 3, 3, 3, 1, 0, 2], 2, [[0, 1, 2, 3], [4, 5, 6]]),
        ([5], 4, [[0]]),
    ],
)
def test_the_largest_market_goes_first_to_the_emptiest_shard(
    market: list[int], parts: int, expected: list[list[int]]
) -> None:
    assert [members.tolist() for members in partition(in_markets(market, 6), parts)] == expected


def test_joined_markets_live_together() -> None:
    campaigns = in_markets([0, 1, 1, 2, 3, 3, 3], 4)
    joined = np.array([0, 1, 0, 3])  # the first and the third
    assert [members.tolist() for members in partition(campaigns, 4, joined)] == [[4, 5, 6], [0, 3], [1, 2]]
    assert [members.tolist() for members in partition(campaigns, 2, joined)] == [[4, 5, 6], [0, 1, 2, 3]]
    assert [len(members) for members in partition(campaigns, 4, np.zeros(4, dtype=np.int64))] == [7]


@pytest.mark.parametrize(
    ("every", "spans"),
    [
        (1, [(tick, tick + 1) for tick in range(71)]),
        (5, [(t, min(t + 5, 71)) for t in range(0, 71, 5)]),
        (99, [(0, 71)]),
    ],
)
def test_a_run_is_cut_at_its_decision_boundaries(every: int, spans: list[tuple[int, int]]) -> None:
    plan = build.simulation(api.load(config(decision_every=every, script={})))
    assert plan.spans() == spans
    assert (plan.approval_ticks, plan.history_ticks) == (24, 168)
