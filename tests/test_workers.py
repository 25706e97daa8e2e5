"""How a machine's GPUs are shared out over workers."""

from __future__ import annotations

import pytest

from curricle import workers
from curricle.execution import Execution
from curricle.study import Refused
from curricle.workers import _visible, refuse_few_gpus


def test_a_worker_sees_a_part_of_the_gpus_that_we_were_given():
    assert _visible((0, 1), None) == "0,1"
    assert _visible((1,), "4,6") == "6"
    assert _visible((0, 1), "GPU-aa, MIG-bb") == "GPU-aa,MIG-bb"


def test_ranks_that_would_share_a_gpu_are_refused(monkeypatch):
    monkeypatch.setattr(workers, "gpu_count", lambda: 4)
    refuse_few_gpus(2, Execution(ranks=2))
    with pytest.raises(Refused, match="--nproc-per-node 4: 2 of the 4 GPUs"):
        refuse_few_gpus(2, Execution(ranks=4))
    monkeypatch.setattr(workers, "gpu_count", lambda: 0)
    refuse_few_gpus(2, Execution(ranks=4))
