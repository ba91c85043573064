"""The sparse coder: encoder → selection → decoder."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sae_dist.coders.collectives import Collectives, SingleProcess
from sae_dist.coders.config import CoderConfig, Form, Inputs
from sae_dist.common.errors import UserError
from sae_dist.common.settings import validate
from sae_dist.kernels import Encoder, GradientForm, SparsePattern, decode
from sae_dist.kernels.host import Room


class Coder(nn.Module):
    """A sparse autoencoder, crosscoder, transcoder or skip transcoder, or a slice of its latents.

        z = W_enc (x - b_dec) + b_enc        (b_dec is subtracted only with `pre_bias`)
        f = select(z)                        as its kind does, see `coders/kinds/`
        ŷ = W_decᵀ f + b_dec + W_skip x      (W_skip only in a skip transcoder)

    A crosscoder's x are several sites side by side, each divided by its own scale in training, and
    ŷ are the same: `W_enc` and `W_dec` have their blocks of columns side by side.

    Rows are latents: `W_enc [F, D]`, `W_dec [F, E]`, `b_enc [F]`, `b_dec [E]`, `W_skip [E, D]`, and
    what its kind adds: `threshold [F]` of a JumpReLU. While `training`, a BatchTopK selects over
    the global batch; otherwise by its one `threshold []`.

    Args:
        config: kind, form and width.
        d_in: D, the width of the input.
        d_out: E, the width of the target; an autoencoder has E = D.
        latents: which latents this object holds; all by default.
        pre_bias: whether b_dec is subtracted from the input; by default in autoencoders and
            crosscoders.
        dtype, device: of the parameters, which are left uninitialised (see `initialise`).

    Attributes:
        is_exact: whether selection is exact to the weights' dtype, or to bfloat16 products.
        gradients: the form of W_enc's and W_dec's.
        hints: what a kind keeps from step to step to save time; it changes no result.
        waits: whether a search is to wait for the number of entries it finds, where else it has a
            `room` for them.

    Raises:
        UserError: a setting out of its range, or several that do not go together.
    """

    W_skip: nn.Parameter | None

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
        validate(config, "coder.")
        config.check()
        self.config, self.d_in, self.d_out = config, d_in, d_out
        self.latents = latents or range(config.num_latents)
        if d_in % config.num_sites or d_out % config.num_sites:
            raise UserError(
                f"found widths {d_in} and {d_out} of coder.num_sites={config.num_sites}; expected "
                "multiples of it; leave it to training, which knows the sites"
            )
        self.pre_bias = config.form.reconstructs_input if pre_bias is None else pre_bias
        self._make_weights(dtype, device)
        self.collectives: Collectives = SingleProcess()
        self.is_exact, self.gradients = True, GradientForm()
        self.hints: dict[str, Tensor] = {}
        self.waits, self._rooms = False, dict[str, Room]()
        self._encoder: Encoder | None = None
        self._encoder_is_of: tuple[int, int] | None = None

    def _make_weights(self, dtype: torch.dtype, device: torch.device | str) -> None:
        config, d_in, d_out = self.config, self.d_in, self.d_out

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=dtype, device=device))

        num_held = len(self.latents)
        self.W_enc, self.b_enc = parameter(num_held, d_in), parameter(num_held)
        self.W_dec, self.b_dec = parameter(num_held, d_out), parameter(d_out)
        is_skip = config.form is Form.skip_transcoder
        self.register_parameter("W_skip", parameter(d_out, d_in) if is_skip else None)
        for name, spec in config.tensors().items():
            shape = (num_held,) if spec.has_latents else ()
            if spec.is_trained:
                self.register_parameter(name, parameter(*shape))
            else:
                zeros = torch.zeros(shape, dtype=torch.float64, device=device)
                self.register_buffer(name, zeros)
        if config.inputs is Inputs.whitened:
            self.register_buffer("input_mean", torch.zeros(d_in, dtype=dtype, device=device))
            for name in ("whitening", "colouring"):
                self.register_buffer(name, torch.eye(d_in, dtype=dtype, device=device))

    @property
    def latent_tensors(self) -> frozenset[str]:
        """The names of the weights that have a row a latent; others are equal in every slice."""
        own = (name for name, spec in self.config.tensors().items() if spec.has_latents)
        return frozenset(("W_enc", "b_enc", "W_dec", *own))

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """z [B, F], before selection."""
        return linear(self.centred(self.prepared(x_BD)), self.W_enc, self.b_enc)

    def prepared(self, x_BD: Tensor) -> Tensor:
        """What the coder sees of its input [B, D] and is trained to reconstruct; see `Inputs`."""
        if self.config.inputs is Inputs.unit:
            return x_BD / _norms(x_BD)
        if self.config.inputs is Inputs.whitened:
            return (x_BD - self.get_buffer("input_mean")) @ self.get_buffer("whitening")
        return x_BD

    def restored(self, y_BE: Tensor, x_BD: Tensor) -> Tensor:
        """ŷ [B, E] from the reconstruction of what it sees of the input."""
        if self.config.inputs is Inputs.unit:
            return y_BE * _norms(x_BD)
        if self.config.inputs is Inputs.whitened:
            return y_BE @ self.get_buffer("colouring") + self.get_buffer("input_mean")
        return y_BE

    def centred(self, x_BD: Tensor) -> Tensor:
        """What the encoder reads [B, D]: x - b_dec with `pre_bias`, else x itself."""
        return x_BD - self.collectives.to_latents(self.b_dec) if self.pre_bias else x_BD

    def centring(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder reads without gradient [B, D], and what was subtracted, with it [D]."""
        if not self.pre_bias:
            return x_BD, torch.zeros_like(x_BD[0])
        centre_D = self.collectives.to_latents(self.b_dec)
        return x_BD - centre_D.detach(), centre_D

    def encoder(self) -> Encoder:
        """The encoder as the search for its entries reads it; made anew when W_enc has changed."""
        if self._encoder is None or self._encoder_is_of != self._W_enc_state():
            self._encoder = Encoder.of(self.W_enc, self.b_enc, is_exact=self.is_exact)
            self.encoder_is_current()
        return self._encoder

    def encoder_is_current(self) -> None:
        """Say that `encoder` was brought up to date together with W_enc."""
        self._encoder_is_of = self._W_enc_state()

    def room(self, search: str) -> Room:
        """What is known of how many entries a kind's search of some name finds."""
        return Room() if self.waits else self._rooms.setdefault(search, Room())

    @property
    def has_rooms(self) -> bool:
        """Whether a search that does not wait may find more than it has room for."""
        return bool(self._rooms) and not self.waits

    def _W_enc_state(self) -> tuple[int, int]:
        return self.W_enc.data_ptr(), self.W_enc._version

    def select(self, z_BF: Tensor) -> Tensor:
        """f [B, F]: the pre-activations of the latents that fire, 0 elsewhere.

        In training, BatchTopK's batch is the global one: every part must have as many rows.
        """
        return self.config.select(self, z_BF)

    def encode(self, x_BD: Tensor) -> Tensor:
        """f [B, F], the latents' activations."""
        return self.select(self.pre_activations(x_BD))

    def decode(self, acts_BF: Tensor) -> Tensor:
        """W_decᵀ f + b_dec [B, E]; a skip transcoder adds W_skip x to it in `forward`."""
        return self.collectives.sum_latents(acts_BF @ self.W_dec) + self.b_dec

    def reconstruct(self, acts_BF: Tensor, x_BD: Tensor) -> Tensor:
        """ŷ [B, E] from the latents' activations and the input."""
        decoded_BE = self.collectives.sum_latents(acts_BF @ self.W_dec)
        return self.restored(self.assemble(decoded_BE, x_BD), x_BD)

    @torch.no_grad()
    def encode_sparse(self, x_BD: Tensor) -> tuple[SparsePattern, Tensor]:
        """What `encode` gives at inference, without gradient: the pattern and the values [N]."""
        self.waits = True
        try:
            code, acts_N = self.config.infer(self, self.centring(self.prepared(x_BD))[0])
        finally:
            self.waits = False
        return code.without_room(acts_N)

    def decode_sparse(self, code: SparsePattern, acts_N: Tensor) -> Tensor:
        """What this slice of the latents decodes to [B, E], from the entries of a pattern."""
        return decode(acts_N, self.W_dec, code, self.gradients)

    def reconstruct_sparse(self, code: SparsePattern, acts_N: Tensor, x_BD: Tensor) -> Tensor:
        """ŷ [B, E] from the activations at the entries of a pattern, and the input."""
        decoded_BE = self.collectives.sum_latents(self.decode_sparse(code, acts_N))
        return self.restored(self.assemble(decoded_BE, x_BD), x_BD)

    def assemble(self, decoded_BE: Tensor, x_BD: Tensor) -> Tensor:
        """What it reconstructs of what it sees [B, E], from what all latents together decode to."""
        return self.with_skip(decoded_BE, x_BD) + self.b_dec

    def with_skip(self, decoded_BE: Tensor, x_BD: Tensor) -> Tensor:
        """The same without b_dec [B, E]."""
        return decoded_BE if self.W_skip is None else decoded_BE + linear(x_BD, self.W_skip)

    def site_norms(self) -> Tensor:
        """The norms of the decoder's rows at each site [F, L]; of one site the rows' norms."""
        return site_norms(self.W_dec.detach(), self.config.num_sites)

    def row_norms(self) -> Tensor:
        """‖d‖ of each latent, over several sites the sum of its norms there [F]; without gradient
        where they are kept at 1.
        """
        norm_F = site_norms(self.W_dec, self.config.num_sites).sum(1)
        return norm_F.detach() if self.config.unit_norm_decoder else norm_F

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.b_dec.dtype

    def own_tensors(self) -> list[Tensor]:
        """The weights that its kind adds, or the buffers; see `CoderConfig.tensors`."""
        weights = self.state_dict()
        return [weights[name] for name in self.config.tensors()]

    def after_step(self, least: Callable[[], Tensor], num_updates: Tensor) -> None:
        """Let the kind follow a step; see `CoderConfig.after_step`."""
        self.config.after_step(self, least, num_updates)

    def logged(self) -> dict[str, Tensor]:
        """What the kind logs; see `CoderConfig.logged`."""
        return self.config.logged(self)

    def forward(self, x_BD: Tensor) -> Tensor:
        """ŷ [B, E]."""
        return self.reconstruct(self.encode(x_BD), x_BD)

    def extra_repr(self) -> str:
        """What `print(coder)` shows."""
        config = self.config
        return (
            f"{config.kind} {config.form}, {self.d_in} → {self.config.num_latents} → {self.d_out}"
        )


def site_norms(W_FE: Tensor, num_sites: int) -> Tensor:
    """‖d_j^l‖ [F, L] of rows in which L sites lie side by side."""
    return torch.linalg.vector_norm(W_FE.unflatten(1, (num_sites, -1)), dim=2)


def _norms(x_BD: Tensor) -> Tensor:
    norm_B1 = torch.linalg.vector_norm(x_BD, dim=1, keepdim=True)
    return norm_B1.clamp_min(torch.finfo(x_BD.dtype).tiny)
