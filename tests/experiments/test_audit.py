"""What an audit finds, and what a ledger's writer refuses: every change of what was written, wherever it was made."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput
from engine.ledger import GENESIS, LedgerError, RecordKind, seal, verify
from engine.runtime.store import LEDGER, LedgerWriter, read_ledger
from experiments import api
from tests.conftest import Stage
from tests.scenarios import SIMULATION, config

WHOLE = {"valid", "records", "first_bad", "applied", "max_relative_step", "rollbacks", "open_alerts"}

CHANGED = "record {} of the ledger was changed after it was written: it is open for reading only"
NONE = "record {} of the ledger is not one (kind {!r})"


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a day with a decision every four hours, so that every byte of its ledger can be tried."""
    markets = {name: {**market, "shocks": []} for name, market in config()["markets"].items()}
    time = {"start": "2026-03-28", "days": 1, "tick_minutes": 240}
    changes: dict[str, Any] = {"markets": markets, "time": time, "script": {}, "record": []}
    return api.simulate(config(SIMULATION, **changes), out=tmp_path_factory.mktemp("short") / "run").folder


@pytest.fixture
def folder(short: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(short, tmp_path / "run"))


def change(folder: Path, statement: str, *values: object) -> None:
    """Write into the ledger behind its writer's back."""
    with sqlite3.connect(folder / LEDGER) as connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()


def refusal(folder: Path) -> str:
    """What a writer says to the ledger."""
    with pytest.raises(LedgerError) as refused:
        LedgerWriter.open(folder / LEDGER)
    return str(refused.value)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]


def test_a_whole_ledger_holds(folder: Path) -> None:
    found = api.audit(folder)
    assert set(found) == WHOLE
    assert (found["valid"], found["records"], found["first_bad"], found["open_alerts"]) == (True, 7, None, 0)
    assert found["applied"] == json.loads((folder / "run.json").read_text())["actions"]["applied"] > 5
    assert 0 < found["max_relative_step"] <= 0.25
    writer = LedgerWriter.open(folder / LEDGER)
    writer.close()
    assert api.audit(folder) == found


def test_any_byte_of_any_record_is_found_and_the_writer_refuses(folder: Path) -> None:
    whole = api.audit(folder)
    records = list(read_ledger(folder / LEDGER))
    tried = 0
    for record in records:
        for name in ("body", "digest"):
            data = getattr(record, name)
            statement = f"UPDATE ledger SET {name} = ? WHERE sequence = ?"  # noqa: S608 - a column of ours
            for at in {*range(0, len(data), max(1, len(data) // 8)), len(data) - 1}:
                change(folder, statement, flipped(data, at), record.sequence)
                found = api.audit(folder)
                assert (found["valid"], found["first_bad"]) == (False, record.sequence), (record.sequence, name, at)
                assert found["records"] == record.sequence
                assert refusal(folder) == CHANGED.format(record.sequence)
                tried += 1
            change(folder, statement, data, record.sequence)
    assert tried > 100
    assert api.audit(folder) == whole


@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE ledger SET tick = tick + 1 WHERE sequence = ?", None),
        ("UPDATE ledger SET tick = tick + 0.5 WHERE sequence = ?", NONE),
        ("UPDATE ledger SET tick = tick || 'x' WHERE sequence = ?", NONE),
        ("UPDATE ledger SET body = 9000000000000000000 WHERE sequence = ?", NONE),
        ("UPDATE ledger SET digest = 32 WHERE sequence = ?", NONE),
        ("UPDATE ledger SET kind = 'rounc' WHERE sequence = ?", "record {} of the ledger is not one (kind 'rounc')"),
        ("UPDATE ledger SET kind = CAST(kind AS BLOB) WHERE sequence = ?", NONE.replace("{!r}", "b{!r}")),
        ("UPDATE ledger SET kind = CASE kind WHEN 'round' THEN 'closing' ELSE 'round' END WHERE sequence = ?", None),
        ("UPDATE ledger SET sequence = 100 WHERE sequence = ?", None),
        ("UPDATE ledger SET sequence = -1 - sequence WHERE sequence = ?", None),
    ],
)
def test_a_changed_head_of_any_record_is_found(folder: Path, place: int, statement: str, why: str | None) -> None:
    kind = ["opening", *["round"] * 5, "closing"][place]
    change(folder, statement, place)
    found = api.audit(folder)
    at = 0 if "-1" in statement else place  # moved to the front, it is the first of all that cannot stand there
    if why is None and found["records"] == place == 6:  # the last record moved away leaves no gap, and is missing
        assert found["first_bad"] == 6
        return
    assert (found["valid"], found["first_bad"], found["records"]) == (False, at, at)
    if why:
        told = f"{why.format(place, kind)}: it was changed"
        assert found["why"] == told == refusal(folder)
    else:
        assert refusal(folder) == CHANGED.format(at)


@pytest.mark.parametrize("place", range(7))
def test_a_missing_record_is_found(folder: Path, place: int) -> None:
    change(folder, "DELETE FROM ledger WHERE sequence = ?", place)
    found = api.audit(folder)
    assert (found["valid"], found["first_bad"], found["records"]) == (False, place, place)
    if place == 6:
        assert found["why"] == "records are missing at the end"


def test_a_ledger_without_any_record_is_found_and_opens_as_new(folder: Path) -> None:
    with sqlite3.connect(folder / LEDGER) as connection:
        connection.execute("DELETE FROM ledger")
    connection.close()
    found = api.audit(folder)
    assert (found["valid"], found["first_bad"], found["records"]) == (False, 0, 0)
    writer = LedgerWriter.open(folder / LEDGER)
    assert writer.head == GENESIS
    writer.close()


def test_a_forged_ledger_whose_chain_holds_is_not_the_runs(folder: Path) -> None:
    """Every record sealed anew, after the last tick of the last round was changed: only run.json can tell."""
    records = list(read_ledger(folder / LEDGER))
    previous = GENESIS
    for record in records:
        tick = record.tick + (record.kind is RecordKind.CLOSING)
        forged = seal(previous, record.sequence, record.kind, tick, record.body)
        change(
            folder,
            "UPDATE ledger SET tick = ?, digest = ? WHERE sequence = ?",
            forged.tick,
            forged.digest,
            forged.sequence,
        )
        previous = forged.digest
    assert verify(read_ledger(folder / LEDGER)) is None
    assert api.audit(folder)["valid"] is False


def test_a_chained_row_that_was_never_approved_on_these_controls_is_named(folder: Path) -> None:
    """A forger who seals the chain and run.json anew still cannot apply a row that does not stand on the controls."""
    records = list(read_ledger(folder / LEDGER))
    swapped = [records[0], records[2], records[1], *records[3:]]
    previous = GENESIS
    for sequence, record in enumerate(swapped):
        forged = seal(previous, sequence, record.kind, record.tick, record.body)
        change(folder, "DELETE FROM ledger WHERE sequence = ?", sequence)
        row = (sequence, forged.kind.value, forged.tick, forged.body, forged.digest)
        change(folder, "INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", *row)
        previous = forged.digest
    found = api.audit(folder)
    assert (found["valid"], found["first_bad"]) == (False, 1)
    assert "results for" in found["why"]


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_byte_of_the_file_is_never_a_traceback(short: Path, tmp_path: Path, seed: int) -> None:
    """Anywhere in SQLite's pages: the audit finds it, or it lies where the ledger keeps nothing."""
    data = (short / LEDGER).read_bytes()
    whole = api.audit(short)
    run = Path(shutil.copytree(short, tmp_path / "run"))
    found_bad = 0
    for at in [*range(seed, 110, 3), *range(seed * 37, len(data), len(data) // 60)]:
        (run / LEDGER).write_bytes(flipped(data, at))
        for beside in ("-wal", "-shm", "-journal"):
            (run / f"{LEDGER}{beside}").unlink(missing_ok=True)
        found = api.audit(run)
        if found["valid"]:
            assert found == whole
        else:
            found_bad += 1
            assert set(found) - {"why"} == WHOLE
            assert 0 <= found["first_bad"] <= 7
            assert "Traceback" not in found.get("why", "")
            with pytest.raises(BadInput):
                LedgerWriter.open(run / LEDGER)
    assert found_bad > 10


def test_two_writers_on_one_ledger_the_second_fails(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    first = LedgerWriter.create(path)
    with pytest.raises(BadInput) as second:
        LedgerWriter.open(path)
    assert str(second.value) == f"ledger {path} is being written by another process: wait for it, or stop it"
    with pytest.raises(BadInput) as third:
        LedgerWriter.create(path)
    assert str(third.value) == f"ledger {path} exists already: open it, or choose another run folder"
    first.close()
    LedgerWriter.open(path).close()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "{",
            " cannot be read (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)): restore it",
        ),
        ('{"schema_version": 1}', ": schema_version (=1) must be 2: open it with the bidtwin that wrote it"),
        ("[]", ": schema_version (=None) must be 2: open it with the bidtwin that wrote it"),
    ],
)
def test_a_run_json_that_is_none_of_ours_is_refused(folder: Path, text: str, sentence: str) -> None:
    (folder / "run.json").write_text(text)
    calls: tuple[Callable[[Path], object], ...] = (api.audit, api.open_run)
    for call in calls:
        with pytest.raises(BadInput) as refused:
            call(folder)
        assert str(refused.value) == f"{folder / 'run.json'}{sentence}"


def test_a_run_without_its_ledger_is_refused(folder: Path) -> None:
    (folder / LEDGER).unlink()
    with pytest.raises(BadInput) as refused:
        api.audit(folder)
    assert str(refused.value) == f"ledger {folder / LEDGER} does not exist: give the folder of a run"


def test_every_runs_largest_automatic_step_is_a_quarter_or_less(reference: Stage) -> None:
    steps = {job: api.audit(reference.run(job).folder)["max_relative_step"] for job in reference.jobs}
    assert max(steps.values()) <= 0.25
    assert steps["factual"] == 0.0
    for job in set(reference.jobs) - {"factual"}:
        actions = reference.run(job).actions
        mine = actions[(actions.outcome == "applied") & actions.source.isin(["policy", "script", "rule"])]
        mine = mine[mine.knob.isin(["bid", "budget"])]
        assert steps[job] == ((mine.wanted - mine.old).abs() / mine.old).max()
        assert (4 * (mine.wanted - mine.old).abs() <= mine.old).all()
