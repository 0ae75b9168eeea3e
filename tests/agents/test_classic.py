from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from math import exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.classic import Constant, DailyBudgets, Gains, PacingPI
from agents.horizon import Curve
from agents.scripted import Scripted, Wish
from engine.actions import Knob, Note, Proposals, Source
from engine.campaigns import CampaignSet, ControlState, Period
from engine.events import BIDS, COUNTS, IMPRESSIONS, OPPORTUNITIES, REVENUE, SPEND
from engine.policy import View
from engine.units import TickGrid
from tests.engine.builders import BID, BUDGET, MAX_BID, MIN_BUDGET, campaign_set, controls

DAY = TickGrid(datetime(2026, 3, 2), 60, 48, "UTC")
NOON = 11  # the tick that closes at noon of the first day


def view(
    tick: int,
    *,
    spent: Sequence[int] | int = 0,
    recent: Sequence[int] | int = 0,
    revenue: Sequence[int] | int = 0,
    state: ControlState | None = None,
    campaigns: CampaignSet | None = None,
) -> View:
    """A view with traffic: spend of the period and of the last tick, revenue of the period."""
    campaigns = campaign_set() if campaigns is None else campaigns
    counts = np.zeros((2, len(campaigns), len(COUNTS)), dtype=np.int64)
    counts[:, :, OPPORTUNITIES] = counts[:, :, BIDS] = 100
    counts[0, :, SPEND], counts[1, :, SPEND], counts[1, :, REVENUE] = recent, spent, revenue
    return View(tick, controls(campaigns) if state is None else state, counts[0], counts[1], counts[1])


def asked(
    policy: PacingPI, seen: View, last: int, grid: TickGrid = DAY, campaigns: CampaignSet | None = None
) -> list[int]:
    """The bids a policy asks for on a view, its view before having been at tick `last`."""
    memory = policy.start(campaign_set() if campaigns is None else campaigns, grid)._replace(seen=last)
    rows, after = policy.propose(seen, memory)
    assert after.seen == seen.tick
    assert set(rows.knob) <= {Knob.BID}
    assert rows.base_version.tolist() == seen.controls.version[rows.campaign, Knob.BID].tolist()
    return list(rows.wanted.tolist())


# --- pacing ---


def test_on_plan_nothing_changes() -> None:
    assert asked(PacingPI(), view(NOON, spent=BUDGET // 2, recent=BUDGET // 24), NOON - 1) == []


@pytest.mark.parametrize(("share", "rate"), [(0.45, 1.0), (0.55, 1.0), (0.5, 1.2), (0.5, 0.8), (0.3, 1.1), (0.52, 0.9)])
def test_off_plan_the_bid_moves_by_the_formula(share: float, rate: float) -> None:
    """Half of the day is gone: wanted is (1 − share) / 0.5, actual is `rate` times an even hour's spend."""
    gains = Gains(proportional=0.2, integral=0.4)
    spent, recent = int(share * BUDGET), int(rate * BUDGET / 24)
    change = 0.2 * log(((1 - share) / 0.5) / (recent / BUDGET * 24)) + 0.4 * (0.5 - share)
    assert asked(PacingPI(gains), view(NOON, spent=spent, recent=recent), NOON - 1) == [int(BID * exp(change))]
    assert change != 0


def test_a_campaign_without_money_to_bid_keeps_its_bid() -> None:
    seen = view(NOON, spent=BUDGET)
    assert asked(PacingPI(), seen, NOON - 1) != []
    seen.recent[:, BIDS] = 0
    assert asked(PacingPI(), seen, NOON - 1) == []
    seen.recent[:, OPPORTUNITIES] = 0  # a log of intervals tells neither
    seen.recent[:, IMPRESSIONS] = 10
    assert asked(PacingPI(), seen, NOON - 1) != []


def test_several_ticks_since_the_last_view_are_one_longer_tick() -> None:
    change = 0.3 * log(1 / (6 / 24 * 24 / 4)) + 0.3 * 0
    seen = view(NOON, spent=BUDGET // 2, recent=BUDGET // 4)
    assert asked(PacingPI(), seen, NOON - 4) == [int(BID * exp(change))]


def test_traffic_aware_means_planning_for_the_curve() -> None:
    """By noon a market with its peak at 18:00 has seen a third of its traffic: half the budget is ahead of plan."""
    aware = PacingPI(Gains(proportional=0.0, integral=1.0), curve=Curve(0.5, 18.0))
    gone = sum(1 + 0.5 * np.cos(2 * np.pi * (hour + 0.5 - 18) / 24) for hour in range(12)) / 24
    assert gone < 0.35
    assert asked(aware, view(NOON, spent=BUDGET // 2), NOON - 1) == [int(BID * exp(gone - 0.5))]


@pytest.mark.parametrize(("spent", "recent", "wanted"), [(0, 0, BID * 5 // 4), (BUDGET, BUDGET, BID * 3 // 4)])
def test_a_step_is_never_above_a_quarter(spent: int, recent: int, wanted: int) -> None:
    eager = PacingPI(Gains(proportional=50.0, integral=50.0))
    assert asked(eager, view(NOON, spent=spent, recent=recent), NOON - 1) == [
        wanted if wanted > BID else int(BID * exp(-0.25))
    ]


@settings(deadline=None, max_examples=200)
@given(
    tick=st.integers(0, 47),
    bid=st.integers(1_000, 50_000_000),
    anchor=st.integers(1_000, 50_000_000),
    spent=st.integers(0, 2 * BUDGET),
    recent=st.integers(0, BUDGET),
    strength=st.sampled_from([0.0, 0.3, 10.0]),
)
def test_whatever_it_sees_its_wish_is_within_step_bounds_and_band(
    tick: int, bid: int, anchor: int, spent: int, recent: int, strength: float
) -> None:
    state = controls(campaign_set(), bid=bid)
    state = replace(state, anchor=np.array([[anchor, BUDGET]]))
    policy = PacingPI(Gains(strength, strength), band=(0.5, 2.0))
    for wanted in asked(policy, view(tick, spent=spent, recent=recent, state=state), tick - 1):
        assert 4 * abs(wanted - bid) <= bid
        assert wanted != bid
        assert 1_000 <= wanted <= 50_000_000
        assert wanted <= BUDGET
        assert wanted >= min(bid, anchor / 2) - bid // 4 or wanted > bid
        assert not (wanted > bid and wanted > 2 * anchor)
        assert not (wanted < bid and wanted < anchor / 2)


def test_a_wish_leaves_room_for_what_the_modifiers_multiply_it_by() -> None:
    campaigns = campaign_set((1, 1), audiences=("families", "young"))
    state = replace(controls(campaigns, bid=24_000_000), modifiers=np.array([1_000_000, 2_000_000, 500_000, 900_000]))
    eager = PacingPI(Gains(proportional=50.0, integral=50.0))
    assert asked(eager, view(NOON, state=state, campaigns=campaigns), NOON - 1, campaigns=campaigns) == [
        MAX_BID // 2,
        30_000_000,
    ]


def test_paused_campaigns_and_those_without_traffic_are_left_alone() -> None:
    campaigns = campaign_set([1, 1, 1])
    state = replace(controls(campaigns), paused=np.array([True, False, False]))
    seen = view(NOON, state=state, campaigns=campaigns)
    seen.recent[1, OPPORTUNITIES] = 0
    memory = PacingPI().start(campaigns, DAY)
    rows, _ = PacingPI().propose(seen, memory)
    assert rows.campaign.tolist() == [2]


def test_a_flight_is_paced_over_the_whole_run() -> None:
    campaigns = campaign_set(period=Period.FLIGHT)
    on_plan = view(NOON, spent=BUDGET // 4, recent=BUDGET // 48, campaigns=campaigns)
    assert asked(PacingPI(), on_plan, NOON - 1, campaigns=campaigns) == []


def test_a_new_day_begins_without_a_debt() -> None:
    """Day 1 closed with all its budget left and the last hour on plan: the next day has as much to spend as planned."""
    assert asked(PacingPI(), view(23, spent=0, recent=BUDGET // 24), 22) == []


@pytest.mark.parametrize(("start", "half_hours"), [(datetime(2026, 3, 28), 46), (datetime(2026, 10, 24), 50)])
@pytest.mark.parametrize("amplitude", [0.0, 0.6])
def test_a_day_of_23_or_25_hours_spends_its_plan(start: datetime, half_hours: int, amplitude: float) -> None:
    """A market where spend is bid × traffic; the first bid is a third too low, the second day is the odd one."""
    grid = TickGrid(start, 30, 48 + half_hours + 1, "Europe/Berlin")
    campaigns, policy = campaign_set(), PacingPI(curve=Curve(amplitude, 20.0))
    memory = policy.start(campaigns, grid)
    curve = 1 + amplitude * np.cos(2 * np.pi * (grid.hour + 0.25 - 20) / 24)
    state, spent, day = controls(campaigns), 0, []
    for tick in range(48 + half_hours):
        if tick and grid.closes_day[tick - 1]:
            day.append(spent)
            spent = 0
        gained = min(int(BUDGET / 48 * curve[tick] * state.bid[0] / (1.5 * BID)), BUDGET - spent)
        spent += gained
        rows, memory = policy.propose(view(tick, spent=spent, recent=gained, state=state), memory)
        for wanted in rows.wanted:
            state = replace(state, scalar=np.array([[wanted, BUDGET]]))
    assert grid.closes_day[47]
    assert grid.closes_day[48 + half_hours - 1]
    assert day == [pytest.approx(BUDGET, rel=0.1)]
    assert spent == pytest.approx(BUDGET, rel=0.03)
    assert spent <= BUDGET


# --- daily budgets ---


def moved(
    spend: Sequence[int],
    revenue: Sequence[int],
    *,
    tick: int = 23,
    state: ControlState | None = None,
    max_change: float = 0.2,
) -> dict[int, int]:
    """What the policy wants budgets to be, by campaign."""
    campaigns = campaign_set([1] * len(spend))
    policy = DailyBudgets(max_change)
    seen = view(tick, spent=spend, revenue=revenue, campaigns=campaigns, state=state)
    rows, _ = policy.propose(seen, policy.start(campaigns, DAY))
    assert set(rows.knob) <= {Knob.BUDGET}
    return dict(zip(rows.campaign.tolist(), rows.wanted.tolist(), strict=True))


def test_budgets_move_towards_return_and_the_sum_stays() -> None:
    """Returns 1, 2, 3 around an account's 2: by −50 %, 0 and +50 % of the largest change."""
    spend = 10_000_000
    assert moved([spend] * 3, [spend, 2 * spend, 3 * spend]) == {0: BUDGET * 9 // 10, 2: BUDGET * 11 // 10}


def test_rises_are_scaled_to_what_the_falls_give() -> None:
    spend = 10_000_000
    wanted = moved([4 * spend, spend, spend], [4 * spend, 9 * spend, 9 * spend])
    assert wanted[0] < BUDGET < wanted[1] == wanted[2]
    assert 0 <= 3 * BUDGET - sum(wanted.values()) <= 3


@pytest.mark.parametrize(("every", "ticks"), [(1, [23, 47]), (12, [23, 47]), (5, [24])])
def test_only_at_local_midnight_or_the_first_boundary_after_it(every: int, ticks: list[int]) -> None:
    campaigns = campaign_set((1, 1))
    policy = DailyBudgets()
    memory = policy.start(campaigns, DAY)
    acted = []
    for day_counts, tick in enumerate(range(every - 1, DAY.ticks, every), start=1):
        counts = [10 * day_counts, 10 * day_counts], [0, 90 * day_counts]
        rows, memory = policy.propose(view(tick, spent=counts[0], revenue=counts[1], campaigns=campaigns), memory)
        acted += [tick] if len(rows) else []
    assert acted == ticks


def test_without_return_nothing_moves() -> None:
    assert moved([10, 10], [0, 0]) == {}
    assert moved([0, 0], [0, 0]) == {}


def test_a_fall_that_a_bound_stops_gives_nothing_to_others() -> None:
    state = replace(controls(campaign_set([1, 1])), scalar=np.array([[BID, MIN_BUDGET], [BID, BUDGET]]))
    state = replace(state, anchor=state.scalar)
    assert moved([1_000_000, 1_000_000], [0, 4_000_000], state=state) == {}


def test_a_paused_campaign_gives_nothing_to_others() -> None:
    state = replace(controls(campaign_set([1, 1])), paused=np.array([True, False]))
    assert moved([1_000_000, 1_000_000], [0, 4_000_000], state=state) == {}


MONEY = st.integers(0, 10**9)


@settings(deadline=None, max_examples=200)
@given(
    rows=st.lists(st.tuples(st.integers(MIN_BUDGET, 10**9), MONEY, MONEY, st.booleans()), min_size=1, max_size=8),
    max_change=st.sampled_from([0.0, 0.05, 0.2, 1.0]),
)
def test_the_sum_of_the_budgets_never_grows(rows: list[tuple[int, int, int, bool]], max_change: float) -> None:
    budgets, spend, revenue, paused = (np.array(column) for column in zip(*rows, strict=True))
    campaigns = campaign_set([1] * len(rows))
    state = replace(controls(campaigns), scalar=np.stack([np.full(len(rows), BID), budgets], axis=1), paused=paused)
    state = replace(state, anchor=state.scalar)
    wanted = moved(spend.tolist(), revenue.tolist(), state=state, max_change=max_change)
    after = budgets.copy()
    after[list(wanted)] = list(wanted.values())
    assert after.sum() <= budgets.sum()
    assert (np.abs(after - budgets) <= max_change * budgets + 1).all()
    assert (4 * np.abs(after - budgets) <= budgets).all()
    assert (after[paused] == budgets[paused]).all()
    account = Fraction(int(revenue.sum()), max(int(spend.sum()), 1))
    for place in wanted:
        direction = np.sign(Fraction(int(revenue[place]), int(spend[place])) - account)
        assert np.sign(after[place] - budgets[place]) == direction


# --- the others ---


def test_constant_never_asks() -> None:
    rows, memory = Constant().propose(view(0), Constant().start(campaign_set(), DAY))
    assert (len(rows), memory) == (0, None)


def rows_of(rows: Proposals) -> list[tuple[int, ...]]:
    columns = (rows.campaign, rows.knob, rows.index, rows.wanted, rows.base_version, rows.source)
    return [tuple(map(int, row)) for row in zip(*columns, strict=True)]


def test_a_script_asks_for_its_wishes_at_their_ticks_and_otherwise_for_nothing() -> None:
    campaigns = campaign_set([1, 2])
    state = replace(controls(campaigns), version=np.array([[3, 0, 0, 0], [0, 0, 5, 0]]))
    script = Scripted(
        {
            4: (
                Wish(0, Knob.BID, "sam", "more", change=Fraction(1, 3)),
                Wish(1, Knob.WEIGHTS, "kim", "better", values=(700_000, 300_000)),
            )
        }
    )
    memory = script.start(campaigns, DAY)
    rows, _ = script.propose(view(4, state=state, campaigns=campaigns), memory)
    assert rows_of(rows) == [
        (0, Knob.BID, 0, 1_333_333, 3, Source.SCRIPT),
        (1, Knob.WEIGHTS, 0, 700_000, 5, Source.SCRIPT),
        (1, Knob.WEIGHTS, 1, 300_000, 5, Source.SCRIPT),
    ]
    assert [rows.notes[note] for note in rows.note] == [
        Note("sam", "more"),
        Note("kim", "better"),
        Note("kim", "better"),
    ]
    assert len(script.propose(view(5, state=state, campaigns=campaigns), memory)[0]) == 0
