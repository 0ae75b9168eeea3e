"""Commands to a run that goes on in another process, and to one that was stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.errors import BadInput
from engine.ledger import RecordKind, decode_round
from engine.runtime.local import Progress
from engine.runtime.pace import Pace
from engine.runtime.store import LEDGER, is_written, read_ledger
from engine.units import TickGrid
from experiments import api
from tests.experiments.cli_runs import Told, call
from tests.scenarios import SIMULATION, config

pytestmark = pytest.mark.slow

PEOPLE = {"ann": ["approver"], "oli": ["operator"], "sam": ["approver"]}
LONG = 8
"""Days that a paced run takes half a minute for: nobody who steers it is too late."""


def steered(days: int = 3) -> dict[str, Any]:
    """The small run, in whose script nobody answers and sam asks every hour but on the last day."""
    wishes = [
        {
            "day": day,
            "time": f"{hour:02d}:00",
            "campaign": "search-a",
            "by": "sam",
            "creatives": {"one": "60%", "two": "40%"},
            "note": "one is clicked more",
        }
        for day in range(1, days)
        for hour in range(5 if day == 1 else 4, 24)
    ]
    time = config(SIMULATION)["time"] | {"days": days}
    return config(SIMULATION, people=PEOPLE, time=time, script={"proposals": wishes})


def answers(run: Path) -> list[tuple[str, str, str]]:
    """Every command in the ledger, in order: by whom, what, and what it was told."""
    rounds = [decode_round(record) for record in read_ledger(run / LEDGER) if record.kind is RecordKind.ROUND]
    return [(told["by"], told["kind"], told["answer"]) for each in rounds for told in each.header["commands"]]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A run in a process of its own, five ticks a second."""
    file, run = tmp_path / "steered.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(steered(LONG)))
    command = [Path(sys.executable).with_name("bidtwin"), "simulate", file, "--local", "--pace", "18000", "--out", run]
    process = subprocess.Popen(
        [*map(str, command), "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not ((run / LEDGER).exists() and is_written(run / LEDGER)) and time.monotonic() < until:
        time.sleep(0.02)
    yield run, process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_live_run_is_steered_from_a_second_process(live: tuple[Path, subprocess.Popen[str]]) -> None:
    run, process = live

    def send(kind: str, by: str, *about: str, command: str | None = None) -> str:
        return str(api.answer(run, api.command(run, kind, by, *about, command_id=command))["answer"])

    weights = ("search-a", "weights")
    assert send("approve", "nobody", *weights) == "unknown_person"
    assert send("rollback", "ann", *weights) == "needs_role_operator"
    while (told := send("approve", "ann", *weights)) == "nothing_pending":
        pass
    assert told == "approved"
    assert send("freeze", "oli", command="ice") == send("freeze", "oli", command="ice") == "frozen"
    assert send("rollback", "oli", *weights) == "approved"
    assert send("unfreeze", "oli") == "unfrozen"
    while (told := send("deny", "ann", *weights)) == "nothing_pending":
        pass
    assert told == "denied"

    shared = run / "commands" / "shared.json"
    shared.with_suffix(".draft").write_text(json.dumps({}))
    shared.with_suffix(".draft").chmod(0o666)
    shared.with_suffix(".draft").replace(shared)
    told = api.answer(run, "shared")["answer"]
    rule = "must belong to the run's owner and be writable by nobody else: send it again"
    assert told == f"not_admitted: shared.json {rule}"

    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "bidtwin: interrupted: the run can go on with --resume and its folder\n")
    with pytest.raises(BadInput, match=r"is stopped: the command is admitted when it is resumed"):
        api.answer(run, api.command(run, "pause", "oli", "social-a", "paused", command_id="later"))

    finished = api.resume(run)
    ledger = answers(run)
    assert ledger.count(("oli", "freeze", "frozen")) == 1
    assert ledger[:2] == [("nobody", "approve", "unknown_person"), ("ann", "rollback", "needs_role_operator")]
    assert ledger[-1] == ("oli", "pause", "approved")
    rows = finished.actions.query("campaign == 'search-a' and knob == 'weights' and outcome == 'applied'")
    assert rows.wanted.tolist() == [600_000, 400_000, 500_000, 500_000]
    frozen = finished.actions.query("reason == 'frozen'")
    assert len(frozen)
    assert set(frozen.outcome) == {"refused"}
    assert api.audit(run)["valid"]


def stopped(run: Path, tick: int) -> Path:
    """The steered run, interrupted once the tables hold a tick."""

    def interrupt(now: Progress) -> None:
        if now.tick > tick:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.simulate(steered(), out=run, watch=interrupt)
    return run


def served_at(run: Path, command: str) -> int:
    """The tick at whose close a command was served."""
    return int(json.loads((run / "commands" / "answers" / f"{command}.json").read_text())["tick"])


def test_deny_wins_a_race(tmp_path: Path) -> None:
    run = stopped(tmp_path / "run", 12)
    api.command(run, "approve", "ann", "search-a", "weights", command_id="a")
    api.command(run, "deny", "ann", "search-a", "weights", command_id="b")
    api.resume(run)
    assert answers(run) == [("ann", "deny", "denied"), ("ann", "approve", "nothing_pending")]


def test_the_proposer_cannot_approve_and_the_same_command_twice_has_one_effect(tmp_path: Path) -> None:
    run = stopped(tmp_path / "run", 12)
    for _ in range(2):
        api.command(run, "approve", "sam", "search-a", "weights", command_id="a-own")
        api.command(run, "approve", "ann", "search-a", "weights", command_id="b-other")
    finished = api.resume(run)
    assert answers(run) == [("sam", "approve", "proposer_cannot_approve"), ("ann", "approve", "approved")]
    applied = finished.actions.query("campaign == 'search-a' and knob == 'weights' and outcome == 'applied'")
    assert applied.wanted.tolist() == [600_000, 400_000]


def test_a_part_of_the_account_is_frozen_from_outside(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = stopped(tmp_path / "run", 12)
    for name, about in {
        "a": (),
        "b": ("--campaign", "display-a"),
        "c": ("--campaign", "search-b", "--knob", "bid"),
    }.items():
        told = call(capfd, "freeze", run, *about, "--as", "oli", "--id", name)
        assert told == Told(0, f"{name} is admitted at the next boundary\n", "")
    assert call(capfd, "unfreeze", run, "--as", "oli", "--id", "0").code == 0
    finished = api.resume(run)
    assert answers(run) == [("oli", "unfreeze", "unfrozen"), *[("oli", "freeze", "frozen")] * 3]
    later = finished.actions[finished.actions.tick >= served_at(run, "a")]
    assert (set(later.outcome), set(later.reason)) == ({"refused"}, {"frozen"})


def test_what_is_frozen_in_part_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    run = stopped(tmp_path / "run", 12)
    api.command(run, "freeze", "oli", "display-a", command_id="campaign")
    api.command(run, "freeze", "oli", "search-b", "bid", command_id="knob")
    asked = api.resume(run).actions.query("source == 'policy'")
    later = asked[asked.tick >= served_at(run, "knob")]
    frozen = later.query("reason == 'frozen'")
    assert set(zip(frozen.campaign, frozen.knob, strict=True)) == {
        ("display-a", "bid"),
        ("display-a", "budget"),
        ("search-b", "bid"),
    }
    moved = later.query("outcome == 'applied'")
    assert set(moved.campaign) == {"search-a", "search-b", "social-a", "social-b"}
    assert set(moved.query("campaign == 'search-b'").knob) == {"budget"}


@pytest.mark.parametrize("tamper", ["group", "link", "owner", "nonsense", "version"])
def test_only_the_owners_own_well_formed_files_are_admitted(tmp_path: Path, tamper: str) -> None:
    run = stopped(tmp_path / "run", 12)
    api.command(run, "freeze", "oli", command_id="x")
    path = run / "commands" / "x.json"
    match tamper:
        case "group":
            path.chmod(0o620)
        case "link":
            path.rename(tmp_path / "elsewhere.json")
            path.symlink_to(tmp_path / "elsewhere.json")
        case "owner":
            if os.geteuid() != 0:
                pytest.skip("only root can give a file away")
            os.chown(path, 12345, -1)
        case "nonsense":
            path.write_text("{}")
        case "version":
            path.write_text(json.dumps(json.loads(path.read_text()) | {"command_version": 2}))
    api.resume(run)
    assert answers(run) == []
    told = json.loads((run / "commands" / "answers" / "x.json").read_text())["answer"]
    assert told.startswith("not_admitted: ")
    assert not path.exists()


def test_what_cannot_be_commanded_is_refused_in_one_sentence(tmp_path: Path) -> None:
    run = stopped(tmp_path / "run", 12)
    with pytest.raises(BadInput, match=r"^campaign \(='nope'\) is not in this run: it has display-a, .*$"):
        api.command(run, "pause", "oli", "nope", "paused")
    with pytest.raises(BadInput, match=r"^knob \(='height'\) must be one of bid, budget, weights, paused, modifiers$"):
        api.command(run, "approve", "ann", "search-a", "height")
    with pytest.raises(BadInput, match=r"^knob \(='bid'\) must be of a campaign: say which, with --campaign$"):
        api.command(run, "freeze", "oli", knob="bid")
    api.resume(run)
    with pytest.raises(BadInput, match=r"^run .* is finished: nothing is left to freeze$"):
        api.command(run, "freeze", "oli")


def test_a_pace_waits_for_the_boundary_and_no_longer() -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(3600, clock=lambda: now[0], sleep=sleep)
    grid = TickGrid(datetime(2026, 3, 2), 30, 10)
    for tick, late in ((0, 0.0), (1, 0.2), (2, 0.7), (3, 0.0)):
        now[0] += late
        pace.wait(grid, tick)
    assert slept == pytest.approx([0.3, 0.3])
