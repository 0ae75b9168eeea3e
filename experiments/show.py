"""What the command line shows a person: progress while a run goes on, tables when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from engine.actions import Knob
from experiments.report.text import visible

if TYPE_CHECKING:
    from engine.runtime.local import Progress
    from experiments.evaluation import Comparison
    from experiments.runs import Run
    from experiments.training import Stage

_Column = tuple[str, str, str]  # of the summary: name, heading, format
_COLUMNS: tuple[_Column, ...] = (
    ("spend", "spend", "{:,.2f}"),
    ("impressions", "impr.", "{:,.0f}"),
    ("clicks", "clicks", "{:,.0f}"),
    ("conversions", "conv.", "{:,.0f}"),
    ("ctr", "CTR", "{:.2%}"),
    ("cvr", "CVR", "{:.2%}"),
    ("cpc", "CPC", "{:,.3f}"),
    ("cpa", "CPA", "{:,.2f}"),
    ("roas", "ROAS", "{:,.2f}"),
    ("score", "score", "{:.0f}"),
    ("changes", "changes", "{:,.0f}"),
    ("refusals", "refused", "{:,.0f}"),
    ("rollbacks", "undone", "{:,.0f}"),
)
_HALF = 7
_WIDE = 132
"""Characters that the whole table takes; a narrower terminal gets it in two halves."""
_LINES = 10


@contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """A live bar with ticks, auctions per second and spend; ten plain lines where there is no terminal."""
    console = Console(stderr=True)
    began = time.perf_counter()
    if not console.is_terminal:
        yield _plain(console, began)
        return
    shown = TextColumn("{task.fields[rate]} auctions/s · spend {task.fields[spend]} · {task.fields[decided]}")
    with Bar(
        TextColumn("tick"),
        MofNCompleteColumn(),
        BarColumn(),
        shown,
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("run", total=None, rate="starting, –", spend="–", decided="")

        def watch(now: Progress) -> None:
            fields: dict[str, Any] = {"rate": _rate(now, began), "spend": _spend(now), "decided": _decided(now)}
            bar.update(task, total=now.ticks, completed=now.tick, **fields)

        yield watch


def _plain(console: Console, began: float) -> Callable[[Progress], None]:
    told = 0

    def watch(now: Progress) -> None:
        nonlocal told
        tenth = now.tick * _LINES // now.ticks
        if tenth > told:
            told = tenth
            parts = (f"tick {now.tick} of {now.ticks}", f"{_rate(now, began)} auctions/s", f"spend {_spend(now)}")
            console.print(" · ".join((*parts, _decided(now))), highlight=False, soft_wrap=True)

    return watch


def _rate(now: Progress, began: float) -> str:
    return f"{now.totals.auctions / max(time.perf_counter() - began, 1e-9):,.0f}"


def _spend(now: Progress) -> str:
    return f"{now.totals.as_dict()['spend_micros'] / 1e6:,.2f}"


def _decided(now: Progress) -> str:
    """The last round's changes by knob."""
    names, counts = np.unique(now.approved.rows.knob, return_counts=True)
    changes = [f"{count:,} {Knob(knob).name.lower()}" for knob, count in zip(names, counts, strict=True)]
    return f"changing {', '.join(changes)}" if changes else "changing nothing"


@contextmanager
def training_progress(*, quiet: bool) -> Iterator[Callable[[Stage], None]]:
    """A live bar of a training's stage, and a line for every part of it that is done."""
    console = Console(stderr=True, quiet=quiet)
    with Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    ) as bar:
        task = bar.add_task("starting", total=None)

        def watch(stage: Stage) -> None:
            bar.update(task, description=stage.name, completed=stage.done, total=stage.of)
            if stage.told:
                line = f"{stage.name} {stage.done:,} of {stage.of:,} · {stage.told}"
                console.print(line, highlight=False, soft_wrap=True)

        yield watch


def card_text(policy: Path) -> str:
    """A learned policy's card in a few lines: its scores beside LP-KM's, and what the gate says."""
    from agents.learned import Model  # noqa: PLC0415 - its kernels are needed by no other table

    card = Model.load(policy).card or {}
    lines = []
    for name, rows in card.get("scores", {}).items():
        mine, theirs = (rows[who]["score"] for who in ("policy", "lp_km"))
        mean, low, high = (100 * number for number in rows["policy"]["gain"])
        over = rows["policy"]["over_target"]
        kept = "" if over is None else f"; {over:.1%} of the episodes more than 5 % over their target"
        lines.append(
            f"{name:8}{mine[0]:.4f} [{mine[1]:.4f}, {mine[2]:.4f}] of hindsight, LP-KM {theirs[0]:.4f}, "
            f"gain {mean:+.2f} points [{low:+.2f}, {high:+.2f}]{kept}"
        )
    verdict = card.get("verdict") or {}
    reasons = "; ".join(verdict.get("reasons", ()))
    lines.append(f"gate    {verdict.get('standing', 'candidate')}" + (f": {reasons}" if reasons else ""))
    return "\n".join([*lines, f"policy  {policy}"])


def result(run: Run) -> None:
    """The table of campaigns, what the guard answered, and where the run lies."""
    console = _console()
    title = f"Campaigns (money in {run.info['config']['account']['currency']})"
    groups = [_COLUMNS] if console.width >= _WIDE else [_COLUMNS[:_HALF], _COLUMNS[_HALF:]]
    for columns in groups:
        console.print(_campaigns(run.summary, title, columns))
    for line in _lines(run):
        console.print(line, highlight=False, soft_wrap=True)


def _console() -> Console:
    """The terminal, or room for the widest table where the output goes elsewhere."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDE)


def _campaigns(summary: pd.DataFrame, title: str, columns: Sequence[_Column]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("campaign", no_wrap=True)
    for _, heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for campaign, row in summary.iterrows():
        cells = [_cell(row[name], style) for name, _, style in columns]
        table.add_row(str(campaign), *cells)
    return table


def _cell(value: Any, style: str) -> str:
    return "–" if value is None or pd.isna(value) else style.format(value)


def _lines(run: Run) -> Iterator[str]:
    actions, totals = run.info["actions"], run.totals
    judged = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in actions.items() if count)
    yield f"Guard     {judged or 'nothing was proposed'}"
    rate = run.info["auctions_per_second"]
    auctions = f"{totals['auctions']:,} auctions" if totals["auctions"] else "outcomes as logged"
    yield f"Run       {auctions} in {run.info['seconds']:.1f} s" + (f" ({rate:,} per second)" if rate else "")
    if run.info["rejects"]:
        yield f"Log       {run.info['rejects']:,} rows rejected, see rejects.csv"
    support = run.info["support"]
    if support:
        share = f"{support['share_outside']:.2%} of bids were" if support["bids"] else "no bid was"
        yield f"Support   {share} above the logged bid, beyond which the log cannot speak"
    attribution = run.info["attribution"]
    if attribution:
        accuracy = attribution["accuracy"]
        right = "" if accuracy is None else f", {accuracy:.1%} of that to the campaign that caused them"
        yield f"Credit    for {attribution['credited']:,.0f} of {attribution['caused']:,} conversions{right}"
    if run.info["overspent_days"] is not None:
        yield f"Budgets   the log spends more than its budget on {run.info['overspent_days']} campaign-days"
    yield f"Digests   metrics {run.digests['metrics'][:16]}… · ledger {run.digests['ledger'][:16]}…"
    yield f"Folder    {run.folder}"
    yield f"Report    bidtwin report {run.folder}"


def audit_text(found: Mapping[str, Any]) -> str:
    """An audit's findings in a few lines."""
    if found["valid"]:
        verdict = f"The ledger holds: {found['records']:,} records, each chained to the one before."
    else:
        detail = f" ({visible(found['why'])})" if "why" in found else ""
        verdict = f"The ledger does NOT hold: record {found['first_bad']} was changed{detail}. What stands before it:"
    step = f"largest automatic step {found['max_relative_step']:.2%}"
    alerts = found["open_alerts"]
    open_alerts = f"{alerts or 'no'} alert{'' if alerts == 1 else 's'} open"
    rows = f"{found['applied']:,} rows applied, {found['rollbacks']:,} of them rollbacks"
    return f"{verdict}\n{rows}; {step}; {open_alerts}."


def bench_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Benchmarks side by side with their baselines."""
    table = Table(box=box.SIMPLE)
    for heading in ("benchmark", "rate", "unit", "baseline", "its rate", "ratio", "peak MB"):
        table.add_column(
            heading, justify="left" if heading in {"benchmark", "unit", "baseline"} else "right", no_wrap=True
        )
    for row in rows:
        figures = (f"{row['rate']:,.1f}", row["unit"], row["baseline"], f"{row['baseline_rate']:,.1f}")
        table.add_row(row["name"], *figures, f"{row['ratio']:.2f}", f"{row['peak_rss_mb']:,.0f}")
    _console().print(table)


def comparison_table(found: Comparison) -> None:
    """Policies side by side, the best first; an interval is below its mean."""
    from experiments.report.comparison import cells, headings, lead, notes, ordered  # noqa: PLC0415 - plots are heavy

    table = Table(box=box.SIMPLE, title=f"Policies on {visible(found.ground.name)}", title_justify="left")
    for place, heading in enumerate(headings(found)):
        table.add_column(heading, justify="right" if place else "left", overflow="fold", no_wrap=not place)
    for each in ordered(found):
        table.add_row(*(visible(cell).replace(" [", "\n[") for cell in cells(found, each)))
    console = _console()
    console.print(table)
    console.print(f"{lead(found)}.\n{notes(found)}", style="dim", highlight=False)
