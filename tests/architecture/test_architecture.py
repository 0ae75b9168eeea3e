"""The house's own rules, read from its sources."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

import agents
import engine
import experiments
import sim
from experiments import api, build
from tests.scenarios import CONFIGS, DATA

ROOT = Path(__file__).parents[2]
LOGS = {  # where the shipped replays find their logs, beside the checkout
    "ipinyou_1458": DATA / "ipinyou_1458" / "train.txt",
    "ipinyou_5min": DATA / "ipinyou_5min" / "rtb_5min_train.csv",
}
DOMAIN = [
    path
    for folder in ("engine", "sim", "agents")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "runtime" not in path.parts and path.name != "kernel.py"  # the kernels' cache is a matter of files
]


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def calls(path: Path) -> Iterator[str]:
    """The dotted names of everything a file calls."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def imports(path: Path) -> Iterator[str]:
    """The modules a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def tracked() -> list[Path]:
    """Files under version control; where there is no checkout, the project's own folders."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607 - whichever git there is
    names = [each for each in listed.stdout.split("\0") if each]
    if not names:
        return sources("engine", "sim", "agents", "experiments", "tests")
    return [ROOT / each for each in names if (ROOT / each).is_file()]


@pytest.mark.slow
def test_imports_go_only_downwards() -> None:
    command = Path(sys.executable).parent / "lint-imports"
    linted = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "0 broken." in linted.stdout, linted.stdout
    assert linted.returncode == 0


def test_the_contracts_name_every_room_of_the_domain() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rooms = {f"engine.{path.stem}" for path in (ROOT / "engine").glob("*.py")} - {"engine.__init__"}
    for contract in contracts:
        named = {each for each in contract.get("source_modules", ()) if each.startswith("engine.")}
        assert named in (set(), rooms), contract["name"]


def test_the_guard_alone_makes_a_permission() -> None:
    makers = {
        name(path) for path in sources("engine", "sim", "agents", "experiments") if "Approved" in set(calls(path))
    }
    assert makers == {"engine/guard.py", "engine/actions.py"}  # the latter selects rows of one that was made


def test_only_the_runtime_and_the_tests_import_ray() -> None:
    folders = ("engine", "sim", "agents", "experiments")
    importers = {name(path) for path in sources(*folders) if any(re.match(r"ray\b", each) for each in imports(path))}
    assert "engine/runtime/actors.py" in importers
    assert {each.rsplit("/", 1)[0] for each in importers} == {"engine/runtime"}


CLOCKS = re.compile(r"(^|\.)(time|monotonic|perf_counter|now|utcnow|today)$")


def test_the_domain_has_no_clock_no_hidden_generator_and_no_files() -> None:
    found = []
    for path in DOMAIN:
        for called in calls(path):
            clock = CLOCKS.search(called) and called.split(".")[0] in ("time", "datetime", "date")
            hidden = re.match(r"(np|numpy)\.random\.(?!default_rng$|Generator$|Philox$)|random\.", called)
            if clock or hidden or called in ("open", "print", "input", "eval", "exec"):
                found.append((name(path), called))
    batteries = (
        "agents/checks.py",
        "agents/env_checks.py",
        "sim/checks.py",
    )  # they disturb and compare it, to catch those who use it
    assert [each for each in found if each[0] not in batteries] == []


def test_the_domain_of_the_engine_touches_no_file_and_no_network() -> None:
    shells = {"os", "io", "pathlib", "socket", "sqlite3", "subprocess", "threading", "asyncio", "time", "shutil"}
    found = {
        (name(path), each)
        for path in DOMAIN
        if path.parent == ROOT / "engine"
        for each in imports(path)
        if each in shells
    }
    assert found == set()


def test_generators_are_seeded() -> None:
    for path in DOMAIN:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("default_rng"):
                assert node.args, name(path)


def test_the_packages_imported_are_ours() -> None:
    """Another distribution on the index installs a top-level `agents` too."""
    for package in (engine, sim, agents, experiments):
        assert package.__file__ is not None
        assert Path(package.__file__).parents[1] == ROOT


def test_no_tracked_file_holds_an_absolute_path_of_this_machine() -> None:
    places = {f"{ROOT}/", f"{ROOT.parent}/", f"{Path.home()}/"} - {"/", "//"}
    found = []
    for path in tracked():
        text = path.read_bytes()
        found += [(name(path), place) for place in places if place.encode() in text and path != Path(__file__)]
    assert found == []


def test_every_shipped_configuration_is_tested_here() -> None:
    of_logs = {path.stem for path in CONFIGS.glob("*.yaml") if yaml.safe_load(path.read_text())["source"] == "replay"}
    assert of_logs == set(LOGS)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_configuration_builds_a_plan(file: Path) -> None:
    config = api.load(file)
    if config.source == "simulation":
        plan = build.simulation(config)
    else:
        log = LOGS[file.stem]
        if not log.exists():
            pytest.skip(f"the real log is not in {log.parent}")
        plan, rejects = build.replay(config, log)
        assert len(rejects) == 0
    assert plan.campaigns.ids == tuple(sorted(config.campaigns))
    assert plan.spans()[-1][1] == plan.grid.ticks
    assert (plan.limits.minimum <= plan.controls.scalar).all()
    assert (plan.controls.scalar <= plan.limits.maximum).all()
    source = plan.source(np.arange(len(plan.campaigns)))
    batch = source.advance(0, 1, plan.controls)
    assert batch.counts.values.shape[:2] == (1, plan.campaigns.cells)
