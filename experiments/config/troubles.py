"""Parts of a configuration: what goes wrong in a simulated world, and when.

A kind of trouble is a model of its own and a field of `Trouble`, under whose name a file tells of it.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from experiments.config.values import Chosen, ChosenMarkets, Hours, Micros, Person, Ratio, Span
from experiments.config.world import Dated, Model, When


class OfMarkets(Model):
    """What befalls markets."""

    markets: ChosenMarkets


class OfCampaigns(Model):
    """What befalls campaigns."""

    campaigns: Chosen


class OfEvents(Model):
    """What befalls a share of the recorded events, and of them alone: no count knows of it."""

    share: Ratio


class TrafficLoss(OfMarkets):
    """Some markets hold only this share of the auctions that were to be expected; 0% is an outage."""

    factor: Ratio


class TrafficRush(OfMarkets):
    """Some markets hold so many times the auctions that were to be expected."""

    factor: Annotated[float, Field(ge=1, le=1_000)]


class PriceShock(OfMarkets):
    """Some markets' competition multiplies its prices."""

    factor: Annotated[float, Field(gt=0, le=1_000)]


class BotClicks(OfMarkets):
    """Machines click a share of the impressions; nothing ever follows from that."""

    share: Ratio


class ConversionDrop(OfCampaigns):
    """The clicks of some campaigns convert less often: only this share of what they did."""

    factor: Ratio


class TrackingOutage(OfCampaigns):
    """Of the conversions that happen then this share is never reported."""

    lost: Ratio


class Disapproved(Model):
    """The platform disapproves of some creatives; what they would have shown, the campaign's others show.

    A campaign with none left rests.
    """

    campaign: str
    creatives: Annotated[tuple[str, ...], Field(min_length=1)]


class BudgetCut(Model):
    """A person cuts a campaign's budget, as a command of the script would; it stays until somebody edits it again."""

    campaign: str
    by: Person
    budget_micros: Micros


class LateEvents(OfEvents):
    """Events become known late, by an exponential delay of this mean."""

    hours: Hours


class DuplicatedEvents(OfEvents):
    """Events are recorded twice, the copy later by an exponential delay of this mean."""

    hours: Annotated[float, Field(ge=0, le=8_784)]


class MisdatedEvents(OfEvents):
    """Events bear a time that is wrong by so many hours, negative where it lies too early."""

    hours: Annotated[float, Field(ge=-8_784, le=8_784)]


class OrphanedClicks(OfEvents):
    """Impressions are missing, so that their clicks belong to none."""


TroubleKind: TypeAlias = (
    TrafficLoss
    | TrafficRush
    | PriceShock
    | BotClicks
    | ConversionDrop
    | TrackingOutage
    | Disapproved
    | BudgetCut
    | LateEvents
    | DuplicatedEvents
    | MisdatedEvents
    | OrphanedClicks
)


class Trouble(When):
    """Trouble of exactly one kind; it lasts for `hours`, but for a budget cut, which is an edit like any other."""

    hours: Span | None = None
    traffic_loss: TrafficLoss | None = None
    traffic_rush: TrafficRush | None = None
    price_shock: PriceShock | None = None
    bot_clicks: BotClicks | None = None
    conversion_drop: ConversionDrop | None = None
    tracking_outage: TrackingOutage | None = None
    disapproved: Disapproved | None = None
    budget_cut: BudgetCut | None = None
    late_events: LateEvents | None = None
    duplicated_events: DuplicatedEvents | None = None
    misdated_events: MisdatedEvents | None = None
    orphaned_clicks: OrphanedClicks | None = None

    @classmethod
    def known(cls) -> tuple[str, ...]:
        """The names of all kinds."""
        return tuple(name for name in cls.model_fields if name not in Dated.model_fields)

    @property
    def kinds(self) -> dict[str, TroubleKind]:
        """What is given, by the kind's name; a loaded configuration has exactly one."""
        given = {name: getattr(self, name) for name in self.known()}
        return {name: kind for name, kind in given.items() if kind is not None}

    @property
    def kind(self) -> TroubleKind:
        """What goes wrong."""
        return next(iter(self.kinds.values()))

    @property
    def dated(self) -> Dated:
        """When it holds; a loaded configuration says so of every kind but a budget cut."""
        assert self.hours is not None
        return Dated(day=self.day, time=self.time, hours=self.hours)
