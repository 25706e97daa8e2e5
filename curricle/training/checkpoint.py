"""Checkpoints that exist whole or not at all, and hold all that training needs to go on: weights, optimizers, step.

`checkpoints/step-00000120/` holds `weights.safetensors`, `optimizer.pt` (read back with `weights_only`), `state.json`
and, last, `COMPLETE`. The sampler's position is the step itself and the learning rate is a function of it, so nothing
else has to be kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model

from curricle.store import is_complete, read_json, whole_folder, write_json

KEEP = 2


def save(folder: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Write the state after `step` steps, then drop all but the newest two."""
    with whole_folder(folder / f"step-{step:08d}") as temporary:
        save_model(model, str(temporary / "weights.safetensors"))
        torch.save([o.state_dict() for o in optimizers], temporary / "optimizer.pt")
        torch.save(torch.get_rng_state(), temporary / "rng.pt")
        write_json(temporary / "state.json", {"step": step})
    for old in complete(folder)[:-KEEP]:
        # Renamed first: a folder that is half deleted must not look whole.
        shutil.rmtree(old.rename(old.with_name(f".{old.name}.old.tmp")))


def complete(folder: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    return sorted(f for f in folder.glob("step-*") if is_complete(f))


def restore(folder: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Load the newest checkpoint in place; the step it was taken after, 0 where there is none."""
    found = complete(folder)
    if not found:
        return 0
    load_model(model, str(found[-1] / "weights.safetensors"))
    states = torch.load(found[-1] / "optimizer.pt", weights_only=True, map_location="cpu")
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    torch.set_rng_state(torch.load(found[-1] / "rng.pt", weights_only=True))
    return int(read_json(found[-1] / "state.json")["step"])


def clear(folder: Path) -> None:
    """Drop all checkpoints, so that the run begins again."""
    shutil.rmtree(folder, ignore_errors=True)
