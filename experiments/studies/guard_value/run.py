"""What the guard is worth: over seeded small worlds, in which the truth is known.

python -m experiments.studies.guard_value.run [--worlds N] [--arms weights,bids,…] [--processes P] [--json]
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
    """A part of the study: one world by its seed, what many worlds tell, and how that is shown.

    Of an arm with `part` p only every p-th of the worlds asked for is run.
    """

    question: str
    world: Callable[[int], Any]
    told: Callable[[Sequence[Any]], dict[str, Any]]
    table: Callable[[dict[str, Any]], str]
    part: int = 1


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
    "strained": Arm(
        "The same where the breaker is closed every morning, and where the proposer acts from the first hour on",
        losses.strained,
        losses.losses_told,
        losses.losses_table,
        part=5,
    ),
    "good": Arm("Good policies inside default mandates", losses.good, losses.gains_told, losses.gains_table),
    "picked": Arm("Campaigns picked for their bad week", picked.world, picked.told, picked.table),
}


def study(worlds: int = WORLDS, arms: Sequence[str] = tuple(ARMS), processes: int = 1) -> dict[str, Any]:
    """Run so many worlds of each arm, their seeds 1, 2, …; how many processes share them changes no figure.

    An arm that there is not is a BadInput.
    """
    for name in arms:
        if name not in ARMS:
            raise BadInput(f"arms (={name!r}) must be some of {','.join(ARMS)}: write --arms bad,good")
    seeds = {name: range(1, max(worlds // ARMS[name].part, 1) + 1) for name in arms}
    if processes == 1:
        return {name: _told(name, map(ARMS[name].world, mine)) for name, mine in seeds.items()}
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        lived = {name: pool.map(ARMS[name].world, mine) for name, mine in seeds.items()}
        return {name: _told(name, found) for name, found in lived.items()}


def _told(name: str, lived: Iterable[Any]) -> dict[str, Any]:
    found = list(lived)
    return {"worlds": len(found)} | ARMS[name].told(found)


def main(
    worlds: Annotated[int, typer.Option(min=1, help="How many worlds of each arm, with seeds from 1 on.")] = WORLDS,
    arms: Annotated[str, typer.Option(help="Which arms, separated by commas.")] = ",".join(ARMS),
    processes: Annotated[int, typer.Option(min=1, help="How many processes share the worlds.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")] = False,  # noqa: FBT002
) -> None:
    """Measure what the guard rolls back, what it saves and what it costs."""
    try:
        found = study(worlds, arms.split(","), processes)
    except BadInput as error:
        typer.echo(f"guard_value: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(found, indent=1, allow_nan=False))
        return
    for name, each in found.items():
        typer.echo(f"{ARMS[name].question}: {each['worlds']} worlds, seeds from 1 on\n\n{ARMS[name].table(each)}\n")


if __name__ == "__main__":
    typer.run(main)
