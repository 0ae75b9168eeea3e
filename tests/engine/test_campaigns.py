from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.actions import Approved, Knob, Proposals, Result, Source, proposals
from engine.campaigns import ControlState, after, value_in_force
from engine.errors import BadInput
from engine.policy import View
from engine.units import Int64
from tests.engine.builders import BID, BUDGET, Desk, campaign_set, controls, vector, wish


def told(state: ControlState) -> dict[str, list[object]]:
    names = ("scalar", "anchor", "weights", "paused", "version")
    return {name: getattr(state, name).tolist() for name in names}


def test_a_configuration_starts_at_version_0_with_equal_shares_and_its_own_anchors() -> None:
    assert told(controls(campaign_set([1, 3]))) == {
        "scalar": [[BID, BUDGET], [BID, BUDGET]],
        "anchor": [[BID, BUDGET], [BID, BUDGET]],
        "weights": [1_000_000, 333_334, 333_333, 333_333],
        "paused": [False, False],
        "version": [[0] * 5, [0] * 5],
    }


def test_every_knob_is_applied_and_counted() -> None:
    desk = Desk(campaign_set([1, 2]))
    rows = [wish(1_200_000), wish(90_000_000, Knob.BUDGET), vector([600_000, 400_000], campaign=1)]
    desk.hold(*rows, wish(1, Knob.PAUSED, campaign=1))
    assert desk.results.tolist() == [Result.APPLIED] * 5
    assert told(desk.state) == {
        "scalar": [[1_200_000, 90_000_000], [BID, BUDGET]],
        "anchor": [[BID, BUDGET], [BID, BUDGET]],
        "weights": [1_000_000, 600_000, 400_000],
        "paused": [False, True],
        "version": [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]],
    }


def test_applying_changes_a_copy() -> None:
    desk = Desk(campaign_set([2]))
    before, initial = desk.state, told(desk.state)
    desk.hold(wish(1_200_000, source=Source.PERSON), vector([600_000, 400_000]), wish(1, Knob.PAUSED))
    assert told(before) == initial


def test_two_proposals_from_one_version_and_one_applies_the_other_is_stale() -> None:
    desk = Desk(campaign_set())
    first, second = desk.judge(wish(1_200_000)), desk.judge(wish(1_100_000))
    assert desk.apply(first.approved) == [Result.APPLIED]
    after_first = desk.state
    assert desk.apply(second.approved) == [Result.STALE]
    assert desk.state.equals(after_first)


def test_a_round_delivered_twice_has_one_effect() -> None:
    desk = Desk(campaign_set([2, 1]))
    approved = desk.judge(wish(1_200_000), vector([600_000, 400_000]), wish(1, Knob.PAUSED, campaign=1)).approved
    assert desk.apply(approved) == [Result.APPLIED] * 4
    once = desk.state
    assert desk.apply(approved) == [Result.STALE] * 4
    assert desk.state.equals(once)


def test_nothing_approved_changes_nothing() -> None:
    desk = Desk(campaign_set())
    before = desk.state
    assert desk.apply(Approved.nothing()) == []
    assert after(desk.campaigns.layout, before, Approved.nothing().rows) is before


def test_a_persons_edit_moves_the_anchor_and_nobody_elses_does() -> None:
    desk = Desk(campaign_set([1, 1]))
    desk.hold(wish(2_000_000, source=Source.PERSON), wish(1_200_000, campaign=1))
    assert desk.state.scalar[:, Knob.BID].tolist() == [2_000_000, 1_200_000]
    assert desk.state.anchor[:, Knob.BID].tolist() == [2_000_000, BID]


def test_values_in_force_of_every_knob() -> None:
    campaigns = campaign_set([1, 2])
    state = controls(campaigns, weights=np.array([1_000_000, 700_000, 300_000]))
    campaign, knob, index = np.array([0, 1, 1, 1, 0]), np.array([0, 1, 2, 2, 3]), np.array([0, 0, 0, 1, 0])
    assert value_in_force(campaigns.layout, state, campaign, knob, index).tolist() == [
        BID,
        BUDGET,
        700_000,
        300_000,
        0,
    ]


MEMBERS = [[0, 2], [1, 3]], [[3], [0, 1, 2]], [[0, 1, 2, 3]]


def a_state() -> ControlState:
    state = controls(campaign_set([2, 1, 3, 1]))
    numbers = np.arange(8).reshape(4, 2)
    versions, paused = np.arange(20).reshape(4, 5), np.array([True, False, True, False])
    return replace(state, scalar=numbers, anchor=-numbers, weights=np.arange(7), version=versions, paused=paused)


@pytest.mark.parametrize("groups", MEMBERS)
def test_controls_chosen_and_merged_again_are_the_same(groups: list[list[int]]) -> None:
    campaigns, state = campaign_set([2, 1, 3, 1]), a_state()
    parts = [(np.array(group), state.select(campaigns, np.array(group))) for group in groups]
    assert told(ControlState.merge(campaigns, parts)) == told(state)


@pytest.mark.parametrize("groups", MEMBERS)
def test_views_chosen_and_merged_again_are_the_same(groups: list[list[int]]) -> None:
    campaigns = campaign_set([2, 1, 3, 1])
    counts: list[Int64] = [np.arange(32).reshape(4, 8) * factor for factor in (1, 2, 3)]
    view = View(9, a_state(), *counts, creatives=np.arange(40).reshape(5, 8))
    merged = View.merge(campaigns, [(np.array(group), view.select(campaigns, np.array(group))) for group in groups])
    assert (merged.tick, told(merged.controls)) == (9, told(view.controls))
    assert [merged.recent.tolist(), merged.period.tolist(), merged.lifetime.tolist()] == [
        one.tolist() for one in counts
    ]
    assert view.creatives is not None
    assert merged.creatives is not None
    assert merged.creatives.tolist() == view.creatives.tolist()


def test_a_selection_keeps_specifications_and_cells() -> None:
    campaigns = campaign_set([2, 1, 3])
    chosen = campaigns.select(np.array([0, 2]))
    assert (chosen.ids, chosen.cells) == (("campaign-0", "campaign-2"), 5)
    assert chosen.creative_start.tolist() == [0, 2, 5]
    assert chosen.cell_campaign.tolist() == [0, 0, 1, 1, 1]
    assert chosen.creatives == ("creative-0", "creative-1", "creative-3", "creative-4", "creative-5")
    assert campaigns.cells_of(np.array([2, 0])).tolist() == [3, 4, 5, 0, 1]
    assert campaigns.cells_of(np.empty(0, dtype=np.int64)).tolist() == []


def test_an_unknown_campaign_is_told_which_there_are() -> None:
    campaigns = campaign_set([1] * 7)
    assert campaigns.index("campaign-6") == 6
    with pytest.raises(BadInput, match=r"campaign \(='x'\) is not in this run: it has campaign-0, .*, campaign-4 …"):
        campaigns.index("x")


@pytest.mark.parametrize("ids", [("b", "a"), ("a", "a")])
def test_ids_are_unique_and_sorted(ids: tuple[str, str]) -> None:
    with pytest.raises(BadInput, match=r"^campaign ids \(=., . …\) must be unique and sorted: sort them$"):
        replace(campaign_set([1, 1]), ids=ids)


@pytest.mark.parametrize("creative_start", [[0, 0, 2], [0, 1, 1], [1, 2, 2], [0, 2], [0, 1, 3]])
def test_every_campaign_has_a_creative(creative_start: list[int]) -> None:
    with pytest.raises(BadInput, match=r"^creative_start \(=.* …\) must give each of 2 campaigns one or more of the 2"):
        replace(campaign_set([1, 1]), creative_start=np.array(creative_start))


def test_a_stale_vector_applies_no_part_of_itself() -> None:
    desk = Desk(campaign_set([3]))
    late = desk.judge(vector([300_000, 300_000, 400_000])).approved
    desk.hold(vector([400_000, 300_000, 300_000]))
    assert desk.apply(late) == [Result.STALE] * 3
    assert desk.state.weights.tolist() == [400_000, 300_000, 300_000]


def test_one_round_over_ten_thousand_campaigns() -> None:
    n = 10_000
    desk = Desk(campaign_set([1] * n))
    wanted = np.arange(n) % 250_000 + 750_000
    rows = proposals(np.arange(n), Knob.BID, wanted, 0, Source.POLICY, "")
    judgement = desk.hold(Proposals.concatenate([rows]))
    assert len(judgement.approved) == n
    assert np.array_equal(desk.state.bid, wanted)
