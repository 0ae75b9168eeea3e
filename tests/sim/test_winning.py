"""What a won auction brings, against closed forms, finer quadrature, and auctions that are held."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import kstest

from engine.units import Float64
from sim import winning
from sim.winning import (
    APPEAL,
    COVARIANCE,
    LOG_WIN,
    MOMENTS,
    PAID,
    PAID_VARIANCE,
    Contest,
    crest,
    heat_of,
    moments,
    quote,
    tables_of,
)

NOBODY = Contest(0.6, 0.5, 0.0, 1, reserve=False, first_price=False, per_click=False, cap=math.inf)
FORMS = {
    "second price": NOBODY,
    "flat value": NOBODY._replace(value_sigma=0.0),
    "flat price": NOBODY._replace(price_sigma=0.0),
    "correlated": NOBODY._replace(correlation=0.7, competitors=5),
    "against": NOBODY._replace(correlation=-0.5, competitors=300, first_price=True),
    "clicks": NOBODY._replace(per_click=True, correlation=0.3, cap=3.0),
    "reserve": NOBODY._replace(reserve=True),
    "reserve, flat value": NOBODY._replace(reserve=True, value_sigma=0.0),
    "reserve, nearly flat value": NOBODY._replace(reserve=True, value_sigma=0.05, competitors=3),
    "reserve, first price": NOBODY._replace(reserve=True, first_price=True, competitors=9, correlation=0.4),
}


def quoted(contest: Contest, bid: Float64, above_reserve: Float64) -> Float64:
    found = np.zeros((bid.size, MOMENTS))
    quote(tables_of([contest]), np.zeros(bid.size, dtype=np.int64), bid, above_reserve, found)
    return found


def test_the_moments_are_the_closed_forms_of_one_competitor() -> None:
    """E[exp(i log P + j log V); log V - log P ≥ -x] of a binormal pair is a shifted normal's distribution function."""
    x = np.linspace(-2.5, 3.0, 23)
    spread = math.hypot(0.6, 0.5)

    def mean(i: int, j: int) -> Float64:
        shift = (j * 0.25 - i * 0.36) / spread
        factor = math.exp((i * i * 0.36 + j * j * 0.25) / 2)
        return factor * ndtr(x / spread + shift)  # type: ignore[no-any-return]

    won, paid, appeal = mean(0, 0), mean(1, 0) / mean(0, 0), mean(0, 1) / mean(0, 0) * math.exp(-0.125)
    table = moments(NOBODY, x, np.full(x.size, -np.inf))
    expected = {
        LOG_WIN: np.log(won),
        PAID: paid,
        PAID_VARIANCE: mean(2, 0) / won - paid**2,
        APPEAL: appeal,
        COVARIANCE: mean(1, 1) / won * math.exp(-0.125) - paid * appeal,
    }
    for column, values in expected.items():
        np.testing.assert_allclose(table[:, column], values, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", FORMS)
def test_what_is_quoted_is_right_to_one_part_in_ten_thousand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the points of the grid, against quadrature with five times the nodes."""
    contest = FORMS[name]
    x = np.linspace(-2.9, 3.1, 47)
    above = np.full(x.size, np.inf)
    if contest.reserve:
        above = np.tile(np.linspace(-0.9 if contest.value_sigma else 0.0, 2.9, 6), 47)
        x = np.repeat(x, 6)
    found = quoted(contest, x, above)
    monkeypatch.setattr(winning, "_NODES", np.polynomial.legendre.leggauss(40)[0])
    monkeypatch.setattr(winning, "_WEIGHTS", np.polynomial.legendre.leggauss(40)[1])
    exact = moments(contest, x, x - above)
    if not contest.first_price:
        exact[:, [PAID]] *= 1 + np.exp(x - above)[:, np.newaxis]
        exact[:, [PAID_VARIANCE]] *= (1 + np.exp(x - above)[:, np.newaxis]) ** 2
        exact[:, [COVARIANCE]] *= 1 + np.exp(x - above)[:, np.newaxis]
    likely = exact[:, LOG_WIN] > math.log(1e-6)
    found, exact = found[likely], exact[likely]
    assert likely.sum() > 20
    np.testing.assert_allclose(np.exp(found[:, LOG_WIN]), np.exp(exact[:, LOG_WIN]), rtol=1e-4)
    np.testing.assert_allclose(found[:, [PAID, APPEAL]], exact[:, [PAID, APPEAL]], rtol=1e-4)
    np.testing.assert_allclose(
        found[:, PAID_VARIANCE], exact[:, PAID_VARIANCE], atol=1e-4 * (exact[:, PAID] ** 2).max()
    )
    scale = (exact[:, PAID] * exact[:, APPEAL]).max()
    np.testing.assert_allclose(found[:, COVARIANCE], exact[:, COVARIANCE], atol=1e-4 * scale)


def test_nothing_is_won_below_the_reserve_or_far_below_the_level() -> None:
    flat = FORMS["reserve, flat value"]
    nearly = quoted(flat, np.array([1.0, 1.0, -9.0]), np.array([-1e-9, 0.0, 1.0]))[:, LOG_WIN]
    assert nearly[0] == nearly[2] == -np.inf
    assert nearly[1] == pytest.approx(math.log(ndtr(1 / 0.6)), abs=1e-5)


def test_the_best_of_several_is_their_largest() -> None:
    heats = np.linspace(-3, 3, 13)
    for n in (1, 2, 50, 10_000):
        assert [crest(n, heat) for heat in heats] == pytest.approx(ndtri(ndtr(heats) ** (1 / n)), abs=1e-6)


@pytest.mark.parametrize(("contest", "bid"), [("second price", -0.4), ("correlated", 1.2), ("flat value", 0.3)])
def test_heats_of_won_auctions_are_those_of_auctions_that_were_held(contest: str, bid: float) -> None:
    """Kolmogorov-Smirnov against 400,000 auctions by even draws of the heat; p-value of 1e-6, fixed seed."""
    kind = FORMS[contest]
    rng = np.random.default_rng(20260302)
    heat, own = rng.standard_normal((2, 400_000))
    log_price = kind.price_sigma * ndtri(ndtr(heat) ** (1 / kind.competitors))
    held = heat[bid + kind.shared * heat + kind.own * own >= log_price]
    tables = tables_of([kind])
    place = (bid - tables.first_bid[0]) * tables.per_bid[0]
    scores = ndtri((np.arange(20_000) + 0.5) / 20_000)
    drawn = np.array([heat_of(tables.heat, 0, place, int(tables.bids[0]), score) for score in scores])
    assert (np.diff(drawn) > -1e-6).all()
    assert kstest(held, np.sort(drawn), method="asymp").pvalue > 1e-6
