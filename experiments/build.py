"""The composition root: a configuration in, a plan out. What is below receives values and small factories."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.actions import Knob
from engine.campaigns import ACCOUNT, CampaignSet, Charging, ControlState, Period
from engine.errors import BadInput
from engine.limits import Limits, Window
from engine.messages import Command, CommandKind, Role
from engine.runtime.plan import DAY_MINUTES, LimitsFile, Plan
from engine.units import PPM, Int64, TickGrid, equal_shares, moment
from experiments import config as settings
from experiments.config import ReplayConfig, RunConfig, SimulationConfig
from experiments.looking import told_prices
from experiments.places import audiences, members, shares
from experiments.proposers import assignments
from experiments.worlds import world
from sim.logs.ipinyou_auctions import read_auctions
from sim.logs.ipinyou_bins import read_bins
from sim.logs.recorded import read_recorded
from sim.logs.rejects import Rejects
from sim.replay import AuctionReplayFactory, IntervalReplayFactory
from sim.twin import Twin
from sim.world import WorldFactory

_ABOUT_PROCESSES = ("shards", "campaigns_per_actor", "record", "limits_file")
"""Settings that change no decision, and therefore no digest; what a limits file says, the rounds that read it tell."""


def simulation(config: SimulationConfig) -> Plan:
    """The plan of a run in a simulated world."""
    campaigns = campaign_set(config)
    simulated = world(config, campaigns)
    return replace(_simulated(config, campaigns, simulated, simulated), joined=simulated.joined)


def _simulated(config: SimulationConfig, campaigns: CampaignSet, simulated: WorldFactory, source: Any) -> Plan:
    """A plan over a configured world, or over what was recorded of it; either way the world has a twin."""
    return replace(plan(config, campaigns, controls(config, campaigns), config.grid, source), trial=Twin(simulated))


def recorded(config: SimulationConfig, log: Path) -> tuple[Plan, Rejects]:
    """The plan of a simulation's campaigns over the opportunities that a run recorded."""
    campaigns = campaign_set(config)
    opportunities, rejects = read_recorded(log, campaigns)
    ticks = config.grid.ticks
    beyond = opportunities.tick >= ticks
    if beyond.any():
        rule = f"holds tick {opportunities.tick.max()}, and the configuration has {ticks} ticks"
        raise BadInput(f"log (={log}) {rule}: replay it with the configuration it was recorded under")
    replayed = AuctionReplayFactory(
        campaigns=campaigns,
        grid=config.grid,
        opportunities=opportunities,
        first_price=tuple(config.markets[name].auction == "first_price" for name in campaigns.markets),
    )
    return _simulated(config, campaigns, world(config, campaigns), replayed), rejects


def replay(config: ReplayConfig, log: Path) -> tuple[Plan, Rejects]:
    """The plan of a replay of somebody else's log."""
    match config.log:
        case settings.AuctionLog():
            return _auctions(config, config.log, log)
        case settings.BinLog():
            return _bins(config, config.log, log)


def _auctions(config: ReplayConfig, spec: settings.AuctionLog, path: Path) -> tuple[Plan, Rejects]:
    log, rejects = read_auctions(path, max_reject_share=spec.max_reject_share)
    campaigns = _replayed_set(config)
    grid = config.grid(log.ticks(spec.rows_per_tick))
    replayed = AuctionReplayFactory(
        campaigns=campaigns,
        grid=grid,
        opportunities=log.opportunities(campaigns, spec.campaign, grid, spec.rows_per_tick, value=spec.value),
        first_price=(config.auction == "first_price",) * len(campaigns.markets),
        ties_win=spec.win_rule == ">=",
        logged_bid_micros=spec.logged_bid_micros,
    )
    return plan(config, campaigns, _replayed_controls(config, campaigns, {}), grid, replayed), rejects


def _bins(config: ReplayConfig, spec: settings.BinLog, path: Path) -> tuple[Plan, Rejects]:
    known = tuple(config.campaigns)
    log, rejects = read_bins(path, zone=spec.zone, known=known, max_reject_share=spec.max_reject_share)
    campaigns = _replayed_set(config)
    first, last = log.span
    ticks = int(config.grid(1).tick_of(last)) + 1
    grid = config.grid(max(ticks, 1))
    if first < grid.start_us:
        began = moment(first, config.account.zone).replace(tzinfo=None)
        raise BadInput(
            f"time.start (={config.time.start}) must be <= the log's first row ({began}): start the run earlier"
        )
    controls = _replayed_controls(config, campaigns, log.daily_budget_micros)
    factual = IntervalReplayFactory(campaigns, grid, log.intervals(campaigns, grid))
    return plan(config, campaigns, controls, grid, factual), rejects


def _replayed_set(config: ReplayConfig) -> CampaignSet:
    """The campaigns of a log: each has a market and a creative of its own, since logs of this kind tell neither."""
    ids = sorted(config.campaigns)
    specs = [config.campaigns[name] for name in ids]
    n = len(ids)
    return CampaignSet(
        ids=tuple(ids),
        channels=tuple(spec.channel for spec in specs),
        markets=tuple(ids),
        market=np.arange(n),
        charging=np.full(n, Charging[config.charging.upper()], dtype=np.uint8),
        period=np.array([Period[spec.budget_period.upper()] for spec in specs], dtype=np.uint8),
        creative_start=np.arange(n + 1),
        creatives=("all",) * n,
        **bounds(config, ids),
    )


def _replayed_controls(config: ReplayConfig, campaigns: CampaignSet, logged: Mapping[str, int]) -> ControlState:
    specs = {name: config.campaigns[name] for name in campaigns.ids}
    budgets = [_budget(name, spec, logged) for name, spec in specs.items()]
    bids = np.array([spec.bid_micros for spec in specs.values()], dtype=np.int64)
    return ControlState.initial(campaigns, bids, np.array(budgets, dtype=np.int64))


def _budget(name: str, spec: settings.ReplayedCampaign, logged: Mapping[str, int]) -> int:
    if spec.budget_micros != "log":
        return spec.budget_micros
    if name not in logged:
        raise BadInput(f"campaigns.{name}.budget_micros (='log') must be in the log, and no row of it is: give micros")
    return logged[name]


def plan(config: RunConfig, campaigns: CampaignSet, controls: ControlState, grid: TickGrid, source: Any) -> Plan:
    """A plan over any source of the configuration's campaigns."""
    limits = _limits(config, campaigns, grid)
    proposers = assignments(config, campaigns, limits)
    return Plan(
        campaigns=campaigns,
        controls=controls,
        limits=limits if config.limits_file is None else _until_read(config, campaigns, grid),
        grid=grid,
        source=told_prices(source, proposers),
        assignments=proposers,
        decision_every=config.decision_every,
        commands=_commands(config, campaigns),
        people=_people(config),
        limits_file=_limits_file(config, campaigns, grid),
        header=_header(config, campaigns),
    )


def campaign_set(config: SimulationConfig) -> CampaignSet:
    """The campaigns of a configuration, sorted by id."""
    ids = sorted(config.campaigns)
    specs = [config.campaigns[name] for name in ids]
    markets = sorted(config.markets)
    sizes = [len(spec.creatives) for spec in specs]
    charging = [Charging[config.markets[spec.market].charging.upper()] for spec in specs]
    return CampaignSet(
        ids=tuple(ids),
        channels=tuple(spec.channel for spec in specs),
        markets=tuple(markets),
        market=np.array([markets.index(spec.market) for spec in specs], dtype=np.int64),
        charging=np.array(charging, dtype=np.uint8),
        period=np.array([Period[spec.budget_period.upper()] for spec in specs], dtype=np.uint8),
        creative_start=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        creatives=tuple(creative for spec in specs for creative in spec.creatives),
        audiences=tuple(tuple(config.markets[market].audiences) for market in markets),
        **bounds(config, ids),
    )


def bounds(config: RunConfig, ids: list[str]) -> dict[str, Any]:
    """Hard bounds of bids and budgets, as columns."""
    limits = [settings.limits_of(config, name) for name in ids]
    names = ("min_bid", "max_bid", "min_budget", "max_budget")
    return {name: np.array([getattr(each, f"{name}_micros") for each in limits], dtype=np.int64) for name in names}


def controls(config: SimulationConfig, campaigns: CampaignSet) -> ControlState:
    """The controls that a configuration begins with."""
    specs = [config.campaigns[name] for name in campaigns.ids]
    weights = [
        equal_shares(len(spec.creatives)) if spec.weights_ppm is None else list(spec.weights_ppm.values())
        for spec in specs
    ]
    bid = np.array([spec.bid_micros for spec in specs], dtype=np.int64)
    budget = np.array([spec.budget_micros for spec in specs], dtype=np.int64)
    modifiers = [_modifiers(config, name) for name in campaigns.ids]
    columns = (np.concatenate(each).astype(np.int64) for each in (weights, modifiers))
    return ControlState.initial(campaigns, bid, budget, *columns)


def _modifiers(config: SimulationConfig, name: str) -> list[int]:
    """What the bid is multiplied by for each audience of a campaign's market; for everybody by 1 where it has none."""
    known = settings.audiences_of(config, name)
    return list(settings.modifiers_ppm(config.campaigns[name].audiences, known).values()) or [PPM]


def _limits(config: RunConfig, campaigns: CampaignSet, grid: TickGrid) -> Limits:
    limits = replace(
        Limits.of(campaigns, config.account.budget_micros),
        day=DAY_MINUTES // grid.tick_minutes,
        delay_horizon=math.ceil(config.delay_horizon_hours * 60 / grid.tick_minutes),
        windows=tuple(_window(each, grid) for each in config.windows),
        modifier_bounds=_modifier_bounds(config, campaigns),
    )
    for mandate in config.mandates:
        until = None if mandate.until_day is None else int(np.flatnonzero(grid.day < mandate.until_day)[-1])
        knobs = tuple(Knob[knob.upper()] for knob in mandate.knobs)
        limits = limits.with_mandate(
            members(config, campaigns, mandate.campaigns), knobs, mandate.band, until, _cap(mandate)
        )
    return limits


def _modifier_bounds(config: RunConfig, campaigns: CampaignSet) -> Int64:
    """The least and the most of every campaign's modifiers, ppm; int64[n, 2]."""
    limits = [settings.limits_of(config, name) for name in campaigns.ids]
    return np.array([(round(each.min_modifier * PPM), round(each.max_modifier * PPM)) for each in limits])


def _window(spec: settings.Window, grid: TickGrid) -> Window:
    ticks = max(spec.hours * 60 // grid.tick_minutes, 1)
    return Window(Knob[spec.knob.upper()], ticks, round(spec.max_rise * PPM))


def _until_read(config: RunConfig, campaigns: CampaignSet, grid: TickGrid) -> Limits:
    """The configuration's hard bounds, no mandate, and nothing automatic: what holds until a limits file was read."""
    return replace(_limits(config.model_copy(update={"mandates": ()}), campaigns, grid), automatic=False)


def _limits_file(config: RunConfig, campaigns: CampaignSet, grid: TickGrid) -> LimitsFile | None:
    if config.limits_file is None:
        return None
    path = Path(config.limits_file).absolute()
    return LimitsFile(path, _LimitsReader(path.name, config, campaigns, grid))


@dataclass(frozen=True)
class _LimitsReader:
    """Makes limits of what a limits file says in place of the configuration's own."""

    name: str
    config: RunConfig
    campaigns: CampaignSet
    grid: TickGrid

    def __call__(self, text: str) -> Limits:
        config = settings.with_limits(self.name, text, self.config)
        columns: dict[str, Any] = {**bounds(config, list(self.campaigns.ids))}
        return _limits(config, replace(self.campaigns, **columns), self.grid)


def _cap(mandate: settings.Mandate) -> int | None:
    return None if mandate.exposure_cap is None else round(mandate.exposure_cap * PPM)


def _commands(config: RunConfig, campaigns: CampaignSet) -> dict[int, tuple[Command, ...]]:
    commands: dict[int, list[Command]] = defaultdict(list)
    for place, spec in enumerate(config.script.commands):
        campaign, knob = spec.target
        position = ACCOUNT if campaign is None else campaigns.index(campaign)
        values, audiences = _edited(campaigns, position, spec.edit) if spec.edit else ((), ())
        about = position, Knob[knob.upper()]
        command = Command(f"script-{place}", spec.kind, spec.by, *about, values, audiences=audiences)
        commands[settings.boundary_tick(config, spec.day, spec.time)].append(command)
    for place, trouble, cut in _budget_cuts(config):
        position = campaigns.index(cut.campaign)
        edit = Command(f"trouble-{place}", CommandKind.EDIT, cut.by, position, Knob.BUDGET, (cut.budget_micros,))
        commands[settings.boundary_tick(config, trouble.day, trouble.time)].append(edit)
    return {tick: tuple(each) for tick, each in commands.items()}


def _budget_cuts(config: RunConfig) -> Iterator[tuple[int, settings.Trouble, settings.BudgetCut]]:
    for place, trouble in enumerate(config.troubles if isinstance(config, SimulationConfig) else ()):
        if trouble.budget_cut is not None:
            yield place, trouble, trouble.budget_cut


def _people(config: RunConfig) -> dict[str, frozenset[Role]]:
    """Who may command: those the configuration gives roles, and in any role others whom its own script lets act."""
    names = [*(spec.by for spec in config.script.commands), *(cut.by for _, _, cut in _budget_cuts(config))]
    scripted = dict.fromkeys(names, frozenset(Role))
    return scripted | {name: frozenset(Role(role) for role in roles) for name, roles in config.people.items()}


def _edited(campaigns: CampaignSet, position: int, edit: settings.Edit) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """An edit's values, and of modifiers the places of their audiences."""
    if edit.audiences is not None:
        return audiences(campaigns, position, edit.audiences)
    if edit.creatives is not None:
        return shares(campaigns, position, edit.creatives), ()
    assert edit.value_micros is not None
    return (edit.value_micros,), ()


def _header(config: RunConfig, campaigns: CampaignSet) -> dict[str, Any]:
    echo = config.model_dump(mode="json", exclude=set(_ABOUT_PROCESSES))
    for policy in echo["policies"]:
        policy.pop("model", None)  # where it lies decides nothing; its fingerprint tells what it is
    names = {
        "campaigns": campaigns.ids,
        "creatives": campaigns.creatives,
        "audiences": campaigns.audience_names,
        "markets": campaigns.markets,
    }
    return {"config": echo} | {name: list(known) for name, known in names.items()}
