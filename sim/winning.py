"""What an auction brings to one who wins it: tables that the aggregate fidelity reads in place of holding auctions.

An auction is a pair of standard normals: `h`, the *heat*, how high the best competitor's price is among its like, and
`e`, the part of a campaign's value that is its own. Of n competitors the best is c(h) = Φ⁻¹(Φ(h)^(1/n)) standard
deviations above the level's logarithm (`crest`). With the price P = exp(σₚ c(h)) relative to the level and the value
V = exp(σᵥ (ρ h + √(1 − ρ²) e)), a bid b wins where b·V ≥ max(P, R). Given h that is e ≥ t(h), and the moments of V
above a bound are a normal's distribution function:

    E[Vⁱ; e ≥ t] = exp(i σᵥ ρ h + i² s² / 2) · Φ(i s − t),    s = σᵥ √(1 − ρ²)

so that every moment of prices and click probabilities, given a win, is one integral over h. It is taken by
Gauss-Legendre quadrature between the points where the integrand bends (its steps, the reserve), once for every kind of
contest, on a grid of log bid - log level and, where there is a reserve, of log bid - log reserve; between them a cubic
interpolates (four-point Lagrange). `tests/sim/test_winning.py` holds its error to one part in 10,000, and to one in
1,000 where correlation and reserve bend everything at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr, ndtri

from engine.units import Bool, Float64, Int64
from sim.kernel import helper, kernel
from sim.rng import normal

LOG_WIN, PAID, PAID_VARIANCE, APPEAL, COVARIANCE, BY_CHANCE, BY_CHANCE_VARIANCE = range(7)
"""What a table tells of an auction that is won, see `Contest`."""
MOMENTS = 7

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_FARTHEST = 8.0  # heat, either way
_HEATS = np.linspace(-_FARTHEST, _FARTHEST, 1601)
_RAREST = 1e-9  # a bid that wins more rarely wins nothing
_STEP = 1 / 8  # of the grid of bids, in standard deviations of what decides the auction
_BEND = 0.1  # of the grid of reserves, in the warped coordinate
_SCORES = np.linspace(-6.4, 6.4, 65)
_LEAST = 2e-11  # chance as small as `normal` takes
_FINE = 3001  # heats between which a distribution function is summed up


class Contest(NamedTuple):
    """A kind of auction: all those whose outcomes differ by scale alone.

    `price_sigma`, `value_sigma`, `correlation` and `competitors` are as in `sim.auction.Market` and
    `sim.response.Response`; `reserve` is whether there is one; `first_price` and `per_click` are how it is charged.
    `cap` is the value, relative to its mean, beyond which the predicted CTR is 1 and rises no more; infinite where that
    hardly ever happens.

    Its table tells, of an auction that is won: the logarithm of how likely that is; mean and variance of the price;
    mean of the predicted CTR relative to the creative's, its *appeal*; and the covariance of both. Where clicks are
    charged, the price is that of a click, given that there is one; and the last two are mean and variance of that price
    where the click comes by chance, whatever the appeal. Prices are relative to the level, in the table to level and
    reserve together, or to the bid in first-price auctions; those of clicks are also multiplied by the creative's CTR.
    """

    price_sigma: float
    value_sigma: float
    correlation: float
    competitors: int
    reserve: bool
    first_price: bool
    per_click: bool
    cap: float

    @property
    def own(self) -> float:
        """Log standard deviation of the part of the value that the competition does not see."""
        return self.value_sigma * math.sqrt(1.0 - self.correlation * self.correlation)

    @property
    def shared(self) -> float:
        """By how much the value's logarithm rises with the heat."""
        return self.value_sigma * self.correlation


class Tables(NamedTuple):
    """The tables of k contests one after the other, as kernels read them."""

    first_bid: Float64  # float64[k], least log bid - log level
    per_bid: Float64  # float64[k], points of the grid per unit of it
    bids: Int64  # int64[k]
    bend: Float64  # float64[k, 2], scales of the coordinate of log bid - log reserve, see `_warped`
    first_ratio: Float64  # float64[k], its least
    last_ratio: Float64  # float64[k], the largest log bid - log reserve
    ratios: Int64  # int64[k], 1 where there is no reserve
    moment_start: Int64  # int64[k], where its table begins in `moment`
    moment: Float64  # [ratios, bids, MOMENTS] of each
    heat_start: Int64  # int64[k], likewise in `heat`
    heat: (
        Float64  # [bids, scores] of each, the heat of a won (or clicked) auction by the normal score of its rank there
    )
    first_price: Bool  # bool[k]
    price_sigma: Float64  # float64[k]
    value_sigma: Float64  # float64[k]
    competitors: Int64  # int64[k]
    shared: Float64  # float64[k]
    own: Float64  # float64[k]


def tables_of(contests: Sequence[Contest]) -> Tables:
    """The tables of these contests, made once per process."""
    made = [_table(contest) for contest in contests]

    def column(values: Sequence[float], kind: type = np.float64) -> NDArray[Any]:
        return np.array(values, dtype=kind)

    def starts(sizes: Sequence[int]) -> Int64:
        return np.cumsum([0, *sizes], dtype=np.int64)[:-1]

    return Tables(
        first_bid=column([each.bids[0] for each in made]),
        per_bid=column([1 / (each.bids[1] - each.bids[0]) for each in made]),
        bids=column([each.bids.size for each in made], np.int64),
        bend=np.array([_bends(each) for each in contests]).reshape(len(contests), 2),
        first_ratio=column(
            [
                float(_warped(each.ratios[0], *_bends(kind))) if kind.reserve else 0.0
                for kind, each in zip(contests, made, strict=True)
            ]
        ),
        last_ratio=column([float(each.ratios[-1]) for each in made]),
        ratios=column([each.ratios.size for each in made], np.int64),
        moment_start=starts([each.moment.size for each in made]),
        moment=np.concatenate([np.empty(0), *(each.moment.ravel() for each in made)]),
        heat_start=starts([each.heat.size for each in made]),
        heat=np.concatenate([np.empty(0), *(each.heat.ravel() for each in made)]),
        first_price=column([each.first_price for each in contests], np.bool_),
        price_sigma=column([each.price_sigma for each in contests]),
        value_sigma=column([each.value_sigma for each in contests]),
        competitors=column([each.competitors for each in contests], np.int64),
        shared=column([each.shared for each in contests]),
        own=column([each.own for each in contests]),
    )


class _Table(NamedTuple):
    bids: Float64
    ratios: Float64
    moment: Float64
    heat: Float64


@lru_cache(maxsize=256)  # every trial of a change makes a world anew, of the same contests
def _table(contest: Contest) -> _Table:
    bids = _bids(contest)
    ratios = _ratios(contest, bids) if contest.reserve else np.array([np.inf])
    moment = np.stack([moments(contest, bids, bids - ratio) for ratio in ratios])
    return _Table(bids, ratios, moment, _heats(contest, bids))


def _bends(contest: Contest) -> tuple[float, float]:
    """The scales on which a reserve matters: near the bid, and among the competition's prices."""
    return 1.5 * contest.value_sigma or contest.price_sigma, 1.5 * contest.price_sigma


def _warped(ratio: Float64, near: float, far: float) -> Float64:
    """The coordinate of log bid - log reserve in which its grid is even: fine near 0, and nowhere too coarse."""
    warped: Float64 = np.arcsinh(ratio / near) + ratio / far
    return warped


def _bids(contest: Contest) -> Float64:
    """The grid of log bid - log level: from where nearly nothing is won to where a higher bid changes nothing more."""
    edge = _edge(contest, _HEATS)
    weights = np.exp(-0.5 * _HEATS * _HEATS)
    weights /= weights.sum()
    mean = (weights * edge).sum()
    spread = math.hypot(math.sqrt((weights * (edge - mean) ** 2).sum()), contest.own) or 1.0
    low, high = edge.min() - 8 * contest.own, edge.max() + 8 * contest.own
    coarse = np.arange(low, high + spread, spread / 2)
    won = np.exp(moments(contest, coarse, np.full(coarse.size, -np.inf))[:, LOG_WIN])
    low = coarse[max(np.flatnonzero(won > _RAREST)[0] - 1, 0)]
    top = np.flatnonzero(won > 1 - _RAREST)
    high = (coarse[top[0]] if top.size else high) + 3 * (contest.price_sigma + contest.value_sigma)
    step = _STEP * spread
    grid: Float64 = low + step * np.arange(max(math.ceil((high - low) / step) + 1, 4))
    return grid


def _ratios(contest: Contest, bids: Float64) -> Float64:
    """The grid of log bid - log reserve: from where nearly nothing is won to where a lower reserve changes nothing.

    Of a flat value it begins at 0, since a bid below the reserve then wins nothing.
    """
    near, far = _bends(contest)
    lowest = contest.price_sigma * _crest(contest.competitors, np.array(-5.2))
    low = np.array(-6.0 * contest.value_sigma)
    high = np.maximum(bids[-1] - lowest, low + 6 * near)
    first, last = _warped(low, near, far), _warped(high, near, far)
    wanted = first + _BEND * np.arange(math.ceil((last - first) / _BEND) + 1)
    below, above = np.full(wanted.size, low), np.full(wanted.size, high + far)
    for _ in range(60):  # the coordinate rises, so halving finds its inverse
        middle = (below + above) / 2
        too_low = _warped(middle, near, far) < wanted
        below, above = np.where(too_low, middle, below), np.where(too_low, above, middle)
    ratios: Float64 = (below + above) / 2
    ratios[0] = low  # to the last bit: a flat bid that equals the reserve wins
    return ratios


def _crest(competitors: int, heat: Float64) -> Float64:
    """The largest of so many standard normals, by the normal score of its rank among its like."""
    if competitors == 1:
        return heat
    left = -np.expm1(log_ndtr(heat) / competitors)  # chance that one is larger, without losing what is small
    return np.clip(-ndtri(left), -_FARTHEST, _FARTHEST)  # type: ignore[no-any-return]


def _score(competitors: int, crest: Float64) -> Float64:
    """The inverse of `_crest`."""
    if competitors == 1:
        return crest
    below = competitors * log_ndtr(np.clip(crest, -30.0, _FARTHEST))
    scores = np.where(below < -0.5, ndtri(np.exp(below)), -ndtri(-np.expm1(below)))
    return np.clip(scores, -_FARTHEST, _FARTHEST)  # type: ignore[no-any-return]


def _edge(contest: Contest, heat: Float64) -> Float64:
    """The log bid, relative to the level, that wins against this heat if the own part of the value is 0."""
    return contest.price_sigma * _crest(contest.competitors, heat) - contest.shared * heat


def _density(heat: Float64) -> Float64:
    return np.exp(-0.5 * heat * heat) / math.sqrt(2 * math.pi)


def _panels(breaks: Float64) -> tuple[Float64, Float64]:
    """Gauss-Legendre nodes and weights between rising breaks; float64[rows, breaks] to twice float64[rows, nodes]."""
    half = np.diff(breaks, axis=1)[..., np.newaxis] / 2
    middle = (breaks[:, 1:] + breaks[:, :-1])[..., np.newaxis] / 2
    rows = len(breaks)
    return (middle + half * _NODES).reshape(rows, -1), (half * _WEIGHTS).reshape(rows, -1)


def moments(contest: Contest, bid: Float64, reserve: Float64) -> Float64:
    """The moments of a contest at these log bids and log reserves, both relative to the level; [rows, MOMENTS].

    Where nothing is won the moments given a win are 0. Second prices are relative to level and reserve together, so
    that they stay where they are as either grows.
    """
    heat, weight = _panels(_breaks(contest, bid, reserve))
    law = _Given(contest, bid[:, np.newaxis], np.maximum(reserve, -700.0)[:, np.newaxis], heat)
    weight = weight * _density(heat)

    def mean(paid: int, appeal: int) -> Float64:
        return (weight * law.moment(paid, appeal)).sum(axis=1)  # type: ignore[no-any-return]

    won = mean(0, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        appeal, paid = mean(0, 1) / won, mean(1, 0) / won
        table = np.zeros((bid.size, MOMENTS))
        table[:, LOG_WIN], table[:, APPEAL] = np.log(won), appeal
        if contest.per_click:
            table[:, PAID] = paid / appeal
            table[:, PAID_VARIANCE] = mean(2, -1) / won / appeal - table[:, PAID] ** 2
            table[:, BY_CHANCE] = mean(1, -1) / won
            table[:, BY_CHANCE_VARIANCE] = mean(2, -2) / won - table[:, BY_CHANCE] ** 2
        else:
            table[:, PAID] = paid
            table[:, PAID_VARIANCE] = mean(2, 0) / won - paid**2
            table[:, COVARIANCE] = mean(1, 1) / won - paid * appeal
    table[:, 1:] = np.where(won[:, np.newaxis] > 0, table[:, 1:], 0.0)
    variances = [PAID_VARIANCE, BY_CHANCE_VARIANCE]
    table[:, variances] = np.maximum(table[:, variances], 0.0)
    table[:, LOG_WIN] = np.maximum(table[:, LOG_WIN], -700.0)
    return table


def _breaks(contest: Contest, bid: Float64, reserve: Float64) -> Float64:
    """Where the integrand over the heat bends, rising, within the law's ends; float64[rows, breaks]."""
    points = [np.full(bid.size, each) for each in (-_FARTHEST, -4.0, -2.0, 0.0, 2.0, 4.0, _FARTHEST)]
    edge = _edge(contest, _HEATS)
    rising = edge if edge[-1] >= edge[0] else -edge
    passed = np.interp(bid if edge[-1] >= edge[0] else -bid, np.maximum.accumulate(rising), _HEATS)
    slope = np.interp(passed, _HEATS, np.gradient(edge, _HEATS))
    crossings = [(passed, slope)]
    highest = np.full(bid.size, _FARTHEST)
    floor = np.maximum(reserve, -700.0)
    if contest.shared:
        crossings.append(((floor - bid) / contest.shared, np.full(bid.size, contest.shared)))
    if contest.cap < math.inf:
        log_cap = math.log(contest.cap) + 0.5 * contest.value_sigma**2
        if contest.shared:
            crossings.append((np.full(bid.size, log_cap / contest.shared), np.full(bid.size, contest.shared)))
        if contest.price_sigma:
            points.append(_score(contest.competitors, (bid + log_cap) / contest.price_sigma))
    for place, steepness in crossings:
        width = np.minimum(contest.own / np.maximum(np.abs(steepness), 1e-9), 3.0)
        points += [place + times * width for times in (-7.0, -2.0, 0.0, 2.0, 7.0)]
    if contest.price_sigma:
        points.append(_score(contest.competitors, floor / contest.price_sigma))
        if not contest.value_sigma:
            highest = np.minimum(highest, _score(contest.competitors, bid / contest.price_sigma))
    low = np.full((bid.size, 1), -_FARTHEST)
    return np.sort(np.clip(np.stack(points, axis=1), low, np.maximum(highest[:, np.newaxis], low)), axis=1)


class _Given:
    """A contest given its heat: what is paid, and moments of it and of the appeal where it is won."""

    def __init__(self, contest: Contest, bid: Float64, reserve: Float64, heat: Float64) -> None:
        self._contest, self._heat, self._bid = contest, heat, bid
        log_price = np.maximum(contest.price_sigma * _crest(contest.competitors, heat), reserve)
        self._price = np.exp(log_price) / (1.0 + np.exp(reserve))
        self._log_discount = -0.5 * contest.value_sigma**2
        if contest.own:
            self._bound = (log_price - bid - contest.shared * heat) / contest.own
            capped = math.log(contest.cap) - self._log_discount - contest.shared * heat
            self._capped = np.maximum(capped / contest.own, self._bound)

    def moment(self, paid: int, appeal: int) -> Float64:
        """E[paid^i · appeal^j; won | heat]."""
        contest = self._contest
        power = paid if contest.first_price else 0
        factor = 1.0 if contest.first_price else self._price**paid
        if not contest.own:  # the price alone decides, and the heat ends where it is lost
            return factor * np.ones_like(self._heat) * (self._bid >= -700.0)
        below = self._value(power + appeal, self._bound) - self._value(power + appeal, self._capped)
        moment = math.exp(appeal * self._log_discount) * below
        if contest.cap < math.inf:
            moment = moment + contest.cap**appeal * self._value(power, self._capped)
        return factor * moment

    def _value(self, power: int, bound: Float64) -> Float64:
        """E[value^i; own part above the bound | heat]."""
        contest = self._contest
        scale = np.exp(power * contest.shared * self._heat + 0.5 * (power * contest.own) ** 2)
        return scale * ndtr(power * contest.own - bound)  # type: ignore[no-any-return]


def _heats(contest: Contest, bids: Float64) -> Float64:
    """The heat of an auction that is won against the competition, by the normal score of its rank; [bids, scores].

    Where clicks are charged it is that of one that is also clicked, as far as the predicted CTR is not capped.
    """
    rows = []
    for bid in bids:
        top = np.array(_FARTHEST)
        if contest.price_sigma and not contest.value_sigma:
            top = np.minimum(top, _score(contest.competitors, bid / contest.price_sigma))
        heat = np.linspace(-_FARTHEST, max(float(top), -_FARTHEST + 1e-6), _FINE)
        density = _density(heat)
        if contest.own:
            tilt = contest.own if contest.per_click else 0.0
            bound = (_edge(contest, heat) - bid) / contest.own
            density = density * ndtr(tilt - bound) * np.exp(contest.shared * heat * contest.per_click)
        upto = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2)))
        rising = np.concatenate(([True], np.diff(upto) > 0))
        rows.append(np.interp(ndtr(_SCORES) * upto[-1], upto[rising], heat[rising]))
    return np.stack(rows)


_LOW_SCORE, _PER_SCORE, _SCORE_COUNT = float(_SCORES[0]), 1 / float(_SCORES[1] - _SCORES[0]), _SCORES.size


@helper
def _place(at: float, size: int) -> Any:
    """The second of the four points around a coordinate of a grid."""
    return min(max(np.int64(math.floor(at)), 1), size - 3)


@helper
def _cubic(f: float) -> Any:
    """Weights of four points, Lagrange's, at a fraction of the way from the second to the third."""
    before, after, beyond = f + 1.0, f - 1.0, f - 2.0
    return (
        -f * after * beyond / 6.0,
        before * after * beyond / 2.0,
        -before * f * beyond / 2.0,
        before * f * after / 6.0,
    )


@kernel
def quote(tables: Tables, contest: Int64, bid: Float64, above_reserve: Float64, found: Float64) -> None:
    """Put the moments of every cell's contest into `found`, float64[cells, MOMENTS].

    `bid` is log bid - log level, `above_reserve` log bid - log reserve (infinite where there is none), float64[cells].
    Where nothing can be won the chance of a win is left at 0, its logarithm at minus infinity.
    """
    for cell in range(contest.size):
        kind = contest[cell]
        at = (bid[cell] - tables.first_bid[kind]) * tables.per_bid[kind]
        found[cell, LOG_WIN] = -np.inf
        if not at >= 0.0:
            continue
        bids, ratios = tables.bids[kind], tables.ratios[kind]
        beyond = max(at - np.float64(bids - 1), 0.0) / tables.per_bid[kind]
        at = min(at, np.float64(bids - 1))
        place = _place(at, bids)
        w0, w1, w2, w3 = _cubic(at - np.float64(place))
        start = tables.moment_start[kind] + (place - 1) * MOMENTS
        row, rows, warped, unit = np.int64(1), np.int64(1), 1.0, 1.0
        if ratios > 1:
            # of a bid beyond the grid, the reserve is kept where it is, unless it is what decides
            near, far = tables.bend[kind, 0], tables.bend[kind, 1]
            ratio = min(
                max(above_reserve[cell] - beyond, min(above_reserve[cell], 4.0 * near)), tables.last_ratio[kind]
            )
            warped = (math.asinh(ratio / near) + ratio / far - tables.first_ratio[kind]) / _BEND
            if warped < 0.0:
                continue
            warped = min(warped, np.float64(ratios - 1))
            row, rows = _place(warped, ratios), np.int64(4)
            unit += math.exp(bid[cell] - min(ratio + beyond, above_reserve[cell]))
        across = _cubic(warped - np.float64(row))
        for each in range(MOMENTS):
            moment = 0.0
            for which in range(rows):
                at_row = start + (row - 1 + which) * bids * MOMENTS + each
                along = w0 * tables.moment[at_row] + w1 * tables.moment[at_row + MOMENTS]
                along += w2 * tables.moment[at_row + 2 * MOMENTS] + w3 * tables.moment[at_row + 3 * MOMENTS]
                moment += along * (across[which] if rows > 1 else 1.0)
            found[cell, each] = moment
        if rows > 1 and not tables.first_price[kind]:
            found[cell, PAID] *= unit
            found[cell, PAID_VARIANCE] *= unit * unit
            found[cell, COVARIANCE] *= unit
            found[cell, BY_CHANCE] *= unit
            found[cell, BY_CHANCE_VARIANCE] *= unit * unit


@helper
def crest(competitors: int, heat: float) -> float:
    """The largest of so many standard normals, by the normal score of its rank among its like."""
    if competitors == 1:
        return heat
    below = 0.5 * math.erfc(-heat * math.sqrt(0.5))
    above = -math.expm1(math.log(max(below, 1e-300)) / np.float64(competitors))
    return -normal(min(max(above, _LEAST), 1.0 - _LEAST))


@helper
def heat_of(heat: Float64, start: int, at: float, bids: int, score: float) -> Any:
    """The heat of a won auction by the normal score of its rank among those.

    `heat`, from `start` on, is the contest's in `Tables`, and `at` the bid's place on its grid of `bids` points.
    """
    at = min(at, np.float64(bids - 1))
    place = _place(at, bids)
    b0, b1, b2, b3 = _cubic(at - np.float64(place))
    along = (score - _LOW_SCORE) * _PER_SCORE
    column = _place(along, _SCORE_COUNT)
    s0, s1, s2, s3 = _cubic(along - np.float64(column))
    first = start + (place - 1) * _SCORE_COUNT + column - 1
    found = 0.0
    for row, weight in ((0, b0), (1, b1), (2, b2), (3, b3)):
        at_row = first + row * _SCORE_COUNT
        found += weight * (s0 * heat[at_row] + s1 * heat[at_row + 1] + s2 * heat[at_row + 2] + s3 * heat[at_row + 3])
    return found
