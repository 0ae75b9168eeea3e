"""The jobs that people run, as functions: what the command line and a notebook call.

A configuration (path or mapping) and perhaps a log go in, a `Run` comes out: a folder with its tables as DataFrames.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from engine.errors import BadInput
from engine.events import COUNTS
from engine.ledger import Fold, LedgerError, verify
from engine.metrics import metrics
from engine.runtime.local import LocalRunner, Outcome, Progress
from engine.runtime.plan import Plan
from engine.runtime.store import LEDGER, read_ledger
from engine.runtime.tables import write_actions
from experiments import build
from experiments.config import ReplayConfig, RunConfig, SimulationConfig, load_config

SCHEMA_VERSION = 1
_PACKAGES = ("numba", "numpy", "pandas", "pyarrow", "ray", "scipy")

Config = Path | str | Mapping[str, Any]
Watcher = Callable[[Progress], None]


class Runner(Protocol):
    """Carries plans out: in this process or on Ray."""

    def run(self, plan: Plan, folder: Path, watch: Watcher | None = None) -> Outcome:
        """Carry a plan out, leaving ledger and tables in the folder."""
        ...


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
    def digests(self) -> dict[str, str]:
        """SHA-256 of the metrics and of the ledger."""
        return dict(self.info["digests"])

    @property
    def totals(self) -> dict[str, int]:
        """Auctions, impressions, clicks, conversions, spend and revenue of the run."""
        return dict(self.info["totals"])

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per campaign and tick."""
        return pd.read_parquet(self.folder / "metrics.parquet")

    @cached_property
    def actions(self) -> pd.DataFrame:
        """One row per judged change, with the guard's answer."""
        return pd.read_parquet(self.folder / "actions.parquet")

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per campaign: counts, rates, score, changes, refusals and rollbacks; money in currency units."""
        counts = self.metrics.groupby("campaign", observed=True)[list(COUNTS)].sum().sort_index()
        targets = load_config(self.info["config"]).score.targets
        rows = {name: _summary_row(row.to_numpy(), targets) for name, row in counts.iterrows()}
        summary = pd.DataFrame.from_dict(rows, orient="index")
        return summary.join(_action_counts(self.actions)).fillna({"changes": 0, "refusals": 0, "rollbacks": 0})

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        names = ("digests", "totals", "actions", "rejects", "support", "overspent_days", "seconds", "auctions_per_second")
        return {"run": str(self.folder)} | {name: self.info[name] for name in names}

    def _repr_html_(self) -> str:
        return str(self.summary.to_html(float_format="{:,.3f}".format, na_rep="–"))


def simulate(
    config: Config,
    *,
    out: Path | str | None = None,
    seed: int | None = None,
    runner: Runner | None = None,
    watch: Watcher | None = None,
) -> Run:
    """Run a simulation.

    Parameters
    ----------
    out:
        The run folder to make; by default the next free one under `runs/`.
    seed:
        Instead of the configuration's.
    runner:
        Where it runs; by default in this process.

    Raises
    ------
    BadInput
        In one sentence, where the configuration or the folder cannot be used.
    """
    loaded = _seeded(_loaded(config), seed)
    if not isinstance(loaded, SimulationConfig):
        raise BadInput(f"{_name(config)}: source (={loaded.source}) must be simulation: use `bidtwin replay` for it")
    return _carry_out(loaded, build.simulation(loaded), out, runner, watch, {})


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
        raise BadInput(f"{path}: schema_version (={found}) must be {SCHEMA_VERSION}: open it with the bidtwin that wrote it")
    return Run(Path(folder), info)


def audit(folder: Path | str) -> dict[str, Any]:
    """Check a run's ledger from its first record to its last, and tell what it holds.

    `first_bad` is the first record that was changed after it was written; what follows it is not counted.
    """
    ledger = Path(folder) / LEDGER
    folded = Fold()
    first_bad, why = None, None
    try:
        first_bad = verify(read_ledger(ledger))
        for record in read_ledger(ledger):
            if record.sequence == first_bad:
                break
            folded.update(record)
    except LedgerError as error:
        first_bad, why = folded.records if first_bad is None else first_bad, str(error)
    recorded = json.loads((Path(folder) / "run.json").read_text()).get("digests") if first_bad is None else None
    if recorded and recorded["ledger"] != _head(ledger):
        first_bad, why = folded.records, "records are missing at the end"
    return {
        "valid": first_bad is None,
        "records": folded.records,
        "first_bad": first_bad,
        "applied": folded.applied,
        "max_relative_step": folded.max_relative_step,
        "rollbacks": folded.rollbacks,
    } | ({"why": why} if why else {})


def _head(ledger: Path) -> str:
    head = ""
    for record in read_ledger(ledger):
        head = record.digest.hex()
    return head


def _carry_out(
    config: RunConfig,
    plan: Plan,
    out: Path | str | None,
    runner: Runner | None,
    watch: Watcher | None,
    about_log: Mapping[str, Any],
) -> Run:
    """Run a plan into a folder: `run.json` says what was started, and in the end what came out."""
    folder = _new_folder(out, config.name)
    info: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": config.name,
        "status": "running",
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "versions": {name: version(name) for name in ("bidtwin", *_PACKAGES)} | {"python": platform.python_version()},
    }
    _write(folder, info)
    began = time.perf_counter()
    try:
        outcome = (runner or LocalRunner()).run(plan, folder, watch)
    except KeyboardInterrupt:
        _write(folder, info | {"status": "interrupted"})
        raise
    counts = write_actions(folder / "actions.parquet", read_ledger(folder / LEDGER), plan.campaigns, plan.grid)
    seconds = time.perf_counter() - began
    info |= {"status": "finished"} | _results(outcome, counts, seconds) | _about_log(about_log, outcome)
    _write(folder, info)
    return Run(folder, info)


def _results(outcome: Outcome, counts: Mapping[str, int], seconds: float) -> dict[str, Any]:
    names = ("applied", "recorded", "stale", "refused", "needs_approval", "rolled_back")
    return {
        "digests": {"metrics": outcome.metrics_digest, "ledger": outcome.ledger_digest},
        "totals": outcome.totals.as_dict(),
        "actions": {name: counts.get(name, 0) for name in names},
        "seconds": round(seconds, 3),
        "auctions_per_second": round(outcome.totals.auctions / seconds) if outcome.totals.auctions else None,
    }


def _about_log(about: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """What a replay tells beside the totals; all of it null for a simulation."""
    return {"rejects": None, "support": None, "overspent_days": None} | dict(about)


def _new_folder(out: Path | str | None, name: str) -> Path:
    """Make the run's folder; one that exists is never written into."""
    if out is not None:
        folder = Path(out)
        if folder.exists():
            raise BadInput(f"run folder {folder} exists already: choose another with --out, or remove it")
    else:
        folder = next(path for path in (Path("runs") / f"{name}-{place:03d}" for place in range(1, 10**6)) if not path.exists())
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise BadInput(f"run folder {folder} cannot be made ({error.strerror}): choose another with --out") from None
    return folder


def _write(folder: Path, info: Mapping[str, Any]) -> None:
    """Write `run.json` in one step, so that it is never half there."""
    draft = folder / "run.json.new"
    draft.write_text(json.dumps(info, indent=1, allow_nan=False) + "\n")
    draft.replace(folder / "run.json")


def _loaded(config: Config) -> RunConfig:
    return load_config(Path(config) if isinstance(config, str) else config)


def _seeded(config: RunConfig, seed: int | None) -> RunConfig:
    return config if seed is None else config.model_copy(update={"seed": seed})


def _name(config: Config) -> str:
    return "configuration" if isinstance(config, Mapping) else Path(config).name


def _summary_row(counts: np.ndarray[Any, Any], targets: Any) -> dict[str, float | None]:
    count = dict(zip(COUNTS, counts, strict=True))
    rates = {name: metric.value for name, metric in metrics(counts, targets=targets).items()}
    money = {
        "spend": count["spend_micros"] / 1e6,
        "revenue": count["revenue_micros"] / 1e6,
        "cpc": _units(rates["cpc_micros"]),
        "cpa": _units(rates["cpa_micros"]),
    }
    shown = {name: int(count[name]) for name in ("impressions", "clicks", "conversions")}
    return money | shown | {name: rates[name] for name in ("win_rate", "ctr", "cvr", "roas", "score")}


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


__all__ = ["ReplayConfig", "Run", "audit", "open_run", "simulate"]
