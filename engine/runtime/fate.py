"""Sharing the fate of Ray's node process: when it is gone, an actor's process goes at once and takes along its helpers.

Ray ends with a killed driver by itself, but for two helpers of its node process, which try for a minute to report its
death to what died with it. Where there is no /proc nothing is done, and Ray's own patience counts.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

_PROC = Path("/proc")
_HELPERS = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")
_PAUSE_SECONDS = 0.2


def share_fate() -> None:
    """Watch the parent of this process from a thread, and end when it ends."""
    if _PROC.is_dir():
        Thread(target=_watch, args=(os.getppid(),), name="share-fate", daemon=True).start()


def _watch(parent: int) -> None:
    helpers: set[int] = set()
    while os.getppid() == parent:
        helpers = helpers or _helpers_of(parent)
        time.sleep(_PAUSE_SECONDS)
    for helper in helpers:
        if _is_helper(helper):
            with suppress(OSError):
                os.kill(helper, signal.SIGKILL)
    os._exit(1)


def _helpers_of(parent: int) -> set[int]:
    found = set()
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and _is_helper(int(entry.name)) and _parent_of(entry) == parent:
            found.add(int(entry.name))
    return found


def _is_helper(process: int) -> bool:
    try:
        return (_PROC / str(process) / "cmdline").read_bytes().startswith(_HELPERS)
    except OSError:
        return False


def _parent_of(entry: Path) -> int:
    try:
        return int((entry / "stat").read_bytes().rsplit(b")", 1)[1].split()[1])
    except OSError:
        return 0
