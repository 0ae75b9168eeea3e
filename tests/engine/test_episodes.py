"""Episodes, through the optimiser's machine: a tick is an hour, and campaign 0 is what the mandate moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agents.scripted import Scripted
from engine.actions import Knob, Source
from engine.alerts import AlertKind, Fingerprint
from engine.events import CLICKS, CONVERSIONS, COUNTS, OPPORTUNITIES, REVENUE, SPEND
from engine.ledger import RecordKind, decode_round
from engine.limits import Limits
from engine.messages import Reloaded, Role
from engine.optimiser import Assignment, OptimiserMachine
from engine.rollback import Blocked, History
from engine.units import PPM
from engine.verdicts import WatchLimits
from tests.engine.builders import BID, BUDGET, mandated
from tests.engine.test_optimiser import CAMPAIGNS, DAY, EVERYBODY, GRID, Loop, ask, command

BEGUN = 3 * DAY
VERDICT = BEGUN + 47  # a day until conversions count, a day of blocks
USUAL = {OPPORTUNITIES: 100, CLICKS: 10, CONVERSIONS: 4, SPEND: 60_000, REVENUE: 100_000}
BIDS = {BEGUN - 1: (ask(1_200_000),), BEGUN + 3: (ask(1_300_000),)}
BUNDLE = {**BIDS, BEGUN + 5: (ask(BUDGET + 5_000_000, knob=Knob.BUDGET),), BEGUN + 9: (ask(1_400_000),)}


def limits() -> Limits:
    return replace(mandated(CAMPAIGNS), day=DAY)


class World(Loop):
    """What campaign 0 earns falls once its bid is above the one it began with, unless it is to be harmless.

    `waned` is the tick from which on campaign 0 earns less whatever anybody does.
    """

    def __init__(
        self, wishes: Any = None, *, harmful: bool = True, waned: int = 10**6, spend: int = USUAL[SPEND]
    ) -> None:
        self.wishes = BUNDLE if wishes is None else wishes
        super().__init__(self.wishes, limits())
        self.harmful, self.waned, self.spend = harmful, waned, spend

    def happens(self) -> Any:
        counts = np.zeros((1, 3, len(COUNTS)), dtype=np.int64)
        for column, value in USUAL.items():
            counts[0, :2, column] = value
        lost = (self.harmful and self.bid > BID) or self.tick >= self.waned
        counts[0, 0, REVENUE] -= 30_000 * lost + self.tick % 7
        if self.tick > BEGUN:
            counts[0, 0, SPEND] = self.spend
        return counts

    def until(self, tick: int) -> World:
        self.go(to=tick)
        return self

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The ledger's entries about watches, each with its tick."""
        rounds = [record for record in self.records if record.kind is RecordKind.ROUND]
        return [{"tick": each.tick} | told for each in rounds for told in decode_round(each).header["watches"]]

    @property
    def course(self) -> list[tuple[int, str, str, str]]:
        """Tick, event, knob and reason."""
        return [(each["tick"], each["event"], Knob(each["knob"]).name, each["why"]) for each in self.entries]

    def opened_alerts(self) -> list[str]:
        return [about.kind for about in self.machine.state.alerts.since]


def test_a_harmful_episode_is_taken_back_whole_to_the_values_recorded_when_it_began() -> None:
    world = World().until(VERDICT + 3)
    assert world.course == [
        (BEGUN, "begun", "BID", ""),
        (BEGUN + 6, "begun", "BUDGET", ""),
        (VERDICT, "rolls_back", "BID", "profit"),
        (VERDICT, "rolls_back", "BUDGET", "profit"),
        (VERDICT + 1, "rolled_back", "BID", "profit"),
        (VERDICT + 1, "rolled_back", "BUDGET", "profit"),
    ]
    assert world.controls.scalar[0].tolist() == [BID, BUDGET]
    *opened, bid, budget = world.entries[:4]
    assert [each["action"] for each in opened] == [bid["action"], budget["action"]]
    assert (bid["control"], budget["control"]) == ("siblings", "siblings")
    rows = {int(action): row for _, row, action in _applied(world)}
    assert (rows[bid["action"]], rows[budget["action"]]) == ((0, Knob.BID, BID), (0, Knob.BUDGET, BUDGET))
    assert not world.machine.state.watching.episodes.open.any()
    world.close()


def _applied(world: World) -> list[tuple[int, tuple[int, int, int], int]]:
    rounds = [(each.tick, decode_round(each).intents(each.sequence)) for each in world.records[1:]]
    return [
        (tick, (int(rows.campaign[place]), int(rows.knob[place]), int(rows.old[place])), int(rows.action[place]))
        for tick, rows in rounds
        for place in range(len(rows))
    ]


def test_after_a_bundle_the_past_from_before_it_is_the_campaigns_again() -> None:
    world = World().until(VERDICT)
    before = world.machine.state.watching.episodes
    assert before.past[0].any()
    world.go(to=VERDICT + 1)
    book = world.machine.state.watching.book
    assert book.of(np.array([0]))[:, 0].tolist() == before.before[0].tolist()
    assert book.peak[0].max() == before.peak[0]
    assert (book.touched_at[0], book.of(np.array([1])).any()) == (VERDICT, True)


def test_after_a_bundle_nothing_of_the_episode_is_left_to_roll_back() -> None:
    world = World().until(VERDICT + 3)
    assert world.go(command("rollback")) == ["unknown_action"]
    assert world.go(command("rollback", "again", action=world.entries[0]["action"])) == ["already_rolled_back"]
    told = History.told_by(world.records, 7 * DAY)
    assert [told.latest(0, knob) for knob in (Knob.BID, Knob.BUDGET)] == [None, None]
    assert told.inverse(0, Knob.BID, world.entries[0]["action"], world.controls, "ann") is Blocked.ALREADY_ROLLED_BACK


def test_after_a_rollback_the_policys_course_is_quarantined_though_the_mandate_stands() -> None:
    world = World({**BUNDLE, VERDICT + 2: (ask(1_100_000),)}).until(VERDICT + 2)
    assert world.told == [("REFUSED", "QUARANTINED")]


def test_a_harmless_episode_is_kept_and_the_next_step_begins_another() -> None:
    end = BEGUN - 1 + 7 * DAY
    world = World({**BUNDLE, end + 5: (ask(1_300_000),)}, harmful=False).until(end + 7)
    assert world.course == [
        (BEGUN, "begun", "BID", ""),
        (BEGUN + 6, "begun", "BUDGET", ""),
        (end, "kept", "BID", ""),
        (end, "kept", "BUDGET", ""),
        (end + 6, "begun", "BID", ""),
    ]
    assert world.bid == 1_300_000
    world.close()


def test_an_account_that_begins_with_a_mandate_has_nothing_to_hold_its_first_episode_against() -> None:
    world = World({0: (ask(1_200_000),)}).until(7 * DAY)
    assert world.course == [(1, "begun", "BID", ""), (7 * DAY, "no_data", "BID", "")]


def test_where_every_sibling_moves_the_control_is_the_campaigns_own_hours() -> None:
    world = World({**BUNDLE, BEGUN + 2: (ask(1_010_000, campaign=1),)}).until(VERDICT)
    assert [each["control"] for each in world.entries if each["event"] == "rolls_back"] == ["history", "history"]


def test_a_sibling_that_moves_once_blocks_count_is_a_control_no_more() -> None:
    world = World({**BUNDLE, BEGUN + DAY + 6: (ask(1_010_000, campaign=1),)}).until(VERDICT + DAY)
    assert [each for each in world.course if each[1] == "rolls_back"] == []
    assert world.machine.state.watching.episodes.after[0, :, 3].sum() == 3


@pytest.mark.parametrize("kind", ["edit", "pause", "rollback"])
def test_a_persons_command_on_the_campaign_ends_an_episode(kind: str) -> None:
    world = World(BIDS).until(BEGUN + 10)
    knob = Knob.PAUSED if kind == "pause" else Knob.BID
    world.go(command(kind, knob=knob, values=(1_250_000,) if kind == "edit" else ()))
    world.go(to=VERDICT + 3)
    assert world.course[1:] == [(BEGUN + 12, "superseded", "BID", "")]


def test_a_persons_edit_in_the_round_of_the_verdict_stands_and_blocks_that_knob_alone() -> None:
    world = World().until(VERDICT - 1)
    assert world.go(command("edit", values=(1_350_000,))) == ["approved"]
    world.go(to=VERDICT + 3)
    assert world.course[4:] == [
        (VERDICT + 1, "rolled_back", "BUDGET", "profit"),
        (VERDICT + 1, "blocked", "BID", "later_edit"),
    ]
    assert world.controls.scalar[0].tolist() == [1_350_000, BUDGET]
    assert world.opened_alerts() == [AlertKind.ROLLBACK_BLOCKED]
    world.close()


def test_what_a_person_approved_in_the_round_of_the_verdict_stands_and_blocks_that_knob_alone() -> None:
    world = World({**BUNDLE, VERDICT - 1: (ask(1_350_000),)}).until(VERDICT - 3)
    world.go(reloaded=Reloaded("no mandate any more", replace(Limits.of(CAMPAIGNS), day=DAY)))
    world.go()
    assert world.go(command("approve")) == ["approved"]
    world.go(to=VERDICT + 3)
    assert world.course[2:] == [
        (VERDICT, "rolls_back", "BID", "profit"),
        (VERDICT, "rolls_back", "BUDGET", "profit"),
        (VERDICT + 1, "opened", "BID", ""),
        (VERDICT + 1, "rolled_back", "BUDGET", "profit"),
        (VERDICT + 1, "blocked", "BID", "later_change"),
    ]
    assert world.controls.scalar[0].tolist() == [1_350_000, BUDGET]
    assert world.opened_alerts() == [AlertKind.ROLLBACK_BLOCKED]
    world.close()


def test_a_knob_whose_way_back_the_guard_refuses_has_an_open_alert_until_it_is_back() -> None:
    lowered = {**BIDS, BEGUN + 5: (ask(BUDGET - 5_000_000, knob=Knob.BUDGET),)}
    world = World(lowered).until(VERDICT - 2)
    full = replace(limits(), account_budget=int(world.controls.budget.sum()))
    world.go(reloaded=Reloaded("not a cent more", full))
    world.go(to=VERDICT + 3)
    assert world.controls.scalar[0].tolist() == [BID, BUDGET - 5_000_000]
    assert world.told == [("REFUSED", "ACCOUNT_BUDGET")]
    assert list(world.machine.state.alerts.since) == [Fingerprint(AlertKind.ROLLBACK_BLOCKED, 0, Knob.BUDGET)]
    world.go(reloaded=Reloaded("room again", limits()))
    world.go()
    assert world.controls.scalar[0].tolist() == [BID, BUDGET]
    assert world.opened_alerts() == []
    world.close()


def test_an_episode_whose_knobs_are_back_by_themselves_is_kept_whatever_befell_the_campaign() -> None:
    wishes = {BEGUN - 1: (ask(1_200_000),), BEGUN + 9: (ask(BID),)}
    world = World(wishes, harmful=False, waned=BEGUN).until(VERDICT + 3)
    assert world.course[1:] == [(VERDICT, "kept", "BID", "nothing_differs")]


def test_weights_go_back_as_a_whole() -> None:
    moved = {BEGUN + 4: (ask(600_000, 400_000, knob=Knob.WEIGHTS, campaign=1),)}
    moved[BEGUN + 6] = (ask(700_000, 300_000, knob=Knob.WEIGHTS, campaign=1),)
    world = World(moved, harmful=False).until(BEGUN + 20)
    episodes = world.machine.state.watching.episodes
    asked = episodes.asked.copy()
    asked[1] = 1
    _, told, (rows,) = replace(episodes, asked=asked).judged(
        world.tick,
        world.controls,
        CAMPAIGNS.layout,
        History.told_by(world.records, 7 * DAY),
        WatchLimits.of(DAY, None),
    )
    assert [(each.knob, each.event) for each in told] == [(Knob.WEIGHTS, "rolls_back")]
    assert (rows.wanted.tolist(), rows.index.tolist(), rows.source.tolist()) == (
        [PPM // 2, PPM // 2],
        [0, 1],
        [Source.ROLLBACK] * 2,
    )


@pytest.mark.parametrize(("spend", "stopped"), [(108_000, False), (108_001, True)])
def test_the_spend_that_is_put_up_with_grows_with_what_the_episode_raised(spend: int, stopped: bool) -> None:  # noqa: FBT001
    world = World({BEGUN - 1: (ask(1_200_000),)}, harmful=False, spend=spend).until(BEGUN + 3)
    assert [each[3] for each in world.course if each[1] == "rolls_back"] == ["spend_rate"] * stopped
    assert world.bid == (BID if stopped else 1_200_000)


@pytest.mark.slow
@pytest.mark.parametrize("at", [BEGUN, BEGUN + 1, BEGUN + 30, VERDICT - 1, VERDICT, VERDICT + 1])
def test_an_optimiser_put_in_its_place_at_any_time_decides_the_same(at: int) -> None:
    whole, world = World().until(VERDICT + 5), World().until(at)
    world.machine = OptimiserMachine(
        CAMPAIGNS,
        GRID,
        limits(),
        (Assignment(Scripted(BUNDLE), EVERYBODY, Source.SCRIPT, "script"),),
        people=dict.fromkeys(("dana", "sam", "kim"), frozenset(Role)),
        approval_ticks=DAY,
        history=History.told_by(world.records, 7 * DAY),
        state=world.machine.state,
    )
    world.go(to=VERDICT + 5)
    assert world.records == whole.records
