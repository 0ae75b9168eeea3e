"""An account in memory: the production machines, a campaign machine per campaign, and the ledger in a tuple.

An `Account` is a value. Holding a boundary gives another one, so a search can branch anywhere, and losing a process is
going back to an earlier value. What became of the history is told by the ledger, as it is after every recovery.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.actions import Actions, Approved, Result
from engine.campaign_machine import CampaignMachine, CampaignState
from engine.campaigns import CampaignSet, ControlState
from engine.events import CLICKS, CONVERSIONS, COUNTS, OPPORTUNITIES, REVENUE, SPEND, TickCounts
from engine.guard import Limits
from engine.ledger import GENESIS, Fold, Record, RecordKind, Round, closing_body, decode_round, seal
from engine.messages import (
    Advanced,
    Answered,
    Apply,
    Boundary,
    Command,
    Commit,
    Dispatch,
    Open,
    Publish,
    Published,
    Reloaded,
    Role,
)
from engine.optimiser import Assignment, OptimiserMachine, OptimiserState
from engine.policy import View
from engine.rollback import History
from engine.units import Int64, TickGrid

NOTHING = np.empty(0, dtype=np.uint8)


@dataclass(frozen=True)
class Rules:
    """What does not change while an account is steered; the limits are those it begins with.

    Where it is `alive`, campaigns spend and earn, and spend twice as much once a bid is above its first one, so that
    watches come to verdicts; else nothing ever happens.
    """

    campaigns: CampaignSet
    begins: ControlState
    limits: Limits
    grid: TickGrid
    people: Mapping[str, frozenset[Role]]
    approval_ticks: int
    alive: bool = False

    def happens(self, campaign: int, controls: ControlState, ticks: int) -> Int64:
        """What the world does to a campaign over a span: int64[ticks, creatives, counts]."""
        counts = np.zeros((ticks, len(controls.weights), len(COUNTS)), dtype=np.int64)
        if self.alive and not controls.paused[0]:
            above = controls.bid[0] > self.begins.bid[campaign]
            counts[:, :, OPPORTUNITIES], counts[:, :, CLICKS], counts[:, :, CONVERSIONS] = 100, 10, 6
            counts[:, :, SPEND], counts[:, :, REVENUE] = 60_000 * (1 + above), 100_000
        return counts

    @property
    def history_ticks(self) -> int:
        return 7 * self.approval_ticks

    def machine(
        self, assignments: tuple[Assignment, ...], records: Sequence[Record], state: OptimiserState | None
    ) -> OptimiserMachine:
        """An optimiser where another one left, or at the beginning."""
        return OptimiserMachine(
            self.campaigns,
            self.grid,
            self.limits,
            assignments,
            people=self.people,
            approval_ticks=self.approval_ticks,
            history=History.told_by(records, self.history_ticks, self.approval_ticks),
            state=state,
        )

    def shard(self, campaign: int, state: CampaignState) -> CampaignMachine:
        members, mine = self.alone[campaign]
        return CampaignMachine(mine, members, state, self.grid, factual=False)

    @cached_property
    def alone(self) -> list[tuple[Int64, CampaignSet]]:
        """Every campaign as a set of its own."""
        members = [np.array([campaign]) for campaign in range(len(self.campaigns))]
        return [(mine, self.campaigns.select(mine)) for mine in members]


@dataclass(frozen=True)
class Account:
    """Everything that is durable or can be restored, after the rows of the last round were applied.

    `partly` are the controls as they were while the campaigns applied the round one after the other; `applied` are the
    rows that every round applied, with its tick, oldest first.
    """

    rules: Rules
    optimiser: OptimiserState
    shards: tuple[CampaignState, ...]
    records: tuple[Record, ...]
    fold: Fold
    results: NDArray[Any] = field(default_factory=NOTHING.copy)
    approved: Approved = field(default_factory=Approved.nothing)
    partly: tuple[ControlState, ...] = ()
    applied: tuple[tuple[int, Actions], ...] = ()

    @classmethod
    def open(cls, rules: Rules, assignments: tuple[Assignment, ...]) -> Account:
        """Before the first boundary."""
        members = [np.array([campaign]) for campaign in range(len(rules.campaigns))]
        shards = tuple(CampaignState.initial(rules.begins.select(rules.campaigns, mine)) for mine in members)
        counts = np.zeros((len(rules.campaigns), len(COUNTS)), dtype=np.int64)
        machine = rules.machine(assignments, (), None)
        (commit,) = machine.handle(Open(View(-1, rules.begins, counts, counts, counts), {}))
        assert isinstance(commit, Commit)
        record = seal(GENESIS, 0, commit.kind, commit.tick, commit.body)
        fold = Fold()
        fold.update(record)
        return cls(rules, machine.state, shards, (record,), fold)

    @property
    def tick(self) -> int:
        """The last boundary held."""
        return self.records[-1].tick

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self.optimiser.limits

    @cached_property
    def controls(self) -> ControlState:
        """The controls in force."""
        return merged(self.rules, self.shards)

    @cached_property
    def round(self) -> Round:
        """The last round as the ledger tells it."""
        return decode_round(self.records[-1])

    def hold(
        self,
        machine: OptimiserMachine,
        commands: tuple[Command, ...] = (),
        ticks: int = 1,
        reloaded: Reloaded | None = None,
    ) -> Account:
        """Live through some ticks, hold the boundary with a machine that stands here, commit, apply."""
        observed, view = self.observe(ticks)
        commit, approved, state = decide(machine, Boundary(view, commands, self.results, reloaded))
        record = seal(self.records[-1].digest, len(self.records), commit.kind, commit.tick, commit.body)
        fold = copy.copy(self.fold)
        fold.update(record)
        shards, results = deliver(self.rules, observed, approved)
        ends = range(1, len(shards) + 1)
        rows = approved.rows.take(results == Result.APPLIED)
        return replace(
            self,
            optimiser=state,
            shards=shards,
            records=(*self.records, record),
            fold=fold,
            results=results,
            approved=approved,
            partly=tuple(merged(self.rules, (*shards[:end], *observed[end:])) for end in ends),
            applied=(*self.applied, (commit.tick, rows)),
        )

    def machine(self, assignments: tuple[Assignment, ...]) -> OptimiserMachine:
        """An optimiser restored from here."""
        return self.rules.machine(assignments, self.records, self.optimiser)

    def closing(self) -> Record:
        """The record that would end the run here."""
        body = closing_body({}, self.results)
        return seal(self.records[-1].digest, len(self.records), RecordKind.CLOSING, self.tick, body)

    def told(self) -> ControlState:
        """The controls that the ledger tells once the last results are recorded."""
        fold = copy.copy(self.fold)
        fold.update(self.closing())
        assert fold.state is not None
        return fold.state

    def lost(
        self,
        after: Account,
        assignments: tuple[Assignment, ...],
        commands: tuple[Command, ...],
        reloaded: Reloaded | None = None,
    ) -> None:
        """Lose processes at every place of the boundary that led to `after`: the outcome is always the same.

        Before the commit nothing is known of the round, which is held again. After it the round is decided again and
        compared. While it is applied, any of the campaigns may have applied it already, and is asked again.
        """
        observed, view = self.observe(after.tick - self.tick)
        boundary = Boundary(view, commands, self.results, reloaded)
        commit, approved, state = decide(self.machine(assignments), boundary)
        written = after.records[-1]
        assert (commit.kind, commit.tick, commit.body) == (written.kind, written.tick, written.body)
        assert canonical(state) == canonical(after.optimiser)
        for applied in range(len(observed) + 1):  # so many campaigns have applied it when the process is lost
            mixed = (*after.shards[:applied], *observed[applied:])
            shards, results = deliver(self.rules, mixed, approved)
            assert results.tolist() == after.results.tolist()
            assert all(mine.controls.equals(its.controls) for mine, its in zip(shards, after.shards, strict=True))

    def observe(self, ticks: int) -> tuple[tuple[CampaignState, ...], View]:
        shards, parts = [], []
        for campaign, state in enumerate(self.shards):
            machine = self.rules.shard(campaign, state)
            counts = self.rules.happens(campaign, state.controls, ticks)
            for _ in range(2):  # delivered twice, counted once
                machine.handle(Advanced(TickCounts(self.tick + 1, counts)))
            (published,) = machine.handle(Publish(self.tick + ticks))
            assert isinstance(published, Published)
            shards.append(machine.state)
            parts.append((np.array([campaign]), published.view))
        return tuple(shards), View.merge(self.rules.campaigns, parts)


def decide(machine: OptimiserMachine, boundary: Boundary) -> tuple[Commit, Approved, OptimiserState]:
    """What a machine says at a boundary: the record, then the rows that it allows."""
    instructions = machine.handle(boundary)
    commits = [each for each in instructions if isinstance(each, Commit)]
    dispatched = [each.approved for each in instructions if isinstance(each, Dispatch)]
    assert len(commits) == len(dispatched) == 1
    assert instructions[0] is commits[0]
    return commits[0], dispatched[0], machine.state


def merged(rules: Rules, shards: Sequence[CampaignState]) -> ControlState:
    """The controls of all campaigns."""
    parts = [(np.array([campaign]), state.controls) for campaign, state in enumerate(shards)]
    return ControlState.merge(rules.campaigns, parts)


def deliver(
    rules: Rules, shards: Sequence[CampaignState], approved: Approved
) -> tuple[tuple[CampaignState, ...], NDArray[Any]]:
    """Apply a round campaign by campaign: the states, and the results in the order of the rows."""
    done, results = [], np.zeros(len(approved), dtype=np.uint8)
    for campaign, state in enumerate(shards):
        machine = rules.shard(campaign, state)
        (answered,) = machine.handle(Apply(approved))
        assert isinstance(answered, Answered)
        results[approved.rows.campaign == campaign] = answered.results
        done.append(machine.state)
    return tuple(done), results


def canonical(value: Any) -> Any:
    """A value of the machines as something that compares and hashes."""
    if isinstance(value, np.ndarray):
        exact = value if value.dtype.kind == "f" else value.astype(np.int64)
        return exact.shape, exact.tobytes()
    if isinstance(value, Mapping):
        return tuple(sorted((canonical(key), canonical(each)) for key, each in value.items()))
    if isinstance(value, frozenset):
        return tuple(sorted(value, key=repr))
    if isinstance(value, tuple | list):
        return tuple(canonical(each) for each in value)
    if hasattr(value, "__dataclass_fields__"):
        return tuple(canonical(getattr(value, name)) for name in value.__dataclass_fields__)
    return value
