"""The ledger's file in SQLite, its single writer, and the fence that keeps an older writer from the run's files.

The writer holds a lock, which goes with its process, and an epoch, which stands in the file and which every opening
for writing raises by one. A process that is stopped keeps its lock for ever: once its lease has lapsed, another may
take the ledger over, and what the old one still wants to write is refused by its epoch. See docs/decisions/0004.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, Any, Self, TypeAlias

from engine.errors import BadInput
from engine.ledger import GENESIS, LedgerError, Record, RecordKind, seal, verify
from engine.runtime.lease import must_have_lapsed
from engine.runtime.plan import Moment, Rehearsal, unrehearsed

SCHEMA_VERSION = 1
LEDGER = "ledger.sqlite"
_FIRST_EPOCH = 1
_BUSY_SECONDS = 5.0

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

    def __init__(
        self,
        path: str | os.PathLike[str],
        connection: sqlite3.Connection,
        lock: IO[str],
        epoch: int,
        last: Record | None,
    ) -> None:
        self._path = path
        self._connection = connection
        self._lock = lock
        self.epoch = epoch
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
                connection.executescript(f"{_TABLES} PRAGMA user_version = {_FIRST_EPOCH};")
            rehearsal(Moment.BEFORE_OPENING, 0)
            draft.replace(path)
            writer = cls(path, _connect(path), lock, _FIRST_EPOCH, None)
            held.pop_all()
        writer.note("created", {"pid": os.getpid()})
        return writer

    @classmethod
    def open(cls, path: str | os.PathLike[str], take_over_at: float | None = None) -> Self:
        """Go on with a ledger, after its whole chain was checked.

        Parameters
        ----------
        take_over_at:
            The time now, by the wall clock, if a ledger that another process holds is to be taken over from it once its
            lease has lapsed.

        Raises
        ------
        BadInput
            In one sentence, where another process holds the ledger, or its chain does not hold.
        """
        if not Path(path).exists():
            raise BadInput(f"ledger {path} does not exist: give the folder of a run")
        with ExitStack() as held:
            try:
                lock, seizes = held.enter_context(_lock(path)), False
                epoch = _epoch_in(path)
            except BadInput:
                if take_over_at is None:
                    raise
                epoch = _epoch_in(path)
                must_have_lapsed(path, epoch, take_over_at)
                lock, seizes = held.enter_context(_lock(path, f".{os.getpid()}")), True
                held.callback(Path(lock.name).unlink, missing_ok=True)
            last = _checked(path)
            connection = held.enter_context(closing(_connect(path)))
            _raise_epoch(connection, path, epoch, last, Path(lock.name) if seizes else None)
            writer = cls(path, connection, lock, epoch + 1, last)
            held.pop_all()
        if seizes:
            writer.note("taken_over", {"pid": os.getpid(), "epoch": writer.epoch})
        return writer

    def append(self, kind: RecordKind, tick: int, body: bytes) -> Record:
        """Chain a body to the ledger and make it durable; a BadInput where a newer optimiser has the ledger."""
        record = seal(self.head, self._sequence, kind, tick, body)
        with _fenced(self._connection, self._path, self.epoch):
            self._connection.execute(
                "INSERT INTO ledger VALUES (?, ?, ?, ?, ?)",
                (record.sequence, kind.value, tick, body, record.digest),
            )
        self._sequence += 1
        self.head = record.digest
        return record

    def note(self, what: str, detail: Mapping[str, Any]) -> None:
        """Write a line into `ops`."""
        with _fenced(self._connection, self._path, self.epoch):
            self._connection.execute(
                "INSERT INTO ops (wall_time, what, detail) VALUES (?, ?, ?)",
                (time.time(), what, json.dumps(dict(detail))),
            )

    def close(self) -> None:
        """Give the ledger up, as one file without a write-ahead log beside it.

        Where a process that lost its place has the file open still, the log stays until that ends, and it is empty.
        """
        self.note("closed", {"pid": os.getpid()})
        try:
            self._connection.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.release()

    def release(self) -> None:
        """Let go of the file as it stands, for whoever goes on with it."""
        self._connection.close()
        self._lock.close()


Fenced: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Inside `with fenced():` only the run's own optimiser, not an older one, may do what is done to its files."""


class Fence:
    """The driver's place in a run: what is done to the run's files inside `with fence():` is done by its epoch, or not.

    Meanwhile nobody can take the run over, so it should be short: to make a file, or to move one into its place.

    Parameters
    ----------
    path:
        The ledger's.
    epoch:
        That in which this run's optimiser holds it; a driver learns it when the optimiser has taken the ledger up.
    """

    def __init__(self, path: str | os.PathLike[str], epoch: int | None = None) -> None:
        self._path = path
        self.epoch = epoch

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """A BadInput where a newer optimiser has the ledger."""
        with (
            closing(sqlite3.connect(self._path, isolation_level=None)) as connection,
            _fenced(connection, self._path, self.epoch),
        ):
            yield


@contextmanager
def _fenced(connection: sqlite3.Connection, path: str | os.PathLike[str], epoch: int | None) -> Iterator[None]:
    """A transaction in which the epoch is ours: nobody else writes before it ends."""
    with connection:  # commits, or rolls back
        connection.execute("BEGIN IMMEDIATE")
        if _epoch_of(connection) != epoch:
            raise BadInput(
                f"this optimiser lost ledger {path} to a newer one, so it stops and has written nothing since: follow "
                "the newer one"
            )
        yield


def _raise_epoch(
    connection: sqlite3.Connection, path: str | os.PathLike[str], epoch: int, last: Record | None, lock: Path | None
) -> None:
    """Make the ledger ours if nobody wrote to it since it was checked; if it is seized, with our lock in its place."""
    try:
        with connection:  # commits, or rolls back
            connection.execute("BEGIN IMMEDIATE")
            stands = connection.execute("SELECT digest FROM ledger ORDER BY sequence DESC LIMIT 1").fetchone()
            if (_epoch_of(connection), stands) != (epoch, (last.digest,) if last else None):
                raise _written_by_another(path)
            if lock:
                lock.replace(_lock_of(path))
            connection.execute(f"PRAGMA user_version = {epoch + 1}")
    except sqlite3.OperationalError as error:
        if not _is_busy(error):
            raise
        raise BadInput(f"ledger {path} is held by a process that was stopped while it wrote: end that one") from None


def _is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection holds what was wanted."""
    return error.sqlite_errorname.startswith("SQLITE_BUSY")


def _epoch_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _epoch_in(path: str | os.PathLike[str]) -> int:
    """The epoch that stands in a ledger's file."""
    try:
        with closing(_read_only(path)) as connection:
            return _epoch_of(connection)
    except sqlite3.Error as error:
        raise LedgerError(f"the ledger's file cannot be read ({error}): restore it") from None


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
        connection = _read_only(path)
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


def _read_only(path: str | os.PathLike[str]) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{Path(path).absolute()}?mode=ro", uri=True)


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
    connection = sqlite3.connect(path, _BUSY_SECONDS, isolation_level=None)  # we begin our transactions ourselves
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _lock(path: str | os.PathLike[str], beside: str = "") -> IO[str]:
    """The writer's lock, held by an open file: it goes with the process that holds it."""
    name = _lock_of(path).with_name(_lock_of(path).name + beside)
    lock = name.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if name.stat().st_ino == os.fstat(lock.fileno()).st_ino:  # not that of a ledger which was just taken over
            return lock
    except BlockingIOError:
        pass
    lock.close()
    raise _written_by_another(path)


def _lock_of(path: str | os.PathLike[str]) -> Path:
    return Path(f"{os.fspath(path)}.lock")


def _written_by_another(path: str | os.PathLike[str]) -> BadInput:
    return BadInput(f"ledger {path} is being written by another process: wait for it, or stop it")
