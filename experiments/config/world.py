"""Parts of a configuration: the account, its calendar, markets, and campaigns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import time
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from engine.limits import LEAST_MODIFIER, MOST_MODIFIER
from engine.units import PPM
from experiments.config.values import (
    BudgetOrLog,
    Day,
    Id,
    Micros,
    Multiple,
    PositiveMicros,
    Ratio,
    Sigma,
    Start,
    TickMinutes,
    TimeOfDay,
    Zone,
    ppm,
)

Auction: TypeAlias = Literal["second_price", "first_price"]
ChargingBasis: TypeAlias = Literal["per_impression", "per_click"]
BudgetPeriod: TypeAlias = Literal["day", "flight"]
Bounds = TypeVar("Bounds", "HardLimits", "LimitOverrides")
Factor: TypeAlias = Annotated[float, Field(ge=0, le=1_000)]


class Model(BaseModel):
    """A part of a configuration: what it does not know it refuses, what is of the wrong type it does not convert."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Account(Model):
    """Whose campaigns these are; `budget_micros` caps the sum of their daily budgets (None: no cap)."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    zone: Zone
    budget_micros: Micros | None = None


class SimulationTime(Model):
    """The calendar of a simulated run, `days` local days long."""

    start: Start
    days: Annotated[int, Field(ge=1, le=3_660)]
    tick_minutes: TickMinutes


class ReplayTime(Model):
    """The calendar of a replay; how many ticks it has, the log says."""

    start: Start
    tick_minutes: TickMinutes


class Traffic(Model):
    """A daily curve of opportunities: ± `amplitude` around its mean, highest at the local `peak_hour`."""

    amplitude: Ratio
    peak_hour: Annotated[float, Field(ge=0, le=24)]


class Price(Model):
    """Log-normal price of the competition: median `level_micros`, `sigma` of its logarithm."""

    level_micros: PositiveMicros
    sigma: Sigma


class Shock(Model):
    """A time during which the competition's prices are multiplied by `factor`."""

    day: Day
    time: TimeOfDay = time()
    hours: Annotated[float, Field(gt=0, le=87_840)]
    factor: Annotated[float, Field(gt=0, le=1_000)]


class Audience(Model):
    """A group of people that markets may tell apart, so many of them (None: so many that none returns)."""

    people: Annotated[int, Field(ge=1, le=10**12)] | None = None


class Segment(Model):
    """An audience as a market meets it.

    `share` is its part of the market's opportunities. The factors multiply what every campaign there has on the whole:
    click rate, conversion rate, the value of a conversion, and the competition's price.
    """

    share: Ratio
    ctr: Factor = 1.0
    cvr: Factor = 1.0
    value: Factor = 1.0
    price: Annotated[float, Field(gt=0, le=1_000)] = 1.0


class Market(Model):
    """Where campaigns meet opportunities: how it sells, how many there are, at what price, and to which audiences.

    Without `audiences` it tells none apart.
    """

    auction: Auction
    charging: ChargingBasis
    opportunities_per_tick: Annotated[float, Field(gt=0, le=1e9)]
    traffic: Traffic
    price: Price
    reserve_micros: Micros = 0
    shocks: tuple[Shock, ...] = ()
    audiences: Annotated[dict[Id, Segment], Field(default_factory=dict)]


class Creative(Model):
    """An advertisement, and the share of its impressions that are clicked."""

    ctr: Ratio


class Conversions(Model):
    """What clicks lead to: how often, how late (mean), and how much it is worth."""

    rate: Ratio
    delay_hours: Annotated[float, Field(gt=0, le=8_784)]
    value_micros: Micros
    value_sigma: Sigma


class HardLimits(Model):
    """Bounds of every bid, budget and modifier that nobody passes; a person's modifier of 0 is none of these."""

    min_bid_micros: PositiveMicros
    max_bid_micros: PositiveMicros
    min_budget_micros: PositiveMicros
    max_budget_micros: PositiveMicros
    min_modifier: Multiple = LEAST_MODIFIER / PPM
    max_modifier: Multiple = MOST_MODIFIER / PPM


class LimitOverrides(Model):
    """One campaign's own bounds; what is None follows the account's."""

    min_bid_micros: PositiveMicros | None = None
    max_bid_micros: PositiveMicros | None = None
    min_budget_micros: PositiveMicros | None = None
    max_budget_micros: PositiveMicros | None = None
    min_modifier: Multiple | None = None
    max_modifier: Multiple | None = None

    def over(self, limits: Bounds) -> Bounds:
        """Other limits with these in their place."""
        return limits.model_copy(update=self.model_dump(exclude_none=True))


class SimulatedCampaign(Model):
    """A campaign in a simulated market; `channel` is the market's name unless it says otherwise.

    `audiences` are the modifiers that its bid begins with, by audience: 100 % where it names none, 0 % for one that is
    no target.
    """

    market: Id
    channel: Id = Field(default_factory=lambda data: str(data.get("market", "")))
    bid_micros: Micros
    budget_micros: Micros
    budget_period: BudgetPeriod = "day"
    reach: Ratio = 1.0
    value_sigma: Sigma = 0.5
    creatives: Annotated[dict[Id, Creative], Field(min_length=1)]
    weights: dict[str, Ratio] | None = None
    audiences: Annotated[dict[str, Multiple], Field(default_factory=dict)]
    conversions: Conversions
    limits: LimitOverrides = LimitOverrides()

    @property
    def weights_ppm(self) -> dict[str, int] | None:
        """The share of each creative in ppm, in the order of `creatives`; None: they share equally."""
        return None if self.weights is None else shares_ppm(self.weights, tuple(self.creatives))


class ReplayedCampaign(Model):
    """A campaign of a log; a budget of `log` is the one that the log states."""

    channel: Id
    bid_micros: Micros
    budget_micros: BudgetOrLog
    budget_period: BudgetPeriod = "day"
    limits: LimitOverrides = LimitOverrides()


def shares_ppm(shares: Mapping[str, float], creatives: tuple[str, ...]) -> dict[str, int]:
    """Shares of creatives in whole ppm, in the order given."""
    return {creative: ppm(shares[creative]) for creative in creatives}


def modifiers_ppm(multiples: Mapping[str, float], audiences: tuple[str, ...]) -> dict[str, int]:
    """Modifiers of audiences in whole ppm, in the order given; 1,000,000 for those that are not named."""
    return {audience: ppm(multiples.get(audience, 1.0)) for audience in audiences}


def shares_sum(shares: Mapping[str, float]) -> int:
    """What shares sum to, in ppm; 1,000,000 where they are right."""
    return sum(ppm(share) for share in shares.values())
