"""A boundary without a lease is frozen: nothing begins there but pauses and rollbacks."""

from __future__ import annotations

from typing import Any

from engine.actions import Knob
from engine.ledger import decode_round
from engine.limits import Limits
from tests.engine.builders import BID
from tests.engine.test_optimiser import CAMPAIGNS, EVERYBODY, Loop, ask, command

MANDATED = Limits.of(CAMPAIGNS).with_mandate(EVERYBODY, (Knob.BID,))
LOST = "the watchdog did not renew the lease in time: nothing begins but pauses and rollbacks until it does"
RENEWED = "the watchdog renewed the lease"


def header(loop: Loop) -> dict[str, Any]:
    return decode_round(loop.records[-1]).header


def alert(event: str, why: str) -> dict[str, Any]:
    about = {"alert": "lease_lost", "campaign": -1, "knob": None, "label": ""}
    return about | {"event": event, "why": why}


def test_without_a_lease_nothing_begins_but_pauses_and_rollbacks() -> None:
    loop = Loop({tick: (ask(1_100_000 if tick == 0 else 1_150_000),) for tick in range(5)}, MANDATED)
    loop.go()
    loop.leased = False
    edit, pause = command("edit", values=(1_200_000,)), command("pause", knob=Knob.PAUSED)
    assert loop.go(pause, edit) == ["refused: frozen", "approved"]
    assert loop.told[-1] == ("REFUSED", "FROZEN")
    assert loop.go(command("rollback")) == ["approved"]
    loop.go()
    assert (loop.bid, loop.controls.paused.tolist()) == (BID, [True, False])
    loop.leased = True
    loop.go()
    loop.go()
    assert loop.bid == 1_150_000
    loop.close()


def test_what_waits_is_not_approved_without_a_lease_and_goes_on_waiting() -> None:
    loop = Loop({0: (ask(1_200_000),)})
    loop.go()
    loop.leased = False
    assert loop.go(command("approve", "early")) == ["lease_lost"]
    loop.leased = True
    assert loop.go(command("approve", "late")) == ["approved"]


def test_a_lost_lease_is_an_alert_until_it_is_renewed_and_no_persons_freeze() -> None:
    loop = Loop()
    told = []
    for leased in (True, False, False, True, True):
        loop.leased = leased
        loop.go()
        told.append((header(loop)["leased"], header(loop)["frozen"], header(loop)["alerts"]))
    assert told == [
        (True, False, []),
        (False, False, [alert("opened", LOST)]),
        (False, False, []),
        (True, False, [alert("closed", RENEWED)]),
        (True, False, []),
    ]
