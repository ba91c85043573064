"""What a coder costs the language model: its predictions with the reconstruction spliced in."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.evaluate.summary import ratio, ratios
from sae_dist.lm import LM, Site, divergence_NS, loss_of_logits_NS, splice
from sae_dist.parallel import Mesh


@dataclass(frozen=True, slots=True)
class Spliced:
    """A coder between two sites of a language model (one and the same for an autoencoder)."""

    coder: Coder
    read: Site
    write: Site


class LMLoss:
    """Cross entropies in nats a token: clean, with zeros, and with each coder's reconstruction.

    Means are over predicted tokens that are not special; special positions keep the language
    model's own activation.

    - `delta_loss`: spliced - clean (Lieberum et al. 2024, section 4.1), also by position: entry s
      is of predicting token s + 1 (fig. 15).
    - `loss_recovered`: (zero - spliced) / (zero - clean).
    - `kl`: the mean of KL(clean ‖ spliced).
    - `kl_score`: (KL with zeros - KL spliced) / KL with zeros (Karvonen et al. 2025).

    Where zeros cost nothing, `loss_recovered` and `kl_score` are None; so is `ce_increase_percent`
    of a loss of 0, and all where no token is predicted.
    """

    def __init__(
        self, lm: LM, coders: dict[str, Spliced], num_positions: int, device: torch.device
    ) -> None:
        self._lm, self._coders, self._device = lm, coders, device
        self._targets = list({s.write.name: s.write for s in coders.values()}.values())
        zeros = [f"zero/{site.name}" for site in self._targets]
        self._changed = [*zeros, *(f"coder/{name}" for name in coders)]
        # All are there from the start: a process without sequences must sum as often as the others.
        self._tokens_S = torch.zeros(num_positions - 1, dtype=torch.float64, device=device)
        names = ["clean", *self._changed]
        self._loss_S = {name: torch.zeros_like(self._tokens_S) for name in names}
        self._kl = {name: self._tokens_S.new_zeros(()) for name in self._changed}

    @torch.no_grad()
    def update(self, input_ids_NS: Tensor, trainable_NS: Tensor) -> None:
        """Add a batch of sequences: one forward pass clean, one a target zeroed, one a coder."""
        ids_NS, kept_NS = input_ids_NS.to(self._device), ~trainable_NS.to(self._device)
        predicted_NS = ~kept_NS[:, 1:]
        self._tokens_S += predicted_NS.sum(0)
        clean_NSV = self._add("clean", nullcontext(), ids_NS, predicted_NS, None)
        for name in self._changed:
            changed = self._splice(name, kept_NS)
            self._add(name, changed, ids_NS, predicted_NS, clean_NSV)

    def _splice(self, name: str, kept_NS: Tensor) -> AbstractContextManager[None]:
        model, (kind, _, which) = self._lm.model, name.partition("/")
        if kind == "zero":
            site = next(site for site in self._targets if site.name == which)
            return splice(model, site, site, lambda x, y: torch.zeros_like(y), kept_NS)
        spliced = self._coders[which]
        return splice(model, spliced.read, spliced.write, replacement_by(spliced.coder), kept_NS)

    def _add(
        self,
        name: str,
        changed: AbstractContextManager[None],
        ids_NS: Tensor,
        predicted_NS: Tensor,
        clean_NSV: Tensor | None,
    ) -> Tensor:
        """Add one forward pass; returns its logits [N, S, V]."""
        with changed:
            logits_NSV: Tensor = self._lm.model(input_ids=ids_NS).logits
        loss_NS = loss_of_logits_NS(logits_NSV, ids_NS).double()
        self._loss_S[name] += loss_NS.where(predicted_NS, 0.0).sum(0)
        if clean_NSV is not None:
            self._kl[name] += divergence_NS(clean_NSV, logits_NSV)[predicted_NS].double().sum()
        return logits_NSV

    def result(self, mesh: Mesh) -> tuple[float | None, dict[str, dict[str, Any]]]:
        """The clean loss, and each coder's figures by name."""
        tokens_S = mesh.data.all_reduce(self._tokens_S)
        tokens = tokens_S.sum()
        loss_S = {name: mesh.data.all_reduce(sums_S) for name, sums_S in self._loss_S.items()}
        loss = {name: sums_S.sum() for name, sums_S in loss_S.items()}
        kl = {name: mesh.data.all_reduce(total) for name, total in self._kl.items()}
        clean, figures = loss["clean"], {}
        for name, spliced in self._coders.items():
            own, zeroed = f"coder/{name}", f"zero/{spliced.write.name}"
            here, zero = loss[own], loss[zeroed]
            figures[name] = {
                "delta_loss": ratio(here - clean, tokens),
                "ce_increase_percent": ratio(100 * (here - clean), clean),
                "zero_ablation_loss": ratio(zero, tokens),
                "loss_recovered": ratio(zero - here, zero - clean),
                "kl": ratio(kl[own], tokens),
                "kl_score": ratio(kl[zeroed] - kl[own], kl[zeroed]),
                "delta_loss_by_position": ratios(loss_S[own] - loss_S["clean"], tokens_S),
            }
        return ratio(clean, tokens), figures


def replacement_by(coder: Coder) -> Callable[[Tensor, Tensor], Tensor]:
    """What `splice` is to put in the target's place: a coder's output [N, S, E]."""

    def replacement(x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
        x_BD = x_NSD.flatten(0, 1).to(coder.W_enc.dtype)
        code, acts_N = coder.encode_sparse(x_BD)
        return coder.reconstruct_sparse(code, acts_N, x_BD).view(*x_NSD.shape[:2], coder.d_out)

    return replacement
