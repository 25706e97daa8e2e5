"""Ways to predict a mixture's losses from few runs, side by side on RegMix's swarm of 1M-parameter models.

    CURRICLE_DATA=… .venv/bin/python benchmarks/mixture.py --subsets 10

Fitted to all 512 runs, and to 128, 64 and 32 of them over random subsets
(`numpy.random.default_rng(1000 + seed).choice(512, n, replace=False)`); tested on the 256 mixtures that none was fitted
to. The recommended mixtures are judged by the law fitted to all 768 runs, the best that is known: the regret that was
said stands beside the judge's, and the limits of the mean gain are asked whether they hold the judge's gain. (The
gain's interval is not asked: it speaks about two new runs.) Intervals and recommendations of a subset rest on one fit
with its folds. One thread. LightGBM needs `pip install 'curricle[mixture]'`.

Rows are told as they come; the whole, ten subsets of three sizes and all 512 runs once, took 4.6 min of CPU.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Hashable, Sequence
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from curricle.analysis.mixture import mixture, prediction_intervals
from curricle.analysis.statistics.intervals import rank_correlation
from curricle.analysis.swarms.choosing import Problem, loss_of
from curricle.analysis.swarms.members import fit_member
from curricle.analysis.swarms.mixing_laws import fit_law
from curricle.analysis.swarms.mixture_findings import Fitted, fit_swarm
from curricle.analysis.swarms.simplex import best_on_simplex
from curricle.analysis.swarms.swarm import Swarm, read_swarm

METHODS = ("efftokens", "lightgbm", "linear", "exponential", "gp")
SIZES = (512, 128, 64, 32)
CC = "metric/the_pile_pile_cc_val_loss"


def read(folder: Path, part: str) -> Swarm:
    tables = []
    for name in ("mixture", "pile_loss"):
        with (folder / f"{part}_{name}_1m.csv").open() as file:
            tables.append(list(csv.DictReader(file)))
    return read_swarm(*tables)


def rows(swarm: Swarm) -> tuple[list[dict], list[dict]]:
    """The swarm as tables again, as `mixture` takes them."""
    ratios = [{"index": k, **dict(zip(swarm.sources, p))} for k, p in zip(swarm.keys, swarm.p_NJ)]
    return ratios, [{"index": k, **dict(zip(swarm.metrics, y))} for k, y in zip(swarm.keys, swarm.loss_NT)]


def subsets(swarm: Swarm, n: int, seeds: int) -> list[Swarm]:
    if n == len(swarm.keys):
        return [swarm]
    return [
        swarm.subset(np.random.default_rng(1000 + s).choice(len(swarm.keys), n, replace=False)) for s in range(seeds)
    ]


def variation(mixtures: Sequence[np.ndarray]) -> float:
    """Mean total variation over pairs."""
    return float(np.mean([np.abs(a - b).sum() / 2 for a, b in combinations(mixtures, 2)])) if len(mixtures) > 1 else 0.0


def ranks(method: str, runs: Swarm, test: Swarm) -> list[float]:
    """Rank correlation on Pile-CC, of the mean, and the mean over domains; regret of what is put first; seconds."""
    begun = time.process_time()
    member = fit_member(method, runs.p_NJ, runs.loss_NT)
    said = member.predict(test.p_NJ)[0]
    seconds = time.process_time() - begun
    each = [rank_correlation(said[:, t], test.loss_NT[:, t]) for t in range(said.shape[1])]
    actual = test.loss_NT.mean(1)
    regret = float(actual[said.mean(1).argmin()] - actual.min())
    together = rank_correlation(said.mean(1), actual)
    return [each[test.metrics.index(CC)], together, float(np.mean(each)), regret, seconds]


def answers(runs: Swarm, judge: Judge, targets: list[str] | None) -> dict[str, object]:
    begun = time.process_time()
    found = mixture(*rows(runs), targets=targets)  # by `fitted_once`, see main
    seconds = time.process_time() - begun
    main = found[0]
    table = {str(row["source"]): row for row in main.table}
    best = np.array([float(table[s]["recommended"]) for s in runs.sources])
    gain = next(f for f in found if f.subject == "recommended over natural")
    low, high = (float(gain.parts[name]) for name in ("mean_low", "mean_high"))  # type: ignore[arg-type]
    natural = runs.p_NJ.mean(0)
    true = judge.level(natural, targets) - judge.level(best, targets)
    return {
        "mixture": best, "regret": judge.regret(best, targets), "natural": judge.regret(natural, targets),
        "uniform": judge.regret(np.full(len(best), 1 / len(best)), targets), "said": main.parts["regret"],
        "gain": gain.estimate, "uncorrected": gain.parts["uncorrected"], "true": true,
        "held": low <= true <= high, "low": low, "high": high, "seconds": seconds,
        "starts": max(float(main.parts["fit_starts_agree"] or 0), float(main.parts["optimiser_starts_agree"] or 0)),
    }  # fmt: skip


class Judge:
    """The law on all 768 runs: what a mixture loses against the best, as far as anybody can say."""

    def __init__(self, train: Swarm, test: Swarm):
        self.metrics = train.metrics
        both = np.vstack([train.p_NJ, test.p_NJ]), np.vstack([train.loss_NT, test.loss_NT])
        self.law = fit_law("efftokens", *both)
        self.most = np.ones(both[0].shape[1])

    def function(self, targets: list[str] | None):
        chosen = self.metrics if targets is None else targets
        weights = np.array([1.0 * (m in chosen) for m in self.metrics]) / len(chosen)
        free = np.full(len(self.most), np.inf)
        return loss_of(
            self.law, Problem(weights, self.most, self.most, free, np.full(len(weights), np.inf), self.metrics)
        )

    def level(self, p: np.ndarray, targets: list[str] | None) -> float:
        return self.function(targets)(np.maximum(p, 1e-12))[0]

    def regret(self, p: np.ndarray, targets: list[str] | None) -> float:
        return self.level(p, targets) - best_on_simplex(self.function(targets), self.most).value


def held(runs: Swarm, test: Swarm) -> list[float]:
    """Share of held-out losses inside their 90 % interval: Pile-CC, the least and the mean over domains; the width."""
    low, high = prediction_intervals(fitted_once(runs), test.p_NJ)
    inside = ((low <= test.loss_NT) & (test.loss_NT <= high)).mean(0)
    return [inside[test.metrics.index(CC)], inside.min(), inside.mean(), float((high - low).mean())]


FITTED: dict[tuple[Hashable, ...], Fitted] = {}


def fitted_once(swarm: Swarm, method: str = "auto", seed: int = 0) -> Fitted:
    """`fit_swarm`, whose ten folds are most of the work, once a subset: for its intervals and for every target."""
    key = (swarm.keys, method, seed)
    if key not in FITTED:
        FITTED[key] = fit_swarm(swarm, method, seed)
    return FITTED[key]


def row(table: list[str], *cells: object) -> None:
    table.append(f"| {' | '.join(map(str, cells))} |")
    print(table[-1], file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subsets", type=int, default=10)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--answers", default=",".join(map(str, SIZES)), help="sizes at which mixtures are recommended")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    folder = Path(os.environ["CURRICLE_DATA"]) / "swarms" / "regmix"
    train, test = read(folder, "train"), read(folder, "test")
    judge = Judge(train, test)
    # `mixture` fits what it is given; here it is given each subset for several targets.
    sys.modules["curricle.analysis.mixture"].fit_swarm = fitted_once  # type: ignore[attr-defined]
    methods = given.methods.split(",")
    begun = time.process_time()
    predicted = [
        "| runs | method | Pile-CC | mean of 13 | each, mean | regret of the first | CPU s |",
        "|" + "---|" * 7,
    ]
    covered = ["| runs | Pile-CC | least domain | all domains | mean width |", "|" + "---|" * 5]
    chosen = [
        "| runs | target | regret by the judge | regret said | natural's | uniform's | total variation | gain said "
        "| uncorrected | mean gain at least | at most | gain by the judge | between the two | starts | CPU s |",
        "|" + "---|" * 15,
    ]
    answered = {int(n) for n in given.answers.split(",") if n}
    for n in map(int, given.sizes.split(",")):
        parts = subsets(train, n, given.subsets)
        FITTED.clear()
        for method in methods:
            made = np.array([ranks(method, part, test) for part in parts])
            m, sd = made.mean(0), made.std(0)
            cells = [f"{m[i]:.4f}{f' ± {sd[i]:.4f}' if len(parts) > 1 else ''}" for i in range(2)]
            row(predicted, n, method, *cells, f"{m[2]:.4f}", f"{m[3]:.4f}", f"{m[4]:.1f}")
        if n not in answered:
            continue
        c = np.mean([held(part, test) for part in parts], 0)
        row(covered, n, *(f"{x:.3f}" for x in c))
        for name, targets in (("mean of 13", None), ("Pile-CC", [CC])):
            said = [answers(part, judge, targets) for part in parts]
            a = {k: np.mean([float(x[k]) for x in said]) for k in said[0] if k != "mixture"}  # type: ignore[arg-type]
            apart = f"{variation([x['mixture'] for x in said]):.3f}" if len(said) > 1 else "–"  # type: ignore[misc]
            starts = max(float(x["starts"]) for x in said)  # type: ignore[arg-type]
            losses = [f"{a[k]:.4f}" for k in ("regret", "said", "natural", "uniform")]
            gains = [f"{a[k]:+.4f}" for k in ("gain", "uncorrected", "low", "high", "true")]
            row(chosen, n, name, *losses, apart, *gains, f"{a['held']:.2f}", f"{starts:.0e}", f"{a['seconds']:.1f}")
    sections = (
        ("The order of 256 unseen mixtures", predicted),
        ("90 % intervals of their losses, held", covered),
        ("The recommended mixture", chosen),
    )
    text = "# Mixtures: 1M-parameter proxies of RegMix, in one run\n\n"
    text += "\n\n".join("\n".join([f"## {title}", "", *table]) for title, table in sections)
    text += f"\n\n`benchmarks/mixture.py --subsets {given.subsets}`; all 512 runs are one subset. Means over subsets, "
    text += (
        f"± their standard deviation; regrets and gains in nats. {(time.process_time() - begun) / 60:.1f} min of CPU, "
    )
    text += "one thread.\n"
    if given.out:
        given.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
