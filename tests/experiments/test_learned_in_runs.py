"""A learned policy in a run: which file bids, how a run tells of it, and what bids where the file does not know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.features import NAMES
from agents.learned import FALLBACK_NOTE, NOTE, SHIPPED, Model, shipped
from engine.errors import BadInput
from engine.runtime.local import LocalRunner, Progress
from experiments import api
from experiments.api import Run
from experiments.config import SimulationConfig, load_config
from experiments.report.figures import read
from tests.experiments.cli_runs import call
from tests.experiments.test_same_bids import STEPS, bids_of, configuration


def naming(model: object, **more: Any) -> dict[str, Any]:
    """The configuration of a run in which this file bids."""
    document = configuration("learned")
    document["policies"][0] |= {"model": str(model)} | more
    return document


def written(document: dict[str, Any], path: Path) -> Path:
    path.write_text(json.dumps(document, default=str), encoding="utf-8")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def simulated(document: dict[str, Any], folder: Path) -> Run:
    return api.simulate(document, out=folder, runner=LocalRunner())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """LP-KM's run."""
    return simulated(configuration("lp_km"), tmp_path_factory.mktemp("plain") / "run")


# --- out of range ---


def test_where_it_has_never_seen_the_like_lp_km_bids_and_the_ledger_says_so(plain: Run, tmp_path: Path) -> None:
    """A model whose bounds are a hair's breadth apart: to it every observation is out of range."""
    model = shipped()
    hair = 1e-6 * model.scale
    replace(model, low=model.mean - hair, high=model.mean + hair).save(tmp_path / "narrow.npz")
    run = simulated(naming(tmp_path / "narrow.npz"), tmp_path / "run")
    assert set(run.actions.note) == {FALLBACK_NOTE}
    assert set(plain.actions.note) == {"lp_km"}
    assert len(run.actions) == len(plain.actions) > STEPS
    np.testing.assert_array_equal(bids_of(run), bids_of(plain))
    assert run.digests["metrics"] == plain.digests["metrics"]
    found = api.audit(run.folder)
    assert (found["valid"], found["first_bad"], found["applied"]) == (True, None, run.info["actions"]["applied"])


def test_within_its_bounds_it_bids_by_itself_and_outside_lp_km_does(plain: Run, tmp_path: Path) -> None:
    """A model that has seen the end of days alone: as long as more than half of the traffic is left, LP-KM bids."""
    model = shipped()
    high = model.high.copy()
    high[NAMES.index("traffic_left")] = 0.5
    replace(model, high=high, margin=1e-9).save(tmp_path / "late.npz")
    run = simulated(naming(tmp_path / "late.npz"), tmp_path / "run")
    outside = run.actions[run.actions.note == FALLBACK_NOTE]
    inside = run.actions[run.actions.note == NOTE]
    assert len(outside) + len(inside) == len(run.actions)
    first = int(inside.tick.min())
    assert 20 < first < STEPS - 8
    assert int(outside.tick.max()) < first
    np.testing.assert_array_equal(bids_of(run)[: first + 1], bids_of(plain)[: first + 1])
    assert not np.array_equal(bids_of(run), bids_of(plain))
    assert api.audit(run.folder)["valid"]


# --- which file ---


def test_a_path_is_relative_to_the_configuration_and_the_run_tells_the_files_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    model = tmp_path / "policies" / "mine.npz"
    shipped().save(model)
    config = written(naming("policies/mine.npz"), tmp_path / "run.yaml")
    run = api.simulate(config, out=tmp_path / "run", runner=LocalRunner())
    told = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["config"]["policies"][0]
    assert (told["model"], told["fingerprint"]) == (str(model), sha256(model))
    assert simulated(configuration("learned"), tmp_path / "shipped").digests["metrics"] == run.digests["metrics"]


def test_the_ledger_does_not_depend_on_where_the_file_lies(tmp_path: Path) -> None:
    runs = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        shipped().save(tmp_path / name / f"{name}.npz")
        runs.append(simulated(naming(tmp_path / name / f"{name}.npz"), tmp_path / name / "run"))
    assert runs[0].digests == runs[1].digests


def test_without_a_path_it_is_the_shipped_one() -> None:
    config = load_config(configuration("learned"))
    assert isinstance(config, SimulationConfig)
    assert config.policies[0].model_dump(include={"model", "fingerprint"}) == {
        "model": None,
        "fingerprint": sha256(SHIPPED),
    }


def _other(path: Path) -> None:
    replace(shipped(), target_share=0.9).save(path)


def stopped(document: dict[str, Any], folder: Path) -> Path:
    """A run's folder, interrupted on its way."""

    def watch(now: Progress) -> None:
        if now.tick > STEPS // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.simulate(document, out=folder, runner=LocalRunner(checkpoint_every=8), watch=watch)
    return folder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_other, "is not that of mine.npz (={now}…): give the file that was meant"),
        (Path.unlink, "must be the policy.npz of a training, and mine.npz cannot be read: correct the path"),
    ],
    ids=["changed", "gone"],
)
def test_a_run_goes_on_with_its_own_file_alone_and_is_read_without_it(
    tmp_path: Path, change: Callable[[Path], None], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "mine.npz"
    shipped().save(model)
    kept, was = model.read_bytes(), sha256(model)
    whole = simulated(naming(model), tmp_path / "whole")
    folder = stopped(naming(model), tmp_path / "run")
    change(model)
    now = sha256(model)[:12] if model.exists() else ""
    told = call(capfd, "simulate", "--resume", folder, "--local", "--quiet")
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("bidtwin: configuration: policies[0].")
    assert told.err.endswith(f" {sentence.format(now=now)}\n")
    assert told.err.count("\n") == 1
    assert len(whole.summary) == 2  # what is finished is read, whatever became of the file
    assert read(whole).config.policies[0].model_dump()["fingerprint"] == was
    model.write_bytes(kept)
    assert api.resume(folder, runner=LocalRunner()).digests == whole.digests


def test_a_configuration_with_another_files_fingerprint_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "mine.npz"
    shipped().save(model)
    assert load_config(naming(model, fingerprint=sha256(model))).policies
    with pytest.raises(BadInput, match=r"^configuration: policies\[0\]\.fingerprint .* is not that of mine\.npz \(="):
        load_config(naming(model, fingerprint="0" * 64))


@pytest.mark.parametrize(
    ("card", "standing"), [({"verdict": {"standing": "candidate"}}, "candidate"), (None, "unjudged")]
)
def test_what_the_gate_did_not_promote_does_not_bid(tmp_path: Path, card: Any, standing: str) -> None:
    model = tmp_path / "mine.npz"
    replace(shipped(), card=card).save(model)
    with pytest.raises(
        BadInput, match=rf"mine\.npz \(={standing}\) must be promoted by the gate before it bids in a run"
    ):
        api.simulate(naming(model), out=tmp_path / "run")


def test_a_file_that_is_none_or_no_policy_is_refused_in_one_sentence_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.npz").write_text("no policy", encoding="utf-8")
    np.savez(tmp_path / "numbers.npz", a=np.zeros(2))
    no_policy = "is not a learned policy's file: give the policy.npz of a training"
    for name, sentence in {
        "none.npz": "policies[0].model (='none.npz') must be the policy.npz of a training, and none.npz cannot be read",
        "text.npz": f"{tmp_path / 'text.npz'} {no_policy}",
        "numbers.npz": f"{tmp_path / 'numbers.npz'} {no_policy}",
    }.items():
        config = written(naming(name), tmp_path / "run.yaml")
        told = call(capfd, "simulate", config, "--local", "--quiet", "--out", tmp_path / "run")
        assert (told.code, told.out) == (2, "")
        assert sentence in told.err
        assert told.err.count("\n") == 1
        assert not (tmp_path / "run").exists()
    with pytest.raises(BadInput, match=no_policy):
        Model.load(tmp_path / "text.npz")
