"""A simulation whose driver is killed on the way: `python -m tests.ray.driver CONFIG RUN DONE SHARDS MOMENT NUMBER`.

Begins the run, or goes on with it; with SHARDS 0 in this process, else on Ray. Whichever process comes to the moment
kills the driver.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine.runtime.actors import RayRunner
from engine.runtime.local import LocalRunner
from engine.runtime.plan import Moment
from experiments import api
from tests.rehearsals import Kill, Rehearsed

EVERY = 8


def main(config: str, run: str, done: str, shards: str, moment: str, number: str) -> None:
    kill = Kill(((Moment(moment), int(number)),), Path(done), os.getpid())
    inner = RayRunner(int(shards), checkpoint_every=EVERY) if int(shards) else LocalRunner(checkpoint_every=EVERY)
    runner = Rehearsed(inner, kill)
    if Path(run).exists():
        api.resume(run, runner=runner)
    else:
        api.simulate(config, out=run, runner=runner)


if __name__ == "__main__":
    main(*sys.argv[1:])
