"""`bidtwin evaluate`, and the study that prints its tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from agents.learned import shipped
from engine.errors import BadInput
from experiments.config.bidding import load_bidding
from experiments.evaluation import compare, numbers
from experiments.studies.bidding_table.run import CONFIG, study
from tests.experiments.cli_runs import call

TASK = Path("configs/bidding_default.yaml")
FEW = ("--on", TASK, "--episodes", 30, "--seeds", "301")


def test_a_table_holds_every_policy_and_lp_km(capfd: pytest.CaptureFixture[str]) -> None:
    told = call(capfd, "evaluate", "constant", "guarded_oracle", "agents.classic:Constant", *FEW)
    assert told.code == 0, told.err
    assert "Policies on bidding_default" in told.out
    names = re.findall(r"^  (constant|guarded_oracle|agents\.classic:Constant|lp_km) ", told.out, re.MULTILINE)
    assert names[:2] == ["guarded_oracle", "lp_km"]
    assert sorted(names[2:]) == ["agents.classic:Constant", "constant"]
    assert "30 episodes under each of the seeds 301; the same for every policy" in told.out


def test_json_holds_the_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    told = call(capfd, "evaluate", "traffic_aware_pi", *FEW, "--target", "--json")
    found = json.loads(told.out)
    assert (found["on"], found["targeted"], found["reference"]) == ("bidding_default", True, "lp_km")
    pi, lp = found["policies"]
    assert (pi["policy"], lp["policy"], lp["gain"]) == ("traffic_aware_pi", "lp_km", None)
    assert pi["gain"]["mean"] == pytest.approx(pi["score"]["mean"] - lp["score"]["mean"])
    assert 0 <= pi["over_target"] <= 1
    assert pi["episodes"] == 30


def test_a_page_is_written_and_asks_for_nothing(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = call(capfd, "evaluate", "constant", *FEW, "--out", tmp_path / "deep" / "page.html")
    assert told.code == 0, told.err
    page = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    assert "<h1>Policies on bidding_default</h1>" in page
    assert page.count("Plotly.newPlot(") >= 3
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="?http', page)


def test_the_policy_of_a_file_is_the_shipped_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    shipped().save(file)
    found = compare([str(file), "learned"], TASK, episodes=20, seeds=(301,))
    mine, ours = (found.evaluation.scores[name].score for name in (str(file), "learned"))
    np.testing.assert_array_equal(mine, ours)


def test_a_log_is_cut_into_windows(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    rows = zip(generator.integers(20, 300, 10_000), generator.beta(1, 1_000, 10_000), strict=True)
    log = tmp_path / "auctions.txt"
    log.write_text("".join(f"0\t{price}\t{ctr:.6f}\t1\n" for price, ctr in rows), encoding="utf-8")
    found = compare(["constant"], log, episodes=6)
    assert found.ground.told == {"episodes": 6, "seeds": [101], "windows": 2, "auctions_per_window": 2_400}
    assert sorted(set(found.evaluation.clusters.tolist())) == [0, 1]
    assert all(0.3 < each.hindsight.mean <= 1.0 for each in found.summaries)


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ("lp_kn", r"policy \(='lp_kn'\) must be named: a built-in one \(.*lp_km.*\), module:Class, or a .npz file"),
        ("none.npz", r"none.npz does not exist"),
        ("agents.nowhere:Policy", r"policy \(='agents.nowhere:Policy'\) cannot be imported"),
    ],
)
def test_a_policy_that_there_is_not_is_refused(policy: str, sentence: str, capfd: pytest.CaptureFixture[str]) -> None:
    told = call(capfd, "evaluate", policy, *FEW)
    assert (told.code, told.out) == (2, "")
    assert re.search(sentence, told.err), told.err
    assert len(told.err.strip().splitlines()) == 1


def test_seeds_are_held_out_numbers() -> None:
    assert numbers("3,4") == (3, 4)
    for text in ("", "3,x", "-1"):
        with pytest.raises(BadInput, match="must be whole numbers, 0 or more: write 101,102"):
            numbers(text)
    with pytest.raises(BadInput, match=r"the seed that policies are made from \(=20261124\)"):
        compare(["constant"], TASK, episodes=2, seeds=(20261124,))


@pytest.mark.slow
def test_the_study_prints_all_policies_and_all_stress_sets() -> None:
    text = study(episodes=4, stress_episodes=2, seeds=(301,), trials=5)
    for name in ("constant", "pid_rule", "mirror_descent_resolving", "lp_km", "guarded_oracle", "learned"):
        assert text.count(f"\n| {name} |") == 3, name
    for name in ("start error 0.2", "start error 1.0", "no shift", "always a shift", "guard 5 %", "guard 25 %"):
        assert name in text
    assert "| 1,000 |" in text


def test_the_study_is_about_the_default_task() -> None:
    ours, default = load_bidding(CONFIG), load_bidding(TASK)
    assert (ours.task, ours.held_out, ours.seed) == (default.task, default.held_out, default.seed)
