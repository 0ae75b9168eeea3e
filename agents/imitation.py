"""Imitation of hindsight: a network learns by how much to correct LP-KM's plan. Training only; needs torch.

At every step of an episode hindsight knows the threshold at which the money left buys the most of what is still to
come (`sim.oracle` for the rest of the horizon). The network learns its logarithm against LP-KM's plan from what LP-KM
can see. Whose steps are learned from matters: after a first round on LP-KM's own, episodes are played by the network
that was learned so far, and all rounds are kept (DAgger: Ross, Gordon and Bagnell, AISTATS 2011).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from agents.features import NAMES
from agents.learned import Layer, Learned, Model
from agents.lp import OnlineLP
from agents.rollout import Rollout
from engine.errors import BadInput
from engine.units import Float64, Int64
from sim.bidding import BiddingTask, Episodes
from sim.kernel import kernel
from sim.streams import Streams

_LEAST_SCALE = 1e-3
_ANY = 1e9  # the reach of features before any was seen


@dataclass(frozen=True)
class Imitation:
    """How imitation goes.

    Parameters
    ----------
    rounds, episodes:
        Rounds of playing and learning, and episodes played in each, split evenly between the tasks.
    hidden:
        Widths of the network's hidden layers.
    epochs, last_epochs:
        Passes over all that was seen so far, in each round and in the last.
    batch, learning_rate:
        Of Adam; the rate falls to nothing along a cosine in every round.
    huber:
        Errors of the log threshold beyond this count linearly.
    target_share:
        Where there is a target, hindsight and LP-KM aim at this share of it.
    target_quantile:
        Where there is a target, an error upwards weighs `1 − q` and one downwards `q`: below ½ for caution.
    reach:
        Labels and residuals lie in [−reach, reach].
    """

    rounds: int = 8
    episodes: int = 2000
    hidden: tuple[int, ...] = (64, 64)
    epochs: int = 4
    last_epochs: int = 12
    batch: int = 1024
    learning_rate: float = 2e-3
    huber: float = 0.3
    target_share: float = 1.0
    target_quantile: float = 0.5
    reach: float = 1.0


class Lessons(NamedTuple):
    """What is learned from: m steps of episodes."""

    observation: NDArray[np.float32]  # float32[m, features]
    label: Float64  # float64[m], log of hindsight's threshold over the plan, within the reach
    weight: Float64  # float64[m], share of the episode's traffic that the next step has, over its mean
    targeted: Float64  # float64[m], 1 where there is a target

    @classmethod
    def together(cls, parts: Sequence[Lessons]) -> Lessons:
        """All of them, in order."""
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class Round(NamedTuple):
    """What a round of imitation came to."""

    number: int
    loss: float  # mean of the last pass
    model: Model


def imitate(
    tasks: Sequence[BiddingTask],
    lp: OnlineLP,
    settings: Imitation,
    seed: int,
    after: Callable[[Round], None] = lambda _: None,
    folder: Path | None = None,
) -> Model:
    """Train a model on several tasks; the same arguments, the same weights on one machine.

    Parameters
    ----------
    tasks:
        What episodes are drawn from; one network learns them all.
    lp:
        The linear programme to correct.
    seed:
        Of episodes, weights and order.
    after:
        Told of every round.
    folder:
        Where every round is kept; rounds that are there already, from the same arguments, are not played again, and
        the weights come out the same.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    net = network(settings.hidden)
    seen = [] if folder is None else _resumed(folder, net)
    model = _model(net, _scaling(seen), lp, settings)
    for number in range(len(seen), settings.rounds):
        share = settings.episodes // len(tasks)
        places = np.arange(number * share, (number + 1) * share)
        seen.append(Lessons.together([lessons(model, task.draw(seed, places)) for task in tasks]))
        last = number == settings.rounds - 1
        loss = _learn(net, seen, settings, settings.last_epochs if last else settings.epochs)
        if folder is not None:
            _keep(folder, number, seen[-1], net)
        model = _model(net, _scaling(seen), lp, settings)
        after(Round(number, loss, model))
    return model


def untrained(tasks: Sequence[BiddingTask], lp: OnlineLP, settings: Imitation, seed: int) -> Model:
    """A model that plans as LP-KM does, in the scale of what LP-KM sees: where PPO alone begins."""
    torch.manual_seed(seed)
    net = network(settings.hidden)
    places = np.arange(settings.episodes // len(tasks))
    blank = _model(net, _scaling([]), lp, settings)
    return _model(net, _scaling([lessons(blank, task.draw(seed, places)) for task in tasks]), lp, settings)


def _keep(folder: Path, number: int, new: Lessons, net: nn.Sequential) -> None:
    """Keep a round: what was seen in it, then, in one rename, what was learned up to it."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"lessons_{number}.npz", **new._asdict())
    part = folder / "imitation.part"
    torch.save({"rounds": number + 1, "net": net.state_dict(), "random": torch.get_rng_state()}, part)
    part.replace(folder / "imitation.pt")


def _resumed(folder: Path, net: nn.Sequential) -> list[Lessons]:
    """What was seen in the rounds that are kept; the network and torch's generator are put where they were."""
    if not (folder / "imitation.pt").exists():
        return []
    kept = torch.load(folder / "imitation.pt", weights_only=True)
    net.load_state_dict(kept["net"])
    torch.set_rng_state(kept["random"])
    seen = []
    for number in range(kept["rounds"]):
        with np.load(folder / f"lessons_{number}.npz", allow_pickle=False) as file:
            seen.append(Lessons(**{name: file[name] for name in Lessons._fields}))
    return seen


def curves(folder: Path) -> SummaryWriter:
    """TensorBoard's writer."""
    return SummaryWriter(str(folder))


def network(hidden: Sequence[int]) -> nn.Sequential:
    """Linear layers with softsigns between them, whose output begins as nought: LP-KM's own plan."""
    widths = (len(NAMES), *hidden)
    parts: list[nn.Module] = []
    for before, after in pairwise(widths):
        parts += [nn.Linear(before, after), nn.Softsign()]
    last = nn.Linear(widths[-1], 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*parts, last)


def lessons(model: Model, episodes: Episodes) -> Lessons:
    """Play episodes under a model, and note at every step what hindsight would have planned."""
    policy = Learned(model)
    if episodes.target is not None:
        policy = policy.aiming_at(episodes.target)
    rollout = Rollout(episodes)
    memory = policy.start(rollout.campaigns, rollout.grid)
    teacher = _Teacher.of(episodes, model.target_share)
    traffic = np.diff(teacher.streams.start).reshape(len(episodes), episodes.steps)
    traffic = traffic / traffic.mean(axis=1, keepdims=True)
    parts: list[Lessons] = []
    while True:
        view = rollout.advance()
        if rollout.done:
            return Lessons.together(parts)
        noticed, memory = policy.notice(view, memory)
        best = teacher.threshold(rollout)
        label = np.clip(np.log(np.maximum(best, 1.0) / noticed.plan), -model.reach, model.reach)
        targeted = np.full(len(episodes), float(episodes.target is not None))
        parts.append(Lessons(noticed.observation.astype(np.float32), label, traffic[:, rollout.tick + 1], targeted))
        rollout.act(policy.bids(view, memory, noticed, model.residual(noticed.observation)))


@dataclass(frozen=True)
class _Teacher:
    """Hindsight of the rest of n episodes."""

    episodes: Episodes
    streams: Streams
    order: Int64  # of every episode's opportunities by price per value
    target: Float64  # float64[n], micros per unit of value; infinite: none

    @classmethod
    def of(cls, episodes: Episodes, target_share: float) -> _Teacher:
        n, streams = len(episodes), episodes.streams
        if not isinstance(streams, Streams):
            raise BadInput("episodes must hold their opportunities one by one: imitation buys them in order of price")
        order = np.empty(len(streams.value), dtype=np.int64)
        _order(streams, episodes.steps, n, order)
        target = np.full(n, np.inf) if episodes.target is None else target_share * episodes.target
        return cls(episodes, streams, order, target)

    def threshold(self, rollout: Rollout) -> Float64:
        """The price per value up to which the rest is best bought after a rollout's last step; float64[n], micros."""
        found = np.empty(len(self.episodes))
        left = (self.episodes.budget - rollout.charged).astype(np.float64)
        spent, got = rollout.charged.astype(np.float64), np.asarray(rollout.value_ppm * 1e-6, dtype=np.float64)
        steps, step = self.episodes.steps, rollout.tick + 1
        _remaining(self.streams, steps, self.order, step, left, self.target, spent, got, found)
        return found


@kernel
def _order(streams: Streams, steps: int, episodes: int, order: Int64) -> None:
    for e in range(episodes):
        first, end = streams.start[e * steps], streams.start[(e + 1) * steps]
        order[first:end] = np.argsort(streams.price[first:end] / streams.value[first:end])


@kernel
def _remaining(
    streams: Streams, steps: int, order: Int64, step: int, left: Float64, target: Float64, spent: Float64,
    got: Float64, found: Float64,
) -> None:  # fmt: skip
    """As `sim.oracle` buys, of what comes from a step on, with what was spent and got before it."""
    for e in range(left.size):
        first, end = streams.start[e * steps], streams.start[(e + 1) * steps]
        begins = streams.start[e * steps + step] - first
        cost, value, threshold = 0.0, got[e], 0.0
        for j in range(first, end):
            if order[j] < begins:
                continue
            k = first + order[j]
            price = streams.price[k]
            threshold = price / streams.value[k]
            part = (left[e] - cost) / price
            above = price - target[e] * streams.value[k]
            if above > 0:
                part = min(part, (target[e] * value - spent[e] - cost) / above)
            if part < 1:
                break
            cost += price
            value += streams.value[k]
        found[e] = threshold


class _Scaling(NamedTuple):
    """How observations are brought to one scale, and how far they reach; each float64[features]."""

    mean: Float64
    scale: Float64
    low: Float64
    high: Float64


def _scaling(seen: Sequence[Lessons]) -> _Scaling:
    """The first round's scale, which the weights were learned in, and the reach of all rounds."""
    wide = len(NAMES)
    if not seen:
        return _Scaling(np.zeros(wide), np.ones(wide), np.full(wide, -_ANY), np.full(wide, _ANY))
    first = seen[0].observation.astype(np.float64)
    low = np.min([part.observation.min(axis=0) for part in seen], axis=0)
    high = np.max([part.observation.max(axis=0) for part in seen], axis=0)
    scale = first.std(axis=0) + _LEAST_SCALE
    return _Scaling(first.mean(axis=0), scale, low.astype(np.float64), high.astype(np.float64))


def _learn(net: nn.Sequential, seen: Sequence[Lessons], settings: Imitation, epochs: int) -> float:
    """Passes over lessons; the mean loss of the last."""
    known, (mean, scale, *_) = Lessons.together(seen), _scaling(seen)
    observation = torch.as_tensor((known.observation - mean) / scale, dtype=torch.float32)
    label, weight, targeted = (torch.as_tensor(column, dtype=torch.float32) for column in known[1:])
    optimiser = torch.optim.Adam(net.parameters(), lr=settings.learning_rate)
    batches = -(-len(label) // settings.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for rows in torch.split(torch.randperm(len(label)), settings.batch):
            error = net(observation[rows])[:, 0] - label[rows]
            loss = _loss(error, targeted[rows], settings).mul(weight[rows]).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) / batches
    return total


def _loss(error: torch.Tensor, targeted: torch.Tensor, settings: Imitation) -> torch.Tensor:
    """Huber's, tilted where there is a target."""
    huber = nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=settings.huber)
    upwards = torch.where(error > 0, 1 - settings.target_quantile, settings.target_quantile) * 2
    return huber * torch.where(targeted > 0, upwards, torch.ones_like(upwards))


def _model(net: nn.Sequential, scaling: _Scaling, lp: OnlineLP, settings: Imitation) -> Model:
    layers = tuple(
        Layer(part.weight.detach().numpy().T.astype(np.float64), part.bias.detach().numpy().astype(np.float64))
        for part in net
        if isinstance(part, nn.Linear)
    )
    return Model(layers, *scaling, lp=lp, reach=settings.reach, target_share=settings.target_share)
