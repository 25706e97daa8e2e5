"""What verbs share: options that several take, the console, JSON on the screen, a study that is planned and shown.

Nothing heavy is loaded until a verb needs it, so that help answers at once.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from curricle.execution import Execution
    from curricle.planning import Plan
    from curricle.running.preparation import Prepared
    from curricle.running.standing import Standing
    from curricle.study import Study
    from curricle.supplied import Packing

StudyArgument = Annotated[str, typer.Argument(help="A study's YAML file, or the name of one that ships.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="A.B.C=VALUE", help="Override a field of the study.")]


def _no_file(parameter: typer.CallbackParam, folder: Path | None) -> Path | None:
    """A folder that is named, but for one that is a file or would lie in one: no verb can do anything with it."""
    if folder is not None:
        refuse_file(parameter.opts[0], folder)
    return folder


StoreOption = Annotated[Path, typer.Option(help="Where runs, corpora and tokens are kept.", callback=_no_file)]
Out = Annotated[
    Path | None, typer.Option(help="Folder for report and results; runs/STUDY by default.", callback=_no_file)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Figures = Annotated[
    Path | None,
    typer.Option("--figures", metavar="DIR", help="Write each figure as SVG and PNG.", callback=_no_file),
]
Values = Annotated[
    list[Path] | None,
    typer.Option("--values", metavar="FILE", help="What documents are worth, from curricle value --out; repeatable."),
]
STORE = Path("runs/store")

# How a study is carried out: options of `run`, and of `plan` for the job that it prints.
WHERE, MEMORY, CHECKPOINTS = "Where it runs", "Speed and memory", "Checkpoints"
Replicas = Annotated[
    int,
    typer.Option(
        min=1, rich_help_panel=WHERE, help="Copies of the model among the processes of a run (hybrid sharding)."
    ),
]
Track = Annotated[
    str | None,
    typer.Option(metavar="SERVICE[:PROJECT]", rich_help_panel=WHERE, help="Follow the runs in wandb or trackio."),
]
MicroBatchTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        rich_help_panel=MEMORY,
        help="Tokens that each process takes at once; its share of a batch is accumulated. By default the recipe's; "
        "else 8192 on a GPU.",
    ),
]
Recompute = Annotated[
    bool, typer.Option("--recompute", rich_help_panel=MEMORY, help="Activation checkpointing, for memory.")
]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", rich_help_panel=MEMORY, help="torch.compile; on GPUs by default."),
]
Attention = Annotated[
    Literal["auto", "sdpa", "flex_attention"],
    typer.Option(
        rich_help_panel=MEMORY,
        help="What keeps documents apart: a mask (sdpa), or blocks, by default on GPUs for models that can.",
    ),
]
SaveSeconds = Annotated[
    float,
    typer.Option(min=0, metavar="S", rich_help_panel=CHECKPOINTS, help="Between checkpoints to resume from, at least."),
]
Keep = Annotated[int, typer.Option(min=1, metavar="N", rich_help_panel=CHECKPOINTS, help="How many of these stay.")]


def options_of(execution: Execution) -> list[str]:
    """What `run` is told of it, but for the ranks, which the job's launcher states."""
    from dataclasses import fields

    from curricle.execution import Execution

    options = []
    for name in (field.name for field in fields(Execution) if field.name != "ranks"):
        value, option = getattr(execution, name), name.replace("_", "-")
        if value == getattr(Execution(), name):
            continue
        options += (
            [f"--{option}"] if value is True else [f"--no-{option}"] if value is False else [f"--{option}", str(value)]
        )
    return options


def command_of(study: str, out: Path | None, store: Path, overrides: list[str] | None) -> str:
    """What trains this study, and writes its report."""
    import shlex

    options = ["--out", str(out)] if out else []
    options += ["--store", str(store)] if store != STORE else []
    return shlex.join(["curricle", "run", study, *options, *(part for s in overrides or [] for part in ("--set", s))])


def make_console(quiet: bool = False) -> Console:
    from rich.console import Console

    console = Console(quiet=quiet, highlight=False)
    # Piped output is read later, at any width: a table must not be cut to the 80 columns that nobody has.
    return console if console.is_terminal else Console(quiet=quiet, highlight=False, width=100)


def print_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


@contextmanager
def said_as_options(**others: str) -> Iterator[None]:
    """A refusal that names arguments of a function (`max_kl: …`, `sigma, seeds: …`) names the options that they were
    given by; `others` are those whose option has another name. Only for calls whose arguments are all options."""
    from curricle.study import Refused

    try:
        yield
    except Refused as refusal:
        names, colon, said = str(refusal).partition(":")
        words = names.split(", ")
        if not colon or not all(re.fullmatch(r"[a-z][a-z_]*( ratios| metrics)?", word) for word in words):
            raise
        dashed = (f"--{others.get(word, word).replace('_', '-').replace(' ', '-')}" for word in words)
        raise Refused(f"{', '.join(dashed)}:{said}") from None


def tokens(text: str, option: str) -> int:
    """A number of tokens as people write it: 10B."""
    from curricle.study import Refused, parse_count

    try:
        made = parse_count(text)
    except ValueError as error:
        raise Refused(f"{option}: {error}") from None
    if not isinstance(made, int) or made <= 0:
        raise Refused(f"{option} {text}: not a positive number of tokens")
    return made


def refuse_file(option: str, folder: Path) -> Path:
    """The nearest folder on the way to this one that is there. Raises `Refused` where a file is in the way."""
    import os

    from curricle.study import Refused

    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        what = "" if there.name == folder.name else f"{there} is "
        raise Refused(f"{option} {folder}: {what}a file, not a folder")
    return there


def refuse_unwritable(option: str, folder: Path | None) -> None:
    """Refuse a folder that cannot be made or written in, before hours of work are to be kept in it. It is tried, and
    nothing is left of that: what a mode says is not what a read-only file system, or one such as /proc, allows."""
    import os
    import tempfile

    from curricle.study import Refused

    if folder is None:
        return
    there = refuse_file(option, folder)
    try:
        os.rmdir(tempfile.mkdtemp(dir=there, prefix=".curricle-"))
    except OSError as error:
        raise Refused(
            f"{option} {folder}: nothing can be written in {there} ({error.strerror}); name another folder"
        ) from None


def refuse_unwritable_file(option: str, file: Path | None) -> None:
    from curricle.study import Refused

    if file is None:
        return
    if file.is_dir():
        raise Refused(f"{option} {file}: a folder; name a file")
    refuse_unwritable(option, file.parent)


def planned(study: Study, store: Path, console: Console) -> tuple[Plan, Prepared]:
    from curricle.planning import compile_plan
    from curricle.progress import Reading, doing
    from curricle.running.preparation import prepare
    from curricle.store import Store

    if not store.is_dir():  # one that is there may be somebody else's, to read
        refuse_unwritable("--store", store)
    with doing(console, "looking at sources and benchmarks") as done:
        prepared = prepare(study, Store(store), Reading(console, done))
    for name, entry in prepared.entries.items():
        if entry.bad_lines:
            console.print(f"{name}: {entry.bad_lines:,} bad lines left out; the first:", markup=False)
            for line in entry.bad_examples:
                console.print(f"  {line}", markup=False, soft_wrap=True)
        for overlapped, count in entry.removed.items():
            console.print(f"{name}: {count:,} documents removed that overlap {overlapped}", markup=False)
    for name, supplied in prepared.catalogue.sources.items():
        for line in overlong(name, supplied.packing, study.model.context):
            console.print(line, markup=False, soft_wrap=True)
    return compile_plan(study, prepared.catalogue), prepared


def overlong(name: str, packing: Packing | None, context: int) -> list[str]:
    """What is said of conversations that are longer than a row."""
    if packing is None or not packing.cut + packing.left_out:
        return []
    sampled = f" (in a sample of {packing.documents:,})" if packing.rows is None else ""
    fates = [f"{packing.cut:,} cut at its end"] * bool(packing.cut)
    fates += [f"{packing.left_out:,} left out, whose answers begin past its end"] * bool(packing.left_out)
    told = f"{name}: conversations longer than a row of {context:,} tokens{sampled}: {', '.join(fates)}; the first:"
    return [told, *(f"  {where}" for where in packing.examples)]


def show_plan(console: Console, standing: Standing, prepared: Prepared) -> None:
    """No time is planned for what is done, nor for what will not be."""
    from curricle.progress import doing
    from curricle.report.terminal import plan_view
    from curricle.running.calibration import seconds_here

    plan, over = standing.plan, standing.finished | standing.left_out
    measuring = lambda: doing(console, "measuring how fast this machine is")  # noqa: E731
    console.print(plan_view(plan, standing.finished, *seconds_here(plan, prepared.store, over, measuring)))
    for line in slow_precision(plan, over):
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


def slow_precision(plan: Plan, over: frozenset[str]) -> list[str]:
    """What is said where runs that are left to do would be trained here in bf16, and this CPU has none."""
    from curricle.running.calibration import bf16_is_slow_here

    wanted = {node.stage for run, node in plan.nodes.items() if run not in over and node.recipe.precision == "bf16"}
    if not wanted or plan.declared() or not bf16_is_slow_here():
        return []
    own = {stage for stage in wanted if (recipe := plan.study.stages[stage].recipe) and recipe.precision == "bf16"}
    fields = ["recipe.precision"] * bool(wanted - own) + [f"stages.{stage}.recipe.precision" for stage in sorted(own)]
    ways = " ".join(f"--set {field}=fp32" for field in fields)
    return [f"{fields[0]}: bf16 on this CPU, which has no instructions for it: fp32 is many times faster here ({ways})"]
