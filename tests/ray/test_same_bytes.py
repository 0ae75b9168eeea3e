"""Law 1, same seed, same bytes: the same whole outcomes on every runner (`runner` goes through them all)."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from engine.runtime.actors import RayRunner
from engine.runtime.local import LocalRunner
from engine.runtime.plan import Moment
from engine.runtime.store import LEDGER, read_ledger
from experiments import api
from tests.conftest import EVERY_JOB, Stage
from tests.frames import assert_same
from tests.rehearsals import Rehearsed, small
from tests.scenarios import TICKS, config

pytestmark = pytest.mark.slow


def test_every_runner_tells_the_same_to_the_byte(runner: Stage, reference: Stage) -> None:
    for job in runner.jobs:
        here, there = runner.run(job), reference.run(job)
        assert here.digests == there.digests, job
        assert here.totals == there.totals, job
        assert list(read_ledger(here.folder / LEDGER)) == list(read_ledger(there.folder / LEDGER)), job
        assert_same(here.actions, there.actions)
        assert_same(here.metrics, there.metrics)
        assert_same(here.summary, there.summary)
        told = {name: value for name, value in here.info.items() if name not in ("seconds", "auctions_per_second")}
        assert told == {name: there.info[name] for name in told}, job


def test_recorded_events_and_opportunities_are_the_same_files_of_rows(runner: Stage, reference: Stage) -> None:
    for name in ("events", "opportunities"):
        here, there = (pd.read_parquet(stage.run("simulated").folder / name) for stage in (runner, reference))
        assert len(here) > 1_000
        assert_same(here, there)


def test_every_runner_audits_as_valid(runner: Stage) -> None:
    for job in runner.jobs:
        run = runner.run(job)
        found = api.audit(run.folder)
        assert (found["valid"], found["first_bad"]) == (True, None)
        assert found["applied"] == run.info["actions"]["applied"]
        assert found["rollbacks"] == run.info["actions"]["rolled_back"]
        assert found["max_relative_step"] <= 0.25


def test_the_script_had_its_say(runner: Stage) -> None:
    for job, every in zip(EVERY_JOB[:2], (1, 5), strict=True):
        if job not in runner.jobs:
            continue
        run = runner.run(job)
        people = run.actions[run.actions.proposer.isin(["sam", "dana"])]
        told = people[["tick", "campaign", "knob", "outcome", "source"]].drop_duplicates().to_numpy().tolist()
        assert told == [
            [4, "search-a", "weights", "needs_approval", "script"],
            [9, "search-a", "weights", "applied", "script"],
            [14, "display-a", "bid", "refused", "script"],
            [14, "social-b", "weights", "needs_approval", "script"],
            [24, "search-a", "weights", "applied", "rollback"],
            [34, "social-a", "budget", "applied", "person"],
            [49, "social-b", "paused", "applied", "person"],
            [54, "social-b", "paused", "applied", "person"],
        ]
        assert set((run.actions.tick + 1) % every) == {0}
        assert len(run.metrics) == 5 * TICKS


def test_another_seed_is_another_run(runner: Stage, reference: Stage, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = runner.run("simulated")
    other = api.simulate(config(), seed=12, out=tmp_path_factory.mktemp("seed") / "run")
    assert other.info["seed"] == 12
    assert {first.digests["metrics"], first.digests["ledger"]}.isdisjoint(other.digests.values())
    assert first.digests["metrics"] != reference.run("simulated, a decision every 5 ticks").digests["metrics"]


@dataclass(frozen=True)
class Modules:
    """Has every process of a run, late in it, tell in a folder what packages it has imported."""

    folder: Path

    def __call__(self, moment: Moment, number: int) -> None:
        if moment in {Moment.AFTER_SPAN, Moment.BEFORE_COMMIT} and number >= TICKS - 5:
            packages = {name.partition(".")[0] for name in sys.modules}
            (self.folder / f"{moment}-{os.getpid()}").write_text("\n".join(sorted(packages)), encoding="utf-8")

    def told(self, moment: Moment) -> dict[int, set[str]]:
        """Packages by process."""
        paths = self.folder.glob(f"{moment}-*")
        return {int(path.name.rpartition("-")[2]): set(path.read_text(encoding="utf-8").split()) for path in paths}


@pytest.mark.ray
def test_no_process_of_a_run_on_ray_imports_what_only_training_needs(standing_ray: str, tmp_path: Path) -> None:
    """Where a learned policy bids: neither the shards nor the optimiser that serves it."""
    learned = api.load(small(policies=[{"policy": "learned", "campaigns": ["search-a", "social-b"]}]))
    here = api.simulate(learned, out=tmp_path / "here", runner=LocalRunner())
    modules = Modules(tmp_path / "modules")
    modules.folder.mkdir()
    runner = Rehearsed(RayRunner(2, address=standing_ray), modules)
    there = api.simulate(learned, out=tmp_path / "there", runner=runner)
    assert here.digests == there.digests
    assert "learned" in set(there.actions.note)
    shards, optimiser = modules.told(Moment.AFTER_SPAN), modules.told(Moment.BEFORE_COMMIT)
    assert (len(shards), len(optimiser)) == (2, 1)
    assert os.getpid() not in {*shards, *optimiser}
    for packages in (*shards.values(), *optimiser.values()):
        assert {"engine", "numpy", "ray"} <= packages
        assert not packages & {"torch", "stable_baselines3", "tensorboard", "gymnasium", "plotly", "matplotlib"}
