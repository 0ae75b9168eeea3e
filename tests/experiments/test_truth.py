"""What people see of a world that knows more: reach and frequency, and who truly caused a conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from engine.policy import TRUTH, View
from engine.runtime.local import LocalRunner
from engine.runtime.plan import Moment
from engine.units import PPM
from experiments import show
from experiments.config import load_config
from tests.conftest import Stage
from tests.rehearsals import At, Crash, begin, go_on
from tests.scenarios import full_world


def test_the_truth_stands_in_the_tables_and_sums_to_the_runs_accuracy(reference: Stage) -> None:
    run = reference.run("full world")
    caused, credited, right = (int(run.metrics[name].sum()) for name in TRUTH)
    assert run.info["attribution"] == {"accuracy": right / credited, "caused": caused, "credited": credited / PPM}
    assert 0 < right < credited < caused * PPM  # some ids are lost, and some people met several campaigns
    booked = run.metrics.conversions.sum()
    cells = 5 * 2 * 2  # each keeps a rest of credit below one conversion
    assert credited / PPM - cells < booked <= credited / PPM
    assert (run.metrics.credited_right_ppm <= run.metrics.credited_ppm).all()
    assert (run.metrics.credited_ppm <= run.metrics.caused * PPM).all()


def test_the_command_line_tells_it_too(reference: Stage) -> None:
    run = reference.run("full world")
    told = run.info["attribution"]
    (line,) = [line for line in show._lines(run) if line.startswith("Credit")]
    assert line == (
        f"Credit    for {told['credited']:,.0f} of {told['caused']:,} conversions, {told['accuracy']:.1%} of that to "
        "the campaign that caused them"
    )
    assert not [line for line in show._lines(reference.run("simulated")) if line.startswith("Credit")]


def test_without_attribution_there_is_no_truth_to_tell(reference: Stage) -> None:
    run = reference.run("simulated")
    assert run.info["attribution"] is None
    assert run.metrics[list(TRUTH)].isna().all(axis=None)


def test_no_policy_sees_the_truth() -> None:
    assert set(View.__dataclass_fields__) == {
        "tick",
        "controls",
        "recent",
        "period",
        "lifetime",
        "creatives",
        "audiences",
        "prices",
    }


def test_reach_and_frequency_where_people_are_counted(reference: Stage) -> None:
    run = reference.run("full world")
    people = run.metrics.groupby("campaign", observed=True)[["people", "impressions"]].sum()
    assert run.summary.reach.to_dict() == people.people.to_dict()
    assert run.summary.frequency.to_dict() == (people.impressions / people.people).to_dict()
    assert (people.people <= np.array([400, 1400, 1400, 1400, 1400])).all()
    assert (run.summary.frequency > 1).all()
    plain = reference.run("simulated").summary
    assert plain[["reach", "frequency"]].isna().all(axis=None)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [Moment.AFTER_COMMIT, Moment.IN_CHECKPOINT, Moment.IN_TABLE])
def test_a_run_that_was_lost_knows_the_same_truth(reference: Stage, tmp_path: Path, moment: Moment) -> None:
    config = load_config(full_world())
    there = reference.run("full world")
    counted = At()
    begin(config, tmp_path / "counted", LocalRunner(2, checkpoint_every=16), counted)
    calls = [place for place, (which, _) in enumerate(counted.calls) if which is moment]
    with pytest.raises(Crash):
        begin(config, tmp_path / "lost", LocalRunner(2, checkpoint_every=16), At(calls[len(calls) // 2]))
    here = go_on(config, tmp_path / "lost", LocalRunner(2, checkpoint_every=16), At())
    assert here.digests == there.digests
    assert here.info["attribution"] == there.info["attribution"]
    assert_frame_equal(here.metrics, there.metrics)
    events = [pd.read_parquet(run.folder / "events") for run in (here, there)]
    assert_frame_equal(*events)
