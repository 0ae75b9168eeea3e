"""A run's limits file: what it may say, where it lies, and what a run does when it changes while it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.ledger import RecordKind, decode_round
from engine.limits import Limits
from engine.runtime.local import LocalRunner, Progress
from engine.runtime.store import LEDGER, read_ledger
from experiments import api, build
from experiments.api import Run
from experiments.config import load_config, schema, with_limits
from tests.rehearsals import Crash, small
from tests.scenarios import AUCTIONS, config, write_config

OWN = "schema_version: 1\n"
"""Nothing but what the configuration says itself."""
LOW = OWN + "limits: {max_bid_micros: 20_000}\n"
NO_MANDATE = OWN + "mandates: []\n"
BAD = OWN + "limits: {max_bid: 20_000}\n"
WHY = "limits.yaml: limits.max_bid (=20000) is not a known key: did you mean 'max_bid_micros'?"
MISSING = "limits.yaml does not exist: put it back"

# --- what it says ---


def test_what_is_said_takes_the_place_of_the_configurations_own_and_the_rest_stays() -> None:
    text = """\
schema_version: 1
limits: {max_bid_micros: 90_000, min_budget_micros: 500_000}
account_budget_micros: 40_000_000
mandates: [{campaigns: [search-a], knobs: [bid], band: ["1/2", 2], until_day: 2, exposure_cap: 30%}]
campaigns:
  search-a: {limits: {max_bid_micros: 50_000}}
"""
    document = config()
    document["campaigns"]["search-a"]["limits"] = {"min_bid_micros": 200, "max_bid_micros": 60_000}
    before = load_config(document)
    document["limits"] |= {"max_bid_micros": 90_000, "min_budget_micros": 500_000}
    document["account"]["budget_micros"] = 40_000_000
    document["campaigns"]["search-a"]["limits"]["max_bid_micros"] = 50_000
    document["mandates"] = yaml.safe_load(text)["mandates"]
    assert with_limits("limits.yaml", text, before) == load_config(document)
    assert with_limits("limits.yaml", OWN, before) == before


def test_the_plan_reads_limits_as_a_configuration_that_says_the_same_gives_them() -> None:
    text = OWN + "limits: {max_bid_micros: 90_000}\nmandates: []\naccount_budget_micros: 25_000_000\n"
    plan = build.simulation(api.load(config(limits_file="limits.yaml")))
    said = config(mandates=[], limits=config()["limits"] | {"max_bid_micros": 90_000})
    said["account"]["budget_micros"] = 25_000_000
    same = build.simulation(api.load(said)).limits
    assert plan.limits_file is not None
    assert columns(plan.limits_file.read(text)) == columns(same)
    assert not plan.limits.automatic
    assert (plan.limits.mandate_until == -1).all()


def columns(limits: Limits) -> dict[str, Any]:
    """Limits as plain values."""
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(limits).items()}


def test_values_in_force_may_lie_outside_new_limits() -> None:
    text = OWN + "limits: {min_bid_micros: 25_000, max_bid_micros: 25_000}\naccount_budget_micros: 1\n"
    changed = with_limits("limits.yaml", text, load_config(config()))
    assert (changed.limits.max_bid_micros, changed.account.budget_micros) == (25_000, 1)


REFUSED = {
    "nothing": ("", " is empty: begin with 'schema_version: 1'"),
    "a list": ("- 1", " holds a list where a table of keys is expected: begin with 'schema_version: 1'"),
    "no version": ("limits: {}", ": schema_version is missing: begin with 'schema_version: 1'"),
    "another version": (
        "schema_version: 2",
        ": schema_version (=2) is not the version this program reads: write 1, or use the program that wrote the file",
    ),
    "half a file": (
        OWN + "limits: {max",
        ", line 2 is not YAML (expected ',' or '}', but got '<stream end>'): correct it",
    ),
    "a key twice": (OWN + "limits: {}\nlimits: {}", ", line 3: limits is given twice: remove one of the two"),
    "an unknown key": (OWN + "mandate: []", ": mandate (=[]) is not a known key: did you mean 'mandates'?"),
    "an unknown limit": (BAD, WHY.removeprefix("limits.yaml")),
    "a negative amount": (OWN + "account_budget_micros: -1", ": account_budget_micros (=-1) must be >= 0: raise it"),
    "a minimum above a maximum": (
        OWN + "limits: {min_bid_micros: 50, max_bid_micros: 40}",
        ": limits.min_bid_micros (=50) must be <= max_bid_micros (=40): lower it",
    ),
    "a maximum below the configuration's minimum": (
        OWN + "limits: {max_bid_micros: 99}",
        ": limits.max_bid_micros (=99) must be >= min_bid_micros (=100): raise it",
    ),
    "a campaign's maximum below its minimum": (
        OWN + "campaigns: {search-a: {limits: {max_budget_micros: 5}}}",
        ": campaigns.search-a.limits.max_budget_micros (=5) must be >= min_budget_micros (=1000000): raise it",
    ),
    "limits of an unknown campaign": (
        OWN + "campaigns: {search-c: {limits: {}}}",
        ": campaigns.search-c is not a campaign of this run: did you mean 'search-b'?",
    ),
    "a mandate for an unknown campaign": (
        OWN + "mandates: [{campaigns: [serch-a], knobs: [bid]}]",
        ": mandates[0].campaigns[0] (='serch-a') is not a campaign of this run: did you mean 'search-a'?",
    ),
    "two mandates for one knob": (
        OWN + "mandates: [{campaigns: all, knobs: [bid]}, {campaigns: [search-a], knobs: [bid]}]",
        ": mandates[1].campaigns (=['search-a']) gives the bid of search-a a second mandate after mandates[0]: name "
        "other campaigns",
    ),
    "a mandate beyond the run": (
        OWN + "mandates: [{campaigns: all, knobs: [bid], until_day: 4}]",
        ": mandates[0].until_day (=4) must be a day of the run: write 1 to 3, or leave it out",
    ),
    "two problems": (
        OWN + "campaigns: {search-c: {limits: {}}, search-d: {limits: {}}}",
        ": campaigns.search-c is not a campaign of this run: did you mean 'search-b'? (and 1 more)",
    ),
}


@pytest.mark.parametrize(("text", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_limits_file_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        with_limits("limits.yaml", text, load_config(config()))
    assert str(refused.value) == f"limits.yaml{sentence}"


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
garbage = st.recursive(
    values,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["search-a", "limits", "campaigns", "knobs", "max_bid_micros"]) | st.text(max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
LOADED = load_config(config())


@given(st.dictionaries(st.sampled_from(["limits", "account_budget_micros", "mandates", "campaigns"]), garbage))
def test_garbage_is_refused_and_nothing_else_is_raised(document: dict[str, Any]) -> None:
    text = yaml.safe_dump({"schema_version": 1} | document)
    try:
        said = f"limits.yaml is {with_limits('limits.yaml', text, LOADED).name}'s"
    except BadInput as refused:
        said = str(refused)
    assert said.startswith("limits.yaml")
    assert "\n" not in said


# --- where it lies ---


def test_a_configuration_files_limits_file_lies_beside_it_and_a_mappings_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    document = config(limits_file="limits.yaml")
    file = write_config(tmp_path / "configs" / "small.yaml", document)
    beside = str(tmp_path / "configs" / "limits.yaml")
    assert [load_config(path).limits_file for path in (file, Path("configs/small.yaml"))] == [beside] * 2
    assert load_config(document).limits_file == str(tmp_path / "limits.yaml")
    assert load_config(config(limits_file="/etc/limits.yaml")).limits_file == "/etc/limits.yaml"
    assert load_config(config()).limits_file is None
    echo = load_config(file).model_dump_json()
    monkeypatch.chdir("/")
    assert load_config(json.loads(echo)).limits_file == beside


@pytest.mark.parametrize("text", [config(), config(AUCTIONS)], ids=["simulation", "replay"])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("", "limits_file (='') must not be empty: write a name"),
        (7, "limits_file (=7) must be text: write it in quotes"),
    ],
)
def test_a_limits_file_is_named_by_its_path(text: dict[str, Any], value: Any, sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_config(text | {"limits_file": value})
    assert str(refused.value) == f"configuration: {sentence}"


def test_the_schema_knows_the_limits_file() -> None:
    described = schema()["$defs"]
    assert all("limits_file" in described[model]["properties"] for model in ("SimulationConfig", "ReplayConfig"))


# --- what a run does with it ---

Texts: TypeAlias = dict[int, str | None]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the limits file of a small run lies."""
    return tmp_path / "limits.yaml"


def put(file: Path, text: str | None) -> None:
    """Write the file anew; None removes it."""
    file.unlink(missing_ok=True) if text is None else file.write_text(text)


def rewriting(file: Path, texts: Texts, then: Callable[[int], None] = lambda _: None) -> Callable[[Progress], None]:
    """A watcher that puts a text into the file at each of the given ticks."""

    def watch(now: Progress) -> None:
        if now.tick in texts:
            put(file, texts[now.tick])
        then(now.tick)

    return watch


def steered(file: Path) -> dict[str, Any]:
    """A small run with its limits file."""
    return small(limits_file=str(file))


def reloads(run: Run) -> dict[int, tuple[int, str | None, list[str]]]:
    """By tick, where a round read the file: the version of the limits in force, why not others, alerts' events."""
    found = {}
    for record in read_ledger(run.folder / LEDGER):
        if record.kind is RecordKind.ROUND and (header := decode_round(record).header)["limits"]:
            alerts = [each["event"] for each in header["alerts"] if each["alert"] == "limits_unreadable"]
            found[record.tick] = header["limits_version"], header["limits"]["why"], alerts
    return found


LATER = 4  # ticks until a boundary sees what a watcher did: so far do tables lag behind decisions


def test_the_limits_file_unreadable_at_reload_keeps_the_last_good_limits_and_opens_an_alert(
    file: Path, tmp_path: Path
) -> None:
    put(file, LOW)
    run = api.simulate(steered(file), out=tmp_path / "run", watch=rewriting(file, {10: BAD, 30: None, 50: OWN}))
    assert reloads(run) == {
        0: (2, None, []),
        10 + LATER: (2, WHY, ["opened"]),
        30 + LATER: (2, MISSING, []),
        50 + LATER: (3, None, ["closed"]),
    }
    rows = run.actions
    unreadable = rows.tick.between(10 + LATER, 50 + LATER - 1)
    policy = rows[unreadable & (rows.source == "policy")]
    assert (policy.outcome == "applied").sum() > 20  # the last good mandates hold
    bids = rows[(rows.knob == "bid") & (rows.outcome == "applied")]
    low = bids.tick < 50 + LATER
    assert bids[low].wanted.max() <= 20_000  # and the last good bounds
    assert bids[~low].wanted.max() > 20_000
    assert (rows[unreadable].reason == "hard_maximum").any()
    assert api.audit(run.folder)["valid"]


def test_the_limits_file_unreadable_at_start_means_no_automatic_mode(file: Path, tmp_path: Path) -> None:
    run = api.simulate(steered(file), out=tmp_path / "run", watch=rewriting(file, {50: OWN}))
    assert reloads(run) == {0: (1, MISSING, ["opened"]), 50 + LATER: (2, None, ["closed"])}
    before, after = (run.actions[each] for each in (run.actions.tick < 50 + LATER, run.actions.tick >= 50 + LATER))
    automatic = before[before.source.isin(["policy", "script"])]
    waits = automatic[automatic.outcome == "needs_approval"]
    assert set(waits.reason) == {"no_automatic_mode"}
    assert len(waits) > 100
    applied = before[before.outcome == "applied"]
    assert applied[["tick", "campaign", "knob", "source"]].drop_duplicates().to_numpy().tolist() == [
        [9, "search-a", "weights", "script"],  # which dana approved
        [24, "search-a", "weights", "rollback"],
        [34, "social-a", "budget", "person"],
        [49, "social-b", "paused", "person"],
    ]
    assert (after[after.source == "policy"].outcome == "applied").sum() > 20


@pytest.mark.slow
def test_without_a_change_the_file_changes_nothing_but_the_first_rounds_record(file: Path, tmp_path: Path) -> None:
    put(file, OWN)
    runs = [api.simulate(document, out=tmp_path / name) for name, document in (("a", steered(file)), ("b", small()))]
    assert runs[0].digests["metrics"] == runs[1].digests["metrics"]
    assert reloads(runs[0]) == {0: (2, None, [])}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    again = api.simulate(steered(shutil.copy(file, elsewhere / file.name)), out=tmp_path / "c")
    assert again.digests == runs[0].digests


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_every", [8, 100])
def test_a_run_killed_and_resumed_after_its_limits_changed_again_comes_out_the_same(
    file: Path, tmp_path: Path, checkpoint_every: int
) -> None:
    runner = LocalRunner(2, checkpoint_every)
    texts: Texts = {5: LOW, 18: BAD, 20: NO_MANDATE, 22: OWN, 25: None, 40: LOW}
    put(file, OWN)
    undisturbed = api.simulate(steered(file), out=tmp_path / "one", runner=runner, watch=rewriting(file, texts))

    def crash(tick: int) -> None:
        if tick == 25:  # what stands in the ledger by now is decided again, while the file says something else
            raise Crash

    put(file, OWN)
    with pytest.raises(Crash):
        api.simulate(steered(file), out=tmp_path / "two", runner=runner, watch=rewriting(file, texts, crash))
    resumed = api.resume(tmp_path / "two", runner=runner, watch=rewriting(file, {40: LOW}))
    assert list(reloads(undisturbed)) == [0, *(tick + LATER for tick in texts)]
    assert reloads(resumed) == reloads(undisturbed)
    assert resumed.digests == undisturbed.digests
    ledgers = [list(read_ledger(run.folder / LEDGER)) for run in (resumed, undisturbed)]
    assert ledgers[0] == ledgers[1]
