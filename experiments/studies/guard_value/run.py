"""What the guard is worth: over seeded small worlds, in which the truth is known.

python -m experiments.studies.guard_value.run [--worlds N] [--arms weights,bids,bad,good,picked] [--processes P] [--json]
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Annotated, Any, NamedTuple

import typer

from engine.errors import BadInput
from experiments.studies.guard_value import changes, losses, picked

WORLDS = 200


class Arm(NamedTuple):
    """A part of the study: one world by its seed, what many worlds tell, and how that is shown."""

    question: str
    world: Callable[[int], Any]
    told: Callable[[Sequence[Any]], dict[str, Any]]
    table: Callable[[dict[str, Any]], str]


ARMS = {
    "weights": Arm(
        "Changes of weights, judged by the creatives side by side",
        partial(changes.world, changes.WEIGHTS),
        changes.told,
        changes.table,
    ),
    "bids": Arm(
        "Changes of bids and of a budget, judged by untouched siblings",
        partial(changes.world, changes.BIDS),
        changes.told,
        changes.table,
    ),
    "bad": Arm("Bad proposers inside default mandates", losses.bad, losses.losses_told, losses.losses_table),
    "good": Arm("Good policies inside default mandates", losses.good, losses.gains_told, losses.gains_table),
    "picked": Arm("Campaigns picked for their bad week", picked.world, picked.told, picked.table),
}


def study(worlds: int = WORLDS, arms: Iterable[str] = tuple(ARMS), processes: int = 1) -> dict[str, Any]:
    """Run so many worlds of each arm, their seeds 1, 2, …; how many processes share them changes no figure."""
    seeds = range(1, worlds + 1)
    if processes == 1:
        return {name: ARMS[name].told([ARMS[name].world(seed) for seed in seeds]) for name in arms}
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        lived = {name: pool.map(ARMS[name].world, seeds) for name in arms}
        return {name: ARMS[name].told(list(found)) for name, found in lived.items()}


def main(
    worlds: Annotated[int, typer.Option(min=1, help="How many worlds of each arm, with seeds from 1 on.")] = WORLDS,
    arms: Annotated[str, typer.Option(help="Which arms, separated by commas.")] = ",".join(ARMS),
    processes: Annotated[int, typer.Option(min=1, help="How many processes share the worlds.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")] = False,  # noqa: FBT002
) -> None:
    """Measure what the guard rolls back, what it saves and what it costs."""
    try:
        chosen = arms.split(",")
        unknown = [name for name in chosen if name not in ARMS]
        if unknown:
            raise BadInput(f"arms (={unknown[0]!r}) must be some of {','.join(ARMS)}: write --arms bad,good")
        found = study(worlds, chosen, processes)
    except BadInput as error:
        typer.echo(f"guard_value: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps({"worlds": worlds} | found, indent=1, allow_nan=False))
        return
    typer.echo(f"{worlds} worlds, seeds 1 … {worlds}")
    for name, each in found.items():
        typer.echo(f"\n{ARMS[name].question}\n{ARMS[name].table(each)}")


if __name__ == "__main__":
    typer.run(main)
