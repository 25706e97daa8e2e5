"""The front door: exit codes, one JSON object and nothing else, errors in a line, help without the heavy rooms."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from tiny_study import tiny, write_study
from verbs import curricle

from curricle.results import SCHEMAS

VERBS = ["new", "run", "plan", "status", "list", "diff", "clean", "evaluate", "export", "gain", "schema", "report"]
VERBS += ["explain", "calibrate", "analyse", "value", "mixture", "design", "results"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the tiny study, run once by its verb."""
    folder = tmp_path_factory.mktemp("cli")
    write_study(folder, tiny())
    done = curricle("run", "tiny.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_help_names_every_verb_and_loads_nothing_heavy():
    shown = curricle("--help")
    assert shown.returncode == 0 and all(f" {verb} " in shown.stdout for verb in VERBS)
    rooms = ("torch", "transformers", "pydantic", "duckdb", "altair", "numpy")
    heavy = f"import sys, curricle.cli; print([m for m in {rooms} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb):
    shown = curricle(verb, "--help")
    assert shown.returncode == 0 and f"curricle {verb}" in shown.stdout.split("Example:")[1]


def test_a_run_leaves_report_findings_and_rows(place):
    out = place / "runs" / "tiny"
    assert (out / "report.html").stat().st_size > 100_000
    assert json.loads((out / "findings.json").read_text())["findings"]
    assert {f.name for f in (out / "results").iterdir()} == {f"{name}.parquet" for name in (*SCHEMAS, "mixtures")}


def test_plan_json_is_one_object_and_nothing_else(place):
    shown = curricle("plan", "tiny.yaml", "--json", cwd=place)
    plan = json.loads(shown.stdout)
    assert shown.returncode == 0 and shown.stderr == ""
    assert [r["done"] for r in plan["runs"]] == [True] * 5
    assert plan["tokens"] == sum(r["tokens"] for r in plan["runs"])


def test_gain_json_holds_the_published_gain():
    shown = json.loads(curricle("gain", "--from", 14.3, "--to", 36.2, "--json").stdout)
    assert shown["relative_gain_percent"] == pytest.approx(153.1, abs=0.05)
    published = json.loads(curricle("gain", "--published", "--json").stdout)
    assert any(f["estimate"] == pytest.approx(153.1, abs=0.05) for f in published["findings"] if f["estimate"])


def test_evaluate_json_is_one_object_and_nothing_else(place):
    model = next((place / "runs/store/runs/instruct").iterdir()) / "model"
    (place / "gsm8k.jsonl").write_text(json.dumps({"question": "What is 1 + 1?", "answer": "1 + 1 = 2\n#### 2"}) + "\n")
    options = ["--benchmark", "gsm8k=gsm8k.jsonl", "--shots", 0, "--max-new-tokens", 4, "--json"]
    shown = curricle("evaluate", model, *options, cwd=place)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["benchmarks"]["gsm8k"]["n"] == 1


def test_status_list_diff_clean_and_report_say_what_is_there(place):
    assert "5 of 5 runs done" in curricle("status", "tiny.yaml", cwd=place).stdout
    assert "code-first" in curricle("list", cwd=place).stdout
    write = place / "other.yaml"
    write.write_text((place / "tiny.yaml").read_text().replace("budget_tokens: 3072", "budget_tokens: 4096"))
    assert "stages.math.budget_tokens" in curricle("diff", "tiny.yaml", "other.yaml", cwd=place).stdout
    assert "nothing to clean" in curricle("clean", cwd=place).stdout
    assert curricle("report", "tiny.yaml", cwd=place).returncode == 0
    assert "recipe.clip" in curricle("plan", "tiny.yaml", "--set", "recipe.clip=2", "--why", "math", cwd=place).stdout


def test_status_needs_no_torch_and_what_takes_seconds_is_said_among_the_errors(place):
    seen = "import sys; from curricle.cli import main\ntry: main()\nexcept SystemExit: print('torch' in sys.modules)"
    asked = subprocess.run(
        [sys.executable, "-c", seen, "status", "tiny.yaml"], capture_output=True, text=True, cwd=place, check=True
    )
    assert asked.stdout.splitlines()[-2:] == ["5 of 5 runs done", "False"], asked.stdout + asked.stderr
    written = curricle("report", "tiny.yaml", cwd=place)
    said = ["looking at sources and benchmarks …", "analysing …", "drawing the page …"]
    assert written.stderr.splitlines() == said and "…" not in written.stdout, written.stderr


def test_an_analysis_leaves_the_rows_beside_a_report_as_they_are(place):
    rows = {file: file.read_bytes() for file in (place / "runs/tiny/results").iterdir()}
    asked = curricle("analyse", "tiny.yaml", "--set", "baseline=code first", "--question", "gain", "--json", cwd=place)
    assert asked.returncode == 0 and json.loads(asked.stdout)["results"] == "tiny.yaml", asked.stderr
    assert rows == {file: file.read_bytes() for file in (place / "runs/tiny/results").iterdir()}
    split = curricle("analyse", "tiny.yaml", "--question", "split", "--at", "10M", cwd=place)
    assert split.returncode == 2 and "Not answered from these rows\nsplit: " in split.stdout, split.stdout
    assert "error" not in split.stderr  # it is these rows that do not answer, not the option that is refused


def test_a_damaged_file_of_the_store_is_named_with_the_way_out(place, tmp_path):
    shutil.copytree(place / "runs/store", tmp_path / "store")
    run = next((tmp_path / "store/runs/math").iterdir())
    for file in (run / "run.json", next(run.glob("evaluations/**/*.parquet"))):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        said = curricle("report", "tiny.yaml", "--store", tmp_path / "store", "--out", tmp_path / "out", cwd=place)
        assert said.returncode == 2 and str(file) in " ".join(said.stderr.split()), said.stderr
        assert "damaged (" in said.stderr and "Traceback" not in said.stderr
        file.write_bytes(whole)


def test_explain_names_the_documents_of_a_step_and_full_prints_them(place):
    run = next((place / "runs/store/runs/code").iterdir()).name
    shown = curricle("explain", f"code/{run[:6]}", "--step", 2, cwd=place)
    assert shown.returncode == 0, shown.stderr
    assert f"code/{run}, step 2 of 4" in shown.stdout and "8 rows of 64" in shown.stdout
    assert "def f" in shown.stdout and "documents of code" in shown.stdout and "loss " in shown.stdout
    full = curricle("explain", f"code/{run[:6]}", "--step", 2, "--full", cwd=place).stdout
    assert full.count("return y +") > shown.stdout.count("return y +")


@pytest.mark.slow
def test_calibrate_measures_once_and_prints_one_json_object(place):
    shown = curricle("calibrate", "--json", cwd=place)
    assert shown.returncode == 0, shown.stderr
    peaks = json.loads(shown.stdout)["peaks"]
    assert peaks[0]["device"] == "cpu" and peaks[0]["threads"] == 1 and peaks[0]["flops_per_second"]["fp32"] > 0
    assert json.loads(curricle("calibrate", "--json", cwd=place).stdout)["peaks"] == peaks
    assert "GFLOP/s" in curricle("calibrate", cwd=place).stdout


@pytest.mark.slow
def test_new_writes_a_study_that_can_be_planned(place):
    made = curricle(
        "new", "mine.yaml", "--model", "0.5m", "--source", "code=code.jsonl", "--budget-tokens", "20k", cwd=place
    )
    assert made.returncode == 0, made.stderr
    planned = curricle("plan", "mine.yaml", cwd=place)
    assert planned.returncode == 0 and "from scratch (baseline)" in planned.stdout, planned.stderr
    again = curricle("new", "mine.yaml", cwd=place)
    assert again.returncode == 2 and "is there already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "nosuch"], "no such file"),
        (
            ["plan", "tiny.yaml", "--set", "stages.math.budget=3"],
            "unknown field 'budget'; did you mean 'budget_tokens'?",
        ),
        (["plan", "tiny.yaml", "--set", "sources.code.files=none.jsonl"], "sources.code.files"),
        (["plan", "tiny.yaml", "--set", "sources.algebra.generated=[chain_sums]"], "did you mean 'chain_sum'?"),
        (
            ["plan", "tiny.yaml", "--set", "model={checkpoint: ./nowhere, context: 64}"],
            "a checkpoint has a tokenizer of its own",
        ),
        (["run", "deepseekmath-7b"], "can be planned and not run"),
        (["run", "tiny.yaml", "--wrokers", "2"], "No such option"),
        (["run", "tiny.yaml", "--track", "nosuch:project"], "--track nosuch:project: unknown service"),
        (["explain", "nosuch", "--step", "1"], "no such run"),
        (["explain", "code", "--step", "99"], "--step 99"),
        (["gain"], "give --from and --to, or --published"),
        (["gain", "--from", "14.3"], "go together"),
        (["diff", "tiny.yaml", "nosuch"], "no such file"),
        (["evaluate", "nowhere/at/all", "--benchmark", "gsm8k=gsm8k.jsonl"], "no such"),
        (["evaluate", ".", "--benchmark", "gsm9k=x"], "unknown format 'gsm9k'; did you mean 'gsm8k'?"),
        (["new", "x.yaml", "--source", "code"], "write it as NAME=PATH"),
        (["new", "x.yaml", "--budget-tokens", "many"], "--budget-tokens"),
    ],
)
def test_bad_input_is_refused_in_words_with_exit_code_2(place, arguments, said):
    refused = curricle(*arguments, cwd=place)
    assert refused.returncode == 2, refused.stderr
    assert said in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "tiny.yaml", "--out"],
        ["run", "tiny.yaml", "--store"],
        ["report", "tiny.yaml", "--out"],
        ["plan", "tiny.yaml", "--store"],
        ["calibrate", "--store"],
        ["results", "import", "runs/tiny", "--out"],
        ["analyse", "tiny.yaml", "--figures"],
        ["list", "--store"],
        ["explain", "math", "--step", "1", "--store"],
    ],
    ids=" ".join,
)
def test_a_place_that_cannot_be_had_is_refused_by_its_option_before_anything_is_read(place, arguments, monkeypatch):
    monkeypatch.setattr("curricle.running.preparation.prepare", lambda *_: pytest.fail("prepared"))
    option = arguments[-1]
    for path in ("tiny.yaml", "tiny.yaml/below"):
        refused = curricle(*arguments, path, cwd=place)
        assert refused.returncode == 2 and f"error: {option} {path}: " in refused.stderr, refused.stderr
        assert "a file, not a folder" in refused.stderr
    if sys.platform == "linux" and arguments[0] not in {"list", "explain"}:  # a place to write in
        refused = curricle(*arguments, "/proc/none", cwd=place)
        assert refused.returncode == 2 and f"error: {option} /proc/none: nothing can be" in refused.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "math", "/proc/none/model"], "DIR /proc/none/model"),
        (["new", "/proc/none/study.yaml"], "PATH /proc/none"),
        (["evaluate", "math", "--benchmark", "gsm8k=x", "--out", "/proc/none/x"], "--out /proc/none"),
        (["value", "math", "--target", "a=x", "--source", "b=x", "--out", "/proc/none/x.csv"], "--out /proc/none"),
        (["design", "factorial", "--out", "/proc/none/x.yaml"], "--out /proc/none"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_by_its_option(place, arguments, said):
    refused = curricle(*arguments, cwd=place)
    assert refused.returncode == 2 and f"error: {said}: nothing can be written in /proc" in refused.stderr


def test_a_store_that_is_somebody_else_s_can_be_read(place, monkeypatch):
    monkeypatch.setattr("tempfile.mkdtemp", lambda *_, **__: pytest.fail("written in"))
    seen = curricle("status", "tiny.yaml", cwd=place)
    assert seen.returncode == 0 and "5 of 5 runs done" in seen.stdout, seen.stderr


def test_the_package_s_names_are_those_it_promises():
    import curricle as package

    assert all(callable(getattr(package, name)) for name in package.__all__)
    with pytest.raises(AttributeError):
        package.nothing  # noqa: B018


SCRIPT = """
import curricle
study = curricle.load_study("tiny.yaml", ["seeds=[3]"])
plan = curricle.make_plan(study)
results = curricle.run(plan)
print(len(curricle.analyse(results)), "findings")
"""


@pytest.mark.slow
def test_the_calls_of_the_readme_work_in_a_script_without_a_guard(place):
    (place / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0 and "findings" in done.stdout, done.stderr
    assert done.stdout.count("findings") == 1, "the workers ran the script again"
