"""The history that a ledger tells is the one that the machine had."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agents.scripted import Scripted
from engine.actions import ROW_BITS, Knob, Proposals, Source
from engine.limits import Limits
from engine.messages import Role
from engine.optimiser import Assignment, OptimiserMachine
from engine.rollback import Blocked, History
from tests.engine.builders import BUDGET, mandated
from tests.engine.test_crashes import RULES
from tests.engine.test_optimiser import CAMPAIGNS, DAY, GRID, Loop, ask, command
from tests.properties.account import Account


def test_the_ledger_tells_the_history_that_the_machine_had() -> None:
    """Rounds and their results tell what can be rolled back, what was, and what is out of reach."""
    wishes = {tick: (ask(1_010_000 + tick),) for tick in (0, 3, 40)}
    loop = Loop(wishes, mandated(CAMPAIGNS))
    loop.go()
    loop.go(command("edit", "budget", knob=Knob.BUDGET, values=(2 * BUDGET,)))
    loop.go(command("rollback", "of 0"))
    loop.go(command("edit", "weights", campaign=1, knob=Knob.WEIGHTS, values=(900_000, 100_000)), to=4)
    loop.go(command("rollback", "of weights", campaign=1, knob=Knob.WEIGHTS), to=41)
    loop.go(to=43)
    places = [(0, Knob.BID), (0, Knob.BUDGET), (1, Knob.WEIGHTS), (1, Knob.BID)]
    first, budget, third, weights, last = ((tick + 1) << ROW_BITS for tick in (0, 1, 3, 4, 40))
    for policy_ticks, latest in ((None, [last, budget, None, None]), (1, [last, budget, None, None])):
        told = History.told_by(loop.records, 7 * DAY, policy_ticks)
        assert [told.latest(*place) for place in places] == latest
        answers = [
            told.inverse(campaign, knob, action, loop.controls, "dana")
            for campaign, knob, action in ((0, Knob.BID, first), (1, Knob.WEIGHTS, weights), (0, Knob.BID, 7))
        ]
        assert answers == [Blocked.ALREADY_ROLLED_BACK, Blocked.ALREADY_ROLLED_BACK, Blocked.UNKNOWN_ACTION]
        rows = told.inverse(0, Knob.BUDGET, budget, loop.controls, "dana")
        assert isinstance(rows, Proposals)
        assert rows.wanted.tolist() == [BUDGET]
        assert told.inverse(0, Knob.BID, third, loop.controls, "dana") is Blocked.LATER_CHANGE
    short = History.told_by(loop.records, 10)
    assert [short.latest(*place) for place in places] == [last, None, None, None]
    assert History.told_by(loop.records[:2], 10).latest(0, Knob.BID) is None  # its result is not recorded yet
    loop.close()
    assert History.told_by(loop.records, 7 * DAY).latest(0, Knob.BID) == last


def test_of_a_policy_the_ledger_tells_no_more_than_its_own_reach() -> None:
    policy = (Assignment(Scripted({0: (ask(1_100_000),)}), np.arange(2), Source.POLICY, "policy"),)
    account = Account.open(RULES, policy)
    for _ in range(6):
        account = account.hold(account.machine(policy))
    reach = {ticks: History.told_by(account.records, 100, ticks).latest(0, Knob.BID) for ticks in (None, 100, 2)}
    assert reach == {None: 1 << ROW_BITS, 100: 1 << ROW_BITS, 2: None}


def test_the_ledger_tells_which_actions_are_watched_and_which_were_no_step_of_a_course() -> None:
    """A policy's watched action stays in reach as long as others', and only the watched one."""
    own = Assignment(Scripted({0: (ask(1_100_000),), 1: (ask(1_150_000),)}), np.arange(2), Source.POLICY, "policy")
    inside, outside = (_loop(own, limits) for limits in (mandated(CAMPAIGNS), Limits.of(CAMPAIGNS)))
    inside.go(to=6)
    outside.go(command("approve"), to=1)
    outside.go(to=6)
    course, single = (History.told_by(loop.records, 7 * DAY, 2) for loop in (inside, outside))
    first = 1 << ROW_BITS
    assert course.rows_of(0, Knob.BID, first) is not None  # the episode's first, kept with its watch
    assert course.rows_of(0, Knob.BID, 2 << ROW_BITS) is None  # a later step of it
    assert not course.is_single(first)
    (opened,) = [action for action in (first, 2 << ROW_BITS) if single.is_single(action)]
    assert single.rows_of(0, Knob.BID, opened) is not None


def _loop(policy: Assignment, limits: Limits) -> Loop:
    """A loop in which a policy proposes."""
    limits = replace(limits, day=DAY)
    loop = Loop(limits=limits)
    loop.machine = OptimiserMachine(
        CAMPAIGNS,
        GRID,
        limits,
        (policy,),
        people={"dana": frozenset(Role)},
        approval_ticks=DAY,
        history=History(7 * DAY, 2),
        state=loop.machine.state,
    )
    return loop
