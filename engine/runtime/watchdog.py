"""The watchdog of a paced run: a process of its own that renews the optimiser's lease as long as its driver lives.

    python -m engine.runtime.watchdog RUN SECONDS

reads the epoch to renew for from its standard input. It ends when that ends, as it does with the driver however that is
lost. For a driver that is stopped (Ctrl-Z, SIGSTOP) it renews nothing, so that a successor may take over.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from engine.runtime.lease import RENEWALS, SECONDS, Lease

_ROOT = Path(__file__).parents[2]
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.01
_END_SECONDS = 2.0


class Watchdog:
    """The driver's side: has a process renew the lease of an epoch.

    Parameters
    ----------
    folder:
        The run's.
    seconds:
        How long a renewal holds.
    """

    def __init__(self, folder: Path, seconds: float | None = None) -> None:
        self._folder = folder.absolute()
        self._seconds = SECONDS if seconds is None else seconds
        self._epoch = 0
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, epoch: int) -> None:
        """Have the lease of an epoch renewed from now on; returns once it was, or cannot be for seconds."""
        self._epoch = epoch
        if self._process is None:
            self._start()
        else:
            self._order(self._process)
        lease, until = Lease(self._folder, epoch), time.monotonic() + _PATIENCE_SECONDS
        while lease.renewal() is None and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)

    def tend(self) -> None:
        """Replace the process if it is gone."""
        if self._process is not None and self._process.poll() is not None:
            self._hang_up(self._process)
            self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", "engine.runtime.watchdog", str(self._folder), str(self._seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(_ROOT)},
        )
        self._order(self._process)

    def _order(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # gone just now, and soon replaced
            process.stdin.write(b"%d\n" % self._epoch)
            process.stdin.flush()

    def end(self) -> None:
        """End the process, and with it the lease."""
        if self._process is None:
            return
        self._hang_up(self._process)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:  # it is stopped
            self._process.kill()
            self._process.wait()
        self._process = None

    @staticmethod
    def _hang_up(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()


def renew(folder: Path, seconds: float, orders: int, driver: int) -> None:
    """Renew the lease of the epoch that the orders (a file descriptor) last named, until they end."""
    lease: Lease | None = None
    while True:
        if select.select([orders], [], [], seconds / RENEWALS)[0]:
            told = os.read(orders, 4096).split()
            if lease is not None:
                lease.end()
            if not told:
                return
            lease = Lease(folder, int(told[-1]))
        if lease is not None and not _is_stopped(driver):
            with suppress(OSError):  # a full disk may have room again; until then the lease lapses
                lease.renew(time.time(), seconds)


def _is_stopped(process: int) -> bool:
    """Whether a process is stopped; where there is no /proc, it counts as running."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] in {b"T", b"t"}
    except OSError:
        return False


if __name__ == "__main__":
    driver = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends us
    renew(Path(sys.argv[1]), float(sys.argv[2]), sys.stdin.fileno(), driver)
