"""A small study with its plan, made-up results that follow the plan, and their findings."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from curricle.analysis import analyse
from curricle.planning import Catalogue, Plan, compile_plan
from curricle.report import page
from curricle.results import SCHEMAS, Results, write_rows
from curricle.shapes import PRESETS
from curricle.study import Study
from curricle.supplied import Supplied

STUDY = {
    "question": "Does a code stage before mathematics help, and how much?",
    "model": {"preset": "0.5m", "context": 256},
    "tokenizer": {"bpe": 512},
    "sources": {
        "python": {"installed": "code"},
        "prose": {"installed": "prose"},
        "algebra": {"generated": ["chain_sum"]},
    },
    "stages": {
        "code": {"mixture": {"python": 1}, "budget_tokens": "400k"},
        "language": {"mixture": {"prose": 1}, "budget_tokens": "400k"},
        "math": {"mixture": {"algebra": 1}, "budget_tokens": "300k", "evaluate_at": ["75k", "150k"]},
        "mixed": {"mixture": {"python": 0.57, "algebra": 0.43}, "budget_tokens": "700k"},
        "instruct": {"kind": "instruct", "mixture": {"algebra": 1}, "budget_tokens": "40k"},
    },
    "strategies": {
        "code first": ["code", "math", "instruct"],
        "language first": ["language", "math", "instruct"],
        "code and math mixed": ["mixed", "instruct"],
        "from scratch": ["math", "instruct"],
    },
    "baseline": "from scratch",
    "benchmarks": {"problems": {"generated": ["chain_sum"], "problems": 150}},
    "seeds": [0, 1, 2],
    "recipe": {"batch_tokens": 4096},
}
HEAD_START = {"code": 2.2, "language": 1.5, "mixed": 0.5}
TRAINED = {"python": 1.9, "prose": 2.1, "algebra": 0.9}  # bits per byte after a stage on that source
PROBLEMS, DOCUMENTS = 150, 25
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"'"


def make_study(**changes: object) -> Study:
    study = Study.model_validate({**STUDY, **changes})
    study._name = "code-first"
    return study


def make_plan(study: Study) -> Plan:
    endless = Supplied("c" * 16, None)
    sources = {
        "python": Supplied("a" * 16, 6_000_000, 900, 18_000_000),
        "prose": Supplied("b" * 16, 2_500_000, 700, 7_000_000),
        "algebra": endless,
        "pages": Supplied("d" * 16, 500_000_000, declared=True),
    }
    sources = {name: sources[name] for name in study.sources}
    return compile_plan(study, Catalogue(sources, PRESETS["0.5m"], 512, "t" * 16, None, 15_000, 60_000))


def make_rows(plan: Plan, output: str = "") -> dict[str, list[dict]]:
    """Rows that follow the plan: head starts fade, text that is no longer trained on is forgotten."""
    random = np.random.default_rng(11)
    ease = random.normal(0, 1.2, PROBLEMS)
    size = random.integers(300, 3000, DOCUMENTS)
    runs: list[dict] = []
    evaluations: list[dict] = []
    steps: list[dict] = []
    known: set[str] = set()

    def evaluate(node, tokens: int, final: bool, logit: float, bpb: dict[str, float]) -> None:
        place = {"run": node.run, "stage": node.stage, "seed": node.seed, "tokens": tokens, "final": final}
        right = random.random(PROBLEMS) < 1 / (1 + np.exp(-(logit + ease)))
        for i, correct in enumerate(right):
            a, b = 13 + 7 * i, 5 + 3 * i
            said = a + b if correct else a + b + 10
            evaluations.append(
                {**place, "benchmark": "problems", "kind": "problems", "item": f"p{i:03}", "correct": bool(correct),
                 "nats": 14.0 - 2 * logit - ease[i] + random.normal(0, 0.5), "target_tokens": 10, "bytes": 30,
                 "prompt": f"What is {a} + {b}?\n", "output": output or f"{a} + {b} = {said}\nThe answer is {said}.",
                 "answer": str(said), "expected": str(a + b), "reason": "equal" if correct else "another number"}
            )  # fmt: skip
        for source, level in bpb.items():
            seed_level = level + random.normal(0, 0.03)
            for i, length in enumerate(size):
                nats = seed_level * math.log(2) * length * (1 + random.normal(0, 0.04))
                evaluations.append(
                    {**place, "benchmark": source, "kind": "held-out", "item": f"d{i:03}", "nats": nats,
                     "target_tokens": 10, "bytes": int(length)}
                )  # fmt: skip

    stands_for = {strategy: arm for arm, strategy in plan.arms.items()}  # the last, as if it had been the best
    for (arm, seed), path in plan.paths.items():
        strategy, before = plan.arms[arm], 0
        if arm != stands_for[strategy]:
            continue
        first = plan.nodes[path[0]].stage
        bpb = dict.fromkeys(TRAINED, 3.6)
        for position, run in enumerate(path):
            node = plan.nodes[run]
            for source in bpb:
                bpb[source] = TRAINED[source] if source in node.sources else bpb[source] + 0.25
            runs.append(
                {"study": "code-first", "strategy": strategy, "arm": arm, "baseline": strategy == plan.study.baseline,
                 "seed": seed, "position": position, "stage": node.stage, "kind": node.kind, "run": run,
                 "budget_tokens": node.tokens, "tokens_before": before,
                 "training_flops": plan.training_flops(node), "wall_seconds": 11.0}
            )  # fmt: skip
            before += node.tokens
            if run in known:
                continue
            known.add(run)
            shift = random.normal(0, 0.25)
            for step in node.evaluate_at:
                tokens = node.tokens_at(step)
                done = tokens / 300_000 if node.stage == "math" else 1.0
                start = HEAD_START.get(first, 0.0)
                logit = -2.2 + 2.2 * done**0.5 + start * (1.2 - done**0.5)
                logit = -4.0 if node.stage in {"code", "language"} else logit
                evaluate(node, tokens, step == node.steps, logit + shift + 0.4 * (node.stage == "instruct"), bpb)
            for step in range(1, node.steps + 1):
                loss = 1.2 + 3.5 * math.exp(-step / 12) * (0.4 if position else 1) + random.normal(0, 0.06) + shift / 5
                steps.append(
                    {"run": run, "stage": node.stage, "seed": seed, "step": step, "tokens": node.tokens_at(step),
                     "loss_nats": loss, "grad_norm": 1.0, "lr": 0.008, "tokens_per_second": 30_000.0}
                )  # fmt: skip
    return {"runs": runs, "evaluations": evaluations, "steps": steps}


def make_results(folder: Path, rows: dict[str, list[dict]]) -> Results:
    for name, schema in SCHEMAS.items():
        write_rows(folder / f"{name}.parquet", rows[name], schema)
    return Results(folder)


CATALOGUE = {
    "python": {
        "documents": 900, "bytes": 18_000_000, "held_out_documents": 40, "held_out_bytes": 900_000,
        "split_by": "group", "removed": {"problems": 2},
        "removed_examples": [{"id": "lib/x.py", "benchmark": "problems", "evidence": "what is 13 + 5"}],
        "details": {"versions": {"python": "3.11.2"}},
    },
    "prose": {"documents": 700, "bytes": 7_000_000, "held_out_documents": 30, "held_out_bytes": 400_000, "removed": {}},
    "algebra": {"documents": 0, "bytes": 0, "endless": True, "held_out_documents": 400, "removed": {}},
}  # fmt: skip
RECEIPT = {"curricle": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "threads": 2, "device": "cpu"}


def write_page(folder: Path, study: Study, plan: Plan, results: Results, **changes: object) -> Path:
    path = folder / "report.html"
    given = {
        "study": study, "plan": plan, "results": results, "findings": [], "catalogue": CATALOGUE, "receipt": RECEIPT,
        "command": "curricle run code-first",
        "study_text": "question: Does a code stage before mathematics help, and how much?\nseeds: [0, 1, 2]\n",
    }  # fmt: skip
    page.write(path, **{**given, **changes})  # type: ignore[arg-type]
    return path


def make(folder: Path, changes: dict | None = None, output: str = "", **page_changes: object) -> SimpleNamespace:
    """A study with these changes, all the way to its page."""
    study = make_study(**(changes or {}))
    plan = make_plan(study)
    results = make_results(folder / "results", make_rows(plan, output))
    findings = analyse(results, target=study.answer_target)
    page_changes.setdefault("findings", findings)
    path = write_page(folder, study, plan, results, **page_changes)
    return SimpleNamespace(study=study, plan=plan, results=results, findings=findings, page=path)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The usual case: four strategies, three seeds."""
    return make(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def written() -> Callable[..., Path]:
    return write_page


@pytest.fixture(scope="session")
def made() -> Callable[..., SimpleNamespace]:
    return make


@pytest.fixture(scope="session")
def planned() -> Callable[..., Plan]:
    return lambda **changes: make_plan(make_study(**changes))


@pytest.fixture
def hostile() -> str:
    return HOSTILE
