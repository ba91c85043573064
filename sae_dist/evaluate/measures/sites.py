"""What a crosscoder's latents are at each of its sites, and what is one site's alone."""

from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import Form, total_variance
from sae_dist.common.declare import Axis, Figure, Mark, Plot, Topic, Write
from sae_dist.common.joint import parts_of
from sae_dist.evaluate.measure import Figures, Measure, Subject
from sae_dist.evaluate.output import CoderOutput
from sae_dist.evaluate.summary import ratio, ratios, summary
from sae_dist.kernels.dispatch import sddmm

SITES = Topic(
    key="sites",
    title="Crosscoders",
    lead="How well each site of a crosscoder is reconstructed, and which latents are of one site "
    "or model alone.",
)
_NUM_BINS = 40
_ALONE, _SHARED = 0.1, (0.4, 0.6)  # Minder et al. (2025), of Δ_norm
_MINDER = "Minder et al. (2025)"
_SITE_AXIS = Axis("site, in the order of its name", log=False)


class Sites(Measure):
    """FVU and decoder norms of each site of a crosscoder; of two sites Δ_norm and latent scaling.

    A site's activations are divided by its √E‖y‖² before norms are compared. Of latents that are
    one site's alone by Δ_norm, ν says whether the other site lacks what they stand for, too: with
    d the unit direction at their own site, β is the least-squares share of f d in a target t, and ν
    is the other site's β over their own. t is what the other latents leave of y (ν_ε), or what all
    latents make of it (ν_r). ν near 0 confirms them; near 1 a latent only looks so.
    """

    name = "sites"
    topic = SITES
    group = "Sites of a crosscoder"
    figures = (
        Figure("site_fvu_mean", "FVU, mean of sites", "mean of `site_fvu`"),
        Figure("site_fvu", "", "FVU of each site, in the order of the crosscoder’s name"),
        Figure("norm_share", "", "mean over latents of ‖d^l‖ / Σ_l ‖d^l‖, of each site"),
        Figure(
            "first_alone",
            "first alone",
            "of two sites: share of latents with Δ_norm < 0.1",
            write=Write.PERCENT,
            source=_MINDER,
        ),
        Figure(
            "shared",
            "shared",
            "of two sites: share of latents with Δ_norm from 0.4 to 0.6",
            write=Write.PERCENT,
            source=_MINDER,
        ),
        Figure(
            "second_alone",
            "second alone",
            "of two sites: share of latents with Δ_norm > 0.9",
            write=Write.PERCENT,
            source=_MINDER,
        ),
        Figure(
            "delta_norm",
            "",
            "histogram over latents of Δ_norm = ½ ((‖d²‖ − ‖d¹‖) / max(‖d¹‖, ‖d²‖) + 1)",
            source=_MINDER,
        ),
        Figure(
            "nu_error/quantiles/0.5",
            "ν_ε, median",
            "of latents of one site alone that fired: latent scaling of what others leave",
            source=_MINDER,
        ),
        Figure(
            "nu_reconstruction/quantiles/0.5",
            "ν_r, median",
            "the same of what all latents make of it",
            source=_MINDER,
        ),
        Figure("by_latent", "", "the file of `site_norms` and, of two sites, of Δ_norm and both ν"),
    )
    plots = (
        Plot(
            "delta-norm",
            Mark.STEPS,
            "Relative decoder norms",
            "Δ_norm of each latent of a crosscoder of two sites, as per cent in each bin: 0 is the "
            "first site’s alone, ½ shared, 1 the second’s alone.",
            source=_MINDER,
            x=Axis("Δ_norm", "delta_norm/edges", log=False),
            y=Axis("share of latents (%)", "delta_norm/counts", zero=True),
            panel="family_and_place",
            by_rung=True,
        ),
        Plot(
            "nu-error",
            Mark.STEPS,
            "Latent scaling",
            "ν_ε of latents that are one site’s alone by Δ_norm: 0 confirms it, 1 denies it.",
            source=_MINDER,
            x=Axis("ν_ε", "nu_error_histogram/edges", log=False),
            y=Axis("share of these latents (%)", "nu_error_histogram/counts", zero=True),
            rest="nu_error_histogram/beyond",
            panel="family_and_place",
            by_rung=True,
        ),
        Plot(
            "site-fvu",
            Mark.LINE,
            "FVU by site",
            "Fraction of variance unexplained of each site of a crosscoder.",
            x=_SITE_AXIS,
            y=Axis("FVU (fraction of variance)", "site_fvu", log=False, zero=True),
            panel="family_and_place",
            by_rung=True,
        ),
    )

    @classmethod
    def measures_coder(cls, site: str, form: Form) -> bool:
        """Crosscoders alone."""
        return form is Form.crosscoder

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._num_sites = L = len(parts_of(subject.site))
        width, num_held = subject.coder.d_out // L, len(subject.coder.latents)
        self._tokens, self._error_L = self.zeros(), self.zeros(L)
        self._square_L, self._sum_Ld = self.zeros(L), self.zeros(L, width)
        self._fired_F = self.zeros(num_held)
        self._square_F = self.zeros(num_held)  # Σ f²
        of_pairs = (L, L, num_held) if L == 2 else (0, 0, num_held)
        self._on_error_LLF, self._on_made_LLF = self.zeros(*of_pairs), self.zeros(*of_pairs)

    def update(self, seen: CoderOutput) -> None:
        """Add some tokens."""
        L = self._num_sites
        y_BLd, error_BLd = (v.unflatten(1, (L, -1)) for v in (seen.y_BE, seen.error_BE))
        self._tokens += len(seen)
        self._error_L += error_BLd.square().sum((0, 2))
        self._square_L += y_BLd.double().square().sum((0, 2))
        self._sum_Ld += y_BLd.sum(0, dtype=torch.float64)
        code, acts_N = seen.active
        self._fired_F += code.count_by_latent()
        self._square_F.index_add_(0, code.latents_N, acts_N.double().square())
        made_BE = seen.reconstruction_BE - self.subject.coder.b_dec
        for targets_BE, sums_LLF in (
            (seen.error_BE.to(made_BE), self._on_error_LLF),
            (made_BE, self._on_made_LLF),
        ):
            targets = targets_BE.chunk(L, 1)
            for own, d_Fd in enumerate(
                self.subject.coder.W_dec.chunk(L, 1) if len(sums_LLF) else ()
            ):
                for site, target_Bd in enumerate(targets):
                    along_N = sddmm(target_Bd.contiguous(), d_Fd.contiguous(), code)
                    shares_N = (acts_N * along_N).double()
                    sums_LLF[own, site].index_add_(0, code.latents_N, shares_N)

    def conclude(self) -> Figures:
        """FVU and norms by site, and of two sites what tells their latents apart."""
        tokens, L = self._tokens, self._num_sites
        moments_L = torch.cat([self._sum_Ld, self._square_L[:, None]], 1)
        variation_L = torch.stack([total_variance(own, tokens) for own in moments_L])
        rms_L = (self._square_L / tokens).sqrt()
        norms_FL = self.subject.coder.site_norms().double() / rms_L
        norms_LF = torch.stack(self.whole(*norms_FL.T))
        fvu = ratios(self._error_L, variation_L)
        found: dict[str, Any] = {
            "sites": parts_of(self.subject.site),
            "site_fvu": fvu,
            "site_fvu_mean": ratio(self._error_L.div(variation_L).mean(), tokens.new_ones(())),
            "norm_share": (norms_LF / norms_LF.sum(0)).nanmean(1).tolist(),
        }
        by_latent = {"site_norms": norms_LF.T.float().contiguous()}
        if L == 2:
            of_two, more = self._of_two(norms_LF, rms_L)
            found, by_latent = found | of_two, by_latent | more
        return found | {"by_latent": by_latent}

    def _of_two(self, norms_LF: Tensor, rms_L: Tensor) -> tuple[Figures, dict[str, Tensor]]:
        first_F, second_F = norms_LF
        delta_F = ((second_F - first_F) / torch.maximum(first_F, second_F) + 1) / 2
        error_F, made_F = self.whole(*self._scalings(rms_L, delta_F[self._held] > 0.5))
        is_alone_F = (delta_F < _ALONE) | (delta_F > 1 - _ALONE)
        fired_F = self.whole(self._fired_F)[0] > 0
        chosen_F = is_alone_F & fired_F & error_F.isfinite() & made_F.isfinite()
        low, high = _SHARED
        edges = torch.linspace(0, 1, _NUM_BINS + 1, dtype=torch.float64)
        nu = error_F[chosen_F].cpu()
        inside = nu[(nu >= 0) & (nu <= 1)]
        found = {
            "first_alone": float((delta_F < _ALONE).double().mean()),
            "shared": float(((delta_F >= low) & (delta_F <= high)).double().mean()),
            "second_alone": float((delta_F > 1 - _ALONE).double().mean()),
            "delta_norm": _counted(delta_F.cpu(), edges),
            "nu_error": summary(nu),
            "nu_reconstruction": summary(made_F[chosen_F].cpu()),
            "nu_error_histogram": {**_counted(inside, edges), "beyond": len(nu) - len(inside)},
        }
        by_latent = {"delta_norm": delta_F, "nu_error": error_F, "nu_reconstruction": made_F}
        return found, {name: column.float() for name, column in by_latent.items()}

    @property
    def _held(self) -> slice:
        latents = self.subject.coder.latents
        return slice(latents.start, latents.stop)

    def _scalings(self, rms_L: Tensor, is_second_F: Tensor) -> tuple[Tensor, Tensor]:
        """ν_ε and ν_r [F] of this slice's latents, whose own site is the second or the first."""
        d_LFd = torch.stack(self.subject.coder.W_dec.chunk(2, 1)).double()
        own_LF = torch.einsum("afd,bfd->abf", d_LFd, d_LFd) * self._square_F
        found = []
        for sums_LLF in (self._on_error_LLF + own_LF, self._on_made_LLF):
            scaled_LLF = sums_LLF / rms_L[:, None]
            of_first_F = scaled_LLF[0, 1] / scaled_LLF[0, 0]
            of_second_F = scaled_LLF[1, 0] / scaled_LLF[1, 1]
            found.append(torch.where(is_second_F, of_second_F, of_first_F))
        return found[0], found[1]


def _counted(values: Tensor, edges: Tensor) -> dict[str, Any]:
    """How many lie between edges; what is not finite nowhere."""
    bins = torch.bucketize(values[values.isfinite()].double(), edges[1:-1], right=True)
    return {
        "edges": edges.tolist(),
        "counts": torch.bincount(bins, minlength=len(edges) - 1).tolist(),
    }
