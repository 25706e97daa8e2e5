"""Batched greedy generation against `model.generate`, one prompt at a time."""

import pytest
import torch

from curricle.evaluation.generation import generate
from curricle.study import Refused

PROMPTS = [f"{'ab' * (n % 7)}{n * 37} + {n}\n" for n in range(24)]


def one_by_one(model, tokenizer, prompt, max_new_tokens):
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]])
    model.eval()
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False
        )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def likelier_end(model, by):
    """A random model hardly ever ends; with a larger output vector for the end it does, at differing places."""
    with torch.no_grad():
        model.get_output_embeddings().weight[0] *= by
    return model


@pytest.mark.parametrize("end", [1.0, 3.0])
def test_batches_give_what_one_by_one_generation_gives(model, tokenizer, end):
    model = likelier_end(model, end)
    expected = [one_by_one(model, tokenizer, prompt, 24) for prompt in PROMPTS]
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=24) == expected
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=24, batch_tokens=150) == expected
    lengths = {len(text) for text in expected}
    assert len(set(expected)) > 10 and (end == 1.0 or len(lengths) > 5), "outputs too alike for this test to mean much"


def test_an_output_ends_before_the_first_stop_string(llama, tokenizer):
    whole = generate(llama, tokenizer, PROMPTS, max_new_tokens=40)
    stops = [text[5:7] for text in whole if len(text) > 8 and "\ufffd" not in text[5:7]][:3]
    assert stops
    stopped = generate(llama, tokenizer, PROMPTS, max_new_tokens=40, stop=stops)
    cut = [text[: min([at for s in stops if (at := text.find(s)) >= 0], default=len(text))] for text in whole]
    assert stopped == cut and stopped != whole


def test_of_a_prompt_that_is_too_long_the_first_tokens_are_dropped(llama, tokenizer):
    long, room = "x1+" * 100, 128 - 10 - 1
    assert generate(llama, tokenizer, [long], max_new_tokens=10) == generate(
        llama, tokenizer, [long[-room:]], max_new_tokens=10
    )


def test_an_answer_that_leaves_no_room_for_a_prompt_is_refused(llama, tokenizer):
    with pytest.raises(Refused, match=r"max_new_tokens: 128 leaves no room in a context of 128"):
        generate(llama, tokenizer, ["a"], max_new_tokens=128)


def test_no_prompts_give_no_outputs(llama, tokenizer):
    assert generate(llama, tokenizer, [], max_new_tokens=4) == []
