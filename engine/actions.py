"""Proposals and actions: rows of (campaign, knob, index, value), from everyone who wants to change a control.

A policy that moves 10,000 bids and a person who moves one budget send the same rows and meet the same guard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import BadInput
from engine.units import MAX_MICROS, Bool, Int64

ROW_BITS = 24
"""An action's id is its round's ledger sequence, shifted by this, plus its row in the round."""


class Knob(IntEnum):
    """What the optimiser can move; the first two are scalars in micros, weights and modifiers have several values."""

    BID = 0
    BUDGET = 1
    WEIGHTS = 2
    PAUSED = 3
    MODIFIERS = 4


class Source(IntEnum):
    """Who proposes. Where several want the same knob in one round, the first here is judged, the others are refused."""

    PERSON = 0
    ROLLBACK = 1
    RULE = 2
    SCRIPT = 3
    POLICY = 4


class Flaw(IntEnum):
    """Why a wanted value is not a whole number of micros that could ever be in force."""

    NONE = 0
    NOT_A_NUMBER = 1
    NOT_FINITE = 2
    NOT_WHOLE = 3
    NEGATIVE = 4
    OUT_OF_RANGE = 5


class Result(IntEnum):
    """What became of an approved row at the campaign's machine."""

    PENDING = 0
    APPLIED = 1
    STALE = 2
    RECORDED = 3  # judged in a factual replay, where nothing is applied


class Note(NamedTuple):
    """Who proposes, and the evidence in words."""

    proposer: str
    text: str


class _Rows:
    """Columns of equal length, and the notes (evidence, in words) that their `note` column points into."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # the two subclasses are dataclasses, and have these columns
    campaign: NDArray[Any]
    note: NDArray[Any]
    notes: tuple[Note, ...]

    def __len__(self) -> int:
        return len(self.campaign)

    def take(self, rows: NDArray[Any]) -> Self:
        """Choose rows by index or by mask; the notes stay."""
        return replace(self, **{name: column[rows] for name, column in self.columns().items()})

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns by name."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "notes"}

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """One batch of several (at least one), in order."""
        if len(parts) == 1:
            return parts[0]
        notes: list[Note] = []
        shifted = []
        for part in parts:
            shifted.append(part.note.astype(np.int32) + len(notes))
            notes.extend(part.notes)
        names = [name for name in parts[0].columns() if name != "note"]
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return replace(parts[0], **columns, note=np.concatenate(shifted), notes=tuple(notes))


@dataclass(frozen=True)
class Proposals(_Rows):
    """Changes somebody wants, not yet judged.

    `index` is the creative's or the audience's position within its campaign (0 for scalars). Weights are proposed
    whole, one row per creative; of modifiers only those that are to move. `wanted` is micros, ppm or 0 / 1; where it is
    none of these, `flaw` says why and the guard refuses the row. `base_version` is the knob's version that the proposer
    saw.
    """

    campaign: NDArray[Any]  # int32
    knob: NDArray[Any]  # uint8, Knob
    index: NDArray[Any]  # int32
    wanted: Int64
    flaw: NDArray[Any]  # uint8, Flaw
    base_version: Int64
    source: NDArray[Any]  # uint8, Source
    note: NDArray[Any]  # int32, into notes
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Actions(_Rows):
    """Changes that passed the guard, with the value each replaces."""

    action: Int64  # id, see ROW_BITS
    campaign: NDArray[Any]  # int32
    knob: NDArray[Any]  # uint8
    index: NDArray[Any]  # int32
    old: Int64
    new: Int64
    base_version: Int64
    source: NDArray[Any]  # uint8
    note: NDArray[Any]  # int32
    notes: tuple[Note, ...] = ()

    @property
    def moves_anchor(self) -> Bool:
        """Whether the anchor band follows a row: a person's own edit, and an audience that becomes a target.

        Around the 0 that it comes from there is no band, and it took a person: to edit, to approve, or to roll back.
        """
        targets = (self.knob == Knob.MODIFIERS) & (self.old == 0)
        moves: Bool = (self.source == Source.PERSON) | targets
        return moves

    def spelt(self, row: int) -> str:
        """A row in words, for an error."""
        knob = Knob(int(self.knob[row])).name.lower()
        return f"action {int(self.action[row])} (campaign {int(self.campaign[row])}, {knob}): approved"

    def by_knob(self) -> list[Self]:
        """The rows of each (campaign, knob), in the order in which they first come: one row, or those of a vector."""
        keys = self.campaign.astype(np.int64) * len(Knob) + self.knob
        _, first = np.unique(keys, return_index=True)
        return [self.take(keys == keys[position]) for position in np.sort(first)]

    @property
    def round(self) -> int:
        """Ledger sequence of the round these rows belong to (rows of one round travel together)."""
        return int(self.action[0]) >> ROW_BITS if len(self) else -1


@dataclass(frozen=True)
class Approved:
    """The permission to apply rows, which `engine.guard` alone makes: mypy and a test refuse the unguarded path."""

    rows: Actions

    @classmethod
    def nothing(cls) -> Self:
        """No rows at all."""
        return cls(no_actions())

    def of(self, members: Int64) -> Approved:
        """The rows that concern the given campaigns (ascending positions), named by their place among those."""
        known = int(max(members.max(initial=-1), self.rows.campaign.max(initial=-1))) + 1
        place = np.full(known, -1, dtype=np.int32)
        place[members] = np.arange(len(members))
        at = place[self.rows.campaign]
        return Approved(replace(self.rows.take(at >= 0), campaign=at[at >= 0]))

    def __len__(self) -> int:
        return len(self.rows)


def wanted_values(values: ArrayLike) -> tuple[Int64, NDArray[Any]]:
    """Turn whatever a proposer sent into whole numbers and a `Flaw` per value; never raises, never rounds.

    A float that is a whole number counts as one; strings, booleans, NaN, infinities, fractions, negative and
    unreasonably large values are flawed and come out as 0.
    """
    # A list keeps the type of each of its values: beside a string or a float, a number stays the number it is.
    array = np.asarray(values, dtype=None if hasattr(values, "dtype") else object)
    if array.dtype.kind == "i":
        return _bounded(array.astype(np.int64, copy=False))
    if array.dtype.kind == "f":
        return _from_floats(array.astype(np.float64))
    pairs = [_one_value(value) for value in array.astype(object).ravel()]
    return (
        np.array([value for value, _ in pairs], dtype=np.int64),
        np.array([flaw for _, flaw in pairs], dtype=np.uint8),
    )


def proposals(
    campaign: ArrayLike,
    knob: ArrayLike,
    wanted: ArrayLike,
    base_version: ArrayLike,
    source: Source,
    note: str,
    index: ArrayLike = 0,
    proposer: str | None = None,
) -> Proposals:
    """Build proposal rows; scalars are repeated to the length of `campaign`, the proposer defaults to the source.

    A campaign, knob or index that its column cannot hold is kept as one that does not exist, for the guard to refuse.
    """
    rows = np.atleast_1d(_places(campaign, np.int32, -1))
    shape = rows.shape
    values, flaw = wanted_values(wanted)
    return Proposals(
        campaign=rows,
        knob=np.broadcast_to(_places(knob, np.uint8, 255), shape),
        index=np.broadcast_to(_places(index, np.int32, -1), shape),
        wanted=np.broadcast_to(values, shape),
        flaw=np.broadcast_to(flaw, shape),
        base_version=np.broadcast_to(_places(base_version, np.int64, -1), shape),
        source=np.full(shape, source, dtype=np.uint8),
        note=np.zeros(shape, dtype=np.int32),
        notes=(Note(source.name.lower() if proposer is None else proposer, note),),
    )


def no_proposals() -> Proposals:
    """A batch without rows."""
    return proposals([], Knob.BID, np.empty(0, dtype=np.int64), 0, Source.POLICY, "")


def no_actions() -> Actions:
    """Actions without rows."""
    whole, place, small = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.uint8)
    return Actions(whole, place, small, place, whole, whole, whole, small, place)


def nearest_step(old: Int64, wanted: ArrayLike) -> Int64:
    """`wanted`, rounded down, as far as the step law `4·|new − old| ≤ old` lets it go from `old`.

    For proposers that know they want more than one step may take; the guard judges their rows all the same.
    """
    reach = old // 4
    return np.clip(np.floor(np.asarray(wanted, dtype=np.float64)), old - reach, old + reach).astype(np.int64)


def _places(values: ArrayLike, kind: type[np.integer[Any]], nowhere: int) -> NDArray[Any]:
    """Whole numbers as a column of the given kind; those that do not fit become `nowhere`."""
    array = np.asarray(values)
    if array.dtype == kind:
        return array
    if array.size and array.dtype.kind not in "iu":
        raise BadInput(f"a campaign, knob, index or version (={values!r}) must be a whole number: give its position")
    bounds = np.iinfo(kind)
    return np.where((array >= bounds.min) & (array <= bounds.max), array, nowhere).astype(kind)


def _bounded(values: Int64) -> tuple[Int64, NDArray[Any]]:
    flaw = np.zeros(values.shape, dtype=np.uint8)
    flaw[values < 0] = Flaw.NEGATIVE
    flaw[values > MAX_MICROS] = Flaw.OUT_OF_RANGE
    return (values if not flaw.any() else np.where(flaw == Flaw.NONE, values, 0)), flaw


def _from_floats(values: NDArray[np.float64]) -> tuple[Int64, NDArray[Any]]:
    flaw = np.zeros(values.shape, dtype=np.uint8)
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        flaw[values != np.floor(values)] = Flaw.NOT_WHOLE
    flaw[values < 0] = Flaw.NEGATIVE
    flaw[values > MAX_MICROS] = Flaw.OUT_OF_RANGE
    flaw[~finite] = Flaw.NOT_FINITE
    return np.where(flaw == Flaw.NONE, values, 0.0).astype(np.int64), flaw


def _one_value(value: object) -> tuple[int, Flaw]:
    if isinstance(value, bool | np.timedelta64) or not isinstance(value, int | float | np.integer | np.floating):
        return 0, Flaw.NOT_A_NUMBER
    if not -np.inf < value < np.inf:
        return 0, Flaw.NOT_FINITE
    if value < 0 or value > MAX_MICROS:
        return 0, Flaw.NEGATIVE if value < 0 else Flaw.OUT_OF_RANGE
    whole = int(value)
    return (whole, Flaw.NONE) if whole == value else (0, Flaw.NOT_WHOLE)
