"""From the smaller coder to the larger one, latent by latent."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.common.declare import Axis as Drawn
from sae_dist.common.declare import Figure, Mark, Plot
from sae_dist.common.errors import UserError
from sae_dist.evaluate.measure import Figures, Pair, PairMeasure
from sae_dist.evaluate.output import CoderOutput, whole_code
from sae_dist.evaluate.summary import ratios
from sae_dist.evaluate.topics import PAIRS, STITCHING
from sae_dist.kernels import SparsePattern
from sae_dist.parallel import Axis

_CURVE_POINTS = 200
_Entries = tuple[SparsePattern, Tensor]
_BLOCK_VALUES = {"cpu": 1 << 21, "cuda": 1 << 26}  # contributions and products at once


@dataclass(frozen=True, slots=True)
class Plan:
    """At which step each latent of the larger coder comes in, and of the smaller one goes out.

    Steps count from 0; first `num_inserted` latents come in alone, then groups are swapped, and
    the last step swaps what has no counterpart, with b_dec.
    """

    in_G: Tensor
    out_F: Tensor
    num_inserted: int
    num_steps: int


def plan(cosine_G: Tensor, edges_2N: Tensor, num_small: int, tau: float, axis: Axis) -> Plan:
    """Insert latents whose maximal cosine is below τ, the least similar first; then swap connected
    groups of the graph with an edge where a cosine is at least τ (Leask et al. 2025, section 4),
    the most similar first.

    Args:
        cosine_G: the maximal cosine of every latent of the larger coder.
        edges_2N: those (g, f) of the graph's edges that this process found.
        num_small, tau: latents of the smaller coder, and the least cosine of an edge.
        axis: over whose processes the edges lie.
    """
    num_large = len(cosine_G)
    order_G = cosine_G.argsort(stable=True)
    num_inserted = int((cosine_G < tau).sum())
    edges_2N = edges_2N + edges_2N.new_tensor([[0], [num_large]])
    group_V = _groups(edges_2N, num_large + num_small, axis)
    in_G, out_F = torch.empty_like(order_G), order_G.new_empty(num_small)
    in_G[order_G[:num_inserted]] = torch.arange(num_inserted, device=in_G.device)
    swapped = order_G[num_inserted:].flip(0)
    step_of_group: dict[int, int] = {}
    for group in group_V[swapped].tolist():
        step_of_group.setdefault(group, num_inserted + len(step_of_group))
    last = num_inserted + len(step_of_group)
    steps = [step_of_group.get(group, last) for group in group_V.tolist()]
    step_V = torch.tensor(steps, device=in_G.device)
    in_G[swapped] = step_V[swapped]
    out_F[:] = step_V[num_large:]
    return Plan(in_G, out_F, num_inserted, last + 1)


def _groups(edges_2N: Tensor, num_nodes: int, axis: Axis) -> Tensor:
    """The lowest node of each node's connected component: it spreads until none falls."""
    label_V = torch.arange(num_nodes, device=edges_2N.device)
    both = torch.cat([edges_2N, edges_2N.flip(0)], 1)
    while True:
        min_V = axis.all_min(label_V.scatter_reduce(0, both[0], label_V[both[1]], "amin"))
        min_V = min_V[min_V]
        if torch.equal(min_V, label_V):
            return label_V
        label_V = min_V


class Stitching(PairMeasure):
    """MSE and L0 of every coder on the way.

    With e a token's error under the smaller coder and c_j what its j-th entry, in the order of the
    plan, adds to the reconstruction, that entry changes ‖e‖² by

        ‖c_j‖² - 2⟨e, c_j⟩ + 2 Σ_{i<j} ⟨c_i, c_j⟩

    so that all steps together cost one Gram matrix a token.

    A step's latents may lie in any slice, and what it changes depends on all steps before. But a
    squared error is a sum over dimensions: each process of the latent axis takes all latents in its
    share e of the E dimensions, which is as much as its slices of both decoders.
    """

    name = "stitching"
    version = 2
    settings = ("pairs.tau",)
    sequences = "pairs.stitch_sequences"
    topic = PAIRS
    figures = (
        Figure(
            "stitching/mse",
            "",
            "MSE after `steps` (200 at most are listed) of `num_steps`, from the "
            "smaller coder (0) to the larger one, on `tokens`: `num_inserted` latents below τ come "
            "in, the least similar first, then groups are swapped, the most similar first, then "
            "what has no counterpart with b_dec",
            source=f"{STITCHING}, section 4",
        ),
        Figure("stitching/l0", "", "L0 after the same steps"),
    )
    plots = (
        Plot(
            "stitching",
            Mark.PATH,
            "Stitching",
            "From the smaller coder (open) to the larger one (filled): first latents "
            "without a counterpart come in, the least similar first (line); then groups of similar "
            "latents are swapped (dots).",
            source=f"{STITCHING}, section 4",
            x=Drawn("L0 (active latents a token)", "stitching/l0", log=False),
            y=Drawn("MSE (squared activations)", "stitching/mse", log=False),
            panel="title",
            first="stitching/num_listed",
            rung="larger",
        ),
    )

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        small, large, axis = pair.small.coder, pair.large.coder, self.mesh.latent
        near = pair.similarity
        if near.edges_2N is None:
            raise UserError(
                f"found too many pairs of latents of {pair.small.name} and {pair.large.name} with "
                f"a cosine of at least pairs.tau={pair.tau}; expected one that tells latents "
                "apart; raise it, or leave stitching out of measures"
            )
        cosine_G = axis.all_gather(near.cosine_G)
        self._plan = plan(cosine_G, near.edges_2N, small.config.num_latents, pair.tau, axis)
        bounds = [large.d_out * part // axis.size for part in (axis.index, axis.index + 1)]
        self._dims = slice(*bounds)
        self._large_Ge, self._small_Fe = (_columns(c, self._dims, axis) for c in (large, small))
        self._tokens = self.zeros()
        self._errors_S, self._active_S = self.zeros(2, self._plan.num_steps + 1)

    def update(self, small: CoderOutput, large: CoderOutput) -> None:
        """Add the same tokens as both coders see them."""
        error_Be = small.error_BE[:, self._dims]
        axis, num_tokens = self.mesh.latent, len(small)
        in_ = whole_code(self.pair.large.coder, large, axis)
        out = whole_code(self.pair.small.coder, small, axis)
        self._tokens += num_tokens
        before = error_Be.square().sum()
        changed_S = torch.zeros_like(self._errors_S)
        sizes_B = (in_[0].offsets_B + out[0].offsets_B).diff()
        order_B, first = sizes_B.argsort(descending=True), 0
        sizes = sizes_B[order_B].tolist()
        while first < num_tokens and sizes[first]:
            values = sizes[first] * (sizes[first] + error_Be.shape[1])
            height = max(1, _BLOCK_VALUES[error_Be.device.type] // values)
            rows_b = order_B[first : first + height]
            self._add(in_, out, rows_b, error_Be[rows_b], changed_S)
            first += height
        changed_S[-1] = large.error_BE[:, self._dims].square().sum() - before - changed_S.sum()
        changed_S[0] = before
        self._errors_S += changed_S

    def _add(
        self, in_: _Entries, out: _Entries, rows_b: Tensor, error_be: Tensor, changed_S: Tensor
    ) -> None:
        """What the entries of some tokens change, all but those of the last step."""
        in_bn, in_acts_bn = _padded(*in_, rows_b)
        out_bm, out_acts_bm = _padded(*out, rows_b)
        step_bn = torch.cat([self._plan.in_G[in_bn], self._plan.out_F[out_bm]], 1)
        acts_bn = torch.cat([in_acts_bn, -out_acts_bm], 1)
        count_bn = torch.cat([in_acts_bn != 0, out_acts_bm != 0], 1).double()
        count_bn[:, in_bn.shape[1] :] *= -1
        self._active_S[0] -= count_bn[:, in_bn.shape[1] :].sum()
        self._active_S[1:].index_add_(0, step_bn.flatten(), count_bn.flatten())

        change_bne = torch.cat([self._large_Ge[in_bn], self._small_Fe[out_bm]], 1).double()
        change_bne *= acts_bn[..., None]
        gram_bnn = change_bne @ change_bne.mT
        place_n = torch.arange(step_bn.shape[1], device=step_bn.device)
        then_bnn = step_bn[:, :, None] - step_bn[:, None, :]  # i comes before j where it is > 0
        is_before_bnn = (then_bnn > 0) | ((then_bnn == 0) & (place_n[:, None] > place_n))
        twice_bn = (gram_bnn * is_before_bnn).sum(2) - (change_bne @ error_be[..., None])[..., 0]
        delta_bn = gram_bnn.diagonal(dim1=1, dim2=2) + 2 * twice_bn
        is_last_bn = step_bn == self._plan.num_steps - 1
        changed_S[1:].index_add_(0, step_bn.flatten(), delta_bn.where(~is_last_bn, 0.0).flatten())

    def conclude(self) -> Figures:
        """MSE and L0 after each step (at most 200 of them are listed; 0 is the smaller coder)."""
        errors_S = self.mesh.latent.all_reduce(self._errors_S).cumsum(0)
        active_S = self._active_S.cumsum(0)
        num, num_inserted = len(errors_S), self._plan.num_inserted
        every = max(1, num // _CURVE_POINTS)
        shown = sorted({*range(0, num, every), num_inserted, num - 1})
        return {
            "stitching": {
                "tokens": int(self._tokens),
                "num_inserted": num_inserted,
                "num_listed": sum(step <= num_inserted for step in shown),
                "num_steps": self._plan.num_steps,
                "steps": shown,
                "mse": ratios(errors_S[shown], self._tokens),
                "l0": ratios(active_S[shown], self._tokens),
            }
        }


def _padded(code: SparsePattern, acts_N: Tensor, rows_b: Tensor) -> tuple[Tensor, Tensor]:
    """Of some rows latents and activations [b, n], 0 where a row has fewer."""
    starts_b, counts_b = code.offsets_B[rows_b], code.offsets_B.diff()[rows_b]
    place_n = torch.arange(int(counts_b.max()), device=rows_b.device)
    is_there_bn = place_n < counts_b[:, None]
    index_bn = (starts_b[:, None] + place_n).where(is_there_bn, 0)
    if not len(acts_N):
        return index_bn, index_bn.double()
    return code.latents_N[index_bn].where(is_there_bn, 0), acts_N[index_bn].double() * is_there_bn


def _columns(coder: Coder, dims: slice, axis: Axis) -> Tensor:
    """All latents' decoder rows, of them some dimensions; no copy where one process has all."""
    if axis.size == 1:
        return coder.W_dec.detach()
    num_held = len(coder.W_dec)
    W_Fe = coder.W_dec.new_empty(num_held * axis.size, dims.stop - dims.start)
    for number, slice_fE in enumerate(axis.each_slice(coder.W_dec.detach())):
        W_Fe[number * num_held : (number + 1) * num_held] = slice_fE[:, dims]
    return W_Fe
