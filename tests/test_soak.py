"""Twenty kills at random moments change no weight and leave nothing behind (`scripts/soak.py`; 200 by hand)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "soak.py"


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_twenty_kills_at_random_moments_leave_the_same_weights_and_nothing_else(soak, ranks):
    assert soak.soak(kills=20, ranks=ranks, tokens=12_288, seed=ranks) == []


def small_store(folder: Path) -> Path:
    """The files of a run that is done, as small as they may be."""
    run = folder / "runs" / "math" / "0"
    for part in ("model", "evaluations", "checkpoints/step-00000002"):
        (run / part).mkdir(parents=True)
    (run / "model" / "model.safetensors").write_bytes(b"weights")
    pq.write_table(pa.table({"item": [0, 1], "nats": [1.0, 2.0]}), run / "evaluations" / "0.parquet")
    scored = {"code": {"nats": 3.0}}
    lines = [
        {"step": 1, "loss_nats": 2.0, "tokens_per_second": 3.0},
        {"step": 2, "loss_nats": 1.0, "tokens_per_second": 3.0},
        {"step": 2, "tokens": 8, "evaluation": scored, "seconds": 1.0},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def change_score(run: Path) -> None:
    pq.write_table(pa.table({"item": [0, 1], "nats": [1.0, 2.5]}), run / "evaluations" / "0.parquet")


def forget_first_step(run: Path) -> None:
    file = run / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))


def note_a_step_twice(run: Path) -> None:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:1] + lines))


def be_slower(run: Path) -> None:
    file = run / "metrics.jsonl"
    file.write_text(file.read_text().replace('"tokens_per_second": 3.0', '"tokens_per_second": 1.0'))


FAULTS = {
    "weights": (lambda run: (run / "model" / "model.safetensors").write_bytes(b"others"), "files of weights differ"),
    "an answer": (change_score, "evaluations differ"),
    "a step that is missing": (forget_first_step, "runs' metrics differ"),
    "a step twice": (note_a_step_twice, "runs' metrics differ"),
    "a state left over": (lambda run: (run / "checkpoints" / "step-00000001").mkdir(), "checkpoints differ"),
    "a file half written": (lambda run: (run / ".model.tmp").write_bytes(b""), "left half written"),
    "no more than another speed": (be_slower, None),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_soak_sees_what_a_strike_may_leave(soak, name, tmp_path):
    change, expected = FAULTS[name]
    small_store(tmp_path / "whole")
    change(small_store(tmp_path / "cut"))
    faults = soak.faults_of(tmp_path / "cut", soak.all_of(tmp_path / "whole"))
    assert [expected in fault for fault in faults] == [True] if expected else faults == []
