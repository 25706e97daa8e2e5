"""Job scripts for Slurm that work as they are: one job whose ranks train every run together, or an array of drivers.

A script is asked to stop before its time is up, saves, and queues itself again; the store is its only memory, so any
number of such jobs, one after the other or side by side, end in the same results.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass

from curricle.planning import ACCELERATORS, Plan
from curricle.study import Refused, nearest

SAVE_SECONDS = 120  # between the signal and the end of the time, and for each byte of the state
SAVE_RATE = 0.5e9  # bytes a second, of a file system that others use too
SLACK = 1.25  # time that is asked for, over the estimate
TIME = re.compile(r"(\d+-)?\d{1,3}:\d{2}:\d{2}")


@dataclass(frozen=True, slots=True)
class Job:
    """What Slurm is asked for. Fields that are None are left to the cluster."""

    nodes: int = 1
    ranks_per_node: int = 1
    time: str | None = None
    """HH:MM:SS, or D-HH:MM:SS; None: the plan's estimate on `accelerator`."""
    partition: str | None = None
    account: str | None = None
    accelerator: str = "H100"
    gpus: bool = True
    folder: str | None = None
    """Where the job runs; None: where it is submitted."""
    array: int | None = None
    """So many jobs side by side on one store, in the place of one over all nodes."""


def job_script(plan: Plan, job: Job, command: list[str]) -> str:
    """The script; `command` is what `curricle` is told, as `run STUDY --store …`. Raises `Refused` for a time that
    Slurm would not read."""
    if job.time is not None and not TIME.fullmatch(job.time):
        raise Refused(f"--time {job.time}: write it as HH:MM:SS, or D-HH:MM:SS")
    if job.array is not None and job.nodes > 1:
        raise Refused(f"--nodes {job.nodes}: with --slurm-array each job has a node of its own; leave it out")
    run = shlex.join(command)
    if job.time is None and not job.gpus:
        raise Refused("--time: state it for a job without GPUs; curricle plan estimates it for this machine")
    if job.accelerator not in ACCELERATORS:
        raise Refused(f"--accelerator {job.accelerator}: {nearest(job.accelerator, ACCELERATORS)}")
    if job.array is None:
        body = _TOGETHER.format(ranks=job.ranks_per_node, run=run, save=_save_seconds(plan) - 10)
    else:
        body = _APART.format(ranks=job.ranks_per_node, run=run)
    return "\n".join(_header(plan, job)) + "\n" + body + _ENDING


def _save_seconds(plan: Plan) -> int:
    """Weights and two moments in fp32 have to be written in them."""
    return SAVE_SECONDS + math.ceil(12 * plan.parameters / SAVE_RATE)


def _header(plan: Plan, job: Job) -> list[str]:
    name = re.sub(r"[^\w.-]+", "-", plan.study.name)
    jobs, save = job.array or 1, _save_seconds(plan)
    log = f"{name}-%A_%a" if job.array else f"{name}-%j"
    ranks = job.ranks_per_node
    asked = [f"--job-name={name}", f"--nodes={job.nodes}", "--ntasks-per-node=1"]  # torchrun starts the ranks
    asked += [f"--gpus-per-node={ranks}"] if job.gpus else []
    asked += [f"--cpus-per-task={ranks * (4 if job.gpus else 1)}"]
    asked += [f"--partition={job.partition}"] if job.partition else []
    asked += [f"--account={job.account}"] if job.account else []
    asked += [f"--chdir={job.folder}"] if job.folder else []
    asked += [f"--array=0-{job.array - 1}"] if job.array else []
    asked += [f"--output={log}.out", f"--error={log}.err", "--open-mode=append"]
    time, reason = job.time, "as asked"
    if time is None:
        accelerators = jobs * job.nodes * ranks
        hours = plan.accelerator_hours(job.accelerator) / accelerators
        time = _clock(math.ceil(hours * SLACK * 3600) + 600)
        reason = f"{SLACK} x the plan's {hours:.3g} h on {accelerators} {job.accelerator}, and ten minutes to begin"
    return [
        "#!/bin/bash",
        f"# {plan.study.name}: {' '.join(plan.study.question.split())}",
        *(f"#SBATCH {option}" for option in asked),
        f"# The time: {reason}.",
        f"#SBATCH --time={time}",
        f"# {save} s before its end this script (B:) gets SIGTERM, so that it can save and queue itself again.",
        f"#SBATCH --signal=B:TERM@{save}",
        "#SBATCH --requeue",
        "set -u",
        "# Of an array, this job alone: the plain number of one of its jobs is also that of the whole array.",
        "ME=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
        "ME=${ME:-$SLURM_JOB_ID}",
        "# Passed on to the step, not to this shell. The exit code alone would not tell: torchrun has one of its own.",
        "ASKED=0",
        """trap 'ASKED=1; scancel --signal=TERM "$ME"' TERM""",
        "# srun does not take this over from the header by itself.",
        "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}",
    ]


def _clock(seconds: int) -> str:
    minutes = math.ceil(seconds / 60)
    days, minutes = divmod(minutes, 24 * 60)
    hours, minutes = divmod(minutes, 60)
    return f"{f'{days}-' if days else ''}{hours:02}:{minutes:02}:00"


_TOGETHER = """
# The ranks meet at the first node of the job.
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
PORT=$((20000 + SLURM_JOB_ID % 20000))  # another for each job, since jobs share nodes
# Small models are quickest with one thread a rank, and many threads would hinder each other.
export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-1}}
# torchrun passes SIGTERM on, and gives its ranks this long to save before it kills them (30 s by default).
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={save}

# One torchrun on each node, all of whose ranks train every run together. The store must be seen by all nodes.
# In the background, since a shell that waits for a program in the foreground hears no signal.
srun --kill-on-bad-exit=1 torchrun --nnodes="$SLURM_NNODES" --nproc-per-node={ranks} \\
  --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$HEAD:$PORT" \\
  -m curricle {run} &
"""

_APART = """
# Every job of the array is a driver of the whole study on the same store. A run belongs to whoever holds its lock;
# the others take the next, and wait for runs that they need and another holds. A job that dies lets go of its runs,
# and the others go on from their checkpoints. The store's file system must lock across nodes (flock).
# Each job writes the report of what is done when it ends; the last to end has seen all.
srun --kill-on-bad-exit=1 python -m curricle {run} --nproc-per-node {ranks} &
"""

_ENDING = """STEP=$!
while true; do
  wait "$STEP"; CODE=$?
  kill -0 "$STEP" 2>/dev/null || break  # a signal ends the first wait, not the step
done
# Where the step ended between the signal and that look, its code is still to be had.
[ "$CODE" -gt 128 ] && { wait "$STEP"; AGAIN=$?; [ "$AGAIN" -eq 127 ] || CODE=$AGAIN; }

# Asked to stop, or 130, which means interrupted and saved: there is more to do. Any other failure stays one.
if [ "$CODE" -ne 0 ] && { [ "$ASKED" -eq 1 ] || [ "$CODE" -eq 130 ]; }; then
  scontrol requeue "$ME"
fi
exit "$CODE"
"""
