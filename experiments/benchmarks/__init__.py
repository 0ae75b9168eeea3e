"""Speed figures, each beside a baseline that is measured in the same run: absolute times drift, ratios hold."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from engine.errors import BadInput
from experiments.benchmarks import (
    aggregate,
    auction_multi,
    auction_single,
    env_steps,
    episode_48x500k,
    guard,
    interrupt,
    memory,
    recovery,
    scaling,
    serving,
    tick_overhead,
)
from experiments.benchmarks.measuring import Figure

BENCHMARKS: dict[str, Callable[..., Figure]] = {
    "aggregate": aggregate.measure,
    "auction_multi": auction_multi.measure,
    "auction_single": auction_single.measure,
    "env_steps": env_steps.measure_aggregate,
    "env_steps_opportunities": env_steps.measure_opportunities,
    "episode_48x500k": episode_48x500k.measure,
    "episode_48x500k_memory": episode_48x500k.measure_memory,
    "guard": guard.measure,
    "interrupt": interrupt.measure,
    "memory": memory.measure,
    "memory_world": memory.measure_world,
    "recovery": recovery.measure,
    "scaling_campaigns": scaling.measure_campaigns,
    "scaling_shards": scaling.measure_shards,
    "serving": serving.measure,
    "tick_overhead": tick_overhead.measure,
}


def run_benchmarks(name: str | None = None, *, small: bool = False) -> list[dict[str, Any]]:
    """Measure one benchmark, or all of them.

    Parameters
    ----------
    small:
        A size at which a benchmark only shows that it runs.

    Returns
    -------
    One row per benchmark: name, rate and its unit, name and rate of the baseline, ratio (rate over the baseline's),
    and the peak resident memory of this process until then, in MB.

    Raises
    ------
    BadInput
        Where there is no benchmark of that name.
    """
    if name is not None and name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        remedy = f"did you mean {near[0]}?" if near else "leave it out to run them all"
        raise BadInput(f"benchmark (={name!r}) must be one of {', '.join(BENCHMARKS)}: {remedy}")
    chosen = BENCHMARKS if name is None else {name: BENCHMARKS[name]}
    return [measure(small=small).row(key) for key, measure in chosen.items()]
