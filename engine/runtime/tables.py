"""The run's Parquet tables: metrics per campaign and tick, actions from the ledger, records on request.

Tidy, versioned, with ids as strings and times in UTC: what a person joins in DuckDB or pandas.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.actions import Knob, Result, Source
from engine.campaigns import CampaignSet
from engine.events import BIDS, CLICKS, CONVERSIONS, COUNTS, IMPRESSIONS, OUTSIDE_SUPPORT, REVENUE, SPEND
from engine.guard import Outcome
from engine.ledger import Record, RecordKind, Round, decode_round, explain
from engine.runtime.hosts import STEADY, Records, Trace
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
from engine.units import Int64, TickGrid

_ROWS_PER_GROUP = 100_000
_DRAFT = ".draft"
_SEGMENTED = ("metrics", "events", "opportunities")

METRICS = pa.schema(
    [("tick", pa.int32()), ("tick_start", TIME), ("campaign", WORD), ("channel", WORD), ("market", WORD)]
    + [(name, pa.bool_() if name == "paused" else pa.int64()) for name in (*STEADY, *COUNTS)],
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
        ("creative", pa.string()),
        ("old", pa.int64()),
        ("wanted", pa.int64()),
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

    def as_dict(self) -> dict[str, int]:
        """The totals by name."""
        names = {"impressions": IMPRESSIONS, "clicks": CLICKS, "conversions": CONVERSIONS}
        money = {"spend_micros": SPEND, "revenue_micros": REVENUE}
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

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._draft = path.with_name(path.name + _DRAFT)
        self._writer = pq.ParquetWriter(self._draft, schema, compression="zstd")
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, rows: dict[str, Any] | pa.Table) -> None:
        table = rows if isinstance(rows, pa.Table) else pa.table(rows, schema=self._schema)
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= _ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._draft.replace(self._path)

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting, self._rows = [], 0


@dataclass(frozen=True)
class RecorderState:
    """What a recorder has taken: ticks, the digest's chain, totals. Its files hold the same, in closed segments."""

    tick: int
    chain: bytes
    totals: Totals


class Recorder:
    """Takes the spans of a run in order: digests them, adds them up and writes them down.

    The metrics digest chains the ticks by SHA-256, each over the int64 rows of all campaigns by id, so it depends
    neither on how campaigns were grouped nor on how ticks were cut into spans, and goes on from any of them.

    Files grow in segments that `cut` closes, so that what a checkpoint speaks of is on the disk; `finish` joins the
    segments of the metrics into one table.
    """

    def __init__(self, folder: Path, campaigns: CampaignSet, grid: TickGrid) -> None:
        self._campaigns = campaigns
        self._grid = grid
        self._folder = folder
        self._chain = bytes(32)
        self._open: dict[str, _Table] = {}
        self._segment = 0
        self.totals = Totals()
        self.tick = 0

    @property
    def digest(self) -> str:
        """The metrics digest of the spans taken so far."""
        return self._chain.hex()

    def restore(self, state: RecorderState | None) -> None:
        """Go back to what a checkpoint tells, forgetting the segments written after it."""
        state = state or RecorderState(0, bytes(32), Totals())
        self.tick = self._segment = state.tick
        self._chain = state.chain
        self.totals = replace(state.totals)
        self._open = {}
        for name in _SEGMENTED:
            for path in (self._folder / name).glob("part-*"):
                if path.name.endswith(_DRAFT) or _first_tick(path) >= state.tick:
                    path.unlink()

    def take(self, first_tick: int, ticks: int, traces: Sequence[Trace], records: Sequence[Records]) -> None:
        """Take the next span, from all campaigns; one that was taken before changes nothing."""
        if first_tick + ticks <= self.tick:
            return
        values = np.empty((ticks, len(self._campaigns), len(STEADY) + len(COUNTS)), dtype=np.int64)
        for trace in traces:
            values[:, trace.members] = trace.values
        for rows in values:
            self._chain = hashlib.sha256(self._chain + rows.tobytes()).digest()
        self.totals.counts = self.totals.counts + values[:, :, len(STEADY) :].sum(axis=(0, 1))
        self.totals.auctions += sum(each.auctions for each in records)
        self.tick = first_tick + ticks
        self._table("metrics", METRICS).add(self._metric_columns(first_tick, values))
        self._record("events", EVENTS, [each.events for each in records], event_columns)
        self._record("opportunities", OPPORTUNITIES, [each.opportunities for each in records], opportunity_columns)

    def cut(self) -> RecorderState:
        """Close the segments, and tell what they hold."""
        for table in self._open.values():
            table.close()
        self._open, self._segment = {}, self.tick
        return RecorderState(self.tick, self._chain, replace(self.totals))

    def finish(self) -> None:
        """Close the last segments, and join those of the metrics into `metrics.parquet`."""
        self.cut()
        parts = self._folder / "metrics"
        joined = _Table(self._folder / "metrics.parquet", METRICS)
        for part in sorted(parts.glob("part-*")):
            joined.add(pq.read_table(part))
        joined.close()
        shutil.rmtree(parts)

    def _record(self, name: str, schema: pa.Schema, parts: Sequence[Any], columns: Any) -> None:
        if any(len(part) for part in parts):
            self._table(name, schema).add(columns(in_order(parts), self._campaigns))

    def _table(self, name: str, schema: pa.Schema) -> _Table:
        if name not in self._open:
            self._open[name] = _Table(self._folder / name / f"part-{self._segment:09d}.parquet", schema)
        return self._open[name]

    def _metric_columns(self, first_tick: int, values: Int64) -> dict[str, Any]:
        ticks, n = values.shape[:2]
        flat = values.reshape(ticks * n, -1)
        tick = np.repeat(np.arange(first_tick, first_tick + ticks), n)
        campaign = np.tile(np.arange(n), ticks)
        identity = {
            "tick": tick.astype(np.int32),
            "tick_start": times(self._grid.start_us + tick * self._grid.tick_us),
            "campaign": words(campaign, self._campaigns.ids),
            "channel": words(*_coded(self._campaigns.channels, campaign)),
            "market": words(self._campaigns.market[campaign], self._campaigns.markets),
        }
        named = zip((*STEADY, *COUNTS), flat.T, strict=True)
        return identity | {name: column.astype(np.bool_) if name == "paused" else column for name, column in named}


def write_actions(path: Path, records: Iterable[Record], campaigns: CampaignSet, grid: TickGrid) -> dict[str, int]:
    """Write every judged row of a ledger, with what became of it; returns the number of rows per outcome."""
    table = _Table(path, ACTIONS)
    counts: dict[str, int] = {"rolled_back": 0}
    for record, judged, results in _judged(records):
        columns = _action_columns(record, judged, results, campaigns, grid)
        table.add(columns)
        for outcome in columns["outcome"]:
            counts[outcome] = counts.get(outcome, 0) + 1
        undone = [name == "applied" and source == "rollback" for name, source in _zip(columns, "outcome", "source")]
        counts["rolled_back"] += sum(undone)
    table.close()
    return counts


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


def _action_columns(
    record: Record, decoded: Round, results: NDArray[Any] | None, campaigns: CampaignSet, grid: TickGrid
) -> dict[str, Any]:
    judged = decoded.judged
    rows = len(judged["campaign"])
    outcome = np.array([Outcome(value).name.lower() for value in judged["outcome"]], dtype=object)
    approved = judged["outcome"] == Outcome.APPROVED
    words = [Result(value).name.lower() for value in results] if results is not None else ["pending"] * approved.sum()
    outcome[approved] = words
    action = np.full(rows, None, dtype=object)
    action[approved] = decoded.intents(record.sequence).action
    offer = np.full(rows, None, dtype=object)
    offer[decoded.offers["row"]] = decoded.offers["offer"]
    known = judged["campaign"] >= 0
    notes = decoded.header["notes"]
    return {
        "tick": np.full(rows, record.tick, dtype=np.int32),
        "acts_from": times(np.full(rows, grid.opens(record.tick + 1))),
        "round": np.full(rows, record.sequence, dtype=np.int64),
        "action": action,
        "campaign": [
            campaigns.ids[place] if valid and place < len(campaigns) else None
            for place, valid in zip(judged["campaign"], known, strict=True)
        ],
        "knob": [_knob(knob) for knob in judged["knob"]],
        "creative": [_creative(campaigns, *row) for row in _zip(judged, "campaign", "knob", "index")],
        "old": judged["old"],
        "wanted": judged["wanted"],
        "offer": offer,
        "outcome": outcome,
        "reason": [explain(reason) if reason else None for reason in judged["reason"]],
        "source": [Source(source).name.lower() for source in judged["source"]],
        "proposer": [notes[note][0] for note in judged["note"]],
        "note": [notes[note][1] for note in judged["note"]],
        "base_version": judged["base_version"].astype(np.int64),
    }


def _first_tick(segment: Path) -> int:
    return int(segment.name.removeprefix("part-").removesuffix(".parquet"))


def _zip(columns: Any, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(columns[name] for name in names), strict=True)


def _knob(knob: int) -> str | None:
    return Knob(knob).name.lower() if knob < len(Knob) else None


def _creative(campaigns: CampaignSet, campaign: int, knob: int, index: int) -> str | None:
    if knob != Knob.WEIGHTS or not 0 <= campaign < len(campaigns):
        return None
    cells = campaigns.creatives[campaigns.cell_start[campaign] : campaigns.cell_start[campaign + 1]]
    return cells[index] if 0 <= index < len(cells) else None


def _coded(words: Sequence[str], rows: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
    """Places in a sorted list of distinct words, for the given rows."""
    distinct, code = np.unique(np.array(words, dtype=object), return_inverse=True)
    return code[rows], distinct.tolist()
