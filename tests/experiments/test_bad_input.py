"""Bad input through the command line: exit code 2, one exact sentence on standard error, and no folder left."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Stage
from tests.experiments.cli_runs import Told, call
from tests.scenarios import AUCTIONS, BIN_COLUMNS, BINS, config, write_auctions, write_bins, write_config

AUCTION_COLUMNS = "click, price, predicted_ctr, exchange"


@pytest.fixture
def bad(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Call a command that must fail; the sentence, with FOLDER for the test's own."""

    def sentence(*arguments: object, leaves: bool = False) -> str:
        answer = call(capfd, *arguments, "--out", tmp_path / "run", "--local", "--json")
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.count("\n") == 1
        assert leaves or not (tmp_path / "run").exists()
        return answer.err.removesuffix("\n").replace(str(tmp_path), "FOLDER")

    return sentence


# --- configurations ---


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("sed",), 7, "sed (=7) is not a known key: did you mean 'seed'?"),
        (("seed",), "7", "seed (='7') must be a whole number: write it without quotes"),
        (
            ("campaigns", "search-a", "budget_micros"),
            -1,
            "campaigns.search-a.budget_micros (=-1) must be >= 0: raise it",
        ),
        (
            ("campaigns", "search-a", "reach"),
            25,
            "campaigns.search-a.reach (=25) must be a ratio from 0 to 1: write 25% or 0.25",
        ),
        (
            ("campaigns", "search-a", "bid_micros"),
            float("nan"),
            "campaigns.search-a.bid_micros (=nan) must be a whole number: write one such as 1000",
        ),
        (
            ("schema_version",),
            2,
            "schema_version (=2) is not the version this program reads: write 1, or use the program that wrote the "
            "file",
        ),
        (("source",), "replays", "source (='replays') must be simulation or replay: did you mean 'replay'?"),
    ],
)
def test_a_configuration_that_cannot_be_used(
    tmp_path: Path, bad: Any, path: tuple[str, ...], value: Any, sentence: str
) -> None:
    document = config()
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    file = write_config(tmp_path / "small.yaml", document)
    assert bad("simulate", file) == f"bidtwin: FOLDER/small.yaml: {sentence}"


def test_a_missing_and_an_empty_configuration(tmp_path: Path, bad: Any) -> None:
    file = tmp_path / "small.yaml"
    assert bad("simulate", file) == "bidtwin: FOLDER/small.yaml does not exist: check the path"
    file.write_text("")
    assert bad("simulate", file) == "bidtwin: FOLDER/small.yaml is empty: start from configs/quickstart.yaml"


def test_a_run_folder_that_exists_is_not_written_into(tmp_path: Path, bad: Any) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    file = write_config(tmp_path / "small.yaml", config())
    assert bad("simulate", file, leaves=True) == (
        "bidtwin: run folder FOLDER/run exists already: choose another with --out, or remove it"
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_a_run_folder_that_cannot_be_made(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    file = write_config(tmp_path / "small.yaml", config())
    answer = call(capfd, "simulate", file, "--out", tmp_path / "file" / "run", "--local")
    assert answer == Told(
        2,
        "",
        f"bidtwin: run folder {tmp_path}/file/run cannot be made (Not a directory): choose another with --out\n",
    )


def test_the_wrong_job_for_a_configuration(tmp_path: Path, bad: Any) -> None:
    auctions = write_config(tmp_path / "auctions.yaml", config(AUCTIONS))
    assert bad("simulate", auctions) == (
        "bidtwin: auctions: source (=replay) must be simulation: use `bidtwin replay` for it"
    )
    simulation = write_config(tmp_path / "small.yaml", config())
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        assert bad("replay", simulation, "--log", tmp_path / folder) == (
            f"bidtwin: log (=FOLDER/{folder}) holds no Parquet files: give the opportunities folder of a recorded run"
        )


# --- logs ---


def auctions(tmp_path: Path, **changes: Any) -> Path:
    return write_config(tmp_path / "auctions.yaml", config(AUCTIONS, **changes))


def test_a_missing_and_an_empty_log(tmp_path: Path, bad: Any) -> None:
    log = tmp_path / "log.txt"
    assert bad("replay", auctions(tmp_path), "--log", log) == (
        f"bidtwin: log (=FOLDER/log.txt) is not a file: give the path of a log with the columns {AUCTION_COLUMNS}"
    )
    log.write_text("")
    assert bad("replay", auctions(tmp_path), "--log", log) == (
        f"bidtwin: log (=FOLDER/log.txt) is empty: give a log with the columns {AUCTION_COLUMNS}"
    )
    bins = write_config(tmp_path / "bins.yaml", config(BINS))
    log.write_text(BIN_COLUMNS + "\n")
    assert bad("replay", bins, "--log", log) == "bidtwin: log.txt has no rows below its header: give a log with data"


SPOILT = {  # line: what becomes of it, and what is said
    3: (lambda row: ["?", *row[1:]], "click (='?') is not a number"),
    5: (lambda row: [row[0], "NaN", *row[2:]], "price (='NaN') is not a number"),
    8: (lambda row: [row[0], "-60", *row[2:]], "price (=-60) must be >= 0"),
    9: (lambda row: ["2", *row[1:]], "click (=2) must be <= 1"),
    11: (lambda row: row[:3], "3 fields where 4 are expected"),
    13: (lambda row: [*row[:2], "1.5", row[3]], "predicted_ctr (=1.5) must be <= 1"),
    14: (lambda row: ["0.5", *row[1:]], "click (=0.5) must be a whole number"),
    15: (lambda row: [row[0], "inf", *row[2:]], "price (='inf') is not a number"),
}


def spoil(path: Path) -> Path:
    """The log with some rows spoilt."""
    lines = path.read_text().splitlines()
    for line, (change, _) in SPOILT.items():
        lines[line - 1] = "\t".join(change(lines[line - 1].split("\t")))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_bad_row_is_rejected_counted_and_told_and_the_rest_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = write_auctions(tmp_path / "whole.txt", 200)
    rows = whole.read_text().splitlines(keepends=True)
    kept = tmp_path / "kept.txt"
    kept.write_text("".join(row for line, row in enumerate(rows, start=1) if line not in SPOILT))
    spoilt = spoil(write_auctions(tmp_path / "log.txt", 200))
    file, how = auctions(tmp_path), ("--local", "--json")
    answers = {
        log.stem: call(capfd, "replay", file, "--log", log, "--out", tmp_path / log.stem, *how)
        for log in (spoilt, kept)
    }
    assert {name: (answer.code, answer.err) for name, answer in answers.items()} == {"log": (0, ""), "kept": (0, "")}
    told = {name: json.loads(answer.out) for name, answer in answers.items()}
    assert (told["log"]["rejects"], told["kept"]["rejects"]) == (len(SPOILT), 0)
    for name in ("digests", "totals", "actions", "support"):
        assert told["log"][name] == told["kept"][name]
    assert told["log"]["totals"]["auctions"] == 200 - len(SPOILT)
    with (tmp_path / "log" / "rejects.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["file", "line", "reason"],
            *(["log.txt", str(line), reason] for line, (_, reason) in SPOILT.items()),
        ]
    assert not (tmp_path / "kept" / "rejects.csv").exists()


def test_too_many_bad_rows_stop_the_run_with_the_first_examples(tmp_path: Path, bad: Any) -> None:
    log = spoil(write_auctions(tmp_path / "log.txt", 50))
    assert bad("replay", auctions(tmp_path), "--log", log) == (
        "bidtwin: log.txt has 8 bad rows of 50 (16.00%), more than max_reject_share (=10.00%) allows (line 3: click "
        "(='?') is not a number; line 5: price (='NaN') is not a number; line 8: price (=-60) must be >= 0): correct "
        "the file or raise the limit"
    )


def test_a_row_of_an_unknown_campaign_is_rejected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def stranger(line: list[str]) -> list[str]:
        return [*line[:2], "9999", *line[3:]] if line[0].endswith("06 05:30:00") and line[2] == "2259" else line

    def undated(line: list[str]) -> list[str]:
        line = stranger(line)
        return ["yesterday", *line[1:]] if line[0].endswith("07 23:30:00") and line[2] == "1458" else line

    file = write_config(tmp_path / "bins.yaml", config(BINS))
    log = write_bins(tmp_path / "bins.csv", undated)
    answer = call(capfd, "replay", file, "--log", log, "--out", tmp_path / "run", "--local", "--json")
    assert (answer.code, answer.err, json.loads(answer.out)["rejects"]) == (0, "", 2)
    with (tmp_path / "run" / "rejects.csv").open() as rejected:
        assert list(csv.reader(rejected))[1:] == [
            ["bins.csv", "25", "campaign (='9999') is not in this run"],
            ["bins.csv", "192", "datetime (='yesterday') must be like 2013-06-07 14:10:00"],
        ]


def test_a_log_of_another_kind_is_refused_by_its_header(tmp_path: Path, bad: Any) -> None:
    file = write_config(tmp_path / "bins.yaml", config(BINS))
    log = tmp_path / "log.csv"
    log.write_text("date,campaign\n2013-06-06,1458\n")
    assert bad("replay", file, "--log", log) == (
        f"bidtwin: header of log.csv (='date,campaign') must be {BIN_COLUMNS!r}: give the right kind of log"
    )


def test_a_log_that_begins_before_the_run_is_refused(tmp_path: Path, bad: Any) -> None:
    time = {"start": "2013-06-07", "tick_minutes": 30}
    file = write_config(tmp_path / "bins.yaml", config(BINS, time=time))
    log = write_bins(tmp_path / "bins.csv")
    assert bad("replay", file, "--log", log) == (
        "bidtwin: time.start (=2013-06-07 00:00:00) must be <= the log's first row (2013-06-06 00:00:00): start the "
        "run earlier"
    )


def test_a_budget_left_to_a_log_that_has_no_row_of_the_campaign_is_refused(tmp_path: Path, bad: Any) -> None:
    document = config(BINS)
    document["campaigns"]["3358"] = dict(document["campaigns"]["1458"])
    file = write_config(tmp_path / "bins.yaml", document)
    assert bad("replay", file, "--log", write_bins(tmp_path / "bins.csv")) == (
        "bidtwin: campaigns.3358.budget_micros (='log') must be in the log, and no row of it is: give micros"
    )


def test_recorded_rows_that_cannot_be_used_are_rejected_and_the_rest_kept(
    reference: Stage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(reference.run("simulated").folder / "opportunities")
    columns = {name: table[name].to_pylist() for name in ("campaign", "value", "price_micros")}
    columns["campaign"][3] = "stranger"
    columns["value"][5] = float("nan")
    columns["price_micros"][8] = -1
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array(values))
    log = tmp_path / "opportunities"
    log.mkdir()
    pq.write_table(table, log / "part-0.parquet")
    file = write_config(tmp_path / "small.yaml", config())
    answer = call(capfd, "replay", file, "--log", log, "--out", tmp_path / "run", "--local", "--json")
    assert (answer.code, answer.err, json.loads(answer.out)["rejects"]) == (0, "", 3)
    with (tmp_path / "run" / "rejects.csv").open() as rejected:
        assert list(csv.reader(rejected))[1:] == [
            ["part-0.parquet", "4", "campaign (='stranger') is not in this run"],
            ["part-0.parquet", "6", "value (=nan) must be >= 0 and finite"],
            ["part-0.parquet", "9", f"price_micros (=-1) must be in [0, {10**15}]"],
        ]
    assert np.isfinite(json.loads(answer.out)["totals"]["spend_micros"])


# --- folders that are no run ---


def test_an_audit_of_what_is_no_run(tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        assert call(capfd, "audit", folder) == Told(
            2,
            "",
            f"bidtwin: {folder} must be a run folder, and it holds no run.json: give the folder that a run printed\n",
        )
    info = json.loads((finished / "run.json").read_text()) | {"schema_version": 9}
    (finished / "run.json").write_text(json.dumps(info))
    assert call(capfd, "audit", finished, "--json") == Told(
        2, "", f"bidtwin: {finished}/run.json: schema_version (=9) must be 2: open it with the bidtwin that wrote it\n"
    )
