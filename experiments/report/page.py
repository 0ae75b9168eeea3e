"""The page: figures and ranking as HTML, everything drawn as data for its script, in one file that asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pandas as pd
from plotly.offline import get_plotlyjs

from engine.metrics import metrics
from experiments.config import BinLog, ReplayConfig
from experiments.report.data import PageData, ranked
from experiments.report.decisions import Alarm, Decision
from experiments.report.figures import Table
from experiments.report.text import escaped, script_json

if TYPE_CHECKING:
    from experiments.runs import Run

_NAV = (
    ("overview", "Overview"),
    ("alerts", "Alerts"),
    ("campaigns", "Campaigns"),
    ("campaign", "One campaign"),
    ("decisions", "Decisions"),
    ("markets", "Markets"),
    ("about", "How to read this"),
)
_SMALL_CTR = 0.01
_ALERTS = (  # heading, and how a cell is set
    ("State", "word"),
    ("Since", "time"),
    ("Until", "time"),
    ("About", "word"),
    ("What", "word long"),
    ("Why", "word long"),
)
_RANKING = (  # of the summary: name, heading, format, factor
    ("spend", "Spend", "{:,.2f}", 1),
    ("revenue", "Revenue", "{:,.2f}", 1),
    ("roas", "ROAS", "{:,.2f}", 1),
    ("score", "Score", "{:.0f}", 1),
    ("impressions", "Impr.", "{:,.0f}", 1),
    ("reach", "Reach", "{:,.0f}", 1),
    ("frequency", "Freq.", "{:,.2f}", 1),
    ("win_rate", "Win rate", "{:.1f}\u00a0%", 100),
    ("clicks", "Clicks", "{:,.0f}", 1),
    ("ctr", "CTR", "{:.2f}\u00a0%", 100),
    ("conversions", "Conv.", "{:,.0f}", 1),
    ("cvr", "CVR", "{:.2f}\u00a0%", 100),
    ("cpc", "CPC", "{:,.3f}", 1),
    ("cpa", "CPA", "{:,.2f}", 1),
    ("changes", "Changes", "{:,.0f}", 1),
    ("refusals", "Refused", "{:,.0f}", 1),
    ("rollbacks", "Undone", "{:,.0f}", 1),
)


def page(run: Run, table: Table, data: PageData, found: Sequence[Decision], alarms: Sequence[Alarm]) -> str:
    """The whole page."""
    targets = table.targets
    scripts = {"plotly": get_plotlyjs(), "js": _part("page.js")}
    parts = {
        "hashes": " ".join(f"'sha256-{_digest(script)}'" for script in scripts.values()),
        "title": escaped(f"{run.info['name']} · Bidtwin"),
        "name": escaped(run.info["name"]),
        "lead": escaped(_lead(table)),
        "nav": " ".join(f'<a href="#{name}">{title}</a>' for name, title in _NAV),
        "css": _part("page.css"),
        "figures": "".join(_figures(run, table)),
        "facts": "".join(_facts(run)),
        "notices": _notice(list(_notices(run, table))),
        "alerts": "\n".join(_alerts(alarms, table)),
        "headings": "".join(_headings(run, table)),
        "ranking": "\n".join(_ranking(run, table)),
        "decided": escaped(_decided(found, data)),
        "zone": escaped(table.config.account.zone),
        "currency": escaped(table.config.account.currency),
        "targets": f"{targets.ctr_target:.2%}, {targets.cvr_target:.2%} and {targets.roas_target:g}",
        "data": script_json(data.overview),
        "details": "\n".join(
            f'<script type="application/json" id="campaign-{place}">{script_json(detail)}</script>'
            for place, detail in data.details.items()
        ),
    }
    return filled(_part("page.html"), parts | scripts)


def filled(template: str, parts: Mapping[str, str]) -> str:
    """A template with its places filled in one pass, so that nothing in a part is taken for a place."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def _part(name: str) -> str:
    return files("experiments.report").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _lead(table: Table) -> str:
    config, ticks = table.config, len(table.local)
    first = table.local.iloc[0]
    end = table.local.iloc[-1] + pd.Timedelta(minutes=config.time.tick_minutes)
    kind = "Simulation"
    if isinstance(config, ReplayConfig):
        observed = isinstance(config.log, BinLog)
        kind = f"Replay of a log ({config.log.format})" + (", observed: nothing is applied" if observed else "")
    count = len(table.ids)
    markets = len(set(table.markets))
    places = f" in {_many(markets, 'market')}" if table.markets != table.ids else ""
    when = f"{_day(first)} to {_day(end)} ({config.account.zone})"
    clock = f"{_many(ticks, 'tick')} of {config.time.tick_minutes} minutes"
    return f"{kind} · {_many(count, 'campaign')}{places} · {when} · {clock}"


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def _day(when: pd.Timestamp) -> str:
    return f"{when.day} {when:%b %Y %H:%M}"


def _figures(run: Run, table: Table) -> Iterator[str]:
    """The headline row."""
    total = table.counts.sum(axis=(0, 1))
    overall = metrics(total, None, table.targets, table.unrecorded)
    totals, judged = run.totals, run.info["actions"]
    currency = table.config.account.currency
    spend, revenue, refunds = (totals[f"{name}_micros"] for name in ("spend", "revenue", "refunds"))
    yield _figure(f"Spend, {currency}", "spend_micros", spend, _money(spend))
    yield _figure(f"Revenue, {currency}", "revenue_micros", revenue, _money(revenue))
    if refunds:
        yield _figure(f"Refunds, {currency}", "refunds_micros", refunds, _money(refunds))
    yield _figure("ROAS", "roas", overall["roas"].value, "{:,.2f}")
    yield _figure("Impressions", "impressions", totals["impressions"], "{:,.0f}")
    yield _figure("Clicks", "clicks", totals["clicks"], "{:,.0f}")
    yield _figure("Conversions", "conversions", totals["conversions"], "{:,.0f}")
    if run.info["attribution"]:
        yield _figure("Attributed right", "attribution_accuracy", run.info["attribution"]["accuracy"], "{:.1%}")
    yield _figure("Score", "score", overall["score"].value, "{:.0f}")
    if judged["recorded"]:
        yield _figure("Judged only", "recorded", judged["recorded"], "{:,.0f}")
    else:
        yield _figure("Changes", "applied", judged["applied"] - judged["rolled_back"], "{:,.0f}")
    yield _figure("Refusals", "refused", judged["refused"], "{:,.0f}")
    yield _figure("Rollbacks", "rolled_back", judged["rolled_back"], "{:,.0f}")


def _money(micros: int | None) -> str:
    """Units with cents, as long as they fit."""
    return "{:,.2f}" if micros is None or micros < 10**11 else "{:,.0f}"


def _figure(title: str, name: str, value: float | None, style: str) -> str:
    shown = '<span class="unknown">–</span>' if value is None else _styled(name, value, style)
    raw = "" if value is None else repr(value)
    return f'<div><dt>{escaped(title)}</dt><dd data-figure="{name}" data-value="{raw}">{shown}</dd></div>'


def _styled(name: str, value: float, style: str) -> str:
    return style.format(value / 1e6 if name.endswith("_micros") else value)


def _facts(run: Run) -> Iterator[str]:
    info = run.info
    facts = {"Status": info["status"], "Seed": str(info["seed"])}
    digests = {f"{name.capitalize()} digest": value for name, value in run.digests.items()}
    for name, value in (facts | digests).items():
        shown = f"<code>{escaped(value)}</code>" if name in digests else escaped(value)
        yield f"<dt>{escaped(name)}</dt><dd>{shown}</dd>"


def _notice(lines: Sequence[str]) -> str:
    return f'<p class="notice">{"<br>".join(map(escaped, lines))}</p>' if lines else ""


def _notices(run: Run, table: Table) -> Iterator[str]:
    """What a reader of a replay has to know."""
    info = run.info
    support, overspent = info["support"], info["overspent_days"]
    if support:
        logged = f"{support['logged_bid_micros'] / 1e6:g} {table.config.account.currency}"
        share = f"{support['share_outside']:.2%} of {support['bids']:,} bids were" if support["bids"] else "No bid was"
        yield f"{share} above the logged bid of {logged}: outside the log's support, where it cannot tell the outcome."
    if overspent is not None:
        yield "Outcomes are as logged: what the policies proposed was judged and recorded, not applied."
    if overspent:
        yield f"The log spends more than its budget on {_many(overspent, 'campaign-day')}: told, not enforced."
    if info["rejects"]:
        yield f"{_many(info['rejects'], 'row')} of the log could not be read: rejects.csv lists them."
    if info["unrecorded"]:
        names = ", ".join(name.removesuffix("_micros") for name in info["unrecorded"])
        yield f"The log does not tell {names}: what is made of them is unknown."


def _alerts(alarms: Sequence[Alarm], table: Table) -> Iterator[str]:
    """The alerts as a table, the open ones first."""
    if not alarms:
        yield '<p class="none">No alert was opened.</p>'
        return
    ranks = {table.ids[place]: rank for rank, place in enumerate(ranked(table))}
    still = sum(alarm.until is None for alarm in alarms)
    yield f'<p class="hint">{still:,} open at the end of the run, {len(alarms) - still:,} closed.</p>'
    heads = "".join(f'<th class="word" scope="col">{title}</th>' for title, _ in _ALERTS)
    yield '<div class="scroll log" tabindex="0" role="region" aria-label="Alerts">'
    yield f'<table class="stacked"><thead><tr>{heads}</tr></thead><tbody>'
    for alarm in alarms:
        cells = zip(_ALERTS, _alert_cells(alarm, ranks), strict=True)
        row = (f'<td class="{kind}" data-label="{title}">{cell}</td>' for (title, kind), cell in cells)
        yield f"<tr>{''.join(row)}</tr>"
    yield "</tbody></table></div>"


def _alert_cells(alarm: Alarm, ranks: Mapping[str, int]) -> Iterator[str]:
    state = "open" if alarm.until is None else "closed"
    yield f'<span class="state {state}">{state}</span>'
    yield escaped(alarm.since)
    yield escaped(alarm.until or "–")
    if alarm.campaign is None:
        yield "the whole account"
    else:
        yield f'<a href="#campaign" data-campaign="{ranks[alarm.campaign]}">{escaped(alarm.campaign)}</a>'
    yield escaped(alarm.what)
    yield escaped(alarm.why + (f"; closed: {alarm.closed_why}" if alarm.closed_why else ""))


def _words(table: Table) -> dict[str, list[str]]:
    """The columns of words: a market is told where it is neither the channel nor the campaign's own."""
    tells_market = table.markets not in (table.ids, table.channels)
    words = {"Campaign": table.ids, "Channel": table.channels}
    return words | {"Market": table.markets} if tells_market else words


def _columns(run: Run) -> list[tuple[str, str, str, int]]:
    """The columns of figures: people have some where they are counted."""
    counted = run.summary["reach"].notna().any()
    return [column for column in _RANKING if counted or column[0] not in {"reach", "frequency"}]


def _headings(run: Run, table: Table) -> Iterator[str]:
    for title in _words(table):
        yield f'<th class="word" scope="col"><button type="button">{title}</button></th>'
    for name, title, _, _ in _columns(run):
        sorted_by = ' aria-sort="descending"' if name == "spend" else ""
        yield f'<th scope="col"{sorted_by}><button type="button">{title}</button></th>'


def _ranking(run: Run, table: Table) -> Iterator[str]:
    summary, words, columns = run.summary, _words(table), _columns(run)
    finer = {"ctr": "{:.3f}\u00a0%"} if summary["ctr"].max() < _SMALL_CTR else {}
    for rank, place in enumerate(ranked(table)):
        name = table.ids[place]
        first, *others = (escaped(column[place]) for column in words.values())
        row = summary.loc[name]
        cells = [f'<td class="word"><a href="#campaign">{first}</a></td>']
        cells += [f'<td class="word">{word}</td>' for word in others]
        cells += [_cell(row[key], finer.get(key, style), factor) for key, _, style, factor in columns]
        yield f'<tr data-place="{rank}">{"".join(cells)}</tr>'


def _cell(value: Any, style: str, factor: int) -> str:
    if value is None or pd.isna(value):
        return '<td data-value=""><span class="unknown">–</span></td>'
    return f'<td data-value="{float(value)!r}">{style.format(value * factor)}</td>'


def _decided(found: Sequence[Decision], data: PageData) -> str:
    routine = sum(decision.is_routine for decision in found)
    others = len(found) - routine
    kept = len(data.overview["decisions"])
    line = f"{_many(len(found), 'change')} judged; {routine:,} were a policy's, and stand with their campaign."
    if others:
        line += f" The other {others:,} stand here; of weights or modifiers a change is one, above it is one per part."
    return line if kept == others else f"{line} Of them only the first {kept:,}: actions.parquet holds all."
