"""LP-KM: what the rest of the budget affords, within what the guard lets a bid do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.classic import Constant, PacingPI
from agents.horizon import Curve
from agents.lp import OnlineLP
from agents.rollout import BAND, Played, Rollout, play
from engine.actions import Knob
from engine.events import BIDS, IMPRESSIONS, OPPORTUNITIES, SPEND
from engine.judgement import Outcome
from engine.prices import Prices
from engine.units import Float64
from sim.bidding import BiddingTask, Episodes

TASK = BiddingTask()
CURVE = Curve(levels=tuple(TASK.known_curve))
WIDE = (0.1, 10.0)
LP = OnlineLP(CURVE, band=WIDE, expected_opportunities=95 * 48)
EPISODES = TASK.draw(31, np.arange(400))
TARGETED = replace(TASK, target_range=(-0.45, 0.25)).draw(32, np.arange(400))


def share(played: Played, episodes: Episodes) -> Float64:
    """Fraction of the hindsight optimum."""
    fraction: Float64 = played.value / episodes.best.value
    return fraction


def gain(one: Float64, other: Float64) -> tuple[float, float]:
    """Mean paired gain, and its standard error."""
    difference = one - other
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


# Each of the next three fails by chance for less than one set of episodes in 10,000 (four standard errors).


def test_it_beats_pacing_that_is_even_in_time() -> None:
    mean, error = gain(share(play(LP, EPISODES), EPISODES), share(play(PacingPI(band=WIDE), EPISODES), EPISODES))
    assert mean > 4 * error


def test_it_takes_more_than_96_percent_of_hindsight() -> None:
    shares = share(play(LP, EPISODES), EPISODES)
    assert shares.mean() - 4 * shares.std() / 20 > 0.96


def test_a_target_is_kept_where_it_binds() -> None:
    """The constant bid overshoots it, and so does the same policy unaware of it."""
    aware, unaware = play(LP, TARGETED), play(replace(LP, target_micros=np.inf), replace(TARGETED, target=None))
    assert TARGETED.target is not None
    over = [np.mean(each.spend > 1.05 * TARGETED.target * each.value) for each in (aware, unaware)]
    assert over[0] < 0.25 < over[1]
    score = [
        each.value * np.minimum(1, (TARGETED.target * each.value / np.maximum(each.spend, 1)) ** 2)
        for each in (aware, unaware)
    ]
    mean, error = gain(*score)
    assert mean > 4 * error


def test_the_guard_lets_every_bid_through_and_every_step_is_at_most_a_quarter() -> None:
    played = play(LP, EPISODES)
    assert played.proposed.sum() > 10_000
    assert played.refused.sum() == 0
    before, after = played.bids[:-1], played.bids[1:]
    assert (4 * np.abs(after - before) <= before).all()
    low, high = (EPISODES.bid * float(side) for side in BAND)
    assert ((played.bids >= np.floor(low)) & (played.bids <= high)).all()
    assert (played.bids <= EPISODES.budget).all()


def test_nothing_is_spent_beyond_the_budget_nor_won_beyond_hindsight() -> None:
    for policy in (LP, PacingPI(band=WIDE), Constant()):
        played = play(policy, EPISODES)
        assert (played.spend <= EPISODES.budget).all()
        assert (played.value <= EPISODES.best.value * (1 + 1e-9) + 0.01).all()


def test_what_a_campaign_bids_does_not_depend_on_who_is_played_beside_it() -> None:
    together = play(LP, TASK.draw(31, np.arange(20))).bids
    alone = [play(LP, TASK.draw(31, np.array([number]))).bids[:, 0] for number in (0, 7, 19)]
    assert np.array_equal(together[:, [0, 7, 19]], np.stack(alone, axis=1))
    assert np.array_equal(together, play(LP, EPISODES).bids[:, :20])


def test_a_campaign_without_money_lets_its_bid_rest() -> None:
    rollout = Rollout(TASK.draw(31, np.arange(3)))
    view = rollout.advance()
    broke = view.recent.copy()
    broke[1, [BIDS, IMPRESSIONS, SPEND]] = 0
    assert view.prices is not None
    told = replace(
        view, recent=broke, prices=Prices(*(column[view.prices.campaign != 1] for column in vars(view.prices).values()))
    )
    rows, _ = LP.propose(told, LP.start(rollout.campaigns, rollout.grid))
    assert set(rows.campaign.tolist()) == {0, 2}
    paused = replace(view, controls=replace(view.controls, paused=np.ones(3, dtype=np.bool_)))
    assert len(LP.propose(paused, LP.start(rollout.campaigns, rollout.grid))[0]) == 0


def test_the_period_and_the_target_begin_anew_where_a_day_closes() -> None:
    """What was won yesterday counts for nothing today."""
    day = replace(LP, target_micros=1e6)
    rollout = Rollout(TASK.draw(31, np.arange(2)))
    memory = day.start(rollout.campaigns, rollout.grid)
    while True:
        view = rollout.advance()
        memory = day.learn(view, memory)
        if rollout.done:
            break
        assert memory.got == pytest.approx(rollout.value_ppm / 1e6)
    assert memory.got.tolist() == [0, 0]
    assert day.expected(view, memory) == pytest.approx(
        (view.lifetime[:, OPPORTUNITIES] + 95 * 48) / 2
    )  # the next period is expected to be as those before


def test_rows_stand_on_the_versions_that_were_shown() -> None:
    rollout = Rollout(TASK.draw(31, np.arange(5)))
    memory = LP.start(rollout.campaigns, rollout.grid)
    for _ in range(4):
        rows, memory = LP.propose(rollout.advance(), memory)
        assert set(rows.knob.tolist()) <= {Knob.BID}
        judgement = rollout.act(rows)
        assert (judgement.outcome == Outcome.APPROVED).all()
