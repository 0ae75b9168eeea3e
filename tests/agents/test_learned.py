import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from agents.features import NAMES
from agents.learned import FALLBACK_NOTE, NOTE, Layer, Learned, Model, shipped
from agents.lp import GRID, OnlineLP
from agents.rollout import Rollout, play
from agents.tuned import Known, plan
from engine.errors import BadInput
from engine.events import BIDS, COUNTS, IMPRESSIONS, OPPORTUNITIES, SPEND
from engine.prices import Prices
from sim.bidding import BiddingTask

TASK = BiddingTask(steps=12, shift_steps=(3, 9), volume=(40.0, 80.0))
TARGETED = replace(TASK, target_range=(-0.45, 0.25), target_share=0.5)
WIDE = len(NAMES)


def some_model(**changes):
    generator = np.random.default_rng(5)
    hidden = 7
    given = {
        "layers": (
            Layer(generator.normal(size=(WIDE, hidden)), generator.normal(size=hidden)),
            Layer(generator.normal(size=(hidden, 1)) * 0.2, np.zeros(1)),
        ),
        "mean": np.zeros(WIDE),
        "scale": np.ones(WIDE),
        "low": np.full(WIDE, -5.0),
        "high": np.full(WIDE, 5.0),
        "lp": OnlineLP(band=(0.1, 10.0), expected_opportunities=720.0),
    }
    return Model(**(given | changes))


@cache
def played():
    return play(Learned(some_model()), TARGETED.draw(11, np.arange(300)))


def test_a_file_gives_the_model_back_and_the_same_model_the_same_bytes(tmp_path):
    model = some_model(card={"name": "α", "scores": [1.5, None]}, target_share=0.99)
    model.save(tmp_path / "one.npz")
    back = Model.load(tmp_path / "one.npz")
    back.save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert (back.lp, back.card, back.features, back.target_share) == (model.lp, model.card, NAMES, 0.99)
    for name, column in model.columns().items():
        np.testing.assert_array_equal(back.columns()[name], column)


def with_nan(place):
    weights = np.zeros((WIDE, 2))
    weights[place, 1] = np.nan
    return Layer(weights, np.zeros(2)), Layer(np.zeros((2, 1)), np.zeros(1))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schema_version": 2}, r"schema_version \(=2\) .* must be 1"),
        ({"features": ("pace", *NAMES[1:])}, r"features \(='pace' at place 0\) .* must be 'traffic_left' there"),
        ({"features": NAMES[:-1]}, r"features \(=22 of them\) .* must be the 23 of this version"),
        ({"layers": with_nan(3)}, "weights_0 .* must be finite numbers and holds NaN or inf"),
        ({"mean": np.full(WIDE, np.inf)}, "mean .* must be finite numbers"),
        ({"layers": (Layer(np.zeros((WIDE, 2)), np.zeros(3)), Layer(np.zeros((3, 1)), np.zeros(1)))}, "layer 0"),
        ({"layers": (Layer(np.zeros((WIDE, 1)), np.zeros(1)),)}, "must have at least two"),
        ({"low": np.zeros(3)}, "low .* must have 23 numbers"),
        ({"scale": np.zeros(WIDE)}, r"scale \(=0.0\) .* must be > 0"),
        ({"target_share": 1.5}, r"target_share \(=1.5\) .* must be in \(0, 1\]"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_sentence(changes, sentence):
    with pytest.raises(BadInput, match=sentence) as refused:
        some_model(**changes)
    assert "bidtwin train" in str(refused.value)
    assert "\n" not in str(refused.value)


def rewritten(path, change):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    told = json.loads(str(arrays["model"][()]))
    change(told, arrays)
    arrays["model"] = np.array(json.dumps(told))
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda told, _: told.update(schema_version=7), "schema_version"),
        (lambda told, _: told.update(features=["a"]), "features"),
        (lambda told, _: told.pop("lp"), "lacks or garbles 'lp'"),
        (lambda _, arrays: arrays.update(weights_1=np.full((7, 1), np.nan)), "weights_1"),
        (lambda _, arrays: arrays.update(bias_0=np.zeros(2)), "layer 0"),
        (lambda _, arrays: arrays.pop("mean"), "lacks or garbles 'mean'"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused_with_its_name(tmp_path, change, sentence):
    path = tmp_path / "policy.npz"
    some_model().save(path)
    rewritten(path, change)
    with pytest.raises(BadInput, match=f"policy.npz.*{sentence}"):
        Model.load(path)


def test_files_that_are_no_policies_are_refused(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        Model.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    np.savez(tmp_path / "pickled.npz", model=np.array([{}], dtype=object))
    for name in ("text", "other", "pickled"):
        with pytest.raises(BadInput, match="is not a learned policy's file"):
            Model.load(tmp_path / f"{name}.npz")


def test_without_a_correction_it_is_lp_km():
    nought = (Layer(np.zeros((WIDE, 2)), np.zeros(2)), Layer(np.zeros((2, 1)), np.zeros(1)))
    model = some_model(layers=nought)
    episodes = TARGETED.draw(3, np.arange(100))
    np.testing.assert_array_equal(play(Learned(model), episodes).bids, play(model.lp, episodes).bids)


@pytest.mark.parametrize("numbers", [[17], [250, 3, 99, 4, 5, 6, 7], list(range(299, -1, -1))])
def test_bids_do_not_depend_on_what_a_campaign_is_grouped_with(numbers):
    alone = play(Learned(some_model()), TARGETED.draw(11, np.array(numbers)))
    np.testing.assert_array_equal(alone.bids, played().bids[:, numbers])
    assert not alone.refused.any()


def test_residuals_are_whole_multiples_of_the_grid_within_the_reach():
    observation = np.random.default_rng(0).uniform(-5, 5, (1_000, WIDE))
    residual = some_model().residual(observation)
    np.testing.assert_allclose(residual / GRID, np.rint(residual / GRID), atol=1e-6)
    assert np.abs(residual).max() <= 1.0
    assert residual.std() > 0.1
    for size in (1, 7, 128, 129):
        np.testing.assert_array_equal(some_model().residual(observation[:size]), residual[:size])


def seen(steps=4):
    """A rollout's view after some steps under a policy, and what that policy remembers from before it."""
    policy, rollout = Learned(shipped()), Rollout(BiddingTask(volume=(40.0, 80.0)).draw(5, np.arange(40)))
    memory = policy.start(rollout.campaigns, rollout.grid)
    for _ in range(steps - 1):
        rows, memory = policy.propose(rollout.advance(), memory)
        rollout.act(rows)
    return policy, rollout.advance(), memory


def test_views_unlike_any_in_training_fall_back_to_lp_km_and_say_so():
    policy, view, memory = seen()
    rows, _ = policy.propose(view, memory)
    assert {rows.notes[note].text for note in rows.note} == {NOTE}
    counts = view.lifetime.copy()
    counts[::2] = 10**12
    odd = replace(view, lifetime=counts)
    rows, _ = policy.propose(odd, memory)
    texts = np.array([rows.notes[note].text for note in rows.note])
    strange = rows.campaign % 2 == 0
    assert strange.any()
    assert (texts == np.where(strange, FALLBACK_NOTE, NOTE)).all()
    expected, _ = policy.programme.propose(odd, memory.knowledge)
    wanted = dict(zip(expected.campaign.tolist(), expected.wanted.tolist(), strict=True))
    found = dict(zip(rows.campaign[strange].tolist(), rows.wanted[strange].tolist(), strict=True))
    assert found == {campaign: bid for campaign, bid in wanted.items() if campaign % 2 == 0}


def test_a_view_of_noughts_proposes_nothing():
    policy, view, memory = seen()
    nothing = np.zeros((40, len(COUNTS)), dtype=np.int64)
    rows, _ = policy.propose(
        replace(view, recent=nothing, period=nothing, lifetime=nothing, prices=Prices.empty()), memory
    )
    assert len(rows) == 0


@pytest.mark.parametrize(
    ("part", "columns", "value", "no_number"),
    [
        ("lifetime", [OPPORTUNITIES], 0, True),  # fewer ever than just now
        ("lifetime", [OPPORTUNITIES], 10**12, False),
        ("lifetime", range(len(COUNTS)), 0, True),
        ("lifetime", range(len(COUNTS)), 10**12, False),
        ("recent", [OPPORTUNITIES], 10**12, True),
        ("recent", [BIDS], 10**12, False),
        ("recent", [IMPRESSIONS], 10**12, False),
        ("recent", [SPEND], 10**12, False),
        ("recent", [SPEND], -(10**12), True),
        ("recent", range(len(COUNTS)), 10**12, True),
    ],
)
def test_campaigns_with_counts_beyond_belief_fall_back_alone(part, columns, value, no_number):
    """Every other campaign's counts are noughts, 10¹², or such that an observation is NaN: the rest bid as before."""
    policy, view, memory = seen()
    before, _ = policy.propose(view, memory)
    counts = getattr(view, part).copy()
    counts[::2, list(columns)] = value
    odd = replace(view, **{part: counts})
    noticed, later = policy.notice(odd, memory)
    np.testing.assert_array_equal(noticed.fits, np.arange(40) % 2 == 1)
    assert np.isnan(noticed.observation[::2]).any() == no_number
    assert np.isfinite(later.means).all()
    rows, _ = policy.propose(odd, memory)
    plain, _ = policy.programme.propose(odd, memory.knowledge)
    expected = {campaign: (bid, FALLBACK_NOTE) for campaign, bid in wanted(plain).items() if campaign % 2 == 0}
    expected |= {campaign: (bid, NOTE) for campaign, bid in wanted(before).items() if campaign % 2 == 1}
    found = {campaign: (bid, note_of(rows, campaign)) for campaign, bid in wanted(rows).items()}
    assert found == expected
    assert {campaign % 2 for campaign in found} == {0, 1}


def wanted(rows):
    return dict(zip(rows.campaign.tolist(), rows.wanted.tolist(), strict=True))


def note_of(rows, campaign):
    return rows.notes[int(rows.note[rows.campaign == campaign][0])].text


def test_after_a_view_that_made_no_sense_it_bids_by_itself_again():
    policy, view, memory = seen()
    counts = view.recent.copy()
    counts[::2, SPEND] = -(10**12)
    noticed, memory = policy.notice(replace(view, recent=counts), memory)
    assert np.isnan(noticed.observation[::2]).any()
    again, _ = policy.notice(replace(view, tick=view.tick + 1), memory)
    assert np.isfinite(again.observation).all()
    assert again.fits.all()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e12])
def test_observations_that_are_no_numbers_or_beyond_the_margin_do_not_fit(odd):
    policy, view, memory = seen()
    noticed, memory = policy.notice(view, memory)
    assert noticed.fits.all()
    observation = noticed.observation.copy()
    observation[::2, 3] = odd
    fits = policy.model.fits(observation)
    np.testing.assert_array_equal(fits, np.arange(40) % 2 == 1)
    rows = policy.bids(view, memory, noticed._replace(fits=fits), np.zeros(40))
    told = {int(place): rows.notes[note].text for place, note in zip(rows.campaign, rows.note, strict=True)}
    assert told == {place: NOTE if place % 2 else FALLBACK_NOTE for place in told}
    assert set(told.values()) == {NOTE, FALLBACK_NOTE}


def test_a_share_of_the_target_is_aimed_at():
    policy = Learned(some_model(target_share=0.9)).aiming_at(np.array([100.0, np.inf]))
    assert policy.programme.target_micros == (90.0, np.inf)


def test_nothing_that_serves_imports_torch():
    code = (
        "import sys, engine.runtime.actors, agents.learned, experiments.build, experiments.training;"
        "agents.learned.shipped();"
        "print([name for name in ('torch', 'stable_baselines3', 'gymnasium', 'tensorboard') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_shipped_policy_beats_lp_km_on_held_out_episodes():
    """At this gain and spread (1.25 ± 1.6 points an episode) a mean of 200 is below +0.5 points once in 10¹⁰ seeds."""
    model = shipped()
    assert model.card is not None
    task = BiddingTask()
    episodes = task.draw(424_242, np.arange(200))
    mine, theirs = (play(policy, episodes).value / episodes.best.value for policy in (Learned(model), model.lp))
    assert (mine - theirs).mean() > 0.005
    assert abs(mine.mean() - model.card["scores"]["default"]["policy"]["score"][0]) < 0.005


def test_the_shipped_policy_is_small_and_tells_where_it_comes_from():
    card = shipped().card
    assert card is not None
    assert shipped().lp == plan(Known.of(BiddingTask()))  # so the environments plan as it does
    assert set(card) >= {"task", "features", "training", "seed", "versions", "scores", "held_out", "verdict"}
    assert tuple(card["features"]) == NAMES
    for rows in card["scores"].values():
        mean, low, high = rows["policy"]["gain"]
        assert low < mean < high
        assert low > 0
    assert card["scores"]["default"]["policy"]["score"][0] >= 0.975
    assert card["scores"]["target"]["policy"]["score"][0] >= 0.965
    assert card["scores"]["target"]["policy"]["over_target"] <= 0.01
