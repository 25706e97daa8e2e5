"""Checkpoints that exist whole or not at all, and hold all that training needs to go on: weights, optimizers, step.

`checkpoints/step-00000120/` holds `*.safetensors`, written by `torch.distributed.checkpoint` (each rank writes its
part; any number of ranks reads it back), `state.json` and, last, `COMPLETE`. Nothing in it is pickled. The sampler's
position is the step itself, the learning rate and the randomness of a step are functions of it, so nothing else has to
be kept.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from curricle.store import finish_folder, is_complete, read_json, sweep, write_json
from curricle.training.distribution import Ranks

MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint says of itself, beside its tensors."""

    step: int
    optimizer_steps: int
    """Updates that the optimizers have made: steps less those skipped, and those of the stages before that count."""
    state: str | None = None
    """The state's fingerprint, where it is one that other runs may begin from."""
    guard: Mapping[str, Any] = field(default_factory=dict)
    bends: bool | None = None
    """Whether the model bends its logits (`curricle.training.loss`), which only weights can tell."""


def tensors(model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """Weights and moments by name, as they lie on this rank. Moments that are not there yet are made, as zeros."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for optimizer in optimizers:
        adamw = "betas" in optimizer.defaults
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            if adamw and "step" not in optimizer.state[p]:
                optimizer.state[p]["step"] = torch.tensor(0.0, device=p.device)
            for kind in MOMENTS[:2] if adamw else MOMENTS[2:]:
                if kind not in optimizer.state[p]:
                    optimizer.state[p][kind] = torch.zeros_like(p, memory_format=torch.preserve_format)
                found[f"optimizer.{kind}.{names[id(p)]}"] = optimizer.state[p][kind]
    return found


class Saver:
    """Writes checkpoints of one run; at most one is on its way. All ranks call its methods at the same steps."""

    def __init__(self, folder: Path, ranks: Ranks, *, keep: int = 2, ahead: bool = False):
        """`keep` resumable checkpoints stay beside the milestones. With `ahead`, tensors are copied and written while
        training goes on."""
        self.folder, self.ranks, self.keep, self.ahead = folder, ranks, keep, ahead
        # A group of its own: what the writing thread says must not come between what training says.
        self._group = dist.new_group(backend="gloo") if ahead and ranks.size > 1 else None
        self._writing: Future | None = None
        self._temporary: Path | None = None
        self._saved: Saved | None = None

    def save(self, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], saved: Saved) -> None:
        self.finish()
        self._saved = saved
        self._temporary = self.ranks.decided(lambda: temporary_folder(self.folder, saved.step))
        state = tensors(model, optimizers)
        writer = HuggingFaceStorageWriter(str(self._temporary), save_distributed=True)
        with quiet():
            if self.ahead:
                self._writing = dcp.async_save(state, storage_writer=writer, process_group=self._group)  # type: ignore[assignment]
            else:
                dcp.save(state, storage_writer=writer)
        if not self.ahead:
            self._count()

    @property
    def busy(self) -> bool:
        """Whether something is on its way: on all ranks alike."""
        return self._writing is not None

    def written(self) -> bool:
        """Whether this rank has something on its way that is written by now."""
        return self._writing is not None and self._writing.done()

    def finish(self) -> None:
        """Wait for what is on its way, and make it count."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None
            self.ranks.wait()
            self._count()

    def close(self) -> None:
        """Give back what the writing thread talks through."""
        if self._group is not None and self._writing is None:
            dist.destroy_process_group(self._group)
            self._group = None

    def _count(self) -> None:
        if self.ranks.first:
            assert self._temporary is not None and self._saved is not None
            saved = self._saved
            named = {"step": saved.step, "optimizer_steps": saved.optimizer_steps, "state": saved.state}
            write_json(self._temporary / "state.json", named | {"guard": dict(saved.guard), "bends": saved.bends})
            finish_folder(self._temporary, self.folder / f"step-{saved.step:08d}")
            for old in [f for f in complete(self.folder) if describe(f).state is None][: -self.keep]:
                drop(old)
        self._temporary = None
        self.ranks.wait()


def restore(
    place: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], *, weights_too: bool = True
) -> Saved:
    """Load a checkpoint in place, whatever number of ranks wrote it. Without `weights_too` only the optimizers."""
    saved = describe(place)
    state = tensors(model, optimizers)
    wanted = state if weights_too else {name: t for name, t in state.items() if name.startswith("optimizer.")}
    with quiet():
        dcp.load(wanted, storage_reader=HuggingFaceStorageReader(str(place)))
    for optimizer in optimizers:
        if "betas" not in optimizer.defaults:
            continue
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[p]["step"] = torch.tensor(float(saved.optimizer_steps), device=p.device)
    return saved


def suffices(place: Path, model: torch.nn.Module) -> bool:
    """Whether a checkpoint holds all that such a model would read from where its weights lie."""
    names = {name for name, _ in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    held = HuggingFaceStorageReader(str(place)).read_metadata().state_dict_metadata
    weights = {name.removeprefix("model.") for name in held if name.startswith("model.")}
    # Buffers that are saved are no part of a checkpoint; two matrices may be tied by their config and yet differ.
    return describe(place).bends is not None and weights == names and set(model.state_dict()) == tied


def describe(place: Path) -> Saved:
    return Saved(**read_json(place / "state.json"))


def complete(folder: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    return sorted(f for f in folder.glob("step-*") if is_complete(f))


def name(folder: Path, states: Mapping[int, str]) -> None:
    """Give the states that other runs may begin from their fingerprints, where they were saved before that was asked:
    a state with a name stays."""
    for place in complete(folder):
        sweep(place)
        said = read_json(place / "state.json")
        if said["state"] is None and said["step"] in states:
            write_json(place / "state.json", said | {"state": states[said["step"]]})


def drop(folder: Path) -> None:
    # Renamed first: a folder that is half deleted must not look whole.
    shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.old.tmp")))


def temporary_folder(folder: Path, step: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=folder, prefix=f".step-{step:08d}.", suffix=".tmp"))


@contextmanager
def quiet():
    """DCP tells at every call that one process is not a distributed program."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated.*")
        yield
