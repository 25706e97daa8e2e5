"""One run over many ranks: who this process is, how the model is cut over them, what they agree on.

A rank is a process with a device of its own. One process alone is the same code with nothing to send. Every rank walks
the training loop in step; what one of them is told (a signal, a save that is due) all of them learn at the next step,
so that they leave together and no checkpoint is half there.
"""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from curricle.study import Refused

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")

PATIENCE = datetime.timedelta(hours=12)  # ranks wait for the first one's exports and for each other's evaluations
STEP_PATIENCE = datetime.timedelta(minutes=30)  # for what a step sends: more means that a rank is gone


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train one run. `alone()` is one process, without any communication."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    patient: Any = None
    """The process group of decisions and waiting, beside the default one, which steps and saves use."""

    @property
    def first(self) -> bool:
        return self.rank == 0

    @classmethod
    def alone(cls) -> Ranks:
        return cls(device=torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))

    @classmethod
    def join(cls, rank: int, size: int, rendezvous: str, local_rank: int = 0) -> Ranks:
        """Meet the other ranks at `rendezvous` (`env://` under torchrun, `file://…` between local processes)."""
        device = torch.device("cpu")
        if torch.cuda.is_available():
            if local_rank >= torch.cuda.device_count():
                raise Refused(
                    f"--nproc-per-node: {local_rank + 1} or more ranks on {torch.cuda.device_count()} GPUs; two on one "
                    f"would wait for each other for ever"
                )
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
        # gloo beside nccl: flags and objects travel without waiting for the GPU.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"

        def meet() -> Any:
            dist.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=size, timeout=STEP_PATIENCE)
            return dist.new_group(backend="gloo", timeout=PATIENCE)

        return cls(rank, size, device, _hearing(meet))

    @classmethod
    def of_torchrun(cls) -> Ranks | None:
        """The ranks that torchrun started; None where it did not."""
        if "TORCHELASTIC_RUN_ID" not in os.environ and int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return None
        size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
        return cls.alone() if size == 1 else cls.join(rank, size, "env://", int(os.environ.get("LOCAL_RANK", "0")))

    def leave(self) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def summed(self, numbers: Iterable[float]) -> list[float]:
        """Each number summed over the ranks, in float64."""
        values = list(numbers)
        if self.size == 1:
            return values
        together = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(together)
        return together.tolist()

    def decided(self, decide: Callable[[], Any]) -> Any:
        """What the first rank decides; every rank gets it."""
        if self.size == 1:
            return decide()
        said = [decide() if self.first else None]
        dist.broadcast_object_list(said, src=0, group=self.patient)
        return said[0]

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier(group=self.patient)

    def dealt(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of what is dealt out one by one, so that long and short ones are everywhere."""
        return items[self.rank :: self.size]

    def collected(self, mine: list[T]) -> list[T] | None:
        """Every rank's part in the order in which it was dealt; None but on the first rank. All ranks call it."""
        if self.size == 1:
            return mine
        parts: list[Any] = [None] * self.size
        dist.gather_object(mine, parts if self.first else None, dst=0, group=self.patient)
        if not self.first:
            return None
        whole: list[Any] = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    def share(self, rows: int) -> slice:
        """Which of a batch's rows are this rank's: a contiguous part, equal for all."""
        if rows % self.size:
            raise Refused(
                f"recipe.batch_tokens: {rows} rows cannot be shared out evenly over {self.size} ranks; choose a "
                f"multiple, or another --nproc-per-node"
            )
        part = rows // self.size
        return slice(self.rank * part, (self.rank + 1) * part)


def _hearing(meet: Callable[[], Any]) -> Any:
    """What `meet` returns. It waits for other ranks in a thread of its own, so that this one hears a signal meanwhile:
    Python hears none inside of a call that does not return."""
    met: Future[Any] = Future()

    def wait() -> None:
        try:
            met.set_result(meet())
        except BaseException as error:
            met.set_exception(error)

    threading.Thread(target=wait, daemon=True).start()
    return met.result()


LOST = ("Timed out waiting", "Application timeout", "Connection closed by peer", "Connection reset by peer")


def lost(error: Exception) -> bool:
    """Whether ranks waited for each other in vain, or one of them has gone. gloo says so by a `RuntimeError` that has
    no class of its own: one of them by the time, those that wait beside it by a closed connection."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in LOST)


@contextmanager
def left_together(asked_to_stop: Callable[[], bool]) -> Iterator[None]:
    """While this is open, what breaks because another rank has gone is the stop that this one was asked for, where it
    was: ranks are told at one time, and one that has nothing to save yet leaves at once."""
    try:
        yield
    except RuntimeError as error:
        # Of gloo it has no class of its own, as above.
        if not asked_to_stop() or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise KeyboardInterrupt from None


def shard(learner: nn.Module, model: PreTrainedModel, ranks: Ranks, *, precision: str, replicas: int = 1) -> None:
    """Cut parameters, gradients and optimizer states over the ranks, layer by layer (`fully_shard`).

    `replicas` > 1 is hybrid sharding: the model is cut over `size / replicas` ranks, and as many groups hold copies.

    The weights are those that the first rank has, and no weights where it has none: the others need bring none. They
    are taken away before the cut and sent one by one after it, so that no device ever holds the whole model.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if ranks.size == 1:
        return
    if ranks.size % replicas:
        raise Refused(f"--replicas {replicas}: {ranks.size} ranks cannot be shared out over so many copies")
    kind = ranks.device.type
    if replicas > 1:
        mesh = init_device_mesh(kind, (replicas, ranks.size // replicas), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh(kind, (ranks.size,), mesh_dim_names=("shard",))
    half = precision == "bf16" and kind == "cuda"  # on a CPU autocast does it, as with one rank
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
    given = ranks.decided(lambda: not without_weights(model))
    weights = model.state_dict() if given and ranks.first else {}
    _renew(model, lambda weight: weight.to("meta"))
    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(learner, mesh=mesh, mp_policy=policy)
    move_to(ranks.device, learner)
    if given:
        of_first = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, weights, options=of_first)


def without_weights(model: nn.Module) -> bool:
    return all(weight.is_meta for weight in model.parameters())


def move_to(device: torch.device, model: nn.Module) -> None:
    """Move a model; weights that it has not (`meta`) get room there, for what will be loaded."""
    if without_weights(model):
        _renew(model, lambda weight: torch.empty_like(weight, device=device))
    model.to(device)


def _renew(model: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Put other tensors in the place of the weights; what was one tensor stays one."""
    new = {weight: nn.Parameter(change(weight.detach()), weight.requires_grad) for weight in model.parameters()}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = new[weight]


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder's blocks: the longest list of modules in it."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len, default=[]))


def whole_weights(model: PreTrainedModel, ranks: Ranks) -> PreTrainedModel | None:
    """The model with its weights in one piece, for export: itself on one rank, a copy on the first of many, None on
    the others. All ranks call it."""
    if ranks.size == 1:
        return model
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not ranks.first:
        return None
    return _copy(model, weights)


def _copy(model: PreTrainedModel, weights: Mapping[str, Any]) -> PreTrainedModel:
    """Another such model with these weights, which are not copied, and nothing is drawn for it."""
    with torch.device("meta"):
        copy = type(model)(model.config)
    copy.load_state_dict(weights, assign=True)
    copy.tie_weights()  # what was one tensor is one again
    for name, buffer in model.named_buffers():  # those that are worked out, not saved
        where, _, last = name.rpartition(".")
        owner = copy.get_submodule(where)
        if owner._buffers[last] is not None and owner._buffers[last].is_meta:
            owner._buffers[last] = buffer.detach().cpu()
    copy.generation_config = deepcopy(model.generation_config)
    return copy.eval()


def rendezvous(folder: Path) -> str:
    """A meeting point for processes of this machine; the file must not be there yet."""
    return f"file://{folder.resolve()}"
