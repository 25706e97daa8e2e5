"""`value`: what documents of some sources are worth to a target, at the weights of one model.

Rows go to a Parquet or CSV file, one a document; the table on the screen has one line a source. The arithmetic is
`curricle.evaluation.valuation`'s, the sums `curricle.analysis.value`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curricle.commands.common import (
    STORE,
    Figures,
    Json,
    StoreOption,
    make_console,
    print_json,
    refuse_unwritable,
    refuse_unwritable_file,
)

if TYPE_CHECKING:
    from curricle.corpus.documents import Document

METHODS = ("gradient", "forward", "stand-in")


def value(
    model: Annotated[
        str, typer.Argument(help="A folder in the Hugging Face format, a hub id, a .gguf file, or a run.")
    ],
    target: Annotated[
        str,
        typer.Option(metavar="NAME=PATH", help="What is to be learnt: gsm8k=FILE, math=FILE (solutions), or a corpus."),
    ],
    source: Annotated[
        list[str], typer.Option(metavar="NAME=PATH", help="A corpus to judge: JSON lines, Parquet or text; repeatable.")
    ],
    method: Annotated[str, typer.Option(help="gradient (exact), forward (two passes) or stand-in.")] = "gradient",
    documents: Annotated[int, typer.Option(min=2, help="Documents of each source, and of the target.")] = 64,
    context: Annotated[int, typer.Option(min=8, help="Tokens of a document that are read.")] = 256,
    adam: Annotated[bool, typer.Option("--adam", help="With gradient: under Adam's scale, held still.")] = False,
    better: Annotated[str | None, typer.Option(help="With stand-in: a better model, whose loss is subtracted.")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep a row for each document: .parquet or .csv.")] = None,
    figures: Figures = None,
    store: StoreOption = STORE,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Judge sources before training on them: how much a token of each lowers the target's loss, to first order."""
    from curricle.progress import Reading
    from curricle.running import models
    from curricle.store import Store
    from curricle.study import Refused, nearest

    if method not in METHODS:
        raise Refused(f"--method {method}: {nearest(method, METHODS)}")
    if adam and method != "gradient":
        raise Refused(f"--adam: products are under Adam's scale with --method gradient only, not {method}")
    if better is not None and method != "stand-in":
        raise Refused(f"--better: only --method stand-in takes a better model, not {method}")
    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise Refused(f"--out {out}: name a .parquet or a .csv file")
    refuse_unwritable_file("--out", out)
    refuse_unwritable("--figures", figures)
    # Names before anything is read: a mistyped run is told at once.
    place = models.model_of(Store(store), model)
    better_place = models.model_of(Store(store), better) if better else None
    console = make_console(quiet=as_json)
    watch = Reading(console)
    target_name, aim = _read("--target", target, documents)
    named: dict[str, list[Document]] = {}
    for text in source:
        name, found = _read("--source", text, documents)
        if name in named:
            raise Refused(f"--source {text}: {name} is given twice")
        named[name] = found

    from curricle.analysis.value import value as summed
    from curricle.evaluation import valuation
    from curricle.training.distribution import Ranks
    from curricle.training.model import load

    device = Ranks.alone().device
    loaded, tokenizer = load(place, device=device)
    pieces = {name: valuation.pieces(found, tokenizer, context) for name, found in named.items()}
    towards = valuation.pieces(aim, tokenizer, context)
    if method == "gradient":
        rows = valuation.by_gradients(loaded, tokenizer, towards, pieces, adam=adam, watch=watch)
    elif method == "forward":
        rows = valuation.by_forward_passes(loaded, tokenizer, towards, pieces, watch=watch)
    else:
        other = load(better_place, device=device) if better_place else None
        rows = valuation.by_stand_ins(loaded, tokenizer, towards, pieces, better=other, watch=watch)
    if out is not None:
        _write(out, [{"model": model, "target": target_name, **row} for row in rows])
    findings = summed(rows)
    drawn: list[str] = []
    if figures is not None:
        from curricle.report.charts import save_all

        drawn = save_all(findings, None, figures)
    if as_json:
        said = [finding.to_json() for finding in findings]
        print_json({"model": model, "target": target, "findings": said, "figures": drawn})
    else:
        from curricle.report.listing import value_view

        console.print(value_view(findings))
        if out is not None:
            then = f"curricle analyse STUDY --question value --values {out}"
            wrote = (
                f"\nWrote {out}, a row for each document. What training on each source gave stands beside it by: {then}"
            )
            console.print(wrote, markup=False, soft_wrap=True)
        if figures is not None:
            console.print(f"\n{len(drawn)} figures in {figures}", markup=False, soft_wrap=True)


def _read(option: str, text: str, count: int) -> tuple[str, list[Document]]:
    """The name, and a sample of the documents that stand behind it."""
    from curricle.corpus.documents import Document
    from curricle.corpus.files import file_documents
    from curricle.evaluation import benchmarks
    from curricle.evaluation.valuation import chosen
    from curricle.study import Files, Refused
    from curricle.studyfile import parse_benchmark

    name, equals, path = text.partition("=")
    if not equals or not path or not name:
        raise Refused(f"{option} {text}: write it as NAME=PATH, for example code='repos/*.jsonl.zst'")
    if option == "--target" and name in ("gsm8k", "math"):
        items = benchmarks.load(name, parse_benchmark(text, None, 0, 1)[1]).items
        return name, chosen((Document(item.id, item.reference, name, item.prompt) for item in items), count)
    spec = Files(files=tuple(path.split(",")))
    try:
        return name, chosen(file_documents(spec, name, lambda path: Path(path).expanduser()), count)
    except Refused as refusal:  # it names a field of a study, where there is none
        field, _, said = str(refusal).partition(": ")
        if not field.startswith(f"sources.{name}."):
            raise
        known = "; problems are read as gsm8k=FILE and math=FILE" if option == "--target" else ""
        raise Refused(f"{option} {text}: {said}{known}") from None


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    from curricle.results import VALUES, write_rows
    from curricle.store import whole_file

    if out.suffix == ".parquet":
        write_rows(out, rows, VALUES)
        return
    import csv

    with whole_file(out, "w") as file:
        table = csv.DictWriter(file, VALUES.names)
        table.writeheader()
        table.writerows(rows)
