"""What is killed with a driver: what writes into the logs of its Ray, and nobody else. Stand-ins, no Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.runtime.fate import shared_fate
from tests.experiments.cli_runs import eventually, session_of

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="without /proc nothing is done")

ROOT = Path(__file__).parents[3]
DRIVER = """
import os, signal, subprocess, sys, time
from pathlib import Path
from engine.runtime.fate import shared_fate

logs = Path(sys.argv[1]) / f"session_1_{os.getpid()}" / "logs"
others = Path(sys.argv[1]) / f"session_1_1{os.getpid()}" / "logs"

def start(stream, mode, folder=logs):
    folder.mkdir(parents=True, exist_ok=True)
    print(subprocess.Popen(["sleep", "60"], **{stream: (folder / "x.out").open(mode)}).pid, flush=True)

start("stdout", "a")  # earlier than the block
time.sleep(0.05)  # some ticks of the clock that births are told by
with shared_fate():
    start("stdin", "r")  # a reader
    start("stdout", "a", others)  # of another driver
    start("stdout", "a")
    start("stderr", "a")
    signal.pause()
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield process
    for left in session_of(process.pid):
        os.kill(left, signal.SIGKILL)


def test_a_killed_driver_takes_along_who_writes_into_the_logs_of_its_ray(driver: subprocess.Popen[str]) -> None:
    assert driver.stdout is not None
    earlier, reader, others, *writers = [int(driver.stdout.readline()) for _ in range(5)]
    assert {earlier, reader, others, *writers} < session_of(driver.pid)
    driver.kill()
    assert eventually(lambda: session_of(driver.pid) == {earlier, reader, others})


def test_the_end_of_the_block_spares_what_this_process_started_otherwise(tmp_path: Path) -> None:
    log = tmp_path / f"session_1_{os.getpid()}" / "logs" / "x.out"
    log.parent.mkdir(parents=True)
    with shared_fate(), log.open("a") as opened:
        child = subprocess.Popen(["sleep", "60"], stdout=opened)  # noqa: S607
        command = ["sh", "-c", "sleep 60 2>&1 & echo $! >&2"]
        told = subprocess.run(command, stdout=opened, stderr=subprocess.PIPE, check=True)
        assert {child.pid, int(told.stderr)} < session_of(os.getsid(0))
    try:
        left = session_of(os.getsid(0)) & {child.pid, int(told.stderr)}
        assert left == {child.pid}
    finally:
        child.kill()
        child.wait()
