"""People: whom an auction is about, and how many of them a campaign has reached.

An audience is a fixed number of people, the same ones in every market that it is part of. Each auction is about one of
them, drawn with probability proportional to the person's activity; nobody is drawn for an auction of which nothing
remains, so the cost is that of the impressions.

Where all are alike, n impressions reach N·(1 − (1 − 1/N)^n) of N people (classical occupancy) and a person's
impressions are binomial, nearly Poisson. Where activity is gamma-distributed with shape r they are beta-binomial with
parameters (n, r, r·(N − 1)), nearly the negative binomial of mean n/N and shape r: the NBD model of repeat buying
(Ehrenberg, "The pattern of consumer purchases", Applied Statistics 8, 1959), which is used for media exposure as well.
What this leaves out: activity does not change over time, and does not depend on the hour or on the creative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from engine.units import Bool, Float64, Int64
from sim.kernel import helper, kernel
from sim.rng import ACTIVITY, PERSON, fill_uniforms, key_of, philox

MAX_PEOPLE = 10_000_000
LEAST_ACTIVITY = 0.05

_MARKET, _CAMPAIGN, _TICK, _INDEX = 0, 1, 3, 4  # columns of the exchange's tables
_ALIKE = -1


@dataclass(frozen=True)
class Audience:
    """A number of people.

    Parameters
    ----------
    name:
        Its id in the account: who is how active is drawn by it.
    people:
        How many there are.
    activity:
        Shape of the gamma distribution of their activity; infinite means that all are alike, 1 that activity is
        exponential, and below 1 most are hardly ever there.
    """

    name: str
    people: int
    activity: float = math.inf

    def __post_init__(self) -> None:
        if not 1 <= self.people <= MAX_PEOPLE:
            raise ValueError(
                f"people (={self.people}) of audience {self.name} must be in [1, {MAX_PEOPLE}]: "
                "simulate a sample of a larger one, with as much less traffic"
            )
        if not self.activity >= LEAST_ACTIVITY:
            raise ValueError(
                f"activity (={self.activity}) of audience {self.name} must be >= {LEAST_ACTIVITY}: "
                "the smaller the more unequal, and without it all are alike"
            )


class People(NamedTuple):
    """Everybody: a audiences one after the other, of whom those not alike have weights.

    A weighted person is found by inverting the cumulative weights from a guide table (Chen and Asau, "On generating
    random variates from an empirical distribution", AIIE Transactions 6, 1974), whose size is a power of two so that a
    uniform's slot is exact.
    """

    first: Int64  # int64[a + 1], audience k holds the persons first[k] to first[k + 1] - 1
    weights: Int64  # int64[a], where its part of `upto` begins, _ALIKE where it has none
    upto: Float64  # float64[weighted people], cumulative share within the audience
    guides: Int64  # int64[a + 1], bounds of its part of `guide`
    guide: NDArray[Any]  # int32[…], the first person, within the audience, whose `upto` exceeds the slot's begin


def people_of(audiences: Sequence[Audience], seed: int) -> People:
    """The account's people: how active a person is depends on the seed, the audience's name and the person alone."""
    upto = [_cumulative(each, seed) if each.activity < math.inf else np.empty(0) for each in audiences]
    guide = [_guide(shares) for shares in upto]
    begins = np.cumsum([0, *(shares.size for shares in upto)])[:-1]
    return People(
        first=np.cumsum([0, *(each.people for each in audiences)], dtype=np.int64),
        weights=np.where([shares.size > 0 for shares in upto], begins, _ALIKE).astype(np.int64),
        upto=np.concatenate([np.empty(0), *upto]),
        guides=np.cumsum([0, *(slots.size for slots in guide)], dtype=np.int64),
        guide=np.concatenate([np.empty(0, dtype=np.int32), *guide]),
    )


def _cumulative(audience: Audience, seed: int) -> Float64:
    uniforms = np.empty((audience.people, 1))
    keys = np.array([key_of(seed, "audience", audience.name)], dtype=np.uint64)
    fill_uniforms(uniforms, keys, 0, ACTIVITY)
    running = np.cumsum(gammaincinv(audience.activity, uniforms[:, 0]))
    shares: Float64 = running / running[-1]
    return shares


def _guide(upto: Float64) -> NDArray[Any]:
    slots = 1 << (upto.size - 1).bit_length() if upto.size else 0
    return np.searchsorted(upto, np.arange(slots) / max(slots, 1), side="right").astype(np.int32)


@kernel
def person_of(market_key: Any, index: int, tick: int, audience: int, people: People) -> Any:
    """The person, by number in the account, whom an auction of a market about this audience is about."""
    block = philox(np.uint64(index), np.uint64(tick), np.uint64(PERSON), np.uint64(0), market_key)
    high, low = block[0] >> np.uint64(5), block[1] >> np.uint64(6)
    u = (np.float64(high) * 67108864.0 + np.float64(low)) * 2.0**-53  # of 53 bits, below 1
    first, weights = people.first[audience], people.weights[audience]
    if weights == _ALIKE:
        return first + np.int64(u * np.float64(people.first[audience + 1] - first))
    begins = people.guides[audience]
    slot = np.int64(u * np.float64(people.guides[audience + 1] - begins))
    person = np.int64(people.guide[begins + slot])
    while people.upto[weights + person] <= u:
        person += 1
    return first + person


@kernel
def _fill_persons(rows: Int64, market_key: Any, audience: Int64, people: People, out: Int64) -> None:
    for row in range(len(rows)):
        key = market_key[rows[row, _MARKET]]
        out[row] = person_of(key, rows[row, _INDEX], rows[row, _TICK], audience[row], people)


def persons_of(rows: Int64, market_key: NDArray[Any], audience: Int64, people: People) -> Int64:
    """The person of every row of a table of the exchange: impressions, clicks or conversions.

    Parameters
    ----------
    rows:
        int64[rows, 5 or more], the columns beginning as those of the exchange's tables: market, campaign, cell, tick
        and index of the auction.
    market_key:
        uint64[markets].
    audience:
        int64[rows], the audience of each row's auction.
    people:
        Everybody.
    """
    out = np.empty(len(rows), dtype=np.int64)
    _fill_persons(rows, market_key, audience, people, out)
    return out


class Reach:
    """Which people each of n campaigns has shown an impression to, a bit for each.

    Parameters
    ----------
    campaigns:
        How many campaigns there are.
    people:
        How many people the account has.
    """

    def __init__(self, campaigns: int, people: int) -> None:
        self._met = np.zeros((campaigns, (people + 7) // 8), dtype=np.uint8)

    def update(self, impressions: Int64, person: Int64) -> Bool:
        """Whether each impression is the first its campaign shows to its person; bool[rows].

        The rows of one campaign come in order of time, and so do the calls. Summed, the answers are people newly
        reached: they add up over ticks and creatives, and impressions divided by their sum over the run is frequency.
        """
        new = np.empty(len(impressions), dtype=np.bool_)
        _meet(self._met, impressions, person, new)
        return new

    def state(self) -> NDArray[Any]:
        """Whom each campaign has reached, uint8[n, bytes]."""
        return self._met.copy()

    def restore(self, state: NDArray[Any]) -> None:
        """Go back to a state."""
        self._met = state.copy()


@kernel
def _meet(met: NDArray[Any], impressions: Int64, person: Int64, new: Bool) -> None:
    for row in range(len(impressions)):
        campaign, byte = impressions[row, _CAMPAIGN], person[row] >> 3
        bit = np.uint8(1 << (person[row] & 7))
        new[row] = met[campaign, byte] & bit == 0
        met[campaign, byte] |= bit


class ExpectedReach:
    """How many people of its audience each of g groups is expected to have reached, whole ones.

    Of N people all alike, n impressions reach N·(1 − (1 − 1/N)^n); where their activity is gamma-distributed with shape
    r they reach N·(1 − (1 + n/(r·N))^−r), the share that a negative binomial leaves without any. The number reached has
    no variance here, which at that of the occupancy law is below N/4, and far below that of the impressions.

    Parameters
    ----------
    group:
        int64[cells], the group that a cell belongs to: those of one campaign that show to one audience; -1 where nobody
        counts its people.
    people, activity:
        float64[g], size of each group's audience, and shape of its people's activity.
    """

    def __init__(self, group: Int64, people: Float64, activity: Float64) -> None:
        self._group, self._people, self._activity = group, people, activity
        self._shown = np.zeros(len(people), dtype=np.int64)

    def update(self, impressions: Int64) -> Int64:
        """Of impressions in order of time (int64[t, cells]), the people reached for the first time, likewise."""
        new = np.zeros(impressions.shape, dtype=np.int64)
        _expect(self._shown, self._group, self._people, self._activity, impressions, new)
        return new

    def state(self) -> Int64:
        """Impressions of each group so far, int64[g]."""
        return self._shown.copy()

    def restore(self, state: Int64) -> None:
        """Go back to a state."""
        self._shown = state.copy()


@helper
def _reached(shown: int, people: float, activity: float) -> Any:
    if shown == 0 or people == 1.0:
        return np.int64(min(shown, 1))
    if activity == np.inf:
        missed = math.exp(np.float64(shown) * math.log1p(-1.0 / people))
    else:
        missed = (1.0 + np.float64(shown) / (activity * people)) ** -activity
    return np.int64(people * (1.0 - missed))


@kernel
def _expect(shown: Int64, group: Int64, people: Float64, activity: Float64, impressions: Int64, new: Int64) -> None:
    for t in range(impressions.shape[0]):
        for cell in range(group.size):
            g, more = group[cell], impressions[t, cell]
            if g < 0 or more == 0:
                continue
            before = _reached(shown[g], people[g], activity[g])
            shown[g] += more
            new[t, cell] = _reached(shown[g], people[g], activity[g]) - before
