"""Who proposes in a run: its script, and its policies with what they need to know."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from agents.classic import Band, Constant, DailyBudgets, Gains, PacingPI
from agents.ecpc import EcpcPid
from agents.horizon import EVEN, Curve
from agents.lp import OnlineLP
from agents.scripted import Scripted, Wish
from engine.actions import Knob, Source
from engine.campaigns import CampaignSet
from engine.limits import Limits
from engine.optimiser import Assignment
from engine.policy import Policy
from engine.units import Int64
from experiments import config as settings
from experiments.config import RunConfig, SimulationConfig
from experiments.looking import can_tell_prices
from experiments.places import audiences, members, shares
from experiments.users import users_policy

_BuiltIn: TypeAlias = settings.Fallback | settings.DailyBudgets | settings.EcpcPid


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
        markets = self.config.markets
        return tuple(
            _curve(markets[self.campaigns.markets[place]].traffic) for place in self.campaigns.market[self.members]
        )


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
    match spec:
        case settings.ConstantBids():
            return Constant()
        case settings.EvenPacing():
            return PacingPI(_gains(spec.gains), band=served.band(Knob.BID))
        case settings.TrafficAwarePacing():
            return PacingPI(_gains(spec.gains), _daily(spec.traffic), served.band(Knob.BID))
        case settings.LpKm():
            return _online_lp(spec, served)
        case settings.DailyBudgets():
            return DailyBudgets(spec.max_change, served.band(Knob.BUDGET))
        case settings.EcpcPid():
            return _ecpc_pid(spec, served.band(Knob.BID))


def _daily(traffic: settings.Traffic) -> Curve:
    return Curve(traffic.amplitude, traffic.peak_hour)


def _online_lp(spec: settings.LpKm, served: _Served) -> OnlineLP:
    return OnlineLP(
        curve=served.curves if spec.traffic is None else _daily(spec.traffic),
        half_life_hours=spec.half_life_hours,
        expected_opportunities=spec.expected_opportunities,
        band=served.band(Knob.BID),
        target_micros=math.inf if spec.target_micros is None else float(spec.target_micros),
    )


def _ecpc_pid(spec: settings.EcpcPid, band: Band) -> EcpcPid:
    return EcpcPid(
        reference_micros=spec.reference_ecpc_micros,
        base_bid_micros=spec.base_bid_micros,
        kp=spec.gains.kp,
        ki=spec.gains.ki,
        kd=spec.gains.kd,
        clip=spec.clip,
        band=band,
    )


def _gains(spec: settings.Gains) -> Gains:
    return Gains(spec.proportional, spec.integral)


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
