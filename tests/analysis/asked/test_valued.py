"""Values of documents beside what training on each source gave: found in a study's rows, validated, refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from verbs import curricle
from written import Point, Stage, study

from curricle.analysis import Asked, analyse, ask
from curricle.report.charts import CHARTS, drawn
from curricle.results import VALUES, Results, write_rows

GAIN = {"math": 0.30, "arxiv": 0.02, "code": 0.10, "web": -0.05, "zh": -0.20}
# arXiv-like text promises more than it gives.
WORTH = {"math": 40.0, "arxiv": 25.0, "code": 12.0, "web": 3.0, "zh": 1.0}


def single_sources(folder: Path, kept: tuple[str, ...] = tuple(GAIN), begun: bool = True) -> Results:
    """Each source alone after a stage that all share: half of its gain at 100 tokens of 400, all of it at the end."""

    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        if position == 0:
            return [("problems", "problems", "bits per byte", 3.0 + 0.01 * seed)] if begun and part == 1 else []
        fallen = GAIN[strategy] * (0.5 if part < 1 else 1.0)
        return [("problems", "problems", "bits per byte", 3.0 - fallen + 0.01 * seed)]

    base: Stage = ("base", "pretrain", {"math": 500, "web": 500})
    return study(folder, {s: [base, (s, "pretrain", {s: 400})] for s in kept}, score, at=(0.25, 1.0), count=3)


def worth(**changed: Any) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"model": "base/0", "target": "math", "source": source, "document": f"{source} {k}", "method": "gradient",
         "tokens": 100, "dot": value * (0.9 + 0.1 * k), "target_square": 100.0, **changed}
        for source, value in WORTH.items() for k in range(3)
    )  # fmt: skip


def asked(results: Results, values: tuple[dict[str, Any], ...], at: tuple[float, ...] = ()):
    (answer,) = ask(Asked(results, values=values, at=at), ["value"])
    return answer


def test_values_are_set_beside_the_gains_of_sources_read_alone(tmp_path):
    (found,) = asked(single_sources(tmp_path), worth()).findings
    assert found.subject == "gradient after 400 tokens" and found.benchmark == "problems"
    assert {row["source"]: round(row["gain"], 9) for row in found.table} == GAIN  # positive: the loss fell
    assert found.estimate == pytest.approx(0.9)  # arXiv-like text stands second by value, third by gain
    assert found.p_value == pytest.approx(10 / 120) and found.seeds == 3 and found.parts["regret"] == 0
    assert found.question in CHARTS and drawn(found) is not None


def test_gains_are_those_at_the_budget_asked_for_and_methods_are_told_apart(tmp_path):
    both = (*worth(), *worth(method="stand-in", dot=None, r=1.0, c=2.0, f=1.0))
    answer = asked(single_sources(tmp_path), both, at=(100.0, 400.0))
    assert [f.subject for f in answer.findings] == [
        f"{method} after {tokens} tokens"
        for tokens in (100, 400)
        for method in ("gradient", "stand-in", "stand-in, r alone")
    ]
    assert answer.findings[0].table[0]["gain"] == pytest.approx(0.15)
    assert answer.findings[1].undefined == "all values are equal"
    assert answer.findings[0].p_value == pytest.approx(2 * 10 / 120)  # Holm over the two that have one
    assert "100, 400" in asked(single_sources(tmp_path), worth(), at=(250.0,)).refused


def test_methods_that_order_sources_alike_are_one_test(tmp_path):
    alike = (*worth(), *worth(method="forward"))
    found = asked(single_sources(tmp_path), alike).findings
    assert [f.p_value for f in found] == [pytest.approx(10 / 120)] * 2


def test_early_points_are_not_taken_for_one(tmp_path):
    """Budgets a factor of 2 apart, both far below a hundredth of the longest."""

    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        return [("problems", "problems", "bits per byte", 3.0 - (GAIN[strategy] * part if position else 0.0))]

    base: Stage = ("base", "pretrain", {"math": 500, "web": 500})
    arms = {s: [base, (s, "pretrain", {s: 100_000})] for s in GAIN}
    results = study(tmp_path, arms, score, at=(0.005, 0.01, 1.0))
    for tokens in (500, 1000):
        (found,) = asked(results, worth(), at=(float(tokens),)).findings
        assert found.parts["tokens"] == tokens and found.seeds == 2
        assert found.table[0]["gain"] == pytest.approx(0.3 * tokens / 100_000)


def test_a_gain_is_counted_from_where_the_stage_begins_and_from_no_point_beside_it(tmp_path):
    """The base was scored just before its end, and the stage just after its beginning."""

    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        loss = 3.0 - GAIN[strategy] if position and part == 1 else 9.0 if part < 1 else 3.0
        return [("problems", "problems", "bits per byte", loss)]

    base: Stage = ("base", "pretrain", {"math": 50_000, "web": 50_000})
    arms = {s: [base, (s, "pretrain", {s: 400})] for s in GAIN}
    (found,) = asked(study(tmp_path, arms, score, at=(0.995, 0.999, 1.0)), worth()).findings
    assert {row["source"]: round(row["gain"], 9) for row in found.table} == GAIN


def test_accuracy_and_bits_are_two_answers_of_one_family(tmp_path):
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        gain = GAIN[strategy] if position else 0.0
        return [("problems", "problems", "bits per byte", 3.0 - gain), ("problems", "problems", "accuracy", 20 + gain)]

    base: Stage = ("base", "pretrain", {"math": 500, "web": 500})
    results = study(tmp_path, {s: [base, (s, "pretrain", {s: 400})] for s in GAIN}, score)
    bits, points = sorted(asked(results, worth()).findings, key=lambda f: f.subject, reverse=True)
    assert bits.subject.endswith("bits per byte") and points.subject.endswith("accuracy")
    assert bits.estimate == points.estimate == pytest.approx(0.9)  # a gain is positive in both
    assert bits.p_value == pytest.approx(2 * 10 / 120) and "Holm over 2" in bits.test


def test_a_later_stage_and_a_missing_seed_do_not_hide_a_source(tmp_path):
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        if strategy == "math" and position == 1 and seed == 2:
            return []
        return [("problems", "problems", "bits per byte", 3.0 - (GAIN[strategy] if position else 0.0) + 0.01 * seed)]

    base: Stage = ("base", "pretrain", {"math": 500, "web": 500})
    tuned: Stage = ("tune", "instruct", {"chat": 100, "web": 100})
    results = study(tmp_path, {s: [base, (s, "pretrain", {s: 400}), tuned] for s in GAIN}, score, count=3)
    more = ({**worth()[0], "source": "books", "document": "a book"},)
    (found,) = asked(results, (*worth(), *more)).findings
    assert found.seeds == 2 and "not all sources have them: seeds 2" in found.note
    assert "Not read alone: books" in found.note and {row["source"] for row in found.table} == set(GAIN)


def test_values_of_another_model_are_said_to_be_and_unlike_files_are_refused(tmp_path):
    results = single_sources(tmp_path)
    (found,) = asked(results, worth(model="math/base-1")).findings
    assert "Values of 1 of 15 beginnings" in found.note  # here each strategy has a base of its own
    (found,) = asked(results, worth(model="elsewhere/42")).findings
    assert "The values are of elsewhere/42" in found.note
    twice = asked(results, (*worth(), *worth()))
    assert "stands twice by gradient" in twice.refused
    part = tuple(row for row in worth(model="base/1") if row["source"] in ("math", "web"))
    assert "were not judged by the same models" in asked(results, (*worth(), *part)).refused
    # A method that fails leaves the others.
    halves = tuple(row for row in worth(method="forward") if row["source"] in ("math", "web"))
    (found,) = asked(results, (*worth(), *halves)).findings
    assert found.subject == "gradient after 400 tokens" and "Left out: " in found.note
    some = asked(results, worth(), at=(400.0, 250.0)).findings
    assert [f.parts["tokens"] for f in some] == [400] and "--at 250: not scored there" in some[0].note
    foreign = tuple({**row, "source": f"my {row['source']}"} for row in worth())
    assert "the sources read alone are math, arxiv" in asked(results, foreign).refused


def test_without_values_without_such_runs_and_with_two_targets_the_question_says_what_it_takes(tmp_path):
    results = single_sources(tmp_path / "all")
    assert "curricle value arxiv/base-0 (and 14 more)" in asked(results, ()).refused
    assert "several targets, math, gsm8k" in asked(results, (*worth(), *worth(target="gsm8k"))).refused
    for few in (single_sources(tmp_path / "two", kept=("math", "web")), single_sources(tmp_path / "b", begun=False)):
        assert "one source alone" in asked(few, worth()).refused


def test_all_questions_together_answer_it_too_so_that_a_report_can_show_it(tmp_path):
    results = single_sources(tmp_path)
    asked_all = {f.question: f for f in analyse(results, values=worth())}
    assert asked_all["value-validation"].estimate == pytest.approx(0.9)
    assert "value-validation" not in {f.question for f in analyse(results)}


def test_the_command_reads_values_from_files(tmp_path):
    single_sources(tmp_path / "rows")
    write_rows(tmp_path / "one.parquet", worth()[:8], VALUES)
    with open(tmp_path / "two.csv", "w", newline="") as file:
        table = csv.DictWriter(file, VALUES.names)
        table.writeheader()
        table.writerows(worth()[8:])
    files = [f"--values={tmp_path / name}" for name in ("one.parquet", "two.csv")]
    ask_value = ("analyse", tmp_path / "rows", "--question", "value")
    ran = curricle(*ask_value, *files, "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["findings"][0]["estimate"] == pytest.approx(0.9)
    assert "regret" in curricle(*ask_value, *files).stdout
    (tmp_path / "bad.csv").write_text("source,document,tokens\nmath,a,10\n")
    ran = curricle(*ask_value, f"--values={tmp_path / 'bad.csv'}")
    assert ran.returncode == 2 and "'method'" in ran.stderr
    refused = curricle("report", "code-first", f"--values={tmp_path / 'bad.csv'}", cwd=tmp_path)
    assert refused.returncode == 2 and "'method'" in refused.stderr and "reading" not in refused.stdout
    ran = curricle("analyse", tmp_path / "rows", "--question", "gain", *files)
    assert ran.returncode == 2 and "--values goes with --question value" in ran.stderr
