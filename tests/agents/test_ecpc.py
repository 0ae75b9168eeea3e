"""The eCPC controller as a policy."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from agents.checks import check_policy
from agents.ecpc import EcpcPid
from engine.actions import Knob, Source
from engine.events import CLICKS, COUNTS, SPEND
from engine.policy import Policy, View
from engine.units import TickGrid
from tests.engine import builders

GRID = TickGrid(datetime(2026, 3, 2), 60, 24, "Europe/Berlin")
CAMPAIGNS = builders.campaign_set((1, 1))
STATE = builders.controls(CAMPAIGNS)
POLICY = EcpcPid(reference_micros=400_000, base_bid_micros=builders.BID)


def view(tick, *counts, paused=(False, False), bid=builders.BID):
    """A view of two campaigns with these (clicks, spend) since the start."""
    lifetime = np.zeros((2, len(COUNTS)), dtype=np.int64)
    lifetime[:, [CLICKS, SPEND]] = counts
    state = replace(STATE, paused=np.array(paused), scalar=STATE.scalar * [0, 1] + [bid, 0])
    return View(tick, state, lifetime, lifetime, lifetime)


@pytest.mark.parametrize("policy", [POLICY, EcpcPid(150_000, 20_000, band=(0.5, 2.0)), EcpcPid(1, 1, 0, 0, 0, (0, 0))])
def test_it_passes_the_battery(policy):
    assert isinstance(policy, Policy)
    check_policy(policy)


def test_phi_is_the_published_sum_of_three_terms_clipped():
    policy = replace(POLICY, kp=1e-6, ki=1e-7, kd=1e-5, clip=(-2.0, 0.5))
    first, second = [(0, 300_000), (1, 900_000)], [(1, 310_000), (1, 2_900_000)]
    memory = policy.start(CAMPAIGNS, GRID)
    _, memory = policy.propose(view(0, *first), memory)
    errors = [400_000 - 300_000, 400_000 - 450_000]
    assert memory.signal.tolist() == pytest.approx([1.1e-6 * error for error in errors])
    _, memory = policy.propose(view(1, *second), memory)
    assert memory.signal.tolist() == pytest.approx(
        [
            0.5,  # 1e-6 · 245,000 + 1e-7 · 345,000 + 1e-5 · (300,000 − 155,000) = 1.7295
            -2.0,  # 1e-6 · −1,050,000 + 1e-7 · −1,100,000 + 1e-5 · (450,000 − 1,450,000) = −11.16
        ]
    )


def test_the_bid_goes_from_its_base_towards_base_times_exp_phi_by_at_most_a_quarter():
    policy = replace(POLICY, kp=1e-6, ki=0.0, kd=0.0)
    rows, memory = policy.propose(view(0, (0, 300_000), (0, 900_000)), policy.start(CAMPAIGNS, GRID))
    assert memory.signal.tolist() == pytest.approx([0.1, -0.5])
    assert rows.campaign.tolist() == [0, 1]
    assert set(rows.knob.tolist()) == {Knob.BID}
    assert rows.wanted.tolist() == [math.floor(builders.BID * math.exp(0.1)), builders.BID * 3 // 4]
    assert (rows.source == Source.POLICY).all()
    assert [note.text for note in rows.notes] == ["eCPC"]


def test_the_band_and_the_hard_bounds_are_kept():
    memory = POLICY.start(CAMPAIGNS, GRID)
    for band, bid, wanted in (((0.9, 1.1), builders.BID, 1_100_000), ((1 / 3, 1_000.0), builders.MAX_BID - 7, None)):
        policy = replace(POLICY, band=band)
        rows, _ = policy.propose(view(0, (0, 0), (0, 0), bid=bid), memory)
        expected = builders.MAX_BID if wanted is None else wanted
        assert rows.wanted.tolist() == [expected] * 2


def test_a_bid_that_is_right_is_left_alone():
    policy = replace(POLICY, clip=(0.0, 0.0))
    rows, _ = policy.propose(view(0, (0, 0), (5, 10**9)), policy.start(CAMPAIGNS, GRID))
    assert not len(rows)


def test_the_course_of_a_paused_campaign_rests():
    memory = POLICY.start(CAMPAIGNS, GRID)
    _, before = POLICY.propose(view(0, (0, 0), (0, 100_000)), memory)
    rows, after = POLICY.propose(view(1, (0, 0), (0, 100_000), paused=(False, True)), before)
    assert rows.campaign.tolist() == [0]
    assert after.errors.tolist() == [800_000, before.errors[1]]
    assert after.ecpc[1] == before.ecpc[1]
    assert after.signal[1] == before.signal[1]
