"""Commands whose values do not fit what they ask for."""

from __future__ import annotations

import pytest

from engine.actions import Knob
from tests.engine.builders import BID
from tests.engine.test_optimiser import Loop, command


@pytest.mark.parametrize("values", [(), (1_100_000, 1_200_000)])
def test_an_edit_of_a_scalar_names_one_value(values: tuple[int, ...]) -> None:
    loop = Loop()
    assert loop.go(command("edit", values=values)) == ["needs_one_value"]
    assert (loop.told, loop.bid) == ([], BID)


def test_an_edit_of_weights_names_some() -> None:
    loop = Loop()
    assert loop.go(command("edit", campaign=1, knob=Knob.WEIGHTS)) == ["needs_values"]
    assert loop.told == []


def test_a_pause_pauses_whatever_values_come_with_it() -> None:
    loop = Loop()
    assert loop.go(command("pause", values=(0,))) == ["approved"]
    assert loop.controls.paused.tolist() == [True, False]
    assert loop.go(command("resume", values=(1,))) == ["approved"]
    assert loop.controls.paused.tolist() == [False, False]
