"""Sharing the fate of a driver: when it is gone, however it went, so is every process of the Ray that it started.

Ray ends with a killed driver by itself, but for two helpers of its node process, which try for a minute to report its
death to what died with it. So the driver has a process beside it that waits at the other end of a pipe,

    python -I -S engine/runtime/fate.py DRIVER

and, when that ends, kills who was started since and writes into the folder of logs of a Ray of this driver: all of
Ray's processes do so from their birth, and the folder has the driver's process id in its name. (Titles and environments
tell less: Ray's processes overwrite them.) Where there is no /proc nothing is done, and Ray's own patience counts.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PROC = Path("/proc")
_MONITOR = re.compile(rb"ray/autoscaler/.*monitor\.py")
_PAUSE_SECONDS = 0.02
_END_SECONDS = 10.0


@contextmanager
def shared_fate() -> Iterator[None]:
    """When the block ends, or this process does within it, kill what is left of the Ray that was started within it.

    The killer has a process group of its own: neither Ctrl-C nor a signal to the driver's group is meant for it.
    """
    if not _PROC.is_dir():
        yield
        return
    with subprocess.Popen(  # noqa: S603 - our own file
        [sys.executable, "-I", "-S", __file__, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    ):  # at its end it closes the pipe and waits
        yield


def end_monitor() -> None:
    """End the autoscaler's monitor that this process started with Ray: nothing scales here, and it does not end when
    it is asked to, so that Ray would wait a second for it.
    """  # noqa: D205 - one sentence
    for process in _processes():
        if _birth(process)[0] == os.getpid() and _MONITOR.search(_read(process, "cmdline")):
            _kill(process)


def _end_with(driver: int) -> None:
    """Wait for the end of the pipe, then kill until nobody is found twice: who was being started while his parent was
    killed may have been missed once.
    """  # noqa: D205 - one sentence
    while os.read(sys.stdin.fileno(), 1):
        pass
    until, missed = time.monotonic() + _END_SECONDS, 0
    while missed < 2 and time.monotonic() < until:
        found = _left_behind(driver)
        for process in found:
            _kill(process)
        missed = 0 if found else missed + 1
        time.sleep(_PAUSE_SECONDS)


def _left_behind(driver: int) -> list[int]:
    """The processes of the driver's Ray; not the driver, and not what it forked, which share its files and outlive
    the block if it does.
    """  # noqa: D205 - one sentence
    logs = re.compile(rf"/session_[^/]*_{driver}/logs/")
    _, since = _birth(os.getpid())
    found = []
    for process in _processes():
        parent, started = _birth(process)
        if started >= since and driver not in {process, parent} and any(map(logs.search, _written(process))):
            found.append(process)
    return found


def _written(process: int) -> Iterator[str]:
    """The files that a process has open for writing; none of one that is gone, or another user's."""
    with suppress(OSError):
        for opened in (_PROC / str(process) / "fd").iterdir():
            with suppress(OSError):
                if opened.lstat().st_mode & stat.S_IWUSR:
                    yield str(opened.readlink())


def _birth(process: int) -> tuple[int, int]:
    """A process's parent and when it was started, in ticks since the machine was; zeros for one that is gone."""
    fields = _read(process, "stat").rpartition(b")")[2].split()
    return (int(fields[1]), int(fields[19])) if fields else (0, 0)


def _processes() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()] if _PROC.is_dir() else []


def _kill(process: int) -> None:
    with suppress(OSError):
        os.kill(process, signal.SIGKILL)


def _read(process: int, file: str) -> bytes:
    try:
        return (_PROC / str(process) / file).read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    _end_with(int(sys.argv[1]))
