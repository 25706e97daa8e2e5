"""How fast this machine is at what a study will do, measured once and kept in the store.

A small model's own training step and its own decoding are timed, one thread each, as workers run them. Where the model
is too large to be tried in seconds, the matrix product stands in for it, at a stated share of its rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from curricle.planning import Plan
from curricle.store import Store, fingerprint, read_json, write_json

TRIED_PARAMETERS = 30_000_000  # larger models are not tried, their time is worked out
MATRIX_SHARE = 0.4  # of the matrix product's rate that such a model is taken to reach
EVALUATION_SHARE = 0.6  # answers end before max_new_tokens; measured on the default study


@dataclass(frozen=True, slots=True)
class Speed:
    """One thread's rates. `basis` says how they were found."""

    training_tokens_per_second: float
    scored_tokens_per_second: float
    decoded_tokens_per_second: float
    basis: str


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


def measure(plan: Plan, store: Store) -> Speed:
    """This machine's speed for the plan's model; from the store where it was measured before."""
    import torch

    node = next(iter(plan.nodes.values()))
    small = plan.parameters <= TRIED_PARAMETERS and plan.study.model.checkpoint is None
    shape = plan.catalogue.shape
    identity = {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "model": [shape.layers, shape.hidden, shape.feed_forward, plan.catalogue.vocabulary] if small else None,
        "rows": [node.context, node.recipe.batch_tokens, node.recipe.optimizer, node.recipe.precision],
    }
    file = store.root / "calibration" / f"{fingerprint(identity)}.json"
    if not file.exists():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            found = _tried(plan) if small else _from_matrix_product(plan)
        finally:
            torch.set_num_threads(threads)
        write_json(file, found)
    return Speed(**read_json(file))


def _seconds(work: Callable[[], object], times: int) -> float:
    """The median of several goes, after one that is not counted."""
    work()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[times // 2]


def _tried(plan: Plan) -> dict[str, Any]:
    import torch

    from curricle.tokens.sampler import Batch
    from curricle.training.loop import update
    from curricle.training.model import build
    from curricle.training.optimizer import make_optimizers

    node, vocabulary = next(iter(plan.nodes.values())), plan.catalogue.vocabulary
    recipe, context = node.recipe, node.context
    model = build(plan.catalogue.shape, vocabulary=vocabulary, context=context, delimiter=0, seed=0)
    rows = recipe.batch_tokens // context
    tokens_BT = torch.randint(1, vocabulary, (rows, context), generator=torch.Generator().manual_seed(0))
    positions_BT = torch.arange(context).remainder(max(1, context // 4)).expand(rows, -1)
    batch = Batch(tokens_BT, tokens_BT, positions_BT, tokens_BT.numel())
    optimizers = make_optimizers(model, recipe)
    step = _seconds(lambda: update(model, optimizers, batch, recipe, 0.0, rows), 5)
    model.eval()
    with torch.inference_mode():
        forward = _seconds(lambda: model(input_ids=tokens_BT, use_cache=False), 3)
        decoded_B1 = torch.randint(1, vocabulary, (128, 1), generator=torch.Generator().manual_seed(0))
        cache = model(input_ids=decoded_B1.expand(-1, 48), use_cache=True).past_key_values
        decode = _seconds(lambda: model(input_ids=decoded_B1, past_key_values=cache, use_cache=True), 8)
    return {
        "training_tokens_per_second": recipe.batch_tokens / step,
        "scored_tokens_per_second": rows * context / forward,
        "decoded_tokens_per_second": 128 / decode,
        "basis": "this model's own steps, timed here",
    }


def _from_matrix_product(plan: Plan) -> dict[str, Any]:
    import torch

    size = 1024
    a, b = torch.randn(size, size), torch.randn(size, size)
    rate = 2 * size**3 / _seconds(lambda: a @ b, 5) * MATRIX_SHARE
    shape, node = plan.catalogue.shape, next(iter(plan.nodes.values()))
    forward = shape.forward_flops_per_token(plan.catalogue.vocabulary, node.context)
    return {
        "training_tokens_per_second": rate / (3 * forward),
        "scored_tokens_per_second": rate / forward,
        "decoded_tokens_per_second": rate / forward / 4,
        "basis": f"{MATRIX_SHARE:.0%} of the matrix product's rate here",
    }
