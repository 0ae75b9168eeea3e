"""Every course of a small world: two campaigns, two knobs, three proposals, people's commands, a crash at every step.

The search holds boundaries with the production machines from every state it has found, under every choice of what is
proposed and commanded there. At each it checks the invariants, loses processes at every place and recovers. States that
differ in nothing that matters later are one. Ticks last a day, so that holds, cooldowns and approvals run out
within the search, and it begins when no campaign is learning any more: little changes pass by themselves, and where
spend runs away a watch takes them back. Last, some courses are carried out by the production hosts with their files,
and lost there too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings

from agents.scripted import Scripted, Wish
from engine.actions import Knob, Source
from engine.campaigns import ACCOUNT, ControlState
from engine.events import Events, Opportunities, TickCounts
from engine.limits import Limits
from engine.messages import Command, CommandKind, Role
from engine.optimiser import Assignment
from engine.policy import Batch
from engine.runtime.local import LocalRunner
from engine.runtime.plan import Moment, Plan
from engine.runtime.store import LEDGER, read_ledger
from engine.units import Int64, TickGrid
from tests.engine.builders import BID, BUDGET, campaign_set, controls
from tests.properties.account import Account, Rules, canonical
from tests.properties.invariants import check_all, passed_by_themselves, whole_ledger
from tests.properties.world import Trouble, World
from tests.rehearsals import At, Crash

pytestmark = pytest.mark.slow

CAMPAIGNS = replace(campaign_set((1, 1)), markets=("one", "two"), market=np.array([0, 1]))
BOTH = np.arange(2)
DAY = 1  # ticks
RULES = Rules(
    campaigns=CAMPAIGNS,
    begins=controls(CAMPAIGNS),
    limits=replace(
        Limits.of(CAMPAIGNS, account_budget=BUDGET * 26 // 10).with_mandate(np.array([0]), (Knob.BID,)), day=DAY
    ),
    grid=TickGrid(datetime(2026, 3, 2), 24 * 60 // DAY, 20),
    people={"ann": frozenset(Role), "ben": frozenset({Role.APPROVER}), "kim": frozenset({Role.OPERATOR})},
    approval_ticks=DAY,
)

PROPOSALS = {
    "raise bid": (Source.RULE, Wish(0, Knob.BID, "rule", "inside the mandate", change=Fraction(1, 5))),
    "lower bid": (Source.SCRIPT, Wish(0, Knob.BID, "ann", "the same knob", change=Fraction(-1, 5))),
    "raise budget": (Source.SCRIPT, Wish(0, Knob.BUDGET, "ann", "outside the mandate", change=Fraction(1, 4))),
    "raise other": (Source.SCRIPT, Wish(1, Knob.BUDGET, "ann", "of low impact", change=Fraction(1, 10))),
}
COMMANDS: dict[str, dict[str, Any]] = {
    "approve": {"kind": CommandKind.APPROVE, "by": "ben", "campaign": 0, "knob": Knob.BUDGET},
    "approve own": {"kind": CommandKind.APPROVE, "by": "ann", "campaign": 0, "knob": Knob.BUDGET},
    "deny": {"kind": CommandKind.DENY, "by": "ben", "campaign": 0, "knob": Knob.BUDGET},
    "roll bid back": {"kind": CommandKind.ROLLBACK, "by": "kim", "campaign": 0, "knob": Knob.BID},
    "roll budget back": {"kind": CommandKind.ROLLBACK, "by": "kim", "campaign": 0, "knob": Knob.BUDGET},
    "edit bid": {"kind": CommandKind.EDIT, "by": "kim", "campaign": 0, "knob": Knob.BID, "values": (BID * 3 // 2,)},
    "edit other": {
        "kind": CommandKind.EDIT, "by": "kim", "campaign": 1, "knob": Knob.BUDGET, "values": (BUDGET * 3 // 2,)
    },
    "freeze": {"kind": CommandKind.FREEZE, "by": "kim", "campaign": ACCOUNT, "knob": Knob.BID},
    "unfreeze": {"kind": CommandKind.UNFREEZE, "by": "kim", "campaign": ACCOUNT, "knob": Knob.BID},
}  # fmt: skip
COMMANDS |= {
    f"{kind.value} {part}": {"kind": kind, "by": "kim", "campaign": 0, "knob": Knob.BUDGET, "whole": part == "campaign"}
    for kind in (CommandKind.FREEZE, CommandKind.UNFREEZE)
    for part in ("budget", "campaign")
}
RUNAWAY = "spend runs away"  # of the other campaign, from then on
AGAIN = "all again"  # every command that was served so far arrives once more
RACES = (
    ("approve", "deny"),
    ("approve", "freeze"),
    ("approve", "edit other"),
    ("approve", "raise bid"),
    ("approve", "raise budget"),
    ("approve", "roll budget back"),
    ("edit bid", "raise bid"),
    ("edit bid", "roll bid back"),
    ("freeze", "raise bid"),
    ("freeze", "unfreeze"),
    ("freeze budget", "approve"),
    ("raise other", RUNAWAY),
    ("raise bid", "lower bid"),
    ("raise bid", "raise budget"),
    ("raise bid", "roll bid back"),
    ("roll bid back", "roll budget back"),
)
CHOICES: tuple[tuple[str, ...], ...] = ((), *((name,) for name in (*PROPOSALS, *COMMANDS, RUNAWAY, AGAIN)), *RACES)


QUIET: tuple[tuple[str, ...], ...] = ((), ())  # the first days, in which every campaign is learning


class Course(NamedTuple):
    """An account, and what was chosen at every boundary on the way to it."""

    account: Account
    choices: tuple[tuple[str, ...], ...]


def asked(choices: tuple[tuple[str, ...], ...]) -> tuple[Assignment, ...]:
    """A rule and a script that propose what was chosen, tick by tick."""
    wishes: dict[Source, dict[int, tuple[Wish, ...]]] = {Source.RULE: {}, Source.SCRIPT: {}}
    for tick, names in enumerate(choices):
        for source, mine in wishes.items():
            mine[tick] = tuple(
                PROPOSALS[name][1] for name in names if name in PROPOSALS and PROPOSALS[name][0] is source
            )
    return tuple(Assignment(Scripted(mine), BOTH, source, source.name.lower()) for source, mine in wishes.items())


def commanded(choices: tuple[tuple[str, ...], ...]) -> tuple[Command, ...]:
    """What people command at the last boundary."""
    *before, names = choices
    mine = tuple(Command(id=f"{name}-{len(before)}", **COMMANDS[name]) for name in names if name in COMMANDS)
    if AGAIN in names:
        mine += tuple(each for end in range(1, len(choices)) for each in commanded(choices[:end]))
    return mine


def world(choices: tuple[tuple[str, ...], ...]) -> World:
    """What the campaigns live in after what was chosen so far."""
    runs_away = any(RUNAWAY in names for names in choices)
    return World(CAMPAIGNS, DAY, {1: Trouble.RUNAWAY} if runs_away else {})


def begun() -> Course:
    """After the first days."""
    course = Course(Account.open(RULES, asked(())), ())
    for choice in QUIET:
        course = step(course, choice)
    return course


def step(course: Course, choice: tuple[str, ...]) -> Course:
    """Hold the next boundary, whole and with every loss."""
    choices = (*course.choices, choice)
    before = replace(course.account, world=world(course.choices))
    assignments, commands = asked(choices), commanded(choices)
    after = before.hold(before.machine(assignments), commands)
    check_all(before, after)
    before.lost(after, assignments, commands)
    return Course(after, choices)


def key(course: Course) -> Any:
    """What later boundaries depend on; the ids of commands served are only ever compared with themselves."""
    account, optimiser = course.account, course.account.optimiser
    desk = optimiser.desk
    pending = {at: (each.rows.wanted, each.rows.base_version, each.tick) for at, each in desk.pending.items()}
    remembered = (
        (desk.frozen, desk.parts, desk.undoing),
        (optimiser.standing, optimiser.watching, optimiser.alerts, optimiser.spending),
    )
    applied = [(tick, rows.campaign, rows.knob, rows.old, rows.new, rows.source) for tick, rows in account.past.applied]
    taken_back = [(tick, rows.action) for tick, rows in account.past.taken_back]
    shards = [(each.controls, each.period.get(), each.lifetime.get()) for each in account.shards]
    return canonical(
        (account.tick, world(course.choices), shards, account.results, pending, remembered, applied, taken_back)
    )


@dataclass
class Search:
    """Breadth first, boundary by boundary."""

    depth: int
    states: int = 1
    transitions: int = 0
    last: list[Course] = field(default_factory=list)
    met: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Take every choice from every state."""
        level = [begun()]
        for _ in range(self.depth):
            found: dict[Any, Course] = {}
            for course in level:
                for choice in CHOICES:
                    after = step(course, choice)
                    self.transitions += 1
                    found.setdefault(key(after), after)
            level = list(found.values())
            self.states += len(level)
            self.met |= {told for course in level for told in happened(course.account)}
        self.last = level


def happened(account: Account) -> set[str]:
    """What the last round tells that the search has to come across."""
    told = account.round.header
    return {each["event"] for each in told["watches"]} | {
        what
        for what, holds in (
            ("low impact", len(passed_by_themselves(account))),
            ("frozen part", account.optimiser.desk.parts),
            ("frozen account", told["frozen"]),
        )
        if holds
    }


def test_every_course_of_the_small_world_keeps_the_invariants(tell: Callable[[str], None]) -> None:
    nightly = settings.get_current_profile_name() == "nightly"
    search = Search(depth=4 if nightly else 3)
    search.run()
    places = search.transitions * (2 + len(CAMPAIGNS) + 1)
    tell(f"small world: {search.states} states, {search.transitions} transitions, {places} losses")
    assert search.met >= {"low impact", "opened", "rolls_back", "rolled_back", "superseded", "frozen part"}
    for course in search.last[:: max(1, len(search.last) // 100)]:
        whole_ledger(course.account)


class Lively:
    """The campaigns' world as an event source: what was chosen in the course befalls them at its tick."""

    factual = False

    def __init__(self, choices: tuple[tuple[str, ...], ...], members: Int64) -> None:
        self._choices = choices
        self._members = members
        self._mine = CAMPAIGNS.select(members)

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:
        lives_in = world(self._choices[:from_tick])
        counts = [
            lives_in.counts(
                int(campaign), controls.select(self._mine, np.array([place])), from_tick, to_tick - from_tick
            )
            for place, campaign in enumerate(self._members)
        ]
        return Batch(TickCounts(from_tick, np.concatenate(counts, axis=1)), Events.empty(), Opportunities.empty())

    def state(self) -> None:
        """Nothing to keep."""

    def restore(self, state: None) -> None:
        """Nothing to go back to."""


COURSES = (
    (("raise budget",), ("approve", "raise bid"), ("roll budget back",), ("edit bid", "raise bid")),
    (("raise bid", "raise budget"), ("approve", "freeze"), ("unfreeze",), ("roll bid back", "roll budget back")),
    (("edit other",), ("raise budget",), ("approve", "edit other"), (AGAIN,)),
    (("raise bid", "lower bid"), ("edit bid", "roll bid back"), ("roll bid back",), ("raise bid",)),
    (("raise other", RUNAWAY), ("freeze budget", "raise budget"), ("raise other", "unfreeze budget"), ("raise bid",)),
)


@pytest.mark.parametrize("choices", COURSES)
def test_the_production_hosts_take_the_same_course_wherever_they_are_lost(choices: tuple[tuple[str, ...], ...]) -> None:
    course = begun()
    for choice in choices:
        course = step(course, choice)
    whole_ledger(course.account)
    memory = Path("/dev/shm")  # noqa: S108 - ours alone: a fresh folder in it
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        undisturbed = At()
        carried_out(course.choices, Path(name) / "whole", undisturbed)
        expected = list(read_ledger(Path(name) / "whole" / LEDGER))
        assert tuple(expected[:-1]) == course.account.records
        chosen = next(place for place, (_, number) in enumerate(undisturbed.calls) if number >= len(QUIET))
        for place in range(chosen, len(undisturbed.calls)):
            folder = Path(name) / str(place)
            with pytest.raises(Crash):
                carried_out(course.choices, folder, At(place))
            carried_out(course.choices, folder, At())
            assert list(read_ledger(folder / LEDGER)) == expected
    assert {moment for moment, _ in undisturbed.calls} >= {
        Moment.BEFORE_COMMIT, Moment.AFTER_COMMIT, Moment.BEFORE_APPLY, Moment.AFTER_APPLY
    }  # fmt: skip


def carried_out(choices: tuple[tuple[str, ...], ...], folder: Path, rehearsal: At) -> None:
    """The course as a plan, on the local runner, from where its folder stands."""
    folder.mkdir(exist_ok=True)
    plan = Plan(
        campaigns=CAMPAIGNS,
        controls=RULES.begins,
        limits=RULES.limits,
        grid=replace(RULES.grid, ticks=len(choices) + 1),
        source=partial(Lively, choices),
        assignments=asked(choices),
        commands={end - 1: commanded(choices[:end]) for end in range(1, len(choices) + 1)},
        people=RULES.people,
        rehearsal=rehearsal,
    )
    assert plan.approval_ticks == RULES.approval_ticks
    LocalRunner(2, 2).run(plan, folder)
