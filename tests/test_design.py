"""`curricle design`: proposals on the screen, as JSON and as a study."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from curricle.cli import app
from curricle.commands.design import WithDefault
from curricle.study import Refused
from curricle.studyfile import load_study

runner = CliRunner()


def test_a_factorial_is_proposed_with_what_it_can_tell(tmp_path) -> None:
    out = tmp_path / "factorial.yaml"
    shown = runner.invoke(app, ["design", "factorial", "--both-orders", "--sigma", "0.02", "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "in 8 of 10 studies" in shown.output and "13 strategies × 3 seeds" in shown.output
    study = load_study(out)
    assert len(study.strategies) == 13 and study.target == "math"
    again = runner.invoke(app, ["design", "factorial", "--out", str(out)])
    assert isinstance(again.exception, Refused) and "is there already" in str(again.exception)


def test_json_is_one_object_with_the_study() -> None:
    doses = ["--dose", "code=0,1M", "--dose", "math=0,1M", "--filler", "prose"]
    shown = runner.invoke(app, ["design", "factorial", *doses, "--json"])
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
