"""The front door: every verb, in the order of the help, and the exit code that each leaves with.

A verb is a function in `commands`: it checks its input, calls one or two rooms and prints what they say.
Exit codes: 0 done, 1 a failure, 2 a refused input, 130 an interruption that saved.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from curricle.commands import analysis, design, mixture, models, results, store, studies, training, value


class Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Typer makes of a `KeyboardInterrupt` a code that says nothing; `main` has a sentence for it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None


app = typer.Typer(
    cls=Verbs,
    help="A laboratory for pre-training strategy: plan the stages, train, measure with honest error bars.",
    epilog="Begin with: curricle run   (the study code-first, some minutes on two cores)",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        from curricle import __version__

        print(f"curricle {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


# Each verb with its function and an example, which closes its help.
VERBS: dict[str, tuple[Callable[..., None], str]] = {
    "new": (studies.new, "curricle new study.yaml --model 1m --source code='repos/*.jsonl' --budget-tokens 2M"),
    "run": (training.run, "curricle run code-first --set seeds=[0] --out runs/one-seed"),
    "plan": (studies.plan, "curricle plan deepseekmath-7b   or   curricle plan code-first --why math"),
    "status": (studies.status, "curricle status code-first"),
    "list": (store.list_, "curricle list --store runs/store"),
    "diff": (store.diff, "curricle diff code-first code-first-full   or   curricle diff math/3f9a math/77b0"),
    "explain": (store.explain, "curricle explain math/3f9a --step 120   (runs: curricle list)"),
    "calibrate": (models.calibrate, "curricle calibrate   or   curricle calibrate --again --json"),
    "clean": (store.clean, "curricle clean   then   curricle clean --remove"),
    "evaluate": (
        models.evaluate,
        "curricle evaluate runs/store/runs/math/…/model --benchmark gsm8k=gsm8k/test.jsonl --problems 200",
    ),
    "export": (models.export, "curricle export math/3f9a out/math   or   curricle export model.gguf out/model"),
    "gain": (models.gain, "curricle gain --from 14.3 --to 36.2 --problems 5000   or   curricle gain --published"),
    "value": (
        value.value,
        "curricle value math/3f9a --target gsm8k=test.jsonl --source code='repos/*.jsonl' --source arxiv=arxiv.jsonl",
    ),
    "mixture": (
        mixture.mixture,
        "curricle mixture --ratios ratios.csv --metrics metrics.csv --available tokens.csv --budget-tokens 100B",
    ),
    "schema": (studies.schema, "curricle schema > study.schema.json"),
    "report": (training.report, "curricle report code-first"),
    "analyse": (analysis.analyse, "curricle analyse code-first --question gain   or   curricle analyse FOLDER --json"),
}
for verb, (function, example) in VERBS.items():
    app.command(verb, epilog=f"Example: {example}")(function)
app.add_typer(results.app, name="results")
app.add_typer(design.app, name="design")


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
    from curricle.running.runner import Failed, Interrupted

    if isinstance(error, Interrupted):
        print(f"interrupted: {error}; run the same command to go on", file=sys.stderr)
        return 130
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        print(f"failed: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    if isinstance(error, Failed | OSError):
        print(f"failed: {error}", file=sys.stderr)
        return 1
    raise error
