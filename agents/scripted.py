"""A proposer that follows a script: what a person or a test wants to see the guard answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from engine.actions import Knob, Proposals, Source, no_proposals, proposals
from engine.campaigns import CampaignSet
from engine.policy import View
from engine.units import TickGrid


@dataclass(frozen=True)
class Wish:
    """One change that the script asks for.

    `campaign` is a position; `values` are what the knob should become (one for a scalar, one per creative for weights,
    for modifiers those of the audiences at the places `audiences`), or `change` by which part of its value a scalar
    should move.
    """

    campaign: int
    knob: Knob
    proposer: str
    note: str
    values: tuple[int, ...] = ()
    change: Fraction | None = None
    audiences: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scripted:
    """Proposes the wishes of a tick at its close."""

    wishes: Mapping[int, tuple[Wish, ...]]

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> None:  # noqa: ARG002 - the protocol's signature
        """Nothing to remember."""
        return None  # noqa: RET501 - the protocol's memory

    def propose(self, view: View, memory: None) -> tuple[Proposals, None]:
        """The rows of this tick's wishes."""
        rows = [_rows(wish, view) for wish in self.wishes.get(view.tick, ())]
        return (Proposals.concatenate(rows) if rows else no_proposals()), memory


def _rows(wish: Wish, view: View) -> Proposals:
    values = wish.values
    if wish.change is not None:
        in_force = int(view.controls.scalar[wish.campaign, wish.knob])
        values = (int(in_force * (1 + wish.change)),)
    return proposals(
        np.full(len(values), wish.campaign),
        wish.knob,
        list(values),
        view.controls.version[wish.campaign, wish.knob],
        Source.SCRIPT,
        wish.note,
        index=wish.audiences or np.arange(len(values)),
        proposer=wish.proposer,
    )
