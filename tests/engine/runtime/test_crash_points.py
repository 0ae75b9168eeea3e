"""A run lost at any place, and resumed from its folder, ends as if nothing had happened: every place, one by one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest

from engine.ledger import Record, fold, verify
from engine.runtime.local import LocalRunner, LostError
from engine.runtime.plan import Moment, unrehearsed
from engine.runtime.store import LEDGER, read_ledger
from experiments import api
from experiments.api import Run
from experiments.config import RunConfig
from tests.frames import assert_same
from tests.rehearsals import LOOKING_TOO, At, Crash, begin, go_on, small

SHARDS, CHECKPOINT_EVERY, DECISION_EVERY = 2, 4, 5
HOSTS = {
    Moment.BEFORE_COMMIT,
    Moment.AFTER_COMMIT,
    Moment.BEFORE_APPLY,
    Moment.AFTER_APPLY,
    Moment.IN_SPAN,
    Moment.AFTER_SPAN,
}
TABLES = ("metrics.parquet", "actions.parquet", "events", "opportunities")


class Undisturbed:
    """The small run as it ends when nobody is lost, and all the places where somebody can be."""

    def __init__(self, folder: Path) -> None:
        self.config: RunConfig = api.load(small(decision_every=DECISION_EVERY, policies=LOOKING_TOO))
        at = At()
        self.run = begin(self.config, folder, runner(), at)
        self.calls = at.calls
        self.ledger = list(read_ledger(folder / LEDGER))
        self.tables = {name: pd.read_parquet(folder / name) for name in TABLES}

    def is_what_came_out(self, run: Run) -> None:
        """Another run's whole outcome is this one's."""
        assert run.digests == self.run.digests
        assert run.totals == self.run.totals
        for name, table in self.tables.items():
            assert_same(pd.read_parquet(run.folder / name), table)
        assert list(read_ledger(run.folder / LEDGER)) == self.ledger
        told, there = (
            {key: value for key, value in info.items() if key not in {"seconds", "auctions_per_second"}}
            for info in (run.info, self.run.info)
        )
        assert told == there
        assert {path.name for path in run.folder.iterdir()} == {path.name for path in self.run.folder.iterdir()}


def runner() -> LocalRunner:
    return LocalRunner(SHARDS, CHECKPOINT_EVERY)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """In memory where there is such a place: hundreds of runs make their ledgers durable."""
    memory = Path("/dev/shm")  # noqa: S108 - ours alone: a fresh folder in it
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Undisturbed:
    return Undisturbed(folder / "undisturbed")


def crash(undisturbed: Undisturbed, out: Path, n: int) -> At:
    """Begin the run and lose it at its n-th place; the folder is then a legal earlier state."""
    at = At(n)
    with pytest.raises(Crash):
        begin(undisturbed.config, out, runner(), at)
    assert at.calls == undisturbed.calls[: n + 1]
    held = legal(undisturbed, out)
    assert len(held) == sum(moment is Moment.AFTER_COMMIT for moment, _ in at.calls)
    for tick in (number for moment, number in at.calls if moment is Moment.BEFORE_APPLY and number):
        assert tick - 1 in {record.tick for record in held}
    return at


def legal(undisturbed: Undisturbed, out: Path) -> list[Record]:
    """The records that a lost run's ledger holds: the first of the undisturbed run's, with a legal state."""
    held = list(read_ledger(out / LEDGER)) if (out / LEDGER).exists() else []
    assert held == undisturbed.ledger[: len(held)]
    assert verify(held) is None
    if held:
        found = api.audit(out)
        assert found["valid"]
        assert found["records"] == fold(held).records == len(held)
        assert found["applied"] == fold(held).applied
    return held


def test_every_moment_comes(undisturbed: Undisturbed) -> None:
    assert {moment for moment, _ in undisturbed.calls} == set(Moment)
    assert undisturbed.run.info["actions"]["applied"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("moment", list(Moment))
def test_lost_at_any_place_a_resumed_run_ends_as_if_nothing_had_happened(
    undisturbed: Undisturbed, folder: Path, moment: Moment
) -> None:
    places = [n for n, (which, _) in enumerate(undisturbed.calls) if which is moment]
    for n in places:
        out = folder / f"{moment}-{n}"
        crash(undisturbed, out, n)
        if moment is Moment.AFTER_RESULT:
            assert api.open_run(out).info["status"] == "finished"
            assert_same(api.open_run(out).metrics, undisturbed.run.metrics)
        else:
            assert api.open_run(out).info["status"] == "running"
            undisturbed.is_what_came_out(api.resume(out, runner=runner()))
        shutil.rmtree(out)


@pytest.mark.slow
def test_lost_twice_it_ends_as_if_nothing_had_happened(undisturbed: Undisturbed, folder: Path) -> None:
    end = len(undisturbed.calls)
    twice = 0
    for first in range(3, end - 1, 37):
        for second in (0, 11, 24, 40, 90):
            out = folder / f"twice-{first}-{second}"
            crash(undisturbed, out, first)
            try:
                run = go_on(undisturbed.config, out, runner(), At(second))
            except Crash:
                twice += 1
                legal(undisturbed, out)
                run = api.resume(out, runner=runner())
            undisturbed.is_what_came_out(run)
            shutil.rmtree(out)
    assert twice > 10


@pytest.mark.slow
def test_a_lost_host_is_replaced_within_the_run(undisturbed: Undisturbed, folder: Path) -> None:
    places = [n for n, (moment, _) in enumerate(undisturbed.calls) if moment in HOSTS]
    for n in places[::3]:
        out = folder / f"within-{n}"
        at = At(n, LostError)
        run = begin(undisturbed.config, out, runner(), at)
        assert at.calls[: n + 1] == undisturbed.calls[: n + 1]
        assert len(at.calls) > len(undisturbed.calls)
        undisturbed.is_what_came_out(run)
        committed = [number for moment, number in at.calls if moment is Moment.AFTER_COMMIT]
        assert committed == list(range(len(undisturbed.ledger)))  # no record was written twice
        shutil.rmtree(out)


def test_a_run_that_gets_no_farther_gives_up_in_one_sentence(undisturbed: Undisturbed, folder: Path) -> None:
    class Always:
        calls = 0

        def __call__(self, moment: Moment, number: int) -> None:
            if moment is Moment.AFTER_APPLY and number == 35:
                self.calls += 1
                raise LostError("shard-0 is gone")

    always, out = Always(), folder / "always"
    with pytest.raises(api.BadInput) as caught:
        begin(undisturbed.config, out, runner(), always)
    assert str(caught.value) == (
        f"run {out} lost a process again and again (shard-0 is gone): find out why, then go on with --resume {out}"
    )
    assert always.calls == 7  # the first loss came after a step forward
    undisturbed.is_what_came_out(go_on(undisturbed.config, out, runner(), unrehearsed))


def test_another_number_of_shards_goes_on_from_the_beginning_and_is_resumed_itself(
    undisturbed: Undisturbed, folder: Path
) -> None:
    out = folder / "shards"
    late = [n for n, (moment, _) in enumerate(undisturbed.calls) if moment is Moment.AFTER_CHECKPOINT]
    crash(undisturbed, out, late[-2] + 1)
    for shards, n in ((3, 60), (1, 30)):  # neither gets as far as the first
        with pytest.raises(Crash):
            go_on(undisturbed.config, out, LocalRunner(shards, CHECKPOINT_EVERY), At(n))
        legal(undisturbed, out)
    undisturbed.is_what_came_out(api.resume(out, runner=runner()))
