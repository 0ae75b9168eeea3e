from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sim.delays import Delays, Law, Part, padded

MIXED = [Part(Law.EXPONENTIAL, 2.0, share=700_000), Part(Law.LOGNORMAL, 48.0, 0.8, share=300_000)]
DELAYS = Delays.of([[Part(Law.EXPONENTIAL, 24.0)], [Part(Law.LOGNORMAL, 6.0, 1.2)], MIXED])


def test_the_share_that_has_come_by_an_age() -> None:
    day = [1 - math.exp(-1), 0.5 * (1 + math.erf(math.log(4) / 1.2 / math.sqrt(2)))]
    day.append(0.7 * (1 - math.exp(-12)) + 0.15 * (1 + math.erf(-math.log(2) / 0.8 / math.sqrt(2))))
    assert DELAYS.cdf(24.0) == pytest.approx(day, rel=1e-14)
    assert DELAYS.cdf([24 * math.log(2), 6.0, 0.0]).tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert DELAYS.cdf(np.array([[-1.0], [0.0], [1e9]])).tolist() == [[0] * 3, [0] * 3, [1, 1, 1]]


def test_the_mean() -> None:
    expected = [24.0, 6 * math.exp(0.72), 0.7 * 2 + 0.3 * 48 * math.exp(0.32)]
    assert DELAYS.mean_hours.tolist() == pytest.approx(expected, rel=1e-14)


def test_delays_without_spread_come_all_at_once() -> None:
    sudden = Delays.of([[Part(Law.EXPONENTIAL, 0.0)], [Part(Law.LOGNORMAL, 6.0)]])
    assert sudden.cdf([[0.0], [5.9], [6.0]]).tolist() == [[1, 0], [1, 0], [1, 1]]


def test_some_of_the_campaigns() -> None:
    chosen = DELAYS.select(np.array([2, 0]))
    assert chosen.cdf(5.0).tolist() == DELAYS.cdf(5.0)[[2, 0]].tolist()
    assert len(chosen) == 2


def test_shorter_rows_are_filled_up() -> None:
    assert padded([[1, 2], [3], []], 9, np.int64).tolist() == [[1, 2], [3, 9], [9, 9]]
    assert padded([], 9, np.int64).shape == (0, 1)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([MIXED[0]], "share (=[700000]) must be ppm >= 0 that sum to 1000000: scale them"),
        ([], "share (=[0]) must be ppm >= 0 that sum to 1000000: scale them"),
        ([Part(Law.EXPONENTIAL, math.nan)], "hours (=nan) of a delay must be >= 0 and finite"),
        ([Part(Law.LOGNORMAL, 1.0, -0.5)], "sigma (=-0.5) of a delay must be >= 0 and finite"),
        ([Part(Law.LOGNORMAL, 0.0, 1.0)], "hours (=0) must be > 0: they are a log-normal delay's median"),
        ([(2, 1.0, 0.0, 10**6)], "law (=2) must be a Law: 0 or 1"),
    ],
)
def test_what_is_no_delay_is_refused(parts: list[Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=r"must") as refusal:
        Delays.of([[Part(*part) for part in parts]])
    assert str(refusal.value) == sentence


def test_columns_of_two_shapes_are_refused() -> None:
    columns = (DELAYS.share, DELAYS.law, DELAYS.hours, DELAYS.sigma[:1])
    with pytest.raises(
        ValueError, match=r"^columns of a delay \(=.*'sigma': \(1, 2\).*\) must have one shape, \[campaigns"
    ):
        Delays(*columns)
