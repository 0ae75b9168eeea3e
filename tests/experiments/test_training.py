import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from agents.features import NAMES
from agents.learned import Learned, Model
from agents.rollout import play
from agents.tuned import Known, plan
from engine.errors import BadInput
from experiments import training
from experiments.config.bidding import load_bidding
from sim.bidding import BiddingTask
from tests.experiments.cli_runs import call

DEFAULT = Path(__file__).parents[2] / "configs" / "bidding_default.yaml"


def small(**parts):
    """The default task with a training of a second."""
    config = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    config["task"]["steps"] = 12
    config["task"]["price"]["shift"]["steps"] = [2, 9]
    config["task"]["traffic"]["opportunities_per_step"] = [40, 60]
    config["held_out"] = {"episodes": 30, "seeds": [101, 102]}
    imitation = {"rounds": 2, "episodes_per_round": 40, "epochs": 1, "last_epochs": 1, "batch": 128}
    config["training"]["imitation"] |= imitation
    del config["training"]["ppo"]
    config["training"] |= {"hidden": [8], "validation": {"episodes": 20, "seed": 90}} | parts
    return config


PPO = {
    "steps": 352, "environments": 16, "epochs": 1, "batches": 2, "learning_rate": 0.0003, "log_std": -2,
    "evaluate_every": 176,
}  # fmt: skip


def written(folder, config):
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def test_without_torch_the_command_says_in_one_sentence_what_to_install(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(training, "find_spec", lambda name: None if name == "torch" else object())
    told = call(capfd, "train", DEFAULT, "--out", tmp_path / "policy")
    assert told.code == 2
    assert told.err == "bidtwin: training needs torch, not installed here: pip install 'bidtwin[train]'\n"
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["training"].pop("imitation"), "training must hold imitation, ppo or both"),
        (lambda c: c["training"]["validation"].update(seed=101), r"validation.seed \(=101\) must be neither"),
        (lambda c: c["training"]["imitation"].update(target_share=0), r"target_share \(=0.0\) must be above 0"),
        (lambda c: c["training"]["imitation"].update(speed=3), "speed"),
        (lambda c: c["training"].update(ppo=PPO | {"batches": 3}), r"environments \(=16\) must be a multiple of"),
    ],
)
def test_a_training_that_cannot_be_is_refused(change, sentence):
    config = small()
    change(config)
    with pytest.raises(BadInput, match=sentence):
        load_bidding(config)


def test_a_file_without_training_is_refused():
    config = small()
    del config["training"]
    with pytest.raises(BadInput, match="training is missing"):
        training.train(config)


@cache
def trained(folder):
    pytest.importorskip("torch")
    pytest.importorskip("stable_baselines3")
    return training.train(small(ppo=PPO), folder / "policy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


def test_the_card_tells_task_training_scores_versions_and_verdict(folder):
    model = Model.load(trained(folder))
    card, config = model.card, load_bidding(small(ppo=PPO))
    assert card["features"] == list(NAMES)
    assert (card["name"], card["seed"]) == ("bidding_default", 20261124)
    assert (card["task"], card["training"]) == tuple(
        config.model_dump(mode="json")[key] for key in ("task", "training")
    )
    assert set(card["versions"]) == {"python", "bidtwin", "numpy", "numba", "torch", "stable-baselines3"}
    assert card["validation"]["chosen"] in {"imitation", "ppo"}
    assert card["verdict"]["standing"] in {"promoted", "candidate"}
    assert card["verdict"]["trials"][0]["trial"] == "default"
    for kind in ("default", "target"):
        rows = card["scores"][kind]
        assert rows["policy"]["episodes"] == rows["lp_km"]["episodes"] == 60
        assert rows["policy"]["score"][1] < rows["policy"]["score"][0] < rows["policy"]["score"][2]
        assert rows["lp_km"]["gain"] is None
        assert (rows["policy"]["over_target"] is None) == (kind == "default")


def test_the_cards_scores_are_what_the_policy_does(folder):
    model = Model.load(trained(folder))
    task = BiddingTask(steps=12, shift_steps=(2, 9), volume=(40.0, 60.0))
    found = []
    for seed in (101, 102):
        episodes = task.draw(seed, np.arange(30))
        found.extend(play(Learned(model), episodes).value / episodes.best.value)
    assert model.lp == plan(Known.of(task))
    assert model.card["scores"]["default"]["policy"]["score"][0] == pytest.approx(np.mean(found), abs=1e-5)


def test_curves_and_checkpoints_lie_beside_the_policy(folder):
    beside = trained(folder).parent
    assert {path.name for path in beside.iterdir()} == {"policy.npz", "training.json", "tensorboard", "checkpoints"}
    assert {path.name for path in (beside / "tensorboard").iterdir()} == {"imitation", "ppo"}
    assert json.loads((beside / "training.json").read_text(encoding="utf-8"))["training"]["hidden"] == [8]


def test_an_interrupted_command_goes_on_to_the_same_policy(tmp_path, capfd):
    pytest.importorskip("torch")
    path, out = written(tmp_path, small()), tmp_path / "policy"

    def interrupted(stage):
        if stage.name == "imitation" and stage.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(path, out, 5, watch=interrupted)
    assert call(capfd, "train", path, "--out", out, "--seed", 5).err.endswith("--resume to go on with its training\n")
    assert call(capfd, "train", path, "--out", out, "--seed", 6, "--resume").code == 2
    told = call(capfd, "train", path, "--out", out, "--seed", 5, "--resume")
    assert told.code == 0
    assert "of hindsight, LP-KM 0." in told.out
    assert "imitation 2 of 2" in told.err
    whole = training.train(path, tmp_path / "whole", 5)
    assert whole.read_bytes() == (out / "policy.npz").read_bytes()


def test_resuming_what_never_began_is_refused(tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(BadInput, match="holds no training to go on with"):
        training.train(small(), tmp_path / "none", resume=True)
