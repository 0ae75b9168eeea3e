"""The battery for policies: everything we register passes it, and each planted fault is named in its sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from agents.checks import check_policy
from agents.classic import Constant, DailyBudgets, Gains, PacingPI
from agents.ecpc import EcpcPid
from agents.horizon import Curve
from agents.scripted import Scripted, Wish
from agents.tuned import MAKERS, Known, bidder
from engine.actions import Knob, Proposals, Source, no_proposals, proposals
from engine.campaigns import CampaignSet
from engine.errors import BadInput
from engine.events import IMPRESSIONS
from engine.policy import Policy, View
from engine.prices import bin_of
from experiments import api, build
from sim.bidding import BiddingTask
from tests.scenarios import config

REGISTERED = [  # by their keys in a configuration
    {"policy": "constant"},
    {"policy": "even_pi"},
    {"policy": "even_pi", "gains": {"proportional": 5.0, "integral": 5.0}},
    {"policy": "traffic_aware_pi", "traffic": {"amplitude": 0.6, "peak_hour": 20}},
    {"policy": "daily_budgets"},
    {"policy": "daily_budgets", "max_change": 1.0},
]


@pytest.mark.parametrize("spec", REGISTERED, ids=lambda spec: spec["policy"])
def test_every_registered_policy_passes(spec: dict[str, Any]) -> None:
    plan = build.simulation(api.load(config(policies=[spec | {"campaigns": "all"}], script={})))
    (assignment,) = plan.assignments
    assert isinstance(assignment.policy, Policy)
    check_policy(assignment.policy)


@pytest.mark.parametrize(
    "policy",
    [
        Constant(),
        *(bidder(name, Known.of(BiddingTask()), targeted=targeted) for name in MAKERS for targeted in (False, True)),
        *(
            bidder(name, Known.of(BiddingTask())).aiming_at(30_000.0 * np.ones(1))
            for name in ("pid_rule", "even_pi", "mirror_descent", "mirror_descent_resolving", "lp_km")
        ),
        PacingPI(Gains(0.0, 0.0)),
        PacingPI(curve=Curve(0.9)),
        DailyBudgets(),
        EcpcPid(reference_micros=400_000, base_bid_micros=690),
        Scripted({3: (Wish(0, Knob.BID, "sam", "", change=Fraction(-1, 5)), Wish(0, Knob.PAUSED, "sam", "", (1,)))}),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_and_so_do_their_other_shapes(policy: Policy) -> None:
    check_policy(policy)


def rows(view: View, bid: Any = None, campaign: Any = 0, version: int | None = None) -> Proposals:
    shown = int(view.controls.version[0, Knob.BID])
    wanted = [10_100] if bid is None else [bid]
    return proposals([campaign], Knob.BID, wanted, shown if version is None else version, Source.POLICY, "planted")


class Planted:
    """A policy whose only deed is the fault; the deed belongs to the class, so that the policy can be pickled."""

    deed: Callable[[View, Any], tuple[Any, Any]]

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def start(self, campaigns: Any, grid: Any) -> Any:  # noqa: ARG002 - the protocol's signature
        return self.memory

    def propose(self, view: View, memory: Any) -> tuple[Any, Any]:
        return Planted.deed(view, memory)


SHARED = {"asked": 0}


def asks_more_each_time(view: View, memory: Any) -> tuple[Any, Any]:
    SHARED["asked"] += 1
    return rows(view, 10_000 + SHARED["asked"]), memory


def draws_from_the_global_generator(view: View, memory: Any) -> tuple[Any, Any]:
    return rows(view, int(np.random.randint(5_000, 10_000))), memory  # noqa: NPY002 - the fault


def changes_its_memory(view: View, memory: Any) -> tuple[Any, Any]:
    memory[0] += view.tick + 1
    return no_proposals(), memory


def remembers_a_function(view: View, memory: Any) -> tuple[Any, Any]:
    return no_proposals(), lambda: (view, memory)


def writes_into_the_view(view: View, memory: Any) -> tuple[Any, Any]:
    view.recent[0, 0] = 7
    return no_proposals(), memory


def writes_into_the_controls(view: View, memory: Any) -> tuple[Any, Any]:
    view.controls.scalar[:, Knob.BID] += 1
    return no_proposals(), memory


def returns_a_list(*_: Any) -> tuple[Any, Any]:
    return [], None


def writes_into_the_prices(view: View, memory: Any) -> tuple[Any, Any]:
    if view.prices is not None and len(view.prices):
        view.prices.wins[0] = 7
    return no_proposals(), memory


AGAIN = "proposes something else when asked again at tick 0: use no hidden state or generator"
STRANGER = "named a campaign it does not have at tick 0: use positions 0 … 0"
FLAWED = "proposed a value that is {} at tick 0: propose whole, non-negative micros or ppm"


@pytest.mark.parametrize(
    ("deed", "memory", "sentence"),
    [
        (asks_more_each_time, None, AGAIN),
        (draws_from_the_global_generator, None, AGAIN),
        (changes_its_memory, [0], "changed the memory it was given at tick 0: return a new one"),
        (changes_its_memory, np.zeros(1), "changed the memory it was given at tick 0: return a new one"),
        (remembers_a_function, None, "has a memory that cannot be pickled: keep values and arrays in it"),
        (writes_into_the_view, None, "writes into the view at tick 0: copy what it changes"),
        (writes_into_the_controls, None, "writes into the view at tick 0: copy what it changes"),
        (returns_a_list, None, "returned list at tick 0: return (Proposals, memory)"),
        (lambda view, memory: (rows(view, campaign=1), memory), None, STRANGER),
        (lambda view, memory: (rows(view, campaign=-1), memory), None, STRANGER),
        (
            lambda view, memory: (replace(rows(view), knob=np.array([5], dtype=np.uint8)), memory),
            None,
            "named an unknown knob at tick 0: use engine.actions.Knob",
        ),
        (lambda view, memory: (rows(view, float("nan")), memory), None, FLAWED.format("not_finite")),
        (lambda view, memory: (rows(view, 0.5), memory), None, FLAWED.format("not_whole")),
        (lambda view, memory: (rows(view, -1), memory), None, FLAWED.format("negative")),
        (
            lambda view, memory: (rows(view, version=1), memory),
            None,
            "named a version it was not shown at tick 0: take it from view.controls.version",
        ),
    ],
)
def test_a_planted_fault_is_named(deed: Any, memory: Any, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHARED, "asked", 0)
    monkeypatch.setattr(Planted, "deed", deed, raising=False)
    with pytest.raises(BadInput) as refused:
        check_policy(Planted(memory))
    assert str(refused.value) == f"policy Planted {sentence}"


class Seeing:
    """Keeps what it sees of prices, impressions and bids, for a test to look at."""

    looks_at_prices = True

    def start(self, campaigns: CampaignSet, grid: Any) -> None:  # noqa: ARG002 - the protocol's signature
        return None

    def propose(self, view: View, memory: Any) -> tuple[Any, Any]:
        SEEN.append(view)
        return no_proposals(), memory


SEEN: list[View] = []


def test_a_policy_that_looks_at_prices_is_shown_those_of_every_impression() -> None:
    SEEN.clear()
    check_policy(Seeing())
    empty = 0
    for view in SEEN:
        assert view.prices is not None
        wins = np.bincount(view.prices.campaign, view.prices.wins, len(view.recent))
        assert np.array_equal(wins, view.recent[:, IMPRESSIONS])
        assert (view.prices.bin <= bin_of(view.controls.bid)[view.prices.campaign]).all()
        assert (view.prices.value_ppm >= view.prices.wins).all()
        empty += not len(view.prices)
    assert 0 < empty < len(SEEN) / 4


def test_others_are_shown_none_and_nobody_may_write_into_them(monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    monkeypatch.setattr(Seeing, "looks_at_prices", False)
    check_policy(Seeing())
    assert {view.prices for view in SEEN} == {None}
    monkeypatch.setattr(Planted, "deed", writes_into_the_prices, raising=False)
    check_policy(Planted(None))
    monkeypatch.setattr(Planted, "looks_at_prices", True, raising=False)
    with pytest.raises(BadInput, match=r"^policy Planted writes into the view at tick 1: copy what it changes$"):
        check_policy(Planted(None))
