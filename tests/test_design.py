"""`curricle design`: proposals on the screen, as JSON and as a study."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import typer
from tiny_study import tiny, write_study
from typer.testing import CliRunner

from curricle.analysis.proposals.next_runs import next_runs
from curricle.cli import app
from curricle.commands.common import make_console, planned
from curricle.commands.design import WithDefault
from curricle.results import SCORES, Results, write_rows
from curricle.running import gathering
from curricle.study import Refused
from curricle.studyfile import load_study

runner = CliRunner()


def test_a_factorial_is_proposed_with_what_it_can_tell(tmp_path) -> None:
    out = tmp_path / "factorial.yaml"
    shown = runner.invoke(app, ["design", "factorial", "--sigma", "0.02", "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "in 8 of 10 studies" in shown.output and "13 strategies × 3 seeds" in shown.output
    study = load_study(out)
    assert len(study.strategies) == 13 and study.target == "math"
    again = runner.invoke(app, ["design", "factorial", "--out", str(out)])
    assert isinstance(again.exception, Refused) and "is there already" in str(again.exception)


def test_the_example_of_a_factorial_can_answer(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, example = factorial_help().split("Example: curricle ")
    shown = runner.invoke(app, example.split("│")[0].split())
    assert shown.exit_code == 0, shown.output
    assert "It tells γ" in shown.output and "cannot answer" not in shown.output


def factorial_help() -> str:
    from curricle.commands import design

    (command,) = (c for c in design.app.registered_commands if c.callback is design.factorial)
    return str(command.epilog)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["design", "factorial", "--sigma", "-1"], "--sigma: -1.0; give"),
        (["design", "factorial", "--dose", "code=0,1M", "--filler", "prose"], "--dose: 'code'; give the doses of two"),
        (["design", "factorial", "--filler", "code"], "--filler: 'code' is one of the sources"),
        (["design", "factorial", "--total-tokens", "1k"], "--total-tokens: 1,000 is less than"),
        (["design", "swarm", "--runs", "3"], "--runs: 3; a law of mixtures takes"),
        (["gain", "--from", "-2", "--to", "3"], "--from: -2 is not an accuracy"),
    ],
)
def test_a_refusal_names_options_with_their_dashes(words: list[str], said: str) -> None:
    refused = runner.invoke(app, words).exception
    assert isinstance(refused, Refused) and str(refused).startswith(said)


def test_one_seed_is_not_called_seeds(tmp_path) -> None:
    out = tmp_path / "one.yaml"
    shown = runner.invoke(app, ["design", "factorial", "--seeds", "1", "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "× 1 seed." in out.read_text() and "1 seeds" not in out.read_text() + shown.output


def test_json_is_one_object_with_the_study() -> None:
    doses = ["--dose", "code=0,1M", "--dose", "math=0,1M", "--filler", "prose"]
    both = json.loads(runner.invoke(app, ["design", "factorial", *doses, "--json"]).output)
    assert {run["order"] for run in both["runs"]} == {"", "code→math", "math→code"}
    shown = runner.invoke(app, ["design", "factorial", *doses, "--one-order", "--json"])
    made = json.loads(shown.output)
    assert made["answers"] is False and "cannot be told apart" in made["why"]
    assert len(made["runs"]) == 12 and made["study"]["baseline"] in made["study"]["strategies"]


def test_a_swarm_is_drawn_and_can_be_planned(tmp_path) -> None:
    out = tmp_path / "swarm.yaml"
    words = ["design", "swarm", "--natural", "code=3M,prose=1M,math=500k", "--runs", "20", "--out", str(out)]
    shown = runner.invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "20 mixtures" in shown.output and "66.7" in shown.output
    study = load_study(out)
    assert len(study.strategies) == 20 and study.baseline == "natural"
    assert study.stages["natural"].mixture == pytest.approx({"code": 0.667, "prose": 0.222, "math": 0.111})


@pytest.mark.parametrize("natural", ["code", "code=x,prose=1,math=1", "cod=1", "code=1,prose=1"])
def test_a_size_that_cannot_be_read_is_refused(natural: str) -> None:
    shown = runner.invoke(app, ["design", "swarm", "--natural", natural])
    assert isinstance(shown.exception, Refused) and "--natural" in str(shown.exception)


@pytest.mark.parametrize("dose", ["code", "code=0,x", "=1", "code=0.5,2"])
def test_a_dose_that_cannot_be_read_is_refused(dose: str) -> None:
    shown = runner.invoke(app, ["design", "factorial", "--dose", dose, "--filler", "prose"])
    assert isinstance(shown.exception, Refused) and "--dose" in str(shown.exception)


def test_a_word_that_is_no_command_goes_to_the_default_once_there_is_one() -> None:
    group = typer.Typer(cls=WithDefault, context_settings={"help_option_names": ["-h", "--help"]})
    seen: list[tuple] = []

    @group.command()
    def factorial() -> None:
        seen.append(("factorial",))

    @group.command()
    def study(name: str, budget_hours: float = 0.0) -> None:
        seen.append(("study", name, budget_hours))

    for words in (
        ["code-first", "--budget-hours", "8"],
        ["--budget-hours", "2", "x.yaml"],
        ["factorial"],
        ["study", "a"],
    ):
        assert runner.invoke(group, words).exit_code == 0
    assert seen == [("study", "code-first", 8.0), ("study", "x.yaml", 2.0), ("factorial",), ("study", "a", 0.0)]
    assert "factorial" in runner.invoke(group, ["--help"]).output


def test_a_word_that_is_no_command_is_a_study(tmp_path) -> None:
    said = runner.invoke(app, ["design", str(tmp_path / "none.yaml"), "--budget-hours", "1"]).exception
    assert isinstance(said, Refused) and "no such file, and no shipped study" in str(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["design", "code-first", "--budget-tokens", "0"], "--budget-tokens 0: give a number above 0"),
        (["design", "code-first"], "give one of --budget-tokens"),
        (["design", "code-first", "--budget-flops", "1", "--budget-hours", "1"], "give one of --budget-tokens"),
        (["plan", "code-first", "--nodes", "3"], "--nodes 3: it says what a job asks for; write --slurm with it"),
        (["analyse", "code-first", "--question", "bogus"], "--question bogus: unknown question"),
        (["analyse", "code-first", "--benchmark", "bogus"],
         "--benchmark bogus: unknown benchmark or source 'bogus'; known: algebra, code, problems, prose"),
        (["analyse", "code-first", "--measure", "acuracy"], "did you mean 'accuracy'? known: accuracy, bits per byte"),
        (["design", "code-first", "--budget-hours", "1", "--target", "problem"],
         "--target problem: unknown benchmark or source 'problem'; did you mean 'problems'?"),
    ],
)  # fmt: skip
def test_options_are_refused_before_a_corpus_is_read(monkeypatch, words, said) -> None:
    def read(*_):
        raise AssertionError("a corpus was read")

    monkeypatch.setattr("curricle.commands.analysis.planned", read)
    refused = runner.invoke(app, words).exception
    assert isinstance(refused, Refused) and said in str(refused)


# ---- what is printed is what was priced ---------------------------------------------------------------------------

ALGEBRA, WORDS = {"generated": ["chain_sum"]}, {"generated": ["simple_equations"]}
SOURCES = {"code": {"files": "code.jsonl"}, "algebra": ALGEBRA, "words": WORDS}
STAGED = {
    "sources": SOURCES,
    "stages": {**tiny()["stages"], "words": {"mixture": {"words": 1}, "budget_tokens": 2048}},
    "strategies": {**tiny()["strategies"], "words first": ["words", "math", "instruct"]},
}
MIXED = {
    "sources": SOURCES,
    "stages": {
        f"mix {i}": {"mixture": {"code": 0.55 - i / 10, "words": 0.25, "algebra": 0.2 + i / 10}, "budget_tokens": 4096}
        for i in range(5)
    },
    "strategies": {},
    "baseline": "mix 0",
    "target": "algebra",
}


def rows_of(study, store):
    """The rows that the study would leave, were every end of a run scored."""
    plan, prepared = planned(study, store, make_console(quiet=True))
    made = gathering.gather(plan, prepared, study.path.parent / "results")
    random = np.random.default_rng(0)
    names = [("problems", "problems"), *((name, "held-out") for name in study.sources)]
    write_rows(
        made.folder / "scores.parquet",
        [
            {"run": run, "tokens": node.tokens_at(step), "final": step == node.steps, "benchmark": name, "kind": kind,
             "measure": "bits per byte", "score": 2 + random.normal(0, 0.1)}
            for run, node in plan.nodes.items() for step in node.evaluate_at for name, kind in names
        ],
        SCORES,
    )  # fmt: skip
    return Results(made.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "asked"),
    [(STAGED, {"gain", "transfer", "mixture", "saturation", "phases", "why-code", "critical-share"}),
     (MIXED, {"gain", "transfer", "mixture", "saturation", "ranks"})],
    ids=["stages", "mixtures"],
)  # fmt: skip
def test_the_commands_that_are_printed_draft_what_was_priced(tmp_path, monkeypatch, fields, asked):
    (tmp_path / "elsewhere").mkdir()
    file, store = write_study(tmp_path, tiny(**fields)), tmp_path / "store"
    monkeypatch.chdir(tmp_path / "elsewhere")  # a draft's paths start from its own folder
    study = load_study(file)
    place = ["--store", str(store)]
    design = next_runs(rows_of(study, store), study=study, words=[str(file)], place=place, tokens=1e9)
    assert {q for p in design.proposals for q in p.question.split(", ")} >= asked

    def counted(*words: str) -> tuple[float, int]:
        shown = runner.invoke(app, ["plan", *words, "--json"])
        assert shown.exit_code == 0, (words, shown.exception)
        plan = json.loads(shown.output)
        return plan["tokens"], len(plan["runs"])

    had, runs_had = counted(str(file), *place)
    for proposal in design.proposals:
        program, verb, *words = shlex.split(proposal.how)
        assert program == "curricle"
        if verb == "plan":
            tokens, runs = counted(*words)
            tokens, runs = tokens - had, runs - runs_had
        else:
            shown = runner.invoke(app, [verb, *words])
            assert shown.exit_code == 0, (proposal.how, shown.exception)
            out = words[-1].removeprefix("--out=")
            tokens, runs = counted(out, *place)
            drafted = load_study(out)
            assert drafted.model == study.model and set(drafted.sources) == set(study.sources)
        assert abs(tokens - proposal.tokens) <= runs * study.recipe.batch_tokens, proposal.how
        assert tokens > 0
    # All of it in one file, which may lie anywhere; what the study had is in it as it was.
    whole, rows = tmp_path / "next.yaml", tmp_path / "results"
    monkeypatch.setattr("curricle.commands.analysis.found", lambda *_, **__: (Results(rows), study, None))
    shown = runner.invoke(app, ["design", str(file), "--budget-tokens", "10M", "--out", str(whole), *place])
    assert shown.exit_code == 0, shown.exception
    written = load_study(whole)
    assert len(written.strategies) > len(study.strategies) and had < counted(str(whole), *place)[0] <= had + 10e6
    assert all(written.strategies[name] == path for name, path in study.strategies.items())
    assert all(written.stages[name] == stage for name, stage in study.stages.items())
    assert "what curricle design buys for 10M tokens" in whole.read_text()
