"""What the ledger's words mean, in sentences that a person reads: in a story, a report, a table of alerts."""

from __future__ import annotations

from engine.alerts import AlertKind
from engine.judgement import EXPLANATIONS

SENTENCES = {reason.name.lower(): sentence for reason, sentence in EXPLANATIONS.items()}
"""The guard's reasons."""

ANSWERS = {
    "nothing_pending": "nothing was waiting",
    "proposer_cannot_approve": "the proposer cannot approve",
    "account_frozen": "the account is frozen",
    "knob_frozen": "the knob is frozen",
    "already_asked": "somebody asked for it at the same moment",
    "breaker_open": "the breaker is open",
    "limits_changed": "the limits changed meanwhile",
    "unknown_person": "this run knows no such person",
    "unknown_campaign": "there is no such campaign",
    "needs_audiences": "an edit of modifiers names its audiences",
    "needs_role_approver": "this takes an approver",
    "needs_role_operator": "this takes an operator",
    "unknown_action": "no such action is in reach",
    "already_rolled_back": "it was rolled back already",
    "is_a_rollback": "a rollback is not rolled back",
    "later_change": "a later change stands upon it",
    "later_edit": "a person's later edit stands upon it",
    "profit": "profit per opportunity",
    "spend_rate": "it spends faster than it can explain",
    "no_conversions": "conversions were due and none came",
    "nothing_differs": "its knobs are back already",
    "lease_lost": "the lease was lost",
}
"""Answers to commands, and what verdicts and alerts rest on."""

WATCHES = {
    "opened": "opened",
    "begun": "opened, over the episode that begins with it",
    "rolls_back": "roll back",
    "rolled_back": "rolled back",
    "blocked": "its rollback is blocked",
    "kept": "keep",
    "no_data": "keep, without data to tell",
    "superseded": "ended without a verdict, since the campaign was changed meanwhile",
}
"""What is told of watches."""

ALERTS = {
    AlertKind.ROLLBACK_BLOCKED.value: "a rollback is blocked",
    AlertKind.BREAKER_OPEN.value: "the breaker is open: proposals are recorded and nothing is applied",
    AlertKind.LIMITS_UNREADABLE.value: "the limits cannot be read",
    AlertKind.LEASE_LOST.value: "the lease was not renewed",
    AlertKind.POLICY_SUSPENDED.value: "a policy is suspended",
    AlertKind.STATE_DIFFERS.value: "a control differs from what was set",
}

HELD_AGAINST = {
    "split": "creatives side by side",
    "siblings": "against untouched siblings",
    "history": "against its own history",
}
"""What a watch compares with."""

PREDICTED_BY = {"trial": "by a trial in the twin", "record": "by what it spent before"}


def explained(word: str) -> str:
    """A reason, answer or cause as a sentence; a lone word that nothing is known of, without its underscores."""
    known = SENTENCES.get(word) or ANSWERS.get(word)
    return known or (word.replace("_", " ") if word.replace("_", "").isalnum() else word)


def of_watch(event: str, why: str, control: str = "") -> str:
    """What a watch says, what its verdict rests on and why."""
    against = f" ({HELD_AGAINST.get(control, control)})" if control and event in {"rolls_back", "kept"} else ""
    return WATCHES.get(event, explained(event)) + against + (f": {explained(why)}" if why else "")


def of_alert(kind: str, knob: str | None, label: str) -> str:
    """What an alert says is wrong."""
    about = "".join(f" ({word})" for word in (knob, label) if word)
    return ALERTS.get(kind, explained(kind)) + about
