"""Imitation alone, PPO alone, and PPO from imitation's weights: scores on held-out episodes and learning curves.

python -m experiments.studies.ppo_part.run [--seeds 1,2,3] [--out DIR] [--json]
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.progress import track

from agents.learned import Model
from engine.errors import BadInput
from experiments.config.bidding import BiddingConfig, load_bidding
from experiments.training import PPO, Stage, check_installed, imitated, improved, scores

CONFIG = Path(__file__).with_name("config.yaml")
SEEDS = (1, 2, 3)
ARMS = ("imitation", "ppo_alone", "both")
_KINDS = ("default", "target")


def study(source: Path | Mapping[str, Any] = CONFIG, seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Train every arm under every seed.

    Returns
    -------
    `rows`, one for every arm and seed: gains over LP-KM in points with their 95 % intervals on the task without a
    target and with one, share of episodes over the target, and seconds of training; `curves`, for both arms with PPO
    and every seed: [decisions played, score on the validation episodes].
    """
    check_installed()
    rows, curves = [], []
    for seed in track(seeds, "seeds", transient=True):
        config = load_bidding({**load_bidding(source).model_dump(mode="json"), "seed": seed})
        for arm, model, curve, seconds in _arms(config):
            rows.append({"arm": arm, "seed": seed, "seconds": round(seconds)} | _gains(model, config))
            if curve:
                curves.append({"arm": arm, "seed": seed, "curve": curve})
    return {"rows": rows, "curves": curves}


def _arms(config: BiddingConfig) -> Iterator[tuple[str, Model, list[tuple[int, float]], float]]:
    """Each arm's model, its learning curve and how long it took."""
    training = config.training
    assert training is not None
    with TemporaryDirectory() as folder:
        began = time.perf_counter()
        imitation = imitated(config, training, Path(folder) / "imitation", lambda _: None)
        took = time.perf_counter() - began
        yield "imitation", imitation, [], took
        starts: tuple[tuple[str, Model | None, float], ...] = (("ppo_alone", None, 0.0), ("both", imitation, took))
        for arm, start, before in starts:
            curve: list[tuple[int, float]] = []

            def watch(stage: Stage, curve: list[tuple[int, float]] = curve) -> None:
                if stage.name == PPO and stage.score is not None:
                    curve.append((stage.done, round(stage.score, 5)))

            began = time.perf_counter()
            model = improved(start, config, training, Path(folder) / arm, watch)
            yield arm, model, curve, before + time.perf_counter() - began


def _gains(model: Model, config: BiddingConfig) -> dict[str, Any]:
    """What a model gains over LP-KM on the held-out episodes, in points."""
    found = scores(model, config)
    gains = {kind: [round(100 * number, 3) for number in found[kind]["policy"]["gain"]] for kind in _KINDS}
    score = {f"{kind}_score": found[kind]["policy"]["score"][0] for kind in _KINDS}
    return gains | score | {"over_target": found["target"]["policy"]["over_target"]}


def table(found: Mapping[str, Any]) -> str:
    """The rows, the arms' means over the seeds, and the curves, as text."""
    lines = ["arm        seed  default   gain over LP-KM         target    gain over LP-KM         over   seconds"]
    for arm in ARMS:
        rows = [row for row in found["rows"] if row["arm"] == arm]
        lines += [_line(row) for row in rows]
        means = [sum(row[kind][0] for row in rows) / len(rows) for kind in _KINDS]
        lines.append(f"{arm:10} mean  gain {means[0]:+.3f} points, with a target {means[1]:+.3f}")
    lines += ["", "Score on the validation episodes (mean of both tasks) by decisions played, thousands"]
    for each in found["curves"]:
        points = "  ".join(f"{steps / 1_000:.0f}: {score:.4f}" for steps, score in each["curve"])
        lines.append(f"{each['arm']:10} {each['seed']:4}  {points}")
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    cells = []
    for kind in _KINDS:
        mean, low, high = row[kind]
        cells.append(f"{row[f'{kind}_score']:.4f}  {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    return f"{row['arm']:10} {row['seed']:4}  {'  '.join(cells)}  {row['over_target']:.1%}  {row['seconds']:6}"


def _whole(seeds: str) -> list[int]:
    parts = seeds.split(",")
    if not all(part.isdecimal() for part in parts):
        raise BadInput(f"seeds (={seeds!r}) must be whole numbers with commas between them: write 1,2,3")
    return [int(part) for part in parts]


def main(
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between them.")] = "1,2,3",
    out: Annotated[Path | None, typer.Option(help="Write found.json into this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")] = False,  # noqa: FBT002
) -> None:
    """Compare imitation alone, PPO alone and both, over several seeds."""
    try:
        found = study(seeds=_whole(seeds))
    except BadInput as error:
        typer.echo(f"ppo_part: {error}", err=True)
        raise typer.Exit(2) from None
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "found.json").write_text(json.dumps(found, indent=1, allow_nan=False), encoding="utf-8")
    typer.echo(json.dumps(found, indent=1, allow_nan=False) if as_json else table(found))


if __name__ == "__main__":
    typer.run(main)
