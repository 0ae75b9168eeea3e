"""The resolution of a report: ticks gathered into bins of local time, and long stretches without traffic left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.units import Bool, Int64

_DAY = 1440
_SHORTEST_GAP = 2 * _DAY  # minutes without any traffic that are left out of the charts


@dataclass(frozen=True)
class Bins:
    """Which bin every tick belongs to; bins are in order of local time.

    A local hour that comes twice, when clocks go back, is one bin that holds both: sums stay whole.

    width:
        Minutes of local time that a bin covers.
    opens:
        int64[bins], minutes from the first tick's local midnight to each bin's opening.
    code:
        int64[ticks], the bin of every tick, −1 where its stretch is left out.
    last:
        int64[bins], the last tick of each bin: its controls stand for the bin's.
    """

    width: int
    opens: Int64
    code: Int64
    last: Int64

    def __len__(self) -> int:
        return len(self.opens)

    def sums(self, counts: Int64) -> Int64:
        """Counts of shape [ticks, …] added up to [bins, …]."""
        total = np.zeros((len(self), *counts.shape[1:]), dtype=np.int64)
        kept = self.code >= 0
        np.add.at(total, self.code[kept], counts[kept])
        return total

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """Stretches left out, in minutes from the first tick's local midnight."""
        breaks = np.flatnonzero(np.diff(self.opens) > self.width + _SHORTEST_GAP - 1)
        return [(int(self.opens[at]) + self.width, int(self.opens[at + 1])) for at in breaks]


def gather(local: pd.Series, tick_minutes: int, active: Bool, most: int, widest: int) -> Bins:
    """The finest bins of which at most `most` have traffic.

    Parameters
    ----------
    local:
        Local time, without a zone, at which each tick opens.
    active:
        bool[ticks], whether anything reached anybody.
    widest:
        Minutes that a bin covers at most, however many there are then.
    """
    midnight = local.iloc[0].normalize()
    minutes = ((local - midnight) // pd.Timedelta(minutes=1)).to_numpy(dtype=np.int64)
    days = [days * _DAY for days in (2, 7, 14, 28, 91, 364)]
    widths = [width for width in range(tick_minutes, _DAY + 1, tick_minutes) if _DAY % width == 0] + days
    widths = [width for width in widths if width <= widest]
    seen = minutes[active] if active.any() else minutes
    width = next((width for width in widths if len(np.unique(seen // width)) <= most), widths[-1])
    return _cut(minutes, active, width)


def _cut(minutes: Int64, active: Bool, width: int) -> Bins:
    number = minutes // width
    kept = _outside_gaps(number, active, width)
    numbers, code = np.unique(number[kept], return_inverse=True)
    full = np.full(len(minutes), -1, dtype=np.int64)
    full[kept] = code
    last = np.zeros(len(numbers), dtype=np.int64)
    last[code] = np.flatnonzero(kept)  # the later tick of a bin overwrites the earlier one
    return Bins(width, numbers * width, full, last)


def _outside_gaps(number: Int64, active: Bool, width: int) -> Bool:
    """Ticks that are not in a long stretch of bins without traffic, between two with it."""
    busy = np.unique(number[active])
    if not busy.size:
        return np.ones(len(number), dtype=np.bool_)
    before = busy[np.maximum(np.searchsorted(busy, number, side="right") - 1, 0)]
    after = busy[np.minimum(np.searchsorted(busy, number), len(busy) - 1)]
    outside: Bool = (after - before - 1) * width < _SHORTEST_GAP
    return outside
