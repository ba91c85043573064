"""Put something else in the place of a language model's own activations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sae_dist.common.errors import UserError
from sae_dist.lm.hooks import at_site
from sae_dist.lm.sites import Site

Replacement = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def splice(
    model: nn.Module, read: Site, write: Site, replacement: Replacement, keep_NS: Tensor
) -> Iterator[None]:
    """While open, activations at `write` become `replacement(x_NSD, y_NSE)`, a tensor [N, S, E].

    x are the activations at `read` in the same forward pass and y the model's own at `write`: an
    autoencoder has `read == write` and ignores y, a transcoder reads `mlp_in` and writes
    `mlp_out`, zero ablation is `lambda x, y: torch.zeros_like(y)`. Where `keep_NS` is true (special
    tokens) the model's own activation stays. Gradients flow through. Splices may be nested.

    Raises UserError, in the forward pass, if `read` does not come before `write` or if the
    replacement has another shape.
    """
    latest: list[Tensor] = []

    def remember(x_NSD: Tensor) -> None:
        latest[:] = [x_NSD]

    def replace(y_NSE: Tensor) -> Tensor:
        if not latest:
            raise UserError(
                f"found that {write.name} is computed before {read.name}; expected to read before "
                "writing; swap the sites"
            )
        new_NSE = replacement(latest.pop(), y_NSE).to(y_NSE.dtype)
        if new_NSE.shape != y_NSE.shape:
            raise UserError(
                f"found a replacement of shape {list(new_NSE.shape)} for {write.name}; expected "
                f"{list(y_NSE.shape)}; use a coder trained on this site"
            )
        return torch.where(keep_NS[..., None], y_NSE, new_NSE)

    with at_site(model, read, remember), at_site(model, write, replace):
        yield
