from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from agents.scripted import Scripted, Wish
from engine.actions import ROW_BITS, Knob, Note, Proposals, Result, Source, no_proposals
from engine.campaign_machine import CampaignMachine, CampaignState
from engine.campaigns import ACCOUNT, ControlState
from engine.events import COUNTS, TickCounts
from engine.judgement import Outcome, Reason
from engine.ledger import GENESIS, LedgerError, Record, RecordKind, decode, decode_round, encode, fold, seal, verify
from engine.limits import Limits
from engine.messages import (
    Advanced,
    Answered,
    Apply,
    Boundary,
    Close,
    Command,
    CommandKind,
    Commit,
    Dispatch,
    Open,
    Publish,
    Published,
    Reloaded,
    Role,
)
from engine.optimiser import Assignment, OptimiserMachine
from engine.policy import View
from engine.rollback import History
from engine.units import TickGrid
from tests.engine.builders import BID, BUDGET, campaign_set, controls, mandated, wish

CAMPAIGNS = campaign_set([1, 2])
EVERYBODY = np.arange(2)
GRID = TickGrid(datetime(2026, 3, 28), 60, 400, "UTC")
DAY = 24
NOTHING = np.empty(0, dtype=np.uint8)


def ask(*values: int, knob: Knob = Knob.BID, campaign: int = 0, by: str = "sam") -> Wish:
    """A scripted wish."""
    return Wish(campaign, knob, by, "test", values)


def command(kind: str, name: str = "", by: str = "dana", knob: Knob = Knob.BID, **more: Any) -> Command:
    """A command about campaign 0, its id made of its kind unless it has a name."""
    return Command(name or f"{kind}-1", CommandKind(kind), by, more.pop("campaign", 0), knob, **more)


def optimiser(limits: Limits | None = None, *assignments: Assignment) -> OptimiserMachine:
    """An optimiser whose approvals wait a day and whose actions can be undone for a week."""
    limits = Limits.of(CAMPAIGNS) if limits is None else limits
    people = dict.fromkeys(("dana", "sam", "kim"), frozenset(Role))
    history = History(7 * DAY)
    return OptimiserMachine(CAMPAIGNS, GRID, limits, assignments, people=people, approval_ticks=DAY, history=history)


def empty_view(tick: int) -> View:
    nothing = np.zeros((2, len(COUNTS)), dtype=np.int64)
    return View(tick, controls(CAMPAIGNS), nothing, nothing, nothing)


def answers(record: Record) -> list[str]:
    """What a round told each command."""
    return [command["answer"] for command in decode_round(record).header["commands"]]


class Loop:
    """An optimiser and the machine of its two campaigns, boundary by boundary, with the ledger in a list.

    `wishes` are what the script asks for at the close of a tick; `limits` grant no mandate unless told otherwise.
    """

    def __init__(self, wishes: Mapping[int, tuple[Wish, ...]] | None = None, limits: Limits | None = None) -> None:
        self.machine = optimiser(limits, Assignment(Scripted(wishes or {}), EVERYBODY, Source.SCRIPT, "script"))
        self.campaigns = CampaignMachine(
            CAMPAIGNS, EVERYBODY, CampaignState.initial(controls(CAMPAIGNS)), GRID, factual=False
        )
        self.records: list[Record] = []
        self.tick = -1
        self.leased = True
        self.results: Any = NOTHING
        self._write(self.machine.handle(Open(empty_view(-1), {})))

    def go(self, *commands: Command, to: int | None = None, reloaded: Reloaded | None = None) -> list[str]:
        """Hold boundaries up to the given tick (by default the next); what the commands were told.

        The commands come at the last of them, and so do reloaded limits.
        """
        last = self.tick + 1 if to is None else to
        while self.tick < last:
            self.tick += 1
            self.campaigns.handle(Advanced(TickCounts(self.tick, self.happens())))
            (published,) = self.campaigns.handle(Publish(self.tick))
            assert isinstance(published, Published)
            served, found = (commands, reloaded) if self.tick == last else ((), None)
            boundary = Boundary(published.view, served, self.results, found, self.leased)
            commit, dispatch, *told = self.machine.handle(boundary)
            self._write([commit])
            assert [each["answer"] for answer in told for each in answer.commands] == self.answers
            assert isinstance(dispatch, Dispatch)
            (answered,) = self.campaigns.handle(Apply(dispatch.approved))
            assert isinstance(answered, Answered)
            self.results = answered.results
        return self.answers

    def happens(self) -> Any:
        """What the world does in the tick that closes: nothing."""
        return np.zeros((1, 3, len(COUNTS)), dtype=np.int64)

    @property
    def answers(self) -> list[str]:
        """What the last boundary told each command."""
        return answers(self.records[-1])

    @property
    def told(self) -> list[tuple[str, str]]:
        """The rows of the last boundary: outcome and reason."""
        judged = decode_round(self.records[-1]).judged
        pairs = zip(judged["outcome"], judged["reason"], strict=True)
        return [(Outcome(outcome).name, Reason(reason).name) for outcome, reason in pairs]

    @property
    def controls(self) -> ControlState:
        """The controls in force."""
        return self.campaigns.state.controls

    @property
    def bid(self) -> int:
        return int(self.controls.bid[0])

    def close(self) -> None:
        """End the run: the ledger holds, and folds to the controls in force."""
        self._write(self.machine.handle(Close(self.tick, self.results, {})))
        assert verify(self.records) is None
        folded = fold(self.records)
        assert folded.state is not None
        assert folded.state.equals(self.controls)

    def _write(self, commits: Any) -> None:
        for commit in commits:
            assert isinstance(commit, Commit)
            previous = self.records[-1].digest if self.records else GENESIS
            self.records.append(seal(previous, len(self.records), commit.kind, commit.tick, commit.body))


YES = ("APPROVED", "NONE")
WAITS = ("NEEDS_APPROVAL", "OUTSIDE_MANDATE")


# --- what comes out ---


def test_an_opening_a_round_and_a_closing_come_out_in_order() -> None:
    machine = optimiser()
    (opening,) = machine.handle(Open(empty_view(-1), {"seed": 3}))
    commit, dispatch = machine.handle(Boundary(empty_view(0), (), NOTHING))
    (closing,) = machine.handle(Close(0, NOTHING, {"totals": {}}))
    assert isinstance(opening, Commit)
    assert isinstance(commit, Commit)
    assert isinstance(dispatch, Dispatch)
    assert isinstance(closing, Commit)
    assert [(each.kind, each.tick) for each in (opening, commit, closing)] == [
        (RecordKind.OPENING, -1),
        (RecordKind.ROUND, 0),
        (RecordKind.CLOSING, 0),
    ]
    assert len(dispatch.approved) == 0
    read = decode_round(Record(1, commit.kind, commit.tick, commit.body, b""))
    assert (read.header["limits_version"], read.header["commands"], len(read.judged["wanted"])) == (1, [], 0)


def test_the_record_is_committed_before_the_rows_are_dispatched_and_holds_the_same() -> None:
    script = Assignment(Scripted({0: (ask(1_200_000), ask(9, campaign=1))}), EVERYBODY, Source.SCRIPT, "script")
    machine = optimiser(mandated(CAMPAIGNS), script)
    machine.handle(Open(empty_view(-1), {}))
    commit, dispatch = machine.handle(Boundary(empty_view(0), (), NOTHING))
    assert isinstance(commit, Commit)
    assert isinstance(dispatch, Dispatch)
    rows, intents = dispatch.approved.rows, decode_round(Record(1, commit.kind, 0, commit.body, b"")).intents(1)
    assert rows.action.tolist() == intents.action.tolist() == [1 << ROW_BITS]
    assert {name: column.tolist() for name, column in rows.columns().items()} == {
        name: column.tolist() for name, column in intents.columns().items()
    }
    assert rows.notes == intents.notes == (Note("sam", "test"), Note("sam", "test"))


@pytest.mark.parametrize("results", [[], [1, 1]])
def test_results_of_the_wrong_length_are_an_error(results: list[int]) -> None:
    script = Assignment(Scripted({0: (ask(1_200_000),)}), EVERYBODY, Source.SCRIPT, "script")
    machine = optimiser(mandated(CAMPAIGNS), script)
    machine.handle(Open(empty_view(-1), {}))
    machine.handle(Boundary(empty_view(0), (), NOTHING))
    with pytest.raises(ValueError, match=rf"^{len(results)} results arrived for the 1 rows of round 1$"):
        machine.handle(Boundary(empty_view(1), (), np.array(results, dtype=np.uint8)))
    with pytest.raises(ValueError, match=rf"^{len(results)} results arrived for the 1 rows of round 1$"):
        machine.handle(Close(1, np.array(results, dtype=np.uint8), {}))


# --- approvals ---


def test_a_change_outside_a_mandate_waits_and_is_applied_once_when_another_person_approves() -> None:
    loop = Loop({0: (ask(1_200_000),)})
    loop.go()
    assert (loop.told, loop.bid) == ([WAITS], BID)
    assert loop.go(to=3) == []
    assert loop.go(command("approve")) == ["approved"]
    assert (loop.told, loop.bid) == ([YES], 1_200_000)
    loop.go(to=8)
    assert (loop.told, loop.bid) == ([], 1_200_000)
    loop.close()


def test_approved_twice_has_one_effect() -> None:
    loop = Loop({0: (ask(1_200_000),)})
    loop.go()
    assert loop.go(command("approve", "first"), command("approve", "second")) == ["approved", "nothing_pending"]
    assert loop.go(command("approve", "third"), command("approve", "first")) == ["nothing_pending"]
    assert loop.bid == 1_200_000
    assert loop.controls.version[0, Knob.BID] == 1
    loop.close()


def test_the_proposer_cannot_approve_and_somebody_else_still_can() -> None:
    loop = Loop({0: (ask(1_200_000),)})
    loop.go()
    assert loop.go(command("approve", "own", by="sam")) == ["proposer_cannot_approve"]
    assert (loop.told, loop.bid) == ([], BID)
    assert loop.go(command("approve", "other")) == ["approved"]
    assert loop.bid == 1_200_000


def test_deny_wins_a_race_whatever_the_order_they_came_in() -> None:
    for order in (1, -1):
        loop = Loop({0: (ask(1_200_000),)})
        loop.go()
        both = (command("approve", "a"), command("deny", "b"))[::order]
        assert loop.go(*both) == ["denied", "nothing_pending"]
        assert (loop.told, loop.bid) == ([], BID)
        assert loop.go(command("deny", "late")) == ["nothing_pending"]


def test_an_approval_after_the_knob_moved_is_stale() -> None:
    loop = Loop({0: (ask(1_200_000),)})
    loop.go()
    assert loop.go(command("edit", values=(1_100_000,))) == ["approved"]
    assert loop.bid == 1_100_000
    assert loop.go(command("approve")) == ["refused: stale"]
    assert (loop.told, loop.bid) == ([("REFUSED", "STALE")], 1_100_000)
    assert loop.go(command("approve", "again")) == ["nothing_pending"]
    loop.close()


@pytest.mark.parametrize(("tick", "answer", "bid"), [(DAY, "approved", 1_200_000), (DAY + 1, "nothing_pending", BID)])
def test_an_approval_expires_after_24_hours(tick: int, answer: str, bid: int) -> None:
    loop = Loop({0: (ask(1_200_000),)})
    assert loop.go(command("approve"), to=tick) == [answer]
    assert loop.bid == bid


def test_a_newer_proposal_supersedes_the_one_that_waits() -> None:
    loop = Loop({0: (ask(1_200_000),), 2: (ask(900_000, by="kim"),)})
    loop.go(to=2)
    assert loop.go(command("approve", by="sam")) == ["approved"]  # sam's own was superseded; this one is kim's
    assert (loop.told, loop.bid) == ([YES], 900_000)
    assert loop.go(command("approve", "again")) == ["nothing_pending"]


def test_of_several_proposers_in_one_round_the_last_waits() -> None:
    loop = Loop({0: (ask(1_200_000), ask(900_000, by="kim"))})
    loop.go()
    assert loop.told == [WAITS, WAITS]
    loop.go(command("approve"))
    assert loop.bid == 900_000


def test_a_refused_proposal_does_not_supersede_one_that_waits() -> None:
    loop = Loop({0: (ask(1_200_000),), 1: (ask(2_000_000),)})
    loop.go(to=1)
    assert loop.told == [("REFUSED", "STEP")]
    loop.go(command("approve"))
    assert loop.bid == 1_200_000


def test_an_approval_is_guarded_again_when_it_is_applied() -> None:
    limits = Limits.of(CAMPAIGNS, account_budget=2 * BUDGET)
    loop = Loop({0: (ask(1_250_000),)}, limits)
    budgets = Loop({0: (ask(110_000_000, knob=Knob.BUDGET),)}, limits)
    for each, knob in ((loop, Knob.BID), (budgets, Knob.BUDGET)):
        each.go()
        each.go(command("approve", knob=knob))
    assert (loop.told, budgets.told) == ([YES], [("REFUSED", "ACCOUNT_BUDGET")])


def test_weights_are_approved_whole() -> None:
    loop = Loop({0: (ask(700_000, 300_000, knob=Knob.WEIGHTS, campaign=1),)})
    loop.go()
    assert loop.told == [WAITS, WAITS]
    loop.go(command("approve", campaign=1, knob=Knob.WEIGHTS))
    assert loop.controls.weights.tolist() == [1_000_000, 700_000, 300_000]
    assert loop.controls.version[1].tolist() == [0, 0, 1, 0, 0]
    loop.close()


def test_an_approval_is_for_one_knob_of_one_campaign() -> None:
    loop = Loop({0: (ask(1_200_000), ask(1_200_000, campaign=1))})
    loop.go()
    assert loop.go(command("approve", "a", knob=Knob.BUDGET), command("approve", "b", campaign=1)) == [
        "nothing_pending",
        "approved",
    ]
    assert loop.controls.bid.tolist() == [BID, 1_200_000]


# --- rollback ---


def moved(*values: int) -> Loop:
    """A loop in which the script moved the bid to each value in turn, under a mandate."""
    loop = Loop({tick: (ask(value),) for tick, value in enumerate(values)}, limits=mandated(CAMPAIGNS))
    loop.go(to=len(values) - 1)
    assert loop.bid == values[-1]
    return loop


def test_a_rollback_restores_the_recorded_value_of_the_latest_action() -> None:
    loop = moved(1_250_000, 1_000_001)
    assert loop.go(command("rollback", "a")) == ["approved"]
    assert (loop.told, loop.bid) == ([YES], 1_250_000)
    assert loop.go(command("rollback", "b")) == ["approved"]
    assert loop.bid == BID
    assert loop.go(command("rollback", "c")) == ["unknown_action"]
    loop.close()


def test_25_percent_down_rolled_back_needs_33_percent_up_and_is_allowed() -> None:
    loop = moved(750_000)
    loop.go(command("rollback"))
    assert (loop.told, loop.bid) == ([YES], BID)


def test_a_second_rollback_of_one_action_is_refused() -> None:
    loop = moved(1_200_000, 1_300_000)
    newest = 2 << ROW_BITS
    assert loop.go(command("rollback", "a", action=newest), command("rollback", "b", action=newest)) == [
        "approved",
        "already_asked",
    ]
    assert loop.told == [YES]
    assert loop.go(command("rollback", "c", action=newest)) == ["already_rolled_back"]
    assert loop.bid == 1_200_000


def test_a_rollback_of_a_rollback_is_refused() -> None:
    loop = moved(1_200_000)
    loop.go(command("rollback", "a"))
    undoing = 2 << ROW_BITS
    loop.go()
    assert loop.go(command("rollback", "b", action=undoing)) == ["is_a_rollback"]
    assert loop.bid == BID


def test_a_rollback_never_goes_over_a_persons_later_edit() -> None:
    loop = moved(1_200_000)
    loop.go(command("edit", values=(2_000_000,)))
    assert loop.go(command("rollback", action=1 << ROW_BITS)) == ["later_edit"]
    assert loop.bid == 2_000_000


def test_the_last_action_goes_first() -> None:
    loop = moved(1_200_000, 1_300_000)
    assert loop.go(command("rollback", action=1 << ROW_BITS)) == ["later_change"]
    assert loop.bid == 1_300_000


@pytest.mark.parametrize("action", [0, 1, 9 << ROW_BITS, None])
def test_what_was_never_done_is_not_undone(action: int | None) -> None:
    loop = Loop({})
    assert loop.go(command("rollback", action=action)) == ["unknown_action"]
    assert loop.told == []


def test_an_action_out_of_reach_is_changed_by_an_edit_instead() -> None:
    loop = moved(1_200_000)
    loop.go(to=7 * DAY + 2)
    assert loop.go(command("rollback")) == ["unknown_action"]


def test_a_rollback_that_the_guard_refuses_can_be_asked_for_again() -> None:
    loop = Loop({1: (ask(4_000_000),)}, limits=mandated(CAMPAIGNS))
    loop.go(command("edit", "bid", values=(5_000_000,)))
    loop.go()
    loop.go(command("edit", "low", knob=Knob.BUDGET, values=(4_500_000,)))
    loop.go(command("rollback", "early"))
    assert (loop.told, loop.bid) == ([("REFUSED", "BID_ABOVE_BUDGET")], 4_000_000)
    loop.go(command("edit", "high", knob=Knob.BUDGET, values=(9_000_000,)))
    loop.go(command("rollback", "late"))
    assert (loop.told, loop.bid) == ([YES], 5_000_000)
    loop.close()


# --- a person's own edits ---


def test_a_persons_edit_takes_any_step_and_moves_the_anchor() -> None:
    loop = Loop({})
    assert loop.go(command("edit", values=(5_000_000,))) == ["approved"]
    assert (loop.bid, loop.controls.anchor[0].tolist()) == (5_000_000, [5_000_000, BUDGET])
    record = decode_round(loop.records[-1])
    assert record.header["notes"] == [["dana", "edit"]]
    loop.close()


def test_hard_bounds_hold_for_a_person_too() -> None:
    loop = Loop({})
    assert loop.go(command("edit", values=(50_000_001,))) == ["refused: hard_maximum"]
    assert (loop.told, loop.bid) == ([("REFUSED", "HARD_MAXIMUM")], BID)


def test_pause_and_resume() -> None:
    loop = Loop({})
    paused = []
    for kind in ("pause", "resume"):
        loop.go(command(kind, knob=Knob.PAUSED))
        paused.append(loop.controls.paused.tolist())
    assert paused == [[True, False], [False, False]]
    assert loop.controls.version[0].tolist() == [0, 0, 0, 2, 0]
    loop.close()


def test_a_person_edits_weights_whole_or_not_at_all() -> None:
    loop = Loop({})
    for name, values in (("half", (1_000_000,)), ("whole", (0, 1_000_000))):
        loop.go(command("edit", name, knob=Knob.WEIGHTS, campaign=1, values=values))
        if name == "half":
            assert loop.told == [("REFUSED", "INCOMPLETE_VECTOR")]
    assert loop.controls.weights.tolist() == [1_000_000, 0, 1_000_000]


def test_a_command_served_twice_has_one_effect() -> None:
    loop = Loop({})
    edit = command("edit", values=(1_300_000,))
    assert loop.go(edit, edit) == ["approved"]
    assert loop.go(edit, replace(edit, values=(1_400_000,))) == []
    assert loop.bid == 1_300_000
    assert loop.controls.version[0, Knob.BID] == 1


def test_a_person_is_heard_before_a_policy() -> None:
    loop = Loop({0: (ask(1_250_000),)}, limits=mandated(CAMPAIGNS))
    loop.go(command("edit", values=(1_100_000,)))
    assert sorted(loop.told) == [YES, ("REFUSED", "SECOND_CHANGE")]
    assert loop.bid == 1_100_000


# --- policies ---


@dataclass(frozen=True)
class Fixed:
    """Proposes rows that were made beforehand, and remembers the views it was shown."""

    rows: Proposals
    shown: list[View] = field(default_factory=list)

    def start(self, campaigns: Any, grid: TickGrid) -> list[tuple[str, ...]]:  # noqa: ARG002 - the protocol's signature
        return [campaigns.ids]

    def propose(self, view: View, memory: list[Any]) -> tuple[Proposals, list[Any]]:
        self.shown.append(view)
        return (self.rows if view.tick == 0 else no_proposals()), memory


@pytest.mark.parametrize("campaign", [-1, 1, 2, 2**31 - 1])
def test_a_policy_that_names_a_campaign_it_does_not_have_is_refused(campaign: int) -> None:
    policy = Fixed(replace(wish(1_200_000), campaign=np.array([campaign], dtype=np.int32)))
    machine = optimiser(mandated(CAMPAIGNS), Assignment(policy, np.array([1]), Source.POLICY, "mine"))
    machine.handle(Open(empty_view(-1), {}))
    commit, dispatch = machine.handle(Boundary(empty_view(0), (), NOTHING))
    assert isinstance(commit, Commit)
    assert isinstance(dispatch, Dispatch)
    judged = decode_round(Record(1, commit.kind, 0, commit.body, b"")).judged
    assert (judged["campaign"].tolist(), judged["outcome"].tolist(), judged["reason"].tolist()) == ([-1], [2], [6])
    assert len(dispatch.approved) == 0


def test_a_policy_sees_its_own_campaigns_names_them_by_place_and_proposes_in_its_name() -> None:
    policy = Fixed(replace(wish(1_200_000, source=Source.PERSON), notes=(Note("", "because"),)))
    machine = optimiser(mandated(CAMPAIGNS), Assignment(policy, np.array([1]), Source.POLICY, "mine"))
    machine.handle(Open(empty_view(-1), {}))
    _, dispatch = machine.handle(Boundary(empty_view(0), (), NOTHING))
    assert isinstance(dispatch, Dispatch)
    rows = dispatch.approved.rows
    assert (rows.campaign.tolist(), rows.source.tolist(), rows.notes) == (
        [1],
        [Source.POLICY],
        (Note("mine", "because"),),
    )
    assert policy.shown[0].controls.weights.tolist() == [500_000, 500_000]


def test_a_stale_row_is_no_part_of_the_history() -> None:
    script = Assignment(Scripted({0: (ask(1_200_000),)}), EVERYBODY, Source.SCRIPT, "script")
    machine = optimiser(mandated(CAMPAIGNS), script)
    machine.handle(Open(empty_view(-1), {}))
    machine.handle(Boundary(empty_view(0), (), NOTHING))
    stale = np.array([Result.STALE], dtype=np.uint8)
    commit, *_ = machine.handle(Boundary(empty_view(1), (command("rollback"),), stale))
    assert isinstance(commit, Commit)
    assert answers(Record(2, commit.kind, 1, commit.body, b"")) == ["unknown_action"]


def test_frozen_nothing_begins_but_pauses_and_rollbacks() -> None:
    wishes = {tick: (ask(1_100_000 if tick == 0 else 1_150_000),) for tick in range(6)}
    loop = Loop(wishes, Limits.of(CAMPAIGNS).with_mandate(EVERYBODY, (Knob.BID,)))
    loop.go()  # tick 0: applied
    freeze = Command("f", CommandKind.FREEZE, "dana", ACCOUNT, Knob.PAUSED)
    edit, pause = command("edit", values=(1_200_000,)), command("pause", knob=Knob.PAUSED)
    assert loop.go(pause, edit, freeze) == ["frozen", "refused: frozen", "approved"]
    loop.go(command("rollback"))
    assert loop.answers == ["approved"]
    loop.go()
    assert (loop.bid, loop.controls.paused.tolist()) == (BID, [True, False])
    assert loop.go(Command("u", CommandKind.UNFREEZE, "dana", ACCOUNT, Knob.PAUSED)) == ["unfrozen"]
    loop.go()
    assert loop.bid == 1_150_000


def test_freeze_and_unfreeze_in_one_boundary_leave_the_account_frozen() -> None:
    loop = Loop({0: (ask(1_100_000),)}, Limits.of(CAMPAIGNS).with_mandate(EVERYBODY, (Knob.BID,)))
    both = [
        Command(kind.value, kind, "dana", ACCOUNT, Knob.PAUSED) for kind in (CommandKind.FREEZE, CommandKind.UNFREEZE)
    ]
    assert loop.go(*both) == ["unfrozen", "frozen"]
    loop.go()
    assert loop.bid == BID


def test_an_approval_while_frozen_is_refused_and_what_waits_goes_on_waiting() -> None:
    loop = Loop({0: (ask(1_200_000),)})
    loop.go()
    freeze, unfreeze = (
        Command(kind.value, kind, "dana", ACCOUNT, Knob.PAUSED) for kind in (CommandKind.FREEZE, CommandKind.UNFREEZE)
    )
    assert loop.go(command("approve", "early"), freeze) == ["frozen", "account_frozen"]
    assert loop.go(command("approve", "late"), unfreeze) == ["unfrozen", "approved"]
    loop.go()
    assert loop.bid == 1_200_000


def icy(kind: CommandKind, campaign: int, knob: Knob | None = None) -> Command:
    """A freeze of a campaign or of one of its knobs, or the end of it."""
    name = f"{kind}-{campaign}-{knob}"
    return Command(name, kind, "dana", campaign, Knob.PAUSED if knob is None else knob, whole=knob is None)


@pytest.mark.parametrize("knob", [None, Knob.BID])
def test_a_frozen_campaign_or_knob_leaves_the_others_alone(knob: Knob | None) -> None:
    steps = [
        (ask(bid), ask(bid, campaign=1), ask(BUDGET + bid, knob=Knob.BUDGET))
        for bid in (1_100_000, 1_150_000, 1_200_000)
    ]
    limits = Limits.of(CAMPAIGNS).with_mandate(EVERYBODY, (Knob.BID, Knob.BUDGET))
    loop = Loop(dict(enumerate(steps)), limits)
    assert loop.go() == []
    assert loop.go(icy(CommandKind.FREEZE, 0, knob)) == ["frozen"]
    frozen, free = ("REFUSED", "FROZEN"), ("APPROVED", "NONE")
    assert loop.told[:3] == [frozen, free, frozen if knob is None else free]
    loop.go()
    assert (loop.bid, int(loop.controls.bid[1])) == (1_100_000, 1_200_000)
    pause, undo, lift = command("pause", knob=Knob.PAUSED), command("rollback"), icy(CommandKind.UNFREEZE, 0, knob)
    assert loop.go(pause, undo) == ["approved", "approved"]
    loop.go(lift, command("edit", values=(1_250_000,)))
    assert loop.answers == ["unfrozen", "approved"]
    loop.go()
    assert loop.bid == 1_250_000
    loop.close()


def test_a_freeze_ends_as_it_was_set() -> None:
    loop = Loop()
    whole, bid, account = (
        icy(CommandKind.FREEZE, 0),
        icy(CommandKind.FREEZE, 0, Knob.BID),
        icy(CommandKind.FREEZE, ACCOUNT),
    )
    loop.go(whole, bid, account)
    for place, kind in enumerate(("account", "campaign", "knob")):
        lift = [
            icy(CommandKind.UNFREEZE, ACCOUNT),
            icy(CommandKind.UNFREEZE, 0),
            icy(CommandKind.UNFREEZE, 0, Knob.BID),
        ]
        edit = command("edit", kind, values=(1_200_000,))
        assert loop.go(edit) == ["refused: frozen"]
        assert loop.go(lift[place]) == ["unfrozen"]
    assert loop.go(command("edit", "last", values=(1_200_000,))) == ["approved"]


def test_nothing_is_approved_on_a_frozen_knob() -> None:
    loop = Loop({0: (ask(1_200_000),)})
    loop.go()
    told = loop.go(command("approve", "early"), icy(CommandKind.FREEZE, 0, Knob.BID))
    assert told == ["frozen", "knob_frozen"]
    assert loop.go(command("approve", "late"), icy(CommandKind.UNFREEZE, 0, Knob.BID)) == ["unfrozen", "approved"]


def test_a_freeze_outlives_the_machine_that_served_it() -> None:
    loop = Loop()
    loop.go(icy(CommandKind.FREEZE, 0, Knob.BID))
    before = loop.machine.state
    people = dict.fromkeys(("dana",), frozenset(Role))
    rest = {"people": people, "approval_ticks": DAY, "history": History(7 * DAY), "state": before}
    loop.machine = OptimiserMachine(
        CAMPAIGNS, GRID, Limits.of(CAMPAIGNS), (Assignment(Scripted({}), EVERYBODY, Source.SCRIPT, "script"),), **rest
    )
    assert loop.go(command("edit", values=(1_200_000,))) == ["refused: frozen"]


def test_an_unknown_person_and_a_missing_role_get_a_refusal_in_the_ledger() -> None:
    loop = Loop({0: (ask(1_200_000),)})
    loop.machine = OptimiserMachine(
        CAMPAIGNS,
        GRID,
        Limits.of(CAMPAIGNS),
        (Assignment(Scripted({0: (ask(1_200_000),)}), EVERYBODY, Source.SCRIPT, "script"),),
        people={"ann": frozenset({Role.APPROVER}), "oli": frozenset({Role.OPERATOR})},
        approval_ticks=DAY,
        history=History(7 * DAY),
    )
    loop.go()
    refused = loop.go(
        command("approve", "a", by="oli"), command("approve", "b", by="nobody"), command("pause", "c", by="ann")
    )
    assert refused == ["needs_role_approver", "unknown_person", "needs_role_operator"]
    assert loop.go(command("approve", "d", by="ann")) == ["approved"]


def test_a_step_on_a_mandates_last_tick_is_inside_it_and_starts_no_cooldown() -> None:
    limits = replace(Limits.of(CAMPAIGNS).with_mandate(EVERYBODY, (Knob.BID,), until=3), day=DAY)
    loop = Loop({3: (ask(1_100_000),), 4: (ask(1_150_000),)}, limits)
    loop.go(to=4)
    assert loop.told == [("NEEDS_APPROVAL", "LEARNING_PHASE")]


def test_a_persons_hold_is_counted_from_the_boundary_of_the_edit() -> None:
    limits = replace(Limits.of(CAMPAIGNS).with_mandate(EVERYBODY, (Knob.BID,)), day=DAY)
    loop = Loop({tick: (ask(1_150_000),) for tick in (2 + DAY - 1, 2 + DAY)}, limits)
    loop.go(command("edit", values=(1_100_000,)), to=2)
    loop.go(to=2 + DAY - 1)
    assert loop.told == [("REFUSED", "PERSONS_HOLD")]
    loop.go()
    assert loop.told == [("APPROVED", "NONE")]


# --- controls that are not what the record says ---


class Meddled(Loop):
    """The controls are changed past the guard before the tick of the same number."""

    def meddle(self, **columns: Any) -> None:
        state = self.campaigns.state
        changed = CampaignState(**{**vars(state), "controls": replace(state.controls, **columns)})
        self.campaigns = CampaignMachine(CAMPAIGNS, EVERYBODY, changed, GRID, factual=False)

    @property
    def alerts(self) -> list[tuple[str, str, int, int | None, str]]:
        entries = decode_round(self.records[-1]).header["alerts"]
        names = ("alert", "event", "campaign", "knob", "why")
        return [tuple(entry[name] for name in names) for entry in entries]  # type: ignore[misc]


def test_a_value_that_nobody_approved_raises_an_alarm_and_is_restored() -> None:
    loop = Meddled({1: (ask(1_200_000),)}, mandated(CAMPAIGNS))
    loop.go(to=3)
    assert loop.alerts == []
    scalar, weights = loop.controls.scalar.copy(), loop.controls.weights.copy()
    scalar[0, Knob.BID], weights[1:] = 30_000_000, (900_000, 100_000)
    loop.meddle(scalar=scalar, weights=weights)
    loop.go()
    assert loop.alerts == [
        ("state_differs", "opened", 0, Knob.BID, "[30000000] is not [1200000]"),
        ("state_differs", "opened", 1, Knob.WEIGHTS, "[900000, 100000] is not [500000, 500000]"),
    ]
    assert loop.told == [YES] * 3
    assert (loop.bid, loop.controls.weights.tolist()) == (1_200_000, [1_000_000, 500_000, 500_000])
    loop.go()
    assert [alert[:4] for alert in loop.alerts] == [
        ("state_differs", "closed", 0, Knob.BID),
        ("state_differs", "closed", 1, Knob.WEIGHTS),
    ]
    loop.go()
    assert loop.alerts == []


def test_a_campaign_found_paused_is_not_resumed_and_its_alarm_stands() -> None:
    loop = Meddled(limits=mandated(CAMPAIGNS))
    loop.go(to=3)
    loop.meddle(paused=np.array([True, False]))
    loop.go()
    assert loop.alerts == [("state_differs", "opened", 0, Knob.PAUSED, "[1] is not [0]")]
    loop.go(to=6)
    assert (loop.alerts, loop.told, loop.controls.paused.tolist()) == ([], [], [True, False])
    loop.meddle(paused=np.array([False, False]))
    loop.go()
    assert loop.alerts == [("state_differs", "closed", 0, Knob.PAUSED, "")]


def test_a_person_who_sets_the_value_anew_settles_what_differs() -> None:
    loop = Meddled(limits=mandated(CAMPAIGNS))
    loop.go(to=3)
    scalar = loop.controls.scalar.copy()
    scalar[0, Knob.BID] = 2_000_000
    loop.meddle(scalar=scalar)
    assert loop.go(command("edit", values=(1_500_000,))) == ["approved"]
    assert loop.told == [YES, ("REFUSED", "SECOND_CHANGE")]
    loop.go()
    assert (loop.bid, {alert[1] for alert in loop.alerts}) == (1_500_000, {"closed"})


def test_an_audit_knows_that_a_value_it_was_told_of_was_restored_and_takes_no_other() -> None:
    loop = Meddled({1: (ask(1_200_000),)}, mandated(CAMPAIGNS))
    loop.go(to=3)
    scalar, weights, version = loop.controls.scalar.copy(), loop.controls.weights.copy(), loop.controls.version.copy()
    scalar[0, Knob.BID], weights[1:], version[0, Knob.BID] = 30_000_000, (900_000, 100_000), 7
    loop.meddle(scalar=scalar, weights=weights, version=version)
    loop.go(to=6)
    told = fold(loop.records).state
    assert told is not None
    assert told.equals(loop.controls)
    loop.close()
    silent = [_without_alerts(record) if record.kind is RecordKind.ROUND else record for record in loop.records]
    with pytest.raises(LedgerError, match="on controls that were not in force"):
        fold(silent)


def _without_alerts(record: Record) -> Record:
    """A round that tells neither of alerts nor of watches, as one of a run without either."""
    header, tables = decode(record.body)
    left = {name: told for name, told in header.items() if name not in {"alerts", "watches"}}
    return replace(record, body=encode(left, tables))


def test_a_persons_rollback_of_weights_that_differ_is_the_one_that_is_judged() -> None:
    shares = (600_000, 400_000)
    loop = Meddled({1: (ask(*shares, knob=Knob.WEIGHTS, campaign=1),)}, mandated(CAMPAIGNS))
    loop.go(to=3)
    assert tuple(loop.controls.weights[1:]) == shares
    weights = loop.controls.weights.copy()
    weights[1:] = (900_000, 100_000)
    loop.meddle(weights=weights)
    assert loop.go(command("rollback", knob=Knob.WEIGHTS, campaign=1)) == ["approved"]
    assert loop.controls.weights.tolist() == [1_000_000, 500_000, 500_000]
    loop.go()
    assert {alert[:2] for alert in loop.alerts} == {("state_differs", "closed")}


def test_a_change_is_quarantined_as_what_it_was_when_it_was_made_whatever_mandate_was_granted_since() -> None:
    allowed = replace(mandated(CAMPAIGNS), day=DAY)
    strict = replace(Limits.of(CAMPAIGNS), day=DAY)
    wishes = {0: (ask(1_200_000),), 3 + 2 * DAY: (ask(1_250_000),)}
    single = Loop(wishes, strict)
    single.go(command("approve"), to=1)
    single.go(reloaded=Reloaded("wide", allowed))
    single.go(command("rollback"))
    single.go(to=3 + 2 * DAY)
    assert single.told == [("REFUSED", "QUARANTINED")]  # for a fortnight, though the knob has cooled down
    course = Loop({0: (ask(1_200_000),), 5: (ask(900_000),)}, allowed)
    course.go(to=1)
    course.go(reloaded=Reloaded("narrow", strict))
    course.go(command("rollback"))
    course.go(to=5)
    assert course.told == [("REFUSED", "QUARANTINED")]  # downwards too, though it waits for a person now
