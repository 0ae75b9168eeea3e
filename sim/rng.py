"""Counter-based random numbers: every draw is a pure function of who, when, what for and which one.

The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
The key belongs to a market or a campaign, by the run's seed and its id; the counter is (index, tick, purpose, which),
`which` being 0 but where a purpose needs several numbers for one index. So no draw depends on how campaigns are grouped
into processes, on the order of the work, or on whether another draw is made: a feature that changes how one purpose is
used moves no other purpose's numbers.

Where a purpose needs one word per auction, auction `index` finds it in block `index // 4`, lane `index % 4`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.units import Float64, Int64
from sim.kernel import helper, kernel

ARRIVALS = 1  # market: how many auctions a tick holds
PRICE = 2  # market: the competitor's price
REACH = 3  # campaign: does the auction reach it
VALUE = 4  # campaign: what the opportunity is worth
CREATIVE = 5  # campaign: which creative it shows
CLICK = 6  # campaign: is the impression clicked
CONVERSION = 7  # campaign: lanes 0, 1, 2, 3 are whether, when, of what value, and by which part of a mixed delay
BUSTLE = 8  # market: by how much a tick is busier than expected
DRIFT = 9  # market: the step of its price level
REGIME = 10  # market: lanes 0 and 1 are whether a regime begins, lane 2 is its price level
SEVERAL = 11  # campaign: lane 0 of number 0 is how many more; lanes 1, 2, 3 of number i are as above, for the i-th more
REFUND = 12  # campaign: lanes 0, 1 of a conversion's number are whether it is refunded, and when
EXPOSURE = 13  # campaign: is the slot it won seen
AUDIENCE = 14  # market: to which audience does the person belong
BOT = 15  # market: does a machine click the impression
PERSON = 16  # market: whom the auction is about
LOST = 17  # campaign: is the click's id lost
ACTIVITY = 19  # audience: how active each of its people is
OUTAGE = 20  # campaign: is the conversion reported while tracking is out
SPLIT = 30  # market, aggregate: lane 0 of an audience's number is how many auctions are about it
TALLY = 31  # campaign, aggregate: lanes of a cell are its opportunities, wins, clicks and spend
SEQUEL = 32  # campaign, aggregate: lanes of a cell are its clicks that convert, those of machines, and their cost
SINGLE = 33  # campaign, aggregate: lanes are heat and own part of a won auction, its click, and what a cap leaves
CUT = 34  # campaign, aggregate: lanes of a cell round what a budget leaves of its counts
MOMENT = 35  # campaign, aggregate: when in the tick a click is made that converts
MISHAP = 18  # recorded events, by their ids: what goes wrong with them
EPISODE = 40  # bidding task, by an episode's number: the keys of its market and of its campaign
TRAIT = 41  # market of an episode, by a trait's number: what the episode is like
TURN = 42  # an environment's seed, by how many episodes it has played: the number of its next
BIN = 43  # market of an episode, binned: coins that split a step's opportunities, then the noise of their value
PLACE = 44  # market of an episode, binned, by a bin: where in it its opportunities lie

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_WORD = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

TO_UNIT = 2.0**-32
"""A word times this lies in [0, 1)."""

Z_MAX = 6.4
"""No normal drawn from one 32-bit word is larger than this: the outermost is 6.34."""


def key_of(seed: int, kind: str, name: str) -> int:
    """The 64-bit key of a market or a campaign: BLAKE2b of the seed, the kind and the id."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{kind}/{name}".encode(), digest_size=8).digest(), "little")


def keys_of(seed: int, kind: str, names: Sequence[str]) -> NDArray[Any]:
    """The keys of several, uint64 of shape [names]."""
    return np.array([key_of(seed, kind, name) for name in names], dtype=np.uint64)


@helper
def philox(c0: Any, c1: Any, c2: Any, c3: Any, key: Any) -> Any:
    """One block: four counter words and a 64-bit key, all uint64, to four words of 32 random bits."""
    k0, k1 = key & _WORD, key >> _HALF
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _WORD, (p0 >> _HALF) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return c0, c1, c2, c3


@kernel
def fill_words(out: Any, blocks: int, first_block: int, tick: int, purpose: int, key: Any, which: int = 0) -> None:
    """Put the words of consecutive blocks into `out`, uint64[4 · blocks or more]."""
    when, what, last = np.uint64(tick) & _WORD, np.uint64(purpose) & _WORD, np.uint64(which) & _WORD
    for block in range(np.uint64(blocks)):  # unsigned places never wrap, or the loop would not fit vector registers
        w0, w1, w2, w3 = philox((np.uint64(first_block) + block) & _WORD, when, what, last, key)
        place = np.uint64(4) * block
        out[place] = w0
        out[place + np.uint64(1)] = w1
        out[place + np.uint64(2)] = w2
        out[place + np.uint64(3)] = w3


@kernel
def word(index: int, tick: int, purpose: int, key: Any) -> Any:
    """The word `fill_words` puts at `index`, on its own."""
    w0, w1, w2, w3 = philox(np.uint64(index >> 2), np.uint64(tick), np.uint64(purpose), np.uint64(0), key)
    lane = index & 3
    if lane == 0:
        return w0
    if lane == 1:
        return w1
    if lane == 2:
        return w2
    return w3


@helper
def uniform(bits: Any) -> float:
    """The middle of a word's interval: in (0, 1), never an end."""
    return (np.float64(np.int64(bits)) + 0.5) * TO_UNIT


@helper
def fine_uniform(high: Any, low: Any) -> float:
    """A uniform of 53 bits in (0, 1), never an end, from two words."""
    upper, lower = np.float64(high >> np.uint64(5)), np.float64(low >> np.uint64(6))
    return (upper * 67108864.0 + lower + 0.5) * 2.0**-53


@helper
def _polynomial(
    r: float, c0: float, c1: float, c2: float, c3: float, c4: float, c5: float, c6: float, c7: float
) -> float:
    return ((((((c7 * r + c6) * r + c5) * r + c4) * r + c3) * r + c2) * r + c1) * r + c0


@helper
def _centre(q: float) -> float:
    r = 0.180625 - q * q
    # fmt: off
    upper = _polynomial(
        r, 3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
        4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3,
    )
    lower = _polynomial(
        r, 1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
        2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3,
    )
    # fmt: on
    return q * upper / lower


@helper
def _tail(minus_log: float) -> float:
    r = math.sqrt(minus_log) - 1.6
    # fmt: off
    upper = _polynomial(
        r, 1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
        1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4,
    )
    lower = _polynomial(
        r, 1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
        1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9,
    )
    # fmt: on
    return upper / lower


@kernel
def normal(p: float) -> float:
    """The standard normal whose distribution function is p, for 1.4e-11 < p < 1 - 1.4e-11.

    Algorithm AS 241, PPND16 (Wichura, Applied Statistics 37, 1988), accurate to about one part in 10^16; its outermost
    region lies beyond what a 32-bit word can reach and is left out.
    """
    q = p - 0.5
    if abs(q) <= 0.425:
        return _centre(q)
    return math.copysign(_tail(-math.log(min(p, 1.0 - p))), q)


@kernel
def to_normals(words: Any, out: Float64, count: int, tail: Float64, place: Int64) -> None:
    """`out[i] = normal(uniform(words[i]))`, in loops that fit vector registers; `tail` and `place` are scratch."""
    tails: Any = 0
    for i in range(count):
        out[i] = _centre(uniform(words[i]) - 0.5)
    for i in range(count):
        place[tails] = i
        tails += np.int64(abs(uniform(words[i]) - 0.5) > 0.425)
    for j in range(tails):
        p = uniform(words[place[j]])
        tail[j] = -math.log(min(p, 1.0 - p))
    for j in range(tails):
        tail[j] = _tail(tail[j])
    for j in range(tails):
        i = place[j]
        out[i] = math.copysign(tail[j], uniform(words[i]) - 0.5)


@kernel
def fill_uniforms(out: Float64, keys: Any, first_tick: int, purpose: int) -> None:
    """Put a 53-bit uniform in (0, 1) for every (tick, key) into `out`, float64[ticks, keys]; all of index 0."""
    for t in range(out.shape[0]):
        for i in range(out.shape[1]):
            block = philox(np.uint64(0), np.uint64(first_tick + t), np.uint64(purpose), np.uint64(0), keys[i])
            out[t, i] = fine_uniform(block[0], block[1])
