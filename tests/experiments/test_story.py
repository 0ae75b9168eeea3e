"""The story of a campaign, whole: what the ledger tells about every change that is more than a mandate's routine."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.actions import ROW_BITS
from engine.ledger import GENESIS, LedgerError, Record, RecordKind, decode, encode, seal
from engine.runtime.local import Progress
from engine.runtime.store import LEDGER, read_ledger
from experiments import api
from experiments.report.story_lines import story_text
from experiments.telling import tell
from tests.conftest import Stage
from tests.experiments.cli_runs import Told, call
from tests.scenarios import SIMULATION, config

SEARCH_A = """\
search-a in run small, told by its 72 ledger records, each chained to the one before.
Times are those of Europe/Berlin; money is in EUR.

2026-03-28
  bid: 23 steps of a mandate, 0.03 → 0.015041

  05:00  weights: one 50% → 70%, two 50% → 30%
         proposed by sam (script) at version 0: one is clicked more
         predicted: spend +0.001245 per day, by a trial in the twin
         guard: needs approval: the campaign is in its first days or has few mature clicks: a person has to approve
         2026-03-28 10:00 approved by dana; the guard, asked again: approved
         2026-03-28 10:00 applied, version 1
         2026-03-28 11:00 watch: opened
         2026-03-29 01:00 rolled back by dana: one 70% → 50%, two 30% → 50%, version 2

2026-03-29
  bid: 23 steps of a mandate, 0.015041 → 0.022612
  budget: 1 step of a mandate, 6.00 → 7.160773

2026-03-30
  bid: 24 steps of a mandate, 0.022612 → 0.014104
  budget: 1 step of a mandate, 7.160773 → 7.605197
"""
SOCIAL_A = """\
social-a in run small, told by its 72 ledger records, each chained to the one before.
Times are those of Europe/Berlin; money is in EUR.

2026-03-28
  bid: 16 steps of a mandate, 0.022 → 0.009255

2026-03-29
  bid: 23 steps of a mandate, 0.009255 → 0.007334
  budget: 1 step of a mandate, 3.00 → 2.74141

  12:00  budget: 2.74141 → 2.50
         proposed by dana (person) at version 1: edit
         guard: approved
         2026-03-29 12:00 applied, version 2
         2026-03-30 00:00 held a later change back by daily_budgets: 2.50 → 2.578554

2026-03-30
  bid: 24 steps of a mandate, 0.007334 → 0.007335

  00:00  budget: 2.50 → 2.578554
         proposed by daily_budgets (policy) at version 2: return
         guard: refused: a person set the value less than a day ago
"""
SOCIAL_B = """\
social-b in run small, told by its 72 ledger records, each chained to the one before.
Times are those of Europe/Berlin; money is in EUR.

2026-03-28
  bid: 23 steps of a mandate, 0.018 → 0.009847

  15:00  weights: still 50% → 60%, video 50% → 40%
         proposed by sam (script) at version 0: a hunch
         predicted: spend +0.00 per day, by a trial in the twin
         guard: needs approval: the campaign is in its first days or has few mature clicks: a person has to approve
         2026-03-28 20:00 denied by dana

2026-03-29
  bid: 23 steps of a mandate, 0.009847 → 0.006964
  budget: 1 step of a mandate, 2.00 → 1.677641

2026-03-30
  bid: 19 steps of a mandate, 0.006964 → 0.0075
  budget: 1 step of a mandate, 1.677641 → 1.468598

  03:00  paused: running → paused
         proposed by dana (person) at version 0: pause
         guard: approved
         2026-03-30 03:00 applied, version 1

  08:00  paused: paused → running
         proposed by dana (person) at version 1: resume
         guard: approved
         2026-03-30 08:00 applied, version 2
"""
DISPLAY_A = """\
display-a in run small, told by its 72 ledger records, each chained to the one before.
Times are those of Europe/Berlin; money is in EUR.

2026-03-28
  bid: 5 steps of a mandate, 0.026 → 0.008667

  15:00  bid: 0.008667 → 0.013867
         proposed by sam (script) at version 5: double down
         guard: refused: an automatic change is at most a quarter of the value in force; it offers 0.010833

2026-03-29
  budget: 1 step of a mandate, 3.00 → 3.077709
  bid: 9 steps of a mandate, 0.008667 → 0.010833

2026-03-30
  budget: 1 step of a mandate, 3.077709 → 2.869576
  bid: 12 steps of a mandate, 0.010833 → 0.021157
"""

EVENTFUL_LIFE = """\
search-a in run small, told by its 72 ledger records, each chained to the one before.
Times are those of Europe/Berlin; money is in EUR.

2026-03-28

  03:00  weights: one 50% → 60%, two 50% → 40%
         proposed by sam (script) at version 0: try
         predicted: spend −0.071205 per day, by a trial in the twin
         guard: needs approval: the campaign is in its first days or has few mature clicks: a person has to approve
         asked 3 times with the same answer, the last at 2026-03-28 05:00: one 50% → 70%, two 50% → 30%
         2026-03-28 10:00 approved by dana; the guard, asked again: approved
         2026-03-28 10:00 applied, version 1
         2026-03-28 11:00 watch: opened
         2026-03-28 12:00 held a later change back by sam: one 70% → 60%, two 30% → 40%
         2026-03-28 18:00 watch: ended without a verdict, since the campaign was changed meanwhile
         2026-03-28 19:00 rolled back by dana: one 70% → 50%, two 30% → 50%, version 4
         2026-03-30 04:00 held a later change back by sam: one 50% → 45%, two 50% → 55%

  06:00  approve weights by sam: the proposer cannot approve

  12:00  weights: one 70% → 60%, two 30% → 40%
         proposed by sam (script) at version 1: try
         guard: refused: the knob cools down after its last change or rollback

  13:00  freeze by dana: frozen

  14:00  bid: 0.03 → 0.057
         proposed by sam (script) at version 0: try
         guard: refused: frozen: nothing begins but pauses and rollbacks
         asked 2 times with the same answer, the last at 2026-03-28 15:00: 0.03 → 0.057

  16:00  unfreeze by dana: unfrozen

  17:00  weights: one 70% → 40%, two 30% → 60%
         proposed by dana (person) at version 1: edit
         guard: approved
         2026-03-28 17:00 applied, version 2
         2026-03-28 18:00 rolled back by dana: one 40% → 70%, two 60% → 30%, version 3
         2026-03-28 21:00 held a later change back by sam: one 50% → 55%, two 50% → 45%

  20:00  rollback weights by dana: no such action is in reach

  21:00  weights: one 50% → 55%, two 50% → 45%
         proposed by sam (script) at version 4: try
         guard: refused: a person set the value less than a day ago

2026-03-30

  04:00  weights: one 50% → 45%, two 50% → 55%
         proposed by sam (script) at version 4: try
         guard: refused: the knob cools down after its last change or rollback"""
UNANSWERED_LIFE = """\
social-b in run small, told by its 72 ledger records, each chained to the one before.
Times are those of Europe/Berlin; money is in EUR.

2026-03-28

  05:00  weights: still 50% → 60%, video 50% → 40%
         proposed by sam (script) at version 0
         predicted: spend +0.00 per day, by a trial in the twin
         guard: needs approval: the campaign is in its first days or has few mature clicks: a person has to approve
         2026-03-29 06:00 nobody answered within a day

  13:00  freeze by dana: frozen

  16:00  unfreeze by dana: unfrozen

2026-03-30

  05:00  weights: still 50% → 60%, video 50% → 40%
         proposed by sam (script) at version 0
         predicted: spend +0.00 per day, by a trial in the twin
         guard: needs approval: the campaign is in its first days or has few mature clicks: a person has to approve
         2026-03-30 05:00 nobody answered before the ledger's end"""


@pytest.mark.parametrize("text", [SEARCH_A, SOCIAL_A, SOCIAL_B, DISPLAY_A], ids=lambda text: text.split()[0])
def test_a_story_is_told_whole(text: str, reference: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    run = reference.run("simulated").folder
    assert call(capfd, "audit", run, "--story", text.split(maxsplit=1)[0]) == Told(0, text, "")


def test_a_story_as_json_is_one_value(reference: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    answer = call(capfd, "audit", reference.run("simulated").folder, "--story", "social-b", "--json")
    told = json.loads(answer.out)
    assert (answer.code, answer.err) == (0, "")
    assert told.keys() == {"campaign", "name", "zone", "currency", "records", "days"}
    assert told["days"][0] == {
        "date": "2026-03-28",
        "steps": [
            {
                "knob": "bid",
                "count": 23,
                "clipped": 0,
                "first": [
                    {"creative": None, "old": 18_000, "wanted": 14_018, "offer": None, "raw": None, "audience": None}
                ],
                "last": [
                    {"creative": None, "old": 7_878, "wanted": 9_847, "offer": None, "raw": None, "audience": None}
                ],
            }
        ],
        "entries": [
            {
                "at": "2026-03-28T15:00+01:00",
                "knob": "weights",
                "source": "script",
                "proposer": "sam",
                "note": "a hunch",
                "base_version": 0,
                "parts": [
                    {
                        "creative": "still",
                        "old": 500_000,
                        "wanted": 600_000,
                        "offer": None,
                        "raw": None,
                        "audience": None,
                    },
                    {
                        "creative": "video",
                        "old": 500_000,
                        "wanted": 400_000,
                        "offer": None,
                        "raw": None,
                        "audience": None,
                    },
                ],
                "outcome": "needs_approval",
                "reason": "the campaign is in its first days or has few mature clicks: a person has to approve",
                "prediction": {"spend_per_day_micros": 0, "by": "trial"},
                "events": [
                    {
                        "at": "2026-03-28T20:00+01:00",
                        "what": "denied",
                        "by": "dana",
                        "why": None,
                        "version": None,
                        "parts": [],
                    }
                ],
                "times": 1,
                "until": None,
                "latest": [],
            }
        ],
    }


def test_every_judged_row_of_a_campaign_is_told_once(reference: Stage) -> None:
    run = reference.run("simulated")
    for campaign, rows in run.actions.groupby("campaign"):
        days = api.story(run.folder, str(campaign)).as_json()["days"]
        changes = [entry for day in days for entry in day["entries"]]
        restored = [event for change in changes for event in change["events"] if event["what"] == "rolled back"]
        approved = [change for change in changes if "approved" in {event["what"] for event in change["events"]}]
        told = sum(step["count"] for day in days for step in day["steps"])
        told += sum(len(each["parts"]) for each in [*changes, *approved, *restored])
        assert told == len(rows)


def moment(day: int, hour: int) -> dict[str, Any]:
    return {"day": day, "time": f"{hour:02d}:00"}


def wish(day: int, hour: int, one: int | None = None, **asked: Any) -> dict[str, Any]:
    creatives = {} if one is None else {"creatives": {"one": f"{one}%", "two": f"{100 - one}%"}}
    return {**moment(day, hour), "campaign": "search-a", "by": "sam", "note": "try", **creatives, **asked}


ABOUT = {"campaign": "search-a", "knob": "weights"}
EVENTFUL: dict[str, Any] = {
    "proposals": [
        wish(1, 3, 60),
        wish(1, 4, 60),
        wish(1, 5, 70),
        wish(1, 12, 60),
        *(wish(1, hour, knob="bid", change="+90%") for hour in (14, 15)),
        wish(1, 21, 55),
        wish(3, 4, 45),
        *(
            {**moment(day, 5), "campaign": "social-b", "by": "sam", "creatives": {"still": "60%", "video": "40%"}}
            for day in (1, 3)
        ),
    ],
    "commands": [
        {**moment(1, 6), "by": "sam", "approve": ABOUT},
        {**moment(1, 10), "by": "dana", "approve": ABOUT},
        {**moment(1, 13), "by": "dana", "freeze": "account"},
        {**moment(1, 16), "by": "dana", "unfreeze": "account"},
        {**moment(1, 17), "by": "dana", "edit": {**ABOUT, "creatives": {"one": "40%", "two": "60%"}}},
        {**moment(1, 18), "by": "dana", "rollback": ABOUT},
        {**moment(1, 19), "by": "dana", "rollback": ABOUT},
        {**moment(1, 20), "by": "dana", "rollback": ABOUT},
    ],
}


def eventful(path: Path, watch: Callable[[Progress], None] | None = None) -> Path:
    """A run of the script alone, but for a policy elsewhere."""
    document = config(SIMULATION, script=EVENTFUL, people={"dana": ["approver", "operator"], "sam": ["approver"]})
    document["mandates"] = [{"campaigns": ["display-a"], "knobs": ["bid"]}]
    document["policies"] = [{"policy": "even_pi", "campaigns": ["display-a"]}]
    return api.simulate(document, out=path, watch=watch).folder


def test_an_eventful_life(tmp_path: Path) -> None:
    run = eventful(tmp_path / "run")
    assert story_text(api.story(run, "search-a")) == EVENTFUL_LIFE
    assert story_text(api.story(run, "social-b")) == UNANSWERED_LIFE


def test_a_rollback_that_is_blocked_says_why_and_a_pending_result_is_told(tmp_path: Path) -> None:
    def interrupt(now: Progress) -> None:
        if now.tick > 22:
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        eventful(run, interrupt)
    story = story_text(api.story(run, "search-a"))
    assert story.splitlines()[:6] == EVENTFUL_LIFE.replace("72", str(api.audit(run)["records"])).splitlines()[:6]
    granted = (10 << ROW_BITS) + 0
    api.command(run, "rollback", "dana", "search-a", "weights", action=granted)
    api.resume(run)
    lines = story_text(api.story(run, "search-a")).splitlines()
    (told,) = (line.split(maxsplit=2)[2] for line in lines if "not rolled back" in line)
    assert told == "not rolled back by dana: it was rolled back already"


def test_what_cannot_be_told_is_refused_in_one_sentence(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, remedy in (
        ("serch-a", "did you mean 'search-a'?"),
        ("zzz", "choose from display-a, search-a, search-b, social-a, social-b"),
    ):
        assert call(capfd, "audit", finished, "--story", name) == Told(
            2, "", f"bidtwin: campaign (={name!r}) is not in this run: {remedy}\n"
        )
    with sqlite3.connect(finished / LEDGER) as connection:
        connection.execute("UPDATE ledger SET tick = tick + 1 WHERE sequence = 3")
    connection.close()
    assert call(capfd, "audit", finished, "--story", "search-a") == Told(
        2, "", f"bidtwin: the ledger of run {finished} does not hold: see where with `bidtwin audit {finished}`\n"
    )


def test_a_ledger_that_names_no_creatives_is_not_guessed_at(reference: Stage) -> None:
    opening, *rest = read_ledger(reference.run("simulated").folder / LEDGER)
    renamed = seal(GENESIS, 0, RecordKind.OPENING, 0, opening.body.replace(b'"creatives":[', b'"creativez":['))
    with pytest.raises(LedgerError, match=r"^the ledger's opening names no creatives: tell it with the bidtwin"):
        tell([renamed, *rest], "search-a")
    with pytest.raises(LedgerError, match=r"^the ledger has no opening: there is nothing to tell$"):
        tell(rest, "search-a")


def retold(records: Iterable[Record], of_tick: Mapping[int, Mapping[str, Any]]) -> Iterator[Record]:
    """The records of a run whose rounds at some ticks have other entries in their headers."""
    previous = GENESIS
    for record in records:
        header, tables = decode(record.body)
        other = of_tick.get(record.tick, {}) if record.kind is RecordKind.ROUND else {}
        told = seal(previous, record.sequence, record.kind, record.tick, encode({**header, **other}, tables))
        previous = told.digest
        yield told


def test_a_watch_has_its_say_and_its_rollback_is_told_of_the_change(reference: Stage) -> None:
    action = (10 << ROW_BITS) + 0

    def watch(event: str, why: str = "") -> dict[str, Any]:
        return {"action": action, "campaign": 1, "knob": 2, "event": event, "why": why}

    told = {
        10: {"watches": [watch("opened"), {**watch("kept"), "campaign": 0}, {**watch("kept"), "action": 0}]},
        20: {"watches": [watch("blocked", "later_edit")]},
        24: {"watches": [watch("rolls_back", "profit")], "commands": []},  # nobody asked for the rollback
        25: {"watches": [watch("rolled_back")]},
        30: {"watches": [watch("kept")]},
        31: {"watches": [watch("no_data")]},
        32: {"watches": [watch("superseded")]},
    }
    records = read_ledger(reference.run("simulated").folder / LEDGER)
    lines = story_text(tell(retold(records, told), "search-a")).splitlines()
    first = lines.index("         2026-03-28 10:00 applied, version 1")
    assert lines[first + 1 : first + 8] == [
        "         2026-03-28 11:00 watch: opened",
        "         2026-03-28 21:00 watch: its rollback is blocked: a person's later edit stands upon it",
        "         2026-03-29 01:00 watch: roll back: profit per opportunity",
        "         2026-03-29 01:00 rolled back by dana: one 70% → 50%, two 30% → 50%, version 2",
        "         2026-03-29 08:00 watch: keep",
        "         2026-03-29 09:00 watch: keep, without data to tell",
        "         2026-03-29 10:00 watch: ended without a verdict, since the campaign was changed meanwhile",
    ]


def test_a_prediction_stands_between_the_proposal_and_the_guards_answer(reference: Stage) -> None:
    records = list(read_ledger(reference.run("simulated").folder / LEDGER))
    judged = decode(records[5].body)[1]["judged"]
    row = int((judged["knob"] == 2).nonzero()[0][0])

    def told(**impact: Any) -> str:
        changed = {4: {"impacts": [{"row": row, **impact}]}}
        lines = story_text(tell(retold(records, changed), "search-a")).splitlines()
        first = lines.index("         proposed by sam (script) at version 0: one is clicked more")
        assert lines[first + 2].startswith("         guard: needs approval: ")
        return lines[first + 1].strip()

    assert told(spend_per_day_micros=1_250_000, by="trial") == (
        "predicted: spend +1.25 per day, by a trial in the twin"
    )
    assert told(spend_per_day_micros=-40_000, by="record") == (
        "predicted: spend −0.04 per day, by what it spent before"
    )
    assert told(spend_per_day_micros=None, by="none") == ("predicted: nothing can be told of its spend")


def alert(event: str, campaign: int = 1, knob: int | None = 2, **other: Any) -> dict[str, Any]:
    told = {"alert": "rollback_blocked", "event": event, "campaign": campaign, "knob": knob, "label": ""}
    return told | {"why": "later_edit"} | other


def test_alerts_stand_where_they_were_opened_with_when_and_why_they_closed(reference: Stage) -> None:
    account = alert("opened", -1, None, alert="policy_suspended", label="pacer", why="out_of_range")
    told = {
        10: {"alerts": [alert("opened"), alert("opened", campaign=2)]},
        12: {"alerts": [account]},
        30: {"alerts": [alert("closed", why="later_change")]},
    }
    records = list(retold(read_ledger(reference.run("simulated").folder / LEDGER), told))
    lines = story_text(tell(records, "search-a")).splitlines()
    opened = "  11:00  alert: a rollback is blocked (weights): a person's later edit stands upon it"
    first = lines.index(opened)
    assert lines[first : first + 6] == [
        opened,
        "         2026-03-29 08:00 closed: a later change stands upon it",
        "",
        "  13:00  alert: a policy is suspended (pacer): the value is larger than any amount of money accepted",
        "         open at the ledger's end",
        "",
    ]
