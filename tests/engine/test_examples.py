"""The examples of the specification's section on the guard, and the test that each of them is.

Those on events, alerts, recommendations and the rules that are still to come stand with what they are about.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

EXAMPLES = {
    "bid → NaN, inf, −1, “25”, 10³⁰": "test_a_bid_that_is_no_amount_of_money",
    "bid → 0": "test_a_scalar_is_never_set_to_0",
    "1,000,000 → 1,250,000 passes, one more does not; 750,000 passes, one less does not": (
        "test_an_automatic_step_is_at_most_a_quarter"
    ),
    "+24 % by the policy, then by a rule, then by reallocation in one round → one change": (
        "test_24_percent_by_policy_then_rule_then_script_in_one_round_is_one_change"
    ),
    "hourly +25 % for a day → stops at 3 × the anchor": "test_hourly_25_percent_for_a_day_stops_at_3_times_the_anchor",
    "bid, budget and audience each +25 % in one bundle → joint exposure": (
        "test_bid_budget_and_audience_each_plus_25_percent_in_one_bundle_are_judged_by_their_joint_exposure"
    ),
    "two proposals from one version → one applies, one is stale": (
        "test_two_proposals_from_one_version_and_one_applies_the_other_is_stale"
    ),
    "approval after the knob moved → stale": "test_an_approval_after_the_knob_moved_is_stale",
    "approved twice → one effect": "test_approved_twice_has_one_effect",
    "proposer approves → refused": "test_the_proposer_cannot_approve_and_somebody_else_still_can",
    "crash after the intent": "test_crash_after_the_intent",
    "crash after the apply": "test_crash_after_the_apply",
    "crash in the middle of a bundle": "test_crash_in_the_middle_of_a_bundle",
    "flipped byte in the ledger → opens read-only, says where": (
        "test_any_byte_of_any_record_is_found_and_the_writer_refuses"
    ),
    "two writers on one ledger → the second fails": "test_two_writers_on_one_ledger_the_second_fails",
    "−25 % rolled back (needs +33.3 %) → allowed": (
        "test_25_percent_down_rolled_back_needs_33_percent_up_and_is_allowed"
    ),
    "rollback of a rollback → refused": "test_a_rollback_of_a_rollback_is_refused",
    "the limits file unreadable at reload → last good limits, alert": (
        "test_the_limits_file_unreadable_at_reload_keeps_the_last_good_limits_and_opens_an_alert"
    ),
    "the limits file unreadable at start → no automatic mode": (
        "test_the_limits_file_unreadable_at_start_means_no_automatic_mode"
    ),
    "disk full → nothing applied, frozen": "test_disk_full_nothing_is_applied_and_nothing_begins_until_it_is_mended",
    "conversions missing only because they are young → no verdict": (
        "test_conversions_missing_only_because_they_are_young_give_no_verdict"
    ),
    "deny wins a race": "test_deny_wins_a_race_whatever_the_order_they_came_in",
    "[0.5, 0.5] → [1, 0] → offers [0.75, 0.25]": "test_half_and_half_to_all_and_nothing_offers_three_quarters",
    "the agent emits out-of-range actions 100 times in a row → it is suspended and the fallback policy bids": (
        "test_100_out_of_range_actions_in_a_row_suspend_the_agent_and_the_fallback_policy_bids"
    ),
}


@cache
def names() -> frozenset[str]:
    """Every test function there is."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in TESTS.rglob("test_*.py"))
    return frozenset(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_a_test(example: str) -> None:
    assert EXAMPLES[example] in names()
