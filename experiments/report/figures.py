"""A run's counts as columns, and the figures made of them: every rate comes from `engine.metrics`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import BadInput
from engine.events import BIDS, COUNTS, IMPRESSIONS, OPPORTUNITIES, OUTSIDE_SUPPORT, SPEND
from engine.metrics import ScoreTargets, metrics, shares
from engine.runtime.hosts import STEADY
from engine.units import Bool, Int64
from experiments.config import RunConfig, load_config
from experiments.report.bins import Bins, gather

if TYPE_CHECKING:
    from experiments.api import Run

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
    """The metrics table of a run's folder.

    Raises
    ------
    BadInput
        Where there is no whole table: a run that was stopped leaves none.
    """
    path = run.folder / "metrics.parquet"
    try:
        table = pq.read_table(path)
        parts = {name: table[name].to_numpy() for name in ("tick", *COUNTS, *STEADY)}
        words = {name: table[name].to_pandas() for name in ("campaign", "channel", "market", "tick_start")}
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise BadInput(f"{path} cannot be read ({_first_line(error)}): finish the run first, or restore it") from None
    campaigns = int((parts["tick"] == parts["tick"][0]).sum()) if len(parts["tick"]) else 0
    if not campaigns or len(parts["tick"]) % campaigns:
        raise BadInput(f"{path} (={len(parts['tick'])} rows) must hold every campaign of every tick: restore it")
    config = load_config(run.info["config"])
    shape = (-1, campaigns)
    starts = words["tick_start"][::campaigns].reset_index(drop=True)
    return Table(
        config=config,
        unrecorded=tuple(run.info.get("unrecorded", ())),
        ids=[str(name) for name in words["campaign"][:campaigns]],
        channels=[str(name) for name in words["channel"][:campaigns]],
        markets=[str(name) for name in words["market"][:campaigns]],
        local=starts.dt.tz_convert(config.account.zone).dt.tz_localize(None),
        controls=np.stack([parts[name].astype(np.int64).reshape(shape) for name in STEADY], axis=2),
        counts=np.stack([parts[name].reshape(shape) for name in COUNTS], axis=2),
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


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
