"""The battery that every policy passes: ours in the tests, users' own before their runs."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.actions import Flaw, Knob, Proposals
from engine.campaigns import CampaignSet, ControlState
from engine.errors import BadInput
from engine.events import (
    BIDS,
    CLICKS,
    CONVERSIONS,
    CONVERTING_CLICKS,
    COUNTS,
    IMPRESSIONS,
    OPPORTUNITIES,
    REVENUE,
    SPEND,
)
from engine.policy import Policy, View, looks_at_prices
from engine.prices import BINS_AN_OCTAVE, WINDOW, Prices, lowest_bins
from engine.units import Int64, TickGrid

_GRID = TickGrid(datetime(2026, 3, 28), 60, 3 * 24 - 1, "Europe/Berlin")


def check_policy(policy: Policy, *, clipped: bool = False) -> None:
    """Run a policy over three days of made-up views, for 1 and for 5 campaigns, and hold it to the protocol.

    The views hold quiet ticks, exhausted budgets and paused campaigns, and prices for a policy that looks at them. A
    policy must be deterministic, must not use
    NumPy's global generator, must not change the view or the memory it was given, must give a picklable memory, and may
    name its own campaigns, existing knobs, whole non-negative values and the versions it was shown.

    Parameters
    ----------
    clipped:
        Whether it is to be clipped (`engine.shield`): values that are no amounts are then the shield's to deal with.

    Raises
    ------
    BadInput
        For the first rule that does not hold.

    Example
    -------
    >>> from agents.classic import PacingPI
    >>> check_policy(PacingPI())
    """
    for n in (1, 5):
        campaigns = _campaigns(n)
        first, second = (list(_rehearse(policy, campaigns, disturbance, clipped=clipped)) for disturbance in (1, 2))
        for tick, (one, other) in enumerate(zip(first, second, strict=True)):
            if not _same(one, other):
                _refuse(
                    policy,
                    f"proposes something else when asked again at tick {tick}",
                    "use no hidden state or generator",
                )


def _rehearse(policy: Policy, campaigns: CampaignSet, disturbance: int, *, clipped: bool) -> Iterator[Proposals]:
    """Ask a copy of the policy at every view, checking each answer; the global generator is disturbed in between."""
    policy = pickle.loads(pickle.dumps(policy))  # noqa: S301 - our own bytes
    memory = policy.start(campaigns, _GRID)
    for view in _views(campaigns, told=looks_at_prices(policy)):
        np.random.seed(disturbance * 1000 + view.tick)  # noqa: NPY002 - to catch those who use it
        before = _pickled(policy, memory)
        rows, after = _asked(policy, view, memory)
        if pickle.dumps(memory) != before:
            _refuse(policy, f"changed the memory it was given at tick {view.tick}", "return a new one")
        _check_rows(policy, view, rows, len(campaigns), clipped=clipped)
        memory = pickle.loads(_pickled(policy, after))  # noqa: S301 - our own bytes
        yield rows


def _asked(policy: Policy, view: View, memory: Any) -> tuple[Proposals, Any]:
    try:
        rows, after = policy.propose(view, memory)
    except ValueError as error:
        if "read-only" in str(error):
            _refuse(policy, f"writes into the view at tick {view.tick}", "copy what it changes")
        raise
    if not isinstance(rows, Proposals):
        _refuse(policy, f"returned {type(rows).__name__} at tick {view.tick}", "return (Proposals, memory)")
    return rows, after


def _check_rows(policy: Policy, view: View, rows: Proposals, n: int, *, clipped: bool) -> None:
    when = f"at tick {view.tick}"
    if len(rows) and (rows.campaign.min() < 0 or rows.campaign.max() >= n):
        _refuse(policy, f"named a campaign it does not have {when}", f"use positions 0 … {n - 1}")
    if len(rows) and rows.knob.max() >= len(Knob):
        _refuse(policy, f"named an unknown knob {when}", "use engine.actions.Knob")
    if (rows.flaw != Flaw.NONE).any() and not clipped:
        flaw = Flaw(int(rows.flaw.max())).name.lower()
        _refuse(policy, f"proposed a value that is {flaw} {when}", "propose whole, non-negative micros or ppm")
    if (rows.base_version != view.controls.version[rows.campaign, rows.knob]).any():
        _refuse(policy, f"named a version it was not shown {when}", "take it from view.controls.version")


def _refuse(policy: Policy, fault: str, remedy: str) -> None:
    raise BadInput(f"policy {type(policy).__name__} {fault}: {remedy}")


def _pickled(policy: Policy, memory: Any) -> bytes:
    try:
        return pickle.dumps(memory)
    except (pickle.PicklingError, TypeError, AttributeError):
        _refuse(policy, "has a memory that cannot be pickled", "keep values and arrays in it")
        raise


def _same(one: Proposals, other: Proposals) -> bool:
    mine, theirs = one.columns(), other.columns()
    return one.notes == other.notes and all(np.array_equal(mine[name], theirs[name]) for name in mine)


def _campaigns(n: int) -> CampaignSet:
    sizes = 1 + np.arange(n) % 3
    whole = np.ones(n, dtype=np.int64)
    return CampaignSet(
        ids=tuple(f"campaign-{place}" for place in range(n)),
        channels=("search",) * n,
        markets=("market",),
        market=0 * whole,
        charging=np.zeros(n, dtype=np.uint8),
        period=(np.arange(n) % 2).astype(np.uint8),
        creative_start=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        creatives=tuple(f"creative-{cell}" for cell in range(int(sizes.sum()))),
        min_bid=100 * whole,
        max_bid=10**6 * whole,
        min_budget=10**5 * whole,
        max_budget=10**9 * whole,
    )


def _views(campaigns: CampaignSet, *, told: bool) -> Iterator[View]:
    """A view per tick under constant controls, with prices if they are told; every array read-only."""
    n, generator, of_prices = len(campaigns), np.random.default_rng(20260302), np.random.default_rng(20260303)
    controls = ControlState.initial(campaigns, np.full(n, 10_000), np.full(n, 50_000_000))
    period, lifetime = (np.zeros((n, len(COUNTS)), dtype=np.int64) for _ in range(2))
    for tick in range(_GRID.ticks - 1):
        if tick and _GRID.closes_day[tick - 1]:
            period = np.zeros_like(period)
        recent = _counts(generator, n, quiet=tick % 11 == 0)
        recent[:, SPEND] = np.minimum(recent[:, SPEND], controls.budget - period[:, SPEND])
        period, lifetime = period + recent, lifetime + recent
        paused = np.full(n, tick % 7 == 3)
        prices = _prices(of_prices, controls.bid, recent[:, IMPRESSIONS]) if told else None
        yield _frozen(View(tick, replace(controls, paused=paused), recent, period, lifetime, prices=prices))


def _counts(generator: np.random.Generator, n: int, *, quiet: bool) -> NDArray[np.int64]:
    counts = np.zeros((n, len(COUNTS)), dtype=np.int64)
    if quiet:
        return counts
    counts[:, OPPORTUNITIES] = counts[:, BIDS] = generator.poisson(300, n)
    counts[:, IMPRESSIONS] = generator.binomial(counts[:, BIDS], 0.3)
    counts[:, CLICKS] = generator.binomial(counts[:, IMPRESSIONS], 0.05)
    counts[:, CONVERSIONS] = counts[:, CONVERTING_CLICKS] = generator.binomial(counts[:, CLICKS], 0.1)
    counts[:, SPEND] = counts[:, IMPRESSIONS] * generator.integers(5_000, 60_000, n)
    counts[:, REVENUE] = counts[:, CONVERSIONS] * 9_000_000
    return counts


def _prices(generator: np.random.Generator, bid: Int64, won: Int64) -> Prices:
    """What was won, by its price: half as much in every further octave below the bid in force."""
    shares = 0.5 ** (np.arange(WINDOW)[::-1] / BINS_AN_OCTAVE)
    wins = generator.multinomial(won, shares / shares.sum())
    value = wins * generator.integers(200_000, 3_000_000, wins.shape)
    return Prices.of(np.stack((wins, value), axis=2).astype(np.int64), lowest_bins(bid))


def _frozen(view: View) -> View:
    holders: list[Any] = [view, view.controls] if view.prices is None else [view, view.controls, view.prices]
    for holder in holders:
        for item in fields(holder):
            column = getattr(holder, item.name)
            if isinstance(column, np.ndarray):
                column.setflags(write=False)
    return view
