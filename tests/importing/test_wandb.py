"""Exports of Weights & Biases: histories become steps and scores, tables of runs say whose they are."""

from __future__ import annotations

import pytest
from tables import table

from curricle.importing import gather
from curricle.study import Refused


def test_a_history_becomes_steps_and_scores_at_their_tokens(tmp_path):
    rows = [
        {
            "_step": 0,
            "_runtime": 1.0,
            "train/loss": 4.0,
            "train/learning_rate": 0.1,
            "eval/gsm8k/acc": "",
            "eval/loss": "",
        },
        {
            "_step": 10,
            "_runtime": 2.0,
            "train/loss": 3.0,
            "train/learning_rate": 0.1,
            "eval/gsm8k/acc": 0.25,
            "eval/loss": 2.5,
        },
        {
            "_step": 20,
            "_runtime": 3.0,
            "train/loss": 2.0,
            "train/learning_rate": 0.1,
            "eval/gsm8k/acc": 0.5,
            "eval/loss": 2.0,
        },
    ]
    made = gather([table(tmp_path / "my-run.csv", rows)], tokens_per_step=100)
    steps = made.tables["steps"].to_pylist()
    assert [(s["run"], s["step"], s["tokens"], s["loss_nats"], s["seed"]) for s in steps][1] == (
        "my-run",
        10,
        1000,
        3.0,
        0,
    )
    scores = [
        (s["benchmark"], s["measure"], s["tokens"], s["score"], s["final"]) for s in made.tables["scores"].to_pylist()
    ]
    assert set(scores) == {
        ("gsm8k", "accuracy", 1000, 25.0, False), ("gsm8k", "accuracy", 2000, 50.0, True),
        ("eval", "nats per token", 1000, 2.5, False), ("eval", "nats per token", 2000, 2.0, True),
    }  # fmt: skip
    without = gather([tmp_path / "my-run.csv"])
    assert [s["score"] for s in without.tables["scores"].to_pylist()] == [50.0, 2.0]
    assert any("2 scores left out that no tokens tell apart; give --tokens-per-step" in note for note in without.notes)


def test_a_column_of_accuracies_means_the_same_in_every_run_of_a_file_and_the_choice_is_told(tmp_path):
    percents = {"a": (0.5, 0.8), "b": (0.7, 12.3)}
    rows = [
        {"_step": 10 * k, "run": run, "eval/gsm8k/acc": v, "eval/arc/acc": v / 100}
        for run, of in percents.items() for k, v in enumerate(of, 1)
    ]  # fmt: skip
    file = table(tmp_path / "h.csv", rows)

    def read(**more):
        made = gather([file], tokens_per_step=1, **more)
        found = {(s["benchmark"], s["run"], s["tokens"]): s["score"] for s in made.tables["scores"].to_pylist()}
        return found, made.notes

    scores, notes = read()
    for run, of in percents.items():
        for k, value in enumerate(of, 1):
            assert scores["gsm8k", run, 10 * k] == scores["arc", run, 10 * k] == pytest.approx(value)
    assert [note.split(": ", 1)[1][:39] for note in notes] == [
        "eval/arc/acc: taken as shares of 1, sin", "eval/gsm8k/acc: taken as percent, since"
    ]  # fmt: skip
    scores, notes = read(accuracies="percent")
    assert scores["arc", "b", 20] == pytest.approx(0.123) and not notes
    with pytest.raises(Refused, match="1230 is no accuracy"):
        read(accuracies="share")
    with pytest.raises(Refused, match="did you mean 'percent'"):
        read(accuracies="percents")


def test_scores_of_a_long_history_stand_at_the_lines_that_have_them(tmp_path):
    rows = [{"_step": k, "train/loss": 4 - k / 1000, "eval/a/acc": k / 900 if k % 3 == 0 else "",
             "eval/b/acc": k / 900 if k % 5 == 0 else ""} for k in range(1, 901)]  # fmt: skip
    made = gather([table(tmp_path / "long.csv", rows)], tokens_per_step=10)
    scores = made.tables["scores"].to_pylist()
    for name, every in (("a", 3), ("b", 5)):
        found = [(row["tokens"], row["score"]) for row in scores if row["benchmark"] == name]
        assert found == [(10 * k, pytest.approx(k / 9)) for k in range(every, 901, every)]


def test_a_table_of_runs_and_histories_join_by_name(tmp_path):
    summary = {"eval/gsm8k/exact_match": 40.0, "tokens": 5000}
    config = {"seed": {"value": 2}, "strategy": {"value": "code first"}, "stage": {"value": "math"}}
    table(
        tmp_path / "runs-of-project.jsonl", [{"name": "r1", "state": "finished", "config": config, "summary": summary}]
    )
    history = [{"_step": s, "name": "r1", "loss": 2.0, "tokens": 50 * s} for s in (1, 2)]
    made = gather([table(tmp_path / "h.jsonl", history), tmp_path / "runs-of-project.jsonl"])
    assert [(r["run"], r["strategy"], r["seed"]) for r in made.tables["runs"].to_pylist()] == [("r1", "code first", 2)]
    assert {(s["seed"], s["stage"]) for s in made.tables["steps"].to_pylist()} == {(2, "math")}
    (score,) = made.tables["scores"].to_pylist()
    assert (score["score"], score["tokens"], score["final"]) == (40.0, 5000, True)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_history_says_which_strategy_and_seed_its_runs_are(tmp_path, suffix):
    rows = [
        {"_step": step, "run": f"r{i}", "strategy": "ab"[i // 2], "seed": 1.0 + i % 2, "eval/gsm8k/acc": 0.1 * i}
        for i in range(4) for step in (1, 2)
    ]  # fmt: skip
    made = gather([table(tmp_path / f"history.{suffix}", rows)], tokens_per_step=1)
    found = [(r["run"], r["strategy"], r["seed"]) for r in made.tables["runs"].to_pylist()]
    assert found == [("r0", "a", 1), ("r1", "a", 2), ("r2", "b", 1), ("r3", "b", 2)]
    rows[1]["seed"] = 5
    with pytest.raises(Refused, match="r0: seed is 1 and 5; a run has one"):
        gather([table(tmp_path / f"history.{suffix}", rows)], tokens_per_step=1)


@pytest.mark.parametrize("column", ["Name", "name"])
def test_columns_of_config_and_summary_mean_what_they_do_without_these_words(tmp_path, column):
    rows = [
        {column: f"r{i}", "config.strategy": "ab"[i // 2], "config.seed": i % 2, "summary.eval/gsm8k/acc": 0.1 * i,
         "summary.tokens": 500, "tokens": "", "strategy": ""}
        for i in range(4)
    ]  # fmt: skip
    made = gather([table(tmp_path / "export.csv", rows)])
    found = [(r["run"], r["strategy"], r["seed"]) for r in made.tables["runs"].to_pylist()]
    assert found == [("r0", "a", 0), ("r1", "a", 1), ("r2", "b", 0), ("r3", "b", 1)]
    scores = [(s["benchmark"], s["tokens"], s["score"]) for s in made.tables["scores"].to_pylist()]
    assert scores == [("gsm8k", 500, pytest.approx(10.0 * i)) for i in range(4)]


def test_a_project_s_csv_of_runs_is_read(tmp_path):
    rows = [{"Name": f"r{i}", "State": "finished", "seed": i, "strategy": "s", "val_accuracy": "",
             "test/arc/acc": 0.1 * i}
            for i in range(3)]  # fmt: skip
    made = gather([table(tmp_path / "export.csv", rows)])
    assert [row["score"] for row in made.tables["scores"].to_pylist()] == pytest.approx([0.0, 10.0, 20.0])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"_step": "one", "loss": 1}], "_step is 'one', not a step"),
        ([{"_step": 1, "eval/a/acc": 120.0}], "120 is no accuracy"),
        ([{"Name": "a", "State": "x", "seed": "two", "eval/a/acc": 0.1}], "seed is 'two', not a whole number"),
        ([{"Name": "a", "State": "x", "eval/a/acc": 1}] * 2, "run 'a' stands twice"),
        ([{"_step": 1, "loss": 2.0}], "no evaluations and no scores"),
    ],
)
def test_exports_that_contradict_themselves_are_refused(tmp_path, rows, said):
    with pytest.raises(Refused, match=said):
        gather([table(tmp_path / "x.csv", rows)])
