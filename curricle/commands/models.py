"""`evaluate`, `export`, `gain` and `calibrate`: a model, two scores, or this machine, without a study.

What is scored or measured is printed as a table or, with `--json`, as one object and nothing else.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from curricle.commands.common import (
    STORE,
    Json,
    StoreOption,
    make_console,
    print_json,
    refuse_unwritable,
    refuse_unwritable_file,
    said_as_options,
)

RemoteOption = Annotated[
    str | None, typer.Option(metavar="URL", help="Fetch a run's weights from the object store that it was trained in.")
]


def calibrate(
    store: StoreOption = STORE,
    workers: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N", help="Also on the threads of a run among N side by side; repeatable."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what the store has.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what this machine does at best (matrix products, memory copy), which MFU is a share of.

    Of a CPU on one thread, on all, and on as many as runs in the store had here.
    """
    from dataclasses import asdict

    from curricle.execution import Execution
    from curricle.progress import doing
    from curricle.report.listing import calibration_view
    from curricle.running import calibration
    from curricle.running.workers import cores, threads_each
    from curricle.store import Store

    refuse_unwritable("--store", store)
    console = make_console(quiet=as_json)
    counts = {1, cores(), *calibration.threads_of_runs(Store(store))}
    counts |= {threads_each(n, Execution()) for n in workers or ()}
    peaks = []
    for device in calibration.devices():
        for threads in sorted(counts) if device == "cpu" else (0,):
            on = f"{device}, {threads} {'thread' if threads == 1 else 'threads'}" if threads else device
            with doing(console, f"measuring {on}"):
                peaks.append(asdict(calibration.peak(Store(store), device, threads, again=again)))
    if as_json:
        print_json({"peaks": peaks})
    else:
        console.print(calibration_view(peaks))


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
    remote: RemoteOption = None,
    as_json: Json = False,
) -> None:
    """Score a checkpoint on GSM8K or MATH: exact match, and bits per byte of the reference solutions."""
    from curricle.analysis.statistics.intervals import wilson
    from curricle.evaluation.benchmarks import load as load_benchmark
    from curricle.progress import jobs_watched
    from curricle.remote import Remote
    from curricle.results import EVALUATIONS, write_rows
    from curricle.running import models
    from curricle.store import Store
    from curricle.study import Refused
    from curricle.studyfile import parse_benchmark

    refuse_unwritable_file("--out", out)
    specs = {}
    for text in benchmark:
        name, spec = parse_benchmark(text, problems, shots, max_new_tokens)
        if name in specs:
            raise Refused(f"--benchmark {text}: {name} is given twice")
        specs[name] = load_benchmark(name, spec, Path)
    place = models.model_of(Store(store), model, Remote(remote) if remote else None)
    from curricle.evaluation.generation import context_of
    from curricle.evaluation.scoring import evaluate as score
    from curricle.evaluation.scoring import shots_fitted, summary
    from curricle.training.distribution import Ranks
    from curricle.training.model import load

    console = make_console(quiet=as_json)
    loaded, tokenizer = load(place, device=Ranks.alone().device)
    context = context_of(loaded)
    rows = score(loaded, tokenizer, list(specs.values()), {}, context=context, watch=jobs_watched(console))
    if not all(math.isfinite(row["nats"]) for row in rows if row.get("nats") is not None):
        raise Refused(
            f"{model}: its logits are no numbers (NaN or infinite), though its weights are; nothing can be scored"
        )
    if out is not None:
        where = {"run": model, "stage": "", "seed": 0, "tokens": 0, "final": True}
        write_rows(out, [{**where, **row} for row in rows], EVALUATIONS)
    scores = summary(rows)
    short = []
    for name, asked in specs.items():
        fewest, most = shots_fitted(asked, [row["prompt"] for row in rows if row["benchmark"] == name])
        scores[name] |= {"shots_fewest": fewest, "shots_most": most}
        if fewest < len(asked.exemplars):
            held = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            short.append(f"{name}: {held} of {len(asked.exemplars)} worked examples fit into {context:,} tokens")
    for line in scores.values():
        if "accuracy" in line:
            interval = wilson(line["accuracy"], line["n"])
            line |= {"low": interval.low, "high": interval.high}
    if as_json:
        print_json({"model": model, "benchmarks": scores})
    else:
        from curricle.report.terminal import evaluation_view

        console.print(evaluation_view(scores))
        for text in short:
            console.print(text, style="yellow", markup=False, highlight=False)


def export(
    model: Annotated[
        str, typer.Argument(metavar="RUN", help="A run (or a checkpoint's folder, .gguf file or hub id, to convert).")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there yet, or is empty.")],
    store: StoreOption = STORE,
    remote: RemoteOption = None,
) -> None:
    """Hand a model out: weights, tokenizer and a model card in the Hugging Face format."""
    from curricle.remote import Remote
    from curricle.running import models
    from curricle.store import Store

    refuse_unwritable("DIR", folder)
    models.export(Store(store), model, folder, Remote(remote) if remote else None)
    print(f"Wrote {folder}: transformers, vLLM and lm-evaluation-harness read it as it is; its card is README.md")


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
            print_json({"findings": [finding.to_json() for finding in findings]})
            return
        from curricle.report.terminal import published_view

        make_console().print(published_view(findings))
        return
    if before is None or after is None:
        raise Refused("gain: --from and --to go together")
    with said_as_options():
        comparison = analysis.compare_scores(before, after, problems, problems)
    if as_json:
        print_json(comparison.to_json())
        return
    from curricle.report.terminal import gain_view

    make_console().print(gain_view(comparison))
