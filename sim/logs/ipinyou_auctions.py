"""iPinYou auctions of one campaign: one row per impression it won, in time order, without times.

Tab-separated: click (0 or 1), market price in fen per 1,000 impressions, predicted CTR, ad exchange. One fen per 1,000
impressions is 10 micros of CNY per impression. The log holds won impressions only, so it says nothing of prices above
the bid it was won with; the replay's `logged_bid_micros` states that bid.
"""

from __future__ import annotations

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

_NAMES = ("click", "price", "predicted_ctr", "exchange")
_RULES = (
    Number("click", high=1, whole=True),
    Number("price", high=1e12),
    Number("predicted_ctr", high=1),
    Number("exchange", whole=True, high=2**31 - 1),
)


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

        An opportunity's relative value is its predicted CTR over the mean of the log, or 1 where `value` is `"flat"`.
        """
        if value not in ("predicted_ctr", "flat"):
            raise ValueError(f"value (={value!r}) must be 'predicted_ctr' or 'flat'")
        place = campaigns.index(campaign)
        n = len(self)
        rows = np.arange(n)
        tick, index = rows // rows_per_tick, rows % rows_per_tick
        in_tick = np.minimum(rows_per_tick, n - tick * rows_per_tick)
        mean = self.predicted_ctr.mean()
        relative = self.predicted_ctr / mean if value == "predicted_ctr" and mean > 0 else np.ones(n)
        nothing = np.zeros(n, dtype=np.int64)
        return Opportunities(
            market=np.full(n, campaigns.market[place], dtype=np.int32),
            campaign=np.full(n, place, dtype=np.int32),
            cell=np.full(n, campaigns.cell_start[place], dtype=np.int32),
            tick=tick.astype(np.int32),
            index=index.astype(np.int32),
            event_time=grid.start_us + tick * grid.tick_us + (index + 1) * grid.tick_us // (in_tick + 1),
            value=relative,
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
