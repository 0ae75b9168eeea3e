"""Limits that look back: a person's hold, cooldowns, the account's rise, and knobs that move together."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from engine.actions import Knob, Proposals, Source
from engine.judgement import NO_OFFER, Outcome, Reason
from engine.limits import Limits
from engine.standing import COOLING_DAYS, NEVER, Standing
from tests.engine.builders import BID, BUDGET, Desk, answers, campaign_set, mandated, vector, wish

DAY = 24
YES = (Outcome.APPROVED, Reason.NONE, NO_OFFER)


def no(reason: Reason, offer: int = NO_OFFER) -> tuple[Outcome, Reason, int]:
    return Outcome.REFUSED, reason, offer


def desk(campaigns: int = 1, *, mandate: bool = True, account: int | None = None, **more: Any) -> Desk:
    """Campaigns with two creatives each and a day of 24 ticks."""
    run = campaign_set((2,) * campaigns)
    limits = mandated(run, account) if mandate else Limits.of(run, account)
    return Desk(run, limits=replace(limits, day=DAY, **more))


def answer(at: Desk, *batches: Proposals, granted: Any = None) -> list[tuple[Outcome, Reason, int]]:
    return answers(at.judge(*batches, granted=granted))


def idle(at: Desk, ticks: int) -> None:
    """Let boundaries pass at which nobody asks for anything."""
    for _ in range(ticks):
        at.standing = at.standing.seen(at.tick, at.state, at.limits.day)
        at.tick += 1


def test_a_persons_value_is_not_overwritten_automatically_within_its_hold() -> None:
    at = desk()
    at.hold(wish(2 * BID, source=Source.PERSON))  # at tick 0
    idle(at, DAY - 2)
    for source in (Source.POLICY, Source.RULE, Source.SCRIPT):
        assert answer(at, wish(2 * BID + 1, source=source, version=1)) == [no(Reason.PERSONS_HOLD)]
        assert answer(at, wish(BID, Knob.BUDGET, source=source)) != [no(Reason.PERSONS_HOLD)]  # another knob
    idle(at, 1)
    assert answer(at, wish(2 * BID + 1, version=1)) == [YES]


def test_a_hold_leaves_people_approvals_rollbacks_and_pauses_alone() -> None:
    at = desk()
    at.hold(wish(2 * BID, source=Source.PERSON), wish(0, Knob.PAUSED, source=Source.PERSON))
    assert answer(at, wish(3 * BID, source=Source.PERSON, version=1)) == [YES]
    assert answer(at, wish(BID, source=Source.ROLLBACK, version=1)) == [YES]
    assert answer(at, wish(2 * BID + 1, version=1), granted=[True]) == [YES]
    assert answer(at, wish(1, Knob.PAUSED)) == [YES]


def test_a_knob_cools_down_for_a_day_after_a_change_outside_a_mandate() -> None:
    at = desk(mandate=False)
    at.hold(wish(BID + 10), granted=[True])
    idle(at, DAY - 2)
    again = wish(BID + 20, version=1)
    assert answer(at, again, granted=[True]) == [no(Reason.COOLDOWN)]
    assert answer(at, again) == [no(Reason.COOLDOWN)]
    assert answer(at, wish(BID, version=1), granted=[True]) == [YES]  # lowering exposure need not wait
    assert answer(at, wish(BUDGET + 10, Knob.BUDGET), granted=[True]) == [YES]
    idle(at, 1)
    assert answer(at, again, granted=[True]) == [YES]


def test_inside_a_mandate_there_is_no_cooldown() -> None:
    at = desk()
    for step in range(1, 5):
        assert answers(at.hold(wish(BID + step, version=step - 1))) == [YES]
    assert at.standing.changed_at.tolist() == [[NEVER] * 5]


@pytest.mark.parametrize(("rollbacks", "days"), [(1, 1), (2, 3), (3, 7), (4, 7)])
def test_after_a_rollback_the_knob_cools_down_for_24_72_hours_and_7_days_mandate_or_not(
    rollbacks: int, days: int
) -> None:
    at = desk()
    for place in range(rollbacks):
        at.hold(wish(BID + 1, source=Source.PERSON, version=2 * place))
        at.hold(wish(BID, source=Source.ROLLBACK, version=2 * place + 1))
    last = at.tick - 1
    at.standing = replace(at.standing.closed(), edited_at=np.full((1, 5), NEVER))
    assert at.standing.cool_until[0, Knob.BID] == last + days * DAY
    version = 2 * rollbacks
    idle(at, days * DAY - 2)
    assert answer(at, wish(BID + 1, version=version)) == [no(Reason.COOLDOWN)]
    assert answer(at, wish(BID - 1, version=version)) == [YES]
    idle(at, 1)
    assert answer(at, wish(BID + 1, version=version)) == [YES]


def test_a_vector_that_is_rolled_back_counts_once() -> None:
    at = desk()
    at.hold(vector([600_000, 400_000]))
    at.hold(vector([500_000, 500_000], Source.ROLLBACK, version=1))
    assert at.standing.rollbacks.tolist() == [[0, 0, 1, 0, 0]]
    assert at.standing.cool_until[0, Knob.WEIGHTS] == 1 + COOLING_DAYS[0] * DAY


def test_the_account_rises_by_a_tenth_within_a_day_and_no_more() -> None:
    at = desk(10, account=11 * BUDGET)  # ten budgets of 100: the account may hold 1,100, and rise by 110 in a day
    rises = [wish(BUDGET + BUDGET // 4, Knob.BUDGET, campaign=campaign) for campaign in range(5)]
    within = [YES] * 4 + [no(Reason.ACCOUNT_BUDGET)]
    assert answer(at, *rises) == within
    at.limits = replace(at.limits, account_budget=13 * BUDGET)  # room enough, but for the day: 130
    assert answer(at, *rises, wish(BUDGET + BUDGET // 20, Knob.BUDGET, campaign=5)) == [
        *[YES] * 5,
        YES,
    ]
    assert answer(at, *rises, wish(BUDGET + BUDGET // 20 + 1, Knob.BUDGET, campaign=5)) == [
        *[YES] * 5,
        no(Reason.ACCOUNT_RISE),
    ]


def test_the_accounts_rise_is_net_and_forgotten_after_a_day() -> None:
    at = desk(10, account=20 * BUDGET)
    at.limits = replace(at.limits, account_budget=None)  # the account is what its budgets were a day ago: 1,000
    at.hold(*[wish(BUDGET + BUDGET // 4, Knob.BUDGET, campaign=campaign) for campaign in range(4)])
    one_more = wish(BUDGET + BUDGET // 4, Knob.BUDGET, campaign=4)
    assert answer(at, one_more) == [no(Reason.ACCOUNT_RISE)]
    at.hold(wish(BUDGET - BUDGET // 4, Knob.BUDGET, campaign=9))
    assert answer(at, one_more) == [YES]
    assert answer(at, one_more, wish(BUDGET + 1, Knob.BUDGET, campaign=5)) == [YES, no(Reason.ACCOUNT_RISE)]
    idle(at, DAY)
    assert answer(at, one_more, wish(BUDGET + 1, Knob.BUDGET, campaign=5)) == [YES, YES]


def test_a_person_may_raise_the_account_further_than_that() -> None:
    at = desk(2)
    assert answer(at, wish(3 * BUDGET, Knob.BUDGET, source=Source.PERSON)) == [YES]


def test_bid_and_budget_each_plus_25_percent_in_one_bundle_are_judged_by_their_joint_exposure() -> None:
    at = desk(5, mandate=False)
    bundle = wish(BID + BID // 4), wish(BUDGET + BUDGET // 4, Knob.BUDGET)
    assert answer(at, *bundle, granted=[True, True]) == [no(Reason.JOINT_EXPOSURE), YES]
    smaller = wish(BID + BID // 4), wish(BUDGET + BUDGET // 10, Knob.BUDGET)
    offer = BID * 125 // 110
    assert answer(at, *smaller, granted=[True, True]) == [no(Reason.JOINT_EXPOSURE, offer), YES]
    offered = wish(offer), wish(BUDGET + BUDGET // 10, Knob.BUDGET)
    assert answer(at, *offered, granted=[True, True]) == [YES, YES]
    beyond = wish(offer + 1), wish(BUDGET + BUDGET // 10, Knob.BUDGET)
    assert answer(at, *beyond, granted=[True, True])[0] == no(Reason.JOINT_EXPOSURE, offer)
    apart = wish(BID + BID // 4), wish(BUDGET + BUDGET // 4, Knob.BUDGET, campaign=1)
    assert answer(at, *apart, granted=[True, True]) == [YES, YES]


def test_inside_a_mandate_its_own_exposure_cap_holds_instead() -> None:
    at = desk(5)
    bundle = wish(BID + BID // 4), wish(BUDGET + BUDGET // 4, Knob.BUDGET)
    assert answer(at, *bundle) == [YES, YES]
    capped = Limits.of(at.campaigns).with_mandate(
        np.array([0]), (Knob.BID, Knob.BUDGET), (Fraction(1, 3), Fraction(3)), None, 300_000
    )
    at.limits = replace(capped, day=DAY)
    assert answer(at, *bundle) == [no(Reason.JOINT_EXPOSURE, BID * 130 // 125), YES]
    at.limits = replace(at.limits.with_mandate(np.array([1]), (Knob.BID, Knob.BUDGET)), day=DAY)
    other = wish(BID + BID // 4, campaign=1), wish(BUDGET + BUDGET // 4, Knob.BUDGET, campaign=1)
    assert answer(at, *other) == [YES, YES]


def test_a_cap_far_below_a_quarter_holds_for_small_steps() -> None:
    at = desk()
    at.limits = Limits.of(at.campaigns).with_mandate(np.array([0]), (Knob.BID, Knob.BUDGET), exposure_cap=100_000)
    small = wish(BID * 107 // 100), wish(BUDGET * 107 // 100, Knob.BUDGET)
    assert answer(at, *small) == [no(Reason.JOINT_EXPOSURE, BID * 110 // 107), YES]


def test_the_trail_reaches_back_one_day_and_no_further() -> None:
    at = desk()
    standing = Standing.initial(1)
    for tick in range(3 * DAY):
        standing = standing.seen(tick, at.state, DAY)
        assert standing.trail[0][0] == max(tick - DAY, 0)
    assert len(standing.trail) == DAY + 1


def both_a_quarter_up(campaign: int) -> tuple[Proposals, Proposals]:
    return wish(BID * 5 // 4, campaign=campaign), wish(BUDGET * 5 // 4, Knob.BUDGET, campaign=campaign)


def test_an_exposure_cap_needs_a_mandate_on_both_knobs_and_is_kept_by_later_ones() -> None:
    run = campaign_set((1, 1, 1))
    limits = Limits.of(run).with_mandate(np.array([0, 1]), (Knob.BID,), exposure_cap=400_000)
    limits = limits.with_mandate(np.array([1]), (Knob.BUDGET,), exposure_cap=300_000)
    limits = limits.with_mandate(np.array([2]), (Knob.BID, Knob.BUDGET))
    assert limits.exposure is not None
    assert (limits.exposure.tolist(), limits.exposure.dtype) == ([400_000, 300_000, 953_125], np.int64)
    at = Desk(run, limits=limits)
    bundles = [bundle for place in range(3) for bundle in both_a_quarter_up(place)]
    assert answer(at, *bundles, granted=[True] * 6) == [
        no(Reason.JOINT_EXPOSURE),  # the mandate covers one of its knobs only
        YES,
        no(Reason.JOINT_EXPOSURE, BID * 130 // 125),
        YES,
        YES,
        YES,
    ]


def test_a_mandate_without_a_cap_of_one_campaign_hides_no_other() -> None:
    run = campaign_set((1, 1))
    at = Desk(run, limits=Limits.of(run).with_mandate(np.array([0]), (Knob.BID, Knob.BUDGET)))
    bundles = [bundle for place in range(2) for bundle in both_a_quarter_up(place)]
    assert answer(at, *bundles, granted=[True] * 4) == [YES, YES, no(Reason.JOINT_EXPOSURE), YES]
