"""The market-price landscape: how likely a price per unit of value lies below a bid, and what is won there is worth.

Prices are seen where a campaign wins and known to lie above its bid where it loses, so the distribution is estimated as
a survival time is (Kaplan and Meier, Journal of the American Statistical Association 53, 1958): the price is the time
of death, a lost auction is censored at the bid. In bins, the hazard of a bin is the wins in it per opportunity that
reached it; a bin that a bid reaches in part is exposed in part. Wang, Yang, Zhang and others have estimated bid
landscapes this way (Zhang, Zhou, Wang and Xu, KDD 2016). Old auctions fade, for markets move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from engine.events import BIDS
from engine.policy import View
from engine.prices import WINDOW, bin_of, least_in_bin
from engine.units import Bool, Float64, Int64
from sim.kernel import kernel

_MIDDLE = WINDOW // 2


@dataclass(frozen=True)
class Prior:
    """What is believed of a market before anything was seen of it: a log-normal price per unit of value.

    Parameters
    ----------
    weight:
        How many opportunities it counts for.
    offset, sigma:
        Mean of the logarithm of price per value less that of the anchor bid, and standard deviation.
    value, slope:
        An opportunity whose price per value is the anchor bid is expected to be worth `value`, and one of twice that
        price per value 2^−slope times as much: what is cheap for its value is so for its value.
    """

    weight: float = 60.0
    offset: float = 0.5
    sigma: float = 1.0
    value: float = 1.1
    slope: float = 0.5


class Landscape(NamedTuple):
    """What n campaigns know of their markets, in WINDOW bins four octaves to either side of the anchor bid."""

    lowest: Int64  # int64[n], bin of the first column
    wins: Float64  # float64[n, WINDOW]
    exposure: Float64  # float64[n, WINDOW], opportunities that would have shown a price in this bin
    value: Float64  # float64[n, WINDOW], of the wins, relative to the reference opportunity
    hazard: Float64  # float64[n, WINDOW], 1 − exp(−wins / exposure): kept, since every question asks for it
    first_price: Bool  # bool[n], whether a win costs the own bid and not the price it was won at

    @classmethod
    def unseen(cls, anchor: Int64, prior: Prior, first_price: Bool | None = None) -> Landscape:
        """Before anything was seen: the prior, around anchor bids (int64[n], micros); second price unless told."""
        lowest = bin_of(np.maximum(anchor, 1)) - _MIDDLE
        edges = least_in_bin(lowest[:, np.newaxis] + np.arange(WINDOW + 1))
        wins, exposure, value, hazard = (np.empty((len(anchor), WINDOW)) for _ in range(4))
        beliefs = tuple(vars(prior).values())
        _believe(np.log(edges), np.log(np.maximum(anchor, 1)), beliefs, wins, exposure, value)
        _endanger(wins, exposure, hazard)
        first_price = np.zeros(len(anchor), dtype=np.bool_) if first_price is None else first_price
        return cls(lowest, wins, exposure, value, hazard, first_price)

    def learn(self, view: View, keep: float) -> Landscape:
        """With a view's wins and losses; of what was known before, the share `keep` stays."""
        assert view.prices is not None
        wins, exposure, value, hazard = (np.empty_like(self.wins) for _ in range(4))
        bid = np.maximum(view.controls.bid, 1)
        place = bin_of(bid) - self.lowest
        low, high = (least_in_bin(bin_of(bid) + end) for end in (0, 1))
        part = (bid - low) / (high - low)
        entered = view.recent[:, BIDS]
        told = _Told(view.prices.campaign, view.prices.bin, view.prices.wins, view.prices.value_ppm)
        _learn(self, told, entered, place, part, keep, (wins, exposure, value))
        _endanger(wins, exposure, hazard)
        return Landscape(self.lowest, wins, exposure, value, hazard, self.first_price)

    def threshold(self, cost: Float64, target: Target) -> Float64:
        """The bid at which an opportunity is expected to cost so much (float64[n], micros), or the target's if lower.

        Where nothing known would cost as much it is the highest price known of.
        """
        bid = np.empty(len(self.lowest))
        edges = least_in_bin(np.arange(self.lowest.min(), self.lowest.max() + WINDOW + 1))
        _threshold(self, edges, self.lowest - self.lowest.min(), cost, target, bid)
        return bid

    def outlook(self, bid: Int64) -> Float64:
        """What an opportunity is expected to bring at a bid (int64[n], micros): win, cost and value; float64[n, 3]."""
        brought = np.zeros((len(self.lowest), 3))
        edges = least_in_bin(np.arange(self.lowest.min(), self.lowest.max() + WINDOW + 1))
        _outlook(self, edges, self.lowest - self.lowest.min(), bid, brought)
        return brought


class _Told(NamedTuple):
    """`engine.prices.Prices` as a kernel reads them."""

    campaign: Int64
    bin: Int64
    wins: Int64
    value_ppm: Int64


class Target(NamedTuple):
    """A limit for the average cost per unit of value of a period, and what the period has brought so far."""

    most: Float64  # float64[n], micros; infinite: no target
    spent: Float64  # float64[n], micros
    got: Float64  # float64[n], value
    left: Float64  # float64[n], opportunities still expected


@kernel
def _threshold(known: Landscape, edges: Float64, first: Int64, cost: Float64, target: Target, bid: Float64) -> None:
    for i in range(bid.size):
        at = edges[first[i] : first[i] + WINDOW + 1]
        surviving, spent, got = 1.0, 0.0, 0.0
        bid[i] = at[WINDOW]
        for k in range(WINDOW):
            if known.wins[i, k] <= 0:
                continue
            dying = surviving * known.hazard[i, k]
            surviving -= dying
            worth = dying * known.value[i, k] / known.wins[i, k]
            paid = worth * 0.5 * (at[k] + at[k + 1])
            if known.first_price[i]:  # all that is won costs the bid, not what is won with this bin alone
                paid = at[k + 1] * (got + worth) - spent
            part = (cost[i] - spent) / paid
            if target.most[i] < math.inf:
                # (spent so far + left · (spent + part · paid)) = most · (got so far + left · (got + part · worth))
                most, left = target.most[i], target.left[i]
                room = most * (target.got[i] + left * got) - target.spent[i] - left * spent
                above = left * (paid - most * worth)
                if above > 0:
                    part = min(part, room / above)
            if part < 1:
                bid[i] = at[k] * (at[k + 1] / at[k]) ** max(part, 0.0)
                break
            spent += paid
            got += worth


@kernel
def _outlook(known: Landscape, edges: Float64, first: Int64, bid: Int64, brought: Float64) -> None:
    for i in range(bid.size):
        at = edges[first[i] : first[i] + WINDOW + 1]
        most = np.float64(bid[i])
        surviving = 1.0
        won = cost = value = 0.0
        for k in range(WINDOW):
            if at[k] >= most:
                break
            if known.wins[i, k] <= 0:
                continue
            end, hazard = at[k + 1], known.hazard[i, k]
            if end > most:  # the bid reaches a part of the bin
                part = (most - at[k]) / (end - at[k])
                end, hazard = most, -math.expm1(-part * known.wins[i, k] / known.exposure[i, k])
            dying = surviving * hazard
            surviving -= dying
            worth = dying * known.value[i, k] / known.wins[i, k]
            won += dying
            cost += worth * 0.5 * (at[k] + end)
            value += worth
        if known.first_price[i]:
            cost = most * value
        brought[i, 0], brought[i, 1], brought[i, 2] = won, cost, value


@kernel
def _endanger(wins: Float64, exposure: Float64, hazard: Float64) -> None:
    for i in range(wins.shape[0]):
        for k in range(WINDOW):
            hazard[i, k] = -math.expm1(-wins[i, k] / exposure[i, k]) if wins[i, k] > 0 else 0.0


@kernel
def _believe(log_edge: Float64, anchor: Float64, prior: Any, wins: Float64, exposure: Float64, value: Float64) -> None:
    weight, offset, sigma, worth, slope = prior
    for i in range(wins.shape[0]):
        centre = anchor[i] + offset
        above = 0.5 * math.erfc((log_edge[i, 0] - centre) / sigma / math.sqrt(2.0))
        for k in range(WINDOW):
            after = 0.5 * math.erfc((log_edge[i, k + 1] - centre) / sigma / math.sqrt(2.0))
            middle = 0.5 * (log_edge[i, k] + log_edge[i, k + 1])
            wins[i, k] = weight * (above - after)
            exposure[i, k] = weight * 0.5 * (above + after)
            value[i, k] = wins[i, k] * worth * math.exp(-slope * (middle - anchor[i]))
            above = after


@kernel
def _learn(
    before: Landscape, prices: _Told, entered: Int64, place: Int64, part: Float64, keep: float, after: Any
) -> None:
    wins, exposure, value = after
    row = 0
    new = np.zeros(WINDOW)
    for i in range(before.lowest.size):
        for k in range(WINDOW):
            wins[i, k] = keep * before.wins[i, k]
            exposure[i, k] = keep * before.exposure[i, k]
            value[i, k] = keep * before.value[i, k]
            new[k] = 0.0
        at_risk = np.float64(entered[i])
        while row < prices.campaign.size and prices.campaign[row] == i:
            k = min(max(prices.bin[row] - before.lowest[i], 0), WINDOW - 1)
            new[k] += prices.wins[row]
            value[i, k] += prices.value_ppm[row] * 1e-6
            row += 1
        highest = min(place[i], WINDOW - 1)
        for k in range(highest + 1):
            share = part[i] if k == place[i] else 1.0
            wins[i, k] += new[k]
            exposure[i, k] += (at_risk - 0.5 * new[k]) * share
            at_risk -= new[k]
