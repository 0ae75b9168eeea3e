"""An account in memory: the production machines, a campaign machine per campaign, and the ledger in a tuple.

An `Account` is a value. Holding a boundary gives another one, so a search can branch anywhere, and losing a process is
going back to an earlier value. What became of the history is told by the ledger, as it is after every recovery. Beside
it an account keeps what the ledger told so far and what was spent, gathered without the machines: the invariants are
held against that.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.actions import Actions, Approved, Knob, Result, Source
from engine.campaign_machine import CampaignMachine, CampaignState
from engine.campaigns import CampaignSet, ControlState
from engine.events import CLICKS, COUNTS, SPEND, TickCounts
from engine.ledger import GENESIS, Fold, Record, RecordKind, Round, closing_body, decode_round, seal
from engine.limits import Limits
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
from engine.policy import Trial, View
from engine.rollback import History
from engine.units import Int64, TickGrid
from tests.properties.world import World

NOTHING = np.empty(0, dtype=np.uint8)


@dataclass(frozen=True)
class Rules:
    """What does not change while an account is steered; the limits are those it begins with."""

    campaigns: CampaignSet
    begins: ControlState
    limits: Limits
    grid: TickGrid
    people: Mapping[str, frozenset[Role]]
    approval_ticks: int
    trial: Trial | None = None

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
            trial=self.trial,
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


class Outside(NamedTuple):
    """What comes in at a boundary beside views, results and commands."""

    reloaded: Reloaded | None = None
    leased: bool = True


QUIET = Outside()


class Seen(NamedTuple):
    """Lifetime spend (micros) and clicks of every campaign at a boundary."""

    tick: int
    spend: Int64
    clicks: Int64


@dataclass(frozen=True)
class Past:
    """What the ledger told and what was spent so far, oldest first; no invariant asks a machine what it remembers.

    applied:
        The rows that every round applied, with its tick.
    within:
        The actions that were applied inside a mandate, as the limits of their rounds had it.
    taken_back:
        The actions that rollbacks took back, each with the tick of its rollback's round.
    watched:
        The actions under watch, and their knobs.
    episodes:
        The first actions of open episodes on their knobs, and these.
    closed_at:
        The tick at which a person last closed the breaker; −1: never.
    seen:
        What was spent up to each boundary.
    """

    applied: tuple[tuple[int, Actions], ...] = ()
    within: frozenset[int] = frozenset()
    taken_back: tuple[tuple[int, Actions], ...] = ()
    watched: Mapping[int, tuple[int, Knob]] = field(default_factory=dict)
    episodes: Mapping[int, tuple[int, Knob]] = field(default_factory=dict)
    closed_at: int = -1
    seen: tuple[Seen, ...] = ()

    def after(self, round_: Round, tick: int, rows: Actions, lifetime: Int64, limits: Limits) -> Past:
        """With a round, the rows of it that were applied, the lifetime counts it saw, and the limits in force."""
        watched, episodes = dict(self.watched), dict(self.episodes)
        for told in round_.header["watches"]:
            place = told["campaign"], Knob(told["knob"])
            match told["event"]:
                case "opened":
                    watched[told["action"]] = place
                case "begun":
                    episodes[told["action"]] = place
                case "rolls_back":  # its end is told when the rollback was applied
                    assert place == (watched | episodes)[told["action"]]
                case _:
                    assert place == (watched if told["action"] in watched else episodes).pop(told["action"])
        closed = any(told["answer"] == "closed" for told in round_.header["commands"])
        mandated = (rows.source > Source.ROLLBACK) & (tick <= limits.mandate_until[rows.campaign, rows.knob])
        mandated &= ~target(rows)
        return Past(
            applied=(*self.applied, (tick, rows)),
            within=self.within | set(rows.action[mandated].tolist()),
            taken_back=(*self.taken_back, *((tick, self.rows_of(action)) for action in taken_back(round_, rows))),
            watched=watched,
            episodes=episodes,
            closed_at=tick if closed else self.closed_at,
            seen=(*self.seen, Seen(tick, lifetime[:, SPEND], lifetime[:, CLICKS])),
        )

    def rows_of(self, action: int) -> Actions:
        """The rows of an applied action: one, or a whole vector."""
        for _, rows in self.applied:
            (place,) = np.nonzero(rows.action == action)
            if place.size:
                return rows.take((rows.campaign == rows.campaign[place]) & (rows.knob == rows.knob[place]))
        raise AssertionError(f"action {action} was never applied")

    def standing(self, campaign: int, knob: Knob) -> list[Actions]:
        """What was applied to a knob and not taken back, alone or with what stood beneath it; oldest first."""
        undone = {tick: rows for tick, rows in self.taken_back if key_of(rows) == (campaign, knob)}
        stands: list[Actions] = []
        for tick, rows in self.applied:
            mine = rows.take((rows.campaign == campaign) & (rows.knob == knob))
            if len(mine) and mine.source[0] != Source.ROLLBACK:
                stands.append(mine)
            elif tick in undone:
                stands = [each for each in stands if each.action[0] < undone[tick].action[0]]
        return stands


def key_of(rows: Actions) -> tuple[int, Knob]:
    """The campaign and knob of rows that have one."""
    return int(rows.campaign[0]), Knob(rows.knob[0])


def target(rows: Actions) -> NDArray[np.bool_]:
    """Applied rows of changes by which something else than a person or a rollback makes an audience a target."""
    anew = (rows.knob == Knob.MODIFIERS) & (rows.old == 0) & (rows.source > Source.ROLLBACK)
    return (rows.knob == Knob.MODIFIERS) & np.isin(rows.campaign, rows.campaign[anew])


def branched(fold: Fold) -> Fold:
    """A fold that goes on by itself: the lives it follows are changed in place."""
    branch = copy.copy(fold)
    branch.lives = copy.deepcopy(fold.lives)
    return branch


def taken_back(round_: Round, rows: Actions) -> list[int]:
    """The actions that a round's applied rollbacks took back: those that people or watches had asked for."""
    asked = {
        (told["campaign"], told["knob"]): told["action"]
        for told in round_.header["watches"]
        if told["event"] == "rolls_back"
    } | {
        (told["campaign"], told["knob"]): told["undoes"]
        for told in round_.header["commands"]
        if told["undoes"] is not None
    }
    undo = rows.take(rows.source == Source.ROLLBACK)
    keys = dict.fromkeys(zip(undo.campaign.tolist(), undo.knob.tolist(), strict=True))
    return [asked[key] for key in keys]


@dataclass(frozen=True)
class Account:
    """Everything that is durable or can be restored, after the rows of the last round were applied.

    `partly` are the controls as they were while the campaigns applied the round one after the other.
    """

    rules: Rules
    world: World
    optimiser: OptimiserState
    shards: tuple[CampaignState, ...]
    records: tuple[Record, ...]
    fold: Fold
    results: NDArray[Any] = field(default_factory=NOTHING.copy)
    approved: Approved = field(default_factory=Approved.nothing)
    partly: tuple[ControlState, ...] = ()
    past: Past = field(default_factory=Past)

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
        world = World(rules.campaigns, rules.approval_ticks)
        return cls(rules, world, machine.state, shards, (record,), fold)

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
        outside: Outside = QUIET,
    ) -> Account:
        """Live through some ticks, hold the boundary with a machine that stands here, commit, apply."""
        observed, boundary = self.reach(commands, ticks, outside)
        commit, approved, state = decide(machine, boundary)
        record = seal(self.records[-1].digest, len(self.records), commit.kind, commit.tick, commit.body)
        fold = branched(self.fold)
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
            past=self.past.after(decode_round(record), commit.tick, rows, boundary.view.lifetime, state.limits),
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
        fold = branched(self.fold)
        fold.update(self.closing())
        assert fold.state is not None
        return fold.state

    def lost(
        self,
        after: Account,
        assignments: tuple[Assignment, ...],
        commands: tuple[Command, ...],
        outside: Outside = QUIET,
    ) -> None:
        """Lose processes at every place of the boundary that led to `after`: the outcome is always the same.

        Before the commit nothing is known of the round, which is held again. After it the round is decided again and
        compared. While it is applied, any of the campaigns may have applied it already, and is asked again.
        """
        observed, boundary = self.reach(commands, after.tick - self.tick, outside)
        commit, approved, state = decide(self.machine(assignments), boundary)
        written = after.records[-1]
        assert (commit.kind, commit.tick, commit.body) == (written.kind, written.tick, written.body)
        assert canonical(state) == canonical(after.optimiser)
        for applied in range(len(observed) + 1):  # so many campaigns have applied it when the process is lost
            mixed = (*after.shards[:applied], *observed[applied:])
            shards, results = deliver(self.rules, mixed, approved)
            assert results.tolist() == after.results.tolist()
            assert all(mine.controls.equals(its.controls) for mine, its in zip(shards, after.shards, strict=True))

    def reach(
        self, commands: tuple[Command, ...], ticks: int, outside: Outside
    ) -> tuple[tuple[CampaignState, ...], Boundary]:
        """Live through some ticks: the campaigns at the next boundary, and all that comes in there."""
        observed, view = self.observe(ticks)
        return observed, Boundary(view, commands, self.results, outside.reloaded, outside.leased)

    def observe(self, ticks: int) -> tuple[tuple[CampaignState, ...], View]:
        """What the world does to the campaigns over some ticks, and the view of it."""
        shards, parts = [], []
        for campaign, state in enumerate(self.shards):
            machine = self.rules.shard(campaign, state)
            counts = self.world.counts(campaign, state.controls, self.tick + 1, ticks)
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
