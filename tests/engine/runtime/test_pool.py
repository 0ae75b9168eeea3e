"""The pool: results in order, exceptions as they were raised, few items in flight; here and on Ray."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.errors import BadInput
from engine.runtime.pool import pool


def _square(x: int) -> int:
    if x == 13:
        raise BadInput("x (=13) must not be 13: give another")
    return x * x


def test_one_worker_works_here_and_at_once() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for x in range(5):
            drawn.append(x)
            yield x

    with pool() as workers:
        results = workers.map(_square, items())
        assert next(iter(results)) == 0
        assert drawn == [0]
        assert list(results) == [1, 4, 9, 16]


def test_no_worker_is_none() -> None:
    with pytest.raises(BadInput, match=r"workers \(=0\) must be 1 or more"), pool(0):
        pass


@pytest.mark.ray
@pytest.mark.slow
def test_several_workers_give_the_same_in_order() -> None:
    import ray  # noqa: PLC0415 - only tests marked ray import it

    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for x in range(12):
            drawn += 1
            yield x

    with pool(2) as workers:
        results = workers.map(_square, items())
        assert next(results) == 0
        assert drawn <= 5, "of 12 items four are in flight, and the one that waits for room"
        assert list(results) == [x * x for x in range(1, 12)]
        with pytest.raises(BadInput, match="must not be 13"):
            list(workers.map(_square, [1, 13]))
    assert not ray.is_initialized()
