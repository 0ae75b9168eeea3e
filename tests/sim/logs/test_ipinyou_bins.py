from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.errors import BadInput
from engine.units import TickGrid, microseconds
from sim.logs.ipinyou_bins import BinLog, read_bins
from sim.logs.rejects import Rejects
from sim.replay import IntervalReplayFactory
from tests.sim.builders import Campaign, everyone, run, world_of

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "ipinyou_5min" / "rtb_5min_train.csv"

HEADER = (
    "datetime,ctr_pred,campaign,weekday,tod,total_bids_cur,cur_avg_bid_price,click,ctr,total_bids_prev,"
    "avg_bid_price_prev,tc_prev,ctr_prev,daily_budget,episode_key\n"
)


def row(
    at: str = "2013-06-07 14:10:00", campaign: str = "b", won: str = "12", price: str = "41.25", click: str = "1"
) -> str:
    return f"{at},0.08,{campaign},5.0,14.0,{won},{price},{click},0.0,40.0,73.0,4.0,0.09,16718.27156983818,b_5.0\n"


def read(
    folder: Path, content: str, known: tuple[str, ...] | None = None, share: float = 0.5
) -> tuple[BinLog, Rejects]:
    path = folder / "bins.csv"
    path.write_text(content)
    return read_bins(path, known=known, max_reject_share=share)


GRID = TickGrid(datetime(2013, 6, 7), tick_minutes=5, ticks=288, zone="Asia/Shanghai")


def test_bins_are_what_each_campaign_won_in_local_time(tmp_path: Path) -> None:
    content = HEADER + row() + row(at="2013-06-07 14:15:00", campaign="a", won="3", price="0.33", click="0")
    log, rejects = read(tmp_path, content)
    first = microseconds(datetime.fromisoformat("2013-06-07T14:10:00+08:00"))
    assert len(rejects) == 0
    assert (log.campaigns, log.span) == (("a", "b"), (first, first + 300_000_000))
    assert log.daily_budget_micros == {"a": 167_182_716, "b": 167_182_716}
    campaigns = world_of([Campaign(id="a"), Campaign(id="b", ctrs=(0.1, 0.1))])[0].campaigns
    intervals = log.intervals(campaigns, GRID)
    assert (intervals.cell.tolist(), intervals.tick.tolist()) == ([1, 0], [170, 171])
    assert (intervals.impressions.tolist(), intervals.clicks.tolist()) == ([12, 3], [1, 0])
    assert intervals.spend_micros.tolist() == [4_950, 10]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(at="2013-06-31 14:10:00"), "datetime (='2013-06-31 14:10:00') must be like 2013-06-07 14:10:00"),
        (row(at="yesterday"), "datetime (='yesterday') must be like 2013-06-07 14:10:00"),
        (row(campaign="z"), "campaign (='z') is not in this run"),
        (row(won="many"), "total_bids_cur (='many') is not a number"),
        (row(won="1.5"), "total_bids_cur (=1.5) must be a whole number"),
        (row(price="-1"), "cur_avg_bid_price (=-1) must be >= 0"),
        (row(price="nan"), "cur_avg_bid_price (=nan) must be a finite number"),
        (row(click="13"), "click (=13) must be <= total_bids_cur (=12)"),
        ("2013-06-07 14:10:00,0.08,b\n", "3 fields where 15 are expected"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_line_and_reason(tmp_path: Path, bad: str, reason: str) -> None:
    log, rejects = read(tmp_path, HEADER + row() + bad + row(), known=("a", "b"))
    assert len(log) == 2
    assert (rejects.file, rejects.line.tolist(), rejects.reason) == (("bins.csv",), [3], (reason,))


def test_too_many_bad_rows_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^bins.csv has 1 bad rows of 2 \(50.00%\), more than max_reject_share"):
        read(tmp_path, HEADER + row() + row(campaign="z"), known=("b",), share=0.01)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^header of bins.csv \(='a,b,c'\) must be 'datetime,.*': give the right kind"):
        read(tmp_path, "a,b,c\n1,2,3\n")


def test_a_file_with_a_header_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^bins.csv has no rows below its header: give a log with data$"):
        read(tmp_path, HEADER)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.exists(), reason=f"the real log is not at {REAL}")
def test_totals_per_campaign_of_the_real_log_equal_a_group_by() -> None:
    log, rejects = read_bins(REAL)
    assert (len(log), len(rejects)) == (5_600, 0)
    first, last = log.span
    grid = TickGrid(
        datetime(2013, 6, 6), tick_minutes=5, ticks=(last - first) // 300_000_000 + 600, zone="Asia/Shanghai"
    )
    factory, controls = world_of([Campaign(id=campaign) for campaign in log.campaigns], grid=grid)
    replay = IntervalReplayFactory(factory.campaigns, grid, log.intervals(factory.campaigns, grid))(everyone(factory))
    counts = run(replay, controls, (0, 5_000, grid.ticks)).counts.values.sum(axis=0)

    frame = pd.read_csv(REAL, dtype={"campaign": str})
    frame["spend"] = (frame["total_bids_cur"] * frame["cur_avg_bid_price"] * 10).round().astype(np.int64)
    by_campaign = frame.groupby("campaign")[["total_bids_cur", "click", "spend"]].sum()
    assert tuple(by_campaign.index) == factory.campaigns.ids
    assert counts[:, [3, 4, 6]].tolist() == by_campaign.astype(np.int64).to_numpy().tolist()
    budgets = frame.groupby("campaign")["daily_budget"].first() * 10_000
    assert log.daily_budget_micros == budgets.round().astype(int).to_dict()
