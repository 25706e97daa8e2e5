"""Nats against a plain forward pass over one document at a time."""

import pytest
import torch

from curricle.evaluation import likelihood
from curricle.evaluation.likelihood import score

ITEMS = [("", "x = 1\n"), ("Problem: 1 + 1\nSolution:\n", "1 + 1 = 2\nAnswer: 2\n"), ("é", "naïve ∑ text"), ("a", "")]


def plain(model, tokenizer, prompt, text):
    end = tokenizer.eos_token_id
    before = [end, *tokenizer.encode(prompt)]
    tokens = torch.tensor([[*before, *tokenizer.encode(text), end]])
    model.eval()
    with torch.no_grad():
        logp = model(tokens).logits.log_softmax(-1)[0]
    return sum(-logp[at - 1, tokens[0, at]].item() for at in range(len(before), tokens.shape[1]))


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_nats_equal_a_plain_forward_pass_whatever_the_batch(model, tokenizer, batch_tokens):
    found = score(model, tokenizer, ITEMS, context=128, batch_tokens=batch_tokens)
    for (prompt, text), one in zip(ITEMS, found, strict=True):
        assert one.nats == pytest.approx(plain(model, tokenizer, prompt, text), rel=1e-5)  # summed from float32
        assert one.target_tokens == len(text.encode()) + 1  # one token a byte here, and the end
        assert one.bytes == len(text.encode())


def test_logits_in_parts_and_logits_that_a_model_bends_change_nothing(llama, tokenizer, monkeypatch):
    whole = score(llama, tokenizer, ITEMS, context=128)
    monkeypatch.setattr(likelihood, "LOGITS", 257 * 5)
    assert [s.nats for s in score(llama, tokenizer, ITEMS, context=128)] == pytest.approx([s.nats for s in whole])
    monkeypatch.setattr(likelihood, "to_logits", lambda model: None)
    assert [s.nats for s in score(llama, tokenizer, ITEMS, context=128)] == pytest.approx([s.nats for s in whole])


def test_a_long_text_is_scored_in_windows_and_each_token_once(llama, tokenizer):
    text = "abcdefg" * 9
    (found,) = score(llama, tokenizer, [("pq", text)], context=16)
    document = [0, *tokenizer.encode("pq" + text), 0]
    by_hand = 0.0
    for start in range(0, len(document) - 1, 16):
        window = torch.tensor([document[start : start + 17]])
        logp = llama(window[:, :-1]).logits.log_softmax(-1)[0]
        targets = range(max(3 - start, 1), window.shape[1])
        by_hand += sum(-logp[at - 1, window[0, at]].item() for at in targets)
    assert found.target_tokens == len(text) + 1
    assert found.nats == pytest.approx(by_hand, rel=1e-5)


def test_a_prompt_longer_than_the_context_carries_no_loss(llama, tokenizer):
    (found,) = score(llama, tokenizer, [("p" * 50, "ab")], context=16)
    assert found.target_tokens == 3 and found.nats > 0


def test_a_uniform_model_needs_the_logarithm_of_its_vocabulary(llama, tokenizer):
    with torch.no_grad():
        llama.get_output_embeddings().weight.zero_()
    (found,) = score(llama, tokenizer, [("", "12345")], context=128)
    assert found.nats == pytest.approx(6 * torch.tensor(257.0).log().item(), rel=1e-6)
