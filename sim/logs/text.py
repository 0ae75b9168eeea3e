"""Delimited text to checked columns: the whole file at once, and a close look only where something is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
from numpy.typing import NDArray

from engine.errors import BadInput
from engine.units import Int64
from sim.logs.rejects import Rejects, first_reasons

_NUMBER = r"^ *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *$"


@dataclass(frozen=True)
class Number:
    """A column of numbers in [low, high], whole ones if so stated."""

    name: str
    low: float = 0.0
    high: float = math.inf
    whole: bool = False

    def findings(self, values: NDArray[np.float64]) -> tuple[NDArray[np.bool_], list[str]]:
        """Which values break the rule, and how."""
        wrong = ~((values >= self.low) & (values <= self.high) & np.isfinite(values))
        if self.whole:
            wrong |= values != np.floor(values)
        return wrong, [f"{self.name} (={value:g}) must be {self._rule(value)}" for value in values[wrong]]

    def _rule(self, value: float) -> str:
        if not math.isfinite(value):
            return "a finite number"
        if value < self.low:
            return f">= {self.low:g}"
        return f"<= {self.high:g}" if value > self.high else "a whole number"


@dataclass(frozen=True)
class Text:
    """A column of words, taken as they are."""

    name: str


@dataclass(frozen=True)
class Table:
    """The good rows of a file: columns by name (float64, or lists of str), and the line each came from."""

    columns: dict[str, Any]
    line: Int64
    rows: int  # good and bad
    rejected: dict[int, str]

    def without(self, reasons: dict[int, str]) -> Table:
        """The same with more rows rejected, by line."""
        if not reasons:
            return self
        keep = ~np.isin(self.line, list(reasons))
        columns = {name: column[keep] for name, column in self.columns.items()}
        return Table(columns, self.line[keep], self.rows, self.rejected | reasons)

    def rejects(self, path: Path, max_reject_share: float) -> Rejects:
        """The rejected rows; raises `BadInput` where they are too many or no good row is left."""
        rejects = Rejects.of(path.name, self.rejected)
        rejects.check(self.rows, max_reject_share)
        if not len(self.line):
            raise BadInput(f"{path.name} has no usable row among {self.rows}: correct the file")
        return rejects


def read_table(
    path: Path, names: Sequence[str], wanted: Sequence[Number | Text], delimiter: str, *, header: bool
) -> Table:
    """Read the wanted columns of a delimited file whose columns have these names, in this order.

    Rows with another number of fields, and values that break a column's rule, are rejected. A missing or empty file, or
    a header other than `names`, raises `BadInput`.
    """
    _check_file(path, names, delimiter, header=header)
    broken: dict[int, str] = {}
    first = 2 if header else 1

    def set_aside(row: Any) -> str:
        broken[row.number] = f"{row.actual_columns} fields where {row.expected_columns} are expected"
        return "skip"

    def read(kinds: dict[str, Any]) -> Any:
        broken.clear()
        return pv.read_csv(
            path,
            read_options=pv.ReadOptions(column_names=list(names), skip_rows=first - 1, use_threads=False),
            parse_options=pv.ParseOptions(
                delimiter=delimiter,
                quote_char=False,
                double_quote=False,
                ignore_empty_lines=False,
                invalid_row_handler=set_aside,
            ),
            convert_options=pv.ConvertOptions(
                column_types=kinds,
                include_columns=[column.name for column in wanted],
                null_values=[],
                strings_can_be_null=False,
            ),
        )

    try:
        table = read({column.name: pa.float64() if isinstance(column, Number) else pa.binary() for column in wanted})
    except pa.ArrowInvalid:
        table = read({column.name: pa.binary() for column in wanted})
    rows = table.num_rows + len(broken)
    if not rows:
        raise BadInput(f"{path.name} has no rows below its header: give a log with data")
    line = np.setdiff1d(np.arange(first, first + rows), np.fromiter(broken, dtype=np.int64, count=len(broken)))
    columns: dict[str, Any] = {}
    findings = []
    for column in wanted:
        values = table[column.name].combine_chunks()
        if isinstance(column, Text):
            words = np.array([value.decode(errors="replace") for value in values.to_pylist()], dtype=object)
            columns[column.name] = words
            continue
        if pa.types.is_binary(values.type):
            values, unreadable, sentences = _numbers(column.name, values)
            findings.append((unreadable, sentences))
        columns[column.name] = values.to_numpy(zero_copy_only=False)
        findings.append(column.findings(columns[column.name]))
    return Table(columns, line, rows, broken).without(first_reasons(line, findings))


def _numbers(name: str, values: Any) -> tuple[Any, NDArray[np.bool_], list[str]]:
    """Binary values as float64, what is no number as NaN; which those are, and the sentence that says so."""
    readable = pc.match_substring_regex(values, _NUMBER)
    text = pc.cast(pc.if_else(readable, values, pa.scalar(b"nan", pa.binary())), pa.string())
    numbers = pc.cast(pc.ascii_trim_whitespace(text), pa.float64())
    unreadable = ~readable.to_numpy(zero_copy_only=False)
    wrong = values.filter(pa.array(unreadable)).to_pylist()
    return numbers, unreadable, [f"{name} (={word.decode(errors='replace')!r}) is not a number" for word in wrong]


def _check_file(path: Path, names: Sequence[str], delimiter: str, *, header: bool) -> None:
    layout = ", ".join(names)
    if not path.is_file():
        raise BadInput(f"log (={path}) is not a file: give the path of a log with the columns {layout}")
    with path.open("rb") as file:
        line = file.readline().decode(errors="replace").rstrip("\r\n")
    if not line and path.stat().st_size <= len("\r\n"):
        raise BadInput(f"log (={path}) is empty: give a log with the columns {layout}")
    if header and line.split(delimiter) != list(names):
        raise BadInput(
            f"header of {path.name} (={line[:200]!r}) must be {delimiter.join(names)!r}: give the right kind of log"
        )
