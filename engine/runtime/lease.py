"""The lease of a paced run's optimiser: a file in the run folder that a watchdog writes again and again.

It is about one epoch of the ledger, so that a predecessor's watchdog, should it wake up, renews nothing of its
successor's. Times are those of the wall clock, and an argument; a clock that jumps makes a lease not held (it fails
closed) until the watchdog renews it by the clock as it now is.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from engine.errors import BadInput

SECONDS = 5.0
"""How long a renewal holds."""

RENEWALS = 5
"""How often a watchdog renews a lease within the time that a renewal holds."""


class Renewal(NamedTuple):
    """When a lease was renewed, and for how many seconds."""

    at: float
    seconds: float

    def holds(self, now: float) -> bool:
        """Whether the lease is held; a renewal in the future is none."""
        return 0 <= now - self.at <= self.seconds


@dataclass(frozen=True)
class Lease:
    """The lease of an epoch of the ledger in a run's folder."""

    folder: Path
    epoch: int

    @property
    def _path(self) -> Path:
        return self.folder / f"lease-{self.epoch}.json"

    def renew(self, now: float, seconds: float = SECONDS) -> None:
        """Hold it from now for some seconds; readers see the file of before or this one, whole."""
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps({"at": now, "seconds": seconds}))
        draft.replace(self._path)

    def renewal(self) -> Renewal | None:
        """The last renewal; None where there is none that can be read."""
        try:
            told = json.loads(self._path.read_text())
            return Renewal(float(told["at"]), float(told["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def held(self, now: float) -> bool:
        """Whether the optimiser of this epoch may act."""
        renewal = self.renewal()
        return renewal is not None and renewal.holds(now)

    def end(self) -> None:
        """Nobody holds it any more."""
        self._path.unlink(missing_ok=True)


def must_have_lapsed(ledger: str | os.PathLike[str], epoch: int, now: float) -> None:
    """Refuse to take over from a process that holds a ledger's lock unless its lease has lapsed.

    A clock that jumped makes a living lease look lapsed, so it is watched until its watchdog would have renewed it.

    Raises
    ------
    BadInput
        In one sentence, where the holder's lease is alive, or where it has none.
    """
    lease = Lease(Path(ledger).parent, epoch)
    last = lease.renewal()
    if last is None:
        raise BadInput(
            f"ledger {ledger} is being written by another process, which has no lease that could lapse, as its run is "
            "not paced: wait for it, or stop it"
        )
    if not last.holds(now):
        time.sleep(2 * last.seconds / RENEWALS)
        if lease.renewal() == last:
            return
    raise BadInput(
        f"ledger {ledger} is being written by another process, whose lease is alive: wait for it, or stop it"
    )
