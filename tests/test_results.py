"""Rows of steps: what a run noted becomes a column, what it did not is null, and an evaluation is no step."""

from __future__ import annotations

import signal

import pyarrow as pa
import pytest

from curricle.report import queries
from curricle.results import NOTED, RUNS, SCHEMAS, STEPS, Results, step_rows, write_rows, write_table
from curricle.study import Refused

OLD = {"loss_nats": 2.0, "grad_norm": 1.0, "lr": 0.01, "tokens_per_second": 1000.0}
PLACE = {"run": "math/1", "stage": "math", "seed": 0}


def step(number: int, **more: float) -> dict:
    return {"step": number, "tokens": 500 * number, **OLD, **more}


def test_a_run_of_an_older_version_has_nulls():
    row = step_rows([step(1)], **PLACE, peak_flops=1e9)[0]
    assert set(row) == set(STEPS.names) and not any(row[name] for name in NOTED)


def test_mfu_is_what_was_done_over_the_measured_peak():
    new = step(1, flops_per_second=4e8, data_seconds=0.1, something_else=1.0)
    row = step_rows([new], **PLACE, peak_flops=1e9)[0]
    assert row["mfu"] == pytest.approx(0.4) and row["data_seconds"] == 0.1
    assert "something_else" not in row
    assert step_rows([new], **PLACE)[0]["mfu"] is None  # the peak is not known


def test_an_evaluation_is_no_step_and_its_time_goes_to_the_step_before():
    scored = {"evaluation": {"code": {"nats": 5.0, "target_tokens": 3, "bytes": 9}}}
    rows = step_rows(
        [{"step": 0, "tokens": 0, "seconds": 1.5, **scored}, step(1), step(2),
              {"step": 2, "tokens": 1000, "seconds": 2.5, **scored}, {"step": 2, "tokens": 1000, **scored}],
        **PLACE,
    )  # fmt: skip
    assert [row["step"] for row in rows] == [1, 2]
    assert [row["evaluation_seconds"] for row in rows] == [1.5, 2.5]


def test_a_save_is_no_step_and_its_time_goes_to_the_step_before():
    saved = [{"step": 2, "tokens": 1000, "save_seconds": seconds} for seconds in (0.25, 0.5)]
    rows = step_rows([step(1), step(2), *saved], **PLACE)
    assert [(row["step"], row["save_seconds"]) for row in rows] == [(1, None), (2, 0.75)]


def written(folder, steps: list[dict], without: tuple[str, ...] = (), unbegun: str = "") -> Results:
    place = {"study": "s", "strategy": "only", "baseline": True, "seed": 0, "kind": "pretrain", "tokens_before": 0}
    sizes = {"budget_tokens": 1000, "training_flops": 1.0, "wall_seconds": 1.0}
    runs = [{**place, **sizes, "position": i, "stage": s, "run": f"{s}/1"} for i, s in enumerate(("prose", "math"))]
    runs = [row | {"wall_seconds": 0.0} if row["run"] == unbegun else row for row in runs]
    write_rows(folder / "runs.parquet", runs, RUNS)
    write_rows(folder / "evaluations.parquet", [], SCHEMAS["evaluations"])
    write_table(folder / "steps.parquet", pa.Table.from_pylist(steps, STEPS).drop_columns(list(without)))
    return Results(folder)


def test_rows_from_elsewhere_may_lack_the_columns_that_may_be_null(tmp_path):
    results = written(tmp_path, [{**PLACE, **step(1)}], NOTED)
    assert results.sql("select mfu, data_seconds from steps") == [{"mfu": None, "data_seconds": None}]
    assert queries.time_spent(results)[0]["save_seconds"] is None


def test_where_the_time_went_adds_up(tmp_path):
    prose = {"run": "prose/1", "stage": "prose", "seed": 0}
    noted = {"data_seconds": 0.1, "mfu": 0.4, "save_seconds": 0.5, "evaluation_seconds": 2.0}
    results = written(tmp_path, [{**prose, **step(1)}, {**PLACE, **step(1, **noted)}, {**PLACE, **step(2, mfu=0.2)}])
    first, second = queries.time_spent(results)
    assert (first["stage"], first["training_seconds"], first["mfu"]) == ("prose", 0.5, None)
    assert second["training_seconds"] == pytest.approx(0.9) and second["data_seconds"] == 0.1
    assert (second["save_seconds"], second["evaluation_seconds"]) == (0.5, 2.0)
    assert second["mfu"] == pytest.approx(0.3)


def test_what_was_spent_counts_each_step_once_and_believes_runs_that_note_none(tmp_path):
    told = written(tmp_path, []).spent()
    assert told == {"runs": 2, "training_flops": 2.0, "wall_seconds": 2.0}
    taken_over = {**PLACE, **step(1), "tokens_per_second": None}
    spent = written(tmp_path, [taken_over, {**PLACE, **step(2)}]).spent()
    assert spent == {"runs": 2, "training_flops": 1.5, "wall_seconds": 0.5}
    alone = written(tmp_path, [taken_over]).spent()
    assert alone["training_flops"] == 2.0, "where no step has a time, none says that it was taken over"


def test_what_the_other_arms_of_a_sweep_took_is_spent_too(tmp_path):
    """A strategy stands on the best arm alone, and on none before all of them are done."""
    other = [{"run": "math/2", "stage": "math", "seed": 0, **step(number)} for number in (1, 2)]
    spent = written(tmp_path, [{**PLACE, **step(1)}, *other]).spent()
    assert spent == {"runs": 3, "training_flops": 1.0 + 0.5 + 1.0, "wall_seconds": 1.5}
    said = [row | {"flops_per_token": 0.002} for row in other]
    assert written(tmp_path, said).spent()["training_flops"] == 1.0 + 1.0 + 2.0
    write_rows(tmp_path / "runs.parquet", [], RUNS)
    assert Results(tmp_path).spent() == {"runs": 1, "training_flops": 2.0, "wall_seconds": 1.0}


def test_a_run_that_has_not_begun_has_cost_nothing(tmp_path):
    results = written(tmp_path, [{**PLACE, **step(1)}], unbegun="prose/1")
    assert results.spent() == {"runs": 1, "training_flops": 0.5, "wall_seconds": 0.5}


def test_a_query_that_is_struck_is_an_interrupt_and_no_fault(tmp_path):
    for name, schema in SCHEMAS.items():
        write_table(tmp_path / f"{name}.parquet", schema.empty_table())

    def strike(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    results = Results(tmp_path)
    before = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 1.0)  # again, should DuckDB swallow the first
        with pytest.raises(KeyboardInterrupt):
            while True:  # short ones: DuckDB may wait for what its other threads have begun
                results.sql("SELECT sum(a.range * b.range) FROM range(10000) a, range(2000) b")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_folder_of_rows_without_a_column_or_that_is_no_parquet_is_refused_by_name(tmp_path):
    for name, schema in SCHEMAS.items():
        write_table(tmp_path / f"{name}.parquet", schema.empty_table())
    Results(tmp_path)
    write_table(tmp_path / "runs.parquet", RUNS.empty_table().drop_columns(["seed"]))
    with pytest.raises(Refused, match=r"runs\.parquet: column 'seed' is missing; docs/schema\.md"):
        Results(tmp_path)
    (tmp_path / "runs.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(Refused, match=r"runs\.parquet: not readable as Parquet"):
        Results(tmp_path)
