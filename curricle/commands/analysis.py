"""`analyse`: questions put to a study's results, or to any folder of result rows; nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curricle.commands.common import STORE, Json, Set, StoreOption, make_console, planned, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from curricle.results import Results

Of = Annotated[str, typer.Argument(metavar="STUDY|FOLDER", help="A study, or a folder of result rows.")]


def analyse(
    of: Of = "code-first",
    question: Annotated[list[str] | None, typer.Option(metavar="Q", help="Repeatable; all by default.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="A benchmark, or a source's held-out text.")] = None,
    measure: Annotated[str | None, typer.Option(help="accuracy, or 'bits per byte'.")] = None,
    figures: Annotated[Path | None, typer.Option(metavar="DIR", help="Write each figure as SVG and PNG.")] = None,
    as_json: Json = False,
    store: StoreOption = STORE,
    set: Set = None,
) -> None:
    """Put questions to result rows: what each stage gave, how curves bend, what is open and why."""
    from curricle import analysis
    from curricle.study import Refused

    if figures is not None and figures.exists() and not figures.is_dir():
        raise Refused(f"--figures {figures}: a file, not a folder")
    console = make_console(quiet=as_json)
    results, target = found(of, store, set or [], console)
    asked = analysis.Asked(results, benchmark, measure, None if benchmark else target)
    answers = analysis.ask(asked, question)
    findings = [finding for answer in answers for finding in answer.findings]
    drawn: list[str] = []
    if figures is not None:
        from curricle.report.charts import save_all

        figures.mkdir(parents=True, exist_ok=True)
        drawn = save_all(findings, results, figures)
    if as_json:
        print_json(
            {
                "results": str(results.folder),
                "questions": [
                    {"question": a.question, "title": a.title, "findings": len(a.findings), "refused": a.refused}
                    for a in answers
                ],
                "findings": [finding.to_json() for finding in findings],
                "figures": drawn,
            }
        )
        return
    from curricle.report.answers import answers_view

    console.print(answers_view(answers))
    if figures is not None:
        console.print(f"\n{len(drawn)} figures in {figures}", markup=False, soft_wrap=True)


def found(of: str, store: Path, overrides: list[str], console: Console) -> tuple[Results, str | None]:
    """The rows that are meant, and the target where a study names one. A folder has its rows in it, or in `results`."""
    from curricle.results import Results
    from curricle.study import Refused
    from curricle.studyfile import load_study

    folder = Path(of)
    if folder.is_dir():
        for place in (folder, folder / "results"):
            if (place / "runs.parquet").exists():
                if overrides:
                    raise Refused(f"--set goes with a study; {of} is a folder of rows")
                return Results(place), None
        raise Refused(f"{of}: no runs.parquet in it, nor in {folder / 'results'}; curricle results import writes them")
    from curricle import runner

    study = load_study(of, overrides)
    plan, prepared = planned(study, store, console)
    runner.refuse_declared(plan)
    return runner.gather(plan, prepared, Path("runs") / study.name / "results"), study.answer_target
