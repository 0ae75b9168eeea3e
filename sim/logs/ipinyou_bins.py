"""iPinYou campaigns in five-minute bins: what each won in a bin, at what mean price, with how many clicks.

Comma-separated with a header. `total_bids_cur` counts the impressions won, `cur_avg_bid_price` is the mean price paid
in fen per 1,000 impressions (10 micros of CNY per impression each), `daily_budget` is in fen (10,000 micros), one per
campaign, and `datetime` is the bin's opening in local time. The logged spend passes the budget on many days: outcomes
are as logged, and nothing is enforced on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import CampaignSet
from engine.units import Int64, TickGrid, microseconds, nearest_micros
from sim.logs.ipinyou_auctions import MICROS_PER_FEN_CPM
from sim.logs.rejects import Rejects, first_reasons
from sim.logs.text import Number, Table, Text, read_table
from sim.replay import Intervals

MICROS_PER_FEN = 10_000

_NAMES = (
    "datetime",
    "ctr_pred",
    "campaign",
    "weekday",
    "tod",
    "total_bids_cur",
    "cur_avg_bid_price",
    "click",
    "ctr",
    "total_bids_prev",
    "avg_bid_price_prev",
    "tc_prev",
    "ctr_prev",
    "daily_budget",
    "episode_key",
)
_RULES = (
    Text("datetime"),
    Text("campaign"),
    Number("total_bids_cur", high=1e12, whole=True),
    Number("cur_avg_bid_price", high=1e6),
    Number("click", high=1e12, whole=True),
    Number("daily_budget", high=1e11),
)
_UNREADABLE = np.iinfo(np.int64).min


@dataclass(frozen=True)
class BinLog:
    """The accepted rows of such a log, in its order."""

    campaign: NDArray[Any]  # str
    event_time: Int64  # µs since the epoch at which the bin opens
    impressions: Int64
    clicks: Int64
    spend_micros: Int64
    daily_budget_micros: dict[str, int]

    def __len__(self) -> int:
        return len(self.event_time)

    @property
    def campaigns(self) -> tuple[str, ...]:
        """Ids of the campaigns it speaks of, sorted."""
        return tuple(sorted(self.daily_budget_micros))

    @property
    def span(self) -> tuple[int, int]:
        """Event times at which its first and its last bin open."""
        return int(self.event_time.min()), int(self.event_time.max())

    def intervals(self, campaigns: CampaignSet, grid: TickGrid) -> Intervals:
        """The rows as intervals of each campaign's first creative; the grid has to hold them all."""
        place = {campaign: campaigns.index(campaign) for campaign in self.campaigns}
        nothing = np.zeros(len(self), dtype=np.int64)
        return Intervals(
            cell=campaigns.creative_start[[place[campaign] for campaign in self.campaign]],
            tick=grid.tick_of(self.event_time),
            impressions=self.impressions,
            clicks=self.clicks,
            conversions=nothing,
            spend_micros=self.spend_micros,
            revenue_micros=nothing,
        )


def read_bins(
    path: Path, *, zone: str = "Asia/Shanghai", known: Sequence[str] | None = None, max_reject_share: float = 0.01
) -> tuple[BinLog, Rejects]:
    """Read and check such a log; raises `BadInput` for a missing or empty file and for too many bad rows.

    Parameters
    ----------
    zone:
        IANA zone of its local times; of an hour that a day holds twice, the first is meant.
    known:
        Campaigns of the run: rows of others are rejected. None: all are taken.
    """
    table = read_table(path, _NAMES, _RULES, ",", header=True)
    opens = _event_times(table.columns["datetime"], zone)
    table = table.without(_doubts(table, opens, known))
    rejects = table.rejects(path, max_reject_share)
    columns = table.columns
    impressions = columns["total_bids_cur"].astype(np.int64)
    budgets = dict(zip(columns["campaign"], nearest_micros(columns["daily_budget"] * MICROS_PER_FEN), strict=True))
    log = BinLog(
        campaign=columns["campaign"],
        event_time=_event_times(columns["datetime"], zone),
        impressions=impressions,
        clicks=columns["click"].astype(np.int64),
        spend_micros=nearest_micros(impressions * columns["cur_avg_bid_price"] * MICROS_PER_FEN_CPM),
        daily_budget_micros={campaign: int(budget) for campaign, budget in budgets.items()},
    )
    return log, rejects


def _doubts(table: Table, opens: Int64, known: Sequence[str] | None) -> dict[int, str]:
    """Rows with a date that is none, or of a campaign that the run does not have."""
    columns = table.columns
    undated = opens == _UNREADABLE
    sentences = [f"datetime (={word!r}) must be like 2013-06-07 14:10:00" for word in columns["datetime"][undated]]
    findings = [(undated, sentences)]
    if known is not None:
        strange = ~np.isin(columns["campaign"].astype(str), np.array(known, dtype=str))
        findings.append(
            (strange, [f"campaign (={word!r}) is not in this run" for word in columns["campaign"][strange]])
        )
    clicked = columns["click"] > columns["total_bids_cur"]
    pairs = zip(columns["click"][clicked], columns["total_bids_cur"][clicked], strict=True)
    findings.append((clicked, [f"click (={click:g}) must be <= total_bids_cur (={won:g})" for click, won in pairs]))
    return first_reasons(table.line, findings)


def _event_times(words: NDArray[Any], zone: str) -> Int64:
    """Local times as event times, each distinct one read once; `_UNREADABLE` where it is no date."""
    distinct, places = np.unique(words.astype(str), return_inverse=True)
    place = ZoneInfo(zone)

    def read(word: str) -> int:
        try:
            return microseconds(datetime.strptime(word, "%Y-%m-%d %H:%M:%S").replace(tzinfo=place))
        except ValueError:
            return int(_UNREADABLE)

    times: Int64 = np.array([read(word) for word in distinct], dtype=np.int64)[places]
    return times
