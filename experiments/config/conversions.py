"""What a configuration says of conversions: its delays as the world takes them, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from engine.units import PPM
from experiments.config.problems import Path, Problem
from experiments.config.values import ppm
from experiments.config.world import Conversions, Delay, DelayPart, PriceShare
from sim.delays import Delays, Law, Part


def delay_parts(spec: Conversions) -> tuple[Part, ...]:
    """The parts of the delay from click to conversion."""
    if spec.delay is None:
        assert spec.delay_hours is not None
        return (Part(Law.EXPONENTIAL, spec.delay_hours),)
    if spec.delay.mixture is None:
        return (_part(spec.delay, PPM),)
    return tuple(_part(part, ppm(part.share)) for part in spec.delay.mixture)


def conversion_problems(path: Path, spec: Conversions, run_hours: float) -> Iterator[Problem]:
    """What contradicts itself in the conversions of a campaign, in a run of so many hours."""
    found = list(_delay_problems(path, spec))
    yield from found or _beyond_the_run(path, spec, run_hours)
    yield from _value_problems(path, spec)


def _part(spec: Delay | DelayPart, share: int) -> Part:
    if spec.exponential is not None:
        return Part(Law.EXPONENTIAL, spec.exponential.mean_hours, share=share)
    assert spec.lognormal is not None
    return Part(Law.LOGNORMAL, spec.lognormal.median_hours, spec.lognormal.sigma, share)


def _delay_problems(path: Path, spec: Conversions) -> Iterator[Problem]:
    yield from _one_of(path, {"delay_hours": spec.delay_hours, "delay": spec.delay})
    if spec.delay is None:
        return
    laws = {"exponential": spec.delay.exponential, "lognormal": spec.delay.lognormal}
    yield from _one_of((*path, "delay"), laws | {"mixture": spec.delay.mixture})
    if spec.delay.mixture is not None:
        mixture = (*path, "delay", "mixture")
        for place, part in enumerate(spec.delay.mixture):
            yield from _one_of((*mixture, place), {"exponential": part.exponential, "lognormal": part.lognormal})
        yield from _shares(mixture, spec.delay.mixture)


def _beyond_the_run(path: Path, spec: Conversions, run_hours: float) -> Iterator[Problem]:
    """A delay that leaves most conversions for after the run, even those of its very first click."""
    if Delays.of([delay_parts(spec)]).cdf(run_hours)[0] < 0.5:
        rule = f"must let half of the conversions come within the run's {run_hours:g} hours: shorten it"
        if spec.delay is None:
            yield Problem((*path, "delay_hours"), rule, spec.delay_hours)
        else:
            yield Problem((*path, "delay"), rule)


def _value_problems(path: Path, spec: Conversions) -> Iterator[Problem]:
    yield from _one_of(path, {"value_micros": spec.value_micros, "prices": spec.prices})
    if spec.prices is None:
        if spec.value_sigma is None:
            yield Problem((*path, "value_sigma"), "is missing: add it, 0 for values that are all alike")
        return
    if spec.value_sigma is not None:
        rule = "must be left out beside prices, which do not vary: remove it"
        yield Problem((*path, "value_sigma"), rule, spec.value_sigma)
    yield from _prices_once((*path, "prices"), spec.prices)
    yield from _shares((*path, "prices"), spec.prices)


def _prices_once(path: Path, prices: Sequence[PriceShare]) -> Iterator[Problem]:
    seen: set[int] = set()
    for place, price in enumerate(prices):
        if price.value_micros in seen:
            rule = "must be a price of its own: remove it, and add its share to the other's"
            yield Problem((*path, place, "value_micros"), rule, price.value_micros)
        seen.add(price.value_micros)


def _one_of(path: Path, choices: Mapping[str, object]) -> Iterator[Problem]:
    stated = [name for name, value in choices.items() if value is not None]
    if len(stated) != 1:
        *others, last = choices
        remedy = "keep one" if stated else "add one"
        yield Problem(path, f"must hold exactly one of {', '.join(others)} and {last}: {remedy}")


def _shares(path: Path, parts: Sequence[DelayPart] | Sequence[PriceShare]) -> Iterator[Problem]:
    total = sum(ppm(part.share) for part in parts)
    if total != PPM:
        yield Problem(path, f"must have shares that sum to 100%, not to {total / 10_000:.10g}%: change one of them")
