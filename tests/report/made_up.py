"""A run that never was, written as the trainer and the evaluator write theirs."""

import json
import math
from pathlib import Path
from typing import Any

from sae_dist.evaluate.results import (
    VERSION,
    pair_path,
    run_path,
    rung_path,
    write_figures,
    write_record,
)
from tests.report.made_up_beside import made_up_beside

EDGES_LOG10 = [-7.0 + 0.25 * i for i in range(29)]


def made_up_rungs(with_lm: bool = True) -> dict[str, dict[str, Any]]:
    """Three widths of JumpReLU and of TopK, and a skip transcoder; this one with the figures of a
    crosscoder's sites, too, so that their plots are drawn.
    """
    rungs = {}
    for shift, kind in ((0.0, "jumprelu"), (0.015, "topk")):
        for step, width in enumerate((4096, 16384, 65536)):
            rungs[f"{kind}_{width}"] = _rung(kind, "autoencoder", width, step, shift, with_lm)
    skip = _rung("topk", "skip_transcoder", 16384, 1, 0.05, with_lm)
    rungs["topk_skip_16384"] = skip | {"site": "mlp_in.2", "target": "mlp_out.2"} | _of_sites()
    return rungs


def write_run(
    folder: Path, rungs: dict[str, dict[str, Any]], steps: int = 2000, beside: bool = False
) -> Path:
    """The files of a run with these rungs; `beside` them what is measured of all of them together.

    As many figures stand in a file as is simplest: they are read as one, whatever file they are in.
    """
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "seed: 7\ntokens: 8192000\nbatch_tokens: 4096\nprecision: float32\nstore: stores/made_up\n"
        "coder:\n  kind: jumprelu\n  num_latents: 16384\n"
    )
    store = {"path": "stores/made_up", "manifest": "5f" * 32}
    about = {"run": folder.name, "store": store, "lm": {"name": "small-lm"}, "sequences": 2048}
    write_record(folder / "evaluation" / "about.json", {"version": VERSION} | about)
    for name, rung in rungs.items():
        write_figures(rung_path(folder, name, "coder"), {}, rung)
    pairs, of_run = made_up_beside(rungs) if beside else ([], {})
    for pair in pairs:
        names = {key: pair.pop(key) for key in ("smaller", "larger")}
        write_figures(pair_path(folder, **names, measure="novelty"), names, pair)
    for measure, figures in of_run.items():
        write_figures(run_path(folder, measure), {}, figures)
    lines = [line for step in range(0, steps, 10) for line in _metrics(step, rungs)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _of_sites() -> dict[str, Any]:
    edges = [0.025 * i for i in range(41)]
    return {
        "site_fvu": [0.21, 0.34],
        "site_fvu_mean": 0.275,
        "delta_norm": {"edges": edges, "counts": [9, *[2] * 18, 30, *[3] * 19, 12]},
        "nu_error_histogram": {"edges": edges, "counts": [5, *[1] * 39], "beyond": 4},
    }


def _rung(
    kind: str, form: str, width: int, step: int, shift: float, with_lm: bool
) -> dict[str, Any]:
    fvu = 0.2311 + shift - 0.0417 * step
    delta = 0.1873 + 2 * shift - 0.0521 * step
    mode = -2.3 - 0.35 * step - 5 * shift
    shape = [math.exp(-(((edge - mode) / 0.7) ** 2)) for edge in EDGES_LOG10[:-1]]
    never = int(width * (0.004 + 0.01 * step + shift))
    counts = [int((width - never) * part / sum(shape)) for part in shape]
    rung = {
        "kind": kind,
        "form": form,
        "site": "resid_post.2",
        "target": "resid_post.2",
        "num_latents": width,
        "k": None if kind == "jumprelu" else 32,
        "d_in": 512,
        "d_out": 512,
        "tokens": 262144,
        "l0": 51.37 - 9.13 * step if kind == "jumprelu" else 32.0,
        "fvu": fvu,
        "dead_share": never / width,
        "firing_frequency": {"edges_log10": EDGES_LOG10, "counts": counts, "never": never},
        "fvu_variants": {"error_variance": 0.98 * fvu, "batch_mean": 1.1 * fvu},
        "cosine_similarity": 1 - fvu / 2,
        "by_position": {"fvu": [None, *(fvu * (1 - 0.3 / p) for p in range(1, 128))]},
        "delta_loss_by_position": _noisy(delta) if with_lm else None,
        "thresholds": _thresholds(width) if kind == "jumprelu" else None,
        "consistent_activation_caption": _summary(0.1 + fvu),
        "consistent_activation_code": _summary(4.0 - 10 * fvu),
        "uniformity": {"r_l0": 0.6 - 0.05 * step + shift, "tokens": 512, "left_out": 0}
        if with_lm
        else None,
        "interpretability": _summary(0.7 - fvu / 3) if with_lm else None,
        "scores": {n: _scores(0.7 - fvu / 3) for n in ("detection", "fuzzing")}
        if with_lm
        else None,
        **(_probes(0.7 - fvu / 3) if with_lm else {}),
        "clean_loss": 3.8125 if with_lm else None,
        "delta_loss": delta if with_lm else None,
        "ce_increase_percent": 100 * delta / 3.8125 if with_lm else None,
        "loss_recovered": 1 - delta / 6.1 if with_lm else None,
        "zero_ablation_loss": 9.9125 if with_lm else None,
    }
    return {key: value for key, value in rung.items() if key == "k" or value is not None}


def _probes(value: float) -> dict[str, Any]:
    accuracies = {f"top_{k}": value + 0.02 * k for k in (1, 2, 5)}
    by_k = {"k": [1, 2, 5], "accuracy": list(accuracies.values())}
    scores = {n: value * n / (n + 20) for n in (2, 5, 10, 20, 50, 100, 500)}
    ablated = {"n": list(scores), "score": list(scores.values())}
    ablated |= {f"top_{n}": score for n, score in scores.items()}
    return {
        "sparse_probing": by_k | {"latents": accuracies},
        "absorption": {"fraction": 0.3 * value, "full": 0.1 * value, "split": 1.3, "letters": 24},
        "scr": ablated,
        "tpp": ablated,
    }


def _noisy(value: float) -> list[float | None]:
    return [None, *(value * (1 + 0.2 * math.sin(2.3 * p) - 0.5 / p) for p in range(1, 127))]


def _thresholds(width: int) -> dict[str, Any]:
    counts = [int(width * math.exp(-(((bin - 4) / 3) ** 2)) / 5) for bin in range(20)]
    return {"edges": [0.1 * edge for edge in range(21)], "counts": counts, "mean": 0.43}


def _scores(value: float) -> dict[str, Any]:
    found = [value * (1 - 0.03 * quantile) for quantile in range(10)]
    numbers = list(range(1, 11))
    return _summary(value) | {"by_quantile": found, "quantile": numbers, "shuffled": _summary(0.5)}


def _summary(value: float) -> dict[str, Any]:
    quantiles = {"0.1": 0.1, "0.25": 0.4, "0.5": 0.8, "0.75": 1.5, "0.9": 3.0}
    return {"mean": value, "quantiles": {q: value * part for q, part in quantiles.items()}}


def _metrics(step: int, rungs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    tokens, lines = (step + 1) * 4096, []
    for name, rung in rungs.items():
        decay = math.exp(-step / 180) + 0.02 * math.sin(step * 1.7 + rung["num_latents"])
        parts = {"reconstruction": rung["fvu"] + 0.6 * decay}
        if rung["kind"] == "jumprelu":
            parts["reconstruction"] *= 0.9
            parts["sparsity"] = 0.05 + 0.3 * decay**2
        else:
            parts["aux_k"] = 0.01 + 0.02 * abs(decay)
        figures = {
            "loss": sum(parts.values()),
            **{f"loss/{part}": value for part, value in parts.items()},
            "fvu": rung["fvu"] + 0.6 * decay,
            "l0": rung["l0"] * (1 + 20 * max(decay, 0) ** 3 if rung["k"] is None else 1),
            "dead_share": rung["dead_share"] * min(1, step / 900),
            "lr": 7e-5,
            "grad_norm": 1.0 + decay,
            "skipped_steps": 0,
            "firing_frequency": rung["firing_frequency"],
        }
        lines.append({"step": step, "tokens": tokens, "rung": name, **figures})
    speed = 81000 + 4000 * math.sin(step * 0.9)
    stall = 0.02 + 0.015 * math.cos(step * 0.31)
    ladder = {"tokens_per_second": speed, "stall_share": stall, "seconds": 1 + step * 0.05}
    return [*lines, {"step": step, "tokens": tokens, "rung": None, **ladder}]
