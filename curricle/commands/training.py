"""`run` and `report`: train what is missing, evaluate it, say what was found.

A run is walked by worker processes, on a cluster, or, where torchrun has started the ranks, by all of them together.
However it was trained, its report is written here in one way.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curricle.commands.common import (
    STORE,
    WHERE,
    Attention,
    Compile,
    Keep,
    MicroBatchTokens,
    Out,
    Recompute,
    Replicas,
    SaveSeconds,
    Set,
    StoreOption,
    StudyArgument,
    Track,
    Values,
    command_of,
    make_console,
    planned,
    refuse_unwritable,
    show_plan,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console

    from curricle.execution import Execution
    from curricle.planning import Plan
    from curricle.remote import Remote
    from curricle.running.preparation import Prepared
    from curricle.running.standing import Standing
    from curricle.running.work import Message
    from curricle.store import Store
    from curricle.study import Study


def run(
    study: StudyArgument = "code-first",
    out: Out = None,
    store: StoreOption = STORE,
    set: Set = None,
    workers: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=WHERE, help="Runs side by side; by default one a core or GPU.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", rich_help_panel=WHERE, help="A Ray cluster: ray://HOST:PORT, ray:auto or local."
        ),
    ] = None,
    remote: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            rich_help_panel=WHERE,
            help="With --on: an object store (s3://…) in the place of a shared file system.",
        ),
    ] = None,
    nproc_per_node: Annotated[
        int, typer.Option(min=1, rich_help_panel=WHERE, help="Processes, or GPUs, that train one run together.")
    ] = 1,
    resource: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=AMOUNT",
            rich_help_panel=WHERE,
            help="With --on: what a run asks for (CPU, GPU, memory in bytes, or a name of the cluster's); by default a "
            "CPU, and a GPU where there are any, for each of its processes.",
        ),
    ] = None,
    replicas: Replicas = 1,
    track: Track = None,
    micro_batch_tokens: MicroBatchTokens = None,
    recompute: Recompute = False,
    compile: Compile = None,
    attention: Attention = "auto",
    save_seconds: SaveSeconds = 30.0,
    keep: Keep = 2,
    again: Annotated[
        list[str] | None, typer.Option("--again", metavar="RUN", help="Train a run on that has diverged.")
    ] = None,
) -> None:
    """Train what is missing, evaluate it, and write the report."""
    import os

    from curricle.stopping import obeyed_at_once

    with obeyed_at_once():
        from curricle.execution import Execution
        from curricle.study import Refused
        from curricle.studyfile import load_study
        from curricle.tracking import refuse_missing

        execution = Execution(
            ranks=nproc_per_node,
            replicas=replicas,
            micro_batch_tokens=micro_batch_tokens,
            recompute=recompute,
            compile=compile,
            attention=attention,
            save_seconds=save_seconds,
            keep=keep,
            resources=resources_of(resource or [], on),
        )
        loaded = load_study(study, set or [])
        folder = out or Path("runs") / loaded.name
        command = command_of(study, out, store, set)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            if workers or on or nproc_per_node > 1:
                raise Refused("torchrun has started the ranks: leave out --workers, --on and --nproc-per-node")
            if remote is not None:
                raise Refused("--remote goes with --on; leave it out under torchrun")
            run_as_rank(loaded, folder, store, execution, command, track, again or [])
            return
        if track is not None:
            refuse_missing(track)
        run_with_workers(loaded, folder, store, execution, command, workers, track, on, remote, again or [])


def resources_of(told: Sequence[str], on: str | None) -> dict[str, float]:
    """`CPU=4` → what a run asks of a cluster."""
    from curricle.study import Refused

    found: dict[str, float] = {}
    for text in told:
        name, _, amount = text.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            found[name] = -1.0
        if not name or not 0 <= found[name] < float("inf") or (name == "CPU" and not found[name]):
            raise Refused(f"--resource {text}: write NAME=AMOUNT, such as CPU=4, GPU=0.5 or memory=16e9")
    if found and on is None:
        raise Refused("--resource: goes with --on; runs of this machine share out its cores, or its GPUs")
    return found


def run_with_workers(
    study: Study,
    folder: Path,
    store: Path,
    execution: Execution,
    command: str,
    workers: int | None,
    track: str | None,
    on: str | None,
    remote: str | None,
    again: list[str],
) -> None:
    """The runs as processes of this machine, or as tasks of a cluster."""
    from contextlib import nullcontext

    from curricle.progress import Reading
    from curricle.running import cluster, runner
    from curricle.running import workers as crews
    from curricle.stopping import asked_to_stop, obeyed_at_once

    refuse_unwritable("--out", folder)
    refuse_unwritable("--store", store)
    console = make_console()
    through = runner.remote_store(remote, on)  # refused before anything is prepared
    if on is None:
        crews.refuse_few_gpus(workers or 1, execution)  # of the usual number each has its GPUs, if one alone has
    else:
        cluster.needs(execution)
    with cluster.reached(on, workers) if on else nullcontext(), obeyed_at_once():  # Ray has a SIGTERM of its own
        prepared, standing = looked_at(study, store, console, execution, again, through)
        plan = standing.plan
        show_plan(console, standing, prepared)
        at_once = workers or (None if on else crews.usual_workers(plan.width, execution))
        runner.make_ready(standing, prepared, folder, execution, at_once, remote, Reading(console))
        # What a cluster's nodes do at best was not measured here.
        peaks = None if on or not at_once else peaks_of_a_run(prepared.store, at_once, execution)
        with followed(console, standing, peaks, track) as show, asked_to_stop() as interrupted:
            said = runner.walk(standing, prepared, execution, interrupted, workers=workers, on=on, remote=through)
            failures = runner.shown(said, show)
    results = runner.gathered(plan, prepared, folder / "results", failures)
    write_report(console, plan, prepared, results, folder, command, failures)
    if runner.is_failure(plan, prepared, failures):
        raise runner.Failed(failures)


def looked_at(
    study: Study,
    store: Path,
    console: Console,
    execution: Execution,
    again: Sequence[str],
    remote: Remote | None = None,
) -> tuple[Prepared, Standing]:
    """The study prepared, and where its plan stands once what is to be tried `again` may be. Refuses a plan that cannot
    be run so."""
    from curricle.running import runner
    from curricle.running.standing import Standing

    plan, prepared = planned(study, store, console)
    runner.refuse_declared(plan)
    runner.refuse_uneven(plan, execution)
    runner.try_again(plan, prepared, again, remote)
    return prepared, Standing.seen(plan, prepared, remote)


@contextmanager
def followed(
    console: Console, standing: Standing, peaks: dict[str, float] | None, track: str | None
) -> Iterator[Callable[[Message], None]]:
    """Whom to tell what the runs say: the screen and, where there is one, the tracker."""
    from curricle.progress import Training
    from curricle.tracking import Tracker, tracked

    training = Training(console, standing.plan, standing.finished, peaks, standing.left_out)
    with training.shown():
        if track is None:
            yield training
            return
        with Tracker(track, standing.plan, lambda text: console.print(text, markup=False, soft_wrap=True)) as tracker:
            yield tracked(training, tracker, training.mfu)


def peaks_of_a_run(store: Store, workers: int, execution: Execution) -> dict[str, float] | None:
    """The measured FLOP/s, by precision, of what one of so many runs has to itself: all its ranks together."""
    from curricle.running.workers import threads_each

    return _peaks_of_ranks(store, threads_each(workers, execution), execution.ranks)


def _peaks_of_ranks(store: Store, threads: int, ranks: int) -> dict[str, float] | None:
    """Of so many ranks together, each a GPU where there is one, or so many threads."""
    from curricle.running.calibration import known_peak
    from curricle.running.workers import gpu_count

    peak = known_peak(store, "cuda:0" if gpu_count() else "cpu", threads)
    return {p: rate * ranks for p, rate in peak.flops_per_second.items()} if peak else None


def run_as_rank(
    study: Study,
    folder: Path,
    store: Path,
    execution: Execution,
    command: str,
    track: str | None = None,
    again: Sequence[str] = (),
) -> None:
    """One of the processes that torchrun started. All train every run together; the first one speaks, writes and
    tracks."""
    from contextlib import suppress
    from dataclasses import replace

    import torch

    from curricle.progress import Reading
    from curricle.running import runner
    from curricle.stopping import asked_to_stop
    from curricle.study import Refused
    from curricle.tracking import refuse_missing
    from curricle.training.distribution import Ranks, left_together

    ranks = Ranks.of_torchrun()
    assert ranks is not None
    console = make_console(quiet=not ranks.first)
    execution = replace(execution, ranks=ranks.size)

    def prepare() -> tuple[Prepared, Standing]:
        if track is not None and ranks.first:
            refuse_missing(track)
        if ranks.first:
            refuse_unwritable("--out", folder)
            refuse_unwritable("--store", store)
        prepared, standing = looked_at(study, store, console, execution, again if ranks.first else ())
        if ranks.first:
            show_plan(console, standing, prepared)
            runner.make_ready(standing, prepared, folder, execution, 1, watch=Reading(console))
        return prepared, standing

    try:
        prepared, standing = runner.first_then_all(ranks, prepare)
        plan = standing.plan
        with asked_to_stop() as interrupted, left_together(interrupted):
            peaks = _peaks_of_ranks(prepared.store, torch.get_num_threads(), ranks.size)
            with followed(console, standing, peaks, track if ranks.first else None) as show:
                failures = runner.shown(runner.walk_as_rank(standing, prepared, ranks, execution, interrupted), show)
    except (Refused, runner.Interrupted, KeyboardInterrupt) as error:  # on every rank alike: one says it
        if ranks.first:
            raise
        raise typer.Exit(2 if isinstance(error, Refused) else 130) from None
    if ranks.first:
        with suppress(runner.Failed):  # said below, together with the other ranks
            results = runner.gathered(plan, prepared, folder / "results", failures)
            write_report(console, plan, prepared, results, folder, command, failures)
    broken = ranks.decided(lambda: runner.is_failure(plan, prepared, failures))
    ranks.leave()  # together and after the report: torchrun ends all ranks when one leaves with a failure
    if broken:
        raise runner.Failed(failures) if ranks.first else typer.Exit(1)


def report(
    study: StudyArgument = "code-first",
    out: Out = None,
    values: Values = None,
    store: StoreOption = STORE,
    set: Set = None,
) -> None:
    """Write the report of what is done so far; nothing is trained."""
    from curricle.commands.analysis import worth_of
    from curricle.running import gathering, runner
    from curricle.running.standing import diverged
    from curricle.studyfile import load_study

    console = make_console()
    loaded = load_study(study, set or [])
    folder = out or Path("runs") / loaded.name
    refuse_unwritable("--out", folder)
    worth = worth_of(values)
    compiled, prepared = planned(loaded, store, console)
    runner.refuse_declared(compiled)
    results = gathering.gather(compiled, prepared, folder / "results")
    command = command_of(study, out, store, set)
    write_report(console, compiled, prepared, results, folder, command, diverged(compiled, prepared), worth)


def write_report(
    console: Console,
    plan: Plan,
    prepared: Prepared,
    results: Any,
    folder: Path,
    command: str,
    failures: Mapping[str, str],
    values: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Findings, page and the summary on the screen; which runs are missing, and why. `failures` are this session's, and
    what has diverged; `values` what documents are worth."""
    from curricle import analysis
    from curricle.progress import doing, time_line
    from curricle.report import page, queries
    from curricle.report.terminal import summary_view
    from curricle.running import gathering
    from curricle.running.upkeep import receipts
    from curricle.store import write_json

    missing = gathering.missing(plan, prepared, failures)
    with doing(console, "analysing"):
        own = plan.study
        findings = analysis.analyse(results, target=own.answer_target, max_epochs=own.max_epochs, values=values)
        write_json(folder / "findings.json", {"study": plan.study.name, "findings": [f.to_json() for f in findings]})
    with doing(console, "drawing the page"):
        page.write(
            folder / "report.html",
            study=plan.study,
            plan=plan,
            results=results,
            findings=findings,
            catalogue={name: entry.to_dict() for name, entry in prepared.entries.items()},
            receipt=receipts(prepared.store, plan),
            command=command,
            study_text=plan.study.to_yaml(),
            missing=missing,
        )
    console.print(summary_view(plan.study, findings))
    for run, why in missing.items():
        if why != gathering.NOT_YET:
            console.print(f"✗ {run}, seed {plan.nodes[run].seed}: {why}", markup=False, soft_wrap=True)
    for run, why in queries.learnt_nothing(results, plan.catalogue.vocabulary).items():
        console.print(f"! {run}, seed {plan.nodes[run].seed}: {why}", markup=False, soft_wrap=True)
    if skipped := queries.skipped(results):
        console.print(f"! {queries.skipped_in_words(skipped)}", markup=False, soft_wrap=True)
    if spent := time_line(queries.time_spent(results)):
        console.print(spent, style="dim", soft_wrap=True)
    console.print()
    for what in ("report.html", "findings.json", "results"):
        console.print(str(folder / what), markup=False, soft_wrap=True)
