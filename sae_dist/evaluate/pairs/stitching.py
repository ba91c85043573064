"""From the smaller coder to the larger one, latent by latent."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.evaluate.pairs.cosine import Nearest
from sae_dist.evaluate.seen import Seen
from sae_dist.parallel import Mesh

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


def plan(near: Nearest, pairs_2N: Tensor, num_small: int, tau: float) -> Plan:
    """Insert latents whose maximal cosine is below τ, the least similar first; then swap connected
    groups of the graph with an edge where a cosine is at least τ (Leask et al. 2025, section 4),
    the most similar first.
    """
    cosine_G = near.cosine_G
    num_large = len(cosine_G)
    order_G = cosine_G.argsort(stable=True)
    num_inserted = int((cosine_G < tau).sum())
    group_V = _groups(pairs_2N + pairs_2N.new_tensor([[0], [num_large]]), num_large + num_small)
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


def _groups(edges_2N: Tensor, num_nodes: int) -> Tensor:
    """The least node of each node's connected component: it spreads until none falls."""
    label_V = torch.arange(num_nodes, device=edges_2N.device)
    both = torch.cat([edges_2N, edges_2N.flip(0)], 1)
    while True:
        least_V = label_V.scatter_reduce(0, both[0], label_V[both[1]], "amin")
        least_V = least_V[least_V]
        if torch.equal(least_V, label_V):
            return label_V
        label_V = least_V


class Stitching:
    """MSE and L0 of every coder on the way.

    A step changes the error only of tokens on which one of its latents is active, so that all steps
    together cost one pass over the entries of both codes.
    """

    def __init__(self, small: Coder, large: Coder, plan: Plan) -> None:
        self._plan = plan
        self._W_VE = torch.cat([large.W_dec.detach(), small.W_dec.detach()])
        self._step_V = torch.cat([plan.in_G, plan.out_F])
        device = large.W_dec.device
        self._tokens = torch.zeros((), dtype=torch.float64, device=device)
        self._errors_S = torch.zeros(plan.num_steps + 1, dtype=torch.float64, device=device)
        self._active_S = torch.zeros_like(self._errors_S)

    def update(self, small: Seen, large: Seen) -> None:
        """Add the same tokens as both coders see them."""
        self._tokens += len(small)
        error_BE = small.error_BE.clone()
        step_N, row_N, sign_N, change_NE = self._changes(small, large)
        self._errors_S[0] += error_BE.square().sum()
        self._active_S[0] += len(small.acts_N)
        self._active_S[1:].index_add_(0, step_N, sign_N)
        firsts_S = torch.searchsorted(
            step_N, torch.arange(self._plan.num_steps, device=step_N.device)
        )
        bounds = [*firsts_S.tolist(), len(step_N)]
        for step in range(self._plan.num_steps - 1):
            entries = slice(bounds[step], bounds[step + 1])
            if entries.start < entries.stop:
                rows, own = row_N[entries].unique(return_inverse=True)
                before = error_BE[rows]
                after = before.index_add(0, own, change_NE(entries), alpha=-1)
                self._errors_S[step + 1] += after.square().sum() - before.square().sum()
                error_BE[rows] = after
        self._errors_S[-1] += large.square_error_B.sum() - error_BE.square().sum()

    def _changes(self, small: Seen, large: Seen) -> tuple[Tensor, Tensor, Tensor, Any]:
        """All entries of both codes by the step that moves them: step, row, ±1, and what a run of
        them adds to the reconstruction.
        """
        small_latents_N = small.code.latents_N + large.code.num_latents
        latent_N = torch.cat([large.code.latents_N, small_latents_N])
        step_N, order_N = self._step_V[latent_N].sort(stable=True)
        latent_N = latent_N[order_N]
        row_N = torch.cat([large.code.rows_N, small.code.rows_N])[order_N]
        acts_N = torch.cat([large.acts_N, -small.acts_N])[order_N].double()

        def change_NE(entries: slice) -> Tensor:
            return acts_N[entries, None] * self._W_VE[latent_N[entries]].double()

        return step_N, row_N, acts_N.sign(), change_NE

    def result(self, mesh: Mesh) -> dict[str, Any]:
        """MSE and L0 after each step (at most 200 of them are listed; 0 is the smaller coder)."""
        tokens = mesh.data.sum(self._tokens)
        mse_S = mesh.data.sum(self._errors_S).cumsum(0) / tokens
        l0_S = mesh.data.sum(self._active_S).cumsum(0) / tokens
        every = max(1, len(mse_S) // _CURVE_POINTS)
        shown = sorted({*range(0, len(mse_S), every), self._plan.num_inserted, len(mse_S) - 1})
        return {
            "tokens": int(tokens),
            "num_inserted": self._plan.num_inserted,
            "num_steps": self._plan.num_steps,
            "steps": shown,
            "mse": mse_S[shown].tolist(),
            "l0": l0_S[shown].tolist(),
        }
