from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from engine.errors import BadInput
from engine.ledger import Record, verify
from engine.runtime.store import LEDGER, LedgerWriter, read_ledger
from tests.engine.builders import Desk, campaign_set, wish


def a_ledger() -> list[Record]:
    """Opening, two rounds, closing."""
    desk = Desk(campaign_set())
    desk.hold(wish(1_200_000))
    desk.hold(wish(1_100_000, version=1))
    return desk.close()


RECORDS = a_ledger()


def write(path: Path, records: list[Record]) -> None:
    writer = LedgerWriter.create(path)
    for record in records:
        assert writer.append(record.kind, record.tick, record.body) == record
    writer.close()


def test_what_is_appended_is_read_back_and_chained(tmp_path: Path) -> None:
    write(tmp_path / LEDGER, RECORDS)
    assert list(read_ledger(tmp_path / LEDGER)) == RECORDS
    assert verify(read_ledger(tmp_path / LEDGER)) is None


def test_a_record_is_readable_to_others_when_append_returns(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    writer = LedgerWriter.create(path)
    for length, record in enumerate(RECORDS, start=1):
        writer.append(record.kind, record.tick, record.body)
        assert list(read_ledger(path)) == RECORDS[:length]
        other = sqlite3.connect(path)
        assert other.execute("SELECT count(*), max(sequence) FROM ledger").fetchone() == (length, length - 1)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.close()
        assert writer.head == record.digest
    writer.close()


def test_a_writer_goes_on_where_another_stopped(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    write(path, RECORDS[:2])
    writer = LedgerWriter.open(path)
    assert writer.head == RECORDS[1].digest
    for record in RECORDS[2:]:
        assert writer.append(record.kind, record.tick, record.body) == record
    writer.close()
    assert list(read_ledger(path)) == RECORDS


def test_a_closed_ledger_is_one_file(tmp_path: Path) -> None:
    write(tmp_path / LEDGER, RECORDS)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == [LEDGER]


def test_ops_stand_beside_the_ledger_and_in_no_digest(tmp_path: Path) -> None:
    heads = []
    for name, notes in (("quiet", 0), ("noted", 3)):
        writer = LedgerWriter.create(tmp_path / name)
        for record in RECORDS:
            for note in range(notes):
                writer.note("restart", {"shard": note})
            writer.append(record.kind, record.tick, record.body)
        heads.append(writer.head)
        writer.close()
        ledger = sqlite3.connect(tmp_path / name)
        told = ledger.execute("SELECT what, count(*) FROM ops GROUP BY what ORDER BY what").fetchall()
        ledger.close()
        restarts = [("restart", notes * len(RECORDS))] if notes else []
        assert told == [("closed", 1), ("created", 1), *restarts]
    assert heads == [RECORDS[-1].digest] * 2


def test_a_record_that_cannot_be_written_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    writer = LedgerWriter.create(path)
    opening, first = RECORDS[:2]
    writer.append(opening.kind, opening.tick, opening.body)
    with pytest.raises(OverflowError):
        writer.append(first.kind, 2**70, first.body)  # more than a column of SQLite holds
    assert list(read_ledger(path)) == [opening]
    assert writer.head == opening.digest
    assert writer.append(first.kind, first.tick, first.body) == first
    writer.close()


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    for call in (LedgerWriter.open, lambda each: list(read_ledger(each))):
        with pytest.raises(BadInput) as refused:
            call(path)
        assert str(refused.value) == f"ledger {path} does not exist: give the folder of a run"
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 20)
    with pytest.raises(BadInput) as broken:
        list(read_ledger(path))
    assert str(broken.value) == (
        "the ledger's file cannot be read after record -1 (file is not a database): restore it"
    )
