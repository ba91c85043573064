"""What can be set of a coder, and what is asked of its kind.

A kind is one file in `coders/kinds/` with one subclass of `CoderConfig`: its settings are the
fields, and all that it does differently from other kinds are the methods. Whoever trains, measures,
plans or exports asks these, and knows no kind by name. `docs/guides/your_own_kind.md` makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from sae_dist.common.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.coders.coder import Coder
    from sae_dist.coders.losses import Totals
    from sae_dist.coders.messages import Message, StepShape
    from sae_dist.coders.passes import DeadLatents
    from sae_dist.kernels import DensePass, SparsePattern

    Entries = tuple[SparsePattern, Tensor]
    Sums = Callable[[Tensor, Tensor], dict[str, Tensor]]


class Form(StrEnum):
    """What is reconstructed from what."""

    autoencoder = "autoencoder"
    transcoder = "transcoder"
    skip_transcoder = "skip_transcoder"


class FiresBy(StrEnum):
    """What decides at inference whether a latent fires: what formats of others can or cannot hold.

    `rank`: the k largest of a row. `threshold`: one for all latents, `thresholds`: one a latent.
    """

    rank = "rank"
    threshold = "threshold"
    thresholds = "thresholds"
    other = "other"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """A tensor that a kind adds to a coder's weights.

    Attributes:
        has_latents: it has a value a latent [F]; else it is one number, equal in every slice.
        is_trained: it is a parameter; else a buffer, float64 and 0 at first.
        scales: it is in units of activations, which differ between training and the LM by C.
    """

    has_latents: bool
    is_trained: bool
    scales: bool = True

    def size(self, num_latents: int) -> int:
        """How many numbers it has, of a slice of so many latents."""
        return num_latents if self.has_latents else 1


@dataclass(kw_only=True)
class CoderConfig:
    """One coder and the loss it is trained with; recipes and their sources stand in `conf/coder/`.

    `kind` is chosen with `coder=…`. Encoder rows begin with the norm `initial_encoder_norm`.
    Latents that have been silent for `dead_after_tokens` are dead.
    """

    title: ClassVar[str] = ""
    """What plots and tables call the kind."""
    fires_by: ClassVar[FiresBy] = FiresBy.other
    signed: ClassVar[bool] = False
    """Whether activations may be negative."""
    begins_at_data: ClassVar[bool] = True
    """Whether b_dec begins at a sample's middle instead of 0."""

    kind: str = field(default="", init=False)
    form: Form = Form.autoencoder
    num_latents: int = setting(16384, min=1, binary=True)
    unit_norm_decoder: bool = True
    initial_encoder_norm: float = setting(1.0, above=0)
    dead_after_tokens: int = setting(10_000_000, min=1)

    # What it is.

    def check(self) -> None:
        """Raise UserError for settings that do not go together."""

    def tensors(self) -> dict[str, TensorSpec]:
        """The weights that it has beside every coder's, by name."""
        return {}

    @property
    def label(self) -> str:
        """How sparse it is, in a rung's name: `k32`."""
        return ""

    @property
    def aim(self) -> dict[str, float]:
        """What it was told of how many latents fire: `k` or `target_l0`, for tables."""
        return {}

    @property
    def unread(self) -> tuple[str, ...]:
        """The settings that change nothing as the others are."""
        return ()

    # What fires.

    def find(self, coder: Coder, x_BD: Tensor) -> Entries | None:
        """The entries that a training step can depend on, with their pre-activations [N].

        None where these are so many that `dense_pass` is faster. Without gradient.

        Args:
            coder: the whole, or a slice: `coder.collectives` reaches the rest.
            x_BD: what the encoder multiplies: centred where the coder has a `pre_bias`.
        """
        raise NotImplementedError

    def activate(self, coder: Coder, code: SparsePattern, z_N: Tensor) -> tuple[Tensor, Tensor]:
        """What entries that were found give [N], and how many are active (0-dim); differentiable in
        their pre-activations. By default all that were found fire.
        """
        return z_N, code.num_entries()

    def dense_pass(self, coder: Coder, x_BD: Tensor, centre_D: Tensor) -> DensePass:
        """A training step's pass while `find` gives None; `centre_D` was subtracted from x."""
        raise NotImplementedError

    def infer(self, coder: Coder, x_BD: Tensor) -> Entries:
        """What fires at inference, with its activations [N]; `x_BD` as for `find`."""
        found = self.find(coder, x_BD)
        assert found is not None
        return found

    def select(self, coder: Coder, z_BF: Tensor) -> Tensor:
        """f [B, F] of pre-activations, 0 where nothing fires: what the others do, densely."""
        raise NotImplementedError

    # How it is trained.

    def initialise(self, coder: Coder) -> None:
        """Give its own weights their first values."""

    @property
    def penalty(self) -> float | None:
        """λ after its warmup, None where sparsity has no price."""
        return None

    @property
    def num_aux(self) -> int:
        """How many dead latents of a row are trained on its error (AuxK); 0 for none."""
        return 0

    def has_further_passes(self, *, has_dead: bool) -> bool:
        """Whether `further_sums` begins a pass, with dead latents or without."""
        return type(self).further_sums is not CoderConfig.further_sums

    def further_sums(self, coder: Coder, x_BD: Tensor, dead: DeadLatents) -> Sums:
        """Begin passes beside the first, and say what is summed of them.

        Returns:
            from y and the first pass' error y - ŷ [B, E], which is not differentiated, to sums over
            the rows here, in float64.
        """
        return lambda y_BE, error_BE: {}

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether a step asks the same of a GPU whatever the batch, and nothing of the host.

        Then it can be recorded and replayed; λ must not matter.
        """
        return False

    def loss_parts(
        self, totals: Totals, sparsity_coefficient: float, dead: DeadLatents
    ) -> dict[str, Tensor]:
        """What is minimised, in parts by name, from sums over the global batch."""
        raise NotImplementedError

    def after_step(self, coder: Coder, least: Callable[[], Tensor], num_updates: Tensor) -> None:
        """Mend or follow its own weights after an update, without gradient.

        What it does to them after a step that was skipped is undone.

        Args:
            coder: changed in place.
            least: gives the smallest activation's size here, infinite if nothing fired.
            num_updates: steps that changed the weights, this one among them (0-dim).
        """

    def logged(self, coder: Coder) -> dict[str, Tensor]:
        """Numbers on the device, logged beside every kind's; called by all processes together."""
        return {}

    # What it costs.

    @property
    def expected_l0(self) -> float:
        """Latents that fire a row, as far as it is known before."""
        raise NotImplementedError

    @property
    def work(self) -> tuple[int, float]:
        """Of a step: how often all of x W_encᵀ is computed, and how many entries fire a row."""
        return 1, self.expected_l0

    def messages(self, step: StepShape) -> Iterator[Message]:
        """What one selection hands to collectives."""
        return iter(())

    def further_messages(self, step: StepShape, *, has_dead: bool) -> Iterator[Message]:
        """The same of the passes that `further_sums` begins."""
        return iter(())

    def num_further_sums(self, step: StepShape, *, has_dead: bool) -> int:
        """How many numbers `further_sums` gives."""
        return 0

    def messages_after_step(self, step: StepShape) -> Iterator[Message]:
        """The same of `after_step`."""
        return iter(())
