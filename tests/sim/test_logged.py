"""Episodes cut from a log: windows of it, budgets and bids within their ranges, errors in a sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.errors import BadInput
from sim.logged import LoggedEpisodes
from sim.oracle import whole_cost
from sim.streams import Streams

ROWS = 4_000
LOG = LoggedEpisodes(np.arange(1.0, ROWS + 1), np.arange(ROWS) * 7 + 1_000_000, rows_per_step=20, steps=24)


def test_an_episode_is_a_window_in_order() -> None:
    episodes = LOG.draw(1, np.arange(300))
    offsets = []
    for e in range(len(episodes)):
        value, price = episodes.streams.lots.of(e, LOG.steps)
        offset = int(value[0]) - 1
        offsets.append(offset)
        assert np.array_equal(value, LOG.value[offset : offset + LOG.rows])
        assert np.array_equal(price, LOG.price[offset : offset + LOG.rows])
    assert min(offsets) < 0.02 * ROWS
    assert max(offsets) > ROWS - LOG.rows - 0.02 * ROWS
    assert max(offsets) <= ROWS - LOG.rows


def test_budgets_are_shares_of_buying_everything_and_numbers_tell_the_episode() -> None:
    episodes = LOG.draw(1, np.arange(300))
    share = episodes.budget / whole_cost(episodes.streams.lots, 300)
    assert 0.0499 < share.min() < 0.06
    assert 0.45 < share.max() <= 0.5
    alone = LOG.draw(1, np.array([17]))
    assert (alone.budget[0], alone.bid[0]) == (episodes.budget[17], episodes.bid[17])
    assert LOG.draw(2, np.array([17])).budget[0] != alone.budget[0]


def test_a_target_lowers_the_optimum() -> None:
    plain, aimed = LOG.draw(1, np.arange(50)), replace(LOG, target_range=(-0.1, -0.01)).draw(1, np.arange(50))
    assert aimed.target is not None
    assert (aimed.best.cost <= aimed.target * aimed.best.value * (1 + 1e-9)).all()
    assert (aimed.best.value < plain.best.value).all()


def test_what_is_no_log_is_told() -> None:
    with pytest.raises(BadInput, match=r"^log \(of 9 rows\) must have the 4560 rows of an episode"):
        LoggedEpisodes(np.ones(9), np.ones(9, dtype=np.int64))
    with pytest.raises(BadInput, match=r"^log must hold finite values > 0 and prices >= 1 micro"):
        replace(LOG, value=np.zeros(ROWS))
    assert isinstance(LOG.draw(0, np.arange(1)).streams, Streams)
