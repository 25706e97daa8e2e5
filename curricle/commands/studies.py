"""`new`, `plan`, `status` and `schema`: a study is written and looked at; nothing is trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curricle.commands.common import (
    STORE,
    Attention,
    Compile,
    Json,
    Keep,
    MicroBatchTokens,
    Recompute,
    Replicas,
    SaveSeconds,
    Set,
    StoreOption,
    StudyArgument,
    Track,
    command_of,
    make_console,
    options_of,
    planned,
    print_json,
    refuse_unwritable,
    show_plan,
)

if TYPE_CHECKING:
    from rich.console import Console

    from curricle.planning import Plan
    from curricle.running.preparation import Prepared


JOB = "The Slurm job"  # the panel of help for its options


def new(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("study.yaml"),
    model: Annotated[str, typer.Option(help="A preset (0.4m … 7b), or a checkpoint's folder or hub id.")] = "1m",
    source: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH", help="A corpus: files or a glob.")] = None,
    budget_tokens: Annotated[str, typer.Option(help="Tokens of a strategy, such as 2B.")] = "1M",
) -> None:
    """Write a study to start from, its reasons as comments."""
    from curricle.corpus.files import find_files
    from curricle.drafting import draft
    from curricle.store import whole_file
    from curricle.study import Files, Refused
    from curricle.studyfile import parse_study

    if path.exists():
        raise Refused(f"{path}: is there already; name another file")
    text = draft(model, source or [], budget_tokens)
    written = parse_study(text, path)
    written._path = path
    for name, spec in written.sources.items():
        if isinstance(spec, Files):
            find_files(spec, name, written.resolve)  # a file that is not there is refused now
    refuse_unwritable("PATH", path.parent)
    with whole_file(path, "w") as file:
        file.write(text)
    print(f"Wrote {path}. Look at it, then: curricle plan {path}")


def plan(
    study: StudyArgument = "code-first",
    store: StoreOption = STORE,
    set: Set = None,
    why: Annotated[str | None, typer.Option(metavar="RUN", help="A run, or a stage: what makes it new?")] = None,
    as_json: Json = False,
    slurm: Annotated[
        bool, typer.Option("--slurm", rich_help_panel=JOB, help="Print a job script for sbatch, and nothing else.")
    ] = False,
    slurm_array: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", rich_help_panel=JOB, help="The same for N jobs side by side on one store."),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, rich_help_panel=JOB, help="How many.")] = 1,
    nproc_per_node: Annotated[int, typer.Option(min=1, rich_help_panel=JOB, help="GPUs that each node gives.")] = 1,
    time: Annotated[
        str | None,
        typer.Option(metavar="HH:MM:SS", rich_help_panel=JOB, help="From the plan's estimate by default."),
    ] = None,
    partition: Annotated[str | None, typer.Option(rich_help_panel=JOB)] = None,
    account: Annotated[str | None, typer.Option(rich_help_panel=JOB)] = None,
    accelerator: Annotated[
        str, typer.Option(rich_help_panel=JOB, help="H100 or H200: what the time is estimated for.")
    ] = "H100",
    cpu: Annotated[bool, typer.Option("--cpu", rich_help_panel=JOB, help="Without GPUs.")] = False,
    out: Annotated[
        Path | None, typer.Option(rich_help_panel=JOB, help="Folder for report and results of its run.")
    ] = None,
    replicas: Replicas = 1,
    track: Track = None,
    micro_batch_tokens: MicroBatchTokens = None,
    recompute: Recompute = False,
    compile: Compile = None,
    attention: Attention = "auto",
    save_seconds: SaveSeconds = 30.0,
    keep: Keep = 2,
) -> None:
    """Show the tree of stages, the tokens and the cost; nothing is trained.

    With --slurm a job script is printed in their place, whose run is told what is said here.
    """
    from curricle import tracking
    from curricle.execution import Execution
    from curricle.running import runner
    from curricle.running.standing import Standing
    from curricle.study import Refused
    from curricle.studyfile import load_study

    scripted = slurm or slurm_array is not None
    if nodes > 1 and not scripted:
        raise Refused(f"--nodes {nodes}: it says what a job asks for; write --slurm with it")
    console = make_console(quiet=as_json or scripted)
    compiled, prepared = planned(load_study(study, set or []), store, console)
    if scripted:
        from curricle.running.slurm import Job, job_script

        runner.refuse_declared(compiled)
        execution = Execution(
            ranks=nproc_per_node if slurm_array is not None else nproc_per_node * nodes,
            replicas=replicas,
            micro_batch_tokens=micro_batch_tokens,
            recompute=recompute,
            compile=compile,
            attention=attention,
            save_seconds=save_seconds,
            keep=keep,
        )
        runner.refuse_uneven(compiled, execution)
        if track is not None:
            tracking.refuse_missing(track)  # now, not when the job has waited for its turn
        job = Job(
            nodes=nodes,
            ranks_per_node=nproc_per_node,
            time=time,
            partition=partition,
            account=account,
            accelerator=accelerator,
            gpus=not cpu,
            folder=str(Path.cwd()),
            array=slurm_array,
        )
        options = [*(["--out", str(out)] if out else []), *options_of(execution)]
        options += ["--track", track] if track is not None else []
        overrides = [part for s in set or [] for part in ("--set", s)]
        sys.stdout.write(job_script(compiled, job, ["run", study, "--store", str(store), *options, *overrides]))
        return
    standing = Standing(compiled) if compiled.declared() else Standing.seen(compiled, prepared)
    if not compiled.declared():
        runner.refuse_small_disk(compiled, prepared.store, standing.finished)
    if as_json:
        from curricle.running.calibration import seconds_here

        seconds, basis = seconds_here(compiled, prepared.store, standing.finished | standing.left_out)
        print_json({**compiled.to_json(standing.finished), "seconds_here": seconds, "seconds_basis": basis})
    elif why is not None:
        _explain_run(console, compiled, prepared, why)
    else:
        show_plan(console, standing, prepared)


def _explain_run(console: Console, plan: Plan, prepared: Prepared, why: str) -> None:
    from curricle.difference import why_new
    from curricle.report.terminal import why_view
    from curricle.running import upkeep
    from curricle.study import Refused, nearest

    known = upkeep.identities(prepared.store)
    runs = [run for run in plan.nodes if run.startswith(why) or plan.nodes[run].stage == why]
    if not runs:
        raise Refused(
            f"--why {why}: no such run or stage in this plan; {nearest(why, [*plan.nodes, *plan.study.stages])}"
        )
    for name in runs:
        if name in known:
            console.print(f"{name}: not new, the store has it")
        else:
            found = why_new(plan, name, known)
            console.print(why_view(name, *(found or (None, []))))


def status(study: StudyArgument = "code-first", store: StoreOption = STORE, set: Set = None) -> None:
    """Show which runs of a study are done, begun or waiting, and which have diverged."""
    from curricle.report.listing import status_view
    from curricle.running import gathering
    from curricle.running.standing import Standing
    from curricle.studyfile import load_study

    console = make_console()
    compiled, prepared = planned(load_study(study, set or []), store, console)
    standing = Standing.seen(compiled, prepared)
    missing = gathering.missing(compiled, prepared, standing.diverged)
    not_to_be = {run: why for run, why in missing.items() if why != gathering.NOT_YET}
    reached = gathering.reached(compiled, prepared)
    console.print(status_view(compiled, reached, standing.finished, not_to_be))
    for run, why in not_to_be.items():
        console.print(f"✗ {run}, seed {compiled.nodes[run].seed}: {why}", markup=False, soft_wrap=True)
    for run in standing.diverged:
        again = f"{command_of(study, None, store, set)} --again {run}"
        console.print(f"to train it on: {again}", markup=False, soft_wrap=True)


def schema() -> None:
    """Print the JSON Schema of a study, for editors."""
    from curricle.study import Study

    print_json(Study.model_json_schema())
