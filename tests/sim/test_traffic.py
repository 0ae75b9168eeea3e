from __future__ import annotations

import math
from datetime import datetime

import numpy as np
import pytest
from scipy.stats import poisson as reference

from engine.units import TickGrid
from sim.traffic import Curves, Traffic, poisson


@pytest.mark.parametrize("mean", [0.001, 0.5, 3.0, 10.0, 1_980.0, 1e6])
def test_counts_are_the_quantiles_of_the_poisson_distribution(mean: float) -> None:
    uniforms = np.concatenate((np.random.default_rng(1).random(200), [1e-12, 1e-6, 1 - 1e-6]))
    expected = reference.ppf(uniforms, mean).astype(np.int64)
    assert poisson(uniforms, np.full(uniforms.size, mean)).tolist() == expected.tolist()


def test_a_market_without_traffic_holds_no_auction() -> None:
    assert poisson(np.array([[0.3, 0.9]]), np.array([[0.0, 2.0]])).tolist() == [[0, 4]]


def test_the_curve_is_read_at_mid_tick_in_local_time_also_on_a_day_of_23_hours() -> None:
    grid = TickGrid(datetime(2026, 3, 29), tick_minutes=60, ticks=23, zone="Europe/Berlin")
    mean = Curves([Traffic(100.0, amplitude=0.5, peak_hour=20.0), Traffic(10.0)], grid).mean(0, 23)
    hours = [0, 1, *range(3, 24)]  # two o'clock does not exist
    assert mean[:, 0].tolist() == [
        pytest.approx(100 * (1 + 0.5 * math.cos(2 * math.pi * (hour + 0.5 - 20) / 24))) for hour in hours
    ]
    assert mean[:, 1].tolist() == [10.0] * 23


@pytest.mark.parametrize(("mean", "amplitude"), [(-1.0, 0.0), (math.nan, 0.0), (1.0, 1.5), (1.0, -0.1)])
def test_traffic_out_of_range_is_refused(mean: float, amplitude: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        Traffic(mean, amplitude)
