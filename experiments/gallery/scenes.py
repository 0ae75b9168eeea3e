"""What there is to see in each of the scenarios, from their finished runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import beta, norm

from engine.units import Float64
from experiments import build
from experiments.config import SimulationConfig
from experiments.gallery.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Axis,
    Bars,
    Between,
    Dots,
    Line,
    Panel,
    Picture,
    Span,
    linear,
)
from experiments.runs import Run
from sim.drift import log_levels
from sim.rng import keys_of
from sim.traffic import Curves
from sim.world import WorldFactory

_DAY = 24.0
_INTERVAL = (0.05, 0.95)


class Told:
    """A run's counts, by the days that have passed since it began."""

    def __init__(self, run: Run) -> None:
        self.run = run
        config = run.config
        assert isinstance(config, SimulationConfig)
        self.config: SimulationConfig = config

    @cached_property
    def table(self) -> pd.DataFrame:
        """The metrics, with a column of elapsed local hours."""
        table = self.run.metrics.copy()
        table["hour"] = self.hours(table.tick_start)
        return table

    def hours(self, moments: pd.Series) -> pd.Series:
        """Local hours that have passed since the run began."""
        local = moments.dt.tz_convert(self.config.account.zone).dt.tz_localize(None)
        passed: pd.Series = (local - pd.Timestamp(self.config.time.start)) / pd.Timedelta(hours=1)
        return passed

    def binned(self, hours: float, *campaigns: str) -> pd.DataFrame:
        """Sums of bins of so many hours, over the campaigns named or over all; indexed by the day when each opens."""
        table = self.table[self.table.campaign.isin(campaigns)] if campaigns else self.table
        counts = table.select_dtypes("number").groupby(table.hour // hours).sum()
        counts.index = pd.Index(np.asarray(counts.index, dtype=np.float64) * hours / _DAY)
        return counts

    def budget(self, campaign: str) -> Float64:
        """A campaign's budget as each day opens, currency units."""
        own = self.table[self.table.campaign == campaign]
        budgets: Float64 = own.groupby(own.hour // _DAY).budget_micros.first().to_numpy() / 1e6
        return budgets

    def axis(self, every: int = 1) -> Axis:
        """The run's days, a mark at the beginning of every so many."""
        start, days = self.config.time.start, self.config.time.days
        style = "%a %-d" if days <= 14 else "%-d %b"

        def label(day: float) -> str:
            return (start + timedelta(days=day)).strftime(style)

        return Axis(0.0, float(days), tuple(float(day) for day in range(0, days + 1, every)), label)

    @property
    def zone(self) -> str:
        """What stands below the axis of days."""
        return f"local time, {self.config.account.zone}"


class Scene(NamedTuple):
    """A picture of a scenario; with `untroubled`, it is shown beside the same one without its troubles."""

    draw: Callable[[Told, Told | None], Picture]
    untroubled: bool = False


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _plain(value: float) -> str:
    return f"{value:,.6g}".replace("-", "−")


def _share(of: pd.DataFrame, part: str, whole: str, scale: float = 1.0) -> Float64:
    """One count over another, unknown where there is none of the other."""
    counts = of[whole].to_numpy(dtype=np.float64)
    share: Float64 = np.where(counts > 0, of[part].to_numpy() / np.maximum(counts, 1) * scale, np.nan)
    return share


def _days(of: pd.DataFrame, hours: float) -> Float64:
    """The middles of bins."""
    middles: Float64 = np.asarray(of.index, dtype=np.float64) + hours / _DAY / 2
    return middles


def _values(lines: Sequence[Line | Bars]) -> list[float]:
    return [float(value) for line in lines for value in line.y]


def _panel(title: str, lines: Sequence[Line | Bars], label: Callable[[float], str] = _plain, **axis: Any) -> Panel:
    return Panel(title, linear(_values(lines), label, **axis), tuple(lines))


def search_100_keywords(told: Told, _: Told | None) -> Picture:
    """A dot per keyword, by the rank of its volume."""
    config = told.config
    sums = told.table.groupby("campaign", observed=True)[["clicks", "conversions"]].sum()
    names = sorted(config.campaigns, key=lambda name: -config.campaigns[name].reach)
    rank = np.arange(1.0, len(names) + 1)
    clicks, sales = (sums.loc[names, column].to_numpy(dtype=np.float64) for column in ("clicks", "conversions"))
    groups = sorted({config.campaigns[name].bid_micros for name in names})
    titles = ("a kind of thing", "a thing", "a question", "one's own name")
    colours = (BLUE, ORANGE, GREEN, PURPLE)
    of_group = np.array([groups.index(config.campaigns[name].bid_micros) for name in names])
    dots = [
        Dots(titles[group], colours[group], rank[of_group == group], clicks[of_group == group], hollow=group % 2 == 1)
        for group in range(len(groups))
    ]
    true = np.array([config.campaigns[name].conversions.rate for name in names])
    low, high = (beta.ppf(side, sales + 0.5, clicks - sales + 0.5) for side in _INTERVAL)
    decades = tuple(10.0**power for power in range(1, 5))
    return Picture(
        "100 keywords, one week: a few bring the clicks, and most say nothing yet",
        "rank of the keyword by searches",
        Axis(0.9, 110.0, (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0), _plain, log=True),
        (
            Panel("clicks in the week", Axis(10.0, 10_000.0, decades, _plain, log=True), tuple(dots), 190),
            Panel(
                "share of clicks that buy",
                linear([0.15], _percent, marks=3),
                (
                    Between("90 % interval of what was measured", GREY, rank, low, high, upright=True),
                    Dots("truth", ORANGE, rank, true),
                ),
                190,
            ),
        ),
    )


def display_48_bidders(told: Told, _: Told | None) -> Picture:
    """Rivals' prices, which no account sees, above what two campaigns make of them."""
    hours = 6.0
    who = {"prospecting-fixed": (GREY, "bid fixed"), "prospecting-paced": (BLUE, "bid paced")}
    bins = {name: told.binned(hours, name) for name in who}
    (name,) = told.config.markets
    world = build.simulation(told.config).source
    assert isinstance(world, WorldFactory)
    (market,) = world.markets
    curve = Curves([market.traffic], world.grid).shape
    level = np.exp(log_levels([market], curve, keys_of(world.seed, "market", [name]))[:, 0])
    best = level * np.exp(market.price_sigma * norm.ppf(0.5 ** (1 / market.competitors)))
    days = np.arange(world.grid.ticks) * world.grid.tick_minutes / 60 / _DAY
    ticks = told.table[told.table.campaign.eq("prospecting-paced")]
    bids = told.table[told.table.campaign.eq("prospecting-fixed")]

    def lines(part: str, whole: str, scale: float) -> list[Line]:
        return [
            Line(title, colour, _days(bins[name], hours), _share(bins[name], part, whole, scale))
            for name, (colour, title) in who.items()
        ]

    return Picture(
        "48 bidders, first price: two campaigns alike, one of which follows the market",
        told.zone,
        told.axis(),
        (
            _panel(
                "the best of 44 rivals bids, CPM in EUR (median)",
                [Line("before they answer us", ORANGE, days, best / 1000)],
            ),
            _panel(
                "our bid for a middling person, CPM in EUR",
                [
                    Line(title, colour, each.hour.to_numpy() / _DAY, each.bid_micros.to_numpy() / 1000, steps=True)
                    for each, (colour, title) in zip((bids, ticks), who.values(), strict=True)
                ],
            ),
            _panel("share of bids that win", lines("impressions", "bids", 1.0), _percent),
            _panel(
                "spend an hour, EUR",
                [_per_hour(title, colour, bins[name], hours) for name, (colour, title) in who.items()],
            ),
        ),
    )


def _per_hour(name: str, colour: str, of: pd.DataFrame, hours: float) -> Line:
    return Line(name, colour, _days(of, hours), of.spend_micros.to_numpy() / 1e6 / hours)


def social_20_creatives(told: Told, _: Told | None) -> Picture:
    """Click rates that fall as people see the same again, and come back after a rest."""
    who = {"prospecting": BLUE, "offers": ORANGE, "reminders": GREEN}
    bins = {name: told.binned(_DAY, name) for name in who}
    rates = [
        Line(name, who[name], _days(each, _DAY), _share(each, "clicks", "impressions")) for name, each in bins.items()
    ]
    seen = [
        Line(name, who[name], _days(each, _DAY), _share(each.cumsum(), "impressions", "people"))
        for name, each in bins.items()
    ]
    costs = [
        Line(name, who[name], _days(each, _DAY), _share(each, "spend_micros", "clicks", 1e-6))
        for name, each in bins.items()
    ]
    return Picture(
        "20 creatives, four weeks: what is seen too often is not clicked",
        told.zone,
        told.axis(every=7),
        (
            _panel("click rate", rates, _percent),
            _panel("frequency: impressions so far per person reached", seen),
            _panel("cost of a click, EUR", costs),
        ),
        (
            Span(8, 11, "“last-days” disapproved"),
            Span(14.33, 14.33, "reminders: three rest"),
            Span(21.33, 21.33, "and the other three"),
        ),
    )


def black_friday(told: Told, _: Told | None) -> Picture:
    """A day's sales, what comes back, and what clicks are worth and cost."""
    bins = told.binned(_DAY)
    edges = np.asarray(bins.index, dtype=np.float64) + 0.1
    money = [
        Bars("sold", BLUE, edges, bins.revenue_micros.to_numpy() / 1e9, 0.8),
        Bars("sent back", ORANGE, edges, -bins.refunds_micros.to_numpy() / 1e9, 0.8),
    ]
    clicks = told.binned(_DAY, "clothes", "shoes")
    days = _days(clicks, _DAY)
    return Picture(
        "Black Friday: three weeks of a fashion shop",
        told.zone,
        told.axis(every=7),
        (
            _panel("a day's revenue, thousand EUR", money),
            _panel(
                "search: conversions per click",
                [Line("", BLUE, days, _share(clicks, "conversions", "clicks"))],
                _percent,
            ),
            _panel(
                "search: cost of a click, EUR", [Line("", BLUE, days, _share(clicks, "spend_micros", "clicks", 1e-6))]
            ),
        ),
        (Span(9, 11, "people wait"), Span(11, 12, "Black Friday"), Span(14, 15, "Cyber Monday")),
    )


def ten_clicks_a_day(told: Told, _: Told | None) -> Picture:
    """How long one has to wait before ten clicks a day say anything."""
    name = "emergency"
    all_of, bins = told.binned(_DAY), told.binned(_DAY, name)
    so_far = bins.cumsum()
    clicks, calls = so_far.clicks.to_numpy(dtype=np.float64), so_far.conversions.to_numpy(dtype=np.float64)
    low, high = (beta.ppf(side, calls + 0.5, np.maximum(clicks - calls, 0) + 0.5) for side in _INTERVAL)
    rate = told.config.campaigns[name].conversions.rate
    closes = np.asarray(bins.index, dtype=np.float64) + 1
    ends = np.array([0.0, float(told.config.time.days)])
    return Picture(
        "Ten clicks a day, eight weeks: how slowly a rate becomes known",
        told.zone,
        told.axis(every=7),
        (
            _panel(
                "clicks a day",
                [Bars("", BLUE, np.asarray(all_of.index, dtype=np.float64) + 0.1, all_of.clicks.to_numpy(), 0.8)],
            ),
            Panel(
                "calls per click of “emergency”, measured so far",
                linear([0.3], _percent, marks=3),
                (
                    Between("90 % interval", BLUE, closes, low, high),
                    Line("measured", BLUE, closes, _share(so_far, "conversions", "clicks")),
                    Line("truth", ORANGE, ends, np.full(2, rate), dashed=True),
                ),
                150,
            ),
            _panel(
                "daily budget, EUR, which follows yesterday's return",
                [
                    Line(each, colour, _days(told.binned(_DAY, each), 0), told.budget(each), steps=True)
                    for each, colour in (("bathrooms", ORANGE), (name, BLUE))
                ],
            ),
        ),
    )


def broken_tracking_week(told: Told, untroubled: Told | None) -> Picture:
    """What is counted and recorded, beside the same week in which nothing breaks."""
    assert untroubled is not None
    hours = 3.0
    sales = [
        Line(name, colour, _days(each, hours), each.conversions.to_numpy(dtype=np.float64), dashed=dashed)
        for name, colour, each, dashed in (
            ("without troubles", GREY, untroubled.binned(hours), True),
            ("as told", BLUE, told.binned(hours), False),
        )
    ]
    banner = "display-retargeting"
    rates = [
        Line(name, colour, _days(each, hours), _share(each, "clicks", "impressions"), dashed=dashed)
        for name, colour, each, dashed in (
            ("without troubles", GREY, untroubled.binned(hours, banner), True),
            ("as told", BLUE, told.binned(hours, banner), False),
        )
    ]
    events = pd.read_parquet(told.run.folder / "events", columns=["event_time", "kind"])
    shown = events[events.kind.eq("impression")]
    recorded = (told.hours(shown.event_time) // hours).value_counts().sort_index()
    counted = told.binned(hours)
    known = counted.index.map(lambda day: recorded.get(round(day * _DAY / hours), 0)).to_numpy(dtype=np.float64)
    share = known / np.maximum(counted.impressions.to_numpy(dtype=np.float64), 1)
    return Picture(
        "A broken tracking week: what happened, and what was told of it",
        told.zone,
        told.axis(),
        (
            _panel("conversions in 3 hours, all campaigns", sales),
            _panel("click rate of the banners", rates, _percent),
            _panel(
                "impressions in the feed, of those that were shown",
                [Line("", BLUE, _days(counted, hours), share)],
                _percent,
            ),
        ),
        (
            Span(1.396, 2.5, "tag lost"),
            Span(3.042, 3.333, "click farm"),
            Span(2.0, 2.5, "sent twice"),
            Span(4.708, 4.917, "payment down"),
            Span(5.25, 5.5, "an hour off"),
            Span(6.333, 6.5, "orphans"),
        ),
    )


SCENES = {
    "search_100_keywords": Scene(search_100_keywords),
    "display_48_bidders": Scene(display_48_bidders),
    "social_20_creatives": Scene(social_20_creatives),
    "black_friday": Scene(black_friday),
    "ten_clicks_a_day": Scene(ten_clicks_a_day),
    "broken_tracking_week": Scene(broken_tracking_week, untroubled=True),
}
"""By the scenario's name, in the order of the gallery."""
