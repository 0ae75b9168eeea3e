"""What the page's script draws: the run as compact data, one part for the overview and one for each campaign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np

from agents.horizon import EVEN, Curve, expected_traffic
from engine.events import COUNTS, SPEND
from engine.limits import DEFAULT_BAND
from engine.metrics import Reason, metrics
from engine.runtime.hosts import STEADY
from engine.units import Int64, TickGrid
from experiments.config import (
    EvenPi,
    LearnedPolicy,
    LpKm,
    MirrorDescent,
    PidRule,
    RunConfig,
    SimulationConfig,
    TrafficAwarePi,
    limits_of,
    members,
)
from experiments.proposers import planned_curve
from experiments.report.bins import Bins
from experiments.report.decisions import Alarm, Calendar, Command, Decision
from experiments.report.figures import Table, Values, counted, outside_support, rates, shortened
from experiments.report.story_lines import story_lines
from experiments.report.text import Words, visible
from experiments.story import Story

MOST_CLOSE_BINS = 150_000
"""Bins of all campaigns together that a page holds close up; campaigns that spent least are left out first."""
MOST_CHANGES = 150_000
MOST_BLOCKS = 600
"""Entries of a campaign's story, from its last day back; the command line tells all."""
MOST_TOLD = 4_000
"""Decisions in the tables of the whole account."""
_MOST_FINE_MARKETS = 24
_BID, _BUDGET, _PAUSED = range(len(STEADY))
_RATES = ("win_rate", "cpm_micros", "ctr", "cvr", "cpc_micros", "cpa_micros", "roas", "score")
_CASES = ("bids", "impressions", "clicks", "conversions")
_UNKNOWN = {
    Reason.NO_OPPORTUNITIES: "Unknown, without opportunities",
    Reason.NO_BIDS: "Unknown, without bids that the source tells",
    Reason.NO_IMPRESSIONS: "Unknown, without impressions",
    Reason.NO_CLICKS: "Unknown, without clicks",
    Reason.NO_CONVERSIONS: "Unknown, without conversions",
    Reason.NO_SPEND: "Unknown, without spend",
    Reason.MISSING_COMPONENT: "Unknown, since CTR, CVR or ROAS is",
    Reason.NOT_RECORDED: "The log does not tell",
}


@dataclass(frozen=True)
class PageData:
    """The overview's data, and those of every campaign shown close up, by its place in the order of ids."""

    overview: dict[str, Any]
    details: dict[int, dict[str, Any]]


def page_data(
    table: Table,
    found: Sequence[Decision],
    told: Sequence[Command],
    alarms: Sequence[Alarm],
    stories: Mapping[str, Story],
    *,
    supported: bool,
) -> PageData:
    """Everything that is drawn; campaigns are in the order of their spend."""
    order, shown = ranked(table), close_up(table)
    detailed = len(shown)
    words = Words()
    ranks = {table.ids[place]: rank for rank, place in enumerate(order)}
    unusual = [decision for decision in found if not decision.is_routine][:MOST_TOLD]
    plans = _Plans(table)
    overview = {
        "first_day": int((table.local.iloc[0].normalize() - _EPOCH).days),
        "currency": table.config.account.currency,
        "targets": {name: getattr(table.targets, f"{name}_target") for name in ("ctr", "cvr", "roas")},
        "fine": _bins(table.fine),
        "coarse": _bins(table.coarse),
        "detailed": detailed,
        "campaigns": [_campaign(table, place, plans) for place in order],
        "plans": plans.curves,
        "decisions": [[_rank(ranks, each.campaign), *each.packed(words)] for each in unusual],
        "commands": [_command(each, ranks, words) for each in told[:MOST_TOLD]],
    } | _markets(table)
    changes = _by_campaign(found)
    most = MOST_CHANGES // detailed
    calendar = Calendar(table.local, table.config.time.tick_minutes)
    details = {
        place: _close_up(table, place, changes.get(table.ids[place], []), calendar, supported=supported)
        | _packed(changes.get(table.ids[place], []), words, most)
        | _story(stories[table.ids[place]])
        | {"alerts": [_alarm(each) for each in alarms if each.campaign in {None, table.ids[place]}]}
        for place in shown
    }
    return PageData(overview | {"words": words.known}, details)


def ranked(table: Table) -> list[int]:
    """Places of the campaigns, the one that spent most first."""
    order: list[int] = np.argsort(-table.counts[:, :, SPEND].sum(axis=0), kind="stable").tolist()
    return order


def close_up(table: Table) -> list[int]:
    """Places of the campaigns that the page shows close up: those that spent most, as many as it can hold."""
    return ranked(table)[: max(MOST_CLOSE_BINS // len(table.fine), 1)]


_EPOCH = np.datetime64("1970-01-01", "us")


def _bins(bins: Bins) -> dict[str, Any]:
    return {"width": bins.width, "opens": bins.opens.tolist(), "gaps": bins.gaps}


def _rank(ranks: dict[str, int], campaign: str | None) -> int | None:
    return None if campaign is None else ranks.get(campaign)


def _command(command: Command, ranks: dict[str, int], words: Words) -> list[Any]:
    names = (words.place(command.kind), words.place(command.by))
    return [command.minutes, *names, _rank(ranks, command.campaign), *map(words.place, (command.knob, command.answer))]


def _by_campaign(found: Sequence[Decision]) -> dict[str, list[Decision]]:
    groups: dict[str, list[Decision]] = {}
    for decision in found:
        if decision.campaign is not None:
            groups.setdefault(decision.campaign, []).append(decision)
    return groups


def _packed(changes: Sequence[Decision], words: Words, most: int) -> dict[str, Any]:
    kept = changes[max(len(changes) - most, 0) :]
    return {"changes": [decision.packed(words) for decision in kept], "left_out": len(changes) - len(kept)}


def _story(story: Story) -> dict[str, Any]:
    """The last days of a campaign's story: date, lines of routine steps, blocks of lines; and how many are left out."""
    days = story_lines(story)
    blocks = np.cumsum([len(day.blocks) + len(day.steps) for day in reversed(days)])
    shown = int(np.searchsorted(blocks, MOST_BLOCKS, side="right"))
    first = len(days) - max(shown, min(len(days), 1))
    return {
        "story": [[day.date, day.steps, day.blocks] for day in days[first:]],
        "story_records": story.records,
        "story_left_out": first,
    }


def _alarm(alarm: Alarm) -> list[Any]:
    """An alert of a campaign's page: whether it is open, and the line that tells of it."""
    where = "the whole account: " if alarm.campaign is None else ""
    when = f"since {alarm.since}" if alarm.until is None else f"{alarm.since} to {alarm.until}"
    closed = f"; closed: {alarm.closed_why}" if alarm.closed_why else ""
    return [alarm.until is None, f"{when} · {where}{alarm.what}{f': {alarm.why}' if alarm.why else ''}{closed}"]


def _campaign(table: Table, place: int, plans: _Plans) -> dict[str, Any]:
    """One campaign's totals and coarse columns."""
    name = table.ids[place]
    total = table.counts[:, place].sum(axis=0)
    overall = metrics(total, None, table.targets, table.unrecorded)
    bounds = limits_of(table.config, name)
    counts = {count: int(value) for count, value in zip(COUNTS, total, strict=True) if table.is_recorded(count)}
    known = {key: overall[key].value for key in _RATES}
    unknown = {key: _UNKNOWN[reason] for key in _RATES if (reason := overall[key].reason) is not None}
    if not table.is_recorded("opportunities"):
        unknown["opportunities"] = _UNKNOWN[Reason.NOT_RECORDED]
    return {
        "id": visible(name),
        "number": place,
        "channel": visible(table.channels[place]),
        "market": visible(table.markets[place]),
        "period": table.config.campaigns[name].budget_period,
        "bounds": [bounds.min_bid_micros, bounds.max_bid_micros],
        "plan": plans.of(name),
        "total": counts | {key: None if value is None else shortened(value) for key, value in known.items()},
        "unknown": unknown,
        "coarse": _columns(table, place),
    }


def _columns(table: Table, place: int) -> dict[str, Values]:
    """Counts and rates of a campaign in coarse bins; None outside its activity, and where unknown."""
    rows = table.coarse.sums(table.counts[:, place])
    made = rates(rows, table.targets, table.unrecorded)
    names = ("spend_micros", "opportunities", *_CASES)
    counts = {name: counted(rows, name, table) for name in names}
    return _within(_activity(table.coarse, table, place), counts | {name: made[name] for name in _RATES})


def _activity(bins: Bins, table: Table, place: int) -> tuple[int, int] | None:
    """First and last bin in which anything reached a campaign."""
    active = np.flatnonzero(bins.sums(table.active[:, place].astype(np.int64)))
    return (int(active[0]), int(active[-1])) if active.size else None


def _within(reach: tuple[int, int] | None, columns: dict[str, Values]) -> dict[str, Values]:
    """The columns with None outside a stretch of bins."""
    first, last = reach or (0, -1)
    return {
        name: [value if first <= at <= last else None for at, value in enumerate(values)]
        for name, values in columns.items()
    }


def _close_up(
    table: Table, place: int, changes: Sequence[Decision], calendar: Calendar, *, supported: bool
) -> dict[str, Any]:
    """One campaign's fine columns, its anchor band, and when it was paused."""
    bins = table.fine
    rows = bins.sums(table.counts[:, place])
    controls = table.controls[bins.last, place]
    columns: dict[str, Values] = {
        "spend_micros": rows[:, SPEND].tolist(),
        "opportunities": counted(rows, "opportunities", table),
        "cpm_micros": rates(rows, table.targets, table.unrecorded)["cpm_micros"],
        "bid_micros": controls[:, _BID].tolist(),
        "budget_micros": controls[:, _BUDGET].tolist(),
    }
    if supported:
        columns["outside"] = outside_support(rows)
    reach = _activity(bins, table, place)
    span = None if reach is None else [int(bins.opens[reach[0]]), int(bins.opens[reach[1]]) + bins.width]
    paused = _stretches(table.controls[:, place, _PAUSED], calendar)
    return _within(reach, columns) | {"span": span, "paused": paused, "band": _band(table, place, changes)}


def _stretches(flags: Int64, calendar: Calendar) -> list[list[int]]:
    """Stretches of ticks whose flag is set, in minutes from the first local midnight."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags, [0])))).reshape(-1, 2)
    closes = calendar.minutes
    opens = np.append(closes[0] - calendar.tick_minutes, closes[:-1])
    return [[int(opens[first]), int(closes[end - 1])] for first, end in edges]


def _band(table: Table, place: int, changes: Sequence[Decision]) -> list[list[int]]:
    """Since when the bid was held to which band: around the configured bid, then around every edit by a person."""
    low, high = _band_of(table.config, table.ids[place])
    anchors = [(0, int(table.controls[0, place, _BID]))]
    edits = (each for each in changes if each.knob == "bid" and each.source == "person" and each.outcome == "applied")
    anchors += [(edit.minutes, edit.parts[0][2]) for edit in edits]
    return [[since, ceil(anchor * low), floor(anchor * high)] for since, anchor in anchors]


def _band_of(config: RunConfig, campaign: str) -> tuple[Fraction, Fraction]:
    granted = (mandate for mandate in config.mandates if "bid" in mandate.knobs)
    return next((mandate.band for mandate in granted if campaign in members(config, mandate.campaigns)), DEFAULT_BAND)


_PACING = EvenPi | TrafficAwarePi | LpKm | LearnedPolicy | PidRule | MirrorDescent
"""Policies that spend a budget along a curve."""


class _Plans:
    """The share of a period's budget that is planned to be spent at each fine bin's close, per pacing policy."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._places: dict[tuple[Curve, int], int] = {}
        self.curves: list[Values] = []

    def of(self, campaign: str) -> dict[str, Any]:
        """The policy whose plan a campaign follows (None: spend is compared with an even pace), and its curve."""
        config = self._table.config
        policy, curve = None, EVEN
        for spec in config.policies:
            if isinstance(spec, _PACING) and campaign in members(config, spec.campaigns):
                policy, curve = spec.policy, planned_curve(config, spec, campaign)
        flight = int(config.campaigns[campaign].budget_period == "flight")
        return {"policy": policy, "curve": self._curve(curve, flight)}

    def _curve(self, curve: Curve, flight: int) -> int:
        key = (curve, flight)
        if key not in self._places:
            self._places[key] = len(self.curves)
            grid = _grid(self._table)
            done = expected_traffic(grid, curve)[flight] - (0 if flight else grid.day)
            self.curves.append([round(float(share), 5) for share in done[self._table.fine.last]])
        return self._places[key]


def _grid(table: Table) -> TickGrid:
    config = table.config
    return config.grid if isinstance(config, SimulationConfig) else config.grid(len(table.local))


def _markets(table: Table) -> dict[str, Any]:
    """What the campaigns together saw of every market."""
    names = sorted(set(table.markets))
    close = len(names) <= _MOST_FINE_MARKETS
    bins = table.fine if close else table.coarse
    found = []
    for name in names:
        members_of = [place for place, market in enumerate(table.markets) if market == name]
        rows = bins.sums(table.counts[:, members_of]).sum(axis=1)
        seen = bins.sums(table.active[:, members_of].astype(np.int64)).any(axis=1)
        columns = {
            "opportunities": counted(rows, "opportunities", table),
            "cpm_micros": rates(rows, table.targets, table.unrecorded)["cpm_micros"],
        }
        reach = np.flatnonzero(seen)
        stretch = (int(reach[0]), int(reach[-1])) if reach.size else None
        found.append({"name": visible(name)} | _within(stretch, columns))
    return {"markets": found, "markets_bins": "fine" if close else "coarse"}
