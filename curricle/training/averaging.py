"""The mean of a stage's last few states as the weights that leave it (Sanyal et al., arXiv 2306.03241).

Each state that counts is kept as a folder of its own, whole or not at all, so an interrupted run averages the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from curricle.node import averaged_steps
from curricle.store import finish_folder, is_complete
from curricle.study import Recipe
from curricle.training.checkpoint import quiet, temporary_folder, tensors
from curricle.training.distribution import Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def due(recipe: Recipe, step: int, steps: int) -> bool:
    return step in averaged_steps(recipe, steps)


def keep(folder: Path, model: PreTrainedModel, step: int, ranks: Ranks) -> None:
    place = _place(folder, step)
    temporary = ranks.decided(lambda: temporary_folder(place.parent, step))
    with quiet():
        dcp.save(tensors(model, []), storage_writer=HuggingFaceStorageWriter(str(temporary), save_distributed=True))
    if ranks.first:
        finish_folder(temporary, place)
    ranks.wait()


@torch.no_grad()
def apply(folder: Path, model: PreTrainedModel, recipe: Recipe, steps: int, ranks: Ranks) -> None:
    """Put the mean in the place of the model's weights; nothing where the recipe asks for none."""
    places = [_place(folder, step) for step in averaged_steps(recipe, steps)]
    if not places:
        return
    own = tensors(model, [])
    sums = {name: torch.zeros_like(tensor) for name, tensor in own.items()}
    for place in places:
        assert is_complete(place), place
        state = {name: torch.empty_like(tensor) for name, tensor in own.items()}
        with quiet():
            dcp.load(state, storage_reader=HuggingFaceStorageReader(str(place)))
        for name, tensor in state.items():
            sums[name] += tensor
    for name, tensor in own.items():
        tensor.copy_(sums[name] / len(places))


def _place(folder: Path, step: int) -> Path:
    return folder / "average" / f"step-{step:08d}"
