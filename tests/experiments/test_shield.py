"""An agent of a user's own that never learns where the limits are, in whole runs under the shield."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.horizon import EVEN, Curve
from agents.lp import OnlineLP
from engine.errors import BadInput
from engine.ledger import RecordKind, decode_round
from engine.optimiser import Assignment
from engine.runtime.local import LocalRunner
from engine.runtime.store import LEDGER, read_ledger
from experiments import api, build
from experiments.api import Run
from experiments.config import load_config
from experiments.report.story_lines import story_text
from experiments.users import users_policy
from tests.frames import assert_same
from tests.rehearsals import At, Crash, begin, go_on, small

GREEDY = "tests.greedy:Greedy"
AGENT = {"policy": GREEDY, "campaigns": ["search-a", "search-b"], "clip": True}


def greedy(**changes: Any) -> dict[str, Any]:
    """The small scenario with an agent in place of all its policies, and nobody else who proposes."""
    return small(policies=[AGENT | changes], script={}, record=[])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return begin(api.load(greedy()), tmp_path_factory.mktemp("runs") / "whole", LocalRunner(), At())


def test_100_out_of_range_actions_in_a_row_suspend_the_agent_and_the_fallback_policy_bids(run: Run) -> None:
    actions = run.actions
    agent, fallback = (actions[actions.proposer == name] for name in (GREEDY, f"lp_km for {GREEDY}"))
    assert (len(agent), agent["round"].nunique(), len(fallback) > 0) == (100, 50, True)
    assert fallback["round"].min() > agent["round"].max()
    applied = agent[agent.outcome == "applied"]
    assert len(applied) > 0
    assert (4 * (applied.wanted - applied.old).abs() <= applied.old).all()
    assert (applied.raw == (1.6 * applied.old).astype(int)).all()
    assert "applied" in set(fallback.outcome)
    assert fallback.raw.isna().all()
    alerts = [
        (record.sequence, alert["alert"], alert["event"], alert["label"])
        for record in read_ledger(run.folder / LEDGER)
        if record.kind is RecordKind.ROUND
        for alert in decode_round(record).header["alerts"]
    ]
    assert alerts == [(int(agent["round"].max()), "policy_suspended", "opened", GREEDY)]


def test_its_first_steps_are_a_quarter_whatever_it_asked_for(run: Run) -> None:
    first = run.actions[run.actions["round"] == 1]
    assert first[["old", "wanted", "raw", "outcome"]].to_numpy().tolist() == [
        [30_000, 37_500, 48_000, "applied"],
        [24_000, 30_000, 38_400, "applied"],
    ]


def test_the_ledger_is_valid_and_no_step_is_above_a_quarter(run: Run) -> None:
    told = api.audit(run.folder)
    assert (told["valid"], told["max_relative_step"]) == (True, 0.25)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [20, 49, 50, 51, 65])
def test_killed_before_at_and_after_the_suspension_and_resumed_it_ends_the_same(
    run: Run, killed_at: int, tmp_path: Path
) -> None:
    loaded, runner = api.load(greedy()), LocalRunner(2, 20)
    places = At()
    begin(loaded, tmp_path / "counted", runner, places)
    place = next(
        n for n, (moment, number) in enumerate(places.calls) if moment == "after_commit" and number >= killed_at
    )
    with pytest.raises(Crash):
        begin(loaded, tmp_path / "killed", runner, At(place))
    resumed = go_on(loaded, tmp_path / "killed", runner, At())
    assert resumed.digests == run.digests
    assert_same(resumed.actions, run.actions)


def test_its_story_tells_what_was_asked_for_and_how_many_steps_were_clipped(run: Run) -> None:
    told = story_text(api.story(run.folder, "search-a"))
    assert "  bid: 5 steps of a mandate, 5 of them clipped, 0.03 → 0.09\n" in told


def test_a_clipped_change_that_waits_for_a_person_says_in_its_story_what_was_asked_for(tmp_path: Path) -> None:
    unpermitted = api.load(greedy() | {"mandates": []})
    story = api.story(begin(unpermitted, tmp_path / "run", LocalRunner(), At()).folder, "search-a")
    assert "  bid: 0.03 → 0.0375 (clipped, asked for 0.048)\n" in story_text(story)


# --- configuration ---


def assignment(document: dict[str, Any]) -> Assignment:
    (made,) = build.simulation(api.load(document)).assignments
    return made


def test_without_a_word_the_fallback_is_lp_km_along_the_curves_of_the_campaigns_markets() -> None:
    fallback = assignment(greedy(campaigns="all")).fallback
    assert fallback is not None
    curves = (Curve(0.4, 14.0), Curve(0.6, 20.0), Curve(0.7, 21.0))
    assert isinstance(fallback.policy, OnlineLP)
    assert set(fallback.policy.curve) == set(curves)
    assert (fallback.policy.band, fallback.name) == ((1 / 3, 3.0), f"lp_km for {GREEDY}")


def test_where_no_prices_are_told_the_fallback_paces_along_the_curve_of_the_campaigns_market() -> None:
    fallback = assignment(greedy() | {"fidelity": "aggregate"}).fallback
    assert fallback is not None
    policy: Any = fallback.policy
    assert (policy.curve, fallback.name) == (Curve(0.6, 20.0), f"traffic_aware_pi for {GREEDY}")


def test_where_markets_differ_it_paces_evenly() -> None:
    fallback = assignment(greedy(campaigns="all") | {"fidelity": "aggregate"}).fallback
    assert fallback is not None
    policy: Any = fallback.policy
    assert (policy.curve, fallback.name) == (EVEN, f"even_pi for {GREEDY}")


def test_a_stated_fallback_and_options_are_taken_and_survive_the_echo() -> None:
    fallback = {"policy": "traffic_aware_pi", "traffic": {"amplitude": "30%", "peak_hour": 9}}
    loaded = api.load(greedy(fallback=fallback, options={"change": 0.3}))
    made = assignment(greedy(fallback=fallback, options={"change": 0.3}))
    assert made.fallback is not None
    policy: Any = made.fallback.policy
    own: Any = made.policy
    assert (own.change, policy.curve.amplitude, policy.curve.peak_hour) == (0.3, 0.3, 9)
    assert load_config(loaded.model_dump(mode="json")) == loaded


def test_without_clip_there_is_no_shield() -> None:
    made = assignment(greedy(clip=False))
    assert (made.clip, made.fallback, made.name) == (False, None, GREEDY)


def test_two_agents_of_one_class_are_told_apart() -> None:
    agents = [AGENT | {"campaigns": [name]} for name in ("search-a", "search-b")]
    made = build.simulation(api.load(small(policies=agents, script={}))).assignments
    assert [each.name for each in made] == [f"{GREEDY} of policies[{place}]" for place in range(2)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"clip": False, "fallback": {"policy": "even_pi"}},
            "policies[0].fallback needs 'clip: true', since no other policy is ever suspended: add it or remove the "
            "fallback",
        ),
        ({"clipp": True}, "policies[0].clipp (=true) is not a known key: did you mean 'clip'?"),
        (
            {"fallback": {"policy": "daily_budgets"}},
            "policies[0].fallback.policy (='daily_budgets') is not a known policy: choose from constant, even_pi, "
            "traffic_aware_pi, lp_km",
        ),
        ({"policy": "greedy:"}, "policies[0].policy (='greedy:') must be module:Class: write my_agents:Greedy"),
        (
            {"options": {"change": float("nan")}},
            "policies[0].options (={'change': nan}) must hold finite numbers, text, true, false, null or lists of "
            "these: write {name: 0.5}",
        ),
        (
            {"options": [1]},
            "policies[0].options (=[1]) must be a table of the class's own parameters: write {name: value}",
        ),
    ],
)
def test_a_bad_entry_is_refused_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        api.load(greedy(**changes))
    assert str(refused.value) == f"configuration: {sentence}"


@pytest.mark.parametrize("fallback", [None, {"policy": "even_pi"}, {"policy": "constant"}])
def test_a_fallback_that_bids_leaves_no_room_for_a_second_policy_of_the_bid(fallback: Any) -> None:
    document = small(policies=[AGENT | {"fallback": fallback}, {"policy": "even_pi", "campaigns": ["search-a"]}])
    if fallback == {"policy": "constant"}:
        assert len(api.load(document).policies) == 2
        return
    with pytest.raises(BadInput, match=r"gives the bid of search-a a second policy after policies\[0\]"):
        api.load(document)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("tests.greedy:Greedi", {}, "must be a class: tests.greedy has none of this name"),
        ("tests.greedi:Greedy", {}, "cannot be imported (No module named 'tests.greedi'): check its module"),
        ("tests.greedy:Unfinished", {}, "must have start and propose: write them as engine.policy.Policy tells"),
        (
            "tests.greedy:Greedy",
            {"changes": 1},
            "cannot be made of its options (Greedy.__init__() got an unexpected keyword argument 'changes'): correct "
            "them",
        ),
    ],
)
def test_a_class_that_cannot_serve_is_refused_in_one_sentence(
    name: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadInput) as refused:
        users_policy(name, options, clipped=True)
    assert str(refused.value) == f"policy (={name!r}) {sentence}"


def test_values_that_are_no_amounts_pass_the_battery_only_under_the_shield() -> None:
    users_policy("tests.greedy:Wild", {}, clipped=True)
    with pytest.raises(BadInput, match="policy Wild proposed a value that is not_finite at tick 0"):
        users_policy("tests.greedy:Wild", {}, clipped=False)
