"""A configuration's world: what a file says of markets, people, campaigns and trouble, as values of `sim`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from pydantic import BaseModel

from engine.campaigns import CampaignSet
from engine.runtime.plan import DAY_MINUTES
from engine.units import PPM, Float64
from experiments import config as settings
from experiments.config import SimulationConfig
from sim.aggregate import AggregateWorldFactory
from sim.attribution import Attribution, Credit, last_click, linear, position_based
from sim.auction import EVERYBODY, Answer, BotClicks, Drift, Market, PriceShock, Regimes, Segment
from sim.conversions import Conversions, menus_of
from sim.delays import Delays
from sim.mishaps import Mishap, Way
from sim.people import Audience
from sim.response import Response
from sim.traffic import Traffic, TrafficChange
from sim.troubles import Spell, Troubles
from sim.world import WorldFactory

_CREDITS: dict[str, Credit] = {"last_click": last_click, "linear": linear, "position_based": position_based}
_WAYS: dict[type[settings.OfEvents], Way] = {
    settings.LateEvents: Way.LATE,
    settings.DuplicatedEvents: Way.DUPLICATED,
    settings.MisdatedEvents: Way.MISDATED,
    settings.OrphanedClicks: Way.ORPHANED,
}
_Ticks: TypeAlias = tuple[int, int]
_Any = TypeVar("_Any", bound=BaseModel)
_Kind = TypeVar("_Kind", bound=settings.OfMarkets)
_FIDELITIES: dict[str, type[WorldFactory]] = {"opportunity": WorldFactory, "aggregate": AggregateWorldFactory}


def world(config: SimulationConfig, campaigns: CampaignSet) -> WorldFactory:
    """The factory of a configuration's world, in the fidelity that it asks for."""
    return _FIDELITIES[config.fidelity](
        campaigns=campaigns,
        grid=config.grid,
        seed=config.seed,
        markets=tuple(_market(config, name) for name in campaigns.markets),
        response=_response(config, campaigns),
        conversions=_conversions([config.campaigns[name].conversions for name in campaigns.ids]),
        people=_counted(config),
        attribution=_attribution(config.attribution),
        troubles=_troubles(config, campaigns),
        mishaps=tuple(_mishaps(config)),
        record_events="events" in config.record,
        record_opportunities="opportunities" in config.record,
    )


def _market(config: SimulationConfig, name: str) -> Market:
    spec = config.markets[name]
    answers = spec.price.answers
    return Market(
        traffic=_traffic(config, name),
        level_micros=spec.price.level_micros,
        price_sigma=spec.price.sigma,
        reserve_micros=spec.reserve_micros,
        first_price=spec.auction == "first_price",
        competitors=spec.price.competitors,
        exposure=spec.slots,
        segments=_segments(config, name),
        answer=None if answers is None else Answer(answers.strength, answers.persistence),
        bots=tuple(BotClicks(*ticks, kind.share) for ticks, kind in _befalling(config, name, settings.BotClicks)),
        shocks=tuple(PriceShock(*ticks, factor) for ticks, factor in _shocks(config, name)),
        follows_demand=spec.price.follows_demand,
        drift=None if spec.price.drift is None else Drift(spec.price.drift.persistence, spec.price.drift.sigma),
        regimes=None if spec.price.regimes is None else _regimes(config, spec.price.regimes),
    )


def _traffic(config: SimulationConfig, name: str) -> Traffic:
    spec = config.markets[name]
    curve = spec.traffic.daily
    return Traffic(
        spec.opportunities_per_tick,
        amplitude=0.0 if curve is None else curve.amplitude,
        peak_hour=0.0 if curve is None else curve.peak_hour,
        week=spec.traffic.levels,
        dispersion=spec.traffic.dispersion,
        changes=(
            *(TrafficChange(*ticks, loss.factor) for ticks, loss in _befalling(config, name, settings.TrafficLoss)),
            *(TrafficChange(*ticks, rush.factor) for ticks, rush in _befalling(config, name, settings.TrafficRush)),
        ),
    )


def _regimes(config: SimulationConfig, spec: settings.Regimes) -> Regimes:
    return Regimes(spec.every_days * DAY_MINUTES / config.time.tick_minutes, spec.sigma)


def _everybody(market: str) -> str:
    """The audience of a market that tells none apart, by a name that no id can be."""
    return f"everybody in {market}"


def _segments(config: SimulationConfig, name: str) -> tuple[Segment, ...]:
    """The audiences that a market tells apart, in their order in the campaign set; else everybody."""
    spec = config.markets[name]
    if not spec.audiences:
        return EVERYBODY if spec.people is None else (Segment(audience=_everybody(name)),)
    return tuple(
        Segment(
            share=settings.ppm(segment.share) / PPM,
            price=segment.price,
            ctr=segment.ctr,
            cvr=segment.cvr,
            value=segment.value,
            audience=None if config.audiences[audience].people is None else audience,
        )
        for audience, segment in spec.audiences.items()
    )


def _counted(config: SimulationConfig) -> tuple[Audience, ...]:
    """The people who are counted: declared audiences, and everybody in markets that tell none apart."""
    specs = config.audiences | {_everybody(name): market for name, market in config.markets.items()}
    return tuple(
        Audience(name, spec.people, math.inf if spec.activity is None else spec.activity)
        for name, spec in specs.items()
        if spec.people is not None
    )


def _shocks(config: SimulationConfig, name: str) -> Iterator[tuple[_Ticks, float]]:
    """When a market's prices are multiplied, and by what: its own shocks, then the troubles that befall it."""
    for shock in config.markets[name].shocks:
        yield settings.ticks_of(config, shock), shock.factor
    for ticks, kind in _befalling(config, name, settings.PriceShock):
        yield ticks, kind.factor


def _befalling(config: SimulationConfig, market: str, of: type[_Kind]) -> Iterator[tuple[_Ticks, _Kind]]:
    """The troubles of one kind that befall a market, each with its ticks."""
    for ticks, kind in _of_kind(config, of):
        if kind.markets == "all" or market in kind.markets:
            yield ticks, kind


def _of_kind(config: SimulationConfig, of: type[_Any]) -> Iterator[tuple[_Ticks, _Any]]:
    for trouble in config.troubles:
        if isinstance(trouble.kind, of):
            yield settings.ticks_of(config, trouble.dated), trouble.kind


def _troubles(config: SimulationConfig, campaigns: CampaignSet) -> Troubles:
    def members(chosen: Any) -> tuple[int, ...]:
        return tuple(campaigns.index(name) for name in settings.members(config, chosen))

    def creatives(spec: settings.Disapproved) -> tuple[int, ...]:
        place = campaigns.index(spec.campaign)
        first, end = campaigns.creative_start[place : place + 2].tolist()
        return tuple(first + campaigns.creatives[first:end].index(name) for name in spec.creatives)

    drops, outages = _of_kind(config, settings.ConversionDrop), _of_kind(config, settings.TrackingOutage)
    disapprovals = _of_kind(config, settings.Disapproved)
    return Troubles(
        rates=tuple(Spell(*ticks, kind.factor, members(kind.campaigns)) for ticks, kind in drops),
        reports=tuple(
            Spell(*ticks, settings.ppm(1 - kind.lost) / PPM, members(kind.campaigns)) for ticks, kind in outages
        ),
        approvals=tuple(Spell(*ticks, 0.0, creatives(kind)) for ticks, kind in disapprovals),
    )


def _mishaps(config: SimulationConfig) -> Iterator[Mishap]:
    for ticks, kind in _of_kind(config, settings.OfEvents):
        yield Mishap(_WAYS[type(kind)], *ticks, kind.share, getattr(kind, "hours", 0.0))


def _attribution(spec: settings.Attribution | None) -> Attribution | None:
    return None if spec is None else Attribution(_CREDITS[spec.model], spec.window_hours, spec.lost_ids)


def _response(config: SimulationConfig, campaigns: CampaignSet) -> Response:
    specs = [config.campaigns[name] for name in campaigns.ids]
    creatives = [creative for spec in specs for creative in spec.creatives.values()]
    return Response(
        reach=_column([spec.reach for spec in specs]),
        value_sigma=_column([spec.value_sigma for spec in specs]),
        correlation=_column([spec.value_price_correlation for spec in specs]),
        ctr=_column([creative.ctr for creative in creatives]),
        wear=_column([0.0 if creative.wear is None else creative.wear.exponent for creative in creatives]),
        rest_hours=_column([_rest_hours(creative.wear) for creative in creatives]),
    )


def _rest_hours(wear: settings.Wear | None) -> float:
    return math.inf if wear is None or wear.rest_days is None else wear.rest_days * DAY_MINUTES / 60


def _column(values: Sequence[float]) -> Float64:
    return np.array(values, dtype=np.float64)


def _conversions(specs: Sequence[settings.Conversions]) -> Conversions:
    """What clicks lead to, of one campaign per specification."""
    price, price_share = menus_of([_menu(spec) or {1: PPM} for spec in specs])
    return Conversions(
        rate=_column([spec.rate for spec in specs]),
        delays=Delays.of([settings.delay_parts(spec) for spec in specs]),
        per_click=_column([spec.per_click for spec in specs]),
        value_micros=_column([_mean_value(spec) for spec in specs]),
        value_sigma=_column([spec.value_sigma or 0.0 for spec in specs]),
        price=price,
        price_share=price_share,
        refund_rate=_column([0.0 if spec.refunds is None else spec.refunds.rate for spec in specs]),
        refund_hours=_column([0.0 if spec.refunds is None else spec.refunds.delay_hours for spec in specs]),
    )


def _menu(spec: settings.Conversions) -> dict[float, int]:
    """Prices with their shares in ppm; empty where values follow no menu."""
    return {price.value_micros: round(price.share * PPM) for price in spec.prices or ()}


def _mean_value(spec: settings.Conversions) -> float:
    """Mean value of a conversion, micros."""
    if spec.value_micros is not None:
        return spec.value_micros
    return sum(price * share for price, share in _menu(spec).items()) / PPM
