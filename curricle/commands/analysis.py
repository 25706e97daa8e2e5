"""`analyse`: questions put to a study's results, or to any folder of result rows; nothing is trained."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curricle.commands.common import (
    STORE,
    Figures,
    Json,
    Set,
    StoreOption,
    Values,
    make_console,
    planned,
    print_json,
    refuse_unwritable,
    tokens,
)

if TYPE_CHECKING:
    from rich.console import Console

    from curricle.results import Results
    from curricle.study import Study

Of = Annotated[str, typer.Argument(metavar="STUDY|FOLDER", help="A study, or a folder of result rows.")]


def analyse(
    of: Of = "code-first",
    question: Annotated[list[str] | None, typer.Option(metavar="Q", help="Repeatable; all by default.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="A benchmark, or a source's held-out text.")] = None,
    measure: Annotated[str | None, typer.Option(help="accuracy, or 'bits per byte'.")] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="TOKENS", help="Of prediction, split and value: budgets, such as 10B; repeatable."),
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(metavar="N", help="Of bound: the model's parameters, such as 1M; a study's are known.")
    ] = None,
    values: Values = None,
    figures: Figures = None,
    as_json: Json = False,
    store: StoreOption = STORE,
    set: Set = None,
) -> None:
    """Put questions to result rows: what each stage gave, how curves bend, what is open and why."""
    from curricle import analysis
    from curricle.analysis.asked.questions import refuse_unknown_questions
    from curricle.study import Refused

    refuse_unwritable("--figures", figures)
    refuse_unknown_questions(question or ())
    budgets = tuple(float(tokens(text, "--at")) for text in at or ())
    if budgets and question and not {"prediction", "split", "value"} & {*question}:
        raise Refused(f"--at goes with --question prediction, split or value, not with {', '.join(question)}")
    if values and question and "value" not in question:
        raise Refused(f"--values goes with --question value, not with {', '.join(question)}")
    worth = worth_of(values)
    console = make_console(quiet=as_json)
    stated = None if parameters is None else float(tokens(parameters, "--parameters"))
    results, study, own = found(of, store, set or [], console, benchmark=benchmark, measure=measure)
    target = study.answer_target if study and not benchmark else None
    epochs = study.max_epochs if study else analysis.Asked.max_epochs
    asked = analysis.Asked(results, benchmark, measure, target, stated or own, budgets, epochs, worth)
    answers = analysis.ask(asked, question)
    findings = [finding for answer in answers for finding in answer.findings]
    drawn: list[str] = []
    if figures is not None:
        from curricle.report.charts import save_all

        drawn = save_all(findings, results, figures)
    if as_json:
        print_json(
            {
                "results": results.name,
                "questions": [
                    {"question": a.question, "title": a.title, "findings": len(a.findings), "refused": a.refused}
                    for a in answers
                ],
                "findings": [finding.to_json() for finding in findings],
                "figures": drawn,
            }
        )
    else:
        from curricle.report.answers import answers_view

        console.print(answers_view(answers))
        if figures is not None:
            console.print(f"\n{len(drawn)} figures in {figures}", markup=False, soft_wrap=True)
    if question and all(answer.refused for answer in answers):  # of all there are, some are always refused
        raise typer.Exit(2)


def found(
    of: str, store: Path, overrides: list[str], console: Console, **named: str | None
) -> tuple[Results, Study | None, float | None]:
    """The rows that are meant, and the study with the model's parameters, where it is one. `named` are the benchmark,
    measure or target asked for: one that the study cannot have is refused before a corpus is read."""
    from curricle.analysis.asked.questions import refuse_unscored
    from curricle.study import Refused
    from curricle.studyfile import load_study

    if Path(of).is_dir():
        if overrides:
            raise Refused(f"--set goes with a study; {of} is a folder of rows")
        return rows_in(Path(of)), None, None
    from curricle.running import gathering, runner

    study = load_study(of, overrides)
    refuse_unscored(study, **named)
    plan, prepared = planned(study, store, console)
    runner.refuse_declared(plan)
    # Rows of their own: those beside a report are what its page was made from, and may be of other settings.
    folder = Path(tempfile.mkdtemp(prefix="curricle-rows-"))
    rows = gathering.gather(plan, prepared, folder, reported=Path("runs") / study.name / "results")
    rows.name = of
    weakref.finalize(rows, shutil.rmtree, folder, ignore_errors=True)
    return rows, study, float(plan.parameters)


def rows_in(folder: Path) -> Results:
    """The rows of a folder: in it, or in its `results`."""
    from curricle.results import Results
    from curricle.study import Refused

    for place in (folder, folder / "results"):
        if (place / "runs.parquet").is_file():
            return Results(place)
    raise Refused(f"{folder}: no runs.parquet in it, nor in {folder / 'results'}; curricle results import writes them")


def worth_of(files: list[Path] | None) -> tuple[dict[str, Any], ...]:
    """The rows of all files."""
    return tuple(row for path in files or () for row in documents_of(path))


def documents_of(path: Path) -> list[dict[str, Any]]:
    """What documents are worth, from a file of `curricle value --out`. Raises `Refused` for one that lacks a column,
    and for an empty one."""
    from curricle.importing.reading import table_of
    from curricle.results import VALUES, VALUES_NEED
    from curricle.study import Refused, nearest

    table = table_of(path, VALUES, needed=VALUES_NEED)
    for name in VALUES_NEED:
        if name not in table.column_names:
            raise Refused(f"--values {path}: no column {name!r}; {nearest(name, table.column_names)}")
    if not table.num_rows:
        raise Refused(f"--values {path}: no rows in it")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
