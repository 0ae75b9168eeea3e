"""Modifiers through the machines: edits, approvals, watches, episodes, rollbacks, controls that differ."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from agents.scripted import Scripted, Wish
from engine.actions import Knob, Source
from engine.alerts import AlertKind, Fingerprint
from engine.campaigns import ControlState
from engine.judgement import Outcome, Reason
from engine.limits import Limits
from engine.messages import Command, CommandKind, Role
from engine.optimiser import Assignment
from engine.units import PPM, TickGrid
from engine.watch import Watch
from tests.engine.builders import BID, campaign_set, controls
from tests.properties.account import QUIET, Account, Rules, decide, deliver, merged
from tests.properties.world import Trouble, World

AUDIENCES = ("families", "students", "young")
CAMPAIGNS = campaign_set((1, 2, 1), audiences=AUDIENCES)
DAY, BLOCK = 24, 2
GRID = TickGrid(datetime(2026, 3, 2), 60, 60 * DAY)
OWN = slice(3, 6)  # the second campaign's places
COUNT = 4 * DAY // BLOCK


def limits(mandated: bool) -> Limits:  # noqa: FBT001 - says it all
    given = replace(Limits.of(CAMPAIGNS), day=DAY, delay_horizon=BLOCK)
    return given.with_mandate(np.array([1]), (Knob.MODIFIERS, Knob.BID)) if mandated else given


class Run:
    """An account four days old, steered boundary by boundary."""

    def __init__(self, *, mandated: bool = False, begins: ControlState | None = None, twin: bool = False) -> None:
        state = controls(CAMPAIGNS) if begins is None else begins
        people = {"ann": frozenset(Role), "kim": frozenset(Role)}
        trial = World(CAMPAIGNS, DAY) if twin else None
        rules = Rules(CAMPAIGNS, state, limits(mandated), GRID, people, approval_ticks=DAY, trial=trial)
        self.wishes: dict[int, tuple[Wish, ...]] = {}
        source = Source.POLICY if mandated else Source.RULE
        self.parties = (Assignment(Scripted(self.wishes), np.arange(3), source, "party"),)
        self.account = Account.open(rules, self.parties)
        self.commands = 0
        self.go(boundaries=COUNT)

    def go(self, *commands: Command, boundaries: int = 1, ticks: int = BLOCK) -> list[str]:
        """Hold boundaries; what the commands, which come at the first, were told."""
        told: list[str] = []
        for place in range(boundaries):
            mine = commands if place == 0 else ()
            self.account = self.account.hold(self.account.machine(self.parties), mine, ticks)
            told += [command["answer"] for command in self.account.round.header["commands"]]
        assert self.account.told().equals(self.account.controls)
        return told

    def wish(self, values: dict[int, int], campaign: int = 1, ticks: int = BLOCK) -> list[tuple[Outcome, Reason]]:
        """Somebody else than a person wants modifiers; the guard's answers."""
        wish = Wish(campaign, Knob.MODIFIERS, "sam", "tune", tuple(values.values()), audiences=tuple(values))
        self.wishes[self.account.tick + ticks] = (wish,)
        self.go(ticks=ticks)
        judged = self.account.round.judged
        return [(Outcome(o), Reason(r)) for o, r in zip(judged["outcome"], judged["reason"], strict=True)]

    def command(self, kind: CommandKind, **more: Any) -> Command:
        self.commands += 1
        return Command(f"command-{self.commands}", kind, more.pop("by", "kim"), 1, Knob.MODIFIERS, **more)

    def edit(self, values: dict[int, int]) -> list[str]:
        rows = {"values": tuple(values.values()), "audiences": tuple(values)}
        return self.go(self.command(CommandKind.EDIT, **rows))

    def befall(self, trouble: Trouble | None) -> None:
        troubles = {} if trouble is None else {1: trouble}
        self.account = replace(self.account, world=replace(self.account.world, troubles=troubles))

    @property
    def modifiers(self) -> list[int]:
        return self.account.controls.modifiers[OWN].tolist()

    @property
    def watches(self) -> list[tuple[str, str]]:
        return [(each["event"], each["why"]) for each in self.account.round.header["watches"]]


LOW = (Outcome.APPROVED, Reason.NONE)


def test_a_person_edits_the_audiences_it_names() -> None:
    run = Run()
    assert run.edit({0: 1_500_000, 2: 0}) == ["approved"]
    assert (run.modifiers, run.account.controls.modifier_anchor[OWN].tolist()) == ([1_500_000, PPM, 0],) * 2
    assert run.edit({0: 1_500_000, 1: 800_000}) == ["approved"]  # the first is there already
    assert run.edit({0: 1_500_000, 1: 800_000}) == ["refused: no_op"]
    assert run.edit({0: 1_400_000, 1: 10_000_001}) == ["refused: hard_maximum"]
    assert run.edit({0: 1_400_000, 3: 900_000}) == ["refused: unknown_target"]
    assert run.modifiers == [1_500_000, 800_000, 0]
    assert run.go(run.command(CommandKind.EDIT, values=(PPM,))) == ["needs_audiences"]
    assert run.go(run.command(CommandKind.EDIT, audiences=(1,))) == ["needs_audiences"]


def test_a_commanded_rollback_restores_what_the_change_replaced_and_no_more() -> None:
    run = Run(mandated=True)
    assert run.wish({2: 1_200_000, 0: 900_000}) == [LOW, LOW]
    run.go()
    assert run.modifiers == [900_000, PPM, 1_200_000]
    assert run.go(run.command(CommandKind.ROLLBACK)) == ["approved"]
    assert run.modifiers == [PPM] * 3
    run.go()
    assert run.go(run.command(CommandKind.ROLLBACK)) == ["unknown_action"]


def test_a_persons_drop_taken_back_targets_the_audience_again() -> None:
    run = Run()
    run.edit({1: 0})
    run.go()
    assert run.account.controls.modifier_anchor[OWN].tolist() == [PPM, 0, PPM]
    assert run.go(run.command(CommandKind.ROLLBACK)) == ["approved"]
    assert (run.modifiers, run.account.controls.modifier_anchor[OWN].tolist()) == ([PPM] * 3,) * 2


def test_a_new_audience_waits_for_a_person_and_what_comes_with_it_waits_too() -> None:
    begins = controls(CAMPAIGNS)
    modifiers = begins.modifiers.copy()
    modifiers[5] = 0
    run = Run(mandated=True, begins=replace(begins, modifiers=modifiers, modifier_anchor=modifiers))
    asks = (Outcome.NEEDS_APPROVAL, Reason.AUDIENCE_SET)
    assert run.wish({0: 1_100_000, 2: PPM}) == [asks, asks]
    assert run.account.round.header["impacts"] == [
        {"row": row, "spend_per_day_micros": None, "by": "none"} for row in (0, 1)
    ]
    assert run.modifiers == [PPM, PPM, 0]
    assert run.go(run.command(CommandKind.APPROVE, by="ann")) == ["approved"]
    run.go()
    assert (run.modifiers, run.watches) == ([1_100_000, PPM, PPM], [("opened", "")])  # no step of the mandate's course
    (watch,) = run.account.optimiser.watching.watches
    assert watch.factor == (1, 0)
    run.befall(Trouble.RUNAWAY)  # what a new audience brings nobody can tell
    run.go(boundaries=3)
    assert run.modifiers == [1_100_000, PPM, PPM]


def test_a_harmful_rise_is_taken_back_and_what_lies_beyond_it_quarantined() -> None:
    run = Run()
    values = {0: 1_250_000, 1: 1_250_000, 2: 1_240_000}
    assert {outcome for outcome, _ in run.wish(values)} == {Outcome.NEEDS_APPROVAL}
    assert run.go(run.command(CommandKind.APPROVE)) == ["approved"]
    assert run.account.optimiser.watching.watches == ()
    run.go()
    (watch,) = run.account.optimiser.watching.watches
    assert (watch.knob, watch.factor) == (Knob.MODIFIERS, (5, 4))
    run.go(boundaries=16)
    assert run.modifiers == [PPM] * 3
    kept = run.account.optimiser.standing.quarantine
    told = [(each.campaign, each.knob, each.audience, each.values) for each in kept]
    assert told == [(1, Knob.MODIFIERS, place, (value,)) for place, value in values.items()]
    run.go(boundaries=9 * DAY // BLOCK)
    assert run.wish({1: 1_260_000})[0][0] == Outcome.REFUSED
    assert run.wish({1: 1_250_000}) == [(Outcome.REFUSED, Reason.QUARANTINED)]


def test_a_spend_that_the_modifiers_do_not_explain_is_stopped_at_once() -> None:
    run = Run()
    run.wish({0: 1_010_000})
    run.go()
    assert run.watches == [("opened", "")]
    run.befall(Trouble.RUNAWAY)
    run.go(ticks=1)
    assert run.watches == [("rolls_back", "spend_rate")]
    assert run.modifiers == [PPM] * 3


def test_a_course_over_several_audiences_is_taken_back_to_where_each_began() -> None:
    run = Run(mandated=True)
    for values in ({0: 1_100_000}, {0: 1_200_000, 2: 900_000}, {2: 850_000}):
        assert set(run.wish(values)) == {LOW}
    run.go()
    assert run.modifiers == [1_200_000, PPM, 850_000]
    episodes = run.account.optimiser.watching.episodes
    assert (episodes.moved(1), episodes.modifiers[OWN].tolist()) == ([Knob.MODIFIERS], [PPM, -1, PPM])
    run.befall(Trouble.RUNAWAY)
    run.go(boundaries=2, ticks=1)
    assert run.modifiers == [PPM] * 3
    (rests,) = run.account.optimiser.standing.quarantine
    assert (rests.knob, rests.values) == (Knob.MODIFIERS, ())  # the knob rests altogether


def test_a_second_episode_forgets_what_the_first_recorded() -> None:
    run = Run(mandated=True)
    run.wish({0: 1_100_000})
    run.edit({2: 1_300_000})  # a person's command ends it
    run.go(boundaries=DAY // BLOCK)
    assert run.wish({1: 1_100_000}) == [LOW]
    run.go()
    episodes = run.account.optimiser.watching.episodes
    assert episodes.modifiers[OWN].tolist() == [-1, PPM, -1]


def test_an_episode_may_spend_as_bid_times_modifier_rose() -> None:
    run = Run(mandated=True)
    wish = Wish(1, Knob.BID, "sam", "", (BID * 6 // 5,))
    run.wishes[run.account.tick + BLOCK] = (wish,)
    run.go()
    run.wish({0: 1_250_000, 1: 1_100_000, 2: 1_100_000})
    run.go()
    state = run.account.optimiser.watching.episodes
    layout = CAMPAIGNS.layout
    assert state._grown(1, run.account.controls, layout).as_integer_ratio() == (3, 2)  # 1.2 · 1.25
    assert state._modified(run.account.controls, layout).tolist() == [1.0, 1.25, 1.0]


def test_modifiers_that_differ_from_the_record_are_told_and_restored() -> None:
    run = Run()
    shard = run.account.shards[1]
    found = replace(shard.controls, modifiers=np.array([PPM, 700_000, PPM]))
    shards = (run.account.shards[0], replace(shard, controls=found), run.account.shards[2])
    account = replace(run.account, shards=shards)
    observed, boundary = account.reach((), BLOCK, QUIET)
    _, approved, state = decide(account.machine(run.parties), boundary)
    rows = approved.rows
    assert (rows.source.tolist(), rows.index.tolist(), rows.old.tolist(), rows.new.tolist()) == (
        [Source.ROLLBACK],
        [1],
        [700_000],
        [PPM],
    )
    assert Fingerprint(AlertKind.STATE_DIFFERS, 1, Knob.MODIFIERS) in state.alerts.since
    restored, _ = deliver(account.rules, observed, approved)
    assert merged(account.rules, restored).modifiers.tolist() == [PPM] * 9


def test_the_twin_tells_what_modifiers_do_before_they_are_judged() -> None:
    run = Run(twin=True)
    run.wish({0: 1_020_000, 2: 990_000})
    told = run.account.round.header["impacts"]
    assert [(each["row"], each["by"]) for each in told] == [(0, "trial"), (1, "trial")]
    assert told[0]["spend_per_day_micros"] == told[1]["spend_per_day_micros"] > 0


@pytest.mark.parametrize(
    ("old", "new", "factor"),
    [([PPM, PPM], [1_250_000, 900_000], (5, 4)), ([PPM], [900_000], (1, 1)), ([0, PPM], [PPM, 1_100_000], (1, 0))],
)
def test_a_watch_lets_spend_grow_as_the_modifier_that_rose_most(
    old: list[int], new: list[int], factor: tuple[int, int]
) -> None:
    run = Run()
    rows = run.account.approved.rows
    columns = {name: np.zeros(len(old), dtype=np.int64) for name in rows.columns()}
    columns |= {"knob": np.full(len(old), Knob.MODIFIERS), "old": np.array(old), "new": np.array(new)}
    watch = Watch.over(replace(rows, **columns), 5, run.account.optimiser.watching.book, np.empty(0, np.int64), None)
    assert watch.factor == factor
