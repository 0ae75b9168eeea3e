"""A campaign's story in words: the same lines on the terminal and in the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.report.text import visible
from experiments.story import Alarm, Change, Entry, Event, Order, Part, Prediction, Steps, Story
from experiments.wording import PREDICTED_BY

_HAPPENED = {
    "pending": "approved, and the ledger ends before its result",
    "stale": "not applied: the knob moved meanwhile",
    "recorded": "not applied: in a factual replay changes are judged and recorded",
    "unanswered": "nobody answered before the ledger's end",
    "expired": "nobody answered within a day",
}


@dataclass(frozen=True)
class DayLines:
    """A day in words: a line per knob that moved in routine steps, then a block per entry, its headline first."""

    date: str
    steps: list[str]
    blocks: list[list[str]]


def story_lines(story: Story) -> list[DayLines]:
    """A story day by day; every word from outside is visible, and safe as text alone."""
    return [
        DayLines(day.date, [_steps(steps) for steps in day.steps], [list(_block(entry)) for entry in day.entries])
        for day in story.days
    ]


def story_text(story: Story) -> str:
    """A campaign's story as a page of text: a paragraph per day, a block per entry."""
    lines = [
        f"{visible(story.campaign)} in run {visible(story.name)}, told by its {story.records:,} ledger records, each "
        "chained to the one before.",
        f"Times are those of {story.zone}; money is in {story.currency}.",
    ]
    for day in story_lines(story):
        lines += ["", day.date, *(f"  {line}" for line in day.steps)]
        for headline, *details in day.blocks:
            lines += ["", f"  {headline}", *(f"         {line}" for line in details)]
    return "\n".join(lines)


def _steps(steps: Steps) -> str:
    moves = f"{_values(steps.knob, steps.first, 'old')} → {_values(steps.knob, steps.last, 'wanted')}"
    clipped = f", {steps.clipped} of them clipped" if steps.clipped else ""
    return f"{steps.knob}: {steps.count} {'step' if steps.count == 1 else 'steps'} of a mandate{clipped}, {moves}"


def _block(entry: Entry) -> Iterator[str]:
    match entry:
        case Order():
            about = "" if entry.knob is None else f" {entry.knob}"
            yield f"{_clock(entry.at)}  {entry.kind}{about} by {visible(entry.by)}: {entry.answer}"
        case Alarm():
            yield from _alarm(entry)
        case Change():
            yield from _change(entry)


def _alarm(alarm: Alarm) -> Iterator[str]:
    yield f"{_clock(alarm.at)}  alert: {visible(alarm.alert)}{_why(visible(alarm.why))}"
    if alarm.closed is None:
        yield "open at the ledger's end"
    else:
        yield f"{_moment(alarm.closed)} closed{_why(visible(alarm.closed_why or ''))}"


def _change(change: Change) -> Iterator[str]:
    """What was asked by whom and why, what was expected of it, the guard's answer, and what became of it."""
    who = change.proposer if change.proposer == change.source else f"{change.proposer} ({change.source})"
    yield f"{_clock(change.at)}  {change.knob}: {_moves(change.knob, change.parts)}"
    yield f"proposed by {visible(who)} at version {change.base_version}{_why(visible(change.note))}"
    if change.prediction is not None:
        yield f"predicted: {_predicted(change.prediction)}"
    yield f"guard: {change.outcome.replace('_', ' ')}{_why(change.reason)}{_offer(change)}"
    if change.until is not None:
        again = f"asked {change.times} times with the same answer, the last at {_moment(change.until)}"
        yield f"{again}: {_moves(change.knob, change.latest)}"
    for event in change.events:
        yield f"{_moment(event.at)} {_event(change, event)}"


def _predicted(prediction: Prediction) -> str:
    spend, by = prediction.spend_per_day_micros, PREDICTED_BY.get(prediction.by, "")
    sign = "−" if spend is not None and spend < 0 else "+"
    told = (
        "nothing can be told of its spend" if spend is None else f"spend {sign}{_value('budget', abs(spend))} per day"
    )
    return f"{told}{', ' if by else ''}{by}"


def _event(change: Change, event: Event) -> str:
    by = "" if event.by is None else f" by {visible(event.by)}"
    match event.what:
        case "approved":
            return f"approved{by}; the guard, asked again: {event.why or 'approved'}"
        case "applied":
            return f"applied, version {event.version}"
        case "rolled back":
            return f"rolled back{by}: {_moves(change.knob, event.parts)}, version {event.version}"
        case "held back":
            return f"held a later change back{by}: {_moves(change.knob, event.parts)}"
        case _:
            return _HAPPENED.get(event.what, visible(event.what)) + by + _why(event.why)


def _why(reason: str | None) -> str:
    return f": {reason}" if reason else ""


def _offer(change: Change) -> str:
    offered = [part for part in change.parts if part.offer is not None]
    return f"; it offers {_values(change.knob, offered, 'offer')}" if offered else ""


def _moves(knob: str, parts: Sequence[Part]) -> str:
    return ", ".join(
        f"{_named(part)}{_value(knob, part.old)} → {_value(knob, part.wanted)}{_asked(knob, part)}" for part in parts
    )


def _asked(knob: str, part: Part) -> str:
    return "" if part.raw is None else f" (clipped, asked for {_value(knob, part.raw)})"


def _values(knob: str, parts: Sequence[Part], which: str) -> str:
    return ", ".join(f"{_named(part)}{_value(knob, getattr(part, which))}" for part in parts)


def _named(part: Part) -> str:
    name = part.creative if part.audience is None else part.audience
    return "" if name is None else f"{visible(name)} "


def _value(knob: str, value: int | None) -> str:
    """A value as a person says it: money in currency units, a share in percent, or whether it is paused."""
    if value is None:
        return "–"
    if knob == "paused":
        return {0: "running", 1: "paused"}.get(value, str(value))
    if knob in {"weights", "modifiers"}:
        return f"{value / 10_000:g}%"
    whole, _, rest = f"{value / 1e6:,.6f}".partition(".")
    return f"{whole}.{rest.rstrip('0'):0<2}"


def _clock(at: str) -> str:
    return at[11:16]


def _moment(at: str) -> str:
    return f"{at[:10]} {_clock(at)}"
