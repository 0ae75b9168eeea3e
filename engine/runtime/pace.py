"""Slowing a run down to a multiple of real time, so that people can steer it."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.units import TickGrid


class Pace:
    """Waits until the wall clock has gone as far as event time, times a multiple.

    Parameters
    ----------
    multiple:
        How much faster than real time the run goes: at 3600, half an hour takes half a second.
    clock, sleep:
        The wall clock in seconds, and how to wait; a test gives its own.
    """

    def __init__(
        self,
        multiple: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._multiple = multiple
        self._clock = clock
        self._sleep = sleep
        self._began: tuple[float, int] | None = None

    def wait(self, grid: TickGrid, tick: int) -> None:
        """Wait until a tick opens; the first one asked for opens at once."""
        if self._began is None:
            self._began = self._clock(), tick
        began, first = self._began
        due = began + (tick - first) * grid.tick_us / 1e6 / self._multiple
        left = due - self._clock()
        if left > 0:
            self._sleep(left)
