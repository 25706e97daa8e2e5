"""What documents are worth to a target, at the weights of one model: the measuring part (the rest: `analysis.value`).

A step of size η on text of gradient ḡ lowers the target's loss by η⟨g, ḡ⟩ to first order, so a document's value is the
product ⟨g, ∇ℓ⟩ = r·c·‖g‖: r the cosine with the target's gradient, c the size of its own. `by_gradients` works it out
exactly, one backward pass a document. `by_forward_passes` approximates it by two forward passes, since
[ℓ(θ + εg) − ℓ(θ − εg)]/2ε tends to it as ε² does to 0 (from one side, as ε: CoLoR-Filter, arXiv 2406.10670).
`by_stand_ins` takes no gradient at all. Losses are means over tokens, so a source's value is the mean of its documents'
weighted by their tokens. Models are left as they were.

Letters: T tokens of a document, V vocabulary.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curricle.corpus.documents import Document
from curricle.evaluation.likelihood import score, score_encoded
from curricle.study import Refused
from curricle.tokens.shards import Encoded, encode

STEP = 1e-3  # of the weights' size: the length of the step of forward passes
EPSILON = 1e-8  # AdamW's
BUCKETS = 10_000  # for hashed n-grams, as in DSIR (arXiv 2302.03169)
PRIOR = 1_000.0  # n-grams of the target that count as much as what all texts have in common

Gradient = list[torch.Tensor]
Watch = Callable[[str, Iterable[Any]], Iterable[Any]]


def _unwatched(name: str, pieces: Iterable[Any]) -> Iterable[Any]:
    return pieces


@dataclass(frozen=True, slots=True)
class Piece:
    """A document as far as it is read: at most a row of tokens, so that documents are of like length."""

    document: str
    text: str
    encoded: Encoded

    @property
    def tokens(self) -> int:
        """Tokens that carry loss."""
        return int(self.encoded.loss.sum())


def chosen(documents: Iterable[Document], count: int) -> list[Document]:
    """A sample of the documents that depends on what they say alone; all of them where there are fewer."""

    def place(document: Document) -> bytes:
        return hashlib.blake2b(document.whole.encode(), digest_size=8).digest()

    return heapq.nsmallest(count, documents, key=place)


def pieces(documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, context: int) -> list[Piece]:
    """The documents' first `context` tokens. Of questions with answers the answers carry loss, of other text all."""
    made = []
    for document, whole in zip(documents, encode(documents, tokenizer), strict=True):
        cut = Encoded(whole.ids[:context], whole.loss[:context], 0)
        text = document.text if len(whole.ids) <= context else str(tokenizer.decode(cut.ids[cut.loss].tolist()))
        if cut.loss.any():
            made.append(Piece(document.id, text, Encoded(cut.ids, cut.loss, len(text.encode()))))
    if not made:
        raise Refused(f"no document has a token that carries loss within {context:,} tokens")
    return made


# ---- gradients ----------------------------------------------------------------------------------------------------


def trained(model: PreTrainedModel) -> Gradient:
    return [p for p in model.parameters() if p.requires_grad]


def nats(model: PreTrainedModel, piece: Piece, end: int) -> torch.Tensor:
    """−ln p summed over the piece's tokens that carry loss; it follows on the delimiter, like the first of a row."""
    ids_T = torch.from_numpy(piece.encoded.ids.astype(np.int64)).to(model.device)
    loss_T = torch.from_numpy(piece.encoded.loss).to(model.device)
    read_T = torch.cat([ids_T.new_tensor([end]), ids_T[:-1]])
    logits_TV = model(input_ids=read_T[None], use_cache=False).logits[0]
    kept = logits_TV[loss_T]
    return functional.cross_entropy(
        kept if kept.dtype == torch.float64 else kept.float(), ids_T[loss_T], reduction="sum"
    )


def gradient(model: PreTrainedModel, pieces: Sequence[Piece], end: int) -> tuple[Gradient, float]:
    """Of the loss a token over all the pieces, and that loss."""
    weights, tokens = trained(model), sum(piece.tokens for piece in pieces)
    summed, total = [torch.zeros_like(w) for w in weights], 0.0
    for piece in pieces:
        loss = nats(model, piece, end)
        for place, part in zip(summed, torch.autograd.grad(loss / tokens, weights)):
            place += part
        total += float(loss.detach())
    return summed, total / tokens


def product(one: Gradient, other: Gradient) -> float:
    return sum(float((a.detach().double() * b.detach().double()).sum()) for a, b in zip(one, other))


def diagonal(model: PreTrainedModel, pieces: Sequence[Piece], end: int) -> Gradient:
    """1/(√v̂ + ε) with v̂ the mean square of the pieces' gradients: Adam's preconditioner, held still. Weights that
    none of them moves (tokens that do not occur) get 0, where Adam would take no step either."""
    squares = [torch.zeros_like(w) for w in trained(model)]
    for piece in pieces:
        for place, part in zip(squares, gradient(model, [piece], end)[0]):
            place += part.square() / len(pieces)
    return [torch.where(s > 0, 1 / (s.sqrt() + EPSILON), 0.0) for s in squares]


@contextmanager
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """In evaluation mode (no dropout), and back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def by_gradients(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    target: Sequence[Piece],
    sources: Mapping[str, Sequence[Piece]],
    *,
    adam: bool = False,
    watch: Watch = _unwatched,
) -> list[dict[str, Any]]:
    """A row for each document, exactly. With `adam`, products are taken under the preconditioner (`diagonal`) that the
    sources' own gradients give, in which cosine and sizes are measured, too."""
    end = int(tokenizer.eos_token_id)
    with undisturbed(model):
        aim, _ = gradient(model, list(watch("the target", target)), end)
        every = [piece for some in sources.values() for piece in some]
        scale = diagonal(model, list(watch("Adam's scale", every)), end) if adam else None
        towards = _scaled(aim, scale)
        square = product(aim, towards)
        rows = []
        for source, some in sources.items():
            for piece in watch(source, some):
                own, loss = gradient(model, [piece], end)
                dot, size = product(towards, own), math.sqrt(product(own, _scaled(own, scale)))
                cosine = dot / (size * math.sqrt(square)) if size and square else 0.0
                factors = {"r": cosine, "c": size, "f": math.sqrt(square), "dot": dot, "target_square": square}
                rows.append(_row(source, piece, "adam" if adam else "gradient", loss) | factors)
    return rows


def _scaled(gradient: Gradient, scale: Gradient | None) -> Gradient:
    return gradient if scale is None else [g * s for g, s in zip(gradient, scale)]


def by_forward_passes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    target: Sequence[Piece],
    sources: Mapping[str, Sequence[Piece]],
    *,
    step: float = STEP,
    watch: Watch = _unwatched,
) -> list[dict[str, Any]]:
    """A row for each document by two forward passes, in batches: how much less it costs a little way down the target's
    gradient than as far up. `step` is that way's length as a share of the weights' own: too long bends, too short
    drowns in rounding. `nats` is the mean of the two."""
    end = int(tokenizer.eos_token_id)
    with undisturbed(model):
        aim, _ = gradient(model, list(watch("the target", target)), end)
        square = product(aim, aim)
        if not square:
            raise Refused("target: its gradient is 0 at these weights, so there is no way down")
        epsilon = step * math.sqrt(product(trained(model), trained(model)) / square)
        losses = []
        for way in (epsilon, -epsilon):
            with moved(model, aim, way):
                losses.append(
                    {source: _losses(model, list(watch(source, some)), end) for source, some in sources.items()}
                )
    rows = []
    for source, some in sources.items():
        for piece, up, down in zip(some, losses[0][source], losses[1][source], strict=True):
            dot = {"dot": (up - down) / (2 * epsilon), "target_square": square}
            rows.append(_row(source, piece, "forward", (up + down) / 2) | dot)
    return rows


@contextmanager
def moved(model: PreTrainedModel, direction: Gradient, length: float) -> Iterator[None]:
    """The weights shifted by `length · direction`; afterwards they are what they were, bit for bit."""
    weights = trained(model)
    kept = [w.detach().clone() for w in weights]
    with torch.no_grad():
        torch._foreach_add_(weights, direction, alpha=length)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, kept)


def _losses(model: PreTrainedModel, some: Sequence[Piece], end: int) -> list[float]:
    found = score_encoded(model, [piece.encoded for piece in some], end, context=max(len(p.encoded.ids) for p in some))
    return [scored.nats / scored.target_tokens for scored in found]


# ---- stand-ins ----------------------------------------------------------------------------------------------------


def by_stand_ins(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    target: Sequence[Piece],
    sources: Mapping[str, Sequence[Piece]],
    *,
    better: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
    watch: Watch = _unwatched,
) -> list[dict[str, Any]]:
    """A row for each document from what is cheap: r a ratio of n-gram densities, target's over sources'; c its bits
    per byte under the model; f its bits per byte above those under a better model, which may have another tokenizer
    (RHO-1's excess loss, arXiv 2404.07965), or 1 where there is none. What is below the better model's counts 0."""
    end = int(tokenizer.eos_token_id)
    texts = {source: [piece.text for piece in some] for source, some in sources.items()}
    ratios = density_ratios([piece.text for piece in target], texts)
    rows = []
    for source, some in sources.items():
        losses = _losses(model, list(watch(source, some)), end)
        for piece, loss, ratio in zip(some, losses, ratios[source], strict=True):
            bits = loss * piece.tokens / math.log(2) / max(1, piece.encoded.bytes)
            rows.append(_row(source, piece, "stand-in", loss) | {"r": ratio, "c": bits, "f": 1.0})
    if better is not None:
        context = max(len(piece.encoded.ids) for some in sources.values() for piece in some)
        every = [("", piece.text) for some in sources.values() for piece in watch("the better model", some)]
        for row, scored in zip(rows, score(*better, every, context=context), strict=True):
            row["f"] = max(0.0, row["c"] - scored.nats / math.log(2) / max(1, scored.bytes))
    return rows


def density_ratios(target: Sequence[str], sources: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    """For every text, the target's density over the sources', the geometric mean over its n-grams: hashed words and
    pairs of words (DSIR's features). A text is left out of the sources' density when it is judged by it."""
    counted = {source: [_ngrams(text) for text in texts] for source, texts in sources.items()}
    aim = sum((_ngrams(text) for text in target), np.zeros(BUCKETS))
    sums = {source: sum(some, np.zeros(BUCKETS)) for source, some in counted.items()}
    # Each source weighs the same, however many texts stand for it.
    weight = {source: 1 / (len(sums) * max(1.0, counts.sum())) for source, counts in sums.items()}
    pool = sum((weight[source] * counts for source, counts in sums.items()), np.zeros(BUCKETS))
    wanted = aim / max(1.0, aim.sum())
    # The same share of what both have in common stands in either, so that a short target is no rarer for it.
    shared = PRIOR / (PRIOR + aim.sum())
    common = (wanted + pool + 1 / BUCKETS) / 3
    found: dict[str, list[float]] = {}
    for source, some in counted.items():
        found[source] = []
        for own in some:
            here = own > 0
            rest = np.maximum(pool[here] - weight[source] * own[here], 0.0) / max(1e-9, 1 - weight[source] * own.sum())
            towards, away = ((1 - shared) * p + shared * common[here] for p in (wanted[here], rest))
            found[source].append(math.exp(float(own[here] @ np.log(towards / away)) / max(1.0, float(own.sum()))))
    return found


def _ngrams(text: str) -> np.ndarray:
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    grams = words + [f"{a} {b}" for a, b in pairwise(words)]
    places = np.fromiter((zlib.crc32(gram.encode()) % BUCKETS for gram in grams), np.int64, len(grams))
    return np.bincount(places, minlength=BUCKETS).astype(float)


def _row(source: str, piece: Piece, method: str, loss: float) -> dict[str, Any]:
    empty = dict.fromkeys(("r", "c", "f", "dot", "target_square"))
    return {
        "source": source,
        "document": piece.document,
        "method": method,
        "tokens": piece.tokens,
        "bytes": piece.encoded.bytes,
        "nats": loss,
        **empty,
    }
