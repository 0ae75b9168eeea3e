"""Who looks at the prices that campaigns won at, and whether a run's source can tell them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from engine.errors import BadInput
from engine.optimiser import Assignment
from engine.policy import looks_at_prices
from experiments.config import AuctionLog, RunConfig, SimulationConfig
from sim.aggregate import AggregateWorldFactory
from sim.replay import AuctionReplayFactory, IntervalReplayFactory
from sim.world import WorldFactory

_SUMS: dict[type, tuple[str, str]] = {
    AggregateWorldFactory: ("fidelity (=aggregate)", "choose the fidelity opportunity"),
    IntervalReplayFactory: ("a log of intervals", "replay a log of single auctions"),
}
"""Sources that know prices in sums alone: their name in a configuration, and the remedy."""


def can_tell_prices(config: RunConfig) -> bool:
    """Whether a configuration's source holds single auctions, so that policies can be told what they were won at."""
    if isinstance(config, SimulationConfig):
        return config.fidelity == "opportunity"
    return isinstance(config.log, AuctionLog)


def told_prices(source: Any, assignments: Sequence[Assignment]) -> Any:
    """The source, asked to tell prices if a policy of the run, or a fallback, looks at them.

    Raises
    ------
    BadInput
        In one sentence, where one looks and the source cannot tell.
    """
    looking = next(_looking(assignments), None)
    if looking is None:
        return source
    if isinstance(source, WorldFactory | AuctionReplayFactory) and type(source) not in _SUMS:
        return replace(source, tell_prices=True)
    name, remedy = _SUMS.get(type(source), (type(source).__name__, "choose a source of single auctions"))
    raise BadInput(f"policy (={looking}) must see the prices of single wins, which {name} does not tell: {remedy}")


def _looking(assignments: Sequence[Assignment]) -> Iterator[str]:
    """The names of the policies and fallbacks that look at prices."""
    for each in assignments:
        if looks_at_prices(each.policy):
            yield each.name
        if each.fallback is not None:
            yield from _looking([each.fallback])
