"""Sharing the fate of Ray's node process: when it is gone, an actor's process goes at once and takes along its helpers.

Ray ends with a killed driver by itself, but for two helpers of its node process, which try for a minute to report its
death to what died with it. Where there is no /proc nothing is done, and Ray's own patience counts.
"""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

_PROC = Path("/proc")
_HELPERS = re.compile(rb"^ray::(DashboardAgent|RuntimeEnvAgent)")
_MONITOR = re.compile(rb"ray/autoscaler/.*monitor\.py")
_PAUSE_SECONDS = 0.2


def share_fate() -> None:
    """Watch the parent of this process from a thread, and end when it ends."""
    if _PROC.is_dir():
        Thread(target=_watch, args=(os.getppid(),), name="share-fate", daemon=True).start()


def end_monitor() -> None:
    """End the autoscaler's monitor that this process started with Ray: nothing scales here, and it does not end when
    it is asked to, so that Ray would wait a second for it.
    """  # noqa: D205 - one sentence
    for process in _children_of(os.getpid(), _MONITOR):
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)


def _watch(parent: int) -> None:
    helpers: set[int] = set()
    while os.getppid() == parent:
        helpers = helpers or _children_of(parent, _HELPERS)
        time.sleep(_PAUSE_SECONDS)
    for helper in helpers:
        if _HELPERS.search(_command(helper)):
            with suppress(OSError):
                os.kill(helper, signal.SIGKILL)
    os._exit(1)


def _children_of(parent: int, command: re.Pattern[bytes]) -> set[int]:
    """The children of a process that were started by such a command."""
    processes = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()] if _PROC.is_dir() else []
    return {each for each in processes if _parent_of(each) == parent and command.search(_command(each))}


def _command(process: int) -> bytes:
    try:
        return (_PROC / str(process) / "cmdline").read_bytes()
    except OSError:
        return b""


def _parent_of(process: int) -> int:
    try:
        return int((_PROC / str(process) / "stat").read_bytes().rsplit(b")", 1)[1].split()[1])
    except OSError:
        return 0
