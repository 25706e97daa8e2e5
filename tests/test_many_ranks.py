"""A whole study on several ranks, started by torchrun or by the runner: the results of one process within rounding."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_study import tiny, write_study
from verbs import HUNG_SECONDS, curricle

from curricle.execution import Execution
from curricle.running import workers
from curricle.running.preparation import make_plan
from curricle.running.runner import Failed
from curricle.running.runner import run as run_plan
from curricle.running.work import Message
from curricle.store import Store, is_complete
from curricle.studyfile import load_study

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "curricle"]
CURRICLE = [sys.executable, "-m", "curricle"]
NAMES = ["run", "tokens", "benchmark", "kind", "item"]


def run(folder: Path, how: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*how, "run", "tiny.yaml", *options], capture_output=True, text=True, cwd=folder)


def losses(folder: Path) -> dict[str, list[float]]:
    store = Store(folder / "runs" / "store")
    found = {}
    for name in make_plan(load_study(folder / "tiny.yaml"), store).nodes:
        lines = [json.loads(line) for line in (store.run_folder(name) / "metrics.jsonl").read_text().splitlines()]
        found[name] = [line["loss_nats"] for line in lines if "loss_nats" in line]
    return found


def close(one: dict[str, list[float]], other: dict[str, list[float]]) -> bool:
    return list(one) == list(other) and all(one[run] == pytest.approx(other[run], abs=1e-4) for run in one)


def scored(folder: Path) -> pa.Table:
    files = sorted(folder.glob("runs/store/runs/*/*/evaluations/*.parquet"))
    return pa.concat_tables(pq.read_table(file) for file in files)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The study run by one process a run."""
    folder = tmp_path_factory.mktemp("alone")
    write_study(folder, tiny())
    done = run(folder, CURRICLE)
    assert done.returncode == 0, done.stderr
    return folder, losses(folder)


@pytest.fixture
def fresh(alone, tmp_path):
    for name in ("code.jsonl", "tiny.yaml"):
        shutil.copy2(alone[0] / name, tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_torchrun_trains_every_run_on_all_ranks_and_one_of_them_speaks(alone, fresh):
    done = run(fresh, TORCHRUN)
    assert done.returncode == 0, done.stderr
    assert close(losses(fresh), alone[1])
    assert done.stdout.count("At the end, on problems") == 1 and done.stdout.count("✓") == 5
    assert (fresh / "runs" / "tiny" / "report.html").exists()
    receipts = [json.loads(f.read_text()) for f in fresh.glob("runs/store/runs/*/*/receipt.json")]
    assert {session["ranks"] for receipt in receipts for session in receipt["sessions"]} == {2}


@pytest.mark.slow
def test_the_runner_starts_the_ranks_itself(alone, fresh):
    done = run(fresh, CURRICLE, "--nproc-per-node", "2", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert close(losses(fresh), alone[1])
    ours, theirs = scored(fresh), scored(alone[0])
    assert ours.select(NAMES).equals(theirs.select(NAMES)), "every problem and document once, in the same order"
    assert ours["nats"].to_pylist() == pytest.approx(theirs["nats"].to_pylist(), rel=1e-3)


@pytest.mark.slow
def test_torchrun_that_is_told_to_stop_saves_and_one_process_goes_on(alone, fresh):
    longer = ("--set", "stages.math.budget_tokens=40960")
    with subprocess.Popen(
        [*TORCHRUN, "run", "tiny.yaml", *longer],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=fresh,
        env=os.environ | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "60"},
    ) as started:
        until = time.monotonic() + HUNG_SECONDS
        while not any(f.read_text() for f in fresh.glob("runs/store/runs/math/*/metrics.jsonl")):
            assert time.monotonic() < until
            time.sleep(0.1)
        started.send_signal(signal.SIGTERM)
        said = started.stdout.read()
    assert started.returncode != 0 and said.count("interrupted: ") == 1, said
    kept = list(fresh.glob("runs/store/runs/math/*/checkpoints/step-*"))
    assert kept and all(map(is_complete, kept)) and not list(fresh.glob("runs/store/runs/math/*/model"))
    done = run(fresh, CURRICLE, *longer)
    assert done.returncode == 0, done.stderr
    steps = next(fresh.glob("runs/store/runs/math/*/metrics.jsonl")).read_text().splitlines()
    assert [json.loads(s)["step"] for s in steps if "loss_nats" in s] == list(range(1, 81))


def test_each_rank_that_torchrun_is_told_to_stop_leaves_with_130_also_where_another_has_left_before(tmp_path):
    """One is struck in its plan, which it obeys at once; the other waits for it in a collective, which breaks."""
    write_study(tmp_path, tiny())
    script = str(Path(__file__).with_name("rank_struck.py"))
    with subprocess.Popen(
        [*TORCHRUN[:-2], script, "run", "tiny.yaml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "60"},
    ) as started:
        until = time.monotonic() + HUNG_SECONDS
        while not (tmp_path / "lingers").exists():
            assert time.monotonic() < until and started.poll() is None
            time.sleep(0.1)
        started.send_signal(signal.SIGTERM)
        said = started.stdout.read()
    assert {file.name: file.read_text() for file in tmp_path.glob("left-*")} == {"left-0": "130", "left-1": "130"}, said
    assert said.count("interrupted") == 1 and "Connection closed" not in said, said


@pytest.mark.slow
def test_ranks_that_stand_still_are_ended_and_the_run_goes_on(alone, fresh, monkeypatch):
    monkeypatch.chdir(fresh)
    monkeypatch.setattr(workers, "STILL_SECONDS", 3.0)
    plan = make_plan(load_study(Path("tiny.yaml")), Store("runs/store"))
    kinds: dict[str, list[str]] = {}

    def show(message: Message) -> None:
        kinds.setdefault(message.run, []).append(message.kind)
        if message.kind == "stopped":  # from now on a busy machine may pause as long as it likes
            monkeypatch.setattr(workers, "STILL_SECONDS", 600.0)
        if message.kind == "step" and sum(map(len, kinds.values())) == 1:  # the first step of the first run
            psutil.Process(multiprocessing.active_children()[-1].pid).suspend()

    run_plan(plan, store="runs/store", workers=1, execution=Execution(ranks=2), show=show)
    assert [kind for said in kinds.values() for kind in said].count("stopped") == 1
    assert all(said[-1] == "done" for said in kinds.values())
    assert close(losses(fresh), alone[1])


@pytest.mark.slow
def test_ranks_that_stand_still_again_at_the_same_place_fail_their_run(fresh, monkeypatch):
    monkeypatch.chdir(fresh)
    monkeypatch.setattr(workers, "STILL_SECONDS", 1.0)
    plan = make_plan(load_study(Path("tiny.yaml")), Store("runs/store"))

    def show(message: Message) -> None:
        for process in multiprocessing.active_children() if message.kind == "step" else ():
            psutil.Process(process.pid).suspend()

    with pytest.raises(Failed, match=r"left unfinished twice.*stood still"):
        run_plan(plan, store="runs/store", workers=1, execution=Execution(ranks=2), show=show)


@pytest.mark.slow
def test_two_drivers_with_two_ranks_each_share_one_store_and_harm_no_run(alone, fresh):
    ranks = [*CURRICLE, "run", "tiny.yaml", "--nproc-per-node", "2", "--workers", "1"]
    drivers = [subprocess.Popen([*ranks, "--out", f"out{n}"], cwd=fresh, stderr=subprocess.PIPE) for n in (1, 2)]
    for driver in drivers:
        _, errors = driver.communicate(timeout=HUNG_SECONDS)
        assert driver.returncode == 0, errors.decode()
    assert close(losses(fresh), alone[1])


@pytest.mark.slow
def test_what_is_refused_is_refused_once_with_the_exit_code_of_it(fresh):
    done = run(fresh, TORCHRUN, "--set", "sources.code.files=none.jsonl")
    assert done.returncode != 0 and done.stderr.count("error: ") >= 1
    assert done.stderr.count("sources.code.files: ") == 1, done.stderr
    assert "leave out --workers" in run(fresh, TORCHRUN, "--workers", "2").stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--nproc-per-node", "3"), "has 8 rows"),
        (("--nproc-per-node", "2", "--replicas", "3"), "not a divisor of the 2 ranks"),
        (("--on", "nowhere"), "use ray://HOST:PORT, ray:auto, or local"),
        (("--remote", "memory://x"), "goes with --on"),
        (("--on", "local", "--resource", "GPU=1.5"), "and several only whole"),
        (("--on", "local", "--nproc-per-node", "2", "--resource", "GPU=1"), "2 ranks take 2"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, said):
    write_study(tmp_path, tiny())
    done = curricle("run", "tiny.yaml", *options, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not list(tmp_path.glob("runs/store/runs/*"))
    if "--resource" in options:
        assert not (tmp_path / "runs").exists(), "nothing was prepared"
