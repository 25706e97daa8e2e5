"""The loss of a part of a batch, summed over its targets, without ever holding all logits.

For a vocabulary of 100k, logits in float32 take more memory than the model's layers. Where they would be large, the
output matrix is applied to a part of the targets at a time, and each part's gradients are taken at once, while its
logits are at hand (the idea of Liger's fused loss, arXiv 2410.10989): nothing is held and nothing is worked out twice.

Letters: B rows, T tokens in a row, N targets, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

WHOLE = 2**25  # entries of the widest matrix of logits that is held: 128 MB in float32


_BENDS: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def bends_logits(model: PreTrainedModel) -> bool:
    """Whether the model does more to its logits than multiply by the output matrix (Gemma 2, Cohere, Granite). Tried
    once for each model, on two tokens; a setting's name alone tells where the weights are so small that rounding hides
    what it does. It is asked before a model is cut over ranks."""
    if model not in _BENDS:
        settings = ("final_logit_softcapping", "logit_scale", "logits_scaling")
        config = model.config.get_text_config()
        named = any(getattr(config, name, None) is not None for name in settings)
        _BENDS[model] = named or _seen_to_bend(model)
    return _BENDS[model]


def note_bends(model: PreTrainedModel, bends: bool | None) -> None:
    """What was seen of this model before, where that is known: it may have no weights yet."""
    if bends is not None:
        _BENDS[model] = bends


@torch.no_grad()
def _seen_to_bend(model: PreTrainedModel) -> bool:
    tokens_BT = torch.tensor([[0, 1]], device=model.device)
    training = model.training
    model.eval()
    logits_BTV = model(input_ids=tokens_BT, use_cache=False).logits
    hidden_BTH = model.base_model(input_ids=tokens_BT, use_cache=False).last_hidden_state
    plain_BTV = model.get_output_embeddings()(hidden_BTH)
    model.train(training)
    scale = float(plain_BTV.float().std())
    return not float((logits_BTV - plain_BTV).float().abs().max()) <= 1e-5 * scale


def _capped(config: Any, logits: torch.Tensor) -> torch.Tensor:
    cap = config.final_logit_softcapping
    return logits if cap is None else torch.tanh(logits / cap) * cap


# What families of transformers do to their logits, by the model type of their text's config. Another family that bends
# them is taken as a whole: a setting's name does not say what is done with it.
BENT: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    **dict.fromkeys(("gemma2", "gemma3_text"), _capped),
    **dict.fromkeys(("cohere", "cohere2"), lambda config, logits: logits * config.logit_scale),
    "granite": lambda config, logits: logits / config.logits_scaling,
}


def to_logits(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What makes logits of hidden states, for some of them at a time; None where only the model itself can."""
    head = model.get_output_embeddings()
    if not bends_logits(model):
        return head
    config = model.config.get_text_config()
    bend = BENT.get(config.model_type)
    return None if bend is None else lambda hidden: bend(config, head(hidden))


class Learner(nn.Module):
    """A causal language model with its loss, as one module: the unit that is sharded over ranks."""

    def __init__(self, model: PreTrainedModel, whole: int = WHOLE):
        super().__init__()
        self.model = model
        self.whole = whole
        self.bends = bends_logits(model)

    def forward(self, tokens_BT: torch.Tensor, positions_BT: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
        """Nats summed over the labels that are not −100, in float32."""
        inputs = {"input_ids": tokens_BT, "position_ids": positions_BT, "attention_mask": None, "use_cache": False}
        head, logits = self.model.get_output_embeddings(), to_logits(self.model)
        width = head.weight.shape[0]
        if logits is None or tokens_BT.numel() * width <= self.whole:
            logits_BTV = self.model(**inputs).logits
            return F.cross_entropy(logits_BTV.flatten(0, 1).float(), labels_BT.flatten(), reduction="sum")
        hidden_BTH = self.model.base_model(**inputs).last_hidden_state
        asked_BT = labels_BT != -100
        hidden_NH, labels_N = hidden_BTH[asked_BT], labels_BT[asked_BT]
        part = max(1, self.whole // width)
        if self.bends or getattr(head, "bias", None) is not None:
            parts = zip(hidden_NH.split(part), labels_N.split(part), strict=True)
            return torch.stack(
                [checkpoint(_nats, logits, some, asked, use_reentrant=False) for some, asked in parts]
            ).sum()
        return SummedNats.apply(hidden_NH, head.weight, labels_N, part)


def _nats(
    logits: Callable[[torch.Tensor], torch.Tensor], hidden_NH: torch.Tensor, labels_N: torch.Tensor
) -> torch.Tensor:
    return F.cross_entropy(logits(hidden_NH).float(), labels_N, reduction="sum")


class SummedNats(torch.autograd.Function):
    """Cross-entropy of `hidden_NH @ weight_VH.T`, summed, `part` targets at a time."""

    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, labels_N, part):
        kind = hidden_NH.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_NH.dtype
        hidden, weight = hidden_NH.to(dtype), weight_VH.to(dtype)
        nats = torch.zeros((), device=hidden.device)
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(hidden), part):
                here = slice(start, start + part)
                logits = (hidden[here] @ weight.T).float()
                chosen = labels_N[here, None]
                total = logits.logsumexp(-1, keepdim=True)
                nats += (total - logits.gather(1, chosen)).sum()
                slope = logits.sub_(total).exp_().scatter_add_(1, chosen, -torch.ones_like(total)).to(dtype)
                to_hidden[here] = slope @ weight
                to_weight += slope.T @ hidden[here]
        ctx.save_for_backward(to_hidden.to(hidden_NH.dtype), to_weight.to(weight_VH.dtype))
        return nats

    @staticmethod
    def backward(ctx, slope):
        to_hidden, to_weight = ctx.saved_tensors
        return to_hidden * slope, to_weight * slope, None, None
