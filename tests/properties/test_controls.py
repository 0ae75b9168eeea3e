"""Random proposals, edits, grants, rollbacks and re-deliveries: whatever is asked, the laws of the controls hold.

The machine keeps house as the shells do: it judges, writes the record, applies, and hands the results to the next
record. After every round it compares the controls before and after with what was asked and granted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engine.actions import Actions, Approved, Knob, Proposals, Result, Source, proposals
from engine.campaigns import SCALARS, ControlState, apply, places_of
from engine.guard import check
from engine.judgement import Judgement, Outcome
from engine.ledger import GENESIS, Fold, Record, RecordKind, closing_body, fold, opening_body, round_body, seal, verify
from engine.limits import FOREVER, Limits
from engine.rollback import Blocked, History
from engine.units import PPM
from tests.engine.builders import BUDGET, campaign_set, controls

JUNK = [float("nan"), float("inf"), float("-inf"), "25", None, True, -1, 0, 0.5, 10**15, 10**30, 2**63]
FACTORS = [0.0, 0.5, 0.74, 0.75, 0.76, 0.9, 0.999, 1.0, 1.001, 1.1, 1.24, 1.25, 1.26, 2.0, 3.0, 100.0]

versions = st.sampled_from([0, 0, 0, 0, 0, -1, 1, 7])
sources = st.sampled_from(list(Source))
automatic = st.sampled_from([Source.RULE, Source.SCRIPT, Source.POLICY])


class Controls(RuleBasedStateMachine):
    """Guard, state, history and ledger of a few campaigns, and everyone who wants something of them."""

    size = 1

    @initialize(data=st.data())
    def open(self, data: st.DataObject) -> None:
        creatives = data.draw(st.lists(st.integers(1, 3), min_size=self.size, max_size=self.size))
        audiences = data.draw(st.sampled_from([(), ("families", "young"), ("a", "b", "c")]), label="audiences")
        self.campaigns = campaign_set(creatives, audiences=audiences)
        self.state = controls(self.campaigns)
        self.limits = Limits.of(self.campaigns, account_budget=self.size * BUDGET * 3 // 2)
        for knob in Knob:
            until = data.draw(st.sampled_from([-1, 4, FOREVER]), label=f"{knob.name} until")
            members = np.flatnonzero(np.arange(self.size) % 2 == 0)
            self.limits = self.limits.with_mandate(members, (knob,), until=until)
        self.history = History(ticks=8)
        self.tick = 0
        self.records: list[Record] = []
        self.fold = Fold()
        self.results = np.empty(0, dtype=np.uint8)
        self.delivered: list[Approved] = []
        self.done: dict[int, Actions] = {}  # every action id that was ever applied
        self.forged: set[tuple[int, int]] = set()  # knobs that a rollback moved which the history did not make
        self.recorded = self.state
        self._write(RecordKind.OPENING, opening_body({}, self.campaigns.layout, self.state))

    # --- what is asked ---

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        """A round of several parties' wishes, some of which a person has granted."""
        wishes = [self._wish(data) for _ in range(data.draw(st.integers(1, 5), label="wishes"))]
        granted = [np.full(len(rows), data.draw(st.booleans(), label="granted")) for rows in wishes]
        judgement = self._round(Proposals.concatenate(wishes), np.concatenate(granted))
        self._note_forged(judgement.approved.rows)

    @rule(knob=st.sampled_from(SCALARS), source=automatic, up=st.booleans())
    def push(self, knob: Knob, source: Source, up: bool) -> None:  # noqa: FBT001 - Hypothesis draws it
        """Everyone at once, always as far as a step goes."""
        old = self.state.scalar[:, knob]
        wanted = old + old // 4 if up else old - old // 4
        rows = proposals(np.arange(self.size), knob, wanted, self.state.version[:, knob], source, "push")
        self._round(rows, np.zeros(self.size, dtype=np.bool_))

    @rule(data=st.data(), knob=st.sampled_from(SCALARS), factor=st.sampled_from(FACTORS))
    def edit(self, data: st.DataObject, knob: Knob, factor: float) -> None:
        """A person's own edit, on the version in force."""
        campaign = data.draw(st.integers(0, self.size - 1), label="campaign")
        wanted = int(self.state.scalar[campaign, knob] * factor)
        self._round(self._now(campaign, knob, wanted, Source.PERSON), np.array([False]))

    @rule(data=st.data(), bid_by=sources, modifiers_by=sources)
    def stretch(self, data: st.DataObject, bid_by: Source, modifiers_by: Source) -> None:
        """A person sets a bid so that a modifier is close to its maximum; then, in one round, both are to rise."""
        campaign = data.draw(st.integers(0, self.size - 1), label="campaign")
        place = int(self.campaigns.layout.audience_start[campaign])
        most = int(self.limits.maximum[campaign, Knob.BID]) * PPM // max(int(self.state.modifiers[place]), PPM)
        self._round(self._now(campaign, Knob.BID, most * 5 // 6, Source.PERSON), np.array([False]))
        rises = [data.draw(st.sampled_from([110, 115, 120]), label="percent") for _ in range(2)]
        wishes = [
            self._now(campaign, Knob.BID, int(self.state.bid[campaign]) * rises[0] // 100, bid_by),
            self._now(campaign, Knob.MODIFIERS, int(self.state.modifiers[place]) * rises[1] // 100, modifiers_by),
        ]
        granted = np.array([data.draw(st.booleans()), data.draw(st.booleans())])
        self._note_forged(self._round(Proposals.concatenate(wishes), granted).approved.rows)

    @rule(data=st.data(), bid_by=sources, budget_by=sources)
    def squeeze(self, data: st.DataObject, bid_by: Source, budget_by: Source) -> None:
        """A person sets a budget close above the bid; then, in one round, the bid is to rise and the budget to fall."""
        campaign = data.draw(st.integers(0, self.size - 1), label="campaign")
        bid = int(self.state.bid[campaign])
        self._round(self._now(campaign, Knob.BUDGET, bid * 6 // 5, Source.PERSON), np.array([False]))
        rise, fall = data.draw(st.sampled_from([(115, 115), (120, 110), (110, 120)]), label="percent of the bid")
        wishes = [
            self._now(campaign, Knob.BID, bid * rise // 100, bid_by),
            self._now(campaign, Knob.BUDGET, bid * fall // 100, budget_by),
        ]
        granted = np.array([data.draw(st.booleans()), data.draw(st.booleans())])
        self._note_forged(self._round(Proposals.concatenate(wishes), granted).approved.rows)

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """Take an action back that was applied at some time: its recorded values come back, or it is blocked."""
        action = data.draw(st.sampled_from(sorted(self.done)), label="action")
        rows = self.done[action]
        campaign, knob = int(rows.campaign[0]), Knob(rows.knob[0])
        inverse = self.history.inverse(campaign, knob, action, self.state, by="ann")
        if isinstance(inverse, Blocked):
            return
        assert rows.source[0] != Source.ROLLBACK
        if (campaign, knob) in self.forged:
            return
        assert (self.state.version[campaign, knob] - rows.base_version[0]) % 2 == 1  # all since then came in pairs
        assert self._values(rows) == rows.new.tolist()
        judgement = self._round(inverse, np.zeros(len(inverse), dtype=np.bool_))
        if len(judgement.approved):
            assert self._values(rows) == rows.old.tolist()
            self.history.mark_undone(action, self.tick)
            again = self.history.inverse(campaign, knob, action, self.state, by="ann")
            assert again is Blocked.ALREADY_ROLLED_BACK

    @precondition(lambda self: self.delivered)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        """What was applied once is stale for ever."""
        approved = data.draw(st.sampled_from(self.delivered))
        state, results = apply(self.campaigns.layout, self.state, approved)
        assert results.tolist() == [Result.STALE] * len(approved)
        assert state.equals(self.state)

    # --- what holds ---

    @invariant()
    def values_are_within_hard_bounds(self) -> None:
        scalar, limits = self.state.scalar, self.limits
        assert (scalar >= limits.minimum).all()
        assert (scalar <= limits.maximum).all()
        assert (self.state.bid <= self.state.budget).all()
        assert limits.account_budget is not None
        assert self.state.budget.sum() <= limits.account_budget
        owner, modifiers = self.campaigns.audience_campaign, self.state.modifiers
        low, high = limits.modifier_bounds[owner].T
        assert ((modifiers == 0) | (modifiers >= low) & (modifiers <= high)).all()
        assert (self.state.bid[owner] * modifiers <= limits.maximum[owner, Knob.BID] * PPM).all()

    @invariant()
    def weights_are_shares(self) -> None:
        sums = np.add.reduceat(self.state.weights, self.campaigns.creative_start[:-1])
        assert self.state.weights.min() >= 0
        assert sums.tolist() == [1_000_000] * self.size

    @invariant()
    def the_ledger_tells_the_controls(self) -> None:
        assert self.fold.state is not None
        assert self.fold.state.equals(self.recorded)
        assert self.fold.max_relative_step <= 0.25

    def teardown(self) -> None:
        """The whole chain holds, and its end tells the controls in force."""
        if hasattr(self, "records"):
            self._write(RecordKind.CLOSING, closing_body({}, self.results))
            assert verify(self.records) is None
            folded = fold(self.records)
            assert folded.state is not None
            assert folded.state.equals(self.state)

    # --- how a round goes ---

    def _round(self, rows: Proposals, granted: Any) -> Judgement:
        before = self.state
        sequence = len(self.records)
        judgement = check(self.campaigns, before, rows, self.limits, sequence=sequence, tick=self.tick, granted=granted)
        self.recorded = before
        self._write(RecordKind.ROUND, round_body({}, judgement, self.results))
        approved = judgement.approved
        self.state, self.results = apply(self.campaigns.layout, before, approved)
        assert self.results.tolist() == [Result.APPLIED] * len(approved)
        self._laws(before, judgement, granted)
        self._remember(approved)
        self.tick += 1
        return judgement

    def _laws(self, before: ControlState, judgement: Judgement, granted: Any) -> None:
        rows = judgement.approved.rows
        targets = list(zip(rows.campaign.tolist(), rows.knob.tolist(), rows.index.tolist(), strict=True))
        assert len(set(targets)) == len(targets)
        free = rows.source <= Source.ROLLBACK
        modifier = rows.knob == Knob.MODIFIERS
        targets_anew = ~free & modifier & (rows.old == 0)
        stepped = ~free & ((rows.knob < len(SCALARS)) | modifier) & ~targets_anew
        assert (4 * np.abs(rows.new - rows.old)[stepped] <= rows.old[stepped]).all()
        assert (rows.new[~free & modifier] > 0).all()
        assert (rows.new[targets_anew] <= PPM).all()
        for campaign in np.unique(rows.campaign[~free & (rows.knob == Knob.WEIGHTS)]):
            cells = places_of(self.campaigns.creative_start, np.array([campaign]))
            moved = np.abs(self.state.weights[cells] - before.weights[cells]).sum()
            assert moved <= 2 * 250_000
        passed = judgement.outcome == Outcome.APPROVED
        mandated = self.tick <= self.limits.mandate_until[rows.campaign, rows.knob]
        pausing = (rows.knob == Knob.PAUSED) & (rows.new == 1)
        assert (granted[passed] | free | mandated | pausing).all()
        assert granted[passed][targets_anew].all()
        self._nothing_else_changed(before, rows)

    def _nothing_else_changed(self, before: ControlState, rows: Actions) -> None:
        touched = np.zeros_like(before.version)
        touched[rows.campaign, rows.knob] = 1
        assert np.array_equal(self.state.version, before.version + touched)
        scalar = touched[:, : len(SCALARS)] == 1
        assert np.array_equal(self.state.scalar != before.scalar, scalar)
        assert np.array_equal(self.state.paused != before.paused, touched[:, Knob.PAUSED] == 1)
        weights = self.campaigns.creative_campaign[self.state.weights != before.weights]
        assert set(weights) == set(np.flatnonzero(touched[:, Knob.WEIGHTS]))
        modifier = rows.take(rows.knob == Knob.MODIFIERS)
        place = self.campaigns.layout.audience_start[modifier.campaign] + modifier.index
        assert set(np.flatnonzero(self.state.modifiers != before.modifiers)) == set(place)
        anchored = (modifier.source == Source.PERSON) | (modifier.old == 0)
        anchor = before.modifier_anchor.copy()
        anchor[place[anchored]] = modifier.new[anchored]
        assert np.array_equal(self.state.modifier_anchor, anchor)
        edited = np.zeros_like(scalar)
        by_person = (rows.source == Source.PERSON) & (rows.knob < len(SCALARS))
        edited[rows.campaign[by_person], rows.knob[by_person]] = True
        assert np.array_equal(self.state.anchor, np.where(edited, self.state.scalar, before.anchor))

    def _remember(self, approved: Approved) -> None:
        rows = approved.rows
        self.history.record(self.tick, rows)
        if len(rows):
            self.delivered.append(approved)
        keys = rows.campaign.astype(np.int64) * len(Knob) + rows.knob
        for key in np.unique(keys):
            mine = rows.take(keys == key)
            assert int(mine.action[0]) not in self.done
            self.done[int(mine.action[0])] = mine

    def _note_forged(self, rows: Actions) -> None:
        forged = rows.source == Source.ROLLBACK
        self.forged.update(zip(rows.campaign[forged].tolist(), rows.knob[forged].tolist(), strict=True))

    def _write(self, kind: RecordKind, body: bytes) -> None:
        previous = self.records[-1].digest if self.records else GENESIS
        self.records.append(seal(previous, len(self.records), kind, self.tick, body))
        self.fold.update(self.records[-1])

    def _values(self, rows: Actions) -> list[int]:
        """Values in force of the knobs that the rows name."""
        campaign, knob = int(rows.campaign[0]), Knob(rows.knob[0])
        if knob in SCALARS:
            return [int(self.state.scalar[campaign, knob])]
        if knob == Knob.PAUSED:
            return [int(self.state.paused[campaign])]
        if knob == Knob.MODIFIERS:
            return self.state.modifiers[self.campaigns.layout.audience_start[campaign] + rows.index].tolist()
        start = self.campaigns.creative_start[campaign]
        return [int(self.state.weights[start + index]) for index in rows.index]

    # --- wishes ---

    def _wish(self, data: st.DataObject) -> Proposals:
        shapes = [self._scalar, self._scalar, self._vector, self._modifiers, self._switch, self._nonsense]
        return data.draw(st.sampled_from(shapes))(data)

    def _modifiers(self, data: st.DataObject) -> Proposals:
        """Of some audiences; the same may come twice, or one that does not exist."""
        campaign = data.draw(st.integers(0, self.size - 1))
        audiences = self.campaigns.layout.audience_start
        count = int(audiences[campaign + 1] - audiences[campaign])
        index = data.draw(st.lists(st.integers(0, count - 1) | st.integers(0, count), min_size=1, max_size=3))
        wanted = []
        for place in index:
            old = int(self.state.modifiers[audiences[campaign] + min(place, count - 1)]) or PPM
            near = st.sampled_from(FACTORS).map(lambda factor, old=old: int(old * factor))
            by_one = st.sampled_from([old - old // 4 - 1, old - old // 4, old + old // 4, old + old // 4 + 1])
            wanted.append(data.draw(near | by_one | st.sampled_from(JUNK), label="wanted"))
        version = int(self.state.version[campaign, Knob.MODIFIERS]) + data.draw(versions)
        rows = np.full(len(index), campaign)
        return proposals(rows, Knob.MODIFIERS, wanted, version, data.draw(sources), "modifiers", index=index)

    def _scalar(self, data: st.DataObject) -> Proposals:
        campaign, knob = data.draw(st.integers(0, self.size - 1)), data.draw(st.sampled_from(SCALARS))
        old = int(self.state.scalar[campaign, knob])
        near = st.sampled_from(FACTORS).map(lambda factor: int(old * factor))
        by_one = st.sampled_from([old - old // 4 - 1, old - old // 4, old + old // 4, old + old // 4 + 1])
        wanted = data.draw(near | by_one | st.sampled_from(JUNK), label="wanted")
        version = int(self.state.version[campaign, knob]) + data.draw(versions)
        return proposals([campaign], knob, [wanted], version, data.draw(sources), "scalar")

    def _vector(self, data: st.DataObject) -> Proposals:
        campaign = data.draw(st.integers(0, self.size - 1))
        cells = places_of(self.campaigns.creative_start, np.array([campaign]))
        change = data.draw(st.lists(st.integers(-300_000, 300_000), min_size=cells.size, max_size=cells.size))
        wanted = self.state.weights[cells] + np.array(change)
        if data.draw(st.booleans(), label="at the limit"):
            wanted = (
                self.state.weights[cells] - np.array([data.draw(st.integers(249_999, 250_001)), 0, 0])[: cells.size]
            )
        wanted[-1] += (1_000_000 - wanted.sum()) * data.draw(st.sampled_from([1, 1, 1, 0]))
        version = int(self.state.version[campaign, Knob.WEIGHTS]) + data.draw(versions)
        rows = np.full(cells.size, campaign)
        index = np.arange(cells.size)
        whole = proposals(rows, Knob.WEIGHTS, wanted, version, data.draw(sources), "vector", index=index)
        if cells.size == 1 or data.draw(st.integers(0, 3), label="a creative is missing") > 0:
            return whole
        wanted[0] += wanted[-1]
        return replace(whole, wanted=wanted, flaw=np.zeros(cells.size, dtype=np.uint8)).take(index[:-1])

    def _now(self, campaign: int, knob: Knob, wanted: int, source: Source) -> Proposals:
        """One row on the version in force."""
        return proposals([campaign], knob, [wanted], self.state.version[campaign, knob], source, "now")

    def _switch(self, data: st.DataObject) -> Proposals:
        campaign = data.draw(st.integers(0, self.size - 1))
        version = int(self.state.version[campaign, Knob.PAUSED]) + data.draw(versions)
        wanted = data.draw(st.sampled_from([0, 1, 1, 2, "on"]))
        return proposals([campaign], Knob.PAUSED, [wanted], version, data.draw(sources), "switch")

    def _nonsense(self, data: st.DataObject) -> Proposals:
        campaign = data.draw(st.sampled_from([-1, 0, self.size, 2**31, 2**40]), label="campaign")
        knob = data.draw(st.sampled_from([*Knob, 5, 255, 256, -1]), label="knob")
        index = data.draw(st.sampled_from([0, 1, 3, -1, 2**32]), label="index")
        wanted = data.draw(st.sampled_from([*JUNK, 1, 250_000, 900_000, 1_000_000]), label="wanted")
        return proposals([campaign], knob, [wanted], 0, data.draw(sources), "nonsense", index=index)


class ControlsOfThree(Controls):
    """Three campaigns, the second of them outside any mandate."""

    size = 3


@pytest.mark.slow
@pytest.mark.parametrize("machine", [Controls, ControlsOfThree])
def test_the_laws_hold_whatever_is_asked(machine: type[Controls]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(derandomize=True, max_examples=40, stateful_step_count=25, deadline=None)
    )
