"""From the smaller coder to the larger one, latent by latent."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.evaluate.output import CoderOutput
from sae_dist.evaluate.pairs.entries import all_entries
from sae_dist.evaluate.summary import ratios
from sae_dist.parallel import Axis, Mesh

_CURVE_POINTS = 200


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


def plan(cosine_G: Tensor, pairs_2N: Tensor, num_small: int, tau: float, axis: Axis) -> Plan:
    """Insert latents whose maximal cosine is below τ, the least similar first; then swap connected
    groups of the graph with an edge where a cosine is at least τ (Leask et al. 2025, section 4),
    the most similar first.

    Args:
        cosine_G: the maximal cosine of every latent of the larger coder.
        pairs_2N: those (g, f) of the graph's edges that this process found.
        num_small, tau: latents of the smaller coder, and the least cosine of an edge.
        axis: over whose processes the edges lie.
    """
    num_large = len(cosine_G)
    order_G = cosine_G.argsort(stable=True)
    num_inserted = int((cosine_G < tau).sum())
    edges_2N = pairs_2N + pairs_2N.new_tensor([[0], [num_large]])
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
    """The least node of each node's connected component: it spreads until none falls."""
    label_V = torch.arange(num_nodes, device=edges_2N.device)
    both = torch.cat([edges_2N, edges_2N.flip(0)], 1)
    while True:
        least_V = axis.all_min(label_V.scatter_reduce(0, both[0], label_V[both[1]], "amin"))
        least_V = least_V[least_V]
        if torch.equal(least_V, label_V):
            return label_V
        label_V = least_V


class Stitching:
    """MSE and L0 of every coder on the way.

    A step changes the error only of tokens on which one of its latents is active, so that all steps
    together cost one pass over the entries of both codes.

    A step's latents may lie in any slice, and what it changes depends on all steps before. But a
    squared error is a sum over dimensions: each process of the latent axis takes all latents in its
    share e of the E dimensions, which is as much as its slices of both decoders.

    Args:
        small, large: the coders, or slices of them.
        plan: of the whole coders, equal on all processes.
        mesh: over whose latent axis the slices lie.
    """

    def __init__(self, small: Coder, large: Coder, plan: Plan, mesh: Mesh) -> None:
        self._small, self._large, self._plan, self._mesh = small, large, plan, mesh
        axis = mesh.latent
        bounds = [large.d_out * part // axis.size for part in (axis.index, axis.index + 1)]
        dims = self._dims = slice(*bounds)
        both = [
            part_fE[:, dims].clone() for c in (large, small) for part_fE in axis.each_slice(c.W_dec)
        ]
        self._W_Ve = torch.cat(both)
        self._step_V = torch.cat([plan.in_G, plan.out_F])
        device = large.W_dec.device
        self._tokens = torch.zeros((), dtype=torch.float64, device=device)
        self._errors_S = torch.zeros(plan.num_steps + 1, dtype=torch.float64, device=device)
        self._active_S = torch.zeros_like(self._errors_S)

    def update(self, small: CoderOutput, large: CoderOutput) -> None:
        """Add the same tokens as both coders see them."""
        self._tokens += len(small)
        error_Be = small.error_BE[:, self._dims].clone()
        step_N, row_N, sign_N, change_Ne = self._changes(small, large)
        self._errors_S[0] += error_Be.square().sum()
        self._active_S[0] += (sign_N < 0).sum()
        self._active_S[1:].index_add_(0, step_N, sign_N)
        firsts_S = torch.searchsorted(
            step_N, torch.arange(self._plan.num_steps, device=step_N.device)
        )
        bounds = [*firsts_S.tolist(), len(step_N)]
        for step in range(self._plan.num_steps - 1):
            entries = slice(bounds[step], bounds[step + 1])
            if entries.start < entries.stop:
                rows, own = row_N[entries].unique(return_inverse=True)
                before = error_Be[rows]
                after = before.index_add(0, own, change_Ne(entries), alpha=-1)
                self._errors_S[step + 1] += after.square().sum() - before.square().sum()
                error_Be[rows] = after
        last_Be = large.error_BE[:, self._dims]
        self._errors_S[-1] += last_Be.square().sum() - error_Be.square().sum()

    def _changes(
        self, small: CoderOutput, large: CoderOutput
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        """All entries of both codes by the step that moves them: step, row, ±1, and what a run of
        them adds to the reconstruction.
        """
        in_, out = (
            all_entries(coder, seen, self._mesh.latent)
            for coder, seen in ((self._large, large), (self._small, small))
        )
        latent_N = torch.cat([in_.latents_N, out.latents_N + self._large.config.num_latents])
        step_N, order_N = self._step_V[latent_N].sort(stable=True)
        latent_N = latent_N[order_N]
        row_N = torch.cat([in_.rows_N, out.rows_N])[order_N]
        acts_N = torch.cat([in_.acts_N, -out.acts_N])[order_N].double()

        def change_Ne(entries: slice) -> Tensor:
            return acts_N[entries, None] * self._W_Ve[latent_N[entries]].double()

        is_in_N = latent_N < self._large.config.num_latents
        return step_N, row_N, torch.where(is_in_N, 1.0, -1.0) * (acts_N != 0).double(), change_Ne

    def result(self) -> dict[str, Any]:
        """MSE and L0 after each step (at most 200 of them are listed; 0 is the smaller coder);
        called by all processes together.
        """
        tokens = self._mesh.data.all_reduce(self._tokens)
        errors_S = self._mesh.world.all_reduce(self._errors_S).cumsum(0)
        active_S = self._mesh.data.all_reduce(self._active_S).cumsum(0)
        num = len(errors_S)
        every = max(1, num // _CURVE_POINTS)
        shown = sorted({*range(0, num, every), self._plan.num_inserted, num - 1})
        return {
            "tokens": int(tokens),
            "num_inserted": self._plan.num_inserted,
            "num_steps": self._plan.num_steps,
            "steps": shown,
            "mse": ratios(errors_S[shown], tokens.expand(len(shown))),
            "l0": ratios(active_S[shown], tokens.expand(len(shown))),
        }
