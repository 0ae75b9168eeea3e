"""A learned policy: a small network that corrects LP-KM's plan, read from one file and run without torch.

The wanted bid is plan · exp(r): the plan is the bid that the linear programme wants (`agents.lp`), r in [−1, 1] is what
the network makes of the observation (`agents.features`); r = 0 is LP-KM itself. The network is evaluated in chunks of
one size and r rounded to a grid, so that a campaign's bid does not depend on what it is grouped with.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.features import NAMES, Course, Observer
from agents.horizon import Curve
from agents.landscape import Prior
from agents.lp import OnlineLP, corrected, on_grid
from engine.actions import Note, Proposals
from engine.campaigns import CampaignSet
from engine.errors import BadInput
from engine.events import OPPORTUNITIES
from engine.policy import View
from engine.units import Bool, Float64, TickGrid

SCHEMA_VERSION = 1
CHUNK = 128
"""Campaigns that go through the network together."""
NOTE = "learned"
FALLBACK_NOTE = "lp_km: observation out of range"
SHIPPED = Path(__file__).parent / "policies" / "default.npz"
"""The policy that comes with the package."""
_RETRAIN = "train it anew with 'bidtwin train'"
_LP_SETTINGS = ("half_life_hours", "expected_opportunities", "expected_weight", "band")


class Layer(NamedTuple):
    """One layer: inputs float64[rows, columns] times `weights` float64[columns, outputs], plus `bias`."""

    weights: Float64
    bias: Float64


@dataclass(frozen=True)
class Model:
    """A trained network and all that is needed to serve it.

    Parameters
    ----------
    layers:
        At least two; softsign x / (1 + |x|) between them, one output, none after it.
    mean, scale:
        float64[features]; the network sees (observation − mean) / scale.
    low, high:
        float64[features], the least and greatest of every feature in training.
    margin:
        An observation further outside [low, high] than this share of their distance is out of range; nearer ones are
        moved to the nearer end.
    lp:
        The linear programme it corrects, with its band; without a target.
    reach:
        Residuals lie in [−reach, reach].
    target_share:
        It aims at this share of a target, so that chance takes few campaigns above it.
    card:
        What is told of it: task, training, versions, scores, the gate's verdict (JSON values).
    features, schema_version:
        What it looks at, and the form of its file.

    Raises
    ------
    BadInput
        For a form or features other than this version's, shapes that do not fit, and numbers that are not finite.
    """

    layers: tuple[Layer, ...]
    mean: Float64
    scale: Float64
    low: Float64
    high: Float64
    lp: OnlineLP
    margin: float = 0.5
    reach: float = 1.0
    target_share: float = 1.0
    card: Mapping[str, Any] | None = None
    features: tuple[str, ...] = NAMES
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise BadInput(
                f"schema_version (={self.schema_version}) of a learned policy must be {SCHEMA_VERSION}: {_RETRAIN}"
            )
        if self.features != NAMES:
            raise BadInput(f"features {_difference(self.features)}: {_RETRAIN}")
        self._check_shapes()
        for name, column in self.columns().items():
            if not np.isfinite(column).all():
                raise BadInput(f"{name} of a learned policy must be finite numbers and holds NaN or inf: {_RETRAIN}")
        if not (self.scale > 0).all():
            raise BadInput(f"scale (={self.scale.min()}) of a learned policy must be > 0: {_RETRAIN}")
        for name, most in (("margin", math.inf), ("reach", 10.0), ("target_share", 1.0)):
            value = getattr(self, name)
            if not 0 < value <= most:
                raise BadInput(f"{name} (={value}) of a learned policy must be in (0, {most:g}]: {_RETRAIN}")

    def _check_shapes(self) -> None:
        wide = len(NAMES)
        for name in ("mean", "scale", "low", "high"):
            if getattr(self, name).shape != (wide,):
                raise BadInput(f"{name} of a learned policy must have {wide} numbers, one a feature: {_RETRAIN}")
        if len(self.layers) < 2:
            raise BadInput(f"a learned policy (={len(self.layers)} layers) must have at least two: {_RETRAIN}")
        for place, layer in enumerate(self.layers):
            outputs = 1 if place == len(self.layers) - 1 else len(layer.bias)
            if layer.weights.shape != (wide, outputs) or layer.bias.shape != (outputs,):
                raise BadInput(
                    f"layer {place} (={'×'.join(map(str, layer.weights.shape))}) of a learned policy must be "
                    f"{wide}×{outputs}: {_RETRAIN}"
                )
            wide = outputs

    def columns(self) -> dict[str, Float64]:
        """All its arrays by name, as its file holds them."""
        named = {name: getattr(self, name) for name in ("mean", "scale", "low", "high")}
        for place, layer in enumerate(self.layers):
            named |= {f"weights_{place}": layer.weights, f"bias_{place}": layer.bias}
        return named

    def fits(self, observation: Float64) -> Bool:
        """Whether an observation (float64[n, features]) is near enough to those of training; bool[n]."""
        slack = self.margin * (self.high - self.low)
        inside = (observation >= self.low - slack) & (observation <= self.high + slack)
        return np.asarray(inside.all(axis=1), dtype=np.bool_)

    def residual(self, observation: Float64) -> Float64:
        """What the network makes of finite observations, float64[n, features], on its grid; float64[n]."""
        values = (np.clip(observation, self.low, self.high) - self.mean) / self.scale
        return on_grid(np.clip(_through(self.layers, values), -self.reach, self.reach))

    def save(self, path: Path) -> None:
        """Write it to one `.npz` file; the same model, the same bytes."""
        if not isinstance(self.lp.curve, Curve):
            raise BadInput(
                f"curve (={len(self.lp.curve)} of them) of a learned policy must be one to be saved: give one"
            )
        settings = {name: getattr(self.lp, name) for name in _LP_SETTINGS}
        told = {
            "schema_version": self.schema_version,
            "features": self.features,
            "margin": self.margin,
            "reach": self.reach,
            "target_share": self.target_share,
            "lp": settings | {"prior": asdict(self.lp.prior), "curve": asdict(self.lp.curve)},
            "card": self.card,
        }
        arrays: dict[str, NDArray[Any]] = {"model": np.array(json.dumps(told, allow_nan=False))}
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:  # numpy's own would write the time of day
            for name, array in (arrays | self.columns()).items():
                held = io.BytesIO()
                np.lib.format.write_array(held, np.asarray(array, order="C"), allow_pickle=False)
                file.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), held.getvalue())

    @classmethod
    def load(cls, path: Path) -> Model:
        """Read it from its file.

        Raises
        ------
        BadInput
            Where there is none, where it cannot be read, and for what `Model` refuses.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                held = {name: file[name] for name in file.files}
            told = json.loads(str(held.pop("model")[()]))
            version = told["schema_version"]
        except FileNotFoundError:
            raise BadInput(f"{path} does not exist: give the policy.npz of a training") from None
        except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile):
            raise BadInput(f"{path} is not a learned policy's file: give the policy.npz of a training") from None
        try:
            return _model(told, held) if version == SCHEMA_VERSION else _unknown(version)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"{path} lacks or garbles {error}: {_RETRAIN}") from None


def _unknown(version: Any) -> Model:
    raise BadInput(f"schema_version (={version!r}) of a learned policy must be {SCHEMA_VERSION}: {_RETRAIN}")


def _model(told: Mapping[str, Any], held: Mapping[str, NDArray[Any]]) -> Model:
    """Build a model from its file's text and arrays."""
    lp = told["lp"]
    curve = lp["curve"] | {name: tuple(lp["curve"][name]) for name in ("levels", "week")}
    programme = OnlineLP(
        curve=Curve(**curve),
        prior=Prior(**lp["prior"]),
        band=(lp["band"][0], lp["band"][1]),
        **{name: lp[name] for name in _LP_SETTINGS[:-1]},
    )
    arrays = {name: np.asarray(array, dtype=np.float64) for name, array in held.items()}
    count = sum(name.startswith("weights_") for name in arrays)
    return Model(
        layers=tuple(Layer(arrays[f"weights_{place}"], arrays[f"bias_{place}"]) for place in range(count)),
        mean=arrays["mean"],
        scale=arrays["scale"],
        low=arrays["low"],
        high=arrays["high"],
        lp=programme,
        margin=told["margin"],
        reach=told["reach"],
        target_share=told["target_share"],
        card=told["card"],
        features=tuple(told["features"]),
    )


def _difference(features: tuple[str, ...]) -> str:
    for place, (one, other) in enumerate(zip(features, NAMES, strict=False)):
        if one != other:
            return f"(={one!r} at place {place}) of a learned policy must be {other!r} there"
    return f"(={len(features)} of them) of a learned policy must be the {len(NAMES)} of this version"


def _through(layers: tuple[Layer, ...], values: Float64) -> Float64:
    """The network's outputs, in chunks of one size whatever n is: the last digits of a product depend on its shape."""
    padded = np.zeros((-(-len(values) // CHUNK) * CHUNK, values.shape[1]))
    padded[: len(values)] = values
    outputs = np.empty(len(padded))
    for begin in range(0, len(padded), CHUNK):
        chunk = padded[begin : begin + CHUNK]
        for layer in layers[:-1]:
            chunk = chunk @ layer.weights
            chunk += layer.bias
            chunk /= 1 + np.abs(chunk)
        outputs[begin : begin + CHUNK] = (chunk @ layers[-1].weights + layers[-1].bias)[:, 0]
    return outputs[: len(values)]


class Noticed(NamedTuple):
    """What a view told n campaigns."""

    observation: Float64  # float64[n, features]
    plan: Float64  # float64[n], the bid that the linear programme wants, micros
    fits: Bool  # bool[n], whether the network knows the like


@dataclass(frozen=True)
class Learned:
    """Bids what a trained network makes of LP-KM's plan, and LP-KM's plan itself where it has never seen the like.

    Proposals say which of the two they are: their note is `NOTE` or `FALLBACK_NOTE`.

    Parameters
    ----------
    model:
        The network, from `Model.load` or `shipped`.
    lp:
        The linear programme, where it is not the model's own: another curve, band or expectation.

    Example
    -------
    >>> policy = Learned(shipped())
    """

    model: Model
    lp: OnlineLP | None = None

    looks_at_prices = True

    def aiming_at(self, target: Float64) -> Learned:
        """The same with a target of its own for every campaign; float64[n], micros per unit of value, inf: none."""
        return replace(self, lp=self.programme.aiming_at(self.model.target_share * target))

    @property
    def programme(self) -> OnlineLP:
        """The linear programme that is corrected."""
        return self.model.lp if self.lp is None else self.lp

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Course:
        """Before the first view."""
        return Observer(self.programme).start(campaigns, grid)

    def propose(self, view: View, memory: Course) -> tuple[Proposals, Course]:
        """One bid per campaign that saw traffic, unless it would stay as it is."""
        noticed, memory = self.notice(view, memory)
        residual = np.zeros(len(noticed.plan))
        known = np.flatnonzero(noticed.fits)
        residual[known] = self.model.residual(noticed.observation[known])
        return self.bids(view, memory, noticed, residual), memory

    def notice(self, view: View, memory: Course) -> tuple[Noticed, Course]:
        """What a view tells, and what to remember of it."""
        observation, plan, memory = Observer(self.programme).observe(view, memory)
        fits = self.model.fits(observation) & (view.lifetime[:, OPPORTUNITIES] > 0) & np.isfinite(plan)
        return Noticed(observation, plan, fits), memory

    def bids(self, view: View, memory: Course, noticed: Noticed, residual: Float64) -> Proposals:
        """Proposals towards plan · exp(residual), as near as one step, band and bounds let each get."""
        wanted = corrected(noticed.plan, residual)
        rows = self.programme.bids(view, memory.knowledge, wanted, NOTE)
        strange = ~noticed.fits[rows.campaign]
        if not strange.any():
            return rows
        notes = (*rows.notes, Note(rows.notes[0].proposer, FALLBACK_NOTE))
        return replace(rows, note=np.where(strange, 1, 0).astype(np.int32), notes=notes)


@cache
def shipped() -> Model:
    """The policy that comes with the package, trained by `bidtwin train configs/bidding_default.yaml`."""
    return Model.load(SHIPPED)
