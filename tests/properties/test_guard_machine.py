"""Everybody at once: policies, a rule, a script and people of every role, while processes are lost and days pass.

One stateful machine over the optimiser's and the campaigns' production machines and the ledger; the invariants are
checked at every boundary, and what is drawn is often what the guard has to refuse. Campaigns live in a world in which
rises of bids do harm, tracking breaks and spend runs away, so that watches take changes back.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from agents.scripted import Scripted, Wish
from engine.actions import Knob, Source
from engine.alerts import AlertKind, Fingerprint
from engine.campaigns import ACCOUNT, SCALARS, ControlState
from engine.judgement import Reason
from engine.limits import FOREVER, Limits, Window
from engine.messages import Command, CommandKind, Reloaded, Role
from engine.optimiser import Assignment
from engine.units import TickGrid
from engine.watch import Why
from tests.engine.builders import BID, BUDGET, campaign_set, controls
from tests.properties.account import QUIET, Account, Outside, Rules, canonical, target
from tests.properties.invariants import (
    automatic,
    breaker,
    by_knob,
    check_all,
    in_force,
    in_mandate,
    passed_by_themselves,
    whole_ledger,
)
from tests.properties.world import Trouble, World

pytestmark = pytest.mark.slow

AUDIENCES = ("families", "young")
CAMPAIGNS = replace(  # the markets of the second and the last tell audiences apart
    campaign_set((1, 2, 3, 1, 1)),
    markets=("market", "told"),
    market=np.array([0, 1, 0, 0, 1]),
    audiences=((), AUDIENCES),
)
TOLD = (1, 4)
DAY = 24
GRID = TickGrid(datetime(2026, 3, 2), 60, 400 * DAY)
PEOPLE = {"ann": frozenset(Role), "ben": frozenset({Role.APPROVER}), "kim": frozenset({Role.OPERATOR})}
SOURCES = (Source.RULE, Source.SCRIPT, Source.POLICY)
JUNK = [float("nan"), float("inf"), "25", None, True, -1, 0, 0.5, 10**15, 10**30]
FACTORS = [0.0, 0.74, 0.75, 0.8, 0.9, 0.98, 1.0, 1.02, 1.1, 1.2, 1.25, 1.26, 3.0]
WINDOWS = (Window(Knob.BID, 6, 100_000), Window(Knob.BUDGET, DAY, 150_000))
SHARES = (
    [(1_000_000,)],
    [
        (600_000, 400_000),
        (500_000, 500_000),
        (480_000, 520_000),
        (400_000, 600_000),
        (200_000, 800_000),
        (0, 1_000_000),
    ],
    [(333_334, 333_333, 333_333), (400_000, 300_000, 300_000), (250_000, 250_000, 500_000), (0, 0, 1_000_000)],
)
HIGH = (
    Reason.LEARNING_PHASE,
    Reason.AFTER_ROLLBACK,
    Reason.EXTRAPOLATION,
    Reason.AUDIENCE_SET,
    Reason.MANY_CAMPAIGNS,
    Reason.LARGE_CAMPAIGN,
    Reason.LARGE_SPEND_CHANGE,
)
REFUSED = (Reason.QUARANTINED, Reason.WINDOW, Reason.BREAKER, Reason.COOLDOWN, Reason.PERSONS_HOLD)
OFTEN = (
    "low impact",
    "tried in the twin",
    "watch rolled back",
    "episode rolled back",
    "limits reloaded",
    "lease lost",
    "breaker opened",
    "modifiers by low impact",
    "modifiers in a mandate",
    "audience targeted",
    *(reason.name.lower() for reason in REFUSED),
)
"""What even a short search has to meet."""
EVERYTHING = (
    *OFTEN,
    "breaker closed",
    "alert of a blocked rollback",
    "modifiers rolled back",
    *(why for why in Why if why is not Why.WINDOW),
    *(reason.name.lower() for reason in HIGH),
)
SEARCHES = 4  # at most, until everything was met: a single one misses something in a quarter of the cases
BLOCK = 2  # ticks of a watch's block

hours = st.sampled_from([1, 1, 1, 1, 2, 6, 23, 24, 25, 80])
told_apart = st.sampled_from(TOLD)
places = st.integers(0, len(CAMPAIGNS) - 1)


def limits(delay_horizon: int | None) -> Limits:
    """Limits without any mandate."""
    return replace(
        Limits.of(CAMPAIGNS, account_budget=BUDGET * 11 // 2), day=DAY, delay_horizon=delay_horizon, windows=()
    )


def parties(wishes: dict[Source, dict[int, tuple[Wish, ...]]]) -> tuple[Assignment, ...]:
    """A policy, a rule and a script that are responsible for everything."""
    return tuple(
        Assignment(Scripted(wishes[source]), np.arange(len(CAMPAIGNS)), source, source.name.lower())
        for source in SOURCES
    )


def beginnings() -> ControlState:
    """The third campaign has a creative that was never shown, the last an audience that is no target."""
    state = controls(CAMPAIGNS)
    weights, modifiers = state.weights.copy(), state.modifiers.copy()
    weights[_creatives(2)] = [500_000, 500_000, 0]
    modifiers[_audiences(4)] = [1_000_000, 0]
    return replace(state, weights=weights, modifiers=modifiers, modifier_anchor=modifiers)


def _creatives(campaign: int) -> slice:
    return slice(*CAMPAIGNS.creative_start[campaign : campaign + 2].tolist())


def _audiences(campaign: int) -> slice:
    return slice(*CAMPAIGNS.layout.audience_start[campaign : campaign + 2].tolist())


@cache
def grown(delay_horizon: int | None) -> Account:
    """An account in which nobody wanted anything for four days: no campaign is learning any more."""
    rules = Rules(CAMPAIGNS, beginnings(), limits(delay_horizon), GRID, PEOPLE, approval_ticks=DAY)
    nobody = parties({source: {} for source in SOURCES})
    account = Account.open(rules, nobody)
    for _ in range(4 * DAY // BLOCK):
        account = account.hold(account.machine(nobody), (), BLOCK)
    return account


def of_age(rules: Rules) -> Account:
    """The grown account, from now on under other rules."""
    account = grown(rules.limits.delay_horizon)
    return replace(account, rules=rules, optimiser=replace(account.optimiser, limits=rules.limits))


class Everybody(RuleBasedStateMachine):
    """An account, the machine that decides for it, and everyone who wants something of it."""

    steps = 0
    boundaries = 0
    met: ClassVar[Counter[str]] = Counter()

    @initialize(data=st.data())
    def open(self, data: st.DataObject) -> None:
        delay_horizon = data.draw(st.sampled_from([BLOCK, None]), label="delay horizon")
        self.delay_horizon = delay_horizon
        read = data.draw(st.sampled_from([True, True, True, False]), label="the limits file was read")
        allowed = replace(self._limits(data), automatic=read)
        twin = data.draw(st.sampled_from([None, World(CAMPAIGNS, DAY)]), label="twin")
        self.rules = Rules(CAMPAIGNS, beginnings(), allowed, GRID, PEOPLE, approval_ticks=DAY, trial=twin)
        self.wishes: dict[Source, dict[int, tuple[Wish, ...]]] = {source: {} for source in SOURCES}
        self.assignments = parties(self.wishes)
        old = data.draw(st.sampled_from([True, True, True, False]), label="four days old")
        self.account = of_age(self.rules) if old else Account.open(self.rules, self.assignments)
        self.machine = self.account.machine(self.assignments)
        self.commands: list[Command] = []
        self.last: tuple[Account, tuple[Command, ...], Outside] | None = None

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
                    place, CommandKind(kind), by=by, campaign=campaign, knob=knob, **self._edit(data, campaign, knob)
                )
                for place, kind in enumerate(kinds)
            ),
            ticks,
        )

    @precondition(lambda self: any(len(rows) for _, rows in self.account.past.applied))
    @rule(data=st.data(), ticks=hours)
    def roll_back(self, data: st.DataObject, ticks: int) -> None:
        """Something that was applied is to be taken back, the newest on its knob or another, perhaps in a race."""
        done = [rows for _, rows in self.account.past.applied if len(rows)][-6:]
        rows = data.draw(st.sampled_from(done), label="round")
        place = data.draw(st.integers(0, len(rows) - 1), label="row")
        about = {"campaign": int(rows.campaign[place]), "knob": Knob(rows.knob[place])}
        action = data.draw(st.sampled_from([None, None, int(rows.action[place])]), label="action")
        if data.draw(st.booleans(), label="others too"):
            self._wish(data, ticks)
        commands = [self._named(0, CommandKind.ROLLBACK, by="kim", action=action, **about)]
        kind = data.draw(st.sampled_from([None, None, None, *CommandKind]), label="beside it")
        if kind is not None:
            commands.append(self._named(1, kind, by="ann", **self._edit(data, **about), **about))
        self._hold(tuple(commands), ticks)

    @rule(data=st.data(), knob=st.sampled_from(SCALARS), up=st.booleans())
    def push(self, data: st.DataObject, knob: Knob, up: bool) -> None:  # noqa: FBT001 - Hypothesis draws it
        """Everyone at once, on every campaign, as far as a step goes."""
        change = Fraction(1, 4) if up else Fraction(-1, 4)
        for source in SOURCES:
            knobs = [knob, *data.draw(st.sampled_from([[], [Knob.BUDGET if knob is Knob.BID else Knob.BID]]))]
            self.wishes[source][self.account.tick + 1] = tuple(
                Wish(campaign, each, "ann", "push", change=change)
                for each in knobs
                for campaign in range(len(CAMPAIGNS))
            )
        self._hold((), 1)

    @rule(data=st.data(), source=st.sampled_from(SOURCES))
    def nudge(self, data: st.DataObject, source: Source) -> None:
        """Small wishes, of which little follows, for as many campaigns as may change at once, or one more."""
        several = data.draw(st.sampled_from([1, 2, 4]), label="campaigns")
        campaigns = data.draw(st.permutations(range(len(CAMPAIGNS))))[:several]
        self.wishes[source][self.account.tick + 1] = tuple(
            data.draw(st.sampled_from([self._shifted, self._nudged, self._tuned]))(data, campaign)
            for campaign in campaigns
        )
        self._hold((), 1)

    def _nudged(self, data: st.DataObject, campaign: int) -> Wish:
        changes = [(Knob.BID, 2), (Knob.BID, -2), (Knob.BUDGET, 12), (Knob.BUDGET, -12), (Knob.BUDGET, 25)]
        knob, percent = data.draw(st.sampled_from(changes), label="percent")
        return Wish(campaign, knob, "ann", "nudge", change=Fraction(percent, 100))

    def _tuned(self, data: st.DataObject, campaign: int) -> Wish:
        """A modifier by a little; of a campaign without audiences its bid."""
        if campaign not in TOLD:
            return self._nudged(data, campaign)
        index = data.draw(st.sampled_from([(0,), (1,), (0, 1)]), label="audiences")
        percent = data.draw(st.sampled_from([98, 101, 102]), label="percent")
        old = self.account.controls.modifiers[_audiences(campaign)]
        values = tuple(int(old[place]) * percent // 100 for place in index)
        return Wish(campaign, Knob.MODIFIERS, "ann", "tune", values, audiences=index)

    def _shifted(self, data: st.DataObject, campaign: int) -> Wish:  # noqa: ARG002 - as the other
        """A little of the mass goes to the creative that has least."""
        weights = self.account.controls.weights[_creatives(campaign)].copy()
        source, target = int(weights.argmax()), int(weights.argmin())
        weights[source] -= 30_000
        weights[target] += 30_000
        return Wish(campaign, Knob.WEIGHTS, "ann", "shift", tuple(weights.tolist()))

    @precondition(lambda self: self.account.past.taken_back)
    @rule(data=st.data(), source=st.sampled_from(SOURCES), ticks=st.sampled_from([1, 25, 8 * DAY]))
    def insist(self, data: st.DataObject, source: Source, ticks: int) -> None:
        """What was taken back is proposed again, or of a vector a part of it."""
        _, undone = data.draw(st.sampled_from(self.account.past.taken_back[-4:]), label="taken back")
        values = tuple(undone.new.tolist())
        if len(values) == 3 and data.draw(st.booleans(), label="in part"):
            values = (values[0], values[1] + 10_000, values[2] - 10_000)
        wish = Wish(
            int(undone.campaign[0]),
            Knob(undone.knob[0]),
            "ann",
            "again",
            values,
            audiences=tuple(undone.index.tolist()),
        )
        self.wishes[source][self.account.tick + ticks] = (wish,)
        self._hold((), ticks)

    @rule(data=st.data(), campaign=places, knob=st.sampled_from(SCALARS), ticks=st.sampled_from([1, 23, 24]))
    def overrule(self, data: st.DataObject, campaign: int, knob: Knob, ticks: int) -> None:
        """A person sets a value, and within a day, or just after it, the others want another one."""
        values = (int(self.account.controls.scalar[campaign, knob]) * 9 // 10,)
        self._hold((self._named(0, CommandKind.EDIT, by="kim", campaign=campaign, knob=knob, values=values),), 1)
        change = Fraction(data.draw(st.sampled_from([-2, 2])), 100)
        for source in SOURCES:
            self.wishes[source][self.account.tick + ticks] = (Wish(campaign, knob, "ann", "again", change=change),)
        self._hold((), ticks)

    @rule(data=st.data(), campaign=told_apart, source=st.sampled_from(SOURCES))
    def target_or_drop(self, data: st.DataObject, campaign: int, source: Source) -> None:
        """An audience is dropped by a person, or wanted as a target by others, whom somebody may say yes to."""
        modifiers = self.account.controls.modifiers[_audiences(campaign)]
        if modifiers[1]:
            values, index = data.draw(st.sampled_from([((0,), (1,)), ((1_000_000, 0), (0, 1))]), label="dropped")
            about = {"campaign": campaign, "knob": Knob.MODIFIERS, "values": values, "audiences": index}
            self._hold((self._named(0, CommandKind.EDIT, by="kim", **about),), 1)
        values = (data.draw(st.sampled_from([500_000, 1_000_000, 1_000_001]), label="target"),)
        wish = Wish(campaign, Knob.MODIFIERS, "ann", "target", values, audiences=(1,))
        self.wishes[source][self.account.tick + 25] = (wish,)
        self._hold((), 25)
        self._hold((self._named(0, CommandKind.APPROVE, by="ben", campaign=campaign, knob=Knob.MODIFIERS),), 1)

    @precondition(lambda self: breaker(self.account))
    @rule(data=st.data(), by=st.sampled_from(["ann", "kim", "kim", "ben"]))
    def close_breaker(self, data: st.DataObject, by: str) -> None:
        """Somebody closes the breaker, while others wish."""
        self._wish(data, 1)
        self._hold((self._named(0, CommandKind.CLOSE_BREAKER, by=by, campaign=ACCOUNT, knob=Knob.BID),), 1)

    @rule(data=st.data())
    def take_back_all(self, data: st.DataObject) -> None:
        """The newest changes of several campaigns are to be taken back at once."""
        newest = {key: None for _, rows in self.account.past.applied[-8:] for key, _ in by_knob(rows)}
        keys = (
            data.draw(st.lists(st.sampled_from(sorted(newest)), unique=True, max_size=4), label="which")
            if newest
            else []
        )
        self._hold(
            tuple(
                self._named(place, CommandKind.ROLLBACK, by="kim", campaign=campaign, knob=knob)
                for place, (campaign, knob) in enumerate(keys)
            ),
            1,
        )

    @precondition(lambda self: self._cut() is not None)
    @rule()
    def fill_the_account(self) -> None:
        """A budget that was cut is to come back while a person gives another campaign all that is left."""
        cut = self._cut()
        assert cut is not None
        room = self.account.limits.account_budget - int(self.account.controls.budget.sum())
        other = (cut + 1) % len(CAMPAIGNS)
        filled = int(self.account.controls.budget[other]) + room
        self._hold(
            (
                self._named(0, CommandKind.EDIT, by="kim", campaign=other, knob=Knob.BUDGET, values=(filled,)),
                self._named(1, CommandKind.ROLLBACK, by="kim", campaign=cut, knob=Knob.BUDGET),
            ),
            1,
        )

    def _cut(self) -> int | None:
        """The campaign whose budget was cut last, not long ago."""
        for _, rows in self.account.past.applied[-4:]:
            for (campaign, knob), mine in by_knob(rows):
                if knob is Knob.BUDGET and mine.new[0] < mine.old[0] and mine.source[0] != Source.ROLLBACK:
                    return campaign
        return None

    # --- what happens to it ---

    @precondition(lambda self: self.account.past.watched or self.account.past.episodes)
    @rule(data=st.data(), boundaries=st.sampled_from([3, 14, 14]))
    def days_pass(self, data: st.DataObject, boundaries: int) -> None:
        """Nobody wants anything while changes are watched; something may befall their campaigns, or be mended."""
        past = self.account.past
        watched = sorted({campaign for campaign, _ in (*past.watched.values(), *past.episodes.values())})
        whom = watched if data.draw(st.booleans(), label="all of them") else [data.draw(st.sampled_from(watched))]
        self._befall(data.draw(st.sampled_from([None, *Trouble]), label="befalls"), whom)
        self._wait(boundaries)

    @rule(data=st.data(), campaign=places, befalls=st.sampled_from([None, None, Trouble.TRACKING]))
    def do_harm(self, data: st.DataObject, campaign: int, befalls: Trouble | None) -> None:
        """A rise that costs profit waits for a person, is approved, and is watched until it is told what it did."""
        rise = Wish(campaign, Knob.BID, "ann", "harm", change=Fraction(data.draw(st.sampled_from([12, 25])), 100))
        self.wishes[Source.RULE][self.account.tick + 1] = (rise,)
        self._hold((), 1)
        self._befall(befalls, [campaign])
        self._hold((self._named(0, CommandKind.APPROVE, by="ben", campaign=campaign, knob=Knob.BID),), 1)
        self._hold((), 1)
        self._wait(16 if self.rules.limits.delay_horizon == BLOCK else 26)

    def _befall(self, trouble: Trouble | None, campaigns: list[int]) -> None:
        """What was before is mended."""
        troubles = {} if trouble is None else dict.fromkeys(campaigns, trouble)
        self.account = replace(self.account, world=replace(self.account.world, troubles=troubles))

    def _wait(self, boundaries: int) -> None:
        """As long as anything is watched."""
        for _ in range(boundaries):
            if self.account.past.watched or self.account.past.episodes:
                self._hold((), BLOCK)

    @precondition(lambda self: self._mandated())
    @rule(data=st.data(), befalls=st.sampled_from(Trouble), steps=st.integers(1, 3))
    def a_course_goes_wrong(self, data: st.DataObject, befalls: Trouble, steps: int) -> None:
        """The policy moves what its mandate lets it; then something befalls the campaign, and is mended."""
        campaign = data.draw(st.sampled_from(sorted({campaign for campaign, _ in self._mandated()})), label="whose")
        knobs = [knob for whose, knob in self._mandated() if whose == campaign]
        for _ in range(steps):
            change = data.draw(st.sampled_from([Fraction(-1, 10), Fraction(1, 20)]), label="change")
            wish = self._step(campaign, data.draw(st.sampled_from(knobs[::-1]), label="knob"), change)
            self.wishes[Source.POLICY][self.account.tick + 1] = (wish,)
            self._hold((), 1)
        self._befall(befalls, [campaign])
        for _ in range(6):
            self._hold((), BLOCK)
        self._befall(None, [])

    @precondition(lambda self: any(knob is Knob.MODIFIERS for _, knob in self._mandated()))
    @rule(data=st.data(), change=st.sampled_from([Fraction(-1, 10), Fraction(1, 20)]))
    def tune_in_a_mandate(self, data: st.DataObject, change: Fraction) -> None:
        """The policy moves a modifier that its mandate lets it."""
        whose = [campaign for campaign, knob in self._mandated() if knob is Knob.MODIFIERS]
        wish = self._step(data.draw(st.sampled_from(whose), label="whose"), Knob.MODIFIERS, change)
        self.wishes[Source.POLICY][self.account.tick + 1] = (wish,)
        self._hold((), 1)

    def _step(self, campaign: int, knob: Knob, change: Fraction) -> Wish:
        """A scalar by a part of its value, or the modifier of the first audience."""
        if knob is not Knob.MODIFIERS:
            return Wish(campaign, knob, "ann", "course", change=change)
        old = int(self.account.controls.modifiers[_audiences(campaign)][0])
        return Wish(campaign, knob, "ann", "course", (int(old * (1 + change)),), audiences=(0,))

    def _mandated(self) -> list[tuple[int, Knob]]:
        """The scalars and modifiers that may move by themselves at the next boundary."""
        limits = self.account.limits
        mandated = limits.mandate_until > self.account.tick
        places = [(campaign, knob) for campaign in range(len(CAMPAIGNS)) for knob in SCALARS]
        places += [(campaign, Knob.MODIFIERS) for campaign in TOLD]
        return [place for place in places if mandated[place]] if limits.automatic else []

    @precondition(lambda self: self.commands)
    @rule(data=st.data())
    def arrive_again(self, data: st.DataObject) -> None:
        """Commands that were served arrive again: they are as good as none, and only a watch may act."""
        again = tuple(data.draw(st.lists(st.sampled_from(self.commands), min_size=1, max_size=3)))
        without = self.account.hold(self.account.machine(self.assignments), (), 1)
        self._hold(again, 1)
        assert self.account.records[-1].body == without.records[-1].body
        assert self.account.controls.equals(without.controls)

    @precondition(lambda self: self.last)
    @rule()
    def lose(self) -> None:
        """The last boundary once more, as it goes when somebody is lost in it."""
        assert self.last is not None
        before, commands, outside = self.last
        before.lost(self.account, self.assignments, commands, outside)
        self._count()

    @rule(data=st.data(), ticks=hours, good=st.sampled_from([True, True, False]))
    def reload(self, data: st.DataObject, ticks: int, good: bool) -> None:  # noqa: FBT001 - Hypothesis draws it
        """The limits file changed: other mandates hold, and what waits was judged under older ones; or it is bad."""
        reloaded = Reloaded("read", self._limits(data)) if good else Reloaded(None, None, "missing")
        self._wish(data, ticks)
        commands = (self._command(data, 0),) if data.draw(st.booleans(), label="and a command") else ()
        before = self.account.limits
        self._hold(commands, ticks, Outside(reloaded))
        assert self.account.limits.version == before.version + good
        assert self.account.limits.automatic == (good or before.automatic)
        assert (Fingerprint(AlertKind.LIMITS_UNREADABLE) in self.account.optimiser.alerts.since) == (not good)

    @rule(data=st.data(), ticks=hours)
    def unleased(self, data: st.DataObject, ticks: int) -> None:
        """Nobody renewed the optimiser's lease, whatever everybody wants."""
        self._wish(data, ticks)
        waits = sorted(self.account.optimiser.desk.pending)
        commands = (self._command(data, 0),) if data.draw(st.booleans(), label="and a command") else ()
        if waits:
            campaign, knob = waits[0]
            commands += (self._named(1, CommandKind.APPROVE, by="ben", campaign=campaign, knob=knob),)
        self._hold(commands, ticks, Outside(leased=False))

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

    def _hold(self, commands: tuple[Command, ...], ticks: int, outside: Outside = QUIET) -> None:
        before = self.account
        self.account = before.hold(self.machine, commands, ticks, outside)
        self.last = before, commands, outside
        self.commands += commands
        check_all(before, self.account)
        type(self).boundaries += 1
        self._count()
        self._note(before)

    def _note(self, before: Account) -> None:
        """Count what a search has to meet."""
        met, told = type(self).met, self.account.round
        met["low impact"] += sum(1 for _ in by_knob(passed_by_themselves(self.account)))
        met["tried in the twin"] += sum(each["by"] == "trial" for each in told.header["impacts"])
        alone, mandated = passed_by_themselves(self.account), automatic(self.account)
        mandated = mandated.take(in_mandate(self.account, mandated))
        applied = in_force(self.account)
        met["modifiers by low impact"] += int((alone.knob == Knob.MODIFIERS).sum())
        met["modifiers in a mandate"] += int((mandated.knob == Knob.MODIFIERS).sum())
        met["audience targeted"] += int(target(applied).sum())
        met["modifiers rolled back"] += int(
            ((applied.knob == Knob.MODIFIERS) & (applied.source == Source.ROLLBACK)).sum()
        )
        met["breaker opened"] += breaker(self.account) and not breaker(before)
        met["breaker closed"] += breaker(before) and not breaker(self.account)
        for each in told.header["watches"]:
            met["watch kept"] += each["event"] == "kept"
            if each["event"] == "rolled_back" and each["why"]:
                met["episode rolled back" if each["action"] in before.past.episodes else "watch rolled back"] += 1
                met[each["why"]] += 1
        met["alert of a blocked rollback"] += sum(
            (each["alert"], each["event"]) == ("rollback_blocked", "opened") for each in told.header["alerts"]
        )
        met["lease lost"] += not told.header["leased"]
        met["limits reloaded"] += told.header["limits"] is not None
        met["a part frozen"] += bool(self.account.optimiser.desk.parts)
        for reason in (*HIGH, *REFUSED):
            met[reason.name.lower()] += int((told.judged["reason"] == reason).sum())

    def _count(self) -> None:
        type(self).steps += 1

    # --- limits, wishes and commands ---

    def _limits(self, data: st.DataObject) -> Limits:
        """Bounds that are always the same, windows or none, and mandates of all kinds."""
        allowed = replace(
            limits(self.delay_horizon), windows=data.draw(st.sampled_from([(), WINDOWS]), label="windows")
        )
        everyone = tuple(range(len(CAMPAIGNS)))
        for knob in Knob:
            whose = [(), (0,), everyone, everyone] if knob is Knob.MODIFIERS else [(), (), (0,), (0, 2), everyone]
            members = data.draw(st.sampled_from(whose), label=f"who may move {knob.name.lower()}")
            until = data.draw(st.sampled_from([FOREVER, FOREVER, 6 * DAY]))
            band = data.draw(st.sampled_from([(Fraction(1, 3), Fraction(3)), (Fraction(9, 10), Fraction(12, 10))]))
            cap = data.draw(st.sampled_from([None, 300_000]))
            allowed = allowed.with_mandate(np.array(members, dtype=np.int64), (knob,), band, until, cap)
        return allowed

    def _wish(self, data: st.DataObject, ticks: int) -> None:
        for source in SOURCES:
            shapes = data.draw(
                st.lists(st.sampled_from([self._scalar, self._scalar, self._vector, self._modifiers]), max_size=2)
            )
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
        fitting = SHARES[int(np.diff(CAMPAIGNS.creative_start)[campaign]) - 1]
        return data.draw(st.sampled_from([*fitting, (1, 2)]), label="shares")

    def _modifiers(self, data: st.DataObject) -> Wish:
        """Of one audience or of both; sometimes of a campaign that has none, or of an audience named twice."""
        campaign = data.draw(st.sampled_from([*TOLD, *TOLD, 0]), label="campaign")
        index = data.draw(st.sampled_from([(0,), (1,), (0, 1), (0, 1), (1, 1)]), label="audiences")
        old = [*self.account.controls.modifiers[_audiences(campaign)].tolist(), 0]
        near = [st.sampled_from(FACTORS).map(lambda factor, old=old[place]: int(old * factor)) for place in index]
        values = tuple(data.draw(each | st.sampled_from(JUNK[3:]), label="wanted") for each in near)
        return Wish(campaign, Knob.MODIFIERS, "ann", "modifiers", values, audiences=index)

    def _edit(self, data: st.DataObject, campaign: int, knob: Knob) -> dict[str, Any]:
        """What a person sets a knob to."""
        if knob is Knob.WEIGHTS:
            return {"values": self._shares(data, campaign)}
        if knob is not Knob.MODIFIERS:
            return {"values": self._values(data, knob)}
        index = data.draw(st.sampled_from([(0,), (1,), (0, 1)]), label="audiences")
        usual = st.sampled_from([0, 50_000, 500_000, 1_000_000, 1_500_000, 10_000_000, 10_000_001])
        return {"values": tuple(data.draw(usual, label="edit") for _ in index), "audiences": index}

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
            more = self._edit(data, campaign, knob)
        if kind in {CommandKind.FREEZE, CommandKind.UNFREEZE}:
            campaign = data.draw(st.sampled_from([ACCOUNT, 0]))  # few, so that freezes are lifted too
            knob, more["whole"] = data.draw(st.sampled_from(SCALARS)), data.draw(st.booleans(), label="whole")
        return self._named(place, kind, by=by, campaign=campaign, knob=knob, **more)


def test_the_invariants_hold_whatever_everybody_wants(tell: Callable[[str], None]) -> None:
    nightly = settings.get_current_profile_name() == "nightly"
    machine = type("Everybody", (Everybody,), {"steps": 0, "boundaries": 0, "met": Counter()})
    wanted = EVERYTHING if nightly else OFTEN
    for number in range(SEARCHES):  # what is drawn depends on the constants of whatever modules are loaded, too
        run_state_machine_as_test(
            machine if nightly else seed(number)(machine),
            settings=settings(
                database=None, max_examples=500 if nightly else 32, stateful_step_count=50, deadline=None
            ),
        )
        if all(machine.met[what] for what in wanted):
            break
    met = ", ".join(f"{what} {times}" for what, times in machine.met.items())
    tell(f"everybody: {machine.steps} steps, {machine.boundaries} boundaries; {met}")
    assert machine.steps >= (20_000 if nightly else 1_000)
    assert not {what for what in wanted if not machine.met[what]}
