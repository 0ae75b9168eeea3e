"""A run's counts as columns, and the figures made of them: every rate comes from `engine.metrics`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from engine.errors import BadInput
from engine.events import BIDS, COUNTS, IMPRESSIONS, OPPORTUNITIES, OUTSIDE_SUPPORT, SPEND
from engine.metrics import ScoreTargets, metrics, shares
from engine.runtime.hosts import STEADY
from engine.units import Bool, Int64
from experiments.config import RunConfig
from experiments.report.bins import Bins, gather

if TYPE_CHECKING:
    from experiments.runs import Run

MOST_FINE = 400
"""Bins of the charts that follow a campaign closely; none covers more than a day, so that budgets can be seen."""
MOST_COARSE = 42
"""Bins of rates, which need cases behind them."""
_DIGITS = 6

Values = list[float | None]


@dataclass(frozen=True)
class Table:
    """`metrics.parquet` as columns: counts int64[ticks, campaigns, len(COUNTS)], controls int64[ticks, campaigns, 3].

    Campaigns are in the order of their ids; `local` is the local time at which each tick opens.
    """

    config: RunConfig
    unrecorded: tuple[str, ...]
    ids: list[str]
    channels: list[str]
    markets: list[str]
    local: pd.Series
    controls: Int64
    counts: Int64

    @cached_property
    def targets(self) -> ScoreTargets:
        """Targets of the score."""
        return self.config.score.targets

    @cached_property
    def active(self) -> Bool:
        """Whether anything reached a campaign in a tick, [ticks, campaigns]; interval logs tell impressions only."""
        seen: Bool = (self.counts[:, :, OPPORTUNITIES] + self.counts[:, :, IMPRESSIONS] + self.counts[:, :, SPEND]) > 0
        return seen

    @cached_property
    def busy(self) -> Bool:
        """Whether anything reached anybody, [ticks]."""
        return np.asarray(self.active.any(axis=1))

    @cached_property
    def fine(self) -> Bins:
        """Bins for what is followed closely."""
        return gather(self.local, self.config.time.tick_minutes, self.busy, MOST_FINE, 1440)

    @cached_property
    def coarse(self) -> Bins:
        """Bins for rates."""
        return gather(self.local, self.config.time.tick_minutes, self.busy, MOST_COARSE, 364 * 1440)

    def is_recorded(self, count: str) -> bool:
        """Whether a source tells a count at all; an interval log, for one, tells no opportunities."""
        if count in self.unrecorded:
            return False
        return count not in {"opportunities", "bids"} or bool(self.counts[:, :, COUNTS.index(count)].any())


def read(run: Run) -> Table:
    """The metrics table of a finished run."""
    table = run.metrics
    ticks = table.tick.to_numpy()
    campaigns = int((ticks == ticks[0]).sum()) if len(ticks) else 0
    if not campaigns or len(ticks) % campaigns:
        rule = "must hold every campaign of every tick"
        raise BadInput(f"{run.folder / 'metrics.parquet'} (={len(ticks)} rows) {rule}: restore it, or run again")
    config = run.config
    first = table.iloc[:campaigns]
    starts = table.tick_start.iloc[::campaigns].reset_index(drop=True)
    columns = {name: table[name].to_numpy().astype(np.int64).reshape(-1, campaigns) for name in (*STEADY, *COUNTS)}
    return Table(
        config=config,
        unrecorded=tuple(run.info["unrecorded"]),
        ids=[str(name) for name in first.campaign],
        channels=[str(name) for name in first.channel],
        markets=[str(name) for name in first.market],
        local=starts.dt.tz_convert(config.account.zone).dt.tz_localize(None),
        controls=np.stack([columns[name] for name in STEADY], axis=2),
        counts=np.stack([columns[name] for name in COUNTS], axis=2),
    )


def rates(rows: Iterable[Int64], targets: ScoreTargets, unrecorded: Collection[str]) -> dict[str, Values]:
    """Every rate of each row of counts, unknown ones None."""
    columns: dict[str, Values] = {}
    for counts in rows:
        for name, metric in metrics(counts, None, targets, unrecorded).items():
            columns.setdefault(name, []).append(None if metric.value is None else shortened(metric.value))
    return columns


def counted(rows: Int64, count: str, table: Table) -> Values:
    """A count of each row, None where the source does not tell it."""
    return rows[:, COUNTS.index(count)].tolist() if table.is_recorded(count) else [None] * len(rows)


def outside_support(rows: Int64) -> Values:
    """Share of each row's bids that the log cannot speak for; None where there was no bid."""
    found = shares(rows[:, OUTSIDE_SUPPORT], rows[:, BIDS], np.nan)
    return [None if np.isnan(share) else shortened(float(share)) for share in found]


def shortened(value: float) -> float:
    """A value to six significant digits: what a chart can show."""
    return float(f"{value:.{_DIGITS}g}")
