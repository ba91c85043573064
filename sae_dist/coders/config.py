"""What a coder is: inert data, read by everyone."""

from dataclasses import dataclass
from enum import StrEnum

from sae_dist.common.settings import setting


class Kind(StrEnum):
    """How latents are selected."""

    jumprelu = "jumprelu"
    topk = "topk"
    batchtopk = "batchtopk"


class Form(StrEnum):
    """What is reconstructed from what."""

    autoencoder = "autoencoder"
    transcoder = "transcoder"
    skip_transcoder = "skip_transcoder"


@dataclass(kw_only=True, slots=True)
class CoderConfig:
    """One coder and the loss it is trained with; defaults and sources stand in `conf/coder/`.

    Encoder rows begin with the norm `initial_encoder_norm`. `k` is read by topk and batchtopk,
    `bandwidth`, `initial_threshold`, `sparsity_coefficient` (λ) and `target_l0` by jumprelu, which
    then aims at that L0 instead of paying λ for each active latent. `aux_coefficient` weighs AuxK
    over the `aux_k` strongest latents that have been silent for `dead_after_tokens`; `multi_topk`
    adds FVU(4k)/8.
    """

    kind: Kind = Kind.jumprelu
    form: Form = Form.autoencoder
    num_latents: int = setting(16384, min=1, binary=True)
    unit_norm_decoder: bool = True
    initial_encoder_norm: float = setting(1.0, above=0)
    k: int = setting(32, min=1)
    aux_k: int = setting(512, min=1)
    aux_coefficient: float = setting(0.0, min=0)
    multi_topk: bool = False
    dead_after_tokens: int = setting(10_000_000, min=1)
    bandwidth: float = setting(0.001, above=0)
    initial_threshold: float = setting(0.001, min=0)
    sparsity_coefficient: float = setting(0.0006, min=0)
    target_l0: float | None = setting(None, above=0)

    @property
    def unread(self) -> tuple[str, ...]:
        """The fields that change nothing of such a coder or its training."""
        if self.kind is Kind.jumprelu:
            return ("k", "aux_k", "aux_coefficient", "multi_topk")
        of_jumprelu = ("bandwidth", "initial_threshold", "sparsity_coefficient", "target_l0")
        return of_jumprelu if self.uses_aux_k else (*of_jumprelu, "aux_k")

    @property
    def uses_aux_k(self) -> bool:
        """Whether dead latents, where there are any, are trained on the error."""
        return self.kind is not Kind.jumprelu and self.aux_coefficient > 0

    @property
    def uses_multi_topk(self) -> bool:
        """Whether there is a second pass, with 4k instead of k."""
        return self.kind is not Kind.jumprelu and self.multi_topk
