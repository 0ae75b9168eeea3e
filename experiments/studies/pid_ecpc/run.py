"""The published eCPC controller: its 40 rounds by itself, and the same controller under the guard.

python -m experiments.studies.pid_ecpc.run LOG [--json] [--out DIR]
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from agents.ecpc import Course, EcpcPid, ecpc_micros
from agents.published import PublishedEcpcBidder
from engine.errors import BadInput
from engine.events import BIDS, CLICKS, COUNTS, IMPRESSIONS, OUTSIDE_SUPPORT, SPEND
from engine.runtime.plan import Plan
from engine.units import Float64, Int64
from experiments import api, build
from experiments.config import AuctionLog, ReplayConfig
from sim.logs.ipinyou_auctions import MICROS_PER_FEN_CPM, read_auctions
from sim.replay import AuctionReplayFactory
from sim.unguarded import UnguardedEvaluation, evaluate_unguarded

CONFIG = Path(__file__).with_name("config.yaml")
ROUNDS = 40
_DIGITS = 4
"""Decimals of the published table."""


class _Arm(NamedTuple):
    """One of the courses: counts of each round and since the start, phi and the bid at value 1 in each round."""

    counts: Int64  # [ROUNDS, len(COUNTS)]
    lifetime: Int64  # the same, summed up
    phi: Float64  # [ROUNDS]
    bid: Float64  # micros, [ROUNDS]


def study(log: Path, out: Path | None = None) -> dict[str, Any]:
    """The published and the guarded course over a log, round by round, and what the guard changed.

    The published run begins with a flat bid that the guarded one does not make, so the summary holds a third course:
    the same bids as under the guard, without it (`same_start`). Costs and eCPCs are in fen per 1,000 impressions, and
    figures are rounded, both as published.

    Parameters
    ----------
    out:
        Where the guarded run's folder is to be kept; by default it is not.
    """
    config = _config(log)
    plan, _ = build.replay(config, log)
    controller, source = _parts(plan)
    rows = len(source.opportunities)
    evaluation = evaluate_unguarded(source, PublishedEcpcBidder(controller))
    alone = _alone(evaluation, plan, controller)
    same_start = evaluate_unguarded(source, PublishedEcpcBidder(controller, first_bid_micros=None, least_bid_micros=0))
    with TemporaryDirectory() as scratch:
        run = api.replay(config, log, out=out or Path(scratch) / "run")
        guarded = _guarded(run, plan, controller)
        guard = _guard(guarded, controller, run)
    wanted = controller.bid(guarded.phi)
    bids = [
        {"wanted_bid_micros": int(want), "bid_micros": int(bid)} for want, bid in zip(wanted, guarded.bid, strict=True)
    ]
    return {
        "kind": evaluation.kind,
        "rows": rows,
        "seed": config.seed,
        "rounds": _rounds(alone, rows),
        "guarded": [each | more for each, more in zip(_rounds(guarded, rows), bids, strict=True)],
        "summary": {
            "published": _outcome(alone, controller, rows),
            "same_start": _outcome(_alone(same_start, plan, controller), controller, rows),
            "guarded": _outcome(guarded, controller, rows),
            "guard": guard,
        },
    }


def _config(log: Path) -> ReplayConfig:
    """The study's configuration, on a clock of a fortieth of this log's rows a tick."""
    config = api.load(CONFIG)
    assert isinstance(config, ReplayConfig)
    assert isinstance(config.log, AuctionLog)
    rows = len(read_auctions(log, max_reject_share=config.log.max_reject_share)[0])
    if rows < ROUNDS:
        raise BadInput(f"log (={log}) has {rows} rows and must have {ROUNDS} or more, one a round: give a longer one")
    paced = config.log.model_copy(update={"rows_per_tick": rows // ROUNDS})
    return config.model_copy(update={"log": paced})


def _parts(plan: Plan) -> tuple[EcpcPid, AuctionReplayFactory]:
    """The policy and the log that the guarded run uses, for the run without a guard."""
    (assignment,) = plan.assignments
    assert isinstance(assignment.policy, EcpcPid)
    assert isinstance(plan.source, AuctionReplayFactory)
    return assignment.policy, plan.source


def _alone(evaluation: UnguardedEvaluation, plan: Plan, controller: EcpcPid) -> _Arm:
    counts = evaluation.counts[:ROUNDS, 0]
    lifetime = evaluation.lifetime[:ROUNDS, 0]
    phi = _signals(lifetime, plan, controller)
    return _Arm(counts, lifetime, phi, controller.bid(phi))


def _guarded(run: api.Run, plan: Plan, controller: EcpcPid) -> _Arm:
    table = run.metrics.sort_values("tick").iloc[:ROUNDS]
    counts = table[list(COUNTS)].to_numpy(dtype=np.int64)
    lifetime = np.cumsum(counts, axis=0)
    bid = table["bid_micros"].to_numpy(dtype=np.float64)
    return _Arm(counts, lifetime, _signals(lifetime, plan, controller), bid)


def _signals(lifetime: Int64, plan: Plan, controller: EcpcPid) -> Float64:
    """The phi of every round: it was formed on the counts before it."""

    def courses() -> Iterator[Course]:
        course = controller.start(plan.campaigns, plan.grid)
        for counts in lifetime:
            yield course
            course = controller.follow(counts[np.newaxis], course)

    return np.array([course.signal[0] for course in courses()])


def _rounds(arm: _Arm, rows: int) -> list[dict[str, Any]]:
    ecpc = ecpc_micros(arm.lifetime) / MICROS_PER_FEN_CPM
    return [
        {
            "round": place,
            "ecpc": round(float(ecpc[place]), _DIGITS),
            "phi": round(float(arm.phi[place]), _DIGITS),
            "clicks": int(counts[CLICKS]),
            "cost": round(int(counts[SPEND]) / MICROS_PER_FEN_CPM, _DIGITS),
            "win_ratio": round(int(counts[IMPRESSIONS]) / rows, _DIGITS),
        }
        for place, counts in enumerate(arm.lifetime)
    ]


def _outcome(arm: _Arm, controller: EcpcPid, rows: int) -> dict[str, Any]:
    """How a course ended, how far it kept from the reference, how it moved, and what the log cannot speak for."""
    last = arm.lifetime[-1]
    away = np.abs(ecpc_micros(arm.lifetime) / controller.reference_micros - 1)
    bids = int(last[BIDS])
    return {
        "clicks": int(last[CLICKS]),
        "wins": int(last[IMPRESSIONS]),
        "win_ratio": round(int(last[IMPRESSIONS]) / rows, _DIGITS),
        "cost": round(int(last[SPEND]) / MICROS_PER_FEN_CPM, _DIGITS),
        "ecpc": round(float(ecpc_micros(last)) / MICROS_PER_FEN_CPM, _DIGITS),
        "mean_distance": round(float(away.mean()), _DIGITS),
        "mean_distance_last_half": round(float(away[ROUNDS // 2 :].mean()), _DIGITS),
        "greatest_distance": round(float(away.max()), _DIGITS),
        "greatest_rise": round(float((arm.bid[1:] / arm.bid[:-1]).max() - 1), _DIGITS),
        "greatest_fall": round(float(1 - (arm.bid[1:] / arm.bid[:-1]).min()), _DIGITS),
        "share_outside_support": round(int(last[OUTSIDE_SUPPORT]) / bids, _DIGITS) if bids else None,
    }


def _guard(arm: _Arm, controller: EcpcPid, run: api.Run) -> dict[str, Any]:
    """How often the controller wanted more than a step, and what the ledger says of it."""
    wanted = np.floor(controller.bid(arm.phi))
    before, after = arm.bid[:-1], wanted[1:]
    answers = run.actions.outcome[run.actions.tick < ROUNDS - 1]
    ledger = api.audit(run.folder)
    return {
        "changes_wanted": int((after != before).sum()),
        "beyond_a_step": int((np.abs(after - before) > before // 4).sum()),
        "rounds_at_the_wanted_bid": int((arm.bid == wanted).sum()),
        "changes_applied": int((answers == "applied").sum()),
        "changes_refused": int((answers == "refused").sum()),
        "greatest_applied_step": float(ledger["max_relative_step"]),
        "ledger_valid": ledger["valid"],
    }


def _table(found: dict[str, Any]) -> str:
    """The two courses side by side, then the two ends and the guard's part."""
    head = (
        "eCPC and cost in fen per 1,000 impressions, bids in micros for an opportunity of value 1;\n"
        f"left: as published, an {found['kind']}; right: the same controller under the guard\n\n"
        f"{'':5}  {'phi':>8} {'eCPC':>10} {'clicks':>6} {'cost':>9} {'won':>7}  |"
        f"  {'phi':>8} {'wanted':>7} {'bid':>7} {'eCPC':>10} {'clicks':>6} {'cost':>9} {'won':>7}"
    )
    lines = [
        f"{one['round']:5}  {one['phi']:8.4f} {_counted(one)}  |"
        f"  {other['phi']:8.4f} {other['wanted_bid_micros']:7,} {other['bid_micros']:7,} {_counted(other)}"
        for one, other in zip(found["rounds"], found["guarded"], strict=True)
    ]
    ends = dict(found["summary"])
    guard = ends.pop("guard")
    outcome = [_line(name, *(end[name] for end in ends.values())) for name in ends["guarded"]]
    answers = [_line(name, value) for name, value in guard.items()]
    return "\n".join([head, *lines, "", _line("", *ends), *outcome, "", *answers])


def _line(name: str, *values: Any) -> str:
    return f"{name.replace('_', ' '):26}" + "".join(f"{_shown(value):>14}" for value in values)


def _counted(one: dict[str, Any]) -> str:
    return f"{one['ecpc']:10.4f} {one['clicks']:6} {one['cost']:9.0f} {one['win_ratio']:7.4f}"


def _shown(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    return "–" if value is None else str(value).lower().replace("_", " ")


def main(
    log: Annotated[Path, typer.Argument(help="The log: click, price, predicted CTR and exchange, tab-separated.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")] = False,  # noqa: FBT002
    out: Annotated[Path | None, typer.Option(help="Keep the guarded run's folder here.")] = None,
) -> None:
    """Reproduce the published eCPC controller's rounds, then run the same controller under the guard."""
    try:
        found = study(log, out)
    except BadInput as error:
        typer.echo(f"pid_ecpc: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(json.dumps(found, indent=1, allow_nan=False) if as_json else _table(found))


if __name__ == "__main__":
    typer.run(main)
