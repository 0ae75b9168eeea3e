"""The gallery of scenarios: runs them, draws what there is to see, and tells their totals.

`python -m experiments.gallery` makes the pictures of `docs/scenarios.md` again, and prints its table.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from experiments import api
from experiments.config import SimulationConfig
from experiments.gallery.scenes import SCENES, Told
from experiments.runs import Run

HEADINGS = ("scenario", "seed", "auctions", "impressions", "clicks", "conversions", "spend", "revenue", "refunds")


def paint(name: str, configs: Path, pictures: Path) -> tuple[str, ...]:
    """Run a scenario and draw it into `pictures/NAME.svg`; returns the row of its totals, as the headings name them."""
    config = api.load(configs / f"{name}.yaml")
    assert isinstance(config, SimulationConfig)
    scene = SCENES[name]
    with TemporaryDirectory() as folder:
        run = api.simulate(config, out=Path(folder) / "run")
        without = None
        if scene.untroubled:
            quiet = config.model_copy(update={"troubles": ()})
            without = Told(api.simulate(quiet, out=Path(folder) / "without"))
        (pictures / f"{name}.svg").write_text(scene.draw(Told(run), without).svg(), encoding="utf-8")
        return _row(run, config)


def _row(run: Run, config: SimulationConfig) -> tuple[str, ...]:
    totals = {name: total or 0 for name, total in run.totals.items()}
    counts = (f"{totals[name]:,}" for name in HEADINGS[2:6])
    money = (f"{totals[f'{name}_micros'] / 1e6:,.2f} {config.account.currency}" for name in HEADINGS[6:])
    return (config.name, str(config.seed), *counts, *money)
