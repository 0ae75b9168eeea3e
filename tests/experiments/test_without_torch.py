"""Without torch, stable-baselines3 and TensorBoard everything works but training, and training says what to install."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments.test_same_bids import configuration

WITHOUT = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.machinery import PathFinder
from io import StringIO

ABSENT = {"torch", "stable_baselines3", "tensorboard"}

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""
"""The three cannot be found, as where they are not installed."""

EVERYTHING = """
import bidtwin, gymnasium

env = gymnasium.make("bidtwin/Bidding-v0")
env.reset(seed=1)
told = {"info": sorted(env.step(env.action_space.sample())[4])}
config, folder = sys.argv[1:]
from engine.runtime.local import LocalRunner
run = bidtwin.simulate(config, out=folder + "/run", runner=LocalRunner())
told["notes"] = sorted(set(run.actions.note))
told["valid"] = bidtwin.audit(run.folder)["valid"]

def command(*arguments):
    from experiments.cli import main
    sys.argv = ["bidtwin", *arguments]
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            main()
        except SystemExit as ended:
            return ended.code or 0, out.getvalue(), err.getvalue()

TASK = "configs/bidding_default.yaml"
told["evaluate"] = command("evaluate", "learned", "--on", TASK, "--episodes", "5", "--seeds", "1", "--json")
told["train"] = command("train", TASK, "--out", folder + "/policy")
told["loaded"] = sorted(ABSENT & set(sys.modules))
print(json.dumps(told))
"""


@pytest.mark.slow
def test_without_them_all_but_training_works_and_training_says_what_to_install(tmp_path: Path) -> None:
    document = configuration("learned")
    document["time"]["tick_minutes"] = 60
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(document, default=str), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT + EVERYTHING, config, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert {"bid", "spend", "value"} <= set(told["info"])
    assert (told["notes"], told["valid"]) == (["learned"], True)
    code, out, err = told["evaluate"]
    assert (code, err) == (0, "")
    assert [row["policy"] for row in json.loads(out)["policies"]] == ["learned", "lp_km"]
    assert all(row["hindsight"]["mean"] > 0.9 for row in json.loads(out)["policies"])
    assert told["train"] == [
        2,
        "",
        "bidtwin: training needs torch, stable-baselines3, tensorboard, not installed here: "
        "pip install 'bidtwin[train]'\n",
    ]
    assert not (tmp_path / "policy").exists()
    assert told["loaded"] == []
