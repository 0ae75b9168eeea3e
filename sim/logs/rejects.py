"""Rows of a log that cannot be used: kept with file, line and reason, and limited in number."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import BadInput
from engine.units import Int64

_EXAMPLES = 3


@dataclass(frozen=True)
class Rejects:
    """Rejected rows as columns: name of the file, line counted from 1, and why."""

    file: tuple[str, ...]
    line: Int64
    reason: tuple[str, ...]

    @classmethod
    def none(cls) -> Rejects:
        """No row was rejected."""
        return cls((), np.empty(0, dtype=np.int64), ())

    @classmethod
    def of(cls, file: str, rows: dict[int, str]) -> Rejects:
        """Rejects of one file, from line to reason, put in order of line."""
        lines = sorted(rows)
        return cls((file,) * len(lines), np.array(lines, dtype=np.int64), tuple(rows[line] for line in lines))

    def __len__(self) -> int:
        return len(self.reason)

    def write(self, path: Path) -> None:
        """Write them as CSV: file, line, reason."""
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("file", "line", "reason"))
            table.writerows(zip(self.file, self.line.tolist(), self.reason, strict=True))

    def check(self, rows: int, max_reject_share: float) -> None:
        """Raise `BadInput` with the first examples where more than the allowed share of a log's rows is rejected."""
        if len(self) <= max_reject_share * rows:
            return
        examples = zip(self.line[:_EXAMPLES], self.reason[:_EXAMPLES], strict=True)
        told = "; ".join(f"line {line}: {reason}" for line, reason in examples)
        raise BadInput(
            f"{self.file[0]} has {len(self)} bad rows of {rows} ({len(self) / rows:.2%}), more than max_reject_share "
            f"(={max_reject_share:.2%}) allows ({told}): correct the file or raise the limit"
        )


def first_reasons(line: Int64, findings: list[tuple[NDArray[np.bool_], list[str]]]) -> dict[int, str]:
    """The first finding of every row that has one: each is a mask over rows, and a sentence per marked row."""
    reasons: dict[int, str] = {}
    for marked, sentences in findings:
        for at, sentence in zip(line[marked].tolist(), sentences, strict=True):
            reasons.setdefault(at, sentence)
    return reasons
