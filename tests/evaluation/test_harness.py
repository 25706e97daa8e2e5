"""lm-evaluation-harness reads what is exported, and on the same items says what we say.

Two things differ by design and are accounted for here, exactly. It begins a text with a prefix token that the caller
chooses, where ours is always the end-of-document token: `prefix_token_id` and the prompts below name that one. And it
does not score the token that closes a document, which ours does: `closing` takes it off. Texts fit into one
window; past it the harness lets its last window look back further than ours.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import torch
import yaml
from tiny_models import END

from curricle.evaluation.generation import generate
from curricle.evaluation.likelihood import score
from curricle.training.model import export, load

pytestmark = pytest.mark.slow

TEXTS = ["def f(x):\n    return x + 1\n", "Ein Satz mit Umlauten: äöü.", "2 + 2 = 4", "Let $x^2 = 2$. " * 6]
QUESTIONS = [f"What is {n} + {n + 1}?\nAnswer:" for n in range(12)]
CHOICES = [[f" {n + k}" for k in range(4)] for n in range(12)]
NEW_TOKENS = 8
# Both add up float32 losses of up to a hundred tokens, in batches of other widths: sums agree to some 1e-6 of
# themselves. A token more or less, or another prefix, moves these texts by more than 1e-2.
RELATIVE = 1e-5

TASKS = {
    "texts": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "choices": {
        "output_type": "multiple_choice", "doc_to_text": END + "{{question}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}", "target_delimiter": "", "metric_list": [{"metric": "acc"}],
    },
    "answers": {
        "output_type": "generate_until", "doc_to_text": END + "{{question}}", "doc_to_target": "{{ours}}",
        "target_delimiter": "", "metric_list": [{"metric": "exact_match"}],
        "generation_kwargs": {"until": ["\nProblem:"], "max_gen_toks": NEW_TOKENS, "do_sample": False},
    },
}  # fmt: skip


def closing(model, tokenizer, texts: list[str]) -> list[float]:
    """Nats of the token that closes each text."""
    return [s.nats for s in score(model, tokenizer, [(text, "") for text in texts], context=128)]


def test_the_harness_agrees_on_bits_per_byte_choices_and_answers(llama, tokenizer, tmp_path):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install 'curricle[harness]'")
    export(llama.float(), tokenizer, tmp_path / "model")
    model, own = load(tmp_path / "model")
    outputs = generate(model, own, QUESTIONS, max_new_tokens=NEW_TOKENS, stop=("\nProblem:",))

    scored = score(model, own, [("", text) for text in TEXTS], context=128)
    nats = sum(s.nats for s in scored) - sum(closing(model, own, TEXTS))
    bits_per_byte = nats / math.log(2) / sum(s.bytes for s in scored)
    pairs = [(question, choice) for question, four in zip(QUESTIONS, CHOICES, strict=True) for choice in four]
    ends = closing(model, own, [question + choice for question, choice in pairs])
    likely = torch.tensor([s.nats - end for s, end in zip(score(model, own, pairs, context=128), ends, strict=True)])
    best = likely.reshape(-1, 4).argmin(1).tolist()
    answers = [pick if n % 3 else (pick + 1) % 4 for n, pick in enumerate(best)]  # so that a third are wrong
    accuracy = sum(a == b for a, b in zip(best, answers, strict=True)) / len(best)

    rows = {
        "texts": [{"text": text} for text in TEXTS],
        "choices": [
            {"question": q, "choices": c, "answer": a} for q, c, a in zip(QUESTIONS, CHOICES, answers, strict=True)
        ],
        "answers": [{"question": q, "ours": output} for q, output in zip(QUESTIONS, outputs, strict=True)],
    }
    (tmp_path / "tasks").mkdir()
    for name, task in TASKS.items():
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        fields = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
        (tmp_path / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump({**fields, "test_split": "test", **task}))
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "4"]
    command += ["--model_args", f"pretrained={tmp_path / 'model'},dtype=float32,prefix_token_id={own.eos_token_id}"]
    command += ["--tasks", ",".join(TASKS), "--include_path", str(tmp_path / "tasks")]
    command += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=offline)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(file.read_text())["results"]
    assert results["texts"]["bits_per_byte,none"] == pytest.approx(bits_per_byte, rel=RELATIVE)
    assert results["choices"]["acc,none"] == pytest.approx(accuracy, abs=1e-9) and 0.5 < accuracy < 0.8
    (samples,) = (tmp_path / "out").rglob("samples_answers_*.jsonl")
    theirs = {r["doc"]["question"]: r["resps"][0][0] for r in map(json.loads, samples.read_text().splitlines())}
    assert [theirs[question] for question in QUESTIONS] == outputs
