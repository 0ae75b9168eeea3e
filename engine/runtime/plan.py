"""What a run is: everything the shells need, as values and small picklable factories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from engine.campaigns import CampaignSet, ControlState
from engine.limits import Limits
from engine.messages import Command, Role
from engine.optimiser import Assignment
from engine.policy import EventSource, Trial
from engine.units import Int64, TickGrid

DAY_MINUTES = 24 * 60


class Moment(StrEnum):
    """Where a process can be lost, with the number that comes with it."""

    BEFORE_OPENING = "before_opening"  # the ledger's file is made, and not in its place yet
    BEFORE_COMMIT = "before_commit"  # of the record with this sequence
    AFTER_COMMIT = "after_commit"  # likewise; its rows are not dispatched yet
    BEFORE_APPLY = "before_apply"  # of the round that acts from this tick
    AFTER_APPLY = "after_apply"  # likewise; the span is not lived yet
    IN_SPAN = "in_span"  # that began at this tick; its counts have not reached the campaigns yet
    AFTER_SPAN = "after_span"  # that began at this tick; it is not reported yet
    BEFORE_CHECKPOINT = "before_checkpoint"  # at this tick; its tables are closed already
    IN_CHECKPOINT = "in_checkpoint"  # at this tick; its file is not in its place yet
    AFTER_CHECKPOINT = "after_checkpoint"  # at this tick; older ones are not forgotten yet
    IN_TABLE = "in_table"  # that ends at this tick; its file is written, and not in its place yet
    IN_RESULT = "in_result"  # all ticks are in the tables; run.json tells so, and is not in its place yet
    AFTER_RESULT = "after_result"  # likewise, and it is; the segments are not cleared away yet


Rehearsal = Callable[[Moment, int], None]


def unrehearsed(moment: Moment, number: int) -> None:
    """Nothing is lost on purpose."""


@dataclass(frozen=True)
class LimitsFile:
    """A file of limits that may change while the run goes on.

    `path` is absolute, on the optimiser's machine; `read` makes limits of its text, or raises a BadInput.
    """

    path: Path
    read: Callable[[str], Limits]


@dataclass(frozen=True)
class Plan:
    """A run, ready to be carried out by any runner with the same result.

    Parameters
    ----------
    limits:
        Those in force from the beginning; where there is a limits file, until it gives others.
    source:
        Makes the event source of some campaigns (ascending positions, whole joined markets); called where they live.
    decision_every:
        Ticks between two decisions; the boundaries are known from this alone.
    commands:
        People's commands by the tick at whose close they are admitted.
    people:
        Who may command, and in which roles.
    limits_file:
        Looked at on every boundary; None: the limits stay as they are.
    header:
        What the ledger's opening tells of the run: its configuration, seed and versions.
    trial:
        The twin in which changes outside mandates are tried; None where there is none.
    joined:
        int64[markets], equal where markets have to live in one process, as their campaigns are credited for the same
        people's conversions; None: each for itself.
    rehearsal:
        Called with a `Moment` and a number at each place where a process can be lost, so that losing it there can be
        rehearsed; it decides nothing.
    """

    campaigns: CampaignSet
    controls: ControlState
    limits: Limits
    grid: TickGrid
    source: Callable[[Int64], EventSource]
    assignments: tuple[Assignment, ...]
    decision_every: int = 1
    commands: Mapping[int, tuple[Command, ...]] = field(default_factory=dict)
    people: Mapping[str, frozenset[Role]] = field(default_factory=dict)
    limits_file: LimitsFile | None = None
    header: Mapping[str, Any] = field(default_factory=dict)
    trial: Trial | None = None
    joined: Int64 | None = None
    rehearsal: Rehearsal = unrehearsed

    @property
    def approval_ticks(self) -> int:
        """A proposal waits a day for a person."""
        return DAY_MINUTES // self.grid.tick_minutes

    @property
    def history_ticks(self) -> int:
        """An applied action can be rolled back for a week, a policy's for as long as a proposal waits."""
        return 7 * self.approval_ticks

    def spans(self) -> list[tuple[int, int]]:
        """The run cut at its decision boundaries: [from_tick, to_tick) pairs."""
        starts = range(0, self.grid.ticks, self.decision_every)
        return [(start, min(start + self.decision_every, self.grid.ticks)) for start in starts]


def partition(campaigns: CampaignSet, parts: int, joined: Int64 | None = None) -> list[Int64]:
    """Members of at most `parts` shards: whole markets, each to the shard with the fewest campaigns so far.

    Markets of one number in `joined` (int64[markets], None: each has its own) count as one.
    """
    group = campaigns.market if joined is None else joined[campaigns.market]
    sizes = np.bincount(group, minlength=len(campaigns.markets))
    load = np.zeros(min(parts, int((sizes > 0).sum())), dtype=np.int64)
    home = np.full(sizes.size, -1, dtype=np.int64)
    for each in np.argsort(-sizes, kind="stable"):
        if sizes[each]:
            home[each] = int(load.argmin())
            load[home[each]] += sizes[each]
    return [np.flatnonzero(home[group] == part) for part in range(load.size)]
