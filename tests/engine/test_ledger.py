from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.actions import ROW_BITS, Knob, Note, Proposals, Result, Source, proposals
from engine.campaigns import ControlState
from engine.errors import BadInput
from engine.judgement import NO_OFFER, Outcome, Reason
from engine.ledger import (
    GENESIS,
    LEDGER_VERSION,
    Fold,
    LedgerError,
    Record,
    RecordKind,
    closing_body,
    decode,
    decode_round,
    encode,
    explain,
    fold,
    opening_body,
    round_body,
    seal,
    verify,
)
from tests.engine.builders import BID, BUDGET, Desk, campaign_set, controls, reseal, vector, wish


def a_run() -> tuple[list[Record], list[ControlState]]:
    """The records of a short run, and the controls in force as far as each record knows."""
    desk = Desk(campaign_set([1, 2]))
    states = [desk.state, desk.state]
    desk.hold(wish(1_200_000), wish(9_999_999, campaign=1), vector([600_000, 400_000], campaign=1))
    states.append(desk.state)
    desk.hold(wish(2_000_000, source=Source.PERSON, version=1), wish(1, Knob.PAUSED, campaign=1))
    states.append(desk.state)
    desk.hold(wish(1_200_000, source=Source.ROLLBACK, version=2), wish(float("nan")))
    states.append(desk.state)
    return desk.close(), states


RECORDS, STATES = a_run()


# --- chain ---


def test_a_ledger_as_it_was_written_holds() -> None:
    assert verify(RECORDS) is None
    assert [verify(RECORDS[:length]) for length in range(len(RECORDS))] == [None] * len(RECORDS)


@pytest.mark.parametrize("place", range(len(RECORDS)))
def test_a_flipped_byte_at_any_position_of_a_record_names_the_record(place: int) -> None:
    record = RECORDS[place]
    for name in ("body", "digest"):
        written: bytes = getattr(record, name)
        for position in range(len(written)):
            flipped = bytearray(written)
            flipped[position] ^= 1 << position % 8
            changed = replace(record, **{name: bytes(flipped)})
            assert verify([*RECORDS[:place], changed, *RECORDS[place + 1 :]]) == place


@pytest.mark.parametrize("place", range(len(RECORDS)))
@pytest.mark.parametrize(
    "change",
    [
        lambda record: replace(record, tick=record.tick + 1),
        lambda record: replace(record, sequence=record.sequence + 1),
        lambda record: replace(record, kind=RecordKind.ROUND if record.kind != "round" else RecordKind.CLOSING),
    ],
)
def test_a_changed_head_names_the_record(place: int, change: Callable[[Record], Record]) -> None:
    assert verify([*RECORDS[:place], change(RECORDS[place]), *RECORDS[place + 1 :]]) == place


@pytest.mark.parametrize(
    ("order", "bad"), [([1, 2], 0), ([0, 2, 3], 1), ([0, 1, 1], 2), ([0, 2, 1], 1), ([0, 1, 2, 3, 4, 0], 5)]
)
def test_records_left_out_repeated_or_rearranged_are_named(order: list[int], bad: int) -> None:
    assert verify(RECORDS[place] for place in order) == bad


@pytest.mark.parametrize(
    ("kinds", "bad"),
    [
        ([RecordKind.ROUND], 0),
        ([RecordKind.OPENING, RecordKind.OPENING], 1),
        ([RecordKind.OPENING, RecordKind.CLOSING, RecordKind.ROUND], 2),
        ([RecordKind.OPENING, RecordKind.CLOSING, RecordKind.CLOSING], 2),
    ],
)
def test_a_kind_that_cannot_follow_is_named_though_its_digest_holds(kinds: list[RecordKind], bad: int) -> None:
    records: list[Record] = []
    for sequence, kind in enumerate(kinds):
        records.append(seal(records[-1].digest if records else GENESIS, sequence, kind, 0, b"body"))
    assert verify(records) == bad
    with pytest.raises(LedgerError, match=f"^record {bad}"):
        fold(chain_of(kinds))


def chain_of(kinds: list[RecordKind]) -> list[Record]:
    """A chain of such kinds with bodies that can be read."""
    campaigns, none = campaign_set(), np.empty(0, dtype=np.uint8)
    nothing = round_body({}, Desk(campaigns).judge(wish(-1)), none)
    bodies = {
        RecordKind.OPENING: opening_body({}, campaigns.layout, controls(campaigns)),
        RecordKind.ROUND: nothing,
        RecordKind.CLOSING: closing_body({}, none),
    }
    return [seal(GENESIS, sequence, kind, 0, bodies[kind]) for sequence, kind in enumerate(kinds)]


def test_equal_decisions_have_equal_bytes_and_others_do_not() -> None:
    again, _ = a_run()
    assert again == RECORDS
    other = Desk(campaign_set([1, 2]))
    other.hold(wish(1_200_001))
    assert other.records[0] == RECORDS[0]
    assert other.records[1].digest != RECORDS[1].digest


# --- bodies ---


def test_a_round_is_read_back_as_it_was_judged() -> None:
    desk = Desk(campaign_set([1, 2]))
    desk.hold(wish(1_200_000))
    rows = [wish(1_300_000, version=1), wish(2_000_000, version=1), vector([600_000, 400_000], campaign=1)]
    judgement = desk.hold(*rows)
    decoded = decode_round(desk.records[2])
    assert decoded.header == {"notes": [["policy", "test"]] * 3}
    assert {name: column.tolist() for name, column in decoded.judged.items()} == {
        "campaign": [0, 0, 1, 1],
        "knob": [Knob.BID, Knob.BID, Knob.WEIGHTS, Knob.WEIGHTS],
        "index": [0, 0, 0, 1],
        "old": [1_200_000, 1_200_000, 500_000, 500_000],
        "wanted": [1_300_000, 2_000_000, 600_000, 400_000],
        "base_version": [1, 1, 0, 0],
        "source": [Source.POLICY] * 4,
        "note": [0, 1, 2, 2],
        "outcome": [Outcome.APPROVED, Outcome.REFUSED, Outcome.APPROVED, Outcome.APPROVED],
        "reason": [Reason.NONE, Reason.STEP, Reason.NONE, Reason.NONE],
    }
    assert {name: column.tolist() for name, column in decoded.offers.items()} == {"row": [1], "offer": [1_500_000]}
    assert decoded.results.tolist() == [Result.APPLIED]
    intents, approved = decoded.intents(2), judgement.approved.rows
    assert intents.notes == approved.notes == (Note("policy", "test"),) * 3
    assert {name: column.tolist() for name, column in intents.columns().items()} == {
        name: column.tolist() for name, column in approved.columns().items()
    }
    assert intents.action.tolist() == [(2 << ROW_BITS) + row for row in (0, 2, 3)]


def test_what_was_asked_is_recorded_as_it_was_however_large() -> None:
    desk = Desk(campaign_set())
    rows = proposals([0], Knob.BID, [1_100_000], 2**40, Source.POLICY, "")
    wide = replace(rows, campaign=np.array([2**33]), index=np.array([-(2**35)]), knob=np.array([300]))
    desk.hold(rows, wide)
    judged = decode_round(desk.records[1]).judged
    told = {name: judged[name].tolist() for name in ("base_version", "campaign", "index", "knob")}
    assert told == {"base_version": [2**40] * 2, "campaign": [0, 2**33], "index": [0, -(2**35)], "knob": [0, 300]}
    assert desk.results.tolist() == []


def test_a_round_of_many_notes_is_read_back() -> None:
    desk = Desk(campaign_set())
    one = wish(-1)
    desk.hold(Proposals.concatenate([one] * 40_000))
    assert decode_round(desk.records[1]).judged["note"].tolist() == list(range(40_000))


@pytest.mark.parametrize("kind", ["int8", "int64", "uint8", "float64"])
def test_results_have_the_same_bytes_whatever_their_column(kind: str) -> None:
    judgement = Desk(campaign_set()).judge(wish(1_200_000))
    results = np.array([1, 2, 1])
    assert round_body({}, judgement, results.astype(kind)) == round_body({}, judgement, results)
    assert closing_body({}, results.astype(kind)) == closing_body({}, results)


def test_columns_are_little_endian_whatever_they_come_in() -> None:
    results = np.array([1, 300])
    assert closing_body({}, results.astype(">i8")) == closing_body({}, results)


def test_an_opening_tells_the_controls_and_the_layout() -> None:
    header, tables = decode(RECORDS[0].body)
    assert header == {"seed": 7, "ledger_version": LEDGER_VERSION}
    told = {name: {column: values.tolist() for column, values in table.items()} for name, table in tables.items()}
    assert told == {
        "controls": {
            "bid": [BID] * 2,
            "budget": [BUDGET] * 2,
            "anchor_bid": [BID] * 2,
            "anchor_budget": [BUDGET] * 2,
            "paused": [0, 0],
        },
        "creatives": {"weights": [1_000_000, 500_000, 500_000]},
        "audiences": {"modifiers": [1_000_000] * 2, "anchor": [1_000_000] * 2},
        "layout": {"creative_start": [0, 1, 3], "audience_start": [0, 1, 2]},
    }


def test_a_ledger_does_not_open_in_the_middle() -> None:
    with pytest.raises(BadInput) as refusal:
        opening_body({}, campaign_set([1, 2]).layout, STATES[-1])
    assert str(refusal.value) == "a ledger opens at version 0 (=3): go on with the ledger of that run"


def test_columns_of_two_lengths_are_not_written() -> None:
    with pytest.raises(ValueError, match=r"^columns of offers \(=\[1, 2\] rows\) must have one length$"):
        encode({}, {"offers": {"row": np.zeros(1), "offer": np.zeros(2)}})


def test_what_is_not_finite_is_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode({"seed": float("nan")}, {})


# --- corrupt bodies ---


def test_a_ledger_error_is_bad_input() -> None:
    assert issubclass(LedgerError, BadInput)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_body_cut_anywhere_is_refused(place: int) -> None:
    body = RECORDS[place].body
    for length in range(len(body)):
        with pytest.raises(LedgerError):
            decode(body[:length])
    with pytest.raises(LedgerError):
        decode(body + b"\0")


@pytest.mark.parametrize("place", range(len(RECORDS)))
@pytest.mark.parametrize("mask", [0x01, 0x10, 0x80, 0xFF])
def test_a_forged_body_is_refused_or_read_and_nothing_else(place: int, mask: int) -> None:
    body = RECORDS[place].body
    for position in range(len(body)):
        forged = bytearray(body)
        forged[position] ^= mask
        with suppress(LedgerError):  # any other exception fails the test
            decode(bytes(forged))
        with suppress(LedgerError):
            fold(reseal(RECORDS, place, bytes(forged)))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(LedgerError):
        decode(noise)


def body_of(head: bytes, columns: bytes = b"") -> bytes:
    return len(head).to_bytes(4, "little") + head + columns


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"null",
        b"7",
        b"[]",
        b"{}",
        b'"header tables"',
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"header":{},"tables":7}',
        b'{"header":[],"tables":{}}',
        b'{"header":{},"tables":{"spells":{}}}',
        b'{"header":{},"tables":["results"]}',
        b'{"header":{},"tables":{"results":null}}',
        b'{"header":{},"tables":{"results":{"rows":-1,"columns":[["result","|u1"]]}}}',
        b'{"header":{},"tables":{"results":{"rows":true,"columns":[["result","|u1"]]}}}',
        b'{"header":{},"tables":{"results":{"rows":0.0,"columns":[["result","|u1"]]}}}',
        b'{"header":{},"tables":{"results":{"rows":1e400,"columns":[["result","|u1"]]}}}',
        b'{"header":{},"tables":{"results":{"rows":99999999999999999999,"columns":[["result","|u1"]]}}}',
        b'{"header":{},"tables":{"results":{"rows":0,"columns":[["result","|O"]]}}}',
        b'{"header":{},"tables":{"results":{"rows":0,"columns":[["result","a8"]]}}}',
        b'{"header":{},"tables":{"results":{"rows":0,"columns":[["result",["|u1"]]]}}}',
        b'{"header":{},"tables":{"results":{"rows":0,"columns":[["outcome","|u1"]]}}}',
        b'{"header":{},"tables":{"results":{"rows":0,"columns":[["result"]]}}}',
        b'{"header":{},"tables":{"results":{"rows":0,"columns":[]}}}',
        b'{"header":{},"tables":{"results":{"rows":0,"columns":7}}}',
        b"\xff\xfe",
    ],
)
def test_a_head_that_makes_no_sense_is_refused(head: bytes) -> None:
    with pytest.raises(LedgerError, match=r"it was changed$"):
        decode(body_of(head))


@pytest.mark.parametrize("notes", [None, 7, "ab", ["ab"], [["a", "b", "c"]], {"a": "b"}])
def test_notes_that_are_no_pairs_are_refused(notes: Any) -> None:
    header, tables = decode(RECORDS[1].body)
    with pytest.raises(LedgerError, match=r"^record 1 has notes that are not pairs"):
        decode_round(reseal(RECORDS, 1, encode({**header, "notes": notes}, tables))[1])


@pytest.mark.parametrize(("place", "body"), [(0, 1), (1, 0), (1, 4), (4, 1)])
def test_a_record_with_the_tables_of_another_kind_is_refused(place: int, body: int) -> None:
    with pytest.raises(LedgerError, match=rf"^record {place} \(.*\) has tables"):
        fold(reseal(RECORDS, place, RECORDS[body].body))


# --- fold ---


@pytest.mark.parametrize("length", range(1, len(RECORDS) + 1))
def test_every_prefix_folds_to_the_controls_as_of_its_recorded_results(length: int) -> None:
    folded = fold(RECORDS[:length])
    assert folded.state is not None
    assert folded.state.equals(STATES[length - 1])
    assert folded.records == length


def test_a_fold_tells_what_an_audit_reports() -> None:
    folded = fold(RECORDS)
    assert folded.header == {"seed": 7, "ledger_version": LEDGER_VERSION}
    assert folded.closing == {"ticks": 3, "notes": []}
    assert (folded.applied, folded.rollbacks, folded.max_relative_step) == (6, 1, 0.2)


def test_rows_recorded_or_stale_change_nothing() -> None:
    desk = Desk(campaign_set())
    desk.hold(wish(1_200_000))
    desk.results = np.array([Result.RECORDED])
    folded = fold(desk.close())
    assert folded.state is not None
    assert (folded.state.bid.tolist(), folded.applied, folded.max_relative_step) == ([BID], 0, 0.0)


@pytest.mark.parametrize("results", [[], [1, 1]])
def test_as_many_results_as_rows(results: list[int]) -> None:
    desk = Desk(campaign_set())
    desk.hold(wish(1_200_000))
    desk.results = np.array(results, dtype=np.uint8)
    with pytest.raises(LedgerError) as refusal:
        fold(desk.close())
    assert str(refusal.value) == f"record 2 has {len(results)} results for 1 rows: it was changed"


def test_the_first_round_has_no_results() -> None:
    desk = Desk(campaign_set())
    desk.results = np.array([1])
    desk.hold(wish(1_200_000))
    with pytest.raises(LedgerError, match=r"^record 1 has 1 results for 0 rows: it was changed$"):
        fold(desk.records)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("campaign", 2),
        ("campaign", -1),
        ("knob", 5),
        ("index", 1),
        ("index", -1),
        ("base_version", 1),
        ("old", BID + 1),
    ],
)
def test_an_applied_row_that_does_not_stand_on_the_controls_is_refused(column: str, value: int) -> None:
    desk = Desk(campaign_set([1, 1]))
    desk.hold(wish(1_200_000))
    desk.close()
    header, tables = decode(desk.records[1].body)
    tables["judged"][column] = np.array([value])
    with pytest.raises(LedgerError) as refusal:
        fold(reseal(desk.records, 1, encode(header, tables)))
    assert str(refusal.value) == "round 1 applied a row on controls that were not in force: it was not ours"


@pytest.mark.parametrize("version", [None, 0, LEDGER_VERSION + 1, "1"])
def test_another_version_of_the_ledger_is_refused(version: Any) -> None:
    header, tables = decode(RECORDS[0].body)
    with pytest.raises(LedgerError) as refusal:
        fold(reseal(RECORDS, 0, encode({**header, "ledger_version": version}, tables)))
    assert str(refusal.value) == (
        f"ledger_version (={version}) must be {LEDGER_VERSION}: use the bidtwin that wrote it"
    )


@pytest.mark.parametrize("creative_start", [[0, 3], [0, 0, 3], [0, 1, 2], [0, 3, 1]])
def test_a_layout_that_cannot_be_is_refused(creative_start: list[int]) -> None:
    header, tables = decode(RECORDS[0].body)
    tables["layout"] = {"creative_start": np.array(creative_start), "audience_start": np.arange(len(creative_start))}
    with pytest.raises(LedgerError, match=r"^record 0 lays out 3 weights in a way it cannot: it was changed$"):
        fold(reseal(RECORDS, 0, encode(header, tables)))


@pytest.mark.parametrize("audience_start", [[0, 0, 2], [0, 1, 3], [1, 1, 2]])
def test_a_layout_of_audiences_that_cannot_be_is_refused(audience_start: list[int]) -> None:
    header, tables = decode(RECORDS[0].body)
    tables["layout"]["audience_start"] = np.array(audience_start)
    with pytest.raises(LedgerError, match=r"^record 0 lays out 2 modifiers in a way it cannot: it was changed$"):
        fold(reseal(RECORDS, 0, encode(header, tables)))


def test_no_record_no_state() -> None:
    assert (fold([]).state, fold([]).records) == (None, 0)


def test_a_reason_is_told_in_a_word() -> None:
    assert [explain(Reason.STEP), explain(Reason.OUTSIDE_MANDATE)] == ["step", "outside_mandate"]
    assert NO_OFFER == -1


def test_bytes_behind_the_last_column_are_named() -> None:
    body = RECORDS[1].body
    with pytest.raises(LedgerError) as refusal:
        decode(body + b"?")
    assert str(refusal.value) == (
        f"a record body has {len(body) + 1} bytes where its header says {len(body)}: it was changed"
    )


def test_a_fold_has_the_columns_of_the_controls() -> None:
    folded = fold(RECORDS).state
    assert folded is not None
    kinds = {name: getattr(folded, name).dtype for name in ("scalar", "anchor", "weights", "paused", "version")}
    assert kinds == {name: getattr(STATES[-1], name).dtype for name in kinds}
    intents = decode_round(RECORDS[1]).intents(1)
    assert intents.base_version.dtype == np.int64


def test_rollbacks_are_counted_over_all_rounds_and_weights_are_no_step() -> None:
    desk = Desk(campaign_set([2]))
    for version in range(0, 4, 2):
        desk.hold(wish(1_100_000, version=version), vector([750_000, 250_000], version=version))
        desk.hold(
            wish(BID, source=Source.ROLLBACK, version=version + 1),
            vector([500_000, 500_000], Source.ROLLBACK, version=version + 1),
        )
    folded = fold(desk.close())
    assert (folded.applied, folded.rollbacks, folded.max_relative_step) == (12, 6, 0.1)
    assert fold([]).header == {}


@pytest.mark.parametrize(
    ("header", "names", "patience"),
    [
        ({"campaigns": ["north", "south"], "approval_ticks": 24}, ["north", "south"], 24),
        ({}, [0, 1], None),
        ({"campaigns": ["north"], "approval_ticks": "a day"}, [0, 1], None),
        ({"campaigns": "ab", "approval_ticks": True}, [0, 1], None),
    ],
)
def test_stories_name_campaigns_as_the_opening_does_and_by_number_where_it_cannot(
    header: dict[str, Any], names: list[Any], patience: int | None
) -> None:
    run = campaign_set((1, 1))
    told = Fold()
    told.update(seal(GENESIS, 0, RecordKind.OPENING, 0, opening_body(header, run.layout, controls(run))))
    assert (list(told.lives.names), told.lives.approval_ticks) == (names, patience)
