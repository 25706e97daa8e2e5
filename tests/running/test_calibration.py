"""A machine is measured once, and its peak is a number that real work stays below."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from tiny_study import tiny, write_study
from verbs import curricle

from curricle.running import calibration, gathering
from curricle.running.calibration import known_peak, peak, peak_flops
from curricle.running.preparation import make_plan
from curricle.store import Store, write_json
from curricle.study import Recipe, Refused
from curricle.studyfile import load_study
from curricle.training import metrics


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(calibration, "TRIED_SECONDS", 0.0)
    monkeypatch.setattr(calibration, "MATRIX_SIZES", {"cpu": (128, 256), "cuda": (256,)})
    monkeypatch.setattr(calibration, "COPIED_BYTES", {"cpu": 2**20, "cuda": 2**20})


def test_a_peak_is_measured_once_and_again_only_when_asked(tmp_path, monkeypatch):
    store = Store(tmp_path)
    assert known_peak(store) is None
    found = peak(store)
    assert found.flops_per_second.keys() == {"fp32", "bf16"} and found.copy_bytes_per_second > 0
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "_measured", lambda *_: pytest.fail("measured again"))
        assert peak(store) == found == known_peak(store)
        assert peak_flops(store, "bf16") == found.flops_per_second["bf16"]
    told = calibration.Peak("cpu", found.name, 1, {"fp32": 5.0}, 7.0)
    monkeypatch.setattr(calibration, "_measured", lambda *_: told)
    assert peak(store, again=True) == told == known_peak(store)


def test_other_threads_and_another_torch_are_other_measurements(tmp_path, monkeypatch):
    store = Store(tmp_path)
    peak(store, threads=1)
    assert known_peak(store, threads=2) is None
    kept = json.loads(next((tmp_path / "calibration").iterdir()).read_text())
    assert kept["threads"] == 1 and kept["torch"] == torch.__version__ and kept["name"]
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert known_peak(store, threads=1) is None


def test_measuring_leaves_torch_as_it_was(tmp_path):
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    peak(Store(tmp_path), threads=threads + 1)
    assert torch.get_num_threads() == threads and torch.get_float32_matmul_precision() == precision


def test_the_rate_is_operations_over_the_best_time(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "_best_seconds", lambda work: 0.5)
    found = peak(Store(tmp_path))
    assert found.flops_per_second["fp32"] == 2 * 256**3 / 0.5  # the better of the sizes
    assert found.copy_bytes_per_second == 2 * 2**20 / 0.5


def test_where_a_product_is_slow_no_larger_one_is_tried_and_the_best_of_a_layer_s_three_counts(tmp_path, monkeypatch):
    tried = []

    def products(device, precision, size):
        tried.append((precision, size))
        return (0.1, 50.0, 0.2) if precision == "bf16" else (0.1, 0.2, 0.2)

    monkeypatch.setattr(calibration, "_product_seconds", products)
    found = peak(Store(tmp_path))
    assert tried == [("fp32", 128), ("fp32", 256), ("bf16", 128)]
    assert found.flops_per_second == {"fp32": 2 * 256**3 / 0.1, "bf16": 2 * 128**3 / 0.1}


@pytest.mark.parametrize(("lasts", "goes"), [(0.001, 6), (4.0, 3), (60.0, 1)])
def test_slow_work_is_not_timed_again_and_again(monkeypatch, lasts, goes):
    clock, done = [0.0], []

    def work():
        done.append(1)
        clock[0] += lasts

    monkeypatch.setattr(calibration.time, "perf_counter", lambda: clock[0])
    assert calibration._seconds(work, 5) == pytest.approx(lasts) and len(done) == goes


def test_bf16_on_a_cpu_that_has_none_is_warned_of_with_the_option_that_changes_it(tmp_path, monkeypatch):
    write_study(tmp_path, tiny())
    bf16 = ("plan", "tiny.yaml", "--set", "recipe.precision=bf16")
    own = ("plan", "tiny.yaml", "--set", "stages.math.recipe={precision: bf16}")
    monkeypatch.setattr(calibration, "bf16_is_slow_here", lambda: True)
    assert "faster here (--set recipe.precision=fp32)" in curricle(*bf16, cwd=tmp_path).stdout
    assert "faster here (--set stages.math.recipe.precision=fp32)" in curricle(*own, cwd=tmp_path).stdout
    assert "faster here" not in curricle("plan", "tiny.yaml", cwd=tmp_path).stdout
    monkeypatch.setattr(calibration, "bf16_is_slow_here", lambda: False)
    assert "faster here" not in curricle(*bf16, cwd=tmp_path).stdout


def test_a_precision_that_is_not_measured_is_refused(tmp_path):
    with pytest.raises(Refused, match="precision 'fp8' is not measured on cpu; measured are fp32, bf16"):
        peak_flops(Store(tmp_path), "fp8")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_is_measured_in_four_precisions(tmp_path):
    found = peak(Store(tmp_path), "cuda:0")
    assert list(found.flops_per_second) == ["fp32", "tf32", "bf16", "fp16"] and found.threads == 0


def test_a_peak_is_found_by_the_name_of_a_device_that_is_not_here(tmp_path):
    from curricle.running.calibration import peak_of

    kept = {"torch": "2.0", "name": "NVIDIA H100", "device": "cuda:0", "threads": 0, "copy_bytes_per_second": 1.0}
    write_json(tmp_path / "calibration" / "peak-x.json", kept | {"flops_per_second": {"bf16": 5.0}})
    found = peak_of(Store(tmp_path), "NVIDIA H100", 8, "2.0")
    assert found is not None and found.flops_per_second == {"bf16": 5.0}
    assert peak_of(Store(tmp_path), "NVIDIA H100", 8, "2.1") is None
    assert peak_of(Store(tmp_path), "NVIDIA A100", 8, "2.0") is None
    here = peak(Store(tmp_path), threads=1)
    assert peak_of(Store(tmp_path), here.name, 1, torch.__version__) == here
    assert peak_of(Store(tmp_path), here.name, 2, torch.__version__) is None


@pytest.mark.parametrize(
    ("others", "mfu"),
    [
        ([], 0.2),
        ([{}, {"began": "later", "adopted_from": "math/2"}], 0.2),
        ([{"ranks": 1}, {}], None),
        ([{"threads": 4}], None),
        ([{"torch": "2.1"}], None),
        ([{"device": "NVIDIA A100"}], None),
        ([{"cpu": "another"}], None),
    ],
)
def test_a_run_whose_sessions_differ_in_what_they_ran_on_has_no_mfu(tmp_path, others, mfu):
    """Back on 2 ranks after 1: the last session says nothing about the steps of the one in the middle."""
    kept = {"torch": "2.0", "name": "it", "device": "cpu", "threads": 2, "copy_bytes_per_second": 1.0}
    write_json(tmp_path / "calibration" / "peak-x.json", kept | {"flops_per_second": {"fp32": 5.0}})
    first = {"device": "cpu", "cpu": "it", "threads": 2, "torch": "2.0", "ranks": 2}
    store, node = Store(tmp_path), SimpleNamespace(run="math/1", stage="math", seed=0, recipe=Recipe())
    folder = store.run_folder(node.run)
    write_json(folder / "receipt.json", {"sessions": [first, *(first | other for other in others)]})
    row = {"step": 1, "tokens": 8, "loss_nats": 1.0, "grad_norm": 1.0, "lr": 0.1, "tokens_per_second": 4.0}
    (folder / "metrics.jsonl").write_text(json.dumps(row | {"flops_per_second": 2.0}) + "\n")
    assert [step["mfu"] for step in gathering._steps(store, node, metrics.read(folder))] == [mfu]


def test_a_machine_is_measured_on_the_threads_that_its_runs_had(tmp_path, monkeypatch, capsys):
    from curricle.commands.models import calibrate
    from curricle.running import workers

    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.setattr(calibration, "devices", lambda: ["cpu"])
    monkeypatch.setattr(calibration, "_measured", lambda *told: calibration.Peak("cpu", "it", told[2], {}, 1.0))
    here = {"device": "cpu", "cpu": calibration.cpu_name()}
    sessions = [here | {"threads": 4}, here | {"cpu": "another", "threads": 5}, here | {"device": "H100", "threads": 6}]
    write_json(tmp_path / "runs" / "math" / "1" / "receipt.json", {"sessions": sessions})
    calibrate(tmp_path, workers=[3], as_json=True)
    assert [peak["threads"] for peak in json.loads(capsys.readouterr().out)["peaks"]] == [1, 2, 4, 8]


def test_a_run_s_peak_is_that_of_its_share_of_the_machine(tmp_path, monkeypatch):
    from curricle.commands.training import peaks_of_a_run
    from curricle.execution import Execution
    from curricle.running import workers

    monkeypatch.setattr(workers, "cores", lambda: 4)
    monkeypatch.setattr(workers, "gpu_count", lambda: 0)
    told = calibration.Peak("cpu", "it", 1, {"fp32": 5.0}, 7.0)
    monkeypatch.setattr(calibration, "_measured", lambda *_: told)
    peak(Store(tmp_path), threads=1)
    assert peaks_of_a_run(Store(tmp_path), 2, Execution(ranks=2)) == {"fp32": 10.0}
    assert peaks_of_a_run(Store(tmp_path), 2, Execution()) is None  # two threads were not measured


def test_the_time_of_a_plan_is_that_of_the_workers_and_threads_that_its_runs_have(tmp_path, monkeypatch):
    from curricle.running import workers

    threads = []

    def measured(plan, store, number, says):
        threads.append(number)
        return calibration.Speed(1024.0, math.inf, math.inf, "a test")

    monkeypatch.setattr(calibration, "measure", measured)
    monkeypatch.setattr(workers, "gpu_count", lambda: 0)
    monkeypatch.setattr(workers, "cores", lambda: 8)
    file, store = write_study(tmp_path, tiny()), Store(tmp_path / "store")
    wide = make_plan(load_study(file, ["seeds=[0, 1, 2, 3, 4]"]), store)
    narrow = make_plan(load_study(file, ["strategies={one: [code, math, instruct]}", "baseline=one"]), store)
    found = [calibration.seconds_here(plan, store, frozenset()) for plan in (wide, narrow)]
    assert (wide.width, narrow.width, threads) == (10, 1, [1, 8])
    assert found == [(max(wide.tokens / 8, narrow.tokens) / 1024, "a test"), (narrow.tokens / 1024, "a test")]
