"""The order in which sources take turns: whose row is sample `i`, for a mixture and nothing else.

It is arithmetic on the weights alone, so the plan counts with it before any data is read, and the sampler draws by it.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np

RESOLUTION = 10**6  # weights are read to six digits, so the turns repeat after at most a million samples


class Turns:
    """Which source gives sample `i`, and how many of its rows came before.

    The k-th row of a source with share w (k = 1, 2, …) may not come before sample ⌊(k−1)/w⌋ and must come before
    ⌈k/w⌉; taking the earliest deadline among those allowed always succeeds, and is within one row of every share at
    every prefix (proportionate fairness: Baruah, Cohen, Plaxton and Varvel, Algorithmica 15, 1996). Shares are
    rational, so the turns are periodic: one period is worked out, the rest is arithmetic.
    """

    def __init__(self, weights: Mapping[str, float], samples: int):
        """`samples` is how far the turns will be asked for; it bounds the work and changes nothing else."""
        # Sources of weight 0 take no part; names are sorted, so that the order they were written in means nothing.
        exact = {n: Fraction(round(w * RESOLUTION), RESOLUTION) for n, w in sorted(weights.items()) if w > 0}
        total = sum(exact.values())
        shares = [w / total for w in exact.values()]
        self.names = tuple(exact)
        self.period = math.lcm(*(s.denominator for s in shares))
        self._per_period = np.array([int(s * self.period) for s in shares], np.int64)
        self._source, self._before = _walked(tuple(self._per_period.tolist()), self.period, min(self.period, samples))

    def at(self, i: int) -> tuple[int, int]:
        """(index of the source, how many of its rows came before) for sample `i`."""
        periods, place = divmod(i, self.period)
        source = int(self._source[place])
        return source, int(periods * self._per_period[source] + self._before[place])

    def counts(self, samples: int) -> dict[str, int]:
        """Rows that each source gives among the first `samples`."""
        periods, rest = divmod(samples, self.period)
        tail = np.bincount(self._source[:rest], minlength=len(self.names))
        return dict(zip(self.names, (int(n) for n in periods * self._per_period + tail), strict=True))


class PhasedTurns:
    """Turns of several mixtures, one after the other: `(samples at which it ends, weights)` for each.

    What comes before a sample depends on no later phase, so a phase that is added leaves the others as they were.
    """

    def __init__(self, phases: Sequence[tuple[int, Mapping[str, float]]]):
        self.ends = [end for end, _ in phases]
        self._starts = [0, *self.ends[:-1]]
        self._turns = [Turns(w, end - start) for (end, w), start in zip(phases, self._starts, strict=True)]
        self.names = tuple(sorted({name for turns in self._turns for name in turns.names}))
        self._place = {name: at for at, name in enumerate(self.names)}
        self._before = [dict.fromkeys(self.names, 0)]
        for turns, start, end in zip(self._turns, self._starts, self.ends, strict=True):
            gives = turns.counts(end - start)
            self._before.append({name: n + gives.get(name, 0) for name, n in self._before[-1].items()})

    def at(self, i: int) -> tuple[int, int]:
        """(index of the source in `names`, how many of its rows came before) for sample `i`."""
        phase = min(bisect.bisect_right(self.ends, i), len(self.ends) - 1)  # the last goes on
        turns = self._turns[phase]
        source, before = turns.at(i - self._starts[phase])
        name = turns.names[source]
        return self._place[name], self._before[phase][name] + before

    def counts(self, samples: int) -> dict[str, int]:
        """Rows that each source gives among the first `samples`."""
        phase = min(bisect.bisect_right(self.ends, samples), len(self.ends) - 1)
        gives = self._turns[phase].counts(samples - self._starts[phase])
        return {name: n + gives.get(name, 0) for name, n in self._before[phase].items()}

    def each(self) -> Iterator[dict[str, int]]:
        """Rows that each source of a phase gives to it, phase after phase."""
        for turns, start, end in zip(self._turns, self._starts, self.ends, strict=True):
            yield turns.counts(end - start)


@functools.lru_cache(maxsize=64)
def _walked(per_period: tuple[int, ...], period: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `length` turns: for each the source, and how many of its rows came before. Whole numbers throughout:
    the k-th row of a source with a rows in a period is due in the window from ⌊(k−1)·period/a⌋ to ⌈k·period/a⌉."""
    sources, befores = np.empty(length, np.int16), np.empty(length, np.int64)
    counts = [0] * len(per_period)
    opens = [0 if a else length for a in per_period]  # a weight below the resolution is never due
    due = [-(-period // a) if a else 0 for a in per_period]
    for i in range(length):
        chosen = min((d, s) for s, d in enumerate(due) if opens[s] <= i)[1]
        sources[i], befores[i] = chosen, counts[chosen]
        counts[chosen] += 1
        a = per_period[chosen]
        opens[chosen] = counts[chosen] * period // a
        due[chosen] = -(-(counts[chosen] + 1) * period // a)
    return sources, befores
