"""A target for the average cost per unit of value, as pacing policies keep it: beside the budget's pace, not instead.

A policy that paces budget and target at once has a multiplier for each and bids by the lower of the two: whichever
binds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from agents.horizon import Horizon
from engine.events import SPEND
from engine.policy import View
from engine.units import Float64, Int64

TargetMicros = float | tuple[float, ...]
"""For all campaigns, or for each; infinite: only the budget binds."""
NO_TARGET = math.inf


def aims(target: TargetMicros) -> bool:
    """Whether any campaign has a target, so that the value of what it won has to be known."""
    return bool(np.isfinite(target).any())


class Won(NamedTuple):
    """The value that n campaigns won since their period opened, and the most that a unit of it may cost on average."""

    most: Float64  # float64[n], micros; infinite: no target
    got: Float64  # float64[n], relative to the reference opportunity
    lately: Float64  # float64[n], of this since the last view

    @classmethod
    def nothing(cls, target: TargetMicros, campaigns: int) -> Won:
        """Before the first view."""
        most = np.broadcast_to(np.asarray(target, dtype=np.float64), campaigns).copy()
        return cls(most, np.zeros(campaigns), np.zeros(campaigns))

    def learn(self, view: View, horizon: Horizon) -> Won:
        """With what a view tells; where no price is told there is no target, and nothing to keep."""
        if view.prices is None:
            return self
        lately = view.prices.value_of(len(self.got))
        return self._replace(got=np.where(horizon.closed(view.tick), 0.0, self.got + lately), lately=lately)

    def room(self, view: View, horizon: Horizon) -> tuple[Float64, Float64]:
        """Logarithms of target / average cost, since the last view and over the period; float64[n] each.

        What won nothing has room without limit, and so has a period that has just closed; the caller limits it.
        """
        period = np.where(horizon.closed(view.tick), 0, view.period[:, SPEND])
        lately = _log_room(self.most, self.lately, view.recent[:, SPEND])
        return lately, _log_room(self.most, self.got, period)


def _log_room(most: Float64, got: Float64, spent: Int64) -> Float64:
    allowed = np.where(got > 0, most, np.inf) * np.where(got > 0, got, 1.0)
    room: Float64 = np.log(np.maximum(allowed, 1.0) / np.maximum(spent, 1.0))
    return room
