"""A bidding task's file as the objects that play it."""

from __future__ import annotations

from experiments.config.bidding import Task
from sim.bidding import BiddingTask


def bidding_task(spec: Task, *, targeted: bool = False) -> BiddingTask:
    """The task of a file; `targeted`: with a target cost per unit of value for every episode."""
    price, traffic = spec.price, spec.traffic
    return BiddingTask(
        steps=spec.steps,
        volume=traffic.opportunities_per_step,
        amplitude=traffic.amplitude,
        phase_sigma=traffic.phase_sigma,
        half_amplitude=traffic.half_amplitude,
        known_amplitude=traffic.known_amplitude,
        value_sigma=spec.value_sigma,
        price_sigma=price.sigma,
        correlation=price.correlation,
        level_sigma=price.level_sigma,
        season=price.season,
        persistence=price.drift.persistence,
        drift_sigma=price.drift.sigma,
        shift_share=price.shift.share,
        shift_sigma=price.shift.sigma,
        shift_steps=price.shift.steps,
        budget_share=spec.budget_share,
        start_sigma=spec.start_sigma,
        target_range=spec.target if targeted else None,
        first_price=spec.auction == "first_price",
    )
