"""How a machine's GPUs are shared out over workers, and what ends a worker's run."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from curricle.execution import Execution
from curricle.running import workers
from curricle.running.work import Message
from curricle.running.workers import _shared_out, _visible, refuse_few_gpus, threads_each, usual_workers
from curricle.study import Refused


def test_a_worker_sees_a_part_of_the_gpus_that_we_were_given():
    assert _visible((0, 1), None) == "0,1"
    assert _visible((1,), "4,6") == "6"
    assert _visible((0, 1), "GPU-aa, MIG-bb") == "GPU-aa,MIG-bb"


def test_a_server_that_was_killed_and_is_not_gone_yet_is_asked_again(monkeypatch):
    monkeypatch.setattr(workers, "_context", lambda: None)
    monkeypatch.setattr(workers.time, "sleep", lambda seconds: None)
    dying = Mock(start=Mock(side_effect=[ConnectionRefusedError(), ConnectionRefusedError(), EOFError(), None]))
    workers._started(dying)
    assert dying.start.call_count == 4
    with pytest.raises(ConnectionRefusedError):
        workers._started(Mock(start=Mock(side_effect=ConnectionRefusedError())))


def test_ranks_that_would_share_a_gpu_are_refused(monkeypatch):
    monkeypatch.setattr(workers, "gpu_count", lambda: 4)
    refuse_few_gpus(2, Execution(ranks=2))
    with pytest.raises(Refused, match="--nproc-per-node 4: 2 of the 4 GPUs"):
        refuse_few_gpus(2, Execution(ranks=4))
    monkeypatch.setattr(workers, "gpu_count", lambda: 0)
    refuse_few_gpus(2, Execution(ranks=4))


def test_a_narrow_plan_has_as_many_workers_as_it_is_wide_and_they_share_out_the_machine(monkeypatch):
    monkeypatch.setattr(workers, "gpu_count", lambda: 0)
    monkeypatch.setattr(workers, "cores", lambda: 64)
    usual = {width: usual_workers(width, Execution()) for width in (1, 3, 64, 500)}
    assert usual == {1: 1, 3: 3, 64: 64, 500: 64}
    assert [threads_each(number, Execution()) for number in usual.values()] == [64, 21, 1, 1]
    pairs = Execution(ranks=2)
    assert usual_workers(500, pairs) == 32 and threads_each(usual_workers(1, pairs), pairs) == 32
    monkeypatch.setattr(workers, "cores", lambda: 2)
    assert [usual_workers(width, Execution()) for width in (2, 9)] == [2, 2]


def test_the_usual_workers_of_a_narrow_plan_see_more_gpus_and_never_too_few(monkeypatch):
    monkeypatch.setattr(workers, "gpu_count", lambda: 8)
    assert _shared_out(8, usual_workers(3, Execution())) == [(0, 1), (2, 3), (4, 5)]
    for ranks in range(1, 9):
        for width in range(1, 10):
            refuse_few_gpus(usual_workers(width, Execution(ranks=ranks)), Execution(ranks=ranks))


def test_ranks_that_are_in_a_save_do_not_stand_still(tmp_path):
    place = tmp_path / "checkpoints" / ".step-00000004.abc.tmp"
    place.mkdir(parents=True)
    worker = object.__new__(workers.Worker)
    worker.node, worker.processes, worker.connections = SimpleNamespace(run="math/1"), [Mock(), Mock()], []
    worker._given = (SimpleNamespace(store=SimpleNamespace(run_folder=lambda run: tmp_path)), 1, Execution(ranks=2))
    worker._last, worker._quiet, worker._quietest = "step", 0.0, 0.0
    assert worker.waited(workers.STILL_SECONDS + 1) is None and worker.node is not None
    place.rmdir()
    assert worker.waited(workers.STILL_SECONDS + 1).kind == "stopped"
    assert worker.node is None and all(process.kill.called for process in worker.processes)


@pytest.mark.slow
def test_what_workers_are_forked_from_has_no_other_thread_and_leaves_signals_to_the_driver():
    tell = """
import os, signal, sys
import curricle.running.warm
ignored = {n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is signal.SIG_IGN}
print(len(os.listdir("/proc/self/task")), "pyarrow" in sys.modules, len(ignored))
"""
    alone = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a library's own threads survive forks
    done = subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, env=alone)
    assert done.stdout.split() == ["1", "False", "2"], done.stderr


def test_ranks_that_have_lost_each_other_leave_the_run_to_be_begun_again(monkeypatch):
    store, patience = dist.HashStore(), timedelta(seconds=1)
    with ThreadPoolExecutor() as both:  # of two ranks the second never comes to the gather
        groups = both.map(lambda rank: dist.ProcessGroupGloo(store, rank, 2, patience), range(2))
        first, _ = groups

    def work(*_):
        yield Message("step", "math/1", 512)
        first.allreduce([torch.ones(2)]).wait()

    monkeypatch.setattr(workers, "work_on", work)
    step, last = workers.told(Mock(), SimpleNamespace(run="math/1"), Mock(), Execution(ranks=2), lambda: False)
    assert (step.kind, last.kind) == ("step", "stopped") and "lost each other" in last.text
    worker = object.__new__(workers.Worker)
    worker.node, worker.processes = SimpleNamespace(run="math/1"), [Mock(), Mock()]
    worker._last, worker._quiet, worker._quietest = "step", 0.0, 0.0
    assert worker.receive(Mock(recv=lambda: last)) == last
    assert worker.node is None and all(process.kill.called for process in worker.processes)
