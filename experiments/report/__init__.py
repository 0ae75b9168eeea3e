"""A run as one page, `report.html`, that opens offline: made from the run's folder alone, the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import BadInput
from engine.runtime.store import LEDGER, read_ledger
from experiments.report import decisions as decided
from experiments.report import figures
from experiments.report.data import close_up, page_data
from experiments.telling import tell_all, told_alerts

if TYPE_CHECKING:
    from experiments.runs import Run

REPORT = "report.html"


def report(run: Run) -> Path:
    """Write the report of a finished run into its folder, and tell where it lies.

    Raises
    ------
    BadInput
        In one sentence, where the run is not finished or the folder cannot be written.
    """
    from experiments.report.page import page  # noqa: PLC0415 - Plotly is imported on use

    table = figures.read(run)
    calendar = decided.Calendar(table.local, table.config.time.tick_minutes)
    found, rounds = decided.decisions(run.actions, calendar), decided.headers(run.folder)
    told = decided.commands(rounds, table.ids, calendar)
    decided.answer(found, told, calendar)
    decided.judge(found, rounds, calendar)
    alarms = decided.alarms(told_alerts(read_ledger(run.folder / LEDGER), len(table.ids)), table.ids, calendar)
    stories = tell_all(read_ledger(run.folder / LEDGER), [table.ids[place] for place in close_up(table)])
    data = page_data(table, found, told, alarms, stories, supported=bool(run.info["support"]))
    path = run.folder / REPORT
    draft = path.with_suffix(".html.new")
    try:
        draft.write_text(page(run, table, data, found, alarms), encoding="utf-8", newline="\n")
        draft.replace(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror}): make room or give the folder back") from None
    return path
