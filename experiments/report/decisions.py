"""What was asked and answered: the rows of `actions.parquet` as a report shows them, and people's commands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from engine.actions import Knob
from engine.alerts import Alert
from engine.campaigns import ACCOUNT
from engine.judgement import Reason
from engine.ledger import RecordKind, decode_round
from engine.runtime.store import LEDGER, read_ledger
from engine.units import Int64
from experiments.report.text import Words, visible
from experiments.wording import SENTENCES, explained, of_alert, of_watch

Part: TypeAlias = tuple[str | None, int, int, int | None]
"""Creative or audience (None for a scalar), value in force, value wanted, value offered instead."""


@dataclass
class Decision:
    """One judged change: a scalar, or a vector with a part per creative or audience.

    `minutes` is when it acts, or would have, counted from the run's first local midnight; `action` is the id that its
    watch names it by, if it was approved, and `verdict` what that watch said at last.
    """

    tick: int
    minutes: int
    campaign: str | None
    knob: str | None
    outcome: str
    reason: str | None
    source: str
    proposer: str
    note: str
    parts: list[Part]
    answer: str | None = None
    action: int | None = None
    verdict: str | None = None

    @property
    def is_routine(self) -> bool:
        """Whether a policy did within its mandate what it is there for."""
        return self.source == "policy" and self.outcome in {"applied", "recorded"}

    def packed(self, words: Words) -> list[Any]:
        """The decision as a list for the page's script: names as places among the words."""
        names = (self.knob, self.outcome, self.reason, self.source, self.proposer, self.note, self.answer, self.verdict)
        scalar = len(self.parts) == 1 and self.parts[0][0] is None
        parts = [[words.place(name), *values] for name, *values in self.parts]
        return [self.minutes, *(words.place(name or None) for name in names), *(parts[0][1:] if scalar else [parts])]


@dataclass(frozen=True)
class Command:
    """What a person told a run to do, and what the optimiser answered; without a campaign, of the whole account."""

    tick: int
    minutes: int
    kind: str
    by: str
    campaign: str | None
    knob: str | None
    answer: str


@dataclass(frozen=True)
class Calendar:
    """When decisions act, in minutes from the run's first local midnight.

    minutes:
        int64[ticks], for a decision at the close of each tick.
    """

    local: pd.Series  # local time at which each tick opens
    tick_minutes: int
    minutes: Int64 = field(init=False)

    def __post_init__(self) -> None:
        since = (self.local - self.local.iloc[0].normalize()) // pd.Timedelta(minutes=1)
        opens = since.to_numpy(dtype=np.int64)
        object.__setattr__(self, "minutes", np.append(opens[1:], opens[-1] + self.tick_minutes))

    def text(self, minutes: int) -> str:
        """Day and time, local."""
        when = self.local.iloc[0].normalize() + pd.Timedelta(minutes=minutes)
        long = self.local.iloc[-1] - self.local.iloc[0] > pd.Timedelta(days=300)
        return f"{when.day} {when:%b %Y %H:%M}" if long else f"{when.day} {when:%b %H:%M}"


_MODIFIERS = Knob.MODIFIERS.name.lower()
_NO_OP, _BESIDE = (reason.name.lower() for reason in (Reason.NO_OP, Reason.BESIDE_REFUSED))


def decisions(actions: pd.DataFrame, calendar: Calendar) -> list[Decision]:
    """Every judged change in the order of the ledger, the rows of a vector together."""
    columns = ("tick", "round", "campaign", "knob", "outcome", "reason", "source", "proposer", "note")
    same = list(zip(*(actions[name].to_list() for name in columns), strict=True))
    named = actions["creative"].where(actions["creative"].notna(), actions["audience"]).to_list()
    old, wanted, offer = (actions[name].to_list() for name in ("old", "wanted", "offer"))
    action = actions["action"].astype("Int64").to_list()
    found = []
    for _, group in groupby(range(len(same)), key=lambda row: _vector(same[row], named[row], row)):
        rows = list(group)
        tick, _, campaign, knob, outcome, _, source, proposer, note = map(_known, same[rows[0]])
        reasons = [_known(same[row][5]) for row in rows]
        reason = next((each for each in reasons if each != _BESIDE), _BESIDE)
        parts = [(_known(named[row]), int(old[row]), int(wanted[row]), _whole(offer[row])) for row in rows]
        why = SENTENCES.get(reason, reason)
        acts = int(calendar.minutes[tick])
        decision = Decision(tick, acts, campaign, knob, outcome, why, source, proposer, note, parts)
        decision.action = _whole(action[rows[0]])
        found.append(decision)
    return found


def _vector(row: Sequence[Any], part: Any, place: int) -> tuple[Any, ...]:
    """What the rows of one vector share; every other row stands alone, and so does one that wants what is in force.

    Modifiers are refused together and for several reasons.
    """
    if _known(part) is None or (row[5] == _NO_OP and row[3] == _MODIFIERS):
        return (place,)
    return tuple(_known(each) for at, each in enumerate(row) if at != 5 or row[3] != _MODIFIERS)


def _known(value: Any) -> Any:
    return None if value is None or value is pd.NA or value != value else value  # noqa: PLR0124 - NaN alone


def _whole(value: Any) -> int | None:
    return None if _known(value) is None else int(value)


Headers: TypeAlias = list[tuple[int, dict[str, Any]]]
"""Of every round, its tick and what its ledger header tells."""


def headers(folder: Path) -> Headers:
    """What a run's ledger tells beside the judged rows."""
    rounds = (record for record in read_ledger(folder / LEDGER) if record.kind is RecordKind.ROUND)
    return [(record.tick, decode_round(record).header) for record in rounds]


def commands(rounds: Headers, ids: Sequence[str], calendar: Calendar) -> list[Command]:
    """What people commanded, from the ledger."""
    found = []
    for tick, header in rounds:
        for told in header["commands"]:
            place = told["campaign"]
            of_one = 0 <= place < len(ids)
            found.append(
                Command(
                    tick=tick,
                    minutes=int(calendar.minutes[tick]),
                    kind=told["kind"],
                    by=told["by"],
                    campaign=ids[place] if of_one else None,
                    knob=Knob(told["knob"]).name.lower() if of_one and not told.get("whole", False) else None,
                    answer=told["answer"],
                )
            )
    return found


def judge(found: Sequence[Decision], rounds: Headers, calendar: Calendar) -> None:
    """Tell every watched change what its watch said at last."""
    of_action = {decision.action: decision for decision in found}
    for tick, header in rounds:
        for told in header.get("watches", ()):
            decision = of_action.get(told["action"])
            if decision is not None:
                when = calendar.text(int(calendar.minutes[tick]))
                begins = told["event"] in {"opened", "begun"}
                said = of_watch(told["event"], told["why"], told.get("control", ""))
                decision.verdict = f"watched since {when}" if begins else f"{said}, {when}"


@dataclass(frozen=True)
class Alarm:
    """An alert in words: since and until when, about which campaign (None: the whole account), what and why."""

    since: str
    until: str | None
    campaign: str | None
    what: str
    why: str
    closed_why: str


def alarms(told: Sequence[Alert], ids: Sequence[str], calendar: Calendar) -> list[Alarm]:
    """The alerts of a run: the open ones first, the oldest of them on top; then the closed ones, the newest on top."""
    opened = [alert for alert in told if alert.closed is None]
    closed = sorted((alert for alert in told if alert.closed is not None), key=lambda alert: -(alert.closed or 0))
    return [_alarm(alert, ids, calendar) for alert in opened + closed]


def _alarm(alert: Alert, ids: Sequence[str], calendar: Calendar) -> Alarm:
    about, until = alert.about, alert.closed
    return Alarm(
        since=calendar.text(int(calendar.minutes[alert.opened])),
        until=None if until is None else calendar.text(int(calendar.minutes[until])),
        campaign=None if about.campaign == ACCOUNT else ids[about.campaign],
        what=visible(of_alert(about.kind.value, None if about.knob is None else about.knob.name.lower(), about.label)),
        why=visible(explained(alert.why)),
        closed_why=visible(explained(alert.closed_why)),
    )


def answer(found: Sequence[Decision], told: Sequence[Command], calendar: Calendar) -> None:
    """Tell every change that waited for approval what became of it."""
    told_of: dict[tuple[str | None, str | None], list[Command]] = defaultdict(list)
    asked_of: dict[tuple[str | None, str | None], list[Decision]] = defaultdict(list)
    for command in told:
        told_of[command.campaign, command.knob].append(command)
    for decision in found:
        asked_of[decision.campaign, decision.knob].append(decision)
    for key, asked in asked_of.items():
        for place, decision in enumerate(asked):
            if decision.outcome == "needs_approval":
                decision.answer = _became(decision, asked[place + 1 :], told_of[key], calendar)


def _became(waiting: Decision, later: Sequence[Decision], told: Sequence[Command], calendar: Calendar) -> str:
    until = next((other.tick for other in later if other.outcome == "needs_approval"), None)
    for command in told:
        in_time = command.tick > waiting.tick and (until is None or command.tick <= until)
        if not in_time:
            continue
        by = f"by {visible(command.by)}, {calendar.text(command.minutes)}"
        granted = _granted(waiting, later, command.tick)
        if command.kind == "approve" and granted is not None:
            return f"approved {by}: {granted.replace('_', ' ')}"
        if command.kind == "deny" and command.answer == "denied":
            return f"denied {by}"
    return "not answered" if until is None else "superseded by a newer proposal"


def _granted(waiting: Decision, later: Sequence[Decision], tick: int) -> str | None:
    """What the guard said to an approved change, which it judges once more; None where it did not come that far."""
    same = (other for other in later if other.tick == tick and other.source == waiting.source)
    return next((other.outcome for other in same if other.proposer == waiting.proposer), None)
