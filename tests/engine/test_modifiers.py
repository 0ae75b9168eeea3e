"""Audience modifiers: the guard's laws for them, what needs a person, and how they are watched and taken back."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from engine.actions import Actions, Knob, Proposals, Source, proposals
from engine.campaigns import ControlState
from engine.guard import _most_modifier, check, in_mandate
from engine.impact import Basis, Evidence
from engine.judgement import NO_OFFER, Impact, Outcome, Reason
from engine.ledger import fold
from engine.limits import MOST_MODIFIER, Limits
from engine.standing import Quarantine, Standing
from engine.units import MAX_MICROS, PPM
from tests.engine.builders import (
    BID,
    BUDGET,
    MAX_BID,
    Desk,
    answers,
    campaign_set,
    controls,
    mandated,
    modified,
    wish,
    with_limits,
)
from tests.engine.test_impact import DAY, LOW, SPEND_A_DAY, TICK, Case, rolled_back, waits

YES = (Outcome.APPROVED, Reason.NONE, NO_OFFER)
ASK = (Outcome.NEEDS_APPROVAL, Reason.OUTSIDE_MANDATE, NO_OFFER)
TARGETS = (Outcome.NEEDS_APPROVAL, Reason.AUDIENCE_SET, NO_OFFER)
AUTOMATIC = [Source.RULE, Source.SCRIPT, Source.POLICY]
AUDIENCES = ("families", "students", "young")


def no(reason: Reason, offer: int = NO_OFFER) -> tuple[Outcome, Reason, int]:
    return Outcome.REFUSED, reason, offer


BESIDE = no(Reason.BESIDE_REFUSED)


def desk_of(modifiers: Any = None, limits: Limits | None = None, campaigns: int = 1, **scalars: int) -> Desk:
    """Campaigns of three audiences each."""
    run = campaign_set((1,) * campaigns, audiences=AUDIENCES)
    state = controls(run, **scalars)
    if modifiers is not None:
        values = np.array(modifiers * campaigns, dtype=np.int64)
        state = replace(state, modifiers=values, modifier_anchor=values)
    return Desk(run, state, limits)


def answer(desk: Desk, *batches: Proposals, granted: Any = None) -> list[tuple[Outcome, Reason, int]]:
    return answers(desk.judge(*batches, granted=granted))


# --- the laws of a scalar, audience by audience ---


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
def test_a_modifier_moves_by_at_most_a_quarter(source: Source, wanted: int, expected: object) -> None:
    assert answer(desk_of(), modified({1: wanted}, source)) == [expected]
    assert answer(desk_of(), modified({1: wanted}, source), granted=[True]) == [expected]


def test_every_quarter_up_a_modifier_stops_at_3_times_its_anchor() -> None:
    desk = desk_of([200_000, PPM, 0])
    for version in range(24):
        old = int(desk.state.modifiers[0])
        ((_, reason, offer),) = answers(desk.hold(modified({0: old + old // 4}, version=version)))
        if reason != Reason.NONE:
            break
    assert (reason, offer, desk.state.modifiers.tolist()) == (Reason.ANCHOR_BAND, 600_000, [488_281, PPM, 0])
    assert desk.state.modifier_anchor.tolist() == [200_000, PPM, 0]


@pytest.mark.parametrize(("wanted", "offer"), [(500_000, 750_001), (1_500_000, 1_250_001)])
def test_an_offered_quarter_is_rounded_towards_the_modifier_in_force(wanted: int, offer: int) -> None:
    assert answer(desk_of([1_000_001, PPM, PPM]), modified({0: wanted})) == [no(Reason.STEP, offer)]
    assert answer(desk_of([1_000_001, PPM, PPM]), modified({0: offer})) == [YES]


@pytest.mark.parametrize(
    ("now", "wanted", "expected"),
    [
        (400_000, 333_333, no(Reason.ANCHOR_BAND, 333_334)),
        (400_000, 333_334, YES),
        (1_200_000, 1_333_334, no(Reason.ANCHOR_BAND, 1_333_333)),
        (1_200_000, 1_333_333, YES),
    ],
)
def test_the_band_of_a_modifier_is_rounded_inwards(now: int, wanted: int, expected: object) -> None:
    run = campaign_set((1,), audiences=AUDIENCES)
    limits = Limits.of(run).with_mandate(np.array([0]), (Knob.MODIFIERS,), (Fraction(1, 3), Fraction(4, 3)))
    desk = Desk(run, replace(controls(run), modifiers=np.array([now, PPM, PPM])), limits)
    assert answer(desk, modified({0: wanted})) == [expected]


def test_a_mandate_states_another_band_for_modifiers() -> None:
    run = campaign_set((1, 1), audiences=AUDIENCES)
    limits = Limits.of(run).with_mandate(np.array([0]), (Knob.MODIFIERS,), (Fraction("0.9"), Fraction("1.1")))
    desk = Desk(run, limits=limits)
    assert answer(desk, modified({0: 1_100_001})) == [no(Reason.ANCHOR_BAND, 1_100_000)]
    assert answer(desk, modified({0: 1_100_000, 2: 900_000})) == [YES, YES]
    assert answer(desk, modified({0: 1_100_000}, campaign=1), wish(BID + 1)) == [ASK, ASK]


def test_a_persons_modifier_moves_its_band_and_no_other() -> None:
    desk = desk_of()
    desk.hold(modified({0: 4_000_000}, Source.PERSON))
    assert desk.state.modifier_anchor.tolist() == [4_000_000, PPM, PPM]
    assert answer(desk, modified({0: 5_000_000, 1: 1_100_000}, version=1)) == [YES, YES]


@pytest.mark.parametrize("source", list(Source))
def test_nobody_passes_the_hard_bounds_of_modifiers(source: Source) -> None:
    desk = desk_of([110_000, 9_500_000, PPM], bid=10_000)
    step = source > Source.ROLLBACK
    assert answer(desk, modified({0: 99_999}, source)) == [no(Reason.HARD_MINIMUM, 100_000)]
    assert answer(desk, modified({0: 1}, source)) == [no(Reason.STEP if step else Reason.HARD_MINIMUM, 100_000)]
    assert answer(desk, modified({1: 10_000_001}, source)) == [no(Reason.HARD_MAXIMUM, MOST_MODIFIER)]
    assert answer(desk, modified({0: 50_000}, source)) == [no(Reason.STEP if step else Reason.HARD_MINIMUM, 100_000)]


def test_bounds_of_modifiers_are_those_of_the_limits() -> None:
    desk = desk_of()
    desk.limits = replace(desk.limits, modifier_bounds=np.array([[900_000, 1_100_000]]))
    rows = {0: 1_100_001, 1: 1_100_000}
    assert answer(desk, modified(rows)) == [no(Reason.HARD_MAXIMUM, 1_100_000), BESIDE]
    assert answer(desk, modified({0: 1_100_000, 1: 900_000})) == [YES, YES]


def test_where_no_audiences_are_told_apart_there_are_no_modifiers() -> None:
    desk = Desk(campaign_set((1,)))
    for source in Source:
        assert answer(desk, modified({0: 1_100_000}, source), granted=[True]) == [no(Reason.UNKNOWN_TARGET)]
    assert answer(desk_of(), modified({3: 1_100_000})) == [no(Reason.UNKNOWN_TARGET)]


def test_a_modifier_that_stays_as_it_is_is_no_change_and_holds_no_other_back() -> None:
    assert answer(desk_of(), modified({0: PPM})) == [no(Reason.NO_OP)]
    desk = desk_of()
    assert answers(desk.hold(modified({0: PPM, 1: 1_100_000}))) == [no(Reason.NO_OP), YES]
    assert (desk.state.modifiers.tolist(), desk.state.version[0].tolist()) == ([PPM, 1_100_000, PPM], [0, 0, 0, 0, 1])


# --- to 0 and from 0 ---


@pytest.mark.parametrize("source", AUTOMATIC)
def test_an_audience_is_dropped_by_a_person_alone(source: Source) -> None:
    assert answer(desk_of(), modified({0: 0}, source), granted=[True]) == [no(Reason.ZERO, 750_000)]
    desk = desk_of()
    assert answers(desk.hold(modified({0: 0}, Source.PERSON))) == [YES]
    assert desk.state.modifiers.tolist() == [0, PPM, PPM]


@pytest.mark.parametrize("source", AUTOMATIC)
def test_a_new_audience_needs_a_person_mandate_or_not(source: Source) -> None:
    desk = desk_of([0, PPM, PPM])
    rows = modified({0: PPM, 1: 1_100_000}, source)
    assert answer(desk, rows) == [TARGETS, TARGETS]  # what comes with it waits with it
    assert answer(desk, rows, granted=[True, True]) == [YES, YES]
    beyond = modified({0: PPM + 1, 1: 1_100_000}, source)
    assert answer(desk, beyond, granted=[True, True]) == [no(Reason.STEP, PPM), BESIDE]
    assert answer(desk, modified({0: 99_999}, source), granted=[True]) == [no(Reason.HARD_MINIMUM, 100_000)]
    assert answer(desk, modified({1: 1_100_000}, source)) == [YES]


def test_the_least_modifier_makes_an_audience_a_target_too() -> None:
    desk = desk_of([0, PPM, PPM])
    desk.limits = replace(desk.limits, modifier_bounds=np.array([[1, MOST_MODIFIER]]))
    assert answer(desk, modified({0: 1})) == [TARGETS]


def test_an_audience_that_stays_no_target_needs_nobody() -> None:
    assert answer(desk_of([0, PPM, PPM]), modified({0: 0, 1: 1_100_000})) == [no(Reason.NO_OP), YES]


def test_a_person_targets_an_audience_at_once() -> None:
    assert answer(desk_of([0, PPM, PPM]), modified({0: 3 * PPM}, Source.PERSON)) == [YES]


def test_the_band_follows_an_audience_that_was_approved_as_a_target() -> None:
    desk = desk_of([0, PPM, PPM])
    desk.hold(modified({0: 800_000}), granted=[True])
    assert desk.state.modifier_anchor.tolist() == [800_000, PPM, PPM]
    assert answer(desk, modified({0: PPM}, version=1)) == [YES]
    assert fold(desk.close()).state.equals(desk.state)  # type: ignore[union-attr]


def test_a_new_audience_of_one_campaign_holds_no_other_campaigns_change_back() -> None:
    desk = desk_of([0, PPM, PPM], campaigns=6)
    rises = {1: 1_100_000}
    assert answer(desk, modified(rises), modified({0: PPM}, Source.RULE, 5)) == [YES, TARGETS]
    rows = modified(rises, Source.RULE), modified({0: PPM}, Source.RULE, 2)
    assert answer(desk, *rows, granted=[False, True]) == [YES, YES]


def test_a_mandate_does_not_cover_which_audiences_are_targets() -> None:
    run = campaign_set((1, 1), audiences=AUDIENCES)
    rows = Proposals.concatenate([modified({0: PPM, 1: 1_100_000}), modified({0: 1_100_000}, campaign=1)])
    state = replace(controls(run), modifiers=np.array([0, PPM, PPM, PPM, PPM, PPM]))
    granted = np.array([True, True, False])
    applied = check(run, state, rows, mandated(run), sequence=1, tick=0, granted=granted).approved.rows
    assert in_mandate(applied, mandated(run), 0).tolist() == [False, False, True]


# --- one change ---


def test_what_a_party_wants_of_several_audiences_stands_or_falls_together() -> None:
    rows = {0: 1_300_000, 1: 1_100_000, 2: 900_000}
    assert answer(desk_of(), modified(rows)) == [no(Reason.STEP, 1_250_000), BESIDE, BESIDE]
    assert answer(desk_of(), modified(rows | {0: float("nan")})) == [no(Reason.NOT_FINITE), BESIDE, BESIDE]
    assert answer(desk_of(), modified(rows | {0: 1_250_000})) == [YES, YES, YES]


def test_an_audience_that_does_not_exist_takes_down_what_is_beside_it() -> None:
    stray = no(Reason.UNKNOWN_TARGET)
    assert answer(desk_of(), modified({0: 1_100_000, 3: 1_100_000})) == [BESIDE, stray]
    assert answer(desk_of(campaigns=2), modified({0: 1_100_000, 3: 1_100_000}, campaign=1)) == [BESIDE, stray]
    others = wish(BID + 1), modified({0: 1_100_000}, Source.RULE), modified({1: 1_100_000}, campaign=1)
    assert answer(desk_of(campaigns=2), modified({3: 1}), *others) == [stray, YES, YES, YES]
    assert answer(desk_of(), modified({0: 1_100_000}, campaign=7)) == [stray]


def test_an_audience_named_twice_is_refused_with_what_is_beside_it() -> None:
    rows = proposals([0] * 3, Knob.MODIFIERS, [1_100_000, 1_200_000, 900_000], 0, Source.POLICY, "", index=[1, 1, 2])
    assert answer(desk_of(), rows) == [no(Reason.AUDIENCE_TWICE)] * 2 + [BESIDE]


def test_what_two_parties_want_of_neighbouring_audiences_names_none_twice() -> None:
    desk = Desk(campaign_set((1,), audiences=tuple("abcde")))
    rows = modified({1: 1_100_000}, Source.SCRIPT), modified({0: 1_100_000}, Source.POLICY)
    assert answer(desk, *rows) == [YES, no(Reason.SECOND_CHANGE)]


def test_of_several_parties_the_first_ones_audiences_are_moved_and_no_others() -> None:
    rows = modified({0: 1_200_000, 1: 1_200_000}), modified({1: 900_000, 2: 1_100_000}, Source.RULE)
    assert answer(desk_of(), *rows) == [no(Reason.SECOND_CHANGE)] * 2 + [YES] * 2
    assert answer(desk_of(), *rows, granted=[True, True, False, False]) == [YES] * 2 + [no(Reason.SECOND_CHANGE)] * 2
    spoilt = modified({1: 100_000, 2: 1_100_000}, Source.RULE)
    assert answer(desk_of(), rows[0], spoilt) == [YES, YES, no(Reason.STEP, 750_000), BESIDE]


def test_campaigns_are_judged_one_by_one() -> None:
    rows = modified({0: 2_000_000, 1: 1_100_000}), modified({0: 1_100_000}, campaign=1)
    assert answer(desk_of(campaigns=2), *rows) == [no(Reason.STEP, 1_250_000), BESIDE, YES]


# --- what is really bid ---


@pytest.mark.parametrize("source", list(Source))
def test_no_audience_is_bid_more_than_the_hard_maximum(source: Source) -> None:
    bid = MAX_BID // 4
    desk = desk_of([3_900_000, PPM, 0], bid=bid)
    assert answer(desk, modified({0: 4_000_000}, source)) == [YES]
    assert answer(desk, modified({0: 4_000_001}, source)) == [no(Reason.BID_TIMES_MODIFIER, 4_000_000)]
    most = MAX_BID * PPM // 3_900_000
    assert answer(desk, wish(most, source=source)) == [YES]
    assert answer(desk, wish(most + 1, source=source)) == [no(Reason.BID_TIMES_MODIFIER, most)]


def test_a_bid_far_above_what_its_largest_modifier_leaves_is_offered_that() -> None:
    desk = desk_of([10_000_000, PPM, PPM], bid=MAX_BID // 10 - 5)
    assert answer(desk, wish(2 * MAX_BID)) == [no(Reason.STEP, MAX_BID // 10)]


@pytest.mark.parametrize("bid", [1, 3, 7, 999_983, 10**9 + 7, 10**15 - 1, 10**15])
@pytest.mark.parametrize("maximum", [1, 2, 10, 123_456_789, 10**12 + 39, 10**15])
def test_the_highest_modifier_is_exact_as_far_as_modifiers_go(bid: int, maximum: int) -> None:
    (found,) = _most_modifier(np.array([maximum]), np.array([bid])).tolist()
    exact = maximum * PPM // bid
    assert found == exact if exact < 10**12 else found >= 10**12


def test_a_bid_and_a_modifier_that_both_rise_in_one_round_do_not_pass_the_maximum_together() -> None:
    desk = desk_of([3_300_000, PPM, PPM], bid=MAX_BID // 4)
    bid, modifier = MAX_BID * 30 // 100, 4_000_000

    def both(bid_by: Source, modifiers_by: Source) -> list[tuple[Outcome, Reason, int]]:
        return answer(desk, wish(bid, source=bid_by), modified({0: modifier, 1: 1_100_000}, modifiers_by))

    refused = no(Reason.BID_TIMES_MODIFIER)
    assert both(Source.PERSON, Source.PERSON) == [YES, refused, BESIDE]
    assert both(Source.ROLLBACK, Source.PERSON) == [refused, YES, YES]
    assert both(Source.PERSON, Source.ROLLBACK) == [YES, refused, BESIDE]
    assert answer(desk, wish(bid, source=Source.PERSON), modified({1: 1_100_000}, Source.PERSON)) == [YES, YES]
    exactly = MAX_BID * PPM // bid
    assert answer(desk, wish(bid), modified({0: exactly})) == [YES, YES]
    assert answer(desk, wish(bid), modified({0: exactly + 1})) == [YES, refused]


def test_a_modifier_is_held_against_no_bid_of_another_campaign_and_none_that_waits() -> None:
    desk = desk_of([3_300_000, PPM, PPM], campaigns=2, bid=MAX_BID // 4)
    bid, rises = wish(MAX_BID * 30 // 100, source=Source.RULE), {0: 4_000_000}
    assert answer(desk, modified(rises, campaign=1), bid) == [YES, YES]
    desk.limits = Limits.of(desk.campaigns)
    assert answer(desk, modified(rises, Source.PERSON), bid) == [YES, ASK]


# --- several knobs at once ---


def test_bid_budget_and_audience_each_plus_25_percent_in_one_bundle_are_judged_by_their_joint_exposure() -> None:
    run = campaign_set((1,), audiences=AUDIENCES)
    desk = Desk(run, limits=Limits.of(run))
    bid, budget, audience = wish(BID * 5 // 4), wish(BUDGET * 5 // 4, Knob.BUDGET), modified({1: 1_250_000})
    yes = [True] * 3
    joint = no(Reason.JOINT_EXPOSURE)
    assert answer(desk, bid, budget, audience, granted=yes) == [joint, YES, joint]
    assert answer(desk, bid, audience, granted=[True, True]) == [YES, joint]
    assert answer(desk, audience, granted=[True]) == [YES]


def test_of_what_the_budget_and_the_bid_leave_the_modifiers_are_offered_the_rest() -> None:
    run = campaign_set((1,), audiences=AUDIENCES)
    desk = Desk(run, limits=Limits.of(run))
    bid, budget = wish(BID * 105 // 100), wish(BUDGET * 110 // 100, Knob.BUDGET)
    offer = 1_250_000 * 100 * 100 // (105 * 110)
    rows = modified({0: offer + 1, 1: offer, 2: 800_000})
    yes = [True] * 5
    assert answer(desk, bid, budget, rows, granted=yes) == [YES, YES, no(Reason.JOINT_EXPOSURE, offer), BESIDE, BESIDE]
    rows = modified({0: 800_000, 1: offer, 2: offer + 1})
    assert answer(desk, bid, budget, rows, granted=yes) == [YES, YES, BESIDE, BESIDE, no(Reason.JOINT_EXPOSURE, offer)]
    rows = modified({0: offer, 1: offer, 2: 800_000})
    assert answer(desk, bid, budget, rows, granted=yes) == [YES] * 5


def test_the_modifiers_of_each_campaign_are_held_against_its_own_bid_in_whatever_order_they_come() -> None:
    run = campaign_set((1, 1), audiences=AUDIENCES)
    desk = Desk(run, limits=Limits.of(run))
    rows = (
        modified({0: 1_200_000}, campaign=1),
        modified({0: 1_200_000}),
        modified({1: 1_100_000}, campaign=1),
        wish(BID * 11 // 10),
    )
    joint = no(Reason.JOINT_EXPOSURE, 1_250_000 * 10 // 11)
    assert answer(desk, *rows, granted=[True] * 4) == [YES, joint, YES, YES]


def test_where_less_than_a_micro_is_left_nothing_is_offered() -> None:
    run = campaign_set((1,), audiences=AUDIENCES)
    desk = Desk(run, limits=Limits.of(run))
    rows = wish(BUDGET * 5 // 4 - 10, Knob.BUDGET), modified({0: PPM + 1})
    assert answer(desk, *rows, granted=[True, True]) == [YES, no(Reason.JOINT_EXPOSURE)]


def test_what_is_left_is_exact_to_the_micro_for_the_largest_amounts() -> None:
    run = campaign_set((1,))
    bid, budget, raised = 500_000_000_000_012, 600_000_000_000_000, 660_000_000_000_001
    limits = with_limits(Limits.of(run), maximum=MAX_MICROS)
    desk = Desk(run, controls(run, bid, budget), limits)
    offer = bid * 1_250_000 * budget // (raised * PPM)  # 0.96 of a micro more would be too much
    rises = wish(raised, Knob.BUDGET)
    assert answer(desk, wish(offer + 1), rises, granted=[True] * 2) == [no(Reason.JOINT_EXPOSURE, offer), YES]
    assert answer(desk, wish(offer), rises, granted=[True] * 2) == [YES, YES]


def test_a_bid_that_was_refused_takes_nothing_from_the_modifiers() -> None:
    run = campaign_set((1,), audiences=AUDIENCES)
    desk = Desk(run, limits=Limits.of(run))
    rows = wish(BID * 12 // 10), wish(BUDGET * 11 // 10, Knob.BUDGET), modified({0: 1_130_000})
    assert answer(desk, *rows, granted=[True] * 3) == [no(Reason.JOINT_EXPOSURE, BID * 125 // 110), YES, YES]


def test_a_new_audience_has_no_ratio_and_does_not_count() -> None:
    desk = desk_of([0, PPM, PPM])
    rows = wish(BID * 5 // 4), wish(BUDGET * 5 // 4, Knob.BUDGET), modified({0: PPM})
    assert answer(desk, *rows, granted=[False, False, True]) == [YES] * 3


def test_modifiers_that_only_fall_are_not_held_back_by_what_rises_beside_them() -> None:
    desk = desk_of()
    outside = replace(desk.limits, mandate_until=desk.limits.mandate_until.copy())
    outside.mandate_until[0, Knob.MODIFIERS] = -1
    desk.limits = outside
    rows = wish(BID * 5 // 4), wish(BUDGET * 5 // 4, Knob.BUDGET), modified({0: 900_000})
    assert answer(desk, *rows, granted=[False, False, True]) == [YES, YES, YES]


def test_inside_a_mandate_over_all_three_its_own_cap_holds() -> None:
    knobs = (Knob.BID, Knob.BUDGET, Knob.MODIFIERS)
    run = campaign_set((1,), audiences=AUDIENCES)
    rows = wish(BID * 5 // 4), wish(BUDGET * 5 // 4, Knob.BUDGET), modified({0: 1_250_000, 1: 1_100_000})
    free = Desk(run, limits=Limits.of(run).with_mandate(np.array([0]), knobs))
    assert answer(free, *rows) == [YES] * 4
    capped = Desk(run, limits=Limits.of(run).with_mandate(np.array([0]), knobs, exposure_cap=800_000))
    offer = 1_800_000 * 16 // 25
    assert answer(capped, *rows) == [YES, YES, no(Reason.JOINT_EXPOSURE, offer), BESIDE]
    part = Desk(run, limits=Limits.of(run).with_mandate(np.array([0]), knobs[:2], exposure_cap=800_000))
    assert answer(part, *rows, granted=[False, False, True, True])[2][:2] == no(Reason.JOINT_EXPOSURE)[:2]


def test_a_cap_for_one_campaign_leaves_three_steps_of_another_free() -> None:
    knobs = (Knob.BID, Knob.BUDGET, Knob.MODIFIERS)
    run = campaign_set((1, 1), audiences=AUDIENCES)
    limits = Limits.of(run).with_mandate(np.array([0]), knobs, exposure_cap=0).with_mandate(np.array([1]), knobs)
    rows = (
        wish(BID * 5 // 4, campaign=1),
        wish(BUDGET * 5 // 4, Knob.BUDGET, campaign=1),
        modified({0: 1_250_000}, campaign=1),
    )
    assert answer(Desk(run, limits=limits), *rows) == [YES] * 3


# --- cooldowns, holds, quarantine ---


def of_ten(**more: Any) -> Case:
    """Ten campaigns whose spend and clicks are known."""
    return Case(audiences=AUDIENCES, **more)


def at_last(standing: Standing, what: str) -> Standing:
    """The sixth campaign's modifiers were changed, or edited, at the last tick."""
    column = getattr(standing, what).copy()
    column[5, Knob.MODIFIERS] = TICK - 1
    return replace(standing, **{what: column})


def test_lowering_modifiers_is_exempt_from_cooldowns_and_raising_one_is_not() -> None:
    case = of_ten()
    case.standing = at_last(case.standing, "changed_at")
    resting = (Outcome.REFUSED, Reason.COOLDOWN)
    assert case.ask(modified({0: 980_000, 1: 990_000}, Source.RULE, 5)) == [LOW, LOW]
    assert case.ask(modified({0: 1_010_000, 1: 990_000}, Source.RULE, 5)) == [
        resting,
        (Outcome.REFUSED, Reason.BESIDE_REFUSED),
    ]


def test_a_persons_modifiers_are_not_overwritten_within_their_hold() -> None:
    case = of_ten()
    case.standing = at_last(case.standing, "edited_at")
    assert case.ask(modified({2: 980_000}, Source.RULE, 5)) == [(Outcome.REFUSED, Reason.PERSONS_HOLD)]


def test_each_modifier_that_was_rolled_back_is_quarantined_with_what_lies_beyond_it() -> None:
    case = of_ten()
    rolled_back(case, modified({0: 1_020_000, 2: 980_000}, Source.RULE, 5))
    until = TICK + 14 * DAY
    assert case.standing.quarantine == (
        Quarantine(5, Knob.MODIFIERS, PPM, (1_020_000,), until, 0),
        Quarantine(5, Knob.MODIFIERS, PPM, (980_000,), until, 2),
    )
    case.tick += 8 * DAY
    quarantined = (Outcome.REFUSED, Reason.QUARANTINED)
    for place, value, expected in (
        (0, 1_020_000, quarantined),
        (0, 1_030_000, quarantined),
        (0, 1_019_999, LOW),
        (0, 980_000, LOW),
        (1, 1_020_000, LOW),
        (2, 980_000, quarantined),
        (2, 970_000, quarantined),
        (2, 990_000, LOW),
    ):
        assert case.ask(modified({place: value}, Source.RULE, 5)) == [expected], (place, value)


# --- high impact ---


def test_the_record_predicts_as_if_all_spend_went_with_the_audience_that_moves_farthest() -> None:
    case = of_ten()
    rise = case.judge(modified({0: 1_050_000, 1: 990_000}, Source.RULE, 5))
    predicted = 157_625 * SPEND_A_DAY // 1_000_000  # 1.05³ − 1
    assert rise.impacts == tuple(Impact(row, predicted, Basis.RECORD) for row in (0, 1))
    fall = case.judge(modified({0: 1_010_000, 1: 900_000}, Source.RULE, 5))
    assert [each.spend_per_day for each in fall.impacts] == [1 - 271_000 * SPEND_A_DAY // 1_000_000] * 2  # 0.9³ − 1
    assert fall.reason.tolist() == [Reason.LARGE_SPEND_CHANGE] * 2


def test_each_campaign_is_predicted_by_its_own_farthest_audience() -> None:
    rows = modified({0: 1_010_000, 1: 1_030_000}, Source.RULE, 4), modified({0: 1_050_000, 1: 990_000}, Source.RULE, 5)
    predicted = [each.spend_per_day for each in of_ten().judge(*rows).impacts]
    # 1.03³ − 1 and 1.05³ − 1
    assert predicted == [92_727 * SPEND_A_DAY // 1_000_000] * 2 + [157_625 * SPEND_A_DAY // 1_000_000] * 2


def test_from_no_spend_and_for_a_new_audience_nobody_can_tell() -> None:
    case = of_ten()
    spent = case.spending.samples[0].counts[5, 0]
    for each in (case.spending.now, *case.spending.samples):
        each.counts[5, 0] = spent
    assert case.ask(modified({0: 1_010_000}, Source.RULE, 5)) == [waits(Reason.OUTSIDE_MANDATE)]
    case = of_ten()
    case.state = replace(case.state, modifiers=np.array([0, PPM, PPM] * 10))
    judged = case.judge(modified({0: 500_000}, Source.RULE, 5))
    assert judged.impacts == (Impact(0, None, Basis.NONE),)
    assert judged.reason.tolist() == [Reason.AUDIENCE_SET]
    case.tried = {(5, Knob.MODIFIERS): 0}
    assert case.ask(modified({0: 500_000}, Source.RULE, 5)) == [waits(Reason.AUDIENCE_SET)]


def test_a_large_step_for_one_audience_of_a_large_campaign_makes_the_whole_change_wait() -> None:
    case = of_ten()
    case.tried = dict.fromkeys([(0, Knob.MODIFIERS), (5, Knob.MODIFIERS)], 0)
    rows = {0: 1_150_000, 1: 849_999}
    assert case.ask(modified(rows, Source.RULE, 0)) == [waits(Reason.LARGE_CAMPAIGN)] * 2
    assert case.ask(modified(rows, Source.RULE, 5)) == [LOW] * 2
    assert case.ask(modified(rows | {1: 850_000}, Source.RULE, 0)) == [LOW] * 2


def test_without_automatic_mode_a_new_audience_waits_as_all_does() -> None:
    desk = desk_of([0, PPM, PPM])
    desk.limits = replace(desk.limits, automatic=False)
    assert [reason for _, reason, _ in answer(desk, modified({0: PPM}))] == [Reason.NO_AUTOMATIC_MODE]


def test_evidence_changes_nothing_inside_a_mandate() -> None:
    case = of_ten()
    case.limits = replace(mandated(case.campaigns), day=DAY)
    judged = check(
        case.campaigns,
        case.state,
        modified({0: 1_250_000}, campaign=5),
        case.limits,
        sequence=1,
        tick=TICK,
        evidence=Evidence(case.spending),
    )
    assert (judged.count(Outcome.APPROVED), judged.impacts) == (1, ())


# --- the record ---


def test_the_ledger_tells_modifiers_and_counts_their_steps() -> None:
    desk = desk_of([PPM, 0, PPM])
    desk.hold(modified({0: 1_250_000}))
    desk.hold(modified({1: PPM}, version=1), granted=[True])
    desk.hold(modified({2: 4_000_000}, Source.PERSON, version=2))
    told = fold(desk.close())
    assert told.state is not None
    assert told.state.equals(desk.state)
    assert (told.max_relative_step, desk.state.modifiers.tolist()) == (0.25, [1_250_000, PPM, 4_000_000])
    assert ControlState.merge(desk.campaigns, [(np.array([0]), desk.state)]).equals(told.state)


def test_rows_of_one_change_are_one_action() -> None:
    desk = desk_of(campaigns=2)
    rows: Actions = desk.judge(modified({2: 1_100_000, 0: 900_000}), modified({1: 1_100_000}, campaign=1)).approved.rows
    assert [each.index.tolist() for each in rows.by_knob()] == [[2, 0], [1]]
