"""The command line, in this process or in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from experiments.cli import main

BIDTWIN = Path(sys.executable).parent / "bidtwin"


@dataclass(frozen=True)
class Told:
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str


def call(capfd: pytest.CaptureFixture[str], *arguments: object) -> Told:
    """Run a command in this process."""
    capfd.readouterr()
    with patch.object(sys, "argv", ["bidtwin", *map(str, arguments)]), pytest.raises(SystemExit) as ended:
        main()
    told = capfd.readouterr()
    return Told(int(ended.value.code or 0), told.out, told.err)


def spawn(*arguments: object, folder: Path) -> subprocess.Popen[str]:
    """Start the installed command in a process group of its own and heeding Ctrl-C, as an interactive shell does.

    A job that a script put into the background ignores Ctrl-C, and whatever it starts inherits that.
    """
    return subprocess.Popen(
        [BIDTWIN, *map(str, arguments)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_heed_interrupts,  # noqa: PLW1509 - it sets a signal's handler and no more
    )


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(*arguments: object, folder: Path) -> Told:
    """Run the installed command to its end."""
    with spawn(*arguments, folder=folder) as process:
        out, err = process.communicate(timeout=120)
    return Told(process.returncode, out, err)


def interrupt(process: subprocess.Popen[str]) -> Told:
    """Press Ctrl-C: every process of the foreground group gets the signal."""
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return Told(process.returncode, out, err)


def eventually(true: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether something becomes true, given some time."""
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    return true()


def session_of(pid: int) -> set[int]:
    """Processes alive in the session of a command: whatever it started, Ray's own and its workers too."""
    alive = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z" and int(fields[3]) == pid:
            alive.add(int(entry.name))
    return alive
