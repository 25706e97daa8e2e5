"""κ: complementarity is claimed only where every law without it is left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from simulated import script

from curricle.analysis.finding import ACCURACY
from curricle.analysis.rows.cells import read_factorial
from curricle.analysis.synergy import data_of, law, profile, synergy
from curricle.study import Refused

sim = script("transfer")


def scenario(kappa: float, sigma: float = 0.005, **more):
    return sim.Scenario("", sim.effective(kappa, d=more.pop("d", 0.3)), sigma=sigma, **more)


def found(kappa: float, sigma: float = 0.005, seed: int = 0, **more):
    made = scenario(kappa, sigma, **more)
    return synergy(made.rows(np.random.default_rng(seed)), filler="prose" if made.filler else None)


def test_the_derivatives_of_the_law_are_those_of_differences() -> None:
    design = read_factorial(scenario(1.0, filler=True).rows(np.random.default_rng(0)), ("code", "math"), filler="prose")
    data = data_of(design, range(9))
    random, step = np.random.default_rng(1), 1e-6
    theta, kappa = random.normal(0, 1, (5, 7)), np.array([-1.5, -0.5, 0.0, 1.0, 8.0])
    _, slopes = law(theta, kappa, data)
    for k in range(7):
        shift = np.eye(7)[k] * step
        numeric = (law(theta + shift, kappa, data)[0] - law(theta - shift, kappa, data)[0]) / (2 * step)
        np.testing.assert_allclose(slopes[:, :, k], numeric, rtol=1e-4, atol=1e-7)


def test_without_noise_the_profile_has_its_foot_at_the_truth() -> None:
    for kappa in (0.0, 3.0):
        f = found(kappa, sigma=1e-6)
        assert f.estimate == pytest.approx(kappa, abs=0.05) and f.interval().contains(kappa)
        assert f.parts["complementary"] is (kappa > 0)


def test_kappa_2_with_nothing_to_start_from_is_another_law_without_synergy() -> None:
    """(k, r, κ = 2, β) and (√k, r/2, 0, 2β) are one law at d = 0, so synergy cannot be claimed there."""
    u, v = np.array([0.2, 0.5, 1.0]), np.array([0.3, 0.4, 2.0])
    np.testing.assert_allclose(u**2 + v**2 + 2 * u * v, (u + v) ** 2)
    f = found(2.0, sigma=0.001, d=1e-6)
    assert f.interval().low < 0.1 and not f.parts["complementary"]


def test_real_synergy_is_claimed_and_substitution_is_not_called_so() -> None:
    assert found(3.0, sigma=0.002).parts["complementary"] and "is claimed" in found(3.0, sigma=0.002).note
    f = found(-1.0, sigma=0.002)
    assert f.parts["substitutes"] and not f.parts["complementary"]


def test_the_profile_is_never_above_what_other_starts_reach() -> None:
    from scipy.optimize import least_squares

    design = read_factorial(scenario(0.0).rows(np.random.default_rng(5)), ("code", "math"))
    data = data_of(design, range(9))
    p = profile(data)
    random = np.random.default_rng(2)

    def residual(theta: np.ndarray, kappa: float) -> np.ndarray:
        return np.sqrt(3) * (data.loss_C - law(theta[None], np.array([kappa]), data)[0][0])

    for g in (5, 20, 30):
        for _ in range(6):
            start = p.thetas[g] + random.normal(0, 1, 6)
            other = 2 * least_squares(residual, start, args=(p.kappas[g],), max_nfev=300).cost
            assert p.losses[g] <= other + 1e-4 * 0.005**2 + 1e-6 * other


def test_a_unit_of_tokens_does_not_matter() -> None:
    made = scenario(1.0).rows(np.random.default_rng(0))
    scaled = [{k: v * 1e3 if k.startswith("dose:") else v for k, v in row.items()} for row in made]
    one, other = synergy(made), synergy(scaled)
    assert other.estimate == pytest.approx(one.estimate, abs=1e-6)
    assert other.interval().low == pytest.approx(one.interval().low, abs=1e-6)


def test_where_the_law_does_not_fit_the_interval_rests_on_the_misfit() -> None:
    f = synergy(sim.Scenario("", sim.separate, sigma=0.002).rows(np.random.default_rng(0)))
    assert f.parts["lack_of_fit_p"] < 0.05 and "rests on the misfit" in f.note and not f.parts["complementary"]


@pytest.mark.parametrize("filler", [False, True])
def test_as_many_cells_as_parameters_have_an_interval_and_no_test_of_the_law(filler: bool) -> None:
    made = scenario(0.0, filler=filler)
    kept = [tuple(cell) for cell in made.cells[: 8 if filler else 7, :2]]
    rows = [r for r in made.rows(np.random.default_rng(0)) if (r["dose:code"], r["dose:math"]) in kept]
    f = synergy(rows, filler="prose" if filler else None)
    assert f.parts["lack_of_fit_p"] is None and "does not fit" not in f.note
    assert f.estimate is not None and f.interval().contains(0.0)


def test_a_law_that_fits_is_not_said_to_fail_where_the_degrees_of_freedom_are_as_many() -> None:
    rows = scenario(0.0).rows(np.random.default_rng(1))
    again = [(0.0, 4e6), (4e6, 0.0)]  # two cells with a second run: 2 degrees of freedom, as 9 cells leave of 7
    f = synergy([r for r in rows if r["seed"] == 0 or (r["seed"] == 1 and (r["dose:code"], r["dose:math"]) in again)])
    assert f.parts["df"] == 2 and f.parts["lack_of_fit_p"] > 0.05 and "does not fit" not in f.note


def test_what_cannot_tell_kappa_says_so_and_claims_nothing() -> None:
    rows = scenario(3.0).rows(np.random.default_rng(0))
    four = [r for r in rows if r["dose:code"] in (0, 4e6) and r["dose:math"] in (0, 4e6)]
    for made in (four, [r for r in rows if r["seed"] == 0]):
        f = synergy(made)
        assert f.estimate is None and f.undefined and f.parts["complementary"] is False
    with pytest.raises(Refused, match="law of the loss"):
        synergy([{**r, "measure": ACCURACY} for r in rows])


def test_the_finding_is_plain_json_with_its_profile_as_a_table() -> None:
    f = found(0.0)
    json.dumps(f.to_json(), allow_nan=False)
    assert min(row["excess"] for row in f.table) == 0.0 and f.unit == "κ"


@pytest.mark.slow
def test_complementarity_is_falsely_claimed_no_more_often_than_said() -> None:
    for null in (scenario(0.0), sim.Scenario("", sim.separate, sigma=0.005)):
        held = sim.kappas(null, 12, seed=21)
        assert sum(held["claimed"]) <= 2
