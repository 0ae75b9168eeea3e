"""The hosts of the machines, as plain objects: a local runner calls them, Ray actors are made of them.

A `SourceHost` feeds campaigns, a `CampaignHost` holds their machine, a `ShardHost` is both in one process, and an
`OptimiserHost` holds the optimiser's machine and its ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.actions import Approved
from engine.campaign_machine import CampaignMachine
from engine.campaigns import ControlState
from engine.events import Events, Opportunities, TickCounts
from engine.messages import (
    Advanced,
    Answered,
    Apply,
    Boundary,
    Close,
    Command,
    Commit,
    Dispatch,
    Open,
    Publish,
    Published,
)
from engine.optimiser import OptimiserMachine
from engine.policy import Batch, View
from engine.runtime.plan import Plan
from engine.runtime.store import LedgerWriter
from engine.units import Int64

STEADY = ("bid_micros", "budget_micros", "paused")
"""Controls that stand beside the counts in every row of the metrics table."""


@dataclass(frozen=True)
class Report:
    """What the optimiser needs to know of some campaigns after a step."""

    members: Int64
    view: View
    results: NDArray[Any]  # uint8, a Result per row of the last round that concerns them


@dataclass(frozen=True)
class Trace:
    """What the metrics table keeps of some campaigns over a span.

    `values` is int64[ticks, members, len(STEADY) + len(COUNTS)]: the controls in force, then the counts.
    """

    members: Int64
    values: Int64


@dataclass(frozen=True)
class Records:
    """What a source recorded over a span, and how many auctions it held."""

    events: Events
    opportunities: Opportunities
    auctions: int


class CampaignHost:
    """The machine of some campaigns, and the calls a runner or a handle makes on it."""

    def __init__(self, plan: Plan, members: Int64, *, factual: bool) -> None:
        self.members = members
        self.campaigns = plan.campaigns.select(members)
        controls = plan.controls.select(plan.campaigns, members)
        self._machine = CampaignMachine(self.campaigns, members, controls, plan.grid, factual=factual)
        self._results = np.empty(0, dtype=np.uint8)

    @property
    def controls(self) -> ControlState:
        """The controls in force."""
        return self._machine.controls

    def apply(self, approved: Approved) -> ControlState:
        """Put a round's rows in force, keep the answer for the next report, and tell the controls."""
        answers = self._machine.handle(Apply(approved))
        self._results = np.concatenate([answer.results for answer in answers if isinstance(answer, Answered)])
        return self._machine.controls

    def observe(self, counts: TickCounts) -> tuple[Report, Trace]:
        """Count what happened over a span, and publish."""
        self._machine.handle(Advanced(counts))
        (published,) = self._machine.handle(Publish(counts.first_tick + counts.ticks - 1))
        assert isinstance(published, Published)
        return Report(self.members, published.view, self._results), Trace(self.members, self._rows(counts))

    def snapshot(self, campaign: int) -> tuple[dict[str, int], Int64]:
        """Controls and lifetime counts of one campaign, by its position in the run."""
        place = int(np.searchsorted(self.members, campaign))
        controls = self._machine.controls
        steady = (controls.bid, controls.budget, controls.paused)
        known = {name: int(column[place]) for name, column in zip(STEADY, steady, strict=True)}
        return known, self._machine.lifetime.get()[place]

    def _rows(self, counts: TickCounts) -> Int64:
        controls = self._machine.controls
        by_campaign = counts.of_campaigns(self.campaigns.cell_start)
        steady = np.stack([controls.bid, controls.budget, controls.paused.astype(np.int64)], axis=1)
        repeated = np.broadcast_to(steady, (counts.ticks, *steady.shape))
        return np.concatenate([repeated, by_campaign], axis=2)


class SourceHost:
    """The event source of some campaigns."""

    def __init__(self, plan: Plan, members: Int64) -> None:
        self._source = plan.source(members)
        self._members = members
        self._campaigns = plan.campaigns.select(members)

    @property
    def factual(self) -> bool:
        """Whether outcomes are as logged whatever the controls say."""
        return self._source.factual

    def is_factual(self) -> bool:
        """The same, as a call."""
        return self.factual

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:
        """Emit the ticks [from_tick, to_tick) under the given controls."""
        return self._source.advance(from_tick, to_tick, controls)

    def advance_apart(
        self, from_tick: int, to_tick: int, groups: Sequence[Int64], *controls: ControlState
    ) -> list[Any]:
        """Emit a span for campaigns that live elsewhere: the counts of each group, then the span's records.

        `groups` are positions among this source's campaigns; together they are all of them.
        """
        merged = ControlState.merge(self._campaigns, list(zip(groups, controls, strict=True)))
        batch = self._source.advance(from_tick, to_tick, merged)
        cells = [self._campaigns.cells_of(group) for group in groups]
        counts = [TickCounts(from_tick, batch.counts.values[:, mine]) for mine in cells]
        return [*counts, Records(batch.events, batch.opportunities, batch.auctions)]


class ShardHost:
    """Campaigns and the source that feeds them, in one process."""

    def __init__(self, plan: Plan, members: Int64) -> None:
        self._source = SourceHost(plan, members)
        self._campaigns = CampaignHost(plan, members, factual=self._source.factual)

    def step(self, approved: Approved, from_tick: int, to_tick: int) -> tuple[Report, Trace, Records]:
        """Apply the last round, live through a span, and report."""
        controls = self._campaigns.apply(approved)
        batch = self._source.advance(from_tick, to_tick, controls)
        report, trace = self._campaigns.observe(batch.counts)
        return report, trace, Records(batch.events, batch.opportunities, batch.auctions)

    def snapshot(self, campaign: int) -> tuple[dict[str, int], Int64]:
        """Controls and lifetime counts of one campaign."""
        return self._campaigns.snapshot(campaign)


class OptimiserHost:
    """The optimiser's machine and the ledger it writes ahead of every dispatch."""

    def __init__(self, plan: Plan, ledger: str) -> None:
        self._plan = plan
        self._ledger = LedgerWriter.create(ledger)
        self._machine = OptimiserMachine(
            plan.campaigns,
            plan.grid,
            plan.limits,
            plan.assignments,
            approval_ticks=plan.approval_ticks,
            history_ticks=plan.history_ticks,
        )
        self._round = Approved.nothing()
        self._submitted: list[Command] = []
        counts = np.zeros((len(plan.campaigns), 0), dtype=np.int64)
        opening = View(-1, plan.controls, counts, counts, counts)
        self._carry_out(self._machine.handle(Open(opening, dict(plan.header))))

    def submit(self, command: Command) -> None:
        """Take a command from outside; it is admitted at the next boundary."""
        self._submitted.append(command)

    def decide(self, tick: int, *reports: Report) -> Approved:
        """Hold a round at the close of a tick; its record is durable when this returns."""
        view = View.merge(self._plan.campaigns, [(report.members, report.view) for report in reports])
        commands = (*self._plan.commands.get(tick, ()), *self._submitted)
        self._submitted = []
        return self._carry_out(self._machine.handle(Boundary(view, commands, self._results(reports))))

    def close(self, tick: int, header: Mapping[str, Any], *reports: Report) -> str:
        """End the run; the ledger's head is its digest."""
        self._carry_out(self._machine.handle(Close(tick, self._results(reports), dict(header))))
        head = self._ledger.head.hex()
        self._ledger.close()
        return head

    def _carry_out(self, instructions: Sequence[Commit | Dispatch]) -> Approved:
        approved = Approved.nothing()
        for instruction in instructions:
            if isinstance(instruction, Commit):
                self._ledger.append(instruction.kind, instruction.tick, instruction.body)
            else:
                self._round = approved = instruction.approved
        return approved

    def _results(self, reports: Sequence[Report]) -> NDArray[Any]:
        """What became of the last round, in the order of its rows."""
        campaign = self._round.rows.campaign
        results = np.zeros(len(campaign), dtype=np.uint8)
        for report in reports:
            results[np.isin(campaign, report.members)] = report.results
        return results
