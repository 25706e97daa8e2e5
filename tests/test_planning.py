"""A plan is a pure function of study and catalogue; identity is content; what would waste a run is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_study import tiny

from curricle.difference import differences, why_new
from curricle.node import average_fault, averaged_steps
from curricle.planning import Catalogue, compile_plan
from curricle.shapes import PRESETS
from curricle.study import Average, Recipe, Refused, Study
from curricle.supplied import Stretch, Supplied


def catalogue(**changes) -> Catalogue:
    sources = {"code": Supplied("c0de", 3000, 10, 9000), "algebra": Supplied("a19", None)}
    return replace(Catalogue(sources, PRESETS["0.5m"], 320, "tok"), **changes)


def compiled(fields: dict | None = None, **changes):
    return compile_plan(Study(**(fields or tiny())), catalogue(**changes))


def changed(path: str, value: object) -> dict:
    fields = tiny()
    *keys, last = path.split(".")
    here = fields
    for key in keys:
        here = here.setdefault(key, {})
    here[last] = value
    return fields


def test_stages_that_strategies_share_stand_once():
    fields = tiny()
    fields["strategies"] |= {"longer": ["math", "math", "instruct"]}
    plan = compiled(fields)
    assert plan.paths["from scratch", 0][0] == plan.paths["longer", 0][0]
    assert len(plan.nodes) == 3 + 2 + 2
    first = plan.nodes[plan.paths["longer", 0][0]]
    assert first.strategies == ("from scratch", "longer")


def test_a_later_stage_goes_on_in_the_stream_where_the_earlier_one_stopped():
    fields = tiny()
    fields["strategies"]["longer"] = ["math", "math"]
    plan = compiled(fields)
    one, two = (plan.nodes[run] for run in plan.paths["longer", 0])
    assert (
        one.skip == {}
        and two.skip == {name: (Stretch(rows, False),) for name, rows in one.rows.items()}
        and one.run != two.run
    )


def test_a_branch_from_a_state_that_two_runs_share_has_one_parent_which_comes_before_it():
    cool = {"mixture": {"algebra": 1}, "budget_tokens": 1024, "branch_at": 2048}
    stages = {name: {"mixture": {"algebra": 1}, "budget_tokens": n} for name, n in (("short", 4096), ("long", 8192))}
    plan = compiled(
        tiny(
            stages=stages | {"cool": cool},
            strategies={"a": ["short", "cool"], "b": ["long", "cool"]},
            baseline="a",
            recipe={"batch_tokens": 512, "warmup_tokens": 512},
        )
    )
    order = list(plan.nodes)
    (short, branch), (longer, other) = plan.paths["a", 0], plan.paths["b", 0]
    assert branch == other and plan.nodes[branch].strategies == ("a", "b")
    assert all(n.parent is None or order.index(n.parent) < order.index(n.run) for n in plan.nodes.values())
    assert plan.nodes[branch].parent == short and plan.nodes[short].needed == {4} and not plan.nodes[longer].needed
    # Both arms are scored where they branch off, and the prefix is trained once.
    assert plan.nodes[short].states[4] == plan.nodes[longer].states[4]
    assert 4 in plan.nodes[short].evaluate_at and 4 in plan.nodes[longer].evaluate_at


CHANGES = {
    "seeds": [1],
    "model.context": 128,
    "model.preset": "1m",
    "stages.math.budget_tokens": 4096,
    "stages.math.mixture": {"algebra": 0.5, "code": 0.5},
    "stages.math.kind": "instruct",
    "stages.math.recipe": {"learning_rate": 1e-3},
    "recipe.schedule": "cosine",
    "recipe.precision": "bf16",
}


@pytest.mark.parametrize("path", CHANGES)
def test_what_changes_the_result_changes_the_run(path):
    fields = changed(path, CHANGES[path])
    shape = {"shape": PRESETS[fields["model"]["preset"]]}
    assert (
        compiled(fields, **shape).paths["from scratch", fields["seeds"][0]][0] != compiled().paths["from scratch", 0][0]
    )


def test_data_tokenizer_and_ancestors_change_the_run():
    plain = compiled().paths["code first", 0]
    other_tokens = compiled(tokenizer="other").paths["code first", 0]
    assert not set(plain) & set(other_tokens)
    other_code = compiled(sources={**catalogue().sources, "code": Supplied("new", 3000)}).paths["code first", 0]
    assert not set(plain) & set(other_code), "a change in the first stage reaches every stage after it"


SAME = {
    "question": "Another?",
    "stages.math.evaluate_at": [512, 2048],
    "benchmarks": {},
    "baseline": "code first",
    "seeds": [0, 7],
    "recipe.micro_batch_tokens": 128,
    "max_epochs": 9,
    "held_out.scored_bytes": 5000,
    "sources.unused": {"installed": "prose"},
    "stages.other": {"mixture": {"code": 1}, "budget_tokens": 512},
}


@pytest.mark.parametrize("path", SAME)
def test_what_does_not_change_the_result_keeps_the_run(path):
    assert compiled(changed(path, SAME[path])).paths["code first", 0] == compiled().paths["code first", 0]


@pytest.mark.parametrize(
    ("fields", "changes", "message"),
    [
        (changed("stages.code.budget_tokens", 20_000), {}, "epochs of its 3,000; max_epochs = 4"),
        (
            changed("stages.math.mixture", {"algebra": 0.999, "code": 0.001}),
            {},
            "stages.math.mixture.code: a weight of 0.001 gives no sample in 48 rows",
        ),
        (
            tiny(),
            {"sources": {**catalogue().sources, "code": Supplied("c", 40)}},
            "sources.code: 40 tokens do not fill one row of 64",
        ),
    ],
)
def test_what_would_waste_a_run_is_refused(fields, changes, message):
    with pytest.raises(Refused) as refusal:
        compiled(fields, **changes)
    assert message in str(refusal.value)


def test_epochs_are_counted_along_the_strategy():
    fields = changed("stages.code.budget_tokens", 8192)
    fields["strategies"]["twice"] = ["code", "code"]
    with pytest.raises(Refused, match=r"16,384 tokens by the end of the stage are 5\.\d epochs"):
        compiled(fields)


def test_the_ledger_adds_up_to_the_budget():
    plan = compiled(changed("stages.math.mixture", {"algebra": 0.7, "code": 0.3}))
    for stage in plan.study.stages:
        node = next(n for n in plan.nodes.values() if n.stage == stage)
        assert sum(line.tokens for line in plan.ledger() if line.stage == stage) == node.tokens


def test_why_names_the_field_and_follows_it_to_the_ancestor_that_changed():
    old, new = compiled(), compiled(changed("stages.code.recipe", {"clip": 2.0}))
    known = {run: node.identity for run, node in old.nodes.items()}
    nearest, found = why_new(new, new.paths["code first", 0][1], known)
    assert nearest == old.paths["code first", 0][1]
    assert {d.field.split(": ")[-1] for d in found} == {"ancestor", "recipe.clip"}
    assert why_new(new, new.paths["code first", 0][0], {}) is None


def test_differences_are_found_by_path():
    found = differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})
    assert {(d.field, d.theirs, d.ours) for d in found} == {("a.c", 3, 2), ("d", 4, None)}


def test_parameters_are_those_that_transformers_counts():
    from curricle.training.model import build

    for name in ("0.5m", "1m", "3m"):
        model = build(PRESETS[name], vocabulary=320, context=64, delimiter=0, seed=0)
        assert model.num_parameters() == PRESETS[name].parameters(320)


def test_a_checkpoint_s_head_width_counts():
    from transformers import LlamaConfig, LlamaForCausalLM

    from curricle.training.origin import shape_of

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24}
    config = LlamaConfig(vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=2, **heads)
    shape = shape_of(config)
    assert shape.head_size == 24
    assert shape.parameters(300) == LlamaForCausalLM(config).num_parameters()


def test_the_published_recipe_costs_what_the_arithmetic_says(tmp_path):
    from curricle.running.preparation import make_plan
    from curricle.studyfile import load_study

    plan = make_plan(load_study("deepseekmath-7b"), store=tmp_path)
    assert plan.parameters == 6_910_365_696
    shares = {line.source: line.share for line in plan.ledger()}
    assert shares == pytest.approx(
        {"math": 0.56, "algebraic": 0.04, "arxiv": 0.10, "code": 0.20, "language": 0.10}, abs=1e-6
    )
    assert plan.tokens == pytest.approx(500e9, rel=1e-4)


@pytest.mark.parametrize(
    ("last", "every_tokens", "there"), [(8, 1024, 2), (5, 512, 4), (4, 512, None), (2, 1024, None)]
)
def test_a_stage_too_short_for_the_states_it_should_average_is_a_fault(last, every_tokens, there):
    """Four steps of 512 tokens."""
    recipe = Recipe(batch_tokens=512, average=Average(last=last, every_tokens=every_tokens))
    found = average_fault("math", recipe, 4)
    assert len(averaged_steps(recipe, 4)) == (there or last) and average_fault("math", Recipe(), 4) is None
    if there is None:
        assert found is None
    else:
        assert found.startswith(
            f"stages.math.recipe.average: {last} states every {every_tokens:,} tokens reach back past"
        )
        assert f"a stage of 2,048 tokens, in which there are {there}; lower last or every_tokens" in found


def test_a_context_of_one_token_cannot_be_planned():
    fields = tiny(model={"preset": "0.5m", "context": 1}, benchmarks={})
    with pytest.raises(Refused, match=r"model\.context: of one token there is no context"):
        compiled(fields)
