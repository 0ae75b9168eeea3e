"""Parts of a configuration: what goes wrong in a simulated world, and when.

A kind of trouble is a model of its own and a field of `Trouble`, under whose name a file tells of it.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from experiments.config.values import ChosenMarkets, Ratio
from experiments.config.world import Dated, Model


class TrafficLoss(Model):
    """Some markets hold only this share of the auctions that were to be expected; 0% is an outage."""

    markets: ChosenMarkets
    factor: Ratio


class PriceShock(Model):
    """Some markets' competition multiplies its prices."""

    markets: ChosenMarkets
    factor: Annotated[float, Field(gt=0, le=1_000)]


TroubleKind: TypeAlias = TrafficLoss | PriceShock


class Trouble(Dated):
    """A time of trouble of exactly one kind."""

    traffic_loss: TrafficLoss | None = None
    price_shock: PriceShock | None = None

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
