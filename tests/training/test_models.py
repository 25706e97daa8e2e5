"""Where models are found, and what is no model."""

import pytest
import torch

from curricle.study import Refused
from curricle.training.model import load


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


def test_weights_that_were_cut_off_are_refused(llama, tokenizer, tmp_path):
    llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(Refused, match="not a checkpoint that transformers reads"):
        load(tmp_path)
