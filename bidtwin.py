"""Bidtwin for notebooks: paths, mappings and DataFrames in, runs with `.metrics`, `.actions` and `.summary` out.

>>> import bidtwin
>>> run = bidtwin.simulate("configs/quickstart.yaml")  # doctest: +SKIP
>>> run.summary  # doctest: +SKIP
>>> envs = gymnasium.make_vec("bidtwin/Bidding-v0", num_envs=8)  # doctest: +SKIP
"""

from agents.registration import register
from experiments.api import Run, audit, open_run, replay, resume, simulate, story

__all__ = ["Run", "audit", "open_run", "replay", "resume", "simulate", "story"]

register()
