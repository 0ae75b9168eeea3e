"""A campaign of a live run is an actor with a name: it tells what it knows, and every wish goes through the guard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.actions import Knob
from engine.runtime.actors import RayRunner
from engine.runtime.local import Progress
from experiments import api
from tests.scenarios import config

pytestmark = pytest.mark.ray


class Watcher:
    """Asks a handle of the run at its third report, and once more near the end."""

    def __init__(self, runner: RayRunner) -> None:
        self.runner = runner
        self.known: list[Any] = []
        self.asked: list[str] = []

    def __call__(self, now: Progress) -> None:
        if now.tick not in (3, 60):
            return
        handles = [self.runner.handle(name) for name in ("search-a", "social-b")]
        self.known += [(handle.snapshot(), handle.metrics()) for handle in handles]
        if now.tick == 3:
            search, social = handles
            self.asked += [
                search.apply(Knob.BUDGET, [9_000_000], by="ann"),
                search.apply(Knob.BID, [2_000_000], by="ann"),  # above the hard maximum
                search.apply(Knob.BID, [-1], by="ann"),
                social.pause(by="ann"),
            ]


def test_a_handle_tells_and_asks_and_the_guard_and_the_ledger_have_their_say(tmp_path: Path) -> None:
    runner = RayRunner(shards=2)
    watch = Watcher(runner)
    run = api.simulate(
        config(script={}, policies=[], people={"ann": ["operator"]}), out=tmp_path / "run", runner=runner, watch=watch
    )

    (search, _), (social, _), (later, told), (paused, _) = watch.known
    assert search == {"bid_micros": 30_000, "budget_micros": 6_000_000, "paused": 0}
    assert social == {"bid_micros": 18_000, "budget_micros": 2_000_000, "paused": 0}
    assert later == {"bid_micros": 30_000, "budget_micros": 9_000_000, "paused": 0}
    assert paused == {"bid_micros": 18_000, "budget_micros": 2_000_000, "paused": 1}
    assert (
        told["ctr"].n >= run.metrics[(run.metrics.campaign == "search-a") & (run.metrics.tick < 60)].impressions.sum()
    )

    assert len(set(watch.asked)) == 4
    columns = ["campaign", "knob", "outcome", "reason", "source", "proposer"]
    answers = run.actions[columns].astype(object).where(run.actions[columns].notna(), None).to_numpy().tolist()
    assert sorted(answers, key=str) == sorted(
        [
            ["search-a", "budget", "applied", None, "person", "ann"],
            ["search-a", "bid", "refused", "hard_maximum", "person", "ann"],
            ["search-a", "bid", "refused", "negative", "person", "ann"],
            ["social-b", "paused", "applied", None, "person", "ann"],
        ],
        key=str,
    )
    assert run.metrics[(run.metrics.campaign == "social-b") & (run.metrics.tick == 70)].paused.all()
    found = api.audit(run.folder)
    assert (found["valid"], found["applied"]) == (True, 2)
    with pytest.raises(RuntimeError, match=r"^no run is under way$"):
        runner.handle("search-a")
