"""The files of learned policies that a configuration names: found, and told by their fingerprint."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agents.learned import SHIPPED
from experiments.config.models import RunConfig
from experiments.config.problems import Problem
from experiments.config.steering import LearnedPolicy, PolicySpec


def with_fingerprints(config: RunConfig, folder: Path) -> tuple[RunConfig, list[Problem]]:
    """The configuration with every learned policy's path made absolute and its file's fingerprint, and what is wrong.

    A fingerprint that is given already, as in a run's own folder, has to be the file's.
    """
    found: list[PolicySpec] = []
    wrong: list[Problem] = []
    for place, policy in enumerate(config.policies):
        if not isinstance(policy, LearnedPolicy):
            found.append(policy)
            continue
        path = SHIPPED if policy.model is None else (folder / policy.model).absolute()
        try:
            fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            rule = f"must be the policy.npz of a training, and {path.name} cannot be read: correct the path"
            wrong.append(Problem(("policies", place, "model"), rule, policy.model))
            continue
        if policy.fingerprint not in {None, fingerprint}:
            rule = f"is not that of {path.name} (={fingerprint[:12]}…): give the file that was meant"
            wrong.append(Problem(("policies", place, "fingerprint"), rule, policy.fingerprint))
        told = {"fingerprint": fingerprint, "model": None if policy.model is None else str(path)}
        found.append(policy.model_copy(update=told))
    return (config.model_copy(update={"policies": tuple(found)}) if found else config), wrong
