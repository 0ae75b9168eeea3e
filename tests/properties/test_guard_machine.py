"""Everybody at once: policies, a rule, a script and people of every role, while processes are lost and days pass.

One stateful machine over the optimiser's and the campaigns' production machines and the ledger; the invariants are
checked at every boundary, and what is drawn is often what the guard has to refuse.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from agents.scripted import Scripted, Wish
from engine.actions import Knob, Source
from engine.alerts import AlertKind, Fingerprint
from engine.campaigns import SCALARS
from engine.guard import FOREVER, Limits
from engine.messages import ACCOUNT, Command, CommandKind, Reloaded, Role
from engine.optimiser import Assignment
from engine.units import TickGrid
from tests.engine.builders import BID, BUDGET, campaign_set, controls
from tests.properties.account import Account, Rules, canonical
from tests.properties.invariants import check_all, undone_by_watches, whole_ledger

pytestmark = pytest.mark.slow

CAMPAIGNS = campaign_set((1, 2, 3))
DAY = 24
GRID = TickGrid(datetime(2026, 3, 2), 60, 400 * DAY)
PEOPLE = {"ann": frozenset(Role), "ben": frozenset({Role.APPROVER}), "kim": frozenset({Role.OPERATOR})}
SOURCES = (Source.RULE, Source.SCRIPT, Source.POLICY)
JUNK = [float("nan"), float("inf"), "25", None, True, -1, 0, 0.5, 10**15, 10**30]
FACTORS = [0.0, 0.74, 0.75, 0.8, 0.9, 1.0, 1.1, 1.2, 1.25, 1.26, 3.0]

hours = st.sampled_from([1, 1, 1, 1, 2, 6, 23, 24, 25, 80])
places = st.integers(0, len(CAMPAIGNS) - 1)


class Everybody(RuleBasedStateMachine):
    """An account, the machine that decides for it, and everyone who wants something of it."""

    steps = 0
    boundaries = 0
    taken_back = 0

    @initialize(data=st.data())
    def open(self, data: st.DataObject) -> None:
        automatic = data.draw(st.sampled_from([True, True, False]), label="the limits file was read")
        limits = replace(self._limits(data), automatic=automatic)
        self.rules = Rules(CAMPAIGNS, controls(CAMPAIGNS), limits, GRID, PEOPLE, approval_ticks=DAY, alive=True)
        self.wishes: dict[Source, dict[int, tuple[Wish, ...]]] = {source: {} for source in SOURCES}
        self.assignments = tuple(
            Assignment(Scripted(self.wishes[source]), np.arange(len(CAMPAIGNS)), source, source.name.lower())
            for source in SOURCES
        )
        self.account = Account.open(self.rules, self.assignments)
        self.machine = self.account.machine(self.assignments)
        self.commands: list[Command] = []
        self.last: tuple[Account, tuple[Command, ...], Reloaded | None] | None = None

    # --- what is asked ---

    @rule(data=st.data(), ticks=hours)
    def wish(self, data: st.DataObject, ticks: int) -> None:
        """A round of the policies', the rule's and the script's wishes."""
        self._wish(data, ticks)
        self._hold((), ticks)

    @rule(data=st.data(), ticks=hours)
    def command(self, data: st.DataObject, ticks: int) -> None:
        """People command, one or several at a boundary, with or without others' wishes."""
        if data.draw(st.booleans(), label="others too"):
            self._wish(data, ticks)
        count = data.draw(st.sampled_from([1, 1, 2, 3]), label="commands")
        self._hold(tuple(self._command(data, place) for place in range(count)), ticks)

    @precondition(lambda self: self.account.optimiser.desk.pending)
    @rule(data=st.data(), ticks=st.sampled_from([1, 1, 1, 1, 24, 25]))
    def answer(self, data: st.DataObject, ticks: int) -> None:
        """Somebody approves or denies what waits, perhaps both."""
        campaign, knob = data.draw(st.sampled_from(sorted(self.account.optimiser.desk.pending)), label="pending")
        several = [
            ("approve",),
            ("approve",),
            ("approve", "approve"),
            ("deny",),
            ("approve", "deny"),
            ("edit", "approve"),
        ]
        kinds = data.draw(st.sampled_from(several))
        by = data.draw(st.sampled_from(["ben", "ben", "ben", "ann", "kim"]))
        if data.draw(st.booleans(), label="others too"):
            self._wish(data, ticks)
        self._hold(
            tuple(
                self._named(
                    place, CommandKind(kind), by=by, campaign=campaign, knob=knob, values=self._values(data, knob)
                )
                for place, kind in enumerate(kinds)
            ),
            ticks,
        )

    @precondition(lambda self: any(len(rows) for _, rows in self.account.applied))
    @rule(data=st.data(), ticks=hours)
    def roll_back(self, data: st.DataObject, ticks: int) -> None:
        """Something that was applied is to be taken back, the newest on its knob or another, perhaps in a race."""
        done = [rows for _, rows in self.account.applied if len(rows)][-6:]
        rows = data.draw(st.sampled_from(done), label="round")
        place = data.draw(st.integers(0, len(rows) - 1), label="row")
        about = {"campaign": int(rows.campaign[place]), "knob": Knob(rows.knob[place])}
        action = data.draw(st.sampled_from([None, None, int(rows.action[place])]), label="action")
        if data.draw(st.booleans(), label="others too"):
            self._wish(data, ticks)
        commands = [self._named(0, CommandKind.ROLLBACK, by="kim", action=action, **about)]
        kind = data.draw(st.sampled_from([None, None, None, *CommandKind]), label="beside it")
        if kind is not None:
            commands.append(self._named(1, kind, by="ann", values=self._values(data, about["knob"]), **about))
        self._hold(tuple(commands), ticks)

    @rule(data=st.data(), knob=st.sampled_from(SCALARS), up=st.booleans())
    def push(self, data: st.DataObject, knob: Knob, up: bool) -> None:  # noqa: FBT001 - Hypothesis draws it
        """Everyone at once, on every campaign, as far as a step goes."""
        change = Fraction(1, 4) if up else Fraction(-1, 4)
        for source in SOURCES:
            knobs = [knob, *data.draw(st.sampled_from([[], [Knob.BUDGET if knob is Knob.BID else Knob.BID]]))]
            self.wishes[source][self.account.tick + 1] = tuple(
                Wish(campaign, each, "ann", "push", change=change) for each in knobs for campaign in range(3)
            )
        self._hold((), 1)

    # --- what happens to it ---

    @precondition(lambda self: self.commands)
    @rule(data=st.data())
    def arrive_again(self, data: st.DataObject) -> None:
        """Commands that were served arrive again: they are as good as none."""
        again = tuple(data.draw(st.lists(st.sampled_from(self.commands), min_size=1, max_size=3)))
        controls_before, pending = self.account.controls, set(self.account.optimiser.desk.pending)
        self._hold(again, 1)
        assert self.account.controls.equals(controls_before)
        assert set(self.account.optimiser.desk.pending) <= pending

    @precondition(lambda self: self.last)
    @rule()
    def lose(self) -> None:
        """The last boundary once more, as it goes when somebody is lost in it."""
        assert self.last is not None
        before, commands, reloaded = self.last
        before.lost(self.account, self.assignments, commands, reloaded)
        self._count()

    @rule(data=st.data(), ticks=hours, good=st.sampled_from([True, False]))
    def reload(self, data: st.DataObject, ticks: int, good: bool) -> None:  # noqa: FBT001 - Hypothesis draws it
        """The limits file changed: other mandates hold, and what waits was judged under older ones; or it is bad."""
        reloaded = Reloaded("read", self._limits(data)) if good else Reloaded(None, None, "missing")
        self._wish(data, ticks)
        commands = (self._command(data, 0),) if data.draw(st.booleans(), label="and a command") else ()
        version = self.account.limits.version
        self._hold(commands, ticks, reloaded)
        assert self.account.limits.version == version + good
        assert self.account.limits.automatic or not good
        assert (Fingerprint(AlertKind.LIMITS_UNREADABLE) in self.account.optimiser.alerts.since) == (not good)

    @rule()
    def restart(self) -> None:
        """Another machine goes on, from a checkpoint's bytes and from the ledger."""
        state = pickle.loads(pickle.dumps(self.account.optimiser))  # noqa: S301 - our own
        assert canonical(state) == canonical(self.machine.state)
        self.machine = self.rules.machine(self.assignments, self.account.records, state)
        self._count()

    def teardown(self) -> None:
        """The chain holds, and every prefix tells a legal state."""
        if hasattr(self, "account"):
            whole_ledger(self.account)

    # --- how a boundary goes ---

    def _hold(self, commands: tuple[Command, ...], ticks: int, reloaded: Reloaded | None = None) -> None:
        before = self.account
        self.account = before.hold(self.machine, commands, ticks, reloaded)
        self.last = before, commands, reloaded
        self.commands += commands
        check_all(before, self.account)
        type(self).boundaries += 1
        type(self).taken_back += len(undone_by_watches(self.account))
        self._count()

    def _count(self) -> None:
        type(self).steps += 1

    # --- limits, wishes and commands ---

    def _limits(self, data: st.DataObject) -> Limits:
        """Bounds that are always the same, and mandates of all kinds."""
        limits = replace(Limits.of(CAMPAIGNS, account_budget=BUDGET * 7 // 2), day=DAY)
        for knob in Knob:
            members = data.draw(
                st.sampled_from([(), (0,), (0, 2), (0, 1, 2)]), label=f"who may move {knob.name.lower()}"
            )
            until = data.draw(st.sampled_from([FOREVER, FOREVER, DAY, 90]))
            band = data.draw(st.sampled_from([(Fraction(1, 3), Fraction(3)), (Fraction(9, 10), Fraction(12, 10))]))
            cap = data.draw(st.sampled_from([None, 300_000]))
            limits = limits.with_mandate(np.array(members, dtype=np.int64), (knob,), band, until, cap)
        return limits

    def _wish(self, data: st.DataObject, ticks: int) -> None:
        for source in SOURCES:
            shapes = data.draw(st.lists(st.sampled_from([self._scalar, self._scalar, self._vector]), max_size=2))
            self.wishes[source][self.account.tick + ticks] = tuple(shape(data) for shape in shapes)

    def _scalar(self, data: st.DataObject) -> Wish:
        campaign, knob = data.draw(places), data.draw(st.sampled_from([*SCALARS, *SCALARS, Knob.PAUSED]))
        by = data.draw(st.sampled_from(["ann", "ben"]))
        if knob is Knob.PAUSED:
            return Wish(campaign, knob, by, "switch", (data.draw(st.sampled_from([0, 1, 2])),))
        return Wish(campaign, knob, by, "scalar", (self._value(data, campaign, knob),))

    def _value(self, data: st.DataObject, campaign: int, knob: Knob) -> Any:
        old = int(self.account.controls.scalar[campaign, knob])
        near = st.sampled_from(FACTORS).map(lambda factor: int(old * factor))
        return data.draw(near | near | near | st.sampled_from(JUNK), label="wanted")

    def _vector(self, data: st.DataObject) -> Wish:
        campaign = data.draw(places)
        return Wish(campaign, Knob.WEIGHTS, "ann", "vector", self._shares(data, campaign))

    def _shares(self, data: st.DataObject, campaign: int) -> tuple[int, ...]:
        fitting = (
            [(1_000_000,)],
            [(600_000, 400_000), (500_000, 500_000), (400_000, 600_000), (0, 1_000_000)],
            [(333_334, 333_333, 333_333), (400_000, 300_000, 300_000), (250_000, 250_000, 500_000), (0, 0, 1_000_000)],
        )
        return data.draw(st.sampled_from([*fitting[campaign], (1, 2)]), label="shares")

    def _values(self, data: st.DataObject, knob: Knob) -> tuple[int, ...]:
        """What a person sets a scalar or a switch to."""
        if knob is Knob.PAUSED:
            return (data.draw(st.sampled_from([0, 1])),)
        usual = BID if knob is Knob.BID else BUDGET
        factor = st.sampled_from(
            [Fraction(1, 2), Fraction(4, 5), Fraction(1), Fraction(6, 5), Fraction(2), Fraction(0)]
        )
        return (int(usual * data.draw(factor, label="edit")),)

    def _named(self, place: int, kind: CommandKind, **about: Any) -> Command:
        return Command(f"{self.account.tick}-{len(self.commands)}-{place}", kind, **about)

    def _command(self, data: st.DataObject, place: int) -> Command:
        often = [CommandKind.EDIT] * 4 + [CommandKind.UNFREEZE] * 2 + [CommandKind.ROLLBACK]
        kind = data.draw(st.sampled_from([*CommandKind, *often]), label="kind")
        campaign, knob = data.draw(places), data.draw(st.sampled_from([*SCALARS, *Knob]))
        by = data.draw(st.sampled_from(["ann"] * 6 + ["ben", "kim", "nobody"]))
        more: dict[str, Any] = {}
        if kind is CommandKind.EDIT:
            weights = knob is Knob.WEIGHTS
            more["values"] = self._shares(data, campaign) if weights else self._values(data, knob)
        if kind in {CommandKind.FREEZE, CommandKind.UNFREEZE}:
            campaign = data.draw(st.sampled_from([ACCOUNT, 0]))  # few, so that freezes are lifted too
            knob, more["whole"] = data.draw(st.sampled_from(SCALARS)), data.draw(st.booleans(), label="whole")
        return self._named(place, kind, by=by, campaign=campaign, knob=knob, **more)


def test_the_invariants_hold_whatever_everybody_wants(capsys: pytest.CaptureFixture[str]) -> None:
    nightly = settings.get_current_profile_name() == "nightly"
    machine = type("Everybody", (Everybody,), {"steps": 0, "boundaries": 0, "taken_back": 0})
    run_state_machine_as_test(
        machine,
        settings=settings(
            derandomize=not nightly, max_examples=500 if nightly else 40, stateful_step_count=50, deadline=None
        ),
    )
    with capsys.disabled():
        told = f"{machine.steps} steps, {machine.boundaries} boundaries, {machine.taken_back} rollbacks by watches"
        print(f"\neverybody: {told}")  # noqa: T201
    assert machine.steps >= (20_000 if nightly else 1_000)
    assert machine.taken_back > 0
