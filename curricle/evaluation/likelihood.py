"""How well a model predicts a text: −ln p, summed over the text's tokens, in nats.

Divided by the text's bytes this is the measure that does not depend on the tokenizer (bits per byte = nats / ln 2 /
bytes). `score` promises a number that does not depend on what else is in the batch, except for the last digits of the
arithmetic. It draws no random number and leaves the model as it was.

Letters: B rows of a batch, T tokens of a row, N target tokens of the batch, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curricle.evaluation.generation import batches, measuring
from curricle.tokens.shards import Encoded
from curricle.tokens.tokenizer import spelled
from curricle.training.loss import to_logits

LOGITS = 2**24  # entries of the widest matrix of logits: 64 MB in float32
BATCH_TOKENS = 2**12  # measured fastest for 1M parameters on one core

Window = tuple[int, list[int], np.ndarray]
"""The document it is of, at most context + 1 of its tokens, and the places of its targets among them."""


@dataclass(frozen=True, slots=True)
class Scored:
    """−ln p of one text given its prompt, its closing token included; of a conversation, of its answers."""

    nats: float
    target_tokens: int
    bytes: int


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[tuple[str, str]],
    *,
    context: int,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Scored]:
    """Scores of (prompt, text) pairs, in their order.

    A pair is read as one document: the end-of-document token, the prompt, the text, the end-of-document token; nats
    are summed over the text and the token that closes it. The rest is as in `score_encoded`.
    """
    encoded = iter(spelled(tokenizer, [part for item in items for part in item]))
    documents = []
    for (_, text), before, ids in zip(items, encoded, encoded, strict=True):
        loss = np.repeat([False, True], [len(before), len(ids) + 1])
        documents.append(Encoded(np.array([*before, *ids, tokenizer.eos_token_id]), loss, len(text.encode())))
    return score_encoded(model, documents, tokenizer.eos_token_id, context=context, batch_tokens=batch_tokens)


def score_encoded(
    model: PreTrainedModel, documents: Sequence[Encoded], end: int, *, context: int, batch_tokens: int = BATCH_TOKENS
) -> list[Scored]:
    """Scores of documents, in their order: nats are summed over the tokens that carry loss in an `instruct` stage.

    A document follows on `end`, the delimiter. One of more than `context` tokens is cut into windows of `context`
    tokens that do not overlap: each token is predicted once, the first of a window from nothing but the token before
    it. `batch_tokens` bounds the tokens that are in the model at once.
    """
    windows: list[Window] = []
    for number, document in enumerate(documents):
        ids, loss = [end, *document.ids.tolist()], np.concatenate([[False], document.loss])
        for start in range(0, len(ids) - 1, context):
            places = np.flatnonzero(loss[start + 1 : start + context + 1]) + 1
            if len(places):  # a window of nothing but prompt predicts no target
                windows.append((number, ids[start : start + context + 1], places))

    nats = torch.zeros(len(documents), dtype=torch.float64)
    with measuring(model):
        for rows in batches([len(window) for _, window, _ in windows], batch_tokens):
            owner_N, nats_N = _nats(model, [windows[row] for row in rows], end)
            nats.index_add_(0, owner_N, nats_N.double().cpu())
    return [Scored(n, int(d.loss.sum()), d.bytes) for n, d in zip(nats.tolist(), documents, strict=True)]


def _nats(model: PreTrainedModel, windows: list[Window], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The document of each target token, and −ln p of that token."""
    width = max(len(window) for _, window, _ in windows)
    # Padding stands on the right, where no token of a causal model sees it: no mask is needed.
    tokens_BT = torch.tensor([w + [padding] * (width - len(w)) for _, w, _ in windows], device=model.device)
    counts = torch.tensor([len(places) for _, _, places in windows])
    rows_N = torch.arange(len(windows)).repeat_interleave(counts)
    places_N = torch.from_numpy(np.concatenate([places for _, _, places in windows]))
    owner_N = torch.tensor([number for number, _, _ in windows])[rows_N]
    wanted_N = tokens_BT[rows_N, places_N]

    make = to_logits(model)
    if make is None:
        logits_NV = model(input_ids=tokens_BT[:, :-1], use_cache=False).logits[rows_N, places_N - 1]
        return owner_N, functional.cross_entropy(logits_NV.float(), wanted_N, reduction="none")
    # Logits only where there is a target, a part at a time: for a large vocabulary they outweigh the model.
    hidden_BTH = model.base_model(input_ids=tokens_BT[:, :-1], use_cache=False).last_hidden_state
    hidden_NH = hidden_BTH[rows_N, places_N - 1]
    part = max(1, LOGITS // model.get_output_embeddings().weight.shape[0])
    nats = [
        functional.cross_entropy(make(some_NH).float(), wanted, reduction="none")
        for some_NH, wanted in zip(hidden_NH.split(part), wanted_N.split(part), strict=True)
    ]
    return owner_N, torch.cat(nats)
