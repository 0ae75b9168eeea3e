"""The jobs that people run, as functions: what the command line and a notebook call.

A configuration (path or mapping) and perhaps a log go in, a `Run` comes out (`experiments.runs`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engine.actions import Knob
from engine.errors import BadInput
from engine.messages import CommandKind
from engine.runtime import inbox
from engine.runtime.local import LocalRunner, LostError, Outcome, Progress
from engine.runtime.plan import Moment, Plan, Rehearsal, unrehearsed
from engine.runtime.store import LEDGER, Fence, is_written, read_ledger
from engine.runtime.tables import Totals, clear_away, write_actions
from engine.units import PPM, Int64
from experiments import build
from experiments.config import AuctionLog, BinLog, ReplayConfig, RunConfig, SimulationConfig, load_config
from experiments.runs import SCHEMA_VERSION, Run, audit, open_run, story
from sim.attribution import accuracy
from sim.logs.rejects import Rejects

_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""How a disk or its owner says no."""

_PACKAGES = ("numba", "numpy", "pandas", "pyarrow", "ray", "scipy")

_UNRECORDED: dict[type, tuple[str, ...]] = {
    AuctionLog: ("conversions", "revenue_micros", "refunds_micros"),
    BinLog: ("auctions", "conversions", "revenue_micros", "refunds_micros"),
}
"""Totals that a log of a format does not carry: null in what a run tells."""

Config = Path | str | Mapping[str, Any]
Watcher = Callable[[Progress], None]


class Runner(Protocol):
    """Carries plans out: in this process or on Ray."""

    def run(self, plan: Plan, folder: Path, watch: Watcher | None = None) -> Outcome:
        """Carry a plan out, leaving ledger and tables in the folder."""
        ...


class _AboutLog(NamedTuple):
    """What a replay tells beside its totals."""

    rejects: Rejects
    format: AuctionLog | BinLog | None  # None for our own records
    fingerprint: str


class _Job(NamedTuple):
    """What is to be run."""

    config: RunConfig
    plan: Plan
    log: _AboutLog | None  # None for a simulation


def load(config: Config | RunConfig, seed: int | None = None) -> RunConfig:
    """A checked configuration, with another seed if one is given."""
    if isinstance(config, SimulationConfig | ReplayConfig):
        loaded: RunConfig = config
    else:
        loaded = load_config(Path(config) if isinstance(config, str) else config)
    return loaded if seed is None else loaded.model_copy(update={"seed": seed})


def simulate(
    config: Config | RunConfig,
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
    loaded = _simulated(load(config, seed))
    job = _Job(loaded, build.simulation(loaded), None)
    return _carry_out(job, _begin(job, out), runner, watch)


def replay(
    config: Config | RunConfig,
    log: Path | str,
    *,
    out: Path | str | None = None,
    seed: int | None = None,
    runner: Runner | None = None,
    watch: Watcher | None = None,
) -> Run:
    """Replay a log through the campaigns, the optimiser and its guard.

    Parameters
    ----------
    config:
        A replay's configuration; or a simulation's, where `log` is the `opportunities/` folder that a run of it left.
    log:
        The log's file or folder. Rows that cannot be used are left out and listed in the run's `rejects.csv`.

    Raises
    ------
    BadInput
        In one sentence, where configuration, log or folder cannot be used.
    """
    job = _replay_job(load(config, seed), Path(log))
    return _carry_out(job, _begin(job, out), runner, watch)


def resume(
    folder: Path | str,
    log: Path | str | None = None,
    *,
    runner: Runner | None = None,
    watch: Watcher | None = None,
) -> Run:
    """Go on with a run that was interrupted or lost, to the very end it would have had.

    It goes back to the folder's last checkpoint; the rounds that its ledger holds after it are decided again and have
    to come out the same.

    Parameters
    ----------
    log:
        For a replay, the log it was started with.

    Raises
    ------
    BadInput
        In one sentence, where the run is finished, the log is another, or the ledger is held by another process.
    """
    run = open_run(folder)
    if run.info["status"] == "finished":
        raise BadInput(f"run {folder} is finished already: read it, or start another")
    config, was = load_config(run.info["config"]), run.info["log"]
    if was is None:
        return _carry_out(_Job(config, build.simulation(_simulated(config)), None), run, runner, watch)
    if log is None:
        raise BadInput(f"run {folder} is a replay: give its log with --log")
    if fingerprint(Path(log)) != was:
        raise BadInput(f"log {log} is not the one that run {folder} was started with: give that one")
    return _carry_out(_replay_job(config, Path(log)), run, runner, watch)


def _simulated(config: RunConfig) -> SimulationConfig:
    if not isinstance(config, SimulationConfig):
        raise BadInput(f"{config.name}: source (={config.source}) must be simulation: use `bidtwin replay` for it")
    return config


def _replay_job(config: RunConfig, log: Path) -> _Job:
    if isinstance(config, SimulationConfig):
        plan, rejects = build.recorded(config, log)
        return _Job(config, plan, _AboutLog(rejects, None, fingerprint(log)))
    plan, rejects = build.replay(config, log)
    return _Job(config, plan, _AboutLog(rejects, config.log, fingerprint(log)))


def fingerprint(log: Path) -> str:
    """SHA-256 of a log: of a file, or of a folder's Parquet files in order."""
    digest = hashlib.sha256()
    for path in sorted(log.glob("*.parquet")) if log.is_dir() else [log]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def command(
    folder: Path | str,
    kind: str,
    by: str,
    campaign: str | None = None,
    knob: str | None = None,
    action: int | None = None,
    command_id: str | None = None,
) -> str:
    """Send a person's command to a run: admitted at the next boundary, or at the first one after a resume.

    Returns its id, by which `answer` finds what became of it; the same id again has no effect.

    Raises
    ------
    BadInput
        In one sentence, where the run is finished, or has no such campaign or knob.
    """
    run = open_run(folder)
    if run.info["status"] == "finished":
        raise BadInput(f"run {folder} is finished: nothing is left to {kind}")
    if campaign is not None and campaign not in run.config.campaigns:
        raise BadInput(f"campaign (={campaign!r}) is not in this run: it has {', '.join(sorted(run.config.campaigns))}")
    known = {each.name.lower(): each for each in Knob}
    if knob is not None and knob not in known:
        raise BadInput(f"knob (={knob!r}) must be one of {', '.join(known)}")
    if campaign is None and knob is not None:
        raise BadInput(f"knob (={knob!r}) must be of a campaign: say which, with --campaign")
    return inbox.submit(run.folder, CommandKind(kind), by, campaign, known.get(knob or ""), action, command_id)


def answer(folder: Path | str, command_id: str, seconds: float = 60.0) -> dict[str, Any]:
    """What became of a command, once a boundary has come."""
    if not is_written(Path(folder) / LEDGER):
        raise BadInput(f"run {folder} is stopped: the command is admitted when it is resumed")
    return inbox.wait_for(Path(folder), command_id, seconds)


def _begin(job: _Job, out: Path | str | None) -> Run:
    """Make a job's folder, with a `run.json` that says what is started."""
    config = job.config
    info: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": config.name,
        "status": "running",
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "log": job.log.fingerprint if job.log else None,
        "versions": {name: version(name) for name in ("bidtwin", *_PACKAGES)} | {"python": platform.python_version()},
    }
    folder = _new_folder(out, config.name)
    with _kept(folder):
        if job.log and len(job.log.rejects):
            job.log.rejects.write(folder / "rejects.csv")
        _write(folder, info)
    return Run(folder, info)


def _carry_out(job: _Job, run: Run, runner: Runner | None, watch: Watcher | None) -> Run:
    """Run a job in its folder, from where it stands; in the end `run.json` says what came out."""
    with _kept(run.folder):
        try:
            return _carry_on(job, run, runner or LocalRunner(), watch)
        except KeyboardInterrupt:
            if open_run(run.folder).info["status"] != "finished":  # by a successor, if this process was stopped long
                _write(run.folder, dict(run.info) | {"status": "interrupted"})
            raise


def _carry_on(job: _Job, run: Run, runner: Runner, watch: Watcher | None) -> Run:
    folder, plan, info = run.folder, job.plan, dict(run.info)
    began = time.perf_counter()
    outcome = runner.run(plan, folder, watch)
    fence = Fence(folder / LEDGER, outcome.epoch)
    records = read_ledger(folder / LEDGER)
    counts = write_actions(folder / "actions.parquet", records, plan.campaigns, plan.grid, plan.rehearsal, fence)
    seconds = time.perf_counter() - began
    unrecorded = _UNRECORDED.get(type(job.log.format), ()) if job.log else ()
    info |= {"status": "finished"} | _results(outcome, counts, seconds, unrecorded) | _of_log(job.log, outcome.totals)
    factual = job.log is not None and isinstance(job.log.format, BinLog)
    info["overspent_days"] = _overspent_days(Run(folder, info), job.config.account.zone) if factual else None
    with fence():
        _write(folder, info, plan.rehearsal)
    plan.rehearsal(Moment.AFTER_RESULT, plan.grid.ticks)
    with fence():
        clear_away(folder)
    return Run(folder, info)


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """What ends a run before its time is told in one sentence; all that was decided stays in the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise _refused(folder, os.strerror(error.errno)) from None
    except sqlite3.Error as error:
        raise _refused(folder, str(error)) from None
    except LostError as error:
        lost = f"run {folder} lost a process again and again ({error!s:.80})"
        raise BadInput(f"{lost}: find out why, then go on with --resume {folder}") from None


def _refused(folder: Path, why: str) -> BadInput:
    return BadInput(f"run folder {folder} cannot be written ({why}): mend that, then go on with --resume {folder}")


def _results(
    outcome: Outcome, counts: Mapping[str, int], seconds: float, unrecorded: tuple[str, ...]
) -> dict[str, Any]:
    names = ("applied", "recorded", "stale", "refused", "needs_approval", "rolled_back")
    return {
        "digests": {"metrics": outcome.metrics_digest, "ledger": outcome.ledger_digest},
        "totals": outcome.totals.as_dict() | dict.fromkeys(unrecorded),
        "unrecorded": list(unrecorded),
        "actions": {name: counts.get(name, 0) for name in names},
        "attribution": _attribution(outcome.totals.truth),
        "seconds": round(seconds, 3),
        "auctions_per_second": round(outcome.totals.auctions / seconds) if outcome.totals.auctions else None,
    }


def _attribution(truth: Int64 | None) -> dict[str, Any] | None:
    """Conversions caused, those credited to any click, and the share of the credit that went to the cause."""
    if truth is None:
        return None
    caused, credited, _ = truth.tolist()
    return {"accuracy": accuracy(truth), "caused": caused, "credited": credited / PPM}


def _of_log(about: _AboutLog | None, totals: Totals) -> dict[str, Any]:
    """Rejected rows, and the share of bids that the log cannot speak for; null for a simulation."""
    if about is None:
        return {"rejects": None, "support": None}
    support = None
    if isinstance(about.format, AuctionLog):
        share = totals.outside_support / totals.bids if totals.bids else None
        support = {
            "logged_bid_micros": about.format.logged_bid_micros,
            "bids": totals.bids,
            "outside": totals.outside_support,
            "share_outside": share,
        }
    return {"rejects": len(about.rejects), "support": support}


def _overspent_days(run: Run, zone: str) -> int:
    """Campaign-days on which a log spends more than the budget in force: told, and not enforced."""
    day = run.metrics.tick_start.dt.tz_convert(zone).dt.date
    days = run.metrics.groupby(["campaign", day], observed=True).agg({"spend_micros": "sum", "budget_micros": "max"})
    return int((days.spend_micros > days.budget_micros).sum())


def _new_folder(out: Path | str | None, name: str) -> Path:
    """Make the run's folder; one that exists is never written into."""
    if out is not None:
        folder = Path(out)
        if folder.exists():
            raise BadInput(f"run folder {folder} exists already: choose another with --out, or remove it")
    else:
        folder = next(
            path for path in (Path("runs") / f"{name}-{place:03d}" for place in range(1, 10**6)) if not path.exists()
        )
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise BadInput(f"run folder {folder} cannot be made ({error.strerror}): choose another with --out") from None
    return folder


def _write(folder: Path, info: Mapping[str, Any], rehearsal: Rehearsal = unrehearsed) -> None:
    """Write `run.json` in one step, so that it is never half there."""
    draft = folder / "run.json.new"
    with draft.open("w") as file:
        file.write(json.dumps(dict(info), indent=1, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    rehearsal(Moment.IN_RESULT, 0)
    draft.replace(folder / "run.json")


__all__ = ["Run", "audit", "load", "open_run", "replay", "resume", "simulate", "story"]
