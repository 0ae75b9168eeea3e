"""The shape of traffic over a week: a table of hours, of one region or of several.

A CSV with a header that names the columns dow, hour and traffic_share, in any order and perhaps among others, and
region_id where there are several regions: 168 rows for each. `hour` is the local hour, 0 to 23, and `dow` the day of
the week from 1 (Monday) to 7 (Sunday), as in the published table of 114 regions (avito-tech/bat-autobidding-benchmark),
whose own reader takes it for Python's weekday() + 1; the data agree, days 6 and 7 being the quietest. A share may be on
any scale.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import NamedTuple

from engine.errors import BadInput

_REGION = "region_id"
_COLUMNS = ("dow", "hour", "traffic_share")
_HOURS = tuple(product(range(1, 8), range(24)))


class _Row(NamedTuple):
    line: int
    region: str
    hour: tuple[int, int]  # day of the week, hour of the day
    share: float


def read_week(path: Path, region: str | None = None) -> tuple[float, ...]:
    """The 168 shares of a region, Monday from 00:00 to 01:00 first.

    Parameters
    ----------
    path:
        Of the table.
    region:
        Which of its regions; None where it holds one.

    Raises
    ------
    BadInput
        In one sentence: for a table that is missing, unreadable or has other columns, for a bad number with its line,
        for hours that are missing or given twice, for shares that are all 0, and for a region that is not there or not
        chosen.
    """
    rows = list(_rows(path))
    regions = dict.fromkeys(row.region for row in rows)
    if region is None and len(regions) > 1:
        few = ", ".join(list(regions)[:3])
        raise BadInput(f"{path.name} holds {len(regions)} regions ({few}, …): choose one as 'region'")
    if region is not None and region not in regions:
        raise BadInput(f"{path.name} has no region {region!r}: {_nearest(region, list(regions))}")
    chosen = region if region is not None else next(iter(regions))
    return _week(path, chosen, [row for row in rows if row.region == chosen])


def _week(path: Path, region: str, rows: list[_Row]) -> tuple[float, ...]:
    of = f" of region {region}" if region else ""
    shares: dict[tuple[int, int], float] = {}
    for row in rows:
        if row.hour in shares:
            twice = f"dow {row.hour[0]}, hour {row.hour[1]}{of}"
            raise BadInput(f"{path.name}, line {row.line} gives {twice} again: remove one of the two")
        shares[row.hour] = row.share
    missing = [hour for hour in _HOURS if hour not in shares]
    if missing:
        first = f"dow {missing[0][0]}, hour {missing[0][1]}"
        raise BadInput(f"{path.name} lacks {len(missing)} of the 168 hours{of}, the first of them {first}: add them")
    if not any(shares.values()):
        raise BadInput(f"{path.name} has no traffic in any hour{of}: give one hour at least a share > 0")
    return tuple(shares[hour] for hour in _HOURS)


def _rows(path: Path) -> Iterator[_Row]:
    """Every row, checked on its own."""
    try:
        if not path.is_file():
            raise BadInput(f"{path} is not a file: give the path of a table with the columns {', '.join(_COLUMNS)}")
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.reader(file, strict=True)
            header = [name.strip() for name in next(table, [])]
            _check_header(path, header)
            empty = True
            for fields in table:
                if fields:
                    empty = False
                    yield _row(f"{path.name}, line {table.line_num}", table.line_num, header, fields)
            if empty:
                raise BadInput(f"{path.name} has no rows below its header: give a share for each of 168 hours")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInput(f"{path.name:.80} cannot be read ({reason:.80}): give a CSV in UTF-8") from None


def _check_header(path: Path, header: list[str]) -> None:
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        columns = f"column{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
        raise BadInput(f"{path.name} lacks the {columns}: begin it with a header such as {','.join(_COLUMNS)}")
    if len(set(header)) < len(header):
        raise BadInput(f"{path.name} names a column twice in its header: rename one of the two")


def _row(place: str, line: int, header: list[str], fields: list[str]) -> _Row:
    if len(fields) != len(header):
        raise BadInput(f"{place} has {len(fields)} fields where its header names {len(header)}: correct it")
    named = dict(zip(header, fields, strict=True))
    day = _whole(place, "dow", named["dow"], 1, 7, "1 (Monday) to 7 (Sunday)")
    hour = _whole(place, "hour", named["hour"], 0, 23, "0 to 23")
    return _Row(line, named.get(_REGION, "").strip(), (day, hour), _share(place, named["traffic_share"]))


def _whole(place: str, name: str, text: str, low: int, high: int, allowed: str) -> int:
    number = int(text) if text.strip().isdecimal() and len(text) < 10 else -1
    if not low <= number <= high:
        raise BadInput(f"{place}: {name} (={text!r:.60}) must be a whole number from {allowed}: correct it")
    return number


def _share(place: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise BadInput(f"{place}: traffic_share (={text!r:.60}) must be a number >= 0: correct it")
    return share


def _nearest(region: str, known: list[str]) -> str:
    if known == [""]:
        return f"it has no column {_REGION}, so leave 'region' out"
    close = get_close_matches(region, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose one of its {len(known)}, such as {known[0]!r}"
