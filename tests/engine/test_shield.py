"""Clipping to the guard's own offers, and the suspension of a policy that is out of range too often in a row."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from agents.classic import PacingPI
from engine.actions import Knob, Proposals, Source, no_proposals
from engine.campaigns import CampaignSet
from engine.judgement import NO_OFFER, Outcome, Reason
from engine.ledger import Round, decode_round
from engine.limits import Limits
from engine.messages import Open, Role
from engine.optimiser import Assignment, OptimiserMachine
from engine.policy import View
from engine.rollback import History
from engine.shield import SUSPENDED_AFTER, Shield, shielded
from engine.units import TickGrid
from tests.engine.builders import BID, BUDGET, Desk, campaign_set, mandated, modified, vector, wish
from tests.engine.test_optimiser import CAMPAIGNS, DAY, EVERYBODY, GRID, Loop, command, empty_view
from tests.greedy import Greedy

OUT, IN = Reason.STEP, Reason.NONE
QUARTER_MORE = BID * 5 // 4


def clip(desk: Desk, *batches: Proposals, clips: list[bool] | None = None) -> Any:
    """The batches judged and clipped; every row is to be, unless told otherwise."""
    rows = Proposals.concatenate(batches)
    return shielded(desk.judge, rows, np.ones(len(rows), dtype=np.bool_) if clips is None else np.array(clips))


def outcomes(done: Any) -> list[tuple[str, str, int]]:
    """What became of the rows: outcome, reason, and the value judged in the end."""
    judged = done.judgement
    columns = (judged.outcome.tolist(), judged.reason.tolist(), judged.proposals.wanted.tolist())
    return [(Outcome(one).name, Reason(why).name, wanted) for one, why, wanted in zip(*columns, strict=True)]


# --- clipping ---


@pytest.mark.parametrize(
    ("knob", "wanted", "edge"),
    [
        (Knob.BID, BID * 8 // 5, QUARTER_MORE),
        (Knob.BID, QUARTER_MORE + 1, QUARTER_MORE),
        (Knob.BID, 0, BID * 3 // 4),
        (Knob.BUDGET, 10 * BUDGET, BUDGET * 5 // 4),
    ],
)
def test_a_scalar_out_of_range_is_taken_to_the_guards_offer(knob: Knob, wanted: int, edge: int) -> None:
    done = clip(Desk(campaign_set()), wish(wanted, knob))
    assert outcomes(done) == [("APPROVED", "NONE", edge)]
    assert (done.clipped.rows.tolist(), done.clipped.raw.tolist()) == ([0], [wanted])
    assert (done.judgement.approved.rows.new.tolist(), done.judgement.offer.tolist()) == ([edge], [NO_OFFER])


def test_a_vector_out_of_range_is_taken_there_whole() -> None:
    done = clip(Desk(campaign_set([2])), vector([1_000_000, 0]))
    assert outcomes(done) == [("APPROVED", "NONE", 750_000), ("APPROVED", "NONE", 250_000)]
    assert (done.clipped.rows.tolist(), done.clipped.raw.tolist()) == ([0, 1], [1_000_000, 0])


@pytest.mark.parametrize("wanted", [np.nan, np.inf, -1, 10**30, 0.5, "25"])
def test_a_value_that_is_no_amount_has_no_edge_and_stays_refused(wanted: Any) -> None:
    done = clip(Desk(campaign_set()), wish(wanted))
    assert (done.judgement.count(Outcome.REFUSED), done.clipped.rows.tolist()) == (1, [])


def test_what_is_not_to_be_clipped_is_judged_as_it_is_asked() -> None:
    desk = Desk(campaign_set([1, 1]))
    rows = wish(2 * BID), wish(2 * BID, campaign=1)
    done = clip(desk, *rows, clips=[False, True])
    assert outcomes(done) == [("REFUSED", "STEP", 2 * BID), ("APPROVED", "NONE", QUARTER_MORE)]
    assert (done.judgement.offer.tolist(), done.clipped.rows.tolist()) == ([QUARTER_MORE, NO_OFFER], [1])


def test_a_clipped_row_and_rows_of_others_on_its_knob_are_one_change() -> None:
    desk = Desk(campaign_set())
    rows = wish(2 * BID), wish(BID * 6 // 5, source=Source.RULE), wish(BID * 11 // 10, source=Source.SCRIPT)
    done = clip(desk, *rows, clips=[True, False, False])
    assert [(outcome, why) for outcome, why, _ in outcomes(done)] == [
        ("REFUSED", "SECOND_CHANGE"),
        ("APPROVED", "NONE"),
        ("REFUSED", "SECOND_CHANGE"),
    ]


def test_bid_and_budget_out_of_range_at_once_are_taken_to_their_joint_edge() -> None:
    limits = replace(mandated(campaign_set()), exposure=np.array([250_000]))
    done = clip(Desk(campaign_set(), limits=limits), wish(2 * BID), wish(BUDGET * 11 // 10, Knob.BUDGET))
    joint = BID * 125 // 110
    assert outcomes(done) == [("APPROVED", "NONE", joint), ("APPROVED", "NONE", BUDGET * 11 // 10)]
    assert (done.clipped.rows.tolist(), done.clipped.raw.tolist()) == ([0], [2 * BID])


def test_modifiers_out_of_range_are_taken_to_the_edge_and_what_stands_beside_them_stays() -> None:
    desk = Desk(campaign_set((1,), audiences=("families", "young")))
    done = clip(desk, modified({0: 1_100_000, 1: 2_000_000}))
    assert outcomes(done) == [("APPROVED", "NONE", 1_100_000), ("APPROVED", "NONE", 1_250_000)]
    assert (done.clipped.rows.tolist(), done.clipped.raw.tolist()) == ([1], [2_000_000])


def test_three_knobs_out_of_range_at_once_are_taken_to_their_joint_edge() -> None:
    run = campaign_set((1,), audiences=("families", "young"))
    limits = replace(mandated(run), exposure=np.array([400_000]))
    rows = wish(2 * BID), wish(BUDGET * 11 // 10, Knob.BUDGET), modified({0: 3_000_000})
    done = clip(Desk(run, limits=limits), *rows)
    assert outcomes(done) == [
        ("APPROVED", "NONE", QUARTER_MORE),
        ("APPROVED", "NONE", BUDGET * 11 // 10),
        ("APPROVED", "NONE", 1_400_000 * 100 // 125 * 10 // 11),
    ]


def test_rows_in_range_are_judged_once() -> None:
    desk, asked = Desk(campaign_set()), []

    def judge(rows: Proposals) -> Any:
        asked.append(len(rows))
        return desk.judge(rows)

    shielded(judge, wish(QUARTER_MORE), np.ones(1, dtype=np.bool_))
    assert asked == [1]


# --- counting ---


def counted(*rounds: tuple[Proposals, list[Reason]]) -> Shield:
    shield = Shield.initial(1)
    for rows, reasons in rounds:
        shield = shield.after(0, rows, np.array(reasons, dtype=np.uint8))
    return shield


def bids(reasons: list[Reason]) -> tuple[Proposals, list[Reason]]:
    return Proposals.concatenate([wish(BID) for _ in reasons]), reasons


@pytest.mark.parametrize(
    ("rounds", "in_a_row", "suspended"),
    [
        ([[OUT] * 99], 99, False),
        ([[OUT] * 100], 100, True),
        ([[OUT]] * 99, 99, False),
        ([[OUT]] * 100, 100, True),
        ([[OUT] * 99, [IN], [OUT] * 99], 99, False),
        ([[OUT] * 60, [OUT] * 40 + [IN]], 0, True),
        ([[OUT] * 60, [IN, *[OUT] * 99]], 99, False),
        ([[OUT] * 99, [Reason.STALE, Reason.FROZEN], [OUT]], 100, True),
        ([[OUT] * 99, [Reason.COOLDOWN, OUT]], 1, False),
        ([[OUT] * 50, []], 50, False),
    ],
)
def test_100_in_a_row_suspend(rounds: list[list[Reason]], in_a_row: int, *, suspended: bool) -> None:
    assert SUSPENDED_AFTER == 100
    shield = counted(*(bids(reasons) if reasons else (no_proposals(), []) for reasons in rounds))
    assert shield == Shield((in_a_row,), (suspended,))


def test_a_vector_is_one_action() -> None:
    rows = Proposals.concatenate([vector([1_000_000, 0, 0]), wish(BID), vector([0, 0], campaign=1), wish(BID)])
    reasons = [Reason.TOTAL_VARIATION] * 3 + [OUT] + [Reason.VECTOR_SUM] * 2 + [OUT]
    assert counted((rows, reasons)).in_a_row == (4,)
    assert counted((rows, [*reasons[:3], IN, *reasons[4:]])).in_a_row == (2,)


def test_what_is_wanted_of_several_audiences_is_one_action() -> None:
    rows = Proposals.concatenate([modified({0: 1, 1: 2}), vector([1, 2]), wish(BID), modified({0: 1}, campaign=1)])
    reasons = [Reason.BESIDE_REFUSED, Reason.STEP, IN, IN, OUT, OUT]
    assert counted((rows, reasons)).in_a_row == (2,)
    assert counted((rows, [OUT, IN, OUT, OUT, OUT, OUT])).in_a_row == (4,)


def test_who_is_suspended_stays_so_and_others_are_not() -> None:
    rows, reasons = bids([OUT] * 100)
    shield = Shield.initial(3).after(1, rows, np.array(reasons, dtype=np.uint8))
    assert (shield.in_a_row, shield.suspended) == ((0, 100, 0), (False, True, False))
    assert shield.after(1, wish(BID), np.array([IN], dtype=np.uint8)) == shield


# --- in the loop ---


@dataclass(frozen=True)
class Asks:
    """Asks for what a function of the view says."""

    of: Callable[[View], Proposals]

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> None:
        """Nothing to remember."""

    def propose(self, view: View, memory: None) -> tuple[Proposals, None]:
        """What the function says."""
        return self.of(view), memory


@dataclass(frozen=True)
class Told:
    """Lowers a bid by a tenth, and remembers at which ticks it was asked."""

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> tuple[int, ...]:  # noqa: ARG002 - the protocol's
        """Not asked yet."""
        return ()

    def propose(self, view: View, memory: tuple[int, ...]) -> tuple[Proposals, tuple[int, ...]]:
        """Nine tenths of the bid."""
        bid, version = int(view.controls.bid[0]), int(view.controls.version[0, Knob.BID])
        return wish(bid - bid // 10, version=version), (*memory, view.tick)


def clipped(policy: Any, fallback: Any = None, members: Any = EVERYBODY) -> Assignment:
    stand_in = fallback and Assignment(fallback, members, Source.POLICY, "stand-in for agent")
    return Assignment(policy, members, Source.POLICY, "agent", clip=True, fallback=stand_in)


def machine(*assignments: Assignment, limits: Limits | None = None, state: Any = None) -> OptimiserMachine:
    people = dict.fromkeys(("dana",), frozenset(Role))
    limits = mandated(CAMPAIGNS) if limits is None else limits
    rest = {"people": people, "approval_ticks": DAY, "history": History(7 * DAY), "state": state}
    return OptimiserMachine(CAMPAIGNS, GRID, limits, assignments, **rest)


def loop(*assignments: Assignment, limits: Limits | None = None) -> Loop:
    """The two campaigns' loop with these policies; its opening is written already."""
    begun = Loop({}, mandated(CAMPAIGNS) if limits is None else limits)
    begun.machine = machine(*assignments, limits=limits)
    begun.machine.handle(Open(empty_view(-1), {}))
    return begun


def last(begun: Loop) -> Round:
    return decode_round(begun.records[-1])


def test_the_record_holds_what_was_asked_and_what_was_judged() -> None:
    begun = loop(clipped(Greedy(0.6)))
    begun.go()
    told = last(begun)
    assert told.judged["wanted"].tolist() == [QUARTER_MORE] * 2
    assert {name: column.tolist() for name, column in told.clipped.items()} == {
        "row": [0, 1],
        "raw": [BID * 8 // 5] * 2,
    }
    begun.close()


def test_a_policy_that_is_not_clipped_is_refused_and_never_suspended() -> None:
    begun = loop(Assignment(Greedy(0.6), EVERYBODY, Source.POLICY, "agent"))
    begun.go(to=120)
    told = last(begun)
    assert (begun.told, told.offers["offer"].tolist()) == ([("REFUSED", "STEP")] * 2, [QUARTER_MORE] * 2)
    assert (told.clipped["row"].tolist(), begun.machine.state.shield) == ([], Shield((0,), (False,)))


def test_a_clipped_value_outside_a_mandate_waits_for_a_person_who_approves_the_edge() -> None:
    begun = loop(
        clipped(Asks(lambda view: wish(2 * BID) if view.tick == 0 else no_proposals())), limits=Limits.of(CAMPAIGNS)
    )
    begun.go()
    assert begun.told == [("NEEDS_APPROVAL", "OUTSIDE_MANDATE")]
    assert begun.go(command("approve")) == ["approved"]
    begun.go()
    assert begun.bid == QUARTER_MORE


def test_from_the_next_boundary_on_the_fallback_proposes_having_seen_the_last_one() -> None:
    begun = loop(clipped(Asks(lambda _: wish(np.nan)), Told()))
    begun.go(to=98)
    assert begun.machine.state.shield == Shield((99,), (False,))
    begun.go()
    assert begun.machine.state.shield == Shield((100,), (True,))
    assert begun.machine.state.memories == ((99,),)
    assert last(begun).header["alerts"] == [
        {
            "alert": "policy_suspended",
            "event": "opened",
            "campaign": -1,
            "knob": None,
            "label": "agent",
            "why": "out_of_range_100_times_in_a_row",
        }
    ]
    begun.go()
    told = last(begun)
    assert (begun.told, told.header["notes"]) == ([("APPROVED", "NONE")], [["stand-in for agent", "test"]])
    assert (told.header["alerts"], begun.machine.state.memories) == ([], ((99, 100),))


def test_without_a_fallback_nobody_proposes() -> None:
    begun = loop(clipped(Asks(lambda _: wish(np.nan))))
    begun.go(to=105)
    assert (begun.told, begun.machine.state.memories) == ([], (None,))


def test_pacing_that_stands_in_is_shown_every_boundary_since_the_suspension() -> None:
    begun = loop(clipped(Greedy(0.6), PacingPI()))
    begun.go(to=99)
    (memory,) = begun.machine.state.memories
    assert (begun.machine.state.shield.suspended, memory.seen) == ((True,), begun.tick)


def test_a_machine_that_goes_on_from_a_pickled_state_writes_the_same_records() -> None:
    one, other = (loop(clipped(Greedy(0.6), Told())) for _ in range(2))
    one.go(to=70)
    for tick in range(71):
        other.go()
        if tick % 7 == 0:
            state = pickle.loads(pickle.dumps(other.machine.state))  # noqa: S301 - our own bytes
            other.machine = machine(clipped(Greedy(0.6), Told()), state=state)
    assert one.machine.state.shield.suspended == (True,)
    assert [record.digest for record in one.records] == [record.digest for record in other.records]


def test_two_policies_are_counted_apart() -> None:
    first = clipped(Asks(lambda _: wish(np.nan)), members=np.array([0]))
    second = clipped(Asks(lambda view: wish(BID + view.tick + 1, version=view.tick)), members=np.array([1]))
    begun = loop(first, second)
    begun.go(to=10)
    assert begun.machine.state.shield == Shield((11, 0), (False, False))


def test_only_a_policy_that_is_clipped_has_a_fallback() -> None:
    stand_in = Assignment(PacingPI(), EVERYBODY, Source.POLICY, "stand-in")
    with pytest.raises(ValueError, match="only a policy that is clipped is suspended"):
        Assignment(Greedy(), EVERYBODY, Source.POLICY, "agent", fallback=stand_in)
