"""Configuration: what loads, and the one sentence for what does not."""

import copy
import json
import math
from datetime import time
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.messages import CommandKind
from experiments.config import (
    ReplayConfig,
    SimulationConfig,
    boundary_tick,
    limits_of,
    load_config,
    members,
    opening_tick,
    schema,
)

CONFIGS = Path(__file__).parents[2] / "configs"
TEXT = """\
schema_version: 1
name: small
seed: 7
source: simulation
account: {currency: EUR, zone: Europe/Berlin, budget_micros: 30_000_000}
time: {start: 2026-03-28, days: 3, tick_minutes: 30}
decision_every: 2
markets:
  search:
    auction: second_price
    charging: per_click
    opportunities_per_tick: 100
    traffic: {amplitude: 60%, peak_hour: 20}
    price: {level_micros: 24_000, sigma: 0.6}
    shocks: [{day: 2, hours: 24, factor: 1.6}]
campaigns:
  brand:
    market: search
    bid_micros: 30_000
    budget_micros: 10_000_000
    creatives: {a: {ctr: 9%}, b: {ctr: 0.07}}
    weights: {b: 30%, a: 70%}
    conversions: {rate: 12%, delay_hours: 6, value_micros: 9_000_000, value_sigma: 0.5}
  generic:
    market: search
    channel: ads
    bid_micros: 20_000
    budget_micros: 20_000_000
    creatives: {c: {ctr: 5%}}
    conversions: {rate: 4%, delay_hours: 6, value_micros: 9_000_000, value_sigma: 0.5}
    limits: {max_bid_micros: 50_000}
policies:
  - {policy: even_pi, campaigns: [brand]}
  - {policy: daily_budgets, campaigns: all}
mandates:
  - {campaigns: all, knobs: [bid, budget], band: ["1/3", 2.5], until_day: 2}
limits: {min_bid_micros: 100, max_bid_micros: 1_000_000, min_budget_micros: 1_000_000, max_budget_micros: 500_000_000}
approver: scripted
script:
  proposals:
    - {day: 1, time: "10:00", campaign: brand, knob: bid, change: +60%}
    - {day: 1, time: "11:00", campaign: brand, creatives: {a: 50%, b: 50%}}
  commands:
    - {day: 1, time: "12:00", by: dana, approve: {campaign: brand, knob: weights}}
    - {day: 2, time: "12:00", by: dana, pause: {campaign: generic}}
"""
REPLAY = """\
schema_version: 1
name: log
seed: 7
source: replay
account: {currency: CNY, zone: Asia/Shanghai}
time: {start: 2013-06-06, tick_minutes: 30}
log: {format: ipinyou_auctions, campaign: "1458", rows_per_tick: 10, win_rule: ">", logged_bid_micros: 300, value: flat}
auction: second_price
campaigns:
  "1458": {channel: display, bid_micros: 690, budget_micros: 20_000_000, budget_period: flight}
limits: {min_bid_micros: 1, max_bid_micros: 3_000, min_budget_micros: 1_000_000, max_budget_micros: 65_000_000}
"""


def sentence(path, old="", new="", text=TEXT):
    """What loading says of the small configuration with one piece of its text replaced."""
    assert not old or text.count(old) == 1
    path.write_text(text.replace(old, new) if old else text, encoding="utf-8")
    with pytest.raises(BadInput) as refused:
        load_config(path)
    assert "\n" not in str(refused.value)
    return str(refused.value).replace(str(path), "FILE")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.yaml"


def small(text=TEXT):
    return load_config(yaml.safe_load(text))


# --- what loads ---


RUNS = sorted(file for file in CONFIGS.glob("*.yaml") if "source: bidding" not in file.read_text())


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_every_shipped_configuration_loads_and_survives_being_echoed(file):
    config = load_config(file)
    assert load_config(json.loads(config.model_dump_json())) == config
    assert load_config(config.model_dump()) == config
    assert not any(mark in file.read_text(encoding="utf-8").split("log:")[-1] for mark in ("../", "/work"))


def test_quickstart_is_a_week_of_twelve_campaigns_in_three_markets():
    config = load_config(CONFIGS / "quickstart.yaml")
    assert isinstance(config, SimulationConfig)
    assert config.grid.ticks == 336
    markets = [campaign.market for campaign in config.campaigns.values()]
    assert {market: markets.count(market) for market in markets} == {"search": 4, "social": 4, "display": 4}
    per_tick = sum(market.opportunities_per_tick for market in config.markets.values())
    assert per_tick * 336 == pytest.approx(2_000_000, rel=0.01)
    assert [command.kind.value for command in config.script.commands] == [
        "approve",
        "deny",
        "pause",
        "resume",
        "rollback",
    ]


def test_values_arrive_in_the_units_of_the_engine():
    config = small()
    brand, generic = config.campaigns["brand"], config.campaigns["generic"]
    assert brand.creatives["a"].ctr == 0.09
    assert brand.weights_ppm == {"a": 700_000, "b": 300_000}
    assert generic.weights_ppm is None
    assert (brand.channel, generic.channel) == ("search", "ads")
    assert (brand.reach, brand.value_sigma, brand.budget_period) == (1.0, 0.5, "day")
    assert config.mandates[0].band == (Fraction(1, 3), Fraction(5, 2))
    assert limits_of(config, "generic").max_bid_micros == 50_000
    assert limits_of(config, "brand") == config.limits
    assert members(config, "all") == ("brand", "generic")
    assert config.score.targets.roas_target == 3.0
    command = config.script.commands[0]
    assert (command.kind, command.target) == (CommandKind.APPROVE, ("brand", "weights"))
    assert config.script.commands[1].target == ("generic", "paused")


def test_local_times_become_ticks_across_the_change_to_summer_time():
    config = small()  # the clocks go forward on 29 March, the second day
    assert config.grid.ticks == 3 * 48 - 2
    assert boundary_tick(config, 1, time(10)) == 19
    assert opening_tick(config, 2, time(1)) == 50
    assert opening_tick(config, 2, time(3)) == 52
    assert config.grid.hour[opening_tick(config, 3, time(0))] == 0


def test_the_schema_describes_every_source():
    described = schema()
    assert set(described["discriminator"]["mapping"]) == {"simulation", "replay", "bidding"}
    assert json.loads(json.dumps(described)) == described


def test_a_budget_may_be_left_to_a_log_that_states_it():
    config = load_config(CONFIGS / "ipinyou_5min.yaml")
    assert isinstance(config, ReplayConfig)
    assert {campaign.budget_micros for campaign in config.campaigns.values()} == {"log"}


# --- what is no configuration at all ---


def test_a_missing_file(path):
    with pytest.raises(BadInput) as refused:
        load_config(path)
    assert str(refused.value) == f"{path} does not exist: check the path"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "FILE is empty: start from configs/quickstart.yaml"),
        ("# only a comment\n", "FILE is empty: start from configs/quickstart.yaml"),
        (
            "- schema_version: 1\n",
            "FILE holds a list where a table of keys is expected: begin with 'schema_version: 1'",
        ),
        (
            "quickstart",
            "FILE holds a single value where a table of keys is expected: begin with 'schema_version: 1'",
        ),
        (
            "a: [1\nb: 2\n",
            "FILE, line 2 is not YAML (expected ',' or ']', but got ':'): correct it",
        ),
        ("seed: 1\nname: x\nseed: 2\n", "FILE, line 3: seed is given twice: remove one of the two"),
        ("a: &x {b: 1}\nc: *x\n", "FILE, line 2: *x is an alias: write the part out where it belongs"),
        (
            "a: 2026-02-31\n",
            "FILE is not YAML (day is out of range for month): correct it, or start from configs/quickstart.yaml",
        ),
        ("seed: 1\n", "FILE: schema_version is missing: begin with 'schema_version: 1'"),
        ("schema_version: 1\n", "FILE: source is missing: write 'source: simulation' or 'source: replay'"),
        (
            "schema_version: 1\nsource: replays\n",
            "FILE: source (='replays') must be simulation or replay: did you mean 'replay'?",
        ),
    ],
)
def test_a_file_that_is_no_configuration(path, text, expected):
    assert sentence(path, text=text) == expected


def test_nesting_without_end(path):
    expected = "FILE is not YAML (nested too deeply): correct it, or start from configs/quickstart.yaml"
    assert sentence(path, text="a: " + "[" * 5_000) == expected


def test_a_folder_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(BadInput) as refused:
        load_config(tmp_path)
    assert str(refused.value) == f"{tmp_path} cannot be read (Is a directory): give the path of a YAML file"
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(BadInput) as refused:
        load_config(tmp_path / "run.yaml")
    assert str(refused.value) == f"{tmp_path / 'run.yaml'} is not UTF-8 text: save it as UTF-8"


# --- what breaks a rule ---

REFUSED = {
    "another schema version": (
        "schema_version: 1",
        "schema_version: 2",
        "schema_version (=2) is not the version this program reads: write 1, or use the program that wrote the file",
    ),
    "unknown key": (
        "    bid_micros: 30_000",
        "    bid_micro: 30_000\n    bid_micros: 30_000",
        "campaigns.brand.bid_micro (=30000) is not a known key: did you mean 'bid_micros'?",
    ),
    "unknown key at the top": (
        "decision_every: 2",
        "decisions_every: 2",
        "decisions_every (=2) is not a known key: did you mean 'decision_every'?",
    ),
    "key of another policy": (
        "campaigns: [brand]}",
        "campaigns: [brand], max_change: 10%}",
        "policies[0].max_change (='10%') is not a known key: choose from policy, gains, campaigns",
    ),
    "missing key": ("    bid_micros: 30_000\n", "", "campaigns.brand.bid_micros is missing: add it"),
    "text for a number": (
        "    bid_micros: 30_000",
        '    bid_micros: "25"',
        "campaigns.brand.bid_micros (='25') must be a whole number: write it without quotes",
    ),
    "fraction of a micro": (
        "    bid_micros: 30_000",
        "    bid_micros: 0.5",
        "campaigns.brand.bid_micros (=0.5) must be a whole number: write one such as 1000",
    ),
    "true for a number": (
        "seed: 7",
        "seed: true",
        "seed (=true) must be a whole number: write one such as 1000",
    ),
    "negative seed": ("seed: 7", "seed: -7", "seed (=-7) must be >= 0: raise it"),
    "negative budget": (
        "budget_micros: 10_000_000",
        "budget_micros: -5",
        "campaigns.brand.budget_micros (=-5) must be >= 0: raise it",
    ),
    "more money than there is": (
        "budget_micros: 10_000_000",
        "budget_micros: 1000000000000000000000000000000",
        "campaigns.brand.budget_micros (=1000000000000000000000000000000) must be <= 1000000000000000: lower it",
    ),
    "not a number": (
        "sigma: 0.6",
        "sigma: .nan",
        "markets.search.price.sigma (=nan) must be finite: write a plain number",
    ),
    "infinite": ("sigma: 0.6", "sigma: .inf", "markets.search.price.sigma (=inf) must be finite: write a plain number"),
    "25 for a ratio": (
        "{ctr: 9%}",
        "{ctr: 25}",
        "campaigns.brand.creatives.a.ctr (=25) must be a ratio from 0 to 1: write 25% or 0.25",
    ),
    "more than all": (
        "{ctr: 9%}",
        "{ctr: 250%}",
        "campaigns.brand.creatives.a.ctr (='250%') must be a ratio from 0 to 1: write 2.5% or 0.025",
    ),
    "NaN for a ratio": (
        "{ctr: 9%}",
        "{ctr: .nan}",
        "campaigns.brand.creatives.a.ctr (=nan) must be a ratio from 0 to 1: write 25% or 0.25",
    ),
    "words for a ratio": (
        "{ctr: 9%}",
        "{ctr: a lot}",
        "campaigns.brand.creatives.a.ctr (='a lot') must be a ratio: write 25% or 0.25",
    ),
    "no creatives": (
        "{c: {ctr: 5%}}",
        "{}",
        "campaigns.generic.creatives (={}) must hold at least 1: add one",
    ),
    "list for a table": (
        "{c: {ctr: 5%}}",
        "[c]",
        "campaigns.generic.creatives (=['c']) must be a table of keys and values: write it as 'key: value' lines",
    ),
    "number for an id": (
        "  generic:\n",
        "  1458:\n",
        "campaigns[1458] is a key that must be text: write it in quotes, '1458'",
    ),
    "id with a slash": (
        "  generic:\n",
        "  a/b:\n",
        "campaigns.a/b is a key that must be 1 to 64 letters, digits, '.', '_' or '-', the first a "
        "letter or digit: rename it",
    ),
    "currency": (
        "currency: EUR",
        "currency: eur",
        "account.currency (='eur') must be three capital letters: write EUR",
    ),
    "time zone": (
        "zone: Europe/Berlin",
        "zone: Europe/Berln",
        "account.zone (='Europe/Berln') must be an IANA time zone: did you mean 'Europe/Berlin'?",
    ),
    "folder of time zones": (
        "zone: Europe/Berlin",
        "zone: ../x",
        "account.zone (='../x') must be an IANA time zone: write Europe/Berlin",
    ),
    "ticks that do not divide a day": (
        "tick_minutes: 30",
        "tick_minutes: 7",
        "time.tick_minutes (=7) must be a whole number that divides a day of 1440 minutes: try 5, 30 or 60",
    ),
    "start with an offset": (
        "start: 2026-03-28",
        "start: 2026-03-28T00:00:00Z",
        "time.start (=2026-03-28T00:00:00+00:00) must be local time without an offset: leave it out, "
        "account.zone says where",
    ),
    "start between ticks": (
        "start: 2026-03-28",
        "start: 2026-03-28 00:10:00",
        "time.start (=2026-03-28T00:10:00) must lie on a tick of 30 minutes: round it down",
    ),
    "choice": (
        "auction: second_price",
        "auction: second_prize",
        "markets.search.auction (='second_prize') must be 'second_price', 'first_price' or 'gsp': did you mean "
        "'second_price'?",
    ),
    "unknown policy": (
        "policy: even_pi",
        "policy: evenpi",
        "policies[0].policy (='evenpi') is not a known policy: did you mean 'even_pi'?",
    ),
    "band": (
        '["1/3", 2.5]',
        "[3, 1]",
        'mandates[0].band (=[3, 1]) must keep 1/1000 <= low <= 1 <= high <= 1000: write ["1/3", 3]',
    ),
    "band through 0": (
        '["1/3", 2.5]',
        '["1/0", 2.5]',
        "mandates[0].band (=['1/0', 2.5]) must be [low, high], numbers or fractions with at most six "
        'digits: write ["1/3", 3]',
    ),
    "change without its sign": (
        "change: +60%",
        "change: 0.6",
        "script.proposals[0].change (=0.6) must be a change in percent with its sign: write +10% or -10%",
    ),
    "change below nothing": (
        "change: +60%",
        "change: -101%",
        "script.proposals[0].change (='-101%') must be >= -100%: nothing falls by more than all of itself",
    ),
    "time without quotes": (
        'time: "10:00"',
        "time: 10:00",
        'script.proposals[0].time (=600) must be a time of day in quotes: write "10:00"',
    ),
    "no time of day": (
        'time: "10:00"',
        'time: "25:00"',
        'script.proposals[0].time (=\'25:00\') must be a time of day from "00:00" to "23:59": write "09:30"',
    ),
    "day 0": ('day: 1, time: "10:00"', 'day: 0, time: "10:00"', "script.proposals[0].day (=0) must be >= 1: raise it"),
}

CONTRADICTORY = {
    "unknown market": (
        "    market: search\n    channel: ads",
        "    market: serch\n    channel: ads",
        "campaigns.generic.market (='serch') is not a market of this file: did you mean 'search'?",
    ),
    "unknown campaign of a policy": (
        "campaigns: [brand]",
        "campaigns: [brandy]",
        "policies[0].campaigns[0] (='brandy') is not a campaign of this file: did you mean 'brand'?",
    ),
    "unknown campaign of the script": (
        'time: "10:00", campaign: brand',
        'time: "10:00", campaign: xyz',
        "script.proposals[0].campaign (='xyz') is not a campaign of this file: choose from brand, generic",
    ),
    "unknown campaign of a command": (
        "pause: {campaign: generic}",
        "pause: {campaign: generics}",
        "script.commands[1].pause.campaign (='generics') is not a campaign of this file: did you mean 'generic'?",
    ),
    "unknown creative": (
        "weights: {b: 30%, a: 70%}",
        "weights: {z: 30%, a: 70%}",
        "campaigns.brand.weights.z (=0.3) is not a creative of this campaign: choose from a, b",
    ),
    "weight left out": (
        "weights: {b: 30%, a: 70%}",
        "weights: {b: 100%}",
        "campaigns.brand.weights must name every creative: add a",
    ),
    "weights that do not sum": (
        "weights: {b: 30%, a: 70%}",
        "weights: {b: 30%, a: 69.9999%}",
        "campaigns.brand.weights must sum to 100%, not to 99.9999%: change one of them",
    ),
    "shares of a proposal": (
        "creatives: {a: 50%, b: 50%}",
        "creatives: {a: 50%, b: 40%}",
        "script.proposals[1].creatives must sum to 100%, not to 90%: change one of them",
    ),
    "bid below its limit": (
        "bid_micros: 30_000",
        "bid_micros: 50",
        "campaigns.brand.bid_micros (=50) must be >= min_bid_micros (=100): raise it or lower the limit",
    ),
    "bid above its own limit": (
        "bid_micros: 20_000",
        "bid_micros: 60_000",
        "campaigns.generic.bid_micros (=60000) must be <= max_bid_micros (=50000): lower it or raise the limit",
    ),
    "limit of a campaign below the account's": (
        "limits: {max_bid_micros: 50_000}",
        "limits: {max_bid_micros: 50}",
        "campaigns.generic.bid_micros (=20000) must be <= max_bid_micros (=50): lower it or raise the "
        "limit (and 1 more)",
    ),
    "account budget": (
        "budget_micros: 30_000_000",
        "budget_micros: 29_999_999",
        "account.budget_micros (=29999999) must be >= the sum of the campaigns' daily budgets (=30000000): "
        "raise it or lower them",
    ),
    "two policies on one knob": (
        "policy: daily_budgets",
        "policy: constant",
        "policies[1].campaigns (='all') gives the bid of brand a second policy after policies[0]: name other campaigns",
    ),
    "approval without an approver": (
        "approver: scripted",
        "approver: none",
        "script.commands[0].approve needs an approver: write 'approver: scripted' or remove the approval",
    ),
    "time between decisions": (
        'time: "10:00"',
        'time: "10:30"',
        "script.proposals[0].time (=10:30) must be the time of a decision, every 60 minutes: write 10:00",
    ),
    "time between ticks": (
        'time: "10:00"',
        'time: "10:10"',
        "script.proposals[0].time (=10:10) must be the time of a decision, every 60 minutes: write 10:00",
    ),
    "before the first decision": (
        'time: "10:00"',
        'time: "00:00"',
        "script.proposals[0].time (=00:00) must be after the run's start on day 1 at 00:00: choose a later time",
    ),
    "after the end": (
        'day: 2, time: "12:00"',
        'day: 4, time: "00:00"',
        "script.commands[1].day (=4) must be before the run's end, 2026-03-31 00:00: choose an earlier day",
    ),
    "ticks that the clocks push over midnight": (
        "tick_minutes: 30",
        "tick_minutes: 120",
        "time.tick_minutes (=120) must keep the midnight of 2026-03-30 between ticks, and the clocks of Europe/Berlin "
        "change: try 30",
    ),
    "an hour that the clocks skip": (
        'day: 2, time: "12:00"',
        'day: 2, time: "02:00"',
        "script.commands[1].time (=02:00) does not exist on day 2 in Europe/Berlin: choose an hour later",
    ),
    "shock after the end": (
        "{day: 2, hours: 24",
        "{day: 9, hours: 24",
        "markets.search.shocks[0].day (=9) must be before the run's end, 2026-03-31 00:00: choose an earlier day",
    ),
    "shock of a tick and a half": (
        "{day: 2, hours: 24",
        "{day: 2, hours: 0.7",
        "markets.search.shocks[0].hours (=0.7) must be a whole number of ticks of 30 minutes: write 0.5",
    ),
    "shock between ticks": (
        "{day: 2, hours: 24",
        '{day: 2, time: "10:10", hours: 24',
        "markets.search.shocks[0].time (=10:10) must be the time of a tick, every 30 minutes: write 10:00",
    ),
    "proposal of nothing": (
        "knob: bid, change: +60%",
        "note: more",
        "script.proposals[0] must say what to change: add a knob (bid or budget), creatives or audiences",
    ),
    "proposal of two values": (
        "change: +60%",
        "change: +60%, value_micros: 5",
        "script.proposals[0] must hold exactly one of change and value_micros: keep one",
    ),
    "proposal of both kinds": (
        "creatives: {a: 50%, b: 50%}}",
        "creatives: {a: 50%, b: 50%}, knob: bid}",
        "script.proposals[1] must hold creatives or a knob, not both: split it into two",
    ),
    "command of nothing": (
        ", pause: {campaign: generic}",
        "",
        "script.commands[1] must hold exactly one of approve, deny, rollback, edit, pause, resume, "
        "freeze, unfreeze and close_breaker, "
        "not none: keep one",
    ),
    "command of two": (
        "pause: {campaign: generic}",
        "pause: {campaign: generic}, resume: {campaign: brand}",
        "script.commands[1] must hold exactly one of approve, deny, rollback, edit, pause, resume, "
        "freeze, unfreeze and close_breaker, "
        "not pause, resume: keep one",
    ),
    "edit without its value": (
        "pause: {campaign: generic}",
        "edit: {campaign: generic, knob: bid, creatives: {c: 100%}}",
        "script.commands[1].edit of bid must hold value_micros, not creatives: add what is missing, remove the other",
    ),
    "mandate after the end": (
        "until_day: 2",
        "until_day: 4",
        "mandates[0].until_day (=4) must be a day of the run: write 1 to 3, or leave it out",
    ),
    "two mandates on one knob": (
        "mandates:\n",
        "mandates:\n  - {campaigns: [generic], knobs: [weights, bid]}\n",
        "mandates[1].campaigns (='all') gives the bid of generic a second mandate after mandates[0]: "
        "name other campaigns",
    ),
    "limits the wrong way round": (
        "max_bid_micros: 1_000_000, min",
        "max_bid_micros: 99, min",
        "campaigns.brand.bid_micros (=30000) must be <= max_bid_micros (=99): lower it or raise the limit (and 1 more)",
    ),
    "limit of a campaign above the account's": (
        "limits: {max_bid_micros: 50_000}",
        "limits: {min_bid_micros: 1_000_001}",
        "campaigns.generic.bid_micros (=20000) must be >= min_bid_micros (=1000001): raise it or lower "
        "the limit (and 1 more)",
    ),
    "score weights": (
        "approver: scripted",
        "approver: scripted\nscore: {ctr_weight: 50%}",
        "score must have weights that sum to 100%, not to 120%: change one of them",
    ),
    "knob twice": (
        "knobs: [bid, budget]",
        "knobs: [bid, bid]",
        "mandates[0].knobs (=['bid', 'bid']) must name a knob once: remove the repetition",
    ),
}

REPLAY_REFUSED = {
    "unknown campaign of the log": (
        'campaign: "1458"',
        'campaign: "1459"',
        "log.campaign (='1459') is not a campaign of this file: did you mean '1458'?",
    ),
    "budget of a log without budgets": (
        "budget_micros: 20_000_000",
        "budget_micros: log",
        "campaigns.1458.budget_micros (='log') must be an amount, as a log of auctions states no "
        "budgets: write one in micros",
    ),
    "campaign that is not in the log": (
        "limits: {min",
        '  "2259": {channel: display, bid_micros: 690, budget_micros: 20_000_000}\nlimits: {min',
        "campaigns.2259 is not in the log, which holds 1458 alone: remove it",
    ),
    "win rule": (
        'win_rule: ">"',
        "win_rule: above",
        "log.win_rule (='above') must be '>' or '>=': choose from >, >=",
    ),
    "log format": (
        "format: ipinyou_auctions",
        "format: ipinyou",
        "log.format (='ipinyou') is not a known format: did you mean 'ipinyou_bins'?",
    ),
    "key of another format": (
        "value: flat",
        "value: flat, zone: UTC",
        "log.zone (='UTC') is not a known key: choose from format, campaign, rows_per_tick, win_rule, "
        "logged_bid_micros, "
        "value, max_reject_share",
    ),
    "market in a replay": (
        "auction: second_price",
        "auction: second_price\nmarkets: {}",
        "markets (={}) is not a known key: choose from schema_version, name, seed, account, decision_every, record, "
        "shards, campaigns_per_actor and 16 others",
    ),
    "creatives in a replay": (
        "limits: {min",
        'script: {proposals: [{day: 1, time: "10:00", campaign: "1458", creatives: {a: 100%}}]}\nlimits: {min',
        "script.proposals[0].creatives must be left out: a replayed campaign has no creatives",
    ),
    "weights in a replay": (
        "limits: {min",
        'script: {commands: [{day: 1, time: "10:00", by: dana, deny: {campaign: "1458", knob: '
        "weights}}]}\nlimits: {min",
        "script.commands[0].deny.knob (='weights') must be bid, budget or paused: a replayed campaign has no creatives",
    ),
    "limit of nothing": (
        "max_bid_micros: 3_000",
        "max_bid_micros: 0",
        "limits.max_bid_micros (=0) must be >= 1: raise it",
    ),
    "bid above the budget": (
        "budget_micros: 20_000_000, budget_period: flight}\nlimits: {min_bid_micros: 1, max_bid_micros: 3_000, "
        "min_budget_micros: 1_000_000",
        "budget_micros: 600}\nlimits: {min_bid_micros: 1, max_bid_micros: 3_000, min_budget_micros: 1",
        "campaigns.1458.bid_micros (=690) must be <= budget_micros (=600): lower the bid or raise the budget",
    ),
    "limits that leave no room": (
        "min_bid_micros: 1, max_bid_micros: 3_000",
        "min_bid_micros: 690, max_bid_micros: 689",
        "campaigns.1458.bid_micros (=690) must be <= max_bid_micros (=689): lower it or raise the limit (and 1 more)",
    ),
}


@pytest.mark.parametrize(
    ("old", "new", "expected"), (REFUSED | CONTRADICTORY).values(), ids=(REFUSED | CONTRADICTORY).keys()
)
def test_a_bad_simulation_is_refused_in_one_sentence(path, old, new, expected):
    assert sentence(path, old, new) == f"FILE: {expected}"


def test_limits_the_wrong_way_round_are_named_where_they_stand(path):
    lines = TEXT.replace("{min_bid_micros: 100,", "{min_bid_micros: 1_000_001,").splitlines()
    text = "\n".join(sorted(lines, key=lambda line: not line.startswith("limits:")))
    expected = "FILE: limits.min_bid_micros (=1000001) must be <= max_bid_micros (=1000000): lower it (and 3 more)"
    assert sentence(path, text=text) == expected


@pytest.mark.parametrize(("old", "new", "expected"), REPLAY_REFUSED.values(), ids=REPLAY_REFUSED.keys())
def test_a_bad_replay_is_refused_in_one_sentence(path, old, new, expected):
    assert sentence(path, old, new, REPLAY) == f"FILE: {expected}"


def test_the_first_problem_of_the_document_is_named_and_the_others_counted():
    document = yaml.safe_load(TEXT)
    document["campaigns"]["generic"]["bid_micros"] = -1
    document["seed"] = "seven"
    document = {"limits": {**document.pop("limits"), "min_bid": 1}, **document}
    with pytest.raises(BadInput) as refused:
        load_config(document)
    expected = "configuration: limits.min_bid (=1) is not a known key: did you mean 'min_bid_micros'? (and 2 more)"
    assert str(refused.value) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, "25", 10**30, 10**5000, True, None, [1], {}], ids=range(10))
def test_no_such_bid_gets_in(value):
    document = yaml.safe_load(TEXT)
    document["campaigns"]["brand"]["bid_micros"] = value
    with pytest.raises(BadInput, match=r"^configuration: campaigns\.brand\.bid_micros \(=.*\) must be "):
        load_config(document)


# --- what nobody thought of ---

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.dates() | st.datetimes()
keys = st.text(max_size=6) | st.integers() | st.none() | st.sampled_from(["day", "time", "policy", "bid_micros", "ctr"])
garbage = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)


def places(document, path=()):
    """Every place in a document, the document itself excepted."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


DOCUMENTS = [yaml.safe_load(TEXT), yaml.safe_load(REPLAY)]
PLACES = [(document, place) for document in DOCUMENTS for place in places(document)]


def loads_or_refuses(document):
    try:
        said = f"configuration {load_config(document).name} loads"
    except BadInput as refused:
        said = str(refused)
    assert said.startswith("configuration")
    assert "\n" not in said


@given(st.dictionaries(keys | st.sampled_from(sorted(DOCUMENTS[0])), garbage, max_size=5))
def test_garbage_is_refused_and_nothing_else_is_raised(document):
    loads_or_refuses(document)
    loads_or_refuses({"schema_version": 1, "source": "simulation"} | document)


@given(st.sampled_from(PLACES), garbage)
def test_garbage_in_any_place_is_refused_and_nothing_else_is_raised(where, value):
    document = copy.deepcopy(where[0])
    node = document
    for key in where[1][:-1]:
        node = node[key]
    node[where[1][-1]] = value
    loads_or_refuses(document)


@given(st.text(max_size=80))
def test_any_text_is_refused_and_nothing_else_is_raised(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "garbage.yaml"
    file.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(BadInput):
        load_config(file)
