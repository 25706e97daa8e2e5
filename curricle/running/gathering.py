"""The rows of a plan's runs that a store has, gathered as a study's results."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from curricle import results as rows
from curricle.node import Node
from curricle.planning import Plan
from curricle.results import Results
from curricle.running.calibration import peak_of
from curricle.running.preparation import Prepared
from curricle.running.receipt import sessions
from curricle.running.standing import ancestor, branched
from curricle.running.work import ending, evaluation_file, evaluation_files
from curricle.store import Store, read_json
from curricle.study import Counterfactual, Refused, Source
from curricle.training import metrics

NOT_YET = "not done yet"
PEAK_IS_OF = ("device", "cpu", "threads", "torch", "ranks")  # of a session
TIMED = ("tokens_per_second", "mfu", "data_seconds", "save_seconds")


def reached(plan: Plan, prepared: Prepared) -> dict[str, int]:
    """Tokens that each run of the plan has been trained on, by its metrics."""
    return {run: metrics.tokens(prepared.store.run_folder(run)) for run in plan.nodes}


def gather(plan: Plan, prepared: Prepared, folder: Path, *, reported: Path | None = None) -> Results:
    """The rows of the plan's runs that the store has, in `folder`; runs that have not begun have none.

    Raises `Refused` where nothing has begun there and the study's results (`reported`, or `folder` itself) hold what
    was noted or scored: they came from another store, or from runs that another study or version would train
    otherwise, and may be all that is left of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    steps, diverged = {}, set()
    for run, node in plan.nodes.items():
        noted = metrics.read(prepared.store.run_folder(run))
        steps[run] = _steps(prepared.store, node, noted)
        if noted and "diverged" in noted[-1]:
            diverged.add(run)
    files = [
        evaluation_file(prepared, prepared.store.run_folder(run), node.tokens_at(step), name)
        for run, node in plan.nodes.items()
        for step in node.evaluate_at
        for name in prepared.asked
    ]
    tables = [rows.read_table(file) for file in files if file.exists()]
    # Runs and mixtures have rows before anything has begun.
    before = [file for name in ("steps", "evaluations") if (file := (reported or folder) / f"{name}.parquet").exists()]
    if not any(steps.values()) and not tables and any(pq.read_metadata(file).num_rows for file in before):
        raise Refused(
            f"{reported or folder}: holds results, and {prepared.store.root} has none of this study's runs; name the "
            f"--store that they came from, analyse the folder as it is (curricle analyse {(reported or folder).parent})"
            f", or move it away"
        )
    timed = [
        row | {"flops_per_token": plan.training_flops(plan.nodes[run]) / plan.nodes[run].tokens}
        for run, of_run in steps.items()
        for row in _timed_once(plan, prepared.store, run, of_run)
    ]
    rows.write_rows(folder / "steps.parquet", timed, rows.STEPS)
    rows.write_table(
        folder / "evaluations.parquet", pa.concat_tables(tables) if tables else rows.EVALUATIONS.empty_table()
    )
    alone = branched(plan, prepared)
    best = best_arms(plan, pa.concat_tables(tables), diverged, alone) if tables else {}
    rows.write_rows(folder / "mixtures.parquet", _mixture_rows(plan), rows.MIXTURES)
    rows.write_rows(folder / "runs.parquet", _run_rows(plan, steps, best), rows.RUNS)
    return Results(folder)


def missing(plan: Plan, prepared: Prepared, failures: Mapping[str, str]) -> dict[str, str]:
    """Every run that the results do not hold to its end, and why. `failures` are those of this session, where there was
    one, and what has diverged."""
    said = {run: ending(text.strip().splitlines()[-1]) for run, text in failures.items()}
    found, alone = {}, branched(plan, prepared)
    for run, node in plan.nodes.items():
        if run in said:
            found[run] = said[run]
        elif not all(file.exists() for file in evaluation_files(prepared, node)):
            before = ancestor(plan, node, said, alone)
            found[run] = NOT_YET if before is None else f"not possible: it begins from {before}"
    return found


def arms_left(plan: Plan, diverged: Collection[str], branched: Collection[str] = ()) -> dict[str, list[str]]:
    """Strategy → its arms of which no run, of any seed, has diverged before the end or had `branched` before that."""
    gone = {
        arm
        for (arm, _), path in plan.paths.items()
        if path[-1] in diverged or ancestor(plan, plan.nodes[path[-1]], diverged, branched) is not None
    }
    return {s: [arm for arm, of in plan.arms.items() if of == s and arm not in gone] for s in plan.study.strategies}


def best_arms(
    plan: Plan, evaluations: Any, diverged: Collection[str] = (), branched: Collection[str] = ()
) -> dict[str, str]:
    """Strategy → the arm that stands for it: of those with several learning rates the one whose target has the fewest
    bits per byte at the end, over all seeds; none until all of them are done. An arm with a run that has `diverged`
    never ends and is not waited for, but where it had `branched` off that run before. (Chosen and judged on the same
    problems, so a little optimistic; all arms of a study have the same advantage.)"""
    import pyarrow.compute as pc

    target = evaluations.filter((pc.field("benchmark") == plan.study.answer_target) & pc.field("final"))
    sums = target.group_by("run").aggregate([("nats", "sum"), ("bytes", "sum")]).to_pylist()
    by_run = {row["run"]: row["nats_sum"] / row["bytes_sum"] for row in sums if row["bytes_sum"]}
    found: dict[str, str] = {}
    left = arms_left(plan, diverged, branched)
    for strategy in plan.study.strategies:
        arms = [arm for arm, of in plan.arms.items() if of == strategy]
        ends = {arm: [plan.paths[arm, seed][-1] for seed in plan.study.seeds] for arm in left[strategy]}
        if len(arms) == 1:
            found[strategy] = arms[0]
        elif ends and all(run in by_run for runs in ends.values() for run in runs):
            found[strategy] = min(ends, key=lambda arm: sum(by_run[run] for run in ends[arm]))
    return found


def _steps(store: Store, node: Node, noted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    peak = _peak_flops(store, store.run_folder(node.run), node)
    return rows.step_rows(noted, run=node.run, stage=node.stage, seed=node.seed, peak_flops=peak)


def _timed_once(plan: Plan, store: Store, run: str, steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The steps, those without a time that were taken over from another run of the plan, whose time they are."""
    taken, donor = math.inf, run
    while (file := store.run_folder(donor) / "run.json").exists() and (adopted := read_json(file).get("adopted")):
        donor, taken = adopted["run"], min(taken, adopted["tokens"])
        if donor in plan.nodes:
            break
    elsewhere = donor != run and donor in plan.nodes
    for row in steps:
        yield row | dict.fromkeys(TIMED) if elsewhere and row["tokens"] <= taken else row


def _peak_flops(store: Store, folder: Path, node: Node) -> float | None:
    """Of what the run was trained on, all ranks together; None where that was never measured (`curricle calibrate`) and
    where its sessions differ in it: which of them took a step is not noted."""
    trained = sessions(folder)
    if len({tuple(session.get(name) for name in PEAK_IS_OF) for session in trained}) != 1:
        return None
    session = trained[-1]
    # By name: whoever gathers need not have the device, nor the same one.
    name = session.get("cpu", "") if session["device"] == "cpu" else session["device"]
    peak = peak_of(store, name, session["threads"], session["torch"])
    rate = peak.flops_per_second.get(node.recipe.precision) if peak else None
    return rate * session["ranks"] if rate else None


def _mixture_rows(plan: Plan) -> Iterator[dict[str, Any]]:
    for run, node in plan.nodes.items():
        for step, weights in node.mixtures:
            whole = sum(weights.values())
            for source, weight in weights.items():
                yield {
                    "run": run,
                    "until_tokens": node.tokens_at(step),
                    "source": source,
                    "share": weight / whole,
                    "available_tokens": plan.catalogue.sources[source].tokens,
                    **_made(plan.study.sources[source]),
                }


def _made(source: Source) -> dict[str, str | None]:
    """What a source is, and what it was made from."""
    derived = source if isinstance(source, Counterfactual) else None
    return {
        "kind": type(source).__name__.lower(),
        "made_from": derived.counterfactual if derived else None,
        "take": derived.take if derived else None,
    }


def _run_rows(
    plan: Plan, steps: Mapping[str, list[dict[str, Any]]], best: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    stands_for = plan.study.proxy
    for (arm, seed), path in plan.paths.items():
        strategy = plan.arms[arm]
        if arm != best.get(strategy, strategy):
            continue
        before = 0
        for position, run in enumerate(path):
            node = plan.nodes[run]
            tokens = plan.tokens_in(path, position)
            here = [s for s in steps[run] if s["tokens"] <= tokens]
            yield {
                "study": plan.study.name,
                "strategy": strategy,
                "arm": arm,
                "baseline": strategy == plan.study.baseline,
                "seed": seed,
                "position": position,
                "stage": node.stage,
                "kind": node.kind,
                "run": run,
                "budget_tokens": tokens,
                "tokens_before": before,
                "training_flops": plan.training_flops(node) * tokens / node.tokens,
                "wall_seconds": sum(node.recipe.batch_tokens / s["tokens_per_second"] for s in here),
                "proxy_of_tokens": stands_for.of_tokens if stands_for else None,
                "proxy_learning_rate": stands_for.learning_rate if stands_for else None,
            }
            before += tokens
