"""Where a run's weights and states lie, and how a run takes over the first steps of another that were the same.

What is taken over is linked, not trained again, and stays what it is when its donor goes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from curricle.node import Node, averaged_steps
from curricle.running.receipt import sessions
from curricle.store import Store, is_complete, read_json, whole_file, whole_folder, write_json
from curricle.training import metrics


def weights_folder(run: Path, node: Node, step: int) -> Path:
    """Where the weights of an evaluation point lie, in the Hugging Face format: the end is `model/`."""
    return run / "model" if step == node.steps else run / "points" / f"{node.tokens_at(step):012d}"


def state_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def adopt(store: Store, node: Node, folder: Path) -> None:
    """Take over the first part of another run, up to the latest state that is a state of this one, too: its states, its
    weights at the points that are asked of this run, its metrics, the record of where it was made. Nothing where there
    is no such state. Only call it while holding the run's lock, before the run has a state of its own."""
    averaged = averaged_steps(node.recipe, node.steps)
    for step in sorted(node.states, reverse=True):
        if averaged and step >= averaged[0]:
            continue  # the donor has not kept what must be averaged until then
        file = store.root / "states" / f"{node.states[step]}.json"
        donor = store.run_folder(read_json(file)["run"]) if file.exists() else folder
        kept = {weights_folder(folder, node, s): _kept_by(donor, node, s) for s in node.evaluate_at if s <= step}
        states = sorted(s for s in {*node.needed, step} if s <= step)
        kept |= {state_folder(folder, s): _whole(state_folder(donor, s)) for s in states}
        if donor == folder or not all(kept.values()):
            continue
        with whole_file(folder / metrics.FILE) as out:
            # Not what it scored: it may have had other sources.
            lines = metrics.lines_until(donor / metrics.FILE, step)
            out.writelines(line for line, said in lines if "evaluation" not in said)
        _name_donor(folder, donor, node.tokens_at(step))
        for target, place in kept.items():  # the latest state last: where it is, all before it is
            if place is not None and not is_complete(target):
                with whole_folder(target) as temporary:
                    shutil.copytree(place, temporary, copy_function=_linked, dirs_exist_ok=True)
        return
    _name_donor(folder, None)  # of one that was taken over half, and has gone since


def _name_donor(folder: Path, donor: Path | None, tokens: int = 0) -> None:
    """Write down whose first tokens these are, and put the sessions that trained them before the run's own."""
    own = [session for session in sessions(folder) if "adopted_from" not in session]
    described = {name: value for name, value in read_json(folder / "run.json").items() if name != "adopted"}
    if donor is not None:
        run = f"{donor.parent.name}/{donor.name}"
        described["adopted"] = {"run": run, "tokens": tokens}
        own = [*({"adopted_from": run, **session} for session in sessions(donor)), *own]
    elif len(own) == len(sessions(folder)):
        return
    write_json(folder / "receipt.json", {"sessions": own})
    write_json(folder / "run.json", described)


def _whole(folder: Path) -> Path | None:
    return folder if is_complete(folder) else None


def _kept_by(donor: Path, node: Node, step: int) -> Path | None:
    """Where a run with the same first steps keeps its weights after `step` steps."""
    inside = donor / "points" / f"{node.tokens_at(step):012d}"
    if is_complete(inside):
        return inside
    end = donor / "model"
    if not is_complete(end):
        return None
    identity = read_json(donor / "run.json")["identity"]
    ended = identity["budget_tokens"] == node.tokens_at(step)
    return end if ended and identity["recipe"]["average"] is None else None  # a mean of states is no state


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
