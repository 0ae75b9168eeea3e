"""What a configuration says of trouble: what is built of each kind, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.actions import Knob
from engine.errors import BadInput
from engine.events import CLICKS, CONVERSIONS, IMPRESSIONS
from engine.messages import Command, CommandKind, Role
from experiments import api, build
from experiments.config import load_config
from sim.mishaps import Mishap, Way
from sim.troubles import Spell, Troubles
from tests.scenarios import config, full_world


def counts(*troubles: dict[str, Any]) -> Any:
    """Counts of the small simulation's first day, int64[ticks, campaigns, …]; its controls stay as they are."""
    plan = build.simulation(load_config(config(record=[], troubles=list(troubles))))
    batch = plan.source(np.arange(len(plan.campaigns))).advance(0, 24, plan.controls)
    return batch.counts.of_campaigns(plan.campaigns.cell_start)


def test_every_kind_arrives_in_the_world() -> None:
    factory = build.simulation(load_config(full_world())).source
    creatives = factory.campaigns.creatives
    assert creatives == ("banner", "tower", "one", "two", "plain", "still", "video", "still", "video")
    assert factory.troubles == Troubles(
        rates=(Spell(24, 30, 0.6, (1, 4)),),
        reports=(Spell(35, 38, 0.1, (0, 1, 2, 3, 4)),),
        approvals=(Spell(0, 24, 0.0, (6,)), Spell(43, 46, 0.0, (4,))),
    )
    assert factory.mishaps == (
        Mishap(Way.LATE, 0, 5, 0.1, 2),
        Mishap(Way.DUPLICATED, 0, 5, 0.1, 0),
        Mishap(Way.MISDATED, 0, 5, 0.1, -3),
        Mishap(Way.ORPHANED, 0, 5, 0.1),
    )


def test_a_budget_cut_is_a_persons_edit() -> None:
    cut = {"day": 1, "time": "20:00", "budget_cut": {"campaign": "search-b", "by": "eve", "budget_micros": 2_000_000}}
    plan = build.simulation(load_config(config(troubles=[cut])))
    deny, edit = plan.commands[19]  # the script's own comes first
    assert deny.id == "script-1"
    assert edit == Command("trouble-0", CommandKind.EDIT, "eve", 2, Knob.BUDGET, (2_000_000,))
    assert plan.people["eve"] == frozenset(Role)


def test_a_budget_cut_stands_in_the_record_of_the_run(tmp_path: Any) -> None:
    cut = {"day": 1, "time": "20:00", "budget_cut": {"campaign": "search-b", "by": "eve", "budget_micros": 2_000_000}}
    run = api.simulate(config(troubles=[cut], record=[]), out=tmp_path / "run")
    rows = run.actions[run.actions.proposer == "eve"]
    columns = ["tick", "campaign", "knob", "wanted", "outcome", "source"]
    assert rows[columns].to_numpy().tolist() == [[19, "search-b", "budget", 2_000_000, "applied", "person"]]


def test_a_creative_that_is_disapproved_leaves_its_share_to_the_others_and_a_campaign_with_none_rests() -> None:
    banned = {"day": 1, "hours": 2}
    usual = counts()
    without = counts(
        banned | {"disapproved": {"campaign": "search-b", "creatives": ["plain"]}},
        banned | {"disapproved": {"campaign": "display-a", "creatives": ["tower"]}},
    )
    assert (usual[:2][:, [0, 2], IMPRESSIONS].sum(axis=0) > 0).all()
    assert without[:2, 2, IMPRESSIONS].sum() == 0
    assert without[2:, 2, IMPRESSIONS].sum() > 0
    assert without[:2, 0, IMPRESSIONS].sum() == usual[:2, 0, IMPRESSIONS].sum()


def test_trouble_with_conversions_leaves_clicks_as_they_were() -> None:
    everywhere = {"day": 1, "hours": 24}
    usual = counts()
    for trouble in (
        {"conversion_drop": {"campaigns": ["search-a"], "factor": 0}},
        {"tracking_outage": {"campaigns": ["search-a"], "lost": "100%"}},
    ):
        troubled = counts(everywhere | trouble)
        assert (troubled[:, :, CLICKS] == usual[:, :, CLICKS]).all()
        assert troubled[:, 1, CONVERSIONS].sum() == 0 < usual[:, 1, CONVERSIONS].sum()
        assert (troubled[:, 2:, CONVERSIONS] == usual[:, 2:, CONVERSIONS]).all()


KINDS = (
    "traffic_loss, traffic_rush, price_shock, bot_clicks, conversion_drop, tracking_outage, disapproved, budget_cut, "
    "late_events, duplicated_events, misdated_events or orphaned_clicks"
)


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        (
            {"hours": 1, "traffic_rush": {"markets": "all", "factor": 3}, "bot_clicks": {"markets": "all", "share": 0}},
            "troubles[0] must be of one kind, not of traffic_rush and bot_clicks: split it",
        ),
        ({"hours": 1}, f"troubles[0] must be of one kind: add {KINDS}"),
        (
            {"traffic_rush": {"markets": "all", "factor": 3}},
            "troubles[0].hours is missing: add it",
        ),
        (
            {"hours": 1, "traffic_rush": {"markets": "all", "factor": 0.5}},
            "troubles[0].traffic_rush.factor (=0.5) must be >= 1.0: raise it",
        ),
        (
            {"hours": 1, "bot_clicks": {"markets": ["serch"], "share": "5%"}},
            "troubles[0].bot_clicks.markets[0] (='serch') is not a market of this file: did you mean 'search'?",
        ),
        (
            {"hours": 1, "conversion_drop": {"campaigns": ["search-a", "social-c"], "factor": "60%"}},
            "troubles[0].conversion_drop.campaigns[1] (='social-c') is not a campaign of this file: did you mean "
            "'social-b'?",
        ),
        (
            {"hours": 1, "tracking_outage": {"campaigns": [], "lost": 1}},
            "troubles[0].tracking_outage.campaigns (=[]) must be all or a list of campaign ids: write all or [a, b]",
        ),
        (
            {"hours": 1, "disapproved": {"campaign": "social-a", "creatives": ["vidio"]}},
            "troubles[0].disapproved.creatives[0] (='vidio') is not a creative of social-a of this file: did you mean "
            "'video'?",
        ),
        (
            {"hours": 1, "disapproved": {"campaign": "socials", "creatives": ["video"]}},
            "troubles[0].disapproved.campaign (='socials') is not a campaign of this file: did you mean 'social-b'?",
        ),
        (
            {"hours": 71, "disapproved": {"campaign": "social-a", "creatives": ["still", "video"]}},
            "troubles[0].disapproved.creatives[0] (='still') must be approved of at some time of the run: shorten its "
            "disapproval, or remove the creative (and 1 more)",
        ),
        (
            {
                "hours": 1,
                "time": "20:00",
                "budget_cut": {"campaign": "search-b", "by": "e", "budget_micros": 2_000_000},
            },
            "troubles[0].hours (=1.0) must be left out of a budget cut, which stays until somebody edits the budget "
            "again: remove it",
        ),
        (
            {"budget_cut": {"campaign": "search-b", "by": "e", "budget_micros": 2_000_000}},
            "troubles[0].time (=00:00) must be after the run's start on day 1 at 00:00: choose a later time",
        ),
        (
            {"time": "20:00", "budget_cut": {"campaign": "search-b", "by": "e", "budget_micros": 20_000_000}},
            "troubles[0].budget_cut.budget_micros (=20000000) must be < the campaign's budget_micros (=20000000): "
            "lower it",
        ),
        (
            {"time": "20:00", "budget_cut": {"campaign": "search-b", "by": "e", "budget_micros": 900_000}},
            "troubles[0].budget_cut.budget_micros (=900000) must be >= min_budget_micros (=1000000): raise it or lower "
            "the limit",
        ),
        (
            {"hours": 1, "late_events": {"share": "5%", "hours": 0}},
            "troubles[0].late_events.hours (=0) must be > 0.0: raise it",
        ),
        (
            {"hours": 1, "misdated_events": {"share": "5%", "hours": 0}},
            "troubles[0].misdated_events.hours (=0.0) must not be 0: write -2 for times two hours too early",
        ),
        (
            {"hours": 1, "orphaned_clicks": {"share": "5%", "hours": 1}},
            "troubles[0].orphaned_clicks.hours (=1) is not a known key: choose from share",
        ),
    ],
)
def test_a_trouble_that_cannot_be(trouble: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_config(config(record=["events"], troubles=[{"day": 1} | trouble]))
    assert str(refused.value) == f"configuration: {sentence}"


@pytest.mark.parametrize("kind", ["late_events", "duplicated_events", "misdated_events", "orphaned_clicks"])
def test_what_befalls_events_needs_events(kind: str) -> None:
    spec = {"share": "5%"} | ({} if kind == "orphaned_clicks" else {"hours": 1})
    with pytest.raises(BadInput) as refused:
        load_config(config(record=[], troubles=[{"day": 1, "hours": 1, kind: spec}]))
    assert str(refused.value) == (
        f"configuration: troubles[0].{kind} would have no effect, as no events are recorded: write 'record: [events]' "
        "or remove it"
    )


def test_disapprovals_that_together_leave_no_time() -> None:
    banned = {"disapproved": {"campaign": "social-a", "creatives": ["video"]}}
    first, second = {"day": 1, "hours": 40}, {"day": 2, "hours": 47}
    with pytest.raises(BadInput) as refused:
        load_config(config(record=[], troubles=[first | banned, second | banned]))
    assert str(refused.value) == (
        "configuration: troubles[1].disapproved.creatives[0] (='video') must be approved of at some time of the run: "
        "shorten its disapproval, or remove the creative"
    )
    load_config(config(record=[], troubles=[first | banned, second | {"hours": 46} | banned]))
