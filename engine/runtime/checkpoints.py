"""Checkpoints: a consistent cut through a run, from which it goes on to the same end."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.actions import Approved
from engine.runtime.plan import Moment, Rehearsal
from engine.runtime.store import Fenced
from engine.runtime.tables import RecorderState

EVERY = 64
"""Spans between two checkpoints."""

_KEPT = 2
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Checkpoint:
    """The run between two spans.

    Attributes
    ----------
    layout:
        How the runner keeps campaigns apart; a runner that does so otherwise cannot use the hosts' states.
    span:
        The next span to live through.
    approved:
        The round that acts from it, committed and not yet applied.
    hosts:
        The states of the optimiser's host and of those that hold campaigns and sources, in the runner's order.
    recorder:
        What the tables hold.
    """

    layout: str
    span: int
    approved: Approved
    hosts: tuple[bytes, ...]
    recorder: RecorderState


class Checkpoints:
    """The checkpoints of a run folder: each written beside its place, made durable and moved there in one step.

    A file that does not match its own digest counts as absent: then the one before it serves, or the beginning. Behind
    the fence an older optimiser of the run writes none.
    """

    def __init__(self, folder: Path, every: int, rehearsal: Rehearsal, fence: Fenced) -> None:
        self._folder = folder / "checkpoints"
        self._fence = fence
        self._every = every
        self._rehearsal = rehearsal

    def due(self, span: int) -> bool:
        """Whether the run is to be kept as it is before this span."""
        return span > 0 and span % self._every == 0

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, and forget those before the last two."""
        content = pickle.dumps(checkpoint)
        draft = self._folder / "draft"
        with self._fence():
            self._folder.mkdir(exist_ok=True)
            draft.unlink(missing_ok=True)  # a predecessor may hold it open still
            begun = draft.open("wb")
        with begun as file:
            file.write(hashlib.sha256(content).digest() + content)
            file.flush()
            os.fsync(file.fileno())
        self._rehearsal(Moment.IN_CHECKPOINT, checkpoint.recorder.tick)
        with self._fence():
            draft.replace(self._folder / f"{checkpoint.span:09d}")
        self._rehearsal(Moment.AFTER_CHECKPOINT, checkpoint.recorder.tick)
        with self._fence():
            for old in self._files()[:-_KEPT]:
                old.unlink()

    def latest(self, layout: str, holds: Callable[[RecorderState], bool]) -> Checkpoint | None:
        """The newest checkpoint of this layout that is whole, and whose tables are."""
        for path in reversed(self._files()):
            content = path.read_bytes()
            if hashlib.sha256(content[_DIGEST_BYTES:]).digest() == content[:_DIGEST_BYTES]:
                checkpoint: Checkpoint = pickle.loads(content[_DIGEST_BYTES:])  # noqa: S301 - our own bytes, just checked
                if checkpoint.layout == layout and holds(checkpoint.recorder):
                    return checkpoint
        return None

    def forget_after(self, checkpoint: Checkpoint | None) -> None:
        """Forget the checkpoints that lie beyond one, or all: the run goes on from it."""
        for path in self._files():
            if checkpoint is None or int(path.name) > checkpoint.span:
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*") if path.name.isdigit())
