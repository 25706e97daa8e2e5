"""Where models are found, and what is no model."""

import json
import os
import pkgutil

import pytest
import torch
import transformers
from tiny_models import SHAPE
from verbs import curricle

from curricle.store import Store
from curricle.study import Refused
from curricle.studyfile import load_study
from curricle.training import origin
from curricle.training.distribution import Ranks, _copy
from curricle.training.loss import Learner, bends_logits, to_logits
from curricle.training.model import begin, export, load


def test_a_saved_model_loads_with_its_tokenizer_as_it_was(llama, tokenizer, tmp_path):
    llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, found = load(tmp_path, dtype=torch.float64)
    assert not model.training and found.encode("ab\n") == tokenizer.encode("ab\n")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), llama.parameters(), strict=True))
    assert next(load(tmp_path)[0].parameters()).dtype == torch.float32


def test_what_is_no_checkpoint_is_refused_with_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    for path, message in {
        tmp_path: "the folder has no config.json",
        tmp_path / "notes.txt": "a file, and no .gguf",
        tmp_path / "gone": "no such folder",
        tmp_path / "gone.gguf": "no such file",
        tmp_path / "broken": "not a checkpoint that transformers reads",
    }.items():
        with pytest.raises(Refused, match=message):
            load(path)


def test_pickled_weights_are_not_read(llama, tokenizer, tmp_path):
    llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(llama.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(Refused, match="not a checkpoint that transformers reads"):
        load(tmp_path)


def test_weights_that_lack_a_tensor_are_refused_and_not_drawn_at_random(llama, tokenizer, tmp_path):
    weights = llama.state_dict()
    down = "model.layers.1.mlp.down_proj.weight"
    for lacking, kept in {"lm_head.weight": weights.keys() - {"lm_head.weight"}, down: weights.keys() - {down}}.items():
        folder = tmp_path / lacking
        llama.save_pretrained(folder, state_dict={name: weights[name] for name in kept})
        tokenizer.save_pretrained(folder)
        with pytest.raises(Refused, match=f"not a whole causal language model: its weights lack {lacking}"):
            load(folder)


def say_tied(folder, tied):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": tied}))


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "GPT2"])
def test_a_head_that_differs_from_the_embedding_stays_though_the_config_says_that_they_are_one(
    kind, tokenizer, tmp_path
):
    """Wherever it goes: into a run, into the copy that many ranks export, out to a program that heeds the config."""
    torch.manual_seed(1)
    config = getattr(transformers, f"{kind}Config")(**SHAPE, tie_word_embeddings=False)
    saved = transformers.AutoModelForCausalLM.from_config(config)
    saved.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    say_tied(tmp_path / "saved", True)
    loaded = begin(tmp_path / "saved", None, 0)
    copy = _copy(loaded, {name: tensor.clone() for name, tensor in loaded.state_dict().items()})
    export(copy, tokenizer, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    for model in (loaded, copy, load(tmp_path / "out")[0]):
        assert torch.equal(model.get_output_embeddings().weight, saved.get_output_embeddings().weight)
        assert torch.equal(model.get_input_embeddings().weight, saved.get_input_embeddings().weight)


def test_a_head_that_was_not_saved_is_not_drawn_where_the_config_says_that_it_is_one_of_its_own(
    tokenizer, study_file, tmp_path
):
    config = transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    study = load_study(study_file, ["model={checkpoint: checkpoint, context: 64}", "tokenizer=null"])
    assert origin.find(study, Store(tmp_path / "store"), False).shape.tied
    say_tied(tmp_path / "checkpoint", False)
    said = "its weights lack lm_head.weight; where its embedding is its head, config.json must set tie_word_embeddings"
    with pytest.raises(Refused, match=f"^model.checkpoint: .*{said}"):
        origin.find(study, Store(tmp_path / "store"), False)
    with pytest.raises(Refused, match=said):
        load(tmp_path / "checkpoint")


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_by_name_before_anything_is_made_of_them(
    llama, tokenizer, tmp_path, number
):
    with torch.no_grad():
        llama.model.layers[1].mlp.down_proj.weight[3, 2] = number
    llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for read in (load, lambda path: begin(path, None, 0)):
        with pytest.raises(
            Refused, match=r"weights are no numbers \(NaN or infinite\) in model.layers.1.mlp.down_proj"
        ):
            read(tmp_path)


def test_a_checkpoint_without_a_tokenizer_is_refused_with_the_files_that_it_lacks(
    llama, tokenizer, tmp_path, study_file
):
    folder = tmp_path / "checkpoint"
    llama.float().save_pretrained(folder)
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "2\n#### 2"}) + "\n")
    verbs = {
        "evaluate": (folder, "--benchmark", "gsm8k=gsm8k.jsonl"),
        "plan": (study_file, "--set", "model={checkpoint: checkpoint, context: 64}", "--set", "tokenizer=null"),
    }
    for damage, said in {
        None: "holds no tokenizer: there is no tokenizer.json; put it there",
        '{"model": {}}': "holds no tokenizer that transformers can read: ",
    }.items():
        if damage is not None:
            tokenizer.save_pretrained(folder)
            (folder / "tokenizer.json").write_text(damage)
        for verb, asked in verbs.items():
            shown = curricle(verb, *asked, cwd=tmp_path)
            wrong = [line for line in shown.stderr.splitlines() if line.startswith("error: ")]
            assert shown.returncode == 2 and said in wrong[0], shown.stderr
            assert shown.stderr.splitlines()[-1] == wrong[0], "one line"


def test_logits_that_are_no_numbers_are_not_taken_for_documents_that_read_each_other(llama, tokenizer, tmp_path):
    with torch.no_grad():
        llama.lm_head.weight.fill_(3e38)
    llama.float().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(Refused, match="its logits are no numbers"):
        begin(tmp_path, None, 0)
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "2\n#### 2"}) + "\n")
    asked = ("--benchmark", "gsm8k=gsm8k.jsonl", "--shots", 0, "--max-new-tokens", 2)
    shown = curricle("evaluate", tmp_path, *asked, cwd=tmp_path)
    assert shown.returncode == 2 and "its logits are no numbers" in shown.stderr and not shown.stdout


@pytest.mark.parametrize(
    ("asked", "by"),
    [
        (("evaluate", "m", "--benchmark=gsm8k=gsm8k.jsonl", "--shots=0", "--max-new-tokens=2"), "scoring.evaluate"),
        (("value", "m", "--target=gsm8k=gsm8k.jsonl", "--source=a=a.txt"), "valuation.by_gradients"),
        (("value", "m", "--target=gsm8k=gsm8k.jsonl", "--source=a=a.txt", "--method=stand-in", "--better=level"),
         "valuation.by_stand_ins"),
    ],
    ids=["evaluate", "value", "value beside a better model"],
)  # fmt: skip
def test_the_verbs_work_with_models_on_the_device_of_this_process(llama, tokenizer, tmp_path, monkeypatch, asked, by):
    for name in ("m", "level"):
        llama.float().save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        torch.nn.init.zeros_(llama.lm_head.weight)  # of the second: all tokens are alike to it
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "2\n#### 2"}) + "\n")
    (tmp_path / "a.txt").write_text("one and one is two")
    device, moved, given = torch.device("cpu", 0), [], []  # the CPU by a name that nobody else says
    monkeypatch.setattr(Ranks, "alone", classmethod(lambda cls: cls(device=device)))
    place = f"curricle.evaluation.{by}"
    work, to = pkgutil.resolve_name(place), transformers.PreTrainedModel.to

    def noted_move(model, where):
        moved.append((id(model), where))
        return to(model, where)

    def noted_work(model, *rest, **settings):
        given.extend([model, *(settings.get("better") or ())[:1]])
        return work(model, *rest, **settings)

    monkeypatch.setattr(transformers.PreTrainedModel, "to", noted_move)
    monkeypatch.setattr(place, noted_work)
    shown = curricle(*asked, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert moved == [(id(model), device) for model in given] and len(given) == 1 + ("--better=level" in asked)


def test_a_mixture_of_experts_is_refused_before_anything_is_reckoned_for_it(tokenizer, tmp_path):
    config = transformers.Qwen3MoeConfig(**SHAPE, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(Refused, match=r"model\.checkpoint: .* 'qwen3_moe' is a mixture of experts \(num_experts = 4\)"):
        origin._config(str(tmp_path), "here")


def test_weights_that_were_cut_off_are_refused(llama, tokenizer, tmp_path):
    llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(Refused, match="not a checkpoint that transformers reads"):
        load(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_a_copy_is_the_model_with_what_it_generates_by_and_draws_nothing(tied):
    config = transformers.Qwen2Config(**SHAPE, tie_word_embeddings=tied)
    model = transformers.Qwen2ForCausalLM(config).eval()
    model.generation_config.max_new_tokens, model.generation_config.eos_token_id = 7, [0, 3]
    state = torch.get_rng_state()
    copy = _copy(model, {name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert torch.equal(torch.get_rng_state(), state)
    tokens = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(copy(tokens).logits, model(tokens).logits)
    assert (copy.lm_head.weight is copy.model.embed_tokens.weight) == tied
    assert copy.generation_config.max_new_tokens == 7 and copy.generation_config.eos_token_id == [0, 3]


def test_a_model_that_bends_its_logits_is_known_by_what_it_does(llama):
    assert not bends_logits(llama)

    class Bent(transformers.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            found = super().forward(*args, **kwargs)
            found.logits = torch.tanh(found.logits)
            return found

    assert bends_logits(Bent(transformers.LlamaConfig(**SHAPE)))
    nested = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**{**SHAPE, "head_dim": 8}))
    assert bends_logits(nested)


@pytest.mark.parametrize(
    ("family", "bent"),
    [("Gemma2", {"final_logit_softcapping": 0.05}), ("Gemma3Text", {"final_logit_softcapping": 0.05}),
     ("Cohere", {"logit_scale": 0.3}), ("Cohere2", {"logit_scale": 0.3}), ("Granite", {"logits_scaling": 3.0})],
)  # fmt: skip
def test_logits_that_a_family_bends_are_never_held_whole_and_give_the_same_loss_and_gradients(family, bent):
    shape = {**SHAPE, "head_dim": 8} if family.startswith("Gemma") else SHAPE
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**shape, **bent)
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config)
    assert bends_logits(model) and to_logits(model) is not None
    tokens_BT = torch.randint(1, config.vocab_size, (2, 9))
    labels_BT = tokens_BT.roll(-1, 1).masked_fill(torch.rand(2, 9) < 0.3, -100)
    found, widest = [], []
    for whole in (2**25, 4 * config.vocab_size):
        model.zero_grad()
        with pytest.MonkeyPatch.context() as patched:
            head = model.get_output_embeddings()
            make = head.forward
            patched.setattr(head, "forward", lambda x, make=make: (widest.append(x.shape[:-1].numel()), make(x))[1])
            loss = Learner(model, whole)(tokens_BT, torch.arange(9).expand(2, 9), labels_BT)
            loss.backward()
        found.append((float(loss), torch.cat([p.grad.flatten() for p in model.parameters()])))
    (loss, gradient), (other, its) = found
    assert other == pytest.approx(loss, rel=1e-6) and torch.allclose(gradient, its, atol=1e-5)
    assert widest[0] == 18 and max(widest[1:]) <= 4


def test_weights_are_hashed_once(tmp_path, monkeypatch):
    file, store = tmp_path / "model.safetensors", Store(tmp_path / "store")
    file.write_bytes(b"weights")
    first = origin._digest([], [file], store)
    with monkeypatch.context() as patched:
        patched.setattr(origin.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert origin._digest([], [file], store) == first
    file.write_bytes(b"others!")
    os.utime(file, ns=(1, 1))
    assert origin._digest([], [file], store) != first
