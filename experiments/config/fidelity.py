"""What the aggregate fidelity, which draws counts, has no single events for."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.config.models import SimulationConfig
from experiments.config.problems import Problem

_REMEDY = "beside 'fidelity: aggregate', which draws counts alone: remove one of the two"


def fidelity_problems(config: SimulationConfig) -> Iterator[Problem]:
    """What a simulation asks of single events, where it draws counts."""
    if config.fidelity == "aggregate" and config.record:
        yield Problem(("record",), f"must be empty {_REMEDY}", config.record)
    if config.fidelity == "aggregate" and config.attribution is not None:
        yield Problem(("attribution",), f"must be left out {_REMEDY}")
    for name, market in config.markets.items():
        if config.fidelity == "aggregate" and len(market.slots) > 1:
            yield Problem(("markets", name, "slots"), f"must be one {_REMEDY}", market.slots)
