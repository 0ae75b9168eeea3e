from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine.actions import (
    Actions,
    Approved,
    Flaw,
    Knob,
    Note,
    Proposals,
    Source,
    nearest_step,
    no_actions,
    no_proposals,
    proposals,
    wanted_values,
)
from engine.errors import BadInput
from engine.units import MAX_MICROS


def told(rows: Proposals | Actions) -> dict[str, list[Any]]:
    return {name: column.tolist() for name, column in rows.columns().items()}


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (25, (25, Flaw.NONE)),
        (25.0, (25, Flaw.NONE)),
        (0, (0, Flaw.NONE)),
        (MAX_MICROS, (MAX_MICROS, Flaw.NONE)),
        (np.uint8(25), (25, Flaw.NONE)),
        (np.float32(25), (25, Flaw.NONE)),
        ("25", (0, Flaw.NOT_A_NUMBER)),
        (None, (0, Flaw.NOT_A_NUMBER)),
        (True, (0, Flaw.NOT_A_NUMBER)),
        (np.bool_(1), (0, Flaw.NOT_A_NUMBER)),
        (1 + 0j, (0, Flaw.NOT_A_NUMBER)),
        (np.timedelta64(5, "s"), (0, Flaw.NOT_A_NUMBER)),
        ([1, 2], (0, Flaw.NOT_A_NUMBER)),
        (float("nan"), (0, Flaw.NOT_FINITE)),
        (float("inf"), (0, Flaw.NOT_FINITE)),
        (float("-inf"), (0, Flaw.NOT_FINITE)),
        (0.5, (0, Flaw.NOT_WHOLE)),
        (-1, (0, Flaw.NEGATIVE)),
        (-0.5, (0, Flaw.NEGATIVE)),
        (MAX_MICROS + 1, (0, Flaw.OUT_OF_RANGE)),
        (10**30, (0, Flaw.OUT_OF_RANGE)),
        (10**400, (0, Flaw.OUT_OF_RANGE)),
        (1e30, (0, Flaw.OUT_OF_RANGE)),
    ],
)
def test_a_wanted_value_is_whole_micros_or_flawed(value: Any, read: tuple[int, Flaw]) -> None:
    values, flaw = wanted_values([value, 7, "beside"])
    assert (values.tolist(), flaw.tolist()) == ([read[0], 7, 0], [read[1], Flaw.NONE, Flaw.NOT_A_NUMBER])


@pytest.mark.parametrize(
    "values",
    [
        np.array([25, -1, 10**16]),
        np.array([25, -1, 10**16], dtype=np.float64),
        np.array([25, -1, 10**16], dtype=object),
        pd.Series([25, -1, 10**16]),
    ],
)
def test_columns_of_every_kind_are_read_alike(values: Any) -> None:
    read, flaw = wanted_values(values)
    assert (read.tolist(), flaw.tolist()) == ([25, 0, 0], [Flaw.NONE, Flaw.NEGATIVE, Flaw.OUT_OF_RANGE])


@pytest.mark.parametrize("kind", ["int8", "int32", "uint64", "float32"])
def test_other_number_columns_are_read(kind: str) -> None:
    assert wanted_values(np.array([0, 7], dtype=kind))[0].tolist() == [0, 7]


def test_a_float_column_is_read_value_by_value() -> None:
    read, flaw = wanted_values(np.array([1.0, 1.5, np.nan, -np.inf, -2.5, 1e18]))
    assert read.tolist() == [1, 0, 0, 0, 0, 0]
    assert flaw.tolist() == [
        Flaw.NONE,
        Flaw.NOT_WHOLE,
        Flaw.NOT_FINITE,
        Flaw.NOT_FINITE,
        Flaw.NEGATIVE,
        Flaw.OUT_OF_RANGE,
    ]


def test_no_column_of_switches_or_words_is_a_number() -> None:
    assert wanted_values(np.array([True, False]))[1].tolist() == [Flaw.NOT_A_NUMBER] * 2
    assert wanted_values(np.array(["1", "2"]))[1].tolist() == [Flaw.NOT_A_NUMBER] * 2


def test_proposals_repeat_scalars_and_name_their_proposer() -> None:
    rows = proposals([3, 5], Knob.BUDGET, [10, 20], 2, Source.RULE, "because", proposer="rule-7")
    assert told(rows) == {
        "campaign": [3, 5],
        "knob": [1, 1],
        "index": [0, 0],
        "wanted": [10, 20],
        "flaw": [0, 0],
        "base_version": [2, 2],
        "source": [2, 2],
        "note": [0, 0],
    }
    assert rows.notes == (Note("rule-7", "because"),)
    assert proposals([3], Knob.BID, 1, 0, Source.SCRIPT, "x").notes == (Note("script", "x"),)


def test_a_position_that_does_not_fit_its_column_never_becomes_another_one() -> None:
    places = np.array([0, 2**32, -1, 2**31])
    rows = proposals(places, 256, 1, 2**62, Source.POLICY, "", index=places)
    assert (rows.campaign.tolist(), rows.index.tolist()) == ([0, -1, -1, -1], [0, -1, -1, -1])
    assert (rows.knob.tolist(), rows.base_version.tolist()) == ([255] * 4, [2**62] * 4)


@pytest.mark.parametrize("campaign", [[1.5], ["one"], [None]])
def test_a_position_that_is_no_whole_number_is_refused(campaign: Any) -> None:
    with pytest.raises(BadInput) as refusal:
        proposals(campaign, Knob.BID, 1, 0, Source.POLICY, "")
    assert str(refusal.value) == (
        f"a campaign, knob, index or version (={campaign!r}) must be a whole number: give its position"
    )


def test_batches_join_with_their_notes() -> None:
    first = proposals([0, 1], Knob.BID, 5, 0, Source.POLICY, "a")
    second = proposals([2], Knob.BID, 6, 1, Source.RULE, "b")
    joined = Proposals.concatenate([first, second, no_proposals()])
    assert told(joined) == {
        "campaign": [0, 1, 2],
        "knob": [0, 0, 0],
        "index": [0, 0, 0],
        "wanted": [5, 5, 6],
        "flaw": [0, 0, 0],
        "base_version": [0, 0, 1],
        "source": [4, 4, 2],
        "note": [0, 0, 1],
    }
    assert joined.notes == (Note("policy", "a"), Note("rule", "b"), Note("policy", ""))
    assert Proposals.concatenate([first]) is first


def test_a_round_of_many_proposers_keeps_every_note() -> None:
    one = proposals([0], Knob.BID, 5, 0, Source.RULE, "a")
    joined = Proposals.concatenate([one] * 40_000)
    assert (len(joined.notes), joined.note.tolist()) == (40_000, list(range(40_000)))


def test_rows_are_taken_by_place_and_by_mask() -> None:
    rows = proposals([3, 5, 7], Knob.BID, [1, 2, 3], 0, Source.POLICY, "")
    assert rows.take(np.array([2, 0])).wanted.tolist() == [3, 1]
    assert rows.take(np.array([False, True, False])).campaign.tolist() == [5]


def test_a_step_goes_as_far_as_the_law_lets_it() -> None:
    old = np.array([1_000_000, 1_000_000, 1_000_000, 3, 7])
    assert nearest_step(old, [2e6, 1.5, 1_100_000.9, 100, 100]).tolist() == [1_250_000, 750_000, 1_100_000, 3, 8]


def some_actions(campaign: list[int], sequence: int = 3) -> Actions:
    n = len(campaign)
    whole = np.arange(n, dtype=np.int64)
    small = np.full(n, Source.PERSON, dtype=np.uint8)
    ids = (np.int64(sequence) << 24) + whole
    return Actions(ids, np.array(campaign, np.int32), small, whole, whole, whole + 9, whole, small, whole)


def test_approved_rows_go_to_the_campaigns_they_concern_named_by_place() -> None:
    approved = Approved(some_actions([0, 4, 9, 4]))
    mine = approved.of(np.array([4, 8, 9]))
    assert (mine.rows.campaign.tolist(), mine.rows.new.tolist(), len(mine)) == ([0, 2, 0], [10, 11, 12], 3)
    assert len(approved.of(np.array([5]))) == 0


def test_actions_know_their_round() -> None:
    assert (some_actions([1, 2], sequence=3).round, no_actions().round, len(Approved.nothing())) == (3, -1, 0)


def test_empty_batches_have_the_dtypes_of_their_schema() -> None:
    for empty in (no_proposals(), no_actions()):
        names = [item.name for item in fields(empty) if item.name != "notes"]
        assert [len(getattr(empty, name)) for name in names] == [0] * len(names)
    kinds = {name: column.dtype for name, column in no_actions().columns().items()}
    assert kinds["action"] == kinds["old"] == kinds["new"] == kinds["base_version"] == np.int64
    assert kinds["campaign"] == kinds["index"] == kinds["note"] == np.int32
