"""Tables of campaigns that differ in a few settings only, written out while a configuration is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.config.problems import Path, Problem
from experiments.config.world import CampaignTable

PART = "campaign_tables"


def with_rows(given: Mapping[Any, Any], tables: Sequence[CampaignTable]) -> tuple[dict[Any, Any], list[Problem]]:
    """What a document says with the rows of its tables among its campaigns, and the rows that cannot be used.

    What a run used so stands in its folder and in its ledger's header campaign by campaign, and every other rule is
    told of the campaign that breaks it.
    """
    campaigns: dict[Any, Any] = dict(given["campaigns"])
    unusable: list[Problem] = []
    for place, each in enumerate(tables):
        path: Path = (PART, place)
        unusable += _columns(path, each)
        for name, values in each.rows.items():
            if name in campaigns:
                unusable.append(Problem((*path, "rows", name), "is a campaign already: rename one of the two"))
            elif len(values) != len(each.columns):
                rule = (
                    f"must hold {len(each.columns)} values, one for each of the columns, not {len(values)}: correct it"
                )
                unusable.append(Problem((*path, "rows", name), rule))
            else:
                campaigns[name] = _campaign(each, values)
    return {key: value for key, value in given.items() if key != PART} | {"campaigns": campaigns}, unusable


def _columns(path: Path, of: CampaignTable) -> Iterator[Problem]:
    """Columns that say again what another column or all rows say already."""
    for place, column in enumerate(of.columns):
        node: Any = of.like
        *parts, last = column.split(".")
        for part in parts:
            node = node.get(part, {}) if isinstance(node, Mapping) else {}
        said = isinstance(node, Mapping) and last in node
        if said or column in of.columns[:place]:
            where = "of all rows in like" if said else "by a column before"
            yield Problem((*path, "columns", place), f"is said {where} already: remove one of the two", column)


def _campaign(of: CampaignTable, values: Sequence[Any]) -> dict[str, Any]:
    campaign = dict(of.like)
    for column, value in zip(of.columns, values, strict=True):
        campaign = _with_value(campaign, column.split("."), value)
    return campaign


def _with_value(node: Any, path: Sequence[str], value: Any) -> dict[str, Any]:
    """A table with a value at a path, whose inner tables are made where they are missing."""
    inside = dict(node) if isinstance(node, Mapping) else {}
    first, *rest = path
    inside[first] = _with_value(inside.get(first), rest, value) if rest else value
    return inside
