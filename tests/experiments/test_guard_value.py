"""The study of what the guard is worth: its proposers, and what holds in every one of its worlds."""

import json

import numpy as np
import pytest

from agents.checks import check_policy
from agents.classic import PacingPI
from engine.errors import BadInput
from experiments import api, build
from experiments.studies.guard_value import changes, losses, picked
from experiments.studies.guard_value.proposers import AlwaysRaise, RandomSteps, Silent
from experiments.studies.guard_value.run import study
from experiments.studies.guard_value.worlds import interval, share
from sim.unguarded import UNGUARDED

BAND = (1 / 3, 3.0)


@pytest.mark.parametrize(
    "policy", [AlwaysRaise(), AlwaysRaise(BAND), RandomSteps(1), RandomSteps(2, BAND), Silent(PacingPI(), 30)]
)
def test_proposers_pass_the_battery_of_policies(policy):
    check_policy(policy)


@pytest.mark.parametrize("path", [changes.WEIGHTS, changes.BIDS, losses.BAD, losses.GOOD])
def test_every_configuration_builds(path):
    assert build.simulation(api.load(path)).decision_every == 1


def test_a_share_has_its_exact_interval():
    assert share(0, 10) == {"share": 0.0, "low": 0.0, "high": 0.3085}
    assert share(10, 10) == {"share": 1.0, "low": 0.6915, "high": 1.0}


def test_the_interval_of_a_ratio_holds_it():
    low, high = interval(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0]))
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.1)


@pytest.mark.slow
def test_a_bad_proposer_costs_less_under_the_guard_and_the_other_arm_is_marked():
    found = losses.bad(1)
    assert {each.kind for each in found.values()} == {UNGUARDED}
    for each in found.values():
        for still, alone, held in each.profits:
            assert alone < held < still
        assert each.rollbacks
        assert each.breaker is not None
    told = losses.losses_told([found])
    assert told["unguarded"] == UNGUARDED
    assert UNGUARDED in losses.losses_table(told)
    assert all(week["ratio"] < 1 for each in told["proposers"].values() for week in each["weeks"])
    gains = losses.gains_told([found])
    assert json.loads(json.dumps(gains)) == gains
    assert UNGUARDED in losses.gains_table(gains)


@pytest.mark.slow
def test_every_change_is_judged_once_and_costs_more_the_larger_it_is():
    told = study(1, ["weights"])["weights"]
    arms = told["arms"]
    assert [arm["arm"] for arm in arms] == ["harmless", "loses-05", "loses-10", "loses-20", "loses-30", "loses-40"]
    assert arms[0]["profit_lost"] == 0
    assert [arm["profit_lost"] for arm in arms] == sorted(arm["profit_lost"] for arm in arms)
    assert all(arm["controls"] == ["split"] for arm in arms)
    assert told["worlds"] == 1
    assert "loses-40" in changes.table(told)


@pytest.mark.slow
def test_the_worst_tenth_is_picked_and_half_of_it_harmed():
    one = picked.world(1)
    assert [each.loses for each in one].count(True) == len(one) // 2 == picked.TENTH // 2
    told = picked.told([one])
    assert told["picked"] == picked.TENTH
    assert told["profit_lost"] > 0
    assert "of picked campaigns" in picked.table(told)


def test_an_arm_that_there_is_not_is_refused():
    with pytest.raises(BadInput, match=r"arms \(='worse'\) must be some of weights,bids,bad,strained,good,picked: "):
        study(1, ["weights", "worse"])
