"""`guard`: proposals judged and durably logged, rows per second in rounds of 10,000, one commit per round.

A round asks for 8,000 bids and, of some of the same campaigns, 2,000 budgets; one bid in ten breaks the step law and is
refused with an offer. The guard judges them, the round is encoded and the ledger's writer makes it durable. The
baseline puts the very columns of the judged rows into an SQLite table, as durably, one transaction per round.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from engine.actions import Knob, Proposals, Result, Source, proposals
from engine.campaigns import CampaignSet, ControlState
from engine.guard import check
from engine.judgement import Judgement, Outcome, Reason
from engine.ledger import RecordKind, round_body
from engine.limits import Limits
from engine.runtime.store import LEDGER, LedgerWriter
from engine.standing import Standing
from experiments.benchmarks.measuring import Figure, alike, by_turns

ROWS = 10_000  # of a round
BID_MICROS, BUDGET_MICROS = 1_000_000, 10**10
DAY = 48
_BIDS = 4  # rows in five
_TABLE = """
CREATE TABLE judged (campaign INTEGER, knob INTEGER, "index" INTEGER, old INTEGER, wanted INTEGER,
                     base_version INTEGER, source INTEGER, note INTEGER, outcome INTEGER, reason INTEGER)
"""


def measure(*, small: bool) -> Figure:
    """Rows per second of guard and ledger, and of plain inserts."""
    rows, rounds, repeats = (500, 3, 1) if small else (ROWS, 40, 5)
    job = busy(rows)
    judged = [job.judge(sequence) for sequence in range(1, rounds + 1)]
    rate, baseline = by_turns(lambda: _guard_rate(job, rounds), lambda: _insert_rate(judged), repeats)
    return Figure(rate, "rows/s", "SQLite inserts", baseline)


@dataclass(frozen=True)
class Job:
    """What every round is judged against, and what two rounds in turn ask for."""

    campaigns: CampaignSet
    controls: ControlState
    limits: Limits
    standing: Standing
    asked: tuple[Proposals, Proposals]

    def judge(self, sequence: int) -> Judgement:
        """Judge the round of a sequence."""
        asked = self.asked[sequence % 2]
        return check(
            self.campaigns,
            self.controls,
            asked,
            self.limits,
            sequence=sequence,
            tick=sequence,
            standing=self.standing.seen(sequence, self.controls, DAY),
        )


def busy(rows: int) -> Job:
    """A job with so many rows in a round (a multiple of 50)."""
    n = rows * _BIDS // 5
    bounds = [(micros // 10, micros * 10) for micros in (BID_MICROS, BUDGET_MICROS)]
    campaigns = alike([f"campaign-{place:05d}" for place in range(n)], [0] * n, *bounds)
    limits = Limits.of(campaigns).with_mandate(np.arange(n), (Knob.BID, Knob.BUDGET))
    bids, budgets = np.arange(n), np.arange(rows - n)
    reach = np.where(bids % 10 == 0, 0.5, 0.05 + 0.01 * (bids % 10))  # one in ten wants too much

    def asked(sign: int) -> Proposals:
        moved = (BID_MICROS * (1 + sign * reach)).astype(np.int64)
        of_bids = proposals(bids, Knob.BID, moved, 0, Source.POLICY, "pacing", proposer="pacing")
        wanted = BUDGET_MICROS - sign * BUDGET_MICROS // 20
        of_budgets = proposals(budgets, Knob.BUDGET, wanted, 0, Source.POLICY, "daily budgets", proposer="budgets")
        return Proposals.concatenate([of_bids, of_budgets])

    return Job(
        campaigns,
        ControlState.initial(campaigns, np.full(n, BID_MICROS), np.full(n, BUDGET_MICROS)),
        replace(limits, day=DAY),
        Standing.initial(n),
        (asked(1), asked(-1)),
    )


def check_round(judged: Judgement) -> None:
    """Refuse a measurement whose rounds are not what they claim to be."""
    rows = len(judged.proposals)
    refused = judged.reason[judged.outcome == Outcome.REFUSED]
    if len(refused) != rows * _BIDS // 50 or (refused != Reason.STEP).any() or judged.count(Outcome.NEEDS_APPROVAL):
        raise RuntimeError(f"{len(refused)} of {rows} rows are refused where one bid in ten is due: judge what it says")


def _guard_rate(job: Job, rounds: int) -> float:
    with TemporaryDirectory() as folder:
        writer = LedgerWriter.create(Path(folder) / LEDGER)
        results = np.empty(0, dtype=np.uint8)
        began = time.perf_counter()
        for sequence in range(1, rounds + 1):
            judged = job.judge(sequence)
            header = {"limits_version": job.limits.version, "frozen": False, "commands": []}
            writer.append(RecordKind.ROUND, sequence, round_body(header, judged, results))
            results = np.full(len(judged.approved), Result.APPLIED, dtype=np.uint8)
        took = time.perf_counter() - began
        writer.close()
    check_round(judged)
    return rounds * len(judged.proposals) / took


def _insert_rate(rounds: list[Judgement]) -> float:
    with TemporaryDirectory() as folder, closing(sqlite3.connect(Path(folder) / "rows.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(_TABLE)
        began = time.perf_counter()
        for judged in rounds:
            asked = judged.proposals
            columns = (asked.campaign, asked.knob, asked.index, judged.old, asked.wanted)
            answers = (asked.base_version, asked.source, asked.note, judged.outcome, judged.reason)
            rows = zip(*(column.tolist() for column in (*columns, *answers)), strict=True)
            with connection:  # one transaction
                connection.executemany("INSERT INTO judged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        took = time.perf_counter() - began
    return sum(len(judged.proposals) for judged in rounds) / took
