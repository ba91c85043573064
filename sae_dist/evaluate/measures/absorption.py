"""Whether a latent of a first letter is silent where another has taken its place (absorption)."""

from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from sae_dist.common.declare import Axis, Figure, Mark, Plot, Write
from sae_dist.evaluate.measure import Figures, Subject, TextMeasure
from sae_dist.evaluate.measures.fidelity import L0_AXIS, WIDTH_AXIS
from sae_dist.evaluate.pooled import LatentMeans, PooledTexts
from sae_dist.evaluate.probing import Examples, Probe, Recipe, fit, logistic
from sae_dist.evaluate.topics import PROBES, SAEBENCH
from sae_dist.kernels import SparsePattern

TRUTH = Recipe(
    optimizer=torch.optim.Adam,
    lr=1e-2,
    last_lr=1e-5,
    weight_decay=1e-4,
    batch=64,
    epochs=50,
    balance=True,
)
SPARSE = Recipe(
    optimizer=torch.optim.Adam,
    lr=1e-2,
    last_lr=1e-5,
    weight_decay=1e-6,
    batch=4096,
    epochs=50,
    l1=0.01,
    balance=True,
)
MOST_SPLIT, LEAST_RISE = 10, 0.03  # latents of a letter, and of F1 by each of them
LEAST_SHARE = 0.4  # of the probe's projection that absorbers account for
MOST_ABSORBERS, LEAST_COSINE, LEAST_COSINE_FULL, SILENT = 3, 0.1, 0.025, 1e-8


class Absorption(TextMeasure):
    """First-letter absorption, of the data set `first_letter`.

    Over test words of a letter that a linear probe p (of unit length) on the activations tells:
    A = y·p, a_j = f_j cos(p, d_j), and M is the sum of a_j over the letter's main latents. These
    are the latents of the largest weights in a probe on latents with an L1 penalty, one more each
    time as F1 rises by more than 0.03. P is the sum of the largest 3 other a_j above 0 with a
    cosine of at least 0.1. Fraction: 0 if M ≥ A or P/A < 0.4, 1 if M ≤ 0, else q/(q + M) with
    q = min(P, A - M).
    Full: no main latent is active, and the latent of the largest a has a cosine of at least 0.025
    and a/A ≥ 0.4. Sums are divided by the words that the probe tells; letters whose probe's F1 is
    above `min_f1` count. Of every form; published of autoencoders alone, whose y is x.
    """

    name = "absorption"
    settings = (*TextMeasure.settings, "probes.min_f1", "probes.min_letters")
    topic = PROBES
    group = "Absorption"
    source = f"Chanin et al. (2024); {SAEBENCH}"
    figures = (
        Figure(
            "absorption/fraction",
            "fraction",
            "share of the letter’s direction that other latents carry in place of its own, mean "
            "over words that the probe tells, then over letters",
            source=f"{SAEBENCH}: mean_absorption_fraction_score",
            is_main=True,
        ),
        Figure(
            "absorption/full",
            "full",
            "share of these words at which no latent of the letter is active and one other carries "
            "its direction, mean over letters",
            source=f"{SAEBENCH}: mean_full_absorption_score",
        ),
        Figure(
            "absorption/split",
            "latents a letter",
            "mean number of a letter’s main latents",
            source=f"{SAEBENCH}: mean_num_split_features",
        ),
        Figure(
            "absorption/letters",
            "letters",
            "that count; in `by_letter` the `letter`, the `f1` of its probe, its `words` that the "
            "probe tells, its `main` latents, `fraction` and `full`; `deviation` has the standard "
            "deviations over letters",
            write=Write.COUNT,
        ),
        Figure("absorption/left_out", "left out", "why there is none", write=Write.TEXT),
    )
    plots = (
        Plot(
            "absorption-fraction",
            Mark.POINTS,
            "Absorption fraction",
            "How much of a first letter’s direction latents carry that are not the letter’s; less "
            "is better.",
            source=SAEBENCH,
            x=L0_AXIS,
            instead=WIDTH_AXIS,
            y=Axis("absorption fraction", "absorption/fraction", log=False, zero=True),
            panel="place",
            join=True,
        ),
        Plot(
            "absorption-full",
            Mark.POINTS,
            "Full absorption",
            "At which share of words the letter’s latents are silent and one other stands in; less "
            "is better.",
            source=SAEBENCH,
            x=L0_AXIS,
            instead=WIDTH_AXIS,
            y=Axis("full absorption", "absorption/full", log=False, zero=True),
            panel="place",
            join=True,
        ),
    )

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._found: Figures = {"left_out": "first_letter is not among probes.data"}

    def update(self, seen: PooledTexts) -> None:
        """Find the letters' directions and latents, and what other latents take from them."""
        if seen.texts.name != "first_letter":
            return
        config, device = self.subject.config.probes, self.subject.device
        train, test = (_letters(seen, is_test=part).to(device) for part in (False, True))
        truth = seen.y.once("letters", lambda: fit(seen.y, train, TRUTH, config.seed))
        told_RC = truth.scores(seen.y, test.rows_R) > 0
        f1_C = [f1(told_RC[:, c], test.is_so_R[:, c]) for c in range(told_RC.shape[1])]
        letters = [c for c, value in enumerate(f1_C) if value > config.min_f1]
        if len(letters) < config.min_letters:
            self._found = {
                "letters": len(letters),
                "left_out": f"{len(letters)} letters have a probe of F1 > {config.min_f1:g}; "
                f"expected {config.min_letters} (probes.min_letters)",
            }
            return
        sparse = fit(seen.latents, train, SPARSE, config.seed)
        rows = []
        for letter in letters:
            main = main_latents(seen.latents, sparse, train, test, letter)
            words_R = test.rows_R[told_RC[:, letter] & test.is_so_R[:, letter].bool()]
            own = absorbed(seen, truth.W_DC[:, letter], main, words_R)
            rows.append(
                {
                    "letter": seen.texts.classes[letter],
                    "f1": f1_C[letter],
                    "words": len(words_R),
                    "main": main.tolist(),
                    "fraction": float(own.fraction_R.mean()),
                    "full": float(own.is_full_R.double().mean()),
                }
            )
        self._found = _over_letters(rows)

    def conclude(self) -> Figures:
        """The means over letters, or why there are none."""
        return {"absorption": self._found}


def _over_letters(rows: list[dict[str, Any]]) -> Figures:
    values = {
        "fraction": [row["fraction"] for row in rows],
        "full": [row["full"] for row in rows],
        "split": [len(row["main"]) for row in rows],
    }
    spread = {key: stdev(own) if len(own) > 1 else None for key, own in values.items()}
    means = {key: fmean(own) for key, own in values.items()}
    return {**means, "letters": len(rows), "deviation": spread, "by_letter": rows}


def _letters(seen: PooledTexts, *, is_test: bool) -> Examples:
    """All words of a part, and whether each is of each letter [R, C]."""
    rows_R = seen.texts.rows(is_test=is_test)
    return Examples(rows_R, one_hot(seen.texts.label_N[rows_R], len(seen.texts.classes)))


def f1(told_R: Tensor, is_so_R: Tensor) -> float:
    """2 TP / (2 TP + FP + FN); 0 where nothing is told, nor so."""
    right = float((told_R & is_so_R.bool()).sum())
    both = float(told_R.sum() + is_so_R.sum())
    return 2 * right / both if both else 0.0


def main_latents(
    latents: LatentMeans, sparse: Probe, train: Examples, test: Examples, letter: int
) -> Tensor:
    """The latents of the largest weights for a letter, as many as logistic regression gains by."""
    best_K = latents.largest(sparse.W_DC[:, letter], min(MOST_SPLIT, latents.width))
    words_NK, reached = latents.columns(best_K), -1.0
    is_so = [Examples(part.rows_R, part.is_so_R[:, letter]) for part in (train, test)]
    for k in range(1, len(best_K) + 1):
        probe = logistic(words_NK[:, :k], is_so[0], max_iter=500, class_weight="balanced")
        x_RK = words_NK[is_so[1].rows_R, :k].float().cpu().numpy()
        told_R = torch.from_numpy(probe.decision_function(x_RK) > 0).to(best_K.device)
        now = f1(told_R, is_so[1].is_so_R)
        if k > 1 and now <= reached + LEAST_RISE:
            return best_K[: k - 1]
        reached = now
    return best_K


class Absorbed(NamedTuple):
    """Of each word the fraction that is absorbed, in float64, and whether the letter is fully."""

    fraction_R: Tensor
    is_full_R: Tensor


@torch.no_grad()
def absorbed(seen: PooledTexts, probe_E: Tensor, main: Tensor, rows_R: Tensor) -> Absorbed:
    """What of a probe's direction is absorbed in some texts; the same on every mesh.

    Args:
        main: the latents that are to carry it, of all slices.
    """
    unit_E = (probe_E / probe_E.norm()).float()
    whole_R = (seen.y.mean_ND[rows_R] @ unit_E).double()
    code, acts_N, cosine_N, latents_N = _projected(seen.latents, unit_E, rows_R)
    is_main_N = torch.isin(latents_N, main)
    part_N = acts_N * cosine_N
    main_R, silent_R = torch.zeros_like(whole_R), torch.ones_like(whole_R, dtype=torch.bool)
    main_R.index_add_(0, code.rows_N[is_main_N], part_N[is_main_N])
    silent_R[code.rows_N[is_main_N & (acts_N.abs() >= SILENT)]] = False
    is_absorber_N = ~is_main_N & (cosine_N >= LEAST_COSINE) & (part_N > 0)
    others_R = code.row_lists(part_N.where(is_absorber_N, 0.0), MOST_ABSORBERS).clamp(min=0).sum(1)
    fraction_R = absorption_fraction(whole_R, main_R, others_R)
    is_near_N = cosine_N >= LEAST_COSINE_FULL
    top_R = code.row_lists(part_N, 1)[:, 0]
    top_near_R = code.row_lists(part_N.where(is_near_N, -torch.inf), 1)[:, 0]
    is_full_R = silent_R & (whole_R > 0) & (top_near_R == top_R) & (top_R >= LEAST_SHARE * whole_R)
    return Absorbed(fraction_R, is_full_R)


def absorption_fraction(whole_R: Tensor, main_R: Tensor, others_R: Tensor) -> Tensor:
    """From the projections A of a text, M of the main latents and P of absorbers, in float64."""
    taken_R = torch.minimum(others_R, whole_R - main_R)
    share_R = torch.where(main_R <= 0, 1.0, taken_R / (taken_R + main_R))
    is_none_R = (main_R >= whole_R) | (others_R / whole_R < LEAST_SHARE)
    return torch.where(is_none_R, 0.0, share_R)


def _projected(
    latents: LatentMeans, unit_E: Tensor, rows_R: Tensor
) -> tuple[SparsePattern, Tensor, Tensor, Tensor]:
    """Of some texts the entries of all slices: pattern, activation, cos(p, d), and which latent."""
    code, acts_N = latents.of(rows_R)
    cosine_F = cosine_similarity(latents.coder.W_dec.float(), unit_E[None], dim=1)
    own = (
        code.rows_N,
        code.latents_N + latents.coder.latents.start,
        acts_N.double(),
        cosine_F[code.latents_N].double(),
    )
    rows_N, latents_N, acts_N, cosine_N = (latents.axis.all_gather_uneven(v) for v in own)
    order_N = (rows_N * latents.width + latents_N).argsort()
    whole = SparsePattern.from_rows(rows_N[order_N], latents_N[order_N], len(rows_R), latents.width)
    return whole, acts_N[order_N], cosine_N[order_N], latents_N[order_N]
