"""What the store remembers of a study, so that a run can be gone back to when the study's own folder is gone.

`noted` says as plain JSON which node a run was and where in the store lie the things that its sampler reads; `recall`
turns it back into the values that `preparation.sampler_for` takes. Paths inside the store are kept relative to it, so
that a store may be moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from curricle.corpus import catalogue as corpora
from curricle.corpus.catalogue import Entry
from curricle.node import Node
from curricle.planning import Catalogue, Plan
from curricle.running.preparation import Prepared
from curricle.store import Store, is_complete, read_json
from curricle.study import Refused, Study
from curricle.training.origin import Origin


def noted(plan: Plan, prepared: Prepared) -> dict[str, Any]:
    """The study as it was run, its overrides included, and each of its runs. (A run's identity is in its folder.)"""
    root = prepared.store.root
    nodes = TypeAdapter(Node)
    return {
        "path": str(plan.study.path.resolve()) if plan.study.path else None,
        # Only what was said: a stage's recipe overrides the study's in exactly those fields.
        "fields": plan.study.model_dump(mode="json", exclude_unset=True),
        "catalogue": TypeAdapter(Catalogue).dump_python(prepared.catalogue, mode="json"),
        "tokenizer": _inside(prepared.tokenizer, root),
        "revision": prepared.revision,
        "corpora": {name: _inside(folder, root) for name, folder in prepared.corpora.items()},
        "shards": {name: _inside(folder, root) for name, folder in prepared.shards.items()},
        "nodes": {run: nodes.dump_python(node, mode="json", exclude={"identity"}) for run, node in plan.nodes.items()},
    }


def recall(store: Store, remembered: Mapping[str, Any], run: str) -> tuple[Prepared, Node]:
    """A run as it was planned, and what it read. Raises `Refused` where the store no longer holds that."""
    study = Study.model_validate(remembered["fields"])
    study._path = Path(remembered["path"]) if remembered["path"] else None
    study._name = remembered["study"]
    identity = read_json(store.run_folder(run) / "run.json")["identity"]
    node = TypeAdapter(Node).validate_python({**remembered["nodes"][run], "identity": identity})
    folders = {name: store.root / place for name, place in remembered["corpora"].items()}
    for name in node.sources:
        if not is_complete(folders[name]):
            raise Refused(f"{run}: the documents of {name} are no longer in {store.root}; run {study.name} again")
    catalogue = TypeAdapter(Catalogue).validate_python(remembered["catalogue"])
    tokenizer, origin = _outside(remembered["tokenizer"], store.root), None
    if catalogue.model is not None:
        origin = Origin(catalogue.model, catalogue.shape, tokenizer, remembered.get("revision"))
    prepared = Prepared(
        study=study,
        store=store,
        entries={name: _as_read(corpora.load(folders[name]), catalogue) for name in node.sources},
        corpora=folders,
        tokenizer=tokenizer,
        shards={name: store.root / place for name, place in remembered["shards"].items()},
        benchmarks=(),
        asked={},
        catalogue=catalogue,
        origin=origin,
    )
    for name in node.sources:
        blocks = (
            [prepared.shards[name]] if name in prepared.shards else prepared.stream(name, node.seed).glob("block-*")
        )
        if not any(is_complete(folder) for folder in blocks):
            raise Refused(f"{run}: the tokens of {name} are no longer in {store.root}; run {study.name} again")
    return prepared, node


def _as_read(entry: Entry, catalogue: Catalogue) -> Entry:
    """An endless source is told by what its stream was cleaned of, too, which its corpus does not know."""
    return replace(entry, fingerprint=catalogue.sources[entry.name].fingerprint) if entry.endless else entry


def _inside(place: Path | str, root: Path) -> str:
    """Relative to the store where it lies in it; a hub id stays as it is."""
    if isinstance(place, str):
        return place
    whole, base = place.resolve(), root.resolve()
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else str(whole)


def _outside(text: str, root: Path) -> Path | str:
    """The folder that `_inside` wrote down, or the hub id."""
    return root / text if (root / text).exists() else text
