"""Sources take turns fairly: at every prefix each is within one row of its share."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.turns import Turns

weights = st.lists(st.integers(1, 60), min_size=1, max_size=7).map(
    lambda parts: {f"s{i}": part / sum(parts) for i, part in enumerate(parts)}
)


@settings(max_examples=60)
@given(weights, st.integers(1, 400))
def test_every_prefix_is_within_one_row_of_every_share(mixture, samples):
    turns = Turns(mixture, samples)
    counts = dict.fromkeys(mixture, 0)
    for i in range(samples):
        source, before = turns.at(i)
        name = turns.names[source]
        assert before == counts[name]
        counts[name] += 1
        for other, weight in mixture.items():
            assert abs(counts[other] - weight * (i + 1)) < 1 + 1e-3
    assert turns.counts(samples) == counts


@settings(max_examples=30)
@given(weights, st.integers(1, 200), st.integers(0, 200))
def test_a_turn_does_not_depend_on_how_far_one_looks(mixture, samples, more):
    short, long = Turns(mixture, samples), Turns(mixture, samples + more)
    assert [short.at(i) for i in range(samples)] == [long.at(i) for i in range(samples)]


def test_turns_far_ahead_are_counted_without_being_walked_through():
    turns = Turns({"math": 0.56, "algebra": 0.04, "arxiv": 0.10, "code": 0.20, "web": 0.10}, 122_070_313)
    counts = turns.counts(122_070_313)
    assert sum(counts.values()) == 122_070_313
    assert abs(counts["math"] - 0.56 * 122_070_313) < 1
    assert turns.period == 50


def test_the_order_sources_are_written_in_means_nothing_and_weight_0_takes_no_part():
    one, other = Turns({"a": 0.3, "b": 0.7}, 50), Turns({"b": 0.7, "z": 0.0, "a": 0.3}, 50)
    assert [one.at(i) for i in range(50)] == [other.at(i) for i in range(50)]
    assert other.names == ("a", "b")
