"""The invariants of the safety guard, one function each, over an account before and after a boundary.

Each looks at the ledger, the controls and what waited before; none asks the guard or what it remembers. I12 is about
events and is checked where they are folded (`tests/engine/test_events.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.actions import Actions, Knob, Result, Source
from engine.campaigns import SCALARS, ControlState, value_in_force
from engine.guard import Limits, Outcome, Reason
from engine.ledger import fold, verify
from engine.messages import ACCOUNT, Apply, Role
from engine.people import ROLES, CommandKind
from engine.units import PPM
from tests.properties.account import Account


def check_all(before: Account, after: Account) -> None:
    """Every invariant, at the boundary between the two."""
    for invariant in INVARIANTS:
        invariant(before, after)


def i1_every_automatic_step_is_at_most_a_quarter(before: Account, after: Account) -> None:
    rows = in_force(after)
    step = ~free(rows) & (rows.knob < len(SCALARS))
    old = before.controls.scalar[rows.campaign[step], rows.knob[step]]
    assert old.tolist() == rows.old[step].tolist()
    assert (4 * np.abs(rows.new[step] - old) <= old).all()
    for campaign in np.unique(rows.campaign[~free(rows) & (rows.knob == Knob.WEIGHTS)]):
        cells = after.rules.campaigns.cells_of(np.array([campaign]))
        assert np.abs(after.controls.weights[cells] - before.controls.weights[cells]).sum() <= 2 * PPM // 4


def i2_hard_bounds_hold_at_every_prefix(before: Account, after: Account) -> None:
    """The ledger up to here tells the controls before the round, the same with its results those after it."""
    assert after.fold.state is not None
    for state in (before.controls, after.fold.state, *after.partly, after.controls):
        within_bounds(state, after.limits)


def i3_sums_are_kept_while_a_round_is_applied(before: Account, after: Account) -> None:
    """There are no bundles of several knobs yet: weights stay shares, and no crash point exceeds the account.

    Falls of the same round give no room, so the budgets never sum to more than before plus the rises.
    """
    start = after.rules.campaigns.cell_start[:-1]
    for state in (*after.partly, after.controls):
        assert (np.add.reduceat(state.weights, start) == PPM).all()
    account = after.limits.account_budget
    if account is not None:
        rises = np.maximum(after.controls.budget - before.controls.budget, 0).sum()
        assert rises == 0 or before.controls.budget.sum() + rises <= account


def i4_the_ledger_tells_the_controls(before: Account, after: Account) -> None:  # noqa: ARG001 - one signature
    assert after.told().equals(after.controls)


def i5_a_round_and_a_command_have_one_effect(before: Account, after: Account) -> None:
    for campaign, state in enumerate(after.shards):
        machine = after.rules.shard(campaign, state)
        (answer,) = machine.handle(Apply(after.approved))
        mine = after.approved.rows.campaign == campaign
        assert answer.results.tolist() == after.results[mine].tolist()  # type: ignore[union-attr]
        assert machine.state is state
        if len(before.approved.of(np.array([campaign]))) and mine.any():
            with pytest.raises(ValueError, match="arrived after round"):
                machine.handle(Apply(before.approved))
    served = [command["id"] for command in after.round.header["commands"]]
    assert len(set(served)) == len(served)
    assert not set(served) & before.optimiser.desk.served
    assert after.optimiser.desk.served == before.optimiser.desk.served | set(served)


def i6_nothing_applies_without_an_approval_or_a_mandate(before: Account, after: Account) -> None:
    rows, tick, limits = after.approved.rows, after.tick, after.limits
    asked = commands(after, "approved")
    assert after.round.header["limits_version"] == limits.version
    for place in range(len(rows)):
        key = int(rows.campaign[place]), Knob(rows.knob[place])
        pauses = key[1] is Knob.PAUSED and rows.new[place] == 1
        mandated = limits.automatic and tick <= limits.mandate_until[key]
        if rows.source[place] == Source.PERSON:
            kinds = {"pause", "resume"} if key[1] is Knob.PAUSED else {"edit"}
            assert any(kind in kinds | {"edit"} and target == key for kind, target in asked)
        elif rows.source[place] == Source.ROLLBACK:
            assert ("rollback", key) in asked or key in undone_by_watches(after)
        elif not (pauses or mandated):
            _was_granted(before, after, rows.take(np.array([place])), asked[("approve", key)])


def _was_granted(before: Account, after: Account, row: Actions, by: dict[str, Any]) -> None:
    """An approver, not the proposer, approved this very row in time, on this version and under these limits."""
    key = int(row.campaign[0]), Knob(row.knob[0])
    pending = before.optimiser.desk.pending[key]
    assert after.tick - pending.tick <= after.rules.approval_ticks
    assert pending.limits_version == after.limits.version
    at = pending.rows.index == row.index[0]
    assert row.new[0] in pending.rows.wanted[at]
    assert (pending.rows.base_version[at] == row.base_version[0]).all()
    assert Role.APPROVER in after.rules.people[by["by"]]
    assert by["by"] != pending.rows.notes[int(pending.rows.note[0])].proposer


def i7_frozen_nothing_begins_but_pauses_and_rollbacks(before: Account, after: Account) -> None:
    account, parts = before.optimiser.desk.frozen, set(before.optimiser.desk.parts)
    for command in after.round.header["commands"]:
        if command["answer"] == "frozen":
            account, parts = _frozen(command, account, parts)
        elif command["answer"] == "unfrozen":
            account, parts = _thawed(command, account, parts)
    assert after.round.header["frozen"] == after.optimiser.desk.frozen == account
    assert set(after.optimiser.desk.parts) == parts
    stopped = np.full((len(after.rules.campaigns), len(Knob)), account)
    for campaign, knob in parts:
        stopped[campaign, slice(None) if knob is None else knob] = True
    rows, pending = after.approved.rows, after.optimiser.desk.pending
    allowed = (rows.source == Source.ROLLBACK) | (rows.knob == Knob.PAUSED) & (rows.new == 1)
    assert (allowed | ~stopped[rows.campaign, rows.knob]).all()
    for key, waits in before.optimiser.desk.pending.items():
        if stopped[key]:  # it goes on waiting until it expires or is denied, and nothing newer takes its place
            ended = after.tick - waits.tick > after.rules.approval_ticks or ("deny", key) in commands(after, "denied")
            assert (key not in pending) == ended
            assert ended or pending[key].tick == waits.tick


Parts = set[tuple[int, Knob | None]]


def _frozen(command: dict[str, Any], account: bool, parts: Parts) -> tuple[bool, Parts]:  # noqa: FBT001 - a state
    if command["campaign"] == ACCOUNT:
        return True, parts
    return account, parts | {(command["campaign"], _part(command))}


def _thawed(command: dict[str, Any], account: bool, parts: Parts) -> tuple[bool, Parts]:  # noqa: FBT001 - a state
    if command["campaign"] == ACCOUNT:
        return False, parts
    return account, parts - {(command["campaign"], _part(command))}


def _part(command: dict[str, Any]) -> Knob | None:
    return None if command["whole"] else Knob(command["knob"])


def i8_after_a_rollback_the_value_is_the_recorded_one_or_it_was_refused(before: Account, after: Account) -> None:
    """An episode goes back over its own steps, which a mandate let through; else nothing stands above."""
    past = [rows for _, rows in before.applied]
    commanded = {
        (command["campaign"], Knob(command["knob"])): command["undoes"]
        for command in after.round.header["commands"]
        if command["kind"] == "rollback" and command["answer"] == "approved"
    }
    undo = in_force(after)
    undo = undo.take(undo.source == Source.ROLLBACK)
    moved = {(int(campaign), Knob(knob)) for campaign, knob in zip(undo.campaign, undo.knob, strict=True)}
    assert set(commanded) <= moved
    asked = undone_by_watches(after) | commanded
    for key in moved:
        action = asked[key]
        (undone,) = [each for rows in past for each in (_of(rows, key),) if len(each) and each.action[0] == action]
        assert undone.source[0] != Source.ROLLBACK
        assert values(after, undone) == undone.old.tolist()
        newer = [(tick, _of(rows, key)) for tick, rows in before.applied if len(rows) and rows.round > undone.round]
        newer = [(tick, rows) for tick, rows in newer if len(rows)]
        taken_back_before = sum(rows.source[0] != Source.ROLLBACK for _, rows in newer) * 2 == len(newer)
        own_steps = key in undone_by_watches(after) and all(
            rows.source[0] > Source.ROLLBACK and tick <= after.rules.limits.mandate_until[key] for tick, rows in newer
        )
        assert taken_back_before or own_steps


def i9_what_a_person_set_is_not_overwritten_within_its_hold(before: Account, after: Account) -> None:
    rows, approved = in_force(after), commands(after, "approved")
    held = {
        (int(campaign), int(knob))
        for tick, past in before.applied
        if after.tick - tick < after.limits.day
        for campaign, knob, source in zip(past.campaign, past.knob, past.source, strict=True)
        if source == Source.PERSON
    }
    for campaign, knob, source, new in zip(rows.campaign, rows.knob, rows.source, rows.new, strict=True):
        key = int(campaign), Knob(knob)
        pauses = knob == Knob.PAUSED and new == 1
        assert key not in held or source <= Source.ROLLBACK or ("approve", key) in approved or pauses


def i10_no_negative_or_non_finite_value(before: Account, after: Account) -> None:  # noqa: ARG001 - one signature
    for state in (*after.partly, after.controls):
        for column in (state.scalar, state.anchor, state.weights, state.version):
            assert column.dtype == np.int64
            assert column.min() >= 0
    for shard in after.shards:
        for tally in (shard.recent, shard.period, shard.lifetime):
            assert tally.get().dtype == np.int64
            assert tally.get().min() >= 0


def i11_everything_ends_or_has_a_live_deadline(before: Account, after: Account) -> None:  # noqa: ARG001 - one signature
    """A row judged is approved, refused or waits; one approved has its result; one that waits expires."""
    assert set(after.results.tolist()) <= {Result.APPLIED, Result.STALE}
    assert len(after.results) == len(after.approved)
    for pending in after.optimiser.desk.pending.values():
        assert 0 <= after.tick - pending.tick <= after.rules.approval_ticks
        assert len(pending.rows)
    judged = after.round.judged
    waiting = judged["outcome"] == Outcome.NEEDS_APPROVAL
    told = {(int(c), Knob(k)) for c, k in zip(judged["campaign"][waiting], judged["knob"][waiting], strict=True)}
    since = {key for key, pending in after.optimiser.desk.pending.items() if pending.tick == after.tick}
    assert told == since
    for command in after.round.header["commands"]:
        assert command["answer"] != "judged"


def i13_cut_off_anywhere_the_ledger_tells_a_legal_earlier_state(before: Account, after: Account) -> None:
    """Up to here it tells the controls before this round; and what was before it is a beginning of what is now."""
    assert after.records[:-1] == before.records
    assert after.fold.state is not None
    assert after.fold.state.equals(before.controls)


def i14_a_refusal_changes_nothing_but_the_ledger(before: Account, after: Account) -> None:
    rows = in_force(after)
    touched = np.zeros_like(before.controls.version)
    touched[rows.campaign, rows.knob] = 1
    assert np.array_equal(after.controls.version, before.controls.version + touched)
    assert set(zip(*np.nonzero(after.controls.scalar != before.controls.scalar), strict=True)) == {
        (campaign, knob) for campaign, knob in zip(*np.nonzero(touched), strict=True) if knob < len(SCALARS)
    }
    moved = after.rules.campaigns.cell_campaign[after.controls.weights != before.controls.weights]
    assert set(moved) <= set(np.flatnonzero(touched[:, Knob.WEIGHTS]))
    assert np.array_equal(after.controls.paused != before.controls.paused, touched[:, Knob.PAUSED] == 1)
    edit = (rows.source == Source.PERSON) & (rows.knob < len(SCALARS))
    anchor = before.controls.anchor.copy()
    anchor[rows.campaign[edit], rows.knob[edit]] = rows.new[edit]
    assert np.array_equal(after.controls.anchor, anchor)
    judged = after.round.judged
    refused = judged["outcome"] == Outcome.REFUSED
    assert (judged["reason"][refused] != Reason.NONE).all()
    for command in after.round.header["commands"]:
        roles = after.rules.people.get(command["by"], frozenset())
        if ROLES[CommandKind(command["kind"])] not in roles:
            assert command["answer"].startswith(("needs_role", "unknown_person"))


INVARIANTS = (
    i1_every_automatic_step_is_at_most_a_quarter,
    i2_hard_bounds_hold_at_every_prefix,
    i3_sums_are_kept_while_a_round_is_applied,
    i4_the_ledger_tells_the_controls,
    i5_a_round_and_a_command_have_one_effect,
    i6_nothing_applies_without_an_approval_or_a_mandate,
    i7_frozen_nothing_begins_but_pauses_and_rollbacks,
    i8_after_a_rollback_the_value_is_the_recorded_one_or_it_was_refused,
    i9_what_a_person_set_is_not_overwritten_within_its_hold,
    i10_no_negative_or_non_finite_value,
    i11_everything_ends_or_has_a_live_deadline,
    i13_cut_off_anywhere_the_ledger_tells_a_legal_earlier_state,
    i14_a_refusal_changes_nothing_but_the_ledger,
)


def whole_ledger(account: Account) -> None:
    """I13 once more, from nothing: the chain of a finished run holds, and every prefix folds within bounds."""
    records = (*account.records, account.closing())
    assert verify(records) is None
    for end in range(1, len(records) + 1):
        state = fold(records[:end]).state
        assert state is not None
        within_bounds(state, account.limits)
    assert state is not None
    assert state.equals(account.controls)


def within_bounds(state: ControlState, limits: Limits) -> None:
    assert (state.scalar >= limits.minimum).all()
    assert (state.scalar <= limits.maximum).all()
    assert (state.bid <= state.budget).all()
    if limits.account_budget is not None:
        assert state.budget[limits.account_member].sum() <= limits.account_budget


def in_force(account: Account) -> Actions:
    """The rows of the last round that were applied."""
    return account.approved.rows.take(account.results == Result.APPLIED)


def free(rows: Actions) -> Any:
    return rows.source <= Source.ROLLBACK


def commands(account: Account, answer: str) -> dict[tuple[str, tuple[int, Knob]], dict[str, Any]]:
    """The last round's commands with an answer, by kind and by what they are about."""
    found = {}
    for told in account.round.header["commands"]:
        knob = Knob.PAUSED if told["kind"] in {"pause", "resume"} else Knob(told["knob"])
        if told["answer"] == answer:
            found[told["kind"], (told["campaign"], knob)] = told
    return found


def undone_by_watches(account: Account) -> dict[tuple[int, Knob], int]:
    """The actions that watches asked to take back in the last round."""
    watches = account.round.header.get("watches", [])
    return {(each["campaign"], Knob(each["knob"])): each["action"] for each in watches if each["event"] == "rolls_back"}


def values(account: Account, rows: Actions) -> list[int]:
    """The values in force of the knobs that rows name."""
    campaign, knob, index = (column.astype(np.int64) for column in (rows.campaign, rows.knob, rows.index))
    found: list[int] = value_in_force(
        account.rules.campaigns.cell_start, account.controls, campaign, knob, index
    ).tolist()
    return found


def _of(rows: Actions, key: tuple[int, int]) -> Actions:
    return rows.take((rows.campaign == key[0]) & (rows.knob == key[1]))
