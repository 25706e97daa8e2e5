"""A run that has diverged is settled, and what is complete is reported whatever became of the rest."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_study import tiny, write_study
from verbs import curricle

from curricle.execution import Execution
from curricle.results import Results
from curricle.running import runner, standing
from curricle.running.preparation import make_plan
from curricle.running.work import Message
from curricle.running.workers import told
from curricle.studyfile import load_study
from curricle.training import loop, metrics
from curricle.training.distribution import Ranks


class Here:
    """A crew that works in this process, one run after the other."""

    def __init__(self, prepared, workers, execution, left):
        self.prepared, self.said, self.busy = prepared, [], 0

    @property
    def free(self) -> int:
        return 1 - self.busy

    def start(self, node) -> None:
        self.said, self.busy = list(told(self.prepared, node, Ranks.alone(), Execution(), lambda: False)), 1

    def listen(self, timeout: float) -> list[Message]:
        said, self.said, self.busy = self.said, [], 0
        return said

    def stop(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A study with a learning rate at which a run diverges with its second step."""
    fields = tiny(
        strategies={"maths": ["math", "instruct"], "code": ["code"]},
        baseline="code",
        benchmarks={},
        held_out={"scored_bytes": 500},
    )
    fields["stages"]["math"] = {"mixture": {"algebra": 1}, "budget_tokens": 1024, "sweep": [1e-3, 1.0]}
    fields["stages"]["math"]["recipe"] = {"max_skipped": 0}
    write_study(tmp_path, fields)
    usual = loop.learning_rate
    # Of what a study may ask for nothing surely diverges; so these rates are no numbers to whoever trains with them.
    wild = lambda recipe, step, steps: float("nan") if recipe.learning_rate >= 0.5 else usual(recipe, step, steps)  # noqa: E731
    monkeypatch.setattr(loop, "learning_rate", wild)
    monkeypatch.setattr(runner, "LocalCrew", Here)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def verb(folder):
    """`curricle run tiny.yaml …`, or another verb, in this process: its exit code, output and errors."""

    def run(*options: str, verb: str = "run") -> tuple[int, str, str]:
        workers = ["--workers", "1"] if verb == "run" else []
        done = curricle(verb, "tiny.yaml", *workers, *options)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.slow
def test_a_learning_rate_that_diverges_is_settled_and_its_sweep_goes_on(folder, verb):
    code, said, errors = verb()
    assert code == 0, said + errors
    plan = make_plan(load_study(folder / "tiny.yaml"), folder / "runs" / "store")
    arm = next(arm for arm in plan.arms if arm.startswith("maths [math 1"))
    wild, after = plan.paths[arm, 0]
    rows = Results(folder / "runs" / "tiny" / "results").sql("select distinct strategy, arm from runs order by all")
    assert [row["arm"] for row in rows] == ["code", "maths [math 0.001]"]
    metrics = folder / "runs" / "store" / "runs" / wild / "metrics.jsonl"
    before = metrics.read_text()
    page = (folder / "runs" / "tiny" / "report.html").read_text()
    for text in (said, page):
        assert "diverged: 1 of the last" in text and f"not possible: it begins from {wild}" in text, text
    assert "2 runs of 5 are missing here" in page
    # The same command trains nothing.
    code, said, errors = verb()
    assert code == 0 and f"✗ {wild}, seed 0: diverged" in said, said + errors
    assert metrics.read_text() == before and sessions(metrics) == 1
    # Asked for, it is trained once more, to the same end.
    code, said, errors = verb("--again", after)
    assert code == 2 and f"no run of this study diverged so; those are {wild}" in errors
    code, said, errors = verb("--again", wild[:9])
    assert code == 0 and "diverged: 1 of the last" in said and sessions(metrics) == 2, said + errors


@pytest.mark.slow
def test_a_run_that_learnt_nothing_before_the_guard_knew_what_is_usual_is_named_at_the_end(folder, verb, monkeypatch):
    # A negative rate climbs, surely; the guard knows nothing in so few steps.
    monkeypatch.setattr(loop, "learning_rate", lambda recipe, step, steps: -0.05)
    code, said, errors = verb("--set", "strategies={code: [code]}")
    plan = make_plan(load_study(folder / "tiny.yaml", ["strategies={code: [code]}"]), folder / "runs" / "store")
    (run,) = plan.nodes
    assert code == 0 and f"! {run}, seed 0: its loss ends at" in said, said + errors


@pytest.mark.slow
def test_a_step_that_the_guard_skipped_is_in_the_results_and_named_at_the_end(folder, verb, monkeypatch):
    second = lambda guard, *_: "loss nan" if len(guard.skipped) == 1 else None  # noqa: E731
    monkeypatch.setattr(loop.Guard, "objection", second)
    code, said, errors = verb("--set", "strategies={code: [code]}")
    found = "select run, step, guard from steps where guard is not null"
    (row,) = Results(folder / "runs" / "tiny" / "results").sql(found)
    assert (row["step"], row["guard"]) == (2, "loss nan")
    told = f"! the loss guard skipped 1 of the 4 steps of {row['run']}; curricle explain {row['run']} --step 2 shows"
    assert code == 0 and told in said, said + errors


@pytest.mark.slow
def test_what_is_complete_is_reported_before_a_failure_is_told(folder, verb):
    page = folder / "runs" / "tiny" / "report.html"
    for _ in range(2):  # the second trains nothing
        code, said, errors = verb("--set", "stages.math.sweep=[0.5, 1.0]")
        assert code == 1 and "failed: math/" in errors and "were skipped" in errors, said + errors
        told = [line for line in errors.splitlines() if not line.endswith("…")]  # beside what it is doing
        assert told and all(" diverged: 1 of the last" in line for line in told), errors
        rows = Results(folder / "runs" / "tiny" / "results").sql("select distinct stage from evaluations where final")
        assert [row["stage"] for row in rows] == ["code"]
        assert "4 runs of 5 are missing here" in page.read_text()
        page.unlink()


@pytest.mark.slow
def test_runs_that_break_before_their_first_step_say_why_and_older_results_stay(folder, verb, monkeypatch):
    code, said, errors = verb("--set", "stages.math.sweep=[1e-3, 4e-3]")
    assert code == 0, said + errors
    files = [*(folder / "runs/tiny/results").iterdir(), folder / "runs/tiny/findings.json"]
    before = [file.read_bytes() for file in files]
    monkeypatch.setattr(loop, "learning_rate", lambda *_: 1 / 0)
    code, said, errors = verb("--set", "seeds=[7]")
    assert code == 1 and "failed: " in errors and "division by zero" in errors, said + errors
    assert "holds results" not in said + errors
    assert [file.read_bytes() for file in files] == before


def test_one_command_looks_once_at_every_run_and_its_rows_are_read_once(folder, verb, monkeypatch):
    looked, ended, read = Counter(), Counter(), Counter()

    def counted(counter, of, work):
        def call(*given):
            counter[of(*given)] += 1
            return work(*given)

        return call

    sweep = ("--set", "stages.math.sweep=[1e-3, 1.0]")
    verb(*sweep)
    monkeypatch.setattr(standing, "is_done", counted(looked, lambda _, node: node.run, standing.is_done))
    monkeypatch.setattr(metrics, "diverged", counted(ended, lambda run: run, metrics.diverged))
    monkeypatch.setattr(metrics, "lines_until", counted(read, lambda file: file.parent, metrics.lines_until))
    plan = make_plan(load_study(folder / "tiny.yaml", [sweep[1]]), folder / "runs" / "store")
    code, _, errors = verb(*sweep)
    assert code == 0, errors
    assert looked == Counter(list(plan.nodes))
    runs = [Path("runs/store/runs") / run for run in plan.nodes]
    assert ended == Counter(runs)
    assert read == Counter(run for run in runs if run.exists()), "by whoever gathers"


def test_status_names_what_has_diverged_its_step_and_the_command_that_trains_it_on(folder, verb):
    sweep = ("--set", "stages.math.sweep=[0.5, 1.0]")
    verb(*sweep)
    code, said, errors = verb(*sweep, verb="status")
    plan = make_plan(load_study(folder / "tiny.yaml", [sweep[1]]), folder / "runs" / "store")
    wild = [run for run in plan.nodes if run.startswith("math/")]
    assert code == 0 and len(wild) == 2 and "1 of 5 runs done" in said, said + errors
    for run in wild:
        assert f"✗ {run}, seed 0: diverged: 1 of the last 2 steps were skipped, the last at step 2: " in said, said
        command = f"curricle run tiny.yaml --set 'stages.math.sweep=[0.5, 1.0]' --again {run}"
        assert f"to train it on: {command}\n" in said, said
        assert f"not possible: it begins from {run}" in said, said
    # The command as it stands there is one that works.
    code, _, errors = verb(*shlex.split(command)[3:])
    assert code == 1 and "were skipped" in errors and sessions(folder / "runs/store/runs" / run / "metrics.jsonl") == 2


def test_a_run_that_has_diverged_is_called_so_by_every_verb_and_none_tells_to_run_it_again_in_vain(folder, verb):
    _, said, errors = verb("--set", "stages.math.sweep=[0.5, 1.0]")
    marks = [line for line in said.splitlines() if line.startswith("✗ math (maths [math ")]
    assert len(marks) == 2 and all(line.endswith("diverged") for line in marks), said
    assert "math/" in errors and " failed: " not in errors, errors
    run = marks[0].split()[-2]
    listed = next(line for line in curricle("list").stdout.splitlines() if line.startswith(run))
    assert listed.split()[3] == "diverged", listed
    refused = curricle("export", run, "out")
    assert refused.returncode == 2 and f"error: {run}: diverged: 1 of the last 2 steps were skipped" in refused.stderr
    assert f"--again {run}" in refused.stderr and "run its study to go on" not in refused.stderr


def sessions(metrics: Path) -> int:
    return len(json.loads(metrics.with_name("receipt.json").read_text())["sessions"])
