"""Ctrl-C, also where the exception it raises is lost."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from engine.runtime.interrupts import Interrupts
from engine.runtime.local import Progress
from experiments import api
from tests.scenarios import config


@pytest.fixture(autouse=True)
def _heeding() -> None:
    """As at a terminal, whatever this process was started by."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_run_ends_though_its_interrupt_was_swallowed(tmp_path: Path) -> None:
    seen = []

    def swallow(now: Progress) -> None:
        seen.append(now.tick)
        if now.tick == 20:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        api.simulate(config(), out=tmp_path / "run", watch=swallow)
    assert seen[-1] == 20
    assert api.open_run(tmp_path / "run").info["status"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_nobody_pressed_is_not_heeded_and_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        interrupts.heed()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_another_thread_signals_are_left_alone() -> None:
    found = []

    def enter() -> None:
        with Interrupts() as interrupts:
            interrupts.heed()
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
