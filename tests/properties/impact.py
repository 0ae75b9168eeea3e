"""High impact once more, in the plainest way: the law's text over what was spent, one case after the other.

`engine.impact` and `engine.guard` judge columns; here is what they have to agree with, and nothing of theirs is used.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil

import numpy as np

from engine.actions import Actions, Knob, Source
from engine.campaigns import SCALARS
from engine.units import Int64
from tests.properties.account import Account, Seen

PPM = 1_000_000
LEARNING_DAYS, LEARNING_CLICKS = 3, 50
ROLLBACK_DAYS = SPEND_DAYS = 7
MOST_CAMPAIGNS = 3


def why_high(before: Account, after: Account, rows: Actions, together: int) -> list[str]:
    """Which rules make a change of one knob one of high impact; `together` campaigns changed in its round.

    The predicted change is rounded to micros, hence the one that is allowed above the fiftieth.
    """
    campaign = int(rows.campaign[0])
    account, change = spend_per_day(after), predicted(before, after, rows)
    unknown = account is None or change is None
    rules = {
        "more than three campaigns": together > MOST_CAMPAIGNS,
        "learning phase": learning(after, campaign),
        "a rollback within the week": rolled_back_lately(before, after, campaign),
        "a creative that was never shown": ((rows.knob == Knob.WEIGHTS) & (rows.old == 0) & (rows.new > 0)).any(),
        "an audience that was no target": ((rows.knob == Knob.MODIFIERS) & (rows.old == 0)).any(),
        "a large step of a large campaign": campaign in largest_fifth(after) and step(rows) > Fraction(15, 100),
        "unknown": unknown,
        "more than 2 % of the account's spend": not unknown and change >= int(account.sum()) // 50 + 1,
    }
    return [rule for rule, holds in rules.items() if holds]


def learning(account: Account, campaign: int) -> bool:
    """In the first three days, or with fewer than 50 clicks so old that their conversions have come."""
    limits = account.limits
    horizon = limits.day if limits.delay_horizon is None else limits.delay_horizon
    mature = so_long_ago(account, horizon)
    days = Fraction(account.tick + 1, limits.day)
    return days < LEARNING_DAYS or mature is None or mature.clicks[campaign] < LEARNING_CLICKS


def rolled_back_lately(before: Account, after: Account, campaign: int) -> bool:
    """Whether anything of a campaign was rolled back less than seven days ago."""
    return any(
        after.tick - tick < ROLLBACK_DAYS * after.limits.day
        and ((rows.campaign == campaign) & (rows.source == Source.ROLLBACK)).any()
        for tick, rows in before.past.applied
    )


def largest_fifth(account: Account) -> set[int]:
    """The fifth of the campaigns that spent most over the last seven days, or since the beginning."""
    now = account.past.seen[-1].spend
    then = so_long_ago(account, SPEND_DAYS * account.limits.day)
    spent = now if then is None else now - then.spend
    order = sorted(range(len(spent)), key=lambda campaign: (-spent[campaign], campaign))
    return {campaign for campaign in order[: ceil(len(spent) / 5)] if spent[campaign] > 0}


def step(rows: Actions) -> Fraction:
    """By which part a scalar moves, of modifiers the largest; or which part of its mass a vector does."""
    if rows.knob[0] in SCALARS or rows.knob[0] == Knob.MODIFIERS:
        return max(abs(ratio - 1) for ratio in ratios(rows))
    return Fraction(int(np.maximum(rows.new - rows.old, 0).sum()), PPM) if rows.knob[0] == Knob.WEIGHTS else Fraction(0)


def ratios(rows: Actions) -> list[Fraction]:
    """New by old of every row; an audience that was no target comes from nothing."""
    pairs = zip(rows.new.tolist(), rows.old.tolist(), strict=True)
    return [Fraction(new, old) if old else Fraction(10**6) for new, old in pairs]


def spend_per_day(account: Account) -> Int64 | None:
    """What every campaign spent per day over the last day."""
    day, now = account.limits.day, account.past.seen[-1]
    then = so_long_ago(account, day)
    return None if then is None else (now.spend - then.spend) * day // (now.tick - then.tick)


def so_long_ago(account: Account, ticks: int) -> Seen | None:
    """What had been spent so many ticks ago or, since it is kept a quarter of a day apart, somewhat earlier."""
    zero = np.zeros(len(account.rules.campaigns), dtype=np.int64)
    kept = [Seen(-1, zero, zero)]
    for seen in account.past.seen:
        if seen.tick - kept[-1].tick >= max(account.limits.day // 4, 1):
            kept.append(seen)
    return next((seen for seen in reversed(kept) if seen.tick <= account.tick - ticks), None)


def predicted(before: Account, after: Account, rows: Actions) -> Fraction | None:
    """By how much spend per day changes, as the twin tells; without one, or where several want the knob, the record."""
    told = after.round.judged
    same = (told["campaign"] == rows.campaign[0]) & (told["knob"] == rows.knob[0])
    several = (told["index"][same] == rows.index[0]).sum() > 1
    by = [by_record(before, after, rows)] if several or after.rules.trial is None else []
    if after.rules.trial is not None:
        by.append(by_twin(before, after, rows))
    return min((change for change in by if change is not None), default=None)


def by_twin(before: Account, after: Account, rows: Actions) -> Fraction:
    """The difference that the change alone makes over the next day."""
    assert after.rules.trial is not None
    now = before.controls
    scalar, weights, modifiers, paused = (each.copy() for each in (now.scalar, now.weights, now.modifiers, now.paused))
    campaign, knob = int(rows.campaign[0]), int(rows.knob[0])
    if knob in SCALARS:
        scalar[campaign, knob] = rows.new[0]
    elif knob == Knob.WEIGHTS:
        weights[after.rules.campaigns.creative_start[campaign] + rows.index] = rows.new
    elif knob == Knob.MODIFIERS:
        modifiers[after.rules.campaigns.layout.audience_start[campaign] + rows.index] = rows.new
    else:
        paused[campaign] = rows.new[0]
    changed = replace(now, scalar=scalar, weights=weights, modifiers=modifiers, paused=paused)
    begins, day = after.tick + 1, after.limits.day
    ends = min(begins + day, after.rules.grid.ticks)
    spends, spent = (after.rules.trial.spend(campaign, begins, ends, each) for each in (changed, now))
    return Fraction(abs(spends - spent) * day, ends - begins)


def by_record(before: Account, after: Account, rows: Actions) -> Fraction | None:
    """Spend moves with the third power of what is bid, with a budget that binds, and with the creatives that change."""
    per_day = spend_per_day(after)
    if per_day is None:
        return None
    spend, budget = int(per_day[rows.campaign[0]]), int(before.controls.budget[rows.campaign[0]])
    knob, old, new = rows.knob[0], int(rows.old[0]), int(rows.new[0])
    if knob in {Knob.BID, Knob.MODIFIERS}:
        farthest = max(ratios(rows), key=lambda ratio: abs(ratio**3 - 1))
        if farthest > 1 and not spend:
            return None  # nobody can tell what it would spend
        change = spend * abs(farthest**3 - 1)
        return min(change, Fraction(max(budget - spend, 0))) if farthest > 1 else change
    if knob == Knob.BUDGET and new > old:
        return Fraction(new - old if 10 * spend >= 9 * old else 0)
    if knob == Knob.BUDGET:
        return Fraction(max(spend - new, 0))
    return spend * step(rows) if knob == Knob.WEIGHTS else None
