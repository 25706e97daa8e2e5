"""The front door: one function a verb. Each checks its input, calls one or two rooms and prints what they say.

Exit codes: 0 done, 1 a failure, 2 a refused input, 130 an interruption that saved.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from curricle.execution import Execution
    from curricle.planning import Plan
    from curricle.preparation import Prepared
    from curricle.study import Study

app = typer.Typer(
    help="A laboratory for pre-training strategy: plan the stages, train, measure with honest error bars.",
    epilog="Begin with: curricle run   (the study code-first, some minutes on two cores)",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyArgument = Annotated[str, typer.Argument(help="A study's YAML file, or the name of one that ships.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="A.B.C=VALUE", help="Override a field of the study.")]
StoreOption = Annotated[Path, typer.Option(help="Where runs, corpora and tokens are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
STORE = Path("runs/store")


def main() -> None:
    """Run a verb and leave with its exit code."""
    from typer.exceptions import Abort, TyperException

    try:
        code = app(standalone_mode=False)
    except (Abort, KeyboardInterrupt):
        print("interrupted; what was whole is kept", file=sys.stderr)
        code = 130
    except TyperException as error:  # a wrong option or argument: it knows how to show its own usage
        error.show()  # type: ignore[attr-defined]
        code = 2
    except Exception as error:
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> int:
    """Say what went wrong in a line; the exit code for it. What is nobody's fault but ours keeps its traceback."""
    from curricle.study import Refused

    if isinstance(error, Refused):
        print(f"error: {error}", file=sys.stderr)
        return 2
    from curricle.runner import Failed, Interrupted

    if isinstance(error, Interrupted):
        print(f"interrupted: {error}; run the same command to go on", file=sys.stderr)
        return 130
    if isinstance(error, Failed | OSError):
        print(f"failed: {error}", file=sys.stderr)
        return 1
    raise error


def _console(quiet: bool = False) -> Console:
    from rich.console import Console

    console = Console(quiet=quiet, highlight=False)
    # Piped output is read later, at any width: a table must not be cut to the 80 columns that nobody has.
    return console if console.is_terminal else Console(quiet=quiet, highlight=False, width=100)


def _print_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def _plan(study: Study, store: Path, console: Console) -> tuple[Plan, Prepared]:
    from curricle.planning import compile_plan
    from curricle.preparation import prepare
    from curricle.progress import Reading
    from curricle.store import Store
    from curricle.study import Refused

    if store.exists() and not store.is_dir():
        raise Refused(f"--store {store}: a file, not a folder")
    prepared = prepare(study, Store(store), Reading(console))
    for name, entry in prepared.entries.items():
        if entry.bad_lines:
            console.print(f"{name}: {entry.bad_lines:,} bad lines left out; the first:", markup=False)
            for line in entry.bad_examples:
                console.print(f"  {line}", markup=False, soft_wrap=True)
        for overlapped, count in entry.removed.items():
            console.print(f"{name}: {count:,} documents removed that overlap {overlapped}", markup=False)
    return compile_plan(study, prepared.catalogue), prepared


@app.command(epilog="Example: curricle new study.yaml --model 1m --source code='repos/*.jsonl' --budget-tokens 2M")
def new(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("study.yaml"),
    model: Annotated[str, typer.Option(help="A preset (0.5m … 7b), or a checkpoint's folder or hub id.")] = "1m",
    source: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH", help="A corpus: files or a glob.")] = None,
    budget_tokens: Annotated[str, typer.Option(help="Tokens of a strategy, such as 2B.")] = "1M",
) -> None:
    """Write a study to start from, its reasons as comments."""
    from curricle.drafting import draft
    from curricle.store import whole_file
    from curricle.study import Refused
    from curricle.studyfile import parse_study

    if path.exists():
        raise Refused(f"{path}: is there already; name another file")
    text = draft(model, source or [], budget_tokens)
    parse_study(text, path)
    with whole_file(path, "w") as file:
        file.write(text)
    print(f"Wrote {path}. Look at it, then: curricle plan {path}")


@app.command(epilog="Example: curricle run code-first --set seeds=[0] --out runs/one-seed")
def run(
    study: StudyArgument = "code-first",
    out: Annotated[Path | None, typer.Option(help="Folder for report and results; runs/STUDY by default.")] = None,
    store: StoreOption = STORE,
    set: Set = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs side by side; one a core by default.")] = None,
    track: Annotated[
        str | None, typer.Option(metavar="SERVICE[:PROJECT]", help="Follow the runs in wandb or trackio.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster: ray://HOST:PORT, ray:auto or local.")
    ] = None,
    remote: Annotated[
        str | None,
        typer.Option(metavar="URL", help="With --on: an object store (s3://…) in the place of a shared file system."),
    ] = None,
    nproc_per_node: Annotated[int, typer.Option(min=1, help="Processes, or GPUs, that train one run together.")] = 1,
    replicas: Annotated[int, typer.Option(min=1, help="Copies of the model among them (hybrid sharding).")] = 1,
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="torch.compile; on GPUs by default.")
    ] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Activation checkpointing, for memory.")] = False,
) -> None:
    """Train what is missing, evaluate it, and write the report."""
    import os
    from contextlib import nullcontext

    from curricle.execution import Execution
    from curricle.study import Refused
    from curricle.studyfile import load_study
    from curricle.tracking import Tracker, refuse_missing, tracked

    if track is not None:
        refuse_missing(track)

    execution = Execution(ranks=nproc_per_node, replicas=replicas, compile=compile, recompute=recompute)
    loaded = load_study(study, set or [])
    folder = out or Path("runs") / loaded.name
    command = _command(study, out, store, set)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        if workers or on or nproc_per_node > 1:
            raise Refused("torchrun has started the ranks: leave out --workers, --on and --nproc-per-node")
        _run_as_rank(loaded, folder, store, execution, command)
        return
    from curricle import cluster, runner
    from curricle.calibration import known_peak
    from curricle.progress import Reading, Training

    console = _console()
    runner.remote_store(remote, on)  # refused before anything is prepared
    with cluster.reached(on, workers) if on else nullcontext():
        plan, prepared = _plan(loaded, store, console)
        runner.refuse_declared(plan)
        runner.refuse_uneven(plan, execution)
        done = runner.done(plan, prepared)
        _show_plan(console, plan, prepared, done)
        peak = known_peak(prepared.store, threads=max(1, runner.cores() // (workers or runner.cores())))
        training = Training(console, plan, done, peak.flops_per_second if peak else None)
        say = lambda text: console.print(text, markup=False, soft_wrap=True)  # noqa: E731
        tracker = Tracker(track, plan, say) if track is not None else None
        with training.shown(), tracker or nullcontext():
            results = runner.run(
                plan,
                store=prepared.store,
                out=folder,
                workers=workers,
                on=on,
                remote=remote,
                execution=execution,
                watch=Reading(console),
                show=tracked(training, tracker) if tracker else training,
                prepared=prepared,
            )
    _write_report(console, plan, prepared, results, folder, command)


def _run_as_rank(study: Study, folder: Path, store: Path, execution: Execution, command: str) -> None:
    """One of the processes that torchrun started. All train every run together; the first one speaks and writes."""
    from dataclasses import replace

    from curricle import runner, upkeep
    from curricle.preparation import stock
    from curricle.progress import Reading, Training
    from curricle.study import Refused
    from curricle.training.distribution import Ranks

    ranks = Ranks.of_torchrun()
    assert ranks is not None
    console = _console(quiet=not ranks.first)
    execution = replace(execution, ranks=ranks.size)

    def prepare() -> tuple[Plan, Prepared, frozenset[str]]:
        plan, prepared = _plan(study, store, console)
        runner.refuse_declared(plan)
        runner.refuse_uneven(plan, execution)
        done = runner.done(plan, prepared)
        if ranks.first:
            runner.refuse_small_disk(plan, prepared.store, done)
            upkeep.remember(plan, prepared, folder)
            stock(prepared, plan, Reading(console))
            _show_plan(console, plan, prepared, done)
        return plan, prepared, done

    try:
        with runner.asked_to_stop() as interrupted:
            plan, prepared, done = runner.first_then_all(ranks, prepare)
            training = Training(console, plan, done)
            with training.shown():
                for message in runner.walk_as_rank(plan, prepared, ranks, execution, interrupted):
                    training(message)
    except (Refused, runner.Interrupted) as error:
        if ranks.first:
            raise
        raise typer.Exit(2 if isinstance(error, Refused) else 130) from None
    ranks.leave()
    if ranks.first:
        _write_report(console, plan, prepared, runner.gather(plan, prepared, folder / "results"), folder, command)


@app.command(epilog="Example: curricle plan deepseekmath-7b   or   curricle plan code-first --why math")
def plan(
    study: StudyArgument = "code-first",
    store: StoreOption = STORE,
    set: Set = None,
    why: Annotated[str | None, typer.Option(metavar="RUN", help="A run, or a stage: what makes it new?")] = None,
    as_json: Json = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="Print a job script for sbatch, and nothing else.")] = False,
    slurm_array: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The same for N jobs side by side on one store.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Of the Slurm job.")] = 1,
    nproc_per_node: Annotated[int, typer.Option(min=1, help="GPUs that each node of the Slurm job gives.")] = 1,
    time: Annotated[
        str | None, typer.Option(metavar="HH:MM:SS", help="Of the Slurm job; from the plan's estimate by default.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Of the Slurm job.")] = None,
    account: Annotated[str | None, typer.Option(help="Of the Slurm job.")] = None,
    accelerator: Annotated[str, typer.Option(help="H100 or H200: what the time is estimated for.")] = "H100",
    cpu: Annotated[bool, typer.Option("--cpu", help="A Slurm job without GPUs.")] = False,
    out: Annotated[Path | None, typer.Option(help="Of the Slurm job's run: folder for report and results.")] = None,
) -> None:
    """Show the tree of stages, the tokens and the cost; nothing is trained."""
    from curricle import runner
    from curricle.execution import Execution
    from curricle.studyfile import load_study

    scripted = slurm or slurm_array is not None
    console = _console(quiet=as_json or scripted)
    compiled, prepared = _plan(load_study(study, set or []), store, console)
    if scripted:
        from curricle.slurm import Job, job_script

        runner.refuse_declared(compiled)
        ranks = nproc_per_node if slurm_array is not None else nproc_per_node * nodes
        runner.refuse_uneven(compiled, Execution(ranks=ranks))
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
        options = ["--out", str(out)] if out else []
        overrides = [part for s in set or [] for part in ("--set", s)]
        sys.stdout.write(job_script(compiled, job, ["run", study, "--store", str(store), *options, *overrides]))
        return
    done: frozenset[str] = frozenset()
    if not compiled.declared():
        done = runner.done(compiled, prepared)
        runner.refuse_small_disk(compiled, prepared.store, done)
    if as_json:
        from curricle.calibration import estimate_seconds, measure

        speed = measure(compiled, prepared.store)
        seconds = estimate_seconds(compiled, speed, runner.cores(), done)
        _print_json({**compiled.to_json(done), "seconds_here": seconds, "seconds_basis": speed.basis})
    elif why is not None:
        _explain_run(console, compiled, prepared, why)
    else:
        _show_plan(console, compiled, prepared, done)


def _show_plan(console: Console, plan: Plan, prepared: Prepared, done: frozenset[str]) -> None:
    from curricle.calibration import estimate_seconds, measure
    from curricle.report.terminal import plan_view
    from curricle.runner import cores

    speed = measure(plan, prepared.store)
    console.print(plan_view(plan, done, estimate_seconds(plan, speed, cores(), done), speed.basis))


def _explain_run(console: Console, plan: Plan, prepared: Prepared, why: str) -> None:
    from curricle import upkeep
    from curricle.planning import why_new
    from curricle.report.terminal import why_view
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


@app.command(epilog="Example: curricle status code-first")
def status(study: StudyArgument = "code-first", store: StoreOption = STORE, set: Set = None) -> None:
    """Show which runs of a study are done, begun or waiting."""
    from curricle import runner
    from curricle.report.listing import status_view
    from curricle.studyfile import load_study

    console = _console()
    compiled, prepared = _plan(load_study(study, set or []), store, console)
    console.print(status_view(compiled, runner.reached(compiled, prepared), runner.done(compiled, prepared)))


@app.command("list", epilog="Example: curricle list --store runs/store")
def list_(store: StoreOption = STORE) -> None:
    """List the studies that ship and the runs in the store."""
    from curricle import upkeep
    from curricle.report.listing import list_view
    from curricle.store import Store
    from curricle.studyfile import SHIPPED, load_study

    shipped = {file.stem: load_study(file).question for file in sorted(SHIPPED.glob("*.yaml"))}
    _console().print(list_view(shipped, upkeep.listing(Store(store)), store))


@app.command(epilog="Example: curricle diff code-first code-first-full   or   curricle diff math/3f9a math/77b0")
def diff(
    one: Annotated[str, typer.Argument(help="A study, or a run.")],
    other: Annotated[str, typer.Argument(help="Another.")],
    store: StoreOption = STORE,
) -> None:
    """Say how two studies, or two runs, differ."""
    from curricle import upkeep
    from curricle.planning import differences
    from curricle.report.listing import diff_view
    from curricle.store import Store

    values = [upkeep.described(Store(store), name) for name in (one, other)]
    _console().print(diff_view(one, other, differences(values[1], values[0])))


@app.command(epilog="Example: curricle explain math/3f9a --step 120   (runs: curricle list)")
def explain(
    run: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    step: Annotated[int, typer.Option(help="The step, from 1.")],
    store: StoreOption = STORE,
    full: Annotated[bool, typer.Option("--full", help="Print all text that the step read.")] = False,
) -> None:
    """Show the documents behind the batch of one step of a run."""
    from dataclasses import asdict

    from curricle.explain import explain as explained
    from curricle.report.listing import explained_view
    from curricle.store import Store

    _console().print(explained_view(asdict(explained(Store(store), run, step)), full), soft_wrap=full)


@app.command(epilog="Example: curricle calibrate   or   curricle calibrate --again --json")
def calibrate(
    store: StoreOption = STORE,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what the store has.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what this machine does at best (matrix products, memory copy), which MFU is a share of."""
    from dataclasses import asdict

    from curricle import calibration, runner
    from curricle.report.listing import calibration_view
    from curricle.store import Store
    from curricle.study import Refused

    if store.exists() and not store.is_dir():
        raise Refused(f"--store {store}: a file, not a folder")
    console = _console(quiet=as_json)
    peaks = []
    for device in calibration.devices():
        for threads in sorted({1, runner.cores()}) if device == "cpu" else (0,):
            on = f"{device}, {threads} {'thread' if threads == 1 else 'threads'}" if threads else device
            with console.status(f"measuring {on}"):
                peaks.append(asdict(calibration.peak(Store(store), device, threads, again=again)))
    if as_json:
        _print_json({"peaks": peaks})
    else:
        console.print(calibration_view(peaks))


@app.command(epilog="Example: curricle clean   then   curricle clean --remove")
def clean(
    store: StoreOption = STORE,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is listed.")] = False,
) -> None:
    """List what no study refers to any more; with --remove, remove it."""
    from curricle import upkeep
    from curricle.report.listing import clean_view
    from curricle.store import Store
    from curricle.study import Refused

    if not store.is_dir():
        raise Refused(f"--store {store}: no such folder")
    place = Store(store)
    unused = upkeep.unused(place)
    if remove:
        upkeep.remove(place, list(unused))
    _console().print(clean_view(unused, removed=remove))


@app.command(
    epilog="Example: curricle evaluate runs/store/runs/math/…/model --benchmark gsm8k=gsm8k/test.jsonl --problems 200"
)
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A folder in the Hugging Face format, a hub id, a .gguf file, or a run.")
    ],
    benchmark: Annotated[list[str], typer.Option(metavar="FORMAT=PATH", help="gsm8k=FILE or math=FILE; repeatable.")],
    problems: Annotated[int | None, typer.Option(min=1, help="A random part of the problems; all by default.")] = None,
    shots: Annotated[int, typer.Option(min=0, max=4, help="Worked examples before each problem.")] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where an answer is cut off.")] = 256,
    out: Annotated[
        Path | None, typer.Option(help="Keep every prompt, output and verdict in this Parquet file.")
    ] = None,
    store: StoreOption = STORE,
    as_json: Json = False,
) -> None:
    """Score a checkpoint on GSM8K or MATH: exact match, and bits per byte of the reference solutions."""
    from curricle import upkeep
    from curricle.analysis.intervals import wilson
    from curricle.evaluation.benchmarks import load as load_benchmark
    from curricle.progress import jobs_watched
    from curricle.results import EVALUATIONS, write_rows
    from curricle.store import Store
    from curricle.study import Refused
    from curricle.studyfile import parse_benchmark

    if out is not None and not out.resolve().parent.is_dir():
        raise Refused(f"--out {out}: {out.resolve().parent} is no folder")
    specs = {}
    for text in benchmark:
        name, spec = parse_benchmark(text, problems, shots, max_new_tokens)
        if name in specs:
            raise Refused(f"--benchmark {text}: {name} is given twice")
        specs[name] = load_benchmark(name, spec, Path)
    from curricle.evaluation.generation import context_of
    from curricle.evaluation.scoring import evaluate as score
    from curricle.evaluation.scoring import summary
    from curricle.training.model import load

    console = _console(quiet=as_json)
    loaded, tokenizer = load(upkeep.model_of(Store(store), model))
    context = context_of(loaded)
    rows = score(loaded, tokenizer, list(specs.values()), {}, context=context, watch=jobs_watched(console))
    if out is not None:
        where = {"run": model, "stage": "", "seed": 0, "tokens": 0, "final": True}
        write_rows(out, [{**where, **row} for row in rows], EVALUATIONS)
    scores = summary(rows)
    for line in scores.values():
        if "accuracy" in line:
            interval = wilson(line["accuracy"], line["n"])
            line |= {"low": interval.low, "high": interval.high}
    if as_json:
        _print_json({"model": model, "benchmarks": scores})
    else:
        from curricle.report.terminal import evaluation_view

        console.print(evaluation_view(scores))


@app.command(epilog="Example: curricle export math/3f9a out/math   or   curricle export model.gguf out/model")
def export(
    model: Annotated[
        str, typer.Argument(metavar="RUN", help="A run (or a checkpoint's folder, .gguf file or hub id, to convert).")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there yet, or is empty.")],
    store: StoreOption = STORE,
) -> None:
    """Hand a model out: weights, tokenizer and a model card in the Hugging Face format."""
    from curricle import upkeep
    from curricle.store import Store

    upkeep.export(Store(store), model, folder)
    print(f"Wrote {folder}: transformers, vLLM and lm-evaluation-harness read it as it is; its card is README.md")


@app.command(epilog="Example: curricle gain --from 14.3 --to 36.2 --problems 5000   or   curricle gain --published")
def gain(
    before: Annotated[float | None, typer.Option("--from", help="The score before, in percent.")] = None,
    after: Annotated[float | None, typer.Option("--to", help="The score after, in percent.")] = None,
    problems: Annotated[int | None, typer.Option(min=1, help="How many problems each score rests on.")] = None,
    published: Annotated[bool, typer.Option("--published", help="Analyse DeepSeekMath's published tables.")] = False,
    as_json: Json = False,
) -> None:
    """The relative gain between two scores, with its interval where the number of problems is given."""
    from curricle import analysis
    from curricle.study import Refused

    if published == (before is not None or after is not None):
        raise Refused("gain: give --from and --to, or --published")
    if published:
        findings = analysis.published()
        if as_json:
            _print_json({"findings": [finding.to_json() for finding in findings]})
            return
        from curricle.report.terminal import published_view

        _console().print(published_view(findings))
        return
    if before is None or after is None:
        raise Refused("gain: --from and --to go together")
    comparison = analysis.compare_scores(before, after, problems, problems)
    if as_json:
        _print_json(comparison.to_json())
        return
    from curricle.report.terminal import gain_view

    _console().print(gain_view(comparison))


@app.command(epilog="Example: curricle schema > study.schema.json")
def schema() -> None:
    """Print the JSON Schema of a study, for editors."""
    from curricle.study import Study

    _print_json(Study.model_json_schema())


@app.command(epilog="Example: curricle report code-first")
def report(
    study: StudyArgument = "code-first",
    out: Annotated[Path | None, typer.Option(help="Folder for report and results; runs/STUDY by default.")] = None,
    store: StoreOption = STORE,
    set: Set = None,
) -> None:
    """Write the report of what is done so far; nothing is trained."""
    from curricle import runner
    from curricle.studyfile import load_study

    console = _console()
    loaded = load_study(study, set or [])
    compiled, prepared = _plan(loaded, store, console)
    runner.refuse_declared(compiled)
    folder = out or Path("runs") / loaded.name
    results = runner.gather(compiled, prepared, folder / "results")
    _write_report(console, compiled, prepared, results, folder, _command(study, out, store, set))


def _command(study: str, out: Path | None, store: Path, overrides: list[str] | None) -> str:
    """How to make the same report again."""
    import shlex

    options = ["--out", str(out)] if out else []
    options += ["--store", str(store)] if store != STORE else []
    return shlex.join(["curricle", "run", study, *options, *(part for s in overrides or [] for part in ("--set", s))])


def _write_report(console: Console, plan: Plan, prepared: Prepared, results: Any, folder: Path, command: str) -> None:
    """Findings, page and the summary on the screen."""
    from curricle import analysis
    from curricle.report import page
    from curricle.report.terminal import summary_view
    from curricle.store import write_json
    from curricle.upkeep import receipts

    findings = analysis.analyse(results, target=plan.study.answer_target)
    write_json(folder / "findings.json", {"study": plan.study.name, "findings": [f.to_json() for f in findings]})
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
    )
    console.print(summary_view(plan.study, findings))
    console.print()
    for what in ("report.html", "findings.json", "results"):
        console.print(str(folder / what), markup=False, soft_wrap=True)
