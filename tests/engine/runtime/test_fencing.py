"""One optimiser has the place: a second is refused, a successor takes it over, and an older one writes nothing more."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import BadInput
from engine.ledger import verify
from engine.runtime import store
from engine.runtime.lease import Lease
from engine.runtime.local import LocalRunner
from engine.runtime.plan import Moment
from engine.runtime.store import LEDGER, Fence, LedgerWriter, read_ledger
from experiments import api
from experiments.api import Run
from tests.engine.runtime.test_store import RECORDS
from tests.experiments.cli_runs import Told, call, eventually, session_of
from tests.rehearsals import At, Crash, begin, small
from tests.scenarios import write_config

NOW = 1_000_000.0
OPENING, FIRST, SECOND, CLOSING = RECORDS


def lost_to_a_newer_one(ledger: Path) -> str:
    return (
        f"this optimiser lost ledger {ledger} to a newer one, so it stops and has written nothing since: "
        "follow the newer one"
    )


def lapse(ledger: Path, epoch: int = 1) -> None:
    """A lease that was renewed long ago, and that is watched for a moment only."""
    Lease(ledger.parent, epoch).renew(NOW - 100, 0.05)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / LEDGER


@pytest.fixture
def holder(ledger: Path) -> Iterator[LedgerWriter]:
    """A writer that holds the ledger with two records in it."""
    writer = LedgerWriter.create(ledger)
    for record in (OPENING, FIRST):
        writer.append(record.kind, record.tick, record.body)
    yield writer
    writer.release()


def refused(ledger: Path) -> str:
    with pytest.raises(BadInput) as caught:
        LedgerWriter.open(ledger, NOW)
    assert sorted(path.name for path in ledger.parent.glob("*.lock*")) == [f"{LEDGER}.lock"]
    return str(caught.value)


# --- the ledger ---


def test_every_opening_for_writing_raises_the_epoch(ledger: Path) -> None:
    writer, epochs = LedgerWriter.create(ledger), []
    for _ in range(3):
        epochs.append(writer.epoch)
        writer.close()
        writer = LedgerWriter.open(ledger)
    writer.release()
    assert epochs == [1, 2, 3]


def test_who_lost_its_place_writes_nothing_more(ledger: Path, holder: LedgerWriter) -> None:
    lapse(ledger)
    successor = LedgerWriter.open(ledger, NOW)
    assert (successor.epoch, successor.head) == (2, FIRST.digest)
    assert successor.append(SECOND.kind, SECOND.tick, SECOND.body) == SECOND
    for write in (
        lambda: holder.append(SECOND.kind, SECOND.tick, SECOND.body),
        lambda: holder.note("restored", {}),
        holder.close,
        Fence(ledger, 1)().__enter__,
    ):
        with pytest.raises(BadInput) as lost:
            write()
        assert str(lost.value) == lost_to_a_newer_one(ledger)
    with Fence(ledger, 2)():
        pass
    assert successor.append(CLOSING.kind, CLOSING.tick, CLOSING.body) == CLOSING
    successor.close()
    assert list(read_ledger(ledger)) == RECORDS
    told = sqlite3.connect(ledger)
    assert [what for (what,) in told.execute("SELECT what FROM ops")] == ["created", "taken_over", "closed"]
    told.close()
    holder.release()
    assert sorted(path.name for path in ledger.parent.iterdir()) == ["lease-1.json", LEDGER, f"{LEDGER}.lock"]
    assert list(read_ledger(ledger)) == RECORDS


def test_a_successor_holds_the_lock_and_is_not_taken_over_itself(ledger: Path, holder: LedgerWriter) -> None:
    lapse(ledger)
    successor = LedgerWriter.open(ledger, NOW)
    with pytest.raises(BadInput) as second:
        LedgerWriter.open(ledger)
    assert str(second.value) == f"ledger {ledger} is being written by another process: wait for it, or stop it"
    assert "has no lease that could lapse" in refused(ledger)
    holder.release()  # what the old one held is nobody's lock
    assert "has no lease that could lapse" in refused(ledger)
    successor.release()
    LedgerWriter.open(ledger).release()


def test_a_living_lease_is_not_taken_over(ledger: Path, holder: LedgerWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = f"ledger {ledger} is being written by another process, whose lease is alive: wait for it, or stop it"
    lease = Lease(ledger.parent, holder.epoch)
    lease.renew(NOW - 1, 5.0)
    assert refused(ledger) == alive
    for jumped in (-86_400, 86_400 * 30):  # of the wall clock: the watchdog renews while we look
        lease.renew(NOW - jumped, 5.0)
        monkeypatch.setattr("engine.runtime.lease.time.sleep", lambda _: lease.renew(NOW, 5.0))
        assert refused(ledger) == alive
    holder.append(SECOND.kind, SECOND.tick, SECOND.body)


def test_without_a_lease_nothing_is_taken_over(ledger: Path, holder: LedgerWriter) -> None:
    assert refused(ledger) == (
        f"ledger {ledger} is being written by another process, which has no lease that could lapse, as its run is not "
        "paced: wait for it, or stop it"
    )
    lapse(ledger, holder.epoch + 1)  # that of another epoch is none of the holder's
    assert "has no lease that could lapse" in refused(ledger)


def test_a_holder_that_wakes_up_meanwhile_keeps_its_place(
    ledger: Path, holder: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    lapse(ledger)
    checked = store._checked

    def wakes_up(path: Path) -> object:
        last = checked(path)
        holder.append(SECOND.kind, SECOND.tick, SECOND.body)
        return last

    monkeypatch.setattr(store, "_checked", wakes_up)
    assert refused(ledger) == f"ledger {ledger} is being written by another process: wait for it, or stop it"
    assert holder.append(CLOSING.kind, CLOSING.tick, CLOSING.body) == CLOSING


def test_a_holder_that_was_stopped_while_it_wrote_is_not_passed(
    ledger: Path, holder: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    lapse(ledger)
    monkeypatch.setattr(store, "_BUSY_SECONDS", 0.05)
    with Fence(ledger, holder.epoch)():
        assert refused(ledger) == f"ledger {ledger} is held by a process that was stopped while it wrote: end that one"
    LedgerWriter.open(ledger, NOW).release()


# --- a whole run ---


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[tuple[Moment, int]]]:
    at = At()
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return begin(api.load(small(decision_every=5)), folder, LocalRunner(checkpoint_every=4), at), at.calls


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# before the ledger is there, nobody can take it over; while run.json is written, nobody gets in; after it, all is done
UNDECIDED = [each for each in Moment if each not in {Moment.BEFORE_OPENING, Moment.IN_RESULT, Moment.AFTER_RESULT}]


@pytest.mark.slow
@pytest.mark.parametrize("moment", UNDECIDED)
def test_paused_anywhere_an_old_optimiser_changes_nothing_of_its_successors_result(
    undisturbed: tuple[Run, list[tuple[Moment, int]]], tmp_path: Path, moment: Moment
) -> None:
    reference, calls = undisturbed
    out, left = tmp_path / "run", {}
    places = [place for place, (which, _) in enumerate(calls) if which is moment]
    paused = At(places[len(places) // 2])

    def go_on_beside(moment: Moment, number: int) -> None:
        try:
            paused(moment, number)
        except Crash:
            lapse(out / LEDGER)
            successor = api.resume(out, runner=LocalRunner(2, 3, take_over=True))
            assert successor.digests == reference.digests
            left.update(contents(out))

    with pytest.raises(BadInput) as lost:
        begin(api.load(small(decision_every=5)), out, LocalRunner(checkpoint_every=4), go_on_beside)
    assert str(lost.value) == lost_to_a_newer_one(out / LEDGER)
    now = contents(out)
    beside = {Path(LEDGER + "-shm"), Path(LEDGER + "-wal")}  # the old one's, gone with it
    assert now == {path: content for path, content in left.items() if path not in beside}
    assert api.audit(out)["valid"]


@pytest.mark.slow
def test_ctrl_c_on_an_old_optimiser_leaves_its_successors_result_finished(tmp_path: Path) -> None:
    out, paused = tmp_path / "run", At(80)

    def wake_up_interrupted(moment: Moment, number: int) -> None:
        try:
            paused(moment, number)
        except Crash:
            lapse(out / LEDGER)
            api.resume(out, runner=LocalRunner(take_over=True))
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        begin(api.load(small(decision_every=5)), out, LocalRunner(), wake_up_interrupted)
    assert api.open_run(out).info["status"] == "finished"


IN_A_HURRY = """
import engine.runtime.watchdog
engine.runtime.watchdog.SECONDS = 1.0
from experiments.cli import main
main()
"""


def held(ledger: Path) -> int:
    """How many records a ledger holds."""
    return len(list(read_ledger(ledger))) if ledger.exists() else 0


@pytest.mark.slow
def test_an_optimiser_paused_and_resumed_beside_its_successor(
    undisturbed: tuple[Run, list[tuple[Moment, int]]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Driver and watchdog are stopped; this process takes over and ends; then the first is let go on."""
    config, out = write_config(tmp_path / "small.yaml", small(decision_every=5)), tmp_path / "run"
    paced = ["simulate", config, "--local", "--quiet", "--pace", "36000", "--out", out]  # half a second a decision
    with subprocess.Popen(
        [sys.executable, "-c", IN_A_HURRY, *map(str, paced)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as first:
        try:
            assert eventually(lambda: held(out / LEDGER) >= 3)
            assert len(session_of(first.pid)) == 2  # itself and its watchdog
            os.killpg(first.pid, signal.SIGSTOP)
            came = held(out / LEDGER)
            assert 3 <= came < 15
            plain = call(capfd, "simulate", "--resume", out, "--local", "--quiet")
            sentence = f"ledger {out / LEDGER} is being written by another process: wait for it, or stop it"
            assert plain == Told(2, "", f"bidtwin: {sentence}\n")
            assert eventually(lambda: not Lease(out, 1).held(time.time()))
            taken = call(capfd, "simulate", "--resume", out, "--take-over", "--local", "--json")
            assert (taken.code, taken.err) == (0, "")
            finished = api.open_run(out)
            left = contents(out)
        finally:
            os.killpg(first.pid, signal.SIGCONT)
        said = first.communicate(timeout=30)
    assert (first.returncode, said) == (2, ("", f"bidtwin: {lost_to_a_newer_one(out / LEDGER)}\n"))
    assert session_of(first.pid) == set()
    assert finished.digests == undisturbed[0].digests
    gone = {Path(f"{LEDGER}-shm"), Path(f"{LEDGER}-wal"), Path("lease-1.json")}  # what was the first one's alone
    assert contents(out) == {path: content for path, content in left.items() if path not in gone}
    assert verify(read_ledger(out / LEDGER)) is None


def test_only_a_run_that_goes_on_is_taken_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = call(capfd, "simulate", write_config(tmp_path / "small.yaml", small()), "--take-over", "--local")
    rule = "--take-over is about a run that goes on: give it with --resume and the run's folder"
    assert told == Told(2, "", f"bidtwin: {rule}\n")
