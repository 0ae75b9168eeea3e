import pytest

from experiments.config.bidding import load_bidding
from experiments.studies.ppo_part.run import ARMS, CONFIG, study, table
from tests.experiments.test_training import PPO, small

pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")


def test_the_study_trains_every_arm_and_tells_its_curves():
    found = study(small(ppo=PPO), seeds=[1])
    assert [row["arm"] for row in found["rows"]] == list(ARMS)
    for row in found["rows"]:
        for kind in ("default", "target"):
            mean, low, high = row[kind]
            assert low <= mean <= high  # where PPO alone finds nothing better it stays LP-KM
    assert [each["arm"] for each in found["curves"]] == ["ppo_alone", "both"]
    assert all([steps for steps, _ in each["curve"]] == [0, 176, 352] for each in found["curves"])
    assert "both" in table(found)


def test_its_task_is_the_default_one():
    config, default = load_bidding(CONFIG), load_bidding(small())
    assert config.task.price.drift == default.task.price.drift
    assert config.training is not None
    assert config.training.ppo is not None
