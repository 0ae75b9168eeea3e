from __future__ import annotations

import numpy as np
import pytest

from engine.baseline import SLOTS
from engine.events import CLICKS, CONVERSIONS, COUNTS, OPPORTUNITIES, REVENUE, SPEND
from engine.policy import View
from engine.sequential import paired
from engine.split import Split
from engine.units import Int64
from engine.verdicts import FEWEST_BLOCKS, Control, Event, Verdict, WatchLimits, Why
from engine.watch import Watching
from tests.engine.builders import Desk, campaign_set, controls, vector

DAY = 12
LIMITS = WatchLimits.of(DAY, None)


def test_paired_differences_by_hand() -> None:
    sums = np.array([2.0, -4.0, 10.0, 2.0])  # two blocks of weight 1: y = −1 and −3
    found = paired(sums, np.array(1.0), alpha=0.5)
    # precision 2; residual 10 − 2·4 = 2 with 1 degree of freedom; ratio 8 / (8 + 2) = 4/5
    level = 0.8**0.5
    assert (found.estimate, found.blocks) == (-2, 2)
    assert found.upper == pytest.approx(-2 + ((1 - level) / (level - 0.8)) ** 0.5)
    assert paired(np.zeros(4), np.array(1.0)).upper == np.inf


class Bench:
    """One campaign of two creatives, its weights moved from (1, 0) to (3/4, 1/4) in a run without any past."""

    def __init__(self, old: tuple[int, int] = (1_000_000, 0), new: tuple[int, int] = (750_000, 250_000)) -> None:
        self.campaigns = campaign_set((1, 2))
        weights = np.array([1_000_000, *old], dtype=np.int64)
        desk = Desk(self.campaigns, controls(self.campaigns, weights=weights))
        rows = desk.hold(vector(new, campaign=1), granted=[True, True]).approved.rows
        self.state = desk.state
        self.watching, _ = Watching.initial(2, 3, 2).after(rows, np.zeros(2, dtype=np.bool_), {}, self.campaigns)
        self.first = self.watching.tick

    def see(self, tick: int, known: int, tried: int, conversions: int = 30) -> tuple[Verdict, str]:
        """Live up to a tick; what an opportunity brings by either creative, micros; a little more every other hour."""
        while self.watching.tick < tick:
            now = self.watching.tick + 1
            cells = np.zeros((2, len(COUNTS)), dtype=np.int64)
            cells[:, OPPORTUNITIES] = (300, 100)
            cells[:, CLICKS], cells[:, CONVERSIONS], cells[:, SPEND] = 30, conversions, 600
            cells[:, REVENUE] = np.array([300 * known, 100 * tried]) + 600 + 100 * (now % 2)
            recent: Int64 = np.stack([cells.sum(axis=0), cells.sum(axis=0)])
            view = View(now, self.state, recent, recent, recent, cells)
            self.watching = self.watching.seen(view, now % SLOTS, self.campaigns, LIMITS)
        (watch,) = self.watching.watches
        return watch.verdict(self.watching.tick, LIMITS)

    @property
    def split(self) -> Split | None:
        (watch,) = self.watching.watches
        return watch.split


def test_a_creative_that_brings_less_is_found_though_there_is_no_past_and_no_sibling() -> None:
    bench = Bench()
    (watch,) = bench.watching.watches
    assert (watch.control, watch.tell(Event.OPENED).control) == (Control.SPLIT, Control.SPLIT)
    mature = bench.first + 2 * DAY
    assert bench.see(mature - 1, known=1_000, tried=900) == (Verdict.TOO_EARLY, "")
    assert bench.see(mature + 1, known=1_000, tried=900) == (Verdict.ROLL_BACK, Why.PROFIT)


def test_the_effect_is_the_share_moved_times_the_difference() -> None:
    bench = Bench()
    bench.see(bench.first + 4 * DAY, known=1_000, tried=900)
    assert bench.split is not None
    weight, moment, _, blocks = bench.split.sums.tolist()
    # a quarter of the opportunities moved: 1 / (1/300 + 1/100) is a block's weight
    assert (blocks, weight) == (3 * DAY, pytest.approx(3 * DAY * 75))
    assert moment / weight == pytest.approx(-100 + (1 - 1 / 3) / 2)
    assert -26 < bench.split.upper < -24


def test_a_creative_that_brings_as_much_is_kept() -> None:
    bench = Bench()
    end = bench.first + 7 * DAY
    assert bench.see(end, known=1_000, tried=1_000) == (Verdict.KEEP, Why.WINDOW)


def test_too_few_conversions_give_no_verdict() -> None:
    bench = Bench()
    end = bench.first + 7 * DAY
    assert bench.see(end, known=1_000, tried=0, conversions=0) == (Verdict.NO_DATA, Why.WINDOW)


def test_a_creative_that_is_shown_no_more_cannot_be_compared_with() -> None:
    assert Bench(old=(200_000, 800_000), new=(0, 1_000_000)).split is None
    assert Bench(old=(500_000, 500_000), new=(400_000, 600_000)).split is not None


@pytest.mark.slow
@pytest.mark.parametrize("rate", [2.0, 8.0, 60.0])
def test_looking_at_every_block_at_most_5_percent_of_harmless_moves_are_rolled_back(rate: float) -> None:
    """A quarter of the opportunities moved, `rate` conversions a block, each of a log-normal value."""
    random, runs, found = np.random.default_rng(int(rate)), 1_000, 0
    for _ in range(runs):
        split = Split.of(np.arange(2), np.array([-250_000, 250_000]))
        for _ in range(6 * DAY):
            creatives = np.zeros((2, 6), dtype=np.int64)
            for cell, share in enumerate((0.75, 0.25)):
                conversions = int(random.poisson(rate * share))
                value = 100_000 * np.exp(random.normal(-0.18, 0.6, conversions)).sum()
                creatives[cell] = (int(10_000 * share), 0, conversions, 0, value, 1)
            split = split.fed(creatives).closed()
            if split.sums[3] >= FEWEST_BLOCKS and split.enough and split.upper < 0:
                found += 1
                break
    assert found / runs <= 0.05
