from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from engine.actions import Approved, Knob, Proposals, Result
from engine.campaign_machine import CampaignMachine, CampaignState
from engine.campaigns import CampaignSet, ControlState, Period
from engine.events import CLICKS, COUNTS, IMPRESSIONS, SPEND, TickCounts
from engine.guard import check
from engine.messages import Advanced, Answered, Apply, Publish, Published
from engine.policy import View
from engine.prices import Prices
from engine.units import Int64, TickGrid
from tests.engine.builders import BID, BUDGET, campaign_set, controls, mandated, vector, wish

GRID = TickGrid(datetime(2026, 3, 28), 360, 12, "UTC")  # four ticks a day, three days


def machine(
    campaigns: CampaignSet | None = None,
    members: list[int] | None = None,
    *,
    factual: bool = False,
    grid: TickGrid = GRID,
) -> CampaignMachine:
    """The machine of some of three campaigns; the second has two creatives."""
    run = campaign_set([1, 2, 1]) if campaigns is None else campaigns
    chosen = np.arange(len(run)) if members is None else np.array(members)
    return CampaignMachine(
        run.select(chosen), chosen, CampaignState.initial(controls(run).select(run, chosen)), grid, factual=factual
    )


def in_force(it: CampaignMachine) -> ControlState:
    return it.state.controls


def lifetime(it: CampaignMachine) -> Int64:
    return it.state.lifetime.get()


def approved(*batches: Proposals, sequence: int = 1, state: ControlState | None = None) -> Approved:
    """What the guard lets through of a round, every knob under a mandate."""
    campaigns = campaign_set([1, 2, 1])
    state = controls(campaigns) if state is None else state
    rows = Proposals.concatenate(batches)
    judgement = check(campaigns, state, rows, mandated(campaigns), sequence=sequence, tick=0)
    assert len(judgement.approved) == len(rows)
    return judgement.approved


def counts(first: int, ticks: int, cells: int = 4, **columns: int) -> TickCounts:
    """The same counts in every tick and cell."""
    values = np.zeros((ticks, cells, len(COUNTS)), dtype=np.int64)
    for name, value in columns.items():
        values[:, :, COUNTS.index(name)] = value
    return TickCounts(first, values)


def answer(told: list[Any]) -> tuple[int, list[Result]]:
    (answered,) = told
    assert isinstance(answered, Answered)
    return answered.round, [Result(result) for result in answered.results]


def view(told: list[Any]) -> View:
    (published,) = told
    assert isinstance(published, Published)
    return published.view


# --- apply ---


def test_a_round_is_applied_and_answered_row_by_row() -> None:
    it = machine()
    rows = approved(wish(1_200_000), vector([600_000, 400_000], campaign=1), wish(1, Knob.PAUSED, campaign=2))
    assert answer(it.handle(Apply(rows))) == (1, [Result.APPLIED] * 4)
    assert in_force(it).bid.tolist() == [1_200_000, BID, BID]
    assert in_force(it).weights.tolist() == [1_000_000, 600_000, 400_000, 1_000_000]
    assert in_force(it).paused.tolist() == [False, False, True]
    assert in_force(it).version.tolist() == [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]


def test_a_round_delivered_twice_is_applied_once_and_answered_the_same() -> None:
    it, rows = machine(), approved(wish(1_200_000))
    first, state = answer(it.handle(Apply(rows))), in_force(it)
    assert answer(it.handle(Apply(rows))) == first == (1, [Result.APPLIED])
    assert in_force(it) is state


def test_an_older_round_is_an_error() -> None:
    it = machine()
    it.handle(Apply(approved(wish(1_200_000), sequence=4)))
    with pytest.raises(ValueError, match=r"^round 3 arrived after round 4 was applied$"):
        it.handle(Apply(approved(wish(1_100_000), sequence=3)))
    assert in_force(it).bid.tolist() == [1_200_000, BID, BID]


def test_two_proposals_from_one_version_one_applies_and_one_is_stale() -> None:
    it = machine()
    first, second = approved(wish(1_200_000)), approved(wish(900_000), wish(1_100_000, campaign=1), sequence=2)
    assert answer(it.handle(Apply(first))) == (1, [Result.APPLIED])
    assert answer(it.handle(Apply(second))) == (2, [Result.STALE, Result.APPLIED])
    assert in_force(it).bid.tolist() == [1_200_000, 1_100_000, BID]
    assert in_force(it).version[:, Knob.BID].tolist() == [1, 1, 0]


def test_rows_of_other_campaigns_do_not_concern_it() -> None:
    it = machine(members=[1])
    before = in_force(it)
    assert answer(it.handle(Apply(approved(wish(1_200_000), wish(1_200_000, campaign=2))))) == (-1, [])
    assert in_force(it) is before
    rows = approved(wish(1_200_000), vector([600_000, 400_000], campaign=1), sequence=2)
    assert answer(it.handle(Apply(rows))) == (2, [Result.APPLIED, Result.APPLIED])
    assert (in_force(it).bid.tolist(), in_force(it).weights.tolist()) == ([BID], [600_000, 400_000])


def test_controls_are_replaced_and_never_changed_in_place() -> None:
    it = machine()
    before = in_force(it)
    it.handle(Apply(approved(wish(1_200_000), wish(110_000_000, Knob.BUDGET, campaign=2))))
    assert before.equals(controls(campaign_set([1, 2, 1])))
    assert in_force(it).budget.tolist() == [BUDGET, BUDGET, 110_000_000]


def test_in_a_factual_replay_a_round_is_recorded_and_nothing_changes() -> None:
    it, rows = machine(factual=True), approved(wish(1_200_000), wish(1, Knob.PAUSED, campaign=1))
    assert answer(it.handle(Apply(rows))) == (1, [Result.RECORDED, Result.RECORDED])
    assert answer(it.handle(Apply(rows))) == (1, [Result.RECORDED, Result.RECORDED])
    assert in_force(it).equals(controls(campaign_set([1, 2, 1])))


# --- count ---


def test_ticks_delivered_twice_are_counted_once() -> None:
    it, message = machine(), Advanced(counts(0, 2, impressions=5, spend_micros=100))
    assert it.handle(message) == it.handle(message) == []
    seen = view(it.handle(Publish(1)))
    assert seen.recent[:, IMPRESSIONS].tolist() == [10, 20, 10]
    assert seen.lifetime[:, SPEND].tolist() == lifetime(it)[:, SPEND].tolist() == [200, 400, 200]


@pytest.mark.parametrize("first", [1, 3])
def test_ticks_with_a_gap_or_an_overlap_are_an_error(first: int) -> None:
    it = machine()
    it.handle(Advanced(counts(0, 2)))
    with pytest.raises(ValueError, match=rf"^ticks \[{first}, {first + 2}\) arrived where tick 2 was due$"):
        it.handle(Advanced(counts(first, 2)))
    it.handle(Advanced(counts(2, 1, clicks=1)))
    assert lifetime(it)[:, CLICKS].tolist() == [1, 2, 1]


@pytest.mark.parametrize("tick", [-1, 0, 2])
def test_a_view_is_of_the_tick_that_closed_last(tick: int) -> None:
    it = machine()
    it.handle(Advanced(counts(0, 2)))
    with pytest.raises(ValueError, match=rf"^a view at tick {tick} was asked for, and tick 1 closed last$"):
        it.handle(Publish(tick))


def test_recent_counts_begin_anew_with_every_view_and_lifetime_goes_on() -> None:
    it = machine()
    seen = []
    for tick in range(3):
        it.handle(Advanced(counts(tick, 1, clicks=tick + 1)))
        shown = view(it.handle(Publish(tick)))
        seen.append((shown.tick, shown.recent[0, CLICKS], shown.lifetime[0, CLICKS]))
    assert seen == [(0, 1, 1), (1, 2, 3), (2, 3, 6)]
    assert view(it.handle(Publish(2))).recent.sum() == 0


def test_prices_add_up_between_views_and_begin_anew_with_every_view() -> None:
    first, second = priced([0, 2], [5, 5], [1, 2]), priced([0, 0], [4, 5], [3, 1])
    it = machine()
    assert view(machine_after(it, 0, None).handle(Publish(0))).prices is None
    machine_after(it, 1, first)
    machine_after(it, 1, first)  # delivered twice
    machine_after(it, 2, second)
    kept = pickle.loads(pickle.dumps(it.state))  # noqa: S301 - our own bytes
    campaigns = campaign_set([1, 2, 1])
    resumed = CampaignMachine(campaigns, np.arange(3), kept, GRID, factual=False)
    for each in (it, resumed):
        assert told(each.handle(Publish(2))) == [(0, 4, 3, 300), (0, 5, 2, 200), (2, 5, 2, 200)]
        assert told(each.handle(Publish(2))) == []
        machine_after(each, 3, Prices.empty())
        assert told(each.handle(Publish(3))) == []
        machine_after(each, 4, second)
        assert told(each.handle(Publish(4))) == [(0, 4, 3, 300), (0, 5, 1, 100)]
    assert kept.prices is not None
    assert len(kept.prices) == 3  # nothing was changed in place


def priced(campaign: list[int], bins: list[int], wins: list[int]) -> Prices:
    """Wins that are worth 100 ppm each."""
    of, at, number = (np.array(column, dtype=np.int64) for column in (campaign, bins, wins))
    return Prices(of, at, number, 100 * number)


def machine_after(it: CampaignMachine, tick: int, prices: Prices | None) -> CampaignMachine:
    it.handle(Advanced(counts(tick, 1), prices))
    return it


def told(published: list[Any]) -> list[tuple[int, ...]]:
    """The rows of a view's prices."""
    rows = view(published).prices
    assert rows is not None
    return list(zip(*(column.tolist() for column in vars(rows).values()), strict=True))


def of_periods(spans: list[tuple[int, int]], grid: TickGrid = GRID) -> list[list[int]]:
    """Spend of the period at the close of each span, one micro a tick, of a daily and of a flight budget."""
    campaigns = replace(campaign_set([1, 1]), period=np.array([Period.DAY, Period.FLIGHT], dtype=np.uint8))
    it = machine(campaigns, grid=grid)
    closing = []
    for first, end in spans:
        it.handle(Advanced(counts(first, end - first, cells=2, spend_micros=1)))
        closing.append(view(it.handle(Publish(end - 1))).period[:, SPEND].tolist())
    return closing


def test_a_day_counts_up_to_its_last_tick_and_a_flight_to_its_end() -> None:
    assert of_periods([(tick, tick + 1) for tick in range(9)]) == [
        [1, 1], [2, 2], [3, 3], [4, 4], [1, 5], [2, 6], [3, 7], [4, 8], [1, 9],
    ]  # fmt: skip


def test_a_span_across_midnight_keeps_what_lies_behind_it() -> None:
    assert of_periods([(0, 3), (3, 6), (6, 8), (8, 9)]) == [[3, 3], [2, 6], [4, 8], [1, 9]]
    assert of_periods([(0, 2), (2, 9), (9, 12)]) == [[2, 2], [1, 9], [4, 12]]


def test_a_day_of_23_hours_has_46_half_hours_and_one_of_25_has_50() -> None:
    spring = TickGrid(datetime(2026, 3, 29), 30, 47, "Europe/Berlin")
    autumn = TickGrid(datetime(2026, 10, 25), 30, 51, "Europe/Berlin")
    assert of_periods([(0, 46), (46, 47)], spring) == [[46, 46], [1, 47]]
    assert of_periods([(0, 50), (50, 51)], autumn) == [[50, 50], [1, 51]]
