"""Campaigns in a table: what they become, and what a table may not say."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import BadInput
from experiments.config import SimulationConfig, load_config, schema
from tests.scenarios import config

LIKE = {
    "market": "search",
    "budget_micros": 6_000_000,
    "creatives": {"text": {"ctr": "30%"}},
    "conversions": {"delay_hours": 3, "value_micros": 600_000, "value_sigma": 0.4},
}
COLUMNS = ["bid_micros", "conversions.rate"]


def with_table(**changes: Any) -> dict[str, Any]:
    table = {"like": LIKE, "columns": COLUMNS, "rows": {"shoes": [24_000, "5%"], "boots": [26_000, "7%"]}} | changes
    return config(account={"currency": "EUR", "zone": "Europe/Berlin"}, campaign_tables=[table])


def test_a_row_is_the_campaign_that_it_says_in_full() -> None:
    written = config(account={"currency": "EUR", "zone": "Europe/Berlin"})
    for name, bid, rate in (("shoes", 24_000, "5%"), ("boots", 26_000, "7%")):
        conversions = {**LIKE["conversions"], "rate": rate}  # type: ignore[dict-item]
        written["campaigns"][name] = {**LIKE, "bid_micros": bid, "conversions": conversions}
    from_table, in_full = load_config(with_table()), load_config(written)
    assert isinstance(from_table, SimulationConfig)
    assert from_table == in_full
    assert from_table.model_dump(mode="json") == in_full.model_dump(mode="json")
    assert load_config(from_table.model_dump(mode="json")) == in_full


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"rows": {"shoes": [24_000]}},
            "campaign_tables[0].rows.shoes must hold 2 values, one for each of the columns, not 1: correct it",
        ),
        (
            {"rows": {"search-a": [24_000, "5%"]}},
            "campaign_tables[0].rows.search-a is a campaign already: rename one of the two",
        ),
        (
            {"columns": ["bid_micros", "budget_micros"]},
            "campaign_tables[0].columns[1] (='budget_micros') is said of all rows in like already: "
            "remove one of the two",
        ),
        (
            {"columns": ["bid_micros", "bid_micros"]},
            "campaign_tables[0].columns[1] (='bid_micros') is said by a column before already: remove one of the two",
        ),
        (
            {"rows": {"shoes": [24_000, 25]}},
            "campaigns.shoes.conversions.rate (=25) must be a ratio from 0 to 1: write 25% or 0.25",
        ),
        (
            {"columns": ["bid_micros", "conversions.rates"]},
            "campaigns.shoes.conversions.rates (='5%') is not a known key: did you mean 'rate'? (and 3 more)",
        ),
    ],
)
def test_what_a_table_may_not_say(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_config(with_table(**changes))
    assert str(refused.value) == f"configuration: {sentence}"


def test_the_schema_knows_tables() -> None:
    assert "campaign_tables" in schema()["$defs"]["SimulationConfig"]["properties"]
