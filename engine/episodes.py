"""Episodes: what a policy does to a campaign inside its mandate, watched as one change and taken back as one.

An episode begins with the first step applied inside a mandate while none is open for the campaign. It covers what the
mandate moves there, bid, budget, weights and modifiers, and ends after the watch window, kept or without data; the next
step begins another. Its past is the campaign's as it was when the episode began, so an account that starts with a
mandate has none to hold its first episode against: that one ends as no_data, and only a defect that takes no statistics
could end it earlier. Its control are siblings that did not move at all, not even inside a mandate, neither since nor in
the past they are compared by; where there is none, the campaign's own history at the same time of day.

What cannot be told from history alone: drift that befalls the campaign or the whole market, such as a price shock or a
season, looks like the policy's doing. Against siblings, that they gain in the same auctions what the campaign loses.

A verdict takes back the bundle: every knob the episode moved returns to the value recorded by its first action on it. A
person's command on the campaign, a rollback, or a change outside mandates ends the episode, since its past is then
another campaign's; once its rollback is asked for, a later change that a person made or approved stands and blocks that
knob alone.

All open episodes are columns over the campaigns, so that ten thousand of them cost no loop. Columns are replaced, never
changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.actions import Actions, Knob, Proposals, Source, proposals
from engine.baseline import CLICKED, CONVERTED, SEEN, SLOTS, SPENT, TICKS, Book
from engine.campaigns import SCALARS, CampaignSet, ControlState, Layout, places_of
from engine.rollback import History
from engine.sequential import ALPHA, BLOCKS, WEIGHT, compared
from engine.units import Bool, Float64, Int64
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
    WatchLimits,
    Why,
    differences,
)

NONE = -1
_KNOBS = (Knob.BID, Knob.BUDGET, Knob.WEIGHTS, Knob.MODIFIERS)
_REASONS = ("", Why.SPEND, Why.CONVERSIONS, Why.PROFIT)
_CONTROLS = (Control.NONE, Control.SIBLINGS, Control.HISTORY)
_SIBLINGS, _HISTORY = 1, 2
NOTHING_DIFFERS = "nothing_differs"
"""Why a knob is kept though its episode is taken back: it is back already where the episode found it."""


@dataclass(frozen=True)
class Cohort:
    """The unmoved siblings of the episodes that began in one market at one tick.

    members:
        int64[m], their positions.
    before:
        int64[SLOTS, m, 6], their past when the episodes began.
    """

    market: int
    opened: int
    members: Int64
    before: Int64

    def side(self, block: Int64, slot: int, moved_at: Int64) -> Side:
        """The sum of those that have not moved so far, as a control for a block of all campaigns."""
        still = moved_at[self.members] < self.opened
        before = self.before[:, still].sum(axis=1)
        return Side(block[self.members[still]].sum(axis=0), before[slot], before.sum(axis=0))


@dataclass(frozen=True)
class Episodes:
    """The open episodes of n campaigns with c creatives and a audiences; where none is open, `opened` is NONE.

    opened:
        int64[n], the tick at whose close the first step was decided.
    first:
        int64[n, 5], the first action on every knob; NONE where it did not move.
    began, shares, modifiers:
        int64[n, 2], int64[c] and int64[a], the values that the first actions on each replaced; NONE for an audience
        whose modifier did not move since its campaign's modifiers first did.
    before, past:
        int64[n, SLOTS, 6] and int64[n, 6], the campaign's past when its episode began, by slot and in all.
    peak:
        int64[n], greatest spend per tick in that past, micros.
    clicks, conversions, running:
        int64[n], mature clicks, all conversions, and ticks in a row at a spend rate that nothing explains.
    ready:
        bool[n], whether the block under way counts: it began when the conversions of earlier clicks were in.
    control:
        uint8[n], what is compared with, once a block counted: an index into `Control`s.
    after:
        float64[n, SLOTS, 4], the blocks' sums, as `engine.sequential` reads them.
    asked:
        uint8[n], why the rollback was asked for; 0 as long as it was not.
    block, slot:
        int64[n, 6], sums of all campaigns over the block that is under way, and its slot.
    cohorts:
        The siblings, by market and tick.
    """

    opened: Int64
    first: Int64
    began: Int64
    shares: Int64
    modifiers: Int64
    before: Int64
    past: Int64
    peak: Int64
    clicks: Int64
    conversions: Int64
    running: Int64
    ready: Bool
    control: NDArray[np.uint8]
    after: Float64
    asked: NDArray[np.uint8]
    block: Int64
    slot: int
    cohorts: tuple[Cohort, ...]

    @classmethod
    def initial(cls, campaigns: int, creatives: int, audiences: int) -> Self:
        """None is open."""
        n, zero = campaigns, np.zeros(campaigns, dtype=np.int64)
        return cls(
            opened=np.full(n, NONE, dtype=np.int64),
            first=np.full((n, len(Knob)), NONE, dtype=np.int64),
            began=np.zeros((n, len(SCALARS)), dtype=np.int64),
            shares=np.zeros(creatives, dtype=np.int64),
            modifiers=np.full(audiences, NONE, dtype=np.int64),
            before=np.zeros((n, SLOTS, TICKS + 1), dtype=np.int64),
            past=np.zeros((n, TICKS + 1), dtype=np.int64),
            peak=zero,
            clicks=zero,
            conversions=zero,
            running=zero,
            ready=np.zeros(n, dtype=np.bool_),
            control=np.zeros(n, dtype=np.uint8),
            after=np.zeros((n, SLOTS, BLOCKS + 1)),
            asked=np.zeros(n, dtype=np.uint8),
            block=np.zeros((n, TICKS + 1), dtype=np.int64),
            slot=NONE,
            cohorts=(),
        )

    @property
    def open(self) -> Bool:
        """Campaigns that have one; bool[n]."""
        is_open: Bool = self.opened != NONE
        return is_open

    @property
    def undoing(self) -> dict[tuple[int, Knob], int]:
        """The first action on every knob whose rollback was asked for."""
        asked = np.flatnonzero(self.asked).tolist()
        moved = [(campaign, knob) for campaign in asked for knob in self.moved(campaign)]
        return {(campaign, knob): int(self.first[campaign, knob]) for campaign, knob in moved}

    def tell(self, campaign: int, knobs: Iterable[Knob], event: Event, why: str = "") -> list[Told]:
        """What happened to some knobs of a campaign's episode."""
        control = _CONTROLS[self.control[campaign]]
        return [Told(int(self.first[campaign, knob]), campaign, knob, event, why, control) for knob in knobs]

    def moved(self, campaign: int) -> list[Knob]:
        """The knobs that a campaign's episode moved."""
        return [knob for knob in _KNOBS if self.first[campaign, knob] != NONE]

    # --- what begins and ends them ---

    def moved_by(
        self,
        tick: int,
        steps: Actions,
        others: Actions,
        undoing: Mapping[tuple[int, Knob], int],
        book: Book,
        campaigns: CampaignSet,
    ) -> tuple[Self, list[Told]]:
        """With what a round applied: steps inside mandates, and all else, which ends what it disturbs.

        `book` is the past without that of the campaigns whose change was none of a mandate's.
        """
        stay, told = self._disturbed(others, undoing)
        steps = steps.take(steps.knob != Knob.PAUSED)
        fresh = stay.first[steps.campaign, steps.knob] == NONE
        stay = stay._with_modifiers(steps, fresh, campaigns.layout)
        if not fresh.any():
            return stay, told
        steps = steps.take(fresh)
        begun = stay._begun(tick, np.unique(steps.campaign.astype(np.int64)), book, campaigns.market)
        recorded, joined = begun._recorded(steps, campaigns.layout)
        for campaign, knob in zip(*joined, strict=True):
            told += recorded.tell(campaign, [Knob(knob)], Event.BEGUN)
        return recorded, told

    def _disturbed(self, others: Actions, undoing: Mapping[tuple[int, Knob], int]) -> tuple[Self, list[Told]]:
        """Without what a person, a rollback or a change outside mandates ended."""
        disturbed = [campaign for campaign in np.unique(others.campaign).tolist() if self.opened[campaign] != NONE]
        if not disturbed:
            return self, []
        back: dict[int, list[Knob]] = {}
        for position in np.flatnonzero(others.source == Source.ROLLBACK):
            campaign, knob = int(others.campaign[position]), Knob(others.knob[position])
            if knob in _KNOBS and undoing.get((campaign, knob)) == self.first[campaign, knob]:
                back.setdefault(campaign, [])
                back[campaign] += [] if knob in back[campaign] else [knob]
        first, told, ended = self.first.copy(), [], []
        for campaign in disturbed:
            undone, asked = back.get(campaign, []), int(self.asked[campaign])
            told += self.tell(campaign, undone, Event.ROLLED_BACK, _REASONS[asked])
            first[campaign, undone] = NONE
            left = [knob for knob in self.moved(campaign) if knob not in undone]
            if not (asked and left):
                told += self.tell(campaign, left, Event.SUPERSEDED)
                ended.append(campaign)
        return replace(self, first=first)._ended(ended), told

    def _ended(self, campaigns: list[int]) -> Self:
        if not campaigns:
            return self
        columns = {name: getattr(self, name).copy() for name in ("opened", "first", "ready", "control", "asked")}
        for name, nothing in (("opened", NONE), ("first", NONE), ("ready", False), ("control", 0), ("asked", 0)):
            columns[name][campaigns] = nothing
        return replace(self, **columns)

    def _begun(self, tick: int, moved: Int64, book: Book, market: Int64) -> Self:
        """With an episode of every campaign that moved and has none."""
        opening = moved[~self.open[moved]]
        if not opening.size:
            return self
        names = ("opened", "before", "past", "peak", "clicks", "conversions", "running", "after")
        columns = {name: getattr(self, name).copy() for name in names}
        before = book.of(opening).transpose(1, 0, 2)
        columns["opened"][opening] = tick
        columns["before"][opening] = before
        columns["past"][opening] = before.sum(axis=1)
        columns["peak"][opening] = book.peak[opening].max(axis=1)
        for name in ("clicks", "conversions", "running", "after"):
            columns[name][opening] = 0
        cohorts, unmoved, total = [], book.moved_at <= book.touched_at, book.total()
        for own in np.unique(market[opening]).tolist() if unmoved.any() else []:
            members = book.siblings(total, market, own, unmoved, FEWEST_CONVERSIONS, MOST_SIBLINGS)
            if members.size:
                cohorts.append(Cohort(own, tick, members, book.of(members)))
        return replace(self, **columns, cohorts=(*self.cohorts, *cohorts))

    def _recorded(self, steps: Actions, layout: Layout) -> tuple[Self, tuple[list[int], list[int]]]:
        """With what the first steps on knobs replaced, and the campaigns and knobs that these are."""
        campaign, knob = steps.campaign.astype(np.int64), steps.knob.astype(np.int64)
        first, began, shares = self.first.copy(), self.began.copy(), self.shares
        _, at = np.unique(campaign * len(Knob) + knob, return_index=True)
        first[campaign[at], knob[at]] = steps.action[at]
        scalar, weight = knob < len(SCALARS), knob == Knob.WEIGHTS
        began[campaign[scalar], knob[scalar]] = steps.old[scalar]
        if weight.any():
            shares = shares.copy()
            shares[layout.creative_start[campaign[weight]] + steps.index[weight]] = steps.old[weight]
        joined = campaign[at].tolist(), knob[at].tolist()
        return replace(self, first=first, began=began, shares=shares), joined

    def _with_modifiers(self, steps: Actions, fresh: Bool, layout: Layout) -> Self:
        """With what each audience's first step replaced; where the knob itself is fresh, nothing moved before."""
        rows = np.flatnonzero(steps.knob == Knob.MODIFIERS)
        if not rows.size:
            return self
        modifiers, campaign = self.modifiers.copy(), steps.campaign.astype(np.int64)
        modifiers[places_of(layout.audience_start, np.unique(campaign[rows[fresh[rows]]]))] = NONE
        place = layout.audience_start[campaign[rows]] + steps.index[rows]
        unmoved = modifiers[place] == NONE
        modifiers[place[unmoved]] = steps.old[rows[unmoved]]
        return replace(self, modifiers=modifiers)

    # --- what is seen ---

    def seen(
        self,
        tick: int,
        slot: int,
        rows: Int64,
        controls: ControlState,
        moved_at: Int64,
        campaigns: CampaignSet,
        limits: WatchLimits,
    ) -> Self:
        """With a span that closed with a tick; `rows`, int64[n, 6], and the controls in force are all campaigns'."""
        is_open = self.open
        if not is_open.any():
            return self if self.slot == slot else replace(self, slot=slot, block=np.zeros_like(rows), cohorts=())
        ticks = int(rows[0, TICKS])
        mature = is_open & (tick - ticks >= self.opened + limits.horizon)
        runaway = self._runaway(rows, controls, campaigns.layout)
        counted = replace(
            self,
            clicks=self.clicks + rows[:, CLICKED] * mature,
            conversions=self.conversions + rows[:, CONVERTED],
            running=np.where(runaway, self.running + ticks, 0),
        )
        return counted._alarmed(limits)._fed(slot, rows, mature, moved_at, campaigns.market, limits)

    def _runaway(self, rows: Int64, controls: ControlState, layout: Layout) -> Bool:
        """Campaigns that spend faster than their past, and what the episode raised, explain at most."""
        moved = self.first[:, : len(SCALARS)] != NONE
        grown = np.where(moved, controls.scalar / np.maximum(self.began, 1), 1.0)
        bid = np.maximum(grown[:, Knob.BID], 1.0) * self._modified(controls, layout)
        times, parts = RUNAWAY
        bound = times * self.peak * rows[:, TICKS] * np.maximum(bid, grown[:, Knob.BUDGET])
        runaway: Bool = self.open & (self.peak > 0) & (parts * rows[:, SPENT] > bound * (1 - 1e-9))
        for campaign in np.flatnonzero(runaway).tolist():  # whole numbers decide what is close
            new, old = self._grown(campaign, controls, layout).as_integer_ratio()
            spent, ticks = int(rows[campaign, SPENT]), int(rows[campaign, TICKS])
            runaway[campaign] = spent * parts * old > times * new * int(self.peak[campaign]) * ticks
        return runaway

    def _modified(self, controls: ControlState, layout: Layout) -> Float64:
        """By how much the episodes raised modifiers, of a campaign's the most; at least 1, float64[n]."""
        most = np.ones(len(self.opened))
        members = np.flatnonzero(self.first[:, Knob.MODIFIERS] != NONE)
        if members.size:
            place = places_of(layout.audience_start, members)
            owner = np.repeat(members, np.diff(layout.audience_start)[members])
            moved = self.modifiers[place] != NONE
            np.maximum.at(most, owner[moved], (controls.modifiers[place] / np.maximum(self.modifiers[place], 1))[moved])
        return most

    def _grown(self, campaign: int, controls: ControlState, layout: Layout) -> Fraction:
        """By how much an episode lets its campaign spend more: as bid times modifier rose, or as the budget did."""
        began, now = self.began[campaign].tolist(), controls.scalar[campaign].tolist()
        bid, budget = (
            Fraction(now[knob], began[knob] or 1) if self.first[campaign, knob] != NONE else Fraction(1)
            for knob in SCALARS
        )
        if self.first[campaign, Knob.MODIFIERS] != NONE:
            place = places_of(layout.audience_start, np.array([campaign]))
            place = place[self.modifiers[place] != NONE]
            pairs = zip(controls.modifiers[place].tolist(), self.modifiers[place].tolist(), strict=True)
            bid = max(bid, Fraction(1)) * max(Fraction(1), *(Fraction(new, old or 1) for new, old in pairs))
        return max(Fraction(1), bid, budget)

    def _alarmed(self, limits: WatchLimits) -> Self:
        """With the rollbacks asked for that take no statistics."""
        past, free = self.past, self.open & (self.asked == 0)
        spends = free & (self.running >= limits.runaway) & (past[:, TICKS] >= limits.day)
        due = self.clicks * past[:, CONVERTED] >= MANY_CONVERSIONS * np.maximum(past[:, CLICKED], 1)
        silent = free & (past[:, CONVERTED] >= FEWEST_CONVERSIONS) & (self.conversions == 0) & due
        if not (spends.any() or silent.any()):
            return self
        asked = self.asked.copy()
        asked[silent] = _REASONS.index(Why.CONVERSIONS)
        asked[spends] = _REASONS.index(Why.SPEND)
        return replace(self, asked=asked)

    def _fed(self, slot: int, rows: Int64, mature: Bool, moved_at: Int64, market: Int64, limits: WatchLimits) -> Self:
        """With a span in its block; the first span of a block decides for whom it counts."""
        fed, ticks = self, int(rows[0, TICKS])
        if slot != self.slot and self.block[0, TICKS]:
            fed = fed._closed(moved_at, market, limits)
        if not fed.block[0, TICKS]:
            if slot == fed.slot and ticks < limits.block:
                return fed  # the rest of a block
            fed = replace(fed, ready=mature)
        fed = replace(fed, block=fed.block + rows, slot=slot)
        return fed if fed.block[0, TICKS] < limits.block else fed._closed(moved_at, market, limits)

    def _closed(self, moved_at: Int64, market: Int64, limits: WatchLimits) -> Self:
        """With the block under way among those that count, where it can be compared, and what that asks for."""
        emptied = replace(self, block=np.zeros_like(self.block), ready=np.zeros_like(self.ready))
        ready = np.flatnonzero(self.ready & self.open & (self.past[:, CONVERTED] >= FEWEST_CONVERSIONS))
        if not ready.size:
            return emptied
        control, y = self._compared(ready, moved_at, market)
        fit = ~np.isnan(y)
        rows, y = ready[fit], y[fit]
        after, weight = self.after.copy(), self.block[rows, SEEN].astype(np.float64)
        after[rows, self.slot] += np.stack([weight, weight * y, weight * y * y, np.ones_like(y)], axis=1)
        followed = {each.opened for each in self.cohorts} & set(np.unique(self.opened[self.open]).tolist())
        cohorts = tuple(each for each in self.cohorts if each.opened in followed)
        return replace(emptied, after=after, control=control, cohorts=cohorts)._judged_by_profit(rows, limits)

    def _compared(self, ready: Int64, moved_at: Int64, market: Int64) -> tuple[NDArray[np.uint8], Float64]:
        """What campaigns are compared with, and by how much each does better: float64 of `ready`, NaN for unknown."""
        control, y = self.control.copy(), np.full(len(ready), np.nan)
        for cohort in self.cohorts:
            mine = (self.opened[ready] == cohort.opened) & (market[ready] == cohort.market)
            mine &= control[ready] != _HISTORY
            if not mine.any():
                continue
            side = cohort.side(self.block, self.slot, moved_at)
            if side.past[CONVERTED] >= FEWEST_CONVERSIONS:
                control[ready[mine]] = _SIBLINGS
                y[mine] = differences(self._side(ready[mine]), side)
        control[ready[control[ready] == 0]] = _HISTORY
        alone = control[ready] == _HISTORY
        y[alone] = differences(self._side(ready[alone]), None)
        return control, y

    def _side(self, rows: Int64) -> Side:
        return Side(self.block[rows], self.before[rows, self.slot], self.past[rows])

    def _judged_by_profit(self, rows: Int64, limits: WatchLimits) -> Self:
        """With the rollbacks asked for by the anytime-valid comparison of all blocks so far."""
        rows = rows[(self.asked[rows] == 0) & self._enough(rows)]
        if not rows.size:
            return self
        weights = self.before[rows, :, SEEN].astype(np.float64)
        unit = weights.sum(axis=1) / np.maximum(self.past[rows, TICKS], 1) * limits.block
        harmful = compared(weights, self.after[rows], unit, ALPHA).upper < 0
        asked = self.asked.copy()
        asked[rows[harmful]] = _REASONS.index(Why.PROFIT)
        return replace(self, asked=asked)

    def _enough(self, rows: Int64) -> Bool:
        """Whether the blocks so far are a day's at least, and conversions enough were due in them."""
        after, past = self.after[rows], self.past[rows]
        due = after[:, :, WEIGHT].sum(axis=1) * past[:, CONVERTED] / np.maximum(past[:, SEEN], 1)
        enough: Bool = (after[:, :, BLOCKS].sum(axis=1) >= FEWEST_BLOCKS) & (due >= FEWEST_CONVERSIONS)
        return enough

    # --- what becomes of them ---

    def judged(
        self, tick: int, controls: ControlState, layout: Layout, history: History, limits: WatchLimits
    ) -> tuple[Self, list[Told], list[Proposals]]:
        """With the verdicts of a boundary: what is told, and the bundles that take episodes back, decreases first."""
        asked = np.flatnonzero(self.asked).tolist()
        over = np.flatnonzero(self.open & (self.asked == 0) & (tick >= self.opened + limits.window))
        if not asked and not over.size:
            return self, [], []
        told: list[Told] = []
        bundles: list[tuple[bool, Proposals]] = []
        first, ended = self.first.copy(), over.tolist()
        for campaign in asked:
            wanted = self._recorded_values(campaign, controls, layout)
            of_bundle, going = self._taken_back(campaign, set(wanted), history)
            told += of_bundle
            bundles += [wanted[knob] for knob in going]
            first[campaign, [knob for knob in _KNOBS if knob not in going]] = NONE
            ended += [] if going else [campaign]
        enough = self._enough(over)
        for campaign, kept in zip(over.tolist(), enough.tolist(), strict=True):
            told += self.tell(campaign, self.moved(campaign), Event.KEPT if kept else Event.NO_DATA)
        rows = [rows for _, rows in sorted(bundles, key=lambda each: each[0])]
        return replace(self, first=first)._ended(ended), told, rows

    def _taken_back(self, campaign: int, differs: set[Knob], history: History) -> tuple[list[Told], list[Knob]]:
        """What is told of an episode whose rollback is asked for, and the knobs that are to go back."""
        told: list[Told] = []
        going = []
        for knob in self.moved(campaign):
            blocked = history.blocked(campaign, knob, int(self.first[campaign, knob]))
            if blocked is not None:
                told += self.tell(campaign, [knob], Event.BLOCKED, blocked.value)
            elif knob in differs:
                told += self.tell(campaign, [knob], Event.ROLLS_BACK, _REASONS[self.asked[campaign]])
                going.append(knob)
            else:
                told += self.tell(campaign, [knob], Event.KEPT, NOTHING_DIFFERS)
        return told, going

    def _recorded_values(
        self, campaign: int, controls: ControlState, layout: Layout
    ) -> dict[Knob, tuple[bool, Proposals]]:
        """Rows that restore the knobs whose value is another than the recorded one, and whether they raise it."""
        creatives, audiences = (slice(*start[campaign : campaign + 2].tolist()) for start in layout)
        recorded, in_force = self.modifiers[audiences], controls.modifiers[audiences]
        values = {
            Knob.BID: (self.began[campaign, :1], controls.scalar[campaign, :1]),
            Knob.BUDGET: (self.began[campaign, 1:], controls.scalar[campaign, 1:]),
            Knob.WEIGHTS: (self.shares[creatives], controls.weights[creatives]),
            Knob.MODIFIERS: (np.where(recorded == NONE, in_force, recorded), in_force),
        }
        found = {}
        for knob, (recorded, now) in values.items():
            if self.first[campaign, knob] == NONE or np.array_equal(recorded, now):
                continue
            index = np.arange(len(recorded))
            if knob is Knob.MODIFIERS:  # those that differ; weights go back whole
                index = np.flatnonzero(recorded != now)
            rows = proposals(
                np.full(len(index), campaign),
                knob,
                recorded[index],
                controls.version[campaign, knob],
                Source.ROLLBACK,
                f"rolls back action {int(self.first[campaign, knob])}",
                index=index,
                proposer=PROPOSER,
            )
            found[knob] = bool(knob is not Knob.WEIGHTS and (recorded > now).any()), rows
        return found
