"""Money, shares and event time: the only place where a number is rounded.

Money is int64 *micros*, millionths of one currency unit. Shares of a whole are int64 *ppm*, millionths that sum to
1,000,000. Event time is int64 microseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import BadInput

Int64: TypeAlias = NDArray[np.int64]
Float64: TypeAlias = NDArray[np.float64]
Bool: TypeAlias = NDArray[np.bool_]

PPM = 1_000_000
MAX_MICROS = 10**15
"""Largest amount of money accepted anywhere (a thousand million units): sums of 9,000 of them still fit an int64."""

WEEK_HOURS = 168

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE_US = 60_000_000
_DAY_MINUTES = 24 * 60


def floor_micros(amounts: ArrayLike) -> Int64:
    """Round money down to whole micros: what a bid or a charge may at most be."""
    return np.floor(np.asarray(amounts, dtype=np.float64)).astype(np.int64)


def nearest_micros(amounts: ArrayLike) -> Int64:
    """Round money to the nearest micro (halves to even): what was logged as a decimal fraction."""
    return np.rint(np.asarray(amounts, dtype=np.float64)).astype(np.int64)


def equal_shares(parts: int, whole: int = PPM) -> Int64:
    """Split a whole, 1,000,000 ppm if not told, into integers that differ by at most one, the first the larger."""
    shares = np.full(parts, whole // parts, dtype=np.int64)
    shares[: whole % parts] += 1
    return shares


def microseconds(moment: datetime) -> int:
    """Event time of an aware datetime."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(event_time: int, zone: str = "UTC") -> datetime:
    """The datetime, in an IANA zone, of an event time."""
    return (_EPOCH + timedelta(microseconds=int(event_time))).astimezone(ZoneInfo(zone))


@dataclass(frozen=True)
class TickGrid:
    """The run's calendar: equal ticks of absolute time, and the local day each one belongs to.

    Parameters
    ----------
    start:
        Naive local time of the first tick's opening, in `zone`; of an hour that comes twice, the first.
    tick_minutes:
        Length of a tick; it divides a day, and every local midnight of the run falls between ticks.
    ticks:
        Number of ticks in the run.
    zone:
        IANA time zone of the account. Days of 23 and 25 hours come out as 46 and 50 half-hours.
    """

    start: datetime
    tick_minutes: int
    ticks: int
    zone: str = "UTC"

    def __post_init__(self) -> None:
        if self.tick_minutes < 1 or _DAY_MINUTES % self.tick_minutes:
            raise BadInput(f"tick_minutes (={self.tick_minutes}) must divide a day of 1440 minutes: try 5, 30 or 60")
        if self.ticks < 1:
            raise BadInput(f"ticks (={self.ticks}) must be >= 1: give the run a length")
        start = self.start.isoformat()
        if self.start.tzinfo is not None:
            raise BadInput(f"start (={start}) must be local time of zone {self.zone}: leave its offset out")
        into_day = self.start - self.start.replace(hour=0, minute=0, second=0, microsecond=0)
        if into_day % timedelta(minutes=self.tick_minutes):
            raise BadInput(f"start (={start}) must lie on a tick of the day: round it down")
        try:
            opening = moment(self.start_us, self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise BadInput(f"zone (={self.zone!r}) must be an IANA time zone: try Europe/Berlin or UTC") from None
        if opening.replace(tzinfo=None, fold=0) != self.start.replace(fold=0):
            raise BadInput(
                f"start (={start}) must exist in {self.zone}, where clocks leap over it: begin an hour later"
            )
        self._check_midnights()

    @cached_property
    def start_us(self) -> int:
        """Event time at which tick 0 opens."""
        return microseconds(self.start.replace(tzinfo=ZoneInfo(self.zone)))

    @property
    def tick_us(self) -> int:
        """Length of a tick in microseconds."""
        return self.tick_minutes * _MINUTE_US

    def opens(self, tick: int) -> int:
        """Event time at which a tick opens; it closes when the next one opens."""
        return self.start_us + tick * self.tick_us

    def tick_of(self, event_times: ArrayLike) -> Int64:
        """Tick that holds each event time (below 0 or from `ticks` on where it lies outside the run)."""
        return (np.asarray(event_times, dtype=np.int64) - self.start_us) // self.tick_us

    @cached_property
    def day(self) -> Int64:
        """Local day of every tick, counted from 0 on the first day; shape [ticks]."""
        first = self._local[0].date()
        return np.array([(opening.date() - first).days for opening in self._local], dtype=np.int64)

    @cached_property
    def hour(self) -> Float64:
        """Local hour of the day at which every tick opens, in [0, 24); shape [ticks]."""
        return np.array([opening.hour + opening.minute / 60 for opening in self._local], dtype=np.float64)

    @cached_property
    def hour_of_week(self) -> Int64:
        """Local hour of the week in which every tick opens, 0 (Monday, midnight) to 167; shape [ticks]."""
        return np.array([opening.weekday() * 24 + opening.hour for opening in self._local], dtype=np.int64)

    @cached_property
    def closes_day(self) -> Bool:
        """Whether a tick is the last of its local day (the run's end counts as one); shape [ticks]."""
        return np.append(self.day[1:] != self.day[:-1], True)

    def _check_midnights(self) -> None:
        """Refuse long ticks that a change of the clocks, by half an hour or more, pushes across midnight."""
        if 30 % self.tick_minutes == 0:
            return
        for tick in np.flatnonzero(np.diff(self.day)) + 1:
            if moment(self.opens(int(tick)) - 1, self.zone).date() == self._local[tick].date():
                raise BadInput(
                    f"tick_minutes (={self.tick_minutes}) must keep the midnight of {self._local[tick].date()} between "
                    f"ticks, and the clocks of {self.zone} change: try 30"
                )

    @cached_property
    def _local(self) -> list[datetime]:
        return [moment(self.opens(tick), self.zone) for tick in range(self.ticks)]
