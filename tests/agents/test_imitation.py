from dataclasses import replace
from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from agents.imitation import Imitation, Lessons, _Teacher, imitate, lessons, untrained  # noqa: E402
from agents.learned import Learned  # noqa: E402
from agents.lp import OnlineLP  # noqa: E402
from agents.rollout import Rollout, play  # noqa: E402
from engine.errors import BadInput  # noqa: E402
from sim.bidding import BiddingTask  # noqa: E402
from sim.oracle import optimum  # noqa: E402

TASK = BiddingTask(steps=16, shift_steps=(3, 12), volume=(40.0, 80.0))
TARGETED = replace(TASK, target_range=(-0.45, 0.25))
PROGRAMME = OnlineLP(band=(0.1, 10.0), expected_opportunities=16 * 60.0)
QUICK = Imitation(rounds=2, episodes=400, hidden=(16, 16), epochs=4, last_epochs=12, batch=256, learning_rate=5e-3)
TINY = replace(QUICK, episodes=40, epochs=1, last_epochs=1)


@cache
def quick():
    return imitate((TASK, TARGETED), PROGRAMME, QUICK, seed=1)


def same(one, other):
    return all(np.array_equal(column, other.columns()[name]) for name, column in one.columns().items())


@pytest.mark.slow
def test_a_few_seconds_of_imitation_beat_lp_km_on_held_out_episodes():
    """Paired; a policy that is no better passes with a probability of 0.1 % (z > 3.1), under either kind of task."""
    for task in (TASK, TARGETED):
        episodes = task.draw(99, np.arange(500))
        gains = []
        for policy in (Learned(quick()), PROGRAMME):
            done = play(policy, episodes)
            kept = 1.0 if episodes.target is None else (episodes.target * done.value / np.maximum(done.spend, 1)) ** 2
            gains.append(done.value * np.minimum(1.0, kept) / episodes.best.value)
        gain = gains[0] - gains[1]
        assert gain.mean() > 3.1 * gain.std() / np.sqrt(len(gain))


def test_the_same_seed_gives_the_same_weights_and_another_others():
    models = [imitate((TASK,), PROGRAMME, TINY, seed) for seed in (4, 4, 5)]
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_an_interrupted_training_comes_to_the_same_weights(tmp_path):
    def once(done):
        raise KeyboardInterrupt(done.number)

    with pytest.raises(KeyboardInterrupt):
        imitate((TASK, TARGETED), PROGRAMME, TINY, 4, once, tmp_path)
    told = []
    resumed = imitate((TASK, TARGETED), PROGRAMME, TINY, 4, told.append, tmp_path)
    assert [done.number for done in told] == [1]
    assert same(resumed, imitate((TASK, TARGETED), PROGRAMME, TINY, 4))


@pytest.mark.parametrize("task", [TASK, TARGETED])
def test_before_the_first_step_the_teacher_is_the_oracle(task):
    episodes = task.draw(2, np.arange(50))
    found = _Teacher.of(episodes, 1.0).threshold(Rollout(episodes))
    best = optimum(episodes.streams, episodes.budget, episodes.target)
    np.testing.assert_allclose(found, best.threshold, rtol=1e-3)


def test_the_teacher_buys_the_rest_with_what_is_left():
    episodes = TASK.draw(2, np.arange(3))
    rollout = Rollout(episodes)
    for _ in range(5):
        rollout.advance()
    found = _Teacher.of(episodes, 1.0).threshold(rollout)
    streams = episodes.streams
    for place in range(3):
        begins, ends = streams.start[place * 16 + 5], streams.start[(place + 1) * 16]
        price, value = streams.price[begins:ends], streams.value[begins:ends]
        order = np.argsort(price / value)
        bought = np.cumsum(price[order]) <= episodes.budget[place] - rollout.charged[place]
        assert found[place] == (price / value)[order][min(bought.sum(), len(order) - 1)]


def test_lessons_are_of_every_decision():
    model = untrained((TASK,), PROGRAMME, TINY, 3)
    episodes = TARGETED.draw(1, np.arange(20))
    told = lessons(model, episodes)
    assert isinstance(told, Lessons)
    assert told.observation.shape == (20 * 15, 23)
    assert np.abs(told.label).max() <= 1.0
    assert (told.targeted == 1).all()
    assert 0.7 < told.weight.mean() < 1.3


def test_untrained_it_is_lp_km():
    model = untrained((TASK, TARGETED), PROGRAMME, TINY, 3)
    episodes = TARGETED.draw(1, np.arange(30))
    np.testing.assert_array_equal(play(Learned(model), episodes).bids, play(PROGRAMME, episodes).bids)


def test_episodes_that_hold_counts_alone_cannot_be_imitated():
    episodes = replace(TASK.draw(1, np.arange(2)), streams=None)
    with pytest.raises(BadInput, match="one by one"):
        _Teacher.of(episodes, 1.0)
