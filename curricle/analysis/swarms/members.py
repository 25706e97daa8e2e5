"""The ways to predict a loss from proportions, under one name each: laws, a process, boosted trees, an average.

    member = fit_member("auto", p_NJ, loss_NT)
    member.predict(p_MJ)[0]       # (M, T)

All predict every target by itself. `auto` is the effective-token law: choosing among methods on few runs adds noise,
and a law carries over to larger models where a process does not (docs/theory.md, section 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from curricle.analysis.swarms.mixing_laws import FORMS, Law, fit_law
from curricle.analysis.swarms.process import Process, fit_process
from curricle.study import Refused, nearest

METHODS = ("auto", *FORMS, "gp", "lightgbm", "average")
AVERAGED = ("efftokens", "gp")
TREES = {"objective": "regression", "learning_rate": 0.01, "seed": 42, "verbosity": -1, "num_threads": 1}
ROUNDS = 1000  # RegMix's number, without its early stopping on the runs that it is tested on


class Member(Protocol):
    """A fitted way to predict, with R replicates (refits on weightings of the runs)."""

    def predict(self, p_NJ: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Average:
    members: tuple[Member, ...]

    def predict(self, p_NJ: np.ndarray) -> np.ndarray:
        return np.mean([member.predict(p_NJ) for member in self.members], axis=0)


@dataclass(frozen=True, slots=True)
class Trees:
    boosters: tuple[tuple[Any, ...], ...]  # R × T

    def predict(self, p_NJ: np.ndarray) -> np.ndarray:
        return np.array([[booster.predict(p_NJ) for booster in row] for row in self.boosters]).transpose(0, 2, 1)


def known(method: str) -> str:
    """The method's own name: what `auto` stands for, resolved."""
    if method not in METHODS:
        raise Refused(f"--method {method}: unknown; {nearest(method, METHODS)}")
    return "efftokens" if method == "auto" else method


def fit_member(
    method: str, p_NJ: np.ndarray, loss_NT: np.ndarray, weights_RN: np.ndarray | None = None, like: Any = None
) -> Member:
    """Fit on all runs, or, with `weights_RN`, once for each weighting; `like` is the same method's fit on all runs."""
    method = known(method)
    if method in FORMS:
        return fit_law(method, p_NJ, loss_NT, weights_RN, like if isinstance(like, Law) else None)
    if method == "gp":
        return fit_process(p_NJ, loss_NT, weights_RN, like if isinstance(like, Process) else None)
    if method == "average":
        parts = like.members if isinstance(like, Average) else (None,) * len(AVERAGED)
        return Average(tuple(fit_member(m, p_NJ, loss_NT, weights_RN, part) for m, part in zip(AVERAGED, parts)))
    return _trees(p_NJ, loss_NT, np.ones((1, len(p_NJ))) if weights_RN is None else weights_RN)


def _trees(p_NJ: np.ndarray, loss_NT: np.ndarray, weights_RN: np.ndarray) -> Trees:
    try:
        import lightgbm
    except ImportError:
        raise Refused("--method lightgbm needs the package lightgbm: pip install 'curricle[mixture]'") from None
    rows = []
    for weight in weights_RN:
        used = weight > 0
        rows.append(
            tuple(
                lightgbm.train(TREES, lightgbm.Dataset(p_NJ[used], loss, weight=weight[used]), ROUNDS)
                for loss in loss_NT[used].T
            )
        )
    return Trees(tuple(rows))
