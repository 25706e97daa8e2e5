"""How fast this machine is: at what a study will do, and at best. Measured once and kept in the store.

Speed: a small model's own training step and its own decoding are timed as workers run them: on a GPU, or with one
thread. Where the model is too large to be tried in seconds, the matrix product stands in for it, at a stated share of
its rate.

Peak: the matrix product in each precision and the memory copy, for a CPU by threads and for each GPU. Model FLOPs a
second over this peak is the MFU that results state, so it is the share of what this machine was seen to do, never of a
data sheet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curricle.execution import Execution
from curricle.planning import Plan
from curricle.running.receipt import cpu_name
from curricle.running.workers import threads_each, usual_workers
from curricle.store import Store, fingerprint, read_json, write_json
from curricle.study import Refused

if TYPE_CHECKING:
    import torch

TRIED_PARAMETERS = 30_000_000  # larger models are not tried, their time is worked out
MATRIX_SHARE = 0.4  # of the matrix product's rate that such a model is taken to reach
PATIENT_SECONDS = 10.0  # for one measurement
EVALUATION_SHARE = 0.6  # answers end before max_new_tokens; measured on the default study


Says = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one run, on the threads or the GPU that it has. `basis` says how they were found."""

    training_tokens_per_second: float
    scored_tokens_per_second: float
    decoded_tokens_per_second: float
    basis: str


def seconds_here(plan: Plan, store: Store, over: frozenset[str], says: Says = nullcontext) -> tuple[float, str]:
    """Wall seconds that this machine takes for a plan but for the runs that are `over`, with as many workers as it has
    where nobody says; and how that was found. `says` is open while something is measured."""
    workers = usual_workers(plan.width, Execution())
    speed = measure(plan, store, threads_each(workers, Execution()), says)
    return estimate_seconds(plan, speed, workers, over), speed.basis


def estimate_seconds(plan: Plan, speed: Speed, workers: int, done: frozenset[str] = frozenset()) -> float:
    """Wall seconds for what is left of a plan on so many workers: all work shared out, but never less than the longest
    chain of stages."""
    catalogue = plan.catalogue
    a_point = (
        EVALUATION_SHARE * catalogue.decoded_tokens / speed.decoded_tokens_per_second
        + catalogue.scored_tokens / speed.scored_tokens_per_second
    )
    finish: dict[str, float] = {}
    total = 0.0
    for run, node in plan.nodes.items():
        seconds = 0.0
        if run not in done:
            seconds = node.tokens / speed.training_tokens_per_second + len(node.evaluate_at) * a_point
        total += seconds
        finish[run] = seconds + (finish[node.parent] if node.parent else 0.0)
    return max(total / workers, max(finish.values(), default=0.0))


def measure(plan: Plan, store: Store, threads: int, says: Says = nullcontext) -> Speed:
    """This machine's speed for the plan's model on so many threads; from the store where it was measured before. `says`
    is open while it is measured."""
    import torch

    node = next(iter(plan.nodes.values()))
    small = plan.parameters <= TRIED_PARAMETERS and plan.study.model.checkpoint is None
    shape = plan.catalogue.shape
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    identity = {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else cpu_name(),
        "threads": 0 if device.type == "cuda" else threads,
        "model": [shape.layers, shape.hidden, shape.feed_forward, plan.catalogue.vocabulary] if small else None,
        "rows": [node.context, node.recipe.batch_tokens, node.recipe.optimizer, node.recipe.precision],
    }
    file = store.root / "calibration" / f"{fingerprint(identity)}.json"
    if not file.exists():
        with says(), _threads(threads):
            found = _tried(plan, device) if small else _from_matrix_product(plan, device)
        write_json(file, found)
    return Speed(**read_json(file))


def bf16_is_slow_here() -> bool:
    """Whether runs of this machine are trained on a CPU without instructions for bf16 (AVX-512, AMX or ARM's), where
    torch multiplies number by number: measured at AVX2, 4 to 75 times slower than in fp32 (docs/LOG.md)."""
    import torch

    if torch.cuda.is_available() or not torch.backends.mkldnn.is_available():
        return False
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _seconds(work: Callable[[], object], times: int, warm: bool = False) -> float:
    """The median of several goes, after one that is not counted; `warm` where that has been done. Slow work is not
    begun again after `PATIENT_SECONDS`, of which a first go may be all."""
    taken: list[float] = []
    while len(taken) < times + (not warm) and sum(taken) < PATIENT_SECONDS:
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    counted = sorted(taken if warm or len(taken) == 1 else taken[1:])
    return counted[len(counted) // 2]


# ---- the peak -----------------------------------------------------------------------------------------------------

MATRIX_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # small ones stay below a CPU's best, large ones take long
COPIED_BYTES = {"cpu": 2**27, "cuda": 2**30}  # past every cache
TRIED_SECONDS = 0.3  # for one product or copy; the best of what fits is kept
SLOW_SECONDS = 2.0  # for one product; where the smaller matrices take that long, the larger ones are not tried


@dataclass(frozen=True, slots=True)
class Peak:
    """The best that one device was seen to do."""

    device: str
    """`cpu`, `cuda:0`, …"""
    name: str
    """What the maker calls it."""
    threads: int
    """0 for a GPU, whose rate they do not change."""
    flops_per_second: Mapping[str, float]
    """By precision: `fp32`, `bf16`, and on a GPU `fp16` and `tf32`."""
    copy_bytes_per_second: float
    """Bytes read and bytes written, both counted."""


def devices() -> list[str]:
    """The CPU, and every GPU that torch sees."""
    import torch

    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def peak_flops(store: Store, precision: str, device: str = "cpu", threads: int = 1) -> float:
    """FLOP/s of the matrix product, measured now where it was not before. Raises `Refused` for a precision that is not
    measured on this device."""
    rates = peak(store, device, threads).flops_per_second
    if precision not in rates:
        raise Refused(f"precision {precision!r} is not measured on {device}; measured are {', '.join(rates)}")
    return rates[precision]


def peak(store: Store, device: str = "cpu", threads: int = 1, *, again: bool = False) -> Peak:
    """What this device does at best; from the store where it was measured before."""
    file, identity = _peak_file(store, device, threads)
    if again or not file.exists():
        write_json(file, {**identity, **asdict(_measured(device, identity["device"], identity["threads"]))})
    return _read(file, device)


def known_peak(store: Store, device: str = "cpu", threads: int = 1) -> Peak | None:
    """The same, only where it was measured before: for a view that must not cost anything."""
    file, _ = _peak_file(store, device, threads)
    return _read(file, device) if file.exists() else None


def peak_of(store: Store, name: str, threads: int, torch_version: str) -> Peak | None:
    """What was measured of the device that the maker calls `name`, with that torch; None where it never was. The device
    need not be in this machine. Of a GPU, threads do not matter."""
    for file in sorted((store.root / "calibration").glob("peak-*.json")):
        kept = read_json(file)
        cuda = kept["device"].startswith("cuda")
        if kept["torch"] == torch_version and kept["name"] == name and (cuda or kept["threads"] == threads):
            return _read(file, kept["device"])
    return None


def threads_of_runs(store: Store) -> set[int]:
    """How many threads the store's runs had on a CPU like this one: what their MFU is a share of."""
    receipts = [read_json(file)["sessions"] for file in (store.root / "runs").glob("*/*/receipt.json")]
    here = [s for sessions in receipts for s in sessions if s["device"] == "cpu" and s.get("cpu") == cpu_name()]
    return {session["threads"] for session in here}


def _read(file: Path, device: str) -> Peak:
    kept = read_json(file)
    return Peak(device, kept["name"], kept["threads"], kept["flops_per_second"], kept["copy_bytes_per_second"])


def _peak_file(store: Store, device: str, threads: int) -> tuple[Path, dict[str, Any]]:
    """Where it is kept, and what makes it another measurement. Two GPUs of one make share it."""
    import torch

    cuda = device.startswith("cuda")
    identity = {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if cuda else cpu_name(),
        "threads": 0 if cuda else threads,
    }
    return store.root / "calibration" / f"peak-{fingerprint(identity)}.json", identity


def _measured(device: str, name: str, threads: int) -> Peak:
    import torch

    kind = device.partition(":")[0]
    rates: dict[str, float] = {}
    with torch.inference_mode(), _threads(threads):
        for precision in ("fp32", "bf16") if kind == "cpu" else ("fp32", "tf32", "bf16", "fp16"):
            for size in MATRIX_SIZES[kind]:
                seconds = _product_seconds(torch.device(device), precision, size)
                rates[precision] = max(rates.get(precision, 0.0), 2 * size**3 / min(seconds))
                if max(seconds) > SLOW_SECONDS:
                    break
        a = torch.ones(COPIED_BYTES[kind] // 4, device=device)
        b = torch.zeros_like(a)
        copy = _best_seconds(_finished(lambda: b.copy_(a), device))
    return Peak(device, name, threads, rates, 2 * COPIED_BYTES[kind] / copy)


def _product_seconds(device: torch.device, precision: str, size: int) -> tuple[float, ...]:
    """Of a layer's three products: its forward's, and those of the gradients of its input and its weights. A library
    may be slow in one of them alone: in bf16 on a CPU with AVX2, the second takes ten times as long as the first."""
    import torch

    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    a, b = (torch.randn(size, size, device=device, dtype=kinds.get(precision, torch.float32)) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        products: list[Callable[[], object]] = [lambda: a @ b.T, lambda: a @ b, lambda: a.T @ b]
        return tuple(_best_seconds(_finished(product, device)) for product in products)
    finally:
        torch.set_float32_matmul_precision(before)


def _finished(work: Callable[[], object], device: object) -> Callable[[], object]:
    """A GPU's work is over when it says so, not when it was asked for."""
    import torch

    if not str(device).startswith("cuda"):
        return work

    def whole() -> None:
        work()
        torch.cuda.synchronize(device)  # type: ignore[arg-type]

    return whole


def _best_seconds(work: Callable[[], object]) -> float:
    """The fastest of what fits into `TRIED_SECONDS`: whatever else the machine does can only add."""
    one = _seconds(work, 1)
    times = min(50, int(TRIED_SECONDS / one))
    return min([one, *(_seconds(work, 1, warm=True) for _ in range(times))])


@contextmanager
def _threads(number: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- a study's own steps ------------------------------------------------------------------------------------------


def _tried(plan: Plan, device: torch.device) -> dict[str, Any]:
    import torch

    from curricle.tokens.sampler import Batch
    from curricle.training.loop import update
    from curricle.training.model import build
    from curricle.training.optimizer import make_optimizers

    node, vocabulary = next(iter(plan.nodes.values())), plan.catalogue.vocabulary
    recipe, context = node.recipe, node.context
    model = build(plan.catalogue.shape, vocabulary=vocabulary, context=context, delimiter=0, seed=0).to(device)
    rows = recipe.batch_tokens // context
    at_once = Execution().at_once(recipe.micro_batch_tokens, device.type) or recipe.batch_tokens
    micro_rows = max(1, at_once // context)
    tokens_BT = torch.randint(1, vocabulary, (rows, context), generator=torch.Generator().manual_seed(0)).to(device)
    positions_BT = torch.arange(context).remainder(max(1, context // 4)).expand(rows, -1).to(device)
    batch = Batch(tokens_BT, tokens_BT, positions_BT, tokens_BT.numel())
    optimizers = make_optimizers(model, recipe)
    step = _seconds(_finished(lambda: update(model, optimizers, batch, recipe, 0.0, micro_rows), device), 5)
    model.eval()
    with torch.inference_mode():
        forward = _seconds(_finished(lambda: model(input_ids=tokens_BT, use_cache=False), device), 3)
        decoded_B1 = torch.randint(1, vocabulary, (128, 1), generator=torch.Generator().manual_seed(0)).to(device)
        cache = model(input_ids=decoded_B1.expand(-1, 48), use_cache=True).past_key_values
        decode = _seconds(
            _finished(lambda: model(input_ids=decoded_B1, past_key_values=cache, use_cache=True), device), 8
        )
    return {
        "training_tokens_per_second": recipe.batch_tokens / step,
        "scored_tokens_per_second": rows * context / forward,
        "decoded_tokens_per_second": 128 / decode,
        "basis": "this model's own steps, timed here",
    }


def _from_matrix_product(plan: Plan, device: torch.device) -> dict[str, Any]:
    shape, node = plan.catalogue.shape, next(iter(plan.nodes.values()))
    size = MATRIX_SIZES[device.type][0]
    precision = node.recipe.precision
    rates = {
        p: MATRIX_SHARE * 6 * size**3 / sum(_product_seconds(device, p, size))
        for p in dict.fromkeys(["fp32", precision])
    }
    forward = shape.forward_flops_per_token(plan.catalogue.vocabulary, node.context)
    return {
        "training_tokens_per_second": rates[precision] / (3 * forward),
        "scored_tokens_per_second": rates["fp32"] / forward,
        "decoded_tokens_per_second": rates["fp32"] / forward / 4,
        "basis": f"{MATRIX_SHARE:.0%} of the matrix product's rate here, in {precision}",
    }
