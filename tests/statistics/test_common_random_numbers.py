"""What streams of their own are good for: two arms of one seed differ by what was changed alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import f

from engine.campaigns import Charging
from engine.events import REVENUE, SPEND
from engine.units import Int64
from tests.sim.builders import MARKET, Campaign, everyone, run, world_of

SEEDS = 60
RATIO = 5.0
MARKETS = {
    "a": MARKET,
    "b": replace(MARKET, first_price=True, competitors=3),
    "c": replace(MARKET, exposure=(0.9, 0.5)),
}
ACCOUNT = [
    Campaign("a", bid=5_000, ctrs=(0.1, 0.05)),
    Campaign("b", bid=6_000, reach=0.6),
    Campaign("c", bid=4_000, charging=Charging.PER_CLICK, correlation=0.3),
]


def profit(seed: int, change: float) -> int:
    factory, controls = world_of(ACCOUNT, MARKETS, seed=seed)
    bids = np.floor(controls.scalar * [change, 1.0]).astype(np.int64)
    counts = run(factory(everyone(factory)), replace(controls, scalar=bids), (0, 48)).counts.values
    return int((counts[:, :, REVENUE] - counts[:, :, SPEND]).sum())


def variance(differences: Int64) -> float:
    return float(differences.var(ddof=1))


@pytest.mark.slow
def test_a_paired_arm_has_a_fifth_of_the_variance_of_an_independent_one_or_less(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """60 seeds a side. Were the ratio of variances 5, F would exceed the bound below with a probability of 1e-5."""
    before = np.array([profit(seed, 1.0) for seed in range(SEEDS)])
    paired = np.array([profit(seed, 1.1) for seed in range(SEEDS)]) - before
    apart = np.array([profit(seed, 1.1) for seed in range(SEEDS, 2 * SEEDS)]) - before
    ratio = variance(apart) / variance(paired)
    with capsys.disabled():
        print(f"\nprofit of +10 % bids: paired variance 1/{ratio:.1f} of independent seeds")  # noqa: T201 - the figure
    assert ratio > RATIO * f.isf(1e-5, SEEDS - 1, SEEDS - 1)
