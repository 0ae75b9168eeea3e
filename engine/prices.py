"""What a campaign sees of its market: at which prices it won, counted in bins of price per unit of value.

The market price is seen on won auctions alone; a lost one tells that its price was above the bid. A price is divided by
the opportunity's value (and by its audience's modifier), so that it compares with the campaign's own `bid_micros`: an
opportunity is won where its price per unit of value is at most that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.units import Float64, Int64

BINS_AN_OCTAVE = 8
WINDOW = 64
"""Bins that are kept apart below a bid in force, eight octaves; cheaper wins are counted in the lowest of them."""

MANTISSA_BITS = 52 - 3  # below the three that number the bins of an octave
_KINDS = (np.int16, np.int32, np.int64)
BIN_OF_ONE = 1023 << 3  # a float's bits above them, less this, are its bin


def bin_of(price_per_value: ArrayLike) -> Int64:
    """The bin of each price per unit of value, micros > 0.

    Bin 8·e + m holds [2^e · (1 + m/8), 2^e · (1 + (m + 1)/8)), so that a float's own bits name its bin.
    """
    bits = np.ascontiguousarray(price_per_value, dtype=np.float64).view(np.int64)
    bins: Int64 = (bits >> MANTISSA_BITS) - BIN_OF_ONE
    return bins


def least_in_bin(bins: ArrayLike) -> Float64:
    """The lowest price per unit of value in each bin, micros; that of the next bin is where it ends."""
    octave, part = np.divmod(np.asarray(bins, dtype=np.int64), BINS_AN_OCTAVE)
    return np.ldexp(1 + part / BINS_AN_OCTAVE, octave.astype(np.int32))


def lowest_bins(bid: Int64) -> Int64:
    """The lowest bin that is kept apart for each bid in force, micros >= 1; the bid's own is the highest."""
    return bin_of(np.maximum(bid, 1)) - (WINDOW - 1)


@dataclass(frozen=True)
class Prices:
    """Wins by their price per unit of value: a row for every campaign and bin that had one, in this order.

    `wins` is their number, `value_ppm` what they were worth together, in millionths of the reference opportunity.
    """

    campaign: Int64
    bin: Int64
    wins: Int64
    value_ppm: Int64

    def __len__(self) -> int:
        return len(self.campaign)

    @classmethod
    def empty(cls) -> Self:
        """Nothing was won."""
        return cls(*(np.empty(0, dtype=np.int64) for _ in fields(cls)))

    @classmethod
    def of(cls, won: Int64, lowest: Int64) -> Self:
        """From int64[n, WINDOW, 2], wins and their value in ppm, and the bin of every campaign's first column."""
        campaign, place = np.nonzero(won[:, :, 0])
        return cls(campaign, lowest[campaign] + place, won[campaign, place, 0], won[campaign, place, 1])

    @classmethod
    def merge(cls, parts: Sequence[tuple[Int64, Prices]]) -> Prices:
        """Those of several parts, each with the positions of its campaigns among all; what is of one bin is added."""
        if len(parts) == 1 and np.array_equal(parts[0][0], np.arange(len(parts[0][0]))):
            return parts[0][1]
        campaigns = np.bincount(np.concatenate([members for members, _ in parts]))
        campaign = np.concatenate([members[rows.campaign] for members, rows in parts])
        columns = [np.concatenate([getattr(rows, name) for _, rows in parts]) for name in ("bin", "wins", "value_ppm")]
        if campaigns.max(initial=0) > 1:
            return cls(campaign, *columns)._summed()
        return cls(campaign, *columns)._scattered(len(campaigns))

    def value_of(self, campaigns: int) -> Float64:
        """What each of so many campaigns won, relative to the reference opportunity; float64[campaigns]."""
        value = np.bincount(self.campaign, weights=self.value_ppm, minlength=campaigns)
        return np.asarray(value * 1e-6, dtype=np.float64)

    def plus(self, later: Prices) -> Prices:
        """Both together, of the same campaigns."""
        pairs = ((getattr(self, each.name), getattr(later, each.name)) for each in fields(self))
        return Prices(*(np.concatenate(pair) for pair in pairs))._summed()

    def select(self, members: Int64) -> Prices:
        """Those of some campaigns (ascending positions), which are numbered anew."""
        place = np.searchsorted(members, self.campaign)
        mine = place < len(members)
        mine[mine] = members[place[mine]] == self.campaign[mine]
        return Prices(place[mine], self.bin[mine], self.wins[mine], self.value_ppm[mine])

    def _scattered(self, campaigns: int) -> Prices:
        """Every campaign's rows, which lie together in order, where they belong: counting takes no sorting."""
        rows = np.bincount(self.campaign, minlength=campaigns)
        first = np.flatnonzero(_changes(self.campaign))
        begins = np.cumsum(rows) - rows  # of each campaign, where its rows are to lie
        moved = begins[self.campaign[first]] - first
        at = np.arange(len(self)) + np.repeat(moved, np.diff(np.append(first, len(self))))
        columns = [np.empty_like(column) for column in (self.bin, *self._amounts)]
        for column, found in zip(columns, (self.bin, *self._amounts), strict=True):
            column[at] = found
        return Prices(np.repeat(np.arange(campaigns), rows), *columns)

    def _summed(self) -> Prices:
        """A row for every campaign and bin, in order."""
        order = np.lexsort((self.bin, self.campaign))
        campaign, bins = self.campaign[order], self.bin[order]
        first = np.flatnonzero(_changes(campaign) | _changes(bins))
        wins, value = (np.add.reduceat(column[order], first) if first.size else column for column in self._amounts)
        return Prices(campaign[first], bins[first], wins, value)

    def __reduce__(self) -> Any:
        """Travels in half the bytes: a span's rows go from every shard to the optimiser, and are small numbers."""
        return _unpacked, tuple(_packed(getattr(self, each.name)) for each in fields(self))

    @property
    def _amounts(self) -> tuple[Int64, Int64]:
        return self.wins, self.value_ppm


def _packed(column: Int64) -> NDArray[Any]:
    """In the smallest whole numbers of at least two bytes that hold it."""
    low, high = column.min(initial=0), column.max(initial=0)
    kind = next(kind for kind in _KINDS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return column.astype(kind)


def _unpacked(*columns: NDArray[Any]) -> Prices:
    return Prices(*(column.astype(np.int64) for column in columns))


def _changes(column: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether a row differs from the one before; the first does."""
    return np.append(True, column[1:] != column[:-1])[: len(column)]
