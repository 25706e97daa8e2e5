"""A study says what it means, or is refused in a line that names the field, the value and the way out."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny_study import tiny, write_study

from curricle.drafting import draft
from curricle.study import Recipe, Refused, Study, parse_count
from curricle.studyfile import SHIPPED, load_study, parse_study


@pytest.mark.parametrize(
    ("written", "meant"),
    [("400k", 400_000), ("2.5M", 2_500_000), ("500B", 500 * 10**9), ("1T", 10**12), ("1.003k", 1003), ("7", 7), (7, 7)],
)
def test_counts_are_read_with_decimal_suffixes(written, meant):
    assert parse_count(written) == meant


@given(st.integers(1, 10**15))
def test_a_count_written_out_is_itself(number):
    assert parse_count(str(number)) == number


@pytest.mark.parametrize("written", ["3x", "1.5", "k", "-4", "1e6", "4 k k", "", True])
def test_what_is_no_count_is_refused(written):
    with pytest.raises(ValueError):
        parse_count(written)


BAD = [
    (
        ["stages", "math", "mixture"],
        {"algbra": 1},
        "stages.math.mixture.algbra: unknown source 'algbra'; did you mean 'algebra'?",
    ),
    (
        ["stages", "math", "mixture"],
        {"algebra": 0.9},
        "stages.math: mixture: the weights sum to 0.9; they must sum to 1",
    ),
    (
        ["stages", "math", "mixture"],
        {"algebra": -1, "code": 2},
        "stages.math.mixture.algebra: input should be greater than or equal to 0 (got -1)",
    ),
    (
        ["sources", "code"],
        {"counterfactual": "cod", "take": "order"},
        "sources.code.counterfactual: unknown source 'cod'; did you mean 'code'?",
    ),
    (
        ["sources", "code"],
        {"counterfactual": "algebra", "take": "order"},
        "sources.code.counterfactual: 'algebra' is no code to take something from",
    ),
    (["sources", "code"], {"counterfactual": "algebra", "take": "names"}, "sources.code.take: input should be"),
    (["stages", "math", "budget_tokens"], "3x", "stages.math.budget_tokens: '3x' is not a count"),
    (
        ["stages", "math", "budget_tokens"],
        0,
        "stages.math.budget_tokens: input should be greater than or equal to 1 (got 0)",
    ),
    (["stages", "math", "budget_token"], 3, "stages.math: unknown field 'budget_token'; did you mean 'budget_tokens'?"),
    (["stages", "math", "evaluate_at"], [4000], "stages.math: evaluate_at: 4,000 lies past budget_tokens = 3,072"),
    (["stages", "math", "kind"], "sft", "stages.math.kind: input should be 'pretrain' or 'instruct' (got 'sft')"),
    (
        ["strategies", "code first"],
        ["code", "maths"],
        "strategies.code first: unknown stage 'maths'; did you mean 'math'?",
    ),
    (["strategies", "code first"], [], "strategies.code first: "),
    (["baseline"], "scratch", "baseline: unknown strategy 'scratch'; did you mean 'from scratch'?"),
    (["model"], {"preset": "2m"}, "model: unknown preset '2m'"),
    (["model"], {}, "model: name a preset"),
    (["tokenizer"], None, "tokenizer: missing; a preset has no tokenizer of its own"),
    (["tokenizer"], {"bpe": 500, "path": "x"}, "tokenizer: give exactly one of bpe"),
    (
        ["sources", "code"],
        {"fils": "x"},
        "sources.code: a source has exactly one of the fields files, hub, installed, generated, procedural, "
        "counterfactual, declared",
    ),
    (
        ["sources", "code"],
        {"installed": "cod"},
        "sources.code.installed: input should be 'code' or 'prose' (got 'cod')",
    ),
    (["sources", "problems"], {"installed": "code"}, "benchmarks.problems: a source has the same name"),
    (["benchmarks", "problems"], {"file": "x"}, "benchmarks.problems.format: field required"),
    (["recipe", "batch_tokens"], 100, "stages.code: batch_tokens = 100 is not a multiple of model.context = 64"),
    (["recipe", "betas"], [2.0, 0.9], "recipe.betas.0: input should be less than 1 (got 2.0)"),
    (
        ["benchmarks", "problems", "max_new_tokens"],
        63,
        "benchmarks.problems.max_new_tokens: 63 leaves no room for a prompt in model.context = 64",
    ),
    (["model"], {"checkpoint": "x/y", "context": 64}, "tokenizer.bpe: a checkpoint has a tokenizer of its own"),
    (["seeds"], [1, 1], "seeds: [1, 1] holds a seed twice"),
    (["seeds"], [], "seeds: "),
    (["target"], "problem", "target: unknown benchmark or source 'problem'; did you mean 'problems'?"),
    (["compare"], [["code first", "x"]], "compare: unknown strategy 'x'"),
    (["recipe", "optimizer"], "adam", "recipe.optimizer: input should be 'muon' or 'adamw' (got 'adam')"),
    (["recipe", "learning_rate"], float("nan"), "recipe.learning_rate: "),
    (["model", "context"], True, "model.context: true is not a count"),
    (
        ["stages", "instruct", "mixture"],
        {"code": 0.5, "algebra": 0.5},
        "stages.instruct: kind: instruct puts the loss on answers, and source 'code' has no prompts",
    ),
    (
        ["recipe", "preset"],
        "deepseekmath-instuct",
        "recipe.preset: input should be 'deepseekmath-pretrain' or 'deepseekmath-instruct' (got 'deepseekmath-ins",
    ),
    (
        ["sources", "code"],
        {"files": "x", "messages": "m", "prompt": "p"},
        "sources.code.messages: a row is a conversation or a pair; give messages or prompt: p, not both",
    ),
    (
        ["sources", "code"],
        {"hub": "x", "messages": "m", "text": "t", "prompt": "p"},
        "sources.code.messages: a row is a conversation or a pair; give messages or text: t and prompt: p, not both",
    ),
    (
        ["sources", "code"],
        {"files": "x", "messages": "m", "template": "chatml"},
        "sources.code.template: input should be 'plain', 'checkpoint' or 'none' (got 'chatml')",
    ),
    (
        ["sources", "code"],
        {"files": "x", "template": "checkpoint"},
        "sources.code.template: 'checkpoint' has nothing to lay out; name the field of messages, or of the prompt",
    ),
    (
        ["sources", "code"],
        {"files": "x", "messages": "m", "template": "none"},
        "sources.code.template: 'none' leaves no mark between turns; messages need plain or checkpoint",
    ),
    (
        ["sources", "code"],
        {"files": "x", "mesages": "m"},
        "sources.code: unknown field 'mesages'; did you mean 'messages'?",
    ),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD, ids=[m[:50] for _, _, m in BAD])
def test_a_malformed_study_is_refused_with_the_file_the_field_and_what_is_allowed(tmp_path, path, value, message):
    fields = tiny()
    here = fields
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    file = write_study(tmp_path, fields)
    with pytest.raises(Refused) as refusal:
        load_study(file)
    assert any(line.startswith(f"{file}: {message}") for line in str(refusal.value).splitlines()), refusal.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question: [", "not readable as YAML"),
        ("- a\n- b", "a study is a mapping"),
        ("question: a\nquestion: b", "the key 'question' stands twice"),
        ("? [1, 2]\n: 3", "a key is a word"),
        ("[" * 3000, "not readable as YAML"),
        ("question: !!python/object/apply:os.system ['true']", "not readable as YAML"),
        ("question: x\nmodel: {preset: 1m}\nsources: null", "sources: "),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path, text, message):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(Refused, match=r"bad\.yaml") as refusal:
        load_study(file)
    assert message in str(refusal.value)


def test_several_faults_are_named_at_once(tmp_path):
    fields = tiny(seeds=[-1])
    fields["stages"]["math"]["budget_tokens"] = "x"
    with pytest.raises(Refused) as refusal:
        load_study(write_study(tmp_path, fields))
    first, second = str(refusal.value).splitlines()  # and no third that says that there are no seeds
    assert "budget_tokens" in first and "seeds.0: input should be greater than or equal to 0 (got -1)" in second


def test_overrides_reach_any_field(study_file):
    study = load_study(study_file, ["stages.math.budget_tokens=2M", "seeds=[4, 5]", "recipe.schedule=cosine"])
    assert study.stages["math"].budget_tokens == 2_000_000
    assert study.seeds == (4, 5)
    assert study.recipe.schedule == "cosine"


@pytest.mark.parametrize("override", ["seeds", "=3", "a..b=1", "question.x=1", "seeds=["])
def test_a_malformed_override_is_refused(study_file, override):
    with pytest.raises(Refused, match="--set"):
        load_study(study_file, [override])


def test_a_stage_changes_only_what_it_says_of_the_recipe(tmp_path):
    fields = tiny()
    fields["stages"]["instruct"]["recipe"] = {"schedule": "wsd"}
    study = load_study(write_study(tmp_path, fields))
    assert study.recipe_of("instruct").schedule == "wsd"
    assert study.recipe_of("instruct").batch_tokens == 512
    assert study.recipe_of("math") == study.recipe


def test_a_published_recipe_is_its_fields_and_what_stands_beside_it_overrides(tmp_path):
    fields = tiny()
    fields["stages"]["instruct"]["recipe"] = {"preset": "deepseekmath-instruct", "batch_tokens": 1024}
    fields["recipe"] = {"preset": "deepseekmath-pretrain", "batch_tokens": 512, "clip": 2.0}
    study = load_study(write_study(tmp_path, fields))
    instruct, other = study.recipe_of("instruct"), study.recipe_of("math")
    assert (other.optimizer, other.learning_rate, other.schedule) == ("adamw", 4.2e-4, "multistep")
    assert (other.warmup_share, other.batch_tokens, other.clip) == (0.04, 512, 2.0)
    assert (instruct.learning_rate, instruct.schedule, instruct.warmup_share) == (5e-5, "constant", 0.0)
    assert (instruct.batch_tokens, instruct.clip, instruct.precision) == (1024, 2.0, "bf16")
    assert Recipe(preset="deepseekmath-instruct").batch_tokens == 256 * 4096


def test_the_name_of_a_recipe_is_no_part_of_an_identity():
    named = Recipe(preset="deepseekmath-instruct")
    assert "preset" not in named.model_dump()
    assert named.model_dump() == Recipe(**named.model_dump()).model_dump()
    assert set(Recipe().model_dump()) == set(named.model_dump())


def test_a_study_survives_a_round_trip_through_yaml(study, tmp_path):
    again = write_study(tmp_path, {})
    again.write_text(study.to_yaml())
    assert load_study(again).model_dump() == study.model_dump()


def test_without_strategies_each_stage_is_one_by_itself(study, tmp_path):
    alone = {key: value for key, value in tiny().items() if key not in ("strategies", "compare")}
    found = load_study(write_study(tmp_path, alone | {"baseline": "code"}))
    assert found.strategies == {name: (name,) for name in study.stages}


def test_a_draft_from_a_checkpoint_fits_its_positions_and_its_budget(tmp_path):
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 128}')
    made = parse_study(draft(str(tmp_path), [], "50k"), tmp_path / "s.yaml")
    assert made.model.context == 128
    least = min(stage.budget_tokens for name, stage in made.stages.items() if name != "instruct")
    assert made.recipe.batch_tokens % 128 == 0 and least // made.recipe.batch_tokens >= 30


def test_a_variable_that_is_not_set_is_named(study, monkeypatch, tmp_path):
    monkeypatch.delenv("NO_CORPORA", raising=False)
    with pytest.raises(Refused, match="the variable NO_CORPORA is not set"):
        study.resolve("$NO_CORPORA/web-*.jsonl")
    monkeypatch.setenv("NO_CORPORA", str(tmp_path))
    assert study.resolve("${NO_CORPORA}/web-*.jsonl") == tmp_path / "web-*.jsonl"


def test_constructors_and_yaml_give_the_same_study(study):
    assert Study(**tiny()).model_dump() == study.model_dump()


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda f: f.stem)
def test_every_shipped_study_is_valid_and_fits_one_screen(file):
    assert load_study(file.stem).question
    assert len(file.read_text().splitlines()) <= 60


def test_an_unknown_study_names_the_nearest_that_ships():
    with pytest.raises(Refused, match="did you mean 'code-first'"):
        load_study("code-frist")


def test_the_schema_is_json_and_knows_every_field():
    schema = json.loads(json.dumps(Study.model_json_schema()))
    assert set(schema["properties"]) == set(Study.model_fields)


@pytest.mark.parametrize(
    ("source", "fits"),
    [
        ({"installed": "prose"}, False),
        ({"hub": "org/name"}, False),
        ({"files": "a.jsonl"}, False),
        ({"procedural": "binding"}, False),
        ({"counterfactual": "code", "take": "order"}, False),
        ({"files": "a.jsonl", "prompt": "question"}, True),
        ({"hub": "org/name", "prompt": "question"}, True),
    ],
)
def test_an_instruct_stage_wants_prompts_but_may_replay_any_text(tmp_path, source, fits):
    fields = tiny()
    fields["sources"]["other"] = source
    fields["stages"]["instruct"]["replay"] = {"other": 0.1}
    load_study(write_study(tmp_path, fields))
    fields["stages"]["instruct"] |= {"replay": {}, "phases": [{"until": "100%", "mixture": {"other": 1}}]}
    del fields["stages"]["instruct"]["mixture"]
    if fits:
        load_study(write_study(tmp_path, fields))
    else:
        with pytest.raises(Refused, match=r"stages\.instruct: kind: instruct .* source 'other' has no prompts"):
            load_study(write_study(tmp_path, fields))


def test_a_value_that_aliases_blow_up_is_shown_in_short(tmp_path):
    levels = ["&a0 [x, x, x, x, x, x, x, x]"]
    levels += [f"&a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 6)]
    file = tmp_path / "bomb.yaml"
    file.write_text(f"question: [{', '.join(levels)}]")
    with pytest.raises(Refused, match="question: ") as refusal:
        load_study(file)
    assert len(str(refusal.value)) < 20_000


@pytest.mark.parametrize("budget", [20_000, 999, 12_345_678_900, 1_000_003, 2 * 10**9, 10**12])
def test_a_draft_says_what_was_asked_for_to_the_token(tmp_path, budget):
    study = parse_study(draft("1m", [], str(budget)), tmp_path / "s.yaml")
    longest = max(sum(study.stages[name].budget_tokens for name in names) for names in study.strategies.values())
    assert longest == budget


def test_what_ships_and_what_is_drafted_fits_the_schema():
    schema = Study.model_json_schema()
    for file in SHIPPED.glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(file.read_text()), schema)
    jsonschema.validate(yaml.safe_load(draft("1m", ["code=a/*.jsonl"], "12345678900")), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(draft("1m", [], "1M").replace("[math, instruct]", "[]")), schema)
