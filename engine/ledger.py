"""The ledger's records: canonical bytes, the hash chain, and the fold that gives the controls back.

A record is an opening, a round or the closing of a run. The record of round N holds what was asked, the guard's answers
(the intents), what was clipped before they were given, and the results of round N − 1; the closing holds the results of
the last round. A body is a canonical JSON header and little-endian columns: equal decisions have equal bytes on every
machine.
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

from engine.actions import ROW_BITS, Actions, Knob, Note, Result, Source, no_actions
from engine.alerts import AlertKind
from engine.campaigns import SCALARS, ControlState, Layout, after, sizes_of, value_in_force
from engine.errors import BadInput
from engine.judgement import NO_OFFER, Judgement, Outcome, Reason
from engine.life import ImpossibleLife
from engine.lives import Lives
from engine.shield import Clipped
from engine.units import Bool

LEDGER_VERSION = 3
GENESIS = bytes(32)

Table = Mapping[str, NDArray[Any]]

_LAYOUT = {  # the columns of every table, in the order of their bytes, each in its usual dtype
    "controls": {"bid": "<i8", "budget": "<i8", "anchor_bid": "<i8", "anchor_budget": "<i8", "paused": "|u1"},
    "creatives": {"weights": "<i8"},
    "audiences": {"modifiers": "<i8", "anchor": "<i8"},
    "layout": {"creative_start": "<i8", "audience_start": "<i8"},
    "judged": {
        "campaign": "<i4",
        "knob": "|u1",
        "index": "<i4",
        "old": "<i8",
        "wanted": "<i8",
        "base_version": "<i4",
        "source": "|u1",
        "note": "<i2",
        "outcome": "|u1",
        "reason": "|u1",
    },
    "offers": {"row": "<i4", "offer": "<i8"},
    "clipped": {"row": "<i4", "raw": "<i8"},
    "results": {"result": "|u1"},
}
_WIDE = "<i8"


class LedgerError(BadInput):
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
    clipped: dict[str, NDArray[Any]]
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


def verify(records: Iterable[Record]) -> int | None:
    """The first record that cannot follow those before it, or None where the whole chain holds.

    A ledger opens once, at sequence 0, counts on by one, ends with its closing, and every digest covers all before it.
    """
    previous, closed, position = GENESIS, False, -1
    for position, record in enumerate(records):
        follows = (record.kind is RecordKind.OPENING) == (position == 0) and not closed
        sealed = seal(previous, position, record.kind, record.tick, record.body)
        if not follows or record != sealed:
            return position
        previous, closed = record.digest, record.kind is RecordKind.CLOSING
    return None


def opening_body(header: Mapping[str, Any], layout: Layout, state: ControlState) -> bytes:
    """The run's description and the controls it starts with, every one of them at version 0."""
    if state.version.any():
        raise BadInput(f"a ledger opens at version 0 (={state.version.max()}): go on with the ledger of that run")
    controls = {
        "bid": state.bid,
        "budget": state.budget,
        "anchor_bid": state.anchor[:, Knob.BID],
        "anchor_budget": state.anchor[:, Knob.BUDGET],
        "paused": state.paused,
    }
    tables: dict[str, Table] = {
        "controls": controls,
        "creatives": {"weights": state.weights},
        "audiences": {"modifiers": state.modifiers, "anchor": state.modifier_anchor},
        "layout": layout._asdict(),
    }
    return encode({**header, "ledger_version": LEDGER_VERSION}, tables)


def round_body(
    header: Mapping[str, Any], judgement: Judgement, results: NDArray[Any], clipped: Clipped | None = None
) -> bytes:
    """A round: judged rows in the order they were asked, offers where there are any, results of the round before.

    Of rows that were clipped, `judged` holds the value that was judged in the end, and `clipped` the one asked for.
    """
    clipped = Clipped.none() if clipped is None else clipped
    asked = judgement.proposals
    judged = {
        "campaign": asked.campaign,
        "knob": asked.knob,
        "index": asked.index,
        "old": judgement.old,
        "wanted": asked.wanted,
        "base_version": asked.base_version,
        "source": asked.source,
        "note": asked.note,
        "outcome": judgement.outcome,
        "reason": judgement.reason,
    }
    offered = np.flatnonzero(judgement.offer != NO_OFFER)
    offers = {"row": offered, "offer": judgement.offer[offered]}
    notes = [list(note) for note in asked.notes]
    tables: dict[str, Table] = {
        "judged": judged,
        "offers": offers,
        "clipped": {"row": clipped.rows, "raw": clipped.raw},
        "results": {"result": results},
    }
    return encode({**header, "notes": notes}, tables)


def closing_body(header: Mapping[str, Any], results: NDArray[Any]) -> bytes:
    """The end of a run: the results of its last round."""
    return encode(header, {"results": {"result": results}})


def decode_round(record: Record) -> Round:
    """Read a round or a closing back; anything else is a LedgerError."""
    header, tables = _read(record)
    notes = header.get("notes", [])
    if not isinstance(notes, list) or not all(
        isinstance(note, list) and len(note) == len(Note._fields) for note in notes
    ):
        raise LedgerError(f"record {record.sequence} has notes that are not pairs (={notes!r:.60}): it was changed")
    judged, offers, clipped = (tables.get(name, {}) for name in ("judged", "offers", "clipped"))
    return Round({**header, "notes": notes}, judged, offers, clipped, tables["results"]["result"])


def _read(record: Record) -> tuple[dict[str, Any], dict[str, dict[str, NDArray[Any]]]]:
    """Header and tables of a record that has the tables of its kind."""
    header, tables = decode(record.body)
    if tuple(tables) != _TABLES[record.kind]:
        raise LedgerError(f"record {record.sequence} ({record.kind}) has tables {list(tables)}: it was changed")
    return header, tables


_TABLES = {
    RecordKind.OPENING: ("controls", "creatives", "audiences", "layout"),
    RecordKind.ROUND: ("judged", "offers", "clipped", "results"),
    RecordKind.CLOSING: ("results",),
}


def encode(header: Mapping[str, Any], tables: Mapping[str, Table]) -> bytes:
    """Canonical bytes of a JSON header and named tables of columns."""
    layout: dict[str, Any] = {}
    columns = []
    for name in sorted(tables, key=list(_LAYOUT).index):
        arrays = {column: _wire(tables[name][column], dtype) for column, dtype in _LAYOUT[name].items()}
        lengths = {len(values) for values in arrays.values()}
        if len(lengths) > 1:
            raise ValueError(f"columns of {name} (={sorted(lengths)} rows) must have one length")
        layout[name] = {
            "rows": lengths.pop(),
            "columns": [[column, values.dtype.str] for column, values in arrays.items()],
        }
        columns += [values.tobytes() for values in arrays.values()]
    head = json.dumps({"header": header, "tables": layout}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    encoded = head.encode()
    return b"".join([len(encoded).to_bytes(4, "little"), encoded, *columns])


def _wire(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """A column in its usual dtype, or as int64 where a value does not fit: what was asked is recorded as it was."""
    narrow = values.astype(dtype, copy=False)
    return narrow if np.array_equal(narrow, values) else values.astype(_WIDE)


def decode(body: bytes) -> tuple[dict[str, Any], dict[str, dict[str, NDArray[Any]]]]:
    """The header and tables of a body; one that `encode` could not have written is a LedgerError."""
    size = int.from_bytes(body[:4], "little")
    try:
        head = json.loads(body[4 : 4 + size])
        header, layouts = head["header"], head["tables"]
        names = [name for name in _LAYOUT if name in layouts]
        if not isinstance(header, dict) or len(names) != len(layouts):
            raise LedgerError(f"a record body has tables {list(layouts)!r:.60}: it was changed")
        tables, position = {}, 4 + size
        for name in names:
            tables[name], position = _decode_table(name, layouts[name], body, position)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, LedgerError):
            raise
        raise LedgerError(
            f"a record body of {len(body)} bytes cannot be read ({error!s:.60}): it was changed"
        ) from None
    if position != len(body):
        raise LedgerError(f"a record body has {len(body)} bytes where its header says {position}: it was changed")
    return header, tables


def _decode_table(name: str, layout: Any, body: bytes, position: int) -> tuple[dict[str, NDArray[Any]], int]:
    rows, usual = layout["rows"], _LAYOUT[name]
    if (
        type(rows) is not int
        or not 0 <= rows <= len(body)
        or [column for column, _ in layout["columns"]] != list(usual)
    ):
        raise LedgerError(f"a record body has another table {name} (={layout!r:.60}) than this version: it was changed")
    table = {}
    for column, dtype in layout["columns"]:
        if dtype not in (usual[column], _WIDE):
            raise LedgerError(f"column {column} has dtype {dtype!r:.20} where {usual[column]} is due: it was changed")
        table[column] = np.frombuffer(body, dtype=dtype, count=rows, offset=position)
        position += table[column].nbytes
    return table, position


class Fold:
    """The state that a ledger's records tell, and the facts that an audit reports.

    `update` takes records in order. `state` is the controls in force as far as the records know: the intents of the
    last round count once their results are recorded. `lives` are the actions' stages, held against `engine.life`.
    """

    def __init__(self) -> None:
        self.state: ControlState | None = None
        self.header: dict[str, Any] = {}
        self.closing: dict[str, Any] | None = None
        self.records = 0
        self.applied = 0
        self.rollbacks = 0
        self.max_relative_step = 0.0
        self.lives = Lives((), None)
        self._layout = Layout(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
        self._intents = no_actions()

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
        self.header, tables = _read(record)
        version = self.header.get("ledger_version")
        if version != LEDGER_VERSION:
            raise LedgerError(f"ledger_version (={version}) must be {LEDGER_VERSION}: use the bidtwin that wrote it")
        controls = tables["controls"]
        scalar = np.stack([controls["bid"], controls["budget"]], axis=1)
        anchor = np.stack([controls["anchor_bid"], controls["anchor_budget"]], axis=1)
        weights, audiences = tables["creatives"]["weights"], tables["audiences"]
        self._layout = Layout(**tables["layout"])
        for what, start, values in (
            ("weights", self._layout.creative_start, weights),
            ("modifiers", self._layout.audience_start, audiences["modifiers"]),
        ):
            if len(start) != len(scalar) + 1 or (np.diff(start) < 1).any() or start[-1] != len(values):
                raise LedgerError(
                    f"record {record.sequence} lays out {len(values)} {what} in a way it cannot: it was changed"
                )
        self.state = ControlState(
            scalar=scalar,
            anchor=anchor,
            weights=weights,
            modifiers=audiences["modifiers"],
            modifier_anchor=audiences["anchor"],
            paused=controls["paused"].astype(np.bool_),
            version=np.zeros((len(scalar), len(Knob)), dtype=np.int64),
        )
        names, patience = self.header.get("campaigns"), self.header.get("approval_ticks")
        known = names if isinstance(names, list) and len(names) == len(scalar) else range(len(scalar))
        self.lives = Lives(known, patience if type(patience) is int else None)

    def _take_results(self, record: Record) -> None:
        decoded = decode_round(record)
        due = len(self._intents)
        if len(decoded.results) != due:
            raise LedgerError(
                f"record {record.sequence} has {len(decoded.results)} results for {due} rows: it was changed"
            )
        self._apply(self._intents.take(decoded.results == Result.APPLIED))
        if record.kind is RecordKind.CLOSING:
            self._intents, self.closing = no_actions(), decoded.header
        else:
            self._intents = decoded.intents(record.sequence)
        self._live(record, decoded)

    def _live(self, record: Record, decoded: Round) -> None:
        try:
            self.lives.take(record.sequence, record.tick, decoded)
        except ImpossibleLife as error:
            raise LedgerError(f"record {record.sequence} tells what cannot be: {error}") from None
        except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise LedgerError(
                f"record {record.sequence} has a header that cannot be read ({error!r:.60}): it was changed"
            ) from None

    def _apply(self, rows: Actions) -> None:
        assert self.state is not None
        if not _stands_on(self._layout, self.state, rows, self._known_to_differ(rows)):
            raise LedgerError(f"round {rows.round} applied a row on controls that were not in force: it was not ours")
        self.state = after(self._layout, self.state, rows)
        self.applied += len(rows)
        self.rollbacks += int((rows.source == Source.ROLLBACK).sum())
        self.max_relative_step = max(self.max_relative_step, _largest_step(rows))

    def _known_to_differ(self, rows: Actions) -> Bool:
        """Rows on knobs of which their round told, by an open alert, that the value in force was not the recorded one.

        They replace what was found there, and from then on the record knows the knob again.
        """
        differs = {
            (each.campaign, each.knob) for each in self.lives.alerts.open if each.kind is AlertKind.STATE_DIFFERS
        }
        if not differs:
            return np.zeros(len(rows), dtype=np.bool_)
        places = zip(rows.campaign.tolist(), rows.knob.tolist(), strict=True)
        return np.array([place in differs for place in places], dtype=np.bool_)


def _stands_on(layout: Layout, state: ControlState, rows: Actions, spared: Bool) -> bool:
    """Whether every row names a knob that exists, and all but those spared its version and its value in force."""
    campaign, knob, index = (column.astype(np.int64) for column in (rows.campaign, rows.knob, rows.index))
    known = (campaign >= 0) & (campaign < len(state.paused)) & (knob >= 0) & (knob < len(Knob)) & (index >= 0)
    if not known.all():
        return False
    inside = index < sizes_of(layout, campaign, knob)
    return bool(
        inside.all()
        and (spared | (state.version[campaign, knob] == rows.base_version)).all()
        and (spared | (value_in_force(layout, state, campaign, knob, index) == rows.old)).all()
    )


def _largest_step(rows: Actions) -> float:
    """Largest |new − old| / old among automatic scalar changes: the product's, not a person's, not a rollback.

    An audience that a person's yes made a target came from 0, where there is no step.
    """
    scalar = (rows.knob < len(SCALARS)) | (rows.knob == Knob.MODIFIERS) & (rows.old > 0)
    automatic = (rows.source > Source.ROLLBACK) & scalar
    old, new = rows.old[automatic], rows.new[automatic]
    return float((np.abs(new - old) / np.maximum(old, 1)).max()) if old.size else 0.0


def fold(records: Iterable[Record]) -> Fold:
    """Fold a whole ledger, or any prefix of one."""
    folded = Fold()
    for record in records:
        folded.update(record)
    return folded


def explain(reason: int) -> str:
    """A reason code as the word used in tables."""
    return Reason(reason).name.lower()
