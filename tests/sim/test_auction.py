from __future__ import annotations

import math

import numpy as np
import pytest

from engine.units import MAX_MICROS
from sim.auction import UNREACHABLE, Market, PriceShock, bid_for, charge, most_charged, per_click
from sim.traffic import Traffic


def test_bids_are_rounded_down() -> None:
    assert [bid_for(1_000, value) for value in (0.0, 0.0009, 0.9999, 1.0, 1.2345)] == [0, 0, 999, 1_000, 1_234]
    assert bid_for(MAX_MICROS, 1e9) == MAX_MICROS


def test_a_price_per_click_is_the_price_over_the_predicted_ctr() -> None:
    assert [per_click(1_000, ctr) for ctr in (1.0, 0.3, 0.01)] == [1_000, 3_333, 100_000]
    assert per_click(1, 0.0) == UNREACHABLE
    assert [most_charged(1_000, 0.25, per) for per in (False, True)] == [1_000, 4_000]


def test_what_a_win_costs() -> None:
    costs = {
        (first, per, clicked): charge(1_000, 600, 0.5, first, per, clicked)
        for first in (False, True)
        for per in (False, True)
        for clicked in (False, True)
    }
    assert costs == {
        (False, False, False): 600,
        (False, False, True): 600,
        (False, True, False): 0,
        (False, True, True): 1_200,
        (True, False, False): 1_000,
        (True, False, True): 1_000,
        (True, True, False): 0,
        (True, True, True): 2_000,
    }


@pytest.mark.parametrize(
    ("level", "sigma", "reserve", "factor"),
    [(0.0, 0.5, 0, 1.0), (math.nan, 0.5, 0, 1.0), (1.0, -1.0, 0, 1.0), (1.0, 0.5, -1, 1.0), (1.0, 0.5, 0, 0.0)],
)
def test_a_market_out_of_range_is_refused(level: float, sigma: float, reserve: int, factor: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Market(Traffic(1.0), level, sigma, reserve, shocks=(PriceShock(0, 1, factor),))


def test_rules_hold_for_numpy_integers_as_for_python_ones() -> None:
    assert bid_for(np.int64(7), 1.5) == 10
