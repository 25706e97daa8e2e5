"""The whole way, on a tiny study: stages are trained once, killed drivers lose nothing, later questions cost little."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from tiny_study import tiny, write_study

from curricle.results import Results
from curricle.running import gathering, runner, upkeep, workers
from curricle.running.preparation import make_plan, prepare
from curricle.running.standing import Standing, ancestor
from curricle.running.work import work_on
from curricle.running.workers import SAYS_MORE
from curricle.store import Store, is_complete
from curricle.study import Average, Refused
from curricle.studyfile import load_study
from curricle.training import model as models


def run(file: Path, store: Path, **options) -> tuple[list, Results]:
    """All that the workers said, and the results."""
    said = []
    plan = make_plan(load_study(file), store)
    results = runner.run(plan, store=store, out=store.parent / "out", show=said.append, **options)
    return said, results


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The tiny study, run once: its file, its store, what was said, its results."""
    folder = tmp_path_factory.mktemp("study")
    file = write_study(folder, tiny())
    said, results = run(file, folder / "store")
    return file, folder / "store", said, results


def test_every_stage_is_trained_once_however_many_strategies_pass(trained):
    file, store, said, _ = trained
    plan = make_plan(load_study(file), store)
    assert sorted(m.run for m in said if m.kind == "done") == sorted(plan.nodes)
    assert len(plan.nodes) == 5


def test_results_hold_every_problem_at_every_point(trained):
    _, _, _, results = trained
    rows = results.sql(
        "select stage, tokens, count(distinct item) items from evaluations where benchmark = 'problems' group by all"
    )
    assert {(r["stage"], r["tokens"]) for r in rows} == {
        ("code", 2048),
        ("math", 1024),
        ("math", 3072),
        ("instruct", 1024),
    }
    assert all(r["items"] == 8 for r in rows)
    order = results.sql("select stage, position from runs where strategy = 'code first' order by position")
    assert [r["stage"] for r in order] == ["code", "math", "instruct"]


def test_every_run_leaves_a_model_that_transformers_reads_and_metrics(trained):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file, store, _, _ = trained
    for name, node in make_plan(load_study(file), store).nodes.items():
        folder = Store(store).run_folder(name)
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(folder / "model"))
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "loss_nats" in line]
        assert [s["step"] for s in steps] == list(range(1, node.steps + 1))
        assert set(steps[0]) >= {"step", "tokens", "loss_nats", "grad_norm", "lr", "tokens_per_second"}
        scored = [line for line in lines if "evaluation" in line]
        assert [line["step"] for line in scored] == list(node.evaluate_at)
        assert set(scored[0]["evaluation"]["code"]) == {"nats", "target_tokens", "bytes"}


def test_running_again_trains_nothing(trained):
    file, store, _, _ = trained
    said, _ = run(file, store)
    assert said == []


def test_a_benchmark_added_later_trains_nothing_again(trained, tmp_path):
    file, store, _, _ = trained
    fields = yaml.safe_load(file.read_text())
    fields["benchmarks"]["equations"] = {"generated": ["simple_equations"], "problems": 4, "max_new_tokens": 8}
    file.with_name("wider.yaml").write_text(yaml.safe_dump(fields))
    said, results = run(file.with_name("wider.yaml"), store)
    assert {m.kind for m in said} == {"evaluating", "done"}
    assert results.sql("select count(*) n from evaluations where benchmark = 'equations'")[0]["n"] == 4 * 7


def test_a_model_that_was_read_to_be_scored_is_gone_when_its_scores_are_told(trained, monkeypatch):
    file, store, *_ = trained
    study, usual, read = load_study(file, ["held_out.scored_bytes=1500"]), models.load, []
    plan, prepared = make_plan(study, store), prepare(study, Store(store))

    def load(*place, **settings):
        loaded, tokenizer = usual(*place, **settings)
        read.append(weakref.ref(loaded))
        return loaded, tokenizer

    monkeypatch.setattr(models, "load", load)
    told = [[at() for at in read] for m in work_on(prepared, next(iter(plan.nodes.values()))) if m.kind == "evaluated"]
    assert told and all(told) and not any(at for so_far in told for at in so_far)


@pytest.mark.slow
def test_results_are_the_same_with_one_worker_and_with_two(trained, tmp_path):
    file, _, _, results = trained
    (tmp_path / "code.jsonl").write_bytes(file.with_name("code.jsonl").read_bytes())
    (tmp_path / "tiny.yaml").write_text(file.read_text())
    _, again = run(tmp_path / "tiny.yaml", tmp_path / "store", workers=1)
    query = (
        "select run, tokens, benchmark, item, nats, output from evaluations where benchmark != 'equations' order by all"
    )
    assert again.sql(query) == results.sql(query)


def weights(store: Path, runs: list[str]) -> dict[str, bytes]:
    return {run: (Store(store).run_folder(run) / "model" / "model.safetensors").read_bytes() for run in runs}


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGINT, signal.SIGTERM],
)
def test_a_driver_that_is_stopped_goes_on_to_the_same_weights(trained, tmp_path, number):
    file, store, _, _ = trained
    (tmp_path / "code.jsonl").write_bytes(file.with_name("code.jsonl").read_bytes())
    (tmp_path / "tiny.yaml").write_text(file.read_text())
    command = [sys.executable, "-m", "curricle", "run", str(tmp_path / "tiny.yaml"), "--store", str(tmp_path / "store")]
    command += ["--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as driver:
        for line in driver.stdout:
            if "✓" in line:
                break
        driver.send_signal(number)
        rest = driver.stdout.read()
    assert driver.returncode == (-9 if number == signal.SIGKILL else 130), rest
    time.sleep(0.5)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    plan = make_plan(load_study(file), store)
    assert weights(tmp_path / "store", list(plan.nodes)) == weights(store, list(plan.nodes))
    assert (tmp_path / "out" / "report.html").exists() and (tmp_path / "out" / "findings.json").exists()


@pytest.mark.slow
def test_a_point_asked_for_later_is_trained_to_the_same_weights(trained):
    file, store, _, _ = trained
    before = make_plan(load_study(file), store)
    kept = weights(store, list(before.nodes))
    said, _ = run_with(file, store, ["stages.math.evaluate_at=[1024, 2048]"])
    assert {m.run.split("/")[0] for m in said if m.kind == "step"} == {"math"}
    assert weights(store, list(before.nodes)) == kept


def run_with(file: Path, store: Path, overrides: list[str]):
    said: list = []
    plan = make_plan(load_study(file, overrides), store)
    return said, runner.run(plan, store=store, out=store.parent / "out2", show=said.append)


@pytest.mark.slow
def test_two_drivers_on_one_run_do_not_harm_each_other(trained):
    from curricle.store import locked

    file, store, _, _ = trained
    plan = make_plan(load_study(file, ["seeds=[5]"]), store)
    first = next(iter(plan.nodes))
    holder = locked(Store(store).run_folder(first), first)
    holder.__enter__()
    kinds = []

    def show(message):
        kinds.append((message.kind, message.run))
        if kinds[-1] == ("held", first) and kinds.count(("held", first)) == 2:
            holder.__exit__(None, None, None)

    runner.run(plan, store=store, out=store.parent / "out5", show=show)
    assert sorted(run for kind, run in kinds if kind == "done") == sorted(plan.nodes)


def test_an_arm_that_diverged_is_not_waited_for_and_never_the_best(tmp_path):
    import pyarrow as pa

    fields = tiny(strategies={"maths": ["math"], "code": ["code"]}, baseline="code")
    fields["stages"]["math"]["sweep"] = [1e-3, 4e-3, 1.0]
    plan = make_plan(load_study(write_study(tmp_path, fields)), tmp_path / "store")
    slow, quick, wild = (plan.paths[arm, 0][-1] for arm in plan.arms if arm != "code")
    row = {"benchmark": plan.study.answer_target, "final": True, "bytes": 100}
    table = pa.Table.from_pylist([{**row, "run": slow, "nats": 90.0}, {**row, "run": quick, "nats": 80.0}])
    assert "maths" not in gathering.best_arms(plan, table)
    assert gathering.best_arms(plan, table, {wild})["maths"] == "maths [math 0.004]"
    assert gathering.best_arms(plan, table, {quick, wild})["maths"] == "maths [math 0.001]"
    assert "maths" not in gathering.best_arms(plan, table, {slow, quick, wild})


def test_the_arms_of_a_sweep_are_spent_before_one_of_them_stands_for_its_strategy(tmp_path):
    fields = tiny(strategies={"maths": ["math"]}, baseline="maths")
    fields["stages"]["math"]["sweep"] = [1e-3, 4e-3, 1.0]
    study, store = load_study(write_study(tmp_path, fields)), Store(tmp_path / "store")
    plan, prepared = make_plan(study, store), prepare(study, store)
    nodes = list(plan.nodes.values())
    for node in nodes[:2]:
        step = {"step": 1, "tokens": node.recipe.batch_tokens, "loss_nats": 2.0, "tokens_per_second": 100.0}
        store.run_folder(node.run).mkdir(parents=True, exist_ok=True)
        (store.run_folder(node.run) / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    results = gathering.gather(plan, prepared, tmp_path / "results")
    assert results.sql("SELECT count(*) AS n FROM runs") == [{"n": 0}]
    took = sum(plan.training_flops(node) * node.recipe.batch_tokens / node.tokens for node in nodes[:2])
    assert results.spent()["runs"] == 2 and results.spent()["training_flops"] == pytest.approx(took)


@pytest.mark.parametrize("table", ["steps", "evaluations"])
def test_results_are_not_overwritten_by_those_of_an_empty_store(tmp_path, table):
    import pyarrow as pa
    import pyarrow.parquet as pq

    study = load_study(write_study(tmp_path, tiny()))
    plan, prepared = make_plan(study, tmp_path / "store"), prepare(study, Store(tmp_path / "store"))
    results, file = tmp_path / "results", tmp_path / "results" / f"{table}.parquet"
    for _ in range(2):  # what was gathered of a store without runs is not in its own way
        assert gathering.gather(plan, prepared, results).sql("SELECT count(*) AS n FROM steps") == [{"n": 0}]
    pq.write_table(pa.table({"run": ["of another study"]}), file)
    before = {f.name: f.read_bytes() for f in results.iterdir()}
    with pytest.raises(Refused, match=r"results: holds results, and .*store has none of this study's runs"):
        gathering.gather(plan, prepared, results)
    with pytest.raises(runner.Failed, match="math/1 failed: no such file") as failure:
        runner.gathered(plan, prepared, results, {"math/1": "no such file"})
    assert failure.value.results is None
    assert {f.name: f.read_bytes() for f in results.iterdir()} == before


def test_a_line_of_metrics_that_is_being_written_is_not_read_yet(trained, tmp_path):
    file, kept, _, _ = trained
    place = Store(shutil.copytree(kept, tmp_path / "store"))
    study = load_study(file)
    plan, prepared = make_plan(study, place), prepare(study, place)
    before = gathering.reached(plan, prepared)
    for run in plan.nodes:
        with open(place.run_folder(run) / "metrics.jsonl", "a", encoding="utf-8") as lines:
            lines.write('{"step": 9, "tok')
    assert gathering.reached(plan, prepared) == before
    gathering.gather(plan, prepared, tmp_path / "results")


def test_what_no_study_refers_to_is_found_and_removed(trained, tmp_path):
    file, kept, _, _ = trained
    store = Path(shutil.copytree(kept, tmp_path / "store"))  # what is removed here, other tests still read
    place = Store(store)
    study = load_study(file)
    prepared = prepare(study, place)
    plan = make_plan(study, store)
    for reference in (store / "studies").glob("*.json"):  # of the other tests
        reference.unlink()
    upkeep.remember(plan, prepared, tmp_path / "out")
    unused = upkeep.unused(place)
    assert not any(name.removeprefix("runs/") in plan.nodes for name in unused)
    (tmp_path / "out").rmdir()
    unused = upkeep.unused(place)
    assert {f"runs/{run}" for run in plan.nodes} <= set(unused)
    orphan = next(name for name in unused if name.startswith("runs/instruct"))
    upkeep.remove(place, [orphan])
    assert not is_complete(store / orphan / "model")


def test_a_declared_source_can_be_planned_and_not_run(tmp_path):
    fields = tiny()
    fields["sources"]["code"] = {"declared": "1M", "reference": "somewhere"}
    plan = make_plan(load_study(write_study(tmp_path, fields)), tmp_path / "store")
    assert plan.declared() == ["code"]
    with pytest.raises(Refused, match="can be planned and not run"):
        runner.run(plan, store=tmp_path / "store")


def test_a_plan_that_does_not_fit_on_the_disk_is_refused(trained, tmp_path, monkeypatch):
    file, store, _, _ = trained
    plan = make_plan(load_study(file), store)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(Refused, match=r"GB are free, and weights and checkpoints of this plan may take"):
        runner.refuse_small_disk(plan, Store(tmp_path))


def test_what_an_interrupted_study_has_written_is_not_asked_of_the_disk_again(tmp_path, monkeypatch):
    plan = make_plan(load_study(write_study(tmp_path, tiny())), tmp_path / "store")
    store, wanted = Store(tmp_path / "store"), runner.bytes_wanted(plan, workers=1)
    kept = store.run_folder(next(iter(plan.nodes))) / "points" / "000000001024" / "model.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(bytes(4 * plan.parameters))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=wanted - 4 * plan.parameters))
    runner.refuse_small_disk(plan, store, workers=1)
    kept.unlink()
    with pytest.raises(Refused, match="GB are free"):
        runner.refuse_small_disk(plan, store, workers=1)


def test_states_that_will_be_averaged_are_counted_among_what_the_disk_must_hold(study, tmp_path, monkeypatch):
    """Of the runs that are under way at once; they go when a run is scored."""
    monkeypatch.setattr(runner, "cores", lambda: 2)
    average = Average(last=2, every_tokens=study.recipe.batch_tokens)
    recipes = study.recipe, study.recipe.model_copy(update={"average": average})
    plans = [make_plan(study.model_copy(update={"recipe": r}), tmp_path / "store") for r in recipes]
    without, averaged = map(runner.bytes_wanted, plans)
    assert averaged - without == 2 * 2 * 4 * plans[0].parameters
    assert runner.bytes_wanted(plans[1], frozenset(plans[1].nodes)) == 0


def test_a_report_half_way_compares_no_unfinished_strategy(trained, tmp_path):
    from curricle.analysis import analyse

    file, store, _, _ = trained
    plan = make_plan(load_study(file), store)
    prepared = prepare(load_study(file), Store(store))
    begun = tmp_path / "store"
    shutil.copytree(store, begun)
    for run in plan.paths["code first", 0][1:]:
        shutil.rmtree(Store(begun).run_folder(run))
    from dataclasses import replace

    half = replace(prepared, store=Store(begun))
    results = gathering.gather(plan, half, tmp_path / "results")
    assert not [f for f in analyse(results) if f.question == "gain"]


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 1)
    file, store, _, _ = trained
    (tmp_path / "code.jsonl").write_bytes(file.with_name("code.jsonl").read_bytes())
    (tmp_path / "tiny.yaml").write_text(file.read_text())
    said = []

    def kill_the_first(message):
        said.append(message)
        if message.kind == "step" and "stopped" not in {m.kind for m in said}:
            kill_workers()

    plan = make_plan(load_study(tmp_path / "tiny.yaml"), tmp_path / "store")
    runner.run(plan, store=tmp_path / "store", out=tmp_path / "out", workers=1, show=kill_the_first)
    (left,) = (m for m in said if m.kind == "stopped")
    assert "its worker was killed (out of memory?" in left.text
    assert sorted(m.run for m in said if m.kind == "done") == sorted(plan.nodes)
    assert weights(tmp_path / "store", list(plan.nodes)) == weights(store, list(plan.nodes))


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_at_the_same_place_again_fails_and_takes_no_other_with_it(
    trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(workers, "cores", lambda: 1)
    file, store, _, _ = trained
    (tmp_path / "code.jsonl").write_bytes(file.with_name("code.jsonl").read_bytes())
    (tmp_path / "tiny.yaml").write_text(file.read_text())
    plan = make_plan(load_study(tmp_path / "tiny.yaml"), tmp_path / "store")
    killed: list[str] = []

    def kill_one(message):
        if message.kind in SAYS_MORE and message.run == [*killed, message.run][0]:
            killed.append(message.run)
            kill_workers()

    options = {"store": tmp_path / "store", "out": tmp_path / "out", "workers": 1}
    with pytest.raises(
        runner.Failed, match=r"twice without coming further: its worker was killed \(out of memory\?"
    ) as failure:
        runner.run(plan, show=kill_one, **options)
    assert str(failure.value).count("failed") == 1, "the runs after it get a worker that lives"
    done = Standing.seen(plan, prepare(plan.study, Store(tmp_path / "store"))).finished
    assert (
        done == {run for run in plan.nodes if run not in killed and ancestor(plan, plan.nodes[run], killed) is None}
        and done
    )
    runner.run(plan, **options)
    assert weights(tmp_path / "store", list(plan.nodes)) == weights(store, list(plan.nodes))


def kill_workers() -> None:
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)


def test_a_tokenizer_that_is_not_the_checkpoint_s_is_refused(trained, tmp_path):
    _, store, _, _ = trained
    from curricle.tokens.tokenizer import save, train_bpe

    model = next((store / "runs" / "instruct").iterdir()) / "model"
    save(train_bpe(["other words"] * 9, 300), tmp_path / "other")
    fields = tiny(model={"checkpoint": str(model), "context": 64})
    fields["tokenizer"] = {"path": str(tmp_path / "other")}
    with pytest.raises(Refused, match=r"tokenizer\.path: the content of .* weights know only their own tokens"):
        make_plan(load_study(write_study(tmp_path, fields)), tmp_path / "store")
    fields["tokenizer"] = {"path": str(model)}
    fields["model"]["context"] = 128
    with pytest.raises(Refused, match=r"model\.context: 128 tokens are more than the 64 positions"):
        make_plan(load_study(write_study(tmp_path, fields)), tmp_path / "store")
    fields["model"]["context"] = 64
    plan = make_plan(load_study(write_study(tmp_path, fields)), tmp_path / "store")
    assert all(node.evaluate_at[0] == 0 for node in plan.nodes.values() if node.parent is None), "the model as it came"
