"""What a person has to know of now: open alerts, each opened and closed by an entry in a round's ledger header.

There is at most one open alert per fingerprint (kind, campaign, knob); raised again while it is open it says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple

from engine.actions import Knob
from engine.campaigns import ACCOUNT
from engine.life import ImpossibleLife


class AlertKind(StrEnum):
    """What is wrong."""

    ROLLBACK_BLOCKED = "rollback_blocked"
    BREAKER_OPEN = "breaker_open"
    LIMITS_UNREADABLE = "limits_unreadable"
    LEASE_LOST = "lease_lost"
    POLICY_SUSPENDED = "policy_suspended"
    STATE_DIFFERS = "state_differs"


class Fingerprint(NamedTuple):
    """What an alert is about; `label` tells apart what has no campaign, such as policies."""

    kind: AlertKind
    campaign: int = ACCOUNT
    knob: Knob | None = None
    label: str = ""

    def told(self, event: str, why: str) -> dict[str, Any]:
        """An entry of a round's ledger header."""
        return {
            "alert": self.kind.value,
            "event": event,
            "campaign": self.campaign,
            "knob": None if self.knob is None else int(self.knob),
            "label": self.label,
            "why": why,
        }


@dataclass(frozen=True)
class Alerts:
    """The open alerts, each with the tick since when; replaced, never changed in place."""

    since: Mapping[Fingerprint, int]

    @classmethod
    def none(cls) -> Alerts:
        """Nothing is wrong."""
        return cls({})

    def opened(self, tick: int, about: Fingerprint, why: str) -> tuple[Alerts, list[dict[str, Any]]]:
        """With an alert open, and what the ledger is told: nothing where it was open already."""
        if about in self.since:
            return self, []
        return Alerts({**self.since, about: tick}), [about.told("opened", why)]

    def closed(self, about: Fingerprint, why: str) -> tuple[Alerts, list[dict[str, Any]]]:
        """With an alert closed, and what the ledger is told: nothing where it was not open."""
        if about not in self.since:
            return self, []
        return Alerts({key: at for key, at in self.since.items() if key != about}), [about.told("closed", why)]


@dataclass(frozen=True)
class Alert:
    """An alert as a ledger tells it: since which tick and why, and until when; open as long as that is None."""

    about: Fingerprint
    opened: int
    why: str
    closed: int | None = None
    closed_why: str = ""


@dataclass
class AlertLog:
    """All alerts that a ledger's rounds tell of, in the order in which they were opened."""

    alerts: list[Alert] = field(default_factory=list)
    open: dict[Fingerprint, int] = field(default_factory=dict)  # places among the alerts

    def take(self, tick: int, entries: Iterable[Mapping[str, Any]]) -> None:
        """Take a round's entries in; one that opens what is open, or closes what is not, is an ImpossibleLife."""
        for told in entries:
            knob = None if told["knob"] is None else Knob(told["knob"])
            about = Fingerprint(AlertKind(told["alert"]), told["campaign"], knob, told["label"])
            place = self.open.pop(about, None)
            if (told["event"], place is None) == ("opened", True):
                self.open[about] = len(self.alerts)
                self.alerts.append(Alert(about, tick, told["why"]))
            elif place is not None and told["event"] == "closed":
                self.alerts[place] = replace(self.alerts[place], closed=tick, closed_why=told["why"])
            else:
                before = "not open" if place is None else f"open since tick {self.alerts[place].opened}"
                where = "the account" if about.campaign == ACCOUNT else f"campaign {about.campaign}"
                raise ImpossibleLife(f"alert {about.kind} of {where} is {before}; {told['event']!r:.20} cannot follow")
