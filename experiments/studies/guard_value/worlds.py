"""One world lived through in three ways: by nobody's hand, by a policy under the guard, and by the same without it.

All three draw the same random numbers, so what differs is the hand. The way without a guard is an unguarded evaluation:
a world, a policy and nothing else, no optimiser and no ledger; nothing of it is ever applied anywhere.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet
from scipy.stats import beta

from engine.actions import Proposals, Source
from engine.campaigns import CampaignSet, ControlState, Period
from engine.episodes import NOTHING_DIFFERS
from engine.events import COUNTS, REVENUE, SPEND
from engine.judgement import Outcome, Reason
from engine.ledger import RecordKind, decode_round
from engine.optimiser import Assignment
from engine.policy import Policy, View
from engine.runtime.local import LocalRunner
from engine.runtime.plan import Plan
from engine.runtime.store import LEDGER, read_ledger
from engine.units import Float64, Int64
from engine.verdicts import BEGINNINGS, Event
from sim.unguarded import UNGUARDED

DAY = 24
"""Ticks of an hour."""


@dataclass(frozen=True)
class Lived:
    """What came of a run: int64[ticks, n, len(COUNTS)] counts."""

    counts: Int64

    def profit(self, since: int, until: int | None = None) -> int:
        """Revenue less spend of all campaigns in the ticks [since, until), micros."""
        total = self.counts[since:until].sum(axis=(0, 1))
        return int(total[REVENUE] - total[SPEND])

    def spend(self, since: int) -> int:
        """Of all campaigns from a tick on, micros."""
        return int(self.counts[since:, :, SPEND].sum())


@dataclass(frozen=True)
class Unguarded(Lived):
    """Likewise, of an unguarded evaluation; `kind` says everywhere what this is."""

    kind: str = field(default=UNGUARDED, init=False)


@dataclass(frozen=True)
class Ended:
    """How a watch or an episode ended: what it was about, after how many ticks of its beginning, and why."""

    campaign: int
    event: Event
    begun: int
    ticks: int
    why: str
    control: str


@dataclass(frozen=True)
class Guarded(Lived):
    """Likewise, with what the ledger tells: how watches ended, refusals by reason, and when the breaker opened."""

    ended: tuple[Ended, ...]
    refused: Counter[str]
    breaker: tuple[int, ...]


def unmoved(plan: Plan) -> Lived:
    """Nobody moves anything."""
    source = plan.source(np.arange(len(plan.campaigns)))
    counts = source.advance(0, plan.grid.ticks, plan.controls).counts
    return Lived(counts.of_campaigns(plan.campaigns.cell_start))


def unguarded(plan: Plan, policy: Policy) -> Unguarded:
    """A policy's wishes put in force as they are, at the close of every tick, with nothing in between."""
    campaigns, controls, grid = plan.campaigns, plan.controls, plan.grid
    source = plan.source(np.arange(len(campaigns)))
    daily = (campaigns.period == Period.DAY)[:, np.newaxis]
    counts = np.zeros((grid.ticks, len(campaigns), len(COUNTS)), dtype=np.int64)
    period, lifetime = np.zeros_like(counts[0]), np.zeros_like(counts[0])
    memory = policy.start(campaigns, grid)
    for tick in range(grid.ticks):
        recent = source.advance(tick, tick + 1, controls).counts.of_campaigns(campaigns.cell_start)[0]
        if tick and grid.closes_day[tick - 1]:
            period = np.where(daily, 0, period)
        counts[tick], period, lifetime = recent, period + recent, lifetime + recent
        rows, memory = policy.propose(View(tick, controls, recent, period, lifetime), memory)
        controls = _put_in_force(campaigns, controls, rows)
    return Unguarded(counts)


def _put_in_force(campaigns: CampaignSet, controls: ControlState, rows: Proposals) -> ControlState:
    scalar, weights = controls.scalar.copy(), controls.weights.copy()
    is_scalar = rows.knob < scalar.shape[1]
    scalar[rows.campaign[is_scalar], rows.knob[is_scalar]] = rows.wanted[is_scalar]
    weights[campaigns.creative_start[rows.campaign[~is_scalar]] + rows.index[~is_scalar]] = rows.wanted[~is_scalar]
    return replace(controls, scalar=scalar, weights=weights)


def guarded(plan: Plan, policy: Policy | None = None) -> Guarded:
    """The ordinary run of a plan, its policies replaced by this one if it is given."""
    if policy is not None:
        everybody = np.arange(len(plan.campaigns))
        plan = replace(plan, assignments=(Assignment(policy, everybody, Source.POLICY, type(policy).__name__),))
    with TemporaryDirectory() as name:
        folder = Path(name)
        LocalRunner(checkpoint_every=plan.grid.ticks).run(plan, folder)
        table = pyarrow.parquet.read_table(folder / "metrics.parquet", columns=list(COUNTS))
        columns = [table[column].to_numpy() for column in COUNTS]
        counts = np.stack(columns, axis=1).reshape(plan.grid.ticks, len(plan.campaigns), len(COUNTS))
        return _told(folder / LEDGER, counts)


def _told(ledger: Path, counts: Int64) -> Guarded:
    begun: dict[tuple[int, int], int] = {}
    ended: dict[tuple[int, int], Ended] = {}
    refused, breaker, was_open = Counter[str](), [], False
    for record in read_ledger(ledger):
        if record.kind is not RecordKind.ROUND:
            continue
        told = decode_round(record)
        for each in told.header["watches"]:
            event, campaign, action = Event(each["event"]), each["campaign"], each["action"]
            if event in BEGINNINGS:
                begun[campaign, action] = record.tick - 1
            elif event is not Event.ROLLS_BACK and each["why"] != NOTHING_DIFFERS:
                since = begun[campaign, action]
                end = Ended(campaign, event, since, record.tick - since, each["why"], each["control"])
                ended.setdefault((campaign, record.tick), end)  # the knobs of an episode end together
        reasons = told.judged["reason"][told.judged["outcome"] == Outcome.REFUSED]
        refused.update(Reason(reason).name.lower() for reason in reasons.tolist())
        if told.header["breaker"] and not was_open:
            breaker.append(record.tick)
        was_open = told.header["breaker"]
    return Guarded(counts, tuple(ended.values()), refused, tuple(breaker))


def share(hits: int, of: int) -> dict[str, float]:
    """A share with its 95 % interval (Clopper & Pearson)."""
    low = float(beta.ppf(0.025, hits, of - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, of - hits)) if hits < of else 1.0
    return {"share": round(hits / of, 4) if of else 0.0, "low": round(low, 4), "high": round(high, 4)}


def interval(values: Float64, others: Float64, draws: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of Σ values / Σ others over worlds; both float64[worlds]."""
    chosen = np.random.default_rng(1).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(values[chosen].sum(axis=1) / others[chosen].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)
