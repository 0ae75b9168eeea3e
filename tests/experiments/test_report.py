"""The report: its figures are the tables', its texts are text, and it asks nothing of anybody."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plotly.offline import get_plotlyjs

from engine.errors import BadInput
from engine.events import COUNTS
from engine.metrics import ScoreTargets, metrics
from engine.runtime.local import LocalRunner, Progress
from experiments import api
from experiments.api import Run
from experiments.report import report
from experiments.report.bins import gather
from experiments.report.text import script_json, visible
from tests.conftest import EVERY_JOB, Stage
from tests.experiments.cli_runs import call
from tests.scenarios import CONFIGS, DATA, config

EVIL = "</script><script>alert(1)</script><!-- \"quoted\" 'it' &amp; %{x} \u2028\u202e\x07 <b onclick=x>"
SHOWN = "</script><script>alert(1)</script><!-- \"quoted\" 'it' &amp; %{x} \\u2028\\u202e\\u0007 <b onclick=x>"


class Page(HTMLParser):
    """What a browser makes of a report: scripts by id, cells, and every attribute that could load something."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.data: dict[str, Any] = {}
        self.scripts: list[str] = []
        self.figures: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self._script: str | None = None
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.append((tag, known))
        if tag == "script":
            self._script = known.get("id") or ""
        if "data-figure" in known:
            self.figures[str(known["data-figure"])] = str(known["data-value"])
        if tag == "tr" and "data-place" in known:
            self.rows.append([])
        if tag == "td" and "data-value" in known:
            self.rows[-1].append(str(known["data-value"]))

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.texts.append(data)
        elif self._script:
            self.data[self._script] = json.loads(data)
        else:
            self.scripts.append(data)

    @property
    def run(self) -> dict[str, Any]:
        overview: dict[str, Any] = self.data["run-data"]
        return overview

    def campaign(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """A campaign's part of the overview, and what is shown of it close up."""
        known = next(each for each in self.run["campaigns"] if each["id"] == name)
        return known, self.data[f"campaign-{known['number']}"]

    def words(self, rows: list[list[Any]], *places: int) -> list[list[Any]]:
        """Rows with the words that some of their places stand for."""
        known = self.run["words"]
        return [
            [None if value is None else known[value] if at in places else value for at, value in enumerate(row)]
            for row in rows
        ]


@pytest.fixture(scope="module")
def run_of(reference: Stage, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Run, Page]]:
    """Every job's run, in a folder of this module's own, and its page."""
    folder = tmp_path_factory.mktemp("reported")

    def made(job: str) -> tuple[Run, Page]:
        copied = folder / job
        if not copied.exists():
            shutil.copytree(reference.run(job).folder, copied)
        run = api.open_run(copied)
        return run, Page(report(run))

    return cache(made)


@pytest.fixture(scope="module", params=EVERY_JOB)
def reported(request: pytest.FixtureRequest, run_of: Callable[[str], tuple[Run, Page]]) -> tuple[Run, Page]:
    return run_of(request.param)


@pytest.fixture(scope="module")
def simulated(run_of: Callable[[str], tuple[Run, Page]]) -> tuple[Run, Page]:
    return run_of("simulated")


def number(text: str) -> float | None:
    return float(text) if text else None


# --- its figures are the tables' ---


def check_figures(run: Run, page: Page) -> None:
    """Headline, ranking, bins and lists of changes against the tables."""
    table, actions, unrecorded = run.metrics, run.actions, run.info["unrecorded"]
    totals = {name: None if name in unrecorded else int(table[name].sum()) for name in COUNTS}
    targets = ScoreTargets(**run.info["config"]["score"])
    overall = metrics(table[list(COUNTS)].sum().to_numpy(), None, targets, unrecorded)
    rolled_back = int(((actions.source == "rollback") & (actions.outcome == "applied")).sum())
    recorded = int((actions.outcome == "recorded").sum())
    shown = {name: number(value) for name, value in page.figures.items()}
    names = ("spend_micros", "revenue_micros", "impressions", "clicks", "conversions")
    given_back = {"refunds_micros": totals["refunds_micros"]} if totals["refunds_micros"] else {}
    attribution = run.info["attribution"]
    attributed = {"attribution_accuracy": attribution["accuracy"]} if attribution else {}
    changes = (
        {"recorded": recorded} if recorded else {"applied": int((actions.outcome == "applied").sum()) - rolled_back}
    )
    assert (
        shown
        == {name: totals[name] for name in names}
        | {
            "roas": overall["roas"].value,
            "score": overall["score"].value,
            "refused": int((actions.outcome == "refused").sum()),
            "rolled_back": rolled_back,
        }
        | changes
        | given_back
        | attributed
    )
    check_ranking(run, page)
    for name, rows in table.groupby("campaign", observed=True):
        check_campaign(run, page, str(name), rows)


def check_ranking(run: Run, page: Page) -> None:
    order = [each["id"] for each in page.run["campaigns"]]
    people = " reach frequency" if run.summary.reach.notna().any() else ""
    columns = (
        f"spend revenue roas score impressions{people} win_rate clicks ctr conversions cvr cpc cpa changes refusals "
        "rollbacks"
    )
    expected = run.summary.loc[order, columns.split()].astype(float).to_numpy()
    found = np.array([[np.nan if value == "" else float(value) for value in row] for row in page.rows])
    np.testing.assert_array_equal(found, expected)
    assert list(run.summary.loc[order].spend) == sorted(run.summary.spend, reverse=True)


def check_campaign(run: Run, page: Page, name: str, rows: pd.DataFrame) -> None:
    overview, detail = page.campaign(name)
    assert sum(filter(None, detail["spend_micros"])) == rows.spend_micros.sum()
    assert sum(filter(None, overview["coarse"]["clicks"])) == rows.clicks.sum()
    assert overview["total"]["impressions"] == rows.impressions.sum()
    local = rows.tick_start.dt.tz_convert(run.info["config"]["account"]["zone"]).dt.tz_localize(None)
    midnight = local.iloc[0].normalize()
    binned = rows[list(COUNTS)].groupby((local - midnight) // pd.Timedelta(minutes=page.run["coarse"]["width"])).sum()
    binned = binned.loc[[opens // page.run["coarse"]["width"] for opens in page.run["coarse"]["opens"]]]
    ctr = [None if not seen else clicks / seen for clicks, seen in zip(binned.clicks, binned.impressions, strict=True)]
    assert overview["coarse"]["ctr"] == [None if value is None else pytest.approx(value, rel=1e-5) for value in ctr]
    of_campaign = run.actions[run.actions.campaign == name]
    one_each = of_campaign[of_campaign.creative.isna()]
    vectors = of_campaign[of_campaign.creative.notna()].drop_duplicates(["round", "outcome", "source", "proposer"])
    assert len(detail["changes"]) + detail["left_out"] == len(one_each) + len(vectors)
    scalars = [change for change in detail["changes"] if not isinstance(change[9], list)]
    assert sorted(change[9:11] for change in scalars) == sorted(one_each[["old", "wanted"]].to_numpy().tolist())


def test_its_figures_are_the_tables(reported: tuple[Run, Page]) -> None:
    check_figures(*reported)


def test_refunds_are_shown_and_taken_off(run_of: Callable[[str], tuple[Run, Page]], tmp_path: Path) -> None:
    whole = shutil.copytree(run_of("simulated")[0].folder, tmp_path / "refunded")
    table = pq.read_table(whole / "metrics.parquet")
    given_back = pa.array(np.where(np.arange(len(table)) % 2, 2, 0) * table["revenue_micros"].to_numpy())
    place = table.schema.get_field_index("refunds_micros")
    pq.write_table(table.set_column(place, table.schema.field(place), given_back), whole / "metrics.parquet")
    info = json.loads((whole / "run.json").read_text())
    info["totals"]["refunds_micros"] = int(given_back.to_numpy().sum())
    (whole / "run.json").write_text(json.dumps(info))
    run = api.open_run(whole)
    page = Page(report(run))
    check_figures(run, page)
    assert page.figures["refunds_micros"] == repr(info["totals"]["refunds_micros"])
    assert min(value for each in page.run["campaigns"] for value in each["coarse"]["roas"] if value is not None) < 0


def test_what_is_unknown_stays_unknown(run_of: Callable[[str], tuple[Run, Page]]) -> None:
    _, page = run_of("factual")
    first = page.run["campaigns"][0]
    assert set(first["coarse"]["cvr"]) == {None}
    assert set(first["coarse"]["win_rate"]) == {None}
    assert first["unknown"]["cvr"] == "The log does not tell"
    assert page.figures["roas"] == page.figures["revenue_micros"] == ""
    assert "refunds_micros" not in page.figures
    assert None not in first["coarse"]["ctr"]


def test_a_replay_tells_its_support(run_of: Callable[[str], tuple[Run, Page]]) -> None:
    run, page = run_of("auctions")
    bids, outside = run.metrics.bids.to_numpy(), run.metrics.outside_support.to_numpy()
    assert page.campaign("1458")[1]["outside"] == [pytest.approx(share, rel=1e-5) for share in outside / bids]
    assert any("outside the log's support" in text for text in page.texts)


def test_refusals_approvals_rollbacks_and_commands(simulated: tuple[Run, Page]) -> None:
    _, page = simulated
    ids = [each["id"] for each in page.run["campaigns"]]
    told = page.words(page.run["decisions"], 2, 3, 4, 5, 6, 7, 8, 9)
    known = [(ids[row[0]], *row[2:5], row[6], row[8]) for row in told]
    step = "an automatic change is at most a quarter of the value in force"
    mandate = "the campaign is in its first days or has few mature clicks: a person has to approve"
    hold = "a person set the value less than a day ago"
    assert known == [
        ("search-a", "weights", "needs_approval", mandate, "sam", "approved by dana, 28 Mar 10:00: applied"),
        ("search-a", "weights", "applied", None, "sam", None),
        ("display-a", "bid", "refused", step, "sam", None),
        ("social-b", "weights", "needs_approval", mandate, "sam", "denied by dana, 28 Mar 20:00"),
        ("search-a", "weights", "applied", None, "dana", None),
        ("social-a", "budget", "applied", None, "dana", None),
        ("social-a", "budget", "refused", hold, "daily_budgets", None),
        ("social-b", "paused", "applied", None, "dana", None),
        ("social-b", "paused", "applied", None, "dana", None),
    ]
    before_and_after = [[page.run["words"][name], *values] for name, *values in told[4][10]]
    assert before_and_after == [["one", 700_000, 500_000, None], ["two", 300_000, 500_000, None]]
    commands = page.words(page.run["commands"], 1, 2, 4, 5)
    assert [(row[1], row[2], ids[row[3]], row[4]) for row in commands] == [
        ("approve", "dana", "search-a", "weights"),
        ("deny", "dana", "social-b", "weights"),
        ("rollback", "dana", "search-a", "weights"),
        ("edit", "dana", "social-a", "budget"),
        ("pause", "dana", "social-b", "paused"),
        ("resume", "dana", "social-b", "paused"),
    ]
    assert commands[1][5] == "denied"


def test_bands_bounds_plans_and_pauses(simulated: tuple[Run, Page]) -> None:
    _, page = simulated
    overview, detail = page.campaign("social-b")
    assert detail["band"] == [[0, 6_000, 54_000]]
    assert overview["bounds"] == [100, 1_000_000]
    assert overview["plan"]["policy"] == "traffic_aware_pi"
    day = 24 * 60
    assert detail["paused"] == [[2 * day + 3 * 60, 2 * day + 8 * 60]]
    plan = page.run["plans"][page.campaign("display-a")[0]["plan"]["curve"]]
    assert plan[:3] == [round(hours / 24, 5) for hours in (1, 2, 3)]
    assert plan[23] == plan[46] == plan[70] == 1.0


# --- its texts are text ---


@pytest.fixture
def evil(finished: Path) -> Path:
    """A run whose every free word is an attack, written into its files by hand."""
    info = json.loads((finished / "run.json").read_text())
    info["name"] = EVIL
    (finished / "run.json").write_text(json.dumps(info))
    for name, columns in (("metrics", ("channel", "market")), ("actions", ("creative", "proposer", "note"))):
        table = pq.read_table(finished / f"{name}.parquet")
        for column in columns:
            words = [None if word is None else EVIL for word in table[column].to_pylist()]
            place = table.schema.get_field_index(column)
            table = table.set_column(place, column, pa.array(words, type=pa.string()))
        pq.write_table(table, finished / f"{name}.parquet")
    return finished


def test_an_attack_is_shown_as_text(evil: Path) -> None:
    page = Page(report(api.open_run(evil)))
    scripts = [known for tag, known in page.tags if tag == "script"]
    assert len(scripts) == len(page.data) + len(page.scripts) == 1 + 5 + 2
    assert page.scripts[0] == get_plotlyjs()
    own = page.html.replace(get_plotlyjs(), "")
    assert "<script>alert" not in own
    assert "\u2028" not in own
    assert "\u202e" not in own
    assert "\x07" not in own
    assert {name for _, known in page.tags for name in known if name.startswith("on")} == set()
    assert SHOWN in "".join(page.texts)
    assert SHOWN in page.run["words"]
    assert {each["market"] for each in page.run["markets"] if "market" in each} == set()
    assert [each["name"] for each in page.run["markets"]] == [SHOWN]


def test_the_same_words_through_the_configuration(tmp_path: Path) -> None:
    document = config()
    script = document["script"]
    for proposal in script["proposals"]:
        proposal.update(note=EVIL, by=EVIL[:40])
    for command in script["commands"]:
        command["by"] = EVIL[20:60]
    page = Page(report(api.simulate(document, out=tmp_path / "run")))
    assert {visible(EVIL), visible(EVIL[:40]), visible(EVIL[20:60])} <= set(page.run["words"])
    assert "<script>alert" not in page.html.replace(get_plotlyjs(), "")


def test_json_in_a_script_reads_back() -> None:
    value = {EVIL: [EVIL, "\ud800", "]]>", None, 1.5]}
    written = script_json(value)
    assert json.loads(written) == value
    assert not set("<>&'\u2028") & set(written)


# --- it asks nothing of anybody ---


def test_nothing_is_fetched(reported: tuple[Run, Page]) -> None:
    _, page = reported
    loading = (
        "src",
        "srcset",
        "data",
        "action",
        "formaction",
        "poster",
        "background",
        "xlink:href",
        "ping",
        "manifest",
    )
    assert [(tag, name) for tag, known in page.tags for name in loading if name in known] == []
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "img"} == set()
    assert {known["href"][:1] for _, known in page.tags if known.get("href")} == {"#"}
    styles = re.findall(r"<style>(.*?)</style>", page.html, re.DOTALL)
    assert len(styles) == 1
    assert not re.search(r"url\(|@import", styles[0])
    outside = page.html.replace(get_plotlyjs(), "").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]+\.", outside)


def test_only_its_own_scripts_may_run(reported: tuple[Run, Page]) -> None:
    _, page = reported
    policy = next(
        str(known["content"]) for _, known in page.tags if known.get("http-equiv") == "Content-Security-Policy"
    )
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    wanted = "script-src " + " ".join(f"'sha256-{digest}'" for digest in digests)
    assert policy.split("; ")[:2] == ["default-src 'none'", wanted]


def test_no_absolute_path(reported: tuple[Run, Page]) -> None:
    run, page = reported
    for folder in (run.folder.resolve(), *run.folder.resolve().parents[:-1], Path.home(), Path.cwd()):
        assert f"{folder}/" not in page.html
        assert f'"{folder}"' not in page.html


def test_the_same_bytes_from_a_copy_of_the_folder(simulated: tuple[Run, Page], finished: Path) -> None:
    run, page = simulated
    assert report(api.open_run(finished)).read_text(encoding="utf-8") == page.html
    assert report(run).read_text(encoding="utf-8") == page.html
    assert not list(finished.glob("*.new"))


def test_wall_times_do_not_show(finished: Path, simulated: tuple[Run, Page]) -> None:
    info = json.loads((finished / "run.json").read_text())
    (finished / "run.json").write_text(json.dumps(info | {"seconds": 99.9, "auctions_per_second": 1}))
    assert report(api.open_run(finished)).read_text(encoding="utf-8") == simulated[1].html


# --- what it is asked for ---


def test_the_command(capfd: pytest.CaptureFixture[str], finished: Path) -> None:
    told = call(capfd, "report", finished)
    assert (told.code, told.out.split(), told.err) == (0, [str(finished / "report.html")], "")


def test_a_run_that_is_not_finished(finished: Path) -> None:
    info = json.loads((finished / "run.json").read_text())
    (finished / "run.json").write_text(json.dumps(info | {"status": "interrupted"}))
    with pytest.raises(BadInput, match=r"is not finished \(=interrupted\): go on with --resume"):
        report(api.open_run(finished))


@pytest.mark.parametrize("table", ["metrics", "actions"])
@pytest.mark.parametrize("content", [None, b"", b"PAR1 torn"])
def test_a_table_that_cannot_be_read(finished: Path, table: str, content: bytes | None) -> None:
    path = finished / f"{table}.parquet"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"{table}\.parquet cannot be read .*: restore it, or run again"):
        report(api.open_run(finished))
    assert not (finished / "report.html").exists()


def test_a_figure_of_a_metric(simulated: tuple[Run, Page]) -> None:
    run, _ = simulated
    spend, ctr, bid = run.plot("spend"), run.plot("ctr"), run.plot("bid")
    assert [trace.name for trace in spend.data] == [each["id"] for each in simulated[1].run["campaigns"]]
    assert sum(sum(trace.y) for trace in spend.data) == pytest.approx(run.metrics.spend_micros.sum() / 1e6)
    assert 0 < max(value for trace in ctr.data for value in trace.y if value is not None) <= 1
    assert bid.data[0].line.shape == "hv"
    with pytest.raises(BadInput, match=r"metric \(='spent'\) must be one of a run: did you mean 'spend'\?"):
        run.plot("spent")


# --- its resolution ---


def hours(start: str, count: int, zone: str) -> pd.Series:
    opens = pd.date_range(start, periods=count, freq="h", tz=zone)
    return pd.Series(opens).dt.tz_localize(None)


def test_an_hour_that_comes_twice_is_one_bin() -> None:
    local = hours("2026-10-25", 25, "Europe/Berlin")
    bins = gather(local, 60, np.ones(25, dtype=np.bool_), 400, 1440)
    assert bins.opens.tolist() == list(range(0, 1440, 60))
    assert bins.sums(np.ones(25, dtype=np.int64)).tolist() == [1, 1, 2] + [1] * 21
    assert bins.last[2] == 3


def test_a_long_stretch_without_traffic_is_left_out() -> None:
    local = hours("2026-06-01", 24 * 30, "UTC")
    active = np.zeros(24 * 30, dtype=np.bool_)
    active[[5, 6, 24 * 20, 24 * 20 + 1]] = True
    bins = gather(local, 60, active, 400, 1440)
    assert bins.gaps == [(7 * 60, 20 * 24 * 60)]
    assert bins.sums(active.astype(np.int64)).sum() == 4
    assert len(bins) == 7 + 24 * 10


@pytest.mark.parametrize(("days", "fine", "coarse"), [(1, 60, 60), (7, 60, 240), (60, 240, 2880), (900, 1440, 40_320)])
def test_bins_widen_with_the_run(days: int, fine: int, coarse: int) -> None:
    local, active = hours("2026-06-01", 24 * days, "UTC"), np.ones(24 * days, dtype=np.bool_)
    assert gather(local, 60, active, 400, 1440).width == fine
    assert gather(local, 60, active, 42, 364 * 1440).width == coarse


# --- as large as it gets, and the real logs ---


@pytest.mark.slow
def test_two_hundred_campaigns(tmp_path: Path) -> None:
    document = config(record=[])
    document["account"].pop("budget_micros")
    kinds = list(document["campaigns"].items())
    document["campaigns"] = {
        f"{kinds[place % len(kinds)][0]}-{place:03}": kinds[place % len(kinds)][1] for place in range(200)
    }
    document["policies"] = [{"policy": "even_pi", "campaigns": "all"}]
    document["script"] = {}
    for market in document["markets"].values():
        market["opportunities_per_tick"] = 10
    run = api.simulate(document, out=tmp_path / "run")
    began = time.perf_counter()
    path = report(run)
    assert time.perf_counter() - began < 30
    page = Page(path)
    assert page.run["detailed"] == len(page.rows) == 200
    assert path.stat().st_size < 15e6
    check_figures(run, page)


@pytest.mark.slow
def test_the_quickstart(tmp_path: Path) -> None:
    run = api.simulate(CONFIGS / "quickstart.yaml", out=tmp_path / "run")
    path = report(run)
    assert path.stat().st_size < 6e6
    check_figures(run, Page(path))


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "log"),
    [("ipinyou_1458", "ipinyou_1458/train.txt"), ("ipinyou_5min", "ipinyou_5min/rtb_5min_train.csv")],
)
def test_real_logs(tmp_path: Path, name: str, log: str) -> None:
    if not (DATA / log).is_file():
        pytest.skip(f"the real log {log} is not beside the checkout")
    run = api.replay(CONFIGS / f"{name}.yaml", DATA / log, out=tmp_path / "run")
    path = report(run)
    page = Page(path)
    assert path.stat().st_size < 6e6
    assert len(page.run["fine"]["opens"]) <= 400
    check_figures(run, page)


def test_plotly_is_imported_on_use() -> None:
    asked = (
        "import sys, bidtwin, experiments.cli, experiments.show, engine.runtime.hosts; print('plotly' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


@pytest.mark.slow
def test_a_resumed_runs_report_is_that_of_the_undisturbed_run(tmp_path: Path) -> None:
    def interrupt(now: Progress) -> None:
        if now.tick == 40:
            raise KeyboardInterrupt

    undisturbed = api.simulate(config(), out=tmp_path / "undisturbed", runner=LocalRunner(checkpoint_every=8))
    with pytest.raises(KeyboardInterrupt):
        api.simulate(config(), out=tmp_path / "run", runner=LocalRunner(checkpoint_every=8), watch=interrupt)
    resumed = api.resume(tmp_path / "run", runner=LocalRunner(checkpoint_every=8))
    assert resumed.digests == undisturbed.digests
    assert resumed.report().read_bytes() == undisturbed.report().read_bytes()
