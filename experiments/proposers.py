"""Who proposes in a run: its script, and its policies with what they need to know."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from agents.classic import Band, Constant, DailyBudgets, Gains, PacingPI
from agents.ecpc import EcpcPid
from agents.horizon import EVEN, Curve, Curves
from agents.learned import SHIPPED, Learned, Model, shipped
from agents.lp import OnlineLP
from agents.mirror_descent import MirrorDescent
from agents.pid_rule import PidRule
from agents.promotion import Standing
from agents.scripted import Scripted, Wish
from engine.actions import Knob, Source
from engine.campaigns import CampaignSet
from engine.errors import BadInput
from engine.limits import Limits
from engine.optimiser import Assignment
from engine.policy import Policy
from engine.units import Int64
from experiments import config as settings
from experiments.config import RunConfig, SimulationConfig
from experiments.looking import can_tell_prices
from experiments.places import audiences, members, shares
from experiments.users import users_policy

_Bids: TypeAlias = settings.LearnedPolicy | settings.PidRule | settings.MirrorDescent | settings.EcpcPid
_BuiltIn: TypeAlias = settings.Fallback | _Bids | settings.DailyBudgets


def assignments(config: RunConfig, campaigns: CampaignSet, limits: Limits) -> tuple[Assignment, ...]:
    """Who proposes: the script first, then the policies in the order of the file.

    Policies know the configuration's bounds and bands. Where a limits file narrows these while the run goes on they may
    propose what the guard then refuses, and where it widens them they keep to the old ones: either way nothing passes
    that the limits in force forbid.
    """
    found = []
    if config.script.proposals:
        everybody = np.arange(len(campaigns))
        found.append(Assignment(_script(config, campaigns), everybody, Source.SCRIPT, "script"))
    for place, spec in enumerate(config.policies):
        served = _Served(config, campaigns, limits, members(config, campaigns, spec.campaigns))
        if isinstance(spec, settings.UsersPolicy):
            found.append(_users(served, place, spec))
        else:
            found.append(Assignment(_policy(spec, served), served.members, Source.POLICY, spec.policy))
    return tuple(found)


@dataclass(frozen=True)
class _Served:
    """Some campaigns of a run, and what a policy for them may know."""

    config: RunConfig
    campaigns: CampaignSet
    limits: Limits
    members: Int64

    def band(self, knob: Knob) -> Band:
        """The narrowest band that any of them is held to, so that no wish has to be refused for it."""
        low, high = (getattr(self.limits, side)[self.members, knob] for side in ("band_low", "band_high"))
        lowest, highest = ([Fraction(int(top), int(bottom)) for top, bottom in side] for side in (low, high))
        return float(max(lowest)), float(min(highest))

    @property
    def curves(self) -> tuple[Curve, ...]:
        """The traffic curve of each one's market; of a log none is known, and all hours are alike."""
        if not isinstance(self.config, SimulationConfig):
            return (EVEN,) * len(self.members)
        return tuple(_curve(self.config.markets[market].traffic) for market in self.markets)

    @property
    def first_price(self) -> tuple[bool, ...]:
        """Whether each one's market charges winners their own bid."""
        if isinstance(self.config, SimulationConfig):
            return tuple(self.config.markets[market].auction == "first_price" for market in self.markets)
        return (self.config.auction == "first_price",) * len(self.members)

    @property
    def markets(self) -> list[str]:
        """The market of each one."""
        return [self.campaigns.markets[place] for place in self.campaigns.market[self.members]]


def planned_curve(config: RunConfig, spec: Any, campaign: str) -> Curve:
    """The traffic along which a pacing policy means to spend a campaign's budget: its own, the market's, or none."""
    traffic = getattr(spec, "traffic", None)
    if traffic is not None:
        return _daily(traffic)
    if isinstance(spec, settings.EvenPi) or not isinstance(config, SimulationConfig):
        return EVEN
    return _curve(config.markets[config.campaigns[campaign].market].traffic)


def _curve(traffic: settings.MarketTraffic) -> Curve:
    daily = traffic.daily
    return Curve(week=traffic.levels) if daily is None else Curve(daily.amplitude, daily.peak_hour)


def _users(served: _Served, place: int, spec: settings.UsersPolicy) -> Assignment:
    """A policy of the user's own, and its fallback where it is clipped; its name tells several of one class apart."""
    several = sum(other.policy == spec.policy for other in served.config.policies) > 1
    name = f"{spec.policy} of policies[{place}]" if several else spec.policy
    policy = users_policy(spec.policy, spec.options, clipped=spec.clip)
    if not spec.clip:
        return Assignment(policy, served.members, Source.POLICY, name)
    stand_in = _fallback(served) if spec.fallback is None else spec.fallback
    fallback = Assignment(_policy(stand_in, served), served.members, Source.POLICY, f"{stand_in.policy} for {name}")
    return Assignment(policy, served.members, Source.POLICY, name, clip=True, fallback=fallback)


def _fallback(served: _Served) -> settings.Fallback:
    """LP-KM; where no prices are told, pacing along the markets' one curve, or evenly where there is none."""
    config = served.config
    if can_tell_prices(config):
        return settings.LpKm(policy="lp_km")
    if isinstance(config, SimulationConfig):
        curves = {config.markets[market].traffic.daily for market in served.markets}
        curve = curves.pop() if len(curves) == 1 else None
        if curve is not None:
            return settings.TrafficAwarePacing(policy="traffic_aware_pi", traffic=curve)
    return settings.EvenPacing(policy="even_pi")


def _policy(spec: _BuiltIn, served: _Served) -> Policy:
    return next(make(spec, served) for kind, make in _MAKERS.items() if isinstance(spec, kind))


def _constant(_: settings.ConstantBids, __: _Served) -> Policy:
    return Constant()


def _even_pi(spec: settings.EvenPacing, served: _Served) -> Policy:
    return PacingPI(_gains(spec.gains), band=served.band(Knob.BID))


def _traffic_aware_pi(spec: settings.TrafficAwarePacing, served: _Served) -> Policy:
    return PacingPI(_gains(spec.gains), _daily(spec.traffic), served.band(Knob.BID))


def _pid_rule(spec: settings.PidRule, served: _Served) -> Policy:
    return PidRule(
        slack=spec.slack, curve=_expected(spec, served), band=served.band(Knob.BID), target_micros=_target(spec)
    )


def _mirror_descent(spec: settings.MirrorDescent, served: _Served) -> Policy:
    return MirrorDescent(
        resolving=spec.resolving,
        curve=_expected(spec, served),
        expected_opportunities=spec.expected_opportunities,
        band=served.band(Knob.BID),
        target_micros=_target(spec),
    )


def _daily_budgets(spec: settings.DailyBudgets, served: _Served) -> Policy:
    return DailyBudgets(spec.max_change, served.band(Knob.BUDGET))


def _daily(traffic: settings.Traffic) -> Curve:
    return Curve(traffic.amplitude, traffic.peak_hour)


def _expected(spec: Any, served: _Served) -> Curves:
    """The traffic that a policy's entry states, else that of each campaign's market."""
    return served.curves if spec.traffic is None else _daily(spec.traffic)


def _target(spec: Any) -> float:
    """The most that a unit of value may cost, micros; infinite where the entry states none."""
    return math.inf if spec.target_micros is None else float(spec.target_micros)


def _promoted(path: str | None) -> Model:
    """A learned policy's model, the shipped one unless it has a path, if the gate let it bid."""
    model = shipped() if path is None else Model.load(Path(path))
    standing = ((model.card or {}).get("verdict") or {}).get("standing", "unjudged")
    if standing != Standing.PROMOTED:
        raise BadInput(
            f"{path or SHIPPED.name} (={standing}) must be promoted by the gate before it bids in a run: train it "
            "further with 'bidtwin train', or compare it with 'bidtwin evaluate'"
        )
    return model


def _learned(spec: settings.LearnedPolicy, served: _Served) -> Policy:
    model = _promoted(spec.model)
    programme = replace(
        model.lp,
        curve=_expected(spec, served),
        expected_opportunities=spec.expected_opportunities,
        band=served.band(Knob.BID),
        first_price=served.first_price,
    )
    policy = Learned(model, programme)
    if spec.target_micros is None:
        return policy
    return policy.aiming_at(np.full(len(served.members), float(spec.target_micros)))


def _online_lp(spec: settings.LpKm, served: _Served) -> OnlineLP:
    return OnlineLP(
        curve=_expected(spec, served),
        half_life_hours=spec.half_life_hours,
        expected_opportunities=spec.expected_opportunities,
        band=served.band(Knob.BID),
        target_micros=_target(spec),
        first_price=served.first_price,
    )


def _ecpc_pid(spec: settings.EcpcPid, served: _Served) -> Policy:
    return EcpcPid(
        reference_micros=spec.reference_ecpc_micros,
        base_bid_micros=spec.base_bid_micros,
        kp=spec.gains.kp,
        ki=spec.gains.ki,
        kd=spec.gains.kd,
        clip=spec.clip,
        band=served.band(Knob.BID),
    )


def _gains(spec: settings.Gains) -> Gains:
    return Gains(spec.proportional, spec.integral)


_MAKERS: dict[type, Callable[[Any, _Served], Policy]] = {
    settings.ConstantBids: _constant,
    settings.EvenPacing: _even_pi,
    settings.TrafficAwarePacing: _traffic_aware_pi,
    settings.LpKm: _online_lp,
    settings.LearnedPolicy: _learned,
    settings.PidRule: _pid_rule,
    settings.MirrorDescent: _mirror_descent,
    settings.DailyBudgets: _daily_budgets,
    settings.EcpcPid: _ecpc_pid,
}


def _script(config: RunConfig, campaigns: CampaignSet) -> Scripted:
    wishes: dict[int, list[Wish]] = defaultdict(list)
    for proposal in config.script.proposals:
        tick = settings.boundary_tick(config, proposal.day, proposal.time)
        place = campaigns.index(proposal.campaign)
        if proposal.creatives is not None:
            ppm = shares(campaigns, place, proposal.creatives)
            wish = Wish(place, Knob.WEIGHTS, proposal.by, proposal.note, ppm)
        elif proposal.audiences is not None:
            values, places = audiences(campaigns, place, proposal.audiences)
            wish = Wish(place, Knob.MODIFIERS, proposal.by, proposal.note, values, audiences=places)
        else:
            assert proposal.knob is not None
            values = () if proposal.value_micros is None else (proposal.value_micros,)
            wish = Wish(place, Knob[proposal.knob.upper()], proposal.by, proposal.note, values, proposal.change)
        wishes[tick].append(wish)
    return Scripted({tick: tuple(each) for tick, each in wishes.items()})
