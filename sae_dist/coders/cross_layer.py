"""Cross-layer transcoders: a transcoder of each layer that writes to its own and all later ones."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sae_dist.coders.coder import Coder
from sae_dist.coders.config import CoderConfig, Form, layers_of
from sae_dist.common.errors import UserError
from sae_dist.kernels import SparsePattern


def make_coder(config: CoderConfig, d_in: int, d_out: int, **how: Any) -> Coder:
    """A coder of the class that its form has, with the arguments of `Coder`."""
    is_layered = config.form is Form.cross_layer_transcoder
    return (CrossLayerTranscoder if is_layered else Coder)(config, d_in, d_out, **how)


def _shared(name: str) -> Any:
    """An attribute that all layers have alike."""

    def set_all(self: "CrossLayerTranscoder", value: Any) -> None:
        for layer in self.layers:
            setattr(layer, name, value)

    return property(lambda self: getattr(self.layers[0], name), set_all)


class CrossLayerTranscoder(Coder):
    """L transcoders with one loss: what layer l finds is written to the targets l, …, L - 1.

        f^l = select(W_enc^l x^l + b_enc^l)
        ŷ^m = Σ_{l ≤ m} W_dec^{l→m}ᵀ f^l + b_dec^m          (Ameisen et al. 2025)

    `x` are L sites side by side [B, L·D], `ŷ` their targets [B, L·E]. Each layer selects for
    itself: of a kind that is told k, k a layer fire. Latents are numbered through the layers:
    latent i of layer l has the number i·L + l, so that each slice of them has all layers alike.

    Attributes:
        layers: the transcoders; the rows of `layers[l].W_dec` [F/L, (L-l)·E] are its latents'
            decoders to all targets from l on, side by side.
        b_dec: [L·E]; layers have no b_dec of their own.

    Args and Raises: as of `Coder`; `config.num_latents` are those of all layers together.
    """

    layers: list[Coder]
    collectives = _shared("collectives")
    is_exact, gradients, waits = _shared("is_exact"), _shared("gradients"), _shared("waits")

    def _make_weights(self, dtype: torch.dtype, device: torch.device | str) -> None:
        config, L = self.config, self.config.num_sites
        numbers = {"coder.num_latents": config.num_latents, "a slice's latents": len(self.latents)}
        for what, number in numbers.items():
            if number % L:
                raise UserError(
                    f"found {what} {number} of a cross-layer transcoder of {L} layers; expected a "
                    f"multiple of {L}; choose one"
                )
        if config.has_further_passes(has_dead=False):
            raise UserError(
                f"found a {config.kind} cross-layer transcoder with a second pass; expected one, "
                "over all layers; set coder.multi_topk=false"
            )
        held = range(self.latents.start // L, self.latents.stop // L)
        how: Any = {"latents": held, "pre_bias": False, "dtype": dtype, "device": device}
        layers = [Coder(*one, **how) for one in layers_of(config, self.d_in, self.d_out)]
        self.layers = cast("list[Coder]", nn.ModuleList(layers))
        for layer in self.layers:
            bias = layer.b_dec.detach()
            del layer.b_dec
            layer.register_buffer("b_dec", bias, persistent=False)  # nobody reads it
        self.b_dec = nn.Parameter(torch.empty(self.d_out, dtype=dtype, device=device))
        self.register_parameter("W_skip", None)

    @property
    def latent_tensors(self) -> frozenset[str]:
        return frozenset(
            f"layers.{number}.{name}"
            for number, layer in enumerate(self.layers)
            for name in layer.latent_tensors
        )

    @property
    def has_rooms(self) -> bool:
        return any(layer.has_rooms for layer in self.layers)

    def by_layer(self, x_BD: Tensor) -> list[Tensor]:
        """What each layer reads [B, D]."""
        return [x.contiguous() for x in x_BD.chunk(len(self.layers), -1)]

    def sum_of(self, decoded: Sequence[Tensor]) -> Tensor:
        """What all layers write [B, L·E], from what each writes to the targets from it on."""
        return sum(
            (pad(own, (self.d_out - own.shape[-1], 0)) for own in decoded),
            start=torch.zeros((), dtype=self.dtype, device=self.b_dec.device),
        )

    def through(self, of_layers: Sequence[Tensor]) -> Tensor:
        """Numbers of each layer's latents [F/L] as those of all latents [F]."""
        return torch.stack(list(of_layers), -1).flatten(-2)

    def encode(self, x_BD: Tensor) -> Tensor:
        own = zip(self.layers, self.by_layer(x_BD), strict=True)
        return self.through([layer.encode(x_Bd) for layer, x_Bd in own])

    def reconstruct(self, acts_BF: Tensor, x_BD: Tensor) -> Tensor:
        acts = acts_BF.unflatten(1, (-1, len(self.layers))).unbind(2)
        decoded = [a @ layer.W_dec for a, layer in zip(acts, self.layers, strict=True)]
        return self.assemble(self.collectives.sum_latents(self.sum_of(decoded)), x_BD)

    def decode(self, acts_BF: Tensor) -> Tensor:
        return self.reconstruct(acts_BF, acts_BF)

    @torch.no_grad()
    def encode_sparse(self, x_BD: Tensor) -> tuple[SparsePattern, Tensor]:
        L, num_held = len(self.layers), len(self.latents)
        own = zip(self.layers, self.by_layer(x_BD), strict=True)
        codes = [layer.encode_sparse(x_Bd) for layer, x_Bd in own]
        rows_N = torch.cat([code.rows_N for code, _ in codes])
        latents_N = torch.cat([code.latents_N * L + n for n, (code, _) in enumerate(codes)])
        acts_N = torch.cat([acts_n for _, acts_n in codes])
        order_N = (rows_N * num_held + latents_N).argsort()
        code = SparsePattern.from_rows(rows_N[order_N], latents_N[order_N], len(x_BD), num_held)
        return code, acts_N[order_N]

    def decode_sparse(self, code: SparsePattern, acts_N: Tensor) -> Tensor:
        L, decoded = len(self.layers), []
        for number, layer in enumerate(self.layers):
            own, acts_n = code.keep(code.latents_N % L == number, acts_N)
            of_layer = SparsePattern(own.offsets_B, own.latents_N // L, len(layer.latents))
            decoded.append(layer.decode_sparse(of_layer, acts_n))
        return self.sum_of(decoded)

    def site_norms(self) -> Tensor:
        """The norms of the decoders at each target [F, L]; 0 before a latent's own layer."""
        found = []
        for number, layer in enumerate(self.layers):
            blocks_fmE = layer.W_dec.detach().unflatten(1, (len(self.layers) - number, -1))
            found.append(pad(torch.linalg.vector_norm(blocks_fmE, dim=2), (number, 0)))
        return torch.stack(found, 1).flatten(0, 1)

    def row_norms(self) -> Tensor:
        return self.through([layer.row_norms() for layer in self.layers])

    def own_tensors(self) -> list[Tensor]:
        return list(chain.from_iterable(layer.own_tensors() for layer in self.layers))

    def after_step(self, least: Callable[[], Tensor], num_updates: Tensor) -> None:
        of_layers = cache(least)
        for number, layer in enumerate(self.layers):
            layer.after_step(partial(_element, of_layers, number), num_updates)

    def logged(self) -> dict[str, Tensor]:
        """Means over the layers."""
        of_layers = [layer.logged() for layer in self.layers]
        return {name: torch.stack([own[name] for own in of_layers]).mean() for name in of_layers[0]}


def _element(values: Callable[[], Tensor], number: int) -> Tensor:
    return values()[number]
