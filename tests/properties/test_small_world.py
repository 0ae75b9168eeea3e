"""Every course of a small world: two campaigns, two knobs, three proposals, people's commands, a crash at every step.

The search holds boundaries with the production machines from every state it has found, under every choice of what is
proposed and commanded there. At each it checks the invariants, loses processes at every place and recovers. States that
differ in nothing that matters later are one. Ticks last a day, so that holds, cooldowns and approvals run out
within the search. Last, some courses are carried out by the production hosts with their files, and lost there too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings

from agents.scripted import Scripted, Wish
from engine.actions import Knob, Source
from engine.campaigns import ControlState
from engine.events import COUNTS, Events, Opportunities, TickCounts
from engine.ledger import decode_round
from engine.limits import Limits
from engine.messages import ACCOUNT, Command, CommandKind, Role
from engine.optimiser import Assignment
from engine.policy import Batch
from engine.runtime.local import LocalRunner
from engine.runtime.plan import Moment, Plan
from engine.runtime.store import LEDGER, read_ledger
from engine.units import Int64, TickGrid
from tests.engine.builders import BID, BUDGET, campaign_set, controls
from tests.properties.account import Account, Rules, canonical
from tests.properties.invariants import check_all, whole_ledger
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
    ("raise bid", "lower bid"),
    ("raise bid", "raise budget"),
    ("raise bid", "roll bid back"),
    ("roll bid back", "roll budget back"),
)
CHOICES: tuple[tuple[str, ...], ...] = ((), *((name,) for name in (*PROPOSALS, *COMMANDS, AGAIN)), *RACES)


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


def step(course: Course, choice: tuple[str, ...]) -> Course:
    """Hold the next boundary, whole and with every loss."""
    before, choices = course.account, (*course.choices, choice)
    assignments, commands = asked(choices), commanded(choices)
    after = before.hold(before.machine(assignments), commands)
    check_all(before, after)
    before.lost(after, assignments, commands)
    return Course(after, choices)


def key(account: Account) -> Any:
    """What later boundaries depend on; the ids of commands served are only ever compared with themselves."""
    desk = account.optimiser.desk
    pending = {at: (each.rows.wanted, each.rows.base_version, each.tick) for at, each in desk.pending.items()}
    moved = [(tick, rows.campaign, rows.knob, rows.old, rows.new, rows.source) for tick, rows in account.past.applied]
    undone = [
        (command["undoes"], command["answer"])
        for record in account.records[1:]
        for command in decode_round(record).header["commands"]
        if command["undoes"] is not None
    ]
    remembered = (desk.frozen, desk.parts, account.optimiser.standing, getattr(account.optimiser, "watching", None))
    return canonical((account.tick, account.controls, pending, remembered, moved, undone))


@dataclass
class Search:
    """Breadth first, boundary by boundary."""

    depth: int
    states: int = 1
    transitions: int = 0
    last: list[Course] = field(default_factory=list)

    def run(self) -> None:
        """Take every choice from every state."""
        level = [Course(Account.open(RULES, asked(())), ())]
        for _ in range(self.depth):
            found: dict[Any, Course] = {}
            for course in level:
                for choice in CHOICES:
                    after = step(course, choice)
                    self.transitions += 1
                    found.setdefault(key(after.account), after)
            level = list(found.values())
            self.states += len(level)
        self.last = level


def test_every_course_of_the_small_world_keeps_the_invariants(capsys: pytest.CaptureFixture[str]) -> None:
    nightly = settings.get_current_profile_name() == "nightly"
    search = Search(depth=4 if nightly else 3)
    search.run()
    with capsys.disabled():
        places = search.transitions * (2 + len(CAMPAIGNS) + 1)
        print(f"\nsmall world: {search.states} states, {search.transitions} transitions, {places} losses")  # noqa: T201
    for course in search.last[:: max(1, len(search.last) // 100)]:
        whole_ledger(course.account)


class Silent:
    """Campaigns that nobody looks at: the physical world has no part in what the guard decides here."""

    factual = False

    def __init__(self, members: Int64) -> None:
        self._cells = len(members)

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:  # noqa: ARG002 - the protocol's
        counts = np.zeros((to_tick - from_tick, self._cells, len(COUNTS)), dtype=np.int64)
        return Batch(TickCounts(from_tick, counts), Events.empty(), Opportunities.empty())

    def state(self) -> None:
        """Nothing to keep."""

    def restore(self, state: None) -> None:
        """Nothing to go back to."""


COURSES = (
    (("raise budget",), ("approve", "raise bid"), ("roll budget back",), ("edit bid", "raise bid")),
    (("raise bid", "raise budget"), ("approve", "freeze"), ("unfreeze",), ("roll bid back", "roll budget back")),
    (("edit other",), ("raise budget",), ("approve", "edit other"), (AGAIN,)),
    (("raise bid", "lower bid"), ("edit bid", "roll bid back"), ("roll bid back",), ("raise bid",)),
)


@pytest.mark.parametrize("choices", COURSES)
def test_the_production_hosts_take_the_same_course_wherever_they_are_lost(choices: tuple[tuple[str, ...], ...]) -> None:
    course = Course(Account.open(RULES, asked(())), ())
    for choice in choices:
        course = step(course, choice)
    whole_ledger(course.account)
    memory = Path("/dev/shm")  # noqa: S108 - ours alone: a fresh folder in it
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        undisturbed = At()
        carried_out(choices, Path(name) / "whole", undisturbed)
        expected = list(read_ledger(Path(name) / "whole" / LEDGER))
        assert tuple(expected[:-1]) == course.account.records
        for place in range(len(undisturbed.calls)):
            folder = Path(name) / str(place)
            with pytest.raises(Crash):
                carried_out(choices, folder, At(place))
            carried_out(choices, folder, At())
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
        source=Silent,
        assignments=asked(choices),
        commands={end - 1: commanded(choices[:end]) for end in range(1, len(choices) + 1)},
        people=RULES.people,
        rehearsal=rehearsal,
    )
    assert plan.approval_ticks == RULES.approval_ticks
    LocalRunner(2, 2).run(plan, folder)
