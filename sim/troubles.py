"""Trouble on demand: what goes wrong with campaigns and creatives for a time, without moving any draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.units import Float64, Int64
from sim.kernel import kernel
from sim.rng import OUTAGE, TO_UNIT, philox
from sim.traffic import DatedFactor

_CAMPAIGN, _TICK, _INDEX, _NUMBER = 1, 3, 4, 7  # columns of a table of conversions


@dataclass(frozen=True)
class Spell(DatedFactor):
    """For a time, `factor` holds for the campaigns (or creatives) at these positions in the whole run."""

    places: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.factor <= 1:
            raise ValueError(f"factor (={self.factor}) of a trouble must be in [0, 1]: it is the share that is left")


@dataclass(frozen=True)
class Troubles:
    """What goes wrong in a world.

    rates:
        Of campaigns: clicks made then convert less often, by this factor.
    reports:
        Of campaigns: of the conversions that happen then, only this share is ever reported (a tracking outage).
    approvals:
        Of creatives: 0 while the platform disapproves of them; what they would have shown the others show.
    """

    rates: tuple[Spell, ...] = ()
    reports: tuple[Spell, ...] = ()
    approvals: tuple[Spell, ...] = ()


NO_TROUBLES = Troubles()


class Factors:
    """The product of the spells that hold at a tick for some of the run's campaigns (or creatives).

    Parameters
    ----------
    spells:
        Of the whole run.
    members:
        Ascending positions, in the whole run, of those asked about.
    """

    def __init__(self, spells: Sequence[Spell], members: Int64) -> None:
        held = [(spell, np.flatnonzero(np.isin(members, spell.places))) for spell in spells]
        self._spells = [(spell, places) for spell, places in held if places.size]
        self._size = len(members)

    def __bool__(self) -> bool:
        """Whether any spell concerns them at all."""
        return bool(self._spells)

    def over(self, from_tick: int, to_tick: int) -> Float64:
        """float64[ticks, members], or [1, members] where no spell concerns them: 1 where nothing is wrong."""
        factors = np.ones((to_tick - from_tick if self else 1, self._size))
        for spell, places in self._spells:
            ticks = slice(max(spell.from_tick - from_tick, 0), max(spell.to_tick - from_tick, 0))
            factors[ticks, places] *= spell.factor
        return factors


def reported(conversions: Int64, share: Float64, key: NDArray[Any]) -> Int64:
    """The conversions that are reported, each with its own probability; `key` is that of its campaign."""
    kept = np.ones(len(conversions), dtype=np.bool_)
    _report(conversions, share, key, kept)
    return conversions[kept]


@kernel
def _report(conversions: Int64, share: Float64, key: NDArray[Any], kept: NDArray[Any]) -> None:
    for row in range(len(conversions)):
        index, tick = np.uint64(conversions[row, _INDEX]), np.uint64(conversions[row, _TICK])
        number = np.uint64(conversions[row, _NUMBER])
        bits = philox(index, tick, np.uint64(OUTAGE), number, key[conversions[row, _CAMPAIGN]])[0]
        kept[row] = np.float64(np.int64(bits)) * TO_UNIT < share[row]
