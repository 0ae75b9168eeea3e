"""The search of settings: it finds what is better, keeps what it was given where nothing is, and repeats itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from agents.classic import Gains, PacingPI
from agents.horizon import Curve
from agents.promotion import GATE_SEEDS
from agents.tuned import DEFAULTS, FOR_BUDGET, FOR_TARGET, MAKERS, Known, bidder
from agents.tuning import TUNING_SEEDS, Span, search
from experiments.config.bidding import load_bidding
from experiments.tasks import bidding_task
from sim.bidding import BiddingTask

TASK = BiddingTask()
SPANS = {"proportional": Span(0.001, 1.0), "integral": Span(0.001, 1.0)}
POOR = {"proportional": 0.001, "integral": 0.001}
ROUNDS = ((6, 20), (4, 40), (2, 60))


def pacing(settings: Mapping[str, float]) -> PacingPI:
    curve = Curve(levels=tuple(TASK.known_curve))
    return PacingPI(Gains(settings["proportional"], settings["integral"]), curve, (0.1, 10.0))


@pytest.mark.slow
def test_it_finds_settings_that_are_better_than_poor_ones() -> None:
    """A controller that hardly answers earns some 80 % of hindsight, a good one 96 %."""
    found = search(pacing, SPANS, POOR, TASK, seed=1, rounds=ROUNDS)
    assert found.gain.low > 0.05
    assert found.score.mean > 0.94
    assert all(0.001 <= value <= 1.0 for value in found.settings.values())
    assert found == search(pacing, SPANS, POOR, TASK, seed=1, rounds=ROUNDS)


@pytest.mark.slow
def test_what_it_was_given_wins_where_nothing_is_better() -> None:
    good = {"proportional": 0.3, "integral": 0.3}
    awful = {"proportional": Span(1e-6, 2e-6), "integral": Span(1e-6, 2e-6)}
    found = search(pacing, awful, good, TASK, seed=1, rounds=ROUNDS)
    assert found.settings == good
    assert (found.gain.low, found.gain.high) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("span", "middle"), [(Span(0.01, 1.0), 0.1), (Span(-1.0, 2.0, log=False), 0.5), (Span(1.0, 100.0), 10.0)]
)
def test_spans_are_walked_in_their_scale(span: Span, middle: float) -> None:
    assert (span.at(0.0), span.at(0.5), span.at(1.0)) == (span.low, middle, span.high)
    assert span.share(middle) == pytest.approx(0.5)
    assert (span.at(-1.0), span.at(2.0)) == (span.low, span.high)


def test_seeds_of_tuning_gate_and_evaluation_have_none_in_common() -> None:
    config = load_bidding(Path("configs/bidding_default.yaml"))
    seeds = [*TUNING_SEEDS, *GATE_SEEDS, *config.held_out.seeds, config.seed]
    assert len(seeds) == len(set(seeds))
    assert bidding_task(config.task) == TASK, "the file is the task that the tuned settings are for"


def test_tuned_settings_are_settings_of_their_policies() -> None:
    for table in (FOR_BUDGET, FOR_TARGET):
        for name, settings in table.items():
            assert settings.keys() <= DEFAULTS[name].keys()
    for name in MAKERS:
        assert bidder(name, Known.of(TASK)) is not None
