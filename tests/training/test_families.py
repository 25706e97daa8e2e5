"""Any causal LM checkpoint goes in, is trained by the loop, and leaves as transformers reads it; families in which
packed documents would read each other are refused."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny_models import SHAPE

from curricle.execution import Execution
from curricle.running.preparation import make_plan
from curricle.shapes import Shape
from curricle.store import Store
from curricle.study import Model, Recipe, Refused
from curricle.studyfile import load_study
from curricle.tokens.sampler import Sampler
from curricle.tokens.shards import Shard, Supply
from curricle.training.checkpoint import complete, suffices
from curricle.training.loop import train
from curricle.training.model import architecture, begin, export, load, refuse_leaks
from curricle.training.origin import find, shape_of

PADDED = 320  # rows of the embeddings, for a tokenizer of 257
FAMILIES = {
    "llama": (hf.LlamaConfig, {}),
    "llama untied": (hf.LlamaConfig, {"tie_word_embeddings": False}),
    "qwen2 tied": (hf.Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (hf.Qwen3Config, {"head_dim": 16}),
    "gpt2": (hf.GPT2Config, {}),
    "olmo2": (hf.Olmo2Config, {}),
    "gpt_neox": (hf.GPTNeoXConfig, {}),
    "gemma2": (hf.Gemma2Config, {"head_dim": 8, "sliding_window": 16}),
}


@pytest.fixture(params=list(FAMILIES))
def checkpoint(request, tokenizer, tmp_path):
    """A tiny random checkpoint in bf16 with padded embeddings, its tokenizer beside it."""
    kind, changes = FAMILIES[request.param]
    torch.manual_seed(1)
    model = hf.AutoModelForCausalLM.from_config(kind(**{**SHAPE, "vocab_size": PADDED, **changes}))
    model.generation_config.max_new_tokens = 7
    model.bfloat16().save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def sampler() -> Sampler:
    tokens = np.random.default_rng(0).integers(1, 257, 4000).astype(np.uint16)
    tokens[::37] = 0
    supply = Supply([Shard(tokens, np.arange(40, 4001, 40).astype(np.uint64), None)])
    return Sampler({"s": supply}, [(8, {"s": 1.0})], row_tokens=64, seed=0)


def test_a_run_goes_on_without_the_weights_that_it_began_with_and_ends_as_if_it_had_read_them(
    checkpoint, tokenizer, tmp_path
):
    def leave(model, folder, out, **asked):
        recipe = Recipe(batch_tokens=128)
        list(train(model, sampler(), recipe, steps=4, evaluate_at=frozenset(), folder=tmp_path / folder, **asked))
        export(model, tokenizer, tmp_path / out)
        return {file.name: file.read_bytes() for file in (tmp_path / out).iterdir()}

    whole = leave(begin(checkpoint, None, 0), "whole", "whole-out")
    turns = iter(range(9))
    leave(begin(checkpoint, None, 0), "cut", "cut-out", asked_to_stop=lambda: next(turns) == 2)
    (state,) = complete(tmp_path / "cut" / "checkpoints")
    bare = architecture(checkpoint)
    assert state.name == "step-00000002" and all(p.is_meta for p in bare.parameters()) and suffices(state, bare)
    assert leave(bare, "cut", "out") == whole


def test_a_state_that_lacks_what_is_read_with_the_weights_does_not_suffice(tokenizer, tmp_path):
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**SHAPE, tie_word_embeddings=True))
    list(train(model, sampler(), Recipe(batch_tokens=128), steps=1, evaluate_at=frozenset(), folder=tmp_path))
    (state,) = complete(tmp_path / "checkpoints")
    assert suffices(state, model)
    model.model.register_buffer("learnt", torch.ones(1))
    assert not suffices(state, model), "a buffer that is saved with the weights"
    untied = hf.LlamaForCausalLM(hf.LlamaConfig(**SHAPE, tie_word_embeddings=False))
    assert not suffices(state, untied)


def test_a_checkpoint_is_trained_and_leaves_with_the_same_logits(checkpoint, tokenizer, tmp_path):
    model = begin(checkpoint, None, 0)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps = train(model, sampler(), Recipe(batch_tokens=128), steps=4, evaluate_at=frozenset(), folder=tmp_path / "run")
    assert all(np.isfinite(step.loss_nats) for step in steps)
    moved = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(moved) > len(before) / 2
    export(model, tokenizer, tmp_path / "out")
    tokens_BT = sampler().batch(0, 2).tokens_BT
    with torch.inference_mode():
        ours = model.eval()(input_ids=tokens_BT).logits
        theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(input_ids=tokens_BT).logits
    assert torch.equal(ours, theirs) and ours.shape[-1] == PADDED
    back, found = load(tmp_path / "out")
    assert (back.get_input_embeddings().weight is back.get_output_embeddings().weight) == tied
    assert back.generation_config.max_new_tokens == 7
    assert found.encode("ab\n") == tokenizer.encode("ab\n")
    assert all(t.dtype == torch.float32 for t in load_file(tmp_path / "out" / "model.safetensors").values())


def test_packed_rows_are_isolated(checkpoint):
    """Against each document alone, in every position."""
    model = load(checkpoint)[0]
    batch = sampler().batch(0, 1)
    starts = [*np.flatnonzero(batch.positions_BT[0].numpy() == 0).tolist(), 64]
    assert len(starts) > 2
    with torch.inference_mode():
        # Only without a cache: transformers takes restarting positions beside a cache for something else.
        settings = {"position_ids": batch.positions_BT, "attention_mask": None, "use_cache": False}
        packed = model(input_ids=batch.tokens_BT, **settings).logits[0]
        for start, stop in pairwise(starts):
            alone = model(input_ids=batch.tokens_BT[:, start:stop]).logits[0]
            assert torch.allclose(packed[start:stop], alone, atol=1e-4, rtol=1e-4)


def test_how_a_batch_is_cut_leaves_a_run_as_it_is_in_a_family_with_dropout(tmp_path):
    losses = []
    for micro, how in ((None, Execution()), (64, Execution()), (None, Execution(micro_batch_tokens=64))):
        torch.manual_seed(1)
        model = hf.AutoModelForCausalLM.from_config(hf.GPT2Config(**SHAPE))
        assert model.config.resid_pdrop > 0
        recipe, folder = Recipe(batch_tokens=128, micro_batch_tokens=micro), tmp_path / str(len(losses))
        steps = train(model, sampler(), recipe, steps=4, evaluate_at=frozenset(), folder=folder, execution=how)
        losses.append([step.loss_nats for step in steps])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[2] == losses[1]


@pytest.mark.parametrize("family", ["Falcon", "OPT", "Bloom", "Mpt"])
def test_a_family_in_which_packed_documents_read_each_other_is_refused(family, tokenizer, tmp_path):
    torch.manual_seed(1)
    model = hf.AutoModelForCausalLM.from_config(getattr(hf, f"{family}Config")(**SHAPE))
    with pytest.raises(Refused, match="documents packed into one row read each other"):
        refuse_leaks(model, 0, "it")


@pytest.mark.parametrize("family", ["Bloom", "Mpt", "Mamba"])
def test_a_family_without_positions_is_refused_before_its_weights_are_read(family, study_file, tmp_path):
    config = getattr(hf, f"{family}Config")(**SHAPE)
    config.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(b"")
    study = load_study(study_file, ["model={checkpoint: checkpoint, context: 64}", "tokenizer={path: checkpoint}"])
    with pytest.raises(Refused, match="takes no positions"):
        find(study, Store(tmp_path / "store"), False)


BEGINS = ["model={checkpoint: checkpoint, context: 64}", "tokenizer={path: checkpoint}"]


def test_a_whole_checkpoint_of_any_family_is_taken_and_one_with_a_tensor_less_is_not(checkpoint, study_file, tmp_path):
    study, store = load_study(study_file, BEGINS), Store(tmp_path / "store")
    assert find(study, store, False).shape.vocabulary == PADDED
    weights = load_file(checkpoint / "model.safetensors")
    lacking = next(name for name, tensor in weights.items() if ".1." in name and tensor.ndim == 2)
    save_file({n: t for n, t in weights.items() if n != lacking}, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(Refused, match=f"not a whole causal language model: its weights lack {lacking}"):
        find(study, store, False)


def test_weights_under_a_family_s_older_names_are_known(study_file, tokenizer, tmp_path):
    model = hf.AutoModelForCausalLM.from_config(hf.GPT2Config(**SHAPE))
    model.save_pretrained(tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "model.safetensors"
    save_file({n.removeprefix("transformer."): t for n, t in load_file(file).items()}, file, {"format": "pt"})
    assert find(load_study(study_file, BEGINS), Store(tmp_path / "store"), False)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("cut", r"model-00002-of-.*: cut short or damaged \(.*\); fetch it anew"),
        ("taken", r"model-00002-of-.*: not there, and model\.safetensors\.index\.json beside it names it"),
        ("unindexed", r"holds no model\.safetensors and no model\.safetensors\.index\.json"),
        ("emptied", r"index\.json is not readable: "),
        ("widened", r"do not belong together: .* is 32×64 where config\.json makes it 32×65"),
    ],
)
def test_weights_that_are_not_whole_are_refused_when_the_study_is_planned(
    damage, said, llama, tokenizer, study_file, tmp_path, capfd
):
    folder = tmp_path / "checkpoint"
    llama.float().save_pretrained(folder, max_shard_size="40KB")
    tokenizer.save_pretrained(folder)
    index, parts = folder / "model.safetensors.index.json", sorted(folder.glob("model-*.safetensors"))
    study = load_study(study_file, BEGINS)
    assert len(parts) > 2 and make_plan(study, tmp_path / "store")
    if damage == "cut":
        parts[1].write_bytes(parts[1].read_bytes()[:-1])
    elif damage == "taken":
        parts[1].unlink()
    elif damage == "unindexed":
        index.unlink()
    elif damage == "emptied":
        index.write_text("[]")
    else:
        config = folder / "config.json"
        config.write_text(config.read_text().replace('"intermediate_size": 64', '"intermediate_size": 65'))
    capfd.readouterr()
    with pytest.raises(Refused, match=f"^model\\.checkpoint: .*{said}"):
        make_plan(study, tmp_path / "store")
    assert "LOAD REPORT" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("family", ["llama", "llama untied", "qwen2 tied", "qwen3", "gpt2", "gpt_neox"])
def test_the_shape_is_that_of_the_family(family):
    kind, changes = FAMILIES[family]
    stated = {**SHAPE, **changes}
    if family.startswith("gpt"):  # whose configurations have no such fields, and would keep them unread
        del stated["num_key_value_heads"]
    if family == "gpt2":
        del stated["intermediate_size"]
    config = kind(**stated)
    shape = shape_of(config)
    with torch.device("meta"):
        real = sum(p.numel() for p in hf.AutoModelForCausalLM.from_config(config).parameters() if p.ndim == 2)
    positions = config.n_positions * 32 if family == "gpt2" else 0
    assert shape.matrix_parameters() + 257 * 32 * (1 if shape.tied else 2) + positions == real


def test_presets_have_no_rate_that_was_decayed():
    assert Model(checkpoint="x", decayed=False).decayed is False
    with pytest.raises(ValueError, match="decayed: only a checkpoint"):
        Model(preset="1m", decayed=True)


# ---- GGUF -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def gguf_file(tmp_path):
    """A tiny Llama with a byte tokenizer, written as llama.cpp would."""
    gguf = pytest.importorskip("gguf", reason="the gguf extra is not installed")
    pytest.importorskip("accelerate", reason="the gguf extra is not installed")
    from tokenizers import pre_tokenizers

    words = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_vocab_size(len(words))
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3] + [1] * (len(words) - 1))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    generator = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", (generator.standard_normal(shape) * 0.3).astype(np.float32))

    tensor("token_embd", len(words), 32)
    tensor("output_norm", 32)
    for layer in range(2):
        for name, shape in {
            "attn_norm": (32,), "ffn_norm": (32,), "attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32),
            "attn_output": (32, 32), "ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64),
        }.items():  # fmt: skip
            tensor(f"blk.{layer}.{name}", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "tiny.gguf"


def test_a_gguf_file_is_a_checkpoint_of_a_study_and_leaves_as_safetensors(gguf_file, study_file, tmp_path):
    import yaml

    from curricle.running.models import export as hand_out

    fields = yaml.safe_load(study_file.read_text())
    del fields["tokenizer"]
    fields["model"] = {"checkpoint": "tiny.gguf", "context": 64, "decayed": True}
    study_file.write_text(yaml.safe_dump(fields))
    study, store = load_study(study_file), Store(tmp_path / "store")
    origin = find(study, store, False)
    assert origin.shape == Shape(2, 32, 64, 4, 2, 258, True) and origin.licence == "mit"
    assert (origin.tokenizer / "tokenizer.json").exists() and not list(origin.tokenizer.glob("*.safetensors"))
    assert origin.describe(study.model)["decayed"] is True
    plan = make_plan(study, store)
    undecayed = load_study(study_file, ["model.decayed=false"])
    assert list(make_plan(undecayed, store).nodes) == list(plan.nodes), "whether the rate was decayed is no identity"
    hand_out(store, str(gguf_file), tmp_path / "out")
    tokens_BT = torch.arange(1, 20)[None]
    with torch.inference_mode():
        ours = load(gguf_file)[0](input_ids=tokens_BT).logits
        theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(input_ids=tokens_BT).logits
    assert torch.equal(ours, theirs)
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()
    gguf_file.write_bytes(gguf_file.read_bytes()[:-4] + b"\0\0\0\0")
    assert find(study, store, False).fingerprint != origin.fingerprint


def test_a_gguf_file_that_is_not_whole_is_refused_before_anything_is_made_of_it(gguf_file, study_file, tmp_path):
    """Cut at every kind of place: before and in the header, in the tokens, between and in the tensors."""
    whole, said = gguf_file.read_bytes(), r"tiny\.gguf: cut short, damaged, or no GGUF file \(.+\); fetch it anew$"
    study = load_study(study_file, ["model={checkpoint: tiny.gguf, context: 64}", "tokenizer=null"])
    lengths = [0, 3, 4, 7, 8, 23, 24, *range(25, len(whole), len(whole) // 50), len(whole) - 1]
    for content in (*(whole[:length] for length in lengths), b"PK\3\4" + whole[4:], whole[:4] + b"\x63" + whole[5:]):
        gguf_file.write_bytes(content)
        with pytest.raises(Refused, match=f"^model\\.checkpoint: .*{said}"):
            find(study, Store(tmp_path / "store"), False)
        with pytest.raises(Refused, match=said):
            load(gguf_file)
    assert not list((tmp_path / "store").rglob("config.json"))


def test_a_tokenizer_that_is_not_the_gguf_file_s_is_refused(gguf_file, study_file, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "other")
    changes = ["model={checkpoint: tiny.gguf, context: 64}", "tokenizer={path: other}"]
    with pytest.raises(Refused, match=r"tokenizer\.path: the content of .* weights know only their own tokens"):
        make_plan(load_study(study_file, changes), tmp_path / "store")


def test_a_tokenizer_with_more_tokens_than_the_weights_know_is_refused(study_file, llama, tokenizer, tmp_path):
    from transformers import AutoTokenizer

    llama.float().save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    wider = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    wider.add_tokens([f"<{n}>" for n in range(9)])
    wider.save_pretrained(tmp_path / "checkpoint")
    changes = ["model={checkpoint: checkpoint, context: 64}", "tokenizer={path: checkpoint}"]
    with pytest.raises(Refused, match=r"writes tokens up to 265, and its weights know 257"):
        make_plan(load_study(study_file, changes), tmp_path / "store")
