from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.campaigns import CampaignSet
from engine.errors import BadInput
from engine.events import Opportunities, Status
from engine.runtime.records import OPPORTUNITIES, opportunity_columns
from sim.logs.recorded import COLUMNS, read_recorded
from tests.sim.builders import everyone, run, same, world_of
from tests.sim.test_world import CAMPAIGNS, MARKETS


@pytest.fixture(scope="module")
def recorded() -> tuple[CampaignSet, Opportunities]:
    factory, controls = world_of(CAMPAIGNS, MARKETS, record="opportunities")
    return factory.campaigns, run(factory(everyone(factory)), controls, (0, 4)).opportunities


def table_of(rows: Opportunities, campaigns: CampaignSet) -> Any:
    return pa.table(opportunity_columns(rows, campaigns), schema=OPPORTUNITIES)


def test_what_the_store_writes_comes_back(tmp_path: Path, recorded: tuple[CampaignSet, Opportunities]) -> None:
    campaigns, rows = recorded
    half = len(rows) // 2
    with pq.ParquetWriter(tmp_path / "part-0.parquet", OPPORTUNITIES) as writer:
        for start in range(0, half, 1_000):
            writer.write_table(table_of(rows.take(np.arange(start, min(start + 1_000, half))), campaigns))
    plain = table_of(rows.take(np.arange(half, len(rows))), campaigns)
    plain = pa.table({name: plain[name].cast(kind) for name, kind in COLUMNS.items()})  # words without a dictionary
    pq.write_table(plain, tmp_path / "part-1.parquet")
    back, rejects = read_recorded(tmp_path, campaigns)
    assert len(rejects) == 0
    assert same(back, rows)


def test_an_unknown_price_stays_unknown(tmp_path: Path, recorded: tuple[CampaignSet, Opportunities]) -> None:
    campaigns, rows = recorded
    lists = table_of(rows.take(np.arange(3)), campaigns).to_pydict()
    lists["price_micros"] = [5, None, 7]
    pq.write_table(pa.table(lists, schema=pa.schema(COLUMNS.items())), tmp_path / "part-0.parquet")
    back, _ = read_recorded(tmp_path, campaigns)
    assert back.price_status.tolist() == [Status.KNOWN, Status.UNKNOWN, Status.KNOWN]
    assert back.price_micros.tolist() == [5, 0, 7]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("campaign", "nobody", "campaign (='nobody') is not in this run"),
        ("campaign", None, "campaign is missing"),
        ("market", "bazaar", "market (='bazaar') is not in this run"),
        ("market", "clicks", "market (='clicks') is not its campaign's"),
        ("creative", "creative-9", "creative (='creative-9') is not its campaign's"),
        ("value", float("nan"), "value (=nan) must be >= 0 and finite"),
        ("predicted_ctr", 1.5, "predicted_ctr (=1.5) must be in [0, 1]"),
        ("price_micros", -1, "price_micros (=-1) must be in [0, 1000000000000000]"),
        ("tick", -1, "tick (=-1) must be >= 0"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_number_and_reason(
    tmp_path: Path, recorded: tuple[CampaignSet, Opportunities], column: str, value: Any, reason: str
) -> None:
    campaigns, rows = recorded
    few = rows.take(np.flatnonzero(rows.market != 0)[:5])
    lists = table_of(few, campaigns).to_pydict()
    lists[column][2] = value
    pq.write_table(pa.table(lists, schema=pa.schema(COLUMNS.items())), tmp_path / "part-0.parquet")
    back, rejects = read_recorded(tmp_path, campaigns, max_reject_share=0.2)
    assert same(back, few.take(np.array([0, 1, 3, 4])))
    assert (rejects.file, rejects.line.tolist(), rejects.reason) == (("part-0.parquet",), [3], (reason,))
    with pytest.raises(BadInput, match=r"^part-0.parquet has 1 bad rows of 5"):
        read_recorded(tmp_path, campaigns)


def test_folders_and_files_of_another_kind_are_refused(
    tmp_path: Path, recorded: tuple[CampaignSet, Opportunities]
) -> None:
    campaigns, _ = recorded
    with pytest.raises(BadInput, match=r"holds no Parquet files: give the opportunities folder of a recorded run$"):
        read_recorded(tmp_path, campaigns)
    pq.write_table(pa.table({"tick": [1]}), tmp_path / "part-0.parquet")
    with pytest.raises(
        BadInput, match=r"^part-0.parquet lacks the column event_time: give the opportunities folder of a recorded run$"
    ):
        read_recorded(tmp_path, campaigns)
    (tmp_path / "part-0.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(
        BadInput, match=r"^part-0.parquet cannot be read as opportunities \(.*\): record the run again$"
    ):
        read_recorded(tmp_path, campaigns)
