"""Looking at a limits file: what is found where it changed, and one sentence where there is nothing to read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BadInput
from engine.limits import Limits
from engine.messages import Reloaded
from engine.runtime import limits as room
from engine.runtime.limits import MOST_BYTES, Lookout
from engine.runtime.plan import LimitsFile
from tests.engine.builders import campaign_set, with_limits

LIMITS = Limits.of(campaign_set())


def read(text: str) -> Limits:
    """Limits whose maximum is the number in the file."""
    if not text.strip().isdigit():
        raise BadInput(f"limits.yaml (={text!r:.20}) must be a number: write one")
    return with_limits(LIMITS, maximum=int(text))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "limits.yaml"
    path.write_text("100")
    return path


@pytest.fixture
def lookout(file: Path) -> Lookout:
    return Lookout(LimitsFile(file, read))


def maximum(found: Reloaded | None) -> int | None:
    """The number that was put in force; None: nothing new, or nothing good."""
    return None if found is None or found.limits is None else int(np.unique(found.limits.maximum)[0])


def test_a_file_is_read_once_for_each_text_it_holds(file: Path, lookout: Lookout) -> None:
    known = lookout.look(None)
    assert (maximum(known), known and known.told()) == (100, {"document": "100", "why": None})
    assert lookout.look(known) is None
    file.write_text("200")  # as long as before, and perhaps within the same tick of the file's clock
    known = lookout.look(known)
    assert maximum(known) == 200
    file.write_text("two hundred")
    known = lookout.look(known)
    assert known == Reloaded("two hundred", None, "limits.yaml (='two hundred') must be a number: write one")
    assert lookout.look(known) is None
    draft = file.with_name("draft")
    draft.write_text("200")
    draft.replace(file)
    assert maximum(lookout.look(known)) == 200
    assert maximum(Lookout(LimitsFile(file, read)).look(known)) == 200  # and for whoever takes over


@pytest.mark.parametrize(("seconds", "opened"), [(1, 3), (3, 1)])
def test_a_file_that_was_not_touched_for_a_while_is_not_opened(
    file: Path, lookout: Lookout, monkeypatch: pytest.MonkeyPatch, seconds: int, opened: int
) -> None:
    now, reads, read_bytes = file.stat().st_ctime_ns + seconds * 10**9, [], Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path)
        return read_bytes(path)

    monkeypatch.setattr(room.time, "time_ns", lambda: now)
    monkeypatch.setattr(Path, "read_bytes", counted)
    known = lookout.look(None)
    assert lookout.look(known) is None
    assert maximum(lookout.look(None)) == 100  # as somebody who went back to a checkpoint asks
    assert len(reads) == opened
    monkeypatch.undo()
    os.utime(file)
    assert lookout.look(known) is None
    file.write_text("300")
    assert maximum(lookout.look(known)) == 300


def spoil(file: Path, how: str) -> None:
    file.unlink()
    match how:
        case "folder":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "bytes":
            file.write_bytes(b"\xff\xfe1")
        case "long":
            file.write_bytes(b"1" * (MOST_BYTES + 1))
        case "loop":
            file.symlink_to(file)
        case _:
            assert how == "missing"


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("missing", "does not exist: put it back"),
        ("folder", "must be a file: put one in its place"),
        ("pipe", "must be a file: put one in its place"),
        ("bytes", "is not UTF-8 text: save it as UTF-8"),
        ("long", "(=4194305 bytes) must hold at most 4194304 bytes: shorten it"),
        ("loop", "cannot be read (Too many levels of symbolic links): let the run's owner read it"),
    ],
)
def test_what_cannot_be_read_is_told_once_in_a_sentence_without_its_folder(
    file: Path, lookout: Lookout, how: str, why: str
) -> None:
    good = lookout.look(None)
    spoil(file, how)
    known = lookout.look(good)
    assert known == Reloaded(None, None, f"limits.yaml {why}")
    assert lookout.look(known) is None
    if how == "folder":
        file.rmdir()
    else:
        file.unlink(missing_ok=True)
    file.write_text("100")
    assert maximum(lookout.look(known)) == 100


def test_a_path_that_no_file_can_have_is_told_in_a_sentence() -> None:
    found = Lookout(LimitsFile(Path("no\0such"), read)).look(None)
    why = "no\0such cannot be read (embedded null byte): let the run's owner read it"
    assert found == Reloaded(None, None, why)


def test_what_was_recorded_is_recalled_whatever_the_file_says_now(file: Path, lookout: Lookout) -> None:
    entries = [
        {"document": "100", "why": None},
        {"document": "ten", "why": "said another version of this program"},
        {"document": None, "why": "limits.yaml does not exist: put it back"},
    ]
    file.write_text("400")
    recalled = [lookout.recall(entry) for entry in entries]
    assert [each and each.told() for each in recalled] == entries
    assert [maximum(each) for each in recalled] == [100, None, None]
    assert lookout.recall(None) is None
