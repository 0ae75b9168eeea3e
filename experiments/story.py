"""The life of a campaign's changes as a ledger tells it: days, and on each what was asked and what became of it.

A change is what one party asked for one knob in one round: a scalar, the weights of all creatives, or the modifiers of
some audiences. A policy's steps
inside its mandate are routine and are summed up per day; everything else is told one by one, with what became of it.
`experiments.telling` makes a story from records, `experiments.report.story_lines` puts it into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Part:
    """One value of a change: its creative or audience, if any, before, after, and what the guard offered instead.

    `raw` is what was asked for where it was clipped to `wanted`.
    """

    creative: str | None
    old: int
    wanted: int
    offer: int | None
    raw: int | None = None
    audience: str | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened to a change.

    `version` is the knob's after it was applied; `parts` are the values that a rollback restored, or that a later
    change wanted.
    """

    at: str
    what: str
    by: str | None = None
    why: str | None = None
    version: int | None = None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What a change was expected to do before it was judged.

    `spend_per_day_micros` is the change of the campaign's spend, None where it could not be told.
    """

    spend_per_day_micros: int | None
    by: str


@dataclass
class Change:
    """A judged change, asked `times` times with the same answer: at last `until`, for the values of `latest`."""

    at: str
    knob: str
    source: str
    proposer: str
    note: str
    base_version: int
    parts: tuple[Part, ...]
    outcome: str
    reason: str | None
    prediction: Prediction | None = None
    events: list[Event] = field(default_factory=list)
    times: int = 1
    until: str | None = None
    latest: tuple[Part, ...] = ()

    @property
    def is_routine(self) -> bool:
        """Whether a policy did within its mandate what it is there for, and nothing followed from it."""
        by_itself = self.source == "policy" and self.outcome == "approved" and self.knob != "paused"
        return by_itself and all(event.what in {"applied", "recorded", "pending"} for event in self.events)

    @property
    def is_clipped(self) -> bool:
        """Whether another value was asked for than was judged in the end."""
        return any(part.raw is not None for part in self.parts)

    def repeats(self, other: Change) -> bool:
        """Whether it says again what another said before it, to the same end."""
        same = ("knob", "source", "proposer", "note", "outcome", "reason")
        in_vain = self.outcome == "refused" or [event.what for event in other.events] == ["superseded"]
        return in_vain and all(getattr(self, name) == getattr(other, name) for name in same)


@dataclass(frozen=True)
class Order:
    """A person's command that moved nothing by itself: a freeze, or one that was not served."""

    at: str
    kind: str
    by: str
    knob: str | None
    answer: str


@dataclass(frozen=True)
class Alarm:
    """An alert about the campaign or the whole account, until `closed`; None where the ledger ends before that."""

    at: str
    alert: str
    why: str
    closed: str | None = None
    closed_why: str | None = None


Entry: TypeAlias = Change | Order | Alarm


@dataclass(frozen=True)
class Steps:
    """A day's routine steps on one knob: how many, how many of them clipped, from which value to which."""

    knob: str
    count: int
    clipped: int
    first: tuple[Part, ...]
    last: tuple[Part, ...]


@dataclass(frozen=True)
class Day:
    """A local day: its routine steps, and the changes, orders and alerts in the order of the ledger."""

    date: str
    steps: list[Steps]
    entries: list[Entry]


@dataclass(frozen=True)
class Story:
    """What a ledger tells about one campaign; times are local, money is in micros."""

    campaign: str
    name: str
    zone: str
    currency: str
    records: int
    days: list[Day]

    def as_json(self) -> dict[str, Any]:
        """The story as one JSON value."""
        return asdict(self)


def day_of(date: str, told: Sequence[Entry]) -> Day:
    """A day's routine steps summed up, and the rest as it is."""
    steps: dict[str, list[Change]] = {}
    entries: list[Entry] = []
    for each in told:
        if isinstance(each, Change) and each.is_routine:
            steps.setdefault(each.knob, []).append(each)
        else:
            entries.append(each)
    sums = [
        Steps(knob, len(made), sum(change.is_clipped for change in made), made[0].parts, made[-1].parts)
        for knob, made in steps.items()
    ]
    return Day(date, sums, entries)


def joined(days: Iterable[Day]) -> list[Day]:
    """The days, with what was only said again told once, where it was said first."""
    last: dict[str, Change] = {}
    return [Day(day.date, day.steps, list(_first_times(day.entries, last))) for day in days]


def _first_times(entries: Iterable[Entry], last: dict[str, Change]) -> Iterator[Entry]:
    for each in entries:
        before = last.get(each.knob) if isinstance(each, Change) else None
        if isinstance(each, Change):
            if before is not None and each.repeats(before):
                before.times, before.until = before.times + 1, each.at
                before.latest, before.events = each.parts, each.events
                continue
            last[each.knob] = each
        yield each
