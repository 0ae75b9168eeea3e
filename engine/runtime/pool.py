"""Independent pieces of work in several processes on this machine: a `map` in order, on Ray.

One process needs no Ray: a pool of one worker works in its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from engine.errors import BadInput

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_AHEAD = 2  # pieces in flight for each worker: one is worked on, one waits


class Pool:
    """Workers that pieces of work are given to; of `pool`, which ends them."""

    def __init__(self, tasks: Any = None, workers: int = 1) -> None:
        self.workers = workers
        self._tasks = tasks

    def map(self, function: Callable[[_In], _Out], items: Iterable[_In], /) -> Iterator[_Out]:
        """Apply a function to each item, results in the items' order; both must be picklable.

        No more than two items a worker are in flight, so that neither they nor the results pile up. An exception of the
        function is raised here, in its turn.
        """
        if self._tasks is None:
            return map(function, items)
        found: Iterator[_Out] = self._tasks(function, items, self.workers * _AHEAD)
        return found


@contextmanager
def pool(workers: int = 1) -> Iterator[Pool]:
    """So many workers, processes of their own where there are several; gone when the block ends.

    Example
    -------
    >>> with pool(1) as workers:
    ...     list(workers.map(abs, [-2, 3]))
    [2, 3]
    """
    if workers < 1:
        raise BadInput(f"workers (={workers}) must be 1 or more: 1 works in this process")
    if workers == 1:
        yield Pool()
        return
    from engine.runtime.actors import ray_session  # noqa: PLC0415 - one process needs no Ray, which takes seconds

    with ray_session():
        yield Pool(_on_ray, workers)


def _on_ray(function: Callable[[_In], _Out], items: Iterable[_In], most: int) -> Iterator[_Out]:
    import ray  # noqa: PLC0415 - likewise

    shared = ray.put(function)  # once, however many items there are
    task = ray.remote(num_cpus=1, max_retries=3)(_apply)
    running: deque[Any] = deque()
    for item in items:
        if len(running) == most:
            yield _got(running.popleft())
        running.append(task.remote(shared, item))
    while running:
        yield _got(running.popleft())


def _apply(function: Callable[[_In], _Out], item: _In) -> _Out:
    return function(item)


def _got(reference: Any) -> Any:
    """A result; a function's exception as it was raised."""
    import ray  # noqa: PLC0415 - likewise

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
