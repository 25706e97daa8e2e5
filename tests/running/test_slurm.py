"""Job scripts do what they say: they run as they are under a Slurm that is played by four small programs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.cli import app
from curricle.commands import training
from curricle.commands.common import options_of
from curricle.execution import Execution
from curricle.running.preparation import make_plan
from curricle.running.slurm import Job, job_script
from curricle.study import Refused

PROGRAMS = {
    # srun passes signals that scancel sends to its step.
    "srun": '#!/bin/bash\necho $$ > "$FAKE/step"; [ "$1" = --kill-on-bad-exit=1 ] && shift; exec "$@"',
    "scontrol": '#!/bin/bash\necho "$@" >> "$FAKE/scontrol.log"; [ "$1" = show ] && echo node1 && echo node2; exit 0',
    "scancel": '#!/bin/bash\necho "$@" >> "$FAKE/scancel.log"; kill -TERM "$(cat "$FAKE/step")"',
    # In the place of torchrun and python: works until it is told to stop, then leaves as they would.
    "torchrun": '#!/bin/bash\necho "$@" > "$FAKE/command"; trap "exit ${LEAVES:-1}" TERM\n'
    'touch "$FAKE/begun"; for i in $(seq ${WORKS:-0}); do sleep .05; done; exit ${ENDS:-0}',
}


@pytest.fixture
def plan(study, tmp_path):
    return make_plan(study, tmp_path / "store")


@pytest.fixture
def slurm(tmp_path: Path):
    """A folder with the programs, and a way to start a script under them."""
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, text in {**PROGRAMS, "python": PROGRAMS["torchrun"]}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    def start(script: str, **environment: object) -> tuple[subprocess.Popen, Path]:
        (folder / "job.sh").write_text(script)
        settings = {"SLURM_JOB_ID": 7, "SLURM_NNODES": 2, "SLURM_JOB_NODELIST": "node[1-2]", "FAKE": folder}
        settings |= {"PATH": f"{folder}:{os.environ['PATH']}", **environment}
        values = {name: str(value) for name, value in settings.items()}
        return subprocess.Popen(["bash", folder / "job.sh"], env=os.environ | values), folder

    return start


def begun(folder: Path) -> None:
    for _ in range(400):
        if (folder / "begun").exists():
            return
        time.sleep(0.05)
    raise AssertionError("the step never began")


def test_one_torchrun_a_node_with_the_first_node_as_meeting_point(plan, slurm):
    job = Job(nodes=2, ranks_per_node=4, partition="gpu", time="1-02:00:00")
    job_process, folder = slurm(job_script(plan, job, ["run", "tiny.yaml", "--set", "seeds=[0, 1]"]))
    assert job_process.wait(20) == 0
    said = (folder / "command").read_text().split()
    assert "--nnodes=2" in said and "--nproc-per-node=4" in said and "--rdzv-endpoint=node1:20007" in said
    assert said[said.index("-m") :] == ["-m", "curricle", "run", "tiny.yaml", "--set", "seeds=[0,", "1]"]
    assert "requeue" not in (folder / "scontrol.log").read_text()


def test_a_large_model_is_given_the_time_that_its_state_takes_to_write(plan, monkeypatch):
    assert "TERM@121" in job_script(plan, Job(time="1:00:00"), ["run"])
    monkeypatch.setattr(type(plan), "parameters", 7_000_000_000)
    script = job_script(plan, Job(time="1:00:00"), ["run"])
    assert "TERM@288" in script and "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=278" in script


@pytest.mark.parametrize("leaves", [1, 130])
def test_a_job_whose_time_is_up_is_told_to_save_and_queued_again(plan, slurm, leaves):
    """torchrun has an exit code of its own where it is told to stop."""
    job_process, folder = slurm(job_script(plan, Job(time="00:10:00"), ["run", "x"]), WORKS=400, LEAVES=leaves)
    begun(folder)
    job_process.send_signal(signal.SIGTERM)
    assert job_process.wait(20) == leaves
    assert (folder / "scancel.log").read_text() == "--signal=TERM 7\n"
    assert "requeue 7" in (folder / "scontrol.log").read_text()


def test_a_job_that_fails_is_not_queued_again_and_one_that_saved_is(plan, slurm):
    script = job_script(plan, Job(time="00:10:00"), ["run", "x"])
    job_process, folder = slurm(script, ENDS=1)
    assert job_process.wait(20) == 1 and "requeue" not in (folder / "scontrol.log").read_text()
    job_process, folder = slurm(script, ENDS=130)
    assert job_process.wait(20) == 130 and "requeue 7" in (folder / "scontrol.log").read_text()


def test_a_job_of_an_array_signals_and_queues_itself_alone(plan, slurm):
    script = job_script(plan, Job(time="00:10:00", array=4, ranks_per_node=2), ["run", "x"])
    assert "#SBATCH --array=0-3" in script
    # The plain number of an array's last job is that of the whole array.
    job_process, folder = slurm(script, WORKS=400, LEAVES=130, SLURM_ARRAY_JOB_ID=7, SLURM_ARRAY_TASK_ID=3)
    begun(folder)
    job_process.send_signal(signal.SIGTERM)
    assert job_process.wait(20) == 130
    assert (folder / "scancel.log").read_text() == "--signal=TERM 7_3\n"
    assert "requeue 7_3" in (folder / "scontrol.log").read_text()
    assert (folder / "command").read_text().split() == ["-m", "curricle", "run", "x", "--nproc-per-node", "2"]


EXECUTIONS = st.builds(
    Execution,
    replicas=st.integers(1, 4),
    micro_batch_tokens=st.none() | st.integers(1, 10**6),
    recompute=st.booleans(),
    compile=st.none() | st.booleans(),
    attention=st.sampled_from(["auto", "sdpa", "flex_attention"]),
    save_seconds=st.floats(0, 1e6),
    keep=st.integers(1, 9),
)


@settings(max_examples=30)
@given(EXECUTIONS)
def test_the_options_of_an_execution_are_read_back_as_the_same(execution):
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "run_as_rank", lambda study, folder, store, how, *_: read.append(how))
        patch.setenv("TORCHELASTIC_RUN_ID", "1")
        app(["run", "code-first", *options_of(execution)], standalone_mode=False)
    assert read == [execution]


def test_what_the_plan_is_told_of_the_run_is_told_to_the_job(study_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("curricle.tracking.refuse_missing", lambda spec: None)
    monkeypatch.chdir(tmp_path)
    told = "--replicas 2 --no-compile --attention sdpa --recompute --micro-batch-tokens 64 --keep 3 --track wandb:mine"
    for kind in (["--slurm"], ["--slurm-array", "4"]):
        options = [*kind, "--nproc-per-node", "2", "--time", "1:00:00", *told.split()]
        app(["plan", str(study_file), *options], standalone_mode=False)
        assert f"-m curricle run {study_file} --store runs/store {told} " in capsys.readouterr().out


def test_time_comes_from_the_plan_where_it_is_not_given(plan):
    hours = plan.accelerator_hours("H100")
    assert hours < 0.001
    assert "#SBATCH --time=00:11:00" in job_script(plan, Job(), ["run", "x"])


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (Job(time="90"), "write it as HH:MM:SS"),
        (Job(gpus=False), "state it for a job without GPUs"),
        (Job(nodes=2, array=3), "a node of its own"),
        (Job(accelerator="H20"), "did you mean 'H200'"),
    ],
)
def test_what_slurm_would_not_take_is_refused(plan, job, said):
    with pytest.raises(Refused, match=said):
        job_script(plan, job, ["run", "x"])
