"""Small campaigns, states and proposals that the tests of the domain start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.actions import Approved, Knob, Proposals, Result, Source, proposals
from engine.campaigns import CampaignSet, Charging, ControlState, Period, apply
from engine.guard import check, in_mandate
from engine.judgement import Judgement, Outcome, Reason
from engine.ledger import GENESIS, Record, RecordKind, closing_body, opening_body, round_body, seal
from engine.limits import Limits
from engine.standing import Standing
from engine.units import Int64

BID, BUDGET = 1_000_000, 100_000_000
MIN_BID, MAX_BID = 1_000, 50_000_000
MIN_BUDGET, MAX_BUDGET = 2_000_000, 1_000_000_000


def campaign_set(
    creatives: Sequence[int] = (1,), period: Period = Period.DAY, audiences: tuple[str, ...] = ()
) -> CampaignSet:
    """One campaign per entry, with so many creatives, all in one market, which tells these audiences apart."""
    n = len(creatives)
    ones = np.ones(n, dtype=np.int64)
    return CampaignSet(
        ids=tuple(sorted(f"campaign-{place}" for place in range(n))),
        channels=("search",) * n,
        markets=("market",),
        market=np.zeros(n, dtype=np.int64),
        charging=np.full(n, Charging.PER_IMPRESSION, dtype=np.uint8),
        period=np.full(n, period, dtype=np.uint8),
        creative_start=np.concatenate(([0], np.cumsum(creatives))).astype(np.int64),
        creatives=tuple(f"creative-{place}" for place in range(sum(creatives))),
        min_bid=ones * MIN_BID,
        max_bid=ones * MAX_BID,
        min_budget=ones * MIN_BUDGET,
        max_budget=ones * MAX_BUDGET,
        audiences=(audiences,) if audiences else (),
    )


def controls(
    campaigns: CampaignSet, bid: int = BID, budget: int = BUDGET, weights: Int64 | None = None
) -> ControlState:
    """The same bid and budget for every campaign."""
    ones = np.ones(len(campaigns), dtype=np.int64)
    return ControlState.initial(campaigns, ones * bid, ones * budget, weights)


def mandated(campaigns: CampaignSet, account_budget: int | None = None) -> Limits:
    """Limits under which every knob of every campaign may move automatically, for the whole run."""
    return Limits.of(campaigns, account_budget).with_mandate(np.arange(len(campaigns)), tuple(Knob))


def wish(
    wanted: Any,
    knob: Knob = Knob.BID,
    source: Source = Source.POLICY,
    campaign: int = 0,
    version: int = 0,
) -> Proposals:
    """One proposal row."""
    return proposals([campaign], knob, [wanted], version, source, "test")


def vector(wanted: Sequence[Any], source: Source = Source.POLICY, campaign: int = 0, version: int = 0) -> Proposals:
    """A whole weight vector."""
    rows = np.full(len(wanted), campaign)
    return proposals(rows, Knob.WEIGHTS, list(wanted), version, source, "test", index=np.arange(len(wanted)))


def modified(wanted: dict[int, Any], source: Source = Source.POLICY, campaign: int = 0, version: int = 0) -> Proposals:
    """Modifiers of some audiences of a campaign, by their places."""
    rows = np.full(len(wanted), campaign)
    return proposals(rows, Knob.MODIFIERS, list(wanted.values()), version, source, "test", index=list(wanted))


def answers(judgement: Judgement) -> list[tuple[Outcome, Reason, int]]:
    """The guard's answers row by row: outcome, reason, offer."""
    columns = (judgement.outcome.tolist(), judgement.reason.tolist(), judgement.offer.tolist())
    return [(Outcome(outcome), Reason(reason), offer) for outcome, reason, offer in zip(*columns, strict=True)]


class Desk:
    """One set of campaigns with its controls, its limits and its ledger: judges, applies and records round by round."""

    def __init__(
        self, campaigns: CampaignSet, state: ControlState | None = None, limits: Limits | None = None, tick: int = 0
    ) -> None:
        self.campaigns = campaigns
        self.state = controls(campaigns) if state is None else state
        self.limits = mandated(campaigns) if limits is None else limits
        self.tick = tick
        self.standing = Standing.initial(len(campaigns))
        self.records: list[Record] = []
        self.results = np.empty(0, dtype=np.uint8)
        self._write(RecordKind.OPENING, opening_body({"seed": 7}, campaigns.layout, self.state))

    def judge(self, *batches: Proposals, granted: Any = None) -> Judgement:
        """Ask the guard; nothing changes."""
        rows = Proposals.concatenate(batches)
        granted = None if granted is None else np.asarray(granted, dtype=np.bool_)
        sequence = len(self.records)
        return check(
            self.campaigns,
            self.state,
            rows,
            self.limits,
            sequence=sequence,
            tick=self.tick,
            granted=granted,
            standing=self.standing.seen(self.tick, self.state, self.limits.day),
        )

    def hold(self, *batches: Proposals, granted: Any = None) -> Judgement:
        """Hold a round: judge, record, apply."""
        judgement = self.judge(*batches, granted=granted)
        self._write(RecordKind.ROUND, round_body({}, judgement, self.results))
        self.standing = self.standing.seen(self.tick, self.state, self.limits.day)
        self.apply(judgement.approved)
        applied = judgement.approved.rows.take(self.results == Result.APPLIED)
        mandated_rows = in_mandate(applied, self.limits, self.tick)
        self.standing = self.standing.after(self.tick, applied, mandated_rows, self.limits.day)
        self.tick += 1
        return judgement

    def apply(self, approved: Approved) -> list[int]:
        """Apply rows, and keep their results for the next record."""
        self.state, self.results = apply(self.campaigns.layout, self.state, approved)
        return [int(result) for result in self.results]

    def close(self) -> list[Record]:
        """End the run; its records."""
        self._write(RecordKind.CLOSING, closing_body({"ticks": self.tick}, self.results))
        return self.records

    def _write(self, kind: RecordKind, body: bytes) -> None:
        previous = self.records[-1].digest if self.records else GENESIS
        self.records.append(seal(previous, len(self.records), kind, self.tick, body))


def reseal(records: Sequence[Record], place: int, body: bytes) -> list[Record]:
    """The ledger with another body at one place, its chain made to hold again: what a forger would write."""
    forged: list[Record] = []
    for record in records:
        previous = forged[-1].digest if forged else GENESIS
        mine = body if record.sequence == place else record.body
        forged.append(seal(previous, record.sequence, record.kind, record.tick, mine))
    return forged


def with_limits(limits: Limits, **columns: Any) -> Limits:
    """Limits with some columns filled with other values."""
    return replace(limits, **{name: np.full_like(getattr(limits, name), value) for name, value in columns.items()})
