"""Long-lived workers, each a process of one thread, and the work on one run that they do.

Small models do not fill two threads, and importing torch and transformers costs seconds, so independent runs go side
by side in processes that stay. A worker trains, and at every evaluation point exports the weights and scores them.
Whatever it is doing when it dies, the store holds only whole things, and the next worker goes on from there.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from curricle.planning import Node
from curricle.preparation import Prepared
from curricle.results import EVALUATIONS, write_rows
from curricle.store import is_complete, locked, read_json, sweep, write_json
from curricle.study import Refused

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MESSAGES_A_SECOND = 5
SAVE_SECONDS = 60  # that a worker may take over an evaluation or a save when it is asked to stop


@dataclass(frozen=True, slots=True)
class Message:
    """What a worker says about the run it works on."""

    kind: Literal["step", "evaluating", "done", "stopped", "failed", "refused"]
    run: str
    tokens: int = 0
    loss_nats: float = 0.0
    tokens_per_second: float = 0.0
    text: str = ""


# ---- the work -----------------------------------------------------------------------------------------------------


def weights_folder(run: Path, node: Node, step: int) -> Path:
    """Where the weights of an evaluation point lie, in the Hugging Face format: the end is `model/`."""
    return run / "model" if step == node.steps else run / "points" / f"{node.tokens_at(step):012d}"


def evaluation_file(prepared: Prepared, run: Path, tokens: int, name: str) -> Path:
    """One benchmark, or one source's held-out text, at one point. The name carries what was asked, so that what is
    asked later is another file and nothing is trained again."""
    return run / "evaluations" / f"{tokens:012d}-{name.replace(' ', '_')}-{prepared.asked[name]}.parquet"


def is_done(prepared: Prepared, node: Node) -> bool:
    """Trained, its weights kept at every point, and every evaluation there."""
    folder = prepared.store.run_folder(node.run)
    return all(
        is_complete(weights_folder(folder, node, step))
        and all(evaluation_file(prepared, folder, node.tokens_at(step), name).exists() for name in prepared.asked)
        for step in node.evaluate_at
    )


def work_on(prepared: Prepared, node: Node) -> Generator[Message]:
    """Train what is left of a run and evaluate it; nothing that is there is done again. Closing it saves."""
    folder = prepared.store.run_folder(node.run)
    with locked(folder, node.run):
        sweep(folder)
        for part in ("points", "evaluations"):
            sweep(folder / part)
        if not (folder / "run.json").exists():
            write_json(folder / "run.json", prepared.described(node))
        if all(is_complete(weights_folder(folder, node, step)) for step in node.evaluate_at):
            yield from _evaluate_kept(prepared, node, folder)
        else:
            sessions = read_json(folder / "receipt.json")["sessions"] if (folder / "receipt.json").exists() else []
            write_json(folder / "receipt.json", {"sessions": [*sessions, receipt()]})
            yield from _train(prepared, node, folder)


def _train(prepared: Prepared, node: Node, folder: Path) -> Iterator[Message]:
    from curricle.tokens.sampler import Sampler
    from curricle.tokens.tokenizer import load as load_tokenizer
    from curricle.training import checkpoint
    from curricle.training import model as models
    from curricle.training.loop import train

    tokenizer = load_tokenizer(prepared.tokenizer)
    if any(not is_complete(weights_folder(folder, node, s)) for s in node.evaluate_at if s < _reached(folder)):
        # A point that was not asked for before lies behind us: the same steps are taken again.
        checkpoint.clear(folder / "checkpoints")
    model = _initial(prepared, node, len(tokenizer), tokenizer.eos_token_id)
    sampler = Sampler(
        {name: prepared.supply(name, node.seed) for name in node.mixture},
        node.mixture,
        row_tokens=node.context,
        samples=node.steps * node.recipe.batch_tokens // node.context,
        seed=node.seed,
        delimiter=tokenizer.eos_token_id,
        skip=node.skip,
        answers_only=node.kind == "instruct",
    )
    steps = train(model, sampler, node.recipe, steps=node.steps, evaluate_at=frozenset(node.evaluate_at), folder=folder)
    try:
        for now in steps:
            yield Message("step", node.run, now.tokens, now.loss_nats, now.tokens_per_second)
            if now.evaluate:
                yield Message("evaluating", node.run, now.tokens)
                kept = weights_folder(folder, node, now.step)
                if not is_complete(kept):
                    models.export(model, tokenizer, kept)
                _evaluate(prepared, node, folder, now.step, model, tokenizer)
    finally:
        steps.close()
    yield from _evaluate_kept(prepared, node, folder)  # what was asked since, at points that an earlier session passed
    checkpoint.clear(folder / "checkpoints")  # `model/` is what the next stage begins with


def _reached(folder: Path) -> int:
    from curricle.training import checkpoint

    found = checkpoint.complete(folder / "checkpoints")
    return int(read_json(found[-1] / "state.json")["step"]) if found else 0


def _initial(prepared: Prepared, node: Node, vocabulary: int, delimiter: int) -> PreTrainedModel:
    from curricle.training import model as models

    if node.parent is not None:
        return models.load(prepared.store.run_folder(node.parent) / "model")[0]
    spec = prepared.study.model
    if spec.checkpoint is not None:
        local = prepared.study.resolve(spec.checkpoint)
        return models.begin(local if local.exists() else spec.checkpoint, spec.revision, delimiter)
    return models.build(
        prepared.catalogue.shape,
        vocabulary=prepared.catalogue.vocabulary,
        context=node.context,
        delimiter=delimiter,
        seed=node.seed,
    )


def _evaluate_kept(prepared: Prepared, node: Node, folder: Path) -> Iterator[Message]:
    from curricle.training import model as models

    for step in node.evaluate_at:
        tokens = node.tokens_at(step)
        if not all(evaluation_file(prepared, folder, tokens, name).exists() for name in prepared.asked):
            yield Message("evaluating", node.run, tokens)
            _evaluate(prepared, node, folder, step, *models.load(weights_folder(folder, node, step)))


def _evaluate(
    prepared: Prepared,
    node: Node,
    folder: Path,
    step: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    from curricle.evaluation.scoring import evaluate

    tokens = node.tokens_at(step)
    where = {"run": node.run, "stage": node.stage, "seed": node.seed, "tokens": tokens, "final": step == node.steps}
    context = max(node.context, getattr(model.config, "max_position_embeddings", 0))
    for name in prepared.asked:
        file = evaluation_file(prepared, folder, tokens, name)
        if file.exists():
            continue
        benchmarks = [b for b in prepared.benchmarks if b.name == name]
        held_out = {} if benchmarks else {name: prepared.held_out(name)}
        rows = evaluate(model, tokenizer, benchmarks, held_out, context=context)
        write_rows(file, [{**where, **row} for row in rows], EVALUATIONS)


def receipt() -> dict[str, Any]:
    """Where a session of training began: bit for bit holds where these agree."""
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "cpu_features": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "system": platform.system(),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


# ---- the processes ------------------------------------------------------------------------------------------------


class Worker:
    """A process that takes one node at a time. `connection` is readable when it has something to say."""

    def __init__(self, prepared: Prepared, threads: int):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._stop = context.Event()
        self.process = context.Process(target=_serve, args=(theirs, self._stop, prepared, threads), daemon=True)
        with _main_hidden():
            self.process.start()
        theirs.close()
        self.node: Node | None = None

    def start(self, node: Node) -> None:
        self.node = node
        self.connection.send(node)

    def receive(self) -> Message:
        """Raises `EOFError` when the process is gone."""
        return self.connection.recv()

    def stop(self) -> None:
        """Ask it to save and leave what it is working on."""
        self._stop.set()

    def close(self) -> None:
        """Let it save what it is working on, within a bound, and end it."""
        self.stop()
        try:
            while self.node is not None and self.connection.poll(SAVE_SECONDS):
                if self.receive().kind not in {"step", "evaluating"}:
                    break
        except (EOFError, OSError):
            pass
        self.connection.close()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextmanager
def _main_hidden() -> Iterator[None]:
    """A spawned process would run the caller's script again before it begins; it needs nothing of it."""
    main = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)


def _serve(connection: Connection, stop: Any, prepared: Prepared, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver is told, and tells us
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Without a driver there is nobody to work for; a killed one leaves no orphan training on.
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()  # type: ignore[union-attr]
    import torch

    torch.set_num_threads(threads)
    while True:
        try:
            node = connection.recv()
        except EOFError:
            return
        _report(connection, stop, prepared, node)


def _report(connection: Connection, stop: Any, prepared: Prepared, node: Node) -> None:
    work = work_on(prepared, node)
    said = 0.0
    try:
        for message in work:
            if stop.is_set():
                work.close()
                connection.send(Message("stopped", node.run, message.tokens))
                return
            if message.kind != "step" or time.monotonic() - said > 1 / MESSAGES_A_SECOND:
                connection.send(message)
                said = time.monotonic()
        connection.send(Message("done", node.run, node.tokens))
    except Refused as refusal:
        connection.send(Message("refused", node.run, text=str(refusal)))
    except (BrokenPipeError, EOFError):  # the driver is gone
        work.close()
    except Exception as error:
        from curricle.training.loop import Diverged, NothingToLearn

        expected = isinstance(error, Diverged | NothingToLearn)
        connection.send(Message("failed", node.run, text=str(error) if expected else traceback.format_exc()))
