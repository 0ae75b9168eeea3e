"""The published eCPC controller (Zhang et al., WSDM 2016) as a policy; `agents.published` has it bid by itself.

eCPC is the cost of a click so far, counted from the start and with one click more than there were, so that it is known
from the first impression on. The papers and their logs price in fen per 1,000 impressions; one of these is 10 micros of
CNY per impression, so a cost or an eCPC in micros is ten times the published figure, and a gain a tenth of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agents.classic import WHOLE_BAND, Band, Bounds, bids_in_reach
from engine.actions import Knob, Proposals, Source, no_proposals, proposals
from engine.campaigns import CampaignSet
from engine.events import CLICKS, SPEND
from engine.policy import View
from engine.units import Float64, Int64, TickGrid


class Course(NamedTuple):
    """What the controller knows of n campaigns; arrays are never changed in place.

    `signal` is phi, in force until the next view; `ecpc` that of the last view, NaN before the first; both float64[n].
    """

    signal: Float64
    ecpc: Float64
    errors: Float64  # sum over all views so far
    bounds: Bounds


@dataclass(frozen=True)
class EcpcPid:
    """Holds cumulative eCPC at a reference by a PID controller on the log bid: bid = base · exp(phi).

    With error = reference − eCPC at the last view, phi = kp · error + ki · (sum of all errors so far) + kd · (eCPC one
    view earlier − eCPC), the last term from the second view on, and the whole clipped. As a policy it moves the bid
    towards base · exp(phi) as far as one step, the band and the hard bounds let it; a paused campaign's course rests.

    Parameters
    ----------
    reference_micros:
        The eCPC to hold, micros per click.
    base_bid_micros:
        The bid at phi = 0.
    kp, ki, kd:
        Gains per micro of eCPC; the published 0.0005, 0.000001 and 0.0001 per fen of 1,000 impressions by default.
    clip:
        The least and the greatest phi.
    band:
        The anchor band that the bid is held to.

    References
    ----------
    W. Zhang, Y. Rong, J. Wang, T. Zhu, X. Wang, "Feedback Control of Real-Time Display Advertising", WSDM 2016, sec. 3.

    Example
    -------
    >>> from engine.events import COUNTS
    >>> policy = EcpcPid(reference_micros=400_000, base_bid_micros=690)
    >>> counts = np.zeros((1, len(COUNTS)), dtype=np.int64)
    >>> counts[0, [CLICKS, SPEND]] = 3, 1_566_280
    >>> nothing = np.zeros(1)
    >>> course = policy.follow(counts, Course(nothing, nothing + np.nan, nothing, *[counts[:, 0]] * 3))
    >>> round(float(course.signal[0]), 4)
    0.4223
    """

    reference_micros: float
    base_bid_micros: float
    kp: float = 5e-5
    ki: float = 1e-7
    kd: float = 1e-5
    clip: tuple[float, float] = (-2.0, 5.0)
    band: Band = WHOLE_BAND

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Course:  # noqa: ARG002 - the protocol's signature
        """No error yet, and phi = 0."""
        nothing = np.zeros(len(campaigns))
        return Course(nothing, np.full(len(campaigns), np.nan), nothing, Bounds.of(campaigns))

    def propose(self, view: View, memory: Course) -> tuple[Proposals, Course]:
        """One bid per campaign, unless it would stay as it is."""
        paused = view.controls.paused
        after = self.follow(view.lifetime, memory)
        memory = after._replace(
            signal=np.where(paused, memory.signal, after.signal),
            ecpc=np.where(paused, memory.ecpc, after.ecpc),
            errors=np.where(paused, memory.errors, after.errors),
        )
        wanted = bids_in_reach(view, self.bid(memory.signal), self.band, memory.bounds)
        rows = np.flatnonzero((wanted != view.controls.bid) & ~paused)
        if not rows.size:
            return no_proposals(), memory
        versions = view.controls.version[rows, Knob.BID]
        return proposals(rows, Knob.BID, wanted[rows], versions, Source.POLICY, "eCPC", proposer=""), memory

    def follow(self, lifetime: Int64, course: Course) -> Course:
        """The course after a view of counts since the start; int64[n, len(COUNTS)]."""
        ecpc = ecpc_micros(lifetime)
        error = self.reference_micros - ecpc
        errors = course.errors + error
        fall = np.where(np.isnan(course.ecpc), 0.0, course.ecpc - ecpc)
        signal = np.clip(self.kp * error + self.ki * errors + self.kd * fall, *self.clip)
        return course._replace(signal=signal, ecpc=ecpc, errors=errors)

    def bid(self, signal: Float64) -> Float64:
        """What the controller wants to bid for a reference opportunity at a given phi, micros, not rounded."""
        wanted: Float64 = self.base_bid_micros * np.exp(signal)
        return wanted


def ecpc_micros(lifetime: Int64) -> Float64:
    """Cost over clicks + 1, from counts in the last axis; micros."""
    ecpc: Float64 = lifetime[..., SPEND] / (lifetime[..., CLICKS] + 1)
    return ecpc
