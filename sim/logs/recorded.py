"""Opportunities that a run of our own recorded: a folder of Parquet files, one row per auction and campaign reached.

The columns are those of `engine.events.Opportunities` as the run folder's `opportunities/` holds them: market,
campaign, creative and audience by id, times as UTC timestamps, and null for an audience, a price, a conversion time or
a conversion value that is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.campaigns import CampaignSet
from engine.errors import BadInput
from engine.events import Opportunities, Status
from engine.units import MAX_MICROS, Int64
from sim.logs.rejects import Rejects, first_reasons

_TIME = pa.timestamp("us", tz="UTC")

COLUMNS: dict[str, Any] = {
    "tick": pa.int32(),
    "event_time": _TIME,
    "market": pa.string(),
    "index": pa.int32(),
    "campaign": pa.string(),
    "creative": pa.string(),
    "audience": pa.string(),
    "value": pa.float64(),
    "predicted_ctr": pa.float64(),
    "price_micros": pa.int64(),
    "click_if_won": pa.bool_(),
    "conversion_if_won": pa.bool_(),
    "conversion_time": _TIME,
    "conversion_value_micros": pa.int64(),
}
"""The columns a file has to have, with the types they are read as; words may be dictionary-encoded."""

_WORDS = ("market", "campaign", "creative", "audience")
_WORTH = "conversion_value_micros"
_MAY_BE_NULL = ("audience", "price_micros", "conversion_time", "conversion_value_micros")


def read_recorded(
    folder: Path, campaigns: CampaignSet, *, max_reject_share: float = 0.01
) -> tuple[Opportunities, Rejects]:
    """Read and check such a folder for the campaigns of a run.

    Rejected are rows of a campaign, creative or market the run does not have, and values out of their range; the line
    is the row's number in its file. Raises `BadInput` for a folder without such files, for a file of another layout,
    and for too many bad rows.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise BadInput(f"log (={folder}) holds no Parquet files: give the opportunities folder of a recorded run")
    parts, names, lines, reasons, rows = [], [], [], [], 0
    for file in files:
        part, rejected, count = _read_file(file, campaigns)
        parts.append(part)
        names += [file.name] * len(rejected)
        lines += sorted(rejected)
        reasons += [rejected[line] for line in sorted(rejected)]
        rows += count
    rejects = Rejects(tuple(names), np.array(lines, dtype=np.int64), tuple(reasons))
    rejects.check(rows, max_reject_share)
    opportunities = Opportunities.concatenate(parts)
    if not len(opportunities):
        raise BadInput(f"log (={folder}) has no usable row among {rows}: record a run with opportunities")
    return opportunities, rejects


def from_table(table: Any, campaigns: CampaignSet) -> tuple[Opportunities, dict[int, str]]:
    """The good rows of an Arrow table in this layout, and the reason for every bad one by its number from 1."""
    rows = np.arange(1, table.num_rows + 1)
    market = _places(table["market"], campaigns.markets)
    campaign = _places(table["campaign"], campaigns.ids)
    creative = _parts(campaign, table["creative"], campaigns.creative_campaign, campaigns.creatives)
    audience = _audiences(campaign, table["audience"], campaigns)
    plain = {name: _filled(table[name]) for name in COLUMNS if name not in _WORDS}
    is_null = {name: table[name].is_null().to_numpy() for name in COLUMNS}
    converted = plain["conversion_if_won"].astype(np.bool_)

    def of(mask: NDArray[np.bool_], sentence: str, name: str | None = None) -> tuple[NDArray[np.bool_], list[str]]:
        shown = table[name].filter(pa.array(mask)).to_pylist() if name else [None] * int(mask.sum())
        return mask, [sentence.format(value) for value in shown]

    value, ctr, price, worth = (plain[name] for name in ("value", "predicted_ctr", "price_micros", _WORTH))
    findings = [
        *(of(is_null[name], f"{name} is missing") for name in COLUMNS if name not in _MAY_BE_NULL),
        of(campaign < 0, "campaign (={!r}) is not in this run", "campaign"),
        of(market < 0, "market (={!r}) is not in this run", "market"),
        of((campaign >= 0) & (market != campaigns.market[campaign]), "market (={!r}) is not its campaign's", "market"),
        of(creative < 0, "creative (={!r}) is not its campaign's", "creative"),
        of(audience < 0, "audience (={!r}) is not its market's", "audience"),
        of(plain["tick"] < 0, "tick (={}) must be >= 0", "tick"),
        of(~((value >= 0) & np.isfinite(value)), "value (={}) must be >= 0 and finite", "value"),
        of(~((ctr >= 0) & (ctr <= 1)), "predicted_ctr (={}) must be in [0, 1]", "predicted_ctr"),
        of((price < 0) | (price > MAX_MICROS), f"price_micros (={{}}) must be in [0, {MAX_MICROS}]", "price_micros"),
        of(converted & is_null["conversion_time"], "conversion_time is missing"),
        of(
            plain["conversion_value_micros"] < 0,
            "conversion_value_micros (={}) must be >= 0",
            "conversion_value_micros",
        ),
    ]
    reasons = first_reasons(rows, findings)
    read = Opportunities(
        market=market.astype(np.int32),
        campaign=campaign.astype(np.int32),
        cell=_cells(campaign, creative, audience, campaigns).astype(np.int32),
        tick=plain["tick"],
        index=plain["index"],
        event_time=plain["event_time"],
        value=value,
        predicted_ctr=ctr,
        price_micros=price,
        price_status=np.where(is_null["price_micros"], Status.UNKNOWN, Status.KNOWN).astype(np.uint8),
        click_if_won=plain["click_if_won"].astype(np.uint8),
        conversion_if_won=converted.astype(np.uint8),
        conversion_time=plain["conversion_time"],
        conversion_value_micros=worth,
    )
    return (read.take(~np.isin(rows, list(reasons))) if reasons else read), reasons


def _read_file(file: Path, campaigns: CampaignSet) -> tuple[Opportunities, dict[int, str], int]:
    try:
        table = pq.read_table(file, memory_map=True)
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise BadInput(
                f"{file.name} lacks the column {missing[0]}: give the opportunities folder of a recorded run"
            )
        table = pa.table({name: _typed(table[name], kind) for name, kind in COLUMNS.items()})
    except pa.ArrowException as error:
        first = str(error).splitlines()[0]
        raise BadInput(f"{file.name} cannot be read as opportunities ({first}): record the run again") from None
    return *from_table(table, campaigns), table.num_rows


def _typed(column: Any, kind: Any) -> Any:
    if pa.types.is_dictionary(column.type) and pa.types.is_string(kind):
        return column
    return column.cast(kind)


def _filled(column: Any) -> NDArray[Any]:
    """A column's values, 0 where null; times as µs since the epoch, truth as 0 or 1."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    filled: NDArray[Any] = pc.fill_null(column, 0).to_numpy()
    return filled


def _places(column: Any, known: Sequence[str]) -> Int64:
    """Positions of a column's words among the sorted known ones, -1 for any other."""
    at = {word: place for place, word in enumerate(known)}
    distinct, code = _coded(column)
    places = np.array([at.get(word, -1) for word in distinct] + [-1], dtype=np.int64)
    return places[code]


def _audiences(campaign: Int64, column: Any, campaigns: CampaignSet) -> Int64:
    """Places of the audiences in the run's layout, -1 where the campaign's market has none of that name."""
    start = campaigns.layout.audience_start
    owner = np.repeat(np.arange(len(campaigns)), np.diff(start))
    places = _parts(campaign, column, owner, campaigns.audience_names)
    unsaid = column.is_null().to_numpy() & (campaign >= 0) & (np.diff(start)[campaign] == 1)
    return np.where(unsaid, start[campaign], places)


def _cells(campaign: Int64, creative: Int64, audience: Int64, campaigns: CampaignSet) -> Int64:
    """The cell of each row's creative and audience, as places among all of them; any where one is not known."""
    creative_start, audience_start = campaigns.layout
    cells: Int64 = (
        campaigns.cell_start[campaign]
        + (creative - creative_start[campaign]) * np.diff(audience_start)[campaign]
        + (audience - audience_start[campaign])
    )
    return cells


def _parts(campaign: Int64, column: Any, owner: Int64, words: Sequence[str]) -> Int64:
    """Places of a column's words among those that the row's campaign owns, -1 where it owns none of that name."""
    distinct, code = _coded(column)
    at = {word: place for place, word in enumerate(distinct)}
    names = len(distinct) + 1
    owned = [campaign * names + at.get(word, -1) for campaign, word in zip(owner.tolist(), words, strict=True)]
    known = {pair: place for place, pair in enumerate(owned) if pair % names != names - 1}
    pairs, back = np.unique(np.where(code >= 0, campaign * names + code, -1), return_inverse=True)
    return np.array([known.get(int(pair), -1) for pair in pairs], dtype=np.int64)[back]


def _coded(column: Any) -> tuple[list[str], Int64]:
    """The distinct words of a column, and for each row its word's place among them (-1 where null)."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = encoded.unify_dictionaries().combine_chunks()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    code = pc.fill_null(encoded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return encoded.dictionary.to_pylist(), code
