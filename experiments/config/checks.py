"""What one part of a configuration says against another: names, limits, shares, and times on the run's calendar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import time, timedelta
from itertools import product

from engine.units import PPM, moment
from experiments.config.conversions import conversion_problems
from experiments.config.fidelity import fidelity_problems
from experiments.config.market_checks import market_problems
from experiments.config.models import (
    AuctionLog,
    ReplayConfig,
    RunConfig,
    SimulationConfig,
    audiences_of,
    limits_of,
    local_us,
    members,
    opening_tick,
)
from experiments.config.problems import Path, Problem, unknown
from experiments.config.steering import (
    CommandSpec,
    ConstantBids,
    DailyBudgets,
    Edit,
    PolicySpec,
    Proposal,
    UsersPolicy,
)
from experiments.config.trouble_checks import trouble_problems
from experiments.config.troubles import Trouble
from experiments.config.values import DAY_MINUTES, nearest, percent_text, ppm, time_text
from experiments.config.world import (
    Dated,
    HardLimits,
    LimitOverrides,
    Market,
    MarketTraffic,
    Regimes,
    SimulatedCampaign,
    shares_sum,
)


def problems(config: RunConfig) -> Iterator[Problem]:
    """Everything in a well-formed configuration that contradicts itself."""
    off_grid = list(_start(config))
    if off_grid:  # without a calendar no time can be checked
        yield from off_grid
        return
    yield from bounds(config, config.limits)
    for campaign in config.campaigns:
        yield from _campaign(config, campaign)
    yield from _account_budget(config)
    yield from _fallbacks(config)
    yield from _chosen(config, "policies")
    yield from _one_policy_per_knob(config)
    yield from mandates(config)
    yield from _script(config)
    yield from _score(config)
    if isinstance(config, SimulationConfig):
        yield from _simulation(config)
    else:
        yield from _log(config)


def _start(config: RunConfig) -> Iterator[Problem]:
    start, step = config.time.start, config.time.tick_minutes
    if (start.hour * 60 + start.minute) % step:
        yield Problem(("time", "start"), f"must lie on a tick of {step} minutes: round it down", start)
    elif _skipped(config, 1, start.time()):
        yield Problem(("time", "start"), f"does not exist in {config.account.zone}: choose an hour later", start)


def bounds(config: RunConfig, stated_for_all: HardLimits | LimitOverrides) -> Iterator[Problem]:
    """Minima above maxima, each named where the file states it."""
    places: list[tuple[Path, HardLimits | LimitOverrides, HardLimits]] = [(("limits",), stated_for_all, config.limits)]
    for name, campaign in config.campaigns.items():
        places.append((("campaigns", name, "limits"), campaign.limits, limits_of(config, name)))
    for path, stated, limits in places:
        for knob in ("bid_micros", "budget_micros", "modifier"):
            low, high = (getattr(limits, f"{side}_{knob}") for side in ("min", "max"))
            said = [side for side in ("min", "max") if _says(stated, f"{side}_{knob}")]
            if low <= high or not said:
                continue
            side, spelt = said[0], percent_text if knob == "modifier" else int
            rule = {
                "min": f"<= max_{knob} (={spelt(high)}): lower it",
                "max": f">= min_{knob} (={spelt(low)}): raise it",
            }
            yield Problem((*path, f"{side}_{knob}"), f"must be {rule[side]}", spelt(low if side == "min" else high))


def _says(stated: HardLimits | LimitOverrides, name: str) -> bool:
    """Whether a file says so itself, rather than what holds where it says nothing."""
    return name in stated.model_fields_set and getattr(stated, name) is not None


def _campaign(config: RunConfig, name: str) -> Iterator[Problem]:
    campaign, limits, path = config.campaigns[name], limits_of(config, name), ("campaigns", name)
    bounds = (
        ("bid_micros", campaign.bid_micros, limits.min_bid_micros, limits.max_bid_micros),
        ("budget_micros", campaign.budget_micros, limits.min_budget_micros, limits.max_budget_micros),
    )
    for key, value, low, high in bounds:
        if value == "log":
            continue
        if value < low:
            yield Problem((*path, key), f"must be >= min_{key} (={low}): raise it or lower the limit", value)
        elif value > high:
            yield Problem((*path, key), f"must be <= max_{key} (={high}): lower it or raise the limit", value)
    if campaign.budget_micros != "log" and campaign.bid_micros > campaign.budget_micros:
        rule = f"must be <= budget_micros (={campaign.budget_micros}): lower the bid or raise the budget"
        yield Problem((*path, "bid_micros"), rule, campaign.bid_micros)
    if isinstance(campaign, SimulatedCampaign) and campaign.weights is not None:
        yield from _shares((*path, "weights"), campaign.weights, tuple(campaign.creatives))
    if isinstance(campaign, SimulatedCampaign) and campaign.audiences:
        yield from _modifiers(config, (*path, "audiences"), name, campaign)


def _modifiers(config: RunConfig, path: Path, name: str, campaign: SimulatedCampaign) -> Iterator[Problem]:
    """The modifiers that a campaign begins with: of audiences of its market, within the bounds, and not all 0."""
    stray = list(_audiences(config, path, name, campaign.audiences))
    if stray:
        yield from stray
        return
    limits, known = limits_of(config, name), audiences_of(config, name)
    if not any(campaign.audiences.get(audience, 1) for audience in known):
        yield Problem(path, "must leave an audience to bid for: raise one above 0%")
    for audience, multiple in campaign.audiences.items():
        if multiple and not limits.min_modifier <= multiple <= limits.max_modifier:
            low, high = percent_text(limits.min_modifier), percent_text(limits.max_modifier)
            rule = f"must be 0% or from min_modifier (={low}) to max_modifier (={high}): change it or the limit"
            yield Problem((*path, audience), rule, percent_text(multiple))
        elif campaign.bid_micros * ppm(multiple) > limits.max_bid_micros * PPM:
            rule = f"times bid_micros (={campaign.bid_micros}) must be <= max_bid_micros (={limits.max_bid_micros})"
            yield Problem((*path, audience), f"{rule}: lower one of the two", percent_text(multiple))


def _audiences(config: RunConfig, path: Path, name: str, multiples: Mapping[str, float]) -> Iterator[Problem]:
    """Audiences that a campaign's market does not tell apart."""
    campaign = config.campaigns.get(name)
    if campaign is not None and not isinstance(campaign, SimulatedCampaign):
        yield Problem(path, "must be left out: a replayed campaign has no audiences")
    elif campaign is not None and campaign.market in _markets(config):
        known = audiences_of(config, name)
        if not known:
            yield Problem(path, f"must be left out: the market {campaign.market} tells no audiences apart")
            return
        for audience in multiples:
            if audience not in known:
                rule = f"is not an audience of the market {campaign.market}: {nearest(audience, list(known))}"
                yield Problem((*path, audience), rule)


def _markets(config: RunConfig) -> Mapping[str, Market]:
    return config.markets if isinstance(config, SimulationConfig) else {}


def _account_budget(config: RunConfig) -> Iterator[Problem]:
    cap = config.account.budget_micros
    daily = (campaign for campaign in config.campaigns.values() if campaign.budget_period == "day")
    total = sum(campaign.budget_micros for campaign in daily if campaign.budget_micros != "log")
    if cap is not None and total > cap:
        rule = f"must be >= the sum of the campaigns' daily budgets (={total}): raise it or lower them"
        yield Problem(("account", "budget_micros"), rule, cap)


def _chosen(config: RunConfig, part: str) -> Iterator[Problem]:
    for position, entry in enumerate(getattr(config, part)):
        if entry.campaigns != "all":
            for place, name in enumerate(entry.campaigns):
                yield from _known_campaign(config, (part, position, "campaigns", place), name)


def mandates(config: RunConfig) -> Iterator[Problem]:
    """Mandates for nobody, for a knob twice, or beyond the run."""
    yield from _chosen(config, "mandates")
    yield from _one_mandate_per_knob(config)
    for position, mandate in enumerate(config.mandates):
        if len(set(mandate.knobs)) < len(mandate.knobs):
            yield Problem(
                ("mandates", position, "knobs"), "must name a knob once: remove the repetition", mandate.knobs
            )
        last = _last_day(config) if isinstance(config, SimulationConfig) else mandate.until_day
        if mandate.until_day is not None and last is not None and mandate.until_day > last:
            rule = f"must be a day of the run: write 1 to {last}, or leave it out"
            yield Problem(("mandates", position, "until_day"), rule, mandate.until_day)


def _known_campaign(config: RunConfig, path: Path, name: str) -> Iterator[Problem]:
    yield from unknown(path, name, "campaign", config.campaigns)


def _fallbacks(config: RunConfig) -> Iterator[Problem]:
    for position, policy in enumerate(config.policies):
        if isinstance(policy, UsersPolicy) and policy.fallback is not None and not policy.clip:
            rule = "needs 'clip: true', since no other policy is ever suspended: add it or remove the fallback"
            yield Problem(("policies", position, "fallback"), rule)


def _one_policy_per_knob(config: RunConfig) -> Iterator[Problem]:
    holders: dict[tuple[str, str], int] = {}
    for position, policy in enumerate(config.policies):
        knob = _knob(policy)
        if knob is None:
            continue
        for name in members(config, policy.campaigns):
            holder = holders.setdefault((name, knob), position)
            if holder != position:
                rule = f"gives the {knob} of {name} a second policy after policies[{holder}]: name other campaigns"
                yield Problem(("policies", position, "campaigns"), rule, policy.campaigns)
                break


def _knob(policy: PolicySpec) -> str | None:
    """What a policy moves; of one of the user's own, what its fallback would move, since only that is known."""
    if isinstance(policy, UsersPolicy):
        return "bid" if policy.clip and not isinstance(policy.fallback, ConstantBids) else None
    return "budget" if isinstance(policy, DailyBudgets) else "bid"


def _one_mandate_per_knob(config: RunConfig) -> Iterator[Problem]:
    holders: dict[tuple[str, str], int] = {}
    for position, mandate in enumerate(config.mandates):
        for name, knob in product(members(config, mandate.campaigns), mandate.knobs):
            holder = holders.setdefault((name, knob), position)
            if holder != position:
                rule = f"gives the {knob} of {name} a second mandate after mandates[{holder}]: name other campaigns"
                yield Problem(("mandates", position, "campaigns"), rule, mandate.campaigns)
                break


def _shares(path: Path, shares: Mapping[str, float], creatives: tuple[str, ...]) -> Iterator[Problem]:
    unknown = [creative for creative in shares if creative not in creatives]
    missing = [creative for creative in creatives if creative not in shares]
    for creative in unknown:
        rule = f"is not a creative of this campaign: {nearest(creative, list(creatives))}"
        yield Problem((*path, creative), rule, shares[creative])
    if unknown:
        return
    if missing:
        yield Problem(path, f"must name every creative: add {', '.join(missing)}")
    elif (total := shares_sum(shares)) != PPM:
        yield Problem(path, f"must sum to 100%, not to {total / 10_000:.10g}%: change one of them")


# --- the script ---


def _script(config: RunConfig) -> Iterator[Problem]:
    for position, proposal in enumerate(config.script.proposals):
        path: Path = ("script", "proposals", position)
        yield from _decision_time(config, path, proposal.day, proposal.time)
        yield from _known_campaign(config, (*path, "campaign"), proposal.campaign)
        yield from _proposal(config, path, proposal)
    for position, command in enumerate(config.script.commands):
        path = ("script", "commands", position)
        yield from _decision_time(config, path, command.day, command.time)
        yield from _command(config, path, command)


def _proposal(config: RunConfig, path: Path, proposal: Proposal) -> Iterator[Problem]:
    stated = sum(value is not None for value in (proposal.change, proposal.value_micros))
    vectors = {name: getattr(proposal, name) for name in ("creatives", "audiences")}
    held = [name for name, values in vectors.items() if values is not None]
    if held:
        beside = held[1:] or (["a knob"] if proposal.knob is not None or stated else [])
        if beside:
            yield Problem(path, f"must hold {held[0]} or {beside[0]}, not both: split it into two")
        if proposal.creatives is not None:
            yield from _creatives(config, (*path, "creatives"), proposal.campaign, proposal.creatives)
        if proposal.audiences is not None:
            yield from _audiences(config, (*path, "audiences"), proposal.campaign, proposal.audiences)
    elif proposal.knob is None:
        yield Problem(path, "must say what to change: add a knob (bid or budget), creatives or audiences")
    elif stated != 1:
        yield Problem(path, "must hold exactly one of change and value_micros: keep one")


def _command(config: RunConfig, path: Path, command: CommandSpec) -> Iterator[Problem]:
    if len(command.orders) != 1:
        kinds = ", ".join(command.orders) or "none"
        known = "approve, deny, rollback, edit, pause, resume, freeze, unfreeze and close_breaker"
        rule = f"must hold exactly one of {known}, not {kinds}: keep one"
        yield Problem(path, rule)
        return
    campaign, knob = command.target
    order: Path = (*path, command.kind.value)
    if campaign is None:
        return
    yield from _known_campaign(config, (*order, "campaign"), campaign)
    if command.approve is not None and config.approver == "none":
        yield Problem(order, "needs an approver: write 'approver: scripted' or remove the approval")
    spec = config.campaigns.get(campaign)
    if knob in _PARTS and isinstance(config, ReplayConfig):
        rule = f"must be bid, budget or paused: a replayed campaign has no {_PARTS[knob]}"
        yield Problem((*order, "knob"), rule, knob)
    elif knob == "modifiers" and isinstance(spec, SimulatedCampaign) and not audiences_of(config, campaign):
        rule = f"must be another one: the market {spec.market} tells no audiences apart"
        yield Problem((*order, "knob"), rule, knob)
    elif command.edit is not None:
        yield from _edit(config, order, command.edit)


_PARTS = {"weights": "creatives", "modifiers": "audiences"}
"""Knobs that have several values, and what each of these is of."""


def _edit(config: RunConfig, order: Path, edit: Edit) -> Iterator[Problem]:
    wanted = _PARTS.get(edit.knob, "value_micros")
    held = [name for name in ("value_micros", *_PARTS.values()) if getattr(edit, name) is not None]
    if held != [wanted]:
        other = next((name for name in held if name != wanted), "value_micros" if edit.knob in _PARTS else "creatives")
        yield Problem(order, f"of {edit.knob} must hold {wanted}, not {other}: add what is missing, remove the other")
    elif edit.creatives is not None:
        yield from _creatives(config, (*order, "creatives"), edit.campaign, edit.creatives)
    elif edit.audiences is not None:
        yield from _audiences(config, (*order, "audiences"), edit.campaign, edit.audiences)


def _creatives(config: RunConfig, path: Path, name: str, shares: Mapping[str, float]) -> Iterator[Problem]:
    campaign = config.campaigns.get(name)
    if isinstance(campaign, SimulatedCampaign):
        yield from _shares(path, shares, tuple(campaign.creatives))
    elif campaign is not None:
        yield Problem(path, "must be left out: a replayed campaign has no creatives")


# --- times ---


def _decision_time(config: RunConfig, path: Path, day: int, at: time) -> Iterator[Problem]:
    """A decision falls at the close of every `decision_every`-th tick; the last tick of a run closes it."""
    step = config.time.tick_minutes * config.decision_every
    yield from _inside(config, path, day, at, first=1)
    yield from _on_grid(config, path, day, at, config.decision_every, f"a decision, every {step} minutes")


def _inside(config: RunConfig, path: Path, day: int, at: time, first: int) -> Iterator[Problem]:
    tick = opening_tick(config, day, at)
    last = config.grid.ticks - 1 if isinstance(config, SimulationConfig) else tick
    if tick < first:
        rule = f"must be after the run's start on day 1 at {time_text(config.time.start.time())}: choose a later time"
        yield Problem((*path, "time"), rule, at)
    elif tick > last:
        closing = (
            moment(config.grid.opens(last + 1), config.account.zone) if isinstance(config, SimulationConfig) else at
        )
        yield Problem(
            (*path, "day"), f"must be before the run's end, {closing:%Y-%m-%d %H:%M}: choose an earlier day", day
        )


def _on_grid(config: RunConfig, path: Path, day: int, at: time, every: int, what: str) -> Iterator[Problem]:
    minutes = config.time.tick_minutes
    tick = opening_tick(config, day, at)
    if _skipped(config, day, at):
        yield Problem(
            (*path, "time"), f"does not exist on day {day} in {config.account.zone}: choose an hour later", at
        )
    elif (at.hour * 60 + at.minute) % minutes or tick % every:
        grid_tick = tick - tick % every
        opened = moment(_opens(config, grid_tick), config.account.zone)
        yield Problem((*path, "time"), f"must be the time of {what}: write {opened:%H:%M}", at)


def _last_day(config: SimulationConfig) -> int:
    closes = moment(config.grid.opens(config.grid.ticks) - 1, config.account.zone)
    return (closes.date() - config.time.start.date()).days + 1


def _opens(config: RunConfig, tick: int) -> int:
    grid = config.grid if isinstance(config, SimulationConfig) else config.grid(1)
    return grid.opens(tick)


def _skipped(config: RunConfig, day: int, at: time) -> bool:
    """Whether the clocks jump over this local time."""
    local = config.time.start.replace(hour=at.hour, minute=at.minute) + timedelta(days=day - 1)
    grid = config.grid if isinstance(config, SimulationConfig) else config.grid(1)
    shown = moment(local_us(local, config.account.zone), grid.zone)
    return shown.replace(tzinfo=None) != local


# --- the rest ---


def _score(config: RunConfig) -> Iterator[Problem]:
    score = config.score
    total = shares_sum({"ctr": score.ctr_weight, "cvr": score.cvr_weight, "roas": score.roas_weight})
    if total != PPM:
        yield Problem(
            ("score",), f"must have weights that sum to 100%, not to {total / 10_000:.10g}%: change one of them"
        )


def _simulation(config: SimulationConfig) -> Iterator[Problem]:
    yield from _segments(config)
    yield from fidelity_problems(config)
    for name, campaign in config.campaigns.items():
        yield from unknown(("campaigns", name, "market"), campaign.market, "market", config.markets)
        run_hours = config.grid.ticks * config.time.tick_minutes / 60
        yield from conversion_problems(("campaigns", name, "conversions"), campaign.conversions, run_hours)
    for name, market in config.markets.items():
        yield from _traffic(("markets", name, "traffic"), market.traffic)
        yield from _regimes(config, ("markets", name, "price", "regimes"), market.price.regimes)
        for position, shock in enumerate(market.shocks):
            yield from _dated(config, ("markets", name, "shocks", position), shock)
    for position, trouble in enumerate(config.troubles):
        yield from _trouble_time(config, ("troubles", position), trouble)
    yield from trouble_problems(config)
    yield from market_problems(config)


def _traffic(path: Path, traffic: MarketTraffic) -> Iterator[Problem]:
    daily = {"amplitude": traffic.amplitude, "peak_hour": traffic.peak_hour}
    given = [name for name, value in daily.items() if value is not None]
    if traffic.week is not None and given:
        rule = "must be left out beside week, which has every hour's level: keep one of the two"
        yield Problem((*path, given[0]), rule, daily[given[0]])
    elif traffic.week is None and not given:
        yield Problem(path, "must have a curve: add amplitude and peak_hour, or week")
    elif traffic.week is None:
        yield from (Problem((*path, name), "is missing: add it") for name in daily if name not in given)
    if traffic.region is not None and not isinstance(traffic.week, str):
        rule = "must be left out where week is no table: remove it, or give week the path of one"
        yield Problem((*path, "region"), rule, traffic.region)


def _regimes(config: SimulationConfig, path: Path, regimes: Regimes | None) -> Iterator[Problem]:
    minutes = config.time.tick_minutes
    if regimes is not None and regimes.every_days * DAY_MINUTES < minutes:
        rule = f"must be a tick of {minutes} minutes at least: write {minutes / DAY_MINUTES:.4g} or more"
        yield Problem((*path, "every_days"), rule, regimes.every_days)


def _dated(config: SimulationConfig, path: Path, dated: Dated) -> Iterator[Problem]:
    minutes = config.time.tick_minutes
    yield from _inside(config, path, dated.day, dated.time, first=0)
    yield from _on_grid(config, path, dated.day, dated.time, 1, f"a tick, every {minutes} minutes")
    ticks = dated.hours * 60 / minutes
    if ticks != round(ticks):
        whole = max(round(ticks), 1) * minutes / 60
        rule = f"must be a whole number of ticks of {minutes} minutes: write {whole:g}"
        yield Problem((*path, "hours"), rule, dated.hours)


def _trouble_time(config: SimulationConfig, path: Path, trouble: Trouble) -> Iterator[Problem]:
    """A budget cut falls on a decision, and stays; everything else lasts for a while."""
    if trouble.budget_cut is None and trouble.hours is None:
        yield Problem((*path, "hours"), "is missing: add it")
    elif trouble.budget_cut is None:
        yield from _dated(config, path, trouble.dated)
    else:
        if trouble.hours is not None:
            rule = "must be left out of a budget cut, which stays until somebody edits the budget again: remove it"
            yield Problem((*path, "hours"), rule, trouble.hours)
        yield from _decision_time(config, path, trouble.day, trouble.time)


def _segments(config: SimulationConfig) -> Iterator[Problem]:
    """Audiences that markets tell apart: at least two, all of them declared, each with a share, of 100 % together."""
    for name, market in config.markets.items():
        path: Path = ("markets", name, "audiences")
        strays = [audience for audience in market.audiences if audience not in config.audiences]
        for audience in strays:
            rule = f"is not an audience of this file: {nearest(audience, list(config.audiences))}"
            yield Problem((*path, audience), rule)
        for audience, segment in market.audiences.items():
            if not ppm(segment.share):
                rule = "is a segment without traffic: give it a share or remove it"
                yield Problem((*path, audience, "share"), rule, segment.share)
        total = shares_sum({audience: segment.share for audience, segment in market.audiences.items()})
        if len(market.audiences) == 1:
            yield Problem(path, "must be two or more, or none: add one or remove it")
        elif market.audiences and total != PPM:
            rule = f"must have shares that sum to 100%, not to {total / 10_000:.10g}%: change one of them"
            yield Problem(path, rule)
    met = {audience for market in config.markets.values() for audience in market.audiences}
    for audience in config.audiences:
        if audience not in met:
            yield Problem(("audiences", audience), "is in no market: name it in one or remove it")


def _log(config: ReplayConfig) -> Iterator[Problem]:
    log = config.log
    if not isinstance(log, AuctionLog):
        return
    yield from _known_campaign(config, ("log", "campaign"), log.campaign)
    for name, campaign in config.campaigns.items():
        if campaign.budget_micros == "log":
            rule = "must be an amount, as a log of auctions states no budgets: write one in micros"
            yield Problem(("campaigns", name, "budget_micros"), rule, "log")
        if name != log.campaign and log.campaign in config.campaigns:
            yield Problem(("campaigns", name), f"is not in the log, which holds {log.campaign} alone: remove it")
