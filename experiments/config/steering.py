"""Parts of a configuration: who moves the controls, under which permission, and what the script has people do."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from agents import classic, ecpc, lp, pid_rule
from engine.messages import CommandKind
from experiments.config.values import (
    Band,
    Change,
    Chosen,
    Day,
    DottedClass,
    Micros,
    Multiple,
    Options,
    Person,
    PositiveMicros,
    Ratio,
    Text,
    TimeOfDay,
    band,
)
from experiments.config.world import Model, Traffic

KnobName: TypeAlias = Literal["bid", "budget", "weights", "modifiers", "paused"]


class Gains(Model):
    """Gains of a pacing policy, as `agents.classic.Gains` explains them."""

    proportional: Annotated[float, Field(ge=0, le=100)] = classic.Gains.proportional
    integral: Annotated[float, Field(ge=0, le=100)] = classic.Gains.integral


class ConstantBids(Model):
    """Keeps every bid as it is."""

    policy: Literal["constant"]


class EvenPacing(Model):
    """Paces spend evenly over the budget's period by moving bids."""

    policy: Literal["even_pi"]
    gains: Gains = Gains()


class TrafficAwarePacing(Model):
    """Paces spend along an expected traffic curve by moving bids."""

    policy: Literal["traffic_aware_pi"]
    traffic: Traffic
    gains: Gains = Gains()


class LpKm(Model):
    """Bids what the rest of the budget affords by what was seen of market prices, as `agents.lp.OnlineLP` explains.

    traffic:
        The curve of opportunities that is expected; None: that of each campaign's market.
    target_micros:
        The most that an opportunity's worth of the reference value may cost on average over the budget's period.
    """

    policy: Literal["lp_km"]
    traffic: Traffic | None = None
    half_life_hours: Annotated[float, Field(gt=0, le=10_000)] = lp.OnlineLP.half_life_hours
    expected_opportunities: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    target_micros: PositiveMicros | None = None


Fallback: TypeAlias = Annotated[ConstantBids | EvenPacing | TrafficAwarePacing | LpKm, Field(discriminator="policy")]
"""Who bids in place of a suspended policy, for the same campaigns."""


class Constant(ConstantBids):
    """Keeps some campaigns' bids as they are."""

    campaigns: Chosen


class EvenPi(EvenPacing):
    """Paces some campaigns' spend evenly."""

    campaigns: Chosen


class TrafficAwarePi(TrafficAwarePacing):
    """Paces some campaigns' spend along an expected traffic curve."""

    campaigns: Chosen


class LpKmPolicy(LpKm):
    """Bids for some campaigns what the rest of their budgets affords; a policy that is not named is this one."""

    policy: Literal["lp_km"] = "lp_km"
    campaigns: Chosen


class LearnedPolicy(Model):
    """Bids for some campaigns what a trained network makes of LP-KM's plan, as `agents.learned` explains.

    model:
        The `policy.npz` of a training, relative to the configuration's folder; None: the one that is shipped. Once
        loaded, the path is absolute.
    fingerprint:
        SHA-256 of that file. Once loaded it stands here, so that a run tells what bade, and goes on with no other.
    """

    policy: Literal["learned"]
    campaigns: Chosen
    model: Annotated[str, Field(min_length=1, max_length=4_096)] | None = None
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    traffic: Traffic | None = None
    expected_opportunities: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    target_micros: PositiveMicros | None = None


class PidRule(Model):
    """Raises some campaigns' bids by a fifth where they spend too little and cuts them by a quarter where too much."""

    policy: Literal["pid_rule"]
    campaigns: Chosen
    slack: Annotated[float, Field(ge=0, le=10)] = pid_rule.PidRule.slack
    traffic: Traffic | None = None
    target_micros: PositiveMicros | None = None


class MirrorDescent(Model):
    """Paces some campaigns by dual mirror descent, as `agents.mirror_descent` explains; `traffic` as of LP-KM."""

    policy: Literal["mirror_descent"]
    campaigns: Chosen
    resolving: bool = True
    traffic: Traffic | None = None
    expected_opportunities: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    target_micros: PositiveMicros | None = None


class DailyBudgets(Model):
    """Moves budgets once a day, each by at most `max_change`."""

    policy: Literal["daily_budgets"]
    campaigns: Chosen
    max_change: Ratio = 0.2


class PidGains(Model):
    """Gains of the eCPC controller per micro of eCPC, as `agents.ecpc.EcpcPid` explains them."""

    kp: Annotated[float, Field(ge=0, le=1)] = ecpc.EcpcPid.kp
    ki: Annotated[float, Field(ge=0, le=1)] = ecpc.EcpcPid.ki
    kd: Annotated[float, Field(ge=0, le=1)] = ecpc.EcpcPid.kd


class EcpcPid(Model):
    """Holds the cost of a click so far at a reference by moving bids; `clip` bounds log (bid / base bid)."""

    policy: Literal["ecpc_pid"]
    campaigns: Chosen
    reference_ecpc_micros: PositiveMicros
    base_bid_micros: PositiveMicros
    gains: PidGains = PidGains()
    clip: tuple[Annotated[float, Field(ge=-20, le=0)], Annotated[float, Field(ge=0, le=20)]] = ecpc.EcpcPid.clip


class UsersPolicy(Model):
    """A policy of the user's own: a class in a module that Python can import, made with `options`.

    clip:
        Takes values that the guard refuses to its nearest offer, and suspends the policy after 100 actions out of range
        in a row (`engine.shield`); otherwise they stay refused.
    fallback:
        Who bids from then on; None: LP-KM or, where the source tells no prices, traffic-aware pacing along the one
        curve that all markets of the campaigns have, where they have one, else even pacing.
    """

    policy: DottedClass
    campaigns: Chosen
    options: Options = Field(default_factory=dict)
    clip: bool = False
    fallback: Fallback | None = None


def policy(entry: object) -> str | None:
    """Which model an entry of `policies` is of: a built-in policy's by its name, the user's own by its colon."""
    name = entry.get("policy", "lp_km") if isinstance(entry, dict) else getattr(entry, "policy", None)
    if name is None:
        return None
    return UsersPolicy.__name__ if ":" in str(name) else str(name)


PolicySpec: TypeAlias = Annotated[
    Annotated[Constant, Tag("constant")]
    | Annotated[EvenPi, Tag("even_pi")]
    | Annotated[TrafficAwarePi, Tag("traffic_aware_pi")]
    | Annotated[LpKmPolicy, Tag("lp_km")]
    | Annotated[LearnedPolicy, Tag("learned")]
    | Annotated[PidRule, Tag("pid_rule")]
    | Annotated[MirrorDescent, Tag("mirror_descent")]
    | Annotated[DailyBudgets, Tag("daily_budgets")]
    | Annotated[EcpcPid, Tag("ecpc_pid")]
    | Annotated[UsersPolicy, Tag(UsersPolicy.__name__)],
    Discriminator(policy),
]


class Mandate(Model):
    """A standing permission: these knobs may move by themselves, within a band around the last value a person set.

    `exposure_cap` is the most by which bid, budget and modifiers together may raise a campaign's exposure in one round;
    None leaves it to the step law of each.
    """

    campaigns: Chosen
    knobs: Annotated[tuple[KnobName, ...], Field(min_length=1)]
    band: Band = band(("1/3", 3))
    until_day: Day | None = None
    exposure_cap: Ratio | None = None


class Window(Model):
    """A net limit of automatic rises: within so many hours a knob rises by at most `max_rise` of what it was."""

    knob: Literal["bid", "budget"]
    hours: Annotated[int, Field(ge=1, le=24)] = 24
    max_rise: Ratio


class Proposal(Model):
    """A change the scripted proposer wants.

    A scalar by `change` or to `value_micros`, the shares of `creatives`, or the modifiers of some `audiences`.
    """

    day: Day
    time: TimeOfDay
    campaign: str
    by: Text = "script"
    note: Text = ""
    knob: Literal["bid", "budget"] | None = None
    change: Change | None = None
    value_micros: Micros | None = None
    creatives: dict[str, Ratio] | None = None
    audiences: Annotated[dict[str, Multiple], Field(min_length=1)] | None = None


class Target(Model):
    """One knob of one campaign."""

    campaign: str
    knob: KnobName


class Edit(Model):
    """A person's own value for a knob.

    `value_micros` of a scalar, shares of `creatives` for weights, for modifiers those of some `audiences`.
    """

    campaign: str
    knob: Literal["bid", "budget", "weights", "modifiers"]
    value_micros: Micros | None = None
    creatives: dict[str, Ratio] | None = None
    audiences: Annotated[dict[str, Multiple], Field(min_length=1)] | None = None


class Switch(Model):
    """A campaign to pause or to resume."""

    campaign: str


class CommandSpec(Model):
    """What a person does at a time: exactly one of these; freezes and the breaker are of the whole account."""

    day: Day
    time: TimeOfDay
    by: Person
    approve: Target | None = None
    deny: Target | None = None
    rollback: Target | None = None
    edit: Edit | None = None
    pause: Switch | None = None
    resume: Switch | None = None
    freeze: Literal["account"] | None = None
    unfreeze: Literal["account"] | None = None
    close_breaker: Literal["account"] | None = None

    @property
    def orders(self) -> dict[CommandKind, Target | Edit | Switch | Literal["account"]]:
        """What is commanded, by kind; a loaded configuration has exactly one."""
        orders = {kind: getattr(self, kind.value) for kind in CommandKind}
        return {kind: order for kind, order in orders.items() if order is not None}

    @property
    def kind(self) -> CommandKind:
        """What kind of command it is."""
        return next(iter(self.orders))

    @property
    def target(self) -> tuple[str | None, KnobName]:
        """The campaign and the knob it is about; None where it is about the account."""
        order = self.orders[self.kind]
        if order == "account":
            return None, "paused"
        return order.campaign, "paused" if isinstance(order, Switch) else order.knob


class Script(Model):
    """What happens in an unattended run: wishes of a proposer, commands of people."""

    proposals: tuple[Proposal, ...] = ()
    commands: tuple[CommandSpec, ...] = ()
