"""Episodes cut from a log: whose rows, what they begin with, and what they never share."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import BadInput
from sim.logged import LoggedTask

GENERATOR = np.random.default_rng(1)
PRICE = GENERATOR.integers(50, 2_000, 1_000)
VALUE = GENERATOR.lognormal(0, 0.5, 1_000)
TASK = LoggedTask(VALUE, PRICE, steps=8, rows_per_step=10)


def test_windows_are_the_later_half_one_after_the_other() -> None:
    """500 rows hold six windows of 80; the seventh episode is the first window again, with a budget of its own."""
    episodes = TASK.draw(1, np.arange(7))
    assert TASK.windows == 6
    for place in range(7):
        value, price = episodes.streams.of(place, 8)
        first = 500 + (place % 6) * 80
        np.testing.assert_array_equal(price, PRICE[first : first + 80])
        np.testing.assert_array_equal(value, VALUE[first : first + 80])
    np.testing.assert_array_equal(TASK.window_of(np.arange(7)), [0, 1, 2, 3, 4, 5, 0])
    assert episodes.budget[0] != episodes.budget[6]
    whole = [PRICE[500 + k * 80 : 580 + k * 80].sum() for k in (0, 1, 2, 3, 4, 5, 0)]
    share = episodes.budget / whole
    assert ((share > 0.049) & (share < 0.501)).all()


def test_the_first_bid_is_what_the_earlier_half_would_have_asked_for_the_budget() -> None:
    episodes = TASK.draw(2, np.arange(6))
    ratio = PRICE[:500] / VALUE[:500]
    for bid, budget in zip(episodes.bid, episodes.budget, strict=True):
        cost = PRICE[:500][ratio <= bid].sum() / 500
        more = PRICE[:500][ratio <= 1.02 * bid].sum() / 500
        assert cost <= budget / 80 <= more * 1.02


def test_an_episode_does_not_depend_on_its_batch() -> None:
    whole, part = TASK.draw(3, np.arange(6)), TASK.draw(3, np.array([4]))
    assert (whole.budget[4], whole.bid[4]) == (part.budget[0], part.bid[0])
    assert (TASK.draw(4, np.arange(6)).budget != whole.budget).any()


def test_targets_lie_around_the_budgets_average() -> None:
    aiming = LoggedTask(VALUE, PRICE, steps=8, rows_per_step=10, target_range=(-0.2, 0.1))
    plain, aimed = TASK.draw(5, np.arange(6)), aiming.draw(5, np.arange(6))
    assert aimed.target is not None
    distance = np.log(aimed.target / (plain.best.cost / plain.best.value))
    assert ((distance > -0.2) & (distance < 0.1)).all()
    assert (aimed.best.cost <= aimed.target * aimed.best.value * (1 + 1e-9)).all()


def test_a_short_log_is_refused() -> None:
    with pytest.raises(BadInput, match=r"the log \(=1000 auctions\) must hold 4800, a window of 48 steps of 50"):
        LoggedTask(VALUE, PRICE)
