"""Creatives side by side: what a change of weights does, told by the very auctions it is about.

A campaign shows its creatives at random by weight, so those whose weight rose and those whose weight fell meet the same
auctions, hours and prices: whatever befalls the campaign befalls both. Moving weight from one creative to another moves
profit per opportunity by the share moved times the difference of their profits per opportunity, which is an identity of
expectations and takes no sibling and no past. It counts per opportunity, not per impression: where a creative's click
rate decides what is won, that is part of what the move does.

It does not tell what a creative will come to when more people have seen it more often (fatigue), and it needs every
creative that lost weight to be shown still.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from engine.actions import Actions
from engine.baseline import CONVERTED, EARNED, SEEN, SPENT, TICKS
from engine.sequential import BLOCKS, WEIGHT, paired
from engine.units import PPM, Float64, Int64
from engine.verdicts import FEWEST_BLOCKS, FEWEST_CONVERSIONS


@dataclass(frozen=True)
class Split:
    """The comparison of creatives after one change of a campaign's weights.

    cells:
        int64[c], the creatives whose weight moved, by their place among those that views show.
    change:
        int64[c], by how many ppm.
    block:
        int64[c, 6], sums of the block that is under way.
    sums:
        float64[4], the blocks' sums, as `engine.sequential` reads them; y is the difference of profits per opportunity.
    counts:
        int64[2, 2], opportunities and conversions in these blocks, of what rose and of what fell.
    """

    cells: Int64
    change: Int64
    block: Int64
    sums: Float64
    counts: Int64

    @classmethod
    def over(cls, rows: Actions, places: Int64) -> Self | None:
        """After a vector was applied, the campaign's creatives having these places; None where one is shown no more."""
        change = rows.new - rows.old
        moved = change != 0
        if (rows.new[moved] == 0).any():
            return None
        return cls.of(places[rows.index[moved]], change[moved])

    @classmethod
    def of(cls, cells: Int64, change: Int64) -> Self:
        """With nothing seen."""
        block, counts = np.zeros((len(cells), TICKS + 1), dtype=np.int64), np.zeros((2, 2), dtype=np.int64)
        return cls(cells, change, block, np.zeros(BLOCKS + 1), counts)

    def begun_again(self) -> Self:
        """Without anything seen."""
        return self.of(self.cells, self.change)

    def fed(self, creatives: Int64 | None) -> Self:
        """With a span's counts of all creatives that views show; int64[creatives, 6]."""
        return self if creatives is None else replace(self, block=self.block + creatives[self.cells])

    def closed(self) -> Self:
        """With the block under way among those that count, if every creative was to be shown in it."""
        block, emptied = self.block, replace(self, block=np.zeros_like(self.block))
        if (block[:, SEEN] == 0).any():
            return emptied
        part = self.change / self._moved
        y = float((part * ((block[:, EARNED] - block[:, SPENT]) / block[:, SEEN])).sum())
        weight = 1.0 / float((part**2 / block[:, SEEN]).sum())
        seen = block[:, (SEEN, CONVERTED)]
        counts = np.stack([seen[self.change > 0].sum(axis=0), seen[self.change < 0].sum(axis=0)])
        sums = self.sums + np.array([weight, weight * y, weight * y * y, 1.0])
        return replace(emptied, sums=sums, counts=self.counts + counts)

    @property
    def enough(self) -> bool:
        """Whether the blocks so far are a day's, and conversions enough were due on both sides."""
        (risen, _), (fallen, converted) = self.counts.tolist()
        due = min(converted, risen * converted / max(fallen, 1))
        return bool(self.sums[BLOCKS] >= FEWEST_BLOCKS) and due >= FEWEST_CONVERSIONS

    @property
    def upper(self) -> float:
        """Upper confidence limit of the change's effect on the campaign's profit per opportunity, micros."""
        if not self.sums[BLOCKS]:
            return np.inf
        unit = self.sums[WEIGHT] / self.sums[BLOCKS]
        return float(paired(self.sums, unit).upper) * self._moved / PPM

    @property
    def _moved(self) -> int:
        return int(np.maximum(self.change, 0).sum())
