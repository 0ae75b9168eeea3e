"""Telling stories: a ledger's records, followed for one campaign or for several at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.actions import ROW_BITS, Knob, Result, Source
from engine.alerts import Alert, AlertLog
from engine.campaigns import ACCOUNT
from engine.errors import BadInput
from engine.judgement import EXPLANATIONS, Outcome, Reason
from engine.ledger import LedgerError, Record, RecordKind, Round, decode, decode_round
from engine.runtime.plan import DAY_MINUTES
from engine.units import Int64, TickGrid, moment
from experiments.config.values import nearest
from experiments.story import Alarm, Change, Entry, Event, Order, Part, Prediction, Story, day_of, joined
from experiments.wording import ANSWERS, SENTENCES, explained, of_alert, of_watch

_VECTORS = (Knob.WEIGHTS, Knob.MODIFIERS)
_UNDOES = re.compile(r"rolls back action (\d+)")
_OUTCOMES = {outcome.name.lower() for outcome in Outcome}


def tell(records: Iterable[Record], campaign: str) -> Story:
    """Tell a campaign's story.

    Raises
    ------
    BadInput
        Where the run has no such campaign.
    LedgerError
        Where the records do not begin with an opening that a run wrote.
    """
    return tell_all(records, [campaign])[campaign]


def tell_all(records: Iterable[Record], campaigns: Collection[str]) -> dict[str, Story]:
    """Tell the stories of several campaigns, reading the records once; see `tell`."""
    remaining = iter(records)
    header = _opening(next(remaining, None))
    tellers = {campaign: _Teller(header, campaign) for campaign in campaigns}
    places = np.array(sorted(teller.place for teller in tellers.values()), dtype=np.int64)
    count = 1
    for record in remaining:
        heard = _Heard.of(record, places)
        for teller in tellers.values():
            teller.take(heard)
        count += 1
    return {campaign: teller.story(count) for campaign, teller in tellers.items()}


def told_alerts(records: Iterable[Record], campaigns: int) -> list[Alert]:
    """The alerts that a ledger's records tell of, in the order in which they were opened.

    Raises
    ------
    LedgerError
        Where a record tells of alerts what cannot be.
    """
    log = AlertLog()
    for record in records:
        if record.kind is not RecordKind.ROUND:
            continue
        try:
            log.take(record.tick, decode_round(record).header.get("alerts", ()))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise LedgerError(f"record {record.sequence} tells what cannot be: {error}") from None
        if any(not ACCOUNT <= about.campaign < campaigns for about in log.open):
            raise LedgerError(f"record {record.sequence} tells of an alert about no campaign of this run")
    return log.alerts


def _opening(record: Record | None) -> dict[str, Any]:
    """The header of an opening, with each campaign's creatives and audiences under `parts_of`."""
    if record is None or record.kind is not RecordKind.OPENING:
        raise LedgerError("the ledger has no opening: there is nothing to tell")
    header, tables = decode(record.body)
    try:
        ids, layout = header["campaigns"], tables["layout"]
        named = {Knob.WEIGHTS: ("creatives", "creative_start"), Knob.MODIFIERS: ("audiences", "audience_start")}
        parts: dict[str, dict[Knob, list[str]]] = {name: {} for name in ids}
        for knob, (what, starts) in named.items():
            names, start = header[what], layout[starts].tolist()
            for at, campaign in enumerate(ids):
                parts[campaign][knob] = names[start[at] : start[at + 1]]
        return header | {"parts_of": parts, "grid": calendar(header["config"])}
    except KeyError as error:
        raise LedgerError(
            f"the ledger's opening names no {error.args[0]}: tell it with the bidtwin that wrote it"
        ) from None


def calendar(config: Mapping[str, Any]) -> TickGrid:
    """The run's calendar, whose length does not matter here."""
    time = config["time"]
    return TickGrid(datetime.fromisoformat(time["start"]), time["tick_minutes"], 1, config["account"]["zone"])


Rows = list[int]
"""The judged rows of one change."""


@dataclass(frozen=True)
class _Heard:
    """A round or a closing as the tellers need it.

    `commanded` are the rows that each command asked for, if any; `proposed` those of everybody else, by campaign;
    `results` the place that each approved row has among the next results.
    """

    record: Record
    told: Round
    commanded: list[Rows | None]
    proposed: Mapping[int, list[Rows]]
    results: Int64

    @classmethod
    def of(cls, record: Record, places: Int64) -> _Heard:
        """What a record tells of some campaigns, by their places."""
        told = decode_round(record)
        if record.kind is not RecordKind.ROUND:
            return cls(record, told, [], {}, np.empty(0, dtype=np.int64))
        judged, row = told.judged, 0
        commanded: list[Rows | None] = []
        for command in told.header["commands"]:  # people's rows come first, in order
            rows = None
            if command["answer"].split(":")[0] in _OUTCOMES:
                rows = next(_runs(judged, range(row, len(judged["campaign"]))))
                row = rows[-1] + 1
            commanded.append(None if rows is None else _moving(judged, rows))
        others = row + np.flatnonzero(np.isin(judged["campaign"][row:], places))
        proposed: dict[int, list[Rows]] = {}
        for rows in _runs(judged, others.tolist()):
            whole = judged["knob"][rows[0]] in _VECTORS
            proposed.setdefault(int(judged["campaign"][rows[0]]), []).extend(
                [_moving(judged, rows)] if whole else [[at] for at in rows]
            )
        return cls(record, told, commanded, proposed, np.cumsum(judged["outcome"] == Outcome.APPROVED) - 1)

    @cached_property
    def offers(self) -> dict[int, int]:
        """What the guard offered instead, by row."""
        offers = self.told.offers
        return dict(zip(offers["row"].tolist(), offers["offer"].tolist(), strict=True))

    @cached_property
    def predictions(self) -> dict[int, Prediction]:
        """What was expected of changes, by their first row; nothing in a ledger that does not tell."""
        return {
            each["row"]: Prediction(each["spend_per_day_micros"], each["by"])
            for each in self.told.header.get("impacts", [])
        }


class _Teller:
    """Follows one campaign through the rounds."""

    def __init__(self, header: Mapping[str, Any], campaign: str) -> None:
        names: list[str] = header["campaigns"]
        if campaign not in names:
            raise BadInput(f"campaign (={campaign!r}) is not in this run: {nearest(campaign, names)}")
        self.place = names.index(campaign)
        self._header = header
        self._campaign = campaign
        self._parts: Mapping[Knob, list[str]] = header["parts_of"][campaign]
        self._grid: TickGrid = header["grid"]
        self._patience = DAY_MINUTES // self._grid.tick_minutes
        self._told: list[Entry] = []
        self._waiting: dict[Knob, tuple[int, Change]] = {}  # since which tick
        self._of_action: dict[int | None, Change] = {}
        self._cause: dict[tuple[Knob, Reason], Change] = {}  # what a hold or a cooldown comes from
        self._due: list[tuple[int, Knob, Change, Event]] = []  # places among the next results, and what they decide
        self._begun: dict[int, Event] = {}  # by their first actions, episodes of which nothing came so far
        self._alarms: dict[tuple[Any, ...], int] = {}  # open ones, by what they are about: their places in `_told`

    def take(self, heard: _Heard) -> None:
        self._settle(heard.told)
        if heard.record.kind is RecordKind.ROUND:
            self._expire(heard.record.tick)
            self._judged(heard)

    def story(self, records: int) -> Story:
        for _, _, change, event in self._due:
            change.events.append(_but(event, "pending"))
        for _, change in self._waiting.values():
            change.events.append(Event(change.at, "unanswered"))
        config = self._header["config"]
        days = [day_of(date, list(told)) for date, told in groupby(self._told, key=lambda each: each.at[:10])]
        return Story(
            self._campaign,
            config["name"],
            config["account"]["zone"],
            config["account"]["currency"],
            records,
            joined(days),
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

    def _judged(self, heard: _Heard) -> None:
        header = heard.told.header
        for command, rows in zip(header["commands"], heard.commanded, strict=True):
            if command["campaign"] in {self.place, ACCOUNT}:
                self._commanded(heard, command, rows)
        for watch in header.get("watches", []):
            self._watched(heard, watch)
        waiting: dict[Knob, Change] = {}
        for rows in heard.proposed.get(self.place, []):
            self._proposed(heard, rows, waiting)
        for knob, change in waiting.items():
            self._waiting[knob] = heard.record.tick, change
        for alert in header.get("alerts", []):
            if alert["campaign"] in {self.place, ACCOUNT}:
                self._alerted(heard, alert)

    def _commanded(self, heard: _Heard, command: Mapping[str, Any], rows: Rows | None) -> None:
        """Tell what a person's command came to."""
        at, by, kind, knob = self._at(heard.record.tick), command["by"], command["kind"], Knob(command["knob"])
        word, _, why = command["answer"].partition(": ")
        granted = word == "approved"
        no = None if granted else SENTENCES.get(why) or ANSWERS.get(word) or word.replace("_", " ")
        undone = self._to_undo(command) if kind == "rollback" else None
        if kind == "approve" and knob in self._waiting and (rows is not None or word == "limits_changed"):
            _, change = self._waiting.pop(knob)
            change.events.append(Event(at, "approved", by, no))
            if rows is not None and granted:
                self._follow(heard, rows, change, Event(at, "applied"))
        elif kind == "deny" and knob in self._waiting and word == "denied":
            _, change = self._waiting.pop(knob)
            change.events.append(Event(at, "denied", by))
        elif undone is not None and rows is not None and granted:
            self._follow(heard, rows, undone, Event(at, "rolled back", by))
        elif undone is not None:
            undone.events.append(Event(at, "not rolled back", by, no))
        elif rows is not None:
            self._proposed(heard, rows, {})
        else:
            about = None if command["campaign"] == ACCOUNT or command.get("whole", False) else knob.name.lower()
            self._told.append(Order(at, kind, by, about, no or word))

    def _watched(self, heard: _Heard, told: Mapping[str, Any]) -> None:
        """Tell what the watch over a change says; that it was rolled back is told already.

        An episode is told once something comes of it: without a verdict its first step is routine as the others are.
        """
        action, event = told["action"], told["event"]
        change = self._of_action.get(action) if told["campaign"] == self.place else None
        if change is None or event == "rolled_back":
            return
        said = Event(self._at(heard.record.tick), f"watch: {of_watch(event, told['why'], told.get('control', ''))}")
        if event == "begun":
            self._begun[action] = said
            return
        begun = self._begun.pop(action, None)
        if begun is not None and event == "superseded":
            return
        change.events += [said] if begun is None else [begun, said]

    def _alerted(self, heard: _Heard, told: Mapping[str, Any]) -> None:
        """Tell an alert once, where it was opened."""
        about = told["alert"], told["campaign"], told["knob"], told["label"]
        at, why = self._at(heard.record.tick), explained(told["why"])
        place = self._alarms.pop(about, None)
        if place is not None:
            alarm = self._told[place]
            assert isinstance(alarm, Alarm)
            self._told[place] = replace(alarm, closed=at, closed_why=why)
            return
        self._alarms[about] = len(self._told)
        knob = None if told["knob"] is None else _name(Knob, told["knob"])
        self._told.append(Alarm(at, of_alert(told["alert"], knob, told["label"]), why))

    def _to_undo(self, command: Mapping[str, Any]) -> Change | None:
        """The change that a command to roll back is about."""
        return self._of_action.get(command["undoes"] if command["action"] is None else command["action"])

    def _proposed(self, heard: _Heard, rows: Rows, waiting: dict[Knob, Change]) -> None:
        """Tell a change that was judged, and what it does to those before it."""
        told = heard.told
        change, knob = self._change(heard, rows), Knob(int(told.judged["knob"][rows[0]]))
        undoes = _UNDOES.fullmatch(change.note) if change.source == "rollback" else None
        undone = self._of_action.get(int(undoes[1])) if undoes else None
        reason = _why(told.judged, rows)
        if undone is not None and change.outcome == "approved":  # a person's rollback came as a command
            self._follow(heard, rows, undone, Event(change.at, "rolled back", change.proposer))
            return
        if undone is not None:
            undone.events.append(Event(change.at, "not rolled back", change.proposer, change.reason))
            return
        self._told.append(change)
        cause = self._cause.get((knob, reason))
        if cause is not None:
            cause.events.append(Event(change.at, "held back", change.proposer, change.reason, None, change.parts))
        if change.outcome == "approved":
            self._follow(heard, rows, change, Event(change.at, "applied"))
        elif change.outcome == "needs_approval":
            before = self._waiting.pop(knob, (0, None))[1] or waiting.get(knob)
            if before is not None:
                before.events.append(Event(change.at, "superseded", change.proposer))
            waiting[knob] = change

    def _change(self, heard: _Heard, rows: Rows) -> Change:
        told, offers = heard.told, heard.offers
        judged, first = told.judged, rows[0]
        raw = dict(zip(told.clipped["row"].tolist(), told.clipped["raw"].tolist(), strict=True))
        source = int(judged["source"][first])
        proposer, note = told.header["notes"][int(judged["note"][first])]
        reason = _why(judged, rows)
        return Change(
            at=self._at(heard.record.tick),
            knob=_name(Knob, int(judged["knob"][first])),
            source=_name(Source, source),
            proposer=proposer,
            note=note,
            base_version=int(judged["base_version"][first]),
            parts=tuple(
                Part(
                    self._named(judged, row, Knob.WEIGHTS),
                    int(judged["old"][row]),
                    int(judged["wanted"][row]),
                    offers.get(row),
                    raw.get(row),
                    self._named(judged, row, Knob.MODIFIERS),
                )
                for row in rows
            ),
            outcome=Outcome(int(judged["outcome"][first])).name.lower(),
            reason=EXPLANATIONS.get(reason),
            prediction=heard.predictions.get(first),
        )

    def _named(self, judged: Mapping[str, Any], row: int, vector: Knob) -> str | None:
        """The creative of a row of weights, or the audience of one of modifiers."""
        if judged["knob"][row] != vector:
            return None
        index, known = int(judged["index"][row]), self._parts[vector]
        inside = 0 <= index < len(known) and known[index]
        return inside or f"{'creative' if vector is Knob.WEIGHTS else 'audience'} {index}"

    def _follow(self, heard: _Heard, rows: Rows, change: Change, event: Event) -> None:
        """Remember what the next record's results decide about a change."""
        shown = self._change(heard, rows)
        if event.what == "applied":
            self._of_action[(heard.record.sequence << ROW_BITS) + rows[0]] = change
        parts = shown.parts if event.what == "rolled back" else ()
        done = replace(event, version=shown.base_version + 1, parts=parts)
        self._due.append((int(heard.results[rows[0]]), Knob[shown.knob.upper()], change, done))


def _runs(judged: Mapping[str, NDArray[Any]], rows: Iterable[int]) -> Iterator[Rows]:
    """Some judged rows in runs of one note, campaign and knob."""
    note, campaign, knob = (judged[name] for name in ("note", "campaign", "knob"))
    for _, run in groupby(rows, key=lambda row: (note[row], campaign[row], knob[row])):
        yield list(run)


def _moving(judged: Mapping[str, NDArray[Any]], rows: Rows) -> Rows:
    """Of several audiences' modifiers those that were to move; where none was, all of them."""
    return [row for row in rows if judged["reason"][row] != Reason.NO_OP] or rows


def _why(judged: Mapping[str, NDArray[Any]], rows: Rows) -> Reason:
    """The reason against a change: of several rows, the first that was not refused for another one's sake."""
    reasons = [Reason(int(judged["reason"][row])) for row in rows]
    return next((reason for reason in reasons if reason is not Reason.BESIDE_REFUSED), reasons[0])


def _name(numbered: type[Knob | Source], value: int) -> str:
    """A code as its word; one that nothing is called by stays the number it is."""
    return numbered(value).name.lower() if value in list(numbered) else str(value)


def _but(event: Event, what: str) -> Event:
    """The event as it turned out: unless it took place, no version came of it."""
    return event if what == event.what else Event(event.at, what, event.by)
