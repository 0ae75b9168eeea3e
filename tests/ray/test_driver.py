"""The driver killed with SIGKILL or interrupted, and the run gone on with from its folder by the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.runtime.local import LocalRunner
from engine.runtime.plan import Moment
from experiments import api
from experiments.api import Run
from tests.experiments.cli_runs import Told, interrupt, run, session_of, spawn
from tests.rehearsals import Kill, Places, Rehearsed, small
from tests.scenarios import AUCTIONS, write_auctions, write_config
from tests.scenarios import config as scenario

pytestmark = [pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PLACES: Places = (
    (Moment.BEFORE_COMMIT, 9),
    (Moment.AFTER_COMMIT, 20),
    (Moment.IN_CHECKPOINT, 32),
    (Moment.AFTER_APPLY, 44),
    (Moment.IN_TABLE, 56),
    (Moment.AFTER_COMMIT, 71),  # the closing
)
LINGER_SECONDS = 15  # left to itself, Ray takes a minute
ON_RAY = pytest.param("2", (), marks=pytest.mark.ray, id="ray")
IN_PROCESS = pytest.param("0", ("--local",), id="local")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return api.simulate(small(), out=tmp_path_factory.mktemp("undisturbed") / "run", runner=LocalRunner())


def killed(config: Path, out: Path, done: Path, shards: str, place: tuple[Moment, int]) -> None:
    """Run until the driver is killed at a place, and until nothing of it is left."""
    command = [sys.executable, "-m", "tests.ray.driver", config, out, done, shards, place[0].value, str(place[1])]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        _, told = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, told
    gone(process.pid)


def gone(session: int) -> None:
    until = time.monotonic() + LINGER_SECONDS
    while session_of(session):
        assert time.monotonic() < until, "processes are left behind"
        time.sleep(0.05)


def resumed(out: Path, *more: str, command: tuple[str, ...] = ("simulate",)) -> dict[str, object]:
    told = run(*command, "--resume", out, "--json", *more, folder=out.parent)
    assert (told.code, told.err) == (0, "")
    value: dict[str, object] = json.loads(told.out)
    return value


@pytest.mark.parametrize(("shards", "more"), [ON_RAY, IN_PROCESS])
def test_a_killed_driver_leaves_no_process_and_a_run_that_goes_on(
    undisturbed: Run, tmp_path: Path, shards: str, more: tuple[str, ...]
) -> None:
    config, done = write_config(tmp_path / "small.yaml", small()), tmp_path / "done"
    done.mkdir()
    for place in PLACES:
        killed(config, tmp_path / "run", done, shards, place)
        assert api.audit(tmp_path / "run")["valid"]
    assert Kill((), done).told() == set(PLACES)
    value = resumed(tmp_path / "run", *more)
    assert value["digests"] == undisturbed.digests
    assert value["totals"] == undisturbed.totals
    assert value["actions"] == undisturbed.info["actions"]


def lost(folder: Path, begin: Callable[[Rehearsed], Run]) -> None:
    """Lose a run of this process at its 30th tick, as an interruption does."""

    def interrupted(moment: Moment, number: int) -> None:
        if moment is Moment.BEFORE_COMMIT and number == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin(Rehearsed(LocalRunner(1, 2), interrupted))
    assert api.open_run(folder).info["status"] == "interrupted"


@pytest.mark.ray
def test_a_local_run_goes_on_with_shards_and_these_with_a_single_process(undisturbed: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for out in (first, second):
        lost(out, lambda runner, out=out: api.simulate(small(), out=out, runner=runner))  # type: ignore[misc]
    assert resumed(first, "--shards", "3")["digests"] == undisturbed.digests
    assert resumed(second, "--shards", "2", "--local")["digests"] == undisturbed.digests


def test_a_finished_run_is_not_resumed(undisturbed: Run) -> None:
    told = run("simulate", "--resume", undisturbed.folder, "--local", folder=undisturbed.folder.parent)
    sentence = f"bidtwin: run {undisturbed.folder} is finished already: read it, or start another\n"
    assert told == Told(2, "", sentence)


def test_a_replay_is_resumed_with_its_own_log_alone(tmp_path: Path) -> None:
    log, out = write_auctions(tmp_path / "log.txt"), tmp_path / "run"
    undisturbed = api.replay(scenario(AUCTIONS), log, out=tmp_path / "undisturbed")
    lost(out, lambda runner: api.replay(scenario(AUCTIONS), log, out=out, runner=runner))
    other = write_auctions(tmp_path / "other.txt", 599)
    told = run("replay", "--resume", out, "--log", other, "--local", folder=tmp_path)
    sentence = f"bidtwin: log {other} is not the one that run {out} was started with: give that one\n"
    assert told == Told(2, "", sentence)
    told = run("simulate", "--resume", out, "--local", folder=tmp_path)
    assert told == Told(2, "", f"bidtwin: run {out} is a replay: give its log with --log\n")
    moved = log.rename(tmp_path / "moved.txt")
    value = resumed(out, "--local", "--log", str(moved), command=("replay",))
    assert value["digests"] == undisturbed.digests
    assert value["support"] == undisturbed.info["support"]


@pytest.mark.parametrize("more", [pytest.param((), marks=pytest.mark.ray, id="ray"), ("--local",)])
def test_ctrl_c_ends_in_a_run_that_goes_on(undisturbed: Run, tmp_path: Path, more: tuple[str, ...]) -> None:
    config, out = write_config(tmp_path / "small.yaml", small()), tmp_path / "run"
    with spawn("simulate", config, "--out", out, "--shards", 2, "--pace", 36_000, *more, folder=tmp_path) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        told = interrupt(process)
    assert "tick" in first
    assert told.code == 130
    assert told.err.endswith("bidtwin: interrupted: the run can go on with --resume and its folder\n")
    gone(process.pid)
    assert api.open_run(out).info["status"] == "interrupted"
    assert resumed(out, "--local")["digests"] == undisturbed.digests
