"""One rank of a small training run, as a program: what the tests start twice, kill and start again.

python one_rank.py FOLDER RANK SIZE MEETING STEPS OPTIMIZER [--stop-after N] [--fail-at N] [--replicas N] …

It notes how often `all_reduce` was called, in `sent-RANK`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import time
from pathlib import Path

import torch
import torch.distributed as dist
from test_training import RECIPE, make

from curricle.execution import Execution
from curricle.training import loop
from curricle.training.distribution import Ranks, rendezvous, whole_weights
from curricle.training.loss import Learner
from curricle.training.model import weightless


class Failing:
    """A sampler whose disk is gone at one sample."""

    def __init__(self, sampler, sample: int):
        self.sampler, self.at = sampler, sample

    def __getattr__(self, name):
        return getattr(self.sampler, name)

    def batch(self, start: int, stop: int):
        if start >= self.at:
            raise OSError("the disk is gone")
        return self.sampler.batch(start, stop)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("rank", type=int)
    parser.add_argument("size", type=int)
    parser.add_argument("meeting", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("optimizer")
    parser.add_argument("--stop-after", type=int, help="the last rank alone is told to stop after so many steps")
    parser.add_argument("--fail-at", type=int, help="the last rank alone cannot read the batch of this step")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each step; every step saves")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--micro-batch-tokens", type=int)
    asked = parser.parse_args()
    folder, rank, size, steps = asked.folder, asked.rank, asked.size, asked.steps
    torch.set_num_threads(1)
    ranks = Ranks.join(rank, size, rendezvous(asked.meeting)) if size > 1 else Ranks.alone()
    recipe = RECIPE.model_copy(update={"optimizer": asked.optimizer, "schedule": "cosine"})
    with weightless() if rank else contextlib.nullcontext():  # the first one's weights are for all
        model, sampler = make(answers=True)  # ranks, and rows on a rank, have unequally many targets
    sent, reached = 0, 0
    all_reduce = dist.all_reduce

    def counted(*given, **settings):
        nonlocal sent
        sent += 1
        return all_reduce(*given, **settings)

    dist.all_reduce = counted
    last = rank == size - 1

    def told_to_stop() -> bool:
        return last and asked.stop_after is not None and reached >= asked.stop_after

    if last and asked.fail_at is not None:
        sampler = Failing(sampler, asked.fail_at * 4)
    read = []
    if size > 1:  # where ranks share a model, its logits are taken in parts as well
        loop.Learner = functools.partial(Learner, whole=64 * 7)
    for now in loop.train(
        model,
        sampler,
        recipe,
        steps=steps,
        evaluate_at=frozenset({steps}),
        folder=folder,
        ranks=ranks,
        execution=Execution(
            save_seconds=0.0 if asked.pause else 1e9,
            save_ahead=asked.optimizer == "adamw",
            replicas=asked.replicas,
            micro_batch_tokens=asked.micro_batch_tokens,
        ),
        asked_to_stop=told_to_stop,
    ):
        reached = now.step
        mine = ranks.share(4)
        documents = [sampler.read((now.step - 1) * 4 + row)[3] for row in range(mine.start, mine.stop)]
        read.append([now.step, documents])
        if asked.pause:
            print(now.step, flush=True)
            time.sleep(asked.pause)
    (folder / f"sent-{rank}").write_text(str(sent))
    whole = whole_weights(model, ranks)
    (folder / f"read-{size}-{rank}-{reached}.json").write_text(json.dumps(read))
    if ranks.first and reached == steps:
        torch.save(whole.state_dict(), folder / "weights.pt")
    ranks.leave()


if __name__ == "__main__":
    main()
