"""The run's files: the SQLite ledger with its single writer, and the folder that holds everything a run leaves."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, Any, Self

from engine.errors import BadInput
from engine.ledger import GENESIS, LedgerError, Record, RecordKind, seal, verify
from engine.runtime.plan import Moment, Rehearsal, unrehearsed

SCHEMA_VERSION = 1
LEDGER = "ledger.sqlite"

_TABLES = """
CREATE TABLE ledger (sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, tick INTEGER NOT NULL,
                     body BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE ops (id INTEGER PRIMARY KEY, wall_time REAL NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL);
"""
_SELECT = "SELECT sequence, kind, tick, body, digest FROM ledger"


class LedgerWriter:
    """The one writer of a ledger: a record is durable when `append` returns.

    A second writer, and any writer of a ledger whose chain does not hold, is refused. `ops` beside the ledger holds
    wall times and is part of no digest.
    """

    def __init__(self, connection: sqlite3.Connection, lock: IO[str], last: Record | None) -> None:
        self._connection = connection
        self._lock = lock
        self._sequence = last.sequence + 1 if last else 0
        self.head = last.digest if last else GENESIS

    @property
    def count(self) -> int:
        """Number of records."""
        return self._sequence

    def record(self, sequence: int) -> Record:
        """A record that stands in the ledger."""
        row = self._connection.execute(f"{_SELECT} WHERE sequence = ?", (sequence,)).fetchone()
        return _record(row, sequence)

    def records(self, end: int) -> Iterator[Record]:
        """The records before a sequence, in order."""
        for position, row in enumerate(self._connection.execute(f"{_SELECT} WHERE sequence < ? ORDER BY 1", (end,))):
            yield _record(row, position)

    @classmethod
    def create(cls, path: str | os.PathLike[str], rehearsal: Rehearsal = unrehearsed) -> Self:
        """Begin a new ledger: its file is there once it can hold records."""
        _must_be_new(path)
        with ExitStack() as held:
            lock = held.enter_context(_lock(path))
            _must_be_new(path)  # nor has anybody else begun it meanwhile
            draft = Path(f"{os.fspath(path)}.draft")
            draft.unlink(missing_ok=True)
            with closing(sqlite3.connect(draft)) as connection:
                connection.executescript(_TABLES)
            rehearsal(Moment.BEFORE_OPENING, 0)
            draft.replace(path)
            writer = cls(_connect(path), lock, None)
            held.pop_all()
        writer.note("created", {"pid": os.getpid()})
        return writer

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Go on with a ledger, after its whole chain was checked."""
        if not Path(path).exists():
            raise BadInput(f"ledger {path} does not exist: give the folder of a run")
        with ExitStack() as held:
            lock = held.enter_context(_lock(path))
            last = _checked(path)
            writer = cls(_connect(path), lock, last)
            held.pop_all()
        return writer

    def append(self, kind: RecordKind, tick: int, body: bytes) -> Record:
        """Chain a body to the ledger and make it durable."""
        record = seal(self.head, self._sequence, kind, tick, body)
        with self._connection:  # one transaction
            self._connection.execute(
                "INSERT INTO ledger VALUES (?, ?, ?, ?, ?)",
                (record.sequence, kind.value, tick, body, record.digest),
            )
        self._sequence += 1
        self.head = record.digest
        return record

    def note(self, what: str, detail: Mapping[str, Any]) -> None:
        """Write a line into `ops`."""
        with self._connection:
            self._connection.execute(
                "INSERT INTO ops (wall_time, what, detail) VALUES (?, ?, ?)",
                (time.time(), what, json.dumps(dict(detail))),
            )

    def close(self) -> None:
        """Give the ledger up, as one file without a write-ahead log beside it."""
        self.note("closed", {"pid": os.getpid()})
        self._connection.execute("PRAGMA journal_mode = DELETE")
        self.release()

    def release(self) -> None:
        """Let go of the file as it stands, for whoever goes on with it."""
        self._connection.close()
        self._lock.close()


def _must_be_new(path: str | os.PathLike[str]) -> None:
    if Path(path).exists():
        raise BadInput(f"ledger {path} exists already: open it, or choose another run folder")


def is_written(path: str | os.PathLike[str]) -> bool:
    """Whether a process holds the ledger's writer's lock."""
    try:
        _lock(path).close()
    except BadInput:
        return True
    return False


def read_ledger(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The records in order, straight from the file and unchecked; a broken file is a LedgerError."""
    if not Path(path).exists():
        raise BadInput(f"ledger {path} does not exist: give the folder of a run")
    position = 0
    try:
        connection = sqlite3.connect(f"file:{Path(path).absolute()}?mode=ro", uri=True)
        try:
            for row in connection.execute(f"{_SELECT} ORDER BY sequence"):
                yield _record(row, position)
                position += 1
        finally:
            connection.close()
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where a message of SQLite quotes what is broken
        raise LedgerError(
            f"the ledger's file cannot be read after record {position - 1} ({error}): restore it"
        ) from None


def _record(row: tuple[Any, ...], position: int) -> Record:
    """A row as a record; SQLite keeps any type in any column, and another type than ours is another ledger."""
    sequence, kind, tick, body, digest = row
    if [type(value) for value in row] != [int, str, int, bytes, bytes] or kind not in list(RecordKind):
        raise LedgerError(f"record {position} of the ledger is not one (kind {kind!r}): it was changed")
    return Record(sequence, RecordKind(kind), tick, body, digest)


def _checked(path: str | os.PathLike[str]) -> Record | None:
    """The last record of a ledger whose chain holds; None of an empty one."""
    bad = verify(read_ledger(path))
    if bad is not None:
        raise LedgerError(f"record {bad} of the ledger was changed after it was written: it is open for reading only")
    last = deque(read_ledger(path), maxlen=1)
    return last[0] if last else None


def _connect(path: str | os.PathLike[str]) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _lock(path: str | os.PathLike[str]) -> IO[str]:
    """The writer's lock, held by an open file: it goes with the process that holds it."""
    lock = Path(f"{os.fspath(path)}.lock").open("w")  # noqa: SIM115 - it stays open as long as the writer does
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise BadInput(f"ledger {path} is being written by another process: wait for it, or stop it") from None
    return lock
