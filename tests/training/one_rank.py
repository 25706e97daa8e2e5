"""One rank of a small training run, as a program: what the tests start twice, kill and start again.

python one_rank.py FOLDER RANK SIZE MEETING STEPS OPTIMIZER [STOP_AFTER]
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path

import torch
from test_training import RECIPE, make

from curricle.execution import Execution
from curricle.training import loop
from curricle.training.distribution import Ranks, rendezvous, whole_weights
from curricle.training.loss import Learner


def main() -> None:
    folder, rank, size, meeting, steps, optimizer, *rest = sys.argv[1:]
    stop_after = int(rest[0]) if rest else None
    pause = float(rest[1]) if len(rest) > 1 else 0.0
    rank, size = int(rank), int(size)
    torch.set_num_threads(1)
    ranks = Ranks.join(rank, size, rendezvous(Path(meeting))) if size > 1 else Ranks.alone()
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "schedule": "cosine"})
    model, sampler = make()
    reached = 0
    # Only the last rank is told to stop: the others must learn it from it.
    asked = lambda: stop_after is not None and reached >= stop_after and rank == size - 1  # noqa: E731
    read = []
    if size > 1:  # where ranks share a model, its logits are taken in parts as well
        loop.Learner = functools.partial(Learner, whole=64 * 7)
    for now in loop.train(
        model,
        sampler,
        recipe,
        steps=int(steps),
        evaluate_at=frozenset({int(steps)}),
        folder=Path(folder),
        ranks=ranks,
        execution=Execution(save_seconds=0.0 if pause else 1e9, save_ahead=optimizer == "adamw"),
        asked_to_stop=asked,
    ):
        reached = now.step
        mine = ranks.share(4)
        documents = [sampler.read((now.step - 1) * 4 + row)[3] for row in range(mine.start, mine.stop)]
        read.append([now.step, documents])
        if pause:
            print(now.step, flush=True)
            time.sleep(pause)
    whole = whole_weights(model, ranks)
    (Path(folder) / f"read-{size}-{rank}-{reached}.json").write_text(json.dumps(read))
    if ranks.first and reached == int(steps):
        torch.save(whole.state_dict(), Path(folder) / "weights.pt")
    ranks.leave()


if __name__ == "__main__":
    main()
