"""The keys and columns that others read: what is added or renamed here changes a documented contract."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import Stage
from tests.experiments.cli_runs import call

RUN = [
    "run",
    "digests",
    "totals",
    "actions",
    "attribution",
    "rejects",
    "support",
    "overspent_days",
    "seconds",
    "auctions_per_second",
]
ATTRIBUTION = ["accuracy", "caused", "credited"]
INSIDE = {
    "digests": ["metrics", "ledger"],
    "totals": ["auctions", "impressions", "clicks", "conversions", "spend_micros", "revenue_micros", "refunds_micros"],
    "actions": ["applied", "recorded", "stale", "refused", "needs_approval", "rolled_back"],
}
AUDIT = ["valid", "records", "first_bad", "applied", "max_relative_step", "rollbacks", "open_alerts"]
METRICS = [
    ("tick", "int32"),
    ("tick_start", "timestamp[us, tz=UTC]"),
    ("campaign", "string"),
    ("channel", "string"),
    ("market", "string"),
    ("bid_micros", "int64"),
    ("budget_micros", "int64"),
    ("paused", "bool"),
    ("opportunities", "int64"),
    ("bids", "int64"),
    ("outside_support", "int64"),
    ("impressions", "int64"),
    ("clicks", "int64"),
    ("conversions", "int64"),
    ("spend_micros", "int64"),
    ("revenue_micros", "int64"),
    ("refunds_micros", "int64"),
    ("people", "int64"),
    ("converting_clicks", "int64"),
    ("caused", "int64"),
    ("credited_ppm", "int64"),
    ("credited_right_ppm", "int64"),
]
ACTIONS = [
    ("tick", "int32"),
    ("acts_from", "timestamp[us, tz=UTC]"),
    ("round", "int64"),
    ("action", "int64"),
    ("campaign", "string"),
    ("knob", "string"),
    ("creative", "string"),
    ("audience", "string"),
    ("old", "int64"),
    ("wanted", "int64"),
    ("raw", "int64"),
    ("offer", "int64"),
    ("outcome", "string"),
    ("reason", "string"),
    ("source", "string"),
    ("proposer", "string"),
    ("note", "string"),
    ("base_version", "int64"),
]


def columns(path: Any) -> list[tuple[str, str]]:
    """Names and types of a table; a word is a string, dictionary-encoded or not."""
    schema = pq.read_schema(path)
    assert schema.metadata[b"bidtwin_table_version"] == b"2"
    types = [
        "string" if str(field.type).startswith("dictionary<values=string") else str(field.type) for field in schema
    ]
    return list(zip(schema.names, types, strict=True))


@pytest.mark.parametrize("job", ["simulated", "auctions", "factual"])
def test_the_keys_of_a_runs_json(reference: Stage, job: str) -> None:
    value = reference.run(job).as_json()
    assert list(value) == RUN
    for name, keys in INSIDE.items():
        assert list(value[name]) == keys
    assert value["attribution"] is None
    support = ["logged_bid_micros", "bids", "outside", "share_outside"]
    assert (value["support"] and list(value["support"])) == (support if job == "auctions" else None)
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_the_keys_of_an_attribution(reference: Stage) -> None:
    assert list(reference.run("full world").as_json()["attribution"]) == ATTRIBUTION


def test_what_does_not_apply_is_null(reference: Stage) -> None:
    simulated, auctions, factual = (reference.run(job).as_json() for job in ("simulated", "auctions", "factual"))
    nulls = [{key for key, each in value.items() if each is None} for value in (simulated, auctions, factual)]
    assert nulls == [
        {"attribution", "rejects", "support", "overspent_days"},
        {"attribution", "overspent_days"},
        {"attribution", "support", "auctions_per_second"},
    ]
    unknown = [
        {key for key, each in value["totals"].items() if each is None} for value in (simulated, auctions, factual)
    ]
    assert unknown == [
        set(),
        {"conversions", "revenue_micros", "refunds_micros"},
        {"auctions", "conversions", "revenue_micros", "refunds_micros"},
    ]


def test_the_keys_of_an_audits_json(reference: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    answer = call(capfd, "audit", reference.run("simulated").folder, "--json")
    assert list(json.loads(answer.out)) == AUDIT


def test_the_keys_of_run_json(reference: Stage) -> None:
    info = json.loads((reference.run("simulated").folder / "run.json").read_text())
    told = {"schema_version", "name", "status", "seed", "config", "versions", "unrecorded", *RUN[1:]}
    assert told <= set(info)
    assert (info["schema_version"], info["status"]) == (2, "finished")


def test_the_columns_of_the_tables(reference: Stage) -> None:
    folder = reference.run("simulated").folder
    for table, expected in (("metrics", METRICS), ("actions", ACTIONS)):
        files = [folder / f"{table}.parquet"] if (folder / f"{table}.parquet").is_file() else []
        files += sorted((folder / table).glob("*.parquet"))
        assert files
        assert [columns(file) for file in files] == [expected] * len(files)
