"""What the guard enforces: hard bounds, the account, anchor bands, mandates and net limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

import numpy as np

from engine.actions import Knob
from engine.campaigns import SCALARS, CampaignSet, Period
from engine.errors import BadInput
from engine.units import PPM, Bool, Int64

DEFAULT_BAND = (Fraction(1, 3), Fraction(3))
FOREVER = np.iinfo(np.int64).max
UNCAPPED = 953_125
"""What three steps of a quarter come to, which no cap narrows: 1.25 to the third power, less one."""
BANDED = (*SCALARS, Knob.MODIFIERS)
"""Knobs that an anchor band holds, in the order of its columns."""
LEAST_MODIFIER, MOST_MODIFIER = 100_000, 10_000_000
"""Hard bounds of modifiers, in ppm, where a configuration states none."""
_MAX_BAND = 1_000  # times the anchor; with denominators up to a million, every product stays within int64


@dataclass(frozen=True)
class Window:
    """A net limit: within so many ticks (at most a day) a knob rises by at most so many ppm of what it was."""

    knob: Knob
    ticks: int
    rise: int


@dataclass(frozen=True)
class Limits:
    """What the guard enforces for n campaigns.

    minimum, maximum:
        int64[n, 2], hard bounds of bid and budget in micros; the minimum is at least 1.
    modifier_bounds:
        int64[n, 2], the least and the most that a modifier may be, in ppm; a person's 0 lies outside and is allowed.
        The most is below 10¹², so that every product stays within int64.
    band_low, band_high:
        int64[n, 3, 2], the anchor band of bid, budget and modifiers as a fraction (numerator, denominator).
    mandate_until:
        int64[n, 5], the last tick at which each knob may move automatically; −1 where no mandate was granted.
    account_budget:
        The most that the budgets per day may sum to, micros; None for no limit.
    account_member:
        bool[n], whose budgets count towards it (those per day).
    day:
        Ticks in 24 hours: how long a person's hold, a cooldown and the account's window last; 0 for none of them.
    exposure:
        int64[n], ppm by which a mandate lets a campaign's exposure rise in one round; None: no mandate narrows it.
    delay_horizon:
        Ticks after a change until its conversions count for its watch; None: a day.
    windows:
        Net limits of automatic rises.
    automatic:
        Whether anything may pass by itself but pauses, rollbacks and a person's own edits.
    version:
        Changes with every new set of limits; an approval is bound to it.
    """

    minimum: Int64
    maximum: Int64
    modifier_bounds: Int64
    band_low: Int64
    band_high: Int64
    mandate_until: Int64
    account_budget: int | None
    account_member: Bool
    day: int = 0
    exposure: Int64 | None = None
    delay_horizon: int | None = None
    windows: tuple[Window, ...] = ()
    automatic: bool = True
    version: int = 1

    @classmethod
    def of(cls, campaigns: CampaignSet, account_budget: int | None = None) -> Self:
        """The campaigns' hard bounds, the default band, and no mandate."""
        n = len(campaigns)
        low, high = ((side.numerator, side.denominator) for side in DEFAULT_BAND)
        return cls(
            minimum=np.maximum(np.stack([campaigns.min_bid, campaigns.min_budget], axis=1), 1),
            maximum=np.stack([campaigns.max_bid, campaigns.max_budget], axis=1),
            modifier_bounds=np.tile(np.array((LEAST_MODIFIER, MOST_MODIFIER), dtype=np.int64), (n, 1)),
            band_low=np.tile(np.array(low, dtype=np.int64), (n, len(BANDED), 1)),
            band_high=np.tile(np.array(high, dtype=np.int64), (n, len(BANDED), 1)),
            mandate_until=np.full((n, len(Knob)), -1, dtype=np.int64),
            account_budget=account_budget,
            account_member=campaigns.period == Period.DAY,
        )

    def with_mandate(
        self,
        members: Int64,
        knobs: tuple[Knob, ...],
        band: tuple[Fraction, Fraction] = DEFAULT_BAND,
        until: int | None = None,
        exposure_cap: int | None = None,
    ) -> Self:
        """These limits with a mandate on some knobs of some campaigns, through tick `until` (None: the whole run).

        `exposure_cap` is in ppm; None leaves the exposure to the step law of each knob.

        The band is taken to a millionth; one that is not 0 <= low <= high <= 1000 is a BadInput.
        """
        if not 0 <= band[0] <= band[1] <= _MAX_BAND:
            raise BadInput(f"band (={band[0]}, {band[1]}) must be 0 <= low <= high <= {_MAX_BAND}: try 1/3 and 3")
        lowest, highest = (side.limit_denominator(PPM) for side in band)
        low, high, mandate = self.band_low.copy(), self.band_high.copy(), self.mandate_until.copy()
        for knob in knobs:
            mandate[members, knob] = FOREVER if until is None else until
            if knob in BANDED:
                low[members, BANDED.index(knob)] = (lowest.numerator, lowest.denominator)
                high[members, BANDED.index(knob)] = (highest.numerator, highest.denominator)
        exposure = self.exposure
        if exposure_cap is not None:
            exposure = np.full(len(self.minimum), UNCAPPED, dtype=np.int64) if exposure is None else exposure.copy()
            exposure[members] = exposure_cap
        return replace(self, band_low=low, band_high=high, mandate_until=mandate, exposure=exposure)
