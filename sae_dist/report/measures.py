"""Every figure of a coder that the report shows: where it is found, what it is called and means."""

from dataclasses import dataclass

from sae_dist.report.numbers import Write, numbers, percents
from sae_dist.report.results import RungResult


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure under `keys` of a rung: its `heading` in a table, and its meaning with its unit."""

    keys: tuple[str, ...]
    heading: str
    explained: str
    write: Write = numbers

    def of(self, rung: RungResult) -> float | None:
        """Its value, None where it is not defined or was not taken."""
        return rung.number(*self.keys)

    def is_taken(self, rung: RungResult) -> bool:
        """Whether it was measured of this rung."""
        return rung.has(*self.keys)


def _measure(path: str, heading: str, explained: str, write: Write = numbers) -> Measure:
    return Measure(tuple(path.split("/")), heading, explained, write)


L0 = _measure("l0", "L0", "mean number of active latents a token")
FVU = _measure(
    "fvu",
    "FVU",
    "fraction of variance unexplained, Σ‖y − ŷ‖² / Σ‖y − μ‖² with μ the mean over the whole set",
)
VARIANCE_EXPLAINED = _measure(
    "variance_explained", "variance explained", "1 − FVU, of a decoder’s directions", percents
)
DELTA_LOSS = _measure("delta_loss", "Δ loss", "CE(spliced) − CE(clean), nats a token")
CE_INCREASE = _measure("ce_increase_percent", "CE +%", "100 · Δ loss / CE(clean), per cent")
LOSS_RECOVERED = _measure(
    "loss_recovered",
    "recovered",
    "loss recovered, (CE(zero) − CE(spliced)) / (CE(zero) − CE(clean))",
)
DEAD_SHARE = _measure("dead_share", "dead", "share of latents that never fired", percents)
R_L0 = _measure(
    "uniformity/r_l0",
    "r_L0",
    "uniformity of active latent importance, exp(S(p)) / ‖y‖₀: 1 where all active latents matter "
    "alike",
)

HEADLINE = [
    *(L0, FVU, VARIANCE_EXPLAINED, DELTA_LOSS, CE_INCREASE, LOSS_RECOVERED, DEAD_SHARE),
]
RECONSTRUCTION = [
    FVU,
    VARIANCE_EXPLAINED,
    _measure(
        "fvu_variants/error_variance",
        "FVU, error variance",
        "Var(y − ŷ) / Var(y), blind to a constant error: “FVU” in dictionary_learning",
    ),
    _measure(
        "fvu_variants/batch_mean",
        "FVU, batch mean",
        "with the mean of each batch in place of μ: “FVU” in sparsify",
    ),
    _measure(
        "fvu_variants/token_mean",
        "FVU, token mean",
        "mean over tokens of ‖y − ŷ‖² / ‖y − μ‖²: “legacy” in SAELens",
    ),
    _measure("cosine_similarity", "cosine", "mean of cos(y, ŷ)"),
    _measure("l2_norm_ratio", "norm ratio", "mean of ‖ŷ‖ / ‖y‖"),
    _measure(
        "relative_reconstruction_bias", "bias", "relative reconstruction bias, E‖ŷ‖² / E⟨y, ŷ⟩"
    ),
]
IN_THE_LM = [
    DELTA_LOSS,
    CE_INCREASE,
    LOSS_RECOVERED,
    _measure("zero_ablation_loss", "CE zero", "CE with the site set to zero, nats a token"),
    _measure("kl", "KL", "KL(clean ‖ spliced), nats a token"),
    _measure("kl_score", "KL score", "(KL(zero) − KL) / KL(zero)"),
]
LATENTS = [
    L0,
    DEAD_SHARE,
    _measure("share_above_1_percent", "> 1 %", "share of latents on over 1 % of tokens", percents),
    _measure(
        "share_above_10_percent", "> 10 %", "share of latents on over 10 % of tokens", percents
    ),
    _measure(
        "consistent_activation_caption/mean",
        "consistency, caption",
        "Σ activation / tokens, mean over latents (Paulo et al. 2025, fig. 3, as its caption says)",
    ),
    _measure(
        "consistent_activation_code/mean",
        "consistency, code",
        "active tokens / sequences with one, mean over latents (the same figure, as its code does)",
    ),
    _measure("threshold", "threshold", "above which a BatchTopK’s latents are active"),
    _measure("thresholds/mean", "threshold, mean", "of a JumpReLU’s latents"),
    R_L0,
]
GROUPS = {
    "Reconstruction": RECONSTRUCTION,
    "In the language model": IN_THE_LM,
    "Latents": LATENTS,
}
