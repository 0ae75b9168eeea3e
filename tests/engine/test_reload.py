"""Limits reloaded at a boundary: the good ones hold from there, a bad file leaves the last good ones in force."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agents.scripted import Scripted
from engine.actions import Knob, Source
from engine.campaigns import ControlState
from engine.guard import check
from engine.judgement import Outcome, Reason
from engine.ledger import decode_round
from engine.limits import Limits
from engine.messages import Command, Reloaded, Role
from engine.optimiser import Assignment, OptimiserMachine
from engine.rollback import History
from tests.engine.builders import (
    BID,
    BUDGET,
    answers,
    campaign_set,
    controls,
    mandated,
    vector,
    wish,
    with_limits,
)
from tests.engine.test_optimiser import CAMPAIGNS, DAY, EVERYBODY, GRID, WAITS, YES, Loop, ask, command

NARROW = Limits.of(CAMPAIGNS)
WIDE = NARROW.with_mandate(EVERYBODY, (Knob.BID,))
HALTED = replace(NARROW, automatic=False)
HALT = ("NEEDS_APPROVAL", "NO_AUTOMATIC_MODE")
WISHES = {tick: (ask(BID + 10_000 * (tick + 1)),) for tick in range(12)}


def good(limits: Limits, document: str = "good") -> Reloaded:
    return Reloaded(document, limits)


def bad(why: str = "no such file", document: str | None = None) -> Reloaded:
    return Reloaded(document, None, why)


def alert(event: str, why: str) -> dict[str, Any]:
    about = {"campaign": -1, "knob": None, "label": ""}
    return {"alert": "limits_unreadable", "event": event, "why": why, **about}


def told(loop: Loop) -> tuple[int, Any, list[Any]]:
    """What the last round's header says of limits: their version, what was reloaded, and alerts."""
    header = decode_round(loop.records[-1]).header
    return header["limits_version"], header["limits"], header["alerts"]


def test_good_limits_hold_from_the_boundary_that_reads_them() -> None:
    loop = Loop(WISHES, NARROW)
    loop.go()
    assert (loop.told, told(loop)) == ([WAITS], (1, None, []))
    loop.go(reloaded=good(WIDE))
    assert (loop.told, told(loop)) == ([YES], (2, {"document": "good", "why": None}, []))
    loop.go()
    assert (loop.told, told(loop)) == ([YES], (2, None, []))
    loop.go(reloaded=good(NARROW, "narrow"))
    assert (loop.told, told(loop)) == ([WAITS], (3, {"document": "narrow", "why": None}, []))
    assert loop.bid == BID + 30_000
    loop.close()


def test_bad_limits_leave_the_last_good_ones_and_an_alert_is_open_until_the_next_good_ones() -> None:
    loop = Loop(WISHES, NARROW)
    loop.go(reloaded=good(WIDE))
    loop.go(reloaded=bad())
    opened = [alert("opened", "no such file")]
    assert (loop.told, told(loop)) == ([YES], (2, {"document": None, "why": "no such file"}, opened))
    loop.go()
    assert (loop.told, told(loop)) == ([YES], (2, None, []))
    loop.go(reloaded=bad("no key of that name", "limts: {}"))
    assert (loop.told, told(loop)) == ([YES], (2, {"document": "limts: {}", "why": "no key of that name"}, []))
    loop.go(reloaded=good(WIDE))
    closed = [alert("closed", "read again")]
    assert (loop.told, told(loop)) == ([YES], (3, {"document": "good", "why": None}, closed))
    loop.close()


@pytest.mark.parametrize(
    ("reloaded", "answer", "bid"),
    [(good(NARROW), "limits_changed", BID), (bad(), "approved", BID + 10_000), (None, "approved", BID + 10_000)],
)
def test_what_waits_under_older_limits_is_void(reloaded: Reloaded | None, answer: str, bid: int) -> None:
    loop = Loop({0: WISHES[0]}, NARROW)
    loop.go()
    assert loop.go(command("approve"), reloaded=reloaded) == [answer]
    loop.go()
    assert loop.bid == bid


def test_nothing_is_forced_inside_new_bounds_and_every_change_goes_inside() -> None:
    loop = Loop({1: (ask(1_100_000),), 2: (ask(900_000),), 3: (ask(800_000),)}, WIDE)
    loop.go(reloaded=good(with_limits(WIDE, maximum=950_000)))
    loop.go()
    assert (loop.told, loop.bid) == ([("REFUSED", "HARD_MAXIMUM")], BID)
    assert decode_round(loop.records[-1]).offers["offer"].tolist() == [950_000]
    loop.go()
    assert loop.told == [YES]
    assert loop.go(command("edit", values=(990_000,))) == ["refused: hard_maximum"]
    assert loop.bid == 800_000


def test_an_account_budget_below_what_is_in_force_lets_nothing_rise() -> None:
    limits = NARROW.with_mandate(EVERYBODY, (Knob.BUDGET,))
    rise, fall = (ask(BUDGET + change, knob=Knob.BUDGET) for change in (1, -1_000_000))
    loop = Loop({0: (rise,), 1: (fall,), 2: (rise,)}, limits)
    loop.go(reloaded=good(replace(limits, account_budget=2 * BUDGET - 10_000_000)))
    assert loop.told == [("REFUSED", "ACCOUNT_BUDGET")]
    loop.go()
    assert loop.told == [YES]
    loop.go()
    assert loop.told == [("REFUSED", "ACCOUNT_BUDGET")]


def test_a_step_that_was_judged_inside_a_mandate_starts_no_cooldown_when_the_mandate_is_gone() -> None:
    loop = Loop({0: WISHES[0], 2: WISHES[2]}, replace(WIDE, day=DAY))
    loop.go()
    loop.go(reloaded=good(replace(NARROW, day=DAY)))
    loop.go()
    assert loop.told == [("NEEDS_APPROVAL", "LEARNING_PHASE")]  # and not refused, as a knob that rests is


def test_limits_and_what_was_read_outlive_the_machine() -> None:
    loops = Loop(WISHES, HALTED), Loop(WISHES, HALTED)
    for loop in loops:
        loop.go(reloaded=bad())
        loop.go(reloaded=good(WIDE))
        loop.go(reloaded=bad("gone again"))
    kept = pickle.loads(pickle.dumps(loops[1].machine.state))  # noqa: S301 - our own bytes
    loops[1].machine = OptimiserMachine(
        CAMPAIGNS,
        GRID,
        HALTED,
        (Assignment(Scripted(WISHES), EVERYBODY, Source.SCRIPT, "script"),),
        people=dict.fromkeys(("dana", "sam", "kim"), frozenset(Role)),
        approval_ticks=DAY,
        history=History(7 * DAY),
        state=kept,
    )
    assert loops[1].machine.reloaded == bad("gone again")
    for loop in loops:
        loop.go()
        loop.go(reloaded=good(NARROW, "narrow"))
        assert told(loop) == (3, {"document": "narrow", "why": None}, [alert("closed", "read again")])
    assert loops[0].records == loops[1].records


# --- no automatic mode ---


def halted() -> Loop:
    """A run whose limits file was never read; the script wants to bid in every round."""
    loop = Loop(WISHES, HALTED)
    loop.go(reloaded=bad())
    return loop


def test_until_the_limits_were_read_once_a_person_has_to_approve() -> None:
    loop = halted()
    assert (loop.told, told(loop)[0]) == ([HALT], 1)
    assert loop.go(command("approve")) == ["approved"]
    loop.go()
    assert (loop.told, loop.bid) == ([HALT], BID + 10_000)
    loop.go(reloaded=good(WIDE))
    loop.go()
    assert (loop.told, loop.bid) == ([YES], BID + 50_000)
    loop.close()


@pytest.mark.parametrize(
    ("asked", "then"),
    [
        (command("edit", values=(2_000_000,)), 2_000_000),
        (command("pause", knob=Knob.PAUSED), BID),
        (command("freeze", knob=Knob.PAUSED), BID),
    ],
)
def test_people_edit_pause_and_freeze_without_automatic_mode(asked: Command, then: int) -> None:
    loop = halted()
    assert loop.go(asked)[0] in {"approved", "frozen"}
    loop.go()
    assert loop.bid == then


def test_people_roll_back_without_automatic_mode() -> None:
    loop = halted()
    loop.go(command("edit", values=(2_000_000,)))
    assert loop.go(command("rollback")) == ["approved"]
    loop.go()
    assert loop.bid == BID


def test_without_automatic_mode_no_mandate_lets_anything_pass_by_itself() -> None:
    campaigns = campaign_set([2])
    limits = replace(mandated(campaigns), automatic=False)
    ways = {Source.RULE: HALT, Source.SCRIPT: HALT, Source.POLICY: HALT, Source.PERSON: YES, Source.ROLLBACK: YES}
    state = controls(campaigns, weights=np.array([500_000, 500_000]))
    for source, expected in ways.items():
        rows = {
            Knob.BID: wish(1_100_000, source=source),
            Knob.BUDGET: wish(90_000_000, Knob.BUDGET, source),
            Knob.WEIGHTS: vector((600_000, 400_000), source),
        }
        for knob, asked in rows.items():
            assert set(judged(state, asked, limits)) == {expected}, (source, knob)
        assert judged(state, wish(1, Knob.PAUSED, source), limits) == [YES]  # whoever pauses


def judged(state: ControlState, rows: Any, limits: Limits) -> list[tuple[str, str]]:
    given = answers(check(campaign_set([2]), state, rows, limits, sequence=1, tick=0))
    return [(Outcome(outcome).name, Reason(reason).name) for outcome, reason, _ in given]
