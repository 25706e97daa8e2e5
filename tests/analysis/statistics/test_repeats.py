"""What tokens that are read again are worth: bounds, slope and ends of the law."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricle.analysis.statistics.repeats import R_STAR, effective_tokens, worth_of_next
from curricle.study import Refused

positive = st.floats(1e3, 1e12)


@given(positive, positive, st.floats(0.1, 1e3))
def test_repeats_are_worth_less_than_new_tokens_and_never_nothing(pool: float, tokens: float, star: float) -> None:
    worth = float(effective_tokens(pool, tokens, star))
    assert worth <= tokens * (1 + 1e-12) and worth <= pool * (1 + star) * (1 + 1e-12)
    assert worth >= min(pool, tokens) * (1 - 1e-12)
    if tokens <= pool:
        assert worth == tokens
    assert float(effective_tokens(pool * 7, tokens * 7, star)) == pytest.approx(7 * worth)


@given(st.floats(1e3, 1e9), st.floats(0.2, 40))
def test_the_worth_of_the_next_token_is_the_slope(pool: float, epochs: float) -> None:
    at, step = pool * epochs, 1e-4 * pool
    slope = (effective_tokens(pool, at + step) - effective_tokens(pool, at - step)) / (2 * step)
    if abs(epochs - 1) > 1e-3:
        assert float(worth_of_next(pool, at)) == pytest.approx(float(slope), rel=1e-3, abs=1e-6)


def test_the_ends_of_the_law() -> None:
    assert effective_tokens(100, [0, 50, 100]) == pytest.approx([0, 50, 100])
    assert effective_tokens(10, 30, math.inf) == 30 and effective_tokens(10, 30, 0) == 10
    assert effective_tokens(math.inf, 5) == 5 and effective_tokens(0, 0) == 0
    assert effective_tokens(1, 1e9) == pytest.approx(1 + R_STAR)
    assert effective_tokens(1, 1 + R_STAR) == pytest.approx(1 + R_STAR * (1 - math.exp(-1)))
    for pool, tokens, star in ((0, 1, 1), (-1, 1, 1), (1, math.nan, 1), (1, 1, -1)):
        with pytest.raises(Refused):
            effective_tokens(pool, tokens, star)
