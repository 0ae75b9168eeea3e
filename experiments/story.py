"""The life of a campaign's changes, told from the ledger's records alone.

A change is what one party asked for one knob in one round: a scalar, or the weights of all creatives. A policy's steps
inside its mandate are routine and are summed up per day; everything else is told one by one, with what became of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import Any

import numpy as np

from engine.actions import ROW_BITS, Knob, Result, Source
from engine.errors import BadInput
from engine.guard import EXPLANATIONS, Outcome, Reason
from engine.ledger import LedgerError, Record, RecordKind, Round, decode, decode_round
from engine.messages import ACCOUNT
from engine.runtime.plan import DAY_MINUTES
from engine.units import Int64, TickGrid, moment
from experiments.config.values import nearest

_UNDOES = re.compile(r"rolls back action (\d+)")
_OUTCOMES = {outcome.name.lower() for outcome in Outcome}
_SENTENCES = {reason.name.lower(): sentence for reason, sentence in EXPLANATIONS.items()}
_ANSWERS = {
    "nothing_pending": "nothing was waiting",
    "proposer_cannot_approve": "the proposer cannot approve",
    "account_frozen": "the account is frozen",
    "knob_frozen": "the knob is frozen",
    "limits_changed": "the limits changed meanwhile",
    "unknown_person": "this run knows no such person",
    "unknown_campaign": "there is no such campaign",
    "needs_role_approver": "this takes an approver",
    "needs_role_operator": "this takes an operator",
    "unknown_action": "no such action is in reach",
    "already_rolled_back": "it was rolled back already",
    "already_asked": "somebody asked for it at the same moment",
    "is_a_rollback": "a rollback is not rolled back",
    "later_change": "a later change stands upon it",
    "later_edit": "a person's later edit stands upon it",
    "profit": "profit per opportunity",
    "spend_rate": "it spends faster than it can explain",
    "no_conversions": "conversions were due and none came",
}
_VERDICTS = {"rolls_back", "blocked", "kept", "no_data"}
"""What a watch says that the changes do not tell by themselves."""


@dataclass(frozen=True)
class Part:
    """One value of a change: its creative (None for a scalar), before, after, and what the guard offered instead."""

    creative: str | None
    old: int
    wanted: int
    offer: int | None


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
    events: list[Event] = field(default_factory=list)
    times: int = 1
    until: str | None = None
    latest: tuple[Part, ...] = ()

    @property
    def is_routine(self) -> bool:
        """Whether a policy did within its mandate what it is there for, and nothing followed from it."""
        by_itself = self.source == "policy" and self.outcome == "approved" and self.knob != "paused"
        return by_itself and all(event.what in {"applied", "recorded", "pending"} for event in self.events)

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
class Steps:
    """A day's routine steps on one knob: how many, from which value to which."""

    knob: str
    count: int
    first: tuple[Part, ...]
    last: tuple[Part, ...]


@dataclass(frozen=True)
class Day:
    """A local day: its routine steps, and the changes and orders in the order of the ledger."""

    date: str
    steps: list[Steps]
    entries: list[Change | Order]


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


def tell(records: Iterable[Record], campaign: str) -> Story:
    """Tell a campaign's story.

    Raises
    ------
    BadInput
        Where the run has no such campaign.
    LedgerError
        Where the records do not begin with an opening that a run wrote.
    """
    remaining = iter(records)
    teller = _Teller(_opening(next(remaining, None)), campaign)
    count = 1
    for record in remaining:
        teller.take(record)
        count += 1
    return teller.story(count)


def _opening(record: Record | None) -> dict[str, Any]:
    """The header of an opening, with each campaign's creatives under `creatives_of`."""
    if record is None or record.kind is not RecordKind.OPENING:
        raise LedgerError("the ledger has no opening: there is nothing to tell")
    header, tables = decode(record.body)
    try:
        ids, start = header["campaigns"], tables["layout"]["cell_start"].tolist()
        cells = header["creatives"]
        return header | {
            "creatives_of": {name: cells[start[at] : start[at + 1]] for at, name in enumerate(ids)},
            "grid": _grid(header["config"]),
        }
    except KeyError as error:
        raise LedgerError(
            f"the ledger's opening names no {error.args[0]}: tell it with the bidtwin that wrote it"
        ) from None


def _grid(config: Mapping[str, Any]) -> TickGrid:
    """The run's calendar, whose length does not matter here."""
    time = config["time"]
    return TickGrid(datetime.fromisoformat(time["start"]), time["tick_minutes"], 1, config["account"]["zone"])


class _Teller:
    """Follows one campaign through the rounds."""

    def __init__(self, header: Mapping[str, Any], campaign: str) -> None:
        names: list[str] = header["campaigns"]
        if campaign not in names:
            raise BadInput(f"campaign (={campaign!r}) is not in this run: {nearest(campaign, names)}")
        self._header = header
        self._campaign = campaign
        self._place = names.index(campaign)
        self._creatives: list[str] = header["creatives_of"][campaign]
        self._grid: TickGrid = header["grid"]
        self._patience = DAY_MINUTES // self._grid.tick_minutes
        self._told: list[Change | Order] = []
        self._waiting: dict[Knob, tuple[int, Change]] = {}  # since which tick
        self._of_action: dict[int | None, Change] = {}
        self._cause: dict[tuple[Knob, Reason], Change] = {}  # what a hold or a cooldown comes from
        self._due: list[tuple[int, Knob, Change, Event]] = []  # places among the next results, and what they decide

    def take(self, record: Record) -> None:
        told = decode_round(record)
        self._settle(told)
        if record.kind is RecordKind.ROUND:
            self._expire(record.tick)
            self._judged(record, told)

    def story(self, records: int) -> Story:
        for _, _, change, event in self._due:
            change.events.append(_but(event, "pending"))
        for _, change in self._waiting.values():
            change.events.append(Event(change.at, "unanswered"))
        config = self._header["config"]
        days = [_day(date, list(told)) for date, told in groupby(self._told, key=lambda each: each.at[:10])]
        return Story(
            self._campaign,
            config["name"],
            config["account"]["zone"],
            config["account"]["currency"],
            records,
            _joined(days),
        )

    def _at(self, tick: int) -> str:
        """When a decision at the close of a tick acts, in local time."""
        return moment(self._grid.opens(tick + 1), self._grid.zone).isoformat(timespec="minutes")

    def _settle(self, told: Round) -> None:
        """Tell what became of the last round's approved rows."""
        for place, knob, change, event in self._due:
            result = Result(int(told.results[place]))
            change.events.append(_but(event, event.what if result is Result.APPLIED else result.name.lower()))
            if result is not Result.APPLIED:
                continue
            if event.what == "rolled back":
                self._cause[knob, Reason.COOLDOWN] = change
                continue
            if change.source == "person":
                self._cause[knob, Reason.PERSONS_HOLD] = change
            elif change.outcome == "needs_approval":  # what passes by itself stands inside a mandate, which has none
                self._cause[knob, Reason.COOLDOWN] = change
        self._due = []

    def _expire(self, tick: int) -> None:
        for knob, (since, change) in list(self._waiting.items()):
            if tick - since > self._patience:
                change.events.append(Event(self._at(since + self._patience), "expired"))
                del self._waiting[knob]

    def _judged(self, record: Record, told: Round) -> None:
        runs = _runs(told)
        results = np.cumsum(told.judged["outcome"] == Outcome.APPROVED) - 1
        asked = 0  # runs that belong to people's commands: they come first, in order
        for command in told.header["commands"]:
            rows = None
            if command["answer"].split(":")[0] in _OUTCOMES:
                rows = runs[asked]
                asked += 1
            if command["campaign"] in {self._place, ACCOUNT}:
                self._commanded(record, told, command, rows, results)
        for watch in told.header.get("watches", []):
            self._watched(record, watch)
        waiting: dict[Knob, Change] = {}
        for rows in runs[asked:]:
            if told.judged["campaign"][rows[0]] == self._place:
                for single in [rows] if told.judged["knob"][rows[0]] == Knob.WEIGHTS else [[row] for row in rows]:
                    self._proposed(record, told, single, results, waiting)
        for knob, change in waiting.items():
            self._waiting[knob] = record.tick, change

    def _commanded(
        self, record: Record, told: Round, command: Mapping[str, Any], rows: list[int] | None, results: Int64
    ) -> None:
        """Tell what a person's command came to."""
        at, by, kind, knob = self._at(record.tick), command["by"], command["kind"], Knob(command["knob"])
        word, _, why = command["answer"].partition(": ")
        granted = word == "approved"
        no = None if granted else _SENTENCES.get(why) or _ANSWERS.get(word, word.replace("_", " "))
        undone = self._to_undo(command) if kind == "rollback" else None
        if kind == "approve" and knob in self._waiting and (rows is not None or word == "limits_changed"):
            _, change = self._waiting.pop(knob)
            change.events.append(Event(at, "approved", by, no))
            if rows is not None and granted:
                self._follow(record, told, rows, results, change, Event(at, "applied"))
        elif kind == "deny" and knob in self._waiting and word == "denied":
            _, change = self._waiting.pop(knob)
            change.events.append(Event(at, "denied", by))
        elif undone is not None and rows is not None and granted:
            self._follow(record, told, rows, results, undone, Event(at, "rolled back", by))
        elif undone is not None:
            undone.events.append(Event(at, "not rolled back", by, no))
        elif rows is not None:
            self._proposed(record, told, rows, results, {})
        else:
            about = None if command["campaign"] == ACCOUNT or command.get("whole", False) else knob.name.lower()
            self._told.append(Order(at, kind, by, about, no or word))

    def _watched(self, record: Record, told: Mapping[str, Any]) -> None:
        """Tell what the watch over a change says."""
        change = self._of_action.get(told["action"]) if told["campaign"] == self._place else None
        if change is not None and told["event"] in _VERDICTS:
            what, why = (word.replace("_", " ") for word in (told["event"], told["why"]))
            change.events.append(Event(self._at(record.tick), f"watch: {what}", None, _ANSWERS.get(told["why"], why)))

    def _to_undo(self, command: Mapping[str, Any]) -> Change | None:
        """The change that a command to roll back is about."""
        return self._of_action.get(command["undoes"] if command["action"] is None else command["action"])

    def _proposed(
        self, record: Record, told: Round, rows: list[int], results: Int64, waiting: dict[Knob, Change]
    ) -> None:
        """Tell a change that was judged, and what it does to those before it."""
        change, knob = self._change(record, told, rows), Knob(int(told.judged["knob"][rows[0]]))
        undoes = _UNDOES.fullmatch(change.note) if change.source == "rollback" else None
        undone = self._of_action.get(int(undoes[1])) if undoes else None
        reason = Reason(int(told.judged["reason"][rows[0]]))
        if undone is not None and change.outcome == "approved":  # a person's rollback came as a command
            self._follow(record, told, rows, results, undone, Event(change.at, "rolled back", change.proposer))
            return
        if undone is not None:
            undone.events.append(Event(change.at, "not rolled back", change.proposer, change.reason))
            return
        self._told.append(change)
        cause = self._cause.get((knob, reason))
        if cause is not None:
            cause.events.append(Event(change.at, "held back", change.proposer, change.reason, None, change.parts))
        if change.outcome == "approved":
            self._follow(record, told, rows, results, change, Event(change.at, "applied"))
        elif change.outcome == "needs_approval":
            before = self._waiting.pop(knob, (0, None))[1] or waiting.get(knob)
            if before is not None:
                before.events.append(Event(change.at, "superseded", change.proposer))
            waiting[knob] = change

    def _change(self, record: Record, told: Round, rows: list[int]) -> Change:
        judged, first = told.judged, rows[0]
        offers = dict(zip(told.offers["row"].tolist(), told.offers["offer"].tolist(), strict=True))
        source = int(judged["source"][first])
        proposer, note = told.header["notes"][int(judged["note"][first])]
        reason = Reason(int(judged["reason"][first]))
        return Change(
            at=self._at(record.tick),
            knob=_name(Knob, int(judged["knob"][first])),
            source=_name(Source, source),
            proposer=proposer,
            note=note,
            base_version=int(judged["base_version"][first]),
            parts=tuple(
                Part(self._creative(judged, row), int(judged["old"][row]), int(judged["wanted"][row]), offers.get(row))
                for row in rows
            ),
            outcome=Outcome(int(judged["outcome"][first])).name.lower(),
            reason=EXPLANATIONS.get(reason),
        )

    def _creative(self, judged: Mapping[str, Any], row: int) -> str | None:
        if judged["knob"][row] != Knob.WEIGHTS:
            return None
        index = int(judged["index"][row])
        return self._creatives[index] if 0 <= index < len(self._creatives) else f"creative {index}"

    def _follow(
        self, record: Record, told: Round, rows: list[int], results: Int64, change: Change, event: Event
    ) -> None:
        """Remember what the next record's results decide about a change."""
        shown = self._change(record, told, rows)
        if event.what == "applied":
            self._of_action[(record.sequence << ROW_BITS) + rows[0]] = change
        parts = shown.parts if event.what == "rolled back" else ()
        done = replace(event, version=shown.base_version + 1, parts=parts)
        self._due.append((int(results[rows[0]]), Knob[shown.knob.upper()], change, done))


def _runs(told: Round) -> list[list[int]]:
    """The judged rows of a round in runs of one note, campaign and knob."""
    keys = zip(*(told.judged[name].tolist() for name in ("note", "campaign", "knob")), strict=True)
    return [[row for row, _ in run] for _, run in groupby(enumerate(keys), key=lambda each: each[1])]


def _name(numbered: type[Knob | Source], value: int) -> str:
    """A code as its word; one that nothing is called by stays the number it is."""
    return numbered(value).name.lower() if value in list(numbered) else str(value)


def _but(event: Event, what: str) -> Event:
    """The event as it turned out: unless it took place, no version came of it."""
    return event if what == event.what else Event(event.at, what, event.by)


def _day(date: str, told: Sequence[Change | Order]) -> Day:
    """A day's routine steps summed up, and the rest as it is."""
    steps: dict[str, list[Change]] = {}
    entries: list[Change | Order] = []
    for each in told:
        if isinstance(each, Change) and each.is_routine:
            steps.setdefault(each.knob, []).append(each)
        else:
            entries.append(each)
    sums = [Steps(knob, len(made), made[0].parts, made[-1].parts) for knob, made in steps.items()]
    return Day(date, sums, entries)


def _joined(days: Iterable[Day]) -> list[Day]:
    """The days, with what was only said again told once, where it was said first."""
    last: dict[str, Change] = {}
    return [Day(day.date, day.steps, list(_first_times(day.entries, last))) for day in days]


def _first_times(entries: Iterable[Change | Order], last: dict[str, Change]) -> Iterator[Change | Order]:
    for each in entries:
        before = last.get(each.knob) if isinstance(each, Change) else None
        if isinstance(each, Change):
            if before is not None and each.repeats(before):
                before.times, before.until = before.times + 1, each.at
                before.latest, before.events = each.parts, each.events
                continue
            last[each.knob] = each
        yield each
