"""Watches over applied changes: whether a campaign's profit is worse than without the change, which then has to go.

Watched one by one is what a rule, a script or a policy changed outside a mandate; not a person's own edit, a rollback,
or a pause (it protects). Steps inside a mandate are watched as an episode (`engine.episodes`). What the two are judged
by, and what against, is in `engine.verdicts`: the creatives side by side where the change moved weight between them
(`engine.split`), else sibling campaigns that nobody touched outside a mandate, else the campaign's own history.

Against siblings and history it is only what they had before, at the same time of day, that a change is held to. A
campaign that was picked in a poor week and recovers by itself has recovered before it is judged: the test knows how
poor its baseline is. What it does not know: that a change was made *because* a baseline was too good by chance, that
siblings in the same auctions gain what the campaign loses, and drift that befalls the campaign alone. Against history
alone it does not know any drift: a price shock, a season or a holiday after the change looks like the change's doing.

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
from fractions import Fraction
from typing import Self

import numpy as np

from engine.actions import Actions, Knob, Proposals, Source
from engine.baseline import CLICKED, CONVERTED, SEEN, SLOTS, SPENT, TICKS, Book, kept
from engine.campaigns import CampaignSet, ControlState, Layout
from engine.episodes import Episodes
from engine.limits import BANDED
from engine.policy import View
from engine.rollback import Blocked, History
from engine.sequential import ALPHA, BLOCKS, WEIGHT, compared
from engine.split import Split
from engine.units import Bool, Float64, Int64, TickGrid
from engine.verdicts import (
    FEWEST_BLOCKS,
    FEWEST_CONVERSIONS,
    MANY_CONVERSIONS,
    MOST_SIBLINGS,
    PROPOSER,
    RUNAWAY,
    Control,
    Event,
    Side,
    Told,
    Verdict,
    WatchLimits,
    Why,
    differences,
)


@dataclass(frozen=True)
class Watch:
    """One applied change under watch; a vector is one.

    since:
        The tick at whose close it was decided, or at which a later change above it was rolled back.
    factor:
        How much more the campaign may spend because of it, as a fraction of at least 1; over 0 where nobody can tell.
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
    control:
        What it is compared with, once that is decided.
    split:
        The campaign's creatives side by side, where the change moved weight between them.
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
    control: Control = Control.NONE
    split: Split | None = None

    @classmethod
    def over(cls, rows: Actions, tick: int, book: Book, siblings: Int64, split: Split | None) -> Self:
        """Watch an action that was decided at the close of a tick."""
        campaign, knob = int(rows.campaign[0]), Knob(int(rows.knob[0]))
        members = np.concatenate(([campaign], siblings)).astype(np.int64)
        return cls(
            action=int(rows.action[0]),
            campaign=campaign,
            knob=knob,
            opened=tick,
            since=tick,
            factor=_factor(rows),
            members=members,
            before=book.of(members),
            peak=int(book.peak[campaign].max()),
            block=np.zeros((len(members), TICKS + 1), dtype=np.int64),
            slot=-1,
            after=np.zeros((SLOTS, BLOCKS + 1)),
            control=Control.NONE if split is None else Control.SPLIT,
            split=split,
        )

    def tell(self, event: Event, why: str = "") -> Told:
        """What happened to it."""
        return Told(self.action, self.campaign, self.knob, event, why, self.control)

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
            split=None if self.split is None else self.split.begun_again(),
        )

    def fed(
        self, tick: int, slot: int, rows: Int64, creatives: Int64 | None, touched_at: Int64, limits: WatchLimits
    ) -> Self:
        """With a span that closed with a tick; `rows`, `creatives` and `touched_at` are those of all campaigns."""
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
        split = None if watched.split is None else watched.split.fed(creatives)
        watched = replace(watched, block=watched.block + mine, slot=slot, split=split)
        return watched if watched.block[0, TICKS] < limits.block else watched._closed(touched_at)

    def _closed(self, touched_at: Int64) -> Self:
        """With the block under way among those that count, if it can be compared."""
        emptied = replace(self, block=np.zeros_like(self.block))
        if self.split is not None:
            return replace(emptied, split=self.split.closed())
        untouched = touched_at[self.members[1:]] <= self.opened
        own = Side(self.block[0], self.before[self.slot, 0], self.before[:, 0].sum(axis=0))
        before = self.before[:, 1:][:, untouched].sum(axis=1)
        others = Side(self.block[1:][untouched].sum(axis=0), before[self.slot], before.sum(axis=0))
        control = self.control
        if control is Control.NONE:
            control = Control.SIBLINGS if others.past[CONVERTED] >= FEWEST_CONVERSIONS else Control.HISTORY
        y = float(differences(own, others if control is Control.SIBLINGS else None))
        if np.isnan(y):
            return replace(emptied, control=control)
        weight, after = float(self.block[0, SEEN]), self.after.copy()
        after[self.slot] += (weight, weight * y, weight * y * y, 1.0)
        return replace(emptied, control=control, after=after)

    def verdict(self, tick: int, limits: WatchLimits) -> tuple[Verdict, str]:
        """What is to become of the change, and why."""
        reason = self.asked or self._alarm(limits)
        if reason:
            return Verdict.ROLL_BACK, reason
        enough = self._enough
        if enough and self.upper(limits) < 0:
            return Verdict.ROLL_BACK, Why.PROFIT
        if tick >= self.opened + limits.window:
            return (Verdict.KEEP if enough else Verdict.NO_DATA), Why.WINDOW
        return (Verdict.TOO_EARLY if self.comparable else Verdict.NO_DATA), ""

    @property
    def comparable(self) -> bool:
        """Whether there is something to compare with: creatives side by side, or a past."""
        return self.split is not None or bool(self.before[:, 0, CONVERTED].sum() >= FEWEST_CONVERSIONS)

    @property
    def _enough(self) -> bool:
        """Whether the blocks so far are a day's at least, and conversions enough were due in them."""
        if self.split is not None:
            return self.split.enough
        past = self.before[:, 0].sum(axis=0)
        due = self.after[:, WEIGHT].sum() * past[CONVERTED] / max(int(past[SEEN]), 1)
        return bool(self.after[:, BLOCKS].sum() >= FEWEST_BLOCKS and due >= FEWEST_CONVERSIONS)

    def upper(self, limits: WatchLimits) -> float:
        """Upper confidence limit of the effect on profit per opportunity, micros; infinite where there is none."""
        if self.split is not None:
            return self.split.upper
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


@dataclass(frozen=True)
class Watching:
    """All open watches of a run, oldest first, the open episodes, the campaigns' past, and the last boundary's tick.

    Of several watches of one campaign only the newest counts and judges; those beneath it begin again when it is rolled
    back, and end when it is not. So the last change in is the first one out.
    """

    tick: int
    book: Book
    watches: tuple[Watch, ...]
    episodes: Episodes

    @classmethod
    def initial(cls, campaigns: int, creatives: int, audiences: int) -> Self:
        """Nothing is watched."""
        return cls(-1, Book.initial(campaigns), (), Episodes.initial(campaigns, creatives, audiences))

    @property
    def undoing(self) -> dict[tuple[int, Knob], int]:
        """The action that the rollback of a (campaign, knob) undoes, as far as it was asked for here."""
        watches = {(each.campaign, each.knob): each.action for each in self.watches if each.asked}
        return self.episodes.undoing | watches

    def after(
        self, applied: Actions, mandated: Bool, undoing: Mapping[tuple[int, Knob], int], campaigns: CampaignSet
    ) -> tuple[Self, list[Told]]:
        """With what the last round applied: changes outside mandates open watches, and end those they disturb."""
        if not len(applied):
            return self, []
        within = (applied.source > Source.ROLLBACK) & mandated
        others = applied.take(~within)
        changed, told = self._changed(others, undoing, campaigns)
        back = np.unique(applied.campaign[applied.source == Source.ROLLBACK]).astype(np.int64)
        back = back[self.episodes.asked[back] > 0]  # what the mandate did there is undone as a whole
        book = changed.book.restored(back, self.episodes.before[back], self.episodes.peak[back])
        book = book.moved(self.tick, applied.campaign.astype(np.int64))
        episodes, of_episodes = self.episodes.moved_by(
            self.tick, applied.take(within), others, undoing, book, campaigns
        )
        return replace(changed, book=book, episodes=episodes), told + of_episodes

    def _changed(
        self, rows: Actions, undoing: Mapping[tuple[int, Knob], int], campaigns: CampaignSet
    ) -> tuple[Self, list[Told]]:
        """With changes outside mandates."""
        if not len(rows):
            return self, []
        watched = (rows.source > Source.ROLLBACK) & ~((rows.knob == Knob.PAUSED) & (rows.new == 1))
        undone = set()
        for position in np.flatnonzero(rows.source == Source.ROLLBACK):
            undone.add(undoing.get((int(rows.campaign[position]), Knob(rows.knob[position]))))
        stay, told = self._disturbed(undone, set(rows.campaign[~watched].tolist()))
        book = self.book.touched(self.tick, np.unique(rows.campaign.astype(np.int64)))
        total, opened = book.total(), []
        for action in rows.take(watched).by_knob():
            others = np.arange(len(campaigns)) != action.campaign[0]
            market = int(campaigns.market[action.campaign[0]])
            siblings = book.siblings(total, campaigns.market, market, others, FEWEST_CONVERSIONS, MOST_SIBLINGS)
            opened.append(Watch.over(action, self.tick, self.book, siblings, _split(action, campaigns)))
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

    def seen(self, view: View, slot: int, campaigns: CampaignSet, limits: WatchLimits) -> Self:
        """With what a boundary's view shows, of a span that closed in the given slot of the day."""
        ticks = view.tick - self.tick
        rows = kept(view.recent, ticks)
        creatives = None if view.creatives is None else kept(view.creatives, ticks)
        book = self.book.seen(view.tick, slot, rows, limits.horizon, limits.window)
        awake = self._awake
        fed = tuple(
            each.fed(view.tick, slot, rows, creatives, book.touched_at, limits) if each.action in awake else each
            for each in self.watches
        )
        episodes = self.episodes.seen(view.tick, slot, rows, view.controls, book.moved_at, campaigns, limits)
        return replace(self, tick=view.tick, book=book, watches=fed, episodes=episodes)

    @property
    def _awake(self) -> set[int]:
        """The newest watch of each campaign."""
        return set({each.campaign: each.action for each in self.watches}.values())

    def judged(
        self, controls: ControlState, layout: Layout, history: History, limits: WatchLimits
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
        left = tuple(each for each in stay if each.campaign not in ended)
        episodes, of_episodes, bundles = self.episodes.judged(self.tick, controls, layout, history, limits)
        return replace(self, watches=left, episodes=episodes), told + of_episodes, rows + bundles


def _beneath(watch: Watch, newest: Watch, event: Event) -> Told:
    """What is told of a watch whose campaign's newest watch ended: the same, if both changes came together."""
    together = watch.opened == newest.opened and event is not Event.BLOCKED
    return watch.tell(event if together else Event.SUPERSEDED)


def _factor(rows: Actions) -> tuple[int, int]:
    """How much more a campaign may spend after a change: as a bid, a budget or a modifier rises, of several the most.

    What an audience brings that was no target before, nobody can tell.
    """
    if rows.knob[0] not in BANDED:
        return 1, 1
    if rows.knob[0] == Knob.MODIFIERS and (rows.old == 0).any():
        return 1, 0
    rises = [Fraction(new, old) for new, old in zip(rows.new.tolist(), rows.old.tolist(), strict=True) if new > old > 0]
    return max(rises, default=Fraction(1)).as_integer_ratio()


def _split(rows: Actions, campaigns: CampaignSet) -> Split | None:
    """The creatives side by side after a change of weights, if all that lost weight are shown still."""
    if rows.knob[0] != Knob.WEIGHTS:
        return None
    first = campaigns.creative_start[rows.campaign[0]]
    places = np.searchsorted(campaigns.rotating, np.arange(first, campaigns.creative_start[rows.campaign[0] + 1]))
    return Split.over(rows, places)


def slot_of(grid: TickGrid, tick: int) -> int:
    """The slot of the local day in which a tick lies."""
    return int(grid.hour[tick]) * SLOTS // 24
