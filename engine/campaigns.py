"""Campaigns as columns: their specifications, and the controls in force.

A `CampaignSet` is sorted by id and never changes during a run; one campaign is a set of size 1. `ControlState` holds
everything the optimiser can move. Only a `CampaignMachine` replaces the state in force, through `apply`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.actions import Actions, Approved, Knob, Result
from engine.errors import BadInput
from engine.units import Bool, Int64, equal_shares

SCALARS = (Knob.BID, Knob.BUDGET)

ACCOUNT = -1
"""What stands for the whole account where a campaign's position is due."""


class Charging(IntEnum):
    """What a campaign pays for."""

    PER_IMPRESSION = 0
    PER_CLICK = 1


class Period(IntEnum):
    """How long a budget lasts: a local day, or the whole flight."""

    DAY = 0
    FLIGHT = 1


@dataclass(frozen=True)
class CampaignSet:
    """Specifications of n campaigns, sorted by id.

    `cell_start` (int64[n + 1]) says which cells, one per creative (at least one), belong to a campaign: cells
    `cell_start[i] … cell_start[i + 1] - 1`, named by `creatives`. `market` indexes `markets`, sorted too. Bounds are
    the hard limits in micros that the run begins with; the guard goes by its own, which may be reloaded.
    """

    ids: tuple[str, ...]
    channels: tuple[str, ...]
    markets: tuple[str, ...]
    market: Int64
    charging: NDArray[Any]
    period: NDArray[Any]
    cell_start: Int64
    creatives: tuple[str, ...]
    min_bid: Int64
    max_bid: Int64
    min_budget: Int64
    max_budget: Int64

    def __post_init__(self) -> None:
        if list(self.ids) != sorted(set(self.ids)):
            raise BadInput(f"campaign ids (={', '.join(self.ids[:5])} …) must be unique and sorted: sort them")
        sizes = np.diff(self.cell_start)
        if self.cell_start[0] != 0 or self.cell_start[-1] != self.cells or sizes.size != len(self) or (sizes < 1).any():
            raise BadInput(
                f"cell_start (={self.cell_start[:5]} …) must give each of {len(self)} campaigns one or more of the "
                f"{self.cells} creatives: begin with 0, grow at every campaign, end with {self.cells}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def cells(self) -> int:
        """Number of creatives over all campaigns."""
        return len(self.creatives)

    @property
    def cell_campaign(self) -> Int64:
        """Campaign of every cell; shape [cells]."""
        return np.repeat(np.arange(len(self)), np.diff(self.cell_start))

    @cached_property
    def rotating(self) -> Int64:
        """Cells of the campaigns that have several creatives, ascending: of these, views show counts of their own."""
        sizes = np.diff(self.cell_start)
        return np.flatnonzero(np.repeat(sizes > 1, sizes))

    def index(self, campaign: str) -> int:
        """Position of a campaign id, or a BadInput that says which there are."""
        try:
            return self.ids.index(campaign)
        except ValueError:
            known = ", ".join(self.ids[:5]) + (" …" if len(self) > 5 else "")
            raise BadInput(f"campaign (={campaign!r}) is not in this run: it has {known}") from None

    def cells_of(self, members: Int64) -> Int64:
        """Cells of the given campaigns, in order."""
        sizes = np.diff(self.cell_start)[members]
        place_in_result = np.cumsum(sizes) - sizes
        cells: Int64 = np.arange(sizes.sum()) + np.repeat(self.cell_start[members] - place_in_result, sizes)
        return cells

    def select(self, members: Int64) -> Self:
        """The set of the given campaigns (ascending positions), markets kept as they are numbered here."""
        cells = self.cells_of(members)
        sizes = np.diff(self.cell_start)[members]
        return replace(
            self,
            ids=tuple(self.ids[member] for member in members),
            channels=tuple(self.channels[member] for member in members),
            market=self.market[members],
            charging=self.charging[members],
            period=self.period[members],
            cell_start=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
            creatives=tuple(self.creatives[cell] for cell in cells),
            min_bid=self.min_bid[members],
            max_bid=self.max_bid[members],
            min_budget=self.min_budget[members],
            max_budget=self.max_budget[members],
        )


@dataclass(frozen=True)
class ControlState:
    """The controls in force for n campaigns with c creatives in all.

    scalar:
        int64[n, 2], bid and budget in micros (columns in the order of `Knob`).
    anchor:
        int64[n, 2], the last bid and budget set by a person (or by the configuration).
    weights:
        int64[c], the share of each creative in ppm; a campaign's sum to 1,000,000.
    paused:
        bool[n].
    version:
        int64[n, 4], how many times each knob was changed; a proposal is judged against it.
    """

    scalar: Int64
    anchor: Int64
    weights: Int64
    paused: Bool
    version: Int64

    @classmethod
    def initial(cls, campaigns: CampaignSet, bid: Int64, budget: Int64, weights: Int64 | None = None) -> Self:
        """The state a configuration starts with; creatives share equally where no weights are given."""
        n = len(campaigns)
        scalar = np.stack([bid, budget], axis=1).astype(np.int64).reshape(n, len(SCALARS))
        if weights is None:
            sizes = np.diff(campaigns.cell_start)
            weights = np.concatenate([equal_shares(int(size)) for size in sizes]) if n else np.empty(0, dtype=np.int64)
        paused, version = np.zeros(n, dtype=np.bool_), np.zeros((n, len(Knob)), dtype=np.int64)
        return cls(scalar, scalar.copy(), weights, paused, version)

    @property
    def bid(self) -> Int64:
        """Bid of every campaign, micros for an opportunity of reference value 1."""
        return self.scalar[:, Knob.BID]

    @property
    def budget(self) -> Int64:
        """Budget of every campaign for its period, micros."""
        return self.scalar[:, Knob.BUDGET]

    def select(self, campaigns: CampaignSet, members: Int64) -> Self:
        """The controls of some campaigns of the set."""
        return replace(
            self,
            scalar=self.scalar[members],
            anchor=self.anchor[members],
            weights=self.weights[campaigns.cells_of(members)],
            paused=self.paused[members],
            version=self.version[members],
        )

    @classmethod
    def merge(cls, campaigns: CampaignSet, parts: list[tuple[Int64, ControlState]]) -> ControlState:
        """Put the controls of shards, each with its members, back into the order of the whole set."""
        if len(parts) == 1 and len(parts[0][0]) == len(campaigns):
            return parts[0][1]
        names = ("scalar", "anchor", "paused", "version")
        columns = {name: scattered([(members, getattr(part, name)) for members, part in parts]) for name in names}
        weights = scattered([(campaigns.cells_of(members), part.weights) for members, part in parts])
        return cls(**columns, weights=weights)

    def equals(self, other: ControlState) -> bool:
        """Whether every control, anchor and version is the same."""
        names = ("scalar", "anchor", "weights", "paused", "version")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)


def scattered(parts: Sequence[tuple[Int64, NDArray[Any]]]) -> NDArray[Any]:
    """One column of several, each row put where its member stands; together the members are all there are."""
    first = parts[0][1]
    whole = np.empty((sum(len(members) for members, _ in parts), *first.shape[1:]), dtype=first.dtype)
    for members, rows in parts:
        whole[members] = rows
    return whole


def value_in_force(cell_start: Int64, state: ControlState, campaign: Int64, knob: Int64, index: Int64) -> Int64:
    """Value of each (campaign, knob, index) row: micros, ppm of the index-th creative, or 0 / 1 for paused."""
    values = np.zeros(campaign.size, dtype=np.int64)
    scalar = knob < len(SCALARS)
    values[scalar] = state.scalar[campaign[scalar], knob[scalar]]
    weight = knob == Knob.WEIGHTS
    values[weight] = state.weights[cell_start[campaign[weight]] + index[weight]]
    paused = knob == Knob.PAUSED
    values[paused] = state.paused[campaign[paused]]
    return values


def apply(cell_start: Int64, state: ControlState, approved: Approved) -> tuple[ControlState, NDArray[Any]]:
    """Apply approved rows that still stand on the version they were judged on; the others are stale, changing nothing.

    Returns the new state and a `Result` per row. A vector's rows share one version, so they apply together or not at
    all.
    """
    rows = approved.rows
    fresh = state.version[rows.campaign, rows.knob] == rows.base_version
    results = np.where(fresh, np.uint8(Result.APPLIED), np.uint8(Result.STALE))
    return after(cell_start, state, rows.take(fresh)), results


def after(cell_start: Int64, state: ControlState, rows: Actions) -> ControlState:
    """The state with rows in force: those known to have been applied, for `apply` and the record, or those tried."""
    if not len(rows):
        return state
    campaign, knob = rows.campaign.astype(np.int64), rows.knob.astype(np.int64)
    is_scalar, is_weight, is_paused = knob < len(SCALARS), knob == Knob.WEIGHTS, knob == Knob.PAUSED
    scalar, version = state.scalar.copy(), state.version.copy()
    scalar[campaign[is_scalar], knob[is_scalar]] = rows.new[is_scalar]
    version[campaign, knob] = rows.base_version + 1
    anchor, weights, paused = state.anchor, state.weights, state.paused
    if is_weight.any():
        weights = weights.copy()
        weights[cell_start[campaign[is_weight]] + rows.index[is_weight]] = rows.new[is_weight]
    if is_paused.any():
        paused = paused.copy()
        paused[campaign[is_paused]] = rows.new[is_paused].astype(np.bool_)
    moves = rows.moves_anchor & is_scalar
    if moves.any():
        anchor = anchor.copy()
        anchor[campaign[moves], knob[moves]] = rows.new[moves]
    return ControlState(scalar, anchor, weights, paused, version)
