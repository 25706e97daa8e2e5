"""`results import`: others' runs as rows like ours. `results show`: what a folder of rows holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curricle.commands.common import Json, make_console, print_json, refuse_unwritable

EXAMPLE = "Example: curricle results import runs.csv lm-eval-output --out runs/theirs --baseline llama-1b"
app = typer.Typer(
    help="Result rows: bring in others' runs, see what a folder holds.",
    epilog=EXAMPLE,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("import", epilog=EXAMPLE)
def import_(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE…", help="Files or folders; they join by run.")],
    out: Annotated[Path, typer.Option(help="A folder for the rows; not one that holds results.")],
    format: Annotated[str, typer.Option(help="auto, parquet, csv, lm-eval or wandb.")] = "auto",
    baseline: Annotated[str | None, typer.Option(help="The strategy that others are measured against.")] = None,
    tokens_per_step: Annotated[int | None, typer.Option(min=1, help="For a history that counts no tokens.")] = None,
    accuracies: Annotated[str, typer.Option(help="What a W&B export has: auto, share (of 1) or percent.")] = "auto",
    as_json: Json = False,
) -> None:
    """Bring in others' runs: our columns as Parquet or CSV, lm-evaluation-harness output, W&B exports."""
    from curricle import importing

    refuse_unwritable("--out", out)
    made = importing.gather(sources, format, baseline=baseline, tokens_per_step=tokens_per_step, accuracies=accuracies)
    importing.write(made, out)
    counts = {name: table.num_rows for name, table in made.tables.items()}
    if as_json:
        print_json({"out": str(out), "rows": counts, "notes": list(made.notes)})
        return
    console = make_console()
    for note in made.notes:
        console.print(note, markup=False, soft_wrap=True)
    console.print(", ".join(f"{n:,} {name}" for name, n in counts.items() if n), markup=False)
    console.print(f"Wrote {out}; look at it with: curricle analyse {out}", markup=False, soft_wrap=True)


@app.command("show", epilog="Example: curricle results show runs/theirs")
def show(
    folder: Annotated[Path, typer.Argument(help="A folder of result rows, or a study's folder.")],
    as_json: Json = False,
) -> None:
    """Show what a folder of rows holds: strategies with their stages, benchmarks with their measures."""
    from curricle.commands.analysis import rows_in
    from curricle.report.answers import holds, holds_view

    found = holds(rows_in(folder))
    if as_json:
        print_json(found)
    else:
        make_console().print(holds_view(found))
