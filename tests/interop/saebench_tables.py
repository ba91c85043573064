"""The tables of docs/saebench.md.

    SAE_DIST_SAEBENCH=PYTHON python -m tests.interop.saebench_tables    measures and writes them

PYTHON is the interpreter of an environment that has SAEBench: `make test-interop` makes one.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev

from tests.apps.commands import ROOT
from tests.interop import saebench_probes
from tests.interop.saebench_measure import TOPK, UNITS, Found, measure, relative
from tests.interop.saebench_probes import ABLATED, Probed, at

DOCS = ROOT / "docs" / "saebench.md"
SAME = {
    "l0": "l0",
    "cossim": "cosine_similarity",
    "l2_ratio": "l2_norm_ratio",
    "frac_alive": "1 - dead_share",
    "freq_over_1_percent": "share_above_1_percent",
    "freq_over_10_percent": "share_above_10_percent",
    "consistent_activation_heuristic": "consistent_activation_code.mean",
}
OTHER = {
    "explained_variance": ("variance_explained", "wrong, as said above"),
    "explained_variance_legacy": ("1 - fvu_variants.token_mean", "mean of ratios; batches"),
    "relative_reconstruction_bias": ("relative_reconstruction_bias", "mean of batches' ratios"),
    "mse": ("", "‖x-x̂‖², divided by the batch's tokens, not by D"),
    "ce_loss_without_sae": ("clean_loss", "tokens"),
    "ce_loss_with_sae": ("clean_loss + delta_loss", "tokens"),
    "ce_loss_with_ablation": ("zero_ablation_loss", "tokens; zeros at special ones, too"),
    "ce_loss_score": ("loss_recovered", "as its parts"),
    "kl_div_with_sae": ("kl", "tokens; the last position, too"),
    "kl_div_with_ablation": ("", "tokens; the last position and zeros at special ones, too"),
    "kl_div_score": ("kl_score", "as its parts"),
}


def tables(found: Found) -> str:
    """All of them, in Markdown."""
    told = ", ".join(f"{name} {version}" for name, version in sorted(found.versions.items()))
    return f"{told}.\n\n{_same(found)}\n{_other(found)}\n{_probing(found)}\n{_meta(found)}"


def _same(found: Found) -> str:
    rows = []
    for key, ours in SAME.items():
        values = [_value(figures[TOPK][key]) for figures in (found.theirs, found.ours)]
        rows.append([f"`{key}`", f"`{ours}`", *values, _farthest(found, found.ours, key)])
    head = "SAEBench", "sae_dist", "its value", "ours", "largest difference"
    return "The same formula:\n\n" + _table(head, rows)


def _other(found: Found) -> str:
    rows = []
    for key, (ours, why) in OTHER.items():
        value = found.ours[TOPK].get(key)
        values = [_value(found.theirs[TOPK][key]), "" if value is None else _value(value)]
        farthest = _farthest(found, found.formulas, key)
        rows.append([f"`{key}`", f"`{ours}`" if ours else "", *values, farthest, why])
    head = "SAEBench", "sae_dist", "its value", "ours", "its formula by us", "what differs"
    explained = found.ours[TOPK]["explained_variance"]
    return (
        f"Another formula:\n\n{_table(head, rows)}\n"
        f"In units {UNITS:.0f} times as large `explained_variance` of this coder is "
        f"{_value(found.rescaled)} instead of {_value(explained)}.\n"
    )


def _probing(found: Found) -> str:
    names = ["test_accuracy", *(f"top_{k}_test_accuracy" for k in (1, 2, 5))]
    rows = []
    for coder in sorted(found.probing.keys() & found.ours.keys()):
        figures = found.probing[coder]
        for side in ("llm", "sae"):
            values = [f"{figures[side][f'{side}_{name}']:.3f}" for name in names]
            rows.append([f"`{coder}`" if side == "llm" else "", side, *values])
    return "Sparse probing of the stand-in:\n\n" + _table(
        ("coder", "probe on", "all", "k = 1", "k = 2", "k = 5"), rows
    )


def _meta(found: Found) -> str:
    rows = [[f"SAEBench's, of `{name}`", f"{value:.4f}", ""] for name, value in found.meta.items()]
    theirs, ours = (f"{value:.6f}" for value in found.meta_of_ours)
    rows.append([f"ours, of `{TOPK}`", theirs, ours])
    head = "meta-SAE", "`decoder_fraction_variance_explained`", "`variance_explained`"
    return "Meta-structure:\n\n" + _table(head, rows)


def probes(found: Probed) -> str:
    """Of figures that are drawn means and standard deviations over seeds, in Markdown."""
    accuracies = {"all": "", "k = 1": "top_1_", "k = 2": "top_2_", "k = 5": "top_5_"}
    rows = []
    for side, where in (("sae", "latents"), ("llm", "activations")):
        for probe, key in accuracies.items():
            name = f"{side}_{key}test_accuracy"
            values = [at(of["four"], side, name) for of in (found.theirs, found.ours)]
            rows.append([f"sparse probing, {where}, {probe}", *map(_mean, values)])
    for place, n in enumerate(ABLATED):
        theirs = at(found.theirs["tpp"], "metrics", f"tpp_threshold_{n}_total_metric")
        ours = [own["score"][place] for own in found.ours["tpp"]]
        rows.append([f"TPP, {n} latents", _mean(theirs), _mean(ours)])
    for name in ("mean_absorption_fraction_score", "mean_full_absorption_score"):
        values = [at(of["absorption"], name) for of in (found.theirs, found.ours)]
        rows.append([f"absorption, `{name}`", *map(_mean, values)])
    return _table(("figure", "SAEBench", "sae_dist"), rows)


def _mean(values: list[float]) -> str:
    return f"{fmean(values):.3f} ± {stdev(values):.3f}"


def _table(head: Iterable[str], rows: list[list[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _value(value: float) -> str:
    return f"{value:.6g}"


def _farthest(found: Found, other: dict[str, dict[str, float]], key: str) -> str:
    """The largest relative difference over all coders."""
    value = max(relative(figures[key], other[name][key]) for name, figures in found.theirs.items())
    return f"{value:.0e}" if value else "0"


def between(text: str, name: str) -> tuple[str, str, str]:
    """A text as far as a marker, what is between it and the next, and the rest."""
    begin, end = (f"<!-- {name}: {which} -->\n" for which in ("begin", "end"))
    before, _, rest = text.partition(begin)
    written, _, after = rest.partition(end)
    return before + begin, written, end + after


def _written(text: str, name: str, made: str) -> str:
    before, _, after = between(text, name)
    return f"{before}\n{made}\n{after}"


def main() -> None:
    """Measure, and write the tables between the markers of docs/saebench.md."""
    with tempfile.TemporaryDirectory() as folder:
        text = _written(DOCS.read_text(), "measured", tables(measure(Path(folder))))
    with tempfile.TemporaryDirectory() as folder:
        text = _written(text, "probed", probes(saebench_probes.measure(Path(folder))))
    DOCS.write_text(text)


if __name__ == "__main__":
    main()
