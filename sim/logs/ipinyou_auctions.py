"""iPinYou auctions of one campaign: one row per impression it won, in time order, without times.

Tab-separated: click (0 or 1), market price in fen per 1,000 impressions, predicted CTR, ad exchange. One fen per 1,000
impressions is 10 micros of CNY per impression. The log holds won impressions only, so it says nothing of prices above
the bid it was won with; the replay's `logged_bid_micros` states that bid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import CampaignSet
from engine.events import Opportunities, Status
from engine.units import Float64, Int64, TickGrid, nearest_micros
from sim.logs.rejects import Rejects
from sim.logs.text import Number, read_table

MICROS_PER_FEN_CPM = 10
_PUBLISHED_BASE = 69

_NAMES = ("click", "price", "predicted_ctr", "exchange")
_RULES = (
    Number("click", high=1, whole=True),
    Number("price", high=1e12),
    Number("predicted_ctr", high=1),
    Number("exchange", whole=True, high=2**31 - 1),
)


def _flat(predicted_ctr: Float64, _: float) -> Float64:
    """1 for all."""
    return np.ones_like(predicted_ctr)


def _predicted_ctr(predicted_ctr: Float64, mean: float) -> Float64:
    """Predicted CTR over the mean of the log; 1 for all where that is 0."""
    return predicted_ctr / mean if mean > 0 else _flat(predicted_ctr, mean)


def _published_linear(predicted_ctr: Float64, mean: float) -> Float64:
    """The same in the steps of the published linear bidder, ⌊69 · predicted CTR / mean⌋ / 69.

    That bidder (Zhang et al., WSDM 2016) bids whole fen per 1,000 impressions, 69 at the mean.
    """
    if mean <= 0:
        return _flat(predicted_ctr, mean)
    return np.floor(_PUBLISHED_BASE * predicted_ctr / mean) / _PUBLISHED_BASE


VALUES: dict[str, Callable[[Float64, float], Float64]] = {
    "predicted_ctr": _predicted_ctr,
    "published_linear": _published_linear,
    "flat": _flat,
}
"""From predicted CTRs and their mean to relative values, by the name a configuration gives them."""


@dataclass(frozen=True)
class AuctionLog:
    """The accepted rows of such a log, in its order."""

    click: NDArray[Any]  # uint8
    price_micros: Int64
    predicted_ctr: Float64
    exchange: NDArray[Any]  # int32

    def __len__(self) -> int:
        return len(self.click)

    def ticks(self, rows_per_tick: int) -> int:
        """How many ticks the log fills on a clock of so many rows a tick."""
        return -(-len(self) // rows_per_tick)

    def opportunities(
        self, campaigns: CampaignSet, campaign: str, grid: TickGrid, rows_per_tick: int, *, value: str = "predicted_ctr"
    ) -> Opportunities:
        """The rows as opportunities of one campaign, on the synthetic clock.

        `value` says what an opportunity is worth relative to the reference, as `VALUES` explains.
        """
        if value not in VALUES:
            raise ValueError(f"value (={value!r}) must be one of {', '.join(VALUES)}")
        place = campaigns.index(campaign)
        n = len(self)
        rows = np.arange(n)
        tick, index = rows // rows_per_tick, rows % rows_per_tick
        in_tick = np.minimum(rows_per_tick, n - tick * rows_per_tick)
        nothing = np.zeros(n, dtype=np.int64)
        return Opportunities(
            market=np.full(n, campaigns.market[place], dtype=np.int32),
            campaign=np.full(n, place, dtype=np.int32),
            cell=np.full(n, campaigns.creative_start[place], dtype=np.int32),
            tick=tick.astype(np.int32),
            index=index.astype(np.int32),
            event_time=grid.start_us + tick * grid.tick_us + (index + 1) * grid.tick_us // (in_tick + 1),
            value=VALUES[value](self.predicted_ctr, float(self.predicted_ctr.mean())),
            predicted_ctr=self.predicted_ctr,
            price_micros=self.price_micros,
            price_status=np.full(n, Status.KNOWN, dtype=np.uint8),
            click_if_won=self.click,
            conversion_if_won=np.zeros(n, dtype=np.uint8),
            conversion_time=nothing,
            conversion_value_micros=nothing,
        )


def read_auctions(path: Path, *, max_reject_share: float = 0.01) -> tuple[AuctionLog, Rejects]:
    """Read and check such a log; raises `BadInput` for a missing or empty file and for too many bad rows."""
    table = read_table(path, _NAMES, _RULES, "\t", header=False)
    rejects = table.rejects(path, max_reject_share)
    columns = table.columns
    log = AuctionLog(
        click=columns["click"].astype(np.uint8),
        price_micros=nearest_micros(columns["price"] * MICROS_PER_FEN_CPM),
        predicted_ctr=columns["predicted_ctr"],
        exchange=columns["exchange"].astype(np.int32),
    )
    return log, rejects
