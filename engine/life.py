"""The life of an action: which stage follows which step, as one total table; what the table does not allow cannot be.

    proposed ─┬─ refused
              ├─ waiting (needs approval) ── granted, judged again ─┬─ refused
              │      └─ denied | expired | superseded | lapsed      │
              └─ applying ◀─────────────────────────────────────────┘
                    └─ stale | recorded | applied ── watched ── kept | no data | overtaken | blocked
                                             └──────────┴── rolling back ── rolled back

An action whose life has not ended has a deadline (`DUE`), and the steps that its deadline leaves lead to an end, so
nothing hangs for ever. What stands (applied, kept, ...) has ended, and may still be taken back by a person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum, StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.actions import Result
from engine.judgement import Outcome


class Stage(IntEnum):
    """Where an action is in its life."""

    PROPOSED = 0
    WAITING = 1  # it needs a person's approval
    GRANTED = 2  # a person approved it: the guard judges it again, in the same round
    APPLYING = 3  # approved and recorded; its result is due
    WATCHED = 4
    ROLLING_BACK = 5  # asked for while a watch was open
    TAKING_BACK = 6  # asked for by a person, of what stands without a watch
    APPLIED = 7  # it stands, and no watch was opened
    KEPT = 8  # its watch found nothing against it, or a rollback of it came to nothing
    NO_DATA = 9  # it stands: its watch could not tell
    OVERTAKEN = 10  # it stands: somebody changed the campaign, so its watch ended
    BLOCKED = 11  # it stands: what came after it forbids the rollback that its watch asked for
    ROLLED_BACK = 12
    REFUSED = 13
    DENIED = 14
    EXPIRED = 15
    SUPERSEDED = 16  # a newer proposal for the knob took its place
    LAPSED = 17  # the limits it was judged under were replaced before a person approved it
    STALE = 18  # the knob had moved
    RECORDED = 19  # judged in a factual replay, where nothing is applied


class Step(IntEnum):
    """What can happen to an action."""

    PASS = 0  # the guard approves
    WAIT = 1  # the guard wants a person
    REFUSE = 2  # the guard refuses
    GRANT = 3
    DENY = 4
    EXPIRE = 5
    SUPERSEDE = 6
    LAPSE = 7
    APPLY = 8
    MISS = 9  # its base version is no longer in force
    RECORD = 10
    OPEN_WATCH = 11
    KEEP = 12
    LEAVE = 13  # the watch ends without data
    OVERTAKE = 14
    BLOCK = 15
    ROLL_BACK = 16  # its watch asks for a rollback
    TAKE_BACK = 17  # a person does
    UNDO = 18  # the rollback was applied
    REMAIN = 19  # the rollback was not applied
    CONFIRM = 20  # its watch says that it was rolled back


class Deadline(StrEnum):
    """When the next step of an action that has not ended is due."""

    THIS_ROUND = "in the same round"
    NEXT_BOUNDARY = "at the next boundary"
    APPROVAL = "24 hours after it was judged"
    WINDOW = "7 days after its watch was opened"


CANNOT = 255
"""What the table holds where a step cannot happen."""

_STANDS = (Stage.APPLIED, Stage.KEPT, Stage.NO_DATA, Stage.OVERTAKEN, Stage.BLOCKED)
_LEGAL: Mapping[Stage, Mapping[Step, Stage]] = {
    Stage.PROPOSED: {Step.PASS: Stage.APPLYING, Step.WAIT: Stage.WAITING, Step.REFUSE: Stage.REFUSED},
    Stage.WAITING: {
        Step.GRANT: Stage.GRANTED,
        Step.DENY: Stage.DENIED,
        Step.EXPIRE: Stage.EXPIRED,
        Step.SUPERSEDE: Stage.SUPERSEDED,
        Step.LAPSE: Stage.LAPSED,
    },
    Stage.GRANTED: {Step.PASS: Stage.APPLYING, Step.REFUSE: Stage.REFUSED},
    Stage.APPLYING: {Step.APPLY: Stage.APPLIED, Step.MISS: Stage.STALE, Step.RECORD: Stage.RECORDED},
    Stage.WATCHED: {
        Step.KEEP: Stage.KEPT,
        Step.LEAVE: Stage.NO_DATA,
        Step.OVERTAKE: Stage.OVERTAKEN,
        Step.BLOCK: Stage.BLOCKED,
        Step.ROLL_BACK: Stage.ROLLING_BACK,
        Step.TAKE_BACK: Stage.ROLLING_BACK,
    },
    # asked twice in a round, by the watch and by a person, it is one rollback
    Stage.ROLLING_BACK: {
        Step.ROLL_BACK: Stage.ROLLING_BACK,
        Step.TAKE_BACK: Stage.ROLLING_BACK,
        Step.UNDO: Stage.ROLLED_BACK,
        Step.REMAIN: Stage.WATCHED,
    },
    Stage.TAKING_BACK: {
        Step.TAKE_BACK: Stage.TAKING_BACK,
        Step.UNDO: Stage.ROLLED_BACK,
        Step.REMAIN: Stage.KEPT,
    },
    **{stage: {Step.TAKE_BACK: Stage.TAKING_BACK} for stage in _STANDS},
    Stage.APPLIED: {Step.TAKE_BACK: Stage.TAKING_BACK, Step.OPEN_WATCH: Stage.WATCHED},
    Stage.ROLLED_BACK: {Step.CONFIRM: Stage.ROLLED_BACK},
    Stage.REFUSED: {},
    Stage.DENIED: {},
    Stage.EXPIRED: {},
    Stage.SUPERSEDED: {},
    Stage.LAPSED: {},
    Stage.STALE: {},
    Stage.RECORDED: {},
}


def _table() -> NDArray[np.uint8]:
    table = np.full((len(Stage), len(Step)), CANNOT, dtype=np.uint8)
    for stage, steps in _LEGAL.items():
        for step, following in steps.items():
            table[stage, step] = following
    table.setflags(write=False)
    return table


TABLE = _table()
"""uint8[stages, steps]: the stage that follows, or CANNOT."""

DUE: Mapping[Stage, tuple[Deadline, tuple[Step, ...]]] = {
    Stage.PROPOSED: (Deadline.THIS_ROUND, (Step.PASS, Step.WAIT, Step.REFUSE)),
    Stage.GRANTED: (Deadline.THIS_ROUND, (Step.PASS, Step.REFUSE)),
    Stage.WAITING: (Deadline.APPROVAL, (Step.EXPIRE,)),
    Stage.APPLYING: (Deadline.NEXT_BOUNDARY, (Step.APPLY, Step.MISS, Step.RECORD)),
    Stage.WATCHED: (Deadline.WINDOW, (Step.KEEP, Step.LEAVE)),
    Stage.ROLLING_BACK: (Deadline.NEXT_BOUNDARY, (Step.UNDO, Step.REMAIN)),
    Stage.TAKING_BACK: (Deadline.NEXT_BOUNDARY, (Step.UNDO, Step.REMAIN)),
}
"""Of every stage that is no end: when its deadline is, and what can happen at the latest then. A watch beneath a newer
one of its campaign ends with that; a run that ends leaves open what is open."""


class ImpossibleLife(ValueError):  # noqa: N818 - it is what was told, as much as an error
    """A step that cannot follow, with the story so far."""


OF_OUTCOME: Mapping[int, Step] = {
    Outcome.APPROVED: Step.PASS,
    Outcome.NEEDS_APPROVAL: Step.WAIT,
    Outcome.REFUSED: Step.REFUSE,
}
OF_RESULT: Mapping[int, Step] = {Result.APPLIED: Step.APPLY, Result.STALE: Step.MISS, Result.RECORDED: Step.RECORD}


def advance(stages: ArrayLike, steps: ArrayLike, story: Callable[[int], str]) -> NDArray[np.uint8]:
    """The stages that follow from steps, all rows at once.

    Parameters
    ----------
    stages, steps:
        A `Stage` and a `Step` per row; either may be one for all.
    story:
        Tells a row's life so far, given its position; asked only where its step cannot happen.

    Raises
    ------
    ImpossibleLife
        With the story of the first row whose step cannot happen.

    >>> advance([Stage.WAITING, Stage.APPLYING], [Step.DENY, Step.APPLY], str).tolist()
    [14, 7]
    """
    before, step = np.broadcast_arrays(np.atleast_1d(stages), np.atleast_1d(steps))
    following: NDArray[np.uint8] = TABLE[before, step]
    wrong = np.flatnonzero(following == CANNOT)
    if wrong.size:
        at = int(wrong[0])
        raise ImpossibleLife(f"{story(at)}; {spelt(Step(step[at]))} cannot follow {spelt(Stage(before[at]))}")
    return following


def steps_of(codes: NDArray[np.integer], known: Mapping[int, Step], story: Callable[[int], str]) -> NDArray[np.uint8]:
    """The steps that the guard's answers (`OF_OUTCOME`) or the machines' results (`OF_RESULT`) stand for.

    Raises
    ------
    ImpossibleLife
        With the story of the first row whose code is none of these.
    """
    table = np.full(max(known) + 1, CANNOT, dtype=np.uint8)
    table[list(known)] = list(known.values())
    inside = (codes >= 0) & (codes < table.size)
    steps = np.where(inside, table[np.where(inside, codes, 0)], CANNOT).astype(np.uint8)
    wrong = np.flatnonzero(steps == CANNOT)
    if wrong.size:
        at = int(wrong[0])
        raise ImpossibleLife(f"{story(at)}; {int(codes[at])} is no answer to it")
    return steps


def spelt(name: IntEnum) -> str:
    """A stage or step in words."""
    return name.name.lower().replace("_", " ")
