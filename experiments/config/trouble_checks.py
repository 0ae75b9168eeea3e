"""What the troubles of a configuration say against the rest of it, their times aside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from engine.units import Bool
from experiments.config.models import SimulationConfig, limits_of, ticks_of
from experiments.config.problems import Path, Problem, unknown
from experiments.config.troubles import (
    BudgetCut,
    Disapproved,
    MisdatedEvents,
    OfCampaigns,
    OfEvents,
    OfMarkets,
    Trouble,
    TroubleKind,
)


def trouble_problems(config: SimulationConfig) -> Iterator[Problem]:
    """Troubles of no kind or of several, for nobody, without effect, or without end."""
    for place, trouble in enumerate(config.troubles):
        path = ("troubles", place)
        if len(trouble.kinds) == 1:
            for name, kind in trouble.kinds.items():
                yield from _kind(config, (*path, name), kind)
        else:
            yield _not_one(path, trouble)
    yield from _never_eligible(config)


def _not_one(path: Path, trouble: Trouble) -> Problem:
    if trouble.kinds:
        return Problem(path, f"must be of one kind, not of {' and '.join(trouble.kinds)}: split it")
    *others, last = trouble.known()
    return Problem(path, f"must be of one kind: add {', '.join(others)} or {last}")


def _kind(config: SimulationConfig, path: Path, kind: TroubleKind) -> Iterator[Problem]:
    match kind:
        case OfMarkets():
            for place, name in enumerate(() if kind.markets == "all" else kind.markets):
                yield from unknown((*path, "markets", place), name, "market", config.markets)
        case OfCampaigns():
            for place, name in enumerate(() if kind.campaigns == "all" else kind.campaigns):
                yield from unknown((*path, "campaigns", place), name, "campaign", config.campaigns)
        case OfEvents():
            yield from _of_events(config, path, kind)
        case Disapproved():
            yield from _disapproved(config, path, kind)
        case BudgetCut():
            yield from _budget_cut(config, path, kind)


def _of_events(config: SimulationConfig, path: Path, kind: OfEvents) -> Iterator[Problem]:
    if "events" not in config.record:
        yield Problem(path, "would have no effect, as no events are recorded: write 'record: [events]' or remove it")
    if isinstance(kind, MisdatedEvents) and not kind.hours:
        yield Problem((*path, "hours"), "must not be 0: write -2 for times two hours too early", kind.hours)


def _disapproved(config: SimulationConfig, path: Path, kind: Disapproved) -> Iterator[Problem]:
    yield from unknown((*path, "campaign"), kind.campaign, "campaign", config.campaigns)
    if kind.campaign in config.campaigns:
        for place, name in enumerate(kind.creatives):
            known = config.campaigns[kind.campaign].creatives
            yield from unknown((*path, "creatives", place), name, f"creative of {kind.campaign}", known)


def _budget_cut(config: SimulationConfig, path: Path, kind: BudgetCut) -> Iterator[Problem]:
    yield from unknown((*path, "campaign"), kind.campaign, "campaign", config.campaigns)
    if kind.campaign not in config.campaigns:
        return
    campaign, least = config.campaigns[kind.campaign], limits_of(config, kind.campaign).min_budget_micros
    place, cut = (*path, "budget_micros"), kind.budget_micros
    if cut >= campaign.budget_micros:
        yield Problem(place, f"must be < the campaign's budget_micros (={campaign.budget_micros}): lower it", cut)
    elif cut < least:
        yield Problem(place, f"must be >= min_budget_micros (={least}): raise it or lower the limit", cut)
    elif cut < campaign.bid_micros:
        yield Problem(place, f"must be >= the campaign's bid_micros (={campaign.bid_micros}): raise it", cut)


def _never_eligible(config: SimulationConfig) -> Iterator[Problem]:
    """Creatives that are disapproved of during the whole run, at the trouble that closes the last gap."""
    banned: dict[tuple[str, str], Bool] = defaultdict(lambda: np.zeros(config.grid.ticks, dtype=np.bool_))
    for place, trouble in enumerate(config.troubles):
        kind = trouble.disapproved
        if kind is None or trouble.hours is None:
            continue
        first, last = ticks_of(config, trouble.dated)
        for position, creative in enumerate(kind.creatives):
            ticks = banned[kind.campaign, creative]
            already = bool(ticks.all())
            ticks[max(first, 0) : max(last, 0)] = True
            if ticks.all() and not already:
                rule = "must be approved of at some time of the run: shorten its disapproval, or remove the creative"
                yield Problem(("troubles", place, "disapproved", "creatives", position), rule, creative)
