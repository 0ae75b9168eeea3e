"""Limits that change while a run goes on, on Ray, where the optimiser is killed meanwhile: the local run's digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.runtime.actors import RayRunner
from engine.runtime.local import LocalRunner
from engine.runtime.plan import Moment, Rehearsal, unrehearsed
from engine.runtime.store import LEDGER, read_ledger
from experiments import api
from experiments.api import Run, Runner
from tests.experiments.test_limits_file import BAD, LOW, MISSING, OWN, WHY, put, reloads
from tests.rehearsals import Kill, Places, Rehearsed, small

pytestmark = [pytest.mark.ray, pytest.mark.slow]

KILLED: Places = ((Moment.AFTER_COMMIT, 13), (Moment.BEFORE_COMMIT, 33), (Moment.AFTER_COMMIT, 50))


@dataclass(frozen=True)
class Rewriting:
    """Puts texts into a file after rounds were committed, by their sequence, and goes on to another rehearsal."""

    file: Path
    texts: Mapping[int, str | None]
    then: Rehearsal = unrehearsed

    def __call__(self, moment: Moment, number: int) -> None:
        if moment is Moment.AFTER_COMMIT and number in self.texts:
            put(self.file, self.texts[number])
        self.then(moment, number)


def test_reloaded_limits_come_out_the_same_on_ray_whoever_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    texts = {10: LOW, 20: BAD, 32: None, 48: OWN}
    kill = Kill.once_each(KILLED, tmp_path / "done")

    def go(name: str, runner: Runner, then: Rehearsal = unrehearsed) -> Run:
        put(file, OWN)
        rehearsed = Rehearsed(runner, Rewriting(file, texts, then))
        return api.simulate(small(limits_file=str(file)), out=tmp_path / name, runner=rehearsed)

    local = go("local", LocalRunner())
    ray = go("ray", RayRunner(2, checkpoint_every=8), kill)
    assert kill.told() == set(KILLED)
    assert reloads(local) == {
        0: (2, None, []),
        10: (3, None, []),
        20: (3, WHY, ["opened"]),
        32: (3, MISSING, []),
        48: (4, None, ["closed"]),
    }
    assert ray.digests == local.digests
    assert list(read_ledger(ray.folder / LEDGER)) == list(read_ledger(local.folder / LEDGER))
