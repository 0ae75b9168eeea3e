"""The battery for worlds: everything we register passes it, and each planted fault is named in its sentence."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.campaigns import CampaignSet, Charging, ControlState, Period
from engine.errors import BadInput
from engine.events import COUNTS, IMPRESSIONS, Events, Opportunities, TickCounts
from engine.policy import Batch
from engine.prices import Prices, bin_of
from engine.units import PPM, Int64, TickGrid
from experiments import api, build
from experiments.config import ReplayConfig, SimulationConfig
from sim.attribution import Attribution, last_click, linear
from sim.auction import Answer, BotClicks, Drift, Regimes, Segment
from sim.checks import check_independent, check_world, counted
from sim.delays import Law, Part
from sim.mishaps import Mishap, Way
from sim.people import Audience
from sim.replay import AuctionReplayFactory
from sim.traffic import Traffic, TrafficChange
from sim.troubles import Spell, Troubles
from tests.scenarios import AUCTIONS, BINS, CONFIGS, config, write_auctions, write_bins
from tests.sim import test_world
from tests.sim.builders import GRID, MARKET, Campaign, everyone, run, world_of

SIMULATIONS = [path for path in sorted(CONFIGS.glob("**/*.yaml")) if "source: simulation" in path.read_text()]

RICH = replace(
    MARKET,
    traffic=Traffic(500.0, 0.6, 20.0, dispersion=0.05, changes=(TrafficChange(30, 34, 0.4),)),
    reserve_micros=1_000,
    competitors=4,
    exposure=(0.9, 0.5),
    segments=(Segment(0.7, audience="many"), Segment(0.3, 1.3, 1.2, 1.5, 2.0, audience="few")),
    answer=Answer(0.5, 0.8),
    bots=(BotClicks(10, 20, 0.02),),
    drift=Drift(0.9, 0.05),
    regimes=Regimes(20.0, 0.3),
    follows_demand=0.3,
)
CROWD = Campaign(
    "rich",
    bid=12_000,
    correlation=0.4,
    ctrs=(0.2, 0.1),
    wear=0.3,
    rest_hours=6.0,
    per_click=1.5,
    refund_rate=0.2,
    delays=(Part(Law.EXPONENTIAL, 0.5, share=600_000), Part(Law.LOGNORMAL, 3.0, 0.5, share=400_000)),
    modifiers=(PPM, 1_400_000),
)
PEOPLE = (Audience("few", 400, 0.8), Audience("many", 3_000))
TROUBLES = Troubles(
    rates=(Spell(5, 15, 0.5, (0,)),), reports=(Spell(25, 30, 0.0, (0, 1)),), approvals=(Spell(8, 12, 0.0, (1,)),)
)


@pytest.mark.slow
@pytest.mark.parametrize("path", SIMULATIONS, ids=lambda path: path.stem)
def test_every_registered_world_passes(path: Path) -> None:
    settings = api.load(path)
    assert isinstance(settings, SimulationConfig)
    plan = build.simulation(settings)
    check_world(plan.source, plan.controls)


@pytest.mark.parametrize("record", ["", "events opportunities"])
def test_a_small_account_passes(record: str) -> None:
    factory, controls = world_of(test_world.CAMPAIGNS, test_world.MARKETS, record=record, tell_prices=bool(record))
    check_world(factory, controls, forgets_after=35)


@pytest.mark.parametrize("credit", [None, last_click, linear])
def test_a_world_with_everything_switched_on_passes(credit: Any) -> None:
    attribution = None if credit is None else Attribution(credit, 6.0, 0.1)
    members = [CROWD, replace(CROWD, bid=9_000, charging=Charging.PER_CLICK, wear=0.0), replace(CROWD, market="poor")]
    markets = {"rich": RICH, "poor": replace(RICH, exposure=(1.0,), first_price=True)}
    mishaps = (
        Mishap(Way.DUPLICATED, 3, 40, 0.1),
        Mishap(Way.LATE, 0, 40, 0.2, 2.0),
        Mishap(Way.MISDATED, 10, 30, 0.1, -9.0),
        Mishap(Way.ORPHANED, 0, 48, 0.1),
    )
    factory, controls = world_of(
        members,
        markets,
        record="" if credit is linear else "events",
        people=PEOPLE,
        attribution=attribution,
        troubles=TROUBLES,
        mishaps=mishaps,
        tell_prices=True,
    )
    check_world(factory, controls)


def test_what_was_recorded_passes_as_a_source_of_its_own() -> None:
    factory, controls = world_of(test_world.CAMPAIGNS, test_world.MARKETS, record="opportunities")
    rows = run(factory(everyone(factory)), controls, (0, GRID.ticks)).opportunities
    first_price = tuple(market.first_price for market in factory.markets)
    check_world(AuctionReplayFactory(factory.campaigns, GRID, rows, first_price, tell_prices=True), controls)


@pytest.mark.parametrize(
    ("document", "write"), [(BINS, write_bins), (AUCTIONS, write_auctions)], ids=["bins", "auctions"]
)
def test_a_log_passes(document: str, write: Callable[[Path], Path], tmp_path: Path) -> None:
    settings = api.load(config(document))
    assert isinstance(settings, ReplayConfig)
    plan, _ = build.replay(settings, write(tmp_path / "log"))
    check_world(plan.source, plan.controls)


def test_the_tests_own_configuration_passes() -> None:
    plan = build.simulation(api.load(config()))
    check_world(plan.source, plan.controls)


@dataclass
class Planted:
    """A world as a user might write it, and a factory of itself; `deed` is what is wrong with it."""

    campaigns: CampaignSet
    grid: TickGrid
    deed: Callable[[Planted, dict[str, Int64]], None] = lambda *_: None
    seed: Callable[[int], Any] = lambda tick: [5, tick]
    bots: float = 0.0
    tells: Callable[[Int64], tuple[Int64, Int64]] | None = None  # wins by campaign, and the price of all of them
    factual: bool = False
    charged: Int64 = field(default_factory=lambda: np.zeros(2, dtype=np.int64))
    kept: list[Any] = field(default_factory=list)
    now: int = 0
    calls: int = 0

    def __call__(self, members: Int64) -> Planted:
        assert len(members) == 2
        return replace(self, charged=np.zeros(2, dtype=np.int64), kept=[], calls=0)

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:
        values = np.zeros((to_tick - from_tick, 2, len(COUNTS)), dtype=np.int64)
        for tick in range(from_tick, to_tick):
            if tick and self.grid.closes_day[tick - 1]:
                self.charged = np.zeros(2, dtype=np.int64)
            count = self.tick(tick, controls)
            self.now = tick
            self.deed(self, count)
            for name, column in count.items():
                values[tick - from_tick, :, COUNTS.index(name)] = column
            self.charged = self.charged + count["spend_micros"]
        prices = None if self.tells is None else priced(*self.tells(values[:, :, IMPRESSIONS].sum(axis=0)))
        return Batch(TickCounts(from_tick, values), Events.empty(), Opportunities.empty(), prices=prices)

    def tick(self, tick: int, controls: ControlState) -> dict[str, Int64]:
        """Everybody pays 7 micros for an impression."""
        dice = np.random.default_rng(self.seed(tick))
        opportunities = dice.poisson(100 * (1.2 + np.sin(tick * np.pi / 24)), 2)
        afford = np.maximum(controls.budget - self.charged, 0) // 7
        by_bots = dice.random() < self.bots if self.bots else False  # of the dice that all else is drawn with
        impressions = np.minimum(dice.binomial(opportunities, 0.5), afford) * ~controls.paused
        return {
            "opportunities": opportunities,
            "bids": np.where(controls.paused | (afford == 0), 0, opportunities),
            "impressions": impressions,
            "clicks": np.maximum(dice.binomial(impressions, 0.3), by_bots * impressions),
            "spend_micros": 7 * impressions,
        }

    def state(self) -> Any:
        return self.charged, list(self.kept)

    def restore(self, state: Any) -> None:
        self.charged, kept = state
        self.kept = list(kept)


def priced(wins: Int64, price: Int64) -> Prices:
    """All wins of each campaign at one price, of opportunities of value 1."""
    (won,) = np.nonzero(wins)
    return Prices(won, bin_of(price[won]), wins[won], wins[won] * PPM)


def planted(**faults: Any) -> tuple[Planted, ControlState]:
    """The world in which nothing is wrong but what is said."""
    factory, controls = world_of([Campaign(), Campaign(period=Period.FLIGHT)])
    return Planted(factory.campaigns, GRID, **faults), controls


def test_a_world_of_ones_own_passes() -> None:
    check_world(*planted(), forgets_after=10)
    check_world(*planted(tells=lambda won: (won, np.array([7, 7]))), forgets_after=10)


def one_click_more(world: Planted, count: dict[str, Int64]) -> None:
    if world.now == 9:
        count["clicks"] = count["impressions"] + np.array([0, 1])


def spends_what_it_has_not(_: Planted, count: dict[str, Int64]) -> None:
    count["impressions"] = count["bids"]
    count["spend_micros"] = 7 * count["impressions"]


def enters_while_paused(_: Planted, count: dict[str, Int64]) -> None:
    count["bids"] = count["opportunities"]


def draws_globally(world: Planted, count: dict[str, Int64]) -> None:
    if world.now == 4:
        count["clicks"] = np.random.binomial(count["impressions"], 0.3)  # noqa: NPY002 - the fault


def reads_globally(_: Planted, count: dict[str, Int64]) -> None:
    count["clicks"] = count["impressions"] * int(np.random.get_state()[1][0] // 1_000 % 2)  # noqa: NPY002 - the fault


def remembers_ticks(world: Planted, count: dict[str, Int64]) -> None:
    world.kept.append(count["opportunities"])


def remembers_clicks(world: Planted, count: dict[str, Int64]) -> None:
    world.kept.extend(1_000 * world.now + np.arange(count["clicks"].sum()))


def counts_calls(world: Planted, count: dict[str, Int64]) -> None:
    world.calls += 1
    count["clicks"] = np.minimum(count["impressions"], world.calls // 30)


FAULTS = {
    "re-seeding per step": (
        {"seed": lambda _: 5},
        r"world Planted repeats its draws from tick to tick: its counts vary by \S+ of what chance would make them: "
        "seed no generator inside a step, and make every draw a function of its tick",
    ),
    "clicks above impressions": (
        {"deed": one_click_more},
        r"world Planted has (\d+) clicks on \d+ impressions of campaign c1 at tick 9: let each of the clicks come of "
        "one of the impressions, and count it once",
    ),
    "overspend": (
        {"deed": spends_what_it_has_not},
        r"world Planted has charged \d+ micros at tick \d+ to campaign c\d, whose budget is \d+: enter it only where "
        "what remains covers the most that it could be charged",
    ),
    "a paused campaign": (
        {"deed": enters_while_paused},
        r"world Planted enters \d+ auctions for the paused campaign c0 at tick 0: leave paused campaigns out",
    ),
    "a hidden global generator": (
        {"deed": draws_globally},
        "world Planted draws from a global generator at tick 4: make every draw a function of the seed, the tick and "
        "what it is for",
    ),
    "Python's own": (
        {"deed": lambda *_: random.random()},
        "world Planted draws from a global generator at tick 0",
    ),
    "a global generator that is only looked at": (
        {"deed": reads_globally},
        "world Planted gives clicks of tick 0 otherwise when it runs again: use no hidden state or generator",
    ),
    "growing memory": (
        {"deed": remembers_ticks},
        r"world Planted remembers \d+ bytes after tick 47 and \d+ after tick 11, since when every campaign was paused: "
        "keep nothing that grows with the ticks",
    ),
    "a memory of all clicks": (
        {"deed": remembers_clicks},
        r"world Planted remembers \d+ bytes 36 ticks after the last impression and \d+ before the first: let go of "
        "what is over, or say that it forgets after more than 30 ticks",
    ),
    "a price too few": (
        {"tells": lambda won: (won - np.array([0, 1]), np.array([7, 7]))},
        r"world Planted tells prices of \d+ wins and \d+ impressions of campaign c1 at tick 0: count every",
    ),
    "a price above the bid": (
        {"tells": lambda won: (won, np.array([7, 6_144]))},
        "world Planted tells a price of 6144 micros and more at tick 0, which campaign c1 won with a bid of 5000",
    ),
    "a hidden state": (
        {"deed": counts_calls},
        r"world Planted gives clicks of tick \d+ otherwise after the state of tick 24 was restored in the same source: "
        "keep all that matters later in the state, and nothing beside it",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str) -> None:
    faults, sentence = FAULTS[fault]
    with pytest.raises(BadInput, match=f"^{sentence}"):
        check_world(*planted(**faults), forgets_after=30)


def test_a_stream_that_moves_when_another_feature_is_switched_on_is_caught() -> None:
    factory, controls = planted()
    clicked_by_machines, _ = planted(bots=0.1)
    check_independent(factory, factory, controls, unmoved=counted("impressions", "clicks"))
    check_independent(factory, clicked_by_machines, controls, unmoved=counted("opportunities"))
    sentence = (
        "^world Planted moves impressions of tick 0, with which the feature that is switched on has nothing to do: "
        "give the feature draws of a purpose of its own$"
    )
    with pytest.raises(BadInput, match=sentence):
        check_independent(factory, clicked_by_machines, controls, unmoved=counted("impressions"))
    second = counted("impressions", cells=np.array([1]))
    with pytest.raises(BadInput, match="moves impressions"):
        check_independent(factory, clicked_by_machines, controls, unmoved=second)


def test_a_world_keyed_by_its_neighbours_is_caught() -> None:
    factory, controls = world_of(test_world.CAMPAIGNS, test_world.MARKETS)

    @dataclass(frozen=True)
    class Shifted:
        campaigns: CampaignSet = factory.campaigns
        grid: TickGrid = GRID

        def __call__(self, members: Int64) -> Any:
            return replace(factory, seed=int(members[0]))(members)

    with pytest.raises(BadInput, match=r"^world Shifted gives \w+ of campaign c3 otherwise where other markets are"):
        check_world(Shifted(), controls)


def test_a_value_is_correlated_with_nobodys_price_just_as_well() -> None:
    lonely = replace(MARKET, competitors=0, reserve_micros=4_000)
    check_world(*world_of([Campaign("a"), Campaign("z", correlation=0.5)], {"a": MARKET, "z": lonely}))


def test_what_cannot_be_checked_says_why() -> None:
    with pytest.raises(BadInput, match=r"forgets_after \(=40\) must be <= 36, three quarters of the run: take"):
        check_world(*planted(), forgets_after=40)
    factory, controls = planted()

    @dataclass(frozen=True)
    class Nothing:
        campaigns: CampaignSet = factory.campaigns
        grid: TickGrid = GRID

        def __call__(self, members: Int64) -> Any:
            return members

    with pytest.raises(BadInput, match="world Nothing makes a ndarray: make an EventSource"):
        check_world(Nothing(), controls)


def test_global_generators_are_left_as_they_were_found() -> None:
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 - it is what is tested
    check_world(*planted())
    first = random.random(), np.random.random()  # noqa: NPY002 - likewise
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 - likewise
    assert first == (random.random(), np.random.random())  # noqa: NPY002 - likewise
