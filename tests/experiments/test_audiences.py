"""Audiences in a configuration: what markets and campaigns say of them, and what the composition root makes of it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from agents.scripted import Scripted
from engine.actions import Knob
from engine.campaigns import CampaignSet, ControlState
from engine.errors import BadInput
from engine.events import Events, Opportunities, TickCounts
from engine.judgement import EXPLANATIONS, Reason
from engine.limits import FOREVER
from engine.policy import Batch
from engine.runtime.local import LocalRunner
from engine.runtime.plan import Plan
from engine.runtime.store import LEDGER, read_ledger
from engine.runtime.tables import write_actions
from engine.units import PPM, Int64
from experiments import build
from experiments.config import SimulationConfig, load_config, with_limits
from experiments.report.decisions import Calendar, decisions
from experiments.report.story_lines import story_text
from experiments.telling import tell
from tests.experiments.test_config import REPLAY
from tests.properties.world import World

TEXT = """\
schema_version: 1
name: told-apart
seed: 7
source: simulation
account: {currency: EUR, zone: Europe/Berlin}
time: {start: 2026-03-02, days: 2, tick_minutes: 60}
audiences: {young: {people: 30_000}, families: {people: 20_000}, students: {people: 10_000}}
markets:
  search:
    auction: second_price
    charging: per_click
    opportunities_per_tick: 50
    traffic: {amplitude: 0%, peak_hour: 20}
    price: {level_micros: 24_000, sigma: 0.6}
    audiences:
      young: {share: 60%, ctr: 1.3, cvr: 0.8, value: 1.0, price: 1.1}
      families: {share: 30%}
      students: {share: 10%}
  plain:
    auction: second_price
    charging: per_click
    opportunities_per_tick: 50
    traffic: {amplitude: 0%, peak_hour: 20}
    price: {level_micros: 24_000, sigma: 0.6}
campaigns:
  brand:
    market: search
    bid_micros: 30_000
    budget_micros: 10_000_000
    creatives: {a: {ctr: 9%}, b: {ctr: 0.07}}
    audiences: {families: 80%, young: 1.2}
    conversions: {rate: 12%, delay_hours: 6, value_micros: 9_000_000, value_sigma: 0.5}
  other:
    market: plain
    bid_micros: 20_000
    budget_micros: 20_000_000
    creatives: {c: {ctr: 5%}}
    conversions: {rate: 4%, delay_hours: 6, value_micros: 9_000_000, value_sigma: 0.5}
    limits: {max_modifier: 200%}
mandates:
  - {campaigns: [brand], knobs: [bid, modifiers], band: ["1/2", 2]}
limits:
  min_bid_micros: 100
  max_bid_micros: 100_000
  min_budget_micros: 1_000_000
  max_budget_micros: 500_000_000
  min_modifier: 20%
  max_modifier: 300%
script:
  proposals:
    - {day: 1, time: "10:00", campaign: brand, audiences: {students: 125%, young: 110%}, by: ann, note: why not}
  commands:
    - {day: 1, time: "12:00", by: dana, edit: {campaign: brand, knob: modifiers, audiences: {families: 0%}}}
    - {day: 1, time: "13:00", by: dana, rollback: {campaign: brand, knob: modifiers}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def loaded(path: Path, text: str = TEXT) -> SimulationConfig:
    path.write_text(text, encoding="utf-8")
    config = load_config(path)
    assert isinstance(config, SimulationConfig)
    return config


def planned(config: SimulationConfig) -> Plan:
    """The run's plan without its world."""
    campaigns = build.campaign_set(config)
    return build.plan(config, campaigns, build.controls(config, campaigns), config.grid, None)


def test_a_market_tells_its_audiences_apart_and_a_campaign_bids_by_them(path: Path) -> None:
    config = loaded(path)
    plan = planned(config)
    campaigns = plan.campaigns
    assert (campaigns.markets, campaigns.audiences) == (("plain", "search"), ((), ("young", "families", "students")))
    assert campaigns.audience_names == ("young", "families", "students", "")
    assert plan.controls.modifiers.tolist() == [1_200_000, 800_000, PPM, PPM]
    assert plan.controls.modifier_anchor.tolist() == plan.controls.modifiers.tolist()
    assert plan.limits.modifier_bounds.tolist() == [[200_000, 3_000_000], [200_000, 2_000_000]]
    assert plan.header["audiences"] == ["young", "families", "students", ""]
    segment = config.markets["search"].audiences["young"]
    assert (segment.share, segment.ctr, segment.cvr, segment.value, segment.price) == (0.6, 1.3, 0.8, 1.0, 1.1)
    assert [(name, audience.people) for name, audience in config.audiences.items()] == [
        ("young", 30_000),
        ("families", 20_000),
        ("students", 10_000),
    ]


def test_what_a_file_says_of_audiences_is_said_again_in_the_run(path: Path) -> None:
    config = loaded(path)
    echo = config.model_dump(mode="json")
    assert echo["campaigns"]["brand"]["audiences"] == {"families": "80%", "young": "120%"}
    assert load_config(echo) == load_config(config.model_dump()) == config


def test_the_script_names_audiences_and_a_mandate_their_modifiers(path: Path) -> None:
    plan = planned(loaded(path))
    (script,) = plan.assignments
    assert isinstance(script.policy, Scripted)
    ((wish,),) = script.policy.wishes.values()
    assert (wish.campaign, wish.knob, wish.values, wish.audiences) == (
        0,
        Knob.MODIFIERS,
        (1_250_000, 1_100_000),
        (2, 0),
    )
    (edit,), (rollback,) = plan.commands.values()
    assert (edit.knob, edit.values, edit.audiences) == (Knob.MODIFIERS, (0,), (1,))
    assert (rollback.knob, rollback.values, rollback.audiences) == (Knob.MODIFIERS, (), ())
    assert plan.limits.mandate_until[:, Knob.MODIFIERS].tolist() == [FOREVER, -1]
    low, high = (Fraction(*side[0, 2].tolist()) for side in (plan.limits.band_low, plan.limits.band_high))
    assert (low, high) == (Fraction(1, 2), Fraction(2))


def test_without_a_word_of_audiences_all_is_as_it_was(path: Path) -> None:
    document = yaml.safe_load(TEXT)
    del document["audiences"], document["markets"]["search"]["audiences"], document["campaigns"]["brand"]["audiences"]
    del document["script"], document["limits"]["min_modifier"], document["limits"]["max_modifier"]
    plan = planned(loaded(path, yaml.safe_dump(document)))
    assert plan.campaigns.audiences == ((), ())
    assert plan.controls.modifiers.tolist() == [PPM, PPM]
    assert plan.limits.modifier_bounds.tolist() == [[100_000, 10_000_000], [100_000, 2_000_000]]


def test_bounds_of_modifiers_may_change_while_a_run_goes_on(path: Path) -> None:
    config = loaded(path)
    changed = with_limits("limits.yaml", "schema_version: 1\nlimits: {max_modifier: 150%}\n", config)
    assert [(each.limits.max_modifier, changed.limits.max_modifier) for each in (changed.campaigns["other"],)] == [
        (2.0, 1.5)
    ]
    with pytest.raises(BadInput) as refused:
        with_limits("limits.yaml", "schema_version: 1\nlimits: {max_modifier: 15%}\n", config)
    expected = "limits.yaml: limits.max_modifier (='15%') must be >= min_modifier (=20%): raise it"
    assert str(refused.value) == expected


# --- what people see ---

RUN = TEXT.replace("families: 80%, young: 1.2", "families: 80%, young: 120%, students: 0%").replace(
    TEXT[TEXT.index("script:") :],
    """\
people: {dana: [approver, operator]}
approver: scripted
script:
  proposals:
    - {day: 1, time: "04:00", campaign: brand, audiences: {young: 132%, families: 80%}, by: ann, note: they convert}
    - {day: 1, time: "05:00", campaign: brand, audiences: {young: 180%, families: 81%}, by: ann}
    - {day: 1, time: "06:00", campaign: brand, audiences: {students: 50%}, by: ann}
  commands:
    - {day: 1, time: "08:00", by: dana, approve: {campaign: brand, knob: modifiers}}
    - {day: 1, time: "10:00", by: dana, edit: {campaign: brand, knob: modifiers, audiences: {families: 0%}}}
    - {day: 1, time: "12:00", by: dana, rollback: {campaign: brand, knob: modifiers}}
""",
)
STORY = """\
brand in run told-apart, told by its 49 ledger records, each chained to the one before.
Times are those of Europe/Berlin; money is in EUR.

2026-03-02

  04:00  modifiers: young 120% → 132%
         proposed by ann (script) at version 0: they convert
         guard: approved
         2026-03-02 04:00 applied, version 1

  05:00  modifiers: young 132% → 180%, families 80% → 81%
         proposed by ann (script) at version 1
         guard: refused: an automatic change is at most a quarter of the value in force; it offers young 165%

  06:00  modifiers: students 0% → 50%
         proposed by ann (script) at version 1
         predicted: nothing can be told of its spend
         guard: needs approval: an audience that was not bid for would be a target: a person has to approve
         2026-03-02 08:00 approved by dana; the guard, asked again: approved
         2026-03-02 08:00 applied, version 2
         2026-03-02 09:00 watch: opened
         2026-03-02 11:00 watch: ended without a verdict, since the campaign was changed meanwhile

  10:00  modifiers: families 80% → 0%
         proposed by dana (person) at version 2: edit
         guard: approved
         2026-03-02 10:00 applied, version 3
         2026-03-02 12:00 rolled back by dana: families 0% → 80%, version 4"""


class Even:
    """A world in which every hour is like the one before."""

    factual = False

    def __init__(self, campaigns: CampaignSet, members: Int64) -> None:
        self._mine, self._members = campaigns.select(members), members
        self._world = World(campaigns, 24)

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:
        counts = [
            self._world.counts(
                int(campaign), controls.select(self._mine, np.array([place])), from_tick, to_tick - from_tick
            )
            for place, campaign in enumerate(self._members)
        ]
        return Batch(TickCounts(from_tick, np.concatenate(counts, axis=1)), Events.empty(), Opportunities.empty())

    def state(self) -> None:
        """Nothing to keep."""

    def restore(self, state: None) -> None:
        """Nothing to go back to."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """A run in which modifiers were proposed, refused, approved, edited and taken back; its folder."""
    folder = tmp_path_factory.mktemp("told-apart")
    config = loaded(folder / "run.yaml", RUN)
    plan = planned(config)
    plan = replace(plan, source=partial(Even, plan.campaigns))
    LocalRunner().run(plan, folder)
    write_actions(folder / "actions.parquet", read_ledger(folder / LEDGER), plan.campaigns, plan.grid)
    return folder, plan


def test_a_story_tells_modifiers_by_their_audiences(run: tuple[Path, Plan]) -> None:
    folder, _ = run
    assert story_text(tell(read_ledger(folder / LEDGER), "brand")) == STORY


def test_actions_name_the_audience_of_a_modifier(run: tuple[Path, Plan]) -> None:
    actions = pd.read_parquet(run[0] / "actions.parquet")
    assert set(actions.knob) == {"modifiers"}
    assert actions.creative.isna().all()
    assert list(zip(actions.audience, actions.wanted, actions.outcome, actions.reason.fillna(""), strict=True)) == [
        ("young", 1_320_000, "applied", ""),
        ("families", 800_000, "refused", "no_op"),
        ("young", 1_800_000, "refused", "step"),
        ("families", 810_000, "refused", "beside_refused"),
        ("students", 500_000, "needs_approval", "audience_set"),
        ("students", 500_000, "applied", ""),
        ("families", 0, "applied", ""),
        ("families", 800_000, "applied", ""),
    ]


def test_a_report_shows_a_change_of_several_audiences_as_one(run: tuple[Path, Plan]) -> None:
    folder, plan = run
    local = pd.Series(pd.to_datetime([plan.grid.opens(tick) for tick in range(plan.grid.ticks)], unit="us"))
    found = decisions(pd.read_parquet(folder / "actions.parquet"), Calendar(local, 60))
    shown = [(each.outcome, each.reason, each.parts) for each in found]
    assert shown[:4] == [
        ("applied", None, [("young", 1_200_000, 1_320_000, None)]),
        ("refused", EXPLANATIONS[Reason.NO_OP], [("families", 800_000, 800_000, None)]),
        (
            "refused",
            EXPLANATIONS[Reason.STEP],
            [("young", 1_320_000, 1_800_000, 1_650_000), ("families", 800_000, 810_000, None)],
        ),
        ("needs_approval", EXPLANATIONS[Reason.AUDIENCE_SET], [("students", 0, 500_000, None)]),
    ]


# --- what contradicts itself ---

REFUSED = {
    "an audience that is not declared": (
        "      students: {share: 10%}",
        "      studnets: {share: 10%}",
        "audiences.students is in no market: name it in one or remove it (and 2 more)",
    ),
    "an audience that is declared elsewhere alone": (
        "audiences: {young: {people: 30_000}, families: {people: 20_000}, students: {people: 10_000}}",
        "audiences: {young: {people: 30_000}, families: {people: 20_000}}",
        "markets.search.audiences.students is not an audience of this file: choose from young, families",
    ),
    "a declared audience that nobody meets": (
        "students: {people: 10_000}}",
        "students: {people: 10_000}, retired: {}}",
        "audiences.retired is in no market: name it in one or remove it",
    ),
    "a segment without traffic": (
        "students: {share: 10%}",
        "students: {share: 0%}",
        "markets.search.audiences must have shares that sum to 100%, not to 90%: change one of them (and 1 more)",
    ),
    "a segment without traffic whose others have all": (
        "families: {share: 30%}\n      students: {share: 10%}",
        "families: {share: 40%}\n      students: {share: 0%}",
        "markets.search.audiences.students.share (=0.0) is a segment without traffic: give it a share or remove it",
    ),
    "shares that do not sum to 1": (
        "families: {share: 30%}",
        "families: {share: 31%}",
        "markets.search.audiences must have shares that sum to 100%, not to 101%: change one of them",
    ),
    "one audience alone": (
        "      young: {share: 60%, ctr: 1.3, cvr: 0.8, value: 1.0, price: 1.1}\n      families: {share: 30%}\n"
        "      students: {share: 10%}\n",
        "      young: {share: 100%}\n",
        "audiences.families is in no market: name it in one or remove it (and 5 more)",
    ),
    "a price that is none": (
        "price: 1.1}",
        "price: 0}",
        "markets.search.audiences.young.price (=0) must be > 0.0: raise it",
    ),
    "modifiers of an audience that the market does not know": (
        "{families: 80%, young: 1.2}",
        "{famlies: 80%, young: 1.2}",
        "campaigns.brand.audiences.famlies is not an audience of the market search: did you mean 'families'?",
    ),
    "modifiers where no audiences are told apart": (
        "creatives: {c: {ctr: 5%}}",
        "creatives: {c: {ctr: 5%}}\n    audiences: {young: 90%}",
        "campaigns.other.audiences must be left out: the market plain tells no audiences apart",
    ),
    "nobody to bid for": (
        "{families: 80%, young: 1.2}",
        "{families: 0%, young: 0%, students: 0%}",
        "campaigns.brand.audiences must leave an audience to bid for: raise one above 0%",
    ),
    "a modifier beyond its bounds": (
        "{families: 80%, young: 1.2}",
        "{families: 80%, young: 310%}",
        "campaigns.brand.audiences.young (='310%') must be 0% or from min_modifier (=20%) to max_modifier (=300%): "
        "change it or the limit",
    ),
    "a modifier that takes the bid beyond its maximum": (
        "    bid_micros: 30_000",
        "    bid_micros: 90_000",
        "campaigns.brand.audiences.young (='120%') times bid_micros (=90000) must be <= max_bid_micros (=100000): "
        "lower one of the two",
    ),
    "120 for a multiple": (
        "{families: 80%, young: 1.2}",
        "{families: 80%, young: 120}",
        "campaigns.brand.audiences.young (=120) must be a multiple of 1: write 120% or 1.2",
    ),
    "a negative multiple": (
        "{families: 80%, young: 1.2}",
        "{families: 80%, young: -1.2}",
        "campaigns.brand.audiences.young (=-1.2) must be a multiple from 0% to 100000%: write 120% or 1.2",
    ),
    "words for a multiple": (
        "{families: 80%, young: 1.2}",
        "{families: 80%, young: more}",
        "campaigns.brand.audiences.young (='more') must be a multiple: write 120% or 1.2",
    ),
    "bounds that cross": (
        "  min_modifier: 20%",
        "  min_modifier: 400%",
        "campaigns.brand.audiences.families (='80%') must be 0% or from min_modifier (=400%) to max_modifier (=300%): "
        "change it or the limit (and 3 more)",
    ),
    "bounds that cross, stated by a campaign": (
        "limits: {max_modifier: 200%}",
        "limits: {min_modifier: 400%}",
        "campaigns.other.limits.min_modifier (='400%') must be <= max_modifier (=300%): lower it",
    ),
    "a proposal of creatives and audiences": (
        "campaign: brand, audiences: {students: 125%, young: 110%}",
        "campaign: brand, audiences: {students: 125%}, creatives: {a: 50%, b: 50%}",
        "script.proposals[0] must hold creatives or audiences, not both: split it into two",
    ),
    "a proposal of audiences and a knob": (
        "campaign: brand, audiences: {students: 125%, young: 110%}",
        "campaign: brand, audiences: {students: 125%}, knob: bid",
        "script.proposals[0] must hold audiences or a knob, not both: split it into two",
    ),
    "a proposal for an audience that the market does not know": (
        "{students: 125%, young: 110%}",
        "{student: 125%, young: 110%}",
        "script.proposals[0].audiences.student is not an audience of the market search: did you mean 'students'?",
    ),
    "an edit of modifiers without audiences": (
        "knob: modifiers, audiences: {families: 0%}",
        "knob: modifiers, value_micros: 5",
        "script.commands[0].edit of modifiers must hold audiences, not value_micros: add what is missing, remove the "
        "other",
    ),
    "an edit of a bid by audiences": (
        "knob: modifiers, audiences: {families: 0%}",
        "knob: bid, audiences: {families: 0%}",
        "script.commands[0].edit of bid must hold value_micros, not audiences: add what is missing, remove the other",
    ),
    "a command about modifiers that a campaign does not have": (
        "rollback: {campaign: brand, knob: modifiers}",
        "rollback: {campaign: other, knob: modifiers}",
        "script.commands[1].rollback.knob (='modifiers') must be another one: the market plain tells no audiences "
        "apart",
    ),
}


@pytest.mark.parametrize(("old", "new", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_what_contradicts_itself_is_refused_in_one_sentence(path: Path, old: str, new: str, expected: str) -> None:
    assert TEXT.count(old) == 1, old
    path.write_text(TEXT.replace(old, new), encoding="utf-8")
    with pytest.raises(BadInput) as refused:
        load_config(path)
    assert str(refused.value) == f"{path}: {expected}"


def test_a_replayed_campaign_has_no_audiences(path: Path) -> None:
    script = (
        "script: {proposals: [{day: 1, time: '10:00', campaign: '1458', audiences: {young: 90%}}], "
        "commands: [{day: 1, time: '10:00', by: dana, rollback: {campaign: '1458', knob: modifiers}}]}\n"
    )
    path.write_text(REPLAY + script, encoding="utf-8")
    with pytest.raises(BadInput) as refused:
        load_config(path)
    assert str(refused.value) == (
        f"{path}: script.proposals[0].audiences must be left out: a replayed campaign has no audiences (and 1 more)"
    )
