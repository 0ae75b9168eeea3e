"""Watches over applied changes: whether a campaign's profit is worse than without the change, which then has to go.

Watched is what a rule, a script or a policy changed outside a mandate; not a person's own edit, a rollback, a pause (it
protects), or a step inside a mandate, which is part of a campaign's ordinary course before and after. The measure is
profit (revenue − spend) per opportunity. Its control are sibling campaigns that nobody touched, over the same ticks; of
both only what they had before, at the same time of day, is held against it. A campaign that was picked in a poor week
and recovers by itself has recovered before it is judged: the test knows how poor its baseline is. What it does not
know: that a change was made *because* a baseline was too good by chance, that siblings in the same auctions gain what
the campaign loses, and drift that befalls the campaign alone.

Conversions are booked when they happen. After a change they are still those of the clicks before it, so a block counts
only once it is mature: it begins a delay horizon after the change. What bias is left: the share of conversions slower
than the horizon is still that of the old clicks, while spend is the new one's, so a rise looks worse and a cut better
than it is, by that share of the revenue it moves, ever less as days pass. Within a block, spend and revenue are of the
same two hours and not of the same clicks; levels are compared with those of the same slot, so this cancels but for the
campaign's own trend over a delay; blocks of two hours keep the first that counts from reaching back to the change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple, Self

import numpy as np

from engine.actions import Actions, Knob, Proposals, Source
from engine.baseline import CLICKED, CONVERTED, EARNED, SEEN, SLOTS, SPENT, TICKS, Book, kept
from engine.campaigns import SCALARS, ControlState
from engine.policy import View
from engine.rollback import Blocked, History
from engine.sequential import ALPHA, BLOCKS, WEIGHT, compared
from engine.units import Bool, Float64, Int64, TickGrid

FEWEST_CONVERSIONS = 30
"""No verdict rests on a past, of the campaign or its control, or on blocks with fewer conversions due: few are skewed,
and without this rule more than 5 % of harmless changes would go where the control is large."""
FEWEST_BLOCKS = 12
"""Blocks before the comparison is believed: a day's."""
MOST_SIBLINGS = 32
MANY_CONVERSIONS = 10
"""So many expected and none seen is a defect, whatever the statistics."""
RUNAWAY = (3, 2)
"""As a fraction, times the spend rate that the record and the change explain at most."""
WINDOW_DAYS = 7
PROPOSER = "watch"
_DAY_MINUTES, _RUNAWAY_MINUTES = 24 * 60, 15


class Verdict(StrEnum):
    """What a watch says of its change."""

    KEEP = "keep"
    ROLL_BACK = "roll_back"
    TOO_EARLY = "too_early"
    NO_DATA = "no_data"


class Why(StrEnum):
    """What a verdict rests on."""

    PROFIT = "profit"
    SPEND = "spend_rate"
    CONVERSIONS = "no_conversions"
    WINDOW = "window"


class Event(StrEnum):
    """What the ledger tells of a watch."""

    OPENED = "opened"
    ROLLS_BACK = "rolls_back"  # asked for in this round; its rows and the guard's answer are in it
    ROLLED_BACK = "rolled_back"
    BLOCKED = "blocked"
    KEPT = "kept"
    NO_DATA = "no_data"
    SUPERSEDED = "superseded"  # somebody changed the campaign meanwhile: what follows is not this change's doing


@dataclass(frozen=True)
class WatchLimits:
    """How long watches last, in ticks.

    day:
        Ticks in 24 hours.
    horizon:
        The delay after which a conversion is no longer waited for.
    margin_micros:
        Loss of profit per opportunity that is put up with.
    """

    day: int
    horizon: int
    margin_micros: float = 0.0

    @classmethod
    def of(cls, day: int, delay_horizon: int | None) -> Self:
        """For days of so many ticks; without a delay horizon, a day."""
        return cls(day, day if delay_horizon is None else delay_horizon)

    @property
    def window(self) -> int:
        """How long a change is watched."""
        return WINDOW_DAYS * self.day

    @property
    def block(self) -> int:
        """Ticks of a whole block."""
        return max(self.day // SLOTS, 1)

    @property
    def runaway(self) -> int:
        """Ticks of fifteen minutes."""
        return -(-_RUNAWAY_MINUTES * self.day // _DAY_MINUTES)


class Told(NamedTuple):
    """An entry of a round's ledger header: what happened to the watch over an action."""

    action: int
    campaign: int
    knob: Knob
    event: Event
    why: str = ""

    def told(self) -> dict[str, Any]:
        """The entry as the ledger holds it."""
        return {
            "action": self.action,
            "campaign": self.campaign,
            "knob": int(self.knob),
            "event": self.event.value,
            "why": self.why,
        }


@dataclass(frozen=True)
class Watch:
    """One applied change under watch; a vector is one.

    since:
        The tick at whose close it was decided, or at which a later change above it was rolled back.
    factor:
        How much more the campaign may spend because of it, as a fraction of at least 1.
    members:
        int64[1 + m], the campaign, then its siblings.
    before:
        int64[SLOTS, 1 + m, 6], their past.
    peak:
        Greatest spend per tick in the campaign's past, micros.
    block, slot:
        int64[1 + m, 6], sums of the block that is under way (or the last that was not mature), and its slot.
    after:
        float64[SLOTS, 4], the blocks' sums, as `engine.sequential` reads them.
    clicks, conversions, running:
        Mature clicks, all conversions, and ticks in a row at a spend rate that nothing explains.
    asked:
        Why its rollback was asked for; empty as long as it was not.
    """

    action: int
    campaign: int
    knob: Knob
    opened: int
    since: int
    factor: tuple[int, int]
    members: Int64
    before: Int64
    peak: int
    block: Int64
    slot: int
    after: Float64
    clicks: int = 0
    conversions: int = 0
    running: int = 0
    asked: str = ""

    @classmethod
    def over(cls, rows: Actions, tick: int, book: Book, siblings: Int64) -> Self:
        """Watch an action that was decided at the close of a tick."""
        campaign, knob = int(rows.campaign[0]), Knob(int(rows.knob[0]))
        members = np.concatenate(([campaign], siblings)).astype(np.int64)
        rise = knob in SCALARS and rows.new[0] > rows.old[0] > 0
        factor = (int(rows.new[0]), int(rows.old[0])) if rise else (1, 1)
        return cls(
            action=int(rows.action[0]),
            campaign=campaign,
            knob=knob,
            opened=tick,
            since=tick,
            factor=factor,
            members=members,
            before=book.of(members),
            peak=int(book.peak[campaign].max()),
            block=np.zeros((len(members), TICKS + 1), dtype=np.int64),
            slot=-1,
            after=np.zeros((SLOTS, BLOCKS + 1)),
        )

    def tell(self, event: Event, why: str = "") -> Told:
        """What happened to it."""
        return Told(self.action, self.campaign, self.knob, event, why)

    def begun_again(self, tick: int) -> Self:
        """From the rollback of a change above it on."""
        return replace(
            self,
            since=tick,
            block=np.zeros_like(self.block),
            slot=-1,
            after=np.zeros_like(self.after),
            clicks=0,
            conversions=0,
            running=0,
        )

    def fed(self, tick: int, slot: int, rows: Int64, touched_at: Int64, limits: WatchLimits) -> Self:
        """With a span that closed with a tick; `rows` and `touched_at` are those of all campaigns."""
        mine = rows[self.members]
        ticks = int(mine[0, TICKS])
        (new, old), (times, parts) = self.factor, RUNAWAY
        runaway = self.peak > 0 and int(mine[0, SPENT]) * parts * old > times * new * self.peak * ticks
        watched = replace(
            self,
            running=self.running + ticks if runaway else 0,
            conversions=self.conversions + int(mine[0, CONVERTED]),
        )
        if tick - ticks < self.since + limits.horizon:
            return replace(watched, slot=slot)
        watched = replace(watched, clicks=self.clicks + int(mine[0, CLICKED]))
        under_way = self.block[0, TICKS] > 0
        if slot == self.slot and not under_way and ticks < limits.block:
            return watched  # the rest of a block that is not mature
        if slot != self.slot and under_way:
            watched = watched._closed(touched_at)
        watched = replace(watched, block=watched.block + mine, slot=slot)
        return watched if watched.block[0, TICKS] < limits.block else watched._closed(touched_at)

    def _closed(self, touched_at: Int64) -> Self:
        """With the block under way among those that count, if it can be compared."""
        untouched = touched_at[self.members[1:]] <= self.opened
        y = _difference(self.block, self.before, self.slot, untouched)
        emptied = replace(self, block=np.zeros_like(self.block))
        if y is None:
            return emptied
        weight, after = float(self.block[0, SEEN]), self.after.copy()
        after[self.slot] += (weight, weight * y, weight * y * y, 1.0)
        return replace(emptied, after=after)

    def verdict(self, tick: int, limits: WatchLimits) -> tuple[Verdict, str]:
        """What is to become of the change, and why."""
        reason = self.asked or self._alarm(limits)
        if reason:
            return Verdict.ROLL_BACK, reason
        enough = self._enough
        if enough and self.upper(limits) < -limits.margin_micros:
            return Verdict.ROLL_BACK, Why.PROFIT
        if tick >= self.opened + limits.window:
            return (Verdict.KEEP if enough else Verdict.NO_DATA), Why.WINDOW
        return (Verdict.TOO_EARLY if self.comparable else Verdict.NO_DATA), ""

    @property
    def comparable(self) -> bool:
        """Whether there is a past and a control to compare with."""
        conversions = self.before[:, :, CONVERTED].sum(axis=0)
        return bool(min(conversions[0], conversions[1:].sum()) >= FEWEST_CONVERSIONS)

    @property
    def _enough(self) -> bool:
        """Whether the blocks so far are a day's at least, and conversions enough were due in them."""
        past = self.before[:, 0].sum(axis=0)
        due = self.after[:, WEIGHT].sum() * past[CONVERTED] / max(int(past[SEEN]), 1)
        return bool(self.after[:, BLOCKS].sum() >= FEWEST_BLOCKS and due >= FEWEST_CONVERSIONS)

    def upper(self, limits: WatchLimits) -> float:
        """Upper confidence limit of the effect on profit per opportunity, micros; infinite where there is none."""
        weights, ticks = self.before[:, 0, SEEN], int(self.before[:, 0, TICKS].sum())
        if not ticks:
            return np.inf
        unit = float(weights.sum()) / ticks * limits.block
        return float(compared(weights.astype(np.float64), self.after, np.array(unit), ALPHA).upper)

    def _alarm(self, limits: WatchLimits) -> str:
        """A defect that takes no statistics, or none."""
        past = self.before[:, 0].sum(axis=0)
        if self.running >= limits.runaway and past[TICKS] >= limits.day:
            return Why.SPEND
        expected_per_click = past[CONVERTED] / max(int(past[CLICKED]), 1)
        known = past[CONVERTED] >= FEWEST_CONVERSIONS
        if known and not self.conversions and self.clicks * expected_per_click >= MANY_CONVERSIONS:
            return Why.CONVERSIONS
        return ""


def _difference(block: Int64, before: Int64, slot: int, untouched: Bool) -> float | None:
    """A block's profit per opportunity, less the control's brought to the campaign's level, less the same of the past.

    The control's revenue and its spend are each scaled by the ratio of the two pasts, so that what moves all campaigns
    by the same factor (a dearer hour, a better day) cancels. None where a side has nothing to compare.
    """
    control, controls = block[1:][untouched].sum(axis=0), before[:, 1:][:, untouched].sum(axis=1)
    past, pasts = before[:, 0].sum(axis=0), controls.sum(axis=0)
    if min(past[CONVERTED], pasts[CONVERTED]) < FEWEST_CONVERSIONS:
        return None
    own, same, others = block[0], before[slot, 0], controls[slot]
    if min(own[SEEN], control[SEEN], same[SEEN], others[SEEN]) == 0:
        return None
    difference = 0.0
    for sign, column in ((1.0, EARNED), (-1.0, SPENT)):
        level = _rate(pasts, column)
        scale = _rate(past, column) / level if level else 0.0
        now = _rate(own, column) - scale * _rate(control, column)
        then = _rate(same, column) - scale * _rate(others, column)
        difference += sign * (now - then)
    return difference


def _rate(counts: Int64, column: int) -> float:
    return float(counts[column]) / float(counts[SEEN])


@dataclass(frozen=True)
class Watching:
    """All open watches of a run, oldest first, the campaigns' recent past, and the last boundary's tick.

    Of several watches of one campaign only the newest counts and judges; those beneath it begin again when it is rolled
    back, and end when it is not. So the last change in is the first one out.
    """

    tick: int
    book: Book
    watches: tuple[Watch, ...]

    @classmethod
    def initial(cls, campaigns: int) -> Self:
        """Nothing is watched."""
        return cls(-1, Book.initial(campaigns), ())

    @property
    def undoing(self) -> dict[tuple[int, Knob], int]:
        """The action that the rollback of a (campaign, knob) undoes, as far as it was asked for here."""
        return {(each.campaign, each.knob): each.action for each in self.watches if each.asked}

    def after(
        self, applied: Actions, mandated: Bool, undoing: Mapping[tuple[int, Knob], int], market: Int64
    ) -> tuple[Self, list[Told]]:
        """With what the last round applied: changes outside mandates open watches, and end those they disturb."""
        automatic = applied.source > Source.ROLLBACK
        rows = applied.take(~(automatic & mandated))
        if not len(rows):
            return self, []
        watched = (rows.source > Source.ROLLBACK) & ~((rows.knob == Knob.PAUSED) & (rows.new == 1))
        undone = set()
        for position in np.flatnonzero(rows.source == Source.ROLLBACK):
            undone.add(undoing.get((int(rows.campaign[position]), Knob(rows.knob[position]))))
        stay, told = self._disturbed(undone, set(rows.campaign[~watched].tolist()))
        book = self.book.touched(self.tick, np.unique(rows.campaign.astype(np.int64)))
        opened = []
        for action in _by_action(rows.take(watched)):
            siblings = book.siblings(int(action.campaign[0]), market, FEWEST_CONVERSIONS, MOST_SIBLINGS)
            opened.append(Watch.over(action, self.tick, self.book, siblings))
        told += [each.tell(Event.OPENED) for each in opened]
        return replace(self, book=book, watches=(*stay, *opened)), told

    def _disturbed(self, undone: set[int | None], campaigns: set[int]) -> tuple[list[Watch], list[Told]]:
        """The watches that go on after changes which open none, and what is told of the others."""
        rolled_back = {each.campaign for each in self.watches if each.action in undone}
        stay, told = [], []
        for each in self.watches:
            if each.action in undone:
                told.append(each.tell(Event.ROLLED_BACK, each.asked))
            elif each.campaign in rolled_back:
                stay.append(each.begun_again(self.tick))
            elif each.campaign in campaigns and not each.asked:
                told.append(each.tell(Event.SUPERSEDED))
            else:
                stay.append(each)
        return stay, told

    def seen(self, view: View, slot: int, limits: WatchLimits) -> Self:
        """With what a boundary's view shows, of a span that closed in the given slot of the day."""
        rows = kept(view.recent, view.tick - self.tick)
        book = self.book.seen(view.tick, slot, rows, limits.horizon, limits.window)
        awake = self._awake
        fed = tuple(
            each.fed(view.tick, slot, rows, book.touched_at, limits) if each.action in awake else each
            for each in self.watches
        )
        return replace(self, tick=view.tick, book=book, watches=fed)

    @property
    def _awake(self) -> set[int]:
        """The newest watch of each campaign."""
        return set({each.campaign: each.action for each in self.watches}.values())

    def judged(
        self, controls: ControlState, history: History, limits: WatchLimits
    ) -> tuple[Self, list[Told], list[Proposals]]:
        """With the verdicts of a boundary: what is told, and the rows that take changes back."""
        awake, stay, told, rows = self._awake, [], [], []
        ended: dict[int, tuple[Watch, Event]] = {}
        for each in self.watches:
            verdict, why = each.verdict(self.tick, limits) if each.action in awake else (Verdict.TOO_EARLY, "")
            if verdict is Verdict.ROLL_BACK:
                inverse = history.inverse(each.campaign, each.knob, each.action, controls, PROPOSER)
                if isinstance(inverse, Blocked):
                    ended[each.campaign] = each, Event.BLOCKED
                    told.append(each.tell(Event.BLOCKED, inverse.value))
                    continue
                rows.append(inverse)
                told.append(each.tell(Event.ROLLS_BACK, why))
                stay.append(replace(each, asked=why))
            elif why == Why.WINDOW:
                event = Event.KEPT if verdict is Verdict.KEEP else Event.NO_DATA
                ended[each.campaign] = each, event
                told.append(each.tell(event))
            else:
                stay.append(each)
        beneath = [each for each in stay if each.campaign in ended]
        told += [_beneath(each, *ended[each.campaign]) for each in beneath]
        return replace(self, watches=tuple(each for each in stay if each.campaign not in ended)), told, rows


def _beneath(watch: Watch, newest: Watch, event: Event) -> Told:
    """What is told of a watch whose campaign's newest watch ended: the same, if both changes came together."""
    together = watch.opened == newest.opened and event is not Event.BLOCKED
    return watch.tell(event if together else Event.SUPERSEDED)


def _by_action(rows: Actions) -> list[Actions]:
    """The rows of each action: one, or a whole vector."""
    keys = rows.campaign.astype(np.int64) * len(Knob) + rows.knob
    _, first = np.unique(keys, return_index=True)
    return [rows.take(keys == keys[position]) for position in np.sort(first)]


def slot_of(grid: TickGrid, tick: int) -> int:
    """The slot of the local day in which a tick lies."""
    return int(grid.hour[tick]) * SLOTS // 24
