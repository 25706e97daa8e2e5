"""Phases, branches and learning rates: what runs have in common is trained once, and what comes later changes nothing
before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_planning import catalogue
from tiny_study import tiny, write_study

from curricle import card
from curricle.planning import compile_plan
from curricle.remote import Remote
from curricle.report.terminal import moving_prefixes
from curricle.results import Results
from curricle.running import gathering, runner, transfer, upkeep
from curricle.running.preparation import make_plan, prepare, write_streams
from curricle.running.work import is_done, work_on
from curricle.store import Store, read_json
from curricle.study import Refused, Study
from curricle.studyfile import load_study
from curricle.training import checkpoint
from curricle.training import model as models

WHOLE = {"mixture": {"algebra": 1}, "budget_tokens": 4096}
ANNEALED = {
    "budget_tokens": 4096,
    "phases": [
        {"until": "50%", "mixture": {"algebra": 1}},
        {"until": "100%", "mixture": {"code": 0.5, "algebra": 0.5}},
    ],
}
FIELDS = tiny(
    stages={
        "math": {"mixture": {"algebra": 1}, "budget_tokens": 4096, "evaluate_at": [2048]},
        "cool": {"mixture": {"algebra": 1}, "budget_tokens": 1024, "branch_at": "2048",
                 "recipe": {"schedule": "wsd", "decay_share": 1}},
        "cool on code": {"mixture": {"code": 1}, "budget_tokens": 1024, "branch_at": "2048",
                         "recipe": {"schedule": "wsd", "decay_share": 1}},
    },
    strategies={"to the end": ["math"], "cooled": ["math", "cool"], "code": ["math", "cool on code"]},
    baseline="to the end",
)  # fmt: skip


def study_of(stage: dict, **changes: object) -> Study:
    return Study(**tiny(stages={"math": stage}, strategies={"one": ["math"]}, baseline="one", **changes))


def node_of(stage: dict, **changes: object):
    plan = compile_plan(study_of(stage, **changes), catalogue())
    return next(iter(plan.nodes.values()))


def run(file: Path, store: Path) -> tuple[list, Results]:
    said: list = []
    results = runner.run(
        make_plan(load_study(file), store), store=store, out=store.parent / file.stem, show=said.append
    )
    return said, results


def test_a_phase_that_is_added_later_leaves_the_state_before_it_unchanged():
    longer = {**ANNEALED, "phases": [*ANNEALED["phases"][:1], {"until": "75%", "mixture": {"code": 1}},
                                     {"until": "100%", "mixture": {"algebra": 1}}]}  # fmt: skip
    whole, two, three = map(node_of, (WHOLE, ANNEALED, longer))
    assert two.states[4] == three.states[4] and two.run != three.run != whole.run
    assert two.states[8] != three.states[8]
    # One mixture for all is the same as that mixture until half.
    parts = [{"until": until, "mixture": {"algebra": 1}} for until in ("50%", "100%")]
    half = node_of({"budget_tokens": 4096, "phases": parts})
    assert half.states[4] == two.states[4]


def test_a_schedule_that_knows_the_end_has_other_states_before_it():
    for schedule, shared in (("constant", True), ("cosine", False)):
        recipe = {"batch_tokens": 512, "schedule": schedule, "warmup_tokens": 1024}
        short = node_of({"mixture": {"algebra": 1}, "budget_tokens": 2048}, recipe=recipe)
        longer = node_of(
            {"budget_tokens": 4096, "phases": [{"until": "2048", "mixture": {"algebra": 1}},
                                               {"until": "100%", "mixture": {"code": 1}}]},
            recipe=recipe,
        )  # fmt: skip
        assert (short.states[4] == longer.states[4]) is shared


@pytest.mark.parametrize(("recipe", "kept", "advice"), [
    ({}, False, "warmup_tokens: 2048 keeps what comes first"),
    ({"warmup_tokens": 2048}, True, None),
    ({"warmup_share": 0}, True, None),
    ({"warmup_tokens": 2048, "schedule": "cosine"}, False, "its cosine follows budget_tokens"),
])  # fmt: skip
def test_a_phase_added_by_a_larger_budget_keeps_the_prefix_unless_the_plan_says_it_does_not(recipe, kept, advice):
    recipe = {"batch_tokens": 512, **recipe}
    one = study_of({"budget_tokens": 102_400, "phases": [{"until": "51200", "mixture": {"algebra": 1}},
                                                         {"until": "100%", "mixture": {"algebra": 1}}]},
                   recipe=recipe)  # fmt: skip
    more = study_of({"budget_tokens": 204_800, "phases": [{"until": "51200", "mixture": {"algebra": 1}},
                                                          {"until": "100%", "mixture": {"algebra": 1}}]},
                    recipe=recipe)  # fmt: skip
    short, long = (compile_plan(study, catalogue()) for study in (one, more))
    states = [next(iter(plan.nodes.values())).states[100] for plan in (short, long)]
    assert (states[0] == states[1]) is kept
    said = [str(line) for line in moving_prefixes(short)]
    assert len(said) == (advice is not None) and all(line.startswith("math: ") and advice in line for line in said)


def test_the_plan_says_it_of_a_stage_that_others_branch_from_and_of_no_other():
    assert [str(line).split(":")[0] for line in moving_prefixes(compile_plan(Study(**FIELDS), catalogue()))] == ["math"]
    assert not moving_prefixes(compile_plan(study_of(WHOLE), catalogue()))


def test_rows_follow_the_phases_and_nothing_repeats_across_them():
    node = node_of(ANNEALED)
    rows = 4096 // 64
    assert dict(node.rows) == {"algebra": rows // 2 + rows // 4, "code": rows // 4}
    plan = compile_plan(Study(**FIELDS), catalogue())
    cooled = plan.nodes[plan.paths["cooled", 0][1]]
    assert cooled.skip == {"algebra": ((2048 // 64, False),)}, (
        "it goes on where the prefix stopped, not where the stage ends"
    )


def test_replay_takes_its_share_of_every_phase():
    node = node_of({**ANNEALED, "replay": {"code": 0.25}})
    rows = 4096 // 64
    assert node.rows["code"] == pytest.approx(rows * 0.25 + rows // 2 * 0.375, abs=1)


FAULTS = {
    "phases end": ({"budget_tokens": 4096, "phases": [{"until": "50%", "mixture": {"algebra": 1}}]},
                   r"phases: they end at 2,048 tokens; the ends must rise, and the last be 100%"),
    "both": ({**ANNEALED, "mixture": {"algebra": 1}}, r"give exactly one of mixture .* and phases"),
    "neither": ({"budget_tokens": 4096}, r"give exactly one of mixture .* and phases"),
    "until": ({"budget_tokens": 4096, "phases": [{"until": "120%", "mixture": {"algebra": 1}}]},
              r"'120%' is not a share"),
    "first": ({**WHOLE, "branch_at": 512}, r"stages\.math\.branch_at: it is the first stage of 'one'"),
    "sweep": ({**WHOLE, "sweep": [1e-3]}, r"give two or more different learning rates"),
    "replay": ({**WHOLE, "replay": {"code": 0.6, "algebra": 0.5}}, r"replay: the shares sum to 1\.1"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_is_refused(fault):
    stage, text = FAULTS[fault]
    with pytest.raises(ValueError, match=text):
        study_of(stage)


def test_a_branch_past_the_end_and_another_optimizer_are_refused():
    fields = json.loads(json.dumps(FIELDS))
    fields["stages"]["cool"]["branch_at"] = 4096
    with pytest.raises(ValueError, match=r"stages\.cool\.branch_at: 4,096 is not inside 'math'"):
        Study(**fields)
    fields["stages"]["cool"] |= {"branch_at": 2048, "recipe": {"optimizer": "adamw"}}
    with pytest.raises(ValueError, match=r"'math' has another optimizer, whose state does not fit"):
        Study(**fields)


def test_a_phase_without_a_sample_is_refused():
    with pytest.raises(Refused, match=r"phases\.1\.mixture\.code: a weight of 0\.001 gives no sample in 32 rows"):
        stage = {
            **ANNEALED,
            "phases": [ANNEALED["phases"][0], {"until": "100%", "mixture": {"code": 0.001, "algebra": 0.999}}],
        }
        compile_plan(study_of(stage), catalogue())


@pytest.mark.slow
def test_branches_share_their_prefix_and_an_added_phase_trains_only_itself(tmp_path):
    file = write_study(tmp_path, FIELDS)
    plan = make_plan(load_study(file), tmp_path / "store")
    assert len(plan.nodes) == 3
    said, results = run(file, tmp_path / "store")
    trained = {m.run.split("/")[0]: m.tokens for m in said if m.kind == "step"}
    assert set(trained) == {"math", "cool", "cool_on_code"}
    # A branch begins with the prefix's weights and its optimizer: its first step differs from one after plain weights.
    rows = results.sql("select strategy, position, stage, budget_tokens, tokens_before from runs order by all")
    cooled = [(r["stage"], r["budget_tokens"], r["tokens_before"]) for r in rows if r["strategy"] == "cooled"]
    assert cooled == [("math", 2048, 0), ("cool", 1024, 2048)]

    fields = json.loads(json.dumps(FIELDS))
    parts = [{"until": "4096", "mixture": {"algebra": 1}}, {"until": "100%", "mixture": {"code": 1}}]
    fields["stages"] = {"math": {"budget_tokens": 5120, "phases": parts}}
    fields |= {"strategies": {"to the end": ["math"]}, "recipe": {"batch_tokens": 512, "warmup_tokens": 512}}
    longer = tmp_path / "longer.yaml"
    longer.write_text(json.dumps(fields))
    short = tmp_path / "short.yaml"
    fields["stages"]["math"] = {"mixture": {"algebra": 1}, "budget_tokens": 4096}
    short.write_text(json.dumps(fields))
    run(short, tmp_path / "store")
    said, _ = run(longer, tmp_path / "store")
    assert min(m.tokens for m in said if m.kind == "step") > 4096, "the prefix was trained before"
    adopted = weights(longer, tmp_path / "store")
    assert adopted == weights_of(longer, tmp_path / "afresh"), "as if trained from the beginning"
    metrics = next(
        Store(tmp_path / "store").run_folder(r) for r in make_plan(load_study(longer), tmp_path / "store").nodes
    )
    steps = [
        json.loads(line)["step"] for line in (metrics / "metrics.jsonl").read_text().splitlines() if "loss" in line
    ]
    assert steps == list(range(1, 11))


@pytest.mark.slow
@pytest.mark.parametrize("averaged", ["the donor", "the adopter", "both"])
def test_a_mean_of_states_is_never_taken_for_a_state(tmp_path, averaged):
    mean = {"average": {"last": 3, "every_tokens": 512}}
    donor = {"mixture": {"algebra": 1}, "budget_tokens": 2048, "recipe": mean if averaged != "the adopter" else {}}
    parts = [{"until": "2048", "mixture": {"algebra": 1}}, {"until": "100%", "mixture": {"code": 1}}]
    adopter = {"budget_tokens": 3072, "phases": parts, "evaluate_at": [2048]}
    adopter["recipe"] = mean if averaged != "the donor" else {}
    fields = tiny(strategies={"to the end": ["math"]}, baseline="to the end",
                  recipe={"batch_tokens": 512, "warmup_tokens": 512})  # fmt: skip
    files = {}
    for name, stage in (("donor", donor), ("adopter", adopter)):
        (tmp_path / name).mkdir()
        files[name] = write_study(tmp_path / name, fields | {"stages": {"math": stage}})
    run(files["donor"], tmp_path / "store")
    _, after_it = run(files["adopter"], tmp_path / "store")
    _, afresh = run(files["adopter"], tmp_path / "afresh")
    assert weights(files["adopter"], tmp_path / "store") == weights(files["adopter"], tmp_path / "afresh")
    scored = "select tokens, item, nats from evaluations order by all"
    assert after_it.sql(scored) == afresh.sql(scored)


CODE = {"mixture": {"code": 1}}


def compiled(folder: Path, store: Path, strategies: dict[str, list[str]], scored_bytes: int = 500, **stages: dict):
    """A study of code with no benchmarks, ready to be worked on in this process, and its nodes by stage."""
    folder.mkdir(exist_ok=True)
    fields = tiny(
        sources={"code": {"files": "code.jsonl"}},
        benchmarks={},
        held_out={"scored_bytes": scored_bytes},
        max_epochs=99,
        stages={name: stage if "phases" in stage else CODE | stage for name, stage in stages.items()},
        strategies=strategies,
        baseline=next(iter(strategies)),
        recipe={"batch_tokens": 512, "warmup_tokens": 512},
    )
    prepared = prepare(load_study(write_study(folder, fields)), Store(store))
    plan = compile_plan(prepared.study, prepared.catalogue)
    write_streams(prepared, plan)
    return prepared, {node.stage: node for node in plan.nodes.values()}


def worked(prepared, node) -> list[tuple[str, int]]:
    return [(m.kind, m.tokens) for m in work_on(prepared, node)]


def until(prepared, node, tokens: int) -> list[int]:
    """Work on a run and leave it at that step, as who presses Ctrl-C: the steps that were taken, in tokens."""
    steps: list[int] = []
    for message in work_on(prepared, node, asked_to_stop=lambda: tokens in steps):
        if message.kind == "step":
            steps.append(message.tokens)
    return steps


def test_a_run_that_goes_on_reads_no_weights_but_its_own(tmp_path, monkeypatch):
    stages = {"first": {"budget_tokens": 1024}, "then": {"budget_tokens": 2048}}
    prepared, nodes = compiled(tmp_path, tmp_path / "store", {"b": ["first", "then"]}, **stages)
    assert worked(prepared, nodes["first"])[-1][0] == "done"
    until(prepared, nodes["then"], 1024)
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("the parent's weights were read"))
    assert worked(prepared, nodes["then"])[-1][0] == "done"


def test_an_adopted_prefix_is_a_prefix_to_branch_from(tmp_path):
    stages = {"short": {"budget_tokens": 1024}, "long": {"budget_tokens": 2048},
              "cool": {"budget_tokens": 512, "branch_at": "1024"}}  # fmt: skip
    ends = {}
    for store, order in (("adopted", ("short", "long", "cool")), ("afresh", ("long", "cool"))):
        prepared, nodes = compiled(tmp_path, tmp_path / store, {"a": ["short"], "b": ["long", "cool"]}, **stages)
        said = {stage: worked(prepared, nodes[stage]) for stage in order}
        assert all(messages[-1][0] == "done" for messages in said.values())
        first = min(tokens for kind, tokens in said["long"] if kind == "step" and tokens > 0)
        ends[store] = [weights_in(prepared, nodes[stage]) for stage in ("long", "cool")], first
    assert ends["adopted"][0] == ends["afresh"][0]
    assert ends["adopted"][1] > ends["afresh"][1], "nothing was adopted"


def test_an_adopted_prefix_keeps_the_record_of_who_made_it_and_its_cost_counts_once(tmp_path):
    parts = [{"until": "1024", **CODE}, {"until": "100%", **CODE}]
    stages = {"short": {"budget_tokens": 1024}, "long": {"budget_tokens": 2048, "phases": parts}}
    prepared, nodes = compiled(tmp_path, tmp_path / "store", {"a": ["short"], "b": ["long"]}, **stages)
    for stage in stages:
        assert worked(prepared, nodes[stage])[-1][0] == "done"
    donor, folder = nodes["short"].run, prepared.store.run_folder(nodes["long"].run)
    made, own = read_json(folder / "receipt.json")["sessions"]
    assert made == {"adopted_from": donor} | read_json(prepared.store.run_folder(donor) / "receipt.json")["sessions"][0]
    assert "adopted_from" not in own
    assert read_json(folder / "run.json")["adopted"] == {"run": donor, "tokens": 1024}
    assert f"The first 1,024 tokens were not trained for it: they are those of the run `{donor}`" in card.of_run(
        prepared.store, nodes["long"].run
    )
    plan = compile_plan(prepared.study, prepared.catalogue)
    assert upkeep.receipts(prepared.store, plan)["adopted_from"] == donor
    results = gathering.gather(plan, prepared, tmp_path / "results")
    timed = results.sql("select stage, tokens from steps where tokens_per_second is not null order by all")
    steps = [("long", 1536), ("long", 2048), *(("short", tokens) for tokens in (512, 1024))]
    assert [(row["stage"], row["tokens"]) for row in timed] == steps
    once = results.sql("select sum(512 / tokens_per_second) as took from steps")[0]["took"]
    took = results.spent()
    assert took["wall_seconds"] == pytest.approx(once)
    trained = plan.training_flops(plan.nodes[donor]) + plan.training_flops(plan.nodes[nodes["long"].run]) / 2
    assert took["training_flops"] == pytest.approx(trained), "the prefix was trained once"
    assert sum(row["wall_seconds"] for row in results.sql("select wall_seconds from runs")) > once, "each run's price"


def test_a_state_that_was_saved_before_it_was_branched_from_stays(tmp_path):
    stages = {"long": {"budget_tokens": 1536, "evaluate_at": [1024]}}
    prepared, nodes = compiled(tmp_path, tmp_path / "store", {"b": ["long"]}, **stages)
    until(prepared, nodes["long"], 1024)
    branches = {"cool": {"budget_tokens": 512, "branch_at": "1024"}}
    prepared, nodes = compiled(tmp_path, tmp_path / "store", {"b": ["long", "cool"]}, **stages, **branches)
    assert next(t for kind, t in worked(prepared, nodes["long"]) if kind == "step") == 1024, "it went on"
    assert worked(prepared, nodes["cool"])[-1][0] == "done"
    assert is_done(prepared, nodes["long"])


def test_a_point_asked_for_later_costs_the_steps_to_it_and_nothing_that_was_made(tmp_path):
    parts = [{"until": "1024", "mixture": {"code": 1}}, {"until": "100%", "mixture": {"code": 1}}]
    long = {"budget_tokens": 3072, "phases": parts}
    prepared, nodes = compiled(tmp_path, tmp_path / "store", {"b": ["long"]}, long=long)
    until(prepared, nodes["long"], 2560)
    checkpoints = prepared.store.run_folder(nodes["long"].run) / "checkpoints"
    before = {f.name for f in checkpoints.glob("step-*")}
    assert before == {"step-00000002", "step-00000005"}

    long |= {"evaluate_at": [1536]}
    stages = {"long": long, "cool": {"budget_tokens": 512, "branch_at": "2048"}}
    prepared, nodes = compiled(tmp_path, tmp_path / "store", {"b": ["long", "cool"]}, **stages)
    steps = until(prepared, nodes["long"], 1536)  # left in the gap, and gone on with
    assert before <= {f.name for f in checkpoints.glob("step-*")}
    steps += [tokens for kind, tokens in worked(prepared, nodes["long"]) if kind == "step"]
    assert sorted(set(steps)) == [1536, 2048, 3072], "from the state at 1,024 to the branch, and from 2,560 on"
    afresh, others = compiled(tmp_path, tmp_path / "afresh", {"b": ["long", "cool"]}, **stages)
    for stage in ("long", "cool"):
        assert worked(prepared, nodes[stage])[-1] == worked(afresh, others[stage])[-1]
        assert weights_in(prepared, nodes[stage]) == weights_in(afresh, others[stage])
    here, there = (each.store.run_folder(nodes["long"].run) for each in (prepared, afresh))
    assert {f.relative_to(here) for f in here.rglob("*")} == {f.relative_to(there) for f in there.rglob("*")}
    for folder in (here, there):
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        assert sorted(m["tokens"] for m in lines if "evaluation" in m) == [1536, 2048, 3072]
    point = "points/000000001536/model.safetensors"
    assert (here / point).read_bytes() == (there / point).read_bytes()


def test_steps_that_are_taken_again_go_on_on_another_machine(tmp_path):
    long = {"budget_tokens": 2560, "phases": [{"until": "512", **CODE}, {"until": "100%", **CODE}]}
    prepared, nodes = compiled(tmp_path, tmp_path / "store", {"b": ["long"]}, long=long)
    until(prepared, nodes["long"], 2048)
    prepared, nodes = compiled(tmp_path, tmp_path / "store", {"b": ["long"]}, long=long | {"evaluate_at": [1536]})
    assert until(prepared, nodes["long"], 1024) == [1024], "left in the gap"
    there = Remote(f"file://{tmp_path}/remote")
    transfer.push_inputs(there, prepared, compile_plan(prepared.study, prepared.catalogue))
    transfer.push_run(there, prepared, nodes["long"])
    other = prepared.moved(tmp_path / "other")
    transfer.pull_inputs(there, other, nodes["long"])
    transfer.pull_run(there, other, nodes["long"])
    assert [t for kind, t in worked(other, nodes["long"]) if kind == "step"] == [1536, 2560]
    transfer.push_run(there, other, nodes["long"])
    run = f"runs/{nodes['long'].run}"
    assert transfer.done(there, prepared, nodes["long"]) and not there.children(f"{run}/again/checkpoints")


def test_who_was_killed_before_the_last_cleaning_leaves_a_run_that_is_entered_again(tmp_path, monkeypatch):
    mean = {"budget_tokens": 1024, "recipe": {"average": {"last": 2, "every_tokens": 512}}}
    stages = {"mean": mean | {"evaluate_at": [512]}}
    prepared, nodes = compiled(tmp_path, tmp_path / "store", {"b": ["mean"]}, **stages)

    def killed(place: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoint, "drop", killed)
        worked(prepared, nodes["mean"])
    folder = prepared.store.run_folder(nodes["mean"].run)
    before = weights_in(prepared, nodes["mean"])
    assert (folder / "average").exists() and not is_done(prepared, nodes["mean"])
    assert worked(prepared, nodes["mean"]) == [("done", 1024)], "nothing is trained or scored again"
    assert is_done(prepared, nodes["mean"]) and weights_in(prepared, nodes["mean"]) == before
    assert [f.name for f in (folder / "checkpoints").iterdir()] == ["step-00000002"]
    assert not (folder / "average").exists()


def test_held_out_scores_in_the_metrics_are_those_of_what_is_asked_now(tmp_path):
    stages = {"short": {"budget_tokens": 1024}, "long": {"budget_tokens": 1536, "evaluate_at": [1024],
              "phases": [{"until": "1024", **CODE}, {"until": "100%", **CODE}]}}  # fmt: skip
    few, nodes = compiled(tmp_path, tmp_path / "store", {"a": ["short"]}, short=stages["short"], scored_bytes=500)
    assert worked(few, nodes["short"])[-1][0] == "done"
    more, nodes = compiled(tmp_path, tmp_path / "store", {"a": ["short"], "b": ["long"]}, **stages, scored_bytes=3000)
    assert [t for kind, t in worked(more, nodes["long"]) if kind == "step"] == [1024, 1536], "the prefix was adopted"
    assert [kind for kind, _ in worked(more, nodes["short"])] == ["evaluating", "evaluated", "done"]

    def scored(stage: str) -> list[int]:
        lines = (more.store.run_folder(nodes[stage].run) / "metrics.jsonl").read_text().splitlines()
        found = [m for m in map(json.loads, lines) if m["tokens"] == 1024 and "evaluation" in m]
        return [m["evaluation"]["code"]["bytes"] for m in found]

    old, new = scored("short")
    assert old < new and scored("long") == [new], "not the lines of the run that was taken over"


def weights_in(prepared, node) -> bytes:
    file = prepared.store.run_folder(node.run) / "model" / "model.safetensors"
    return b"".join(t.numpy().tobytes() for _, t in sorted(load_file(file).items()))


def weights(file: Path, store: Path) -> list[bytes]:
    plan = make_plan(load_study(file), store)
    files = [Store(store).run_folder(run) / "model" / "model.safetensors" for run in plan.nodes]
    return [b"".join(t.numpy().tobytes() for _, t in sorted(load_file(file).items())) for file in files]


def weights_of(file: Path, store: Path) -> list[bytes]:
    run(file, store)
    return weights(file, store)


def page_of(file: Path, store: Path) -> str:
    """The report as `curricle report` writes it."""
    from typer.testing import CliRunner

    from curricle.cli import app

    out = store.parent / "page"
    done = CliRunner().invoke(app, ["report", str(file), "--store", str(store), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_strategy_is_judged_by_its_best_learning_rate(tmp_path):
    fields = tiny(stages={"math": {**WHOLE, "sweep": [1e-5, 4e-3]}, "code": {**WHOLE, "mixture": {"code": 1}}},
                  strategies={"maths": ["math"], "code": ["code"]}, baseline="code", max_epochs=99)  # fmt: skip
    file = write_study(tmp_path, fields)
    plan = make_plan(load_study(file), tmp_path / "store")
    assert list(plan.arms) == ["maths [math 1e-05]", "maths [math 0.004]", "code"] and len(plan.nodes) == 3
    _, results = run(file, tmp_path / "store")
    assert "maths [math 0.004]" in page_of(file, tmp_path / "store")
    rows = results.sql("select distinct strategy, arm from runs order by all")
    assert rows == [{"strategy": "code", "arm": "code"}, {"strategy": "maths", "arm": "maths [math 0.004]"}]
