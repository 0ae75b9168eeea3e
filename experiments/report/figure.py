"""A metric of every campaign over time, as a Plotly figure: for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from engine.errors import BadInput
from engine.events import COUNTS
from engine.runtime.hosts import STEADY
from experiments.config.values import nearest
from experiments.report.bins import Bins
from experiments.report.data import ranked
from experiments.report.figures import Table, Values, counted, rates, read
from experiments.report.text import escaped

if TYPE_CHECKING:
    from experiments.runs import Run

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a8508b", "#56b4e9", "#b87700", "#16202a", "#8a95a0")
_RATES = ("ctr", "cvr", "cpc_micros", "cpm_micros", "cpa_micros", "roas", "win_rate", "impression_share", "score")
_KNOWN = {name.removesuffix("_micros"): name for name in (*COUNTS, *STEADY[:2], *_RATES)}


def plot(run: Run, metric: str) -> go.Figure:
    """A line per campaign, in the order of spend; money in currency units, an unknown is a gap.

    Parameters
    ----------
    metric:
        A count (`spend`, `clicks`, …), a control (`bid`, `budget`) or a rate (`ctr`, `roas`, `score`, …). Counts are
        per bin, rates of the bin they stand at, controls as the bin closed; the axis says how long a bin is.

    Raises
    ------
    BadInput
        For a metric that there is not.
    """
    column = _KNOWN.get(metric.removesuffix("_micros"))
    if column is None:
        raise BadInput(f"metric (={metric!r}) must be one of a run: {nearest(metric, list(_KNOWN))}")
    table = read(run)
    bins = table.coarse if column in _RATES else table.fine
    opens = table.local.iloc[0].normalize() + pd.to_timedelta(bins.opens, unit="min")
    figure = go.Figure(layout=_layout(column, bins, table))
    for rank, place in enumerate(ranked(table)):
        values = _values(table, place, column, bins)
        line = {"color": _COLOURS[rank % len(_COLOURS)], "width": 1.5, "shape": "hv" if column in STEADY else "linear"}
        figure.add_scatter(x=opens, y=values, name=escaped(table.ids[place]), mode="lines", line=line)
    return figure


def _values(table: Table, place: int, column: str, bins: Bins) -> Values:
    if column in STEADY:
        values: Values = table.controls[bins.last, place, STEADY.index(column)].tolist()
    else:
        rows = bins.sums(table.counts[:, place])
        if column in COUNTS:
            values = counted(rows, column, table)
        else:
            values = rates(rows, table.targets, table.unrecorded)[column]
    scale = 1e6 if column.endswith("_micros") else 1
    return [None if value is None else value / scale for value in values]


def _layout(column: str, bins: Bins, table: Table) -> dict[str, object]:
    name = column.removesuffix("_micros").replace("_", " ")
    unit = f", {table.config.account.currency}" if column.endswith("_micros") else ""
    per = (
        ""
        if column in STEADY
        else f" per {bins.width} minutes"
        if bins.width < 1440
        else f" per {bins.width // 1440} d"
    )
    share = column in {"ctr", "cvr", "win_rate", "impression_share"}
    opens = [table.local.iloc[0].normalize() + pd.Timedelta(minutes=minutes) for gap in bins.gaps for minutes in gap]
    breaks = [{"bounds": list(bounds)} for bounds in zip(opens[::2], opens[1::2], strict=True)]
    return {
        "template": "plotly_white",
        "xaxis": {"title": f"local time, {table.config.account.zone}", "rangebreaks": breaks},
        "yaxis": {"title": f"{name}{unit}{per}", "rangemode": "tozero", "tickformat": ".1%" if share else None},
        "hovermode": "x unified" if len(table.ids) <= len(_COLOURS) else "closest",
    }
