"""Fixtures that more than one room needs: small finished runs, and every runner that carries plans out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings

from engine.runtime.fate import shared_fate
from engine.runtime.local import LocalRunner
from experiments import api
from experiments.api import Run, Runner
from tests.lookers import LOOKER
from tests.scenarios import AUCTIONS, BINS, SIMULATION, config, full_world, write_auctions, write_bins

# `make nightly` chooses it: longer searches, other draws each time
settings.register_profile("nightly", print_blob=True)

TOLD = "told"
"""The property by which a test tells a line."""


STORE_BYTES = 512 * 1024**2


def _ray(address: str, shards: int, campaigns_per_actor: int | None = None) -> Runner:
    from engine.runtime.actors import RayRunner  # noqa: PLC0415 - only tests marked ray import it

    return RayRunner(shards, campaigns_per_actor, address)


EVERY_JOB = (
    "simulated",
    "simulated, a decision every 5 ticks",
    "recorded",
    "factual",
    "auctions",
    "full world",
    "full world, a look at prices",
    "recorded, a look at prices",
)
RUNNERS: dict[
    str, tuple[Callable[[str], Runner], tuple[str, ...]]
] = {  # by the address of the Ray that stands, if one is needed; each job where it tells
    "local": (lambda _: LocalRunner(), EVERY_JOB),
    "local-3-shards": (lambda _: LocalRunner(3), EVERY_JOB),
    "ray-1-shard": (lambda address: _ray(address, 1), ("simulated",)),
    "ray-2-shards": (
        lambda address: _ray(address, 2),
        ("simulated", "simulated, a decision every 5 ticks", "recorded", "full world", "full world, a look at prices"),
    ),
    "ray-an-actor-each": (
        lambda address: _ray(address, 2, 1),
        ("simulated", "factual", "full world", "full world, a look at prices"),
    ),
}


class Stage:
    """Carries out each job once and keeps what came of it: Ray's processes take seconds to start."""

    def __init__(self, folder: Path, runner: Callable[[], Runner], jobs: tuple[str, ...]) -> None:
        self.jobs = jobs
        self._folder = folder
        self._runner = runner
        self.run = cache(self._run)

    def _run(self, job: str) -> Run:
        return JOBS[job](self._folder, self._folder / job, self._runner())


def _simulated(_: Path, out: Path, runner: Runner, **changes: Any) -> Run:
    return api.simulate(config(SIMULATION, **changes), out=out, runner=runner)


def _recorded(folder: Path, out: Path, runner: Runner, **changes: Any) -> Run:
    """The replay of what one and the same local run recorded."""
    source = folder.parent / "recorded-source"  # of all stages
    if not source.exists():
        api.simulate(config(), out=source)
    return api.replay(config(**changes), source / "opportunities", out=out, runner=runner)


def _factual(folder: Path, out: Path, runner: Runner) -> Run:
    return api.replay(config(BINS), write_bins(folder / "bins.csv"), out=out, runner=runner)


def _auctions(folder: Path, out: Path, runner: Runner) -> Run:
    return api.replay(config(AUCTIONS), write_auctions(folder / "auctions.txt"), out=out, runner=runner)


LOOKING = [LOOKER | {"campaigns": "all"}]
JOBS: dict[str, Callable[[Path, Path, Runner], Run]] = {
    "simulated": _simulated,
    "simulated, a decision every 5 ticks": lambda *of: _simulated(*of, decision_every=5),
    "recorded": _recorded,
    "full world": lambda _, out, runner: api.simulate(full_world(), out=out, runner=runner),
    "full world, a look at prices": lambda _, out, runner: api.simulate(
        full_world(policies=LOOKING), out=out, runner=runner
    ),
    "recorded, a look at prices": lambda *of: _recorded(*of, policies=LOOKING),
    "factual": _factual,
    "auctions": _auctions,
}


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before several processes test, compile the kernels in this one.

    Numba's cache on disk may mix up two signatures of a function that two processes save for the first time at once.
    """
    if session.config.getoption("dist", "no") == "no":  # this process tests, alone or as one of several
        return
    with TemporaryDirectory() as name:
        folder = Path(name) / "jobs"
        folder.mkdir()
        stage = Stage(folder, LocalRunner, EVERY_JOB)
        for job in EVERY_JOB:
            stage.run(job)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long searches: what is left at the end is short, and two processes end together."""
    items.sort(key=lambda item: "properties" not in item.path.parts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests told, in whichever process they ran."""
    for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")):
        for name, line in report.user_properties:
            if name == TOLD:
                terminalreporter.write_line(line)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tell a line at the end of the whole session."""
    return partial(record_property, TOLD)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The local runner's stage, which the others are held against."""
    return Stage(tmp_path_factory.mktemp("reference"), LocalRunner, EVERY_JOB)


@pytest.fixture(scope="module")
def standing_ray() -> Iterator[str]:
    """The address of a Ray that stands while the tests of a module run.

    For runs of which the start and the end of Ray itself prove nothing: they take more than four seconds each. Every
    run has a namespace and processes of its own there, and takes them with it. Beside it this process must start no
    Ray of its own: at its end it would kill from this one too.
    """
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    import engine.runtime.actors  # noqa: F401, PLC0415 - sets what Ray reads when it is imported

    with shared_fate():
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "object_store_memory": STORE_BYTES, "include_dashboard": False},
        )
        try:
            yield cluster.address
        finally:
            cluster.shutdown()


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.ray] if name.startswith("ray") else []) for name in RUNNERS],
)
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A stage on every runner in turn."""
    make, jobs = RUNNERS[request.param]
    address = request.getfixturevalue("standing_ray") if request.param.startswith("ray") else ""
    return Stage(tmp_path_factory.mktemp("runner"), partial(make, address), jobs)


@pytest.fixture
def finished(reference: Stage, tmp_path: Path) -> Path:
    """A copy of a small finished simulation's folder, to be spoilt at will."""
    return Path(shutil.copytree(reference.run("simulated").folder, tmp_path / "run"))
