"""Bidtwin for notebooks: paths, mappings and DataFrames in, runs with `.metrics`, `.actions` and `.summary` out.

>>> import bidtwin
>>> run = bidtwin.simulate("configs/quickstart.yaml")  # doctest: +SKIP
>>> run.summary  # doctest: +SKIP
"""

from experiments.api import Run, audit, open_run, replay, resume, simulate, story

__all__ = ["Run", "audit", "open_run", "replay", "resume", "simulate", "story"]
