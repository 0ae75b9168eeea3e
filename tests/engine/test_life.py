"""The life of an action: the table is total, every path ends, and a ledger that tells an impossible life is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.actions import ROW_BITS, Knob, Result
from engine.events import COUNTS, TickCounts
from engine.judgement import Outcome
from engine.ledger import LedgerError, Record, decode, decode_round, encode, fold
from engine.life import (
    CANNOT,
    DUE,
    OF_OUTCOME,
    OF_RESULT,
    TABLE,
    ImpossibleLife,
    Stage,
    Step,
    advance,
    steps_of,
)
from engine.limits import Limits
from engine.lives import OF_EVENT
from engine.messages import Advanced, CommandKind
from engine.verdicts import Event
from tests.engine.builders import Desk, campaign_set, reseal, wish
from tests.engine.test_optimiser import CAMPAIGNS, DAY, Loop, ask, command, optimiser
from tests.engine.test_watch import APPROVED, VERDICT, World


def following(stage: Stage) -> set[Stage]:
    """What a stage can turn into."""
    return {Stage(int(after)) for after in TABLE[stage] if after != CANNOT}


def test_every_step_in_every_stage_is_decided() -> None:
    assert TABLE.shape == (len(Stage), len(Step))
    assert set(np.unique(TABLE)) <= {*Stage, CANNOT}
    assert not TABLE.flags.writeable
    begun, reached = {Stage.PROPOSED}, {Stage.PROPOSED}
    while begun:
        begun = set().union(*(following(stage) for stage in begun)) - reached
        reached |= begun
    assert reached == set(Stage)
    assert all((TABLE[:, step] != CANNOT).any() for step in Step)


def test_every_answer_result_and_event_has_its_step() -> None:
    assert set(OF_OUTCOME) == set(Outcome)
    assert set(OF_RESULT) == set(Result) - {Result.PENDING}
    assert set(OF_EVENT) == set(Event)
    assert {"approve", "deny", "rollback"} <= {str(kind) for kind in CommandKind}


def test_from_every_stage_every_path_ends_by_its_deadlines() -> None:
    """A stage without a deadline has ended; the steps that the deadlines leave lead there, without a circle."""
    ended = set(Stage) - set(DUE)
    rests = {Stage.APPLIED, Stage.KEPT, Stage.NO_DATA, Stage.OVERTAKEN, Stage.BLOCKED}  # a person may take these back
    assert {stage for stage in ended if following(stage) - {stage}} == rests
    left = dict(DUE)
    while left:
        done = [
            stage
            for stage, (_, steps) in left.items()
            if all(Stage(int(TABLE[stage, each])) in ended for each in steps)
        ]
        assert done, f"these wait for each other: {list(left)}"
        ended |= set(done)
        left = {stage: due for stage, due in left.items() if stage not in done}


def test_a_rounds_rows_go_through_the_table_at_once() -> None:
    stages = np.full(10_000, Stage.APPLYING, dtype=np.uint8)
    results = np.tile(np.array([Result.APPLIED, Result.STALE], dtype=np.uint8), 5_000)
    after = advance(stages, steps_of(results, OF_RESULT, str), str)
    assert after.tolist() == [Stage.APPLIED, Stage.STALE] * 5_000


def test_an_impossible_step_tells_the_story() -> None:
    with pytest.raises(ImpossibleLife, match=r"^the life of row 1; keep cannot follow denied$"):
        advance([Stage.WATCHED, Stage.DENIED], Step.KEEP, lambda row: f"the life of row {row}")
    with pytest.raises(ImpossibleLife, match=r"^the life of row 1; 9 is no answer to it$"):
        steps_of(np.array([1, 9]), OF_RESULT, lambda row: f"the life of row {row}")


def test_the_optimiser_takes_no_result_that_is_none() -> None:
    loop = Loop({0: (ask(1_200_000),)})
    loop.go()
    loop.go(command("approve"))
    loop.results = np.array([Result.PENDING], dtype=np.uint8)
    with pytest.raises(ImpossibleLife) as impossible:
        loop.go()
    assert str(impossible.value) == f"action {2 << ROW_BITS} (campaign 0, bid): approved; 0 is no answer to it"


def test_the_opening_tells_how_long_a_proposal_waits() -> None:
    assert fold(Loop().records).lives.approval_ticks == DAY
    assert optimiser().sequence == 0


# --- ledgers ---


def lived() -> list[Record]:
    """A change that waits, is superseded, granted, applied, rolled back; one that is denied; one that expires."""
    wishes = {0: (ask(1_200_000),), 2: (ask(1_100_000),), 8: (ask(1_150_000),), 12: (ask(1_240_000),)}
    loop = Loop(wishes)
    loop.go(to=3)
    loop.go(command("approve"))  # record 5
    loop.go(to=5)
    loop.go(command("rollback"))  # record 7
    loop.go(to=9)
    loop.go(command("deny"))  # record 11
    loop.go(to=12 + DAY + 2)
    loop.close()
    return loop.records


LIVED = lived()
WATCHED = World().until(VERDICT + 3).records
ACTION = 5 << ROW_BITS
Header = dict[str, Any]


def told(records: list[Record], place: int, change: Callable[[Header], Any]) -> list[Record]:
    """The records with a round's header changed, and the chain sealed anew."""
    header, tables = decode(records[place].body)
    change(header)
    return reseal(records, place, encode(header, tables))


def refusal(records: list[Record]) -> str:
    with pytest.raises(LedgerError) as refused:
        fold(records)
    return str(refused.value)


@pytest.mark.slow
def test_lives_as_they_were_are_legal_and_so_is_every_prefix_of_them() -> None:
    for records in (LIVED, WATCHED):
        for length in {*range(1, len(records), 7), len(records)}:
            fold(records[:length])


def first_command(**other: Any) -> Callable[[Header], Any]:
    return lambda header: header["commands"][0].update(other)


def without(name: str) -> Callable[[Header], Any]:
    return lambda header: header.update({name: []})


ANOTHER = {"id": "x", "kind": "deny", "by": "dana", "campaign": 0, "knob": 0, "answer": "denied", "undoes": None}
WAS_APPLIED = (
    f"action {ACTION} (campaign 0, bid): waiting at tick 2, granted at tick 4, approved at tick 4, applied at tick 5"
)


@pytest.mark.parametrize(
    ("place", "change", "why"),
    [
        (
            4,
            lambda header: header["commands"].append({**ANOTHER, "knob": 2}),
            "campaign 0, weights: nothing waits there",
        ),
        (11, first_command(knob=1), "campaign 0, budget: nothing waits there; deny cannot follow"),
        (11, first_command(campaign=7), "campaign 7, bid: there is no such campaign"),
        (5, first_command(answer="refused: step"), "campaign 0, bid: the guard's answer was not 'refused'"),
        (7, first_command(undoes=ACTION + 1), f"action {ACTION + 1}: the guard approved none of this name"),
        (7, first_command(knob=1), f"{WAS_APPLIED}; it is told of campaign 0, budget"),
        (7, without("commands"), "action 117440512 (campaign 0, bid): proposed at tick 6, approved at tick 6; nobody"),
    ],
)
def test_an_impossible_answer_names_the_record(place: int, change: Callable[[Header], Any], why: str) -> None:
    said = refusal(told(LIVED, place, change))
    assert said.startswith(f"record {place} tells what cannot be: {why}"), said


def test_an_approval_after_a_day_is_found() -> None:
    """The last proposal was never answered; a forger approves it two hours too late."""
    place = 13 + DAY + 2
    late = told(LIVED, place, lambda header: header["commands"].append({**ANOTHER, "kind": "deny"}))
    in_time = told(LIVED, place - 2, lambda header: header["commands"].append({**ANOTHER, "kind": "deny"}))
    fold(in_time)
    assert refusal(late).startswith(f"record {place} tells what cannot be: campaign 0, bid: nothing waits there")


def test_what_was_approved_is_what_waited() -> None:
    header, tables = decode(LIVED[5].body)
    tables["judged"]["wanted"] = tables["judged"]["wanted"] + 1
    assert refusal(reseal(LIVED, 5, encode(header, tables))) == (
        "record 5 tells what cannot be: campaign 0, bid, waiting since tick 2: something else was approved"
    )


@pytest.mark.parametrize(("code", "answer"), [(0, 0), (9, 9)])
def test_a_result_that_is_none_is_found(code: int, answer: int) -> None:
    header, tables = decode(LIVED[6].body)
    tables["results"]["result"] = np.array([code], dtype=np.uint8)
    said = refusal(reseal(LIVED, 6, encode(header, tables)))
    assert said.startswith("record 6 tells what cannot be: action 83886080 (campaign 0, bid): waiting at tick 2")
    assert said.endswith(f"; {answer} is no answer to it")


def entry(event: str, why: str = "", **other: Any) -> Header:
    action = decode(WATCHED[APPROVED + 2].body)[0]["watches"][0]["action"]
    return {"action": action, "campaign": 0, "knob": int(Knob.BID), "event": event, "why": why} | other


def tells(*entries: Header) -> Callable[[Header], Any]:
    return lambda header: header.update(watches=list(entries))


@pytest.mark.parametrize(
    ("place", "entries", "why"),
    [
        (APPROVED + 2, [entry("kept")], "keep cannot follow applied"),
        (APPROVED + 2, [entry("opened"), entry("opened")], "open watch cannot follow watched"),
        (APPROVED + 2, [entry("slept")], "a watch does not tell 'slept'"),
        (APPROVED + 5, [entry("rolled_back")], "confirm cannot follow watched"),
        (APPROVED + 5, [entry("blocked", "later_edit")], "no alert tells of it"),
        (APPROVED + 5, [entry("kept", campaign=1)], "it is told of campaign 1, bid"),
        (APPROVED + 5, [entry("kept", action=1)], "action 1: the guard approved none of this name"),
        (VERDICT + 1, [entry("kept")], "nobody asked for this rollback"),
        (VERDICT + 2, [entry("kept")], "keep cannot follow rolled back"),
    ],
)
def test_an_impossible_watch_names_the_record(place: int, entries: list[Header], why: str) -> None:
    said = refusal(told(WATCHED, place, tells(*entries)))
    assert said.startswith(f"record {place} tells what cannot be: ")
    assert why in said


def test_the_story_of_a_life_is_told_with_its_ticks() -> None:
    assert refusal(told(WATCHED, VERDICT + 3, tells(entry("kept")))) == (
        f"record {VERDICT + 3} tells what cannot be: action {entry('')['action']} (campaign 0, bid): "
        f"waiting at tick {APPROVED - 1}, granted at tick {APPROVED}, approved at tick {APPROVED}, "
        f"applied at tick {APPROVED + 1}, watched at tick {APPROVED + 1}, rolling back at tick {VERDICT}, "
        f"rolled back at tick {VERDICT + 1}; keep cannot follow rolled back"
    )


def alert(event: str, kind: str = "rollback_blocked") -> Header:
    return {"alert": kind, "event": event, "campaign": 0, "knob": 0, "label": "", "why": "later_edit"}


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([alert("closed")], "alert rollback_blocked of campaign 0 is not open; 'closed' cannot follow"),
        ([alert("opened")] * 2, "alert rollback_blocked of campaign 0 is open since tick 9; 'opened' cannot follow"),
        ([alert("rung")], "alert rollback_blocked of campaign 0 is not open; 'rung' cannot follow"),
    ],
)
def test_an_impossible_alert_names_the_record(entries: list[Header], why: str) -> None:
    said = refusal(told(LIVED, 10, lambda header: header.update(alerts=entries)))
    assert said == f"record 10 tells what cannot be: {why}"


def test_alerts_are_told_open_until_they_are_closed() -> None:
    opened = told(LIVED, 10, lambda header: header.update(alerts=[alert("opened")]))
    closed = told(opened, 12, lambda header: header.update(alerts=[alert("closed"), alert("opened", "breaker_open")]))
    (first,) = fold(opened).lives.alerts.alerts
    assert (first.opened, first.why, first.closed) == (9, "later_edit", None)
    log = fold(closed).lives.alerts
    assert [(each.about.kind.value, each.opened, each.closed) for each in log.alerts] == [
        ("rollback_blocked", 9, 11),
        ("breaker_open", 11, None),
    ]
    assert len(log.open) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"commands": 7},
        {"commands": [{}]},
        {"watches": [7]},
        {"watches": [{"event": "opened", "action": "x", "campaign": 0, "knob": 0}]},
        {"watches": [{"event": ["opened"], "action": 1, "campaign": 0, "knob": 0}]},
        {"commands": [{"answer": "approved", "kind": "edit"}]},
        {"alerts": [{"alert": "fire"}]},
        {"commands": [{"answer": 7}]},
    ],
)
def test_a_header_that_makes_no_sense_is_refused_without_a_traceback(change: Header) -> None:
    assert refusal(told(LIVED, 9, lambda header: header.update(change))).startswith("record 9 ")


def test_of_more_than_a_week_ago_nothing_is_remembered() -> None:
    loop = Loop({0: (ask(1_200_000),)})
    loop.go()
    loop.go(command("approve"))
    loop.go(to=9 * DAY)
    kept = {"action": 2 << ROW_BITS, "campaign": 0, "knob": 0, "event": "rolled_back", "why": ""}
    for place, why in (
        (8 * DAY, "confirm cannot follow applied"),
        (9 * DAY, "none of this name that is still in reach"),
    ):
        assert why in refusal(told(loop.records, place, lambda header: header.update(watches=[kept])))


@pytest.mark.parametrize("ticks", [1, 8 * DAY + 1])
def test_what_is_in_reach_at_a_boundary_is_remembered_there_and_when_its_rollback_is_told(ticks: int) -> None:
    """Boundaries may be more than a week apart."""
    loop = Loop({0: (ask(1_200_000),)}, replace(Limits.of(CAMPAIGNS), day=DAY))
    loop.go(command("approve"), to=1)
    silence(loop, ticks - 1)
    assert loop.go(command("rollback")) == ["approved"]
    silence(loop, 8 * DAY)
    loop.go()
    told = [told["event"] for record in loop.records[1:] for told in decode_round(record).header["watches"]]
    assert told == ["opened", "rolled_back" if ticks == 1 else "no_data"]
    loop.close()
    assert fold(loop.records).closing is not None


def silence(loop: Loop, ticks: int) -> None:
    """Ticks in which nothing happens and nothing is decided."""
    loop.campaigns.handle(Advanced(TickCounts(loop.tick + 1, np.zeros((ticks, 3, len(COUNTS)), dtype=np.int64))))
    loop.tick += ticks


# --- episodes: named by the first action on each knob ---


def an_episode(*entries: tuple[int, Header]) -> list[Record]:
    """A policy's steps on bid and budget of a campaign, inside a mandate, and what the rounds tell of their watch."""
    desk = Desk(campaign_set())
    desk.hold(wish(1_200_000))
    desk.hold(wish(110_000_000, Knob.BUDGET))
    for version, bid in enumerate((1_100_000, 1_150_000, 1_000_000), start=1):
        desk.hold(wish(bid, version=version))
    records = desk.close()
    for place, told_there in entries:
        records = told(records, place, lambda header, here=told_there: header.setdefault("watches", []).append(here))
    return records


def of_bid(event: str, **other: Any) -> Header:
    return {"action": 1 << ROW_BITS, "campaign": 0, "knob": 0, "event": event, "why": ""} | other


def of_budget(event: str) -> Header:
    return of_bid(event, action=2 << ROW_BITS, knob=1)


def test_an_episode_is_begun_ended_and_taken_back_knob_by_knob() -> None:
    begun = (2, of_bid("begun")), (3, of_budget("begun"))
    fold(an_episode(*begun, (4, of_bid("kept")), (4, of_budget("kept"))))
    fold(an_episode(*begun, (4, of_bid("rolls_back")), (4, of_budget("rolls_back"))))
    fold(an_episode(*begun, (4, of_bid("superseded")), (5, of_budget("no_data"))))


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([(4, of_bid("kept"))], "keep cannot follow applied"),
        ([(2, of_bid("begun")), (4, of_bid("kept")), (5, of_budget("kept"))], "keep cannot follow applied"),
        ([(2, of_bid("begun")), (4, of_bid("opened"))], "open watch cannot follow watched"),
        ([(2, of_bid("begun")), (4, of_bid("kept")), (5, of_bid("begun"))], "open watch cannot follow kept"),
    ],
)
def test_an_impossible_episode_is_found(entries: list[tuple[int, Header]], why: str) -> None:
    said = refusal(an_episode(*entries))
    assert said.startswith(f"record {entries[-1][0]} tells what cannot be: action ")
    assert why in said
