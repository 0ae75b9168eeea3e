"""The tables of finished runs: one row for each thing, nulls where there is nothing to say, and words for ids."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from engine.actions import ROW_BITS
from engine.events import Events, Kind
from engine.policy import TRUTH
from engine.runtime.records import event_columns
from engine.runtime.store import LEDGER, read_ledger
from engine.runtime.tables import write_actions
from experiments import api, build
from tests.conftest import Stage
from tests.scenarios import TICKS, config

CAMPAIGNS = ["display-a", "search-a", "search-b", "social-a", "social-b"]


def test_metrics_have_a_row_per_tick_and_campaign_in_that_order(reference: Stage) -> None:
    table = reference.run("simulated").metrics
    expected = [(tick, name) for tick in range(TICKS) for name in CAMPAIGNS]
    assert list(zip(table.tick, table.campaign.astype(str), strict=True)) == expected
    assert table.columns[table.isna().any()].tolist() == list(TRUTH)  # there is no attribution to know better than
    assert table[list(TRUTH)].isna().all(axis=None)
    starts = pd.date_range("2026-03-27T23:00Z", periods=TICKS, freq="h")  # midnight in Berlin
    assert table.tick_start.drop_duplicates().tolist() == starts.tolist()
    homes = table.groupby("campaign", observed=True)[["channel", "market"]].agg(lambda column: set(column.astype(str)))
    assert [list(home) for home in homes.channel] == [[name.split("-")[0]] for name in CAMPAIGNS]
    assert homes.channel.tolist() == homes.market.tolist()


def test_actions_say_null_where_there_is_nothing_to_say(reference: Stage) -> None:
    actions = reference.run("simulated").actions
    approved = actions.outcome.isin(["applied", "recorded", "stale", "pending"])
    assert actions.action.notna().tolist() == approved.tolist()
    assert actions.reason.isna().tolist() == approved.tolist()
    assert actions.creative.notna().tolist() == (actions.knob == "weights").tolist()
    assert actions.offer.notna().tolist() == ((actions.outcome == "refused") & (actions.reason == "step")).tolist()
    always = [
        "tick",
        "acts_from",
        "round",
        "campaign",
        "knob",
        "old",
        "wanted",
        "outcome",
        "source",
        "proposer",
        "note",
    ]
    assert not actions[always].isna().any().any()


def test_an_action_is_named_by_its_round_and_row_and_acts_from_the_next_tick(reference: Stage) -> None:
    run = reference.run("simulated")
    actions = run.actions
    row = actions.groupby("round").cumcount()
    named = actions.action.notna()
    ids = (actions["round"].astype("int64") * 2**ROW_BITS + row)[named]
    assert actions.action[named].astype("int64").tolist() == ids.tolist()
    assert (actions["round"] == actions.tick + 1).all()  # a decision every tick, after the opening
    starts = run.metrics.drop_duplicates("tick").set_index("tick").tick_start
    assert actions.acts_from.tolist() == starts.loc[actions.tick + 1].tolist()


def test_actions_are_made_of_the_ledger_alone(reference: Stage, tmp_path) -> None:  # type: ignore[no-untyped-def]
    run = reference.run("simulated")
    plan = build.simulation(api.load(config()))
    counts = write_actions(tmp_path / "again.parquet", read_ledger(run.folder / LEDGER), plan.campaigns, plan.grid)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again.parquet"), run.actions)
    assert {name: counts.get(name, 0) for name in run.info["actions"]} == run.info["actions"]
    assert run.info["actions"]["applied"] == (run.actions.outcome == "applied").sum()


def test_conversions_and_refunds_name_their_click() -> None:
    campaigns = build.simulation(api.load(config())).campaigns
    zero = np.zeros(4, dtype=np.int64)
    money = {"price_micros": zero, "value_micros": zero}
    click = {"click_high": np.array([0, 0, 1, 1]), "click_low": np.array([0, 0, 2, 2])}
    click["number"] = np.array([0, 0, 3, 3], dtype=np.uint16)
    names = {"event_high": zero, "event_low": np.arange(4)}
    who = {"campaign": zero, "cell": zero, "event_time": zero, "ingest_time": zero}
    told = event_columns(Events(kind=np.array(list(Kind)), **names, **who, **money, **click), campaigns)
    assert told["kind"].to_pylist() == ["impression", "click", "conversion", "refund"]
    assert told["click_id"].to_pylist() == [None, None, f"{1:016x}{2:016x}", f"{1:016x}{2:016x}"]
    assert told["number"].to_pylist() == [None, None, 3, 3]


def test_recorded_tables_have_null_where_there_was_no_conversion(reference: Stage) -> None:
    folder = reference.run("simulated").folder
    opportunities = pd.read_parquet(folder / "opportunities")
    for column in ("conversion_time", "conversion_value_micros"):
        assert opportunities[column].notna().tolist() == opportunities.conversion_if_won.tolist()
    assert opportunities.conversion_if_won.sum() > 0
    events = pd.read_parquet(folder / "events")
    assert events.click_id.notna().tolist() == (events.kind == "conversion").tolist()
    assert events.event_id.str.fullmatch("[0-9a-f]{32}").all()
    assert (events.ingest_time == events.event_time).all()  # a simulation hears of everything at once
    for name in ("events", "opportunities"):
        for file in (folder / name).glob("*.parquet"):
            assert pq.read_schema(file).metadata[b"bidtwin_table_version"] == b"2"
