from __future__ import annotations

import ast
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.actions import ROW_BITS, Flaw, Knob, Note, Proposals, Result, Source, nearest_step, no_proposals, proposals
from engine.campaigns import Period
from engine.errors import BadInput
from engine.guard import check, nearest_vector
from engine.judgement import EXPLANATIONS, NO_OFFER, Outcome, Reason
from engine.limits import Limits
from engine.units import MAX_MICROS
from tests.engine.builders import (
    BID,
    BUDGET,
    MAX_BID,
    MAX_BUDGET,
    MIN_BID,
    MIN_BUDGET,
    Desk,
    answers,
    campaign_set,
    controls,
    mandated,
    vector,
    wish,
)

YES = (Outcome.APPROVED, Reason.NONE, NO_OFFER)
ASK = (Outcome.NEEDS_APPROVAL, Reason.OUTSIDE_MANDATE, NO_OFFER)
AUTOMATIC = [Source.RULE, Source.SCRIPT, Source.POLICY]


def no(reason: Reason, offer: int = NO_OFFER) -> tuple[Outcome, Reason, int]:
    return Outcome.REFUSED, reason, offer


def desk_of(*creatives: int, **settings: Any) -> Desk:
    return Desk(campaign_set(creatives or (1,)), **settings)


def answer(desk: Desk, *batches: Proposals, granted: Any = None) -> list[tuple[Outcome, Reason, int]]:
    judgement = desk.judge(*batches, granted=granted)
    passed = [outcome == Outcome.APPROVED for outcome in judgement.outcome]
    assert judgement.approved.rows.new.tolist() == judgement.proposals.wanted[passed].tolist()
    return answers(judgement)


# --- values ---


@pytest.mark.parametrize("source", list(Source))
@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (float("nan"), Reason.NOT_FINITE),
        (float("inf"), Reason.NOT_FINITE),
        (-1, Reason.NEGATIVE),
        ("25", Reason.NOT_A_NUMBER),
        (10**30, Reason.OUT_OF_RANGE),
        (1_000_000.5, Reason.NOT_WHOLE),
    ],
)
def test_a_bid_that_is_no_amount_of_money(source: Source, wanted: Any, reason: Reason) -> None:
    assert answer(desk_of(), wish(wanted, source=source)) == [no(reason)]


@pytest.mark.parametrize("knob", [Knob.BID, Knob.BUDGET])
@pytest.mark.parametrize(("source", "reach"), [(Source.POLICY, Fraction(3, 4)), (Source.PERSON, None)])
def test_a_scalar_is_never_set_to_0(knob: Knob, source: Source, reach: Fraction | None) -> None:
    old = (BID, BUDGET)[knob]
    least = (MIN_BID, MIN_BUDGET)[knob]
    offer = least if reach is None else int(reach * old)
    assert answer(desk_of(), wish(0, knob, source)) == [no(Reason.ZERO, offer)]
    assert answer(desk_of(), wish(0, knob, source), granted=[True]) == [no(Reason.ZERO, offer)]


def test_flawed_rows_cost_the_others_nothing() -> None:
    rows = proposals([0, 1, 2], Knob.BID, [1_100_000, "x", 1_200_000.0], 0, Source.POLICY, "")
    assert answer(desk_of(1, 1, 1), rows) == [YES, no(Reason.NOT_A_NUMBER), YES]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (np.array([-1]), Reason.NEGATIVE),
        (np.array([MAX_MICROS + 1]), Reason.OUT_OF_RANGE),
        ([np.nan], Reason.NOT_FINITE),
    ],
)
@pytest.mark.parametrize("knob", list(Knob))
def test_columns_built_by_hand_are_read_again(wanted: Any, reason: Reason, knob: Knob) -> None:
    rows = replace(wish(5, knob, Source.PERSON), wanted=np.asarray(wanted))
    assert answer(desk_of(), rows) == [no(reason)]


def test_a_negative_weight_is_no_share() -> None:
    rows = vector([1_000_000, 0], Source.PERSON)
    forged = replace(rows, wanted=np.array([1_000_001, -1]))
    assert answer(desk_of(2), forged) == [no(Reason.NEGATIVE)] * 2


@pytest.mark.parametrize("flaw", [9, 21, 255, 256])
def test_a_flaw_that_has_no_name_is_a_flaw(flaw: int) -> None:
    rows = replace(wish(1_100_000), flaw=np.array([flaw]))
    assert answer(desk_of(), rows) == [no(Reason.OUT_OF_RANGE)]


# --- what is proposed for ---


@pytest.mark.parametrize(
    ("campaign", "knob", "index"),
    [
        (-1, Knob.BID, 0),
        (2, Knob.BID, 0),
        (0, 5, 0),
        (0, 255, 0),
        (0, Knob.BID, 1),
        (0, Knob.PAUSED, -1),
        (0, Knob.WEIGHTS, 1),
    ],
)
@pytest.mark.parametrize("source", [Source.PERSON, Source.POLICY])
def test_what_does_not_exist_is_refused(campaign: int, knob: int, index: int, source: Source) -> None:
    rows = proposals([campaign], knob, [1], 0, source, "", index=index)
    assert answer(desk_of(1, 2), rows, granted=[True]) == [no(Reason.UNKNOWN_TARGET)]


@pytest.mark.parametrize("source", [5, 6, 10, 200, 255])
def test_a_source_that_does_not_exist_has_nobodys_privileges(source: int) -> None:
    rows = replace(wish(2_000_000), source=np.array([source], dtype=np.uint8))
    assert answer(desk_of(), rows) == [no(Reason.UNKNOWN_TARGET)]


@pytest.mark.parametrize("version", [0, 2, -1])
@pytest.mark.parametrize("source", list(Source))
def test_a_proposal_on_another_version_is_stale(version: int, source: Source) -> None:
    desk = desk_of()
    desk.hold(wish(1_100_000))
    assert answer(desk, wish(1_200_000, source=source, version=version), granted=[True]) == [no(Reason.STALE)]


@pytest.mark.parametrize(("knob", "value"), [(Knob.BID, BID), (Knob.BUDGET, BUDGET), (Knob.PAUSED, 0)])
def test_the_value_in_force_is_no_change(knob: Knob, value: int) -> None:
    assert answer(desk_of(), wish(value, knob)) == [no(Reason.NO_OP)]


def test_nothing_asked_nothing_answered() -> None:
    judgement = desk_of().judge(no_proposals())
    assert (answers(judgement), len(judgement.approved)) == ([], 0)


# --- step ---


@pytest.mark.parametrize("source", AUTOMATIC)
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (1_250_000, YES),
        (1_250_001, no(Reason.STEP, 1_250_000)),
        (750_000, YES),
        (749_999, no(Reason.STEP, 750_000)),
    ],
)
def test_an_automatic_step_is_at_most_a_quarter(source: Source, wanted: int, expected: object) -> None:
    assert answer(desk_of(), wish(wanted, source=source)) == [expected]
    assert answer(desk_of(), wish(wanted, source=source), granted=[True]) == [expected]


@pytest.mark.parametrize("old", [*range(1, 14), 999_999, 1_000_001, 999_999_999])
def test_the_step_law_in_integers(old: int) -> None:
    campaigns = campaign_set()
    limits = replace(mandated(campaigns), minimum=np.ones((1, 2), np.int64), maximum=np.full((1, 2), MAX_MICROS))
    for new in {1, old - old // 4 - 1, old - old // 4, old + old // 4, old + old // 4 + 1} - {0, old}:
        desk = Desk(campaigns, controls(campaigns, bid=old, budget=10**12), limits)
        (outcome, reason, _) = answer(desk, wish(new))[0]
        assert (outcome == Outcome.APPROVED) == (4 * abs(new - old) <= old)
        assert reason in {Reason.NONE, Reason.STEP}


@pytest.mark.parametrize("source", [Source.PERSON, Source.ROLLBACK])
def test_people_and_rollbacks_take_any_step(source: Source) -> None:
    assert answer(desk_of(), wish(MAX_BID, source=source)) == [YES]
    assert answer(desk_of(), wish(MIN_BID, source=source)) == [YES]


def test_a_scalar_at_0_moves_by_no_automatic_step() -> None:
    campaigns = campaign_set()
    desk = Desk(campaigns, controls(campaigns, bid=0))
    assert answer(desk, wish(MIN_BID)) == [no(Reason.STEP)]
    assert answer(desk, wish(MIN_BID, source=Source.PERSON)) == [YES]


# --- one change per knob ---


def test_24_percent_by_policy_then_rule_then_script_in_one_round_is_one_change() -> None:
    desk = desk_of()
    wishes = [wish(1_240_000, source=source) for source in (Source.POLICY, Source.RULE, Source.SCRIPT)]
    judgement = desk.hold(*wishes)
    assert answers(judgement) == [no(Reason.SECOND_CHANGE), YES, no(Reason.SECOND_CHANGE)]
    assert (desk.state.bid.tolist(), desk.state.version[0, Knob.BID]) == ([1_240_000], 1)


def test_of_one_party_the_first_row_stands() -> None:
    assert answer(desk_of(), wish(1_100_000), wish(1_200_000)) == [YES, no(Reason.SECOND_CHANGE)]


def test_a_refused_row_does_not_take_the_place_of_one_that_passes() -> None:
    assert answer(desk_of(), wish(2_000_000, source=Source.RULE), wish(1_200_000)) == [no(Reason.STEP, 1_250_000), YES]


def test_what_a_person_granted_comes_first() -> None:
    wishes = [wish(1_100_000, source=Source.RULE), wish(1_200_000)]
    assert answer(desk_of(), *wishes, granted=[False, True]) == [no(Reason.SECOND_CHANGE), YES]


def test_different_knobs_and_campaigns_change_side_by_side() -> None:
    wishes = [wish(1_200_000), wish(110_000_000, Knob.BUDGET), wish(1_200_000, campaign=1)]
    assert answer(desk_of(1, 1), *wishes) == [YES, YES, YES]


# --- anchor and mandate ---


def test_hourly_25_percent_for_a_day_stops_at_3_times_the_anchor() -> None:
    desk, bids = desk_of(), []
    for _ in range(24):
        old, version = int(desk.state.bid[0]), int(desk.state.version[0, Knob.BID])
        (_, reason, offer) = answers(desk.hold(wish(old + old // 4, version=version)))[0]
        if reason == Reason.ANCHOR_BAND and offer != NO_OFFER:
            desk.hold(wish(offer, version=version))
        bids.append(int(desk.state.bid[0]))
    assert bids == [1_250_000, 1_562_500, 1_953_125, 2_441_406] + [3_000_000] * 20
    assert answer(desk, wish(3_000_001, version=5)) == [no(Reason.ANCHOR_BAND)]


def test_and_going_down_at_a_third_of_it() -> None:
    desk = desk_of()
    for _ in range(24):
        old, version = int(desk.state.bid[0]), int(desk.state.version[0, Knob.BID])
        (_, _, offer) = answers(desk.hold(wish(old - old // 4, version=version)))[0]
        if offer != NO_OFFER:
            desk.hold(wish(offer, version=version))
    assert desk.state.bid.tolist() == [333_334]  # the least whole micro of 1,000,000 / 3 or more


def test_a_persons_edit_moves_the_band() -> None:
    desk = desk_of()
    desk.hold(wish(3_000_000, source=Source.PERSON))
    assert answer(desk, wish(3_750_000, version=1)) == [YES]
    assert desk.state.anchor[0].tolist() == [3_000_000, BUDGET]


def test_outside_the_band_the_way_back_is_open() -> None:
    desk = desk_of()
    desk.hold(wish(8_000_000, source=Source.ROLLBACK))
    up, down = wish(8_000_001, version=1), wish(7_000_000, version=1)
    assert [answer(desk, up), answer(desk, down)] == [[no(Reason.ANCHOR_BAND)], [YES]]


def test_a_mandate_states_another_band() -> None:
    campaigns = campaign_set([1, 1])
    band = (Fraction("0.9"), Fraction("1.1"))
    limits = Limits.of(campaigns).with_mandate(np.array([0]), (Knob.BID,), band)
    desk = Desk(campaigns, limits=limits)
    wishes = [wish(1_100_000), wish(1_100_001), wish(900_000), wish(899_999)]
    assert [answer(desk, each) for each in wishes] == [
        [YES],
        [no(Reason.ANCHOR_BAND, 1_100_000)],
        [YES],
        [no(Reason.ANCHOR_BAND, 900_000)],
    ]
    assert answer(desk, wish(1_100_000, campaign=1)) == [ASK]
    assert answer(desk, wish(110_000_000, Knob.BUDGET)) == [ASK]


def test_a_band_given_as_a_float_is_taken_to_a_millionth() -> None:
    campaigns = campaign_set()
    limits = Limits.of(campaigns).with_mandate(np.array([0]), (Knob.BID,), (Fraction(0.9), Fraction(1.1)))
    assert (limits.band_low[0, 0].tolist(), limits.band_high[0, 0].tolist()) == ([9, 10], [11, 10])


@pytest.mark.parametrize(
    "band", [(Fraction(2), Fraction(1)), (Fraction(-1), Fraction(1)), (Fraction(0), Fraction(1001))]
)
def test_a_band_that_is_none_is_refused(band: tuple[Fraction, Fraction]) -> None:
    with pytest.raises(BadInput) as refusal:
        mandated(campaign_set()).with_mandate(np.array([0]), (Knob.BID,), band)
    assert str(refusal.value) == (f"band (={band[0]}, {band[1]}) must be 0 <= low <= high <= 1000: try 1/3 and 3")


def test_a_mandate_expires() -> None:
    campaigns = campaign_set()
    limits = Limits.of(campaigns).with_mandate(np.array([0]), (Knob.BID,), until=5)
    at = {tick: answer(Desk(campaigns, limits=limits, tick=tick), wish(1_100_000)) for tick in (0, 5, 6)}
    assert at == {0: [YES], 5: [YES], 6: [ASK]}


@pytest.mark.parametrize("source", AUTOMATIC)
def test_outside_a_mandate_an_automatic_change_waits_for_a_person(source: Source) -> None:
    campaigns = campaign_set([2])
    desk = Desk(campaigns, limits=Limits.of(campaigns))
    rows = [wish(1_100_000, source=source), wish(90_000_000, Knob.BUDGET, source), vector([600_000, 400_000], source)]
    assert answer(desk, *rows) == [ASK] * 4
    assert answer(desk, *rows, granted=[True] * 4) == [YES] * 4
    assert answer(desk, *rows, granted=[True, False, True, True]) == [YES, ASK, YES, YES]


@pytest.mark.parametrize("source", [Source.PERSON, Source.ROLLBACK])
def test_people_and_rollbacks_need_no_mandate(source: Source) -> None:
    campaigns = campaign_set([2])
    desk = Desk(campaigns, limits=Limits.of(campaigns))
    rows = [wish(2_000_000, source=source), wish(90_000_000, Knob.BUDGET, source), vector([1_000_000, 0], source)]
    assert answer(desk, *rows) == [YES] * 4


def test_an_approval_after_the_knob_moved_is_stale() -> None:
    campaigns = campaign_set()
    desk = Desk(campaigns, limits=Limits.of(campaigns))
    waiting = wish(1_200_000)
    assert answer(desk, waiting) == [ASK]
    desk.hold(wish(1_100_000, source=Source.PERSON))
    assert answer(desk, waiting, granted=[True]) == [no(Reason.STALE)]


def test_approved_twice_has_one_effect() -> None:
    campaigns = campaign_set()
    desk = Desk(campaigns, limits=Limits.of(campaigns))
    waiting = wish(1_200_000)
    desk.hold(waiting, granted=[True])
    assert answers(desk.hold(waiting, granted=[True])) == [no(Reason.STALE)]
    assert (desk.state.bid.tolist(), desk.state.version[0, Knob.BID]) == ([1_200_000], 1)


def test_an_approval_lifts_no_other_law() -> None:
    campaigns = campaign_set([2])
    desk = Desk(campaigns, limits=Limits.of(campaigns))
    rows = [wish(1_300_000), vector([800_000, 200_000])]
    assert answer(desk, *rows, granted=[True] * 3) == [
        no(Reason.STEP, 1_250_000),
        no(Reason.TOTAL_VARIATION, 750_000),
        no(Reason.TOTAL_VARIATION, 250_000),
    ]


# --- pause ---


@pytest.mark.parametrize("source", list(Source))
def test_pausing_is_always_allowed_and_resuming_is_not(source: Source) -> None:
    campaigns = campaign_set()
    desk = Desk(campaigns, limits=Limits.of(campaigns))
    assert answers(desk.hold(wish(1, Knob.PAUSED, source))) == [YES]
    resume = wish(0, Knob.PAUSED, source, version=1)
    assert answer(desk, resume) == ([ASK] if source in AUTOMATIC else [YES])


def test_a_switch_is_0_or_1() -> None:
    assert answer(desk_of(), wish(2, Knob.PAUSED, Source.PERSON)) == [no(Reason.NOT_A_SWITCH)]


# --- hard bounds ---


@pytest.mark.parametrize("source", [Source.PERSON, Source.ROLLBACK])
@pytest.mark.parametrize(
    ("knob", "wanted", "expected"),
    [
        (Knob.BID, MIN_BID - 1, no(Reason.HARD_MINIMUM, MIN_BID)),
        (Knob.BID, MAX_BID + 1, no(Reason.HARD_MAXIMUM, MAX_BID)),
        (Knob.BUDGET, MIN_BUDGET - 1, no(Reason.HARD_MINIMUM, MIN_BUDGET)),
        (Knob.BUDGET, MAX_BUDGET + 1, no(Reason.HARD_MAXIMUM, MAX_BUDGET)),
        (Knob.BUDGET, MAX_BUDGET, YES),
        (Knob.BUDGET, MIN_BUDGET, YES),
    ],
)
def test_nobody_passes_a_hard_bound(source: Source, knob: Knob, wanted: int, expected: object) -> None:
    assert answer(desk_of(), wish(wanted, knob, source), granted=[True]) == [expected]


def test_an_automatic_step_ends_at_a_hard_bound() -> None:
    campaigns = campaign_set()
    desk = Desk(campaigns, controls(campaigns, bid=MAX_BID - 10))
    assert answer(desk, wish(MAX_BID + 1)) == [no(Reason.HARD_MAXIMUM, MAX_BID)]
    assert answer(desk, wish(2 * MAX_BID)) == [no(Reason.STEP, MAX_BID)]


@pytest.mark.parametrize("source", list(Source))
def test_no_bid_above_its_budget(source: Source) -> None:
    campaigns = campaign_set()
    desk = Desk(campaigns, controls(campaigns, bid=10_000_000, budget=11_000_000))
    bid, budget = wish(11_000_001, source=source), wish(9_999_999, Knob.BUDGET, source)
    assert answer(desk, bid) == [no(Reason.BID_ABOVE_BUDGET, 11_000_000)]
    assert answer(desk, budget) == [no(Reason.BID_ABOVE_BUDGET, 10_000_000)]
    assert answer(desk, wish(11_000_000, source=source)) == [YES]


def test_an_offered_bid_is_covered_by_the_budget() -> None:
    campaigns = campaign_set()
    desk = Desk(campaigns, controls(campaigns, bid=10_000_000, budget=11_000_000))
    assert answer(desk, wish(20_000_000)) == [no(Reason.STEP, 11_000_000)]
    assert answer(desk, wish(2_000_000, Knob.BUDGET)) == [no(Reason.STEP, 10_000_000)]


def test_of_a_bid_that_rises_above_a_budget_that_falls_the_first_partys_stands() -> None:
    campaigns = campaign_set()
    desk = Desk(campaigns, controls(campaigns, bid=10_000_000, budget=12_000_000))

    def both(bid: Source, budget: Source) -> list[tuple[Outcome, Reason, int]]:
        return answer(desk, wish(12_000_000, source=bid), wish(11_000_000, Knob.BUDGET, budget))

    refused = no(Reason.BID_ABOVE_BUDGET)
    assert both(Source.POLICY, Source.POLICY) == [refused, YES]
    assert both(Source.POLICY, Source.PERSON) == [refused, YES]
    assert both(Source.PERSON, Source.POLICY) == [YES, refused]


def test_a_bid_that_waits_for_approval_does_not_hold_a_budget_up() -> None:
    campaigns = campaign_set()
    desk = Desk(campaigns, controls(campaigns, bid=10_000_000, budget=12_000_000), Limits.of(campaigns))
    rows = wish(12_000_000), wish(11_000_000, Knob.BUDGET, Source.PERSON)
    assert answer(desk, *rows) == [ASK, YES]


# --- the account ---


def account_desk(account_budget: int, period: Period = Period.DAY) -> Desk:
    campaigns = campaign_set([1, 1, 1], period)
    return Desk(campaigns, limits=mandated(campaigns, account_budget))


def rise(campaign: int, by: int, source: Source = Source.POLICY) -> Proposals:
    return wish(BUDGET + by, Knob.BUDGET, source, campaign)


def test_budgets_rise_first_party_first_up_to_the_accounts() -> None:
    desk = account_desk(3 * BUDGET + 20_000_000)
    rises = rise(0, 10_000_000), rise(1, 10_000_000), rise(2, 10_000_000, Source.PERSON)
    assert answer(desk, *rises) == [YES, no(Reason.ACCOUNT_BUDGET), YES]


def test_a_person_does_not_pass_the_accounts_budget() -> None:
    desk = account_desk(3 * BUDGET + 5)
    assert answer(desk, rise(0, 6, Source.PERSON)) == [no(Reason.ACCOUNT_BUDGET)]
    assert answer(desk, rise(0, 5, Source.PERSON)) == [YES]


def test_lowering_is_always_within_the_account_and_gives_no_room_in_the_same_round() -> None:
    desk = account_desk(3 * BUDGET)
    assert answer(desk, rise(0, -10_000_000), rise(1, 1)) == [YES, no(Reason.ACCOUNT_BUDGET)]
    desk.hold(rise(0, -10_000_000))
    assert answer(desk, rise(1, 10_000_000)) == [YES]


def test_an_account_already_beyond_its_budget_may_only_fall() -> None:
    desk = account_desk(BUDGET)
    assert answer(desk, rise(0, 1, Source.ROLLBACK), rise(1, -1)) == [no(Reason.ACCOUNT_BUDGET), YES]


def test_budgets_of_a_flight_do_not_count_towards_the_accounts_day() -> None:
    assert answer(account_desk(0, Period.FLIGHT), rise(0, 1)) == [YES]


def test_rises_that_overflow_an_int64_do_not_pass() -> None:
    n = 20_000
    campaigns = campaign_set([1] * n)
    limits = replace(mandated(campaigns, 10**15), maximum=np.full((n, 2), MAX_MICROS))
    rows = proposals(np.arange(n), Knob.BUDGET, np.full(n, MAX_MICROS), 0, Source.PERSON, "")
    assert Desk(campaigns, limits=limits).judge(rows).count(Outcome.APPROVED) == 0
    rich = Desk(campaigns, controls(campaigns, budget=MAX_MICROS - 1), limits)
    assert rich.judge(rows).count(Outcome.APPROVED) == 0


# --- vectors ---


@pytest.mark.parametrize("source", AUTOMATIC)
def test_half_and_half_to_all_and_nothing_offers_three_quarters(source: Source) -> None:
    assert answer(desk_of(2), vector([1_000_000, 0], source)) == [
        no(Reason.TOTAL_VARIATION, 750_000),
        no(Reason.TOTAL_VARIATION, 250_000),
    ]
    assert answer(desk_of(2), vector([750_000, 250_000], source)) == [YES, YES]
    assert answer(desk_of(2), vector([750_001, 249_999], source))[0][1] == Reason.TOTAL_VARIATION


@pytest.mark.parametrize("source", [Source.PERSON, Source.ROLLBACK])
def test_people_and_rollbacks_move_weights_freely(source: Source) -> None:
    assert answer(desk_of(2), vector([1_000_000, 0], source)) == [YES, YES]


def test_weights_may_go_to_0_and_come_from_it() -> None:
    campaigns = campaign_set([2])
    desk = Desk(campaigns, controls(campaigns, weights=np.array([200_000, 800_000])))
    assert answers(desk.hold(vector([0, 1_000_000]))) == [YES, YES]
    assert answers(desk.hold(vector([250_000, 750_000], version=1))) == [YES, YES]


@pytest.mark.parametrize("source", [Source.PERSON, Source.POLICY])
@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ([500_000, 500_001], Reason.VECTOR_SUM),
        ([500_000, 499_999], Reason.VECTOR_SUM),
        ([500_000], Reason.INCOMPLETE_VECTOR),
        ([500_000, 500_000], Reason.NO_OP),
        ([600_000, float("nan")], Reason.NOT_FINITE),
        ([1_100_000, -100_000], Reason.NEGATIVE),
    ],
)
def test_weights_are_shares_and_come_whole(source: Source, wanted: list[Any], reason: Reason) -> None:
    assert answer(desk_of(2), vector(wanted, source), granted=[True] * len(wanted)) == [no(reason)] * len(wanted)


def test_a_creative_named_twice_is_no_whole_vector() -> None:
    rows = proposals([0, 0], Knob.WEIGHTS, [500_000, 500_000], 0, Source.POLICY, "", index=[1, 1])
    assert answer(desk_of(2), rows) == [no(Reason.INCOMPLETE_VECTOR)] * 2


def test_a_vector_granted_in_part_is_no_whole_vector() -> None:
    assert answer(desk_of(2), vector([600_000, 400_000]), granted=[True, False]) == [no(Reason.INCOMPLETE_VECTOR)] * 2


def test_a_creative_too_many_spoils_the_vector_it_is_in() -> None:
    answered = answer(desk_of(2), vector([600_000, 300_000, 100_000]))
    assert answered == [no(Reason.VECTOR_SUM)] * 2 + [no(Reason.UNKNOWN_TARGET)]


def test_of_two_vectors_in_one_round_the_first_partys_stands_whole() -> None:
    policy, rule = vector([600_000, 400_000]), vector([450_000, 550_000], Source.RULE)
    assert answer(desk_of(2), policy, rule) == [no(Reason.SECOND_CHANGE)] * 2 + [YES] * 2


def test_vectors_of_several_campaigns_are_judged_one_by_one() -> None:
    rows = [vector([600_000, 400_000], campaign=1), vector([1_000_000, 0, 0], campaign=2), vector([1], campaign=0)]
    answered = answer(desk_of(1, 2, 3), *rows)
    assert [reason for _, reason, _ in answered] == [Reason.NONE] * 2 + [Reason.TOTAL_VARIATION] * 3 + [
        Reason.VECTOR_SUM
    ]


@pytest.mark.parametrize("seed", range(40))
def test_the_nearest_vector_is_within_the_law_and_on_the_way(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 9))
    old, wanted = (np.diff(np.sort(rng.integers(0, 1_000_001, size - 1)), prepend=0, append=1_000_000) for _ in "ab")
    near = nearest_vector(old, wanted)
    assert near.sum() == 1_000_000
    assert (np.minimum(old, wanted) <= near).all()
    assert (near <= np.maximum(old, wanted)).all()
    moved, reachable = int(np.abs(near - old).sum()), int(np.abs(wanted - old).sum())
    assert min(500_000, reachable) - 2 * size <= moved <= min(500_000, reachable)


def test_the_nearest_vector_is_trimmed_where_it_moved_most() -> None:
    old = np.array([200_000, 100_000, 233_334, 233_333, 233_333])
    wanted = np.array([500_000, 300_000, 66_667, 66_666, 66_667])
    assert nearest_vector(old, wanted).tolist() == [349_999, 200_000, 150_001, 150_000, 150_000]


# --- limits at their very edges ---


def test_a_source_below_all_others_has_nobodys_privileges() -> None:
    rows = replace(wish(2_000_000), source=np.array([-1]))
    assert answer(desk_of(), rows) == [no(Reason.UNKNOWN_TARGET)]


def test_an_offer_is_whole_and_within_the_law_whatever_the_value_in_force() -> None:
    for old in (1_000_001, 1_000_002, 1_000_003):
        campaigns = campaign_set()
        desk = Desk(campaigns, controls(campaigns, bid=old))
        up, down = old + old // 4, old - old // 4
        assert answer(desk, wish(1)) == [no(Reason.STEP, down)]
        assert answer(desk, wish(2 * old)) == [no(Reason.STEP, up)]
        assert [answer(desk, wish(each)) for each in (down, up)] == [[YES], [YES]]


def test_a_band_is_rounded_inwards() -> None:
    campaigns = campaign_set()
    band = (Fraction(6, 7), Fraction(8, 7))
    limits = Limits.of(campaigns).with_mandate(np.array([0]), (Knob.BID,), band)
    desk = Desk(campaigns, controls(campaigns, bid=1_000_001), limits)
    assert answer(desk, wish(1_142_859)) == [no(Reason.ANCHOR_BAND, 1_142_858)]  # 8/7 of it is 1,142,858.3
    assert answer(desk, wish(1_142_858)) == [YES]
    assert answer(desk, wish(857_143)) == [no(Reason.ANCHOR_BAND, 857_144)]  # 6/7 of it is 857,143.7
    assert answer(desk, wish(857_144)) == [YES]


@pytest.mark.parametrize(
    "band", [(Fraction(0), Fraction(1)), (Fraction(1), Fraction(1)), (Fraction(1), Fraction(1000))]
)
def test_a_band_may_be_as_wide_or_as_narrow_as_can_be(band: tuple[Fraction, Fraction]) -> None:
    limits = Limits.of(campaign_set()).with_mandate(np.array([0]), (Knob.BID,), band)
    low, high = (Fraction(*side[0, 0].tolist()) for side in (limits.band_low, limits.band_high))
    assert (low, high) == band


def test_a_hard_minimum_is_at_least_one_micro() -> None:
    campaigns = campaign_set((1, 1))
    campaigns = replace(campaigns, min_bid=np.array([0, 1]), min_budget=np.array([0, 2]))
    assert Limits.of(campaigns).minimum.tolist() == [[1, 1], [1, 2]]


def test_a_mandate_that_was_not_granted_holds_at_no_tick() -> None:
    limits = Limits.of(campaign_set())
    assert limits.mandate_until.tolist() == [[-1] * len(Knob)]
    columns = (limits.minimum, limits.maximum, limits.band_low, limits.band_high, limits.mandate_until)
    assert {column.dtype for column in columns} == {np.dtype(np.int64)}


def test_a_bid_and_its_budget_may_meet() -> None:
    campaigns = campaign_set()
    desk = Desk(campaigns, controls(campaigns, bid=10_000_000, budget=12_000_000))
    assert answer(desk, wish(10_000_000, Knob.BUDGET)) == [YES]
    assert answer(desk, wish(11_000_000), wish(11_000_000, Knob.BUDGET, Source.PERSON)) == [YES, YES]


def test_at_the_one_value_that_is_left_it_is_offered() -> None:
    campaigns = campaign_set()
    desk = Desk(campaigns, controls(campaigns, bid=10_000_000, budget=10_000_001))
    desk.limits = replace(desk.limits, minimum=np.array([[10_000_001, MIN_BUDGET]]))
    assert answer(desk, wish(12_000_000)) == [no(Reason.BID_ABOVE_BUDGET, 10_000_001)]


def test_of_many_rows_of_one_party_the_first_stands() -> None:
    desk = desk_of()
    rows = [wish(BID + 1 + place) for place in range(40)]
    assert answer(desk, *rows) == [YES] + [no(Reason.SECOND_CHANGE)] * 39


def test_of_two_parties_many_rows_the_first_of_the_first_stands() -> None:
    desk = desk_of()
    rows = [wish(BID + 1 + place, source=(Source.POLICY, Source.RULE)[place % 2]) for place in range(60)]
    expected = [no(Reason.SECOND_CHANGE)] * 60
    expected[1] = YES
    assert answer(desk, *rows) == expected


def test_without_a_past_nothing_happened_before() -> None:
    campaigns = campaign_set()
    judgement = check(campaigns, controls(campaigns), wish(1_250_000), mandated(campaigns), sequence=1, tick=0)
    assert answers(judgement) == [YES]


def test_one_change_each_for_knobs_of_many_campaigns() -> None:
    desk = desk_of(*[1] * 9)
    rows = [
        wish(value, knob, campaign=place)
        for place in range(9)
        for knob, value in ((Knob.BID, BID - 1), (Knob.BUDGET, BUDGET - 1))
    ]
    assert answer(desk, *rows) == [YES] * 18


# --- permission ---


def test_approved_rows_are_actions_numbered_by_round_and_row() -> None:
    desk = desk_of(2, 1)
    desk.hold(wish(1_100_000))
    rows = desk.judge(wish(9_999_999), vector([600_000, 400_000]), wish(1_200_000, campaign=1)).approved.rows
    assert {name: column.tolist() for name, column in rows.columns().items()} == {
        "action": [(2 << ROW_BITS) + row for row in (1, 2, 3)],
        "campaign": [0, 0, 1],
        "knob": [Knob.WEIGHTS, Knob.WEIGHTS, Knob.BID],
        "index": [0, 1, 0],
        "old": [500_000, 500_000, 1_000_000],
        "new": [600_000, 400_000, 1_200_000],
        "base_version": [0, 0, 0],
        "source": [Source.POLICY] * 3,
        "note": [1, 1, 2],
    }
    assert rows.notes == (Note("policy", "test"),) * 3


def test_a_refusal_changes_nothing() -> None:
    desk = desk_of(2)
    before = desk.state
    flawed = replace(wish(1_100_000), flaw=np.array([Flaw.NOT_A_NUMBER]))
    desk.hold(wish(0), wish(1, version=4), vector([1_000_000, 0]), flawed, wish(1, campaign=9))
    assert (desk.results.tolist(), desk.state.equals(before)) == ([], True)


def test_a_policys_steps_pass_as_it_asks_for_them() -> None:
    desk = desk_of()
    wanted = int(nearest_step(desk.state.bid, 5e6)[0])
    desk.hold(wish(wanted))
    assert (desk.results.tolist(), desk.state.bid.tolist()) == ([Result.APPLIED], [1_250_000])


def test_every_reason_is_explained() -> None:
    assert set(EXPLANATIONS) == set(Reason) - {Reason.NONE}


def test_flaws_and_the_first_reasons_share_numbers_and_names() -> None:
    assert {flaw.name: flaw.value for flaw in Flaw} == {Reason(flaw).name: flaw.value for flaw in Flaw}


def test_the_guard_alone_makes_a_permission() -> None:
    """Outside guard.py, `Approved(…)` is called by its own class alone."""
    makers = set()
    for path in Path(engine.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Approved":
                makers.add(path.name)
    assert makers == {"guard.py", "actions.py"}
