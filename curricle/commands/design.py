"""`design`: what to run next. `design STUDY` prices what a study leaves open; `design factorial` proposes the runs of a
transfer study and says what they can tell; `design swarm` draws the mixtures of a mixture study.

`curricle design WORD …` is the command WORD where there is one, and otherwise the command named by `DEFAULT`, which
then takes WORD as its first argument: `curricle design STUDY --budget-hours 8` needs no word between.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from curricle.commands.common import (
    STORE,
    Json,
    Set,
    StoreOption,
    make_console,
    print_json,
    refuse_unwritable,
    refuse_unwritable_file,
    said_as_options,
)

if TYPE_CHECKING:
    from curricle.study import Study

DEFAULT = "study"  # the command that takes a study's name


class WithDefault(TyperGroup):
    """A group whose first word may be the argument of its default command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and DEFAULT in self.commands and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=WithDefault,
    help="What to run next: what a study leaves open, priced; a factorial that can tell transfer; a swarm of mixtures.",
    epilog="Example: curricle design code-first --budget-hours 1   or   curricle design factorial --out transfer.yaml",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


MODEL = "1m"  # of a draft that is like no other study
Like = Annotated[
    str | None, typer.Option(metavar="STUDY", help="Take model, sources, benchmarks and recipe from this study.")
]


@app.command(epilog="Example: curricle design code-first --budget-hours 1 --figures figures")
def study(
    of: Annotated[str, typer.Argument(metavar="STUDY|FOLDER", help="A study, or a folder of result rows.")],
    budget_tokens: Annotated[str | None, typer.Option(help="To spend, such as 20M.")] = None,
    budget_flops: Annotated[float | None, typer.Option(help="To spend, such as 1e15.")] = None,
    budget_hours: Annotated[float | None, typer.Option(help="On the machine that trained the runs so far.")] = None,
    target: Annotated[str | None, typer.Option(help="A benchmark; the study's own by default.")] = None,
    precision: Annotated[
        float | None, typer.Option(min=0, help="A level known to no better than this share of it is open, such as 0.1.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw the front there, as SVG and PNG.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the study with what the budget buys here.")] = None,
    as_json: Json = False,
    store: StoreOption = STORE,
    set: Set = None,
) -> None:
    """Say which question is open at what cost, what the budget buys, and what strategies trade for the target."""
    from curricle.analysis.proposals.next_runs import next_runs, the_budget
    from curricle.commands.analysis import found
    from curricle.drafting import draft_next
    from curricle.report import words
    from curricle.report.proposals import next_runs_view, written_view
    from curricle.study import Refused
    from curricle.studyfile import load_study

    tokens = _count("--budget-tokens", budget_tokens)
    the_budget(tokens, budget_flops, budget_hours)  # refused before a corpus is read
    refuse_unwritable("--figures", figures)
    if out is not None and Path(of).is_dir():
        raise Refused(f"--out: {of} is a folder of rows, and what is written is a study; name the study")
    _refuse_there(out)
    console = make_console(quiet=as_json)
    results, study, _ = found(of, store, set or [], console, target=target)
    own = study.answer_target if study else None
    place = [] if store == STORE else ["--store", str(store)]
    design = next_runs(
        results, target=target or own, tokens=tokens, flops=budget_flops, hours=budget_hours, precision=precision,
        study=study, words=[of, *_typed("--set", set)],
        place=place,
    )  # fmt: skip
    if figures is not None and design.front is not None:
        from curricle.report.charts import save_all

        figures.mkdir(parents=True, exist_ok=True)
        save_all([design.front], results, figures)
    wrote = out if design.together.sets else None
    if out is not None and wrote:
        changed = load_study(of, [*(set or []), *design.together.sets])
        _write(out, draft_next(changed, of, words.budget(design.unit, design.budget), out))
    if as_json:
        print_json({**design.to_json(), "out": str(wrote) if wrote else None})
        return
    console.print(next_runs_view(design), crop=False)
    if out is not None:
        console.print(written_view(design, of, out, place), crop=False)


@app.command(
    epilog="Example: curricle design factorial --sigma 0.02 --gamma 0.1 --out transfer.yaml",
)
def factorial(
    dose: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE=TOKENS,…", help="The doses of a source; give it for two sources."),
    ] = None,
    filler: Annotated[
        str | None, typer.Option(help="A neutral source that keeps total tokens fixed. It is modelled.")
    ] = None,
    total_tokens: Annotated[str | None, typer.Option(help="Of each strategy with a filler.")] = None,
    filler_arm: Annotated[
        list[str] | None, typer.Option(metavar="TOKENS", help="An arm of less filler alone: tells its effect from γ.")
    ] = None,
    one_order: Annotated[
        bool, typer.Option("--one-order", help="Without the arms that tell whether the order matters.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Of each strategy.")] = 3,
    sigma: Annotated[
        float | None, typer.Option(help="The spread of one run's T over seeds, where it is known.")
    ] = None,
    gamma: Annotated[float | None, typer.Option(help="The γ that must be seen.")] = None,
    model: Annotated[str, typer.Option(help="A preset (0.4m … 7b), or a checkpoint's folder or hub id.")] = MODEL,
    source: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH", help="A corpus: files or a glob.")] = None,
    like: Like = None,
    set: Set = None,
    out: Annotated[Path | None, typer.Option(help="Write the study here.")] = None,
    as_json: Json = False,
) -> None:
    """Propose the runs of a factorial of two sources, and the smallest γ that they can tell."""
    from curricle.analysis.factorial import factorial_design
    from curricle.drafting import draft_factorial
    from curricle.studyfile import parse_study

    if dose is None and filler is None:
        filler = "prose"
    doses = _doses(dose or ["code=0,200k,400k", "math=0,100k,200k"])
    pair = "→".join(doses), "→".join(list(doses)[::-1])
    arms = [_tokens("--filler-arm", text) for text in filler_arm or []]
    total = _count("--total-tokens", total_tokens)
    with said_as_options(doses="dose", filler_arms="filler-arm", orders="one-order"):
        design = factorial_design(
            doses, seeds=seeds, filler=filler, total_tokens=total, filler_arms=arms,
            orders=pair[:1] if one_order else pair, sigma=sigma, wanted=gamma,
        )  # fmt: skip
    file = out or Path("factorial.yaml")
    text = draft_factorial(design, model, source or [], _like(like, set, model, source), file)
    study = parse_study(text, file)
    _write(out, text)
    if as_json:
        print_json({**design.to_json(), "study": study.model_dump(mode="json", exclude_unset=True)})
        return
    from curricle.report.proposals import factorial_view

    console = make_console()
    console.print(factorial_view(design))
    _say_where(console, out)


@app.command(
    epilog="Example: curricle design swarm --source web='web/*.jsonl' --source math='math/*.jsonl' "
    "--natural web=60B,math=2B --budget-tokens 1M --out swarm.yaml",
)
def swarm(
    source: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH", help="A corpus: files or a glob.")] = None,
    natural: Annotated[
        str | None, typer.Option(metavar="NAME=SIZE,…", help="What there is of each source; all alike by default.")
    ] = None,
    runs: Annotated[int, typer.Option(help="Different mixtures, the natural and the uniform one among them.")] = 36,
    budget_tokens: Annotated[str, typer.Option(help="Of each run.")] = "250k",
    model: Annotated[str, typer.Option(help="A preset (0.4m … 7b), or a checkpoint's folder or hub id.")] = MODEL,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    like: Like = None,
    set: Set = None,
    out: Annotated[Path | None, typer.Option(help="Write the study here.")] = None,
    as_json: Json = False,
) -> None:
    """Draw the mixtures of a swarm of small runs, from which a law of mixtures is then fitted."""
    from curricle.analysis.proposals.swarm_design import swarm_design
    from curricle.drafting import SUPPLIED, draft_swarm
    from curricle.studyfile import parse_study

    own, file = _like(like, set, model, source), out or Path("swarm.yaml")
    names = [text.partition("=")[0] for text in source or []] or list(SUPPLIED)
    if own is not None:
        read = list(dict.fromkeys(s for stage in own.stages.values() for s in stage.sources))
        names = read if natural is None else [part.partition("=")[0] for part in natural.split(",")]
    sizes = _sizes(natural, names)
    with said_as_options(sources="source"):
        mixtures = swarm_design(sizes, runs, seed)
    text = draft_swarm(mixtures, int(_tokens("--budget-tokens", budget_tokens)), model, source or [], own, file)
    study = parse_study(text, file)
    _write(out, text)
    if as_json:
        print_json({"mixtures": mixtures, "study": study.model_dump(mode="json", exclude_unset=True)})
        return
    from curricle.report.proposals import swarm_view

    console = make_console()
    console.print(swarm_view(mixtures, sum(study.stages[name].budget_tokens for name in mixtures)))
    _say_where(console, out)


def _like(like: str | None, overrides: list[str] | None, model: str, source: list[str] | None) -> Study | None:
    """The study that a draft is to be like."""
    from curricle.study import Refused
    from curricle.studyfile import load_study

    if like is None:
        if overrides:
            raise Refused("--set goes with --like STUDY")
        return None
    if source or model != MODEL:
        raise Refused("--like: takes model and sources from that study; leave out --source and --model, or use --set")
    return load_study(like, overrides or [])


def _typed(option: str, values: list[str] | None) -> list[str]:
    return [word for value in values or [] for word in (option, value)]


def _refuse_there(out: Path | None) -> None:
    from curricle.study import Refused

    if out is not None and out.exists():
        raise Refused(f"{out}: is there already; name another file")
    refuse_unwritable_file("--out", out)


def _write(out: Path | None, text: str) -> None:
    from curricle.store import whole_file

    if out is None:
        return
    _refuse_there(out)
    with whole_file(out, "w") as file:
        file.write(text)


def _say_where(console: Any, out: Path | None) -> None:
    if out is None:
        console.print("With --out FILE the study is written.", style="dim")
    else:
        _say_written(console, out)


def _say_written(console: Any, out: Path) -> None:
    console.print(f"Wrote {out}. Look at it, then: curricle plan {out}", markup=False)


def _sizes(text: str | None, names: list[str]) -> dict[str, float]:
    """`NAME=SIZE,…` for every source by name; all alike where nothing was said."""
    from curricle.study import Refused, nearest

    if text is None:
        return dict.fromkeys(names, 1.0)
    made: dict[str, float] = {}
    for part in text.split(","):
        name, equals, size = part.partition("=")
        if not equals:
            raise Refused(f"--natural {part}: write it as NAME=SIZE, for example web=60B")
        if name not in names:
            raise Refused(f"--natural {part}: unknown source {name!r}; {nearest(name, names)}")
        try:
            made[name] = float(size)
        except ValueError:
            made[name] = _tokens(f"--natural {name}", size)
    for name in names:
        if name not in made:
            raise Refused(f"--natural: no size for {name!r}; give one for each source")
    return made


def _doses(texts: list[str]) -> dict[str, list[float]]:
    from curricle.study import Refused

    made: dict[str, list[float]] = {}
    for text in texts:
        name, equals, levels = text.partition("=")
        if not equals or not name or not levels:
            raise Refused(f"--dose {text}: write it as SOURCE=TOKENS,TOKENS, for example code=0,200k,400k")
        if name in made:
            raise Refused(f"--dose {text}: the doses of {name!r} were given already; list them in one")
        made[name] = [_tokens(f"--dose {name}", level) for level in levels.split(",")]
    return made


def _count(option: str, text: str | None) -> float | None:
    return None if text is None else _tokens(option, text)


def _tokens(option: str, text: str) -> float:
    from curricle.study import Refused, parse_count

    try:
        found = parse_count(text)
    except ValueError as error:
        raise Refused(f"{option}: {error}") from None
    assert isinstance(found, int)
    return float(found)
