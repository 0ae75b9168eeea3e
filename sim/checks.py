"""The battery that every world and every log passes: ours in the tests, users' own before their runs.

`check_world` rehearses a source of events over its whole run, several times, and holds it to the protocol
(`engine.policy.EventSource`) and to the physics of an exchange. `check_independent` holds two of them against each
other: what has nothing to do with a feature must stay as it is when that is switched on.
"""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import reduce
from itertools import pairwise
from typing import Any, NoReturn, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import CampaignSet, ControlState, Period
from engine.errors import BadInput
from engine.events import BIDS, CLICKS, COUNTS, IMPRESSIONS, OPPORTUNITIES, SPEND, TickCounts
from engine.policy import Batch, EventSource
from engine.prices import Prices, bin_of, least_in_bin
from engine.units import Bool, Int64, TickGrid

_CHAIN = (OPPORTUNITIES, BIDS, IMPRESSIONS, CLICKS)
"""Each needs one of those before it."""

_DIFFERENCES, _VARIANCE = 4, 70  # of the fourth difference of independent numbers of variance 1
_SMOOTH = 0.01
_BUSY, _LONG = 20, 48  # counts a tick, ticks of a run, from which on a smooth one is no accident
_ROUNDING = 64  # bytes by which a pickled number may grow
_STEADY, _RESTLESS = 3, 4  # ticks between the changes of restless controls


class Factory(Protocol):
    """Makes sources of events for the campaigns at ascending positions in the whole run.

    Where some markets have to share a source it says so by `joined`, as `sim.world.WorldFactory` does: a number for
    every market, equal where they do.
    """

    @property
    def campaigns(self) -> CampaignSet:
        """The whole run's."""
        ...

    @property
    def grid(self) -> TickGrid:
        """The run's calendar."""
        ...

    def __call__(self, members: Int64) -> EventSource:
        """The source of these campaigns' events."""
        ...


Part: TypeAlias = Mapping[str, NDArray[Any]]
"""What of a batch is looked at, by a name for the sentence."""


def check_world(factory: Factory, controls: ControlState, *, forgets_after: int | None = None) -> None:
    """Rehearse a world, or a log, and hold it to the protocol and the physics.

    The same factory must give the same bytes again, whatever NumPy's and Python's global generators are seeded with and
    without touching them; however the run is cut into calls, and each group of markets on its own; and from any state
    on, in the same source or in another. Counts must be possible, budgets kept and paused campaigns enter nothing,
    under the given controls and under others, with budgets cut to half of what is spent. Ticks must have draws of their
    own. While nothing happens, nothing more may be remembered. A factual source draws nothing and obeys nobody, so its
    counts are what they are: the rules about counts, budgets, pauses and draws are for the others.

    Whether ticks repeat each other's draws shows in counts that are smoother than independent ticks could leave them.
    For a Poisson count n, 2√n is nearly normal with variance 1, and its fourth difference over ticks has variance 70.
    The median of that difference's square, over opportunities, impressions and clicks of campaigns with 20 and more a
    tick, must be at least a hundredth of 70. Of 200,000 simulated right runs of 48 ticks, the fewest that are judged,
    the smoothest had 0.043. A world in which chance only begins with the click looks like one that repeats itself.

    Parameters
    ----------
    factory:
        Of the source to check.
    controls:
        Of all its campaigns. They should let campaigns win something: nothing can be told of a world where nothing
        happens.
    forgets_after:
        After how many ticks without an impression it must have forgotten all that happened, as far as that takes room:
        its longest delay, or the window of its attribution. None: nothing is said about that.

    Raises
    ------
    BadInput
        For the first rule that does not hold.
    """
    ticks = factory.grid.ticks
    steady = [controls] * ticks
    with _global_generators_kept():
        plain = list(_rehearse(factory, _everyone(factory), steady, range(ticks + 1)))
        factual = factory(_everyone(factory)).factual
        if not factual:
            _check_physics(factory, steady, plain)
            _check_repetition(factory, plain)
        _check_again(factory, steady, plain)
        _check_groups(factory, controls, plain)
        _check_states(factory, steady, plain)
        restless = _restless(factory, controls, plain)
        eager = list(_rehearse(factory, _everyone(factory), restless, range(ticks + 1)))
        if not factual:
            _check_physics(factory, restless, eager)
        _check_states(factory, restless, eager)
        _check_memory(factory, controls, forgets_after)


def check_independent(
    factory: Factory, other: Factory, controls: ControlState, *, unmoved: Callable[[Batch], Part]
) -> None:
    """Hold a world against the same with another feature switched on, under the same controls.

    Parameters
    ----------
    factory, other:
        Without and with the feature, for the same campaigns and the same calendar.
    controls:
        Of all campaigns.
    unmoved:
        What of a batch the feature has nothing to do with, such as `counted("opportunities")`.

    Raises
    ------
    BadInput
        For the first of it that moves.
    """
    cuts = range(factory.grid.ticks + 1)
    steady = [controls] * factory.grid.ticks
    runs = [_rehearse(each, _everyone(each), steady, cuts) for each in (factory, other)]
    with _global_generators_kept():
        for tick, (one, two) in enumerate(zip(*runs, strict=True)):
            name = _difference(unmoved(one), unmoved(two))
            if name is not None:
                _refuse(
                    other,
                    f"moves {name} of tick {tick}, with which the feature that is switched on has nothing to do",
                    "give the feature draws of a purpose of its own",
                )


def counted(*names: str, cells: Int64 | None = None) -> Callable[[Batch], Part]:
    """Some of a batch's counts, by their names in `COUNTS`, of all cells or of those at these positions."""
    places = {name: COUNTS.index(name) for name in names}

    def part(batch: Batch) -> Part:
        values = batch.counts.values if cells is None else batch.counts.values[:, cells]
        return {name: values[:, :, place] for name, place in places.items()}

    return part


def _everyone(factory: Factory) -> Int64:
    return np.arange(len(factory.campaigns))


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Leave Python's and NumPy's global generators as they were found."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - likewise
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - likewise


def _generators() -> bytes:
    return pickle.dumps((random.getstate(), np.random.get_state()))  # noqa: NPY002 - to catch those who use it


def _rehearse(
    factory: Factory, members: Int64, controls: Sequence[ControlState], cuts: Sequence[int], disturbance: int = 1
) -> Iterator[Batch]:
    """The batches of a new source between the given ticks, under the controls that each tick begins with."""
    source = factory(members)
    if not isinstance(source, EventSource):
        _refuse(factory, f"makes a {type(source).__name__}", "make an EventSource: factual, advance, state and restore")
    yield from _advance(factory, source, controls, cuts, disturbance)


def _advance(
    factory: Factory, source: EventSource, controls: Sequence[ControlState], cuts: Sequence[int], disturbance: int = 1
) -> Iterator[Batch]:
    for start, stop in pairwise(cuts):
        random.seed(1000 * disturbance + start)
        np.random.seed(1000 * disturbance + start)  # noqa: NPY002 - to catch those who use it
        before = _generators()
        batch = source.advance(start, stop, controls[start])
        if _generators() != before:
            _refuse(
                factory,
                f"draws from a global generator at tick {start}",
                "make every draw a function of the seed, the tick and what it is for",
            )
        shape = (stop - start, *batch.counts.values.shape[1:])
        if batch.counts.first_tick != start or batch.counts.values.shape != shape:
            _refuse(
                factory,
                f"answers for {len(batch.counts.values)} ticks from {batch.counts.first_tick} on when asked for the "
                f"ticks [{start}, {stop})",
                "give a row of counts to every tick it is asked for",
            )
        yield batch


def _check_physics(factory: Factory, controls: Sequence[ControlState], batches: Sequence[Batch]) -> None:
    """Hold the counts of every tick against what is possible, and against the controls of that tick."""
    campaigns = factory.campaigns
    charged = np.zeros(len(campaigns), dtype=np.int64)
    daily = campaigns.period == Period.DAY
    for tick, batch in enumerate(batches):
        counts = batch.counts.of_campaigns(campaigns.cell_start)[0]
        _check_chain(factory, tick, counts)
        if tick and factory.grid.closes_day[tick - 1]:
            charged[daily] = 0
        charged += counts[:, SPEND]
        over = (charged > controls[tick].budget) & (counts[:, SPEND] > 0)
        if over.any():
            who = int(np.flatnonzero(over)[0])
            _refuse(
                factory,
                f"has charged {charged[who]} micros at tick {tick} to campaign {campaigns.ids[who]}, whose budget is "
                f"{controls[tick].budget[who]}",
                "enter it only where what remains covers the most that it could be charged",
            )
        _check_paused(factory, tick, counts, controls[tick].paused)
        if batch.prices is not None:
            _check_prices(factory, tick, counts, controls[tick].bid, batch.prices)


def _check_chain(factory: Factory, tick: int, counts: Int64) -> None:
    for before, after in pairwise(_CHAIN):
        many = counts[:, after] > counts[:, before]
        if many.any():
            who = int(np.flatnonzero(many)[0])
            _refuse(
                factory,
                f"has {counts[who, after]} {COUNTS[after]} on {counts[who, before]} {COUNTS[before]} of campaign "
                f"{factory.campaigns.ids[who]} at tick {tick}",
                f"let each of the {COUNTS[after]} come of one of the {COUNTS[before]}, and count it once",
            )


def _check_paused(factory: Factory, tick: int, counts: Int64, paused: Bool) -> None:
    entered = paused & (counts[:, BIDS] + counts[:, SPEND] > 0)
    if entered.any():
        who = int(np.flatnonzero(entered)[0])
        _refuse(
            factory,
            f"enters {counts[who, BIDS]} auctions for the paused campaign {factory.campaigns.ids[who]} at tick {tick}",
            "leave paused campaigns out",
        )


def _check_prices(factory: Factory, tick: int, counts: Int64, bid: Int64, prices: Prices) -> None:
    """Every impression was won at a price, and at none above the bid in force."""
    wins = np.zeros(len(bid), dtype=np.int64)
    np.add.at(wins, prices.campaign, prices.wins)
    wrong = wins != counts[:, IMPRESSIONS]
    if wrong.any():
        who = int(np.flatnonzero(wrong)[0])
        _refuse(
            factory,
            f"tells prices of {wins[who]} wins and {counts[who, IMPRESSIONS]} impressions of campaign "
            f"{factory.campaigns.ids[who]} at tick {tick}",
            "count every impression once, by the price that it was won at",
        )
    beyond = prices.bin > bin_of(np.maximum(bid, 1))[prices.campaign]
    if beyond.any():
        row = int(np.flatnonzero(beyond)[0])
        _refuse(
            factory,
            f"tells a price of {least_in_bin(prices.bin[row]):g} micros and more at tick {tick}, which campaign "
            f"{factory.campaigns.ids[prices.campaign[row]]} won with a bid of {bid[prices.campaign[row]]}",
            "divide the price by the opportunity's own bid, and multiply by the bid in force",
        )


def _check_repetition(factory: Factory, batches: Sequence[Batch]) -> None:
    """Refuse counts that go on from tick to tick as if every tick had the same draws."""
    if len(batches) < _LONG:
        return
    counts = np.concatenate([batch.counts.of_campaigns(factory.campaigns.cell_start) for batch in batches])
    told = np.array([OPPORTUNITIES, IMPRESSIONS, CLICKS])
    rough = np.median(np.diff(2 * np.sqrt(counts[:, :, told]), _DIFFERENCES, axis=0) ** 2, axis=0) / _VARIANCE
    busy = counts[:, :, told].mean(axis=0) >= _BUSY
    typical = np.median(rough[busy]) if busy[:, told == IMPRESSIONS].any() else np.inf
    if typical < _SMOOTH:
        _refuse(
            factory,
            f"repeats its draws from tick to tick: its counts vary by {typical:.2g} of what chance would make them",
            "seed no generator inside a step, and make every draw a function of its tick",
        )


def _check_again(factory: Factory, controls: Sequence[ControlState], plain: Sequence[Batch]) -> None:
    """Run again, disturbed otherwise; and in larger calls."""
    ticks = len(plain)
    again = list(_rehearse(factory, _everyone(factory), controls, range(ticks + 1), disturbance=2))
    _check_same(
        factory, plain, again, "gives {} of tick {} otherwise when it runs again", "use no hidden state or generator"
    )
    squares = [root * root for root in range(math.isqrt(ticks - 1) + 1)]
    for cuts in ([0, ticks], [*squares, ticks]):
        batches = list(_rehearse(factory, _everyone(factory), controls, cuts))
        fault = "gives {} of tick {} otherwise when ticks are asked for in other groups"
        _check_same(factory, plain, batches, fault, "make every draw a function of its tick, and of no call")


def _check_groups(factory: Factory, controls: ControlState, plain: Sequence[Batch]) -> None:
    """Run each group of markets that may stand alone in a source of its own."""
    campaigns = factory.campaigns
    joined = np.asarray(getattr(factory, "joined", np.arange(len(campaigns.markets))))[campaigns.market]
    groups = [np.flatnonzero(joined == number) for number in np.unique(joined)]
    if len(groups) == 1:
        return
    whole = _put_together(plain)
    for members in groups:
        mine = [controls.select(campaigns, members)] * factory.grid.ticks
        alone = _put_together(list(_rehearse(factory, members, mine, [0, factory.grid.ticks])))
        name = _difference(_of_members(whole, campaigns, members), _of_members(alone, campaigns, None))
        if name is not None:
            _refuse(
                factory,
                f"gives {name} of campaign {campaigns.ids[members[0]]} otherwise where other markets are in another "
                "source",
                "key every draw by the id of its market or campaign, or join these markets",
            )


def _restless(factory: Factory, controls: ControlState, plain: Sequence[Batch]) -> list[ControlState]:
    """Controls that bind: half of the largest spend of a period as budget, pauses, and bids up and down."""
    grid, campaigns = factory.grid, factory.campaigns
    spend = np.concatenate([batch.counts.of_campaigns(campaigns.cell_start)[:, :, SPEND] for batch in plain])
    by_day = np.zeros((int(grid.day[-1]) + 1, len(campaigns)), dtype=np.int64)
    np.add.at(by_day, grid.day, spend)
    most = np.where(campaigns.period == Period.DAY, by_day.max(axis=0), by_day.sum(axis=0))
    budget = np.maximum(most // 2, 1)
    restless = []
    for tick in range(grid.ticks):
        bid = controls.bid * (1 + tick // _RESTLESS % 2)
        paused = controls.paused | ((tick // _STEADY + np.arange(len(campaigns))) % _RESTLESS == 0)
        restless.append(replace(controls, scalar=np.stack((bid, budget), axis=1), paused=paused))
    return restless


def _check_states(factory: Factory, controls: Sequence[ControlState], batches: Sequence[Batch]) -> None:
    """Go on from the state at half the run: in the source that has run to its end, and in a new one."""
    ticks = len(batches)
    half = ticks // 2
    source = factory(_everyone(factory))
    for _ in _advance(factory, source, controls, range(half + 1)):
        pass
    kept = _pickled(factory, source.state())
    for _ in _advance(factory, source, controls, range(half, ticks + 1)):
        pass
    for resumed, where in ((source, "the same source"), (factory(_everyone(factory)), "a new source")):
        resumed.restore(pickle.loads(kept))  # noqa: S301 - our own bytes
        again = list(_advance(factory, resumed, controls, range(half, ticks + 1)))
        fault = f"gives {{}} of tick {{}} otherwise after the state of tick {half} was restored in {where}"
        _check_same(
            factory, batches[half:], again, fault, "keep all that matters later in the state, and nothing beside it"
        )


def _check_memory(factory: Factory, controls: ControlState, forgets_after: int | None) -> None:
    """Let things happen for some ticks and nothing for three times as long, or until all should be forgotten."""
    ticks = factory.grid.ticks
    busy = ticks // 4
    if forgets_after is not None and forgets_after > ticks - busy:
        raise BadInput(
            f"forgets_after (={forgets_after}) must be <= {ticks - busy}, three quarters of the run: take a longer run"
        )
    resting = replace(controls, paused=np.ones_like(controls.paused))
    source = factory(_everyone(factory))
    sizes = [len(_pickled(factory, source.state()))]
    for cuts in (range(busy + 1), range(busy, ticks + 1)):
        for _ in _advance(factory, source, [controls] * busy + [resting] * (ticks - busy), cuts):
            pass
        sizes.append(len(_pickled(factory, source.state())))
    begun, after, rested = sizes
    if rested > after + _ROUNDING:
        _refuse(
            factory,
            f"remembers {rested} bytes after tick {ticks - 1} and {after} after tick {busy - 1}, since when every "
            "campaign was paused",
            "keep nothing that grows with the ticks",
        )
    if forgets_after is not None and rested > begun + _ROUNDING:
        _refuse(
            factory,
            f"remembers {rested} bytes {ticks - busy} ticks after the last impression and {begun} before the first",
            f"let go of what is over, or say that it forgets after more than {forgets_after} ticks",
        )


def _pickled(factory: Factory, state: Any) -> bytes:
    try:
        return pickle.dumps(state)
    except (pickle.PicklingError, TypeError, AttributeError):
        _refuse(factory, "has a state that cannot be pickled", "keep values and arrays in it")


def _check_same(factory: Factory, one: Sequence[Batch], other: Sequence[Batch], fault: str, remedy: str) -> None:
    mine, theirs = _put_together(one), _put_together(other)
    name = _difference(_whole(mine), _whole(theirs))
    if name is not None:
        counts = mine.counts.values != theirs.counts.values
        moved = np.flatnonzero(counts.any(axis=(1, 2)))
        tick = mine.counts.first_tick + (int(moved[0]) if moved.size else 0)
        _refuse(factory, fault.format(name, tick), remedy)


def _put_together(batches: Sequence[Batch]) -> Batch:
    """One batch of those that follow each other; events in one order, which a call gives its own alone."""
    first = batches[0]
    events = type(first.events).concatenate([batch.events for batch in batches])
    truths = [batch.truth for batch in batches if batch.truth is not None]
    prices = [batch.prices for batch in batches if batch.prices is not None]
    return Batch(
        TickCounts(first.counts.first_tick, np.concatenate([batch.counts.values for batch in batches])),
        events.take(events.order()),
        type(first.opportunities).concatenate([batch.opportunities for batch in batches]),
        sum(batch.auctions for batch in batches),
        np.concatenate(truths) if truths else None,
        reduce(Prices.plus, prices) if prices else None,
    )


def _whole(batch: Batch) -> Part:
    """Everything in a batch."""
    truth = {} if batch.truth is None else {"truth": batch.truth}
    counts = {name: batch.counts.values[:, :, place] for place, name in enumerate(COUNTS)}
    prices = {} if batch.prices is None else {f"prices.{name}": rows for name, rows in asdict(batch.prices).items()}
    return {**counts, **_records(batch), **truth, **prices, "auctions": np.array(batch.auctions)}


def _records(batch: Batch) -> Part:
    tables = {"events": batch.events, "opportunities": batch.opportunities}
    return {f"{table}.{name}": column for table, rows in tables.items() for name, column in rows.columns().items()}


def _of_members(batch: Batch, campaigns: CampaignSet, members: Int64 | None) -> Part:
    """Everything in a batch that is of some campaigns of the whole run; of all that it holds, where None."""
    if members is None:
        return {name: column for name, column in _whole(batch).items() if name != "auctions"}
    cells = campaigns.cells_of(members)
    mine = Batch(
        TickCounts(batch.counts.first_tick, batch.counts.values[:, cells]),
        batch.events.take(np.isin(batch.events.campaign, members)),
        batch.opportunities.take(np.isin(batch.opportunities.campaign, members)),
        truth=None if batch.truth is None else batch.truth[:, cells],
        prices=None if batch.prices is None else batch.prices.select(members),
    )
    return _of_members(mine, campaigns, None)


def _difference(one: Part, other: Part) -> str | None:
    """The first name under which something else is found."""
    if one.keys() != other.keys():
        return min(one.keys() ^ other.keys())
    return next((name for name in one if not np.array_equal(one[name], other[name])), None)


def _refuse(factory: Factory, fault: str, remedy: str) -> NoReturn:
    raise BadInput(f"world {type(factory).__name__} {fault}: {remedy}")
