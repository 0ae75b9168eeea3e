"""The run's Parquet tables: metrics per campaign and tick, actions from the ledger, records on request.

Tidy, versioned, with ids as strings and times in UTC: what a person joins in DuckDB or pandas.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.actions import ROW_BITS, Knob, Result, Source
from engine.campaigns import CampaignSet
from engine.events import BIDS, CLICKS, CONVERSIONS, COUNTS, IMPRESSIONS, OUTSIDE_SUPPORT, REFUNDS, REVENUE, SPEND
from engine.judgement import Outcome, Reason
from engine.ledger import Record, RecordKind, Round, decode_round, explain
from engine.policy import TRUTH
from engine.runtime.hosts import STEADY, Records, Report
from engine.runtime.plan import Moment, Rehearsal, unrehearsed
from engine.runtime.records import (
    EVENTS,
    METADATA,
    OPPORTUNITIES,
    TIME,
    WORD,
    event_columns,
    in_order,
    opportunity_columns,
    times,
    words,
)
from engine.runtime.store import Fenced
from engine.units import Int64, TickGrid

_ROWS_PER_GROUP = 100_000
_DRAFT = ".draft"
_SEGMENTED = ("metrics", "events", "opportunities")

METRICS = pa.schema(
    [("tick", pa.int32()), ("tick_start", TIME), ("campaign", WORD), ("channel", WORD), ("market", WORD)]
    + [(name, pa.bool_() if name == "paused" else pa.int64()) for name in (*STEADY, *COUNTS, *TRUTH)],
    metadata=METADATA,
)

ACTIONS = pa.schema(
    [
        ("tick", pa.int32()),  # at whose close it was judged; it acts from the next
        ("acts_from", TIME),
        ("round", pa.int64()),  # the ledger's sequence
        ("action", pa.int64()),  # null unless approved
        ("campaign", pa.string()),
        ("knob", pa.string()),
        ("creative", pa.string()),  # whose weight it is; null otherwise
        ("audience", pa.string()),  # whose modifier it is; null otherwise
        ("old", pa.int64()),
        ("wanted", pa.int64()),
        ("raw", pa.int64()),  # what was asked for where it was clipped to `wanted`; null where it was not
        ("offer", pa.int64()),
        ("outcome", pa.string()),  # applied, stale, recorded, pending, needs_approval or refused
        ("reason", pa.string()),
        ("source", pa.string()),
        ("proposer", pa.string()),
        ("note", pa.string()),
        ("base_version", pa.int64()),
    ],
    metadata=METADATA,
)


@dataclass
class Totals:
    """What happened so far over all campaigns."""

    auctions: int = 0
    counts: Int64 = field(default_factory=lambda: np.zeros(len(COUNTS), dtype=np.int64))
    truth: Int64 | None = None  # [len(TRUTH)]

    def as_dict(self) -> dict[str, int]:
        """The totals by name."""
        names = {"impressions": IMPRESSIONS, "clicks": CLICKS, "conversions": CONVERSIONS}
        money = {"spend_micros": SPEND, "revenue_micros": REVENUE, "refunds_micros": REFUNDS}
        return {"auctions": self.auctions} | {name: int(self.counts[at]) for name, at in (names | money).items()}

    @property
    def bids(self) -> int:
        """Auctions entered, once per campaign."""
        return int(self.counts[BIDS])

    @property
    def outside_support(self) -> int:
        """Bids above the highest price that a log can speak for."""
        return int(self.counts[OUTSIDE_SUPPORT])


class _Table:
    """A Parquet file that grows by row groups of a sensible size, and is in its place once it is closed."""

    def __init__(self, path: Path, schema: pa.Schema, rehearsal: Rehearsal, fence: Fenced) -> None:
        self._path = path
        self._draft = path.with_name(path.name + _DRAFT)
        self._fence = fence
        with fence():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._draft.unlink(missing_ok=True)  # a predecessor may hold it open still
            self._writer = pq.ParquetWriter(self._draft, schema, compression="zstd")
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._rehearsal = rehearsal

    def add(self, rows: dict[str, Any] | pa.Table) -> None:
        table = rows if isinstance(rows, pa.Table) else pa.table(rows, schema=self._schema)
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= _ROWS_PER_GROUP:
            self._flush()

    def close(self, tick: int) -> int:
        """Put the file in its place, durably; its size."""
        self._flush()
        self._writer.close()
        with self._fence():
            written = self._draft.open("rb")
        with written as file:
            os.fsync(file.fileno())
        self._rehearsal(Moment.IN_TABLE, tick)
        with self._fence():
            self._draft.replace(self._path)
        return self._path.stat().st_size

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting, self._rows = [], 0


@dataclass(frozen=True)
class RecorderState:
    """What a recorder has taken: ticks, the digest's chain, totals; and the closed segments that hold the same.

    `segments` are their sizes in bytes by their names in the run folder.
    """

    tick: int
    chain: bytes
    totals: Totals
    segments: Mapping[str, int]


class Recorder:
    """Takes the spans of a run in order: digests them, adds them up and writes them down.

    The metrics digest chains the ticks by SHA-256, each over the int64 rows of all campaigns by id, so it depends
    neither on how campaigns were grouped nor on how ticks were cut into spans, and goes on from any of them.

    Files grow in segments that `cut` closes, so that what a checkpoint speaks of is on the disk; `finish` joins the
    segments of the metrics into one table. Behind the fence an older optimiser of the run writes none.
    """

    def __init__(
        self, folder: Path, campaigns: CampaignSet, grid: TickGrid, rehearsal: Rehearsal, fence: Fenced
    ) -> None:
        self._fence = fence
        self._campaigns = campaigns
        self._grid = grid
        self._folder = folder
        self._chain = bytes(32)
        self._rehearsal = rehearsal
        self._open: dict[str, _Table] = {}
        self._segments: dict[str, int] = {}
        self._segment = 0
        self.totals = Totals()
        self.tick = 0

    @property
    def digest(self) -> str:
        """The metrics digest of the spans taken so far."""
        return self._chain.hex()

    def holds(self, state: RecorderState) -> bool:
        """Whether the segments that a checkpoint speaks of are there, whole."""
        paths = {self._folder / name: size for name, size in state.segments.items()}
        return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())

    def restore(self, state: RecorderState | None) -> None:
        """Go back to what a checkpoint tells, forgetting the segments written after it."""
        state = state or RecorderState(0, bytes(32), Totals(), {})
        self.tick = self._segment = state.tick
        self._chain = state.chain
        self.totals = replace(state.totals)
        self._open, self._segments = {}, dict(state.segments)
        for name in _SEGMENTED:
            for path in (self._folder / name).glob("part-*"):
                if str(path.relative_to(self._folder)) not in self._segments:
                    path.unlink()

    def take(self, first_tick: int, ticks: int, reports: Sequence[Report], records: Sequence[Records]) -> None:
        """Take the next span, from all campaigns; one that was taken before changes nothing."""
        if first_tick + ticks <= self.tick:
            return
        values = np.empty((ticks, len(self._campaigns), len(STEADY) + len(COUNTS)), dtype=np.int64)
        for report in reports:
            controls = report.view.controls
            steady = np.stack([controls.bid, controls.budget, controls.paused], axis=1)
            values[:, report.members, : len(STEADY)] = steady
            values[:, report.members, len(STEADY) :] = report.counts
        for rows in values:
            self._chain = hashlib.sha256(self._chain + rows.tobytes()).digest()
        self.totals.counts = self.totals.counts + values[:, :, len(STEADY) :].sum(axis=(0, 1))
        self.totals.auctions += sum(each.auctions for each in records)
        truth = self._truth(ticks, records)
        if truth is not None:
            self.totals.truth = truth.sum(axis=(0, 1)) + (0 if self.totals.truth is None else self.totals.truth)
        self.tick = first_tick + ticks
        self._table("metrics", METRICS).add(self._metric_columns(first_tick, values, truth))
        self._record("events", EVENTS, [each.events for each in records], event_columns)
        self._record("opportunities", OPPORTUNITIES, [each.opportunities for each in records], opportunity_columns)

    def cut(self) -> RecorderState:
        """Close the segments, and tell what they hold."""
        for name, table in self._open.items():
            self._segments[_segment(name, self._segment)] = table.close(self.tick)
        self._open, self._segment = {}, self.tick
        return RecorderState(self.tick, self._chain, replace(self.totals), dict(self._segments))

    def finish(self) -> None:
        """Close the last segments, and join those of the metrics into `metrics.parquet`."""
        self.cut()
        joined = _Table(self._folder / "metrics.parquet", METRICS, self._rehearsal, self._fence)
        for part in sorted(name for name in self._segments if name.startswith("metrics/")):
            for rows in pq.ParquetFile(self._folder / part, memory_map=True).iter_batches(use_threads=False):
                joined.add(pa.Table.from_batches([rows]))
        joined.close(self.tick)

    def _record(self, name: str, schema: pa.Schema, parts: Sequence[Any], columns: Any) -> None:
        if any(len(part) for part in parts):
            self._table(name, schema).add(columns(in_order(parts), self._campaigns))

    def _table(self, name: str, schema: pa.Schema) -> _Table:
        if name not in self._open:
            path = self._folder / _segment(name, self._segment)
            self._open[name] = _Table(path, schema, self._rehearsal, self._fence)
        return self._open[name]

    def _truth(self, ticks: int, records: Sequence[Records]) -> Int64 | None:
        """What the sources know beside the counts, int64[ticks, campaigns, len(TRUTH)]; None where they do not tell."""
        told = [(each.members, each.truth) for each in records if each.truth is not None]
        if not told:
            return None
        whole = np.empty((ticks, len(self._campaigns), len(TRUTH)), dtype=np.int64)
        for members, truth in told:
            whole[:, members] = truth
        return whole

    def _metric_columns(self, first_tick: int, values: Int64, truth: Int64 | None) -> dict[str, Any]:
        ticks, n = values.shape[:2]
        tick = np.repeat(np.arange(first_tick, first_tick + ticks), n)
        when = {"tick": tick.astype(np.int32), "tick_start": times(self._grid.start_us + tick * self._grid.tick_us)}
        who = {name: pa.concat_arrays([column] * ticks) for name, column in self._identity.items()}
        named = zip((*STEADY, *COUNTS), values.reshape(ticks * n, -1).T.copy(), strict=True)
        what = {name: column.astype(np.bool_) if name == "paused" else column for name, column in named}
        if truth is None:
            return when | who | what | dict.fromkeys(TRUTH, pa.nulls(ticks * n, pa.int64()))
        return when | who | what | dict(zip(TRUTH, truth.reshape(ticks * n, -1).T.copy(), strict=True))

    @cached_property
    def _identity(self) -> dict[str, pa.Array]:
        """Who the rows of a tick are about; the same at every tick."""
        campaigns = self._campaigns
        channels, channel = np.unique(np.array(campaigns.channels, dtype=object), return_inverse=True)
        return {
            "campaign": words(np.arange(len(campaigns)), campaigns.ids),
            "channel": words(channel, channels.tolist()),
            "market": words(campaigns.market, campaigns.markets),
        }


def clear_away(folder: Path) -> None:
    """Remove the segments that a finished run's `metrics.parquet` joins."""
    shutil.rmtree(folder / "metrics", ignore_errors=True)


def write_actions(
    path: Path,
    records: Iterable[Record],
    campaigns: CampaignSet,
    grid: TickGrid,
    rehearsal: Rehearsal = unrehearsed,
    fence: Fenced = nullcontext,
) -> dict[str, int]:
    """Write every judged row of a ledger, with what became of it; returns the number of rows per outcome."""
    table = _Table(path, ACTIONS, rehearsal, fence)
    counts = np.zeros(len(_BECAME), dtype=np.int64)
    rolled_back = 0
    for record, decoded, results in _judged(records):
        became = _became(decoded.judged["outcome"], results)
        table.add(_action_columns(record, decoded, became, campaigns, grid))
        counts += np.bincount(became, minlength=counts.size)
        undone = (became == _BECAME.index("applied")) & (decoded.judged["source"] == Source.ROLLBACK)
        rolled_back += int(undone.sum())
    table.close(grid.ticks)
    known = {name: count for name, count in zip(_BECAME, counts.tolist(), strict=True) if count}
    return {"rolled_back": rolled_back} | known


def _judged(records: Iterable[Record]) -> Iterator[tuple[Record, Round, NDArray[Any] | None]]:
    """Every round with rows, and the results that the record after it holds (None where it was the last)."""
    waiting: tuple[Record, Round] | None = None
    for record in records:
        if record.kind is RecordKind.OPENING:
            continue
        decoded = decode_round(record)
        if waiting:
            yield *waiting, decoded.results
        has_rows = record.kind is RecordKind.ROUND and len(decoded.judged["campaign"])
        waiting = (record, decoded) if has_rows else None
    if waiting:
        yield *waiting, None


def _became(outcome: NDArray[Any], results: NDArray[Any] | None) -> Int64:
    """What became of each judged row, as a place in `_BECAME`: the guard's answer, of approved rows the result."""
    became = outcome.astype(np.int64)
    approved = outcome == Outcome.APPROVED
    became[approved] = len(Outcome) + (np.int64(Result.PENDING) if results is None else results.astype(np.int64))
    return became


def _action_columns(
    record: Record, decoded: Round, became: Int64, campaigns: CampaignSet, grid: TickGrid
) -> dict[str, Any]:
    judged, rows = decoded.judged, len(became)
    action = (np.int64(record.sequence) << ROW_BITS) + np.arange(rows)
    reason = np.where(judged["reason"] == Reason.NONE, -1, judged["reason"].astype(np.int64))
    notes = decoded.header["notes"]
    return {
        "tick": np.full(rows, record.tick, dtype=np.int32),
        "acts_from": times(np.full(rows, grid.opens(record.tick + 1))),
        "round": np.full(rows, record.sequence, dtype=np.int64),
        "action": pa.array(action, mask=judged["outcome"] != Outcome.APPROVED),
        "campaign": _spelt(judged["campaign"], campaigns.ids),
        "knob": _spelt(judged["knob"], _names(Knob)),
        "creative": _spelt(_part(judged, Knob.WEIGHTS, campaigns.layout.creative_start), campaigns.creatives),
        "audience": _spelt(
            _part(judged, Knob.MODIFIERS, campaigns.layout.audience_start), campaigns.audience_names, nobody=""
        ),
        "old": judged["old"],
        "wanted": judged["wanted"],
        "raw": _sparse(rows, decoded.clipped["row"], decoded.clipped["raw"]),
        "offer": _sparse(rows, decoded.offers["row"], decoded.offers["offer"]),
        "outcome": _spelt(became, _BECAME),
        "reason": _spelt(reason, _REASONS),
        "source": _spelt(judged["source"], _names(Source)),
        "proposer": _spelt(judged["note"], [proposer for proposer, _ in notes]),
        "note": _spelt(judged["note"], [text for _, text in notes]),
        "base_version": judged["base_version"].astype(np.int64),
    }


def _sparse(rows: int, places: NDArray[Any], values: NDArray[Any]) -> pa.Array:
    """A column that has the values at their places, and null elsewhere."""
    column, absent = np.zeros(rows, dtype=np.int64), np.ones(rows, dtype=np.bool_)
    column[places] = values
    absent[places] = False
    return pa.array(column, mask=absent)


def _segment(table: str, first_tick: int) -> str:
    return f"{table}/part-{first_tick:09d}.parquet"


def _part(judged: Mapping[str, NDArray[Any]], knob: Knob, start: Int64) -> Int64:
    """The place among all of the creative or audience that a row of a vector is about; −1 where it is about none."""
    campaign, index = judged["campaign"].astype(np.int64), judged["index"].astype(np.int64)
    of_vector = (judged["knob"] == knob) & (campaign >= 0) & (campaign < len(start) - 1) & (index >= 0)
    first = np.where(of_vector, campaign, 0)
    part = start[first] + index
    return np.where(of_vector & (part < start[first + 1]), part, -1)


def _spelt(places: NDArray[Any], known: Sequence[str], nobody: str | None = None) -> pa.Array:
    """Positions as the words they stand for, null where there is no such word, or the one that stands for nobody."""
    absent = (places < 0) | (places >= len(known))
    if nobody in known:
        absent |= np.isin(places, np.flatnonzero([word == nobody for word in known]))
    place = pa.array(np.where(absent, 0, places).astype(np.int32), mask=absent)
    return pa.DictionaryArray.from_arrays(place, pa.array(known, type=pa.string())).dictionary_decode()


def _names(numbered: type[IntEnum]) -> list[str]:
    return [each.name.lower() for each in numbered]


_BECAME = [*_names(Outcome), *_names(Result)]
"""Words for what became of a row: the guard's answers, then the results of what it approved."""
_REASONS = [explain(number) if number in list(Reason) else str(number) for number in range(max(Reason) + 1)]
"""Words for reasons by their numbers, which have gaps."""
