"""One rank, two ranks, one again: the same documents in the same steps, the same weights within rounding."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from verbs import HUNG_SECONDS

from curricle.study import Refused
from curricle.training import checkpoint
from curricle.training.distribution import Ranks

PROGRAM = Path(__file__).with_name("one_rank.py")


def start(folder: Path, size: int, steps: int, optimizer: str, *rest: object) -> list[subprocess.Popen]:
    folder.mkdir(exist_ok=True)
    meeting = folder / f"meeting-{len(list(folder.glob('meeting-*')))}"
    path = os.pathsep.join([str(PROGRAM.parent), str(PROGRAM.parents[1])])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])}
    return [
        subprocess.Popen(
            [sys.executable, PROGRAM, folder, *map(str, (rank, size, meeting, steps, optimizer, *rest))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(folder: Path, size: int, steps: int, optimizer: str, *rest: object) -> None:
    for process in start(folder, size, steps, optimizer, *rest):
        _, errors = process.communicate(timeout=HUNG_SECONDS)
        assert process.returncode == 0, errors


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "weights.pt", weights_only=True)


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[n] - other[n]).abs().max()) for n in one)


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss_nats"] for line in lines if "loss_nats" in line]


@pytest.fixture(scope="module", params=["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def alone(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    finish(folder, 1, 12, request.param)
    return request.param, folder


def test_two_ranks_end_where_one_does_within_rounding_and_read_the_same_documents(alone, tmp_path):
    optimizer, one = alone
    finish(tmp_path, 2, 12, optimizer)
    assert losses(tmp_path) == pytest.approx(losses(one), abs=1e-5)
    assert apart(weights(tmp_path), weights(one)) < 2e-5
    whole = json.loads((one / "read-1-0-12.json").read_text())
    parts = [json.loads((tmp_path / f"read-2-{rank}-12.json").read_text()) for rank in (0, 1)]
    assert [[step, a + b] for (step, a), (_, b) in zip(*parts, strict=True)] == whole


@pytest.mark.slow
def test_from_two_ranks_to_one_and_back_goes_on_with_the_same_batches(alone, tmp_path):
    """The stop comes to one rank alone; both leave at the same step, with one whole checkpoint."""
    optimizer, one = alone
    finish(tmp_path, 2, 12, optimizer, "--stop-after", 4)
    first = checkpoint.describe(checkpoint.complete(tmp_path / "checkpoints")[-1]).step
    assert 4 <= first < 12
    finish(tmp_path, 1, 12, optimizer, "--stop-after", 8)
    finish(tmp_path, 2, 12, optimizer)
    assert losses(tmp_path) == pytest.approx(losses(one), abs=1e-5)
    assert apart(weights(tmp_path), weights(one)) < 2e-5
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_copies_of_a_sharded_model_end_where_one_rank_does(alone, tmp_path, size):
    """Hybrid sharding: 2 copies, each cut over 1 or 2 ranks."""
    optimizer, one = alone
    finish(tmp_path, size, 12, optimizer, "--replicas", 2)
    assert losses(tmp_path) == pytest.approx(losses(one), abs=1e-5)
    assert apart(weights(tmp_path), weights(one)) < 2e-5


@pytest.mark.slow
def test_copies_add_up_their_gradients_once_a_step_in_however_many_parts_a_batch_is_taken(alone, tmp_path):
    optimizer, one = alone
    for row in (32, 64):  # a rank's share of the batch is 64 tokens: two parts, or one
        finish(tmp_path / str(row), 2, 12, optimizer, "--replicas", 2, "--micro-batch-tokens", row)
        assert losses(tmp_path / str(row)) == pytest.approx(losses(one), abs=1e-5)
        assert apart(weights(tmp_path / str(row)), weights(one)) < 2e-5
    parts, whole = (int((tmp_path / row / "sent-0").read_text()) for row in ("32", "64"))
    assert parts == whole


@pytest.mark.slow
def test_where_one_rank_fails_all_fail_and_what_was_saved_stays_whole(alone, tmp_path):
    optimizer, one = alone
    finish(tmp_path, 2, 12, optimizer, "--stop-after", 4)
    saved = [f.name for f in checkpoint.complete(tmp_path / "checkpoints")]
    for process in start(tmp_path, 2, 12, optimizer, "--fail-at", 8):
        _, errors = process.communicate(timeout=HUNG_SECONDS)
        assert process.returncode not in (0, None), errors
    assert [f.name for f in checkpoint.complete(tmp_path / "checkpoints")] == saved
    finish(tmp_path, 2, 12, optimizer)
    assert losses(tmp_path) == pytest.approx(losses(one), abs=1e-5)


@pytest.mark.slow
def test_two_ranks_that_are_killed_end_in_the_same_weights_bit_for_bit(tmp_path):
    finish(tmp_path / "whole", 2, 14, "adamw")
    for kill in (3, 8):
        processes = start(tmp_path / "cut", 2, 14, "adamw", "--pause", 0.05)
        for line in processes[0].stdout:
            if int(line) >= kill:
                break
        for process, number in zip(processes, (signal.SIGKILL, signal.SIGKILL), strict=True):
            process.send_signal(number)
            process.wait()
    finish(tmp_path / "cut", 2, 14, "adamw")
    assert apart(weights(tmp_path / "cut"), weights(tmp_path / "whole")) == 0
    assert not list((tmp_path / "cut" / "checkpoints").glob(".*"))


def test_rows_that_cannot_be_shared_out_are_refused():
    with pytest.raises(Refused, match=r"3 rows cannot be shared out evenly over 2 ranks"):
        Ranks(0, 2).share(3)
