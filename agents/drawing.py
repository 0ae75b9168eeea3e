"""The picture of an episode of the bidding environment, so far; matplotlib is imported when one is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BadInput
from engine.units import Float64

_BLUE, _ORANGE, _GREY, _INK = "#1f6f8b", "#e07a1f", "#9aa5ad", "#26323a"
_INCHES, _DPI = (8.0, 6.0), 100


@dataclass(frozen=True)
class Picture:
    """What is drawn of one episode of s steps, t of which were played.

    bid, plan:
        float64[t], bids in force, and the linear programme's answer to each step, micros.
    spent, win_rate:
        float64[t], share of the budget gone at each step's close; auctions won over those entered, NaN where none was.
    traffic:
        float64[s], share of the traffic expected to be gone at each step's close.
    band:
        The mandate's band of bids, micros.
    title:
        A line above it all.
    """

    bid: Float64
    plan: Float64
    spent: Float64
    win_rate: Float64
    traffic: Float64
    band: tuple[float, float]
    title: str

    def rgb(self) -> NDArray[np.uint8]:
        """The picture; uint8[600, 800, 3]. Raises `BadInput` where matplotlib is not installed."""
        figure = _figure()
        upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1.3])
        steps, played = len(self.traffic), np.arange(1, len(self.bid) + 1)
        self._bids(upper, played)
        middle.plot(np.arange(1, steps + 1), 100 * self.traffic, color=_GREY, ls="--", label="traffic expected")
        middle.plot(played, 100 * self.spent, color=_BLUE, lw=2, label="budget spent")
        middle.set_ylim(-3, 105)
        middle.set_ylabel("% gone")
        lower.bar(played, 100 * np.nan_to_num(self.win_rate), color=_BLUE, alpha=0.75, width=0.8)
        lower.set_ylim(0, max(10.0, 115 * float(np.nan_to_num(self.win_rate).max(initial=0.0))))
        lower.set_ylabel("win rate, %")
        lower.set_xlabel("step")
        lower.set_xlim(0.3, steps + 0.7)
        for axes in (upper, middle, lower):
            axes.grid(color="#e6eaed", lw=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(colors=_INK, labelsize=9)
        upper.legend(frameon=False, fontsize=9, loc="best")
        middle.legend(frameon=False, fontsize=9, loc="upper left")
        figure.suptitle(self.title, fontsize=11, color=_INK, x=0.015, ha="left")
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()

    def _bids(self, axes: Any, played: NDArray[Any]) -> None:
        """Bid and plan on a logarithmic scale, with the band where it comes into sight."""
        axes.plot(played + 1, self.plan / 1e6, color=_ORANGE, marker=".", lw=1.3, label="LP-KM's plan")
        axes.step(played, self.bid / 1e6, where="mid", color=_BLUE, lw=2, label="bid in force")
        seen = np.concatenate([self.bid, self.plan]) / 1e6
        axes.set_yscale("log")
        low, high = seen.min() / 1.25, seen.max() * 1.25
        for edge in self.band:
            if low <= edge / 1e6 <= high:
                axes.axhline(edge / 1e6, color=_GREY, lw=1, ls=":")
        axes.set_ylim(low, high)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:.3g}")
        axes.tick_params(axis="y", which="minor", labelsize=7)
        axes.set_ylabel("bid, units of currency")


def _figure() -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra, imported on use
        from matplotlib.figure import Figure  # noqa: PLC0415 - likewise
    except ImportError:
        raise BadInput("render_mode (='rgb_array') needs matplotlib: pip install 'bidtwin[plots]'") from None
    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure
