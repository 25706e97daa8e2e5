"""A proxy passes over its sources as often as its target would, at the rate that it states, and says so everywhere."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import yaml
from rich.console import Console
from tiny_study import tiny, write_study

from curricle.planning import Catalogue, Supplied, compile_plan
from curricle.report.terminal import plan_view
from curricle.running import runner
from curricle.running.explain import explain
from curricle.running.preparation import make_plan, prepare, sampler_for
from curricle.shapes import PRESETS
from curricle.store import Store
from curricle.study import Refused, Study
from curricle.studyfile import load_study


def coded(budget: int = 8192, **changes: object) -> dict:
    """The tiny study as one stage of code and algebra, read equally."""
    stages = {"code": {"mixture": {"code": 0.5, "algebra": 0.5}, "budget_tokens": budget}}
    return tiny(stages=stages, strategies={"it": ["code"]}, baseline="it", **changes)


def with_catalogue(fields: dict, **code: object):
    sources = {"code": Supplied(**{"fingerprint": "c0de", "tokens": 20_000, **code}), "algebra": Supplied("a19", None)}
    return compile_plan(Study(**fields), Catalogue(sources, PRESETS["0.5m"], 320, "tok"))


REFUSED = [
    ({}, "proxy: give of_tokens (the target's budget), learning_rate"),
    ({"of_tokens": 0}, "proxy.of_tokens: "),
    ({"of_tokens": 6000}, "proxy.of_tokens: 6,000 are fewer than the 8,192 of the baseline"),
    ({"learning_rate": 1.5}, "proxy.learning_rate: "),
    ({"learning_rate": 0}, "proxy.learning_rate: "),
    ({"of_token": "1M"}, "unknown field 'of_token'; did you mean 'of_tokens'?"),
]


@pytest.mark.parametrize(("proxy", "message"), REFUSED)
def test_a_proxy_that_makes_no_sense_is_refused_at_the_door(tmp_path, proxy, message):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(coded(proxy=proxy)))
    with pytest.raises(Refused) as refusal:
        load_study(tmp_path / "s.yaml")
    assert message in str(refusal.value)


def test_a_reduced_rate_beside_a_sweep_is_refused():
    fields = coded(proxy={"learning_rate": 0.5})
    fields["stages"]["code"]["sweep"] = [1e-3, 2e-3]
    with pytest.raises(ValueError, match=r"proxy\.learning_rate: stages\.code\.sweep states the rates"):
        Study(**fields)


def test_the_target_is_as_many_times_the_whole_way_of_the_baseline():
    fields = tiny(proxy={"of_tokens": "1M"})
    assert Study(**fields).part_of_target == Fraction(3072 + 1024, 1_000_000)  # math and instruct
    fields["stages"]["instruct"]["branch_at"] = 2048
    assert Study(**fields).part_of_target == Fraction(2048 + 1024, 1_000_000)


def test_a_proxy_s_run_is_the_one_in_which_its_reduced_rate_is_written():
    proxy = with_catalogue(coded(proxy={"learning_rate": 0.3}, recipe={"batch_tokens": 512, "learning_rate": 4e-3}))
    written = with_catalogue(coded(recipe={"batch_tokens": 512, "learning_rate": 1.2e-3}))
    assert set(proxy.nodes) == set(written.nodes) != set(with_catalogue(coded()).nodes)
    fields = coded(proxy={"learning_rate": 0.5})
    fields["stages"]["code"]["recipe"] = {"learning_rate": 1e-2}
    assert Study(**fields).recipe_of("code").learning_rate == 5e-3, "a stage's own peak is reduced, too"


def test_the_plan_sets_the_proxy_s_epochs_beside_the_target_s():
    plan = with_catalogue(coded(proxy={"of_tokens": 81_920}), tokens=2010, whole_tokens=20_000)
    code = next(line for line in plan.ledger() if line.source == "code")
    assert (code.available, code.subsample) == (20_000, 2010)
    assert code.target_epochs == pytest.approx(40_960 / 20_000, rel=0.01) == pytest.approx(code.epochs, rel=0.02)
    endless = next(line for line in plan.ledger() if line.source == "algebra")
    assert endless.subsample is None and endless.target_epochs is None
    assert plan.to_json()["proxy"] == {"of_tokens": 81_920, "learning_rate": None}
    json.dumps(plan.to_json())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            {"tokens": 40, "whole_tokens": 20_000},
            "sources.code: proxy.of_tokens leaves 1,997 of its 20,000 tokens, and whole documents in rows of 64 come "
            "no nearer than 0",
        ),
        ({"tokens": 9000, "whole_tokens": 20_000}, "come no nearer than 8,960"),
        ({"tokens": 800, "whole_tokens": 8000}, "epochs of its 800 (a subsample, read as often as at the target)"),
    ],
)
def test_a_source_whose_epochs_cannot_be_the_target_s_is_refused_by_name(code, message):
    with pytest.raises(Refused) as refusal:
        with_catalogue(coded(proxy={"of_tokens": 81_920}), **code)
    assert message in str(refusal.value)


def test_a_declared_source_is_planned_as_its_part(tmp_path):
    fields = coded(proxy={"of_tokens": "8.192M"})
    fields["sources"]["code"] = {"declared": "3M", "reference": "a table"}
    plan = make_plan(load_study(write_study(tmp_path, fields)), tmp_path / "store")
    code = next(line for line in plan.ledger() if line.source == "code")
    assert code.subsample == 3000 and code.available == 3_000_000 and code.declared
    assert code.epochs == pytest.approx(code.target_epochs, rel=0.05) == pytest.approx(4.096 / 3, rel=0.05)


TIMES = 4


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A proxy that was run: its plan, what was prepared, its results, its store."""
    folder = tmp_path_factory.mktemp("proxy")
    fields = coded(2048, proxy={"of_tokens": 2048 * TIMES, "learning_rate": 0.5})
    study, store = load_study(write_study(folder, fields)), Store(folder / "store")
    plan = make_plan(study, store)
    results = runner.run(plan, store=store.root, out=folder / "out")
    return plan, prepare(study, store), results, folder


def test_a_proxy_reads_a_source_as_often_as_its_target(ran):
    plan, prepared, _, folder = ran
    (node,) = plan.nodes.values()
    sampler = sampler_for(prepared, node)
    target = make_plan(load_study(write_study(folder, coded(2048 * TIMES))), folder / "store")
    (larger,) = target.nodes.values()
    wanted = next(line.epochs for line in target.ledger() if line.source == "code")
    # What is read, row by row: each token of the part as often as each of the whole would be.
    read = [sampler.read(i) for i in range(node.steps * node.rows_per_step)]
    rows = Counter(source for source, *_ in read)
    assert rows["code"] * node.context / prepared.supply("code", 0).tokens == pytest.approx(wanted, rel=0.1)
    assert larger.rows["code"] == TIMES * node.rows["code"]
    (line,) = (line for line in plan.ledger() if line.source == "code")
    assert line.target_epochs == pytest.approx(wanted) == pytest.approx(line.epochs, rel=0.1)
    assert line.available == next(line.available for line in target.ledger() if line.source == "code")


def test_where_nothing_is_cut_the_runs_are_those_of_a_study_that_is_no_proxy(ran):
    folder = ran[-1]
    runs = {}
    for name, proxy in (("none", None), ("itself", {"of_tokens": 2048}), ("cut", {"of_tokens": 2048 * TIMES})):
        fields = coded(2048) | ({"proxy": proxy} if proxy else {})
        runs[name] = set(make_plan(load_study(write_study(folder, fields)), folder / "store").nodes)
    assert runs["none"] == runs["itself"] and not runs["none"] & runs["cut"]


def test_what_is_left_of_the_run_says_that_it_was_a_proxy(ran):
    plan, _, results, folder = ran
    (run,), (line,) = plan.nodes, (line for line in plan.ledger() if line.source == "code")
    said = results.sql("select distinct proxy_of_tokens t, proxy_learning_rate r from runs")
    assert said == [{"t": 2048 * TIMES, "r": 0.5}]
    assert results.sql("select max(lr) lr from steps")[0]["lr"] == pytest.approx(4e-3 / 2)
    assert results.sql("select available_tokens n from mixtures where source = 'code'") == [{"n": line.subsample}]
    described = json.loads((folder / "store" / "runs" / run / "run.json").read_text())
    assert described["proxy"] == {"of_tokens": 2048 * TIMES, "learning_rate": 0.5}
    assert described["sources"]["code"]["whole_tokens"] == line.available


def test_the_documents_behind_a_step_of_a_proxy_are_found(ran):
    plan, *_, folder = ran
    found = [p for p in explain(Store(folder / "store"), next(iter(plan.nodes)), 2).passages if p.source == "code"]
    corpus = (folder / "code.jsonl").read_text()
    assert found and all(p.id.startswith("code.jsonl:") for p in found)
    for p in found:
        number = int(p.id.rsplit(":", 1)[1])
        assert p.text in json.loads(corpus.splitlines()[number - 1])["text"]


def test_the_plan_says_what_it_stands_for_and_what_is_left_whole(ran):
    plan, *_ = ran
    text = printed(plan)
    assert "proxy: stands for 8.19k tokens; each source that ends is cut to 1/4, so that its epochs" in text
    assert "without end and left whole: algebra; learning rates are 0.5 of their recipes'" in text
    assert "available subsample target epochs" in text and "learning rate 0.002" in text
    plain = printed(replace(plan, study=Study(**coded(2048))))
    assert "proxy" not in plain and "target epochs" not in plain


def printed(plan) -> str:
    """The plan in the terminal, on one line."""
    console = Console(width=160, file=io.StringIO())
    console.print(plan_view(plan, (), None))
    return " ".join(console.file.getvalue().split())
