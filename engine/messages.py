"""What goes into the machines, and what comes out of them; all of it frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self, TypeAlias

from numpy.typing import NDArray

from engine.actions import Approved, Knob
from engine.events import TickCounts
from engine.ledger import RecordKind
from engine.limits import Limits
from engine.policy import View
from engine.prices import Prices

# --- campaigns ---


@dataclass(frozen=True)
class Advanced:
    """The world moved on: counts of the campaigns' cells over a span of ticks, and wins by their price if it tells."""

    counts: TickCounts
    prices: Prices | None = None


@dataclass(frozen=True)
class Apply:
    """Put approved rows in force. Delivered again, a round is answered again and changes nothing."""

    approved: Approved


@dataclass(frozen=True)
class Publish:
    """Tell what is known at the close of a tick."""

    tick: int


CampaignMessage: TypeAlias = Advanced | Apply | Publish


@dataclass(frozen=True)
class Published:
    """The campaigns' view."""

    view: View


@dataclass(frozen=True)
class Answered:
    """A `Result` per row of a round, in the order of its rows."""

    round: int
    results: NDArray[Any]


CampaignInstruction: TypeAlias = Published | Answered

# --- optimiser ---


class Role(StrEnum):
    """What a person may do: approvers answer proposals, operators steer."""

    APPROVER = "approver"
    OPERATOR = "operator"


class CommandKind(StrEnum):
    """What a person can ask for; within a boundary they are served in this order, so freeze and deny win a race."""

    UNFREEZE = "unfreeze"
    FREEZE = "freeze"
    CLOSE_BREAKER = "close_breaker"
    DENY = "deny"
    APPROVE = "approve"
    ROLLBACK = "rollback"
    EDIT = "edit"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True)
class Command:
    """A person's command about one knob of one campaign.

    `id` makes it idempotent. `campaign` is a position, or ACCOUNT for a freeze of the whole account and for closing the
    breaker. A freeze that is
    `whole` is of all knobs of its campaign; the knob means nothing there, nor in one of the account.
    `values` are those of an edit: one for a scalar, one per creative for weights, for modifiers those of the audiences
    at the places `audiences`. `action` names the action to roll back; None means the newest one on the knob.
    """

    id: str
    kind: CommandKind
    by: str
    campaign: int
    knob: Knob
    values: tuple[int, ...] = ()
    action: int | None = None
    whole: bool = False
    audiences: tuple[int, ...] = ()

    def told(self) -> dict[str, Any]:
        """The command as the ledger holds it."""
        return {
            "id": self.id,
            "kind": self.kind.value,
            "by": self.by,
            "campaign": self.campaign,
            "knob": int(self.knob),
            "values": list(self.values),
            "action": self.action,
            "whole": self.whole,
            "audiences": list(self.audiences),
        }

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """The command that a ledger's round holds."""
        return cls(
            id=told["id"],
            kind=CommandKind(told["kind"]),
            by=told["by"],
            campaign=told["campaign"],
            knob=Knob(told["knob"]),
            values=tuple(told["values"]),
            action=told["action"],
            whole=told.get("whole", False),
            audiences=tuple(told.get("audiences", ())),
        )


@dataclass(frozen=True)
class Open:
    """The run begins with these controls in force."""

    view: View
    header: dict[str, Any]


@dataclass(frozen=True)
class Reloaded:
    """What the limits file newly says: its text, None where it has none to read, and the limits that the text gives.

    Where it gives no limits, they are None and `why` is the reason in one sentence.
    """

    document: str | None
    limits: Limits | None
    why: str | None = None

    def told(self) -> dict[str, Any]:
        """The file's text as the ledger holds it, and why it was not put in force."""
        return {"document": self.document, "why": self.why}


@dataclass(frozen=True)
class Boundary:
    """A decision is due: what is known, what was commanded, and what became of the last round.

    `reloaded` is None where no limits file changed since the last boundary. Where the optimiser is not `leased`,
    nothing begins at this boundary but pauses and rollbacks.
    """

    view: View
    commands: tuple[Command, ...]
    results: NDArray[Any]
    reloaded: Reloaded | None = None
    leased: bool = True


@dataclass(frozen=True)
class Close:
    """The run ends; what became of the last round, and what the closing record should tell."""

    tick: int
    results: NDArray[Any]
    header: dict[str, Any]


OptimiserMessage: TypeAlias = Open | Boundary | Close


@dataclass(frozen=True)
class Commit:
    """Make a record durable before anything else happens."""

    kind: RecordKind
    tick: int
    body: bytes


@dataclass(frozen=True)
class Dispatch:
    """Send approved rows to the campaigns' machines, after the commit."""

    approved: Approved


@dataclass(frozen=True)
class Answer:
    """Tell people what became of their commands: those of the round's record, with their answers."""

    tick: int
    commands: tuple[Mapping[str, Any], ...]


OptimiserInstruction: TypeAlias = Commit | Dispatch | Answer
