"""How a measure is fed, and adds up what it is fed with."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.common.joint import joined, parts_of
from sae_dist.evaluate.config import EvaluationConfig
from sae_dist.evaluate.cosine import Similarity, compare_decoders
from sae_dist.evaluate.registry import Declared, Needs
from sae_dist.parallel import Mesh

Figures = dict[str, Any]


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
    def sites(self) -> list[str]:
        """What it reads and reconstructs, those side by side one by one."""
        return list(dict.fromkeys([*parts_of(self.site), *parts_of(self.target)]))

    def reads(self, acts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Input and target [..., D], [..., E] from the activations of each site; one if equal."""
        x = joined(acts, self.site)
        return x, x if self.target == self.site else joined(acts, self.target)

    @property
    def device(self) -> torch.device:
        """Where its sums are."""
        return self.coder.b_dec.device


class _Sums(Declared):
    """Sums in float64 where the subjects are; the first one's mesh adds them up.

    Attributes:
        subjects: whose codes it is given.
    """

    def __init__(self, *subjects: Subject) -> None:
        self.subjects, self.mesh = subjects, subjects[0].mesh
        self._all_sums: list[Tensor] = []

    def zeros(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Sums of nothing, to be changed in place; `conclude` finds those over all tokens there."""
        sums = torch.zeros(shape, dtype=dtype, device=self.subjects[0].device)
        self._all_sums.append(sums)
        return sums

    def whole(self, *sums_F: Tensor) -> list[Tensor]:
        """Sums [..., F] of the latents of all slices."""
        return [self.mesh.latent.all_gather(v, dim=v.dim() - 1) for v in sums_F]

    def result(self) -> Figures:
        """The figures, over all tokens and latents; called once, by all processes together."""
        for sums in self._all_sums:
            sums.copy_(self.mesh.data.all_reduce(sums))
        return self.conclude()

    @abstractmethod
    def conclude(self) -> Figures:
        """The figures, once the sums are those over all processes' tokens."""


class Measure(_Sums):
    """Sums over what passes one coder. Those that need the weights alone are not updated."""

    needs = Needs.CODES

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.subject = subject

    def update(self, seen: Any) -> None:
        """Add a batch of whole sequences: a `CoderOutput`, or an `LMBatch`."""


class TextMeasure(Measure):
    """What labelled texts say of one coder; `update` is called once a data set, with all of it."""

    needs = Needs.TEXTS
    sequences = "probes.data"
    settings: ClassVar[Sequence[str]] = (
        *("probes.train_texts", "probes.test_texts"),
        *("probes.context", "probes.seed"),
    )


@dataclass(frozen=True, eq=False)
class Pair:
    """A smaller and a larger coder of one site, over the latent axis of one mesh.

    Neither is ever gathered.
    """

    small: Subject
    large: Subject

    @property
    def tau(self) -> float:
        """From which cosine on two latents count as the same."""
        return self.large.config.pairs.tau

    @cached_property
    def similarity(self) -> Similarity:
        """How like each other their latents are; found once for all measures."""
        small, large = self.small.coder, self.large.coder
        rows = self.large.mesh.latent, large.latents.start
        are_signed = large.config.signed
        return compare_decoders(large.W_dec, small.W_dec, self.tau, *rows, are_signed=are_signed)


class PairMeasure(_Sums):
    """Sums over tokens as two coders see them.

    What it finds latent by latent, tensors at `by_latent` of its figures, is written to a file of
    its own.
    """

    needs = Needs.PAIR
    sequences = "pairs.sequences"

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair.small, pair.large)
        self.pair = pair

    @abstractmethod
    def update(self, small: Any, large: Any) -> None:
        """Add the same tokens, a `CoderOutput` of either coder."""


class LadderMeasure(Declared):
    """What the figures of all rungs say together."""

    needs = Needs.FIGURES

    @staticmethod
    @abstractmethod
    def of(rungs: dict[str, Figures]) -> Figures:
        """From each rung's figures by name; `rows` are what the report draws."""
