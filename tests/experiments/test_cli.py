"""The command line as people and programs meet it: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from engine.runtime.store import LEDGER
from experiments import api
from tests.conftest import Stage
from tests.experiments.cli_runs import Told, call, interrupt, run, session_of, spawn
from tests.scenarios import AUCTIONS, BINS, CONFIGS, SIMULATION, config, write_auctions, write_bins, write_config

ESCAPE = "\x1b"
INTERRUPTED = "bidtwin: interrupted: the run can go on with --resume and its folder\n"


def small(folder: Path, **changes: Any) -> Path:
    return write_config(folder / "small.yaml", config(SIMULATION, **changes))


def plain(text: str) -> str:
    """A person's text, without the escape codes that a pipe never gets."""
    assert ESCAPE not in text
    return text


# --- for programs ---


def told(out: str) -> dict[str, Any]:
    """The one JSON value on standard output."""
    value = json.loads(out)
    assert isinstance(value, dict)
    return value


def test_simulate_prints_one_json_value(tmp_path: Path, capfd: pytest.CaptureFixture[str], reference: Stage) -> None:
    answer = call(capfd, "simulate", small(tmp_path), "--out", tmp_path / "run", "--local", "--json")
    value = told(answer.out)
    assert (answer.code, answer.err) == (0, "")
    expected = reference.run("simulated")
    timed = {"run": str(tmp_path / "run"), "seconds": value["seconds"]}
    timed["auctions_per_second"] = value["auctions_per_second"]
    assert value == expected.as_json() | timed
    assert value["seconds"] > 0


def test_a_seed_and_shards_on_the_command_line_are_taken(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], reference: Stage
) -> None:
    answers = [
        call(capfd, "simulate", small(tmp_path), "--out", tmp_path / name, "--local", "--json", *more)
        for name, more in (("shards", ("--shards", 3)), ("seed", ("--seed", 12)))
    ]
    shards, seed = (told(answer.out)["digests"] for answer in answers)
    assert shards == reference.run("simulated").digests
    assert seed["metrics"] != shards["metrics"]
    assert api.open_run(tmp_path / "seed").info["seed"] == 12


def test_replay_prints_one_json_value(tmp_path: Path, capfd: pytest.CaptureFixture[str], reference: Stage) -> None:
    for job, text, log in (
        ("auctions", AUCTIONS, write_auctions(tmp_path / "auctions.txt")),
        ("factual", BINS, write_bins(tmp_path / "bins.csv")),
    ):
        file = write_config(tmp_path / f"{job}.yaml", config(text))
        answer = call(capfd, "replay", file, "--log", log, "--out", tmp_path / job, "--local", "--json")
        value = told(answer.out)
        assert (answer.code, answer.err) == (0, "")
        assert value["digests"] == reference.run(job).digests
        assert value["totals"] == reference.run(job).totals
        assert value["actions"] == reference.run(job).info["actions"]
    assert (value["support"], value["overspent_days"], value["auctions_per_second"]) == (None, 2, None)


def test_audit_prints_one_json_value_and_its_code_tells_the_verdict(
    finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = call(capfd, "audit", finished, "--json")
    assert (whole.code, whole.err, told(whole.out)) == (0, "", api.audit(finished))
    with sqlite3.connect(finished / LEDGER) as ledger:
        ledger.execute("UPDATE ledger SET body = body || x'00' WHERE sequence = 40")
    ledger.close()
    broken = call(capfd, "audit", finished, "--json")
    assert (broken.code, broken.err, told(broken.out)) == (2, "", api.audit(finished))
    assert (told(broken.out)["valid"], told(broken.out)["first_bad"]) == (False, 40)


def test_audit_of_a_broken_file_says_so_and_never_how_python_failed(
    finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray((finished / LEDGER).read_bytes())
    data[3] ^= 1  # of "SQLite format 3"
    (finished / LEDGER).write_bytes(data)
    answer = call(capfd, "audit", finished)
    sentence = "the ledger's file cannot be read after record -1 (file is not a database): restore it"
    assert (answer.code, answer.err) == (2, "")
    assert answer.out.splitlines()[0] == (
        f"The ledger does NOT hold: record 0 was changed ({sentence}). What stands before it:"
    )


# --- the schema ---


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    from experiments.config import schema as of_configurations  # noqa: PLC0415 - the one under test

    return of_configurations()


def test_schema_prints_a_json_schema(capfd: pytest.CaptureFixture[str], schema: dict[str, Any]) -> None:
    answer = call(capfd, "schema")
    assert (answer.code, answer.err, told(answer.out)) == (0, "", schema)
    Draft202012Validator.check_schema(schema)


def as_json(document: Any) -> Any:
    """What YAML read, as JSON has it: dates are text."""
    return json.loads(json.dumps(document, default=str))


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_schema_accepts_every_shipped_configuration(file: Path, schema: dict[str, Any]) -> None:
    Draft202012Validator(schema).validate(as_json(yaml.safe_load(file.read_text())))


@pytest.mark.parametrize("text", [SIMULATION, AUCTIONS, BINS])
def test_the_schema_accepts_what_loads_and_its_echo(text: str, schema: dict[str, Any]) -> None:
    validator = Draft202012Validator(schema)
    validator.validate(as_json(config(text)))
    validator.validate(api.load(config(text)).model_dump(mode="json"))


@pytest.mark.parametrize("change", [{"seed": -1}, {"seed": "7"}, {"unknown": 1}, {"name": ""}, {"source": "other"}])
def test_the_schema_refuses_what_does_not_load(change: dict[str, Any], schema: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Draft202012Validator(schema).validate(as_json(config(**change)))


# --- for people ---


def test_a_person_is_shown_campaigns_the_guards_answers_and_the_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], reference: Stage
) -> None:
    answer = call(capfd, "simulate", small(tmp_path), "--out", tmp_path / "run", "--local")
    assert answer.code == 0
    lines = [line.split() for line in plain(answer.out).splitlines()]
    names = reference.run("simulated").summary.index
    assert [line[0] for line in lines if line and line[0] in names] == list(names)
    spend = {line[0]: line[1] for line in lines if line and line[0] in names}
    assert spend == {name: f"{row['spend']:,.2f}" for name, row in reference.run("simulated").summary.iterrows()}
    assert ["Folder", str(tmp_path / "run")] in lines
    progress = plain(answer.err).splitlines()
    assert len(progress) == 10
    assert progress[-1].startswith("tick 71 of 71 · ")
    assert all(line.startswith("tick ") for line in progress)


def test_an_audit_is_told_in_two_lines(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = api.audit(finished)
    answer = call(capfd, "audit", finished)
    assert (answer.code, answer.err) == (0, "")
    assert plain(answer.out) == (
        "The ledger holds: 72 records, each chained to the one before.\n"
        f"{found['applied']} rows applied, 2 of them rollbacks; "
        f"largest automatic step {found['max_relative_step']:.2%}; no alerts open.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("simulat",), "bidtwin: No such command 'simulat'."),
        (("simulate",), "bidtwin: a configuration is missing: give its file, or --resume with a run's folder"),
        (
            ("simulate", "x.yaml", "--seed", "-1"),
            "bidtwin: Invalid value for '--seed': Input should be greater than or equal to 0",
        ),
        (
            ("simulate", "x.yaml", "--shards", "0"),
            "bidtwin: Invalid value for '--shards': Input should be greater than or equal to 1",
        ),
        (("replay", "x.yaml"), "bidtwin: Missing option '--log'."),
        (("audit", "x", "--what"), "bidtwin: No such option: --what"),
    ],
)
def test_a_slip_on_the_command_line_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = call(capfd, *arguments)
    assert (answer.code, answer.out, answer.err.strip().split(" Did you mean")[0]) == (2, "", sentence)


@pytest.mark.parametrize("command", ["simulate", "replay", "audit", "schema", "bench"])
def test_every_command_has_help(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    answer = call(capfd, command, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert f"bidtwin {command}" in answer.out


# --- processes ---


@pytest.mark.slow
def test_the_installed_command_prints_json_and_nothing_else(tmp_path: Path, reference: Stage) -> None:
    answer = run("simulate", small(tmp_path), "--out", "run", "--local", "--json", folder=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert told(answer.out)["digests"] == reference.run("simulated").digests
    assert told(answer.out)["run"] == "run"


@pytest.mark.ray
def test_on_ray_too_and_no_process_is_left(tmp_path: Path, reference: Stage) -> None:
    with spawn("simulate", small(tmp_path), "--out", "run", "--json", folder=tmp_path) as process:
        out, err = process.communicate(timeout=120)
    answer = Told(process.returncode, out, err)
    assert (answer.code, answer.err) == (0, "")
    assert told(answer.out)["digests"] == reference.run("simulated").digests
    assert session_of(process.pid) == set()


@pytest.mark.parametrize(
    "more", [pytest.param(("--local",), marks=pytest.mark.slow), pytest.param((), marks=pytest.mark.ray)]
)
def test_ctrl_c_ends_in_a_sentence_and_leaves_a_ledger_that_holds(tmp_path: Path, more: tuple[str, ...]) -> None:
    file = small(tmp_path, time={"start": "2026-03-28", "days": 300, "tick_minutes": 60}, record=[])
    with spawn("simulate", file, "--out", "run", *more, folder=tmp_path) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
        finally:
            answer = interrupt(process)
    assert first.startswith("tick ")
    told_since = [line for line in answer.err.splitlines(keepends=True) if not line.startswith("tick ")]
    assert (answer.code, answer.out, "".join(told_since)) == (130, "", INTERRUPTED)
    assert session_of(process.pid) == set()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    found = api.audit(tmp_path / "run")
    assert (found["valid"], found["first_bad"]) == (True, None)
    assert int(first.split()[1]) < found["records"] < 300 * 24
    assert found["max_relative_step"] <= 0.25


@pytest.mark.slow
def test_the_readmes_first_command_works_from_any_folder(tmp_path: Path) -> None:
    shutil.copy(CONFIGS / "quickstart.yaml", tmp_path)
    document = yaml.safe_load((tmp_path / "quickstart.yaml").read_text())
    for market in document["markets"].values():
        market["opportunities_per_tick"] = 20
    write_config(tmp_path / "quickstart.yaml", document)
    answer = run("simulate", "quickstart.yaml", "--local", folder=tmp_path)
    assert answer.code == 0
    assert ["Folder", "runs/quickstart-001"] in [line.split() for line in plain(answer.out).splitlines()]
    assert (tmp_path / "runs" / "quickstart-001" / "run.json").is_file()
