"""What a measure is: what it needs, what it declares, and how it is fed."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.common.declare import Figure, Plot, Topic
from sae_dist.evaluate.config import EvaluationConfig
from sae_dist.evaluate.cosine import Similarity, compare_decoders
from sae_dist.parallel import Mesh

Figures = dict[str, Any]


class Needs(StrEnum):
    """What a measure is given."""

    WEIGHTS = "weights"  # the coder alone
    CODES = "codes"  # a `CoderOutput` of each batch of held-out sequences
    LM = "lm"  # an `LMBatch` of each
    GRADIENTS = "gradients"  # likewise; fewer sequences, as each takes several passes
    PAIR = "pair"  # two coders' `CoderOutput`s
    FIGURES = "figures"  # what the others found, of all rungs
    FINETUNE = "finetune"  # a finetune of the language model, and prompts to it


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """A coder under evaluation, as this process of a mesh holds it.

    Attributes:
        coder: this process' slice of its latents, on raw activations.
        site, target: what it reads and what it reconstructs.
        num_positions: of each sequence.
    """

    coder: Coder
    mesh: Mesh
    num_positions: int
    name: str = ""
    site: str = ""
    target: str = ""
    config: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def sites(self) -> set[str]:
        """The one or two sites it needs."""
        return {self.site, self.target}

    @property
    def device(self) -> torch.device:
        """Where its sums are."""
        return self.coder.b_dec.device


class Declared(ABC):
    """What every measure says of itself; its name is that of its file.

    Attributes:
        version: raised when the same figures come to mean, or to be, something else.
        settings: keys of `EvaluationConfig` that the figures depend on, beside `sequences`.
        sequences: key of the number of held-out sequences it is given.
        group, caption, source: of the table in which its figures stand with others of that group
            and topic; without a group there is none.
        table_by: a key; there is a table for each of its values.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]
    version: ClassVar[int] = 1
    settings: ClassVar[Sequence[str]] = ()
    sequences: ClassVar[str] = "max_sequences"
    topic: ClassVar[Topic]
    group: ClassVar[str] = ""
    caption: ClassVar[str] = ""
    source: ClassVar[str] = ""
    table_by: ClassVar[str] = ""
    figures: ClassVar[Sequence[Figure]] = ()
    plots: ClassVar[Sequence[Plot]] = ()


class _Sums(Declared):
    """Sums in float64 where the subjects are; the first one's mesh adds them up.

    Attributes:
        subjects: whose codes it is given.
    """

    def __init__(self, *subjects: Subject) -> None:
        self.subjects = subjects
        self.mesh = subjects[0].mesh

    def zeros(self, *shape: int) -> Tensor:
        """Sums of nothing."""
        return torch.zeros(shape, dtype=torch.float64, device=self.subjects[0].device)

    def total(self, *sums: Tensor) -> list[Tensor]:
        """Sums over all tokens."""
        return [self.mesh.data.all_reduce(v) for v in sums]

    def whole(self, *sums_F: Tensor) -> list[Tensor]:
        """Sums over all tokens [..., F], of the latents of all slices."""
        return [self.mesh.latent.all_gather(v, dim=v.dim() - 1) for v in self.total(*sums_F)]

    @abstractmethod
    def result(self) -> Figures:
        """The figures, over all tokens and latents; called by all processes together."""


class Measure(_Sums):
    """Sums over what passes one coder. Those that need the weights alone are not updated."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.subject = subject

    def update(self, seen: Any) -> None:
        """Add a batch of whole sequences: a `CoderOutput`, or an `LMBatch`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A smaller and a larger coder of one site. Neither is ever gathered."""

    small: Subject
    large: Subject

    @property
    def mesh(self) -> Mesh:
        """Over whose latent axis both lie."""
        return self.large.mesh

    @property
    def tau(self) -> float:
        """From which cosine on two latents count as the same."""
        return self.large.config.pairs.tau

    @cached_property
    def similarity(self) -> Similarity:
        """How like each other their latents are; found once for all measures."""
        small, large = self.small.coder, self.large.coder
        return compare_decoders(
            large.W_dec, small.W_dec, self.tau, self.mesh.latent, large.latents.start
        )


class PairMeasure(_Sums):
    """Sums over tokens as two coders see them."""

    needs = Needs.PAIR
    sequences = "pairs.sequences"

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair.small, pair.large)
        self.pair = pair

    @abstractmethod
    def update(self, small: Any, large: Any) -> None:
        """Add the same tokens, a `CoderOutput` of either coder."""

    def by_latent(self) -> dict[str, Tensor]:
        """What is written latent by latent, to a file beside the figures; called likewise."""
        return {}


class LadderMeasure(Declared):
    """What the figures of all rungs say together."""

    needs = Needs.FIGURES

    @staticmethod
    @abstractmethod
    def of(rungs: dict[str, Figures]) -> Figures:
        """From each rung's figures by name; `rows` are what the report draws."""
