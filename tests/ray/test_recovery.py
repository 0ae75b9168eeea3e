"""Processes killed with SIGKILL in the middle of a run on Ray: each run ends in the undisturbed local run's digests."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from engine.runtime.actors import RayRunner
from engine.runtime.local import LocalRunner
from engine.runtime.pace import Pace
from engine.runtime.plan import Moment
from engine.runtime.store import LEDGER, read_ledger
from engine.runtime.watchdog import Watchdog
from experiments import api
from experiments.api import Run
from experiments.config import RunConfig
from tests.frames import assert_same
from tests.rehearsals import LOOKING_TOO, Kill, Places, Rehearsed, small

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EVERY = 8
SHARD: Places = (
    (Moment.BEFORE_APPLY, 5),
    (Moment.AFTER_APPLY, 14),
    (Moment.IN_SPAN, 26),
    (Moment.AFTER_SPAN, 40),
    (Moment.AFTER_SPAN, 70),
)
OPTIMISER: Places = (
    (Moment.BEFORE_COMMIT, 0),
    (Moment.AFTER_COMMIT, 9),
    (Moment.BEFORE_COMMIT, 31),
    (Moment.AFTER_COMMIT, 50),
    (Moment.AFTER_COMMIT, 71),  # the closing
)
BOTH: Places = tuple(
    place
    for tick in (4, 17, 29, 41, 60)
    for place in ((Moment.BEFORE_APPLY, tick), (Moment.BEFORE_COMMIT, tick), (Moment.AFTER_SPAN, tick))
)
CAMPAIGN: Places = ((Moment.BEFORE_APPLY, 6), (Moment.AFTER_APPLY, 20), (Moment.AFTER_SPAN, 45))
MARKET: Places = ((Moment.IN_SPAN, 12), (Moment.IN_SPAN, 33))


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return api.load(small(policies=LOOKING_TOO))


@pytest.fixture(scope="module")
def undisturbed(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return api.simulate(config, out=tmp_path_factory.mktemp("undisturbed") / "run", runner=LocalRunner())


@pytest.mark.parametrize(
    ("places", "campaigns_per_actor"),
    [(SHARD, None), (OPTIMISER, None), (BOTH, None), (CAMPAIGN + MARKET + OPTIMISER[1:3], 1)],
    ids=["shard", "optimiser", "both", "an actor each"],
)
def test_killed_processes_are_replaced_and_change_nothing(
    config: RunConfig,
    undisturbed: Run,
    standing_ray: str,
    tmp_path: Path,
    places: Places,
    campaigns_per_actor: int | None,
) -> None:
    kill = Kill.once_each(places, tmp_path / "done")
    pace = Pace(180_000, watchdog=partial(Watchdog, seconds=60.0)) if places is OPTIMISER else None
    runner = RayRunner(2, campaigns_per_actor, standing_ray, EVERY, pace)
    run = api.simulate(config, out=tmp_path / "run", runner=Rehearsed(runner, kill))
    assert kill.told() == set(places)
    assert restored(run) >= 3
    assert not list(run.folder.glob("lease-*.json"))  # a paced run's lease went from epoch to epoch, and ended with it
    same(run, undisturbed)


def restored(run: Run) -> int:
    """How often everybody went back to a checkpoint, as `ops` tells."""
    with closing(sqlite3.connect(run.folder / LEDGER)) as ledger:
        count: int = ledger.execute("SELECT count(*) FROM ops WHERE what = 'restored'").fetchone()[0]
    return count


def same(run: Run, undisturbed: Run) -> None:
    assert run.digests == undisturbed.digests
    assert run.totals == undisturbed.totals
    assert list(read_ledger(run.folder / LEDGER)) == list(read_ledger(undisturbed.folder / LEDGER))
    assert_same(run.actions, undisturbed.actions)
    assert_same(run.metrics, undisturbed.metrics)
    for name in ("events", "opportunities"):
        assert_same(pd.read_parquet(run.folder / name), pd.read_parquet(undisturbed.folder / name))
    assert api.audit(run.folder)["valid"]
