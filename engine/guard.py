"""The safety guard: judges every proposed change, and alone makes the permission to apply one.

`check` is pure and has no switch that turns it off; whatever it cannot judge it refuses. Three laws apply to automatic
changes, in integers: a scalar moves by at most a quarter of the value in force (`4·|new − old| ≤ old`), it stays within
the anchor band around the last value a person set, and a vector of shares moves by a total variation of at most 250,000
ppm. Hard bounds hold for everybody. Outside a mandate an automatic change of high impact waits for a person's approval,
and so does one whose impact is not known.

The modifier of an audience is a scalar, and those of a campaign are one knob: what one party wants of several audiences
in a round is one change, whose rows stand or fall together. Which audiences are targets at all is for people to decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.actions import ROW_BITS, Actions, Approved, Flaw, Knob, Proposals, Source, wanted_values
from engine.campaigns import SCALARS, CampaignSet, ControlState, Layout, most_bid, sizes_of, value_in_force
from engine.impact import SPEND_PER_BID, UNKNOWN, WEEK_DAYS, Basis, Evidence, predicted_by_record
from engine.judgement import NO_OFFER, Impact, Judgement, Outcome, Reason
from engine.limits import BANDED, Limits
from engine.standing import Standing
from engine.units import PPM, Bool, Int64

MAX_TOTAL_VARIATION = 250_000
MAX_EXPOSURE = 250_000
"""By how much, in ppm, a campaign's exposure may rise in one round from several knobs outside mandates."""
ACCOUNT_RISE_PART = 10
"""Budgets may rise, net and automatically, by this part of the account within a day."""
HIGH_SPEND_PART = 50
"""A predicted change of spend per day is high above this part of the account's: 2 %."""
LARGE_STEP_PERCENT = 15
"""A step of a large campaign above this needs a person."""
MOST_CAMPAIGNS = 3
"""So many campaigns may change outside mandates in one round without a person."""
FIRST_MODIFIER = PPM
"""The most, in ppm, at which an audience may become a target by approval."""
_PARTIES = len(Source)
_BAND_OF_MODIFIERS = BANDED.index(Knob.MODIFIERS)


@dataclass
class _Case:
    """A batch under judgement: int64 columns, and the reason found so far for each row.

    `party` orders who is heard first: what a person has granted, then the sources by rank.
    """

    campaign: Int64
    knob: Int64
    index: Int64
    wanted: Int64
    party: Int64
    old: Int64
    reason: NDArray[Any]
    offer: Int64

    def refuse(self, rows: Bool, reason: Reason) -> None:
        """Give rows that have no reason yet this one."""
        self.reason[rows & (self.reason == Reason.NONE)] = reason

    @property
    def open(self) -> Bool:
        """Rows against which nothing was found so far."""
        found_nothing: Bool = self.reason == Reason.NONE
        return found_nothing

    @property
    def free(self) -> Bool:
        """Rows exempt from step, band and mandate: a person's own edit, and a rollback."""
        free: Bool = self.source <= Source.ROLLBACK
        return free

    @property
    def lowering(self) -> Bool:
        """Rows that lower exposure: a lower bid, budget or modifier."""
        scalar: Bool = (self.knob < len(SCALARS)) | (self.knob == Knob.MODIFIERS)
        return scalar & (self.wanted < self.old)

    @property
    def change(self) -> Int64:
        """One number for what a party wants of a campaign's knob: the rows of a vector share it."""
        change: Int64 = (self.campaign * 2 * _PARTIES + self.party) * len(Knob) + self.knob
        return change

    @property
    def source(self) -> Int64:
        """Who proposes, as a `Source`."""
        source: Int64 = self.party % _PARTIES
        return source


def check(
    campaigns: CampaignSet,
    state: ControlState,
    proposed: Proposals,
    limits: Limits,
    *,
    sequence: int,
    tick: int,
    granted: Bool | None = None,
    frozen: bool | Bool = False,
    standing: Standing | None = None,
    evidence: Evidence | None = None,
) -> Judgement:
    """Judge every row against the controls in force and the limits.

    Parameters
    ----------
    sequence:
        Ledger sequence of the round; it numbers the actions.
    tick:
        The tick that just closed; mandates are checked against it.
    granted:
        bool[rows], rows that a person has approved. They need no mandate, and pass every other law as any row does.
    frozen:
        Whether the account is frozen, or bool[n, 5], which knobs are: there only pauses and rollbacks are judged.
    standing:
        What happened before, as far as a limit looks at it; None: nothing did.
    evidence:
        What is known of the campaigns; None: nothing is, so whatever is outside mandates waits for a person.
    """
    proposed = _readable(proposed)
    granted = np.zeros(len(proposed), dtype=np.bool_) if granted is None else granted
    standing = Standing.initial(len(campaigns)) if standing is None else standing
    case = _open_case(campaigns, state, proposed, granted)
    pauses = (case.knob == Knob.PAUSED) & (case.wanted == 1)
    if np.any(frozen):
        stopped = np.broadcast_to(frozen, (len(campaigns), len(Knob)))[case.campaign, case.knob]
        case.refuse(stopped & ~pauses & (case.source != Source.ROLLBACK), Reason.FROZEN)
    _check_switches(case)
    _check_scalars(case, campaigns.layout, state, limits)
    _check_vectors(case, campaigns)
    _check_modifiers(case, campaigns.layout, state, limits)
    mandated = in_mandate(case, limits, tick)
    permitted = granted | case.free | pauses
    if limits.automatic:
        permitted |= mandated
    _check_breaker(case, standing, pauses)
    _check_holds(case, standing, limits, tick, spared=pauses | granted)
    _check_quarantine(case, standing, tick, spared=pauses | granted)
    watched = None if evidence is None else evidence.watched
    _check_cooldowns(case, standing, limits, tick, watched, spared=pauses | case.lowering, mandated=mandated)
    _check_windows(case, standing, limits, tick)
    _stand_together(case)
    high, impacts = _judge_impact(case, state, limits, tick, ~permitted, standing, evidence)
    high[_targets_anew(case)] = Reason.AUDIENCE_SET
    if limits.automatic:
        permitted |= high == Reason.NONE
    else:
        high[:] = Reason.NO_AUTOMATIC_MODE
    order = np.argsort(case.party, kind="stable")
    _one_change_per_knob(case, order, permitted)
    _check_bids_against_budgets(case, permitted)
    _check_bids_against_modifiers(case, limits, permitted)
    _check_joint_exposure(case, limits, permitted, mandated)
    _check_account_budget(case, state, limits, order, permitted)
    _check_account_rise(case, state, limits, order, permitted, standing)
    outcome = np.where(case.open, np.uint8(Outcome.APPROVED), np.uint8(Outcome.REFUSED))
    waiting = case.open & ~permitted
    outcome[waiting] = Outcome.NEEDS_APPROVAL
    case.reason[waiting] = high[waiting]
    approved = _permission(proposed, case.old, outcome == Outcome.APPROVED, sequence)
    return Judgement(proposed, outcome, case.reason, case.old, case.offer, approved, impacts)


def _readable(proposed: Proposals) -> Proposals:
    """The rows with values that the laws can compute with, whoever built the columns."""
    wanted, flaw = wanted_values(proposed.wanted)
    if wanted is proposed.wanted:
        return proposed
    return replace(proposed, wanted=wanted, flaw=np.where(proposed.flaw == Flaw.NONE, flaw, proposed.flaw))


def _open_case(campaigns: CampaignSet, state: ControlState, proposed: Proposals, granted: Bool) -> _Case:
    """Lay the rows out, refusing what names no value or nothing that exists, or stands on an older version."""
    campaign, knob, index = (column.astype(np.int64) for column in (proposed.campaign, proposed.knob, proposed.index))
    reason = np.minimum(proposed.flaw, Flaw.OUT_OF_RANGE).astype(np.uint8)  # flaws and the first reasons share numbers
    source = np.clip(proposed.source, 0, Source.POLICY)
    known = (
        (proposed.source == source)
        & (campaign >= 0)
        & (campaign < len(campaigns))
        & (knob >= 0)
        & (knob < len(Knob))
        & (index >= 0)
    )
    safe = np.where(known, campaign, 0)
    known &= index < sizes_of(campaigns.layout, safe, np.where(known, knob, Knob.PAUSED))
    campaign, knob, index = safe, np.where(known, knob, Knob.PAUSED), np.where(known, index, 0)
    old = value_in_force(campaigns.layout, state, campaign, knob, index)
    offer = np.full(len(proposed), NO_OFFER, dtype=np.int64)
    party = np.where(granted, 0, _PARTIES) + source
    case = _Case(campaign, knob, index, proposed.wanted, party, old, reason, offer)
    case.refuse(~known, Reason.UNKNOWN_TARGET)
    case.refuse(state.version[campaign, knob] != proposed.base_version, Reason.STALE)
    case.refuse((case.wanted == old) & (knob != Knob.WEIGHTS), Reason.NO_OP)
    stray = ~known & (proposed.knob == Knob.MODIFIERS)
    if stray.any():  # they lost their knob; what stands beside an audience that does not exist falls with it
        change = (proposed.campaign.astype(np.int64) * 2 * _PARTIES + party) * len(Knob) + Knob.MODIFIERS
        case.refuse(np.isin(case.change, change[stray]) & (knob == Knob.MODIFIERS), Reason.BESIDE_REFUSED)
    return case


def _check_switches(case: _Case) -> None:
    case.refuse((case.knob == Knob.PAUSED) & (case.wanted > 1), Reason.NOT_A_SWITCH)


def _check_scalars(case: _Case, layout: Layout, state: ControlState, limits: Limits) -> None:
    """Step law, hard bounds, bid <= budget and anchor band of bids and budgets, and the nearest value within all."""
    rows = np.flatnonzero(case.knob < len(SCALARS))
    campaign, knob, wanted, old = case.campaign[rows], case.knob[rows], case.wanted[rows], case.old[rows]
    minimum, maximum = limits.minimum[campaign, knob], limits.maximum[campaign, knob]
    floor = np.where(knob == Knob.BUDGET, state.bid[campaign], 0)
    ceiling = np.where(knob == Knob.BID, state.budget[campaign], maximum)
    of_bids = most_bid(layout.audience_start, state.modifiers, limits.maximum[:, Knob.BID])
    most = np.where(knob == Knob.BID, of_bids[campaign], maximum)
    anchor = state.anchor[campaign, knob]
    laws = _Laws(
        zero=wanted == 0,
        reach=old // 4,  # 4·|new − old| <= old
        hard=(
            (wanted < minimum, Reason.HARD_MINIMUM),
            (wanted > maximum, Reason.HARD_MAXIMUM),
            ((wanted < floor) | (wanted > ceiling), Reason.BID_ABOVE_BUDGET),
            (wanted > most, Reason.BID_TIMES_MODIFIER),
        ),
        low=np.maximum(minimum, floor),
        high=np.minimum(np.minimum(maximum, ceiling), most),
        band_low=_scaled(anchor, limits.band_low[campaign, knob], up=True),
        band_high=_scaled(anchor, limits.band_high[campaign, knob], up=False),
    )
    _hold(case, rows, laws)


class _Laws(NamedTuple):
    """What some rows are held to, each column int64[rows] or bool[rows].

    zero:
        Where 0 is wanted and must not be.
    reach:
        How far an automatic step goes.
    hard:
        Who breaks which of the hard bounds, which hold for everybody.
    low, high:
        The least and the most within all hard bounds.
    band_low, band_high:
        The anchor band.
    """

    zero: Bool
    reach: Int64
    hard: tuple[tuple[Bool, Reason], ...]
    low: Int64
    high: Int64
    band_low: Int64
    band_high: Int64


def _hold(case: _Case, rows: Int64, laws: _Laws) -> None:
    """Refuse rows that break a law, the first of them being told, and offer the nearest value within all."""
    wanted, old, free = case.wanted[rows], case.old[rows], case.free[rows]
    reach, band_low, band_high = laws.reach, laws.band_low, laws.band_high
    beyond = (wanted < band_low) & (wanted < old) | (wanted > band_high) & (wanted > old)
    found = np.zeros(rows.size, dtype=np.uint8)
    for failed, reason in (
        (laws.zero, Reason.ZERO),
        (~free & (np.abs(wanted - old) > reach), Reason.STEP),
        *laws.hard,
        (~free & beyond, Reason.ANCHOR_BAND),
    ):
        found[failed & (found == Reason.NONE)] = reason
    is_open = case.reason[rows] == Reason.NONE
    case.reason[rows[is_open]] = found[is_open]
    if not found.any():
        return
    low = np.where(free, laws.low, np.maximum(laws.low, np.maximum(old - reach, np.minimum(band_low, old))))
    high = np.where(free, laws.high, np.minimum(laws.high, np.minimum(old + reach, np.maximum(band_high, old))))
    nearest = np.clip(wanted, low, high)
    offers = is_open & (found != Reason.NONE) & (low <= high) & (nearest != old)
    case.offer[rows[offers]] = nearest[offers]


def _most_modifier(maximum: Int64, bid: Int64) -> Int64:
    """The highest modifiers, in ppm, that take no bid above its maximum: ⌊10⁶ · maximum / bid⌋, as far as 10¹².

    Divided in two steps of a thousand, so that nothing leaves int64.
    """
    bid = np.maximum(bid, 1)
    whole, rest = np.divmod(maximum, bid)
    thousandths, rest = np.divmod(rest * 1_000, bid)
    most: Int64 = np.minimum(whole, PPM) * PPM + thousandths * 1_000 + rest * 1_000 // bid
    return most


def _check_modifiers(case: _Case, layout: Layout, state: ControlState, limits: Limits) -> None:
    """Step law, hard bounds and anchor band of every audience's modifier; and the bid times it is held as a bid is.

    A person, and a rollback, may set 0: the audience is no target any more. Where it is to be one again there is
    neither a value to step from nor a band, so a cap holds in their place, and a person has to approve.
    """
    rows = np.flatnonzero(case.knob == Knob.MODIFIERS)
    if not rows.size:
        return
    campaign, wanted, old = case.campaign[rows], case.wanted[rows], case.old[rows]
    _, place, times = np.unique(
        case.change[rows] * len(state.modifiers) + case.index[rows], return_inverse=True, return_counts=True
    )
    case.reason[rows[(times[place] > 1) & case.open[rows]]] = Reason.AUDIENCE_TWICE
    minimum, maximum = limits.modifier_bounds[campaign].T
    most = _most_modifier(limits.maximum[campaign, Knob.BID], state.bid[campaign])
    anchor, anew = state.modifier_anchor[layout.audience_start[campaign] + case.index[rows]], old == 0
    band_low, band_high = (
        _scaled(anchor, side[campaign, _BAND_OF_MODIFIERS], up=up)
        for side, up in ((limits.band_low, True), (limits.band_high, False))
    )
    laws = _Laws(
        zero=(wanted == 0) & ~case.free[rows],
        reach=np.where(anew, FIRST_MODIFIER, old // 4),
        hard=(
            ((wanted < minimum) & (wanted > 0), Reason.HARD_MINIMUM),
            (wanted > maximum, Reason.HARD_MAXIMUM),
            (wanted > most, Reason.BID_TIMES_MODIFIER),
        ),
        low=minimum,
        high=np.minimum(maximum, most),
        band_low=band_low,
        band_high=np.where(anew, FIRST_MODIFIER, band_high),
    )
    _hold(case, rows, laws)


def _stand_together(case: _Case) -> None:
    """What one party wants of a campaign's audiences is one change: with one of its rows refused, all are.

    One that wants the value in force is left out, and spoils nothing.
    """
    rows = np.flatnonzero(case.knob == Knob.MODIFIERS)
    if not rows.size:
        return
    change, reason = case.change[rows], case.reason[rows]
    spoilt = np.isin(change, change[(reason != Reason.NONE) & (reason != Reason.NO_OP)])
    case.reason[rows[spoilt & (reason == Reason.NONE)]] = Reason.BESIDE_REFUSED


def _check_vectors(case: _Case, campaigns: CampaignSet) -> None:
    """Weights: whole, summing to the million, at most a quarter of the mass moved; judged vector by vector."""
    rows = np.flatnonzero(case.knob == Knob.WEIGHTS)
    if not rows.size:
        return
    parties = 2 * _PARTIES
    key, vector = np.unique(case.campaign[rows] * parties + case.party[rows], return_inverse=True)
    creatives = np.diff(campaigns.creative_start)[key // parties]
    width = int(creatives.max()) + 1
    distinct = np.bincount(np.unique(vector * width + case.index[rows]) // width, minlength=key.size)
    whole = (np.bincount(vector, minlength=key.size) == creatives) & (distinct == creatives)
    moved, total, worst = (np.zeros(key.size, dtype=np.int64) for _ in range(3))
    np.add.at(moved, vector, np.abs(case.wanted[rows] - case.old[rows]))
    np.add.at(total, vector, case.wanted[rows])
    np.maximum.at(worst, vector, case.reason[rows])  # one bad row spoils its vector
    free = key % parties % _PARTIES <= Source.ROLLBACK
    for failed, reason in (
        (~whole, Reason.INCOMPLETE_VECTOR),
        (total != PPM, Reason.VECTOR_SUM),
        (moved == 0, Reason.NO_OP),
        (~free & (moved > 2 * MAX_TOTAL_VARIATION), Reason.TOTAL_VARIATION),
    ):
        worst[failed & (worst == Reason.NONE)] = reason
    case.reason[rows] = worst[vector]
    for position in np.flatnonzero(worst == Reason.TOTAL_VARIATION):
        mine = rows[vector == position]
        case.offer[mine] = nearest_vector(case.old[mine], case.wanted[mine])


def in_mandate(rows: _Case | Actions, limits: Limits, tick: int) -> Bool:
    """Rows on a knob that may move by itself at this tick; which audiences are targets, no mandate covers."""
    mandated: Bool = tick <= limits.mandate_until[rows.campaign, rows.knob]
    return mandated & ~_targets_anew(rows)


def _targets_anew(rows: _Case | Actions) -> Bool:
    """Rows of changes by which an audience becomes a target that was none; those beside it are of the same change."""
    wanted, party = (rows.wanted, rows.party) if isinstance(rows, _Case) else (rows.new, rows.source)
    modifiers: Bool = rows.knob == Knob.MODIFIERS
    anew: Bool = modifiers & (rows.old == 0) & (wanted > 0)
    if not anew.any():
        return anew
    change = rows.campaign.astype(np.int64) * 2 * _PARTIES + party
    return modifiers & np.isin(change, change[anew])


def _check_holds(case: _Case, standing: Standing, limits: Limits, tick: int, spared: Bool) -> None:
    """What a person set is not overwritten automatically for a day; somebody's approval may."""
    held = tick < standing.edited_at[case.campaign, case.knob] + limits.day
    case.refuse(held & ~case.free & ~spared, Reason.PERSONS_HOLD)


def _check_breaker(case: _Case, standing: Standing, pauses: Bool) -> None:
    """With the breaker open nothing automatic is applied, whoever said yes to it."""
    if standing.breaker_since is not None:
        case.refuse(~case.free & ~pauses, Reason.BREAKER)


def _check_quarantine(case: _Case, standing: Standing, tick: int, spared: Bool) -> None:
    """What was rolled back is not proposed again for a while: the same value, one beyond it, or of a policy any."""
    for each in standing.quarantine:
        if tick >= each.until:
            continue
        mine = (case.campaign == each.campaign) & (case.knob == each.knob) & ~case.free & ~spared
        if not mine.any():
            continue
        if each.knob in BANDED and each.values:
            old, new = each.old, each.values[0]
            mine &= ((case.wanted >= new) if new > old else (case.wanted <= new)) & (case.index == each.audience)
        elif each.values:
            mine &= _as_a_whole(case, mine, np.array(each.values))
        case.refuse(mine, Reason.QUARANTINED)


def _as_a_whole(case: _Case, mine: Bool, values: Int64) -> Bool:
    """Of the rows of one campaign's knob, those of a party whose every row wants the given values."""
    other = mine & (values[np.minimum(case.index, len(values) - 1)] != case.wanted)
    same: Bool = ~np.isin(case.party, case.party[other])
    return same


def _check_windows(case: _Case, standing: Standing, limits: Limits, tick: int) -> None:
    """Rises of a knob add up to no more than its limit within a window, net of what it fell."""
    for window in limits.windows:
        rows = (case.knob == window.knob) & ~case.free & (case.wanted > case.old)
        if not rows.any():
            continue
        before = standing.scalar_at(tick - window.ticks)
        if before is None:
            continue
        most = np.full((len(before), 2), (PPM + window.rise, PPM), dtype=np.int64)
        beyond = case.wanted > _scaled(before[:, window.knob], most, up=False)[case.campaign]
        case.refuse(rows & beyond, Reason.WINDOW)


def _check_cooldowns(
    case: _Case,
    standing: Standing,
    limits: Limits,
    tick: int,
    watched: Bool | None,
    *,
    spared: Bool,
    mandated: Bool,
) -> None:
    """A knob rests for a day after a change outside a mandate and while that is watched; after rollbacks ever longer.

    Inside a mandate only the latter counts.
    """
    after_rollback = tick < standing.cool_until[case.campaign, case.knob]
    after_change = tick < standing.changed_at[case.campaign, case.knob] + limits.day
    if watched is not None:
        after_change |= watched[case.campaign, case.knob]
    resting = after_rollback | after_change & ~mandated
    case.refuse(resting & ~case.free & ~spared, Reason.COOLDOWN)


def _judge_impact(
    case: _Case,
    state: ControlState,
    limits: Limits,
    tick: int,
    outside: Bool,
    standing: Standing,
    evidence: Evidence | None,
) -> tuple[NDArray[Any], tuple[Impact, ...]]:
    """Why each row outside mandates needs a person (NONE: its impact is low), and what is predicted for it.

    Everything is high that cannot be computed; the first rule that holds is told.
    """
    high = np.full(len(case.wanted), Reason.OUTSIDE_MANDATE, dtype=np.uint8)
    rows = np.flatnonzero(outside & case.open)
    if not rows.size or evidence is None or not limits.day:
        return high, ()
    per_day = evidence.spending.per_day(limits.day)
    campaign, knob = case.campaign[rows], case.knob[rows]
    many = np.unique(campaign).size > MOST_CAMPAIGNS
    moved, new_creative = _moved(case, rows)
    predicted = np.full(rows.size, UNKNOWN, dtype=np.int64)
    if per_day is not None:
        old, wanted = _farthest(case, rows, case.old[rows], case.old[rows] + moved)
        predicted = predicted_by_record(state, limits.account_member, per_day, campaign, knob, old, wanted)
    tried = np.zeros(rows.size, dtype=np.bool_)
    for (member, of), change in evidence.tried.items():
        mine = (campaign == member) & (knob == of)
        predicted[mine], tried[mine] = change, True
    account = 0 if per_day is None else sum(per_day.tolist())
    step = 100 * np.abs(moved) > LARGE_STEP_PERCENT * np.where(np.isin(knob, BANDED), case.old[rows], PPM)
    step |= (knob == Knob.MODIFIERS) & np.isin(case.change[rows], case.change[rows[step]])
    horizon = limits.day if limits.delay_horizon is None else limits.delay_horizon
    recent = tick < standing.rolled_back_at[campaign] + WEEK_DAYS * limits.day
    found = np.full(rows.size, Reason.NONE, dtype=np.uint8)
    for failed, reason in (
        (evidence.spending.learning(limits.day, horizon)[campaign], Reason.LEARNING_PHASE),
        (recent, Reason.AFTER_ROLLBACK),
        (np.full(rows.size, many), Reason.MANY_CAMPAIGNS),
        (new_creative, Reason.EXTRAPOLATION),
        (evidence.spending.large()[campaign] & step, Reason.LARGE_CAMPAIGN),
        (predicted == UNKNOWN, Reason.OUTSIDE_MANDATE),
        (np.abs(predicted) > account // HIGH_SPEND_PART, Reason.LARGE_SPEND_CHANGE),
    ):
        found[failed & (found == Reason.NONE)] = reason
    high[rows] = found
    if many:
        return high, ()
    columns = (each.tolist() for each in (rows, predicted, tried))
    told = (
        Impact(row, None if change == UNKNOWN else change, _basis(change, by_trial))
        for row, change, by_trial in zip(*columns, strict=True)
    )
    return high, tuple(told)


def _basis(change: int, by_trial: bool) -> Basis:  # noqa: FBT001 - a fact about the change
    if change == UNKNOWN:
        return Basis.NONE
    return Basis.TRIAL if by_trial else Basis.RECORD


def _moved(case: _Case, rows: Int64) -> tuple[Int64, Bool]:
    """By how much each row moves its knob (of a vector: its total variation), and whether it shows a new creative."""
    moved = case.wanted[rows] - case.old[rows]
    vector = case.knob[rows] == Knob.WEIGHTS
    if not vector.any():
        return moved, np.zeros(rows.size, dtype=np.bool_)
    _, whole = np.unique(case.change[rows], return_inverse=True)
    variation, fresh = np.zeros(whole.max() + 1, dtype=np.int64), np.zeros(whole.max() + 1, dtype=np.bool_)
    np.add.at(variation, whole[vector], np.maximum(moved[vector], 0))
    fresh[whole[vector & (case.old[rows] == 0) & (moved > 0)]] = True
    return np.where(vector, variation[whole], moved), vector & fresh[whole]


def _farthest(case: _Case, rows: Int64, old: Int64, wanted: Int64) -> tuple[Int64, Int64]:
    """Values in force and wanted; of modifiers, for every row those of the audience whose spend its change moves most.

    By the record spend goes with the third power of what is bid, so a rise counts for more than as large a fall.
    """
    modifiers = np.flatnonzero(case.knob[rows] == Knob.MODIFIERS)
    if not modifiers.size:
        return old, wanted
    _, change = np.unique(case.change[rows[modifiers]], return_inverse=True)
    was, to = old[modifiers], wanted[modifiers]
    anew = was == 0
    moves = np.abs(np.where(anew, np.inf, to / np.where(anew, 1, was)) ** SPEND_PER_BID - 1)
    order = np.lexsort((moves, change))
    last = np.searchsorted(change[order], change, side="right") - 1
    old, wanted = old.copy(), wanted.copy()
    old[modifiers], wanted[modifiers] = was[order[last]], to[order[last]]
    return old, wanted


def _check_joint_exposure(case: _Case, limits: Limits, permitted: Bool, mandated: Bool) -> None:
    """Knobs of a campaign moved in one round multiply: together they raise its exposure by a quarter at most.

    Where a mandate covers all of them, its own cap holds instead. The budget's row stands, then the bid's, then the
    modifiers; what rises too far is refused and offered less. Of modifiers the largest rise counts: however spend is
    spread over the audiences, it rises by no more on the average.
    """
    standing = case.open & permitted & ~case.free
    bids, budgets = (np.flatnonzero(standing & (case.knob == knob)) for knob in SCALARS)
    _, of_bids, of_budgets = np.intersect1d(case.campaign[bids], case.campaign[budgets], return_indices=True)
    pairs = np.stack([bids[of_bids], budgets[of_budgets]], axis=1)
    rise = (case.wanted[pairs] / np.maximum(case.old[pairs], 1)).prod(axis=1)
    least = MAX_EXPOSURE if limits.exposure is None else min(MAX_EXPOSURE, int(limits.exposure.min()))
    for bid, budget in pairs[rise > (1 + least / PPM) * (1 - 1e-9)].tolist():  # whole numbers decide what is close
        _bound_exposure(case, [bid], [budget], limits, mandated)
    modifiers = np.flatnonzero(standing & (case.knob == Knob.MODIFIERS) & (case.old > 0))
    if not modifiers.size:
        return
    others: dict[int, list[int]] = {}
    for row in [*budgets.tolist(), *bids[case.open[bids]].tolist()]:
        others.setdefault(int(case.campaign[row]), []).append(row)
    order = modifiers[np.argsort(case.campaign[modifiers], kind="stable")]
    for mine in np.split(order, np.flatnonzero(np.diff(case.campaign[order])) + 1):
        _bound_exposure(case, mine.tolist(), others.get(int(case.campaign[mine[0]]), []), limits, mandated)
    _stand_together(case)


def _bound_exposure(case: _Case, rows: list[int], others: list[int], limits: Limits, mandated: Bool) -> None:
    """Refuse those rows of a campaign's knob that rise too far beside what stands of its other knobs."""
    if not others:
        return
    cap = MAX_EXPOSURE
    if all(mandated[row] for row in (*rows, *others)):
        if limits.exposure is None:
            return
        cap = int(limits.exposure[case.campaign[rows[0]]])
    most, least = PPM + cap, PPM  # the largest ratio of new to old, in whole numbers of any size
    for other in others:
        most, least = most * int(case.old[other]), least * int(case.wanted[other])
    for row in rows:
        old, wanted = int(case.old[row]), int(case.wanted[row])
        if wanted > old and wanted * least > old * most:
            case.reason[row] = Reason.JOINT_EXPOSURE
            if old * most // least > old:
                case.offer[row] = old * most // least


def _one_change_per_knob(case: _Case, order: Int64, permitted: Bool) -> None:
    """Of the rows that would pass by themselves, the first party's stand for each knob; the others are refused."""
    contenders = order[(case.open & permitted)[order]]
    keys = case.campaign[contenders] * len(Knob) + case.knob[contenders]
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    winner = contenders[first][group]
    vector = (case.knob[contenders] == Knob.WEIGHTS) | (case.knob[contenders] == Knob.MODIFIERS)
    same_vector = vector & (case.party[contenders] == case.party[winner])
    losers = contenders[(contenders != winner) & ~same_vector]
    case.reason[losers] = Reason.SECOND_CHANGE


def _check_bids_against_budgets(case: _Case, permitted: Bool) -> None:
    """No bid above a budget that falls in the same round: the first party's row stands, of one party's the budget's.

    Both were held against the values in force already, so either may be applied without the other.
    """
    standing = case.open & permitted
    bids, budgets = (np.flatnonzero(standing & (case.knob == knob)) for knob in SCALARS)
    if not (bids.size and budgets.size):
        return
    _, of_bids, of_budgets = np.intersect1d(case.campaign[bids], case.campaign[budgets], return_indices=True)
    bid, budget = bids[of_bids], budgets[of_budgets]
    above = case.wanted[bid] > case.wanted[budget]
    loser = np.where(case.party[bid] < case.party[budget], budget, bid)
    case.reason[loser[above]] = Reason.BID_ABOVE_BUDGET


def _check_bids_against_modifiers(case: _Case, limits: Limits, permitted: Bool) -> None:
    """No bid times a modifier above the hard maximum where both rise in one round: the first party's change stands.

    Of one party the bid's does. Both were held against the values in force already, so either may be applied without
    the other.
    """
    standing = case.open & permitted
    rows, bids = (np.flatnonzero(standing & (case.knob == knob)) for knob in (Knob.MODIFIERS, Knob.BID))
    if not (rows.size and bids.size):
        return
    of_campaign = np.full(len(limits.maximum), -1, dtype=np.int64)
    of_campaign[case.campaign[bids]] = bids
    both = of_campaign[case.campaign[rows]] >= 0
    rows, bid = rows[both], of_campaign[case.campaign[rows[both]]]
    most = _most_modifier(limits.maximum[case.campaign[rows], Knob.BID], case.wanted[bid])
    above = case.wanted[rows] > most
    loser = np.where(case.party[rows] < case.party[bid], bid, rows)
    case.reason[loser[above]] = Reason.BID_TIMES_MODIFIER
    _stand_together(case)


def _check_account_budget(case: _Case, state: ControlState, limits: Limits, order: Int64, permitted: Bool) -> None:
    """Let budgets rise, first party first, while the sum in force plus the rises stays within the account's budget.

    Decreases of the same round give no room: a crash between two shards could leave the rises without them.
    """
    if limits.account_budget is None:
        return
    rises = case.open & permitted & (case.knob == Knob.BUDGET) & (case.wanted > case.old)
    rises &= limits.account_member[case.campaign]
    rows = order[rises[order]]
    if not rows.size:
        return
    room = limits.account_budget - sum(state.budget[limits.account_member].tolist())
    beyond = np.cumsum(case.wanted[rows] - case.old[rows]) > room
    case.reason[rows[np.logical_or.accumulate(beyond)]] = Reason.ACCOUNT_BUDGET


def _check_account_rise(
    case: _Case, state: ControlState, limits: Limits, order: Int64, permitted: Bool, standing: Standing
) -> None:
    """Let automatic rises of budgets add up to a tenth of the account within a day, net of what fell before."""
    if not limits.day:
        return
    rises = case.open & permitted & ~case.free & (case.knob == Knob.BUDGET) & (case.wanted > case.old)
    rises &= limits.account_member[case.campaign]
    rows = order[rises[order]]
    if not rows.size:
        return
    before, now = (
        sum(scalar[limits.account_member, Knob.BUDGET].tolist()) for scalar in (standing.a_day_ago(state), state.scalar)
    )
    account = before if limits.account_budget is None else limits.account_budget
    room = before + account // ACCOUNT_RISE_PART - now
    beyond = np.cumsum(case.wanted[rows] - case.old[rows]) > room
    case.reason[rows[np.logical_or.accumulate(beyond)]] = Reason.ACCOUNT_RISE


def _permission(proposed: Proposals, old: Int64, passed: Bool, sequence: int) -> Approved:
    rows = np.flatnonzero(passed)
    return Approved(
        Actions(
            action=(np.int64(sequence) << ROW_BITS) + rows,
            campaign=proposed.campaign[rows],
            knob=proposed.knob[rows],
            index=proposed.index[rows],
            old=old[rows],
            new=proposed.wanted[rows],
            base_version=proposed.base_version[rows],
            source=proposed.source[rows],
            note=proposed.note[rows],
            notes=proposed.notes,
        )
    )


def nearest_vector(old: Int64, wanted: Int64) -> Int64:
    """The vector of shares on the way from `old` to `wanted` at which a total variation of 250,000 ppm is reached."""
    change = wanted - old
    moved = int(np.abs(change).sum()) // 2
    if moved <= MAX_TOTAL_VARIATION:
        return wanted
    part = np.sign(change) * (np.abs(change) * MAX_TOTAL_VARIATION // moved)
    surplus = int(part.sum())  # the two sides were rounded towards zero separately: trim the longer one
    for position in np.argsort(-np.abs(part), kind="stable"):
        if surplus == 0:
            break
        if part[position] * surplus > 0:
            trim = np.sign(surplus) * min(abs(surplus), abs(int(part[position])))
            part[position] -= trim
            surplus -= int(trim)
    nearest: Int64 = old + part
    return nearest


def _scaled(values: Int64, fraction: Int64, *, up: bool) -> Int64:
    """`values` times numerator / denominator, rounded inwards, without leaving int64."""
    numerator, denominator = fraction[..., 0], fraction[..., 1]
    whole, rest = values // denominator, values % denominator
    part = rest * numerator
    scaled: Int64 = whole * numerator + (-(-part // denominator) if up else part // denominator)
    return scaled
