"""Questions by name: each is answered or says why not, and another joins by one line, down to its figure."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import altair as alt
import pytest
from typer.testing import CliRunner

from curricle import analysis
from curricle.analysis import QUESTIONS, Answer, Asked, Finding, Question, ask
from curricle.analysis.asked.questions import each, each_strategy, whole
from curricle.analysis.finding import THESE_WEIGHTS, Interval
from curricle.cli import app
from curricle.report.charts import CHARTS, Chart
from curricle.results import SCHEMAS, write_rows
from curricle.study import Refused


def luck(rows: list) -> Finding:
    """A question that only this test knows: how much is luck?"""
    if len({row["benchmark"] for row in rows}) > 1:
        raise Refused("luck: give the rows of one benchmark")
    table = tuple({"seed": row["seed"], "score": row["score"], "of": row["strategy"]} for row in rows if row["final"])
    interval = Interval(-1.0, 1.0, THESE_WEIGHTS)
    measure, benchmark = rows[0]["measure"], rows[0]["benchmark"]
    return Finding("luck", "luck", measure, benchmark, 0.25, "points", (interval,), table=table, n=9, parts={"k": 2})


def chart(finding: Finding) -> alt.Chart:
    data = alt.Data(values=list(finding.table))
    return alt.Chart(data).mark_point().encode(x="seed:Q", y="score:Q").configure(background="transparent")


@pytest.fixture
def joined(monkeypatch):
    monkeypatch.setitem(QUESTIONS, "luck", Question("How much is luck", each(luck)))
    monkeypatch.setitem(CHARTS, "luck", Chart("How much is luck", f"{__name__}:chart"))


def by_name(answers):
    return {answer.question: answer for answer in answers}


def test_every_question_is_answered_or_says_why(study, write, rows):
    answers = ask(Asked(study))
    assert [a.question for a in answers] == list(QUESTIONS)
    assert all(bool(a.findings) != bool(a.refused) for a in answers)
    assert all(by_name(answers)[q].findings for q in ("score", "gain", "contrast", "stage-gain", "curve", "forgetting"))
    alone = rows(arms={"from scratch": (None, 0.0)})
    answers = by_name(ask(Asked(write(alone))))
    assert answers["score"].findings and "a baseline and another strategy" in answers["gain"].refused


def test_a_benchmark_and_a_measure_keep_what_is_about_them(study):
    answers = ask(Asked(study, benchmark="algebra", measure="accuracy"))
    found = [f for a in answers for f in a.findings]
    assert found and {(f.benchmark, f.measure) for f in found} == {("algebra", "accuracy")}
    assert by_name(answers)["forgetting"].refused
    whole_answer = [f for f in analysis.gain(study) if f.benchmark == "algebra" and f.measure == "accuracy"]
    assert by_name(answers)["gain"].findings == whole_answer


@pytest.mark.parametrize(
    ("asked", "questions", "said"),
    [
        ({}, ["gian"], r"unknown question 'gian'; did you mean 'gain'\? known: score, gain"),
        ({}, ["what"], "unknown question 'what'; known: "),
        ({"benchmark": "algebr"}, None, "'algebr' has no rows; did you mean 'algebra'"),
        ({"measure": "accuracies"}, None, "no row has 'accuracies'; did you mean 'accuracy'"),
    ],
)
def test_what_is_not_known_is_refused_with_the_nearest(study, asked, questions, said):
    with pytest.raises(Refused, match=said):
        ask(Asked(study, **asked), questions)


def test_adaptors_hand_on_the_rows_that_they_name(study):
    seen: list[set] = []

    def see(*keys):
        def estimator(rows):
            seen.append({tuple(row[key] for key in keys) for row in rows})
            return []

        return estimator

    keys = ("benchmark", "measure")
    whole(see(*keys))(Asked(study))
    assert {benchmark for benchmark, _ in seen[0]} == {"algebra", "code text"}
    seen.clear()
    each(see(*keys))(Asked(study))
    assert seen == [{("algebra", "accuracy")}, {("algebra", "bits per byte")}]
    seen.clear()
    each(see(*keys))(Asked(study, target="code text"))
    assert seen == [{("code text", "bits per byte")}]
    seen.clear()
    each_strategy(see("strategy"))(Asked(study, measure="accuracy"))
    assert seen == [{("code first",)}, {("language first",)}, {("from scratch",)}]


def test_where_some_groups_refuse_the_others_are_answered(study):
    def accuracy_only(rows):
        if rows[0]["measure"] != "accuracy":
            raise Refused("accuracies only")
        return luck(rows)

    def never(rows):
        raise Refused("too few rows")

    assert [f.measure for f in each(accuracy_only)(Asked(study))] == ["accuracy"]
    with pytest.raises(Refused, match="too few rows"):
        each(never)(Asked(study))


@pytest.mark.slow
def test_analyse_leaves_out_what_a_later_question_refuses(study, monkeypatch):
    before = analysis.analyse(study)

    def never(asked):
        raise Refused("no such design")

    monkeypatch.setitem(QUESTIONS, "never", Question("Never", never))
    # Linear algebra rounds by where its arrays lie in memory: two fits of one curve differ in their last digits.
    after = analysis.analyse(study)
    names = [(f.question, f.subject, f.measure, f.benchmark, f.undefined is None) for f in before]
    assert [(f.question, f.subject, f.measure, f.benchmark, f.undefined is None) for f in after] == names
    estimates = [[math.nan if f.estimate is None else f.estimate for f in found] for found in (before, after)]
    assert estimates[1] == pytest.approx(estimates[0], rel=1e-6, abs=1e-9, nan_ok=True)


@pytest.mark.slow
def test_a_question_that_joins_is_asked_printed_and_drawn(joined, study, tmp_path):
    assert any(f.question == "luck" for f in analysis.analyse(study))
    runner = CliRunner()
    command = ["analyse", str(study.folder), "--question", "luck", "--figures", str(tmp_path / "f")]
    shown = runner.invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "How much is luck  (luck)" in shown.output and "95% interval for these weights: -1.0 to +1.0" in shown.output
    assert "from scratch" in shown.output  # its table
    files = sorted(f.name for f in (tmp_path / "f").iterdir())
    assert [f for f in files if "accuracy" in f] == ["luck-algebra-accuracy.png", "luck-algebra-accuracy.svg"]
    assert (tmp_path / "f" / files[1]).read_text().startswith("<svg")
    made = json.loads(runner.invoke(app, ["analyse", str(study.folder), "--question", "luck", "--json"]).stdout)
    assert [q["question"] for q in made["questions"]] == ["luck"]
    assert [Finding.from_json(f) for f in made["findings"]] == by_name(ask(Asked(study)))["luck"].findings


def test_json_is_one_object_with_refusals_and_round_trips(study):
    shown = CliRunner().invoke(app, ["analyse", str(study.folder), "--json", "--benchmark", "code text"])
    made = json.loads(shown.stdout)
    refused = {q["question"]: q["refused"] for q in made["questions"]}
    assert refused["curve"] and refused["forgetting"] is None
    assert all(Finding.from_json(f).to_json() == f for f in made["findings"])


@pytest.mark.slow
def test_figures_of_scores_and_curves_are_written(study, tmp_path):
    shown = CliRunner().invoke(
        app, ["analyse", str(study.folder), "--figures", str(tmp_path), "--benchmark", "algebra"]
    )
    assert shown.exit_code == 0, shown.output
    names = {f.name for f in tmp_path.iterdir()}
    assert {"score-algebra-accuracy.svg", "curve-algebra-bits-per-byte-math.png"} <= names


def test_a_folder_without_rows_and_a_file_for_figures_are_refused(study, tmp_path):
    (tmp_path / "file").write_text("")
    for arguments, said in (
        ([str(tmp_path)], "no runs.parquet in it"),
        ([str(study.folder), "--figures", str(tmp_path / "file")], "a file, not a folder"),
        ([str(study.folder), "--set", "seeds=[0]"], "--set goes with a study"),
        (["nowhere"], "no such file"),
    ):
        refused = CliRunner().invoke(app, ["analyse", *arguments])
        assert refused.exit_code and said in str(refused.exception)
    for name, schema in SCHEMAS.items():
        write_rows(tmp_path / f"{name}.parquet", [], schema)
    refused = CliRunner().invoke(app, ["analyse", str(tmp_path)])
    assert "nothing has been scored yet" in str(refused.exception)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_questions_asked_by_name_and_all_refused_leave_with_2(study, options):
    asked = ["analyse", str(study.folder), *options]
    alone = CliRunner().invoke(app, [*asked, "--question", "why-code"])
    assert alone.exit_code == 2 and "why-code" in alone.stdout, alone.output
    assert CliRunner().invoke(app, [*asked, "--question", "why-code", "--question", "score"]).exit_code == 0
    assert CliRunner().invoke(app, asked).exit_code == 0


def test_analyse_asks_with_the_studys_own_limit_of_epochs(monkeypatch):
    limit, asked = SimpleNamespace(answer_target="text", max_epochs=9.0), []
    monkeypatch.setattr("curricle.commands.analysis.found", lambda *_, **__: (SimpleNamespace(name=""), limit, 1.0))
    monkeypatch.setattr("curricle.analysis.ask", lambda a, _: asked.append(a) or [Answer("split", "", [])])
    done = CliRunner().invoke(app, ["analyse", "mine.yaml", "--question", "split", "--json"])
    assert done.exit_code == 0 and asked[0].max_epochs == 9.0 and asked[0].target == "text"
