"""What each latent of a larger coder would add to a smaller one."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import ROUNDING, FiresBy
from sae_dist.common.declare import Axis, Figure, Mark, Plot, Write
from sae_dist.evaluate.measure import Figures, Pair, PairMeasure
from sae_dist.evaluate.output import CoderOutput, whole_code
from sae_dist.evaluate.summary import ratios
from sae_dist.evaluate.topics import PAIRS, STITCHING
from sae_dist.kernels.dispatch import sddmm

_NUM_BINS, _CURVE_POINTS = 40, 101
_SAME = 1e-6  # by less cosines, or correlations, do not differ
_ALIKE = 0.5  # where Leask et al. (2025, fig. 8) compare the two similarities
_COSINE = Axis("maximal decoder cosine", "max_cosine/edges")
_ERRORS = "Error where a novel latent is active"
NAMES = (
    Figure("larger", "larger coder", write=Write.RUNG, is_main=True),
    Figure("smaller", "smaller coder", "beside which it is put", write=Write.RUNG),
)


def _count(key: str, heading: str, definition: str, group: str = "") -> Figure:
    return Figure(key, heading, definition, write=Write.COUNT, group=group)


class Novelty(PairMeasure):
    """Novel and reconstruction latents (Leask et al. 2025, section 4).

    With e = y - ŷ of the smaller coder, inserting latent i of the larger one alone changes its mean
    squared error by ΔMSE_i = mean(f_i² ‖d_i‖² - 2 f_i ⟨e, d_i⟩): *novel* where that is negative,
    *reconstruction* elsewhere. A latent that never fires is neither. τ is the maximal cosine below
    which a latent is held to be novel without looking.

    Latents that fire by rank do so as each coder by itself selects them; those with thresholds fire
    whatever else is in the coder. `selection` says which. Latents with a sign have two directions:
    their cosines and correlations are taken without it.
    """

    name = "novelty"
    version = 2
    settings = ("pairs.tau",)
    topic = PAIRS
    group = "Novel and reconstruction latents"
    caption = "Of the larger coder’s latents."
    source = f"{STITCHING}, section 4"
    figures = (
        *NAMES,
        _count("latents/novel", "novel", "ΔMSE < 0: inserting it alone lowers the smaller’s MSE"),
        _count("latents/reconstruction", "reconstruction", "inserting it alone does not"),
        _count("latents/never_fired", "never fired", "on these tokens: neither"),
        _count("latents/below_tau", "below τ", "maximal cosine below τ"),
        _count(
            "latents/novel_below_tau",
            "novel below τ",
            "the cosine says so, and inserting them does; `fired_below_tau` of them fired",
        ),
        Figure(
            "latents/tau",
            "τ",
            "from this cosine on two latents count as the same",
            write=Write.SETTING,
        ),
        Figure(
            "roc/auc",
            "AUC",
            "area under the ROC of the maximal cosine as a sign of novelty, over "
            "latents that fired (`true_positive`, `false_positive`): 1 tells all apart, 0.5 is "
            "guessing",
        ),
        Figure(
            "activation_similarity/r_squared",
            "R²",
            "of decoder cosine and correlation of activations, over the `latents` whose "
            "cosine is above `above_cosine` = 0.5",
            source=f"{STITCHING}, fig. 8",
        ),
        *(replace(figure, group=_ERRORS) for figure in NAMES),
        _count("mse/latents", "latents", "below τ, that fire: these are means over them", _ERRORS),
        *(
            Figure(
                f"mse/{coder}/{where}",
                f"{coder}, {words}",
                f"MSE of the {coder} coder on tokens on which a latent of the larger "
                f"below τ {told}: mean over those latents",
                source=f"{STITCHING}, fig. 11",
                group=_ERRORS,
            )
            for where, words, told in (
                ("inactive", "not active", "is not active"),
                ("active", "active", "is active"),
                ("all", "all tokens", "is active or not"),
            )
            for coder in ("larger", "smaller")
        ),
        Figure(
            "selection",
            "",
            "when latents fire, whatever else is in the coder: `threshold`, above the "
            "coder’s own at inference; `own_top_k`, as each TopK coder by itself selects them, for "
            "it has no threshold",
        ),
        Figure(
            "max_cosine/counts",
            "",
            "histogram (`edges`) of the larger coder’s maximal decoder cosines",
            source=f"{STITCHING}, fig. 7",
        ),
        Figure(
            "mse_change/mean",
            "",
            "of the latents in each of these bins the mean of ΔMSE = mean(f² ‖d‖² − "
            "2 f ⟨e, d⟩); how many `fired`, and how many of them are `novel`",
        ),
    )
    plots = (
        Plot(
            "cosine",
            Mark.STEPS,
            "Maximal decoder cosine",
            "Of each latent of the larger coder the largest cosine of its decoder "
            "direction with one of the smaller coder: near 1 it has a counterpart there. Below "
            "each panel R² of that cosine with the correlation of the two latents’ activations.",
            source=f"{STITCHING}, figs. 7 and 8 (R² 0.87 there)",
            x=_COSINE,
            y=Axis("share of latents (%)", "max_cosine/counts", zero=True),
            panel="family_and_place",
            note="activation_similarity/r_squared",
            note_label=f"R² over cosines above {_ALIKE}",
            rung="larger",
        ),
        Plot(
            "change",
            Mark.LINE,
            "What inserting a latent changes",
            "The smaller coder’s mean squared error with one latent of the larger coder "
            "more, less its own: the mean over the latents at each maximal cosine that fire. Below "
            "0 (novel) the smaller coder lacks them, above 0 (reconstruction) it has them.",
            source=f"{STITCHING}, section 4",
            x=Axis("maximal decoder cosine", "mse_change/edges", log=False),
            y=Axis("ΔMSE (squared activations)", "mse_change/mean", log=False, zero=True),
            panel="family_and_place",
            rung="larger",
        ),
        Plot(
            "roc",
            Mark.LINE,
            "The cosine as a sign of novelty",
            "Receiver operating characteristic: how well a low maximal cosine tells novel "
            "latents (inserting one alone into the smaller coder lowers its error) from "
            "reconstruction latents. The diagonal is guessing.",
            source=f"{STITCHING}, section 4",
            x=Axis("reconstruction latents taken (share)", "roc/false_positive", log=False),
            y=Axis("novel latents found (share)", "roc/true_positive", log=False),
            panel="family_and_place",
            note="roc/auc",
            note_label="Area under it",
            diagonal=True,
            rung="larger",
        ),
    )

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        self._small, self._large, self._near = pair.small.coder, pair.large.coder, pair.similarity
        num_small, num_large = len(self._small.W_dec), len(self._large.W_dec)
        self._square_norm_G = self._large.W_dec.detach().double().square().sum(1)
        self._tokens, self._errors_2 = self.zeros(), self.zeros(2)  # Σ‖e‖² of the smaller, larger
        self._errors_2G = self.zeros(2, num_large)  # the same where latent g is active
        self._change_G, self._active_G = self.zeros(2, num_large)
        self._sum_G, self._square_G, self._product_G = self.zeros(3, num_large)
        self._sum_F, self._square_F = self.zeros(2, num_small)

    def update(self, small: CoderOutput, large: CoderOutput) -> None:
        """Add the same tokens as both coders see them."""
        code, f_N = large.code, large.acts_N.double()
        error_BE = small.error_BE.to(self._large.W_dec.dtype)
        dots_N = sddmm(error_BE, self._large.W_dec.detach(), code).double()
        change_N = f_N.square() * self._square_norm_G[code.latents_N] - 2 * f_N * dots_N
        errors_2B = torch.stack([small.moments.error_B, large.moments.error_B])
        self._tokens += len(small)
        self._errors_2 += errors_2B.sum(1)
        self._change_G.index_add_(0, code.latents_N, change_N)
        self._active_G += code.count_by_latent()
        self._errors_2G.index_add_(1, code.latents_N, errors_2B[:, code.rows_N])
        self._sum_G.index_add_(0, code.latents_N, f_N)
        self._square_G.index_add_(0, code.latents_N, f_N.square())
        self._product_G.index_add_(0, code.latents_N, f_N * self._nearest_acts(small, large))
        g_N = small.acts_N.double()
        self._sum_F.index_add_(0, small.code.latents_N, g_N)
        self._square_F.index_add_(0, small.code.latents_N, g_N.square())

    def _nearest_acts(self, small: CoderOutput, large: CoderOutput) -> Tensor:
        """At each entry of the larger coder's code its nearest latent's activation [N]."""
        num_small = self._small.config.num_latents
        code, acts_M = whole_code(self._small, small, self.mesh.latent)
        own_M = code.rows_N * num_small + code.latents_N  # rising
        wanted_N = large.code.rows_N * num_small + self._near.latent_G[large.code.latents_N]
        if not len(own_M):
            return torch.zeros_like(wanted_N, dtype=torch.float64)
        place_N = torch.searchsorted(own_M, wanted_N).clamp_max(len(own_M) - 1)
        return acts_M[place_N].double() * (own_M[place_N] == wanted_N)

    def conclude(self) -> Figures:
        """`by_latent` has of every latent of the larger coder [G] the maximal cosine, the smaller
        coder's latent that it is with, and ΔMSE, NaN if it never fires.
        """
        gather, tau = self.mesh.latent.all_gather, self.pair.tau
        cosine_G, near_G = gather(self._near.cosine_G), gather(self._near.latent_G)
        change_G, active_G = self.whole(self._change_G, self._active_G)
        change_G = (change_G / self._tokens).where(active_G > 0, torch.nan)
        by_latent = {"max_cosine": cosine_G, "nearest": near_G, "mse_change": change_G}
        cosine_G = cosine_G.double()
        fires_G, is_novel_G, is_below_G = active_G > 0, change_G < 0, cosine_G < tau
        return {
            **_by_cosine(cosine_G, change_G),
            "activation_similarity": self._similarity(cosine_G, near_G),
            "latents": {
                "novel": int(is_novel_G.sum()),
                "reconstruction": int((fires_G & ~is_novel_G).sum()),
                "never_fired": int((~fires_G).sum()),
                "tau": tau,
                "below_tau": int(is_below_G.sum()),
                "novel_below_tau": int((is_novel_G & is_below_G).sum()),
                "fired_below_tau": int((fires_G & is_below_G).sum()),
            },
            "roc": roc(-cosine_G[fires_G], is_novel_G[fires_G]),
            "mse": self._table(active_G, is_below_G),
            "selection": (
                "own_top_k" if self._large.config.fires_by is FiresBy.rank else "threshold"
            ),
            "by_latent": by_latent,
        }

    def _similarity(self, cosine_G: Tensor, near_G: Tensor) -> dict[str, Any]:
        """R² of the decoder cosine with the correlation of activations, over cosines above 0.5."""
        sums = self._sum_G, self._square_G, self._product_G, self._sum_F, self._square_F
        sum_G, square_G, product_G, sum_F, square_F = (v / self._tokens for v in self.whole(*sums))
        covariance_G = product_G - sum_G * sum_F[near_G]
        large_G, small_G = _variances(sum_G, square_G), _variances(sum_F, square_F)[near_G]
        kept_G = (large_G > 0) & (small_G > 0) & (cosine_G > _ALIKE)
        correlation_G = covariance_G / (large_G.sqrt() * small_G.sqrt())
        correlation_G = correlation_G.abs() if self._large.config.signed else correlation_G
        both_2K = torch.stack([cosine_G, correlation_G])[:, kept_G]
        differs = both_2K.shape[1] > 2 and (both_2K.std(1) > _SAME).all()
        r_squared = float(torch.corrcoef(both_2K)[0, 1] ** 2) if differs else None
        return {"above_cosine": _ALIKE, "latents": int(kept_G.sum()), "r_squared": r_squared}

    def _table(self, active_G: Tensor, is_below_G: Tensor) -> dict[str, Any]:
        """MSE of both coders where a novel latent (by τ) is active and where it is not: means over
        those latents, each with its own mean over tokens.
        """
        (active_2G,) = self.whole(self._errors_2G)
        tokens, total_2 = self._tokens, self._errors_2
        chosen_G = is_below_G & (active_G > 0) & (active_G < tokens)
        inside_2 = (active_2G / active_G)[:, chosen_G].sum(1)
        outside_2 = ((total_2[:, None] - active_2G) / (tokens - active_G))[:, chosen_G].sum(1)
        means = {
            "all": ratios(total_2, tokens),
            "active": ratios(inside_2, chosen_G.sum()),
            "inactive": ratios(outside_2, chosen_G.sum()),
        }
        return {
            "latents": int(chosen_G.sum()),
            "smaller": {where: smaller for where, (smaller, _) in means.items()},
            "larger": {where: larger for where, (_, larger) in means.items()},
        }


def _by_cosine(cosine_G: Tensor, change_G: Tensor) -> dict[str, Any]:
    """The histogram of maximal cosines; and of the latents in each bin how many fire and how many
    are novel, and the mean of their ΔMSE.
    """
    edges = torch.linspace(-1, 1, _NUM_BINS + 1, dtype=torch.float64, device=cosine_G.device)
    bin_G = torch.bucketize(cosine_G, edges[1:-1], right=True)  # rounding may leave [-1, 1]
    fires_G = ~change_G.isnan()
    counts, fired, novel = (
        torch.bincount(bin_N, minlength=_NUM_BINS)
        for bin_N in (bin_G, bin_G[fires_G], bin_G[change_G < 0])
    )
    sums = change_G.new_zeros(_NUM_BINS).index_add_(0, bin_G[fires_G], change_G[fires_G])
    return {
        "max_cosine": {"edges": edges.tolist(), "counts": counts.tolist()},
        "mse_change": {
            "edges": edges.tolist(),
            "fired": fired.tolist(),
            "novel": novel.tolist(),
            "mean": ratios(sums, fired),
        },
    }


def _variances(mean_N: Tensor, square_N: Tensor) -> Tensor:
    """From means of values and squares; 0 where rounding alone could leave as much."""
    variance_N = square_N - mean_N**2
    return variance_N.where(variance_N > ROUNDING * square_N, 0.0)


def roc(score_N: Tensor, is_positive_N: Tensor) -> dict[str, Any]:
    """The receiver operating characteristic of a score; higher scores say positive. Ties share a
    point. `auc` is None where all are of one class.
    """
    score_N, order_N = score_N.sort(descending=True)
    positive_N = is_positive_N[order_N].double()
    is_last_N = torch.cat([score_N.diff() != 0, score_N.new_ones(min(1, len(score_N))).bool()])
    hits = torch.cat([positive_N.new_zeros(1), positive_N.cumsum(0)[is_last_N]])
    alarms = torch.cat([positive_N.new_zeros(1), (1 - positive_N).cumsum(0)[is_last_N]])
    if not hits[-1] or not alarms[-1]:
        return {"auc": None, "true_positive": [], "false_positive": []}
    hits, alarms = hits / hits[-1], alarms / alarms[-1]
    step = max(1, -(-len(hits) // _CURVE_POINTS))
    shown = sorted({*range(0, len(hits), step), len(hits) - 1})
    return {
        "auc": float(torch.trapezoid(hits, alarms)),
        "true_positive": hits[shown].tolist(),
        "false_positive": alarms[shown].tolist(),
    }
