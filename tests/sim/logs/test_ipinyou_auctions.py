from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import BadInput
from sim.logs.ipinyou_auctions import AuctionLog, read_auctions
from sim.logs.rejects import Rejects
from sim.replay import AuctionReplayFactory
from tests.sim.builders import GRID, Campaign, run, total, world_of

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "ipinyou_1458" / "train.txt"
real_data = pytest.mark.real_data

GOOD = b"0\t51\t0.000154\t1\n1\t87\t0.25\t3\n0\t3.5\t1\t2\n"


def read(folder: Path, content: bytes, max_reject_share: float = 0.01) -> tuple[AuctionLog, Rejects]:
    path = folder / "log.txt"
    path.write_bytes(content)
    return read_auctions(path, max_reject_share=max_reject_share)


def told(log: AuctionLog) -> list[tuple[int, int, float, int]]:
    columns = (log.click, log.price_micros, log.predicted_ctr, log.exchange)
    return list(zip(*(column.tolist() for column in columns), strict=True))


ROWS = [(0, 510, 0.000154, 1), (1, 870, 0.25, 3), (0, 35, 1.0, 2)]


@pytest.mark.parametrize("content", [GOOD, GOOD.rstrip(b"\n"), GOOD.replace(b"\n", b"\r\n")])
def test_prices_are_micros_per_impression(tmp_path: Path, content: bytes) -> None:
    log, rejects = read(tmp_path, content)
    assert (told(log), len(rejects)) == (ROWS, 0)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"0\tx\t0.1\t1", "price (='x') is not a number"),
        (b"0\t\t0.1\t1", "price (='') is not a number"),
        (b"0\t\xff\t0.1\t1", "price (='\ufffd') is not a number"),
        (b"0\tnan\t0.1\t1", "price (=nan) must be a finite number"),
        (b"0\t-3\t0.1\t1", "price (=-3) must be >= 0"),
        (b"2\t3\t0.1\t1", "click (=2) must be <= 1"),
        (b"0.5\t3\t0.1\t1", "click (=0.5) must be a whole number"),
        (b"0\t3\t1.01\t1", "predicted_ctr (=1.01) must be <= 1"),
        (b"0\t3\t-0.1\t1", "predicted_ctr (=-0.1) must be >= 0"),
        (b"0\t3\t0.1", "3 fields where 4 are expected"),
        (b"0\t3\t0.1\t1\t9", "5 fields where 4 are expected"),
        (b"", "click (='') is not a number"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_line_and_reason(tmp_path: Path, row: bytes, reason: str) -> None:
    log, rejects = read(tmp_path, GOOD[:16] + row + b"\n" + GOOD[16:], max_reject_share=0.25)
    assert told(log) == ROWS
    assert (rejects.file, rejects.line.tolist(), rejects.reason) == (("log.txt",), [2], (reason,))


def test_several_kinds_of_bad_rows_keep_their_lines(tmp_path: Path) -> None:
    content = b"0\tnan\t0.1\t1\n" + GOOD + b"1\t2\n" + GOOD + b"0\tx\t9\t1\n" + GOOD + b"0\t-1\t0.1\t1\n"
    log, rejects = read(tmp_path, content, max_reject_share=0.5)
    assert told(log) == 3 * ROWS
    assert dict(zip(rejects.line.tolist(), rejects.reason, strict=True)) == {
        1: "price (='nan') is not a number",
        5: "2 fields where 4 are expected",
        9: "price (='x') is not a number",
        13: "price (=-1) must be >= 0",
    }


def test_too_many_bad_rows_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refusal:
        read(tmp_path, GOOD + b"0\t-1\t0.1\t1\n" * 4 + GOOD)
    assert str(refusal.value) == (
        "log.txt has 4 bad rows of 10 (40.00%), more than max_reject_share (=1.00%) allows "
        "(line 4: price (=-1) must be >= 0; line 5: price (=-1) must be >= 0; line 6: price (=-1) must be >= 0): "
        "correct the file or raise the limit"
    )


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadInput) as refusal:
        read(tmp_path, content)
    layout = "give a log with the columns click, price, predicted_ctr, exchange"
    assert str(refusal.value) == f"log (={tmp_path / 'log.txt'}) is empty: {layout}"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refusal:
        read_auctions(tmp_path / "none.txt")
    layout = "give the path of a log with the columns click, price, predicted_ctr, exchange"
    assert str(refusal.value) == f"log (={tmp_path / 'none.txt'}) is not a file: {layout}"


def test_a_file_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^log.txt has no usable row among 2: correct the file$"):
        read(tmp_path, b"x\t1\t0.1\t1\n" * 2, max_reject_share=1.0)


def test_rows_become_opportunities_on_a_synthetic_clock(tmp_path: Path) -> None:
    log, _ = read(tmp_path, GOOD)
    factory, _ = world_of([Campaign(), Campaign(ctrs=(0.1, 0.1))])
    rows = log.opportunities(factory.campaigns, "c1", GRID, rows_per_tick=2)
    assert log.ticks(2) == 2
    assert (rows.campaign.tolist(), rows.cell.tolist(), rows.market.tolist()) == ([1] * 3, [1] * 3, [0] * 3)
    assert (rows.tick.tolist(), rows.index.tolist()) == ([0, 0, 1], [0, 1, 0])
    third, half = GRID.tick_us // 3, GRID.tick_us // 2
    assert (rows.event_time - GRID.start_us).tolist() == [third, 2 * third, GRID.tick_us + half]
    np.testing.assert_allclose(rows.value, log.predicted_ctr / log.predicted_ctr.mean(), rtol=1e-15)
    flat = log.opportunities(factory.campaigns, "c1", GRID, rows_per_tick=2, value="flat")
    assert flat.value.tolist() == [1.0] * 3


@real_data
@pytest.mark.skipif(not REAL.exists(), reason=f"the real log is not at {REAL}")
@pytest.mark.parametrize("ties_win", [True, False])
@pytest.mark.parametrize("bid", [300, 700, 2_500])
@pytest.mark.parametrize("value", ["flat", "predicted_ctr"])
def test_constant_bids_on_the_real_log_equal_a_numpy_computation(bid: int, value: str, *, ties_win: bool) -> None:
    log, rejects = read_auctions(REAL)
    assert (len(log), len(rejects)) == (100_000, 0)
    factory, controls = world_of([Campaign(bid=bid, budget=10**15)])
    opportunities = log.opportunities(factory.campaigns, "c0", GRID, 2_500, value=value)
    replay = AuctionReplayFactory(factory.campaigns, GRID, opportunities, ties_win=ties_win, logged_bid_micros=3_000)
    counts = total(run(replay(np.array([0])), controls, (0, 20, 48)))

    click, price, ctr = np.loadtxt(REAL, usecols=(0, 1, 2), unpack=True)
    bids = np.floor(bid * ctr / ctr.mean()) if value == "predicted_ctr" else np.full(price.size, bid)
    won = bids >= 10 * price if ties_win else bids > 10 * price
    won &= bids >= 1
    assert counts["impressions"] == won.sum()
    assert counts["clicks"] == click[won].sum()
    assert counts["spend_micros"] == 10 * price[won].sum()
    assert counts["outside_support"] == (bids > 3_000).sum()
    assert (counts["opportunities"], counts["bids"]) == (100_000, (bids >= 1).sum())
