"""Campaigns as columns: their specifications, and the controls in force.

A `CampaignSet` is sorted by id and never changes during a run; one campaign is a set of size 1. `ControlState` holds
everything the optimiser can move. Only a `CampaignMachine` replaces the state in force, through `apply`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from engine.actions import Actions, Approved, Knob, Result
from engine.errors import BadInput
from engine.units import PPM, Bool, Int64, equal_shares

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


class Layout(NamedTuple):
    """Where campaigns' creatives and audiences stand among all: campaign i has those at start[i] … start[i + 1] - 1."""

    creative_start: Int64  # int64[n + 1]
    audience_start: Int64  # int64[n + 1]


@dataclass(frozen=True)
class CampaignSet:
    """Specifications of n campaigns, sorted by id.

    `creative_start` (int64[n + 1]) says which creatives (at least one) belong to a campaign:
    `creative_start[i] … creative_start[i + 1] - 1`, named by `creatives`. `market` indexes `markets`, sorted too, and
    `audiences` names the audiences that each market tells apart: none, or two and more. Counts are kept per *cell*, a
    creative shown to an audience; a campaign's cells follow each other, those of one creative together. Bounds are the
    hard limits in micros that the run begins with; the guard goes by its own, which may be reloaded.
    """

    ids: tuple[str, ...]
    channels: tuple[str, ...]
    markets: tuple[str, ...]
    market: Int64
    charging: NDArray[Any]
    period: NDArray[Any]
    creative_start: Int64
    creatives: tuple[str, ...]
    min_bid: Int64
    max_bid: Int64
    min_budget: Int64
    max_budget: Int64
    audiences: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if list(self.ids) != sorted(set(self.ids)):
            raise BadInput(f"campaign ids (={', '.join(self.ids[:5])} …) must be unique and sorted: sort them")
        sizes = np.diff(self.creative_start)
        given = len(self.creatives)
        if (
            self.creative_start[0] != 0
            or self.creative_start[-1] != given
            or sizes.size != len(self)
            or (sizes < 1).any()
        ):
            raise BadInput(
                f"creative_start (={self.creative_start[:5]} …) must give each of {len(self)} campaigns one or more of "
                f"the {given} creatives: begin with 0, grow at every campaign, end with {given}"
            )
        if self.audiences and len(self.audiences) != len(self.markets):
            raise BadInput(
                f"audiences (of {len(self.audiences)} markets) must be of {len(self.markets)}: name them all"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def layout(self) -> Layout:
        """Where creatives and audiences stand; where a market tells no audiences apart, there is one place for all."""
        return Layout(self.creative_start, _starts(self._audience_count))

    @cached_property
    def cell_start(self) -> Int64:
        """First cell of every campaign, and the end; int64[n + 1]."""
        return _starts(np.diff(self.creative_start) * self._audience_count)

    @property
    def cells(self) -> int:
        """Number of cells over all campaigns."""
        return int(self.cell_start[-1])

    @property
    def cell_campaign(self) -> Int64:
        """Campaign of every cell; shape [cells]."""
        return np.repeat(np.arange(len(self)), np.diff(self.cell_start))

    @cached_property
    def cell_creative(self) -> Int64:
        """Creative of every cell, by its place among all; shape [cells]."""
        return np.repeat(np.arange(len(self.creatives)), self._audience_count[self.creative_campaign])

    @property
    def cell_audience(self) -> Int64:
        """Audience of every cell, by its place in the layout; shape [cells]."""
        campaign = self.cell_campaign
        return (
            self.layout.audience_start[campaign]
            + (np.arange(self.cells) - self.cell_start[campaign]) % (self._audience_count[campaign])
        )

    @property
    def creative_campaign(self) -> Int64:
        """Campaign of every creative; shape [creatives]."""
        return np.repeat(np.arange(len(self)), np.diff(self.creative_start))

    @property
    def audience_campaign(self) -> Int64:
        """Campaign of every place for an audience; shape [audiences]."""
        return np.repeat(np.arange(len(self)), self._audience_count)

    @cached_property
    def rotating(self) -> Int64:
        """Creatives of the campaigns that have several, ascending: of these, views show counts of their own."""
        sizes = np.diff(self.creative_start)
        return np.flatnonzero(np.repeat(sizes > 1, sizes))

    @cached_property
    def told_apart(self) -> Int64:
        """Audiences (places in the layout) of campaigns that have several: of these, views show counts of their own."""
        sizes = self._audience_count
        return np.flatnonzero(np.repeat(sizes > 1, sizes))

    @cached_property
    def _audience_count(self) -> Int64:
        if not self.audiences:
            return np.ones(len(self), dtype=np.int64)
        return np.array([max(len(names), 1) for names in self.audiences], dtype=np.int64)[self.market]

    def index(self, campaign: str) -> int:
        """Position of a campaign id, or a BadInput that says which there are."""
        try:
            return self.ids.index(campaign)
        except ValueError:
            known = ", ".join(self.ids[:5]) + (" …" if len(self) > 5 else "")
            raise BadInput(f"campaign (={campaign!r}) is not in this run: it has {known}") from None

    def audiences_of(self, campaign: int) -> tuple[str, ...]:
        """The audiences that a campaign's market tells apart; none where it does not."""
        return self.audiences[self.market[campaign]] if self.audiences else ()

    @property
    def audience_names(self) -> tuple[str, ...]:
        """The audience at every place of the layout; an empty word stands for everybody."""
        each = (self.audiences_of(campaign) or ("",) for campaign in range(len(self)))
        return tuple(name for names in each for name in names)

    def cells_of(self, members: Int64) -> Int64:
        """Cells of the given campaigns, in order."""
        return places_of(self.cell_start, members)

    def select(self, members: Int64) -> Self:
        """The set of the given campaigns (ascending positions), markets kept as they are numbered here."""
        creatives = places_of(self.creative_start, members)
        return replace(
            self,
            ids=tuple(self.ids[member] for member in members),
            channels=tuple(self.channels[member] for member in members),
            market=self.market[members],
            charging=self.charging[members],
            period=self.period[members],
            creative_start=_starts(np.diff(self.creative_start)[members]),
            creatives=tuple(self.creatives[creative] for creative in creatives),
            min_bid=self.min_bid[members],
            max_bid=self.max_bid[members],
            min_budget=self.min_budget[members],
            max_budget=self.max_budget[members],
        )


def places_of(start: Int64, members: Int64) -> Int64:
    """Places of the given campaigns' parts, in order, `start` being where each campaign's begin."""
    sizes = np.diff(start)[members]
    place_in_result = np.cumsum(sizes) - sizes
    places: Int64 = np.arange(sizes.sum()) + np.repeat(start[members] - place_in_result, sizes)
    return places


def _starts(sizes: Int64) -> Int64:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)


@dataclass(frozen=True)
class ControlState:
    """The controls in force for n campaigns with c creatives and a audiences in all.

    scalar:
        int64[n, 2], bid and budget in micros (columns in the order of `Knob`).
    anchor:
        int64[n, 2], the last bid and budget set by a person (or by the configuration).
    weights:
        int64[c], the share of each creative in ppm; a campaign's sum to 1,000,000.
    modifiers:
        int64[a], by what the bid is multiplied for each audience, in ppm: 1,000,000 leaves it as it is, 0 does not bid.
    modifier_anchor:
        int64[a], the last modifiers set by a person (or by the configuration).
    paused:
        bool[n].
    version:
        int64[n, 5], how many times each knob was changed; a proposal is judged against it.
    """

    scalar: Int64
    anchor: Int64
    weights: Int64
    modifiers: Int64
    modifier_anchor: Int64
    paused: Bool
    version: Int64

    @classmethod
    def initial(
        cls,
        campaigns: CampaignSet,
        bid: Int64,
        budget: Int64,
        weights: Int64 | None = None,
        modifiers: Int64 | None = None,
    ) -> Self:
        """The state a configuration starts with: unless given, creatives share equally and no audience is modified."""
        n = len(campaigns)
        scalar = np.stack([bid, budget], axis=1).astype(np.int64).reshape(n, len(SCALARS))
        if weights is None:
            sizes = np.diff(campaigns.creative_start)
            weights = np.concatenate([equal_shares(int(size)) for size in sizes]) if n else np.empty(0, dtype=np.int64)
        if modifiers is None:
            modifiers = np.full(campaigns.layout.audience_start[-1], PPM, dtype=np.int64)
        paused, version = np.zeros(n, dtype=np.bool_), np.zeros((n, len(Knob)), dtype=np.int64)
        return cls(scalar, scalar.copy(), weights, modifiers, modifiers.copy(), paused, version)

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
            weights=self.weights[places_of(campaigns.creative_start, members)],
            modifiers=self.modifiers[places_of(campaigns.layout.audience_start, members)],
            modifier_anchor=self.modifier_anchor[places_of(campaigns.layout.audience_start, members)],
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
        for name, start in _SPREAD.items():
            starts = getattr(campaigns.layout, start)
            columns[name] = scattered([(places_of(starts, members), getattr(part, name)) for members, part in parts])
        return cls(**columns)

    def equals(self, other: ControlState) -> bool:
        """Whether every control, anchor and version is the same."""
        names = (column.name for column in fields(self))
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)


_SPREAD = {"weights": "creative_start", "modifiers": "audience_start", "modifier_anchor": "audience_start"}
"""Columns of the controls that have several rows to a campaign, and what says where each campaign's begin."""


def scattered(parts: Sequence[tuple[Int64, NDArray[Any]]]) -> NDArray[Any]:
    """One column of several, each row put where its member stands; together the members are all there are."""
    first = parts[0][1]
    whole = np.empty((sum(len(members) for members, _ in parts), *first.shape[1:]), dtype=first.dtype)
    for members, rows in parts:
        whole[members] = rows
    return whole


def places_in_force(layout: Layout, campaign: Int64, knob: Int64, index: Int64) -> tuple[Int64, Int64]:
    """Where rows of weights and of modifiers stand among all creatives, and among all audiences."""
    weight, modifier = knob == Knob.WEIGHTS, knob == Knob.MODIFIERS
    creative = layout.creative_start[campaign[weight]] + index[weight]
    return creative, layout.audience_start[campaign[modifier]] + index[modifier]


def sizes_of(layout: Layout, campaign: Int64, knob: Int64) -> Int64:
    """How many values each (campaign, knob) has: one per creative, per audience, or a single one.

    Where a market tells no audiences apart, there are no modifiers to move.
    """
    creatives, audiences = (np.diff(start)[campaign] for start in layout)
    modifiers = np.where(audiences > 1, audiences, 0)
    sizes: Int64 = np.where(knob == Knob.WEIGHTS, creatives, np.where(knob == Knob.MODIFIERS, modifiers, 1))
    return sizes


def most_bid(audience_start: Int64, modifiers: Int64, maximum: Int64) -> Int64:
    """The highest bid of every campaign that no audience's modifier takes above its maximum; int64[n], micros."""
    if not (modifiers > PPM).any():
        return maximum
    highest = np.maximum(np.maximum.reduceat(modifiers, audience_start[:-1]), PPM)
    most: Int64 = maximum // highest * PPM + maximum % highest * PPM // highest  # ⌊10⁶ · maximum / highest⌋
    return most


def value_in_force(layout: Layout, state: ControlState, campaign: Int64, knob: Int64, index: Int64) -> Int64:
    """Value of each row: micros, ppm of the campaign's index-th creative or audience, or 0 / 1 for paused."""
    values = np.zeros(campaign.size, dtype=np.int64)
    scalar = knob < len(SCALARS)
    values[scalar] = state.scalar[campaign[scalar], knob[scalar]]
    creative, audience = places_in_force(layout, campaign, knob, index)
    values[knob == Knob.WEIGHTS] = state.weights[creative]
    values[knob == Knob.MODIFIERS] = state.modifiers[audience]
    paused = knob == Knob.PAUSED
    values[paused] = state.paused[campaign[paused]]
    return values


def apply(layout: Layout, state: ControlState, approved: Approved) -> tuple[ControlState, NDArray[Any]]:
    """Apply approved rows that still stand on the version they were judged on; the others are stale, changing nothing.

    Returns the new state and a `Result` per row. A vector's rows share one version, so they apply together or not at
    all.
    """
    rows = approved.rows
    fresh = state.version[rows.campaign, rows.knob] == rows.base_version
    results = np.where(fresh, np.uint8(Result.APPLIED), np.uint8(Result.STALE))
    return after(layout, state, rows.take(fresh)), results


def after(layout: Layout, state: ControlState, rows: Actions) -> ControlState:
    """The state with rows in force: those known to have been applied, for `apply` and the record, or those tried."""
    if not len(rows):
        return state
    campaign, knob = rows.campaign.astype(np.int64), rows.knob.astype(np.int64)
    is_scalar, is_weight, is_paused = knob < len(SCALARS), knob == Knob.WEIGHTS, knob == Knob.PAUSED
    is_modifier, moves = knob == Knob.MODIFIERS, rows.moves_anchor
    scalar, version = state.scalar.copy(), state.version.copy()
    scalar[campaign[is_scalar], knob[is_scalar]] = rows.new[is_scalar]
    version[campaign, knob] = rows.base_version + 1
    creative, audience = places_in_force(layout, campaign, knob, rows.index)
    anchored = is_scalar & moves
    return ControlState(
        scalar=scalar,
        anchor=_put(state.anchor, (campaign[anchored], knob[anchored]), rows.new[anchored]),
        weights=_put(state.weights, creative, rows.new[is_weight]),
        modifiers=_put(state.modifiers, audience, rows.new[is_modifier]),
        modifier_anchor=_put(state.modifier_anchor, audience[moves[is_modifier]], rows.new[is_modifier & moves]),
        paused=_put(state.paused, campaign[is_paused], rows.new[is_paused].astype(np.bool_)),
        version=version,
    )


def _put(column: NDArray[Any], places: Any, values: NDArray[Any]) -> NDArray[Any]:
    """The column with values at some places; itself where there are none."""
    if not values.size:
        return column
    changed = column.copy()
    changed[places] = values
    return changed
