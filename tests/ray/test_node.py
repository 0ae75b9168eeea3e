"""A node of the cluster removed in the middle of a run: what lived there comes back on the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from engine.errors import BadInput
from engine.runtime.actors import RayRunner
from engine.runtime.local import LocalRunner, Progress
from engine.runtime.plan import Moment
from experiments import api
from tests.rehearsals import Rehearsed, small

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NOTICED_QUICKLY = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_timeout_ms": "10000",  # a killed node refuses at once; a busy one only answers late
    "RAY_health_check_failure_threshold": "3",
}
STORE = 256 * 1024**2
REMOVED_AT = 24


@dataclass(frozen=True)
class Whereabouts:
    """Tells in a folder on which node each moment came."""

    folder: Path

    def __call__(self, moment: Moment, number: int) -> None:
        node = ray.get_runtime_context().get_node_id()
        (self.folder / f"{node}-{moment}-{number}-{os.getpid()}").touch()

    def nodes(self, *moments: Moment) -> set[str]:
        places = [path.name.split("-") for path in self.folder.iterdir()]
        return {node for node, moment, *_ in places if moment in moments}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name, value in NOTICED_QUICKLY.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False},
    )
    try:
        yield cluster
    finally:
        cluster.shutdown()


def test_an_address_where_nobody_listens_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        api.simulate(small(), out=tmp_path / "run", runner=RayRunner(address="127.0.0.1:1"))
    assert str(caught.value) == (
        "address (=127.0.0.1:1) must be that of a running Ray cluster ([Errno 111] Connection refused): "
        "start its head and this machine as docs/cluster.md tells, with one token"
    )
    run = api.resume(tmp_path / "run", runner=LocalRunner())  # where it was to begin
    assert run.info["status"] == "finished"


def test_a_removed_node_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    undisturbed = api.simulate(small(), out=tmp_path / "undisturbed", runner=LocalRunner())
    head = cluster.head_node.node_id
    second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    cluster.wait_for_nodes()
    removed = False
    for attempt in range(5):  # where a shard begins is Ray's to say in the end: until one lives on the second node
        there = Whereabouts(tmp_path / f"there-{attempt}")
        there.folder.mkdir()

        def watch(now: Progress, there: Whereabouts = there) -> None:
            nonlocal removed
            if now.tick == REMOVED_AT and second.node_id in there.nodes(Moment.AFTER_SPAN):
                cluster.remove_node(second, allow_graceful=False)
                removed = True

        runner = Rehearsed(RayRunner(2, address=cluster.address, checkpoint_every=8), there)
        run = api.simulate(small(), out=tmp_path / f"run-{attempt}", runner=runner, watch=watch)
        assert there.nodes(Moment.AFTER_COMMIT) == {head}  # the ledger stays where the run folder is
        assert run.digests == undisturbed.digests
        assert run.totals == undisturbed.totals
        assert api.audit(run.folder)["valid"]
        if removed:
            break
    assert removed
