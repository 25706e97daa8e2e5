"""Which documents stood behind a step of a run: its batch, read again.

The sampler is stateless, so the rows of step N follow from what the store remembers of the run, and so do the
documents: shards hold them in the order of the catalogue, and a generated source is drawn again. What is shown of a
row is decoded from its tokens: it is what the model saw. Nothing of the study's own folder is needed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curricle.corpus import catalogue as corpora
from curricle.corpus import problems
from curricle.corpus.documents import Document
from curricle.running.preparation import CHUNKS_IN_BLOCK, Prepared, removed_places, sampler_for
from curricle.running.recall import recall
from curricle.running.upkeep import remembered, run_named
from curricle.store import Store
from curricle.study import Generated, Refused, nearest
from curricle.tokens import subsample
from curricle.training import metrics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Passage:
    """The part of one document that stands in one row."""

    row: int
    source: str
    document: int
    """Its place among the training documents that the run could read of the source, in the catalogue's order."""
    id: str
    where: str
    """Its url, its path or its group (a repository, a host), where its id does not say it."""
    tokens: int
    targets: int
    """Tokens of it that carry loss."""
    text: str


@dataclass(frozen=True, slots=True)
class Explained:
    """A step of a run and what it read."""

    run: str
    stage: str
    seed: int
    step: int
    steps: int
    rows: int
    context: int
    metrics: Mapping[str, Any] | None
    """The step's line in `metrics.jsonl`; None where it has not been trained."""
    guard: str | None
    """What a loss guard said of the step."""
    passages: tuple[Passage, ...]


def explain(store: Store, name: str, step: int) -> Explained:
    """The documents behind step `step` (from 1) of a run, which may be named by its beginning. Raises `Refused` for a
    run or a step that is not there, and where the store no longer holds what the run read."""
    from curricle.tokens.tokenizer import load

    run = run_named(store, name)
    if run is None:
        raise Refused(f"{name}: no such run in {store.root}; {nearest(name, store.runs())}")
    reference = remembered(store, run)
    if reference is None:
        raise Refused(
            f"{run}: no study in {store.root}/studies says what it read; run the study that made it once more (what is "
            f"trained stays)"
        )
    prepared, node = recall(store, reference, run)
    if not 1 <= step <= node.steps:
        raise Refused(f"--step {step}: {run} has the steps 1 to {node.steps:,}")
    tokenizer = load(prepared.tokenizer, prepared.revision)
    sampler = sampler_for(prepared, node)
    rows = node.recipe.batch_tokens // node.context
    read = [(*sampler.read(i), sampler.openings(i)) for i in range((step - 1) * rows, step * rows)]
    wanted: dict[str, set[int]] = {}
    for source, _, _, touched, _ in read:
        wanted.setdefault(source, set()).update(touched)
    found = {source: documents_of(prepared, source, node.seed, places) for source, places in wanted.items()}
    passages = [
        _passage(row, source, place, found[source].get(place), tokens, loss, tokenizer)
        for row, (source, tokens_S, loss_S, touched, opens_S) in enumerate(read)
        for place, tokens, loss in _cut(tokens_S, loss_S, touched, opens_S)
    ]
    line, guard = _said(store.run_folder(run), step)
    return Explained(
        run, node.stage, node.seed, step, node.steps, rows, node.context, line, guard, tuple(passages)
    )  # fmt: skip


def documents_of(prepared: Prepared, source: str, seed: int, wanted: Collection[int]) -> dict[int, Document]:
    """Training documents of a source by their place in its shards: read from its corpus, or drawn again."""
    spec = prepared.study.sources[source]
    if isinstance(spec, Generated):
        return _drawn_again(prepared, spec, source, seed, wanted)
    stood = subsample.places(prepared.shards[source])
    asked = {place if stood is None else int(stood[place]): place for place in wanted}
    last = max(asked, default=-1)
    found = {}
    for place, document in enumerate(corpora.documents(prepared.corpora[source])):
        if place in asked:
            found[asked[place]] = document
        if place >= last:
            break
    return found


def _drawn_again(
    prepared: Prepared, spec: Generated, source: str, seed: int, wanted: Collection[int]
) -> dict[int, Document]:
    """A generated source's documents by their place among those that its blocks kept: what was removed from a block,
    because it overlapped a benchmark, takes no place."""
    size, in_block = problems.CHUNK, problems.CHUNK * CHUNKS_IN_BLOCK
    stream, chunks = prepared.stream(source, seed), {}
    found: dict[int, Document] = {}
    first, last = 0, max(wanted, default=-1)
    for block in itertools.count():
        if first > last:
            break
        removed = removed_places(stream, block)
        kept = np.setdiff1d(np.arange(in_block), removed) + block * in_block
        for place in (p for p in wanted if first <= p < first + len(kept)):
            number = int(kept[place - first])
            if number // size not in chunks:
                chunks[number // size] = problems.chunk(
                    spec.generated, seed, number // size, worked=spec.worked, source=source
                )
            found[place] = chunks[number // size][number % size]
        first += len(kept)
    return found


def _cut(
    tokens_S: np.ndarray, loss_S: np.ndarray, touched: list[int], opens_S: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """A row in its documents, each with its delimiter. The last token of the row is a target only."""
    ends = [*(np.flatnonzero(opens_S) + 1).tolist(), len(tokens_S)]
    begin = 0
    for place, end in zip(touched, ends):
        yield place, tokens_S[begin:end], loss_S[begin:end]
        begin = end


def _passage(
    row: int,
    source: str,
    place: int,
    document: Document | None,
    tokens: np.ndarray,
    loss: np.ndarray,
    tokenizer: PreTrainedTokenizerFast,
) -> Passage:
    kept = tokens[tokens != tokenizer.eos_token_id]
    return Passage(
        row=row,
        source=source,
        document=place,
        id=document.id if document else f"number {place}",
        where=_where(document) if document else "",
        tokens=len(tokens),
        targets=int(loss.sum()),
        text=tokenizer.decode(kept.tolist()),
    )


def _where(document: Document) -> str:
    place = str(document.url or document.meta.get("path") or document.group)
    return "" if place in document.id else place


def _said(folder: Path, step: int) -> tuple[dict[str, Any] | None, str | None]:
    """The step's own line, and what any of its lines says under `guard`."""
    own, guard = None, None
    for line in metrics.read(folder):
        if line.get("step") == step:
            guard = line.get("guard") or guard
            own = line if "loss_nats" in line else own
    return own, None if guard is None else guard if isinstance(guard, str) else json.dumps(guard)
