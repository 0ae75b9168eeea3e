"""What disks and files do to a run: one sentence each, nothing lost, and the run goes on once it is mended."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from engine.errors import BadInput
from engine.ledger import verify
from engine.runtime.local import LocalRunner
from engine.runtime.plan import Moment
from engine.runtime.store import LEDGER, read_ledger
from experiments import api
from experiments.api import Run
from tests.experiments.cli_runs import Told, run
from tests.frames import assert_same
from tests.rehearsals import Crash, Rehearsed, begin, small
from tests.scenarios import write_config

pytestmark = pytest.mark.slow

EVERY = 4
CHANGES = {"decision_every": 5}


def runner() -> LocalRunner:
    return LocalRunner(2, EVERY)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return api.simulate(small(**CHANGES), out=tmp_path_factory.mktemp("undisturbed") / "run", runner=runner())


@pytest.fixture(scope="module")
def lost_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run lost after its third checkpoint, with records that are in the write-ahead log alone."""
    out = tmp_path_factory.mktemp("lost") / "run"

    class Copied:
        """As it is when the process is gone: the copy is what a power cut leaves."""

        def __call__(self, moment: Moment, number: int) -> None:
            if moment is Moment.AFTER_CHECKPOINT and number == 60:
                shutil.copytree(out, out.with_name("copy"))
                raise Crash

    with pytest.raises(Crash):
        begin(api.load(small(**CHANGES)), out, runner(), Copied())
    return out.with_name("copy")


@pytest.fixture
def lost(lost_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lost_once, tmp_path / "run"))


def same(here: Run, there: Run) -> None:
    assert here.digests == there.digests
    assert_same(here.metrics, there.metrics)
    assert_same(here.actions, there.actions)


def refused(folder: Path) -> str:
    with pytest.raises(BadInput) as caught:
        api.resume(folder, runner=runner())
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def resumed_or_refused(folder: Path) -> Run | str:
    try:
        return api.resume(folder, runner=runner())
    except BadInput as error:
        return str(error)


def held(folder: Path) -> int:
    """How many records a valid ledger holds."""
    records = list(read_ledger(folder / LEDGER))
    assert verify(records) is None
    return len(records)


# --- the disk ---


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own, which root alone may have."""
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", options, "none", folder], check=False, capture_output=True
    )
    if not made or made.returncode:
        pytest.skip("mounting a file system takes root")
    try:
        yield
    finally:
        subprocess.run([unmount or "umount", "-l", folder], check=True)  # a run that ended early may hold drafts open


@pytest.mark.slow
@pytest.mark.parametrize("spare", [8_192, 40_960, 131_072])
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    undisturbed: Run, tmp_path: Path, spare: int
) -> None:
    config = write_config(tmp_path / "small.yaml", small(**CHANGES))
    disk = tmp_path / "disk"
    with mounted(disk, "size=2m"):
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(2 * 1024**2 - spare - 4096))
        told = run("simulate", config, "--local", "--quiet", "--out", disk / "run", folder=tmp_path)
        assert (told.code, told.out) == (2, "")
        assert told.err.startswith(f"bidtwin: run folder {disk}/run cannot be written (")
        assert told.err.count("\n") == 1
        ballast.unlink()
        there = disk / "run" / LEDGER
        records = list(read_ledger(there)) if there.exists() else []
        assert records == list(read_ledger(undisturbed.folder / LEDGER))[: len(records)]
        if not (disk / "run" / "run.json").exists():
            assert records == []  # nothing of it had begun
            return
        same(api.resume(disk / "run", runner=runner()), undisturbed)


@pytest.mark.slow
def test_disk_full_nothing_is_applied_and_nothing_begins_until_it_is_mended(undisturbed: Run, tmp_path: Path) -> None:
    """What is applied stands in the ledger; who is asked to go on says no, until there is room."""
    disk = tmp_path / "disk"
    applied: list[int] = []

    def watch(moment: Moment, number: int) -> None:
        if moment is Moment.BEFORE_APPLY:
            applied.append(number)

    with mounted(disk, "size=2m"):
        (disk / "ballast").write_bytes(bytes(2 * 1024**2 - 135_168))
        with pytest.raises(BadInput, match="cannot be written") as told:
            api.simulate(small(**CHANGES), out=disk / "run", runner=Rehearsed(runner(), watch))
        assert "\n" not in str(told.value)
        decided = list(read_ledger(disk / "run" / LEDGER))
        assert decided == list(read_ledger(undisturbed.folder / LEDGER))[: len(decided)]
        ticks = {record.tick for record in decided}
        assert len(applied) > 2
        assert {tick - 1 for tick in applied} <= ticks
        for _ in range(2):
            fill(disk)
            applied.clear()
            assert refused(disk / "run").startswith(f"run folder {disk}/run cannot be written (")
            assert {tick - 1 for tick in applied} <= ticks
            assert list(read_ledger(disk / "run" / LEDGER)) == decided
            assert api.open_run(disk / "run").info["status"] == "running"
        for ballast in disk.glob("ballast*"):
            ballast.unlink()
        same(api.resume(disk / "run", runner=runner()), undisturbed)


def fill(disk: Path) -> None:
    """Leave no byte of a disk free."""
    with suppress(OSError), (disk / "ballast-2").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1024))


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_told_likewise(undisturbed: Run, tmp_path: Path) -> None:
    config = write_config(tmp_path / "small.yaml", small(**CHANGES))
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (49152, -1)); "
    limit += "from experiments.cli import main; main()"
    command = [sys.executable, "-c", limit, "simulate", config, "--local", "--quiet", "--out", tmp_path / "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"bidtwin: run folder {tmp_path}/run cannot be written (")
    assert held(tmp_path / "run") > 0
    same(api.resume(tmp_path / "run", runner=runner()), undisturbed)


@pytest.mark.slow
def test_a_read_only_folder_is_told(undisturbed: Run, lost: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=8m"):
        shutil.copytree(lost, disk / "run")
        mount = [shutil.which("mount") or "mount", "-o", "remount"]
        subprocess.run([*mount, "-o", "ro", disk], check=True)
        told = run("simulate", "--resume", disk / "run", "--local", "--quiet", folder=tmp_path)
        sentence = f"run folder {disk}/run cannot be written (Read-only file system): "
        assert told == Told(2, "", f"bidtwin: {sentence}mend that, then go on with --resume {disk}/run\n")
        told = run("simulate", write_config(tmp_path / "c.yaml", small()), "--out", disk / "new", folder=tmp_path)
        sentence = f"run folder {disk}/new cannot be made (Read-only file system): choose another with --out"
        assert told == Told(2, "", f"bidtwin: {sentence}\n")
        subprocess.run([*mount, "-o", "rw", disk], check=True)
        same(api.resume(disk / "run", runner=runner()), undisturbed)


def test_a_folder_that_turns_read_only_on_the_way_is_told(undisturbed: Run, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("nothing is read-only to root")
    out = tmp_path / "run"

    def close(moment: Moment, number: int) -> None:
        if moment is Moment.AFTER_COMMIT and number == 5:
            out.chmod(0o500)

    with pytest.raises(BadInput, match="cannot be written"):
        api.simulate(small(**CHANGES), out=out, runner=Rehearsed(runner(), close))
    out.chmod(0o700)
    same(api.resume(out, runner=runner()), undisturbed)


# --- the ledger ---


def test_a_ledger_that_another_process_writes_is_left_alone(undisturbed: Run, lost: Path) -> None:
    before = {path: path.read_bytes() for path in lost.rglob("*") if path.is_file()}
    with (lost / f"{LEDGER}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = run("simulate", "--resume", lost, "--local", "--quiet", folder=lost.parent)
        sentence = f"ledger {lost / LEDGER} is being written by another process: wait for it, or stop it"
        assert told == Told(2, "", f"bidtwin: {sentence}\n")
        assert {path: path.read_bytes() for path in lost.rglob("*") if path.is_file()} == before
    same(api.resume(lost, runner=runner()), undisturbed)


def test_a_live_runs_files_are_not_touched_by_a_second_resume(undisturbed: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sentences: list[str] = []

    def meddle(moment: Moment, number: int) -> None:
        if moment is Moment.AFTER_APPLY and number in (25, 50, 65) and len(sentences) < number // 25 + number // 65:
            sentences.append(refused(out))

    run = api.simulate(small(**CHANGES), out=out, runner=Rehearsed(runner(), meddle))
    assert sentences == [f"ledger {out / LEDGER} is being written by another process: wait for it, or stop it"] * 3
    same(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 1, 31, 32, 5_000, 20_000, 0.3, 0.6, 0.9, 0.97, 0.999])
@pytest.mark.parametrize("suffix", ["-wal", ""])
def test_a_torn_ledger_goes_on_to_the_same_end_or_is_refused(
    undisturbed: Run, lost: Path, suffix: str, kept: float
) -> None:
    path = lost / f"{LEDGER}{suffix}"
    size = path.stat().st_size
    assert size > 4_096
    os.truncate(path, int(size * kept) if 0 < kept < 1 else min(int(kept), size - 1))
    came = resumed_or_refused(lost)
    if isinstance(came, Run):
        same(came, undisturbed)
    else:
        assert "\n" not in came
        assert "ledger" in came


def test_a_ledger_that_lost_records_which_a_checkpoint_counts_is_refused(lost: Path) -> None:
    (lost / f"{LEDGER}-wal").unlink()
    missing = refused(lost)
    assert missing == (
        "the ledger holds 0 records, and its run had written 13 at its last checkpoint: restore the ledger, or start "
        "another run"
    )


# --- tables and checkpoints ---


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


@pytest.mark.parametrize("table", ["metrics", "events", "opportunities"])
@pytest.mark.parametrize("spoil", [cut_short, Path.unlink])
def test_a_spoilt_segment_is_written_again(
    undisturbed: Run, lost: Path, table: str, spoil: Callable[[Path], None]
) -> None:
    for path in sorted((lost / table).glob("part-*"))[:2]:
        spoil(path)
        copy = Path(shutil.copytree(lost, lost.with_name(f"{table}-{path.stem}")))
        same(api.resume(copy, runner=runner()), undisturbed)


def test_a_spoilt_checkpoint_is_passed_over(undisturbed: Run, lost: Path) -> None:
    newest, second, third = sorted((lost / "checkpoints").iterdir(), reverse=True)
    began: list[int] = []

    def watch_first(moment: Moment, number: int) -> None:
        if moment is Moment.BEFORE_APPLY:
            began.append(number)

    for path, tick in ((None, 60), (newest, 40), (second, 20), (third, 0)):
        if path:
            cut_short(path)
        copy = Path(shutil.copytree(lost, lost.with_name(f"from-{tick}")))
        began.clear()
        same(api.resume(copy, runner=Rehearsed(runner(), watch_first)), undisturbed)
        assert began[0] == tick


@pytest.mark.parametrize("name", ["metrics.parquet", "actions.parquet"])
@pytest.mark.parametrize("spoil", [cut_short, Path.unlink])
def test_a_spoilt_table_of_a_finished_run_is_told(
    undisturbed: Run, tmp_path: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(undisturbed.folder, tmp_path / "run"))
    spoil(folder / name)
    opened = api.open_run(folder)
    with pytest.raises(BadInput) as caught:
        _ = opened.summary
    assert str(caught.value).startswith(f"{folder / name} cannot be read (")
    assert str(caught.value).endswith("): restore it, or run again")
    told = run("report", folder, folder=tmp_path)
    assert (told.code, told.out) == (2, "")
    assert told.err == f"bidtwin: {caught.value}\n"


def test_an_unfinished_run_has_no_tables_yet(lost: Path) -> None:
    with pytest.raises(BadInput) as caught:
        _ = api.open_run(lost).metrics
    assert str(caught.value) == f"run {lost} is not finished (=running): go on with --resume"
