"""What can be set of a coder, and what is asked of its kind.

A kind is one file in `coders/kinds/` with one subclass of `CoderConfig`: its settings are the
fields, and all that it does differently from other kinds are the methods. Whoever trains, measures,
plans or exports asks these, and knows no kind by name. `docs/guides/your_own_kind.md` makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, ClassVar, Self

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import derive
from sae_dist.common.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.coders.coder import Coder
    from sae_dist.coders.losses import Totals
    from sae_dist.coders.messages import Message, StepShape
    from sae_dist.coders.passes import DeadLatents
    from sae_dist.kernels import DensePass, SparsePattern

    Entries = tuple[SparsePattern, Tensor]
    Rows = Mapping[str, Tensor]
    Sums = Callable[[Tensor, Tensor], dict[str, Tensor]]


class Form(StrEnum):
    """What is reconstructed from what."""

    autoencoder = "autoencoder"
    transcoder = "transcoder"
    skip_transcoder = "skip_transcoder"
    crosscoder = "crosscoder"
    cross_layer_transcoder = "cross_layer_transcoder"

    @property
    def reconstructs_input(self) -> bool:
        """Whether the target is what is read."""
        return self in (Form.autoencoder, Form.crosscoder)

    @property
    def scales_target(self) -> bool:
        """Whether the target is divided by a scale of its own in training."""
        return not self.reconstructs_input

    @property
    def spans_sites(self) -> bool:
        """Whether what it reads are several sites side by side."""
        return self in (Form.crosscoder, Form.cross_layer_transcoder)


class FiresBy(StrEnum):
    """What decides at inference whether a latent fires: what formats of others can or cannot hold.

    `rank`: the k largest of a row. `threshold`: one for all latents, `thresholds`: one a latent.
    """

    rank = "rank"
    threshold = "threshold"
    thresholds = "thresholds"
    other = "other"


class Inputs(StrEnum):
    """What an autoencoder sees of an activation, and is trained to reconstruct.

    `plain`: the activation. `whitened`: every direction as wide as any other, which is folded into
    the weights in the end. `unit`: each token's with norm 1; its norm is given back to what it
    reconstructs.
    """

    plain = "plain"
    whitened = "whitened"
    unit = "unit"


class LevelWeights(StrEnum):
    """What a level's error counts in the loss; all together 1.

    `equal`: each as much, `by_size`: as the latents that it adds.
    """

    equal = "equal"
    by_size = "by_size"

    def of(self, shares: Sequence[float]) -> list[float]:
        """Each level's weight, of levels that end at some shares of the latents and at all."""
        ends = [0.0, *shares, 1.0]
        if self is LevelWeights.equal:
            return [1 / (len(ends) - 1)] * (len(ends) - 1)
        return [end - start for start, end in pairwise(ends)]


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

    With `levels` it is a Matryoshka coder (Bussmann et al. 2025): each of these shares of the
    latents, each holding those before it, reconstructs by itself, and all of them do; the loss has
    the mean of their errors by `level_weights`. Of `random_levels` all but the last are drawn anew
    each step.

    `num_sites` lie side by side in what a crosscoder or a cross-layer transcoder reads, and
    training sets it. A norm of a crosscoder's decoder rows is the sum of their norms at each site
    (Lindsey et al. 2024). Of a cross-layer transcoder `num_latents` are those of all layers.
    """

    title: ClassVar[str] = ""
    """What plots and tables call the kind."""
    fires_by: ClassVar[FiresBy] = FiresBy.other
    signed: ClassVar[bool] = False
    """Whether activations may be negative."""
    begins_at_data: ClassVar[bool] = True
    """Whether an autoencoder's b_dec begins at a sample's geometric median, not its mean, and a
    transcoder as a constant.
    """
    nesting: ClassVar[str] = "matryoshka"
    """What names say of a coder with levels."""

    kind: str = field(default="", init=False)
    form: Form = Form.autoencoder
    num_latents: int = setting(16384, min=1, binary=True)
    num_sites: int = setting(1, min=1)
    unit_norm_decoder: bool = True
    initial_encoder_norm: float = setting(1.0, above=0)
    dead_after_tokens: int = setting(10_000_000, min=1)
    levels: list[float] | None = setting(None, above=0, below=1)
    random_levels: int | None = setting(None, min=2)
    level_weights: LevelWeights = LevelWeights.equal
    inputs: Inputs = Inputs.plain

    # What it is.

    def check(self) -> None:
        """Raise UserError for settings that do not go together."""
        if self.inputs is not Inputs.plain and self.form is not Form.autoencoder:
            raise UserError(
                f"coder.inputs={self.inputs} of a {self.form}; expected plain, as of all but "
                "autoencoders: leave it out"
            )
        if self.levels is not None and self.random_levels is not None:
            raise UserError(
                f"coder.levels={self.levels} and coder.random_levels={self.random_levels}; "
                "expected one of them: leave the other out"
            )
        if self.levels is not None and self.levels != sorted(self.levels):
            raise UserError(f"coder.levels={self.levels}; expected shares that rise; sort them")

    @property
    def num_layers(self) -> int:
        """How many layers find latents of their own; 1 of all but a cross-layer transcoder."""
        return self.num_sites if self.form is Form.cross_layer_transcoder else 1

    @property
    def num_levels(self) -> int:
        """How many reconstructions a step makes, each of more latents; 1 of a plain coder."""
        return self.random_levels or len(self.levels or ()) + 1

    def at_step(self, step: int) -> Self:
        """What a step (from 0) of training takes it for; random levels are drawn.

        A share is u², u uniform in [0, 1): small ones are likelier (as in `noanabeshima/
        matryoshka-saes`).
        """
        if self.random_levels is None:
            return self
        draw = Random(derive(0, "levels", step)).random
        levels = sorted(draw() ** 2 for _ in range(self.random_levels - 1))
        return replace(self, levels=levels, random_levels=None)

    def tensors(self) -> dict[str, TensorSpec]:
        """The weights that it has beside every coder's, by name."""
        return {}

    def of_layer(self, num_layers: int) -> Self:
        """What a layer of a cross-layer transcoder is told, of so many: k, say, is a layer's.

        Raises:
            UserError: it cannot be one's.
        """
        if self.num_levels > 1:
            raise UserError(
                f"a cross-layer transcoder with {self.num_levels} levels; expected none: leave "
                "coder.levels and coder.random_levels out"
            )
        latents = self.num_latents // num_layers
        return replace(self, form=Form.transcoder, num_sites=1, num_latents=latents)

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

    def unfinished(self, num_steps: int) -> Iterator[tuple[str, str]]:
        """Settings that a run of so many steps is too short for, and how far it gets."""
        return iter(())

    # What fires.

    def find(self, coder: Coder, x_BD: Tensor) -> Entries | None:
        """The entries that a training step can depend on, with their pre-activations [N].

        None where these are so many that `dense_pass` is faster. Without gradient.

        Args:
            coder: the whole, or a slice: `coder.collectives` reaches the rest.
            x_BD: what the encoder multiplies: centred where the coder has a `pre_bias`.
        """
        raise NotImplementedError

    def activate(
        self, coder: Coder, code: SparsePattern, z_N: Tensor, x_BD: Tensor
    ) -> tuple[Tensor, Sums]:
        """What entries that were found give [N], differentiable in their pre-activations; and as
        `further_sums` how many are `active` (0-dim), and what else its loss needs. By default all
        that were found fire.

        Args:
            coder, code: whose entries these are.
            z_N: -∞ where there is none.
            x_BD: the coder's input.
        """
        return z_N, lambda y_BE, error_BE: {"active": code.num_entries()}

    def level_of_entries(self, coder: Coder, code: SparsePattern, acts_N: Tensor) -> Tensor:
        """The level of each entry [N], of several."""
        from sae_dist.coders.levels import level_of_latents  # only here, as that reads torch

        level_F = level_of_latents(coder.latents, self.levels or (), code.latents_N.device)
        return level_F[code.index_N]

    def dense_pass(self, rows: Rows, x_BD: Tensor, centre_D: Tensor) -> DensePass:
        """A training step's pass while `find` gives None.

        Args:
            rows: what has a row a latent, of all latents here or of a level's, by name.
            x_BD, centre_D: rows, and what was subtracted from them.
        """
        raise NotImplementedError

    def infer(self, coder: Coder, x_BD: Tensor) -> Entries:
        """What fires at inference, with its activations [N]; `x_BD` as for `find`."""
        found = self.find(coder, x_BD)
        assert found is not None
        return found

    def select(self, coder: Coder, z_BF: Tensor) -> Tensor:
        """f [B, F] of pre-activations, 0 where nothing fires: what the others do, densely."""
        raise NotImplementedError

    def plain(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights as a coder of others has them that fires by `fires_by`, by our names."""
        return tensors

    # How it is trained.

    def initialise(self, coder: Coder, x_ND: Tensor) -> None:
        """Give its own weights their first values, after all others; `x_ND` is a sample."""

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


def layers_of(config: CoderConfig, d_in: int, d_out: int) -> list[tuple[CoderConfig, int, int]]:
    """The transcoders that a cross-layer one is made of, each with its widths; others are one."""
    if config.form is not Form.cross_layer_transcoder:
        return [(config, d_in, d_out)]
    L = config.num_sites
    one = config.of_layer(L)
    return [(one, d_in // L, (L - layer) * d_out // L) for layer in range(L)]
