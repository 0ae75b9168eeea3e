"""Parts of a configuration: the account, its calendar, markets, and campaigns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import time
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from engine.limits import LEAST_MODIFIER, MOST_MODIFIER
from engine.units import PPM
from experiments.config.values import (
    Activity,
    BudgetOrLog,
    Day,
    Hours,
    Id,
    Micros,
    Multiple,
    People,
    PositiveMicros,
    Ratio,
    Region,
    Sigma,
    Span,
    Start,
    TickMinutes,
    TimeOfDay,
    Week,
    Zone,
    ppm,
)
from sim.auction import MOST_COMPETITORS

Auction: TypeAlias = Literal["second_price", "first_price", "gsp"]
LoggedAuction: TypeAlias = Literal["second_price", "first_price"]
ChargingBasis: TypeAlias = Literal["per_impression", "per_click"]
BudgetPeriod: TypeAlias = Literal["day", "flight"]
Bounds = TypeVar("Bounds", "HardLimits", "LimitOverrides")
Factor: TypeAlias = Annotated[float, Field(gt=0, le=1_000)]


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


class MarketTraffic(Model):
    """A market's curve of opportunities, and how much single ticks stray from it.

    amplitude, peak_hour:
        A daily curve, as `Traffic` has it.
    week:
        Instead of these 168 levels on any scale, one for every local hour from Monday 00:00 on, or the path of a table
        of them (`sim.logs.traffic_share`), relative to the configuration's folder. Once loaded, the levels themselves
        stand here, so that what a run used is in its folder.
    region:
        Which region of the table, where it holds several.
    dispersion:
        d: a tick's opportunities have the variance mean + d · mean² (negative binomial); 0: Poisson.
    """

    amplitude: Ratio | None = None
    peak_hour: Annotated[float, Field(ge=0, le=24)] | None = None
    week: Week | None = None
    region: Region | None = None
    dispersion: Annotated[float, Field(ge=0, le=100)] = 0.0

    @property
    def daily(self) -> Traffic | None:
        """The daily curve; None where the week has one."""
        if self.amplitude is None or self.peak_hour is None:
            return None
        return Traffic(amplitude=self.amplitude, peak_hour=self.peak_hour)

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of the week of a loaded configuration; empty where there is a daily curve."""
        assert not isinstance(self.week, str), "loading puts a table's levels in its place"
        return self.week or ()


class Drift(Model):
    """The price level wanders around its median: x = `persistence` · x before + `sigma` · noise, in logarithms.

    Both are per tick: of a deviation, persistence^n is left after n ticks, and the level's logarithm has the standard
    deviation sigma / √(1 - persistence²).
    """

    persistence: Annotated[float, Field(ge=0, lt=1)]
    sigma: Sigma


class Regimes(Model):
    """The price level takes another offset, `sigma` of its logarithm, every so many days on average."""

    every_days: Annotated[float, Field(gt=0, le=36_600)]
    sigma: Sigma


class Answers(Model):
    """The competition answers the account: for a share of 1 its level's logarithm rises by `strength`.

    What it feels is a mean of the shares so far, of which `persistence` is what was felt a tick before.
    """

    strength: Annotated[float, Field(ge=-5, le=5)]
    persistence: Annotated[float, Field(ge=0, lt=1)]


class Price(Model):
    """Log-normal price of a competitor: median `level_micros`, `sigma` of its logarithm; the rest moves the median.

    competitors:
        How many alike and independent ones bid in every auction.
    drift, regimes:
        How it wanders by itself; None: it does not.
    follows_demand:
        Its elasticity with respect to the traffic curve: 0.3 makes it 3 % higher where traffic is 10 % higher.
    answers:
        How it answers what the account wins; None: it does not.
    """

    level_micros: PositiveMicros
    sigma: Sigma
    competitors: Annotated[int, Field(ge=0, le=MOST_COMPETITORS)] = 1
    drift: Drift | None = None
    regimes: Regimes | None = None
    follows_demand: Annotated[float, Field(ge=-5, le=5)] = 0.0
    answers: Answers | None = None


class When(Model):
    """A moment in the run."""

    day: Day
    time: TimeOfDay = time()


class Dated(When):
    """A time in the run, `hours` long."""

    hours: Span


class Shock(Dated):
    """A time during which the competition's prices are multiplied by `factor`."""

    factor: Annotated[float, Field(gt=0, le=1_000)]


class Audience(Model):
    """A group of people that markets may tell apart.

    people:
        How many they are, the same ones in every market; None: nobody counts them.
    activity:
        Shape of the gamma distribution of their activity, the smaller the more unequal; None: all are alike.
    """

    people: People | None = None
    activity: Activity | None = None


class Segment(Model):
    """An audience as a market meets it.

    `share` is its part of the market's opportunities. The factors multiply what every campaign there has on the whole:
    click rate, conversion rate, the value of a conversion, and the competition's price.
    """

    share: Ratio
    ctr: Factor = 1.0
    cvr: Factor = 1.0
    value: Factor = 1.0
    price: Factor = 1.0


class Market(Model):
    """Where campaigns meet opportunities: how it sells, how many there are, at what price, and to which audiences.

    slots:
        How likely each of the slots that an auction sells is seen, the top one first.
    audiences:
        Those it tells apart; without them none.
    people, activity:
        Of a market that tells no audiences apart, as an `Audience` has them.
    """

    auction: Auction
    charging: ChargingBasis
    opportunities_per_tick: Annotated[float, Field(gt=0, le=1e9)]
    traffic: MarketTraffic
    price: Price
    reserve_micros: Micros = 0
    slots: Annotated[tuple[Ratio, ...], Field(min_length=1, max_length=20)] = (1.0,)
    people: People | None = None
    activity: Activity | None = None
    shocks: tuple[Shock, ...] = ()
    audiences: Annotated[dict[Id, Segment], Field(default_factory=dict)]


class Wear(Model):
    """People get tired of a creative: at frequency f its CTR is (f + 1)^−`exponent` of what it was.

    After `rest_days` without an impression half of that is forgotten; without them nothing ever is.
    """

    exponent: Annotated[float, Field(ge=0, le=5)]
    rest_days: Annotated[float, Field(ge=0.001, le=3_660)] | None = None


class Creative(Model):
    """An advertisement, the share of its impressions that are clicked while it is new, and how it wears out."""

    ctr: Ratio
    wear: Wear | None = None


class Exponential(Model):
    """A delay that is as likely to end in any hour as in any other."""

    mean_hours: Hours


class LogNormal(Model):
    """A delay whose logarithm is normal: half come within `median_hours`, some very late where `sigma` is large."""

    median_hours: Hours
    sigma: Sigma


class DelayPart(Model):
    """One part of a mixed delay: `share` of the conversions come by it; exponential or log-normal."""

    share: Ratio
    exponential: Exponential | None = None
    lognormal: LogNormal | None = None


class Delay(Model):
    """How long after the click a conversion comes: exponential, log-normal, or a mixture of such parts."""

    exponential: Exponential | None = None
    lognormal: LogNormal | None = None
    mixture: Annotated[tuple[DelayPart, ...], Field(min_length=1)] | None = None


class PriceShare(Model):
    """One price of a menu, and the share of conversions that bring it."""

    value_micros: PositiveMicros
    share: Ratio


class Refunds(Model):
    """How many conversions are refunded, in full, and how long after the conversion (mean)."""

    rate: Ratio
    delay_hours: Hours


class Conversions(Model):
    """What clicks lead to: how often, how late, how many at once, how much each is worth, and what is given back.

    `delay_hours` is the mean of an exponential delay, `delay` any other; `per_click` the mean number of conversions of
    a click that converts. Values are log-normal around `value_micros`, or one of `prices`.
    """

    rate: Ratio
    delay_hours: Hours | None = None
    delay: Delay | None = None
    per_click: Annotated[float, Field(ge=1, le=100)] = 1
    value_micros: Micros | None = None
    value_sigma: Sigma | None = None
    prices: Annotated[tuple[PriceShare, ...], Field(min_length=1)] | None = None
    refunds: Refunds | None = None


class Attribution(Model):
    """How the account credits conversions to the clicks of the same person, over all markets.

    Clicks count for `window_hours`, as far as their ids are not among the `lost_ids`.
    """

    model: Literal["last_click", "linear", "position_based"]
    window_hours: Annotated[float, Field(gt=0, le=8_784)] = 720
    lost_ids: Ratio = 0.0


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
    `value_price_correlation` is that of what an opportunity is worth and of the best competitor's price, both as
    normals.
    """

    market: Id
    channel: Id = Field(default_factory=lambda data: str(data.get("market", "")))
    bid_micros: Micros
    budget_micros: Micros
    budget_period: BudgetPeriod = "day"
    reach: Ratio = 1.0
    value_sigma: Sigma = 0.5
    value_price_correlation: Annotated[float, Field(ge=-0.999, le=0.999)] = 0.0
    creatives: Annotated[dict[Id, Creative], Field(min_length=1)]
    weights: dict[str, Ratio] | None = None
    audiences: Annotated[dict[str, Multiple], Field(default_factory=dict)]
    conversions: Conversions
    limits: LimitOverrides = LimitOverrides()

    @property
    def weights_ppm(self) -> dict[str, int] | None:
        """The share of each creative in ppm, in the order of `creatives`; None: they share equally."""
        return None if self.weights is None else shares_ppm(self.weights, tuple(self.creatives))


class CampaignTable(Model):
    """Campaigns that are alike but for a few settings, a keyword list for one: a row each.

    like:
        What all of them say, as a campaign says it.
    columns:
        Where they differ: settings, inner ones with dots, such as `conversions.rate`.
    rows:
        By a campaign's id its values of the columns.
    """

    like: dict[str, Any]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    rows: Annotated[dict[Id, tuple[Any, ...]], Field(min_length=1)]


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
