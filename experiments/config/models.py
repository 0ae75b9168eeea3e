"""What a configuration file may say: frozen, strict models, read once and handed on as values.

Money is in micros of the account's currency, times of day are local to the account's zone, days count from 1.
`experiments.config.load_config` is the way in: it also checks what one part of a file says against another.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta
from functools import cached_property
from typing import Annotated, Literal, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import Field

from engine.metrics import ScoreTargets
from engine.units import TickGrid, microseconds
from experiments.config.steering import Mandate, PolicySpec, Script, Window
from experiments.config.troubles import Trouble
from experiments.config.values import Id, PositiveMicros, Ratio, Zone
from experiments.config.world import (
    Account,
    Attribution,
    Audience,
    CampaignTable,
    ChargingBasis,
    Dated,
    HardLimits,
    LoggedAuction,
    Market,
    Model,
    ReplayedCampaign,
    ReplayTime,
    SimulatedCampaign,
    SimulationTime,
)

SCHEMA_VERSION = 1

Roles: TypeAlias = Annotated[tuple[Literal["approver", "operator"], ...], Field(min_length=1)]


class Score(Model):
    """Weights (sum 1) and targets of the performance score."""

    ctr_weight: Ratio = 0.3
    cvr_weight: Ratio = 0.3
    roas_weight: Ratio = 0.4
    ctr_target: Annotated[float, Field(gt=0)] = 0.05
    cvr_target: Annotated[float, Field(gt=0)] = 0.10
    roas_target: Annotated[float, Field(gt=0)] = 3.0

    @property
    def targets(self) -> ScoreTargets:
        """The same for `engine.metrics`."""
        return ScoreTargets(**self.model_dump())


class AuctionLog(Model):
    """A log of won auctions, one row each, of one campaign and without times: `rows_per_tick` make a tick."""

    format: Literal["ipinyou_auctions"]
    campaign: str
    rows_per_tick: Annotated[int, Field(ge=1, le=10**9)]
    win_rule: Literal[">", ">="]
    logged_bid_micros: PositiveMicros
    value: Literal["predicted_ctr", "published_linear", "flat"]
    max_reject_share: Ratio = 0.01


class BinLog(Model):
    """A log of several campaigns in equal bins of local time in `zone`: outcomes are as logged, nothing is applied."""

    format: Literal["ipinyou_bins"]
    zone: Zone
    max_reject_share: Ratio = 0.01


class _Common(Model):
    schema_version: Literal[1]
    name: Id
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    account: Account
    decision_every: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    record: tuple[Literal["events", "opportunities"], ...] = ()
    shards: Annotated[int, Field(ge=1, le=1_024)] = 2
    campaigns_per_actor: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    policies: tuple[PolicySpec, ...] = ()
    mandates: tuple[Mandate, ...] = ()
    windows: tuple[Window, ...] = ()
    limits: HardLimits
    delay_horizon_hours: Annotated[float, Field(gt=0, le=720)] = 24
    limits_file: Annotated[str, Field(min_length=1, max_length=4_096)] | None = None
    approver: Literal["none", "scripted"] = "none"
    people: dict[Id, Annotated[tuple[Literal["approver", "operator"], ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    script: Script = Script()
    score: Score = Score()


class SimulationConfig(_Common):
    """A run in a simulated world.

    campaign_tables:
        Further campaigns, as rows of tables. Once loaded, they stand among `campaigns`.
    """

    source: Literal["simulation"]
    fidelity: Literal["opportunity", "aggregate"] = "opportunity"
    time: SimulationTime
    audiences: Annotated[dict[Id, Audience], Field(default_factory=dict)]
    markets: Annotated[dict[Id, Market], Field(min_length=1)]
    campaigns: Annotated[dict[Id, SimulatedCampaign], Field(min_length=1)]
    campaign_tables: Annotated[tuple[CampaignTable, ...], Field(exclude=True)] = ()
    attribution: Attribution | None = None
    troubles: tuple[Trouble, ...] = ()

    @cached_property
    def grid(self) -> TickGrid:
        """The run's calendar, local days of 23 and 25 hours included."""
        end = self.time.start + timedelta(days=self.time.days)
        length = local_us(end, self.account.zone) - local_us(self.time.start, self.account.zone)
        ticks = length // (self.time.tick_minutes * 60_000_000)
        return TickGrid(self.time.start, self.time.tick_minutes, max(ticks, 1), self.account.zone)


class ReplayConfig(_Common):
    """A run over a log."""

    source: Literal["replay"]
    time: ReplayTime
    log: Annotated[AuctionLog | BinLog, Field(discriminator="format")]
    auction: LoggedAuction
    charging: ChargingBasis = "per_impression"
    campaigns: Annotated[dict[Id, ReplayedCampaign], Field(min_length=1)]

    def grid(self, ticks: int) -> TickGrid:
        """The run's calendar, once the log has told its length."""
        return TickGrid(self.time.start, self.time.tick_minutes, ticks, self.account.zone)


RunConfig: TypeAlias = SimulationConfig | ReplayConfig


def limits_of(config: RunConfig, campaign: str) -> HardLimits:
    """The bounds of a campaign: the account's, with its own in their place."""
    return config.campaigns[campaign].limits.over(config.limits)


def audiences_of(config: RunConfig, campaign: str) -> tuple[str, ...]:
    """The audiences that a campaign's market tells apart; none where it does not, or is not in the file."""
    if not isinstance(config, SimulationConfig) or campaign not in config.campaigns:
        return ()
    market = config.markets.get(config.campaigns[campaign].market)
    return () if market is None else tuple(market.audiences)


def members(config: RunConfig, chosen: Literal["all"] | tuple[str, ...]) -> tuple[str, ...]:
    """The campaigns that a policy or mandate names, sorted by id."""
    return tuple(sorted(config.campaigns if chosen == "all" else chosen))


def boundary_tick(config: RunConfig, day: int, at: time) -> int:
    """The tick that closes at a local time of the run's `day`: a decision taken then acts from the next tick."""
    return opening_tick(config, day, at) - 1


def opening_tick(config: RunConfig, day: int, at: time) -> int:
    """The tick in which a local time of the run's `day` lies; its first moment where the two agree."""
    start = config.time.start
    moment = datetime.combine(start.date() + timedelta(days=day - 1), at)
    passed = local_us(moment, config.account.zone) - local_us(start, config.account.zone)
    return passed // (config.time.tick_minutes * 60_000_000)


def ticks_of(config: SimulationConfig, dated: Dated) -> tuple[int, int]:
    """The first tick of a time in the run, and the first after it."""
    first = opening_tick(config, dated.day, dated.time)
    return first, first + round(dated.hours * 60 / config.time.tick_minutes)


def local_us(moment: datetime, zone: str) -> int:
    """Event time of a naive local time in a zone; the first of two where the clocks go back."""
    return microseconds(moment.replace(tzinfo=ZoneInfo(zone)))
