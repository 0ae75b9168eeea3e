"""Unguarded evaluation: what a published algorithm would have got in a log, by its own unrounded bids.

No optimiser, no ledger, no budget and no guard: nothing here is ever applied, and nothing here can be a run's event
source. It exists because such an algorithm may step farther than the guard lets anything step, and can still be
measured. The auctions are those of `sim.replay`, entered by the same kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import CampaignSet
from engine.errors import BadInput
from engine.events import COUNTS
from engine.units import Float64, Int64, TickGrid
from sim.replay import AuctionReplayFactory

UNGUARDED = "unguarded evaluation"
_NO_LIMIT = np.iinfo(np.int64).max


class Asked(NamedTuple):
    """What an algorithm may know of the auctions it bids in: columns, one row each, without price or outcome."""

    campaign: NDArray[Any]  # int32, position
    tick: NDArray[Any]  # int32
    value: Float64  # relative to the reference opportunity
    predicted_ctr: Float64


class Bidder(Protocol):
    """An algorithm as published: it names a bid of its own for every auction, and learns at the close of a tick.

    Like a policy it keeps nothing between calls but the memory it returns.
    """

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Any:
        """The memory before the first tick."""
        ...

    def bid(self, asked: Asked, memory: Any) -> Float64:
        """A bid per row in micros, not rounded, finite and >= 0."""
        ...

    def learn(self, lifetime: Int64, memory: Any) -> Any:
        """The memory after a tick; `lifetime` is int64[n, len(COUNTS)], counts since the log began."""
        ...


@dataclass(frozen=True)
class UnguardedEvaluation:
    """What came out: `counts` is int64[ticks, n, len(COUNTS)]; `kind` says everywhere what this is."""

    counts: Int64
    kind: str = field(default=UNGUARDED, init=False)

    @property
    def lifetime(self) -> Int64:
        """Counts since the log began, at every tick's close; int64[ticks, n, len(COUNTS)]."""
        return np.cumsum(self.counts, axis=0)


def evaluate_unguarded(log: AuctionReplayFactory, bidder: Bidder) -> UnguardedEvaluation:
    """Have an algorithm bid its way through a second-price log, tick by tick, with nothing between it and the auctions.

    The replay enters whole micros, and prices are whole micros too, so an unrounded bid wins exactly what it wins when
    rounded up (where a tie loses) or down (where a tie wins); a winner pays the price, so no charge depends on it.

    Raises
    ------
    BadInput
        Where a market charges the winner its own bid, and for a bid that is not finite or is negative.
    """
    if any(log.first_price):
        raise BadInput(
            "auction (=first_price) must be second_price for an unguarded evaluation, whose bids are unrounded"
        )
    n, ticks = len(log.campaigns), log.grid.ticks
    replay = log(np.arange(n))
    stakes = (np.ones(n, dtype=np.int64), np.full(n, _NO_LIMIT), np.zeros(n, dtype=np.bool_))
    rows = replay.rows
    values = np.zeros(len(rows.value))
    counts = np.zeros((ticks, n, len(COUNTS)), dtype=np.int64)
    memory = bidder.start(log.campaigns, log.grid)
    for tick in range(ticks):
        span = slice(*np.searchsorted(rows.tick, (tick, tick + 1)))
        asked = Asked(rows.campaign[span], rows.tick[span], rows.value[span], rows.ctr[span])
        values[span] = _whole(bidder.bid(asked, memory), tick, ties_win=log.ties_win)
        batch = replay.enter(rows._replace(value=values), tick, tick + 1, stakes)
        counts[tick] = batch.counts.of_campaigns(log.campaigns.cell_start)[0]
        memory = bidder.learn(counts.sum(axis=0), memory)
    return UnguardedEvaluation(counts)


def _whole(bids: Float64, tick: int, *, ties_win: bool) -> Float64:
    wrong = ~(np.isfinite(bids) & (bids >= 0))
    if wrong.any():
        raise BadInput(f"bid (={bids[wrong][0]}) in tick {tick} must be finite and >= 0: correct the algorithm")
    return np.floor(bids) if ties_win else np.ceil(bids)
