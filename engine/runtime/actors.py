"""The same hosts as Ray actors: shards of campaigns, one central optimiser, and handles to single campaigns.

This is the only room that knows Ray. A round's rows travel from the optimiser to the shards as an object reference, so
the driver holds no decision up; a span's counts travel in columns, never event by event.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.actions import Knob
from engine.errors import BadInput
from engine.messages import Command, CommandKind
from engine.metrics import Metric, metrics
from engine.runtime.checkpoints import EVERY
from engine.runtime.fate import end_monitor, shared_fate
from engine.runtime.hosts import CampaignHost, OptimiserHost, ShardHost, SourceHost
from engine.runtime.local import LostError, Outcome, Watcher, carry_out
from engine.runtime.pace import Pace
from engine.runtime.plan import Plan, partition
from engine.runtime.store import LEDGER
from engine.units import Int64

# Ray reads these when it is imported: no usage report is sent, and nothing is printed that a user cannot act on.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # a lost process's answers are asked for again, not read
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died|The node with node id|Raylet is terminated")
os.environ.setdefault("RAY_core_worker_internal_heartbeat_ms", "100")  # a second each, by default, until a killed
os.environ.setdefault("RAY_timeout_ms_task_wait_for_death_info", "100")  # process is told to be gone, and to be back
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

OBJECT_STORE_BYTES = 512 * 1024**2
PATIENCE_SECONDS = 60.0
"""How long a lost process may take to come back."""
PAUSE_SECONDS = 0.02
_KNOCK_SECONDS = 5.0


def _actor(host: Any) -> Any:
    """A host as a Ray actor; a killed one comes back empty, as its constructor leaves it, and is restored.

    The plan comes as a packed reference: of an argument in its object store Ray warns the user that a restart could
    miss it, though the driver keeps it.
    """

    class Actor(host):  # type: ignore[misc]
        def __init__(self, plan: bytes, *arguments: Any, **options: Any) -> None:
            super().__init__(ray.get(ray.cloudpickle.loads(plan)), *arguments, **options)

    Actor.__name__ = Actor.__qualname__ = host.__name__
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(Actor)


CampaignShard = _actor(ShardHost)
MarketShard = _actor(SourceHost)
CampaignActor = _actor(CampaignHost)
OptimiserActor = _actor(OptimiserHost)


@contextmanager
def ray_session(address: str = "local") -> Iterator[str]:
    """Ray with a fresh namespace: of our own on this machine, gone with all its processes when the block ends; or of a
    running cluster, which only our actors leave.

    Raises
    ------
    BadInput
        Where no cluster answers at the address.
    """  # noqa: D205 - one sentence
    namespace = f"bidtwin-{uuid.uuid4().hex[:12]}"
    with _own(namespace) if address == "local" else _joined(address, namespace):
        yield namespace


@contextmanager
def _own(namespace: str) -> Iterator[None]:
    with shared_fate():
        try:
            _init("local", namespace, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES)
            yield
        finally:
            end_monitor()
            ray.shutdown()


@contextmanager
def _joined(address: str, namespace: str) -> Iterator[None]:
    try:
        _knock(address)
        _init(address, namespace)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "start its head and this machine as docs/cluster.md tells, with one token"
        raise BadInput(f"address (={address}) must be that of a running Ray cluster ({why:.120}): {remedy}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _init(address: str, namespace: str, **ours: Any) -> None:
    ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level="ERROR", **ours)


def _knock(address: str) -> None:
    """Find out at once whether anybody listens there; Ray itself tries for more than a minute."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()


@dataclass(frozen=True)
class CampaignHandle:
    """A single campaign of a live run.

    What it asks for goes the way of every change: the optimiser admits it at the next boundary, the guard judges it,
    the ledger records it.
    """

    campaign: str
    position: int
    home: Any
    optimiser: Any

    def snapshot(self) -> dict[str, int]:
        """The controls in force: bid, budget, paused."""
        return self._known()[0]

    def metrics(self) -> dict[str, Metric]:
        """The published metrics since the run began."""
        return metrics(self._known()[1])

    def apply(self, knob: Knob, values: Sequence[int], by: str) -> str:
        """Ask for a change in a person's name; returns the command's id."""
        return self._submit(CommandKind.EDIT, by, knob, tuple(values))

    def pause(self, by: str) -> str:
        """Ask for a pause, which is always allowed."""
        return self._submit(CommandKind.PAUSE, by, Knob.PAUSED, ())

    def _known(self) -> tuple[dict[str, int], Int64]:
        known: tuple[dict[str, int], Int64] = _get(self.home.snapshot.remote(self.position))
        return known

    def _submit(self, kind: CommandKind, by: str, knob: Knob, values: tuple[int, ...]) -> str:
        command = Command(uuid.uuid4().hex, kind, by, self.position, knob, values)
        _get(self.optimiser.submit.remote(command))
        return command.id


class RayRunner:
    """Runs a plan on Ray actors.

    Parameters
    ----------
    shards:
        Actor processes that feed the campaigns; more than there are cores never helped.
    campaigns_per_actor:
        None keeps campaigns in the process that feeds them. A number puts at most so many into an actor of their own:
        with 1, every campaign is a Ray actor, fed through the object store.
    address:
        "local" starts a Ray for the run; else that of a running cluster that this machine is a node of. The run folder
        lies on this machine: the optimiser runs here, the shards anywhere.
    checkpoint_every:
        Spans between two checkpoints.
    pace:
        Slows the run down to a multiple of real time, under a lease.
    take_over:
        Whether to take a run over from a process that holds it and whose lease has lapsed.
    """

    def __init__(
        self,
        shards: int = 2,
        campaigns_per_actor: int | None = None,
        address: str = "local",
        checkpoint_every: int = EVERY,
        pace: Pace | None = None,
        *,
        take_over: bool = False,
    ) -> None:
        self._take_over = take_over
        self._shards = shards
        self._campaigns_per_actor = campaigns_per_actor
        self._address = address
        self._checkpoint_every = checkpoint_every
        self._pace = pace
        self._cast: _RayCast | None = None

    def run(self, plan: Plan, folder: Path, watch: Watcher | None = None) -> Outcome:
        """Carry the plan out, or on from where the folder stands, leaving ledger and tables in it."""
        try:
            with ray_session(self._address):
                self._cast = self._hire(plan, folder)
                return carry_out(plan, self._cast, folder, watch, self._checkpoint_every, self._pace)
        finally:
            self._cast = None

    def handle(self, campaign: str) -> CampaignHandle:
        """A handle to a campaign of the run that is under way (from a watcher, or from another thread)."""
        if self._cast is None:
            raise RuntimeError("no run is under way")
        return self._cast.handle(campaign)

    def _hire(self, plan: Plan, folder: Path) -> _RayCast:
        parts = partition(plan.campaigns, self._shards, plan.joined)
        place = _Place(folder, self._pace.clock if self._pace else None, take_over=self._take_over)
        if self._campaigns_per_actor is None:
            return _RayCast(plan, place, parts)
        return _ApartCast(plan, place, parts, self._campaigns_per_actor)


@dataclass(frozen=True)
class _Place:
    """What the optimiser is told beside the plan: the run's folder, the clock of its lease, whether it takes over."""

    folder: Path
    clock: Callable[[], float] | None
    take_over: bool


class _RayCast:
    """Shard actors that hold campaigns and their source; references are Ray's."""

    def __init__(self, plan: Plan, place: _Place, parts: list[Int64]) -> None:
        self._plan = plan
        self._parts = parts
        self._kept = ray.put(plan)  # whoever comes back reads it again
        self._shared = ray.cloudpickle.dumps(self._kept)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        optimiser = OptimiserActor.options(name="optimiser", scheduling_strategy=here)  # SQLite wants a disk of its own
        ledger = str(place.folder.absolute() / LEDGER)
        self.optimiser = optimiser.remote(self._shared, ledger, place.clock, take_over=place.take_over)
        self._homes = self._settle()

    @property
    def layout(self) -> str:
        return f"{len(self._parts)} shards"

    def _settle(self) -> list[tuple[Int64, Any]]:
        """Create the actors that hold campaigns; who lives where."""
        return [
            (members, CampaignShard.options(name=f"shard-{place}", **_somewhere(place)).remote(self._shared, members))
            for place, members in enumerate(self._parts)
        ]

    def _everybody(self) -> list[Any]:
        return [self.optimiser, *(actor for _, actor in self._homes)]

    def restore(self, states: Sequence[bytes] | None) -> int:
        everybody = self._everybody()
        orders = dict(enumerate(states or [None] * len(everybody)))
        until = time.monotonic() + PATIENCE_SECONDS
        answers: dict[int, Any] = {}
        while orders:
            asked = {place: everybody[place].restore.remote(state) for place, state in orders.items()}
            for place, answer in asked.items():
                try:
                    answers[place] = _get(answer)
                    del orders[place]
                except LostError:
                    if time.monotonic() > until:
                        raise
            if orders:
                time.sleep(PAUSE_SECONDS)
        epoch: int = answers[0]
        return epoch

    def states(self) -> list[Any]:
        return [actor.state.remote() for actor in self._everybody()]

    def handle(self, campaign: str) -> CampaignHandle:
        position = self._plan.campaigns.index(campaign)
        home = next(actor for members, actor in self._homes if position in members)
        return CampaignHandle(campaign, position, home, self.optimiser)

    def step(self, approved: Any, from_tick: int, to_tick: int) -> tuple[list[Any], list[Any]]:
        approved = approved if isinstance(approved, ray.ObjectRef) else ray.put(approved)
        steps = [shard.step.options(num_returns=2).remote(approved, from_tick, to_tick) for _, shard in self._homes]
        reports, records = zip(*steps, strict=True)
        return list(reports), list(records)

    def decide(self, tick: int, reports: list[Any]) -> Any:
        return self.optimiser.decide.remote(tick, *reports)

    def close(self, tick: int, header: Mapping[str, Any], reports: list[Any]) -> str:
        digest: str = _get(self.optimiser.close.remote(tick, dict(header), *reports))
        return digest

    def values(self, references: Sequence[Any]) -> list[Any]:
        values: list[Any] = _get(list(references))
        return values

    def release(self) -> None:
        """The session that ends takes every actor with it, and with the optimiser's process its lock."""


class _ApartCast(_RayCast):
    """Campaign actors apart from the market shards that feed them with column batches through the object store."""

    def __init__(self, plan: Plan, place: _Place, parts: list[Int64], campaigns_per_actor: int) -> None:
        self._groups = [
            np.array_split(np.arange(len(members)), -(-len(members) // campaigns_per_actor)) for members in parts
        ]
        super().__init__(plan, place, parts)

    @property
    def layout(self) -> str:
        return f"{len(self._parts)} markets, {len(self._homes)} campaign actors"

    def _settle(self) -> list[tuple[Int64, Any]]:
        self._markets = [
            MarketShard.options(name=f"market-{place}", **_somewhere(place)).remote(self._shared, members)
            for place, members in enumerate(self._parts)
        ]
        factual = _get([market.factual.remote() for market in self._markets])
        homes: list[tuple[Int64, Any]] = []
        for members, groups, of_log in zip(self._parts, self._groups, factual, strict=True):
            for group in groups:
                mine = members[group]
                name = f"campaigns-{int(mine[0])}"
                actor = CampaignActor.options(name=name, **_somewhere(len(homes)))
                homes.append((mine, actor.remote(self._shared, mine, factual=of_log)))
        return homes

    def _everybody(self) -> list[Any]:
        return [*super()._everybody(), *self._markets]

    def step(self, approved: Any, from_tick: int, to_tick: int) -> tuple[list[Any], list[Any]]:
        approved = approved if isinstance(approved, ray.ObjectRef) else ray.put(approved)
        actors = iter([actor for _, actor in self._homes])
        reports, records = [], []
        for market, groups in zip(self._markets, self._groups, strict=True):
            mine = [next(actors) for _ in groups]
            controls = [actor.apply.remote(approved) for actor in mine]
            advance = market.advance_apart.options(num_returns=len(groups) + 1)
            *happened, record = advance.remote(from_tick, to_tick, groups, *controls)
            records.append(record)
            reports += [actor.observe.remote(each) for actor, each in zip(mine, happened, strict=True)]
        return reports, records


def _somewhere(place: int) -> dict[str, Any]:
    """Nodes in turn; who lived on a node that is gone moves to another."""
    nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(nodes[place % len(nodes)], soft=True)}


def _get(references: Any) -> Any:
    """Wait for values; an actor's error is raised as it was there, and a lost process or object as a loss."""
    try:
        return ray.get(references)
    except RayTaskError as error:
        if isinstance(error.cause, RayError):  # what it was given is lost
            raise LostError(str(error.cause)) from None
        raise error.cause from None
    except RayError as error:
        raise LostError(str(error)) from None
