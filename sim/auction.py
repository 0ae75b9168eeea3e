"""Markets, and the rules of charging that the world and the replay share.

Money is whole micros everywhere. An auction's least winning bid is, for one campaign, the largest of the competitor's
price, the reserve, and every other entered bid of the account (one micro more where that campaign comes first, since
ties go to the lower position and the competitor loses them). Second price pays exactly that, first price the bid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.campaigns import CampaignSet, ControlState
from engine.units import MAX_MICROS, TickGrid
from sim.kernel import helper
from sim.traffic import DatedFactor, Traffic

MOST_COMPETITORS = 10_000
UNREACHABLE = 2**62
"""More than any budget: what a click that never comes would have to cost."""


@dataclass(frozen=True)
class PriceShock(DatedFactor):
    """The competitor's price level is multiplied by `factor` for a time."""

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"shock factor (={self.factor}) must be > 0: 1.6 makes prices 60 % higher")


@dataclass(frozen=True)
class BotClicks(DatedFactor):
    """Machines click `factor` of a market's impressions for a time; nothing ever follows from that."""

    def __post_init__(self) -> None:
        if not 0 <= self.factor <= 1:
            raise ValueError(f"bot clicks (={self.factor}) must be in [0, 1]: it is a share of the impressions")


@dataclass(frozen=True)
class Drift:
    """The price level's logarithm wanders around its median, as an autoregression of order one (see `sim.drift`).

    Parameters
    ----------
    persistence:
        What is left of a deviation a tick later, in [0, 1).
    sigma:
        Standard deviation of a tick's step; of the level's logarithm it is sigma / √(1 - persistence²).
    """

    persistence: float
    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.persistence < 1:
            raise ValueError(f"persistence (={self.persistence}) must be in [0, 1): at 1 the level would wander away")
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"drift sigma (={self.sigma}) must be >= 0 and finite: 0.1 is about 10 % a tick")


@dataclass(frozen=True)
class Regimes:
    """The price level jumps to another regime now and then (see `sim.drift`).

    Parameters
    ----------
    every_ticks:
        How long a regime lasts on average, at least a tick.
    sigma:
        Standard deviation of a regime's offset of the level's logarithm.
    """

    every_ticks: float
    sigma: float

    def __post_init__(self) -> None:
        if not 1 <= self.every_ticks < math.inf:
            raise ValueError(f"every_ticks (={self.every_ticks}) must be >= 1: a regime lasts a tick at least")
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"regimes sigma (={self.sigma}) must be >= 0 and finite: 0.5 is a factor of about 1.6")


@dataclass(frozen=True)
class Answer:
    """The competition answers the account: as its share of the market rises, so does the others' price level.

    The share that is felt is an exponentially weighted mean of the account's impressions per auction, tick by tick.

    Parameters
    ----------
    strength:
        By how much the level's logarithm rises for a share of 1; negative where competitors give way.
    persistence:
        Weight of what was felt before, in [0, 1): 0 answers the last tick alone.
    """

    strength: float
    persistence: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise ValueError(f"answer strength (={self.strength}) must be finite: 0.5 raises prices 65 % for all of it")
        if not 0 <= self.persistence < 1:
            raise ValueError(f"answer persistence (={self.persistence}) must be in [0, 1): at 1 nothing is ever felt")


@dataclass(frozen=True)
class Segment:
    """The part of a market's auctions that one audience is behind; the factors are relative to the whole's figures.

    Parameters
    ----------
    share:
        Part of the market's auctions.
    price:
        Factor of the competition's price level.
    ctr, cvr, value:
        Factors of the click probability, of the conversion probability, and of a conversion's value. Campaigns do not
        foresee them: what an opportunity is predicted to be worth holds for the market's whole, and a campaign that
        has learnt better modifies its bid.
    audience:
        The people it is about, by the name of a `sim.people.Audience`; None where nobody counts them.
    """

    share: float = 1.0
    price: float = 1.0
    ctr: float = 1.0
    cvr: float = 1.0
    value: float = 1.0
    audience: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(
                f"share (={self.share}) of a segment must be in (0, 1]: leave out a segment without traffic"
            )
        for name in ("price", "ctr", "cvr", "value"):
            factor = getattr(self, name)
            if not 0 < factor < math.inf:
                raise ValueError(
                    f"{name} (={factor}) of a segment must be > 0 and finite: it is a factor, 1 is as usual"
                )


EVERYBODY = (Segment(),)
"""The one segment of a market that tells no audiences apart."""


@dataclass(frozen=True)
class Market:
    """One market: its traffic, its modelled competition and the rules of its auction.

    Parameters
    ----------
    traffic:
        How many auctions it holds.
    level_micros, price_sigma:
        Median and log standard deviation of a competitor's log-normal price, micros per opportunity.
    reserve_micros:
        The least price anyone pays.
    first_price:
        Whether the winner pays its own bid rather than the least that wins.
    competitors:
        How many alike and independent competitors bid in every auction.
    exposure:
        How likely each slot is seen, the best first; a slot that is not seen brings no impression and costs nothing.
    segments:
        The audiences behind its auctions.
    answer:
        How the competition answers the account; None: it does not.
    bots:
        Times in which machines click that share of all impressions, beside people.
    shocks:
        Changes of the price level; where several overlap their factors multiply.
    follows_demand:
        Elasticity of the price level with respect to the traffic curve.
    drift, regimes:
        How the price level wanders by itself; None: it does not.
    """

    traffic: Traffic
    level_micros: float
    price_sigma: float
    reserve_micros: int = 0
    first_price: bool = False
    competitors: int = 1
    exposure: tuple[float, ...] = (1.0,)
    segments: tuple[Segment, ...] = EVERYBODY
    answer: Answer | None = None
    bots: tuple[BotClicks, ...] = ()
    shocks: tuple[PriceShock, ...] = ()
    follows_demand: float = 0.0
    drift: Drift | None = None
    regimes: Regimes | None = None

    def __post_init__(self) -> None:
        if not 0 < self.level_micros <= MAX_MICROS:
            raise ValueError(f"level_micros (={self.level_micros}) must be > 0 and <= {MAX_MICROS}")
        if not 0 <= self.price_sigma < math.inf:
            raise ValueError(f"price_sigma (={self.price_sigma}) must be >= 0 and finite")
        if not 0 <= self.reserve_micros <= MAX_MICROS:
            raise ValueError(f"reserve_micros (={self.reserve_micros}) must be >= 0 and <= {MAX_MICROS}")
        if not 0 <= self.competitors <= MOST_COMPETITORS:
            raise ValueError(f"competitors (={self.competitors}) must be in [0, {MOST_COMPETITORS}]")
        if not self.exposure or not all(0 < seen <= 1 for seen in self.exposure):
            raise ValueError(f"exposure (={self.exposure}) must give each slot a probability in (0, 1] of being seen")
        total = sum(segment.share for segment in self.segments)
        if not abs(total - 1) < 1e-9:
            raise ValueError(f"shares of the segments (={total:.6g} together) must sum to 1")
        if not math.isfinite(self.follows_demand):
            raise ValueError(f"follows_demand (={self.follows_demand}) must be finite: 0 leaves prices where they are")


@helper
def bid_for(bid_micros: int, value: float) -> int:
    """What a campaign bids for an opportunity: ⌊bid · value⌋."""
    return np.int64(min(np.float64(bid_micros) * value, float(MAX_MICROS)))  # type: ignore[return-value]


@helper
def per_click(amount: int, ctr: float) -> int:
    """A price per opportunity as a price per click: ⌊amount / predicted CTR⌋."""
    if np.float64(amount) >= ctr * float(UNREACHABLE):
        return UNREACHABLE
    return np.int64(np.float64(amount) / ctr)  # type: ignore[return-value]


@helper
def most_charged(bid: int, ctr: float, charged_per_click: bool) -> int:  # noqa: FBT001 - a kernel takes columns
    """The most that winning with this bid can cost, which the rest of the budget has to cover before it is entered."""
    return per_click(bid, ctr) if charged_per_click else bid


@helper
def charge(bid: int, price: int, ctr: float, first_price: bool, charged_per_click: bool, clicked: bool) -> int:  # noqa: FBT001 - a kernel takes columns
    """What a won impression costs."""
    amount = bid if first_price else price
    if not charged_per_click:
        return amount
    return per_click(amount, ctr) if clicked else 0


def check_call(grid: TickGrid, from_tick: int, to_tick: int, controls: ControlState, campaigns: CampaignSet) -> None:
    """Refuse what a kernel, which trusts its columns, would read beyond their ends."""
    if not 0 <= from_tick <= to_tick <= grid.ticks:
        raise ValueError(f"ticks (=[{from_tick}, {to_tick})) must lie in the run's [0, {grid.ticks})")
    given = (len(controls.bid), len(controls.weights), len(controls.modifiers))
    wanted = (len(campaigns), len(campaigns.creatives), int(campaigns.layout.audience_start[-1]))
    if given != wanted:
        raise ValueError(
            f"controls (=of {given} campaigns, creatives and audiences) must be those of the members, {wanted}"
        )
