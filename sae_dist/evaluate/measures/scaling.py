"""Scaling laws of a ladder: how the loss falls with the number of latents and with L0."""

import math
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, least_squares

from sae_dist.common.declare import Axis, Figure, Mark, Plot, Write
from sae_dist.common.groups import Rungs, groups
from sae_dist.evaluate.measure import Figures, LadderMeasure
from sae_dist.evaluate.measures.fidelity import L0_AXIS, WIDTH_AXIS
from sae_dist.evaluate.topics import SCALING, SCALING_LAWS

# Their coefficients: of the power law, and of the loss that no width takes away.
LAWS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "full": (("alpha", "beta_k", "beta_n", "gamma"), ("zeta", "eta")),
    "no_irreducible": (("alpha", "beta_k", "beta_n", "gamma"), ()),
    "no_interaction": (("alpha", "beta_k", "beta_n"), ()),
    "width_only": (("alpha", "beta_n"), ()),
    "l0_only": (("alpha", "beta_k"), ()),
}
SYMBOLS = {"alpha": "α", "beta_k": "β_k", "beta_n": "β_n", "gamma": "γ", "zeta": "ζ", "eta": "η"}
_LOSSES = ("fvu", "delta_loss")
_NUM_STARTS = 32
_SAME_L0 = 1.1  # L0s less than this factor apart say nothing about L0
_SAME_LOSS = 1e-9  # logarithms of losses no more than this apart are equal
_LEAST_EFFECT = 1e-5  # of a coefficient's change by 1 on a loss's logarithm, to be told at all


class ScalingLaws(LadderMeasure):
    """The loss over the number of latents n and L0 k of each kind, form, site and target.

        L(n, k) = exp(α + β_k log k + β_n log n + γ log k log n) + exp(ζ + η log k)

    (Gao et al. 2024, section 3.1.3), least squares of log L from several starts, for the FVU and
    for the delta loss. A law has fewer coefficients than there are rungs, and only such as these
    rungs tell apart: otherwise it is the first of the shorter `LAWS` that will do, named in `law`.
    """

    name = "scaling"
    topic = SCALING
    group = "Coefficients"
    caption = (
        "L(n, k) = exp(α + β_k ln k + β_n ln n + γ ln k ln n) + exp(ζ + η ln k) for n latents and "
        "an L0 of k, or as much of it as these rungs can tell apart, fitted to the logarithm of "
        "the loss. Each coefficient with its standard error, √diag(s² (JᵀJ)⁻¹) at the optimum."
    )
    source = f"{SCALING_LAWS}, section 3.1.3"
    figures = (
        Figure("family", "kind", write=Write.TEXT),
        Figure("place", "site", write=Write.TEXT),
        Figure("loss_heading", "loss", "`loss`: `fvu` or `delta_loss`", write=Write.TEXT),
        Figure(
            "num_points",
            "rungs",
            "that the law was fitted to: of each in `points` `rung`, `num_latents`, "
            "`l0`, `loss`, `fitted`, and `residual` = log loss − log fitted; in `rungs_left_out` "
            "by name those whose loss or L0, not above 0, has no logarithm, and why",
            write=Write.COUNT,
        ),
        Figure(
            "r2",
            "R²",
            "share of the variance of the log loss that the law explains, 1 − "
            "Σ residual² / Σ (log L − mean)²; null where all losses are equal",
        ),
        Figure("law", "law", "which of the forms these rungs can tell apart", write=Write.TEXT),
        *(
            Figure(
                f"coefficients/{name}",
                symbol,
                f"`{name}`, with its standard error",
                error=f"standard_errors/{name}",
            )
            for name, symbol in SYMBOLS.items()
        ),
        Figure("left_out", "left out", "why there is no law", write=Write.TEXT),
    )
    plots = (
        Plot(
            "law",
            Mark.POINTS,
            "Fitted scaling laws",
            "Loss against L0 of each width, or against width where all L0 are alike: "
            "measured (filled) and as the law fitted to all of them says (open, joined).",
            source=f"{SCALING_LAWS}, section 3.1.3",
            each="points",
            x=L0_AXIS,
            instead=WIDTH_AXIS,
            y=Axis("loss", "loss"),
            fitted="fitted",
            panel="title",
            join=True,
        ),
        Plot(
            "residuals",
            Mark.POINTS,
            "What the laws leave over",
            "ln(measured) − ln(fitted): 0.01 is a loss 1 % above the law. A trend along "
            "the axis or from colour to colour says that the form does not hold here.",
            each="points",
            x=L0_AXIS,
            instead=WIDTH_AXIS,
            y=Axis("ln(measured / fitted)", "residual", log=False, zero=True),
            panel="title",
        ),
    )

    @staticmethod
    def of(rungs: Rungs) -> Figures:
        """`rows`: of each group and loss `law`, `coefficients`, their `standard_errors`, `r2` and
        `points`; or in `left_out` why there are none.
        """
        rows = []
        for alike, members in groups(rungs):
            for loss in _LOSSES:
                has_it = {
                    name: rung for name, rung in members.items() if rung.get(loss) is not None
                }
                if has_it:
                    rows.append(alike | {"loss": loss} | _fitted(has_it, loss))
        return {"rows": rows}


def _fitted(rungs: Rungs, loss: str) -> dict[str, Any]:
    usable = {name: rung for name, rung in rungs.items() if rung[loss] > 0 and rung["l0"] > 0}
    about = {
        "rungs_left_out": {
            name: f"{loss if rung[loss] <= 0 else 'l0'} is not above 0"
            for name, rung in rungs.items()
            if name not in usable
        }
    }
    n, k, losses = (
        np.array([rung[key] for rung in usable.values()], dtype=np.float64)
        for key in ("num_latents", "l0", loss)
    )
    log_n, log_k, log_loss = np.log(n), np.log(k), np.log(losses)
    num_widths, num_l0s = len(np.unique(n)), _num_l0s(log_k)
    for law in _permitted(len(n), num_widths, num_l0s):
        fit = _fit(law, log_n, log_k, log_loss)
        if _tells_apart(fit.jac):
            break
    else:
        said = f"{len(n)} rungs of {num_widths} widths and {num_l0s} L0s: too few, or too much"
        return about | {"left_out": f"{said} alike, for the coefficients of any law"}
    names = [name for part in LAWS[law] for name in part]
    spread = float(np.square(log_loss - log_loss.mean()).sum())
    points = [
        {
            "rung": name,
            "num_latents": rung["num_latents"],
            "l0": rung["l0"],
            "loss": rung[loss],
            "fitted": math.exp(math.log(rung[loss]) - residual),
            "residual": residual,
        }
        for (name, rung), residual in zip(usable.items(), fit.fun.tolist(), strict=True)
    ]
    return about | {
        "law": law,
        "coefficients": dict(zip(names, fit.x.tolist(), strict=True)),
        "standard_errors": dict(zip(names, _standard_errors(fit).tolist(), strict=True)),
        "num_points": len(points),
        "r2": 1 - 2 * fit.cost / spread if np.ptp(log_loss) > _SAME_LOSS else None,
        "points": points,
    }


def _permitted(num_rungs: int, num_widths: int, num_l0s: int) -> list[str]:
    """The laws that so many rungs, widths and L0s can tell anything about, longest first."""
    enough = {
        "full": num_widths > 2 and num_l0s > 1,
        "no_irreducible": num_widths > 1 and num_l0s > 1,
        "no_interaction": num_widths > 1 and num_l0s > 1,
        "width_only": num_widths > 1 and num_l0s == 1,
        "l0_only": num_widths == 1 and num_l0s > 1,
    }
    return [law for law, parts in LAWS.items() if enough[law] and num_rungs > sum(map(len, parts))]


def _num_l0s(log_k: np.ndarray) -> int:
    """How many L0s there are, near ones counted as one."""
    gaps = np.diff(np.sort(log_k))
    return int((gaps > math.log(_SAME_L0)).sum()) + min(len(log_k), 1)


def _fit(law: str, log_n: np.ndarray, log_k: np.ndarray, log_loss: np.ndarray) -> OptimizeResult:
    """Least squares of log L; the residuals `fun` are measured less fitted."""
    columns = {
        "alpha": np.ones_like(log_n),
        "beta_k": log_k,
        "beta_n": log_n,
        "gamma": log_k * log_n,
        "zeta": np.ones_like(log_n),
        "eta": log_k,
    }
    power_NP, floor_NQ = (
        np.stack([columns[name] for name in part], 1) if part else np.empty((len(log_n), 0))
        for part in LAWS[law]
    )
    num_power, has_floor = power_NP.shape[1], floor_NQ.shape[1] > 0

    def log_parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        power_N = power_NP @ x[:num_power]
        floor_N = floor_NQ @ x[num_power:] if has_floor else np.full_like(power_N, -np.inf)
        return power_N, floor_N

    def residuals(x: np.ndarray) -> np.ndarray:
        return log_loss - np.logaddexp(*log_parts(x))

    def jacobian(x: np.ndarray) -> np.ndarray:
        power_N, floor_N = log_parts(x)
        share_N1 = np.exp(power_N - np.logaddexp(power_N, floor_N))[:, None]
        return -np.concatenate([share_N1 * power_NP, (1 - share_N1) * floor_NQ], 1)

    fits = [
        least_squares(residuals, x, jacobian, method="lm", xtol=1e-14, ftol=1e-14, gtol=1e-14)
        for x in _starts(power_NP, log_k, log_loss, has_floor)
    ]
    return min(fits, key=lambda fit: fit.cost)


def _starts(
    power_NP: np.ndarray, log_k: np.ndarray, log_loss: np.ndarray, has_floor: bool
) -> list[np.ndarray]:
    """A share of the loss taken for irreducible, and the power law of what is then left."""
    if not has_floor:
        return [np.linalg.lstsq(power_NP, log_loss)[0]]
    random = np.random.default_rng(0)
    starts = []
    for share, eta in zip(
        random.uniform(0.02, 0.98, _NUM_STARTS), random.normal(0.0, 0.5, _NUM_STARTS), strict=True
    ):
        zeta = math.log(share) + (log_loss - eta * log_k).min()
        rest_N = log_loss + np.log1p(-np.exp(zeta + eta * log_k - log_loss))
        starts.append(np.concatenate([np.linalg.lstsq(power_NP, rest_N)[0], [zeta, eta]]))
    return starts


def _tells_apart(jacobian_NP: np.ndarray) -> bool:
    """Whether the losses depend on every coefficient, and on each in its own way."""
    least = np.linalg.svd(jacobian_NP, compute_uv=False).min()
    return bool(least >= _LEAST_EFFECT * math.sqrt(len(jacobian_NP)))


def _standard_errors(fit: OptimizeResult) -> np.ndarray:
    """√diag(s² (JᵀJ)⁻¹), s² the residuals' variance over what degrees of freedom are left."""
    num_points, num_coefficients = fit.jac.shape
    inverse = np.linalg.pinv(fit.jac)
    return np.sqrt(2 * fit.cost / (num_points - num_coefficients) * np.square(inverse).sum(1))
