"""What follows a click: conversions, late and sometimes several, each of some value, and refunds.

Two pure stages, from a table of clicks to one of conversions, and from conversions to refunds. Every draw is a function
of the click's place (see `sim.rng`), so neither how a table is cut nor what else is switched on moves any of it.

- A click converts with its own probability. A converting click brings one conversion and, where `per_click` is above 1,
  a geometric number of further ones, with mean per_click − 1; each has a delay and a value of its own.
- The delay counts from the click: exponential, log-normal, or a mixture (`sim.delays`).
- The value is log-normal around the click's own mean, or one of a menu of prices.
- A conversion is refunded with a fixed probability, in full, after an exponential delay. Budgets stay spent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.units import MAX_MICROS, PPM, Bool, Float64, Int64
from sim.delays import Delays, Law, Part, check_shares, padded
from sim.exchange import CLICK_COLUMNS
from sim.kernel import helper, kernel
from sim.rng import CONVERSION, REFUND, SEVERAL, TO_UNIT, normal, philox, uniform

CONVERSION_COLUMNS = (*CLICK_COLUMNS, "value", "number", "clicked")
"""Of conversions and refunds: `time` is when it happens, `clicked` when the click did, `number` 0, 1, … within it."""

MOST_PER_CLICK = 100
"""Largest mean of conversions per converting click: no draw then brings more than 2,300, so a number fits 12 bits."""

_TIME = CONVERSION_COLUMNS.index("time")
_HOUR_US = 3_600_000_000
_NEVER_US = 2.0**62
"""A delay that no run outlasts, and that still fits an int64 when a click's event time is added."""


@dataclass(frozen=True)
class Conversions:
    """What the clicks of n campaigns lead to.

    rate:
        float64[n], probability that a click converts.
    delays:
        Of n campaigns, from the click to each of its conversions.
    per_click:
        float64[n], mean number of conversions of a click that converts, in [1, 100].
    value_micros, value_sigma:
        float64[n], mean of a conversion's value, and log standard deviation where it is log-normal (0: constant).
    price, price_share:
        float64[n, p] and int64[n, p], a menu of prices relative to their mean, with shares in ppm; a menu of one price
        is none. `menus_of` makes both.
    refund_rate, refund_hours:
        float64[n], probability that a conversion is refunded, and the mean of the exponential delay until it is.
    """

    rate: Float64
    delays: Delays
    per_click: Float64
    value_micros: Float64
    value_sigma: Float64
    price: Float64
    price_share: Int64
    refund_rate: Float64
    refund_hours: Float64

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in vars(self).items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of conversions (={lengths}) must have one length")
        for name in ("rate", "refund_rate"):
            _check(name, getattr(self, name), 0, 1, "be in [0, 1]")
        _check("per_click", self.per_click, 1, MOST_PER_CLICK, f"be in [1, {MOST_PER_CLICK}]: 1 is one conversion each")
        for name in ("value_micros", "value_sigma", "refund_hours"):
            _check(name, getattr(self, name), 0, np.finfo(np.float64).max, "be >= 0 and finite")
        self._check_menus()

    @classmethod
    def plain(cls, rate: ArrayLike, delay_hours: ArrayLike, value_micros: ArrayLike, value_sigma: ArrayLike) -> Self:
        """At most one conversion a click, its delay exponential and its value log-normal, and never refunded."""
        columns = (np.asarray(each, dtype=np.float64) for each in (rate, delay_hours, value_micros, value_sigma))
        rates, delays, values, sigmas = columns
        n = len(rates)
        return cls(
            rate=rates,
            delays=Delays.of([[Part(Law.EXPONENTIAL, hours)] for hours in delays.tolist()]),
            per_click=np.ones(n),
            value_micros=values,
            value_sigma=sigmas,
            price=np.ones((n, 1)),
            price_share=np.full((n, 1), PPM),
            refund_rate=np.zeros(n),
            refund_hours=np.zeros(n),
        )

    def __len__(self) -> int:
        return len(self.rate)

    def _check_menus(self) -> None:
        if self.price.shape != self.price_share.shape:
            raise ValueError(f"price (={self.price.shape}) must have the shape of its shares {self.price_share.shape}")
        check_shares("price_share", self.price_share)
        _check("price", self.price, 0, np.finfo(np.float64).max, "be >= 0 and finite")
        mean = (self.price * self.price_share).sum(axis=1) / PPM
        _check("mean price", mean, 1 - 1e-9, 1 + 1e-9, "be 1: a menu's prices are relative to their mean")
        both = (self.value_sigma > 0) & ((self.price_share > 0).sum(axis=1) > 1)
        if both.any():
            raise ValueError(f"value_sigma (={self.value_sigma[both][0]}) must be 0 beside a menu of prices")

    def select(self, members: Int64) -> Conversions:
        """What the clicks of some of the campaigns lead to."""
        return Conversions(
            rate=self.rate[members],
            delays=self.delays.select(members),
            per_click=self.per_click[members],
            value_micros=self.value_micros[members],
            value_sigma=self.value_sigma[members],
            price=self.price[members],
            price_share=self.price_share[members],
            refund_rate=self.refund_rate[members],
            refund_hours=self.refund_hours[members],
        )


def menus_of(menus: Sequence[Mapping[float, int]]) -> tuple[Float64, Int64]:
    """Prices and shares of one menu per campaign, {price > 0: share in ppm}, as columns of `Conversions`."""
    means = [sum(price * share for price, share in menu.items()) / PPM for menu in menus]
    prices = [[price / mean for price in menu] for menu, mean in zip(menus, means, strict=True)]
    return padded(prices, 0, np.float64), padded([list(menu.values()) for menu in menus], 0, np.int64)


class After(NamedTuple):
    """What follows the clicks of n campaigns, as the kernels read it: k parts of a delay, p prices of a menu.

    A word picks the first part, or price, whose bound it lies below.
    """

    key: NDArray[Any]  # uint64[n]
    log_more: Float64  # float64[n], log probability that yet another conversion follows
    delay_bound: Float64  # float64[n, k]
    lognormal: Bool  # bool[n, k]
    delay_us: Float64  # float64[n, k], mean or median
    delay_sigma: Float64  # float64[n, k]
    value_sigma: Float64  # float64[n]
    price_bound: Float64  # float64[n, p]
    price: Float64  # float64[n, p]
    refund_rate: Float64  # float64[n]
    refund_us: Float64  # float64[n]


def after_of(conversions: Conversions, key: NDArray[Any]) -> After:
    """What the kernels need of the campaigns with these keys (uint64[n], kind "campaign")."""
    if len(key) != len(conversions):
        raise ValueError(f"key (of length {len(key)}) must be of length {len(conversions)}, one of each campaign")
    delays = conversions.delays
    with np.errstate(divide="ignore"):
        log_more = np.log1p(-1 / conversions.per_click)
    return After(
        key=key,
        log_more=log_more,
        delay_bound=np.cumsum(delays.share, axis=1) / PPM,
        lognormal=delays.law == Law.LOGNORMAL,
        delay_us=delays.hours * _HOUR_US,
        delay_sigma=delays.sigma,
        value_sigma=conversions.value_sigma,
        price_bound=np.cumsum(conversions.price_share, axis=1) / PPM,
        price=conversions.price,
        refund_rate=conversions.refund_rate,
        refund_us=conversions.refund_hours * _HOUR_US,
    )


def conversions_of(clicks: Int64, rate: Float64, worth: Float64, after: After, ends: int) -> Int64:
    """The conversions that clicks lead to, in the clicks' order; int64[rows, 9] as in `CONVERSION_COLUMNS`.

    Parameters
    ----------
    clicks:
        int64[clicks, 6] as in `CLICK_COLUMNS`, campaigns being positions in `after`.
    rate, worth:
        float64[clicks], probability that a click converts, and mean value in micros of each of its conversions.
    ends:
        Event time at which the run ends: what would happen then or later is left out.
    """
    if clicks.shape != (len(rate), len(CLICK_COLUMNS)) or len(worth) != len(rate):
        sizes = f"{clicks.shape}, ({len(rate)},) and ({len(worth)},)"
        wanted = f"(clicks, {len(CLICK_COLUMNS)}), (clicks,) and (clicks,)"
        raise ValueError(f"clicks, rate and worth (={sizes}) must be of the shapes {wanted}")
    strangers = (clicks[:, 1] < 0) | (clicks[:, 1] >= len(after.key))
    if strangers.any():
        raise ValueError(f"campaign (={clicks[strangers][0, 1]}) of a click must be in [0, {len(after.key)})")
    many = np.zeros(len(clicks), dtype=np.int64)
    _count(clicks, rate, after, many)
    conversions = np.empty((many.sum(), len(CONVERSION_COLUMNS)), dtype=np.int64)
    _convert(clicks, many, worth, after, conversions)
    return conversions[conversions[:, _TIME] < ends]


def refunds_of(conversions: Int64, after: After, ends: int) -> Int64:
    """The refunds of conversions, in their order and columns: `time` is that of the refund, `value` is given back."""
    refunds = np.empty_like(conversions)
    refunds = refunds[: _refund(conversions, after, refunds)]
    return refunds[refunds[:, _TIME] < ends]


def _check(name: str, column: Float64, low: float, high: float, rule: str) -> None:
    right = (column >= low) & (column <= high)
    if not right.all():
        raise ValueError(f"{name} (={column[~right][0]}) must {rule}")


@helper
def _fraction(bits: Any) -> float:
    return np.float64(np.int64(bits)) * TO_UNIT


@helper
def _place(bound: Float64, bits: Any) -> int:
    """The first bound that a word lies below."""
    share = _fraction(bits)
    place: Any = 0
    for before in range(bound.size - 1):
        place += np.int64(share >= bound[before])
    return place  # type: ignore[no-any-return]


@helper
def _exponential_us(bits: Any, mean_us: float) -> int:
    return np.int64(min(-math.log(uniform(bits)) * mean_us, _NEVER_US))  # type: ignore[return-value]


@helper
def _delay_us(after: After, c: int, part_bits: Any, bits: Any) -> int:
    part = _place(after.delay_bound[c], part_bits)
    if not after.lognormal[c, part]:
        return _exponential_us(bits, after.delay_us[c, part])
    delay = after.delay_us[c, part] * math.exp(after.delay_sigma[c, part] * normal(uniform(bits)))
    return np.int64(min(delay, _NEVER_US))  # type: ignore[return-value]


@helper
def _value(after: After, c: int, worth: float, bits: Any) -> int:
    """Micros: a price of the menu, or log-normal, since one of the two is always a factor of 1."""
    sigma = after.value_sigma[c]
    price = worth * after.price[c, _place(after.price_bound[c], bits)]
    value = price * math.exp(sigma * normal(uniform(bits)) - 0.5 * sigma * sigma)
    return np.int64(np.rint(min(value, float(MAX_MICROS))))  # type: ignore[return-value]


@kernel
def _count(clicks: Int64, rate: Float64, after: After, many: Int64) -> None:
    """How many conversions each click brings, into `many`."""
    for row in range(len(clicks)):
        c, tick, index = clicks[row, 1], np.uint64(clicks[row, 3]), np.uint64(clicks[row, 4])
        key = after.key[c]
        first = philox(index, tick, np.uint64(CONVERSION), np.uint64(0), key)
        if _fraction(first[0]) < rate[row]:
            more = philox(index, tick, np.uint64(SEVERAL), np.uint64(0), key)
            many[row] = 1 + np.int64(math.log(uniform(more[0])) / after.log_more[c])


@kernel
def _convert(clicks: Int64, many: Int64, worth: Float64, after: After, conversions: Int64) -> None:
    """Write so many conversions of each click."""
    at = 0
    for row in range(len(clicks)):
        c, tick, index, clicked = clicks[row, 1], clicks[row, 3], clicks[row, 4], clicks[row, 5]
        for number in range(many[row]):
            purpose = CONVERSION if number == 0 else SEVERAL
            block = philox(np.uint64(index), np.uint64(tick), np.uint64(purpose), np.uint64(number), after.key[c])
            into = conversions[at]
            into[0], into[1], into[2], into[3], into[4] = clicks[row, 0], c, clicks[row, 2], tick, index
            into[5] = clicked + _delay_us(after, c, block[3], block[1])
            into[6] = _value(after, c, worth[row], block[2])
            into[7], into[8] = number, clicked
            at += 1


@kernel
def _refund(conversions: Int64, after: After, refunds: Int64) -> int:
    """Write the conversions that are refunded, at the time when they are; returns how many."""
    at = 0
    for row in range(len(conversions)):
        c, tick, index = conversions[row, 1], np.uint64(conversions[row, 3]), np.uint64(conversions[row, 4])
        block = philox(index, tick, np.uint64(REFUND), np.uint64(conversions[row, 7]), after.key[c])
        if _fraction(block[0]) < after.refund_rate[c]:
            for column in range(conversions.shape[1]):
                refunds[at, column] = conversions[row, column]
            refunds[at, 5] += _exponential_us(block[1], after.refund_us[c])
            at += 1
    return at
