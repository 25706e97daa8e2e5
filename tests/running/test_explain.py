"""A step's documents are those it was trained on, and the store alone is enough to say which."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_study import tiny, write_study

from curricle.corpus import catalogue as corpora
from curricle.running import runner
from curricle.running.explain import documents_of, explain
from curricle.running.preparation import make_plan, prepare, sampler_for
from curricle.running.recall import recall
from curricle.running.upkeep import remembered
from curricle.store import Store
from curricle.study import Refused
from curricle.studyfile import load_study
from curricle.tokens.tokenizer import load as load_tokenizer

MIXED = {"mixture": {"code": 0.5, "algebra": 0.5}, "budget_tokens": 2048}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The store of a study that was run, moved elsewhere; the study, its corpus and its results are gone."""
    folder = tmp_path_factory.mktemp("explain")
    fields = tiny(strategies={"mixed": ["mixed", "instruct"], "from scratch": ["math", "instruct"]})
    fields["stages"] = {"mixed": MIXED, **{n: fields["stages"][n] for n in ("math", "instruct")}}
    (folder / "study").mkdir()
    file = write_study(folder / "study", fields)
    plan = make_plan(load_study(file), folder / "store")
    runner.run(plan, store=folder / "store", out=folder / "out")
    shutil.move(folder / "store", folder / "moved")
    shutil.rmtree(folder / "study")
    shutil.rmtree(folder / "out")
    return Store(folder / "moved"), plan


def run_of(plan, stage: str, strategy: str) -> str:
    return next(run for run in plan.paths[strategy, 0] if plan.nodes[run].stage == stage)


def test_every_passage_stands_in_the_document_that_is_named(alone):
    store, plan = alone
    for run, node in plan.nodes.items():
        for step in (1, node.steps):
            found = explain(store, run, step)
            prepared, again = recall(store, remembered(store, run), run)
            assert again == node
            assert {p.row for p in found.passages} == set(range(found.rows))
            for p in found.passages:
                document = documents_of(prepared, p.source, node.seed, [p.document])[p.document]
                assert document.id == p.id and p.text in document.whole
                assert p.where == (document.group if p.source == "code" else "")


def test_the_rows_are_the_ones_whose_loss_was_noted(alone):
    """The loss of the model before training, on the batch that is explained, is what training wrote down."""
    from curricle.training.model import build

    store, plan = alone
    run = run_of(plan, "mixed", "mixed")
    prepared, node = recall(store, remembered(store, run), run)
    tokenizer = load_tokenizer(prepared.tokenizer)
    model = build(
        prepared.catalogue.shape, vocabulary=prepared.catalogue.vocabulary, context=node.context,
        delimiter=tokenizer.eos_token_id, seed=node.seed,
    )  # fmt: skip
    batch = sampler_for(prepared, node).batch(0, node.recipe.batch_tokens // node.context)
    with torch.inference_mode():
        logits = model(input_ids=batch.tokens_BT, position_ids=batch.positions_BT, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels_BT.flatten())
    assert explain(store, run, 1).metrics["loss_nats"] == pytest.approx(float(loss), rel=1e-4)


def test_a_mixture_shows_each_source_and_an_instruct_stage_only_answers_with_loss(alone):
    store, plan = alone
    mixed = explain(store, run_of(plan, "mixed", "mixed"), 2)
    assert {p.source for p in mixed.passages} == {"code", "algebra"}
    prompts = [p for p in mixed.passages if p.source == "algebra" and p.text.startswith("Problem")]
    assert prompts and all(p.targets < p.tokens for p in prompts)
    assert all(p.targets == p.tokens for p in mixed.passages if p.source == "code")


def test_a_stage_goes_on_where_its_parent_stopped(alone):
    store, plan = alone
    math, instruct = (run_of(plan, stage, "from scratch") for stage in ("math", "instruct"))
    last = explain(store, math, plan.nodes[math].steps).passages[-1].document
    assert explain(store, instruct, 1).passages[0].document in {last, last + 1}


def test_documents_are_in_the_catalogue_s_order(alone):
    store, plan = alone
    run = run_of(plan, "mixed", "mixed")
    prepared, _ = recall(store, remembered(store, run), run)
    whole = list(corpora.documents(prepared.corpora["code"]))
    assert documents_of(prepared, "code", 0, [0, len(whole) - 1]) == {0: whole[0], len(whole) - 1: whole[-1]}


def test_what_a_loss_guard_said_of_the_step_is_said_again(alone, tmp_path):
    store, plan = alone
    run = run_of(plan, "math", "from scratch")
    copy = Store(shutil.copytree(store.root, tmp_path / "store"))
    with open(copy.run_folder(run) / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 2, "guard": "skipped: loss 7.1 sigma above its mean"}) + "\n")
    assert explain(copy, run, 2).guard == "skipped: loss 7.1 sigma above its mean"
    assert explain(copy, run, 2).metrics["step"] == 2 and explain(copy, run, 1).guard is None


def test_what_is_not_there_is_refused_in_words(alone, tmp_path):
    store, plan = alone
    run = run_of(plan, "math", "from scratch")
    with pytest.raises(Refused, match=r"--step 7: .* has the steps 1 to 6"):
        explain(store, run, 7)
    with pytest.raises(Refused, match=r"mathe/12: no such run"):
        explain(store, "mathe/12", 1)
    with pytest.raises(Refused, match="several runs begin so"):
        explain(store, "instruct", 1)
    copy = Store(shutil.copytree(store.root, tmp_path / "store"))
    shutil.rmtree(copy.root / "tokens")
    with pytest.raises(Refused, match="the tokens of algebra are no longer"):
        explain(copy, run, 1)
    shutil.rmtree(copy.root / "studies")
    with pytest.raises(Refused, match="run the study that made it once more"):
        explain(copy, run, 1)


def test_a_recipe_that_a_stage_overrides_in_part_is_recalled_as_it_was(tmp_path):
    fields = tiny()
    fields["stages"]["math"]["recipe"] = {"learning_rate": 0.01}
    fields["recipe"] |= {"clip": 0.5}
    study = load_study(write_study(tmp_path, fields))
    store = Store(tmp_path / "store")
    plan, prepared = make_plan(study, store), prepare(study, store)
    from curricle.running.recall import noted
    from curricle.store import write_json

    runner.write_streams(prepared, plan)
    run = run_of(plan, "math", "from scratch")
    write_json(store.run_folder(run) / "run.json", {"identity": dict(plan.nodes[run].identity)})
    kept = json.loads(json.dumps({"study": "tiny", **noted(plan, prepared)}))
    again, node = recall(store, kept, run)
    assert node == plan.nodes[run] and again.study.recipe_of("math") == study.recipe_of("math")
    assert again.catalogue == prepared.catalogue and Path(again.tokenizer) == Path(prepared.tokenizer)
