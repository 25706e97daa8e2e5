"""Where a run begins: with which model, and at which state.

A run goes on from its own newest state, or from one of another run whose first steps were the same. A branch begins at
a state of its parent, any other stage at its parent's end, the first one at the study's checkpoint or with fresh
weights.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from curricle.node import Node
from curricle.running.adoption import adopt, state_folder
from curricle.running.preparation import Prepared
from curricle.store import Store, is_complete, read_json, write_json
from curricle.study import Refused

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from curricle.training.distribution import Ranks
    from curricle.training.loop import Begin


def initial(
    prepared: Prepared, node: Node, delimiter: int, begin: Begin | None = None, ranks: Ranks | None = None
) -> PreTrainedModel:
    """The model that a run begins with, or such a one without weights: where these are in the state to `begin` at, and
    on every rank but the first."""
    from curricle.training import checkpoint
    from curricle.training.distribution import Ranks

    ranks = ranks or Ranks.alone()
    if begin is not None and begin.verb != "optimizer":
        bare = _built(prepared, node, delimiter, weights=False)
        if ranks.decided(partial(checkpoint.suffices, begin.place, bare)):
            return bare
    if ranks.size == 1:
        return _built(prepared, node, delimiter)
    fault, names = None, []
    if ranks.first:
        try:
            model = _built(prepared, node, delimiter)
            names = [name for name, _ in model.named_parameters()]
        except Refused as refused:
            fault = str(refused)
    fault, names = ranks.decided(lambda: (fault, names))
    if fault is not None:
        raise Refused(fault)
    if not ranks.first:
        model = _built(prepared, node, delimiter, weights=False)
        if [name for name, _ in model.named_parameters()] != names:  # tied by its config, and yet of two matrices
            model = _built(prepared, node, delimiter)
    return model


def _built(prepared: Prepared, node: Node, delimiter: int, weights: bool = True) -> PreTrainedModel:
    from curricle.training import model as models

    if (place := _read_from(prepared.store, node)) is not None:
        return models.load(place)[0] if weights else models.architecture(place)
    spec = prepared.study.model
    if spec.checkpoint is not None:
        local = prepared.study.resolve(spec.checkpoint)
        start = local if local.exists() else spec.checkpoint
        if not weights:
            return models.architecture(start, prepared.revision)
        return models.begin(start, prepared.revision, delimiter)
    with nullcontext() if weights else models.weightless():
        return models.build(
            prepared.catalogue.shape,
            vocabulary=prepared.catalogue.vocabulary,
            context=node.context,
            delimiter=delimiter,
            seed=node.seed,
        )


def _read_from(store: Store, node: Node) -> Path | None:
    """Where the model lies that a run begins with: its parent's end. Of a branch, whose weights are in its state, any
    model of that shape will do, since its parent may never end: one that the parent has kept, or else what that one
    began with. None where this was no run."""
    if node.parent is None:
        return None
    if node.branch_step is None:
        return store.run_folder(node.parent) / "model"
    run: str | None = node.parent
    while run is not None:
        folder = store.run_folder(run)
        if kept := [
            place for place in (folder / "model", *sorted((folder / "points").glob("*"))) if is_complete(place)
        ]:
            return kept[0]
        run = read_json(folder / "run.json")["began_from"].get("run")
    return None


def begin_at(prepared: Prepared, node: Node, folder: Path, ranks: Ranks, before: int | None = None) -> Begin | None:
    """The state that a run without one of its own begins with beside its weights: its parent's, where that counts. For
    what lies `before` a step its own last state until there."""
    from curricle.training import checkpoint
    from curricle.training.loop import Begin

    if before is not None:
        found = ranks.decided(lambda: checkpoint.complete(folder / "checkpoints"))
        own = [place for place in found if checkpoint.describe(place).step <= before]
        if own:
            return Begin(own[-1], "resume")
    if ranks.first and not checkpoint.complete(folder / "checkpoints"):
        adopt(prepared.store, node, folder)
    if node.parent is None:
        return None
    parent = prepared.store.run_folder(node.parent)
    if node.branch_step is not None:
        return Begin(state_folder(parent, node.branch_step), "branch")
    if node.init_from != "weights":
        return Begin(checkpoint.complete(parent / "checkpoints")[-1], "optimizer")
    return None


def register(prepared: Prepared, node: Node, step: int) -> None:
    """Note where a state lies, for runs whose first steps are the same; the run that was noted may be gone."""
    file = prepared.store.root / "states" / f"{node.states[step]}.json"
    if not file.exists() or not is_complete(state_folder(prepared.store.run_folder(read_json(file)["run"]), step)):
        write_json(file, {"run": node.run, "step": step})
