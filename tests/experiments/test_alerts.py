"""A rollback that a person's later edit blocks, from the ledger to every place where people see it.

And the story in the report: line by line the one of the command line.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from engine.alerts import AlertLog
from engine.ledger import GENESIS, LedgerError, RecordKind, decode, decode_round, encode, seal
from engine.runtime.store import LEDGER, read_ledger
from experiments import api
from experiments.api import Run
from experiments.report import report
from experiments.report.decisions import Calendar, alarms
from experiments.report.story_lines import story_text
from tests.conftest import Stage
from tests.experiments.cli_runs import call
from tests.experiments.test_report import EVIL, SHOWN, Page

HOUR = 60


def loses(edit: dict[str, Any] | None = None) -> dict[str, Any]:
    """A week in which most of a campaign's weight goes to a creative that nobody clicks, and a person's edit of it."""
    about = {"campaign": "a", "knob": "weights"}
    commands = [{"day": 3, "time": "12:00", "by": "dana", "approve": about}]
    if edit is not None:
        commands.append({**edit, "by": "dana", "edit": {**about, "creatives": {"good": "30%", "bad": "70%"}}})
    wish = {"campaign": "a", "by": "sam", "creatives": {"good": "25%", "bad": "75%"}, "note": "a hunch"}
    bad = {"a": "1%", "b": "30%", "c": "30%"}
    return {
        "schema_version": 1,
        "name": "loses",
        "seed": 3,
        "source": "simulation",
        "account": {"currency": "EUR", "zone": "Europe/Berlin"},
        "time": {"start": "2026-03-02", "days": 7, "tick_minutes": HOUR},
        "markets": {
            "market": {
                "auction": "second_price",
                "charging": "per_impression",
                "opportunities_per_tick": 800,
                "traffic": {"amplitude": "30%", "peak_hour": 20},
                "price": {"level_micros": 20_000, "sigma": 0.5},
            }
        },
        "campaigns": {
            name: {
                "market": "market",
                "bid_micros": 30_000,
                "budget_micros": 900_000_000,
                "creatives": {"good": {"ctr": "30%"}, "bad": {"ctr": ctr}},
                "conversions": {"rate": "50%", "delay_hours": 1, "value_micros": 400_000, "value_sigma": 0.2},
            }
            for name, ctr in bad.items()
        },
        "policies": [],
        "mandates": [],
        "limits": {
            "min_bid_micros": 100,
            "max_bid_micros": 1_000_000,
            "min_budget_micros": 1_000_000,
            "max_budget_micros": 2_000_000_000,
        },
        "approver": "scripted",
        "script": {"proposals": [{"day": 3, "time": "10:00", **wish}], "commands": commands},
    }


def told_of_watches(run: Run, event: str) -> list[int]:
    """The ticks at which the ledger tells an event of a watch."""
    rounds = [record for record in read_ledger(run.folder / LEDGER) if record.kind is RecordKind.ROUND]
    return [each.tick for each in rounds for watch in decode_round(each).header["watches"] if watch["event"] == event]


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run in which a person edits in the very round of the verdict, which one without the edit tells."""
    folder = tmp_path_factory.mktemp("blocked")
    (verdict,) = told_of_watches(api.simulate(loses(), out=folder / "first"), "rolls_back")
    day, hour = divmod(verdict + 1, 24)
    run = api.simulate(loses({"day": day + 1, "time": f"{hour:02}:00"}), out=folder / "run")
    assert told_of_watches(run, "blocked") == [verdict + 1]
    return run


def since(run: Run) -> pd.Timestamp:
    """When the alert was opened: the round after that of the verdict."""
    (tick,) = told_of_watches(run, "blocked")
    return pd.Timestamp("2026-03-02", tz="Europe/Berlin") + pd.Timedelta(hours=tick + 1)


def test_run_alerts_is_a_row_per_alert(blocked: Run, reference: Stage) -> None:
    row = blocked.alerts.astype(object).where(blocked.alerts.notna(), None).to_dict("records")[-1]
    assert row == {
        "opened": since(blocked),
        "closed": None,
        "kind": "rollback_blocked",
        "campaign": "a",
        "knob": "weights",
        "about": "",
        "why": "later_edit",
        "closed_why": "",
    }
    none = reference.run("simulated").alerts
    assert (len(none), list(none.columns)) == (0, list(row))
    assert str(none.opened.dtype).startswith("datetime64")


def test_the_audit_counts_open_alerts(blocked: Run, capfd: pytest.CaptureFixture[str]) -> None:
    found = api.audit(blocked.folder)
    assert (found["valid"], found["open_alerts"]) == (True, 1)
    assert call(capfd, "audit", blocked.folder).out.endswith("; 1 alert open.\n")


def test_the_story_tells_the_verdict_what_blocked_it_and_the_alert(blocked: Run) -> None:
    opened = f"{since(blocked):%Y-%m-%d %H:%M}"
    verdict = f"{since(blocked) - pd.Timedelta(hours=1):%Y-%m-%d %H:%M}"
    lines = [line.strip() for line in story_text(api.story(blocked.folder, "a")).splitlines()]
    first = lines.index("2026-03-04 13:00 watch: opened")
    assert re.fullmatch(rf"{verdict} watch: roll back( \(.*\))?: profit per opportunity", lines[first + 1])
    assert lines[first + 2 : first + 4] == [
        f"{verdict} not rolled back by watch: the knob already changes in this round",
        f"{opened} watch: its rollback is blocked: a person's later edit stands upon it",
    ]
    assert lines[-2:] == [
        f"{opened[11:]}  alert: a rollback is blocked (weights): a person's later edit stands upon it",
        "open at the ledger's end",
    ]


# --- the report ---


def shown_story(detail: dict[str, Any]) -> list[str]:
    """The lines of a campaign's story as a page holds them."""
    lines = []
    for date, steps, blocks in detail["story"]:
        lines += [date, *steps, *(line for block in blocks for line in block)]
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("job", ["simulated", "recorded", "factual", "auctions"])
def test_the_reports_story_is_the_command_lines(job: str, reference: Stage, tmp_path: Path) -> None:
    run = api.open_run(shutil.copytree(reference.run(job).folder, tmp_path / "run"))
    page = Page(report(run))
    for known in page.run["campaigns"]:
        _, detail = page.campaign(known["id"])
        text = story_text(api.story(run.folder, known["id"]))
        heading, zone, *lines = [line.strip() for line in text.splitlines() if line.strip()]
        assert shown_story(detail) == lines
        assert f"{detail['story_records']:,} ledger records" in heading
        assert zone.startswith("Times are those of")
        assert (detail["story_left_out"], detail["alerts"]) == (0, [])


def test_the_report_shows_alerts_and_verdicts(blocked: Run) -> None:
    page = Page(report(blocked))
    when = f"{since(blocked).day} {since(blocked):%b %H:%M}"
    what, why = "a rollback is blocked (weights)", "a person's later edit stands upon it"
    texts = [text for text in page.texts if text.strip()]
    first = texts.index("open")
    assert texts[first : first + 6] == ["open", when, "–", "a", what, why]
    assert page.campaign("a")[1]["alerts"][0] == [True, f"since {when} · {what}: {why}"]
    assert page.campaign("b")[1]["alerts"] == []
    told = page.words(page.campaign("a")[1]["changes"], 1, 2, 8)
    assert [row[8] for row in told if row[2] == "applied"] == [f"its rollback is blocked: {why}, {when}", None]


def entry(event: str, tick: int, **other: Any) -> tuple[int, dict[str, Any]]:
    told = {"alert": "rollback_blocked", "event": event, "campaign": 0, "knob": 0, "label": "", "why": "later_edit"}
    return tick, {"alerts": [told | other]}


def test_open_alerts_come_first_the_oldest_on_top_closed_ones_after_with_both_times() -> None:
    rounds = [
        entry("opened", 0),
        entry("opened", 1, alert="lease_lost", campaign=-1, knob=None, why="no renewal since 3 hours"),
        entry("opened", 2, alert="policy_suspended", campaign=-1, knob=None, label=EVIL, why=EVIL),
        entry("closed", 3, why="later_change"),
        entry("opened", 4),
        entry("closed", 5, alert="lease_lost", campaign=-1, knob=None, why="renewed"),
    ]
    local = pd.Series(pd.date_range("2026-03-02", periods=10, freq="h"))
    log = AlertLog()
    for tick, header in rounds:
        log.take(tick, header["alerts"])
    found = alarms(log.alerts, ["a"], Calendar(local, HOUR))
    edit, change = "a person's later edit stands upon it", "a later change stands upon it"
    assert [(each.since, each.until, each.campaign, each.what, each.why, each.closed_why) for each in found] == [
        ("2 Mar 03:00", None, None, f"a policy is suspended ({SHOWN})", SHOWN, ""),
        ("2 Mar 05:00", None, "a", "a rollback is blocked (bid)", edit, ""),
        ("2 Mar 02:00", "2 Mar 06:00", None, "the lease was not renewed", "no renewal since 3 hours", "renewed"),
        ("2 Mar 01:00", "2 Mar 04:00", "a", "a rollback is blocked (bid)", edit, change),
    ]


# --- forged ledgers ---


def forge(folder: Path, sequence: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a round's header, seal the whole chain anew, and write its head into run.json: what a forger can do."""
    previous, records = GENESIS, list(read_ledger(folder / LEDGER))
    with sqlite3.connect(folder / LEDGER) as connection:
        for record in records:
            body = record.body
            if record.sequence == sequence:
                header, tables = decode(body)
                change(header)
                body = encode(header, tables)
            forged = seal(previous, record.sequence, record.kind, record.tick, body)
            values = (forged.body, forged.digest, forged.sequence)
            connection.execute("UPDATE ledger SET body = ?, digest = ? WHERE sequence = ?", values)
            previous = forged.digest
    connection.close()
    info = json.loads((folder / "run.json").read_text())
    info["digests"]["ledger"] = previous.hex()
    (folder / "run.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"campaign": 7}, "tells of an alert about no campaign of this run"),
        ({"event": "closed"}, "tells what cannot be: alert rollback_blocked of campaign 0 is not open"),
        ({"knob": 9}, "has a header that cannot be read|tells what cannot be: 9 is not a valid Knob"),
    ],
)
def test_a_forged_alert_is_refused_in_one_sentence(blocked: Run, tmp_path: Path, other: Any, why: str) -> None:
    (tick,) = told_of_watches(blocked, "opened")
    folder = Path(shutil.copytree(blocked.folder, tmp_path / "run"))
    (told,) = entry("opened", tick)[1]["alerts"]
    forge(folder, tick + 1, lambda header: header.update(alerts=[told | other]))
    run = api.open_run(folder)
    for ask in (lambda: run.alerts, lambda: report(run)):
        with pytest.raises(LedgerError, match=rf"^record {tick + 1} ({why})"):
            ask()
    assert api.audit(folder)["first_bad"] == tick + 1


def no_alert_opens(header: dict[str, Any]) -> None:
    header["alerts"] = [each for each in header["alerts"] if each["event"] != "opened"]


def the_other_knob(header: dict[str, Any]) -> None:
    header["commands"][0]["knob"] = 0


@pytest.mark.parametrize(
    ("event", "change", "why"),
    [
        ("blocked", no_alert_opens, r"no alert tells of it$"),
        ("blocked", lambda header: header["watches"][0].update(event="opened"), "open watch cannot follow watched$"),
        ("opened", lambda header: header.update(watches=[]), None),  # and so the verdict comes from nowhere
        ("opened", lambda header: header["watches"][0].update(event="kept"), "keep cannot follow applied$"),
    ],
)
def test_a_forged_life_is_found_though_its_chain_and_run_json_hold(
    blocked: Run, tmp_path: Path, event: str, change: Callable[[dict[str, Any]], Any], why: str | None
) -> None:
    (tick,) = told_of_watches(blocked, event)
    (verdict,) = told_of_watches(blocked, "rolls_back")
    folder = Path(shutil.copytree(blocked.folder, tmp_path / "run"))
    forge(folder, tick + 1, dict)  # changes nothing
    assert api.audit(folder)["valid"]
    forge(folder, tick + 1, change)
    found = api.audit(folder)
    bad = tick + 1 if why else verdict + 1
    assert (found["valid"], found["first_bad"], found["records"]) == (False, bad, bad)
    assert found["why"].startswith(f"record {bad} tells what cannot be: action ")
    assert "campaign a, weights): waiting at tick 57, granted at tick 59, approved at tick 59" in found["why"]
    assert re.search(why or "roll back cannot follow applied$", found["why"])


def test_a_forged_approval_is_named_on_the_command_line(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rounds = [record for record in read_ledger(finished / LEDGER) if record.kind is RecordKind.ROUND]
    place = next(each.sequence for each in rounds if decode_round(each).header["commands"])
    forge(finished, place, the_other_knob)
    answer = call(capfd, "audit", finished)
    assert (answer.code, answer.err) == (2, "")
    assert answer.out.startswith(
        f"The ledger does NOT hold: record {place} was changed (record {place} tells what cannot be: "
        "campaign search-a, bid: nothing waits there; grant cannot follow)"
    )
