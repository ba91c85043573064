"""The sparse coder: encoder → selection → decoder."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sae_dist.coders.collectives import Collectives, SingleProcess
from sae_dist.coders.config import CoderConfig, Form, Kind
from sae_dist.coders.select import batch_top_k, batch_top_k_code, top_k, top_k_code
from sae_dist.common.errors import UserError
from sae_dist.common.settings import validate
from sae_dist.kernels import (
    DensePass,
    Encoder,
    GradientForm,
    SparsePattern,
    aux_pass,
    decode,
    dense_jumprelu,
    encode,
    jumprelu,
    search_dtype,
    threshold_candidates,
)

_DENSE_SHARE = 8  # beyond one entry in so many, dense arithmetic is faster than sparse


class Coder(nn.Module):
    """A sparse autoencoder, transcoder or skip transcoder, or a slice of its latents.

        z = W_enc (x - b_dec) + b_enc        (b_dec is subtracted only with `pre_bias`)
        f = select(z)                        JumpReLU, TopK or BatchTopK
        ŷ = W_decᵀ f + b_dec + W_skip x      (W_skip only in a skip transcoder)

    Rows are latents: `W_enc [F, D]`, `W_dec [F, E]`, `b_enc [F]`, `b_dec [E]`, `threshold [F]`,
    `W_skip [E, D]`. While `training`, BatchTopK selects over the global batch; otherwise it uses
    `inference_threshold`, as a JumpReLU does its `threshold`.

    Args:
        config: kind, form and width.
        d_in: D, the width of the input.
        d_out: E, the width of the target; an autoencoder has E = D.
        latents: which latents this object holds; all by default.
        pre_bias: whether b_dec is subtracted from the input; by default in autoencoders.
        dtype, device: of the parameters, which are left uninitialised (see `initialise`).

    Attributes:
        is_exact: whether selection is exact to the weights' dtype, or to bfloat16 products.
        gradients: the form of W_enc's and W_dec's.
        expected_threshold: about what BatchTopK's threshold in the next batch will be; a good
            guess saves time.

    Raises:
        UserError: no latents, or a `k` that is not among their number.
    """

    threshold: nn.Parameter | None
    W_skip: nn.Parameter | None
    inference_threshold: Tensor | None

    def __init__(
        self,
        config: CoderConfig,
        d_in: int,
        d_out: int,
        *,
        latents: range | None = None,
        pre_bias: bool | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        _check(config)
        self.config, self.d_in, self.d_out = config, d_in, d_out
        self.latents = latents or range(config.num_latents)
        self.pre_bias = config.form is Form.autoencoder if pre_bias is None else pre_bias
        self.collectives: Collectives = SingleProcess()
        self.is_exact, self.gradients, self.expected_threshold = True, GradientForm(), 0.0
        self._encoder: Encoder | None = None
        self._encoder_is_of: tuple[int, int] | None = None

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=dtype, device=device))

        num_held = len(self.latents)
        self.W_enc, self.b_enc = parameter(num_held, d_in), parameter(num_held)
        self.W_dec, self.b_dec = parameter(num_held, d_out), parameter(d_out)
        is_skip, is_jumprelu = config.form is Form.skip_transcoder, config.kind is Kind.jumprelu
        self.register_parameter("W_skip", parameter(d_out, d_in) if is_skip else None)
        self.register_parameter("threshold", parameter(num_held) if is_jumprelu else None)
        estimate = torch.zeros((), dtype=torch.float64, device=device)
        is_batchtopk = config.kind is Kind.batchtopk
        self.register_buffer("inference_threshold", estimate if is_batchtopk else None)

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """z [B, F], before selection."""
        return linear(self.centred(x_BD), self.W_enc, self.b_enc)

    def centred(self, x_BD: Tensor) -> Tensor:
        """What the encoder reads [B, D]: x - b_dec with `pre_bias`, else x itself."""
        return x_BD - self.collectives.to_latents(self.b_dec) if self.pre_bias else x_BD

    def candidates(self, x_BD: Tensor, k: int) -> tuple[SparsePattern, Tensor] | None:
        """The entries that a training step can depend on, and their pre-activations [N].

        With TopK and BatchTopK those that fire, with JumpReLU also those in the kernel's window;
        differentiable in the encoder and b_dec. None while most entries matter: a JumpReLU's
        first steps are dense.

        Args:
            x_BD: the input.
            k: what TopK and BatchTopK keep a row.
        """
        x_BD, centre_D = self._centred(x_BD)
        found = self._find(x_BD, k)
        if found is None:
            return None
        code, z_N = found
        weights = self.W_enc, self.b_enc, centre_D
        return code, encode(z_N, x_BD, *weights, code, self.gradients)

    def decode_densely(self, x_BD: Tensor) -> DensePass:
        """What this slice of a JumpReLU's latents decodes to while most of them fire."""
        assert self.threshold is not None
        x_BD, centre_D = self._centred(x_BD)
        weights = self.W_enc, self.b_enc, centre_D, self.threshold, self.W_dec
        return dense_jumprelu(x_BD, *weights, self.config.bandwidth)

    def decode_aux(
        self, x_BD: Tensor, chosen: Tensor, num_chosen: int, select: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What these latents of this slice alone decode to [B, E], in the search's dtype.

        Args:
            x_BD: the input.
            chosen: their numbers in the slice, rising.
            num_chosen: how many they are in all slices together.
            select: from their pre-activations [b, d] at some rows to the mask of what fires.
        """
        x_BD, centre_D = self._centred(x_BD)
        weights = self.W_enc, self.b_enc, centre_D, self.W_dec
        return aux_pass(x_BD, *weights, chosen, num_chosen, select, search_dtype(self.W_enc))

    def _centred(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """x - c without gradient, and c, which has it."""
        if not self.pre_bias:
            return x_BD, torch.zeros_like(x_BD[0])
        centre_D = self.collectives.to_latents(self.b_dec)
        return x_BD - centre_D.detach(), centre_D

    @torch.no_grad()
    def _find(self, x_BD: Tensor, k: int) -> tuple[SparsePattern, Tensor] | None:
        if self.threshold is not None:
            limit = len(x_BD) * len(self.W_enc) // _DENSE_SHARE
            floor_F = self.threshold - self.config.bandwidth / 2
            return threshold_candidates(x_BD, self.encoder(), floor_F, limit)
        if self.config.kind is Kind.topk:
            return top_k_code(x_BD, self.encoder(), k, self.collectives)
        assert self.inference_threshold is not None
        guess = self.expected_threshold if k == self.config.k else 0.0
        return batch_top_k_code(x_BD, self.encoder(), k, guess, self.collectives)

    def encoder(self) -> Encoder:
        """The encoder as the search for its entries reads it; made anew when W_enc has changed."""
        if self._encoder is None or self._encoder_is_of != self._W_enc_state():
            self._encoder = Encoder.of(self.W_enc, self.b_enc, is_exact=self.is_exact)
            self.encoder_is_current()
        return self._encoder

    def encoder_is_current(self) -> None:
        """Say that `encoder` was brought up to date together with W_enc."""
        self._encoder_is_of = self._W_enc_state()

    def _W_enc_state(self) -> tuple[int, int]:
        return self.W_enc.data_ptr(), self.W_enc._version

    def select(self, z_BF: Tensor) -> Tensor:
        """f [B, F]: the pre-activations of the latents that fire, 0 elsewhere.

        In training, BatchTopK's batch is the global one: every part must have as many rows.
        """
        if self.threshold is not None:
            return jumprelu(z_BF, self.threshold, self.config.bandwidth)
        if self.config.kind is Kind.topk:
            return torch.where(top_k(z_BF, self.config.k, self.collectives), z_BF, 0.0)
        if self.training:
            return torch.where(batch_top_k(z_BF, self.config.k, self.collectives), z_BF, 0.0)
        assert self.inference_threshold is not None
        return torch.where(z_BF > self.inference_threshold.to(z_BF.dtype), z_BF, 0.0)

    def encode(self, x_BD: Tensor) -> Tensor:
        """f [B, F], the latents' activations."""
        return self.select(self.pre_activations(x_BD))

    def decode(self, acts_BF: Tensor) -> Tensor:
        """W_decᵀ f + b_dec [B, E]; a skip transcoder adds W_skip x to it in `forward`."""
        return self.collectives.sum_latents(acts_BF @ self.W_dec) + self.b_dec

    def reconstruct(self, acts_BF: Tensor, x_BD: Tensor) -> Tensor:
        """ŷ [B, E] from the latents' activations and the input."""
        return self.assemble(self.collectives.sum_latents(acts_BF @ self.W_dec), x_BD)

    @torch.no_grad()
    def encode_sparse(self, x_BD: Tensor) -> tuple[SparsePattern, Tensor]:
        """What `encode` gives at inference, without gradient: the pattern and the values [N]."""
        if self.pre_bias:
            x_BD = x_BD - self.b_dec
        if self.config.kind is Kind.topk:
            return top_k_code(x_BD, self.encoder(), self.config.k, self.collectives)
        threshold = self.inference_threshold if self.threshold is None else self.threshold
        assert threshold is not None
        floor_F = threshold.to(x_BD.dtype).expand(len(self.W_enc))
        found = threshold_candidates(x_BD, self.encoder(), floor_F, limit=len(x_BD) * len(floor_F))
        assert found is not None
        return found

    def decode_sparse(self, code: SparsePattern, acts_N: Tensor) -> Tensor:
        """What this slice of the latents decodes to [B, E], from the entries of a pattern."""
        return decode(acts_N, self.W_dec, code, self.gradients)

    def reconstruct_sparse(self, code: SparsePattern, acts_N: Tensor, x_BD: Tensor) -> Tensor:
        """ŷ [B, E] from the activations at the entries of a pattern, and the input."""
        decoded_BE = self.collectives.sum_latents(self.decode_sparse(code, acts_N))
        return self.assemble(decoded_BE, x_BD)

    def assemble(self, decoded_BE: Tensor, x_BD: Tensor) -> Tensor:
        """ŷ [B, E] from what all latents together decode to, and the input."""
        y_BE = decoded_BE + self.b_dec
        return y_BE if self.W_skip is None else y_BE + linear(x_BD, self.W_skip)

    def forward(self, x_BD: Tensor) -> Tensor:
        """ŷ [B, E]."""
        return self.reconstruct(self.encode(x_BD), x_BD)

    def extra_repr(self) -> str:
        """What `print(coder)` shows."""
        kind, form = self.config.kind, self.config.form
        return f"{kind} {form}, {self.d_in} → {self.config.num_latents} → {self.d_out}"


def _check(config: CoderConfig) -> None:
    validate(config, "coder.")
    if config.kind is not Kind.jumprelu and config.k > config.num_latents:
        raise UserError(f"coder.k={config.k}; expected 1 to coder.num_latents={config.num_latents}")
