"""A latent as SAEDashboard 0.8 describes it, in its fields; Neuronpedia's are made of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sae_dist.handoff.handoff import Texts
from sae_dist.latents import Example, Latents

Feature = dict[str, Any]
SHOWN = 10  # tokens whose logits are raised most, and lowered most
_OUT_OF_RANGE = "<|outofrange|>"
_TOP = -1  # instead of an interval's lower end, and of its share


def features(latents: Latents, texts: Texts) -> Iterator[Feature]:
    """All of a rung's latents in order; in memory, one range of them.

    Its tables of neurons, and weights of attention heads, are empty.
    """
    fired_F = latents.column("fired")
    for own in latents.ranges():
        offsets, _, values = latents.firings(own)
        for latent, (start, stop) in zip(own, _pairs(offsets), strict=True):
            yield _feature(latents, latent, texts, fired_F, np.abs(values[start:stop]))


def _feature(
    latents: Latents, latent: int, texts: Texts, fired_F: np.ndarray, sizes_M: np.ndarray
) -> Feature:
    about, row = latents.about, {name: latents.row(name, latent) for name in _read(latents)}
    return {
        "feature_index": latent,
        **dict.fromkeys(
            (
                *("neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1"),
                *("correlated_neurons_indices", "correlated_neurons_l1"),
                *("correlated_neurons_pearson", "decoder_weights_dist", "vector"),
            ),
            (),
        ),
        **_correlated(row, latent, fired_F, about.num_tokens),
        **_logits(row, texts),
        "frac_nonzero": int(fired_F[latent]) / max(1, about.num_tokens),
        "freq_hist_data_bar_values": _centres(0.0, float(row["max"]), row["histogram"]),
        "freq_hist_data_bar_heights": row["histogram"].tolist(),
        "n_prompts_total": about.num_sequences,
        "n_tokens_in_prompt": about.sequence_length,
        "dataset": str((about.source.get("text") or {}).get("path") or ""),
        "activations": _activations(latents, latent, texts, sizes_M),
    }


def _read(latents: Latents) -> list[str]:
    names = ["max", "histogram", "cofiring", "together"]
    if latents.has("top_tokens"):
        names += ["top_tokens", "top_logits", "bottom_tokens", "bottom_logits"]
        names += ["logits_histogram", "logits_range"]
    return names


def _correlated(
    row: dict[str, np.ndarray], latent: int, fired_F: np.ndarray, num_tokens: int
) -> Feature:
    """Those that fire with it: φ is Pearson's correlation of firing, and of it follows the cosine.

    φ = (n₁₁N - n₁n₂) / √(n₁(N - n₁) n₂(N - n₂)), cosine = n₁₁ / √(n₁n₂).
    """
    with_it = row["cofiring"] >= 0
    others, phi = row["cofiring"][with_it], row["together"][with_it].astype(np.float64)
    n1, n2 = float(fired_F[latent]), fired_F[others].astype(np.float64)
    spread = np.sqrt(n1 * (num_tokens - n1) * n2 * (num_tokens - n2))
    both = (phi * spread + n1 * n2) / max(1, num_tokens)
    return {
        "correlated_features_indices": others.tolist(),
        "correlated_features_pearson": short(phi),
        "correlated_features_l1": short(both / np.sqrt(np.maximum(n1 * n2, 1))),
    }


def _logits(row: dict[str, np.ndarray], texts: Texts) -> Feature:
    if "top_tokens" not in row:  # no language model, or a site that no logit reads
        names = ("neg_str", "neg_values", "pos_str", "pos_values")
        bars = ("logits_hist_data_bar_heights", "logits_hist_data_bar_values")
        return dict.fromkeys((*names, *bars), ())
    low, high = row["logits_range"].tolist()
    found: Feature = {
        "logits_hist_data_bar_heights": row["logits_histogram"].tolist(),
        "logits_hist_data_bar_values": _centres(low, high, row["logits_histogram"]),
    }
    for theirs, ours in (("neg", "bottom"), ("pos", "top")):
        ids = row[f"{ours}_tokens"][:SHOWN]
        found[f"{theirs}_str"] = as_texts(ids[ids >= 0], texts)
        found[f"{theirs}_values"] = short(row[f"{ours}_logits"][:SHOWN][ids >= 0])
    return found


def _activations(latents: Latents, latent: int, texts: Texts, sizes_M: np.ndarray) -> list[Feature]:
    """Its windows; a quantile's interval is that of its windows' peaks, and its share is of all
    tokens, as there.
    """
    examples = latents.examples(latent)
    peaks: dict[int, list[float]] = {}
    for example in examples:
        peaks.setdefault(example.group, []).append(abs(float(peak_of(example))))
    intervals = {group: _interval(group, own, sizes_M, latents) for group, own in peaks.items()}
    return [
        {
            **intervals[example.group],
            "tokens": as_texts(example.token_ids, texts),
            "values": short(example.values),
            "qualifying_token_index": example.position - example.start,
        }
        for example in examples
    ]


def _interval(group: int, peaks: list[float], sizes_M: np.ndarray, latents: Latents) -> Feature:
    low, high = min(peaks), max(peaks)
    if group == 0:
        return {"bin_min": _TOP, "bin_max": short([high])[0], "bin_contains": _TOP}
    inside = np.count_nonzero((sizes_M >= low) & (sizes_M <= high))
    share = inside / max(1, latents.about.num_tokens)
    return dict(zip(("bin_min", "bin_max", "bin_contains"), short([low, high, share]), strict=True))


def peak_of(example: Example) -> float:
    """The activation that an example was chosen for."""
    return float(example.values[example.position - example.start])


def as_texts(ids: np.ndarray, texts: Texts, errors: str = "replace") -> list[str]:
    """Tokens as text; of a part of a character `errors` says what is written instead.

    A language model may have more logits than its tokenizer has tokens.
    """
    return [
        texts[token].decode(errors=errors) if token < len(texts) else _OUT_OF_RANGE
        for token in ids.tolist()
    ]


def short(values: np.ndarray | Sequence[float]) -> list[float]:
    """Numbers of four digits, which JSON need not spell out to sixteen."""
    return [float(f"{value:.4g}") for value in np.asarray(values).tolist()]


def _centres(low: float, high: float, heights: np.ndarray) -> list[float]:
    bins = len(heights)
    return short(low + (np.arange(bins) + 0.5) * ((high - low) / bins))


def _pairs(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    return zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
