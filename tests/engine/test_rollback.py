from __future__ import annotations

import pytest

from engine.actions import ROW_BITS, Knob, Note, Proposals, Result, Source, no_actions
from engine.judgement import NO_OFFER, Outcome, Reason
from engine.rollback import Blocked, History
from tests.engine.builders import BID, MAX_BID, Desk, answers, campaign_set, vector, wish, with_limits

YES = (Outcome.APPROVED, Reason.NONE, NO_OFFER)


class Memory:
    """A desk whose applied rows go into a history."""

    def __init__(self, *creatives: int, ticks: int = 100) -> None:
        self.desk = Desk(campaign_set(creatives or (1,)))
        self.history = History(ticks)

    def hold(self, *batches: Proposals) -> int:
        """Hold a round; the id of its first applied action."""
        rows = self.desk.hold(*batches).approved.rows
        applied = rows.take(self.desk.results == Result.APPLIED)
        self.history.record(self.desk.tick, applied)
        return int(applied.action[0])

    def inverse(self, action: int, knob: Knob = Knob.BID) -> Proposals | Blocked:
        return self.history.inverse(0, knob, action, self.desk.state, by="ann")

    def roll_back(self, action: int, knob: Knob = Knob.BID) -> int:
        """Carry a rollback out; the id of the rollback's own action."""
        rows = self.inverse(action, knob)
        assert isinstance(rows, Proposals)
        mine = self.hold(rows)
        self.history.mark_undone(action, self.desk.tick)
        return mine

    @property
    def bid(self) -> int:
        return int(self.desk.state.bid[0])


def test_an_inverse_restores_the_recorded_value_on_the_version_in_force() -> None:
    memory = Memory(1, 1)
    action = memory.hold(wish(1_200_000))
    rows = memory.inverse(action)
    assert isinstance(rows, Proposals)
    assert {name: column.tolist() for name, column in rows.columns().items()} == {
        "campaign": [0],
        "knob": [Knob.BID],
        "index": [0],
        "wanted": [BID],
        "flaw": [0],
        "base_version": [1],
        "source": [Source.ROLLBACK],
        "note": [0],
    }
    assert rows.notes == (Note("ann", f"rolls back action {1 << ROW_BITS}"),)


def test_25_percent_down_rolled_back_needs_33_percent_up_and_is_allowed() -> None:
    memory = Memory()
    action = memory.hold(wish(750_000))
    rows = memory.inverse(action)
    assert isinstance(rows, Proposals)
    assert answers(memory.desk.judge(rows)) == [YES]
    assert answers(memory.desk.judge(wish(BID, version=1)))[0][1] == Reason.STEP
    memory.roll_back(action)
    assert (memory.bid, memory.desk.state.anchor[0, Knob.BID]) == (BID, BID)


def test_a_rollback_of_a_rollback_is_refused() -> None:
    memory = Memory()
    undoing = memory.roll_back(memory.hold(wish(1_200_000)))
    assert memory.inverse(undoing) is Blocked.IS_A_ROLLBACK


def test_an_action_is_rolled_back_once() -> None:
    memory = Memory()
    action = memory.hold(wish(1_200_000))
    memory.roll_back(action)
    assert memory.inverse(action) is Blocked.ALREADY_ROLLED_BACK


def test_the_last_action_goes_first() -> None:
    memory = Memory()
    first, second = memory.hold(wish(1_200_000)), memory.hold(wish(1_400_000, version=1))
    assert memory.inverse(first) is Blocked.LATER_CHANGE
    memory.roll_back(second)
    assert memory.bid == 1_200_000
    memory.roll_back(first)
    assert memory.bid == BID


def test_a_persons_later_edit_is_never_overwritten() -> None:
    memory = Memory()
    action = memory.hold(wish(1_200_000))
    memory.hold(wish(2_000_000, source=Source.PERSON, version=1))
    assert memory.inverse(action) is Blocked.LATER_EDIT
    memory.hold(wish(2_100_000, version=2))
    assert memory.inverse(action) is Blocked.LATER_EDIT


def test_a_persons_edit_can_be_rolled_back_and_gives_way_to_what_was_before() -> None:
    memory = Memory()
    action = memory.hold(wish(1_200_000))
    edit = memory.hold(wish(2_000_000, source=Source.PERSON, version=1))
    memory.roll_back(edit)
    memory.roll_back(action)
    assert memory.bid == BID


def test_other_knobs_and_campaigns_do_not_stand_in_the_way() -> None:
    memory = Memory(1, 1)
    action = memory.hold(wish(1_200_000))
    memory.hold(wish(110_000_000, Knob.BUDGET), wish(1_200_000, campaign=1))
    memory.roll_back(action)
    assert memory.desk.state.bid.tolist() == [BID, 1_200_000]


@pytest.mark.parametrize("action", [0, 7, (1 << ROW_BITS) + 1, 9 << ROW_BITS])
def test_an_action_that_never_was_is_unknown(action: int) -> None:
    memory = Memory()
    memory.hold(wish(1_200_000))
    assert memory.inverse(action) is Blocked.UNKNOWN_ACTION


def test_an_action_of_another_knob_is_unknown_on_this_one() -> None:
    memory = Memory()
    assert memory.inverse(memory.hold(wish(1_200_000)), Knob.BUDGET) is Blocked.UNKNOWN_ACTION


def test_a_vector_is_restored_whole() -> None:
    memory = Memory(3)
    action = memory.hold(wish(1_200_000), vector([400_000, 400_000, 200_000]))
    weights = memory.history.latest(0, Knob.WEIGHTS)
    assert (memory.history.latest(0, Knob.BID), weights) == (action, action + 1)
    assert weights is not None
    memory.roll_back(weights, Knob.WEIGHTS)
    assert memory.desk.state.weights.tolist() == [333_334, 333_333, 333_333]
    assert memory.bid == 1_200_000


def test_the_latest_action_is_neither_a_rollback_nor_rolled_back() -> None:
    memory = Memory()
    assert memory.history.latest(0, Knob.BID) is None
    first, second = memory.hold(wish(1_200_000)), memory.hold(wish(1_400_000, version=1))
    assert memory.history.latest(0, Knob.BID) == second
    memory.roll_back(second)
    assert memory.history.latest(0, Knob.BID) == first
    memory.roll_back(first)
    assert memory.history.latest(0, Knob.BID) is None


def test_what_is_out_of_reach_is_forgotten() -> None:
    memory, blocked = Memory(ticks=2), []
    action = memory.hold(wish(1_200_000))
    for version in (1, 2, 3):
        memory.hold(wish(1_200_000 + version, version=version))
        blocked.append(memory.inverse(action))
    assert blocked == [Blocked.LATER_CHANGE, Blocked.LATER_CHANGE, Blocked.UNKNOWN_ACTION]


def test_a_rollback_does_not_pass_a_hard_bound() -> None:
    memory = Memory()
    action = memory.hold(wish(MAX_BID, source=Source.PERSON))
    memory.desk.limits = with_limits(memory.desk.limits, minimum=BID + 1)
    rows = memory.inverse(action)
    assert isinstance(rows, Proposals)
    assert answers(memory.desk.judge(rows)) == [(Outcome.REFUSED, Reason.HARD_MINIMUM, BID + 1)]


def test_a_policys_action_leaves_the_reach_of_a_rollback_before_a_persons() -> None:
    run = campaign_set((1, 1))
    history = History(100, policy_ticks=10)
    batch = [wish(BID + 1, source=Source.PERSON), wish(BID + 1, campaign=1)]
    rows = Desk(run).judge(*batch).approved.rows
    history.record(0, rows)
    for tick, known in ((10, [True, True]), (11, [True, False]), (100, [True, False]), (101, [False, False])):
        history.record(tick, no_actions())
        assert [history.latest(campaign, Knob.BID) is not None for campaign in (0, 1)] == known


def test_no_rollback_jumps_over_a_policys_later_action_that_is_out_of_reach() -> None:
    memory = Memory()
    memory.history = History(100, policy_ticks=10)
    rule = memory.hold(wish(1_200_000, source=Source.RULE))
    policy = memory.hold(wish(1_300_000, version=1))
    memory.desk.tick += 11
    memory.history.record(memory.desk.tick, no_actions())
    assert (memory.inverse(policy), memory.inverse(rule)) == (Blocked.UNKNOWN_ACTION, Blocked.LATER_CHANGE)
    edit = memory.hold(wish(1_100_000, source=Source.PERSON, version=2))
    assert memory.inverse(rule) is Blocked.LATER_EDIT
    memory.roll_back(edit)
    assert memory.inverse(rule) is Blocked.LATER_CHANGE


def test_of_a_policys_actions_those_watched_stay_in_reach_campaign_by_campaign() -> None:
    desk, history = Desk(campaign_set((1,) * 6)), History(100, 2)
    bids = [wish(1_200_000, campaign=place) for place in range(6)]
    rows = desk.hold(*bids, wish(101_000_000, Knob.BUDGET)).approved.rows
    history.record(0, rows)
    history.keep([(5, Knob.BID)], 0)
    history.record(3, no_actions())
    found = [history.latest(place, knob) for place, knob in ((5, Knob.BID), (4, Knob.BID), (0, Knob.BUDGET))]
    assert found == [int(rows.action[5]), None, None]
