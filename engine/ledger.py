"""The ledger's records: canonical bytes, the hash chain, and the fold that gives the controls back.

A record is an opening, a round or the closing of a run. The record of round N holds what was asked, the guard's answers
(the intents), and the results of round N − 1; the closing holds the results of the last round. A body is a canonical JSON
header and little-endian columns, so equal decisions have equal bytes on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.actions import ROW_BITS, Actions, Note, Result, Source
from engine.campaigns import SCALARS, ControlState, after
from engine.guard import NO_OFFER, Judgement, Outcome, Reason
from engine.units import Int64

LEDGER_VERSION = 1
GENESIS = bytes(32)

Table = Mapping[str, NDArray[Any]]


class LedgerError(Exception):
    """A ledger that does not say what a ledger can say; names the record."""


class RecordKind(StrEnum):
    """What a record is."""

    OPENING = "opening"
    ROUND = "round"
    CLOSING = "closing"


@dataclass(frozen=True)
class Record:
    """One link of the chain; `digest` covers everything before it."""

    sequence: int
    kind: RecordKind
    tick: int
    body: bytes
    digest: bytes


@dataclass(frozen=True)
class Round:
    """A decoded round: the header, the judged rows, and the results of the round before."""

    header: dict[str, Any]
    judged: dict[str, NDArray[Any]]
    offers: dict[str, NDArray[Any]]
    results: NDArray[Any]

    def intents(self, sequence: int) -> Actions:
        """The approved rows as actions."""
        rows = np.flatnonzero(self.judged["outcome"] == Outcome.APPROVED)
        judged = self.judged
        return Actions(
            action=(np.int64(sequence) << ROW_BITS) + rows,
            campaign=judged["campaign"][rows],
            knob=judged["knob"][rows],
            index=judged["index"][rows],
            old=judged["old"][rows],
            new=judged["wanted"][rows],
            base_version=judged["base_version"][rows].astype(np.int64),
            source=judged["source"][rows],
            note=judged["note"][rows],
            notes=tuple(Note(*note) for note in self.header["notes"]),
        )


def seal(previous: bytes, sequence: int, kind: RecordKind, tick: int, body: bytes) -> Record:
    """Chain a body to the record before it (SHA-256)."""
    head = b"%d|%s|%d|" % (sequence, kind.value.encode(), tick)
    return Record(sequence, kind, tick, body, hashlib.sha256(previous + head + body).digest())


def opening_body(header: Mapping[str, Any], cell_start: Int64, state: ControlState) -> bytes:
    """The run's description and the controls it starts with."""
    controls = {
        "bid": state.bid,
        "budget": state.budget,
        "anchor_bid": state.anchor[:, 0],
        "anchor_budget": state.anchor[:, 1],
        "paused": state.paused.astype(np.uint8),
    }
    tables = {"controls": controls, "cells": {"weights": state.weights}, "layout": {"cell_start": cell_start}}
    return encode({**header, "ledger_version": LEDGER_VERSION}, tables)


def round_body(header: Mapping[str, Any], judgement: Judgement, results: NDArray[Any]) -> bytes:
    """A round: judged rows in the order they were asked, offers where there are any, results of the round before."""
    asked = judgement.proposals
    judged = {
        "campaign": asked.campaign.astype("<i4"),
        "knob": asked.knob.astype("u1"),
        "index": asked.index.astype("<i4"),
        "old": judgement.old,
        "wanted": asked.wanted,
        "base_version": asked.base_version.astype("<i4"),
        "source": asked.source.astype("u1"),
        "note": asked.note.astype("<i2"),
        "outcome": judgement.outcome.astype("u1"),
        "reason": judgement.reason.astype("u1"),
    }
    offered = np.flatnonzero(judgement.offer != NO_OFFER)
    offers = {"row": offered.astype("<i4"), "offer": judgement.offer[offered]}
    notes = [list(note) for note in asked.notes]
    return encode({**header, "notes": notes}, {"judged": judged, "offers": offers, "results": {"result": results}})


def closing_body(header: Mapping[str, Any], results: NDArray[Any]) -> bytes:
    """The end of a run: the results of its last round."""
    return encode(header, {"results": {"result": results.astype("u1")}})


def decode_round(record: Record) -> Round:
    """Read a round or a closing back."""
    header, tables = decode(record.body)
    return Round(header, tables.get("judged", {}), tables.get("offers", {}), tables["results"]["result"])


def encode(header: Mapping[str, Any], tables: Mapping[str, Table]) -> bytes:
    """Canonical bytes of a JSON header and named tables of columns."""
    layout, columns = {}, []
    for name, table in tables.items():
        arrays = {column: np.ascontiguousarray(values) for column, values in table.items()}
        arrays = {column: values.astype(values.dtype.newbyteorder("<"), copy=False) for column, values in arrays.items()}
        rows = len(next(iter(arrays.values()))) if arrays else 0
        layout[name] = {"rows": rows, "columns": [[column, values.dtype.str] for column, values in arrays.items()]}
        columns += [values.tobytes() for values in arrays.values()]
    head = json.dumps({"header": header, "tables": layout}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    encoded = head.encode()
    return b"".join([len(encoded).to_bytes(4, "little"), encoded, *columns])


def decode(body: bytes) -> tuple[dict[str, Any], dict[str, dict[str, NDArray[Any]]]]:
    """The header and tables of a body."""
    size = int.from_bytes(body[:4], "little")
    head = json.loads(body[4 : 4 + size])
    position, tables = 4 + size, {}
    # The header's keys are sorted, the columns' bytes follow the order in which the tables were written.
    for name in sorted(head["tables"], key=_TABLE_ORDER.index):
        layout = head["tables"][name]
        tables[name] = {}
        for column, dtype in layout["columns"]:
            tables[name][column] = np.frombuffer(body, dtype=dtype, count=layout["rows"], offset=position)
            position += layout["rows"] * np.dtype(dtype).itemsize
    if position != len(body):
        raise LedgerError(f"a record body has {len(body)} bytes where its header says {position}: it was changed")
    return head["header"], tables


_TABLE_ORDER = ("controls", "cells", "layout", "judged", "offers", "results")


class Fold:
    """The state that a ledger's records tell, and the facts that an audit reports.

    `update` takes records in order. `state` is the controls in force as far as the records know: the intents of the last
    round count once their results are recorded.
    """

    def __init__(self) -> None:
        self.state: ControlState | None = None
        self.header: dict[str, Any] = {}
        self.closing: dict[str, Any] | None = None
        self.records = 0
        self.applied = 0
        self.rollbacks = 0
        self.max_relative_step = 0.0
        self._cell_start: Int64 = np.zeros(1, dtype=np.int64)
        self._intents: Actions | None = None
        self._results_due = -1

    def update(self, record: Record) -> None:
        """Take the next record in; one that cannot follow is a LedgerError."""
        if (record.kind is RecordKind.OPENING) != (self.state is None) or self.closing is not None:
            raise LedgerError(f"record {record.sequence} ({record.kind}) cannot stand here: the ledger was rearranged")
        if record.kind is RecordKind.OPENING:
            self._open(record)
        else:
            self._take_results(record)
        self.records += 1

    def _open(self, record: Record) -> None:
        self.header, tables = decode(record.body)
        if self.header["ledger_version"] != LEDGER_VERSION:
            version = self.header["ledger_version"]
            raise LedgerError(f"ledger_version (={version}) must be {LEDGER_VERSION}: use the bidtwin that wrote it")
        controls = tables["controls"]
        scalar = np.stack([controls["bid"], controls["budget"]], axis=1)
        anchor = np.stack([controls["anchor_bid"], controls["anchor_budget"]], axis=1)
        version = np.zeros((len(scalar), 4), dtype=np.int64)
        self.state = ControlState(scalar, anchor, tables["cells"]["weights"], controls["paused"].astype(np.bool_), version)
        self._cell_start = tables["layout"]["cell_start"]

    def _take_results(self, record: Record) -> None:
        decoded = decode_round(record)
        if self._intents is not None and len(decoded.results) != len(self._intents):
            raise LedgerError(f"record {record.sequence} has {len(decoded.results)} results for {len(self._intents)} rows")
        if self._intents is not None:
            self._apply(self._intents.take(decoded.results == Result.APPLIED))
        if record.kind is RecordKind.CLOSING:
            self._intents, self.closing = None, decoded.header
        else:
            self._intents = decoded.intents(record.sequence)

    def _apply(self, rows: Actions) -> None:
        assert self.state is not None
        if (self.state.version[rows.campaign, rows.knob] != rows.base_version).any():
            raise LedgerError(f"round {rows.round} applied a row on a version that was not in force: it was not written by us")
        self.state = after(self._cell_start, self.state, rows)
        self.applied += len(rows)
        self.rollbacks += int((rows.source == Source.ROLLBACK).sum())
        self.max_relative_step = max(self.max_relative_step, _largest_step(rows))


def _largest_step(rows: Actions) -> float:
    """Largest |new − old| / old among automatic scalar changes: those of the product, not a person's, not a rollback."""
    automatic = (rows.source > Source.ROLLBACK) & (rows.knob < len(SCALARS))
    old, new = rows.old[automatic], rows.new[automatic]
    return float((np.abs(new - old) / old).max()) if old.size else 0.0


def fold(records: Iterable[Record]) -> Fold:
    """Fold a whole ledger, or any prefix of one."""
    folded = Fold()
    for record in records:
        folded.update(record)
    return folded


def explain(reason: int) -> str:
    """A reason code as the word used in tables."""
    return Reason(reason).name.lower()
