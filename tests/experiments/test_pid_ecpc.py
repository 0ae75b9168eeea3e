"""The study of the published eCPC controller: its rounds as published, and what the guard lets through."""

import csv
import json
import math
import random
import subprocess
import sys
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import yaml

from agents.ecpc import EcpcPid
from engine.errors import BadInput
from engine.events import COUNTS
from experiments import api, build
from experiments.config import AuctionLog, load_config
from experiments.studies.pid_ecpc import run as pid_ecpc
from experiments.studies.pid_ecpc.run import CONFIG, ROUNDS, study
from sim.logs.ipinyou_auctions import VALUES
from tests.scenarios import DATA

pytestmark = pytest.mark.slow

PUBLISHED = DATA / "ipinyou_1458"


def published(log):
    """The published description over a log, row by row in fen per 1,000 impressions, nothing of ours in it."""
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    mean = sum(float(row[2]) for row in rows) / len(rows)
    length = len(rows) // 40
    reference, kp, ki, kd = 40_000, 0.0005, 0.000001, 0.0001
    clicks = cost = wins = 0
    ecpcs, errors, table = [], 0.0, []
    for place in range(40):
        phi = 0.0
        if place:
            error = reference - ecpcs[place - 1]
            errors += error
            phi = kp * error + ki * errors
            if place >= 2:
                phi += kd * (ecpcs[place - 2] - ecpcs[place - 1])
            phi = min(max(phi, -2), 5)
        for click, price, ctr, _ in rows[place * length : (place + 1) * length]:
            bid = max(5, int(69 * float(ctr) / mean) * math.exp(phi)) if place else 1_000
            if bid > int(price):
                wins, clicks, cost = wins + 1, clicks + int(click), cost + int(price)
        ecpcs.append(cost / (clicks + 1))
        row = {"round": place, "ecpc": round(ecpcs[place], 4), "phi": round(phi, 4), "clicks": clicks}
        table.append(row | {"cost": cost, "win_ratio": round(wins / len(rows), 4)})
    return table


def write_log(path, rows, seed=20261124):
    """A log in the same format, of our own making: dear clicks, prices that the bids of either course reach."""
    draw = random.Random(seed)
    lines = []
    for _ in range(rows):
        ctr = round(min(draw.lognormvariate(math.log(4e-4), 1.1), 0.05), 6)
        price = min(int(draw.lognormvariate(math.log(60), 0.8)) + 1, 300)
        lines.append(f"{int(draw.random() < 2 * ctr)}\t{price}\t{ctr:.6f}\t{draw.randint(1, 3)}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log") / "small.txt", 20_017)  # 40 rounds of 500 rows, and 17 left over


@pytest.fixture(scope="module")
def found(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "run"
    return study(small, folder), folder


# --- as published ---


@pytest.mark.real_data
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"the real logs are not in {DATA}")
def test_all_forty_published_rounds_to_the_printed_digits():
    with (PUBLISHED / "published_pid_rounds_train.csv").open(newline="") as file:
        printed = [
            {
                "round": int(row["round"]),
                "ecpc": float(row["ecpc"]),
                "phi": float(row["phi"]),
                "clicks": int(row["total_click"]),
                "cost": float(row["total_cost"]),
                "win_ratio": float(row["win_ratio"]),
            }
            for row in csv.DictReader(file)
        ]
    found = study(PUBLISHED / "train.txt")
    assert len(printed) == ROUNDS
    assert found["rounds"] == printed
    assert found["summary"]["published"]["wins"] == 25_062


def test_the_rounds_of_a_log_of_our_own_are_those_of_the_description(found, small):
    expected = published(small)
    assert found[0]["rounds"] == expected
    assert len({row["phi"] for row in expected}) > 20  # the controller is at work, not clipped throughout
    assert expected[-1]["clicks"] > 10


@pytest.mark.parametrize("seed", range(3))
def test_the_same_for_other_logs(tmp_path, seed):
    log = write_log(tmp_path / "log.txt", 10_000, seed)
    assert study(log)["rounds"] == published(log)


def test_it_says_what_it_is(found):
    assert found[0]["kind"] == "unguarded evaluation"
    assert found[0]["rows"] == 20_017


@pytest.mark.parametrize(
    ("value", "mean", "expected"),
    [
        ("flat", 2e-4, [1, 1, 1]),
        ("predicted_ctr", 2e-4, [0, 0.5, 3.45]),
        ("published_linear", 2e-4, [0, 34 / 69, 238 / 69]),  # 34.5 and 238.05, rounded down
        ("predicted_ctr", 0.0, [1, 1, 1]),
        ("published_linear", 0.0, [1, 1, 1]),
    ],
)
def test_the_value_of_an_opportunity_by_its_name_in_the_configuration(value, mean, expected):
    assert VALUES[value](np.array([0, 1e-4, 6.9e-4]), mean).tolist() == pytest.approx(expected)
    assert set(get_args(AuctionLog.model_fields["value"].annotation)) == set(VALUES)


# --- under the guard ---


def test_under_the_guard_no_applied_step_exceeds_a_quarter(found):
    result, folder = found
    applied = api.open_run(folder).actions.query("outcome == 'applied'")
    assert len(applied) > 20
    assert (4 * (applied.wanted - applied.old).abs() <= applied.old).all()
    bids = [row["bid_micros"] for row in result["guarded"]]
    assert all(4 * abs(new - old) <= old for old, new in pairwise(bids))
    guard = result["summary"]["guard"]
    assert guard["ledger_valid"]
    assert guard["greatest_applied_step"] <= 0.25
    assert guard["beyond_a_step"] > 0  # there was something to hold back
    assert result["summary"]["same_start"]["greatest_rise"] > 0.25


def test_the_guarded_bids_are_the_nearest_the_step_law_lets_through(found):
    rows = found[0]["guarded"]
    bid = 690
    for row in rows:
        if row["round"]:
            bid = min(max(row["wanted_bid_micros"], bid - bid // 4), bid + bid // 4)
        assert row["bid_micros"] == bid
        assert row["wanted_bid_micros"] == pytest.approx(690 * math.exp(row["phi"]), rel=1e-3, abs=1)


def test_the_guarded_course_is_what_its_bids_win_in_the_log(found, small):
    """Bid ⌊bid_micros · value⌋ at value int(69 · predicted CTR / mean) / 69, worked out again row by row."""
    log = [line.split("\t") for line in small.read_text().splitlines()]
    mean = sum(float(row[2]) for row in log) / len(log)
    clicks = cost = wins = 0
    for row in found[0]["guarded"]:
        for click, price, ctr, _ in log[row["round"] * 500 : (row["round"] + 1) * 500]:
            if int(row["bid_micros"] * (int(69 * float(ctr) / mean) / 69)) > 10 * int(price):
                wins, clicks, cost = wins + 1, clicks + int(click), cost + int(price)
        assert (row["clicks"], row["cost"]) == (clicks, cost)
        assert row["ecpc"] == round(cost / (clicks + 1), 4)
        assert row["win_ratio"] == round(wins / len(log), 4)


# --- what a person gets ---


def test_json_is_one_value_and_nothing_else(found, small):
    done = _command(small, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == found[0]
    assert all(list(row) == ["round", "ecpc", "phi", "clicks", "cost", "win_ratio"] for row in found[0]["rounds"])


def test_the_table_shows_both_courses(found):
    text = pid_ecpc._table(found[0])
    lines = text.splitlines()
    assert "unguarded evaluation" in text
    assert [int(line.split()[0]) for line in lines[4 : 4 + ROUNDS]] == list(range(ROUNDS))
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "is not a file: give the path of a log with the columns click, price, predicted_ctr, exchange"),
        ("0\t51\t0.000154\t1\n" * 39, "has 39 rows and must have 40 or more, one a round: give a longer one"),
    ],
)
def test_a_log_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, content, expected):
    log = tmp_path / "log.txt"
    if content is not None:
        log.write_text(content)
    done = _command(log)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pid_ecpc: log (=")
    assert done.stderr.endswith(expected + "\n")
    assert done.stderr.count("\n") == 1


def _command(*arguments):
    command = [sys.executable, "-m", "experiments.studies.pid_ecpc.run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- in the configuration ---

SIMULATION = """\
schema_version: 1
name: ecpc
seed: 3
source: simulation
account: {currency: EUR, zone: Europe/Berlin}
time: {start: 2026-03-02, days: 2, tick_minutes: 60}
markets:
  search:
    auction: second_price
    charging: per_impression
    opportunities_per_tick: 200
    traffic: {amplitude: 40%, peak_hour: 20}
    price: {level_micros: 5_000, sigma: 0.6}
campaigns:
  a:
    market: search
    bid_micros: 4_000
    budget_micros: 900_000_000
    creatives: {x: {ctr: 3%}}
    conversions: {rate: 10%, delay_hours: 2, value_micros: 1_000_000, value_sigma: 0.5}
policies:
  - {policy: ecpc_pid, campaigns: all, reference_ecpc_micros: 150_000, base_bid_micros: 5_000}
mandates:
  - {campaigns: all, knobs: [bid], band: [0.5, 4]}
limits: {min_bid_micros: 100, max_bid_micros: 1_000_000, min_budget_micros: 1_000_000, max_budget_micros: 1_000_000_000}
"""


def test_the_configuration_names_it_ecpc_pid():
    (spec,) = load_config(yaml.safe_load(SIMULATION)).policies
    config = load_config(CONFIG)
    assert load_config(json.loads(config.model_dump_json())) == config
    (study_spec,) = config.policies
    assert spec.model_dump() == study_spec.model_dump() | {
        "reference_ecpc_micros": 150_000,
        "base_bid_micros": 5_000,
    }
    plan = build.simulation(load_config(yaml.safe_load(SIMULATION)))
    (assignment,) = plan.assignments
    assert assignment.name == "ecpc_pid"
    assert assignment.policy == EcpcPid(150_000, 5_000, 5e-5, 1e-7, 1e-5, (-2.0, 5.0), (0.5, 4.0))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("150_000,", "0,", "policies[0].reference_ecpc_micros (=0) must be >= 1: raise it"),
        ("150_000,", "150_000, clip: [1, 5],", "policies[0].clip[0] (=1) must be <= 0.0: lower it"),
        ("150_000,", "150_000, clip: [-2, 21],", "policies[0].clip[1] (=21) must be <= 20.0: lower it"),
        ("150_000,", "150_000, gains: {kp: -1},", "policies[0].gains.kp (=-1) must be >= 0.0: raise it"),
        (", base_bid_micros: 5_000", "", "policies[0].base_bid_micros is missing: add it"),
        (
            "150_000,",
            "150_000, gains: {proportional: 1},",
            "policies[0].gains.proportional (=1) is not a known key: choose from kp, ki, kd",
        ),
    ],
)
def test_a_bad_controller_is_refused_in_one_sentence(old, new, expected):
    with pytest.raises(BadInput) as refused:
        load_config(yaml.safe_load(SIMULATION.replace(old, new)))
    assert str(refused.value) == f"configuration: {expected}"


def test_in_a_simulated_world_it_moves_within_the_law_towards_its_reference(tmp_path):
    run = api.simulate(yaml.safe_load(SIMULATION), out=tmp_path / "run")
    assert run.info["actions"]["applied"] > 10
    assert run.info["actions"]["refused"] == 0
    assert api.audit(run.folder)["max_relative_step"] <= 0.25
    counts = np.cumsum(run.metrics[list(COUNTS)].to_numpy(), axis=0)
    ecpc = counts[:, COUNTS.index("spend_micros")] / (counts[:, COUNTS.index("clicks")] + 1)
    assert abs(ecpc[-1] / 150_000 - 1) < 0.1


@pytest.mark.real_data
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"the real logs are not in {DATA}")
def test_the_study_shows_what_the_command_prints():
    _, table = CONFIG.with_name("study.md").read_text(encoding="utf-8").split("```\n", 1)
    printed = pid_ecpc._table(study(PUBLISHED / "train.txt"))
    assert printed.endswith("\n" + table.removesuffix("\n```\n"))
