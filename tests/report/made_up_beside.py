"""What an evaluation says of rungs together, in the shapes of `docs/evaluation.md`."""

import math
from itertools import groupby, pairwise
from typing import Any

Rungs = dict[str, dict[str, Any]]


def made_up_beside(rungs: Rungs) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Pairs of these rungs, and what measures of the whole run say of them, by name."""
    families = [
        (about, list(own))
        for about, own in groupby(
            sorted(rungs, key=lambda n: _family(rungs[n])), lambda n: _family(rungs[n])
        )
    ]
    neighbours = [
        pair
        for _, own in families
        for pair in pairwise(sorted(own, key=lambda name: rungs[name]["num_latents"]))
    ]
    laws = [_law(about, own, loss, rungs) for about, own in families for loss in _LOSSES]
    pairs = [_pair(smaller, larger, rungs) for smaller, larger in neighbours]
    return pairs, {
        "scaling": {"rows": laws},
        "forms": {"rows": _forms(rungs)},
        "transfer": _transfer(rungs),
    }


_LOSSES = ("fvu", "delta_loss")


def _family(rung: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(rung[key]) for key in ("kind", "form", "site", "target"))


def _about(family: tuple[str, ...]) -> dict[str, Any]:
    return dict(zip(("kind", "form", "site", "target"), family, strict=True))


def _point(name: str, rungs: Rungs, *keys: str) -> dict[str, Any]:
    return {"rung": name} | {key: rungs[name][key] for key in ("num_latents", "l0", *keys)}


def _law(family: tuple[str, ...], names: list[str], loss: str, rungs: Rungs) -> dict[str, Any]:
    about = _about(family) | {"loss": loss, "rungs_left_out": {}}
    if len(names) < 3:
        return about | {"left_out": "found one width and one L0; a law needs two of one of them"}
    points = []
    for place, name in enumerate(names):
        residual = 0.02 * math.sin(3.0 * place + 1)
        point = _point(name, rungs) | {"loss": rungs[name][loss], "residual": residual}
        points.append(point | {"fitted": point["loss"] * math.exp(-residual)})
    coefficients = {"alpha": -0.61, "beta_n": -0.0934}
    return about | {
        "law": "width_only",
        "coefficients": coefficients,
        "standard_errors": {name: abs(value) / 9 for name, value in coefficients.items()},
        "r2": 0.973,
        "num_points": len(points),
        "points": points,
    }


def _pair(smaller: str, larger: str, rungs: Rungs) -> dict[str, Any]:
    width, steps = rungs[larger]["num_latents"], list(range(60))
    cosines = [width * math.exp(-(((edge - 31) / 4) ** 2)) / 8 for edge in range(40)]
    rates = [step / 50 for step in range(51)]
    return {
        "smaller": smaller,
        "larger": larger,
        "max_cosine": {
            "edges": [-1 + 0.05 * edge for edge in range(41)],
            "counts": [int(count) for count in cosines],
        },
        "mse_change": {
            "edges": [-1 + 0.05 * edge for edge in range(41)],
            "fired": [int(count) for count in cosines],
            "novel": [int(count) if bin < 34 else 0 for bin, count in enumerate(cosines)],
            "mean": [
                0.001 * (bin - 33.5) if int(count) else None for bin, count in enumerate(cosines)
            ],
        },
        "activation_similarity": {"above_cosine": 0.5, "latents": width // 3, "r_squared": 0.71},
        "latents": {
            "novel": width // 4,
            "reconstruction": width // 2,
            "never_fired": width // 4,
            "tau": 0.7,
            "below_tau": width // 3,
            "novel_below_tau": width // 5,
        },
        "roc": {
            "auc": 0.83,
            "false_positive": rates,
            "true_positive": [rate**0.2 for rate in rates],
        },
        "mse": {
            "latents": width // 4,
            "smaller": {"all": 2.75, "active": 3.292, "inactive": 2.703},
            "larger": {"all": 2.26, "active": 2.518, "inactive": 2.225},
        },
        "splitting": {
            "none": width // 4,
            "one": width // 8,
            "several": width // 16,
            "most": 3,
            "placed": width // 3,
            "counts": [width // 4, width // 8, width // 32, width // 32],
        },
        "stitching": {
            "tokens": 8192,
            "num_inserted": 40,
            "num_listed": 41,
            "num_steps": 60,
            "steps": steps,
            "mse": [2.7 - 0.01 * min(step, 40) + 0.004 * max(step - 40, 0) for step in steps],
            "l0": [32 + 0.3 * min(step, 40) - 0.6 * max(step - 40, 0) for step in steps],
        },
    }


def _forms(rungs: Rungs) -> list[dict[str, Any]]:
    group = {"group": "16K latents, k = 32, layer 2"}
    keys = (
        *("kind", "form", "site", "target", "l0", "fvu", "delta_loss"),
        *("ce_increase_percent", "loss_recovered", "dead_share"),
    )
    return [
        group | {"rung": name} | {key: rung.get(key) for key in keys}
        for name, rung in rungs.items()
        if rung["num_latents"] == 16384 and rung["k"]
    ]


def _transfer(rungs: Rungs) -> dict[str, Any]:
    rows = []
    for name, rung in rungs.items():
        for trained_on, run, factor in (("base", "a_run", 1.2), ("finetuned", "its_own", 1.0)):
            about = {
                key: rung[key] for key in ("kind", "form", "site", "target", "num_latents", "k")
            } | {"trained_on": trained_on, "run": run, "rung": name}
            about["name"] = name if trained_on == "base" else f"{run}/{name}"
            rows += [
                about | {"part": part} | _part(rung, more * factor)
                for part, more in (("prompt", 1.3), ("rollout", 1.0))
            ]
    return {
        "lm": "small-lm-finetuned",
        "temperature": 1.0,
        "sequences": 256,
        "prompt_tokens": 8014,
        "rollout_tokens": 30201,
        "clean_loss": {"prompt": 3.91, "rollout": 2.02},
        "rows": rows,
    }


def _part(rung: dict[str, Any], factor: float) -> dict[str, Any]:
    plain = {"l0": rung["l0"], "fvu": factor * rung["fvu"], "delta_loss": rung["delta_loss"]}
    rescaled = {"l0": 0.9, "fvu": 1.06, "delta_loss": 1.04}
    return (
        {"tokens": 8014}
        | plain
        | {
            f"{key}_rescaled": plain[key] * rescaled[key] if plain[key] is not None else None
            for key in plain
        }
    )
