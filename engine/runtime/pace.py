"""Slowing a run down to a multiple of real time, so that people can steer it, under a lease that a watchdog renews."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from engine.runtime.watchdog import Watchdog
from engine.units import TickGrid


class Renewing(Protocol):
    """Has somebody renew the lease of a run's folder: a `Watchdog`."""

    def watch(self, epoch: int) -> None:
        """Have the lease of an epoch renewed from now on."""
        ...

    def tend(self) -> None:
        """Replace who renews it if it is gone."""
        ...

    def end(self) -> None:
        """Renew it no longer."""
        ...


class Pace:
    """Waits until the wall clock has gone as far as event time, times a multiple, and has the run's lease renewed.

    Parameters
    ----------
    multiple:
        How much faster than real time the run goes: at 3600, half an hour takes half a second.
    clock, sleep:
        The wall clock in seconds, and how to wait; a test gives its own. A clock may jump: no tick is waited for longer
        than it takes, and what is more than a tick overdue is not made up for, but the run goes on from the clock as it
        now is.
    watchdog:
        Starts what renews the lease of a run's folder.
    """

    def __init__(
        self,
        multiple: float,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        watchdog: Callable[[Path], Renewing] = Watchdog,
    ) -> None:
        self.clock = clock
        self._multiple = multiple
        self._sleep = sleep
        self._start_watchdog = watchdog
        self._watchdog: Renewing | None = None
        self._last: tuple[float, int] | None = None  # when the tick asked for last was due

    def begin(self, folder: Path, epoch: int) -> None:
        """The run's ledger is held in an epoch: from now on its lease is renewed."""
        self._watchdog = self._watchdog or self._start_watchdog(folder)
        self._watchdog.watch(epoch)

    def wait(self, grid: TickGrid, tick: int) -> None:
        """Wait until a tick opens; the first one asked for opens at once."""
        if self._watchdog:
            self._watchdog.tend()
        now = self.clock()
        if self._last is None:
            self._last = now, tick
        due, last = self._last
        if tick <= last:  # lived through again, after a loss
            return
        a_tick = grid.tick_us / 1e6 / self._multiple
        takes = (tick - last) * a_tick
        left = min(due + takes - now, takes)  # the clock may have gone back
        if left < -a_tick:  # or far ahead
            left = 0.0
        self._last = now + left, tick
        if left > 0:
            self._sleep(left)

    def end(self) -> None:
        """The run is over, or interrupted: its lease ends."""
        self._last = None
        if self._watchdog:
            self._watchdog.end()
            self._watchdog = None
