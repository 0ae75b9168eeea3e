"""Policies for the study: two that do harm, and one that holds its tongue until a day has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from engine.actions import Knob, Proposals, Source, no_proposals, proposals
from engine.campaigns import CampaignSet
from engine.policy import Policy, View
from engine.units import MAX_MICROS, PPM, Float64, Int64, TickGrid
from sim.rng import fill_uniforms, keys_of

Band = tuple[float, float]
NO_BAND: Band = (0.0, float(MAX_MICROS))
_STEP = 0.25
_DRAWS = {"bid": 101, "budget": 102, "weights": 103}
"""Purposes of random numbers, none of which a world uses."""


@dataclass(frozen=True)
class Silent:
    """Another policy, whose wishes count from the close of a tick on; until then it only looks."""

    policy: Policy
    until: int

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Any:
        """The other's memory."""
        return self.policy.start(campaigns, grid)

    def propose(self, view: View, memory: Any) -> tuple[Proposals, Any]:
        """What the other proposes, once its time has come."""
        rows, memory = self.policy.propose(view, memory)
        return (rows if view.tick >= self.until else no_proposals()), memory


class _Draws(NamedTuple):
    """The campaigns and their keys by what is drawn."""

    campaigns: CampaignSet
    keys: dict[str, Any]


@dataclass(frozen=True)
class RandomSteps:
    """Moves every bid and every budget by a random part in ±25 %, and a random ±25 % of the weights, at every view.

    What it draws depends on the seed, the tick and the campaign's id alone. Of the weights it moves mass between a
    campaign's first two creatives, as far as there is any. `band` is how far from the anchor it goes.
    """

    seed: int
    band: Band = NO_BAND

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> _Draws:  # noqa: ARG002 - the protocol's signature
        """The keys of its draws."""
        return _Draws(campaigns, {name: keys_of(self.seed, f"random-{name}", campaigns.ids) for name in _DRAWS})

    def propose(self, view: View, memory: _Draws) -> tuple[Proposals, _Draws]:
        """A row per bid and budget that moves, and the weights of every campaign with several creatives."""
        change = {name: (2 * self._uniforms(view, memory, name) - 1) * _STEP for name in _DRAWS}
        wanted = _within(view, np.stack([change["bid"], change["budget"]], axis=1), self.band)
        rows = [_scalars(view, wanted), *_mixed(view, memory.campaigns, change["weights"])]
        return Proposals.concatenate(rows), memory

    @staticmethod
    def _uniforms(view: View, draws: _Draws, name: str) -> Float64:
        uniforms: Float64 = np.empty((1, len(draws.campaigns)))
        fill_uniforms(uniforms, draws.keys[name], view.tick, _DRAWS[name])
        return uniforms.ravel()


@dataclass(frozen=True)
class AlwaysRaise:
    """Raises every bid and every budget by a quarter at every view, as far from the anchor as its band goes."""

    band: Band = NO_BAND

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> None:  # noqa: ARG002 - the protocol's signature
        """Nothing to remember."""
        return None  # noqa: RET501 - the protocol's memory

    def propose(self, view: View, memory: None) -> tuple[Proposals, None]:
        """A row per bid and budget that can still rise."""
        return _scalars(view, _within(view, np.full(view.controls.scalar.shape, _STEP), self.band)), memory


def _within(view: View, change: Float64, band: Band) -> Int64:
    """Bids and budgets after a change of at most a quarter, within the band and what money there is; int64[n, 2]."""
    old, anchor = view.controls.scalar, view.controls.anchor.astype(np.float64)
    low = np.maximum(np.ceil(anchor * band[0]), 1.0)
    high = np.minimum(np.floor(anchor * band[1]), float(MAX_MICROS))
    reach = old // 4
    moved = np.clip(np.round(old * (1 + change)), old - reach, old + reach)
    return np.clip(moved, low, high).astype(np.int64)


def _scalars(view: View, wanted: Int64) -> Proposals:
    campaign, knob = np.nonzero(wanted != view.controls.scalar)
    if not campaign.size:
        return no_proposals()
    versions = view.controls.version[campaign, knob]
    return proposals(campaign, knob, wanted[campaign, knob], versions, Source.POLICY, "a wish")


def _mixed(view: View, campaigns: CampaignSet, change: Float64) -> list[Proposals]:
    """The weights of every campaign that has several creatives, with mass moved between the first two."""
    rows = []
    for campaign in np.flatnonzero(np.diff(campaigns.creative_start) > 1).tolist():
        cells = slice(int(campaigns.creative_start[campaign]), int(campaigns.creative_start[campaign + 1]))
        shares = view.controls.weights[cells].copy()
        moved = int(np.clip(round(change[campaign] * PPM), -shares[0], shares[1]))
        if moved:
            shares[:2] += (moved, -moved)
            places, version = np.arange(shares.size), view.controls.version[campaign, Knob.WEIGHTS]
            of_one = np.full(shares.size, campaign)
            rows.append(proposals(of_one, Knob.WEIGHTS, shares, version, Source.POLICY, "a wish", index=places))
    return rows
