"""Others' runs become rows like ours: what is there comes through whole, what matters and is missing is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from tables import table
from typer.testing import CliRunner

from curricle import analysis
from curricle.analysis.rows.outcomes import outcomes
from curricle.cli import app
from curricle.importing import gather, reading, write
from curricle.results import Results
from curricle.study import Refused

RUNS = [{"run": f"{s}-{seed}", "strategy": s, "seed": seed} for s in ("code first", "from scratch") for seed in (0, 1)]


def items(run: str, shift: int = 0, **more: object) -> list[dict]:
    return [
        {"run": run, "benchmark": "sums", "item": f"p{i}", "correct": (i + shift) % 3 > 0, **more} for i in range(9)
    ]


def results(made, folder: Path) -> Results:
    write(made, folder)
    return Results(folder)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_some_of_our_columns_are_enough_and_the_rest_is_null(tmp_path, suffix):
    table(tmp_path / f"runs.{suffix}", RUNS)
    table(tmp_path / f"theirs.{suffix}", [row for run in RUNS for row in items(run["run"], run["seed"])])
    made = gather([tmp_path / f"runs.{suffix}", tmp_path / f"theirs.{suffix}"], baseline="from scratch")
    rows = results(made, tmp_path / "out").sql("SELECT * FROM evaluations")
    assert len(rows) == 36 and all(row["final"] and row["kind"] == "problems" for row in rows)
    assert all(row["tokens"] is row["nats"] is row["prompt"] is None for row in rows)
    assert {(row["run"], row["seed"]) for row in rows} == {(r["run"], r["seed"]) for r in RUNS}
    found = analysis.analyse(Results(tmp_path / "out"))
    gains = [f for f in found if f.question == "gain" and f.unit == "points"]
    assert [(f.estimate, f.n, f.seeds) for f in gains] == [(0.0, 9, 2)]
    assert all(row["tokens"] is None and row["final"] for row in outcomes(Results(tmp_path / "out")))


def test_our_own_results_come_back_as_they_were(tmp_path):
    runs = [{**RUNS[0], "run": f"{s}/1", "stage": s, "position": i, "budget_tokens": 100 * (i + 1),
             "baseline": True, "training_flops": 1.5, "study": "mine", "kind": "pretrain"}
            for i, s in enumerate(["code", "math"])]  # fmt: skip
    text = {"benchmark": "text", "item": "d", "nats": 3.25, "bytes": 12, "target_tokens": 4, "kind": "held-out"}
    evaluations = [{"run": f"{s}/1", "tokens": 100, "final": s == "code", **text} for s in ("code", "math")]
    evaluations += items("math/1", tokens=200, final=True, prompt='a "quoted",\nbroken line', output="")
    mixtures = [{"run": "code/1", "until_tokens": 100, "source": "x", "share": 1.0, "available_tokens": None}]
    steps = [{"run": "code/1", "step": i, "tokens": 10 * i, "loss_nats": 2.5, "lr": 0.1} for i in (1, 2)]
    for name, rows in {"runs": runs, "evaluations": evaluations, "mixtures": mixtures, "steps": steps}.items():
        table(tmp_path / "given" / f"{name}.parquet", rows)
    made = gather([tmp_path / "given"])
    write(made, tmp_path / "once")
    for name in ("runs", "evaluations", "mixtures", "steps"):
        csv_file = tmp_path / "csv" / f"{name}.csv"
        csv_file.parent.mkdir(exist_ok=True)
        pyarrow.csv.write_csv(pq.read_table(tmp_path / "once" / f"{name}.parquet"), csv_file)
    again = gather([tmp_path / "csv"])
    for name in ("runs", "mixtures", "steps", "evaluations"):
        assert again.tables[name].equals(made.tables[name]), name
    rows = made.tables["evaluations"].to_pylist()
    assert rows[2]["prompt"] == 'a "quoted",\nbroken line' and rows[2]["output"] == ""
    assert [r["tokens_before"] for r in made.tables["runs"].to_pylist()] == [0, 100]
    points = outcomes(results(again, tmp_path / "twice"))
    assert {(p["stage"], p["tokens"], p["dose:x"], p["final"]) for p in points} == {
        ("code", 100, 100.0, False), ("math", 200, 100.0, False), ("math", 300, 100.0, True),
    }  # fmt: skip


def test_evaluations_may_say_of_which_strategy_and_seed_they_are(tmp_path):
    rows = [
        {"strategy": "a", "seed": s, "benchmark": "b", "measure": "accuracy", "score": 50 + s, "items": 40}
        for s in (1, 2)
    ]
    made = gather([table(tmp_path / "their-means.csv", rows)])
    points = outcomes(results(made, tmp_path / "out"))
    assert [(p["strategy"], p["seed"], p["score"], p["items"], p["final"]) for p in points] == [
        ("a", 1, 51.0, 40, True), ("a", 2, 52.0, 40, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("suffix", "said"), [("csv", "line 3: column 'score' is nan, not a"), ("parquet", "row 2: column 'score' is nan")]
)
def test_a_score_that_is_no_number_is_told_from_a_missing_one_with_its_place(tmp_path, suffix, said):
    rows = [
        {"strategy": "a", "seed": s, "benchmark": "b", "measure": "accuracy", "score": score}
        for s, score in enumerate((50.0, float("nan")))
    ]
    with pytest.raises(Refused, match=said):
        gather([table(tmp_path / f"means.{suffix}", rows)])
    likelihoods = [row | {"nats": nats} for row, nats in zip(items(RUNS[0]["run"], bytes=1), (1.0, float("nan")))]
    with pytest.raises(Refused, match=said.replace("score", "nats")):
        gather([table(tmp_path / f"runs.{suffix}", RUNS), table(tmp_path / f"items.{suffix}", likelihoods)])
    file = tmp_path / "empty.csv"
    file.write_text("strategy,seed,benchmark,measure,score\na,0,b,accuracy,50\na,1,b,accuracy,\n")
    with pytest.raises(Refused, match=r"empty\.csv, line 3: column 'score' is empty"):
        gather([file])


@pytest.mark.parametrize(
    ("runs", "evaluations", "said"),
    [
        ([{"run": "a", "seed": 0, "position": 0, "strategy": None}], items("a"), "column 'strategy' is missing"),
        ([{"run": "a", "strategy": "a"}], items("a"), "column 'seed' is missing"),
        (RUNS, items("code-first-0"), "run 'code-first-0' stands in no row of runs; did you mean 'code first-0'"),
        (RUNS, items(RUNS[0]["run"])[:1] * 2, "stands twice"),
        (RUNS, [{"run": RUNS[0]["run"], "benchmark": "b", "item": "i"}], "neither 'correct' nor 'nats'"),
        (RUNS, [{"run": RUNS[0]["run"], "item": "i", "correct": 1}], "column 'benchmark' is missing"),
        (RUNS, items(RUNS[0]["run"], correct="maybe"), "column correct: 'maybe' in row 1 is not true or false"),
        (RUNS, items(RUNS[0]["run"], correct=0.5), "column correct: .* is not true or false"),
        (RUNS, items(RUNS[0]["run"], tokens=1.5), "column tokens: .*1.5.* in row 1 is not a whole number"),
        (RUNS, items(RUNS[0]["run"], nats=float("inf"), bytes=1), "column nats: .*inf.* in row 1 is not a number"),
        (RUNS, items(RUNS[0]["run"], nats=-1.0, bytes=1), "nats is -1.0, which it cannot be"),
        (RUNS, items(RUNS[0]["run"], tokens=-3), "tokens is -3"),
        ([*RUNS, {**RUNS[0], "run": "x"}], items("x"), "column 'position' .* says their order"),
        ([{**r, "baseline": True} for r in RUNS], items(RUNS[0]["run"]), "all said to be the baseline"),
        ([{**r, "seed": r["seed"] + 0.5} for r in RUNS], items(RUNS[0]["run"]), "column seed: .*0.5.* in row 1"),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_rows_that_lack_what_matters_are_refused_by_name(tmp_path, runs, evaluations, said, suffix):
    files = [table(tmp_path / f"runs.{suffix}", runs), table(tmp_path / f"evaluations.{suffix}", evaluations)]
    with pytest.raises(Refused, match=said):
        gather(files)


def test_hostile_files_are_refused_in_words(tmp_path, monkeypatch):
    runs = table(tmp_path / "runs.csv", RUNS)

    def refused(said: str, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Refused, match=said):
            gather([runs, tmp_path / name])

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for name in ("evaluations.parquet", "evaluations.csv", "x.jsonl"):
        refused("not readable|no table", name, pickle.dumps(Bomb()))
    assert not (tmp_path / "ran").exists()
    refused("unknown kind of file", "x.pkl", pickle.dumps(Bomb()))
    refused("not readable", "evaluations.parquet", b"PAR1" + os.urandom(50) + b"PAR1")
    refused("empty", "evaluations.csv", b"")
    refused("stands twice", "evaluations.csv", b"run,run,item\n1,2,3\n")
    refused("not readable", "evaluations.csv", b"run,benchmark,item\na,b\n")
    refused("not readable", "evaluations.csv", b"run,benchmark,item\na,\xff,c\n")
    refused("not readable as JSON", "x.jsonl", b"[" * 200_000)
    refused("not an object", "x.jsonl", b"[1]\n")
    refused("columns are those of no table", "x.csv", b"a,b\n1,2\n")
    monkeypatch.setattr(reading, "MOST_LINE_BYTES", 100)
    refused("longer than 100 bytes", "x.jsonl", b'{"_step": 1, "x": "' + b"a" * 200 + b'"}')
    monkeypatch.setattr(reading, "MOST_ROWS", 5)
    monkeypatch.setattr(reading, "MOST_BYTES", 1000)
    table(tmp_path / "evaluations.csv", items("code first-0"))
    refused("rows; at most 5", "evaluations.csv", (tmp_path / "evaluations.csv").read_bytes())
    refused("bytes; at most 1,000", "evaluations.csv", b"run,benchmark,item\n" + b"a,b,c\n" * 1000)
    nested = pa.table({"run": ["a"], "benchmark": ["b"], "item": pa.array([[1, 2]]), "correct": [True]})
    monkeypatch.setattr(reading, "MOST_BYTES", 2**30)
    pq.write_table(nested, tmp_path / "evaluations.parquet")
    refused("column item: holds list", "evaluations.parquet", (tmp_path / "evaluations.parquet").read_bytes())
    os.mkfifo(tmp_path / "steps.csv")
    with pytest.raises(Refused, match="not a plain file"):
        gather([tmp_path / "steps.csv"])


# ---- lm-evaluation-harness ----------------------------------------------------------------------------------------


def harness(
    folder: Path, model: str, right: list[bool], date: str = "2026-11-01T10-00-00.1", samples: bool = True
) -> None:
    """Output of the shape that lm-evaluation-harness 0.4.13 writes: two filters, a multiple choice, a text, a group."""
    n = len(right)
    mean = sum(right) / n
    found = {
        "results": {
            "gsm": {"alias": "gsm", "exact_match,strict-match": mean, "exact_match_stderr,strict-match": 0.1,
                    "exact_match,flexible-extract": 1.0, "exact_match_stderr,flexible-extract": 0.0},
            "arc": {"alias": " - arc", "acc,none": mean, "acc_stderr,none": 0.1},
            "wiki": {"word_perplexity,none": 9.0, "bits_per_byte,none": 0.75, "bits_per_byte_stderr,none": "N/A"},
            "both": {"alias": "both", "acc,none": 0.9, "acc_stderr,none": 0.1},
        },
        "group_subtasks": {"both": ["arc", "gsm"], "arc": []},
        "n-samples": {task: {"original": n, "effective": n} for task in ("gsm", "arc", "wiki")},
        "config": {"model": "hf", "model_args": f"pretrained={model}"}, "model_name": model,
    }  # fmt: skip
    place = folder / model.replace("/", "__")
    place.mkdir(parents=True, exist_ok=True)
    (place / f"results_{date}.json").write_text(json.dumps(found))
    if not samples:
        return

    def sample(i: int, **more: object) -> dict:
        hashes = {"doc_hash": f"{i:064x}", "prompt_hash": "0", "target_hash": "0"}
        return {"doc_id": i, "doc": {}, "filter": "none", **hashes, **more}

    ask = {"gen_args_0": {"arg_0": "1 + 1?", "arg_1": {"until": ["\n"]}}}
    gsm = [sample(i, arguments=ask, resps=[["2"]], filtered_resps=["2"], target="2", metrics=["exact_match"],
                  exact_match=float(ok or f == "flexible-extract"), filter=f)
           for f in ("strict-match", "flexible-extract") for i, ok in enumerate(right)]  # fmt: skip
    choices = {f"gen_args_{k}": {"arg_0": "Q", "arg_1": f" é{k}"} for k in range(2)}
    arc = [sample(i, arguments=choices, filtered_resps=[["-0.5", "False"], ["-2.0", "False"]], target="1",
                  metrics=["acc"], acc=float(ok)) for i, ok in enumerate(right)]  # fmt: skip
    wiki = [sample(i, target="t", metrics=["word_perplexity", "bits_per_byte"], word_perplexity=[-9.0, 3],
                   bits_per_byte=[-9.0, 20 + i]) for i in range(n)]  # fmt: skip
    for task, rows in {"gsm": gsm, "arc": arc, "wiki": wiki}.items():
        table(place / f"samples_{task}_{date}.jsonl", rows)


def test_samples_of_the_harness_are_items_that_pair_between_models(tmp_path):
    harness(tmp_path / "out", "big/one", [True] * 6 + [False] * 2)
    harness(tmp_path / "out", "small", [True] * 3 + [False] * 5)
    made = gather([tmp_path / "out"], baseline="small")
    assert made.notes == () and made.tables["scores"].num_rows == 0
    rows = results(made, tmp_path / "rows")
    names = {row["benchmark"] for row in rows.sql("SELECT DISTINCT benchmark FROM evaluations")}
    assert names == {"gsm strict-match", "gsm flexible-extract", "arc", "wiki"}
    gains = {(f.benchmark, f.measure, f.unit): f for f in analysis.gain(rows)}
    gain = gains["gsm strict-match", "accuracy", "points"]
    assert gain.estimate == pytest.approx(37.5) and gain.n == 8
    choice = rows.sql("SELECT DISTINCT nats, bytes FROM evaluations WHERE benchmark = 'arc'")
    assert choice == [{"nats": 2.0, "bytes": len(" é1".encode())}]
    assert rows.sql(
        "SELECT sum(nats) AS n, sum(bytes) AS b FROM evaluations WHERE benchmark = 'wiki' AND run = 'small'"
    ) == [{"n": 72.0, "b": sum(range(20, 28))}]


def test_without_samples_a_task_is_a_mean_with_its_n(tmp_path):
    harness(tmp_path, "m", [True, False, False, False], samples=False)
    made = gather([tmp_path])
    scores = {row["benchmark"]: row for row in made.tables["scores"].to_pylist()}
    assert scores["arc"]["score"] == 25.0 and scores["arc"]["items"] == 4
    assert scores["arc"]["item_variance"] == pytest.approx(100.0)
    assert scores["wiki"]["measure"] == "bits per byte" and scores["wiki"]["item_variance"] is None
    assert made.notes == ("wiki of m: word_perplexity left out, no measure of ours",)
    assert "both" not in scores
    assert {p["benchmark"] for p in outcomes(results(made, tmp_path / "rows"))} == set(scores)


def test_the_latest_of_several_runs_of_a_task_counts_and_that_is_said(tmp_path):
    harness(tmp_path, "m", [False] * 4)
    harness(tmp_path, "m", [True] * 4, date="2026-11-02T09-00-00.1")
    made = gather([tmp_path])
    arc = [row["correct"] for row in made.tables["evaluations"].to_pylist() if row["benchmark"] == "arc"]
    assert arc == [True] * 4 and "arc of m: run several times, the latest is taken" in made.notes


def test_a_table_of_runs_says_what_stands_behind_the_harness_s_names(tmp_path):
    harness(tmp_path / "out", "ckpt-1", [True, False])
    row = {"run": "ckpt-1", "strategy": "code first", "seed": 3, "stage": "math", "position": 0, "budget_tokens": 500}
    made = gather([tmp_path / "out", table(tmp_path / "runs.csv", [row])])
    point = outcomes(results(made, tmp_path / "rows"))[0]
    assert (point["strategy"], point["seed"], point["stage"], point["tokens"]) == ("code first", 3, "math", 500)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.pop("doc_id"), "a sample lacks doc_id"),
        (lambda r: r.update(acc=0.5), "acc is 0.5, not 0 or 1"),
        (lambda r: r.update(metrics="acc"), "lacks a list of metrics"),
    ],
)
def test_samples_that_are_not_the_harness_s_are_refused(tmp_path, change, said):
    harness(tmp_path, "m", [True, False])
    (file,) = tmp_path.rglob("samples_arc_*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    change(rows[1])
    table(file, rows)
    with pytest.raises(Refused, match=said):
        gather([tmp_path])


# ---- the verb -----------------------------------------------------------------------------------------------------


def test_import_show_and_analyse_by_their_verbs(tmp_path):
    harness(tmp_path / "out", "a", [True] * 6 + [False] * 2)
    harness(tmp_path / "out", "b", [True] * 2 + [False] * 6)
    runner = CliRunner()
    command = ["results", "import", str(tmp_path / "out"), "--out", str(tmp_path / "rows"), "--baseline", "b"]
    done = runner.invoke(app, command)
    assert done.exit_code == 0 and "2 runs, 64 evaluations" in done.output, done.output
    assert "holds results already" in str(runner.invoke(app, command).exception)
    shown = runner.invoke(app, ["results", "show", str(tmp_path / "rows")])
    assert "gsm strict-match" in shown.output and "baseline" in shown.output
    made = json.loads(runner.invoke(app, ["analyse", str(tmp_path / "rows"), "--question", "gain", "--json"]).stdout)
    assert {f["subject"] for f in made["findings"]} == {"a over b"}
    for arguments, said in (
        (["--baseline", "c"], "--baseline c: no such strategy"),
        (["--format", "lmeval"], "did you mean 'lm-eval'"),
        (["--out", str(tmp_path / "rows" / "runs.parquet")], "a file, not a folder"),
    ):
        refused = runner.invoke(app, [*command[:3], "--out", str(tmp_path / "other"), *arguments])
        assert isinstance(refused.exception, Refused) and said in str(refused.exception)
        assert not (tmp_path / "other").exists()
