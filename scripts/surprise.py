"""Why text with much in it can give little, tested on real LaTeX: mismatch or capacity (docs/theory.md, 5).

    curricle run single-source          # for a model by which pieces of text are judged
    python scripts/surprise.py split --model base/FINGERPRINT --out bins
    curricle run bins/surprise-small.yaml --store bins/store
    curricle run bins/surprise-large.yaml --store bins/store
    python scripts/surprise.py judge bins

`split` cuts the LaTeX of $CURRICLE_DATA into pieces of about a row, takes a sample, and sorts it into bins of equal
size by how large a piece's gradient is (c); beside the bins it writes a study for each of two sizes, in which every bin
is read alone from one common beginning. `judge` measures r and c of each bin at each size and seed, where the bins
begin, and puts the gains to the test.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from curricle.analysis import outcomes, surprise
from curricle.analysis.asked.valued import read_alone
from curricle.corpus.documents import Document
from curricle.corpus.files import file_documents
from curricle.evaluation import benchmarks, valuation
from curricle.progress import Reading
from curricle.results import Results
from curricle.running import models
from curricle.store import Store, whole_file
from curricle.study import Files
from curricle.studyfile import parse_benchmark
from curricle.training.model import load

BINS, PIECES, LETTERS, CONTEXT = 6, 9_000, 700, 256
SIZES = {"small": "0.4m", "large": "3m"}
SEEDS = (0, 1, 2)
TARGET = "math solutions"
AIM = 256  # solutions by which relevance is measured
JUDGED = 30  # every so many-th piece of a bin has its r and c measured at each size and seed
STUDY = """\
# What a bin of arXiv-like text gives, read alone; made by scripts/surprise.py
question: Does LaTeX of each complexity lower the loss on MATH's solutions, by as much as its gradient says?
model: {{preset: {preset}, context: {context}}}
tokenizer: {{bpe: 512}}
sources:
  web: {{files: $CURRICLE_DATA/corpora/web-*.jsonl.zst}}
  mathweb: {{files: $CURRICLE_DATA/corpora/mathweb-*.jsonl.zst}}
{sources}
stages:
  base: {{budget_tokens: 300k, mixture: {{web: .7, mathweb: .3}}}}
{stages}
strategies:
  base: [base]
{strategies}
baseline: base
benchmarks:
  {target}:
    {{file: $CURRICLE_DATA/benchmarks/math/test.jsonl.gz, format: math, problems: 400, shots: 0, answers: false}}
held_out: {{share: .02, scored_bytes: 4k}}
recipe: {{optimizer: adamw, batch_tokens: 512, learning_rate: 1.0e-3, schedule: constant}}
seeds: [{seeds}]
"""


def data(name: str) -> Path:
    if "CURRICLE_DATA" not in os.environ:
        raise SystemExit("CURRICLE_DATA is not set; set it to the folder that holds corpora/ and benchmarks/")
    return Path(os.environ["CURRICLE_DATA"]) / name


def pieces_of(text: str) -> Iterator[str]:
    """Whole paragraphs together until they are about a row."""
    kept = ""
    for paragraph in text.split("\n\n"):
        kept = f"{kept}\n\n{paragraph}" if kept else paragraph
        if len(kept) >= LETTERS:
            yield kept[: 2 * LETTERS]
            kept = ""


def split(model: str, store: Path, out: Path) -> None:
    out.mkdir(parents=True)  # before anything is measured
    found = [
        Document(f"{document.id}#{k}", piece, "arxiv", group=document.id)
        for document in file_documents(Files(files=(str(data("corpora/arxiv-*.jsonl.zst")),)), "arxiv", Path)
        for k, piece in enumerate(pieces_of(document.text))
    ]
    sample = random.Random(0).sample(found, PIECES)
    loaded, tokenizer = load(models.model_of(Store(store), model))
    given = {"arxiv": valuation.pieces(sample, tokenizer, CONTEXT)}
    rows = valuation.by_gradients(loaded, tokenizer, aim(tokenizer), given, watch=Reading(Console(stderr=True)))
    order = np.argsort([row["c"] for row in rows])
    for number, part in enumerate(np.array_split(order, BINS), start=1):
        with whole_file(out / f"bin-{number}.jsonl", "w") as file:
            for k in sorted(part.tolist()):  # pieces of one document are never split over training and held-out text
                file.write(json.dumps({"text": sample[k].text, "repo": sample[k].group}) + "\n")
    names = [f"bin {number}" for number in range(1, BINS + 1)]
    for size, preset in SIZES.items():
        text = STUDY.format(
            preset=preset, context=CONTEXT, target=TARGET, seeds=", ".join(map(str, SEEDS)),
            sources="\n".join(f"  {n}: {{files: {n.replace(' ', '-')}.jsonl}}" for n in names),
            stages="\n".join(
                f"  {n} alone: {{mixture: {{{n}: 1}}, budget_tokens: 50k, init_from: weights and optimizer}}"
                for n in names
            ),
            strategies="\n".join(f"  {n}: [base, {n} alone]" for n in names),
        )  # fmt: skip
        (out / f"surprise-{size}.yaml").write_text(text)


def aim(tokenizer: Any) -> list[valuation.Piece]:
    """A sample of solutions by which relevance is measured."""
    spec = parse_benchmark(f"math={data('benchmarks/math/test.jsonl.gz')}", None, 0, 1)[1]
    items = benchmarks.load("math", spec).items
    documents = [Document(item.id, item.reference, "math", item.prompt) for item in items]
    return valuation.pieces(valuation.chosen(documents, AIM), tokenizer, CONTEXT)


def judge(out: Path) -> list[dict[str, Any]]:
    """The rows for `surprise`: r and c of every bin where the bins begin, and what training on it gave at its end."""
    rows = []
    for size in SIZES:
        results = Results(Path("runs") / f"surprise-{size}" / "results")
        of_target = [row for row in outcomes(results) if row["benchmark"] == TARGET]
        begin = {row["seed"]: row["run"] for row in of_target if row["strategy"] == "base" and row["seed"] in SEEDS}
        ends = {(alone.source, alone.seed): alone.gains[max(alone.gains)] for alone in read_alone(of_target)}
        for seed, run in begin.items():
            loaded, tokenizer = load(models.model_of(Store(out / "store"), run))
            given = {
                f"bin {number}": valuation.pieces(
                    list(file_documents(Files(files=(str(out / f"bin-{number}.jsonl"),)), "bin", Path))[::JUDGED],
                    tokenizer, CONTEXT,
                )
                for number in range(1, BINS + 1)
            }  # fmt: skip
            measured = valuation.by_gradients(loaded, tokenizer, aim(tokenizer), given)
            for name in given:
                here = [row for row in measured if row["source"] == name]
                weight = np.array([row["tokens"] for row in here], float)
                c = float(np.average([row["c"] for row in here], weights=weight))
                rc = float(np.average([row["r"] * row["c"] for row in here], weights=weight))
                rows.append(
                    {"size": float(loaded.num_parameters()), "seed": seed, "complexity": c, "relevance": rc / c,
                     "gain": ends[name, seed], "bin": name}
                )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    first = verbs.add_parser("split")
    first.add_argument("--model", required=True)
    first.add_argument("--store", type=Path, default=Path("runs/store"))
    first.add_argument("--out", type=Path, required=True)
    verbs.add_parser("judge").add_argument("out", type=Path)
    told = parser.parse_args()
    if told.verb == "split":
        split(told.model, told.store, told.out)
        return
    rows = judge(told.out)
    print("| parameters | bin | c | r | gain, bits per byte (seeds) |\n|---|---|---|---|---|")
    for size in sorted({row["size"] for row in rows}):
        for name in dict.fromkeys(row["bin"] for row in rows):
            here = [row for row in rows if row["size"] == size and row["bin"] == name]
            c, r = (float(np.mean([row[key] for row in here])) for key in ("complexity", "relevance"))
            gains = ", ".join(f"{row['gain']:+.3f}" for row in here)
            print(f"| {size:,.0f} | {name} | {c:.3g} | {r:.3f} | {gains} |")
    found = surprise(rows)
    print(f"\n{found.sentence()}\n{found.note}")


if __name__ == "__main__":
    main()
