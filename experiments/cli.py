"""The command line: `bidtwin JOB …`. Exit code 0 = done, 2 = bad input, told in one sentence, 130 = interrupted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import BadInput

if TYPE_CHECKING:  # the heavy rooms are imported by the command that needs them: `--help` answers at once
    from engine.runtime.local import Progress
    from experiments.api import Run, Runner

_INTERRUPTED = 130
_GRANTED = {"approved", "denied", "frozen", "unfrozen", "closed"}

app = typer.Typer(
    help="A digital twin for advertising campaigns: simulate, replay and audit them under one safety guard.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

OptionalConfig = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG]", help="The run's configuration, a YAML file.")
]
TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over", help="With --resume: take a paced run over from a process that is stuck, once its lease lapsed."
    ),
]
Resume = Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run instead.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that a run printed.")]
Out = Annotated[Path | None, typer.Option(help="The run folder to make [default: the next free one under runs/].")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed instead of the configuration's.")]
Shards = Annotated[int | None, typer.Option(min=1, help="Actor processes, instead of the configuration's number.")]
Address = Annotated[
    str | None, typer.Option(help="Run on the Ray cluster at this address, e.g. auto; this machine is a node of it.")
]
Local = Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
PaceOf = Annotated[
    float | None, typer.Option("--pace", min=1e-6, help="Slow down to so many times real time, to be steered.")
]
CampaignName = Annotated[str, typer.Argument(metavar="CAMPAIGN")]
KnobName = Annotated[str, typer.Argument(metavar="KNOB", help="bid, budget, weights, modifiers or paused")]
OfCampaign = Annotated[str | None, typer.Option(metavar="CAMPAIGN", help="Only this campaign.")]
OfKnob = Annotated[str | None, typer.Option(metavar="KNOB", help="Of the campaign only this knob.")]
As = Annotated[str, typer.Option("--as", metavar="NAME", help="Who you are, by the run's configuration.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the answer; exit code 2 where it is a refusal.")]
CommandId = Annotated[str | None, typer.Option("--id", help="The command's id: the same one again has no effect.")]


@app.command()
def simulate(
    config: OptionalConfig = None,
    resume: Resume = None,
    out: Out = None,
    seed: Seed = None,
    shards: Shards = None,
    local: Local = False,
    address: Address = None,
    pace: PaceOf = None,
    take_over: TakeOver = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Simulate campaigns in a made-up market, under the optimiser and its guard."""
    from experiments import api

    with _watched(quiet=quiet or as_json) as watch:
        if resume is not None:
            _alone(config, out, seed)
            runner = _runner(api.open_run(resume).config, shards, pace, address, local=local, take_over=take_over)
            run = api.resume(resume, runner=runner, watch=watch)
        else:
            _not_taken_over(take_over=take_over)
            loaded = api.load(_given(config), seed)
            run = api.simulate(loaded, out=out, runner=_runner(loaded, shards, pace, address, local=local), watch=watch)
    _show(run, as_json=as_json)


@app.command()
def replay(
    log: Annotated[Path, typer.Option(help="The log: a file, or the opportunities/ folder of a recorded run.")],
    config: OptionalConfig = None,
    resume: Resume = None,
    out: Out = None,
    seed: Seed = None,
    shards: Shards = None,
    local: Local = False,
    address: Address = None,
    pace: PaceOf = None,
    take_over: TakeOver = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Replay a log through the campaigns, the optimiser and its guard."""
    from experiments import api

    with _watched(quiet=quiet or as_json) as watch:
        if resume is not None:
            _alone(config, out, seed)
            runner = _runner(api.open_run(resume).config, shards, pace, address, local=local, take_over=take_over)
            run = api.resume(resume, log, runner=runner, watch=watch)
        else:
            _not_taken_over(take_over=take_over)
            loaded = api.load(_given(config), seed)
            run = api.replay(
                loaded, log, out=out, runner=_runner(loaded, shards, pace, address, local=local), watch=watch
            )
    _show(run, as_json=as_json)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A bidding task's file with its part training.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to make [default: policies/ and the task's name].")
    ] = None,
    seed: Seed = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training that was interrupted in the folder.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a bidding policy: imitation of hindsight, then PPO; writes policy.npz with its card."""
    from experiments.show import card_text, training_progress
    from experiments.training import train as train_policy

    with training_progress(quiet=quiet) as watch:
        policy = train_policy(config, out, seed, resume=resume, watch=watch)
    typer.echo(card_text(policy))


@app.command()
def approve(
    run: RunFolder, campaign: CampaignName, knob: KnobName, by: As, wait: Wait = False, command: CommandId = None
) -> None:
    """Approve what waits for a person: it is guarded again at the next boundary."""
    _command("approve", run, by, campaign, knob, wait=wait, command=command)


@app.command()
def deny(
    run: RunFolder, campaign: CampaignName, knob: KnobName, by: As, wait: Wait = False, command: CommandId = None
) -> None:
    """Deny what waits for a person; within a boundary a denial comes before an approval."""
    _command("deny", run, by, campaign, knob, wait=wait, command=command)


@app.command()
def rollback(
    run: RunFolder,
    campaign: CampaignName,
    knob: KnobName,
    by: As,
    action: Annotated[int | None, typer.Option(help="Which action [default: the newest on the knob].")] = None,
    wait: Wait = False,
    command: CommandId = None,
) -> None:
    """Restore what an applied action replaced."""
    _command("rollback", run, by, campaign, knob, action, wait=wait, command=command)


@app.command()
def freeze(
    run: RunFolder,
    by: As,
    campaign: OfCampaign = None,
    knob: OfKnob = None,
    wait: Wait = False,
    command: CommandId = None,
) -> None:
    """Freeze the account, a campaign or a knob: nothing begins there but pauses and rollbacks."""
    _command("freeze", run, by, campaign, knob, wait=wait, command=command)


@app.command()
def unfreeze(
    run: RunFolder,
    by: As,
    campaign: OfCampaign = None,
    knob: OfKnob = None,
    wait: Wait = False,
    command: CommandId = None,
) -> None:
    """Lift a freeze as it was set; one of the account does not end with one of a campaign, nor the other way round."""
    _command("unfreeze", run, by, campaign, knob, wait=wait, command=command)


@app.command()
def close_breaker(run: RunFolder, by: As, wait: Wait = False, command: CommandId = None) -> None:
    """Close the breaker that three rollbacks within a day opened: automatic changes are applied again."""
    _command("close_breaker", run, by, wait=wait, command=command)


@app.command()
def audit(
    run: RunFolder,
    story: Annotated[
        str | None, typer.Option(metavar="CAMPAIGN", help="Tell the life of every change of a campaign instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a run's ledger, record by record, and tell what was applied under it."""
    from experiments import api
    from experiments.report.story_lines import story_text
    from experiments.show import audit_text

    if story is not None:
        told = api.story(run, story)
        if as_json:
            _print_json(told.as_json())
        else:
            typer.echo(story_text(told))
        return
    found = api.audit(run)
    if as_json:
        _print_json(found)
    else:
        typer.echo(audit_text(found))
    if not found["valid"]:
        raise typer.Exit(2)


@app.command()
def report(
    run: RunFolder,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write a run's report.html, one page that opens offline."""
    from experiments import api

    path = api.open_run(run).report()
    typer.echo(str(path))
    if open_it:
        typer.launch(path.resolve().as_uri())


@app.command()
def schema() -> None:
    """Print the JSON Schema of configuration files, for editors and checkers."""
    from experiments.config import schema as config_schema

    _print_json(config_schema())


@app.command()
def evaluate(
    policies: Annotated[
        list[str],
        typer.Argument(metavar="POLICY…", help="Built-in names, module:Class, or a trained policy's .npz file."),
    ],
    on: Annotated[Path, typer.Option(metavar="CONFIG|LOG", help="A bidding task's file, or a log of auctions.")],
    episodes: Annotated[int | None, typer.Option(min=1, help="Under each seed, instead of the task's number.")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="N,N,…", help="Instead of the task's.")] = None,
    target: Annotated[bool, typer.Option("--target", help="With a target cost per unit of value.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes; 1 works without Ray.")] = 1,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with plots.")] = None,
    as_json: Json = False,
) -> None:
    """Compare policies with tuned LP-KM over the same episodes, paired, with intervals."""
    from experiments.evaluation import compare, numbers
    from experiments.show import comparison_table

    found = compare(
        policies,
        on,
        episodes=episodes,
        seeds=None if seeds is None else numbers(seeds),
        targeted=target,
        workers=workers,
    )
    if out is not None:
        from experiments.report.comparison import page

        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page(found), encoding="utf-8")
    if as_json:
        _print_json(found.as_json())
    else:
        comparison_table(found)


@app.command()
def bench(
    name: Annotated[str | None, typer.Argument(help="Which benchmark; all of them by default.")] = None,
    small: Annotated[bool, typer.Option("--small", help="A small size, to see that it runs.")] = False,
    as_json: Json = False,
) -> None:
    """Measure speed, each figure beside its baseline from the same run."""
    from experiments.benchmarks import run_benchmarks
    from experiments.show import bench_table

    rows = run_benchmarks(name, small=small)
    if as_json:
        _print_json(rows)
    else:
        bench_table(rows)


def main() -> None:
    """Run the command line; a person's mistake ends in one sentence, not in a traceback."""
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # Typer's own answer to Ctrl-C, which says nothing
            raise KeyboardInterrupt  # noqa: TRY301 - to be answered as any other
    except BadInput as error:
        code = _told(str(error), 2)
    except KeyboardInterrupt:
        code = _told("interrupted: the run can go on with --resume and its folder", _INTERRUPTED)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not a usage error of the command line
            raise
        code = _told(error.format_message(), 2)
    sys.exit(code)


def _given(config: Path | None) -> Path:
    if config is None:
        raise BadInput("a configuration is missing: give its file, or --resume with a run's folder")
    return config


def _alone(config: Path | None, out: Path | None, seed: int | None) -> None:
    if config is not None or out is not None or seed is not None:
        raise BadInput("--resume goes on with a run as it was started: leave CONFIG, --out and --seed out")


def _not_taken_over(*, take_over: bool) -> None:
    if take_over:
        raise BadInput("--take-over is about a run that goes on: give it with --resume and the run's folder")


def _command(
    kind: str,
    run: Path,
    by: str,
    campaign: str | None = None,
    knob: str | None = None,
    action: int | None = None,
    *,
    wait: bool,
    command: str | None,
) -> None:
    """Send a command to a run, and with `wait` print its answer."""
    from experiments import api

    name = api.command(run, kind, by, campaign, knob, action, command)
    if not wait:
        typer.echo(f"{name} is admitted at the next boundary")
        return
    answer = api.answer(run, name)
    typer.echo(f"{kind} by {by}: {answer['answer']}" + (f" at tick {answer['tick']}" if "tick" in answer else ""))
    if answer["answer"] not in _GRANTED:
        raise typer.Exit(2)


def _told(sentence: str, code: int) -> int:
    typer.echo(f"bidtwin: {sentence}", err=True)
    return code


def _runner(
    config: Any,
    shards: int | None,
    multiple: float | None,
    address: str | None,
    *,
    local: bool,
    take_over: bool = False,
) -> Runner:
    if local and address is not None:
        raise BadInput(f"--local runs without Ray: leave --address (={address}) out, or --local")
    from engine.runtime.pace import Pace

    pace = None if multiple is None else Pace(multiple)
    if local:
        from engine.runtime.local import LocalRunner

        return LocalRunner(shards or 1, pace=pace, take_over=take_over)
    from engine.runtime.actors import RayRunner

    processes = shards or config.shards
    return RayRunner(processes, config.campaigns_per_actor, address or "local", pace=pace, take_over=take_over)


@contextmanager
def _watched(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A live progress display where there is a terminal, plain lines where there is none, nothing for `--json`."""
    if quiet:
        yield None
        return
    from experiments.show import progress

    with progress() as watch:
        yield watch


def _show(run: Run, *, as_json: bool) -> None:
    if as_json:
        _print_json(run.as_json())
        return
    from experiments.show import result

    result(run)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, allow_nan=False))


if __name__ == "__main__":
    main()
