"""The laws, on whole runs: what the tables, the records, the ledger and the run's own numbers tell of each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bidtwin
from engine.actions import Knob
from engine.errors import BadInput
from engine.ledger import Record, RecordKind, decode_round, fold
from engine.runtime.store import LEDGER, read_ledger
from experiments import api, build
from experiments.api import Run
from tests.conftest import EVERY_JOB, Stage
from tests.frames import assert_same
from tests.scenarios import AUCTIONS, SIMULATION, config, write_auctions, write_config

CAMPAIGNS = ("display-a", "search-a", "search-b", "social-a", "social-b")
SCALARS = ["bid_micros", "budget_micros"]


def records_of(run: Run) -> list[Record]:
    return list(read_ledger(run.folder / LEDGER))


@pytest.fixture(scope="module")
def run(reference: Stage) -> Run:
    return reference.run("simulated")


# --- the ledger is the truth ---


@pytest.mark.parametrize("job", EVERY_JOB)
def test_the_ledger_folds_to_the_controls_of_the_last_tick(reference: Stage, job: str) -> None:
    run = reference.run(job)
    state = fold(records_of(run)).state
    assert state is not None
    last = run.metrics[run.metrics.tick == run.metrics.tick.max()]
    assert state.scalar.tolist() == last[SCALARS].to_numpy().tolist()
    assert state.paused.tolist() == last.paused.tolist()
    places = {name: place for place, name in enumerate(last.campaign.astype(str))}
    applied = run.actions[run.actions.outcome == "applied"].drop_duplicates(["campaign", "knob", "round"])
    version = np.zeros_like(state.version)
    for campaign, knob in zip(applied.campaign, applied.knob, strict=True):
        version[places[campaign], Knob[knob.upper()]] += 1
    assert state.version.tolist() == version.tolist()


def test_the_ledger_folds_to_the_weights_that_the_actions_tell(run: Run) -> None:
    state = fold(records_of(run)).state
    assert state is not None
    loaded = api.load(config())
    plan = build.simulation(loaded)
    weights = {
        (campaign, creative): int(weight)
        for campaign, creative, weight in zip(
            np.array(plan.campaigns.ids)[plan.campaigns.cell_campaign],
            plan.campaigns.creatives,
            plan.controls.weights,
            strict=True,
        )
    }
    moved = run.actions[(run.actions.knob == "weights") & (run.actions.outcome == "applied")]
    assert len(moved) == 4  # granted, then rolled back
    weights |= dict(zip(zip(moved.campaign, moved.creative, strict=True), moved.wanted.astype(int), strict=True))
    assert state.weights.tolist() == list(weights.values())


@pytest.mark.slow
@pytest.mark.parametrize("job", EVERY_JOB)
def test_any_prefix_of_the_ledger_is_a_legal_earlier_state(reference: Stage, job: str) -> None:
    run = reference.run(job)
    records, limits = records_of(run), run.info["config"]["limits"]
    low = [limits["min_bid_micros"], limits["min_budget_micros"]]
    high = [limits["max_bid_micros"], limits["max_budget_micros"]]
    version = np.zeros(1, dtype=np.int64)
    for length in range(1, len(records) + 1):
        folded = fold(records[:length])
        state = folded.state
        assert state is not None
        assert ((state.scalar >= low) & (state.scalar <= high)).all()
        assert (state.bid <= state.budget).all()
        assert state.weights.min() >= 0
        assert state.weights.sum() == 1_000_000 * len(state.paused)
        assert (state.version >= version).all()
        assert folded.records == length
        assert folded.max_relative_step <= 0.25
        version = state.version
    assert version.sum() > 0 or job == "factual"


def test_every_applied_row_of_the_table_moves_the_controls_in_force(run: Run) -> None:
    """From one tick to the next a scalar changes where, and as, the actions table says, and nowhere else."""
    table = run.metrics.assign(campaign=run.metrics.campaign.astype(str)).set_index(["campaign", "tick"])
    applied = run.actions[run.actions.outcome == "applied"]
    for knob in ("bid", "budget"):
        column = table[f"{knob}_micros"].unstack("tick")
        before, after = column.iloc[:, :-1], column.iloc[:, 1:]
        places = np.argwhere(before.to_numpy() != after.to_numpy()).tolist()
        told = applied[applied.knob == knob].sort_values(["campaign", "tick"])
        assert places == [[CAMPAIGNS.index(row.campaign), row.tick] for row in told.itertuples()]
        assert [int(before.iloc[at, tick]) for at, tick in places] == told.old.tolist()
        assert [int(after.iloc[at, tick]) for at, tick in places] == told.wanted.tolist()
        assert len(places) > 5


def test_what_run_json_tells_is_what_the_ledger_closes_with(run: Run) -> None:
    *_, closing = records_of(run)
    header = decode_round(closing).header
    assert closing.kind is RecordKind.CLOSING
    assert header == {"metrics_digest": run.digests["metrics"], "totals": run.totals, "notes": []}
    assert closing.digest.hex() == run.digests["ledger"]


# --- records ---


def test_a_recorded_simulation_replayed_gives_its_own_numbers(reference: Stage) -> None:
    simulated, replayed = reference.run("simulated"), reference.run("recorded")
    assert replayed.digests["metrics"] == simulated.digests["metrics"]
    assert records_of(replayed)[:-1] == records_of(simulated)[:-1]  # the closing one tells the auctions, see below
    assert_same(replayed.actions, simulated.actions)
    assert_same(replayed.metrics, simulated.metrics)
    opportunities = pd.read_parquet(simulated.folder / "opportunities")
    auctions = len(opportunities[["tick", "market", "index"]].drop_duplicates())
    assert replayed.totals == simulated.totals | {"auctions": auctions}  # one that reached nobody left no opportunity
    assert simulated.totals["auctions"] >= auctions > 10_000


def test_recorded_events_fold_to_the_counts_of_the_metrics_table(run: Run) -> None:
    events = pd.read_parquet(run.folder / "events")
    start = run.metrics.tick_start.min()
    events = events.assign(
        tick=((events.event_time - start) / pd.Timedelta(hours=1)).astype(int),
        campaign=events.campaign.astype(str),
        kind=events.kind.astype(str),
    )
    by = ["campaign", "tick"]
    counted = events.groupby([*by, "kind"]).size().unstack("kind", fill_value=0)
    money = events.groupby(by)[["price_micros", "value_micros"]].sum()
    told = run.metrics.assign(campaign=run.metrics.campaign.astype(str)).set_index(by)
    folded = counted.join(money).reindex(told.index, fill_value=0)
    columns = {
        "impression": "impressions",
        "click": "clicks",
        "conversion": "conversions",
        "price_micros": "spend_micros",
        "value_micros": "revenue_micros",
    }
    for event, count in columns.items():
        assert folded[event].tolist() == told[count].tolist(), count
        assert told[count].sum() > 0
    assert events.event_id.is_unique
    clicks = set(events[events.kind == "click"].event_id)
    assert set(events[events.kind == "conversion"].click_id) <= clicks


def test_nothing_is_recorded_unless_asked_for_and_it_changes_nothing(run: Run, tmp_path: Path) -> None:
    quiet = bidtwin.simulate(config(record=[]), out=tmp_path / "run")
    assert quiet.digests == run.digests
    assert sorted(path.name for path in quiet.folder.iterdir() if path.is_dir() and path.name != "checkpoints") == []
    assert {"events", "opportunities"} <= {path.name for path in run.folder.iterdir()}


# --- physics ---


def test_counts_never_exceed_what_they_are_part_of(run: Run) -> None:
    table = run.metrics
    assert (table.clicks <= table.impressions).all()
    assert (table.impressions <= table.bids).all()
    assert (table.bids <= table.opportunities).all()
    assert table[table.paused][["bids", "impressions", "clicks", "spend_micros"]].to_numpy().sum() == 0
    assert table.paused.sum() == 5


def test_gross_charges_stay_within_the_budget_in_force(run: Run) -> None:
    """Where a tick is charged for, the period's charges up to it are within the budget in force in that tick.

    A budget lowered during the day (a person's edit, here) may lie below what was charged before: then nothing more is.
    """
    local = run.metrics.tick_start.dt.tz_convert("Europe/Berlin").dt.date
    flight = run.metrics.campaign.astype(str) == "search-b"
    period = local.astype(str).where(~flight, "flight")
    charged = run.metrics.groupby([run.metrics.campaign.astype(str), period]).spend_micros.cumsum()
    spends = run.metrics.spend_micros > 0
    assert (charged[spends] <= run.metrics.budget_micros[spends]).all()
    used = (charged / run.metrics.budget_micros).groupby([run.metrics.campaign.astype(str), period]).max()
    assert ((used > 0.95) & (used <= 1)).sum() >= 3  # budgets do run out here: the law was put to the test


def test_nobody_pays_more_than_the_bid_or_less_than_the_reserve(run: Run) -> None:
    opportunities = pd.read_parquet(run.folder / "opportunities")
    events = pd.read_parquet(run.folder / "events")
    bids = run.metrics.set_index([run.metrics.campaign.astype(str), "tick"]).bid_micros
    opportunities["campaign"] = opportunities.campaign.astype(str)
    opportunities = opportunities.join(bids, on=["campaign", "tick"])
    opportunities["own"] = np.floor(opportunities.bid_micros * opportunities["value"]).astype("int64")
    tick = ((events.event_time - run.metrics.tick_start.min()) / pd.Timedelta(hours=1)).astype(int)
    charged = events[events.kind != "conversion"].assign(tick=tick, campaign=events.campaign.astype(str))
    won = charged.merge(opportunities, on=["campaign", "tick", "event_time"], suffixes=("", "_least"), validate="m:1")
    impressions = won[won.kind == "impression"]
    assert len(impressions) == run.totals["impressions"]
    assert (impressions.own >= impressions.price_micros_least).all()
    first, second, clicks = (
        impressions[impressions.market == "display"],
        impressions[impressions.market == "social"],
        won[(won.market == "search") & (won.kind == "click")],
    )
    assert (first.price_micros == first.own).all()
    assert (second.price_micros == second.price_micros_least).all()
    assert (first.price_micros_least >= 5_000).all()
    assert (clicks.price_micros == np.floor(clicks.price_micros_least / clicks.predicted_ctr)).all()
    assert (clicks.price_micros <= clicks.own / clicks.predicted_ctr).all()
    assert (won[(won.market == "search") & (won.kind == "impression")].price_micros == 0).all()
    assert min(len(first), len(second), len(clicks)) > 100


def test_a_score_is_made_of_the_published_rates(run: Run) -> None:
    for name, row in run.summary.iterrows():
        mine = run.metrics[run.metrics.campaign == name]
        assert row["spend"] == mine.spend_micros.sum() / 1e6
        assert row["ctr"] == mine.clicks.sum() / mine.impressions.sum()
        parts = (row["ctr"] / 0.05, row["cvr"] / 0.10, row["roas"] / 3.0)
        weights = (0.3, 0.3, 0.4)
        assert row["score"] == pytest.approx(100 * sum(w * min(x, 1) for w, x in zip(weights, parts, strict=True)))


# --- the functions ---


def test_a_run_is_opened_again_as_it_was(run: Run) -> None:
    again = bidtwin.open_run(run.folder)
    assert again.info == run.info
    assert again.summary.equals(run.summary)
    assert list(again.summary.index) == list(CAMPAIGNS)
    assert all(name in again._repr_html_() for name in CAMPAIGNS)


def test_the_configuration_in_run_json_runs_again_to_the_same_digests(run: Run, tmp_path: Path) -> None:
    echoed = json.loads((run.folder / "run.json").read_text())["config"]
    assert bidtwin.simulate(echoed, out=tmp_path / "again").digests == run.digests
    file = write_config(tmp_path / "small.yaml", config())
    assert bidtwin.simulate(str(file), out=tmp_path / "file").digests == run.digests


def test_the_next_free_folder_under_runs_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = write_auctions(tmp_path / "log.txt", 60)
    folders = [str(bidtwin.replay(config(AUCTIONS), log).folder) for _ in range(2)]
    assert folders == ["runs/auctions-001", "runs/auctions-002"]


def test_a_watcher_sees_every_span_and_the_last_totals(run: Run, tmp_path: Path) -> None:
    seen = []
    again = bidtwin.simulate(config(decision_every=5), out=tmp_path / "run", watch=seen.append)
    assert [each.tick for each in seen] == [*range(5, 71, 5), 71]
    assert {each.ticks for each in seen} == {71}
    assert seen[-1].totals.as_dict() == again.totals
    assert again.totals["auctions"] == run.totals["auctions"]


def test_a_grant_for_no_knob_applies_nothing(tmp_path: Path) -> None:
    run = bidtwin.simulate(config(mandates=[], script={}), out=tmp_path / "run")
    assert run.info["actions"]["applied"] == 0
    assert set(run.actions.outcome) == {"needs_approval"}
    assert set(run.actions.reason) == {"learning_phase"}
    assert run.metrics.groupby("campaign", observed=True)[SCALARS].nunique().to_numpy().max() == 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda folder: bidtwin.simulate(config(AUCTIONS), out=folder / "run"),
            "auctions: source (=replay) must be simulation: use `bidtwin replay` for it",
        ),
        (
            lambda folder: bidtwin.simulate(config(), out=folder),
            "run folder FOLDER exists already: choose another with --out, or remove it",
        ),
        (
            lambda folder: bidtwin.replay(config(), folder, out=folder / "run"),
            "log (=FOLDER) holds no Parquet files: give the opportunities folder of a recorded run",
        ),
        (
            bidtwin.open_run,
            "FOLDER must be a run folder, and it holds no run.json: give the folder that a run printed",
        ),
        (
            bidtwin.audit,
            "FOLDER must be a run folder, and it holds no run.json: give the folder that a run printed",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(
    tmp_path: Path, call: Callable[[Path], object], sentence: str
) -> None:
    with pytest.raises(BadInput) as refused:
        call(tmp_path)
    assert str(refused.value).replace(str(tmp_path), "FOLDER") == sentence
    assert list(tmp_path.iterdir()) == []


def test_opportunities_beyond_the_configurations_calendar_are_refused(run: Run, tmp_path: Path) -> None:
    time = {"start": "2026-03-28", "days": 1, "tick_minutes": 60}
    log = run.folder / "opportunities"
    with pytest.raises(BadInput) as refused:
        bidtwin.replay(config(SIMULATION, time=time, script={}, approver="none") | {"markets": unshocked()}, log)
    assert str(refused.value) == (
        f"log (={log}) holds tick 70, and the configuration has 24 ticks: replay it with the configuration it was "
        "recorded under"
    )
    assert not (tmp_path / "runs").exists()


def unshocked() -> dict[str, dict[str, object]]:
    """The markets of the small simulation without their shocks."""
    return {name: {**market, "shocks": []} for name, market in config()["markets"].items()}
