"""`mixture`: from a swarm of small runs, as two CSV files, to a mixture with its uncertainty, or to predictions.

The files are read as RegMix and olmix write them. What is found is printed as tables or, with `--json`, as one object
and nothing else.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from curricle.commands.common import (
    Figures,
    Json,
    make_console,
    print_json,
    refuse_unwritable,
    refuse_unwritable_file,
    said_as_options,
    tokens,
)

MAX_EPOCHS = 4.0


def mixture(
    ratios: Annotated[Path, typer.Option(metavar="CSV", help="A row a run: its key, and the share of each source.")],
    metrics: Annotated[Path, typer.Option(metavar="CSV", help="A row a run: its key, and each metric, lower better.")],
    target: Annotated[
        list[str] | None, typer.Option(metavar="METRIC[=WEIGHT]", help="To be lowered; repeatable; all by default.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="auto (efftokens), efftokens, efftokens-linear, exponential, linear, gp, lightgbm, average."),
    ] = "auto",
    natural: Annotated[Path | None, typer.Option(metavar="CSV", help="source,share: the mixture as it comes.")] = None,
    available: Annotated[Path | None, typer.Option(metavar="CSV", help="source,tokens: what there is.")] = None,
    budget_tokens: Annotated[str | None, typer.Option(help="Tokens of the run that is planned, such as 100B.")] = None,
    max_epochs: Annotated[float, typer.Option(help="How often a source may be seen.")] = MAX_EPOCHS,
    bound: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=VALUE", help="A metric's largest value, or natural+0.02; repeatable."),
    ] = None,
    max_kl: Annotated[float | None, typer.Option(help="Largest KL to the natural mixture, in nats.")] = None,
    larger_ratios: Annotated[
        Path | None, typer.Option(metavar="CSV", help="4 to 8 runs at the target size, as --ratios.")
    ] = None,
    larger_metrics: Annotated[Path | None, typer.Option(metavar="CSV", help="Their metrics, as --metrics.")] = None,
    predict: Annotated[Path | None, typer.Option(metavar="CSV", help="Mixtures to predict, as --ratios.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="CSV", help="Where the predictions go.")] = None,
    seed: Annotated[int, typer.Option(help="Of folds and resamples.")] = 0,
    figures: Figures = None,
    as_json: Json = False,
) -> None:
    """Recommend a mixture from a swarm of small runs, with its uncertainty; or predict other mixtures."""
    from curricle.analysis.mixture import mixture as recommend
    from curricle.analysis.mixture import predictions
    from curricle.study import Refused

    if (predict is None) != (out is None):
        raise Refused("--predict and --out go together: mixtures to predict, and the file for what is predicted")
    refuse_unwritable_file("--out", out)
    refuse_inputs(
        out,
        {"--ratios": ratios, "--metrics": metrics, "--natural": natural, "--available": available,
         "--larger-ratios": larger_ratios, "--larger-metrics": larger_metrics, "--predict": predict},
    )  # fmt: skip
    refuse_unwritable("--figures", figures)
    if predict is not None:
        given = {"--available": available, "--budget-tokens": budget_tokens, "--natural": natural,
                 "--max-epochs": None if max_epochs == MAX_EPOCHS else max_epochs, "--bound": bound or None,
                 "--max-kl": max_kl, "--figures": figures}  # fmt: skip
        said = [name for name, value in given.items() if value is not None]
        if said:
            raise Refused(
                f"{', '.join(said)}: of a recommendation only; --predict says what the mixtures of its file would "
                "score, and asks for none of them"
            )
    if (available is None) != (budget_tokens is None):
        raise Refused("--available and --budget-tokens go together: what there is, and how much of it is read")
    if max_kl is not None and not max_kl > 0:
        raise Refused(f"--max-kl {max_kl:g}: a divergence in nats, above 0")
    if not max_epochs > 0:
        raise Refused(f"--max-epochs {max_epochs:g}: how often a source may be seen, above 0")
    if max_epochs != MAX_EPOCHS and available is None:
        raise Refused("--max-epochs goes with --available and --budget-tokens: they say how often a source is seen")
    planned = None if budget_tokens is None else tokens(budget_tokens, "--budget-tokens")
    if (larger_ratios is None) != (larger_metrics is None):
        raise Refused("--larger-ratios and --larger-metrics go together")
    tables = read(ratios, "--ratios"), read(metrics, "--metrics")
    larger = None
    if larger_ratios and larger_metrics:
        larger = read(larger_ratios, "--larger-ratios"), read(larger_metrics, "--larger-metrics")
    console = make_console(quiet=as_json)
    if predict and out:
        with console.status("fitting"), said_as_options():
            rows = predictions(
                *tables, read(predict, "--predict"), method=method, larger=larger, seed=seed, targets=weights(target)
            )
        write(out, rows)
        if as_json:
            print_json({"predictions": rows})
        else:
            console.print(f"Wrote {len(rows):,} predictions to {out}.", markup=False)
        return
    with console.status("fitting"), said_as_options(bounds="bound"):
        found = recommend(
            *tables,
            targets=weights(target),
            method=method,
            natural=read(natural, "--natural") if natural else None,
            available=read(available, "--available") if available else None,
            budget_tokens=planned,
            max_epochs=max_epochs,
            bounds=dict(split(b, "--bound") for b in bound or []),
            max_kl=max_kl,
            larger=larger,
            seed=seed,
        )
    drawn: list[str] = []
    if figures is not None:
        from curricle.report.charts import save_all

        drawn = save_all(found, None, figures)
    if as_json:
        print_json({"findings": [f.to_json() for f in found], "figures": drawn})
    else:
        from curricle.report.mixtures import mixture_view

        console.print(mixture_view(found))
        if figures is not None:
            console.print(f"\n{len(drawn)} figures in {figures}", markup=False, soft_wrap=True)


def refuse_inputs(out: Path | None, inputs: Mapping[str, Path | None]) -> None:
    """Refuse an `--out` that is one of the files to be read, by whatever name: predictions would take its place."""
    from curricle.study import Refused

    if out is None or not out.exists():
        return
    for option, path in inputs.items():
        if path is not None and path.exists() and path.samefile(out):
            raise Refused(f"--out {out}: is what {option} reads, and would be overwritten; name another file")


def read(path: Path, option: str) -> list[dict[str, str]]:
    """A CSV file as rows. A column that stands twice is refused: one of them would be lost."""
    from curricle.study import Refused

    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            rows = list(reader)
    except OSError as error:
        raise Refused(f"{option} {path}: {(error.strerror or str(error)).lower()}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"{option} {path}: {error}") from None
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"{option} {path}: column {name!r} stands twice")
    for i, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise Refused(f"{option} {path}: line {i} has not {len(names)} fields, as the first line has")
    return rows


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    from curricle.store import whole_file

    with whole_file(path, "w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def weights(target: Sequence[str] | None) -> dict[str, float] | None:
    """`METRIC` weighs 1, `METRIC=2` weighs 2; None where nothing is named."""
    from curricle.study import Refused

    made: dict[str, float] = {}
    for each in target or []:
        name, _, weight = each.rpartition("=")
        try:
            made[name or each] = float(weight) if name else 1.0
        except ValueError:
            raise Refused(f"--target {each}: {weight!r} is not a weight; write METRIC or METRIC=WEIGHT") from None
    return made or None


def split(option: str, name: str) -> tuple[str, str]:
    from curricle.study import Refused

    metric, _, value = option.rpartition("=")
    if not metric:
        raise Refused(f"{name} {option}: write METRIC=VALUE, or METRIC=natural+0.02")
    return metric, value
