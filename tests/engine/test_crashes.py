"""Lost in the middle of a boundary: what is asked again answers the same, and has one effect."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from agents.scripted import Scripted
from engine.actions import Knob, Source
from engine.messages import Boundary, Role
from engine.optimiser import Assignment
from engine.units import TickGrid
from tests.engine.builders import BID, BUDGET, campaign_set, controls, mandated
from tests.engine.test_optimiser import ask
from tests.properties.account import Account, Rules, decide, deliver, merged

RUN = campaign_set((1, 1))
RULES = Rules(RUN, controls(RUN), mandated(RUN), TickGrid(datetime(2026, 3, 2), 60, 48), {"ann": frozenset(Role)}, 24)
BUNDLE = (
    ask(BUDGET * 9 // 10, knob=Knob.BUDGET),
    ask(BUDGET * 11 // 10, knob=Knob.BUDGET, campaign=1),
    ask(BID + 1, campaign=1),
)
ASKED = (Assignment(Scripted({0: BUNDLE}), np.arange(2), Source.SCRIPT, "script"),)


@pytest.fixture
def before() -> Account:
    return Account.open(RULES, ASKED)


@pytest.fixture
def after(before: Account) -> Account:
    found = before.hold(before.machine(ASKED))
    assert found.controls.scalar.tolist() == [[BID, BUDGET * 9 // 10], [BID + 1, BUDGET * 11 // 10]]
    return found


def test_crash_after_the_intent(before: Account, after: Account) -> None:
    """The round stands in the ledger and nobody applied it: it is decided again to the same bytes, and applied."""
    assert after.fold.state is not None
    assert after.fold.state.equals(before.controls)  # an intent counts once its result is recorded
    shards, view = before.observe(1)
    commit, approved, _ = decide(before.machine(ASKED), Boundary(view, (), before.results))
    assert commit.body == after.records[-1].body
    applied, results = deliver(RULES, shards, approved)
    assert merged(RULES, applied).equals(after.controls)
    assert results.tolist() == after.results.tolist()


def test_crash_after_the_apply(before: Account, after: Account) -> None:
    """All campaigns applied it and nobody heard: asked again they answer the same and move nothing."""
    applied, results = deliver(RULES, after.shards, after.approved)
    assert applied == after.shards
    assert results.tolist() == after.results.tolist() == [1, 1, 1]
    again = replace(after, shards=applied, results=results)
    following = again.hold(again.machine(ASKED))
    assert following.controls.equals(after.controls)
    assert following.fold.state is not None
    assert following.fold.state.equals(after.controls)
    before.lost(after, ASKED, ())


def test_crash_in_the_middle_of_a_bundle(before: Account, after: Account) -> None:
    """One campaign applied it, the other did not: no sum is exceeded meanwhile, and asked again both have, once."""
    shards, _ = before.observe(1)
    assert after.partly[0].scalar.tolist() == [[BID, BUDGET * 9 // 10], [BID, BUDGET]]
    assert after.partly[0].budget.sum() <= before.controls.budget.sum()
    for mixed in ((after.shards[0], shards[1]), (shards[0], after.shards[1])):
        applied, results = deliver(RULES, mixed, after.approved)
        assert merged(RULES, applied).equals(after.controls)
        assert results.tolist() == after.results.tolist()
