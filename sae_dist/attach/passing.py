"""What one coder does while the language model runs: it reads, and writes what was asked for."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_dist.attach.edit import Edit
from sae_dist.attach.latents import Latents
from sae_dist.attach.place import Place
from sae_dist.common.errors import UserError
from sae_dist.kernels import SparsePattern


class Passing:
    """The replacement that `lm.splice` asks for at a coder's place, and what it found there.

    Args:
        place: the coder and its sites.
        read_NS: which tokens it reads; at the others nothing is changed. A generation's passes see
            some positions each; there it is of all that are to come.
        edits: of this coder's latents, in the order in which they are made.
        splice: whether the reconstruction takes the activation's place, without its error.
        grad: whether the latents' values are to get gradients.

    Attributes:
        latents: what fires, before any edit.
        reconstruction: the target as the coder has it [N, S, E], and the language model's own at
            tokens that it does not read.
        error: what the coder leaves of the target [N, S, E].
    """

    latents: Latents
    reconstruction: Tensor
    error: Tensor

    def __init__(
        self, place: Place, read_NS: Tensor, edits: Sequence[Edit], *, splice: bool, grad: bool
    ) -> None:
        self._place, self._coder = place, place.coder
        self._read_NS, self._num_seen = read_NS, 0
        self._edits, self._splice, self._grad = edits, splice, grad

    def __call__(self, x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
        """What the language model goes on with in the place of y; y itself, if nothing is asked."""
        if x_NSD.shape[-1] != self._coder.d_in:
            raise UserError(
                f"found activations of width {x_NSD.shape[-1]} at {self._place.read.name}; expected"
                f" {self._coder.d_in}, which the coder reads; attach it to its own site"
            )
        start, self._num_seen = self._num_seen, self._num_seen + x_NSD.shape[1]
        read_NS = self._read_NS[:, start : self._num_seen].expand(len(x_NSD), -1)
        tokens = sequence_B, position_B = read_NS.nonzero(as_tuple=True)
        x_BD = x_NSD[tokens].to(self._coder.W_enc.dtype)
        code, values_A = self._encode(x_BD)
        if self._grad:
            values_A = self._differentiable(x_BD, code.rows_N, code.latents_N, values_A)
        latents = self.latents = Latents(
            sequence_B[code.rows_N],
            position_B[code.rows_N],
            code.latents_N,
            values_A,
            (*x_NSD.shape[:2], self._coder.config.num_latents),
        )
        coder = self._coder
        own_BE = coder.assemble(self._decode(values_A, latents, code.offsets_B), x_BD)
        own_BE = coder.restored(own_BE, x_BD)
        target_NSE = y_NSE.detach().to(own_BE.dtype)
        self.reconstruction = target_NSE.index_put(tokens, own_BE.detach())
        self.error = target_NSE - self.reconstruction
        if not (self._splice or self._grad or self._edits):
            return y_NSE
        new_BE = own_BE if self._splice else y_NSE[tokens].to(own_BE.dtype)
        if self._grad and not self._splice:  # no value, and the decoder as gradient
            moved_BE = self._decode(values_A - values_A.detach(), latents, code.offsets_B)
            new_BE = new_BE + coder.restored(moved_BE, x_BD)
        if self._edits:
            new_BE = new_BE + self._change(latents, tokens, start)
        return y_NSE.index_put(tokens, new_BE.to(y_NSE.dtype))

    def _encode(self, x_BD: Tensor) -> tuple[SparsePattern, Tensor]:
        """What fires; nothing where there are no rows, which no search takes."""
        if len(x_BD):
            return self._coder.encode_sparse(x_BD)
        none = torch.zeros(0, dtype=torch.long, device=x_BD.device)
        starts = torch.zeros(1, dtype=torch.long, device=x_BD.device)
        return SparsePattern(starts, none, self._coder.config.num_latents), x_BD.new_zeros(0)

    def _differentiable(
        self, x_BD: Tensor, rows_A: Tensor, latents_A: Tensor, values_A: Tensor
    ) -> Tensor:
        """The same values as leaves; or, where they alone carry what came before, tied to it."""
        if not (self._splice and x_BD.requires_grad):
            return values_A.requires_grad_()
        tied_A = self._coder.encode(x_BD)[rows_A, latents_A]
        tied_A.retain_grad()
        return tied_A

    def _decode(self, values_A: Tensor, latents: Latents, offsets_B: Tensor) -> Tensor:
        """Σ value · W_f over each token's entries [B, E]; differentiable in the values alone."""
        return embedding_bag(
            latents.latents_A,
            self._coder.W_dec,
            offsets_B[:-1],
            mode="sum",
            per_sample_weights=values_A,
        )

    def _change(self, latents: Latents, tokens: tuple[Tensor, ...], start: int) -> Tensor:
        """What the edits add to the target [B, E]."""
        edited = list(dict.fromkeys(latent for edit in self._edits for latent in edit.latents))
        own_BL = torch.stack([latents.of(latent)[tokens] for latent in edited], 1)
        new_BL = own_BL
        for edit in self._edits:
            new_BL = edit.edited(new_BL, edited, start + tokens[1], self._read_NS.shape[1])
        return (new_BL - own_BL) @ self._coder.W_dec[edited]
