"""Finished runs: what a run's folder holds, as values and DataFrames, and whether its ledger holds."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pyarrow.lib import ArrowException

from engine.campaigns import ACCOUNT
from engine.errors import BadInput
from engine.events import COUNTS
from engine.ledger import Fold, LedgerError, Record, verify
from engine.metrics import ScoreTargets, metrics
from engine.runtime.store import LEDGER, read_ledger
from engine.units import Int64
from experiments.config import RunConfig, load_config
from experiments.story import Story
from experiments.telling import calendar, tell, told_alerts

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes
    ----------
    folder:
        Where it lies.
    info:
        What `run.json` says: configuration, seed, versions, digests, totals.
    """

    folder: Path
    info: Mapping[str, Any]

    @property
    def config(self) -> RunConfig:
        """The configuration it was started with."""
        return load_config(self.info["config"], recorded=True)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the metrics and of the ledger."""
        return dict(self.info["digests"])

    @property
    def totals(self) -> dict[str, int | None]:
        """Auctions, impressions, clicks, conversions, spend, revenue and refunds; None where a log has none."""
        return dict(self.info["totals"])

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per campaign and tick."""
        return self._table("metrics.parquet")

    @cached_property
    def actions(self) -> pd.DataFrame:
        """One row per judged change, with the guard's answer."""
        return self._table("actions.parquet")

    @cached_property
    def alerts(self) -> pd.DataFrame:
        """One row per alert, in the order in which they were opened: since and until when (UTC), about what and why.

        `closed` is missing where it was open at the end, `campaign` where it is about the whole account.
        """
        grid, ids = calendar(self.info["config"]), sorted(self.info["config"]["campaigns"])
        told = told_alerts(read_ledger(self.folder / LEDGER), len(ids))
        rows = [
            {
                "opened": grid.opens(each.opened + 1),
                "closed": None if each.closed is None else grid.opens(each.closed + 1),
                "kind": each.about.kind.value,
                "campaign": None if each.about.campaign == ACCOUNT else ids[each.about.campaign],
                "knob": None if each.about.knob is None else each.about.knob.name.lower(),
                "about": each.about.label,
                "why": each.why,
                "closed_why": each.closed_why,
            }
            for each in told
        ]
        table = pd.DataFrame(
            rows, columns=["opened", "closed", "kind", "campaign", "knob", "about", "why", "closed_why"]
        )
        times = {name: pd.to_datetime(table[name], unit="us", utc=True) for name in ("opened", "closed")}
        return table.assign(**times)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per campaign: counts, rates, score, changes, refusals and rollbacks; money in currency units.

        `reach` is the number of people reached and `frequency` impressions per person, where people are counted.
        """
        counts = self.metrics.groupby("campaign", observed=True)[list(COUNTS)].sum().sort_index()
        targets = self.config.score.targets
        unrecorded = self.info["unrecorded"]
        rows = {name: _summary_row(row.to_numpy(), targets, unrecorded) for name, row in counts.iterrows()}
        summary = pd.DataFrame.from_dict(rows, orient="index")
        return summary.join(_action_counts(self.actions)).fillna({"changes": 0, "refusals": 0, "rollbacks": 0})

    def _table(self, name: str) -> pd.DataFrame:
        path = self.folder / name
        if self.info["status"] != "finished":
            raise BadInput(f"run {self.folder} is not finished (={self.info['status']}): go on with --resume")
        try:
            return pd.read_parquet(path)
        except (OSError, ArrowException) as error:
            why = str(error).splitlines()[0]
            raise BadInput(f"{path} cannot be read ({why:.80}): restore it, or run again") from None

    def plot(self, metric: str) -> Figure:
        """A count, control or rate of every campaign over time, as a Plotly figure; money in currency units."""
        from experiments.report.figure import plot  # noqa: PLC0415 - Plotly is imported on use

        return plot(self, metric)

    def report(self) -> Path:
        """Write `report.html` into the folder: one page that opens offline; returns where it lies."""
        from experiments.report import report  # noqa: PLC0415 - Plotly is imported on use

        return report(self)

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        names = (
            "digests",
            "totals",
            "actions",
            "attribution",
            "rejects",
            "support",
            "overspent_days",
            "seconds",
            "auctions_per_second",
        )
        return {"run": str(self.folder)} | {name: self.info[name] for name in names}

    def _repr_html_(self) -> str:
        return str(self.summary.to_html(float_format="{:,.3f}".format, na_rep="–"))


def open_run(folder: Path | str) -> Run:
    """Open a finished run's folder."""
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise BadInput(f"{folder} must be a run folder, and it holds no run.json: give the folder that a run printed")
    try:
        info = json.loads(path.read_text())
    except ValueError as error:
        raise BadInput(f"{path} cannot be read ({error}): restore it") from None
    found = info.get("schema_version") if isinstance(info, dict) else None
    if found != SCHEMA_VERSION:
        raise BadInput(
            f"{path}: schema_version (={found}) must be {SCHEMA_VERSION}: open it with the bidtwin that wrote it"
        )
    return Run(Path(folder), info)


def audit(folder: Path | str) -> dict[str, Any]:
    """Check a run's ledger from its first record to its last, and tell what it holds.

    `first_bad` is the first record that was changed after it was written; what follows it is not counted.
    """
    recorded = open_run(folder).info.get("digests")  # none in a run that was interrupted
    ledger = Path(folder) / LEDGER
    first_bad, why = _first_bad(ledger)
    folded, head = Fold(), ""
    try:
        for record in islice(read_ledger(ledger), first_bad):
            folded.update(record)
            head = record.digest.hex()
    except LedgerError as error:
        if first_bad is None:
            first_bad, why = folded.records, str(error)
    if first_bad is None and recorded and recorded["ledger"] != head:
        first_bad, why = folded.records, "records are missing at the end"
    return {
        "valid": first_bad is None,
        "records": folded.records,
        "first_bad": first_bad,
        "applied": folded.applied,
        "max_relative_step": folded.max_relative_step,
        "rollbacks": folded.rollbacks,
        "open_alerts": len(folded.lives.alerts.open),
    } | ({"why": why} if why else {})


def story(folder: Path | str, campaign: str) -> Story:
    """Tell the life of a campaign's changes from a run's ledger, once its chain is checked.

    Raises
    ------
    BadInput
        In one sentence, where the ledger does not hold or the run has no such campaign.
    """
    if not audit(folder)["valid"]:
        raise BadInput(f"the ledger of run {folder} does not hold: see where with `bidtwin audit {folder}`")
    return tell(read_ledger(Path(folder) / LEDGER), campaign)


def _first_bad(ledger: Path) -> tuple[int | None, str | None]:
    """The first record that does not follow those before it; where one cannot even be read, why."""
    read = 0

    def counted() -> Iterator[Record]:
        nonlocal read
        for record in read_ledger(ledger):
            yield record
            read += 1

    try:
        return verify(counted()), None
    except LedgerError as error:
        return read, str(error)


def _summary_row(counts: Int64, targets: ScoreTargets, unrecorded: Collection[str]) -> dict[str, float | None]:
    """One campaign's counts and rates; None where a count was not recorded or a rate is unknown."""
    count = {name: None if name in unrecorded else int(value) for name, value in zip(COUNTS, counts, strict=True)}
    rates = {name: metric.value for name, metric in metrics(counts, None, targets, unrecorded).items()}
    money = {
        "spend": _units(count["spend_micros"]),
        "revenue": _units(count["revenue_micros"]),
        "refunds": _units(count["refunds_micros"]),
        "cpc": _units(rates["cpc_micros"]),
        "cpa": _units(rates["cpa_micros"]),
    }
    shown = {name: count[name] for name in ("impressions", "clicks", "conversions")}
    reached = {"reach": count["people"] or None, "frequency": rates["frequency"]}
    return money | shown | reached | {name: rates[name] for name in ("win_rate", "ctr", "cvr", "roas", "score")}


def _units(micros: float | None) -> float | None:
    return None if micros is None else micros / 1e6


def _action_counts(actions: pd.DataFrame) -> pd.DataFrame:
    rolled_back = (actions.source == "rollback") & (actions.outcome == "applied")
    wanted = pd.DataFrame(
        {
            "campaign": actions.campaign,
            "changes": (actions.outcome == "applied") & ~rolled_back,
            "refusals": actions.outcome == "refused",
            "rollbacks": rolled_back,
        }
    )
    return wanted.groupby("campaign").sum().astype(int)
