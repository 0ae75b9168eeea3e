"""The invariants of the safety guard, one function each, over an account before and after a boundary.

Each looks at the ledger, the controls and what waited before; none asks the guard or what it remembers. I12 is about
events and is checked where they are folded (`tests/engine/test_events.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from engine.actions import Actions, Knob, Result, Source
from engine.alerts import AlertKind, Fingerprint
from engine.campaigns import ACCOUNT, SCALARS, CampaignSet, ControlState, places_of, value_in_force
from engine.judgement import Outcome, Reason
from engine.ledger import Fold, verify
from engine.limits import Limits
from engine.messages import Apply, Role
from engine.people import ROLES, CommandKind
from engine.units import PPM
from tests.properties.account import Account, key_of, target
from tests.properties.impact import why_high


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
    modifiers = rows.take(~free(rows) & (rows.knob == Knob.MODIFIERS))
    old = before.controls.modifiers[places(after, modifiers)]
    assert old.tolist() == modifiers.old.tolist()
    assert ((old == 0) | (4 * np.abs(modifiers.new - old) <= old)).all()
    assert ((modifiers.new > 0) & ((old > 0) | (modifiers.new <= PPM))).all()
    assert granted(after, modifiers.take(old == 0)).all()
    for campaign in np.unique(rows.campaign[~free(rows) & (rows.knob == Knob.WEIGHTS)]):
        cells = places_of(after.rules.campaigns.creative_start, np.array([campaign]))
        assert np.abs(after.controls.weights[cells] - before.controls.weights[cells]).sum() <= 2 * PPM // 4


def no_automatic_value_leaves_its_band(before: Account, after: Account) -> None:
    """But for the way back into it, and for an audience that a person's yes makes a target."""
    rows = automatic(after)
    columns = {Knob.BID: 0, Knob.BUDGET: 1, Knob.MODIFIERS: 2}
    rows = rows.take(np.isin(rows.knob, list(columns)) & (rows.old > 0))
    for place in range(len(rows)):
        row, limits = rows.take([place]), after.limits
        campaign, column = int(row.campaign[0]), columns[Knob(row.knob[0])]
        modifier = row.knob[0] == Knob.MODIFIERS
        anchor = (
            before.controls.modifier_anchor[places(after, row)][0]
            if modifier
            else (before.controls.anchor[campaign, column])
        )
        low, high = (Fraction(*side[campaign, column].tolist()) for side in (limits.band_low, limits.band_high))
        old, new = int(row.old[0]), int(row.new[0])
        assert min(low * int(anchor), old) <= new <= max(high * int(anchor), old)


def i2_hard_bounds_hold_at_every_prefix(before: Account, after: Account) -> None:
    """The ledger up to here tells the controls before the round, the same with its results those after it."""
    assert after.fold.state is not None
    for state in (before.controls, after.fold.state, *after.partly, after.controls):
        within_bounds(state, after.rules.campaigns, after.limits)


def i3_sums_are_kept_while_a_round_is_applied(before: Account, after: Account) -> None:
    """There are no bundles of several knobs yet: weights stay shares, and no crash point exceeds the account.

    Falls of the same round give no room, so the budgets never sum to more than before plus the rises.
    """
    start = after.rules.campaigns.creative_start[:-1]
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


def i6_nothing_applies_without_an_approval_a_mandate_or_low_impact(before: Account, after: Account) -> None:
    asked = commands(after, "approved")
    assert after.round.header["limits_version"] == after.limits.version
    for key, rows in by_knob(after.approved.rows):
        if rows.source[0] == Source.PERSON:
            kinds = {"edit", "pause", "resume"} if key[1] is Knob.PAUSED else {"edit"}
            assert any(kind in kinds and target == key for kind, target in asked)
        elif rows.source[0] == Source.ROLLBACK:
            assert ("rollback", key) in asked or key in undone_by_watches(after)
        elif ("approve", key) in asked:
            _was_granted(before, after, rows, asked[("approve", key)])
    alone = list(by_knob(passed_by_themselves(after)))
    assert after.limits.automatic or not alone
    together = len({campaign for (campaign, _), _ in alone})
    for _, rows in alone:
        assert why_high(before, after, rows, together) == []


def passed_by_themselves(after: Account) -> Actions:
    """Rows that passed without a mandate or a person's yes, though they protect nothing."""
    rows = automatic(after)
    mandated = in_mandate(after, rows) & after.limits.automatic
    return rows.take(~mandated & ~granted(after, rows) & ~pauses(rows))


def _was_granted(before: Account, after: Account, rows: Actions, by: dict[str, Any]) -> None:
    """An approver, not the proposer, approved these very rows in time, on this version and under these limits."""
    pending = before.optimiser.desk.pending[int(rows.campaign[0]), Knob(rows.knob[0])]
    assert after.tick - pending.tick <= after.rules.approval_ticks
    assert pending.limits_version == after.limits.version
    assert pending.rows.index.tolist() == rows.index.tolist()
    assert pending.rows.wanted.tolist() == rows.new.tolist()
    assert pending.rows.base_version.tolist() == rows.base_version.tolist()
    assert Role.APPROVER in after.rules.people[by["by"]]
    assert by["by"] != pending.rows.notes[int(pending.rows.note[0])].proposer


def i7_frozen_nothing_begins_but_pauses_and_rollbacks(before: Account, after: Account) -> None:
    """Without a lease it is as if the account was frozen."""
    account, parts = before.optimiser.desk.frozen, set(before.optimiser.desk.parts)
    for command in after.round.header["commands"]:
        if command["answer"] == "frozen":
            account, parts = _frozen(command, account, parts)
        elif command["answer"] == "unfrozen":
            account, parts = _thawed(command, account, parts)
    assert after.round.header["frozen"] == after.optimiser.desk.frozen == account
    assert set(after.optimiser.desk.parts) == parts
    leased = after.round.header["leased"]
    assert (Fingerprint(AlertKind.LEASE_LOST) in after.optimiser.alerts.since) == (not leased)
    stopped = np.full((len(after.rules.campaigns), len(Knob)), account or not leased)
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


def i8_after_a_rollback_the_value_is_the_recorded_one_or_an_alert_is_open(before: Account, after: Account) -> None:
    """What was asked for and not done is told by an alert that stays open until the knob is set.

    An episode goes back over its own steps, which a mandate let through. What came second in its round comes again.
    """
    done = [rows for tick, rows in after.past.taken_back if tick == after.tick]
    for undone in done:
        assert undone.source[0] != Source.ROLLBACK
        assert values(after, undone) == undone.old.tolist()
        stood = before.past.standing(*key_of(undone))
        above = [rows for rows in stood if rows.action[0] > undone.action[0]]
        assert undone.action[0] in [rows.action[0] for rows in stood]
        assert not above or _is_episode(undone, after)
        assert {rows.action[0] for rows in above} <= before.past.within  # an episode goes back over its own steps
    moved = {key_of(rows) for rows in done}
    assert {key for kind, key in commands(after, "approved") if kind == "rollback"} <= moved
    asked, blocked = set(undone_by_watches(after)), refused_rollbacks(after)
    assert asked <= moved | blocked | second_rollbacks(after)  # the second comes again
    alerts = after.optimiser.alerts.since
    assert {_blocked(key) for key in blocked} <= set(alerts)
    settled = {_blocked(key) for key, rows in by_knob(in_force(before)) if rows.source[0] <= Source.ROLLBACK}
    expected = {about for about in before.optimiser.alerts.since if about.kind is AlertKind.ROLLBACK_BLOCKED} - settled
    expected |= {_blocked(key) for key in blocked}
    assert {about for about in alerts if about.kind is AlertKind.ROLLBACK_BLOCKED} == expected


def _is_episode(undone: Actions, account: Account) -> bool:
    """Whether an action that the last round took back was an episode's first on its knob."""
    return (
        undone_by_watches(account).get(key_of(undone)) == undone.action[0] and undone.action[0] in account.past.within
    )


def i8_an_episode_is_taken_back_whole(before: Account, after: Account) -> None:
    """Every knob that it moved is asked to go back, or there already, or blocked by what came since from elsewhere."""
    told = after.round.header["watches"]
    open_ = {**before.past.episodes, **{each["action"]: _place(each) for each in told if each["event"] == "begun"}}
    for each in told:  # those that ended before this boundary's verdicts
        if each["event"] in {"rolled_back", "superseded"}:
            open_.pop(each["action"], None)
    asked = {open_[each["action"]][0] for each in told if each["event"] == "rolls_back" and each["action"] in open_}
    answers = {each["action"]: each for each in told}
    for action, (campaign, knob) in open_.items():
        if campaign not in asked:
            continue
        first, answer = after.past.rows_of(action), answers[action]
        if answer["event"] == "kept":
            assert values(before, first) == first.old.tolist()
        elif answer["event"] == "blocked":
            above = [rows for rows in before.past.standing(campaign, knob) if rows.action[0] > action]
            assert {rows.action[0] for rows in above} - before.past.within
            assert _blocked((campaign, knob)) in after.optimiser.alerts.since
        else:
            assert answer["event"] == "rolls_back"


def refused_rollbacks(account: Account) -> set[tuple[int, Knob]]:
    """The knobs whose rollback the last round refused for good, or whose watch found that it must not be."""
    told = account.round.judged
    refused = (told["source"] == Source.ROLLBACK) & (told["outcome"] == Outcome.REFUSED)
    refused &= told["reason"] != Reason.SECOND_CHANGE
    watches = account.round.header["watches"]
    return _knobs(told, refused) | {_place(each) for each in watches if each["event"] == "blocked"}


def second_rollbacks(account: Account) -> set[tuple[int, Knob]]:
    """The knobs whose rollback the last round refused because something else changed them in it."""
    told = account.round.judged
    return _knobs(told, (told["source"] == Source.ROLLBACK) & (told["reason"] == Reason.SECOND_CHANGE))


def _knobs(judged: dict[str, Any], rows: Any) -> set[tuple[int, Knob]]:
    """The knobs of some judged rows."""
    return {(int(c), Knob(k)) for c, k in zip(judged["campaign"][rows], judged["knob"][rows], strict=True)}


def _place(told: dict[str, Any]) -> tuple[int, Knob]:
    """The knob that an entry of the header is about."""
    return told["campaign"], Knob(told["knob"])


def _blocked(key: tuple[int, Knob]) -> Fingerprint:
    return Fingerprint(AlertKind.ROLLBACK_BLOCKED, *key)


def i9_what_a_person_set_is_not_overwritten_within_its_hold(before: Account, after: Account) -> None:
    rows = automatic(after)
    rows = rows.take(~granted(after, rows) & ~pauses(rows))
    held = {
        key
        for tick, past in before.past.applied
        if after.tick - tick < after.limits.day
        for key, mine in by_knob(past)
        if mine.source[0] == Source.PERSON
    }
    assert not held & {key for key, _ in by_knob(rows)}


def i10_no_negative_or_non_finite_value(before: Account, after: Account) -> None:  # noqa: ARG001 - one signature
    for state in (*after.partly, after.controls):
        for column in (
            state.scalar,
            state.anchor,
            state.weights,
            state.modifiers,
            state.modifier_anchor,
            state.version,
        ):
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
    told = _knobs(judged, waiting)
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
    moved = after.rules.campaigns.creative_campaign[after.controls.weights != before.controls.weights]
    assert set(moved) <= set(np.flatnonzero(touched[:, Knob.WEIGHTS]))
    modifiers = rows.take(rows.knob == Knob.MODIFIERS)
    changed = np.flatnonzero(after.controls.modifiers != before.controls.modifiers)
    assert set(changed) == set(places(after, modifiers))
    anchor, edit = before.controls.modifier_anchor.copy(), modifiers.source == Source.PERSON
    edit |= modifiers.old == 0
    anchor[places(after, modifiers.take(edit))] = modifiers.new[edit]
    assert np.array_equal(after.controls.modifier_anchor, anchor)
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


def while_the_breaker_is_open_nothing_automatic_is_applied(before: Account, after: Account) -> None:
    """It opens with the third rollback within a day since a person last closed it, and only a person closes it."""
    bundles = [
        tick
        for tick, rows in before.past.applied
        for _ in set(rows.campaign[rows.source == Source.ROLLBACK].tolist())
        if tick >= before.past.closed_at
    ]
    lately = [tick for tick in bundles if tick > bundles[-1] - after.limits.day]
    opened = breaker(before) or (len(lately) >= 3 and lately[-1] == before.tick)
    closed = after.past.closed_at == after.tick
    assert not closed or opened
    assert breaker(after) == (opened and not closed)
    assert (Fingerprint(AlertKind.BREAKER_OPEN) in after.optimiser.alerts.since) == breaker(after)
    if breaker(after):
        assert pauses(automatic(after)).all()


def what_was_rolled_back_is_not_applied_again(before: Account, after: Account) -> None:
    """For a fortnight not that change, nor one beyond it; a course under a mandate rests as long as its knob does."""
    day = after.limits.day
    rows = automatic(after)
    for key, mine in by_knob(rows.take(~granted(after, rows) & ~pauses(rows))):
        times = 0
        for tick, undone in before.past.taken_back:
            if key_of(undone) != key:
                continue
            times += 1
            rest = (1, 3, 7)[min(times, 3) - 1] * day
            if undone.source[0] <= Source.ROLLBACK:
                continue
            if undone.action[0] in after.past.within:
                assert after.tick - tick >= rest
            elif after.tick - tick < max(14 * day, rest):
                assert not _as_far(mine, undone)


def _as_far(rows: Actions, undone: Actions) -> bool:
    """Whether a change ends where another one did, or beyond; of modifiers, whether one of them does."""
    if rows.knob[0] == Knob.MODIFIERS:
        done = {int(undone.index[place]): undone.take([place]) for place in range(len(undone))}
        mine = {int(rows.index[place]): int(rows.new[place]) for place in range(len(rows))}
        return any(_beyond(mine[index], done[index]) for index in set(mine) & set(done))
    if rows.knob[0] not in SCALARS:
        return rows.new.tolist() == undone.new.tolist()
    return _beyond(int(rows.new[0]), undone)


def _beyond(new: int, undone: Actions) -> bool:
    bad = int(undone.new[0])
    return new >= bad if bad > undone.old[0] else new <= bad


def a_rise_never_passes_its_window(before: Account, after: Account) -> None:
    """Against what was in force at the boundary so long ago or, near the beginning, at the first one."""
    rows = automatic(after)
    for window in after.limits.windows:
        ticks = [seen.tick for seen in after.past.seen]
        past = [tick for tick in ticks if tick <= after.tick - window.ticks] or ticks[:1]
        for (campaign, knob), mine in by_knob(rows.take((rows.knob == window.knob) & (rows.new > rows.old))):
            old = int(before.rules.begins.scalar[campaign, knob])
            for tick, applied in before.past.applied:
                changed = _of(applied, (campaign, knob)).new.tolist()
                old = changed[0] if changed and tick < past[-1] else old
            assert (mine.new[0] - old) * PPM <= old * window.rise


def a_knob_under_watch_is_only_lowered(before: Account, after: Account) -> None:  # noqa: ARG001 - one signature
    """Outside mandates, and whoever said yes to it."""
    rows = automatic(after)
    for key, mine in by_knob(rows.take(~in_mandate(after, rows) & ~pauses(rows))):
        lowers = key[1] in {*SCALARS, Knob.MODIFIERS} and (mine.new < mine.old).all()
        assert lowers or key not in after.past.watched.values()


INVARIANTS = (
    i1_every_automatic_step_is_at_most_a_quarter,
    no_automatic_value_leaves_its_band,
    i2_hard_bounds_hold_at_every_prefix,
    i3_sums_are_kept_while_a_round_is_applied,
    i4_the_ledger_tells_the_controls,
    i5_a_round_and_a_command_have_one_effect,
    i6_nothing_applies_without_an_approval_a_mandate_or_low_impact,
    i7_frozen_nothing_begins_but_pauses_and_rollbacks,
    i8_after_a_rollback_the_value_is_the_recorded_one_or_an_alert_is_open,
    i8_an_episode_is_taken_back_whole,
    i9_what_a_person_set_is_not_overwritten_within_its_hold,
    i10_no_negative_or_non_finite_value,
    i11_everything_ends_or_has_a_live_deadline,
    i13_cut_off_anywhere_the_ledger_tells_a_legal_earlier_state,
    i14_a_refusal_changes_nothing_but_the_ledger,
    while_the_breaker_is_open_nothing_automatic_is_applied,
    what_was_rolled_back_is_not_applied_again,
    a_rise_never_passes_its_window,
    a_knob_under_watch_is_only_lowered,
)


def whole_ledger(account: Account) -> None:
    """I13 once more, from nothing: the chain of a finished run holds, and every prefix folds within bounds."""
    records = (*account.records, account.closing())
    assert verify(records) is None
    prefix = Fold()
    for record in records:
        prefix.update(record)
        assert prefix.state is not None
        within_bounds(prefix.state, account.rules.campaigns, account.limits)
    assert prefix.state is not None
    assert prefix.state.equals(account.controls)


def within_bounds(state: ControlState, campaigns: CampaignSet, limits: Limits) -> None:
    assert (state.scalar >= limits.minimum).all()
    assert (state.scalar <= limits.maximum).all()
    assert (state.bid <= state.budget).all()
    within_bounds_of_modifiers(state, campaigns, limits)
    if limits.account_budget is not None:
        assert state.budget[limits.account_member].sum() <= limits.account_budget


def within_bounds_of_modifiers(state: ControlState, campaigns: CampaignSet, limits: Limits) -> None:
    """A person may have dropped an audience; what is bid for the others holds the hard maximum of bids."""
    owner = campaigns.audience_campaign
    low, high = limits.modifier_bounds[owner].T
    assert ((state.modifiers == 0) | (state.modifiers >= low) & (state.modifiers <= high)).all()
    assert (state.bid[owner] * state.modifiers <= limits.maximum[owner, Knob.BID] * PPM).all()


def in_force(account: Account) -> Actions:
    """The rows of the last round that were applied."""
    return account.approved.rows.take(account.results == Result.APPLIED)


def automatic(account: Account) -> Actions:
    """Those of them that neither people nor rollbacks asked for."""
    rows = in_force(account)
    return rows.take(~free(rows))


def free(rows: Actions) -> Any:
    return rows.source <= Source.ROLLBACK


def pauses(rows: Actions) -> Any:
    return (rows.knob == Knob.PAUSED) & (rows.new == 1)


def in_mandate(account: Account, rows: Actions) -> Any:
    return (account.tick <= account.limits.mandate_until[rows.campaign, rows.knob]) & ~target(rows)


def granted(account: Account, rows: Actions) -> Any:
    """Rows on knobs for which the last round's record tells of a person's yes."""
    yes = {key for kind, key in commands(account, "approved") if kind == "approve"}
    keys = zip(rows.campaign.tolist(), rows.knob.tolist(), strict=True)
    return np.array([(campaign, Knob(knob)) in yes for campaign, knob in keys], dtype=np.bool_)


def breaker(account: Account) -> bool:
    """Whether the last round's record tells of an open breaker; the opening knows of none."""
    return len(account.records) > 1 and account.round.header["breaker"]


def by_knob(rows: Actions) -> Iterator[tuple[tuple[int, Knob], Actions]]:
    """The rows of each (campaign, knob): one, or a whole vector."""
    for campaign, knob in dict.fromkeys(zip(rows.campaign.tolist(), rows.knob.tolist(), strict=True)):
        yield (campaign, Knob(knob)), _of(rows, (campaign, knob))


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
    watches = account.round.header["watches"]
    return {(each["campaign"], Knob(each["knob"])): each["action"] for each in watches if each["event"] == "rolls_back"}


def places(account: Account, rows: Actions) -> Any:
    """Where rows of modifiers stand among all audiences."""
    return account.rules.campaigns.layout.audience_start[rows.campaign] + rows.index


def values(account: Account, rows: Actions) -> list[int]:
    """The values in force of the knobs that rows name."""
    campaign, knob, index = (column.astype(np.int64) for column in (rows.campaign, rows.knob, rows.index))
    found: list[int] = value_in_force(account.rules.campaigns.layout, account.controls, campaign, knob, index).tolist()
    return found


def _of(rows: Actions, key: tuple[int, int]) -> Actions:
    return rows.take((rows.campaign == key[0]) & (rows.knob == key[1]))
