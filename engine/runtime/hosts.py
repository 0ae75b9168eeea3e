"""The hosts of the machines, as plain objects: a local runner calls them, Ray actors are made of them.

A `SourceHost` feeds campaigns, a `CampaignHost` holds their machine, a `ShardHost` is both in one process, and an
`OptimiserHost` holds the optimiser's machine and its ledger.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from engine.actions import Approved
from engine.campaign_machine import CampaignMachine, CampaignState
from engine.campaigns import ControlState
from engine.events import Events, Opportunities, TickCounts, sum_cells
from engine.ledger import LedgerError, decode_round
from engine.messages import (
    Advanced,
    Answer,
    Answered,
    Apply,
    Boundary,
    Close,
    Command,
    Commit,
    Dispatch,
    Open,
    OptimiserMessage,
    Publish,
    Published,
    Reloaded,
)
from engine.optimiser import OptimiserMachine
from engine.policy import Batch, View
from engine.rollback import History
from engine.runtime.inbox import Inbox
from engine.runtime.lease import Lease
from engine.runtime.limits import Lookout
from engine.runtime.plan import Moment, Plan
from engine.runtime.store import LedgerWriter
from engine.units import Int64

STEADY = ("bid_micros", "budget_micros", "paused")
"""Controls that stand beside the counts in every row of the metrics table."""


@dataclass(frozen=True)
class Report:
    """What some campaigns tell after a step: the optimiser their view and its results, the metrics table their counts.

    It is one object, since Ray hands it to both without copying it, and every further object costs both a wait.
    """

    members: Int64
    view: View
    results: NDArray[Any]  # uint8, a Result per row of the last round that concerns them
    counts: Int64  # [ticks, members, len(COUNTS)]; the view's controls were in force at all of these ticks


@dataclass(frozen=True)
class Records:
    """What a source recorded over a span, how many auctions it held, and what it knows beside what it shows.

    It goes to the tables alone: neither a campaign nor a policy ever sees the truth.
    """

    members: Int64
    events: Events
    opportunities: Opportunities
    auctions: int
    truth: Int64 | None  # [ticks, members, len(TRUTH)]


class CampaignHost:
    """The machine of some campaigns, and the calls a runner or a handle makes on it."""

    def __init__(self, plan: Plan, members: Int64, *, factual: bool) -> None:
        self.members = members
        self.campaigns = plan.campaigns.select(members)
        self._plan = plan
        self._factual = factual
        self.restore(None)

    def state(self) -> bytes:
        """What a checkpoint keeps."""
        return pickle.dumps((self._machine.state, self._results))

    def restore(self, state: bytes | None) -> None:
        """Go back to a checkpoint; None: to the beginning."""
        if state is None:
            begins = CampaignState.initial(self._plan.controls.select(self._plan.campaigns, self.members))
            self._results = np.empty(0, dtype=np.uint8)
        else:
            begins, self._results = pickle.loads(state)  # noqa: S301 - our own bytes, checked by their digest
        self._machine = CampaignMachine(self.campaigns, self.members, begins, self._plan.grid, factual=self._factual)

    def apply(self, approved: Approved) -> ControlState:
        """Put a round's rows in force, keep the answer for the next report, and tell the controls."""
        tick = self._machine.state.next_tick
        self._plan.rehearsal(Moment.BEFORE_APPLY, tick)
        answers = self._machine.handle(Apply(approved))
        self._results = np.concatenate([answer.results for answer in answers if isinstance(answer, Answered)])
        self._plan.rehearsal(Moment.AFTER_APPLY, tick)
        return self._machine.state.controls

    def observe(self, happened: Advanced) -> Report:
        """Count what happened over a span, and publish."""
        counts = happened.counts
        self._machine.handle(happened)
        (published,) = self._machine.handle(Publish(counts.first_tick + counts.ticks - 1))
        assert isinstance(published, Published)
        self._plan.rehearsal(Moment.AFTER_SPAN, counts.first_tick)
        by_campaign = counts.of_campaigns(self.campaigns.cell_start)
        return Report(self.members, published.view, self._results, by_campaign)

    def snapshot(self, campaign: int) -> tuple[dict[str, int], Int64]:
        """Controls and lifetime counts of one campaign, by its position in the run."""
        place = int(np.searchsorted(self.members, campaign))
        controls = self._machine.state.controls
        steady = (controls.bid, controls.budget, controls.paused)
        known = {name: int(column[place]) for name, column in zip(STEADY, steady, strict=True)}
        return known, self._machine.state.lifetime.get()[place]


class SourceHost:
    """The event source of some campaigns."""

    def __init__(self, plan: Plan, members: Int64) -> None:
        self._plan = plan
        self._members = members
        self._campaigns = plan.campaigns.select(members)

        self.restore(None)

    def factual(self) -> bool:
        """Whether outcomes are as logged whatever the controls say."""
        return self._source.factual

    def state(self) -> bytes:
        """What a checkpoint keeps."""
        return pickle.dumps(self._source.state())

    def restore(self, state: bytes | None) -> None:
        """Go back to a checkpoint; None: to the beginning."""
        self._source = self._plan.source(self._members)
        if state is not None:
            self._source.restore(pickle.loads(state))  # noqa: S301 - our own bytes, checked by their digest

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:
        """Emit the ticks [from_tick, to_tick) under the given controls."""
        batch = self._source.advance(from_tick, to_tick, controls)
        self._plan.rehearsal(Moment.IN_SPAN, from_tick)
        return batch

    def advance_apart(
        self, from_tick: int, to_tick: int, groups: Sequence[Int64], *controls: ControlState
    ) -> list[Any]:
        """Emit a span for campaigns that live elsewhere: what happened to each group, then the span's records.

        `groups` are positions among this source's campaigns; together they are all of them.
        """
        merged = ControlState.merge(self._campaigns, list(zip(groups, controls, strict=True)))
        batch = self.advance(from_tick, to_tick, merged)
        return [*(self._happened_to(group, batch) for group in groups), self.records(batch)]

    def _happened_to(self, group: Int64, batch: Batch) -> Advanced:
        """What a batch tells a group of campaigns, by their positions among this source's."""
        values = batch.counts.values[:, self._campaigns.cells_of(group)]
        prices = None if batch.prices is None else batch.prices.select(group)
        return Advanced(TickCounts(batch.counts.first_tick, values), prices)

    def records(self, batch: Batch) -> Records:
        """What the tables get of a span."""
        truth = None if batch.truth is None else sum_cells(batch.truth, self._campaigns.cell_start)
        return Records(self._members, batch.events, batch.opportunities, batch.auctions, truth)


class ShardHost:
    """Campaigns and the source that feeds them, in one process."""

    def __init__(self, plan: Plan, members: Int64) -> None:
        self._source = SourceHost(plan, members)
        self._campaigns = CampaignHost(plan, members, factual=self._source.factual())

    def state(self) -> bytes:
        """What a checkpoint keeps."""
        return pickle.dumps((self._source.state(), self._campaigns.state()))

    def restore(self, state: bytes | None) -> None:
        """Go back to a checkpoint; None: to the beginning."""
        of_source, of_campaigns = pickle.loads(state) if state else (None, None)  # noqa: S301 - as above
        self._source.restore(of_source)
        self._campaigns.restore(of_campaigns)

    def step(self, approved: Approved, from_tick: int, to_tick: int) -> tuple[Report, Records]:
        """Apply the last round, live through a span, and report."""
        controls = self._campaigns.apply(approved)
        batch = self._source.advance(from_tick, to_tick, controls)
        report = self._campaigns.observe(Advanced(batch.counts, batch.prices))
        return report, self._source.records(batch)

    def snapshot(self, campaign: int) -> tuple[dict[str, int], Int64]:
        """Controls and lifetime counts of one campaign."""
        return self._campaigns.snapshot(campaign)


class OptimiserHost:
    """The optimiser's machine and the ledger it writes ahead of every dispatch.

    Parameters
    ----------
    ledger:
        The path of the ledger's file in the run's folder.
    clock:
        The wall clock in seconds by which it holds its lease, in a paced run; None: it needs none.
    take_over:
        Whether to take the ledger over from a process that holds it and whose lease has lapsed.
    """

    def __init__(
        self, plan: Plan, ledger: str, clock: Callable[[], float] | None = None, *, take_over: bool = False
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._take_over = take_over
        self._path = ledger
        self._ledger: LedgerWriter | None = None
        self._submitted: list[Command] = []
        self._inbox = Inbox(Path(ledger).parent / "commands", plan.campaigns)
        self._lookout = Lookout(plan.limits_file) if plan.limits_file else None

    def state(self) -> bytes:
        """What a checkpoint keeps."""
        return pickle.dumps(self._machine.state)

    def restore(self, state: bytes | None) -> int:
        """Take the ledger up, and go back to a checkpoint; None: to the beginning. Returns the ledger's epoch.

        Rounds that stand in the ledger after that point are decided again and compared, not written.
        """
        plan, ledger = self._plan, self._taken_up()
        begins = pickle.loads(state) if state else None  # noqa: S301 - our own bytes, checked by their digest
        if begins and begins.sequence > ledger.count:
            raise LedgerError(
                f"the ledger holds {ledger.count} records, and its run had written {begins.sequence} at its last "
                "checkpoint: restore the ledger, or start another run"
            )
        if ledger.count:
            ledger.note("restored", {"records": ledger.count, "decided_again_from": begins.sequence if begins else 0})
        known = ledger.records(begins.sequence if begins else 0)
        self._machine = OptimiserMachine(
            plan.campaigns,
            plan.grid,
            plan.limits,
            plan.assignments,
            people=plan.people,
            approval_ticks=plan.approval_ticks,
            history=History.told_by(known, plan.history_ticks, plan.approval_ticks),
            trial=plan.trial,
            state=begins,
        )
        if begins is None:
            counts = np.zeros((len(plan.campaigns), 0), dtype=np.int64)
            opening = View(-1, plan.controls, counts, counts, counts)
            self._carry_out(Open(opening, dict(plan.header)))
        return ledger.epoch

    def _taken_up(self) -> LedgerWriter:
        if self._ledger is None:
            if Path(self._path).exists():
                clock = self._clock or time.time
                self._ledger = LedgerWriter.open(self._path, clock() if self._take_over else None)
            else:
                self._ledger = LedgerWriter.create(self._path, self._plan.rehearsal)
        return self._ledger

    def release(self) -> None:
        """Let go of the ledger as it stands."""
        if self._ledger is not None:
            self._ledger.release()
            self._ledger = None

    def submit(self, command: Command) -> None:
        """Take a command from outside; it is admitted at the next boundary."""
        self._submitted.append(command)

    def decide(self, tick: int, *reports: Report) -> Approved:
        """Hold a round at the close of a tick; its record is durable when this returns."""
        view = View.merge(self._plan.campaigns, [(report.members, report.view) for report in reports])
        told = self._told()
        commands = self._commands(tick) if told is None else tuple(map(Command.read, told["commands"]))
        leased = self._leased() if told is None else bool(told.get("leased", True))
        return self._carry_out(Boundary(view, commands, self._results(reports), self._reloaded(told), leased))

    def close(self, tick: int, header: Mapping[str, Any], *reports: Report) -> str:
        """End the run; the ledger's head is its digest."""
        self._carry_out(Close(tick, self._results(reports), dict(header)))
        ledger = self._taken_up()
        head = ledger.head.hex()
        ledger.close()
        self._ledger = None
        return head

    def _told(self) -> Mapping[str, Any] | None:
        """What came from outside at this boundary, by the header of its record; None if it is to be written yet."""
        ledger, sequence = self._taken_up(), self._machine.sequence
        return decode_round(ledger.record(sequence)).header if sequence < ledger.count else None

    def _leased(self) -> bool:
        """Whether the lease is held now; outside a paced run there is none to lose."""
        if self._clock is None:
            return True
        return Lease(Path(self._path).parent, self._taken_up().epoch).held(self._clock())

    def _commands(self, tick: int) -> tuple[Command, ...]:
        """The scripted and submitted ones to admit at this boundary."""
        commands = (*self._plan.commands.get(tick, ()), *self._submitted, *self._inbox.admit())
        self._submitted = []
        for command in commands:
            if command.id in self._machine.state.desk.served:
                self._inbox.settle(command.id)
        return commands

    def _reloaded(self, told: Mapping[str, Any] | None) -> Reloaded | None:
        """What the limits file newly says at this boundary: what its record holds if there is one, else the file."""
        if self._lookout is None:
            return None
        if told is not None:
            return self._lookout.recall(told.get("limits"))
        return self._lookout.look(self._machine.reloaded)

    def _carry_out(self, message: OptimiserMessage) -> Approved:
        approved = Approved.nothing()
        sequence = self._machine.sequence
        for instruction in self._machine.handle(message):
            match instruction:
                case Commit():
                    self._commit(sequence, instruction)
                case Dispatch(rows):
                    approved = rows
                case Answer():
                    self._inbox.answer(instruction)
                case _:
                    assert_never(instruction)
        return approved

    def _commit(self, sequence: int, commit: Commit) -> None:
        """Write a record ahead of what it allows; one that stands in the ledger already has to be the same."""
        ledger = self._taken_up()
        if sequence >= ledger.count:
            self._plan.rehearsal(Moment.BEFORE_COMMIT, sequence)
            ledger.append(commit.kind, commit.tick, commit.body)
            self._plan.rehearsal(Moment.AFTER_COMMIT, sequence)
            return
        known = ledger.record(sequence)
        if (known.kind, known.tick, known.body) != (commit.kind, commit.tick, commit.body):
            raise LedgerError(
                f"record {sequence} of the ledger is not what this run decides: "
                "resume with the configuration, log and program that wrote it"
            )

    def _results(self, reports: Sequence[Report]) -> NDArray[Any]:
        """What became of the last round, in the order of its rows."""
        campaign = self._machine.state.round.rows.campaign
        results = np.zeros(len(campaign), dtype=np.uint8)
        for report in reports:
            here = np.zeros(len(self._plan.campaigns), dtype=np.bool_)
            here[report.members] = True
            results[here[campaign]] = report.results
        return results
