import json
import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from sae_dist.evaluate.measures.scaling import ScalingLaws
from tests.evaluate.made_up import rung

# Gao et al. 2024, section 3.1.3, of GPT-4
GAO = {"alpha": -0.50, "beta_k": 0.26, "beta_n": -0.017, "gamma": -0.042, "zeta": -1.32}
GAO["eta"] = -0.085
POWER = {name: GAO[name] for name in ("alpha", "beta_k", "beta_n", "gamma")}
WIDTHS, SPARSITIES = [2**i for i in range(11, 20, 2)], [16, 32, 64, 128]


def loss(n: int, k: float, c: dict[str, float]) -> float:
    """The formula as the paper prints it."""
    log_n, log_k = math.log(n), math.log(k)
    power = c.get("beta_k", 0) * log_k + c.get("beta_n", 0) * log_n
    floor = math.exp(c["zeta"] + c["eta"] * log_k) if "zeta" in c else 0.0
    return math.exp(c["alpha"] + power + c.get("gamma", 0) * log_k * log_n) + floor


def ladder(
    coefficients: dict[str, float],
    widths: list[int] = WIDTHS,
    sparsities: list[int] = SPARSITIES,
    noise: float = 0.0,
) -> dict[str, dict[str, Any]]:
    random = np.random.default_rng(0)
    return {
        f"{n}-{k}": rung(n, k, fvu=loss(n, k, coefficients) * math.exp(noise * random.normal()))
        for n, k in product(widths, sparsities)
    }


def only(rungs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (found,) = ScalingLaws.of(rungs)["rows"]
    return json.loads(json.dumps(found, allow_nan=False))


def test_published_coefficients_are_found_again() -> None:
    found = only(ladder(GAO))
    assert found["law"] == "full"
    assert found["coefficients"] == pytest.approx(GAO, abs=1e-6)
    assert found["r2"] == pytest.approx(1)
    assert (found["kind"], found["form"], found["site"], found["loss"]) == (
        *("topk", "autoencoder", "mlp_out.3", "fvu"),
    )


def test_an_irreducible_loss_is_told_from_noise() -> None:
    found = only(ladder(GAO, noise=0.001))
    assert found["law"] == "full"
    for name, value in GAO.items():
        error = found["standard_errors"][name]
        assert 0 < error < 0.3
        assert abs(found["coefficients"][name] - value) < 4 * error


def test_residuals_are_those_of_the_logarithm() -> None:
    found = only(ladder(GAO, noise=0.01))
    points = found["points"]
    assert [point["rung"] for point in points] == [f"{n}-{k}" for n in WIDTHS for k in SPARSITIES]
    log_losses = []
    for point in points:
        fitted = loss(point["num_latents"], point["l0"], found["coefficients"])
        assert point["fitted"] == pytest.approx(fitted)
        assert point["residual"] == pytest.approx(math.log(point["loss"] / fitted), abs=1e-9)
        log_losses.append(math.log(point["loss"]))
    residuals = np.array([point["residual"] for point in points])
    assert found["r2"] == pytest.approx(1 - (residuals**2).mean() / np.var(log_losses))
    assert 0.003 < residuals.std() < 0.02


@pytest.mark.parametrize(
    ("law", "coefficients", "widths", "sparsities"),
    [
        ("no_irreducible", POWER, WIDTHS, SPARSITIES),  # there is none in it
        ("no_irreducible", POWER, [256, 512], [8, 16, 32, 64]),  # a bend needs three widths
        ("no_interaction", {"alpha": 1, "beta_k": -0.4, "beta_n": -0.2}, [256, 512], [8, 16]),
        ("width_only", {"alpha": 1, "beta_n": -0.2}, [256, 512, 1024], [8]),
        ("l0_only", {"alpha": 1, "beta_k": -0.4}, [256], [8, 16, 32]),
    ],
)
def test_fewer_rungs_have_a_shorter_law_that_says_so(
    law: str, coefficients: dict[str, float], widths: list[int], sparsities: list[int]
) -> None:
    found = only(ladder(coefficients, widths, sparsities))
    assert found["law"] == law
    assert found["coefficients"] == pytest.approx(coefficients, abs=1e-6)


def test_a_straight_line_by_hand() -> None:
    found = only(
        {name: rung(n, 8, fvu=f) for name, n, f in (("a", 1, 1), ("b", 2, 2), ("c", 4, 1))}
    )
    # log₂ loss is 0, 1, 0 at log₂ n = 0, 1, 2: the line through it is flat, at 1/3
    assert found["law"] == "width_only" and found["r2"] == pytest.approx(0, abs=1e-9)
    third = math.log(2) / 3
    assert found["coefficients"] == pytest.approx({"alpha": third, "beta_n": 0}, abs=1e-9)
    residuals = [point["residual"] for point in found["points"]]
    assert residuals == pytest.approx([-third, 2 * third, -third])
    # s² = 6 third² over one degree of freedom; (JᵀJ)⁻¹ is 5/6 and, in log₂ n, 1/2
    errors = {"alpha": third * math.sqrt(5), "beta_n": third * math.sqrt(3) / math.log(2)}
    assert found["standard_errors"] == pytest.approx(errors)


@pytest.mark.parametrize(
    ("rungs", "said"),
    [
        ({"a": rung(256, 8)}, "1 rungs of 1 widths and 1 L0s"),
        ({"a": rung(256, 8), "b": rung(512, 8)}, "2 rungs of 2 widths and 1 L0s"),
        ({n: rung(256, 8) for n in "abc"}, "3 rungs of 1 widths and 1 L0s"),
        ({str(i): rung(2**i, 2**i) for i in range(6)}, "6 rungs of 6 widths and 6 L0s"),
        ({str(i): rung(2**i, 8, fvu=0.0) for i in range(6)}, "0 rungs of 0 widths and 0 L0s"),
    ],
    ids=["one", "two", "alike", "n and k as one", "no loss"],
)
def test_rungs_that_tell_no_law_say_why(rungs: dict[str, dict[str, Any]], said: str) -> None:
    found = only(rungs)
    assert found["left_out"].startswith(said)
    assert "coefficients" not in found and "points" not in found


def test_equal_losses_have_no_r2() -> None:
    found = only({str(n): rung(n, 8) for n in (256, 512, 1024)})
    assert found["r2"] is None
    assert found["coefficients"] == pytest.approx({"alpha": math.log(0.5), "beta_n": 0}, abs=1e-9)


def test_each_loss_and_group_has_a_law_of_its_own() -> None:
    rungs = {str(n): rung(n, 8, fvu=n**-0.5, delta_loss=n**-0.25) for n in (256, 512, 1024)}
    rungs["bad"] = rung(2048, 8, fvu=2048**-0.5, delta_loss=-0.01)
    rungs |= {f"skip{n}": rung(n, 8, form="skip_transcoder", site="mlp_in.3") for n in (256, 512)}
    by_key = {(law["form"], law["loss"]): law for law in ScalingLaws.of(rungs)["rows"]}
    assert by_key.keys() == {
        *(("autoencoder", "fvu"), ("autoencoder", "delta_loss"), ("skip_transcoder", "fvu")),
    }
    fvu, delta = by_key["autoencoder", "fvu"], by_key["autoencoder", "delta_loss"]
    assert fvu["coefficients"]["beta_n"] == pytest.approx(-0.5)
    assert (fvu["rungs_left_out"], len(fvu["points"])) == ({}, 4)
    assert delta["coefficients"]["beta_n"] == pytest.approx(-0.25)
    assert delta["rungs_left_out"] == {"bad": "delta_loss is not above 0"}
    assert len(delta["points"]) == 3


def test_l0s_that_hardly_differ_are_not_a_sparsity_each() -> None:
    rungs = {str(n): rung(n, 8, l0=8 + n / 1e5, fvu=n**-0.5) for n in (256, 512, 1024, 2048)}
    assert only(rungs)["law"] == "width_only"
