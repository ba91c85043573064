"""What a coder costs the language model: its loss with the reconstruction spliced in."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.lm import LM, Site, next_token_loss_NS, splice
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
    model's own activation. Delta loss is Lieberum et al. 2024's (section 4.1), loss recovered is
    (zero - spliced) / (zero - clean).
    """

    def __init__(self, lm: LM, coders: dict[str, Spliced], device: torch.device) -> None:
        self._lm, self._coders, self._device = lm, coders, device
        self._targets = list({s.write.name: s.write for s in coders.values()}.values())
        zeros = [f"zero/{site.name}" for site in self._targets]
        names = ["clean", *zeros, *(f"coder/{name}" for name in coders)]
        # All are there from the start: a process without sequences must sum as often as the others.
        self._tokens = torch.zeros((), dtype=torch.float64, device=device)
        self._sums = {name: torch.zeros_like(self._tokens) for name in names}

    @torch.no_grad()
    def update(self, input_ids_NS: Tensor, trainable_NS: Tensor) -> None:
        """Add a batch of sequences: one forward pass clean, one a target zeroed, one a coder."""
        ids_NS, kept_NS = input_ids_NS.to(self._device), ~trainable_NS.to(self._device)
        predicted_NS = ~kept_NS[:, 1:]
        self._tokens = self._tokens + predicted_NS.sum()

        def add(name: str, passes: Callable[[], Tensor]) -> None:
            self._sums[name] += passes()[predicted_NS].double().sum()

        model = self._lm.model
        add("clean", lambda: next_token_loss_NS(model, ids_NS))
        for site in self._targets:
            with splice(model, site, site, lambda x, y: torch.zeros_like(y), kept_NS):
                add(f"zero/{site.name}", lambda: next_token_loss_NS(model, ids_NS))
        for name, spliced in self._coders.items():
            with splice(model, spliced.read, spliced.write, _replace(spliced.coder), kept_NS):
                add(f"coder/{name}", lambda: next_token_loss_NS(model, ids_NS))

    def result(self, mesh: Mesh) -> tuple[float, dict[str, dict[str, float]]]:
        """The clean loss, and each coder's figures by name."""
        tokens = mesh.data.sum(self._tokens)
        loss = {name: float(mesh.data.sum(total) / tokens) for name, total in self._sums.items()}
        clean = loss["clean"]
        figures = {}
        for name, spliced in self._coders.items():
            here, zero = loss[f"coder/{name}"], loss[f"zero/{spliced.write.name}"]
            figures[name] = {
                "delta_loss": here - clean,
                "ce_increase_percent": 100 * (here - clean) / clean,
                "zero_ablation_loss": zero,
                "loss_recovered": (zero - here) / (zero - clean),
            }
        return clean, figures


def _replace(coder: Coder) -> Callable[[Tensor, Tensor], Tensor]:
    def replacement(x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
        x_BD = x_NSD.flatten(0, 1).to(coder.W_enc.dtype)
        code, acts_N = coder.encode_sparse(x_BD)
        return coder.reconstruct_sparse(code, acts_N, x_BD).view(*x_NSD.shape[:2], coder.d_out)

    return replacement
