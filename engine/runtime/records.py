"""The Parquet layout of recorded events and opportunities: the columns of `engine.events`, with ids as strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.campaigns import CampaignSet
from engine.events import Events, Kind, Opportunities

TABLE_VERSION = 2
METADATA = {"bidtwin_table_version": str(TABLE_VERSION)}
TIME = pa.timestamp("us", tz="UTC")
WORD = pa.dictionary(pa.int32(), pa.string())

EVENTS = pa.schema(
    [
        ("event_time", TIME),
        ("ingest_time", TIME),  # when it became known
        ("kind", WORD),
        ("event_id", pa.string()),  # 128 bits, hexadecimal
        ("campaign", WORD),
        ("creative", WORD),
        ("audience", WORD),  # null where the market tells none apart
        ("price_micros", pa.int64()),
        ("value_micros", pa.int64()),
        ("click_id", pa.string()),  # the click that a conversion, or a refunded one, is attributed to
        ("number", pa.uint16()),  # which of its click's conversions it is; null likewise
    ],
    metadata=METADATA,
)

OPPORTUNITIES = pa.schema(
    [
        ("tick", pa.int32()),
        ("event_time", TIME),
        ("market", WORD),
        ("index", pa.int32()),
        ("campaign", WORD),
        ("creative", WORD),
        ("audience", WORD),
        ("value", pa.float64()),
        ("predicted_ctr", pa.float64()),
        ("price_micros", pa.int64()),  # the least bid that wins; null where it is not known
        ("click_if_won", pa.bool_()),
        ("conversion_if_won", pa.bool_()),
        ("conversion_time", TIME),
        ("conversion_value_micros", pa.int64()),
    ],
    metadata=METADATA,
)


def event_columns(events: Events, campaigns: CampaignSet) -> dict[str, Any]:
    """Events as columns of the file."""
    click = identifiers(events.click_high, events.click_low)
    of_no_click = ~np.isin(events.kind, (Kind.CONVERSION, Kind.REFUND))
    return {
        "event_time": times(events.event_time),
        "ingest_time": times(events.ingest_time),
        "kind": words(events.kind, [kind.name.lower() for kind in Kind]),
        "event_id": identifiers(events.event_high, events.event_low),
        "campaign": words(events.campaign, campaigns.ids),
        "creative": words(campaigns.cell_creative[events.cell], campaigns.creatives),
        "audience": _audiences(events.cell, campaigns),
        "price_micros": events.price_micros,
        "value_micros": events.value_micros,
        "click_id": pa.array(click, mask=of_no_click),
        "number": pa.array(events.number, mask=of_no_click),
    }


def opportunity_columns(rows: Opportunities, campaigns: CampaignSet) -> dict[str, Any]:
    """Opportunities as columns of the file."""
    no_conversion = rows.conversion_if_won == 0
    return {
        "tick": rows.tick,
        "event_time": times(rows.event_time),
        "market": words(rows.market, campaigns.markets),
        "index": rows.index,
        "campaign": words(rows.campaign, campaigns.ids),
        "creative": words(campaigns.cell_creative[rows.cell], campaigns.creatives),
        "audience": _audiences(rows.cell, campaigns),
        "value": rows.value,
        "predicted_ctr": rows.predicted_ctr,
        "price_micros": pa.array(rows.price_micros, mask=rows.price_status != 0),
        "click_if_won": rows.click_if_won.astype(np.bool_),
        "conversion_if_won": rows.conversion_if_won.astype(np.bool_),
        "conversion_time": pa.array(rows.conversion_time.astype("datetime64[us]"), mask=no_conversion, type=TIME),
        "conversion_value_micros": pa.array(rows.conversion_value_micros, mask=no_conversion),
    }


def _audiences(cells: NDArray[Any], campaigns: CampaignSet) -> pa.Array:
    """The audience of every cell as a word, null where its market tells none apart."""
    place, names = campaigns.cell_audience[cells].astype(np.int32), campaigns.audience_names
    nobody = np.array([not name for name in names], dtype=np.bool_)[place]
    return pa.DictionaryArray.from_arrays(pa.array(place, mask=nobody), pa.array(names, type=pa.string()))


def in_order(parts: Sequence[Any]) -> Any:
    """Records of several sources in the one order that does not tell how campaigns were grouped."""
    rows = type(parts[0]).concatenate(list(parts))
    if isinstance(rows, Opportunities):
        return rows.take(np.lexsort((rows.campaign, rows.index, rows.market, rows.tick)))
    return rows.take(rows.order())


def times(event_times: NDArray[Any]) -> pa.Array:
    """Event times as UTC timestamps."""
    return pa.array(event_times.astype("datetime64[us]"), type=TIME)


def words(places: NDArray[Any], known: Sequence[str]) -> pa.Array:
    """Positions as the words they stand for."""
    return pa.DictionaryArray.from_arrays(pa.array(places, type=pa.int32()), pa.array(known, type=pa.string()))


def identifiers(high: NDArray[Any], low: NDArray[Any]) -> list[str]:
    """128-bit ids as 32 hexadecimal digits."""
    halves = zip(high.view(np.uint64).tolist(), low.view(np.uint64).tolist(), strict=True)
    return [f"{upper:016x}{lower:016x}" for upper, lower in halves]
