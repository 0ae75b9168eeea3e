"""High impact: what passes outside mandates by itself, what waits for a person, and what rollbacks leave behind."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.actions import Knob, Proposals, Source
from engine.alerts import AlertKind, Fingerprint
from engine.campaigns import ACCOUNT, ControlState, Period
from engine.events import CLICKS, COUNTS, SPEND
from engine.guard import check
from engine.impact import LEARNING_CLICKS, Basis, Evidence, Spending
from engine.judgement import Impact, Judgement, Outcome, Reason
from engine.ledger import RecordKind, decode_round
from engine.limits import Limits, Window
from engine.messages import Command, CommandKind
from engine.standing import NEVER, Quarantine, Standing
from tests.engine.builders import BID, BUDGET, campaign_set, controls, mandated, vector, wish
from tests.engine.test_optimiser import CAMPAIGNS, Loop, ask, command

DAY = 24
TICK = 10 * DAY - 1
LOW = (Outcome.APPROVED, Reason.NONE)
N = 10
SPEND_A_DAY = BUDGET // 10


def waits(reason: Reason) -> tuple[Outcome, Reason]:
    return Outcome.NEEDS_APPROVAL, reason


class Case:
    """Ten campaigns of two creatives, ten days into a run, with no mandate; the first two spend a little more."""

    def __init__(self, ticks: int = TICK, clicks: int = 1_000, **more: Any) -> None:
        self.campaigns = campaign_set((2,) * N, **more)
        self.state = controls(self.campaigns)
        self.limits = replace(Limits.of(self.campaigns), day=DAY)
        self.standing = Standing.initial(N)
        self.spend = np.full(N, SPEND_A_DAY)
        self.spend[:2] += 10
        self.spending = Spending.initial(N)
        for tick in range(ticks + 1):
            lifetime = np.zeros((N, len(COUNTS)), dtype=np.int64)
            lifetime[:, SPEND] = self.spend * (tick + 1) // DAY
            lifetime[:, CLICKS] = clicks
            self.spending = self.spending.seen(tick, lifetime, DAY)
        self.tick = ticks
        self.watched: Any = None
        self.tried: Mapping[tuple[int, Knob], int] = {}

    def judge(self, *batches: Proposals, granted: Any = None) -> Judgement:
        return check(
            self.campaigns,
            self.state,
            Proposals.concatenate(batches),
            self.limits,
            sequence=1,
            tick=self.tick,
            granted=granted,
            standing=self.standing,
            evidence=Evidence(self.spending, self.watched, self.tried),
        )

    def ask(self, *batches: Proposals, granted: Any = None) -> list[tuple[Outcome, Reason]]:
        judged = self.judge(*batches, granted=granted)
        pairs = zip(judged.outcome, judged.reason, strict=True)
        return [(Outcome(outcome), Reason(reason)) for outcome, reason in pairs]


def of_three(weights: list[int]) -> Case:
    """The same campaigns of three creatives, all with these weights."""
    case = Case()
    case.campaigns = campaign_set((3,) * N)
    case.limits = replace(Limits.of(case.campaigns), day=DAY)
    case.state = controls(case.campaigns, weights=np.array(weights * N))
    return case


def part(percent: int, campaign: int = 5, knob: Knob = Knob.BID, source: Source = Source.RULE) -> Proposals:
    """A change of a bid or a budget by some percent."""
    old = BID if knob is Knob.BID else BUDGET
    return wish(old + old * percent // 100, knob, source, campaign)


# --- the record ---


def test_the_record_tells_spend_per_day_the_largest_fifth_and_who_is_still_learning() -> None:
    case = Case()
    per_day = case.spending.per_day(DAY)
    assert per_day is not None
    assert per_day.tolist() == case.spend.tolist()
    assert np.flatnonzero(case.spending.large()).tolist() == [0, 1]
    assert not case.spending.learning(DAY, DAY).any()
    assert Case(3 * DAY - 2).spending.learning(DAY, DAY).all()
    assert not Case(3 * DAY - 1).spending.learning(DAY, DAY).any()
    assert Case(clicks=LEARNING_CLICKS - 1).spending.learning(DAY, DAY).all()


def test_before_a_day_has_passed_spend_is_not_known() -> None:
    assert Case(DAY - 2).spending.per_day(DAY) is None
    assert Case(DAY - 1).spending.per_day(DAY) is not None


def test_the_record_reaches_back_a_week_in_few_samples() -> None:
    samples = Case(40 * DAY).spending.samples
    assert 40 * DAY - samples[0].tick in range(7 * DAY, 7 * DAY + DAY // 4 + 1)
    assert len(samples) <= 7 * 4 + 2


# --- low impact passes, high impact waits ---


def test_of_low_impact_a_change_outside_mandates_passes_by_itself() -> None:
    case = Case()
    judged = case.judge(part(5))
    # spend follows the third power of the bid: 15.7625 % of a tenth of the account's spend
    assert judged.impacts == (Impact(0, 157_625 * SPEND_A_DAY // 1_000_000, Basis.RECORD),)
    assert judged.approved.rows.new.tolist() == [BID * 105 // 100]


@pytest.mark.parametrize(("percent", "answer"), [(6, LOW), (7, waits(Reason.LARGE_SPEND_CHANGE)), (-7, LOW)])
def test_a_predicted_change_of_spend_above_2_percent_of_the_accounts_waits(
    percent: int, answer: tuple[Outcome, Reason]
) -> None:
    assert Case().ask(part(percent)) == [answer]  # 1.06³ − 1 = 19.1 % of a tenth, 1.07³ − 1 = 22.5 %; 0.93³ = 80.4 %


def test_a_fall_of_spend_counts_as_a_rise_does() -> None:
    assert Case().ask(part(-8)) == [waits(Reason.LARGE_SPEND_CHANGE)]


def test_what_the_twin_tells_goes_before_the_record() -> None:
    case = Case()
    case.tried = {(5, Knob.BID): int(case.spend.sum()) // 50}
    judged = case.judge(part(20))
    assert (judged.impacts, judged.count(Outcome.APPROVED)) == (
        (Impact(0, int(case.spend.sum()) // 50, Basis.TRIAL),),
        1,
    )
    case.tried = {(5, Knob.BID): int(case.spend.sum()) // 50 + 1}
    assert case.ask(part(5)) == [waits(Reason.LARGE_SPEND_CHANGE)]


def test_what_the_twin_tells_of_one_knob_is_told_of_no_other() -> None:
    case = Case()
    case.tried = {(5, Knob.BID): 7}
    judged = case.judge(part(1), part(1, knob=Knob.BUDGET), part(5, campaign=4))
    by_record = 157_625 * SPEND_A_DAY // 1_000_000  # 1.05³ − 1
    assert judged.impacts == (
        Impact(0, 7, Basis.TRIAL),
        Impact(1, 0, Basis.RECORD),
        Impact(2, by_record, Basis.RECORD),
    )


def test_a_budget_that_does_not_bind_moves_nothing_and_one_that_binds_all_of_it() -> None:
    case = Case()
    assert case.judge(part(25, knob=Knob.BUDGET)).impacts == (Impact(0, 0, Basis.RECORD),)
    case.state = controls(case.campaigns, budget=SPEND_A_DAY)
    wanted = wish(SPEND_A_DAY * 125 // 100, Knob.BUDGET, Source.RULE, 5)
    assert case.judge(wanted).impacts == (Impact(0, SPEND_A_DAY // 4, Basis.RECORD),)
    assert case.ask(wanted) == [waits(Reason.LARGE_SPEND_CHANGE)]
    cut = wish(SPEND_A_DAY * 75 // 100, Knob.BUDGET, Source.RULE, 5)
    assert case.judge(cut).impacts == (Impact(0, -SPEND_A_DAY // 4, Basis.RECORD),)


def test_what_cannot_be_computed_is_high() -> None:
    flight = Case(period=Period.FLIGHT)
    assert flight.ask(part(1, knob=Knob.BUDGET)) == [waits(Reason.OUTSIDE_MANDATE)]
    case = Case()
    case.state = replace(case.state, paused=np.ones(N, dtype=np.bool_))
    assert case.ask(wish(0, Knob.PAUSED, Source.RULE, 5)) == [waits(Reason.OUTSIDE_MANDATE)]
    assert case.ask(wish(0, Knob.PAUSED, Source.RULE, 0)) == [waits(Reason.OUTSIDE_MANDATE)]  # one of the largest
    case.limits = replace(case.limits, day=0)
    assert case.ask(part(1)) == [waits(Reason.OUTSIDE_MANDATE)]


def test_without_evidence_everything_outside_mandates_is_high() -> None:
    case = Case()
    judged = check(case.campaigns, case.state, part(1), case.limits, sequence=1, tick=TICK)
    assert (judged.outcome.tolist(), judged.reason.tolist()) == ([Outcome.NEEDS_APPROVAL], [Reason.OUTSIDE_MANDATE])
    assert judged.impacts == ()


def test_of_a_campaign_that_spends_nothing_nobody_can_tell_what_a_higher_bid_would_bring() -> None:
    case = Case()
    now = case.spending.now
    spent = case.spending.samples[0].counts[5, 0]
    for each in (now, *case.spending.samples):
        each.counts[5, 0] = spent
    assert case.ask(part(1)) == [waits(Reason.OUTSIDE_MANDATE)]
    assert case.judge(part(1)).impacts == (Impact(0, None, Basis.NONE),)
    assert case.ask(part(-1)) == [LOW]
    case.tried = {(5, Knob.BID): 0}
    assert case.ask(part(1)) == [LOW]


def test_a_campaign_in_its_learning_phase_waits_whatever_little_is_asked() -> None:
    for case in (Case(3 * DAY - 2), Case(clicks=LEARNING_CLICKS - 1), Case(2)):
        assert case.ask(part(1)) == [waits(Reason.LEARNING_PHASE)]


def test_while_all_clicks_are_younger_than_the_delay_horizon_a_campaign_is_learning() -> None:
    case = Case()
    case.limits = replace(case.limits, delay_horizon=5 * DAY)
    assert case.ask(part(1)) == [LOW]
    case.limits = replace(case.limits, delay_horizon=TICK + 1)
    assert case.ask(part(1)) == [waits(Reason.LEARNING_PHASE)]


def test_a_step_of_more_than_15_percent_on_one_of_the_largest_fifth_waits() -> None:
    case = Case()
    case.tried = dict.fromkeys(((0, Knob.BID), (5, Knob.BID)), 0)
    assert case.ask(part(15, campaign=0)) == [LOW]
    assert case.ask(part(16, campaign=0)) == [waits(Reason.LARGE_CAMPAIGN)]
    assert case.ask(part(16, campaign=5)) == [LOW]
    case.tried = {(0, Knob.BUDGET): 0}
    assert case.ask(part(15, 0, Knob.BUDGET)) == [LOW]
    assert case.ask(part(16, 0, Knob.BUDGET)) == [waits(Reason.LARGE_CAMPAIGN)]
    moved = vector([650_001, 349_999], Source.RULE)
    case.tried = {(0, Knob.WEIGHTS): 0}
    assert case.ask(moved) == [waits(Reason.LARGE_CAMPAIGN)] * 2
    assert case.ask(vector([650_000, 350_000], Source.RULE)) == [LOW] * 2


def test_more_than_three_campaigns_at_once_wait_all_of_them() -> None:
    case = Case()
    four = [part(1, campaign) for campaign in (3, 4, 5, 6)]
    assert case.ask(*four[:3]) == [LOW] * 3
    assert case.ask(*four) == [waits(Reason.MANY_CAMPAIGNS)] * 4


def test_a_vector_is_a_large_step_as_a_whole() -> None:
    case = of_three([400_000, 300_000, 300_000])
    case.tried = {(0, Knob.WEIGHTS): 0}
    assert case.ask(vector([480_000, 370_001, 149_999], Source.RULE)) == [waits(Reason.LARGE_CAMPAIGN)] * 3
    assert case.ask(vector([480_000, 370_000, 150_000], Source.RULE)) == [LOW] * 3


def test_a_vector_and_a_bid_of_one_round_are_judged_each_by_its_own_step() -> None:
    assert Case().ask(vector([600_000, 400_000], Source.RULE, 4), part(5)) == [LOW] * 3
    assert Case().ask(vector([600_000, 400_000], Source.RULE, 4), part(7)) == [
        LOW,
        LOW,
        waits(Reason.LARGE_SPEND_CHANGE),
    ]


def test_a_creative_that_was_never_shown_waits() -> None:
    case = Case()
    case.state = controls(case.campaigns, weights=np.array([1_000_000, 0] * N))
    assert case.ask(vector([999_999, 1], Source.RULE, 5)) == [waits(Reason.EXTRAPOLATION)] * 2
    assert case.ask(vector([900_000, 100_000], Source.RULE, 5)) == [waits(Reason.EXTRAPOLATION)] * 2


def test_a_creative_that_stays_unshown_is_no_extrapolation() -> None:
    case = Case()
    case.state = controls(case.campaigns, weights=np.array([1_000_000, 0] * N))
    person = vector([1_000_000, 0], Source.PERSON, 5)
    assert case.judge(person).count(Outcome.APPROVED) == 0  # no change at all
    case = of_three([600_000, 400_000, 0])
    assert case.ask(vector([580_000, 420_000, 0], Source.RULE, 5)) == [LOW] * 3
    assert case.ask(vector([580_000, 400_000, 20_000], Source.RULE, 5)) == [waits(Reason.EXTRAPOLATION)] * 3


def test_weights_move_at_most_their_part_of_the_spend() -> None:
    judged = Case().judge(vector([600_000, 400_000], Source.RULE, 5))
    assert judged.impacts == tuple(Impact(row, SPEND_A_DAY // 10, Basis.RECORD) for row in (0, 1))


def test_for_a_week_after_a_rollback_a_campaign_waits() -> None:
    case = Case()
    case.standing.rolled_back_at[5] = TICK - 7 * DAY + 1
    assert case.ask(part(1)) == [waits(Reason.AFTER_ROLLBACK)]
    case.standing.rolled_back_at[5] = TICK - 7 * DAY
    assert case.ask(part(1)) == [LOW]


def test_low_impact_lifts_no_other_law() -> None:
    case = Case()
    case.tried = {(5, Knob.BID): 0}
    assert case.ask(part(26)) == [(Outcome.REFUSED, Reason.STEP)]
    case.standing.edited_at[5, Knob.BID] = TICK - 1
    assert case.ask(part(1)) == [(Outcome.REFUSED, Reason.PERSONS_HOLD)]


def test_a_mandate_needs_no_low_impact() -> None:
    case = Case(2)
    case.limits = replace(mandated(case.campaigns), day=DAY)
    judged = case.judge(*[part(25, campaign) for campaign in range(N)])
    assert (judged.count(Outcome.APPROVED), judged.impacts) == (N, ())


# --- windows, and knobs under watch ---


def test_a_window_bounds_the_net_rise_of_a_knob_and_no_fall() -> None:
    case = Case()
    case.limits = replace(mandated(case.campaigns), day=DAY, windows=(Window(Knob.BID, 6, 300_000),))
    past = controls(case.campaigns, bid=BID * 10 // 12)
    case.standing = case.standing.seen(TICK - 7, past, DAY).seen(TICK - 5, case.state, DAY).seen(TICK, case.state, DAY)
    most = int(BID * 10 // 12 * 1.3)
    assert case.ask(wish(most)) == [LOW]
    assert case.ask(wish(most + 1)) == [(Outcome.REFUSED, Reason.WINDOW)]
    assert case.ask(wish(BID * 3 // 4)) == [LOW]
    assert case.ask(wish(BUDGET * 5 // 4, Knob.BUDGET)) == [LOW]
    assert case.ask(wish(most + 1, source=Source.PERSON)) == [LOW]


def test_a_knob_under_watch_rests_outside_mandates() -> None:
    case = Case()
    case.watched = np.zeros((N, len(Knob)), dtype=np.bool_)
    case.watched[5, Knob.BID] = True
    resting = (Outcome.REFUSED, Reason.COOLDOWN)
    assert case.ask(part(1)) == case.ask(part(1), granted=np.array([True])) == [resting]
    assert case.ask(part(1, knob=Knob.BUDGET)) == case.ask(part(-1)) == [LOW]
    case.limits = replace(mandated(case.campaigns), day=DAY)
    assert case.ask(part(1)) == [LOW]


# --- what rollbacks leave behind ---


def rolled_back(case: Case, done: Proposals, *, mandated_: bool = False, at: int = TICK) -> None:
    """Let an action be applied and rolled back."""
    rows = case.judge(done, granted=np.ones(len(done), dtype=np.bool_)).approved.rows
    undo = replace(rows, source=np.full(len(rows), Source.ROLLBACK, dtype=np.uint8))
    case.standing = case.standing.after(at, undo, np.zeros(len(rows), dtype=np.bool_), DAY)
    case.standing = case.standing.quarantined(at, [(rows, mandated_)], DAY)


def test_what_was_rolled_back_and_anything_beyond_is_not_proposed_again_for_a_fortnight() -> None:
    case = Case()
    rolled_back(case, part(10))
    quarantined = (Outcome.REFUSED, Reason.QUARANTINED)
    for percent, answer in ((10, quarantined), (12, quarantined), (9, (Outcome.REFUSED, Reason.COOLDOWN)), (-1, None)):
        assert case.ask(part(percent)) == [answer or waits(Reason.AFTER_ROLLBACK)]
    assert case.ask(part(10, campaign=4)) == [waits(Reason.LARGE_SPEND_CHANGE)]
    case.tick += 14 * DAY - 1
    assert case.ask(part(10)) == [quarantined]
    case.tick += 1
    assert case.ask(part(10)) != [quarantined]


def test_each_of_several_quarantines_holds_and_a_persons_yes_lifts_one() -> None:
    case = Case()
    rolled_back(case, part(10, 3), at=TICK - 14 * DAY)
    rolled_back(case, part(10, 4))
    rolled_back(case, part(10, 5))
    quarantined = (Outcome.REFUSED, Reason.QUARANTINED)
    case.standing = case.standing.closed()
    assert case.ask(part(10, 4)) == case.ask(part(10, 5)) == [quarantined]
    assert case.ask(part(10, 3)) != [quarantined]  # its fortnight is over
    case.tick += 2 * DAY  # the knobs have cooled down
    assert case.ask(part(10, 5), granted=np.array([True])) == [LOW]


def test_a_quarantine_that_is_over_lifts_none_that_comes_after_it() -> None:
    case = Case()
    over, other = (Quarantine(place, Knob.BID, BID, (BID * 11 // 10,), TICK + place - 3) for place in (3, 4))
    case.standing = replace(case.standing, quarantine=(over, other))
    refused = (Outcome.REFUSED, Reason.QUARANTINED)
    assert case.ask(part(10, 3), part(10, 4)) == [waits(Reason.LARGE_SPEND_CHANGE), refused]


def test_what_comes_in_one_round_with_the_quarantined_is_not_refused_for_it() -> None:
    refused = (Outcome.REFUSED, Reason.QUARANTINED)
    for knob, values, rows in (
        (Knob.BID, (BID * 11 // 10,), part(10)),
        (Knob.WEIGHTS, (600_000, 400_000), vector([600_000, 400_000], Source.RULE, 5)),
    ):
        case = Case()
        case.standing = replace(case.standing, quarantine=(Quarantine(5, knob, BID, values, TICK + 1),))
        another = wish(BUDGET * 11 // 10, Knob.BUDGET, Source.RULE, 4)
        assert case.ask(rows, another) == [refused] * len(rows) + [LOW]


def test_a_quarantined_vector_is_compared_with_no_larger_campaigns() -> None:
    case = Case()
    case.campaigns = campaign_set((4, *(2,) * (N - 1)))
    case.limits, case.state = replace(Limits.of(case.campaigns), day=DAY), controls(case.campaigns)
    quarantine = (Quarantine(5, Knob.WEIGHTS, 0, (600_000, 400_000), TICK + 1),)
    case.standing = replace(case.standing, quarantine=quarantine)
    rows = vector([600_000, 400_000], Source.RULE, 5), vector([250_001, 249_999, 250_001, 249_999], Source.RULE)
    assert case.ask(*rows) == [(Outcome.REFUSED, Reason.QUARANTINED)] * 2 + [LOW] * 4


def test_a_fall_that_was_rolled_back_is_quarantined_downwards() -> None:
    case = Case()
    rolled_back(case, part(-5))
    assert case.ask(part(-5)) == case.ask(part(-6)) == [(Outcome.REFUSED, Reason.QUARANTINED)]
    assert case.ask(part(-4)) == [waits(Reason.AFTER_ROLLBACK)]


def test_a_vector_that_was_rolled_back_is_quarantined_as_it_was() -> None:
    case = Case()
    rolled_back(case, vector([600_000, 400_000], Source.RULE, 5))
    case.tick += 2 * DAY  # the cooldown is over
    assert case.ask(vector([600_000, 400_000], Source.RULE, 5)) == [(Outcome.REFUSED, Reason.QUARANTINED)] * 2
    assert case.ask(vector([600_001, 399_999], Source.RULE, 5)) == [waits(Reason.AFTER_ROLLBACK)] * 2


def test_a_vector_that_shares_a_part_with_one_that_was_rolled_back_is_judged_whole() -> None:
    case = Case()
    case.campaigns = campaign_set((3,) * N)
    thirds = np.array([333_334, 333_333, 333_333] * N)
    case.state = controls(case.campaigns, weights=thirds)
    rolled_back(case, vector([400_000, 300_000, 300_000], Source.RULE, 5))
    case.tick += 8 * DAY  # the week in which a person has to approve is over
    case.tried = {(5, Knob.WEIGHTS): 0}
    assert case.ask(vector([400_000, 310_000, 290_000], Source.RULE, 5)) == [LOW] * 3
    assert case.ask(vector([400_000, 300_000, 300_000], Source.RULE, 5)) == [(Outcome.REFUSED, Reason.QUARANTINED)] * 3


def test_a_policys_course_that_was_rolled_back_rests_in_both_directions_as_long_as_the_knob_cools() -> None:
    case = Case()
    case.limits = replace(mandated(case.campaigns), day=DAY)
    rolled_back(case, part(10, source=Source.POLICY), mandated_=True)
    for percent in (-10, 1, 10):
        assert case.ask(part(percent, source=Source.POLICY)) == [(Outcome.REFUSED, Reason.QUARANTINED)]
    assert case.ask(part(-10, source=Source.PERSON)) == [LOW]
    case.tick += DAY
    assert case.ask(part(-10, source=Source.POLICY)) == [LOW]


def test_three_rollbacks_in_a_day_open_the_breaker_and_then_only_people_act() -> None:
    case = Case()
    case.limits = replace(mandated(case.campaigns), day=DAY)
    for campaign, at in ((3, TICK - DAY), (4, TICK - DAY + 1), (5, TICK)):
        rolled_back(case, part(1, campaign), at=at)
    assert case.standing.breaker_since is None  # the first is more than a day ago
    rolled_back(case, part(1, 6), at=TICK)
    assert case.standing.breaker_since == TICK
    stopped = (Outcome.REFUSED, Reason.BREAKER)
    assert case.ask(part(1, 8)) == case.ask(part(-1, 8)) == [stopped]
    assert case.ask(part(1, 8), granted=np.array([True])) == [stopped]
    for free in (part(1, 8, source=Source.PERSON), part(1, 8, source=Source.ROLLBACK), wish(1, Knob.PAUSED)):
        assert case.ask(free) == [LOW]
    case.standing = case.standing.closed()
    assert case.ask(part(1, 8)) == [LOW]


def test_knobs_of_a_campaign_that_go_back_together_are_one_rollback() -> None:
    case = Case()
    both = Proposals.concatenate([part(1, 5), part(1, 5, Knob.BUDGET)])
    rolled_back(case, both)
    assert case.standing.lately == (TICK,)
    assert case.standing.rolled_back_at.tolist() == [NEVER] * 5 + [TICK] + [NEVER] * 4


# --- through the optimiser's machine: a tick is an hour ---


class Halved:
    """A twin in which a campaign spends by the square of its bid."""

    def spend(self, campaign: int, from_tick: int, to_tick: int, controls: ControlState) -> int:
        return int(controls.bid[campaign]) ** 2 // BID * (to_tick - from_tick) // DAY


class Busy(Loop):
    """Two campaigns of which the second spends ten times as much as the first."""

    def happens(self) -> Any:
        counts = np.zeros((1, 3, len(COUNTS)), dtype=np.int64)
        counts[0, 0, (CLICKS, SPEND)] = 10, 200_000
        counts[0, 2, (CLICKS, SPEND)] = 10, 2_000_000
        return counts

    def header(self) -> dict[str, Any]:
        return decode_round(self.records[-1]).header


LATER = 5 * DAY
NO_MANDATE = replace(mandated(CAMPAIGNS), day=DAY, mandate_until=np.full((2, len(Knob)), -1))


def test_the_record_of_a_round_holds_what_was_predicted() -> None:
    loop = Busy({LATER: (ask(BID * 102 // 100),)}, NO_MANDATE)
    loop.go(to=LATER)
    # 4.8 million a day, and 1.02³ − 1 = 6.1208 %
    assert loop.header()["impacts"] == [{"row": 0, "spend_per_day_micros": 293_798, "by": "record"}]
    assert loop.told == [("APPROVED", "NONE")]
    loop.go(to=LATER + 1)
    assert [each["event"] for each in loop.header()["watches"]] == ["opened"]
    loop.close()


def test_what_would_wait_or_pass_is_tried_in_the_twin() -> None:
    loop = Busy({LATER: (ask(BID * 120 // 100),)}, NO_MANDATE)
    loop.machine._trial = Halved()
    loop.go(to=LATER)
    # by the record 72.8 % more, too much of the account; in the twin 440,000
    assert loop.header()["impacts"] == [{"row": 0, "spend_per_day_micros": 440_000, "by": "trial"}]
    assert loop.told == [("APPROVED", "NONE")]


class Steep:
    """A twin in which whatever is raised costs much."""

    def spend(self, campaign: int, from_tick: int, to_tick: int, controls: ControlState) -> int:  # noqa: ARG002
        return 100 * int(controls.bid[campaign]) + int(controls.budget[campaign]) // 10


def test_what_passes_only_because_the_twin_holds_another_change_back_is_tried_too() -> None:
    """By the record both would pass, were they not too much together, so the bid is refused and not tried at first."""
    loop = Busy({LATER: (ask(BID * 106 // 100), ask(BUDGET * 119 // 100, knob=Knob.BUDGET))}, NO_MANDATE)
    loop.go(to=LATER)
    assert loop.told == [("REFUSED", "JOINT_EXPOSURE"), ("APPROVED", "NONE")]
    loop = Busy({LATER: (ask(BID * 106 // 100), ask(BUDGET * 119 // 100, knob=Knob.BUDGET))}, NO_MANDATE)
    loop.machine._trial = Steep()
    loop.go(to=LATER)
    assert [each["by"] for each in loop.header()["impacts"]] == ["trial", "trial"]
    assert loop.told == [("NEEDS_APPROVAL", "LARGE_SPEND_CHANGE")] * 2


def rolls_back(loop: Loop, times: int) -> None:
    """A person edits and takes back, over and over."""
    for time in range(times):
        loop.go(command("edit", f"edit-{time}", values=(BID + 1,)))
        loop.go(command("rollback", f"back-{time}"))
    loop.go()


def test_the_breaker_opens_with_an_alert_outlives_the_process_and_a_person_closes_it() -> None:
    loop = Busy({}, NO_MANDATE)
    rolls_back(loop, 3)
    about = Fingerprint(AlertKind.BREAKER_OPEN)
    opened = loop.machine.state.standing.breaker_since
    assert (opened is not None, loop.header()["breaker"]) == (True, True)
    assert [(each["alert"], each["event"]) for each in loop.header()["alerts"]] == [("breaker_open", "opened")]
    state = pickle.loads(pickle.dumps(loop.machine.state))  # noqa: S301 - our own bytes
    assert (state.standing.breaker_since, list(state.alerts.since)) == (opened, [about])
    close = Command("close", CommandKind.CLOSE_BREAKER, "dana", ACCOUNT, Knob.PAUSED)
    assert loop.go(replace(close, id="by-nobody", by="nobody")) == ["unknown_person"]
    assert loop.go(close) == ["closed"]
    assert [(each["alert"], each["event"]) for each in loop.header()["alerts"]] == [("breaker_open", "closed")]
    assert (loop.machine.state.standing.breaker_since, loop.header()["breaker"]) == (None, False)
    assert loop.go(replace(close, id="again")) == ["not_open"]
    assert not loop.machine.state.alerts.since
    loop.close()


def test_a_yes_while_the_breaker_is_open_applies_nothing_and_what_waits_goes_on_waiting() -> None:
    loop = Busy({6: (ask(BID * 12 // 10, campaign=1),)}, NO_MANDATE)
    rolls_back(loop, 3)
    assert ("REFUSED", "BREAKER") in loop.told
    assert loop.go(command("approve", campaign=1)) == ["nothing_pending"]
    loop = Busy({0: (ask(BID * 12 // 10, campaign=1),)}, NO_MANDATE)
    rolls_back(loop, 3)
    assert loop.go(command("approve", campaign=1)) == ["breaker_open"]
    assert list(loop.machine.state.desk.pending) == [(1, Knob.BID)]


def test_a_rollback_that_the_guard_refuses_opens_an_alert_until_the_knob_is_set() -> None:
    loop = Busy({}, NO_MANDATE)
    loop.go(command("edit", "low", values=(50_000,), campaign=1))
    loop.go(command("edit", "high", values=(BID,), campaign=1))
    minimum = NO_MANDATE.minimum.copy()
    minimum[1, 0] = 60_000
    loop.machine._limits = replace(NO_MANDATE, minimum=minimum)
    assert loop.go(command("rollback", "back", campaign=1)) == ["refused: hard_minimum"]
    (told,) = loop.header()["alerts"]
    assert (told["alert"], told["event"], told["campaign"], told["knob"], told["why"]) == (
        "rollback_blocked",
        "opened",
        1,
        0,
        "hard_minimum",
    )
    loop.go(command("edit", "mended", values=(70_000,), campaign=1))
    loop.go()
    assert [each["event"] for each in loop.header()["alerts"]] == ["closed"]
    assert loop.records[-1].kind is RecordKind.ROUND


def test_two_people_who_take_the_same_vector_back_at_once_take_it_back() -> None:
    loop = Busy({}, NO_MANDATE)
    shares = [500_000, 500_000]
    about = {"campaign": 1, "knob": Knob.WEIGHTS}
    assert loop.controls.weights[1:].tolist() == shares
    loop.go(command("edit", "edit", values=(900_000, 100_000), **about))
    asked = [command("rollback", name, **about) for name in ("first", "second")]
    assert loop.go(*asked) == ["approved", "already_asked"]
    assert loop.header()["alerts"] == []
    loop.go()
    assert loop.controls.weights[1:].tolist() == shares
