from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from agents.scripted import Scripted
from engine.actions import Knob, Source
from engine.baseline import SLOTS, Book
from engine.campaigns import ACCOUNT
from engine.events import CLICKS, CONVERSIONS, COUNTS, OPPORTUNITIES, REVENUE, SPEND
from engine.ledger import RecordKind, decode_round
from engine.limits import Limits
from engine.messages import Command, CommandKind, Role
from engine.optimiser import Assignment, OptimiserMachine
from engine.policy import View
from engine.rollback import Blocked, History
from engine.sequential import compared
from engine.units import Float64
from engine.verdicts import FEWEST_BLOCKS, FEWEST_CONVERSIONS, Control, Event, Verdict, WatchLimits, Why
from engine.watch import Watch, Watching
from tests.engine.builders import BID, BUDGET, Desk, campaign_set, mandated, vector, wish
from tests.engine.test_optimiser import CAMPAIGNS, GRID, Loop, ask, command

# --- the test, by itself ---


def test_the_comparison_by_hand() -> None:
    after = np.array([[[2.0, -4.0, 10.0, 2.0]]])  # two blocks of weight 1: y = −1 and −3
    found = compared(np.array([[4.0]]), after, np.ones(1), alpha=0.5)
    # precision 4·2/6 = 4/3; residual 10 − 16/6 − 4·4/3 = 2 with 1 degree of freedom; ratio 8 / (8 + 4/3) = 6/7
    assert found.estimate[0] == pytest.approx(-2)
    level = (6 / 7) ** 0.5
    assert found.upper[0] == pytest.approx(-2 + (1.5 * (1 - level) / (level - 6 / 7)) ** 0.5)
    assert found.blocks[0] == 2


def test_without_a_past_or_with_one_block_nothing_is_bounded() -> None:
    after = np.array([[2.0, -4.0, 10.0, 2.0]])
    assert compared(np.zeros(1), after, np.array(1.0)).upper == np.inf
    assert compared(np.ones(1), np.array([[1.0, -4.0, 16.0, 1.0]]), np.array(1.0)).upper == np.inf


class Streams:
    """Blocks of many campaigns with a control of some siblings, a daily shape, and revenue that comes by conversion.

    `rate` is the mean number of conversions per two-hour block; profit is 40 % of revenue.
    """

    VALUE, MARGIN, DAYS = 10.0, 0.4, 6

    def __init__(
        self,
        seed: int,
        runs: int,
        days: int,
        rate: float,
        effect: float = 0.0,
        kind: str = "poisson",
        siblings: int = 4,
    ) -> None:
        self.random, self.kind, self.runs = np.random.default_rng(seed), kind, runs
        self.mean = rate * (1 + 0.5 * np.sin(np.arange(SLOTS) / SLOTS * 2 * np.pi))
        self.past, pasts = self.revenue(1, days), self.revenue(siblings, days)
        self.own, control = self.revenue(1 + effect * self.MARGIN, self.DAYS), self.revenue(siblings, self.DAYS)
        scale = (self.past.sum((1, 2)) / np.maximum(pasts.sum((1, 2)), 1))[:, np.newaxis]
        level = (self.past - scale[..., np.newaxis] * pasts).mean(axis=1)
        self.y = (self.own - scale[..., np.newaxis] * control - level[:, np.newaxis]).reshape(runs, -1)
        self.before = np.full((runs, SLOTS), float(days))

    def revenue(self, times: float, days: int) -> Float64:
        mean = np.broadcast_to(times * self.mean, (self.runs, days, SLOTS))
        if self.kind == "normal":
            return self.random.normal(self.VALUE * mean, self.VALUE * np.sqrt(mean))
        return self.random.poisson(mean) * self.VALUE

    def rolled_back(self) -> Any:
        """Whether each change is rolled back within seven days (the first is waited), looking at every block."""
        after, found = np.zeros((self.runs, SLOTS, 4)), np.zeros(self.runs, dtype=np.bool_)
        for block, y in enumerate(self.y.T):
            after[:, block % SLOTS] += np.stack([np.ones_like(y), y, y * y, np.ones_like(y)], axis=1)
            due = self.past.mean(axis=(1, 2)) / self.VALUE * (block + 1)
            enough = (due >= FEWEST_CONVERSIONS) & (self.past.sum(axis=(1, 2)) >= FEWEST_CONVERSIONS * self.VALUE)
            if block + 1 >= FEWEST_BLOCKS and enough.any():
                found |= enough & (compared(self.before, after, np.ones(self.runs)).upper < 0)
        return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "poisson"])
@pytest.mark.parametrize("days", [1, 7, 14])
def test_looking_at_every_block_at_most_5_percent_of_harmless_changes_are_rolled_back(kind: str, days: int) -> None:
    for seed, (rate, siblings) in enumerate(product((0.5, 1.0, 3.0, 20.0), (1, 4, 30))):
        # of 2,000 each, a standard error of at most half a percent
        assert Streams(seed, 2_000, days, rate, kind=kind, siblings=siblings).rolled_back().mean() <= 0.05


def test_a_loss_of_20_percent_of_profit_is_rolled_back_in_80_percent_at_60_conversions_per_two_hours() -> None:
    rolled_back = Streams(5, 1_000, 7, 60.0, effect=-0.2).rolled_back().mean()
    assert rolled_back >= 0.8
    assert Streams(6, 1_000, 7, 60.0, effect=-0.4).rolled_back().mean() >= 0.99


def test_campaigns_picked_for_their_bad_week_are_kept_though_nothing_was_done() -> None:
    streams = Streams(7, 5_000, 7, 3.0)
    week = streams.past.sum(axis=(1, 2)) / 7
    worst = week <= np.quantile(week, 0.1)
    naive = streams.own[worst].sum(axis=(1, 2)) / 6 / week[worst] - 1
    assert naive.mean() > 0.05  # what a comparison before and after would take for an effect
    assert streams.rolled_back()[worst].mean() <= 0.01


# --- a watch, tick by tick: a tick is a block of two hours ---

DAY = 12
LIMITS = WatchLimits.of(DAY, None)
N = 3
USUAL = {OPPORTUNITIES: 100, CLICKS: 10, CONVERSIONS: 4, SPEND: 60_000, REVENUE: 100_000}


class Bench:
    """Three campaigns of a market that live evenly; campaign 0 is changed at the close of tick 84."""

    CHANGED = 7 * DAY

    def __init__(self, rows: Any = None, days: int = 7, limits: WatchLimits = LIMITS, campaigns: int = N) -> None:
        self.limits, self.campaigns = limits, campaign_set((1,) * campaigns)
        self.watching = Watching.initial(campaigns, campaigns, campaigns)
        self.desk = Desk(self.campaigns)
        self.changed = days * DAY
        while self.watching.tick < self.changed:
            self.see()
        self.apply(wish(1_200_000) if rows is None else rows)

    def apply(self, rows: Any, undoing: Any = None) -> list[str]:
        applied = self.desk.hold(rows, granted=[True] * len(rows)).approved.rows
        free = np.zeros(len(applied), dtype=np.bool_)
        self.watching, told = self.watching.after(applied, free, undoing or {}, self.campaigns)
        return [each.event.value for each in told]

    def see(self, tick: int | None = None, **own: int) -> tuple[Verdict, str] | None:
        """Live up to a tick (by default the next), campaign 0 with other counts than usual; the last verdict."""
        last = self.watching.tick + 1 if tick is None else tick
        while self.watching.tick < last:
            recent = np.zeros((len(self.campaigns), len(COUNTS)), dtype=np.int64)
            for column, value in USUAL.items():
                recent[:, column] = value
                recent[0, column] = own.get(COUNTS[column], value)
            now = self.watching.tick + 1
            view = View(now, self.desk.state, recent, recent, recent)
            self.watching = self.watching.seen(view, now % SLOTS, self.campaigns, self.limits)
        return self.watch.verdict(self.watching.tick, self.limits) if self.watching.watches else None

    @property
    def watch(self) -> Watch:
        return self.watching.watches[-1]


def test_an_unchanged_campaign_is_kept_at_the_end_of_the_window() -> None:
    bench = Bench()
    end = bench.changed + 7 * DAY
    assert bench.see(end - 1) == (Verdict.TOO_EARLY, "")
    assert bench.see(end) == (Verdict.KEEP, Why.WINDOW)
    assert (bench.watch.opened, bench.watch.after[:, 3].sum()) == (bench.changed, 6 * DAY)


def test_a_loss_is_rolled_back_once_a_day_of_mature_blocks_is_there() -> None:
    bench = Bench()
    assert bench.see(bench.changed + DAY, revenue_micros=70_000) == (Verdict.TOO_EARLY, "")
    assert bench.watch.after.sum() == 0
    assert bench.see(bench.changed + 2 * DAY - 1, revenue_micros=70_000) == (Verdict.TOO_EARLY, "")
    assert bench.see(revenue_micros=71_000) == (Verdict.ROLL_BACK, Why.PROFIT)
    # 11 blocks lost 30,000 and one 29,000 of 100 opportunities each
    assert bench.watch.after[:, 1].sum() == pytest.approx(-(11 * 30_000 + 29_000))


def test_conversions_missing_only_because_they_are_young_give_no_verdict() -> None:
    bench = Bench()
    assert bench.see(bench.changed + DAY, spend_micros=75_000, conversions=0, revenue_micros=0) == (
        Verdict.TOO_EARLY,
        "",
    )
    assert bench.see(bench.changed + 7 * DAY, spend_micros=75_000, revenue_micros=125_000) == (
        Verdict.KEEP,
        Why.WINDOW,
    )


def test_what_befalls_all_campaigns_by_the_same_factor_is_no_effect() -> None:
    bench = Bench()
    for column in (SPEND, REVENUE):
        USUAL[column] //= 2
    try:
        assert bench.see(bench.changed + 7 * DAY) == (Verdict.KEEP, Why.WINDOW)
    finally:
        for column in (SPEND, REVENUE):
            USUAL[column] *= 2


def test_without_a_past_there_is_no_data_and_a_watch_ends_so() -> None:
    bench = Bench(days=1)
    assert bench.see(revenue_micros=0) == (Verdict.NO_DATA, "")
    assert bench.see(bench.changed + 7 * DAY, revenue_micros=10_000) == (Verdict.NO_DATA, Why.WINDOW)
    start = bench.campaigns.creative_start
    watching, told, rows = bench.watching.judged(bench.desk.state, start, History(1_000), bench.limits)
    assert ([each.event for each in told], watching.watches, rows) == ([Event.NO_DATA], (), [])


def test_without_siblings_the_campaigns_own_hours_are_the_control() -> None:
    bench = Bench(campaigns=1)
    assert bench.watch.control is Control.NONE
    assert bench.see(bench.changed + 2 * DAY - 1, revenue_micros=70_000) == (Verdict.TOO_EARLY, "")
    assert bench.watch.control is Control.HISTORY
    assert bench.see(revenue_micros=71_000) == (Verdict.ROLL_BACK, Why.PROFIT)
    assert bench.watch.after[:, 1].sum() == pytest.approx(-(11 * 30_000 + 29_000))
    assert bench.watch.tell(Event.ROLLS_BACK).told()["control"] == "history"


def test_a_sibling_that_is_changed_meanwhile_is_no_control_any_more() -> None:
    bench = Bench()
    assert bench.watch.members.tolist() == [0, 1, 2]
    bench.see(bench.changed + DAY + 3)
    assert bench.apply(wish(1_200_000, campaign=1, source=Source.PERSON)) == []
    assert bench.apply(wish(1_200_000, campaign=2, source=Source.PERSON)) == []
    bench.see(bench.changed + 2 * DAY)
    assert bench.watch.after[:, 3].sum() == 3
    assert bench.watch.control is Control.SIBLINGS


# --- without statistics ---


@pytest.mark.parametrize(("spend", "verdict"), [(108_000, Verdict.TOO_EARLY), (108_001, Verdict.ROLL_BACK)])
def test_a_spend_rate_that_nothing_explains_is_stopped_at_once(spend: int, verdict: Verdict) -> None:
    bench = Bench()  # the bid rose by a fifth, and the most that was ever spent in a tick is 60,000
    found = bench.see(spend_micros=spend)
    assert found == (verdict, Why.SPEND if verdict is Verdict.ROLL_BACK else "")


def test_a_spend_rate_has_to_last_fifteen_minutes() -> None:
    limits = WatchLimits.of(288, None)  # five minutes a tick
    assert limits.runaway == 3
    bench = Bench()
    bench.limits = replace(limits, horizon=10**6)
    past = bench.watch.before.copy()
    past[:, :, 5] *= 100
    bench.watching = replace(bench.watching, watches=(replace(bench.watch, before=past),))
    told = [bench.see(spend_micros=spend) for spend in (200_000, 200_000, 60_000, 200_000, 200_000, 200_000)]
    assert [each[0] for each in told if each] == [Verdict.TOO_EARLY] * 5 + [Verdict.ROLL_BACK]


def test_ten_conversions_expected_and_none_seen_is_a_defect() -> None:
    bench = Bench()
    bench.see(bench.changed + DAY, conversions=0)
    told = [bench.see(conversions=0) for _ in range(3)]  # four are expected in a tick
    assert told == [(Verdict.TOO_EARLY, ""), (Verdict.TOO_EARLY, ""), (Verdict.ROLL_BACK, Why.CONVERSIONS)]


# --- which changes are watched, and what ends a watch ---


def test_a_persons_edit_a_pause_and_a_step_inside_a_mandate_are_not_watched() -> None:
    bench = Bench(wish(1_200_000, source=Source.PERSON))
    assert bench.watching.watches == ()
    assert bench.apply(wish(1, Knob.PAUSED, Source.RULE)) == []
    rows = bench.desk.hold(wish(1_250_000, version=1)).approved.rows
    watching, told = bench.watching.after(rows, np.ones(1, dtype=np.bool_), {}, bench.campaigns)
    assert (watching.watches, [each.event for each in told]) == ((), [Event.BEGUN])


def test_a_vector_is_one_watch() -> None:
    run = campaign_set((3, 1))
    rows = Desk(run).judge(vector([400_000, 400_000, 200_000]), granted=[True] * 3).approved.rows
    watching, told = Watching.initial(2, 4, 2).after(rows, np.zeros(3, dtype=np.bool_), {}, run)
    assert [(each.event, each.action, each.knob) for each in told] == [
        (Event.OPENED, int(rows.action[0]), Knob.WEIGHTS)
    ]
    assert len(watching.watches) == 1


def test_a_persons_edit_ends_a_watch_and_a_change_starts_the_campaigns_past_anew() -> None:
    bench = Bench()
    bench.see(bench.changed + DAY)
    assert bench.watching.book.total()[0].sum() == 0
    assert bench.apply(wish(2_000_000, source=Source.PERSON, version=1)) == ["superseded"]
    bench.see(bench.changed + 2 * DAY)
    assert bench.watching.book.total()[0].sum() == 0
    bench.see()
    assert bench.watching.book.total()[0].tolist() == [100, 10, 4, 60_000, 100_000, 1]


def test_the_past_is_this_week_and_the_two_before() -> None:
    book = Book.initial(1)
    rows = np.array([[100, 10, 4, 60, 100, 1]], dtype=np.int64)
    seen = []
    for tick in range(40 * DAY):
        book = book.seen(tick, tick % SLOTS, rows, 0, 7 * DAY)
        seen.append(int(book.total()[0, 5]))
    assert seen[14 * DAY - 1] == 14 * DAY
    assert (min(seen[14 * DAY :]), max(seen)) == (14 * DAY + 1, 21 * DAY)


# --- through the optimiser's machine: a tick is an hour ---

APPROVED = 8 * 24


class World(Loop):
    """Two campaigns; what the first earns depends on its bid, and the first change of it is approved at `APPROVED`."""

    def __init__(self, *, harmful: bool = True, wishes: Any = None) -> None:
        limits = replace(Limits.of(CAMPAIGNS), day=24)
        super().__init__({APPROVED - 1: (ask(1_200_000),), **(wishes or {})}, limits)
        self.harmful = harmful

    def happens(self) -> Any:
        counts = np.zeros((1, 3, len(COUNTS)), dtype=np.int64)
        for column, value in USUAL.items():
            counts[0, :2, column] = value
        lost = 30_000 * (int(self.bid > BID) + int(self.controls.budget[0] > BUDGET)) * self.harmful
        counts[0, 0, REVENUE] -= lost + self.tick % 7
        return counts

    def until(self, tick: int) -> World:
        self.go(to=APPROVED - 1)
        self.go(command("approve"))
        self.go(to=tick)
        return self

    @property
    def told(self) -> list[tuple[int, str, str]]:  # type: ignore[override]
        """What the ledger tells of watches: tick, event, why."""
        rounds = [record for record in self.records if record.kind is RecordKind.ROUND]
        return [
            (record.tick, each["event"], each["why"])
            for record in rounds
            for each in decode_round(record).header["watches"]
        ]


VERDICT = APPROVED + 49  # a day until conversions count, the rest of a block, a day of blocks


def test_a_harmful_change_is_rolled_back_in_the_round_of_the_verdict_once() -> None:
    world = World().until(399)
    assert world.told == [
        (APPROVED + 1, "opened", ""),
        (VERDICT, "rolls_back", "profit"),
        (VERDICT + 1, "rolled_back", "profit"),
    ]
    judged = decode_round(world.records[VERDICT + 1])
    assert (judged.judged["source"].tolist(), judged.judged["wanted"].tolist()) == ([Source.ROLLBACK], [BID])
    assert judged.header["notes"][0][0] == "watch"
    assert world.bid == BID
    assert world.machine.state.watching.watches == ()
    world.close()


def test_a_harmless_change_is_kept() -> None:
    world = World(harmful=False).until(APPROVED + 7 * 24)
    assert world.told == [(APPROVED + 1, "opened", ""), (APPROVED + 7 * 24, "kept", "")]
    assert world.bid == 1_200_000
    world.close()


def test_after_a_rollback_the_ledger_tells_the_same_history() -> None:
    world = World().until(VERDICT + 2)
    told = History.told_by(world.records, 7 * 24)
    action = decode_round(world.records[VERDICT + 1]).header["watches"][0]["action"]
    assert told.inverse(0, Knob.BID, action, world.controls, "ann") is Blocked.ALREADY_ROLLED_BACK


@pytest.mark.slow
@pytest.mark.parametrize("at", [APPROVED, APPROVED + 1, APPROVED + 30, VERDICT - 1, VERDICT, VERDICT + 1])
def test_an_optimiser_put_in_its_place_at_any_time_decides_the_same(at: int) -> None:
    whole, world = World().until(VERDICT + 5), World().until(at)
    world.machine = OptimiserMachine(
        CAMPAIGNS,
        GRID,
        replace(Limits.of(CAMPAIGNS), day=24),
        (Assignment(Scripted({APPROVED - 1: (ask(1_200_000),)}), np.arange(2), Source.SCRIPT, "script"),),
        people=dict.fromkeys(("dana", "sam", "kim"), frozenset(Role)),
        approval_ticks=24,
        history=History.told_by(world.records, 7 * 24),
        state=world.machine.state,
    )
    world.go(to=VERDICT + 5)
    assert world.records == whole.records


def test_a_persons_edit_in_the_round_of_the_verdict_stands_and_blocks_the_rollback() -> None:
    world = World().until(VERDICT - 1)
    assert world.go(command("edit", values=(1_250_000,))) == ["approved"]
    world.go(to=VERDICT + 3)
    assert world.told[1:] == [(VERDICT, "rolls_back", "profit"), (VERDICT + 1, "blocked", "later_edit")]
    assert world.bid == 1_250_000
    world.close()


def test_a_person_who_rolls_back_first_ends_the_watch() -> None:
    world = World().until(VERDICT - 5)
    assert world.go(command("rollback")) == ["approved"]
    world.go(to=VERDICT + 3)
    assert world.told == [(APPROVED + 1, "opened", ""), (VERDICT - 3, "rolled_back", "")]


def test_the_last_change_goes_first_and_the_one_beneath_is_judged_anew() -> None:
    second = APPROVED + 40
    world = World(wishes={second - 1: (ask(110_000_000, knob=Knob.BUDGET),)}).until(second - 1)
    world.go()  # the budget does not bind, so more of it is of low impact
    world.go(to=399)
    (_, opened, _), (again, upper, _), (first, _, _), (undone, _, _), (last, lower, _), (end, _, _) = world.told
    assert (opened, again, upper) == ("opened", second, "opened")
    assert (first > second + 48, undone, last > undone + 46, lower, end) == (
        True,
        first + 1,
        True,
        "rolls_back",
        last + 1,
    )
    assert world.bid == BID
    world.close()


def test_frozen_a_rollback_goes_on() -> None:
    world = World().until(VERDICT - 1)
    world.go(Command("f", CommandKind.FREEZE, "dana", ACCOUNT, Knob.PAUSED))
    world.go()
    assert world.bid == BID


def test_an_approved_change_of_a_policy_stays_in_reach_as_long_as_its_watch() -> None:
    run = campaign_set((3, 1))
    history = History(100, policy_ticks=10)
    desk = Desk(run, limits=mandated(run))
    rows = desk.judge(vector([400_000, 400_000, 200_000]), wish(1_200_000, campaign=1)).approved.rows
    history.record(0, rows)
    history.keep([(0, Knob.WEIGHTS)], 0)
    for tick, known in ((10, [True, True]), (11, [True, False]), (100, [True, False]), (101, [False, False])):
        history.record(tick, rows.take(slice(0)))
        assert [history.latest(0, Knob.WEIGHTS) is not None, history.latest(1, Knob.BID) is not None] == known
