"""What a block of auctions is like before anybody bids: prices, audiences, reach, values and creatives.

A block is drawn at once, in loops that fit vector registers. Every number is a pure function of its place (see
`sim.rng`), so a block may be cut anywhere and what is not drawn moves nothing.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.units import MAX_MICROS, Bool, Float64, Int64
from sim.kernel import helper, inner
from sim.rng import AUDIENCE, CREATIVE, PRICE, REACH, TO_UNIT, VALUE, fill_words, normal, to_normals, uniform

_ROOM, _SHORTEST, _LONGEST = 131_072, 64, 2_048  # auctions · campaigns of a block, auctions of a block
_MARGIN = 1e-3
_LOG_THOUSAND = math.log(1000.0) + _MARGIN
_RAREST = 2e-11  # as far out as `normal` reaches
_LOWEST = -1e9  # below the logarithm of every bid that is one, and above minus infinity, that of a bid that is none
LOG_MAX = math.log(float(MAX_MICROS))


SEATS_A_WORD = 64


class Block(NamedTuple):
    """Room for the draws of one block of auctions and the campaigns of one market."""

    words: NDArray[Any]  # uint64[block]
    clicks: NDArray[Any]  # uint64[block]
    normals: Float64  # float64[block]
    tail: Float64  # float64[block]
    place: Int64  # int64[block]
    heat: Float64  # float64[block], standard normal: how high the best competitor's price is among its like
    log_price: Float64  # float64[slots, block], the best competitors' prices, falling, the reserve included
    bar: Float64  # float64[block], a bid that surely wins nothing if it lies below, in logs
    best: Float64  # float64[slots + 1, block], the highest bids that are surely made, falling, in logs
    needed: Float64  # float64[block], a bid that surely neither wins nor moves a price if it lies below, in logs
    audience: NDArray[Any]  # int32[block]
    log_value: Float64  # float64[seats, block]
    reached: NDArray[Any]  # uint8[seats, block]
    everywhere: Bool  # bool[seats], whether a row of `reached` is known to hold nothing but ones
    cell: NDArray[Any]  # int32[seats, block]
    one_cell: Int64  # int64[seats], what a row of `cell` is known to hold everywhere, or -1
    matters: NDArray[Any]  # uint64[words, block], a bit for every seat whose bid may matter, 64 seats to a word


def block_for(seats: int, slots: int) -> Block:
    """Room for markets of at most so many campaigns: blocks as long as the processor's cache likes, a multiple of 4."""
    size = min(max(_ROOM // max(seats, 1) // 4 * 4, _SHORTEST), _LONGEST)
    return Block(
        words=np.empty(size, dtype=np.uint64),
        clicks=np.empty(size, dtype=np.uint64),
        normals=np.empty(size),
        tail=np.empty(size),
        place=np.empty(size, dtype=np.int64),
        heat=np.zeros(size),
        log_price=np.empty((slots, size)),
        bar=np.empty(size),
        best=np.empty((slots + 1, size)),
        needed=np.empty(size),
        audience=np.zeros(size, dtype=np.int32),
        log_value=np.zeros((seats, size)),
        reached=np.ones((seats, size), dtype=np.uint8),
        everywhere=np.ones(seats, dtype=np.bool_),
        cell=np.zeros((seats, size), dtype=np.int32),
        one_cell=np.zeros(seats, dtype=np.int64),
        matters=np.zeros((-(-max(seats, 1) // SEATS_A_WORD), size), dtype=np.uint64),
    )


@helper
def surely_below(log_amount: float) -> float:
    """A logarithm so far below an amount's that both, rounded to whole micros, keep their order."""
    return log_amount - _MARGIN if log_amount > _LOG_THOUSAND else _LOWEST


@inner
def draw_audiences(block: Block, first: int, tick: int, size: int, key: Any, share: Float64) -> None:
    """To which audience the person behind each auction belongs; `share` are thresholds, falling places of [0, 1)."""
    if share.size <= 1:
        for k in range(size):
            block.audience[k] = 0
        return
    fill_words(block.words, (size + 3) >> 2, first, tick, AUDIENCE, key)
    for k in range(size):
        u = np.float64(np.int64(block.words[k])) * TO_UNIT
        audience: Any = 0
        for before in range(share.size - 1):
            audience += np.int64(u >= share[before])
        block.audience[k] = audience


@inner
def draw_prices(
    block: Block,
    first: int,
    tick: int,
    size: int,
    key: Any,
    competitors: int,
    slots: int,
    log_level: float,
    sigma: float,
    log_reserve: float,
    log_factor: Float64,
) -> None:
    """The prices of the best competitors of every auction of a block, in logs, one for each slot.

    Of n alike competitors the best is drawn through the distribution of the largest of n, U^(1/n), and each next
    through that of the largest of those left below it (David and Nagaraja, *Order Statistics*, 3rd edition, section
    2.5), so a crowd costs no more than one. Missing competitors bid the reserve.
    """
    if competitors == 0:  # people are as they would be with competitors, so that these move nobody's value
        fill_words(block.words, (size + 3) >> 2, first, tick, PRICE, key)
        to_normals(block.words, block.heat, size, block.tail, block.place)
    for rank in range(slots):
        if rank < competitors:
            _draw_ranks(block, first, tick, size, key, competitors, rank)
            _price_ranks(block, size, rank, log_level, sigma, log_reserve, log_factor)
        else:
            for k in range(size):
                block.log_price[rank, k] = log_reserve
    for k in range(size):
        block.bar[k] = surely_below(block.log_price[slots - 1, k])


@inner
def _draw_ranks(block: Block, first: int, tick: int, size: int, key: Any, competitors: int, rank: int) -> None:
    """Into `normals`, where the rank-th best competitor stands; of the best that is the auction's `heat`."""
    fill_words(block.words, (size + 3) >> 2, first, tick, PRICE, key, rank)
    if competitors > 1:
        _order_statistics(block, size, rank, competitors)
        return
    to_normals(block.words, block.normals, size, block.tail, block.place)
    for k in range(size):
        block.heat[k] = block.normals[k]


@inner
def _price_ranks(
    block: Block, size: int, rank: int, log_level: float, sigma: float, log_reserve: float, log_factor: Float64
) -> None:
    if log_factor.size == 1:
        for k in range(size):
            block.log_price[rank, k] = min(max(log_level + sigma * block.normals[k], log_reserve), LOG_MAX)
    else:
        for k in range(size):
            level = log_level + log_factor[block.audience[k]]
            block.log_price[rank, k] = min(max(level + sigma * block.normals[k], log_reserve), LOG_MAX)


@inner
def _order_statistics(block: Block, size: int, rank: int, competitors: int) -> None:
    """Into `normals`, the standard normals of the rank-th best of so many; `tail` holds the chance left above it."""
    left = np.float64(competitors - rank)
    for k in range(size):
        u = uniform(block.words[k])
        if rank == 0:
            block.heat[k] = normal(u)
            block.tail[k] = 0.0
        # 1 - (1 - above)·u^(1/left), without losing what is small
        fallen = -math.expm1(math.log(u) / left)
        above = block.tail[k] + (1.0 - block.tail[k]) * fallen
        block.tail[k] = above
        block.normals[k] = -normal(min(max(above, _RAREST), 1.0 - _RAREST))


@inner
def draw_reach(block: Block, s: int, first: int, tick: int, size: int, key: Any, reach: float) -> None:
    """Which auctions of a block reach a campaign."""
    if reach >= 1:
        if not block.everywhere[s]:
            block.reached[s, :] = 1
            block.everywhere[s] = True
        return
    block.everywhere[s] = False
    fill_words(block.words, (size + 3) >> 2, first, tick, REACH, key)
    for k in range(size):
        block.reached[s, k] = np.float64(np.int64(block.words[k])) * TO_UNIT < reach


@inner
def draw_values(
    block: Block, s: int, first: int, tick: int, size: int, key: Any, sigma: float, correlation: float
) -> None:
    """What each opportunity is worth to a campaign, in logs, relative to the reference opportunity.

    The correlation is that of a Gaussian copula with the best competitor's price: where people are worth more, the
    competition, who sees them too, bids more.
    """
    if sigma == 0:
        for k in range(size):
            block.log_value[s, k] = 0.0
        return
    fill_words(block.words, (size + 3) >> 2, first, tick, VALUE, key)
    to_normals(block.words, block.normals, size, block.tail, block.place)
    if correlation == 0:
        for k in range(size):
            block.log_value[s, k] = sigma * block.normals[k]
        return
    own = math.sqrt(1.0 - correlation * correlation)
    for k in range(size):
        block.log_value[s, k] = sigma * (correlation * block.heat[k] + own * block.normals[k])


@inner
def draw_cells(
    block: Block, s: int, first: int, tick: int, size: int, key: Any, first_cell: int, share: Float64, audiences: int
) -> None:
    """Which creative a campaign would show in each auction, and to whom; `share` are thresholds."""
    if share.size == 1 and audiences == 1:
        if block.one_cell[s] != first_cell:
            block.cell[s, :] = first_cell
            block.one_cell[s] = first_cell
        return
    block.one_cell[s] = -1
    if share.size == 1:
        for k in range(size):
            block.cell[s, k] = first_cell
    else:
        fill_words(block.words, (size + 3) >> 2, first, tick, CREATIVE, key)
        for k in range(size):
            u = np.float64(np.int64(block.words[k])) * TO_UNIT
            creative: Any = 0
            for before in range(share.size - 1):
                creative += np.int64(u >= share[before])
            block.cell[s, k] = first_cell + creative * audiences
    if audiences > 1:
        for k in range(size):
            block.cell[s, k] += block.audience[k]
